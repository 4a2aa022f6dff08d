"""Atomic training checkpoints."""

import math
import os
import shutil
from pathlib import Path

import torch
import torch.distributed.checkpoint as shards
from torch.distributed.tensor import DTensor

from .distributed import barrier, rank
from .errors import ConfigError, TrainingError


class Checkpoint:
    """The trainable weights, optimizer and step in one file, replaced atomically: last.pt, and
    best.pt by the dev score. Batches and learning rate are functions of seed and step, and
    nothing in the step draws random numbers, so a resumed run is the same run.

    Rank 0 writes it. Of a sharded model every rank writes its shards into a folder step-N, which
    any number of ranks can read, and the file, written when the folder is whole, names it."""

    def __init__(self, folder: Path, trainable: dict, optimizer, config: dict, data: str):
        self.folder, self.trainable = folder / "checkpoints", trainable
        self.optimizer, self.config = optimizer, config | {"data (its rows)": data}
        self.step, self.best = 0, -math.inf
        self.sharded = any(isinstance(p, DTensor) for p in trainable.values())

    def describe(self) -> str:
        return f"{self.folder / 'last.pt'} (step {self.step})" if self.step else "none yet"

    def save(self, step: int, score: float | None) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        better = score is not None and score > self.best
        self.step, self.best = step, score if better else self.best
        content = {"step": step, "best": self.best, "config": self.config}
        if self.sharded:
            content["shards"] = f"step-{step}"
            shards.save(self._by_name(), checkpoint_id=self.folder / content["shards"])
        else:
            content |= {"weights": {n: p.detach() for n, p in self.trainable.items()},
                        "optimizer": self.optimizer.state_dict()}
        if rank() == 0:
            for name in ("last", "best") if better else ("last",):
                temporary = self.folder / f"{name}.tmp"
                torch.save(content, temporary)
                os.replace(temporary, self.folder / f"{name}.pt")
            if self.sharded:
                self._remove_old_shards()
        barrier()  # no rank trains on, or dies, while the file is written

    def clear(self) -> int:
        """Forget an earlier run in the same folder, so that a resume cannot take it up."""
        if rank() == 0:
            shutil.rmtree(self.folder, ignore_errors=True)
        barrier()
        return 0

    def load(self) -> int:
        """Restore the last checkpoint and return its step; 0 when there is none.

        Raises: ConfigError when the run was started with another config.
        """
        path = self.folder / "last.pt"
        if not path.exists():
            print(f"nothing to resume in {self.folder}: starting at step 0")
            return 0
        content = self._read(path)
        changed = [k for k, v in content["config"].items() if self.config.get(k) != v]
        if changed:
            raise ConfigError(f"{path} was written with another {', '.join(changed)}: resume with "
                              "the same config, or choose a new output_dir")
        if "shards" in content:
            self._load_shards(self.folder / content["shards"])
        elif self.sharded:
            raise ConfigError(f"{path} was written without FSDP: resume without it")
        else:
            with torch.no_grad():
                for name, parameter in self.trainable.items():
                    parameter.copy_(content["weights"][name])
            self.optimizer.load_state_dict(content["optimizer"])
        self.step, self.best = content["step"], content["best"]
        print(f"resuming after step {self.step}")
        return self.step

    def _read(self, path: Path) -> dict:
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise TrainingError(f"{path} cannot be read ({error}): start without "
                                "--resume") from error

    # ---- shards ----------------------------------------------------------------------------------

    def _by_name(self) -> dict:
        """Weights and optimizer states under the weights' names, as they are cut over ranks."""
        return {"weights": {n: p.detach() for n, p in self.trainable.items()},
                "optimizer": {n: self.optimizer.state[p] for n, p in self.trainable.items()}}

    def _load_shards(self, folder: Path) -> None:
        for group in self.optimizer.param_groups:  # a step that makes the states and moves nothing
            group["lr"] = 0.0
        for parameter in self.trainable.values():
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        shards.load(self._by_name(), checkpoint_id=folder)  # in place

    def _remove_old_shards(self) -> None:
        kept = {self._read(path).get("shards") for path in self.folder.glob("*.pt")}
        for folder in self.folder.glob("step-*"):
            if folder.name not in kept:
                shutil.rmtree(folder, ignore_errors=True)
