# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 04 · When does BSR help, when does it cost, and which part of it?
#
# Notebook 03 took BSR's penalty (Eq. 25) apart into two terms. The *level* term pulls the mean of
# all rewards to zero. The *spread* term draws the mean rewards of different pairs together. Does
# either make a reward model better?
#
# The paper says yes. Its Table 5 reports gains of up to .024 of tau, on data unlike training's. On
# which data can that be? And which of the two terms does it?

# %% [markdown]
# **First reading**: Sections 1 to 6, one rule for the weights that the spread term takes, and how
# far it foretells tau. **Second reading**: why the level term costs, the rule as a formula, its
# forecasts tested.
#
# Words from before. *Gold* is the true quality of an answer. *Tau* compares rewards with gold among
# the answers to one prompt: 1 is the right order, 0 is guessing. Bradley-Terry (*BT*) learns only
# from the *difference* of a pair's two rewards (notebook 01). Their mean is the *pair mean* $s$
# (03).

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
import dataclasses
import json

import numpy as np
import torch
from IPython.display import Markdown

from bsr_lite import plots
from bsr_lite.course import checks_policy as checks
from bsr_lite.metrics import seed_interval
from bsr_lite.studies import quadratic, tables, worlds
from bsr_lite.studies.records import read_table

# %% [markdown]
# ## 1. One penalty, three worlds
#
# *Does BSR do the same on every kind of data?* We build three small worlds, in which we know
# everything.
#
# An answer is a list of forty numbers, $x = a + b$. The part $a$ belongs to the prompt: all answers
# to a prompt share it. The part $b$ is the answer's own.
#
# Gold is a weighted sum of the first ten numbers. So it depends on one direction of $x$ only. We
# call it **gold's direction**, or **the signal**. The other thirty coordinates are **nuisance**,
# like a topic or a style. They say nothing about quality. (Nor do nine more directions of the first
# ten numbers, which scatter as the signal does.)

# %% [markdown]
# A *source* is whoever writes answers. **New sources** write answers that training never saw.
#
# The table gives standard deviations along two directions:
# - `across`: how much *prompts* differ ($a$);
# - `within`: how much training's answers to *one prompt* differ ($b$);
# - `new`: how much new sources' answers to one prompt differ ($b$).
#
# Look for the largest number of each world.

# %%
WORLDS = {"A": "helps", "B": "mean on the signal", "C": "hurts"}  # their names in the library
TITLES = {"A": "A: prompts differ in nuisance", "B": "B: as A, with a mean on the signal",
          "C": "C: prompts differ in signal"}
DIRECTIONS = "the signal", "a nuisance coordinate"

# %%
rows = []
for letter in "AC":
    world = worlds.WORLDS[WORLDS[letter]]
    for direction, *numbers in zip(DIRECTIONS, world.across, world.within, world.new, strict=True):
        rows.append([f"{letter}, {direction}", *(f"{x:g}" for x in numbers)])
Markdown(tables.table(["along", "`across`", "`within`", "`new`"], rows))

# %% [markdown]
# In **A** prompts differ most along the nuisance: by 3. Training's answers to one prompt hardly
# differ there (.2), new answers do (1).
#
# In **C** prompts differ most along the signal.
#
# **B** is A with all $x$ moved by 3 along the signal.

# %% [markdown]
# Training shows 6,400 prompts, each once, with a pair of answers. So what tells prompts apart tells
# pairs apart. Which answer of a pair wins is *drawn*: the better one wins
# more often, by Bradley-Terry's rule.
#
# A network with one hidden layer turns $x$ into a state $h$. A linear *head* turns the state into a
# reward, $r = W_p^\top h$. The head learns so slowly that it hardly moves, as in the paper.

# %% [markdown]
# In each world we train eight networks with BT and eight with BSR, which is BT plus the penalty.
# The two networks of one *seed* start alike and see the same pairs in the same order. The penalty's
# weight is $\lambda = 10^{-2}$, ten times the paper's.
#
# We score tau on answers of new sources to training's prompts.
#
# **Predict** for each world: does BSR raise tau, lower it, or leave it alone? A guess is enough.

# %%
METHODS = ("bt", "bsr-1e-2", "spread-1e-2")  # the last for Section 5
OBJECTIVES = {name: worlds.OBJECTIVES[name] for name in METHODS}
SEEDS, STEPS = 8, 200  # a seed has its own states, labels and network
G, LAMBDA = 32, 1e-2  # pairs of a group; the penalty's weight
seen = {letter: worlds.train(worlds.WORLDS[name], OBJECTIVES, SEEDS, looks=1)
        for letter, name in WORLDS.items()}

# %%
rows = []
for letter, looks in seen.items():
    bt, bsr, _ = looks[STEPS]["response_disjoint"].T  # (seeds,) each
    change = "{:+.3f} ± {:.3f}".format(*seed_interval(bsr - bt))
    rows.append([TITLES[letter], f"{bt.mean():.3f}", change])
Markdown(tables.table(["world", "tau of BT", "BSR minus BT, ± 95% over seeds"], rows))

# %% [markdown]
# The answer is no: *the same penalty helps in one world and costs in two.*

# %% [markdown]
# ## 2. Two terms, and what stands against them
#
# *Which weights does the penalty shrink?* Our networks cannot be solved by hand. So we solve a
# simpler case: the states $h$ stay as they are, only the head $W_p$ learns, and no constant is
# added.
#
# BSR takes its penalty on groups of $G$ pairs, here 32. Let $\mu_s$ be the mean of the pair means
# $s$ over all pairs. On average over groups the penalty is (03, Section 2)
#
# $$\lambda\,G\,\mu_s^2 + \lambda\,\mathrm{Var}(s).$$
#
# In words: the squared level, with the weight $G$, plus the spread.

