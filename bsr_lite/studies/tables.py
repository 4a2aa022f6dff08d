"""Tables of a study: scores with paired differences, reward statistics."""

from collections.abc import Callable

import numpy as np

from ..runlog import flat
from .statistics import interval


def table(header: list[str], rows: list[list]) -> str:
    """A table in Markdown. A name with a line break or a bar in it stays in its cell.

    >>> print(table(["set", "score"], [["dev", 0.5]]))
    | set | score |
    |---|---|
    | dev | 0.5 |
    """
    cells = [[" ".join(str(x).splitlines()).replace("|", r"\|") for x in row]
             for row in (header, *rows)]
    first, *lines = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([first, "|---" * len(header) + "|", *lines])


STATISTICS = {"reward_mean": "reward mean", "between": "reward variance between prompts",
              "within": "within prompts", "pooled_tau": "pooled tau",
              "norm_before_mean": "norm before final norm", "norm_before_cv": "its cv",
              "norm_after_mean": "norm after", "norm_after_cv": "its cv",
              "difference_after_mean": "norm of difference", "difference_after_skew": "its skew",
              "effective_rank": "effective rank", "tied": "tied sets"}
MEANS = {"between": "between_prompts", "within": "within_prompts",
         "effective_rank": "effective_rank_after",
         **{name: name for name in ("pooled_tau", "reward_mean", "length_score")},
         **{f"{kind}_{statistic}": f"{kind}/{statistic}"
            for kind in ("norm_before", "norm_after", "difference_after")
            for statistic in ("mean", "cv", "skew")}}


def summarize(runs: dict[str, list[dict]], clusters: dict[str, list] | None = None) -> dict:
    """summary[method][scenario] of evaluations by method, in the order of seeds: mean and 95%
    interval, the paired difference to the first method with its interval, and dispersion means.
    Sets of one of `clusters` are drawn together."""
    first, (run, *_) = next(iter(runs.items()))
    found: dict = {method: {} for method in runs}
    for scenario in run["scenarios"]:
        cells = {m: [flat(r["scenarios"][scenario]) for r in mine] for m, mine in runs.items()}
        scores = {m: np.array([c["per_prompt"] for c in mine]) for m, mine in cells.items()}
        for method, mine in cells.items():
            alike = (clusters or {}).get(scenario)
            mean, low, high = interval(scores[method], alike)
            found[method][scenario] = {
                "metric": mine[0]["metric"], "groups": mine[0]["groups"], "mean": mean,
                "low": low, "high": high, "seeds": [c["score"] for c in mine],
                "difference": interval(scores[method] - scores[first], alike),
                "clusters": alike and len(set(alike)),
                "dropped": mine[0]["dropped"], "tied": sum(c["tied"] for c in mine),
                **{name: float(np.mean([c[key] for c in mine])) for name, key in MEANS.items()
                   if key in mine[0]}}
    return found


def shown(values, form: str = ".3f") -> str:
    """An interval: mean (low to high); the mean alone where it has none.

    >>> shown((0.5, 0.25, 0.75), "+.2f")
    '+0.50 (+0.25 to +0.75)'
    """
    mean, low, high = values
    text = format(mean, form)
    return text if low is None else f"{text} ({format(low, form)} to {format(high, form)})"


def columns_table(summary: dict, columns: dict[str, str]) -> str:
    """One row a method and scenario; columns that the runs did not keep are left out."""
    cells = [(method, part, c) for method, parts in summary.items() for part, c in parts.items()]
    kept = {key: name for key, name in columns.items() if all(key in c for *_, c in cells)}
    return table(["method", "scenario", *kept.values()],
                 [[method, part, *(f"{c[key]:.3g}" for key in kept)]
                  for method, part, c in cells])


def methods_table(header: list[str], summary: dict, cell: Callable[[dict, bool], str]) -> str:
    """One row a method: cell(numbers, is it the first method) of each of its scenarios."""
    first = next(iter(summary))
    return table(header, [[method, *(cell(c, method == first) for c in parts.values())]
                          for method, parts in summary.items()])


def multiplicity(summary: dict) -> str:
    """How many differences are beyond their intervals, and how many would be if none were real."""
    cells = [c["difference"] for parts in list(summary.values())[1:] for c in parts.values()]
    beyond = sum(low * high > 0 for _, low, high in cells)
    return (f"{beyond} of {len(cells)} differences exclude zero; {0.05 * len(cells):.1f} would by "
            "chance alone.")


def in_words(what: str, seeds: int, table: dict) -> str:
    """Three sentences: what was trained, what differs from the first method beyond its interval,
    and what is undecided.  table[method][set]["difference"]: mean, low, high."""
    first, *others = table
    cells = {(name, part.replace("_", "-")): cell["difference"]
             for name in others for part, cell in table[name].items()}
    rest = {key: d for key, d in cells.items() if d[1] * d[2] <= 0}
    beyond = "; ".join(f"{name} on {part} {shown(cells[name, part], '+.3f')}"
                       for name, part in cells if (name, part) not in rest)
    undecided = "; ".join(f"{name} on {', '.join(part for n, part in rest if n == name)}"
                          for name in dict.fromkeys(name for name, _ in rest))
    ends = [end for d in rest.values() for end in d[1:]]
    within = f" (intervals from {min(ends):+.3f} to {max(ends):+.3f})" if rest else ""
    return (f"Trained: {what} by {', '.join(table)}, {seeds} seeds each, on the same pairs in the "
            f"same order.\nDiffers from {first} beyond its 95% interval: {beyond or 'nothing'} (of "
            f"{len(cells)}, {0.05 * len(cells):.1f} would by chance alone).\nUndecided, which is "
            f"not the same as equal: {undecided or 'nothing'}{within}.")


