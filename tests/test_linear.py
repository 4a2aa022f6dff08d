"""Linear heads: the exact fits are exact, the theory is right where its assumptions hold."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bsr_lite.config import parse
from bsr_lite.errors import TrainingError
from bsr_lite.metrics import agreement
from bsr_lite.studies import linear
from bsr_lite.studies.linear import (
    LinearConfig,
    bootstrap_difference,
    difference_moment,
    drawn_pairs,
    fitted,
    gold_direction,
)
from bsr_lite.studies.quadratic import family, fit, moments, penalty_matrix
from bsr_lite.studies.records import read_table
from bsr_lite.studies.tables import foretold, linear_text

ROOT = Path(__file__).parents[1]
SIGNAL, NUISANCE = 4, 8


def settings(**changes) -> LinearConfig:
    return parse({"base": "b.yaml", "output_dir": "o", "ridge": 1e-3, "lambdas": [0.1],
                  "worlds": ["plain"], "seeds": 8} | changes, LinearConfig, "test")


def world(seed: int, pairs: int = 3000, nuisance: float = 3.0) -> dict:
    """Features of normal states: gold is linear in the signal, prompts differ along the nuisance,
    which training's answers hardly do and those of `response_disjoint` do."""
    rng = np.random.default_rng(seed)
    across = np.array([0.5] * SIGNAL + [nuisance] * NUISANCE)
    within = {"train": [1.0] * SIGNAL + [0.2] * NUISANCE, "new": [1.0] * (SIGNAL + NUISANCE)}
    direction = np.array([1.0] * SIGNAL + [0.0] * NUISANCE)
    noise = 0.5  # of gold, which no state foretells

    def answers(prompts: int, k: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
        x = rng.normal(size=(prompts, 1, len(across))) * across
        x = x + rng.normal(size=(prompts, k, len(across))) * within[kind] + 2.0
        return x, x @ direction + noise * rng.normal(size=(prompts, k))

    x, gold = answers(pairs, 2, "train")
    right = rng.random(pairs) < 1 / (1 + np.exp(gold[:, 1] - gold[:, 0]))
    x = np.where(right[:, None, None], x, x[:, ::-1])
    found = {"train": {"hidden": torch.from_numpy(x), "topics": None}}
    for name, k, kind in (("in_domain", 2, "train"), ("prompt_disjoint", 4, "train"),
                          ("response_disjoint", 4, "new")):
        x, gold = answers(1000, k, kind)
        found[name] = {"hidden": torch.from_numpy(x), "gold": torch.from_numpy(gold)}
    return found


def test_a_fit_is_where_the_gradient_vanishes():
    rng = np.random.default_rng(0)
    delta, root = rng.normal(size=(200, 5)) + 0.3, rng.normal(size=(5, 5))
    penalty = root @ root.T / 50
    w = torch.tensor(fit(delta, penalty, np.zeros(5)), requires_grad=True)
    loss = (-torch.nn.functional.logsigmoid(torch.from_numpy(delta) @ w).mean()
            + w @ torch.from_numpy(penalty) @ w)
    loss.backward()
    assert w.grad.abs().max() < 1e-8 and w.abs().max() > 0.1


def test_the_penalty_of_a_fit_is_the_librarys():
    """w' Q w, from moments of a sample, is the mean over groups of the library's own penalty."""
    from bsr_lite.losses import preference_loss
    rng, group = np.random.default_rng(1), 16
    pairs = rng.normal([0.5, 0.0, -0.2], size=(40_000, 2, 3))
    w, known = np.array([0.7, -0.4, 0.2]), moments(pairs)
    rewards = torch.from_numpy(pairs @ w)
    bt = preference_loss("bt", rewards[:, 0], rewards[:, 1])
    for kind, parameter in (("bsr", "bsr_lambda"), ("spread", "bsr_lambda"),
                            ("level", "bsr_lambda"),
                            ("centering", "centering_coefficient"), ("l2", "l2_coefficient")):
        options = {parameter: 0.3} | ({"bsr_group_size": group} if "bsr" in parameter else {})
        loss = preference_loss(kind, rewards[:, 0], rewards[:, 1], **options)
        q = penalty_matrix(family(kind, 0.3), *known, group)
        assert w @ q @ w == pytest.approx((loss - bt).item(), rel=0.05)


def test_golds_direction_gives_nothing_to_what_gold_ignores():
    found = world(0)["in_domain"]
    w, free = gold_direction(found["hidden"].numpy(), found["gold"].numpy())
    assert w == pytest.approx([1.0] * SIGNAL + [0.0] * NUISANCE, abs=0.05)
    assert free == pytest.approx(1 - (SIGNAL + NUISANCE) / 2000, abs=1e-3)


def test_second_moment_of_differences_is_that_of_all_pairs_of_answers():
    x = np.random.default_rng(2).normal(size=(7, 3, 2))
    pairs = [x[:, i] - x[:, j] for i in range(3) for j in range(3) if i != j]
    expected = sum(d.T @ d for d in pairs) / (7 * len(pairs))
    assert difference_moment(x) == pytest.approx(expected)


@pytest.mark.parametrize("nuisance", [3.0, 0.0], ids=["helps", "costs"])
def test_theory_foretells_scores_and_differences_of_a_normal_world(nuisance):
    """The mean of six worlds against the mean of six predictions, both signs of the effect."""
    config = settings(seeds=2, lambdas=[0.01, 0.1], ridge=1e-2)
    seen, theory = {}, {}
    for seed in range(6):
        features = world(seed, nuisance=nuisance)
        told = linear.predicted(features, config, 16, 1.0)
        for name, heads in fitted(features, config, 16).items():
            for part in ("prompt_disjoint", "response_disjoint"):
                x, gold = (features[part][key].numpy() for key in ("hidden", "gold"))
                rewards = np.einsum("pkh,sh->spk", x, heads[:1])  # fitted to all pairs
                score = agreement(rewards, np.broadcast_to(gold, rewards.shape))[1].mean()
                seen.setdefault((name, part), []).append(score)
                theory.setdefault((name, part), []).append(told[name][part])
    for key, scores in seen.items():
        assert np.mean(theory[key]) == pytest.approx(np.mean(scores), abs=0.03), key

    def change(values: dict, name: str, part: str) -> float:
        return np.mean(values[name, part]) - np.mean(values["bt", part])

    for name in ("spread-0.1", "bsr-0.1", "level-0.1", "l2-0.1"):
        fit_, told = (change(v, name, "response_disjoint") for v in (seen, theory))
        assert told == pytest.approx(fit_, abs=0.03), name
    spread, level = (change(seen, f"{kind}-0.1", "response_disjoint") for kind in (
        "spread", "level"))
    assert spread > 0.01 if nuisance else spread < -0.02
    assert level < -0.1  # the mean state lies on the signal


def test_the_table_counts_foretold_signs():
    cells = {"score": 0.4, "predicted_score": 0.5, "difference": (0.0, 0.0, 0.0), "predicted": 0.0}
    results = {"plain": {"bt": {"in_domain": cells}} | {
        f"bsr-{i}": {"in_domain": cells | {"difference": (d, d - 0.01, d + 0.01), "predicted": p}}
        for i, (d, p) in enumerate([(0.1, 0.2), (0.2, 0.3), (-0.1, 0.1), (0.005, -0.1)])}}
    assert len(foretold(results)["plain"]) == 4
    text = linear_text(results)
    assert "| plain | in_domain | 0.400 | 0.500 | 0.80 | 2 of 3 | 0 of 4 |" in text
    assert "+0.100 (+0.090 to +0.110) [+0.200]" in text


def test_pairs_that_a_line_separates_need_a_ridge():
    delta = np.array([[1.0, 0.0], [2.0, 1.0]])
    with pytest.raises(TrainingError, match="need a ridge"):
        fit(delta, np.zeros((2, 2)))
    assert np.isfinite(fit(delta, 1e-6 * np.eye(2))).all()


def test_a_bootstrap_draw_takes_whole_topics():
    pairs = np.arange(12.0).reshape(6, 2, 1)
    drawn = drawn_pairs(pairs, ["a", "a", "b", "b", "b", "c"], seed=0)
    counts = {value: int((drawn[:, 0, 0] == value).sum()) for value in pairs[:, 0, 0]}
    assert counts[0] == counts[2] and counts[4] == counts[6] == counts[8]
    assert counts[0] + counts[4] + counts[10] == 3 and set(counts.values()) != {1}
    assert len(drawn_pairs(pairs, None, seed=0)) == 6


def test_more_draws_do_not_narrow_the_interval():
    """Draws of the same pairs tell how far off they are, not less so the more are drawn."""
    rng = np.random.default_rng(0)
    sets = 0.3 * rng.normal(size=400)
    few, many = (bootstrap_difference(sets + 0.1 * rng.normal(size=(1 + draws, 1)), None)
                 for draws in (100, 400))
    for mean, low, high in (few, many):
        assert mean == pytest.approx((low + high) / 2)
        assert (high - low) / 2 == pytest.approx(1.97 * (0.1**2 + 0.3**2 / 400) ** 0.5, rel=0.2)


@pytest.mark.parametrize(("name", "ridge"), [("linear", 1e-2), ("linear_weak_ridge", 1e-3)])
def test_the_record_is_read_back(monkeypatch, tmp_path, capsys, name, ridge):
    monkeypatch.chdir(ROOT)
    table = linear.run_linear(Path("bsr_lite/configs/linear.yaml"), [
        f"output_dir={tmp_path / name}", f"ridge={ridge}"], resume=True)
    assert f"data/runs/{name}: finished before, read back" in capsys.readouterr().out
    recorded = ROOT / "data/runs" / name
    assert table == read_table(recorded)
    assert (tmp_path / name / "results.md").read_text() == (recorded / "results.md").read_text()
