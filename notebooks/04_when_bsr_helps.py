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
# Notebook 03 took BSR's penalty (Eq. 25) apart: it pins the level of the rewards, and it shrinks
# the spread between pairs. Is a reward model better for it? The paper's Table 5 says yes, by up to
# .024 of tau on data unlike training's. This lesson asks on which data that can be, and which of
# the two terms does it.

# %% [markdown]
# After it you can
# - say from how prompts, known answers and new answers vary where BSR helps and where it costs;
# - tell its two terms apart, by training with either alone;
# - foretell what a penalty does to a linear head before the head is fitted, and judge a forecast;
# - read runs of a language model in which the same question stays open.
#
# Words from before: *level*, *spread*, the pair mean $s$, the group size $G$ (notebook 03);
# *in-domain*, *prompt-*, *response-* and *mutual-disjoint* (02, Section 4); *margin*, *tau* (01).

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
from bsr_lite.studies import figures, quadratic, tables, worlds
from bsr_lite.studies.records import read_table

# %% [markdown]
# ## 1. One penalty, three worlds
#
# Three small worlds, described in Section 3. In each of them eight networks are trained with
# Bradley-Terry (BT), and eight with BSR at $\lambda = 10^{-2}$: the same start, the same pairs,
# the same order. What is scored is tau on answers of **new sources** to training's prompts
# (*response-disjoint*). (The other two objectives are for later.)
#
# **Predict**: will the sign of BSR minus BT be the same in all three?

# %%
WORLDS = ("helps", "mean on the signal", "hurts")
METHODS = ("bt", "bsr-1e-2", "level-1e-2", "spread-1e-2")
OBJECTIVES = {name: worlds.OBJECTIVES[name] for name in METHODS}
SEEDS = 8  # worlds of each kind: each has its own states, labels and network
seen = {name: worlds.train(worlds.WORLDS[name], OBJECTIVES, SEEDS, looks=20) for name in WORLDS}
found = {name: worlds.summarize(looks, list(METHODS)) for name, looks in seen.items()}

# %%
rows = []
for name, world in found.items():
    bt, bsr = (world["objectives"][method] for method in ("bt", "bsr-1e-2"))
    change = "{:+.3f} ± {:.3f}".format(*bsr["difference"]["response_disjoint"])
    rows.append([name, f"{bt['score']['response_disjoint']:.3f}", change])
Markdown(tables.table(["world", "tau of BT", "BSR minus BT, ± 95% over seeds"], rows))

# %% [markdown]
# The same penalty helps in one world and costs in two. Why?

# %% [markdown]
# ## 2. Two terms, and what stands against them
#
# A group's mean reward $\bar r$ is the mean of $G$ pair means $s$. So (notebook 03, Section 2)
#
# $$E\bigl[\lambda\,G\,\bar r^{\,2}\bigr] = \lambda\,G\,\bigl(E[\bar r]^2 +
# \mathrm{Var}(\bar r)\bigr) = \lambda\,\bigl(G\,\mu^2 + \mathrm{Var}(s)\bigr).$$
#
# Now let the reward be linear, $r = w^\top h$. A pair's center is $c = (h_w + h_l)/2$; over
# pairs it has a mean $\mu_c$, the *mean state*, and a covariance $\Sigma_c$. Then the terms are
#
# $$\underbrace{\lambda\,G\,(w^\top \mu_c)^2}_{\text{level}} +
# \underbrace{\lambda\,w^\top \Sigma_c\,w}_{\text{spread}}.$$
#
# Both are a ridge (a squared penalty on weights), a tax on $w$. It is low along some directions and
# high along others: along those in which *pairs differ from each other*, and along the mean state.

# %%
G, LAMBDA = 32, 1e-2
torch.manual_seed(0)
pairs = worlds.draw(worlds.WORLDS["mean on the signal"], 1)[0][0]  # (6400, 2, 40)
w = torch.randn(40) / 40**0.5
r = pairs @ w  # (6400, 2)
whole = losses.bsr_penalty(r[:, 0], r[:, 1], G)
parts = [term(r[:, 0], r[:, 1], G) for term in (losses.level_penalty, losses.spread_penalty)]
torch.testing.assert_close(whole, sum(parts), msg="BSR must be its level and its spread term")

