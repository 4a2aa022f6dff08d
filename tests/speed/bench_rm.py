"""The reward-model half of `bench`: our step against TRL's RewardTrainer, in turns.

The same pairs in the same batches, the same weights and optimizer: TRL as it comes (weights in fp32
under autocast, gradient checkpointing on), and `best`: frozen weights in the dtype they are
computed in, nothing computed twice.
"""

import contextlib
import copy
import sys
import tempfile
import time
from dataclasses import dataclass

import numpy as np
import torch

from bsr_lite.batching import TokenGroup, count_tokens, pack
from bsr_lite.config import DataConfig, ModelConfig, RewardModelConfig
from bsr_lite.models import RewardModel, load_reward_model
from bsr_lite.scale.estimate import LiveBytes
from bsr_lite.step import backward
from bsr_lite.studies.records import release_memory


@dataclass
class Work:
    """One comparison: batches of pairs as token_groups, and how the model is trained on them."""

    name: str
    batches: list[list[TokenGroup]]
    model: ModelConfig

    @property
    def rows(self) -> list[list[list[int]]]:
        """Per batch, what a padded trainer computes: chosen rows, then rejected ones."""
        return [[[*group[0], *group[side]] for side in (1, 2) for group in batch]
                for batch in self.batches]


# ---- the systems -------------------------------------------------------------------------------

def clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def saved_bytes(model, forward) -> int:
    """Of the different storages that a forward pass keeps for its backward, weights apart."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages: dict[int, int] = {}

    def keep(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward()
    return sum(size for place, size in storages.items() if place not in weights)


def watched(step, forward, model) -> dict:
    """Peak bytes of a step beside the model's own, and what its forward pass saves."""
    live = LiveBytes()
    live.ignore([*model.parameters(), *model.buffers()])
    with live:
        step()
    model.zero_grad(set_to_none=True)
    return {"peak": live.peak, "saved": saved_bytes(model, forward)}


def run_ours(start: RewardModel, work: Work, watch: bool) -> dict:
    """Seconds and losses of every batch; with `watch` the bytes of the first one instead."""
    model = copy.deepcopy(start).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, weight_decay=0.0)
    config = RewardModelConfig(work.model, DataConfig(""), "none")
    seconds, losses = [], []
    for batch in work.batches[:1] if watch else work.batches:
        started = clock(model.device)
        parts = [(list(range(len(batch))), pack(batch).to(model.device))]
        if watch:
            return watched(lambda parts=parts: backward(model, parts, config),
                           lambda parts=parts: model(parts[0][1]), model)
        _, loss = backward(model, parts, config)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(clock(model.device) - started)
        losses.append(loss.item())
    return {"seconds": seconds, "losses": losses}


