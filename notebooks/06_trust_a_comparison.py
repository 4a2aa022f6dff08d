# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 06 · Can you trust a comparison of two reward models?
#
# Two methods were trained, and one scores higher. Is it better? The paper's gains on its three
# disjoint sets are .001 to .024 of tau (Table 5). Before you say *better*, *worse*, *no difference
# that matters* or *undecided*, ask:
#
# 1. Is it paired?
# 2. Does the interval speak of new seeds *and* new prompts?
# 3. How large a difference could the study have found?
# 4. Where do the ends of the interval lie?
# 5. How many intervals were looked at?
#
# Section 6 asks for the cause.

# %% [markdown]
# Words from before: *BT*, *tau*, *gold*, the rule that makes the true labels (notebook 01);
# *in-domain*, *prompt-*, *response-* and *mutual-disjoint* (02, Section 5); *BSR* (Eq. 25, 03), its
# *level* and *spread term*, the small worlds, and *dev*, prompts kept for choices (04).

# %%
# The first cell of every notebook: finds the repository or clones it, installs what is missing.
import os
import runpy
import subprocess
from pathlib import Path

URL = os.environ.get("BSR_LITE_URL", "")  # the repository's, for a notebook opened without it
PROFILE = os.environ.get("BSR_PROFILE", "fast")  # "full" computes what "fast" reads from a record
os.environ["TQDM_DISABLE"] = "1"  # no progress bars in the page
PLACES = [Path.cwd(), *Path.cwd().parents, Path.cwd() / "bsr_lite"]
ROOT = next((p for p in PLACES if (p / "data/pocket").exists()), None)
if ROOT is None and not URL:
    raise FileNotFoundError("no repository around this notebook: write its address into URL above")
if ROOT is None:
    ROOT = PLACES[-1]
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", URL, str(ROOT)], check=True)
os.chdir(ROOT)  # paths below start at the repository's root
runpy.run_path("notebooks/install.py", run_name="__main__")

from bsr_lite import machine

print(machine.describe())

# %%
import math
import re

import numpy as np
import pandas as pd
import torch

from bsr_lite import metrics, plots
from bsr_lite.course import checks_policy as checks
from bsr_lite.studies import statistics, worlds
from bsr_lite.studies.records import read_runs, read_table

# %%
# "full" trains what "fast" reads; finished runs are read back
RUNS = Path("runs" if PROFILE == "full" else "data/runs")
STUDIES = ("study_lora", "study_norms", "study_judged", "study_postscript")
if PROFILE == "full":
    from bsr_lite.studies.reward_models import run_study
    for study in STUDIES:  # the data of study_judged is not in this repository
        run_study(Path(f"bsr_lite/configs/{study}.yaml"), resume=study == "study_judged")
studies = {name.removeprefix("study_"): read_table(RUNS / name) for name in STUDIES}
SETS = ["in_domain", "prompt_disjoint", "response_disjoint", "mutual_disjoint"]

# %% [markdown]
# ## 1. Is it paired?
#
# Take the study *lora*: 900 pairs, LoRA (05) on 10 layers of this repository's small language
# model, 240 prompts a set, four **seeds**. A seed sets the start and the order of the batches.
#
# **Predict**: BT is trained four times, on the same pairs. How far apart are the four scores?

# %%
runs = read_runs(RUNS / "study_lora")


def per_prompt(method, test):  # (seeds, prompts): accuracy in domain, tau elsewhere
    return np.array([r["evaluation"]["scenarios"][test]["per_prompt"] for r in runs[method]])


alone = pd.DataFrame({test: per_prompt("bt", test).mean(1) for test in SETS},
                     index=[f"BT, seed {run['seed']}" for run in runs["bt"]])
alone.loc["largest minus smallest"] = alone.max() - alone.min()
alone.round(3)

# %% [markdown]
# <details><summary>Answer</summary>
#
# Two of the three disjoint sets spread by more than the paper's largest gain: .056 and .083. So one
# run of each of two methods can show such a "gain" where there is none.
# </details>

# %% [markdown]
# BSR ($\lambda = 10^{-3}$) was trained with the same four seeds and scored on the same prompts. So
# the comparison can be **paired**: same seed, same prompt, BSR minus BT. What both share, such as a
# hard prompt, drops out.

# %% [markdown]
# The **standard error** of a mean is its standard deviation over imagined repetitions of the study.
# A **95% interval** is made to hold the true difference in 95 of 100 repetitions.
#
# It reaches $t$ standard errors to each side. If the standard error is known, $t$ is 1.96. If it is
# estimated from a few numbers, $t$ is larger. Four paired differences have three *degrees of
# freedom* (four, less one for their mean): $t$ is 3.18. Two methods with four seeds each, not
# shared, have six: $t$ is 2.45.

# %% [markdown]
# Three intervals of BSR minus BT:
#
# - *Nothing shared*: each method's own, over seeds and prompts; the squares of the half-widths are
#   added.
# - *Prompts shared*: prompts hardly count now, so over the seeds only: six degrees.
# - *Seeds shared, too*: of the paired differences, over seeds and prompts: three degrees.
#
# **Predict**: which narrows the interval more, shared prompts or shared seeds? Can shared seeds
# make it wider?

# %%
SHARED = ["nothing", "prompts", "prompts and seeds"]


