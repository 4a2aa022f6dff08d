"""Our training steps beside TRL's, in turns: python tests/speed/bench.py --quick

The same pairs, answers, weights and optimizer through us, through TRL's RewardTrainer and
RLOOTrainer as they come, and at their best settings; sampling against HF generate. Needs TRL, which
requirements.txt names. With --growth instead, and without TRL: how a step's time and memory grow
with pairs, length and answers, what BSR costs beside BT, how tokenization scales.
"""

import argparse
import json
import random
from pathlib import Path

import torch
from bench_growth import cost_of_bsr, growth, tokenization
from bench_rloo import Rollouts, compare_sampling, compare_updates
from bench_rm import Work, compare
from figures import bench_figure, growth_figure

from bsr_lite.batching import TokenGroup
from bsr_lite.config import ModelConfig
from bsr_lite.data import Pair, read_groups
from bsr_lite.embedded import EMBEDDED
from bsr_lite.errors import DataError, ModelError, run
from bsr_lite.models import load_reward_model
from bsr_lite.policy import load_policy
from bsr_lite.runlog import environment, phase, write_atomic
from bsr_lite.studies.records import write_results
from bsr_lite.tokenization import answer_rows, chat_ids, pair_tokens

POCKET = "data/pocket/pocket.jsonl.gz"
DEPTH = 4  # layers of the reward models: a bench of minutes on two cores
SYSTEMS = {"trl": "TRL, defaults", "trl_best": "TRL, best settings"}


# ---- what is computed ----------------------------------------------------------------------------

def best_and_worst(source: str, format: str = "pocket") -> list[Pair]:
    """Every prompt's answers of highest and lowest gold, in a random order of prompts."""
    found = []
    for group in read_groups(source, format):
        order = sorted(range(len(group.gold)), key=group.gold.__getitem__)
        if group.gold[order[0]] < group.gold[order[-1]]:
            found.append(Pair(group.prompt, group.responses[order[-1]], group.responses[order[0]]))
    random.Random(0).shuffle(found)
    return found


def dialogs(pairs: list[Pair]) -> list[Pair]:
    """Long prompts: every pair after four earlier turns, which are other pairs."""
    found = []
    for i in range(0, len(pairs) - 4, 5):
        history = [message for pair in pairs[i:i + 4] for message in
                   (*pair.prompt, {"role": "assistant", "content": pair.chosen})]
        last = pairs[i + 4]
        found.append(Pair([*history, *last.prompt], last.chosen, last.rejected))
    return found


def batches_of(pairs: list[Pair], tokenizer, count: int, size: int) -> list[list[TokenGroup]]:
    """The first count * size pairs that fit.  Raises: DataError when they are too few."""
    token_groups, _ = pair_tokens(pairs[:3 * count * size], tokenizer, 2048)
    if len(token_groups) < count * size:
        raise DataError(f"{len(token_groups)} pairs, {count * size} needed: ask for fewer batches")
    return [[token_groups[i * size + j] for j in range(size)] for i in range(count)]


def rollouts(tokenizer, steps: int, prompts: int = 4, answers: int = 4) -> Rollouts:
    """Prompts of the pocket world, with recorded answers in place of sampled ones."""
    groups = [g for g in read_groups(POCKET) if len(g.responses) >= answers][:steps * prompts]
    stems = chat_ids(tokenizer, [g.prompt for g in groups], generate=True)
    rows = answer_rows(tokenizer, [(g.prompt, g.responses[:answers]) for g in groups])
    token_groups = [[stem, *(row[len(stem):] for row in found)]
                    for stem, found in zip(stems, rows, strict=True)]
    return Rollouts([token_groups[i * prompts:(i + 1) * prompts] for i in range(steps)])


def works(quick: bool, judged: str | None, tokenizer) -> list[Work]:
    """Reward-model comparisons on the embedded model's first layers; `quick` the first alone."""
    pocket = best_and_worst(POCKET)
    models = {"LoRA, bf16": ModelConfig(EMBEDDED, depth=DEPTH, lora_rank=16, dtype="bfloat16"),
              "full, fp32": ModelConfig(EMBEDDED, depth=DEPTH, dtype="float32")}
    mixes = {"pocket": batches_of(pocket, tokenizer, 5, 8)}
    if not quick:
        mixes["dialogs"] = batches_of(dialogs(pocket), tokenizer, 4, 4)
    if judged:
        mixes["judged"] = batches_of(best_and_worst(judged, "judged"), tokenizer, 4, 4)
    works = [Work(f"{mix}, {name}", batches, model) for mix, batches in mixes.items()
             for name, model in models.items()]
    return works[:1] if quick else works


# ---- the report ----------------------------------------------------------------------------------

def reward_table(tables: dict[str, dict]) -> list[str]:
    """One row a comparison and system."""
    lines = ["Reward-model training: pairs a second of bsr_lite over those of TRL, median "
             "(quartiles) over batches and rounds; bytes of the first batch.", "",
             "| pairs, training | against | speed-up | its peak memory | it saves for backward "
             "| it computes tokens per real one | goodput of the matmul peak | loss of batch 1, "
             "ours minus its |", "|---" * 8 + "|"]
    for name, table in tables.items():
        ours = table["ours"]
        for system, title in SYSTEMS.items():
            row = table[system]
            speed, low, high = row["speed_up"]
            lines.append(
                f"| {name} | {title} | {speed:.2f} ({low:.2f} to {high:.2f}) "
                f"| {row['peak'] / ours['peak']:.2f}x | {row['saved'] / ours['saved']:.2f}x | "
                f"{row['computed_tokens']:.2f} | {row['goodput']:.3f} (ours {ours['goodput']:.3f}) "
                f"| {ours['first_loss'] - row['first_loss']:+.1e} |")
    return lines


