"""A run never ends in silence or in a traceback: one run a folder, checked before anything is
loaded; full disks, Ctrl-C, and what a run may go on with."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
import yaml

from bsr_lite import checkpoint, train_rloo, train_rm
from bsr_lite.checkpoint import Checkpoint, one_run
from bsr_lite.config import RewardModelConfig, RLOOConfig, parse, to_dict
from bsr_lite.errors import ConfigError, DataError, TrainingError, UserError, WriteError, run
from bsr_lite.models import load_reward_model
from bsr_lite.policy import load_policy
from bsr_lite.runlog import RunLog, check_folder, read_lines, read_metrics, write_atomic, writing
from bsr_lite.saving import save_reward_model
from bsr_lite.scale.merge import main as merge
from bsr_lite.studies.evaluate import main as evaluate

ROOT = Path(__file__).parents[1]
LEFT = {"checkpoints", "config.yaml", "env.json", "metrics.jsonl", "model"}


@pytest.fixture
def config(tiny_path, tmp_path, pairs):
    """Eight steps of a tiny reward model, a checkpoint every second one."""
    rows = [{"prompt": p.prompt[0]["content"], "chosen": p.chosen, "rejected": p.rejected}
            for p in pairs]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return parse({
        "output_dir": str(tmp_path / "run"), "model": {"name": tiny_path, "dtype": "float32",
                                                       "lora_rank": 2},
        "data": {"source": str(tmp_path / "pairs.jsonl"), "format": "trl", "dev_share": 0.15,
                 "max_length": 128}, "batch_size": 5, "token_budget": 256, "eval_every": 2,
        "epochs": 2}, RewardModelConfig, "test")


@pytest.fixture
def rloo(tiny_path, tmp_path):
    rows = [{"prompt": f"Name {n} birds.", "split": "train"} for n in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    save_reward_model(load_reward_model(tiny_path, lora_rank=2, dtype="float32"), tmp_path / "rm")
    return parse({
        "policy": {"name": tiny_path, "lora_rank": 2, "dtype": "float32"}, "gold": "none",
        "reward_model": str(tmp_path / "rm"), "output_dir": str(tmp_path / "run"), "steps": 2,
        "data": str(tmp_path / "rows.jsonl"), "prompts_per_step": 2, "num_generations": 2,
        "max_new_tokens": 3, "standardize_prompts": 2, "checkpoint_every": 1}, RLOOConfig, "test")


@pytest.fixture
def nothing_is_loaded(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("loading began")

    for module in (train_rm, train_rloo):
        monkeypatch.setattr(module, "prepare", refuse)


def changed(config, **values):
    return type(config)(**vars(config) | values)


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory):
    """mount(size): a folder with a disk of its own."""
    mounted = []

    def mount(options: str) -> Path:
        folder = tmp_path_factory.mktemp("disk")
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError:
            pytest.skip("there is no mount command")
        if done.returncode:
            pytest.skip(f"may not mount a small disk: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


# ---- one run a folder ----------------------------------------------------------------------------

HOLDER = """
import dataclasses, sys
from bsr_lite.checkpoint import one_run

@dataclasses.dataclass
class Config:
    output_dir: str

@one_run
def train(config, resume):
    print("running", flush=True)
    sys.stdin.read()