def errors_and_halves(x, y):  # of the mean of y - x, one row for each of SHARED
    three = [statistics.two_way_interval(v) for v in (x, y, y - x)]  # mean, low, high, error
    errors = np.array([(error, (high - low) / 2) for _, low, high, error in three])
    error = math.hypot(x.mean(1).std(ddof=1), y.mean(1).std(ddof=1)) / math.sqrt(len(x))
    same_prompts = (error, metrics.t_quantile(2 * len(x) - 2) * error)  # of the seeds
    return np.array([np.hypot(*errors[:2]), same_prompts, errors[2]])  # squares add, approximately


# %%
scores = {test: (per_prompt("bt", test), per_prompt("bsr", test)) for test in SETS}
compared = {test: errors_and_halves(*both) for test, both in scores.items()}
table = pd.DataFrame({test: x[:, 1] for test, x in compared.items()}, index=SHARED).T.round(3)
table["seed means correlate"] = [np.corrcoef(x.mean(1), y.mean(1))[0, 1].round(2)
                                 for x, y in scores.values()]

# %%
bt, bsr = scores["response_disjoint"]
mean, low, high, together = statistics.two_way_interval(bsr - bt)
table.rename({"in_domain": "in_domain (accuracy)"}).rename_axis("half-width of the 95% interval")

# %%
figure, (left, middle, right) = plots.panels(3)
left.plot(bt.mean(0), bsr.mean(0), ".", color=plots.COLORS["bsr"], alpha=0.5)
left.plot([-1, 1], [-1, 1], color="black", linewidth=0.8)
plots.label(left, *(f"tau of {name}, mean of four seeds" for name in ("BT", "BSR")),
            "hard prompts are shared (a dot each)")
for ends in zip(bt.mean(1), bsr.mean(1), strict=True):
    middle.plot((0, 1), ends, "o-", color=plots.COLORS["bsr"], alpha=0.7)
middle.set(xticks=(0, 1), xticklabels=("BT", "BSR"), xlim=(-0.4, 1.4))
plots.label(middle, "", "tau, mean of 240 prompts",
            "so is the seeds' luck (a line each)")
for place, (error, half) in enumerate(compared["response_disjoint"]):
    right.errorbar(place, mean, half, fmt="o", capsize=4, color="black")
    right.text(place, mean + half + 0.005, f"± {half:.3f}\nt = {half / error:.2f}", ha="center")
right.plot(np.full(4, 2.25), (bsr - bt).mean(1), "o", color=plots.COLORS["bsr"], alpha=0.6)
right.text(2.4, -0.04, "a dot\na seed", color=plots.COLORS["bsr"], va="top", ha="center")
right.axhline(0, color="black", linewidth=0.8)
right.set(xticks=range(3), xlim=(-0.5, 2.9), ylim=(-0.11, 0.125),
          xticklabels=("nothing", "prompts", "prompts\nand seeds"))
plots.label(right, "shared by the methods", "BSR minus BT (tau), 95% interval",
            "one difference, three intervals")
narrower = np.divide(*compared["response_disjoint"][[0, 2], 1])
figure.suptitle("Response-disjoint: sharing prompts and seeds makes the interval "
                f"{narrower:.1f} times narrower");

# %% [markdown]
# **What to see.** On the right: with nothing shared most of the error is the prompts' scatter. It
# is known from 240 numbers, so $t$ is near 2.
#
# <details><summary>Answer</summary>
#
# That differs by set. On response-disjoint prompts narrow it 1.5 times, then seeds 2.3 times,
# although $t$ grows.
#
# On mutual-disjoint shared seeds make it *wider* (.019 to .023). The seed means hardly correlate,
# so the standard error hardly falls. But $t$ grows by 30%.
# </details>
#
# So share prompts. Sharing as few as four seeds pays only if their means correlate.

# %% [markdown]
# ## 2. Does the interval speak of new seeds *and* new prompts?
#
# Write $d_{ij}$ for the paired difference of seed $i$ on prompt $j$, $D$ for the true difference,
# $S$ and $P$ for the numbers of seeds and prompts, $V$ for a variance. *Rest* is what is left, this
# seed on this prompt:
#
# $$d_{ij} = D + \text{seed}_i + \text{prompt}_j + \text{rest}_{ij}, \qquad
# \mathrm{Var}(\bar d) = \frac{V_\text{seed}}{S} + \frac{V_\text{prompt}}{P} +
# \frac{V_\text{rest}}{S\,P}.$$
#
# An interval over seeds alone misses the second term, one over prompts alone the first.

# %% [markdown]
# Three *mean squares* (MS) estimate the terms:
#
# - of seeds: $P$ times the variance of the seed means; on average $V_\text{rest} +
#   P\,V_\text{seed}$;
# - of prompts: $S$ times the variance of the prompt means; on average $V_\text{rest} +
#   S\,V_\text{prompt}$;
# - of rest: the mean square of what both leave; on average $V_\text{rest}$.
#
# So the variance above is $(\mathrm{MS}_\text{seed} + \mathrm{MS}_\text{prompt} -
# \mathrm{MS}_\text{rest}) / (S\,P)$.
#
# *Satterthwaite's rule* gives its degrees of freedom: if the seeds' MS dominates, $t$ is 3.18; if
# the prompts' does, near 2. `seed_limits` is a 95% interval of the seeds' scatter; 9.348 and 0.216
# cut 2.5% off chi-square's two ends.

# %%
def mean_squares(d):  # (seeds, prompts) -> of seeds, of prompts, of the rest
    S, P = d.shape
    rest = d - d.mean(1, keepdims=True) - d.mean(0, keepdims=True) + d.mean()
    return (P * d.mean(1).var(ddof=1), S * d.mean(0).var(ddof=1),
            (rest**2).sum() / ((S - 1) * (P - 1)))


