"""Readers and scores of public benchmarks: RM-Bench, RewardBench and its second version, the
paper's validation sets; and of two that people labelled, LLMBar and PandaLM's test set."""

import dataclasses
import re
from collections import Counter
from pathlib import Path

import numpy as np

from ..data import Dropped, Group, column, convert, new_group, read_rows, text, trl_pair
from ..errors import DataError
from ..eval_rm import fitting, score_tokens
from ..scenarios import pairs_as_groups, prompt_key
from .tables import table

RM_BENCH_DOMAINS = {"chat": ("chat",), "math": ("math",), "code": ("code",),
                    "safety": ("safety-refuse", "safety-response")}
RM_BENCH_PARTS = [part for parts in RM_BENCH_DOMAINS.values() for part in parts]
RM_BENCH_SUBSETS = {"alpacaeval": "chat", "bigcode/humanevalpack": "code",
                    "refusals-dangerous": "safety-refuse", "refusals-offensive": "safety-refuse",
                    "xstest-should-refuse": "safety-refuse",
                    "xstest-should-respond": "safety-response"}
REWARD_BENCH_2_SUBSETS = ("Factuality", "Precise IF", "Math", "Safety", "Focus", "Ties")


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
    return new_group(column(row, "instruction"), texts, column(row, "all_scores"), names,
                     row=row)


def rm_bench_domain(row: dict, source: str) -> str:
    """`domain`, as total_dataset.json has it; in a file of one domain the start of its name, such
    as math_filtered.json; else the domain that the row's `subset` is of."""
    named, subset = re.split("[_.]", Path(source).name)[0], row.get("subset")
    domain = row.get("domain") or (named if named in RM_BENCH_PARTS else
                                   RM_BENCH_SUBSETS.get(str(subset), subset))
    if domain not in RM_BENCH_PARTS or RM_BENCH_SUBSETS.get(str(subset), domain) != domain:
        raise ValueError(f"unknown RM-Bench domain {domain!r} of the subset {subset!r}: give the "
                         f"row a domain ({', '.join(RM_BENCH_PARTS)}), or start the file's name "
                         "with it, as in math_filtered.json")
    return domain


def rm_bench(row: dict, source: str = "") -> Group:
    """RM-Bench: `chosen[3], rejected[3]` in the order concise, detailed, Markdown; the domain is
    kept as the group's split."""
    chosen, rejected = column(row, "chosen"), column(row, "rejected")
    if not all(isinstance(side, list) and len(side) == 3 for side in (chosen, rejected)):
        raise ValueError("chosen and rejected must be lists of three styles each")
    models = [f"{kind}-{style}" for kind in ("chosen", "rejected")
              for style in ("concise", "detailed", "markdown")]
    return new_group(column(row, "prompt"), chosen + rejected, [1] * 3 + [0] * 3, models,
                     rm_bench_domain(row, source), row)


def reward_bench_2(row: dict) -> Group:
    """RewardBench 2: lists `chosen` and `rejected`, `subset`, kept as the group's split, and `id`,
    kept in the place of the models; `num_correct` must be the number of chosen answers."""
    chosen, rejected = column(row, "chosen"), column(row, "rejected")
    if not all(isinstance(side, list) and side for side in (chosen, rejected)):
        raise ValueError("chosen and rejected must be lists of at least one answer each")
    right, wrong = len(chosen), len(rejected)
    if (said := row.get("num_correct")) not in (None, right):
        raise ValueError(f"num_correct is {said!r:.40}, but {right} answers are chosen")
    subset, number = text(column(row, "subset"), "subset"), str(column(row, "id"))
    if subset.lower() == "ties" and not re.fullmatch("(ref|tied):[0-9]+", number):
        raise ValueError(f"id of a Ties prompt must be ref:N or tied:N, got {number!r:.40}")
    return new_group(column(row, "prompt"), chosen + rejected, [1] * right + [0] * wrong,
                     [number] * (right + wrong), subset, row)


def voted(row: dict, prompt, names: list, votes, labels: str, models: list, split=None) -> Group:
    """Two answers; gold is 1 for what more than half of the votes (1, 2, or 0 for a tie) prefer, so
    that a tie or no majority is undecided.  Raises: Dropped for an empty answer, ValueError."""
    found = [str(vote) for vote in votes] if isinstance(votes, list) else []
    if not found or not set(found) <= set(labels):
        raise ValueError(f"labels must be {', '.join(labels)}, got {votes!r:.40}")
    answers = [str(a) if isinstance(a, bool) else a for a in (column(row, n) for n in names)]
    if not all(str(answer).strip() for answer in answers):
        raise Dropped("an empty answer")
    gold = [int(2 * found.count(label) > len(found)) for label in "12"]
    return new_group(prompt, answers, gold, models, split, row)


