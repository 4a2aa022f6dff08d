"""Shared fixtures, and a guard: no test may reach the network."""

import importlib.util
import json
import os
import socket
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"

import hypothesis
import pytest
import torch

from bsr_lite.data import Group, Pair

collect_ignore = ["speed", "gpu"]  # scripts, run by hand
hypothesis.settings.register_profile("ci", derandomize=True)  # CI judges changes, not luck
if os.environ.get("CI"):
    hypothesis.settings.load_profile("ci")


def pytest_collection_modifyitems(items):
    """Files with slow tests first: of two processes none should begin a long file as the last."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


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
    """A three-layer Llama with grouped-query attention and the first 8,192 of 49,152 tokens of the
    embedded model's tokenizer, which is what loading and saving a tiny model would spend its time
    on."""
    from transformers import LlamaConfig, LlamaForCausalLM
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=8192, hidden_size=32, intermediate_size=64,
                         num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
                         max_position_embeddings=512, pad_token_id=0, bos_token_id=1,
                         eos_token_id=2, tie_word_embeddings=True, initializer_range=0.2)
    path = tmp_path_factory.mktemp("tiny")
    LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    bpe = json.loads((path / "tokenizer.json").read_text())
    vocabulary = {token: i for token, i in bpe["model"]["vocab"].items() if i < 8192}
    bpe["model"] |= {"vocab": vocabulary,
                     "merges": [m for m in bpe["model"]["merges"] if "".join(m) in vocabulary]}
    (path / "tokenizer.json").write_text(json.dumps(bpe))
    return str(path)


def assert_close_in_norm(found, expected, unit=0.0, factor=50.0, dtype=None):
    """||found - expected|| <= factor * eps * max(||expected||, unit * sqrt(n)).

    For two ways to compute the same n numbers. They add up in another order, so how far they are
    apart depends on the CPU's kernels, and a single element, whose large terms cancel, is off by
    any factor: what a precision promises is the norm. eps is that of the coarsest of both dtypes
    and `dtype`, in which they were computed. 50 eps, 6e-6 in fp32, are twice what was seen under
    any of ATEN_CPU_CAPABILITY, ONEDNN_MAX_CPU_ISA, MKL_CBWR and OMP_NUM_THREADS, and a mistake of
    a thousandth in one term of a gradient is beyond them.
    unit: the size of an element before its terms cancel (1 for rewards), where a few numbers may
    all be near zero. Gradients: all of a model's, or of one parameter, as one vector."""
    assert found.shape == expected.shape, (found.shape, expected.shape)
    eps = max(torch.finfo(x).eps for x in (found.dtype, expected.dtype, dtype or found.dtype))
    a, b = found.detach().double(), expected.detach().double()
    error = (a - b).norm().item()
    scale = max(b.norm().item(), unit * b.numel() ** 0.5)
    assert error <= factor * eps * scale, (
        f"apart by {error:.3g}, {error / (eps * scale or 1):.3g} eps of {scale:.3g}; "
        f"{factor:g} eps are allowed")


def tokenize(tokenizer, prompt, answer):
    """(ids of the prompt up to where an answer starts, ids of the answer to its end)."""
    from bsr_lite.tokenization import answer_rows, chat_ids
    (ids,), (((row,)),) = (chat_ids(tokenizer, [prompt], generate=True),
                           answer_rows(tokenizer, [(prompt, [answer])]))
    assert row[:len(ids)] == ids
    return ids, row[len(ids):]


@pytest.fixture
def one_thread():
    """For claims to the bit: the same code on the same input, in one order of additions. Weights
    must come from one file, too: kernels are chosen by alignment in memory, and a file that is
    mapped decides it."""
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


@pytest.fixture(scope="session")
def alpaca_eval():
    """The script data/alpaca_eval.py, which is no part of the package."""
    spec = importlib.util.spec_from_file_location(
        "alpaca_eval_script", Path(__file__).parents[1] / "data/alpaca_eval.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
