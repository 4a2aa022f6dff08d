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
# Two methods were trained, one scores higher. Is it better? The paper's gains on its three disjoint
# sets are .001 to .024 of tau (Table 5). Differences of that size appear by chance. Before you may
# say *better*, *worse*, *no difference that matters* or *undecided*, five questions want an answer,
# one a section:
#
# 1. Is it paired?
# 2. Does the interval speak of new seeds *and* new prompts?
# 3. How large a difference could the study have found?
# 4. Where do the ends of the interval lie?
# 5. How many intervals were looked at?
#
# Section 6 asks another: what is the cause?

# %% [markdown]
# Words from before: *tau*, *gold*, the rule that makes the true labels (notebook 01); *in-domain*,
# *prompt-*, *response-* and *mutual-disjoint* (02, Section 5); *BSR* (Eq. 25, 03), its *level* and
# *spread term*, the small worlds, and *dev*, prompts kept for choices (04). **BT** is training with
# the Bradley-Terry loss alone.

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
# How far do scores scatter by luck alone? The study *lora*: 900 pairs, LoRA (05) on 10 layers of
# this repository's small language model, 240 prompts a set, four **seeds**. A seed sets the start
# (head and adapters) and the order of the batches, nothing else.
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
# Two of the three disjoint sets spread over more than the paper's largest gain: .056 and .083. So
# one run of a method against one run of another can show such a "gain" where there is none.
# </details>

# %% [markdown]
# BSR ($\lambda = 10^{-3}$) was trained with the same four seeds and scored on the same prompts. So
# the comparison can be **paired**: same seed, same prompt, BSR minus BT. What both methods share,
# such as a hard prompt, drops out.

# %% [markdown]
# The **standard error** of a mean is its standard deviation over imagined repetitions of the study.
# A **95% interval** is made so that in 95 of 100 repetitions it holds the true difference.
#
# Its half-width is the standard error times a factor $t$: 1.96 where the error is known, 3.18 where
# it is estimated from four numbers. (Student's t with three *degrees of freedom*, four less one for
# the mean.)
#
# **Predict**: by which factor does sharing the prompts shrink the standard error of BSR minus BT?
# And sharing the seeds, too?

# %%
SHARED = ["nothing", "prompts", "prompts and seeds"]


def errors_and_halves(x, y):  # of the mean of y - x, one row for each of SHARED
    three = [statistics.two_way_interval(v) for v in (x, y, y - x)]  # mean, low, high, error
    errors = np.array([(error, (high - low) / 2) for _, low, high, error in three])
    error = math.hypot(x.mean(1).std(ddof=1), y.mean(1).std(ddof=1)) / math.sqrt(len(x))
    same_prompts = (error, metrics.t_quantile(2 * len(x) - 2) * error)  # seeds' scatter only
    return np.array([np.hypot(*errors[:2]), same_prompts, errors[2]])  # two samples add as squares


# %%
scores = {test: (per_prompt("bt", test), per_prompt("bsr", test)) for test in SETS}
compared = {test: errors_and_halves(*both) for test, both in scores.items()}
table = pd.DataFrame({test: x[:, 0] for test, x in compared.items()}, index=SHARED).T.round(4)
table["factor of prompts"] = (table.nothing / table.prompts).round(1)
table["of seeds"] = (table.prompts / table["prompts and seeds"]).round(1)
table["seed means correlate"] = [np.corrcoef(x.mean(1), y.mean(1))[0, 1].round(2)
                                 for x, y in scores.values()]

# %%
bt, bsr = scores["response_disjoint"]
mean, low, high, together = statistics.two_way_interval(bsr - bt)
r = np.corrcoef(bt.mean(1), bsr.mean(1))[0, 1]  # Fisher: atanh r errs by 1 / sqrt(4 - 3)
print(f"95% of r = {r:.2f}:", np.tanh(np.arctanh(r) + np.array([-1.96, 1.96])).round(2).tolist())
table.head()  # standard errors of BSR minus BT, by what is shared (prompts: seeds' scatter only)

# %%
figure, (left, middle, right) = plots.panels(3)
left.plot(bt.mean(0), bsr.mean(0), ".", color=plots.COLORS["bsr"], alpha=0.5)
left.plot([-1, 1], [-1, 1], color="black", linewidth=0.8)
plots.label(left, *(f"tau of {name}, mean of four seeds" for name in ("BT", "BSR")),
            "a dot a prompt")
