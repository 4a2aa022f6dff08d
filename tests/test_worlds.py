"""The small worlds: what they draw, that theory is theirs, and that the effects are there."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from bsr_lite.losses import preference_loss
from bsr_lite.studies import worlds
from bsr_lite.studies.worlds import (
    GROUP,
    OBJECTIVES,
    SIGNAL,
    WORLDS,
    draw,
    family,
    forward,
    gold_direction,
    new_models,
    penalty_matrix,
    shrink_factors,
    summarize,
    train,
)

FEW = {name: OBJECTIVES[name] for name in ("bt", "bsr-1e-2", "spread-1e-1", "level-1e-2")}


def new_sources(name, seeds=8, objectives=FEW):
    seen = train(WORLDS[name], objectives, seeds, looks=1)
    found = summarize(seen, list(objectives))
    return found, {method: row["difference"]["response_disjoint"]
                   for method, row in found["objectives"].items()}


def test_a_world_is_what_it_says():
    world = dataclasses.replace(WORLDS["mean on the signal"], pairs=4000)
    pairs, sets = draw(world, 2)
    assert pairs.shape == (2, 4000, 2, 40) and sets["mutual_disjoint"].shape == (2, 300, 4, 40)
    within = (pairs[:, :, 0] - pairs[:, :, 1]).std((0, 1)) / 2**0.5
    assert within[:SIGNAL].mean().item() == pytest.approx(1.0, rel=0.05)
    assert within[SIGNAL:].mean().item() == pytest.approx(0.2, rel=0.05)
    new = (sets["response_disjoint"] - sets["response_disjoint"].mean(2, keepdim=True)).std()
    assert new.item() == pytest.approx((3 / 4) ** 0.5, rel=0.05)  # of four about their mean
    along = (pairs @ gold_direction() / 2).mean().item()
    assert along == pytest.approx(3.0, abs=0.1)
    margin = (pairs @ gold_direction()).diff(dim=-1)[..., 0].neg()
    right = (margin > 0).float().mean().item()
    assert 0.7 < right < 0.9  # labels are noisy
    clean, same = draw(dataclasses.replace(world, clean=True), 2)
    assert ((clean @ gold_direction()).diff(dim=-1) <= 0).all()
    assert clean.sum(2).equal(pairs.sum(2)) and all(same[s].equal(sets[s]) for s in sets)


def test_a_model_of_the_stack_is_the_model_alone_under_the_librarys_loss():
    """Ours are stacked for speed: one of them, trained by preference_loss, is the same."""
    world = dataclasses.replace(WORLDS["helps"], pairs=64)
    pairs, _ = draw(world, 2)
    for place, (kind, weight) in enumerate(FEW.values()):
        stacked, alone = new_models(2, len(FEW)), new_models(2, 1)
        _, r = forward(stacked, pairs[:, :GROUP], world.norm)
        weights = torch.tensor([family(*o) for o in FEW.values()])
        loss = -torch.nn.functional.logsigmoid(r[..., 0] - r[..., 1]).mean(-1)
        (loss + (worlds.group_statistics(r) * weights).sum(-1)).sum().backward()
        options = {"bsr_lambda": weight} if kind != "bt" else {}
        ours = forward(alone, pairs[:, :GROUP], world.norm)[1][1, 0]
        preference_loss(kind, *ours.unbind(1), **options).backward()
        for name, x in alone.items():
            torch.testing.assert_close(stacked[name].grad[1, place], x.grad[1, 0],
                                       rtol=1e-4, atol=1e-6)


def test_the_level_of_more_pairs_has_the_same_expectation_and_less_noise():
    torch.manual_seed(0)
    rewards = 0.3 + torch.randn(4000, 128, 2) * torch.tensor([1.0, 2.0])
    few, more = (worlds.group_statistics(rewards[:, :GROUP], other)[:, 0]
                 for other in (None, rewards))
    known = GROUP * 0.3**2 + (1 + 4) / 4  # G mu^2 + Var(s)
    assert few.mean().item() == pytest.approx(known, rel=0.1)
    assert more.mean().item() == pytest.approx(known, rel=0.05)
    assert more.std() < 0.7 * few.std()
    rest = [worlds.group_statistics(rewards[:, :GROUP], other)[:, 1:] for other in (None, rewards)]
    assert rest[0].equal(rest[1])


def test_the_penalty_matrix_is_the_expectation():
    generator = np.random.default_rng(0)
    mean, delta_std = generator.normal(size=4), 0.7
    middle = mean + generator.normal(size=(400_000, 4)) * [1, 2, 0.5, 1]
    delta = generator.normal(size=(400_000, 4)) * delta_std
    w = generator.normal(size=4)
    r = torch.from_numpy(np.stack([(middle + delta / 2) @ w, (middle - delta / 2) @ w], -1))
    q_parts = mean, np.diag([1, 4, 0.25, 1]), np.eye(4) * delta_std**2
    for kind in ("bsr", "spread", "level", "centering", "l2"):
        weights = family(kind, 0.1)
        groups = worlds.group_statistics(r.unflatten(0, (-1, GROUP)))
        found = (groups @ torch.tensor(weights, dtype=torch.float64)).mean().item()
        assert w @ penalty_matrix(weights, *q_parts, GROUP) @ w == pytest.approx(found, rel=0.05)


def test_theory_foretells_exact_fits_where_labels_stay_as_uncertain():
    """Signal and nuisance of four worlds; the formula holds while p (1 - p) is what it was, so
    that strong penalties come out a third too large at most."""
    for name in ("helps", "mean on the signal", "neutral", "hurts"):
        for method, _, predicted, fitted in shrink_factors(WORLDS[name], worlds.FITTED, 0):
            if predicted > 0.1:
                assert 0.7 < fitted / predicted < 1.25, (name, method)
    rows = {row[:2]: row[3] for row in shrink_factors(WORLDS["helps"], worlds.FITTED, 0)}
    assert rows["bsr-1e-3", "nuisance"] < 0.4 < 0.9 < rows["bsr-1e-3", "signal"]
    assert rows["level-1e-2", "signal"] > 0.95
    turned = {row[:2]: row[3] for row in shrink_factors(WORLDS["mean on the signal"], FEW, 0)}
    assert turned["level-1e-2", "signal"] < 0.3 < 0.4 < turned["spread-1e-1", "signal"]


@pytest.mark.slow
def test_norms_disperse_and_the_spread_term_alone_helps():
    found, difference = new_sources("helps")
    course = found["course"]
    assert course["difference"][-1][0] > 1.4 * course["difference"][0][0]
    assert course["norm_cv"][-1][0] > 1.4 * course["norm_cv"][0][0]
    assert course["head"][-1][0] == pytest.approx(course["head"][0][0], rel=0.02)
    start, end = map(np.array, found["both_ends"])
    skew = [((x - x.mean()) ** 3).mean() / x.std() ** 3 for x in (start, end)]
    assert skew[1] > skew[0] + 0.3  # a right tail
    bt = found["objectives"]["bt"]["score"]
    assert bt["prompt_disjoint"] > bt["response_disjoint"] + 0.08
    for method in ("bsr-1e-2", "spread-1e-1"):
        mean, half = difference[method]
        assert mean - half > 0, method
    assert sum(difference["level-1e-2"]) < 0 and difference["bt"][0] == 0


@pytest.mark.slow
def test_where_the_mean_state_is_on_the_signal_the_level_term_costs():
    _, difference = new_sources("mean on the signal")
    assert sum(difference["bsr-1e-2"]) < 0 and sum(difference["level-1e-2"]) < 0
    mean, half = difference["spread-1e-1"]
    assert mean - half > 0


@pytest.mark.slow
def test_what_the_level_term_costs_is_the_noise_of_a_batch_and_a_slow_bias():
    """Its level from 256 pairs and a last bias that learns fast: BSR is its spread term alone."""
    objectives = {name: OBJECTIVES[name] for name in ("bt", "bsr-1e-2", "spread-1e-2")}

    def cost(**changes):
        world = dataclasses.replace(WORLDS["mean on the signal"], **changes)
        (cost,) = summarize(train(world, objectives, 8, looks=1), list(objectives))[
            "level_term"].values()
        return cost["response_disjoint"]

    quiet, fast = {"level_pairs": 256}, {"bias_rate": 2e-2}
    plain, without_noise, with_bias = cost(), cost(**quiet), cost(**fast)
    for some in (without_noise, with_bias):
        assert sum(plain) < some[0] and sum(some) < 0, "either alone takes a part away"
    mean, half = cost(**quiet, **fast)
    assert abs(mean) < half or abs(mean) < 0.02


@pytest.mark.slow
def test_where_prompts_differ_along_the_signal_every_penalty_costs():
    _, difference = new_sources("hurts")
    assert all(sum(difference[name]) < 0 for name in ("bsr-1e-2", "spread-1e-1"))
    assert difference["level-1e-2"][0] < 0


def test_slopes_are_those_of_the_network():
    """Where tanh is all but linear, r = x . slopes, whatever the mean of x."""
    world = dataclasses.replace(WORLDS["mean on the signal"], pairs=64)
    pairs, sets = draw(world, 2)
    models = {name: x.detach().clone() for name, x in new_models(2, 3).items()}
    models["w1"] *= 1e-3
    models["w"][:, 1] *= 5  # one network of three
    known = (models["w1"] @ models["w2"] @ models["w"])[..., 0].mT  # (S, D, M)
    torch.testing.assert_close(worlds.look(models, world, pairs, sets)["slopes"], known,
                               rtol=1e-3, atol=1e-6)


def test_the_command_writes_tables_and_figures(tmp_path, monkeypatch, capsys):
    small = {name: dataclasses.replace(world, pairs=64, steps=8 if world.steps > 200 else 200)
             for name, world in WORLDS.items()}
    monkeypatch.setattr(worlds, "WORLDS", small)
    worlds.main(["--output", str(tmp_path / "worlds"), "--seeds", "4"])
    names = {path.name for path in (tmp_path / "worlds").iterdir()}
    assert names == {"results.md", "results.json", "results.png", "theory.png", "env.json"}
    found = json.loads((tmp_path / "worlds/results.json").read_text())
    assert list(found["worlds"]) == list(WORLDS)
    (name, rows), = found["worlds"]["helps"]["level_term"].items()
    assert name == "bsr-1e-2 minus spread-1e-2"
    bsr, spread = (found["worlds"]["helps"]["objectives"][n]["difference"]["in_domain"][0]
                   for n in name.split(" minus "))
    assert rows["in_domain"][0] == pytest.approx(bsr - spread, abs=1e-6)
    out = capsys.readouterr().out
    assert "results.md" in out and "results.png" in out and "|" not in out  # the table is in a file
    assert out.splitlines()[-3].startswith("Trained: networks in the world `helps` by bt, bsr-1e-3")
    text = (tmp_path / "worlds/results.md").read_text()
    assert "Tau on new sources" in text and name in text
