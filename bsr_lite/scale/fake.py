"""Models that have shapes but no memory, and what they would take: every storage that comes to life
and dies is counted, while the code that trains runs on fake tensors."""

import dataclasses
import functools
import json
import weakref
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from .. import pretrained
from ..batching import TokenGroup
from ..config import ModelConfig, RLOOConfig, load_config
from ..errors import ConfigError, ModelError
from ..models import RewardModel
from ..policy import Policy
from ..saving import saved_meta
from .cards import CONTEXT, computing

# sizes of published models, so that those behind a login or without a network are counted, too
ARCHITECTURES = json.loads(Path(__file__).with_name("architectures.json").read_text())


# ---- counting ------------------------------------------------------------------------------------

class LiveBytes(TorchDispatchMode):
    """Counts the bytes of every storage made under it, until the storage dies: `now` and `peak`.
    Works on fake tensors and on real ones alike."""

    now = peak = 0

    def __init__(self):
        super().__init__()
        self.known = weakref.WeakSet()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._count, out)
        return out

    def ignore(self, tensors) -> None:
        """Storages that were there before: views of them cost nothing."""
        self.known.update(t.untyped_storage() for t in tensors)

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage not in self.known:
            self.known.add(storage)
            weakref.finalize(storage, self._add, -storage.nbytes())
            self._add(storage.nbytes())

    def _add(self, size: int) -> None:
        self.now += size
        self.peak = max(self.peak, self.now)


def bytes_of(tensors) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def trained(module: nn.Module) -> list[Tensor]:
    return [p for p in module.parameters() if p.requires_grad]


