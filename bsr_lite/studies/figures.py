"""Figures of studies, each of a table that a study wrote."""

import numpy as np

from ..plots import COLORS, SCENARIO_COLORS, color, label, panels, to_rgb
from .tables import foretold


def shades(methods: list[str]) -> list:
    """A colour for each method; variants of one objective go from full to pale."""
    tints = []
    for i, method in enumerate(methods):
        kin = [m for m in methods if m.split("-")[0] == method.split("-")[0]]
        pale = 0.7 * kin.index(method) / len(kin)
        tints.append([(1 - pale) * c + pale for c in to_rgb(color(method, i))])
    return tints


def study_figure(table: dict):
    """Scores of the scenarios by method with 95% intervals, a dot a seed, and chance; the variance
    of rewards between prompts, and on top of it within them.

    table[method][scenario]: mean, low, high, seeds (one score each), between, within.
    """
    scenarios, tints = list(next(iter(table.values()))), shades(list(table))
    figure, (left, right) = panels(2, width_ratios=[1.5, 1])
    places = np.arange(len(scenarios))
    for i, (method, parts) in enumerate(table.items()):
        x = places + (i - (len(table) - 1) / 2) * 0.8 / len(table)
        mean, low, high, between, within = (
            np.array([parts[s][key] for s in scenarios])
            for key in ("mean", "low", "high", "between", "within"))
        left.errorbar(x, mean, [mean - low, high - mean], fmt="o", color=tints[i], capsize=3,
                      label=method)
        left.plot(x + 0.08, [parts[s]["seeds"] for s in scenarios], ".", color=tints[i], alpha=0.5)
        right.bar(x, between, 0.7 / len(table), color=tints[i], label=method)
        right.bar(x, within, 0.7 / len(table), color=tints[i], alpha=0.4, bottom=between)
    chance = [0.5 if s == "in_domain" else 0.0 for s in scenarios]
    left.hlines(chance, places - 0.45, places + 0.45, color="black", linewidth=0.8, label="chance")
    right.margins(y=0.35)  # room for the legend
    label(left, "", "accuracy (in domain), Kendall's tau (others)",
          "agreement with the gold order, 95% intervals")
    label(right, "", "variance of rewards (squared reward units)",
          "between (full), within (faint) prompts")
    for axis in (left, right):
        axis.set_xticks(places, [s.replace("_", "\n") for s in scenarios])
        axis.tick_params(axis="x", labelsize=7 if len(scenarios) < 7 else 5.5)
        axis.legend(fontsize=7)
    return figure


def best_of_n_figure(table: dict):
    """Against the bound of the KL: the proxy's own reward of what it picks, gold's, and the share
    of the proxy's gain that gold keeps, with 95% intervals; dotted: the first one's correlation."""
    figure, (left, middle, right) = panels(3)
    tints = dict(zip(table["methods"], shades(list(table["methods"])), strict=True))
    for i, (method, row) in enumerate(table["methods"].items()):
        for axis, key in ((left, "proxy"), (middle, "gold"), (right, "share")):
            mean, low, high = np.array(row[key], dtype=float).T
            kl = np.array(table["kl_bound"]) + 0.02 * i  # side by side
            axis.errorbar(kl, mean, [mean - low, high - mean], fmt="o-", color=tints[method],
                          label=method, markersize=3, linewidth=1, elinewidth=0.7)
    for name, style, text in (("best", ":", "gold itself"), ("shortest", "--", "fewest words")):
        middle.plot(table["kl_bound"], table[name], style, color="black", linewidth=1, label=text)
    honest = np.mean(next(iter(table["methods"].values()))["correlations"])
    right.axhline(honest, color="black", linestyle=":", label="correlation")
    label(left, "bound of KL (nats)", "standard deviations above the mean",
          "what the proxy says of its pick")
    label(middle, "bound of KL (nats)", "gold reward (0 to 5)", "what gold says of it")
    label(right, "bound of KL (nats)", "gold's gain / proxy's gain", "share kept")
    middle.legend(handles=middle.lines[-2:], fontsize=7, loc="lower left")
    right.legend(fontsize=7)
    return figure