def rloo_table(updates: dict[str, dict], sampling: dict[str, dict]) -> list[str]:
    lines = ["RLOO updates (answers given): completions a second over TRL's RLOOTrainer.", "",
             "| update | against | speed-up | relative difference of the first gradient |",
             "|---" * 4 + "|"]
    for name, table in updates.items():
        for system, title in SYSTEMS.items():
            speed, low, high = table[system]["speed_up"]
            lines.append(f"| {name} | {title} | {speed:.2f} ({low:.2f} to {high:.2f}) | "
                         f"{table[system]['gradient_difference']:.1e} |")
    lines += ["", "Sampling: tokens a second over HF generate (lowest, highest round).", "",
              "| sampling | speed-up |", "|---|---|"]
    for name, row in sampling.items():
        speed, low, high = row["speed_up"]
        lines.append(f"| {name} | {speed:.2f} ({low:.2f} to {high:.2f}) |")
    return lines


def growth_table(tables: dict) -> list[str]:
    lines = ["A step (forward and backward) against its size: size^exponent, fitted.", "",
             "| what grows | sizes | seconds | exponent | peak memory, MB | exponent |",
             "|---" * 6 + "|"]
    for name, row in tables["steps"].items():
        cells = (", ".join(map(str, row["sizes"])), ", ".join(f"{s:.2f}" for s in row["seconds"]),
                 f"{row['seconds_exponent']:.2f}",
                 ", ".join(f"{b / 1e6:.0f}" for b in row["peak"]), f"{row['peak_exponent']:.2f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "BSR beside BT, the same 8 pairs:", "", "| micro-batches | time of BSR / BT |",
              "|---|---|"]
    lines += [f"| {count} | {row['ratio']:.2f} |" for count, row in tables["bsr"].items()]
    t = tables["tokenization"]
    return [*lines, "", f"Tokenization: {t['speed_up']:.2f} times the pairs a second of row by "
            f"row; {t['pairs']:,} pairs of {t['tokens'] / t['pairs']:.0f} tokens in "
            f"{t['seconds']:.0f} s ({t['pairs'] / t['seconds']:,.0f} pairs/s), {t['held_gb']:.2f} "
            f"GB resident with texts and tokens, {t['read_gb']:.2f} GB before."]


def run_growth(quick: bool) -> dict:
    """{"tokenization", "steps", "bsr"}: see `bench_growth`."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_reward_model(EMBEDDED, depth=DEPTH, lora_rank=16).to(device).train()
    found = {}
    with phase("tokenization"):
        found["tokenization"] = tokenization(best_and_worst(POCKET), model.tokenizer,
                                             20_000 if quick else 1_000_000)
    with phase("steps"):
        found["steps"] = growth(model, quick, 1 if quick else 3)
    with phase("BSR"):
        found["bsr"] = cost_of_bsr(model, quick)
    return found


def run_comparison(quick: bool, judged: str | None, rounds: int) -> dict:
    """{"reward models", "updates", "sampling"}: the tables of every comparison."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    policy = load_policy(EMBEDDED, lora_rank=16)
    found: dict = {"reward models": {}, "updates": {}, "sampling": {}}
    for work in works(quick, judged, policy.tokenizer):
        with phase(work.name):
            found["reward models"][work.name] = compare(work, 1 if quick else rounds, device)
    with phase("RLOO updates"):
        found["updates"]["4 prompts x 4, LoRA, bf16"] = compare_updates(
            policy, rollouts(policy.tokenizer, 2 if quick else 4), 1 if quick else rounds)
    (groups,) = rollouts(policy.tokenizer, 1, 16).steps
    text = [token for group in groups for part in group for token in part]
    for length, k in ((128, 4),) if quick else ((128, 4), (384, 8)):
        prompts = [text[i * 20:i * 20 + length] for i in range(8)]
        with phase(f"sampling, prompt {length}, K = {k}"):
            found["sampling"][f"prompt of {length}, K = {k}"] = compare_sampling(
                policy, prompts, k, 16 if quick else 64, 1 if quick else rounds)
    return found


def trl_version() -> str:
    try:
        import trl
    except ImportError:
        raise ModelError("the comparison needs TRL: pip install -r requirements.txt") from None
    return trl.__version__


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python tests/speed/bench.py", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one of each, in minutes")
    parser.add_argument("--growth", action="store_true", help="how cost grows, instead")
    parser.add_argument("--judged", help="a judged table (parquet), as a third mix of lengths")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--output", help="folder for results.json, .md and .png; without it "
                        "runs/bench or runs/bench_growth")
    args = parser.parse_args(argv)
    if args.rounds < 1:
        raise DataError(f"--rounds {args.rounds}: at least 1")
    settings = {"quick": args.quick}
    if args.growth:
        tables = run_growth(args.quick)
        lines, draw = growth_table(tables), growth_figure
    else:
        settings |= {"trl": trl_version(), "judged": bool(args.judged), "rounds": args.rounds}
        tables = run_comparison(args.quick, args.judged, args.rounds)
        lines = [*reward_table(tables["reward models"]), "",
                 *rloo_table(tables["updates"], tables["sampling"])]
        draw = bench_figure
    out, text = Path(args.output or f"runs/bench{'_growth' * args.growth}"), "\n".join(lines) + "\n"
    write_results(out, settings, tables, text)
    draw(tables, out / "results.png")
    write_atomic(out / "env.json", json.dumps(environment(), indent=2) + "\n")
    print(f"figure  {out / 'results.png'}")


if __name__ == "__main__":
    run(main)
