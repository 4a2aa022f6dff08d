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


def clustered(values, clusters) -> np.ndarray:
    """One column a cluster of prompts instead of one a prompt, with the same mean: an interval over
    its columns draws whole clusters, as it must where prompts of one are alike. A column is the
    mean plus the cluster's summed deviation from it times clusters / prompts.
    Shapes: (..., P), P labels -> (..., clusters); unchanged where there is but one cluster.

    >>> clustered([[1.0, 3.0, 8.0]], ["a", "a", "b"]).round(6).tolist()
    [[1.333333, 6.666667]]
    """
    values = finite(values)
    names, index = np.unique(clusters, return_inverse=True)
    if len(names) < 2:
        return values
    mean = values.mean(-1, keepdims=True)
    sums = np.zeros((*values.shape[:-1], len(names)))
    np.add.at(sums, (..., index), values - mean)
    return mean + sums * len(names) / len(index)


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
