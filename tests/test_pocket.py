"""The shipped pocket world is what its card says."""

import gzip
import hashlib
import importlib.util
import json
from pathlib import Path

import pytest
from conftest import assert_close_in_norm

from bsr_lite.data import read_groups
from bsr_lite.gold import gold_reward, gold_terms

FOLDER = Path(__file__).parents[1] / "data" / "pocket"
FILE = FOLDER / "pocket.jsonl.gz"


@pytest.fixture(scope="module")
def build():
    spec = importlib.util.spec_from_file_location("build", FOLDER / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rows():
    return [json.loads(line) for line in gzip.open(FILE, "rt")]


def test_card_is_that_of_the_shipped_file(build, rows):
    digest = hashlib.sha256(FILE.read_bytes()).hexdigest()
    assert (FOLDER / "README.md").read_text() == build.card(rows, digest)
    assert FILE.stat().st_size < 5e6


def test_prompts_topics_and_sources(build, rows):
    assert len(rows) >= 1000 and len({r["topic"] for r in rows}) >= 80
    topics = {s: {r["topic"] for r in rows if r["split"] == s} for s in ("train", "dev", "valid")}
    assert not topics["train"] & topics["dev"] and not topics["valid"] & (
        topics["train"] | topics["dev"])
    train, valid = set(build.TRAIN_SOURCES), set(build.VALID_SOURCES)
    assert len(train | valid) >= 8 and not train & valid
    for r in rows:
        pools = len(train & set(r["models"])), len(valid & set(r["models"]))
        # one source gave one train prompt nothing but repeats, five times over
        assert pools == (4, 3) if r["id"] == "train-0625" else pools in ((4, 4), (4, 0))
        assert pools == (4, 4) or r["split"] == "train"
        assert len(set(r["responses"])) == len(r["responses"])
    both = sum(len(r["models"]) > 4 for r in rows if r["split"] == "train")
    assert 0.28 < both / sum(r["split"] == "train" for r in rows) < 0.38


def test_prompts_are_rebuilt_from_topics_and_templates(build, rows):
    fresh = {p["id"]: p for p in build.build_prompts()}
    assert fresh.keys() == {r["id"] for r in rows}
    assert all(fresh[r["id"]]["prompt"] == r["prompt"] for r in rows)


def test_gold_is_recomputed_from_the_text(rows):
    for r in rows:
        for i, text in enumerate(r["responses"]):
            terms = gold_terms(text, unit=r["unit"], count=r["count"], stems=r["stems"],
                               finished=r["finished"][i])
            assert gold_reward(terms) == r["gold"][i]
            assert {k: round(v, 4) for k, v in terms.items()} == {
                k: v[i] for k, v in r["terms"].items()}


def test_no_single_feature_explains_half_of_the_ranking(build, rows):
    table = build.explained(rows)
    assert max(share for _, _, share in table) < 0.5
    assert max(abs(tau) for _, tau, _ in table) < 0.5


def test_the_reader_takes_it_whole(rows):
    groups = read_groups(str(FILE))
    assert len(groups) == len(rows) and groups[0].gold == rows[0]["gold"]


def test_finished_batches_are_not_sampled_again_and_bad_texts_are(build, tmp_path, monkeypatch):
    calls = []

    class Fake:
        def __init__(self, family):
            pass

        def sample(self, prompts, source, seed):
            calls.append(seed)
            return [("" if len(calls) == 1 and i == 0 else f"text {seed} {i}", True)
                    for i, _ in enumerate(prompts)]

    monkeypatch.setattr(build, "Generator", Fake)
    prompts = [dict(id=f"p{i}", prompt=f"q{i}", models=["smol-plain"]) for i in range(3)]
    first = build.generate(prompts, tmp_path)
    assert len(calls) == 2 and len(first) == 3  # one batch, and one more for the empty text
    assert build.generate(prompts, tmp_path) == first and len(calls) == 2


@pytest.mark.slow
def test_packed_rows_are_exact_on_the_real_model_and_text():
    """Against right-padded rows in plain transformers: rewards 5e-6, relative gradients 1e-5."""
    import torch

    from bsr_lite.batching import pack
    from bsr_lite.embedded import EMBEDDED
    from bsr_lite.eval_rm import group_tokens
    from bsr_lite.models import load_reward_model
    model = load_reward_model(EMBEDDED, depth=10, dtype="float32").train()
    token_groups = [group_tokens(model.tokenizer, g.prompt, g.responses)
                    for g in read_groups(str(FILE))[:3]]
    weights = torch.linspace(-1, 1, sum(len(t) - 1 for t in token_groups))

    def gradient(rewards):
        model.zero_grad()
        (rewards * weights).sum().backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    packed = model(pack(token_groups))
    packed_gradient = gradient(packed)
    rows = [stem + branch for stem, *branches in token_groups for branch in branches]
    width = max(map(len, rows))
    model.hf.set_attn_implementation("sdpa")
    padded = model.hf(
        input_ids=torch.tensor([row + [0] * (width - len(row)) for row in rows]),
        attention_mask=torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows]),
        use_cache=False).logits[:, 0]
    assert_close_in_norm(packed, padded, unit=1)
    assert_close_in_norm(packed_gradient, gradient(padded))
