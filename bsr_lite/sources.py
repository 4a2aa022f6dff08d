"""Where rows come from: JSON, CSV and parquet files, folders of them, saved datasets, the hub."""

import csv
import gzip
import itertools
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from .errors import DataError

SUFFIXES = (".json", ".jsonl", ".gz", ".csv", ".tsv", ".parquet")
# how files of another part of a dataset are named, as the hub writes them: test-00000-of-00001
SPLIT_NAME = re.compile(r"(train|test|valid|dev|eval)", re.IGNORECASE)


def read_rows(source: str, split: str = "train") -> Iterator[dict]:
    """Rows of a .json, .jsonl[.gz], .csv, .tsv or .parquet file, of a folder of such files or of
    `save_to_disk`, or of a dataset on the hub.

    Raises: DataError naming file, row and fix.
    """
    path = Path(source)
    if path.is_file() and path.suffix != ".parquet":
        yield from (csv_rows if path.suffix in (".csv", ".tsv") else json_rows)(path)
        return
    saved = any((path / name).exists() for name in ("state.json", "dataset_dict.json"))
    if path.is_dir() and not saved:
        yield from itertools.chain.from_iterable(read_rows(str(f)) for f in files_of(path, split))
        return
    if not path.exists() and (path.suffix in SUFFIXES or source.startswith((".", "/"))):
        raise DataError(f"{source}: no such file; check the path, or data.source of the config")
    from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
    try:
        if path.is_file():
            yield from Dataset.from_parquet(source)
        elif saved:
            found = load_from_disk(source)
            yield from found[split] if isinstance(found, DatasetDict) else found
        else:
            yield from load_dataset(source, split=split)
    except Exception as error:  # what datasets raises is of all kinds
        what = ("no readable parquet, fetch it again" if path.is_file() else
                f"its split {split!r} cannot be read" if saved else
                "neither a file nor a dataset that can be loaded")
        why = " ".join(str(error).split())
        raise DataError(f"{source}: {what} ({type(error).__name__}: {why})") from error


def files_of(folder: Path, split: str) -> list[Path]:
    """The files of a folder, in order of their names; where names say a split, those of `split`,
    and what is left out is printed.  Raises: DataError when there are none."""
    files = sorted(f for f in folder.rglob("*") if f.suffix in SUFFIXES)
    named = [f for f in files if SPLIT_NAME.match(f.name)]
    found = [f for f in files if f.name.lower().startswith(split.lower())] if named else files
    if not found:
        raise DataError(f"{folder}: no file ends in {', '.join(SUFFIXES)}" + (
            f" and is named {split}...; found {', '.join(f.name for f in files[:5])}"
            if files else "; name a file, or a folder that save_to_disk wrote"))
    if len(found) < len(files):
        print(f"{folder}: {len(found)} of {len(files)} files are read, those named {split}...")
    return found


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
            for found in csv.DictReader(f, delimiter="\t" if path.suffix == ".tsv" else ",",
                                        strict=True):
                row += 1
                if None in found:
                    raise DataError(f"{path}, row {row}: more fields than the header names; quote "
                                    "fields that hold a comma")
                yield {name: value or None for name, value in found.items()}
    except (csv.Error, ValueError, OSError) as error:
        raise DataError(f"{path}, row {row + 1}: not valid CSV ({error}); expected is a header and"
                        " UTF-8") from error
