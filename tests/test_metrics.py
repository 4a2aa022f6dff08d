import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bsr_lite.metrics import (
    agreement,
    bootstrap_interval,
    kendall_tau_b,
    seed_interval,
    t_quantile,
)
from bsr_lite.studies.leaderboards import rm_bench_scores
from bsr_lite.studies.statistics import (
    best_of_n,
    best_of_n_kl,
    length_controlled_win_rate,
    two_way_interval,
)


def direct_tau(x, y):
    """The textbook definition, pair by pair."""
    pairs = list(itertools.combinations(range(len(x)), 2))
    sign = [np.sign(x[i] - x[j]) * np.sign(y[i] - y[j]) for i, j in pairs]
    n_x, n_y = (sum(v[i] != v[j] for i, j in pairs) for v in (x, y))
    return sum(sign) / math.sqrt(n_x * n_y) if n_x * n_y else 0.0


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=9))
@settings(max_examples=200, deadline=None)
def test_tau_equals_the_definition_with_ties(rows):
    x, y = zip(*rows, strict=True)
    assert kendall_tau_b(x, y).item() == pytest.approx(direct_tau(x, y))


def test_tau_b_of_a_published_example():
    """Ties in both: scipy.stats.kendalltau([12,2,1,12,2], [1,4,7,1,0]) documents -0.4714."""
    assert kendall_tau_b([12, 2, 1, 12, 2], [1, 4, 7, 1, 0]).item() == pytest.approx(-0.47140452)


def test_constant_predictions_score_zero_and_are_kept():
    rewards = np.array([[1.0, 1, 1, 1], [1, 2, 3, 4]])
    gold = np.array([[1.0, 2, 3, 4], [1, 2, 3, 4]])
    assert kendall_tau_b(rewards, gold).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_scores_are_an_error(bad):
    with pytest.raises(ValueError, match="1 of 2 scores"):
        kendall_tau_b([bad, 1.0], [1.0, 2.0])


def test_ties_are_errors_for_accuracy():
    rewards = np.array([[1.0, 1], [2, 1], [3, 1], [0, 1]])
    metric, right = agreement(rewards, np.array([[1.0, 0]] * 4))
    assert metric == "accuracy" and right.tolist() == [0, 1, 1, 0]


def test_seed_interval_covers_at_its_level():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(4000):
        mean, half = seed_interval(rng.normal(3, 1, 4))
        hits += abs(mean - 3) <= half
    assert hits / 4000 == pytest.approx(0.95, abs=0.015)
    assert seed_interval([0.5]) == (0.5, math.inf)


def test_bootstrap_interval_is_paired_over_seeds_and_covers():
    rng = np.random.default_rng(1)
    hits = 0
    for i in range(300):
        x = rng.normal(0.2, 1, 80)
        _, low, high = bootstrap_interval(x, draws=400, seed=i)
        hits += low <= 0.2 <= high
    assert hits / 300 == pytest.approx(0.94, abs=0.04)
    prompts = rng.normal(0, 1, 100)
    one = bootstrap_interval(prompts)
    assert bootstrap_interval(np.stack([prompts + 1, prompts - 1])) == pytest.approx(one)


@pytest.mark.parametrize("seeds", [3, 12])
def test_two_way_interval_covers_with_both_kinds_of_noise(seeds):
    """Seeds and prompts both shift the truth 0; an interval over prompts alone misses it often."""
    rng, hit, narrow, errors = np.random.default_rng(0), 0, 0, []
    for trial in range(400):
        values = (0.3 * rng.normal(size=(seeds, 1)) + 0.5 * rng.normal(size=(1, 40))
                  + rng.normal(size=(seeds, 40)))
        _, low, high, error = two_way_interval(values)
        hit += low <= 0 <= high
        errors.append(error**2)
        _, low, high = bootstrap_interval(values, draws=200, seed=trial)
        narrow += low <= 0 <= high
    assert 367 <= hit <= 396 and narrow < hit - 20  # 95% of 400 is 380, sd 4.4
    truth = 0.3**2 / seeds + 0.5**2 / 40 + 1 / (40 * seeds)
    assert np.mean(errors) == pytest.approx(truth, rel=0.2)


@pytest.mark.parametrize("seeds", [3, 4])
def test_two_way_interval_is_not_wider_than_the_seeds_alone_ask_for(seeds):
    """Where little but seeds differ: their degrees of freedom, and still 95%."""
    rng, hit = np.random.default_rng(1), 0
    for _ in range(1500):
        values = (0.3 * rng.normal(size=(seeds, 1)) + 0.1 * rng.normal(size=(1, 60))
                  + rng.normal(size=(seeds, 60)))
        _, low, high, error = two_way_interval(values)
        assert high - low <= 2 * t_quantile(seeds - 1) * error + 1e-12
        hit += low <= 0 <= high
    assert 0.935 <= hit / 1500 <= 0.985


def test_two_way_interval_by_hand_and_of_nothing():
    """Without interaction the error is that of both margins, on one degree of freedom each."""
    mean, low, high, error = two_way_interval([[0.0, 2.0], [4.0, 6.0]])
    assert (mean, error) == (3.0, pytest.approx((16 + 4) ** 0.5 / 2))  # MS 16 and 4, S P = 4
    assert high - mean == mean - low == pytest.approx(12.706 * error)  # 20^2 / (256 + 16) = 1.47
    assert two_way_interval(np.zeros((2, 3))) == (0, 0, 0, 0)
    with pytest.raises(ValueError, match="needs two of each, got 1 and 3"):
        two_way_interval(np.zeros((1, 3)))


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), min_size=1, max_size=6),
       st.data())
