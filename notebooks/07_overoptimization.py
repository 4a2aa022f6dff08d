# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 07 · Which of the paper's claims about over-optimization hold here?
#
# A reward model is **over-optimized** when it goes on improving on what it was trained on while it
# stagnates or gets worse on anything new. The paper's Part 1 claims that Bradley-Terry (BT) models
# do this because hidden norms disperse, and that batch-wise sum-to-zero regularization (BSR)
# counters it. This notebook takes the claims one by one: *holds*, *does not hold*, *undecided*,
# with the statistics that such verdicts need.

# %% [markdown]
# After it you can
# - say what each of the four generalization scenarios tests, and watch over-optimization happen in
#   seconds on a laptop, beside its control;
# - put an honest interval on a comparison of two training methods, and tell a null result from a
#   study that was too small;
# - name the controls that separate "BSR works" from "rewards became smaller";
# - estimate best-of-$n$ without bias, and read proxy against gold.

# %% [markdown]
# Words from before: *margin*, *tau* (notebook 01), *effective rank* (02), *BSR* (03). **Gold** is
# the preference that decides what is right, in the pocket world a formula you can read. A
# **policy** is a model that writes answers, a **proxy** a reward model used in place of gold,
# **KL** (nats) says how far one distribution is from another.

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
import json
import math

import numpy as np
from IPython.display import Markdown

from bsr_lite import metrics, plots
from bsr_lite.config import load_config
from bsr_lite.course import checks_policy as checks
from bsr_lite.data import read_groups
from bsr_lite.studies import figures, statistics, tables, worlds
from bsr_lite.studies.records import read_runs, read_table, watched

# %% [markdown]
# ## 1. Four ways to be new
#
# A training pair has a prompt and two responses, written by some *source* (a model, or a model
# under a system prompt). New data can be new in its prompts, in its sources, or in both (Sec.
# 2.2):
#
# | | known sources | new sources |
# |---|---|---|
# | **training prompts** | in-domain (ID) | response-disjoint |
# | **new prompts** | prompt-disjoint | mutual-disjoint |
#
# ID are the two answers of a training prompt that training left out; it is scored by accuracy;
# the others have four and are scored by Kendall's tau, averaged over prompts. Here is the pocket
# world's whole table:

# %%
base = load_config("bsr_lite/configs/rm_fast.yaml")
groups = read_groups(base.data.source)
NEW = base.data.valid_models
sources = sorted({m for g in groups for m in g.models} - set(NEW)) + NEW
ROLES = {("train", False): "train", ("train", True): "response_disjoint",
         ("valid", False): "prompt_disjoint", ("valid", True): "mutual_disjoint"}
groups.sort(key=lambda g: ("train", "valid", "dev").index(g.split))
picture = np.ones((len(groups), len(sources), 3))

# %%
for row, g in zip(picture, groups, strict=True):
    for model in g.models:
        role = ROLES.get((g.split, model in NEW))
        row[sources.index(model)] = plots.to_rgb(plots.SCENARIO_COLORS.get(role, "#cccccc"))

# %%
figure, axis = plots.panels(1)
axis.imshow(picture, aspect="auto", interpolation="nearest")
axis.set_xticks(range(len(sources)), sources, rotation=20)
axis.grid(visible=False)
for role in ROLES.values():
    name = "train pair, and the in-domain pair" if role == "train" else role.replace("_", "-")
    axis.plot([], [], "s", color=plots.SCENARIO_COLORS[role], label=name)
axis.plot([], [], "s", color="#cccccc", label="dev: every choice is made here")
plots.label(axis, "source of the response", "prompt", "who answers what, and for which test")
axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8);

# %% [markdown]
# **What to see.** Every prompt has four known sources drawn at random (stripes), a third of the
# training prompts and all others have the four new ones as well. Topics, not only wordings, are
# disjoint between the bands. The new sources are few: four settings of two small models, one of
# which also wrote the training data. What is found speaks of these four.

