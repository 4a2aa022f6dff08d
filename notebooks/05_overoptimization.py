# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 05 · Which of the paper's claims about over-optimization hold here?
#
# A reward model is **over-optimized** when it goes on improving on what it was trained on while it
# stagnates or gets worse on anything new. The paper's Part 1 claims that Bradley-Terry (BT) models
# do this because hidden norms disperse, and that batch-wise sum-to-zero regularization (BSR)
# counters it. This notebook takes the claims one by one: *holds*, *does not hold*, *undecided*,
# with the statistics that such verdicts need.

# %% [markdown]
# After it you can
# - say what each of the four generalization scenarios tests, and watch over-optimization happen in
#   a minute on a laptop;
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
import math

import numpy as np

from bsr_lite import metrics, plots
from bsr_lite.config import load_config
from bsr_lite.course import checks_policy as checks
from bsr_lite.data import read_groups
from bsr_lite.models import load_reward_model
from bsr_lite.scenarios import load_scenarios
from bsr_lite.studies import figures, frozen, statistics
from bsr_lite.studies.frozen import FrozenConfig
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
base = load_config("bsr_lite/configs/rm_fast.yaml", overrides=["data.max_pairs=256"])
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
# We freeze the backbone (10 layers of the embedded model), compute every last hidden state once,
# and train small MLP heads on them: what takes hours with a backbone takes a second, for many
# seeds at once. With a frozen backbone the paper's *mechanism*, hidden norms that disperse, has
# no place to act; what more training does to seen and unseen data can be watched all the same.
#
# **Predict**: from 1 to 32 epochs, does in-domain accuracy go with the training pairs or with the
# new prompts? Does BSR at ten times the paper's $\lambda$ change either?

# %%
PARTS = ["in_domain", "prompt_disjoint", "response_disjoint", "mutual_disjoint"]
scenarios = load_scenarios(base)
model = load_reward_model(base.model.name, depth=base.model.depth, dtype=base.model.dtype)
features = frozen.compute_features(model, scenarios, PARTS, base, eval_groups=80)
states = frozen.standardize(features)
print({part: tuple(x.shape) for part, x in states.items()}, "prompts, answers, hidden size")
against = scenarios.counts["labels_against_gold"]
print(f"labels against the gold order: {against} of {len(scenarios.train)}")

# %%
def study(objective, epochs, seeds=20):
    """{part: scores of every seed and prompt, ...} of heads trained on the 256 pairs."""
    config = FrozenConfig(base="", output_dir="none", methods={"it": dict(objective)}, seeds=seeds,
                          epochs=epochs, batch_size=16)
    heads = frozen.train_heads(states["train"], objective, config)
    return {part: frozen.scores(heads, states[part], features[part]["gold"])
            for part in ["train", *PARTS]}

# %%
EPOCHS = [1, 2, 4, 8, 16, 32]
OBJECTIVES = {"bt": {"loss": "bt"}, "bsr": {"loss": "bsr", "bsr_lambda": 1e-2}}
live = {name: [study(objective, e) for e in EPOCHS] for name, objective in OBJECTIVES.items()}

# %%
figure, axes = plots.panels(2, sharex=True)
for axis, parts in zip(axes, (["train", "in_domain"], PARTS[1:]), strict=True):
    for part in parts:
        for name, style in (("bt", "-"), ("bsr", ":")):
            curve = [found[part]["score"].mean() for found in live[name]]
            axis.semilogx(EPOCHS, curve, style, base=2, color=plots.SCENARIO_COLORS[part],
                          label=f"{part.replace('_', '-')}, {name.upper()}")
    axis.margins(y=0.3)  # room for the legend
    axis.legend(fontsize=7, ncols=2, loc="upper right")
plots.label(axes[0], "epochs", "accuracy", "what was seen, and its twin")
plots.label(axes[1], "epochs", "Kendall's tau", "what is new")

