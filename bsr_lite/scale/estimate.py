"""Memory of a reward-model run, part by part, before it is started, on any machine:

    python -m bsr_lite.scale.estimate --config bsr_lite/configs/rm_8b_qlora_bsr.yaml --gb 24

The model of the config is built from fake tensors, which have shapes but no memory, and the largest
micro-batch goes forward and backward through the code that trains, while every storage that comes
to life and dies is counted. So activations are not a formula: they are what autograd keeps.
With --gb it also says how large a micro-batch fits.
"""

import dataclasses
import json
import math
import weakref
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from ..batching import TokenGroup, count_tokens, pack
from ..config import ModelConfig, RewardModelConfig, command_line, load_config
from ..errors import ConfigError, ModelError, run
from ..models import RewardModel, attention, check_architecture, cut_config, make_trainable
from ..saving import saved_meta
from ..step import backward

NF4_BLOCK, ABSMAX_BLOCK = 64, 256  # weights share an 8-bit scale, scales an fp32 one
# sizes of published models, so that those behind a login or without a network are counted, too
ARCHITECTURES = json.loads(Path(__file__).with_name("architectures.json").read_text())


# ---- sizes ---------------------------------------------------------------------------------------

def architecture(name: str):
    """The transformers config of EMBEDDED, a hub id or a local path.

    Raises: ModelError when it is neither in ARCHITECTURES nor can be loaded.
    """
    from transformers import AutoConfig
    if name in ARCHITECTURES and not Path(name).exists():
        return AutoConfig.for_model(**ARCHITECTURES[name], num_labels=1)
    try:
        return AutoConfig.from_pretrained(name, num_labels=1)
    except Exception as error:
        raise ModelError(f"no sizes known for {name}: without a network name a local path or one "
                         f"of {', '.join(ARCHITECTURES)}") from error


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

