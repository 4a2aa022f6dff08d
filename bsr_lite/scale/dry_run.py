"""What a run would take, before anything is loaded:

    python -m bsr_lite.scale.dry_run --config bsr_lite/configs/rm_8b_bsr.yaml --gpus 8

The model exists as shapes alone and the data are not touched. Memory is what `estimate` counts for
--card (without it: for cards that compute as an H100 does), cut over the GPUs; time is the
arithmetic of a step at an assumed utilisation, and an upper bound, as every pair is taken to be two
answers of data.max_length tokens that share nothing.
"""

import dataclasses
import math
import os

from torch import nn

from ..config import RewardModelConfig, command_line, load_config
from ..data import GROUP_FORMATS
from ..errors import ConfigError, run
from ..losses import GROUPED
from ..models import RewardModel
from .cards import CARDS, computing
from .estimate import count_fake_step, estimate
from .fake import bytes_of, meta_model

UTILISATION = 0.35  # assumed share of a card's peak, recomputed products counted as work
PARTS = ("base", "adapters", "gradients", "optimizer", "gathered", "activations", "context")
SHARDED = PARTS[:4]
# rows as published, since a dry run does not touch the data
ROWS = {"Skywork/Skywork-Reward-Preference-80K-v0.2": 77_016, "openbmb/UltraFeedback": 63_967}


# ---- memory --------------------------------------------------------------------------------------

def layouts(config: RewardModelConfig, gpus: int) -> dict[str, bool]:
    """Name -> whether weights, gradients and optimizer are cut over the GPUs: what the launcher
    says, else both ways that there are.  Raises: ConfigError for what is never cut."""
    whole = config.model.quantization or config.optimizer == "paged_adamw_8bit"
    fsdp = os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
    if gpus > 1 and fsdp and whole:
        raise ConfigError("4-bit weights and paged optimizer states are not sharded: launch with "
                          "bsr_lite/configs/accelerate/ddp.yaml")
    if gpus == 1:
        return {"one GPU": False}
    ways = {"DDP": False} if whole else {"DDP": False, "FSDP2": True}
    return {k: cut for k, cut in ways.items() if "WORLD_SIZE" not in os.environ or cut == fsdp}


def gathered_bytes(model: RewardModel) -> int:
    """What FSDP2 holds in whole beside its share: the weights outside the layers as they are, two
    layers' (one ahead) in the computing dtype, and in full fine-tuning the gradient of the larger
    of these units in fp32, on its way to its owners."""
    layer = sum(p.numel() for p in model.backbone.layers[0].parameters())
    outside = [p for n, p in model.backbone.named_parameters() if not n.startswith("layers.")]
    rest = sum(p.numel() for p in outside)
    gradient = 0 if model.meta["lora_rank"] else 4 * max(rest, layer)
    return bytes_of(outside) + 2 * layer * model.compute_dtype.itemsize + gradient