# %% [markdown]
# Now bring in the weights. A pair's **center** is the middle of its two states, $c = (h_w +
# h_l)/2$. The reward of the center is the pair mean: $s = W_p^\top c$. Let $\mu_c$ be the mean of
# all centers, the **mean state**, and $\Sigma_c$ their covariance. Then the penalty is
#
# $$\underbrace{\lambda\,G\,(W_p^\top \mu_c)^2}_{\text{level}} +
# \underbrace{\lambda\,W_p^\top \Sigma_c\,W_p}_{\text{spread}}.$$
#
# In words: each term is a **tax** on weights. *The spread term taxes weight along directions in
# which the centers of pairs scatter. The level term taxes weight along the mean state.*

# %% [markdown]
# What stands against the tax? BT does. But BT sees only the difference of a pair's two answers. So
# it holds the weight along a direction only if the two answers differ along it. We call their mean
# squared difference along it the **evidence**.
#
# Tax and evidence pull against each other. So divide the one by the other. *The rule: the larger a
# direction's **tax over evidence**, the less of its weight is left.*

# %% [markdown]
# So far a direction was one of the state $h$. Our networks change $h$ as they learn. For them the
# rule is a *guess*, about directions of $x$, that Section 5 tests. A network's weight along such a
# direction is the slope of its reward there, by linear regression.

# %% [markdown]
# ## 3. Three questions
#
# *What must we ask of data, to know whether a penalty helps?* Three questions, of each direction:
# 1. **Tax**: do *pairs* differ along it, center from center? Does the mean state lie along it?
# 2. **Evidence**: do the two *answers of a pair* differ along it?
# 3. **Quality**: does gold depend on it?
#
# Tau sees only the order of rewards. If all weights shrink by one factor, no order changes. So
# compare: *where is tax over evidence larger?* If it is larger on the signal, the penalty should
# cost.

# %% [markdown]
# If it is larger on the nuisance, the penalty can gain. Gold has no weight there. So any weight of
# BT there is an **error**. How large is it in A? Of the thirty nuisance weights we take the
# length.

# %%
GOLD = worlds.gold_direction() / 2  # gold's direction; gold's weights are 2 in length


def weights_of(looks):
    """Weight on the signal, length of those on the nuisance, (seeds, methods) each."""
    slopes = looks[STEPS]["slopes"]  # (seeds, 40, methods), over answers new in both ways
    return slopes.mT @ GOLD, slopes[:, worlds.SIGNAL:].norm(dim=1)


signal, nuisance = (x[:, 0].mean() for x in weights_of(seen["A"]))  # of BT
print(f"A, BT's weight: {signal:.2f} on the signal, {nuisance:.2f} on the nuisance (gold: 2 and 0)")
more = dataclasses.replace(worlds.WORLDS["helps"], within=(1.0, 1.0))  # .2 along the nuisance in A
_, nuisance = weights_of(worlds.train(more, {"bt": OBJECTIVES["bt"]}, SEEDS, looks=1))
print(f"the same where the two answers of a pair differ more in it: {nuisance.mean():.2f}")

# %% [markdown]
# Why may such an error stay? Where the two answers of a pair hardly differ, even a wrong weight
# hardly changes the loss. So *the less evidence, the larger an error may stay*. In the second line
# they differ five times as much along the nuisance, and BT's error is a third.
#
# It harms only where new answers differ. So a gain needs three things of a nuisance direction:
# - *pairs* differ along it, so that it is taxed;
# - the two *answers of a pair* hardly do, so that BT leaves an error and the tax takes it easily;
# - *new answers* to one prompt do, so that the error changes their order.

# %% [markdown]
# The figure draws 40 training pairs of each world.

# %%
def sketch(axis, letter):
    some, sets = worlds.draw(worlds.WORLDS[WORLDS[letter]], 1)
    pairs, new = (torch.stack([x @ GOLD, x[..., -1]])  # along the signal, along a nuisance
                  for x in (some[0, :40], sets["response_disjoint"][0, 0]))
    centers = pairs.mean(2)  # pairs: (2, 40, 2)
    blue = axis.plot(*pairs.mT, color=plots.COLORS["bt"], linewidth=1)
    blue[0].set_label("a pair's two answers")
    axis.plot(*centers, ".", color="#D55E00", label="the pair's center")
    axis.plot(*centers[:, 0], "o", color="black", fillstyle="none", markersize=12, zorder=3)
    axis.plot(*new, "x", color="black", markersize=9, mew=2,
              label="new answers to the ringed prompt")
    axis.set_aspect("equal")
    plots.label(axis, "along the signal", "", TITLES[letter].replace(", ", ",\n"))

# %%
figure, axes = plots.panels(3, sharey=True, width_ratios=(9, 9, 15))
figure.set_figheight(4.6)
for axis, letter, start, width in zip(axes, WORLDS, (-4.5, -2.2, -7.5), (9, 9, 15), strict=True):
    sketch(axis, letter)
    axis.set(xlim=(start, start + width), ylim=(-6.3, 4.7))  # one pair of A and B lies below
axes[1].annotate("", (3, 0), (0, 0), arrowprops={"arrowstyle": "-|>", "linewidth": 2}, zorder=4)
axes[1].annotate("mean\nstate", (-0.1, 0), ha="right", va="center")
axes[0].set_ylabel("along a nuisance coordinate")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3,
              frameon=False)
figure.suptitle("Spread taxes where centers scatter, level along the mean state; "
                "evidence lies where segments are long");

# %% [markdown]
# **What to see.** In A the centers scatter up and down, along the nuisance. The segments lie flat:
# hardly any evidence there. The crosses differ in height: new answers do differ there. B is the
# same cloud, moved to the right. In C the centers scatter along the signal, and the segments are
# short in both directions.
#
# Now each term's tax over evidence, measured on drawn pairs.

# %%
def ratios(world):
    """Tax over evidence of spread and of level: on the signal, on a nuisance coordinate."""
    pairs, found = worlds.draw(world, 32)[0], []  # (32, 6400, 2, 40)
    for x in (pairs @ u for u in (GOLD, torch.eye(40)[-1])):  # as in the figure; (32, 6400, 2)
        evidence = x.diff(dim=-1).square().mean()
        found.append((x.mean(-1).var() / evidence, G * x.mean() ** 2 / evidence))
    return found


