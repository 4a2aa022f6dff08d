"""A GPU that computes nothing, for machines without one. Fake tensors say that they are on `cuda`;
shapes, formats and devices are worked out, and a CPU tensor that meets a CUDA one raises. So it
shows mistakes of devices, formats and kernels. Values there are none: whatever comes back to the
CPU is 0, and every question is answered by yes.

A CPU build of torch knows no CUDA device; a few lines of C++ tell it of one that does nothing. They
have to be loaded before torch is, so `on_fake_cuda.py` runs in a process of its own, with this file
as pytest's plugin: see test_fake_cuda.py.
"""

import contextlib
import ctypes
import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

GUARD = r"""
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
using namespace c10;
constexpr auto CARD = DeviceType::CUDA;
struct Guard final : impl::NoOpDeviceGuardImpl<CARD> {
  Device getDevice() const override { return Device(CARD, 0); }
  Device exchangeDevice(Device) const override { return getDevice(); }
  Stream getStream(Device) const noexcept override { return Stream(Stream::DEFAULT, getDevice()); }
  Stream exchangeStream(Stream) const noexcept override { return getStream(getDevice()); }
  void record(void**, const Stream&, const DeviceIndex, const EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
};
struct Hooks final : at::CUDAHooksInterface {
  bool hasCUDA() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  void init() const override {}
};
namespace {
C10_REGISTER_GUARD_IMPL(CUDA, Guard);
const bool hooked = (at::CUDAHooksRegistry()->Register("CUDAHooks", [](at::CUDAHooksArgs) {
  return std::unique_ptr<at::CUDAHooksInterface>(std::make_unique<Hooks>()); }), true);
}
"""
LIBRARY = os.environ.get("BSR_FAKE_CUDA")  # the compiled guard
# one on each side of `machine.FLASH`, the only line that the library draws between cards
CARDS = {(7, 5): "Tesla T4", (8, 6): "NVIDIA GeForce RTX 3060"}


def compile_guard(folder: Path) -> Path | str:
    """The library, or why there is none."""
    import torch
    compiler = shutil.which("g++") or shutil.which("clang++")
    if torch.cuda.is_available():
        return "a real GPU is here: `make gpu` says more"
    if not sys.platform.startswith("linux") or not compiler:
        return "fake CUDA tensors need Linux and a C++ compiler"
    from torch.utils.cpp_extension import include_paths
    source, library = folder / "guard.cpp", folder / "guard.so"
    source.write_text(GUARD)
    built = subprocess.run(
        [compiler, "-shared", "-fPIC", "-std=c++20", source, "-o", library,
         *(f"-I{path}" for path in include_paths()), f"-L{Path(torch.__file__).parent / 'lib'}",
         "-lc10", "-ltorch_cpu"], capture_output=True, text=True, check=False)
    return f"the guard does not compile: {built.stderr[-400:]}" if built.returncode else library


if LIBRARY and "torch" not in sys.modules:
    installed = Path(importlib.util.find_spec("torch").origin).parent / "lib/libtorch_cpu.so"
    ctypes.CDLL(str(installed), ctypes.RTLD_GLOBAL)
    ctypes.CDLL(LIBRARY)

import bitsandbytes  # noqa: E402, F401  these two look for a card when they are imported
import peft  # noqa: E402
import pytest  # noqa: E402
import safetensors.torch  # noqa: E402
import torch  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes  # noqa: E402
from torch.utils._pytree import tree_leaves, tree_map_only  # noqa: E402
from transformers import PreTrainedModel  # noqa: E402

from bsr_lite import pretrained  # noqa: E402


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session, exitstatus):
    session.config.status = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config):
    sys.stdout.flush()
    os._exit(getattr(config, "status", 3))  # torch's own way out stumbles over a card that is none


# ---- the card ------------------------------------------------------------------------------------

class FakeCuda(TorchDispatchMode):
    """Operations that touch the card are worked out by fake tensors, all others are computed: what
    comes back to the CPU is a real tensor."""

    def __init__(self):
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        device = kwargs.get("device")
        made_there = device is not None and torch.device(device).type == "cuda"
        leaves = tree_leaves((args, kwargs))
        if not made_there and not any(isinstance(x, FakeTensor) for x in leaves):
            return function(*args, **kwargs)
        if function is torch.ops.aten._local_scalar_dense.default:  # item(), bool(), float()
            return args[0].dtype is torch.bool or torch.zeros((), dtype=args[0].dtype).item()
        if not all(isinstance(x, FakeTensor) for x in leaves if isinstance(x, torch.Tensor)):
            args, kwargs = tree_map_only(torch.Tensor, self.as_fake, (args, kwargs))
        with self.fake:
            out = function(*args, **kwargs)
        return tree_map_only(FakeTensor, back_home, out)

    def as_fake(self, tensor):
        return tensor if isinstance(tensor, FakeTensor) else self.fake.from_tensor(tensor)


def back_home(fake: FakeTensor):
    made = torch.ones if fake.dtype is torch.bool else torch.zeros
    return fake if fake.is_cuda else made(fake.shape, dtype=fake.dtype)


