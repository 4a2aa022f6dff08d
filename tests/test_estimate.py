import dataclasses
import itertools
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from bsr_lite.batching import count_tokens, pack
from bsr_lite.config import RewardModelConfig, load_config, parse
from bsr_lite.embedded import EMBEDDED, HUB_ID
from bsr_lite.errors import ConfigError, ModelError
from bsr_lite.models import load_reward_model
from bsr_lite.saving import save_reward_model
from bsr_lite.scale import estimate as module
from bsr_lite.scale.estimate import (
    ARCHITECTURES,
    architecture,
    estimate,
    largest_micro_batch,
    largest_token_budget,
    measure,
)
from bsr_lite.step import backward, make_optimizer

SETTINGS = {
    "full fp32": {"dtype": "float32"},
    "full bf16": {},
    "lora": {"lora_rank": 8},
    "qlora": {"lora_rank": 8, "quantization": "nf4"},
    "qlora checkpointed": {"lora_rank": 8, "quantization": "nf4", "gradient_checkpointing": True},
}


def config_for(name, **model):
    return parse({"output_dir": "o", "model": {"name": name, **model}, "token_budget": 560,
                  "data": {"source": "s", "max_length": 128}}, RewardModelConfig, "test")


def allocator_peak(config):
    """What torch's allocator hands out during a real forward and backward pass, beside weights and
    gradients: its profiler's memory events, none of the library's counting."""
    model = load_reward_model(config.model.name, lora_rank=config.model.lora_rank,
                              quantization=config.model.quantization, dtype=config.model.dtype,
                              gradient_checkpointing=config.model.gradient_checkpointing).train()
    token_groups = largest_micro_batch(config)
    parts = [(list(range(len(token_groups))), pack(token_groups))]
    for p in model.parameters():
        p.grad = torch.zeros_like(p) if p.requires_grad else None
    backward(model, parts, config)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        backward(model, parts, config)
    events = [e for e in prof.profiler.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=lambda e: e.start_ns())
    return max(itertools.accumulate(e.nbytes() for e in events))


@pytest.mark.parametrize("setting", SETTINGS)
def test_activations_are_those_the_allocator_sees(tiny_path, setting):
    config = config_for(tiny_path, **SETTINGS[setting])
    parts, peak = estimate(config), allocator_peak(config)
    assert parts["activations"] == pytest.approx(peak, rel=0.02)
    assert measure(config) == pytest.approx(peak, rel=0.02)
    assert parts["saved"] < parts["activations"] < parts["total"]


@pytest.mark.parametrize("setting", SETTINGS)
def test_static_parts_are_those_of_the_loaded_model(tiny_path, setting):
    config = config_for(tiny_path, **SETTINGS[setting])
    parts, options = estimate(config), dict(SETTINGS[setting])
    model = load_reward_model(tiny_path, **options)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert parts["trained"] == sum(p.numel() for p in trained)
    held = sum(p.numel() * p.element_size() for p in model.parameters())
    for p in model.parameters():  # the scales of 4-bit weights are no parameters
        state = getattr(p, "quant_state", None)
        held += sum(t.numel() * t.element_size() for t in (
            state.absmax, state.state2.absmax)) if state else 0
    assert parts["base"] + parts["adapters"] == pytest.approx(held, rel=0.01)
    optimizer = make_optimizer(model, config)
    for p in trained:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    state = sum(t.numel() * t.element_size() for s in optimizer.state.values()
                for t in s.values() if t.ndim)
    assert parts["optimizer"] == state and parts["gradients"] == 4 * parts["trained"]


def test_parts_add_up_and_8_bit_states_take_a_quarter(tiny_path):
    config = config_for(tiny_path, lora_rank=4)
    parts = estimate(config)
    names = ("base", "adapters", "gradients", "optimizer", "activations")
    assert parts["total"] == sum(parts[n] for n in names)
    config.optimizer = "paged_adamw_8bit"
    assert estimate(config)["optimizer"] * 4 == parts["optimizer"]


def test_largest_micro_batch_fills_the_budget_or_holds_one_pair():
    config = config_for("x")
    token_groups = largest_micro_batch(config)
    assert sum(map(count_tokens, token_groups)) == 560
    assert all(len(t[0]) + len(r) <= 128 for t in token_groups for r in t[1:])
    config.token_budget = 128
    (token_group,) = largest_micro_batch(config)
    assert count_tokens(token_group) == 224 and len(token_group[0]) + len(token_group[1]) == 128
    config.token_budget, config.batch_size = 10**6, 3
    assert len(largest_micro_batch(config)) == 3


