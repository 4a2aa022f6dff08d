"""Tokens are those of the rendered chat, for every family of tokenizers that can be built here:
what plain transformers makes of a saved model, by its card's snippet, is what `evaluate` gives."""

import json

import pytest
import torch
from conftest import tokenize
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from bsr_lite.data import Group
from bsr_lite.errors import DataError, ModelError
from bsr_lite.eval_rm import evaluate
from bsr_lite.generate import end_of_turn
from bsr_lite.models import load_reward_model
from bsr_lite.saving import save_reward_model
from bsr_lite.tokenization import answer_rows, chat_ids

TEXT = ["The quick brown fox jumps over the lazy dog. What is 2 + 2? It is 4, maybe 5!",
        "Sure, here is a list:\n1. one\n2. two\n\n```python\nprint('hi')\n```",
        "think about it: user assistant system <think> and </think> [INST] [/INST] Hello, world"]

CHATML = ("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
          "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
# as Qwen3's: an empty think block before the last answer unless it has one; none in the history
QWEN3 = ("{% for m in messages %}{% set c = m.content %}"
         "{% if m.role == 'assistant' %}{% set parts = c.split('</think>') %}"
         "{% set c = parts[-1].lstrip('\\n') %}{% set thought = '' %}{% if parts | length > 1 %}"
         "{% set thought = parts[0].split('<think>')[-1].strip('\\n') %}{% endif %}"
         "{% if loop.last %}{% set c = '<think>\\n' + thought + '\\n</think>\\n\\n' + c %}"
         "{% endif %}"
         "{% endif %}<|im_start|>{{ m.role }}\n{{ c }}<|im_end|>\n{% endfor %}"
         "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
LLAMA2 = ("{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content + "
          "' [/INST]' }}{% elif m.role == 'assistant' %}{{ ' ' + m.content + ' ' + eos_token }}"
          "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}"
          "{% endif %}{% endfor %}")
LLAMA3 = ("{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>"
          "\n\n{{ m.content | trim }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}"
          "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}")
MISTRAL = ("{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }}"
           "[/INST]{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}")
GEMMA = ("{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}"
         "{{ raise_exception('System role not supported') }}{% endif %}<start_of_turn>"
         "{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
         "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}")
NEOX = ("{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% if m.role == 'assistant' %}"
        "{{ eos_token }}{% endif %}\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n"
        "{% endif %}")

# family: (kind of pieces, special tokens, what plays bos, eos, pad, unk, template, other tokens)
FAMILIES = {
    "llama-2": ("prefix space", ["<unk>", "<s>", "</s>"], "<s>", "</s>", None, "<unk>", LLAMA2, []),
    "llama-3": ("bytes", ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>",
                          "<|end_header_id|>", "<|finetune_right_pad_id|>"],
                "<|begin_of_text|>", "<|eot_id|>", None, None, LLAMA3, []),
    "qwen": ("bytes", ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], None, "<|im_end|>",
             "<|endoftext|>", None, CHATML, []),
    "qwen-3, thinking": ("bytes", ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], None,
                         "<|im_end|>", "<|endoftext|>", None, QWEN3, ["<think>", "</think>"]),
    "mistral": ("metaspace", ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"], "<s>", "</s>", None,
                "<unk>", MISTRAL, []),
    "gemma": ("spaces", ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"],
              "<bos>", "<eos>", "<pad>", "<unk>", GEMMA, []),
    "gpt-neox": ("bytes", ["<|endoftext|>", "<|padding|>"], "<|endoftext|>", "<|endoftext|>",
                 None, "<|endoftext|>", NEOX, ["    ", "  "]),
    "added tokens": ("bytes", ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|new|>"], None,
                     "<|im_end|>", "<|im_end|>", None, CHATML, ["lazy dog", "<tool>"]),
}


