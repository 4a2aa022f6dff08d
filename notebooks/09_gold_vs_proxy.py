# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 09 · What does a policy learn when its reward is only nearly right?
#
# Notebook 08 trained a policy on gold itself. Nobody has gold. One trains on a **proxy**, a reward
# model, and hopes. Here six reward models of notebook 07 train six policies, while gold looks on.
# Does gold follow? If it does, *why*?
#
# **First reading**: Sections 1 to 6, Exercises 1 and 2. The **second reading** convicts a proxy,
# checks the accounts, and asks whether BSR (Eq. 25) is the better teacher, as the paper has it
# (Sec. 3.2).

# %% [markdown]
# After it you can
# - put proxy and gold into one unit;
# - say how much of a gain is *ending*;
# - say how much the reward added, with a control whose reward is known.

# %% [markdown]
# Words from before:
# - *policy*: the language model that is trained; *reference*: the same model before (08);
# - *gold*: the formula that says which answer is better in our small world; *proxy*: a reward model
#   that learned from such verdicts (07);
# - *BT*, *BSR*: two losses of a reward model (03);
# - *paired*: said of a comparison that subtracts partner from partner (06);
# - *undecided*: said of a difference whose 95% interval holds zero (06).
#
# A **run** is one trained policy, a **seed** the number that starts its random draws.

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
import re

import numpy as np
import pandas as pd
import torch

from bsr_lite import metrics, plots
from bsr_lite.course import checks_policy as checks
from bsr_lite.gold import ITEM, count_sentences, gold_terms
from bsr_lite.scorers import read_prompts
from bsr_lite.studies import rloo, statistics
from bsr_lite.studies.records import drawn, read_runs
from bsr_lite.studies.tables import shown

# %% [markdown]
# Helpers that write tables, and one that draws:

# %%
pd.set_option("display.max_colwidth", None)
SPELLED = {"bt": "BT", "bsr": "BSR"}


def frame(rows):
    """A table of {row: {column: value}}."""
    return pd.DataFrame.from_dict(rows, orient="index").rename(index=SPELLED)


def told(values):
    """Mean and half its 95% interval."""
    return "{:+.2f} ± {:.2f}".format(*metrics.seed_interval(values))

# %%
# Drawing only.
def two_dots(axis, found, marks):
    """Two marks a run, 95% over prompts; the second is open.  Shapes: {run: two of (prompts,)}."""
    for place, (name, pair) in enumerate(found.items()):
        tint = plots.COLORS.get(name.split()[0].lower(), plots.COLORS["bt"])
        dots = [metrics.seed_interval(values) for values in pair]
        ys = (0.12 - place, -0.12 - place)
        axis.plot([mean for mean, _ in dots], ys, color="0.8", linewidth=3)
        for (mean, half), y, mark, fill in zip(dots, ys, marks, (tint, "white"), strict=True):
            axis.errorbar(mean, y, xerr=half, fmt=mark, capsize=3, color=tint, markerfacecolor=fill)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_yticks([-place for place in range(len(found))], found)

# %% [markdown]
# ## 1. Six policies, one prompt
#
# *What became of one model under six proxies?*
#
# Six runs are on record, in `data/runs/study_rloo`. Each trained the embedded language model (135M
# parameters) by RLOO, the loop of notebook 08: 40 steps, 16 answers a step. Three were paid by BT
# reward models, and three by BSR ones. "BT 1" was paid by BT's reward model of seed 1.

# %% [markdown]
# Two rules were the same for all.
# - An answer that has not ended after 48 tokens is **cut off**, and pays a *penalty* of 1: about
#   one standard deviation of the proxy.
# - KL, the distance from the reference (08), has no price. So nothing pulls the policy back, and
#   what a proxy gets wrong can show.
#
# The six policies and the reference then answered 112 new prompts, twice each.

# %%
if PROFILE == "full":
    from bsr_lite.studies.best_of_n import run_best_of_n
    rloo.run_study(Path("bsr_lite/configs/study_rloo.yaml"))
    run_best_of_n(Path("bsr_lite/configs/best_of_n.yaml"))
RUNS = Path("runs" if PROFILE == "full" else "data/runs")
runs = read_runs(RUNS / "study_rloo")  # {method-kl<price>: [a run a seed]}
SIX = {f"{method.upper()} {run['seed']}": run for method in ("bt", "bsr")
       for run in runs[f"{method}-kl0.0"]}
reference = SIX["BT 0"]["evaluation"]["reference"]  # the same for all six
SEVEN = {"reference": reference} | {name: run["evaluation"]["policy"] for name, run in SIX.items()}
prompts = drawn(read_prompts("data/pocket/pocket.jsonl.gz", "valid", pocket=True), 112, 0)

# %% [markdown]
# One prompt, picked by us, and the first answer of each policy to it:

# %%
def line(text):
    return " ".join(text.split())  # no \n, no \r, no tabs


frame({name: {"answer": line(found["texts"][45]),
              "ended": "yes" if found["finished"][45][0] else "cut off"}
       for name, found in SEVEN.items()}).rename_axis(line(prompts[45]["prompt"]))

# %% [markdown]
# Gold adds up five terms, each worth at most one point:
# - *instruction*: as many items, or sentences, as were asked for (here two items);
# - *topic*: a quarter for each of up to four words from a list on the topic;
# - *complete*: half for ending, half for a closing mark;
# - *fresh*: no repetition; *concise*: the right length.
#
# **Predict**: which answer does gold like best? Which term puts the reference behind?

# %%
asked_for = {key: prompts[45][key] for key in ("unit", "count", "stems")}
frame({name: gold_terms(found["texts"][45], finished=found["finished"][45][0], **asked_for)
       | {"gold": found["gold"][45][0]} for name, found in SEVEN.items()}).round(2)

# %% [markdown]
# **What to see.** Gold likes BSR 2's list best, sense or not: "pyramids" is on the topic. (It gives
# two items, as asked, but gets half for *instruction*. Section 5 asks why.)
#
# BT 1 gives no item and nothing on the topic. One other term makes up for both.
#
# **Six policies, six answers, and gold likes none less than the reference's.** That is one prompt.
# What do all 112 say?

