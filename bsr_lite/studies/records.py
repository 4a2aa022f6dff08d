"""What studies keep, and the one way in which it is read back.

A finished unit of work is a JSON file whose `config` says what decided it. It is read back when
that is the same now, from the study's own folder always, from data/runs with --resume.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

from ..config import command_line, parse, to_dict
from ..distributed import refuse_launcher
from ..errors import ConfigError
from ..runlog import environment, phase, write_atomic

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


def write_results(folder: Path, config: dict, table: dict, text: str) -> None:
    """results.json, the numbers with the config behind them, and results.md."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "results.json", json.dumps({"config": config, "table": table}, indent=1)
                 + "\n")
    write_atomic(folder / "results.md", text)


def write_environment(folder: Path) -> None:
    """env.json of a study that has no runs with their own."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "env.json", json.dumps(environment(), indent=2) + "\n")


def read_table(folder: str | Path) -> dict:
    """The numbers of a study's results.json."""
    return json.loads((Path(folder) / "results.json").read_text())["table"]


def command(name: str, doc: str, yaml_of: str, study: Callable, argv: list[str] | None) -> None:
    """The command of a study: --config, --set, and --resume to read back what is recorded."""
    parser = command_line(f"studies.{name}", doc, yaml_of)
    parser.add_argument("--resume", action="store_true", help="read back what data/runs recorded")
    args = parser.parse_args(argv)
    refuse_launcher(f"studies.{name}")
    with phase("study"):
        study(Path(args.config), args.overrides, args.resume)
