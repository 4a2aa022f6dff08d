"""Readers that map every preference format onto pairs or groups.

Bad input raises DataError naming file, row and fix. What cannot teach anything is dropped and
counted."""

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

Messages = list[dict[str, str]]


class DataError(ValueError):
    """Input that cannot be used; the message names the file, the row and the fix."""


@dataclass
class Pair:
    """One comparison: the conversation so far, the preferred and the other answer."""

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
    split: str | None = None  # train, dev or valid; RM-Bench: the domain


# ---- checks: they raise ValueError, `_convert` adds file and row --------------------------------

def _column(row: dict, name: str):
    if not isinstance(row, dict):
        raise ValueError(f"expected an object with named columns, got {type(row).__name__}")
    if row.get(name) is None:
        raise ValueError(f"column {name!r} is missing or null; found columns: {', '.join(row)}")
    return row[name]


def _text(value, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        what = "empty text" if isinstance(value, str) else type(value).__name__
        raise ValueError(f"{name} must be non-empty text, got {what}")
    value.encode()  # a lone surrogate is a ValueError here, and no tokenizer's trouble later
    return value


def _number(value, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        raise ValueError(f"{name} must be a finite number, got {value!r:.40}: remove or rescore it")
    return float(value)


def _messages(value, name: str) -> Messages:
    if isinstance(value, str):
        return [{"role": "user", "content": _text(value, name)}]
    if not isinstance(value, list) or not value:
        raise ValueError(f"{name} must be text or a list of messages, got {type(value).__name__}")
    for i, message in enumerate(value):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise ValueError(f"{name}[{i}] must be a message with role and content")
        _text(message.get("content"), f"{name}[{i}].content")
    return [{"role": m["role"], "content": m["content"]} for m in value]


def _group(prompt, responses, gold, models, split=None) -> Group:
    if not len(responses) == len(gold) == len(models) or len(responses) < 2:
        raise ValueError(f"needs equally many (at least 2) responses, gold scores and models, got "
                         f"{len(responses)}, {len(gold)} and {len(models)}")
    return Group(_messages(prompt, "prompt"),
                 [_text(r, f"responses[{i}]") for i, r in enumerate(responses)],
                 [_number(g, f"gold[{i}]") for i, g in enumerate(gold)],
                 [_text(m, f"models[{i}]") for i, m in enumerate(models)], split)


# ---- formats -----------------------------------------------------------------------------------

def _final_answer(value, name: str) -> str:
    if isinstance(value, str):
        return _text(value, name)
    messages = _messages(value, name)
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        raise ValueError(f"{name} must end in one assistant message after the shared prompt")
    return messages[0]["content"]


def trl_pair(row: dict) -> Pair:
    """TRL's preference format: prompt given or implied by the shared start of chosen and
    rejected, each as text or as message lists. Skywork-80K is the implied message form."""
    chosen, rejected = (_column(row, name) for name in ("chosen", "rejected"))
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise ValueError("chosen and rejected must both be text or both be message lists")
    if not isinstance(chosen, str):
        chosen, rejected = _messages(chosen, "chosen"), _messages(rejected, "rejected")
    shared = 0  # never a whole answer: identical pairs are counted and dropped later, no error
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    if isinstance(chosen, str):  # cut between words, as the answers may start with the same letters
        shared = max((i + 1 for i in range(shared) if chosen[i].isspace()), default=0)
    if row.get("prompt") is None:
        prompt = _messages(chosen[:shared], "the shared start of chosen and rejected")
    else:
        prompt = _messages(row["prompt"], "prompt")
        shared = 0 if isinstance(chosen, str) or chosen[:len(prompt)] != prompt else len(prompt)
    chosen, rejected = chosen[shared:], rejected[shared:]
    margin = row.get("margin")
    return Pair(prompt, _final_answer(chosen, "chosen"), _final_answer(rejected, "rejected"),
                None if margin is None else _number(margin, "margin"))


def group_row(row: dict) -> Group:
    """Our own schema, `prompt, responses, gold, models` and optional `split` (pocket world)."""
    return _group(*(_column(row, c) for c in ("prompt", "responses", "gold", "models")),
                  row.get("split"))


def ultrafeedback(row: dict) -> Group:
    """UltraFeedback: `instruction, completions[{model, response, overall_score}]`."""
    completions = _column(row, "completions")
    if not isinstance(completions, list):
        raise ValueError(f"completions must be a list, got {type(completions).__name__}")
    columns = [[_column(c, name) for c in completions]
               for name in ("response", "overall_score", "model")]
    return _group(_column(row, "instruction"), *columns)


def robustness(row: dict) -> Group:
    """The paper's validation sets: `instruction, response_1_text..response_4_text, all_scores`."""
    names = [f"response_{i}" for i in range(1, 5)]
    texts = [_column(row, f"{name}_text") for name in names]
    return _group(_column(row, "instruction"), texts, _column(row, "all_scores"), names)


def rm_bench(row: dict) -> Group:
    """RM-Bench: `chosen[3], rejected[3]` in the order concise, detailed, Markdown; `domain`."""
    chosen, rejected = _column(row, "chosen"), _column(row, "rejected")
    if len(chosen) != 3 or len(rejected) != 3:
        raise ValueError("chosen and rejected must hold three styles each")
    styles = ["concise", "detailed", "markdown"]
    models = [f"{kind}-{style}" for kind in ("chosen", "rejected") for style in styles]
    domain = row.get("domain") or _column(row, "subset")
    return _group(_column(row, "prompt"), chosen + rejected, [1] * 3 + [0] * 3, models, domain)


PAIR_FORMATS = {"trl": trl_pair, "skywork": trl_pair}
GROUP_FORMATS = {"pocket": group_row, "ultrafeedback": ultrafeedback, "robustness": robustness,
                 "rm_bench": rm_bench, "judged": None}  # judged: a long table, see read_groups


def read_rows(source: str, split: str = "train") -> Iterator[dict]:
    """Rows of a .jsonl[.gz] or .parquet file, or of a dataset on the hub."""
    path = Path(source)
    if path.suffix == ".parquet" and path.is_file():
        from datasets import Dataset
        try:
            yield from Dataset.from_parquet(str(path))
        except Exception as error:
            raise DataError(f"{path}: no readable parquet ({error}); fetch it again") from error
    elif path.is_file():
        yield from _read_json_lines(path)
    elif path.suffix in (".jsonl", ".json", ".gz", ".parquet") or source.startswith((".", "/")):
        raise DataError(f"{source}: no such file; check the path in the config's data.source")
    else:
        from datasets import load_dataset
        try:
            yield from load_dataset(source, split=split)
        except Exception as error:
            raise DataError(f"{source}: neither a file nor a dataset that can be loaded "
                            f"({type(error).__name__}: {error})") from error


def _read_json_lines(path: Path) -> Iterator[dict]:
    row = 0
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig") as f:
            for line in filter(str.strip, f):
                row += 1
                yield json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}, row {row}: not valid JSON ({error.msg}); one object a line is expected. Is "
            "the file cut short? Fetch it again or delete the row") from error
    except (UnicodeDecodeError, EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path}, after row {row}: cannot be read on ({error}); "
                        "save it as UTF-8 or fetch it again") from error


