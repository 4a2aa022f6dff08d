import copy
import math
import random

import pytest

from bsr_lite.config import SCENARIOS
from bsr_lite.errors import DataError
from bsr_lite.scenarios import assign_splits, build_scenarios, draw_label, require, sets_of

VALID = ["m4", "m5", "m6", "m7"]


def build(groups, **kwargs):
    return build_scenarios(groups, VALID, kwargs.pop("label_temperature", 0.5), **kwargs)


def prompt_of(item):
    return item.prompt[0]["content"]


def test_prompts_and_sources_are_disjoint_where_they_must_be(groups):
    s = build(groups)
    train = {prompt_of(p) for p in s.train}
    assert train.isdisjoint(prompt_of(g) for g in s.prompt_disjoint + s.mutual_disjoint)
    assert train.isdisjoint(prompt_of(g) for g in s.dev_prompt_disjoint)
    assert {prompt_of(g) for g in s.dev_prompt_disjoint}.isdisjoint(
        prompt_of(g) for g in s.prompt_disjoint)
    assert {prompt_of(g) for g in s.response_disjoint} <= train
    for part, pool in ((s.prompt_disjoint, "m0 m1 m2 m3"), (s.response_disjoint, "m4 m5 m6 m7"),
                       (s.mutual_disjoint, "m4 m5 m6 m7"), (s.in_domain, "m0 m1 m2 m3")):
        assert part and {m for g in part for m in g.models} <= set(pool.split())


def test_sets_of_training_are_its_pairs_and_all_others_are_as_built(groups):
    s = build(groups)
    assert [(g.responses, g.gold[0] > g.gold[1]) for g in sets_of(s, "train")] == [
        ([p.chosen, p.rejected], True) for p in s.train]
    assert all(sets_of(s, name) is getattr(s, name) for name in SCENARIOS)


def test_in_domain_uses_the_two_responses_that_training_left_out(groups):
    s = build(groups)
    by_prompt = {prompt_of(p): {p.chosen, p.rejected} for p in s.train}
    assert len(s.train) == 24 and all(len(g.responses) == 2 for g in s.in_domain)
    for g in s.in_domain:
        assert by_prompt[prompt_of(g)].isdisjoint(g.responses)


def test_same_seed_same_world_other_seed_other_world(groups):
    assert build(groups, seed=1) == build(groups, seed=1)
    assert build(groups, seed=1).train != build(groups, seed=2).train


def test_label_noise_follows_bradley_terry():
    rng = random.Random(0)
    share = sum(draw_label(1.0, 0.3, 0.7, rng) for _ in range(40_000)) / 40_000
    assert share == pytest.approx(1 / (1 + math.exp(-1)), abs=0.01)
    assert draw_label(1.0, 0.0, 0.0, rng) is True and draw_label(0.0, 1.0, 0.0, rng) is False
    assert draw_label(1e9, 0.0, 1e-3, rng) is True  # no overflow


def test_noise_is_counted_and_temperature_zero_has_none(groups):
    assert build(groups, label_temperature=0.0).counts["labels_against_gold"] == 0
    assert build(groups, label_temperature=1e6).counts["labels_against_gold"] > 4


def test_ties_are_dropped_and_counted(groups):
    tied = copy.deepcopy(groups)
    for g in tied:
        g.gold = [1.0] * 8
    tied[0].gold = [float(i) for i in range(8)]
    s = build(tied, label_temperature=0.0)
    assert (len(s.train), s.counts["tied_train_pairs"]) == (1, 23)
    assert (len(s.in_domain), s.counts["tied_in_domain_pairs"]) == (1, 23)


def test_a_pattern_holds_out_a_family(groups):
    by_name = build_scenarios(groups, [f"m{k}" for k in range(4, 8)], 0.5)
    by_pattern = build_scenarios(groups, ["m[4-6]", "m7*"], 0.5)
    assert by_pattern == by_name
    bracket = copy.deepcopy(groups)
    for g in bracket:
        g.models = [m.replace("m7", "m[7]") for m in g.models]  # a name that reads as a pattern
    assert len(build_scenarios(bracket, ["m[4-6]", "m[7]"], 0.5).mutual_disjoint) == len(
        by_name.mutual_disjoint)
    with pytest.raises(DataError, match=r"no row has: gpt\*"):
        build_scenarios(groups, ["m7", "gpt*"], 0.5)


def test_missing_pools_and_misspelt_sources_are_errors(groups):
    with pytest.raises(DataError, match="valid_models names sources that no row has: gemna"):
        build_scenarios(groups, ["gemna"], 0.5)
    with pytest.raises(DataError, match="no rows for response_disjoint, mutual_disjoint"):
        require(build_scenarios(groups, ["m7"], 0.5), list(SCENARIOS))
    with pytest.raises(DataError, match="no rows for train"):
        build_scenarios(groups, [f"m{i}" for i in range(5)], 0.5)
    odd = copy.deepcopy(groups)
    odd[3].split = "test"
    with pytest.raises(DataError, match="unknown split 'test'"):
        build(odd)


def test_splits_are_assigned_by_prompt_in_the_stated_shares(groups):
    fresh = copy.deepcopy(groups)
    for g in fresh:
        g.split = None
    assign_splits(fresh, dev=0.1, valid=0.25, seed=0)
    names = [g.split for g in fresh]
    assert [names.count(n) for n in ("dev", "valid", "train")] == [4, 10, 26]
    twice = [copy.copy(g) for g in fresh for _ in range(2)]
    for g in twice:
        g.split = None
    assign_splits(twice, dev=0.1, valid=0.25, seed=0)  # a prompt that comes twice stays together
    assert all(a.split == b.split for a, b in zip(twice[::2], twice[1::2], strict=True))
    again = copy.deepcopy(fresh)
    assign_splits(again, dev=0.5, valid=0.5, seed=9)
    assert [g.split for g in again] == names  # a split that is given stays
