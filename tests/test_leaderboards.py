"""RM-Bench over its per-domain files, RewardBench 2, and what people labelled. Answers of the
hand-made rows are numbers: the rewards that a fake model gives them."""

import json
import math
import pathlib
import re

import pytest
import torch

from bsr_lite.errors import DataError
from bsr_lite.models import load_reward_model
from bsr_lite.saving import save_reward_model
from bsr_lite.studies import leaderboards
from bsr_lite.studies.evaluate import main
from bsr_lite.studies.leaderboards import (
    board_table,
    evaluate_reward_bench_2,
    evaluate_rm_bench,
    read_benchmark,
    read_board,
    read_sets,
    reward_bench_2,
    ties_score,
)
from bsr_lite.studies.tables import table

# file name -> a subset of it, as published
FILES = {"chat_filtered.json": "alpacaeval", "code_filtered.json": "bigcode/humanevalpack",
         "math_filtered.json": "some-maths", "safety-refuse_filtered.json": "refusals-offensive",
         "safety-response_filtered.json": "xstest-should-respond"}
ALL, NONE = (["2", "2", "2"], ["1", "1", "1"]), (["1", "1", "1"], ["1", "1", "2"])  # ties lose


@pytest.fixture
def fake(monkeypatch):
    """A model whose reward of an answer is the number that the answer is; 9 is too long."""
    def fitting(model, groups, max_length):
        long = [g for g in groups if "9" in g.responses]
        return [(g, g.responses) for g in groups if "9" not in g.responses], long

    monkeypatch.setattr(leaderboards, "fitting", fitting)
    monkeypatch.setattr(leaderboards, "score_tokens", lambda model, tokens, budget: [
        {"rewards": torch.tensor([float(answer) for answer in answers])} for answers in tokens])


def write(path, rows):
    path.write_text(json.dumps(rows))
    return str(path)


def styles(number, subset, chosen, rejected, **more):
    return {"id": number, "subset": subset, "prompt": f"{subset} {number}", "chosen": chosen,
            "rejected": rejected, **more}


def per_domain(folder, answers=ALL):
    """Five files of two prompts each; ids are repeated between domains, as in the real ones."""
    return [write(folder / name, [styles(i, subset, *answers) for i in (8, 12)])
            for name, subset in FILES.items()]


# ---- RM-Bench ------------------------------------------------------------------------------------

def test_files_of_one_domain_each_are_one_result(fake, tmp_path):
    files = per_domain(tmp_path)
    mixed = (["2", "3", "4"], ["1", "3", "3.5"])  # hard 0, normal 2/3, easy 1
    write(tmp_path / "code_filtered.json", [styles(8, FILES["code_filtered.json"], *mixed)])
    write(tmp_path / "safety-refuse_filtered.json", [
        styles(8, "xstest-should-refuse", *NONE), styles(9, "refusals-dangerous", *NONE)])
    result = evaluate_rm_bench(None, read_board(files, "rm_bench", "train"))
    wins = [[True, False, False], [True, False, False], [True, True, True]]
    assert result["matrices"]["code"] == wins
    assert result["code"] == pytest.approx((0 + 2 / 3 + 1) / 3)
    assert (result["chat"], result["math"], result["safety"]) == (1, 1, 0.5)
    assert result["hard"] == pytest.approx((1 + 1 + 0 + 0.5) / 4)
    assert result["overall"] == pytest.approx((1 + 1 + 5 / 9 + 0.5) / 4)
    assert result["groups"] == {"chat": 2, "code": 1, "math": 2, "safety-refuse": 2,
                                "safety-response": 2}
    shown = board_table({"rm_bench": result})
    assert "| RM-Bench | chat | math | code |" in shown and "np.str_" not in shown


def test_the_domain_is_the_columns_then_the_files_then_the_subsets(tmp_path):
    def domain(name, row):
        (group,) = read_benchmark(write(tmp_path / name, [row]), "rm_bench")
        return group.split

    row = styles(1, "unheard-of", *ALL)
    assert domain("chat_filtered.json", row | {"domain": "math"}) == "math"
    assert domain("safety-refuse_filtered.json", row) == "safety-refuse"
    assert domain("safety-response.json", row) == "safety-response"
    assert domain("rows.json", row | {"subset": "xstest-should-respond"}) == "safety-response"
    with pytest.raises(DataError, match=r"rows.json, row 1: unknown RM-Bench domain 'unheard-of'.*"
                                        "start the file's name with it"):
        domain("rows.json", row)
    with pytest.raises(DataError, match="unknown RM-Bench domain None"):
        domain("chatty_filtered.json", {k: v for k, v in row.items() if k != "subset"})
    with pytest.raises(DataError, match="row 1: .*'chat' of the subset 'xstest-should-respond'"):
        domain("chat_filtered.json", row | {"subset": "xstest-should-respond"})


