"""Train a reward model: python -m bsr_lite.train_rm --config bsr_lite/configs/rm_fast.yaml

The loop: draw B pairs at random, compute their rewards in micro-batches of packed rows, take the
loss of the whole batch in fp32, step. Killed and started again with --resume it goes on exactly.
"""

import dataclasses
import itertools
import math
import random
import time
from pathlib import Path

import torch

from .batching import count_tokens, draw_batch, pack, share_out
from .checkpoint import Checkpoint
from .config import RewardModelConfig, command_line, load_config, to_dict
from .data import Group, pairs_as_groups
from .distributed import (
    check_agreement,
    clip_gradients,
    place_model,
    rank,
    ranks,
    sharded,
    start_processes,
    sum_gradients,
    until_processes_end,
    whole_weights,
)
from .errors import ConfigError, TrainingError, run
from .eval_rm import evaluate, group_tokens
from .runlog import RunLog, check_tracker, open_tracker, peak_memory_gb, phase, read_metrics
from .saving import training_facts
from .scenarios import Scenarios, load_scenarios, require
from .step import backward, step_metrics
from .tokenization import pair_tokens

# ---- before the loop -----------------------------------------------------------------------------

def make_optimizer(model, config: RewardModelConfig) -> torch.optim.Optimizer:
    """AdamW, in fp32 or paged in 8 bits; the head, drawn at random, has a learning rate of its own.
    """
    head = [p for n, p in model.named_parameters() if p.requires_grad and "score" in n]
    body = [p for n, p in model.named_parameters() if p.requires_grad and "score" not in n]
    head_rate = config.head_learning_rate or config.learning_rate
    groups = [{"params": body, "lr": config.learning_rate}, {"params": head, "lr": head_rate}]
    for group in groups:
        group["peak_lr"] = group["lr"]
    if config.optimizer == "paged_adamw_8bit":
        from bitsandbytes.optim import PagedAdamW8bit
        return PagedAdamW8bit(groups, weight_decay=config.weight_decay)
    return torch.optim.AdamW(groups, weight_decay=config.weight_decay)


def schedule(step: int, total: int, warmup_ratio: float) -> float:
    """Linear warmup, then linear decay to zero, as a share of the peak learning rate.

    >>> [round(schedule(s, 10, 0.2), 2) for s in (0, 1, 2, 9)]
    [0.5, 1.0, 1.0, 0.12]
    """
    warmup = max(1, math.ceil(warmup_ratio * total))
    if step < warmup:
        return (step + 1) / warmup
    return (total - step) / max(1, total - warmup)


# ---- the loop ------------------------------------------------------------------------------------

def draw_groups(model, groups: list[Group], config: RewardModelConfig) -> list[Group]:
    """The first eval_groups sets of a fixed random order that fit and that gold decides: a watched
    set loses none of them later, so that all are of one size."""
    order = random.Random(config.data.seed).sample(groups, len(groups))
    fit = (g for g in order if len(set(g.gold)) > 1
           and group_tokens(model.tokenizer, g, config.data.max_length))
    return list(itertools.islice(fit, config.eval_groups))


def prepare(config: RewardModelConfig, scenarios: Scenarios | None):
    """Model, training token_groups, the sets to score (dev first) and drop counts; everything that can
    fail on bad input."""
    from .models import load_reward_model
    check_tracker(config.report_to)
    if config.optimizer == "paged_adamw_8bit" and not torch.cuda.is_available():
        raise ConfigError("optimizer: paged_adamw_8bit needs a GPU; on a CPU run with "
                          "--set optimizer=adamw")
    if config.optimizer == "paged_adamw_8bit" and sharded():
        raise ConfigError("optimizer: paged_adamw_8bit cannot update shards; under FSDP run with "
                          "--set optimizer=adamw, whose states are sharded")
    with phase("data"):
        scenarios = scenarios or load_scenarios(config)
        require(scenarios, config.watch)
    with phase("model"):
        options = dataclasses.asdict(config.model)
        model = load_reward_model(options.pop("name"), seed=config.seed, **options)
    with phase("tokens"):
        token_groups, dropped = pair_tokens(scenarios.train, model.tokenizer, config.data.max_length)
    watched = {"dev": draw_groups(model, scenarios.dev_prompt_disjoint, config)}
    for name in config.watch:
        groups = pairs_as_groups(scenarios.train) if name == "train" else getattr(scenarios, name)
        watched[name] = draw_groups(model, groups, config)
    print(f"{len(token_groups)} pairs, {sum(token_groups.sizes())} tokens an epoch, sets to score: "
          f"{', '.join(f'{len(g)} {name}' for name, g in watched.items())}; counted: "
          f"{dropped | scenarios.counts}")
    return model, token_groups, watched, dropped


def check_up(model, watched: dict[str, list[Group]], config: RewardModelConfig) -> dict:
    """The row's columns of one evaluation during training: the dev score, and under `watch` every
    watched set's score with its norms (`eval_rm.dispersion_statistics`)."""
    row: dict = {"watch": {}} if config.watch else {}
    for name, groups in watched.items():
        if not groups:
            continue
        result = evaluate(model, groups, max_length=config.data.max_length,
                          token_budget=config.token_budget, dispersion=name != "dev")
        if name == "dev":
            row |= {f"val/{result['metric']}": result["score"], "val/low": result["low"],
                    "val/high": result["high"], "val/groups": result["groups"]}
        else:
            row["watch"][name] = {k: v for k, v in result.items()
                                  if k not in ("per_prompt", "rewards", "gold")}
    return row


