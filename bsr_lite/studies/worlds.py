"""Small worlds in which all is known: norms disperse, new sources fall behind, and either term of
BSR's penalty shows what it does: python -m bsr_lite.studies.worlds

A state is x = a + b: a says which prompt, b which answer. Gold is linear in the first coordinates,
the signal; the others are nuisance. Labels are Bradley-Terry draws on gold (Eq. 3's model).
Ours, not the paper's; a minute on a laptop.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ..errors import ConfigError, run
from ..metrics import agreement, seed_interval
from ..runlog import check_folder, environment, phase, write_atomic
from .quadratic import family, fit, penalty_matrix
from .tables import in_words, worlds_text

SIGNAL, NUISANCE = 10, 30  # coordinates
GROUP = 32  # pairs of a batch, and of a group
WIDTH = 64  # hidden units
Deviations = tuple[float, float]  # of a signal and of a nuisance coordinate


@dataclasses.dataclass(frozen=True)
class World:
    """Standard deviations: `across` prompts, `within` a prompt between the answers of training's
    sources, `new` the same of new sources. level: how far the mean state lies along the gold
    direction. norm: a final RMSNorm without weights. clean: labels without noise. level_pairs: how
    many the level is estimated from, those of the batch or more; bias_rate: learning rate of the
    last layer's bias, which can pin the level at no cost."""

    across: Deviations
    within: Deviations
    new: Deviations
    level: float = 0.0
    norm: bool = False
    pairs: int = 6400
    steps: int = 200
    clean: bool = False
    level_pairs: int = GROUP
    bias_rate: float = 2e-3


HELPS = {"across": (0.5, 3.0), "within": (1.0, 0.2), "new": (1.0, 1.0)}
WORLDS = {"helps": World(**HELPS), "helps, RMSNorm": World(**HELPS, norm=True),
          "mean on the signal": World(**HELPS, level=3.0),
          "neutral": World((1.0, 1.0), (1.0, 1.0), (1.0, 1.0)),
          "hurts": World((3.0, 0.5), (0.5, 0.5), (0.5, 1.0)),
          "64 epochs": World(**HELPS, pairs=300, steps=600),
          "64 epochs, clean labels": World(**HELPS, pairs=300, steps=600, clean=True)}
OBJECTIVES = {"bt": ("bt", 0.0), "bsr-1e-3": ("bsr", 1e-3), "bsr-1e-2": ("bsr", 1e-2),
              "spread-1e-2": ("spread", 1e-2), "spread-1e-1": ("spread", 1e-1),
              "level-1e-2": ("level", 1e-2), "centering-1e-2": ("centering", 1e-2),
              "l2-1e-2": ("l2", 1e-2)}
FITTED = OBJECTIVES | {f"{kind}-{power}": (kind, float(power)) for kind in ("bsr", "spread")
                       for power in ("1e-4", "1e-3", "1e-2", "1e-1", "1")}
SETS = ("in_domain", "prompt_disjoint", "response_disjoint", "mutual_disjoint")


def group_statistics(rewards: Tensor, more: Tensor | None = None) -> Tensor:
    """What `family` weighs; with the rewards of `more` pairs, N of them, the first, G mean^2, by a
    quieter estimate that has the same expectation.
    Shapes: (..., G, 2), chosen first, and (..., N, 2) -> (..., 4)."""
    s, m = rewards.mean(-1), rewards[..., 0] - rewards[..., 1]  # (..., G)
    group, mean, spread = s.shape[-1], s.mean(-1), s.var(-1)
    squared_sum = group * mean**2
    if more is not None:
        share = group / more.shape[-2]  # of Var(s) in G mean^2 of N pairs
        squared_sum = group * more.mean((-1, -2)) ** 2 + (1 - share) * spread
    return torch.stack([squared_sum, spread, (s**2).mean(-1), (m**2).mean(-1) / 4], -1)


# ---- states --------------------------------------------------------------------------------------

