"""How well rewards order responses: accuracy, Kendall's tau-b, intervals over prompts and seeds.

Nothing is dropped silently: ties of the reward count as errors for accuracy and against tau-b,
and a constant prediction has tau 0 (the official code turns it into NaN and skips it).
"""

import math

import numpy as np

# two-sided 95% quantiles of Student's t for 1, 2, ... degrees of freedom
T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179,
        2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064)


def t_quantile(freedom: float) -> float:
    """The two-sided 95% quantile of Student's t, fractions rounded down.

    >>> t_quantile(3.9), round(t_quantile(50), 3), round(t_quantile(1e9), 3)
    (3.182, 2.007, 1.96)
    """
    n = max(1, math.floor(freedom))
    return T_95[n - 1] if n <= len(T_95) else 1.96 + 2.373 / n  # first order in 1/n


def finite(x) -> np.ndarray:
    """As fp64.  Raises: ValueError for NaN or infinity."""
    x = np.asarray(x, dtype=np.float64)
    if not np.isfinite(x).all():
        raise ValueError(f"{(~np.isfinite(x)).sum()} of {x.size} scores are NaN or infinite")
    return x


def pair_accuracy(rewards_chosen, rewards_rejected) -> float:
    """Share of pairs with r_w > r_l; a tie is an error.  Shapes: (B,), (B,) -> [0, 1].

    >>> pair_accuracy([1.0, 0.0], [0.0, 0.0])
    0.5
    """
    return float((finite(rewards_chosen) > finite(rewards_rejected)).mean())


def kendall_tau_b(x, y) -> np.ndarray:
    """Kendall's tau-b along the last axis: (concordant - discordant) / sqrt(n_x n_y), where n_x
    counts the pairs not tied in x; 0 where x or y is constant.

    Source: Sec. 2.2 scores the disjoint scenarios with tau averaged over prompts.
    Shapes: (..., K), (..., K) -> (...) in [-1, 1].  Raises: ValueError for NaN or infinity.
    >>> kendall_tau_b([1, 2, 3, 4], [1, 2, 4, 3]).round(3).item()
    0.667
    >>> kendall_tau_b([1, 1, 1], [1, 2, 3]).item()
    0.0
    """
    x, y = finite(x), finite(y)
    concordance = untied_x = untied_y = np.zeros(x.shape[:-1])
    for i in range(x.shape[-1] - 1):  # one row of the pair matrix at a time
        dx, dy = (np.sign(v[..., i + 1:] - v[..., i:i + 1]) for v in (x, y))
        concordance = concordance + (dx * dy).sum(-1)
        untied_x, untied_y = untied_x + (dx != 0).sum(-1), untied_y + (dy != 0).sum(-1)
    denominator = np.sqrt(untied_x * untied_y)
    return np.divide(concordance, denominator, out=np.zeros(x.shape[:-1]), where=denominator > 0)


def agreement(rewards, gold) -> tuple[str, np.ndarray]:
    """How each prompt's rewards order its K responses as gold does: ("accuracy", 0 or 1) for K = 2,
    where a tied reward is an error, and ("tau", Kendall's tau-b) otherwise.

    Source: Sec. 2.2.  Shapes: (..., P, K), (..., P, K) -> (..., P).
    """
    if rewards.shape[-1] != 2:
        return "tau", kendall_tau_b(rewards, gold)
    margin, gold_margin = (x[..., 0] - x[..., 1] for x in (rewards, gold))
    return "accuracy", (margin * gold_margin > 0).astype(float)


def seed_interval(values) -> tuple[float, float]:
    """Mean and half-width of the 95% t interval over independent seeds; infinite for one seed.

    >>> mean, half = seed_interval([1.0, 2.0, 3.0]); round(mean, 2), round(half, 2)
    (2.0, 2.48)
    """
    values = finite(values)
    n = len(values)
    if n < 2:
        return float(values.mean()), math.inf
    return float(values.mean()), float(t_quantile(n - 1) * values.std(ddof=1) / math.sqrt(n))