# %% [markdown]
# ## 2. One unit
#
# *Did gold follow the proxies?*
#
# Gold runs from 0 to 5. A reward model's numbers have no such scale: two models that rank all
# answers alike may differ by any factor. So count both in **their own standard deviation (sd) among
# the reference's answers to one prompt**:
#
# $$\text{gain} = \frac{\text{mean of the policy} - \text{mean of the reference}}
# {\text{sd of the reference within a prompt}}.$$
#
# A gain of 1 is large: the policy's average answer is then as good as only the better answers of
# the reference were.

# %% [markdown]
# The formula in code, with two checks on made-up rewards:

# %%
def gain(policy, reference):
    """Shapes: (prompts, answers), (prompts, answers) -> ()."""
    sd = np.sqrt(np.var(reference, axis=1, ddof=1).mean())
    return (np.mean(policy) - np.mean(reference)) / sd


before, after = np.array([[1.0, 3.0], [2.0, 4.0]]), np.array([[3.0], [4.0]])  # two prompts
assert np.isclose(gain(after, before), 1 / np.sqrt(2)), "up by 1, where an sd is 1.41"
assert np.isclose(gain(10 * after - 7, 10 * before - 7), gain(after, before)), "no unit is left"

# %% [markdown]
# `rloo.gains`, of the library, gives the same gain prompt by prompt, so that an interval can be
# computed.

# %%
six_gains = {name: rloo.gains(run["evaluation"]) for name, run in SIX.items()}
assert np.isclose(six_gains["BT 0"]["gold_gain"].mean(),
                  gain(SEVEN["BT 0"]["gold"], reference["gold"])), "the mean over prompts is ours"
frame({name: {f"{key} gain (sd)": told(found[f"{key}_gain"]) for key in ("proxy", "gold")}
       for name, found in six_gains.items()})

# %% [markdown]
# **What to see** (± is a 95% interval over prompts). Every proxy says that its policy gained more
# than one sd.
#
# **Gold followed in all six runs, though in four of them less than half the way.**
#
# This invites a story: the proxies of BT 0 and BT 2 were honest, the other four were *exploited*.
# That is, a policy found what pleases the proxy alone.

# %% [markdown]
# Before you believe that story, look for a duller one. **Predict**: what could raise proxy *and*
# gold without better writing?
#
# <details><summary>Answer</summary>
#
# To *end*. In Section 1 the reference was cut off, and all six policies ended. An end and
# its closing mark lifted BT 1 to the reference.
# </details>

# %% [markdown]
# ## 3. The dull explanation: ending
#
# *What is left of a gain among answers that ended?*
#
# First: which share of the answers ended?

# %%
frame({name: {"answers that ended": f"{np.mean(found['finished']):.2f}"}
       for name, found in SEVEN.items()}).transpose()

# %% [markdown]
# The reference ends 4 answers in 10, each policy 87 in 100 or more: the penalty pushed them. (It is
# in none of Section 2's gains.) But gold pays for a proper end, and the proxies learned from gold.
# So an ending may raise both.
#
# What else did a policy gain? **Hold ending equal**: keep the prompts to which both the reference
# and the policy gave an answer that ended, and compare these answers alone.
#
# The closing mark is not held equal. (If the reference ended its better answers first, this would
# be unfair. We found no sign of that: Section 8.)

# %%
def of_ended(part, key):
    """Mean reward of the answers that ended, NaN where none did.  Shapes: -> (prompts,)."""
    ended = np.array(part["finished"], float)
    count = ended.sum(1)
    return np.where(count > 0, (ended * part[key]).sum(1) / np.maximum(count, 1), np.nan)


def at_equal_ending(run, key):
    """Policy minus reference, in sds of the reference.  Shapes: -> (prompts where both ended,)."""
    policy, reference = (run["evaluation"][part] for part in ("policy", "reference"))
    apart = of_ended(policy, key) - of_ended(reference, key)
    return apart[~np.isnan(apart)] / statistics.within_sd(reference[key])

# %% [markdown]
# **Predict**: once ending is equal, how much is left of the proxies' gains, and of gold's?
#
# In the figure squares are the gains of Section 2. Circles, with their numbers, are those at equal
# ending.

# %%
figure, axes = plots.panels(2, sharey=True)
titles = "The proxies of BSR 0 and BSR 2 keep a sd or more", "Most of gold's gain is gone"
for axis, key, title in zip(axes, ("proxy", "gold"), titles, strict=True):
    equal = {name: at_equal_ending(run, key) for name, run in SIX.items()}
    two_dots(axis, {name: (six_gains[name][f"{key}_gain"], values)
                    for name, values in equal.items()}, "so")
    for place, values in enumerate(equal.values()):
        axis.annotate(f"{values.mean():+.2f}", (values.mean(), -place - 0.42), ha="center",
                      va="center", fontsize=8)
    axis.set(xlim=(-1.2, 2.4), ylim=(-5.6, 0.5))
    plots.label(axis, f"gain of {key} (sd), 95% over prompts", "", title)
for mark, fill, text in (("s", "0.4", "all 112 prompts"),
                         ("o", "white", "at equal ending:\n59 or 60 prompts")):
    axes[1].plot([], [], mark, color="0.4", markerfacecolor=fill, label=text)
axes[1].legend(loc="center right", bbox_to_anchor=(1, 0.38), frameon=False)

# %% [markdown]
# **What to see.** *Left*: the proxies of BSR 0 and BSR 2 keep more than a sd. The other four keep
# about a third of a sd at most.
#
# *Right*: BT 0 and BT 2 still gain gold, by about a third of a sd. (Over first answers alone even
# these two are undecided: `data/runs/LOG.md`, "The recorded RLOO policies learned to end".) BT 1,
# BSR 0 and BSR 1 lost gold. BSR 2 is undecided.
#
# **At equal ending gold rose in two runs of six at most.**
#
# Did the proxies mislead the three that lost, or does gold fall under any reward?

