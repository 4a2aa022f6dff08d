import json

import pytest

from bsr_lite.data import preference_logit, read_groups, read_rows
from bsr_lite.errors import DataError

JUDGE = "weighted_alpaca_eval_gpt4_turbo"


@pytest.fixture
def clone(tmp_path):
    """A small folder of the shape of tatsu-lab/alpaca_eval's results."""
    prompts = [f"Question {i}?" for i in range(3)]

    def annotate(model, preferences, outputs=None):
        folder = tmp_path / "clone" / "results" / model / JUDGE
        folder.mkdir(parents=True)
        rows = [{"instruction": p, "output_1": "the reference", "generator_1": "reference",
                 "dataset": "koala", "output_2": f"{model} says {i}", "generator_2": "example",
                 "annotator": JUDGE, "preference": preference}
                for i, (p, preference) in enumerate(zip(prompts, preferences, strict=True))]
        for i, text in (outputs or {}).items():
            rows[i]["output_2"] = text
        (folder / "annotations.json").write_text(json.dumps(rows))
        return folder / "annotations.json"

    annotate("gpt-a", [1.0, 1.5, 1.9])
    annotate("gpt-b", [1.25, None, 2.0])
    annotate("llama", [1.00002, 1.1, 1.5], outputs={2: "  "})
    (tmp_path / "clone" / "results" / "unjudged").mkdir()
    return tmp_path / "clone", annotate


def test_judged_table_of_a_clone(alpaca_eval, clone, tmp_path, capsys):
    path, _ = clone
    rows = list(alpaca_eval.alpaca_eval_rows(path))
    assert "dropped 2 rows without a judgement or a text" in capsys.readouterr().out
    assert len(rows) == 7 and rows[2] == {
        "prompt": "Question 2?", "model": "gpt-a",  # the folder's name
        "response": "gpt-a says 2", "gold": pytest.approx(0.9)}
    alpaca_eval.main(["--clone", str(path), "--output", str(tmp_path / "t.jsonl")])
    assert "7 judged answers" in capsys.readouterr().out
    groups = read_groups(str(tmp_path / "t.jsonl"), "alpaca_eval")
    assert [g.models for g in groups] == [["gpt-a", "gpt-b", "llama"], ["gpt-a", "llama"],
                                          ["gpt-a", "gpt-b"]]
    assert groups[0].gold == [-14.0, -1.1, -10.8] and groups[2].gold == [2.2, 14.0]


def test_a_preference_is_a_logit_or_as_judged_itself(alpaca_eval, clone, tmp_path):
    path, _ = clone
    alpaca_eval.main(["--clone", str(path), "--output", str(tmp_path / "t.jsonl")])
    raw = read_groups(str(tmp_path / "t.jsonl"), "judged")
    assert raw[0].gold == [0.0, 0.25, pytest.approx(2e-5)]


def test_near_equal_judgements_are_ties():
    assert preference_logit(3.1e-6) == preference_logit(3.0e-6)
    assert preference_logit(0.6) == -preference_logit(0.4) == 0.4
    with pytest.raises(ValueError, match=r"must be a preference in \[0, 1\].*as `judged`"):
        preference_logit(3.0)


@pytest.mark.parametrize(("broken", "message"), [
    ("[1, 2]", "row 1: expected an object with named columns, got int"),
    ("{", "row 1: not valid JSON"),
    ('[{"preference": 1.5}]', "row 1: column 'output_2' is missing"),
    ('[{"preference": 1.5, "output_2": 3}]', "row 1: .* 'str' objects"),
    ('[{"preference": 3, "output_2": "a"}]', r"row 1: preference 3 is not in \[1, 2\]")])
def test_broken_annotations_name_the_file(alpaca_eval, clone, broken, message):
    path, annotate = clone
    annotate("zeta", [1, 1, 1]).write_text(broken)
    with pytest.raises(DataError, match=f"zeta.*annotations.json.*{message}"):
        list(alpaca_eval.alpaca_eval_rows(path))


def test_a_folder_that_is_no_clone(alpaca_eval, tmp_path):
    with pytest.raises(DataError, match=r"no results/\*/weighted.*clone of tatsu-lab/alpaca_eval"):
        alpaca_eval.main(["--clone", str(tmp_path), "--output", str(tmp_path / "t.jsonl")])


def test_one_json_array_is_read_as_rows(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([{"a": 1}, {"a": 2}], indent=1))
    assert list(read_rows(str(tmp_path / "a.json"))) == [{"a": 1}, {"a": 2}]
    (tmp_path / "c.json").write_text('\n{"a": 1}\n{"a": 2}')
    assert list(read_rows(str(tmp_path / "c.json"))) == [{"a": 1}, {"a": 2}]
    (tmp_path / "d.json").write_text('\n  [{"a": 3}]')
    assert list(read_rows(str(tmp_path / "d.json"))) == [{"a": 3}]
    (tmp_path / "b.json").write_text('[{"a": 1}, {"a"')
    with pytest.raises(DataError, match=r"b\.json.*not valid JSON"):
        list(read_rows(str(tmp_path / "b.json")))
