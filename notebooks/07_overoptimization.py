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
# A reward model of ours scores .35 on answers of *known sources*: models whose answers it was
# trained on. On answers of *new sources* it scores .26. The score is *tau* (notebook 01). It is 1
# where a reward orders the answers to a prompt as it should, and 0 where the order is chance.
#
# Is this reward model over-optimized? **Compared with what?** Perhaps the model got worse. Perhaps
# the new answers are harder to order, for anybody. Only a control can tell.

# %% [markdown]
# Two things go by the name of **over-optimization**.
#
# - A reward model **overfits** when its score on training data rises, or stays at its ceiling,
#   while its score on new data falls.
# - A reward is **exploited** when optimizing *harder* against it gains reward and *loses* quality.
#
# The paper speaks of the first: reward models trained with Bradley-Terry (BT) overfit. Its remedy
# is batch-wise sum-to-zero regularization (BSR, Eq. 25). BSR adds to BT's loss a penalty on the sum
# of a batch's rewards. The penalty's weight is $\lambda$; the paper takes $\lambda = 10^{-3}$.

# %% [markdown]
# Four questions follow, one a section. Section 5 gives the verdicts. Sections 1 to 5 are the first
# reading; the second, at the end of the page, holds what lies behind them.
#
# One word from before: **gold** is the preference that decides what is right. In the *pocket world*
# of notebook 01, this repository's own data, gold is a formula. So every answer's gold is known.

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
# In which ways can test data be new? A training pair is a prompt with two answers. Each answer was
# written by a *source*: a language model, perhaps under an instruction of its own. So test data can
# be new in prompts, in sources, or in both (the paper's Sec. 2.2):
#
# | | known sources | new sources |
# |---|---|---|
# | **training prompts** | in-domain | response-disjoint |
# | **new prompts** | prompt-disjoint | mutual-disjoint |

# %% [markdown]
# *In-domain* is new in neither: known sources answered training prompts, but training left these
# answers out. Its score is **accuracy**, the share of pairs that the reward orders as gold does.
# The other three sets have four answers to a prompt. Their score is tau, averaged over prompts.
#
# **Predict**: you want to change the sources and nothing else, not even the kind of score. Which
# two sets do you compare?

# %% [markdown]
# <details><summary>Answer</summary>
#
# Prompt-disjoint with mutual-disjoint. Both lie in the lower row, and in the pocket world they have
# the very same prompts. The upper row mixes accuracy with tau.
# </details>
#
# Which sets gave the two numbers of the start? They are from the study *lora*. There BT trained
# LoRA, small matrices added to a language model (notebook 05), on 900 pairs. Here are its taus on
# three sets, each the mean of four trainings.

# %%
for part in PARTS[1:]:
    print(f"{part}: {read_table(RUNS / 'study_lora')['bt'][part]['mean']:.3f}")

# %% [markdown]
# The .35 is prompt-disjoint, the .26 response-disjoint: prompts change together with sources.
# Mutual-disjoint, where sources change alone, has .31. No interval stands beside the three, so we
# conclude nothing yet.
#
# **Answer.** Test data can be new in prompts, in sources or in both. Each may be why a score is
# lower.

# %% [markdown]
# ## 2. Where BT falls, does BSR fall less?
#
# Does BSR stop a fall? To see that, we need a place where BT falls, and we must know why it falls.
# A *small world* of our own is such a place.
#
# In it an answer is a list of 40 numbers, its *coordinates*. Ten of them decide gold. The other 30
# say nothing about quality. In those 30 coordinates answers of new sources vary more.
#
# A small network learns a reward from 300 pairs. It goes over them in 64 **epochs**.

# %% [markdown]
# A label is drawn at random: the better an answer, the likelier it is to be preferred. So some
# labels, .17 of them (counted below), are **false**. They prefer the answer that gold calls worse.
#
# **The control** is the same training with **clean** labels, gold's own. All else stays the same:
# the answers, the network's start, the order of the pairs. So where the two trainings differ, the
# false labels did it. The difference is called *false minus clean*.

