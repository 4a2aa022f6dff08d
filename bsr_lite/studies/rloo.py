"""Reward models as proxies of the same RLOO run, seed by seed, judged by gold:
python -m bsr_lite.studies.rloo --config bsr_lite/configs/study_rloo.yaml

Finished runs are read back, so a killed study goes on where it stopped.
"""

import copy
import json
import math
import random
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from .. import plots
from ..cli import parser
from ..config import STRICT, RLOOConfig, load_config, parse, read_yaml, to_dict
from ..distributed import refuse_launcher
from ..errors import ConfigError, DataError, ModelError, TrainingError
from ..metrics import length_controlled_win_rate, two_way_interval
from ..policy import load_policy, reward_model_for
from ..rloo import kl_estimate
from ..runlog import fingerprint, phase, read_runs, release_memory, write_atomic, write_results
from ..saving import weights_fingerprint
from ..scorers import reward_scorer
from ..train_rloo import (
    gold_scorer,
    read_prompts,
    reference_scale,
    roll_out,
    score,
    sequence_logprobs,
    sums,
    train,
)


@dataclass(config=STRICT)
class RLOOStudyConfig:
    """Methods x KL coefficients x seeds of `train_rloo`: a run `<method>-kl<coefficient>-seed<n>`
    trains against <proxies>/<method>-seed<n>/model."""

    base: str  # YAML of an RLOOConfig, relative to this file
    proxies: str  # folder of a study's runs
    methods: list[str]
    seeds: dict[float, list[int]]  # {kl_coef: [seed, ...]}; fewer than three carry no interval
    output_dir: str
    common: dict = Field(default_factory=dict)  # overrides of the base
    eval_split: str = "valid"
    eval_prompts: Annotated[int, Field(ge=2)] = 112

    def __post_init__(self):
        if not self.methods or not self.seeds or not all(
                seeds and len(set(seeds)) == len(seeds) for seeds in self.seeds.values()):
            raise ValueError("name the methods, and the different seeds of every kl_coef, like "
                             "seeds: {0.0: [0, 1, 2]}")


def run_configs(study: RLOOStudyConfig, path: Path) -> dict[str, RLOOConfig]:
    """{its name: config of a run}, all parsed before any starts.  Raises: ConfigError."""
    base, found = read_yaml(path.parent / study.base), {}
    for kl_coef, seed, method in ((k, n, m) for k, seeds in study.seeds.items() for n in seeds
                                  for m in study.methods):
        proxy = Path(study.proxies) / f"{method}-seed{seed}" / "model"
        name = f"{method}-kl{kl_coef}-seed{seed}"
        values = copy.deepcopy(base) | study.common | {
            "kl_coef": kl_coef, "seed": seed, "reward_model": str(proxy),
            "output_dir": str(Path(study.output_dir) / name)}
        found[name] = parse(values, RLOOConfig, f"{path}: {name}")
        if not proxy.is_dir():
            raise ConfigError(f"{proxy} is missing: run the study that trains it first")
    if found[name].gold in (None, "none"):
        raise ConfigError(f"{path}: a study compares by gold; set it")
    held_out(found[name], study)
    return found


def held_out(config: RLOOConfig, study: RLOOStudyConfig) -> list[dict]:
    """A random draw of prompts to evaluate on.  Raises: DataError when some were trained on."""
    rows = read_prompts(config, study.eval_split)
    trained = {r["prompt"] for r in read_prompts(config)} & {r["prompt"] for r in rows}
    if trained or len(rows) < study.eval_prompts:
        raise DataError(f"{config.data}: split {study.eval_split!r} has {len(rows)} prompts, "
                        f"{len(trained)} of them trained on; {study.eval_prompts} new ones needed")
    return random.Random(0).sample(rows, study.eval_prompts)


def evaluate(config: RLOOConfig, study: RLOOStudyConfig, shared: dict) -> dict:
    """Two answers of the trained policy and two of its reference to each held-out prompt; lists
    (P, 2): gold, proxy (in the run's units), tokens, finished, the policy's kl; and `texts`, the
    first answer to each. The reference and its random stream are the same in all runs of a study,
    so that its answers are drawn once, into `shared`."""
    rows, asked = held_out(config, study), copy.deepcopy(config)
    asked.num_generations = 2
    policy = load_policy(str(Path(config.output_dir) / "model"), dtype=config.policy.dtype,
                         quantization=config.policy.quantization)
    proxy = reward_scorer(reward_model_for(policy, config.reward_model, config.policy.name))
    gold = gold_scorer(config)
    zero, unit = reference_scale(policy, proxy, read_prompts(config), config)

    def described(batch: list[dict]) -> dict:
        scaled = (score(batch, proxy) - zero) / unit
        return {"gold": score(batch, gold).tolist(), "proxy": scaled.double().round(
                    decimals=4).tolist(), "tokens": [list(map(len, b["token_group"][1:])) for b in batch],
                "finished": [b["finished"] for b in batch], "texts": [b["texts"][0] for b in batch]}

    batch = roll_out(policy, rows, asked, 7)
    found = {"policy": described(batch)}
    logp = sums(sequence_logprobs(policy, batch, asked), len(batch))
    with policy.reference():
        ref = sums(sequence_logprobs(policy, batch, asked), len(batch))
        if "reference" not in shared:
            shared["reference"] = roll_out(policy, rows, asked, 7)
        found["reference"] = described(shared["reference"])
    found["policy"]["kl"] = kl_estimate(logp, ref).double().round(decimals=4).tolist()
    return found