def train(config: RewardModelConfig, resume: bool = False, scenarios: Scenarios | None = None):
    """Train, log and save; returns the model and a dict with the run's totals.

    Raises: DataError, ModelError before the first step; TrainingError for a non-finite loss.
    """
    from tqdm import tqdm

    from .saving import save_reward_model
    device, out = start_processes(), Path(config.output_dir)
    model, token_groups, watched, dropped = prepare(config, scenarios)
    per_epoch = -(-len(token_groups) // config.batch_size)
    total = per_epoch * config.epochs
    place_model(model, device)
    optimizer = make_optimizer(model, config)
    trained = [p for p in model.parameters() if p.requires_grad]
    data = token_groups.fingerprint()
    checkpoint = Checkpoint(out, model, optimizer, to_dict(config), data)
    first = checkpoint.load() if resume else checkpoint.clear()
    check_agreement(config=to_dict(config), training_pairs=data, first_step=first)
    write = (RunLog(out, to_dict(config), first, open_tracker(config)).write if rank() == 0
             else lambda row: None)
    if config.watch and not first:
        write({"step": 0, "epoch": 0.0, "train/head_norm": model.head_weight.norm().item(),
               **check_up(model, watched, config)})
    model.train()
    seconds, seen_tokens, seen_pairs = 0.0, 0, 0  # of training alone, without dev evaluations
    bar = tqdm(range(first, total), initial=first, total=total, mininterval=1.0,
               desc=f"{config.loss} seed {config.seed}", **({"disable": True} if rank() else {}))
    for step in bar:
        started = time.perf_counter()
        batch = draw_batch(len(token_groups), config.batch_size, config.seed, step)
        lengths = [count_tokens(token_groups[i]) for i in batch]
        shortest = lengths.index(min(lengths))  # what a rank computes that has nothing else to do
        parts = [(run, pack([token_groups[batch[i]] for i in run or [shortest]]).to(model.device))
                 for run in share_out(lengths, config.token_budget, ranks())[rank()]]

        # --- the optimizer step
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * schedule(step, total, config.warmup_ratio)
        rewards, loss = backward(model, parts, config, pairs=len(batch))
        sum_gradients(trained)
        norm = clip_gradients(trained, config.max_grad_norm)
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            raise TrainingError(
                f"step {step + 1}: loss {loss.item()}, gradient norm {float(norm)}; rewards "
                f"{rewards.tolist()} of pairs {batch}, the first of them "
                f"{model.tokenizer.decode(token_groups[batch[0]][0])[-60:]!r}. Last good checkpoint: "
                f"{checkpoint.describe()}. Lower learning_rate, or look at these pairs")
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        # ---

        seen_tokens, seen_pairs = seen_tokens + sum(lengths), seen_pairs + len(batch)
        seconds += time.perf_counter() - started
        row = {"step": step + 1, "epoch": (step + 1) / per_epoch,
               **step_metrics(rewards, loss, config), "train/grad_norm": float(norm),
               "train/head_norm": model.head_weight.norm().item(),
               "train/learning_rate": optimizer.param_groups[0]["lr"], "micro_batches": len(parts),
               "tokens_per_s": seen_tokens / seconds,
               "pairs_per_s": seen_pairs / seconds,
               "peak_memory_gb": peak_memory_gb()}
        bar.set_postfix(loss=f"{row['train/loss']:.3f}", acc=f"{row['train/accuracy']:.2f}",
                        tok_s=f"{row['tokens_per_s']:.0f}")
        check = (step + 1) % config.eval_every == 0 or step + 1 == total
        if check:
            row |= check_up(model, watched, config)
        write(row)
        if check:
            checkpoint.save(step + 1, row.get("val/tau", row.get("val/accuracy")))
    weights = whole_weights(model.hf) if sharded() else None
    if rank() == 0:
        model.meta["training"] = training_facts(config, len(token_groups), total, read_metrics(out)[-1])
        save_reward_model(model, out / "model", weights)
    speed = seen_tokens / max(seconds, 1e-9)
    print(f"{out}: {total - first} steps in {seconds:.0f} s of training, {speed:.0f} tokens/s, "
          f"{speed * seen_pairs / max(seen_tokens, 1):.1f} pairs/s, "
          f"peak memory {peak_memory_gb():.2f} GB; model in {out / 'model'}")
    return model, {"pairs": len(token_groups), "dropped": dropped, "steps": total,
                   "tokens": seen_tokens, "seconds": seconds, "tokens_per_s": speed}


def main(argv: list[str] | None = None) -> None:
    parser = command_line("train_rm", __doc__, "a reward-model run")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    args = parser.parse_args(argv)
    with until_processes_end():
        train(load_config(args.config, RewardModelConfig, args.overrides), args.resume)


if __name__ == "__main__":
    run(main)