# %% [markdown]
# By epoch 8 BT orders .99 of the training pairs as labelled (`data/runs/worlds`). What do the other
# 56 epochs do? A **change**, below, is the score at epoch 64 minus the score at epoch 8.
#
# A scale for such changes: the largest gain of BSR in the paper is .024 of tau (Section 3).

# %%
SEEDS = 16  # each has its own answers, labels and network
LABELS = {"false": worlds.WORLDS["64 epochs"], "clean": worlds.WORLDS["64 epochs, clean labels"]}
STEPS, EPOCHS = range(75, 601, 75), range(8, 65, 8)  # from epoch 8 on


def trained(world, objective):  # scores of train and the four sets, (5, looks, seeds)
    looks = worlds.train(world, {"": worlds.OBJECTIVES[objective]}, SEEDS)
    return np.stack([[looks[step][part][:, 0] for step in STEPS] for part in ["train", *PARTS]])

# %% [markdown]
# We train BT and BSR, the latter at the paper's $\lambda$, each with false and with clean labels.

# %%
small = {objective: {labels: trained(world, objective) for labels, world in LABELS.items()}
         for objective in ("bt", "bsr-1e-3")}
bt, clean = small["bt"].values()
noisy, control = (worlds.draw(world, SEEDS)[0] for world in LABELS.values())
print(f"false labels: {(noisy != control).flatten(2).any(-1).float().mean():.2f} of the pairs")

# %% [markdown]
# These functions write a table of changes: the mean over seeds, ± the half width of its 95%
# interval.

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
# Does BT fall? *Train* is scored by the labels as given, the four sets by gold. The line with
# `assert` tests for overfitting, by the definition above.

# %%
def changes(scores):
    false, clean = (since(scores[labels]) for labels in LABELS)
    return {"false": false, "clean": clean, "false minus clean": false - clean}


up, _ = metrics.seed_interval(since(bt)[0])  # 0 is train, 2 prompt-disjoint
down, half = metrics.seed_interval(since(bt)[2])
assert up > 0 > down + half, "overfitting: what was seen goes up while prompt-disjoint falls"
table(changes(small["bt"]), ["train", *PARTS]).rename_axis("BT, change")

# %% [markdown]
# **What to see.** Read the columns one by one.
#
# - *False*: train rises, while in-domain and prompt-disjoint fall. So on known sources BT overfits.
# - *Clean*: no set is seen to fall.
# - *False minus clean* lies below zero on all four sets, with its whole interval. So false labels
#   are why BT falls.
#
# On prompt-disjoint false labels cost .043, nearly twice our scale. On new sources no fall is seen,
# but false labels take away the rise of .06 that clean ones bring.

# %% [markdown]
# Now BSR. Its **lead** is its score minus BT's, seed by seed; below zero BSR is behind.
#
# **Predict**: where BT falls, on known sources, does BSR fall less? On new sources, who is ahead at
# epoch 64? And does either answer change with clean labels?

# %%
lead = {labels: small["bsr-1e-3"][labels] - small["bt"][labels] for labels in LABELS}


def moved(objective, labels):  # tau on prompt-disjoint minus that at epoch 8: means, by epoch
    tau = small[objective][labels][1 + PARTS.index("prompt_disjoint")]
    return (tau - tau[0]).mean(1)

# %% [markdown]
# Left is prompt-disjoint, as training goes on: which lines fall? Right is BSR's lead at the end, on
# all four sets: where is BSR ahead?

# %%
figure, axes = plots.panels(2)
axes[1].axvline(1.5, color="#bbbbbb", linewidth=0.8)
for labels, line, fill, aside in (("false", "-", None, -0.1), ("clean", "--", "white", 0.1)):
    for name, objective in (("BT", "bt"), ("BSR", "bsr-1e-3")):
        mean, tint = moved(objective, labels), plots.COLORS[name.lower()]
        axes[0].plot(EPOCHS, mean, line, color=tint)
        axes[0].annotate(f"{name}, {labels} labels", (66, mean[-1]), color=tint, va="center")
    for place, values in enumerate(lead[labels][1:, -1]):
        mean, half = metrics.seed_interval(values)
        axes[1].errorbar(place + aside, mean, half, fmt="o", capsize=3, mfc=fill, color=tint)
