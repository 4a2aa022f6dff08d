import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from conftest import assert_close_in_norm

from bsr_lite.batching import pack
from bsr_lite.config import RewardModelConfig, parse
from bsr_lite.errors import ConfigError, DataError, TrainingError
from bsr_lite.models import load_reward_model
from bsr_lite.runlog import read_metrics
from bsr_lite.scenarios import load_scenarios
from bsr_lite.step import backward, make_optimizer, schedule, step_metrics
from bsr_lite.tokenization import pair_tokens
from bsr_lite.train_rm import draw_groups, train


def settings(tiny_path, tmp_path, **changes):
    values = {
        "output_dir": str(tmp_path / "run"), "model": {"name": tiny_path, "dtype": "float32"},
        "data": {"source": str(tmp_path / "pairs.jsonl"), "format": "trl", "max_length": 128,
                 "dev_share": 0.15}, "batch_size": 6, "token_budget": 256, "learning_rate": 3e-3,
        "eval_every": 2, "epochs": 2}
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            values[section][name] = value
        else:
            values[key] = value
    return parse(values, RewardModelConfig, "test")


@pytest.fixture
def source(tmp_path, pairs):
    rows = [{"prompt": p.prompt, "chosen": [{"role": "assistant", "content": p.chosen}],
             "rejected": [{"role": "assistant", "content": p.rejected}]} for p in pairs]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])


# ---- the step ----------------------------------------------------------------------------------

LOSSES = [{"loss": "bt"}, {"loss": "norm"}, {"loss": "centering", "centering_coefficient": 0.1},
          {"loss": "bsr", "bsr_lambda": 0.5},
          *({"loss": kind, "bsr_lambda": 0.5, "bsr_group_size": 3}
            for kind in ("bsr", "spread", "level"))]


@pytest.mark.parametrize("changes", LOSSES, ids=str)
def test_cutting_a_batch_never_changes_loss_or_gradient(tiny_path, tmp_path, pairs, changes):
    config = settings(tiny_path, tmp_path, **changes)
    model = load_reward_model(tiny_path, dtype="float32", seed=1)
    token_groups, _ = pair_tokens(pairs[:6], model.tokenizer, 128)
    results = []
    for cut in ([[0, 1, 2, 3, 4, 5]], [[3, 0, 1, 5, 4, 2]],
                [[4], [0, 2], [5, 3, 1]], [[i] for i in range(6)]):
        model.zero_grad()
        parts = [(index, pack([token_groups[i] for i in index])) for index in cut]
        rewards, loss = backward(model, parts, config)
        gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
        results.append((rewards, loss, gradient))
    for rewards, loss, gradient in results[1:]:
        assert_close_in_norm(rewards, results[0][0], unit=1)
        assert_close_in_norm(loss, results[0][1])
        assert_close_in_norm(gradient, results[0][2])


def test_step_equals_plain_autograd_on_the_whole_batch(tiny_path, tmp_path, pairs):
    config = settings(tiny_path, tmp_path, loss="bsr", bsr_lambda=0.5)
    model = load_reward_model(tiny_path, dtype="float32", seed=1)
    token_groups, _ = pair_tokens(pairs[:6], model.tokenizer, 128)
    config.objective()(*model(pack(token_groups)).view(-1, 2).unbind(1)).backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    backward(model, [([i], pack([token_groups[i]])) for i in range(6)], config)
    for p, e in zip(model.parameters(), expected, strict=True):
        assert_close_in_norm(p.grad, e)


