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
# Notebook 03 took BSR's penalty (Eq. 25) apart. It pins the level of the rewards, and it shrinks
# the spread between pairs. Is a reward model better for it? The paper's Table 5 says yes, by up to
# .024 of tau on data unlike training's. On which data can that be, and which term does it?

# %% [markdown]
# After it you can
# - say, from what pairs and new answers differ in, where BSR helps and where it costs;
# - tell its two terms apart;
# - foretell which direction a penalty takes from a linear head.
#
# Words from before: *level*, *spread*, the pair mean $s$, the group size $G$ (notebook 03);
# *prompt-*, *response-* and *mutual-disjoint* (02, Section 5); *margin*, *tau* (01).

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

import numpy as np
import torch
from IPython.display import Markdown

from bsr_lite import losses, plots
from bsr_lite.course import checks_policy as checks
from bsr_lite.metrics import seed_interval
from bsr_lite.studies import quadratic, tables, worlds
from bsr_lite.studies.records import read_table

# %% [markdown]
# ## 1. One penalty, three worlds
#
# An answer to a prompt is forty numbers, $x = a + b$: $a$ says which prompt, $b$ which answer. The
# first ten are the *signal coordinates*. Gold depends on *one* direction of them, **gold's
# direction** or **the signal**. Their nine other directions carry no quality.
#
# The other thirty coordinates are **nuisance**. It may be like a topic: it tells prompts apart, and
# colours all answers to a prompt alike.

# %% [markdown]
# Labels are BT draws on gold. A network with one hidden layer turns $x$ into $h$; it sees 6,400
# pairs once. Its head learns at a hundredth of the network's rate, so that it hardly moves, as the
# paper's does (Fig. 1). We built three such worlds:

# %%
WORLDS = dict(zip("ABC", [list(worlds.WORLDS)[i] for i in (0, 2, 4)], strict=True))
TITLES = {"A": "A: prompts differ in nuisance", "B": "B: as A, with a mean on the signal",
          "C": "C: prompts differ in signal"}
rows = [[TITLES[letter], *(f"{s:g}, {n:g}" for s, n in (world.across, world.within, world.new)),
         world.level] for letter, world in ((a, worlds.WORLDS[b]) for a, b in WORLDS.items())]
Markdown(tables.table([
    "world (in the cells: standard deviation of a signal, of a nuisance coordinate)",
    "across prompts", "between answers of training's sources", "between answers of new sources",
    "mean of x along gold's direction"], rows))

# %% [markdown]
# In each, eight networks are trained with Bradley-Terry (BT), and eight with BSR at $\lambda =
# 10^{-2}$, ten times the paper's: the same start, pairs and order. Scored is tau on answers of
# **new sources** to training's prompts (*response-disjoint*).
#
# **Predict** from the table, for each world, the sign of BSR minus BT: +, 0 or -.

# %%
METHODS = ("bt", "bsr-1e-2", "spread-1e-2")
OBJECTIVES = {name: worlds.OBJECTIVES[name] for name in METHODS}
SEEDS = 8  # worlds of each kind: each has its own states, labels and network
NAMES = {name: f"{letter} ({name})" for letter, name in WORLDS.items()}  # in the record

# %%
seen = {letter: worlds.train(worlds.WORLDS[name], OBJECTIVES, SEEDS, looks=1)
        for letter, name in WORLDS.items()}
found = {letter: worlds.summarize(looks, list(METHODS)) for letter, looks in seen.items()}

# %%
rows = []
for name, world in found.items():
    bt, bsr = (world["objectives"][method] for method in ("bt", "bsr-1e-2"))
    change = "{:+.3f} ± {:.3f}".format(*bsr["difference"]["response_disjoint"])
    rows.append([TITLES[name], f"{bt['score']['response_disjoint']:.3f}", change])
Markdown(tables.table(["world", "tau of BT", "BSR minus BT, ± 95% over seeds"], rows))

# %% [markdown]
# The same penalty helps in one world and costs in two. Why?

