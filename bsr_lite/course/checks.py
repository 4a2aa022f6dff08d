"""Checkers of the notebooks' exercises: each calls the reader's function on cases with known
answers and prints a verdict with a hint. A stub that returns None is "not attempted yet", never
an error.
"""

import weakref
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch.func import grad  # grad(f)(x, ...): the gradient of f at x, its first argument

from ..losses import bsr_penalty, bt_loss

NOT_ATTEMPTED = "not attempted yet"


def judge(check: Callable, function: Callable, cases: list[tuple],
          complaint: Callable[[], str | None] = lambda: None) -> bool:
    """True when function(*arguments) is close to the expected value in every case and there is no
    complaint about the way; otherwise prints the first failure and the hint in `check`'s words."""
    wrong = first_mistake(function, cases) or complaint()
    if wrong and wrong != NOT_ATTEMPTED:
        wrong = f"not yet. {wrong}. Hint: {' '.join(check.__doc__.partition('Hint: ')[2].split())}"
    print(f"{check.__name__.removeprefix('check_')}: {wrong or 'correct'}")
    return not wrong


def first_mistake(function: Callable, cases: list[tuple]) -> str | None:
    """What is wrong with the first case that fails."""
    for arguments, expected in cases:
        try:
            got = function(*arguments)
        except Exception as error:  # the reader's code raises what it likes
            return f"For {_short(arguments)} it raised {type(error).__name__}: {error}"
        if got is None:
            return NOT_ATTEMPTED
        expected = torch.as_tensor(expected, dtype=torch.float64)
        try:
            got = torch.as_tensor(got).detach().to(torch.float64)
        except (TypeError, ValueError, RuntimeError):
            return f"Return a number or a tensor, got {type(got).__name__}"
        if got.shape != expected.shape:
            return f"Expected the shape {tuple(expected.shape)}, got {tuple(got.shape)}"
        if not torch.allclose(got, expected, rtol=1e-4, atol=1e-6):
            return f"For {_short(arguments)} expected {_short(expected)}, got {_short(got)}"
    return None


def _short(value) -> str:
    if isinstance(value, tuple):
        return ", ".join(_short(v) for v in value)
    if torch.is_tensor(value):
        value = [round(v, 4) for v in value.flatten().tolist()] if value.ndim else value.item()
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) < 80 else text[:77] + "..."