def test_known_sizes():
    """Published parameter counts of the backbones (one embedding), to a thousandth."""
    counts = {"meta-llama/Llama-3.1-8B-Instruct": 8.0303e9 - 128256 * 4096,
              "meta-llama/Llama-3.2-1B-Instruct": 1.2358e9,
              "meta-llama/Llama-3.2-3B-Instruct": 3.2128e9,
              "Qwen/Qwen2.5-1.5B-Instruct": 1.5437e9, "Qwen/Qwen2.5-3B-Instruct": 3.0859e9,
              HUB_ID: 134.515e6}
    assert set(counts) | {EMBEDDED} == set(ARCHITECTURES)
    for name, count in counts.items():
        model = module.meta_model(config_for(name).model)
        assert sum(p.numel() for p in model.parameters()) == pytest.approx(count, rel=1e-3)


def test_embedded_sizes_are_the_converted_models():
    from transformers import AutoConfig

    from bsr_lite.embedded import embedded_model_path
    real, ours = AutoConfig.from_pretrained(embedded_model_path()), architecture(EMBEDDED)
    for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                 "num_key_value_heads", "vocab_size", "max_position_embeddings"):
        assert getattr(real, name) == getattr(ours, name)


@pytest.mark.parametrize("options", [{"lora_rank": 4}, {"depth": 2}], ids=["adapters", "full"])
def test_saved_models_have_their_own_sizes(tiny_path, tmp_path, options):
    config = config_for(tiny_path, dtype="float32", **options)
    save_reward_model(load_reward_model(tiny_path, dtype="float32", **options), tmp_path)
    again = estimate(config_for(str(tmp_path)))
    assert again == estimate(config)
    with pytest.raises(ModelError, match="is a saved model"):
        estimate(config_for(str(tmp_path), lora_rank=64))


def test_models_that_cannot_be_reward_models_here_are_one_clear_error(tmp_path):
    from transformers import Gemma2Config, GPTNeoXConfig, T5Config, ViTConfig
    small = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
             "num_attention_heads": 2}
    for config, message in (
            (GPTNeoXConfig(**small), "score"), (ViTConfig(), "no reward model of this kind"),
            (T5Config(num_layers=1), "score"), (Gemma2Config(
                **small, num_key_value_heads=1, head_dim=8), "softcap")):
        config.save_pretrained(tmp_path)
        with pytest.raises(ModelError, match=message):
            estimate(config_for(str(tmp_path)))


def test_unknown_model_names_the_known_ones():
    with pytest.raises(ModelError, match=r"no sizes known for nobody/x.*Llama-3.1-8B"):
        estimate(config_for("nobody/x"))


@pytest.mark.slow
def test_the_largest_token_budget_fits_and_twice_as_much_does_not(tiny_path):
    config = config_for(tiny_path, lora_rank=4)
    config.batch_size, config.data.max_length = 64, 64
    for available in (6e6, 12e6):
        budget = largest_token_budget(config, available)
        assert budget in [128 * 2**i for i in range(6)]
        totals = [estimate(dataclasses.replace(config, token_budget=b))["total"]
                  for b in (budget, 2 * budget)]
        assert totals[0] <= available < totals[1] * 1.05  # the straight line is a little off
    assert largest_token_budget(config, 1e12) == 2 * 64 * 64  # at most a batch
    with pytest.raises(ConfigError, match="one pair of data.max_length 64 takes .*: lower it, "):
        largest_token_budget(config, 1e5)


def test_the_command_says_what_fits_and_measures(tiny_path, tmp_path, capsys):
    path = tmp_path / "c.yaml"
    path.write_text(f"model: {{name: {tiny_path}, lora_rank: 4}}\noutput_dir: o\nbatch_size: 2\n"
                    "data: {source: nowhere.jsonl, max_length: 64}\n")
    module.main(["--config", str(path), "--gb", "1", "--measure"])
    out = capsys.readouterr().out
    assert "adapters of rank 4 and head" in out and "| base weights, bfloat16 |" in out
    assert "Largest token_budget that fits: 256\n" in out and "the estimate is off by" in out


@pytest.mark.slow
def test_8b_on_one_consumer_card(capsys):
    path = "bsr_lite/configs/rm_8b_qlora_bsr.yaml"
    module.main(["--config", path])
    out = capsys.readouterr().out
    parts = estimate(load_config(path))
    assert f"| total per GPU, one process | {parts['total'] / 1e9:.2f} |" in out
    assert parts["total"] < 22e9 and "41.95 million trained weights" in out
    weights = 7.5049e9 - 128256 * 4096  # all but the embedding are linear layers and norms
    assert parts["base"] == pytest.approx(weights * 0.516 + 128256 * 4096 * 2, rel=2e-3)
    assert f"{parts['total'] / 1e9:.1f} GB." in Path(path).read_text()
