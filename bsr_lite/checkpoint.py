"""Atomic training checkpoints."""

import os
import shutil
from pathlib import Path

import torch
from torch import nn

from .distributed import rank, sharded
from .errors import ConfigError, TrainingError
from .runlog import flat

MAY_DIFFER = ("token_budget", "output_dir", "report_to")  # where and how it is computed, not what


class Checkpoint:
    """The trainable weights, optimizer and step in one file, replaced atomically. Batches and
    learning rate are functions of seed and step, and nothing in the step draws random numbers, so
    a resumed run is the same run.

    Rank 0 writes whole tensors: any number of processes, sharded or not, can go on from them."""

    def __init__(self, folder: Path, model: nn.Module, optimizer, config: dict, data: str, scaler):
        self.folder, self.model, self.optimizer = folder / "checkpoints", model, optimizer
        self.scaler = scaler
        self.config = flat({k: v for k, v in config.items() if k not in MAY_DIFFER})
        self.config["data (its rows)"] = data
        self.step = 0

    def describe(self) -> str:
        return f"{self.folder / 'last.pt'} (step {self.step})" if self.step else "none yet"

    def save(self, step: int) -> None:
        from torch.distributed.checkpoint import state_dict as whole
        self.step = step
        weights, optimizer = whole.get_state_dict(
            self.model, self.optimizer, options=whole.StateDictOptions(
                full_state_dict=True, cpu_offload=True, ignore_frozen_params=True))
        trained = {n for n, p in self.model.named_parameters() if p.requires_grad}
        weights = {n: w for n, w in weights.items() if n in trained}  # no buffers, no tied weights
        content = {"step": step, "config": self.config, "weights": weights, "optimizer": optimizer,
                   "scaler": self.scaler.state_dict()}
        if rank() == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            torch.save(content, self.folder / "last.tmp")
            os.replace(self.folder / "last.tmp", self.folder / "last.pt")

    def clear(self) -> int:
        """Forget an earlier run in the same folder: a resume must not take it up, nor may its model
        stay beside this run's config."""
        for name in ("checkpoints", "model") if rank() == 0 else ():
            shutil.rmtree(self.folder.parent / name, ignore_errors=True)
        return 0

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
        except Exception as error:
            raise TrainingError(f"{path} cannot be read ({error}): start without "
                                "--resume") from error
        changed = [k for k, v in flat(content["config"]).items() if self.config.get(k) != v]
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