# %% [markdown]
# ## 4. A control: a reward that knows nothing
#
# *What does the training do when there is nothing to learn?*
#
# A **control** is the same training, penalty included, with a reward that we made, and know. Here
# are two (`data/runs/study_rloo_controls`), with three seeds each. They are paid for
# - *random numbers*, a new one for every new text: there is nothing to learn;
# - *gold* itself: there is all to learn.
#
# The share of their answers that ended:

# %%
controls = read_runs(RUNS / "study_rloo_controls")
KNOWN = {"noise": "random numbers", "gold": "gold"}
frame({f"trained on {reward}": {
    f"seed {run['seed']}": np.mean(run["evaluation"]["policy"]["finished"])
    for run in controls[f"{method}-kl0.0"]} for method, reward in KNOWN.items()}).round(2)

# %% [markdown]
# Random numbers prefer no text, and yet these policies end: the penalty pushed them.
#
# **Predict**: at equal ending, is gold's gain under random numbers above zero, at zero, or below?

# %%
TAUGHT = {KNOWN[method]: controls[f"{method}-kl0.0"] for method in KNOWN}
TAUGHT |= {"a BT model": runs["bt-kl0.0"], "a BSR model": runs["bsr-kl0.0"]}
TAUGHT = {reward: [{"evaluation": run["evaluation"] | {"reference": reference}} for run in group]
          for reward, group in TAUGHT.items()}  # all beside the same reference

# %%
left = {reward: np.array([metrics.seed_interval(at_equal_ending(run, "gold")) for run in group])
        for reward, group in TAUGHT.items()}  # (seeds, 2): mean, half an interval over prompts
rows = ("gold", "a BT model", "a BSR model", "random numbers")
figure, axis = plots.panels(1)
for place, reward in enumerate(rows):
    tint = plots.COLORS[reward.split()[1].lower()] if reward.startswith("a ") else "black"
    ys, means = -place + np.array([0.2, 0, -0.2]), left[reward][:, 0]
    axis.errorbar(means, ys, xerr=left[reward][:, 1], fmt="o", color=tint, capsize=2)
    if tint == "black":
        axis.axvspan(means.min(), means.max(), color="0.9", linewidth=0)
        axis.annotate(f"{reward}:\n{means.min():+.1f} to {means.max():+.1f}",
                      (means.min() + np.ptp(means) / 2, -2.3), ha="center", va="center")
axis.axvline(0, color="black", linewidth=0.8)
axis.set_yticks([-place for place in range(len(rows))], rows)
plots.label(axis, "gold's gain at equal ending (sd), 95% over 59 or 60 prompts; a dot a seed",
            "trained on",
            "At equal ending the models' six policies lie between random numbers and gold")

# %% [markdown]
# **What to see.** At equal ending random numbers cost gold .8 to 1.7 sds. The policies of all six
# models lost less, or nothing.
#
# **A fall that random numbers bring, too, convicts no proxy.** (To Section 1's prompt these
# policies wrote "The Pyramids! Reverence of Egypt!", "I'm sorry, Samantha, ..." and "ad san
# marchaattiorman". Their answers became shorter, and fewer do what the prompt asks: `LOG.md`,
# `study_rloo_controls`. Why is open.)
#
# Nor does it acquit one. BSR 0 and BSR 2 are **suspects** of having been exploited: at equal ending
# their proxies rose, and gold did not.

# %% [markdown]
# Now a gain can be taken apart, in three steps. Each number is a mean of three seeds, in sds of
# gold. First BT's policies:

# %%
def circles(reward):
    """Gold's gain at equal ending.  Shapes: -> (seeds,)."""
    return np.array([at_equal_ending(run, "gold").mean() for run in TAUGHT[reward]])


def account(reward):
    whole = np.mean([gain(run["evaluation"]["policy"]["gold"], reference["gold"])
                     for run in TAUGHT[reward]])
    alone, equal = circles("random numbers").mean(), circles(reward).mean()
    parts = {"random numbers": alone, "+ the reward added": equal - alone,
             "= at equal ending": equal, "+ ending": whole - equal, "= gain": whole}
    return {name: f"{value:+.2f}" for name, value in parts.items()}


frame({"a BT model": account("a BT model")})

# %% [markdown]
# Start at the reference, at 0.
# 1. **Random numbers** lead down to their mean at equal ending.
# 2. What **the reward added** leads up to BT's mean at equal ending.
# 3. **Ending** leads from there up to BT's mean gain.
#
# **gain = random numbers' part + what the reward added + ending.**
#
# Two assumptions are in it: without their reward all would have lost what random numbers lost, and
# the prompts at equal ending are like the rest.
#
# **Predict**: the policies on *gold* gained 1.7. Did that reward add more, or less?

# %%
frame({reward: account(reward) for reward in TAUGHT})

# %% [markdown]
# **What to see.** *Gold*'s reward added 2.0, more than the whole gain: counted from random numbers
# it had a loss to make up for.
#
# **A gain over the reference is not what the reward added. To tell the two apart takes a control to
# count from.**

# %% [markdown]
# How sure is what a reward added, on average over seeds? We go by the *paired* interval: seed by
# seed, subtract the run on random numbers, since both saw the same prompts in the same order.
# Beside it stands the *unpaired* one, as if the seeds had nothing in common, and another zero to
# count from: policies on a *constant* reward, whose answers shrank to a word (08).

# %%
def sure(first, second):
    """Difference of means, and half its 95% interval: paired, and by Welch's rule.  Shapes: (3,)"""
    mean, half = metrics.seed_interval(first - second)
    a, b = (values.var(ddof=1) / len(values) for values in (first, second))
    welch = metrics.t_quantile(round(2 * (a + b) ** 2 / (a**2 + b**2), 1)) * np.sqrt(a + b)
    return {"minus random numbers": f"{mean:+.2f}", "paired": f"± {half:.2f}",
            "unpaired": f"± {welch:.2f}"}


constant = np.array([at_equal_ending({"evaluation": run["evaluation"] | {"reference": reference}},
                                     "gold").mean() for run in controls["constant-kl0.0"]])
frame({reward: sure(circles(reward), circles("random numbers")) | {
    "minus a constant, paired": told(circles(reward) - constant)} for reward in rows[:3]})

