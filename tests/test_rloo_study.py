import contextlib
import io
import json
import shutil

import numpy as np
import pytest
import torch
import yaml

from bsr_lite.config import load_config
from bsr_lite.errors import ConfigError, DataError
from bsr_lite.models import load_reward_model
from bsr_lite.saving import save_reward_model
from bsr_lite.studies.rloo import (
    RLOOStudyConfig,
    gains,
    held_out,
    main,
    run_configs,
    run_study,
    second_half,
    summarize,
    verdict,
)
from bsr_lite.studies.statistics import (
    ratio_interval,
    two_way_interval,
    within_correlation,
    within_sd,
)


def write_study(folder, tiny_path):
    """Two methods of three seeds each, saved untrained, and a study of theirs; paths are relative,
    so that its runs may be copied elsewhere."""
    rows = [{"prompt": f"Name {n} birds.", "split": "valid" if n > 8 else "train", "unit": "item",
             "count": 2, "stems": ["bird"]} for n in range(14)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    for method in ("bt", "bsr"):
        for seed in (0, 1, 2):
            model = load_reward_model(tiny_path, lora_rank=2, depth=2, dtype="float32", seed=seed)
            save_reward_model(model, folder / "study" / f"{method}-seed{seed}" / "model")
    (folder / "base.yaml").write_text(yaml.safe_dump({
        "policy": {"name": tiny_path, "lora_rank": 2, "dtype": "float32"}, "reward_model": "unused",
        "output_dir": "unused", "data": "rows.jsonl", "steps": 2, "prompts_per_step": 3,
        "num_generations": 2, "max_new_tokens": 4, "standardize_prompts": 4}))
    (folder / "study.yaml").write_text(yaml.safe_dump({
        "base": "base.yaml", "proxies": "study", "methods": ["bt", "bsr"],
        "seeds": {0.0: [0, 1, 2], 0.05: [1]}, "output_dir": "out", "eval_prompts": 5,
        "common": {"learning_rate": 1e-2}}))


@pytest.fixture(scope="module")
def files(tmp_path_factory, tiny_path):
    folder = tmp_path_factory.mktemp("files")
    write_study(folder, tiny_path)
    return folder


@pytest.fixture(scope="module")
def first_run(tmp_path_factory, files):
    """The study, run once for all tests: its results, its table and what it printed."""
    folder, said = tmp_path_factory.mktemp("first_run"), io.StringIO()
    shutil.copytree(files, folder, dirs_exist_ok=True)
    with contextlib.chdir(folder), contextlib.redirect_stdout(said):
        table = run_study(folder / "study.yaml")
    return folder / "out", table, said.getvalue()


@pytest.fixture
def study(files, tmp_path, monkeypatch):
    """The study before its first run."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    return tmp_path / "study.yaml"


@pytest.fixture
def finished(study, first_run, tmp_path):
    """The study after its first run."""
    shutil.copytree(first_run[0], tmp_path / "out")
    return study


@pytest.mark.slow
def test_a_study_trains_every_seed_against_its_own_proxy_and_is_read_back(
        finished, first_run, tmp_path, capsys):
    _, table, said = first_run
    evaluation = json.loads((tmp_path / "out/bsr-kl0.0-seed1/evaluation.json").read_text())
    assert evaluation["config"]["reward_model"] == "study/bsr-seed1/model"
    assert evaluation["config"]["seed"] == 1 and evaluation["config"]["kl_coef"] == 0
    assert np.shape(evaluation["policy"]["kl"]) == np.shape(evaluation["policy"]["gold"]) == (5, 2)
    found = [json.loads((tmp_path / f"out/bsr-kl0.0-seed{s}/evaluation.json").read_text())
             for s in (0, 1, 2)]
    assert np.shape(evaluation["reference"]["gold"]) == (5, 8)
    points = [np.mean(f["policy"]["gold"], 1) - np.mean(f["reference"]["gold"], 1) for f in found]
    assert table["bsr-kl0.0"]["points"] == pytest.approx(two_way_interval(points)[:3])
    unit = within_sd(found[0]["reference"]["gold"])  # the same in all runs
    assert table["bsr-kl0.0"]["gold_gain"] == pytest.approx(
        two_way_interval(np.array(points) / unit)[:3])
    for part, answers in (("policy", 2), ("reference", 8)):  # terms add up to gold
        terms = np.sum(list(found[0][part]["terms"].values()), 0)
        assert terms == pytest.approx(np.mean(found[0][part]["gold"], 1), abs=1e-3)
        assert np.shape(found[0][part]["tokens"]) == (5, answers)
    one = json.loads((tmp_path / "out/bt-kl0.05-seed1/evaluation.json").read_text())
    assert one["config"]["kl_coef"] == 0.05
    assert table["bt-kl0.05"]["seeds"] == 1 and table["bt-kl0.05"]["kl"][1] is None
    text = (tmp_path / "out" / "results.md").read_text()
    assert f"| bsr, 0.0 | 3 | {table['bsr-kl0.0']['proxy_gain'][0]:.2f} (" in text
    assert f"| bt, 0.05 | 1 | {table['bt-kl0.05']['proxy_gain'][0]:.2f} | " in text
    answers = [json.loads((tmp_path / f"out/{m}-kl0.0-seed0/evaluation.json").read_text())
               ["reference"] for m in ("bt", "bsr")]  # same reference, same random stream
    assert all(answers[0][key] == answers[1][key] for key in ("texts", "gold"))
    assert said.count("policy in") == 8
    assert run_study(finished) == table
    assert "policy in" not in capsys.readouterr().out


@pytest.mark.slow
def test_what_a_run_was_trained_on_decides_whether_it_is_read_back(finished, tmp_path, capsys):
    """Another proxy under the same path, and a run of other settings, are trained again."""
    model = load_reward_model(str(tmp_path / "study/bt-seed0/model"))
    with torch.no_grad():
        model.head_weight.neg_()
    save_reward_model(model, tmp_path / "study/bt-seed0/model")
    capsys.readouterr()
    run_study(finished)
    out = capsys.readouterr().out
    assert out.count("policy in") == 1 and "another reward_model (its weights)" in out
    run_study(finished, ["common={learning_rate: 0.02}", "methods=[bt]", "seeds={0.05: [1]}"])
    assert capsys.readouterr().out.count("policy in") == 1


def test_prompts_to_evaluate_on_are_drawn_at_random_and_new(study, tmp_path):
    config = load_config(study, RLOOStudyConfig)
    run = run_configs(config, study)["bt-kl0.0-seed0"]
    rows = held_out(run, config)
    assert len(rows) == 5 and [r["prompt"] for r in rows] != sorted(r["prompt"] for r in rows)
    lines = (tmp_path / "rows.jsonl").read_text().replace("valid", "train", 1)
    (tmp_path / "rows.jsonl").write_text(lines)
    with pytest.raises(DataError, match="split 'valid' has 4 prompts, 0 of them trained on; 5 new"):
        run_study(study)
    double = json.dumps({"prompt": "Name 3 birds.", "split": "valid", "unit": "item", "count": 2,
                         "stems": ["bird"]})
    (tmp_path / "rows.jsonl").write_text(lines + double + "\n")
    with pytest.raises(DataError, match="has 5 prompts, 1 of them trained on"):
        run_study(study)


def known(gold, proxy=None, late=(0.0, 0.0)):
    """A run of two answers to each of four prompts, whose reference has gold 1 +- 1 and proxy 0 +-
    2, with eight steps, whose second half adds `late` to proxy and gold."""
    def part(gold, proxy):
        return {"gold": gold, "proxy": proxy, "texts": ["a b"] * 4} | {
            k: [[v, v]] * 4 for k, v in (("tokens", 3), ("finished", True), ("kl", 0.5))}
    metrics = [{"train/proxy_reward": late[0] * (i > 5), "train/gold_reward": late[1] * (i > 5)}
               for i in range(8)]
    return {"policy": part([[g, g] for g in gold], [[p, p] for p in proxy or gold]),
            "reference": part([[0.0, 2.0]] * 4, [[-2.0, 2.0]] * 4), "metrics": metrics}


def test_gains_wins_and_differences_of_known_runs():
    table = summarize({"bt-kl0.0": [known([1, 2, 1, 0]), known([1, 2, 2, 0]), known([1, 2, 2, 0])],
                       "bsr-kl0.0": [known([2, 2, 2, 2])] * 3,
                       "bt-kl0.1": [known([5, 5, 5, 5])], "bsr-kl0.1": [known([6, 6, 6, 6])]})
    assert table["bt-kl0.0"]["points"][0] == pytest.approx(1 / 6)
    assert table["bt-kl0.0"]["gold_gain"][0] == pytest.approx(1 / 6 / 2**0.5)  # its unit is 2**.5
    assert table["bt-kl0.0"]["difference"] == (0, 0, 0)
    assert table["bt-kl0.0"]["win_rate"] == pytest.approx(10.5 / 12)  # 0, the reference's, ties
    assert table["bsr-kl0.0"]["difference"][0] == pytest.approx(5 / 6 / 2**0.5)
    assert table["bsr-kl0.0"]["correlations"] == pytest.approx([1, 1, 1])
    assert table["bsr-kl0.1"]["difference"] == (pytest.approx(1 / 2**0.5), None, None)  # at its own


def test_proxy_and_gold_stand_in_one_unit_and_the_share_is_their_ratio():
    """The proxy gains two of its own standard deviations, gold one of its own."""
    runs = [known([1 + 2**0.5] * 4, [2 * 8**0.5] * 4)] * 3
    assert gains(runs[0])["proxy_gain"] == pytest.approx([2] * 4)
    assert gains(runs[0])["gold_gain"] == pytest.approx([1] * 4)
    row = summarize({"bt-kl0.0": runs})["bt-kl0.0"]
    assert row["share"] == pytest.approx((0.5, 0.5, 0.5)) and row["shares"] == pytest.approx(
        [0.5] * 3)
    lost = summarize({"bt-kl0.0": [known([1] * 4, [-1] * 4)] * 3})["bt-kl0.0"]
    assert lost["share"] == (None, None, None), "nothing was gained that could be kept"


def test_what_is_earned_by_ending_is_told_apart():
    run = known([2] * 4)
    for part, complete in (("policy", 1.0), ("reference", 0.5)):
        run[part]["terms"] = {"complete": [complete] * 4, "topic": [0.25] * 4}
    found = gains(run)
    assert found["without_complete"] == pytest.approx([0.5 / 2**0.5] * 4)
    assert found["complete"] == pytest.approx([0.5] * 4) and not found["topic"].any()


@pytest.mark.parametrize(("late", "says"), [
    ((8**0.5, -(2**0.5)), "over-optimized: gold falls"), ((8**0.5, 2**0.5), "gold rises, too"),
    ((8**0.5, 0.0), "undecided"), ((0.0, 1.0), "undecided: so is the proxy's rise"),
    ((-1.0, 1.0), "the proxy falls")])
def test_the_second_half_is_judged_by_its_intervals(late, says):
    found = second_half([known([1] * 4, late=late)] * 3)
    assert [mean for mean, *_ in found] == pytest.approx(
        [late[0] / 8**0.5, late[1] / 2**0.5])  # in the units of the gains
    assert verdict(*found) == says
    assert verdict(*second_half([known([1] * 4, late=late)] * 2)).endswith("three seeds")


def test_the_interval_of_a_share_covers_what_is_true():
    rng, inside = np.random.default_rng(0), 0
    for _ in range(300):
        seed, prompt = rng.normal(size=(4, 1)), rng.normal(size=(1, 60))
        bottom = 2 + 0.2 * seed + 0.5 * prompt + rng.normal(size=(4, 60))
        top = 0.6 * bottom + 0.1 * rng.normal(size=(4, 1)) + rng.normal(size=(4, 60))
        _, low, high = ratio_interval(top, bottom)
        inside += low <= 0.6 <= high
    assert 0.9 <= inside / 300 <= 1, "95% intervals, at least nearly so at four seeds"
    assert ratio_interval(top[:2], bottom[:2])[1:] == (None, None)


def test_within_prompts_alone():
    x = np.array([[0.0, 2.0], [100.0, 102.0]])
    assert within_sd(x) == pytest.approx(2**0.5)
    assert within_correlation(x, x[::-1]) == pytest.approx(1)
    assert within_correlation(x, -x) == pytest.approx(-1)
    assert within_correlation(x, np.ones((2, 2))) == 0


RULES_STUDY = ["methods=[gold, constant, noise, heavy-tails, trick, bt]", "seeds={0.0: [1]}"]


@pytest.mark.slow
def test_rules_stand_in_for_reward_models(study, tmp_path):
    """Trained, killed in the middle, and gone on with like any other proxy."""
    table = run_study(study, RULES_STUDY)
    assert list(table) == [f"{m}-kl0.0" for m in ("gold", "constant", "noise", "heavy-tails",
                                                  "trick", "bt")]
    runs = {m: json.loads((tmp_path / f"out/{m}-kl0.0-seed1/evaluation.json").read_text())
            for m in ("gold", "constant", "trick")}
    assert runs["gold"]["config"]["reward_model"] == "rule:gold"
    assert table["gold-kl0.0"]["correlations"] == pytest.approx([1], abs=1e-3)
    assert np.unique(runs["constant"]["policy"]["proxy"]) == 0
    assert table["constant-kl0.0"]["share"][0] is None
    same = [(tmp_path / f"out/gold-kl0.0-seed1/{n}").read_text() for n in ("metrics.jsonl",)]
    (tmp_path / "out/gold-kl0.0-seed1/evaluation.json").unlink()
    again = run_study(study, RULES_STUDY)  # goes on from the checkpoint, which is at its end
    assert again["gold-kl0.0"] == table["gold-kl0.0"]
    assert same == [(tmp_path / "out/gold-kl0.0-seed1/metrics.jsonl").read_text()]


def test_bad_studies_are_refused_before_a_run_starts(study):
    for seeds, message in (("{0.0: [1, 1]}", r"seeds.0.0: \[1, 1\] repeat: no interval"),
                           ("{0.0: 1}", "seeds.0.0 must be a list, got 1"),
                           ("{}", "seeds Dictionary should have at least 1 item"),
                           ("{a: [1]}", "seeds.a.* must be a valid number, .*, got 'a'")):
        with pytest.raises(ConfigError, match=message):
            main(["--config", str(study), "--set", f"seeds={seeds}"])
    with pytest.raises(ConfigError, match="bt-seed3/model is missing: run the study"):
        run_study(study, ["seeds={0.0: [0,1,3]}"])
    with pytest.raises(ConfigError, match="bt-kl-1.0-seed0: kl_coef must be greater .* to 0"):
        run_configs(load_config(study, RLOOStudyConfig, ["seeds={-1.0: [0]}"]), study)
    with pytest.raises(ConfigError, match="a study compares by gold"):
        run_study(study, ["common={gold: null}"])
    with pytest.raises(ConfigError, match="rules are made of the pocket world's gold"):
        run_study(study, ["methods=[trick]", "common={gold: some/model}"])
    with pytest.raises(ConfigError, match="eval_prompts must be greater than or equal to 2"):
        run_study(study, ["eval_prompts=1"])
