"""Methods x seeds x scenarios, one table, one figure: python -m bsr_lite.study --help

Runs that are finished are read back, never repeated, so a killed study goes on where it stopped.
"""

import copy
import dataclasses
import json
import random
import sys
from pathlib import Path

import numpy as np

from .checkpoint import TrainingError
from .config import (
    ConfigError,
    RewardModelConfig,
    StudyConfig,
    config_parser,
    load_config,
    parse,
    read_yaml,
    to_dict,
)
from .data import DataError
from .embedded import ModelError
from .eval_rm import evaluate
from .metrics import bootstrap_interval, seed_interval
from .runlog import fingerprint, peak_memory_gb, phase, release_memory, write_atomic
from .scenarios import Scenarios, require
from .train_rm import load_scenarios, train


def run_configs(study: StudyConfig, study_path: Path) -> list[tuple[str, RewardModelConfig]]:
    """Every run of the study, parsed before any of them starts: base, common, method, seed.

    Raises: ConfigError, also when methods differ in their data, which no pairing survives.
    """
    base, runs = read_yaml(study_path.parent / study.base), []
    for seed in study.seeds:
        for method, overrides in study.methods.items():
            values = copy.deepcopy(base)
            for change in (study.common, overrides or {}):
                for key, value in change.items():
                    section = isinstance(value, dict) and isinstance(values.get(key), dict)
                    values[key] = values[key] | value if section else value
            values |= {"seed": seed, "output_dir": f"{study.output_dir}/{method}-seed{seed}"}
            runs.append((method, parse(values, RewardModelConfig, f"{study_path}: {method}")))
    if any(config.data != runs[0][1].data for _, config in runs):
        raise ConfigError(f"{study_path}: methods must share their data; set it under `common`")
    return runs


def run_one(config: RewardModelConfig, study: StudyConfig, scenarios: Scenarios) -> dict:
    """Train and evaluate one run, or read its result back when the same config has finished."""
    path = Path(config.output_dir) / "evaluation.json"
    key = to_dict(config) | {"eval_groups": study.eval_groups, "scenarios": study.scenarios,
                             "data_checksum": fingerprint(dataclasses.asdict(scenarios))}
    if path.exists():
        result = json.loads(path.read_text())
        if result["config"] == key:
            print(f"{config.output_dir}: finished before, read back")
            return result
    model, totals = train(config, resume=False, scenarios=scenarios)
    result = {"config": key, "totals": totals, "scenarios": {}}
    with phase("evaluation"):
        for name in study.scenarios:
            groups = getattr(scenarios, name)
            size = min(study.eval_groups or len(groups), len(groups))
            groups = random.Random(config.data.seed).sample(groups, size)
            result["scenarios"][name] = evaluate(
                model, groups, max_length=config.data.max_length,
                token_budget=config.token_budget, dispersion=True)
    write_atomic(path, json.dumps(result) + "\n")
    del model
    release_memory()
    return result


def summarize(results: list[tuple[str, dict]]) -> dict:
    """table[method][scenario]: mean and 95% interval over seeds (t, from three seeds on) or else
    over prompts (bootstrap), the paired difference to the first method, dispersion means."""
    methods = list(dict.fromkeys(method for method, _ in results))
    table: dict = {method: {} for method in methods}
    for scenario in results[0][1]["scenarios"]:
        per_prompt = {m: np.array([r["scenarios"][scenario]["per_prompt"]
                                   for name, r in results if name == m]) for m in methods}
        for method in methods:
            cells = [r["scenarios"][scenario] for name, r in results if name == method]
            scores = [c["score"] for c in cells]
            mean, low, high = interval(per_prompt[method])
            delta = interval(per_prompt[method] - per_prompt[methods[0]])
            table[method][scenario] = {
                "metric": cells[0]["metric"], "groups": cells[0]["groups"], "mean": mean,
                "low": low, "high": high, "seeds": scores, "difference": delta,
                "dropped": cells[0]["dropped"], "tied": sum(c["tied"] for c in cells),
                "pooled_tau": mean_of(cells, "pooled_tau"), "reward_mean": mean_of(
                    cells, "reward_mean"), "between": mean_of(cells, "between_prompts"),
                "within": mean_of(cells, "within_prompts"),
                "effective_rank": mean_of(cells, "effective_rank_after"),
                **{f"{kind}_{stat}": float(np.mean([c[kind][stat] for c in cells]))
                   for kind in ("norm_before", "norm_after", "difference_after")
                   for stat in ("mean", "cv", "skew")}}
    return table


