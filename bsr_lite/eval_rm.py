"""Score pairs or ranking sets with a reward model: python -m bsr_lite.eval_rm --help

Accuracy and Kendall's tau are against the gold order, never against noisy labels.
"""

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from .batching import count_tokens, micro_batches, pack, shared_prefix
from .cli import parser
from .data import (
    PAIR_FORMATS,
    Group,
    Messages,
    pairs_as_groups,
    read_groups,
    read_messages,
    read_pairs,
)
from .dispersion import effective_rank, norm_share, norm_statistics, reward_variances
from .errors import DataError, ModelError
from .metrics import agreement, bootstrap_interval, kendall_tau_b, rm_bench_scores
from .runlog import write_atomic
from .tokenization import tokenize_chats


def group_tokens(tokenizer, group: Group, max_length: int | None = None) -> list[list[int]] | None:
    """A group's tokens as a prompt token_group; None when a response exceeds max_length tokens."""
    ((prompt, *responses),) = tokenize_chats(tokenizer, [(group.prompt, group.responses)])
    if max_length and len(prompt) + max(map(len, responses)) > max_length:
        return None
    return shared_prefix(prompt, responses)


@torch.no_grad()
def score_tokens(model, token_groups: list, token_budget: int = 4096) -> list[dict[str, torch.Tensor]]:
    """Per token_group: rewards (K,), and after_norm, before_norm (K, H), the two last hidden states.

    Raises: ModelError when a reward is not finite."""
    was_training = model.training
    model.eval()
    results: list = [None] * len(token_groups)
    for run in micro_batches([count_tokens(t) for t in token_groups], token_budget):
        packed = pack([token_groups[i] for i in run]).to(model.device)
        after, before = model.last_hidden(packed)
        columns = {"rewards": model.score(after), "after_norm": after, "before_norm": before}
        if not columns["rewards"].isfinite().all():
            raise ModelError("the model's rewards are not finite: it diverged in training; use an "
                             "earlier one, or train with a lower learning rate")
        sizes = [len(token_groups[i]) - 1 for i in run]
        parts = {name: values.cpu().split(sizes) for name, values in columns.items()}
        for position, index in enumerate(run):
            branches = token_groups[index][1:]
            first = [branches.index(b) for b in branches]  # the same answer gets the same reward:
            # in a packed row it would differ in the last bits, and a tie go either way
            results[index] = {name: part[position][first] for name, part in parts.items()}
    model.train(was_training)
    return results


def fitting(model, groups: list[Group], max_length: int | None) -> tuple[list, list[Group]]:
    """Groups with their prompt token_groups, (group, token_group), and the groups that exceed max_length."""
    token_groups = [group_tokens(model.tokenizer, g, max_length) for g in groups]
    pairs = list(zip(groups, token_groups, strict=True))
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
    gold = np.array([g.gold for g, _ in kept])
    metric, per_prompt = agreement(rewards, gold)
    mean, low, high = bootstrap_interval(per_prompt)
    ties = sum(len(set(row)) < len(row) for row in rewards.tolist())
    lengths = np.array([[len(r) for r in g.responses] for g, _ in kept])
    result = {"score": mean, "low": low, "high": high, "metric": metric, "groups": len(kept),
              "dropped": len(too_long), "undecided": len(fit) - len(kept), "tied": ties,
              "pooled_tau": kendall_tau_b(rewards.ravel(), gold.ravel()).item(),
              "length_score": float(agreement(lengths, gold)[1].mean()),
              "per_prompt": per_prompt.tolist(), "rewards": rewards.astype(float).round(4).tolist(),
              "gold": gold.astype(float).round(4).tolist()}
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


def summary(results: dict[str, dict]) -> str:
    """Markdown table of named evaluations."""
    lines = ["| set | metric | score | 95% interval (prompts) | pooled tau | sets | dropped | "
             "undecided | tied |", "|---" * 9 + "|"]
    for name, r in results.items():
        lines.append(f"| {name} | {r['metric']} | {r['score']:.3f} | {r['low']:.3f} to "
                     f"{r['high']:.3f} | {r['pooled_tau']:.3f} | {r['groups']} | {r['dropped']} | "
                     f"{r['undecided']} | {r['tied']} |")
    return "\n".join(lines)


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


