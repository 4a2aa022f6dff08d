import copy
import json
import re
import subprocess
import sys

import pytest
import torch
from conftest import assert_close_in_norm, tokenize

from bsr_lite.errors import ModelError
from bsr_lite.eval_rm import score_answers
from bsr_lite.models import load_reward_model
from bsr_lite.saving import META, finished_template, model_card, save_reward_model
from bsr_lite.scale.merge import main, merge_reward_model

TRAINING = {"data": "some/data", "pairs": 640, "epochs": 1, "steps": 5, "loss": "bsr",
            "bsr_lambda": 1e-3, "bsr_group_size": 16, "batch_size": 128, "learning_rate": 5e-5,
            "head_learning_rate": 5e-4, "seed": 3,
            "dev": {"metric": "tau", "score": 0.25, "low": 0.125, "high": 0.375, "groups": 40}}


def run_snippets(folders, tmp_path):
    """The cards' code as a stranger runs it in one process, but for the folders' names."""
    script = tmp_path / "snippets.py"
    for folder in folders:
        (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)
        assert "path/to/this/folder" in code
        with open(script, "a") as file:
            file.write(code.replace("path/to/this/folder", str(folder)))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    return [torch.tensor(eval(line)) for line in done.stdout.splitlines()
            if re.match(r"\[-?\d", line)]


def test_card_holds_what_a_user_must_know():
    meta = {"base": "a/base", "depth": None, "lora_rank": 16, "quantization": "nf4",
            "dtype": "bfloat16", "template_hash": "0123", "training": TRAINING}
    card = model_card(meta)
    for fact in ("a/base", "rank 16", "NF4", "0123", "some/data", "640 pairs", "`bsr`", "0.001",
                 "groups of 16 pairs", "128 pairs a step", "5e-05, head 0.0005", "seed 3",
                 "tau 0.250 (0.125 to 0.375", "40 prompts"):
        assert fact in card, fact
    assert "lambda" not in model_card(meta | {"training": TRAINING | {
        "loss": "bt", "bsr_lambda": None}})
    assert "saved outside train_rm" in model_card(
        {k: v for k, v in meta.items() if k != "training"})
    assert "evaluation (dev) | none" in model_card(meta | {"training": TRAINING | {"dev": None}})


@pytest.mark.slow
def test_snippets_of_adapter_and_merged_card_give_the_raw_reward(tiny_path, tmp_path):
    model = load_reward_model(tiny_path, lora_rank=4, quantization="nf4", dtype="float32")
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.5)
    model.meta["training"] = TRAINING
    expected = score_answers(model, "What is 2 + 2?", ["4.", "5."])
    assert (expected[0] - expected[1]).abs() > 1e-3
    save_reward_model(model, tmp_path / "adapter")
    main(["--model", str(tmp_path / "adapter"), "--output", str(tmp_path / "merged")])
    found = run_snippets([tmp_path / "adapter", tmp_path / "merged"], tmp_path)
    assert len(found) == 2
    for rewards in found:
        assert_close_in_norm(rewards, expected, unit=1)
    card = (tmp_path / "merged" / "README.md").read_text()
    assert "640 pairs" in card and "trained in QLoRA" in card and "peft" not in card


def test_merge_never_replaces_its_own_source(tiny_path, tmp_path):
    save_reward_model(load_reward_model(tiny_path, lora_rank=4), tmp_path / "adapter")
    before = sorted(p.name for p in (tmp_path / "adapter").iterdir())
    (tmp_path / "file").write_text("x")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    for target, message in (("adapter", "would replace the adapters"),
                            ("adapter/inside", "would replace the adapters"),
                            ("adapter/../adapter", "would replace the adapters"),
                            ("file", "holds other files"), ("other", "holds other files")):
        with pytest.raises(ModelError, match=message):
            merge_reward_model(tmp_path / "adapter", tmp_path / target)
    assert sorted(p.name for p in (tmp_path / "adapter").iterdir()) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter", "file", "other"]


def test_merge_refuses_another_chat_template_as_reloading_does(tiny_path, tmp_path):
    save_reward_model(load_reward_model(tiny_path, lora_rank=4), tmp_path / "adapter")
    meta = json.loads((tmp_path / "adapter" / META).read_text())
    (tmp_path / "adapter" / META).write_text(json.dumps(meta | {"template_hash": "0"}))
    with pytest.raises(ModelError, match="another chat template"):
        merge_reward_model(tmp_path / "adapter", tmp_path / "merged")


CLOCK = ("{%- if not date_string is defined %}{%- set date_string = strftime_now('%d %b %Y') %}"
         "{%- endif %}{{- date_string }}{%- for m in messages %}{{- m['content'] + '<|im_end|>' }}"
         "{%- endfor %}")


def test_templates_with_a_clock_get_a_fixed_date(tokenizer):
    """Llama-3.2's writes today's date into the prompt: rewards would change overnight."""
    ticking = copy.deepcopy(tokenizer)
    ticking.chat_template = CLOCK
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]
    prompt, _ = tokenize(ticking, chat[:1], "Yes")
    assert tokenizer.decode(prompt).startswith("26 Jul 2024Hi")
    ticking.chat_template = finished_template(CLOCK)
    assert ticking.apply_chat_template(chat, tokenize=False).startswith("26 Jul 2024Hi")
    assert finished_template(finished_template(CLOCK)) == finished_template(CLOCK)
    assert tokenize(ticking, chat[:1], "Yes")[0] == prompt


def test_merge_refuses_what_has_no_adapters(tiny_path, tmp_path):
    save_reward_model(load_reward_model(tiny_path), tmp_path / "full")
    with pytest.raises(ModelError, match="standard layout already"):
        merge_reward_model(tmp_path / "full", tmp_path / "merged")
    with pytest.raises(ModelError, match="cannot be read"):
        merge_reward_model(tmp_path / "nothing", tmp_path / "merged")
