"""Whether a card is exact: losses, gradients and log-probabilities against fp32 on the CPU,
sampling against softmax, a resumed run against the unbroken one."""

import contextlib
import shutil
from unittest import mock

import torch
from bench import best_and_worst
from prove import Job, check
from torch import Tensor

from bsr_lite import machine, train_rm
from bsr_lite.batching import TokenGroup, count_tokens, micro_batches, pack
from bsr_lite.config import DataConfig, ModelConfig, RewardModelConfig, load_config
from bsr_lite.embedded import EMBEDDED
from bsr_lite.generate import draw
from bsr_lite.models import RewardModel, load_reward_model
from bsr_lite.policy import Policy, load_policy
from bsr_lite.pretrained import add_adapters, load_pretrained
from bsr_lite.step import backward
from bsr_lite.studies.records import release_memory
from bsr_lite.tokenization import pair_tokens

POCKET = "data/pocket/pocket.jsonl.gz"
KINDS = {"full": {}, "lora": {"lora_rank": 8}, "qlora": {"lora_rank": 8, "quantization": "nf4"}}
# how far, in norm, two ways to compute the same may be apart
LIMITS = {"float32": 1e-4, "bfloat16": 3e-2, "float16": 3e-2}
SCALE = {"float16": 1024.0}  # of the loss: small gradients would be zero


def own_format() -> str:
    """The half-precision format of `dtype: auto`; a CPU that has none imitates one."""
    dtype = machine.choose_dtype(machine.capability(machine.device()))
    return dtype if dtype in ("bfloat16", "float16") else "bfloat16"


def relative(found: Tensor, expected: Tensor) -> float:
    """||found - expected|| / ||expected||."""
    found, expected = found.detach().float().cpu(), expected.detach().float().cpu()
    return ((found - expected).norm() / expected.norm()).item()


def trained(module) -> list[Tensor]:
    return [p for p in module.parameters() if p.requires_grad]


def flat(tensors) -> Tensor:
    return torch.cat([t.detach().flatten().float().cpu() for t in tensors])


def shaken(module):
    """The module with adapters away from zero, by the same numbers wherever it is: those of a fresh
    one have no effect, and half of their gradient is zero."""
    numbers = torch.Generator().manual_seed(1)
    for name, p in module.named_parameters():
        if "lora_B" in name:
            p.data.copy_(0.02 * torch.randn(p.shape, generator=numbers))
    return module


# ---- losses and gradients ------------------------------------------------------------------------

def some_pairs(job: Job, tokenizer) -> list[TokenGroup]:
    """The first pairs of the pocket world that are no longer than the part's sizes allow."""
    pairs = best_and_worst(POCKET)[:200]
    return pair_tokens(pairs, tokenizer, job.sizes["length"])[0][:job.sizes["pairs"]]


def reward_model(kind: str, dtype: str, layers: int) -> RewardModel:
    return shaken(load_reward_model(EMBEDDED, depth=layers, dtype=dtype, **KINDS[kind])).train()


def take_dequantized(plain: RewardModel, quantized: RewardModel) -> dict:
    """The numbers that 4-bit weights stand for, as weights of a model that has none: what a card
    quantizes may differ from what a CPU does by a code here and there. Returns {}: nothing is known
    yet of the changed model."""
    from bitsandbytes.functional import dequantize_4bit
    for name, module in quantized.named_modules():
        if state := getattr(getattr(module, "weight", None), "quant_state", None):
            values = dequantize_4bit(module.weight.data, state)
            plain.get_submodule(name).weight.data.copy_(values)
    return {}


def step_of(model: RewardModel, token_groups: list[TokenGroup], loss: str, budget: int,
            scale: float = 1.0) -> dict[str, Tensor]:
    """Rewards, loss and gradient of a batch, cut into micro-batches."""
    config = RewardModelConfig(ModelConfig(EMBEDDED), DataConfig(""), "none", loss=loss,
                               bsr_lambda=0.1 if loss == "bsr" else None)
    parts = [(part, pack([token_groups[i] for i in part]))
             for part in micro_batches(list(map(count_tokens, token_groups)), budget)]
    model.zero_grad(set_to_none=True)
    rewards, value = backward(model, parts, config, lambda x: (scale * x).backward())
    return {"rewards": rewards, "loss": value, "micro-batches": len(parts),
            "gradient": flat(p.grad for p in trained(model)) / scale}


