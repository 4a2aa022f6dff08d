"""Reward models, and rules, as proxies of the same RLOO run, seed by seed, judged by gold:
python -m bsr_lite.studies.rloo --config bsr_lite/configs/study_rloo.yaml

Finished runs are read back, so a killed study goes on where it stopped.
"""

import math
from dataclasses import field
from pathlib import Path

import numpy as np

from .. import train_rloo as loop
from ..config import Folder, RLOOConfig, Several, load_config, section
from ..errors import ConfigError, DataError, run
from ..generate import roll_out
from ..metrics import seed_interval
from ..policy import load_policy
from ..rloo import kl_estimate
from ..runlog import fingerprint, phase
from ..saving import weights_fingerprint
from ..scorers import Scorer, pocket_terms
from . import records
from . import statistics as stats
from .proxies import RULES, rule_scorer
from .tables import shown, table

RULE = "rule:"


@section
class RLOOStudyConfig:
    """Methods x KL coefficients x seeds of `train_rloo`: a run `<method>-kl<coefficient>-seed<n>`
    trains against <proxies>/<method>-seed<n>/model, or against the rule of `proxies.RULES` that
    the method names."""

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
    runs = {}
    for kl_coef, seeds in study.seeds.items():
        for name, method, seed in ((f"{m}-kl{kl_coef}-seed{s}", m, s) for s in seeds
                                   for m in study.methods):
            trained = f"{study.proxies}/{method}-seed{seed}/model"
            runs[name] = {"kl_coef": kl_coef, "seed": seed,
                          "reward_model": RULE + method if method in RULES else trained}
            if method == "constant":  # there is no spread to be a unit
                runs[name]["standardize_prompts"] = 0
    configs = records.run_configs(study, path, RLOOConfig, runs)
    if any(config.gold in (None, "none") for config in configs.values()):
        raise ConfigError(f"{path}: a study compares by gold; set it")
    if any(rule_of(config) and config.gold != "pocket" for config in configs.values()):
        raise ConfigError(f"{path}: rules are made of the pocket world's gold; set gold: pocket")
    return configs


def rule_of(config: RLOOConfig) -> Scorer | None:
    """The rule that a run is trained against in place of a reward model."""
    name = config.reward_model.removeprefix(RULE)
    return None if name == config.reward_model else rule_scorer(name, config.seed)


def held_out(config: RLOOConfig, study: RLOOStudyConfig) -> list[dict]:
    """A random draw of prompts to evaluate on.  Raises: DataError when some were trained on."""
    rows = loop.prompts_of(config, study.eval_split)
    trained = {r["prompt"] for r in loop.prompts_of(config)} & {r["prompt"] for r in rows}
    if trained or len(rows) < study.eval_prompts:
        raise DataError(f"{config.data}: split {study.eval_split!r} has {len(rows)} prompts, "
                        f"{len(trained)} of them trained on; {study.eval_prompts} new ones needed")
    return records.drawn(rows, study.eval_prompts, 0)


def terms_of(batch: list[dict]) -> dict[str, list[float]]:
    """{term of the pocket world's gold: its mean over the answers to each prompt}."""
    found = [pocket_terms(b["row"], b["texts"], b["finished"]) for b in batch]  # (P, K)
    return {name: [round(float(np.mean([t[name] for t in terms])), 4) for terms in found]
            for name in found[0][0]}


def evaluate(config: RLOOConfig, study: RLOOStudyConfig, shared: dict) -> dict:
    """Two answers of the trained policy and eight of its reference to each held-out prompt; lists
    (P, K): gold, proxy (in the run's units), tokens, finished, the policy's kl; `terms` of gold,
    (P,) each; and `texts`, the first answer to each. The reference and its random stream are the
    same in all runs of a study, so that its answers are drawn once, into `shared`."""
    rows = held_out(config, study)
    policy = load_policy(str(Path(config.output_dir) / "model"), dtype=config.policy.dtype,
                         quantization=config.policy.quantization)
    proxy, longest = loop.proxy_of(policy, config, rule_of(config))
    gold = loop.gold_of(config)
    trained_on = loop.short_prompts(loop.prompts_of(config), policy.tokenizer, config, longest)
    zero, unit = loop.reference_scale(policy, proxy, trained_on, config)

    def described(batch: list[dict]) -> dict:
        scaled = ((loop.score(batch, proxy) - zero) / unit).double().round(decimals=4)
        return {"gold": loop.score(batch, gold).tolist(), "proxy": scaled.tolist(),
                "tokens": [list(map(len, b["token_group"][1:])) for b in batch],
                "finished": [b["finished"] for b in batch], "texts": [b["texts"][0] for b in batch],
                "terms": terms_of(batch) if config.gold == "pocket" else {}}

    batch = roll_out(policy, rows, 2, config.max_new_tokens, 7)
    found = {"policy": described(batch)}
    logp = loop.sums(loop.sequence_logprobs(policy, batch, config))
    with policy.reference():
        ref = loop.sums(loop.sequence_logprobs(policy, batch, config))
        if "reference" not in shared:
            shared["reference"] = roll_out(policy, rows, 8, config.max_new_tokens, 7)
        found["reference"] = described(shared["reference"])
    found["policy"]["kl"] = kl_estimate(logp, ref).double().round(decimals=4).tolist()
    return found


