"""Score a reward model on pairs, ranking sets and public benchmarks:
python -m bsr_lite.studies.evaluate --model runs/rm_fast/model --data FILE [--format FORMAT]

Accuracy and Kendall's tau are against the gold order, never against noisy labels. Several models in
folders <method>-seed<n>/model are also compared, method by method, with the first one.
"""

import argparse
import json
from pathlib import Path

from ..data import GROUP_FORMATS, PAIR_FORMATS, Group, read_groups, read_pairs
from ..errors import ConfigError, DataError, run
from ..eval_rm import evaluate
from ..models import load_reward_model
from ..runlog import check_folder, write_atomic
from ..scenarios import pairs_as_groups
from . import leaderboards, records
from .tables import scores_text, shown, summarize, table


def summary(results: dict[str, dict]) -> str:
    """The table of named evaluations; beside a score that of the number of characters."""
    counts = ("groups", "dropped", "undecided", "tied")
    rows = [[name, r["metric"], shown((r["score"], r["low"], r["high"])),
             *(f"{r[key]:.3f}" for key in ("length_score", "pooled_tau")),
             *(r[key] for key in counts)] for name, r in results.items()]
    return table(["set", "metric", "score (95%, prompts)", "score of length", "pooled tau",
                  *counts], rows)


def names_of(models: list[str]) -> list[str]:
    """What tables call the models: of <name>/model the name.

    Raises: ConfigError where several are not the same seeds of every method.
    """
    names = [p.parent.name if p.name == "model" else p.name for p in map(Path, models)]
    parts = [name.rpartition("-seed") for name in names]
    seeds = [[seed for m, _, seed in parts if m == method] for method, *_ in parts]
    if len(names) > 1 and not all(s == seeds[0] and all(map(str.isdigit, s)) for s in seeds):
        raise ConfigError(f"--model: {' '.join(names)} are not of the form <method>-seed<n>/model, "
                          "of each method the same seeds in the same order")
    return names


def comparison(found: dict[str, dict]) -> list[str]:
    """Methods x sets from the results of several models, for the pairs or sets that all of them
    scored: means over seeds, and paired differences to the first method."""
    first, *others = found.values()
    clusters = {part: cell["prompt"] for part, cell in first.items() if others and all(
        part in r and r[part].get("gold") == cell.get("gold", "a benchmark") for r in others)}
    if not clusters:
        return []
    runs = records.by_method({name: {"scenarios": {part: results[part] for part in clusters}}
                              for name, results in found.items()})
    return [scores_text(summarize(runs, clusters), len(found) // len(runs), unit="prompts")]


def read_sets(source: str, format: str, split: str | None) -> list[tuple[str, list[Group]]]:
    """Ranking sets by name, those of different sizes apart; of a file the rows that carry `split`.

    Raises: DataError naming file, row and fix.
    """
    name, part = Path(source).name, split or "train"
    if format in leaderboards.READERS:
        return leaderboards.read_sets(source, format, part)
    if format in PAIR_FORMATS:
        return [(name, pairs_as_groups(read_pairs(source, format, part)))]
    groups = [g for g in read_groups(source, format, part)
              if not split or g.split == split or not Path(source).is_file()]
    if not groups:
        raise DataError(f"{source}: no row carries the split {split!r}")
    return [(f"{name} (K={k})", [g for g in groups if len(g.responses) == k])
            for k in sorted({len(g.responses) for g in groups})]


def check_arguments(args) -> None:
    """Raises: DataError, ConfigError before anything is loaded."""
    local = [source for source in args.data if Path(source).exists()]
    if args.split and local and args.format not in ("pocket", "judged"):
        raise DataError(f"--split selects rows of pocket and judged files alone: {local[0]} would "
                        "be scored whole; leave it out, or filter the file")
    if args.output and (args.output.suffix != ".json" or args.output.is_dir()):
        raise DataError(f"--output {args.output}: the name ends in .json, and .md beside it")
    if args.output:
        check_folder(args.output.parent)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m bsr_lite.studies.evaluate", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", required=True, help="folders or hub ids")
    parser.add_argument("--data", nargs="+", required=True, help="files or hub datasets")
    parser.add_argument("--format", default="pocket",
                        choices=[*GROUP_FORMATS, *PAIR_FORMATS, *leaderboards.READERS])
    parser.add_argument("--split", help="rows of this split; by default train, of a file all")
    parser.add_argument("--max-length", type=int, help="drop and count longer sets (tokens)")
    parser.add_argument("--output", type=Path, help="JSON to write; the table beside it as .md")
    args = parser.parse_args(argv)
    check_arguments(args)
    names = names_of(args.model)
    score, as_table = evaluate, summary
    if args.format in leaderboards.BOARDS:  # all files together have one score
        score, as_table = leaderboards.BOARDS[args.format][0], leaderboards.board_table
        sets = [(args.format, leaderboards.read_board(args.data, args.format,
                                                      args.split or "train"))]
    else:
        sets = [named for data in args.data for named in read_sets(data, args.format, args.split)]
    if len(dict(sets)) < len(sets):
        raise DataError(f"two of {[name for name, _ in sets]} have the same name: rename one")
    found = {}
    for name, path in zip(names, args.model, strict=True):
        found[name] = results = {}
        model = load_reward_model(path, for_scoring=True)
        for part, groups in sets:
            try:
                results[part] = score(model, groups, max_length=args.max_length)
            except DataError as error:  # the others are still worth a table
                print(f"{part}: {error}")
        if not results:
            raise DataError("no set could be scored")
        del model  # or the next one would come on top of it
        records.release_memory()
    tables = [(f"{n}\n\n" if names[1:] else "") + as_table(r) for n, r in found.items()]
    text = "\n\n".join(tables + comparison(found))
    print(text)
    if args.output:
        write_atomic(args.output, json.dumps(found if names[1:] else results, indent=1) + "\n")
        write_atomic(args.output.with_suffix(".md"), text + "\n")


if __name__ == "__main__":
    run(main)