# %% [markdown]
# **What to see.** *Gold*'s addition lies above zero. What BT's and BSR's models add to random
# numbers is **undecided** over seeds. Unpaired, BT's alone would change its verdict: its lowest
# seed met random numbers' highest (seed 1, the middle dots).
#
# Counted from a constant all lie far above zero. But to beat one word is easy. We keep the harder
# zero, and say it: **what a reward added depends on the control one counts from.**

# %% [markdown]
# ## 5. Read the answers
#
# *Is gold itself right?*
#
# So far gold was the judge. Read a suspect: here is BSR 2's answer of Section 1 (a line break would
# be `\n`). Two items were asked for.

# %%
print(repr(SEVEN["BSR 2"]["texts"][45]))

# %% [markdown]
# **Predict**: gold counts an item wherever a *line* begins with a number. How many items do you
# count here, and how many does gold?

# %%
print("items, as gold counts:", len(ITEM.findall(SEVEN["BSR 2"]["texts"][45])))

# %% [markdown]
# **Gold is blind to numbers within a line.** But does BSR 2 number because a list was asked for?
# Here a story is:

# %%
print(prompts[7]["prompt"], "BSR 2: " + SEVEN["BSR 2"]["texts"][7], sep="\n")
asked = np.array([row["unit"] == "item" for row in prompts])  # asked for a list
numbered = np.array([text.lstrip().startswith("1.") for text in SEVEN["BSR 2"]["texts"]])
for what, here in (("a list", asked), ("sentences", ~asked)):
    print(f"BSR 2 numbers {numbered[here].sum()} of {here.sum()} answers to prompts for {what}")

# %% [markdown]
# **What to see.** Four points, and no story. BSR 2 numbers all answers but one, asked or not: a
# mannerism.
#
# **Gold saw too few items in the list, and has no term for a story. Only reading shows that.** (We
# saw neither before we had read answers.)

# %% [markdown]
# ## 6. What holds here
#
# *What does a policy learn when its reward is only nearly right?*
#
# **To end, first of all.** All six learned it, and gold pays for it. Policies on random numbers
# learned it, too: the penalty teaches it.
#
# Did the proxies' rewards add gold beyond that? At equal ending all six policies stand above all
# three on random numbers. Counted from these it is **undecided** over seeds (paired), for BT's as
# for BSR's; counted from a constant both added much.
#
# Was a proxy *exploited*? **Shown for none of the six.** BSR 0 and BSR 2 stay suspects: their
# proxies rose, and gold did not. But random numbers cost more gold, and gold misreads BSR 2's
# lists.

# %% [markdown]
# ## Exercises
#
# A wrong answer gets a second hint from its checker. Solutions are in `notebooks/solutions/`.
#
# **1.** How large is the dull part? `value` and `ended` have shape (prompts, 2): the rewards of the
# reference's two answers to a prompt, and whether these ended (`.double()` before a mean). `later`
# is the share of the policy's answers that ended. Return the gain that ending alone would bring:
# how much the share grew, times what an ending is worth. A fair worth compares the reference's
# answers to *one* prompt.
#
# <details><summary>First hint</summary>
#
# Prompts whose two answers both ended, or were both cut off, cannot tell what an ending is worth.
# </details>

# %%
def ending_alone(value, ended, later):
    return None


checks.check_ending_alone(ending_alone);

# %%
for name in ("BT 0", "BSR 0"):
    policy, own = (SIX[name]["evaluation"][part] for part in ("policy", "reference"))
    for key in ("proxy", "gold"):
        value = torch.tensor(own[key]).double() / statistics.within_sd(own[key])
        alone = ending_alone(value, torch.tensor(own["finished"]), np.mean(policy["finished"]))
        print(name, key, f"gained {gain(policy[key], own[key]):+.2f}, by ending alone:",
              None if alone is None else f"{alone:+.2f}")

# %% [markdown]
# *Then judge*: what is left of BSR 0's two gains? Do both rests agree with Section 3?
#
# <details><summary>Answer</summary>
#
# Yes, roughly: gold loses .4, as there, and the proxy keeps 1.2 sds, there 1.4.
#
# But trust neither to a tenth. Ending brings BT 0 .94 of gold here, while in Section 3 its square
# minus its circle is .86. The two rest on different prompts.
# </details>

# %% [markdown]
# **2.** Take the gains apart without "equal ending". `gained` and `ended` have shape (2, seeds):
# gold's gain over the reference, and the share of answers that ended. Row 0 are a model's policies,
# row 1 those on random numbers. The reference's share is `before`, and an ending is worth `worth`
# sds. Return Section 4's three parts for each seed, in its order; shape (3, seeds).
#
# <details><summary>First hint</summary>
#
# What would random numbers have gained, had they ended no more often than the reference?
# </details>

# %%
def three_parts(gained, ended, before, worth):
    return None


checks.check_three_parts(three_parts);

# %%
both = [[run["evaluation"]["policy"] for run in TAUGHT[reward]]
        for reward in ("a BT model", "random numbers")]
gained = torch.tensor([[gain(one["gold"], reference["gold"]) for one in row] for row in both])
ended = torch.tensor([[np.mean(one["finished"]) for one in row] for row in both])
for worth in (1.65, 3.3):  # sds: what Exercise 1 finds, and twice that
    parts = three_parts(gained, ended, np.mean(reference["finished"]), worth)
    print(f"BT, worth {worth}: random numbers, the reward added, ending:",
          None if parts is None else [told(part.numpy()) for part in parts])

# %% [markdown]
# *Then judge* (± is paired by seed): which part hardly minds an ending's worth, and why?
#
# <details><summary>Answer</summary>
#
# What the reward added: 1.24 and 1.27, in Section 4 1.39. BT's policies and those on random numbers
# end almost equally often. So the worth drops out, and so does the reference: one may subtract
# random numbers' gain at once (`LOG.md`, `study_rloo_controls`).
#
# It stays undecided, paired.
# </details>