for ends in zip(bt.mean(1), bsr.mean(1), strict=True):
    middle.plot((0, 1), ends, "o-", color=plots.COLORS["bsr"], alpha=0.7)
middle.set(xticks=(0, 1), xticklabels=("BT", "BSR"), xlim=(-0.4, 1.4))
plots.label(middle, "", "tau, mean of 240 prompts", "a line a seed")
for place, (error, half) in enumerate(compared["response_disjoint"]):
    right.errorbar(place, mean, half, fmt="o", capsize=4, color="black")
    right.text(place, mean + half + 0.005, f"± {half:.3f}\nt = {half / error:.2f}", ha="center")
right.plot(np.full(4, 2.25), (bsr - bt).mean(1), "o", color=plots.COLORS["bsr"], alpha=0.6)
right.text(2.4, -0.04, "a dot\na seed", color=plots.COLORS["bsr"], va="top", ha="center")
right.axhline(0, color="black", linewidth=0.8)
right.set(xticks=range(3), xticklabels=("nothing", "prompts", "prompts\nand seeds"),
          xlim=(-0.5, 2.9), ylim=(-0.11, 0.125))
plots.label(right, "shared by the methods", "BSR minus BT (tau), 95% interval",
            "one difference, three intervals")
narrower = np.divide(*compared["response_disjoint"][[0, 2], 1])
figure.suptitle("Response-disjoint: sharing prompts and seeds makes the interval "
                f"{narrower:.1f} times narrower");

# %% [markdown]
# **What to see.** A prompt that is hard for BT is hard for BSR. These seeds rank nearly alike.
#
# <details><summary>Answer</summary>
#
# On response-disjoint the error shrinks 1.8 times for the prompts, another 3.1 times for the seeds.
# (Column *prompts* counts only the scatter between seeds. What shared prompts add is small: Section
# 2.) Seeds help least where seed means hardly correlate: 1.1 times on mutual-disjoint. But four
# seeds only guess correlations: the 95% interval of the .92 is -.36 to 1.00.
#
# The interval narrows less, 3.5 times, for $t$ grows. Unpaired, most of the error is prompts, known
# from 240: $t$ is 2.05. Paired, what is left is known from four seeds: 3.18.
# </details>
#
# So pair whatever can be paired.

# %% [markdown]
# ## 2. Does the interval speak of new seeds *and* new prompts?
#
# Write $d_{ij}$ for the paired difference of seed $i$ on prompt $j$, $D$ for the true difference,
# $V$ for a variance, $S$ and $P$ for the numbers of seeds and prompts. *Rest* is what is left, this
# seed on this prompt:
#
# $$d_{ij} = D + \text{seed}_i + \text{prompt}_j + \text{rest}_{ij}, \qquad
# \mathrm{Var}(\bar d) = \frac{V_\text{seed}}{S} + \frac{V_\text{prompt}}{P} +
# \frac{V_\text{rest}}{S\,P}.$$
#
# An interval over seeds alone misses the second term, one over prompts alone the first.

# %% [markdown]
# *Mean squares* (MS) estimate the terms. On average that of the seeds is
# $V_\text{rest} + P\,V_\text{seed}$, that of the prompts $V_\text{rest} + S\,V_\text{prompt}$,
# that of the rest $V_\text{rest}$. So the variance above is
# $(\mathrm{MS}_\text{seed} + \mathrm{MS}_\text{prompt} - \mathrm{MS}_\text{rest}) / (S\,P)$.
#
# Four seeds know their scatter badly. If seed means are normal (four cannot show it), three times
# their MS, over its average, follows chi-square with three degrees of freedom. Its middle 95% reach
# from .216 to 9.348 (`seed_limits`).

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


def seed_limits(d):  # 95%: MS of four seeds over chi-square quantiles, three degrees of freedom
    of_seeds, _, of_rest = mean_squares(d)
    return [math.sqrt(max(3 * of_seeds / q - of_rest, 0) / d.shape[1]) for q in (9.348, 0.216)]

