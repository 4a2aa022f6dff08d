"""The configs of the paper's runs: what they state is the paper's, and they can be read."""

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from bsr_lite.config import RLOOConfig, load_config
from bsr_lite.scale.cards import CARDS
from bsr_lite.scale.dry_run import UTILISATION, memory, step_work, steps_of
from bsr_lite.scale.estimate import estimate, estimate_rloo
from bsr_lite.scale.fake import meta_model

CONFIGS = Path(__file__).parents[1] / "bsr_lite" / "configs"
RUNS = {"8b": ("Llama-3.1-8B", 2e-6, 8), "1p5b": ("Qwen2.5-1.5B", 5e-6, 1),
        "3b": ("Qwen2.5-3B", 3e-6, 1)}  # base, learning rate of Sec. 3, GPUs of the header
SFT = sorted((CONFIGS / "sft").glob("*.yaml"))


@pytest.mark.parametrize("size", RUNS)
def test_bt_and_bsr_differ_in_the_objective_and_where_they_write(size):
    bt, bsr = (yaml.safe_load((CONFIGS / f"rm_{size}_{loss}.yaml").read_text())
               for loss in ("bt", "bsr"))
    assert {k for k in bsr if bsr[k] != bt.get(k)} == {"output_dir", "loss", "bsr_lambda",
                                                       "bsr_group_size"}
    assert set(bt) <= set(bsr) and bt["output_dir"] != bsr["output_dir"]


@pytest.mark.parametrize(("ours", "theirs"), [("rm_8b_spread", "rm_8b_bsr"),
                                              ("rm_qlora_spread", "rm_qlora_24gb")])
def test_spread_configs_are_headed_as_ours_and_differ_in_the_objective_alone(ours, theirs):
    spread, bsr = (yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
                   for name in (ours, theirs))
    assert {k for k in bsr if bsr[k] != spread[k]} == {"output_dir", "loss", "bsr_lambda"}
    assert set(spread) == set(bsr) and load_config(CONFIGS / f"{ours}.yaml").loss == "spread"
    assert header(CONFIGS / f"{ours}.yaml").startswith("Ours, not the paper's")


@pytest.mark.parametrize("size", RUNS)
def test_reward_models_have_the_papers_settings(size):
    config, (base, rate, _) = load_config(CONFIGS / f"rm_{size}_bsr.yaml"), RUNS[size]
    assert base in config.model.name and config.model.lora_rank is None
    assert (config.learning_rate, config.head_learning_rate, config.batch_size) == (rate, None, 128)
    assert (config.warmup_ratio, config.epochs, config.bsr_lambda) == (0.05, 1, 1e-3)
    assert config.bsr_group_size == 16 and config.data.max_length == 2048
    train_share = 1 - config.data.dev_share - config.data.valid_share
    assert size == "8b" or 63967 * train_share >= config.data.max_pairs == 51200


@pytest.mark.slow
@pytest.mark.parametrize("size", RUNS)
def test_headers_say_what_the_dry_run_computes(size):
    gpus = RUNS[size][2]
    for loss in ("bt", "bsr"):
        path = CONFIGS / f"rm_{size}_{loss}.yaml"
        config, text = load_config(path), path.read_text()
        model = meta_model(config.model)
        if loss == "bt":  # the objective changes none of it
            held = min(p["total"] for p in memory(config, model, gpus).values()) / 1e9
        assert f"{held:.1f} GB" in text and held < 0.9 * CARDS["h100"].memory
        seconds = step_work(config, model, gpus)["flops"] / (
            gpus * CARDS["h100"].tflops * 1e12 * UTILISATION)
        (hours,) = re.findall(r"at\s+(?:# )?most\s+(?:# )?([\d.]+) hours", text)
        assert float(hours) == pytest.approx(seconds * steps_of(config) / 3600, abs=0.051)
        assert f"assumed {UTILISATION:.0%}" in text


def hours_of(config, card: str) -> float:
    seconds = step_work(config, meta_model(config.model, card), 1)["flops"] / (
        CARDS[card].tflops * 1e12 * UTILISATION)
    return seconds * steps_of(config) / 3600