def scores_text(summary: dict, seeds: int, unit: str = "topics") -> str:
    """What the scores are means of, and their table; `unit` is what clusters of sets are."""
    first, parts = next(iter(summary.items()))
    units = unit if all(c["clusters"] for c in parts.values()) else "prompts"
    over = f"seeds and {units}" if seeds > 2 else f"{units} (bootstrap; seeds carry none)"

    def cell(c: dict, is_first: bool) -> str:
        score = shown((c["mean"], c["low"], c["high"]))
        return score if is_first else f"{score}; {shown(c['difference'], '+.3f')}"

    header = [f"{part} ({c['metric']}, n={c['groups']})" for part, c in parts.items()]
    return (f"Mean of {seeds} seeds, 95% intervals over {over}; then the paired difference to "
            f"{first}. {multiplicity(summary)}\n\n"
            + methods_table(["method", *header], summary, cell))


def study_text(summary: dict, seeds: int) -> str:
    """The scores and the dispersion statistics."""
    return f"{scores_text(summary, seeds)}\n\n{columns_table(summary, STATISTICS)}\n"


def worlds_text(worlds: dict) -> str:
    """New sources in every world, all sets in the first, and what dispersed there under BT."""
    def cells(world: dict, part: str) -> list[str]:
        base, *others = world["objectives"].values()
        differences = [row["difference"] for row in others] + list(world["level_term"].values())
        return [f"{base['score'][part]:.3f}",
                *("{:+.3f} ± {:.3f}".format(*difference[part]) for difference in differences)]

    name, first = next(iter(worlds.items()))
    sets = list(next(iter(first["objectives"].values()))["score"])
    rows = [*first["objectives"], *first["level_term"]]
    new, every = ([list(row) for row in zip(rows, *columns, strict=True)]
                  for columns in ([cells(w, "response_disjoint") for w in worlds.values()],
                                  [cells(first, part) for part in sets]))
    ends = "; ".join(f"{what} {curve[0][0]:.2f} to {curve[-1][0]:.2f}" for what, curve in (
        ("mean |h_w - h_l|", first["course"]["difference"]), ("|W_p|", first["course"]["head"]),
        ("coefficient of variation of |h|", first["course"]["norm_cv"])))
    return ("Tau on new sources (response-disjoint): BT's, and differences to it, 95% over seeds"
            f"\n\n{table(['objective', *worlds], new)}\n\nAll sets in the world `{name}`; BT there:"
            f" {ends}\n\n{table(['objective', *sets], every)}\n")


def rank_correlation(x, y) -> float:
    """Spearman's; equal values share their mean rank.

    >>> round(rank_correlation([1.0, 2.0, 2.0, 3.0], [1.0, 4.0, 4.0, 9.0]), 6)
    1.0
    """
    ranks = [np.searchsorted(s, v, "left") + np.searchsorted(s, v, "right")
             for v, s in ((np.array(v), np.sort(v)) for v in (x, y))]
    return float(np.corrcoef(*ranks)[0, 1])


def foretold(table: dict) -> dict[str, list[tuple]]:
    """Of a linear study, (objective, part, predicted, mean, low, high) of every penalty's
    difference to BT, by world."""
    return {world: [(name, part, c["predicted"], *c["difference"])
                    for name, parts in list(objectives.items())[1:] for part, c in parts.items()]
            for world, objectives in table.items()}


def fit_cell(c: dict, is_first: bool) -> str:
    return (f"{c['score']:.3f}" if is_first
            else f"{shown(c['difference'], '+.3f')} [{c['predicted']:+.3f}]")


def linear_text(results: dict) -> str:
    """Per world and set: BT's score beside its prediction, the rank correlation of predicted and
    seen differences, how many that exclude zero have the predicted sign, and in how many intervals
    the prediction lies."""
    def agree(rows: list[tuple]) -> list[str]:
        decided = [row for row in rows if row[4] * row[5] > 0]
        right = sum(row[2] * row[3] > 0 for row in decided)
        correlation = rank_correlation(*zip(*[row[2:4] for row in rows], strict=True))
        inside = sum(low <= told <= high for _, _, told, _, low, high in rows)
        return [f"{correlation:.2f}", f"{right} of {len(decided)}", f"{inside} of {len(rows)}"]

    worlds = foretold(results)
    lines = [[world, part, f"{c['score']:.3f}", f"{c['predicted_score']:.3f}",
              *agree([row for row in rows if row[1] == part])]
             for world, rows in worlds.items() for part, c in results[world]["bt"].items()]
    lines.append(["all", "", "", "", *agree([row for rows in worlds.values() for row in rows])])
    header = ["world", "set", "BT", "BT as foretold", "rank correlation", "sign right", "inside"]
    return ("Exact fits of a linear head against linear theory. BT's score and the one foretold; "
            "Spearman's correlation of foretold and fitted differences to BT over penalties and "
            "lambdas; of the differences whose 95% interval (over new training pairs and sets, by "
            "topic) leaves zero out, those with the foretold sign; of all, those whose interval "
            f"holds the foretold one.\n\n{table(header, lines)}\n\n"
            "Every difference to BT, and in brackets the foretold one:\n\n" + "\n\n".join(
                methods_table([world, *next(iter(objectives.values()))], objectives, fit_cell)
                for world, objectives in results.items()) + "\n")
