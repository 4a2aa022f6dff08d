"""How well rewards order responses: accuracy, Kendall's tau-b, intervals over prompts and seeds.

Nothing is dropped silently: ties of the reward count as errors for accuracy and against tau-b,
and a constant prediction has tau 0 (the official code turns it into NaN and skips it).
"""

import math

import numpy as np

# two-sided 95% quantiles of Student's t for 1, 2, ... degrees of freedom, normal beyond
T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179,
        2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064)


def _finite(x) -> np.ndarray:
    x = np.asarray(x, dtype=np.float64)
    if not np.isfinite(x).all():
        raise ValueError(f"{(~np.isfinite(x)).sum()} of {x.size} scores are NaN or infinite")
    return x


def pair_accuracy(rewards_chosen, rewards_rejected) -> float:
    """Share of pairs with r_w > r_l; a tie is an error.  Shapes: (B,), (B,) -> [0, 1].

    >>> pair_accuracy([1.0, 0.0], [0.0, 0.0])
    0.5
    """
    return float((_finite(rewards_chosen) > _finite(rewards_rejected)).mean())


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
    x, y = _finite(x), _finite(y)
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
    values = _finite(values)
    n = len(values)
    if n < 2:
        return float(values.mean()), math.inf
    t = T_95[n - 2] if n - 2 < len(T_95) else 1.96
    return float(values.mean()), float(t * values.std(ddof=1) / math.sqrt(n))


def bootstrap_interval(per_prompt, draws: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """Mean over seeds and prompts, with a percentile 95% interval from resampling prompts.

    The same draw of prompts serves every seed, so the interval speaks of new prompts of the same
    kind for these trained models; it carries no seed noise.  Pass differences for a paired test.
    Shapes: (P,) or (seeds, P) -> mean, low, high.
    """
    prompts = np.atleast_2d(_finite(per_prompt)).mean(0)
    rng = np.random.default_rng(seed)
    means = [prompts[rng.integers(0, len(prompts), len(prompts))].mean() for _ in range(draws)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(prompts.mean()), float(low), float(high)


def two_way_interval(values, draws: int = 2000, seed: int = 0) -> tuple[float, float, float, float]:
    """Mean, percentile 95% interval and standard error from resampling seeds and prompts
    independently: it speaks of new seeds and new prompts of the same kind.

    Pass paired differences for a comparison.  Shapes: (seeds, P) -> mean, low, high, error.
    """
    values = _finite(values)
    rng = np.random.default_rng(seed)
    seeds, prompts = (rng.multinomial(n, np.full(n, 1 / n), draws) / n for n in values.shape)
    means = ((seeds @ values) * prompts).sum(1)  # weights are how often each was drawn
    low, high = np.percentile(means, [2.5, 97.5])
    return float(values.mean()), float(low), float(high), float(means.std(ddof=1))


RM_BENCH_DOMAINS = {"chat": ("chat",), "math": ("math",), "code": ("code",),
                    "safety": ("safety-refuse", "safety-response")}


def rm_bench_scores(wins: dict[str, np.ndarray]) -> dict[str, float]:
    """RM-Bench from accuracy matrices: wins[domain][i, j] is the share of prompts whose chosen
    answer in style i beats (strictly) the rejected one in style j; styles concise, detailed,
    Markdown.

    Per domain hard = mean above the diagonal (a plainer chosen answer against a fancier rejected
    one), normal = the diagonal, easy = below it, and the domain's score is the mean of the three.
    Safety averages safety-refuse and safety-response. hard, normal, easy and overall are
    unweighted means over the four domains, absent unless all are there.
    Shapes: (3, 3) each -> scores in [0, 1].  Raises: ValueError for an unknown domain.
    """
    known = {part for parts in RM_BENCH_DOMAINS.values() for part in parts}
    if set(wins) - known:
        raise ValueError(f"unknown RM-Bench domains {sorted(set(wins) - known)}; "
                         f"expected {sorted(known)}")
    above = np.triu(np.ones((3, 3)), 1)
    cells = {"hard": above / 3, "normal": np.eye(3) / 3, "easy": above.T / 3}
    by_level: dict[str, list[float]] = {level: [] for level in cells}
    scores = {}
    for domain, parts in RM_BENCH_DOMAINS.items():
        if not all(part in wins for part in parts):
            continue
        matrix = np.mean([wins[part] for part in parts], axis=0)
        for level, weights in cells.items():
            by_level[level].append(float((matrix * weights).sum()))
        scores[domain] = float(np.mean([values[-1] for values in by_level.values()]))
    for part in set(wins) - set(scores):  # half a domain
        scores[part] = float(np.mean([(wins[part] * w).sum() for w in cells.values()]))
    if set(RM_BENCH_DOMAINS) <= set(scores):
        scores |= {level: float(np.mean(values)) for level, values in by_level.items()}
        scores["overall"] = float(np.mean([scores[d] for d in RM_BENCH_DOMAINS]))
    return scores
