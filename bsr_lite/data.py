"""Readers that map every preference format onto pairs or groups. Bad input raises DataError naming
file, row and fix; what cannot teach anything is dropped and counted."""

import functools
import gzip
import json
import math
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .errors import DataError


def read_rows(source: str, split: str = "train") -> Iterator[dict]:
    """Rows of a .json, .jsonl[.gz] or .parquet file, or of a dataset on the hub.

    Raises: DataError naming file, row and fix.
    """
    path = Path(source)
    if path.is_file() and path.suffix != ".parquet":
        yield from json_rows(path)
        return
    if not path.is_file() and (path.suffix in (".jsonl", ".json", ".gz", ".parquet")
                               or source.startswith((".", "/"))):
        raise DataError(f"{source}: no such file; check the path, or data.source of the config")
    from datasets import Dataset, load_dataset
    try:
        yield from (Dataset.from_parquet(source) if path.is_file()
                    else load_dataset(source, split=split))
    except Exception as error:  # what datasets raises is of all kinds
        what = ("no readable parquet, fetch it again" if path.is_file() else
                "neither a file nor a dataset that can be loaded")
        raise DataError(f"{source}: {what} ({type(error).__name__}: {error})") from error


def json_rows(path: Path) -> Iterator[dict]:
    """One object a line, or in a .json file one array of objects, as RM-Bench is published."""
    row = 0
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig") as f:
            first = next(filter(str.strip, f), "").lstrip()[:1]
            f.seek(0)
            array = first == "[" and ".json" in path.suffixes
            for value in json.load(f) if array else map(json.loads, filter(str.strip, f)):
                row += 1
                if not isinstance(value, dict):
                    raise DataError(f"{path}, row {row}: expected an object with named columns, "
                                    f"got {type(value).__name__}")
                yield value
    except (ValueError, EOFError, OSError, zlib.error) as error:  # of JSON, UTF-8, gzip, the disk
        raise DataError(f"{path}, row {row + 1}: not valid JSON ({error}); one object a line is"
                        " expected. Is it cut short? Fetch it again or delete the row") from error


Messages = list[dict[str, str]]


@dataclass
class Pair:
    """One comparison: the conversation so far, the preferred and the other answer. A margin is read
    and handed on to TRL (`to_trl`); training here makes no use of it."""

    prompt: Messages
    chosen: str
    rejected: str
    margin: float | None = None


@dataclass
class Group:
    """One ranking set: K answers to a prompt with their gold scores and source models."""

    prompt: Messages
    responses: list[str]
    gold: list[float]
    models: list[str]
    split: str | None = None  # train, dev or valid; of a benchmark: its subset


# ---- checks: they raise ValueError, `convert` adds file and row ---------------------------------

def column(row: dict, name: str):
    if row.get(name) is None:
        raise ValueError(f"column {name!r} is missing or null; found columns: {', '.join(row)}")
    return row[name]


