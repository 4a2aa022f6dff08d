import contextlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from bsr_lite.config import RewardModelConfig, RLOOConfig, load_config, parse
from bsr_lite.errors import ConfigError, DataError
from bsr_lite.machine import resolve_dtype
from bsr_lite.scenarios import load_scenarios
from bsr_lite.studies.records import key_of, read_back, recorded_runs, topics
from bsr_lite.studies.reward_models import (
    StudyConfig,
    clusters,
    decided_by,
    main,
    run_configs,
    run_study,
    sets_to_score,
)


def write_study(folder, tiny_path, groups):
    """The files of a study whose paths are relative, so that its runs may be copied elsewhere."""
    rows = [{"prompt": g.prompt, "responses": g.responses, "gold": g.gold, "models": g.models,
             "split": g.split} for g in groups]
    (folder / "groups.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "rm.yaml").write_text(yaml.safe_dump({
        "output_dir": "unused", "model": {"name": tiny_path, "lora_rank": 4, "dtype": "float32"},
        "data": {"source": "groups.jsonl", "label_temperature": 0.5,
                 "valid_models": ["m4", "m5", "m6", "m7"]}, "batch_size": 8}))
    (folder / "study.yaml").write_text(yaml.safe_dump({
        "base": "rm.yaml", "output_dir": "study", "seeds": [0, 1],
        "common": {"data": {"max_pairs": 16}, "head_learning_rate": 1e-2, "epochs": 3},
        "methods": {"bt": {}, "bsr": {"loss": "bsr", "bsr_lambda": 1.0}}}, sort_keys=False))
    return folder / "study.yaml"


