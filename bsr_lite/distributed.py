"""The processes ("ranks") of one run, as `accelerate launch` or torchrun start them.

Every rank reads the same data and draws the same batches, computes its share of the pairs, and
takes the same optimizer step on the sum of all gradients. Two layouts: every rank holds the whole
model (DDP in accelerate's words), or a shard of it (FSDP2). In one process nothing here acts.
"""

import os
import signal
import sys
from collections.abc import Iterable
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from .errors import ConfigError

BUCKET = 2**25  # numbers of one all-reduce: 128 MiB in fp32
LOST = ("error: another process of the run died, or was told to stop, so this one stops, too; the "
        "launcher's report says which came first. Launch again with --resume to go on")


def ranks() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def barrier() -> None:
    """Wait for all ranks."""
    if ranks() > 1:
        dist.barrier()


def all_sum(tensor: Tensor) -> Tensor:
    """The sum over ranks, in place."""
    if ranks() > 1:
        dist.all_reduce(tensor)
    return tensor


def local(tensor: Tensor) -> Tensor:
    """This rank's shard (the same memory), or the whole tensor where it is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


# ---- start ---------------------------------------------------------------------------------------

def launched() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def sharded() -> bool:
    """Whether the launcher's config asks for FSDP."""
    return ranks() > 1 and os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def refuse_launcher(command: str) -> None:
    """Raises: ConfigError when a command that runs in one process was launched in several."""
    if launched():
        raise ConfigError(f"{command} runs in one process: start it without a launcher")


def start():
    """accelerate's `Accelerator`, which joins the launcher's processes: NCCL on GPUs, gloo on CPUs.

    A rank that waits ten minutes for another one gives up; one that dies is noticed at once.
    Raises: ConfigError for what cannot be run.
    """
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true":
        raise ConfigError("train_rm shards by FSDP2, not by DeepSpeed: launch it with "
                          "bsr_lite/configs/accelerate/fsdp2.yaml")
    gpus, here = torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if gpus and here > gpus:
        raise ConfigError(f"{here} processes on a machine with {gpus} GPUs: launch with "
                          f"--num_processes {gpus}")
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"  # else only one rank has weights to cut
    # without cpu=True accelerate would see no device to connect, and every rank would run alone
    accelerator = Accelerator(cpu=launched() and not gpus, kwargs_handlers=[
        InitProcessGroupKwargs(timeout=timedelta(minutes=10))])
    if rank():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  every line would come once a rank
    if ranks() > 1:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(leave()))
    return accelerator


def leave(error: RuntimeError | None = None) -> str:
    """What a rank says that stops because another one did; `error`, unless it is the connection's,
    is raised."""
    lost = error is None or isinstance(error, dist.DistError) or "gloo" in str(error)
    if error and not (ranks() > 1 and lost):
        raise error
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # say it once
    return LOST


def stop() -> None:
    """Leave the launcher's processes after a run that went well."""
    if ranks() > 1:
        dist.destroy_process_group()


def of_rank_0(value):
    """What rank 0 has, on all ranks."""
    found = [value]
    if ranks() > 1:
        dist.broadcast_object_list(found)
    return found[0]


def check_agreement(**facts) -> None:
    """Raises: ConfigError naming what is not the same on all ranks."""
    found: list = [facts] * ranks()
    if ranks() > 1:
        dist.all_gather_object(found, facts)
    other = [name.replace("_", " ") for name in facts
             if any(f[name] != facts[name] for f in found)]
    if other:
        raise ConfigError(f"the processes differ in their {', '.join(other)}: give all machines "
                          "the same files, and an output_dir that they share")


def bit_sum(tensors: Iterable[Tensor]) -> int:
    """Checksum of fp32 tensors: the sum of their bits as integers, exact in any order."""
    return sum(t.detach().view(torch.int32).sum(dtype=torch.int64).item() for t in tensors)


# ---- the model -----------------------------------------------------------------------------------

def place(model, device: torch.device) -> None:
    """The model on this rank's device, whole or sharded.

    The first is not torch's DistributedDataParallel, which would overlap the all-reduce with the
    backward pass: LoRA's gradients are small, and a model whose are not is better sharded.
    Raises: ConfigError for what cannot be sharded, or when ranks loaded different weights.
    """
    if sharded() and model.meta["quantization"]:
        raise ConfigError("4-bit weights cannot be sharded, and fit one GPU: launch QLoRA with "
                          "bsr_lite/configs/accelerate/ddp.yaml")
    if ranks() > 1:
        check_agreement(weights=bit_sum(p for p in model.parameters() if p.requires_grad))
    if sharded():
        shard(model)
    else:
        model.to(device)


def shard(model) -> None:
    """FSDP2: every weight, gradient and optimizer state split over the ranks, a layer's weights
    gathered while it computes.

    Layers are gathered in the compute dtype, to which autocast would cast their matrices (their
    norms' weights are rounded to it, too), and their gradients summed in fp32; the embedding, the
    residual stream and the final norm stay in fp32, as under autocast. The head, a vector, stays
    whole. Gradients are summed over ranks, not averaged: the loss of a share is a share of the
    loss.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
    backbone, layers = model.backbone, list(model.backbone.layers)
    for module in (*layers, backbone):
        fully_shard(module, mp_policy=MixedPrecisionPolicy(
            param_dtype=None if module is backbone else model.compute_dtype,
            reduce_dtype=torch.float32, cast_forward_inputs=False))
    for module in (*layers, backbone):
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)
    model.classifier.score.to(next(backbone.parameters()).device)


def whole_weights(module: nn.Module) -> dict[str, Tensor] | None:
    """The state dict of a sharded module, gathered tensor by tensor into rank 0's CPU memory (empty
    on the others); None for a module that is whole. All ranks must call it."""
    if not any(isinstance(p, DTensor) for p in module.parameters()):
        return None
    found = {}
    for name, tensor in module.state_dict().items():
        tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if rank() == 0:
            found[name] = tensor.detach().cpu()
    return found


# ---- gradients -----------------------------------------------------------------------------------

def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Sum over ranks the gradients of weights that every rank holds whole, in few all-reduces;
    those of sharded weights were summed in the backward pass."""
    if ranks() == 1:
        return
    bucket: list[Tensor] = []
    gradients = [p.grad for p in parameters if p.grad is not None and not isinstance(p, DTensor)]
    for number, gradient in enumerate(gradients, 1):
        bucket.append(gradient)
        if number == len(gradients) or sum(g.numel() for g in bucket) >= BUCKET:
            flat = all_sum(torch.cat([g.flatten() for g in bucket]))
            for g, part in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                g.copy_(part.view_as(g))
            bucket = []


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scale gradients to a common norm of at most `max_norm`; returns the norm before."""
    parameters = list(parameters)
    if not any(isinstance(p, DTensor) for p in parameters):
        return nn.utils.clip_grad_norm_(parameters, max_norm)
    squares = {True: torch.zeros(()), False: torch.zeros(())}
    for p in parameters:
        key = isinstance(p, DTensor)
        squares[key] = squares[key].to(p.device) + local(p.grad).square().sum()
    norm = (all_sum(squares[True]) + squares[False]).sqrt()
    for p in parameters:
        local(p.grad).mul_((max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm
