"""What a card takes: memory, counted before and measured, and time."""

import dataclasses
import random
import re
import statistics
import tempfile

import torch
from bench_growth import group_of
from bench_rm import clock
from exact import KINDS, POCKET, trained
from prove import Job, check

from bsr_lite import machine
from bsr_lite.batching import PackedRow, count_tokens, pack
from bsr_lite.config import DataConfig, ModelConfig, RewardModelConfig
from bsr_lite.embedded import EMBEDDED
from bsr_lite.eval_rm import score_tokens
from bsr_lite.generate import sample
from bsr_lite.models import load_reward_model
from bsr_lite.policy import load_policy
from bsr_lite.saving import save_reward_model
from bsr_lite.scale.cards import CARDS, CONTEXT
from bsr_lite.scale.dry_run import step_flops
from bsr_lite.scale.estimate import estimate, largest_micro_batch, measure
from bsr_lite.step import backward, loss_scaler, make_optimizer
from bsr_lite.studies.records import release_memory

MOST_PAIRS = 10_000  # a batch's: what is measured is one micro-batch


def free_memory() -> None:
    release_memory()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def settings(kind: str, budget: int, job: Job) -> RewardModelConfig:
    model = ModelConfig(EMBEDDED, depth=job.sizes["layers"], **KINDS[kind])
    return RewardModelConfig(model, DataConfig(POCKET, max_length=job.sizes["length"]), "none",
                             batch_size=MOST_PAIRS, token_budget=budget)


# ---- memory --------------------------------------------------------------------------------------

def memory(job: Job) -> dict:
    """What `scale.estimate` says of activations against what the allocator hands out."""
    rows, checks = [], []
    for kind in KINDS:
        for budget in job.sizes["budgets"]:
            config = settings(kind, budget, job)
            row = {"training": kind, "token budget": budget}
            parts = estimate(config)
            free_memory()
            try:
                measured = measure(config)
            except torch.OutOfMemoryError:
                rows.append(row | {"estimate, GB": parts["activations"] / 1e9, "note": "no room"})
                continue
            said = parts["activations"]
            ratio = said / measured if measured else float("nan")
            rows.append(row | {"tokens": parts["tokens"], "estimate, GB": said / 1e9,
                               "measured, GB": measured / 1e9, "estimate / measured": ratio})
            checks.append(check(f"{kind}, {budget} tokens: estimate / measured", ratio, 1.25, 0.8))
    ratios = [c["value"] for c in checks]
    checks.append(check("settings that found room", len(ratios), len(rows), 1))
    found = {"line": f"estimate / measured {min(ratios):.2f} to {max(ratios):.2f}"
                     if ratios else "nothing fitted",
             "tables": {"activations": rows}, "checks": checks,
             "note": "Activations of the largest micro-batch: beside weights and gradients."}
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        context = total - free - torch.cuda.memory_reserved()
        found |= {"context_bytes": context, "context_assumed": CONTEXT}
        found["line"] += f"; CUDA's context {context / 1e9:.2f} GB (assumed {CONTEXT / 1e9:.2f})"
        found["note"] += " CUDA's context includes what other processes hold on the card."
    return found


# ---- speed ---------------------------------------------------------------------------------------

def published_peak(name: str) -> float | None:
    """Operations a second of a card that `scale.cards` knows, by its full name.

    >>> published_peak("NVIDIA GeForce RTX 4060 Ti") / 1e12, published_peak("NVIDIA L40")
    (44.0, None)
    """
    plain = re.sub(r" (ti|super)\b", r"\1", name.lower())
    for key, card in CARDS.items():
        if re.search(rf"(?<![a-z0-9]){key}(?![a-z0-9])", plain):
            return float(card.tflops) * 1e12
    return None


def median_seconds(step, repeats: int, device: torch.device) -> float:
    """Of at least three, after two to warm up."""
    seconds = []
    for turn in range(2 + max(3, repeats)):
        started = clock(device)
        step()
        if turn > 1:
            seconds.append(clock(device) - started)
    return statistics.median(seconds)


def matmul_peak(size: int, dtype: str, device: torch.device) -> float:
    """Operations a second of ten large matrix products."""
    a = torch.randn(size, size, device=device, dtype=getattr(torch, dtype))
    return 20 * size**3 / median_seconds(lambda: [a @ a for _ in range(10)], 3, device)


def attended(packed: PackedRow) -> float:
    """Pairs of a token and one that it looks at."""
    return sum(n * (m - n) + n * (n + 1) / 2
               for n, m in zip(packed.query_lengths, packed.key_lengths, strict=True))