# %% [markdown]
# ## Check yourself
#
# 1. A reward model's policy gains a sd of gold. Which two runs do you want to see beside it?
# 2. At equal ending a policy's gold fell. Why does that not convict its proxy?
# 3. All gains vanish at equal ending. Did the policy learn nothing from its reward?
# 4. A model's policies gain .9 of gold, and .1 at equal ending. Random numbers have -.6 at equal
#    ending. What are the three parts?
# 5. Gold itself says that an answer got worse. Name two reasons not to believe it.

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1. The same training on random numbers, with nothing to learn, and on gold, with all to learn.
# 2. Policies on random numbers, which no proxy misled, fell, too.
# 3. Not shown: random numbers cost gold. Count from where they are.
# 4. Random numbers -.6, what the reward added .7, ending .8.
# 5. Its rule may be blind to the form, as to numbers within a line. And its interval may hold zero.
# </details>

# %% [markdown]
# ## What you know now
#
# - A fall of gold convicts no proxy as long as a control falls as far.
# - Gold, too, may be blind.
#
# **To pass on:** a gain over the reference is not what the reward added. Hold ending equal, count
# from policies trained on random numbers, and read the answers.

# %% [markdown]
# ## Second reading
#
# Section 7 convicts a proxy. Section 8 asks what "at equal ending" can hide, Section 9 what gold's
# blindness hid. Section 10 has eight more runs, and BSR against BT. Section 11 asks a new question:
# what is a correlation with gold worth?

# %% [markdown]
# ## 7. When a proxy does mislead
#
# *What would convict a proxy?*
#
# A fall of gold does not, as Section 4 showed. We call a policy **misled** if it does something, an
# *act*, of which three things hold:
# 1. Its proxy pays for the act, at equal ending.
# 2. Gold marks the act down, at equal ending, and whoever reads the answers agrees.
# 3. No control that is paid for its texts does anything like it. An act that is told narrowly
#    enough is done by no control, so tell it as broadly as you can.
#
# BSR 2's numbers get no verdict: gold misreads just these (Section 5).

# %% [markdown]
# Three more runs are called P.S. BT 0, 1 and 2 (`data/runs/LOG.md`, `study_rloo_style`). All
# answers that their proxies learned from had a postscript, made so on purpose: we wanted proxies
# that must judge what they never saw. The policies' answers have none.
#
# A gain does not say what a policy does. So the table also counts. **Predict**: of the 112 first
# answers of a run, how many differ?

# %%
style = read_runs(RUNS / "study_rloo_style")
POSTSCRIPT = {f"P.S. BT {run['seed']}": run for run in style["bt-kl0.0"]}


def different(run):
    return len(set(run["evaluation"]["policy"]["texts"]))


frame({name: {f"{key} gain (sd)": told(rloo.gains(run["evaluation"])[f"{key}_gain"])
              for key in ("proxy", "gold")} | {"different answers": different(run)}
       for name, run in POSTSCRIPT.items()})

# %% [markdown]
# All three proxies rose by more than two sds, and gold fell in two runs. P.S. BT 0 has only 20
# answers for 112 prompts. Which does it repeat, and does a control repeat any answer?

# %%
first = POSTSCRIPT["P.S. BT 0"]["evaluation"]
same = np.array(first["policy"]["texts"]) == first["policy"]["texts"][45]
print(repr(first["policy"]["texts"][45]), "is the answer to", same.sum(), "prompts,",
      (same & asked).sum(), "of them for a list")
for method, reward in KNOWN.items():
    print(f"different answers when trained on {reward}, by seed:",
          [different(run) for run in controls[f"{method}-kl0.0"]])

# %% [markdown]
# The figure compares this answer, at equal ending, with the reference's answers to the same prompt.
# ("Everywhere": on average, for both kinds of prompt.)

# %%
def act_gain(run, key, act):
    """At equal ending, first answers that do the act alone, in sds.  Shapes: -> (prompts kept,)."""
    policy, own = (run["evaluation"][part] for part in ("policy", "reference"))
    done = {key: np.array(policy[key])[:, :1],
            "finished": np.array(policy["finished"])[:, :1] & act[:, None]}
    return at_equal_ending({"evaluation": {"policy": done, "reference": own}}, key)


run, kinds = POSTSCRIPT["P.S. BT 0"], {"a list": same & asked, "sentences": same & ~asked}
pairs = {f"asked for {what}\n({len(act_gain(run, 'gold', act))} prompts)": [
    act_gain(run, key, act) for key in ("proxy", "gold")] for what, act in kinds.items()}
figure, axis = plots.panels(1)
two_dots(axis, pairs, "so")
for place, pair in enumerate(pairs.values()):
    for key, y, values in zip(("proxy", "gold"), (0.3, -0.3), pair, strict=True):
        axis.annotate(f"{key} {values.mean():+.2f}", (values.mean() + 0.05, y - place),
                      color=plots.COLORS["bt"], va="center")
axis.set(xlim=(-4.2, 4.2), ylim=(-1.6, 0.6))
plots.label(axis, "the list 'Safety, Comfort' minus the reference, at equal ending (sd), 95%", "",
            "The proxy pays for this list everywhere, and gold marks it down everywhere")

# %% [markdown]
# **What to see.** The act: to give many prompts one answer, "Safety, Comfort". At equal ending
# 1. the proxy pays 2.3 sds for it, and more;
# 2. gold takes off .85 sds where a list was asked for, and 3.4 elsewhere. We read the same: two
#    words that have nothing to do with most prompts;
# 3. neither control repeats any answer (nor does another that is paid for its texts, Section 8).
#
# So P.S. BT 0 is **misled**. We noticed the act only after seeing answers.

# %% [markdown]
# **Now you judge** BSR 0, the other suspect. Its act: answers with "embracing". Which of the three
# conditions hold?

# %%
def embraces(found):
    return np.array(["embracing" in text.lower() for text in found["texts"]])


word = embraces(SEVEN["BSR 0"])
print("answers with 'embracing': BSR 0", word.sum(), "| reference", embraces(reference).sum(),
      "| controls, at most", max(embraces(run["evaluation"]["policy"]).sum()
                                 for reward in KNOWN.values() for run in TAUGHT[reward]))
for key in ("proxy", "gold"):
    print(f"{key} of these answers at equal ending, minus the reference (sd):",
          told(act_gain(SIX["BSR 0"], key, word)))

