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
# Two methods were trained, one scores higher. Is it better? The paper's gains on its three
# disjoint sets are .001 to .024 of tau (Table 5). Differences of that size appear by chance all
# the time. This lesson says what has to be true before you may say *better*, *worse*, *no
# difference* or *undecided*.

# %% [markdown]
# After it you can
# - pair a comparison by seed and by prompt, and say what that removes;
# - put an interval on it that speaks of new seeds *and* new prompts, and test the interval itself;
# - say how large an effect a study can find, and whether it needs more seeds or more prompts;
# - read a null result, and count all the intervals that were looked at;
# - build a control for a claim such as "it overfits".
#
# Words from before: *margin*, *tau* (notebook 01); *in-domain*, *prompt-*, *response-* and
# *mutual-disjoint* (02, Section 4); *BSR* (Eq. 25, 03), its *level* and *spread term* and the small
# worlds (04). **BT** is training with the Bradley-Terry loss alone.

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
PARTS = ["in_domain", "prompt_disjoint", "response_disjoint", "mutual_disjoint"]

# %% [markdown]
# ## 1. One method against itself
#
# The study *lora*: 900 pairs, 10 layers of the embedded model, 240 prompts a set, four **seeds**. A
# seed sets the head at the start and the order of the batches, nothing else. Look at BT alone.
#
# **Predict**: BT is trained four times, on the same pairs. How far apart are the four scores?

# %%
runs = read_runs(RUNS / "study_lora")


def per_prompt(method, part):  # (seeds, prompts): accuracy in domain, tau elsewhere
    return np.array([r["evaluation"]["scenarios"][part]["per_prompt"] for r in runs[method]])


alone = pd.DataFrame({part: per_prompt("bt", part).mean(1) for part in PARTS},
                     index=[f"BT, seed {run['seed']}" for run in runs["bt"]])
alone.loc["largest minus smallest"] = alone.max() - alone.min()
alone.round(3)

# %% [markdown]
# <details><summary>Answer</summary>
#
# On three of the four sets further than any gain of the paper: .056 to .088. A table that compares
# one run of a method with one run of another can show such a "gain" where there is none.
# </details>

# %% [markdown]
# The cure is not only more runs. BSR ($\lambda = 10^{-3}$) was trained with the same four seeds,
# and scored on the same prompts. So the comparison can be **paired**: same seed, same prompt, BSR
# minus BT. A difference that both methods share, such as a hard prompt, drops out.
#
# The **standard error** of a mean is its standard deviation over imagined repetitions of the study.
#
# **Predict**: by which factor is that of the difference smaller when the pairs are used?

# %%
bt, bsr = (per_prompt(method, "response_disjoint") for method in ("bt", "bsr"))
apart = math.hypot(*(statistics.two_way_interval(scores)[3] for scores in (bt, bsr)))
mean, low, high, together = statistics.two_way_interval(bsr - bt)
pd.DataFrame({"BSR minus BT (tau)": [mean, mean], "standard error": [apart, together]},
             index=["as two samples", "as pairs"]).round(4)

# %%
figure, (left, right) = plots.panels(2)
left.plot(bt.mean(0), bsr.mean(0), ".", color=plots.COLORS["bsr"], alpha=0.5)
left.plot([-1, 1], [-1, 1], color="black", linewidth=0.8)
plots.label(left, "tau of BT", "tau of BSR", "a dot a prompt, mean of four seeds")
t = metrics.t_quantile(3)  # 3.18: four seeds leave three degrees of freedom
for place, error in enumerate((apart, together)):
    right.errorbar(place, mean, t * error, fmt="o", capsize=4, color="black")
right.plot(np.full(4, 1.15), (bsr - bt).mean(1), "o", color=plots.COLORS["bsr"], alpha=0.6)
right.axhline(0, color="black", linewidth=0.8)
right.set_xticks((0, 1.07), ("two samples", "pairs (red: a dot a seed)"))
right.set_xlim(-0.5, 1.6)
plots.label(right, "", "BSR minus BT (tau), 95% interval", "one difference, two intervals")
figure.suptitle("Pairing removes what both methods share");

