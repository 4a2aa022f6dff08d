"""What a run leaves behind: config.yaml, env.json and metrics.jsonl, and how to read them back."""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import weakref
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml

from .errors import ConfigError, DataError, WriteError

WRITTEN = ("checkpoints", "model", "config.yaml", "env.json", "evaluation.json", "metrics.jsonl")
PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "datasets")


# ---- small files ---------------------------------------------------------------------------------

def fingerprint(data) -> str:
    """Short checksum of plain data, to tell whether it is what an earlier run saw."""
    return hashlib.sha256(json.dumps(data).encode()).hexdigest()[:16]


def check_folder(folder: Path) -> None:
    """Makes `folder` and tries it, before hours of work.  Raises: ConfigError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ConfigError(f"{folder} is no folder to write to: {error.strerror}") from error


def remove(path: Path) -> None:
    """A file, a link or a whole folder, if it is there."""
    shutil.rmtree(path, ignore_errors=True)  # of a folder alone: no link is followed
    path.unlink(missing_ok=True)


@contextmanager
def writing(path: Path):
    """A temporary name: the file or folder that was written there then takes the place of `path`.
    Readers see the old one or the new one, never a half; folders above it are made.
    Raises: WriteError."""
    new = path.with_name(f"{path.name}.bsr_lite")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        remove(new)  # of a run that was killed
        yield new
        if new.is_dir():
            remove(path)
        if new.exists():
            os.replace(new, path)
    except Exception as error:  # torch and safetensors have their own words for a full disk
        said, full = str(error).split("\n")[0], ("StreamWriter", "unexpected pos", "I/O error")
        if not isinstance(error, OSError) and all(words not in said for words in full):
            raise
        with suppress(OSError):
            remove(new)
        raise WriteError(f"{path} cannot be written ({said}): the disk may be full, "
                         f"{shutil.disk_usage(path.parent).free / 1e9:.2f} GB are free") from error


def write_atomic(path: Path, content: str | bytes) -> None:
    with writing(path) as new:
        new.write_bytes(content.encode() if isinstance(content, str) else content)


def read_lines(path: Path) -> list[dict]:
    """Rows of a .jsonl file that is written line by line; none where there is no file, and a last
    line torn by a kill is left out: it has no end.  Raises: DataError for any other."""
    lines = path.read_text(errors="replace").split("\n")[:-1] if path.exists() else []
    try:
        return [json.loads(line) for line in lines]
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, row {lines.index(error.doc) + 1}: torn ({error}); cut the file "
                        "off before it, or delete it") from error


def flat(values: dict, above: str = "") -> dict:
    """Nested sections as one level of keys.

    >>> flat({"step": 3, "watch": {"train": {"score": 0.5}}})
    {'step': 3, 'watch/train/score': 0.5}
    """
    found = {}
    for key, value in values.items():
        found |= flat(value, f"{above}{key}/") if isinstance(value, dict) else {above + key: value}
    return found


# ---- one run -------------------------------------------------------------------------------------

def environment() -> dict:
    """Versions and hardware that a number may depend on; no paths, no host names."""
    import torch
    installed = {d.name.lower(): d.version for d in importlib.metadata.distributions()}
    commit = shutil.which("git") and subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True,
        cwd=Path(__file__).parent, check=False).stdout.strip()
    return {"python": platform.python_version(), "machine": platform.machine(),
            "packages": {name: installed.get(name) for name in PACKAGES},
            "cpu": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads(),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
            "commit": commit or None}


def clear(folder: Path) -> None:
    """Deletes all that an earlier run wrote, its log last: what lies beside one is a run's. A
    resume must not take it up, nor may its model stay beside another run's config."""
    if (log := folder / "metrics.jsonl").exists():
        rows = log.read_bytes().count(b"\n")
        print(f"{folder}: an earlier run, {rows} rows in metrics.jsonl, is cleared")
        for name in WRITTEN:
            remove(folder / name)


class RunLog:
    """Appends one JSON object per line to metrics.jsonl; a fresh run first clears an earlier one, a
    resumed run cuts off the rows that its checkpoint does not know. A tracker (see `open_tracker`)
    gets its numbers, too."""

    def __init__(self, folder: str | Path, config: dict, resume_step: int = 0, tracker=None):
        self.tracker, self.path = tracker, Path(folder) / "metrics.jsonl"
        if tracker:
            weakref.finalize(self, tracker.finish)  # when the run is over, at exit at the latest
        if not resume_step:
            clear(self.path.parent)
        kept = [row for row in read_metrics(folder) if row["step"] <= resume_step]
        write_atomic(self.path, "".join(json.dumps(row) + "\n" for row in kept))
        write_atomic(Path(folder) / "config.yaml", yaml.safe_dump(config, sort_keys=False))
        write_atomic(Path(folder) / "env.json", json.dumps(environment(), indent=2) + "\n")

    def write(self, row: dict) -> None:
        with writing(self.path), self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        if self.tracker:
            numbers = {k: v for k, v in flat(row).items() if isinstance(v, int | float)}
            self.tracker.log(numbers, step=row["step"])


def check_tracker(name: str | None) -> None:
    """Raises: ConfigError for a tracker that accelerate does not know, or without its package."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
    from accelerate.utils import LoggerType
    absent = set(LoggerType.list()) - set(map(str, get_available_trackers()))
    if name is not None and (name in absent or name not in LOGGER_TYPE_TO_CLASS):
        raise ConfigError(f"report_to {name}: accelerate has no tracker of this name, or its "
                          f"package is not installed (pip install {name}); choose from "
                          f"{', '.join(LOGGER_TYPE_TO_CLASS)}, or null")


def open_tracker(config):
    """accelerate's tracker `report_to`, started with the run's config; None where it is null."""
    if config.report_to is None:
        return None
    import torch
    from accelerate import Accelerator
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), log_with=config.report_to,
                              project_dir=config.output_dir)
    accelerator.init_trackers("bsr_lite", {k: v if isinstance(v, int | float | str) else str(v)
                                           for k, v in flat(dataclasses.asdict(config)).items()})
    return accelerator.trackers[0]


# ---- reading back --------------------------------------------------------------------------------

def read_metrics(folder: str | Path) -> list[dict]:
    """Rows of a run's metrics.jsonl."""
    return read_lines(Path(folder) / "metrics.jsonl")


# ---- time and memory -----------------------------------------------------------------------------

def peak_memory_gb() -> float:
    """Peak memory of this process, GPU memory where there is one, in 1e9 bytes."""
    import torch
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e9


@contextmanager
def phase(name: str):
    """Print how long a phase took and the peak memory so far."""
    start = time.perf_counter()
    yield
    print(f"[{name}] {time.perf_counter() - start:.1f} s, peak memory {peak_memory_gb():.2f} GB",
          flush=True)