axes[0].plot((8, 64), (0, 0), color="black", linewidth=0.8)
axes[0].set(xlim=(6, 104), xticks=EPOCHS)  # room for the names
axes[1].axhline(0, color="black", linewidth=0.8)
axes[1].set_xticks(range(4), [part.replace("_", "-\n") for part in PARTS])
plots.label(axes[0], "epoch", "tau minus that at epoch 8", "Prompt-disjoint (means)")
plots.label(axes[1], "known sources                           new sources",
            "tau (in-domain: accuracy); bars: 95%",
            "BSR minus BT, epoch 64 (hollow: clean labels)")
figure.suptitle("BSR ends behind BT on prompt-disjoint; with false labels ahead on new sources");

# %% [markdown]
# In numbers, BSR minus BT: first the change where BT falls, then the score at the end.

# %%
falls = {labels: since(values) for labels, values in lead.items()}
final = {labels: values[:, -1] for labels, values in lead.items()}
pd.concat({"change since epoch 8": table(falls, PARTS[:2]),
           "score at epoch 64": table(final, PARTS)})

# %% [markdown]
# <details><summary>Answer</summary>
#
# BSR is not seen to fall less. On prompt-disjoint it falls further, by .009; in-domain is open. On
# new sources it ends ahead by .02, close to our scale.
#
# With clean labels BSR loses .011 beside BT on prompt-disjoint, too. On new sources no lead is
# seen.
# </details>
#
# **What to see.** What BSR loses on prompt-disjoint is a *cost* that it has with clean labels, too.
# And its lead on new sources: are false labels why? Exercise 1 asks.

# %% [markdown]
# Do language models of ours fall? In *lora* no fall is seen (Section 6, second reading). But it saw
# each pair once, not 64 times. And its intervals are too wide to show a fall of .018.
#
# **Answer.** In the small world BT falls on known sources, and false labels are why. On
# prompt-disjoint BSR ends .01 behind BT, with either labels. On new sources it ends .02 ahead, with
# false labels.

# %% [markdown]
# ## 3. Does BSR rank better? The paper's table beside ours
#
# A method may rank better without stopping any fall. So does BSR reach a higher tau than BT? The
# paper's Table 5 says yes, for four models on three disjoint sets. It gives no intervals. We
# trained both, at the same $\lambda$, in six studies:
#
# - *lora*, *pocket*, *terms* and *lambda* train LoRA on 10 layers of a small language model;
# - *norms* trains all weights of 30 layers;
# - *judged* trains LoRA on real answers that a GPT-4 judge ranked.
#
# All but *judged* draw from the same prompts, so these are not six independent looks.

# %% [markdown]
# **Predict**: six studies and three sets give eighteen intervals of *BSR minus BT*. An interval
# **excludes zero** when it lies on one side of zero. How many do, and on which side?
#
# First the paper's gains, then our records.

# %%
PAPER = {"Llama-3.2-1B": (0.0041, 0.0131, 0.0141), "Llama-3.2-3B": (0.0230, 0.0207, 0.0216),
         "Qwen2.5-1.5B": (0.0014, 0.0017, 0.0007), "Qwen2.5-3B": (0.0152, 0.0074, 0.0236)}
studies = {name.removeprefix("study_"): read_table(RUNS / name) for name in STUDIES}
studies |= {name: read_table(f"data/runs/study_{name}") for name in ("lambda", "pocket", "terms")}
BSR = {"lora": "bsr", "pocket": "bsr", "terms": "bsr-1e-3", "lambda": "bsr-1e-3", "norms": "bsr",
       "judged": "bsr"}  # what BSR at 1e-3 is called in each

# %% [markdown]
# Now our eighteen intervals. We count those that exclude zero. And we put each beside the paper's
# four gains on the same set: does a gain lie inside, above or below?

# %%
ours = pd.DataFrame([(study, part, *studies[study][method][part]["difference"])
                     for study, method in BSR.items() for part in PARTS[1:]],
                    columns=["study", "set", "mean", "low", "high"])
out = ours[ours.low * ours.high > 0]
print(f"{len(ours) - len(out)} hold zero; not:\n", out.round(3).to_string(index=False))
beside = pd.DataFrame([(gain[PARTS.index(row.set) - 1], row.low, row.high)
                       for row in ours.itertuples() for gain in PAPER.values()],
                      columns=["gain", "low", "high"])
