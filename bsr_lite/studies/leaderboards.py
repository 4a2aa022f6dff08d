"""Readers and scores of public benchmarks: RM-Bench, RewardBench, the paper's validation sets."""

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np

from ..data import Group, column, convert, new_group, read_rows, text, trl_pair
from ..errors import DataError
from ..eval_rm import fitting, score_tokens
from ..scenarios import pairs_as_groups
from .tables import table

RM_BENCH_DOMAINS = {"chat": ("chat",), "math": ("math",), "code": ("code",),
                    "safety": ("safety-refuse", "safety-response")}
RM_BENCH_PARTS = [part for parts in RM_BENCH_DOMAINS.values() for part in parts]


# ---- readers -------------------------------------------------------------------------------------

def reward_bench(row: dict) -> Group:
    """RewardBench: TRL's columns with `subset`, kept as the group's split."""
    subset = text(column(row, "subset"), "subset")
    return dataclasses.replace(pairs_as_groups([trl_pair(row)])[0], split=subset)


def robustness(row: dict) -> Group:
    """The paper's validation sets: `instruction, response_1_text..response_4_text, all_scores`; the
    in-domain one, of pairs, `chosen, rejected`."""
    if "response_1_text" not in row and "chosen" in row:
        return pairs_as_groups([trl_pair(row)])[0]
    names = [f"response_{i}" for i in range(1, 5)]
    texts = [column(row, f"{name}_text") for name in names]
    return new_group(column(row, "instruction"), texts, column(row, "all_scores"), names)


def rm_bench(row: dict) -> Group:
    """RM-Bench: `chosen[3], rejected[3]` in the order concise, detailed, Markdown; `domain`, kept
    as the group's split."""
    chosen, rejected = column(row, "chosen"), column(row, "rejected")
    if not all(isinstance(side, list) and len(side) == 3 for side in (chosen, rejected)):
        raise ValueError("chosen and rejected must be lists of three styles each")
    domain = row.get("domain") or column(row, "subset")
    if domain not in RM_BENCH_PARTS:
        raise ValueError(f"unknown RM-Bench domain {domain!r}; expected "
                         f"{', '.join(RM_BENCH_PARTS)}")
    models = [f"{kind}-{style}" for kind in ("chosen", "rejected")
              for style in ("concise", "detailed", "markdown")]
    return new_group(column(row, "prompt"), chosen + rejected, [1] * 3 + [0] * 3, models, domain)


READERS = {"reward_bench": reward_bench, "robustness": robustness, "rm_bench": rm_bench}


def read_benchmark(source: str, format: str, split: str = "train") -> list[Group]:
    """All ranking sets of a benchmark.  Raises: DataError naming file, row and fix."""
    return convert(source, read_rows(source, split), READERS[format])


def read_sets(source: str, format: str, split: str) -> list[tuple[str, list[Group]]]:
    """What is scored apart: a file, or RewardBench's subsets and all of them. RM-Bench has one
    score of all its domains."""
    groups, name = read_benchmark(source, format, split), Path(source).name
    if format == "rm_bench":
        return [(format, groups)]
    named = [(f"{name}: {subset}" if subset else name, [g for g in groups if g.split == subset])
             for subset in dict.fromkeys(g.split for g in groups)]
    return [*named, (f"{name}: all", groups)] if len(named) > 1 else named


# ---- RM-Bench ------------------------------------------------------------------------------------

def rm_bench_scores(wins: dict[str, np.ndarray]) -> dict[str, float]:
    """RM-Bench from accuracy matrices: wins[domain][i, j] is the share of prompts whose chosen
    answer in style i beats (strictly) the rejected one in style j; styles concise, detailed,
    Markdown.

    Per domain hard = mean above the diagonal (a plainer chosen answer against a fancier rejected
    one), normal = the diagonal, easy = below it, and the domain's score is the mean of the three.
    Safety averages safety-refuse and safety-response. hard, normal, easy and overall are
    unweighted means over the four domains, absent unless all are there.
    Shapes: (3, 3) each -> scores in [0, 1].  Raises: ValueError for an unknown domain.
    """
    if unknown := sorted(set(wins) - set(RM_BENCH_PARTS)):
        raise ValueError(f"unknown RM-Bench domains {unknown}; expected {sorted(RM_BENCH_PARTS)}")
    above = np.triu(np.ones((3, 3)), 1)
    cells = {"hard": above / 3, "normal": np.eye(3) / 3, "easy": above.T / 3}
    domains = {domain: np.mean([wins[part] for part in parts], axis=0)
               for domain, parts in RM_BENCH_DOMAINS.items() if set(parts) <= set(wins)}
    levels = {name: {level: float((matrix * weights).sum()) for level, weights in cells.items()}
              for name, matrix in (wins | domains).items()}  # halves of a domain, too
    scores = {name: float(np.mean(list(found.values()))) for name, found in levels.items()}
    if len(domains) == len(RM_BENCH_DOMAINS):
        scores |= {level: float(np.mean([levels[d][level] for d in domains])) for level in cells}
        scores["overall"] = float(np.mean([scores[d] for d in domains]))
    return scores


def evaluate_rm_bench(model, groups: list[Group], *, max_length: int | None = None,
                      token_budget: int = 4096) -> dict:
    """`rm_bench_scores` of a model, all six answers to a prompt in one token group; groups and
    dropped (over max_length) per domain, and the accuracy matrices.

    Raises: DataError when nothing is left.
    """
    kept, too_long = fitting(model, groups, max_length)
    if not kept:
        raise DataError(f"all {len(groups)} RM-Bench prompts exceed max_length {max_length}")
    scored = score_tokens(model, [tokens for _, tokens in kept], token_budget)
    rewards = np.stack([s["rewards"].numpy() for s in scored]).reshape(-1, 2, 3)  # chosen first
    beaten = rewards[:, 0, :, None] > rewards[:, 1, None, :]  # (P, chosen style, rejected style)
    domains = np.array([group.split for group, _ in kept])
    wins = {domain: beaten[domains == domain].mean(0) for domain in dict.fromkeys(domains)}
    return {"metric": "rm_bench", **rm_bench_scores(wins), "groups": dict(Counter(domains)),
            "dropped": dict(Counter(group.split for group in too_long)),
            "matrices": {domain: shares.tolist() for domain, shares in wins.items()}}


def rm_bench_table(results: dict[str, dict]) -> str:
    """In the order of the paper's Table 2."""
    (result,) = results.values()
    columns = [c for c in ("chat", "math", "code", "safety-refuse", "safety-response", "safety",
                           "hard", "normal", "easy", "overall") if c in result]
    found = [table(["RM-Bench", *columns], [["accuracy", *(f"{result[c]:.3f}" for c in columns)]]),
             f"\nPrompts: {result['groups']}; dropped as too long: {result['dropped'] or 'none'}."]
    if "overall" not in result:
        found.append("No overall score: it is the mean of all four domains.")
    return "\n".join(found)