# %% [markdown]
# **What to see.** Left: a prompt that is hard for BT is hard for BSR. The dots lie along the
# diagonal, so most of what makes scores vary cancels in the difference. Right: the same difference,
# with and without use of the pairs.
#
# <details><summary>Answer</summary>
#
# By more than five. Can an unpaired study make up for that with more prompts? Only in part: see
# Section 3.
# </details>

# %% [markdown]
# ## 2. Seeds and prompts
#
# What blurs the paired difference $d_{ij}$ of seed $i$ on prompt $j$? The seed itself, the prompts
# that happen to be in the set, and the rest. $D$ is the true difference, $V$ a variance, $S$ and
# $P$ count seeds and prompts:
#
# $$d_{ij} = D + \text{seed}_i + \text{prompt}_j + \text{rest}_{ij}, \qquad
# \mathrm{Var}(\bar d) = \frac{V_\text{seed}}{S} + \frac{V_\text{prompt}}{P} +
# \frac{V_\text{rest}}{S\,P}.$$
#
# An interval over seeds alone misses the second part, one over prompts alone the first. The three
# parts are told apart by *mean squares*, whose expectations are $V_\text{rest} + P\,V_\text{seed}$
# (of seeds), $V_\text{rest} + S\,V_\text{prompt}$ (of prompts) and $V_\text{rest}$. The first two
# minus the last, over $S\,P$, is the variance above.

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


d = bsr - bt
S, P = d.shape
of_seeds, of_prompts, of_rest = mean_squares(d)
error = math.sqrt(max(of_seeds + of_prompts - of_rest, of_seeds, of_prompts) / (S * P))
assert math.isclose(error, together), "the library's standard error is this one"

# %%
def three_intervals(x):  # (3, 2): low and high, over seeds, over prompts, over both
    sides = [metrics.seed_interval(x.mean(axis)) for axis in (1, 0)]
    return [*((mean - half, mean + half) for mean, half in sides),
            statistics.two_way_interval(x)[1:3]]


OVER = ["seeds alone", "prompts alone", "both"]
pd.DataFrame(three_intervals(d), index=[f"over {name}" for name in OVER],
             columns=["low", "high"]).assign(width=lambda t: t.high - t.low).round(3)

# %% [markdown]
# Over prompts alone the interval is less than half as wide. (The `max` in the code guards against
# an estimate below what either source alone makes. The interval uses Student's t: with few
# seeds it is wider, to pay for a scatter that is itself only estimated.)
#
# Which of the three should be believed? One that holds the truth as often as it says. So make up
# studies in which the true difference is zero, with the three standard deviations of this one, and
# count.
#
# **Predict** which intervals hold zero less often than in 95 of 100 studies.

# %%
rng = np.random.default_rng(0)
SEED, PROMPT, REST = deviations(d)


def made_up(S, P):  # a study in which the true difference is zero
    return (SEED * rng.standard_normal((S, 1)) + PROMPT * rng.standard_normal((1, P))
            + REST * rng.standard_normal((S, P)))


intervals = np.array([three_intervals(made_up(4, 240)) for _ in range(1000)])  # (1000, 3, 2)
holds = (intervals[..., 0] < 0) & (intervals[..., 1] > 0)

# %%
figure, axes = plots.panels(3, sharex=True, sharey=True)
for i, (axis, name) in enumerate(zip(axes, OVER, strict=True)):
    for row, ((low, high), held) in enumerate(zip(intervals[:40, i], holds[:40, i], strict=True)):
        axis.plot((low, high), (row, row), color="#BBBBBB" if held else "black", linewidth=1.5)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_yticks([])
    plots.label(axis, "difference (tau)", "", f"over {name}: {holds[:, i].mean():.1%} hold zero")
axes[0].set_ylabel("the first 40 of 1,000 made-up studies")
figure.suptitle("An interval over prompts alone is too sure of itself");

# %%
both, prompts_alone = holds[:, 2].mean(), holds[:, 1].mean()
assert 0.93 < both < 0.99, "the interval over both must hold the truth about as often as it says"
assert prompts_alone < both - 0.05, "an interval that leaves the seeds out must be too narrow"

# %% [markdown]
# **What to see.** Black intervals miss the truth, which is zero. Over prompts alone there are far
# too many. Over seeds alone the count is right in this study, since its prompts add little once
# they are paired. Over both it is a little too careful: that is the guard.

