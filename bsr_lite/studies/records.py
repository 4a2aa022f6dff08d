"""What studies keep, and the one way in which it is read back.

A finished unit of work is a JSON file whose `config` says what decided it. It is read back when
that is the same now, from the study's own folder always, from data/runs with --resume.
"""

import ctypes
import dataclasses
import gc
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from ..checkpoint import MAY_DIFFER
from ..config import Part, RewardModelConfig, Seed, command_line, parse, read_yaml
from ..data import Group, read_messages
from ..distributed import refuse_launcher
from ..machine import resolve_dtype
from ..runlog import environment, flat, phase, read_metrics, write_atomic
from ..scenarios import prompt_key
from ..sources import read_rows
from .shifts import SHIFTS

RECORDED = Path("data/runs")  # of the repository, as configs name their data


def _different(seeds: list[int]) -> list[int]:
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"{seeds} repeat: no interval could be trusted")
    return seeds


# in configs of studies: a method's name is part of its folders'
Name = Annotated[str, Field(pattern=r"^[\w.-]+$", max_length=100)]
Names = Annotated[list[Name], Field(min_length=1)]
Methods = Annotated[dict[Name, dict | None], Field(min_length=1)]
Parts = Annotated[list[Part], Field(min_length=1)]
World = Literal[("plain", *SHIFTS)]
Seeds = Annotated[list[Seed], Field(min_length=1), AfterValidator(_different)]
SeedsByPrice = Annotated[dict[float, Seeds], Field(min_length=1)]


def _chosen(settings: list[tuple]) -> dict:
    """A section as files hold it: in place of `dtype: auto` what this machine makes of it."""
    return {k: resolve_dtype(v) if k == "dtype" else v for k, v in settings}


def key_of(config, **others) -> dict:
    """What decides a unit of work, as its file holds it: a config, and what else does."""
    plain = {k: dataclasses.asdict(v, dict_factory=_chosen) if dataclasses.is_dataclass(v) else v
             for k, v in others.items()}
    return dataclasses.asdict(config, dict_factory=_chosen) | plain


def _holds(recorded, now, others: tuple = ()) -> bool:
    """Whether a record says what today's `now` does, a config or plain data: a record's other keys
    no longer exist, keys that it lacks had their defaults, a run may have moved, and any `dtype`
    may be what `auto` was then. What `others` names is no setting of the config in a record."""
    if not dataclasses.is_dataclass(now):
        return recorded == now
    for name, field in type(now).__pydantic_fields__.items():
        value = getattr(now, name)
        then = recorded.get(name, field.get_default(call_default_factory=True))
        free = name in (*MAY_DIFFER, *others) or (name, value) == ("dtype", "auto")
        if not (free or _holds(then, value)):
            return False
    return True


def read_back(path: Path, config, **others) -> dict | None:
    """What the unit of work in `path` found, when the same config and `others` decided it, with the
    rows of its metrics.jsonl."""
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text())
        then = found["config"]
        same = _holds(then, config, tuple(others)) and all(
            _holds(({"world": "plain"} | then).get(name), value)  # of before there were others
            for name, value in others.items())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        print(f"{path} is left out: {error}")  # torn, or of another version
        return None
    if same:
        print(f"{path.parent}: finished before, read back")
    return found | {"metrics": read_metrics(path.parent)} if same else None


def write_results(folder: Path, config: dict, table: dict, text: str, figure=None) -> dict:
    """results.json, the numbers with the config behind them, results.md, and results.png where
    there is a figure; their names are printed, the table is handed back."""
    numbers = json.dumps({"config": config, "table": table}, indent=1) + "\n"
    write_atomic(folder / "results.json", numbers)
    write_atomic(folder / "results.md", text)
    print(f"table   {folder / 'results.md'}\nnumbers {folder / 'results.json'}")
    if figure:
        from ..plots import save
        save(figure, folder / "results.png")
        print(f"figure  {folder / 'results.png'}")
    return table


def study_without_runs(config, compute: Callable[[], dict], text: Callable[[dict], str],
                       resume: bool, figure: Callable | None = None, **others) -> dict:
    """The table of a study whose results.json is its one record: with `resume` the one under
    data/runs when the same config and `others` decided it, else what compute() finds, with
    env.json beside it."""
    out = Path(config.output_dir)
    found = resume and read_back(RECORDED / out.name / "results.json", config, **others)
    if not found:
        found = {"config": key_of(config, **others), "table": compute()}
        write_atomic(out / "env.json", json.dumps(environment(), indent=2) + "\n")
    return write_results(out, found["config"], found["table"], text(found["table"]),
                         figure and figure(found["table"]))


def read_table(folder: str | Path) -> dict:
    """The numbers of a study's results.json."""
    return json.loads((Path(folder) / "results.json").read_text())["table"]


# ---- a study's runs ------------------------------------------------------------------------------

