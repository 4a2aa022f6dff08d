"""Best-of-n: what a proxy reward picks among n samples of a policy, and what gold says of it:
python -m bsr_lite.studies.best_of_n --config bsr_lite/configs/best_of_n.yaml

The proxies are the models that a study saved. Samples and scores are kept as they come, so a
killed run goes on where it stopped.
"""

import io
import json
import random
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from ..cli import parser
from ..config import STRICT, Count, load_config, to_dict
from ..embedded import EMBEDDED
from ..errors import ConfigError, DataError, ModelError
from ..generate import answers
from ..gold import WORD
from ..metrics import best_of_n, best_of_n_kl, two_way_interval
from ..policy import load_policy
from ..runlog import (
    environment,
    fingerprint,
    phase,
    read_lines,
    read_recorded,
    release_memory,
    write_atomic,
    write_results,
)
from ..saving import weights_fingerprint
from ..scorers import pocket_gold, pocket_rows, reward_scorer


@dataclass(config=STRICT)
class BestOfNConfig:
    """Samples of one policy on prompts of the pocket world, and the proxies that rank them."""

    proxies: str  # folder of a study's runs: <method>-seed<n>/model
    methods: list[str]  # of that study; the others are compared to the first
    output_dir: str
    policy: str = EMBEDDED
    data: str = "data/pocket/pocket.jsonl.gz"
    split: str = "valid"
    prompts: Annotated[int, Field(ge=2)] = 112
    num_samples: Annotated[int, Field(ge=2)] = 64
    max_new_tokens: Count = 64
    token_budget: Count = 4096  # of scoring
    seed: int = 0

    def __post_init__(self):
        if not self.methods:
            raise ValueError("name at least one of the study's methods")


def draw_prompts(config: BestOfNConfig) -> list[dict]:
    rows = pocket_rows(config.data, config.split)
    if len(rows) < config.prompts:
        raise DataError(f"{config.data}: {len(rows)} prompts of split {config.split!r}, "
                        f"{config.prompts} asked for")
    return random.Random(config.seed).sample(rows, config.prompts)


def draw_samples(config: BestOfNConfig, rows: list[dict], folder: Path) -> list[dict]:
    """{"prompt", "responses", "gold", "finished"} of each prompt, N samples each, appended to
    samples.jsonl as they come; every prompt has a random stream of its own."""
    path = folder / "samples.jsonl"
    done = read_lines(path)  # without a last one that a kill tore
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in done))
    policy = load_policy(config.policy) if len(done) < len(rows) else None
    for index, row in enumerate(rows[len(done):], len(done)):
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + index)
        prompt = [{"role": "user", "content": row["prompt"]}]
        (texts, finished), = answers(policy, [prompt], config.num_samples, config.max_new_tokens,
                                     generator)
        done.append({"prompt": row["prompt"], "responses": texts, "finished": finished,
                     "gold": pocket_gold(row, texts, finished)})
        with path.open("a") as file:
            file.write(json.dumps(done[-1]) + "\n")
    return done


def proxy_scores(samples: list[dict], folder: Path, config: BestOfNConfig) -> np.ndarray:
    """Rewards of a saved model for every sample.  Shapes: -> (P, N)."""
    from ..models import load_reward_model
    model = load_reward_model(str(folder))
    score = reward_scorer(model, config.token_budget)
    rewards = np.array([score(s, s["responses"], s["finished"]) for s in samples])
    del model
    release_memory()
    return rewards


def find_proxies(config: BestOfNConfig) -> dict[str, Path]:
    """{<method>-seed<n>: its run's folder}.  Raises: ConfigError when methods differ in seeds, or
    have fewer than the three that an interval needs."""
    folders: dict[str, Path] = {}
    seeds = {}
    for method in config.methods:
        found = sorted(path.parent for path in Path(config.proxies).glob(f"{method}-seed*/model"))
        seeds[method] = [folder.name.rpartition("-seed")[2] for folder in found]
        folders |= {folder.name: folder for folder in found}
    if len(seeds[config.methods[0]]) < 3 or any(s != seeds[config.methods[0]] for s in
                                                seeds.values()):
        raise ConfigError(f"{config.proxies} holds trained models <method>-seed<n>/model of the "
                          f"seeds {seeds}: each method needs the same ones, at least three; run "
                          "the study that makes them first")
    return folders


