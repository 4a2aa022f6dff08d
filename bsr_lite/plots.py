"""One style for every figure; the only place that imports matplotlib."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_rgb

from .metrics import seed_interval

SIZE = (9.0, 3.6)
COLORS = {"bt": "#4477AA", "bsr": "#EE6677", "centering": "#228833", "hinge": "#CCBB44",
          "norm": "#66CCEE", "dr": "#AA3377", "l2": "#888888"}  # a method has one colour everywhere
SCENARIO_COLORS = {"train": "#000000", "in_domain": "#004488", "prompt_disjoint": "#DDAA33",
                   "response_disjoint": "#BB5566", "mutual_disjoint": "#44AA99"}
plt.rcParams.update({"figure.figsize": SIZE, "axes.spines.top": False, "axes.spines.right": False,
                     "axes.grid": True, "grid.alpha": 0.25, "font.size": 9, "figure.dpi": 100})


def color(method: str, index: int) -> str:
    """A method's colour, by the objective its name starts with."""
    return COLORS.get(method.split("-")[0], f"C{index}")


def shades(methods: list[str]) -> list:
    """A colour for each method; variants of one objective go from full to pale."""
    tints = []
    for i, method in enumerate(methods):
        kin = [m for m in methods if m.split("-")[0] == method.split("-")[0]]
        pale = 0.7 * kin.index(method) / len(kin)
        tints.append([(1 - pale) * c + pale for c in to_rgb(color(method, i))])
    return tints


def panels(columns: int = 1, rows: int = 1, **options):
    """A figure of the one size (rows times as high) and its axes; options go to plt.subplots."""
    return plt.subplots(rows, columns, layout="constrained",
                        figsize=(SIZE[0], SIZE[1] * (0.25 + 0.75 * rows)), **options)


def label(axis, x: str, y: str, title: str) -> None:
    """Axis labels, with their units, and a title."""
    axis.set(xlabel=x, ylabel=y, title=title)


def seed_curves(axis, x, curves, name: str, tint: str) -> None:
    """One curve a seed as a faint line, their mean, and the 95% t interval of the mean.

    Shapes: (T,), (seeds, T).
    """
    curves = np.asarray(curves, dtype=float)
    mean, half = np.array([seed_interval(column) for column in curves.T]).T
    axis.plot(x, curves.T, color=tint, alpha=0.3, linewidth=0.8)
    axis.plot(x, mean, color=tint, label=name)
    if np.isfinite(half).all():
        axis.fill_between(x, mean - half, mean + half, color=tint, alpha=0.12, linewidth=0)


def study_figure(table: dict, path) -> None:
    """Scores of the scenarios by method, and the spread of rewards between and within prompts.

    table[method][scenario]: mean, low, high, seeds (one score each), between, within.
    """
    methods, scenarios = list(table), list(next(iter(table.values())))
    figure, (left, right) = plt.subplots(1, 2, layout="constrained", width_ratios=[1.5, 1])
    tints = shades(methods)
    for axis in (left, right):
        axis.set_xticks(range(len(scenarios)), [s.replace("_", "\n") for s in scenarios])
    for i, method in enumerate(methods):
        offset = (i - (len(methods) - 1) / 2) * 0.8 / len(methods)
        cells = [table[method][s] for s in scenarios]
        x, tint = [j + offset for j in range(len(scenarios))], tints[i]
        mean = [c["mean"] for c in cells]
        error = [[c["mean"] - c["low"] for c in cells], [c["high"] - c["mean"] for c in cells]]
        left.errorbar(x, mean, error, fmt="o", color=tint, capsize=3, label=method)
        for place, c in zip(x, cells, strict=True):
            left.plot([place + 0.08] * len(c["seeds"]), c["seeds"], ".", color=tint, alpha=0.5)
        width = 0.7 / len(methods)
        right.bar(x, [c["between"] for c in cells], width, color=tint, label=method)
        right.bar(x, [c["within"] for c in cells], width, color=tint, alpha=0.4,
                  bottom=[c["between"] for c in cells])
    chance = [0.5 if s == "in_domain" else 0.0 for s in scenarios]
    for place, level in enumerate(chance):
        left.plot([place - 0.45, place + 0.45], [level, level], color="black", linewidth=0.8,
                  label=None if place else "chance")
    left.set_ylabel("accuracy (in domain), Kendall's tau (others)")
    left.set_title("agreement with the gold order, 95% intervals")
    right.margins(y=0.35)  # room for the legend
    right.set_ylabel("variance of rewards (squared reward units)")
    right.set_title("between (full), within (faint) prompts")
    for axis in (left, right):
        axis.tick_params(axis="x", labelsize=7)
    left.legend(fontsize=7)
    right.legend(fontsize=7)
    figure.savefig(path)
    plt.close(figure)


def tiers_figure(tiers: dict, path=None):
    """Every method's difference to its study's first one with its 95% interval, one panel a
    scenario; hollow where the interval holds zero. Saved to `path`, or else returned."""
    parts = [p for p in SCENARIO_COLORS if all(p in next(iter(t.values())) for t in tiers.values())]
    rows = [(tier, method) for tier, table in tiers.items() for method in list(table)[1:]]
    figure, axes = panels(len(parts), sharey=True)
    figure.set_figheight(1.2 + 0.2 * len(rows))
    for axis, part in zip(axes, parts, strict=True):
        axis.axvline(0, color="black", linewidth=0.8)
        for place, (tier, method) in enumerate(rows):
            mean, low, high = tiers[tier][method][part]["difference"]
            tint = color(method, place)
            axis.errorbar(mean, -place, xerr=[[mean - low], [high - mean]], fmt="o", color=tint,
                          markersize=4, markerfacecolor=tint if low * high > 0 else "white")
        metric = tiers[rows[0][0]][rows[0][1]][part]["metric"]
        label(axis, f"difference to BT ({metric})", "", part.replace("_", "-"))
        axis.title.set_fontsize(9)
    axes[0].set_yticks([-i for i in range(len(rows))],
                       [f"{tier.replace('study_', '')}: {method}" for tier, method in rows])
    if path is None:
        return figure
    figure.savefig(path)
    plt.close(figure)


