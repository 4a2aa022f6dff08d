import re
from pathlib import Path

import numpy as np
import pytest

from bsr_lite.metrics import bootstrap_interval
from bsr_lite.studies.records import read_table
from bsr_lite.studies.statistics import (
    calibration,
    interval,
    pair_margins,
    reward_controls,
    two_way_interval,
)
from bsr_lite.studies.tables import in_words, multiplicity

RNG = np.random.default_rng(0)
GOLD = RNG.normal(size=(200, 4))


def cell(rewards):
    return {"rewards": rewards.tolist(), "gold": GOLD.tolist()}


def test_interval_is_over_prompts_below_three_seeds_and_over_both_from_three_on():
    x = RNG.normal(size=(4, 30))
    assert interval(x[:2]) == bootstrap_interval(x[:2])
    assert interval(x) == two_way_interval(x)[:3]


@pytest.mark.parametrize("seeds", [2, 4])
def test_intervals_cover_where_prompts_of_a_topic_are_alike(seeds):
    """20 topics of unequal size; the truth is 0.3, a topic moves all its prompts. Over single
    prompts the interval misses it often, over topics as seldom as it says."""
    rng, topics = np.random.default_rng(0), np.repeat(np.arange(20), np.arange(2, 22))
    by_topic = by_prompt = 0
    for _ in range(300):
        x = (0.3 + 0.5 * rng.normal(size=20)[topics] + rng.normal(size=(1, len(topics)))
             + 0.3 * rng.normal(size=(seeds, len(topics))))
        mean, low, high = interval(x, topics)
        assert mean == pytest.approx(x.mean())
        by_topic += low <= 0.3 <= high
        _, low, high = interval(x)
        by_prompt += low <= 0.3 <= high
    assert by_topic / 300 == pytest.approx(0.93, abs=0.04) and by_prompt / 300 < 0.75


def test_clusters_of_one_prompt_change_nothing():
    x = RNG.normal(size=(4, 30))
    assert interval(x, range(30)) == pytest.approx(interval(x))


def test_the_text_says_how_many_differences_would_be_beyond_by_chance():
    rows = {"bt": {"a": {}}, "x": {"a": {"difference": (0.1, 0.05, 0.2)}},
            "y": {"a": {"difference": (0.1, -0.05, 0.2)}}}
    assert multiplicity(rows) == "1 of 2 differences exclude zero; 0.1 would by chance alone."


RECORDED = Path(__file__).parents[1] / "data/runs"


def test_three_sentences_on_a_record_in_which_nothing_differs():
    table = read_table(RECORDED / "study_fast")
    trained, beyond, undecided = in_words("models", 2, table).split("\n")
    assert trained == ("Trained: models by bt, bsr, 2 seeds each, on the same pairs in the same "
                       "order.")
    assert beyond == ("Differs from bt beyond its 95% interval: nothing (of 4, 0.2 would by chance "
                      "alone).")
    assert undecided == ("Undecided, which is not the same as equal: bsr on in-domain, "
                         "prompt-disjoint, response-disjoint, mutual-disjoint (intervals from "
                         "-0.034 to +0.025).")


def test_three_sentences_on_a_record_in_which_something_differs():
    """Every difference is in one of two sentences, in the first one with its interval."""
    table = read_table(RECORDED / "study_postscript")
    _, beyond, undecided = in_words("models", 3, table).split("\n")
    for method, parts in list(table.items())[1:]:
        named = re.search(rf"(?:: |; ){re.escape(method)} on ([\w, -]*)", undecided)[1].split(", ")
        for part, cell in parts.items():
            mean, low, high = cell["difference"]
            name = part.replace("_", "-")
            said = f"{method} on {name} {mean:+.3f} ({low:+.3f} to {high:+.3f})"
            assert (said in beyond) == (low * high > 0) == (name not in (n.strip() for n in named))
    assert "bsr-1e-2 on prompt-shifted -0.055 (-0.100 to -0.009)" in beyond


def test_nothing_undecided_is_said_as_well():
    table = {"bt": {"a": {}}, "x": {"a": {"difference": (0.1, 0.05, 0.2)}}}
    assert in_words("models", 3, table).endswith("the same as equal: nothing.")


def test_pairs_are_all_pairs_with_the_probability_of_their_label():
    one = {"rewards": [[3.0, 1.0, 0.0]], "gold": [[1.0, 1.0, 0.0]]}
    margins, p = pair_margins(one, 0.5)
    assert margins.tolist() == [2, 3, 1]
    assert p == pytest.approx([0.5, 1 / (1 + np.exp(-2)), 1 / (1 + np.exp(-2))])
    assert pair_margins(one, 0.0)[1].tolist() == [0.5, 1, 1]  # without label noise


def test_a_reward_that_is_the_labels_own_logit_is_calibrated():
    found = reward_controls([cell(GOLD / 0.5)], [cell(GOLD / 0.5)], 0.5)
    assert found["ece"] < 1e-9 and found["scale"] == pytest.approx(1, rel=0.02)
    assert found["rescaled_nll"] == pytest.approx(found["nll"])


def test_rescaling_is_all_that_separates_a_shrunken_copy():
    """A method whose rewards are BT's times 1/3 gains nothing over BT rescaled: the control says
    so; a shift of every prompt changes pooled tau and nothing after centring."""
    loud = GOLD / 0.5 * 3
    small = reward_controls([cell(loud / 3)], [cell(loud)], 0.5)
    first = reward_controls([cell(loud)], [cell(loud)], 0.5)
    assert small["nll"] < first["nll"] and small["rescaled_nll"] == pytest.approx(small["nll"])
    assert small["best_nll"] == pytest.approx(first["best_nll"], rel=1e-3)
    shifted = reward_controls([cell(loud + 50 * RNG.normal(size=(200, 1)))], [cell(loud)], 0.5)
    assert shifted["pooled_centred"] == pytest.approx(first["pooled_centred"], abs=1e-9)
    assert shifted["nll"] == pytest.approx(first["nll"])


def test_means_are_over_seeds_and_old_runs_have_no_controls():
    cells = [cell(GOLD + RNG.normal(size=GOLD.shape)) for _ in range(3)]
    found = reward_controls(cells, cells, 0.5)
    alone = [calibration(*pair_margins(c, 0.5))["nll"] for c in cells]
    assert found["nll"] == pytest.approx(np.mean(alone)) and len(set(alone)) == 3
    assert reward_controls([{"score": 1.0}], cells[:1], 0.5) == {}