# %% [markdown]
# **What to see.** Labels are drawn from BT on the gold score, so a quarter go *against* gold.
# The training pairs are learned by heart, those included: accuracy goes to 1, where gold itself
# would have about .8. All four validation sets fall. ("Train" is scored against its labels, the
# others against gold.)
#
# <details><summary>Answer</summary>
#
# In-domain goes with the new prompts: down. This is plain overfitting to false labels. The paper's
# pattern, ID *rising* with training while the rest stalls, does not appear. The paper trains one
# epoch over 51,200 prompts, far from the right end of this figure.
# </details>
#
# BSR makes no difference that 80 sets a scenario could show; fifty seeds do (Section 4).

# %% [markdown]
# ## 3. How large an effect can we see?
#
# The paper's gains are .001 to .024 tau (Table 5). Two things blur ours: the **seed** (head, order
# of batches) and the **prompts** that happen to be in the set. Comparisons are *paired*: same
# seed, same prompt, BSR minus BT, which removes most of both. What remains, as a model with seed
# effect $a_s$, prompt effect $b_p$ and the rest $e_{sp}$:

# %% [markdown]
# $$d_{sp} = \delta + a_s + b_p + e_{sp}, \qquad \mathrm{Var}(\bar d) = \frac{\sigma_a^2}{S} +
# \frac{\sigma_b^2}{P} + \frac{\sigma_e^2}{SP}.$$
#
# An interval over seeds alone misses $\sigma_b$: it speaks about these prompts only. One over
# prompts alone misses $\sigma_a$. The mean squares of an analysis of variance have the
# expectations $P\sigma_a^2 + \sigma_e^2$ (seeds), $S\sigma_b^2 + \sigma_e^2$ (prompts) and
# $\sigma_e^2$ (rest): the first two minus the last, over $SP$, is the variance above.

# %%
a = live["bsr"][1]["prompt_disjoint"]["score"] - live["bt"][1]["prompt_disjoint"]["score"]  # (S, P)
S, P = a.shape
ms_seed, ms_prompt = P * a.mean(1).var(ddof=1), S * a.mean(0).var(ddof=1)
rest = a - a.mean(1, keepdims=True) - a.mean(0, keepdims=True) + a.mean()
ms_rest = (rest**2).sum() / ((S - 1) * (P - 1))
error = math.sqrt(max(ms_seed + ms_prompt - ms_rest, ms_seed, ms_prompt) / (S * P))
mean, low, high, library = statistics.two_way_interval(a)
assert math.isclose(error, library), "the library's standard error is this one"
print(f"BSR - BT at 2 epochs, {S} seeds, {P} prompts: {mean:+.4f} ({low:+.4f} to {high:+.4f})")
print(f"over seeds alone +- {1.96 * a.mean(1).std(ddof=1) / S**0.5:.4f}, "
      f"over prompts alone +- {1.96 * a.mean(0).std(ddof=1) / P**0.5:.4f}")

# %% [markdown]
# (The `max` guards against an estimate below what either source alone makes; the interval uses
# Student's t.) What an interval leaves out is excluded, at 95%; what it holds is not, zero and
# useful gains alike. *Before* a study one asks how large it must be: a true difference is found
# significant in four of five studies when it is $1.96 + 0.84 = 2.8$ standard errors, .84 being the
# 80% quantile of the normal distribution. How many prompts would .01 need?

# %%
runs = read_runs(("runs" if PROFILE == "full" else "data/runs") + "/study_lora")


def per_prompt(method, part):
    return np.array([r["evaluation"]["scenarios"][part]["per_prompt"] for r in runs[method]])

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
# themselves not counted. The paper has 12,800 prompts and four seeds. Our sets have 77 to 320:
# with a backbone that trains, .01 cannot be decided. Fifty seeds on frozen features can see .003.

