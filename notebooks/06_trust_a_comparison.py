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
# Two methods were trained, and one scores higher. Is it better, or was it lucky? The paper's gains
# on its three disjoint sets are .001 to .024 of tau (Table 5). Tau goes from -1 to 1: a gain of
# .024 puts 12 more of 1,000 pairs in order. Before you believe a gain, ask:
#
# 1. Is it paired?
# 2. Does the interval speak of new seeds *and* new prompts?
# 3. How large a difference could the study have found?
# 4. Where do the ends of the interval lie?
# 5. How many intervals were looked at?
#
# Sections 1 to 5, one a question, are the first reading.

# %% [markdown]
# Words from before:
#
# - *BT* trains on pairs of answers. *BSR* adds a penalty, weighted by $\lambda$ (Eq. 25, notebook
#   03).
# - *Gold* is the rule that makes the true labels. *Tau* says how well a model orders the answers to
#   a prompt: 1 is gold's order, -1 the reverse (01).
# - Four test sets: *in-domain*, *prompt-*, *response-* and *mutual-disjoint*. What is disjoint was
#   not seen in training (02, Section 4). In-domain is scored by accuracy, the others by tau.

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
# Take this repository's study *lora*. It trains a small language model on 900 pairs, with LoRA
# (notebook 05). Each test set has 240 prompts. There are four **seeds**. A seed sets the start of
# the training and the order of its batches.
#
# **Predict**: BT is trained four times on the same pairs, each time with another seed. How far
# apart are the largest and the smallest score? Compare with the paper's largest gain, .024.

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
# By more than .024 on two of the three disjoint sets: by .056 and .083.
# </details>
#
# All four rows are the *same* method. So of two equal methods, trained once each, one can show a
# "gain" larger than the paper's largest. (The paper has larger models and more prompts:
# our scatter does not make *its* gains luck.)

# %% [markdown]
# Now BSR ($\lambda = 10^{-3}$). It was trained with the same four seeds and scored on the same
# prompts. So every score of BSR has a partner: BT's score with the same seed on the same prompt. A
# comparison is **paired** if it subtracts partner from partner.
#
# A hard prompt lowers both scores, so it drops out of the difference. So does a lucky seed, if it
# lifts both.

# %% [markdown]
# How much drops out? Imagine the study repeated often, with new seeds and prompts. Its mean
# difference would scatter. The standard deviation of this scatter is the **standard error**.
#
# A **95% interval** reaches a few standard errors to each side of the mean. It is made to hold the
# true difference in 95 of 100 repetitions. How far it reaches is its **half-width**.
#
# The next cell computes two half-widths (how: Section 2). *Paired* is that of the paired
# differences. *Unpaired* treats the scores as if BSR had used other seeds and prompts. Then each
# method has its own luck, and variances add up. So do squared half-widths, if each is as many
# standard errors. The last column compares standard errors.

# %%
def half_width(x):  # (seeds, prompts) -> half of the 95% interval
    _, low, high, _ = statistics.two_way_interval(x)
    return (high - low) / 2


scores = {test: (per_prompt("bt", test), per_prompt("bsr", test)) for test in SETS}
halves = pd.DataFrame({test: (math.hypot(half_width(x), half_width(y)), half_width(y - x))
                       for test, (x, y) in scores.items()}, index=["unpaired", "paired"]).T
halves["times narrower"] = halves.unpaired / halves.paired
errors = [[statistics.two_way_interval(z)[3] for z in (x, y, y - x)] for x, y in scores.values()]
halves["error: times smaller"] = [math.hypot(x, y) / paired for x, y, paired in errors]
halves.round({"unpaired": 3, "paired": 3, "times narrower": 1, "error: times smaller": 1})

# %% [markdown]
# The figure is of response-disjoint. Is a prompt that is hard for BT hard for BSR (left)? Is a seed
# that is high for BT high for BSR (middle)?

# %%
bt, bsr = scores["response_disjoint"]
d = bsr - bt  # (seeds, prompts): the paired differences
figure, (left, middle, right) = plots.panels(3)
left.plot(bt.mean(0), bsr.mean(0), ".", color=plots.COLORS["bsr"], alpha=0.5)
left.plot([-1, 1], [-1, 1], color="black", linewidth=0.8)
plots.label(left, *(f"tau of {name}, mean of four seeds" for name in ("BT", "BSR")),
            "hard prompts are shared (a dot each)")
for ends in zip(bt.mean(1), bsr.mean(1), strict=True):
    middle.plot((0, 1), ends, "o-", color=plots.COLORS["bsr"], alpha=0.7)
middle.set(xticks=(0, 1), xticklabels=("BT", "BSR"), xlim=(-0.4, 1.4))
plots.label(middle, "", "tau, mean of 240 prompts", "so is the seeds' luck (a line each)")
both = halves.loc["response_disjoint", ["unpaired", "paired"]]
right.errorbar([f"{name}\n± {half:.3f}" for name, half in both.items()], 2 * [d.mean()], both,
               fmt="o", capsize=4, color="black")