rows = []
for letter, name in WORLDS.items():
    (signal, level), (nuisance, _) = ratios(worlds.WORLDS[name])
    rows.append([TITLES[letter], *(f"{x:.1f}" for x in (signal, nuisance, level))])
    assert (signal < nuisance) == (letter != "C"), "spread taxes C's signal harder"
Markdown(tables.table(["tax over evidence", "spread: signal", "spread: nuisance",
                       "level: signal"], rows))

# %% [markdown]
# Along the nuisance level taxes nothing. BSR's tax is the sum of both terms. In B that gives 144.6
# on the signal against 112.7 on the nuisance: nearly a tie.
#
# The rule is about weights. Our **forecast for tau** goes a step further:
# - *a penalty costs where its tax over evidence is larger on the signal;*
# - *it gains where that is larger on the nuisance, if a pair's answers hardly differ there and new
#   answers do.*

# %% [markdown]
# ## 4. What Bradley-Terry does alone
#
# *Is there anything to gain in A?* We look at BT alone.
#
# **Predict**: is tau higher on *new prompts* with answers of training's sources, or on training's
# prompts with answers of *new sources*?

# %%
end, rows = seen["A"][STEPS], []
new_prompts, new_sources = (end[part][:, 0] for part in ("prompt_disjoint", "response_disjoint"))
for name, values in (("new prompts", new_prompts), ("new sources", new_sources),
                     ("new sources minus new prompts", new_sources - new_prompts)):
    rows.append([name, "{:.3f} ± {:.3f}".format(*seed_interval(values))])
Markdown(tables.table(["world A, BT alone", "tau, ± 95% over seeds"], rows))

# %% [markdown]
# On new sources BT ends .150 lower. So *in A there is something to gain, on new sources.*
#
# <details><summary>Answer: why?</summary>
#
# Tau compares answers to *one* prompt. Answers of new sources differ along the nuisance, where BT's
# weight is an error. Answers of training's sources hardly differ there, even to a new prompt.
# </details>

# %% [markdown]
# ## 5. Which term does it?
#
# *Is it the spread term that helps and costs, or the level term?* Section 1 also trained BT with
# the spread term alone (`losses.spread_penalty`), at the same $\lambda$. So spread alone minus BT
# shows the spread term. BSR minus spread alone shows what the level term adds *beside spread*.
#
# **Predict** with the forecast, for new sources: in which worlds does the *spread* term help,
# in which does it cost? In which does adding the *level* term cost?

# %%
def against(letter, part):
    """Three differences of tau by seed, (seeds,) each."""
    bt, bsr, spread = seen[letter][STEPS][part].T
    return {"BSR\nminus BT": bsr - bt, "spread alone\nminus BT": spread - bt,
            "BSR minus\nspread alone": bsr - spread}


# %%
BARS = "difference of tau, same seed\n(bar: mean, 95% over seeds)"


def draw_paired(axis, differences, kinds):
    """A small dot for a seed; beside the dots their mean with its 95% interval."""
    axis.axhline(0, color="black", linewidth=0.8)
    for place, (values, kind) in enumerate(zip(differences.values(), kinds, strict=True)):
        tint = plots.COLORS[kind]
        axis.plot([place + 0.12] * len(values), values, ".", color=tint, alpha=0.6)
        axis.errorbar(place, *seed_interval(values), fmt="o", color=tint, capsize=3)
    axis.set_xticks(range(len(differences)), list(differences))
    axis.set_xlim(-0.5, len(differences) - 0.5)

# %%
figure, axes = plots.panels(3, sharey=True)
for axis, letter in zip(axes, WORLDS, strict=True):
    differences = {f"{name}\n{values.mean():+.3f}": values
                   for name, values in against(letter, "response_disjoint").items()}
    draw_paired(axis, differences, ("bsr", "spread", "level"))
    plots.label(axis, "", BARS if letter == "A" else "", TITLES[letter])
    axis.tick_params(axis="x", labelsize=8)
figure.suptitle("New sources: spread gains in A and B, costs in C; adding level costs most in B");

# %% [markdown]
# **What to see.** The spread term gains in A and B and costs in C. Adding the level term more than
# undoes the gain in B. In A it takes a part of the gain back. In C its bar holds zero: *undecided*.

# %% [markdown]
# <details><summary>Answer to the predictions</summary>
#
# *Spread*: in A and B it taxes the nuisance harder: a gain. In C it taxes the signal harder: a
# cost.
#
# *Level*: in B it taxes the signal: a cost. (Not in every network: Section 7.) In A and C
# it has nothing to tax. So the forecast does *not* explain its cost in A.
# </details>

# %% [markdown]
# So the forecast gives spread's sign in all three worlds. Does the *rule* hold, too? Then less of
# BT's weight must be left where spread taxes harder.

# %%
kept, rows = {}, []
for letter in WORLDS:
    kept[letter] = [x / x[:, :1] for x in weights_of(seen[letter])]  # (seeds, methods)
    both = (seed_interval(share[:, 2]) for share in kept[letter])  # spread alone
    rows.append([TITLES[letter], *("{:.2f} ± {:.2f}".format(*x) for x in both)])
Markdown(tables.table(["share of BT's weight that spread alone leaves, ± 95% over seeds", "signal",
                       "nuisance"], rows))

# %% [markdown]
# It does: in A and B less is left of the nuisance, in C of the signal.
#
# **The lesson's idea. In one pass over fresh pairs, BSR's spread term takes weight from what tells
# *pairs* apart but hardly the two *answers of a pair*. So first ask whether that is nuisance or
# quality.** In A and B it was nuisance: spread helped. In C it was quality: spread cost.

# %% [markdown]
# ## 6. Where does the forecast fail?
#
# *We built A, B and C for it. Does it hold elsewhere?* Two worlds we train here, with 16 seeds:
# - *D*: as A, but prompts differ by 3 along the signal, too;
# - *B, mean 2*: as B, but moved by 2 in place of 3.
#
# Two are in a record (`data/runs/worlds`):
# - *neutral*: all standard deviations are 1, along every direction;
# - *64 epochs*: as A, but with only 300 pairs, seen 64 times.