# %% [markdown]
# ## 4. The study: five runs of three kinds
#
# - **frozen**: features of all 30 layers, all 1056 pairs, *fifty seeds* of an MLP head, nine
#   objectives; once for 4 epochs (the best on dev) and once for 32 (`frozen_long`), to overfit on
#   purpose;
# - **lora** and **norms**: a backbone that moves. LoRA on 10 layers (four seeds, 900 pairs) and
#   full fine-tuning of all 30 (four seeds, 512 pairs);
# - **judged**: real answers of real models, ranked by a GPT-4 judge (QLoRA, three seeds, six model
#   families held out).
#
# `python -m bsr_lite.studies.reward_models --config bsr_lite/configs/study_full.yaml --resume`
# draws it again.
# Nothing was chosen on the four scenarios.

# %%
if PROFILE == "full":
    from bsr_lite.studies.reward_models import run_tiers
    run_tiers(Path("bsr_lite/configs/study_full.yaml"))
RUNS = Path("runs" if PROFILE == "full" else "data/runs")
tiers = read_table(RUNS / "study_full")
figures.tiers_figure(tiers);

# %%
print("level of BT, then BSR (1e-3) minus BT")
print(" " * 14 + "".join(f"{p.replace('_', '-'):>36s}" for p in PARTS))
for tier, table in tiers.items():
    cells, row = table.get("bsr") or table["bsr-1e-3"], []
    for part in PARTS:
        mean, low, high = cells[part]["difference"]
        level = table["bt"][part].get("mean", table["bt"][part].get("score"))
        row.append(f"{level:.2f} {mean:+.3f} ({low:+.3f}, {high:+.3f})")
    print(f"{tier:14s}" + "".join(f"{text:>36s}" for text in row))

# %% [markdown]
# **What to see.** A filled dot has an interval without zero; those lie on the *left*. With fifty
# seeds on frozen features BSR at the paper's $\lambda$ costs .002 to .0035 (mutual-disjoint
# undecided), and .005 to .007 where BT overfits (`frozen_long`): *where BT really gets worse, BSR
# makes it a little worse*. Coefficients were not matched; plain L2 at .01 costs about what BSR at
# $10^{-2}$ does, so there is no sign of anything particular to BSR.
#
# Where a backbone moves, everything is undecided, and the intervals say how undecided: they hold
# gains of .02 to .2 as well as losses. The paper's mechanism could act in *norms* only (full
# fine-tuning, all layers).

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
    for method, cells in tiers["study_lora"].items():
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
# Does BSR keep rank up? The tiers disagree. Under LoRA, yes as in Table 1, and not seen any more
# once the mean state is subtracted. Under full fine-tuning below BT uncentred (undecided), and
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
# Table 5 of the paper (ID accuracy, then tau), two of its four models, and the frozen features,
# the only tier with all objectives. Levels do not compare (other data, models ten times larger);
# differences may. BSR's on the two models left out: Qwen2.5-1.5B +.001 +.001 +.002 +.001,
# Llama-3.2-3B +.001 +.023 +.021 +.022.

# %%
PAPER = {"Llama-3.2-1B": {"bt": (.8132, .6157, .5115, .5065), "hinge": (.8111, .6102, .5168, .5131),
                          "norm": (.7792, .5580, .4503, .4488), "dr": (.8029, .6015, .4930, .4937),
                          "bsr": (.8130, .6198, .5246, .5206)},
         "Qwen2.5-3B": {"bt": (.8496, .7050, .5917, .5870), "hinge": (.8488, .6984, .5784, .5685),
                        "norm": (.8272, .6605, .5295, .5282), "dr": (.8446, .6855, .5602, .5564),
                        "bsr": (.8541, .7202, .5991, .6106)}}
OURS = {"frozen, 50 seeds": tiers["frozen"], "frozen, 32 epochs": tiers["frozen_long"]}
print(f"{'minus BT':22s}" + "".join(f"{m:>34s}" for m in ("hinge", "norm", "dr", "bsr")))

# %%
for name, table in PAPER.items():
    print(f"{name:22s}" + "".join("   " + " ".join(f"{v - b:+.3f}" for v, b in zip(
        table[m], table["bt"], strict=True)).rjust(31) for m in ("hinge", "norm", "dr", "bsr")))

