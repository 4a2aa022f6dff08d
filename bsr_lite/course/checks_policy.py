"""Checkers of the exercises of notebooks 04 and 06 to 10, as in `checks`."""

from collections.abc import Callable

import torch

from ..metrics import seed_interval
from ..studies.statistics import best_of_n
from .checks import judge, numbers

# ---- 04_when_bsr_helps ---------------------------------------------------------------------------

def check_tax_over_evidence(function: Callable) -> bool:
    """Exercise 1 of notebook 04: tax over evidence along one direction, over that along another.

    Hint: the evidence is 2 within^2, for two answers differ by two independent parts; the tax is
    across^2 + within^2 / 2 + G mean^2"""
    cases = [(((0.5, 1.0, 0.0), (3.0, 0.2, 0.0), 32), (0.75 / 1) / (9.02 / 0.04)),
             (((0.5, 1.0, 1.5), (3.0, 0.2, 0.0), 16), (36.75 / 1) / (9.02 / 0.04)),
             (((1.0, 1.0, 0.0), (1.0, 1.0, 0.5), 8), 1.5 / 3.5)]
    return judge(check_tax_over_evidence, function, cases)


def check_noise_ratio(function: Callable) -> bool:
    """Exercise 3 of notebook 04: how much noisier G mean^2 is than a sample variance.

    Hint: an average of k squares of normal numbers has a relative standard deviation of
    sqrt(2 / k): k is 1 for the squared mean and G - 1 for the sample variance"""
    return judge(check_noise_ratio, function, [((2,), 1.0), ((17,), 4.0), ((32,), 31**0.5)])


def check_paired_by_seed(function: Callable) -> bool:
    """Exercise 4 of notebook 04: the mean of a paired difference and its 95% interval over seeds.

    Hint: (a - b).mean(1) is one number a seed; bsr_lite.metrics.seed_interval gives mean and half
    width; torch.tensor of the two"""
    a, b = numbers(0, 3, 4), numbers(1, 3, 4)
    cases = [((x, y), torch.tensor(seed_interval((x - y).mean(1)))) for x, y in ((a, b), (b, a))]
    return judge(check_paired_by_seed, function, cases)


# ---- 06_trust_a_comparison -----------------------------------------------------------------------

def check_chance_of_agreement(function: Callable) -> bool:
    """Exercise 1 of notebook 06: how probable it is that k of S fair coins agree, or more.

    Hint: heads at least k times: the sum of C(S, j) for j from k to S, over 2^S; tails may do so,
    too"""
    return judge(check_chance_of_agreement, function, [((4, 4), 0.125), ((9, 10), 11 / 512)])


def check_best_seeds(function: Callable) -> bool:
    """Exercise 4 of notebook 06: how many seeds a budget for seeds and prompts should buy.

    Hint: S is proportional to sd_seed / sqrt(cost_seed), P to sd_prompt / sqrt(cost_prompt), with
    the same factor, which the budget decides"""
    return judge(check_best_seeds, function, [((2, 2, 1, 1, 8), 4), ((0.1, 2, 100, 4, 900), 1.8)])


def check_exaggeration(function: Callable) -> bool:
    """Exercise 2 of notebook 06: how much too large the differences are that exclude zero.

    Hint: keep the intervals with low > 0 or high < 0; then the mean of |(low + high) / 2|, over
    |truth|"""
    x = torch.tensor([[-1.0, 3.0], [1.0, 5.0], [2.0, 6.0], [-5.0, -3.0]])
    cases = [((x, 2.0), 11 / 6), ((x[:2], 2.0), 1.5), ((x[3:], -1.0), 4.0)]
    return judge(check_exaggeration, function, cases)


def check_verdict(function: Callable) -> bool:
    """Exercise 3 of notebook 06: gain 1, cost -1, informative null 0, undecided 2.

    Hint: first whether zero lies outside; if not, whether both ends lie within +- useful"""
    cases = [((0.1, 0.3, 0.5), 1), ((1, 3, 2), 1), ((-1, -0.1, 0.5), -1), ((-0.3, -0.1, 0.5), -1),
             ((-0.2, 0.3, 0.5), 0), ((-0.1, 0.7, 0.5), 2), ((-0.7, 0.1, 0.5), 2), ((-2, 2, 0.5), 2)]
    return judge(check_verdict, function, cases)


# ---- 07_overoptimization -------------------------------------------------------------------------