# %%
mean, covariance, _ = quadratic.moments(pairs.double().numpy())  # of the pairs' centers
expected = G * (w.numpy() @ mean) ** 2, w.numpy() @ covariance @ w.numpy()
drawn = []
for _ in range(200):  # groups drawn anew
    order = torch.randperm(len(r))
    drawn.append(losses.bsr_penalty(r[order, 0], r[order, 1], G).item())
print(f"level {expected[0]:.2f} + spread {expected[1]:.2f} = {sum(expected):.2f}; "
      f"mean penalty of 200 ways to draw groups: {np.mean(drawn):.2f}")
assert abs(np.mean(drawn) / sum(expected) - 1) < 0.02, "the split must hold on average"

# %% [markdown]
# What stands against the tax? Evidence. BT learns from the *difference* of a pair, $h_w - h_l$.
# Along a direction $u$ its information is
#
# $$I_u = \overline{p\,(1-p)}\;\,\overline{(h_{w,u} - h_{l,u})^2}, \qquad p = \sigma(r_w - r_l),$$
#
# large where the two answers of a pair differ. One step of Newton's method from BT's own weights
# leaves a penalized head this share of its weight on $u$:
#
# $$\text{kept}_u = \frac{I_u}{I_u + 2\lambda\,(\Sigma_{c,u} + G\,\mu_{c,u}^2)}.$$
#
# (With all directions together it is $(J + 2Q)^{-1} J\,w_{BT}$: $J$ is the matrix of BT's
# information, and $w^\top Q\,w$ the whole penalty, $\lambda$ included.)

# %% [markdown]
# So ask three questions of a direction.
# 1. How much do *pairs* differ along it (the spread term's tax), and how far does the mean state
#    lie along it (the level term's)?
# 2. How much do the two *answers of a pair* differ along it? That is the evidence.
# 3. Does quality depend on it? If so it is **signal**, else it is **nuisance**.
#
# A nuisance with much tax and little evidence is taxed away. BT's weight on it was noise. That
# weight did no harm where answers hardly differ along it, and does harm where new sources' answers
# do. A signal with much tax and little evidence is taxed away as well, and that is a loss.

# %% [markdown]
# ## 3. The worlds
#
# An answer to a prompt is forty numbers, $x = a + b$: $a$ says which prompt, $b$ which answer. Gold
# is linear in the first ten, the signal; the other thirty are nuisance. Labels are BT draws on
# gold. A network with one hidden layer turns $x$ into $h$; it sees 6,400 pairs once. Its head
# learns at a hundredth of the network's rate, so that it hardly moves, as the paper's does (Fig.
# 1). (All of this is ours: `bsr_lite/studies/worlds.py`. The linear heads of Section 7 have $h =
# x$.)

# %%
rows = [[name, *(f"{s:g}, {n:g}" for s, n in (world.across, world.within, world.new)), world.level]
        for name, world in ((name, worlds.WORLDS[name]) for name in WORLDS)]
Markdown(tables.table([
    "standard deviations: signal, nuisance", "across prompts", "between answers of training's "
    "sources", "between answers of new sources", "mean of x along the signal"], rows))

# %% [markdown]
# **Predict**, with the three questions, before you read on. In which world does the *level* term
# cost? In which does the *spread* term help, in which does it cost?
#
# ## 4. What Bradley-Terry does alone
#
# First the world *helps* without any penalty. The paper says of BT that the norms of $h_w - h_l$
# grow and disperse while the head stays (Fig. 1, 2).
#
# **Predict**: which curve of tau stays lower, that of new prompts or that of new sources?

