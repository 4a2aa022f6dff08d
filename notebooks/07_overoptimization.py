# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 07 · How do you show that a reward model over-optimizes?
#
# A small network is our reward model. It learns from 300 labelled pairs of answers, again and
# again. Each pass is an **epoch**. After 8 epochs it orders .99 of its training pairs as labelled.
#
# But on new prompts its score falls: .774 after 8 epochs, .756 after 64. The score is *tau*
# (notebook 01). It is 1 where rewards order the answers to a prompt as they should, and 0 where the
# order is chance.
#
# What is to blame? Too many epochs? Bad labels? A lower score names no culprit. **Compared with
# what?** Only a control can tell.

# %% [markdown]
# Two things go by the name of **over-optimization**.
#
# - A reward model **overfits** when, *as training goes on*, its score on training data rises or
#   stays at its ceiling, while its score on new data falls.
# - A reward is **exploited** when one optimizes *harder* against it, and the reward rises while
#   quality falls. The reward model itself stays as it is.
#
# Section 2 shows the first, Section 3 the second, each beside its controls.

# %% [markdown]
# One word from before: **gold** is the preference that decides what is right. In the first reading
# gold is a formula, so every answer's gold is known.
#
# The paper says that reward models trained with Bradley-Terry (BT) overfit. Its remedy is
# batch-wise sum-to-zero regularization (BSR, Eq. 25), which adds to BT's loss a penalty on the sum
# of a batch's rewards. Exercise 1 tries BSR. Until then all reward models are trained with BT.

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
from bsr_lite.studies.best_of_n import noisy_gold
from bsr_lite.studies.records import read_table

# %% [markdown]
# Long trainings are read from records. They lie in `RUNS`.

# %%
RUNS = Path("runs" if PROFILE == "full" else "data/runs")
STUDIES = ("study_lora", "study_norms", "study_judged")
PARTS = ["in_domain", "prompt_disjoint", "response_disjoint", "mutual_disjoint"]
if PROFILE == "full":  # trains what "fast" reads; finished runs are read back
    from bsr_lite.studies.best_of_n import run_best_of_n
    from bsr_lite.studies.reward_models import run_study
    for study in STUDIES:  # the data of study_judged is not in this repository
        run_study(Path(f"bsr_lite/configs/{study}.yaml"), resume=study == "study_judged")
    run_best_of_n(Path("bsr_lite/configs/best_of_n.yaml"))

# %% [markdown]
# ## 1. Four ways to be new
#
# What is "new data"? A training pair is a prompt with two answers. Each answer was written by a
# *source*: a language model, perhaps under an instruction of its own. So test data can be new in
# prompts, in sources, or in both (the paper's Sec. 2.2):
#
# | | known sources | new sources |
# |---|---|---|
# | **training prompts** | in-domain | response-disjoint |
# | **new prompts** | prompt-disjoint | mutual-disjoint |
#
# *In-domain* has new answers of known sources. Its score is **accuracy**, the share of pairs that
# the reward orders as gold does. The other three sets are scored by tau.

# %% [markdown]
# Now three taus of one reward model: a small language model that passed once over 900 pairs of the
# *pocket world* (notebook 01). The study is called *lora*; each tau is the mean of four trainings.

# %%
for part in PARTS[1:]:
    print(f"{part}: {read_table(RUNS / 'study_lora')['bt'][part]['mean']:.3f}")

# %% [markdown]
# **Predict**: tau is .26 on response-disjoint and .35 on prompt-disjoint. Does this model overfit?
#
# <details><summary>Answer</summary>
#
# Nothing here says so. This is a *gap* between two sets at one time. Perhaps response-disjoint is
# harder to order, for anybody: its topics are not those of prompt-disjoint. Overfitting is a *fall*
# on one set, as training goes on.
# </details>
#
# **Answer.** A gap between two sets is not yet a fall.

# %% [markdown]
# ## 2. Overfitting: who is to blame for a fall?
#
# We need a place where a score falls and where suspects can be taken away: a *small world* of
# numbers. It is world A of notebook 04 (*helps* in the library), but with 300 pairs instead of
# 6,400 and 64 epochs instead of one. (Why A: Section 4.)

# %% [markdown]
# An answer is a list of 40 numbers, the sum of its prompt's list and one of its own. Ten of the 40
# decide gold. The other 30 say nothing about quality. A new prompt is a new list; prompts differ
# mostly in the 30. Answers of new sources differ more from one another in the 30.
#
# A small network turns the 40 numbers into a reward.

# %% [markdown]
# Here is a suspect. Labels are drawn at random: the better an answer, the likelier it is to be
# preferred. So some labels are **false**: they prefer the answer that gold calls worse.
#
# **The control** is the same training with **clean** labels, gold's own. All else stays the same:
# the answers, the network's start, the order of the pairs. So where the two trainings differ, the
# false labels did it.

# %%
SEEDS = 16  # each has its own answers, labels and network
LABELS = {"false": worlds.WORLDS["64 epochs"], "clean": worlds.WORLDS["64 epochs, clean labels"]}
STEPS, EPOCHS = range(75, 601, 75), range(8, 65, 8)  # from epoch 8 on


def trained(world, objective):  # scores of train and the four sets, (5, looks, seeds)
    looks = worlds.train(world, {"": worlds.OBJECTIVES[objective]}, SEEDS)
    return np.stack([[looks[step][part][:, 0] for step in STEPS] for part in ["train", *PARTS]])

# %%
small = {"bt": {labels: trained(world, "bt") for labels, world in LABELS.items()}}
bt, clean = small["bt"].values()
noisy, control = (worlds.draw(world, SEEDS)[0] for world in LABELS.values())
print(f"false labels: {(noisy != control).flatten(2).any(-1).float().mean():.2f} of the pairs")
for part, scores in zip(("training pairs", "prompt-disjoint"), bt[[0, 2]], strict=True):
    print(f"false labels, {part}: {scores[0].mean():.3f} at epoch 8, {scores[-1].mean():.3f} at 64")

# %% [markdown]
# These are the numbers of the start, means over 16 seeds: 16 networks, each with data of its own.
# From here on we look at **changes**: a score minus the same score at epoch 8, when the training
# pairs are all but learned. So epoch 8 is the control for the epochs, clean labels for the labels.
#
# **Predict** four curves. On prompt-disjoint tau falls with false labels. What does it do with
# clean ones? And what on mutual-disjoint, where sources are new as well, with false and with clean
# labels?