right.axhline(0, color="black", linewidth=0.8)
right.set_xlim(-0.5, 1.5)
plots.label(right, "", "BSR minus BT (tau), 95% interval", "one difference, two intervals")
figure.suptitle("Response-disjoint: pairing makes the interval "
                f"{halves['times narrower']['response_disjoint']:.1f} times narrower");

# %% [markdown]
# **What to see.** Left: the dots lie near the line. Prompts differ far more than the two methods
# do. Middle: the two seeds that are highest for BT are highest for BSR. Right: the interval
# shrinks. The standard error shrinks more (table's last column): a paired interval reaches more
# of them (why: Section 3).
#
# **Answer: subtract partner from partner. What both methods share drops out, and on our four sets
# the interval gets 2.2 to 5.9 times narrower.**

# %% [markdown]
# ## 2. Does the interval speak of new seeds *and* new prompts?
#
# Whoever repeats a study draws new seeds and new prompts. How does an interval count both?
#
# Write $d_{ij}$ for the paired difference of seed $i$ on prompt $j$: on response-disjoint 4 times
# 240 numbers. Each is a sum of four parts:
#
# $$d_{ij} = D + \text{seed}_i + \text{prompt}_j + \text{rest}_{ij}.$$
#
# In words: $D$ is the true difference, the mean over all seeds and prompts that one could draw.
# $\text{seed}_i$ is what seed $i$ adds on every prompt. $\text{prompt}_j$ is what prompt $j$ adds
# with every seed. $\text{rest}_{ij}$ is left over: this seed on this prompt.

# %% [markdown]
# The mean of all $d_{ij}$, written $\bar d$, is our estimate of $D$. How far does it scatter? Write
# $S$ for the number of seeds, $P$ for the number of prompts, $V$ for a variance. Then
#
# $$\mathrm{Var}(\bar d) = \frac{V_\text{seed}}{S} + \frac{V_\text{prompt}}{P} +
# \frac{V_\text{rest}}{S\,P}.$$
#
# In words: each kind of luck is divided by how often it was drawn. More prompts shrink the last two
# terms. The first shrinks only with more seeds.

# %% [markdown]
# Seed means, all over the same prompts, do not show how prompts scatter. Nor do prompt means show
# how seeds scatter.
#
# | interval | computed from | counts |
# |---|---|---|
# | **over seeds alone** | the four seed means | seed, rest |
# | **over prompts alone** | the 240 prompt means | prompt, rest |
# | **over both** | all $d_{ij}$ | seed, prompt, rest |
#
# The first two both count the rest. So the squared standard error over both is the sum of theirs,
# less the rest's term.

# %%
def three_intervals(x):  # (3, 2): low and high, over seeds, over prompts, over both
    sides = [metrics.seed_interval(x.mean(axis)) for axis in (1, 0)]
    return [*((mean - half, mean + half) for mean, half in sides),
            statistics.two_way_interval(x)[1:3]]


OVER = ["seeds alone", "prompts alone", "both"]
pd.DataFrame(three_intervals(d), index=[f"over {name}" for name in OVER],
             columns=["low", "high"]).assign(width=lambda t: t.high - t.low).round(3)

# %% [markdown]
# Over prompts alone the interval is only half as wide. Is it better, or too sure of itself? One
# study cannot tell, for nobody knows its true difference.
#
# So we make up studies whose true difference we know, zero, and which scatter as ours does. For
# that we need three variances. $V_\text{rest}$ comes from what is left of $d_{ij}$ when its seed's
# and its prompt's mean are taken off. The two others are estimated by
#
# $$V_\text{seed} = \text{variance of seed means} - \frac{V_\text{rest}}{P}, \quad
# V_\text{prompt} = \text{variance of prompt means} - \frac{V_\text{rest}}{S}.$$

# %%
def variances(d):  # (seeds, prompts) -> of the seed means, of the prompt means, of the rest
    rest = d - d.mean(1, keepdims=True) - d.mean(0, keepdims=True) + d.mean()
    freedom = (d.shape[0] - 1) * (d.shape[1] - 1)
    return d.mean(1).var(ddof=1), d.mean(0).var(ddof=1), (rest**2).sum() / freedom


def deviations(d):  # standard deviations: of seeds and prompts without the rest; of the rest
    of_seeds, of_prompts, of_rest = variances(d)
    without = (of_seeds - of_rest / d.shape[1], of_prompts - of_rest / d.shape[0])
    return [math.sqrt(max(v, 0)) for v in (*without, of_rest)]

# %%
part = np.square(deviations(d)) / (4, 240, 4 * 240)  # the three terms
pd.DataFrame({"standard deviation": np.round(deviations(d), 3),
              "share of the variance of the mean": (part / part.sum()).round(2)},
             index=["seeds", "prompts", "rest"])

