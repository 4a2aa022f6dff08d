"""Pretrained networks of transformers: how they are read, cut, refused, and made trainable."""

import logging
import sys
from pathlib import Path

import torch
from torch import nn

from . import machine
from .batching import packed_attention
from .distributed import reads_weights
from .embedded import EMBEDDED, embedded_model_path, quiet_loading
from .errors import ModelError
from .tokenization import chat_ids

# It advises to install `kernels`, whose 4-bit CPU kernel has no autograd and needs a download.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def load_pretrained(kind: str, meta: dict, dtype: str):
    """A network of transformers ("SequenceClassification" or "CausalLM"), its weights held in
    `dtype` or as meta["quantization"] says, its tokenizer, and whether its head is missing in the
    checkpoint.  The one place that reads pretrained weights.  Raises: ModelError."""
    import transformers
    from accelerate import init_empty_weights
    name = meta["base"]
    if (Path(name) / "adapter_config.json").exists():
        raise ModelError(f"{name} holds adapters, no whole model: merge them first (peft's "
                         "merge_and_unload; of a reward model of ours scale.merge)")
    path = str(embedded_model_path()) if name == EMBEDDED else name
    no_code = {"trust_remote_code": False}  # nor the question whether to run it, typed in passing
    # 4 bits are rounded from training's format: from another they would be other weights
    held = meta.get("rounded", dtype) if meta["quantization"] else dtype
    options = {"attn_implementation": attention(meta), "dtype": getattr(torch, held), **no_code}
    if meta["quantization"]:
        if torch.cuda.is_available():  # it is quantized there, on the way in
            options["device_map"] = {"": machine.device()}
        options["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype, llm_int8_skip_modules=["score", "lm_head"])
    try:
        config = cut_config(transformers.AutoConfig.from_pretrained(path, num_labels=1, **no_code),
                            meta)
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, **no_code)
        settle_template(tokenizer, name)
        with quiet_loading():
            auto = getattr(transformers, f"AutoModelFor{kind}")
            if reads_weights():
                hf, info = auto.from_pretrained(path, config=config, output_loading_info=True,
                                                **options)
            else:  # parameters on the meta device, buffers computed
                config.dtype = options["dtype"]  # transformers 4 tells the backbone no other way
                with init_empty_weights(include_buffers=False):
                    hf, info = auto.from_config(config, **options), {"missing_keys": []}
    except ModelError:
        raise
    except Exception as error:  # the hub, the file formats and the model code raise of all kinds
        if "packed" in str(error):  # some models look attention up in a table of their own
            raise ModelError(f"packed rows cannot compute {name}: set model.layout: "
                             "padded") from error
        raise ModelError(f"cannot load {name}: {' '.join(str(error).split())} (Without a network "
                         f"use a local path or {EMBEDDED}.)") from error
    lost = sorted(k for k in info["missing_keys"] if not k.startswith(("score", "lm_head")))
    if lost:
        raise ModelError(f"the weights of {name} lack {len(lost)}, such as {', '.join(lost[:3])}")
    if meta["quantization"]:
        guard_nf4(hf, getattr(torch, dtype))
    if dtype == "float16":
        widen_residual_stream(hf)
    return hf, tokenizer, bool(info["missing_keys"])


def cut_config(config, meta: dict):
    """The config of the first `depth` layers."""
    layers = config.num_hidden_layers
    depth = layers if meta["depth"] is None else meta["depth"]
    if not 1 <= depth <= layers:
        raise ModelError(f"depth {depth} is outside 1 to {layers}, the layers of {meta['base']}")
    config.num_hidden_layers = depth
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:depth]
    return config


def attention(meta: dict) -> str:
    """The attention implementation of a layout: for packed rows ours, to which transformers hands
    the keyword argument `packed` through its models; for plain rows eager, which computes all that
    models ask for. Nothing is patched."""
    from transformers import AttentionInterface
    AttentionInterface.register("packed", packed_attention)
    return "eager" if meta.get("layout") == "padded" else "packed"


def guard_nf4(hf, dtype: torch.dtype) -> None:
    """On CPUs with AVX512-BF16 one eval-mode forward would repack the weight for a kernel without
    autograd, for good: LoRA's gradients would be wrong and the loss look normal.  What is not in 4
    bits is held in `dtype`."""
    import bitsandbytes as bnb
    for module in hf.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False
    for parameter in filter(torch.is_floating_point, hf.parameters()):
        parameter.data = parameter.data.to(dtype)


def widen_residual_stream(hf) -> None:
    """Embedding and norms in fp32, hence what layers add to, too: in some models it comes near
    65,504, where float16 ends. What a layer's norm hands on is small: in float16 again, or 4-bit
    layers would answer in fp32."""
    for name, module in hf.named_modules():
        norm = type(module).__name__.endswith("Norm")
        if norm or isinstance(module, nn.Embedding):
            module.float()
        if norm and ".layers." in name:
            module.register_forward_hook(lambda module, inputs, out: out.half())


# ---- what is refused -----------------------------------------------------------------------------