def best_of_n_figure(table: dict):
    """Against the bound of the KL: the proxy's own reward of what it picks, and gold's."""
    figure, (left, right) = panels(2)
    for i, (method, row) in enumerate(table["methods"].items()):
        tint = color(method, i)
        mean, low, high = np.array(row["gold"]).T
        left.plot(table["kl_bound"], row["proxy"], "o-", color=tint, label=method, markersize=3)
        right.plot(table["kl_bound"], mean, "o-", color=tint, label=method, markersize=3)
        right.fill_between(table["kl_bound"], low, high, color=tint, alpha=0.1, linewidth=0)
    for name, style in (("best", ":"), ("shortest", "--")):
        right.plot(table["kl_bound"], table[name], style, color="black", linewidth=1,
                   label={"best": "picked by gold", "shortest": "fewest words"}[name])
    label(left, "bound of KL (nats)", "standard deviations above the mean",
          "what the proxy says of its pick")
    label(right, "bound of KL (nats)", "gold reward (0 to 5)", "what gold says of it")
    right.legend(fontsize=7)
    return figure


def bench_figure(tables: dict, path) -> None:
    """Speed-ups over TRL (ratios, quartiles), and tokens and bytes that the padded layout needs
    beside ours."""
    works = tables["reward models"] | {f"RLOO update, {k}": v for k, v in tables["updates"].items()}
    figure, (left, right) = panels(2, width_ratios=[1.4, 1])
    figure.set_figheight(2.2 + 0.45 * len(works))
    places = -np.arange(len(works))
    for shift, (system, title) in zip((0.12, -0.12), {"trl": "TRL, defaults",
                                                      "trl_best": "TRL, best settings"}.items(),
                                      strict=True):
        mean, low, high = np.array([w[system]["speed_up"] for w in works.values()]).T
        left.errorbar(mean, places + shift, xerr=[mean - low, high - mean], fmt="o", capsize=3,
                      color={"trl": "#BB5566", "trl_best": "#004488"}[system], label=title)
    left.axvline(1, color="black", linewidth=0.8)
    left.set_yticks(places, list(works))
    label(left, "times as fast (median, quartiles)", "", "")
    left.legend(fontsize=7, title="bsr_lite against", loc="lower center", bbox_to_anchor=(0.5, 1.0))
    rows = list(tables["reward models"].items())
    for shift, (title, tint, ratio) in zip((0.22, 0, -0.22), (
            ("computed tokens", "#DDAA33", lambda w: w["trl_best"]["computed_tokens"]),
            ("saved for backward, best settings", "#004488",
             lambda w: w["trl_best"]["saved"] / w["ours"]["saved"]),
            ("peak memory, defaults", "#BB5566", lambda w: w["trl"]["peak"] / w["ours"]["peak"])),
            strict=True):
        right.barh(-np.arange(len(rows)) + shift, [ratio(w) for _, w in rows], 0.2, color=tint,
                   label=title)
    right.axvline(1, color="black", linewidth=0.8)
    right.set_yticks(-np.arange(len(rows)), [name for name, _ in rows])
    label(right, "TRL's over ours", "", "")
    right.legend(fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    figure.savefig(path)
    plt.close(figure)


def growth_figure(tables: dict, path) -> None:
    """Seconds and peak memory of a step against what grows, with the fitted exponents."""
    figure, axes = panels(len(tables["steps"]))
    for axis, (name, row) in zip(axes, tables["steps"].items(), strict=True):
        for key, unit, tint in (("seconds", "s", "#004488"), ("peak", "GB", "#BB5566")):
            values = np.array(row[key]) / (1e9 if key == "peak" else 1)
            axis.plot(row["sizes"], values, "o-", color=tint,
                      label=f"{key} ({unit}), exponent {row[key + '_exponent']:.2f}")
        axis.set(xscale="log", yscale="log")
        axis.set_xticks(row["sizes"], row["sizes"])
        axis.minorticks_off()
        label(axis, name, "", "")
        axis.legend(fontsize=7)
    figure.suptitle("a training step, forward and backward")
    figure.savefig(path)
    plt.close(figure)


def frontier_figure(runs: dict[str, list[dict]], block: int = 5):
    """Proxy and gold reward of training's own answers against their KL, one line a run of
    `runlog.read_runs`, averaged over blocks of steps; dashed where KL has a price."""
    keys = {"train/proxy_reward": "proxy reward (its units)", "train/gold_reward":
            "gold reward (0 to 5)"}
    figure, axes = panels(2)
    for axis, (key, name) in zip(axes, keys.items(), strict=True):
        for i, (method, seeds) in enumerate(runs.items()):
            objective, _, price = method.partition("-kl")
            style = {"color": color(objective, i), "linestyle": "--" if float(price) else "-"}
            for run in seeds:
                curves = np.array([[row["train/kl"], row[key]] for row in run["metrics"]]).T
                blocks = curves[:, :curves.shape[1] // block * block].reshape(2, -1, block)
                axis.plot(*blocks.mean(2), marker=".", markersize=3, linewidth=1, **style)
            axis.plot([], [], label=f"{objective.upper()}, kl_coef {price}", **style)
        label(axis, "KL to the reference (nats an answer)", name, "")
    axes[0].legend(fontsize=7)
    return figure
