"""Methods x seeds x scenarios, one table, one figure:
python -m bsr_lite.studies.reward_models --config bsr_lite/configs/study_fast.yaml

Runs that are finished are read back, never repeated, so a killed study goes on where it stopped;
with --resume those recorded under data/runs are read back, too. A study of several tiers names the
configs of the others.
"""

import copy
import dataclasses
import json
import random
import re
from pathlib import Path

from pydantic import Field
from pydantic.dataclasses import dataclass

from ..config import (
    SCENARIOS,
    STRICT,
    Count,
    Part,
    RewardModelConfig,
    load_config,
    parse,
    read_yaml,
)
from ..errors import ConfigError, run
from ..eval_rm import evaluate
from ..runlog import fingerprint, peak_memory_gb, phase, release_memory, write_atomic
from ..scenarios import Scenarios, load_scenarios, require
from ..train_rm import train
from .best_of_n import BestOfNConfig, run_best_of_n
from .frozen import FrozenConfig, run_frozen
from .records import RECORDED, command, key_of, read_back, write_results
from .tables import study_text, summarize, tiers_text


@dataclass(config=STRICT)
class StudyConfig:
    """Methods x seeds on one base config; `common` overrides it for every method, `methods` maps
    a name to that method's overrides. The first method is the one the others are compared to."""

    base: str  # path of a RewardModelConfig YAML, relative to the study's file
    methods: dict[str, dict | None]
    seeds: list[int]
    output_dir: str
    common: dict = Field(default_factory=dict)
    eval_groups: Count | None = None  # random groups per scenario; None: all
    scenarios: list[Part] = Field(default_factory=lambda: list(SCENARIOS))

    def __post_init__(self):
        if not (self.methods and self.seeds and self.scenarios):
            raise ValueError("a study needs at least one method, one seed and one scenario")
        for name in self.methods:
            if not re.fullmatch(r"[\w.-]+", name):
                raise ValueError(f"method {name!r}: use a name of letters, digits, . _ and -")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {self.seeds} repeat: no interval could be trusted")


@dataclass(config=STRICT)
class TiersConfig:
    """A study of several tiers: YAMLs of FrozenConfig, StudyConfig and BestOfNConfig, relative to
    this file; their tables side by side."""

    output_dir: str
    studies: list[str] = Field(default_factory=list)
    frozen: list[str] = Field(default_factory=list)
    best_of_n: list[str] = Field(default_factory=list)

    def __post_init__(self):
        names = [Path(name).stem for name in self.studies + self.frozen]
        if not names or len(set(names)) < len(names):
            raise ValueError("name at least one study or frozen study, no two of the same name")


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


def decided_by(study: StudyConfig) -> dict:
    """What decides a run's evaluation beside its config, its data's content apart."""
    return {"eval_groups": study.eval_groups, "scenarios": study.scenarios}


def recorded_runs(study: StudyConfig, runs: list[tuple[str, RewardModelConfig]]) -> list:
    """The evaluation of each run that data/runs holds with the same settings, or else None."""
    folder = RECORDED / Path(study.output_dir).name
    return [read_back(folder / Path(config.output_dir).name / "evaluation.json", config,
                      **decided_by(study)) for _, config in runs]


def run_one(config: RewardModelConfig, study: StudyConfig, scenarios: Scenarios,
            checksum: str) -> dict:
    """Train and evaluate one run, or read its result back when the same config has finished."""
    path = Path(config.output_dir) / "evaluation.json"
    others = decided_by(study) | {"data_checksum": checksum}
    if finished := read_back(path, config, **others):
        return finished
    model, totals = train(config, resume=False, scenarios=scenarios)
    result: dict = {"config": key_of(config, **others), "totals": totals, "scenarios": {}}
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


def run_study(path: Path, overrides: list[str] = (), resume: bool = False) -> dict:
    """Run what is missing, then write results.json, results.md and results.png; with `resume`,
    runs recorded under data/runs are read back without their data."""
    study = load_config(path, StudyConfig, overrides)
    runs, out = run_configs(study, path), Path(study.output_dir)
    results = recorded_runs(study, runs) if resume else [None] * len(runs)
    if not all(results):
        scenarios = load_scenarios(runs[0][1])  # the same for all
        require(scenarios, study.scenarios)
        checksum = fingerprint(dataclasses.asdict(scenarios))
        results = [result if result and result["config"]["data_checksum"] == checksum
                   else run_one(config, study, scenarios, checksum)
                   for result, (_, config) in zip(results, runs, strict=True)]
    if len({result["config"]["data_checksum"] for result in results}) > 1:
        raise ConfigError(f"{RECORDED / out.name}: its runs saw different data, so their prompts "
                          "cannot be paired; run the study without --resume")
    summary = summarize([(method, r) for (method, _), r in zip(runs, results, strict=True)])
    text = study_text(summary, len(study.seeds))
    write_results(out, key_of(study), summary, text)
    from ..plots import save
    from .figures import study_figure
    save(study_figure(summary), out / "results.png")
    print(f"\n{text}\npeak memory {peak_memory_gb():.2f} GB\n"
          f"table   {out / 'results.md'}\nnumbers {out / 'results.json'}\n"
          f"figure  {out / 'results.png'}\nruns    {out}/<method>-seed<n>/ (config.yaml, "
          "metrics.jsonl, env.json, evaluation.json, model/)")
    return summary


def run_tiers(path: Path, overrides: list[str] = (), resume: bool = False) -> dict:
    """All tiers, one after the other, then one table of their differences to BT and one figure.

    Raises: ConfigError for any tier's config before the first starts.
    """
    config, here, tiers = load_config(path, TiersConfig, overrides), path.parent, {}
    for cls, names in ((FrozenConfig, config.frozen), (StudyConfig, config.studies),
                       (BestOfNConfig, config.best_of_n)):
        for name in names:
            load_config(here / name, cls)
    for runner, names in ((run_frozen, config.frozen), (run_study, config.studies)):
        for name in names:
            tiers[Path(name).stem] = runner(here / name, resume=resume)
    out, text = Path(config.output_dir), tiers_text(tiers)
    write_results(out, key_of(config), tiers, text)
    from ..plots import save
    from .figures import tiers_figure
    save(tiers_figure(tiers), out / "results.png")
    print(f"\n{text}\ntable   {out / 'results.md'}\nfigure  {out / 'results.png'}")
    for name in config.best_of_n:  # last: it needs the studies' models
        run_best_of_n(here / name, resume=resume)
    return tiers


def run_any(path: Path, overrides: list[str] = (), resume: bool = False) -> dict:
    """A study of one tier or of several, by what its YAML names."""
    several = {"studies", "frozen", "best_of_n"} & read_yaml(path).keys()
    return (run_tiers if several else run_study)(path, overrides, resume)


def main(argv: list[str] | None = None) -> None:
    command("reward_models", __doc__, "a study", run_any, argv)


if __name__ == "__main__":
    run(main)
