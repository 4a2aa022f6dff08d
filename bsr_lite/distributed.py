"""The processes ("ranks") of one run, as `accelerate launch` or torchrun start them.

Every rank reads the same data and draws the same batches, computes its share of the pairs, and
takes the same optimizer step on the sum of all gradients. Two layouts: every rank holds the whole
model (DDP in accelerate's words), or a shard of it (FSDP2). In one process nothing here acts.
"""

import os
import signal
import sys
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .errors import ConfigError, TrainingError

LOST = ("another process of the run died, or was told to stop, so this one stops, too; the "
        "launcher's report says which came first. Launch again with --resume to go on")


def ranks() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def sharded() -> bool:
    """Whether the launcher's config asks for FSDP."""
    return ranks() > 1 and os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def reads_weights() -> bool:
    """Whether this rank loads a model's weights: under FSDP rank 0 does, for all."""
    return rank() == 0 or not sharded()


def is_shard(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")  # a DTensor, whose import takes a second


def all_sum(tensor: Tensor) -> Tensor:
    """The sum over ranks, in place."""
    if ranks() > 1:
        dist.all_reduce(tensor)
    return tensor


def gather(value) -> list:
    """Every rank's `value`, a pickled copy, in the order of ranks."""
    everywhere = [value] * ranks()
    if ranks() > 1:
        dist.all_gather_object(everywhere, value)
    return everywhere


# ---- start and end -------------------------------------------------------------------------------

def refuse_launcher(command: str) -> None:
    """Raises: ConfigError when a command that runs in one process was launched in several."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(f"{command} runs in one process: start it without a launcher")


def start_processes() -> torch.device:
    """Join the launcher's processes, by NCCL on GPUs and gloo on CPUs; this rank's device.

    A rank that waits two hours for another one gives up: rank 0 may be reading 32 GB of weights, or
    writing 96 GB of a checkpoint. One that dies is noticed at once.
    Raises: ConfigError for what cannot be run.
    """
    from accelerate import PartialState
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true":
        raise ConfigError("train_rm shards by FSDP2, not by DeepSpeed: launch it with "
                          "bsr_lite/configs/accelerate/fsdp2.yaml")
    gpus, here = torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if gpus and here > gpus:
        raise ConfigError(f"{here} processes, but {gpus} GPUs: launch with --num_processes {gpus}")
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"  # transformers' way; ours is `shard`
    # without cpu=True accelerate would take Apple's GPU, or see no device to connect: then every
    # rank would run alone
    state = PartialState(cpu=not gpus, timeout=timedelta(hours=2))
    if rank():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  every line would come once a rank
    if ranks() > 1:  # the launcher stops all when one has died
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(f"error: {LOST}"))
    return state.device


@contextmanager
def until_processes_end():
    """Around a run: waits for the other ranks, and leaves them, when it went well.

    Raises: TrainingError when the connection to one of them is lost."""
    try:
        yield
    except RuntimeError as error:
        if ranks() == 1 or not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # it will come: say it once
        raise TrainingError(LOST) from error
    if ranks() > 1:
        dist.barrier()
        dist.destroy_process_group()


def check_agreement(**facts) -> None:
    """Raises: ConfigError naming what is not the same on all ranks."""
    everywhere = gather(facts)
    other = [name.replace("_", " ") for name in facts
             if any(there[name] != facts[name] for there in everywhere)]
    if other:
        raise ConfigError(f"the processes differ in their {', '.join(other)}: give all machines "
                          "the same files, and an output_dir that they share")


# ---- the model -----------------------------------------------------------------------------------

def refuse_shards(meta: dict) -> None:
    """Before weights are read.  Raises: ConfigError for a model that is not sharded."""
    if sharded() and (meta["quantization"] or meta["dtype"] == "float16"):
        raise ConfigError("4-bit weights and float16 are not sharded: set model.dtype: bfloat16, "
                          "or launch with bsr_lite/configs/accelerate/ddp.yaml")


def place_model(model, device: torch.device) -> None:
    """The model on this rank's device, whole or sharded.

    The first is not torch's DistributedDataParallel, which would overlap the all-reduce with the
    backward pass: LoRA's gradients are small, and a model whose are not is better sharded.
    Raises: ConfigError when ranks loaded different weights, or built different networks.
    """
    check_agreement(network=[(p.shape, p.dtype, p.requires_grad) for p in model.parameters()])
    if sharded():
        return shard(model, device)
    if ranks() > 1:  # the bits as integers: their sum is exact in any order
        trained = (p.detach() for p in model.parameters() if p.requires_grad)
        check_agreement(weights=[p.view(torch.int32).sum().item() for p in trained])
    model.to(device)


def shard(model, device: torch.device) -> None:
    """FSDP2: every weight, gradient and optimizer state split over the ranks, a layer's weights
    gathered while it computes. All ranks cut a network without weights; then rank 0 sends its own,
    tensor by tensor. Buffers (rotary frequencies) are each rank's own: no checkpoint holds them.

    Layers are gathered in the compute dtype, to which autocast would cast their matrices (their
    norms' weights are rounded to it, too), and their gradients summed in fp32; the embedding, the
    residual stream and the final norm stay in fp32, as under autocast. The head, a vector, stays
    whole. Gradients are summed over ranks, not averaged: the loss of a share is a share of the
    loss.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
    weights = model.state_dict() if reads_weights() else {}
    buffers = dict(model.named_buffers(remove_duplicate=False))
    backbone = model.to("meta").backbone
    for module in (*backbone.layers, backbone):
        fully_shard(module, mp_policy=MixedPrecisionPolicy(
            None if module is backbone else model.compute_dtype, torch.float32,
            cast_forward_inputs=False))
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)
    model.to_empty(device=device)
    set_model_state_dict(model, weights, options=StateDictOptions(
        full_state_dict=True, broadcast_from_rank0=True))
    for name, buffer in model.named_buffers(remove_duplicate=False):
        buffer.copy_(buffers[name])


def whole_weights(module: nn.Module) -> dict[str, Tensor]:
    """The state dict of a sharded module, gathered tensor by tensor into rank 0's CPU memory; empty
    on the other ranks, which must call it, too."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return get_model_state_dict(module, options=options)


# ---- gradients -----------------------------------------------------------------------------------

def sum_gradients(parameters: list[nn.Parameter]) -> None:
    """Sum over ranks the gradients of weights that every rank holds whole; those of sharded
    weights were summed in the backward pass."""
    for p in parameters:
        if p.grad is not None and not is_shard(p):
            all_sum(p.grad)


def clip_gradients(parameters: list[nn.Parameter], max_norm: float) -> Tensor:
    """Scale gradients to a common norm of at most `max_norm`; returns the norm before. As torch's
    clip_grad_norm_, which takes whole tensors or shards but not both."""
    norms = [p.grad.norm() for p in parameters if p.grad is not None]
    norm = nn.utils.get_total_norm([n.full_tensor() if is_shard(n) else n for n in norms])
    nn.utils.clip_grads_with_norm_(parameters, max_norm, norm, foreach=False)
    return norm