# %%
helps, first, last = found["helps"], min(seen["helps"]), max(seen["helps"])
for key, name in (("difference", "mean |h_w - h_l|"), ("norm_cv", "cv of |h|"), ("head", "|w|")):
    (before, _), (after, _) = helps["course"][key][0], helps["course"][key][-1]
    change = seed_interval(seen["helps"][last][key][:, 0] - seen["helps"][first][key][:, 0])
    print(f"{name:17s} {before:.2f} -> {after:.2f}, change " + "{:+.3f} ± {:.3f}".format(*change))

# %%
figure, (left, right) = plots.panels(2)
for step, tint, name in ((first, "#BBBBBB", "before"), (last, plots.COLORS["bt"], "after")):
    norms = seen["helps"][step]["differences"].flatten()
    left.hist(norms, np.linspace(0, 18, 61), color=tint, alpha=0.7, density=True, label=name)
for part, name in (("prompt_disjoint", "new prompts"), ("response_disjoint", "new sources")):
    mean, half = np.array(helps["course"][part]).T
    right.plot(helps["step"], mean, color=plots.SCENARIO_COLORS[part], label=name)
    right.fill_between(helps["step"], mean - half, mean + half, alpha=0.2, linewidth=0,
                       color=plots.SCENARIO_COLORS[part])
plots.label(left, "$|h_w - h_l|$ of a pair", "density", "norms of differences")
plots.label(right, "step of BT", "Kendall's tau, 95% over seeds", "new prompts and new sources")
left.legend(), right.legend(loc="lower right")
figure.suptitle("Under Bradley-Terry alone norms disperse, and new sources fall behind");

# %% [markdown]
# **What to see.** The norms of the differences grow and spread out to the right; so do the lengths
# of the states (cv: standard deviation over mean). The head's length stays because we made it slow;
# the growth and the spread of the norms are found.
#
# <details><summary>Answer</summary>
#
# New sources stay lower: their answers differ along the nuisance, on which BT's weights are noise.
# New prompts differ along it, too, but the answers to *one* prompt do not, and tau compares those.
# </details>

# %% [markdown]
# ## 5. Which term does it?
#
# The same networks, with BSR and with its spread term alone (`losses.spread_penalty`), at the same
# $\lambda$. What is left between the two is what the level term adds.
#
# **Predict**, in *helps*: is spread alone above or below BSR on new sources? Does either gain on
# new prompts?

# %%
TERMS = {"bsr": "BSR", "spread": "its spread term\nalone",
         "level": "what level adds:\nBSR - spread"}


def paired(world, part, term):
    """Differences of tau, seed by seed: to BT, of the level term BSR's to the spread term alone.
    Shapes: -> (seeds,)."""
    scores = dict(zip(METHODS, seen[world][max(seen[world])][part].T, strict=True))  # (seeds,) each
    if term == "level":
        return scores["bsr-1e-2"] - scores["spread-1e-2"]
    return scores[f"{term}-1e-2"] - scores["bt"]


def draw_paired(axis, differences):
    """A dot a seed, and beside them the mean with its 95% interval."""
    axis.axhline(0, color="black", linewidth=0.8)
    for place, (method, values) in enumerate(differences.items()):
        tint, (mean, half) = plots.color(method, place), seed_interval(values)
        axis.plot([place + 0.12] * len(values), values, ".", color=tint, alpha=0.6)
        axis.errorbar(place, mean, half, fmt="o", color=tint, capsize=3)
    axis.set_xticks(range(len(differences)), [TERMS[method] for method in differences])
    axis.set_xlim(-0.5, len(differences) - 0.5)

# %%
figure, axes = plots.panels(2, sharey=True)
for axis, (part, name) in zip(axes, (("response_disjoint", "new sources"),
                                     ("prompt_disjoint", "new prompts")), strict=True):
    draw_paired(axis, {term: paired("helps", part, term) for term in TERMS})
    plots.label(axis, "", "difference of tau, same seed", name)
figure.suptitle("In helps the spread term gains on new sources; level takes a little back");

