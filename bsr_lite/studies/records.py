"""What studies keep, and the one way in which it is read back.

A finished unit of work is a JSON file whose `config` says what decided it. It is read back when
that is the same now, from the study's own folder always, from data/runs with --resume.
"""

import ctypes
import dataclasses
import functools
import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path

from ..config import command_line, parse, to_dict
from ..distributed import refuse_launcher
from ..errors import ConfigError
from ..runlog import environment, phase, read_metrics, write_atomic

RECORDED = Path("data/runs")  # of the repository, as configs name their data
RENAMED = {("layout", "forest"): "packed"}


def key_of(config, **others) -> dict:
    """What decides a unit of work, as its file holds it: a config, and what else does."""
    plain = {k: to_dict(v) if dataclasses.is_dataclass(v) else v for k, v in others.items()}
    return to_dict(config) | plain


def _known(values: dict, cls) -> dict:
    """Settings of an earlier version in today's words: keys that no longer exist are ignored."""
    fields = {f.name: f.type for f in dataclasses.fields(cls)}
    return {k: _known(v, fields[k]) if dataclasses.is_dataclass(fields[k]) else
            RENAMED.get((k, str(v)), v) for k, v in values.items()
            if k in fields and (k, v) != ("token_budget", None)}  # null: what was free in memory


def _as_now(recorded, now):
    """What an earlier version wrote where today's writes `now`, a config or plain data: missing
    keys have their defaults, and a run may have moved."""
    if not dataclasses.is_dataclass(now):
        return recorded
    then = parse(_known(recorded, type(now)), type(now), "its config")
    return to_dict(dataclasses.replace(then, output_dir=now.output_dir))


def read_back(path: Path, config, **others) -> dict | None:
    """What the unit of work in `path` found, when the same config and `others` decided it."""
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text())
        values = found["config"]
        own = {k: v for k, v in values.items() if k not in others}
        recorded = _as_now(own, config) | {k: _as_now(values.get(k), others[k]) for k in others}
    except (ConfigError, ValueError, KeyError, TypeError, AttributeError) as error:
        print(f"{path} is left out: {error}")  # torn, or of another version
        return None
    if recorded != key_of(config, **others):
        return None
    print(f"{path.parent}: finished before, read back")
    return found


def write_results(folder: Path, config: dict, table: dict, text: str, figure=None) -> None:
    """results.json, the numbers with the config behind them, results.md, and results.png where
    there is a figure; the text is printed."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = json.dumps({"config": config, "table": table}, indent=1) + "\n"
    write_atomic(folder / "results.json", numbers)
    write_atomic(folder / "results.md", text)
    print(f"\n{text}\ntable   {folder / 'results.md'}\nnumbers {folder / 'results.json'}")
    if figure:
        from ..plots import save
        save(figure, folder / "results.png")
        print(f"figure  {folder / 'results.png'}")


def write_environment(folder: Path) -> None:
    """env.json of a study that has no runs with their own."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "env.json", json.dumps(environment(), indent=2) + "\n")


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


def run_config(base: dict, changes: list[dict], cls, where: str):
    """The config of a run: a base with changes on top, section by section.
    Raises: ConfigError."""
    values = dict(base)
    for change in changes:
        for key, value in change.items():
            section = isinstance(value, dict) and isinstance(values.get(key), dict)
            values[key] = values[key] | value if section else value
    return parse(values, cls, where)


def record_of(config) -> Path:
    """Where data/runs records a run: in the folders of the study and of the run."""
    return RECORDED.joinpath(*Path(config.output_dir).parts[-2:])


def recorded_runs(configs: dict, **others) -> dict[str, dict]:
    """{name: evaluation} of the runs that data/runs holds with the same settings."""
    found = {name: read_back(record_of(config) / "evaluation.json", config, **others)
             for name, config in configs.items()}
    return {name: evaluation for name, evaluation in found.items() if evaluation}


def release_memory() -> None:
    """Give the memory of a finished run back, so that the next one does not come on top of it: a
    model is full of reference cycles, and glibc keeps freed blocks."""
    gc.collect()
    if sys.platform == "linux":
        getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)(0)


def run_or_read(config, others: dict, work: Callable[..., dict]) -> dict:
    """A run's evaluation: read back from its folder when all that decides it is the same, else
    what work(config) finds."""
    path = Path(config.output_dir) / "evaluation.json"
    if finished := read_back(path, config, **others):
        return finished
    found = {"config": key_of(config, **others)} | work(config)
    write_atomic(path, json.dumps(found) + "\n")
    release_memory()
    return found


def read_runs(folder: str | Path) -> dict[str, list[dict]]:
    """The runs of a study by method, in the order of their seeds, each {"seed", "metrics": rows,
    "evaluation": what evaluation.json holds}.  Raises: FileNotFoundError when there is none."""
    runs = by_method({path.parent.name: {
        "seed": method_and_seed(path.parent.name)[1], "metrics": read_metrics(path.parent),
        "evaluation": json.loads(path.read_text())}
        for path in Path(folder).glob("*-seed*/evaluation.json")})
    if not runs:
        raise FileNotFoundError(f"{folder}: no finished run (method-seedN/evaluation.json)")
    return {m: sorted(runs[m], key=lambda run: run["seed"]) for m in sorted(runs)}


def watched(runs: list[dict], part: str, *keys: str) -> tuple[list[int], list[list[float]]]:
    """Steps, and one curve a seed, of a number that `watch` logged, such as
    watched(runs["bt"], "train", "difference_after", "mean")."""
    rows = [[row for row in run["metrics"] if "watch" in row] for run in runs]
    curves = [[functools.reduce(dict.__getitem__, keys, row["watch"][part]) for row in seed]
              for seed in rows]
    return [row["step"] for row in rows[0]], curves


def command(name: str, doc: str, yaml_of: str, study: Callable, argv: list[str] | None) -> None:
    """The command of a study: --config, --set, and --resume to read back what is recorded."""
    parser = command_line(f"studies.{name}", doc, yaml_of)
    parser.add_argument("--resume", action="store_true", help="read back what data/runs recorded")
    args = parser.parse_args(argv)
    refuse_launcher(f"studies.{name}")
    with phase("study"):
        study(Path(args.config), args.overrides, args.resume)