train(Config(sys.argv[1]))
"""


def test_a_second_run_is_refused_until_the_first_has_ended_or_was_killed(config, tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLDER, config.output_dir], cwd=ROOT, text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout.readline() == "running\n"
        with pytest.raises(ConfigError, match=re.escape(config.output_dir)
                           + ": another run writes there; wait until it ends, or choose another"):
            train_rm.train(config)
        assert not (tmp_path / "run/metrics.jsonl").exists()
        first.kill()
        first.wait()
    train_rm.train(config)
    assert {path.name for path in (tmp_path / "run").iterdir()} == LEFT  # no lock is left


@pytest.mark.parametrize("loop", [train_rm, train_rloo])
def test_both_loops_lock_and_a_failed_run_gives_the_folder_free(request, loop, monkeypatch):
    config = request.getfixturevalue("config" if loop is train_rm else "rloo")
    real = loop.prepare

    def again(*args):
        with pytest.raises(ConfigError, match="another run writes there"):
            loop.train(config)
        monkeypatch.setenv("RANK", "1")  # no lock asks the other processes of one run
        with pytest.raises(ZeroDivisionError):
            one_run(lambda config, resume: 1 / 0)(config)
        raise DataError("the first run fails")

    monkeypatch.setattr(loop, "prepare", again)
    with pytest.raises(DataError, match="the first run fails"):
        loop.train(config)
    monkeypatch.setattr(loop, "prepare", real)
    monkeypatch.delenv("RANK")
    loop.train(config)
    assert {path.name for path in Path(config.output_dir).iterdir()} == LEFT


# ---- folders, before anything is loaded ----------------------------------------------------------

@pytest.mark.parametrize("loop", [train_rm, train_rloo])
@pytest.mark.parametrize("place", ["file", "file/run"])
def test_an_output_dir_that_cannot_be_is_one_line_before_loading(
        request, loop, place, tmp_path, nothing_is_loaded):
    config = request.getfixturevalue("config" if loop is train_rm else "rloo")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match=f"{place} is no folder to write to: ") as error:
        loop.train(changed(config, output_dir=str(tmp_path / place)))
    assert "\n" not in str(error.value) and (tmp_path / "file").read_text() == "mine"


def test_a_read_only_folder_is_refused(config, small_disk, nothing_is_loaded):
    folder = small_disk("ro,size=64k")
    with pytest.raises(ConfigError, match="is no folder to write to: Read-only file system"):
        train_rm.train(changed(config, output_dir=str(folder)))
    with pytest.raises(ConfigError, match="run is no folder to write to: Read-only file system"):
        train_rm.train(changed(config, output_dir=str(folder / "run")))


@pytest.mark.parametrize("place", ["file/x", "read-only/x"])
def test_commands_try_their_output_before_they_work(
        tmp_path, tiny_path, place, monkeypatch, alpaca_eval):
    save_reward_model(load_reward_model(tiny_path, lora_rank=2, dtype="float32"), tmp_path / "rm")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "read-only").mkdir()
    real = tempfile.TemporaryFile

    def read_only(dir):
        if Path(dir).name == "read-only":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(dir))
        return real(dir=dir)

    def refuse(*args, **kwargs):
        raise AssertionError("work began")

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    for name in ("scale.merge.load_base", "studies.evaluate.read_sets"):
        monkeypatch.setattr(f"bsr_lite.{name}", refuse)
    monkeypatch.setattr(alpaca_eval, "alpaca_eval_rows", refuse)
    output = str(tmp_path / place)
    for main, *arguments in (
            (merge, "--model", str(tmp_path / "rm"), "--output", output),
            (evaluate, "--model", "m", "--data", "d", "--output", f"{output}.json"),
            (alpaca_eval.main, "--clone", str(tmp_path), "--output", f"{output}.jsonl")):
        with pytest.raises(UserError, match=f"{Path(place).parent}.*(no folder|folder that)"):
            main(arguments)


def test_alpaca_eval_refuses_a_folder_as_its_file(tmp_path, alpaca_eval):
    (tmp_path / "x.jsonl").mkdir()
    with pytest.raises(DataError, match=r"x.jsonl: name a .jsonl file"):
        alpaca_eval.main(["--clone", str(tmp_path), "--output", str(tmp_path / "x.jsonl")])


# ---- a fresh run over an old one -----------------------------------------------------------------

def test_a_fresh_run_clears_what_a_run_wrote_and_nothing_else(config, tmp_path, capsys):
    train_rm.train(config)
    out = tmp_path / "run"
    (out / "evaluation.json").write_text("{}")
    (out / "notes.txt").write_text("mine")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/last.pt").write_text("mine")
    old = json.loads((out / "metrics.jsonl").read_text().splitlines()[0])
    real = train_rm.open_tracker

    def still_there(config):  # the last thing that bad input can break
        assert {path.name for path in out.iterdir()} > LEFT
        return real(config)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_rm, "open_tracker", still_there)
        patch.setattr(Checkpoint, "save", lambda self, step: 1 / 0)
        capsys.readouterr()
        with pytest.raises(ZeroDivisionError):
            train_rm.train(changed(config, seed=5))
    assert capsys.readouterr().out.count(
        f"{out}: an earlier run, 8 rows in metrics.jsonl, is cleared\n") == 1
    assert {path.name for path in out.iterdir()} == {
        "config.yaml", "env.json", "metrics.jsonl", "notes.txt"}
    assert yaml.safe_load((out / "config.yaml").read_text())["seed"] == 5
    assert read_metrics(out)[0] != old and len(read_metrics(out)) == 2
    (out / "checkpoints").symlink_to(tmp_path / "elsewhere")
    RunLog(out, {})
    assert not (out / "checkpoints").exists() and (out / "notes.txt").read_text() == "mine"
    assert (tmp_path / "elsewhere/last.pt").read_text() == "mine"


def test_where_no_run_wrote_nothing_is_cleared(tmp_path, capsys):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/weights").write_text("mine")
    RunLog(tmp_path, {})
    assert (tmp_path / "model/weights").read_text() == "mine" and "cleared" not in str(
        capsys.readouterr())


def test_bad_input_leaves_the_earlier_run_as_it_was(config, rloo, tmp_path):
    train_rm.train(config)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(DataError):
        train_rm.train(changed(config, watch=["in_domain"]))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match="the same reward"):
        patch.setattr(train_rloo, "score", lambda batch, scorer: torch.zeros(2, 2))
        train_rloo.train(rloo)
    assert before == {path: path.read_bytes() for path in before}
    assert {path.name for path in (tmp_path / "run").iterdir()} == LEFT


def test_a_run_never_clears_what_it_reads(config, rloo, tmp_path, monkeypatch):
    train_rm.train(config)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train_rm, "prepare", None)
    monkeypatch.setattr(train_rloo, "prepare", None)
    model = changed(config.model, name="run/model")
    with pytest.raises(ConfigError, match="model/name: run/model lies in output_dir, which"):
        train_rm.train(changed(config, model=model))
    for key in ("reward_model", "gold"):
        with pytest.raises(ConfigError, match=f"{key}: run/model lies in output_dir"):
            train_rloo.train(changed(rloo, **{key: "run/model"}))
    with pytest.raises(ConfigError, match="policy/name: run/model lies in output_dir"):
        train_rloo.train(changed(rloo, policy=changed(rloo.policy, name="run/model")))
    assert (tmp_path / "run/model/reward_model.json").exists()


# ---- full disks ----------------------------------------------------------------------------------

def test_every_writer_on_a_full_disk_leaves_the_old_file_and_no_half(small_disk, tiny_path):
    disk = small_disk("size=512k")
    model = load_reward_model(tiny_path, lora_rank=2, dtype="float32")
    state = Checkpoint(disk, model, torch.optim.AdamW(model.parameters()), {}, "",
                       torch.amp.GradScaler("cpu", enabled=False))
    log = RunLog(disk, {})
    log.write({"step": 1})
    state.save(1)
    (disk / "small.txt").write_text("old")
    (disk / "model").mkdir()
    (disk / "model/reward_model.json").write_text("old")
    before = sorted(disk.rglob("*"))
    with pytest.raises(OSError, match="No space left"), (disk / "fill").open("wb") as file:
        file.write(bytes(10**6))
    policy = load_policy(tiny_path, dtype="float32")
    full = {"metrics.jsonl": lambda: log.write({"step": 2, "x": "y" * 10**5}),
            "last.pt": lambda: state.save(2), "small.txt": lambda: write_atomic(
                disk / "small.txt", "new" * 10**5),
            "model": lambda: save_reward_model(model, disk / "model")}
    for name, write in full.items():
        with pytest.raises(WriteError, match=rf"{name} cannot be written \(.*\): the disk may be "
                                             r"full, 0\.00 GB are free$"):
            write()
    with pytest.raises(WriteError, match="policy cannot"), writing(disk / "policy") as folder:
        policy.save(folder)
    assert sorted(disk.rglob("*")) == sorted([*before, disk / "fill"])
    for name in ("small.txt", "model/reward_model.json"):
        assert (disk / name).read_text() == "old"
    assert read_metrics(disk) == [{"step": 1}]
    assert torch.load(disk / "checkpoints/last.pt")["step"] == state.step == 1


SAYINGS = [OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EIO, "I/O error"),
           RuntimeError("[enforce fail at inline_container.cc] . unexpected pos 576 vs 534\nframe"),
           RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed")]


@pytest.mark.parametrize("error", SAYINGS, ids=str)
def test_a_run_on_a_full_disk_says_how_to_go_on_and_goes_on(config, error, monkeypatch, capsys):
    real, saved = torch.save, []

    def full_at_the_second(content, path):
        real(content, path)
        saved.append(path)
        if len(saved) == 2:
            raise error

    monkeypatch.setattr(torch, "save", full_at_the_second)
    with pytest.raises(SystemExit) as end:
        run(lambda: train_rm.train(config))
    last = Path(config.output_dir) / "checkpoints/last.pt"
    assert re.fullmatch(
        rf"error: {re.escape(str(last))} cannot be written \(.*\): the disk may be full, "
        r"\d+\.\d\d GB are free; start again with --resume to go on from its checkpoint, step 2",
        end.value.code)
    assert [path.name for path in last.parent.iterdir()] == ["last.pt"]
    train_rm.train(config, resume=True)
    assert "resuming after step 2\n" in capsys.readouterr().out
    assert [row["step"] for row in read_metrics(config.output_dir)] == list(range(1, 9))


def test_a_disk_that_fills_up_in_mid_run_and_then_has_room(config, small_disk, monkeypatch):
    disk, real = small_disk("size=8m"), Checkpoint.save
    config = changed(config, output_dir=str(disk / "run"))

    def fill_up(self, step):
        if step == 4:
            with pytest.raises(OSError), (disk / "fill").open("wb") as file:
                file.write(bytes(10**7))
        real(self, step)

    monkeypatch.setattr(Checkpoint, "save", fill_up)
    with pytest.raises(SystemExit, match=r"^error: .*0\.00 GB are free; .*checkpoint, step 2$"):
        run(lambda: train_rm.train(config))
    (disk / "fill").unlink()
    monkeypatch.setattr(Checkpoint, "save", real)
    train_rm.train(config, resume=True)
    assert {path.name for path in (disk / "run").iterdir()} == LEFT


def test_a_disk_that_is_full_at_once_or_at_the_end(config, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(TrainingError) as error:
        patch.setattr(RunLog, "write", lambda self, row: writing_fails(self.path))
        train_rm.train(config)
    assert error.value.__notes__ == [
        "start again with --resume to go on from its checkpoint, step 0"]
    with monkeypatch.context() as patch, pytest.raises(TrainingError, match="run/model") as error:
        patch.setattr("peft.PeftModel.save_pretrained", lambda self, folder, **options:
                      writing_fails(folder))
        train_rm.train(config)
    assert "checkpoint, step 8" in error.value.__notes__[0]
    assert not list(Path(config.output_dir).glob("model*"))
    train_rm.train(config, resume=True)
    assert (Path(config.output_dir) / "model/reward_model.json").exists()


def writing_fails(path):
    with writing(Path(path)):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_bug_while_writing_stays_a_bug(tmp_path):
    for bug in (TypeError("no"), RuntimeError("shapes"), KeyError("x")):
        with pytest.raises(type(bug)), writing(tmp_path / "x"):
            raise bug


# ---- how commands end ----------------------------------------------------------------------------

def test_one_line_for_files_and_ctrl_c_a_traceback_for_bugs(capsys, tmp_path):
    def fail(error):
        raise error

    for number in (errno.ENOENT, errno.EACCES, errno.EROFS, errno.ENOSPC):
        with pytest.raises(SystemExit, match=r"^error: .*'some/file'$"):
            run(lambda number=number: fail(OSError(number, os.strerror(number), "some/file")))
    with pytest.raises(SystemExit, match="^error: .* is no folder to write to"):
        (tmp_path / "file").write_text("")
        run(lambda: check_folder(tmp_path / "file"))
    with pytest.raises(SystemExit) as end:
        run(lambda: fail(KeyboardInterrupt()))
    assert end.value.code == 130 and capsys.readouterr().err == "stopped\n"
    for bug in (TypeError("x"), OSError("no connection"), ConnectionResetError(104, "reset")):
        with pytest.raises(type(bug)):
            run(lambda error=bug: fail(error))


def test_ctrl_c_says_of_which_step_the_checkpoint_is(config, monkeypatch, capsys):
    for module, name, step in (RunLog, "write", 0), (train_rm, "save_reward_model", 8):
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
            patch.setattr(module, name, interrupt)
            run(lambda: train_rm.train(config))
        assert end.value.code == 130
        assert capsys.readouterr().err.splitlines()[-1].endswith(
            f"stopped; start again with --resume to go on from its checkpoint, step {step}")


def interrupt(*args):
    raise KeyboardInterrupt


CTRL_C = """
import os, signal, sys
from bsr_lite import train_rm
from bsr_lite.errors import run

