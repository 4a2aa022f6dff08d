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
# **First reading**: Sections 1 to 6, one rule that says when the spread term helps, and where the
# rule ends. **Second reading**: why the level term costs, the rule as a formula, its forecasts
# tested.
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
# *Does BSR do the same on every kind of data?* To find out we build three small worlds, in which we
# know everything.
#
# An answer is a list of forty numbers, $x = a + b$. The part $a$ belongs to the prompt: all answers
# to a prompt share it. The part $b$ is the answer's own.
#
# Gold is a weighted sum of the first ten numbers. So it depends on one direction of $x$ only. We
# call it **gold's direction**, or **the signal**. The other thirty coordinates are **nuisance**,
# like a topic or a style. They say nothing about quality.

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
# Training shows 6,400 pairs, each once. Which answer of a pair wins is *drawn*: the better one wins
# more often, by Bradley-Terry's rule. So labels are noisy.
#
# A network with one hidden layer turns $x$ into a state $h$. A linear *head* turns the state into a
# reward, $r = W_p^\top h$. The head learns so slowly that it hardly moves, as in the paper.

# %% [markdown]
# In each world we train eight networks with BT and eight with BSR, which is BT plus the penalty.
# The two networks of one *seed* start alike and see the same pairs in the same order. The penalty's
# weight is $\lambda = 10^{-2}$, ten times the paper's. At the paper's the signs below are the same
# (`data/runs/worlds/results.md`).
#
# We score tau on answers of new sources to training's prompts.
#
# **Predict** for each world: does BSR raise tau, lower it, or leave it alone? A guess is enough:
# Section 5 asks again.

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
# In A BSR gains .045. In B it costs .105, in C .154. So the answer is no: *the same penalty helps
# in one world and costs in two.*

# %% [markdown]
# ## 2. Two terms, and what stands against them
#
# *Which weights does the penalty shrink?* We answer for the simplest case: states $h$ stay as they
# are, only the head $W_p$ learns, and no constant is added.
#
# BSR takes its penalty on groups of $G$ pairs, here 32. Let $\mu_s$ be the mean of the pair means
# $s$ over all pairs. On average over groups the penalty is (03, Section 2)
#
# $$\lambda\,\bigl(G\,\mu_s^2 + \mathrm{Var}(s)\bigr).$$
#
# In words: the squared level, with the weight $G$, plus the spread.

# %% [markdown]
# Now bring in the weights. A pair's **center** is the middle of its two states, $c = (h_w +
# h_l)/2$. The reward of the center is the pair mean: $s = W_p^\top c$. Let $\mu_c$ be the mean of
# all centers, the **mean state**, and $\Sigma_c$ their covariance. Then
#
# $$\lambda\,\bigl(G\,\mu_s^2 + \mathrm{Var}(s)\bigr) =
# \underbrace{\lambda\,G\,(W_p^\top \mu_c)^2}_{\text{level}} +
# \underbrace{\lambda\,W_p^\top \Sigma_c\,W_p}_{\text{spread}}.$$
#
# In words: each term is a **tax** on weights. *The spread term taxes weight along directions in
# which the centers of pairs scatter. The level term taxes weight along the mean state.*

# %% [markdown]
# What stands against the tax? BT does. But BT sees only the difference of a pair's two answers. So
# it holds the weight along a direction only if the two answers differ along it. We call the mean
# squared difference of a pair's answers the **evidence** on that direction.
#
# Tax and evidence pull against each other. So divide the one by the other. *The rule: the larger a
# direction's **tax over evidence**, the less of its weight is left.*
#
# Here states are fixed and the head learns. In our networks it is the other way round. For them the
# rule is a *conjecture*, about directions of $x$: from here on $x$ takes the place of $h$.

# %% [markdown]
# ## 3. Three questions
#
# *What must we ask of data, to know whether a penalty helps?* Three questions, of each direction:
# 1. **Tax**: do *pairs* differ along it, center from center? Does the mean state lie along it?
# 2. **Evidence**: do the two *answers of a pair* differ along it?
# 3. **Quality**: does gold depend on it?
#
# Tau sees only the order of rewards. If all weights shrink by one factor, no order changes. So
# compare: *where is tax over evidence larger?* If on the signal, the penalty should cost.

# %% [markdown]
# If on the nuisance, the penalty can gain: weight there is noise. Labels are noisy, and BT fits
# their noise. Where the two answers of a pair hardly differ, even a large weight hardly changes the
# loss. So the less evidence, the larger this noise.
#
# The noise harms only where new answers differ. So a gain needs three things of a nuisance
# direction:
# - *pairs* differ along it, so that it is taxed;
# - the two *answers of a pair* hardly do, so that BT's weight is noise and easily lost;
# - *new answers* to one prompt do, so that the noise would put them in a wrong order.

