"""Shared fixtures, and a guard: no test may reach the network."""

import os
import socket

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"

import hypothesis
import pytest
import torch

from bsr_lite.data import Group, Pair

collect_ignore = ["speed"]  # scripts, run by hand
hypothesis.settings.register_profile("ci", derandomize=True)  # CI judges changes, not luck
if os.environ.get("CI"):
    hypothesis.settings.load_profile("ci")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(self, address, *args):
        raise AssertionError(f"a test tried to reach {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="session")
def tokenizer():
    from transformers import AutoTokenizer

    from bsr_lite.embedded import embedded_model_path
    return AutoTokenizer.from_pretrained(embedded_model_path())


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory, tokenizer):
    """A three-layer Llama with grouped-query attention and the embedded model's tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64,
                         num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
                         max_position_embeddings=512, pad_token_id=0, bos_token_id=1,
                         eos_token_id=2, tie_word_embeddings=True, initializer_range=0.2)
    path = tmp_path_factory.mktemp("tiny")
    LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


WORDS = ["red", "green", "blue", "apple", "river", "stone", "cloud", "seven", "eight", "quickly",
         "slowly", "and", "the", "of"]


def sentence(number: int, length: int) -> str:
    return " ".join(WORDS[(number * 7 + i * i) % len(WORDS)] for i in range(length)) + "."


@pytest.fixture(scope="session")
def pairs():
    return [Pair([{"role": "user", "content": f"Say something about {sentence(i, 2)} ({i})"}],
                 sentence(i, 3 + i % 7), sentence(i + 50, 2 + i % 5)) for i in range(24)]


@pytest.fixture(scope="session")
def groups():
    """A table with two pools of four sources each, all splits, distinct gold scores."""
    return [Group([{"role": "user", "content": f"Topic {sentence(i, 3)} number {i}"}],
                  [f"{sentence(i * 8 + k, 3 + k)} {k}" for k in range(8)],
                  [float((k * 5 + i) % 8) for k in range(8)], [f"m{k}" for k in range(8)],
                  ("train", "dev", "valid")[0 if i < 24 else 1 + i % 2]) for i in range(40)]
