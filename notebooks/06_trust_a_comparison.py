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
# Two methods were trained, one scores higher. Is it better? The paper's gains are .001 to .024 of
# tau (Table 5). Numbers of that size appear by chance all the time. This lesson says what has to
# be true before you may say *better*, *worse*, *no difference* or *undecided*.

# %% [markdown]
# After it you can
# - pair a comparison by seed and by prompt, and say what that removes;
# - put an interval on it that speaks of new seeds *and* new prompts, and test the interval itself;
# - say how large an effect a study can find, and what a null result excludes;
# - name the controls: clean labels for "it overfits", a shift and a scale for "the penalty works".
#
# Words from before: *margin*, *tau* (notebook 01); *in-domain*, *prompt-*, *response-* and
# *mutual-disjoint* (02, Section 4); *BSR* (Eq. 25, 03); the small worlds (04).

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
from IPython.display import Markdown

from bsr_lite import metrics, plots
from bsr_lite.course import checks_policy as checks
from bsr_lite.studies import statistics, tables, worlds
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
# ## 1. Two clouds, or one cloud of differences
#
# The study *lora*: BT and BSR ($\lambda = 10^{-3}$), 10 layers, 900 pairs, four seeds. A **seed**
# sets the head and the order of the batches, and it is the same for both. So are the **prompts**
# on which both are scored. That makes the comparison *paired*: same seed, same prompt, BSR minus
# BT.
#
# **Predict**: by which factor is the error of the difference smaller when the pairs are used?

# %%
runs = read_runs(RUNS / "study_lora")


def per_prompt(method, part):  # (seeds, prompts)
    return np.array([r["evaluation"]["scenarios"][part]["per_prompt"] for r in runs[method]])


bt, bsr = (per_prompt(method, "response_disjoint") for method in ("bt", "bsr"))
apart = math.hypot(*(statistics.two_way_interval(scores)[3] for scores in (bt, bsr)))
together = statistics.two_way_interval(bsr - bt)[3]
print(f"standard error of BSR minus BT: {apart:.4f} as two samples, {together:.4f} as pairs")

# %%
figure, (left, right) = plots.panels(2)
left.plot(bt.mean(0), bsr.mean(0), ".", color=plots.COLORS["bsr"], alpha=0.5)
left.plot([-1, 1], [-1, 1], color="black", linewidth=0.8)
plots.label(left, "tau of BT", "tau of BSR", "a dot a prompt, mean of the seeds")
mean = (bsr - bt).mean()
for place, error in enumerate((apart, together)):
    right.errorbar(place, mean, 1.96 * error, fmt="o", capsize=3, color=plots.COLORS["bsr"])
right.plot([1.1] * len(bt), (bsr - bt).mean(1), ".", color=plots.COLORS["bsr"], alpha=0.6)
right.axhline(0, color="black", linewidth=0.8)
right.set_xticks((0, 1), ("two samples", "pairs, a dot a seed"))
right.set_xlim(-0.5, 1.5)
plots.label(right, "", "BSR minus BT, 1.96 standard errors", "one difference, two intervals")
figure.suptitle("Pairing removes what both methods share");

# %% [markdown]
# **What to see.** Left: a prompt that is hard for BT is hard for BSR. The dots lie along the
# diagonal, so most of what makes scores vary cancels in the difference. Right: the same difference,
# with and without use of the pairs.
#
# <details><summary>Answer</summary>
#
# By more than five. An unpaired study would need some thirty times the prompts for the same error.
# </details>

