"""Score pairs or ranking sets with a reward model: python -m bsr_lite.eval_rm --help

Accuracy and Kendall's tau are against the gold order, never against noisy labels.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from . import data
from .batching import count_tokens, micro_batches, pack, shared_prefix
from .data import Group, Messages, read_messages
from .dispersion import effective_rank, norm_share, norm_statistics, reward_variances
from .errors import DataError, ModelError, run
from .metrics import agreement, bootstrap_interval, kendall_tau_b
from .runlog import write_atomic
from .scenarios import pairs_as_groups
from .tokenization import tokenize_chats

# ---- scores --------------------------------------------------------------------------------------

def group_tokens(tokenizer, group: Group, max_length: int | None = None) -> list[list[int]] | None:
    """A group's token group; None when a response exceeds max_length tokens with its prompt."""
    ((prompt, *responses),) = tokenize_chats(tokenizer, [(group.prompt, group.responses)])
    if max_length and len(prompt) + max(map(len, responses)) > max_length:
        return None
    return shared_prefix(prompt, responses)


@torch.no_grad()
def score_tokens(model, token_groups: list, token_budget: int = 4096) -> list[dict]:
    """Per token group: rewards (K,), and after_norm, before_norm (K, H), the two last hidden
    states.  Raises: ModelError when a reward is not finite."""
    was_training, results = model.training, [{} for _ in token_groups]
    model.eval()
    for part in micro_batches([count_tokens(t) for t in token_groups], token_budget):
        packed = pack([token_groups[i] for i in part]).to(model.device)
        after, before = model.last_hidden(packed)  # (N, H) each, N responses of all its groups
        rewards = model.score(after)  # (N,)
        if not rewards.isfinite().all():
            raise ModelError("the model's rewards are not finite: it diverged in training; use an "
                             "earlier one, or train with a lower learning rate")
        sizes = [len(token_groups[i]) - 1 for i in part]
        for name, values in (("rewards", rewards), ("after_norm", after), ("before_norm", before)):
            for index, value in zip(part, values.cpu().split(sizes), strict=True):
                answers = token_groups[index][1:]
                # the same answer gets the same reward: in a packed row it would differ in the last
                # bits, and a tie go either way
                results[index][name] = value[[answers.index(answer) for answer in answers]]
    model.train(was_training)
    return results


def fitting(model, groups: list[Group], max_length: int | None) -> tuple[list, list[Group]]:
    """Groups with their token groups, (group, token group), and the groups over max_length."""
    pairs = [(g, group_tokens(model.tokenizer, g, max_length)) for g in groups]
    return [(g, t) for g, t in pairs if t], [g for g, t in pairs if not t]


def evaluate(model, groups: list[Group], *, max_length: int | None = None,
             token_budget: int = 4096, dispersion: bool = False) -> dict:
    """Agreement of rewards and gold over ranking sets of one size K.

    score: accuracy for K = 2, mean within-prompt Kendall tau-b otherwise, with `low` and `high`
    from a bootstrap over prompts and `per_prompt` behind it; pooled_tau: tau-b over all responses
    of all prompts, which, unlike the former, sees shifts between prompts; rewards and gold, (P, K),
    to four decimals; length_score: the score of a reward that is the number of characters.
    dropped: sets over max_length; undecided: sets whose gold scores are all equal, left out;
    tied: sets in which two rewards are equal (an error for accuracy).
    Raises: DataError for mixed sizes or when nothing is left.
    """
    fit, too_long = fitting(model, groups, max_length)
    kept = [(g, t) for g, t in fit if len(set(g.gold)) > 1]
    if not kept:
        raise DataError(f"none of {len(groups)} ranking sets is left: {len(too_long)} "
                        f"exceed max_length, {len(fit)} have equal gold scores")
    if len({len(g.responses) for g, _ in kept}) > 1:
        raise DataError("ranking sets of different sizes: evaluate them apart")
    scored = score_tokens(model, [t for _, t in kept], token_budget)
    rewards = torch.stack([s["rewards"] for s in scored]).numpy()  # (P, K)
    gold = np.array([g.gold for g, _ in kept], dtype=float)  # (P, K)
    lengths = np.array([[len(r) for r in g.responses] for g, _ in kept])
    metric, per_prompt = agreement(rewards, gold)
    mean, low, high = bootstrap_interval(per_prompt)
    result = {"score": mean, "low": low, "high": high, "metric": metric, "groups": len(kept),
              "dropped": len(too_long), "undecided": len(fit) - len(kept),
              "tied": sum(len(set(row)) < len(row) for row in rewards.tolist()),
              "pooled_tau": kendall_tau_b(rewards.ravel(), gold.ravel()).item(),
              "length_score": float(agreement(lengths, gold)[1].mean()),
              "per_prompt": per_prompt.tolist(), "rewards": rewards.astype(float).round(4).tolist(),
              "gold": gold.round(4).tolist()}
    return result | (dispersion_statistics(scored, gold) if dispersion else {})