# %% [markdown]
# ## 2. Train for too long
#
# First a world in which all is known (`bsr_lite.studies.worlds`; ours, not the paper's). A state is
# $x = a + b$, forty numbers: $a$ says which prompt, $b$ which answer. Gold is linear in the first
# ten, the *signal*; the other thirty are *nuisance*. Prompts differ along the nuisance (standard
# deviation 3). Answers of training's sources hardly do (.2), those of new sources do (1).
#
# A network with one hidden layer sees 300 pairs for 64 epochs. Labels are drawn from BT on gold.
# The control is the same training with *clean* labels: gold's own.

# %% [markdown]
# **Predict**: which of the five curves (training pairs, four sets) fall when the labels are noisy,
# and which when they are clean?

# %%
PARTS = ["in_domain", "prompt_disjoint", "response_disjoint", "mutual_disjoint"]
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
axes[1].legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8);

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
# ## 3. How large an effect can we see?
#
# The paper's gains are .001 to .024 tau (Table 5). On a language model two things blur ours: the
# **seed** (head, order of batches) and the **prompts** that happen to be in the set. Comparisons
# are *paired*: same seed, same prompt, BSR minus BT, which removes most of both. What remains, as a
# model with seed effect $a_s$, prompt effect $b_p$ and the rest $e_{sp}$:

# %% [markdown]
# $$d_{sp} = \delta + a_s + b_p + e_{sp}, \qquad \mathrm{Var}(\bar d) = \frac{\sigma_a^2}{S} +
# \frac{\sigma_b^2}{P} + \frac{\sigma_e^2}{SP}.$$
#
# An interval over seeds alone misses $\sigma_b$: it speaks about these prompts only. One over
# prompts alone misses $\sigma_a$. The mean squares of an analysis of variance have the
# expectations $P\sigma_a^2 + \sigma_e^2$ (seeds), $S\sigma_b^2 + \sigma_e^2$ (prompts) and
# $\sigma_e^2$ (rest): the first two minus the last, over $SP$, is the variance above.

# %%
# "full" trains what "fast" reads; finished runs are read back
RUNS = Path("runs" if PROFILE == "full" else "data/runs")
if PROFILE == "full":
    from bsr_lite.studies.best_of_n import run_best_of_n
    from bsr_lite.studies.linear import run_linear
    from bsr_lite.studies.reward_models import run_study
    configs = Path("bsr_lite/configs")
    for study in ("study_lora", "study_norms", "study_postscript"):
        run_study(configs / f"{study}.yaml")
    run_study(configs / "study_judged.yaml", resume=True)  # its data is not in this repository
    run_linear(configs / "linear.yaml")
    run_best_of_n(configs / "best_of_n.yaml")
    worlds.run_worlds(RUNS / "worlds")
runs = read_runs(RUNS / "study_lora")  # LoRA on 10 layers: Section 4


def per_prompt(method, part):  # (seeds, prompts)
    return np.array([r["evaluation"]["scenarios"][part]["per_prompt"] for r in runs[method]])

# %%
a = per_prompt("bsr", "response_disjoint") - per_prompt("bt", "response_disjoint")
S, P = a.shape
ms_seed, ms_prompt = P * a.mean(1).var(ddof=1), S * a.mean(0).var(ddof=1)
rest = a - a.mean(1, keepdims=True) - a.mean(0, keepdims=True) + a.mean()
ms_rest = (rest**2).sum() / ((S - 1) * (P - 1))
error = math.sqrt(max(ms_seed + ms_prompt - ms_rest, ms_seed, ms_prompt) / (S * P))
mean, low, high, library = statistics.two_way_interval(a)
assert math.isclose(error, library), "the library's standard error is this one"
print(f"BSR - BT, {S} seeds, {P} prompts: {mean:+.4f} ({low:+.4f} to {high:+.4f})")
print(f"over seeds alone +- {metrics.seed_interval(a.mean(1))[1]:.4f}, "
      f"over prompts alone +- {metrics.seed_interval(a.mean(0))[1]:.4f}")