# %% [markdown]
# **What to see.** A dot is a seed: the same states and labels, the same start. On new sources BSR
# and its spread term gain, and the level term takes a part of it back. On new prompts the intervals
# of BSR and of spread hold zero. In the paper's Table 5, which has no intervals, one model of four
# looks like that (Llama-3.2-1B: +.004 on new prompts, +.013 and +.014 on new sources); two gain as
# much on new prompts, and one hardly changes.

# %%
figure, axes = plots.panels(2, sharey=True)
for axis, name in zip(axes, WORLDS[1:], strict=True):
    draw_paired(axis, {term: paired(name, "response_disjoint", term) for term in TERMS})
    plots.label(axis, "", "difference of tau, same seed", name)
figure.suptitle("New sources: level costs where the mean state lies on the signal, spread where "
                "prompts differ along it");

# %% [markdown]
# <details><summary>Answer to the predictions of Sections 3 and 5</summary>
#
# *Spread*: helps in *helps* and where the mean state lies on the signal (pairs differ along the
# nuisance in both). It costs in *hurts*, where prompts differ along the signal. *Level*: takes back
# a little in *helps*, and costs most where the mean state lies on the signal. BSR's penalty is the
# sum of both; their effects on tau need not add up.
# </details>

# %%
rows = [[f"{name}: {method}", "{:+.3f} ± {:.3f}".format(*row["difference"]["response_disjoint"]),
         f"{row['norm_cv']:.2f}", f"{row['level']:+.1f}", f"{row['spread']:.1f}"]
        for name, world in found.items() for method, row in world["objectives"].items()]
Markdown(tables.table(["world: objective", "new sources (tau minus BT's)", "cv of |h|", "mean of s",
                       "variance of s"], rows))

# %% [markdown]
# *Calm norms are no proof.* In *hurts* BSR and the spread term bring the cv of $\lVert h\rVert$
# down as they do in *helps*, and tau with it.

# %% [markdown]
# ## 6. Why does the level term cost?
#
# In *helps* the mean state is zero. There is no level to pin, and still the term takes something
# back. And where there is a level, a network has a cheap way down: the bias of its last layer.

# %% [markdown]
# Two suspects, then.
# - *Noise*. A batch shows $G\,\bar r^{\,2}$ with $\bar r$ a mean of 32 pairs: the right
#   expectation, much noise.
# - *A slow bias*. In 200 steps the backbone may find another way to a lower level sooner, one that
#   gives up signal.
#
# Take each away: estimate $\bar r^{\,2}$ from 256 pairs (its excess of variance corrected for), and
# let that bias learn ten times as fast.
#
# **Predict** what is left of *BSR minus its spread term* in the two worlds.

# %%
PAIR = {name: OBJECTIVES[name] for name in ("bt", "bsr-1e-2", "spread-1e-2")}
CHANGES = {"as it is": {}, "level of 256 pairs": {"level_pairs": 256},
           "fast bias": {"bias_rate": 2e-2}, "both": {"level_pairs": 256, "bias_rate": 2e-2}}
cost = {}  # BSR minus its spread term, and BSR minus BT: (seeds,) each
for name in WORLDS[:2]:
    for label, change in CHANGES.items():
        world = dataclasses.replace(worlds.WORLDS[name], **change)
        last = worlds.train(world, PAIR, SEEDS, looks=1)[world.steps]["response_disjoint"]
        bt, bsr, spread = last.T
        cost[name, label] = bsr - spread, bsr - bt

# %%
figure, axes = plots.panels(2, sharey=True)
TERMS |= {label: label.replace(" of ", " of\n") for label in CHANGES}
for axis, name in zip(axes, WORLDS[:2], strict=True):
    draw_paired(axis, {label: cost[name, label][0] for label in CHANGES})
    plots.label(axis, "", "tau, BSR minus its spread term", name)
figure.suptitle("The level term's cost is noise and a slow bias: without both nothing is left");

