"""Estimates of a dry run against counts on models that run here."""

import math
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bsr_lite.batching import count_tokens, pack
from bsr_lite.config import RewardModelConfig, parse
from bsr_lite.errors import ConfigError
from bsr_lite.models import load_reward_model
from bsr_lite.scale import dry_run as module
from bsr_lite.scale.cards import CONTEXT
from bsr_lite.scale.dry_run import (
    CARDS,
    UTILISATION,
    gathered_bytes,
    memory,
    report,
    step_flops,
    step_work,
    steps_of,
)
from bsr_lite.scale.estimate import count_step, estimate, largest_micro_batch
from bsr_lite.scale.fake import meta_model
from bsr_lite.step import backward

CONFIGS = Path(__file__).parents[1] / "bsr_lite" / "configs"
SETTINGS = {"full": {}, "checkpointed": {"gradient_checkpointing": True}, "lora": {"lora_rank": 4},
            "lora checkpointed": {"lora_rank": 4, "gradient_checkpointing": True}}


def config_for(name, model=None, data=None, **values):
    return parse({"output_dir": "o", "model": {"name": name, **(model or {})}, "token_budget": 560,
                  "data": {"source": "s", "max_length": 128} | (data or {}), **values},
                 RewardModelConfig, "test")


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"):
        monkeypatch.delenv(name, raising=False)


# ---- operations ----------------------------------------------------------------------------------

def counted(model, parts, config) -> tuple[int, int]:
    """Operations of linear layers and of attention that torch counts in a real step. The plain
    attention kernel computes whole rectangles, and is the one that torch counts on a CPU."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        backward(model, parts, config)
    by_name = {str(op): n for op, n in counter.get_flop_counts()["Global"].items()}
    assert set(by_name) == {"aten.mm", "aten.bmm"}
    return by_name["aten.mm"], by_name["aten.bmm"]


@pytest.mark.parametrize("setting", SETTINGS)
def test_operations_are_those_torch_counts(tiny_path, setting):
    """Left out of the formula: 4-bit work, the head; under LoRA the first layer's inputs need no
    gradient, and recomputation stops before each layer's last product."""
    model = load_reward_model(tiny_path, dtype="float32", **SETTINGS[setting]).train()
    config = config_for(tiny_path, SETTINGS[setting])
    token_groups = largest_micro_batch(config)
    packed, tokens = pack(token_groups), sum(map(count_tokens, token_groups))
    linear, attention = counted(model, [(list(range(len(token_groups))), packed)], config)
    passes = 1 + config.model.gradient_checkpointing
    rectangles = sum(q * k for q, k in zip(packed.query_lengths, packed.key_lengths, strict=True))
    ours = step_flops(model, tokens, 0, passes)
    assert attention == step_flops(model, 0, rectangles, passes)
    if setting == "checkpointed":  # three layers' down projections
        ours -= 2 * tokens * 3 * 64 * 32
    assert linear == pytest.approx(ours, rel=1e-4 if "lora" not in setting else 0.04)


@pytest.mark.parametrize("loss", ["bsr", "spread", "level"])
def test_bsr_over_micro_batches_costs_a_forward_pass_more(tiny_path, loss):
    model = load_reward_model(tiny_path, dtype="float32").train()
    config = config_for(tiny_path, batch_size=4, loss=loss, bsr_lambda=0.1,
                        token_budget=256)
    token_groups = [[[1] * 8, [2] * 120, [3] * 120]] * 4
    parts = [([i], pack([group])) for i, group in enumerate(token_groups)]
    linear, _ = counted(model, parts, config)
    work = step_work(config, model, 1)
    assert (work["micro_batches"], work["passes"]) == (4, 2)
    tokens = sum(map(count_tokens, token_groups))
    assert linear == pytest.approx(step_flops(model, tokens, 0, 2), rel=1e-4)
    assert step_work(config, model, 4)["passes"] == 1  # a GPU's one pair is one micro-batch


def test_published_rules_of_thumb():
    """6N, 8N and 4N, 6N a token at 8B, N the weights of all matrices but the embedding."""
    n = 32 * (4096 * 4096 * 2 + 4096 * 1024 * 2 + 3 * 4096 * 14336)
    for options, factor, rel in (({}, 6, 1e-9), ({"lora_rank": 16}, 4, 0.02)):
        model = meta_model(config_for("meta-llama/Llama-3.1-8B-Instruct", options).model)
        for passes in (1, 2):
            expected = (factor + 2 * (passes - 1)) * n
            assert step_flops(model, 1, 0, passes) == pytest.approx(expected, rel=rel)