def deviations(d):  # standard deviations: seeds, prompts, rest
    of_seeds, of_prompts, of_rest = mean_squares(d)
    return [math.sqrt(max(v, 0)) for v in ((of_seeds - of_rest) / d.shape[1],
                                           (of_prompts - of_rest) / d.shape[0], of_rest)]


def seed_limits(d):  # 95%, if seed means are normal: MS of seeds over chi-square, 3 degrees
    of_seeds, _, of_rest = mean_squares(d)
    return [math.sqrt(max(3 * of_seeds / q - of_rest, 0) / d.shape[1]) for q in (9.348, 0.216)]

# %%
d = bsr - bt
of_seeds, of_prompts, of_rest = mean_squares(d)
total = max(of_seeds + of_prompts - of_rest, of_seeds, of_prompts)  # at least each side's own
assert math.isclose(math.sqrt(total / d.size), together), "the library's standard error is this one"
freedom = total**2 / (of_seeds**2 / 3 + of_prompts**2 / 239 + of_rest**2 / (3 * 239))
part = np.square(deviations(d)) / (4, 240, d.size)
print("standard deviation of the seeds, 95% interval:", np.round(seed_limits(d), 3).tolist())
print(f"degrees of freedom of t, by Satterthwaite's rule: {freedom:.1f}, rounded down")
pd.DataFrame({"mean square": np.round((of_seeds, of_prompts, of_rest), 4),
              "standard deviation": np.round(deviations(d), 3),
              "share of the variance of the mean": (part / part.sum()).round(2)},
             index=["seeds", "prompts", "rest"])

# %% [markdown]
# A single paired difference is nearly all rest (.176). But in the *mean* rest is averaged over 960
# numbers, seeds over 4. So seeds make about half of its variance, prompts a twentieth. That is a
# guess from four seeds: their .011 may be anything from 0 to .058.

# %%
def three_intervals(x):  # (3, 2): low and high, over seeds, over prompts, over both
    sides = [metrics.seed_interval(x.mean(axis)) for axis in (1, 0)]
    return [*((mean - half, mean + half) for mean, half in sides),
            statistics.two_way_interval(x)[1:3]]


OVER = ["seeds alone", "prompts alone", "both"]
pd.DataFrame(three_intervals(d), index=[f"over {name}" for name in OVER],
             columns=["low", "high"]).assign(width=lambda t: t.high - t.low).round(3)

# %% [markdown]
# Make up 1,000 studies of normal numbers with the three standard deviations above and a true
# difference of zero.
#
# **Predict**: how often does each of the three hold zero?

# %%
rng = np.random.default_rng(0)
sd_seed, sd_prompt, sd_rest = scatter_here = deviations(d)


def made_up(seeds, prompts, scatter=scatter_here, rng=rng):  # the true difference is zero
    of_seeds, of_prompts, of_rest = scatter
    return (of_seeds * rng.standard_normal((seeds, 1))
            + of_prompts * rng.standard_normal((1, prompts))
            + of_rest * rng.standard_normal((seeds, prompts)))


intervals = np.array([three_intervals(made_up(4, 240)) for _ in range(1000)])  # (1000, 3, 2)

# %%
holds = (intervals[..., 0] < 0) & (intervals[..., 1] > 0)
figure, axes = plots.panels(3, sharex=True, sharey=True)
for i, (axis, name) in enumerate(zip(axes, OVER, strict=True)):
    for row, (ends, held) in enumerate(zip(intervals[:100, i], holds[:100, i], strict=True)):
        axis.plot(ends, (row, row), color="#CCCCCC" if held else "black", linewidth=1)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set(yticks=[], xticks=(-0.05, 0, 0.05))
    plots.label(axis, "difference (tau)", "", f"{name}: {holds[:, i].mean():.1%} hold zero")
axes[0].set_ylabel("the first 100 of 1,000 made-up studies,\none row a study in all three panels")
figure.suptitle(f"If seeds scatter by {sd_seed:.3f}, an interval over prompts alone "
                "is too sure of itself");

# %%
limit = seed_limits(d)[1]
CASES = {"seeds do not scatter": (0, sd_prompt, sd_rest),
         f"seeds scatter by {limit:.3f}": (limit, sd_prompt, sd_rest),
         "prompts scatter by 0.2": (sd_seed, 0.2, sd_rest)}
shares, fresh = {"as here": holds.mean(0)}, np.random.default_rng(1)
for case, scatter in CASES.items():
    ends = np.array([three_intervals(made_up(4, 240, scatter, fresh)) for _ in range(1000)])
    shares[case] = ((ends[..., 0] < 0) & (ends[..., 1] > 0)).mean(0)

# %%
assert all(0.93 < x[2] < 0.99 for x in shares.values()), "over both: about as often as it says"
assert shares["as here"][1] < 0.9, "an interval that leaves the seeds out must be too narrow"
pd.DataFrame(shares, index=OVER).T.rename_axis("share that holds zero").round(2)

# %% [markdown]
# **What to see.** Black intervals miss the truth, zero. Over prompts alone 16 of 100 miss it, not
# 5. If seeds scattered by .058 it would be 68.
#
# Seeds alone do well *here*: the prompts' scatter, which they miss, is a twentieth of the variance.
# If prompts scattered by .2 instead of .029, only 81 of 100 would hold zero.
#
# Over both 94 to 97 hold zero in all four cases. Quote that one.