def collect(config: BestOfNConfig) -> dict[str, np.ndarray]:
    """gold, words and one array per proxy `<method>-seed<n>`, (P, N) each."""
    folders, rows = find_proxies(config), draw_prompts(config)
    settings = [config.policy, config.num_samples, config.max_new_tokens, config.seed, rows]
    work = Path(config.output_dir) / f"samples-{fingerprint(settings)[:8]}"
    work.mkdir(parents=True, exist_ok=True)
    with phase("samples"):
        samples = draw_samples(config, rows, work)
    scores = {"gold": np.array([s["gold"] for s in samples]),
              "words": np.array([[len(WORD.findall(r)) for r in s["responses"]] for s in samples])}
    for name, folder in folders.items():
        saved = work / f"{name}-{weights_fingerprint(folder / 'model')[:8]}.npy"
        if not saved.exists():
            with phase(name):
                packed = io.BytesIO()
                np.save(packed, proxy_scores(samples, folder / "model", config))
                write_atomic(saved, packed.getvalue())
        scores[name] = np.load(saved)
    return scores


def curves(scores: dict[str, np.ndarray]) -> dict:
    """Per method and n = 1, 2, 4, ...: gold of the pick with its 95% interval over seeds and
    prompts, its paired difference to the first method, and the proxy's own reward of it in
    standard deviations of that proxy among a prompt's samples. Beside them `best` (picked by gold
    itself) and `shortest` (fewest words)."""
    gold = scores["gold"]
    names = [k for k in scores if k not in ("gold", "words")]
    sizes = [2**i for i in range(int(np.log2(gold.shape[1])) + 1)]
    methods = list(dict.fromkeys(name.rsplit("-seed", 1)[0] for name in names))
    table: dict = {"n": sizes, "kl_bound": [best_of_n_kl(n) for n in sizes], "methods": {},
                   "best": [float(best_of_n(gold, gold, n).mean()) for n in sizes],
                   "shortest": [float(best_of_n(-scores["words"], gold, n).mean())
                                for n in sizes]}
    picked: dict[str, np.ndarray] = {}
    for method in methods:
        proxies = [scores[name] for name in names if name.rsplit("-seed", 1)[0] == method]
        picked[method] = np.array([[best_of_n(p, gold, n) for n in sizes] for p in proxies])
        level = [[(best_of_n(p, p, n) - p.mean(1)).mean() / p.std(1).mean() for n in sizes]
                 for p in proxies]
        delta = picked[method] - picked[methods[0]]  # (seeds, sizes, prompts)
        table["methods"][method] = {
            "gold": [two_way_interval(picked[method][:, i])[:3] for i in range(len(sizes))],
            "difference": [two_way_interval(delta[:, i]) for i in range(len(sizes))],
            "seeds": picked[method].mean(2).tolist(), "proxy": np.mean(level, 0).tolist()}
    return table


def markdown(table: dict, scores: dict[str, np.ndarray]) -> str:
    """Gold of the pick against n, one row a method."""
    prompts, total = scores["gold"].shape
    lines = [f"Gold reward of the sample that the proxy picks among n; {prompts} prompts, {total} "
             "samples each, unbiased estimator; 95% intervals over seeds and prompts, in brackets "
             "the paired difference to the first method.", "",
             "| picked by | " + " | ".join(f"n={n}" for n in table["n"]) + " |",
             "|---" * (len(table["n"]) + 1) + "|"]
    for place, (method, row) in enumerate(table["methods"].items()):
        cells = [f"{mean:.3f} ({low:.3f} to {high:.3f})" +
                 (f" [{d[0]:+.3f}, {d[1]:+.3f} to {d[2]:+.3f}]" if place else "")
                 for (mean, low, high), d in zip(row["gold"], row["difference"], strict=True)]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    for name in ("shortest", "best"):
        lines.append(f"| {name} | " + " | ".join(f"{v:.3f}" for v in table[name]) + " |")
    lines.append("| KL to the policy, bound (nats) | " +
                 " | ".join(f"{kl:.2f}" for kl in table["kl_bound"]) + " |")
    return "\n".join(lines) + "\n"


def run_best_of_n(path: Path, overrides: list[str] = (), resume: bool = False) -> dict:
    """Sample and score what is missing, then write scores.npz, results.json, results.md and
    env.json; with `resume`, scores recorded under data/runs for the same config are read back."""
    config = load_config(path, BestOfNConfig, overrides)
    out = Path(config.output_dir)
    recorded = read_recorded(out, to_dict(config)) if resume else None
    if recorded:
        scores = dict(np.load(recorded / "scores.npz"))
    else:
        scores = {k: np.round(v, 3).astype(np.float32) for k, v in collect(config).items()}
        out.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(out / "scores.npz", **scores)
        write_atomic(out / "env.json", json.dumps(environment(), indent=2) + "\n")
    table = curves(scores)
    text = markdown(table, scores)
    write_results(out, to_dict(config), table, text)
    print(text)
    return table


def main(argv: list[str] | None = None) -> None:
    args = parser("best_of_n").parse_args(argv)
    with phase("best of n"):
        run_best_of_n(Path(args.config), args.overrides)


if __name__ == "__main__":
    try:
        main()
    except (ConfigError, DataError, ModelError) as error:
        sys.exit(f"error: {error}")
