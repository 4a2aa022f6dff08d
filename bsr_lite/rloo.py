"""REINFORCE leave-one-out: token log-probabilities, KL estimators, advantages, policy loss.

Functions of tensors alone. Log-probabilities are in nats and belong to the tokens of an answer.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def token_logprobs(hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int = 256) -> Tensor:
    """log softmax(W h)[target] of every token, without a tensor of tokens by vocabulary: logits are
    made for `chunk` tokens at a time, and again in the backward pass; value and gradient are exact.

    Shapes: (N, H) the states that predict the tokens, (V, H) the output embedding, (N,) -> (N,)
    fp32, nats.
    """
    def logprobs(h: Tensor, y: Tensor) -> Tensor:
        return -F.cross_entropy(F.linear(h, weight).float(), y, reduction="none")  # (chunk, V) ->

    parts = zip(hidden.split(chunk), targets.split(chunk), strict=True)
    return torch.cat([checkpoint(logprobs, h, y, use_reentrant=False) for h, y in parts])


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, kind: str = "k1") -> Tensor:
    """One-sample estimates of KL(pi || ref) at actions drawn from pi, with d = log pi - log ref:
    k1 = d, unbiased; k2 = d^2 / 2, biased; k3 = exp(-d) - 1 + d, unbiased and never negative.

    As *losses* they mean something else: the expected gradient of k1 is 0 (the score function has
    mean 0), that of k2 is the gradient of KL(pi || ref), that of k3 the gradient of KL(ref || pi);
    all of it for d of whole answers. k1 in the reward has the gradient of KL(pi || ref), k3 there
    has the difference of the two: so the penalty belongs into the reward, as k1.
    Source: Schulman 2020, "Approximating KL Divergence", for the names.
    Shapes: any two equal -> the same, nats.  Raises: ValueError for another kind.
    """
    d = logprobs - ref_logprobs
    estimates = {"k1": d, "k2": d.square() / 2, "k3": torch.expm1(-d) + d}
    if kind not in estimates:
        raise ValueError(f"unknown KL estimator {kind!r}; choose k1, k2 or k3")
    return estimates[kind]


def kl_penalized_rewards(rewards: Tensor, seq_kl: Tensor, kl_coef: float) -> Tensor:
    """R = r - kl_coef * sum_t (log pi - log pi_ref).

    Source: Sec. 3.2, with beta = kl_coef = 0.05 in the paper.  Shapes: (P, K), (P, K) -> (P, K).
    """
    return rewards - kl_coef * seq_kl


def leave_one_out_advantages(rewards: Tensor) -> Tensor:
    """A_i = R_i - mean of the other K - 1 rewards of the prompt.

    Unbiased: the baseline does not depend on answer i. Equal to K/(K-1) times R_i minus the mean
    of all K.  Source: Sec. 3.2 (Kool et al. 2019, Ahmadian et al. 2024).
    Shapes: (P, K) -> (P, K).  Raises: ValueError for K = 1.
    >>> leave_one_out_advantages(torch.tensor([[1.0, 0.0, 0.0]]))
    tensor([[ 1.0000, -0.5000, -0.5000]])
    """
    k = rewards.shape[-1]
    if k < 2:
        raise ValueError("leave-one-out needs at least two answers to a prompt")
    return rewards - (rewards.sum(-1, keepdim=True) - rewards) / (k - 1)


def rloo_loss(seq_logprobs: Tensor, old_seq_logprobs: Tensor, advantages: Tensor,
              clip_range: float | None = None) -> Tensor:
    """Mean over all answers of -A rho, rho = exp(log pi(y|x) - log pi_old(y|x)) the ratio of whole
    answers; with clip_range e: -min(A rho, A clip(rho, 1 - e, 1 + e)).

    On the policy that drew the answers rho = 1, and the gradient is REINFORCE's, -A grad log pi.
    Every one of a prompt's K answers gets its gradient (the official code gives it to one in K).
    Shapes: (P, K) each, the last two without a graph -> scalar.
    """
    ratio = (seq_logprobs - old_seq_logprobs).exp()
    gain = advantages * ratio
    if clip_range is not None:
        gain = torch.minimum(gain, advantages * ratio.clamp(1 - clip_range, 1 + clip_range))
    return -gain.mean()


def clip_fraction(seq_logprobs: Tensor, old_seq_logprobs: Tensor, advantages: Tensor,
                  clip_range: float | None) -> float:
    """Share of answers whose gradient `rloo_loss` cut off."""
    if clip_range is None:
        return 0.0
    ratio = (seq_logprobs - old_seq_logprobs).exp()
    cut = torch.where(advantages > 0, ratio > 1 + clip_range, ratio < 1 - clip_range)
    return (cut & (advantages != 0)).float().mean().item()
