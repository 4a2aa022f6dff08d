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
    held_out,
    main,
    run_configs,
    run_study,
    summarize,
)
from bsr_lite.studies.statistics import two_way_interval


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
    gains = [np.subtract(*(json.loads((tmp_path / f"out/bsr-kl0.0-seed{s}/evaluation.json")
                                      .read_text())[part]["gold"]
                           for part in ("policy", "reference"))).mean(1) for s in (0, 1, 2)]
    assert table["bsr-kl0.0"]["gold_gain"] == pytest.approx(two_way_interval(gains)[:3])
    one = json.loads((tmp_path / "out/bt-kl0.05-seed1/evaluation.json").read_text())
    assert one["config"]["kl_coef"] == 0.05
    assert table["bt-kl0.05"]["seeds"] == 1 and table["bt-kl0.05"]["kl"][1] is None
    text = (tmp_path / "out" / "results.md").read_text()
    assert f"| bsr, 0.0 | 3 | {table['bsr-kl0.0']['gold_gain'][0]:.3f} (" in text
    assert f"| bt, 0.05 | 1 | {table['bt-kl0.05']['gold_gain'][0]:.3f} | 0.000 |" in text
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


def test_gains_wins_and_differences_of_known_runs():
    def run(gold):
        def part(gold):
            return {"gold": [[g, g] for g in gold], "texts": ["a b"] * 4} | {
                k: [[v, v]] * 4 for k, v in (("proxy", 0.0), ("tokens", 3), ("finished", True),
                                             ("kl", 0.5))}
        return {"policy": part(gold), "reference": part([1.0] * 4)}

    table = summarize({"bt-kl0.0": [run([1, 2, 1, 0]), run([1, 2, 2, 0]), run([1, 2, 2, 0])],
                       "bsr-kl0.0": [run([2, 2, 2, 2])] * 3,
                       "bt-kl0.1": [run([5, 5, 5, 5])], "bsr-kl0.1": [run([6, 6, 6, 6])]})
    assert table["bt-kl0.0"]["gold_gain"][0] == pytest.approx(1 / 6)
    assert table["bt-kl0.0"]["difference"] == (0, 0, 0)
    assert table["bt-kl0.0"]["win_rate"] == pytest.approx(7 / 12)
    assert table["bsr-kl0.0"]["difference"][0] == pytest.approx(5 / 6)
    assert table["bsr-kl0.0"]["win_rate"] == 1 and table["bsr-kl0.0"]["length_controlled"] > 0.9
    assert table["bsr-kl0.1"]["difference"] == (1, None, None)  # at its own kl_coef


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
    with pytest.raises(ConfigError, match="eval_prompts must be greater than or equal to 2"):
        run_study(study, ["eval_prompts=1"])
