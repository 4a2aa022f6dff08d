"""Hidden states of the untrained model: they are the model's own, and computed once."""

import json

import pytest
import torch

from bsr_lite.config import RewardModelConfig, parse
from bsr_lite.errors import DataError
from bsr_lite.eval_rm import score_answers
from bsr_lite.models import load_reward_model
from bsr_lite.scenarios import load_scenarios
from bsr_lite.studies import features
from bsr_lite.studies.features import load_features

PARTS = ["in_domain", "prompt_disjoint", "response_disjoint", "mutual_disjoint"]


@pytest.fixture
def base(tmp_path, tiny_path, groups):
    rows = [{"prompt": g.prompt, "responses": g.responses, "gold": g.gold, "models": g.models,
             "split": g.split} for g in groups]
    (tmp_path / "groups.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return parse({"output_dir": "unused", "model": {"name": tiny_path, "dtype": "float32"},
                  "data": {"source": str(tmp_path / "groups.jsonl"), "max_length": 128,
                           "valid_models": ["m[4-7]"]}}, RewardModelConfig, "test")


def load(base, tmp_path):
    return load_features(tmp_path / "features.pt", load_scenarios(base), PARTS, base)


def test_features_are_the_states_behind_the_models_rewards(base, tiny_path, tmp_path):
    found = load(base, tmp_path)
    model = load_reward_model(tiny_path, dtype="float32")
    group = load_scenarios(base).mutual_disjoint[0]
    expected = score_answers(model, group.prompt, group.responses)
    ours = found["mutual_disjoint"]["hidden"][0].float() @ model.head_weight
    torch.testing.assert_close(ours, expected, rtol=0, atol=5e-3)  # kept in 16 bits
    assert found["mutual_disjoint"]["gold"][0].tolist() == group.gold
    assert found["train"]["hidden"].shape == (24, 2, 32)


def test_features_are_computed_once_for_the_same_data(base, tmp_path, monkeypatch):
    first = load(base, tmp_path)
    monkeypatch.setattr(features, "compute_features", lambda *a: pytest.fail("computed again"))
    again = load(base, tmp_path)
    assert all(torch.equal(first[p]["hidden"], again[p]["hidden"]) for p in first)
    base.data.seed = 9
    with pytest.raises(pytest.fail.Exception, match="computed again"):
        load(base, tmp_path)


def test_a_scenario_without_a_usable_set_is_refused(base, tmp_path):
    base.data.max_length = 2
    with pytest.raises(DataError, match="no set of train is left: all are over max_length"):
        load(base, tmp_path)