def test_prompts_of_two_files_count_once_or_not_at_all(tmp_path):
    files = per_domain(tmp_path)
    assert len(read_board(files, "rm_bench", "train")) == 10  # the same ids in each
    twice = [styles(i, "refusals-dangerous", *ALL) | {"prompt": "as published"} for i in (1, 2)]
    assert len(read_board([write(tmp_path / "b.json", twice)], "rm_bench", "train")) == 2
    with pytest.raises(DataError, match="chat_filtered.json repeats prompts of .*chat_filtered"):
        read_board([*files, files[0]], "rm_bench", "train")
    total = write(tmp_path / "total_dataset.json", [
        styles(i, "alpacaeval", *ALL, domain="chat") for i in (1, 12)])
    with pytest.raises(DataError, match="repeats prompts of .*total.*'alpacaeval 12': leave one"):
        read_board([total, files[0]], "rm_bench", "train")


@pytest.mark.parametrize("chosen", [["1", "2"], ["1", "2", "3", "4"], "123", []])
def test_other_than_three_styles_are_refused(tmp_path, chosen):
    path = write(tmp_path / "chat_filtered.json", [styles(1, "alpacaeval", chosen, ALL[1])])
    with pytest.raises(DataError, match="chat_filtered.json, row 1: .*lists of three styles each"):
        read_benchmark(path, "rm_bench")


# ---- RewardBench 2 -------------------------------------------------------------------------------

def best_of(number, subset, chosen, rejected, **more):
    return {"id": str(number), "subset": subset, "prompt": f"{subset} {number}", "chosen": chosen,
            "rejected": rejected, "num_correct": len(chosen), "num_incorrect": len(rejected),
            "total_completions": len(chosen) + len(rejected), **more}


TIES = [best_of("ref:0", "Ties", ["3"], ["1", "0"]),  # gap 2
        best_of("tied:0", "Ties", ["4", "3.5", "3"], ["1"]),  # gap 2, spread 1
        best_of("ref:1", "Ties", ["2"], ["1"]),  # gap 1
        best_of("tied:1", "Ties", ["5", "3"], ["0"]),  # gap 3, spread 2: not by the smaller gap
        best_of("tied:2", "Ties", ["1", "2"], ["1"])]  # gap 0: wrong, and without a partner
TIES_SCORE = (0.3 * 1 + 0.3 * 2 / 3 + 0.2 * 1 + 0.2 * 1 / 2
              + 0.01 * (math.tanh(2 / 1 - 1) + math.tanh(1 / 2 - 1)) / 2)
REST = [best_of(1, "Factuality", ["2"], ["1", "0", "1"]), best_of(2, "Factuality", ["2"], ["3"]),
        best_of(1, "Precise IF", ["2"], ["2", "1", "1"]),  # the best is shared by two: half
        best_of(1, "Math", ["0"], ["0", "0", "0"]), best_of(1, "Safety", ["1"], ["0", "0", "0"]),
        best_of(1, "Focus", ["1"], ["2", "2", "2"])]
SCORES = {"Factuality": 0.5, "Precise IF": 0.5, "Math": 0.25, "Safety": 1.0, "Focus": 0.0,
          "Ties": pytest.approx(TIES_SCORE)}


def test_reward_bench_2_by_hand(fake, tmp_path):
    files = [write(tmp_path / "rest.json", REST), write(tmp_path / "ties.json", TIES)]
    result = evaluate_reward_bench_2(None, read_board(files, "reward_bench_2", "train"))
    assert result["scores"] == SCORES
    assert result["overall"] == pytest.approx((2.25 + TIES_SCORE) / 6)
    assert result["groups"] == {"Factuality": 2, "Precise IF": 1, "Math": 1, "Safety": 1,
                                "Focus": 1, "Ties": 5}
    shown = board_table({"reward_bench_2": result})
    assert shown.startswith("| RewardBench 2 | Factuality | Precise IF |")
    assert f"| {(2.25 + TIES_SCORE) / 6:.3f} |\n" in shown and "No overall" not in shown
    with pytest.raises(DataError, match="rest.json repeats prompts of .*rest.json"):
        read_board([files[0], files[0]], "reward_bench_2", "train")


