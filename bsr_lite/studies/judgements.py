"""The judged table of a clone of tatsu-lab/alpaca_eval, for `data.format: alpaca_eval`:
python -m bsr_lite.studies.judgements --clone alpaca_eval --output alpaca_eval.jsonl
"""

import argparse
import json
from pathlib import Path

from ..data import column, convert, json_rows
from ..errors import DataError, run
from ..runlog import write_atomic

JUDGE = "weighted_alpaca_eval_gpt4_turbo"


def alpaca_eval_rows(clone: Path) -> list[dict]:
    """The judged table `prompt, model, response, gold` of a clone of tatsu-lab/alpaca_eval.

    Every results/<model>/<JUDGE>/annotations.json compares that model (output_2) with one fixed
    reference answer (output_1): gold = preference - 1, the judge's probability that output_2 is
    better. Rows without a judgement or a text are dropped and counted.
    Raises: DataError naming file, row and fix.
    """
    def judgement(row):
        preference, response = row.get("preference"), column(row, "output_2")
        if preference is None or preference != preference or not str.strip(response):
            return None
        if not 1 <= preference <= 2:
            raise ValueError(f"preference {preference} is not in [1, 2]; pull the repository again")
        return {"prompt": column(row, "instruction"), "response": response, "gold": preference - 1}

    rows = [row and row | {"model": file.parts[-3]}
            for file in sorted(clone.glob(f"results/*/{JUDGE}/annotations.json"))
            for row in convert(str(file), json_rows(file), judgement)]
    if not rows:
        raise DataError(f"{clone}: no results/*/{JUDGE}/annotations.json; name the folder of a "
                        "clone of tatsu-lab/alpaca_eval")
    kept = [row for row in rows if row]
    if len(kept) < len(rows):
        print(f"{clone}: dropped {len(rows) - len(kept)} rows without a judgement or a text")
    return kept


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m bsr_lite.studies.judgements", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clone", type=Path, required=True, help="folder of the repository")
    parser.add_argument("--output", type=Path, required=True, help=".jsonl to write")
    args = parser.parse_args(argv)
    rows = alpaca_eval_rows(args.clone)
    write_atomic(args.output, "".join(json.dumps(row) + "\n" for row in rows))
    print(f"{len(rows)} judged answers in {args.output}")


if __name__ == "__main__":
    run(main)
