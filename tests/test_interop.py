"""Our models, losses and data inside TRL and plain transformers, end to end on tiny models."""

import dataclasses
import re
from pathlib import Path

import pytest
import torch
from conftest import assert_close_in_norm

from bsr_lite.batching import pack
from bsr_lite.config import RewardModelConfig, parse
from bsr_lite.data import Pair, read_pairs, to_trl
from bsr_lite.errors import DataError
from bsr_lite.eval_rm import score_answers
from bsr_lite.models import load_reward_model
from bsr_lite.saving import save_reward_model
from bsr_lite.scale.merge import merge_reward_model
from bsr_lite.scorers import reward_function
from bsr_lite.step import backward
from bsr_lite.tokenization import pair_tokens

pytest.importorskip("trl", reason="interoperation with TRL needs TRL")
README = Path(__file__).parents[1] / "README.md"
QUIET = {"use_cpu": True, "bf16": False, "report_to": "none", "save_strategy": "no",
         "disable_tqdm": True, "max_steps": 1}


@pytest.fixture(scope="module")
def adapters(tiny_path):
    """A reward model whose adapters are not zero, as after training."""
    torch.manual_seed(1)
    model = load_reward_model(tiny_path, dtype="float32", lora_rank=4)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.5)
    return model


@pytest.fixture(scope="module")
def merged(adapters, tmp_path_factory):
    folder = tmp_path_factory.mktemp("interop")
    save_reward_model(adapters, folder / "adapter")
    merge_reward_model(folder / "adapter", folder / "merged")
    return str(folder / "merged")


# ---- our reward model as TRL's reward ------------------------------------------------------------

@pytest.mark.slow
def test_rloo_trainer_is_rewarded_as_eval_rm_scores(tiny_path, adapters, merged, tmp_path):
    """Two ways in one step: the merged folder's path, and the function, which needs no merging."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import RLOOConfig, RLOOTrainer
    seen = []

    class Watched(RLOOTrainer):
        def _calculate_rewards(self, inputs, prompts, completions, *rest):
            rewards = super()._calculate_rewards(inputs, prompts, completions, *rest)
            seen.extend(zip(prompts, completions, rewards.tolist(), strict=True))
            return rewards

    prompts = [[{"role": "user", "content": f"Name {n} birds."}] for n in ("two", "three", "four")]
    policy = AutoModelForCausalLM.from_pretrained(tiny_path)
    before = [p.detach().clone() for p in policy.parameters()]
    Watched(policy, reward_funcs=[merged, reward_function(adapters)],
            args=RLOOConfig(str(tmp_path), num_generations=4, per_device_train_batch_size=8,
                            max_completion_length=8, learning_rate=1e-2, **QUIET),
            train_dataset=Dataset.from_list([{"prompt": p} for p in prompts]),
            processing_class=AutoTokenizer.from_pretrained(tiny_path, padding_side="left")).train()
    assert any((a != b).any() for a, b in zip(before, policy.parameters(), strict=True))
    assert len(seen) == 8 and len({str(prompt) for prompt, *_ in seen}) == 2
    plain = 0
    for prompt, ((message),), (by_path, by_function) in seen:
        text = message["content"]
        expected = score_answers(adapters, prompt, [text])[0].item()
        assert by_function == pytest.approx(expected, abs=1e-5)
        if text == text.strip():  # the path's template keeps outer white space, training did not
            assert by_path == pytest.approx(expected, abs=1e-5)
            plain += 1
    assert plain


def test_reward_function_takes_texts_and_messages_in_any_order(adapters):
    reward = reward_function(adapters)
    chat = [{"role": "user", "content": "Name a bird."}]
    texts = ["A wren.", " A jay. ", "", "A wren."]
    messages = [[{"role": "assistant", "content": t}] for t in texts]
    found = reward(["Name a bird.", "Name a token_group.", "Name a bird.", "Name a bird."], texts,
                   completion_ids=None, trainer_state=None)
    assert found == pytest.approx(
        [score_answers(adapters, chat, ["A wren."])[0].item(),
         score_answers(adapters, "Name a token_group.", ["A jay."])[0].item(), found[2],
         score_answers(adapters, chat, ["A wren."])[0].item()], abs=1e-5)
    alone = [reward([chat], [m])[0] for m in messages]
    assert reward([chat] * 4, messages) == pytest.approx(alone, abs=1e-5)


def test_a_rollout_of_several_turns_is_scored_where_it_ends(adapters):
    reward = reward_function(adapters)
    chat = [{"role": "user", "content": "Name a bird."}]
    turns = [{"role": "assistant", "content": "Let me look."},
             {"role": "tool", "content": "wren, jay"}]
    last = {"role": "assistant", "content": "A jay."}
    expected = score_answers(adapters, [*chat, *turns], ["A jay."])[0].item()
    assert reward([chat], [[*turns, last]]) == pytest.approx([expected], abs=1e-5)
    for wrong in ([*turns], [{"role": "assistant", "content": None}],
                  [{**turns[0], "tool_calls": [{"name": "f"}]}, last]):
        with pytest.raises(DataError, match="a rollout cannot be scored: .*(ends in|calls a tool)"):
            reward([chat], [wrong])


# ---- BSR in TRL's RewardTrainer ------------------------------------------------------------------

SNIPPET = '''\
from trl import RewardTrainer
from bsr_lite.losses import bsr_penalty

class BSRTrainer(RewardTrainer):
    """BT + bsr_lambda * bsr_penalty; a group is a device's micro-batch, as in the official code."""
    bsr_lambda = 1e-3

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        chosen, rejected = outputs.logits.squeeze(-1).float().chunk(2)
        loss = loss + self.bsr_lambda * bsr_penalty(chosen, rejected)
        return (loss, outputs) if return_outputs else loss