# %%
figure, axes = plots.panels(2, sharey=True)
tint = plots.COLORS["bt"]
shown_sets = {"prompt_disjoint": "new prompts", "mutual_disjoint": "new prompts and sources"}
for axis, (part, new) in zip(axes, shown_sets.items(), strict=True):
    for labels, line in (("false", "-"), ("clean", "--")):
        tau = small["bt"][labels][1 + PARTS.index(part)]  # (looks, seeds); 0 is train
        mean, half = np.array([metrics.seed_interval(now - tau[0]) for now in tau]).T
        axis.plot(EPOCHS, mean, line, color=tint)
        axis.fill_between(EPOCHS, mean - half, mean + half, color=tint, alpha=0.15, linewidth=0)
        axis.annotate(f"{labels} labels", (66, mean[-1]), color=tint, va="center")
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set(xlim=(6, 88), xticks=EPOCHS)  # room for the names
    name = part.replace("_", "-")
    plots.label(axis, "epoch (band: 95% over seeds)", "", f"{name}: {new}")
axes[0].set_ylabel("tau minus that at epoch 8")
figure.suptitle("False labels bring a fall on new prompts; on new sources they take away a rise");

# %% [markdown]
# <details><summary>Answer</summary>
#
# With clean labels tau *rises*, on both sets. With false labels it falls on prompt-disjoint. On
# mutual-disjoint no change is seen.
# </details>
#
# Now in numbers, and on all sets: the change from epoch 8 to 64, ± the half width of its 95%
# interval. *Train* is scored by the labels as given, the four sets by gold.

# %%
def shown(values, interval=metrics.seed_interval):  # in the tables
    mean, half = interval(values)
    return f"{round(mean, 3) + 0.0:+.3f} ± {half:.3f}"  # no -0.000


def since(scores):  # the change: (1 + sets, looks, seeds) -> (1 + sets, seeds)
    return scores[:, -1] - scores[:, 0]

# %%
UNITS = {part: f"{part} (accuracy)" for part in ("train", "in_domain")}


def table(columns, parts):  # columns: by name, (1 + sets, seeds)
    rows = [["train", *PARTS].index(part) for part in parts]
    found = {name: [shown(v) for v in values[rows]] for name, values in columns.items()}
    return pd.DataFrame(found, [UNITS.get(part, part) for part in parts])

# %% [markdown]
# The `assert` tests the definition.

# %%
def changes(scores):
    false, clean = (since(scores[labels]) for labels in LABELS)
    return {"false": false, "clean": clean, "false minus clean": false - clean}


up, _ = metrics.seed_interval(since(bt)[0])  # 0 is train, 2 prompt-disjoint
down, half = metrics.seed_interval(since(bt)[2])
assert up > 0 > down + half, "overfitting: what was seen goes up while prompt-disjoint falls"
for labels in LABELS:
    start, *_, end = small["bt"][labels][2].mean(1)
    print(f"{labels} labels, prompt-disjoint: {start:.3f} at epoch 8, {end:.3f} at 64")
table(changes(small["bt"]), ["train", *PARTS]).rename_axis("BT, change")

# %% [markdown]
# **What to see.**
#
# - *False*: train rises, while in-domain and prompt-disjoint fall. So on known sources BT overfits.
# - *Clean*: no set is seen to fall.
# - *False minus clean*: below zero on all four sets, with its whole interval. This column convicts
#   the false labels.
#
# On mutual-disjoint no fall is seen, and yet false labels cost .055 there: they took away a rise.
# **A curve that stands still can be a loss.**
#
# Earlier epochs are not shown. But at epoch 8 prompt-disjoint's tau is .774 with false labels, .830
# with clean ones.

# %% [markdown]
# Are .02 of tau much? For scale: the largest gain that the paper reports for BSR is .024 (Table 5).
#
# *How* epochs and false labels do harm together we have not examined. Another network falls with
# clean labels, too (Section 4).
#
# And our language models? In *lora* no fall of BT is seen, but one of .018 would not have shown
# (Section 5).

# %% [markdown]
# **Answer.** In our small network BT overfits on known sources. The fall from epoch 8 on takes
# both, more epochs and false labels. With clean labels tau rises. The labels' part is one number:
# the change minus the control's change, seed by seed.

# %% [markdown]
# ## 3. Exploitation: who is to blame when gold turns down?
#
# Now the reward model stays as it is. A **policy**, a model that writes answers, seeks a high
# reward. A **proxy** is any reward that stands in for gold. The plainest optimizer is
# **best-of-$n$**: draw $n$ answers and keep the one that the proxy likes best. The larger $n$, the
# harder the proxy is optimized. Does gold fall?
#
# On record are 112 new prompts with 64 answers each, written by a small language model
# (`data/runs/best_of_n`). Each answer has its gold, from 0 to 5 points, and its reward by *lora*'s
# four BT models.

# %% [markdown]
# BT is the first proxy. We make two more. Each is gold plus an error, so we know its faults.
#
# - *heavy tails*: most errors are small, a few are far larger, up or down (Student's t, 2 degrees
#   of freedom).
# - *normal noise*: errors are often large, none is over 8. It correlates with gold as weakly as
#   *heavy tails* does.
#
# **The suspect** is an error over 3 points: the answer seems so much better than it is. **The
# control** is the same proxy with each such error set to 0. All other errors stay.

# %%
picks, kept = read_table(RUNS / "best_of_n"), np.load(RUNS / "best_of_n/scores.npz")
gold, sizes = kept["gold"], picks["n"]  # (112, 64); n = 1, 2, 4, ..., 64
proxies = {"BT": [kept[f"bt-seed{seed}"] for seed in range(4)]}

# %%
def agreed(several):  # mean correlation of several proxies with gold
    return np.mean([statistics.within_correlation(proxy, gold) for proxy in several])


# half of its errors are as small as in normal noise that correlates with gold as BT does
proxies["heavy tails"] = noisy_gold(gold, agreed(proxies["BT"]), 4)["heavy-tailed noise"]
proxies["normal noise"] = noisy_gold(gold, agreed(proxies["heavy tails"]), 4)["normal noise"]
errors = {name: np.array(proxies[name]) - gold for name in ("heavy tails", "normal noise")}
print(f"BT's correlation with gold: {agreed(proxies['BT']):.2f}")

# %%
def without(name, limit=3, top=np.inf):  # the control: errors over the limit, up to top, are 0
    return list(gold + errors[name] * ((errors[name] <= limit) | (errors[name] > top)))


