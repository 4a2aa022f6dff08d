"""A policy's answers in AlpacaEval's output format, for whoever has a judge:
python -m bsr_lite.studies.alpaca_eval --help
"""

import argparse
import json
from pathlib import Path

from ..errors import DataError, run
from ..generate import roll_out
from ..policy import load_policy
from ..runlog import write_atomic
from ..scorers import read_prompts


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m bsr_lite.studies.alpaca_eval", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="smollm2-135m-instruct, a hub id, a local "
                        "path, or the model folder of a train_rloo run")
    parser.add_argument("--data", required=True, help=".json, .jsonl[.gz] or .parquet with "
                        "`instruction` or `prompt`, or a hub dataset")
    parser.add_argument("--split", help="rows that carry this `split` only")
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", required=True, help="a .json file")
    args = parser.parse_args(argv)
    output = Path(args.output)
    if output.suffix != ".json" or not output.parent.is_dir():
        raise DataError(f"--output {output}: name a .json file in a folder that exists")
    if args.max_new_tokens < 1:
        raise DataError(f"--max-new-tokens {args.max_new_tokens}: at least 1")
    rows, policy, written = read_prompts(args.data, args.split), load_policy(args.model), []
    for start in range(0, len(rows), 16):
        batch = roll_out(policy, rows[start:start + 16], 1, args.max_new_tokens, args.seed + start)
        written += [{"instruction": b["row"]["prompt"], "output": b["texts"][0],
                     "generator": args.model} for b in batch]
    write_atomic(output, json.dumps(written, indent=1, ensure_ascii=False) + "\n")
    print(f"{len(written)} answers in {output}")


if __name__ == "__main__":
    run(main)
