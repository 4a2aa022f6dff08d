"""Train a reward model: python -m bsr_lite.train_rm --config bsr_lite/configs/rm_fast.yaml

The loop: draw B pairs at random, compute their rewards in micro-batches, each one packed row, take
the loss of the whole batch in fp32, step. Killed and started again with --resume it goes on
exactly.
"""

import dataclasses
import itertools
import random
import time
from pathlib import Path

import torch

from . import distributed
from .batching import count_tokens, draw_batch, pack, share_out
from .checkpoint import Checkpoint, one_run
from .config import RewardModelConfig, command_line, load_config, to_dict, with_dtype
from .data import Group
from .errors import ConfigError, TrainingError, run
from .eval_rm import evaluate, group_tokens
from .losses import PENALTIES
from .models import load_reward_model
from .runlog import RunLog, check_tracker, open_tracker, peak_memory_gb, phase, read_metrics
from .saving import save_reward_model, training_facts
from .scenarios import Scenarios, load_scenarios, require, sets_of
from .step import backward, forgives, loss_scaler, make_optimizer, schedule, step_metrics
from .tokenization import pair_tokens, token_fingerprint

# ---- before the loop -----------------------------------------------------------------------------

def prepare(config: RewardModelConfig, scenarios: Scenarios | None):
    """Model, tokenized pairs, the sets to score (dev first) and drop counts. Everything that can
    fail does so here: first what this machine cannot do, then what bad input breaks."""
    check_tracker(config.report_to)
    paged = config.optimizer == "paged_adamw_8bit"
    if paged and (distributed.sharded() or not torch.cuda.is_available()):
        raise ConfigError("optimizer: paged_adamw_8bit needs a GPU, and cannot update shards; on a "
                          "CPU and under FSDP run with --set optimizer=adamw")
    with phase("data"):
        scenarios = scenarios or load_scenarios(config)
        require(scenarios, config.watch)
    with phase("model"):
        options = dataclasses.asdict(config.model)
        model = load_reward_model(options.pop("name"), seed=config.seed, **options)
    if config.data.max_length > model.longest:
        raise ConfigError(f"data.max_length {config.data.max_length} is over the {model.longest} "
                          f"tokens that {config.model.name} computes or attends to: lower it")
    with phase("tokens"):
        pairs, dropped = pair_tokens(scenarios.train, model.tokenizer, config.data.max_length)
    demanded = sum(pair.target_margin != 0 for pair in pairs)
    if demanded and config.loss not in {"bt", *PENALTIES}:
        raise ConfigError(f"loss {config.loss} takes no margins of pairs, and {demanded} demand "
                          "one: remove the column margin, or choose another loss")
    watched = {"dev": draw_groups(model, scenarios.dev_prompt_disjoint, config)}
    for name in config.watch:
        watched[name] = draw_groups(model, sets_of(scenarios, name), config)
    print(f"{len(pairs)} pairs, {sum(map(count_tokens, pairs))} tokens an epoch, sets to score: "
          f"{', '.join(f'{len(g)} {name}' for name, g in watched.items())}; counted: "
          f"{dropped | {'margins': demanded} | scenarios.counts}")
    return model, pairs, watched, dropped


def draw_groups(model, groups: list[Group], config: RewardModelConfig) -> list[Group]:
    """The first eval_groups sets of a fixed random order that fit and that gold decides: a watched
    set loses none of them later, so that all are of one size."""
    order = random.Random(config.data.seed).sample(groups, len(groups))
    fit = (g for g in order if len(set(g.gold)) > 1
           and group_tokens(model.tokenizer, g.prompt, g.responses, config.data.max_length))
    return list(itertools.islice(fit, config.eval_groups))


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
            lists = ("per_prompt", "rewards", "gold")  # of every prompt: too long for a log
            row["watch"][name] = {k: v for k, v in result.items() if k not in lists}
    return row


# ---- the loop ------------------------------------------------------------------------------------