pd.DataFrame({name: {
    "half of the errors lie within ±": np.median(abs(error)), "largest error": error.max(),
    "share of errors over 3": (error > 3).mean(), "correlation with gold": agreed(proxies[name]),
    "correlation with gold, control": agreed(without(name))}
    for name, error in errors.items()}).round(3)

# %% [markdown]
# BT correlates .64 with gold, *heavy tails* only .29: its large errors, up and down, make it so
# weak.
#
# The **gain** of best-of-$n$ is the mean gold of what it keeps minus the mean gold of all answers.
# It is averaged over *all* draws of $n$ from the 64. Intervals are over prompts and seeds. A seed
# is one of BT's trainings or one draw of the errors.
#
# **Predict**: under which of the three proxies does gold turn down as $n$ grows? And under
# *normal noise*, do the errors over 3 cost gold anything?

# %%
def gained(proxy, value=gold):  # (of n, prompts)
    return np.array([statistics.best_of_n(proxy, value, n) for n in sizes]) - value.mean(1)


gains = {name: np.array([gained(proxy) for proxy in several]) for name, several in proxies.items()}
for name, key in (("BT", "bt"), ("heavy tails", "heavy-tailed noise")):
    recorded = np.array(picks["methods"][key]["seeds"]) - gold.mean()
    assert np.allclose(gains[name].mean(2), recorded, atol=1e-4), "as recorded"

# %%
def both(values):  # (seeds, prompts): mean, 95% half width
    mean, _, high, _ = statistics.two_way_interval(values)
    return mean, high - mean


def late(values):  # from n = 16 to 64: sizes[4] and sizes[6]
    return values[:, 6] - values[:, 4]


def parts(name, limit):  # gold's late change with the suspect, without it, and the difference
    control = late(np.array([gained(proxy) for proxy in without(name, limit)]))
    return late(gains[name]), control, late(gains[name]) - control

# %%
TINTS = {"BT": plots.COLORS["bt"], "normal noise": "#228833", "heavy tails": "#994455"}
figure, axes = plots.panels(2)
cured = np.array([gained(proxy) for proxy in without("heavy tails", 3)])
for name, values in (gains | {"heavy tails, control": cured}).items():
    tint, line = TINTS[name.split(",")[0]], "--" if "," in name else "o-"
    mean, half = np.array([both(values[:, i]) for i in range(len(sizes))]).T
    axes[0].plot(sizes, mean, line, color=tint, markersize=3)
    axes[0].fill_between(sizes, mean - half, mean + half, color=tint, alpha=0.15, linewidth=0)
    axes[0].annotate(name, (72, mean[-1]), color=tint, va="center")
for place, name in zip((0, 1.1), errors, strict=True):
    for aside, values, mark, fill in zip((0, 0.3, 0.6), parts(name, 3), "ooD", (None, "w", None),
                                         strict=True):
        axes[1].errorbar(place + aside, *both(values), fmt=mark, capsize=3, color=TINTS[name],
                         markerfacecolor=fill)
    axes[1].annotate(name, (place + 0.3, 0.37), ha="center", color=TINTS[name])
axes[0].set_xscale("log", base=2)
axes[0].set_xticks(sizes, sizes)
axes[0].set_xlim(0.9, 620)  # room for the names
axes[1].axhline(0, color="black", linewidth=0.8)
axes[1].set(xlim=(-0.2, 1.9), ylim=(-0.28, 0.42))
axes[1].set_xticks((0, 0.3, 0.6, 1.1, 1.4, 1.7), ["with", "without", "part"] * 2)
plots.label(axes[0], "n: answers drawn", "gain in gold (points)", "gold's gain as n grows")
plots.label(axes[1], "errors over 3 (part: with minus without)", "points",
           "gold's change from n = 16 to 64")
figure.supxlabel("bands and bars: 95%", fontsize=8)
figure.suptitle("Errors over 3 cost gold under both noises; under heavy tails the curve shows it");

# %% [markdown]
# **What to see.** Left, gold rises under BT and *normal noise*. Under *heavy tails* it rises, turns
# and falls, while the proxy itself rises to the end (the `assert` below). So *heavy tails* is
# **exploited**.
#
# The right panel in numbers. *Heavy tails* is at its top at $n = 16$, so its fall is measured from
# there. The limit 3 is a choice. The second row takes out only the errors over 6. The last row
# starts from the control without any error over 3, and puts only those over 6 back.

# %%
assert all((np.diff(gained(proxy, proxy).mean(1)) > 0).all()
           for several in proxies.values() for proxy in several), "every proxy rises with n"
print("gold's change from n = 16 to 64, BT:", shown(late(gains["BT"]), both))
columns = ["with", "without", "with minus without"]
suspects = (("heavy tails", 3), ("heavy tails", 6), ("normal noise", 3))
found = {f"{name}, errors over {limit}": [shown(values, both) for values in parts(name, limit)]
         for name, limit in suspects}
middle = late(np.array([gained(proxy) for proxy in without("heavy tails", 3, 6)]))
none = late(cured)
found["heavy tails, only those over 6 put back"] = [shown(values, both)
                                                    for values in (middle, none, middle - none)]
pd.DataFrame(found, columns).transpose()

# %% [markdown]
# What is to blame for the turn under *heavy tails*?
#
# - *The weak correlation?* *Normal noise* correlates as weakly, and gold rises. So weak correlation
#   alone does not do it.
# - *The errors over 3?* Convicted: their part is -.186 ± .062, and without them gold rises.
# - *Those over 6 alone?* Taken out, not convicted: errors of 3 to 6 can win in their place. Put
#   back, they are. **Suspects that can stand in for each other hide each other: take out all, then
#   put one back.**

# %% [markdown]
# Under *normal noise* the errors over 3 cost about as much, .191, and yet gold rises. Without them
# it rises by .271. **A curve that rises can hide a loss**, too. (Barring the answers with such an
# error gives *heavy tails* about the same part: `data/runs/LOG.md`.)

# %% [markdown]
# How can so few errors cost so much? Look at the **favourites**, the answers kept at $n = 64$.

# %%
def favourites(name, values):  # the mean over the answers kept at n = 64
    return np.mean([statistics.best_of_n(proxy, value, 64)
                    for proxy, value in zip(proxies[name], values, strict=True)])