# %% [markdown]
# ## 2. Two terms, and what stands against them
#
# A group's mean reward $\bar r$ is the mean of $G$ pair means $s$. So (notebook 03)
#
# $$E\bigl[\lambda\,G\,\bar r^{\,2}\bigr] = \lambda\,G\,\bigl(E[\bar r]^2 +
# \mathrm{Var}(\bar r)\bigr) = \lambda\,\bigl(G\,\mu^2 + \mathrm{Var}(s)\bigr), \qquad \mu =
# E[s].$$
#
# Now let the reward be linear, $r = W_p^\top h$. A pair's *center* is $c = (h_w + h_l)/2$. Over
# pairs it has a mean $\mu_c$, the *mean state*, and a covariance $\Sigma_c$. The two terms are
#
# $$\underbrace{\lambda\,G\,(W_p^\top \mu_c)^2}_{\text{level}} +
# \underbrace{\lambda\,W_p^\top \Sigma_c\,W_p}_{\text{spread}}.$$
#
# Each is a tax on weights. Spread taxes directions in which *pairs differ from each other*, level
# that of the mean state.

# %%
G, LAMBDA = 32, 1e-2
torch.manual_seed(0)
pairs = worlds.draw(worlds.WORLDS[WORLDS["B"]], 1)[0][0]  # (6400, 2, 40)
w = torch.randn(40) / 40**0.5
r = pairs @ w  # (6400, 2)
mean, covariance, _ = quadratic.moments(pairs.double().numpy())  # of the pairs' centers
expected = G * (w.numpy() @ mean) ** 2, w.numpy() @ covariance @ w.numpy()
drawn = [losses.bsr_penalty(*r[torch.randperm(len(r))].T, G).item() for _ in range(200)]
print(f"level {expected[0]:.2f} + spread {expected[1]:.2f} = {sum(expected):.2f}; "
      f"mean penalty of 200 ways to draw groups: {np.mean(drawn):.2f}")
assert abs(np.mean(drawn) / sum(expected) - 1) < 0.02, "the split must hold on average"

# %% [markdown]
# What stands against the tax? Evidence. BT learns from the *difference* of a pair, $h_w - h_l$.
# How firmly it holds the weight along a direction $u$ is its *information* there:
#
# $$I_u = \overline{p\,(1-p)\,(u^\top h_w - u^\top h_l)^2} \approx
# \overline{p\,(1-p)}\;\,\overline{(u^\top h_w - u^\top h_l)^2}, \qquad p = \sigma(r_w - r_l).$$
#
# The rough form on the right needs only variances. Along gold it is too large: where
# two answers differ much, $p\,(1-p)$ is small. And $p$ is BT's: it moves when a penalty shrinks the
# weights.

# %% [markdown]
# How much of a weight is left? Suppose that information and tax mix no directions: nearly so in
# these worlds. Near BT's weight $w_0$ on $u$ the loss is about $\tfrac12 I_u (w - w_0)^2 +
# \lambda\,\mathrm{tax}_u\,w^2$. It is least at this share of $w_0$:
#
# $$\text{kept}_u = \frac{I_u}{I_u + 2\lambda\,\mathrm{tax}_u}, \qquad \mathrm{tax}_u = u^\top
# \Sigma_c\,u + G\,(u^\top \mu_c)^2.$$

# %% [markdown]
# That is for a *linear head on fixed states*. In our networks the map from $x$ to $h$ learns. So
# read $u$ as a direction of $x$, and its weight as the slope of the network's reward along it. That
# is a conjecture: Section 5 tests it, Section 6 shows where it breaks.

# %% [markdown]
# ## 3. Three questions
#
# Of a direction ask:
# 1. How much do *pairs* differ along it? That is the spread term's tax. How far does the mean state
#    lie along it? That is the level term's.
# 2. How much do the two *answers of a pair* differ along it? That is the evidence.
# 3. Does quality depend on it? Only on gold's direction; weight elsewhere is noise.
#
# Much tax and little evidence: the weight is taxed away. On the signal that is a cost. Elsewhere it
# is a gain, if new answers differ along it. Tau sees no common factor: what counts is whether
# signal or noise keeps the larger *share*.

# %% [markdown]
# *How much* can be gained depends on how large BT's noise is there. The more evidence, the less
# noise: its variance falls as $1/I_u$.