for name, some in (("gains", beside), ("gains over .02", beside[beside.gain > 0.02])):
    above, below = (some.gain > some.high).sum(), (some.gain < some.low).sum()
    print(f"the paper's {name}: {len(some) - above - below} of {len(some)} inside our interval, "
          f"{above} above, {below} below")

# %% [markdown]
# The figure has one panel a set. The grey band spans the paper's four gains on it, each a thin
# line. Look for intervals of ours that do not reach zero.

# %%
figure, axes = plots.panels(3, sharex=True, sharey=True)
for axis, (index, part) in zip(axes, enumerate(PARTS[1:]), strict=True):
    theirs = [gain[index] for gain in PAPER.values()]
    axis.axvspan(min(theirs), max(theirs), color="#dddddd", linewidth=0)
    axis.vlines(theirs, -0.6, 5.6, color="#888888", linewidth=0.8)
    for place, row in enumerate(ours[ours["set"] == part].itertuples()):
        tint = "black" if row.high < 0 else plots.COLORS["bsr"]
        axis.plot((row.low, row.high), (place, place), color=tint, linewidth=2)
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
                f"zero, {len(out)} is a cost (black)");

# %% [markdown]
# **What to see.** All our intervals but one hold zero. Many reach far into the grey band.
#
# <details><summary>Answer</summary>
#
# One, and it is a cost: *lambda* on mutual-disjoint. Of eighteen 95% intervals chance alone lets .9
# exclude zero. So this one convicts nobody.
# </details>

# %% [markdown]
# So no gain of BSR is shown. Each of the paper's twelve gains stands beside six intervals of ours.
# In 53 of these 72 comparisons the gain lies inside. In the other 19 it lies above, never below.
# Where it is over .02, it lies above in 13 of 24. But our models and data are not the paper's.
#
# A *head alone*, a small network on a language model's frozen states, is decided: BSR costs it .002
# to .007 of tau, in five of six intervals (`data/runs/LOG.md`).
#
# **Answer.** In our language models it is open whether BSR at $10^{-3}$ ranks better. Often a gain
# over .02 is excluded, seldom a smaller one.

# %% [markdown]
# ## 4. Exploitation: best-of-n
#
# Is BT's reward exploited? This is another question than overfitting. The reward model stays as it
# is. But now a **policy**, a model that writes answers, seeks a high reward. A **proxy** is any
# reward that stands in for gold. Does gold fall when the proxy is optimized?
#
# The plainest optimizer is **best-of-$n$**: draw $n$ answers from the policy and keep the one that
# the proxy likes best. The larger $n$, the harder the proxy is optimized.

# %% [markdown]
# On record are 112 new prompts with 64 answers each, written by a small language model of ours
# (`data/runs/best_of_n`). Each answer has its gold, and its reward by the four BT models of *lora*.
# Two more proxies stand beside BT:
#
# - *heavy tails*: gold plus noise that is mostly small and rarely huge (Student's t, two degrees of
#   freedom);
# - *normal noise*, its control: gold plus noise without huge errors, so much of it that the proxy
#   correlates with gold as weakly as *heavy tails* does.
#
# **Predict**: under which of the three does gold turn down as $n$ grows?

# %%
picks, kept = read_table(RUNS / "best_of_n"), np.load(RUNS / "best_of_n/scores.npz")
gold, sizes = kept["gold"], picks["n"]  # (112, 64); n = 1, 2, 4, ..., 64
proxies = {"BT": [kept[f"bt-seed{seed}"] for seed in range(4)]}

# %% [markdown]
# The two noisy proxies are drawn here. Correlations are among the answers to one prompt.

# %%
def agreed(several):  # mean correlation of several proxies with gold
    return np.mean([statistics.within_correlation(proxy, gold) for proxy in several])


proxies["heavy tails"] = noisy_gold(gold, agreed(proxies["BT"]), 4)["heavy-tailed noise"]
proxies["normal noise"] = noisy_gold(gold, agreed(proxies["heavy tails"]), 4)["normal noise"]

# %% [markdown]
# The **gain** of best-of-$n$ is the mean gold of what it keeps minus the mean gold of all answers.
# It is averaged over *all* draws of $n$ from the 64.