# %%
rows = [[name, label, *("{:+.3f} ± {:.3f}".format(*seed_interval(x)) for x in both)]
        for (name, label), both in cost.items()]
Markdown(tables.table(["world", "", "BSR minus spread", "BSR minus BT"], rows))

# %%
mean, half = seed_interval(cost["mean on the signal", "both"][0])
assert abs(mean) < 0.02 < abs(seed_interval(cost["mean on the signal", "as it is"][0])[0]), (
    "with a quiet level and a fast bias BSR must be its spread term")

# %% [markdown]
# **What to see.** In *helps* the cost is noise alone. With the mean on the signal noise is about a
# third, the slow bias the rest. With both gone BSR *is* its spread term, and it gains in both
# worlds.
#
# A reward model of the paper's form has no such bias (Eq. 2: $r = W_p^\top h$), and its batch is
# what fits. Then the spread term alone is the cheaper way to the same gain. (*Level alone*, in the
# tables, is no good control: it has the noise without the spread term that holds it down.)

# %% [markdown]
# The record holds 32 seeds (16 in the last two columns), more worlds and more penalties (`python -m
# bsr_lite.studies.worlds`, a minute). *Neutral* has all directions alike. *Centering* and plain
# *L2* on rewards weigh level and spread 1 : 1, where BSR weighs them $G$ : 1.

# %%
RUNS = Path("runs" if PROFILE == "full" else "data/runs")
if PROFILE == "full":  # trains what "fast" reads; finished runs are read back
    from bsr_lite.studies.linear import run_linear
    from bsr_lite.studies.reward_models import run_study
    worlds.run_worlds(RUNS / "worlds")
    run_linear(Path("bsr_lite/configs/linear.yaml"))
    for study in ("study_terms", "study_postscript"):
        run_study(Path(f"bsr_lite/configs/{study}.yaml"))
lines = (RUNS / "worlds/results.md").read_text().split("\n\nAll sets")[0].splitlines()
Markdown("\n".join(line for line in lines if "-1e-3" not in line and "level-1e-2" not in line))

# %% [markdown]
# Every sign that is decided is that of the live run. In *neutral* every penalty costs a little: a
# tax needs something worth taxing. The gain is *not BSR's own*: in *helps* centering gains what the
# spread term does.
#
# **The last two columns break the rule.** They train 64 times on 300 pairs. There the spread term
# alone costs and BSR does not, so that beside spread the level term *pays*: +.091 ± .017 and +.100
# ± .014. We have no theory for pairs that are learned by heart.

# %% [markdown]
# ## 7. Can it be foretold?
#
# The formula of Section 2 needs no penalized training: variances of the world, and BT's $p$. Write
# it for *helps* and BSR, then compare with the library, and with exact fits of a *linear* head to
# 2,000 pairs (Newton's method).

# %%
world = worlds.WORLDS["helps"]
pairs = worlds.draw(dataclasses.replace(world, pairs=2000), 1)[0][0].double().numpy()
delta = pairs[:, 0] - pairs[:, 1]  # (2000, 40)
w_bt = quadratic.fit(delta, 1e-9 * np.eye(40))
p = 1 / (1 + np.exp(-delta @ w_bt))
kept = []
for across, within in zip(world.across, world.within, strict=True):  # signal, then nuisance
    information = (p * (1 - p)).mean() * 2 * within**2
    tax = across**2 + within**2 / 2  # the mean of two answers has half their variance
    kept.append(information / (information + 2 * LAMBDA * tax))
print(f"of BT's weights BSR 1e-2 keeps {kept[0]:.2f} on the signal, {kept[1]:.2f} on the nuisance")

# %%
fits = {name: worlds.shrink_factors(worlds.WORLDS[name], worlds.FITTED, seed=0) for name in WORLDS}
library = [told for method, _, told, _ in fits["helps"] if method == "bsr-1e-2"]
torch.testing.assert_close(torch.tensor(kept), torch.tensor(library), rtol=1e-5, atol=0.0)