# %%
figure, axes = plots.panels(3, sharex=True, sharey=True)
for axis, letter in zip(axes, "ABC", strict=True):
    world = worlds.WORLDS[WORLDS[letter]]
    some, sets = worlds.draw(world, 1)
    pairs, ring = some[0, :40], {"fillstyle": "none", "markersize": 12, "zorder": 3}
    mid, new = pairs.mean(1, keepdim=True), sets["response_disjoint"][0, :1]
    for x, style, tint, look, name in (
            (pairs, "-", plots.COLORS["bt"], {"linewidth": 1}, "a pair's two answers"),
            (mid, ".", "#D55E00", {}, "the pair's center"), (mid[:1], "o", "black", ring, None),
            (new, "x", "black", {"markersize": 9, "mew": 2}, "new answers to the ringed prompt")):
        along = x @ worlds.gold_direction() / 2  # gold's weights are 2 in length
        axis.plot(along.T, x[..., -1].T, style, color=tint, **look)[0].set_label(name)
    if world.level:
        axis.annotate("", (world.level, 0), (0, 0), arrowprops={"arrowstyle": "-|>"})
        axis.annotate("mean state", (-0.3, 0), ha="right", va="center")
    axis.set_aspect("equal")
    plots.label(axis, "along gold's direction", "", TITLES[letter])
axes[0].set_ylabel("along a nuisance coordinate")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3,
              frameon=False)
figure.suptitle("Spread taxes where centers scatter, level along the mean; "
                "evidence lies where segments are long");

# %% [markdown]
# **What to see.** In A the centers scatter along the nuisance. No pair reaches far along it, but
# the new answers do. B is A, moved. In C the centers scatter along the signal, and pairs are short
# along both.

# %% [markdown]
# ## 4. What Bradley-Terry does alone
#
# First world A without any penalty. The paper says of BT that norms grow and disperse while the
# head stays (Fig. 1, 2). Below, cv is the standard deviation over the mean.
#
# **Predict** tau: does it end higher for new prompts or for new sources?

# %%
first, last = min(seen["A"]), max(seen["A"])
rows = []
for key, name in (("difference", "mean of |h_w - h_l|"), ("norm_cv", "cv of |h|"),
                  ("head", "norm of the head, |W_p|"), ("prompt_disjoint", "tau, new prompts"),
                  ("response_disjoint", "tau, new sources")):
    before, after = (seen["A"][step][key][:, 0] for step in (first, last))  # BT's, (seeds,)
    rows.append([name, f"{before.mean():.2f}", f"{after.mean():.2f}",
                 "{:+.3f} ± {:.3f}".format(*seed_interval(after - before))])
behind = (seen["A"][last]["response_disjoint"] - seen["A"][last]["prompt_disjoint"])[:, 0]
rows.append(["tau, new sources minus new prompts", "", "{:+.3f} ± {:.3f}".format(
    *seed_interval(behind)), ""])
Markdown(tables.table(["world A, BT alone", "before", "after", "change, ± 95% over seeds"], rows))

# %% [markdown]
# As in the paper, differences grow, norms disperse, and the head hardly moves. New sources end
# behind new prompts (Table 5).
#
# <details><summary>Answer: why?</summary>
#
# Tau compares answers to *one* prompt. Those of new sources differ along the nuisance, on which
# BT's weights are noise. Those to a new prompt hardly do.
# </details>

# %% [markdown]
# ## 5. Which term does it?
#
# BSR against its spread term alone (`losses.spread_penalty`) at the same $\lambda$: the difference
# is what the level term adds.
#
# **Predict** from Section 1's table, on new sources: where does the *spread* term help, where does
# it cost? Where does the *level* term cost? (Each pair has a prompt of its own: pairs differ as
# prompts do.)

# %%
BARS = "difference of tau, same seed\n(bar: mean, 95% over seeds)"
TERMS = {"bsr": "BSR - BT", "spread": "its spread term\nalone - BT",
         "level": "what level adds:\nBSR - spread"}

# %%
def paired(world, part, term):
    """Differences of tau, (seeds,): of BSR and spread to BT; of "level", BSR to spread."""
    scores = dict(zip(METHODS, seen[world][max(seen[world])][part].T, strict=True))  # (seeds,) each
    if term == "level":
        return scores["bsr-1e-2"] - scores["spread-1e-2"]
    return scores[f"{term}-1e-2"] - scores["bt"]

# %%
def draw_paired(axis, differences):
    """A dot a seed, and beside them the mean with its 95% interval. Grey lines join a seed's dots
    (not with "level", which is the rise of the line before it, turned round)."""
    axis.axhline(0, color="black", linewidth=0.8)
    by_seed = np.array([np.asarray(values) for values in differences.values()])  # (columns, seeds)
    joined = by_seed[:2] if "level" in differences else by_seed
    axis.plot(np.arange(len(joined)) + 0.12, joined, color="#CCCCCC", linewidth=0.7, zorder=0)
    for place, (method, values) in enumerate(zip(differences, by_seed, strict=True)):
        tint = plots.COLORS.get(method.split("-")[0], plots.COLORS["level"])
        axis.plot([place + 0.12] * len(values), values, ".", color=tint, alpha=0.6)
        axis.errorbar(place, *seed_interval(values), fmt="o", color=tint, capsize=3)
    axis.set_xticks(range(len(differences)), [TERMS[method] for method in differences])
    axis.set_xlim(-0.5, len(differences) - 0.5)