# %%
for name, table in OURS.items():
    print(f"{name:22s}" + "".join("   " + " ".join(f"{table[m][p]['difference'][0]:+.3f}" for p in
        PARTS).rjust(31) for m in ("hinge", "norm", "dr", "bsr-1e-3")))

# %%
print("four numbers each: in-domain, prompt-, response-, mutual-disjoint")

# %% [markdown]
# **What to see.** Part of the paper's order comes back: at 32 epochs Norm is last and BSR nearest
# to BT, because it changes least; but Hinge is no better than DR there, and at 4 epochs Norm is
# not last everywhere. The sign for BSR does not come back: gains of up to .024 tau there, none
# here.
#
# Its Table 2 (RM-Bench) says something similar: overall 70.1 for BT, 70.2 for BSR at $10^{-3}$;
# *hard* goes from 47.8 to 52.1 and *easy* from 88.4 to 85.0. A change of what is preferred (plain
# against fancy style), more than a gain. Nothing of that size can be tested here.

# %% [markdown]
# ## 10. Real judged data
#
# 25 real models, 600 prompts, a GPT-4 judge (tier *judged*). Negative in three ways, all in
# `data/runs/LOG.md`: differences between objectives are noise; new sources score *higher* than
# known ones, since the held-out families span Gemma-2B to GPT-4 and are easier to tell apart; and
# **the number of characters alone ranks as well as the reward model**. Scenario gaps compare
# *sources*, not only generalization. Before you read a gap as over-optimization, score the
# scenarios with something that cannot over-optimize.

# %%
judged = tiers["study_judged"]
print(f"{'judged':18s}" + "".join(f"{p:>20s}" for p in PARTS))
for method, cells in judged.items():
    print(f"{method:18s}" + "".join(f"{cells[p]['mean']:20.3f}" for p in PARTS))
alone = [judged["bt"][part]["length_score"] for part in PARTS]
print(f"{'characters alone':18s}" + "".join(f"{score:20.3f}" for score in alone))

# %% [markdown]
# ## 11. The verdicts
#
# | claims about Bradley-Terry | here |
# |---|---|
# | BT overfits when trained on | **holds** (32 epochs) |
# | ... with ID rising while the rest stalls | **not seen**, nor any divergence within one epoch |
# | new sources are harder than new prompts | **undecided**: lora yes in part, judged reversed |
# | the head's norm stays still (Fig. 1) | **holds** under full fine-tuning (notebook 02) |
# | $\lVert h_w - h_l\rVert$ grows (Fig. 2) | **does not hold**: it falls, in 32 steps |
# | norms disperse (Fig. 2) | **undecided** |
# | training data loses rank that new data keeps (Table 1) | **does not hold** |

# %% [markdown]
# | claims about other objectives | here |
# |---|---|
# | BSR keeps rank up (Table 1) | **undecided**: the tiers disagree |
# | BSR pins the level | **holds** where the backbone trains |
# | BSR gains on new data (Table 5) | frozen: **no**, a small cost; elsewhere **undecided** |
# | Hinge, Norm, DR gain nothing (Table 5) | **holds** on frozen features; not tested beyond |
# | BSR makes a better best-of-$n$ | **no difference** up to $n = 8$; undecided at 64 |

# %% [markdown]
# What would change these verdicts? More of what is cheap here does not help: frozen features have
# the power and lack the mechanism, full fine-tuning has the mechanism and lacks the power. A
# decision needs thousands of prompts, a backbone trained long enough for norms to move, and the
# same controls. `bsr_lite/configs/rm_qlora_t4.yaml` is where to start on a GPU.

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
#   gold, learned by heart, are enough for it.
# - A comparison of objectives needs pairs (same seed, same prompts), an interval over seeds *and*
#   prompts, and the difference it could have found.
# - Ranks within a prompt cannot see levels or scale. Calibration and pooled tau can; BT rescaled
#   and BT centred tell what a penalty added beyond that.
# - On this machine BSR pins the level where the backbone trains and gains no rank that could be
#   told from noise; it costs a little on frozen features, and in short LoRA runs (notebook 03,
#   Section 9).