# %% [markdown]
# ## 2. Seeds and prompts
#
# What is left blurs the difference in three ways: by the seed ($a_s$), by the prompts that happen
# to be in the set ($b_p$), and by the rest ($e_{sp}$):
#
# $$d_{sp} = \delta + a_s + b_p + e_{sp}, \qquad \mathrm{Var}(\bar d) = \frac{\sigma_a^2}{S} +
# \frac{\sigma_b^2}{P} + \frac{\sigma_e^2}{SP}.$$
#
# An interval over seeds alone misses $\sigma_b$: it speaks about these prompts only. One over
# prompts alone misses $\sigma_a$. The mean squares of an analysis of variance have the
# expectations $P\sigma_a^2 + \sigma_e^2$ (seeds), $S\sigma_b^2 + \sigma_e^2$ (prompts) and
# $\sigma_e^2$ (rest): the first two minus the last, over $SP$, is the variance above.

# %%
d = bsr - bt
S, P = d.shape
ms_seed, ms_prompt = P * d.mean(1).var(ddof=1), S * d.mean(0).var(ddof=1)
rest = d - d.mean(1, keepdims=True) - d.mean(0, keepdims=True) + d.mean()
ms_rest = (rest**2).sum() / ((S - 1) * (P - 1))
error = math.sqrt(max(ms_seed + ms_prompt - ms_rest, ms_seed, ms_prompt) / (S * P))
mean, low, high, library = statistics.two_way_interval(d)
assert math.isclose(error, library), "the library's standard error is this one"
print(f"BSR - BT, {S} seeds, {P} prompts: {mean:+.4f} ({low:+.4f} to {high:+.4f})")
print(f"over seeds alone +- {metrics.seed_interval(d.mean(1))[1]:.4f}, "
      f"over prompts alone +- {metrics.seed_interval(d.mean(0))[1]:.4f}")

# %% [markdown]
# Over prompts alone the interval would be less than half as wide. (The `max` guards against an
# estimate below what either source alone makes; the interval uses Student's t.)
#
# Which of the three should be believed? One that holds the truth as often as it says. So make up
# studies in which the truth is known to be zero, with the three standard deviations of this one,
# and count.
#
# **Predict** which intervals hold zero less often than in 95 of 100 studies.

# %%
rng = np.random.default_rng(0)
sd_seed, sd_prompt = (math.sqrt(max(ms - ms_rest, 0) / n) for ms, n in ((ms_seed, P),
                                                                        (ms_prompt, S)))
print(f"standard deviations: seeds {sd_seed:.3f}, prompts {sd_prompt:.3f}, "
      f"rest {math.sqrt(ms_rest):.3f}")


def made_up():
    return (sd_seed * rng.standard_normal((S, 1)) + sd_prompt * rng.standard_normal((1, P))
            + math.sqrt(ms_rest) * rng.standard_normal((S, P)))


def three_intervals(x):  # (3, 2): low and high, over seeds, over prompts, over both
    sides = [metrics.seed_interval(x.mean(axis)) for axis in (1, 0)]
    return [*((mean - half, mean + half) for mean, half in sides),
            statistics.two_way_interval(x)[1:3]]


intervals = np.array([three_intervals(made_up()) for _ in range(1000)])  # (1000, 3, 2)
holds = (intervals[..., 0] < 0) & (intervals[..., 1] > 0)

# %%
figure, axes = plots.panels(3, sharex=True)
for i, (axis, name) in enumerate(zip(axes, ("seeds alone", "prompts alone", "both"), strict=True)):
    for row, ((low, high), held) in enumerate(zip(intervals[:40, i], holds[:40, i], strict=True)):
        axis.plot((low, high), (row, row), color="#888888" if held else "#BB5566", linewidth=1.5)
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
# **What to see.** Red intervals miss the truth. Over prompts alone there are far too many. Over
# seeds alone the count is nearly right here, since prompts add little once they are paired; it is
# right for the wrong reason, and its width jumps from study to study, as four seeds tell little of
# their own scatter.

# %% [markdown]
# ## 3. How large an effect can we see?
#
# What an interval leaves out is excluded, at 95%; what it holds is not, zero and useful gains
# alike. *Before* a study one asks how large it must be. A true difference is found significant in
# four of five studies when it is $1.96 + 0.84 = 2.8$ standard errors, .84 being the 80% quantile of
# the normal distribution. How many prompts would .01 need?

