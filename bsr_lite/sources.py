"""Where rows come from: JSON, CSV and parquet files, folders of them, saved datasets, the hub."""

import csv
import functools
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

from .errors import DataError


def read_rows(source: str, split: str = "train") -> Iterator[dict]:
    """Rows of a .json, .jsonl[.gz], .csv, .tsv or .parquet file; or of `split` of a folder, one of
    such files or one that `save_to_disk` wrote, or of a dataset on the hub.

    Raises: DataError naming file, row and fix.
    """
    path = Path(source)
    if path.is_file() and path.suffix != ".parquet":
        return (yield from (csv_rows if path.suffix in (".csv", ".tsv") else json_rows)(path))
    if not path.exists() and (source.startswith((".", "/")) or path.suffix in (
            ".json", ".jsonl", ".gz", ".csv", ".tsv", ".parquet")):
        raise DataError(f"{source}: no such file; check the path, or data.source of the config")
    from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
    try:
        if path.is_file():
            yield from Dataset.from_parquet(source)
        elif any((path / name).exists() for name in ("state.json", "dataset_dict.json")):
            saved = load_from_disk(source)
            yield from saved[split] if isinstance(saved, DatasetDict) else saved
        else:
            yield from load_dataset(source, split=split)
    except Exception as error:  # what datasets raises is of all kinds
        what = ("no readable parquet, fetch it again" if path.is_file() else
                f"no folder with a split {split!r} that datasets reads" if path.exists() else
                "neither a file nor a dataset that can be loaded")
        own = isinstance(error, TypeError | AttributeError)  # Python's, of what no JSON should be
        why = "damaged: write or fetch it again" if own else " ".join(
            f"{type(error).__name__}: {error}".split())
        raise DataError(f"{source}: {what} ({why})") from error


def distinct(pairs: list[tuple]) -> dict:
    """An object's keys with their values.  Raises: ValueError for a key that stands there twice."""
    found, names = dict(pairs), [name for name, _ in pairs]
    if len(found) < len(names):
        raise ValueError(f"{max(names, key=names.count)!r} is there twice")
    return found


def json_rows(path: Path) -> Iterator[dict]:
    """One object a line, or in a .json file one array of objects, as RM-Bench is published."""
    row = 0
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig") as f:
            array = ".json" in path.suffixes and next(filter(str.strip, f), "").lstrip()[:1] == "["
            f.seek(0)
            values = functools.partial(json.loads, object_pairs_hook=distinct)
            for value in values(f.read()) if array else map(values, filter(str.strip, f)):
                row += 1
                if not isinstance(value, dict):
                    raise DataError(f"{path}, row {row}: expected an object with named columns, "
                                    f"got {type(value).__name__}")
                yield value
    except (ValueError, EOFError, OSError, zlib.error, RecursionError) as error:
        # of JSON, UTF-8, gzip, the disk
        raise DataError(f"{path}, row {row + 1}: not valid JSON ({error}); one object a line is"
                        " expected. Is it cut short? Fetch it again or delete the row") from error


def csv_rows(path: Path) -> Iterator[dict]:
    """Rows under a header; an empty field is a null."""
    csv.field_size_limit(2**31 - 1)
    row = 0
    try:
        with open(path, encoding="utf-8-sig", newline="") as f:
            table = csv.DictReader(f, delimiter="\t" if path.suffix == ".tsv" else ",", strict=True)
            distinct([(name, None) for name in table.fieldnames or ()])
            for found in table:
                row += 1
                if None in found or None in found.values():
                    raise DataError(f"{path}, row {row}: more or fewer fields than the header "
                                    "names; quote fields that hold a comma. Is it cut short?")
                yield {name: value or None for name, value in found.items()}
    except (csv.Error, ValueError, OSError) as error:
        raise DataError(f"{path}, row {row + 1}: not valid CSV ({error}); expected is a header and"
                        " UTF-8") from error
