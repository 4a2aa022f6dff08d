import re
from pathlib import Path

import numpy as np
import pytest

from bsr_lite.metrics import bootstrap_interval
from bsr_lite.studies.records import read_table
from bsr_lite.studies.statistics import (
    interval,
    two_way_interval,
)
from bsr_lite.studies.tables import in_words, multiplicity

RNG = np.random.default_rng(0)


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
