"""Figures show what they are given."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from bsr_lite.metrics import seed_interval
from bsr_lite.plots import COLORS, color, label, panels, plt, seed_curves
from bsr_lite.studies.figures import (
    best_of_n_figure,
    frontier_figure,
    linear_figure,
    shades,
    theory_figure,
)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_seed_curves_draw_every_seed_their_mean_and_its_interval():
    _, axis = panels()
    curves = np.array([[1.0, 2.0, 4.0], [2.0, 2.0, 5.0], [3.0, 2.0, 9.0]])
    seed_curves(axis, [0, 1, 2], curves, "BT", COLORS["bt"])
    label(axis, "step", "norm", "title")
    *faint, mean = axis.lines
    assert [line.get_ydata().tolist() for line in faint] == curves.tolist()
    assert mean.get_ydata().tolist() == [2.0, 2.0, 6.0] and mean.get_label() == "BT"
    band = axis.collections[0].get_paths()[0].vertices[:, 1]
    centre, half = seed_interval([4.0, 5.0, 9.0])
    assert band.max() == pytest.approx(centre + half)
    assert (axis.get_xlabel(), axis.get_ylabel(), axis.get_title()) == ("step", "norm", "title")


def test_one_seed_has_no_band():
    _, axis = panels()
    seed_curves(axis, [0, 1], [[1.0, 2.0]], "BT", "black")
    assert len(axis.collections) == 0 and len(axis.lines) == 2


def test_panels_and_colours():
    _, axes = panels(3, rows=2)
    assert axes.shape == (2, 3)
    assert color("bsr-1e-3", 7) == color("bsr", 0) == COLORS["bsr"] and color("other", 7) == "C7"


def test_variants_of_an_objective_have_shades_of_its_colour():
    tints = shades(["bt", "bsr-1e-4", "bsr-1e-3", "bsr-1e-2"])
    assert len({tuple(t) for t in tints}) == 4
    assert tints[1] == list(to_rgb(COLORS["bsr"])) and tints[0] == list(to_rgb(COLORS["bt"]))
    assert [sum(t) for t in tints[1:]] == sorted(sum(t) for t in tints[1:])  # paler and paler


def test_best_of_n_shows_proxy_gold_and_the_share_kept():
    def around(*values):
        return [(v, v - 0.1, v + 0.1) for v in values]

    table = {"n": [1, 2], "kl_bound": [0.0, 0.19], "best": [3.0, 3.5], "shortest": [3.0, 3.1],
             "methods": {"bt": {"gold": around(3.0, 3.2), "proxy": around(0.0, 0.6),
                                "share": [(None,) * 3, *around(0.7)], "correlations": [0.6, 0.8]}}}
    left, middle, right = best_of_n_figure(table).axes
    assert left.lines[0].get_ydata().tolist() == [0.0, 0.6]
    assert [line.get_ydata()[1] for line in middle.lines] == [3.2, 3.5, 3.1]
    assert right.lines[0].get_ydata()[1] == 0.7 and np.isnan(right.lines[0].get_ydata()[0])
    assert right.lines[1].get_ydata()[0] == pytest.approx(0.7)  # the correlation
    assert "nats" in right.get_xlabel()


def test_frontier_draws_gold_against_proxy_and_the_share_kept_beside_the_correlation():
    row = {"share": (0.5, 0.4, 0.6), "shares": [0.4, 0.6, None], "correlations": [0.6, 0.8]}
    unknown = row | {"share": (None, None, None)}
    curve = np.array([np.arange(7.0), 2 * np.arange(7.0)])
    figure = frontier_figure({"bt-kl0.0": row, "bsr-kl0.05": unknown},
                             {"bt-kl0.0": curve, "bsr-kl0.05": -curve}, block=3)
    left, right = figure.axes
    first, second = left.lines
    assert first.get_xdata().tolist() == [1.0, 4.0] and first.get_ydata().tolist() == [2.0, 8.0]
    assert (first.get_linestyle(), second.get_linestyle()) == ("-", "--")
    assert (first.get_color(), second.get_color()) == ([*to_rgb(COLORS["bt"])],
                                                       [*to_rgb(COLORS["bsr"])])
    crosses = [line for line in right.lines if line.get_marker() == "x" and len(line.get_xdata())]
    assert [line.get_xdata()[0] for line in crosses] == pytest.approx([0.7, 0.7])
    dots = [line.get_xdata().tolist() for line in right.lines if line.get_marker() == "."]
    assert dots == [[0.4, 0.6], []], "nor dots: a gain near zero divides by luck"
    assert len(right.containers) == 1, "a share that is not known has no interval"


def test_theory_is_drawn_against_lambda_lines_foretold_and_dots_fitted():
    rows = [("bt", "signal", 1.0, 1.0), ("bsr-1e-1", "signal", 0.4, 0.5),
            ("bsr-1e-3", "signal", 0.8, 0.9), ("spread-1e-1", "signal", 0.6, 0.7)]
    rows += [(name, "nuisance", told / 2, fitted / 2) for name, _, told, fitted in rows]
    axis, _ = theory_figure({"helps": rows, "hurts": rows}).axes
    told, fitted = axis.lines[:2]
    assert told.get_xdata().tolist() == fitted.get_xdata().tolist() == [1e-3, 1e-1]
    assert told.get_ydata().tolist() == [0.8, 0.4] and fitted.get_ydata().tolist() == [0.9, 0.5]
    assert told.get_linewidth() < axis.lines[2].get_linewidth() and fitted.get_marker() == "x"
    assert axis.lines[3].get_ydata().tolist() == [0.7] and axis.get_xscale() == "log"


def test_linear_heads_have_a_panel_a_world_one_world_too():
    def cells(foretold, mean):
        return {"tau": {"predicted": foretold, "difference": (mean, mean - 0.1, mean + 0.1)}}

    world = {"bt": cells(0, 0), "bsr-0.1": cells(0.2, 0.3), "bsr-1": cells(0.4, 0.5)}
    for worlds in ({"plain": world}, {"plain": world, "closing_phrase": world}):
        axes = linear_figure(worlds).axes
        assert [axis.get_title() for axis in axes] == [w.replace("_", " ") for w in worlds]
        dots = axes[0].containers[-1].lines[0]  # BSR's, those whose interval excludes zero
        assert dots.get_xdata().tolist() == [0.2, 0.4] and dots.get_ydata().tolist() == [0.3, 0.5]
        assert dots.get_color() == COLORS["bsr"]