def llmbar(row: dict, source: str = "") -> Group:
    """LLMBar: `input, output_1, output_2, label` in a folder a subset, or `prompt, response_1,
    response_2, label, subset`; the subset is kept as the group's split."""
    prompt, answer = ("input", "output") if "input" in row else ("prompt", "response")
    names = [f"{answer}_{i}" for i in (1, 2)]
    subset = row.get("subset") or "/".join(p for p in Path(source).parts[-3:-1] if p != "LLMBar")
    return voted(row, column(row, prompt), names, [column(row, "label")], "12", names, subset)


def pandalm(row: dict) -> Group:
    """PandaLM's test set: `instruction, input, response1, response2, annotator1..3, cmp_key` or
    `prompt, response_1, response_2, labels, models` (a_b).  Deviation: PandaLM writes instruction
    and input under the headings of Alpaca's template, here a blank line is between them."""
    prompt, names, votes = row.get("prompt"), ["response_1", "response_2"], row.get("labels")
    if "instruction" in row:
        prompt = "\n\n".join(filter(None, (column(row, "instruction"), row.get("input"))))
        names, votes = ["response1", "response2"], [row.get(f"annotator{i}") for i in (1, 2, 3)]
    models = text(row.get("cmp_key") or row.get("models"), "cmp_key or models").split("_")
    return voted(row, prompt, names, votes, "012", models)


READERS = {"reward_bench": reward_bench, "robustness": robustness, "rm_bench": rm_bench,
           "reward_bench_2": reward_bench_2, "llmbar": llmbar, "pandalm": pandalm}


def read_benchmark(source: str, format: str, split: str = "train") -> list[Group]:
    """Ranking sets of a file or LLMBar's folder.  Raises: DataError naming file, row and fix."""
    if format == "llmbar" and (files := sorted(Path(source).rglob("dataset.json"))):
        return [group for file in files for group in read_benchmark(str(file), format)]
    names = {"source": source} if format in ("rm_bench", "llmbar") else {}
    return convert(source, read_rows(source, split), lambda row: READERS[format](row, **names))


def read_board(sources: list[str], format: str, split: str) -> list[Group]:
    """All files of a benchmark that has one score of all its parts, as one.

    Raises: DataError for a prompt that two files hold, and as `read_benchmark`.
    """
    groups, first = [], {}  # (part, prompt) -> number of the file that holds it
    for i, source in enumerate(sources):
        for group in read_benchmark(source, format, split):
            other = first.setdefault((group.split, prompt_key(group.prompt)), i)
            if other != i:
                raise DataError(f"{source} repeats prompts of {sources[other]}, such as "
                                f"{group.prompt[-1]['content'][:60]!r}: leave one of the files out")
            groups.append(group)
    return groups


def read_sets(source: str, format: str, split: str) -> list[tuple[str, list[Group]]]:
    """What is scored apart: a file, or the subsets in it and all of them."""
    groups, name = read_benchmark(source, format, split), Path(source).name
    named = [(f"{name}: {subset}" if subset else name, [g for g in groups if g.split == subset])
             for subset in dict.fromkeys(g.split for g in groups)]
    return [*named, (f"{name}: all", groups)] if len(named) > 1 else named


# ---- scores of a whole benchmark -----------------------------------------------------------------

def score_board(model, groups: list, max_length: int | None, token_budget: int) -> tuple:
    """(groups within max_length, the rewards of each as fp64, prompts and dropped ones by part).

    Raises: DataError when nothing is left.
    """
    kept, too_long = fitting(model, groups, max_length)
    if not kept:
        raise DataError(f"all {len(groups)} prompts exceed max_length {max_length}")
    scored = score_tokens(model, [tokens for _, tokens in kept], token_budget)
    return ([group for group, _ in kept], [s["rewards"].double().numpy() for s in scored],
            {"groups": dict(Counter(group.split for group, _ in kept)),
             "dropped": dict(Counter(group.split for group in too_long))})


# ---- RM-Bench ------------------------------------------------------------------------------------

