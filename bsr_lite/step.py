"""What an optimizer step of a reward model computes: rewards, loss and gradient of a whole batch,
exact however it is cut into micro-batches and spread over processes; optimizer and schedule."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .batching import PackedRow
from .config import RewardModelConfig
from .dispersion import pair_mean_statistics
from .distributed import all_sum, ranks
from .losses import GROUPED

# A batch's parts: which of its pairs, and these as one packed row, two responses a pair. A rank
# that has nothing left to do gets no index and some row, for a pass of weight zero.
Parts = list[tuple[list[int], PackedRow]]
Objective = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def backward(model, parts: Parts, config: RewardModelConfig, backpropagate=Tensor.backward,
             pairs: int | None = None, margins: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Rewards (B, 2), chosen first, and loss of a batch of B pairs; its gradient is added to the
    weights'. For one part this is

        r = model(packed).view(-1, 2); loss = config.objective()(r[:, 0], r[:, 1]); loss.backward()

    On several ranks `parts` are this rank's, `pairs` is B, and gradients of ranks add up.
    margins: those that the pairs demand, (B,).
    """
    pairs = pairs or sum(len(index) for index, _ in parts)
    margins = None if margins is None else margins.to(model.device)
    cut = len(parts) > 1 or ranks() > 1
    compute = coupled_backward if config.loss in GROUPED and cut else additive_backward
    return compute(model, parts, config.objective(), pairs, backpropagate, margins)


def additive_backward(model, parts: Parts, objective: Objective, pairs: int, backpropagate,
                      margins: Tensor | None) -> tuple[Tensor, Tensor]:
    """Of a loss that is a mean over pairs: a part's loss times its share of the pairs. In one part
    that share is 1, so there any objective is computed here: plain autograd."""
    rewards = torch.zeros(pairs, 2, device=model.device)
    loss = torch.zeros((), device=model.device)
    for index, packed in parts:
        r = model(packed).view(-1, 2)  # (2b,) -> (b, 2), in the order of `index`
        r = r[torch.tensor(index).argsort()]  # as drawn: BSR's groups are runs of a batch's pairs
        # without an index r is empty: its sum is 0, with a graph for the pass that others wait for
        demanded = None if margins is None else margins[sorted(index)]  # (b,)
        part_loss = objective(*r.unbind(1), demanded) * (len(index) / pairs) if index else r.sum()
        backpropagate(part_loss)  # frees this graph before the next one is built
        rewards[sorted(index)] = r.detach()
        loss += part_loss.detach()
    return all_sum(rewards), all_sum(loss)


def coupled_backward(model, parts: Parts, objective: Objective, pairs: int, backpropagate,
                     margins: Tensor | None) -> tuple[Tensor, Tensor]:
    """Of a loss that couples all pairs, as BSR does: the gradient of one part depends on the
    rewards of all, and the square of a micro-batch's own mean would be another loss.

    1. rewards of all parts, 2. loss and dL/dr of the whole batch, 3. every part backward with its
    slice of dL/dr: dL/dw = sum over parts of dL/dr . dr/dw.
    """
    # 1. A single part keeps its graph until step 3; several are computed again, as they would not
    # fit into memory together.
    keep = len(parts) == 1
    rewards = torch.zeros(pairs, 2, device=model.device)
    with torch.set_grad_enabled(keep):
        for index, packed in parts:
            r = model(packed).view(-1, 2)[:len(index)]  # (b, 2)
            rewards[index] = r.detach()
    # 2. On every rank, from the rewards of all ranks.
    rewards = all_sum(rewards).requires_grad_()  # (B, 2)
    loss = objective(*rewards.unbind(1), margins)
    (gradient,) = torch.autograd.grad(loss, rewards)  # dL/dr, (B, 2)
    # 3. The kept graph, or the same rewards once more with one.
    for index, packed in parts:
        if not keep:
            r = model(packed).view(-1, 2)[:len(index)]
        backpropagate((r * gradient[index]).sum())
    return rewards.detach(), loss.detach()


def step_metrics(rewards: Tensor, loss: Tensor, config: RewardModelConfig) -> dict[str, float]:
    """Averages over the optimizer step, with unbiased estimates of both terms that BSR penalises,
    G mu_s^2 and Var(s); with the whole batch as one group they add up to the penalty."""
    margin = rewards[:, 0] - rewards[:, 1]  # (B,)
    pair_means = pair_mean_statistics(rewards[:, 0], rewards[:, 1])
    pairs, size = len(rewards), config.bsr_group_size or len(rewards)
    variance = pair_means["variance"] * pairs / max(pairs - 1, 1)
    return {"train/loss": loss.item(), "train/accuracy": (margin > 0).float().mean().item(),
            "train/margin": margin.mean().item(), "train/reward_mean": rewards.mean().item(),
            "train/reward_std": rewards.std().item(), "bsr/variance_term": variance,
            # the squared mean of B draws is Var / B too large on average
            "bsr/mean_term": size * (pair_means["mean"] ** 2 - variance / pairs),
            # the spread term alone puts none on the mean
            "bsr/weight_of_mean": (config.bsr_lambda or 0.0) * size * (config.loss != "spread")}


# ---- optimizer -----------------------------------------------------------------------------------

def make_optimizer(model, config: RewardModelConfig) -> torch.optim.Optimizer:
    """AdamW, in fp32 or paged in 8 bits; the head, drawn at random, has a learning rate of its own.
    """
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    groups = [{"params": [p for n, p in trained if "score" not in n], "lr": config.learning_rate},
              {"params": [p for n, p in trained if "score" in n],
               "lr": config.head_learning_rate or config.learning_rate}]
    for group in groups:
        group["peak_lr"] = group["lr"]
    if config.optimizer == "paged_adamw_8bit":
        from bitsandbytes.optim import PagedAdamW8bit
        return PagedAdamW8bit(groups, weight_decay=0.0)
    return adamw(groups)


def adamw(trained, **options) -> torch.optim.AdamW:
    """AdamW without weight decay; on a GPU by the kernel that needs no copy of the weights."""
    return torch.optim.AdamW(trained, weight_decay=0.0, fused=torch.cuda.is_available(), **options)


def loss_scaler(model) -> torch.amp.GradScaler:
    """Scales a loss computed in float16, whose gradients would underflow to zero, and skips a step
    whose gradients overflow; in other formats it does nothing. It starts at a sixteenth of torch's
    scale: short runs have no steps to lose."""
    return torch.amp.GradScaler(model.device.type, init_scale=2.0**12,
                                enabled=model.compute_dtype is torch.float16)


def forgives(scaler: torch.amp.GradScaler) -> bool:
    """Whether a gradient that is not finite is a matter of scale: float16's may overflow; the
    scaler skips such a step, and scales less from then on."""
    return scaler.is_enabled() and scaler.get_scale() > 1


def schedule(step: int, total: int, warmup_ratio: float) -> float:
    """Linear warmup, then linear decay to zero, as a share of the peak learning rate.

    >>> [round(schedule(s, 10, 0.2), 2) for s in (0, 1, 2, 9)]
    [0.5, 1.0, 1.0, 0.12]
    """
    warmup = max(1, math.ceil(warmup_ratio * total))
    if step < warmup:
        return (step + 1) / warmup
    return (total - step) / max(1, total - warmup)