def by_coordinate(deviations: Deviations) -> Tensor:
    signal, nuisance = deviations
    return torch.tensor([signal] * SIGNAL + [nuisance] * NUISANCE)


def gold_direction() -> Tensor:
    """Gold's weights: 2 in length, on the signal alone."""
    return by_coordinate((2 / SIGNAL**0.5, 0.0))


def draw(world: World, seeds: int, prompts: int = 300) -> tuple[Tensor, dict[str, Tensor]]:
    """Training pairs (S, pairs, 2, D), chosen first, and sets of answers (S, prompts, K, D):
    in-domain and response-disjoint ones are to prompts of training."""
    generator = torch.Generator().manual_seed(0)
    across, within, new = map(by_coordinate, (world.across, world.within, world.new))
    mean = world.level * gold_direction() / 2

    def normal(*shape: int) -> Tensor:
        return torch.randn(seeds, *shape, SIGNAL + NUISANCE, generator=generator)

    seen, unseen = (mean + normal(n, 1) * across for n in (world.pairs, prompts))  # (S, n, 1, D)
    pairs = seen + normal(world.pairs, 2) * within
    margin = (pairs @ gold_direction()).diff(dim=-1)[..., 0].neg()  # gold's, (S, pairs)
    chance = torch.rand(margin.shape, generator=generator)  # drawn for clean labels, too: all else
    right = margin > 0 if world.clean else chance < margin.sigmoid()  # is then the same
    pairs = torch.where(right[..., None, None], pairs, pairs.flip(2))
    few = seen[:, :prompts]
    return pairs, {"in_domain": few + normal(few.shape[1], 2) * within,
                   "prompt_disjoint": unseen + normal(prompts, 4) * within,
                   "response_disjoint": few + normal(few.shape[1], 4) * new,
                   "mutual_disjoint": unseen + normal(prompts, 4) * new}


# ---- a backbone that trains ----------------------------------------------------------------------

def new_models(seeds: int, objectives: int) -> dict[str, Tensor]:
    """S x M models h = W2 tanh(W1 x + b1) + b2, r = w . h (Eq. 2's head): the same start for every
    objective of a seed.  Shapes: (S, M, ...)."""
    generator, inputs = torch.Generator().manual_seed(1), SIGNAL + NUISANCE
    sizes = {"w1": (inputs, WIDTH, inputs), "w2": (WIDTH, WIDTH, WIDTH), "w": (WIDTH, 1, WIDTH + 1)}
    found = {name: torch.randn(seeds, 1, rows, columns, generator=generator) / variance**0.5
             for name, (rows, columns, variance) in sizes.items()}
    found |= {name: torch.zeros(seeds, 1, 1, WIDTH) for name in ("b1", "b2")}
    return {name: x.repeat(1, objectives, 1, 1).requires_grad_() for name, x in found.items()}


def forward(models: dict[str, Tensor], x: Tensor, norm: bool) -> tuple[Tensor, Tensor]:
    """Hidden states and rewards.  Shapes: x (S, P, K, D) -> (S, M, P K, WIDTH), (S, M, P, K)."""
    x, shape = x.flatten(1, 2)[:, None], x.shape[1:3]
    h = torch.tanh(x @ models["w1"] + models["b1"]) @ models["w2"] + models["b2"]
    h = torch.nn.functional.rms_norm(h, h.shape[-1:], eps=1e-6) if norm else h
    return h, (h @ models["w"])[..., 0].unflatten(-1, shape)


def length_cv(h: Tensor) -> Tensor:
    """Standard deviation over mean of |h|.  Shapes: (S, M, N, WIDTH) -> (S, M)."""
    return h.norm(dim=-1).std(-1) / h.norm(dim=-1).mean(-1)