# %% [markdown]
# ## 3. How large an effect can we find?
#
# A study may fail to find an effect because there is none, or because it could not. So give it one
# that is there: a **positive control**. Add a known difference to every made-up study, and count
# how many intervals exclude zero. That share is the **power**.
#
# A rule of thumb from textbooks: an effect of 2.8 standard errors has a power of .80. (That is
# 1.96 for the interval and .84, the 80% quantile of the normal distribution.)
#
# **Predict**: what is the power at 2.8 standard errors with four seeds?

# %%
true_error = math.sqrt(SEED**2 / 4 + PROMPT**2 / 240 + REST**2 / 960)
low, high = intervals[:, 2].T


def power(effect, low, high):  # shifting a study shifts its interval
    return ((low + effect > 0) | (high + effect < 0)).mean()


effects = np.linspace(0, 0.06, 61)
normal = np.random.default_rng(0).standard_normal(10_000)
known = [(abs(normal + effect / true_error) > 1.96).mean() for effect in effects]
found = [power(effect, low, high) for effect in effects]
needed = np.quantile(-low, 0.8)  # shifted by so much, four of five lower ends lie above zero

# %%
figure, axis = plots.panels()
axis.plot(effects, known, color="#888888", linestyle="--")
axis.plot(effects, found, color="black")
axis.axhline(0.8, color="black", linewidth=0.8, linestyle=":")
for effect in (2.8 * true_error, needed):
    share = power(effect, low, high)
    axis.plot(effect, share, "o", color=plots.COLORS["bsr"])
    axis.annotate(f"{effect:.3f} = {effect / true_error:.1f} standard errors: power {share:.2f}",
                  (effect, share), (8, -12), textcoords="offset points")
axis.text(0.0255, 0.9, "if the standard error were known", color="#555555", ha="right")
axis.text(0.0005, 0.815, "four of five")
plots.label(axis, "true difference (tau)", "share of 1,000 studies that find it",
            "Four seeds find 2.8 standard errors in fewer than half of the studies")

# %%
rule = (abs(normal + 2.8) > 1.96).mean()
assert abs(rule - 0.8) < 0.01, "the rule of 2.8 is right where the standard error is known"
assert power(2.8 * true_error, low, high) < 0.55, "with four seeds it must not be"
assert power(0, low, high) < 0.06, "without an effect at most one study in twenty finds one"
four = np.random.default_rng(1).standard_normal((100_000, 4))  # four seeds, nothing else
lower = four.mean(1) - t * four.std(1, ddof=1) / 2
ratio = np.quantile(-lower, 0.8) / 0.5  # their mean has a standard error of .5
print(f"four independent numbers, Student's t: power .80 at {ratio:.2f} standard errors")
assert 4.2 < ratio < 4.3, "a t interval of four numbers needs 4.25 standard errors, not 2.8"

# %% [markdown]
# **What to see.** At zero both lines are at or below .05: false alarms. Further right the effect is
# found more and more often, so the method works. But four seeds tell little of their own scatter.
# Student's t pays for that with 3.18 in place of 1.96.
#
# <details><summary>Answer</summary>
#
# About .45. Four independent numbers need 4.25 standard errors for a power of .80. This study
# needs 4.4, since its interval is careful: a difference of .036. That is larger than every gain in
# the paper's Table 5.
# </details>

# %% [markdown]
# ### More seeds or more prompts?
#
# The formula of Section 2 has both in it: prompts shrink the last two parts, seeds the first and
# the last. With endless prompts $V_\text{seed}/S$ is left: a floor.
#
# **Predict**: the paper has four seeds, too, and 12,800 prompts. If its seeds scattered as ours do,
# would it find a difference of .01?

# %%
SEEDS, PROMPTS = (3, 4, 8, 16, 32), (60, 240, 960, 12_800)
smallest = pd.DataFrame(index=pd.Index(SEEDS, name="seeds"), columns=PROMPTS, dtype=float)
for S in SEEDS:
    for P in PROMPTS:
        lows = [statistics.two_way_interval(made_up(S, P))[1] for _ in range(300)]
        smallest.loc[S, P] = np.quantile(np.negative(lows), 0.8)  # as `needed` above
