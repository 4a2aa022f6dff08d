"""Memory of a reward-model run, part by part, before it is started, on any machine:

    python -m bsr_lite.scale.estimate --config bsr_lite/configs/rm_8b_qlora_bsr.yaml

The model of the config is built from fake tensors, which have shapes but no memory, and the largest
micro-batch goes forward and backward through the code that trains, while every storage that comes
to life and dies is counted. So activations are not a formula: they are what autograd keeps.
"""

import dataclasses
import sys
import weakref
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from ..batching import TokenGroup, pack
from ..cli import parser
from ..config import ModelConfig, RewardModelConfig, load_config
from ..embedded import EMBEDDED, HUB_ID
from ..errors import ConfigError, ModelError
from ..models import (
    RewardModel,
    attention,
    check_architecture,
    cut_config,
    load_reward_model,
    make_trainable,
)
from ..saving import saved_meta
from ..step import backward


def _llama(hidden, intermediate, layers, heads, kv_heads, vocabulary, positions, tied=True, **more):
    return {"model_type": "llama", "hidden_size": hidden, "intermediate_size": intermediate,
            "num_hidden_layers": layers, "num_attention_heads": heads,
            "num_key_value_heads": kv_heads, "vocab_size": vocabulary,
            "max_position_embeddings": positions, "tie_word_embeddings": tied, **more}


ARCHITECTURES = {
    HUB_ID: _llama(576, 1536, 30, 9, 3, 49152, 8192),
    "meta-llama/Llama-3.2-1B-Instruct": _llama(2048, 8192, 16, 32, 8, 128256, 131072, head_dim=64),
    "meta-llama/Llama-3.2-3B-Instruct": _llama(3072, 8192, 28, 24, 8, 128256, 131072, head_dim=128),
    "meta-llama/Llama-3.1-8B-Instruct": _llama(4096, 14336, 32, 32, 8, 128256, 131072, tied=False),
    "Qwen/Qwen2.5-1.5B-Instruct": _llama(1536, 8960, 28, 12, 2, 151936, 32768, model_type="qwen2"),
    "Qwen/Qwen2.5-3B-Instruct": _llama(2048, 11008, 36, 16, 2, 151936, 32768, model_type="qwen2"),
}
ARCHITECTURES[EMBEDDED] = ARCHITECTURES[HUB_ID]


def architecture(name: str):
    """The transformers config of EMBEDDED, a hub id or a local path.

    Raises: ModelError when it is neither in ARCHITECTURES nor can be loaded.
    """
    from transformers import AutoConfig
    if name in ARCHITECTURES and not Path(name).exists():
        values = dict(ARCHITECTURES[name])
        return AutoConfig.for_model(values.pop("model_type"), **values, num_labels=1)
    try:
        return AutoConfig.from_pretrained(name, num_labels=1)
    except Exception as error:
        raise ModelError(f"no sizes known for {name}: without a network name a local path or one "
                         f"of {', '.join(ARCHITECTURES)}") from error


NF4_BLOCK, ABSMAX_BLOCK = 64, 256  # weights share an 8-bit scale, scales an fp32 one


# ---- counting ------------------------------------------------------------------------------------

class LiveBytes(TorchDispatchMode):
    """Counts the bytes of every storage made under it, until the storage dies: `now` and `peak`.
    Works on fake tensors and on real ones alike."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.known: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._count, out)
        return out

    def ignore(self, tensors) -> None:
        """Storages that were there before: views of them cost nothing."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self.known[id(storage)] = weakref.ref(storage)

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self.known and self.known[key]() is storage:
            return

        def died(_):
            self.now -= size
            self.known.pop(key, None)

        self.known[key] = weakref.ref(storage, died)
        self.now += size
        self.peak = max(self.peak, self.now)


# ---- the model on fake tensors -------------------------------------------------------------------

class _Nf4Product(torch.autograd.Function):
    """x W^T with W in 4 bits: dequantized for the product, forward and backward, never kept."""

    @staticmethod
    def forward(ctx, x, packed, shape):
        ctx.save_for_backward(packed)
        ctx.shape = shape
        return x @ torch.empty(shape, dtype=x.dtype).T

    @staticmethod
    def backward(ctx, gradient):
        return gradient @ torch.empty(ctx.shape, dtype=gradient.dtype), None, None