def frontier_figure(summary: dict, curves: dict[str, np.ndarray], block: int = 5):
    """In standard deviations of the reference's answers: gold against proxy in training, mean of
    the seeds over blocks of steps, dashed where KL has a price; and the share of the proxy's gain
    that gold kept on held-out prompts, a dot a seed, beside their correlation; none where the
    proxy's own gain is undecided.

    curves[method-kl] (2, steps): proxy and gold."""
    figure, (left, right) = panels(2)
    tints = dict(zip(summary, shades([name.partition("-kl")[0] for name in summary]), strict=True))
    for i, (name, row) in enumerate(summary.items()):
        blocks = curves[name][:, :curves[name].shape[1] // block * block].reshape(2, -1, block)
        price = name.partition("-kl")[2]
        left.plot(*blocks.mean(2), "--" if float(price) else "-", marker=".", markersize=4,
                  linewidth=1, color=tints[name])
        share, low, high = row["share"]
        if low is not None:
            right.errorbar(share, -i, xerr=[[share - low], [high - share]], fmt="s", capsize=3,
                           color=tints[name], markersize=5)
        seeds = [s for s in row["shares"] if s is not None] if share is not None else []
        right.plot(seeds, [-i] * len(seeds), ".", color=tints[name], alpha=0.5)
        right.plot(np.mean(row["correlations"]), -i, "x", color="black")
    right.plot([], [], "x", color="black", label="correlation")
    right.axvline(0, color="black", linewidth=0.8)
    right.set_yticks([-i for i in range(len(summary))],
                     [name.replace("-kl", ", ") for name in summary], fontsize=7)
    label(left, "proxy (standard deviations)", "gold (standard deviations)",
          "training: do both rise?")
    label(right, "gold's gain / proxy's gain", "", "share kept, 95% intervals")
    for tick, tint in zip(right.get_yticklabels(), tints.values(), strict=True):
        tick.set_color(tint)  # the legend of both panels
    right.legend(fontsize=7)
    return figure


def worlds_figure(worlds: dict):
    """Under BT in the first world: norms of differences before and after, and how new prompts and
    new sources fare; differences of objectives to BT on new sources in the worlds of one pass."""
    figure, (left, middle, right) = panels(3, width_ratios=[1, 1, 1.5])
    first = next(iter(worlds.values()))
    bins = np.linspace(0, np.quantile(first["both_ends"][1], 0.998), 40)
    for values, tint, name in zip(first["both_ends"], ("#BBBBBB", color("bt", 0)),
                                  ("before training", "after one pass"), strict=True):
        left.hist(values, bins, color=tint, alpha=0.7, density=True, label=name)
    label(left, "|h_w - h_l| of a pair", "density", "BT disperses norms")
    for part, name in (("prompt_disjoint", "new prompts"), ("response_disjoint", "new sources")):
        mean, half = np.array(first["course"][part]).T
        middle.plot(first["step"], mean, color=SCENARIO_COLORS[part], label=name)
        middle.fill_between(first["step"], mean - half, mean + half, alpha=0.2, linewidth=0,
                            color=SCENARIO_COLORS[part])
    label(middle, "step of BT", "Kendall's tau, 95% over seeds", "new sources fall behind")
    shown = [name for name, world in worlds.items() if world["step"][-1] <= 200]
    right.axhline(0, color="black", linewidth=0.8)
    for i, method in enumerate(("level-1e-2", "bsr-1e-2", "spread-1e-1")):
        mean, half = np.array([worlds[w]["objectives"][method]["difference"]["response_disjoint"]
                               for w in shown]).T
        right.errorbar(np.arange(len(shown)) + (i - 1) / 5, mean, half, fmt="o", capsize=3,
                       color=color(method, i), label=method)
    right.set_xticks(range(len(shown)), [name.replace(" ", "\n") for name in shown], fontsize=8)
    label(right, "", "tau on new sources, minus BT's", "what each term does to new sources")
    for axis in (left, middle, right):
        axis.legend(fontsize=7)
    return figure


def theory_figure(fits: dict):
    """What BSR (thin lines, crosses) and its spread term alone (wide and pale, rings) leave of BT's
    weights at each lambda: lines foretold, marks fitted. A panel a world."""
    figure, axes = panels(len(fits), sharex=True, sharey=True)
    for axis, (world, rows) in zip(axes, fits.items(), strict=True):
        for part, tint, high in (("signal", "#0072B2", 0.6), ("nuisance", "#D55E00", 0.45)):
            for kind, wide, pale, mark in (("bsr-", 1.2, 1.0, "x"), ("spread-", 5, 0.3, "o")):
                at, told, fitted = zip(*sorted(
                    (float(name.split("-", 1)[1]), *both) for name, where, *both in rows
                    if where == part and name.startswith(kind)), strict=True)
                axis.semilogx(at, told, color=tint, linewidth=wide, alpha=pale)
                axis.plot(at, fitted, mark, color=tint, markersize=wide + 5, markerfacecolor="none")
            # beside the spread term's curve
            axis.text(1.3 * 10 ** np.interp(-high, -np.array(told), np.log10(at)), high, part,
                      color=tint)
        label(axis, r"$\lambda$", "", world)
    axes[0].set_ylabel("weights / BT's")
    return figure


def linear_figure(results: dict):
    """Fitted against foretold difference to BT, a panel a world, a mark a penalty, lambda, set: BSR
    and its terms, all others grey; the large ones exclude zero."""
    worlds, marks = foretold(results), {"level": "^", "spread": "s", "bsr": "o"}
    figure, (axes,) = panels(len(worlds), sharex=True, sharey=True, squeeze=False)
    for axis, (world, rows) in zip(axes, worlds.items(), strict=True):
        for end, style in (((0.01, 0), "-"), ((0, 0.01), "-"), ((0.01, 0.01), ":")):
            axis.axline((0, 0), end, color="black", linewidth=0.8, linestyle=style)
        for kind, mark in {"others": ".", **marks}.items():
            own = [row[2:] for row in rows if marks.get(row[0].split("-")[0], ".") == mark]
            x, y, low, high = np.array(own).reshape(-1, 4).T
            sure, tint = low * high > 0, COLORS.get(kind, "#AAAAAA")
            axis.plot(x, y, mark, color=tint, markersize=3, alpha=0.5, label=kind)
            axis.errorbar(x[sure], y[sure], [(y - low)[sure], (high - y)[sure]], fmt=mark,
                          markersize=7, linewidth=1, color=tint, markerfacecolor="none")
        label(axis, "difference to BT, foretold", "", world.replace("_", " "))
    axes[0].set_ylabel("difference to BT, fitted (tau, accuracy)")
    axes[-1].legend(title="large:\nexcludes zero", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