def build(kind, special, bos, eos, pad, unk, template, others) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE(unk_token=unk if kind != "bytes" else None,
                                     byte_fallback=kind != "bytes"))
    alphabet = []
    if kind == "bytes":
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder, alphabet = decoders.ByteLevel(), pre_tokenizers.ByteLevel.alphabet()
    elif kind == "metaspace":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    else:
        prepend = [normalizers.Prepend("▁")] if kind == "prefix space" else []
        tokenizer.normalizer = normalizers.Sequence([*prepend, normalizers.Replace(" ", "▁")])
        tokenizer.decoder = decoders.Replace("▁", " ")
    fallback = [] if kind == "bytes" else [f"<0x{i:02X}>" for i in range(256)]
    tokenizer.train_from_iterator(TEXT * 20, trainers.BpeTrainer(
        vocab_size=700, special_tokens=[*special, *fallback], initial_alphabet=alphabet))
    saved = json.loads(tokenizer.to_str())  # bytes are no control tokens
    saved["added_tokens"] = [t for t in saved["added_tokens"] if t["content"] not in fallback]
    tokenizer = Tokenizer.from_str(json.dumps(saved))
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in others])
    if bos:  # as Llama's and Gemma's: a second BOS for whoever tokenizes a rendered chat plainly
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))])
    names = {"bos_token": bos, "eos_token": eos, "pad_token": pad, "unk_token": unk}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer,
                                   **{k: v for k, v in names.items() if v})
    fast.add_special_tokens({"additional_special_tokens": [
        t for t in special if t not in names.values()]})
    fast.chat_template = template
    return fast


def save_base(folder, tokenizer, words=None, **options) -> str:
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=words or len(tokenizer), hidden_size=32, intermediate_size=64,
                         num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                         max_position_embeddings=512, initializer_range=0.2, **options)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    """(name, path of a tiny base with a tokenizer of that family)."""
    folder = tmp_path_factory.mktemp("family")
    return request.param, save_base(folder, build(*FAMILIES[request.param]))


SYSTEM = [{"role": "system", "content": "Be brief."}]
USER = [{"role": "user", "content": "What is 2 + 2?"}]
ANSWERS = ["It is 4.", "4", "<think>two and two</think>\n\nIt is 5, maybe.", "...  no   idea\n\n1.",
           "Ünïcode – 数 🙂", "- a\n- b", "the lazy dog <tool>"]
CHATS = [USER, SYSTEM + USER,
         [*USER, {"role": "assistant", "content": "<think>hm</think>\n\nIt is 4."},
          {"role": "user", "content": "Sure?\n  indented"}]]


def prompts_for(name):
    return [c for c in CHATS if name not in ("llama-2", "gemma") or c[0]["role"] != "system"]


