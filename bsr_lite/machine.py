"""What this machine computes on, decided in one place for all that trains, scores, samples, merges
or estimates: the device, the number format and the attention kernel.

`dtype: auto`, the default, is bfloat16 from compute capability 8.0 on, float16 with loss scaling
before (T4, RTX 20), on a CPU bfloat16 where it has units for it. Packed rows go through one
variable-length flash kernel, on older cards through SDPA's memory-saving one. On a GPU a resumed
run is the same up to rounding, not to the bit: flash attention adds gradients in no fixed order."""

import contextlib
import functools
import inspect
import os

import torch

# One kernel for segments of any length, from torch 2.11 on, whose own takes no grouped queries.
try:
    from torch.nn.attention.varlen import varlen_attn
    _takes = set(inspect.signature(varlen_attn).parameters)
except ImportError:
    _takes = set()
if not {"window_size", "scale"} <= _takes:
    varlen_attn = None
VARLEN_GROUPS = "enable_gqa" in _takes

FLASH = (8, 0)  # compute capability from which a card has bfloat16 units and flash attention


def device() -> torch.device:
    """This process's GPU, or the CPU; never Apple's, which has no float64."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def native(dtype: str, capability: tuple[int, int] | None) -> bool:
    """Whether a card of this compute capability (None: a CPU) computes in `dtype`, not merely
    imitates it. Any CPU takes bfloat16, a few do so fast; float16 is for cards."""
    if dtype == "float16":
        return capability is not None
    return dtype == "float32" or capability is None or capability >= FLASH


def choose_dtype(capability: tuple[int, int] | None) -> str:
    """What `dtype: auto` means: bfloat16 where there are units for it (compute capability 8.0, CPUs
    with AVX512-BF16), float16 with loss scaling on older cards, else float32."""
    if capability is not None:
        return "bfloat16" if capability >= FLASH else "float16"
    fast = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)  # torch has no other name
    return "bfloat16" if fast() else "float32"


def capability(device: torch.device) -> tuple[int, int] | None:
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else None


def fit_dtype(asked: str, capability: tuple[int, int] | None, saved: bool = False) -> str:
    """The format to compute in: `auto` is the machine's; any other is taken at its word, but that
    of a saved model only where the machine computes in it."""
    keep = asked != "auto" and (native(asked, capability) or not saved)
    return asked if keep else choose_dtype(capability)


def resolve_dtype(asked: str, saved: bool = False) -> str:
    """`fit_dtype` of this machine; what was decided is printed."""
    dtype = fit_dtype(asked, capability(device()), saved)
    announce(dtype)
    return dtype


def attention_kernel(capability: tuple[int, int] | None, dtype: torch.dtype) -> str:
    """Of packed rows: `varlen`, one call of the flash kernel; `expanded`, a segment a call with
    keys and values repeated for every head, which all memory-saving GPU kernels take; `grouped`,
    the same without repeating, on a CPU."""
    if capability is None:
        return "grouped"
    flash = varlen_attn and capability >= FLASH and dtype is not torch.float32
    return "varlen" if flash else "expanded"


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager:
    return torch.autocast(device.type, dtype, enabled=dtype is not torch.float32)


def describe() -> str:
    """One line: card or CPU, memory, format, kernel."""
    here, dtype = device(), choose_dtype(capability(device()))
    if here.type == "cpu":
        return f"no CUDA GPU: the CPU computes, {dtype}"
    card = torch.cuda.get_device_properties(here)
    scaled = " with loss scaling" if dtype == "float16" else ""
    kernel = attention_kernel(capability(here), getattr(torch, dtype))
    return (f"{card.name}, {card.total_memory / 1e9:.1f} GB, compute capability {card.major}."
            f"{card.minor}: {dtype}{scaled}, {kernel} attention")


@functools.cache
def announce(dtype: str) -> None:
    """Prints, once, what was decided."""
    native_here = native(dtype, capability(device()))
    note = "" if native_here else f"; {dtype}, which was asked for, is only imitated here: slow"
    print(f"[machine] {describe()}{note}", flush=True)