# %%
d = bsr - bt
of_seeds, of_prompts, of_rest = mean_squares(d)
total = max(of_seeds + of_prompts - of_rest, of_seeds, of_prompts)  # not below either alone
assert math.isclose(math.sqrt(total / d.size), together), "the library's standard error is this one"
freedom = total**2 / (of_seeds**2 / 3 + of_prompts**2 / 239 + of_rest**2 / (3 * 239))
part = np.square(deviations(d)) / (4, 240, d.size)
ends = np.square(seed_limits(d)) / 4
print("share of the seeds, 95%:", (ends / (ends + part[1:].sum())).round(2).tolist())
print(f"seeds + prompts - rest: {total:.4f}; degrees of freedom: {freedom:.1f}")
pd.DataFrame({"mean square": np.round((of_seeds, of_prompts, of_rest), 4),
              "standard deviation": np.round(deviations(d), 3),
              "share of the variance of the mean": (part / part.sum()).round(2)},
             index=["seeds", "prompts", "rest"])

# %% [markdown]
# Of a single paired difference nearly all is rest (.176). In the *mean* the seeds are divided by 4
# only: they make half of its variance, prompts a twentieth. But four seeds hardly know their own
# share: 0 to .96 is possible.
#
# And $t$? It lies between 1.97 (only prompts scatter) and 3.18 (only seeds do). Satterthwaite's
# rule, in `two_way_interval`, weighs the mean squares: in the sum above the seeds' is .060 of .064.
# That is more than their .46 of the variance, for a seed's mean square holds the rest, too. So 3.3
# degrees of freedom are left, rounded down to 3.

# %%
def three_intervals(x):  # (3, 2): low and high, over seeds, over prompts, over both
    sides = [metrics.seed_interval(x.mean(axis)) for axis in (1, 0)]
    return [*((mean - half, mean + half) for mean, half in sides),
            statistics.two_way_interval(x)[1:3]]


OVER = ["seeds alone", "prompts alone", "both"]
pd.DataFrame(three_intervals(d), index=[f"over {name}" for name in OVER],
             columns=["low", "high"]).assign(width=lambda t: t.high - t.low).round(3)

# %% [markdown]
# Over prompts alone the interval is less than half as wide. Which of the three holds the truth in
# 95 of 100 studies? Make up studies of normal numbers with this one's three standard deviations and
# a true difference of zero, and count.
#
# **Predict**: how often does each of the three hold zero?

# %%
rng = np.random.default_rng(0)
sd_seed, sd_prompt, sd_rest = scatter_here = deviations(d)


def made_up(seeds, prompts, scatter=scatter_here):  # a study in which the true difference is zero
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
both, prompts_alone = holds[:, 2].mean(), holds[:, 1].mean()
assert 0.93 < both < 0.99, "the interval over both must hold the truth about as often as it says"
assert prompts_alone < both - 0.05, "an interval that leaves the seeds out must be too narrow"
for sd in (0, seed_limits(d)[1]):  # the seeds' scatter moves these intervals and no more
    spread = math.sqrt(sd**2 / 4 + sd_prompt**2 / 240 + sd_rest**2 / 960)
    halves = np.ptp(intervals[:, 1], axis=1) / 2
    missed = np.mean([math.erfc(x / spread / math.sqrt(2)) for x in halves])  # two-sided, normal
    print(f"seeds scatter by {sd:.3f}: {missed:.0%} of the intervals over prompts alone miss zero")

# %% [markdown]
# **What to see.** Black intervals miss the truth, zero. Over prompts alone 16 of 100 miss, not 5,
# if seeds scatter by .011 as estimated. If by 0, about 5 miss; if by .058, 69. Four seeds exclude
# neither. Over seeds alone the count is right here, where prompts make little of the variance. Over
# both the interval is a little too careful. Quote that one.

# %% [markdown]
# ## 3. How large a difference could the study have found?
#
# A study may find nothing because there is nothing, or because it could not. A **positive
# control** tells whether it could: add a known difference to every made-up study, and count how
# many intervals exclude zero. That share is the **power**. (Whether there is nothing it does not
# tell: Section 4.)
#
# The textbooks' rule: a difference of 2.8 standard errors has a power of .80. (1.96 for the
# interval, .84 for the 80% quantile of the normal distribution.)
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
axis.text(0.0255, 0.9, "if the standard error were known", color="#555555", ha="right")
axis.text(0.0005, 0.815, "four of five")
axis.text(0.0285, 0.6, "this study: four seeds, error estimated")
plots.label(axis, "true difference (tau)", "share of 1,000 studies that find it",
            f"Of effects of 2.8 standard errors ({2.8 * true_error:.3f}) "
            "four seeds find fewer than half")