def memory(config: RewardModelConfig, model: RewardModel, gpus: int,
           card: str = "h100") -> dict[str, dict[str, int]]:
    """Layout -> bytes by part on each GPU, with their total. A micro-batch is no larger than a
    GPU's share of the batch."""
    share = max(1, config.batch_size // gpus) * 2 * config.data.max_length
    config = dataclasses.replace(config, token_budget=min(config.token_budget, share))
    parts, table = estimate(config, card) | {"gathered": 0}, {}
    for name, cut in layouts(config, gpus).items():
        held = dict(parts)
        if cut:
            held |= {k: -(-parts[k] // gpus) for k in SHARDED} | {"gathered": gathered_bytes(model)}
            if not model.meta["lora_rank"]:  # layers arrive in the computing dtype: no casts
                arrived = meta_model(config.model, card)
                arrived.backbone.layers.to(arrived.compute_dtype)
                held["activations"] = count_fake_step(arrived, config)["peak"]
        table[name] = held | {"total": sum(held[k] for k in PARTS)}
    return table


# ---- work ----------------------------------------------------------------------------------------

def step_flops(model: RewardModel, tokens: float, attended: float, passes: int) -> float:
    """Operations of a step: tokens (2N passes + 2N + 2T) + attended 4A (passes + 2).

    N: weights of all linear layers but the head, T: the trained ones of them, A: width of the
    attention over all layers. A forward pass takes 2 operations a weight and token, the backward
    pass 2 for the inputs' gradients and 2 for the trained weights'; an (attending, attended)
    pair of tokens takes two products forward and four backward. So 6N a token for full
    fine-tuning, 4N for LoRA, and 2N more for every forward pass above the first (recomputation
    leaves a layer's last product out: up to 7% less than is said here).
    """
    linear = [(m.in_features * m.out_features, m.weight.requires_grad)
              for m in model.backbone.modules() if isinstance(m, nn.Linear)]
    weights, trained = sum(n for n, _ in linear), sum(n for n, t in linear if t)
    width = sum(layer.self_attn.o_proj.in_features for layer in model.backbone.layers)
    return tokens * (2 * weights * (passes + 1) + 2 * trained) + attended * 4 * width * (passes + 2)


def step_work(config: RewardModelConfig, model: RewardModel, gpus: int) -> dict[str, float]:
    """Upper bounds of an optimizer step: tokens, micro-batches a GPU, forward passes (one more
    with checkpointing, and one more for BSR over several micro-batches) and operations."""
    length, answers = config.data.max_length, 2 * config.batch_size
    runs = max(1, config.token_budget // (2 * length))  # pairs of a micro-batch
    parts = math.ceil(config.batch_size / gpus / runs)
    again = config.model.gradient_checkpointing  # true: all layers; a number: the first so many
    again = float(again) if again is True else min(1.0, again / len(model.backbone.layers))
    passes = 1 + again + (config.loss in GROUPED and parts > 1)
    flops = step_flops(model, answers * length, answers * length * (length + 1) / 2, passes)
    return {"tokens": answers * length, "micro_batches": parts, "passes": passes, "flops": flops}


def steps_of(config: RewardModelConfig) -> int | None:
    """Optimizer steps of the whole run, at most; None where the number of pairs is not known."""
    data = config.data
    held = data.dev_share + (data.valid_share if data.format in GROUP_FORMATS else 0)
    pairs = [data.max_pairs] if data.max_pairs else []
    pairs += [round(ROWS[data.source] * (1 - held))] if data.source in ROWS else []
    return math.ceil(min(pairs) / config.batch_size) * config.epochs if pairs else None


# ---- the report ----------------------------------------------------------------------------------

def check(config: RewardModelConfig, model: RewardModel, gpus: int) -> None:
    """Raises: ConfigError for what cannot work on any card."""
    positions = getattr(model.backbone.config, "max_position_embeddings", None)
    if gpus < 1 or config.batch_size % gpus:
        raise ConfigError(f"batch_size {config.batch_size} is not divisible over {gpus} GPUs")
    if positions and config.data.max_length > positions:
        raise ConfigError(f"data.max_length {config.data.max_length} is beyond the {positions} "
                          f"positions of {config.model.name}: lower it; longer pairs are dropped")


def report(config: RewardModelConfig, gpus: int = 1, card: str | None = None) -> str:
    """The Markdown text of a dry run.  Raises: ConfigError for what cannot work."""
    model, asked = meta_model(config.model, card or "h100"), config.model.dtype
    check(config, model, gpus)
    table, work = memory(config, model, gpus, card or "h100"), step_work(config, model, gpus)
    steps, names = steps_of(config), list(table)
    count = steps or 1000
    lines = [f"{config.model.name}: a step of {config.batch_size} pairs has {work['micro_batches']}"
             f" micro-batches a GPU, at most {work['tokens']:,} tokens (2 x data.max_length a pair)"
             f" and {work['flops']:.3g} operations; a run at most {steps or '(unknown)'} steps",
             "", f"| GB a GPU | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    lines += [f"| {k} | {' | '.join(f'{table[n][k] / 1e9:.2f}' for n in names)} |"
              for k in (*PARTS, "total") if any(table[n][k] for n in names)]
    lines += ["", f"| {gpus} x | GB | fits | s a step | hours of {count:,} steps | dollars |",
              "|---" * 6 + "|"]
    for name, c in {card: CARDS[card]}.items() if card else CARDS.items():
        seconds = work["flops"] / (gpus * c.tflops * 1e12 * UTILISATION)
        fits = [n for n in names if table[n]["total"] / 1e9 <= c.memory]
        hours = seconds * count / 3600
        if computing(name, asked) == computing(card or "h100", asked):
            lines.append(f"| {name} | {c.memory:g} | {', '.join(fits) or 'no'} | {seconds:.2f} | "
                         f"{hours:.1f} | {hours * gpus * c.dollars:.0f} |")
    return "\n".join([*lines, "", f"Assumed: {UTILISATION:.0%} of a card's peak in every step, "
                      "rents of scale.cards. Not in it: fragmentation, loading, evaluations, "
                      "communication, dequantization."])


def main(argv: list[str] | None = None) -> None:
    parser = command_line("scale.dry_run", __doc__, "a reward-model run")
    processes = int(os.environ.get("WORLD_SIZE", "1"))  # a launcher's, where there is one
    parser.add_argument("--gpus", type=int, default=processes, help="how many")
    parser.add_argument("--card", choices=CARDS, help="which; default: all that compute as an H100")
    args = parser.parse_args(argv)
    config = load_config(args.config, RewardModelConfig, args.overrides)
    if os.environ.get("RANK", "0") == "0":  # once under a launcher
        print(report(config, args.gpus, args.card))


if __name__ == "__main__":
    run(main)