def bootstrap_interval(per_prompt, draws: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """Mean over seeds and prompts, with a percentile 95% interval from resampling prompts.

    The same draw of prompts serves every seed, so the interval speaks of new prompts of the same
    kind for these trained models; it carries no seed noise.  Pass differences for a paired test.
    Shapes: (P,) or (seeds, P) -> mean, low, high.
    """
    prompts = np.atleast_2d(finite(per_prompt)).mean(0)
    rng = np.random.default_rng(seed)
    means = [prompts[rng.integers(0, len(prompts), len(prompts))].mean() for _ in range(draws)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(prompts.mean()), float(low), float(high)


def two_way_interval(values) -> tuple[float, float, float, float]:
    """Mean, 95% interval and standard error over seeds and prompts, both drawn at random: it speaks
    of new seeds and new prompts of the same kind.  Pass paired differences for a comparison.

    Two-way analysis of variance without replication: error^2 = (MS_s + MS_p - MS_e) / (S P), at
    least either of the first two alone; Student's t with Satterthwaite's degrees of freedom. Unlike
    resampling it stays honest at three or four seeds.
    Shapes: (S, P) -> mean, low, high, error.  Raises: ValueError below two seeds or prompts.
    """
    x = finite(values)
    s, p = x.shape
    if min(s, p) < 2:
        raise ValueError(f"an interval over seeds and prompts needs two of each, got {s} and {p}")
    mean, rows, columns = x.mean(), x.mean(1, keepdims=True), x.mean(0, keepdims=True)
    ms_seed, ms_prompt = p * rows.var(ddof=1), s * columns.var(ddof=1)
    ms_rest = ((x - rows - columns + mean) ** 2).sum() / ((s - 1) * (p - 1))
    total = max(ms_seed + ms_prompt - ms_rest, ms_seed, ms_prompt)
    if total == 0:
        return float(mean), float(mean), float(mean), 0.0
    freedom = total**2 / (ms_seed**2 / (s - 1) + ms_prompt**2 / (p - 1)
                          + ms_rest**2 / ((s - 1) * (p - 1)))
    error = math.sqrt(total / (s * p))
    half = t_quantile(freedom) * error
    return float(mean), float(mean - half), float(mean + half), error


def detectable(low: float, high: float) -> float:
    """The true difference that four of five studies with a 95% interval as wide as this one would
    find significant: half its width times (1.96 + 0.84) / 1.96.

    >>> round(detectable(-1.96, 1.96), 2)  # standard error 1
    2.8
    """
    return (high - low) / 2 * 2.8 / 1.96


def best_of_n(proxy, values, n: int) -> np.ndarray:
    """Expected value of the sample that a proxy ranks first among n drawn from N, without
    replacement: sum_j [C(L_j + T_j, n) - C(L_j, n)] / (T_j C(N, n)) v_j, where L_j samples have a
    lower proxy than j and T_j the same one (itself included): ties are broken at random.

    Unbiased for n fresh samples, where one draw of n would throw N - n of them away.
    Source: Sec. 2 of Gao et al. 2023 uses best-of-n as the optimizer; the estimator without ties
    is that of Nakano et al. 2021.
    Shapes: (..., N), (..., N) -> (...).  Raises: ValueError unless 1 <= n <= N.
    >>> best_of_n([1.0, 2.0, 3.0], [0.0, 3.0, 9.0], 2).round(6).item()  # (3 + 9 + 9) / 3
    7.0
    """
    proxy, values = finite(proxy), finite(values)
    total = proxy.shape[-1]
    if not 1 <= n <= total:
        raise ValueError(f"n must be from 1 to the {total} samples of a prompt, got {n}")
    share = np.array([math.comb(k, n) / math.comb(total, n) for k in range(total + 1)])
    lower = (proxy[..., None, :] < proxy[..., :, None]).sum(-1)
    same = (proxy[..., None, :] == proxy[..., :, None]).sum(-1)
    return ((share[lower + same] - share[lower]) / same * values).sum(-1)


def best_of_n_kl(n: int) -> float:
    """Upper bound on KL(best-of-n || policy) in nats: log n - (n - 1)/n, reached by a proxy
    without ties over infinitely many answers; ties and repeated answers lower the KL.

    Source: Beirami et al. 2024 (arXiv 2401.01879) for the bound.
    >>> round(best_of_n_kl(64), 2)
    3.17
    """
    return math.log(n) - (n - 1) / n