for name, error in errors.items():
    large = (error > 3).astype(float)
    share = favourites(name, large)
    print(f"{name}, with an error over 3: {large.mean():.3f} of all answers, "
          f"{share:.2f} of the favourites (gold {favourites(name, large * gold) / share:.2f})")
print(f"gold of all answers: {gold.mean():.2f}")

# %% [markdown]
# Under *heavy tails* .018 of all answers have such an error, but .65 of the favourites do. Their
# gold is 3.20, hardly over a random answer's 3.09.
#
# Under *normal noise* still more have one, .93. Yet their gold is 3.44: there gold still helps to
# decide which of them wins. (None of those errors is over 8.)
#
# **Answer.** *Heavy tails* is exploited, and its errors over 3 are convicted. BT's reward is not
# exploited here, up to $n = 64$. (The policy is a source that BT knows.)

# %% [markdown]
# ## Exercises
#
# A fold holds the first hint. The second comes with a wrong answer, or in a second fold. Solutions:
# `notebooks/solutions/`.

# %% [markdown]
# **1.** *Two verdicts, one difference.* Eight seeds are trained with a suspect and without it.
# Invent the changes of their taus, a list *with* and a list *without*, for two cases:
#
# - `"a"`: *with* a fall is shown, *without* none. Yet the suspect is not convicted.
# - `"b"`: neither *with* nor *without* is a fall shown. Yet the suspect is convicted.
#
# A fall is shown where the 95% interval over seeds (`metrics.seed_interval`) lies below zero.
# Where none is shown, let it hold zero. The verdict is read off *with minus without* in the same
# way.
#
# <details><summary>Hint</summary>
#
# `"a"`: what if the control's own change is hardly known? `"b"`: what can the two trainings of one
# seed have in common?
# </details>

# %%
def invented(case):
    return None  # changes with the suspect, changes without it


checks.check_invented(invented);

# %% [markdown]
# Then judge BSR, at the paper's weight of the penalty, $\lambda = 10^{-3}$. Let the score be its
# **lead**, BSR's tau minus BT's, on prompt-disjoint. With false labels the lead sinks as training
# goes on.
#
# Are false labels why? Guess, run the cell, then print the one number that decides.

# %%
small["bsr-1e-3"] = {labels: trained(world, "bsr-1e-3") for labels, world in LABELS.items()}
lead = {labels: small["bsr-1e-3"][labels] - small["bt"][labels] for labels in LABELS}
moved = {labels: since(lead[labels])[2] for labels in LABELS}  # prompt-disjoint, one a seed
for labels, change in moved.items():
    print(f"{labels} labels: BSR's lead changes by {shown(change)}")

# %% [markdown]
# **2.** *A proxy of your own.* Let the proxy be brevity: fewer words, more reward. Plot gold's gain
# against $n$. Is the proxy exploited?
#
# Suspects are its weak correlation with gold and the answers of under 6 words. Build a control for
# each. What is the short answers' part of gold's change from $n = 16$ to 64? Give its interval.
#
# `noisy_gold(gold, correlation, 4)["normal noise"]` makes four proxies of that correlation.
# `agreed` takes a list of proxies, `gained` one, `shown` one number a prompt.
#
# <details><summary>Hint</summary>
#
# One control has brevity's correlation. In the other no such short answer may win.
# </details>
# <details><summary>Second hint</summary>
#
# `np.where(kept["words"] < 6, -100, brevity)` bars them. Prompt by prompt, subtract this control's
# change.
# </details>

# %%
brevity = -kept["words"].astype(float)  # (112, 64); your lines follow

# %% [markdown]
# ## Check yourself
#
# 1. Why can a curve that stands still, or even rises, be a loss?
# 2. With clean labels 64 epochs raise tau. Does that acquit the epochs?
# 3. With the suspect a fall excludes zero. Without it the fall's interval holds zero. Is the
#    suspect convicted?
# 4. Tau is lower on response-disjoint than on prompt-disjoint. Why does that convict nobody?
# 5. A proxy rises and gold falls, while the reward model and its tau on a fixed test set stay as
#    they were. Overfitted or exploited?

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1. Without the cause it might have risen, or risen further.
# 2. No. With false labels tau fell in just these epochs: stopping at 8 would have avoided that
#    fall.
# 3. Not yet. The two intervals may overlap: look at that of the *difference*.
# 4. It is no fall. Prompts differ as well as sources, so the set may be harder for anybody.
# 5. Exploited: the picks moved to where the proxy errs.
#
# </details>

# %% [markdown]
# <details><summary>Exercise 1</summary>
#
# `"a"`: the control's seeds scatter widely. `"b"`: a seed's luck is large, but the same in both
# trainings.
#
# False labels are not convicted. With clean labels the lead sinks, too, by .011 ± .004: falling
# behind is a *cost of BSR* with either labels. The false labels' part is +.002 ± .008. So up to
# .006 of the loss may still be theirs. (On new sources BSR ends ahead here, by .02: Section 4. This
# world was chosen because it does.)
# </details>

# %% [markdown]
# <details><summary>Exercise 2</summary>
#
# It is exploited: gold's gain is +.16 at $n = 4$ and -.27 at 64. The weak correlation, .33, alone
# is not why: its control rises to +.43.
#
# The short answers' part is -.197 ± .087: convicted. (With gold for their reward, as in Section 3,
# they would always win: brevity is below 0.) Barring them lifts the correlation, too, but only to
# .36. Without them gold still falls, by .149 ± .069. With all answers of under 12 words barred no
# fall is seen.
# </details>

# %% [markdown]
# ## What to watch, what to vary
#
# | In your run, watch | healthy | otherwise, seen here | then vary |
# |---|---|---|---|
# | change on prompt-disjoint, as training goes on | no fall | -.018, 64 epochs | fewer epochs |
# | a set's change minus that with clean labels | near 0 | -.055, mutual-disjoint | cleaner labels |
# | gold's change, $n = 16$ to 64 | +.104, BT | -.098, heavy tails | smaller $n$; another proxy |
#
# No clean labels? Have a part relabelled with care, or flip some yourself. Compare both trainings.
# No gold? Have people judge the picks at $n = 16$ and at 64.

# %% [markdown]
# ## What you know now
#
# The fall of the start, from .774 to .756, took two: many epochs and false labels. And when gold
# turned down under *heavy tails*, a control convicted its errors over 3.
#
# **A curve alone convicts nobody and acquits nobody: repeat the run without the suspect.**
#
# Next: **08 · How does a policy learn from a reward?**