# %%
MORE = {"D": {"across": (3.0, 3.0)}, "B, mean 2": {"level": 2.0}}
rows = []
for name, change in MORE.items():
    MORE[name] = world = dataclasses.replace(worlds.WORLDS["helps"], **change)
    (signal, level), (nuisance, _) = ratios(world)
    rows.append([name, *(f"{x:.1f}" for x in (signal, signal + level, nuisance))])
Markdown(tables.table(["tax over evidence", "signal: spread", "signal: BSR", "nuisance: both"],
                      rows))

# %% [markdown]
# And one more penalty, in all worlds: the level term *alone*.
#
# **Predict** by the forecast: what does the spread term do in *D*, in *neutral* and with *64
# epochs*? What does BSR do in *B, mean 2*?

# %%
RUNS = Path("runs" if PROFILE == "full" else "data/runs")
if PROFILE == "full":  # trains what "fast" reads; finished runs are read back
    worlds.run_worlds(RUNS / "worlds")
# %%
record = json.loads((RUNS / "worlds/results.json").read_text())["worlds"]
FIVE = {name: worlds.OBJECTIVES[name] for name in (*METHODS, "spread-1e-1", "level-1e-2")}
trained = {name: worlds.train(world, FIVE, 16, looks=1) for name, world in MORE.items()}
record |= {name: worlds.summarize(looks, list(FIVE)) for name, looks in trained.items()}
# foretold of spread, of level, of BSR: 1 a gain, -1 a cost, 0 neither, None a tie
FORETOLD = {"A": ("helps", 1, 0, 1), "B": ("mean on the signal", 1, -1, None),
            "B, mean 2": ("B, mean 2", 1, -1, 1), "C": ("hurts", -1, 0, -1), "D": ("D", 1, 0, 1),
            "neutral": ("neutral", 0, 0, 0), "64 epochs": ("64 epochs", 1, 0, 1)}

# %%
def draw_row(axis, y, kind, name, side):
    """Grey: where the forecast puts the differences; dots: where they lie."""
    if side is not None:
        axis.barh(y, 0.6 * side or 0.006, 0.84, left=0 if side else -0.003, color="0.8")
    for size, dy, fill in (("1e-2", -0.2, "full"), ("1e-1", 0.2, "none")):
        if f"{kind}-{size}" in record[name]["objectives"]:
            found = record[name]["objectives"][f"{kind}-{size}"]["difference"]
            mean, half = found["response_disjoint"]
            axis.errorbar(mean, y + dy, xerr=half, fmt="o", fillstyle=fill, capsize=3,
                          color=plots.COLORS[kind])
            mark = " (tie)" if side is None else "" if mean * side > 0 else " ✗"
            axis.text(0.16, y + dy, f"{mean:+.3f}{mark}", va="center")

# %% [markdown]
# Grey is where the forecast puts a difference: right of zero a gain, left a cost, a line where no
# order should change. Look for dots outside the grey (✗). Hollow dots have ten times the $\lambda$,
# for spread only. A, B and C have 32 seeds here: their numbers differ a little from Section 5's.

# %%
figure, axes = plots.panels(3, sharex=True, sharey=True)
figure.set_figheight(4.8)
for column, (axis, kind) in enumerate(zip(axes, ("spread", "level", "bsr"), strict=True)):
    for y, (name, *sides) in enumerate(FORETOLD.values()):
        draw_row(axis, y, kind, name, sides[column])
    plots.label(axis, "", "", "BSR: both terms" if kind == "bsr" else f"{kind} alone")
figure.supxlabel("tau minus BT's (95% over seeds)   ● λ = 10⁻²   ○ λ = 10⁻¹", fontsize=9)
axis.set(xlim=(-0.54, 0.45), xticks=(-0.4, -0.2, 0, 0.2), ylim=(6.5, -0.5))
axis.set_yticks(range(7), list(FORETOLD))
figure.suptitle("New sources: spread follows the forecast (grey) in A, B and C, "
                "not in the last three;\nlevel alone costs in all seven");

# %% [markdown]
# **What to see.** *Spread* follows the forecast in A, B and C. It costs in the other three:
# - *D*, where the nuisance is taxed 24 times harder: by .013, and .131 at ten times $\lambda$.
# - *neutral*, where no order should change: by .013.
# - *64 epochs*, where a gain is foretold: by .068. BSR, both terms together, gains .024. We do not
#   know why.
#
# *Level alone* costs in all seven worlds, foretold in the two B's only.
#
# *BSR* in B is no test: nearly a tie. With a mean of 2 a gain is foretold, yet BSR costs .027.

# %% [markdown]
# What failed in D, the rule for weights or the forecast for tau?

# %%
rows = []
for i, size in ((2, "1e-2"), (3, "1e-1")):
    shares = (seed_interval(x[:, i] / x[:, 0]) for x in weights_of(trained["D"]))
    tau = record["D"]["objectives"][f"spread-{size}"]["difference"]["prompt_disjoint"]
    rows.append([size, *("{:.2f} ± {:.2f}".format(*x) for x in shares),
                 "{:+.3f} ± {:.3f}".format(*tau)])
Markdown(tables.table(["D, spread alone, λ", "signal kept", "nuisance kept",
                       "tau minus BT's, new prompts"], rows))

# %% [markdown]
# At $10^{-2}$ the rule held: less is left of the nuisance. The forecast failed. Spread costs on new
# prompts, too, where the nuisance hardly counts. So it is not the nuisance that does the harm. What
# does, we do not know: the nine other directions we did not look at.
#
# At ten times $\lambda$ the rule failed, too: both keep a tenth. So did it in *neutral*, where both
# ratios are equal: the signal keeps .75, the nuisance .83 (`data/runs/LOG.md`).
#
# So *a harder tax on the nuisance promises no gain. The rule is a guide to what loses weight first,
# tau must be measured.*

# %% [markdown]
# And a language model? We trained one in a world made like A, where a gain of spread is foretold.
# None is decided, and BSR fell in all three runs (`data/runs/LOG.md`, `study_postscript`). *There
# the forecast is not confirmed.*

