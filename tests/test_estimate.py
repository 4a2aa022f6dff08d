import dataclasses
import itertools
import re
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from bsr_lite import machine
from bsr_lite.batching import count_tokens, pack, varlen_attn
from bsr_lite.config import RewardModelConfig, RLOOConfig, load_config, parse
from bsr_lite.embedded import EMBEDDED, HUB_ID
from bsr_lite.errors import ConfigError, ModelError
from bsr_lite.models import load_reward_model
from bsr_lite.saving import save_reward_model
from bsr_lite.scale import estimate as module
from bsr_lite.scale.cards import CARDS, CONTEXT, computing
from bsr_lite.scale.estimate import (
    estimate,
    estimate_rloo,
    largest_micro_batch,
    largest_token_budget,
    measure,
)
from bsr_lite.scale.fake import (
    ARCHITECTURES,
    architecture,
    count,
    fill,
    meta_model,
    reward_model_of,
    weights,
)
from bsr_lite.step import backward, make_optimizer

# what is counted is what a torch computes by, and torch 2.6 has other kernels
todays_kernels = pytest.mark.skipif(varlen_attn is None, reason="this torch has no varlen_attn")
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
              "Qwen/Qwen2.5-7B-Instruct": 7.6156e9 - 152064 * 3584,
              HUB_ID: 134.515e6}
    assert set(counts) | {EMBEDDED} == set(ARCHITECTURES)
    for name, number in counts.items():
        model = meta_model(config_for(name).model)
        assert sum(p.numel() for p in model.parameters()) == pytest.approx(number, rel=1e-3)


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
            (GPTNeoXConfig(**small), "score"), (ViTConfig(), "no model of this kind"),
            (T5Config(num_layers=1), "score"), (Gemma2Config(
                **small, num_key_value_heads=1, head_dim=8), "softcap")):
        config.save_pretrained(tmp_path)
        with pytest.raises(ModelError, match=message):
            estimate(config_for(str(tmp_path)))


def test_unknown_model_names_the_known_ones():
    with pytest.raises(ModelError, match=r"no sizes known for nobody/x.*Llama-3.1-8B"):
        estimate(config_for("nobody/x"))


@pytest.mark.parametrize("options", [{"lora_rank": 4}, {}], ids=["adapters", "full"])
def test_the_largest_token_budget_fits_and_twice_as_much_does_not(tiny_path, options):
    """Full: one and two pairs take less than the embedding's gradient, and the line is level."""
    config = config_for(tiny_path, depth=1, **options)
    config.batch_size, config.data.max_length, available = 64, 64, 6.5e6
    budget = largest_token_budget(config, available)
    assert budget in [128 * 2**i for i in range(6)]
    totals = [estimate(dataclasses.replace(config, token_budget=b))["total"]
              for b in (budget, 2 * budget)]
    assert totals[0] <= available < totals[1] * 1.05  # the straight line is a little off
    assert largest_token_budget(config, 1e12) == 2 * 64 * 64  # at most a batch
    assert largest_token_budget(config, 1e5) == 0


# ---- cards ---------------------------------------------------------------------------------------

def test_a_card_computes_what_machine_decides_there():
    for name, card in CARDS.items():
        new = tuple(card.capability) >= (8, 0)
        dtype, kernel = ("bfloat16", "varlen") if new else ("float16", "expanded")
        assert computing(name, "auto") == (dtype, kernel)
        assert computing(name, "float32") == ("float32", "expanded")
        # a saved model's format is kept where the card has it; what a config asks for is obeyed
        assert computing(name, "bfloat16", saved=True)[0] == dtype
        assert computing(name, "bfloat16")[0] == "bfloat16"


@todays_kernels
def test_keys_and_values_repeated_for_every_head_take_more(tiny_path):
    """The same bfloat16 model: one call of the flash kernel, or a segment a call on an old card."""
    config = config_for(tiny_path, dtype="bfloat16", lora_rank=4)
    new, old = estimate(config, "3060"), estimate(config, "t4")
    assert old["activations"] > 1.05 * new["activations"]
    assert {k: old[k] for k in ("base", "adapters", "optimizer")} == {
        k: new[k] for k in ("base", "adapters", "optimizer")}
    assert new["context"] == old["context"] == CONTEXT


@todays_kernels
@pytest.mark.parametrize("quantization", [None, "nf4"])
def test_float16_holds_embedding_and_norms_in_fp32(tiny_path, quantization):
    config = config_for(tiny_path, lora_rank=4, quantization=quantization)
    new, old = estimate(config, "3060"), estimate(config, "t4")
    wide = 8192 * 32 + 7 * 32  # embedding, two norms a layer and the last one
    assert old["base"] - new["base"] == 2 * wide
    assert old["activations"] > new["activations"]


