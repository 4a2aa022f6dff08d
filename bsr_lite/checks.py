"""Checkers of the notebooks' exercises: each calls the reader's function on cases with known
answers and prints a verdict with a hint. A stub that returns None is "not attempted yet", never an error.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

from .losses import bt_loss


def _check(name: str, function: Callable, cases: list[tuple], hint: str) -> bool:
    """True when function(*arguments) is close to the expected value in every (arguments, expected)
    case; otherwise prints the first case that fails, and the hint."""
    for arguments, expected in cases:
        got = function(*arguments)
        if got is None:
            print(f"{name}: not attempted yet")
            return False
        expected = torch.as_tensor(expected, dtype=torch.float64)
        got = torch.as_tensor(got).detach().to(torch.float64)
        if got.shape != expected.shape:
            print(f"{name}: not yet. Expected the shape {tuple(expected.shape)}, got "
                  f"{tuple(got.shape)}. Hint: {hint}")
            return False
        if not torch.allclose(got, expected, rtol=1e-4, atol=1e-6):
            print(f"{name}: not yet. For {_short(arguments)} expected {_short(expected)}, got "
                  f"{_short(got)}. Hint: {hint}")
            return False
    print(f"{name}: correct")
    return True


def _short(value) -> str:
    if isinstance(value, tuple):
        return ", ".join(_short(v) for v in value)
    if torch.is_tensor(value):
        value = [round(v, 4) for v in value.flatten().tolist()] if value.ndim else value.item()
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) < 80 else text[:77] + "..."


def _rewards(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- 01_bradley_terry ----------------------------------------------------------------------------

def check_margin_for(function: Callable) -> bool:
    """Exercise 1 of notebook 01: the margin at which the better answer wins with probability p."""
    cases = [((p,), math.log(p / (1 - p))) for p in (0.5, 0.75, 0.95, 0.999)]
    return _check("margin_for", function, cases, "solve p = 1 / (1 + e^-m) for m: the log of the "
                  "odds p / (1 - p)")


def check_soft_label_gradient(function: Callable) -> bool:
    """Exercise 2 of notebook 01: derivative of the soft-label BT loss in the margin."""
    cases = []
    for margin, q in ((0.0, 0.5), (1.5, 1.0), (-2.0, 0.0), (0.7, 0.8)):
        m = torch.tensor(margin, dtype=torch.float64, requires_grad=True)
        (-q * F.logsigmoid(m) - (1 - q) * F.logsigmoid(-m)).backward()
        cases.append(((m.detach(), q), m.grad))
    return _check("soft_label_gradient", function, cases, "the first term gives -q sigma(-m), the "
                  "second +(1 - q) sigma(m); with sigma(-m) = 1 - sigma(m) it simplifies")


def check_invisible_directions(function: Callable) -> bool:
    """Exercise 3 of notebook 01: the dimension of the null space of a comparison graph."""
    cases = [((3, [(0, 1), (1, 2)]), 1), ((4, [(0, 1), (2, 3)]), 2), ((3, []), 3),
             ((6, [(0, 1), (1, 2), (2, 0), (4, 5), (5, 4)]), 3)]
    return _check("invisible_directions", function, cases, "one for every connected component of "
                  "the graph; or n minus the rank of the design matrix")


def check_head_gradient(function: Callable) -> bool:
    """Exercise 4 of notebook 01: Eq. 22 averaged over a batch."""
    chosen, rejected, head = _rewards(0, 6, 5), _rewards(1, 6, 5), _rewards(2, 5)
    w = head.clone().requires_grad_()
    bt_loss(chosen @ w, rejected @ w).backward()
    return _check("head_gradient", function, [((chosen, rejected, head), w.grad)],
                  "minus sigma(-margin) times (h_w - h_l), averaged over the B pairs; the result "
                  "has the head's shape")