# %% [markdown]
# ## Second reading
#
# Section 4 examines dispersing norms, and BSR, in the small world. Section 5 has the language
# models, Section 6 a second suspect, Section 7 the verdicts, Section 8 a formula. **Paired** scores
# are of the same prompts.

# %%
import dataclasses

from bsr_lite.config import load_config
from bsr_lite.scenarios import load_scenarios, sets_of
from bsr_lite.studies import records
from bsr_lite.studies.records import read_runs, watched

# %% [markdown]
# ## 4. Does a fall need dispersion? And does BSR lessen it?
#
# The paper suspects *dispersion*: hidden states $h$ of ever more different length. It is there: in
# Section 2's world the spread of $\lVert h\rVert$ over its mean grows from .21 ± .01 to .42 ± .02.
# But with clean labels it grows, too, from .24 to .44 (`data/runs/worlds`).
#
# So take it away. With a final RMSNorm all $h$ have one length.
#
# **Predict**: is *false minus clean* smaller than without the norm? (We look at known sources,
# where BT fell.)

# %%
one_length = {labels: trained(dataclasses.replace(world, norm=True), "bt")
              for labels, world in LABELS.items()}
columns, last = changes(one_length), "false minus clean"
columns["last, minus the same without the norm"] = columns[last] - changes(small["bt"])[last]
table(columns, ["train", *PARTS[:2]]).rename_axis("BT, RMSNorm")

# %% [markdown]
# <details><summary>Answer</summary>
#
# It is not seen to be: on prompt-disjoint the two differ by -.001 ± .009. False labels do their
# harm here, too, -.044 ± .012. So a fall needs no dispersion.
#
# With clean labels prompt-disjoint falls by .020. So with a final norm something else does harm as
# well: not looked for.
# </details>

# %% [markdown]
# Now BSR beside BT, at the paper's $\lambda = 10^{-3}$ and at $10^{-2}$. This world was *chosen*:
# in world A BSR gains on new sources, in other worlds it loses there (notebook 04).
#
# **Predict**: on prompt-disjoint, does either $\lambda$ fall less than BT? On new sources, who is
# ahead at the end, and is that so with clean labels?

# %%
small["bsr-1e-2"] = {labels: trained(world, "bsr-1e-2") for labels, world in LABELS.items()}

# %%
leads = {(weight, labels): small[f"bsr-{weight}"][labels] - small["bt"][labels]
         for weight in ("1e-3", "1e-2") for labels in LABELS}


def compared(take):  # the lead of either weight, with false labels; then false minus clean
    found = {f"{weight}, false": take(leads[weight, "false"]) for weight in ("1e-3", "1e-2")}
    return found | {f"{weight}, false minus clean":
                    take(leads[weight, "false"]) - take(leads[weight, "clean"])
                    for weight in ("1e-3", "1e-2")}


pd.concat({"change of the lead": table(compared(since), PARTS),
           "lead at epoch 64": table(compared(lambda scores: scores[:, -1]), PARTS)})

# %% [markdown]
# The figure shows the lower half for $10^{-3}$, false and clean labels apart.

# %%
figure, axis = plots.panels(1)
axis.axvline(1.5, color="#bbbbbb", linewidth=0.8)
for labels, fill, aside in (("false", None, -0.1), ("clean", "white", 0.1)):
    for place, values in enumerate(leads["1e-3", labels][1:, -1]):
        mean, half = metrics.seed_interval(values)
        axis.errorbar(place + aside, mean, half, fmt="o", capsize=3, mfc=fill,
                      color=plots.COLORS["bsr"])
axis.axhline(0, color="black", linewidth=0.8)
axis.set_xticks(range(4), [part.replace("_", "-") for part in PARTS])
for place, name in ((0.5, "known sources"), (2.5, "new sources")):
    axis.annotate(name, (place, -0.0185), ha="center")
plots.label(axis, "", "BSR minus BT at epoch 64, tau\n(in-domain: accuracy); bars: 95%",
            "With false labels BSR (1e-3) ends ahead on new sources (hollow: clean labels)")

# %% [markdown]
# <details><summary>Answer</summary>
#
# Neither falls less. On prompt-disjoint both fall further, by .009 and .018, and false labels are
# not seen to be why: it is a cost of BSR.
#
# On new sources both end ahead, by about .02. On mutual-disjoint false labels are why, at either
# $\lambda$, in this chosen world. On response-disjoint at $10^{-3}$ that is open.
# </details>

# %% [markdown]
# ## 5. The language models: does BT fall, does BSR rank better?
#
# While *lora* was trained, it was scored on 32 prompts of every set. We compare the middle of its
# one epoch, step 28, with its end, step 57.

# %%
runs = read_runs(RUNS / "study_lora")
steps = watched(runs["bt"], "train", "score")[0]
looks = [steps.index(step) for step in (28, 57)]
scores = np.array([np.array(watched(runs["bt"], part, "score")[1]).T[looks]
                   for part in ["train", *PARTS]])
table({"BT, step 28 to 57": since(scores)}, ["train", *PARTS])

# %% [markdown]
# No fall is seen: every interval holds zero. But each pair was seen only *once*. And on
# prompt-disjoint the half width is .047, so the small world's fall, .018, would not show.
#
# A *head alone*, a small network on a language model's frozen states, saw each pair 32 times. There
# BT's tau ended .02 to .06 lower than after four epochs, as the paper says (`data/runs/LOG.md`,
# *frozen_long*). The difference has no interval: its records are gone.

# %% [markdown]
# Does BSR reach a higher tau than BT? The paper's Table 5 says yes, for four models on three
# disjoint sets. It gives no intervals. We trained both, at the same $\lambda$, in six studies:
#
# - *lora*, *pocket*, *terms* and *lambda* train LoRA on 10 layers of a small language model;
# - *norms* trains all weights of 30 layers;
# - *judged* trains LoRA on real answers that a GPT-4 judge ranked.
#
# All but *judged* draw from the same prompts, so these are not six independent looks.
#
# **Predict**: of eighteen intervals of *BSR minus BT*, how many **exclude zero** (lie on one side
# of it), and on which side?

# %%
PAPER = {"Llama-3.2-1B": (0.0041, 0.0131, 0.0141), "Llama-3.2-3B": (0.0230, 0.0207, 0.0216),
         "Qwen2.5-1.5B": (0.0014, 0.0017, 0.0007), "Qwen2.5-3B": (0.0152, 0.0074, 0.0236)}