def mean_of(cells: list[dict], name: str) -> float:
    return float(np.mean([c[name] for c in cells]))


def interval(per_prompt: np.ndarray) -> tuple[float, float, float]:
    """Mean and 95% interval of (seeds, prompts): over seeds from three on, else over prompts."""
    if len(per_prompt) < 3:
        return bootstrap_interval(per_prompt)
    mean, half = seed_interval(per_prompt.mean(1))
    return mean, mean - half, mean + half


def markdown(table: dict, seeds: int) -> str:
    """The scores and the dispersion statistics as two Markdown tables."""
    methods, first = list(table), next(iter(table.values()))
    over = f"{seeds} seeds (t)" if seeds > 2 else "prompts (bootstrap; seeds carry none)"
    lines = [f"Mean of {seeds} seeds, 95% intervals over {over}; in brackets the paired "
             f"difference to {methods[0]}.", "",
             "| method | " + " | ".join(f"{s} ({c['metric']}, n={c['groups']})"
                                        for s, c in first.items()) + " |",
             "|---" * (len(first) + 1) + "|"]
    for method in methods:
        cells = []
        for c in table[method].values():
            delta = "" if method == methods[0] else " [{:+.3f}, {:+.3f} to {:+.3f}]".format(
                *c["difference"])
            cells.append(f"{c['mean']:.3f} ({c['low']:.3f} to {c['high']:.3f}){delta}")
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    columns = {"reward_mean": "reward mean", "between": "reward variance between prompts",
               "within": "within prompts", "pooled_tau": "pooled tau",
               "norm_before_mean": "norm before final norm", "norm_before_cv": "its cv",
               "norm_after_mean": "norm after", "norm_after_cv": "its cv",
               "difference_after_mean": "norm of difference", "difference_after_skew": "its skew",
               "effective_rank": "effective rank", "tied": "tied sets"}
    lines += ["", "| method | scenario | " + " | ".join(columns.values()) + " |",
              "|---" * (len(columns) + 2) + "|"]
    for method in methods:
        for scenario, c in table[method].items():
            lines.append(f"| {method} | {scenario} | " +
                         " | ".join(f"{c[k]:.3g}" for k in columns) + " |")
    return "\n".join(lines) + "\n"


def run_study(path: Path, overrides: list[str] = ()) -> dict:
    """Run what is missing, then write results.json, results.md and results.png."""
    study = load_config(path, StudyConfig, overrides)
    runs = run_configs(study, path)
    scenarios = load_scenarios(runs[0][1])  # the same for all
    require(scenarios, study.scenarios)
    results = [(method, run_one(config, study, scenarios)) for method, config in runs]
    table, out = summarize(results), Path(study.output_dir)
    text = markdown(table, len(study.seeds))
    write_atomic(out / "results.json", json.dumps({"study": to_dict(study), "table": table},
                                                  indent=1) + "\n")
    write_atomic(out / "results.md", text)
    from .plots import study_figure
    study_figure(table, out / "results.png")
    print(f"\n{text}\npeak memory {peak_memory_gb():.2f} GB\n"
          f"table   {out / 'results.md'}\nnumbers {out / 'results.json'}\n"
          f"figure  {out / 'results.png'}\nruns    {out}/<method>-seed<n>/ (config.yaml, "
          "metrics.jsonl, env.json, evaluation.json, model/)")
    return table


def main(argv: list[str] | None = None) -> None:
    args = config_parser("study", __doc__, "a study", "seeds=[0,1,2]").parse_args(argv)
    with phase("study"):
        run_study(Path(args.config), args.overrides)


if __name__ == "__main__":
    try:
        main()
    except (ConfigError, DataError, ModelError, TrainingError) as error:
        sys.exit(f"error: {error}")