# %% [markdown]
# ## 3. How large a difference could the study have found?
#
# A study may find nothing because there is nothing, or because it could not. A **positive control**
# tells whether it could: add a known difference to every made-up study, and count how many
# intervals exclude zero. That share is the **power**.
#
# Textbooks say: a difference of 2.8 standard errors (1.96 + .84) has a power of .80.
#
# **Predict**: what is the power of this study, four seeds, at 2.8 standard errors?

# %%
true_error = math.sqrt(sd_seed**2 / 4 + sd_prompt**2 / 240 + sd_rest**2 / 960)
lows, highs = intervals[:, 2].T


def power(effect):  # shifting a study shifts its interval
    return ((lows + effect > 0) | (highs + effect < 0)).mean()

# %%
effects = np.linspace(0, 0.06, 61)
normal = np.random.default_rng(0).standard_normal(10_000)
known = [(abs(normal + effect / true_error) > 1.96).mean() for effect in effects]
found = [power(effect) for effect in effects]
needed = np.quantile(-lows, 0.8)  # shifted by so much, four of five lower ends lie above zero

# %%
figure, axis = plots.panels()
axis.plot(effects, known, color="#888888", linestyle="--")
axis.plot(effects, found, color="black")
axis.axhline(0.8, color="black", linewidth=0.8, linestyle=":")
for effect in (2.8 * true_error, needed):
    share = power(effect)
    axis.plot(effect, share, "o", color=plots.COLORS["bsr"])
    axis.annotate(f"{effect:.3f} = {effect / true_error:.1f} standard errors: power {share:.2f}",
                  (effect, share), (8, -12), textcoords="offset points")
axis.text(0.024, 0.9, "if the standard error were known", color="#555555", ha="right")
axis.text(0.0005, 0.815, "four of five")
axis.text(0.0285, 0.6, "this study: four seeds, error estimated")
plots.label(axis, "true difference (tau)", "share of 1,000 studies that find it",
            f"Of effects of 2.8 standard errors ({2.8 * true_error:.3f}) "
            "four seeds find fewer than half")

# %%
rule = (abs(normal + 2.8) > 1.96).mean()
assert abs(rule - 0.8) < 0.01, "the rule of 2.8 is right where the standard error is known"
assert power(2.8 * true_error) < 0.55, "with four seeds it must not be"
assert 4 < needed / true_error < 4.5, "four seeds need about 4.2 standard errors here"
assert power(0) < 0.06, "without an effect at most one study in twenty finds one"
print("power by true difference:", {x: float(power(x)) for x in (0, 0.01, 0.024)})

# %% [markdown]
# **What to see.** The black line rises later, for four seeds tell little of their own scatter.
#
# <details><summary>Answer</summary>
#
# Under one half. For a power of .80 this study needs 4.2 standard errors: a difference of .034. It
# finds the paper's largest gain, .024, about every second time, and .01 one time in eight.
# </details>

# %% [markdown]
# ### More seeds or more prompts?
#
# More prompts shrink the last two terms of Section 2's formula. $V_\text{seed}/S$ is left: a floor.
#
# **Predict**: the paper trains four seeds, too, and holds out 12,800 prompts. If its seeds
# scattered by .011 and all else were as in our response-disjoint, how often would it find a
# difference of .01?

# %%
SEED_COUNTS, PROMPT_COUNTS = (4, 8, 16, 32), (60, 240, 960, 12_800)


def lower_ends(seeds, prompts, sd=sd_seed):  # of 300 studies around nothing
    many = [made_up(seeds, prompts, (sd, sd_prompt, sd_rest)) for _ in range(300)]
    return np.array([statistics.two_way_interval(x)[1] for x in many])


lowest = {(n, k): lower_ends(n, k) for n in SEED_COUNTS for k in PROMPT_COUNTS}
most = seed_limits(d)[1]
other = {(sd, k): lower_ends(4, k, sd) for sd in (0, most) for k in PROMPT_COUNTS}
smallest = {at: np.quantile(-lower, 0.8) for at, lower in (lowest | other).items()}  # as `needed`
print(f"four seeds, 12,800 prompts: {(lowest[4, 12_800] + 0.01 > 0).mean():.2f} find .01")
print(f"four seeds, 240 prompts, scatter {most:.3f}: {smallest[most, 240]:.2f} needed")

# %%
figure, axis = plots.panels()
LINES = {n: (f"{n} seeds", "o-", "black") for n in SEED_COUNTS}
LINES |= {sd: (f"4 seeds, scatter {sd:.3f}", "o--", "#777777") for sd in (0, most)}
for which, (name, style, tint) in LINES.items():
    curve = [smallest[which, k] for k in PROMPT_COUNTS]
    axis.plot(PROMPT_COUNTS, curve, style, color=tint)
    axis.annotate(name, (PROMPT_COUNTS[-1], curve[-1]), (8, -3), color=tint,
                  textcoords="offset points",
                  bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5})
axis.axhline(0.01, color="#777777", linewidth=1, linestyle=":")
axis.text(55, 0.0094, "a difference of .01", color="#555555", va="top")
axis.set(xscale="log", yscale="log", xlim=(50, 70_000), ylim=(0.0021, 0.25), xticks=PROMPT_COUNTS)
axis.set_xticklabels([f"{k:,}" for k in PROMPT_COUNTS])
axis.set_yticks((0.003, 0.01, 0.03, 0.1), (".003", ".01", ".03", ".1"))
axis.minorticks_off()
plots.label(axis, "prompts", "smallest difference found\nin 4 of 5 studies (tau)",
            f"If seeds scatter by {sd_seed:.3f} (black) prompts soon help little, "
            f"and 0 to {most:.3f} is possible (dashed)")