@settings(max_examples=100, deadline=None)
def test_best_of_n_is_the_average_over_all_draws_and_tie_breaks(rows, data):
    proxy, gold = (np.array(v, dtype=float) for v in zip(*rows, strict=True))
    n = data.draw(st.integers(1, len(rows)))
    picked = []
    for draw in itertools.combinations(range(len(rows)), n):
        best = max(proxy[list(draw)])
        picked.append(np.mean([gold[i] for i in draw if proxy[i] == best]))
    assert best_of_n(proxy, gold, n).item() == pytest.approx(np.mean(picked))
    assert best_of_n(np.exp(proxy), gold, n) == pytest.approx(best_of_n(proxy, gold, n))


def test_best_of_n_ends_in_the_mean_and_in_the_best():
    rng = np.random.default_rng(0)
    proxy, gold = rng.normal(size=(2, 3, 64))
    assert best_of_n(proxy, gold, 1) == pytest.approx(gold.mean(-1))
    best = np.take_along_axis(gold, proxy.argmax(-1)[:, None], 1)[:, 0]
    assert best_of_n(proxy, gold, 64) == pytest.approx(best)
    for n in (0, 65):
        with pytest.raises(ValueError, match="from 1 to the 64 samples"):
            best_of_n(proxy, gold, n)


def test_best_of_n_kl_is_that_of_the_order_statistic():
    """Uniform answers ranked without ties: the winner has density n u^(n-1)."""
    u = (np.arange(200_000) + 0.5) / 200_000
    for n in (1, 2, 8, 64):
        log_density = np.log(n) + (n - 1) * np.log(u)
        expected = (np.exp(log_density) * log_density).mean()
        assert best_of_n_kl(n) == pytest.approx(expected, abs=1e-3)


def test_length_control_finds_the_win_rate_that_length_hides():
    """Wins drawn from a known model: quality alone wins 40%, length pushes the raw rate above."""
    rng = np.random.default_rng(0)
    base = rng.integers(20, 60, 20_000)
    lengths = base + rng.normal(30, 20, 20_000)
    d = lengths - base
    p = 1 / (1 + np.exp(-(np.log(0.4 / 0.6) + 1.5 * np.tanh(d / d.std()))))
    found = length_controlled_win_rate((rng.random(20_000) < p).astype(float), lengths, base)
    assert found["win_rate"] > 0.6
    assert found["length_controlled"] == pytest.approx(0.4, abs=0.02)
    assert found["length_effect"] == pytest.approx(1.5, abs=0.1)


def test_length_control_does_nothing_where_length_says_nothing():
    wins = np.array([1, 1, 1, 0.5, 0, 1, 0, 1])
    same = length_controlled_win_rate(wins, np.full(8, 30), np.full(8, 30))
    assert same["length_controlled"] == pytest.approx(wins.mean(), abs=0.01)
    separable = length_controlled_win_rate([1, 1, 0, 0], [9, 8, 1, 2], [5, 5, 5, 5])
    assert np.isfinite(separable["length_effect"]) and 0.4 < separable["length_controlled"] < 0.6
    longer = length_controlled_win_rate([1] * 90 + [0] * 10, [60] * 99 + [61], [30] * 100)
    assert longer["win_rate"] == 0.9 and math.isnan(longer["length_controlled"])
    with pytest.raises(ValueError, match="at least two prompts"):
        length_controlled_win_rate([1], [1], [1])


def test_rm_bench_on_a_matrix_with_known_answers():
    """Chosen concise loses to fancier rejected ones: hard is what suffers."""
    wins = np.array([[1.0, 0.0, 0.25], [1.0, 0.5, 0.5], [1.0, 1.0, 0.0]])
    chat = (0.25 + 0.5 + 1.0) / 3  # hard (0 + .25 + .5) / 3, normal 1.5 / 3, easy 3 / 3
    only = rm_bench_scores({"chat": wins})
    assert only == {"chat": pytest.approx(chat)}  # no overall of a part
    perfect, zero = np.ones((3, 3)), np.zeros((3, 3))
    full = rm_bench_scores({"chat": wins, "math": perfect, "code": zero,
                            "safety-refuse": perfect, "safety-response": zero})
    assert full["safety"] == 0.5 and full["math"] == 1 and full["code"] == 0
    assert full["hard"] == pytest.approx((0.25 + 1 + 0 + 0.5) / 4)
    assert full["normal"] == pytest.approx((0.5 + 1 + 0 + 0.5) / 4)
    assert full["easy"] == pytest.approx((1 + 1 + 0 + 0.5) / 4)
    assert full["overall"] == pytest.approx((chat + 1 + 0 + 0.5) / 4)
    assert full["overall"] == pytest.approx(np.mean([full[k] for k in ("hard", "normal", "easy")]))
    assert "safety" not in rm_bench_scores({"chat": wins, "safety-refuse": perfect})
    with pytest.raises(ValueError, match="unknown RM-Bench domains .'maths'"):
        rm_bench_scores({"maths": wins})
