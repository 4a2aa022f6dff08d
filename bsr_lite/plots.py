"""One style for every figure; the only place that imports matplotlib."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_rgb  # noqa: F401  figures take it from here

from .metrics import seed_interval

SIZE = (9.0, 3.6)
COLORS = {"bt": "#4477AA", "bsr": "#EE6677", "centering": "#228833", "hinge": "#CCBB44",
          "norm": "#66CCEE", "dr": "#AA3377", "l2": "#888888", "spread": "#009988",
          "level": "#994F00"}  # a method has one colour everywhere
SCENARIO_COLORS = {"train": "#000000", "in_domain": "#004488", "prompt_disjoint": "#DDAA33",
                   "response_disjoint": "#BB5566", "mutual_disjoint": "#44AA99"}
plt.rcParams.update({"figure.figsize": SIZE, "axes.spines.top": False, "axes.spines.right": False,
                     "axes.grid": True, "grid.alpha": 0.25, "font.size": 9, "figure.dpi": 100})


def color(method: str, index: int) -> str:
    """A method's colour, by the objective its name starts with."""
    return COLORS.get(method.split("-")[0], f"C{index}")


def panels(columns: int = 1, rows: int = 1, **options):
    """A figure of the one size (rows times as high) and its axes; options go to plt.subplots."""
    return plt.subplots(rows, columns, layout="constrained",
                        figsize=(SIZE[0], SIZE[1] * (0.25 + 0.75 * rows)), **options)


def label(axis, x: str, y: str, title: str) -> None:
    """Axis labels, with their units, and a title."""
    axis.set(xlabel=x, ylabel=y, title=title)


def seed_curves(axis, x, curves, name: str, tint: str) -> None:
    """One curve a seed as a faint line, their mean, and the 95% t interval of the mean.

    Shapes: (T,), (seeds, T).
    """
    curves = np.asarray(curves, dtype=float)
    mean, half = np.array([seed_interval(column) for column in curves.T]).T
    axis.plot(x, curves.T, color=tint, alpha=0.3, linewidth=0.8)
    axis.plot(x, mean, color=tint, label=name)
    if np.isfinite(half).all():
        axis.fill_between(x, mean - half, mean + half, color=tint, alpha=0.12, linewidth=0)


def save(figure, path) -> None:
    """Write a figure and forget it, so that a notebook does not show it again."""
    figure.savefig(path)
    plt.close(figure)