# %% [markdown]
# **What to see.** Black: from 960 prompts on, twice the seeds help more than 13 times the prompts.
#
# Dashed: if seeds do not scatter, prompts are all you need. If they scatter by .058, prompts hardly
# help, and this study (240 prompts) would need a difference of .13. Four seeds do not say which it
# is.
#
# <details><summary>Answer</summary>
#
# About once in four. The standard error is near $.011/\sqrt 4$, and .01 is 1.8 of these. In
# Section 3's first figure 1.8 standard errors are .015: read the black line there.
# </details>

# %% [markdown]
# ## 4. Where do the ends of the interval lie?
#
# "No significant difference" says little: a study of two prompts finds none either. After the run
# read the *ends* of the interval: what lies outside is excluded, at 95%.
#
# An interval without zero says *better* or *worse*, however small. For one that holds zero you need
# a **useful** difference, named before the run. Here it is .05 of tau, 2.5 more of 100 pairs in
# gold's order (.025 of accuracy, doubled below). The interval is
#
# - an **informative null** (*no difference that matters*) inside ± .05;
# - **undecided** otherwise.
#
# We chose .05 *after* our runs: about twice the paper's largest gain.

# %% [markdown]
# Here is BSR minus BT in four studies: *lora*; *norms* (full fine-tuning); *judged* (real judged
# answers); *postscript* (every answer carries a line about something else). $\lambda$ is $10^{-3}$,
# in *postscript* $10^{-2}$. No rule made before the runs picked these four.
#
# So far we drew prompts one by one. But prompts of one topic are alike. From here on the columns of
# $d_{ij}$ are topics, each weighed by its number of prompts. (*judged* names no topics: there they
# stay prompts.) *lora*'s sets with new prompts have 20 topics, the others 65 and 66
# (`data/runs/LOG.md`): 19 degrees of freedom or more, beside the seeds' three.
#
# **Predict**: how many of these intervals hold zero? How many of those lie within ± .05?

# %%
rows = []
for study, table in studies.items():
    method = next(name for name in table if name.startswith("bsr"))
    rows += [[study, test.replace("_", "-"),  # accuracy doubled: in tau's unit
              *np.multiply(table[method][test]["difference"], 2 if test == "in_domain" else 1)]
             for test in SETS]
nulls = pd.DataFrame(rows, columns=["study", "set", "mean", "low", "high"])
nulls["null"] = (nulls.low <= 0) & (nulls.high >= 0)
seeds = {study: len(read_runs(RUNS / f"study_{study}")["bt"]) for study in studies}
nulls["inside"] = nulls.null & (nulls.low > -0.05) & (nulls.high < 0.05)
nulls["hair"] = nulls.inside & (nulls[["low", "high"]].abs().max(axis=1) > 0.049)

# %%
figure, axes = plots.panels(2)
for axis, reach, few in zip(axes, (0.11, 0.26), (True, False), strict=True):
    some = nulls[(nulls.study == "lora") == few]
    axis.axvspan(-0.05, 0.05, color="#DDDDDD", linewidth=0)
    for x, style in ((0, "-"), (-0.024, ":"), (0.024, ":")):
        axis.axvline(x, color="black", linewidth=0.8, linestyle=style)
    for place, row in enumerate(some.itertuples()):
        axis.errorbar(row.mean, place, xerr=[[row.mean - row.low], [row.high - row.mean]],
                      fmt="o" if row.inside else "x" if row.null else "D", capsize=3,
                      color="black", markerfacecolor="white" if row.hair else "black")
    axis.set_yticks(range(len(some)), some.study + ", " + some.set)
    axis.set(ylim=(len(some) - 0.5, -0.5), xlim=(-reach, reach))
    plots.label(axis, "BSR minus BT (tau; accuracy, doubled)", "",
                "seeds: " + ", ".join(f"{study} {seeds[study]}" for study in some.study.unique()))
figure.supxlabel("grey: ± .05, useful; dotted: ± .024, the paper's largest gain\n"
                 "dot: informative null (open: by a hair); cross: undecided", fontsize=9)
figure.suptitle(f"In these four studies {nulls.null.sum()} of {len(nulls)} intervals hold zero, "
                f"but only {nulls.inside.sum()} lie within ± .05");

# %% [markdown]
# **What to see.** Only six lie within ± .05. But nine exclude a *gain* of .05: read each end by
# itself.
#
# Three of the six are *lora*'s sets of tau. They exclude even the paper's largest gain, .024.
# But two of the three hold a *cost* of .024, and all hold a gain of .01: *no row says that there is
# no difference*. And *lora* speaks of one small model, 900 pairs, one $\lambda$.

# %%
lora = nulls[nulls.study == "lora"]
assert lora.inside.tolist() == [False, True, True, True], "informative: lora's sets of tau"
assert (lora.high[1:] < 0.024).all() and (lora.high[1:] > 0.01).all(), "tau, not accuracy"
assert (lora.low[1:] < -0.024).sum() == 2, "two of the three hold a cost of the paper's size"
print(f"{(nulls.high < 0.05).sum()} exclude a gain of .05,",
      f"{(nulls[['low', 'high']].abs().max(axis=1) < 0.024).sum()} lie within ± .024")