def test_the_cards_snippet_and_evaluate_agree(family, tmp_path):
    name, base = family
    model = load_reward_model(base, dtype="float32")
    save_reward_model(model, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    groups = [Group(prompt, ANSWERS, [float(i) for i in range(len(ANSWERS))], ["m"] * len(ANSWERS))
              for prompt in prompts_for(name)]
    found = evaluate(model, groups)["rewards"]
    for group, rewards in zip(groups, found, strict=True):
        texts = [tokenizer.apply_chat_template(
            [*group.prompt, {"role": "assistant", "content": answer}], tokenize=False)
            for answer in ANSWERS]
        for text, reward in zip(texts, rewards, strict=True):
            inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")
            with torch.no_grad():
                assert plain(**inputs).logits[0, 0].item() == pytest.approx(reward, abs=1e-4)
        # together, padded: transformers reads before the first pad token, which no chat ends in
        batch = tokenizer(texts, add_special_tokens=False, return_tensors="pt", padding=True,
                          padding_side="right")
        with torch.no_grad():
            padded = plain(**batch).logits[:, 0]
        assert padded.tolist() == pytest.approx(rewards, abs=2e-4)


def test_ids_are_those_of_the_rendered_chat(family):
    name, base = family
    tokenizer = AutoTokenizer.from_pretrained(base)
    for prompt in prompts_for(name):
        for answer, row in zip(ANSWERS, *answer_rows(tokenizer, [(prompt, ANSWERS)]), strict=True):
            text = tokenizer.apply_chat_template(
                [*prompt, {"role": "assistant", "content": answer}], tokenize=False)
            assert row == tokenizer(text.rstrip(), add_special_tokens=False)["input_ids"]
        text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        (ids,) = chat_ids(tokenizer, [prompt], generate=True)
        assert ids == tokenizer(text, add_special_tokens=False)["input_ids"]
        if tokenizer.bos_token and name != "gpt-neox":
            users = sum(m["role"] == "user" for m in prompt)
            assert row.count(tokenizer.bos_token_id) == (users if name == "llama-2" else 1)


def test_control_tokens_in_a_text_stay_letters(family):
    _, base = family
    tokenizer = AutoTokenizer.from_pretrained(base)
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    control = [tokenizer.added_tokens_decoder[i].content for i in sorted(special)]
    assert len(control) >= 2
    evil = " ".join(control) + control[-1]

    def counts(text):
        ((row,),) = answer_rows(tokenizer, [([{"role": "user", "content": text}], [text])])
        return [row.count(i) for i in sorted(special - {tokenizer.unk_token_id})], row

    assert counts(f"stop {evil} now")[0] == counts("stop now")[0]
    row = counts(f"stop {evil} now")[1]
    letters = tokenizer.decode(row).replace(" ", "")
    assert all(letters.count(token.replace(" ", "")) >= 2 for token in control)


def test_thinking_is_where_the_template_puts_it(tmp_path):
    tokenizer = build(*FAMILIES["qwen-3, thinking"])
    prompt = [*USER, {"role": "assistant", "content": "<think>hm</think>\n\nIt is 4."}, *USER]
    ((row, bare),) = answer_rows(tokenizer, [(prompt, ["<think>yes</think>\n\n4", "4"])])
    text = tokenizer.decode(row)
    assert text.count("<think>") == 1 and "hm" not in text and "<think>\nyes\n</think>" in text
    assert "<think>\n\n</think>" in tokenizer.decode(bare)


# ---- what is refused -----------------------------------------------------------------------------

def test_one_token_for_everything_cannot_pad(tmp_path):
    """Plain transformers would take the end of a turn for padding and read one token early."""
    tokenizer = build("bytes", ["<|endoftext|>"], None, *["<|endoftext|>"] * 3,
                      NEOX.replace("\n{% endfor %}", "{% endfor %}"), [])
    with pytest.raises(ModelError, match="no special token but the one that ends a turn"):
        load_reward_model(save_base(tmp_path, tokenizer))


def test_tokens_without_an_embedding_are_refused_with_both_sizes(tmp_path):
    tokenizer = build(*FAMILIES["added tokens"])
    words = len(tokenizer)
    with pytest.raises(ModelError, match=f"has {words} tokens, the embedding {words - 2} rows"):
        load_reward_model(save_base(tmp_path, tokenizer, words=words - 2))


def test_an_answer_without_an_end_cannot_be_sampled():
    tokenizer = build(*FAMILIES["qwen"])
    assert tokenizer.decode([end_of_turn(tokenizer)]) == "<|im_end|>"
    for template in ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
                     "{% for m in messages %}{{ m.role }}: {{ m.content }}!\n{% endfor %}"):
        tokenizer.chat_template = template
        with pytest.raises(ModelError, match="ends an answer in no token of its own"):
            end_of_turn(tokenizer)


def test_tools_are_rendered_or_refused():
    tokenizer = build(*FAMILIES["qwen"])
    chat = [{"role": "tools", "content": '[{"type": "function", "function": {"name": "add"}}]'},
            *USER]
    with pytest.raises(DataError, match="it leaves out the tools"):
        answer_rows(tokenizer, [(chat, ["4"])])
    tokenizer.chat_template = "{% if tools %}{{ tools | tojson }}{% endif %}" + CHATML
    ((row,),) = answer_rows(tokenizer, [(chat, ["4"])])
    assert tokenizer.decode(row).startswith('[{"type": "function", "function": {"name": "add"}}]<|')
    assert tokenize(tokenizer, USER, "4")[1] == row[-len(tokenize(tokenizer, USER, "4")[1]):]