real = train_rm.Checkpoint.save
def stopped(self, step):
    if step == 4:
        os.kill(os.getpid(), signal.SIGINT)
    real(self, step)
train_rm.Checkpoint.save = stopped
run(lambda: train_rm.main(["--config", sys.argv[1]]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT is sent otherwise on Windows")
@pytest.mark.slow
def test_ctrl_c_is_one_line_and_the_run_goes_on(config, tmp_path):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(to_dict(config)))
    stopped = subprocess.run(
        [sys.executable, "-c", CTRL_C, str(tmp_path / "run.yaml")],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}, text=True,
        capture_output=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    assert stopped.returncode == 130
    assert stopped.stderr == (
        "stopped; start again with --resume to go on from its checkpoint, step 2\n")
    train_rm.train(config, resume=True)
    assert [row["step"] for row in read_metrics(config.output_dir)] == list(range(1, 9))


# ---- what a run may go on with -------------------------------------------------------------------

def stop_after(step, monkeypatch, config, loop=train_rm):
    """A run that has a checkpoint of this step, and was stopped."""
    real = Checkpoint.save

    def stop(self, at):
        real(self, at)
        if at == step:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Checkpoint, "save", stop)
        loop.train(config)


def test_a_run_goes_on_moved_and_computed_otherwise(config, tmp_path, monkeypatch, capsys):
    stop_after(4, monkeypatch, config)
    (tmp_path / "there").mkdir()
    for name in ("run", "pairs.jsonl"):
        (tmp_path / name).rename(tmp_path / "there" / name)
    moved = changed(
        config, output_dir=str(tmp_path / "there/run"), token_budget=512, eval_every=3,
        data=changed(config.data, source=str(tmp_path / "there/pairs.jsonl")),
        model=changed(config.model, gradient_checkpointing=True))
    train_rm.train(moved, resume=True)
    assert "resuming after step 4\n" in capsys.readouterr().out
    assert [row["step"] for row in read_metrics(moved.output_dir)] == list(range(1, 9))