nulls.loc[(nulls.study == "lora") | nulls.hair, ["study", "set", "low", "high"]].round(4)

# %% [markdown]
# ## 5. How many intervals were looked at?
#
# Count *all* intervals: every method minus BT, on test and dev sets, in all studies that train
# reward models from the language model with three seeds or more. Four join Section 4's:
#
# - *terms*: BSR and each of its terms; all training pairs, four seeds;
# - *lambda*: BSR at four $\lambda$; 375 pairs, three seeds;
# - *pocket*: BSR $10^{-3}$; all training pairs;
# - *closing_phrase*: a control. No penalty should help there.
#
# Two more are easily forgotten: the spread term in *norms*, and *postscript*'s models on labels of
# people (LLMBar's sets *GPTInst*, *Neighbor*, ...). *Prompt-shifted* is prompt-disjoint with
# rewritten endings (04, Section 8).
#
# **Predict**: how many exclude zero? How many are costs?

# %%
MORE = "terms", "lambda", "pocket", "closing_phrase"
more = {name: read_table(f"data/runs/study_{name}") for name in MORE}
rows = [[study, method, test,  # accuracy doubled, as above
         *np.multiply(cell["difference"], 2 if cell["metric"] == "accuracy" else 1)]
        for study, table in (studies | more).items()
        for method, tests in list(table.items())[1:] for test, cell in tests.items()]

# %%
FORGOTTEN = {  # how many are accuracies: all six, the first
    "postscript, people": ("people/llmbar.md", 6, "spread-1e-1", "bsr-1e-2"),
    "norms, spread": ("study_norms_spread/results.md", 1, "spread")}
PATTERN = r"([-+][.\d]+),? \(?([-+][.\d]+) to ([-+][.\d]+)"  # "+0.069 (+0.014 to +0.123)"
for study, (path, accuracies, *methods) in FORGOTTEN.items():
    for line in Path("data/runs", path).read_text().splitlines():
        method = line.split(" |")[0].removeprefix("| ")
        if method == "method":  # the head of a table
            names = re.findall(r"(\w+) \(", line)
        if method in methods:
            rows += [[study, method, names[i],
                      *np.multiply(list(map(float, x)), 1 + (i < accuracies))]
                     for i, x in enumerate(re.findall(PATTERN, line))]
listed = pd.DataFrame(rows, columns=["study", "method", "set", "mean", "low", "high"])
listed["beyond"] = listed.low * listed.high > 0

# %%
figure, axis = plots.panels()
figure.set_figheight(6.6)
place, ticks = 0, {}
for study, group in listed.groupby("study", sort=False):
    n = group.beyond.sum()
    ticks[f"{study}: {n} of {len(group)}"] = place + (len(group) - 1) / 2 + 2 * n
    for row in group.itertuples():
        tint = "black" if row.beyond else "#CCCCCC"
        place += 2 * row.beyond  # room for its name
        axis.plot((row.low, row.high), (place, place), color=tint, linewidth=1.5)
        axis.plot(row.mean, place, ".", color=tint, markersize=4)
        if row.beyond:
            gain, name = row.low > 0, f"{row.method}, {row.set}"
            axis.annotate("a gain: " * gain + name, (row.high if gain else row.low, place),
                          (4 if gain else -4, 0), textcoords="offset points", fontsize=7,
                          ha="left" if gain else "right", va="center",
                          bbox={"facecolor": "white", "edgecolor": "none", "pad": 0})
        place += 1 + 2 * row.beyond
    place += 3  # a gap between studies
axis.axvline(0, color="black", linewidth=0.8)
axis.set(yticks=list(ticks.values()), yticklabels=list(ticks), ylim=(place, -3), xlim=(-0.59, 0.56))
plots.label(axis, "method minus BT (tau; accuracy, in-domain and on labels of people, doubled)",
            "", f"{listed.beyond.sum()} of {len(listed)} intervals exclude zero (named), "
            f"{(listed.high < 0).sum()} of them costs; "
            f"at 5% each chance gives {0.05 * len(listed):.1f}")

# %%
shared = listed[listed.method.str.startswith("bsr") & listed["set"].isin(SETS)]  # Section 4's sets
others = shared[shared.study.isin(MORE)].replace({"method": {"bsr": "bsr-1e-3"}})  # of pocket
paper = others[others.method == "bsr-1e-3"]
print(f"BSR on Section 4's sets, the other four studies: {others.beyond.sum()} of {len(others)};",
      f"at 1e-3: {paper.beyond.sum()} of {len(paper)}")

# %% [markdown]
# **What to see.** 17 of the 18 are costs (none touches zero). The one gain stands in a record that
# is easily forgotten.
#
# BSR in Section 4: none of 16 excludes zero. In the other four studies, on the same sets, 6 of 32
# do, all costs. At the paper's $\lambda$, $10^{-3}$, it is one of 12.

# %% [markdown]
# Left out: studies of fewer than three seeds, the small worlds (04), heads on a language model not
# trained further. They hold costs and gains (`data/runs/LOG.md`).

# %% [markdown]
# Is 18 of 160 more than chance? Suppose that no difference is real and each interval errs once in
# twenty. Intervals of a study share BT's runs and prompts, so they are correlated. How much we do
# not know. At 0 each errs by itself, at 1 all of a study at once.
#
# **Predict** for 0 and 1: how many exclude zero on average? How probable are 18 or more?