# %%
def gained(proxy):  # (of n, prompts)
    return np.array([statistics.best_of_n(proxy, gold, n) for n in sizes]) - gold.mean(1)


gains = {name: np.array([gained(proxy) for proxy in several]) for name, several in proxies.items()}
for name, key in (("BT", "bt"), ("heavy tails", "heavy-tailed noise")):
    recorded = np.array(picks["methods"][key]["seeds"]) - gold.mean()
    assert np.allclose(gains[name].mean(2), recorded, atol=1e-4), "as recorded"

# %% [markdown]
# Intervals are over prompts and seeds. A seed is one of BT's trainings or one draw of the noise.

# %%
def both(values):  # (seeds, prompts): mean, 95% half width
    mean, _, high, _ = statistics.two_way_interval(values)
    return mean, high - mean

# %% [markdown]
# The proxy itself rises at every step, for the kept answer is chosen by it. What does gold do
# meanwhile? Gold runs from 0 to 5 points.

# %%
TINTS = {"BT": plots.COLORS["bt"], "normal noise": "#228833", "heavy tails": "#994455"}
figure, axis = plots.panels(1)
for name, tint in TINTS.items():
    mean, half = np.array([both(gains[name][:, i]) for i in range(len(sizes))]).T
    axis.plot(sizes, mean, "o-", color=tint, markersize=3)
    axis.fill_between(sizes, mean - half, mean + half, color=tint, alpha=0.15, linewidth=0)
    axis.annotate(name, (64, mean[-1]), (6, 0), textcoords="offset points", color=tint, va="center")
axis.axhline(0, color="black", linewidth=0.8)
axis.set_xscale("log", base=2)
axis.set_xticks(sizes, sizes)
axis.set_xlim(0.95, 125)  # room for the names
plots.label(axis, "n: answers drawn (band: 95%)", "gain in gold (points)",
            "Gold turns down under heavy tails, not under BT up to n = 64")

# %% [markdown]
# **What to see.** Under BT and *normal noise* gold rises to the end. Under *heavy tails* it rises,
# turns and falls. Here is the last part in numbers.

# %%
for name in TINTS:
    last = shown(gains[name][:, 6] - gains[name][:, 4], both)  # sizes[6] is 64, sizes[4] is 16
    print(f"{name:12}  from n = 16 to 64: {last};  correlation {agreed(proxies[name]):.2f}")
peak = {name: values.mean((0, 2)).argmax() for name, values in gains.items()}
assert peak["BT"] == peak["normal noise"] == 6, "gold is highest at n = 64"
assert peak["heavy tails"] < 6, "gold turns down before"

# %% [markdown]
# <details><summary>Answer</summary>
#
# Under *heavy tails*. From $n = 16$ to 64 the proxy rises and gold falls: it is exploited.
# </details>
#
# Why? Not because it correlates weakly: *normal noise* correlates as weakly, and gold rises. What
# differs is the rare huge error. Among many answers the proxy's favourite is one with such an
# error. The error knows nothing of gold, so this favourite is hardly better than a random answer.
#
# **Answer.** Up to $n = 64$ BT's reward is not exploited: gold of its picks rises. That holds for
# answers of one policy, whose source BT knows.

# %% [markdown]
# ## 5. The verdicts
#
# Which claims hold here, then? Each is put to an interval and gets one of four words.
#
# - **Shown**: the interval lies on the claim's side of zero.
# - **Against**: it lies on the other side.
# - **Open**: it holds zero.
# - **Not tested**: nobody looked, or no fall was seen that one could explain or lessen.
#
# **Predict** the word for our *language models*.
#
# 1. BT overfits.
# 2. False labels are why (our claim).
# 3. BSR falls less than BT.
# 4. BSR ends higher than BT.
# 5. Best-of-$n$ by BT loses gold (our claim).

# %% [markdown]
# <details><summary>Answer</summary>
#
# | claim | read off | small world | language models |
# |---|---|---|---|
# | 1 | BT's change | known sources **shown**, new **open** | **open**, pairs seen once |
# | 2 | *false minus clean* | **shown** | not tested |
# | 3 | lead, change | prompt-disjoint **against**, in-domain **open** | not tested |
# | 4 | lead, end | new **shown**, prompt-disjoint **against**, in-domain **open** | **open** |
# | 5 | gold, $n$ 16 to 64 | not tested | **against** |
# </details>

