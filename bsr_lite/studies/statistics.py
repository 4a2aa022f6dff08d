"""Statistics of studies: intervals, shares kept, best-of-n, length-controlled wins."""

import math

import numpy as np

from ..metrics import bootstrap_interval, clustered, finite, t_quantile


def interval(per_prompt: np.ndarray, clusters=None) -> tuple[float, float, float]:
    """Mean and 95% interval of (seeds, prompts): over both from three seeds on, else over prompts
    alone. Prompts of one of `clusters`, such as a topic, are drawn together."""
    per_prompt = per_prompt if clusters is None else clustered(per_prompt, clusters)
    several = len(per_prompt) > 2
    return two_way_interval(per_prompt)[:3] if several else bootstrap_interval(per_prompt)


def length_controlled_win_rate(wins, lengths, base_lengths) -> dict[str, float]:
    """Win rate against a baseline if both wrote answers of the same length: logistic regression
    logit P(win) = a + b tanh(d / std(d)), d the difference in length; sigmoid(a).

    Source: AlpacaEval 2's length correction (Dubois et al. 2024).
    Deviation: no term for the difficulty of an instruction, which takes many models to estimate.
    wins: 1, 0, or 0.5 for a tie.  A ridge of 0.01 keeps b finite when length decides all.
    length_controlled is NaN where the mean of d is over two of its standard deviations from 0:
    answers of equal length were hardly seen, and the model would be read far outside its data.
    Shapes: (N,) each -> win_rate and length_controlled in [0, 1], length_effect b.
    Raises: ValueError below two prompts.
    """
    wins, difference = finite(wins), finite(lengths) - finite(base_lengths)
    if len(wins) < 2:
        raise ValueError("a length-controlled win rate needs at least two prompts")
    spread = difference.std()
    x = np.stack([np.ones(len(wins)), np.tanh(difference / spread) if spread else 0 * wins], 1)
    ridge, weights = 0.01 * np.eye(2), np.zeros(2)
    for _ in range(50):  # Newton's method
        p = 1 / (1 + np.exp(-x @ weights))
        hessian = (x * (p * (1 - p))[:, None]).T @ x + ridge
        weights = weights + np.linalg.solve(hessian, x.T @ (wins - p) - ridge @ weights)
    seen = abs(difference.mean()) <= 2 * spread
    return {"win_rate": float(wins.mean()), "length_effect": float(weights[1]),
            "length_controlled": float(1 / (1 + np.exp(-weights[0]))) if seen else math.nan}


def two_way_interval(values) -> tuple[float, float, float, float]:
    """Mean, 95% interval and standard error over seeds and prompts, both drawn at random: it speaks
    of new seeds and new prompts of the same kind.  Pass paired differences for a comparison.

    Two-way analysis of variance without replication: error^2 = (MS_s + MS_p - MS_e) / (S P), at
    least either of the first two alone; Student's t with Satterthwaite's degrees of freedom, at
    least those of the smaller side alone, as the error is. Unlike resampling it stays honest at
    three or four seeds.
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
    squares = (ms_seed**2 / (s - 1) + ms_prompt**2 / (p - 1)
               + ms_rest**2 / ((s - 1) * (p - 1)))
    freedom = max(total**2 / squares, min(s, p) - 1) if total else 1
    error = math.sqrt(total / (s * p))
    half = t_quantile(freedom) * error
    return float(mean), float(mean - half), float(mean + half), error


def within_sd(values) -> float:
    """Standard deviation of the answers to one prompt, pooled over prompts.  Shapes: (P, K)."""
    return float(np.sqrt(finite(values).var(-1, ddof=1).mean()))


def within_correlation(x, y) -> float:
    """Pearson's correlation among the answers to one prompt, pooled over prompts; 0 where one is
    constant. Where proxy and gold are normal it is the share kept: each in its own standard
    deviations, gold gains so much of what the proxy gains, for best-of-n at any n.
    Shapes: (P, K) each."""
    x, y = (v - v.mean(-1, keepdims=True) for v in (finite(x), finite(y)))
    return float((x * y).sum() / (math.sqrt((x**2).sum() * (y**2).sum()) or 1))


def ratio_interval(top, bottom) -> tuple[float | None, float | None, float | None]:
    """mean(top) / mean(bottom) with a 95% interval over seeds and prompts, by linearization: that
    of (top - ratio bottom) / mean(bottom). None, where the mean of `bottom` is not above zero
    beyond its own interval; no interval for fewer than three seeds.  Shapes: (S, P) each."""
    top, bottom = finite(top), finite(bottom)
    several, mean = len(top) > 2, bottom.mean()
    if (two_way_interval(bottom)[1] if several else mean) <= 0:
        return None, None, None
    ratio = float(top.mean() / mean)
    half = (two_way_interval((top - ratio * bottom) / mean)[2] if several else None)
    return ratio, *((ratio - half, ratio + half) if several else (None, None))


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
