"""Checkers of the exercises of notebooks 05 on, as in `checks`."""

from collections.abc import Callable

import numpy as np
import torch

from .checks import judge, numbers
from .metrics import best_of_n, two_way_interval

# ---- 05_overoptimization -------------------------------------------------------------------------

def check_prompts_needed(function: Callable) -> bool:
    """Exercise 1 of notebook 05: prompts for a paired difference to be seen with 80% power."""
    cases = [((0.4, 0.01), 12544), ((0.4, 0.1), 126), ((0.0, 0.01), 0), ((1.0, 2.8), 1)]
    return judge("prompts_needed", function, cases, "2.8 standard errors, sd / sqrt(n), must fit "
                 "into the difference; round up")


def check_two_way_error(function: Callable) -> bool:
    """Exercise 2 of notebook 05: the standard error of a mean over seeds and prompts."""
    cases = [((x,), two_way_interval(x.numpy())[3]) for x in (
        numbers(0, 4, 30) + 3 * numbers(1, 4, 1), numbers(2, 3, 8) + 2 * numbers(3, 1, 8))]
    return judge("two_way_error", function, cases, "mean squares: of seeds P times the variance of "
                 "the row means, of prompts S times that of the column means, of the rest what "
                 "both leave, over (S-1)(P-1); (seeds + prompts - rest) / (S P), then the root")


def check_best_of_n_without_ties(function: Callable) -> bool:
    """Exercise 3 of notebook 05: the unbiased best-of-n estimate from N ranked samples."""
    proxy, gold = numbers(0, 12), numbers(1, 12)
    cases = [((proxy, gold, n), best_of_n(proxy.numpy(), gold.numpy(), n).item())
             for n in (1, 4, 12)]
    return judge("best_of_n_without_ties", function, cases, "sort gold by proxy, ascending; the "
                 "sample with i below it wins C(i, n-1) of the C(N, n) draws")


def check_best_of_n_divergence(function: Callable) -> bool:
    """Exercise 4 of notebook 05: the exact KL of best-of-n on a few answers of known rank."""
    cases = []
    for p, n in (([0.5, 0.5], 2), ([0.2, 0.5, 0.3], 4), ([0.2, 0.5, 0.3], 1), ([1.0], 8)):
        p = torch.tensor(p, dtype=torch.float64)
        edges = np.concatenate([[0.0], p.cumsum(0).numpy()]) ** n
        picked = np.diff(edges)
        cases.append(((p, n), float((picked * np.log(picked / p.numpy())).sum())))
    return judge("best_of_n_divergence", function, cases, "the best of n is at most answer k with "
                 "probability F_k^n: differences of that, then sum q log(q / p)")
