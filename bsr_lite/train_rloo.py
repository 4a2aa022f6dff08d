"""Train a policy against a reward model by RLOO:
python -m bsr_lite.train_rloo --config bsr_lite/configs/rloo_fast.yaml

The loop: draw prompts, sample K answers to each, score them, take each answer's reward minus the
mean of the others, step. Killed and started again with --resume it goes on exactly.
"""

import shutil
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from . import generate
from .batching import count_tokens, draw_batch, micro_batches
from .checkpoint import Checkpoint
from .cli import parser
from .config import RLOOConfig, load_config, to_dict
from .distributed import refuse_launcher
from .errors import ConfigError, DataError, ModelError, TrainingError
from .generate import read_instructions
from .policy import Policy, SharedRewardModel, load_policy, reward_model_for
from .rloo import (
    clip_fraction,
    kl_estimate,
    kl_penalized_rewards,
    leave_one_out_advantages,
    rloo_loss,
)
from .runlog import RunLog, fingerprint, peak_memory_gb, phase
from .saving import weights_fingerprint
from .scorers import Scorer, model_gold, pocket_gold, pocket_rows, reward_scorer
from .train_rm import schedule

# ---- before the loop -----------------------------------------------------------------------------

def read_prompts(config: RLOOConfig, split: str | None = None) -> list[dict]:
    """The rows of a split (the config's), with what gold needs.  Raises: DataError."""
    split = split or config.split
    if config.gold == "pocket":
        rows = pocket_rows(config.data, split)
    else:
        rows = [{"prompt": text} for text in read_instructions(config.data, split)]
    if len(rows) < config.prompts_per_step:
        raise DataError(f"{config.data}: {len(rows)} prompts of split {split!r}, a step takes "
                        f"{config.prompts_per_step}")
    return rows


def gold_scorer(config: RLOOConfig) -> Scorer | None:
    if config.gold in (None, "none"):
        return None
    return pocket_gold if config.gold == "pocket" else model_gold(config.gold,
                                                                  config.trust_remote_code)


def prepare(config: RLOOConfig):
    """Policy, proxy, gold and prompts; everything that can fail on bad input."""
    with phase("prompts"):
        rows = read_prompts(config)
    with phase("models"):
        policy = load_policy(config.policy.name, lora_rank=config.policy.lora_rank,
                             dtype=config.policy.dtype, quantization=config.policy.quantization,
                             seed=config.seed)
        proxy = reward_model_for(policy, config.reward_model, config.policy.name)
        gold = gold_scorer(config)
    print(f"{len(rows)} prompts, {config.steps} steps of {config.prompts_per_step} prompts x "
          f"{config.num_generations} answers; reward model "
          + ("on the policy's base" if isinstance(proxy, SharedRewardModel) else
             "with weights of its own"))
    return policy, reward_scorer(proxy, config.token_budget), gold, rows


# ---- the step ------------------------------------------------------------------------------------

def roll_out(policy: Policy, rows: list[dict], config: RLOOConfig, seed: int) -> list[dict]:
    """K answers to each prompt, as `generate.roll_out` gives them, with its `row`."""
    batch = generate.roll_out(policy, [[{"role": "user", "content": r["prompt"]}] for r in rows],
                              config.num_generations, config.max_new_tokens,
                              torch.Generator().manual_seed(seed))
    return [b | {"row": row} for b, row in zip(batch, rows, strict=True)]


def score(batch: list[dict], scorer: Scorer) -> Tensor:
    """Shapes: P prompts with K answers -> (P, K)."""
    return torch.tensor([scorer(b["row"], b["texts"], b["finished"]) for b in batch])


def sequence_logprobs(policy: Policy, batch: list[dict], config: RLOOConfig) -> list[Tensor]:
    """Token log-probabilities of all answers, in order, without a graph, in micro-batches."""
    token_groups = [b["token_group"] for b in batch]
    found: list = [None] * len(token_groups)
    with torch.no_grad():
        for run in micro_batches([count_tokens(t) for t in token_groups], config.token_budget):
            values = policy.logprobs([token_groups[i] for i in run])
            for place, index in enumerate(run):
                k = config.num_generations
                found[index] = [v.cpu() for v in values[place * k:(place + 1) * k]]
    return [tokens for prompt in found for tokens in prompt]