smallest["floor of the error"] = [SEED / math.sqrt(S) for S in SEEDS]
smallest.rename(columns=lambda c: f"{c:,} prompts" if isinstance(c, int) else c).round(3)

# %%
figure, axis = plots.panels()
for S in SEEDS:
    axis.plot(PROMPTS, smallest.loc[S, list(PROMPTS)], "o-", color="black")
    axis.annotate(f"{S} seeds", (PROMPTS[-1], smallest.loc[S, PROMPTS[-1]]), (8, -3),
                  textcoords="offset points")
axis.axhline(0.01, color=plots.COLORS["bsr"], linewidth=1)
axis.text(60, 0.0088, "a difference of .01", color=plots.COLORS["bsr"], va="top")
axis.set(xscale="log", yscale="log", xlim=(50, 25_000), xticks=PROMPTS)
axis.set_xticklabels([f"{P:,}" for P in PROMPTS])
axis.set_yticks((0.01, 0.02, 0.05, 0.1), (".01", ".02", ".05", ".1"))
axis.minorticks_off()
plots.label(axis, "prompts", "found in four of five studies (tau)",
            "Prompts cannot stand in for seeds")

# %% [markdown]
# **What to see.** A line is a number of seeds. All fall at first and then level off: what is left
# is the scatter of the seeds. (From 300 studies each: read two digits, with three seeds one.)
#
# <details><summary>Answer</summary>
#
# No: with four seeds about .024 is the smallest. For .01 it takes 16 seeds and 960 prompts, or 32
# seeds and 240.
# </details>
#
# How sure is the scatter itself? It comes from four seeds. And how does it look unpaired?

# %%
rows = {f"BSR minus BT, {part}": deviations(per_prompt("bsr", part) - per_prompt("bt", part))
        for part in PARTS}
rows["BT alone, response_disjoint"] = deviations(bt)
rows["BSR alone, response_disjoint"] = deviations(bsr)
scatter = pd.DataFrame(rows, index=["of seeds", "of prompts", "of the rest"]).T
unpaired = math.hypot(*scatter["of seeds"].iloc[-2:]) / math.sqrt(4)
print(f"two samples of four seeds, endless prompts: standard error {unpaired:.3f}")
scatter.round(3)

# %% [markdown]
# The standard deviation of the seeds is .000 to .017 over the four sets: four seeds hardly tell it.
# So treat the table of seeds and prompts as a plan, and round up.
#
# The last two rows answer Section 1. Unpaired, the seeds alone leave a standard error of .021. No
# number of prompts brings it to the .008 that pairing reached with 240.

# %% [markdown]
# ## 4. What a null result says
#
# "No significant difference" says nothing by itself: a study of two prompts says it, too. Read the
# *ends* of the interval. What lies outside is excluded, at 95%. What lies inside is not.
#
# So say beforehand which difference would be **useful**. Here .05: of tau, that is 2.5 more of 100
# pairs of answers in gold's order (notebook 01); of in-domain accuracy, 5 more. Then an interval
# that holds zero is
# - an **informative null** when it lies inside plus and minus the useful difference;
# - **undecided** when it does not.

# %%
main = {"lora": "bsr", "norms": "bsr", "judged": "bsr", "postscript": "bsr-1e-2"}
rows = [[study, part.replace("_", "-"), *studies[study][method][part]["difference"]]
        for study, method in main.items() for part in PARTS]
nulls = pd.DataFrame(rows, columns=["study", "set", "mean", "low", "high"])
nulls["inside"] = (nulls.low > -0.05) & (nulls.high < 0.05)
figure, axes = plots.panels(2, sharex=True)
for axis, pair in zip(axes, (["lora", "norms"], ["judged", "postscript"]), strict=True):
    some = nulls[nulls.study.isin(pair)]
    axis.axvspan(-0.05, 0.05, color="#DDDDDD", linewidth=0)
    axis.axvline(0, color="black", linewidth=0.8)
    for place, row in enumerate(some.itertuples()):
        axis.errorbar(row.mean, place, xerr=[[row.mean - row.low], [row.high - row.mean]],
                      fmt="o" if row.inside else "x", capsize=3,
                      color="black" if row.inside else "#777777")
    axis.set_yticks(range(8), some.study + ", " + some.set)
    axis.invert_yaxis()
    plots.label(axis, "BSR minus BT (tau; in-domain accuracy)", "", "")
