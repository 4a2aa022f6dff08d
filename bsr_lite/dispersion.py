"""Where the reward's spread comes from: r = |W_p| |h| cos, norm statistics, effective rank.

Functions of hidden states and rewards alone. Hidden norms exist twice: before and after the
backbone's final RMSNorm. The reward sees the one after, whose scale RMSNorm pins up to its gain;
`models.RewardModel.last_hidden` returns both, so that both stories can be told.
"""

import torch
from torch import Tensor


def reward_decomposition(last_hidden: Tensor, head_weight: Tensor) -> dict[str, Tensor]:
    """Factors of r = W_p . h = |W_p| |h| cos(psi).

    Source: Eq. 16; of h_w - h_l the factors of the margin, Eq. 23.
    Shapes: (N, H), (H,) -> head_norm scalar, hidden_norm (N,), cosine (N,).
    >>> parts = reward_decomposition(torch.tensor([[3.0, 4.0]]), torch.tensor([0.0, 2.0]))
    >>> [round(parts[k].squeeze().item(), 2) for k in ("head_norm", "hidden_norm", "cosine")]
    [2.0, 5.0, 0.8]
    """
    head_norm, hidden_norm = head_weight.norm(), last_hidden.norm(dim=-1)
    cosine = last_hidden @ head_weight / (head_norm * hidden_norm).clamp(min=1e-12)
    return {"head_norm": head_norm, "hidden_norm": hidden_norm, "cosine": cosine}


def norm_statistics(values: Tensor) -> dict[str, float]:
    """Mean, standard deviation, coefficient of variation, skewness (Fisher, biased) and the 5, 25,
    50, 75 and 95% quantiles of (N,).

    A constant has skewness 0.  Raises: ValueError when empty.
    >>> norm_statistics(torch.tensor([1.0, 1.0, 4.0]))["skew"] > 0
    True
    """
    if values.numel() == 0:
        raise ValueError("norm_statistics needs at least one value")
    x = values.detach().double()
    mean, std = x.mean(), x.std(correction=0)
    skew = ((x - mean) ** 3).mean() / std**3 if std > 0 else torch.zeros(())
    quantiles = x.quantile(torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=x.dtype))
    return {"mean": mean.item(), "std": std.item(),
            "cv": (std / mean).item() if mean != 0 else 0.0, "skew": skew.item(),
            "quantiles": quantiles.tolist()}


def norm_share(hidden_chosen: Tensor, hidden_rejected: Tensor) -> float:
    """Share of sum |h_w - h_l|^2 that differences of length make; the rest is angle theta:
    |h_w - h_l|^2 = (|h_w| - |h_l|)^2 + 2 |h_w| |h_l| (1 - cos theta).

    Shapes: (B, H), (B, H) -> [0, 1]; 0 when all differences are zero.
    >>> x = torch.tensor([[3.0, 4.0]])
    >>> norm_share(2 * x, x), norm_share(x, x.flip(1))  # along a ray; on a sphere
    (1.0, 0.0)
    """
    lengths = (hidden_chosen.norm(dim=-1) - hidden_rejected.norm(dim=-1)).square().sum()
    total = (hidden_chosen - hidden_rejected).square().sum()
    return (lengths / total).item() if total > 0 else 0.0


def pair_mean_statistics(rewards_chosen: Tensor, rewards_rejected: Tensor) -> dict[str, float]:
    """The two quantities BSR acts on: mean mu_s and variance Var(s) of s = (r_w + r_l) / 2.

    Var(s) holds the spread between prompts and the spread of pair means within a prompt.
    Shapes: (B,), (B,) -> reward units, squared reward units.
    """
    pair_means = ((rewards_chosen + rewards_rejected) / 2).detach().double()
    return {"mean": pair_means.mean().item(), "variance": pair_means.var(correction=0).item()}


def reward_variances(rewards: Tensor) -> dict[str, float]:
    """Split of the reward variance over (P prompts, K responses): between + within prompts.

    The between part is invisible to Bradley-Terry (any shift c(x) leaves it unchanged).
    Shapes: (P, K) -> squared reward units; the two add up to the pooled variance.
    >>> reward_variances(torch.tensor([[0.0, 2.0], [4.0, 6.0]]))
    {'between_prompts': 4.0, 'within_prompts': 1.0}
    """
    x = rewards.detach().double()
    return {"between_prompts": x.mean(1).var(correction=0).item(),
            "within_prompts": x.var(dim=1, correction=0).mean().item()}


def effective_rank(hidden: Tensor, center: bool = False) -> float:
    """exp of the entropy of the normalised singular values of a matrix of N rows.

    Source: Table 1 (Roy and Vetterli's definition); `center` subtracts the mean row first.
    Compare matrices of the same N only: it is at most min(N, H).
    Shapes: (N, H) -> between 1 and min(N, H); 0 for a zero matrix.
    >>> round(effective_rank(torch.eye(3)), 4)
    3.0
    """
    x = hidden.detach().double()
    singular = torch.linalg.svdvals(x - x.mean(0) if center else x)
    if singular.sum() == 0:
        return 0.0
    p = singular / singular.sum()
    return torch.special.entr(p).sum().exp().item()