# %% [markdown]
# Over prompts alone the interval would be less than half as wide. (The `max` guards against an
# estimate below what either source alone makes; the interval uses Student's t.)
#
# What an interval leaves out is excluded, at 95%; what it holds is not, zero and useful gains
# alike. *Before* a study one asks how large it must be: a true difference is found
# significant in four of five studies when it is $1.96 + 0.84 = 2.8$ standard errors, .84 being the
# 80% quantile of the normal distribution. How many prompts would .01 need?

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
# ## 4. The studies: from a world to the language model
#
# **A world.** Section 2's, with enough pairs for one pass: norms of $h_w - h_l$ under BT before and
# after, how new prompts and new sources fare, and what each term of BSR does to new sources. The
# *level* term sees the mean reward of the batch, the *spread* term how far pairs differ in their
# mean reward; BSR is both. Other worlds: a final RMSNorm, a mean state that lies on the signal,
# all directions alike (*neutral*), prompts that differ along the signal (*hurts*).

# %%
found = json.loads((RUNS / "worlds/results.json").read_text())["worlds"]
figures.worlds_figure(found);

# %%
helps = found["helps"]
rows = [[method, *("{:+.3f} ± {:.3f}".format(*helps["objectives"][method]["difference"][part])
                   for part in PARTS)] for method in ("bsr-1e-2", "spread-1e-1", "level-1e-2",
                                                      "centering-1e-2", "l2-1e-2")]
rows.insert(0, ["bt", *(f"{helps['objectives']['bt']['score'][part]:.3f}" for part in PARTS)])
for what, name in (("difference", "mean |h_w - h_l|"), ("norm_cv", "cv of |h|"), ("head", "|w|")):
    course = helps["course"][what]
    print(f"BT in the world helps, {name}: {course[0][0]:.2f} to {course[-1][0]:.2f}")
Markdown(tables.table(["helps: BT, then minus BT", *PARTS], rows))

# %% [markdown]
# **What to see.** Under BT norms disperse: the mean of $\lVert h_w - h_l\rVert$ goes from 2.46 to
# 4.05, the cv of $\lVert h\rVert$ from .10 to .16, while the head's norm stays. New sources end at
# .72, new prompts at .86. BSR gains .036 ± .008 on new sources and nothing on in-domain and
# prompt-disjoint: the pattern of the paper's Table 5. It is the *spread* term that gains
# (.061 ± .007), the *level* term costs. Centering and L2 gain nearly as much as the spread term.
#
# Where the mean state lies on the signal, the spread term gains, the level term costs, and so does
# BSR. In *neutral* and *hurts* both terms cost.

# %% [markdown]
# **Linear heads on the model's states.** `linear`: hidden states of the *untrained* model, a linear
# head fitted exactly to all 1,056 pairs, in three worlds of text. *Plain*: the pocket world.
# *Postscript*: every answer carries a line about something else, in training the same for all
# answers to a prompt, from new sources each its own. *Closing phrase*: a habit that goes with
# quality in training alone. The set *prompt-shifted* has the answers of prompt-disjoint, rewritten
# as new sources' are. What each penalty will do was foretold from the states and gold before any
# head was fitted.

# %%
linear = read_table(RUNS / "linear")
figures.linear_figure(linear);

# %%
rows = []
for world, found in tables.foretold(linear).items():  # (objective, set, foretold, mean, low, high)
    beyond = [(told, mean) for _, _, told, mean, low, high in found if low * high > 0]
    rows.append([world, len(found), sum(mean > 0 for _, mean in beyond),
                 sum(mean < 0 for _, mean in beyond), sum(told * mean > 0 for told, mean in beyond),
                 sum(low <= told <= high for _, _, told, _, low, high in found)])
Markdown(tables.table(["world", "differences to BT", "gains that exclude zero", "costs", "of both "
                       "with the foretold sign", "intervals that hold the foretold one"], rows))

