import pytest

from bsr_lite.gold import (
    complete_term,
    concise_term,
    fresh_term,
    gold_reward,
    gold_terms,
    instruction_term,
    topic_term,
)

LIST = "1. Bees make honey.\n2. They live in a hive.\n- A queen lays eggs."


def test_each_term_by_hand():
    assert instruction_term(LIST, "item", 3) == 1
    assert instruction_term(LIST, "item", 4) == pytest.approx(0.75)
    assert instruction_term("One. Two! Three?", "sentence", 1) == 0  # two too many of one
    assert instruction_term("About 3.5 km. Yes.", "sentence", 2) == 1  # a decimal ends nothing
    assert topic_term(LIST, ["honey", "hiv", "queen", "wax"]) == 0.75
    assert topic_term("Honeymoon", ["honey"]) == 0.25  # stems match the start of a word
    assert complete_term("Done.", True) == 1
    assert complete_term("cut off in", False) == 0
    assert complete_term('He said "yes."', True) == 1
    assert fresh_term("a b c d") == 1
    assert fresh_term("no no no no no") == 0
    assert fresh_term("...") == 0
    assert concise_term("word " * 26, "sentence", 1) == 1
    assert concise_term("word " * 52, "sentence", 1) == pytest.approx(0.5)
    assert concise_term("word " * 3, "sentence", 1) == pytest.approx(0.5)


@pytest.mark.parametrize("text", ["", " ", "!!!", "x", "1.", "\n\n-\n", "é" * 100_000, "a " * 9999])
def test_terms_stay_in_range_on_any_text(text):
    for unit in ("sentence", "item"):
        terms = gold_terms(text, unit=unit, count=2, stems=["a"], finished=False)
        assert all(0 <= value <= 1 for value in terms.values())
        assert gold_reward(terms) == pytest.approx(sum(terms.values()), abs=1e-4)
