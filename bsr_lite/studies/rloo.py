"""Reward models as proxies of the same RLOO run, seed by seed, judged by gold:
python -m bsr_lite.studies.rloo --config bsr_lite/configs/study_rloo.yaml

Finished runs are read back, so a killed study goes on where it stopped.
"""

import math
from dataclasses import field
from pathlib import Path

import numpy as np

from .. import train_rloo
from ..config import Folder, RLOOConfig, Several, load_config, section
from ..errors import ConfigError, DataError, run
from ..generate import roll_out
from ..policy import load_policy, reward_model_for
from ..rloo import kl_estimate
from ..runlog import fingerprint, phase
from ..saving import weights_fingerprint
from ..scorers import reward_scorer
from ..train_rloo import gold_of, prompts_of, reference_scale, score, sequence_logprobs, sums
from . import records
from .statistics import length_controlled_win_rate, two_way_interval
from .tables import shown, table


@section
class RLOOStudyConfig:
    """Methods x KL coefficients x seeds of `train_rloo`: a run `<method>-kl<coefficient>-seed<n>`
    trains against <proxies>/<method>-seed<n>/model."""

    base: str  # YAML of an RLOOConfig, relative to this file
    proxies: str  # folder of a study's runs
    methods: records.Names
    seeds: records.SeedsByPrice  # {kl_coef: [seed, ...]}; fewer than three carry no interval
    output_dir: Folder
    common: dict = field(default_factory=dict)  # overrides of the base
    eval_split: str = "valid"
    eval_prompts: Several = 112


def run_configs(study: RLOOStudyConfig, path: Path) -> dict[str, RLOOConfig]:
    """{its name: config of a run}, all parsed before any starts.  Raises: ConfigError."""
    runs = {f"{method}-kl{kl_coef}-seed{seed}":
            {"kl_coef": kl_coef, "seed": seed,
             "reward_model": f"{study.proxies}/{method}-seed{seed}/model"}
            for kl_coef, seeds in study.seeds.items() for seed in seeds for method in study.methods}
    configs = records.run_configs(study, path, RLOOConfig, runs)
    if any(config.gold in (None, "none") for config in configs.values()):
        raise ConfigError(f"{path}: a study compares by gold; set it")
    return configs


def held_out(config: RLOOConfig, study: RLOOStudyConfig) -> list[dict]:
    """A random draw of prompts to evaluate on.  Raises: DataError when some were trained on."""
    rows = prompts_of(config, study.eval_split)
    trained = {r["prompt"] for r in prompts_of(config)} & {r["prompt"] for r in rows}
    if trained or len(rows) < study.eval_prompts:
        raise DataError(f"{config.data}: split {study.eval_split!r} has {len(rows)} prompts, "
                        f"{len(trained)} of them trained on; {study.eval_prompts} new ones needed")
    return records.drawn(rows, study.eval_prompts, 0)


def evaluate(config: RLOOConfig, study: RLOOStudyConfig, shared: dict) -> dict:
    """Two answers of the trained policy and two of its reference to each held-out prompt; lists
    (P, 2): gold, proxy (in the run's units), tokens, finished, the policy's kl; and `texts`, the
    first answer to each. The reference and its random stream are the same in all runs of a study,
    so that its answers are drawn once, into `shared`."""
    rows = held_out(config, study)
    policy = load_policy(str(Path(config.output_dir) / "model"), dtype=config.policy.dtype,
                         quantization=config.policy.quantization)
    model = reward_model_for(policy, config.reward_model, config.policy.name)
    proxy, longest = reward_scorer(model), min(policy.longest, model.longest)
    gold = gold_of(config)
    trained_on = train_rloo.short_prompts(prompts_of(config), policy.tokenizer, config, longest)
    zero, unit = reference_scale(policy, proxy, trained_on, config)

    def described(batch: list[dict]) -> dict:
        scaled = ((score(batch, proxy) - zero) / unit).double().round(decimals=4)
        return {"gold": score(batch, gold).tolist(), "proxy": scaled.tolist(),
                "tokens": [list(map(len, b["token_group"][1:])) for b in batch],
                "finished": [b["finished"] for b in batch], "texts": [b["texts"][0] for b in batch]}

    batch = roll_out(policy, rows, 2, config.max_new_tokens, 7)
    found = {"policy": described(batch)}
    logp = sums(sequence_logprobs(policy, batch, config))
    with policy.reference():
        ref = sums(sequence_logprobs(policy, batch, config))
        if "reference" not in shared:
            shared["reference"] = roll_out(policy, rows, 2, config.max_new_tokens, 7)
        found["reference"] = described(shared["reference"])
    found["policy"]["kl"] = kl_estimate(logp, ref).double().round(decimals=4).tolist()
    return found