def rm_bench_scores(wins: dict[str, np.ndarray]) -> dict[str, float]:
    """RM-Bench from accuracy matrices: wins[domain][i, j] is the share of prompts whose chosen
    answer in style i beats (strictly) the rejected one in style j; styles concise, detailed,
    Markdown.

    Per domain hard = mean above the diagonal (a plainer chosen answer against a fancier rejected
    one), normal = the diagonal, easy = below it, and the domain's score is the mean of the three.
    Safety averages safety-refuse and safety-response. hard, normal, easy and overall are
    unweighted means over the four domains, absent unless all are there.
    Source: RM-Bench's README and its scripts/utils.py, compute_accuracy.
    Deviation: that one, given total_dataset.json, pools the 284 and 157 prompts of the two safety
    parts where the mean of the two is taken here.
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
    kept, scored, counts = score_board(model, groups, max_length, token_budget)
    rewards = np.stack(scored).reshape(-1, 2, 3)  # chosen first
    beaten = rewards[:, 0, :, None] > rewards[:, 1, None, :]  # (P, chosen style, rejected style)
    domains = np.array([group.split for group in kept])
    wins = {domain: beaten[domains == domain].mean(0) for domain in counts["groups"]}
    return {"metric": "rm_bench", **rm_bench_scores(wins), **counts,
            "matrices": {domain: shares.tolist() for domain, shares in wins.items()}}


# ---- RewardBench 2 -------------------------------------------------------------------------------

def ties_score(answers: dict[str, list[tuple[float, float]]]) -> float | None:
    """RewardBench 2's score of Ties from answers[id] = [(reward, is it correct), ...].

    Of a prompt, gap = its worst correct reward minus its best wrong one, spread = its best correct
    reward minus its worst. Over all prompts ref:n (one correct answer) and tied:n (several)
    accuracy is the share with gap > 0; over n that has both, with least = min(gap_ref, gap_tied):

        0.3 accuracy_ref + 0.3 accuracy_tied + 0.2 mean(gap_tied > spread_tied)
            + 0.2 mean(least > spread_tied) + 0.01 mean(tanh(least / spread_tied - 1))

    where 0 / 0 counts as 0. At best 1.01.
    Source: rewardbench/utils.py, process_single_model, of allenai/reward-bench.
    Deviation: None where no n has both; there it is NaN.
    """
    gaps, spreads = {}, {}
    for number, pairs in answers.items():
        correct, wrong = ([r for r, is_correct in pairs if is_correct == side] for side in (1, 0))
        gaps[number], spreads[number] = min(correct) - max(wrong), max(correct) - min(correct)
    accuracy = [np.mean([gap > 0 for number, gap in gaps.items() if number.startswith(kind)] or [0])
                for kind in ("ref", "tied")]
    both = [(gaps[ref], gaps[tied], spreads[tied]) for tied in gaps
            if tied.startswith("tied") and (ref := tied.replace("tied", "ref")) in gaps]
    if not both:
        return None
    gap_ref, gap, spread = np.array(both).T  # (n,) each
    least = np.minimum(gap_ref, gap)
    with np.errstate(divide="ignore", invalid="ignore"):
        bonus = np.nan_to_num(np.tanh(least / spread - 1))
    return float(0.3 * sum(accuracy) + 0.2 * np.mean(gap > spread) + 0.2 * np.mean(least > spread)
                 + 0.01 * np.mean(bonus))


def evaluate_reward_bench_2(model, groups: list[Group], *, max_length: int | None = None,
                            token_budget: int = 4096) -> dict:
    """RewardBench 2: scores by subset, and overall, their unweighted mean, absent unless all six
    are there; groups and dropped (over max_length) per subset.

    A prompt scores 1 / m where its first chosen answer has the highest reward, shared by m of its
    answers, and 0 elsewhere; a subset the mean of its prompts; Ties `ties_score`.
    Source: scripts/run_v2.py and rewardbench/utils.py, reroll_and_score_dataset, of
    allenai/reward-bench. The mean over subsets is the dataset card's word, not in that code.
    Deviation: what is over max_length is left out and counted, there it is cut.
    Raises: DataError when nothing is left.
    """
    kept, scored, counts = score_board(model, groups, max_length, token_budget)
    shares, ties = {}, {}
    for group, rewards in zip(kept, scored, strict=True):
        if group.split.lower() == "ties":
            ties.setdefault(group.models[0], []).extend(zip(rewards, group.gold, strict=True))
        else:
            best = rewards == rewards.max()
            shares.setdefault(group.split, []).append(best[0] / best.sum())
    scores = {subset: float(np.mean(found)) for subset, found in shares.items()}
    if (score := ties_score(ties)) is not None:
        scores["Ties"] = score
    result = {"metric": "reward_bench_2", "scores": scores, **counts}
    if set(REWARD_BENCH_2_SUBSETS) <= set(scores):
        result["overall"] = float(np.mean([scores[s] for s in REWARD_BENCH_2_SUBSETS]))
    return result


# ---- tables --------------------------------------------------------------------------------------

BOARDS = {"rm_bench": (evaluate_rm_bench, "RM-Bench", "four domains"),
          "reward_bench_2": (evaluate_reward_bench_2, "RewardBench 2", "six subsets")}


def board_table(results: dict[str, dict]) -> str:
    """One line of scores; those of RM-Bench in the order of the paper's Table 2."""
    ((format, result),) = results.items()
    _, name, whole = BOARDS[format]
    scores = result.get("scores", {}) | {c: result[c] for c in (
        "chat", "math", "code", "safety-refuse", "safety-response", "safety", "hard", "normal",
        "easy", "overall") if c in result}
    found = [table([name, *scores], [["score", *(f"{score:.3f}" for score in scores.values())]]),
             f"\nPrompts: {result['groups']}; dropped as too long: {result['dropped'] or 'none'}."]
    if "overall" not in result:
        found.append(f"No overall score: it is the mean of all {whole}.")
    return "\n".join(found)
