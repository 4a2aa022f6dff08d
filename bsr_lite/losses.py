"""Preference losses on rewards: Bradley-Terry, its baselines, the centering and BSR penalties.

Everything here takes fp32 reward tensors of shape (B,), imports torch alone and knows no model.
Equation numbers: "On the Robustness of Reward Models for Language Model Alignment" (ICML 2025).
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def bt_loss(rewards_chosen: Tensor, rewards_rejected: Tensor,
            target_margins: Tensor | float = 0.0) -> Tensor:
    """Bradley-Terry negative log-likelihood: mean of -log sigmoid(r_w - r_l - m), m the margin that
    a pair demands, 0 in the paper.

    Source: Eq. 3; the margin: Touvron et al. 2023 (arXiv 2307.09288), as in TRL.
    Shapes: (B,), (B,) fp32, m a number or (B,) in reward units -> scalar, in nats per pair.
    >>> round(bt_loss(torch.zeros(2), torch.zeros(2)).item(), 4)  # ln 2 at zero margin
    0.6931
    """
    return -F.logsigmoid(rewards_chosen - rewards_rejected - target_margins).mean()


def hinge_loss(rewards_chosen: Tensor, rewards_rejected: Tensor, target_margin: float) -> Tensor:
    """Mean of max(0, m - (r_w - r_l)): no force on pairs already m apart.

    Source: Sec. 4.3 (BT-Hinge).  Shapes: (B,), (B,) fp32 -> scalar, in reward units.
    >>> hinge_loss(torch.tensor([3.0]), torch.tensor([0.0]), target_margin=1.0).item()
    0.0
    """
    return F.relu(target_margin - (rewards_chosen - rewards_rejected)).mean()


def norm_loss(rewards_chosen: Tensor, rewards_rejected: Tensor) -> Tensor:
    """Scale-free BT: mean of -log sigmoid((r_w - r_l) / sqrt(r_w^2 + r_l^2)).

    Source: Sec. 4.3 (BT-Norm).
    Deviation: the root has a floor of 1e-3; the official code divides by zero at r_w = r_l = 0.
    Shapes: (B,), (B,) fp32 -> scalar, in nats per pair.
    >>> a = norm_loss(torch.tensor([2.0]), torch.tensor([-1.0]))
    >>> b = norm_loss(torch.tensor([20.0]), torch.tensor([-10.0]))
    >>> torch.allclose(a, b)
    True
    """
    norm = (rewards_chosen.square() + rewards_rejected.square() + 1e-6).sqrt()
    return -F.logsigmoid((rewards_chosen - rewards_rejected) / norm).mean()


def dr_loss(rewards_chosen: Tensor, rewards_rejected: Tensor) -> Tensor:
    """BT plus a pull of chosen above and rejected below zero:
    mean of -log sigmoid(r_w - r_l) - log sigmoid(r_w) - log sigmoid(-r_l).

    Source: Sec. 4.3 (BT-DR, after Yuan et al. 2024).
    Shapes: (B,), (B,) fp32 -> scalar, in nats per pair.
    >>> round(dr_loss(torch.zeros(1), torch.zeros(1)).item(), 4)  # 3 ln 2
    2.0794
    """
    pull = F.logsigmoid(rewards_chosen) + F.logsigmoid(-rewards_rejected)
    return bt_loss(rewards_chosen, rewards_rejected) - pull.mean()


def centering_penalty(rewards_chosen: Tensor, rewards_rejected: Tensor) -> Tensor:
    """Mean of (r_w + r_l)^2 = 4 (mu_s^2 + Var s) with s = (r_w + r_l) / 2 the pair means.

    Source: Eisenstein et al. 2023 (arXiv 2312.09244); unweighted here.
    Shapes: (B,), (B,) fp32 -> scalar, in squared reward units.
    >>> centering_penalty(torch.tensor([1.0]), torch.tensor([2.0])).item()
    9.0
    """
    return (rewards_chosen + rewards_rejected).square().mean()


def l2_penalty(rewards_chosen: Tensor, rewards_rejected: Tensor) -> Tensor:
    """Mean of (r_w^2 + r_l^2) / 2 = s^2 + m^2 / 4 per pair, s its mean and m its margin: the
    control that shrinks every reward, margins included.

    Source: none in the paper; what its wording of BSR's gradient, proportional to each response's
    own reward, would be.  Unweighted here.
    Shapes: (B,), (B,) fp32 -> scalar, in squared reward units.
    >>> l2_penalty(torch.tensor([3.0]), torch.tensor([1.0])).item()  # 2^2 + 2^2 / 4
    5.0
    """
    return (rewards_chosen.square() + rewards_rejected.square()).mean() / 2


def group_means(
    rewards_chosen: Tensor, rewards_rejected: Tensor, bsr_group_size: int | None = None
) -> Tensor:
    """Mean of the 2G rewards of the group each pair belongs to, repeated for its pairs.

    Groups are consecutive runs of G pairs (None: one group; a last run may be shorter).
    Shapes: (B,), (B,) fp32 -> (B,).  Raises: ValueError when G < 1.
    """
    if bsr_group_size is not None and bsr_group_size < 1:
        raise ValueError(f"bsr_group_size must be at least 1 pair, got {bsr_group_size}")
    pair_means = (rewards_chosen + rewards_rejected) / 2
    groups = pair_means.split(bsr_group_size or max(len(pair_means), 1))
    return torch.cat([group.mean().expand(len(group)) for group in groups])


def bsr_penalty(
    rewards_chosen: Tensor, rewards_rejected: Tensor, bsr_group_size: int | None = None
) -> Tensor:
    """Batch-wise sum-to-zero penalty: average over groups of G * (mean of the 2G rewards)^2.

    Over random groups its expectation is G mu_s^2 + Var(s), s = (r_w + r_l) / 2 the pair means.
    Its gradient is the same number for every reward of a group: (group mean) / (groups).
    Source: Eq. 24-25 with the scale of the official code, lambda * G * mean^2 =
    lambda / (4G) * (sum)^2; unweighted here.
    Deviation: the official group is the per-device micro-batch; here it is `bsr_group_size`
    pairs (None: the whole optimizer batch), however the batch is computed.
    Shapes: (B,), (B,) fp32 -> scalar, in squared reward units.
    >>> bsr_penalty(torch.tensor([3.0, 1.0]), torch.tensor([-1.0, 1.0])).item()  # 2 * 1^2
    2.0
    >>> bsr_penalty(torch.tensor([2.0, 1.0]), torch.tensor([-2.0, -1.0])).item()
    0.0
    """
    size = bsr_group_size or max(len(rewards_chosen), 1)
    means = group_means(rewards_chosen, rewards_rejected, bsr_group_size)
    # every pair carries its group's mean, so sum_pairs mean^2 = sum_groups G mean^2
    return means.square().sum() / max(-(-len(means) // size), 1)


def spread_penalty(
    rewards_chosen: Tensor, rewards_rejected: Tensor, bsr_group_size: int | None = None
) -> Tensor:
    """BSR's second term alone: the unbiased variance of a group's G pair means s = (r_w + r_l) / 2,
    averaged over groups. A shift of all rewards changes nothing; a group of one pair counts as 0.

    Source: derived here, not in the paper: E[bsr_penalty] = G mu_s^2 + Var(s). It estimates Var(s)
    with G - 1 degrees of freedom, relative standard error sqrt(2 / (G - 1)) for normal s, where
    bsr_penalty has one, sqrt(2).
    Shapes: (B,), (B,) fp32 -> scalar, in squared reward units; unweighted here.
    >>> spread_penalty(torch.tensor([3.0, 1.0]), torch.tensor([1.0, -1.0])).item()  # of 2 and 0
    2.0
    """
    pair_means = (rewards_chosen + rewards_rejected) / 2
    groups = pair_means.split(bsr_group_size or max(len(pair_means), 1))
    found = [(group - group.mean()).square().sum() / max(len(group) - 1, 1) for group in groups]
    return torch.stack(found).mean()


def level_penalty(
    rewards_chosen: Tensor, rewards_rejected: Tensor, bsr_group_size: int | None = None
) -> Tensor:
    """BSR's first term alone: bsr_penalty - spread_penalty, whose expectation is G mu_s^2.

    A control for one pass over fresh pairs: without a bound below, it rewards variance where a
    network sees the same pairs again, and then diverges.
    Source: derived here, the control of `spread_penalty`.
    Shapes: (B,), (B,) fp32 -> scalar, in squared reward units; unweighted here.
    >>> level_penalty(torch.tensor([3.0, 1.0]), torch.tensor([1.0, -1.0])).item()  # 2 * 1^2 - 2
    0.0
    """
    rewards = rewards_chosen, rewards_rejected, bsr_group_size
    return bsr_penalty(*rewards) - spread_penalty(*rewards)


def bsr_penalty_share(
    rewards_chosen: Tensor, rewards_rejected: Tensor, group_means: Tensor, num_groups: int
) -> Tensor:
    """Exact share of `bsr_penalty` that a part of the batch contributes, value and gradient.

    With the detached mean m of each pair's whole group (from a pass without a graph, over all
    micro-batches and processes): sum over pairs of m * (2s - s.detach()) / num_groups. The
    shares of all parts add up to the penalty, and their gradients to its gradient; squaring a
    micro-batch's own mean instead is a different loss.
    Shapes: (b,), (b,), (b,) fp32 -> scalar.
    >>> r = torch.tensor([3.0, 1.0]), torch.tensor([-1.0, 1.0]), torch.ones(2)
    >>> sum(bsr_penalty_share(*(x[i:i + 1] for x in r), num_groups=1) for i in range(2)).item()
    2.0
    """
    pair_means = (rewards_chosen + rewards_rejected) / 2
    share = group_means.detach() * (2 * pair_means - pair_means.detach())
    return share.sum() / num_groups


# objective -> the one hyperparameter that it takes
PARAMETERS = {"bt": None, "hinge": "target_margin", "norm": None, "dr": None,
              "centering": "centering_coefficient", "l2": "l2_coefficient", "bsr": "bsr_lambda",
              "spread": "bsr_lambda", "level": "bsr_lambda"}
# penalties of groups of pairs, which are no sums over pairs
GROUPED = {"bsr": bsr_penalty, "spread": spread_penalty, "level": level_penalty}
# objective -> what it adds to Bradley-Terry, weighted with that hyperparameter
PENALTIES = {"centering": centering_penalty, "l2": l2_penalty, **GROUPED}


def check_loss(kind: str, **parameters: float | None) -> None:
    """Raises: ValueError, naming the objective, the parameter and the way out, unless exactly the
    parameters that `kind` takes are given."""
    if kind not in PARAMETERS:
        raise ValueError(f"unknown loss {kind!r}; choose one of {', '.join(PARAMETERS)}")
    needed = PARAMETERS[kind]
    for name in parameters.keys() - {needed} - ({"bsr_group_size"} if kind in GROUPED else set()):
        if parameters[name] is not None:
            raise ValueError(f"{name} has no effect on loss {kind!r}: remove it")
    value = parameters.get(needed)
    if needed and (value is None or not 0 <= value < float("inf")):
        raise ValueError(f"loss {kind!r} needs {needed} >= 0, got {value}")


def preference_loss(kind: str, rewards_chosen: Tensor, rewards_rejected: Tensor,
                    target_margins: Tensor | None = None, **parameters: float | None) -> Tensor:
    """The whole batch's loss under the objective `kind`, with the parameter that PARAMETERS names,
    and for GROUPED, where it is not the whole batch, bsr_group_size. Margins that pairs demand are
    bt_loss's, hence for bt and what adds a penalty to it.

    bsr: L_BT + bsr_lambda * bsr_penalty (Eq. 24-25); spread and level, its two terms, likewise;
    centering: L_BT + centering_coefficient *
    centering_penalty; l2: L_BT + l2_coefficient * l2_penalty; the others are the functions of
    their names.
    Shapes: (B,), (B,) fp32, (B,) -> scalar.
    Raises: ValueError for an unknown kind, and for what is missing or has no effect.
    >>> r = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0])
    >>> x = preference_loss("bsr", *r, bsr_lambda=0.5) - preference_loss("bt", *r)
    >>> x.item()  # 0.5 * 2 * 1^2
    1.0
    """
    check_loss(kind, **parameters)
    options = {name: value for name, value in parameters.items() if value is not None}
    margins = 0.0 if target_margins is None else target_margins
    if kind in PENALTIES:
        weight = options.pop(PARAMETERS[kind])  # what is left is bsr_group_size, or nothing
        penalty = PENALTIES[kind](rewards_chosen, rewards_rejected, **options)
        return bt_loss(rewards_chosen, rewards_rejected, margins) + weight * penalty
    if kind == "bt":
        return bt_loss(rewards_chosen, rewards_rejected, margins)
    if target_margins is not None:
        raise ValueError(f"loss {kind!r} takes no margins of pairs: remove the column margin, or "
                         f"choose bt, {', '.join(PENALTIES)}")
    loss = {"hinge": hinge_loss, "norm": norm_loss, "dr": dr_loss}[kind]
    return loss(rewards_chosen, rewards_rejected, **options)