# %%
rule = (abs(normal + 2.8) > 1.96).mean()
assert abs(rule - 0.8) < 0.01, "the rule of 2.8 is right where the standard error is known"
assert power(2.8 * true_error) < 0.55, "with four seeds it must not be"
assert power(0) < 0.06, "without an effect at most one study in twenty finds one"
print("power by true difference:", {x: float(power(x)) for x in (0, 0.01, 0.024)})
four = np.random.default_rng(1).standard_normal((100_000, 4))  # four seeds, nothing else
t = metrics.t_quantile(3)  # 3.18: four numbers leave three degrees of freedom
lower = four.mean(1) - t * four.std(1, ddof=1) / 2
ratio = np.quantile(-lower, 0.8) / 0.5  # their mean has a standard error of .5
print(f"four independent numbers, Student's t: power .80 at {ratio:.2f} standard errors")
assert 4.2 < ratio < 4.3, "a t interval of four numbers needs 4.25 standard errors, not 2.8"

# %% [markdown]
# **What to see.** At zero both lines are false alarms, in at most one of twenty studies. The black
# one rises later, for four seeds tell little of their own scatter.
#
# <details><summary>Answer</summary>
#
# Under one half. For a power of .80 four independent normal numbers need 4.25 standard errors. This
# study needs 4.2: a difference of .034. It finds the paper's largest gain, .024, about every second
# time, and .01 one time in eight.
# </details>

# %% [markdown]
# ### More seeds or more prompts?
#
# More prompts shrink the last two terms of Section 2's formula. $V_\text{seed}/S$ is left: a floor.
#
# **Predict**: the paper trains four seeds, too, and holds out 12,800 prompts. If its seeds
# scattered by .011, as ours seem to do, how often would it find a difference of .01?

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
# **What to see.** Black: from 960 prompts on twice the seeds help more than 13 times the prompts.
# Dashed: without scatter of seeds prompts are all you need; with .058 they hardly help, and this
# study (240 prompts) would need a difference of .13. Four seeds do not say which it is. *Plan for
# the larger.*
#
# <details><summary>Answer</summary>
#
# About once in four. To find .01 in four of five studies takes, on the black lines, 16 seeds and
# 960 prompts, or 32 seeds and 240. (Roughly: 300 studies a point.)
# </details>

# %% [markdown]
# ## 4. Where do the ends of the interval lie?
#
# "No significant difference" says little: a study of two prompts finds none either. Read the *ends*
# of the interval: what lies outside is excluded, at 95%.
#
# An interval without zero says *better* or *worse*, however small. (If you named it before:
# Section 5.) For one that holds zero, say before the run which difference is **useful**. Here 2.5
# more of 100 pairs in gold's order: .05 of tau (notebook 01), .025 of accuracy (doubled below). The
# interval is
# - an **informative null** (*no difference that matters*) when it lies inside ± that;
# - **undecided** when it does not.
#
# (Our choice, made *after* the runs: about twice the paper's largest gain.)

# %% [markdown]
# Here is BSR minus BT in four studies, on the sets that all four share: *lora*; *norms* (full
# fine-tuning); *judged* (real judged answers); *postscript* (every answer carries a line about
# something else). $\lambda$ is $10^{-3}$, in *postscript* $10^{-2}$. No rule made before the runs
# picked these four. Section 5 has four more, and they look different. So learn here to read ends,
# and count there.
#
# Prompts of one topic are alike. So from here on the columns of Section 2's table $d_{ij}$ are
# **topics**, each weighed by its number of prompts: the mean stays the same (`metrics.clustered`).
# (*judged* has none on record.)
#
# **Predict**: of these intervals, how many hold zero? How many of those exclude .05?

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
figure, axes = plots.panels(2, sharex=True)
for axis, pair in zip(axes, (["lora", "norms"], ["judged", "postscript"]), strict=True):
    some = nulls[nulls.study.isin(pair)]
    axis.axvspan(-0.05, 0.05, color="#DDDDDD", linewidth=0)
    for x, style in ((0, "-"), (-0.024, ":"), (0.024, ":")):
        axis.axvline(x, color="black", linewidth=0.8, linestyle=style)
    for place, row in enumerate(some.itertuples()):
        axis.errorbar(row.mean, place, xerr=[[row.mean - row.low], [row.high - row.mean]],
                      fmt="o" if row.inside else "x" if row.null else "D", capsize=3,
                      color="black", markerfacecolor="white" if row.hair else "black")
    axis.set_yticks(range(len(some)), some.study + ", " + some.set)
    axis.set(ylim=(len(some) + 0.1, -0.9), xlim=(-0.26, 0.26))
    plots.label(axis, "BSR minus BT (tau; accuracy, doubled)", "", f"{seeds[pair[0]]} seeds each")
    assert seeds[pair[0]] == seeds[pair[1]], "the title speaks of both studies"
