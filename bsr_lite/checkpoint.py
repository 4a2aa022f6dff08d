"""Atomic training checkpoints."""

import math
import os
import shutil
from pathlib import Path

import torch

from .distributed import cut_like, gather_to_rank_0, rank, sharded
from .errors import ConfigError, TrainingError

MAY_DIFFER = ("token_budget", "output_dir", "report_to")  # where and how it is computed, not what


class Checkpoint:
    """The trainable weights, optimizer and step in one file, replaced atomically: last.pt, and
    best.pt by the dev score. Batches and learning rate are functions of seed and step, and
    nothing in the step draws random numbers, so a resumed run is the same run.

    Rank 0 writes whole tensors: any number of processes, sharded or not, can go on from them."""

    def __init__(self, folder: Path, trainable: dict, optimizer, config: dict, data: str):
        self.folder, self.trainable, self.optimizer = folder / "checkpoints", trainable, optimizer
        self.config = {k: v for k, v in config.items() if k not in MAY_DIFFER}
        self.config["data (its rows)"] = data
        self.step, self.best = 0, -math.inf

    def describe(self) -> str:
        return f"{self.folder / 'last.pt'} (step {self.step})" if self.step else "none yet"

    def save(self, step: int, score: float | None) -> None:
        better = score is not None and score > self.best
        self.step, self.best = step, score if better else self.best
        content = {"step": step, "best": self.best, "config": self.config,
                   "weights": gather_to_rank_0(self.trainable),
                   "optimizer": gather_to_rank_0(self.optimizer.state_dict())}
        if rank() == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            for name in ("last", "best") if better else ("last",):
                temporary = self.folder / f"{name}.tmp"
                torch.save(content, temporary)
                os.replace(temporary, self.folder / f"{name}.pt")

    def clear(self) -> int:
        """Forget an earlier run in the same folder, so that a resume cannot take it up."""
        if rank() == 0:
            shutil.rmtree(self.folder, ignore_errors=True)
        return 0

    def load(self) -> int:
        """Restore the last checkpoint and return its step; 0 when there is none.

        Raises: ConfigError when the run was started with another config, TrainingError for a file
        that cannot be read.
        """
        path = self.folder / "last.pt"
        if not path.exists():
            print(f"nothing to resume in {self.folder}: starting at step 0")
            return 0
        try:  # mapped, not read, where every process needs a part of a large file only
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=sharded())
        except Exception as error:
            raise TrainingError(f"{path} cannot be read ({error}): start without "
                                "--resume") from error
        changed = [k for k, v in content["config"].items() if self.config.get(k) != v]
        if changed:
            raise ConfigError(f"{path} was written with another {', '.join(changed)}: resume with "
                              "the same config, or choose a new output_dir")
        with torch.no_grad():
            for name, parameter in self.trainable.items():
                parameter.copy_(cut_like(parameter, content["weights"][name]))
        owners = [p for group in self.optimizer.param_groups for p in group["params"]]
        for number, state in content["optimizer"]["state"].items():
            state |= {k: cut_like(owners[number], v) for k, v in state.items()}
        self.optimizer.load_state_dict(content["optimizer"])
        self.step, self.best = content["step"], content["best"]
        print(f"resuming after step {self.step}")
        return self.step
