import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from bsr_lite.config import load_config, parse
from bsr_lite.errors import ConfigError
from bsr_lite.eval_rm import score_answers
from bsr_lite.losses import preference_loss
from bsr_lite.metrics import kendall_tau_b
from bsr_lite.models import load_reward_model
from bsr_lite.scenarios import load_scenarios
from bsr_lite.studies import frozen
from bsr_lite.studies.frozen import (
    FrozenConfig,
    head_rewards,
    load_features,
    new_heads,
    scores,
    standardize,
    train_heads,
)
from bsr_lite.studies.records import drawn

METHODS = {"bt": {"loss": "bt"}, "bsr": {"loss": "bsr", "bsr_lambda": 1.0}}


def settings(**changes):
    return parse({"base": "b.yaml", "output_dir": "o", "seeds": 3, "width": 8, "batch_size": 4,
                  "epochs": 3, "learning_rate": 1e-2, "methods": METHODS} | changes,
                 FrozenConfig, "test")


@pytest.fixture
def study(tmp_path, tiny_path, groups):
    rows = [{"prompt": g.prompt, "responses": g.responses, "gold": g.gold, "models": g.models,
             "split": g.split} for g in groups]
    (tmp_path / "groups.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    base = {"output_dir": "unused", "model": {"name": tiny_path, "dtype": "float32"},
            "data": {"source": str(tmp_path / "groups.jsonl"), "max_length": 128,
                     "valid_models": ["m[4-7]"]}}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    config = {"base": "base.yaml", "output_dir": str(tmp_path / "out"), "seeds": 3, "width": 8,
              "batch_size": 4, "epochs": 2, "methods": METHODS}
    (tmp_path / "frozen.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return tmp_path / "frozen.yaml"


def load(config, base):
    return load_features(Path(config.output_dir) / "features.pt", load_scenarios(base),
                         config.scenarios, base, config.eval_groups)


def test_features_are_the_states_behind_the_models_rewards(study, groups, tiny_path):
    config = load_config(study, FrozenConfig)
    base = load_config(study.parent / config.base)
    features = load(config, base)
    model = load_reward_model(tiny_path, dtype="float32")
    group = drawn(load_scenarios(base).mutual_disjoint, None, base.data.seed)[0]
    expected = score_answers(model, group.prompt, group.responses)
    ours = features["mutual_disjoint"]["hidden"][0].float() @ model.head_weight
    torch.testing.assert_close(ours, expected, rtol=0, atol=5e-3)  # kept in 16 bits
    assert features["mutual_disjoint"]["gold"][0].tolist() == group.gold
    assert features["train"]["hidden"].shape == (24, 2, 32)


def test_features_are_computed_once_for_the_same_data(study, monkeypatch):
    config = load_config(study, FrozenConfig)
    base = load_config(study.parent / config.base)
    first = load(config, base)
    monkeypatch.setattr(frozen, "compute_features", lambda *a: pytest.fail("computed again"))
    again = load(config, base)
    assert all(torch.equal(first[p]["hidden"], again[p]["hidden"]) for p in first)
    base.data.seed = 9
    with pytest.raises(pytest.fail.Exception, match="computed again"):
        load(config, base)


@pytest.mark.parametrize("objective", [
    {"loss": "bt"}, {"loss": "bsr", "bsr_lambda": 0.1}, {"loss": "l2", "l2_coefficient": 0.1},
    {"loss": "hinge", "target_margin": 1.0}], ids=lambda o: o["loss"])
def test_training_all_seeds_at_once_is_training_each_alone(objective):
    """Against a plain loop over one seed with torch's modules."""
    pairs, config = torch.randn(13, 2, 6), settings()
    heads = train_heads(pairs, objective, config)
    seed, options = 2, {k: v for k, v in objective.items() if k != "loss"}
    start = new_heads(3, 6, 8)
    layer, out = torch.nn.Linear(6, 8), torch.nn.Linear(8, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(start["w1"][seed].T)
        layer.bias.zero_()
        out.weight.copy_(start["w2"][seed].T)
    optimizer = torch.optim.AdamW([*layer.parameters(), *out.parameters()], lr=1e-2,
                                  weight_decay=0.0)
    generator = torch.Generator().manual_seed(1_000_003 + seed)
    for step in range(9):  # 3 epochs of 13 // 4 batches
        if step % 3 == 0:
            order = torch.randperm(13, generator=generator)
        batch = pairs[order[step % 3 * 4:step % 3 * 4 + 4]]
        rewards = out(torch.tanh(layer(batch)))[..., 0]
        optimizer.param_groups[0]["lr"] = 1e-2 * frozen.schedule(step, 9, 0.05)
        optimizer.zero_grad()
        preference_loss(objective["loss"], rewards[:, 0], rewards[:, 1], **options).backward()
        optimizer.step()
    expected = out(torch.tanh(layer(pairs[:, 0])))[:, 0].detach()
    torch.testing.assert_close(head_rewards(heads, pairs[None, :, 0])[seed], expected,
                               atol=1e-4, rtol=1e-4)


def test_bsr_pins_the_level_that_bt_leaves_where_it_was():
    pairs, config = torch.randn(64, 2, 6) + 1, settings(epochs=20)
    level = {m: head_rewards(train_heads(pairs, o, config), pairs.flatten(0, 1)[None]).mean(1)
             for m, o in METHODS.items()}
    assert level["bsr"].abs().max() < 0.1 < level["bt"].abs().max()


def test_heads_start_as_equation_2_and_do_not_depend_on_the_objective():
    heads = new_heads(200, 16, 24)
    assert heads["w2"].square().sum((1, 2)).mean().item() == pytest.approx(24 / 25, abs=0.1)
    again = new_heads(3, 16, 24)
    assert torch.equal(heads["w1"][:3], again["w1"])
    torch.manual_seed(5)
    assert torch.equal(again["w1"], new_heads(3, 16, 24)["w1"])


def test_scores_and_the_centring_control():
    """A shift per prompt spoils pooled tau alone; centring mends it."""
    heads = {k: v.detach() for k, v in new_heads(2, 5, 7).items()}
    x = torch.randn(9, 4, 5)
    gold = head_rewards(heads, x.flatten(0, 1)[None])[0].view(9, 4).double()
    gold = gold - gold.mean(1, keepdim=True)
    found = scores(heads, x, gold)
    assert found["score"].shape == (2, 9) and (found["score"][0] == 1).all()
    assert found["pooled_centred"][0] == pytest.approx(1) and found["pooled"][0] < 1
    r = head_rewards(heads, x.flatten(0, 1)[None])[1].view(9, 4).numpy()
    assert found["score"][1] == pytest.approx(kendall_tau_b(r, gold.numpy()))
    assert found["reward_mean"][1] == pytest.approx(r.mean(), abs=1e-5)
    two = scores(heads, x[:, :2], gold[:, :2])
    assert set(np.unique(two["score"])) <= {0.0, 1.0} and two["score"][0].mean() == 1


def test_standardize_uses_the_training_pairs_alone():
    features = {"train": {"hidden": torch.randn(50, 2, 3).half() * 4 + 7},
                "valid": {"hidden": torch.ones(2, 4, 3).half()}}
    x = standardize(features)
    flat = x["train"].flatten(0, 1)
    torch.testing.assert_close(flat.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(flat.std(0), torch.ones(3), atol=1e-4, rtol=0)
    assert (x["valid"] < -1).all()


def test_study_end_to_end(study, capsys):
    frozen.main(["--config", str(study), "--set", "seeds=4"])
    out = study.parent / "out"
    table = json.loads((out / "results.json").read_text())["table"]
    assert list(table) == ["bt", "bsr"] and table["bt"]["in_domain"]["metric"] == "accuracy"
    cell = table["bsr"]["mutual_disjoint"]
    assert cell["difference"][1] <= cell["difference"][0] <= cell["difference"][2]
    assert cell["difference"][0] == pytest.approx(
        cell["score"] - table["bt"]["mutual_disjoint"]["score"])
    assert table["bt"]["mutual_disjoint"]["difference"] == [0, 0, 0]
    assert cell["reward_mean"] != table["bt"]["mutual_disjoint"]["reward_mean"]
    assert (out / "results.md").read_text() in capsys.readouterr().out
    started = time.perf_counter()
    frozen.run_frozen(study)  # features are read back
    assert time.perf_counter() - started < 20


@pytest.mark.parametrize(("changes", "message"), [
    ({"methods": {}}, "methods Dictionary should have at least 1 item"),
    ({"seeds": 1}, "seeds must be greater than or equal to 2, got 1"),
    ({"methods": {"a": {"bsr_lambda": 1}}}, "unknown loss None; choose one of bt"),
    ({"methods": {"a": {"loss": "bt", "lambda": 1}}}, "lambda has no effect on loss 'bt'"),
    ({"methods": {"a": {"loss": "bt", "bsr_lambda": 1}}}, "has no effect on loss 'bt'"),
    ({"methods": {"a": {"loss": "bsr", "bsr_lambda": "much"}}},
     "method a: parameters must be numbers, got {'bsr_lambda': 'much'}"),
    ({"scenarios": ["x"]}, "scenarios.0 must be 'in_domain', .* or 'train', got 'x'"),
    ({"width": 0}, "width must be greater than or equal to 1, got 0")])
def test_impossible_configs_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        settings(**changes)
