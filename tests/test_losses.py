import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bsr_lite import losses
from bsr_lite.losses import (
    bsr_penalty,
    bsr_penalty_share,
    group_means,
    level_penalty,
    preference_loss,
    spread_penalty,
)
from bsr_lite.studies.worlds import family, group_statistics

PARAMETERS = {"hinge": {"target_margin": 1.0}, "centering": {"centering_coefficient": 0.1},
              "l2": {"l2_coefficient": 0.1},
              **{kind: {"bsr_lambda": 0.1} for kind in losses.GROUPED}}
finite = st.floats(-1e4, 1e4, width=32)
reward_lists = st.lists(st.tuples(finite, finite), min_size=1, max_size=40)


def random_rewards(n=12, seed=0, dtype=torch.float64):
    x = torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return (2 * x + torch.tensor([1.0, 0.4], dtype=dtype)).unbind(1)


@pytest.mark.parametrize("kind", list(losses.PARAMETERS))
@given(rows=reward_lists)
@settings(max_examples=25, deadline=None)
def test_stable_in_fp32_at_any_size(kind, rows):
    rewards = torch.tensor(rows, dtype=torch.float32, requires_grad=True)
    loss = preference_loss(kind, rewards[:, 0], rewards[:, 1], **PARAMETERS.get(kind, {}))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(rewards.grad).all()


@pytest.mark.parametrize("kind", list(losses.PARAMETERS))
@pytest.mark.parametrize("value", [0.0, 1e4, -1e4])
def test_stable_at_equal_extremes(kind, value):
    r = torch.full((3,), value, requires_grad=True)
    loss = preference_loss(kind, r, r * 1.0, **PARAMETERS.get(kind, {}))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(r.grad).all()


def test_values_by_hand():
    w, l = torch.tensor([2.0, 0.0]), torch.tensor([1.0, 3.0])
    log1pe = [math.log1p(math.exp(-1)), math.log1p(math.exp(3))]
    assert losses.bt_loss(w, l).item() == pytest.approx(sum(log1pe) / 2, rel=1e-6)
    assert losses.hinge_loss(w, l, 2.0).item() == pytest.approx((1 + 5) / 2)
    assert losses.centering_penalty(w, l).item() == pytest.approx((9 + 9) / 2)
    scale_free = [math.log1p(math.exp(-1 / math.sqrt(5))), math.log1p(math.exp(1))]
    assert losses.norm_loss(w, l).item() == pytest.approx(sum(scale_free) / 2, rel=1e-5)
    pull = [math.log1p(math.exp(-2)) + math.log1p(math.exp(1)),
            math.log1p(math.exp(0)) + math.log1p(math.exp(3))]
    assert losses.dr_loss(w, l).item() == pytest.approx((sum(log1pe) + sum(pull)) / 2, rel=1e-6)
    assert bsr_penalty(w, l).item() == pytest.approx(2 * (6 / 4) ** 2)
    assert bsr_penalty(w, l, 1).item() == pytest.approx((1.5**2 + 1.5**2) / 2)


def test_official_scale_is_lambda_over_4b_times_squared_sum():
    w, l = random_rewards(16)
    assert bsr_penalty(w, l).item() == pytest.approx(((w.sum() + l.sum()) ** 2 / (4 * 16)).item())


def test_head_gradient_is_equation_22():
    """dL_BT/dW_p = -sigmoid(-dr) (h_w - h_l), averaged over pairs."""
    h = torch.randn(6, 2, 5, dtype=torch.float64)
    head = torch.randn(5, dtype=torch.float64, requires_grad=True)
    r = h @ head
    losses.bt_loss(r[:, 0], r[:, 1]).backward()
    difference = h[:, 0] - h[:, 1]
    expected = -(torch.sigmoid(-(difference @ head.detach()))[:, None] * difference).mean(0)
    torch.testing.assert_close(head.grad, expected)


@pytest.mark.parametrize("kind", list(losses.PARAMETERS))
def test_gradients_against_finite_differences(kind):
    w, l = (x.clone().requires_grad_() for x in random_rewards(5))
    assert torch.autograd.gradcheck(
        lambda a, b: preference_loss(kind, a, b, **PARAMETERS.get(kind, {})), (w, l))


def test_bsr_gradient_is_the_same_number_for_every_response_of_a_group():
    w, l = (x.clone().requires_grad_() for x in random_rewards(8))
    bsr_penalty(w, l, 4).backward()
    for group in (slice(0, 4), slice(4, 8)):
        both = torch.cat([w.grad[group], l.grad[group]])
        mean = torch.cat([w[group], l[group]]).mean() / 2  # 2 groups are averaged
        torch.testing.assert_close(both, mean.detach().expand(8))