# %% [markdown]
# ## Exercises
#
# A fold holds the first hint, a wrong answer's checker the second. Solutions: `solutions/`.

# %% [markdown]
# **1.** *Which direction is taxed harder?* A direction is three numbers: `across` and `within` as
# in Section 1, and `mean`, how far all $x$ are moved along it. You get two such triples, `signal`
# and `nuisance`, and $G$ as `group`. Compute *tax over evidence* under BSR (both terms) along each.
# Return the signal's over the nuisance's.
#
# It is about .003 in A and 24 in C. Below 1 the signal keeps more. At which mean would it be 1 in
# B?
#
# <details><summary>Hint</summary>
#
# Two answers to one prompt share $a$ and differ in $b$. What is the variance of their difference,
# and what of their middle?
# </details>

# %%
def tax_over_evidence(signal, nuisance, group):
    return None


checks.check_tax_over_evidence(tax_over_evidence);

# %% [markdown]
# **2.** *Take the gain away.* In A (*helps* in the library) BSR gains .045 and spread .064. Change
# **one** of the nuisance's three numbers so that less is gained. For `across` one writes
# `across=(0.5, 0.5)`, signal first. Which way for `within` and `new`? Which of the three changes
# leaves spread a part of its gain? Forecast each, then run the cell (no checker).
#
# <details><summary>Hint</summary>
#
# A gain needs three things of a nuisance direction (Section 3, before the figure). Which of the
# nuisance's numbers in the table stands for each?
# </details>
#
# <details><summary>Second hint</summary>
#
# Is all tax gone where its `across` is .5? And has the evidence changed?
# </details>

# %%
def take_away(world):
    return None  # dataclasses.replace(world, across=(0.5, 0.5))


helps = worlds.WORLDS["helps"]
mine = take_away(helps)
if mine is not None:
    moved = sum(a != b for part in ("across", "within", "new")
                for a, b in zip(getattr(mine, part), getattr(helps, part), strict=True))
    assert moved == 1, "change one number, so that the answer has one cause"
    end = worlds.train(mine, OBJECTIVES, SEEDS, looks=1)[mine.steps]["response_disjoint"]
    bt, *others = end.T
    for name, scores in zip(("BSR", "its spread term"), others, strict=True):
        print(name, "minus BT: {:+.3f} ± {:.3f}".format(*seed_interval(scores - bt)))

# %% [markdown]
# ## Check yourself
#
# 1. BT sees only the difference of a pair. Why may a tax on pairs' *centers* change which new
#    answer wins?
# 2. In most training pairs the better answer has a certain style. Elsewhere this style means
#    nothing. Why does no BSR cure a bias for it?
# 3. What would happen in C if the answers of training's sources differed more along the signal?
# 4. A penalty halves the weights along *every* direction. What does tau say?
# 5. In A the spread term gains on new sources. Should it gain on new prompts, too?

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1. The tax falls on weights. A weight that pairs' differences hardly see costs BT nothing to give
#    up. Yet it decides between new answers that differ along it.
# 2. The bias lies in the differences of pairs. Evidence is on its side, and the tax is on centers.
# 3. The evidence grows. The tax hardly does, because prompts differ far more. So more of the signal
#    is kept.
# 4. Nothing: all rewards halve, and no order changes. Only unequal shrinking counts.
# 5. Hardly: answers of training's sources hardly differ along the nuisance. (+.004 ± .003,
#    `data/runs/worlds`.)
# </details>

# %% [markdown]
# ## What to watch, what to vary
#
# | In your run, watch | If the whole interval is below zero |
# |---|---|
# | the penalty minus BT, new sources | leave it out |
# | BSR minus spread alone, same $\lambda$ | adding level costs: try spread alone |
#
# Vary what your pairs differ in, and $\lambda$.

# %% [markdown]
# ## What you know now
#
# **To repeat: in one pass over fresh pairs, BSR's spread term takes weight from what tells *pairs*
# apart but hardly the two *answers of a pair*. So first ask whether that is nuisance or quality.**
#
# | direction | tax over evidence | share that spread leaves, $\lambda = 10^{-2}$ |
# |---|---|---|
# | A's signal | .4 | .82 |
# | C's nuisance | .8 | .64 |
# | D's signal | 4.8 | .42 |
# | C's signal | 18.3 | .33 |
# | A's nuisance | 112.7 | .22 |

# %% [markdown]
# - Nuisance alone (A, B): spread helped. Quality (C), or both (D): it cost.
# - The forecast for tau failed in D, in *neutral* and, for spread, with 64 epochs; for BSR in
#   *B, mean 2*, too. A language model did not confirm it.
# - The rule for weights failed in *neutral* and, at ten times $\lambda$, in D.
# - Level alone cost in all seven worlds.
# - On data like A spread can bring a gain such as the paper's. Whether its data are like A we
#   cannot say.

# %% [markdown]
# **To do: before you add a penalty, ask what your *pairs* differ in, and what the two *answers of a
# pair* differ in. Then score it on answers of new sources, with the spread term alone beside it.**
#
# Next: **05 · How does an 8B reward model fit on one small GPU?**

# %% [markdown]
# ## Second reading
#
# Why the level term costs (Section 7), more worlds (8), the rule as a formula (9). It is put to the
# test in networks (10), on a language model's states (11), in its training (12).

# %% [markdown]
# ## 7. Why does the level term cost?
#
# *In B adding the level term costs .156 of tau. Why?* The penalty wants the mean reward at zero,
# and one way there costs nothing. The network's last layer adds a constant vector to each state,
# its *bias*. Changing it moves all rewards alike, and tau cannot see it. Yet tau falls. So the
# network also went a way that hurts.
#
# Two suspects:
# - *Noise*. The level is estimated by $\bar r$, the mean of one group's 32 pair means. So
#   $G\,\bar r^{\,2}$ is one squared number, right on average, but noisy.
# - *A slow bias*. In 200 steps the bias may not get far enough.