def header(path: Path) -> str:
    """The comment at the top, as one line."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), path.read_text().splitlines())
    return " ".join(line.lstrip("# ") for line in lines)


ONE_CARD = ["rm_qlora_t4", "rm_qlora_12gb", "rm_qlora_24gb", "rm_8b_qlora_bsr", "rloo_one_card"]
ESTIMATE = (r"`scale.estimate --card (\w+)(?: --set (\S+))?`(?:, whose sizes are the same)?: "
            r"([\d.]+) GB")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ONE_CARD, "rloo_1p5b", "rloo_1p5b_rm8b"])
def test_headers_say_what_the_estimate_of_their_card_counts(name):
    path = CONFIGS / f"{name}.yaml"
    found = re.findall(ESTIMATE, header(path))
    assert found and "Not run yet." in header(path)
    for card, override, gigabytes in found:
        if "rloo" in name:
            config = load_config(path, RLOOConfig, [override] if override else [])
            total = estimate_rloo(config, CONFIGS, card)["total"] / 1e9
        else:
            total = estimate(load_config(path), card)["total"] / 1e9
        assert float(gigabytes) == pytest.approx(total, rel=0.02)
        assert total < 0.92 * CARDS[card].memory  # some is left for fragmentation


@pytest.mark.parametrize("name", [n for n in ONE_CARD if n.startswith("rm_")])
def test_headers_of_one_card_configs_say_hours_and_their_overrides_work(name):
    path = CONFIGS / f"{name}.yaml"
    text, config = header(path), load_config(path)
    card, hours = re.search(r"`scale.dry_run --card (\w+)`: at most ([\d.]+) hours", text).groups()
    assert float(hours) == pytest.approx(hours_of(config, card), rel=0.02)
    assert config.bsr_lambda == 1e-3 and config.bsr_group_size == 16
    assert config.model.dtype == "auto" and f"assumed {UTILISATION:.0%}" in text
    overrides = re.findall(r"^#   --set ((?:\S+=\S+ ?)+)(?:: at most ([\d.]+) hours)?",
                           path.read_text().replace(": at most", " : at most"), re.MULTILINE)
    others = [load_config(path, overrides=text.split()) for text, _ in overrides]
    assert len({c.output_dir for c in [*others, config]}) == len(others) + 1
    assert {"bsr", "bt"} == {c.loss for c in others}
    (shorter,) = [c for c in others if c.data.max_pairs]
    hours = float(re.search(r"max_pairs=8000 \S+: at most ([\d.]+) hours", text)[1])
    assert hours == pytest.approx(hours_of(shorter, card), rel=0.05)


def test_rloo_on_one_card_shares_its_base():
    config = load_config(CONFIGS / "rloo_one_card.yaml", RLOOConfig)
    reward = load_config(CONFIGS / f"{Path(config.reward_model).parent.name}.yaml")
    assert (reward.model.name, reward.model.quantization, reward.model.depth) == (
        config.policy.name, config.policy.quantization, None)
    others = re.findall(r"^#   --set (.*)$", (CONFIGS / "rloo_one_card.yaml").read_text(),
                        re.MULTILINE)
    assert len(others) == 2
    for text in others:
        load_config(CONFIGS / "rloo_one_card.yaml", RLOOConfig, text.split())


@pytest.mark.parametrize(("name", "rate"), [("rloo_1p5b", 2e-6), ("rloo_1p5b_rm8b", 1e-6)])
def test_rloo_has_the_papers_settings_where_lora_leaves_them(name, rate):
    config = load_config(CONFIGS / f"{name}.yaml", RLOOConfig)
    assert (config.kl_coef, config.num_generations, config.warmup_ratio) == (0.05, 2, 0.03)
    assert config.prompts_per_step * config.num_generations == 128
    assert config.steps == 5 * 51200 / config.prompts_per_step
    assert config.learning_rate == pytest.approx(10 * rate)  # LoRA's, as the header says
    assert (config.standardize_prompts, config.missing_eos_penalty) == (0, 0)
    # where the paper says nothing, the official sample recipe
    assert (config.minibatches, config.clip_range, config.max_new_tokens) == (4, 0.2, 1024)
    policies = {f"runs/{Path(yaml.safe_load(p.read_text())['output_dir']).name}" for p in SFT}
    assert config.policy.name in policies  # each step's output is the next one's input
    folder = config.reward_model.removesuffix("/model")
    assert folder in {load_config(p).output_dir for p in CONFIGS.glob("rm_*_bsr.yaml")}


@pytest.mark.parametrize("path", SFT, ids=lambda p: p.stem)
def test_sft_configs_are_read_by_trl_with_the_papers_settings(path, tmp_path):
    pytest.importorskip("trl")
    from trl.scripts.sft import make_parser
    _, training, model, mixture = make_parser().parse_args_and_config(
        ["--config", str(path), "--use_cpu", "true", "--output_dir", str(tmp_path)],
        fail_with_unknown_args=True)
    assert training.per_device_train_batch_size * training.gradient_accumulation_steps * 8 == 512
    assert (training.learning_rate, training.lr_scheduler_type) == (1e-5, "cosine")
    assert (training.warmup_steps, training.num_train_epochs) == (0.1, 1)
    assert training.bf16 and training.gradient_checkpointing
    assert model.model_name_or_path == "Qwen/Qwen2.5-1.5B"
    assert mixture.datasets[0].columns == ["messages"]


@pytest.mark.slow
def test_sft_runs_on_rows_of_the_datasets_columns(tiny_path, tmp_path):
    """One step of TRL's own script with our config; a prompt column beside the messages, as in
    UltraChat, would stop it."""
    pytest.importorskip("trl")
    chat = [{"role": "user", "content": "Name a bird."}, {"role": "assistant", "content": "Wren."}]
    (tmp_path / "rows.jsonl").write_text(json.dumps(
        {"prompt": "Name a bird.", "prompt_id": "1", "messages": chat}) + "\n")
    values = yaml.safe_load((CONFIGS / "sft" / "ultrachat_1p5b.yaml").read_text())
    values["datasets"] = [{"path": "json", "data_files": str(tmp_path / "rows.jsonl"),
                           "columns": values["datasets"][0]["columns"]}]
    (tmp_path / "sft.yaml").write_text(yaml.safe_dump(values))
    subprocess.run([sys.executable, "-m", "trl.scripts.sft", "--config", tmp_path / "sft.yaml",
                    "--model_name_or_path", tiny_path, "--output_dir", tmp_path / "policy",
                    "--use_cpu", "true"], check=True, capture_output=True, timeout=300)
    from bsr_lite.policy import load_policy
    policy = load_policy(str(tmp_path / "policy"), lora_rank=4)  # as rloo_1p5b.yaml takes it up
    assert policy.tokenizer.eos_token == "<|im_end|>"