# %% [markdown]
# In a single $d_{ij}$ the rest scatters most, by .176. But the mean averages 960 rests and only
# four seeds. So rests and seeds each make about half of its variance, and prompts a twentieth.
#
# Now draw 1,000 studies with these standard deviations, all parts as normal numbers.
#
# **Predict**: a 95% interval should hold zero in 95 of 100 studies. How often does each of the
# three?

# %%
rng = np.random.default_rng(0)
sd_seed, sd_prompt, sd_rest = scatter_here = deviations(d)


def made_up(seeds, prompts, scatter=scatter_here, rng=rng):  # the true difference is zero
    of_seeds, of_prompts, of_rest = scatter
    return (of_seeds * rng.standard_normal((seeds, 1))
            + of_prompts * rng.standard_normal((1, prompts))
            + of_rest * rng.standard_normal((seeds, prompts)))


intervals = np.array([three_intervals(made_up(4, 240)) for _ in range(1000)])  # (1000, 3, 2)

# %% [markdown]
# In the figure a row is a study. It is black where the interval misses the truth, zero. Which panel
# has too many?

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
reach = 1.96 * math.sqrt(part[1:].sum() / part.sum())
print(f"prompts alone: {reach:.2f} standard errors; {math.erf(reach / math.sqrt(2)):.0%} hold zero")

# %% [markdown]
# **What to see.** Over prompts alone 16 of 100 intervals miss the truth, not 5. From 240 numbers an
# interval reaches 1.96 of the standard errors that it counts. It counts prompts and rest, .54 of
# the variance. So it reaches $1.96 \cdot \sqrt{.54} = 1.44$ true standard errors, and 85% hold
# zero.
#
# Over seeds alone all is well, because *here* prompts make only a twentieth of the variance. Over
# both 97 of 100 hold zero: here it is a little too wide (Sections 7 and 8).
#
# **Answer: an interval speaks only of the luck that it counts. Quote the one over seeds and
# prompts.**

# %% [markdown]
# ## 3. How large a difference could the study have found?
#
# A study *finds* a difference if its interval excludes zero. Section 2's, on response-disjoint,
# holds zero, so it found none. Is there none, or could the study not find it?
#
# Add a known difference to each of Section 2's made-up studies. The share that finds it is the
# study's **power**. Let us ask for a power of .80, four studies of five.

# %% [markdown]
# Textbooks say: it takes 2.8 standard errors, if their size is known. An estimate above 1.96 of
# them is then a find. And four of five estimates, if normal, lie above the truth less .84 of them,
# here above 2.8 - .84 = 1.96.
#
# How far does *our* interval reach?

# %%
_, low, high, error = statistics.two_way_interval(d)
print(f"half-width {(high - low) / 2:.3f} = {(high - low) / 2 / error:.2f} standard errors")

# %% [markdown]
# Farther than 1.96, because the study does not *know* its standard error. It estimates it, mostly
# from four seeds, and the estimate may be too small by luck. To be safe, an interval from four
# numbers reaches 3.18.
#
# In our made-up studies the paper's largest gain, .024, is 2.9 standard errors. By the textbook
# four of five would find it.
#
# **Predict**: how many of our studies do?

# %%
true_error = math.sqrt(sd_seed**2 / 4 + sd_prompt**2 / 240 + sd_rest**2 / 960)
lows, highs = intervals[:, 2].T


def power(effect):  # shifting a study shifts its interval
    return ((lows + effect > 0) | (highs + effect < 0)).mean()


effects = np.linspace(0, 0.06, 61)
normal = np.random.default_rng(0).standard_normal(10_000)
known = [(abs(normal + x / true_error) > 1.96).mean() for x in effects]  # if the error were known
needed = np.quantile(-lows, 0.8)  # shifted by so much, four of five lower ends lie above zero

# %% [markdown]
# In the figure, where does each line cross .80, and how high is the black one at .024?

# %%
figure, axis = plots.panels()
axis.plot(effects, known, color="#888888", linestyle="--")
axis.plot(effects, [power(x) for x in effects], color="black")
axis.axhline(0.8, color="black", linewidth=0.8, linestyle=":")
for effect in (0.024, needed):
    axis.plot(effect, power(effect), "o", color=plots.COLORS["bsr"])
    axis.annotate(f"{effect:.3f} = {effect / true_error:.1f} standard errors: power "
                  f"{power(effect):.2f}", (effect, power(effect)), (8, -12),
                  textcoords="offset points")
axis.text(0.0005, 0.75, "four of five")
axis.text(0.0225, 0.84, "error known: 2.8 standard errors", color="#555555", ha="right")
axis.text(0.0285, 0.6, "this study: four seeds, error estimated")
plots.label(axis, "true difference (tau)", "share of 1,000 studies that find it",
            "Response-disjoint, four seeds: four studies of five find an effect of "
            f"{needed / true_error:.1f} standard errors, not 2.8")
upper = axis.secondary_xaxis("top", (lambda x: x / true_error, lambda x: x * true_error))
upper.set_xlabel("true difference (standard errors)")

