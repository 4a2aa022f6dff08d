import numpy as np
import pytest

from bsr_lite.gold import gold_reward, gold_terms
from bsr_lite.studies.proxies import RULES, first_word, heavy_tailed, rule_scorer, uniform

ASKED = {"unit": "sentence", "count": 2, "stems": ["bee", "hive"]}
TEXTS = ["Bees fly. They live in a hive.", "Bees! Wow!", "Trees."]


def scores(name, seed=0):
    batch = [{"row": {"prompt": "p"} | ASKED, "texts": TEXTS, "finished": [True] * 3}]
    return rule_scorer(name, seed)(batch)[0]


def test_rules_are_gold_and_what_was_done_to_it():
    gold = [gold_reward(gold_terms(text, finished=True, **ASKED)) for text in TEXTS]
    assert scores("gold") == gold and scores("constant") == [0, 0, 0]
    assert scores("trick") == [gold[0], gold[1] + 1.0, gold[2]]
    error = np.subtract(scores("heavy-tails"), gold)
    assert error[0] == pytest.approx(error[1]) != pytest.approx(error[2])  # by the first word
    assert first_word("1. The end") == "the" and first_word("42") == ""


def test_errors_are_the_texts_own_and_every_seeds_own():
    assert scores("noise") == scores("noise") != scores("noise", seed=1)
    assert len(set(scores("noise"))) == 3
    assert scores("heavy-tails") != scores("heavy-tails", seed=1)


def test_noise_has_the_distributions_that_it_claims():
    u = np.array([uniform(str(i), 7) for i in range(20_000)])
    assert u.min() > 0 and u.max() < 1 and abs(u.mean() - 0.5) < 0.01
    drawn = np.array([RULES["noise"](str(i), 0.0, 7) for i in range(5000)])
    assert abs(drawn.mean()) < 0.06 and abs(drawn.std() - 1) < 0.05
    heavy = np.array([heavy_tailed(x) for x in u])
    # quantiles of Student's t with two degrees of freedom
    assert np.quantile(heavy, [0.75, 0.95]) == pytest.approx([0.816, 2.920], abs=0.15)
    assert (np.abs(heavy) > 9.925).mean() == pytest.approx(0.01, abs=0.004)


def test_every_rule_gives_a_number():
    assert all(np.isfinite(scores(name)).all() for name in RULES)