figure.suptitle(f"All 16 intervals hold zero; {nulls.inside.sum()} exclude a difference of .05");

# %% [markdown]
# **What to see.** Grey is what would not be useful. A dot is an informative null, a cross is
# undecided. (An interval of a study draws whole *topics* where the data names them, since many
# prompts share one. BSR's $\lambda$ is $10^{-3}$, in *postscript* $10^{-2}$.)
#
# *lora* is informative in all four sets: whatever BSR does there, it is less than .05. For the
# paper's gains of .001 to .024 no row is: the narrowest one reaches to .015 either way. *No row
# says that there is no difference.*

# %%
narrowest = nulls.loc[(nulls.high - nulls.low).idxmin()]
ends = f"{narrowest.low:+.3f} to {narrowest.high:+.3f}"
print(f"the narrowest, {narrowest.study}, {narrowest.set}: {ends}")
assert (nulls.low * nulls.high < 0).all(), "a decided row would need another sentence"

# %% [markdown]
# ## 5. Many intervals
#
# Of twenty 95% intervals around nothing, one excludes zero. So count them all, not only the one
# that you would like to report. Here are all differences to BT in the four studies, of every method
# and set.
#
# **Predict**: 48 intervals, and suppose that no difference is real. How many exclude zero?

# %%
rows = [[study, method, part, *cell["difference"]] for study, table in studies.items()
        for method, parts in list(table.items())[1:] for part, cell in parts.items()]
every = pd.DataFrame(rows, columns=["study", "method", "set", "mean", "low", "high"])
every["beyond"] = every.low * every.high > 0
counts = every.groupby("study", sort=False).beyond.agg(["count", "sum"])
counts.loc["all"] = counts.sum()
counts["expected"] = 0.05 * counts["count"]
counts.set_axis(["intervals", "exclude zero", "would by chance"], axis=1).round(1)

# %%
every[every.beyond].drop(columns="beyond").round(3)

# %% [markdown]
# <details><summary>Answer</summary>
#
# 2.4 on average. Here it is five.
# </details>
#
# All five lie in *postscript*, and all are costs: two of BSR, three of its level term alone
# (*level-1e-2*). They lie on three sets: prompts that are new, the same with every answer rewritten
# (*prompt_shifted*), and new prompts of the dev split. How often would chance make five of 24?
#
# That depends. Intervals that share runs, prompts and answers miss together. Of BSR and its level
# term even the differences to BT resemble each other, prompt by prompt. So draw 24 differences
# around nothing twice: all independent, and with the correlation of the three methods over prompts
# as recorded.

# %%
post = read_runs(RUNS / "study_postscript")
methods = ["spread-1e-1", "bsr-1e-2", "level-1e-2"]
values = {m: np.concatenate([np.mean([run["evaluation"]["scenarios"][part]["per_prompt"]
                                      for run in post[m]], 0) for part in studies["postscript"][m]])
          for m in ("bt", *methods)}
correlation = np.corrcoef([values[m] - values["bt"] for m in methods])
shares = {}
for name, matrix in (("independent", np.eye(3)), ("correlated as recorded", correlation)):
    draws = rng.multivariate_normal(np.zeros(3), matrix, size=(20_000, 8))  # (draws, sets, methods)
    hits = (abs(draws) > 1.96).sum((1, 2))
    shares[name] = [hits.mean(), (hits > 0).mean(), (hits >= 5).mean()]
print(f"correlation of BSR's and its level term's differences: {correlation[1, 2]:.2f}")
pd.DataFrame(shares, index=["mean number beyond zero", "share with one or more",
                            "share with five or more"]).T.round(3)

# %%
chance = [math.comb(24, k) * 0.05**k * 0.95 ** (24 - k) for k in range(25)]
assert math.isclose(sum(k * p for k, p in enumerate(chance)), 1.2), "the mean is 24 times .05"
assert abs(sum(chance[5:]) - shares["independent"][2]) < 0.003, "the draws must agree with it"

