"""report_to: a tracker of accelerate gets what metrics.jsonl gets."""

import json

import pytest

from bsr_lite.config import RewardModelConfig, parse
from bsr_lite.data import to_trl
from bsr_lite.errors import ConfigError
from bsr_lite.runlog import check_tracker, read_metrics
from bsr_lite.train_rm import train


@pytest.fixture
def config(tiny_path, pairs, tmp_path):
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in to_trl(pairs)))
    return parse({"output_dir": str(tmp_path / "run"), "model": {"name": tiny_path, "depth": 1},
                  "data": {"source": str(tmp_path / "pairs.jsonl"), "format": "trl",
                           "dev_share": 0.2}, "batch_size": 8, "eval_every": 2, "watch": ["train"],
                  "report_to": "fake"}, RewardModelConfig, "test")


@pytest.fixture
def fake(monkeypatch):
    from accelerate import tracking

    class Fake(tracking.GeneralTracker):
        name, requires_logging_directory, made = "fake", True, []

        def __init__(self, run_name, logging_dir):
            super().__init__()
            self.folder, self.rows, self.finished = logging_dir, [], 0
            self.made.append(self)

        tracker = property(lambda self: self)

        def store_init_configuration(self, values):
            self.config = values

        def log(self, values, step=None, **options):
            self.rows.append((step, values))

        def finish(self):
            self.finished += 1

    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "fake", Fake)
    return Fake


def test_a_tracker_gets_every_row_and_is_finished_with_the_run(config, fake):
    train(config)
    (tracker,) = fake.made
    rows = read_metrics(config.output_dir)
    assert [step for step, _ in tracker.rows] == [row["step"] for row in rows]
    for row, (_, values) in zip(rows, tracker.rows, strict=True):
        assert all(values[k] == v for k, v in row.items() if isinstance(v, int | float))
        if "watch" in row:
            assert values["watch/train/score"] == row["watch"]["train"]["score"]
    assert tracker.config["model/depth"] == 1 and tracker.config["loss"] == "bt"
    assert str(tracker.folder) == config.output_dir and tracker.finished == 1


def test_none_is_the_default_and_changes_nothing_else(config, fake):
    train(config)
    losses = [r.get("train/loss") for r in read_metrics(config.output_dir)]
    config.report_to = None
    train(config)
    assert len(fake.made) == 1 and losses[-1] is not None
    assert losses == [r.get("train/loss") for r in read_metrics(config.output_dir)]


def test_absent_packages_and_unknown_names_are_refused_before_anything_is_loaded(config,
                                                                                 monkeypatch):
    from accelerate import tracking
    monkeypatch.setattr(tracking, "_available_trackers", [])
    for name, message in (("tensorboard", r"not installed \(pip install tensorboard\)"),
                          ("comet_ml", "not installed"), ("nothing", "no tracker of this name")):
        config.report_to, config.data.source = name, "nowhere.jsonl"
        with pytest.raises(ConfigError, match=message):
            train(config)
    check_tracker(None)


def test_tensorboard_reads_the_run_back(config):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config.report_to = "tensorboard"
    train(config)
    events = reader.EventAccumulator(f"{config.output_dir}/bsr_lite")
    events.Reload()
    losses = [(e.step, e.value) for e in events.Scalars("train/loss")]
    assert losses == [(row["step"], pytest.approx(row["train/loss"]))
                      for row in read_metrics(config.output_dir) if "train/loss" in row]
