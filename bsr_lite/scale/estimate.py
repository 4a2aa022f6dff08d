"""Memory of a run, part by part, before it is started, on any machine:

    python -m bsr_lite.scale.estimate --config bsr_lite/configs/rm_qlora_t4.yaml --card t4

The model of the config is built from fake tensors, which have shapes but no memory, and the largest
micro-batch goes forward and backward through the code that trains, while every storage that comes
to life and dies is counted. So activations are not a formula: they are what autograd keeps, in the
number format and with the attention kernel of that card; without --card of this machine. Of an
RLOO run sampling and scoring are counted, too.
"""

import dataclasses
import math
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..batching import TokenGroup, count_tokens, pack
from ..config import RewardModelConfig, RLOOConfig, command_line, load_config, read_yaml
from ..errors import run
from ..generate import draw
from ..models import RewardModel, load_reward_model, rewards
from ..policy import Policy
from ..step import backward
from ..train_rloo import update
from .cards import CARDS, computing
from .fake import LiveBytes, count, fill, meta_model, meta_policy, reward_model_of, weights

PARTS = ("base", "adapters", "reward", "gradients", "optimizer", "activations", "context", "total")
PASSES = ("saved", "update", "sampling", "scoring")  # what of activations waits; RLOO's three


# ---- reward models -------------------------------------------------------------------------------