# %% [markdown]
# The small world's rows 1, 3 and 4 are with false labels. Row 4's last *open* stands for 17 of 18
# intervals.
#
# The small network has no final norm. With one, as language models have, BT falls with clean
# labels, too: by .020 on prompt-disjoint, beside .064 with false ones (Section 6).

# %% [markdown]
# **Answer.** In our small world BT overfits, and false labels are why. BSR ends behind on
# prompt-disjoint, ahead on new sources.
#
# In our language models neither a fall of BT nor a gain of BSR is shown. Up to $n = 64$ gold of
# BT's picks does not fall.

# %% [markdown]
# ## Exercises
#
# A fold holds the first hint. The second is in a second fold, or comes with a wrong answer.
# Solutions: `notebooks/solutions/`.

# %% [markdown]
# **1.** *Take the suspected cause away.* With false labels BSR's lead at epoch 64 excludes zero on
# both sets of new sources. With clean labels it holds zero on both. Does that show that false
# labels are *why* BSR leads? From four arrays of scores, one number a seed, return mean and half
# width (`metrics.seed_interval`) of the difference that decides it.
#
# The last cell prints BSR's lead, then your interval. What do you conclude, set by set?
#
# <details><summary>Hint</summary>
#
# The question is about one number: how much the lead shrinks when the suspected cause is gone.
# </details>
# <details><summary>Second hint</summary>
#
# The four trainings of a seed share their answers: subtract seed by seed, then average.
# </details>

# %%
def due_to_false_labels(method_false, method_clean, bt_false, bt_clean):
    return None

# %%
ends = [small[name][labels][:, -1] for name in ("bsr-1e-3", "bt") for labels in LABELS]
for place, part in enumerate(PARTS[1:], 2):  # 0 is train, 1 in-domain
    print(f"{part}: lead {shown(lead['false'][place, -1])}; due to false labels",
          due_to_false_labels(*(scores[place] for scores in ends)))

# %% [markdown]
# **2.** How far has best-of-$n$ moved the policy $p$? With $q$ the distribution of what it keeps,
# the **KL** of $q$ to $p$ is $\sum_k q_k \log(q_k / p_k)$, in nats. It is at most $\log n -
# \frac{n-1}{n}$, reached only where no answer is ever drawn twice.
#
# Now a policy has a handful of answers, with `probabilities` (a float64 tensor) $p_1, \dots, p_K$,
# all above zero, in ascending order of reward. What is the exact KL for $n$ *independent* draws?
# Compare it with the bound for two answers of probability 1/2 and $n = 2$. And how far can Section
# 4's best of 64 have moved?
#
# <details><summary>Hint</summary>
#
# Which event leaves all $n$ draws among the $j$ worst?
# </details>

# %%
def best_of_n_divergence(probabilities, n):
    return None


checks.check_best_of_n_divergence(best_of_n_divergence);

# %% [markdown]
# ## Check yourself
#
# 1. Why can a curve that stands still be a loss?
# 2. On prompt-disjoint BSR falls further than BT, with false labels. Why does that not show that
#    they harm BSR more?
# 3. Tau is lower on response-disjoint than on prompt-disjoint. Why does that convict nobody, and
#    which set would be a fairer comparison?
# 4. Seventeen of eighteen intervals hold zero. Is it shown that BSR does nothing?
# 5. A proxy rises and gold falls, while the reward model and its tau on a fixed test set stay as
#    they were. Overfitted or exploited?

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1. A control without the cause might have risen.
# 2. With clean labels it loses about as much beyond BT.
# 3. Prompts and sources change at once, so the set may be harder for anybody. Mutual-disjoint has
#    the prompts of prompt-disjoint.
# 4. No. It is open: most of the paper's gains lie inside the intervals, too.
# 5. Exploited: the picks moved to where the proxy errs.
#
# </details>

