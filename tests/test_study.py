import json

import numpy as np
import pytest
import yaml

from bsr_lite.config import ConfigError, StudyConfig, load_config
from bsr_lite.metrics import bootstrap_interval, seed_interval
from bsr_lite.study import interval, run_configs, run_study


@pytest.fixture
def study_path(tmp_path, tiny_path, groups):
    rows = [{"prompt": g.prompt, "responses": g.responses, "gold": g.gold, "models": g.models,
             "split": g.split} for g in groups]
    (tmp_path / "groups.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "rm.yaml").write_text(yaml.safe_dump({
        "output_dir": "unused", "model": {"name": tiny_path, "lora_rank": 4, "dtype": "float32"},
        "data": {"source": str(tmp_path / "groups.jsonl"), "label_temperature": 0.5,
                 "valid_models": ["m4", "m5", "m6", "m7"]}, "batch_size": 8}))
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({
        "base": "rm.yaml", "output_dir": str(tmp_path / "study"), "seeds": [0, 1],
        "common": {"data": {"max_pairs": 16}, "head_learning_rate": 1e-2, "epochs": 3},
        "methods": {"bt": {}, "bsr": {"loss": "bsr", "bsr_lambda": 1.0}}}, sort_keys=False))
    return tmp_path / "study.yaml"


def test_study_runs_writes_and_reads_back(study_path, tmp_path, capsys):
    table = run_study(study_path)
    out = tmp_path / "study"
    assert (out / "results.png").stat().st_size > 10_000
    numbers = json.loads((out / "results.json").read_text())["table"]
    text = (out / "results.md").read_text()
    for method in ("bt", "bsr"):
        for scenario in ("in_domain", "prompt_disjoint", "response_disjoint", "mutual_disjoint"):
            cell = table[method][scenario]
            runs = [json.loads((out / f"{method}-seed{s}/evaluation.json").read_text())
                    ["scenarios"][scenario] for s in (0, 1)]
            assert cell["mean"] == pytest.approx(np.mean([r["score"] for r in runs]))
            assert numbers[method][scenario]["mean"] == cell["mean"]
            assert f"{cell['mean']:.3f}" in text and f"n={runs[0]['groups']}" in text
            assert cell["low"] <= cell["mean"] <= cell["high"]
    first, other = table["bt"]["prompt_disjoint"], table["bsr"]["prompt_disjoint"]
    assert first["difference"] == (0.0, 0.0, 0.0)
    assert other["difference"][0] == pytest.approx(other["mean"] - first["mean"]) != 0
    assert f"[{other['difference'][0]:+.3f}," in text
    assert capsys.readouterr().out.count("steps in") == 4
    assert run_study(study_path)["bsr"] == table["bsr"]
    assert capsys.readouterr().out.count("finished before, read back") == 4


def test_changed_settings_are_trained_again(study_path, tmp_path, capsys):
    run_study(study_path, ["seeds=[0]"])
    run_study(study_path, ["seeds=[0]", "eval_groups=5"])
    assert "read back" not in capsys.readouterr().out


def test_sections_are_merged_not_replaced(study_path):
    runs = dict(run_configs(load_config(study_path, StudyConfig), study_path))
    assert runs["bsr"].data.max_pairs == 16 and runs["bsr"].data.label_temperature == 0.5
    assert runs["bsr"].loss == "bsr" and runs["bt"].loss == "bt"


def test_interval_is_over_prompts_below_three_seeds_and_over_seeds_from_three_on():
    x = np.random.default_rng(0).normal(size=(4, 30))
    assert interval(x[:2]) == bootstrap_interval(x[:2])
    mean, low, high = interval(x)
    assert (mean, high - mean) == pytest.approx(seed_interval(x.mean(1)))
    assert mean - low == pytest.approx(high - mean)


@pytest.mark.parametrize(("override", "message"), [
    ("seeds=[]", "at least one method, one seed"),
    ("seeds=[0,0,1]", "repeat: no interval"),
    ("eval_groups=0", "eval_groups must be at least 1"),
    ("base=none.yaml", "none.yaml: cannot be read"),
    ("methods={bt: 5}", "method bt: must be a section"),
    ("methods={a/../../b: {}}", "use a name of letters"),
    ("methods={bt: {}, b: {data: {seed: 1}}}", "methods must share their data"),
    ("methods={bsr: {los: bsr}}", "bsr: unknown key 'los'; did you mean 'loss'"),
    ("methods={bt: {bsr_lambda: 1}}", "bt: bsr_lambda has no effect"),
    ("scenarios=[indomain]", "unknown scenario indomain"),
])
def test_every_run_is_checked_before_the_first_starts(study_path, override, message):
    with pytest.raises(ConfigError, match=message):
        run_study(study_path, [override])