class _Nf4Linear(nn.Linear):
    """What bitsandbytes' Linear4bit holds, half a byte a weight and nested scales, and the
    temporaries that it makes; its own tensors cannot be fake."""

    def __init__(self, linear: nn.Linear):
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        n, self.bias = linear.weight.numel(), linear.bias
        self.weight = nn.Parameter(torch.empty(n // 2, dtype=torch.uint8), requires_grad=False)
        self.register_buffer("absmax", torch.empty(n // NF4_BLOCK, dtype=torch.uint8))
        self.register_buffer("absmax2", torch.empty(-(-n // NF4_BLOCK // ABSMAX_BLOCK)))

    def forward(self, x: Tensor) -> Tensor:
        y = _Nf4Product.apply(x.to(torch.bfloat16), self.weight,
                              (self.out_features, self.in_features))
        return (y if self.bias is None else y + self.bias).to(x.dtype)


def meta_model(config: ModelConfig) -> RewardModel:
    """The reward model of `load_reward_model` on the meta device: shapes alone."""
    from transformers import AutoModelForSequenceClassification
    meta = saved_meta(config.name, depth=config.depth, lora_rank=config.lora_rank,
                      quantization=config.quantization, layout=config.layout,
                      gradient_checkpointing=config.gradient_checkpointing)
    if meta and not meta["lora_rank"]:
        meta = meta | {"base": config.name, "depth": None}
    meta = meta or {"base": config.name, "depth": config.depth, "lora_rank": config.lora_rank,
                    "quantization": config.quantization, "dtype": config.dtype,
                    "layout": config.layout}
    dtype = meta["dtype"] if meta["lora_rank"] else "float32"
    with torch.device("meta"):
        try:
            hf = AutoModelForSequenceClassification.from_config(
                cut_config(architecture(meta["base"]), meta), dtype=getattr(torch, dtype),
                attn_implementation=attention(meta))
        except (ValueError, AttributeError) as error:
            raise ModelError(f"{meta['base']}: no reward model of this kind ({error}); use a "
                             "decoder of the Llama, Qwen, Mistral kind") from error
        check_architecture(hf, meta)
        for name, module in list(hf.named_modules()):
            if type(module) is nn.Linear and name != "score" and meta["quantization"]:
                parent, _, child = name.rpartition(".")
                setattr(hf.get_submodule(parent), child, _Nf4Linear(module))
        hf.score.to(torch.float32)
        if meta["lora_rank"]:
            hf.requires_grad_(False)
        hf = make_trainable(hf, meta, config.gradient_checkpointing, seed=0)
    return RewardModel(hf, None, meta).train()


def to_fake(model: nn.Module) -> None:
    """Give a meta model fake CPU tensors, under FakeTensorMode: autocast and attention choose
    their kernels by device."""
    for module in model.modules():
        for name, p in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(torch.empty(p.shape, dtype=p.dtype),
                                               requires_grad=p.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))


# ---- the estimate --------------------------------------------------------------------------------

def largest_micro_batch(config: RewardModelConfig) -> list[TokenGroup]:
    """Trees of a quarter prompt and two answers of data.max_length tokens, as many as the token
    budget holds, the last one cut to fill it; at least one whole token_group, which may exceed it, and
    no more without a budget."""
    length = config.data.max_length
    prompt = max(1, length // 4)
    token_group, left, token_groups = 2 * length - prompt, config.token_budget or 0, []
    while not token_groups or (left > prompt + 2 and len(token_groups) < config.batch_size):
        answers = min(token_group, max(left, token_group if not token_groups else 0)) - prompt
        token_groups.append([[0] * prompt, [0] * (answers // 2), [1] * (answers - answers // 2)])
        left -= prompt + answers
    return token_groups


def bytes_of(tensors) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def count_step(model: RewardModel, token_groups: list[TokenGroup], config: RewardModelConfig) -> dict[str, int]:
    """Peak of one micro-batch's forward and backward beside `model`'s own tensors: what it keeps
    until the backward pass, and with all temporaries; gradients not counted."""
    trained = [p for p in model.parameters() if p.requires_grad]
    parts = [(list(range(len(token_groups))), pack(token_groups).to(model.device))]
    live, kept = LiveBytes(), []

    def backpropagate(loss: Tensor) -> None:
        kept.append(live.now)
        loss.backward()

    live.ignore([*model.parameters(), *model.buffers()])
    for p in trained:  # as in every step but the first micro-batch's: gradients are there
        p.grad = torch.zeros_like(p)
    live.ignore([p.grad for p in trained])
    with live:
        backward(model, parts, config, backpropagate)
    return {"saved": kept[0], "peak": live.peak}


def estimate(config: RewardModelConfig) -> dict[str, int]:
    """Bytes by part on one GPU (or CPU): base, adapters (with the head; none in full
    fine-tuning), gradients, optimizer, activations (at the highest point of the largest
    micro-batch, temporaries included) and their total; saved: what of activations waits for the
    backward pass; tokens: of that micro-batch; parameters, trained.

    Not in it: the CUDA context and fragmentation on a GPU, Python and its libraries on a CPU.
    Raises: ModelError for sizes that are not known.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode
    token_groups = largest_micro_batch(config)
    model = meta_model(config.model)
    with FakeTensorMode():
        to_fake(model)
        trained = [p for p in model.parameters() if p.requires_grad]
        weights = bytes_of([*model.parameters(), *model.buffers()])
        try:
            step = count_step(model, token_groups, config)
        except ValueError as error:  # attention that the packed layout refuses
            raise ModelError(f"{config.model.name}: {error}") from error
    adapters = bytes_of(trained) if model.meta["lora_rank"] else 0
    count = sum(p.numel() for p in trained)
    state = 2 if config.optimizer == "paged_adamw_8bit" else 8  # bytes a trained weight
    parts = {"base": weights - adapters, "adapters": adapters, "gradients": bytes_of(trained),
             "optimizer": state * count, "activations": step["peak"]}
    return {**parts, "total": sum(parts.values()), "saved": step["saved"],
            "tokens": sum(len(p) for token_group in token_groups for p in token_group), "trained": count}


def measure(config: RewardModelConfig) -> int:
    """Activations of the same micro-batch with the real model, in bytes: what the GPU's allocator
    hands out at its peak, or on a CPU the storages that come to life."""
    options = dataclasses.asdict(config.model)
    model = load_reward_model(options.pop("name"), **options).train()
    if not torch.cuda.is_available():
        return count_step(model, largest_micro_batch(config), config)["peak"]
    model.to("cuda")
    count_step(model, largest_micro_batch(config), config)  # libraries fill their caches
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    count_step(model, largest_micro_batch(config), config)
    return torch.cuda.max_memory_allocated() - before


def table(config: RewardModelConfig, parts: dict[str, int]) -> str:
    """Markdown table of an estimate, in 1e9 bytes."""
    model = config.model
    held = {"nf4": "NF4, double quantization"}.get(
        model.quantization, model.dtype if model.lora_rank else "fp32")
    rows = {"base": f"base weights, {held}",
            "adapters": f"adapters of rank {model.lora_rank} and head, fp32",
            "gradients": "gradients, fp32", "optimizer": f"optimizer, {config.optimizer}",
            "activations": f"activations at the peak, {parts['tokens']} tokens"
                           f" ({parts['saved'] / 1e9:.2f} GB kept for the backward pass)",
            "total": "total per GPU, one process"}
    lines = [f"{model.name}, {parts['trained'] / 1e6:.2f} million trained weights", "",
             "| part | GB |", "|---|---|"]
    lines += [f"| {text} | {parts[key] / 1e9:.2f} |" for key, text in rows.items()
              if parts[key]]
    return "\n".join([*lines, "", "Not in it: the CUDA context and fragmentation (leave a GB or "
                      "two), Python's own memory on a CPU."])


def main(argv: list[str] | None = None) -> None:
    args = parser("estimate").parse_args(argv)
    config = load_config(args.config, RewardModelConfig, args.overrides)
    parts = estimate(config)
    saved = saved_meta(config.model.name) or {}
    for name in {"lora_rank", "quantization", "dtype"} & set(saved):
        setattr(config.model, name, saved[name])
    print(table(config, parts))
    if args.measure:
        peak = measure(config)
        print(f"Measured activations: {peak / 1e9:.3f} GB; the estimate is off by "
              f"{parts['activations'] / peak - 1:+.1%}.")


if __name__ == "__main__":
    try:
        main()
    except (ConfigError, ModelError) as error:
        sys.exit(f"error: {error}")
