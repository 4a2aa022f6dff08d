"""What a machine computes on, and float16 for real: a CPU can do it, slowly."""

import math

import pytest
import torch
from conftest import assert_close_in_norm
from test_train_rm import settings, source, weights  # noqa: F401  a fixture

from bsr_lite import machine, train_rm
from bsr_lite.batching import pack
from bsr_lite.embedded import EMBEDDED
from bsr_lite.errors import ConfigError, ModelError, TrainingError
from bsr_lite.models import load_reward_model, rewards
from bsr_lite.runlog import read_metrics
from bsr_lite.saving import save_reward_model
from bsr_lite.step import loss_scaler
from bsr_lite.train_rm import train

T4, AMPERE, HOPPER = (7, 5), (8, 6), (9, 0)


@pytest.fixture
def plug_in(monkeypatch):
    """The answers of a machine with a card; nothing can be computed on it (see on_fake_cuda.py)."""
    def card(capability):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        monkeypatch.setattr(machine, "announce", lambda dtype: None)
    return card


# ---- the decision --------------------------------------------------------------------------------

@pytest.mark.parametrize("capability, dtype", [(T4, "float16"), (AMPERE, "bfloat16"),
                                               (HOPPER, "bfloat16")])
def test_bfloat16_from_ampere_on_and_float16_before(capability, dtype):
    assert machine.choose_dtype(capability) == dtype


@pytest.mark.parametrize("fast", [True, False])
def test_a_cpu_takes_bfloat16_only_where_it_has_units_for_it(monkeypatch, fast):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: fast, raising=False)
    assert machine.choose_dtype(None) == ("bfloat16" if fast else "float32")


@pytest.mark.parametrize("capability, asked, saved, expected", [
    (T4, "bfloat16", True, "float16"), (T4, "float32", True, "float32"),
    (T4, "bfloat16", False, "bfloat16"),  # at one's word
    (AMPERE, "float16", True, "float16"), (None, "bfloat16", True, "bfloat16"),
    (None, "float16", False, "float16")])
def test_a_saved_format_is_kept_where_the_machine_computes_in_it(plug_in, capability, asked, saved,
                                                                 expected):
    plug_in(capability)
    assert machine.resolve_dtype(asked, saved) == expected


def test_a_float16_model_of_a_t4_is_read_on_a_cpu_in_the_cpus_own_format(plug_in):
    plug_in(None)
    assert machine.resolve_dtype("float16", saved=True) == machine.choose_dtype(None)


def test_a_torch_without_the_flash_kernel_says_so(monkeypatch):
    assert machine.attention_kernel(HOPPER, torch.bfloat16) == (
        "varlen" if machine.varlen_attn else "expanded")
    monkeypatch.setattr(machine, "varlen_attn", None)
    assert machine.attention_kernel(HOPPER, torch.bfloat16) == "expanded"