def move(module: torch.nn.Module, device=None, *args, **options):
    """`Module.to`: torch's own cannot turn a real parameter into a fake one."""
    if not str(device).startswith("cuda"):
        return REAL_TO(module, device, *args, **options)
    moved = {}
    for part in module.modules():
        for table in (part._parameters, part._buffers):
            for name, tensor in table.items():
                if tensor is None or isinstance(tensor, FakeTensor):
                    continue
                if id(tensor) not in moved:
                    fake = tensor.detach().as_subclass(torch.Tensor).to("cuda")
                    if isinstance(tensor, torch.nn.Parameter):
                        fake = torch.nn.Parameter(fake, tensor.requires_grad)
                    if hasattr(tensor, "quant_state"):  # 4 bits
                        state = fake.quant_state = part.quant_state = tensor.quant_state
                        state.to("cuda")
                        for key, value in state.as_dict(packed=True).items():
                            setattr(fake, key, value)  # what a state dict asks for
                    moved[id(tensor)] = fake
                table[name] = moved[id(tensor)]
    return module


def as_tensors(index):
    """Lists in an index as CPU tensors; torch would make CUDA ones of them."""
    if isinstance(index, list | range):
        return torch.tensor(index, dtype=None if index else torch.long)
    return tuple(map(as_tensors, index)) if isinstance(index, tuple) else index


REAL_TO, REAL_TENSOR = torch.nn.Module.to, torch.tensor
REAL_LOAD, REAL_FILE = safetensors.torch.load_file, safetensors.torch.save_file
REAL_SAVE = PreTrainedModel.save_pretrained
GET, SET = torch.Tensor.__getitem__, torch.Tensor.__setitem__


def tensor(data, *args, device=None, **options):
    """`torch.tensor`: made on the CPU, and moved."""
    made = REAL_TENSOR(data, *args, **options)
    return made if device is None else made.to(device)


def unplugged(load):
    """`load_pretrained`, which reads a checkpoint as on a machine without the card: weights are
    real, and quantized for real, until the model is moved."""
    def call(*args, **options):
        with _disable_current_modes(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.cuda, "is_available", lambda: False)
            return load(*args, **options)
    return call


def load_file(path, device="cpu"):
    """safetensors' one: it would copy into the card's memory."""
    weights = REAL_LOAD(path)
    return {k: v.to(device) for k, v in weights.items()} if str(device) != "cpu" else weights


def save_file(weights, *args, **options):
    REAL_FILE({k: v.cpu() for k, v in weights.items()}, *args, **options)


def save_pretrained(model, *args, state_dict=None, **options):
    """transformers' one, of weights that have an address."""
    weights = {k: v.cpu() for k, v in (state_dict or model.state_dict()).items()}
    REAL_SAVE(model, *args, state_dict=weights, **options)


@contextlib.contextmanager
def plugged_in(capability: tuple[int, int], memory: float = 16e9):
    """A machine with one card of this compute capability."""
    card = SimpleNamespace(name=CARDS[capability], total_memory=int(memory), major=capability[0],
                           minor=capability[1], multi_processor_count=40)
    answers = {"is_available": True, "device_count": 1, "current_device": 0,
               "is_initialized": True, "get_device_capability": capability,
               "get_device_properties": card, "get_device_name": card.name,
               "is_bf16_supported": capability >= (8, 0), "max_memory_allocated": 0,
               "memory_allocated": 0, "mem_get_info": (memory, memory), "empty_cache": None,
               "synchronize": None, "set_device": None, "reset_peak_memory_stats": None}
    with pytest.MonkeyPatch.context() as patch:
        for name, answer in answers.items():
            patch.setattr(torch.cuda, name, lambda *a, _answer=answer, **k: _answer)
        for name in ("torch.cuda.amp.common", "torch.amp.autocast_mode", "torch.amp.grad_scaler"):
            patch.setattr(importlib.import_module(name), "amp_definitely_not_available",
                          lambda: False, raising=False)
        patch.setattr(torch, "tensor", tensor)
        patch.setattr(torch.nn.Module, "to", move)
        patch.setattr(torch.nn.Module, "cuda", lambda module: move(module, "cuda"))
        patch.setattr(FakeTensor, "tolist", lambda fake: fake.cpu().tolist())
        patch.setattr(FakeTensor, "__format__", lambda fake, how: format(fake.cpu(), how),
                      raising=False)
        patch.setattr(FakeTensor, "__getitem__", lambda fake, index: GET(fake, as_tensors(index)),
                      raising=False)
        patch.setattr(FakeTensor, "__setitem__", lambda fake, index, value: SET(
            fake, as_tensors(index), value), raising=False)
        patch.setattr(safetensors.torch, "load_file", load_file)
        patch.setattr(peft.utils.save_and_load, "safe_load_file", load_file)
        patch.setattr(peft.peft_model, "safe_save_file", save_file)
        patch.setattr(PreTrainedModel, "save_pretrained", save_pretrained)
        patch.setattr(pretrained, "load_pretrained", unplugged(pretrained.load_pretrained))
        with FakeCuda():
            yield
