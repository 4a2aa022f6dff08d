"""Atomic training checkpoints, and the one run that a folder can have at a time."""

import contextlib
import dataclasses
import functools
import os
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch import nn

from .distributed import rank, sharded
from .errors import ConfigError, TrainingError, WriteError
from .runlog import WRITTEN, check_folder, flat, writing

MAY_DIFFER = ("token_budget", "output_dir", "report_to")  # where and how it is computed, not what
# nor do these change a run that goes on: what lies at a path is known by its fingerprint
FREE = (*MAY_DIFFER, "eval_every", "checkpoint_every", "model/gradient_checkpointing",
        "data/source", "data", "reward_model")


class Checkpoint:
    """The trainable weights, optimizer and step in one file, replaced atomically. Batches and
    learning rate are functions of seed and step, and nothing in the step draws random numbers, so
    a resumed run is the same run.

    Rank 0 writes whole tensors: any number of processes, sharded or not, can go on from them."""

    def __init__(self, folder: Path, model: nn.Module, optimizer, config: dict, data: str, scaler):
        self.folder, self.model, self.optimizer = folder / "checkpoints", model, optimizer
        self.scaler = scaler
        self.config = flat(config) | {"data (its rows)": data}
        self.step = 0

    def describe(self) -> str:
        return f"{self.folder / 'last.pt'} (step {self.step})" if self.step else "none yet"

    def save(self, step: int) -> None:
        from torch.distributed.checkpoint import state_dict as whole
        weights, optimizer = whole.get_state_dict(
            self.model, self.optimizer, options=whole.StateDictOptions(
                full_state_dict=True, cpu_offload=True, ignore_frozen_params=True))
        trained = {n for n, p in self.model.named_parameters() if p.requires_grad}
        weights = {n: w for n, w in weights.items() if n in trained}  # no buffers, no tied weights
        content = {"step": step, "config": self.config, "weights": weights, "optimizer": optimizer,
                   "scaler": self.scaler.state_dict()}
        if rank() == 0:
            with writing(self.folder / "last.pt") as new:
                torch.save(content, new)
        self.step = step

    def load(self) -> int:
        """Restore the last checkpoint and return its step; 0 when there is none.

        Raises: ConfigError when the run was started with another config, TrainingError for a file
        that cannot be read.
        """
        from torch.distributed.checkpoint import state_dict as whole
        path = self.folder / "last.pt"
        if not path.exists():
            print(f"nothing to resume in {self.folder}: starting at step 0")
            return 0
        try:  # mapped, not read, where every process needs a part of a large file only
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=sharded())
            then = flat(content["config"])
        except Exception as error:
            # not in torch's words, which are on how to run what a stranger's pickle holds
            raise TrainingError(f"{path} cannot be read ({type(error).__name__}): it is torn, or no"
                                " checkpoint of train_rm; start without --resume") from error
        changed = [k for k, v in then.items() if k not in FREE and self.config.get(k) != v]
        if changed:
            raise ConfigError(f"{path} was written with another {', '.join(changed)}: resume with "
                              "the same config, or choose a new output_dir")
        # paged states count as a CPU's, and torch wants all of them on one device
        paged, self.optimizer.is_paged = getattr(self.optimizer, "is_paged", False), False
        whole.set_state_dict(
            self.model, self.optimizer, model_state_dict=content["weights"],
            optim_state_dict=content["optimizer"],
            options=whole.StateDictOptions(full_state_dict=True, strict=False))  # no frozen ones
        self.optimizer.is_paged = paged
        self.scaler.load_state_dict(content.get("scaler", {}))
        self.step = content["step"]
        print(f"resuming after step {self.step}")
        return self.step


# ---- one run a folder ----------------------------------------------------------------------------

def check_inputs(config, out: Path) -> None:
    """Raises: ConfigError for what a run reads, and would clear before its first step."""
    cleared = [(out / name).resolve() for name in WRITTEN if (out / name).exists()]
    for key, value in flat(dataclasses.asdict(config)).items():
        if any(Path(str(value)).resolve().is_relative_to(path) for path in cleared):
            raise ConfigError(f"{key}: {value} lies in output_dir, which is cleared: name another")


def one_run(train):
    """Decorates a training loop: its output_dir is tried before anything is loaded, and locked as
    long as it runs, by one process for all. Ctrl-C and a full disk say how to go on.

    Raises: ConfigError for a folder that cannot be written, or in which another run writes."""
    @functools.wraps(train)
    def alone(config, resume: bool = False, **options):
        out, lock = Path(config.output_dir), Path(config.output_dir) / "run.lock"
        if os.environ.get("RANK", "0") != "0":
            return train(config, resume, **options)
        check_folder(out)
        check_inputs(config, out)
        try:
            with FileLock(lock, timeout=0):
                try:
                    return train(config, resume, **options)
                finally:  # while it is held, or it could be another's; Windows removes none in use
                    with contextlib.suppress(OSError):
                        lock.unlink()
        except Timeout:
            raise ConfigError(f"{out}: another run writes there; wait until it ends, or choose "
                              "another output_dir") from None
        except (KeyboardInterrupt, OSError, WriteError) as error:
            step, last = 0, out / "checkpoints" / "last.pt"
            with contextlib.suppress(Exception):  # there may be none, or one that is no good
                step = torch.load(last, map_location="cpu", weights_only=True, mmap=True)["step"]
            error.add_note(f"start again with --resume to go on from its checkpoint, step {step}")
            raise
    return alone