def test_apples_gpu_is_never_taken(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert machine.device() == torch.device("cpu")


def test_a_rank_takes_its_own_card(plug_in, monkeypatch):
    plug_in(HOPPER)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert machine.device() == torch.device("cuda", 3)


def test_the_decision_is_printed_once(capsys):
    machine.announce.cache_clear()
    machine.resolve_dtype("float32")
    machine.resolve_dtype("float32")
    out = capsys.readouterr().out
    assert out.count("[machine]") == 1 and machine.describe() in out


# ---- float16 -------------------------------------------------------------------------------------

@pytest.mark.parametrize("options", [{}, {"model__lora_rank": 4}], ids=["full", "lora"])
def test_float16_trains_like_float32_and_its_norms_are_unscaled(source, tiny_path, tmp_path,  # noqa: F811
                                                                monkeypatch, options):
    monkeypatch.setattr(train_rm, "loss_scaler", lambda model: torch.amp.GradScaler(
        "cpu", init_scale=2.0**10, enabled=loss_scaler(model).is_enabled()))  # no step overflows
    rows = {}
    for dtype in ("float32", "float16"):
        train(settings(tiny_path, tmp_path, model__dtype=dtype, output_dir=str(tmp_path / dtype),
                       **options))
        rows[dtype] = read_metrics(tmp_path / dtype)
    for exact, half in zip(rows["float32"], rows["float16"], strict=True):
        assert half["train/loss_scale"] == 2**10 and "train/loss_scale" not in exact
        assert half["train/loss"] == pytest.approx(exact["train/loss"], abs=0.02)
        assert half["train/grad_norm"] == pytest.approx(exact["train/grad_norm"], rel=0.05)


def test_small_gradients_survive_float16_because_the_loss_is_scaled(tiny_path):
    """Those of float32 times 1e-7 are below the smallest number of float16; scaled they are not."""
    found = {}
    for name, dtype, scale in (("exact", "float32", 1), ("scaled", "float16", 2**16),
                               ("bare", "float16", 1)):
        model = load_reward_model(tiny_path, dtype=dtype)
        loss = 1e-7 * model(pack([[[1, 2], [3, 4], [5, 6, 7]]])).sum()
        (scale * loss).backward()
        gradient = model.backbone.layers[0].mlp.up_proj.weight.grad
        found[name] = gradient / scale / 1e-7
    assert_close_in_norm(found["scaled"], found["exact"], dtype=torch.float16)
    assert (found["bare"] == 0).float().mean() > 0.5


def test_an_overflowing_step_is_skipped_scaled_down_and_logged(source, tiny_path, tmp_path,  # noqa: F811
                                                               monkeypatch):
    monkeypatch.setattr(train_rm, "loss_scaler",
                        lambda model: torch.amp.GradScaler("cpu", init_scale=2.0**40))
    config = settings(tiny_path, tmp_path, model__dtype="float16", epochs=1)
    fresh = weights(load_reward_model(tiny_path, dtype="float16"))
    model, _ = train(config)
    rows = read_metrics(config.output_dir)
    assert [r["train/loss_scale"] for r in rows] == [2.0 ** (39 - n) for n in range(len(rows))]
    assert not any(math.isfinite(r["train/grad_norm"]) for r in rows)
    assert torch.equal(weights(model), fresh)  # no step was taken


def test_a_scale_that_cannot_fall_further_ends_the_run(source, tiny_path, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(train_rm, "loss_scaler",
                        lambda model: torch.amp.GradScaler("cpu", init_scale=1.0))
    monkeypatch.setattr(train_rm.distributed, "clip_gradients",
                        lambda trained, limit: torch.tensor(float("inf")))
    with pytest.raises(TrainingError, match="step 1: loss .*, gradient norm inf"):
        train(settings(tiny_path, tmp_path, model__dtype="float16"))


def test_resuming_in_float16_keeps_the_scale_and_is_the_same_run(source, tiny_path, tmp_path,  # noqa: F811
                                                                one_thread, monkeypatch):
    """The scale doubles every second step here, so that a resume that forgot it would show."""
    monkeypatch.setattr(train_rm, "loss_scaler", lambda model: torch.amp.GradScaler(
        "cpu", init_scale=2.0**8, growth_interval=2))
    whole, _ = train(settings(tiny_path, tmp_path, model__dtype="float16",
                              output_dir=str(tmp_path / "whole")))
    config, calls = settings(tiny_path, tmp_path, model__dtype="float16"), []
    real = torch.optim.AdamW.step

    def dies_at_step_6(self, *args, **options):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return real(self, *args, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", dies_at_step_6)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    monkeypatch.setattr(torch.optim.AdamW, "step", real)
    resumed, _ = train(config, resume=True)
    scales = [[r["train/loss_scale"] for r in read_metrics(tmp_path / name)]
              for name in ("whole", "run")]
    assert scales[0] == scales[1] and len(set(scales[0])) > 2
    assert torch.equal(weights(whole), weights(resumed))


def test_a_model_that_overflows_float16_is_refused_when_it_is_loaded(tiny_path, tmp_path):
    model = load_reward_model(tiny_path, dtype="float32")
    model.backbone.layers[1].mlp.down_proj.weight.data *= 1e7
    save_reward_model(model, tmp_path / "large")
    (tmp_path / "large/reward_model.json").unlink()  # now any sequence classifier
    load_reward_model(str(tmp_path / "large"), dtype="float32")
    with pytest.raises(ModelError, match="overflows float16.*set model.dtype: float32"):
        load_reward_model(str(tmp_path / "large"), dtype="float16")


@pytest.mark.slow
def test_the_embedded_model_stays_within_float16_in_all_layers():
    """A massive activation grows in its residual stream, which is why that is held in fp32; what
    the layers themselves compute is far from 65,504, where float16 ends."""
    packed = pack([[list(range(100, 140)), list(range(200, 220)), list(range(300, 330))]])
    exact = load_reward_model(EMBEDDED, dtype="float32")
    half = load_reward_model(EMBEDDED, lora_rank=4, dtype="float16")
    largest, stream = [], []
    for module in half.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda m, x, y: largest.append(y.abs().max().item()))
    for layer in half.backbone.layers:
        layer.register_forward_hook(lambda m, x, y: stream.append(
            y[0] if isinstance(y, tuple) else y))
    found, expected = rewards(half, packed), rewards(exact, packed)
    assert {x.dtype for x in stream} == {torch.float32}
    assert max(x.abs().max().item() for x in stream) > 10_000  # the massive activation is there
    assert max(largest) < 65_504 / 2
    assert (found - expected).abs().max() < 0.05


# ---- runs ----------------------------------------------------------------------------------------

def test_a_run_records_the_format_that_auto_chose_and_goes_on_in_no_other(source, tiny_path,  # noqa: F811
                                                                          tmp_path, monkeypatch):
    config = settings(tiny_path, tmp_path, model__dtype="auto", epochs=1)
    train(config)
    chosen = machine.choose_dtype(None)
    assert f"dtype: {chosen}" in (tmp_path / "run/config.yaml").read_text()
    other = {"bfloat16": "float32", "float32": "bfloat16"}[chosen]
    monkeypatch.setattr(machine, "choose_dtype", lambda capability: other)
    with pytest.raises(ConfigError, match="written with another model/dtype"):
        train(config, resume=True)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_model_loaded_for_scoring_gives_the_same_rewards_from_half_the_memory(tiny_path, tmp_path,
                                                                                dtype):
    packed = pack([[[1, 2], [3, 4], [5, 6, 7]], [[8], [9, 10], [11]]])
    save_reward_model(load_reward_model(tiny_path, dtype=dtype), tmp_path / "rm")
    trained = load_reward_model(str(tmp_path / "rm")).eval()
    scoring = load_reward_model(str(tmp_path / "rm"), for_scoring=True)
    assert not scoring.training and not any(p.requires_grad for p in scoring.parameters())
    held = scoring.backbone.layers[0].mlp.up_proj.weight
    assert held.dtype is getattr(torch, dtype)
    assert scoring.backbone.embed_tokens.weight.dtype is torch.float32
    assert_close_in_norm(rewards(scoring, packed), rewards(trained, packed), unit=1, factor=4,
                         dtype=getattr(torch, dtype))