def test_without_all_six_subsets_there_is_no_overall(fake, tmp_path):
    long = best_of(3, "Focus", ["9"], ["1"])  # over max_length
    rows = [*REST, long, TIES[0], best_of("tied:0", "Ties", ["4", "3"], ["9"])]
    groups = read_board([write(tmp_path / "r.json", rows)], "reward_bench_2", "train")
    result = evaluate_reward_bench_2(None, groups)
    assert "Ties" not in result["scores"] and "overall" not in result  # no ref has its tied
    assert result["dropped"] == {"Focus": 1, "Ties": 1}
    assert "mean of all six subsets" in board_table({"reward_bench_2": result})
    with pytest.raises(DataError, match="all 1 prompts exceed max_length"):
        evaluate_reward_bench_2(None, groups[6:7])


def test_ties_at_the_edges():
    even = {"ref:1": [(2, 1), (1, 0)], "tied:1": [(2, 1), (2, 1), (1, 0)]}  # spread 0
    assert ties_score(even) == pytest.approx(1.01)
    equal = {"ref:1": [(1, 1), (1, 0)], "tied:1": [(1, 1), (1, 1), (1, 0)]}  # 0 / 0
    assert ties_score(equal) == 0
    worse = {"ref:1": [(0, 1), (1, 0)], "tied:1": [(1, 1), (1, 1), (2, 0)]}  # -1 / 0
    assert ties_score(worse) == pytest.approx(-0.01)
    assert ties_score({"ref:1": even["ref:1"], "tied:2": even["tied:1"]}) is None


@pytest.mark.parametrize(("change", "message"), [
    ({"chosen": []}, "lists of at least one answer"), ({"rejected": "2"}, "lists of at least one"),
    ({"num_correct": 2}, "num_correct is 2, but 1 answers"), ({"subset": " "}, "subset must be"),
    ({"id": None}, "column 'id' is missing"), ({"rejected": [""]}, "non-empty text"),
    ({"subset": "Ties"}, "must be ref:N or tied:N, got '1'"),
    ({"subset": "ties", "id": "ref:x"}, "must be ref:N or tied:N")])
def test_malformed_rows_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        reward_bench_2(best_of(1, "Math", ["1"], ["0"]) | change)


# ---- LLMBar and PandaLM: labels of people --------------------------------------------------------

EXTRACTS = next((folder / "shared/data" for folder in pathlib.Path(__file__).parents
                 if (folder / "shared/data").is_dir()), pathlib.Path("shared/data"))
BAR = [{"input": "Name a fruit.", "output_1": "An apple.", "output_2": "A stone", "label": 1},
       {"input": "And a colour?", "output_1": "Wet", "output_2": "Blue", "label": 2}]
PANDA = {"instruction": "Translate.", "input": "rouge", "response1": True, "response2": "red",
         "cmp_key": "bloom-7b_cerebras-gpt-6.7B", "annotator1": 2, "annotator2": 0, "annotator3": 2}


def as_extract(row, **names):
    """A row under other columns' names."""
    return {names.get(name, name): value for name, value in row.items()}


def longer_wins(groups):
    """(decided pairs, those whose better answer is longer, those of equal length)."""
    ahead = [(len(g.responses[0]) - len(g.responses[1])) * (g.gold[0] - g.gold[1])
             for g in groups if g.gold[0] != g.gold[1]]
    return len(ahead), sum(x > 0 for x in ahead), sum(x == 0 for x in ahead)


def test_llmbar_as_published_and_as_one_table(tmp_path):
    """A folder of subsets, one of its files, and rows that name their subset are the same."""
    for i, subset in enumerate(("Adversarial/Manual", "Natural")):
        (tmp_path / "LLMBar" / subset).mkdir(parents=True)
        write(tmp_path / "LLMBar" / subset / "dataset.json", BAR[i:i + 1])
    sets = dict(read_sets(str(tmp_path / "LLMBar"), "llmbar", "train"))
    assert list(sets) == ["LLMBar: Adversarial/Manual", "LLMBar: Natural", "LLMBar: all"]
    first, second = sets["LLMBar: all"]
    assert (first.prompt[0]["content"], first.responses) == ("Name a fruit.",
                                                             ["An apple.", "A stone"])
    assert [g.gold for g in (first, second)] == [[1, 0], [0, 1]]
    natural = tmp_path / "LLMBar" / "Natural" / "dataset.json"
    assert read_sets(str(natural), "llmbar", "train") == [("dataset.json: Natural", [second])]
    rows = [as_extract(row, input="prompt", output_1="response_1", output_2="response_2")
            | {"subset": group.split} for row, group in zip(BAR, (first, second), strict=True)]
    table = read_benchmark(write(tmp_path / "llmbar.json", rows), "llmbar")
    assert ([(g.prompt, g.responses, g.gold, g.split) for g in table]
            == [(g.prompt, g.responses, g.gold, g.split) for g in (first, second)])


