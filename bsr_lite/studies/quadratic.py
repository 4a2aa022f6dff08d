"""Penalties on a linear reward r = w . x: in expectation each is w' Q w, so that a fit is exact."""

import numpy as np

from ..errors import TrainingError


def family(kind: str, weight: float) -> tuple[float, float, float, float]:
    """How much of G mean(s)^2, Var(s), mean(s^2) and mean(m^2) / 4 an objective adds to BT, s the
    pair means and m the margins of a group of G pairs, Var(s) unbiased.

    In expectation with mu = E[s]: G mu^2 + Var(s), Var(s), mu^2 + Var(s), E[m^2] / 4. So BSR
    weighs level : spread as G : 1, centering and L2 as 1 : 1.
    """
    bsr, spread = (weight, 0, 0, 0), (0, weight, 0, 0)
    return {"bt": (0, 0, 0, 0), "bsr": bsr, "spread": spread, "level": (weight, -weight, 0, 0),
            "centering": (0, 0, 4 * weight, 0), "l2": (0, 0, weight, weight)}[kind]


def moments(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean (D,) and covariance (D, D) of pair means, second moment (D, D) of differences: what
    `penalty_matrix` takes.  Shapes: (n, 2, D)."""
    middle, delta = pairs.mean(1), pairs[:, 0] - pairs[:, 1]
    return middle.mean(0), np.cov(middle.T), delta.T @ delta / len(pairs)


def penalty_matrix(weights: tuple, mean, spread, margin, group: int) -> np.ndarray:
    """Q of E[penalty] = w' Q w for rewards w . x in groups of so many pairs: `mean` (D,) and
    `spread` (D, D) of pair means, `margin` (D, D) the second moment of differences."""
    level, variance, second, quarter = weights
    outer = np.outer(mean, mean)
    return (level * (group * outer + spread) + variance * spread + second * (outer + spread)
            + quarter * margin / 4)


def fit(delta: np.ndarray, penalty: np.ndarray, start: np.ndarray | float = 0.0) -> np.ndarray:
    """The w (D,) that minimizes mean -log sigmoid(delta w) + w' penalty w, by Newton's method.
    Shapes: delta (n, D), penalty (D, D).  Raises: TrainingError where there is none."""
    w = np.zeros(len(penalty)) + start
    for _ in range(50):
        p = 1 / (1 + np.exp(-delta @ w))
        gradient = 2 * penalty @ w - delta.T @ (1 - p) / len(delta)
        hessian = (delta.T * (p * (1 - p))) @ delta / len(delta) + 2 * penalty
        try:
            step = np.linalg.solve(hessian, gradient)
        except np.linalg.LinAlgError:
            break
        w = w - step
        if np.abs(step).max() < 1e-6 * np.abs(w).max():
            return w
    raise TrainingError("no weights fit best: pairs that a line separates need a ridge")