# %%
COLUMNS = ["in_domain", "prompt_disjoint", "prompt_shifted", "response_disjoint", "mutual_disjoint"]


def row(name, method, cells):
    """BT's scores, of the others the difference to BT with its interval."""
    shown = {part: f"{c.get('mean', c.get('score')):.3f}" if method == "bt"
             else tables.shown(c["difference"], "+.3f") for part, c in cells.items()}
    return [f"{name}: {method}", *(shown.get(part, "") for part in COLUMNS)]


rows = [row(world, method, objectives[method]) for world, objectives in linear.items()
        for method in ("bt", "bsr-0.1", "l2-0.1")]
Markdown(tables.table(["linear heads: BT, then minus BT", *COLUMNS], rows))

# %% [markdown]
# **What to see.** *Plain*: no gain excludes zero, three costs do. *Postscript*: rewriting the same
# answers costs BT .161 (.289 to .128), and BSR at .1 gives .073 of it back (.007 to .140). Plain L2
# gives as much, so this is not BSR's own. On new sources their gains are undecided. *Closing
# phrase*: rewriting costs more, and no gain excludes zero.
#
# All twelve differences that exclude zero have the foretold sign.

# %% [markdown]
# **A backbone that trains.** *lora*: 10 layers, 900 pairs, four seeds. *norms*: full fine-tuning of
# all 30 layers, 512 pairs, four seeds; here alone the paper's mechanism, norms that disperse, has
# its place. *judged*: real answers of real models ranked by a GPT-4 judge, QLoRA, three seeds, six
# model families held out. *postscript*: LoRA in that world, three seeds. BSR has the paper's
# $\lambda = 10^{-3}$ where no other is named.

# %%
STUDIES = ("study_lora", "study_norms", "study_judged", "study_postscript")
studies = {name.removeprefix("study_"): read_table(RUNS / name) for name in STUDIES}
found = [(f"{name}: {method}", method, cells) for name, table in studies.items()
         for method, cells in list(table.items())[1:]]
figure, axes = plots.panels(len(COLUMNS), sharex=True, sharey=True)
for axis, part in zip(axes, COLUMNS, strict=True):
    axis.axvline(0, color="black", linewidth=0.8)
    for place, (_, method, cells) in enumerate(found):
        if part in cells:
            mean, low, high = cells[part]["difference"]
            tint = plots.color(method, place)
            axis.errorbar(mean, -place, xerr=[[mean - low], [high - mean]], fmt="o", color=tint,
                          markersize=4, markerfacecolor=tint if low * high > 0 else "white")
    unit = "accuracy" if part == "in_domain" else "tau"
    plots.label(axis, f"minus BT ({unit})", "", part.replace("_", "-"))
axes[0].set_yticks([-place for place in range(len(found))], [name for name, *_ in found]);

# %%
rows = [row(name, method, cells) for name, table in studies.items()
        for method, cells in table.items()]
shown = [cells[part]["difference"] for *_, cells in found for part in COLUMNS if part in cells]
print(f"{sum(low * high > 0 for _, low, high in shown)} of {len(shown)} differences exclude zero; "
      f"by chance alone {0.05 * len(shown):.1f} would")
Markdown(tables.table(["trained: BT, then minus BT", *COLUMNS], rows))

# %% [markdown]
# **What to see.** A filled dot has an interval without zero. There is one: where answers carry
# postscripts, BSR at $10^{-2}$ *costs* .055 (.009 to .100) on rewritten answers. One or two of
# thirty-four would exclude zero by chance. Its spread term alone, at $10^{-1}$, changes them by
# +.026 (-.031 to +.083): undecided.
#
# Everything else is undecided, and the intervals say how undecided: for BSR at the paper's
# $\lambda$ they hold gains of .01 to .2 as well as losses.

# %% [markdown]
# ## 5. Training curves
#
# Over-optimization is *divergence over time*, so the lora runs scored all four scenarios on the
# way (32 sets each: wide, but paired over time).