def evaluate_rm_bench(model, groups: list[Group], *, max_length: int | None = None,
                      token_budget: int = 4096) -> dict:
    """RM-Bench scores (`metrics.rm_bench_scores`) of `data.rm_bench` groups, all six answers of a
    prompt in one token_group; groups and dropped (over max_length) per domain, and the accuracy matrices.

    Raises: DataError when nothing is left or a domain is unknown.
    """
    rewards: dict[str, list] = {}
    kept, too_long = fitting(model, groups, max_length)
    if not kept:
        raise DataError(f"all {len(groups)} RM-Bench prompts exceed max_length {max_length}")
    scored = score_tokens(model, [t for _, t in kept], token_budget)
    for (group, _), s in zip(kept, scored, strict=True):
        rewards.setdefault(group.split, []).append(s["rewards"].view(2, 3).numpy())
    wins = {domain: (np.stack(r)[:, 0, :, None] > np.stack(r)[:, 1, None, :]).mean(0)
            for domain, r in rewards.items()}  # (P, chosen style, rejected style) -> (3, 3)
    try:
        scores = rm_bench_scores(wins)
    except ValueError as error:
        raise DataError(str(error)) from error
    return {"metric": "rm_bench", **scores, "groups": {d: len(r) for d, r in rewards.items()},
            "dropped": dict(Counter(g.split for g in too_long)),
            "matrices": {d: w.tolist() for d, w in wins.items()}}


def rm_bench_table(result: dict) -> str:
    """Markdown in the order of the paper's Table 2."""
    columns = [c for c in ("chat", "math", "code", "safety-refuse", "safety-response", "safety",
                           "hard", "normal", "easy", "overall") if c in result]
    lines = ["| RM-Bench | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|",
             "| accuracy | " + " | ".join(f"{result[c]:.3f}" for c in columns) + " |", "",
             f"Prompts: {result['groups']}; dropped as too long: {result['dropped'] or 'none'}."]
    if "overall" not in result:
        lines.append("No overall score: it is the mean of all four domains.")
    return "\n".join(lines)


def read_any(data: str, format: str, split: str | None) -> dict[str, list[Group]]:
    """Ranking sets of any format by name: of a file, those rows that carry `split` where one is
    named; RewardBench by subset; sets of different sizes apart."""
    name = Path(data).name
    if format in PAIR_FORMATS:
        pairs = read_pairs(data, format, split or "train")
        named: dict[str, list[Group]] = {}
        for pair, group in zip(pairs, pairs_as_groups(pairs), strict=True):
            named.setdefault(f"{name}: {pair.subset}" if pair.subset else name, []).append(group)
        return named | ({f"{name}: all": pairs_as_groups(pairs)} if len(named) > 1 else {})
    groups = read_groups(data, format, split or "train")
    if split and Path(data).is_file():
        groups = [g for g in groups if g.split == split]
        if not groups:
            raise DataError(f"{data}: no row carries the split {split!r}")
    sizes = sorted({len(g.responses) for g in groups})
    return {f"{name} (K={k})": [g for g in groups if len(g.responses) == k] for k in sizes}


def check_output(path: Path) -> None:
    """Make the folder of --output.  Raises: DataError before anything is loaded."""
    if path.suffix != ".json" or path.is_dir():
        raise DataError(f"--output {path}: name a file that ends in .json; the table is written "
                        "beside it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"--output {path}: its folder cannot be made ({error})") from error


def read_named(args) -> dict[str, list[Group]]:
    """The sets that the command line asks for, by the name of their row in the table."""
    local = [d for d in (args.data or [args.rm_bench]) if Path(d).exists()]
    if args.split and local and (args.rm_bench or args.format not in ("pocket", "judged")):
        raise DataError(f"--split selects rows of pocket and judged files alone: {local[0]} would "
                        "be scored whole; leave it out, or filter the file")
    if args.rm_bench:
        return {"rm_bench": read_groups(args.rm_bench, "rm_bench", args.split or "train")}
    parts = [part for data in args.data for part in read_any(data, args.format, args.split).items()]
    named = dict(parts)
    if len(named) < len(parts):
        raise DataError(f"two of {args.data} have the same name: rename one, or score them "
                        "apart")
    return named


def main(argv: list[str] | None = None) -> None:
    args = parser("eval_rm").parse_args(argv)
    if args.output:
        check_output(Path(args.output))
    named = read_named(args)
    from .models import load_reward_model
    model = load_reward_model(args.model)
    if model.meta["new_head"]:
        raise ModelError(f"{args.model} has no reward head: its rewards would be noise; train one "
                         "with bsr_lite.train_rm")
    options = {"max_length": args.max_length, "token_budget": args.token_budget}
    results = {}
    for name, groups in named.items():
        try:
            score = evaluate_rm_bench if args.rm_bench else evaluate
            results[name] = score(model, groups, **options)
        except DataError as error:
            print(f"{name}: {error}")
    if not results:
        raise DataError("no set could be scored")
    table = rm_bench_table(results["rm_bench"]) if args.rm_bench else summary(results)
    print(table)
    if args.output:
        write_atomic(Path(args.output), json.dumps(results, indent=1) + "\n")
        write_atomic(Path(args.output).with_suffix(".md"), table + "\n")


if __name__ == "__main__":
    try:
        main()
    except (DataError, ModelError) as error:
        sys.exit(f"error: {error}")