# %%
figure, axes = plots.panels(2, sharey=True)
for axis, (part, name) in zip(axes, (("response_disjoint", "new sources"),
                                     ("prompt_disjoint", "new prompts")), strict=True):
    draw_paired(axis, {term: paired("A", part, term) for term in TERMS})
    plots.label(axis, "", "" if axis is axes[1] else BARS, name)
figure.suptitle("World A: on new sources the spread term gains, level takes nearly a third back");

# %% [markdown]
# **What to see.** A dot is a seed, a grey line joins one seed's dots. On new prompts all three
# intervals hold zero.

# %%
figure, axes = plots.panels(2, sharey=True)
for axis, name in zip(axes, "BC", strict=True):
    draw_paired(axis, {term: paired(name, "response_disjoint", term) for term in TERMS})
    plots.label(axis, "", "" if axis is axes[1] else BARS, TITLES[name])
figure.suptitle("New sources: in B spread gains and level more than undoes it; in C spread costs");

# %% [markdown]
# <details><summary>Answer to the predictions</summary>
#
# *Spread* helps in A and B. It costs in C, where prompts differ along the signal. *Level* costs
# most in B, where the mean state lies on the signal. In A it takes back nearly a third of
# spread's gain, which the three questions do *not* say (Section 6). In C it is undecided.
# </details>
#
# Section 3's questions, answered with numbers:

# %%
rows, parts = [], ("gold's direction", "a nuisance coordinate")
for letter, world in ((a, worlds.WORLDS[b]) for a, b in WORLDS.items()):
    for direction, across, within, mean in zip(parts, world.across, world.within,
                                               (world.level, 0), strict=True):
        numbers = across**2 + within**2 / 2, G * mean**2, 2 * within**2
        rows.append([f"{letter}, {direction}", *(f"{x:.2f}" for x in numbers)])
Markdown(tables.table(["along", "pairs differ: variance of their centers", "level: G times the "
                       "mean's square", "answers of a pair: variance of their difference"], rows))

# %% [markdown]
# *Pairs differ far more than the two answers of a pair* along A's nuisance and along C's signal. In
# C the two answers differ alike along both, but the signal pays 24 times the tax.
#
# Does a *network* follow? Regress its rewards on $x$, over answers of new sources
# to new prompts. What share of BT's slopes along signal and nuisance does a penalty leave?

# %%
kept, gold = {}, worlds.gold_direction() / 2  # of BT's slopes: (seeds, methods) each
for letter, looks in seen.items():
    slopes = looks[max(looks)]["slopes"]  # (seeds, 40, methods)
    along = torch.einsum("sdm,d->sm", slopes, gold), slopes[:, worlds.SIGNAL:].norm(dim=1)
    kept[letter] = [slope / slope[:, :1] for slope in along]
print("B: of the signal BSR leaves {1:.2f}, spread {2:.2f}".format(*kept["B"][0].mean(0)))
print("B, BSR, signal minus nuisance: {:+.2f} ± {:.2f}".format(
    *seed_interval((kept["B"][0] - kept["B"][1])[:, 1])))

# %%
BESIDE = {"A spread": (-58, 8, -64, 2), "B spread": (-66, -18, -64, -10),  # left, right panel
          "B BSR": (-22, -16, 12, 5), "C spread": (8, -16, -64, -16), "A BSR": (-6, 8, 30, -4),
          "C BSR": (-6, 20, 28, 3)}
calm = {letter: looks[max(looks)]["norm_cv"] for letter, looks in seen.items()}  # (seeds, methods)

