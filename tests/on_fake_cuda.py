"""One step of everything that trains, scores, samples or merges, on fake cards: see fake_cuda.py.
Run by test_fake_cuda.py."""

import contextlib
import json
from pathlib import Path

import fake_cuda
import pytest
import torch
import torch.nn.functional as F

from bsr_lite import batching, eval_rm, pretrained, scorers, train_rloo, train_rm
from bsr_lite.batching import pack
from bsr_lite.config import RewardModelConfig, RLOOConfig, parse
from bsr_lite.generate import roll_out
from bsr_lite.models import load_reward_model
from bsr_lite.policy import SharedRewardModel, load_policy, reward_model_for
from bsr_lite.runlog import read_metrics
from bsr_lite.saving import save_reward_model
from bsr_lite.scale.merge import merge_reward_model

KINDS = {"full": {}, "lora": {"lora_rank": 4}, "qlora": {"lora_rank": 4, "quantization": "nf4"}}
kinds = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(params=fake_cuda.CARDS, ids=lambda capability: fake_cuda.CARDS[capability])
def card(request):
    with fake_cuda.plugged_in(request.param):
        yield request.param


def cut(source, layers, folder):
    """A model of so many layers: fake operations take a millisecond each."""
    from transformers import AutoTokenizer, LlamaForCausalLM
    model = LlamaForCausalLM.from_pretrained(source, num_hidden_layers=layers)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def one_layer(tiny_path, tmp_path_factory):
    return cut(tiny_path, 1, tmp_path_factory.mktemp("one_layer"))


@pytest.fixture(scope="session")
def saved(one_layer, tmp_path_factory):
    """Reward models of all kinds, saved on a CPU in bfloat16, as an Ampere card saves them."""
    folder = tmp_path_factory.mktemp("saved")
    for kind, options in KINDS.items():
        save_reward_model(load_reward_model(one_layer, dtype="bfloat16", **options), folder / kind)
    return folder


@pytest.fixture
def attention(monkeypatch):
    """What kernels were asked for: (name, dtype, query heads, key heads) of every call."""
    calls = []

    def varlen(q, k, v, *starts, **options):
        calls.append(("varlen", {x.dtype for x in (q, k, v)}, q.shape[1], k.shape[1]))
        return q * 1.0

    real = F.scaled_dot_product_attention

    def sdpa(q, k, v, *args, **options):
        calls.append(("sdpa", {x.dtype for x in (q, k, v)}, q.shape[1], k.shape[1]))
        return real(q, k, v, *args, **options)

    monkeypatch.setattr(batching, "varlen_attn", varlen)
    monkeypatch.setattr(F, "scaled_dot_product_attention", sdpa)
    return calls


def rm_config(one_layer, tmp_path, pairs, **changes):
    rows = [{"prompt": p.prompt, "chosen": [{"role": "assistant", "content": p.chosen}],
             "rejected": [{"role": "assistant", "content": p.rejected}]} for p in pairs]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    values = {"output_dir": str(tmp_path / "run"), "batch_size": 6, "token_budget": 160,
              "model": {"name": one_layer, **changes.pop("model", {})}, "eval_every": 2,
              "data": {"source": str(tmp_path / "pairs.jsonl"), "format": "trl", "max_length": 128,
                       "dev_share": 0.25}, "loss": "bsr"}
    return parse(values | changes, RewardModelConfig, "test")


def half(capability):
    return torch.bfloat16 if capability >= (8, 0) else torch.float16


# ---- reward models -------------------------------------------------------------------------------

@kinds
def test_a_run_trains_evaluates_saves_and_resumes(card, one_layer, tmp_path, pairs, kind):
    config = rm_config(one_layer, tmp_path, pairs[:8], model=KINDS[kind])  # one step, two parts
    model, _ = train_rm.train(config)
    assert model.device.type == "cuda" and model.compute_dtype is half(card)
    row = read_metrics(config.output_dir)[-1]
    assert ("train/loss_scale" in row) == (half(card) is torch.float16)
    train_rm.train(config, resume=True)
    again = load_reward_model(config.output_dir + "/model")
    assert again.device.type == "cuda" and again.compute_dtype is half(card)