def compare_steps(job: Job, own: str) -> list[dict]:
    """Of all kinds of training, in fp32 and in the card's own format, BT and BSR: the card, a batch
    in micro-batches, against the CPU, the batch in one."""
    rows, layers, token_groups = [], job.sizes["layers"], None
    for kind in KINDS:
        plain = reward_model(kind.removeprefix("q"), "float32", layers).to("cpu")
        token_groups = token_groups or some_pairs(job, plain.tokenizer)
        budget = max(sum(map(count_tokens, token_groups)) // 3, *map(count_tokens, token_groups))
        wanted: dict = {}
        for dtype in ("float32", own):
            card, scale = reward_model(kind, dtype, layers), SCALE.get(dtype, 1.0)
            if kind == "qlora":
                wanted = take_dequantized(plain, card)
            for loss in ("bt", "bsr"):
                found = step_of(card, token_groups, loss, budget, scale)
                expected = wanted[loss] = wanted.get(loss) or step_of(
                    plain, token_groups, loss, 2**30)
                row = {"training": kind, "loss": loss, "format": dtype,
                       "micro-batches": found["micro-batches"],
                       **{f"error of {k}": relative(found[k], expected[k])
                          for k in ("rewards", "loss", "gradient")}, "limit": LIMITS[dtype]}
                if dtype != "float32" and row["error of gradient"] > row["limit"]:
                    row["gradient on the CPU"] = relative(on_cpu(
                        kind, card, dtype, token_groups, loss, budget, scale), expected["gradient"])
                rows.append(row)
            del card
            release_memory()
    return rows


def on_cpu(kind: str, card: RewardModel, dtype: str, *step) -> Tensor:
    """The gradient of the same step in the same format on the CPU. Chosen and rejected answers pull
    weights in nearly opposite directions: of BT's gradient a tenth of either is left, and of it
    rounding is ten times the share."""
    model = reward_model(kind.removeprefix("q"), dtype, card.meta["depth"]).to("cpu")
    if kind == "qlora":
        take_dequantized(model, card)
    return step_of(model, *step)["gradient"]


def gradient_limit(row: dict) -> float:
    """That of the format, or twice what the format does to this gradient on the CPU, up to 0.15."""
    return max(row["limit"], min(0.15, 2 * row.get("gradient on the CPU", 0.0)))


# ---- policies ------------------------------------------------------------------------------------

def cut_policy(dtype: str, layers: int) -> Policy:
    """The embedded model's first layers as a policy with adapters."""
    meta = {"base": EMBEDDED, "depth": layers, "quantization": None, "dtype": dtype, "lora_rank": 8}
    hf, tokenizer, _ = load_pretrained("CausalLM", meta, dtype)
    hf = add_adapters(hf.requires_grad_(False), "CAUSAL_LM", meta, seed=0)
    return shaken(Policy(hf.eval(), tokenizer, dtype, 8)).to(machine.device())


def logprobs_of(policy: Policy, token_groups: list[TokenGroup], scale: float = 1.0):
    """Log-probabilities of all answers' tokens and the gradient of their mean."""
    policy.zero_grad(set_to_none=True)
    found = torch.cat(policy.logprobs(token_groups))
    (scale * found.mean()).backward()
    return found.detach().cpu(), flat(p.grad for p in trained(policy)) / scale


def compare_policies(job: Job, own: str) -> list[dict]:
    """Log-probabilities and their gradient; of the whole model, too, in nats: no limit there."""
    plain, rows = cut_policy("float32", job.sizes["layers"]).to("cpu"), []
    token_groups = some_pairs(job, plain.tokenizer)[:job.sizes["pairs"] // 3]
    expected = logprobs_of(plain, token_groups)
    for dtype in ("float32", own):
        card = cut_policy(dtype, job.sizes["layers"])
        found = logprobs_of(card, token_groups, SCALE.get(dtype, 1.0))
        rows.append({"policy": f"LoRA, layers: {job.sizes['layers']}", "format": dtype,
                     "error of logprobs": relative(found[0], expected[0]),
                     "error of gradient": relative(found[1], expected[1]), "limit": LIMITS[dtype]})
    with torch.no_grad():
        card = torch.cat(load_policy(EMBEDDED, dtype=own).logprobs(token_groups)).cpu()
        plain = torch.cat(load_policy(EMBEDDED, dtype="float32").to("cpu").logprobs(token_groups))
    rows.append({"policy": "all layers", "format": own, "error of logprobs": relative(card, plain),
                 "nats a token": (card - plain).abs().mean().item()})
    return rows


def compare_draws(words: int, draws: int, bins: int = 16) -> dict:
    """Frequencies of drawn words against softmax, in bins of about equal probability: chi-square,
    which is bins - 1 on average; and how many of the first words a CPU draws, too."""
    logits = torch.randn(1, words, generator=torch.Generator().manual_seed(2))
    probabilities = logits[0].double().softmax(-1)
    place = (probabilities.cumsum(0) * bins).long().clamp(max=bins - 1)  # a word's bin
    expected = torch.zeros(bins, dtype=torch.double).index_add(0, place, probabilities) * draws
    found = {}
    for device, count in ((machine.device(), draws), (torch.device("cpu"), 256)):
        generator, rows = torch.Generator().manual_seed(3), logits.to(device).expand(64, words)
        found[count] = torch.cat([draw(rows, generator).cpu() for _ in range(count // 64)])
    counts = place[found[draws]].bincount(minlength=bins)
    return {"draws": draws, "words": words, "chi-square (15 expected)": (
        (counts - expected).square() / expected.clamp(min=1e-9)).sum().item(),
        "as the CPU draws": (found[draws][:256] == found[256]).double().mean().item()}


# ---- a resumed run -------------------------------------------------------------------------------

def resume_distance(job: Job) -> dict:
    """How far a run that was killed after step 4 and resumed is from the unbroken one, as a share
    of the way that this went; and how far the unbroken one is from itself, done again."""
    out, layers = job.out / "work_resume", job.sizes["layers"]
    # a float16 run skips its first steps, until the loss is scaled low enough
    dtype = "float32" if own_format() == "float16" else "auto"
    real, steps = train_rm.step_metrics, []

    def counted(*args):
        steps.append(1)
        if len(steps) == 5:
            raise KeyboardInterrupt
        return real(*args)

    def train(name: str, resume: bool = False) -> Tensor:
        config = load_config("bsr_lite/configs/rm_fast.yaml", overrides=[
            f"output_dir={out / name}", f"model.depth={layers}", f"model.dtype={dtype}",
            "loss=bsr", "data.max_pairs=24", "batch_size=4", "token_budget=640", "eval_every=2",
            "eval_groups=2"])
        return flat(trained(train_rm.train(config, resume)[0]))

    try:
        whole, again = train("whole"), train("again")
        with mock.patch.object(train_rm, "step_metrics", counted):
            with contextlib.suppress(KeyboardInterrupt):
                train("resumed")
            resumed = train("resumed", resume=True)
    finally:
        shutil.rmtree(out, ignore_errors=True)
    start = flat(trained(load_reward_model(EMBEDDED, depth=layers, lora_rank=16)))
    way = (whole - start).norm()
    return {"steps": 6, "killed after": 4, "steps then": len(steps) - 5,
            "resumed": ((resumed - whole).norm() / way).item(),
            "done again, unbroken": ((again - whole).norm() / way).item()}


def exactness(job: Job) -> dict:
    """All of this file, and what its numbers have to be below."""
    own = own_format()
    steps, policies = compare_steps(job, own), compare_policies(job, own)
    draws = [compare_draws(words, job.sizes["draws"]) for words in job.sizes["words"]]
    resumed, checks = resume_distance(job), []
    for row in (*steps, *(row for row in policies if "limit" in row)):
        title = ", ".join(str(row[k]) for k in ("training", "policy", "loss", "format") if k in row)
        checks += [check(f"{title}, {k}", row[k], gradient_limit(row) if "grad" in k else
                         row["limit"]) for k in row if k.startswith("error of")]
    for row in draws:  # above 42.6 once in 5,000 times
        title = f"{row['draws']} draws of {row['words']} words"
        checks += [check(f"{title}, chi-square", row["chi-square (15 expected)"], 42.6),
                   check(f"{title}, as the CPU draws", row["as the CPU draws"], 1, 0.98)]
    checks.append(check("steps of the resumed run", resumed["steps then"], 2, 2))
    # another order of additions, of which Adam makes whole steps where gradients are small
    checks.append(check("resumed run, distance from the unbroken one", resumed["resumed"],
                        max(1e-3, 5 * resumed["done again, unbroken"])))
    shares = [f"{k} {max(c['value'] / c['high'] for c in checks if k in c['what']):.0%}"
              for k in ("float32", own)]
    line = f"largest error as a share of its limit: {', '.join(shares)}"
    tables = {"steps": steps, "policies": policies, "sampling": draws, "resume": [resumed]}
    return {"line": f"{line}; resumed run off by {resumed['resumed']:.1e}", "checks": checks,
            "tables": tables, "note":
            "Relative errors in norm, the card against fp32 on the CPU. Where a half-precision "
            "gradient is off by more than the limit, twice what the same format does to it on the "
            "CPU is allowed (at most 0.15): BT's gradient is a small difference of large ones. "
            "Resume: distance from the unbroken run as a share of the way it went; on a GPU not "
            "even the same run done again is equal to the bit, as flash attention's backward pass "
            "adds in any order (atomics)."}