@pytest.mark.parametrize(("votes", "gold"), [
    ([1, 1, 1], [1, 0]), ([2, 1, 2], [0, 1]), ([0, 2, 2], [0, 1]), (["1", "0", "1"], [1, 0]),
    ([0, 0, 0], [0, 0]), ([0, 0, 1], [0, 0]), ([0, 1, 2], [0, 0]), ([2], [0, 1]), ([1, 2], [0, 0])])
def test_gold_is_what_more_than_half_of_the_people_prefer(votes, gold):
    row = {"prompt": "q", "response_1": "a", "response_2": "b", "models": "m_n", "labels": votes}
    assert leaderboards.pandalm(row).gold == gold


def test_pandalm_as_published_and_as_one_table(tmp_path, capsys):
    rows = [PANDA, PANDA | {"input": "", "annotator3": 1}, PANDA | {"response2": " "}]
    groups = read_benchmark(write(tmp_path / "testset-v1.json", rows), "pandalm")
    assert "1 of 3 rows: dropped: an empty answer" in capsys.readouterr().out
    assert [g.prompt[0]["content"] for g in groups] == ["Translate.\n\nrouge", "Translate."]
    assert groups[0].responses == ["True", "red"]  # JSON's true, as six published answers are
    assert groups[0].models == ["bloom-7b", "cerebras-gpt-6.7B"]
    assert [g.gold for g in groups] == [[0, 1], [0, 0]]  # 2, 0, 2; no majority of 2, 0, 1
    row = {"prompt": "Translate.\n\nrouge", "response_1": "True", "response_2": "red",
           "models": PANDA["cmp_key"], "labels": [2, 0, 2]}
    assert read_benchmark(write(tmp_path / "pandalm.json", [row]), "pandalm") == groups[:1]


@pytest.mark.parametrize(("format", "row", "message"), [
    ("llmbar", BAR[0] | {"label": 0}, "labels must be 1, 2, got .0."),
    ("llmbar", BAR[0] | {"label": True}, "labels must be 1, 2, got .True."),
    ("llmbar", BAR[0] | {"label": None}, "column 'label' is missing"),
    ("llmbar", BAR[0] | {"output_2": 7}, "must be non-empty text, got int"),
    ("pandalm", PANDA | {"annotator2": 3}, r"labels must be 0, 1, 2, got \[2, 3, 2\]"),
    ("pandalm", PANDA | {"annotator2": None}, r"0, 1, 2, got \[2, None, 2\]"),
    ("pandalm", PANDA | {"cmp_key": "opt-7b"}, "needs equally many"),
    ("pandalm", {"prompt": "q", "response_1": "a", "response_2": "b", "models": "m_n",
                 "labels": []}, r"labels must be 0, 1, 2, got \[\]"),
    ("pandalm", {"prompt": "q", "response_1": "a", "response_2": "b", "models": "m_n",
                 "labels": "1"}, "labels must be 0, 1, 2, got '1'")])
def test_a_label_that_is_none_names_file_and_row(tmp_path, format, row, message):
    good = BAR[0] if format == "llmbar" else PANDA
    path = write(tmp_path / "people.json", [good, row])
    with pytest.raises(DataError, match=f"people.json, row 2: .*{message}"):
        read_benchmark(path, format)


def test_real_llmbar_where_it_is_at_hand():
    path = EXTRACTS / "llmbar.jsonl"
    if not path.exists():
        pytest.skip("the extract of LLMBar is not part of this project")
    found = {name.rpartition("/")[2]: longer_wins(groups)
             for name, groups in read_sets(str(path), "llmbar", "train")}
    assert found == {"GPTInst": (92, 12, 0), "GPTOut": (47, 21, 0), "Manual": (46, 8, 1),
                     "Neighbor": (134, 16, 0), "llmbar.jsonl: Natural": (100, 56, 1),
                     "llmbar.jsonl: all": (419, 113, 2)}  # .13, .45, .17, .12, .56