# %% [markdown]
# We mend the one, the other, and both. The level is then estimated from 256 pairs: the batch's 32
# and the next 224. Its expectation stays the same. The bias learns ten times as fast.
#
# **Predict**: what is left of the level term's cost in B with each change? And in A, where the mean
# of $x$ is zero?

# %%
CHANGES = {"as it is": {}, "level of 256 pairs": {"level_pairs": 256},
           "fast bias": {"bias_rate": 2e-2}, "both": {"level_pairs": 256, "bias_rate": 2e-2}}


def changed(name, change):
    """BT's, BSR's and spread's tau on new sources, (seeds,) each, in a world with that change."""
    world = dataclasses.replace(worlds.WORLDS[name], **change)
    return worlds.train(world, OBJECTIVES, SEEDS, looks=1)[STEPS]["response_disjoint"].T

# %%
rows = []
for letter in "BA":
    for label, change in CHANGES.items():
        bt, bsr, spread = changed(WORLDS[letter], change)
        rows.append([f"{letter}, {label}", *("{:+.3f} ± {:.3f}".format(*seed_interval(bsr - other))
                                            for other in (spread, bt))])
Markdown(tables.table(["new sources", "BSR minus spread alone", "BSR minus BT"], rows))

# %% [markdown]
# In B the quieter level takes away a third of the cost. The fast bias takes away more. With both no
# cost is decided, and BSR itself gains .045. One caution: 256 pairs are also more data, and here
# less noise and more data cannot be told apart.
#
# So *in B no cost of the level term is decided once the bias is fast and the level is taken from
# more pairs.* For a network Section 2's level tax is no law.
#
# In A, where there is no level to shift, the quieter level alone leaves no decided cost. A fast
# bias leaves it as it is.

# %% [markdown]
# ## 8. More worlds
#
# More worlds from the record (`data/runs/worlds`): 32 seeds (last two columns 16), and more
# penalties. On *new prompts*, where BT was not harmed, the record has
# +.000 ± .004 for BSR 1e-2 in A and +.004 ± .003 for spread 1e-2.
#
# - *Helps, RMSNorm* is A with $h$ normalized as in a language model.
# - *Clean labels*: the better answer always wins.
# - *Centering* and *L2* on rewards (notebook 03) weigh level and spread alike. BSR weighs level $G$
#   times as much.

# %%
NAMES = {name: f"{letter} ({name})" for letter, name in WORLDS.items()}
text = (RUNS / "worlds/results.md").read_text().split("\n\nAll sets")[0]
for name, shown in NAMES.items():
    text = text.replace(f"| {name} |", f"| {shown} |")
Markdown(text)

# %% [markdown]
# In A, B and C BSR keeps its sign at the paper's $10^{-3}$. The gain in A is not BSR's own:
# centering gains as much as spread.
#
# So *level alone* is no control for the level term inside BSR. In A it costs .101 alone, but .016
# beside spread.

# %% [markdown]
# ## 9. Can it be foretold?
#
# BT's loss is curved along a direction $u$. The curvature is BT's *information* on $u$:
#
# $$I_u = \overline{p\,(1-p)\,(u^\top h_w - u^\top h_l)^2} \approx
# \overline{p\,(1-p)}\;\,\overline{(u^\top h_w - u^\top h_l)^2}, \qquad p = \sigma(r_w - r_l).$$
#
# A bar is a mean over pairs. The rough form on the right is a common factor times the evidence.
# Along gold it is too large: where two answers differ much, $p\,(1-p)$ is small. And $p$ is BT's:
# it moves when a penalty shrinks the weights.

# %% [markdown]
# How much of a weight is left? Suppose that information and tax mix no directions: nearly so in
# these worlds. Let $w_0$ be BT's weight on $u$. Near it BT's loss rises as $\tfrac12 I_u (w -
# w_0)^2$, and the penalty adds $\lambda\,\mathrm{tax}_u\,w^2$. The sum is least at this share of
# $w_0$:
#
# $$\text{kept}_u = \frac{I_u}{I_u + 2\lambda\,\mathrm{tax}_u}, \qquad \mathrm{tax}_u =
# \underbrace{u^\top \Sigma_c\,u}_{\text{spread}} +
# \underbrace{G\,(u^\top \mu_c)^2}_{\text{level}}.$$
#
# With the rough $I_u$ it can be computed from Section 1's table. Here $p$ comes from a fit to 2,000
# pairs:

# %%
world = dataclasses.replace(worlds.WORLDS["helps"], pairs=2000)
pairs = worlds.draw(world, 1)[0][0].double().numpy()
delta = pairs[:, 0] - pairs[:, 1]  # (2000, 40)
p = 1 / (1 + np.exp(-delta @ quadratic.fit(delta, 1e-9 * np.eye(40))))
rough = (p * (1 - p)).mean() * 2 * np.square(world.within)  # of a signal, a nuisance coordinate
taxes = np.square(world.across) + np.square(world.within) / 2  # a mean of two: half their variance
formula = rough / (rough + 2 * LAMBDA * taxes)
print("A: of the weights BSR 1e-2 leaves {:.2f} (signal), {:.2f} (nuisance)".format(*formula))

# %% [markdown]
# **Predict** the formula's curves over $\lambda$ from $10^{-4}$ to 1: in which world does BSR take
# the signal first? Beside them stand exact fits: BT plus the penalty's expectation.

# %%
fits = {name: worlds.shrink_factors(worlds.WORLDS[name], worlds.FITTED, seed=0)
        for name in WORLDS.values()}
shares = {(name, method, part): both for name, weights in fits.items()
          for method, part, *both in weights}  # foretold, fitted; signal: along gold's direction
library = [shares["helps", "bsr-1e-2", part][0] for part in ("signal", "nuisance")]
torch.testing.assert_close(torch.tensor(formula), torch.tensor(library), rtol=1e-5, atol=0.0)

