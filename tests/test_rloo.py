import itertools

import pytest
import torch
from conftest import assert_close_in_norm
from hypothesis import given, settings
from hypothesis import strategies as st

from bsr_lite.rloo import (
    clip_fraction,
    kl_estimate,
    kl_penalized_rewards,
    leave_one_out_advantages,
    rloo_loss,
    token_logprobs,
)
from bsr_lite.scale.estimate import LiveBytes


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_logprobs_and_gradients_equal_the_full_softmax(chunk):
    torch.manual_seed(0)
    hidden = torch.randn(7, 5, dtype=torch.float64).float().requires_grad_()
    weight, targets = torch.randn(11, 5, requires_grad=True), torch.randint(11, (7,))
    push = torch.randn(7)
    ours = token_logprobs(hidden, weight, targets, chunk)
    found = torch.autograd.grad((ours * push).sum(), (hidden, weight))
    plain = torch.log_softmax(hidden @ weight.T, -1)[torch.arange(7), targets]
    expected = torch.autograd.grad((plain * push).sum(), (hidden, weight))
    assert_close_in_norm(ours, plain)
    for a, b in zip(found, expected, strict=True):
        assert_close_in_norm(a, b)


def test_a_frozen_head_gets_no_gradient_and_costs_no_logits():
    """What waits for the backward pass is the result, not a chunk's 16,000 logits."""
    hidden, weight = torch.randn(64, 8, requires_grad=True), torch.randn(1000, 8)
    targets, live = torch.zeros(64, dtype=torch.long), LiveBytes()
    live.ignore([hidden, weight, targets])
    with live:
        found = token_logprobs(hidden, weight, targets, 16)
        waiting = live.now
        found.sum().backward()
    assert waiting <= 2 * 4 * 64 and weight.grad is None  # the four chunks' results, and all
    assert 4 * 16_000 < live.peak < 4 * 64_000


def policy(logits):
    return torch.log_softmax(logits, -1)


LOGITS = torch.tensor([0.3, -1.0, 0.9], dtype=torch.float64)
REF = torch.log_softmax(torch.tensor([-0.2, 0.4, 0.1], dtype=torch.float64), -1)


def test_k1_and_k3_are_unbiased_and_k2_is_not():
    """By exact enumeration of a policy over three tokens; k1's sign is where others went wrong."""
    logp = policy(LOGITS)
    kl = (logp.exp() * (logp - REF)).sum()
    mean = {k: (logp.exp() * kl_estimate(logp, REF, k)).sum().item() for k in ("k1", "k2", "k3")}
    assert mean["k1"] == pytest.approx(kl.item()) and mean["k3"] == pytest.approx(kl.item())
    assert kl > 0 and abs(mean["k2"] - kl.item()) > 0.01
    assert (kl_estimate(logp, REF, "k3") >= 0).all() and (kl_estimate(logp, REF, "k1") < 0).any()
    with pytest.raises(ValueError, match="unknown KL estimator 'k4'"):
        kl_estimate(logp, REF, "k4")


def kl_gradient(forward):
    logits = LOGITS.clone().requires_grad_()
    logp = policy(logits)
    kl = (logp.exp() * (logp - REF)).sum() if forward else (REF.exp() * (REF - logp)).sum()
    return torch.autograd.grad(kl, logits)[0]


def test_estimators_as_losses_have_other_gradients_than_their_values_suggest():
    expected = {"k1": torch.zeros(3, dtype=torch.float64), "k2": kl_gradient(True),
                "k3": kl_gradient(False)}
    for kind, gradient in expected.items():
        logits = LOGITS.clone().requires_grad_()
        logp = policy(logits)
        loss = (logp.detach().exp() * kl_estimate(logp, REF, kind)).sum()  # E over drawn actions
        torch.testing.assert_close(torch.autograd.grad(loss, logits)[0], gradient)


def test_k1_in_the_reward_has_the_gradient_of_the_kl():
    logits = LOGITS.clone().requires_grad_()
    logp = policy(logits)
    penalty = kl_estimate(logp, REF).detach()  # a value, as a reward is
    (gradient,) = torch.autograd.grad((logp.detach().exp() * penalty * logp).sum(), logits)
    torch.testing.assert_close(gradient, kl_gradient(True))