# %% [markdown]
# <details><summary>Exercise 1</summary>
#
# On mutual-disjoint false labels are why: .020 ± .013. On response-disjoint it is open, .011 ±
# .013, though one lead excludes zero and the other holds it. Two verdicts do not give the interval
# of their difference. On prompt-disjoint no part of BSR's cost is seen to be theirs, -.001 ± .008.
# </details>
#
# <details><summary>Exercise 2</summary>
#
# .131 beside .193: answers drawn twice move the policy less. Best of 64 moves by 3.2 nats at most.
# </details>

# %% [markdown]
# ## What to watch, what to vary
#
# | In your run, watch | healthy | otherwise, seen here | then vary |
# |---|---|---|---|
# | change on prompt-disjoint, as training goes on | no fall | -.018, 64 epochs | fewer epochs |
# | a set's change minus that with clean labels | none | -.055, mutual-disjoint | cleaner labels |
# | gold of the best of 64 over 16 | +.104, BT | -.098, heavy tails | smaller $n$; another proxy |
#
# No clean labels? Have a part relabelled with care, or flip some yourself. Compare both trainings.

# %% [markdown]
# ## What you know now
#
# The .35 and .26 of the start differ in sources and prompts at once, and no control was trained for
# them. So that difference stays unexplained.
#
# **A lower score on new data convicts nobody until you train the same model without the suspected
# cause.** Here, in a small network without a final norm, that convicted false labels of BT's fall,
# but not of what BSR loses beyond it. On new sources, with false labels, BSR ends .02 ahead.
#
# Next: **08 · How does a policy learn from a reward?**

# %% [markdown]
# ## Second reading
#
# For readers who ask *why*: two suspects are examined, dispersing norms (Section 6) and new sources
# (Section 7). Section 8 adds their verdicts, Section 9 a formula, and two exercises follow.
# **Paired** scores are of the same prompts.

# %%
import dataclasses

from bsr_lite.config import load_config
from bsr_lite.scenarios import load_scenarios, sets_of
from bsr_lite.studies import records
from bsr_lite.studies.records import read_runs, watched

# %% [markdown]
# ## 6. Does a fall need dispersion? And when did BSR's lead come?
#
# The paper suspects *dispersion*: hidden states $h$ of ever more different length. It is there: in
# Section 2's world the spread of $\lVert h\rVert$ over its mean grows from .21 ± .01 to .42 ± .02.
# But with clean labels it grows, too, from .24 to .44 (`data/runs/worlds`).
#
# So take it away. With a final RMSNorm all $h$ have one length.
#
# **Predict**: is *false minus clean* smaller than without the norm?

# %%
one_length = {labels: trained(dataclasses.replace(world, norm=True), "bt")
              for labels, world in LABELS.items()}
table(changes(one_length), ["train", *PARTS[:2]]).rename_axis("BT, RMSNorm")

# %% [markdown]
# <details><summary>Answer</summary>
#
# No. On prompt-disjoint it is -.044 with the norm and -.043 without: false labels do their harm
# here, too. With them prompt-disjoint falls by .064. So a fall needs no dispersion.
#
# With clean labels it falls by .020. There no label is false, so with a final norm something else
# does harm as well. We have not looked for it.
# </details>

# %% [markdown]
# Now BSR at a second weight, $\lambda = 10^{-2}$. The table has the changes first, then the scores
# at epoch 64.
#
# **Predict**: does the larger $\lambda$ fall less than BT? And on new sources, who is ahead at the
# end?

# %%
small["bsr-1e-2"] = {labels: trained(world, "bsr-1e-2") for labels, world in LABELS.items()}

# %%
def compared(take):  # BT, and how far BSR is above it
    own = {objective: take(scores["false"]) for objective, scores in small.items()}
    return {"BT": own["bt"]} | {f"BSR {weight} minus BT": own[f"bsr-{weight}"] - own["bt"]
                                for weight in ("1e-3", "1e-2")}


pd.concat({"change since epoch 8": table(compared(since), PARTS),
           "score at epoch 64": table(compared(lambda scores: scores[:, -1]), PARTS)})

# %% [markdown]
# <details><summary>Answer</summary>
#
# No. On prompt-disjoint it falls further than BT by .018, and in-domain it falls further, too. On
# new sources BSR ends ahead at both $\lambda$.
# </details>
#
# When did that lead come, and why?