# %%
figure, axes = plots.panels(3, sharex=True, sharey=True)
for axis, (name, weights) in zip(axes, fits.items(), strict=True):
    for part, tint in (("signal", "#0072B2"), ("nuisance", "#D55E00")):
        at, told, fitted = zip(*sorted(
            (float(method[4:]), *both) for method, where, *both in weights
            if where == part and method.startswith("bsr-")), strict=True)
        axis.loglog(at, told, color=tint, label=f"{part}, foretold")
        axis.plot(at, fitted, "x", color=tint, label=f"{part}, fitted")
    plots.label(axis, r"$\lambda$ of BSR", "", NAMES[name])
axes[0].set_ylabel("weights / BT's")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4,
              frameon=False)
figure.suptitle("BSR takes a linear head's nuisance first in A, its signal first in C; "
                "in B it takes both");

# %% [markdown]
# **What to see.** The order is foretold. In B both fade, the signal sooner. Section 7's network has
# a bias. This head has none: it can lower the level only by giving up the signal.
#
# The sizes are foretold less well: A's crosses for the signal lie below its line. There the rough
# information is too large. (For *neutral* see Section 6.)

# %% [markdown]
# ## 10. Does a trained network follow?
#
# Section 5 measured the shares of BT's weights that spread alone leaves, over answers of new
# sources to new prompts. Here are BSR's.
#
# Beside them stand norms. The paper's Fig. 2 has them disperse under BT. Their cv, the standard
# deviation of $\lVert h\rVert$ over its mean, says how much they differ. Are calmer norms a sign of
# a better model?

# %%
rows = []
for letter, looks in seen.items():
    shares = (seed_interval(share[:, 1]) for share in kept[letter])
    tau = seed_interval(against(letter, "response_disjoint")["BSR\nminus BT"])
    cv = looks[STEPS]["norm_cv"]  # (seeds, methods)
    calmer = "{:+.0f}% ± {:.0f}".format(*seed_interval(100 * (cv[:, 1] / cv[:, 0] - 1)))
    rows.append([letter, *("{:.2f} ± {:.2f}".format(*x) for x in shares), calmer,
                 "{:+.3f} ± {:.3f}".format(*tau)])
Markdown(tables.table(["BSR", "signal kept", "nuisance kept", "cv against BT's", "tau minus BT's"],
                      rows))

# %% [markdown]
# In A BSR takes more from the nuisance, in C more from the signal. So the *direction* of the rule
# carries over from a linear head to these networks.
#
# The *sizes* do not. In A about half of BT's weight is left on the nuisance, where the formula says
# a twentieth. Nor do shares settle tau. In B they are nearly equal, and yet BSR costs .105. In
# Section 6's D the signal kept more, and spread cost.
#
# Norms calm in all three worlds, most where tau falls. *Calm norms are no proof of a better model.*

# %% [markdown]
# ## 11. Foretold on a language model's states
#
# Can the formula foretell tau on text (`data/runs/linear`)? The states are a pretrained model's,
# and stay as they are. A linear head is fitted exactly to 1,056 pairs. Groups have 16 pairs from
# here on. Three worlds:
# - *Plain*: the pocket world.
# - *Postscript*: every answer ends in `P.S.` and a sentence about something else.
# - *Closing phrase*: some answers end in `I hope this helps!`.
#
# *Prompt-shifted* has the answers of prompt-disjoint, their endings rewritten as new sources' are.

# %% [markdown]
# The forecast fits no head to labels (`bsr_lite/studies/linear.py`):
# 1. Regress *gold* on the states: a direction.
# 2. Shrink it by Section 9's formula.
# 3. Add the noise that drawn labels bring.
# 4. The correlation of this noisy reward with gold, over a set's answers, gives the tau.
#
# So it needs gold. Nor is it blind: after seeing fits we chose, on dev, the postscript under which
# BT fell most.

# %% [markdown]
# Do the answers to one prompt differ in their ending?
#
# | world | training, new prompts | rewritten (*prompt-shifted*), new sources |
# |---|---|---|
# | postscript | no, all share one | yes, each has its own |
# | closing phrase | yes, mostly on better answers | yes, at random |
#
# **Predict**: in which of the three worlds can a penalty gain, and on which sets?

# %%
if PROFILE == "full":
    from bsr_lite.studies.linear import run_linear
    from bsr_lite.studies.reward_models import run_study
    run_linear(Path("bsr_lite/configs/linear.yaml"))
    for study in ("study_terms", "study_postscript"):
        run_study(Path(f"bsr_lite/configs/{study}.yaml"))

# %%
linear = read_table(RUNS / "linear")
SHOWN = ("bsr-0.01", "level-0.01", "bsr-0.1", "spread-0.1", "l2-0.1")
PARTS = {"prompt_disjoint": "new prompts", "prompt_shifted": "the same answers, rewritten",
         "response_disjoint": "new sources"}
figure, axes = plots.panels(3, sharex=True, sharey=True)
for axis, (part, title) in zip(axes, PARTS.items(), strict=True):
    axis.axvline(0, color="black", linewidth=0.8)
    for y, name in enumerate(SHOWN):
        cell, tint = linear["postscript"][name][part], plots.COLORS[name.split("-")[0]]
        mean, low, high = cell["difference"]
        axis.errorbar(mean, y, xerr=[[mean - low], [high - mean]], fmt="o", capsize=3, color=tint)
        axis.plot(cell["predicted"], y, "|", color="black", markersize=16)
    axis.set_yticks(range(len(SHOWN)), ["BSR .01", "level .01", "BSR .1", "spread .1", "L2 .1"])
    plots.label(axis, "tau minus BT's, 95% (tick: foretold)", "", title)
axes[0].set_ylim(4.5, -0.5)
figure.suptitle("Postscript: on rewritten answers BSR, spread and L2 at .1 lie near the forecast; "
                "on new sources nothing is decided");

# %% [markdown]
# **What to see.** On rewritten answers each tick lies near its dot. On new sources all five ticks
# lie right of their dots. There the intervals hold both the tick and zero. (They are over training
# pairs and topics drawn anew.)
#
# BSR, spread and L2 gain nearly the same on rewritten answers: take them as *one* gain. By count
# it is no evidence: of 330 differences twelve exclude zero, by chance 16
# (`data/runs/linear/results.md`).