def text(value, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        what = "empty text" if isinstance(value, str) else type(value).__name__
        raise ValueError(f"{name} must be non-empty text, got {what}")
    value.encode()  # a lone surrogate is a ValueError here, and no tokenizer's trouble later
    return value


def _number(value, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        raise ValueError(f"{name} must be a finite number, got {value!r:.40}: remove or rescore it")
    return float(value)


def read_messages(value, name: str) -> Messages:
    if isinstance(value, str):
        return [{"role": "user", "content": text(value, name)}]
    if not isinstance(value, list) or not value:
        raise ValueError(f"{name} must be text or a list of messages, got {type(value).__name__}")
    for i, message in enumerate(value):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise ValueError(f"{name}[{i}] must be a message with role and content")
        if message.get("tool_calls") or message.get("function_call"):
            raise ValueError(f"{name}[{i}] calls a tool, which is not supported: write the call "
                             "into its content, or remove the row")
        text(message.get("content"), f"{name}[{i}].content")
    return [{"role": m["role"], "content": m["content"]} for m in value]


def new_group(prompt, responses, gold, models, split=None) -> Group:
    if not len(responses) == len(gold) == len(models) or len(responses) < 2:
        raise ValueError(f"needs equally many (at least 2) responses, gold scores and models, got "
                         f"{len(responses)}, {len(gold)} and {len(models)}")
    return Group(read_messages(prompt, "prompt"),
                 [text(r, f"responses[{i}]") for i, r in enumerate(responses)],
                 [_number(g, f"gold[{i}]") for i, g in enumerate(gold)],
                 [text(m, f"models[{i}]") for i, m in enumerate(models)], split)


# ---- formats -----------------------------------------------------------------------------------

def _final_answer(value, name: str) -> str:
    if isinstance(value, str):
        return text(value, name)
    messages = read_messages(value, name)
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        raise ValueError(f"{name} must end in one assistant message after the shared prompt")
    return messages[0]["content"]


def trl_pair(row: dict) -> Pair:
    """TRL's preference format: prompt given or implied by the shared start of chosen and
    rejected, each as text or as message lists. Skywork-80K is the implied message form."""
    chosen, rejected = (column(row, name) for name in ("chosen", "rejected"))
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise ValueError("chosen and rejected must both be text or both be message lists")
    if not isinstance(chosen, str):
        chosen, rejected = read_messages(chosen, "chosen"), read_messages(rejected, "rejected")
    shared = 0  # never a whole answer: identical pairs are counted and dropped later, no error
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    if isinstance(chosen, str):  # cut between words, as the answers may start with the same letters
        shared = max((i + 1 for i in range(shared) if chosen[i].isspace()), default=0)
    if row.get("prompt") is None:
        prompt = read_messages(chosen[:shared], "the shared start of chosen and rejected")
    else:
        prompt = read_messages(row["prompt"], "prompt")
        shared = 0 if isinstance(chosen, str) or chosen[:len(prompt)] != prompt else len(prompt)
    margin = None if row.get("margin") is None else _number(row["margin"], "margin")
    return Pair(prompt, _final_answer(chosen[shared:], "chosen"),
                _final_answer(rejected[shared:], "rejected"), margin)


def to_trl(pairs: list[Pair]) -> list[dict]:
    """Rows of TRL's preference format: `datasets.Dataset.from_list(to_trl(pairs))` is what its
    trainers take, and `trl_pair` reads them back. A margin is a demanded one for TRL."""
    return [{"prompt": p.prompt, "chosen": [{"role": "assistant", "content": p.chosen}],
             "rejected": [{"role": "assistant", "content": p.rejected}],
             **({} if p.margin is None else {"margin": p.margin})} for p in pairs]


def group_row(row: dict) -> Group:
    """Our own schema, `prompt, responses, gold, models` and optional `split` (pocket world)."""
    columns = (column(row, name) for name in ("prompt", "responses", "gold", "models"))
    return new_group(*columns, row.get("split"))


def ultrafeedback(row: dict) -> Group | None:
    """UltraFeedback: `instruction, completions[{model, response, overall_score}]`; None for a row
    in which an answer is empty or has no score, as the published set holds some."""
    completions = column(row, "completions")
    if not isinstance(completions, list):
        raise ValueError(f"completions must be a list, got {type(completions).__name__}")
    if not completions or not all(c.get("response") and c.get("overall_score") is not None
                                  for c in completions):
        return None
    columns = [[column(c, name) for c in completions]
               for name in ("response", "overall_score", "model")]
    return new_group(column(row, "instruction"), *columns)


def preference_logit(preference: float) -> float:
    """A judge's preference in [0, 1] as a logit, clipped to +-14 and rounded to a tenth, so that
    judgements that hardly differ are ties.

    >>> preference_logit(0.5), preference_logit(0.0), preference_logit(0.9)
    (0.0, -14.0, 2.2)
    """
    if not 0 <= preference <= 1:
        raise ValueError(f"gold must be a preference in [0, 1], got {preference}: read tables of "
                         "other scores as `judged`")
    odds = max(preference, 1e-9) / max(1 - preference, 1e-9)
    return round(max(-14.0, min(14.0, math.log(odds))), 1)


def judged_row(row: dict, score: Callable[[float], float] = float) -> tuple:
    """(prompt, response, score(gold), model, split) of a row of a long table, a row an answer."""
    prompt, gold = text(column(row, "prompt"), "prompt"), _number(row.get("gold"), "gold")
    return (prompt.strip(), text(row.get("response"), "response"), score(gold),
            text(row.get("model"), "model"), row.get("split"))


PAIR_FORMATS = {"trl": trl_pair, "skywork": trl_pair}
GROUP_FORMATS = {"pocket": group_row, "ultrafeedback": ultrafeedback, "judged": judged_row,
                 "alpaca_eval": functools.partial(judged_row, score=preference_logit)}


def convert(source: str, rows: Iterable[dict], reader: Callable) -> list:
    """`reader` of every row.  Raises: DataError, its complaint with file and row."""
    items = []
    try:
        for row in rows:
            items.append(reader(row))
    except (ValueError, TypeError) as error:
        raise DataError(f"{source}, row {len(items) + 1}: {error}") from error
    if not items:
        raise DataError(f"{source}: holds no rows; check the file and the split's name")
    return items


def read_pairs(source: str, format: str = "trl", split: str = "train") -> list[Pair]:
    """All pairs of a source.  Raises: DataError naming file, row and fix."""
    if format not in PAIR_FORMATS:
        raise DataError(f"format {format!r} holds no pairs; choose from {', '.join(PAIR_FORMATS)}")
    return convert(source, read_rows(source, split), PAIR_FORMATS[format])


def read_groups(source: str, format: str = "pocket", split: str = "train") -> list[Group]:
    """All ranking sets of a source. `judged` is a long table of (prompt, model, response, gold);
    `alpaca_eval` is one whose gold is a judge's preference in [0, 1], and becomes
    `preference_logit`s (data/alpaca_eval.py makes it of a clone of AlpacaEval's repository).

    Raises: DataError naming file, row and fix.
    """
    if format not in GROUP_FORMATS:
        raise DataError(f"format {format!r} holds no groups; choose from "
                        f"{', '.join(GROUP_FORMATS)}")
    rows = convert(source, read_rows(source, split), GROUP_FORMATS[format])
    found = [row for row in rows if row is not None]
    if len(found) < len(rows):
        print(f"{source}: dropped {len(rows) - len(found)} rows with an answer that is empty or "
              "has no score")
    if not found:
        raise DataError(f"{source}: no row is left")
    return found if isinstance(found[0], Group) else _long_table(source, found)


def _long_table(source: str, rows: list[tuple]) -> list[Group]:
    """Groups of (prompt, response, gold, model, split) rows, one answer a model: repeated ones and
    prompts with a single answer are dropped and counted."""
    table: dict[str, dict[str, tuple]] = {}
    for prompt, response, gold, model, split in rows:
        table.setdefault(prompt, {}).setdefault(model, (response, gold, model, split))
    groups = []
    for prompt, by_model in table.items():
        *columns, splits = map(list, zip(*by_model.values(), strict=True))
        if len(set(splits)) > 1:
            raise DataError(f"{source}: the prompt {prompt[:60]!r} has rows of several splits "
                            f"({', '.join(sorted(map(str, set(splits))))}): give it one")
        if len(splits) > 1:
            groups.append(new_group(prompt, *columns, splits[0]))
    repeats, single = len(rows) - sum(map(len, table.values())), len(table) - len(groups)
    if repeats or single:
        print(f"{source}: dropped {repeats} rows that repeat a prompt and model, {single} prompts "
              "with a single response")
    return groups