def test_bt_cannot_see_a_shift_per_prompt_and_bsr_can():
    w, l = random_rewards()
    shift = torch.randn(len(w), dtype=torch.float64)
    assert losses.bt_loss(w + shift, l + shift).item() == pytest.approx(
        losses.bt_loss(w, l).item(), abs=1e-12)
    assert bsr_penalty(w + 1, l + 1).item() != pytest.approx(bsr_penalty(w, l).item(), abs=1e-3)


@pytest.mark.parametrize("replacement", [True, False])
def test_expectation_over_random_groups(replacement):
    """E[G mean^2] = G mu_s^2 + Var(s); without replacement Var(s) times (N - G) / (N - 1)."""
    rng, n, size, draws = torch.Generator().manual_seed(1), 60, 8, 40_000
    w, l = random_rewards(n, seed=3)
    if replacement:
        index = torch.randint(n, (draws, size), generator=rng)
    else:
        index = torch.rand(draws, n, generator=rng).argsort(1)[:, :size]
    values = torch.stack([bsr_penalty(w[i], l[i]) for i in index[:4000]])
    s = (w + l) / 2
    fast = size * s[index].mean(1).square()  # all draws, the same quantity
    torch.testing.assert_close(values, fast[:4000])
    variance = s.var(correction=0) * (1 if replacement else (n - size) / (n - 1))
    expected = size * s.mean() ** 2 + variance
    error = 4 * fast.std() / draws**0.5
    assert abs(fast.mean() - expected) < error
    assert error < 0.1 * variance  # the check can tell the two cases from neither term


# ---- level and spread ----------------------------------------------------------------------------

def groups_of_pairs(draws, size, mu=0.7, between=1.3, margin=0.4):
    """(draws, size, 2) normal rewards whose pair means have mean mu and deviation `between`."""
    generator = torch.Generator().manual_seed(5)
    s = mu + between * torch.randn(draws, size, generator=generator, dtype=torch.float64)
    m = margin + 0.9 * torch.randn(draws, size, generator=generator, dtype=torch.float64)
    return torch.stack([s + m / 2, s - m / 2], -1)


def test_level_and_spread_add_up_to_bsr_and_each_sees_its_own_term():
    w, l = random_rewards(12)
    for size in (None, 5, 4, 1):
        terms = level_penalty(w, l, size) + spread_penalty(w, l, size)
        torch.testing.assert_close(terms, bsr_penalty(w, l, size))
        torch.testing.assert_close(spread_penalty(w + 3, l + 3, size), spread_penalty(w, l, size))
    assert spread_penalty(w, l).item() == pytest.approx(((w + l) / 2).var().item())
    same = torch.full((6,), 1.5)
    assert spread_penalty(same, same).item() == 0 and level_penalty(same, same).item() == 13.5


def test_expectations_and_noise_of_both_terms():
    """E[level] = G mu^2, E[spread] = Var(s); for normal s and mu = 0 the relative standard error of
    bsr_penalty is sqrt(2), of spread_penalty sqrt(2 / (G - 1)): the same lambda pushes with far
    less noise."""
    size, draws, mu, between = 16, 20_000, 0.7, 1.3
    w, l = groups_of_pairs(draws, size, mu, between).flatten(0, 1).unbind(-1)
    assert level_penalty(w, l, size).item() == pytest.approx(size * mu**2, rel=0.03)
    assert spread_penalty(w, l, size).item() == pytest.approx(between**2, rel=0.02)
    statistics = group_statistics(groups_of_pairs(draws, size, 0.0, between))  # (draws, 4)
    relative = statistics.std(0) / statistics.mean(0)
    assert relative[0].item() == pytest.approx(2**0.5, rel=0.05)
    assert relative[1].item() == pytest.approx((2 / (size - 1)) ** 0.5, rel=0.05)


# objective: what it weighs in expectation, of G mu^2, Var(s), E[s^2] and E[m^2] / 4
TABLE = {"bt": (0, 0, 0, 0), "bsr": (1, 1, 0, 0), "spread": (0, 1, 0, 0), "level": (1, 0, 0, 0),
         "centering": (0, 0, 4, 0), "l2": (0, 0, 1, 1)}


@pytest.mark.parametrize("kind", TABLE)
def test_the_familys_table_of_weights_by_simulation(kind):
    size, mu, between, margin, weight = 8, 0.7, 1.3, 0.4, 0.1
    groups = groups_of_pairs(6000, size, mu, between, margin)
    moments = (size * mu**2, between**2, mu**2 + between**2, (margin**2 + 0.9**2) / 4)
    expected = weight * sum(a * b for a, b in zip(TABLE[kind], moments, strict=True))
    options = {losses.PARAMETERS[kind]: weight} if losses.PARAMETERS[kind] else {}
    added = torch.stack([preference_loss(kind, *group.unbind(1), **options)
                         - losses.bt_loss(*group.unbind(1)) for group in groups[:500]])
    worlds = group_statistics(groups) @ torch.tensor(family(kind, weight), dtype=torch.float64)
    torch.testing.assert_close(added, worlds[:500])  # the worlds compute the same objectives
    assert worlds.mean().item() == pytest.approx(expected, rel=0.05, abs=1e-12)