# %% [markdown]
# **Predict** the curves over $\lambda$ from $10^{-4}$ to 1: in which world does the signal fall
# before the nuisance? In which do BSR and its spread term alone part?

# %%
figure = figures.theory_figure(fits)
figure.suptitle("BSR leaves the signal in helps, the nuisance in hurts, neither with the mean on "
                "the signal (dots fitted, full: BSR)");

# %%
rows = []
for name, weights in fits.items():
    error = [abs(np.log(fitted / told)) for method, _, told, fitted in weights
             if max(told, fitted) > 0.1 and method != "bt"]
    rows.append([name, len(error), f"{np.exp(max(error)):.2f}"])
Markdown(tables.table(["world", "weights of which more than a tenth is left",
                       "fitted and foretold differ at most by the factor"], rows))

# %% [markdown]
# **What to see.** *helps*: the nuisance is taxed away long before the signal, and there is a wide
# range of $\lambda$ between the two curves. *hurts*: the other way round. In these two the mean
# state is zero, so BSR and its spread term are one curve.
#
# Where the mean state lies on the signal they part. These heads have no bias at all, so BSR takes
# the signal first (at $10^{-3}$ a quarter of it is left, .69 of the nuisance); the spread term
# alone does not. The forecast is worst there, by a factor of four: it takes $p(1-p)$ from BT, and
# with the signal gone the head is less sure.

# %% [markdown]
# ## 8. Foretold on a language model's states
#
# The same on text (`data/runs/linear`): hidden states of the *untrained* model, a linear head
# fitted exactly to 1,056 pairs, in three worlds of text. (Every fit, BT's too, has a small ridge,
# chosen on dev.)
# - *Plain*: the pocket world.
# - *Postscript*: every answer carries a line about something else. In training it is the same for
#   all answers to a prompt, from new sources each has its own.
# - *Closing phrase*: a habit that goes with quality in training alone.
#
# The set *prompt-shifted* has the answers of prompt-disjoint, rewritten as new sources' are.

# %% [markdown]
# The formula (`linear.predicted`) is given the states, gold's direction read from in-domain
# answers, and each set's own differences; it does not see a fitted head. But *we* had: a sketch
# came before, and the postscript's form was chosen on dev for the largest fall of BT. So this
# confirms, it does not predict blindly. And without gold nobody could use it to choose.
#
# **Predict** with the three questions: in which of these worlds can a penalty gain?

# %%
linear = read_table(RUNS / "linear")
figure = figures.linear_figure(linear)
figure.suptitle("Postscript: penalties gain where foretold. Closing phrase: nothing decided");

# %%
rows = []
for world, told in tables.foretold(linear).items():  # (objective, set, foretold, mean, low, high)
    beyond = [(guess, mean) for _, _, guess, mean, low, high in told if low * high > 0]
    rows.append([world, len(told), sum(mean > 0 for _, mean in beyond),
                 sum(mean < 0 for _, mean in beyond),
                 sum(guess * mean > 0 for guess, mean in beyond),
                 sum(low <= guess <= high for _, _, guess, _, low, high in told)])
Markdown(tables.table(["world", "differences to BT", "gains that exclude zero", "costs", "of both "
                       "with the foretold sign", "intervals that hold the foretold one"], rows))

# %%
POSTSCRIPT = linear["postscript"]
columns = ["prompt_disjoint", "prompt_shifted", "response_disjoint", "mutual_disjoint"]
rows = [["bt", *(f"{POSTSCRIPT['bt'][part]['score']:.3f}" for part in columns)]]
rows += [[f"{name} minus bt", *(tables.shown(POSTSCRIPT[name][part]["difference"], "+.3f")
                                for part in columns)]
         for name in ("bsr-0.1", "spread-0.1", "level-0.1", "l2-0.1")]
Markdown(tables.table(["linear heads, postscript", *columns], rows))