# %%
print("power by true difference:", {x: float(power(x)) for x in (0, 0.01, 0.024)})

# %% [markdown]
# **What to see.** The dashed line crosses .80 at 2.8 standard errors, the black one at 4.2. The gap
# is the price of four seeds.
#
# <details><summary>Answer</summary>
#
# In .52 of the cases. A power of .80 needs a difference of .034.
# </details>
#
# A gain of .01 our study would find one time in eight. So an interval that holds zero does not say
# that nothing is there.

# %% [markdown]
# The .034 supposes that seeds scatter by .011, which four seeds tell only roughly. If they scatter
# more, it is larger, up to about four times (Section 9).
#
# **Answer: on response-disjoint .034 of tau, if .011 is right. That is 4.2 standard errors, not
# 2.8.**

# %% [markdown]
# ## 4. Where do the ends of the interval lie?
#
# A study found nothing. Has it shown that there is nothing?
#
# "No significant difference" means that the interval holds zero. That alone says little: a study of
# two prompts has a very wide interval. What the interval leaves *outside* is excluded, at 95%. So
# read its two *ends*.
#
# An interval without zero says *better* or *worse*, however small the difference. For one that
# holds zero you need a **useful difference**, the smallest that you would care for. Name it before
# the run.

# %% [markdown]
# Then an interval that holds zero is
#
# - an **informative null** if both its ends are smaller in size than the useful difference. Name
#   the size when you report it: *no difference of .05*;
# - **undecided** otherwise.
#
# Here the useful difference is .05 of tau, about twice the paper's largest gain. (We chose it
# *after* our runs.) For pairs tau is twice accuracy, minus 1. So .05 of tau is .025 of accuracy,
# and accuracy is doubled from here on.
#
# **Predict**: BSR on *lora* has four intervals, one a set. Which can be informative nulls? (Section
# 1's table has the half-widths, in-domain not doubled.)

# %% [markdown]
# The next cell reads the four intervals from the record. It counts topics as drawn, not prompts,
# for prompts of one topic are alike. (Prompt-disjoint's ± .013 becomes ± .016,
# response-disjoint's ± .026 stays.)

# %%
def ends_of(study):  # mean, low and high of BSR minus BT on each set; accuracy doubled
    bsr = next(cells for name, cells in studies[study].items() if name.startswith("bsr"))
    return pd.DataFrame({test.replace("_", "-"): np.multiply(
        bsr[test]["difference"], 2 if test == "in_domain" else 1) for test in SETS},
        index=["mean", "low", "high"]).T


lora = ends_of("lora")
lora.assign(half_width=(lora.high - lora.low) / 2).round(4)

# %% [markdown]
# In the figure, which intervals lie inside the grey band? Which ends lie inside the dotted lines?

# %%
figure, axis = plots.panels()
axis.grid(False)
axis.axvspan(-0.05, 0.05, color="#DDDDDD", linewidth=0)
for x, style in ((0, "-"), (-0.024, ":"), (0.024, ":")):
    axis.axvline(x, color="black", linewidth=1, linestyle=style)
axis.text(-0.049, -0.5, "useful: ± .05")
axis.text(0.0245, -0.5, "paper: .024")
for place, row in enumerate(lora.itertuples()):
    axis.plot((row.low, row.high), (place, place), "|-", color="black")
    axis.plot(row.mean, place, "o", color="black")
    inside = row.low > -0.05 and row.high < 0.05
    axis.text(0.06, place, "informative null" if inside else "undecided", va="center")
axis.set(yticks=range(4), yticklabels=lora.index, ylim=(3.5, -0.8), xlim=(-0.11, 0.11))
plots.label(axis, "BSR minus BT (tau; in-domain: accuracy, doubled)", "",
            "lora: all four intervals hold zero, three lie within ± .05")

# %% [markdown]
# **What to see.** In-domain is undecided: its interval reaches past both sides of the band. The
# other three are informative nulls:
#
# - All three upper ends are below .024. A gain as large as the paper's largest is excluded.
# - All three are above .01, too. A gain of .01 is *not* excluded.
# - Two lower ends are below -.024. There a *cost* of this size is not excluded.

# %% [markdown]
# Each interval speaks at 95%. That all three are right is less sure (Section 5). And all this holds
# for *lora*: one small model, 900 pairs, one $\lambda$.
#
# **Answer: the ends say what is excluded: a gain of .024 in tau, but not one of .01.**

# %% [markdown]
# ## 5. How many intervals were looked at?
#
# Suppose that some interval excludes zero. Is that a finding?
#
# A 95% interval misses the truth one time in twenty. Look at twenty intervals where no difference
# is real, and on average one excludes zero. So count *all* that were looked at.

# %% [markdown]
# *lora* has twelve intervals: BSR's four and eight of two other penalties (centering and L2, 03).
# It is one of eight studies here that train the language model with three seeds or more (Sections
# 10 and 11). Count each penalty against BT on each set, dev sets (kept for choices) and labels of
# people included: 160 intervals.
#
# An interval above zero is a *gain*, one below it a *cost*.
#
# **Predict**: how many of the 160 exclude zero, and on which side?

