"""Methods x seeds x scenarios, one table, one figure:
python -m bsr_lite.studies.reward_models --config bsr_lite/configs/study_fast.yaml

Runs that are finished are read back, never repeated, so a killed study goes on where it stopped;
with --resume those recorded under data/runs are read back, too.
"""

from dataclasses import field
from pathlib import Path

from ..config import SCENARIOS, Count, Folder, RewardModelConfig, load_config, section
from ..errors import ConfigError, run
from ..eval_rm import evaluate
from ..runlog import fingerprint, phase
from ..scenarios import Scenarios, load_scenarios, require, sets_of
from ..train_rm import train
from . import records, tables
from .shifts import in_world


@section
class StudyConfig:
    """Methods x seeds on one base config; `common` overrides it for every method, `methods` maps
    a name to that method's overrides. The first method is the one the others are compared to."""

    base: str  # path of a RewardModelConfig YAML, relative to the study's file
    methods: records.Methods
    seeds: records.Seeds
    output_dir: Folder
    common: dict = field(default_factory=dict)
    eval_groups: Count | None = None  # random groups per scenario; None: all
    scenarios: records.Parts = field(default_factory=lambda: list(SCENARIOS))
    world: records.World = "plain"  # how the answers' texts are changed


def run_configs(study: StudyConfig, study_path: Path) -> dict[str, RewardModelConfig]:
    """{<method>-seed<n>: its config}, all parsed before any starts.

    Raises: ConfigError, also when methods differ in their data, which no pairing survives.
    """
    runs = {f"{method}-seed{seed}": (overrides or {}) | {"seed": seed}
            for seed in study.seeds for method, overrides in study.methods.items()}
    configs = records.run_configs(study, study_path, RewardModelConfig, runs)
    first, *others = configs.values()
    if any(config.data != first.data for config in others):
        raise ConfigError(f"{study_path}: methods must share their data; set it under `common`")
    return configs


def decided_by(study: StudyConfig) -> dict:
    """What decides a run's evaluation beside its config, its data's content apart."""
    return {name: getattr(study, name) for name in ("eval_groups", "scenarios", "world")}


def sets_to_score(study: StudyConfig, config: RewardModelConfig, data: Scenarios) -> dict:
    """A random draw of each scenario's sets, the same for all runs."""
    return {name: records.drawn(sets_of(data, name), study.eval_groups, config.data.seed)
            for name in study.scenarios}


def train_and_evaluate(config: RewardModelConfig, study: StudyConfig, data: Scenarios) -> dict:
    """Totals of a run's training, and its scores on each of the study's scenarios."""
    model, totals = train(config, resume=False, scenarios=data)
    with phase("evaluation"):
        found = {name: evaluate(model, groups, max_length=config.data.max_length,
                                token_budget=config.token_budget, dispersion=True)
                 for name, groups in sets_to_score(study, config, data).items()}
    return {"totals": totals, "scenarios": found}


def clusters(study: StudyConfig, config: RewardModelConfig, run: dict) -> dict:
    """Topics of each scenario's sets, where the data is there, names them, and has the sets of
    `run`, an evaluation, by their number and gold."""
    if config.data.format != "pocket" or not Path(config.data.source).exists():
        return {}
    found, data = {}, in_world(load_scenarios(config), study.world, config.data.seed)
    for name, groups in sets_to_score(study, config, data).items():
        kept, cell = [g for g in groups if len(set(g.gold)) > 1], run["scenarios"][name]
        gold = [[round(x, 4) for x in g.gold] for g in kept]
        if len(kept) == cell["groups"] and cell.get("gold", gold) == gold:
            found[name] = records.topics(config, kept)
    return found


def run_study(path: Path, overrides: list[str] = (), resume: bool = False) -> dict:
    """Run what is missing, then write results.json, results.md and results.png; with `resume`,
    runs recorded under data/runs are read back without their data."""
    study = load_config(path, StudyConfig, overrides)
    configs, out = run_configs(study, path), Path(study.output_dir)
    found = records.recorded_runs(configs, **decided_by(study)) if resume else {}
    if len(found) < len(configs):  # the others, and those that were recorded of other data
        data_config = next(iter(configs.values()))  # the same for all in what concerns data
        data = in_world(load_scenarios(data_config), study.world, data_config.data.seed)
        require(data, study.scenarios)
        checksum = fingerprint(records.key_of(data))
        others = decided_by(study) | {"data_checksum": checksum}
        for name, config in configs.items():
            if name not in found or found[name]["config"]["data_checksum"] != checksum:
                found[name] = records.run_or_read(config, others, train_and_evaluate, study, data)
    if len({result["config"]["data_checksum"] for result in found.values()}) > 1:
        raise ConfigError(f"{records.RECORDED / out.name}: its runs saw different data, so their "
                          "prompts cannot be paired; run the study without --resume")
    (name, config), *_ = configs.items()
    summary = tables.summarize(records.by_method({name: found[name] for name in configs}),
                               clusters(study, config, found[name]))
    text = tables.study_text(summary, len(study.seeds))
    from .figures import study_figure
    return records.write_results(out, records.key_of(study), summary, text, study_figure(summary))


def main(argv: list[str] | None = None) -> None:
    table = records.command("reward_models", __doc__, "a study", run_study, argv)
    seeds = max(len(cell["seeds"]) for parts in table.values() for cell in parts.values())
    print(tables.in_words("reward models", seeds, table))


if __name__ == "__main__":
    run(main)