# %%
at = 1 + PARTS.index("mutual_disjoint")  # 0 is train
larger = {labels: small["bsr-1e-2"][labels][at] - small["bt"][labels][at] for labels in LABELS}
print(f"mutual-disjoint, 1e-2: lead at epoch 8 {shown(larger['false'][0])}, "
      f"at 64 false minus clean {shown(larger['false'][-1] - larger['clean'][-1])}")

# %% [markdown]
# At $10^{-2}$ the lead is not seen to grow after epoch 8 (upper half of the table): on
# mutual-disjoint it was there by then. And false labels are why: with clean ones it ends smaller,
# by .026.
#
# At $10^{-3}$ the lead grows on mutual-disjoint, by .012 ± .009. Exercise 1 asked why it is there.

# %% [markdown]
# And the language model? While *lora* was trained, it was scored on 32 prompts of every set. We
# compare the middle of its one epoch, step 28, with its end, step 57.

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
# A *head alone* (Section 3) saw each pair 32 times. BT's tau ended .02 to .06 lower than after four
# epochs (`data/runs/LOG.md`, *frozen_long*). That difference has no interval.

# %% [markdown]
# ## 7. New sources score lower: is that overfitting?
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
figure.suptitle("Both gaps, BT's and the rule's, exclude zero only on lora's response-disjoint");

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
# Does the rule acquit BT, then? **Would this test convict anybody?** Go back to Section 2's world.
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
axis.annotate("beside this rule\nBT loses more: guilty", (0, rules[one].mean()), (-0.1, -0.3),
              arrowprops=arrow)
axis.annotate("beside this one\nit loses less: innocent", (3, rules[alike].mean()), (3, -0.2),
              ha="center", arrowprops=arrow)
axis.axhline(0, color="black", linewidth=0.8)
axis.set_xticks(range(4), list(four))
plots.label(axis, "a grey line: one seed", "tau, mutual- minus prompt-disjoint",
            "One rule convicts BT, the other acquits it")
assert sum(metrics.seed_interval(guilty - innocent)) < 0, "false labels widen the gap"

# %% [markdown]
# <details><summary>Answer</summary>
#
# The first convicts: BT loses .155 ± .024 more. The second acquits: BT loses .301 ± .026 *less*.
# *The verdict depends on the rule.* Even clean BT looks guilty beside the first: it loses .114 ±
# .021 more.
# </details>
#
# So train the same model without the suspected cause. *False labels* widen the gap by .041 ± .014:
# about a quarter of it. The rest is there with clean labels, too.

# %% [markdown]
# ## 8. The other verdicts
#
# The words are Section 5's. A star marks a claim of ours.
#
# | claim | small worlds | language models |
# |---|---|---|
# | norms disperse (6; 02.5) | **shown** | **open** |
# | norms must disperse for a fall (6) | **against** | not tested |
# | BSR falls less, $10^{-2}$ (6) | in-domain, prompt-disjoint **against** | not tested |
# | BSR ends ahead on new sources* (6) | both $\lambda$ **shown** | not tested |
# | mutual-disjoint scores lower (7) | *helps* **shown** | *lora* **open**, *judged* **against** |

# %% [markdown]
# *Helps* is a world of notebook 04, 02.5 is notebook 02's Section 5. *Judged* speaks of its three
# models: Section 7's bars are over prompts only. At other $\lambda$ BSR has costs in
# language models, and one gain, on labels of people (06.11).
#
# Section 5 has one small world. In the seven of `data/runs/worlds` BSR at $10^{-3}$ gains tau on
# response-disjoint in three, loses in three, and one is open.

# %% [markdown]
# And in Section 4, does BSR pick better? Here are its reward models as the proxy, minus BT's. It is
# **open**.

# %%
mean, _, high, _ = picks["methods"]["bsr"]["difference"][6]
print(f"gold's gain at n = 64, BSR minus BT: {round(mean, 3) + 0.0:+.3f} ± {high - mean:.3f}")

# %% [markdown]
# ## 9. Best-of-$n$ without drawing
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
# same proxy. Section 9's function breaks ties as its sort happens to leave them. Write the estimate
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