# %%
more = {name: read_table(f"data/runs/study_{name}")
        for name in ("terms", "lambda", "pocket", "closing_phrase")}
rows = [[study, method, test, cell["metric"], *cell["difference"]]
        for study, table in (studies | more).items()
        for method, tests in list(table.items())[1:] for test, cell in tests.items()]
# 16 more stand in text: "+0.069 (+0.014 to +0.123)"
TEXTS = {"postscript": "people/llmbar.md", "norms": "study_norms_spread/results.md"}
for study, path in TEXTS.items():
    text = Path("data/runs", path).read_text()
    heads = re.findall(r"(\w+) \((accuracy|tau)", text)
    for method, line in re.findall(r"^\| (spread\S*|bsr-1e-2) \|(.*\(.*)$", text, re.M):
        found = re.findall(r"([-+][.\d]+) \(([-+][.\d]+) to ([-+][.\d]+)\)", line)
        rows += [[study, method, *head, *map(float, x)]
                 for head, x in zip(heads, found, strict=True)]
counted = pd.DataFrame(rows, columns=["study", "method", "set", "metric", "mean", "low", "high"])
counted.loc[counted.metric == "accuracy", ["mean", "low", "high"]] *= 2  # as above
counted["beyond"] = counted.low * counted.high > 0

# %% [markdown]
# In the figure a row is an interval, a block of rows a study. Which studies have black ones?

# %%
figure, axis = plots.panels()
figure.set_figheight(5.4)
place, ticks = 0, {}
for study, group in counted.sort_values("mean").groupby("study"):
    ticks[f"{study}: {group.beyond.sum()} of {len(group)}"] = place + len(group) / 2
    axis.hlines(range(place, place + len(group)), group.low, group.high, linewidth=1,
                color=np.where(group.beyond, "black", "#CCCCCC"))
    place += len(group) + 6  # a gap between studies
axis.axvline(0, color="black", linewidth=0.8)
axis.set(yticks=list(ticks.values()), yticklabels=list(ticks), ylim=(place, -6))
plots.label(axis, "method minus BT (tau; accuracy, doubled)", "",
            f"{counted.beyond.sum()} of {len(counted)} exclude zero (black): "
            f"{(counted.high < 0).sum()} costs, {(counted.low > 0).sum()} gain; "
            f"chance alone gives {0.025 * len(counted):.0f} of each")

# %% [markdown]
# 18 of 160 exclude zero, where one in twenty gives 8. 17 are costs, one a gain. They lie in four
# studies, none in *lora*.
#
# Are 18 more than chance? If no difference is real and each interval errs by itself, 18 or more
# have a probability of .001. But intervals of one study share BT's runs. If all of a study's err at
# once, it is .16. So the number alone does not tell. Number and side together suggest costs, but do
# not show which (Section 11).
#
# **Answer: count every interval: of our 160, chance alone makes about eight "findings". So name one
# difference and its sign, and test it with new seeds, on new prompts where you can.**

# %% [markdown]
# ## Exercises
#
# **1.** A report says: "better in all four seeds". Suppose that the methods are equal, so that a
# seed is a fair coin. How probable is it that at least `k` of `seeds` agree, on either side? (`k`
# is more than half of them.) Then: from how many seeds on is "all agree" rarer than .05?
#
# <details><summary>Hint</summary>
#
# First one side alone: count the sequences with at least `k` heads (`math.comb`).
# </details>

# %%
def chance_of_agreement(k, seeds):
    return None


checks.check_chance_of_agreement(chance_of_agreement);

# %% [markdown]
# **2.** Only what is found gets reported: intervals that exclude zero, on either side. By which
# factor is the *size* of a reported difference too large, on average? `ends`, a tensor (studies,
# 2), holds the ends of many intervals. The mean of each is its middle. `truth` is the true
# difference, perhaps negative: compare sizes.
#
# Then run the cell below. What does a study like ours report, on average, when .01 is true, and
# when .02 is? One reports .024. Can you tell which of the two is true?
#
# <details><summary>Hint</summary>
#
# First throw away what is not reported. What size does each of the others report?
# </details>

# %%
def exaggeration(ends, truth):
    return None


checks.check_exaggeration(exaggeration);

# %%
ends, reports = torch.tensor(intervals[:, 2]), {}  # Section 2's: the truth was zero
for truth in (0.01, 0.02, 0.04, 0.06):
    sizes = pd.Series([exaggeration(one[None] + truth, 1) for one in ends])  # each, against 1
    reports[truth] = exaggeration(ends + truth, truth), *sizes.astype(float).quantile([0.1, 0.9])
pd.DataFrame.from_dict(reports, orient="index", dtype=float, columns=[
    "factor", "10% report less than", "90% report less than"]).round(3)