figure.supxlabel("grey: ± .05, useful; dotted: ± .024, the paper's largest gain\n"
                 "dot: informative null (open: by a hair); cross: undecided", fontsize=9)
figure.suptitle(f"In these four studies {nulls.null.sum()} of {len(nulls)} intervals hold zero, "
                f"but only {nulls.inside.sum()} exclude 2.5 in 100 pairs");

# %% [markdown]
# **What to see.** *lora* is informative in its three sets of tau: at 95% a set, whatever BSR does
# there is less than .05. Even the paper's largest gain, .024 (dotted), lies outside, a gain of .01
# inside. In-domain *lora* is undecided: a cost of .05 lies well inside, a gain by a hair.
#
# *No row says that there is no difference.* And *lora* speaks of this small model, 900 pairs, this
# $\lambda$. (In *lambda*, with 375 pairs and three seeds, mutual-disjoint lies below zero at this
# $\lambda$: Section 5.)
#
# Do not lean on the open circle: it ends at .0499, topics not drawn. With .048, exactly twice the
# paper's gain, it would be undecided.

# %%
lora = nulls[nulls.study == "lora"]
assert lora.inside.tolist() == [False, True, True, True], "informative: lora's sets of tau"
assert (lora.high[1:] < 0.024).sum() == 3 and (lora.high[1:] > 0.01).all(), "tau, not accuracy"
nulls.loc[(nulls.study == "lora") | nulls.hair, ["study", "set", "low", "high"]].round(4)

# %% [markdown]
# ## 5. How many intervals were looked at?
#
# Count *all* intervals, not only those you like. First the differences to BT, on test and dev sets,
# of every study that trains reward models from the language model with three seeds or more: Section
# 4's four; *terms* (BSR and each of its terms); *lambda* (BSR at four $\lambda$); *pocket* (BSR
# $10^{-3}$ on all training pairs); *closing_phrase* (a control, built so that no penalty should
# help). Then two records easily forgotten: *postscript*'s models on labels of people, the spread
# term in *norms*.
#
# **Predict**: how many of all these intervals exclude zero? How many of those are costs?

# %%
MORE = "terms", "lambda", "pocket", "closing_phrase"
more = {name: read_table(f"data/runs/study_{name}") for name in MORE}
rows = [[study, method, test,  # accuracy doubled, as above
         *np.multiply(cell["difference"], 2 if cell["metric"] == "accuracy" else 1)]
        for study, table in (studies | more).items()
        for method, tests in list(table.items())[1:] for test, cell in tests.items()]
every = pd.DataFrame(rows, columns=["study", "method", "set", "mean", "low", "high"])

# %%
FORGOTTEN = {  # how many are accuracies: all six, the first
    "postscript, people": ("people/llmbar.md", 6, "spread-1e-1", "bsr-1e-2"),
    "norms, spread": ("study_norms_spread/results.md", 1, "spread")}
PATTERN = r"([-+][.\d]+),? \(?([-+][.\d]+) to ([-+][.\d]+)"  # "+0.069 (+0.014 to +0.123)"
rows = []
for study, (path, accuracies, *methods) in FORGOTTEN.items():
    for line in Path("data/runs", path).read_text().splitlines():
        method = line.split(" |")[0].removeprefix("| ")
        if method in methods:
            rows += [[study, method, "", *np.multiply(list(map(float, x)), 1 + (i < accuracies))]
                     for i, x in enumerate(re.findall(PATTERN, line))]
listed = pd.concat([every, pd.DataFrame(rows, columns=every.columns)])
listed["beyond"] = listed.low * listed.high > 0
every = listed.iloc[:len(every)]

# %%
figure, axis = plots.panels()
figure.set_figheight(6)
for kind, name in {"bsr": "BSR", "level": "level alone", "spread": "spread alone"}.items():
    axis.plot([], [], color=plots.COLORS[kind], label=name)