def largest_micro_batch(config: RewardModelConfig) -> list[TokenGroup]:
    """Pairs of data.max_length tokens an answer, a quarter of them the prompt's."""
    length, prompt = config.data.max_length, max(1, config.data.max_length // 4)
    return fill(config.token_budget, prompt, length - prompt, 2, config.batch_size)


def count_step(model: RewardModel, config: RewardModelConfig) -> dict[str, int]:
    """Peak of the largest micro-batch's forward and backward beside `model`'s own tensors: what it
    keeps until the backward pass, and with all temporaries; gradients not counted."""
    token_groups, saved = largest_micro_batch(config), []
    parts = [(list(range(len(token_groups))), pack(token_groups).to(model.device))]

    def work(live: LiveBytes) -> None:
        backward(model, parts, config, lambda loss: (saved.append(live.now), loss.backward()))

    return {"peak": count(model, work), "saved": saved[0]}


def count_fake_step(model: RewardModel, config: RewardModelConfig) -> dict[str, int]:
    """`count_step` of a meta model. Its weights become fake tensors that say they are on a CPU:
    autocast chooses by device."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        return count_step(model.to_empty(device="cpu"), config)


def estimate(config: RewardModelConfig, card: str | None = None) -> dict[str, int]:
    """Bytes by part on one card (None: this machine): base, adapters (with the head; none in full
    fine-tuning), gradients, optimizer, activations (at the highest point of the largest
    micro-batch, temporaries included), CUDA's context and their total; saved: what of activations
    waits for the backward pass; tokens: of that micro-batch; parameters, trained.

    Not in it: fragmentation on a GPU, Python and its libraries on a CPU.
    Raises: ModelError for sizes that are not known.
    """
    model = meta_model(config.model, card)
    parts = weights(model, model.meta["lora_rank"], card,
                    2 if config.optimizer == "paged_adamw_8bit" else 8)
    step = count_fake_step(model, config)
    parts["activations"] = step["peak"]
    return {**parts, "total": sum(parts.values()), "saved": step["saved"],
            "trained": parts["gradients"] // 4,  # fp32
            "tokens": sum(map(count_tokens, largest_micro_batch(config)))}


def largest_token_budget(config: RewardModelConfig, available: float,
                         card: str | None = None) -> int:
    """The largest token_budget that fits into `available` bytes: a power of two times the longest
    pair, no more than a whole batch; 0 where one pair does not fit. Where activations take most,
    memory is a straight line in tokens: two estimates draw it, and what it promises is counted.
    """
    pair = 2 * config.data.max_length
    one, two = (estimate(dataclasses.replace(config, token_budget=n * pair), card) for n in (1, 2))
    if one["total"] > available:
        return 0
    share = (available - one["total"]) / max(1, two["total"] - one["total"])
    tokens = one["tokens"] + share * (two["tokens"] - one["tokens"])
    budget = pair * min(config.batch_size, 2 ** int(math.log2(max(1.0, tokens / pair))))
    while budget > pair and estimate(  # one pair fits, see above
            dataclasses.replace(config, token_budget=budget), card)["total"] > available:
        budget //= 2  # with few tokens an embedding's gradient may take more, and hide the slope
    return budget


def measure(config: RewardModelConfig) -> int:
    """Activations of the same micro-batch with the real model, in bytes: what the GPU's allocator
    hands out at its peak, or on a CPU the storages that come to life."""
    options = dataclasses.asdict(config.model)
    model = load_reward_model(options.pop("name"), **options).train()
    counted = count_step(model, config)["peak"]  # on a GPU libraries fill their caches
    if not torch.cuda.is_available():
        return counted
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    count_step(model, config)
    return torch.cuda.max_memory_allocated() - before


# ---- RLOO ----------------------------------------------------------------------------------------

@torch.no_grad()
def last_draw(policy: Policy, config: RLOOConfig, prompt: int, kernel: str) -> None:
    """What `generate.sample` holds when it draws a last token: keys and values of all prompts of a
    step (or of the reference's answers) and of all their answers, and distributions over words."""
    from transformers import DynamicCache
    prompts, k = max(config.prompts_per_step, config.standardize_prompts), config.num_generations
    ids, cache = torch.zeros(prompts, prompt, dtype=torch.long), DynamicCache()
    # the memory-saving kernel of older cards refuses grouped queries
    kernels = [SDPBackend.MATH, *[SDPBackend.FLASH_ATTENTION] * (kernel != "expanded")]
    policy.causal.set_attn_implementation("sdpa")
    with policy.autocast(), sdpa_kernel(kernels):
        hidden = policy.causal.model(ids, past_key_values=cache).last_hidden_state[:, -1]
    answers = [x.new_empty(x.numel() * k * config.max_new_tokens // prompt)  # noqa: F841, held
               for layer in cache.layers for x in (layer.keys, layer.values)]
    head = policy.causal.lm_head
    draw(head(hidden.repeat_interleave(k, 0).to(head.weight.dtype)), None)


def estimate_rloo(config: RLOOConfig, folder: Path, card: str | None = None) -> dict[str, int]:
    """Bytes by part, as of `estimate`; reward: adapters on the policy's base, or a model of its
    own, see `reward_model_of`; activations: the most of update, sampling and scoring. A gold model
    is not in it."""
    policy = meta_policy(config.policy, card)
    proxy = meta_model(reward_model_of(config, folder), card).eval()
    kernel, adapted = computing(card, config.policy.dtype)[1], proxy.meta["lora_rank"]
    for module in () if adapted else proxy.backbone.modules():
        if isinstance(module, torch.nn.Linear):  # as a model is held for scoring
            module.to(proxy.compute_dtype)
    shared = adapted and (proxy.meta["base"], proxy.meta["quantization"]) == (
        config.policy.name, config.policy.quantization)
    parts, own = weights(policy, 1, card), weights(proxy, adapted, card)
    parts["reward"] = own["adapters"] + (0 if shared else own["base"])
    prompt, k = config.max_prompt_tokens, config.num_generations
    groups = fill(config.token_budget, prompt, config.max_new_tokens, k,
                  config.prompts_per_step // config.minibatches)
    batch, zeros = [{"token_group": group} for group in groups], torch.zeros(len(groups), k)
    with FakeTensorMode(allow_non_fake_inputs=True):
        policy.to_empty(device="cpu"), proxy.requires_grad_(False).to_empty(device="cpu")
        passes = {"update": count(policy, lambda _: update(policy, batch, zeros, zeros, config)),
                  "scoring": count(proxy, lambda _: rewards(proxy, pack(groups))),
                  "sampling": count(policy, lambda _: last_draw(policy, config, prompt, kernel))}
    parts["activations"] = max(passes.values())
    return {**parts, **passes, "total": sum(parts.values()),
            "tokens": sum(map(count_tokens, groups))}


# ---- the command ---------------------------------------------------------------------------------

def table(parts: dict[str, int]) -> str:
    """Markdown table of an estimate, in 1e9 bytes."""
    rows = [f"| {k} | {parts[k] / 1e9:.2f} |" for k in PARTS if parts.get(k)]
    notes = [f"{k} {parts[k] / 1e9:.2f}" for k in PASSES if k in parts]
    return "\n".join(["| part | GB |", "|---|---|", *rows, "", f"Activations: {parts['tokens']} "
                      f"tokens; {', '.join(notes)}. Not in it: fragmentation (leave a GB), a gold "
                      "model, Python's own memory on a CPU."])


def verdict(config, parts: dict[str, int], card: str) -> str:
    """Whether it fits on a card, and if not what to change."""
    need, has = parts["total"] / 1e9, CARDS[card].memory
    if need <= has:
        return f"Fits: {need:.1f} GB, and a {card} has {has:g}."
    # of RLOO a smaller budget is up to its user: sampling may be what takes the most
    budget = isinstance(config, RewardModelConfig) and largest_token_budget(config, has * 1e9, card)
    change = f"set token_budget={budget}" if budget else (
        "lower token_budget and data.max_length or max_new_tokens, set gradient_checkpointing")
    return f"DOES NOT FIT: {need:.1f} GB, and a {card} has {has:g}: {change}."


def main(argv: list[str] | None = None) -> None:
    parser = command_line("scale.estimate", __doc__, "a reward-model or RLOO run")
    parser.add_argument("--card", choices=CARDS, help="GPU to count for; default: this machine")
    args = parser.parse_args(argv)
    if "policy" in read_yaml(args.config):
        config = load_config(args.config, RLOOConfig, args.overrides)
        parts = estimate_rloo(config, Path(args.config).parent, args.card)
    else:
        config = load_config(args.config, RewardModelConfig, args.overrides)
        parts = estimate(config, args.card)
    print(table(parts))
    if args.card:
        print(verdict(config, parts, args.card))


if __name__ == "__main__":
    run(main)