def dispersion_statistics(scored: list[dict], gold: np.ndarray) -> dict:
    """Norms, pair differences and effective rank, after and before the final RMSNorm; the margin
    and the reward's variances.

    A pair is a set's first two responses, the better one by gold as h_w (Eq. 23). Effective rank
    is that of their 2P hidden states, whatever K is, so that sets of as many prompts compare.
    """
    rewards = torch.stack([s["rewards"] for s in scored])  # (P, K)
    better = torch.from_numpy(gold[:, 0] >= gold[:, 1])[:, None]
    margin = torch.where(better[:, 0], 1, -1) * (rewards[:, 0] - rewards[:, 1])
    result = {"reward_mean": rewards.mean().item(), **reward_variances(rewards),
              "margin": margin.mean().item(), "rank_rows": 2 * len(scored)}
    for place in ("after", "before"):
        hidden = torch.stack([s[f"{place}_norm"] for s in scored])  # (P, K, H)
        chosen = torch.where(better, hidden[:, 0], hidden[:, 1])
        rejected = torch.where(better, hidden[:, 1], hidden[:, 0])
        pairs = torch.cat([chosen, rejected])
        result |= {f"norm_{place}": norm_statistics(hidden.norm(dim=-1).flatten()),
                   f"difference_{place}": norm_statistics((chosen - rejected).norm(dim=-1)),
                   f"norm_share_{place}": norm_share(chosen, rejected),
                   f"effective_rank_{place}": effective_rank(pairs),
                   f"effective_rank_centered_{place}": effective_rank(pairs, center=True)}
    return result


def score_answers(model, prompt: str | Messages, responses: list[str]) -> torch.Tensor:
    """Raw rewards of answers to one prompt, text or messages; only their differences mean
    something.  Shapes: K responses -> (K,) fp32.  Raises: DataError for anything else."""
    if isinstance(responses, str) or not responses or not all(
            isinstance(r, str) and r.strip() for r in responses):
        raise DataError(f"responses must be a list of non-empty texts, got {responses!r:.60}")
    try:
        prompt = read_messages(prompt, "prompt")
    except ValueError as error:
        raise DataError(str(error)) from error
    group = Group(prompt, list(responses), [0.0] * len(responses), [""] * len(responses))
    return score_tokens(model, [group_tokens(model.tokenizer, group)])[0]["rewards"]


# ---- the command ---------------------------------------------------------------------------------

def table(header: list[str], rows: list[list]) -> str:
    """A table in Markdown.

    >>> print(table(["set", "score"], [["dev", 0.5]]))
    | set | score |
    |---|---|
    | dev | 0.5 |
    """
    first, *lines = [f"| {' | '.join(map(str, row))} |" for row in (header, *rows)]
    return "\n".join([first, "|---" * len(header) + "|", *lines])


def summary(results: dict[str, dict]) -> str:
    """The table of named evaluations."""
    return table(["set", "metric", "score", "95% interval (prompts)", "pooled tau", "sets",
                  "dropped", "undecided", "tied"], [
        [name, r["metric"], f"{r['score']:.3f}", f"{r['low']:.3f} to {r['high']:.3f}",
         f"{r['pooled_tau']:.3f}", r["groups"], r["dropped"], r["undecided"], r["tied"]]
        for name, r in results.items()])