def interval(values: np.ndarray) -> tuple:
    """Mean with its 95% interval over seeds and prompts, or without for fewer than three seeds.
    Shapes: (S, P)."""
    return two_way_interval(values)[:3] if len(values) > 2 else (float(values.mean()), None, None)


def summarize(runs: dict[str, list[dict]]) -> dict:
    """summary[method-kl]: gains of gold and proxy over the reference's answers, tokens, finished,
    kl, each (mean, low, high); `difference`: gold gain minus the first method's at the same
    kl_coef, paired; win rate over the reference under gold, raw and length-controlled."""
    summary, first = {}, {}
    for name, found in runs.items():
        def column(part, key, found=found):
            return np.array([f[part][key] for f in found], dtype=float)  # (S, P, 2)

        gain = {key: column("policy", key) - column("reference", key) for key in ("gold", "proxy")}
        gold = gain["gold"].mean(2)
        rival = first.setdefault(name.partition("-kl")[2], gold)
        wins = (np.sign(gain["gold"][..., 0]) + 1) / 2  # of the first answers
        words = [np.array([[len(t.split()) for t in f[part]["texts"]] for f in found]).ravel()
                 for part in ("policy", "reference")]
        summary[name] = {
            "seeds": len(found), "gold_gain": interval(gold), "difference": interval(gold - rival),
            "proxy_gain": interval(gain["proxy"].mean(2)),
            **{k: interval(column("policy", k).mean(2)) for k in ("kl", "tokens", "finished")},
            **{k: None if math.isnan(v) else v for k, v in
               length_controlled_win_rate(wins.ravel(), *words).items()}}
    return summary


COLUMNS = {"gold_gain": "gold gain", "difference": "minus the first method's",
           "proxy_gain": "proxy gain (its units)", "kl": "KL (nats)", "tokens": "tokens",
           "finished": "finished"}


def rloo_text(summary: dict, prompts: int) -> str:
    """One row a method and kl_coef."""
    rows = [[name.replace("-kl", ", "), row["seeds"], *(shown(row[key]) for key in COLUMNS),
             f"{row['win_rate']:.3f}", "lengths hardly overlap" if row["length_controlled"] is None
             else f"{row['length_controlled']:.3f}"] for name, row in summary.items()]
    header = ["proxy, kl_coef", "seeds", *COLUMNS.values(), "win rate", "length-controlled"]
    return (f"Against the reference's answers to {prompts} held-out prompts; 95% intervals over "
            f"seeds and prompts, none for fewer than three seeds.\n\n{table(header, rows)}\n")


def train_and_evaluate(config: RLOOConfig, study: RLOOStudyConfig, shared: dict) -> dict:
    """Train a run, going on where it stopped, and `evaluate` it."""
    try:
        del train_rloo.train(config, resume=True).hf
    except ConfigError as error:  # half a run of other settings, prompts or proxy
        print(f"{error}. Training it from the start")
        del train_rloo.train(config).hf
    records.release_memory()
    with phase("evaluation"):
        return evaluate(config, study, shared)


def run_study(path: Path, overrides: list[str] = (), resume: bool = False) -> dict:
    """Run what is missing, then write results.json, results.md and results.png; with `resume`,
    runs recorded under data/runs are read back without their prompts and proxies."""
    study = load_config(path, RLOOStudyConfig, overrides)
    configs, shared = run_configs(study, path), {}
    decided_by = {"eval_split": study.eval_split, "eval_prompts": study.eval_prompts}
    found = records.recorded_runs(configs, **decided_by) if resume else {}
    missing = {name: config for name, config in configs.items() if name not in found}
    for config in missing.values():  # all is there before the first of them starts
        if not Path(config.reward_model).is_dir():
            raise ConfigError(f"{config.reward_model} is missing: run the study that trains it")
        held_out(config, study)
    for name, config in missing.items():
        others = decided_by | {
            "reward_model_weights": weights_fingerprint(config.reward_model),
            "rows": fingerprint([prompts_of(config), prompts_of(config, study.eval_split)])}
        found[name] = records.run_or_read(config, others, train_and_evaluate, study, shared)
    runs = records.by_method({name: found[name] for name in configs})
    summary = summarize(runs)
    from .figures import frontier_figure
    return records.write_results(Path(study.output_dir), records.key_of(study), summary,
                                 rloo_text(summary, study.eval_prompts), frontier_figure(runs))


def main(argv: list[str] | None = None) -> None:
    records.command("rloo", __doc__, "an RLOO study", run_study, argv)


if __name__ == "__main__":
    run(main)