# %%
figure, axes = plots.panels(2)
for letter, (signal, nuisance) in kept.items():
    for i, name in enumerate(("BSR", "spread"), 1):
        tint, method = plots.COLORS[name.lower()], METHODS[i]
        (y, dy), (x, dx) = seed_interval(signal[:, i]), seed_interval(nuisance[:, i])
        tau, half = found[letter]["objectives"][method]["difference"]["response_disjoint"]
        cv, dc = seed_interval(100 * (calm[letter][:, i] / calm[letter][:, 0] - 1))
        axes[0].errorbar(x, y, dy, dx, fmt="o", capsize=2, color=tint)
        axes[1].errorbar(cv, tau, half, dc, fmt="o", capsize=2, color=tint)
        axes[0].annotate(f"{letter} {name}: {tau:+.3f}", (x, y), BESIDE[f"{letter} {name}"][:2],
                         color=tint, textcoords="offset points")
        axes[1].annotate(f"{letter} {name}", (cv, tau), BESIDE[f"{letter} {name}"][2:], color=tint,
                         textcoords="offset points")
axes[0].axline((0, 0), slope=1, color="black", linewidth=0.8)
axes[0].text(0.14, 0.09, "equal shares")
axes[0].set(xlim=(0, 1), ylim=(0, 1))
axes[1].set_xlim(-78, 6)
axes[1].plot(0, 0, "ko")
axes[1].annotate("BT", (0, 0), (-18, 5), textcoords="offset points")
axes[1].axhline(0, color="black", linewidth=0.8)
plots.label(axes[0], "nuisance: share of BT's slope kept", "signal: share kept",
            "numbers: tau minus BT's, new sources")
plots.label(axes[1], "change of the norms' cv (%)", "tau minus BT's, new sources",
            "norms calm in all six")
figure.suptitle("In these six tau gains above the line of equal shares, and loses below it");

# %% [markdown]
# **What to see.** In A more is kept of the signal, in C of the nuisance. In B the spread term does
# as in A; under BSR the signal keeps a little less than the nuisance. So the rule's direction
# carries over from a linear head to a network.
#
# Its sizes do not. In A BSR leaves about half of BT's slope along the nuisance, where the formula
# says a twentieth (Section 7). Nor does the distance from the line give tau's change: BSR in B lies
# near it, yet costs .105.

# %% [markdown]
# And *calm norms are no proof*: the cv of $\lVert h\rVert$ falls in all six, most where tau falls.

# %% [markdown]
# **The lesson's idea: the spread term taxes away what tells *pairs* apart but hardly the two
# *answers of a pair*. It helps if that is nuisance that new answers vary in. It costs if it is
# quality.** The level term adds a cost in A and B.
#
# *Twenty minutes end here.*

# %% [markdown]
# ## 6. Why does the level term cost?
#
# In A the mean of $x$ is zero: there is no level to pin. Still the term takes something back.
#
# In B there is a level to pin. But the network has a cheap way to pin it: the bias $b_2$ of its
# layer $h = W_2\tanh(W_1 x + b_1) + b_2$ moves all rewards alike.

# %% [markdown]
# Two suspects:
# - *Noise*. $\bar r$ is a mean of only 32 pairs: $G\,\bar r^{\,2}$ is right on average, but noisy.
# - *A slow bias*. In 200 steps the network may sooner find another way down, one that gives up
#   signal.
#
# So make two changes. Estimate the level from 256 pairs, its expectation unchanged. And let $b_2$
# learn ten times as fast.
#
# **Predict** what is left of *BSR minus its spread term* in A and in B. (In brackets from here on:
# a world's name in the record.)

# %%
CHANGES = {"as it is": {}, "level of 256 pairs": {"level_pairs": 256},
           "fast bias": {"bias_rate": 2e-2}, "both": {"level_pairs": 256, "bias_rate": 2e-2}}
cost = {}  # BSR minus its spread term, and BSR minus BT: (seeds,) each
for name in ("helps", "mean on the signal"):
    for label, change in CHANGES.items():
        world = dataclasses.replace(worlds.WORLDS[name], **change)
        last = worlds.train(world, OBJECTIVES, SEEDS, looks=1)[world.steps]["response_disjoint"]
        bt, bsr, spread = last.T
        cost[name, label] = bsr - spread, bsr - bt

# %%
figure, axes = plots.panels(2, sharey=True)
TERMS |= {label: label.replace(" of ", " of\n") for label in CHANGES}
for axis, name in zip(axes, ("helps", "mean on the signal"), strict=True):
    draw_paired(axis, {label: cost[name, label][0] for label in CHANGES})
    plots.label(axis, "", "" if axis is axes[1] else f"BSR minus its spread term:\n{BARS}",
                NAMES[name])
figure.suptitle("With 256 pairs for the level and a fast bias no cost of the level term is seen");