def train_step(model, config: RewardModelConfig):
    """A whole optimizer step of the largest micro-batch, and its packed row."""
    token_groups, parameters = largest_micro_batch(config), trained(model)
    packed = pack(token_groups).to(model.device)
    parts = [(list(range(len(token_groups))), packed)]
    optimizer, scaler = make_optimizer(model, config), loss_scaler(model)

    def step():
        backward(model, parts, config, lambda loss: scaler.scale(loss).backward())
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
    return step, packed


def training_rows(job: Job) -> list[dict]:
    """Tokens and operations a second of full, LoRA and QLoRA training."""
    rows = []
    for kind in KINDS:
        options = dataclasses.asdict(settings(kind, job.sizes["budgets"][0], job).model)
        model = load_reward_model(options.pop("name"), **options).train()
        for budget in job.sizes["budgets"]:
            row = {"what": f"train, {kind}", "token budget": budget}
            try:
                step, packed = train_step(model, settings(kind, budget, job))
                seconds = median_seconds(step, job.sizes["repeats"], model.device)
                tokens = packed.input_ids.numel()
                row |= {"tokens/s": tokens / seconds, "operations/s":
                        step_flops(model, tokens, attended(packed), 1) / seconds}
            except torch.OutOfMemoryError:
                row["note"] = "no room"
            rows.append(row)
            model.zero_grad(set_to_none=True)
            free_memory()
        del model
    return rows


def scoring_rows(job: Job) -> list[dict]:
    """Four answers to a prompt, with a frozen model."""
    with tempfile.TemporaryDirectory(dir=job.out) as folder:  # a head to score with is a saved one
        save_reward_model(load_reward_model(EMBEDDED, depth=job.sizes["layers"]), folder)
        model, rows = load_reward_model(folder, for_scoring=True), []
    for budget in job.sizes["budgets"]:
        group = group_of(job.sizes["length"], 4, random.Random(0))
        token_groups = [group] * max(1, budget // count_tokens(group))
        seconds = median_seconds(lambda groups=token_groups, most=budget: score_tokens(
            model, groups, most), job.sizes["repeats"], model.device)
        tokens = sum(map(count_tokens, token_groups))
        work = step_flops(model, tokens, attended(pack(token_groups)) / 2, 0)  # forward alone
        rows.append({"what": "score", "token budget": budget, "tokens/s": tokens / seconds,
                     "operations/s": work / seconds})
    return rows


def sampling_row(job: Job) -> dict:
    """The whole model, as a policy of the format that the card has."""
    policy, sizes = load_policy(EMBEDDED), job.sizes
    prompts = [[100 + i] * 64 for i in range(sizes["prompts"])]
    seconds = median_seconds(lambda: sample(
        policy, prompts, sizes["answers"], sizes["new_tokens"], -1,
        torch.Generator().manual_seed(0)), 3, policy.device)
    answers = sizes["prompts"] * sizes["answers"]
    return {"what": f"sample, {answers} answers at once, all layers",
            "tokens/s": answers * sizes["new_tokens"] / seconds}


def speed(job: Job) -> dict:
    """Training, scoring and sampling: tokens a second, and shares of what the card can."""
    here, own = machine.device(), machine.choose_dtype(machine.capability(machine.device()))
    measured = matmul_peak(job.sizes["matrix"], own, here)
    card = torch.cuda.get_device_name(here) if here.type == "cuda" else "cpu"
    published = published_peak(card)
    rows = training_rows(job)
    free_memory()
    rows += [*scoring_rows(job), sampling_row(job)]
    for row in rows:
        if work := row.pop("operations/s", None):
            row["Tflop/s"] = work / 1e12
            row["of a matrix product"] = work / measured
            row["of the published peak"] = work / published if published else "unknown"
    best = {}
    for row in rows:
        what = row["what"].partition(", all")[0]
        best[what] = max(best.get(what, 0.0), row.get("tokens/s", 0.0))
    known = f", published {published / 1e12:g}" if published else ""
    return {"line": f"tokens/s: {', '.join(f'{k} {v:,.0f}' for k, v in best.items())}",
            "tables": {"of the embedded model": rows}, "matmul_peak": measured,
            "published_peak": published, "note":
            f"{own}. Operations by the rule of `scale.dry_run`: 6N a token for full fine-tuning, "
            f"4N for LoRA, 2N for scoring, and attention. A matrix product does "
            f"{measured / 1e12:.3g} Tflop/s here{known}."}