@torch.no_grad()
def look(models: dict[str, Tensor], world: World, pairs: Tensor, sets: dict[str, Tensor]) -> dict:
    """Scores, norms and the level of rewards, (S, M) each; |h_w - h_l| of the first, (S, P);
    and the slopes of a linear regression of r on x, over the last set, (S, D, M)."""
    pairs = pairs[:, :300]
    h, r = forward(models, pairs, world.norm)
    difference = h.unflatten(2, (-1, 2)).diff(dim=3)[..., 0, :].norm(dim=-1)  # (S, M, P)
    row = {"train": (r[..., 0] > r[..., 1]).float().mean(-1), "norm_cv": length_cv(h),
           "difference": difference.mean(-1), "head": models["w"].norm(dim=2)[..., 0],
           "margin": -r.diff().mean((2, 3)), "level": r.mean((2, 3)), "spread": r.mean(-1).var(-1)}
    for name, x in sets.items():
        r = forward(models, x, world.norm)[1]
        gold = (x @ gold_direction())[:, None].expand_as(r).numpy()
        row[name] = torch.from_numpy(agreement(r.numpy(), gold)[1].mean(-1))
    slopes = torch.linalg.lstsq((x - x.mean((1, 2), True)).flatten(1, 2), r.flatten(2).mT)[0]
    return row | {"differences": difference[:, 0], "slopes": slopes}