# %%
WATCHED = ["train", *PARTS]

# %%
figure, axes = plots.panels(len(WATCHED))
for axis, part in zip(axes, WATCHED, strict=True):
    for method in ("bt", "bsr"):
        steps, curves = watched(runs[method], part, "score")
        plots.seed_curves(axis, steps, curves, method.upper(), plots.COLORS[method])
    plots.label(axis, "optimizer step", "", part.replace("_", "-"))
axes[0].set_ylabel("accuracy (first two), Kendall's tau")
axes[0].legend();

# %% [markdown]
# **What to see.** Most of the rise is over by step 28; response-disjoint rises until step 56.
# Nothing falls beyond noise, and training accuracy does not run away: nothing diverges in one
# epoch over 900 pairs. BT and BSR cannot be told apart with 32 sets.

# %% [markdown]
# ## 6. Controls: what a shift or a scale can do by itself
#
# BSR changes the level and maybe the spread of rewards. Two controls need no training: **centre**
# BT's rewards per prompt afterwards, or **rescale** BT's rewards to BSR's spread. Tau within
# prompts and best-of-$n$ cannot see either (notebook 03, Section 4). What can: tau *pooled* over
# prompts (centring), and **calibration**, whether $\sigma(m)$ is the probability that the label
# agrees (rescaling). The third control is trained: plain **L2** on rewards.
#
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
# ## 7. The mechanism: norms, angles, rank
#
# The paper's chain: BT widens margins by growing $\lVert h_w - h_l\rVert$ (Eq. 23), norms
# disperse, training data collapses to few directions (Table 1: effective rank 23.3 on training
# data against 33.8 on new, BSR 33.5 against 33.6). Full fine-tuning of all layers, changes from
# start to end:

# %%
norms = read_runs(RUNS / "study_norms")
ROWS = {"mean |h_w - h_l|, train": ("train", "difference_after", "mean"),
        "cv of |h|, train": ("train", "norm_after", "cv"),
        "effective rank, train": ("train", "effective_rank_after"),
        "effective rank, prompt-disjoint": ("prompt_disjoint", "effective_rank_after"),
        "variance between prompts": ("prompt_disjoint", "between_prompts"),
        "variance within prompts": ("prompt_disjoint", "within_prompts")}


def change(study, method, keys):
    curves = np.array(watched(study[method], *keys)[1])  # (seeds, times)
    mean, half = metrics.seed_interval(curves[:, -1] - curves[:, 0])
    return f"{curves[:, 0].mean():8.3f} {mean:+.3f} ({mean - half:+.3f}, {mean + half:+.3f})"

# %%
for name, study_runs in {"full fine-tuning, 30 layers": norms, "LoRA, 10 layers": runs}.items():
    print(f"{name:34s}{'BT: start, change':>34s}{'BSR: start, change':>34s}")
    for row, keys in ROWS.items():
        found = [change(study_runs, method, keys) for method in ("bt", "bsr")]
        print(f"  {row:32s}" + "".join(f"{text:>34s}" for text in found))

# %%
print("effective rank of BT, then BSR minus BT, paired by seed, +- half a 95% interval")
for key in ("effective_rank_after", "effective_rank_centered_after"):
    for name, study_runs in {"full": norms, "LoRA": runs}.items():
        cells = []
        for part in PARTS:
            bt, bsr = (np.array([r["evaluation"]["scenarios"][part][key] for r in study_runs[m]])
                       for m in ("bt", "bsr"))
            mean, half = metrics.seed_interval(bsr - bt)
            cells.append(f"{bt.mean():6.1f} {mean:+.1f} +- {half:.1f}")
        print(f"{'mean state subtracted' if 'centered' in key else 'as in Table 1':22s}"
              f" {name}  " + "   ".join(cells))

