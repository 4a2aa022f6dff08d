"""AlpacaEval: its judge's preferences in, a policy's answers out.

    python data/alpaca_eval.py --clone alpaca_eval --output alpaca_eval.jsonl
    python data/alpaca_eval.py --model runs/rloo_fast/model --data eval.json --output answers.json

The first makes the judged table of a clone of tatsu-lab/alpaca_eval (`data.format: alpaca_eval`).
The second writes answers in the output format of AlpacaEval, for whoever has a judge.
"""

import argparse
import json
from pathlib import Path

from bsr_lite.conversations import column
from bsr_lite.data import convert
from bsr_lite.errors import DataError, run
from bsr_lite.generate import roll_out
from bsr_lite.policy import load_policy
from bsr_lite.runlog import check_folder, write_atomic
from bsr_lite.scorers import read_prompts
from bsr_lite.sources import json_rows

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


def answers(model: str, rows: list[dict], max_new_tokens: int, seed: int) -> list[dict]:
    """One answer of a policy to each row's `prompt`, in AlpacaEval's output format."""
    policy, written = load_policy(model), []
    for start in range(0, len(rows), 16):
        batch = roll_out(policy, rows[start:start + 16], 1, max_new_tokens, seed + start)
        written += [{"instruction": b["row"]["prompt"], "output": b["texts"][0],
                     "generator": model} for b in batch]
    return written


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python data/alpaca_eval.py", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--clone", type=Path, help="folder of the repository")
    source.add_argument("--model", help="smollm2-135m-instruct, a hub id, a local path, or the "
                        "model folder of a train_rloo run")
    parser.add_argument("--data", help="with --model: .json, .jsonl[.gz], .parquet or a hub "
                        "dataset with `instruction` or `prompt`")
    parser.add_argument("--split", help="of --data: rows that carry this `split` only")
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True, help="a .jsonl file for --clone, a "
                        ".json file for --model")
    args = parser.parse_args(argv)
    suffix = ".jsonl" if args.clone else ".json"
    folder = args.output.parent
    if args.output.suffix != suffix or args.output.is_dir() or not folder.is_dir():
        raise DataError(f"--output {args.output}: name a {suffix} file in a folder that exists")
    check_folder(folder)
    if args.clone:
        rows = alpaca_eval_rows(args.clone)
        write_atomic(args.output, "".join(json.dumps(row) + "\n" for row in rows))
        print(f"{len(rows)} judged answers in {args.output}")
        return
    if not args.data or args.max_new_tokens < 1:
        raise DataError("--model needs --data, and --max-new-tokens of at least 1")
    rows = answers(args.model, read_prompts(args.data, args.split), args.max_new_tokens, args.seed)
    write_atomic(args.output, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    print(f"{len(rows)} answers in {args.output}")


if __name__ == "__main__":
    run(main)
