import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from conftest import assert_close_in_norm

from bsr_lite.config import RLOOConfig, load_config, parse, read_yaml
from bsr_lite.data import read_rows
from bsr_lite.errors import ConfigError, DataError, ModelError
from bsr_lite.generate import end_of_turn, roll_out
from bsr_lite.gold import gold_reward, gold_terms
from bsr_lite.models import load_reward_model
from bsr_lite.policy import Policy, load_policy
from bsr_lite.rloo import leave_one_out_advantages
from bsr_lite.runlog import read_metrics
from bsr_lite.saving import save_reward_model
from bsr_lite.scorers import model_gold, pocket_gold, reward_scorer
from bsr_lite.train_rloo import collapse, sequence_logprobs, sums, train, update


@pytest.fixture(scope="module")
def two_layers(tmp_path_factory, tiny_path):
    folder = tmp_path_factory.mktemp("two_layers") / "rm"
    save_reward_model(load_reward_model(tiny_path, lora_rank=2, depth=2, dtype="float32"), folder)
    return folder


@pytest.fixture
def world(tmp_path, tiny_path, two_layers):
    """A tiny policy, a tiny reward model of two layers, ten prompts."""
    rows = [{"prompt": f"Name {n} birds.", "split": "train", "unit": "item", "count": 2,
             "stems": ["bird"]} for n in range(10)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    shutil.copytree(two_layers, tmp_path / "rm")
    config = {"policy": {"name": tiny_path, "lora_rank": 4, "dtype": "float32"},
              "reward_model": str(tmp_path / "rm"), "output_dir": str(tmp_path / "run"),
              "data": str(tmp_path / "rows.jsonl"), "steps": 6, "prompts_per_step": 4,
              "num_generations": 3, "max_new_tokens": 5, "learning_rate": 1e-2,
              "standardize_prompts": 4, "checkpoint_every": 2}
    (tmp_path / "rloo.yaml").write_text(yaml.safe_dump(config))
    return tmp_path / "rloo.yaml"


def settings(world, *overrides):
    return load_config(world, RLOOConfig, list(overrides))


def adapters(policy):
    return torch.cat([p.detach().flatten() for p in policy.parameters() if p.requires_grad])


# ---- the step ------------------------------------------------------------------------------------

def batch_of(world, *overrides):
    config = settings(world, *overrides)
    policy = load_policy(config.policy.name, lora_rank=4, dtype="float32")
    torch.manual_seed(1)
    with torch.no_grad():
        for name, p in policy.named_parameters():
            if "lora_B" in name:
                p.normal_(0, 0.3)
    rows = list(read_rows(config.data))[:4]
    batch = roll_out(policy, rows, config.num_generations, config.max_new_tokens, 0)
    return policy, batch, config


def test_gradient_is_minus_the_advantage_times_grad_log_pi_of_every_answer(world):
    """Against one plain padded-free forward per answer and the textbook formula."""
    policy, batch, config = batch_of(world, "kl_coef=0.5")
    rewards, old = torch.randn(4, 3), sums(sequence_logprobs(policy, batch, config))
    with policy.reference():
        ref = sums(sequence_logprobs(policy, batch, config))
    assert (old - ref).abs().max() > 0.1
    advantages = leave_one_out_advantages(rewards - 0.5 * (old - ref))
    update(policy, batch, rewards, ref, config)
    ours = torch.cat([p.grad.flatten() for p in policy.parameters() if p.requires_grad])
    policy.zero_grad()
    policy.causal.set_attn_implementation("sdpa")
    total = 0.0
    for b, row in zip(batch, advantages, strict=True):
        prompt, *answers = b["token_group"]
        for answer, a in zip(answers, row, strict=True):
            logits = policy.causal(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
            places = torch.arange(len(prompt) - 1, len(prompt) + len(answer) - 1)
            total = total - a * logits[places, answer].sum() / 12
    total.backward()
    plain = torch.cat([p.grad.flatten() for p in policy.parameters() if p.requires_grad])
    assert_close_in_norm(ours, plain)


def test_micro_batches_change_nothing(world):
    policy, batch, config = batch_of(world)
    found = []
    for budget in (10_000, 60):
        config.token_budget = budget
        old = sums(sequence_logprobs(policy, batch, config))
        now = sums(update(policy, batch, torch.arange(12.0).view(4, 3), old, config))
        grads = torch.cat([p.grad.flatten() for p in policy.parameters() if p.requires_grad])
        found.append((old, now, grads.clone()))
        policy.zero_grad()
    for a, b in zip(*found, strict=True):
        assert_close_in_norm(a, b)
    assert_close_in_norm(found[0][1], found[0][0])  # on-policy: the ratio is 1


def test_given_log_probabilities_of_the_answering_policy_change_nothing_on_it(world):
    """One forward pass when on-policy is the same step as two."""
    policy, batch, config = batch_of(world, "clip_range=0.2")
    old, rewards = sums(sequence_logprobs(policy, batch, config)), torch.randn(4, 3)
    found = []
    for given in (None, old):
        update(policy, batch, rewards, torch.zeros(4, 3), config, given)
        found.append(torch.cat([p.grad.flatten() for p in policy.parameters() if p.requires_grad]))
        policy.zero_grad()
    assert_close_in_norm(*found)


def test_a_step_on_policy_runs_policy_and_reference_once_each(world, monkeypatch):
    calls = []
    plain = Policy.logprobs
    monkeypatch.setattr(Policy, "logprobs", lambda self, token_groups: calls.append(
        torch.is_grad_enabled()) or plain(self, token_groups))
    train(settings(world, "steps=1"))
    assert sorted(calls[1:]) == [False, True]  # the first is load_policy's check
    calls.clear()
    train(settings(world, "steps=1", "minibatches=2"))
    assert sorted(calls[1:]) == [False, False, True, True]


def test_an_answer_keeps_its_end_of_turn_and_nothing_behind_it(world):
    policy, batch, _ = batch_of(world, "max_new_tokens=3")
    stop = policy.tokenizer.eos_token_id
    for b in batch:
        for answer, text, end in zip(b["token_group"][1:], b["texts"], b["finished"], strict=True):
            assert end == (answer[-1] == stop) and stop not in answer[:-1]
            assert 1 <= len(answer) <= 3 and text == policy.tokenizer.decode(
                answer, skip_special_tokens=True).strip()


# ---- the loop ------------------------------------------------------------------------------------

@pytest.fixture
def sharp_path(tiny_path, tmp_path):
    """The tiny model with a few dozen likely tokens instead of 49,152 equally likely ones."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    model = AutoModelForCausalLM.from_pretrained(tiny_path)
    with torch.no_grad():
        weight = model.lm_head.weight
        weight[1000:] = 0
        weight[300:1000] *= 5
    model.save_pretrained(tmp_path / "sharp")
    AutoTokenizer.from_pretrained(tiny_path).save_pretrained(tmp_path / "sharp")
    return str(tmp_path / "sharp")


@pytest.mark.slow
def test_a_run_learns_what_the_proxy_likes_and_logs_it(world, sharp_path, monkeypatch):
    """A proxy that likes long words: the policy learns to write them; KL and gold are tracked."""
    monkeypatch.setattr("bsr_lite.train_rloo.reward_scorer", lambda model, token_budget:
                        lambda batch: [[float(len(t)) for t in b["texts"]] for b in batch])
    config = settings(world, "steps=30", "kl_coef=0.0", "missing_eos_penalty=0",
                      "prompts_per_step=8", "standardize_prompts=0", "num_generations=16",
                      "learning_rate=1e-3", f"policy.name={sharp_path}")
    train(config)
    rows = read_metrics(config.output_dir)
    assert [r["step"] for r in rows] == list(range(1, 31))
    assert sum(r["train/proxy_reward"] for r in rows[-5:]) / 5 > 1.2 * rows[0]["train/proxy_reward"]
    assert rows[0]["train/kl"] == pytest.approx(0, abs=1e-4) and rows[-1]["train/kl"] > 0.1
    assert all(0 <= r["train/gold_reward"] <= 5 for r in rows)
    assert {"prompt", "responses", "proxy"} == set(rows[0]["sample"])


def test_killed_and_resumed_is_the_same_run(world, tmp_path, one_thread):
    whole = adapters(train(settings(world)))
    metrics = read_metrics(tmp_path / "run")
    short = settings(world, f"output_dir={tmp_path / 'cut'}")
    calls = []

    def stop_in_step_four(*args):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return roll_out(*args)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("bsr_lite.train_rloo.roll_out", stop_in_step_four)
        train(short)
    assert torch.equal(adapters(train(short, resume=True)), whole)
    again = read_metrics(tmp_path / "cut")
    for a, b in zip(metrics, again, strict=True):
        for key in ("train/proxy_reward", "train/kl", "train/gold_reward", "sample"):
            assert a[key] == b[key]


def test_minibatches_are_optimizer_steps_and_clipping_counts(world):
    train(settings(world, "minibatches=2", "clip_range=0.0001", "steps=2"))
    rows = read_metrics(settings(world).output_dir)
    assert rows[-1]["train/clip_fraction"] > 0  # the second minibatch is off-policy
    train(settings(world, "steps=2"))
    assert read_metrics(settings(world).output_dir)[-1]["train/clip_fraction"] == 0


def test_the_proxy_is_measured_in_units_of_the_references_answers(world):
    config = settings(world, "steps=1", "standardize_prompts=10", "prompts_per_step=10",
                      "num_generations=8")
    train(config)
    row = read_metrics(config.output_dir)[0]
    assert abs(row["train/proxy_reward"]) < 1  # on other answers of the same policy
    train(settings(world, "steps=1", "standardize_prompts=0"))
    raw = read_metrics(config.output_dir)[0]
    assert raw["train/proxy_reward"] == raw["train/raw_reward"]


def test_a_missing_end_costs_its_penalty_in_the_advantage_alone(world):
    found = {}
    for penalty in (0.0, 5.0):
        train(settings(world, "steps=1", f"missing_eos_penalty={penalty}", "num_generations=8",
                       "max_new_tokens=2"))
        found[penalty] = read_metrics(settings(world).output_dir)[0]
    assert found[0.0]["train/proxy_reward"] == found[5.0]["train/proxy_reward"]


def test_collapse_is_called_by_name():
    row = {"train/advantage_std": 1.0, "train/kl": 3.0, "train/length": 20.0, "train/entropy": 2.0}
    assert collapse(row) == []
    for key, value, name in (("train/advantage_std", 0.0, "all advantages are zero"),
                             ("train/kl", 200.0, "KL above 100"), ("train/length", 1.0, "fewer"),
                             ("train/entropy", 0.01, "entropy below")):
        (found,) = collapse(row | {key: value})
        assert name in found


# ---- gold ----------------------------------------------------------------------------------------

ROW = {"prompt": "Name two birds.", "unit": "item", "count": 2, "stems": ["bird"]}


def test_pocket_gold_is_the_formula():
    texts, ends = ["1. A bird\n2. Another bird", "no"], [True, False]
    expected = [gold_reward(gold_terms(t, unit="item", count=2, stems=["bird"], finished=e))
                for t, e in zip(texts, ends, strict=True)]
    assert pocket_gold(ROW, texts, ends) == expected


def test_a_reward_model_of_ours_or_of_the_standard_layout_can_be_gold(tiny_path, tmp_path):
    model = load_reward_model(tiny_path, dtype="float32")
    save_reward_model(model, tmp_path / "rm")
    batch = [{"row": ROW, "texts": ["red apple", "blue river and stone"]},
             {"row": ROW | {"prompt": "green"}, "texts": ["tree", "sand"]}]
    ours = np.array(model_gold(str(tmp_path / "rm"), False)(batch))
    assert ours.shape == (2, 2)  # a prompt a row
    assert ours == pytest.approx(np.array(reward_scorer(model)(batch)), abs=1e-5)
    one_by_one = np.array([reward_scorer(model)([b])[0] for b in batch])
    assert ours == pytest.approx(one_by_one, abs=1e-5)
    (tmp_path / "rm" / "reward_model.json").unlink()  # now a stranger's sequence classifier
    other = model_gold(str(tmp_path / "rm"), False)(batch)
    assert np.array(other) == pytest.approx(ours, abs=0.1)  # it computes in bf16


REMOTE = """
from transformers import LlamaForSequenceClassification
from transformers.modeling_outputs import SequenceClassifierOutputWithPast
class ManyObjectives(LlamaForSequenceClassification):
    def forward(self, input_ids=None, attention_mask=None, **options):
        out = super().forward(input_ids=input_ids, attention_mask=attention_mask)
        out["score"] = out.logits.sum(-1) * 0 + 7.5
        return out
"""


def test_a_gold_model_with_its_own_code_needs_consent(tiny_path, tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    folder = tmp_path / "armo"
    model = AutoModelForSequenceClassification.from_pretrained(tiny_path, num_labels=3)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_path).save_pretrained(folder)
    (folder / "armo.py").write_text(REMOTE)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForSequenceClassification": "armo.ManyObjectives"}
    config["model_type"] = "llama"
    (folder / "config.json").write_text(json.dumps(config))
    batch = [{"row": ROW, "texts": ["a", "b"]}]
    assert model_gold(str(folder), True)(batch) == [[7.5, 7.5]]
    with pytest.raises(ModelError, match="set trust_remote_code: true"):
        model_gold(str(folder), False)


# ---- bad input -----------------------------------------------------------------------------------

@pytest.mark.parametrize(("override", "message"), [
    ("num_generations=1", "num_generations must be greater than or equal to 2, got 1"),
    ("policy.lora_rank=null", "set policy.lora_rank"),
    ("policy.depth=2", "leave policy.depth out: a policy samples and trains whole"),
    ("minibatches=3", "not a multiple of minibatches 3"),
    ("policy.gradient_checkpointing=true", "leave policy.gradient_checkpointing out"),
    ("kl_coef=-1", "kl_coef must be greater than or equal to 0, got -1"),
    ("clip_range=nan", "clip_range must be"),
    ("klcoef=1", "did you mean 'kl_coef'"),
])
def test_impossible_configs_are_refused(world, override, message):
    with pytest.raises(ConfigError, match=message):
        settings(world, override)


def test_bad_prompts_are_named_before_anything_is_loaded(world, tmp_path):
    with pytest.raises(DataError, match="no row of split 'valid'"):
        train(settings(world, "split=valid"))
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    del rows[4]["unit"]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    with pytest.raises(DataError, match="row 5: the pocket world's gold needs `unit`"):
        train(settings(world))
    train(settings(world, "gold=none", "steps=1"))
    rows[2]["prompt"] = " "
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    with pytest.raises(DataError, match="row 3: instruction, or prompt, must be non-empty text"):
        train(settings(world, "gold=none"))


def test_a_resume_against_another_proxy_is_refused(world, tmp_path):
    config = settings(world, "steps=2")
    train(config)
    save_reward_model(load_reward_model(config.policy.name, lora_rank=2, depth=2, dtype="float32",
                                        seed=5), tmp_path / "rm")
    with pytest.raises(ConfigError, match=r"another reward_model \(its weights\)"):
        train(config, resume=True)


def test_the_end_of_an_answer_is_the_templates_whatever_the_tokenizer_calls_eos(tiny_path):
    policy = load_policy(tiny_path, lora_rank=2, dtype="float32")
    stop = end_of_turn(policy.tokenizer)
    assert policy.tokenizer.decode([stop]) == "<|im_end|>"
    policy.tokenizer.eos_token = "<|endoftext|>"
    assert end_of_turn(policy.tokenizer) == stop


def test_the_shipped_config_parses():
    from pathlib import Path

    import bsr_lite
    path = Path(bsr_lite.__file__).parent / "configs" / "rloo_fast.yaml"
    config = load_config(path, RLOOConfig)
    assert config.kl_coef == 0.05 and parse(read_yaml(path), RLOOConfig, "x")


def test_prompts_that_are_too_long_are_left_out_and_counted(world, capsys, tmp_path):
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    rows[3]["prompt"] = "Name birds. " * 60
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    train(settings(world, "max_prompt_tokens=60", "steps=1"))
    assert "1 of 10 prompts are over 60 tokens" in capsys.readouterr().out
    with pytest.raises(DataError, match="0 prompts of at most 5 tokens are left, a step takes 4"):
        train(settings(world, "max_prompt_tokens=5"))