place, ticks = 0, {}
for study, group in listed.groupby("study", sort=False):
    ticks[f"{study}: {group.beyond.sum()} of {len(group)}"] = place + (len(group) - 1) / 2
    for row in group.itertuples():
        tint = plots.COLORS[row.method.split("-")[0]] if row.beyond else "#CCCCCC"
        axis.plot((row.low, row.high), (place, place), color=tint, linewidth=1.5)
        axis.plot(row.mean, place, ".", color=tint, markersize=4)
        if row.beyond and row.low > 0:
            axis.annotate("a gain", (row.high, place), (5, 3), textcoords="offset points",
                          bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5})
        place += 1
    place += 3  # a gap between studies
axis.axvline(0, color="black", linewidth=0.8)
axis.set_yticks(list(ticks.values()), list(ticks))
axis.set_ylim(place, -3)
axis.legend(frameon=False, title="excludes zero", loc="lower left")
plots.label(axis, "method minus BT (tau; accuracy, in-domain and on labels of people, doubled)",
            "", f"{listed.beyond.sum()} of {len(listed)} intervals exclude zero, "
            f"{(listed.high < 0).sum()} of them costs; "
            f"at 5% each chance gives {0.05 * len(listed):.1f}")

# %%
shared = every[every.method.str.startswith("bsr") & every["set"].isin(SETS)]  # Section 4's sets
others = shared[shared.study.isin(MORE)]
print(f"BSR on Section 4's sets, the other four studies: {others.beyond.sum()} of {len(others)}",
      "exclude zero:", others[others.beyond].groupby(["study", "method"]).size().to_dict())
print(f"Without the two forgotten records: {every.beyond.sum()} of {len(every)} exclude zero")

# %%
where = ["Section 4's four" if study in studies else "the other four" if study in MORE
         else "the forgotten" for study in listed.study]
of_bsr = listed.beyond & listed.method.str.startswith("bsr")
above = of_bsr & listed.method.isin(["bsr-1e-2", "bsr-1e-1"])  # 1e-3: the paper's
sides = pd.DataFrame({"intervals": 1, "costs": listed.high < 0, "gains": listed.low > 0,
                      "of these BSR": of_bsr, "lambda > 1e-3": above})
sides = sides.groupby(where, sort=False).sum()
pd.concat([sides, sides.sum().to_frame("all").T])

# %% [markdown]
# **What to see.** In the upper eight studies all fifteen are costs. With the two forgotten records
# one of 18 is a *gain*. So "all are costs" depends on where you stop counting. Of BSR's thirteen
# eleven are at more than the paper's $\lambda$. On Section 4's four sets BSR shows none in Section
# 4's studies, six in the other four.
#
# (In *postscript* centering and L2, in *terms* some runs, were trained in 32 bits, their BT in 16.
# Those differences hold the number format, too; none excludes zero.)

# %% [markdown]
# And what was left out? Studies with fewer than three seeds: *study_fast*, *dev_lambda* (a choice
# on dev), *PandaLM* (*postscript*'s models on labels of people). The small worlds (04). And heads
# on states of the language model, which was not trained there. Below are all that have a table, but
# for the worlds. Replaced runs, single seeds and a repetition of *study_fast* (two costs) stand in
# the log.

# %%
left_out = {"study_fast": [
    cell["difference"] for cell in read_table("data/runs/study_fast")["bsr"].values()]}
for name, path in {"dev_lambda": "dev_lambda/results.md", "PandaLM": "people/pandalm.md"}.items():
    left_out[name] = re.findall(PATTERN, Path("data/runs", path).read_text())
left_out |= {name: [cell["difference"] for world in read_table(f"data/runs/{name}").values()
                    for method in list(world.values())[1:] for cell in method.values()]
             for name in ("linear", "linear_weak_ridge")}
log, heads = Path("data/runs/LOG.md").read_text(), []
for name in ("frozen", "frozen_long"):
    entry = log.split(f"\n## 2026-11-24 `{name}`")[1].split("\n## ")[0]
    left_out[name] = re.findall(PATTERN, entry)
    heads += re.findall(PATTERN, "".join(re.findall(r"\| BSR 1e.*", entry)))  # those of BSR