@one_run
def train(config: RewardModelConfig, resume: bool = False, scenarios: Scenarios | None = None):
    """Train, log and save; returns the model and a dict with the run's totals.

    Raises: ConfigError, DataError, ModelError before the first step; TrainingError for a loss or
    gradient that is not finite, for a checkpoint that cannot be read, and for a full disk.
    """
    from tqdm import tqdm
    device, out = distributed.start_processes(), Path(config.output_dir)
    rank, ranks = distributed.rank(), distributed.ranks()
    model, pairs, watched, dropped = prepare(config, scenarios)
    distributed.place_model(model, device)
    config = with_dtype(config, "model", model.meta["dtype"])
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer, scaler = make_optimizer(model, config), loss_scaler(model)
    steps_per_epoch = -(-len(pairs) // config.batch_size)  # the last batch may be smaller
    total = steps_per_epoch * config.epochs

    data = token_fingerprint(pairs)
    checkpoint = Checkpoint(out, model, optimizer, to_dict(config), data, scaler)
    first = checkpoint.load() if resume else 0
    distributed.check_agreement(config=to_dict(config), training_pairs=data, first_step=first)
    write = (RunLog(out, to_dict(config), first, open_tracker(config)).write if rank == 0
             else lambda row: None)  # one log a run, not one a process
    if config.watch and not first:  # norms before step 1: what training starts from
        write({"step": 0, "epoch": 0.0, "train/head_norm": model.head_weight.norm().item(),
               **check_up(model, watched, config)})

    model.train()
    seconds, seen_tokens = 0.0, 0  # of training alone, without dev evaluations
    # disable=False would overrule the user's TQDM_DISABLE, so it is not passed at all
    bar = tqdm(range(first, total), initial=first, total=total, mininterval=1.0,
               desc=f"{config.loss} seed {config.seed}", **({"disable": True} if rank else {}))
    for step in bar:
        started = time.perf_counter()

        # 1. Draw a batch of B pairs at random; only then deal it to the processes and cut each
        # share into micro-batches: what shares a batch must be chance, what shares a row need not.
        drawn = draw_batch(len(pairs), config.batch_size, config.seed, step)
        batch = [pairs[i] for i in drawn]
        lengths = [count_tokens(pair) for pair in batch]
        margins = torch.tensor([pair.target_margin for pair in batch])  # (B,), 0 for none
        shortest = lengths.index(min(lengths))  # for a process that has nothing else to do
        parts = [(index, pack([batch[i] for i in index or [shortest]]))
                 for index in share_out(lengths, config.token_budget, ranks)[rank]]

        # 2. Rewards (B, 2), the loss of the whole batch, its gradient summed over all processes.
        # One call does it all, as BSR's gradient needs the rewards of the whole batch first.
        rewards, loss = backward(model, parts, config, lambda x: scaler.scale(x).backward(),
                                 len(batch), margins if margins.any() else None)
        distributed.sum_gradients(trained)
        scaler.unscale_(optimizer)
        norm = distributed.clip_gradients(trained, config.max_grad_norm)
        if not (torch.isfinite(loss) and (torch.isfinite(norm) or forgives(scaler))):
            raise TrainingError(
                f"step {step + 1}: loss {loss.item()}, gradient norm {float(norm)}; rewards "
                f"{rewards.tolist()} of pairs {drawn}, the first of them "
                f"{model.tokenizer.decode(list(batch[0][0]))[-60:]!r}. Last good checkpoint: "
                f"{checkpoint.describe()}. Lower learning_rate, or look at these pairs"
                + (", or set model.dtype: float32" if scaler.is_enabled() else ""))

        # 3. Step. The learning rate is a function of the step, so a resumed run needs no scheduler.
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * schedule(step, total, config.warmup_ratio)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)  # frees them: the next pass needs the room

        # 4. Log; now and then score the dev set and keep a checkpoint. The clock stops before that:
        # speed is training's.
        seen_tokens += sum(lengths)
        seconds += time.perf_counter() - started
        row = {"step": step + 1, "epoch": (step + 1) / steps_per_epoch,
               **step_metrics(rewards, loss, config), "train/grad_norm": float(norm),
               "train/head_norm": model.head_weight.norm().item(),
               "train/learning_rate": optimizer.param_groups[0]["lr"], "micro_batches": len(parts),
               "tokens_per_s": seen_tokens / seconds, "peak_memory_gb": peak_memory_gb(),
               **({"train/loss_scale": scaler.get_scale()} if scaler.is_enabled() else {})}
        bar.set_postfix(loss=f"{row['train/loss']:.3f}", tokens_s=f"{row['tokens_per_s']:.0f}")
        check = (step + 1) % config.eval_every == 0 or step + 1 == total
        row |= check_up(model, watched, config) if check else {}
        write(row)
        if check:
            checkpoint.save(step + 1)

    weights = distributed.whole_weights(model.hf) if distributed.sharded() else None
    if rank == 0:
        model.meta["training"] = training_facts(config, len(pairs), total, read_metrics(out)[-1])
        save_reward_model(model, out / "model", weights)
    speed = seen_tokens / max(seconds, 1e-9)
    print(f"{out}: {total - first} steps in {seconds:.0f} s of training, {speed:.0f} tokens/s, "
          f"peak memory {peak_memory_gb():.2f} GB; model in {out / 'model'}")
    return model, {"pairs": len(pairs), "dropped": dropped, "steps": total,
                   "tokens": seen_tokens, "seconds": seconds, "tokens_per_s": speed}


def main(argv: list[str] | None = None) -> None:
    parser = command_line("train_rm", __doc__, "a reward-model run")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    args = parser.parse_args(argv)
    with distributed.until_processes_end():
        train(load_config(args.config, RewardModelConfig, args.overrides), args.resume)


if __name__ == "__main__":
    run(main)