# %% [markdown]
# <details><summary>Answer</summary>
#
# Only with the postscript, on sets where the answers to a prompt differ in it. In training *pairs*
# differ in it, the answers of a pair do not. In a closing phrase they do: evidence is on its side.
# </details>

# %% [markdown]
# *Where the forecast fails* (same record, rewritten answers). BT's *own* tau is foretold too high:
# .207, where the fit has .128. With the closing phrase it is .416 against .167. There five of 15
# forecasts of differences miss, too. So what agrees with postscripts is a *difference* of two
# scores, in a world chosen for it.

# %% [markdown]
# ## 12. And a language model that trains?
#
# LoRA on ten layers, 66 steps. Tau is averaged over sets:
#
# | world | sets | chosen | record |
# |---|---|---|---|
# | postscript | prompt-shifted, response-, mutual-disjoint | before the runs | `study_postscript` |
# | plain | all five | after them | `study_terms` |
#
# *The positive control failed.* A penalty can gain back only what rewriting costs BT. We asked
# before the runs for .06 or more. It was .027, and the interval holds zero:

# %%
NEW = {"prompt_shifted": "the same answers, rewritten", "response_disjoint": "new sources",
       "mutual_disjoint": "new sources, new prompts"}
study = read_table(RUNS / "study_postscript")
shared, own = (study["bt"][part]["seeds"] for part in ("prompt_disjoint", "prompt_shifted"))
print("{:.3f} ± {:.3f}".format(*seed_interval(np.subtract(shared, own))), "(95% over seeds)")

# %% [markdown]
# **Predict** from Section 11's figure: which lies above BT with postscripts: level 1e-2 alone, BSR
# 1e-2, spread 1e-1 alone?

# %%
SETS = {"study_postscript": NEW, "study_terms": ("prompt_disjoint", "response_disjoint",
        "mutual_disjoint", "dev_prompt_disjoint", "dev_mutual_disjoint")}
studies = {name: read_table(RUNS / name) for name in SETS}
THREE = {"level-1e-2": "level 1e-2\nalone", "bsr-1e-2": "BSR 1e-2",
         "spread-1e-1": "spread 1e-1\nalone"}


def averaged(name, method):
    """tau minus BT's of the same seed, averaged over the sets.  Shapes: -> (seeds,)."""
    return np.mean([np.subtract(studies[name][method][part]["seeds"],
                                studies[name]["bt"][part]["seeds"]) for part in SETS[name]], 0)

# %%
def foretold(name, method):
    """Section 11's forecast for that difference, averaged over the same sets."""
    kind, size = method.split("-", 1)
    world = linear["postscript" if name == "study_postscript" else "plain"]
    return np.mean([world[f"{kind}-{float(size):g}"][part]["predicted"] for part in SETS[name]])

# %%
figure, axes = plots.panels(2, sharey=True)
for axis, name, title in zip(axes, SETS, ("with postscripts, 3 seeds", "plain world, 4 seeds"),
                             strict=True):
    draw_paired(axis, {THREE[method]: averaged(name, method) for method in THREE},
                ("level", "bsr", "spread"))
    for place, method in enumerate(THREE):
        axis.plot(place, foretold(name, method), "_", color="black", markersize=26,
                  markeredgewidth=2)
    plots.label(axis, "", "" if axis is axes[1] else f"tau minus BT's:\n{BARS}", title)
    axis.lines[0].set(color="grey", linestyle=":")  # zero: two forecasts lie on it
axes[0].text(1, 0.052, "foretold", ha="center")
figure.suptitle("Three of six forecasts (black) miss; "
                "of six averages only spread's in the plain world excludes zero");

# %% [markdown]
# **What to see.** A forecast misses if it lies outside the interval. Three do: with postscripts
# BSR's and spread's, in the plain world spread's. The other three are near zero and lie in wide
# intervals: no success either.

# %% [markdown]
# *With postscripts* spread lies above BT in every seed. BSR and level lie below, though BSR was
# foretold a gain. All three intervals hold zero. The failed control may explain a missing gain, but
# not BSR's decided cost on rewritten answers (-.055, `data/runs/LOG.md`).
#
# *In the plain world* spread lies above BT in all four seeds, against its forecast. These intervals
# take the prompts as fixed, those of notebook 06 do not.
#
# So *on fixed states, with rewritten postscripts, the forecasts are not contradicted. In training
# half of them miss.*

# %% [markdown]
# ### Exercise 3
#
# How noisy is the level? Let pair means $s$ be normal with mean zero, and take one group of $G$
# pairs. Two numbers estimate $\mathrm{Var}(s)$ from it: $G\,\bar r^{\,2}$, and the sample variance
# of the $G$ pair means. By which factor is the standard deviation of the first estimate larger?
#
# <details><summary>Hint</summary>
#
# How many independent squares is either of them an average of?
# </details>

# %%
def noise_ratio(group):
    return None


checks.check_noise_ratio(noise_ratio);

# %% [markdown]
# ### Exercise 4
#
# *Judge a record.* Someone reads Section 12's figure, left panel: "BSR ends as low as its level
# term alone. So the spread part of BSR does nothing." May that stand? And "level alone is worse
# than spread alone"?
#
# Write the paired comparison: from two tensors of scores (seeds, sets) the mean of $a - b$, and
# half its 95% interval over seeds (`seed_interval`), as a tensor of two. Average over the sets
# first. Then run the cell below.
#
# <details><summary>Hint</summary>
#
# An interval that holds zero has two ends. What does each say about BSR?
# </details>

# %%
def paired_by_seed(a, b):
    return None


checks.check_paired_by_seed(paired_by_seed);

# %%
study = studies["study_postscript"]
level, bsr, spread = (torch.tensor([study[method][part]["seeds"] for part in NEW]).T
                      for method in THREE)  # (seeds, sets)
print("BSR minus level alone:", paired_by_seed(bsr, level))
print("level alone minus spread alone:", paired_by_seed(level, spread))
print("BSR minus BT, the whole cost:", averaged("study_postscript", "bsr-1e-2").mean().round(3))