# %%
sizes = listed.groupby(listed.study.str.split(",").str[0]).size()  # "norms, spread" is of norms
rows, fresh, many = {}, np.random.default_rng(0), 50_000
for alike in (0, 0.3, 0.5, 0.7, 1):  # correlation of the intervals of a study
    sides = np.zeros((2, many))  # gains and costs
    for size in sizes:
        z = (math.sqrt(alike) * fresh.standard_normal((many, 1))
             + math.sqrt(1 - alike) * fresh.standard_normal((many, size)))
        sides += [(z > 1.96).sum(1), (z < -1.96).sum(1)]
    enough = sides.sum(0) >= listed.beyond.sum()
    rows[alike] = sides.sum() / many, enough.mean(), (enough & (sides.min(0) <= 1)).mean()
    assert abs(rows[alike][0] - 0.05 * len(listed)) < 0.3, "to err together leaves the mean"
pd.DataFrame.from_dict(rows, orient="index", columns=[
    "expected", "18 or more", "and at most one on the other side"]).rename_axis(
    "correlation").round(3)

# %% [markdown]
# <details><summary>Answer</summary>
#
# On average 8, in both. But 18 or more have a probability of .001 at 0 and of .16 at 1.
# </details>
#
# At 1 that is nearly always one large study, all of whose intervals err. We saw four studies, with
# *some* intervals beyond zero in each. So the truth is likely in between.
#
# And 17 of the 18 are on one side. The last column judges number and side together. (We chose it
# after seeing the 17.) It says .01 to .06 for correlations of .3 to .7. That suggests costs, but
# does not show which. So name one cost, its set and its sign. Then run new seeds, on new prompts
# where you can.

# %% [markdown]
# ## 6. Another question: is it the cause?
#
# A claimed cause takes a **control**: the same training without it, and nothing else changed. After
# many epochs scores on new data may fall. The claim: *false labels are to blame*.
#
# In the world *helps* of notebook 04 a small network learns 300 pairs with BT for 64 epochs (600
# steps). Labels are drawn from BT on gold, so some are false. The control has gold's own,
# and all else the same. A **repetition** draws states, labels and network.
#
# **Predict**: in which of the two do scores fall from epoch 8 (step 75), the first taken in
# training, to the end?

# %%
REPETITIONS = 32
KINDS = {"false labels": worlds.WORLDS["64 epochs"],
         "clean labels": worlds.WORLDS["64 epochs, clean labels"]}
live = {kind: worlds.train(world, {"bt": worlds.OBJECTIVES["bt"]}, REPETITIONS)
        for kind, world in KINDS.items()}
noisy, clean = (worlds.draw(world, REPETITIONS)[0] for world in KINDS.values())
assert torch.equal(noisy.sum(2), clean.sum(2)), "the control has the same pairs, but for the order"
turned = (noisy != clean).flatten(2).any(-1).float().mean()
missed = 1 - live["false labels"][75]["train"].mean()
print(f"false labels: {turned:.2f} of the pairs; of these, ordered as labelled at epoch 8: "
      f"at least {1 - missed / turned:.2f}")

# %%
figure, axes = plots.panels(3, sharex=True, sharey=True)
unit = {test: 2 if test == "in_domain" else 1 for test in SETS}  # accuracy, doubled: in tau's
change = {kind: {test: unit[test] * (seen[600][test] - seen[75][test])[:, 0].numpy()
                 for test in SETS} for kind, seen in live.items()}
change["clean minus false, paired"] = {
    test: change["clean labels"][test] - change["false labels"][test] for test in SETS}
for axis, (kind, by_set) in zip(axes, change.items(), strict=True):
    for place, (test, dots) in enumerate(by_set.items()):
        mean, half = metrics.seed_interval(dots)
        tint = plots.SCENARIO_COLORS[test]
        axis.plot(dots, np.full(len(dots), place), ".", color=tint, alpha=0.35)
        axis.errorbar(mean, place + 0.25, xerr=half, fmt="o", capsize=3, color=tint)
    axis.axvline(0, color="black", linewidth=0.8)
    plots.label(axis, "clean's change minus false's (tau)" if "minus" in kind
                else "change from epoch 8 to 64 (tau)", "", kind)
axes[0].set_yticks(range(4), [test.replace("_", "-") for test in SETS])
axes[0].invert_yaxis()
figure.suptitle("From epoch 8 to 64 false labels cost every score .04 to .06 "
                "(tau; accuracy, doubled)");

# %%
for test, by_repetition in change["clean minus false, paired"].items():
    mean, half = metrics.seed_interval(by_repetition)
    assert mean - half > 0, f"{test}: falseness alone must cost"

# %% [markdown]
# **What to see.** A dot is a repetition, the circle their mean with its 95% interval. Only the last
# panel, paired by repetition, shows the effect of false labels.
#
# <details><summary>Answer</summary>
#
# With false labels in-domain and prompt-disjoint fall. On new sources the intervals hold zero. With
# clean labels all four rise.
# </details>

# %% [markdown]
# Remove the falseness alone, and scores rise: *that* is shown, in this world. *How* false labels do
# it is not: "they are learned by heart" needs a second control, without repetition. And nine in ten
# false labels were learned by epoch 8, so part of the cost may have come earlier.

# %% [markdown]
# ## Exercises
#
# **1.** A report says: "better in all four seeds". Suppose that the methods are equal, so that a
# seed is a fair coin. How probable is it that at least `k` of `seeds` agree, on either side? (`k`
# is more than half of them.) Then: from how many seeds on is "all agree" rarer than .05?

