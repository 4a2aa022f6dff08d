"""Rows out of files, hub datasets and clones of repositories."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path


class DataError(ValueError):
    """Input that cannot be used; the message names the file, the row and the fix."""


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
        for number, row in enumerate(_json_values(path), start=1):
            if not isinstance(row, dict):
                raise DataError(f"{path}, row {number}: expected an object with named columns, got "
                                f"{type(row).__name__}")
            yield row
    elif path.suffix in (".jsonl", ".json", ".gz", ".parquet") or source.startswith((".", "/")):
        raise DataError(f"{source}: no such file; check the path in the config's data.source")
    else:
        from datasets import load_dataset
        try:
            yield from load_dataset(source, split=split)
        except Exception as error:
            raise DataError(f"{source}: neither a file nor a dataset that can be loaded "
                            f"({type(error).__name__}: {error})") from error


def _json_values(path: Path) -> Iterator:
    """One object a line, or in a .json file one array of objects, as RM-Bench is published."""
    row = 0
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig") as f:
            if ".json" in path.suffixes and next(filter(str.strip, f), "").lstrip()[:1] == "[":
                f.seek(0)
                yield from json.load(f)
                return
            f.seek(0)
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


JUDGE = "weighted_alpaca_eval_gpt4_turbo"


def alpaca_eval_rows(clone: Path) -> Iterator[dict]:
    """The judged table `prompt, subset, model, response, gold` of a clone of tatsu-lab/alpaca_eval.

    Every results/<model>/<JUDGE>/annotations.json compares that model (output_2) with one fixed
    reference answer (output_1): gold = preference - 1, the judge's probability that output_2 is
    better. Rows without a judgement or a text are dropped and counted.
    Raises: DataError naming file, row and fix.
    """
    files = sorted(clone.glob(f"results/*/{JUDGE}/annotations.json"))
    if not files:
        raise DataError(f"{clone}: no results/*/{JUDGE}/annotations.json; name the folder of a "
                        "clone of tatsu-lab/alpaca_eval")
    dropped = 0
    for file in files:
        try:
            rows = json.loads(file.read_text(encoding="utf-8"))
            for number, row in enumerate(rows, start=1):
                preference, response = row["preference"], row["output_2"]
                if preference is None or preference != preference or not response.strip():
                    dropped += 1
                    continue
                if not 1 <= preference <= 2:
                    raise ValueError(f"row {number}: preference {preference} is not in [1, 2]")
                yield {"prompt": row["instruction"], "subset": row["dataset"],
                       "model": file.parts[-3], "response": response, "gold": preference - 1}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{file}: not the judge's annotations ({type(error).__name__}: "
                            f"{error}); pull the repository again") from error
    if dropped:
        print(f"{clone}: dropped {dropped} rows without a judgement or a text")