def interval(values: np.ndarray) -> tuple:
    """Mean with its 95% interval over seeds and prompts, or without for fewer than three seeds.
    Shapes: (S, P)."""
    mean = float(values.mean())
    return two_way_interval(values)[:3] if len(values) >= 3 else (mean, None, None)


def summarize(runs: dict[str, list[dict]]) -> dict:
    """table[method-kl]: gains of gold and proxy over the reference's answers, tokens, finished, kl,
    each (mean, low, high); `difference`: gold gain minus the first method's at the same kl_coef,
    paired; win rate over the reference under gold, raw and length-controlled."""
    table, gains = {}, {}
    for name, found in runs.items():
        def column(part, key, found=found):
            return np.array([f[part][key] for f in found], dtype=float)  # (S, P, 2)

        gain = {key: column("policy", key) - column("reference", key) for key in ("gold", "proxy")}
        gains[name] = gain["gold"].mean(2)
        first = next(n for n in runs if n.partition("-kl")[2] == name.partition("-kl")[2])
        wins = (np.sign(gain["gold"][..., 0]) + 1) / 2  # of the first answers
        words = [np.array([[len(t.split()) for t in f[part]["texts"]] for f in found]).ravel()
                 for part in ("policy", "reference")]
        table[name] = {
            "seeds": len(found), "gold_gain": interval(gains[name]),
            "difference": interval(gains[name] - gains[first]),
            "proxy_gain": interval(gain["proxy"].mean(2)),
            **{key: interval(column("policy", key).mean(2)) for key in ("kl", "tokens",
                                                                        "finished")},
            **{k: None if math.isnan(v) else v for k, v in
               length_controlled_win_rate(wins.ravel(), *words).items()}}
    return table


COLUMNS = {"gold_gain": "gold gain", "difference": "minus the first method's",
           "proxy_gain": "proxy gain (its units)", "kl": "KL (nats)", "tokens": "tokens",
           "finished": "finished"}


def markdown(table: dict, prompts: int) -> str:
    """One row a method and kl_coef."""
    lines = [f"Against the reference's answers to {prompts} held-out prompts; 95% intervals over "
             "seeds and prompts, none for fewer than three seeds.", "",
             "| proxy, kl_coef | seeds | " + " | ".join(COLUMNS.values())
             + " | win rate | length-controlled |", "|---" * (len(COLUMNS) + 4) + "|"]
    for name, row in table.items():
        cells = [f"{row[key][0]:.3f}" + (f" ({row[key][1]:.3f} to {row[key][2]:.3f})"
                 if row[key][1] is not None else "") for key in COLUMNS]
        fair = row["length_controlled"]
        lines.append(f"| {name.replace('-kl', ', ')} | {row['seeds']} | " + " | ".join(cells)
                     + f" | {row['win_rate']:.3f} | "
                     + (f"{fair:.3f} |" if fair is not None else "lengths hardly overlap |"))
    return "\n".join(lines) + "\n"


def run_study(path: Path, overrides: list[str] = ()) -> dict:
    """Run what is missing, then write results.json, results.md and results.png."""
    study = load_config(path, RLOOStudyConfig, overrides)
    runs: dict[str, list[dict]] = {}
    shared: dict = {}
    for name, config in run_configs(study, path).items():
        key = to_dict(config) | {
            "eval_split": study.eval_split, "eval_prompts": study.eval_prompts,
            "reward_model_weights": weights_fingerprint(config.reward_model),
            "rows": fingerprint([read_prompts(config), read_prompts(config, study.eval_split)])}
        saved = Path(config.output_dir) / "evaluation.json"
        found = json.loads(saved.read_text()) if saved.exists() else {}
        if found.get("config") != key:
            try:
                del train(config, resume=True).hf
            except ConfigError as error:  # half a run of other settings, prompts or proxy
                print(f"{error}. Training it from the start")
                del train(config).hf
            release_memory()
            with phase("evaluation"):
                found = {"config": key} | evaluate(config, study, shared)
            write_atomic(saved, json.dumps(found) + "\n")
            release_memory()
        runs.setdefault(name.rpartition("-seed")[0], []).append(found)
    table = summarize(runs)
    text = markdown(table, study.eval_prompts)
    out = Path(study.output_dir)
    write_results(out, to_dict(study), table, text)
    plots.frontier_figure({name: seeds for name, seeds in read_runs(out).items() if name in runs}
                          ).savefig(out / "results.png")
    print(f"{text}\nfigure  {out / 'results.png'}")
    return table


def main(argv: list[str] | None = None) -> None:
    args = parser("rloo_study").parse_args(argv)
    refuse_launcher("rloo_study")
    with phase("RLOO study"):
        run_study(Path(args.config), args.overrides)


if __name__ == "__main__":
    try:
        main()
    except (ConfigError, DataError, ModelError, TrainingError) as error:
        sys.exit(f"error: {error}")