class _Nf4Linear(nn.Linear):
    """What bitsandbytes' Linear4bit holds, half a byte a weight and nested scales, and the
    temporaries that it makes: W whole for the product, forward and backward, but never kept. Its
    own tensors cannot be fake."""

    def __init__(self, linear: nn.Linear):
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        n, self.bias = linear.weight.numel(), linear.bias
        self.weight = nn.Parameter(torch.empty(n // 2, dtype=torch.uint8), requires_grad=False)
        self.register_buffer("absmax", torch.empty(n // NF4_BLOCK, dtype=torch.uint8))
        self.register_buffer("absmax2", torch.empty(-(-n // NF4_BLOCK // ABSMAX_BLOCK)))

    def forward(self, x: Tensor) -> Tensor:
        def dequantize(shape) -> Tensor:
            return torch.empty(shape, dtype=torch.bfloat16)

        with saved_tensors_hooks(lambda weight: weight.shape, dequantize):
            y = x.to(torch.bfloat16) @ dequantize((self.in_features, self.out_features))
        return (y if self.bias is None else y + self.bias).to(x.dtype)


def meta_model(config: ModelConfig) -> RewardModel:
    """The reward model of `load_reward_model` on the meta device: shapes alone."""
    from transformers import AutoModelForSequenceClassification
    asked = dataclasses.asdict(config)
    base, dtype = asked.pop("name"), asked.pop("dtype")
    meta = saved_meta(base, **asked)
    if meta is None:
        meta = asked | {"base": base, "dtype": dtype}
    elif not meta["lora_rank"]:
        meta |= {"base": base, "depth": None}
    dtype = getattr(torch, meta["dtype"] if meta["lora_rank"] else "float32")
    with torch.device("meta"):
        try:
            hf = AutoModelForSequenceClassification.from_config(
                cut_config(architecture(meta["base"]), meta),
                attn_implementation=attention(meta)).to(dtype)  # transformers 4 knows no dtype=
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


# ---- the estimate --------------------------------------------------------------------------------

def largest_micro_batch(config: RewardModelConfig) -> list[TokenGroup]:
    """Pairs of data.max_length tokens an answer, a quarter of them the prompt's, as many as the
    token budget holds, the last one cut to fill it; at least one whole pair, which may exceed it,
    and at most the batch."""
    length, prompt = config.data.max_length, max(1, config.data.max_length // 4)
    pair, left, token_groups = 2 * length - prompt, config.token_budget, []
    while not token_groups or (left > prompt + 2 and len(token_groups) < config.batch_size):
        rest = (min(pair, left) if token_groups else pair) - prompt  # tokens of both answers
        token_groups.append([[0] * prompt, [0] * (rest // 2), [1] * (rest - rest // 2)])
        left -= prompt + rest
    return token_groups


def bytes_of(tensors) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def count_step(model: RewardModel, config: RewardModelConfig) -> dict[str, int]:
    """Peak of the largest micro-batch's forward and backward beside `model`'s own tensors: what it
    keeps until the backward pass, and with all temporaries; gradients not counted."""
    token_groups = largest_micro_batch(config)
    trained = [p for p in model.parameters() if p.requires_grad]
    parts = [(list(range(len(token_groups))), pack(token_groups).to(model.device))]
    live, kept = LiveBytes(), []

    def backpropagate(loss: Tensor) -> None:
        kept.append(live.now)
        loss.backward()

    for p in trained:  # as in every step but the first micro-batch's: gradients are there
        p.grad = torch.zeros_like(p)
    live.ignore([*model.parameters(), *model.buffers(), *(p.grad for p in trained)])
    with live:
        backward(model, parts, config, backpropagate)
    return {"saved": kept[0], "peak": live.peak}


def count_fake_step(model: RewardModel, config: RewardModelConfig) -> dict[str, int]:
    """`count_step` of a meta model. Its weights become fake tensors that say they are on a CPU:
    autocast and attention choose their kernels by device."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    with FakeTensorMode(allow_non_fake_inputs=True):
        return count_step(model.to_empty(device="cpu"), config)


def estimate(config: RewardModelConfig) -> dict[str, int]:
    """Bytes by part on one GPU (or CPU): base, adapters (with the head; none in full
    fine-tuning), gradients, optimizer, activations (at the highest point of the largest
    micro-batch, temporaries included) and their total; saved: what of activations waits for the
    backward pass; tokens: of that micro-batch; parameters, trained.

    Not in it: the CUDA context and fragmentation on a GPU, Python and its libraries on a CPU.
    Raises: ModelError for sizes that are not known.
    """
    model = meta_model(config.model)
    trained = [p for p in model.parameters() if p.requires_grad]
    weights = bytes_of([*model.parameters(), *model.buffers()])
    adapters = bytes_of(trained) if model.meta["lora_rank"] else 0
    count = sum(p.numel() for p in trained)
    step = count_fake_step(model, config)
    parts = {"base": weights - adapters, "adapters": adapters, "gradients": bytes_of(trained),
             "optimizer": count * (2 if config.optimizer == "paged_adamw_8bit" else 8),  # bytes
             "activations": step["peak"]}
    return {**parts, "total": sum(parts.values()), "saved": step["saved"],
            "tokens": sum(map(count_tokens, largest_micro_batch(config))), "trained": count}


def largest_token_budget(config: RewardModelConfig, available: float) -> int:
    """The largest token_budget that fits into `available` bytes: a power of two times the longest
    pair, no more than a whole batch. Memory is a straight line in tokens, drawn by two estimates.

    Raises: ConfigError when one pair does not fit.
    """
    pair = 2 * config.data.max_length
    one, two = (estimate(dataclasses.replace(config, token_budget=n * pair)) for n in (1, 2))
    if one["total"] > available:
        raise ConfigError(f"one pair of data.max_length {config.data.max_length} takes "
                          f"{one['total'] / 1e9:.1f} GB of {available / 1e9:.1f}: lower it, set "
                          "model.gradient_checkpointing, model.lora_rank or model.quantization")
    share = (available - one["total"]) / max(1, two["total"] - one["total"])
    tokens = one["tokens"] + share * (two["tokens"] - one["tokens"])
    return pair * min(config.batch_size, 2 ** int(math.log2(max(1.0, tokens / pair))))


def measure(config: RewardModelConfig) -> int:
    """Activations of the same micro-batch with the real model, in bytes: what the GPU's allocator
    hands out at its peak, or on a CPU the storages that come to life."""
    from ..models import load_reward_model
    options = dataclasses.asdict(config.model)
    model = load_reward_model(options.pop("name"), **options).train()
    if not torch.cuda.is_available():
        return count_step(model, config)["peak"]
    model.to("cuda")
    count_step(model, config)  # libraries fill their caches
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    count_step(model, config)
    return torch.cuda.max_memory_allocated() - before


def table(config: RewardModelConfig, parts: dict[str, int]) -> str:
    """Markdown table of an estimate, in 1e9 bytes."""
    model = dataclasses.asdict(config.model) | (saved_meta(config.model.name) or {})
    held = "NF4, double quantization" if model["quantization"] else (
        model["dtype"] if model["lora_rank"] else "fp32")
    rows = {"base": f"base weights, {held}",
            "adapters": f"adapters of rank {model['lora_rank']} and head, fp32",
            "gradients": "gradients, fp32", "optimizer": f"optimizer, {config.optimizer}",
            "activations": f"activations at the peak, {parts['tokens']} tokens"
                           f" ({parts['saved'] / 1e9:.2f} GB kept for the backward pass)",
            "total": "total per GPU, one process"}
    lines = [f"{config.model.name}, {parts['trained'] / 1e6:.2f} million trained weights", "",
             "| part | GB |", "|---|---|"]
    lines += [f"| {text} | {parts[k] / 1e9:.2f} |" for k, text in rows.items() if parts[k]]
    return "\n".join([*lines, "", "Not in it: the CUDA context and fragmentation (leave a GB or "
                      "two), Python's own memory on a CPU."])


def main(argv: list[str] | None = None) -> None:
    parser = command_line("scale.estimate", __doc__, "a reward-model run")
    parser.add_argument("--gb", type=float, help="say the largest token_budget that fits so much")
    parser.add_argument("--measure", action="store_true", help="load the model, run that "
                        "micro-batch and compare")
    args = parser.parse_args(argv)
    config = load_config(args.config, RewardModelConfig, args.overrides)
    parts = estimate(config)
    print(table(config, parts))
    if args.gb:
        print(f"Largest token_budget that fits: {largest_token_budget(config, args.gb * 1e9)}")
    if args.measure:
        peak = measure(config)
        print(f"Measured activations: {peak / 1e9:.3f} GB; the estimate is off by "
              f"{parts['activations'] / peak - 1:+.1%}.")


if __name__ == "__main__":
    run(main)