# %% [markdown]
# **3.** *Judge two records*: *terms* trains BSR and its terms alone (03) on all 1,056 pairs,
# *lambda* BSR at four $\lambda$ on 375. From an interval's ends and the useful difference return a
# verdict: 1 gain, -1 cost, however tiny, 0 informative null, 2 undecided.
#
# First guess: how many of the 36 verdicts of *terms* are 0? Its half-widths run from .017 to .095,
# half of them below .04 (`data/runs/study_terms/results.md`; accuracy doubled).
#
# After the run: (a) Where may you say "no difference of .05" (accuracy: .025), where "none at all"?
# (b) *bsr-1e-3* on mutual-disjoint is judged twice. Do the verdicts contradict each other?
#
# <details><summary>Hint</summary>
#
# Five marks on a line: minus useful, zero, useful, two ends. Which orders are there?
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
# 2. Ever more prompts narrow an interval less and less. What is left, and what would help?
# 3. An interval excludes zero over prompts alone, not over both. Which do you quote?
# 4. A study of low power excludes your useful gain. Is it excluded?
# 5. You try twenty settings. One beats BT, and its interval excludes zero. What next?

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1. All three kinds of luck of Section 2. Only what a prompt adds to *both* scores drops out. The
#    seeds' luck is now each method's own.
# 2. The seeds' scatter, $V_\text{seed}/S$: add seeds.
# 3. The one over both. The other speaks of these seeds only.
# 4. Yes, at 95%. Power is for planning; afterwards the ends speak.
# 5. One of twenty is what chance gives. Name this one, and run it with new seeds and new prompts.
# </details>

# %% [markdown]
# ## What to watch, what to vary
#
# | In your run, watch | Here | If not, or next |
# |---|---|---|
# | 1. paired half-width | 2.2 to 5.9 times narrower | share prompts; seeds if they correlate |
# | 2. scatter of the seeds | .011, from four | large: more seeds |
# | 3. smallest difference found | response-disjoint .034 | plan for more |
# | 4. the interval's ends | *lora*: tau within ± .05 | one outside: undecided |
# | 5. intervals beyond zero | 18 of 160 (chance: 8) | name one, test it anew |

# %% [markdown]
# ## What you know now
#
# **A study never shows "no difference". It excludes differences: those outside its paired interval
# over seeds *and* prompts.**
#
# Ask before the run what it could find.
#
# Next: **07 · How do you show that a reward model over-optimizes?**

# %% [markdown]
# ## Second reading
#
# For those who plan a study: is a suspected cause the cause (6)? Then how the interval is computed
# (7), whether it holds elsewhere (8), seeds or prompts (9, Exercise 4), four studies (10), the 18
# of 160 (11).

# %%
# what the first reading says, checked
assert holds[:, 2].mean() > 0.93, "over both: at least about as often as it says"
assert holds[:, 1].mean() < 0.9, "an interval that leaves the seeds out must be too narrow"
assert power(0.024) < 0.55, "2.9 standard errors, and far from four of five"
assert power(0) < 0.06, "without an effect at most one study in twenty finds one"
tau = lora.iloc[1:]  # without in-domain
assert tau.low.min() > -0.05 and tau.high.min() > 0.01 and tau.high.max() < 0.024, "three sets"
assert (tau.low < -0.024).sum() == 2, "two of the three hold a cost of the paper's size"

# %% [markdown]
# ## 6. Another question: is it the cause?
#
# A claimed cause takes a **control**: the same training without it, and nothing else changed. After
# many epochs scores on new data may fall. The claim: *false labels are to blame*.
#
# In the world *helps* of notebook 04's small worlds a small network learns 300 pairs with BT for 64
# epochs (600 steps). Labels are drawn from BT on gold, so some are false. The control has gold's
# own, and all else the same. A **repetition** draws states, labels and network.
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
# it is not: "they are learned by heart" needs a second control, without repetition.
#
# And part of the cost may have come before epoch 8. By then .93 of the false labels or more were
# learned. (.93 is what is left if every pair then in the wrong order was a false one.)

# %% [markdown]
# ## 7. How is the interval computed, and what do shared seeds bring?
#
# The variance of the seed means, divided by $S$, estimates the first and third term of Section 2's
# formula. That of the prompt means, divided by $P$, estimates the second and third. Their sum
# counts the third twice. So subtract it once: $a + b - c$ with
#
# $$a = \frac{\text{variance of seed means}}{S}, \quad
# b = \frac{\text{variance of prompt means}}{P}, \quad c = \frac{V_\text{rest}}{S\,P}.$$
#
# How far the interval reaches, $t$ standard errors, depends on the *degrees of freedom*: 1.96 for
# many, 3.18 for three, which four numbers have. *Satterthwaite's rule* gives our estimate
# $(a + b - c)^2 / (a^2/3 + b^2/239 + c^2/(3 \cdot 239))$.