def _convert(source: str, rows: Iterable[dict], convert) -> list:
    items = []
    for number, row in enumerate(rows, start=1):
        try:
            items.append(convert(row))
        except (ValueError, TypeError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{source}, row {number}: {error}") from error
    if not items:
        raise DataError(f"{source}: holds no rows; check the file and the split's name")
    return items


def read_pairs(source: str, format: str = "trl", split: str = "train") -> list[Pair]:
    """All pairs of a source.  Raises: DataError naming file, row and fix."""
    if format not in PAIR_FORMATS:
        raise DataError(f"format {format!r} holds no pairs; choose from {', '.join(PAIR_FORMATS)}")
    return _convert(source, read_rows(source, split), PAIR_FORMATS[format])


def read_groups(source: str, format: str = "pocket", split: str = "train") -> list[Group]:
    """All ranking sets of a source; `judged` is a long table of (prompt, model, response, gold).

    Raises: DataError naming file, row and fix.
    """
    if format not in GROUP_FORMATS:
        known = ", ".join(GROUP_FORMATS)
        raise DataError(f"format {format!r} holds no groups; choose from {known}")
    if format != "judged":
        return _convert(source, read_rows(source, split), GROUP_FORMATS[format])

    def judged(row):
        return (_text(_column(row, "prompt"), "prompt"), _text(row.get("response"), "response"),
                _number(row.get("gold"), "gold"), _text(row.get("model"), "model"))

    table: dict[str, list[tuple]] = {}
    for prompt, *rest in _convert(source, read_rows(source, split), judged):
        table.setdefault(prompt, []).append(rest)
    groups = [_group(prompt, *map(list, zip(*rows, strict=True)))
              for prompt, rows in table.items() if len(rows) > 1]
    if len(groups) < len(table):
        print(f"{source}: dropped {len(table) - len(groups)} prompts with a single response")
    return groups