# %% [markdown]
# <details><summary>Answer</summary>
#
# Only the first. The second is undecided: -.26 ± .39. The third is open: controls hardly write this
# word, but one word is the narrowest act, and we counted no words of their own.
#
# So BSR 0 is not convicted. Nor is it acquitted: gold has no term for manner, and may be blind
# here, too.
# </details>

# %% [markdown]
# ## 8. What is left at equal ending
#
# *Is "at equal ending" a fair measure?*
#
# First three made-up worlds, in which an ending is worth 1.5.
# 1. The policy learned only to end.
# 2. It also writes better answers, by .5.
# 3. It learned only to end, but of the reference's answers the good ones end first.

# %%
def made_up_answers(share, better, first, rng):
    quality, luck = rng.normal(size=(2, 20_000, 2))
    early = first * quality + np.sqrt(1 - first**2) * luck
    ended = early > np.quantile(early, 1 - share)
    return {"finished": ended, "gold": quality + better + 1.5 * ended}


rng = np.random.default_rng(0)
for better, first in ((0.0, 0.0), (0.5, 0.0), (0.0, 0.5)):
    known, policy = made_up_answers(0.4, 0, first, rng), made_up_answers(0.95, better, first, rng)
    world = {"evaluation": {"reference": known, "policy": policy}}
    rest = at_equal_ending(world, "gold").mean() * statistics.within_sd(known["gold"])
    print(f"better by {better}, {'good answers end first' if first else 'ended by chance'}: gained "
          f"{policy['gold'].mean() - known['gold'].mean():.2f}, at equal ending {rest:.2f}")
    assert first or abs(rest - better) < 0.05, "only what is better besides ending must be left"

# %% [markdown]
# In the third world the measure falls, though no answer got worse.

# %% [markdown]
# The record has three more controls. *Gold + error*: each opening word has its own error, now and
# then a huge one. *Gold + trick*: half a point more for each "!". *Nothing*: a constant, so that
# only the penalty is left. How far are they from random numbers?

# %%
for method, reward in (("heavy-tails", "gold + error"), ("trick", "gold + trick"),
                       ("constant", "nothing")):
    TAUGHT[reward] = [{"evaluation": run["evaluation"] | {"reference": reference}}
                      for run in controls[f"{method}-kl0.0"]]


def exclaims(run):
    return sum("!" in text for text in run["evaluation"]["policy"]["texts"])


frame({reward: sure(circles(reward), circles("random numbers")) | {
           name: ", ".join(str(count(run)) for run in group)
           for name, count in (("different answers, by seed", different), ("with '!'", exclaims))}
       for reward, group in TAUGHT.items() if reward != "random numbers"})

# %% [markdown]
# *Gold + error* adds about a sd, as BT's and BSR's models do, and is undecided by both rules. Nor
# would an addition prove knowledge of gold: a policy can climb any consistent reward.
#
# *Gold + trick* is known to be wrong. Yet its policies gained as gold's own did. Seed 1 found
# the trick, in 91 of 112 answers. But gold reads "!" as a full stop and takes nothing off:
# condition 2 fails.
#
# *Nothing* falls silent (08), 3.4 sds below random numbers. (Counted from it BT's and BSR's rewards
# add a decided amount: Section 4.) Its policies also repeat an answer, the empty one (`LOG.md`,
# `study_rloo_style`). A constant pays every text alike, so no proxy pays for that.

# %% [markdown]
# Why do random numbers cost gold 1.4 sds at equal ending? Two accounts are open:
# - **drift**: nothing pulls a policy back to the reference;
# - the **penalty**: it pushes to short answers.
#
# Against a third there is evidence: **selection**, as in the third made-up world. If better answers
# ended first, they would lead in gold's other terms, too. Over eight answers a prompt the ended
# ones lead by 1.55 sds of gold, and its term for ending alone brings that (`LOG.md`,
# `study_rloo_style`).

# %% [markdown]
# ## 9. Gold reads BSR 2 again
#
# 52 of the 112 prompts ask for a list, 60 for sentences. How much did gold's blindness cost BSR 2?
# Gold counts a *sentence* at every full stop, but not at the stop of a number that begins a line.
# So a number within a line is no item, and its full stop ends a sentence. Let gold read again, with
# each number on a line of its own.

# %%
def lined(text):
    """Every number of a list begins a line."""
    return re.sub(r"\s+(?=\d+\s*[.):]\s)", "\n", text.strip())


toy = "1. Bees. 2. Ants."
assert len(ITEM.findall(toy)) == 1 and len(ITEM.findall(lined(toy))) == 2, "items begin lines"
assert count_sentences(toy) == 3 and count_sentences(lined(toy)) == 2, "a number's stop ends none"

# %%
TERMS = ("complete", "instruction", "topic", "fresh", "concise")  # gold is their sum


def terms(found, read=str):
    """Gold's terms of the first answers, as `read` gives them.  Shapes: -> (prompts, 5)."""
    return np.array([[gold_terms(read(text), unit=row["unit"], count=row["count"],
                                 stems=row["stems"], finished=ended[0])[t] for t in TERMS]
                     for text, ended, row
                     in zip(found["texts"], found["finished"], prompts, strict=True)])


assert np.allclose(terms(reference).sum(1), np.array(reference["gold"])[:, 0], atol=1e-4), "sum"

# %%
def right(found, read, here):
    """How many answers have as many items, or sentences, as were asked for."""
    return (terms(found, read)[here, TERMS.index("instruction")] == 1).sum()


READINGS = {"as gold counts": str, "numbers on their own lines": lined}
frame({name: {f"{what}, {reading}": right(found, read, here)
              for what, here in (("lists right, of 52", asked), ("sentences right, of 60", ~asked))
              for reading, read in READINGS.items()}
       for name, found in SEVEN.items()}).transpose()

# %% [markdown]
# All 52 lists of BSR 2 have as many items as were asked for, and gold sees that in two.
#
# Now let gold read all its terms but *complete* again, in first answers (only their texts are on
# record). Squares are gold as it is, diamonds numbers on their own lines. The bands span three
# policies each.
#
# **Predict**: on the right no list was asked for. Does BSR 2 rise there, too, and should it?