def test_an_offset_that_learns_turns_bsr_into_spread():
    """G (mean - b)^2 with b a bias of the head that BT cannot see: b finds mu, and what is left is
    the spread alone, at BSR's noise."""
    size, groups = 16, groups_of_pairs(4000, 16, mu=2.0)
    b, late = torch.zeros((), dtype=torch.float64, requires_grad=True), []
    optimizer = torch.optim.SGD([b], lr=1e-3)
    for i, group in enumerate(groups):
        penalty = bsr_penalty(*(group - b).unbind(1))
        optimizer.zero_grad()
        penalty.backward()
        optimizer.step()
        late += [penalty.item()] if i >= 1000 else []
    assert b.item() == pytest.approx(2.0, abs=0.15)
    assert sum(late) / len(late) == pytest.approx(1.3**2, rel=0.12)
    assert sum(late) / len(late) < 0.1 * size * 2.0**2  # what BSR would go on to charge


def test_l2_is_the_pair_mean_squared_plus_a_quarter_of_the_margin_squared():
    w, l = torch.randn(2, 50, dtype=torch.float64)
    expected = (((w + l) / 2).square() + (w - l).square() / 4).mean()
    torch.testing.assert_close(losses.l2_penalty(w, l), expected)
    w.requires_grad_()
    losses.l2_penalty(w, l).backward()  # unlike BSR's: proportional to each reward itself
    torch.testing.assert_close(w.grad, w.detach() / 50)


def test_centering_is_four_times_the_same_two_terms():
    w, l = random_rewards(20)
    s = (w + l) / 2
    expected = 4 * (s.mean() ** 2 + s.var(correction=0))
    torch.testing.assert_close(losses.centering_penalty(w, l), expected)


@given(st.integers(1, 30), st.integers(1, 8), st.lists(st.integers(1, 7), max_size=8),
       st.randoms())
@settings(max_examples=60, deadline=None)
def test_shares_of_any_cut_sum_to_the_penalty_and_its_gradient(pairs, size, cuts, rng):
    w, l = (x.clone().requires_grad_() for x in random_rewards(pairs))
    whole = bsr_penalty(w, l, size)
    expected = torch.autograd.grad(whole, (w, l))
    means = group_means(w.detach(), l.detach(), size)
    order, parts = list(range(pairs)), []
    rng.shuffle(order)  # micro-batches are sorted by length: any pair may land in any part
    for cut in [*cuts, pairs]:
        parts, order = [*parts, order[:cut]], order[cut:]
    total = sum(bsr_penalty_share(w[p], l[p], means[p], -(-pairs // size)) for p in parts)
    torch.testing.assert_close(total, whole)
    for a, b in zip(torch.autograd.grad(total, (w, l)), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_naive_accumulation_is_another_loss():
    w, l = random_rewards(16)
    naive = (bsr_penalty(w[:4], l[:4]) + 3 * bsr_penalty(w[4:], l[4:])) / 4
    assert abs(naive - bsr_penalty(w, l)) > 0.1 * bsr_penalty(w, l)


def test_ragged_last_group():
    w, l = random_rewards(5)
    s = (w + l) / 2
    expected = (2 * s[:2].mean() ** 2 + 2 * s[2:4].mean() ** 2 + s[4] ** 2) / 3
    torch.testing.assert_close(bsr_penalty(w, l, 2), expected)


@pytest.mark.parametrize(("kind", "parameters", "message"), [
    ("bradley", {}, "unknown loss 'bradley'; choose one of bt"),
    ("bt", {"bsr_lambda": 1e-3}, "bsr_lambda has no effect on loss 'bt'"),
    ("bsr", {}, "'bsr' needs bsr_lambda"),
    ("bsr", {"bsr_lambda": -1.0}, "needs bsr_lambda >= 0"),
    ("bsr", {"bsr_lambda": 0.1, "centering_coefficient": 0.1}, "centering_coefficient has no"),
    ("hinge", {"target_margin": math.nan}, "needs target_margin"),
    ("centering", {"centering_coefficient": 0.1, "bsr_group_size": 4}, "bsr_group_size has no"),
    ("bsr", {"bsr_lambda": 0.1, "bsr_group_size": 0}, "at least 1 pair"),
])
def test_impossible_combinations_are_rejected(kind, parameters, message):
    with pytest.raises(ValueError, match=message):
        preference_loss(kind, torch.ones(2), torch.zeros(2), **parameters)
