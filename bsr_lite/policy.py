"""A policy: a causal language model with LoRA; its reference, the same weights with LoRA off; and
on the same base a reward model as a second adapter."""

import contextlib
from pathlib import Path

import torch
from torch import Tensor, nn

from . import machine, pretrained
from .batching import TokenGroup, answer_positions, pack
from .errors import ModelError
from .models import RewardModel, load_reward_model
from .rloo import token_logprobs
from .saving import check_template, saved_meta

ADAPTER, REWARD = "default", "reward"


class Policy(nn.Module):
    """`hf` is a causal language model or a PeftModel around one. Frozen weights are held, and
    everything but log-probabilities computed, in `dtype`; adapters and their gradients in fp32."""

    def __init__(self, hf, tokenizer, dtype: str, lora_rank: int | None):
        super().__init__()
        self.hf, self.tokenizer, self.lora_rank = hf, tokenizer, lora_rank
        self.dtype, self.compute_dtype = dtype, getattr(torch, dtype)

    @property
    def causal(self) -> nn.Module:
        return self.hf.get_base_model() if self.lora_rank else self.hf

    @property
    def device(self) -> torch.device:
        return self.causal.lm_head.weight.device

    @property
    def longest(self) -> int:
        """Tokens of the longest chat that it computes."""
        return pretrained.longest_chat(self.causal.config)

    def autocast(self):
        return machine.autocast(self.device, self.compute_dtype)

    def logprobs(self, token_groups: list[TokenGroup]) -> list[Tensor]:
        """log pi of every token of every answer given what stands before it, in nats, with a graph;
        a token group is [prompt, answer, answer, ...].  Shapes: N answers -> N tensors (T_i,) fp32.
        """
        packed = pack(token_groups).to(self.device)
        lengths = [len(answer) for _, *answers in token_groups for answer in answers]
        sources, targets = answer_positions(packed, lengths)
        self.causal.set_attn_implementation("packed")
        with self.autocast():
            hidden = self.causal.model(input_ids=packed.input_ids, packed=packed, use_cache=False,
                                       position_ids=packed.position_ids).last_hidden_state[0]
        weight = self.causal.lm_head.weight
        hidden = hidden[sources].to(weight.dtype)  # (T, H) -> (answer tokens, H)
        logprobs = token_logprobs(hidden, weight, targets)  # (answer tokens,)
        return list(logprobs.split(lengths))

    @contextlib.contextmanager
    def reference(self):
        """The policy before training: its adapter is off.  Raises: ModelError without one."""
        if not self.lora_rank:
            raise ModelError("a reference is a policy with its LoRA off: set policy.lora_rank")
        with self.hf.disable_adapter():
            yield self

    def save(self, folder: str | Path) -> None:
        """The adapter, or all weights, which know nothing of these options, and the tokenizer."""
        self.hf.save_pretrained(folder, selected_adapters=[ADAPTER], save_embedding_layers=False)
        self.tokenizer.save_pretrained(folder)


def load_policy(name_or_path: str, *, lora_rank: int | None = None, dtype: str = "auto",
                quantization: str | None = None, seed: int = 0) -> Policy:
    """A policy to sample from, or with `lora_rank` to train, on this machine's device: EMBEDDED, a
    hub id, a local path, or a folder that `Policy.save` wrote.  dtype, quantization: as in
    `models.load_reward_model`.

    Raises: ModelError saying what to change.
    """
    from peft import PeftConfig
    folder = Path(name_or_path)
    saved = (folder / "adapter_config.json").exists()
    if saved_meta(name_or_path):
        raise ModelError(f"{name_or_path} is a reward model, not a policy")
    if saved and lora_rank:
        raise ModelError(f"{name_or_path} is a trained policy: name its base to train, or leave "
                         "out lora_rank to sample from it")
    base = PeftConfig.from_pretrained(folder).base_model_name_or_path if saved else name_or_path
    dtype = machine.resolve_dtype(dtype)
    meta = {"base": base, "depth": None, "lora_rank": lora_rank, "quantization": quantization,
            "dtype": dtype}
    hf, tokenizer, no_head = pretrained.load_pretrained("CausalLM", meta, dtype)
    if no_head and not hf.config.tie_word_embeddings:
        raise ModelError(f"the weights of {base} lack lm_head: it is no causal language model")
    pretrained.check_vocabulary(hf, tokenizer)
    hf.requires_grad_(not (lora_rank or saved))
    if saved:
        hf = pretrained.read_adapters(hf, folder)
        lora_rank = hf.peft_config[ADAPTER].r
    elif lora_rank:
        hf = pretrained.add_adapters(hf, "CAUSAL_LM", meta, seed)
    policy = Policy(hf.eval(), tokenizer, dtype, lora_rank).to(machine.device())
    check_layout(policy, base)
    return policy