def check_best_of_n_with_ties(function: Callable) -> bool:
    """Exercise 4 of notebook 07: the unbiased best-of-n estimate where samples tie.

    Hint: with L samples below a value and T that share it, a draw's largest value is this one in
    C(L + T, n) - C(L, n) of the C(N, n) draws; then each of the T wins equally often"""
    proxy, gold = numbers(0, 12).mul(2).round(), numbers(1, 12)
    return judge(check_best_of_n_with_ties, function, [
        ((proxy, gold, n), best_of_n(proxy.numpy(), gold.numpy(), n).item()) for n in (1, 4, 12)])


def check_invented(function: Callable) -> bool:
    """Exercise 1 of notebook 07: changes of seeds whose two verdicts and one difference disagree.

    Hint: -1 and 1 say that an interval lies below or above zero, 0 that it holds zero: with the
    suspect, without it, with minus without. For a: without, some seeds rise far and others fall
    far. For b: add numbers that scatter widely, one a seed, to both lists"""
    def verdicts(case):
        if (made := function(case)) is not None:
            on, off = (torch.as_tensor(x, dtype=torch.float64).reshape(8) for x in made)
            intervals = map(seed_interval, (on, off, on - off))
            made = [int(mean > half) - int(mean < -half) for mean, half in intervals]
        return made
    return judge(check_invented, verdicts, [(("a",), [-1, 0, 0]), (("b",), [0, 0, -1])])


def check_gap_beyond(function: Callable) -> bool:
    """Exercise 3 of notebook 07: how far a gap goes beyond a rule's, its half width, the prompts
    that it takes.

    Hint: subtract the rule from the model, prompt by prompt; then the mean on new prompts minus
    that on known ones; 1.96 times the root of the two variances, each over its number of prompts;
    with P prompts in both sets that is useful where P = (1.96 / useful)^2 times their sum"""
    (a, b), (x, y) = numbers(0, 2, 5), numbers(1, 2, 8)  # model and rule
    gap, v, w = (x - y).mean() - (a - b).mean(), (a - b).var(), (x - y).var()
    return judge(check_gap_beyond, function, [((a, x, b, y, u), [gap, 1.96 * (v / 5 + w / 8) ** 0.5,
                 ((1.96 / u) ** 2 * (v + w)).ceil()]) for u in (0.05, 0.2, 1.0)])


# ---- 08_rloo -------------------------------------------------------------------------------------

def check_token_loss(function: Callable) -> bool:
    """Exercise 1 of notebook 08: a loss with the own reward in the baseline, by its gradient.

    Hint: A is R - R.mean(1, keepdim=True); logp and d are sums where mask is 1; detach d"""
    def push(reward, logp, *rest):
        loss = function(reward, logp.requires_grad_(), *rest)
        return loss if loss is None else torch.autograd.grad(loss, logp)[0]
    cases = []
    for answers in (2, 4):
        reward, (logp, ref, draw) = numbers(0, 2, answers), numbers(1, 3, 2, answers, 5)
        mask = (draw > -1).double().cummin(2)[0]  # answers of several lengths
        R = reward - 2 * ((logp - ref) * mask).sum(2)
        gradient = mask * (R.mean(1, keepdim=True) - R)[..., None] / (2 * answers)
        cases.append(((reward, logp, ref, mask, 2.0), gradient))
    return judge(check_token_loss, push, cases)


def check_credited(function: Callable) -> bool:
    """Exercise 2 of notebook 08: the part of gold's gain, term by term, that no control teaches.

    Hint: subtract the larger of the controls' mean gains, or zero if both are negative"""
    gold, controls = numbers(0, 3, 5), numbers(1, 2, 3, 5)
    best = [(c, torch.maximum(*c.mean(1)).clamp(min=0)) for c in (controls, controls - 2)]
    return judge(check_credited, function, [((gold, c), gold.mean(0) - b) for c, b in best])


def check_rescaled(function: Callable) -> bool:
    """Exercise 3 of notebook 08: what another scale of the reward does to RLOO.

    Hint: c r - beta' d must be a multiple of r - beta d"""
    cases = [((0.05, 2.0), torch.tensor([0.1, 2.0])), ((0.3, 0.5), torch.tensor([0.15, 0.5]))]
    return judge(check_rescaled, function, cases)


def check_beyond_complete(function: Callable) -> bool:
    """Exercise 4 of notebook 08: gold's change but for one term, subjects as repetitions.

    Hint: change[:, 1:].sum(1); of that one mean a subject; bsr_lite.metrics.seed_interval of these
    means gives mean and half width"""
    change, cases = numbers(0, 7, 5), []
    for subjects in torch.tensor([[0, 1, 0, 2, 2, 2, 1], [0, 1, 0, 2, 3, 2, 1]]):
        others = [change[subjects == t, 1:].sum(1).mean() for t in subjects.unique()]
        cases.append(((change, subjects), torch.tensor(seed_interval(others))))
    return judge(check_beyond_complete, function, cases)