def estimates(k, advantage, level):
    """(probability, gradient estimate) of every possible set of k draws from a bandit."""
    rewards = level + torch.tensor([1.0, 0.2, -0.5], dtype=torch.float64)
    logits = LOGITS.clone().requires_grad_()
    logp = policy(logits)
    scores = torch.stack([torch.autograd.grad(logp[a], logits, retain_graph=True)[0]
                          for a in range(3)])
    for arms in itertools.product(range(3), repeat=k):
        drawn = torch.tensor(arms)
        a = advantage(rewards[drawn][None])[0]
        yield logp[drawn].sum().exp().item(), (a[:, None] * scores[drawn]).mean(0)


def moments(k, advantage, level=3.0):
    rows = list(estimates(k, advantage, level))
    mean = sum(p * g for p, g in rows)
    return mean, sum(p * (g - mean).square().sum() for p, g in rows).item()


@pytest.mark.parametrize("k", [2, 3, 4])
def test_leave_one_out_is_unbiased_and_calmer_than_reinforce(k):
    """Enumerated over all draws: the mean is the true gradient, the variance is below REINFORCE's;
    the mean of all K as a baseline gives (K-1)/K times RLOO, so it is no better after rescaling."""
    logits = LOGITS.clone().requires_grad_()
    value = (policy(logits).exp() * torch.tensor([1.0, 0.2, -0.5], dtype=torch.float64)).sum()
    truth = torch.autograd.grad(value, logits)[0]  # a level of rewards changes nothing
    plain, noise = moments(k, lambda r: r)
    ours, calm = moments(k, leave_one_out_advantages)
    biased, _ = moments(k, lambda r: r - r.mean(-1, keepdim=True))
    torch.testing.assert_close(plain, truth)
    torch.testing.assert_close(ours, truth)
    torch.testing.assert_close(biased, truth * (k - 1) / k)
    rescaled, same = moments(k, lambda r: (r - r.mean(-1, keepdim=True)) * k / (k - 1))
    torch.testing.assert_close(rescaled, truth)
    assert same == pytest.approx(calm) and calm < noise


def test_where_rewards_average_zero_no_baseline_is_needed():
    """Leave-one-out pays for estimating the level: with K = 2 it triples the variance there."""
    ours, plain = (moments(2, f, level=0.0)[1] for f in (leave_one_out_advantages, lambda r: r))
    assert ours > 2 * plain


@given(st.integers(2, 6), st.floats(-5, 5))
@settings(max_examples=30, deadline=None)
def test_advantages_sum_to_zero_and_ignore_a_shift(k, shift):
    rewards = torch.randn(4, k, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
    a = leave_one_out_advantages(rewards)
    assert a.sum(-1).abs().max() < 1e-12
    torch.testing.assert_close(leave_one_out_advantages(rewards + shift), a)
    others = [(rewards.sum(-1) - rewards[:, i]) / (k - 1) for i in range(k)]
    torch.testing.assert_close(a, rewards - torch.stack(others, -1))


def test_one_answer_has_no_others():
    with pytest.raises(ValueError, match="at least two answers"):
        leave_one_out_advantages(torch.zeros(3, 1))


def test_on_policy_the_gradient_is_reinforces_for_every_answer():
    logp = torch.randn(3, 4, requires_grad=True)
    a = torch.randn(3, 4)
    for clip in (None, 0.2):
        (gradient,) = torch.autograd.grad(rloo_loss(logp, logp.detach(), a, clip), logp)
        torch.testing.assert_close(gradient, -a / 12)


def test_clipping_stops_answers_that_went_far_enough():
    old = torch.zeros(1, 4)
    logp = torch.tensor([[0.5, 0.5, -0.5, -0.5]], requires_grad=True)  # ratios 1.65 and .61
    a = torch.tensor([[1.0, -1.0, 1.0, -1.0]])
    (gradient,) = torch.autograd.grad(rloo_loss(logp, old, a, 0.2), logp)
    assert (gradient == 0).tolist() == [[True, False, False, True]]
    assert clip_fraction(logp.detach(), old, a, 0.2) == 0.5
    assert clip_fraction(logp.detach(), old, a, None) == 0
    assert clip_fraction(logp.detach(), old, torch.zeros(1, 4), 0.2) == 0


def test_kl_lowers_the_reward_of_answers_that_the_reference_would_not_give():
    out = kl_penalized_rewards(torch.ones(1, 2), torch.tensor([[2.0, -1.0]]), 0.05)
    torch.testing.assert_close(out, torch.tensor([[0.9, 1.05]]))
