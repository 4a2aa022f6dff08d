import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from bsr_lite.batching import count_tokens
from bsr_lite.config import ModelConfig
from bsr_lite.data import Pair
from bsr_lite.errors import DataError, ModelError
from bsr_lite.models import load_reward_model
from bsr_lite.policy import load_policy

SPEED = Path(__file__).with_name("speed")  # scripts, run by hand
sys.path.insert(0, str(SPEED))
import bench  # noqa: E402
import bench_growth  # noqa: E402
import bench_rm  # noqa: E402
from bench_rloo import Rollouts, compare_sampling, compare_updates  # noqa: E402
from bench_rm import Work  # noqa: E402

pytest.importorskip("trl", reason="the comparison needs TRL")


@pytest.fixture
def tiny_tokenizer(tiny_path):
    """The tiny model's, whose vocabulary is its own."""
    return AutoTokenizer.from_pretrained(tiny_path)


@pytest.fixture
def pairs():
    return [Pair([{"role": "user", "content": "Name birds. " * (1 + i % 3)}], "A wren. " * (1 + i),
                 "Jay and owl. " * (12 - i)) for i in range(12)]


def test_the_same_batches_give_the_same_loss_with_fewer_tokens_and_bytes(tiny_path, tiny_tokenizer,
                                                                         pairs):
    """Times are not tested, what they were taken of is: equal losses in fp32, exact counts."""
    work = Work("it", bench.batches_of(pairs, tiny_tokenizer, 3, 4),
                ModelConfig(tiny_path, lora_rank=2, dtype="float32"))
    table = bench_rm.compare(work, 1, torch.device("cpu"))
    rows = [[len(t[0]) + len(side) for t in batch for side in t[1:]] for batch in work.batches]
    padded = sum(len(lengths) * max(lengths) for lengths in rows)
    real = sum(count_tokens(t) for batch in work.batches for t in batch)
    for name in ("trl", "trl_best"):
        assert table[name]["first_loss"] == pytest.approx(table["ours"]["first_loss"], abs=1e-5)
        assert table[name]["computed_tokens"] == padded / real > 1.3
    assert table["ours"]["saved"] * 1.3 < table["trl_best"]["saved"]
    assert table["ours"]["peak"] < table["trl_best"]["peak"]
    assert table["trl"]["saved"] < table["ours"]["saved"]  # by checkpointing
    text = "\n".join(bench.reward_table({"it": table}))
    assert text.count("| it | TRL") == 2


@pytest.mark.slow
def test_an_rloo_update_has_the_gradient_of_trls(tiny_path):
    policy = load_policy(tiny_path, lora_rank=4, dtype="float32")
    numbers = torch.Generator().manual_seed(0)

    def ids(low, high):
        size = int(torch.randint(low, high, (1,), generator=numbers))
        return torch.randint(5, 2000, (size,), generator=numbers).tolist()

    steps = [[[ids(8, 20), *(ids(3, 20) for _ in range(3))] for _ in range(4)] for _ in range(2)]
    table = compare_updates(policy, Rollouts(steps), 1)
    assert table["trl"]["gradient_difference"] < 1e-4
    assert table["trl_best"]["gradient_difference"] < 1e-4
    found = compare_sampling(policy, [token_group[0] for token_group in steps[0]], 2, 4, 1)
    assert set(found["tokens_per_second"]) == {"ours", "hf"} and found["speed_up"][0] > 0
    assert "it" in "\n".join(bench.rloo_table({"it": table}, {"that": found}))


def test_long_prompts_are_dialogs_of_other_pairs(pairs):
    found = bench.dialogs(pairs)
    assert len(found) == 2 and [m["role"] for m in found[0].prompt] == ["user", "assistant"] * 4 + [
        "user"]
    assert (found[0].chosen, found[0].prompt[1]["content"]) == (pairs[4].chosen, pairs[0].chosen)


@pytest.mark.slow
def test_growth_counts_what_it_says(tiny_path, tiny_tokenizer, pairs):
    """Bytes and tokens are exact, times are not tested: tokens grow as asked, and the memory of a
    step in proportion to them."""
    table = bench_growth.growth(load_reward_model(tiny_path, lora_rank=2), quick=True, repeats=1)
    assert table["pairs of 160 tokens"]["tokens"] == [n * 280 for n in (2, 4, 8)]
    assert table["tokens a response"]["tokens"] == [2 * (n // 4 + 2 * (n - n // 4))
                                                    for n in (64, 128, 256)]
    for row in table.values():
        assert row["peak_exponent"] == pytest.approx(1, abs=0.3) and min(row["seconds"]) > 0
    found = bench_growth.tokenization(pairs, tiny_tokenizer, 40)
    assert found["pairs"] == 40 and found["speed_up"] > 0
    texts = bench_growth.endless(pairs)
    some = [(p.prompt[-1]["content"], p.chosen) for p in (next(texts) for _ in range(40))]
    assert len(set(some)) == 40 and "(0)" in some[11][0] and "(1)" in some[12][0]


def test_bsr_costs_one_forward_pass_more_in_several_micro_batches(tiny_path, monkeypatch):
    counts = {}
    model = load_reward_model(tiny_path, lora_rank=2)
    forward = type(model).forward
    monkeypatch.setattr(type(model), "forward", lambda self, packed: (
        counts.__setitem__(key, counts.get(key, 0) + 1), forward(self, packed))[1])
    backward = bench_growth.backward

    def counted(model, parts, config):
        nonlocal key
        key = (config.loss, len(parts))
        return backward(model, parts, config)

    key = None
    monkeypatch.setattr(bench_growth, "backward", counted)
    table = bench_growth.cost_of_bsr(model, quick=True)
    calls = 2  # once to warm up
    assert counts == {("bt", 1): calls, ("bsr", 1): calls, ("bt", 4): 4 * calls,
                      ("bsr", 4): 8 * calls}
    assert set(table) == {"1", "4"} and table["4"]["ratio"] > 0


def test_bad_calls_are_one_clear_error(monkeypatch, pairs, tiny_tokenizer):
    with pytest.raises(DataError, match="--rounds 0: at least 1"):
        bench.main(["--rounds", "0"])
    with pytest.raises(DataError, match="12 pairs, 16 needed"):
        bench.batches_of(pairs, tiny_tokenizer, 4, 4)
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(ModelError, match=r"needs TRL: pip install -r requirements\.txt"):
        bench.main(["--quick"])


@pytest.mark.slow
def test_it_starts_from_the_repositorys_root():
    done = subprocess.run([sys.executable, "tests/speed/bench.py", "--rounds", "0"],
                          cwd=SPEED.parents[1], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "error: --rounds 0: at least 1\n")


def test_an_exponent_is_that_of_the_power_law():
    assert bench_growth.exponent([1, 2, 4], [3.0, 12.0, 48.0]) == pytest.approx(2)