# %%
for part in PARTS[1:]:
    d = per_prompt("bsr", part) - per_prompt("bt", part)  # (seeds, prompts)
    one_seed = d.std(axis=1, ddof=1).mean()
    print(f"{part:18s} sd of a prompt's paired difference, one seed {one_seed:.2f}: "
          f"{(2.8 * one_seed / 0.01) ** 2:5.0f} prompts for .01; mean of {len(d)} seeds "
          f"{d.mean(0).std(ddof=1):.2f}: {(2.8 * d.mean(0).std(ddof=1) / 0.01) ** 2:4.0f}")

# %%
power = (abs(2.8 + np.random.default_rng(0).standard_normal(100_000)) > 1.96).mean()
assert abs(power - 0.8) < 0.01, "2.8 standard errors must be found in four of five studies"

# %% [markdown]
# Two thousand prompts with one seed, six hundred with the mean of four, noise of the seeds
# themselves not counted. The paper has 12,800 prompts and four seeds. Our sets have 77 to 319: with
# a backbone that trains, .01 cannot be decided here. (In the tables below an interval draws whole
# topics where the data names them, since 16 prompts share one.)

# %% [markdown]
# ## 4. What a null result says
#
# "No significant difference" says nothing by itself: a study of two prompts says it, too. Read the
# *ends* of the interval instead. They are what is excluded. Say beforehand which difference would
# be **useful**. A null is *informative* when its interval lies inside plus and minus that
# difference. If the interval holds zero and a useful difference, the answer is *undecided*.

# %%
rows = []
for name, table in studies.items():
    method = "bsr" if "bsr" in table else "bsr-1e-2"
    for part in PARTS:
        mean, low, high = table[method][part]["difference"]
        largest = max(abs(low), abs(high))
        rows.append([f"{name}: {method}", part, tables.shown((mean, low, high), "+.3f"),
                     "no" if low * high > 0 else "yes", *("yes" if largest < useful else "no"
                                                          for useful in (0.05, 0.01))])
Markdown(tables.table(["study", "set", "BSR minus BT", "holds zero", "excludes .05 either way",
                       "excludes .01"], rows))

# %% [markdown]
# The study *lora* is informative for a difference of .05: whatever BSR does there, it is less. For
# the paper's .01 no row is. *No row says that there is no difference.*

# %% [markdown]
# ## 5. Many intervals
#
# Of twenty 95% intervals around nothing, one excludes zero. So count them all, not only the one
# that you would like to report.

# %%
for name, table in studies.items():
    print(f"{name:11s}", tables.multiplicity(table))
differences = [cell["difference"] for table in studies.values()
               for parts in list(table.values())[1:] for cell in parts.values()]
n, beyond = len(differences), sum(low * high > 0 for _, low, high in differences)
chance = [math.comb(n, k) * 0.05**k * 0.95 ** (n - k) for k in range(n + 1)]
assert math.isclose(sum(k * share for k, share in enumerate(chance)), 0.05 * n), "the mean of it"
print(f"all together {beyond} of {n}, {sum(low > 0 for _, low, _ in differences)} of them gains")
print(f"if none were real and all independent: {0.05 * n:.1f} on average, one or more with "
      f"probability {1 - chance[0]:.2f}, {beyond} or more with {sum(chance[beyond:]):.2f}")

# %% [markdown]
# That one or the other interval excludes zero is what chance does. Five of 48 is more than its
# average, and still chance alone makes as many in about one of ten such collections. (The sets of a
# study share seeds, so its intervals are not independent: they miss together.) Where do the five
# lie? All in one study, *postscript*, and all are costs. That is a pattern to test in new runs, not
# yet a result. A difference that was named *before* the run, as in the predictions of
# `data/runs/LOG.md`, is judged alone.