def test_a_model_in_training_leaves_no_other_one_behind_on_the_cpu(card, one_layer):
    """What a notebook does: a model of its own, and rows that `pack` makes."""
    model = load_reward_model(one_layer)
    assert model.device.type == "cuda"
    after, before = model.last_hidden(pack([[[1, 2], [3], [4, 5]]]))
    assert (after @ model.head_weight).device.type == before.device.type == "cuda"


@kinds
def test_attention_takes_the_kernel_that_saves_memory(card, one_layer, attention, kind):
    model = load_reward_model(one_layer, **KINDS[kind])
    attention.clear()
    with torch.no_grad():
        model(pack([[[1, 2], [3], [4, 5]]]))
    if card >= (8, 0):
        assert attention == [("varlen", {torch.bfloat16}, 4, 2)]
    else:  # two segments; heads repeated, else SDPA takes its quadratic kernel
        assert attention == [("sdpa", {torch.float16}, 4, 4)] * 2


def test_the_residual_stream_of_a_float16_base_is_fp32(card, one_layer):
    model = load_reward_model(one_layer, lora_rank=4)
    wide = half(card) is torch.float16
    assert model.backbone.embed_tokens.weight.dtype is (torch.float32 if wide else half(card))
    assert model.backbone.norm.weight.dtype is (torch.float32 if wide else half(card))
    assert model.backbone.layers[0].mlp.up_proj.base_layer.weight.dtype is half(card)


@kinds
def test_a_saved_model_scores_on_the_card_in_half_precision(card, saved, groups, kind):
    model = load_reward_model(str(saved / kind), for_scoring=True)
    assert model.device.type == "cuda" and model.compute_dtype is half(card)
    linear = model.backbone.layers[0].mlp.up_proj
    weight = getattr(linear, "base_layer", linear).weight
    assert weight.is_cuda and weight.dtype is (torch.uint8 if kind == "qlora" else half(card))
    result = eval_rm.evaluate(model, groups[:4], dispersion=True)
    assert result["groups"] == 4
    assert eval_rm.score_answers(model, "Hi", ["a", "b"]).device.type == "cpu"
    assert scorers.reward_function(model)(["Hi", "Hi"], ["a", "b"]) == [0.0, 0.0]
    gold = scorers.model_gold(str(saved / kind), False)
    assert gold([{"row": {"prompt": "Hi"}, "texts": ["a", "b"]}]) == [[0.0, 0.0]]


@pytest.mark.parametrize("kind", ["lora", "qlora"])
def test_merging_never_holds_fp32_on_the_card(card, saved, tmp_path, monkeypatch, kind):
    from peft import PeftModel
    seen, real = [], PeftModel.from_pretrained

    def merged_where(base, *args, **options):
        seen.extend(p.device.type for p in base.parameters())
        return real(base, *args, **options)

    monkeypatch.setattr(PeftModel, "from_pretrained", merged_where)
    merge_reward_model(saved / kind, tmp_path / "merged")
    assert set(seen) == {"cpu"}


# ---- policies ------------------------------------------------------------------------------------