# ---- one unit ------------------------------------------------------------------------------------

def interval(values: np.ndarray) -> tuple:
    """Mean with its 95% interval over seeds and prompts, or without for fewer than three seeds.
    Shapes: (S, P)."""
    return stats.two_way_interval(values)[:3] if len(values) > 2 else (values.mean(), None, None)


def gains(run: dict) -> dict[str, np.ndarray]:
    """What the policy has over the reference, for every prompt (P,): `gold_gain` and `proxy_gain`
    in standard deviations among the reference's answers to one prompt, `without_complete`, gold's
    but for the term that is earned by ending, `points`, gold's as it is, and each of its terms;
    beside them the policy's kl, tokens, finished."""
    policy, reference = run["policy"], run["reference"]

    def gain(key: str, unit: float = 1.0) -> np.ndarray:
        return (np.mean(policy[key], 1) - np.mean(reference[key], 1)) / unit

    units = {key: stats.within_sd(reference[key]) or 1.0 for key in ("gold", "proxy")}
    found = {f"{key}_gain": gain(key, unit) for key, unit in units.items()}
    found |= {key: np.mean(policy[key], 1) for key in ("kl", "tokens", "finished")}
    terms = {name: np.subtract(values, reference["terms"][name])
             for name, values in policy.get("terms", {}).items()}
    if terms:
        found["without_complete"] = found["gold_gain"] - terms["complete"] / units["gold"]
    return found | {"points": gain("gold")} | terms


def curves(run: dict) -> np.ndarray:
    """Proxy and gold of training's own answers, step by step, less the mean of the reference's and
    in the units of `gains`.  Shapes: -> (2, steps)."""
    found = []
    for key in ("proxy", "gold"):
        reference = run["reference"][key]
        curve = np.array([row[f"train/{key}_reward"] for row in run["metrics"]])
        found.append((curve - np.mean(reference)) / (stats.within_sd(reference) or 1.0))
    return np.array(found)