def read_sets(args) -> list[tuple[str, list[Group]]]:
    """The ranking sets of --data, named, those of different sizes apart; of a file the rows that
    carry --split."""
    found: list[tuple[str, list[Group]]] = []
    for source in args.data:
        name, split = Path(source).name, args.split or "train"
        if args.format in data.PAIR_FORMATS:
            pairs = data.read_pairs(source, args.format, split)
            found.append((name, pairs_as_groups(pairs)))
            continue
        groups = [g for g in data.read_groups(source, args.format, split)
                  if not args.split or g.split == split or not Path(source).is_file()]
        if not groups:
            raise DataError(f"{source}: no row carries the split {split!r}")
        found += [(f"{name} (K={k})", [g for g in groups if len(g.responses) == k])
                  for k in sorted({len(g.responses) for g in groups})]
    return found


def command_parser(command: str, doc: str) -> argparse.ArgumentParser:
    """What every command asks that scores a model."""
    parser = argparse.ArgumentParser(f"python -m bsr_lite.{command}", description=doc,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, options in {
            "model": {"required": True, "help": "folder of save_reward_model, or a hub id of a "
                      "sequence-classification reward model"},
            "split": {"help": "split of a hub dataset (default: train), or rows of a file with it"},
            "max-length": {"type": int, "help": "drop and count longer sets (tokens)"},
            "token-budget": {"type": int, "default": 4096, "help": "tokens per micro-batch"},
            "output": {"type": Path, "help": "JSON to write; the table beside it as .md"}}.items():
        parser.add_argument(f"--{name}", **options)
    return parser


def check_arguments(args, sources: list[str]) -> None:
    """Raises: DataError before anything is loaded."""
    local = [source for source in sources if Path(source).exists()]
    if args.split and local and getattr(args, "format", None) not in ("pocket", "judged"):
        raise DataError(f"--split selects rows of pocket and judged files alone: {local[0]} would "
                        "be scored whole; leave it out, or filter the file")
    try:
        if args.output and (args.output.suffix != ".json" or args.output.is_dir()):
            raise OSError("name a file that ends in .json; the table is written beside it")
        if args.output:
            args.output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"--output {args.output}: {error}") from error


def score_sets(args, sets: list[tuple[str, list[Group]]], score: Callable, show: Callable) -> None:
    """Load --model, `score` every set, print what `show` makes of the results and write --output.

    Raises: DataError, ModelError.
    """
    from .models import load_reward_model
    names = [name for name, _ in sets]
    if len(set(names)) < len(names):
        raise DataError(f"two of {names} have the same name: rename one, or score them apart")
    model, results = load_reward_model(args.model), {}
    if model.meta["new_head"]:
        raise ModelError(f"{args.model} has no reward head: its rewards would be noise; train one "
                         "with bsr_lite.train_rm")
    for name, groups in sets:
        try:
            results[name] = score(model, groups, max_length=args.max_length,
                                  token_budget=args.token_budget)
        except DataError as error:  # the others are still worth a table
            print(f"{name}: {error}")
    if not results:
        raise DataError("no set could be scored")
    print(show(results))
    if args.output:
        write_atomic(args.output, json.dumps(results, indent=1) + "\n")
        write_atomic(args.output.with_suffix(".md"), show(results) + "\n")


def main(argv: list[str] | None = None) -> None:
    parser = command_parser("eval_rm", __doc__)
    parser.add_argument("--data", nargs="+", required=True,
                        help=".jsonl[.gz], .parquet or hub datasets, all of one --format")
    parser.add_argument("--format", default="pocket",
                        choices=[*data.GROUP_FORMATS, *data.PAIR_FORMATS])
    args = parser.parse_args(argv)
    check_arguments(args, args.data)
    score_sets(args, read_sets(args), evaluate, summary)


if __name__ == "__main__":
    run(main)