@pytest.fixture
def study_path(tmp_path, tiny_path, groups, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_study(tmp_path, tiny_path, groups)


@pytest.fixture(scope="module")
def first_run(tmp_path_factory, tiny_path, groups):
    """The study, run once for all tests: its folder, its table and what it printed."""
    folder, said = tmp_path_factory.mktemp("first_run"), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(said):
        table = run_study(write_study(folder, tiny_path, groups))
    return folder / "study", table, said.getvalue()


@pytest.fixture
def finished(study_path, first_run, tmp_path):
    """The study's own folder as after its first run."""
    return shutil.copytree(first_run[0], tmp_path / "study")


def test_study_runs_writes_and_reads_back(study_path, first_run, finished, capsys):
    _, table, said = first_run
    out = finished
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
    assert f"; {other['difference'][0]:+.3f} (" in text
    assert said.count("steps in") == 4
    assert run_study(study_path)["bsr"] == table["bsr"]
    assert capsys.readouterr().out.count("finished before, read back") == 4


def test_changed_settings_are_trained_again(study_path, finished, capsys):
    run_study(study_path, ["seeds=[0]", "eval_groups=5"])
    assert "read back" not in capsys.readouterr().out


def test_sections_are_merged_not_replaced(study_path):
    runs = run_configs(load_config(study_path, StudyConfig), study_path)
    assert list(runs) == ["bt-seed0", "bsr-seed0", "bt-seed1", "bsr-seed1"]
    bt, bsr = runs["bt-seed1"], runs["bsr-seed1"]
    assert bsr.data.max_pairs == 16 and bsr.data.label_temperature == 0.5
    assert bsr.loss == "bsr" and bt.loss == "bt" and bsr.seed == bt.seed == 1


@pytest.fixture
def recorded(study_path, first_run, tmp_path):
    """The study's runs recorded under data/runs of the working directory, its own folder gone."""
    return shutil.copytree(first_run[0], tmp_path / "data" / "runs" / "study",
                           ignore=shutil.ignore_patterns("model"))


def test_resume_reads_recorded_runs_back_without_their_data(study_path, recorded, tmp_path, capsys):
    before = json.loads((recorded / "results.json").read_text())["table"]
    (tmp_path / "groups.jsonl").unlink()
    capsys.readouterr()
    main(["--config", str(study_path), "--resume"])
    out = capsys.readouterr().out
    assert out.count("finished before, read back") == 4
    assert "results.png" in out and "|" not in out  # the figure is named, the table is in a file
    trained, beyond, undecided = out.splitlines()[-3:]
    assert trained.startswith("Trained: reward models by bt, bsr, 2 seeds each")
    assert beyond.startswith("Differs from bt beyond") and undecided.startswith("Undecided")
    after = json.loads((tmp_path / "study" / "results.json").read_text())["table"]
    assert after == before and (tmp_path / "study" / "results.png").exists()


@pytest.mark.slow
def test_resume_runs_what_is_missing_and_what_had_other_settings(study_path, recorded, tmp_path,
                                                                 capsys):
    shutil.rmtree(recorded / "bsr-seed1")
    path = recorded / "bt-seed0" / "evaluation.json"
    result = json.loads(path.read_text())
    result["config"]["epochs"] = 9
    path.write_text(json.dumps(result))
    run_study(study_path, resume=True)
    text = capsys.readouterr().out
    assert text.count("finished before, read back") == 2
    assert (tmp_path / "study/bt-seed0/model").exists()
    assert (tmp_path / "study/bsr-seed1/model").exists()
    assert not (tmp_path / "study/bt-seed1").exists()


@pytest.mark.slow
def test_a_recorded_run_of_an_older_version_had_the_defaults(study_path, recorded, capsys):
    for path in recorded.glob("*/evaluation.json"):
        result = json.loads(path.read_text())
        del result["config"]["l2_coefficient"], result["config"]["optimizer"]
        path.write_text(json.dumps(result))
    capsys.readouterr()
    run_study(study_path, resume=True)
    assert capsys.readouterr().out.count("read back") == 4
    run_study(study_path, ["common={optimizer: adamw, epochs: 2}", "seeds=[0]"], resume=True)
    assert "read back" not in capsys.readouterr().out


@pytest.mark.slow
def test_recorded_runs_of_other_data_are_not_paired(study_path, recorded, tmp_path, capsys):
    path = tmp_path / "groups.jsonl"
    shutil.rmtree(recorded / "bsr-seed1")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row["gold"] = row["gold"][::-1]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    capsys.readouterr()
    run_study(study_path, resume=True)
    assert capsys.readouterr().out.count("steps in") == 4  # the other three as well
    changed = recorded / "bt-seed0" / "evaluation.json"
    result = json.loads(changed.read_text())
    result["config"]["data_checksum"] = "other"
    changed.write_text(json.dumps(result))
    shutil.copytree(tmp_path / "study" / "bsr-seed1", recorded / "bsr-seed1")
    with pytest.raises(ConfigError, match="its runs saw different data"):
        run_study(study_path, resume=True)


@pytest.mark.parametrize("content", ["", "{}", '{"config": {"loss": 3}}', '{"config": '])
def test_an_unreadable_record_is_left_out_and_said(study_path, recorded, capsys, content):
    (recorded / "bt-seed1" / "evaluation.json").write_text(content)
    capsys.readouterr()
    run_study(study_path, resume=True)
    text = capsys.readouterr().out
    assert "bt-seed1/evaluation.json is left out" in text and text.count("read back") == 3


def run_of(section, dtype):
    """A run's config whose section `model` or `policy` has this dtype."""
    if section == "policy":
        return parse({"policy": {"name": "p", "lora_rank": 2, "dtype": dtype}, "reward_model": "r",
                      "output_dir": "o"}, RLOOConfig, "test")
    return parse({"model": {"name": "m", "dtype": dtype}, "data": {"source": "s"},
                  "output_dir": "o"}, RewardModelConfig, "test")


@pytest.mark.parametrize("section", ["model", "policy"])
@pytest.mark.parametrize(("recorded", "now", "same"), [
    ("bfloat16", "auto", True), ("float32", "auto", True), ("auto", "auto", True),
    ("bfloat16", "bfloat16", True), ("auto", "bfloat16", False), ("float16", "bfloat16", False)])
def test_auto_is_whatever_dtype_was_recorded_and_nothing_else_is(tmp_path, section, recorded, now,
                                                                  same):
    values = key_of(run_of(section, "bfloat16"))
    values[section]["dtype"] = recorded
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps({"config": values}))
    assert bool(read_back(path, run_of(section, now))) == same
    values[section]["name"] = "another"
    path.write_text(json.dumps({"config": values}))
    assert not read_back(path, run_of(section, now))
    nested = {"config": key_of(run_of("policy", "auto"), base=run_of(section, recorded))}
    nested["config"]["base"][section]["dtype"] = recorded  # as linear.py keeps its base
    path.write_text(json.dumps(nested))
    assert bool(read_back(path, run_of("policy", "auto"), base=run_of(section, now))) == same