# %% [markdown]
# **What to see.** Under full fine-tuning (32 steps) $\lVert h_w - h_l\rVert$, which should grow,
# falls; the cv of the norm is undecided; training data loses rank and new data loses as much.
# LoRA on 10 layers cannot test the chain: its final norm is frozen and fixes $\lVert h\rVert$ to
# .5% (notebook 02); its rows are for comparison.

# %% [markdown]
# Does BSR keep rank up? The two studies disagree. Under LoRA, yes as in Table 1, and not seen any
# more once the mean state is subtracted. Under full fine-tuning below BT uncentred (undecided), and
# above it centred by about 1 of 116 directions, beyond seed noise on two of four sets. Undecided,
# then, and a reason to print both ranks: one of them counts the direction that all states share.

# %% [markdown]
# ## 8. Best-of-n: optimizing against the reward
#
# The plainest way to optimize against a proxy: draw $n$ answers, keep the one the proxy likes
# best. For one $n$ you could draw $n$ and look. From $N = 64$ samples a better estimate averages
# over *all* $\binom{N}{n}$ draws. In order of proxy, the sample with $i$ others below it wins
# $\binom{i}{n-1}$ of them:
#
# $$\widehat{E}_n = \sum_{i} \frac{\binom{i}{n-1}}{\binom{N}{n}}\; v_{(i)}.$$
#
# How far has the policy moved? $\mathrm{KL} \le \log n - \frac{n-1}{n}$, a *bound*: reached only
# in the limit where no answer is ever drawn twice (exercise 4).

# %%
def best_of_n(proxy, values, n):
    ranked = np.asarray(values)[np.argsort(proxy)]
    total = math.comb(len(ranked), n)
    return sum(math.comb(i, n - 1) / total * v for i, v in enumerate(ranked))

# %%
rng = np.random.default_rng(0)
proxy, value = rng.normal(size=(2, 16))
drawn = [value[max(rng.choice(16, 4, replace=False), key=proxy.__getitem__)] for _ in range(20_000)]
exact = best_of_n(proxy, value, 4)
print(f"20,000 draws of 4: {np.mean(drawn):.3f}, by the formula {exact:.3f}")
assert abs(np.mean(drawn) - exact) < 0.02, "the average over all draws is what drawing estimates"
assert math.isclose(exact, statistics.best_of_n(proxy, value, 4)), "ties aside the library agrees"

# %% [markdown]
# Recorded (`data/runs/best_of_n`): 64 answers of the embedded model at temperature 1 to each of
# 112 prompts of the valid split, scored by gold and by the reward models of the lora runs. New
# prompts, but a *known* source (`smol-hot` in training is this model at this temperature): the
# prompt-disjoint case. Two lines without any reward model: *picked by gold*, the best there is,
# and *fewest words*.
#
# **Predict**: at which $n$ does gold turn down?

# %%
picks = read_table(RUNS / "best_of_n")
figures.best_of_n_figure(picks);

# %%
print(f"{'gold of the pick':12s}" + "".join(f"{f'n={n}':>10s}" for n in picks["n"]))
for method, row in picks["methods"].items():
    print(f"{method:16s}" + "".join(f"{g[0]:10.3f}" for g in row["gold"]))
    if method != "bt":
        print(f"{'  minus BT':16s}" + "".join(f"{d[0]:+10.3f}" for d in row["difference"]))
        half = [(d[2] - d[1]) / 2 for d in row["difference"]]
        print(f"{'  +- 95%':16s}" + "".join(f"{h:10.3f}" for h in half))

# %% [markdown]
# **What to see.** It does not turn. At every $n$ gold rises by .61 to .65 of what the proxy
# rises, each in its own standard deviations. A proxy that agrees only partly with gold always
# promises more than it keeps; over-optimization would be this share *falling*, and up to a bound
# of 3.2 nats it does not. *Fewest words* does turn: it gains .16 at $n = 4$ (the reward model
# .35), and picks worse than chance at $n = 64$. That is over-optimization.