# %%
rows = [[NAMES[name], *("{:+.3f} ± {:.3f}".format(*seed_interval(cost[name, label][1]))
                        for label in ("as it is", "both"))]
        for name in ("helps", "mean on the signal")]
Markdown(tables.table(["BSR minus BT, ± 95% over seeds", "as it is", "both changes"], rows))

# %% [markdown]
# **What to see.** In B the quieter level takes away a third of the cost, the fast bias more. With
# both changes BSR gains there, too. So for a network Section 2's level tax is no law: a bias can
# pin the level instead.
#
# In A no cost is decided with 256 pairs. But these are also more data: here the two cannot be told
# apart.

# %% [markdown]
# **More worlds, from the record**: 32 seeds (last two columns 16), and more penalties.
#
# - *Helps, RMSNorm* is A with $h$ normalized as in a language model.
# - *Neutral* has all directions alike.
# - *64 epochs* go over 300 pairs drawn as in A.
# - *Centering* and *L2* on rewards (notebook 03) weigh level and spread alike. BSR weighs level $G$
#   times as much.
#
# **Predict** for *neutral* and for *64 epochs* the sign of spread minus BT.

# %%
RUNS = Path("runs" if PROFILE == "full" else "data/runs")
if PROFILE == "full":  # trains what "fast" reads; finished runs are read back
    from bsr_lite.studies.linear import run_linear
    from bsr_lite.studies.reward_models import run_study
    worlds.run_worlds(RUNS / "worlds")
    run_linear(Path("bsr_lite/configs/linear.yaml"))
    for study in ("study_terms", "study_postscript"):
        run_study(Path(f"bsr_lite/configs/{study}.yaml"))
text = (RUNS / "worlds/results.md").read_text().split("\n\nAll sets")[0]
for name, shown in NAMES.items():
    text = text.replace(f"| {name} |", f"| {shown} |")
Markdown(text)

# %% [markdown]
# In A, B and C BSR keeps its sign at the paper's $10^{-3}$. The gain is *not BSR's own*: in A
# centering gains as much as spread.
#
# In *neutral* every penalty costs, though all directions are alike: the three questions foretell no
# cost. The cause is open.
#
# **64 epochs break the rule.** It foretells a gain. Yet the spread term *costs*, and beside it the
# level term *pays*, with clean labels as well. The cause is open.

# %% [markdown]
# *Level alone* is no good control for the level term inside BSR: in A it costs .101 alone, but .016
# beside the spread term.

# %% [markdown]
# ## 7. Can it be foretold?
#
# For a linear head Section 2's formula needs only variances and BT's $p$. Here $p$ comes from
# a fit to 2,000 pairs:

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
# the signal before the nuisance? Beside them stand exact fits: BT plus the penalty's expectation.

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
# **What to see.** The order is foretold. The sizes are foretold less well: A's signal at .1 lies
# well below its line.
#
# In B both fade, the signal sooner. Section 6's network has a bias. This head has none: it can
# lower the level only by giving up the signal.

# %% [markdown]
# ## 8. Foretold on a language model's states
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
# 1. Regress *gold* on the states. This gives a direction.
# 2. Shrink it by Section 2's formula.
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
#
# In the plain world, at .1, small losses are foretold and none is decided.
# </details>

# %% [markdown]
# *Where the forecast fails* (same record, rewritten answers). BT's *own* tau is foretold too high:
# .207, where the fit has .128. With the closing phrase it is .416 against .167. There five of 15
# forecasts of differences miss, too. So what agrees with postscripts is a *difference* of two
# scores, in a world chosen for it.

# %% [markdown]
# ## 9. And a language model that trains?
#
# LoRA on ten layers, 66 steps. Tau is averaged over sets:
#
# | world | sets | chosen | record |
# |---|---|---|---|
# | postscript | prompt-shifted, response-, mutual-disjoint | before the runs | `study_postscript` |
# | plain | all five | after them | `study_terms` |
#
# Spread alone has ten times BSR's $\lambda$. So what the level term adds cannot be said.
#
# First the control. A penalty can gain back only what rewriting costs BT. We asked before the runs
# that it cost .06 or more.

# %%
NEW = ("prompt_shifted", "response_disjoint", "mutual_disjoint")
SETS = {"study_postscript": NEW, "study_terms": ("prompt_disjoint", "response_disjoint",
        "mutual_disjoint", "dev_prompt_disjoint", "dev_mutual_disjoint")}