studies = {name.removeprefix("study_"): read_table(RUNS / name) for name in STUDIES}
studies |= {name: read_table(f"data/runs/study_{name}") for name in ("lambda", "pocket", "terms")}
BSR = {"lora": "bsr", "pocket": "bsr", "terms": "bsr-1e-3", "lambda": "bsr-1e-3", "norms": "bsr",
       "judged": "bsr"}  # what BSR at 1e-3 is called in each

# %% [markdown]
# We count the intervals that exclude zero. And we ask of the paper's largest gain on each set: in
# how many of the six studies does it lie above our whole interval?

# %%
ours = pd.DataFrame([(study, part, *studies[study][method][part]["difference"])
                     for study, method in BSR.items() for part in PARTS[1:]],
                    columns=["study", "set", "mean", "low", "high"])
out = ours[ours.low * ours.high > 0]
print(f"{len(ours) - len(out)} hold zero; not:\n", out.round(3).to_string(index=False))
for part, gains_there in zip(PARTS[1:], zip(*PAPER.values(), strict=True), strict=True):
    above = (ours[ours["set"] == part].high < max(gains_there)).sum()
    print(f"{part}: the paper's largest gain, {max(gains_there):.4f}, lies above {above} of 6")

# %% [markdown]
# The figure has one panel a set. The grey band spans the paper's four gains on it, each a thin
# line.

# %%
figure, axes = plots.panels(3, sharex=True, sharey=True)
for axis, (index, part) in zip(axes, enumerate(PARTS[1:]), strict=True):
    theirs = [gain[index] for gain in PAPER.values()]
    axis.axvspan(min(theirs), max(theirs), color="#dddddd", linewidth=0)
    axis.vlines(theirs, -0.6, 5.6, color="#888888", linewidth=0.8)
    for place, row in enumerate(ours[ours["set"] == part].itertuples()):
        tint = "black" if row.high < 0 else plots.COLORS["bsr"]
        axis.plot((row.low, row.high), (place, place), color=tint, linewidth=2,
                  solid_capstyle="butt")
        axis.plot(row.mean, place, "o", color=tint, markersize=4)
        if row.high < 0:
            axis.annotate(f"ends at {row.high:.3f}", (0.03, place), va="center", fontsize=8)
        if row.high > 0.1:  # cut
            axis.annotate(f"to {row.high:.2f} →", (0.1, place - 0.2), ha="right", fontsize=8)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.grid(visible=False)
    plots.label(axis, "tau of BSR minus BT's", "", part.replace("_", "-"))
axes[0].set(xlim=(-0.1, 0.1), ylim=(5.6, -0.6), xticks=(-0.05, 0, 0.05))
axes[0].set_yticks(range(6), BSR)
note = "red, black: ours, 95% over seeds and topics (judged: prompts); grey: the paper's"
figure.supxlabel(note, size=8)
figure.suptitle(f"No gain of BSR is shown: {len(ours) - len(out)} of {len(ours)} intervals hold "
                f"zero, {len(out)} lies below it (black)");

# %% [markdown]
# <details><summary>Answer</summary>
#
# One, on the side of a cost: *lambda* on mutual-disjoint. Of eighteen 95% intervals chance alone
# lets .9 exclude zero. So this one convicts nobody.
# </details>
#
# **What to see.** No gain of BSR is shown. Most intervals reach into the grey band: they exclude
# neither zero nor the paper's smaller gains. Its largest gain on a set lies above three or four of
# six. But our models and data are not the paper's.
#
# In the *head alone* BSR costs .002 to .007 of tau, in five of six intervals (`data/runs/LOG.md`).

# %% [markdown]
# ## 6. New sources score lower: is that overfitting?
#
# In the paper's Table 5 tau is lower on new sources. A **gap**, below, is tau on new sources minus
# tau on prompt-disjoint. Is it the model's fault, or are the sets different?
#
# In the pocket world mutual-disjoint has the very prompts of prompt-disjoint: only the sources
# change. Response-disjoint has other prompts, of other topics.
#
# To tell, score a rule that saw no pair, the number of **characters**. Fewer is better in the
# pocket world, more in *judged*. (In *lora* this sign was chosen on dev. In *judged* the rule was
# tuned on the test prompts themselves.)
#
# **Predict**: in *lora* and in *judged*, does the rule's gap have BT's sign?

# %%
def fewer_characters(sets):
    lengths = np.array([[len(text) for text in group.responses] for group in sets])
    return metrics.agreement(-lengths, np.array([group.gold for group in sets]))[1]  # (prompts,)


config = load_config("bsr_lite/configs/rm_fast.yaml", overrides=["data.max_pairs=900"])  # lora's
texts = load_scenarios(config)
on_dev = fewer_characters(sets_of(texts, "dev_prompt_disjoint")).mean()
print(f"tau of fewer characters on dev: {on_dev:+.3f}")

# %%
rule, asked, topics = {}, {}, {}  # of a set: the rule's tau on each prompt; prompts; topics
for part in PARTS[1:]:
    same = runs["bt"][0]["evaluation"]["scenarios"][part]["gold"]
    sets = records.drawn(sets_of(texts, part), len(same), config.data.seed)
    assert np.allclose([group.gold for group in sets], same, atol=1e-3), "BT's own sets"
    rule[part] = fewer_characters(sets)
    asked[part] = [group.prompt for group in sets]
    topics[part] = records.topics(config, sets)
assert asked["mutual_disjoint"] == asked["prompt_disjoint"], "only the sources change"
assert not set(topics["response_disjoint"]) & set(topics["prompt_disjoint"]), "other topics"

# %%
def between(known, new, same_prompts=False):
    """Mean on new minus mean on known, and the half width of its interval over prompts: paired,
    where both are scores of the same prompts."""
    parts = [np.subtract(new, known)] if same_prompts else [np.asarray(known), np.asarray(new)]
    half = 1.96 * math.sqrt(sum(x.var(ddof=1) / len(x) for x in parts))
    return np.mean(new) - np.mean(known), half

# %%
def gaps(study, part):
    """BT's gap by seed, its half width over prompts; the rule's tau on known and on new sources."""
    known, new = (studies[study]["bt"][name] for name in ("prompt_disjoint", part))
    scenarios = [run["evaluation"]["scenarios"] for run in read_runs(RUNS / f"study_{study}")["bt"]]
    by_prompt = [np.mean([s[name]["per_prompt"] for s in scenarios], 0)
                 for name in ("prompt_disjoint", part)]
    half = between(*by_prompt, same_prompts=(study, part) == ("lora", "mutual_disjoint"))[1]
    sign = np.sign(known["length_score"])
    return (np.subtract(new["seeds"], known["seeds"]), half,
            sign * known["length_score"], sign * new["length_score"])