# ---- 09_gold_vs_proxy ----------------------------------------------------------------------------

def check_expected_gold(function: Callable) -> bool:
    """Exercise 3 of notebook 09: best-of-n against a trick.

    Hint: no trick is among n answers with probability (1 - rate)^n: weigh honest[n - 1] with that
    and the trick with the rest"""
    n = torch.arange(1.0, 65)
    cases = [((h, t, rate), t + (1 - rate) ** n[:len(h)] * (h - t)) for t, rate in (
             (-2.0, 0.0), (-2.0, 0.01), (0.0, 0.1), (9.0, 0.1)) for h in (n.log(), n[:10].sqrt())]
    return judge(check_expected_gold, function, cases)


def check_ending_alone(function: Callable) -> bool:
    """Exercise 1 of notebook 09: the part of a gain that ending alone would bring.

    Hint: later - ended.double().mean(), times the mean of (ended one minus cut-off one) over the
    prompts that have one of each, ended.sum(1) == 1"""
    value, ended = numbers(0, 30, 2), numbers(1, 30, 2) > -0.5
    mixed, signs = ended[:, 0] != ended[:, 1], ended.double() * 2 - 1
    worth, easy = (signs * value).sum(1)[mixed].mean(), ended.sum(1, keepdim=True)
    return judge(check_ending_alone, function, [
        ((value + 2 * easy, ended, later), (later - ended.double().mean()) * worth)
        for later in (0.95, 0.2)])


def check_three_parts(function: Callable) -> bool:
    """Exercise 2 of notebook 09: a gain's three parts, with endings at a fixed worth.

    Hint: rest = gained - worth * (ended - before); the reward added rest[0] - rest[1]"""
    gained, ended = numbers(0, 2, 5), numbers(1, 2, 5).sigmoid()
    rest = gained - 2 * (ended - 0.4)
    parts = torch.stack([rest[1], rest[0] - rest[1], gained[0] - rest[0]])
    return judge(check_three_parts, function, [((gained, ended, 0.4, 2.0), parts)])


# ---- 10_scaling_to_8b ----------------------------------------------------------------------------

def check_may_attend(function: Callable) -> bool:
    """Exercise 3 of notebook 10: which token of one pair's packed row may look at which.

    Hint: torch.ones(T, T).tril() is right but for one rectangle: rows of the rejected answer,
    columns of the chosen one"""
    return judge(check_may_attend, function, [
        (size, [[j <= i and a + b != "rc" for j, b in enumerate(t)] for i, a in enumerate(t)])
        for size, t in (((1, 2, 2), "pccrr"), ((3, 1, 2), "pppcrr"), ((2, 3, 1), "ppcccr"))])


def check_first_stage(function: Callable) -> bool:
    """Exercise 1 of notebook 10: the lowest ZeRO stage at which full fine-tuning fits.

    Hint: of 8 bytes of averages, 4 of gradient and 4 of weight the first `stage` are divided by the
    GPUs; activations are added whole; try 0 to 3 in turn"""
    return judge(check_first_stage, function, [((8e9, n, 2e10, card), out) for n, card, out in (
        (8, 150e9, 0), (8, 1e11, 1), (8, 8e10, 2), (8, 48e9, 3), (8, 24e9, -1), (64, 24e9, 3))])


def check_bug(function: Callable) -> bool:
    """Exercise 2 of notebook 10: which bug two numbers of the first step show.

    Hint: a wrong loss is bug 1, whatever the norm is; beside a right one a norm of 1 / ranks is bug
    2, and a norm of ranks is bug 3"""
    return judge(check_bug, function, [((loss, norm, n), out) for loss, norm, n, out in (
        (1.0, 0.5, 2, 2), (1.0, 2.0, 2, 3), (1.3, 2.0, 2, 1), (1.0, 0.1249999, 8, 2),
        (0.9999999, 8.0, 8, 3), (0.93, 0.5, 2, 1), (1.00002, 0.99998, 2, 0), (1.0, 0.5, 8, -1))])


def check_fixed_seconds(function: Callable) -> bool:
    """Exercise 4 of notebook 10: are a step's seconds a fixed part plus so much a token?

    Hint: seconds = tokens / rate; a line through two of the points, read at zero tokens, gives
    their fixed seconds; then abs(a - b) <= max(a, b) / 10"""
    return judge(check_fixed_seconds, function, [
        (((100, 200, 400), (100 / (1 + a / 2), 100.0, 400 / (4 - b))), [a, b, alike])
        for a, b, alike in ((1, 0.905, 1), (0.905, 1, 1), (2, 1, 0), (0.2, 0.178, 0), (1, 2, 0))])