studies = {name: read_table(RUNS / name) for name in SETS}
bt = studies["study_postscript"]["bt"]
rows = []
for place, part in (("test", ""), ("dev", "dev_")):
    lost = np.subtract(*(bt[f"{part}prompt_{kind}"]["seeds"] for kind in ("disjoint", "shifted")))
    rows.append([place, "{:.3f} ± {:.3f}".format(*seed_interval(lost)),
                 ", ".join(f"{d:.3f}" for d in lost)])
Markdown(tables.table(["what rewriting costs BT's tau", "± 95% over seeds", "by seed"], rows))

# %% [markdown]
# *The positive control failed* on the test set: rewriting costs .027, not .06, and the interval
# holds zero. On dev it costs more, but there the postscript was chosen.
#
# **Predict** from Section 8's figure: which lies above BT with postscripts: level 1e-2 alone, BSR
# 1e-2, spread 1e-1 alone?

# %%
THREE = {"level-1e-2": "level 1e-2\nalone", "bsr-1e-2": "BSR 1e-2",
         "spread-1e-1": "spread 1e-1\nalone"}
TERMS |= THREE


def averaged(name, method):
    """tau minus BT's of the same seed, averaged over the sets.  Shapes: -> (seeds,)."""
    return np.mean([np.subtract(studies[name][method][part]["seeds"],
                                studies[name]["bt"][part]["seeds"]) for part in SETS[name]], 0)

# %%
def foretold(name, method):
    """Section 8's forecast for that difference, averaged over the same sets."""
    kind, size = method.split("-", 1)
    world = linear["postscript" if name == "study_postscript" else "plain"]
    return np.mean([world[f"{kind}-{float(size):g}"][part]["predicted"] for part in SETS[name]])

# %%
figure, axes = plots.panels(2, sharey=True)
for axis, name, title in zip(axes, SETS, ("with postscripts, 3 seeds", "plain world, 4 seeds"),
                             strict=True):
    draw_paired(axis, {method: averaged(name, method) for method in THREE})
    for place, method in enumerate(THREE):
        axis.plot(place, foretold(name, method), "_", color="black", markersize=26,
                  markeredgewidth=2)
    plots.label(axis, "", "" if axis is axes[1] else f"tau minus BT's:\n{BARS}", title)
    axis.containers[0][0].set_markerfacecolor("white")
    axis.lines[0].set(color="grey", linestyle=":")  # zero: two forecasts lie on it
axes[0].text(1, 0.052, "foretold", ha="center")
axes[0].text(0, 0.04, "hollow: alone, not\nwhat level adds", ha="center")
figure.suptitle("Three of six forecasts (black) miss; "
                "of six averages only spread's in the plain world excludes zero");

# %% [markdown]
# **What to see.** A forecast misses if it lies outside the interval. Three do: with postscripts
# BSR's and spread's, in the plain world spread's.
#
# *With postscripts* spread lies above BT in every seed. BSR and level lie below, though BSR was
# foretold a gain. Yet all three intervals hold zero: no surprise after a failed control.
#
# *In the plain world* spread lies above BT in all four seeds, against its forecast.

# %% [markdown]
# So far tau was averaged over sets, and the intervals were over seeds, with these prompts fixed.
# Notebook 06, Section 5, takes each set by itself, in all studies of three seeds or more. There
# prompts count as drawn, too, mostly in clusters by topic. So verdicts can differ: 18 of 160
# intervals exclude zero, 17 of them as costs.

# %% [markdown]
# ## Exercises
#
# A fold holds the first hint, a wrong answer's checker the second. Solutions: `solutions/`.

# %% [markdown]
# **1.** Let $\lambda$ grow until little is left of any weight. Which direction survives? Along one
# direction prompts have the standard deviation `across`, answers to a prompt have `within`, and the
# mean of $x$ is `mean`. Groups have $G$ pairs. From two such triples return the limit of
# the formula's $\text{kept}_u$ (rough information) along the first over that along the second.
#
# On A, B and C, signal over nuisance, it gives about 301, .78 and .04. (The signal's
# mean: 0, 3, 0.)
#
# <details><summary>Hint</summary>
#
# Which term in the denominator of $\text{kept}_u$ matters when $\lambda$ is huge? A center averages
# two answers.
# </details>

# %%
def survival_ratio(first, second, group):
    return None


checks.check_survival_ratio(survival_ratio);