# %% [markdown]
# One or more is what chance does most of the time. Five or more of 24 is rare: .007 if all were
# independent, and twice as much once methods may miss together. That the sets share prompts and
# seeds is still left out. And the study was singled out *because* it has the five.
#
# So it is a pattern to test in new runs, not yet a result. A difference that was named *before* the
# run, as in the predictions of `data/runs/LOG.md`, is judged alone.

# %% [markdown]
# ## 6. A control for "it overfits": clean labels
#
# Somebody trains for many epochs, and scores on new data fall, or stand still. The claim: *false
# labels are learned by heart*. What else could it be? A **control** is the same training with one
# thing changed.
#
# Here is a world in which all is known (*helps* of notebook 04): prompts differ along thirty
# directions of nuisance, gold depends on ten of signal. A network with one hidden layer sees 300
# pairs for 64 epochs, with BT. Labels are drawn from BT on gold, so some go against gold. The
# control has *clean* labels, gold's own.

# %%
SEEDS = 32  # each seed has its own states, labels and network
KINDS = {"noisy": worlds.WORLDS["64 epochs"], "clean": worlds.WORLDS["64 epochs, clean labels"]}
live = {kind: worlds.train(world, {"bt": worlds.OBJECTIVES["bt"]}, SEEDS)
        for kind, world in KINDS.items()}  # looked at every eighth epoch

# %%
(noisy, sets), (clean, same) = (worlds.draw(world, SEEDS) for world in KINDS.values())
assert torch.equal(noisy.sum(2), clean.sum(2)), "the same pairs, apart from their order"
assert all(torch.equal(sets[part], same[part]) for part in PARTS), "the same test sets"
turned = (noisy != clean).flatten(2).any(-1).float().mean()
print(f"{turned:.3f} of the pairs are labelled the other way round; all else is the same")

# %% [markdown]
# By the end of epoch 8 nearly all training pairs are ordered as labelled (`train` below). From then
# on there is little to learn but the false labels. So look at a score minus the score at epoch 8.
#
# **Predict**: which of four sets fall from there on with noisy labels, and which with clean ones?

# %%
def change(kind, part, step=600):  # (seeds,), since the end of epoch 8, which is step 75
    return (live[kind][step][part] - live[kind][75][part])[:, 0].numpy()


steps = [step for step in live["noisy"] if step >= 75]
figure, axes = plots.panels(3)
for axis, kind in zip(axes, KINDS, strict=False):
    for part in PARTS:
        mean, half = np.array([metrics.seed_interval(change(kind, part, s)) for s in steps]).T
        epochs, tint = np.array(steps) * worlds.GROUP / 300, plots.SCENARIO_COLORS[part]
        axis.plot(epochs, mean, "--" if part == "mutual_disjoint" else "-", color=tint)
        axis.fill_between(epochs, mean - half, mean + half, color=tint, alpha=0.2, linewidth=0)
    axis.set(ylim=(-0.035, 0.08), xticks=range(8, 65, 8))
    plots.label(axis, "epoch", "score minus that at epoch 8", f"{kind} labels")
for place, part in enumerate(PARTS):
    dots, tint = change("noisy", part) - change("clean", part), plots.SCENARIO_COLORS[part]
    axes[2].plot(np.full(SEEDS, place), dots, ".", color=tint, alpha=0.4)
    mean, half = metrics.seed_interval(dots)
    axes[2].errorbar(place + 0.25, mean, half, fmt="o", capsize=3, color=tint)
axes[2].set_xticks(range(4), [part.replace("_", "-\n") for part in PARTS])
for tick, part in zip(axes[2].get_xticklabels(), PARTS, strict=True):
    tick.set_color(plots.SCENARIO_COLORS[part])
plots.label(axes[2], "", "", "noisy minus clean, epoch 64")
for axis in axes:
    axis.axhline(0, color="black", linewidth=0.8)
figure.suptitle("From epoch 8 on false labels cost on every set, also where the curve is flat");

# %%
def shown(values):
    return "{:+.3f} ± {:.3f}".format(*metrics.seed_interval(values))