def step_clock(seconds: list[float], device: torch.device):
    """A callback of transformers' Trainer that appends the seconds of every step."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def on_step_begin(self, *args, **options):
            self.started = clock(device)

        def on_step_end(self, *args, **options):
            seconds.append(clock(device) - self.started)
    return Clock()


def run_trl(start: RewardModel, work: Work, watch: bool, best: bool) -> dict:
    """The same through RewardTrainer: as it comes (weights in fp32, checkpointing on), or `best`:
    the frozen weights in the dtype they are computed in, nothing computed twice."""
    import transformers
    from datasets import Dataset
    from torch.utils.data import SequentialSampler
    from trl import RewardConfig, RewardTrainer

    model = copy.deepcopy(start.hf).train()
    if not best:
        model.float()
    (model.get_base_model() if work.model.lora_rank else model).set_attn_implementation("sdpa")
    found: dict = {"seconds": [], "losses": []}

    class Trainer(RewardTrainer):
        def _get_train_sampler(self, dataset=None):
            return SequentialSampler(self.train_dataset)

        def compute_loss(self, *args, **options):
            loss = super().compute_loss(*args, **options)
            found["losses"].append(loss.detach())
            return loss

        def training_step(self, model, inputs, *args, **options):
            if not watch:
                return super().training_step(model, inputs, *args, **options)
            found.update(watched(
                lambda: super(Trainer, self).training_step(model, inputs, *args, **options),
                lambda: self.compute_loss(model, self._prepare_inputs(inputs)), model))
            return torch.zeros((), device=model.device)  # Trainer refuses another device

    batches = work.rows[:1] if watch else work.rows
    size = len(batches[0]) // 2
    rows = [{"chosen_ids": rows[i], "rejected_ids": rows[size + i]}
            for rows in batches for i in range(size)]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        config = RewardConfig(
            folder, per_device_train_batch_size=size, max_steps=len(batches), max_length=None,
            learning_rate=1e-5, lr_scheduler_type="constant", warmup_steps=0, weight_decay=0.0,
            gradient_checkpointing=not best, bf16=work.model.dtype == "bfloat16",
            fp16=work.model.dtype == "float16",
            use_cpu=start.device.type == "cpu", report_to="none", save_strategy="no",
            logging_strategy="no", disable_tqdm=True, dataloader_num_workers=0)
        trainer = Trainer(model, config, train_dataset=Dataset.from_list(rows),
                          processing_class=copy.deepcopy(start.tokenizer),
                          callbacks=[step_clock(found["seconds"], start.device)])
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    return found | {"losses": [x.item() for x in found["losses"]]}


# ---- rounds --------------------------------------------------------------------------------------

def matmul_peak(device: torch.device, dtype: str) -> float:
    """Floating-point operations a second of a large matrix product."""
    a = torch.randn(2048, 2048, device=device, dtype=getattr(torch, dtype))
    a @ a
    started, times = clock(device), 0
    while clock(device) - started < 1:
        a @ a
        times += 1
    return 2 * 2048**3 * times / (clock(device) - started)


def needed_operations(start: RewardModel, work: Work) -> float:
    """Operations that a batch cannot do without, on average: matrix products of every different
    token, once forward and once (LoRA) or twice backward."""
    weights = sum(p.numel() for n, p in start.backbone.named_parameters()
                  if p.ndim == 2 and "embed" not in n and "lora" not in n)
    tokens = sum(count_tokens(t) for batch in work.batches for t in batch) / len(work.batches)
    return (4 if work.model.lora_rank else 6) * weights * tokens


def compare(work: Work, rounds: int, device: torch.device) -> dict:
    """table[system]: seconds a pair (median), speed-up of ours over it per batch (median and
    quartiles over batches and rounds), losses of the first batch, bytes, computed tokens."""
    options = dict(vars(work.model))
    start = load_reward_model(options.pop("name"), **options).to(device)
    run = {"ours": lambda watch: run_ours(start, work, watch),
           "trl": lambda watch: run_trl(start, work, watch, best=False),
           "trl_best": lambda watch: run_trl(start, work, watch, best=True)}
    found: dict = {name: [] for name in run}
    for _ in range(rounds):
        for name in run:  # in turns, so that a slow minute hits all
            found[name].append(run[name](False))
            release_memory()
    needed, peak = needed_operations(start, work), matmul_peak(device, work.model.dtype)
    real = sum(count_tokens(t) for batch in work.batches for t in batch)
    padded = sum(len(rows) * max(map(len, rows)) for rows in work.rows)
    seconds = {name: np.array([r["seconds"][1:] for r in runs]) for name, runs in found.items()}
    table = {}
    for name in run:
        ratio = np.quantile(seconds[name] / seconds["ours"], [0.5, 0.25, 0.75]).tolist()
        table[name] = {
            "pairs_per_second": len(work.batches[0]) / float(np.median(seconds[name])),
            "speed_up": ratio, "first_loss": found[name][0]["losses"][0],
            "computed_tokens": (real if name == "ours" else padded) / real,
            "goodput": needed / float(np.mean(seconds[name])) / peak}
        table[name] |= {k: v for k, v in run[name](True).items() if k in ("peak", "saved")}
    return table
