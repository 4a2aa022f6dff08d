"""What an optimizer step of a reward model computes: rewards, loss and gradient of a whole batch,
exact however it is cut."""

import torch
from torch import Tensor

from .batching import PackedRow
from .config import RewardModelConfig
from .dispersion import pair_mean_statistics
from .distributed import all_sum, ranks


def backward(model, parts: list[tuple[list[int], PackedRow]], config: RewardModelConfig,
             backpropagate=Tensor.backward, pairs: int | None = None) -> tuple[Tensor, Tensor]:
    """Rewards and loss of a batch, its gradient accumulated; exact however it is cut into parts
    and spread over ranks, whose gradients add up. `pairs` are the whole batch's (None: `parts` hold
    it all); a part without an index has a packed for its pass alone, and weight zero.

    One part in one process: plain autograd. Otherwise the loss may couple all pairs, as BSR does,
    so the rewards of all are computed first, then dL/dr of the whole batch, and every part goes
    backward with its own slice of dL/dr: the one part of a rank keeps its graph until then, several
    are computed again. Objectives that sum over pairs need none of it: a part's loss times its
    share of the pairs is exact.
    """
    pairs = pairs or sum(len(index) for index, _ in parts)
    rewards = torch.zeros(pairs, 2, device=model.device)
    if config.loss == "bsr" and (len(parts) > 1 or ranks() > 1):
        with torch.set_grad_enabled(len(parts) == 1):
            for index, packed in parts:
                part = model(packed).view(-1, 2)[:len(index)]
                rewards[index] = part.detach()
        all_sum(rewards).requires_grad_()
        loss = config.objective()(*rewards.unbind(1))
        (gradient,) = torch.autograd.grad(loss, rewards)
        for index, packed in parts:
            if len(parts) > 1:
                part = model(packed).view(-1, 2)[:len(index)]
            backpropagate((part * gradient[index]).sum())
        return rewards.detach(), loss.detach()
    loss = torch.zeros((), device=model.device)
    for index, packed in parts:
        part = model(packed).view(-1, 2)[torch.tensor(index).argsort()]  # as drawn: groups are runs
        part_loss = config.objective()(*part.unbind(1)) * (len(index) / pairs) if index else part.sum()
        backpropagate(part_loss)
        rewards[sorted(index)] = part.detach()
        loss += part_loss.detach()
    return all_sum(rewards), all_sum(loss)


def step_metrics(rewards: Tensor, loss: Tensor, config: RewardModelConfig) -> dict[str, float]:
    """Averages over the optimizer step, with unbiased estimates of both terms that BSR penalises,
    G mu_s^2 and Var(s); with the whole batch as one group they add up to the penalty."""
    margin = rewards[:, 0] - rewards[:, 1]
    pair_means = pair_mean_statistics(rewards[:, 0], rewards[:, 1])
    pairs, size = len(rewards), config.bsr_group_size or len(rewards)
    variance = pair_means["variance"] * pairs / max(pairs - 1, 1)
    return {"train/loss": loss.item(), "train/accuracy": (margin > 0).float().mean().item(),
            "train/margin": margin.mean().item(), "train/reward_mean": rewards.mean().item(),
            "train/reward_std": rewards.std().item(), "bsr/variance_term": variance,
            "bsr/mean_term": size * (pair_means["mean"] ** 2 - variance / pairs),
            "bsr/weight_of_mean": (config.bsr_lambda or 0.0) * size}