def numbers(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- 01_bradley_terry ----------------------------------------------------------------------------

def check_comparisons_needed(function: Callable) -> bool:
    """Exercise 4 of notebook 01: looks at one pair until its margin is known to +- half_width.

    Hint: The interval is the margin's, not that of each reward. k looks tell k times as much as
    one; the standard error is an inverse square root of what they tell, and 1.96 of it must fit
    into half_width. Round up"""
    cases = [((0.0, 1.0), 16), ((0.0, 0.5), 62), ((4.0, 1.0), 218), ((-4.0, 1.0), 218)]
    return judge(check_comparisons_needed, function, cases)


def check_soft_label_gradient(function: Callable) -> bool:
    """Exercise 3 of notebook 01: derivative of the soft-label BT loss in the margin.

    Hint: the two terms have opposite signs, and sigma(-m) = 1 - sigma(m) makes one of both. Keep
    the shape of the margin"""
    loss = grad(lambda m, q: (-q * F.logsigmoid(m) - (1 - q) * F.logsigmoid(-m)).sum())
    points = (numbers(0, 1), 0.5), (numbers(1, 2), 1.0), (numbers(2, 2), 0.0), (numbers(3, 4), 0.8)
    return judge(check_soft_label_gradient, function, [((m, q), loss(m, q)) for m, q in points])


def check_invisible_directions(function: Callable) -> bool:
    """Exercise 1 of notebook 01: the dimension of the null space of a comparison graph.

    Hint: along a line such a vector may not change, so it is one number on all that hangs together.
    How many numbers are free? Mind the lone points"""
    cases = [((3, [(0, 1), (1, 2)]), 1), ((4, [(0, 1), (2, 3)]), 2), ((3, []), 3),
             ((6, [(0, 1), (1, 2), (2, 0), (4, 5), (5, 4)]), 3), ((4, [(0, 1), (2, 3), (1, 2)]), 1)]
    return judge(check_invisible_directions, function, cases)


def check_overclaim(function: Callable) -> bool:
    """Exercise 2 of notebook 01: mean claim minus share right, over pairs.

    Hint: the claim is never below one half. Where the margin is below 0 the fit chooses the second
    answer, and of the judges 1 - q agree"""
    margins, q = numbers(0, 6), torch.tensor([0.0, 1, 1, 0, 1, 0], dtype=torch.float64)
    cases = [((m, p), (m.abs().sigmoid() - torch.where(m > 0, p, 1 - p)).mean())
             for m, p in ((margins, q), (-margins, q), (margins / 10, margins.sigmoid()))]
    return judge(check_overclaim, function, cases)


# ---- 02_norm_dispersion --------------------------------------------------------------------------

def check_raw_gradient(function: Callable) -> bool:
    """Exercise 1 of notebook 02: gradient of the reward on the raw state, through RMSNorm.

    Hint: with a = g W and v = u / rms(u): remove from a its part along v (|v|^2 = H), then divide
    by rms(u)"""
    gain, head = numbers(1, 8), numbers(2, 8)
    gradient = grad(lambda u: F.rms_norm(u, (8,), gain, eps=0.0) @ head)
    cases = [((u, gain, head), gradient(u)) for u in (numbers(0, 8), 5 * numbers(0, 8))]
    return judge(check_raw_gradient, function, cases)


def check_growth_by_factor(function: Callable) -> bool:
    """Exercise 2 of notebook 02: what each factor adds to the growth of their product's logarithm.

    Hint: the logarithm of late over early, factor by factor"""
    early, late = numbers(0, 3).exp(), numbers(1, 3).exp()
    cases = [((early, late), (late / early).log()), ((early, early), torch.zeros(3))]
    return judge(check_growth_by_factor, function, cases)


def check_agree_by_chance(function: Callable) -> bool:
    """Exercise 4 of notebook 02: how many signs agree in all seeds if each is a coin toss.

    Hint: every seed after the first agrees with it with probability 1/2: quantities / 2^(seeds - 1)
    """
    cases = [((4, 24), 3.0), ((1, 10), 10.0), ((2, 1), 0.5), ((8, 64), 0.5)]
    return judge(check_agree_by_chance, function, cases)


def check_reported(function: Callable) -> bool:
    """Exercise 3 of notebook 02: the share of choices of so many runs in which all rise.

    Hint: itertools.combinations(changes, runs) has all choices. Count those whose smallest change
    is above zero, and divide by their number"""
    changes = torch.tensor([0.3, -0.1, 0.2, 0.4, -0.5])
    cases = [((sign * changes, runs), share) for sign, runs, share in (
        (1, 1, 0.6), (1, 2, 0.3), (-1, 2, 0.1), (1, 3, 0.1), (1, 4, 0.0))]
    return judge(check_reported, function, cases)


# ---- 03_bsr --------------------------------------------------------------------------------------

def check_crossing_group_size(function: Callable) -> bool:
    """Exercise 4 of notebook 03: where G mu^2 = Var(s) (N - G) / (N - 1).

    Hint: G appears on both sides: collect it. With mu = 0 the terms meet only at G = N"""
    cases = [((0.5, 2.0, 1001), 1001 * 2 / 252), ((1.0, 1.0, 10), 1.0), ((2.0, 0.0, 5), 0.0),
             ((0.0, 3.0, 7), 7.0)]
    return judge(check_crossing_group_size, function, cases)


def check_same_weights(function: Callable) -> bool:
    """Exercise 2 of notebook 03: the lambda and the weight of centering at another group size that
    keep the weights of level and spread.

    Hint: level: lambda' new + 4 kappa = lambda old; spread: lambda' + 4 kappa = lambda"""
    cases = [((1.0, 16, 128), [15 / 127, 28 / 127]), ((1.4, 32, 8), [6.2, -1.2])]
    return judge(check_same_weights, function, cases)


def check_level_share(function: Callable) -> bool:
    """Exercise 1 of notebook 03: which share of the penalty of some steps is the level's.

    Hint: the squared mean of a batch is on average mu^2 + Var(s) / G: take off what the spread
    makes, then add up the steps. By chance that can be below zero: leave it"""
    means, variances = numbers(0, 9), numbers(1, 9).square()
    cases = [((m, variances, g), 1 - variances.mean() / (g * m.square().mean()))
             for m, g in ((means, 16), (means, 4), (means / 4, 4))]
    return judge(check_level_share, function, cases)


def check_accumulated_gradient(function: Callable) -> bool:
    """Exercise 3 of notebook 03: the exact global BSR gradient on a head, micro-batch by
    micro-batch; never may the graphs of two micro-batches be alive together.

    Hint: first all rewards under torch.no_grad(), then dL/dr of the whole batch, then every part
    again: (rewards * dL/dr of that part).sum().backward()"""
    parts = [(numbers(i, n, 4), numbers(i + 9, n, 4)) for i, n in enumerate((5, 3, 2))]
    head, network = numbers(99, 4), _Network()

    def loss(w):
        rewards = [torch.tanh(torch.cat(column)) @ w for column in zip(*parts, strict=True)]
        return bt_loss(*rewards) + 0.1 * bsr_penalty(*rewards)

    def complaint() -> str | None:
        if network.seen < 20:
            return "The value is right, but the rewards did not come from calls of `rewards`"
        alive = "The value is right, but graphs of several micro-batches were alive at once"
        return alive if network.most > 10 else None

    cases = [((network, parts, head, 0.1), grad(loss)(head))]
    return judge(check_accumulated_gradient, function, cases, complaint)


class _Network:
    """tanh(hidden) @ head, counting rows seen and the most rows whose graph was alive at once."""

    def __init__(self):
        self.seen, self.most, self.graphs = 0, 0, []

    def __call__(self, hidden: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
        self.seen += len(hidden)
        rewards = torch.tanh(hidden) @ head
        if rewards.requires_grad:
            rows = set(range(len(hidden)))  # only its graph's hook keeps it: both go together
            rewards.register_hook(lambda _: rows.clear())
            self.graphs.append(weakref.ref(rows))
            self.most = max(self.most, sum(len(graph() or ()) for graph in self.graphs))
        return rewards


# ---- 05_reward_model_qlora -----------------------------------------------------------------------

def check_best_block(function: Callable) -> bool:
    """Exercise 1 of notebook 05: the block of the least rounding error within a budget of bits.

    Hint: a weight costs its code and its share of an absmax and of a scale. Of the blocks within
    the budget take that of the least error: some matrices fit the values best in large blocks"""
    values = torch.linspace(-1, 1, 16, dtype=torch.float64)
    cases = [((numbers(0, 8, 128), values, b), n) for b, n in ((4.1, 128), (4.2, 64), (4.3, 32))]
    cases += [((values[torch.arange(256).view(2, 128) // 16], values, 4.3), 128)]
    return judge(check_best_block, function, cases)


def check_fixed_memory(function: Callable) -> bool:
    """Exercise 2 of notebook 05: GB of a QLoRA run before its activations.

    Hint: a linear weight takes 4.127 / 8 bytes, another frozen one 2, a trained number 4 for
    itself, 4 for its gradient and 8 for AdamW; divide by 1e9"""
    cases = [((8e9, 0, 0), 4.127), ((0, 5e8, 0), 1), ((0, 0, 1e9), 16), ((7e9, 5e8, 4e7), 5.251125)]
    return judge(check_fixed_memory, function, cases)


def check_margin_change(function: Callable) -> bool:
    """Exercise 3 of notebook 05: the largest change of a margin between two scorings of prompts.

    Hint: take each row alone. What becomes of its margins if the same number is added to all its
    rewards? So a margin changes by how much further one of its two rewards moved than the other"""
    rewards, level = numbers(0, 5, 4), numbers(1, 5, 1)
    cases = [((rewards, rewards + move), (move.amax(1) - move.amin(1)).max())
             for move in (level.expand(5, 4), -rewards / 10, numbers(2, 5, 4))]
    return judge(check_margin_change, function, cases)


def check_merged_matrix(function: Callable) -> bool:
    """Exercise 4 of notebook 05: the one matrix that a 4-bit layer and its adapter are together.

    Hint: the layer holds values[codes] * absmax, in its own shape; the adapter's change is
    B A, times alpha over the number of A's rows"""
    codes, absmax = torch.arange(24).view(3, 8) % 16, numbers(0, 3, 1).abs()
    A, B, values = numbers(1, 3, 6), numbers(2, 4, 3), numbers(3, 16).sort().values
    base = torch.stack([values[c] * absmax[n // 8] for n, c in enumerate(codes.flatten())])
    cases = [((codes, absmax, values, A, B, k), base.view(4, 6) + k / 3 * B @ A) for k in (3, 32)]
    return judge(check_merged_matrix, function, cases)
