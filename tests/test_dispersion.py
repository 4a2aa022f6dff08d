import math

import pytest
import torch

from bsr_lite.dispersion import (
    effective_rank,
    norm_share,
    norm_statistics,
    pair_mean_statistics,
    reward_decomposition,
    reward_variances,
)


def test_factors_multiply_to_reward_and_margin():
    hidden, head = torch.randn(2, 7, 5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    p = reward_decomposition(hidden[0], head)
    torch.testing.assert_close(p["head_norm"] * p["hidden_norm"] * p["cosine"], hidden[0] @ head)
    d = reward_decomposition(hidden[0] - hidden[1], head)
    torch.testing.assert_close(d["head_norm"] * d["hidden_norm"] * d["cosine"],
                               (hidden[0] - hidden[1]) @ head)


def test_zero_hidden_state_has_zero_cosine():
    assert reward_decomposition(torch.zeros(1, 3), torch.ones(3))["cosine"].item() == 0


def test_norm_statistics_of_a_known_law():
    x = torch.distributions.Exponential(2.0).sample((400_000,))
    stats = norm_statistics(x)
    assert stats["mean"] == pytest.approx(0.5, rel=0.02)
    assert stats["cv"] == pytest.approx(1.0, rel=0.02)
    assert stats["skew"] == pytest.approx(2.0, rel=0.1)  # of every exponential law
    assert stats["quantiles"] == pytest.approx(
        [-math.log(1 - q) / 2 for q in (0.05, 0.25, 0.5, 0.75, 0.95)], rel=0.05)
    assert norm_statistics(torch.ones(3)) == {"mean": 1.0, "std": 0.0, "cv": 0.0, "skew": 0.0,
                                              "quantiles": [1.0] * 5}
    with pytest.raises(ValueError, match="at least one"):
        norm_statistics(torch.zeros(0))


def test_length_and_angle_add_up_to_the_difference():
    chosen, rejected = torch.randn(2, 50, 8, dtype=torch.float64)
    a, b = chosen.norm(dim=1), rejected.norm(dim=1)
    cosine = torch.cosine_similarity(chosen, rejected, dim=1)
    angle = (2 * a * b * (1 - cosine)).sum() / (chosen - rejected).square().sum()
    assert norm_share(chosen, rejected) == pytest.approx(1 - angle.item())
    assert norm_share(chosen, chosen) == 0


def test_variances_add_up_to_the_pooled_variance():
    r = torch.randn(9, 4, dtype=torch.float64)
    parts = reward_variances(r)
    assert sum(parts.values()) == pytest.approx(r.var(correction=0).item())
    shifted = reward_variances(r + torch.arange(9.0)[:, None])
    assert shifted["within_prompts"] == pytest.approx(parts["within_prompts"])
    assert shifted["between_prompts"] > parts["between_prompts"]
    stats = pair_mean_statistics(r[:, 0], r[:, 1])
    assert stats["variance"] == pytest.approx(r[:, :2].mean(1).var(correction=0).item())


@pytest.mark.parametrize("spectrum", [[1.0], [1.0, 1.0, 1.0, 1.0], [4.0, 2.0, 1.0, 1.0]])
def test_effective_rank_of_a_known_spectrum(spectrum):
    g = torch.Generator().manual_seed(0)
    u = torch.linalg.qr(torch.randn(20, 20, dtype=torch.float64, generator=g)).Q
    v = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=g)).Q
    n = len(spectrum)
    matrix = u[:, :n] @ torch.diag(torch.tensor(spectrum, dtype=torch.float64)) @ v[:, :n].T
    p = [s / sum(spectrum) for s in spectrum]
    expected = math.exp(-sum(q * math.log(q) for q in p))
    assert effective_rank(matrix) == pytest.approx(expected, rel=1e-6)


def test_effective_rank_of_zero_and_of_centred_rows():
    assert effective_rank(torch.zeros(4, 3)) == 0
    rows = torch.ones(5, 3) * 7 + torch.eye(5, 3) * 1e-3
    assert effective_rank(rows) == pytest.approx(1, abs=0.02)
    assert effective_rank(rows, center=True) > 2