# %%
CARE = {"study_fast": "two seeds, over prompts alone",
        "dev_lambda": "over prompts alone; BT has another learning rate",
        "PandaLM": "one seed, over prompts alone; gain: spread term",
        "linear": "repeats pairs, not seeds",
        "linear_weak_ridge": "repeats pairs, not seeds",
        "frozen": "fifty seeds, only a head; from the log, no topics",
        "frozen_long": "fifty seeds, only a head; from the log, no topics"}

# %%
rows = {}
for name, cells in left_out.items():
    ends = np.array(cells, float)[:, 1:]
    gains, costs = (ends > 0).all(1).sum(), (ends < 0).all(1).sum()
    rows[name] = (len(cells), gains + costs, round(0.05 * len(cells), 1), gains, costs, CARE[name])
pd.DataFrame.from_dict(rows, orient="index", columns=[
    "intervals", "exclude zero", "at 5% each", "gains", "costs", "read with care"])

# %%
ends = np.array(heads, float)[:, 1:]
beyond = ends[ends.prod(1) > 0]
print(f"BSR in frozen and frozen_long: {len(beyond)} of {len(ends)} exclude zero,",
      f"their ends from {beyond.min():.3f} to {beyond.max():.4f}")

# %% [markdown]
# *linear* is that of 04, Section 8; *linear_weak_ridge* repeats it with a weaker ridge. Intervals
# over prompts alone are too sure (Section 2).
#
# In *frozen* and *frozen_long* 13 of BSR's 21 intervals exclude zero: all costs, all inside ± .05.
# So fifty seeds find costs of BSR smaller than what Section 4 calls useful. Of a trained backbone
# that says nothing.
#
# Gains are among those left out, too. So name *all* that you leave out.

# %% [markdown]
# Is fifteen of 144 more than chance? (The two forgotten records are left out here.) Suppose that no
# difference is real and each interval errs once in twenty. Intervals of a study share BT's runs and
# prompts, so they tend to err together. Two extremes: all err independently, or all of a study at
# once.
#
# **Predict** for both: how many exclude zero on average? How probable are fifteen or more?

# %%
def chances(blocks, p=0.05):  # of 0, 1, 2, ... errors, if the intervals of a block err at once
    total = np.ones(1)
    for size in blocks:
        block = np.zeros(size + 1)
        block[[0, -1]] = 1 - p, p
        total = np.convolve(total, block)  # the number of errors of two independent blocks
    return total


count, sizes = every.beyond.sum(), every.groupby("study").size()
rows = {}
for kind, blocks in {"all independent": [1] * len(every), "a study's at once": sizes}.items():
    chance = chances(blocks)
    rows[kind] = chance @ np.arange(len(chance)), chance[0], chance[count:].sum()
    assert math.isclose(rows[kind][0], 0.05 * len(every)), "to err together leaves the mean"
pd.DataFrame.from_dict(rows, orient="index", columns=[
    "expected", "chance of none", f"chance of {count} or more"]).round(4)

# %% [markdown]
# <details><summary>Answer</summary>
#
# On average 7.2, in both. But fifteen or more come once in some 170 times if all are independent,
# once in five if those of a study err at once.
# </details>
#
# (These intervals may err more rarely than 5%: of Section 2's made-up studies 3.3% missed zero. At
# that rate chance gives about 5 of the 144.)
#
# So fifteen is more than expected. The two extremes leave open how rare that is by chance:
# intervals of a study share runs, yet are no copies. (Nor are studies independent: all except
# *judged* share prompts and pairs.) To know whether one is a cost, name its set and sign, then run
# new seeds, on new prompts where you can.

# %% [markdown]
# ## 6. Another question: is it the cause?
#
# A claimed cause takes a **control**: the same training without it, and nothing else changed. After
# many epochs scores on new data may fall. The claim: *false labels are to blame*.
#
# The world *helps* of notebook 04: a small network learns 300 pairs with BT for 600 steps (64
# epochs). Labels are drawn from BT on gold, so some are false; the control has gold's own. A
# **repetition** draws states, labels and network; both trainings share all but the false labels.
#
# **Predict**: in which of the two do scores fall from epoch 8 (step 75) to the end?

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
intervals_of = pd.DataFrame(index=SETS, columns=list(change))
for axis, (kind, by_set) in zip(axes, change.items(), strict=True):
    for place, (test, dots) in enumerate(by_set.items()):
        mean, half = metrics.seed_interval(dots)
        intervals_of.loc[test, kind] = f"{mean:+.3f} ± {half:.3f}"
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
intervals_of.head()