# %% [markdown]
# **What to see.** A large dot excludes zero. Twelve of 330 do, and chance alone would give 16
# (intervals of one world share their pairs). *Plain*: only costs. *Postscript*: only gains, seven
# of the nine on one set. *Closing phrase*: nothing decided. With a ridge ten times weaker
# (`data/runs/linear_weak_ridge`) the signs hold, the numbers do not: 8 costs, 2 gains, 17 costs.

# %% [markdown]
# Rewriting costs BT .161 (.289 to .128), and BSR at .1 gives .073 of it back (.007 to .140; with
# the weaker ridge .048, -.017 to .114). Its spread term and plain L2 give as much; the level term
# changes nothing here. On new sources their gains are undecided.
#
# <details><summary>Answer</summary>
#
# With a postscript alone. It is what *pairs* differ in, and no answer of a pair stands out by it. A
# closing phrase tells the two answers of a pair apart: the evidence is on its side.
# </details>

# %% [markdown]
# All twelve have the foretold sign; one sign a world would have done as well. *Where it fails*:
# with the closing phrase it foretells costs about three times too large, since gold's direction is
# read from answers in which the phrase goes with gold. And it is a forecast for linear heads on
# frozen states. A network that trains can also change its states.

# %% [markdown]
# ## 9. And a language model that trains?
#
# The same objectives, LoRA on ten layers, 66 steps on the whole train split: with postscripts
# (`data/runs/study_postscript`, three seeds) and in the plain world (`study_terms`, four seeds).
# The spread term has ten times BSR's $\lambda$. A run is compared with BT *of the same seed*, and
# tau is averaged: with postscripts over the three sets that were named before the runs (rewritten
# answers, both kinds of new sources), in the plain world over all five, chosen after the runs.
# (`results.md` there has every set with its interval.)
#
# **Predict** from Section 8: which of the three lies above BT with postscripts, and which in the
# plain world?

# %%
THREE = {"level-1e-2": "level 1e-2\nalone", "bsr-1e-2": "BSR 1e-2",
         "spread-1e-1": "spread 1e-1\nalone"}


NEW = ("prompt_shifted", "response_disjoint", "mutual_disjoint")
SETS = {"study_postscript": NEW, "study_terms": ("prompt_disjoint", "response_disjoint",
        "mutual_disjoint", "dev_prompt_disjoint", "dev_mutual_disjoint")}


def averaged(name, method):
    """tau minus BT's of the same seed, averaged over the sets.  Shapes: -> (seeds,)."""
    return np.mean([np.subtract(studies[name][method][part]["seeds"],
                                studies[name]["bt"][part]["seeds"]) for part in SETS[name]], 0)


TERMS |= THREE
studies = {name: read_table(RUNS / name) for name in SETS}

# %%
figure, axes = plots.panels(2, sharey=True)
for axis, name, title in zip(axes, SETS, ("with postscripts, 3 seeds", "plain world, 4 seeds"),
                             strict=True):
    draw_paired(axis, {method: averaged(name, method) for method in THREE})
    plots.label(axis, "", "tau minus BT's, same seed", title)
figure.suptitle("With postscripts BSR and level lie below BT in every seed, spread above");

# %%
rows = []
for name in SETS:
    for method in THREE:
        by_seed = averaged(name, method)
        rows.append([f"{name}: {method} minus BT", "{:+.3f} ± {:.3f}".format(
            *seed_interval(by_seed)), ", ".join(f"{d:+.3f}" for d in by_seed)])
bt = studies["study_postscript"]["bt"]
lost = np.subtract(bt["prompt_disjoint"]["seeds"], bt["prompt_shifted"]["seeds"])
rows.append(["study_postscript: what rewriting costs BT", "{:+.3f} ± {:.3f}".format(
    *seed_interval(lost)), ", ".join(f"{d:+.3f}" for d in lost)])
Markdown(tables.table(["", "mean ± 95% over seeds", "by seed"], rows))