def test_real_pandalm_where_it_is_at_hand(tmp_path, capsys):
    path = EXTRACTS / "pandalm.jsonl"
    if not path.exists():
        pytest.skip("the extract of PandaLM's test set is not part of this project")
    groups = read_benchmark(str(path), "pandalm")
    assert "54 of 999 rows: dropped: an empty answer" in capsys.readouterr().out
    assert longer_wins(groups) == (842, 548, 7)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    filled = [row | {k: row[k] or "-" for k in ("response_1", "response_2")} for row in rows]
    groups = read_benchmark(write(tmp_path / "filled.json", filled), "pandalm")
    assert len(groups) == 999 and longer_wins(groups) == (894, 599, 7)  # 67.5% of 887


# ---- the command ---------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def model(tiny_path, tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    save_reward_model(load_reward_model(tiny_path, dtype="float32", seed=2), path)
    return str(path)


def test_the_command_scores_the_per_domain_files_as_the_whole(model, tmp_path):
    answers = ["red", "a green apple", "# Blue\n\n- sky"], ["stone", "the river", "**slowly**"]
    files, total = per_domain(tmp_path, answers), []
    for file in files:
        with open(file) as opened:
            domain = file.rpartition("/")[2].split("_")[0]
            total += [row | {"domain": domain} for row in json.load(opened)]
    command = ["--model", model, "--format", "rm_bench", "--output", str(tmp_path / "r.json")]
    main([*command, "--data", *files])
    apart = json.loads((tmp_path / "r.json").read_text())
    assert list(apart) == ["rm_bench"] and 0 < apart["rm_bench"]["overall"] < 1
    assert "No overall score" not in (tmp_path / "r.md").read_text()
    main([*command, "--data", write(tmp_path / "total_dataset.json", total)])
    assert json.loads((tmp_path / "r.json").read_text()) == apart
    with pytest.raises(DataError, match="repeats prompts"):
        main([*command, "--data", *files, str(tmp_path / "total_dataset.json")])


def test_reward_bench_2_from_the_command(model, tmp_path):
    file = write(tmp_path / "rb2.json", [*REST, *TIES])
    main(["--model", model, "--format", "reward_bench_2", "--data", file,
          "--output", str(tmp_path / "r.json")])
    result = json.loads((tmp_path / "r.json").read_text())["reward_bench_2"]
    assert result["scores"].keys() == SCORES.keys() and result["scores"]["Math"] == 0.25
    assert result["overall"] == pytest.approx(sum(result["scores"].values()) / 6)


@pytest.mark.parametrize("format", ["reward_bench", "reward_bench_2"])
def test_a_subsets_name_is_no_path_and_breaks_no_table(model, tmp_path, format):
    rows = [best_of(i, f"../../x{i} | y\n| z\u2028", ["good"], ["bad"]) for i in range(2)]
    if format == "reward_bench":
        rows = [row | {"chosen": "good", "rejected": "bad"} for row in rows]
    folder = tmp_path / "a" / "b" / "out"
    main(["--model", model, "--format", format, "--data", write(tmp_path / "rows.json", rows),
          "--output", str(folder / "r.json")])
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == [
        "r.json", "r.md", "rows.json"]
    lines = (folder / "r.md").read_text().split("\n\n")[0].strip().splitlines()
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert r"../../x0 \| y \| z" in "\n".join(lines)


def test_the_command_shows_every_subset_and_the_score_of_length(model, tmp_path):
    rows = [row | {"subset": subset} for row, subset in zip(BAR, ("Manual", "Natural"),
                                                            strict=True)]
    main(["--model", model, "--format", "llmbar", "--data", write(tmp_path / "bar.json", rows),
          "--output", str(tmp_path / "r.json")])
    header, _, *lines = (line.split(" | ") for line in
                         (tmp_path / "r.md").read_text().splitlines())
    assert [line[0] for line in lines] == [
        "| bar.json: Manual", "| bar.json: Natural", "| bar.json: all"]
    assert header[3] == "score of length" and [line[3] for line in lines] == ["1.000"] * 3
    panda = [PANDA, PANDA | {"annotator3": 1}]  # the second has no majority
    main(["--model", model, "--format", "pandalm", "--data", write(tmp_path / "p.json", panda),
          "--output", str(tmp_path / "p_scores.json")])
    (result,) = json.loads((tmp_path / "p_scores.json").read_text()).values()
    assert [result[key] for key in ("groups", "undecided", "length_score")] == [1, 1, 0]


def test_a_table_keeps_one_line_a_row():
    assert table(["a|b"], [["c\r\nd"], [1]]) == "| a\\|b |\n|---|\n| c d |\n| 1 |"
