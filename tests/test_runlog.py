import json

import pytest

from bsr_lite.runlog import RunLog, environment, peak_memory_gb, phase, read_metrics
from bsr_lite.studies.records import read_runs, watched


def test_rows_come_back_and_a_torn_last_line_is_left_out(tmp_path):
    log = RunLog(tmp_path, {"loss": "bt"})
    for step in range(1, 4):
        log.write({"step": step, "x": step / 7})
    with log.path.open("a") as file:
        file.write('{"step": 4, "x"')
    assert read_metrics(tmp_path) == [{"step": s, "x": s / 7} for s in (1, 2, 3)]


def test_resuming_cuts_off_rows_the_checkpoint_does_not_know(tmp_path):
    log = RunLog(tmp_path, {})
    for step in range(1, 6):
        log.write({"step": step})
    RunLog(tmp_path, {}, resume_step=3).write({"step": 4, "again": True})
    assert read_metrics(tmp_path)[2:] == [{"step": 3}, {"step": 4, "again": True}]
    RunLog(tmp_path, {})  # a fresh run starts empty
    assert read_metrics(tmp_path) == []


def test_a_studys_runs_come_back_by_method_in_the_order_of_seeds(tmp_path):
    for name in ("bsr-1e-2-seed3", "bt-seed10", "bt-seed2", "bt-seed4"):
        log = RunLog(tmp_path / name, {})
        log.write({"step": 0, "watch": {"train": {"norm": {"mean": 1.0}}}})
        log.write({"step": 1})
        log.write({"step": 2, "watch": {"train": {"norm": {"mean": 2.0 + len(name)}}}})
        if name != "bt-seed4":  # still running
            (tmp_path / name / "evaluation.json").write_text('{"x": 1}')
    runs = read_runs(tmp_path)
    assert {m: [r["seed"] for r in runs[m]] for m in runs} == {"bsr-1e-2": [3], "bt": [2, 10]}
    assert watched(runs["bt"], "train", "norm", "mean") == ([0, 2], [[1.0, 10.0], [1.0, 11.0]])
    with pytest.raises(FileNotFoundError, match="no finished run"):
        read_runs(tmp_path / "nothing")


def test_environment_is_complete_and_serialisable(tmp_path):
    RunLog(tmp_path, {})
    saved = json.loads((tmp_path / "env.json").read_text())
    assert saved == environment()
    assert saved["packages"]["torch"] and saved["threads"] >= 1


def test_phase_prints_time_and_memory(capsys):
    with phase("thinking"):
        block = bytearray(50_000_000)
    assert capsys.readouterr().out.startswith("[thinking] 0.")
    assert peak_memory_gb() > 0.05 and len(block)


def test_missing_run_has_no_rows(tmp_path):
    assert read_metrics(tmp_path / "none") == []
    with pytest.raises(FileNotFoundError):
        (tmp_path / "none" / "config.yaml").read_text()
