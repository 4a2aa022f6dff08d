"""The figures of the two benchmarks."""

import numpy as np

from bsr_lite import plots


def bench_figure(tables: dict, path) -> None:
    """Speed-ups over TRL (ratios, quartiles), and tokens and bytes that the padded layout needs
    beside ours."""
    works = tables["reward models"] | {f"RLOO update, {k}": v for k, v in tables["updates"].items()}
    figure, (left, right) = plots.panels(2, width_ratios=[1.4, 1])
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
    plots.label(left, "times as fast (median, quartiles)", "", "")
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
    plots.label(right, "TRL's over ours", "", "")
    right.legend(fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    plots.save(figure, path)


def growth_figure(tables: dict, path) -> None:
    """Seconds and peak memory of a step against what grows, with the fitted exponents."""
    figure, axes = plots.panels(len(tables["steps"]))
    for axis, (name, row) in zip(axes, tables["steps"].items(), strict=True):
        for key, unit, tint in (("seconds", "s", "#004488"), ("peak", "GB", "#BB5566")):
            values = np.array(row[key]) / (1e9 if key == "peak" else 1)
            axis.plot(row["sizes"], values, "o-", color=tint,
                      label=f"{key} ({unit}), exponent {row[key + '_exponent']:.2f}")
        axis.set(xscale="log", yscale="log")
        axis.set_xticks(row["sizes"], row["sizes"])
        axis.minorticks_off()
        plots.label(axis, name, "", "")
        axis.legend(fontsize=7)
    figure.suptitle("a training step, forward and backward")
    plots.save(figure, path)