# %% [markdown]
# ## 6. A control for "it overfits": clean labels
#
# Somebody trains for many epochs, and scores on new data fall. The claim: *too many epochs*. What
# else differs? Here is a world in which all is known (*helps* of notebook 04: prompts differ along
# thirty directions of nuisance, gold depends on ten of signal). A network with one hidden layer
# sees 300 pairs for 64 epochs. Labels are drawn from BT on gold. The **control** is the same
# training with *clean* labels: gold's own.

# %% [markdown]
# **Predict**: which of the five curves (training pairs, four sets) fall when the labels are noisy,
# and which when they are clean?

# %%
SEEDS = 16  # worlds of each kind: each has its own states, labels and network
KINDS = {"noisy labels": worlds.WORLDS["64 epochs"],
         "clean labels": worlds.WORLDS["64 epochs, clean labels"]}
OBJECTIVES = {name: worlds.OBJECTIVES[name] for name in ("bt", "bsr-1e-2")}
live = {kind: worlds.train(world, OBJECTIVES, SEEDS, looks=24) for kind, world in KINDS.items()}

# %%
for kind, world in KINDS.items():
    pairs, _ = worlds.draw(world, SEEDS)  # (seeds, pairs, 2, 40), the one called better first
    wrong = (pairs @ worlds.gold_direction()).diff(dim=-1) > 0
    print(f"{kind}: {wrong.float().mean():.3f} of the labels go against gold")

# %%
figure, axes = plots.panels(2, sharey=True)
for axis, (kind, seen) in zip(axes, live.items(), strict=True):
    for part in ["train", *PARTS]:
        mean, half = np.array([metrics.seed_interval(look[part][:, 0]) for look in seen.values()]).T
        tint = plots.SCENARIO_COLORS[part]
        axis.plot(list(seen), mean, color=tint, label=part.replace("_", "-"))
        axis.fill_between(list(seen), mean - half, mean + half, color=tint, alpha=0.2, linewidth=0)
    plots.label(axis, "step of BT (75 are 8 epochs)", "", kind)
axes[0].set(ylim=(0.5, 1.02), ylabel="accuracy (first two), Kendall's tau")
axes[1].legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
figure.suptitle("64 epochs: with noisy labels some sets fall, with clean ones none");

# %%
def change(kind, part):  # per seed, of BT, from the end of epoch 8 to that of epoch 64
    return live[kind][600][part][:, 0] - live[kind][75][part][:, 0]


def penalty(kind, part):  # per seed, at the end
    return live[kind][600][part][:, 1] - live[kind][600][part][:, 0]


rows = [[f"{what}, {kind}", *("{:+.3f} ± {:.3f}".format(*metrics.seed_interval(of(kind, part)))
                              for part in ["train", *PARTS])]
        for what, of in (("BT, epoch 64 minus 8", change), ("BSR 1e-2 minus BT, end", penalty))
        for kind in KINDS]
Markdown(tables.table(["mean ± 95% over seeds", "train", *PARTS], rows))

# %% [markdown]
# **What to see.** The noisy training pairs are learned by heart, the .175 that go against gold
# included. *From then on*, epoch 8 to 64, in-domain falls by .012 ± .011 and prompt-disjoint by
# .018 ± .010. On new sources the change is undecided. With clean labels the same training raises
# all four sets, new sources most. ("Train" is scored against its labels, the others against gold.)
#
# <details><summary>Answer</summary>
#
# Noisy: in-domain and prompt-disjoint fall, by little. Clean: none falls. What overfits here is
# false labels, not sixty-four epochs by themselves. The paper's pattern, ID *rising* while the rest
# stalls, does not appear.
# </details>

# %% [markdown]
# BSR at $10^{-2}$ does not undo the fall: in both kinds it ends .009 to .022 *below* BT on
# in-domain and prompt-disjoint, beyond seed noise. On new sources it ends .022 to .024 above BT
# with noisy labels; with clean ones that is undecided.