# %% [markdown]
# **What to see.** A dot is a repetition, the circle their mean with its 95% interval. Only the last
# panel, paired by repetition, shows the effect of falseness. One interval beyond zero and
# one that holds zero do not show that the two differ.
#
# <details><summary>Answer</summary>
#
# With false labels in-domain and prompt-disjoint fall, by .031 and .019; on new sources the
# intervals hold zero and lie within ± .011. With clean labels all four rise.
# </details>

# %% [markdown]
# Remove the falseness alone, and scores rise: *that* is shown, in this world. *How* false labels do
# it is not: "they are learned by heart" needs a second control, without repetition. And nine in ten
# false labels were learned before step 75, so part of the cost may have come earlier.

# %% [markdown]
# ## Exercises
#
# **1.** A report says: "better in all four seeds". Suppose that the methods are equal, so that a
# seed is a fair coin. How probable is it that at least `k` of `seeds` agree, on either side? (`k`
# is more than half of them.) Then: from how many seeds on is "all agree" rarer than .05?
#
# <details><summary>Hint</summary>
#
# Write all sequences of signs for three seeds. How many are as one-sided as "all agree"?
# </details>

# %%
def chance_of_agreement(k, seeds):
    return None


checks.check_chance_of_agreement(chance_of_agreement);

# %% [markdown]
# **2.** Training a seed costs `cost_seed`, having a prompt's answers judged costs `cost_prompt`.
# Leave out the rest: $\mathrm{Var}(\bar d) = V_\text{seed}/S + V_\text{prompt}/P$. How many seeds
# (a real number; the checker compares four digits) are best for a `budget`? `sd_seed` and
# `sd_prompt` are the roots of the two variances. (Not for Section 2: there the rest is half.)
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
# 2), holds the ends of many intervals; the mean of each is its middle. `truth` is the true
# difference (it may be negative: compare sizes).
#
# Then run the cell below and multiply: which size does a study like ours report, on average, when
# .01 is true, and when .02 is? The last two columns bound the middle 80% of reports. Can you tell
# the two from a reported .024?
#
# <details><summary>Hint</summary>
#
# Which studies find a small effect: those whose luck was good, bad or middling?
# </details>

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
# Before running the cell below: three of *terms*' methods (BSR $10^{-2}$, level $10^{-2}$, spread
# $10^{-1}$) have 15 intervals of tau, six with a half-width below .05, and three of accuracy, one
# below .025. At most how many of the 18 verdicts can be 0? Afterwards: (a) Where may you say "no
# difference of .05" (accuracy: .025), where "none at all"? (b) Which $\lambda$ has the most costs?
# What would you do before writing so?
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
JUDGED = {"terms": ("bsr-1e-2", "level-1e-2", "spread-1e-1"),
          "lambda": ("bsr-1e-4", "bsr-1e-3", "bsr-1e-2", "bsr-1e-1")}
judged = {(name, method): read_table(f"data/runs/study_{name}")[method]
          for name, methods in JUDGED.items() for method in methods}
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
# 3. It excludes zero over prompts alone, not over both. Which do you quote?
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
# | 1. seed means correlate | .92 (-.36 to 1.00) | near 0: little gain, but free |
# | 2. seeds' share of variance | .46 (0 to .96) | near 1: only seeds help; near 0: prompts, too |
# | 3. smallest difference found | .034; if seeds scatter most, .13 | plan for .13; add seeds |
# | 4. the interval's ends | *lora*: tau within ± .05 | one outside: undecided; add seeds |
# | 5. intervals beyond zero | 18 of 160 (5% each: 8.0) | name one, run new seeds and prompts |

# %% [markdown]
# ## What you know now
#
# **"We found no difference" says only what the paired interval, over seeds *and* prompts, leaves
# outside. So ask before the run what it could find. Where seeds and rest, not prompts, make the
# error, four seeds need about 4.2 standard errors, not 2.8.** A cause takes a control that differs
# in one thing, and the paired difference to it.
#
# *lora*'s BSR by the five questions: paired; over seeds and topics; could find .034
# (response-disjoint, over prompts; more if seeds scatter more); tau within ± .05; four of the 160
# intervals, none beyond zero. Verdict: in tau *no difference that matters*, in-domain *undecided*.
#
# Next: **07 · Which of the paper's claims about over-optimization hold here?**