pd.DataFrame({part: {"score at epoch 8, noisy": f"{live['noisy'][75][part].mean():.3f}",
                     "change, noisy": shown(change("noisy", part)),
                     "change, clean": shown(change("clean", part)),
                     "noisy minus clean": shown(change("noisy", part) - change("clean", part))}
              for part in ["train", *PARTS]})

# %% [markdown]
# **What to see.** Colours name the sets (right). Left: with noisy labels in-domain and
# prompt-disjoint fall; on new sources the change is undecided. Middle: with clean labels all four
# rise. Right: noisy minus clean, a dot a seed. There every set decides.
#
# <details><summary>Answer</summary>
#
# Noisy: two of four fall, by .015 and .019. Clean: none. The surprise is the new sources: their
# flat curve hides a cost of .06, since without false labels they would have risen.
# </details>
#
# So the claim stands, and the control made it stronger: a curve that stands still can be a loss.
# The same training goes on to gain with clean labels, so sixty-four epochs by themselves are not
# the cause.

# %% [markdown]
# A control answers one claim. For *the penalty works* there are others: BT centred per prompt, and
# BT rescaled to BSR's spread (notebook 03, Section 4). Ranks within a prompt cannot see either, so
# a gain in tau is more than scale; a gain in *pooled* tau or in calibration may be scale alone.

# %% [markdown]
# ## Exercises
#
# Each stub returns `None`; its checker then says "not attempted yet". A fold holds the first hint,
# and a wrong answer gets a second one from its checker. Solutions are in `notebooks/solutions/`.
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
# (not rounded) are best for a `budget`? `sd_seed` and `sd_prompt` are the roots of the two
# variances.
#
# <details><summary>Hint</summary>
#
# At the best split one more unit of money buys the same on either side. Or first try a grid.
# </details>

# %%
def best_seeds(sd_seed, sd_prompt, cost_seed, cost_prompt, budget):
    return None


checks.check_best_seeds(best_seeds);

# %% [markdown]
# **3.** Only what is found gets reported. `intervals` (studies, 2) holds the ends of many
# intervals, the mean of each is its middle, and the true difference is `truth`. By which factor is
# the *size* of a reported difference too large, on average? Reported are those that exclude zero,
# on either side. Then run the last cell: what does it say about a gain of .024 in a study that
# could find .036?
#
# <details><summary>Hint</summary>
#
# Which studies find a small effect: those whose luck was good, bad or middling?
# </details>

# %%
def exaggeration(intervals, truth):
    return None


checks.check_exaggeration(exaggeration);

# %%
shifted = torch.tensor(intervals[:, 2])
pd.Series({truth: exaggeration(shifted + truth, truth) for truth in (0.01, 0.02, 0.04, 0.06)},
          name="reported over true").rename_axis("true difference")

# %% [markdown]
# **4.** *Judge two records that you have not seen.* From the ends of a 95% interval and the
# smallest useful difference return a verdict: 1 for a gain, -1 for a cost, 0 for an informative
# null, 2 for undecided. Then run the last cell. Where may you say that the method makes no
# difference of .05? Where may you say that it makes none at all? Which lambda would you not use
# again?
#
# <details><summary>Hint</summary>
#
# Draw a line with five marks: minus useful, zero, useful, and the two ends. Which orders are there?
# </details>

# %%
def verdict(low, high, useful):
    return None


checks.check_verdict(verdict);

# %%
verdicts = {}
for name in ("terms", "lambda"):
    for method, cells in list(read_table(f"data/runs/study_{name}").items())[1:]:
        verdicts[name, method] = {part: verdict(*cells[part]["difference"][1:], 0.05)
                                  for part in PARTS}
pd.DataFrame.from_dict(verdicts, orient="index")

# %% [markdown]
# ## What you know now
#
# - Pair by seed and by prompt; put an interval over both on the difference, and try it on studies
#   whose truth you know.
# - Power comes before the run. The rule of 2.8 standard errors is for many seeds; with four it
#   takes 4.25 or more. Prompts cannot stand in for seeds.
# - Name the useful difference first. Count all intervals, list those that exclude zero.
# - A control changes one thing, and is paired, too.
#
# **"We found no difference" is worth as much as the smallest difference that you could have
# found.**
#
# Next: **07 · Which of the paper's claims about over-optimization hold here?**