# %%
a, b, c = np.array(variances(d)) / (4, 240, 4 * 240)
squared = max(a + b - c, a, b)  # an estimate: at least each side's own
torch.testing.assert_close(math.sqrt(squared), error)  # of the library
freedom = squared**2 / (a**2 / 3 + b**2 / 239 + c**2 / (3 * 239))
print(f"{freedom:.1f} degrees, rounded down: t is {metrics.t_quantile(freedom):.2f}")

# %% [markdown]
# Between Section 1's unpaired and paired interval lies a third: only the prompts are shared. Then
# the seeds of both methods add to the variance of the difference, and its prompts' term stays. Two
# methods with four seeds each have six degrees of freedom: $t$ is 2.45. With seeds shared, too,
# three are left where seeds dominate.
#
# **Predict**: which narrows the interval more, shared prompts or shared seeds? Can shared seeds
# make it wider?

# %%
def over_seeds(x, y):  # half-width with shared prompts: the seeds of the two are independent
    seeds = (x.mean(1).var(ddof=1) + y.mean(1).var(ddof=1)) / len(x)
    prompts = deviations(y - x)[1] ** 2 / x.shape[1]
    return metrics.t_quantile(2 * len(x) - 2) * math.sqrt(seeds + prompts)


pd.DataFrame({
    "half-width: nothing shared": halves.unpaired,
    "prompts shared": {test: over_seeds(*both) for test, both in scores.items()},
    "prompts and seeds shared": halves.paired,
    "correlation of the seed means": {test: np.corrcoef(x.mean(1), y.mean(1))[0, 1]
                                      for test, (x, y) in scores.items()},
    "scatter of the seeds, paired": {test: deviations(y - x)[0] for test, (x, y) in scores.items()},
}).loc[SETS].round(3)

# %% [markdown]
# <details><summary>Answer</summary>
#
# That differs by set. On response-disjoint prompts narrow it 1.5 times, then seeds 2.4 times,
# although $t$ grows.
#
# On mutual-disjoint shared seeds make it *wider* (.019 to .023). The seed means hardly correlate,
# so the standard error hardly falls. But $t$ grows by 30%.
# </details>
#
# So share prompts. Sharing as few as four seeds pays only if their means correlate.
#
# (Prompt-disjoint's scatter of zero is a negative estimate of $V_\text{seed}$, cut: its error is
# the one over prompts. Section 1's 5.9 rests on that.)

# %% [markdown]
# ## 8. Does the interval over both hold in other worlds?
#
# Section 2's made-up studies took our deviations for true. But four seeds tell their own scatter
# badly. The next cell prints a 95% interval for it, if seed means are normal: then their variance
# follows chi-square's distribution. (9.348 and 0.216 cut 2.5% off its two ends.)

# %%
def seed_limits(d):  # 95%: three times the estimated variance over the true one is chi-square
    of_seeds, _, of_rest = variances(d)
    return [math.sqrt(max(3 * of_seeds / q - of_rest / d.shape[1], 0)) for q in (9.348, 0.216)]


limit = seed_limits(d)[1]
print("standard deviation of the seeds, 95% interval:", np.round(seed_limits(d), 3).tolist())

# %% [markdown]
# So take other worlds: seeds that do not scatter, seeds that scatter by .058, and prompts that
# scatter by .2, not .029.

# %%
CASES = {"seeds do not scatter": (0, sd_prompt, sd_rest),
         f"seeds scatter by {limit:.3f}": (limit, sd_prompt, sd_rest),
         "prompts scatter by 0.2": (sd_seed, 0.2, sd_rest)}
shares, fresh = {"as here": holds.mean(0)}, np.random.default_rng(1)
for case, scatter in CASES.items():
    ends = np.array([three_intervals(made_up(4, 240, scatter, fresh)) for _ in range(1000)])
    shares[case] = ((ends[..., 0] < 0) & (ends[..., 1] > 0)).mean(0)
assert all(0.93 < x[2] < 0.99 for x in shares.values()), "over both: about as often as it says"
pd.DataFrame(shares, index=OVER).T.rename_axis("share that holds zero").round(2)

# %% [markdown]
# Over both .94 to .97 hold zero in all four. Over prompts alone it falls to .32 where seeds scatter
# by .058. Over seeds alone it falls to .81 where prompts scatter by .2.

# %% [markdown]
# ## 9. More seeds or more prompts?
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
other = {(sd, k): lower_ends(4, k, sd) for sd in (0, limit) for k in PROMPT_COUNTS}
smallest = {at: np.quantile(-lower, 0.8) for at, lower in (lowest | other).items()}  # as `needed`
print(f"four seeds, 12,800 prompts: {(lowest[4, 12_800] + 0.01 > 0).mean():.2f} find .01")
print(f"four seeds, 240 prompts, scatter {limit:.3f}: {smallest[limit, 240]:.2f} needed")