# %% [markdown]
# The figure draws 40 training pairs of each world. Look for three things:
# - How far do the orange centers scatter? Spread's tax.
# - How long are the blue segments? The evidence.
# - How do the black crosses differ? They are new answers to one prompt, the ringed one.

# %%
def sketch(axis, letter):
    some, sets = worlds.draw(worlds.WORLDS[WORLDS[letter]], 1)
    gold = worlds.gold_direction() / 2  # gold's weights are 2 in length
    pairs, new = (torch.stack([x @ gold, x[..., -1]])  # along the signal, along a nuisance
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
# Now in numbers: for each term its tax over evidence, measured on drawn pairs.

# %%
directions = worlds.gold_direction() / 2, torch.eye(40)[-1]  # as in the figure
rows = []
for letter, name in WORLDS.items():
    pairs, ratios = worlds.draw(worlds.WORLDS[name], 32)[0], []  # (32, 6400, 2, 40)
    for x in (pairs @ u for u in directions):  # (32, 6400, 2)
        evidence = x.diff(dim=-1).square().mean()
        ratios.append((x.mean(-1).var() / evidence, G * x.mean() ** 2 / evidence))
    (signal, level), (nuisance, _) = ratios
    rows.append([TITLES[letter], *(f"{x:.1f}" for x in (signal, nuisance, level))])
    assert (signal < nuisance) == (letter != "C"), "spread taxes C's signal harder"
Markdown(tables.table(["tax over evidence", "spread: signal", "spread: nuisance",
                       "level: signal"], rows))

# %% [markdown]
# Along the nuisance level taxes nothing. BSR's tax is the sum of both terms. So *a penalty should
# help where its tax over evidence is larger on nuisance that new answers differ in. It should cost
# where it is larger on the signal.*

# %% [markdown]
# ## 4. What Bradley-Terry does alone
#
# *Is there anything to gain in A?* A penalty can only win back what BT loses. So look at BT alone.
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
# weights are noise. Answers of training's sources hardly differ there, even to a new prompt.
# </details>

# %% [markdown]
# ## 5. Which term does it?
#
# *Is it the spread term that helps and costs, or the level term?* Section 1 also trained BT with
# the spread term alone (`losses.spread_penalty`), at the same $\lambda$. So BSR minus BT shows the
# whole penalty, spread alone minus BT the spread term. BSR minus spread alone shows what the level
# term adds *beside spread*.
#
# **Predict** with Section 3's table, for new sources: in which worlds does the *spread* term help,
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

# %% [markdown]
# Look first at the green bars, for the spread term. Then at the brown bars, for what the level term
# adds.

# %%
figure, axes = plots.panels(3, sharey=True)
for axis, letter in zip(axes, WORLDS, strict=True):
    draw_paired(axis, against(letter, "response_disjoint"), ("bsr", "spread", "level"))
    plots.label(axis, "", BARS if letter == "A" else "", TITLES[letter])
    axis.tick_params(axis="x", labelsize=8)
figure.suptitle("New sources: spread gains in A and B, costs in C; adding level costs most in B");

# %% [markdown]
# **What to see.** The spread term gains in A and B and costs in C. Adding the level term more than
# undoes the gain in B. In A it takes a part of the gain back. In C its bar holds zero: *undecided*.

# %% [markdown]
# <details><summary>Answer to the predictions</summary>
#
# *Spread*: in A and B it taxes the nuisance harder, and new answers differ in it: a gain. In C it
# taxes the signal harder: a cost.
#
# *Level*: in B it taxes the signal: a cost. (Yet 144 there, against spread's 113 on the nuisance,
# is nearly a tie: see Section 6.) In A and C it has nothing to tax. So Section 3 does *not* explain
# the small cost in A.
# </details>

# %% [markdown]
# So the rule gives the sign of the *spread* term in all three worlds. (Whether its reason is right,
# too, Section 10 asks: second reading.)
#
# **The lesson's idea. In one pass over fresh pairs, BSR's spread term takes weight from what tells
# *pairs* apart but hardly the two *answers of a pair*. In our worlds A to C that helped where it
# was nuisance that new answers differ in, and cost where it was quality.**

# %% [markdown]
# ## 6. Where does the rule end?
#
# *We built A, B and C for the rule. Does it hold elsewhere?* First a B with a mean of 2, not 3.
#
# **Predict** by Sections 2 and 3: what is left of the level term's 144? Does the rule now foretell
# a gain of BSR, or a cost?

# %%
nearer = dataclasses.replace(worlds.WORLDS["mean on the signal"], level=2.0)
x = worlds.draw(nearer, SEEDS)[0] @ directions[0]  # along the signal
evidence = x.diff(dim=-1).square().mean()
print(f"level on the signal, tax over evidence: {G * x.mean() ** 2 / evidence:.0f}")
bt, bsr, _ = worlds.train(nearer, OBJECTIVES, SEEDS, looks=1)[STEPS]["response_disjoint"].T
print("BSR minus BT: {:+.3f} ± {:.3f}".format(*seed_interval(bsr - bt)))

# %% [markdown]
# On the nuisance spread's 113 is as before, and larger than 64: the rule foretells a gain. Yet BSR
# costs .035. So *the rule names the direction that the level term taxes, but not how much it costs
# our networks.* (A constant added to all rewards could move the level at no cost. Section 7, second
# reading, asks what keeps the networks from it.)
#
# Next two more worlds, from a record with more seeds.
#
# - *Neutral*: all standard deviations are 1, along every direction.
# - *64 epochs*: as A, but with only 300 pairs, seen 64 times.
#
# **Predict** by Section 3: what does the spread term do in each?

# %%
RUNS = Path("runs" if PROFILE == "full" else "data/runs")
if PROFILE == "full":  # trains what "fast" reads; finished runs are read back
    from bsr_lite.studies.linear import run_linear
    from bsr_lite.studies.reward_models import run_study
    worlds.run_worlds(RUNS / "worlds")
    run_linear(Path("bsr_lite/configs/linear.yaml"))
    for study in ("study_terms", "study_postscript"):
        run_study(Path(f"bsr_lite/configs/{study}.yaml"))

# %%
record, rows = json.loads((RUNS / "worlds/results.json").read_text())["worlds"], []
for name, title in (("helps", "A, 32 seeds"), ("neutral", "neutral, 32 seeds"),
                    ("64 epochs", "64 epochs, 16 seeds")):
    found = (record[name]["objectives"][m]["difference"]["response_disjoint"]
             for m in ("spread-1e-2", "bsr-1e-2"))
    rows.append([title, *("{:+.3f} ± {:.3f}".format(*x) for x in found)])
Markdown(tables.table(["tau on new sources minus BT's, ± 95% over seeds", "spread alone",
                       "BSR"], rows))

# %% [markdown]
# In *neutral* tax over evidence is the same along every direction. So by the rule no order should
# change. Yet the spread term costs .013: small beside its gain of .052 in A, but decided.
#
# With *64 epochs* the rule foretells a gain, and fails outright: the spread term costs .068. Yet
# BSR, with the level term beside it, gains .024. We do not know why.
#
# So *the rule is one for a single pass over fresh pairs, and even there it does not say all.*

# %% [markdown]
# And a language model? We trained one as a reward model, in a world made like A. Every answer ends
# in a *postscript* about something else. In training all answers to a prompt share one. In three
# sets each answer has its own: rewritten answers, new sources, new sources on new prompts. So the
# rule foretells gains there.
#
# The cell averages tau over these sets, for three seeds. Spread alone has ten times BSR's
# $\lambda$. So compare each with BT, not with the other: *which part does it* cannot be seen here.

# %%
NEW = ("prompt_shifted", "response_disjoint", "mutual_disjoint")
study = read_table(RUNS / "study_postscript")
for name, method in (("BSR", "bsr-1e-2"), ("spread alone", "spread-1e-1")):
    change = np.mean([np.subtract(study[method][part]["seeds"], study["bt"][part]["seeds"])
                      for part in NEW], 0)  # (3 seeds,)
    print("{} minus BT: {:+.3f} ± {:.3f}".format(name, *seed_interval(change)))
below = [np.less(study["bsr-1e-2"][part]["seeds"], study["bt"][part]["seeds"]) for part in NEW]
print("BSR is below BT in", np.sum(below), "of", np.size(below), "values (three sets, three seeds)")
print("BSR minus BT, rewritten answers alone: {:+.3f} ({:+.3f} to {:+.3f})".format(
    *study["bsr-1e-2"]["prompt_shifted"]["difference"]))
shared, own = (study["bt"][part]["seeds"] for part in ("prompt_disjoint", "prompt_shifted"))
print("control, what postscripts of their own cost BT: {:.3f} ± {:.3f}".format(
    *seed_interval(np.subtract(shared, own))))

# %% [markdown]
# No gain is seen: both averages' intervals hold zero. But BSR lies below BT in all nine values, and
# on rewritten answers its whole interval is below zero: a cost, where the rule foretells a gain.
#
# Perhaps there was no gain to be had. The control compares the same answers, once with shared
# postscripts and once with their own. BT loses .027 by its own ones, and this interval holds zero,
# too. That would explain a missing gain, but no cost.
#
# So *on a language model the rule is not confirmed.*

# %% [markdown]
# And language models at large? Count every study of trained ones with three seeds or more, this one
# included (06, Sections 5 and 11). Of 160 differences to BT 18 are decided, where chance gives 8.
# **17 of the 18 are costs.** Most of these studies do not have data like A: they do not test the
# rule.

# %% [markdown]
# ## Exercises
#
# A fold holds the first hint, a wrong answer's checker the second. Solutions: `solutions/`.

# %% [markdown]
# **1.** *Which of two directions keeps more?* A direction is three numbers: `across` and `within`
# as in Section 1, and `mean`, how far all $x$ are moved along it. You get two such triples, `first`
# and `second`, and $G$ as `group`. Compute for each *evidence over BSR's tax* (both terms). Return
# the first's over the second's.
#
# Signal first, nuisance second gives about 301 in A and .04 in C. Above 1 the signal keeps more.
# What is it in B? Below which mean would it foretell a gain there? Do Section 6's networks agree?
#
# <details><summary>Hint</summary>
#
# Two answers to one prompt share $a$ and differ in $b$. What is the variance of their difference,
# and what of their middle?
# </details>

# %%
def evidence_over_tax(first, second, group):
    return None


checks.check_evidence_over_tax(evidence_over_tax);

# %% [markdown]
# **2.** *Take the gain away.* In A (*helps* in the library) BSR and spread gain. Change **one** of
# Section 1's numbers so that less is gained. One way is `across=(0.5, 0.5)`: signal first, and only
# the nuisance's is new. Find two more. Which of the three leaves spread a gain? Note a forecast for
# each, then run the cell: ten seconds or so, no checker.
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
# 5. Hardly: answers of training's sources hardly differ along the nuisance. So weight there hardly
#    matters. (Section 8: no gain is seen.)
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
# apart but hardly the two *answers of a pair*. In our worlds A to C that helped where it was
# nuisance that new answers differ in, and cost where it was quality.**

# %% [markdown]
# - A, B and C were built for the rule behind it: *tax over evidence*.
# - Adding the level term cost most in B, where the mean state lies on quality. With a mean of 2 BSR
#   still cost, against the rule.
# - The rule does not explain the small costs: spread's in *neutral*, level's in A. With 64 epochs
#   it fails. A language model did not confirm it: BSR cost on rewritten answers.

# %% [markdown]
# **To do: before you add a penalty, ask what your *pairs* differ in, and what the two *answers of a
# pair* differ in. Then score it on answers of new sources, with the spread term alone beside it.**
#
# Next: **05 · How does an 8B reward model fit on one small GPU?**

# %% [markdown]
# ## Second reading
#
# Why the level term costs (Section 7), more worlds (8), the rule as a formula (9), and the rule put
# to the test: in networks (10), on a language model's states (11), in its training (12). Exercises
# 3 and 4 need it.

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
# penalties. The table is of new sources. On *new prompts*, where BT was not harmed, the record has
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
# centering gains as much as spread. With 64 epochs and clean labels each term alone
# costs, too, and BSR is undecided.
#
# *Level alone* is no good control for the level term inside BSR: in A it costs .101 alone, but .016
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
# The sizes are foretold less well. See the shares at the lesson's own $\lambda$, in A and in
# Section 6's *neutral*:

# %%
for name in ("helps", "neutral"):
    for _, part, *both in worlds.shrink_factors(
            worlds.WORLDS[name], {"BSR": worlds.OBJECTIVES["bsr-1e-2"]}, seed=0):
        print("{}, {}: foretold {:.2f}, fitted {:.2f}".format(name, part, *both))

# %% [markdown]
# A's signal keeps .81, not .94. In *neutral* the formula takes signal and nuisance alike, but the
# fit takes more of the signal: there the rough information is too large. So the *sign* of
# neutral's cost has a candidate. Its size is open.

# %% [markdown]
# ## 10. Does a trained network follow?
#
# Measure the slopes of Section 5's networks: a linear regression of their rewards on $x$, over
# answers of new sources to new prompts. One slope is that along gold's direction. The other is the
# length of the slopes along the thirty nuisance coordinates. Of both take the share that a penalty
# leaves of BT's.

# %%
kept, gold = {}, worlds.gold_direction() / 2
for letter, looks in seen.items():
    slopes = looks[STEPS]["slopes"]  # (seeds, 40, methods)
    signal = torch.einsum("sdm,d->sm", slopes, gold)  # (seeds, methods)
    nuisance = slopes[:, worlds.SIGNAL:].norm(dim=1)
    kept[letter] = signal / signal[:, :1], nuisance / nuisance[:, :1]  # over BT's

# %% [markdown]
# In the figure a point is a world and a penalty. Look at which side of the line it lies. Above the
# line the signal keeps the larger share. The number is the change of tau.

# %%
BELOW = ("B", "bsr"), ("B", "spread"), ("C", "spread")  # where a name stands
figure, axis = plots.panels()
for letter, (signal, nuisance) in kept.items():
    taus = list(against(letter, "response_disjoint").values())
    for i, kind in ((1, "bsr"), (2, "spread")):
        (y, dy), (x, dx) = seed_interval(signal[:, i]), seed_interval(nuisance[:, i])
        axis.errorbar(x, y, dy, dx, fmt="o", capsize=2, color=plots.COLORS[kind])
        name = f"{letter} {'BSR' if kind == 'bsr' else kind}: {taus[i - 1].mean():+.3f}"
        axis.annotate(name, (x, y), (0, -20 if (letter, kind) in BELOW else 12),
                      textcoords="offset points", ha="center", color=plots.COLORS[kind])
axis.axline((0, 0), slope=1, color="black", linewidth=0.8)
axis.text(0.13, 0.07, "equal shares")
axis.set(xlim=(0, 1), ylim=(0, 1))
plots.label(axis, "nuisance: share of BT's slope kept", "signal: share kept",
            "numbers: tau minus BT's, new sources")
figure.suptitle("In these six tau gains above the line of equal shares, and loses below it");

# %% [markdown]
# **What to see.** In A both penalties lie above the line: they take more from the nuisance. In C
# both lie below it: they take more from the signal. In B the spread term lies where it lies in A,
# and BSR just below the line. So the *direction* of the rule carries over from a linear head to
# these networks.
#
# The *sizes* do not. In A BSR leaves about half of BT's slope along the nuisance, where the formula
# says a twentieth.

# %% [markdown]
# Are calmer norms a sign of a better model? The paper's Fig. 2 has norms disperse under BT. Here
# cv, the standard deviation of $\lVert h\rVert$ over its mean, says how much they differ.

# %%
rows = []
for letter, looks in seen.items():
    cv = looks[STEPS]["norm_cv"]  # (seeds, methods)
    calmer = "{:+.0f}% ± {:.0f}".format(*seed_interval(100 * (cv[:, 1] / cv[:, 0] - 1)))
    tau = seed_interval(against(letter, "response_disjoint")["BSR\nminus BT"])
    rows.append([letter, f"{cv[:, 0].mean():.2f}", calmer, "{:+.3f} ± {:.3f}".format(*tau)])
Markdown(tables.table(["cv of |h|", "BT", "BSR's change to that", "its tau minus BT's"], rows))

# %% [markdown]
# Under BSR norms calm in all three worlds, most where tau falls. *Calm norms are no proof of a
# better model.*

# %% [markdown]
# ## 11. Foretold on a language model's states
#
# Does the forecast hold on text (`data/runs/linear`)? The states are a pretrained model's, and stay
# as they are. A linear head is fitted exactly to 1,056 pairs. Groups have 16 pairs from here on.
# Three worlds:
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
figure.suptitle("Postscript: on rewritten answers BSR, spread and L2 at .1 lie near the forecast, "
                "on new sources short of it");

# %% [markdown]
# **What to see.** On rewritten answers each tick lies near its dot. On new sources all five ticks
# lie right of their dots. There the intervals hold both the tick and zero. (They are over training
# pairs and topics drawn anew.)
#
# BSR, spread and L2 gain nearly the same on rewritten answers: take them as *one* gain. It is weak
# evidence: of 330 differences twelve exclude zero, by chance 16 (`data/runs/linear/results.md`).

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
# before the runs for .06 or more. It was .027, undecided (Section 6).
#
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
# BSR's and spread's, in the plain world spread's.
#
# *With postscripts* spread lies above BT in every seed. BSR and level lie below, though BSR was
# foretold a gain. All three intervals hold zero. The failed control may explain a missing gain, but
# not BSR's cost on rewritten answers (Section 6).
#
# *In the plain world* spread lies above BT in all four seeds, against its forecast. These intervals
# take the prompts as fixed, those of notebook 06 do not.
#
# So *the rule's forecasts hold in part on fixed states. In training half of them miss.*

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