def held(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def weights(module: nn.Module, adapted: int | None, card: str | None,
            optimizer: int = 8) -> dict[str, int]:
    """Bytes of base, adapters, gradients, of an optimizer of so many bytes a trained weight, and of
    CUDA itself."""
    gradients = bytes_of(trained(module))
    adapters = gradients if adapted else 0
    return {"base": bytes_of(held(module)) - adapters, "adapters": adapters, "gradients": gradients,
            "optimizer": optimizer * sum(p.numel() for p in trained(module)),
            "context": CONTEXT if card or torch.cuda.is_available() else 0}


def count(model: nn.Module, work) -> int:
    """Peak of `work(live)` beside `model`'s own tensors and its gradients, which are there, as in
    every step but the first micro-batch's; live: the counter."""
    live = LiveBytes()
    for p in trained(model):
        p.grad = torch.zeros_like(p)
    live.ignore([*held(model), *(p.grad for p in trained(model))])
    with live:
        work(live)
    return live.peak


def fill(token_budget: int, prompt: int, answer: int, answers: int, most: int) -> list[TokenGroup]:
    """The largest micro-batch: groups of a prompt of so many tokens with so many answers, as many
    as the budget holds, the last one's answers cut to fill it; at least a whole one, which may
    exceed it, at most `most`."""
    token_groups, left = [], max(token_budget, prompt + answers * answer)
    while left >= prompt + answers and len(token_groups) < most:
        answer = min(answer, (left - prompt) // answers)
        token_groups.append([[0] * prompt, *[[1] * answer] * answers])
        left -= prompt + answers * answer
    return token_groups


# ---- models --------------------------------------------------------------------------------------

def architecture(name: str):
    """The transformers config of EMBEDDED, a hub id or a local path."""
    from transformers import AutoConfig
    if name in ARCHITECTURES and not Path(name).exists():
        return AutoConfig.for_model(**ARCHITECTURES[name], num_labels=1)
    return AutoConfig.from_pretrained(name, num_labels=1)


class _Nf4Linear(nn.Linear):
    """What bitsandbytes' Linear4bit holds, half a byte a weight, a byte for each 64 of them and an
    fp32 number for each 256 of these; and the temporaries that it makes: W whole for the product,
    forward and backward, but never kept. Its own tensors cannot be fake."""

    def __init__(self, linear: nn.Linear):
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        n, self.bias, self.dtype = linear.weight.numel(), linear.bias, linear.weight.dtype
        self.weight = nn.Parameter(torch.empty(n // 2, dtype=torch.uint8), requires_grad=False)
        scales = n // 64 + 4 * -(-n // 64 // 256)
        self.register_buffer("scales", torch.empty(scales, dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        dequantize = functools.partial(torch.empty, dtype=self.dtype, device=x.device)
        with saved_tensors_hooks(lambda weight: weight.shape, dequantize):
            y = x.to(self.dtype) @ dequantize((self.in_features, self.out_features))
        return (y if self.bias is None else y + self.bias).to(x.dtype)


def meta_network(kind: str, meta: dict, dtype: str) -> nn.Module:
    """What `load_pretrained` loads, on the meta device.  Raises: ModelError."""
    import transformers
    make = getattr(transformers, f"AutoModelFor{kind}").from_config
    try:
        config = pretrained.cut_config(architecture(meta["base"]), meta)
        config.dtype = getattr(torch, dtype)  # transformers 4 tells the backbone no other way
        hf = make(config, dtype=config.dtype, attn_implementation=pretrained.attention(meta))
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"no sizes known for {meta['base']}, or no model of this kind: take a "
                         "decoder of the Llama, Qwen, Mistral kind, without a network a local path"
                         f" or one of {', '.join(ARCHITECTURES)}") from error
    for module in list(hf.modules()) if meta["quantization"] else ():
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear and name not in ("score", "lm_head"):
                setattr(module, name, _Nf4Linear(child))
    if dtype == "float16":
        pretrained.widen_residual_stream(hf)
    return hf


def as_on_card(network: nn.Module, backbone: nn.Module, kernel: str) -> None:
    """Attention by that kernel in every packed row; and adapters that take the inputs of 4-bit
    layers as they are, since PEFT leaves these alone under CUDA's autocast."""
    for module in network.modules():
        if kernel != "grouped" and isinstance(getattr(module, "base_layer", None), _Nf4Linear):
            module.cast_input_dtype_enabled = False

    def choose(_, args, inputs):
        if "packed" in inputs:
            inputs["packed"].kernel = kernel

    backbone.register_forward_pre_hook(choose, with_kwargs=True)


def meta_model(config: ModelConfig, card: str | None = None) -> RewardModel:
    """The reward model of `load_reward_model` on a card (None: this machine): shapes alone."""
    asked = dataclasses.asdict(config)
    base, dtype = asked.pop("name"), asked.pop("dtype")
    saved = saved_meta(base, **asked)
    meta = saved or asked | {"base": base, "dtype": dtype}
    if saved and not saved["lora_rank"]:
        meta |= {"base": base, "depth": None}
    meta["dtype"], kernel = computing(card, meta["dtype"], bool(saved))
    with torch.device("meta"):
        hf = meta_network("SequenceClassification", meta,
                          meta["dtype"] if meta["lora_rank"] else "float32")
        pretrained.check_architecture(hf, meta)
        hf.requires_grad_(not meta["lora_rank"]).score.to(torch.float32)
        hf = pretrained.make_trainable(hf, meta, config.gradient_checkpointing, seed=0)
    model = RewardModel(hf, None, meta).train()
    as_on_card(model, model.backbone, kernel)
    return model


def meta_policy(config: ModelConfig, card: str | None = None) -> Policy:
    """The policy of `load_policy`, likewise."""
    dtype, kernel = computing(card, config.dtype)
    meta = dataclasses.asdict(config) | {"base": config.name}
    with torch.device("meta"):
        hf = meta_network("CausalLM", meta, dtype).requires_grad_(False)
        hf = pretrained.add_adapters(hf, "CAUSAL_LM", meta, seed=0)
    policy = Policy(hf.eval(), None, dtype, config.lora_rank)
    as_on_card(policy, policy.causal.model, kernel)
    return policy


def reward_model_of(config: RLOOConfig, folder: Path) -> ModelConfig:
    """What config.reward_model is; before it is trained, what the config in `folder` says that
    trains it.  Raises: ConfigError where there is none."""
    if saved_meta(config.reward_model):
        return ModelConfig(name=config.reward_model)
    for found in map(load_config, sorted(folder.glob("rm_*.yaml"))):
        if Path(found.output_dir, "model") == Path(config.reward_model):
            return found.model
    raise ConfigError(f"{config.reward_model}: not trained yet, and by no rm_*.yaml of {folder}")