# %%
figure, axis = plots.panels()
LINES = {n: (f"{n} seeds", "o-", "black") for n in SEED_COUNTS}
LINES |= {0: ("4 seeds, no scatter", "o--", "#777777"),
          limit: (f"4 seeds, scatter {limit:.3f}", "o--", "#777777")}
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
            f"and 0 to {limit:.3f} is possible (dashed)")

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
# Section 3's figure 1.8 standard errors are .015: read the black line there.
# </details>

# %% [markdown]
# ## 10. Where do the ends lie in four studies?
#
# Beside *lora*: *norms* (full fine-tuning), *judged* (real judged answers) and *postscript* (every
# answer has a line about something else). $\lambda$ is $10^{-3}$, in *postscript* $10^{-2}$. No
# rule made before the runs picked these four.
#
# As in Section 4 the columns of $d_{ij}$ are topics, each weighed by its number of prompts.
# (*judged* names none: there they stay prompts.)
#
# **Predict**: how many of these 16 intervals hold zero? How many of those lie within ± .05?

# %%
four = pd.concat({study: ends_of(study) for study in studies}, names=["study", "set"])
holding = four[(four.low <= 0) & (four.high >= 0)]
print(f"of {len(four)} {len(holding)} hold zero, {(four.high < 0.05).sum()} exclude a gain of .05")
holding[(holding.low > -0.05) & (holding.high < 0.05)].round(4)

# %% [markdown]
# All 16 hold zero. Only these six lie within ± .05, one by a hair. But nine exclude a *gain* of
# .05.

# %% [markdown]
# ## 11. Are 18 of 160 more than chance?
#
# Of Section 5's studies *pocket* takes all training pairs, *lambda* 375. *Closing_phrase* is a
# control, where no penalty should help. *Postscript*'s models were scored on labels of people, too
# (LLMBar's sets *GPTInst*, *Neighbor*, ..., and all of them together). *Prompt-shifted* is
# prompt-disjoint with rewritten endings (04, Section 11).
#
# The table has the 18 (accuracy doubled). Left out of the 160: studies of fewer than three seeds,
# the small worlds (04), heads on a language model not trained further. They hold costs and gains
# (`data/runs/LOG.md`).

# %%
counted[counted.beyond].drop(columns=["metric", "beyond"]).sort_values(
    "study", kind="stable").set_index(["study", "method"]).round(3)

# %% [markdown]
# Suppose that no difference is real and each interval errs once in twenty. (In Section 8 it did so
# in 3 to 6 of 100.) Intervals of a study share BT's runs and prompts, so they are correlated: if
# they err together, then to the same side. How much we do not know. At a correlation of 0 each errs
# by itself, at 1 all of a study at once.
#
# **Predict**: if they err together, do more exclude zero on average, fewer, or as many?

# %%
sizes = counted.groupby("study").size()
rows, fresh, many = {}, np.random.default_rng(0), 50_000
for alike in (0, 0.3, 0.5, 0.7, 1):  # correlation of the intervals of a study
    sides = np.zeros((2, many))  # gains and costs
    for size in sizes:
        z = (math.sqrt(alike) * fresh.standard_normal((many, 1))
             + math.sqrt(1 - alike) * fresh.standard_normal((many, size)))
        sides += [(z > 1.96).sum(1), (z < -1.96).sum(1)]
    enough = sides.sum(0) >= counted.beyond.sum()
    rows[alike] = sides.sum() / many, enough.mean(), (enough & (sides.min(0) <= 1)).mean()
pd.DataFrame.from_dict(rows, orient="index", columns=[
    "expected", "18 or more", "and at most one on the other side"]).rename_axis(
    "correlation").round(3)

# %% [markdown]
# <details><summary>Answer</summary>
#
# As many: 8 at each correlation. But 18 or more have a probability of .001 at 0 and of .16 at 1.
# </details>
#
# At 1 that is nearly always one large study, all of whose intervals err. We saw four,
# *closing_phrase*, *lambda*, *norms* and *postscript*, with *some* intervals beyond zero in each.
# So the truth is likely in between.
#
# And 17 of the 18 are on one side. The last column judges number and side together. (We chose it
# after seeing the 17.) It says .01 to .06 for correlations of .3 to .7. That suggests costs, but
# does not show which.

# %% [markdown]
# ### Exercise 4
#
# Training a seed costs `cost_seed`, having a prompt's answers judged costs `cost_prompt`.
# Leave the rest out: $\mathrm{Var}(\bar d) = V_\text{seed}/S + V_\text{prompt}/P$. How many seeds
# (a real number) are best for a `budget`? `sd_seed` and `sd_prompt` are the roots of the two
# variances.
#
# Then: a seed costs 100, a prompt 1, the budget is 640. How many seeds for Section 2's .011 and
# .029? Add the rest, .176, and try $S$ from 2 to 6. Which way does the best $S$ move, and why?
#
# <details><summary>Hint</summary>
#
# At the best split: what does one more unit of money buy if spent on seeds, and what on prompts?
# </details>

# %%
def best_seeds(sd_seed, sd_prompt, cost_seed, cost_prompt, budget):
    return None


checks.check_best_seeds(best_seeds);
