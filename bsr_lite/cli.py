"""The command lines of all commands, in one module that imports nothing heavy, so that --help
answers at once."""

import argparse
import ast
from pathlib import Path

COMMANDS = {
    "train_rm": "train a Bradley-Terry or BSR reward model from a YAML",
    "eval_rm": "score pairs or ranking sets with a reward model",
    "merge": "write a LoRA or QLoRA model as one plain transformers folder",
    "estimate": "memory of a run, part by part, before it is started",
    "study": "compare methods over seeds on the four scenarios",
    "frozen": "compare objectives over many seeds on frozen features",
    "best_of_n": "rank samples of a policy by reward models, gold of what they pick",
    "train_rloo": "train a policy against a reward model by RLOO",
    "rloo_study": "train policies against the reward models of a study, judged by gold",
    "generate": "write a policy's answers in AlpacaEval's output format",
    "bench": "time our training steps beside TRL's",
}
CONFIGS = {  # what the YAML of a command describes, and an override
    "train_rm": ("a reward-model run", "loss=bsr model.depth=4"),
    "estimate": ("a reward-model run", "token_budget=2048"),
    "study": ("a study", "seeds=[0,1,2]"), "frozen": ("a frozen-feature study", "seeds=10"),
    "best_of_n": ("a best-of-n run", "prompts=16"),
    "train_rloo": ("an RLOO run", "kl_coef=0.0 steps=100"),
    "rloo_study": ("an RLOO study", "seeds={0.0: [0]}")}
FORMATS = ("pocket", "ultrafeedback", "robustness", "judged", "alpaca_eval", "trl", "skywork",
           "reward_bench")


def _options(command: str) -> list[tuple[str, dict]]:
    """The options that a command has beside its YAML."""
    resume = ("--resume", {"action": "store_true", "help": "go on from the last checkpoint"})
    output = ("--output", {"required": True})
    return {
        "train_rm": [resume],
        "train_rloo": [resume],
        "estimate": [("--measure", {"action": "store_true", "help": "load the model, run that "
                                    "micro-batch and compare"})],
        "study": [("--resume", {"action": "store_true", "help": "read runs of the same config back "
                                "that are recorded in data/runs"})],
        "merge": [("--model", {"required": True, "help": "folder of a LoRA or QLoRA reward model"}),
                  (output[0], output[1] | {"help": "folder to write, new or a model's"})],
        "generate": [
            ("--model", {"required": True, "help": "smollm2-135m-instruct, a hub id, a local path, "
                         "or the model folder of a train_rloo run"}),
            ("--data", {"required": True, "help": ".json, .jsonl[.gz] or .parquet with "
                        "`instruction` or `prompt`, or a hub dataset"}),
            ("--split", {"help": "rows that carry this `split` only"}),
            ("--max-new-tokens", {"type": int, "default": 256}),
            ("--seed", {"type": int, "default": 0}),
            (output[0], output[1] | {"help": "a .json file"})],
        "bench": [
            ("--quick", {"action": "store_true", "help": "one of each, in minutes"}),
            ("--growth", {"action": "store_true", "help": "how cost grows, instead"}),
            ("--judged", {"help": "a judged table (parquet), as a third mix of lengths"}),
            ("--rounds", {"type": int, "default": 2}),
            ("--output", {"help": "folder for results.json, .md and .png; without it runs/bench or "
                          "runs/bench_growth"})],
        "eval_rm": [
            ("--model", {"required": True, "help": "folder of save_reward_model, or a hub id of a "
                         "sequence-classification reward model"}),
            ("--format", {"default": "pocket", "choices": FORMATS}),
            ("--split", {"help": "split of a hub dataset (default: train), or the rows of a file "
                         "that carry it: train, dev, valid (default: all rows)"}),
            ("--max-length", {"type": int, "help": "drop and count longer sets (tokens)"}),
            ("--token-budget", {"type": int, "default": 4096, "help": "tokens per micro-batch"}),
            ("--output", {"help": "write the results as JSON here, the table beside it as "
                          "Markdown"})],
    }.get(command, [])


def parser(command: str) -> argparse.ArgumentParser:
    """The command line of a command; what it says of itself is its module's docstring."""
    source = Path(__file__).with_name(f"{command}.py").read_text(encoding="utf-8")
    found = argparse.ArgumentParser(prog=f"python -m bsr_lite.{command}",
                                    description=ast.get_docstring(ast.parse(source)),
                                    formatter_class=argparse.RawDescriptionHelpFormatter)
    if command in CONFIGS:
        what, example = CONFIGS[command]
        found.add_argument("--config", required=True, help=f"YAML of {what}")
        found.add_argument("--set", nargs="*", action="extend", default=[], dest="overrides",
                           metavar="KEY=VALUE", help=f"override single values, e.g. {example}")
    if command == "eval_rm":
        sets = found.add_mutually_exclusive_group(required=True)
        sets.add_argument("--data", nargs="+", metavar="DATA",
                          help=".jsonl[.gz], .parquet or hub datasets, all of one --format")
        sets.add_argument("--rm-bench", metavar="FILE", help="RM-Bench as .json, .jsonl or hub id")
    for name, options in _options(command):
        found.add_argument(name, **options)
    return found


def help_first(argv: list[str]) -> None:
    """Answers `python -m bsr_lite.<command> --help` and ends; returns for anything else."""
    module = argv[argv.index("-m") + 1] if "-m" in argv[:-1] else ""
    command = module.removeprefix("bsr_lite.")
    if command in COMMANDS and {"-h", "--help"} & set(argv):
        parser(command).parse_args(["--help"])
