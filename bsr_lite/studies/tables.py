"""Tables of a study: scores with paired differences, reward statistics, calibration."""

import numpy as np

from ..metrics import bootstrap_interval, calibration, detectable, kendall_tau_b, two_way_interval


def summarize(results: list[tuple[str, dict]]) -> dict:
    """table[method][scenario] of (method, run's evaluation) in the order of seeds: mean and 95%
    interval, the paired difference to the first method with its interval and the difference that
    could have been detected, dispersion means, and `reward_controls` where rewards were kept."""
    methods = list(dict.fromkeys(method for method, _ in results))
    runs = {m: [r for name, r in results if name == m] for m in methods}
    table: dict = {method: {} for method in methods}
    for scenario in results[0][1]["scenarios"]:
        cells = {m: [r["scenarios"][scenario] for r in runs[m]] for m in methods}
        per_prompt = {m: np.array([c["per_prompt"] for c in cells[m]]) for m in methods}
        temperature = results[0][1]["config"]["data"]["label_temperature"]
        for method, mine in cells.items():
            mean, low, high = interval(per_prompt[method])
            delta = interval(per_prompt[method] - per_prompt[methods[0]])
            table[method][scenario] = {
                "metric": mine[0]["metric"], "groups": mine[0]["groups"], "mean": mean,
                "low": low, "high": high, "seeds": [c["score"] for c in mine],
                "difference": delta, "detectable": detectable(*delta[1:]),
                "dropped": mine[0]["dropped"], "tied": sum(c["tied"] for c in mine),
                "between": mean_of(mine, "between_prompts"),
                "within": mean_of(mine, "within_prompts"),
                "effective_rank": mean_of(mine, "effective_rank_after"),
                **{name: mean_of(mine, name) for name in (
                    "pooled_tau", "reward_mean", "length_score") if name in mine[0]},
                **{f"{kind}_{stat}": float(np.mean([c[kind][stat] for c in mine]))
                   for kind in ("norm_before", "norm_after", "difference_after")
                   for stat in ("mean", "cv", "skew")},
                **reward_controls(mine, cells[methods[0]], temperature)}
    return table


def mean_of(cells: list[dict], name: str) -> float:
    return float(np.mean([c[name] for c in cells]))


def interval(per_prompt: np.ndarray) -> tuple[float, float, float]:
    """Mean and 95% interval of (seeds, prompts): over both from three seeds on, else over prompts
    alone."""
    if len(per_prompt) < 3:
        return bootstrap_interval(per_prompt)
    return two_way_interval(per_prompt)[:3]


def pair_margins(cell: dict, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Margins of all pairs of answers to one prompt, and the probability with which a label would
    prefer the first of the two: sigmoid of the gold difference over the temperature."""
    rewards, gold = np.array(cell["rewards"]), np.array(cell["gold"])
    i, j = np.triu_indices(rewards.shape[1], 1)
    with np.errstate(over="ignore"):
        difference = (gold[:, i] - gold[:, j]).ravel()
        labels = (1 / (1 + np.exp(-difference / temperature)) if temperature
                  else (np.sign(difference) + 1) / 2)
    return (rewards[:, i] - rewards[:, j]).ravel(), labels


def reward_controls(cells: list[dict], first: list[dict], temperature: float) -> dict:
    """What may differ without one answer changing its rank: tau pooled over prompts after every
    prompt is centred, calibration of sigmoid(margin), and the control `rescaled_nll`: that of the
    first method's margins when rescaled, seed by seed, to this method's spread within prompts.
    Means over seeds; empty for runs that kept no rewards."""
    if not all("rewards" in cell for cell in cells + first):
        return {}
    found = []
    for cell, other in zip(cells, first, strict=True):
        rewards, gold = np.array(cell["rewards"]), np.array(cell["gold"])
        centred = rewards - rewards.mean(1, keepdims=True)
        spread, base = (np.array(c["rewards"]).std(1).mean() for c in (cell, other))
        margins, labels = pair_margins(other, temperature)
        scale = spread / base if base else 0.0
        found.append({**calibration(*pair_margins(cell, temperature)),
                      "rescaled_nll": calibration(margins * scale, labels)["nll"],
                      "pooled_centred": kendall_tau_b(centred.ravel(), gold.ravel()).item()})
    return {name: mean_of(found, name) for name in found[0]}


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


def rows_of(table: dict, columns: dict[str, str]) -> list[str]:
    lines = ["", "| method | scenario | " + " | ".join(columns.values()) + " |",
             "|---" * (len(columns) + 2) + "|"]
    return lines + [f"| {method} | {scenario} | " + " | ".join(f"{c[k]:.3g}" for k in columns)
                    + " |" for method, cells in table.items() for scenario, c in cells.items()]


def markdown(table: dict, seeds: int) -> str:
    """The scores, the dispersion statistics and, where rewards were kept, the controls."""
    methods, first = list(table), next(iter(table.values()))
    over = "seeds and prompts" if seeds > 2 else "prompts (bootstrap; seeds carry none)"
    lines = [f"Mean of {seeds} seeds, 95% intervals over {over}; in brackets the paired "
             f"difference to {methods[0]} and the difference that could have been detected.", "",
             "| method | " + " | ".join(f"{s} ({c['metric']}, n={c['groups']})"
                                        for s, c in first.items()) + " |",
             "|---" * (len(first) + 1) + "|"]
    for method in methods:
        cells = []
        for c in table[method].values():
            delta = "" if method == methods[0] else (
                " [{:+.3f}, {:+.3f} to {:+.3f}; {:.3f}]".format(*c["difference"], c["detectable"]))
            cells.append(f"{c['mean']:.3f} ({c['low']:.3f} to {c['high']:.3f}){delta}")
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    lines += rows_of(table, STATISTICS)
    if all("nll" in c for cells in table.values() for c in cells.values()):
        lines += rows_of(table, CONTROLS)
    return "\n".join(lines) + "\n"


def tiers_markdown(tiers: dict) -> str:
    """Of several studies: every method's paired difference to its study's first one, with the
    95% interval and, in brackets, the difference that could have been detected."""
    lines = ["Paired differences to the first method of each tier with 95% intervals over seeds "
             "and prompts, in brackets the difference that four of five such studies would detect; "
             "significant ones bold.", ""]
    for tier, table in tiers.items():
        first, parts = next(iter(table)), list(next(iter(table.values())))
        lines += [f"| {tier} | " + " | ".join(parts) + " |", "|---" * (len(parts) + 1) + "|"]
        for method, cells in table.items():
            row = []
            for c in cells.values():
                mean, low, high = c["difference"]
                text = f"{mean:+.4f} ({low:+.4f} to {high:+.4f}) [{c['detectable']:.4f}]"
                row.append(f"{c.get('mean', c.get('score')):.3f}" if method == first
                           else f"**{text}**" if low * high > 0 else text)
            lines.append(f"| {method} | " + " | ".join(row) + " |")
        lines.append("")
    return "\n".join(lines)