def test_schedule_warms_up_and_reaches_zero():
    values = [schedule(s, 100, 0.05) for s in range(101)]
    assert values[4] == max(values) == 1 and values[100] == 0
    assert values[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert all(a > b for a, b in itertools.pairwise(values[5:]))
    assert schedule(0, 1, 0.05) > 0  # a single step is no wasted step


def test_head_has_its_own_learning_rate(tiny_path, tmp_path):
    model = load_reward_model(tiny_path, lora_rank=4)
    optimizer = make_optimizer(model, settings(tiny_path, tmp_path, head_learning_rate=0.1))
    assert [g["lr"] for g in optimizer.param_groups] == [3e-3, 0.1]
    assert optimizer.param_groups[1]["params"][0].shape == (1, 32)
    sizes = sum(p.numel() for g in optimizer.param_groups for p in g["params"])
    assert sizes == len(weights(model))


# ---- the loop ----------------------------------------------------------------------------------

@pytest.mark.slow
def test_training_learns_and_logs(source, tiny_path, tmp_path):
    config = settings(tiny_path, tmp_path, epochs=25, loss="bsr", bsr_lambda=1e-3)
    _, totals = train(config)
    rows = read_metrics(tmp_path / "run")
    assert [r["step"] for r in rows] == list(range(1, totals["steps"] + 1))
    assert sum(r["train/accuracy"] for r in rows[-4:]) / 4 > 0.9
    assert rows[-1]["train/loss"] < 0.5 < rows[0]["train/loss"]
    assert {"val/accuracy", "bsr/mean_term", "bsr/variance_term", "tokens_per_s"} <= rows[-1].keys()
    assert rows[0]["bsr/weight_of_mean"] == pytest.approx(1e-3 * 6)
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text())["loss"] == "bsr"
    environment = json.loads((tmp_path / "run/env.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__
    assert str(Path.home()) not in json.dumps(environment)


def test_same_seed_same_run_other_seed_other_run(source, tiny_path, tmp_path, one_thread):
    runs = [weights(train(settings(tiny_path, tmp_path, seed=s, output_dir=str(tmp_path / n)))[0])
            for s, n in ((0, "a"), (0, "b"), (1, "c"))]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


@pytest.mark.parametrize("options", [{}, {"model__lora_rank": 4},
                                     {"model__lora_rank": 4, "model__quantization": "nf4"}])
def test_resume_is_bitwise(source, tiny_path, tmp_path, one_thread, monkeypatch, options):
    whole, _ = train(settings(tiny_path, tmp_path, output_dir=str(tmp_path / "whole"), **options))
    config, calls = settings(tiny_path, tmp_path, loss="bt", **options), []
    real = torch.optim.AdamW.step

    def dies_at_step_6(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", dies_at_step_6)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    monkeypatch.setattr(torch.optim.AdamW, "step", real)
    resumed, _ = train(config, resume=True)
    assert torch.equal(weights(whole), weights(resumed))
    timeless = [{k: v for k, v in r.items() if k[:6] not in ("tokens", "pairs_", "peak_m")}
                for r in read_metrics(tmp_path / "run")]
    assert [r["step"] for r in timeless] == [1, 2, 3, 4, 5, 6]
    assert timeless == [{k: r[k] for k in t} for r, t in zip(
        read_metrics(tmp_path / "whole"), timeless, strict=True)]


@pytest.mark.slow
def test_killed_process_resumes_to_the_same_model(source, tiny_path, tmp_path):
    """kill -9 at any moment leaves a checkpoint that is whole."""
    from bsr_lite.config import to_dict
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for name in ("whole", "killed"):
        config = settings(tiny_path, tmp_path, output_dir=str(tmp_path / name), epochs=10,
                          eval_every=1)
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(to_dict(config)))
    command = [sys.executable, "-m", "bsr_lite.train_rm", "--config"]
    whole, process = (subprocess.Popen([*command, tmp_path / f"{name}.yaml"], env=environment,
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                      for name in ("whole", "killed"))
    deadline = time.time() + 120
    while len(read_metrics(tmp_path / "killed")) < 5 and time.time() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(read_metrics(tmp_path / "killed"))
    assert 5 <= done < 30
    subprocess.run([*command, tmp_path / "killed.yaml", "--resume"], check=True, env=environment,
                   capture_output=True)
    assert whole.wait() == 0
    models = [load_reward_model(str(tmp_path / n / "model")) for n in ("whole", "killed")]
    assert torch.equal(weights(models[0]), weights(models[1]))


def test_resume_refuses_another_config_and_starts_where_there_is_nothing(
        source, tiny_path, tmp_path, capsys):
    train(settings(tiny_path, tmp_path), resume=True)
    assert "starting at step 0" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="another learning_rate: resume with the same config"):
        train(settings(tiny_path, tmp_path, learning_rate=1e-4), resume=True)


def test_non_finite_loss_stops_with_step_rows_and_checkpoint(
        source, tiny_path, tmp_path, monkeypatch):
    real, calls = RewardModelConfig.objective, []

    def explodes(config):
        def loss(chosen, rejected, margins):
            calls.append(1)
            factor = float("nan") if len(calls) == 4 else 1.0
            return real(config)(chosen, rejected, margins) * factor
        return loss

    monkeypatch.setattr(RewardModelConfig, "objective", explodes)
    with pytest.raises(TrainingError, match=r"step 4: loss nan.* of pairs \[.*the first of "
                                            r"them .*last.pt \(step 2\)"):
        train(settings(tiny_path, tmp_path, token_budget=4096))
    assert len(read_metrics(tmp_path / "run")) == 3
    content = torch.load(tmp_path / "run/checkpoints/last.pt", weights_only=True)
    assert all(torch.isfinite(w).all() for w in content["weights"].values())


def test_groups_become_scenarios_and_max_pairs_is_a_random_part(tiny_path, tmp_path, groups):
    rows = [{"prompt": g.prompt, "responses": g.responses, "gold": g.gold, "models": g.models}
            for g in groups]
    (tmp_path / "groups.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    data = {"data__source": str(tmp_path / "groups.jsonl"), "data__format": "pocket",
            "data__valid_models": ["m4", "m5", "m6", "m7"], "data__max_pairs": 10}
    scenarios = load_scenarios(settings(tiny_path, tmp_path, **data))
    trained = {p.prompt[0]["content"] for p in scenarios.train}
    assert len(scenarios.train) == 10 and scenarios.mutual_disjoint
    for group in scenarios.in_domain + scenarios.response_disjoint:
        assert group.prompt[0]["content"] in trained
    assert scenarios == load_scenarios(settings(tiny_path, tmp_path, **data, seed=5))


def test_watched_sets_are_scored_from_step_0_on_and_lose_no_set(tiny_path, tmp_path, groups):
    from bsr_lite.eval_rm import evaluate
    rows = [{"prompt": g.prompt, "responses": g.responses, "gold": g.gold, "models": g.models}
            for g in groups]
    (tmp_path / "groups.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    watch = ["train", "in_domain", "mutual_disjoint"]
    config = settings(tiny_path, tmp_path, data__source=str(tmp_path / "groups.jsonl"),
                      data__format="pocket", data__valid_models=[f"m{k}" for k in range(4, 8)],
                      watch=watch, epochs=1, eval_groups=5)
    model, _ = train(config)
    log = read_metrics(config.output_dir)
    assert [r["step"] for r in log if "watch" in r] == [0, 2, 4, 5] and "train/loss" not in log[0]
    for row in (r for r in log if "watch" in r):
        assert list(row["watch"]) == watch
        assert {c["rank_rows"] for c in row["watch"].values()} == {10}
        assert not any(c["dropped"] or c["undecided"] for c in row["watch"].values())
    assert log[-1]["train/head_norm"] == pytest.approx(model.head_weight.norm().item())
    assert log[-1]["train/head_norm"] != log[0]["train/head_norm"]
    sets = draw_groups(model, load_scenarios(config).mutual_disjoint, config)
    again = evaluate(model, sets, dispersion=True)
    logged = log[-1]["watch"]["mutual_disjoint"]["norm_before"]
    for name, value in again["norm_before"].items():
        assert value == pytest.approx(logged[name], rel=1e-5)


def test_watching_an_empty_set_fails_before_the_first_step(source, tiny_path, tmp_path):
    with pytest.raises(DataError, match="no rows for in_domain"):
        train(settings(tiny_path, tmp_path, watch=["in_domain"]))


def test_dev_shares_no_prompt_with_training(tiny_path, tmp_path, pairs):
    rows = [{"prompt": f"q{i % 8}", "chosen": p.chosen, "rejected": p.rejected}
            for i, p in enumerate(pairs)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    scenarios = load_scenarios(settings(tiny_path, tmp_path, data__dev_share=0.3))
    dev = {g.prompt[0]["content"] for g in scenarios.dev_prompt_disjoint}
    assert len(dev) == 2 and dev.isdisjoint(p.prompt[0]["content"] for p in scenarios.train)


def test_card_and_metadata_say_how_it_was_trained(source, tiny_path, tmp_path):
    config = settings(tiny_path, tmp_path, loss="bsr", bsr_group_size=3, epochs=1, seed=4,
                      model__lora_rank=4)
    train(config)
    folder = tmp_path / "run" / "model"
    facts = json.loads((folder / "reward_model.json").read_text())["training"]
    last = read_metrics(config.output_dir)[-1]
    assert facts["dev"] == {"metric": "accuracy", "score": last["val/accuracy"],
                            "low": last["val/low"], "high": last["val/high"],
                            "groups": last["val/groups"]}
    assert (facts["pairs"], facts["steps"], facts["bsr_group_size"]) == (17, 3, 3)
    card = (folder / "README.md").read_text()
    assert "0.001 on groups of 3 pairs" in card and "6 pairs a step, 3 steps" in card
    train(config, resume=True)  # nothing left to do: the facts come from the log
    assert json.loads((folder / "reward_model.json").read_text())["training"] == facts


def test_8_bit_optimizer_without_a_gpu_is_refused_before_anything_is_loaded(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match="needs a GPU, .*on a CPU .*--set optimizer=adamw"):
        train(settings("nobody/nothing", tmp_path, optimizer="paged_adamw_8bit"))


def test_a_fresh_run_forgets_old_checkpoints_and_models(source, tiny_path, tmp_path):
    train(settings(tiny_path, tmp_path, model__lora_rank=4))
    train(settings(tiny_path, tmp_path))
    saved = {p.name for p in (tmp_path / "run/model").iterdir()}
    assert "model.safetensors" in saved and not any("adapter" in name for name in saved)
    checkpoint = tmp_path / "run/checkpoints/last.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(TrainingError, match=r"last.pt cannot be read .*start without --resume"):
        train(settings(tiny_path, tmp_path), resume=True)


def test_resume_refuses_changed_data(source, tiny_path, tmp_path):
    train(settings(tiny_path, tmp_path))
    lines = (tmp_path / "pairs.jsonl").read_text().splitlines(True)
    (tmp_path / "pairs.jsonl").write_text("".join(lines[:-4]))
    with pytest.raises(ConfigError, match=r"another data \(its rows\)"):
        train(settings(tiny_path, tmp_path), resume=True)


def test_logged_terms_add_up_to_the_penalty_of_one_group(tiny_path, tmp_path):
    from bsr_lite.losses import bsr_penalty
    rewards = torch.randn(6, 2) + 1
    row = step_metrics(rewards, torch.zeros(()), settings(tiny_path, tmp_path))
    assert row["bsr/mean_term"] + row["bsr/variance_term"] == pytest.approx(
        bsr_penalty(rewards[:, 0], rewards[:, 1]).item(), rel=1e-5)


def test_untrainable_data_fails_before_the_first_step(tiny_path, tmp_path):
    rows = [{"prompt": f"q{i}", "chosen": "same", "rejected": "same"} for i in range(20)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match="none of 17 pairs is left .*'identical': 17"):
        train(settings(tiny_path, tmp_path))
    (tmp_path / "pairs.jsonl").write_text(json.dumps(rows[0]) + "\n")
    with pytest.raises(DataError, match="too few prompts to hold out 0.15"):
        train(settings(tiny_path, tmp_path))
