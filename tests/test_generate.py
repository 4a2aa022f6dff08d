import functools
import json

import numpy as np
import pytest
import torch
from conftest import assert_close_in_norm, tokenize
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM

from bsr_lite.errors import DataError
from bsr_lite.generate import draw, roll_out, sample
from bsr_lite.policy import load_policy

PROMPTS = [[5, 6, 7, 8, 9], [10, 11], [12, 13, 14]]


@pytest.fixture(scope="module")
def policy(tiny_path):
    return load_policy(tiny_path, dtype="float32")


def decode_step_by_step(policy, prompt, tokens):
    """Logits at each answer token, the whole text again every time and no cache."""
    policy.causal.set_attn_implementation("sdpa")
    with torch.no_grad():
        return torch.stack([policy.causal(torch.tensor([prompt + tokens[:i]])).logits[0, -1]
                            for i in range(len(tokens))])


def test_every_token_is_drawn_from_what_the_plain_model_says(policy, monkeypatch):
    """Prompts of different lengths, several answers each, against plain forwards."""
    seen = []
    monkeypatch.setattr("bsr_lite.generate.draw",
                        lambda logits, g: (seen.append(logits.clone()), draw(logits, g))[1])
    tokens, mask = sample(policy, PROMPTS, 4, 6, -1, torch.Generator().manual_seed(0))
    assert tokens.shape == mask.shape == (12, 6) and mask.all()
    ours = torch.stack(seen, 1)  # (rows, T, V)
    for row, ids in enumerate(tokens.tolist()):
        plain = decode_step_by_step(policy, PROMPTS[row // 4], ids)
        assert_close_in_norm(ours[row], plain)


def test_answers_of_one_prompt_differ_and_the_seed_decides(policy):
    runs = [sample(policy, PROMPTS, 4, 6, -1, torch.Generator().manual_seed(s))[0]
            for s in (0, 0, 1)]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])
    assert len({tuple(row) for row in runs[0][:4].tolist()}) > 1


def test_mask_ends_with_the_stop_token(policy):
    free, _ = sample(policy, PROMPTS, 4, 8, -1, torch.Generator().manual_seed(0))
    stop = free[0, 3].item()  # some token that one answer has in its middle
    tokens, mask = sample(policy, PROMPTS, 4, 8, stop, torch.Generator().manual_seed(0))
    assert torch.equal(tokens, free)  # others go on to the end
    for row, kept in zip(tokens.tolist(), mask.tolist(), strict=True):
        end = row.index(stop) + 1 if stop in row else len(row)
        assert kept == [i < end for i in range(len(row))]
    assert mask[0].sum() <= 4 and mask[1:].all(1).any()


def test_sampling_stops_when_all_have_finished(policy):
    free, _ = sample(policy, PROMPTS[:1], 1, 8, -1, torch.Generator().manual_seed(0))
    stop = free[0, 2].item()
    tokens, mask = sample(policy, PROMPTS[:1], 1, 8, stop, torch.Generator().manual_seed(0))
    assert tokens.shape[1] == free[0].tolist().index(stop) + 1 and mask.all()


def test_draw_follows_the_distribution():
    logits = torch.tensor([0.0, 1.0, -1.0, float("-inf"), 2.0]).expand(40_000, 5)
    drawn = draw(logits, torch.Generator().manual_seed(0))
    counts = np.bincount(drawn, minlength=5) / 40_000
    assert counts == pytest.approx(logits[0].softmax(0).numpy(), abs=0.01) and counts[3] == 0


def test_padding_of_a_prompt_is_never_looked_at(policy, monkeypatch):
    """Whatever token stands there, the answers are the same."""
    runs = []
    for token in (0, 77):
        monkeypatch.setattr("bsr_lite.generate.pad_sequence",
                            functools.partial(pad_sequence, padding_value=token))
        runs.append(sample(policy, PROMPTS, 2, 6, -1, torch.Generator().manual_seed(0))[0])
    assert torch.equal(*runs)


def test_answers_are_texts_without_control_tokens(policy):
    prompt = [{"role": "user", "content": "name two birds"}]
    (found,) = roll_out(policy, [{"prompt": "name two birds"}], 8, 12, 0)
    texts, ended = found["texts"], found["finished"]
    assert len(texts) == len(ended) == 8 and "<|im_end|>" not in "".join(texts)
    ids = tokenize(policy.tokenizer, prompt, "")[0]
    tokens, mask = sample(policy, [ids], 8, 12, policy.tokenizer.eos_token_id,
                          torch.Generator().manual_seed(0))
    stops = (tokens == policy.tokenizer.eos_token_id).any(1).tolist()
    assert ended == stops
    assert texts[0] == policy.tokenizer.decode(tokens[0][mask[0]],
                                               skip_special_tokens=True).strip()


def test_the_script_writes_alpaca_evals_format(alpaca_eval, tiny_path, tmp_path):
    rows = [{"prompt": f"Name {n} birds.", "split": "valid" if n % 2 else "dev"} for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    out = tmp_path / "out.json"
    arguments = ["--model", tiny_path, "--data", str(tmp_path / "rows.jsonl"),
                 "--max-new-tokens", "3", "--output", str(out)]
    alpaca_eval.main([*arguments, "--split", "valid"])
    found = json.loads(out.read_text())
    assert [r["instruction"] for r in found] == [r["prompt"] for r in rows if r["split"] == "valid"]
    assert {tuple(r) for r in found} == {("instruction", "output", "generator")}
    with pytest.raises(DataError, match="no row of split 'test'"):
        alpaca_eval.main([*arguments, "--split", "test"])
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(DataError, match="row 1: instruction, or prompt, must be non-empty text"):
        alpaca_eval.main(arguments)
    with pytest.raises(DataError, match="name a .json file in a folder that exists"):
        alpaca_eval.main([*arguments[:-1], str(tmp_path / "no" / "out.json")])


def test_sampling_leaves_training_forwards_alone(policy, tiny_path):
    """Another attention afterwards gives what a fresh model gives."""
    sample(policy, PROMPTS, 2, 3, -1, torch.Generator().manual_seed(0))
    policy.causal.set_attn_implementation("sdpa")
    fresh = AutoModelForCausalLM.from_pretrained(tiny_path)
    ids = torch.tensor([PROMPTS[0]])
    assert_close_in_norm(policy.causal(ids).logits, fresh(ids).logits)