# %%
def chance_of_agreement(k, seeds):
    return None


checks.check_chance_of_agreement(chance_of_agreement);

# %% [markdown]
# **2.** Training a seed costs `cost_seed`, having a prompt's answers judged costs `cost_prompt`.
# Leave out the rest: $\mathrm{Var}(\bar d) = V_\text{seed}/S + V_\text{prompt}/P$. How many seeds
# (a real number) are best for a `budget`? `sd_seed` and `sd_prompt` are the roots of the two
# variances.
#
# Then: a seed costs 100, a prompt 1, the budget is 640. How many seeds for .011 and .029? Add the
# rest, .176, and try $S$ from 2 to 6. Which way does the best $S$ move, and why?
#
# <details><summary>Hint</summary>
#
# At the best split: what does one more unit of money buy if spent on seeds, and what on prompts?
# </details>

# %%
def best_seeds(sd_seed, sd_prompt, cost_seed, cost_prompt, budget):
    return None


checks.check_best_seeds(best_seeds);

# %% [markdown]
# **3.** Only what is found gets reported: intervals that exclude zero, on either side. By which
# factor is the *size* of a reported difference too large, on average? `ends`, a tensor (studies,
# 2), holds the ends of many intervals. The mean of each is its middle. `truth` is the true
# difference, perhaps negative: compare sizes.
#
# Then run the cell below and multiply. Which size does a study like ours report, on average, when
# .01 is true, and when .02 is? Can you tell the two from a reported .024 (last two columns)?

# %%
def exaggeration(ends, truth):
    return None


checks.check_exaggeration(exaggeration);

# %%
rows = {}
for truth in (0.01, 0.02, 0.04, 0.06):
    ends = torch.tensor(intervals[:, 2]) + truth
    factors = [exaggeration(one[None], truth) for one in ends[ends.prod(1) > 0]]  # study by study
    rows[truth] = 3 * [None]
    if factors[0] is not None:  # None: not attempted yet
        sizes = truth * np.array([float(x) for x in factors])
        rows[truth] = [float(exaggeration(ends, truth)), *np.quantile(sizes, (0.1, 0.9))]
pd.DataFrame.from_dict(rows, orient="index", columns=[
    "reported over true", "reported: 10% are below", "90% are below"],
).rename_axis("true difference").round(3)

# %% [markdown]
# **4.** *Judge two records*: *terms* and *lambda*. From an interval's ends and the useful
# difference return a verdict: 1 gain, -1 cost, however tiny, 0 informative null, 2 undecided.
#
# Before running the cell below, guess: how many of the 36 verdicts of *terms* are 0?
#
# Afterwards: (a) Where may you say "no difference of .05" (accuracy: .025), where "none at all"?
# (b) *bsr-1e-3* on mutual-disjoint is judged twice. Do the two verdicts contradict each other?
#
# <details><summary>Hint</summary>
#
# Five marks on a line: minus useful, zero, useful, the ends. Which orders are there?
# </details>

# %%
def verdict(low, high, useful):
    return None


checks.check_verdict(verdict);

# %%
judged = {(name, method): cells for name in ("terms", "lambda")
          for method, cells in list(read_table(f"data/runs/study_{name}").items())[1:]}  # not BT
verdicts = {key: {  # useful: 2.5 of 100 pairs, as in Section 4
    test: verdict(*cell["difference"][1:], 0.025 if test == "in_domain" else 0.05)
    for test, cell in cells.items()} for key, cells in judged.items()}
pd.DataFrame.from_dict(verdicts, orient="index")

# %% [markdown]
# ## Check yourself
#
# 1. Two methods share prompts, not seeds. What stays in their difference?
# 2. If seeds scatter by .011, an interval hardly narrows beyond a thousand prompts. Why, and when
#    would it go on?
# 3. An interval excludes zero over prompts alone, not over both. Which do you quote?
# 4. A study of low power excludes your useful gain. Is it excluded?
# 5. BT falls; another method's interval holds zero. Do they differ?

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1. The luck of each method's own seeds: it no longer cancels.
# 2. The seeds' scatter is left: add seeds. Where seeds do not scatter it goes on.
# 3. The one over seeds and prompts; the other speaks of these runs only.
# 4. Yes, at 95%. Power is for planning; afterwards the ends speak.
# 5. Not shown. Take the difference of the two, paired.
# </details>

# %% [markdown]
# ## What to watch, what to vary
#
# | In your run, watch | Here | If not, or next, vary |
# |---|---|---|
# | 1. seed means correlate | .92, a guess from four | near 0: sharing seeds brings little |
# | 2. scatter of the seeds | .011 (0 to .058) | large: only more seeds help |
# | 3. smallest difference found | response-disjoint .034, perhaps .13 | plan for .13; add seeds |
# | 4. the interval's ends | *lora*: tau within ± .05 | one outside: undecided |
# | 5. intervals beyond zero | 18 of 160, *lora* none (chance: 8.0) | name one; new seeds, prompts |

# %% [markdown]
# ## What you know now
#
# **"We found no difference" says only what the paired interval, over seeds *and* prompts, leaves
# outside. So ask before the run what it could find.**
#
# Here four seeds need 4.2 standard errors, not 2.8. And a cause takes a control that differs in one
# thing.
#
# Verdict on *lora*'s BSR: in tau *no difference that matters*, in-domain *undecided*.
#
# Next: **07 · Which of the paper's claims about over-optimization hold here?**