def sums(tokens: list[Tensor], prompts: int) -> Tensor:
    """Shapes: P K tensors (T_i,) -> (P, K)."""
    return torch.stack([t.sum() for t in tokens]).view(prompts, -1)


def advantages_of(rewards: Tensor, old: Tensor, ref: Tensor, config: RLOOConfig) -> Tensor:
    """Leave-one-out, KL in the reward (k1 of whole answers).  Shapes: (P, K) each -> (P, K)."""
    return leave_one_out_advantages(
        kl_penalized_rewards(rewards, kl_estimate(old, ref), config.kl_coef))


def update(policy: Policy, batch: list[dict], rewards: Tensor, ref: Tensor, config: RLOOConfig,
           old: Tensor | None = None) -> list[Tensor]:
    """Accumulates the gradient of `rloo_loss` over the batch; its token log-probabilities. Without
    `old` this policy gave the answers, and one forward pass serves advantages and gradient."""
    token_groups = [b["token_group"] for b in batch]
    found: list = [None] * len(token_groups)
    for run in micro_batches([count_tokens(t) for t in token_groups], config.token_budget):
        tokens = policy.logprobs([token_groups[i] for i in run])
        seq = sums(tokens, len(run))
        before = seq.detach() if old is None else old[run].to(seq.device)
        advantages = advantages_of(rewards[run], before.cpu(), ref[run], config)
        loss = rloo_loss(seq, before, advantages.to(seq.device), config.clip_range)
        (loss * len(run) / len(batch)).backward()
        for place, index in enumerate(run):
            k = config.num_generations
            found[index] = [t.detach().cpu() for t in tokens[place * k:(place + 1) * k]]
    return [tokens for prompt in found for tokens in prompt]


# ---- what is watched -----------------------------------------------------------------------------

def collapse(row: dict) -> list[str]:
    """Names of what looks like a policy that broke."""
    signs = {"all advantages are zero: every prompt's answers score alike":
             row["train/advantage_std"] < 1e-6,
             "KL above 100 nats an answer: the policy has left its reference":
             row["train/kl"] > 100,
             "answers of fewer than three tokens": row["train/length"] < 3,
             "entropy below 0.05 nats a token: it says one thing": row["train/entropy"] < 0.05}
    return [name for name, seen in signs.items() if seen]


def reference_scale(policy, scorer, rows: list[dict], config: RLOOConfig) -> tuple[float, float]:
    """Mean reward of the reference's answers and their mean standard deviation within a prompt:
    the zero and the unit in which the proxy's rewards, hence kl_coef, are measured."""
    if not config.standardize_prompts:
        return 0.0, 1.0
    pick = draw_batch(len(rows), min(config.standardize_prompts, len(rows)), config.seed + 1, 0)
    with policy.reference():
        batch = roll_out(policy, [rows[i] for i in pick], config, 10**9 + config.seed)
    rewards = score(batch, scorer)
    spread = rewards.std(1).mean().item()
    if spread == 0:
        raise ModelError(f"{config.reward_model} gives all answers to a prompt the same reward")
    return rewards.mean().item(), spread


# ---- the loop ------------------------------------------------------------------------------------