def check_vocabulary(hf, tokenizer) -> None:
    """Raises: ModelError when there are tokens without an embedding."""
    words = hf.get_input_embeddings().num_embeddings
    if len(tokenizer) > words:
        raise ModelError(f"the tokenizer of {tokenizer.name_or_path} has {len(tokenizer)} tokens, "
                         f"the embedding {words} rows: resize_token_embeddings and save both")


def padding_token(tokenizer) -> str:
    """A token that no chat ends in: plain transformers reads rewards before the first of them.

    Raises: ModelError when there is none."""
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}]
    end = chat_ids(tokenizer, [turns])[0][-1] if tokenizer.chat_template else None
    named = (tokenizer.pad_token, tokenizer.unk_token, tokenizer.bos_token, tokenizer.eos_token)
    special = (t.content for t in tokenizer.added_tokens_decoder.values() if t.special)
    fit = [t for t in (*named, *special) if t and tokenizer.convert_tokens_to_ids(t) != end]
    if not fit:
        raise ModelError(f"the tokenizer of {tokenizer.name_or_path} has no special token but the "
                         "one that ends a turn, and plain transformers would take that for "
                         "padding: add one, resize_token_embeddings, and save both")
    return next((token for token in fit if token != tokenizer.eos_token), fit[0])


def check_architecture(hf, meta: dict) -> None:
    """Raises: ModelError unless `hf` is a decoder with a final `norm` under a `score` head, and,
    in packed rows, all of its layers are attention: others carry a state along the row, from one
    response to the next."""
    if not hasattr(hf, "score") or not hasattr(getattr(hf, hf.base_model_prefix), "norm"):
        raise ModelError(f"{type(hf).__name__} has no `score` head over a final `norm`: use a "
                         "decoder of the Llama, Qwen, Mistral kind")
    if meta.get("layout") == "padded":
        return
    if any(getattr(module, "is_causal", True) is False for module in hf.modules()):
        raise ModelError(f"{type(hf).__name__} attends to what comes later, too, which packed rows "
                         "hide: set model.layout: padded")
    kinds = {kind for name in ("layer_types", "layers_block_type")
             for kind in getattr(hf.config, name, None) or ()}
    others = sorted(kinds - {"attention", "full_attention", "sliding_attention"})
    if others:
        raise ModelError(f"{type(hf).__name__} has layers of {', '.join(others)}, which packed "
                         "rows cannot hold apart: set model.layout: padded")


def longest_chat(config, layout: str = "packed") -> int:
    """Tokens of the longest chat that a model computes: its positions, and in packed rows the
    window that its attention looks back."""
    kinds = getattr(config, "layer_types", None)
    slides = "sliding_attention" in kinds if kinds else getattr(config, "use_sliding_window", True)
    window = getattr(config, "sliding_window", None) if slides and layout == "packed" else None
    return min(getattr(config, "max_position_embeddings", None) or sys.maxsize,
               window or sys.maxsize)


def settle_template(tokenizer, name: str) -> None:
    """Of several named templates the default one.  Raises: ModelError for a template that writes
    today's date and lets nobody set it."""
    if isinstance(tokenizer.chat_template, dict):
        tokenizer.chat_template = tokenizer.chat_template.get("default")
    template = tokenizer.chat_template or ""
    if "strftime_now" in template and "date_string" not in template:
        raise ModelError(f"the chat template of {name} writes today's date and takes no "
                         "date_string: rewards would change overnight; edit the template")


# ---- what is trained -----------------------------------------------------------------------------

def make_trainable(hf, meta: dict, gradient_checkpointing: bool | int, seed: int):
    """Add checkpointing (of all layers, or the first so many) and adapters where asked for."""
    if gradient_checkpointing:
        with quiet_loading():
            hf.gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
        hf.enable_input_require_grads()  # else a frozen embedding cuts the graph
        if gradient_checkpointing is not True:
            for layer in getattr(hf, hf.base_model_prefix).layers[gradient_checkpointing:]:
                layer.gradient_checkpointing = False
    # SEQ_CLS trains and saves `score`; CAUSAL_LM would silently do neither
    return add_adapters(hf, "SEQ_CLS", meta, seed) if meta["lora_rank"] else hf


def read_adapters(hf, folder: Path, **options):
    """`hf` with the adapters of a saved model."""
    from peft import PeftModel
    with quiet_loading():
        return PeftModel.from_pretrained(hf, folder, torch_device=str(hf.device), **options)


def add_adapters(hf, task_type: str, meta: dict, seed: int):
    """LoRA on all linear layers, W + 2 B A with B = 0 and A drawn with `seed`."""
    from peft import LoraConfig, get_peft_model
    rank = meta["lora_rank"]
    lora = LoraConfig(task_type=task_type, r=rank, lora_alpha=2 * rank, lora_dropout=0.0,
                      target_modules="all-linear")
    with quiet_loading(), torch.random.fork_rng(devices=[]):  # the caller's generator is untouched
        torch.default_generator.manual_seed(seed)  # of the CPU, which draws them
        hf = get_peft_model(hf, lora)
    hf.peft_config["default"].base_model_name_or_path = meta["base"]  # not a cache's path
    return hf