def train(world: World, objectives: dict, seeds: int, looks: int = 8) -> dict[int, dict]:
    """{step: what is seen of the first objective, and at the end of all}: every objective on the
    same pairs in the same order, all at once. The head learns at a hundredth of the backbone's
    rate, so that it stays as in Fig. 1."""
    pairs, sets = draw(world, seeds)
    models = new_models(seeds, len(objectives))
    weights = torch.tensor([family(*objective) for objective in objectives.values()])  # (M, 4)
    rates = dict.fromkeys(models, 2e-3) | {"w": 2e-5, "b2": world.bias_rate}
    optimizer = torch.optim.Adam([{"params": [x], "lr": rates[name]} for name, x in models.items()])
    seen = {}
    for step in range(world.steps):
        if step % (world.steps // looks) == 0:
            seen[step] = look({name: x[:, :1] for name, x in models.items()}, world, pairs, sets)
        at = (torch.arange(world.level_pairs) + step * GROUP) % world.pairs
        _, r = forward(models, pairs[:, at], world.norm)  # (S, M, G or more, 2)
        r, more = r[:, :, :GROUP], r if world.level_pairs > GROUP else None
        loss = (-logsigmoid(r[..., 0] - r[..., 1]).mean(-1)
                + (group_statistics(r, more) * weights).sum(-1))
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
    return seen | {world.steps: look(models, world, pairs, sets)}


# ---- exact fits against theory -------------------------------------------------------------------

def shrink_factors(world: World, objectives: dict, seed: int, pairs: int = 2000) -> list[tuple]:
    """Per objective (name, "signal" or "nuisance", predicted, fitted): weights relative to BT's.

    signal: along gold's direction; nuisance: length along its thirty coordinates.
    fitted: Newton's method on BT plus the penalty's expectation in the world. predicted: BT's own
    weights after one step of theory, (I + 2 Q)^-1 I w, I = mean p(1 - p) Sigma_delta BT's
    information, from the world's deviations alone. It holds while p(1 - p) stays what it was.
    """
    x = draw(dataclasses.replace(world, pairs=pairs), seed + 1)[0][seed].double().numpy()
    delta = x[:, 0] - x[:, 1]  # x: (n, 2, D)
    across, within = (by_coordinate(d).double().numpy() for d in (world.across, world.within))
    gold = gold_direction().double().numpy()
    known = (world.level * gold / 2, np.diag(across**2 + within**2 / 2), np.diag(2 * within**2))
    bt = fit(delta, 1e-9 * np.eye(len(across)))
    p = 1 / (1 + np.exp(-delta @ bt))
    information, found = (p * (1 - p)).mean() * known[2], []
    for name, objective in objectives.items():
        q = penalty_matrix(family(*objective), *known, GROUP)
        fitted = fit(delta, q)
        both = np.stack([np.linalg.solve(information + 2 * q, information @ bt), fitted])
        found.append((name, "signal", *both @ gold / (bt @ gold)))
        lengths = np.linalg.norm(both[:, SIGNAL:], axis=1)
        found.append((name, "nuisance", *lengths / np.linalg.norm(bt[SIGNAL:])))
    return found


# ---- the study -----------------------------------------------------------------------------------

def summarize(seen: dict[int, dict], names: list[str]) -> dict:
    """By objective at the end: `score` of every set, its paired `difference` to the first objective
    as (mean, half-width of the 95% t interval over seeds), and means of the rest. Of the first one
    also its `course` by step, and a thousand quantiles of |h_w - h_l| at `both_ends`. What BSR has
    and its spread term has not, at the same lambda, is the `level_term`."""
    first, last = seen[min(seen)], seen[max(seen)]
    twins = [(a, b) for a in names for b in names if a[:4] == "bsr-" and b == f"spread-{a[4:]}"]
    course = {key: [seed_interval(row[key][:, 0]) for row in seen.values()] for key in (
        "train", "norm_cv", "difference", "head", *SETS)}
    return {"step": list(seen), "course": course,
            "both_ends": [np.quantile(row["differences"], np.linspace(0, 1, 1001)).round(3).tolist()
                          for row in (first, last)],
            "objectives": {name: {
                "score": {s: last[s][:, i].mean().item() for s in SETS},
                "difference": {s: seed_interval(last[s][:, i] - last[s][:, 0]) for s in SETS},
                **{key: last[key][:, i].mean().item() for key in (
                    "train", "norm_cv", "head", "level", "spread")}}
                for i, name in enumerate(names)},
            "level_term": {f"{bsr} minus {spread}": {
                s: seed_interval(last[s][:, names.index(bsr)] - last[s][:, names.index(spread)])
                for s in SETS} for bsr, spread in twins}}


def run_worlds(output: Path, seeds: int = 32) -> dict:
    """All worlds and the fits that theory is held against: results.md, results.json, results.png,
    theory.png and env.json in `output`."""
    from ..plots import save
    from .figures import theory_figure, worlds_figure
    check_folder(output)
    found = {}
    for name, world in WORLDS.items():
        with phase(name):  # many epochs take three times as long as one
            seen = train(world, OBJECTIVES, seeds if world.steps == 200 else seeds // 2)
            found[name] = summarize(seen, list(OBJECTIVES))
    fits = {name: shrink_factors(WORLDS[name], FITTED, seed=0) for name in (
        "helps", "mean on the signal", "hurts")}
    write_atomic(output / "results.md", worlds_text(found))
    write_atomic(output / "results.json", json.dumps({"worlds": found, "fits": fits}) + "\n")
    write_atomic(output / "env.json", json.dumps(environment(), indent=2) + "\n")
    save(worlds_figure(found), output / "results.png")
    save(theory_figure(fits), output / "theory.png")
    print(f"table   {output / 'results.md'}\nfigures {output / 'results.png'}, theory.png")
    return {"worlds": found, "fits": fits}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m bsr_lite.studies.worlds", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/worlds"), help="folder to write")
    parser.add_argument("--seeds", type=int, default=32, help="worlds drawn of each kind")
    args = parser.parse_args(argv)
    if args.seeds < 4:
        raise ConfigError("--seeds: at least 4, or there are no intervals")
    with phase("worlds"):
        rows = run_worlds(args.output, args.seeds)["worlds"]["helps"]["objectives"]
    ends = {name: row["difference"]["response_disjoint"] for name, row in rows.items()}
    table = {name: {"new sources": {"difference": (mean, mean - half, mean + half)}}
             for name, (mean, half) in ends.items()}
    print(in_words("networks in the world `helps`", args.seeds, table))


if __name__ == "__main__":
    run(main)