@pytest.mark.parametrize("section", ["model", "policy"])
def test_a_record_says_what_auto_was(section):
    assert key_of(run_of(section, "auto"))[section]["dtype"] == resolve_dtype("auto") != "auto"
    assert key_of(run_of(section, "float16"))[section]["dtype"] == "float16"


@pytest.mark.parametrize(("override", "message"), [
    ("seeds=[]", "seeds List should have at least 1 item"),
    ("scenarios=[]", "scenarios List should have at least 1 item"),
    ("methods={}", "methods Dictionary should have at least 1 item"),
    ("seeds=[0,0,1]", "repeat: no interval"),
    ("eval_groups=0", "eval_groups must be greater than or equal to 1, got 0"),
    ("base=none.yaml", "none.yaml: cannot be read"),
    ("methods={bt: 5}", "methods.bt must be a section of keys, got 5"),
    ("methods={a/../../b: {}}", "should match pattern .*, got 'a/../../b'"),
    ("methods={bt: {}, b: {data: {seed: 1}}}", "methods must share their data"),
    ("methods={bsr: {los: bsr}}", "bsr-seed0: unknown key 'los'; did you mean 'loss'"),
    ("methods={bt: {bsr_lambda: 1}}", "bt-seed0: bsr_lambda has no effect"),
    ("scenarios=[indomain]", "scenarios.0 must be 'in_domain', .*, got 'indomain'"),
])
def test_every_run_is_checked_before_the_first_starts(study_path, override, message):
    with pytest.raises(ConfigError, match=message):
        run_study(study_path, [override])


def test_a_world_is_part_of_what_decided_a_run(study_path, recorded, capsys):
    """A record of the plain world is not read back for another one, nor the other way round."""
    capsys.readouterr()
    one = ["seeds=[0]", "methods={bt: {}}"]
    run_study(study_path, one, resume=True)
    assert "read back" in capsys.readouterr().out
    run_study(study_path, [*one, "world=closing_phrase"], resume=True)
    assert "read back" not in capsys.readouterr().out
    shutil.rmtree(recorded)
    shutil.copytree("study", recorded, ignore=shutil.ignore_patterns("model"))
    shutil.rmtree("study")
    study = load_config(study_path, StudyConfig, one)
    configs = run_configs(study, study_path)
    assert recorded_runs(configs, **decided_by(study)) == {}
    other = load_config(study_path, StudyConfig, [*one, "world=closing_phrase"])
    assert list(recorded_runs(configs, **decided_by(other))) == ["bt-seed0"]
    with pytest.raises(DataError, match="no rows for prompt_shifted"):
        run_study(study_path, [*one, "scenarios=[prompt_shifted]"])


@pytest.mark.parametrize("wrap", [lambda text: text, lambda text: [{"role": "user",
                                                                    "content": text}]])
def test_prompts_of_a_topic_make_one_cluster_where_the_table_names_topics(study_path, groups, wrap):
    rows = [{"prompt": wrap(g.prompt[0]["content"]), "responses": g.responses, "gold": g.gold,
             "models": g.models, "split": g.split, "topic": f"t{i % 5}"}
            for i, g in enumerate(groups)]
    config = run_configs(load_config(study_path, StudyConfig), study_path)["bt-seed0"]
    assert topics(config, groups[:3]) is None  # as it is, the table has none
    Path("groups.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert topics(config, groups[3:9]) == ["t3", "t4", "t0", "t1", "t2", "t3"]
    study = load_config(study_path, StudyConfig)
    sets = sets_to_score(study, config, load_scenarios(config))
    run = {"scenarios": {name: {"groups": len(found), "gold": [g.gold for g in found]}
                         for name, found in sets.items()}}
    found = clusters(study, config, run)
    assert set(found["prompt_disjoint"]) == {f"t{i}" for i in range(5)}
    run["scenarios"]["prompt_disjoint"]["gold"][0][0] += 1  # of other data
    run["scenarios"]["mutual_disjoint"]["groups"] -= 1  # one was too long
    assert clusters(study, config, run).keys() == {"in_domain", "response_disjoint"}