def test_4_bit_adapters_take_inputs_as_they_are_on_a_card(tiny_path, monkeypatch):
    """PEFT asks for CUDA's autocast: on a CPU every adapted layer keeps a copy of its input."""
    monkeypatch.setattr(machine, "device", lambda: torch.device("cpu"))
    config = config_for(tiny_path, dtype="bfloat16", lora_rank=4, quantization="nf4")
    layers = {name: m for name, m in meta_model(config.model, "3060").named_modules()
              if hasattr(m, "lora_A")}
    assert len(layers) == 3 * 7
    assert not any(m.cast_input_dtype_enabled for m in layers.values())
    assert estimate(config, "3060")["saved"] < estimate(config)["saved"]


@todays_kernels
@pytest.mark.parametrize(("path", "activations", "total"), [
    ("rm_fast", 916773452, 1197688140), ("rm_full_depth", 1478981676, 3631231276)])
def test_without_a_card_a_cpu_is_counted_as_before_there_were_cards(path, activations, total,
                                                                    monkeypatch):
    monkeypatch.setattr(machine, "device", lambda: torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = load_config(f"bsr_lite/configs/{path}.yaml", overrides=["model.dtype=float32"])
    parts = estimate(config)
    assert parts["activations"] == pytest.approx(activations, rel=1e-3)
    assert parts["total"] == pytest.approx(total, rel=1e-3) and parts["context"] == 0


# ---- RLOO ----------------------------------------------------------------------------------------

def rloo_for(path, folder, **values):
    return parse({"output_dir": "o", "policy": {"name": path, "lora_rank": 4, "dtype": "float32"},
                  "reward_model": str(folder), "prompts_per_step": 4, "num_generations": 3,
                  "max_new_tokens": 20, "standardize_prompts": 0, "token_budget": 1200} | values,
                 RLOOConfig, "test")


def test_micro_batches_of_answers_fill_the_budget():
    groups = fill(1300, 512, 20, 3, 4)
    assert [[len(x) for x in g] for g in groups] == [[512, 20, 20, 20], [512, 20, 20, 20]]
    assert [len(x) for x in fill(1100, 512, 20, 3, 4)[1]] == [512, 5, 5, 5]
    assert len(fill(10**6, 512, 20, 3, 4)) == 4 and len(fill(1, 512, 20, 3, 4)) == 1


def test_an_rloo_update_takes_what_a_real_one_does(tiny_path, tmp_path, monkeypatch):
    from bsr_lite.policy import load_policy
    from bsr_lite.train_rloo import update
    monkeypatch.setattr(machine, "device", lambda: torch.device("cpu"))
    save_reward_model(load_reward_model(tiny_path, lora_rank=4, dtype="float32"), tmp_path)
    config = rloo_for(tiny_path, tmp_path)
    parts = estimate_rloo(config, Path("nowhere"))
    policy = load_policy(tiny_path, lora_rank=4, dtype="float32")
    batch = [{"token_group": g} for g in fill(1200, 512, 20, 3, 4)]
    zeros = torch.zeros(len(batch), 3)
    real = count(policy, lambda _: update(policy, batch, zeros, zeros, config))
    assert parts["update"] == pytest.approx(real, rel=0.02)
    held = sum(p.numel() * p.element_size() for p in policy.parameters())
    assert parts["base"] + parts["adapters"] == pytest.approx(held, rel=0.01)
    assert parts["reward"] == pytest.approx(parts["adapters"] + 4 * 32, rel=0.01)  # on that base
    assert parts["activations"] == max(parts[k] for k in ("update", "sampling", "scoring"))
    assert parts["total"] == sum(parts.get(k, 0) for k in module.PARTS if k != "total")


@todays_kernels
def test_sampling_holds_caches_and_distributions(tiny_path, tmp_path):
    """Against arithmetic: 3 layers, 2 key heads of 8; logits and two fp64 rows of 8,192 words."""
    (tmp_path / "rm_a.yaml").write_text(
        f"model: {{name: {tiny_path}, lora_rank: 4}}\ndata: {{source: s}}\noutput_dir: runs/a\n")
    policy = {"name": tiny_path, "lora_rank": 4}
    config = rloo_for(tiny_path, "runs/a/model", policy=policy, num_generations=16)
    parts = estimate_rloo(config, tmp_path, "3060")
    tokens, rows = 4 * 512 + 64 * 20, 64
    arithmetic = tokens * 3 * 2 * 2 * 8 * 2 + rows * 8192 * (2 + 8 + 8)
    assert arithmetic <= parts["sampling"] < 1.1 * arithmetic
    # an old card's plain kernel holds scores of 4 heads, a prompt by itself; its keys are fp32
    assert estimate_rloo(config, tmp_path, "t4")["sampling"] > 4 * 4 * 512**2 * 4
    config.standardize_prompts = 16  # the reference's answers are drawn together
    assert estimate_rloo(config, tmp_path, "3060")["sampling"] > 3.5 * parts["sampling"]


def test_a_reward_model_is_what_its_config_will_train_and_may_have_weights_of_its_own(tiny_path,
                                                                                     tmp_path):
    text = "model: {{name: {}, {}}}\ndata: {{source: s}}\noutput_dir: {}\n"
    (tmp_path / "rm_a.yaml").write_text(text.format(tiny_path, "lora_rank: 4", "runs/a"))
    (tmp_path / "rm_b.yaml").write_text(text.format(tiny_path, "depth: 2", "runs/b"))
    shared = rloo_for(tiny_path, "runs/a/model")
    assert reward_model_of(shared, tmp_path).lora_rank == 4
    own = rloo_for(tiny_path, "runs/b/model")
    small, large = (estimate_rloo(c, tmp_path, "3060")["reward"] for c in (shared, own))
    layer = 3 * 32 * 64 + 2 * 32 * 32 + 2 * 32 * 16
    # the matrices of its layers in bfloat16
    assert large == pytest.approx(4 * (8192 * 32 + 5 * 32 + 32) + 2 * 2 * layer, rel=1e-3)
    assert large > 10 * small
    with pytest.raises(ConfigError, match="runs/c/model: not trained yet, and by no rm_"):
        reward_model_of(rloo_for(tiny_path, "runs/c/model"), tmp_path)


# ---- the command ---------------------------------------------------------------------------------

def test_the_command_says_whether_it_fits_and_what_to_change(tiny_path, tmp_path, capsys,
                                                             monkeypatch):
    path = tmp_path / "rm_c.yaml"
    path.write_text(f"model: {{name: {tiny_path}, depth: 1}}\noutput_dir: o\nbatch_size: 8\n"
                    "data: {source: nowhere.jsonl, max_length: 64}\ntoken_budget: 1024\n")
    module.main(["--config", str(path)])
    assert "fit" not in capsys.readouterr().out.lower()
    module.main(["--config", str(path), "--card", "t4"])
    out = capsys.readouterr().out
    assert "| context | 0.60 |" in out and out.splitlines()[-1].startswith("Fits: 0.6 GB")
    need = estimate(load_config(path), "t4")["total"] / 1e9
    monkeypatch.setitem(CARDS, "t4", CARDS["t4"]._replace(memory=need * 0.999))
    module.main(["--config", str(path), "--card", "t4"])
    (last,) = re.findall(r"^DOES NOT FIT: .* set token_budget=(\d+)\.$", capsys.readouterr().out,
                         re.MULTILINE)
    config = load_config(path, overrides=[f"token_budget={last}"])
    assert int(last) < 1024 and estimate(config, "t4")["total"] / 1e9 <= need * 0.999
    monkeypatch.setitem(CARDS, "t4", CARDS["t4"]._replace(memory=0.1))
    module.main(["--config", str(path), "--card", "t4"])
    assert "GB, and a t4 has 0.1: lower token_budget and data.max_length" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        module.main(["--config", str(path), "--card", "gtx280"])
    assert "choose from" in capsys.readouterr().err


def test_the_command_knows_an_rloo_run(tiny_path, tmp_path, capsys):
    (tmp_path / "rm_a.yaml").write_text(
        f"model: {{name: {tiny_path}, lora_rank: 4}}\ndata: {{source: s}}\noutput_dir: runs/a\n")
    (tmp_path / "rloo.yaml").write_text(
        f"policy: {{name: {tiny_path}, lora_rank: 4}}\nreward_model: runs/a/model\noutput_dir: o\n"
        "standardize_prompts: 0\n")
    module.main(["--config", str(tmp_path / "rloo.yaml"), "--card", "t4"])
    out = capsys.readouterr().out
    assert "update" in out and "sampling" in out and "Fits: " in out


def test_weights_of_8b_on_one_consumer_card():
    """By arithmetic. All that it takes is in its config's header: see test_paper_configs."""
    config = load_config("bsr_lite/configs/rm_8b_qlora_bsr.yaml")
    parts = weights(meta_model(config.model, "4090"), config.model.lora_rank, "4090")
    assert parts["gradients"] == pytest.approx(4 * 41.95e6, rel=1e-3)
    matrices = 7.5049e9 - 128256 * 4096  # all but the embedding are linear layers and norms
    assert parts["base"] == pytest.approx(matrices * 0.516 + 128256 * 4096 * 2, rel=2e-3)