def test_work_of_a_step_is_the_whole_batch_at_its_longest(tiny_path):
    config = config_for(tiny_path, batch_size=12)
    model = meta_model(config.model)
    work = step_work(config, model, 3)
    assert work["tokens"] == 12 * 2 * 128
    assert work["micro_batches"] == 2  # 4 pairs a GPU, 2 of 256 tokens in 560
    pairs = 24 * sum(range(1, 129))  # every token attends to itself and to what is before it
    assert work["flops"] == step_flops(model, 12 * 2 * 128, pairs, 1)


# ---- memory --------------------------------------------------------------------------------------

def test_full_sharding_divides_what_is_stored_and_adds_what_is_gathered(tiny_path):
    config = config_for(tiny_path, batch_size=16)
    model, alone = meta_model(config.model, "h100"), estimate(config, "h100")
    table = memory(config, model, 4)
    assert {k: v for k, v in table["DDP"].items() if k != "gathered"} == alone | {
        "total": alone["total"]}
    for part in ("base", "gradients", "optimizer"):
        assert 0 <= 4 * table["FSDP2"][part] - alone[part] < 4
    layer, outside = 3 * 32 * 64 + 2 * 32 * 32 + 2 * 32 * 16 + 2 * 32, 8192 * 32 + 32
    assert table["FSDP2"]["gathered"] == gathered_bytes(model) == (
        4 * outside + 2 * 2 * layer + 4 * outside)
    assert table["FSDP2"]["activations"] <= alone["activations"]  # no weight is cast
    assert table["FSDP2"]["total"] == sum(table["FSDP2"][k] for k in module.PARTS)
    few = memory(config_for(tiny_path, batch_size=4), model, 4)["DDP"]  # one pair a GPU
    assert few["tokens"] == 256 - 32 < alone["tokens"] and few["activations"] < alone["activations"]


def test_activations_of_gathered_weights_are_those_of_a_real_model_in_bf16(tiny_path):
    config = config_for(tiny_path)
    model = load_reward_model(tiny_path, dtype="bfloat16").train()
    for p in model.backbone.layers.parameters():
        p.data = p.data.to(torch.bfloat16)
    hook = model.backbone.register_forward_pre_hook(  # an old card's kernel runs on a CPU, too
        lambda _, args, inputs: setattr(inputs["packed"], "kernel", "expanded"), with_kwargs=True)
    measured = count_step(model, config)["peak"]
    hook.remove()
    found = memory(config, meta_model(config.model), 2, "t4")["FSDP2"]["activations"]
    assert found == pytest.approx(measured, rel=0.02)


def test_the_launcher_decides_how_memory_is_cut(tiny_path, monkeypatch):
    config, bits = config_for(tiny_path), config_for(tiny_path, {"lora_rank": 4,
                                                                 "quantization": "nf4"})
    assert list(module.layouts(config, 1)) == ["one GPU"]
    assert list(module.layouts(config, 2)) == ["DDP", "FSDP2"]
    assert list(module.layouts(bits, 2)) == ["DDP"]  # 4-bit weights stay whole
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert list(module.layouts(config, 2)) == ["DDP"]
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert list(module.layouts(config, 2)) == ["FSDP2"]
    for whole in (bits, config_for(tiny_path, optimizer="paged_adamw_8bit")):
        with pytest.raises(ConfigError, match="are not sharded: launch with"):
            module.layouts(whole, 2)


# ---- steps, time, cost ---------------------------------------------------------------------------

def test_steps_follow_from_the_rows_where_they_are_known(tiny_path):
    skywork = {"source": "Skywork/Skywork-Reward-Preference-80K-v0.2", "format": "skywork"}
    assert steps_of(config_for(tiny_path, data=skywork | {"dev_share": 0.0}, batch_size=128,
                               epochs=2)) == 2 * 602  # 77,016 pairs
    feedback = {"source": "openbmb/UltraFeedback", "format": "ultrafeedback", "dev_share": 0.05,
                "valid_share": 0.12}
    assert steps_of(config_for(tiny_path, data=feedback | {"max_pairs": 51200},
                               batch_size=128)) == 400
    assert steps_of(config_for(tiny_path, data=feedback, batch_size=128)) == math.ceil(
        round(63967 * 0.83) / 128)
    assert steps_of(config_for(tiny_path)) is None