# %%
def other_terms(run, read):
    """The gain of gold but for *complete* (ending and closing punctuation), in sds."""
    policy, own = (run["evaluation"][part] for part in ("policy", "reference"))
    apart = (terms(policy, read) - terms(own, read))[:, 1:].sum(1)
    return apart / statistics.within_sd(own["gold"])


figure, axes = plots.panels(2, sharey=True)
titles = "52 for a list: gold missed BSR 2's items", "60 for sentences: BSR 2's rise is no success"
tint = plots.COLORS["bsr"]
axes[0].annotate("gold as it is", (-0.06, -4.88), color=tint, ha="right", va="center")
axes[1].annotate("numbers on their\nown lines", (0.55, -5.1), color=tint, va="center")
for axis, here, title in zip(axes, (asked, ~asked), titles, strict=True):
    for reward, side in (("random numbers", "center"), ("gold", "left")):
        means = [other_terms(run, lined)[here].mean() for run in TAUGHT[reward]]
        axis.axvspan(min(means), max(means), color="0.9", linewidth=0)
        x = np.mean(means) if side == "center" else max(means) + 0.05
        axis.annotate(f"trained on\n{reward}", (x, -2), ha=side, va="center")
    two_dots(axis, {name: [other_terms(run, read)[here] for read in (str, lined)]
                    for name, run in SIX.items()}, "sD")
    axis.set(xlim=(-2, 2), ylim=(-5.6, 0.5))
    plots.label(axis, "gain of gold's other four terms (sd), 95%", "", title)

# %% [markdown]
# **What to see.** *Left*: with each number on its own line, BSR 2's lists reach those of the
# policies that were trained on gold.
#
# *Right*: BSR 2 rises, too, to +.1. That is no success. Gold now counts each numbered point as a
# sentence, as in Section 5's four points in place of a story.

# %% [markdown]
# ## 10. The other eight runs with a postscript, and BSR against BT
#
# P.S. BT 1 never ends an answer. Does its proxy pay for that? Compare the *reference's* answers
# to one prompt: those that were cut off with those that ended.

# %%
known = POSTSCRIPT["P.S. BT 1"]["evaluation"]["reference"]
cut_off = known | {"finished": ~np.array(known["finished"])}
for key in ("proxy", "gold"):
    apart = of_ended(cut_off, key) - of_ended(known, key)  # NaN: the prompt has not both kinds
    print(f"{key} of an answer that was cut off, minus one that ended (sd):",
          told(apart[~np.isnan(apart)] / statistics.within_sd(known[key])))
print(f"the penalty (sd of this proxy): {1 / statistics.within_sd(known['proxy']):.2f}")

# %% [markdown]
# **What to see.** **P.S. BT 1 is misled.** Its act is not to end, so here endings cannot be equal.
# This, too, we noticed only after seeing answers.
# 1. Its proxy rates a cut-off answer 1.3 sds above an ended one. The penalty takes only .8 of that.
# 2. Gold rates it 1.55 sds below, and a reader agrees: it breaks off.
# 3. All controls learned to end (`LOG.md`, `study_rloo_style`).

# %% [markdown]
# And the others? Three runs had BSR proxies, at $\lambda=10^{-2}$ (Section 1's: $10^{-3}$). Three
# had *spread* proxies, BSR without the term that holds the level of rewards (04), at
# $\lambda=10^{-1}$. Here are all nine, with random numbers and two runs of Section 1 below. (But
# for these two, the reference has eight answers a prompt. So random numbers are not quite those of
# Section 4.)
#
# How well does a proxy agree with gold among the reference's answers to one prompt, and how far did
# its policy go?

# %%
NAMES = {"bt": "BT", "spread-1e-1": "spread", "bsr-1e-2": "BSR"}
NINE = {f"P.S. {name} {run['seed']}": run for method, name in NAMES.items()
        for run in style[f"{method}-kl0.0"]}
RANDOM = {f"random numbers {run['seed']}": run for run in controls["noise-kl0.0"]}


def agreement(run):
    own, gains = run["evaluation"]["reference"], rloo.gains(run["evaluation"])
    ends = gains["finished"].mean() > 0.01
    return {"proxy's correlation with gold":
                f"{statistics.within_correlation(own['proxy'], own['gold']):+.2f}",
            "proxy gain (sd)": told(gains["proxy_gain"]),
            "gold at equal ending": told(at_equal_ending(run, "gold")) if ends else "never ends",
            "KL (nats)": f"{gains['kl'].mean():.0f}"}


two = {name: SIX[name] for name in ("BSR 0", "BSR 2")}
frame({name: agreement(run) for name, run in (NINE | RANDOM | two).items()})

# %% [markdown]
# **What to see.** At equal ending gold fell in five of the eight runs that end. P.S. BT 0 fell
# further than the lowest of random numbers, the other four did not. In three runs gold rose,
# by .3 to .4. Gains convict nobody, and we looked for no act in these seven.
#
# Nor does distance convict. All nine went further from the reference than random numbers did, but
# so did BSR 0 and BSR 2.
#
# Would the correlation with gold have warned us? Of the two misled runs' proxies one has -.22. The
# other has +.45, nearly the highest. The three rises have .47, .36 and .13.

# %% [markdown]
# Last: is BSR the better teacher, as the paper has it (Sec. 3.2)? Did its policies gain more gold
# than BT's? Seeds are paired, as in Section 4. The intervals are over seeds and prompts.

# %%
def minus_bt(name, group):
    ours, theirs = (np.array([rloo.gains(run["evaluation"])["gold_gain"]
                              for run in group[f"{method}-kl0.0"]]) for method in (name, "bt"))
    return {"gold (sd)": shown(rloo.interval(ours - theirs), "+.2f")}


frame({"Section 1: BSR minus BT": minus_bt("bsr", runs),
       "with a postscript: BSR minus BT": minus_bt("bsr-1e-2", style),
       "with a postscript: spread minus BT": minus_bt("spread-1e-1", style)})

# %% [markdown]
# **What to see.** Every interval holds zero, and every interval is wide. **BSR or spread against
# BT: undecided.** That does not say that they are alike. And the paper trains 1.5B parameters,
# with a price for KL.

