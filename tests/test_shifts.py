"""The shifted language worlds: what their rules keep, what they change, and where."""

from collections import Counter
from pathlib import Path

import pytest

from bsr_lite.config import RewardModelConfig, load_config
from bsr_lite.scenarios import Scenarios, load_scenarios
from bsr_lite.studies.shifts import PHRASE, SHIFTS, in_world, shifted

ROOT = Path(__file__).parents[1]
SETS = ("in_domain", "prompt_disjoint", "response_disjoint", "mutual_disjoint",
        "dev_prompt_disjoint", "dev_mutual_disjoint")


@pytest.fixture(scope="module")
def plain() -> Scenarios:
    config = load_config(ROOT / "bsr_lite/configs/rm_fast.yaml", RewardModelConfig,
                         [f"data.source={ROOT}/data/pocket/pocket.jsonl.gz",
                          "data.max_pairs=null"])
    return load_scenarios(config)


@pytest.mark.parametrize("kind", SHIFTS)
def test_gold_prompts_labels_and_plain_answers_stay(plain, kind):
    world = shifted(plain, kind, seed=0)
    assert len(world.train) == len(plain.train)
    for new, old in zip(world.train, plain.train, strict=True):
        assert new.prompt == old.prompt
        assert new.chosen.startswith(old.chosen.strip())
        assert new.rejected.startswith(old.rejected.strip())
    for name in SETS:
        for new, old in zip(getattr(world, name), getattr(plain, name), strict=True):
            assert (new.prompt, new.gold, new.models) == (old.prompt, old.gold, old.models)
            assert all(a.startswith(b.strip()) for a, b in zip(new.responses, old.responses,
                                                               strict=True))
    assert [g.gold for g in world.prompt_shifted] == [g.gold for g in plain.prompt_disjoint]


@pytest.mark.parametrize("kind", SHIFTS)
def test_the_seed_alone_decides(plain, kind):
    one, same, other = (shifted(plain, kind, seed) for seed in (0, 0, 1))
    assert one == same
    assert one.train != other.train


def tails(group) -> set[str]:
    return {text.rpartition("\n\nP.S. ")[2] for text in group.responses}


def test_a_postscript_belongs_to_the_prompt_and_for_new_sources_to_the_answer(plain):
    world = shifted(plain, "postscript", seed=0)
    for pair in world.train:
        assert pair.chosen.rpartition("\n\nP.S. ")[2] == pair.rejected.rpartition("\n\nP.S. ")[2]
    for name in ("in_domain", "prompt_disjoint", "dev_prompt_disjoint"):
        assert all(len(tails(group)) == 1 for group in getattr(world, name))
    for name in ("response_disjoint", "mutual_disjoint", "prompt_shifted", "dev_prompt_shifted"):
        groups = getattr(world, name)
        assert sum(len(tails(g)) for g in groups) / sum(len(g.responses) for g in groups) > 0.95


def test_the_phrase_goes_with_quality_in_training_and_with_nothing_for_new_sources(plain):
    world = shifted(plain, "closing_phrase", seed=0)
    chosen = sum(p.chosen.endswith(PHRASE) for p in world.train) / len(world.train)
    rejected = sum(p.rejected.endswith(PHRASE) for p in world.train) / len(world.train)
    assert chosen == pytest.approx(0.75, abs=0.05)
    assert rejected == pytest.approx(0.25, abs=0.05)

    def share(groups, better: bool) -> float:
        found = Counter()
        for group in groups:
            half = sorted(group.gold)[len(group.gold) // 2]
            for text, gold in zip(group.responses, group.gold, strict=True):
                if (gold >= half) == better:
                    found[text.endswith(PHRASE)] += 1
        return found[True] / found.total()

    assert share(world.prompt_disjoint, True) == pytest.approx(0.75, abs=0.06)
    assert share(world.prompt_disjoint, False) == pytest.approx(0.25, abs=0.06)
    for name in ("response_disjoint", "prompt_shifted"):
        for better in (True, False):
            assert share(getattr(world, name), better) == pytest.approx(0.5, abs=0.06)


def test_the_plain_world_is_left_alone(plain):
    assert in_world(plain, "plain", 0) is plain