'''


def bsr_trainer():
    assert len(SNIPPET.splitlines()) <= 15
    found: dict = {}
    exec(compile(SNIPPET, "README.md", "exec"), found)
    return found["BSRTrainer"]


def test_the_readme_shows_the_tested_subclass():
    shown = [c for c in re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
             if "RewardTrainer" in c]
    assert shown == [SNIPPET]


@pytest.mark.parametrize(("accumulated", "margins"), [(1, False), (2, False), (1, True), (2, True)])
def test_bsr_in_reward_trainer_has_our_gradients(tiny_path, pairs, tmp_path, accumulated, margins):
    """TRL tokenizes the same pairs by itself. Its micro-batches are the groups. It subtracts a
    pair's margin, so do we, in whatever parts a batch is computed."""
    from datasets import Dataset
    from trl import RewardConfig
    model = load_reward_model(tiny_path, dtype="float32")
    save_reward_model(model, tmp_path / "start")  # with the template that ends where we pool
    trained, gradients = pairs[:6], {}
    if margins:
        trained = [dataclasses.replace(p, margin=0.5 + i) for i, p in enumerate(trained)]

    class Watched(bsr_trainer()):
        bsr_lambda = 0.3

        def _get_train_sampler(self, dataset=None):
            return torch.utils.data.SequentialSampler(self.train_dataset)

        def training_step(self, model, *args):
            loss = super().training_step(model, *args)
            gradients.update((n, p.grad.clone()) for n, p in model.named_parameters())
            return loss

    Watched(str(tmp_path / "start"), RewardConfig(
        str(tmp_path / "trl"), per_device_train_batch_size=6 // accumulated,
        gradient_accumulation_steps=accumulated, gradient_checkpointing=False, **QUIET),
        train_dataset=Dataset.from_list(to_trl(trained))).train()
    token_groups, _ = pair_tokens(trained, model.tokenizer, 512)
    config = parse({"output_dir": "o", "model": {"name": tiny_path}, "data": {"source": "s"},
                    "loss": "bsr", "bsr_lambda": 0.3, "batch_size": 6,
                    "bsr_group_size": 6 // accumulated}, RewardModelConfig, "test")
    demanded = torch.tensor([pair.target_margin for pair in token_groups]) if margins else None
    runs = [[4, 0, 2], [5, 3, 1]] if margins else [list(range(6))]
    parts = [(run, pack([token_groups[i] for i in run])) for run in runs]
    backward(model.train(), parts, config, margins=demanded)
    ours = {n: p.grad for n, p in model.hf.named_parameters()}
    assert set(ours) == set(gradients)
    for name, gradient in gradients.items():
        assert_close_in_norm(gradient, ours[name])


# ---- plain transformers --------------------------------------------------------------------------

def test_pipeline_of_a_merged_model_gives_raw_rewards_unasked(adapters, merged):
    from transformers import pipeline
    classify = pipeline("text-classification", model=merged)
    chat = [{"role": "user", "content": "Name a bird."}, {"role": "assistant", "content": "Jay."}]
    text = classify.tokenizer.apply_chat_template(chat, tokenize=False)
    expected = score_answers(adapters, "Name a bird.", ["Jay."])[0].item()
    assert not 0 < expected < 1  # what a sigmoid could not give
    assert classify(text)[0]["score"] == pytest.approx(expected, abs=1e-4)


# ---- data ----------------------------------------------------------------------------------------

def test_pairs_go_to_trls_format_and_back(tmp_path):
    from datasets import Dataset
    from trl.data_utils import is_conversational
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi there"},
             {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "And now?"}]
    pairs = [Pair(turns, "one two", "one three", margin=0.5), Pair(turns[1:2], "same", "same"),
             Pair(turns[1:2], "Hi there", "Hello")]
    dataset = Dataset.from_list(to_trl(pairs))
    assert is_conversational(dataset[0])
    dataset.to_parquet(tmp_path / "pairs.parquet")
    # where one pair demands a margin, TRL's collator needs a number of every pair
    expected = [dataclasses.replace(p, margin=p.margin or 0.0) for p in pairs]
    assert read_pairs(str(tmp_path / "pairs.parquet"), "trl") == expected
    unmargined = [dataclasses.replace(p, margin=None) for p in pairs]
    assert not any("margin" in row for row in to_trl(unmargined))