@torch.no_grad()
def check_layout(policy: Policy, name: str) -> None:
    """Raises: ModelError unless packed rows give what the plain model says of a short text: models
    that scale, cap or add a bias to their logits, or look at a window only, would be wrong."""
    ids = list(range(3, 11))
    try:
        (ours,) = policy.logprobs([[ids[:2], ids[2:]]])
        policy.causal.set_attn_implementation("sdpa")
        with policy.autocast():
            logits = policy.causal(torch.tensor([ids], device=policy.device)).logits[0, 1:-1]
    except (ModelError, AttributeError) as error:
        raise ModelError(f"{name} cannot be computed in packed rows: {error}") from error
    plain = logits.float().log_softmax(-1)[range(6), ids[2:]]  # (6,) nats
    off = (ours - plain).abs().max().item()
    if not off <= (1e-3 if policy.compute_dtype is torch.float32 else 0.5):  # NaN is wrong, too
        raise ModelError(f"{name} cannot be computed in packed rows: log-probabilities are off "
                         f"by {off:.2g} nats; use a Llama or Qwen kind")


# ---- one base for policy, reference and reward model ---------------------------------------------

class SharedRewardModel(RewardModel):
    """A saved LoRA reward model as a second adapter on the policy's base: no second backbone in
    memory.  Whoever calls it finds the policy's adapter as it was."""

    def __init__(self, policy: Policy, folder: Path, meta: dict):
        from safetensors.torch import load_file
        check_template(folder, policy.tokenizer, meta)
        policy.hf.load_adapter(str(folder), REWARD, torch_device=str(policy.device))
        head = load_file(folder / "adapter_model.safetensors")["base_model.model.score.weight"]
        shell = nn.Module()  # what RewardModel asks of a sequence classifier: backbone and score
        shell.base_model_prefix, shell.model = "model", policy.causal.model
        shell.score = nn.Linear(head.shape[1], 1, bias=False)
        shell.score.weight = nn.Parameter(head.float().to(policy.device), requires_grad=False)
        own = {"lora_rank": None, "dtype": policy.dtype}  # no PeftModel, in the base's format
        super().__init__(shell, policy.tokenizer, meta | own)
        self.policy = [policy]  # in a list: not a submodule

    def last_hidden(self, packed):
        policy = self.policy[0]
        trained = {p: p.requires_grad for p in policy.hf.parameters()}
        policy.causal.set_attn_implementation("packed")
        policy.hf.set_adapter(REWARD)
        try:
            return super().last_hidden(packed)
        finally:
            policy.hf.set_adapter(ADAPTER)  # which flips requires_grad
            for p, was_trained in trained.items():
                p.requires_grad_(was_trained)


def reward_model_for(policy: Policy, folder: str, base: str) -> RewardModel:
    """The reward model saved in `folder`: on the policy's own base when both are adapters of the
    same one at full depth, in the same precision; otherwise with weights of its own."""
    meta = saved_meta(folder)
    if meta is None:
        raise ModelError(f"{folder} is no folder that save_reward_model wrote: train one first")
    quantized = getattr(policy.causal, "is_loaded_in_4bit", False)
    if (policy.lora_rank and meta["lora_rank"] and meta["base"] == base
            and meta["depth"] in (None, policy.causal.config.num_hidden_layers)
            and bool(meta["quantization"]) == bool(quantized)
            and machine.resolve_dtype(meta["dtype"], saved=True) == policy.dtype):
        return SharedRewardModel(policy, Path(folder), meta)
    return load_reward_model(folder, for_scoring=True)