# %% [markdown]
# **What to see.** *With postscripts* BSR and level lie below BT in every seed, by .07 on average,
# and spread lies above, by .02; over three seeds every interval holds zero. *In the plain world*
# BSR and level are undecided. Spread lies above BT in four of four seeds, +.014 ± .008: one of six
# intervals, of an average chosen after the runs. A hint, no more.
#
# *The positive control failed*: BT was to lose .06 by rewriting and lost .03, so these runs have
# little for a penalty to repair.

# %% [markdown]
# <details><summary>Answer</summary>
#
# Section 8 foretold a gain of the spread term with postscripts (+.07 on rewritten answers), and
# nothing from the level term. The first is neither seen nor excluded, and what we see of level
# points down. Why, these runs cannot say. Three candidates: LoRA changes the states themselves; the
# level term of one batch is noisy, and this head has no bias (Section 6); there is little to
# repair.
# </details>

# %% [markdown]
# So the answer to the title has two parts. In worlds in which all is known it is clear when each
# term helps and costs. On this language model BSR and its level term lie below BT with postscripts,
# in three of three seeds, with an interval that holds zero; whether the spread term gains or costs
# is undecided. What such a study *could* tell is the subject of notebook 06.

# %% [markdown]
# ## Exercises
#
# Each stub returns `None`; its checker then says "not attempted yet". A fold holds the first hint,
# and a wrong answer gets a second one from its checker. Solutions are in `notebooks/solutions/`.

# %% [markdown]
# **1.** Let $\lambda$ grow until little is left of any weight. Which direction survives? Along one
# direction prompts have the standard deviation `across`, answers to a prompt have `within`, and the
# mean of $x$ is `mean`; groups have $G$ pairs. From two such triples return the limit of what BSR
# keeps along the first over what it keeps along the second. (Then try it on signal and nuisance of
# all three worlds. Does the number depend on how sure BT is of its labels?)
#
# <details><summary>Hint</summary>
#
# Which of the two terms in the denominator of $\text{kept}_u$ matters when $\lambda$ is huge? A
# center averages two answers.
# </details>

# %%
def survival_ratio(first, second, group):
    return None


checks.check_survival_ratio(survival_ratio);

# %% [markdown]
# **2.** Let pair means be normal with mean zero. Then $G\,\bar r^{\,2}$ of one group, and the
# sample variance of its $G$ pair means, both estimate $\mathrm{Var}(s)$. By which factor is the
# standard deviation of the first estimate larger? (So noise is no reason against a larger $\lambda$
# of the spread term alone. The tax may be: see *hurts* in the record.)
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
# So the spread part of BSR does nothing." Write the paired comparison: from two tensors of scores
# (seeds, sets) the mean of $a - b$, and half its 95% interval over seeds, as a tensor of two.
# Average over the sets first. Then run the last cell. May the sentence stand? Which of Section 6's
# findings speaks against level alone as the control?
#
# <details><summary>Hint</summary>
#
# Which is the unit of repetition here, a set or a seed?
# </details>

# %%
def paired_by_seed(a, b):
    return None


checks.check_paired_by_seed(paired_by_seed);

# %%
study = studies["study_postscript"]
level, bsr, spread = (torch.tensor([study[method][part]["seeds"] for part in NEW]).T
                      for method in THREE)  # (seeds, sets)
print("BSR minus level alone, by seed:", paired_by_seed(bsr, level))
print("level alone minus spread alone:", paired_by_seed(level, spread))

# %% [markdown]
# ## What you know now
#
# - The penalty is a tax on directions in which pairs differ, and on the mean state. The evidence in
#   the pairs' differences stands against it.
# - **The spread term helps where pairs differ along nuisance and new sources' answers do, too, and
#   costs where prompts differ along the signal. The level term costs by the noise of one batch, and
#   where the mean state lies on the signal and no bias takes it up.**
# - In the language model that trains BSR and its level term lie below BT with postscripts, in every
#   seed; those intervals hold zero, and a gain of the spread term is a hint so far.

# %% [markdown]
# Next: **05 · How does an 8B reward model fit on one small GPU?**
