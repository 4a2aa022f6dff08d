"""Train a policy against a reward model by RLOO:
python -m bsr_lite.train_rloo --config bsr_lite/configs/rloo_fast.yaml

The loop: draw prompts, sample K answers to each, score them (in units of the reference's answers,
less a penalty for an answer without end and the price of KL), take each answer's reward minus the
mean of the others, step once for every minibatch, by a clipped ratio where asked for. Killed and
started again with --resume it goes on exactly.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from . import rloo
from .batching import count_tokens, draw_batch, micro_batches
from .checkpoint import Checkpoint, one_run
from .config import RLOOConfig, command_line, load_config, to_dict, with_dtype
from .distributed import refuse_launcher
from .errors import DataError, ModelError, TrainingError, run
from .generate import end_of_turn, prompt_ids, roll_out
from .policy import Policy, load_policy, reward_model_for
from .runlog import RunLog, fingerprint, peak_memory_gb, phase, writing
from .saving import weights_fingerprint
from .scorers import Scorer, gold_scorer, model_gold, read_prompts, reward_scorer
from .step import adamw, forgives, loss_scaler, schedule

Logprobs = list[list[Tensor]]  # P prompts, K answers each, (T,) nats of an answer's tokens


# ---- before the loop -----------------------------------------------------------------------------

def prompts_of(config: RLOOConfig, split: str | None = None) -> list[dict]:
    """The rows of a split (the config's), with what gold needs.  Raises: DataError."""
    return read_prompts(config.data, split or config.split, config.gold == "pocket",
                        config.prompts_per_step)


def short_prompts(rows: list[dict], tokenizer, config: RLOOConfig, longest: int) -> list[dict]:
    """Those within max_prompt_tokens, as one prompt of a whole book would decide the memory of a
    run, and short enough for the models' `longest` chat, an answer and a template's end included.
    How many are left out is printed.  Raises: DataError when too few are left."""
    limit = min(config.max_prompt_tokens, longest - config.max_new_tokens - 16)
    kept = [row for row in rows if len(prompt_ids(tokenizer, row)) <= limit]
    if len(kept) < len(rows):
        print(f"{config.data}: {len(rows) - len(kept)} of {len(rows)} prompts are over {limit} "
              "tokens (max_prompt_tokens, or what the models compute), left out")
    if len(kept) < config.prompts_per_step:
        raise DataError(f"{len(kept)} prompts of at most {limit} tokens are left, a step takes "
                        f"{config.prompts_per_step}: raise max_prompt_tokens, lower max_new_tokens")
    return kept


def gold_of(config: RLOOConfig) -> Scorer | None:
    if config.gold in (None, "none", "pocket"):
        return gold_scorer if config.gold == "pocket" else None
    return model_gold(config.gold, config.trust_remote_code)


def proxy_of(policy: Policy, config: RLOOConfig, rule: Scorer | None = None) -> tuple[Scorer, int]:
    """The scorer of the config's reward model, or a `rule` in its place, and the tokens of the
    longest chat that it and the policy compute."""
    if rule:
        return rule, policy.longest
    model = reward_model_for(policy, config.reward_model, config.policy.name)
    return reward_scorer(model, config.token_budget), min(policy.longest, model.longest)


def prepare(config: RLOOConfig, rule: Scorer | None = None):
    """Policy, proxy, gold and prompts; everything that can fail on bad input."""
    with phase("prompts"):
        rows = prompts_of(config)
    with phase("models"):
        policy = load_policy(config.policy.name, lora_rank=config.policy.lora_rank,
                             dtype=config.policy.dtype, quantization=config.policy.quantization,
                             seed=config.seed)
        proxy, longest = proxy_of(policy, config, rule)
        gold = gold_of(config)
    end_of_turn(policy.tokenizer)  # a policy has to be able to say that it is done
    rows = short_prompts(rows, policy.tokenizer, config, longest)
    return policy, proxy, gold, rows


def reference_scale(policy, scorer, rows: list[dict], config: RLOOConfig) -> tuple[float, float]:
    """Mean reward of the reference's answers and their mean standard deviation within a prompt:
    the zero and the unit in which the proxy's rewards, hence kl_coef, are measured."""
    if not config.standardize_prompts:
        return 0.0, 1.0
    pick = draw_batch(len(rows), min(config.standardize_prompts, len(rows)), config.seed + 1, 0)
    with policy.reference():
        batch = roll_out(policy, [rows[i] for i in pick], config.num_generations,
                         config.max_new_tokens, 10**9 + config.seed)
    rewards = score(batch, scorer)
    spread = rewards.std(1).mean().item()
    if spread == 0:
        raise ModelError(f"{config.reward_model} gives all answers to a prompt the same reward")
    return rewards.mean().item(), spread


def collapse(row: dict) -> list[str]:
    """Names of what looks like a policy that broke."""
    signs = {"all advantages are zero, as answers score alike": row["train/advantage_std"] < 1e-6,
             "KL above 100 nats an answer, far from the reference": row["train/kl"] > 100,
             "answers of fewer than three tokens": row["train/length"] < 3,
             "entropy below 0.05 nats a token, it says one thing": row["train/entropy"] < 0.05}
    return [name for name, seen in signs.items() if seen]


# ---- the step ------------------------------------------------------------------------------------

def score(batch: list[dict], scorer: Scorer) -> Tensor:
    """Shapes: P prompts with K answers -> (P, K)."""
    return torch.tensor(scorer(batch))


def micro_batches_of(batch: list[dict], config: RLOOConfig) -> Iterator[list[int]]:
    """Micro-batches of whole prompts, as a prompt is computed once for its answers."""
    return micro_batches([count_tokens(b["token_group"]) for b in batch], config.token_budget)


def by_prompt(batch: list[dict], part: list[int], tokens: list[Tensor]) -> dict[int, list[Tensor]]:
    """{index of a prompt: its answers' log-probabilities}, kept without a graph on the CPU."""
    answers = iter(t.detach().cpu() for t in tokens)
    return {i: [next(answers) for _ in batch[i]["token_group"][1:]] for i in part}


@torch.no_grad()
def sequence_logprobs(policy: Policy, batch: list[dict], config: RLOOConfig) -> Logprobs:
    """Token log-probabilities of all answers, in micro-batches."""
    found = {}
    for part in micro_batches_of(batch, config):
        found |= by_prompt(batch, part, policy.logprobs([batch[i]["token_group"] for i in part]))
    return [found[i] for i in range(len(batch))]


def sums(logprobs: Logprobs) -> Tensor:
    """log pi of whole answers.  Shapes: -> (P, K)."""
    return torch.stack([torch.stack([tokens.sum() for tokens in row]) for row in logprobs])


def advantages_of(rewards: Tensor, old: Tensor, ref: Tensor, config: RLOOConfig) -> Tensor:
    """Leave-one-out, KL in the reward (k1 of whole answers).  Shapes: (P, K) each -> (P, K)."""
    return rloo.leave_one_out_advantages(
        rloo.kl_penalized_rewards(rewards, rloo.kl_estimate(old, ref), config.kl_coef))


def update(policy: Policy, batch: list[dict], rewards: Tensor, ref: Tensor, config: RLOOConfig,
           old: Tensor | None = None, backpropagate=Tensor.backward) -> Logprobs:
    """Accumulates the gradient of `rloo.rloo_loss` over the batch; its token log-probabilities.
    Without `old` this policy gave the answers: one forward pass serves advantages and gradient."""
    found: dict[int, list[Tensor]] = {}
    for part in micro_batches_of(batch, config):
        tokens = policy.logprobs([batch[i]["token_group"] for i in part])  # p K tensors (T,)
        seq = torch.stack([t.sum() for t in tokens]).view(len(part), -1)  # (p, K), with a graph
        before = seq.detach() if old is None else old[part].to(seq.device)
        advantages = advantages_of(rewards[part], before.cpu(), ref[part], config)
        loss = rloo.rloo_loss(seq, before, advantages.to(seq.device), config.clip_range)
        backpropagate(loss * len(part) / len(batch))  # a mean over prompts: shares add up
        found |= by_prompt(batch, part, tokens)
    return [found[i] for i in range(len(batch))]


# ---- the loop ------------------------------------------------------------------------------------

@one_run
def train(config: RLOOConfig, resume: bool = False, rule: Scorer | None = None) -> Policy:
    """Train, log and save. A `rule` gives rewards in place of the config's reward model, which is
    then no more than its name.

    Raises: ConfigError, DataError, ModelError before the first step; TrainingError for a gradient
    that is not finite, for a checkpoint that cannot be read, and for a full disk.
    """
    from tqdm import tqdm
    out = Path(config.output_dir)
    policy, proxy, gold, rows = prepare(config, rule)
    config = with_dtype(config, "policy", policy.dtype)
    trained = [p for p in policy.parameters() if p.requires_grad]
    optimizer, scaler = adamw(trained, lr=config.learning_rate), loss_scaler(policy)
    weights = {} if rule else {
        "reward_model (its weights)": weights_fingerprint(config.reward_model)}
    checkpoint = Checkpoint(out, policy, optimizer, to_dict(config) | weights, fingerprint(rows),
                            scaler)
    first = checkpoint.load() if resume else 0
    with phase("reference"):
        zero, unit = reference_scale(policy, proxy, rows, config)
    log = RunLog(out, to_dict(config), first)
    warned: set[str] = set()
    bar = tqdm(range(first, config.steps), initial=first, total=config.steps, mininterval=1.0)
    for step in bar:
        started = time.perf_counter()

        # 1. Draw P prompts and let the policy write K answers to each; its random numbers are a
        # function of seed and step, so that a resumed run writes the same.
        index = draw_batch(len(rows), config.prompts_per_step, config.seed, step)
        batch = roll_out(policy, [rows[i] for i in index], config.num_generations,
                         config.max_new_tokens, config.seed * 10**6 + step)
        seconds = time.perf_counter() - started

        # 2. Rewards, in units of the reference's answers; log pi of the reference, the adapter off.
        # With several minibatches also log pi of the policy that answered: steps move it.
        rewards = (score(batch, proxy) - zero) / unit  # (P, K)
        finished = torch.tensor([b["finished"] for b in batch])  # (P, K)
        penalized = rewards - config.missing_eos_penalty * ~finished
        with policy.reference():
            ref = sums(sequence_logprobs(policy, batch, config))  # (P, K)
        old_tokens = sequence_logprobs(policy, batch, config) if config.minibatches > 1 else None
        old = sums(old_tokens) if old_tokens else None

        # 3. One optimizer step for every minibatch of prompts: leave-one-out advantages, loss,
        # gradient. Without minibatches the ratio is 1 and this is REINFORCE.
        now_tokens, norms = [], []
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * schedule(step, config.steps, config.warmup_ratio)
        for part in torch.arange(len(batch)).chunk(config.minibatches):
            now_tokens += update(policy, [batch[i] for i in part], penalized[part], ref[part],
                                 config, None if old is None else old[part],
                                 lambda x: scaler.scale(x).backward())
            scaler.unscale_(optimizer)
            norms.append(torch.nn.utils.clip_grad_norm_(trained, config.max_grad_norm))
            if not (torch.isfinite(norms[-1]) or forgives(scaler)):
                raise TrainingError(f"step {step + 1}: gradient norm {norms[-1].item()}. Last good "
                                    f"checkpoint: {checkpoint.describe()}. Lower learning_rate")
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)

        # 4. Log what was optimized (proxy), what was meant (gold), and how far the policy went.
        old_tokens = old_tokens or now_tokens
        old, now = sums(old_tokens), sums(now_tokens)
        advantages = advantages_of(penalized, old, ref, config)
        spoken = torch.cat([tokens for row in old_tokens for tokens in row])  # of all answers
        means = {"proxy_reward": rewards, "raw_reward": rewards * unit + zero, "kl": old - ref,
                 "entropy": -spoken, "finished": finished.float(),
                 "grad_norm": torch.stack(norms).max(), "advantage_std": advantages.std()}
        row = {"step": step + 1, **{f"train/{k}": v.mean().item() for k, v in means.items()},
               "train/length": len(spoken) / old.numel(),
               "train/clip_fraction": rloo.clip_fraction(now, old, advantages, config.clip_range),
               "train/learning_rate": optimizer.param_groups[0]["lr"],
               "seconds/generate": seconds, "seconds/step": time.perf_counter() - started,
               "peak_memory_gb": peak_memory_gb()}
        if gold:
            row["train/gold_reward"] = score(batch, gold).mean().item()
        row["sample"] = {"prompt": batch[0]["row"]["prompt"], "responses": batch[0]["texts"],
                         "proxy": rewards[0].tolist()}  # to read what the policy learns to say
        log.write(row)
        for name in set(collapse(row)) - warned:
            warned.add(name)
            tqdm.write(f"step {step + 1}, and maybe later: {name}")
        bar.set_postfix(proxy=f"{row['train/proxy_reward']:.2f}", kl=f"{row['train/kl']:.2f}")
        if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
            checkpoint.save(step + 1)
    with writing(out / "model") as folder:
        policy.save(folder)
    print(f"{out}: {config.steps - first} steps, peak memory {peak_memory_gb():.2f} GB; policy in "
          f"{out / 'model'}")
    return policy


def main(argv: list[str] | None = None) -> None:
    parser = command_line("train_rloo", __doc__, "an RLOO run")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    args = parser.parse_args(argv)
    refuse_launcher("train_rloo")
    train(load_config(args.config, RLOOConfig, args.overrides), args.resume)


if __name__ == "__main__":
    run(main)