def method_and_seed(name: str) -> tuple[str, int]:
    """The parts of a run's name.

    >>> method_and_seed("bsr-1e-3-seed2")
    ('bsr-1e-3', 2)
    """
    method, _, seed = name.rpartition("-seed")
    return method, int(seed)


def by_method(found: dict) -> dict[str, list]:
    """What was found for each run `<method>-seed<n>`, by method.

    >>> by_method({"bt-seed0": 5, "bsr-seed0": 6, "bt-seed1": 7})
    {'bt': [5, 7], 'bsr': [6]}
    """
    methods: dict[str, list] = {}
    for name, value in found.items():
        methods.setdefault(method_and_seed(name)[0], []).append(value)
    return methods


def topics(config: RewardModelConfig, groups: list[Group]) -> list[str] | None:
    """The topic of each group's prompt, where its table names one: prompts of a topic are alike."""
    if config.data.format != "pocket":
        return None
    found = {prompt_key(read_messages(row["prompt"], "prompt")): row.get("topic")
             for row in read_rows(config.data.source)}
    named = [found[prompt_key(group.prompt)] for group in groups]
    return named if all(named) else None


def drawn(rows: list, size: int | None, seed: int) -> list:
    """A random draw of so many rows; None: all of them, in random order."""
    return random.Random(seed).sample(rows, min(size or len(rows), len(rows)))


def run_configs(study, path: Path, cls, runs: dict[str, dict]) -> dict:
    """{name: its config}, all parsed before any starts: the study's base, `common`, what sets the
    run apart and its folder on top of each other, section by section.  Raises: ConfigError."""
    base, configs = read_yaml(path.parent / study.base), {}
    for name, own in runs.items():
        values = dict(base)
        for change in (study.common, own, {"output_dir": f"{study.output_dir}/{name}"}):
            for key, value in change.items():
                section = isinstance(value, dict) and isinstance(values.get(key), dict)
                values[key] = values[key] | value if section else value
        configs[name] = parse(values, cls, f"{path}: {name}")
    return configs


def recorded_runs(configs: dict, **others) -> dict[str, dict]:
    """{name: evaluation} of the runs that data/runs holds with the same settings, in the folders of
    their study and of the run."""
    place = {name: RECORDED.joinpath(*Path(config.output_dir).parts[-2:], "evaluation.json")
             for name, config in configs.items()}
    found = {name: read_back(place[name], configs[name], **others) for name in configs}
    return {name: evaluation for name, evaluation in found.items() if evaluation}


def release_memory() -> None:
    """Give the memory of a finished run back, so that the next one does not come on top of it: a
    model is full of reference cycles, and glibc keeps freed blocks."""
    gc.collect()
    if sys.platform == "linux":
        getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)(0)


def run_or_read(config, others: dict, work: Callable[..., dict], *shared) -> dict:
    """A run's evaluation with its metrics: read back from its folder when all that decides it is
    the same, else what work(config, *shared) finds."""
    path = Path(config.output_dir) / "evaluation.json"
    if finished := read_back(path, config, **others):
        return finished
    found = {"config": key_of(config, **others)} | work(config, *shared)
    write_atomic(path, json.dumps(found) + "\n")
    release_memory()
    return found | {"metrics": read_metrics(path.parent)}


def read_runs(folder: str | Path) -> dict[str, list[dict]]:
    """The runs of a study by method, in the order of their seeds, each {"seed", "metrics": rows,
    "evaluation": what evaluation.json holds}.  Raises: FileNotFoundError when there is none."""
    found = {path.parent.name: path for path in Path(folder).glob("*-seed*/evaluation.json")}
    if not found:
        raise FileNotFoundError(f"{folder}: no finished run (method-seedN/evaluation.json)")
    return by_method({name: {
        "seed": method_and_seed(name)[1], "metrics": read_metrics(found[name].parent),
        "evaluation": json.loads(found[name].read_text())}
        for name in sorted(found, key=method_and_seed)})


def watched(runs: list[dict], part: str, *keys: str) -> tuple[list[int], list[list[float]]]:
    """Steps, and one curve a seed, of a number that `watch` logged, such as
    watched(runs["bt"], "train", "difference_after", "mean")."""
    name = "/".join(("watch", part, *keys))
    rows = [[flat(row) for row in run["metrics"] if "watch" in row] for run in runs]
    return [row["step"] for row in rows[0]], [[row[name] for row in seed] for seed in rows]


def command(name: str, doc: str, yaml_of: str, study: Callable, argv: list[str] | None) -> dict:
    """The command of a study: --config, --set, and --resume to read back what is recorded. Its
    table is handed back."""
    parser = command_line(f"studies.{name}", doc, yaml_of)
    parser.add_argument("--resume", action="store_true", help="read back what data/runs recorded")
    args = parser.parse_args(argv)
    refuse_launcher(f"studies.{name}")
    with phase("study"):
        return study(Path(args.config), args.overrides, args.resume)