# %% [markdown]
# **2.** Let pair means be normal with mean zero. Then $G\,\bar r^{\,2}$ of one group, and the
# sample variance of its $G$ pair means, both estimate $\mathrm{Var}(s)$. By which factor is the
# standard deviation of the first estimate larger?
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
# **3.** *Judge a record.* Someone reads the last figure: "BSR ends as low as its level term alone.
# So the spread part of BSR does nothing." May that stand? And "level alone is worse than spread
# alone"?
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

# %% [markdown]
# **4.** *Take the gain away.* In A (*helps*) BSR and spread gain. Change **one** of its standard
# deviations (Section 1's table) so that less is gained. Find three different ones. Which of them
# leaves spread a gain (`across`: try .5)? Forecast each in the cell, then run it: ten seconds or
# so, no checker.
#
# <details><summary>Hint</summary>
#
# A gain needs three things (Section 3, before the figure). Which of the nuisance's numbers in the
# table stands for each? Is all tax gone where its `across` is .5?
# </details>

# %%
def take_away(world):
    return None  # dataclasses.replace(world, ...)


forecast = ""  # spread minus BT, by you: "+", "0" or "-"
helps = worlds.WORLDS["helps"]
mine = take_away(helps)
if mine is not None:
    changed = sum(a != b for part in ("across", "within", "new")
                  for a, b in zip(getattr(mine, part), getattr(helps, part), strict=True))
    assert changed == 1, "change one number, so that the answer has one cause"
    end = worlds.train(mine, OBJECTIVES, SEEDS, looks=1)[mine.steps]["response_disjoint"]
    bt, *others = end.T
    print("forecast of the spread term minus BT:", forecast or "none: write one down first")
    for name, scores in zip(("BSR", "its spread term"), others, strict=True):
        print(name, "minus BT: {:+.3f} ± {:.3f}".format(*seed_interval(scores - bt)))

# %% [markdown]
# ## Check yourself
#
# 1. BT sees only the difference of a pair. Why may a tax on pairs' *centers* change which new
#   answer wins?
# 2. A bias of style tells the better from the worse answer of most training pairs, and means
#    nothing elsewhere. Why does no BSR cure it?
# 3. What would happen in C (*hurts*) if training's sources differed more along the signal?
# 4. Why does doubling $G$, the batch being one group, not make the level term quieter? What would?
# 5. BSR calms the norms. Why is that no evidence of a better model?

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1. It taxes weights. One that pairs' differences hardly see costs BT nothing to give up, and
#    decides where new answers differ along it.
# 2. It lies in the differences: evidence is on its side, and the tax is on centers.
# 3. From .5 to 1: four times the squared differences, less what $p(1-p)$ loses. The tax hardly
#    grows (9.1 to 9.5). More signal is kept.
# 4. $G\,\bar r^2$ is one squared number at every $G$; its weight grows with $G$. Quieter: the level
#    from more pairs at the old weight (Section 6).
# 5. In C norms calm as well, and signal is what shrank.
# </details>

# %% [markdown]
# ## What to watch, what to vary
#
# | In your run, watch | If the whole interval is below zero |
# |---|---|
# | spread alone minus BT, new sources | leave it out |
# | BSR minus spread alone, same $\lambda$ | level costs: try spread alone |
#
# Vary what your pairs differ in. A smaller $\lambda$ softens costs and gain (Section 6's record).

# %% [markdown]
# ## What you know now
#
# **To repeat: BSR's spread term taxes away what tells *pairs* apart but hardly the two *answers of
# a pair*. It helps if that is nuisance that new answers vary in. It costs if it is quality.**
#
# The level term cost wherever that was decided in one pass, most where the mean lies on quality.
# With a quieter level and a fast bias no cost was decided.

# %% [markdown]
# - In A, B and C, built for it, in one pass over fresh pairs, the rule gives the signs of BSR and
#   of spread. It explains neither *neutral*'s cost nor level's in A, and 64 epochs break it.
# - The formula names what shrinks first in a linear head. It did not foretell a language model in
#   training. There most is undecided. What is decided set by set is cost, but for one gain (06,
#   Section 5).

# %% [markdown]
# **To do: before you add a penalty, ask what your *pairs* differ in, and what the two *answers of a
# pair* differ in. Then score it on answers of new sources, with the spread term alone beside it.**

# %% [markdown]
# Next: **05 · How does an 8B reward model fit on one small GPU?**
