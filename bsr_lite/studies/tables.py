"""Tables of a study: scores with paired differences, reward statistics, controls."""

import numpy as np

from .statistics import detectable, interval, mean_of, reward_controls


def table(header: list[str], rows: list[list]) -> str:
    """A table in Markdown.

    >>> print(table(["set", "score"], [["dev", 0.5]]))
    | set | score |
    |---|---|
    | dev | 0.5 |
    """
    first, *lines = [f"| {' | '.join(map(str, row))} |" for row in (header, *rows)]
    return "\n".join([first, "|---" * len(header) + "|", *lines])


STATISTICS = {
    "reward_mean": "reward mean", "between": "reward variance between prompts",
    "within": "within prompts", "pooled_tau": "pooled tau",
    "norm_before_mean": "norm before final norm", "norm_before_cv": "its cv",
    "norm_after_mean": "norm after", "norm_after_cv": "its cv",
    "difference_after_mean": "norm of difference", "difference_after_skew": "its skew",
    "effective_rank": "effective rank", "tied": "tied sets"}
CONTROLS = {
    "pooled_tau": "pooled tau", "pooled_centred": "after centring each prompt",
    "nll": "nll of sigmoid(margin)", "rescaled_nll": "of the first method at this spread",
    "best_nll": "at the best scale", "scale": "that scale", "ece": "calibration error"}
MEANS = {"between": "between_prompts", "within": "within_prompts",
         "effective_rank": "effective_rank_after",
         **{name: name for name in ("pooled_tau", "reward_mean", "length_score")}}


def summarize(results: list[tuple[str, dict]]) -> dict:
    """summary[method][scenario] of (method, run's evaluation) in the order of seeds: mean and 95%
    interval, the paired difference to the first method with its interval and the difference that
    could have been detected, dispersion means, and `reward_controls` where rewards were kept."""
    runs: dict[str, list[dict]] = {}
    for method, result in results:
        runs.setdefault(method, []).append(result)
    first, temperature = results[0][0], results[0][1]["config"]["data"]["label_temperature"]
    found: dict = {method: {} for method in runs}
    for scenario in results[0][1]["scenarios"]:
        cells = {m: [r["scenarios"][scenario] for r in mine] for m, mine in runs.items()}
        scores = {m: np.array([c["per_prompt"] for c in mine]) for m, mine in cells.items()}
        for method, mine in cells.items():
            mean, low, high = interval(scores[method])
            difference = interval(scores[method] - scores[first])
            found[method][scenario] = {
                "metric": mine[0]["metric"], "groups": mine[0]["groups"], "mean": mean,
                "low": low, "high": high, "seeds": [c["score"] for c in mine],
                "difference": difference, "detectable": detectable(*difference[1:]),
                "dropped": mine[0]["dropped"], "tied": sum(c["tied"] for c in mine),
                **{name: mean_of(mine, key) for name, key in MEANS.items() if key in mine[0]},
                **{f"{kind}_{stat}": float(np.mean([c[kind][stat] for c in mine]))
                   for kind in ("norm_before", "norm_after", "difference_after")
                   for stat in ("mean", "cv", "skew") if kind in mine[0]},
                **reward_controls(mine, cells[first], temperature)}
    return found


def shown(values, form: str = ".3f") -> str:
    """An interval: mean (low to high).

    >>> shown((0.5, 0.25, 0.75), "+.2f")
    '+0.50 (+0.25 to +0.75)'
    """
    mean, low, high = (format(value, form) for value in values)
    return f"{mean} ({low} to {high})"


def columns_table(summary: dict, columns: dict[str, str], form: str = ".3g") -> str:
    """One row a method and scenario; columns that the runs did not keep are left out."""
    cells = [(method, part, c) for method, parts in summary.items() for part, c in parts.items()]
    kept = {key: name for key, name in columns.items() if all(key in c for *_, c in cells)}
    return table(["method", "scenario", *kept.values()],
                 [[method, part, *(format(c[key], form) for key in kept)]
                  for method, part, c in cells])


def study_text(summary: dict, seeds: int) -> str:
    """The scores, the dispersion statistics and, where rewards were kept, the controls."""
    first, parts = next(iter(summary.items()))
    over = "seeds and prompts" if seeds > 2 else "prompts (bootstrap; seeds carry none)"
    scores = table(
        ["method", *(f"{part} ({c['metric']}, n={c['groups']})" for part, c in parts.items())],
        [[method, *(shown((c["mean"], c["low"], c["high"])) + (
            "" if method == first else f" [{shown(c['difference'], '+.3f')}; {c['detectable']:.3f}]"
        ) for c in cells.values())] for method, cells in summary.items()])
    controls = columns_table(summary, CONTROLS) if "nll" in next(iter(parts.values())) else ""
    return "\n\n".join([
        f"Mean of {seeds} seeds, 95% intervals over {over}; in brackets the paired difference to "
        f"{first} and the difference that could have been detected.", scores,
        columns_table(summary, STATISTICS), controls]).strip() + "\n"


def tiers_text(tiers: dict) -> str:
    """Of several studies: every method's paired difference to its study's first one, with the
    95% interval and, in brackets, the difference that could have been detected."""
    def cell(c: dict, is_first: bool) -> str:
        if is_first:
            return f"{c.get('mean', c.get('score')):.3f}"
        _, low, high = c["difference"]
        text = f"{shown(c['difference'], '+.4f')} [{c['detectable']:.4f}]"
        return f"**{text}**" if low * high > 0 else text

    found = ["Paired differences to the first method of each tier with 95% intervals over seeds "
             "and prompts, in brackets the difference that four of five such studies would detect; "
             "significant ones bold."]
    for tier, summary in tiers.items():
        first, parts = next(iter(summary.items()))
        found.append(table([tier, *parts], [
            [method, *(cell(c, method == first) for c in cells.values())]
            for method, cells in summary.items()]))
    return "\n\n".join(found) + "\n"