# %% [markdown]
# ## 7. Controls for "the penalty works": what a shift or a scale can do by itself
#
# BSR changes the level and maybe the spread of rewards. Two controls need no training: **centre**
# BT's rewards per prompt afterwards, or **rescale** BT's rewards to BSR's spread. Tau within
# prompts and best-of-$n$ cannot see either (notebook 03, Section 4). What can: tau *pooled* over
# prompts (centring), and **calibration**, whether $\sigma(m)$ is the probability that the label
# agrees (rescaling). The third control is trained: plain **L2** on rewards.

# %% [markdown]
# Negative log-likelihood (nll) of held-out labels: as trained, of BT rescaled to this method's
# spread, and at the best of all scales; `ece`: how far confidence and frequency are apart, on
# average over ten bins of confidence.

# %%
CONTROLS = ("reward_mean", "within", "pooled_tau", "pooled_centred", "nll", "rescaled_nll",
            "best_nll", "scale", "ece")
for part in ("prompt_disjoint", "mutual_disjoint"):
    print(f"{part:18s}" + "".join(f"{c:>15s}" for c in CONTROLS))
    for method, cells in studies["lora"].items():
        print(f"  {method:16s}" + "".join(f"{cells[part][c]:15.3f}" for c in CONTROLS))
print(f"nll of a coin {math.log(2):.3f}")

# %% [markdown]
# **What to see.** BSR pins the level (on prompts of known sources; new ones keep .3). It does not
# shrink the spread within prompts here (1.03 of BT's, undecided), and its nll is that of BT
# rescaled to it, to .002: calibration shows no effect of BSR beyond scale, and scale had nothing
# to repair (BT's nll is within .004 of that at the best of all scales).
#
# Pooled tau is lower, clearly under centering, by .005 to .008 under BSR and L2, partly within
# noise of the seeds. Once every prompt is centred the difference is gone: BT's levels hold
# something in this world (some prompts get better answers than others), and pinning them loses
# it.

# %% [markdown]
# ## Exercises
#
# Each stub returns `None`; its checker then says "not attempted yet". A fold holds the first hint,
# and a wrong answer gets a second one from its checker. Solutions are in `notebooks/solutions/`.
#
# **1.** A prompt's paired difference has standard deviation `sd`. How many prompts does it take to
# find a true difference in four of five studies (2.8 standard errors, seeds ignored)? Rounded up.

# %%
def prompts_needed(sd, difference):
    return None


checks.check_prompts_needed(prompts_needed);

# %% [markdown]
# **2.** The standard error of the mean of `x` (S seeds, P prompts, a tensor), both drawn at random
# (Section 2), without the guard.

# %%
def two_way_error(x):
    return None


checks.check_two_way_error(two_way_error);

# %% [markdown]
# **3.** *Judge a record.* From the ends of a 95% interval and the smallest useful difference,
# return a verdict: 1 for a gain, -1 for a cost, 0 for an informative null, 2 for undecided. Then
# run the last cell. In which studies may you say that BSR makes no difference of .05? In which may
# you say that it makes none at all?
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
for name, table in studies.items():
    for method, parts in list(table.items())[1:]:
        print(f"{name}: {method:12s}", [verdict(*parts[p]["difference"][1:], 0.05) for p in PARTS])

# %% [markdown]
# ## What you know now
#
# - Pair by seed and by prompt; put an interval over both on the difference.
# - **A comparison is worth what its interval excludes: say the useful difference first, pair, count
#   all intervals, and call the rest undecided.**
# - A control changes one thing. Clean labels told false labels from many epochs; a rescaled or
#   centred BT tells a penalty from its scale and its level.
# - Ranks within a prompt cannot see levels or scale. Calibration and pooled tau can.
#
# Next: **07 · Which of the paper's claims about over-optimization hold here?**
