"""Figures show what they are given."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from bsr_lite.metrics import seed_interval
from bsr_lite.plots import COLORS, color, label, panels, plt, seed_curves, shades


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