def train(config: RLOOConfig, resume: bool = False) -> Policy:
    """Train, log and save.

    Raises: DataError, ModelError before the first step; TrainingError for a non-finite gradient.
    """
    from tqdm import tqdm
    out = Path(config.output_dir)
    policy, proxy, gold, rows = prepare(config)
    trainable = {n: p for n, p in policy.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trainable.values(), lr=config.learning_rate, weight_decay=0.0)
    seen = {"reward_model (its weights)": weights_fingerprint(config.reward_model)}
    checkpoint = Checkpoint(out, policy, optimizer, to_dict(config) | seen, fingerprint(rows))
    first = checkpoint.load() if resume else checkpoint.clear()
    if not first:
        shutil.rmtree(out / "model", ignore_errors=True)  # of an earlier run
    log = RunLog(out, to_dict(config), first)
    with phase("reference"):
        zero, unit = reference_scale(policy, proxy, rows, config)
    warned: set[str] = set()
    bar = tqdm(range(first, config.steps), initial=first, total=config.steps, mininterval=1.0)
    for step in bar:
        started, clock = time.perf_counter(), {}
        index = draw_batch(len(rows), config.prompts_per_step, config.seed, step)
        batch = roll_out(policy, [rows[i] for i in index], config, config.seed * 10**6 + step)
        clock["generate"] = time.perf_counter() - started
        rewards = (score(batch, proxy) - zero) / unit  # (P, K)
        finished = torch.tensor([b["finished"] for b in batch])
        penalized = rewards - config.missing_eos_penalty * ~finished

        with policy.reference():
            ref_tokens = sequence_logprobs(policy, batch, config)
        ref, old_tokens = sums(ref_tokens, len(batch)), None
        if config.minibatches > 1:  # the later ones step a policy that did not give the answers
            old_tokens = sequence_logprobs(policy, batch, config)
            old = sums(old_tokens, len(batch))

        # --- one optimizer step for every minibatch of prompts
        now_tokens, norms = [], []
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * schedule(step, config.steps, config.warmup_ratio)
        for part in torch.arange(len(batch)).chunk(config.minibatches):
            now_tokens += update(policy, [batch[i] for i in part], penalized[part], ref[part],
                                 config, old[part] if old_tokens else None)
            norms.append(torch.nn.utils.clip_grad_norm_(trainable.values(), config.max_grad_norm))
            if not torch.isfinite(norms[-1]):
                raise TrainingError(f"step {step + 1}: gradient norm {norms[-1].item()}. Last good "
                                    f"checkpoint: {checkpoint.describe()}. Lower learning_rate")
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        # ---

        old_tokens = old_tokens or now_tokens
        old, now = sums(old_tokens, len(batch)), sums(now_tokens, len(batch))
        advantages = advantages_of(penalized, old, ref, config)
        lengths = torch.tensor([float(len(t)) for t in old_tokens])
        row = {"step": step + 1, "train/proxy_reward": rewards.mean().item(),
               "train/raw_reward": (rewards * unit + zero).mean().item(),
               "train/kl": (old - ref).mean().item(),
               "train/kl_k3": sum(kl_estimate(a, b, "k3").sum() for a, b in zip(
                   old_tokens, ref_tokens, strict=True)).item() / len(old_tokens),
               "train/entropy": -torch.cat(old_tokens).mean().item(),
               "train/length": lengths.mean().item(),
               "train/finished": finished.float().mean().item(),
               "train/advantage_std": advantages.std().item(),
               "train/clip_fraction": clip_fraction(now, old, advantages, config.clip_range),
               "train/grad_norm": float(max(norms)),
               "train/learning_rate": optimizer.param_groups[0]["lr"],
               "seconds/generate": clock["generate"],
               "seconds/step": time.perf_counter() - started, "peak_memory_gb": peak_memory_gb()}
        if gold:
            row["train/gold_reward"] = score(batch, gold).mean().item()
        row["sample"] = {"prompt": batch[0]["row"]["prompt"], "responses": batch[0]["texts"],
                         "proxy": rewards[0].tolist()}  # to read what the policy learns to say
        log.write(row)
        for name in set(collapse(row)) - warned:
            warned.add(name)
            tqdm.write(f"step {step + 1}, and maybe later: {name}")
        bar.set_postfix({k.partition("/")[2]: f"{row[k]:.2f}" for k in (
            "train/proxy_reward", "train/gold_reward", "train/kl") if k in row})
        if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
            checkpoint.save(step + 1, None)
    policy.save(out / "model")
    print(f"{out}: {config.steps - first} steps, peak memory {peak_memory_gb():.2f} GB; policy in "
          f"{out / 'model'}")
    return policy


def main(argv: list[str] | None = None) -> None:
    args = parser("train_rloo").parse_args(argv)
    refuse_launcher("train_rloo")
    train(load_config(args.config, RLOOConfig, args.overrides), args.resume)


if __name__ == "__main__":
    try:
        main()
    except (ConfigError, DataError, ModelError, TrainingError) as error:
        sys.exit(f"error: {error}")
