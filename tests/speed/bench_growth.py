"""The part of `bench` that asks how cost grows: a training step against pairs, length and answers a
prompt, BSR's own cost against BT's, and tokenization against the number of pairs."""

import copy
import itertools
import random
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from bench_rm import clock, watched

from bsr_lite.batching import TokenGroup, count_tokens, micro_batches, pack
from bsr_lite.config import DataConfig, ModelConfig, RewardModelConfig
from bsr_lite.data import Pair
from bsr_lite.embedded import EMBEDDED
from bsr_lite.models import RewardModel
from bsr_lite.step import backward
from bsr_lite.studies.records import release_memory
from bsr_lite.tokenization import answer_rows, pair_tokens

SHARED = 0.25  # of a sequence: what its answers have in common, as in the judged answers


def group_of(length: int, answers: int, numbers: random.Random) -> TokenGroup:
    """A prompt with answers, each of `length` tokens together with its prompt."""
    prompt = max(1, round(SHARED * length))
    return [[numbers.randrange(5, 2000) for _ in range(size)]
            for size in (prompt, *[length - prompt] * answers)]


def sweeps(quick: bool) -> dict[str, tuple[list[int], list[list[TokenGroup]]]]:
    """{what grows: (its sizes, a batch of token_groups at each)}."""
    numbers, first = random.Random(0), 3 if quick else None
    found = {}
    for name, sizes, batch in (
            ("pairs of 160 tokens", [2, 4, 8, 16],
             lambda n: [group_of(160, 2, numbers) for _ in range(n)]),
            ("tokens a response", [64, 128, 256, 512, 1024],
             lambda n: [group_of(n, 2, numbers) for _ in range(2)]),
            ("answers to a prompt", [2, 4, 8, 16], lambda n: [group_of(160, n, numbers)])):
        found[name] = (sizes[:first], [batch(n) for n in sizes[:first]])
    return found


def seconds_of(step, repeats: int, device: torch.device) -> float:
    """The fastest of several, after one to warm up: what a busy machine adds is no growth."""
    times = []
    for turn in range(repeats + 1):
        started = clock(device)
        step()
        if turn:
            times.append(clock(device) - started)
    return min(times)


def exponent(sizes: list[int], values: list[float]) -> float:
    """b of the least-squares fit values = a * sizes^b.

    >>> round(exponent([1, 2, 4], [3.0, 12.0, 48.0]), 3)
    2.0
    """
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def growth(model: RewardModel, quick: bool, repeats: int = 3) -> dict:
    """table[what grows]: sizes, tokens, seconds of forward and backward, peak bytes beside the
    model's, and the exponent of seconds and of bytes in the size."""
    config = RewardModelConfig(ModelConfig(EMBEDDED), DataConfig(""), "none")
    table = {}
    for name, (sizes, batches) in sweeps(quick).items():
        rows: dict = {"sizes": sizes, "tokens": [], "seconds": [], "peak": []}
        for token_groups in batches:
            k = len(token_groups[0]) - 1
            part = (list(range(len(token_groups) * k // 2)), pack(token_groups).to(model.device))

            def step(part=part):
                backward(model, [part], config)
                model.zero_grad(set_to_none=True)

            rows["tokens"].append(sum(map(count_tokens, token_groups)))
            rows["seconds"].append(seconds_of(step, repeats, model.device))
            rows["peak"].append(watched(step, lambda part=part: model(part[1]), model)["peak"])
            release_memory()
        table[name] = rows | {key: exponent(sizes, rows[key.removesuffix("_exponent")])
                              for key in ("seconds_exponent", "peak_exponent")}
    return table


def cost_of_bsr(model: RewardModel, quick: bool, repeats: int = 3) -> dict:
    """table[micro-batches]: seconds of a step of 8 pairs under BT and BSR, and their ratio. In one
    micro-batch BSR is a few sums more; in several it needs all rewards before any gradient, that
    is, a forward pass without a graph."""
    numbers, table = random.Random(1), {}
    token_groups = [group_of(160, 2, numbers) for _ in range(8)]
    bt = RewardModelConfig(ModelConfig(EMBEDDED), DataConfig(""), "none")
    configs = {"bt": bt, "bsr": replace(bt, loss="bsr", bsr_lambda=1e-3)}
    lengths = list(map(count_tokens, token_groups))
    for count in (1, 4):
        parts = [(run, pack([token_groups[i] for i in run]).to(model.device))
                 for run in micro_batches(lengths, -(-sum(lengths) // count))]
        times: dict[str, list[float]] = {name: [] for name in configs}
        for _ in range(1 if quick else repeats):
            for name, config in configs.items():  # in turns
                times[name].append(seconds_of(lambda c=config, p=parts: backward(model, p, c), 1,
                                              model.device))
        model.zero_grad(set_to_none=True)
        best = {name: min(found) for name, found in times.items()}
        table[str(len(parts))] = best | {"ratio": best["bsr"] / best["bt"]}
    return table


def endless(pairs: list[Pair]) -> Iterator[Pair]:
    """The pairs again and again, numbered, so that no text comes twice."""
    for number in itertools.count():
        for pair in pairs:
            prompt = copy.deepcopy(pair.prompt)
            prompt[-1]["content"] += f" ({number})"
            yield Pair(prompt, pair.chosen, pair.rejected)


def resident_gb() -> float:
    """Memory that this process holds now, in 1e9 bytes; NaN where the system does not say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096 / 1e9
    except OSError:
        return float("nan")


def tokenization(pairs: list[Pair], tokenizer, count: int) -> dict:
    """Pairs a second row by row and in chunks (on the same first pairs, in turns), then `count`
    pairs held as text and tokenized: seconds, tokens, resident memory after reading and after."""
    some = list(itertools.islice(endless(pairs), min(count, 2000)))
    speed: dict[str, list[float]] = {"rows": [], "chunks": []}
    for _ in range(3):
        started = time.perf_counter()
        for pair in some:
            for text in (pair.chosen, pair.rejected):
                answer_rows(tokenizer, [(pair.prompt, [text])])
        speed["rows"].append(len(some) / (time.perf_counter() - started))
        started = time.perf_counter()
        pair_tokens(some, tokenizer, 2**20)
        speed["chunks"].append(len(some) / (time.perf_counter() - started))
    ratio = np.array(speed["chunks"]) / np.array(speed["rows"])
    found: dict = {"pairs_per_second": {k: max(v) for k, v in speed.items()},
                   "speed_up": float(np.median(ratio))}
    held = list(itertools.islice(endless(pairs), count))
    found |= {"pairs": count, "read_gb": resident_gb()}
    started = time.perf_counter()
    token_groups, _ = pair_tokens(held, tokenizer, 2**20)
    return found | {"seconds": time.perf_counter() - started, "held_gb": resident_gb(),
                    "tokens": sum(map(count_tokens, token_groups))}