# %%
found = {(study, part): gaps(study, part) for study in ("lora", "judged") for part in PARTS[2:]}
ruled = {("lora", part): between(rule["prompt_disjoint"], rule[part], part == "mutual_disjoint")[1]
         for part in PARTS[2:]}  # half widths; judged's rule has but one number a set

# %%
figure, axes = plots.panels(2, sharey=True)
for (study, part), (dots, half, before, after) in found.items():
    axis, place = axes[("lora", "judged").index(study)], PARTS.index(part) - 2
    beside = place - 0.1 + np.linspace(-0.03, 0.03, len(dots))  # no two seeds in one place
    axis.plot(beside, dots, ".", color=plots.COLORS["bt"])
    axis.errorbar(place, dots.mean(), half, fmt="o", capsize=3, color=plots.COLORS["bt"])
    own = ruled.get((study, part))
    axis.errorbar(place + 0.15, after - before, own, fmt="kD", capsize=3,
                  markerfacecolor="black" if own else "white")
    plots.label(axis, "", "", study)
for axis in axes:
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set_xticks((0, 1), ("response-disjoint", "mutual-disjoint"))
    axis.set_xlim(-0.5, 1.5)
axes[0].annotate("BT (a small\ndot a seed)", (-0.45, 0.03), color=plots.COLORS["bt"], fontsize=9)
axes[0].annotate("rule: no pair seen", (0.2, -0.22), fontsize=9)
axes[1].annotate("rule (hollow: no\ninterval recorded)", (0.22, 0.225), fontsize=9, va="center")
axes[0].set_ylabel("tau minus that on prompt-disjoint")
figure.supxlabel("bar: 95% over prompts, for these seeds", fontsize=8)
figure.suptitle("In lora both gaps, BT's and the rule's, exclude zero on response-disjoint only");

# %%
assert all(dots.mean() * (after - before) > 0 for dots, _, before, after in found.values()), \
    "the mean gap of a rule that learned nothing has the sign of BT's"
pd.DataFrame({key: {
    "BT's tau, known to new": "{:.3f} to {:.3f}".format(
        *(studies[key[0]]["bt"][part]["mean"] for part in ("prompt_disjoint", key[1]))),
    "the rule's tau": f"{before:.3f} to {after:.3f}"}
    for key, (_, _, before, after) in found.items()}).transpose()

# %% [markdown]
# <details><summary>Answer</summary>
#
# In both, judged by the means. In *judged* BT and the rule both rise on new sources, in *lora* both
# fall. On *lora*'s mutual-disjoint, where sources alone change, either gap is open.
# </details>

# %% [markdown]
# Is BT innocent, then? **Would this test convict anybody?** Go back to Section 2's world.
# Take two rules there: *one signal coordinate*, that is, one that decides gold, and the *plain sum
# of all 40*.
#
# **Predict**: beside which does BT look guilty (it loses more than the rule)? And will BT trained
# on *clean* labels look innocent?

# %%
answers, true = worlds.draw(LABELS["false"], SEEDS)[1], worlds.gold_direction()


def rule_gap(weights):  # (seeds,)
    known, new = ([metrics.agreement((x @ weights).numpy(), (x @ true).numpy())[1].mean()
                   for x in answers[part]] for part in ("prompt_disjoint", "mutual_disjoint"))
    return np.subtract(new, known)

# %%
def gap(scores):  # (1 + sets, looks, seeds) -> (seeds,), at epoch 64; 0 is train
    known, new = (1 + PARTS.index(part) for part in ("prompt_disjoint", "mutual_disjoint"))
    return scores[new, -1] - scores[known, -1]


guilty, innocent = gap(bt), gap(clean)
rules = {"one signal coordinate": rule_gap(torch.eye(len(true))[0]),
         "plain sum of all 40": rule_gap(torch.ones(len(true)))}
for name, own in rules.items():
    print(f"BT's gap at 64, minus that of {name}: {shown(guilty - own)}, "
          f"clean labels {shown(innocent - own)}")

# %%
one, alike = rules
four = {f"rule: {one}": rules[one], "BT, clean labels": innocent, "BT, false labels": guilty,
        f"rule: {alike}": rules[alike]}
figure, axis = plots.panels(1)
axis.plot(range(4), np.stack(list(four.values())), color="#bbbbbb", linewidth=0.6)
for place, (name, values) in enumerate(four.items()):
    mean, half = metrics.seed_interval(values)
    axis.errorbar(place, mean, half, fmt="o", capsize=3,
                  color=plots.COLORS["bt"] if name.startswith("BT") else "black")
axis.plot((1, 1, 2, 2), (-0.065, -0.05, -0.05, -0.065), color=plots.COLORS["bt"])  # a bracket
axis.annotate(f"false labels' part: {shown(guilty - innocent)}", (1.5, -0.045), ha="center",
              va="bottom", color=plots.COLORS["bt"])
arrow = {"arrowstyle": "->", "shrinkB": 6}
axis.annotate("beside this rule\nBT loses more", (0, rules[one].mean()), (-0.1, -0.3),
              arrowprops=arrow)
axis.annotate("beside this one\nit loses less", (3, rules[alike].mean()), (3, -0.2),
              ha="center", arrowprops=arrow)
axis.axhline(0, color="black", linewidth=0.8)
axis.set_xticks(range(4), list(four))
plots.label(axis, "a grey line: one seed", "tau, mutual- minus prompt-disjoint",
            "Beside one rule BT looks guilty, beside the other innocent")
assert sum(metrics.seed_interval(guilty - innocent)) < 0, "false labels widen the gap"

# %% [markdown]
# <details><summary>Answer</summary>
#
# Beside the first BT looks guilty: it loses .155 ± .024 more. Beside the second it looks innocent:
# it loses .301 ± .026 *less*. *The verdict depends on the rule.* Even clean BT looks guilty beside
# the first: it loses .114 ± .021 more.
# </details>
#
# So train the same model without the suspected cause. *False labels* widen the gap by .041 ± .014:
# about a quarter of it. The rest is there with clean labels, too.