def late_gain(curve: np.ndarray) -> np.ndarray:
    """Mean of the last quarter of the steps minus that of the second.  Shapes: (2, T) -> (2,)."""
    quarter = max(curve.shape[1] // 4, 1)
    return curve[:, -quarter:].mean(1) - curve[:, -3 * quarter:][:, :quarter].mean(1)


def second_half(found: list[dict]) -> list[tuple]:
    """What proxy and gold of training's own answers gained from its second quarter to its last,
    with a 95% interval over seeds; none for fewer than three."""
    late = []
    for values in np.transpose([late_gain(curves(one)) for one in found]):
        mean, half = seed_interval(values)
        late.append((mean, mean - half, mean + half) if len(found) > 2 else (mean, None, None))
    return late


def verdict(proxy: tuple, gold: tuple) -> str:
    """What happened in the second half, by intervals over seeds: over-optimization is gold that
    falls while the proxy rises."""
    if proxy[1] is None:
        return "undecided: fewer than three seeds"
    if proxy[1] <= 0:
        return "undecided: so is the proxy's rise" if proxy[2] >= 0 else "the proxy falls"
    return ("over-optimized: gold falls" if gold[2] < 0 else
            "gold rises, too" if gold[1] > 0 else "undecided")


def summarize(runs: dict[str, list[dict]]) -> dict:
    """summary[method-kl]: (mean, low, high) of all that `gains` has; `share`, gold's gain over the
    proxy's, and by seed `shares` and, among the reference's answers, `correlations` of the two;
    `difference`, gold's gain minus the first method's at the same kl_coef, paired; `late_proxy` and
    `late_gold` with a `verdict` on them; win rate over the reference by gold, raw and
    length-controlled."""
    summary, first = {}, {}
    for name, found in runs.items():
        own = [gains(one) for one in found]
        own = {key: np.array([one[key] for one in own]) for key in own[0]}  # (S, P) each
        gold, proxy = own["gold_gain"], own["proxy_gain"]
        rival = first.setdefault(name.partition("-kl")[2], gold)
        late = second_half(found)
        both = [[one[part] for one in found] for part in ("policy", "reference")]
        golds = [np.ravel([np.array(f["gold"])[:, 0] for f in part]) for part in both]  # of firsts
        words = [np.ravel([[len(t.split()) for t in f["texts"]] for f in part]) for part in both]
        summary[name] = {
            "seeds": len(found), **{key: interval(values) for key, values in own.items()},
            "share": stats.ratio_interval(gold, proxy), "difference": interval(gold - rival),
            "shares": [stats.ratio_interval(gold[[s]], proxy[[s]])[0] for s in range(len(found))],
            "correlations": [stats.within_correlation(f["reference"]["proxy"],
                                                      f["reference"]["gold"]) for f in found],
            "late_proxy": late[0], "late_gold": late[1], "verdict": verdict(*late),
            **{k: None if math.isnan(v) else v for k, v in stats.length_controlled_win_rate(
                (np.sign(np.subtract(*golds)) + 1) / 2, *words).items()}}
    return summary


COLUMNS = {"proxy_gain": "proxy gain", "gold_gain": "gold gain", "share": "share kept",
           "without_complete": "gold gain but for ending", "difference": "minus the first method's",
           "late_proxy": "proxy, second half", "late_gold": "gold, second half",
           "kl": "KL (nats)", "tokens": "tokens", "finished": "ended"}


def rloo_text(summary: dict, prompts: int) -> str:
    """One row a method and kl_coef."""
    def cell(values) -> str:
        return "-" if values is None or values[0] is None else shown(values, ".2f")

    rows = [[name.replace("-kl", ", "), row["seeds"], *(cell(row.get(key)) for key in COLUMNS),
             f"{np.mean(row['correlations']):.2f}", row["verdict"]]
            for name, row in summary.items()]
    header = ["proxy, kl_coef", "seeds", *COLUMNS.values(), "correlation", "second half"]
    return (f"Gains over the reference on {prompts} held-out prompts, proxy and gold each in "
            "standard deviations of the reference's answers to one prompt; share kept: gold's gain "
            "over the proxy's, beside the correlation of the two among the reference's answers. "
            "95% intervals over seeds and prompts, of the second half of training over seeds; none "
            f"for fewer than three seeds.\n\n{table(header, rows)}\n")


def train_and_evaluate(config: RLOOConfig, study: RLOOStudyConfig, shared: dict) -> dict:
    """Train a run, going on where it stopped, and `evaluate` it."""
    rule = rule_of(config)
    try:
        del loop.train(config, resume=True, rule=rule).hf
    except ConfigError as error:  # half a run of other settings, prompts or proxy
        print(f"{error}. Training it from the start")
        del loop.train(config, rule=rule).hf
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
        if not (rule_of(config) or Path(config.reward_model).is_dir()):
            raise ConfigError(f"{config.reward_model} is missing: run the study that trains it")
        held_out(config, study)
    for name, config in missing.items():
        others = decided_by | {
            "reward_model_weights": (config.reward_model if rule_of(config)
                                     else weights_fingerprint(config.reward_model)),
            "rows": fingerprint([loop.prompts_of(config),
                                 loop.prompts_of(config, study.eval_split)])}
        found[name] = records.run_or_read(config, others, train_and_evaluate, study, shared)
    runs = records.by_method({name: found[name] for name in configs})
    summary = summarize(runs)
    from .figures import frontier_figure
    return records.write_results(Path(study.output_dir), records.key_of(study), summary,
                                 rloo_text(summary, study.eval_prompts),
                                 frontier_figure(summary, {
                                     name: np.mean([curves(one) for one in found], 0)
                                     for name, found in runs.items()}))


def main(argv: list[str] | None = None) -> None:
    records.command("rloo", __doc__, "an RLOO study", run_study, argv)


if __name__ == "__main__":
    run(main)