# %% [markdown]
# BT and BSR pick equally good answers, to two thousandths in the mean; at $n = 64$ the interval is
# wide. Within-prompt ranks are all that best-of-$n$ sees, and in them the two are near twins.

# %% [markdown]
# ## 9. The paper's numbers beside ours
#
# Table 5 of the paper (ID accuracy, then tau), two of its four models; beside it BSR at the paper's
# $\lambda$ in our studies. Nothing here was trained with Hinge, Norm or DR: their columns are the
# paper's alone. Levels do not compare (other data, models ten times larger); differences may.
# BSR's on the two models left out: Qwen2.5-1.5B +.001 +.001 +.002 +.001, Llama-3.2-3B +.001 +.023
# +.021 +.022.

# %%
PAPER = {"Llama-3.2-1B": {"bt": (.8132, .6157, .5115, .5065), "hinge": (.8111, .6102, .5168, .5131),
                          "norm": (.7792, .5580, .4503, .4488), "dr": (.8029, .6015, .4930, .4937),
                          "bsr": (.8130, .6198, .5246, .5206)},
         "Qwen2.5-3B": {"bt": (.8496, .7050, .5917, .5870), "hinge": (.8488, .6984, .5784, .5685),
                        "norm": (.8272, .6605, .5295, .5282), "dr": (.8446, .6855, .5602, .5564),
                        "bsr": (.8541, .7202, .5991, .6106)}}
print("four numbers each, minus BT: in-domain, prompt-, response-, mutual-disjoint")

# %%
print(" " * 22 + "".join(f"{m:>34s}" for m in ("hinge", "norm", "dr", "bsr")))
for name, table in PAPER.items():
    print(f"{name:22s}" + "".join("   " + " ".join(f"{v - b:+.3f}" for v, b in zip(
        table[m], table["bt"], strict=True)).rjust(31) for m in ("hinge", "norm", "dr", "bsr")))
for name in ("lora", "norms", "judged"):
    ours = " ".join(f"{studies[name]['bsr'][part]['difference'][0]:+.3f}" for part in PARTS)
    print(f"{'ours: ' + name:22s}" + " " * 102 + ours.rjust(34))

# %% [markdown]
# **What to see.** In both of the paper's models Norm is last in every column, and BSR gains up to
# .024 tau. Of our differences none excludes zero (Section 4), so their signs say nothing.
#
# Its Table 2 (RM-Bench) says something similar: overall 70.1 for BT, 70.2 for BSR at $10^{-3}$;
# *hard* goes from 47.8 to 52.1 and *easy* from 88.4 to 85.0. A change of what is preferred (plain
# against fancy style), more than a gain. Nothing of that size can be tested here.

# %% [markdown]
# ## 10. Real judged data
#
# 25 real models, 600 prompts, a GPT-4 judge (the study *judged*). Negative in three ways, all in
# `data/runs/LOG.md`: no difference between objectives is decided; new sources score *higher* than
# known ones, since the held-out families span Gemma-2B to GPT-4 and are easier to tell apart; and
# **the number of characters alone ranks as well as the reward model**. Scenario gaps compare
# *sources*, not only generalization. Before you read a gap as over-optimization, score the
# scenarios with something that cannot over-optimize.

# %%
judged = studies["judged"]
print(f"{'judged':18s}" + "".join(f"{p:>20s}" for p in PARTS))
for method, cells in judged.items():
    print(f"{method:18s}" + "".join(f"{cells[p]['mean']:20.3f}" for p in PARTS))
alone = [judged["bt"][part]["length_score"] for part in PARTS]
print(f"{'characters alone':18s}" + "".join(f"{score:20.3f}" for score in alone))

# %% [markdown]
# ## 11. The verdicts
#
# *World* is that of Sections 2 and 4 (*helps*), *training* a language model whose backbone trains.