def rloo_config(one_layer, tmp_path, reward_model, **changes):
    rows = [{"prompt": f"Name {n} birds.", "split": "train", "unit": "item", "count": 2,
             "stems": ["bird"]} for n in range(10)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    values = {"policy": {"name": one_layer, "lora_rank": 4, **changes.pop("policy", {})},
              "reward_model": str(reward_model), "output_dir": str(tmp_path / "rloo"),
              "data": str(tmp_path / "rows.jsonl"), "steps": 1, "prompts_per_step": 2,
              "num_generations": 2, "max_new_tokens": 2, "standardize_prompts": 0,
              "minibatches": 2}
    return parse(values | changes, RLOOConfig, "test")


@pytest.mark.parametrize("kind, policy, shared", [
    ("lora", {}, True), ("qlora", {"quantization": "nf4"}, True), ("full", {}, False),
    ("lora", {"dtype": "float32"}, False)])
def test_a_policy_learns_from_a_reward_model_on_its_base_and_on_its_own(
        card, saved, one_layer, tmp_path, kind, policy, shared):
    config = rloo_config(one_layer, tmp_path, saved / kind, policy=policy)
    trained = train_rloo.train(config)
    assert trained.device.type == "cuda"
    proxy = reward_model_for(trained, config.reward_model, one_layer)
    assert isinstance(proxy, SharedRewardModel) == shared
    assert {p.device.type for p in proxy.parameters()} == {"cuda"}
    rows = read_metrics(config.output_dir)
    assert len(rows) == 1 and "train/gold_reward" in rows[0]
    if kind != "lora":
        return
    train_rloo.train(config, resume=True)
    again = load_policy(config.output_dir + "/model", quantization=policy.get("quantization"))
    batch = roll_out(again, [{"prompt": "Hi"}], 2, 3, 0)
    assert len(batch[0]["texts"]) == 2


def test_a_step_scores_all_its_prompts_in_one_pass(card, saved, one_layer, tmp_path, monkeypatch):
    policy = load_policy(one_layer, lora_rank=4)
    proxy = reward_model_for(policy, str(saved / "lora"), one_layer)
    passes, real = [], type(proxy).last_hidden
    monkeypatch.setattr(type(proxy), "last_hidden",
                        lambda self, packed: passes.append(packed) or real(self, packed))
    batch = roll_out(policy, [{"prompt": f"Say {n}"} for n in range(3)], 2, 2, 0)
    assert train_rloo.score(batch, scorers.reward_scorer(proxy)).shape == (3, 2)
    assert len(passes) == 1


# ---- notebooks -----------------------------------------------------------------------------------

LESSONS = {name: path for path in sorted((Path(__file__).parents[1] / "notebooks").glob("*.py"))
           if (name := path.stem[:2]) in ("02", "03", "05", "08", "10")}  # those that run a model
# cells about memory, which are fake tensors already, and about processes, which have no card
# from there on they train, score and merge by the library, as the cases above
STOPS = {"03": "def live_run", "05": "from bsr_lite.train_rm import train"}
SKIPPED = ("scale.estimate", "bill", "dry_run", "report(", "subprocess", "LAUNCH", "KEYS",
           "step_work", "steps_of(big)", "speed[speed", "over_bt.values()")


@pytest.mark.parametrize("name", LESSONS)
def test_a_lessons_cells_run_on_a_card(name, tiny_path, one_layer, monkeypatch, tmp_path):
    """All code cells of a lesson in their order, a tiny model in the place of the embedded one;
    without its asserts, which are about values, and without cells that start processes."""
    import jupytext
    import matplotlib
    matplotlib.use("agg")

    def same_place(found, expected, **tolerances):
        assert torch.as_tensor(found).device == torch.as_tensor(expected).device

    # notebook 05 looks at a layer in the middle
    model = cut(tiny_path, 5, tmp_path / "model") if name == "05" else one_layer
    monkeypatch.setattr(torch.testing, "assert_close", same_place)
    monkeypatch.setattr(pretrained, "embedded_model_path", lambda: model)
    monkeypatch.setattr(pretrained, "cut_config", lambda config, meta: config)
    monkeypatch.setenv("BSR_PROFILE", "fast")
    monkeypatch.chdir(LESSONS[name].parent)
    cells = [c.source for c in jupytext.read(LESSONS[name]).cells if c.cell_type == "code"]
    names = {"__name__": name}
    with fake_cuda.plugged_in((7, 5)):
        for number, source in enumerate(cells):
            if STOPS.get(name, "nowhere") in source:
                break
            if number and any(text in source for text in SKIPPED):
                continue
            with contextlib.suppress(ArithmeticError, ValueError):  # a matter of values
                exec(compile(source, f"{name}, code cell {number}", "exec", optimize=1), names)


def test_features_are_computed_on_the_card_and_kept_on_the_cpu(card, one_layer, tmp_path, pairs):
    from bsr_lite.scenarios import load_scenarios
    from bsr_lite.studies.features import compute_features
    config = rm_config(one_layer, tmp_path, pairs[:8])
    model = load_reward_model(one_layer)
    features = compute_features(model, load_scenarios(config), ["train"], config)
    assert features["train"]["hidden"].device.type == "cpu" and model.device.type == "cuda"