@pytest.mark.parametrize(("key", "value"), [
    ("learning_rate", 1e-5), ("seed", 3), ("model/layout", "padded"), ("data/max_length", 100),
    ("model/name", "moved"), ("data (its rows)", None)])
def test_what_can_change_results_is_refused_by_name(config, tmp_path, monkeypatch, key, value):
    stop_after(2, monkeypatch, config)
    section, _, name = key.rpartition("/")
    if key == "model/name":
        value = str(tmp_path / "moved")
        Path(value).symlink_to(config.model.name)
    if value is None:
        lines = (tmp_path / "pairs.jsonl").read_text().splitlines(True)
        (tmp_path / "pairs.jsonl").write_text("".join(reversed(lines)))
        other = config
    elif section:
        other = changed(config, **{section: changed(getattr(config, section), **{name: value})})
    else:
        other = changed(config, **{name: value})
    with pytest.raises(ConfigError, match=f"written with another {re.escape(key)}"):
        train_rm.train(other, resume=True)


def test_rloo_goes_on_with_a_moved_proxy_and_moved_rows_but_not_with_others(
        rloo, tmp_path, monkeypatch, capsys):
    stop_after(1, monkeypatch, rloo, train_rloo)
    (tmp_path / "there").mkdir()
    for name in ("rm", "rows.jsonl"):
        (tmp_path / name).rename(tmp_path / "there" / name)
    moved = changed(rloo, reward_model=str(tmp_path / "there/rm"), checkpoint_every=2,
                    data=str(tmp_path / "there/rows.jsonl"), token_budget=512)
    train_rloo.train(moved, resume=True)
    assert "resuming after step 1\n" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="written with another kl_coef: "):
        train_rloo.train(changed(moved, kl_coef=0.5), resume=True)
    text = Path(moved.data).read_text()
    Path(moved.data).write_text(text.replace("birds", "trees"))
    with pytest.raises(ConfigError, match=r"written with another data \(its rows\): "):
        train_rloo.train(moved, resume=True)


def test_records_forgive_no_more_than_before():
    assert checkpoint.MAY_DIFFER == ("token_budget", "output_dir", "report_to")


# ---- torn lines ----------------------------------------------------------------------------------

@pytest.mark.parametrize("torn", [b'{"step": 2, "x', b"", b"\xff\xfe"])
def test_a_torn_line_is_named_unless_it_is_the_last(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + torn + b'\n{"step": 3}\n')
    with pytest.raises(DataError, match=r"metrics.jsonl, row 2: torn .* cut the file off before"):
        read_metrics(tmp_path)
    path.write_bytes(b'{"step": 1}\n' + torn)
    assert read_lines(path) == [{"step": 1}]
    path.write_bytes(b'{"step": 1}\n' + torn + b'\n{"step": 3}\n')
    RunLog(tmp_path, {})  # a fresh run does not read it
    assert read_metrics(tmp_path) == []