# %% [markdown]
# ## 11. The proxy's favourites
#
# Does a proxy's correlation with gold say how good its picks are? Here no policy is trained: we
# pick among 64 recorded answers to each of 112 prompts (`data/runs/best_of_n`). Two made-up
# proxies correlate with gold as the trained ones do:
#
# - **gold + noise**: independent normal noise, 1.2 sds of it;
# - **gold + rare trick**: less noise, .8 sds, but one answer in a hundred has a trick. The proxy
#   adds 5 sds for it, and gold takes 2 off.
#
# A proxy's **favourites** are the answers to a prompt that it likes best: the top half, ..., the
# top one of 64. **Predict**: as the choice gets stricter, whose favourites turn worse?

# %%
scores = {name: values.astype(float) for name, values in
          np.load(RUNS / "best_of_n" / "scores.npz").items()}  # (prompts, 64) each
unit = statistics.within_sd(scores["gold"])
gold = (scores["gold"] - scores["gold"].mean(1, keepdims=True)) / unit  # sds above the average
PROXIES = {method: [(scores[f"{method}-seed{s}"], gold) for s in range(4)]
           for method in ("bt", "bsr")} | {"+ noise": [], "+ rare trick": []}
for draw in range(20):
    rng = np.random.default_rng(draw)
    normal, trick = rng.standard_normal(gold.shape), rng.random(gold.shape) < 0.01
    PROXIES["+ noise"].append((gold + 1.2 * normal, gold))
    PROXIES["+ rare trick"].append((gold + 0.8 * normal + 5 * trick, gold - 2 * trick))

# %%
def favourites(proxy, gold, keep):
    """Mean gold of the `keep` answers to each prompt that the proxy likes best.  Shapes: (P, N) ->
    (P,)."""
    best = np.argsort(-proxy, axis=1)[:, :keep]
    return np.take_along_axis(gold, best, axis=1).mean(1)

# %%
KEEP = (64, 32, 16, 8, 4, 2, 1)
curves = {name: np.array([[favourites(*one, keep) for keep in KEEP] for one in pairs])
          for name, pairs in PROXIES.items()}  # (seeds or draws, sizes, prompts)

# %%
figure, axis = plots.panels(1)
axis.plot(KEEP, [favourites(gold, gold, keep).mean() for keep in KEEP], ":", color="black")
axis.annotate("picked by gold", (0.93, 2.15), va="center")
for i, (name, text) in enumerate({"+ noise": "gold + noise", "bt": "BT, trained",
                                  "+ rare trick": "gold + rare trick"}.items()):
    tint = {"+ noise": "#999933", "+ rare trick": "#332288"}.get(name, plots.COLORS["bt"])
    mean, low, high = np.array([statistics.two_way_interval(curves[name][:, k])[:3]
                                for k in range(len(KEEP))]).T
    axis.errorbar(np.array(KEEP) * 0.97**i, mean, [mean - low, high - mean], fmt="o-",
                  color=tint, markersize=3, linewidth=1, capsize=2)
    axis.annotate(text, (0.85, mean[-1]), color=tint, va="center")
axis.set_xscale("log", base=2)
axis.set_xlim(75, 0.4)
axis.set_xticks(KEEP, ["all", *(f"1/{64 // keep}" for keep in KEEP[1:])])
axis.axhline(0, color="black", linewidth=0.8)
plots.label(axis, "the proxy's favourites: top share of the answers; 95% over seeds (or draws) "
            "and prompts", "mean gold (sd above average)",
            "The same correlation with gold (.64 or .65), three different ends")

# %%
def turning(name):
    """The strictest choice against the top eighth."""
    later = statistics.two_way_interval(curves[name][:, -1] - curves[name][:, KEEP.index(8)])[:3]
    agreed = [statistics.within_correlation(*one) for one in PROXIES[name]]
    return {"correlation with gold": f"{np.mean(agreed):.2f}",
            "top 1/64 minus top 1/8": shown(later, "+.2f"),
            "verdict": "turns" if later[2] < 0 else "rises" if later[1] > 0 else "undecided"}


frame({name: turning(name) for name in curves})

# %% [markdown]
# **What to see.** All correlate with gold by .63 to .65.
# - *Noise*: the stricter the choice, the better the favourites.
# - *Rare trick*: from the top eighth on gold falls.
# - *Trained proxies*, BT's and BSR's alike: the top one is better than the top eighth, by .2 sds.
#   Noise's is, by .4.
#
# **A correlation is an average over all answers; a search lives among the extremes.**

# %% [markdown]
# ### Exercise 3
#
# Each answer has a trick with probability `rate`, independently, and the proxy picks one with a
# trick whenever there is one. A trick's gold is `trick`. `honest[n - 1]`, of a tensor of length N,
# is gold of the best of n answers without a trick. Return the expected gold of the pick for n = 1
# to N, a tensor.
#
# <details><summary>First hint</summary>
#
# Split the cases by whether *any* of the n answers has the trick.
# </details>

# %%
def expected_gold(honest, trick, rate):
    return None


checks.check_expected_gold(expected_gold);

# %%
honest = torch.arange(1.0, 65).log()  # gold of the best of n grows about like this
for rate in (0.1, 0.01, 0.001):
    found = expected_gold(honest, -2.0, rate)
    print(f"rate {rate}: highest at n =", None if found is None else found.argmax().item() + 1)

# %% [markdown]
# *Then judge*: what do your three numbers say about the verdict "rises" in Section 11's table?
#
# <details><summary>Answer</summary>
#
# The rarer the trick, the later the turn. At one in a thousand there is none up to 64: "rises"
# cannot see it.
# </details>
# %% [markdown]
# ## What to watch, what to vary
#
# | In your run, watch | Seen here | If not, or next, vary |
# |---|---|---|
# | endings | .4 of the reference's, .96 of BT 0's | compare at equal ending |
# | gold and proxy, in sds | BT 0: 1.1 and 1.3; BSR 0: .35 and 2.05 | far apart: read the answers |
# | gold under random numbers | -1.4 sds at equal ending | count from there |