# %% [markdown]
# ## 7. The verdicts
#
# Which claims hold here, then? Each is put to an interval and gets one of four words.
#
# - **Shown**: the interval lies on the claim's side of zero.
# - **Against**: it lies on the other side.
# - **Open**: it holds zero.
# - **Not tested**: nobody looked, or no fall was seen that one could explain or lessen.
#
# **Predict** the word for our *language models*. A star marks a claim of ours.
#
# 1. BT overfits.
# 2. False labels are a cause.*
# 3. BSR at $10^{-3}$ falls less than BT.
# 4. BSR at $10^{-3}$ ends higher than BT.
# 5. Best-of-$n$ by BT loses gold.*
# 6. Norms disperse.
# 7. A fall needs dispersing norms.
# 8. Mutual-disjoint scores lower.

# %% [markdown]
# <details><summary>Answer</summary>
#
# |read off|small world|language models|
# |---|---|---|
# |1 BT's change|known sources **shown**, new **open**|**open**|
# |2 *false minus clean*|**shown**|not tested|
# |3 lead, change|prompt-disjoint **against**, new: not tested (no fall)|not tested|
# |4 lead, end|prompt-disjoint **against**, new **shown**|17 of 18 **open**, one **against**|
# |5 gold, $n$ 16 to 64|not tested|**against**|
# |6 spread of $\lVert h\rVert$|**shown**|**open** (02, Section 5)|
# |7 fall with RMSNorm|**against**|not tested|
# |8 the gap|*helps* **shown**|*lora* **open**, *judged* **against**|
#
# </details>
#
# The small world's rows 1, 3 and 4 are with false labels. In-domain rows 3 and 4 are **open**.

# %% [markdown]
# The small world is one of seven (`data/runs/worlds`). In these BSR at $10^{-3}$ gains tau on
# response-disjoint in three, loses in three, and one is open. All three gains are *helps* or its
# variants, and Section 2's world is one of them. So row 4's **shown** is no evidence for the paper.
#
# *Judged* speaks of its three models: Section 6's bars are over prompts only. At other $\lambda$
# BSR has costs in language models, and one gain, on labels of people (06, Section 11).
#
# And in Section 3, does BSR pick better? Here are its reward models as the proxy, minus BT's. It is
# **open**.

# %%
mean, _, high, _ = picks["methods"]["bsr"]["difference"][6]
print(f"gold's gain at n = 64, BSR minus BT: {round(mean, 3) + 0.0:+.3f} ± {high - mean:.3f}")

# %% [markdown]
# ## 8. Best-of-$n$ without drawing
#
# Let there be $N$ answers to a prompt. What does best-of-$n$ keep on average? One could draw $n$ of
# them many times. An exact way is to average over *all* $\binom{N}{n}$ draws.
#
# Sort the answers by the proxy, and number them from 0. Answer $i$ has $i$ others below it. It wins
# a draw that holds it when the other $n-1$ answers come from those $i$. So it wins $\binom{i}{n-1}$
# of the draws. With $v_{(i)}$ its value, the average is
#
# $$\widehat{E}_n = \sum_{i} \frac{\binom{i}{n-1}}{\binom{N}{n}}\; v_{(i)}.$$
#
# In words: the mean value of all answers, each weighted by how often it wins. The value will be
# gold.

# %%
def best_of_n(proxy, values, n):
    ranked = np.asarray(values)[np.argsort(proxy)]
    total = math.comb(len(ranked), n)
    return sum(math.comb(i, n - 1) / total * v for i, v in enumerate(ranked))

# %% [markdown]
# A check: 20,000 random draws should give nearly the formula's value, the library exactly that.

# %%
rng = np.random.default_rng(0)
proxy, value = rng.normal(size=(2, 16))
drawn = [value[max(rng.choice(16, 4, replace=False), key=proxy.__getitem__)] for _ in range(20_000)]
exact = best_of_n(proxy, value, 4)
print(f"20,000 draws of 4: {np.mean(drawn):.3f}, by the formula {exact:.3f}")
assert abs(np.mean(drawn) - exact) < 0.02, "the average over all draws is what drawing estimates"
assert math.isclose(exact, statistics.best_of_n(proxy, value, 4)), "ties aside the library agrees"
assert math.isclose(best_of_n(proxy, value, 1), value.mean()), "the best of one is any answer"

# %% [markdown]
# ### Exercise 3
#
# *Judge a record, and plan the next.* How much of BT's gap on *lora*'s response-disjoint is beyond
# the rule's? From `model_known, model_new, rule_known, rule_new` (scores of the *same* prompts by
# model, its seeds averaged, and rule) return a tensor of three:
#
# - the model's gap minus the rule's;
# - its half width, 1.96 standard errors over prompts (variances with $n - 1$);
# - the prompts a set, rounded up, at which the half width would be `useful`.
#
# Run the last cell: what is shown, of which models? Would it do for mutual-disjoint?
#
# <details><summary>Hint</summary>
#
# Which scores belong to the same prompt? See Section 1's table.
# </details>

# %%
def gap_beyond(model_known, model_new, rule_known, rule_new, useful):
    return None


checks.check_gap_beyond(gap_beyond);

# %%
pair = ("prompt_disjoint", "response_disjoint")  # of lora
scores = [np.mean([run["evaluation"]["scenarios"][part]["per_prompt"] for run in runs["bt"]], 0)
          for part in pair] + [rule[part] for part in pair]  # BT's, then the rule's
print(gap_beyond(*(torch.as_tensor(x, dtype=torch.float64) for x in scores), useful=0.05))

# %% [markdown]
# ### Exercise 4
#
# A proxy such as the number of words is an integer. So some answers *tie*: they have the
# same proxy. Section 8's function breaks ties as its sort happens to leave them. Write the estimate
# in which ties are broken at random (exactly, not by shuffling), from tensors `proxy` and `gold` of
# $N$ samples.
#
# <details><summary>Hint</summary>
#
# Do not ask which sample wins, but which *value of the proxy* is the largest in a draw.
# </details>

# %%
def best_of_n_with_ties(proxy, gold, n):
    return None


checks.check_best_of_n_with_ties(best_of_n_with_ties);

# %% [markdown]
# <details><summary>Exercise 3</summary>
#
# Nothing is shown, +.070 ± .120 (+: BT loses *less* than the rule). To reach ± .05 takes 1,390
# prompts a set, *for these four models*. There are 240. Mutual-disjoint needs the paired form.
# </details>