# %% [markdown]
# | claims about Bradley-Terry | here |
# |---|---|
# | BT overfits when trained on | **holds** in a world, with noisy labels only |
# | ... with ID rising while the rest stalls | **not seen**, nor any divergence in one epoch |
# | new sources fall behind (Table 5) | **holds** in the world and with postscripts |
# | ... in the plain pocket world | **undecided**; on judged answers reversed |
# | the head's norm stays (Fig. 1) | **holds**, in training too (notebook 02) |
# | $\lVert h_w - h_l\rVert$ grows (Fig. 2) | **holds** in the world; in training it falls |
# | norms disperse (Fig. 2) | **holds** in the world; in training **undecided** |

# %% [markdown]
# | claims about rank and BSR | here |
# |---|---|
# | training data loses rank (Table 1) | **not alone**: new data loses as much |
# | BSR keeps it up (Table 1) | **undecided**: two studies disagree |
# | BSR pins the level | **holds** where the backbone trains |
# | BSR gains on new sources, not elsewhere (Table 5) | **holds** in the world |
# | ... on linear heads | on rewritten answers alone (postscript) |
# | ... in training | **undecided**; with postscripts a cost |
# | BSR makes a better best-of-$n$ | **no difference** up to $n = 8$; undecided at 64 |
# | Hinge, Norm, DR gain nothing (Table 5) | not tested |

# %% [markdown]
# | ours, not the paper's | here |
# |---|---|
# | the spread term gains, the level term costs | **holds** in the world; training **undecided** |
# | both terms cost where prompts differ along the signal | **holds** in the world *hurts* |
# | a bias of pairs is cured by none | **holds** on linear heads (closing phrase) |
# | the sign can be foretold before training | **holds** on linear heads |

# %% [markdown]
# What would change these verdicts? Worlds and linear heads decide much and are no language model
# that trains. Full fine-tuning has the paper's mechanism and lacks the power. A decision needs
# thousands of prompts, a backbone trained long enough for norms to move, and the same controls.
# `bsr_lite/configs/rm_qlora_t4.yaml` is where to start on a GPU.

# %% [markdown]
# ## Exercises
#
# Each stub returns `None`; its checker then says "not attempted yet". Solutions are in
# `notebooks/solutions/`.
#
# **1.** A prompt's paired difference has standard deviation `sd`. How many prompts does it take to
# find a true difference in four of five studies (2.8 standard errors, seeds ignored)? Rounded up.

# %%
def prompts_needed(sd, difference):
    return None


checks.check_prompts_needed(prompts_needed);

# %% [markdown]
# **2.** The standard error of the mean of `x` (S seeds, P prompts, a tensor), both drawn at random
# (Section 3), without the guard.

# %%
def two_way_error(x):
    return None


checks.check_two_way_error(two_way_error);

# %% [markdown]
# **3.** The best-of-$n$ estimate (Section 8) from tensors `proxy` and `gold` of $N$ samples
# without ties.

# %%
def best_of_n_without_ties(proxy, gold, n):
    return None


checks.check_best_of_n_without_ties(best_of_n_without_ties);

# %% [markdown]
# **4.** A policy has a handful of possible answers, with probabilities $p_1, \dots, p_k$ in
# ascending order of reward. What is the exact KL of best-of-$n$ to the policy, in nats? (Compare
# it with the bound for two answers of probability 1/2 and $n = 2$.)

# %%
def best_of_n_divergence(probabilities, n):
    return None


checks.check_best_of_n_divergence(best_of_n_divergence);

# %% [markdown]
# ## What you know now
#
# - Over-optimization is divergence: what was seen goes up, what is new goes down. Labels against
#   gold, learned by heart, are enough for it; clean labels are the control.
# - A comparison of objectives needs pairs (same seed, same prompts), an interval over seeds *and*
#   prompts, and the difference it could have found.
# - Ranks within a prompt cannot see levels or scale. Calibration and pooled tau can; BT rescaled
#   and BT centred tell what a penalty added.
# - BSR gains in a world made for it, by its spread term. On this language model it pins the level,
#   and costs in short LoRA runs (Section 4, and notebook 03, Section 9).