def test_time_and_cost_of_a_card(tiny_path):
    config = config_for(tiny_path, batch_size=8)
    flops = step_work(config, meta_model(config.model), 4)["flops"]
    line = next(x for x in report(config, 4).splitlines() if x.startswith("| h100 |"))
    seconds = flops / (4 * CARDS["h100"].tflops * 1e12 * UTILISATION)
    assert line.split("|")[3].split(",")[0].strip() == "DDP"
    assert float(line.split("|")[4]) == pytest.approx(seconds, abs=0.005)
    assert float(line.split("|")[6]) == pytest.approx(
        seconds * 1000 / 3600 * 4 * CARDS["h100"].dollars, abs=0.5)


# ---- what cannot work ----------------------------------------------------------------------------

@pytest.mark.parametrize(("values", "gpus", "message"), [
    ({}, 3, "batch_size 32 is not divisible over 3 GPUs"), ({}, 64, "divisible over 64 GPUs"),
    ({}, 0, "not divisible over 0 GPUs"),
    ({"data": {"max_length": 513}, "token_budget": 1024}, 1,
     "max_length 513 is beyond the 512 positions"),
])
def test_what_cannot_work_is_one_clear_error(tiny_path, values, gpus, message):
    with pytest.raises(ConfigError, match=message):
        report(config_for(tiny_path, **values), gpus)


def cards_of(text: str) -> dict[str, list[str]]:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]]
            for line in text.splitlines() if line.startswith("| ")]
    return {row[0]: row for row in rows if row[0] in CARDS}


def test_memory_is_held_against_every_card_that_computes_alike(tiny_path, monkeypatch):
    config = config_for(tiny_path, batch_size=8)
    parts = memory(config, meta_model(config.model), 1)["one GPU"]
    need = parts["total"] / 1e9
    assert parts["context"] == CONTEXT
    monkeypatch.setitem(CARDS, "tight", CARDS["h100"]._replace(memory=need * 0.99))
    monkeypatch.setitem(CARDS, "loose", CARDS["h100"]._replace(memory=need * 1.01))
    rows = cards_of(report(config, 1))
    assert (rows["tight"][2], rows["loose"][2]) == ("no", "one GPU")
    assert "t4" not in rows and "3060" in rows  # a T4 computes in float16, otherwise
    assert list(cards_of(report(config, 1, "t4"))) == ["t4"]


def test_every_way_to_hold_it_is_held_against_a_card(tiny_path, monkeypatch):
    parts = dict.fromkeys(module.PARTS, 0)
    monkeypatch.setattr(module, "memory", lambda *_: {"DDP": parts | {"total": 100 * 10**9},
                                                      "FSDP2": parts | {"total": 50 * 10**9}})
    rows = cards_of(report(config_for(tiny_path, batch_size=8), 2))
    assert [rows[card][2] for card in ("l40s", "h100", "h200")] == ["no", "FSDP2", "DDP, FSDP2"]


# ---- the command ---------------------------------------------------------------------------------

@pytest.mark.slow
@pytest.mark.parametrize("path", [p for p in sorted(CONFIGS.glob("rm_*.yaml"))
                                  if "_bt" not in p.stem], ids=lambda p: p.name)
def test_every_shipped_config_dry_runs(path, capsys):
    """Two layers of it: what whole ones take is held against their headers, in
    test_paper_configs. A bt config is its bsr twin but for the objective, says test_config."""
    module.main(["--config", str(path), "--set", "model.depth=2"])
    rows = {x.split("|")[1].strip(): x for x in capsys.readouterr().out.splitlines() if "|" in x}
    parts = [float(rows[k].split("|")[2]) for k in module.PARTS if k in rows]
    assert float(rows["total"].split("|")[2]) == pytest.approx(sum(parts), abs=0.03)
    assert set(CARDS) & set(rows)


def test_it_trains_nothing_and_speaks_once_under_a_launcher(tiny_path, tmp_path, capsys,
                                                            monkeypatch):
    path = tmp_path / "c.yaml"
    path.write_text(f"model: {{name: {tiny_path}}}\ndata: {{source: nowhere.jsonl}}\n"
                    f"output_dir: {tmp_path / 'run'}\nbatch_size: 6\n")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ConfigError, match="6 is not divisible over 4 GPUs"):
        module.main(["--config", str(path)])
    module.main(["--config", str(path), "--gpus", "2"])
    assert "a step of 6 pairs has" in capsys.readouterr().out
    monkeypatch.setenv("RANK", "1")
    module.main(["--config", str(path), "--gpus", "2"])
    assert capsys.readouterr().out == "" and not (tmp_path / "run").exists()
