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
# model, and hopes. Here the reward models of notebook 07 train policies while gold looks on. Does
# gold follow the proxy? If it does, *why*? And is a BSR reward model (Eq. 25) the better teacher,
# as the paper has it (Sec. 3.2)?

# %% [markdown]
# After it you can
# - put proxy and gold into one unit;
# - find the dull explanation of a gain, and take it out of both;
# - read the answers for what even the judge does not see;
# - recognise noise, heavy tails and a trick by a proxy's favourites.
#
# Words from before: *proxy, gold, reference, KL* (notebook 08), *best-of-n* (07), *paired
# difference, interval over seeds and prompts, undecided* (06). A **run** is one trained policy.

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

# %%
pd.set_option("display.max_colwidth", None)


SPELLED = {"bt": "BT", "bsr": "BSR", "l2": "L2"}


def frame(rows):
    """A table of {row: {column: value}}."""
    return pd.DataFrame.from_dict(rows, orient="index").rename(index=SPELLED)

# %% [markdown]
# ## 1. The same prompt, before and after
#
# `data/runs/study_rloo`: the embedded model (135M) as policy, LoRA, 40 steps of RLOO. A step has
# 16 answers (4 prompts, 4 answers each) of at most 48 tokens. Each run had its own proxy, a BT or
# a BSR reward model ($\lambda = 10^{-3}$): "BT 1" was trained on BT's proxy of seed 1. There is no
# KL price ($\beta = 0$), so that what a proxy gets wrong can show.
#
# All runs, and the reference, then gave **two answers** each to the same 112 new prompts. Of the
# second one no text is on record, only gold, proxy and whether it ended.

# %%
if PROFILE == "full":
    from bsr_lite.studies.best_of_n import run_best_of_n
    rloo.run_study(Path("bsr_lite/configs/study_rloo.yaml"))
    run_best_of_n(Path("bsr_lite/configs/best_of_n.yaml"))
RUNS = Path("runs" if PROFILE == "full" else "data/runs")
runs = read_runs(RUNS / "study_rloo")  # {method-kl<price>: [a run a seed]}
SIX = {f"{method.upper()} {run['seed']}": run for method in ("bt", "bsr")
       for run in runs[f"{method}-kl0.0"]}
prompts = drawn(read_prompts("data/pocket/pocket.jsonl.gz", "valid", pocket=True), 112, 0)

# %%
def shorten(text, most=170):
    line = " ".join(text.split())  # one line: no \n, no \r, no tabs
    return line if len(line) <= most else line[:most] + " ..."

# %%
def answers(place, *columns):
    """The first answer of the reference and of all six policies to one prompt."""
    sources = {"reference": SIX["BT 0"]["evaluation"]["reference"]}
    sources |= {name: run["evaluation"]["policy"] for name, run in SIX.items()}
    table = frame({name: {
        "answer": shorten(found["texts"][place]),
        "ended": "yes" if found["finished"][place][0] else "cut off",
        "gold (0 to 5)": f"{found['gold'][place][0]:.2f}",
        "its proxy": f"{found['proxy'][place][0]:+.2f}"} for name, found in sources.items()})
    table.loc["reference", "its proxy"] = ""  # six proxies, six numbers
    return table[list(columns)].rename_axis(shorten(prompts[place]["prompt"]))

# %%
answers(45, "answer", "ended")

# %% [markdown]
# **Predict**: gold is a formula. It gives up to a point each for the number of sentences or items
# asked for, the topic, ending, not repeating, the right length. Which answer does gold like best?

# %%
answers(45, "gold (0 to 5)", "its proxy")

# %% [markdown]
# **What to see.** The reference was cut off after 48 tokens, and gold likes three policies better,
# none less.
#
# <details><summary>Answer</summary>
#
# Gold likes the list of BSR 2 best. (Each proxy has a scale of its own: do not compare their
# numbers before Section 2.)
# </details>

# %% [markdown]
# ## 2. One unit
#
# Gold runs from 0 to 5, a reward model's numbers have no unit. So both are counted in **their own
# standard deviation (sd) among the reference's answers to one prompt**.
#
# $$\text{gain} = \frac{\text{mean of the policy} - \text{mean of the reference}}
# {\text{sd of the reference within a prompt}}, \qquad
# \text{share kept} = \frac{\text{gain of gold}}{\text{gain of the proxy}}.$$

# %%
def gain(policy, reference):
    """Shapes: (prompts, answers), (prompts, answers) -> ()."""
    sd = np.sqrt(np.var(reference, axis=1, ddof=1).mean())
    return (np.mean(policy) - np.mean(reference)) / sd


toy_gold, toy_proxy = [[1.0, 3.0], [2.0, 4.0]], [[10.0, 30.0], [20.0, 40.0]]  # two prompts
kept = gain([[3.0], [4.0]], toy_gold) / gain([[40.0], [50.0]], toy_proxy)
assert np.isclose(kept, 0.5), "gold rises by 1 of 1.41, the proxy by 20 of 14.1: half is kept"

# %% [markdown]
# Say a proxy is gold + independent noise, both normal. An answer that lies one sd up by the proxy
# lies $\rho$ up by gold, $\rho$ the correlation of the two. So **honest picking keeps
# $\rho$**, from few answers or many.
#
# A policy may keep more: it cannot learn noise that is new in every text. If it raises gold alone,
# the proxy rises by as many points. But these are fewer of *its* sds: the share is $1/\rho$. So
# $\rho$ is a mark, no ceiling.

# %%
rng = np.random.default_rng(0)
value, noise = rng.normal(size=(2, 2000, 64))  # 2,000 prompts, 64 answers each
rho = np.corrcoef(value.ravel(), (value + noise).ravel())[0, 1]
for n in (2, 8, 64):
    picked = [statistics.best_of_n(value + noise, v, n).mean() for v in (value, value + noise)]
    kept = picked[0] / (picked[1] / (value + noise).std())
    assert abs(kept - rho) < 0.03, "with normal noise the share kept is the correlation at any n"
new, fresh = rng.normal(size=(2, 2000, 64))  # a policy's answers to new prompts, better by 1
moved = gain(new + 1, value) / gain(new + 1 + fresh, value + noise)
assert abs(moved - 1 / rho) < 0.03, "fresh noise lifts nothing: both rise by the same 1"
print(f"correlation {rho:.2f}; share kept by best-of-64 {kept:.2f}, by the policy {moved:.2f}")

# %%
def recorded(run):
    policy, reference = (run["evaluation"][part] for part in ("policy", "reference"))
    gains = {key: gain(policy[key], reference[key]) for key in ("proxy", "gold")}
    return {"proxy gain (sd)": gains["proxy"], "gold gain (sd)": gains["gold"],
            "± over prompts": metrics.seed_interval(rloo.gains(run["evaluation"])["gold_gain"])[1],
            "share kept": gains["gold"] / gains["proxy"],
            "correlation": statistics.within_correlation(reference["proxy"], reference["gold"])}

# %%
unit_table = frame({name: recorded(run) for name, run in SIX.items()})
for name, run in SIX.items():
    ours, library = unit_table.loc[name, "gold gain (sd)"], rloo.gains(run["evaluation"])
    np.testing.assert_allclose(ours, library["gold_gain"].mean(), err_msg="one unit, one number")
unit_table.round(2)

# %% [markdown]
# **What to see.** Every proxy says that its policy gained more than one standard deviation. Gold
# agrees that all six gained something, each beyond its 95% interval over prompts (±). BT 0 and BT 2
# kept more than the correlation, the other four less.
#
# That invites a story: two proxies were honest and four were exploited. **Predict** before you
# believe it: what could raise *any* reward of the policy, whatever its proxy knows?
#
# <details><summary>Answer</summary>
#
# Something that all proxies like and that training teaches anyway: to *end*. In Section 1 the
# reference was cut off, and all six policies ended.
# </details>

# %% [markdown]
# ## 3. The dull explanation: ending
#
# Training subtracts a penalty of 1 (an sd of the proxy) from an answer that does not end by
# itself within 48 tokens (`missing_eos_penalty`). The reference ends four answers in ten. Both
# rewards like endings: one of gold's five terms, *complete*, is earned by it. What is **the worth
# of ending**? Take the prompts to which the reference gave one answer that ended and one that did
# not, and compare the two.

# %%
def worth(reference, key):
    """Reward of ended minus cut-off answers to a prompt, in sds.  Shapes: -> (mixed prompts,)."""
    ended, rewards = np.array(reference["finished"]), np.array(reference[key])
    mixed = ended.any(1) & ~ended.all(1)
    apart = [r[e].mean() - r[~e].mean() for r, e in zip(rewards[mixed], ended[mixed], strict=True)]
    return np.array(apart) / statistics.within_sd(rewards)

# %%
def ending(run):
    policy, reference = (run["evaluation"][part] for part in ("policy", "reference"))
    before, after = (np.mean(found["finished"]) for found in (reference, policy))
    row, alone, gained = {"ended, before": f"{before:.2f}", "ended, after": f"{after:.2f}"}, {}, {}
    for key in ("proxy", "gold"):
        mean, half = metrics.seed_interval(worth(reference, key))
        alone[key], gained[key] = (after - before) * mean, gain(policy[key], reference[key])
        row |= {f"{key}: worth of an ending (sd)": f"{mean:.2f} ± {half:.2f}",
                f"{key}: ending alone (sd)": f"{alone[key]:.2f}",
                f"{key}: gained (sd)": f"{gained[key]:.2f}"}
    return row | {f"share kept: {name}": f"{of['gold'] / of['proxy']:.2f}"
                  for name, of in (("ending alone", alone), ("seen", gained))}

# %%
reference = SIX["BT 0"]["evaluation"]["reference"]  # the same for all six
frame({name: ending(run) for name, run in SIX.items()}).transpose()

# %% [markdown]
# **What to see.** After training .87 or more of the answers end. An ending is worth nearly two sds
# of the proxy and more than one and a half of gold (± 95% over 31 prompts). *Ending alone* is the
# rise in endings times their worth: about 1.1 of the proxy and .9 of gold.
#
# **Ending alone would give every run a share of .83 to .93.** What sets .17 apart from .89 is
# what the policy did besides. (An answer that ends may be better in other ways, too.)

# %% [markdown]
# ### Which terms of gold rose?
#
# Gold is a sum, so it splits exactly by *term*: *complete* (half for ending, half for closing
# punctuation, which a cut-off answer hardly has) and the **other four**, content and form. The
# first answers' texts are on record: their terms can be computed again.
#
# **Predict**: of gold's five terms, which rose, and did any fall?

# %%
TERMS = ("complete", "instruction", "topic", "fresh", "concise")


def terms(found, read=str):
    """Gold's terms of the first answers, as `read` gives them.  Shapes: -> (prompts, 5)."""
    return np.array([[gold_terms(read(text), unit=row["unit"], count=row["count"],
                                 stems=row["stems"], finished=ended[0])[t] for t in TERMS]
                     for text, ended, row
                     in zip(found["texts"], found["finished"], prompts, strict=True)])

# %%
def term_gains(run, read=str):
    """In sds of gold.  Shapes: -> (prompts, 5)."""
    policy, reference = (run["evaluation"][part] for part in ("policy", "reference"))
    return ((terms(policy, read) - terms(reference, read))
            / statistics.within_sd(reference["gold"]))


def by_method(read=str):
    """{method: (seeds, prompts, terms)}."""
    return {method: np.array([term_gains(run, read) for run in runs[f"{method}-kl0.0"]])
            for method in ("bt", "bsr")}

# %%
for run in SIX.values():
    policy = run["evaluation"]["policy"]
    np.testing.assert_allclose(terms(policy).sum(1), np.array(policy["gold"])[:, 0], atol=1e-4,
                               err_msg="the terms must add up to the recorded gold")
split = by_method()

# %%
figure, axis = plots.panels(1)
for i, (method, gains) in enumerate(split.items()):
    gains = np.concatenate([gains, gains[..., 1:].sum(-1, keepdims=True)], -1)  # (S, P, 6)
    places, tint = np.arange(6) + 0.3 * i - 0.15, plots.COLORS[method]
    for shape, seed in zip("os^", gains.mean(1), strict=True):
        axis.plot(places, seed, shape, color=tint, markersize=4)
    for j, place in enumerate(places):
        mean, low, high, _ = statistics.two_way_interval(gains[..., j])
        axis.errorbar(place - 0.08, mean, [[mean - low], [high - mean]], fmt="_", capsize=3,
                      color=tint, alpha=0.6)
    axis.annotate(method.upper(), (places[0], 1.3), color=tint, ha="center")
axis.axvline(4.5, color="0.8")
axis.axhline(0, color="black", linewidth=0.8)
axis.set_xticks(range(6), [*TERMS, "sum of the\nother four"])
plots.label(axis, "term of gold; a shape a seed; bars: 95% over seeds and prompts",
            "policy minus reference (sd of gold)", "Only complete rose in all six runs")
axis.set_ylim(top=1.5);

# %%
def others(gains):
    """The other four together.  Shapes: {method: (seeds, prompts, 5)} -> (seeds, prompts)."""
    return {method: values[..., 1:].sum(-1) for method, values in gains.items()}


frame({method: {
    "complete (sd of gold)": shown(rloo.interval(split[method][..., 0]), "+.2f"),
    "instruction": shown(rloo.interval(split[method][..., 1]), "+.2f"),
    "the other four": shown(rloo.interval(four), "+.2f"),
    "the other four, by seed": ", ".join(f"{m:+.2f}" for m in four.mean(1))}
    for method, four in others(split).items()})

# %% [markdown]
# **What to see.** Beyond its interval only *complete* rose, and only *instruction*, doing what is
# asked, fell, under BSR (Section 4 takes this back). The other four together lie lower in four runs
# of six, undecided for either method.

# %% [markdown]
# ### At equal ending
#
# The proxy is no sum. But one can *hold ending equal*: keep the prompts to which both the
# reference and the policy gave an answer that ended, and compare these answers.

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
# First a world in which the answer is known. An ending is worth 1.5. One policy learned nothing but
# to end; the other one's answers are better by .5 besides.

# %%
def made_up_answers(share, better, rng):
    ended = rng.random((20_000, 2)) < share
    return {"finished": ended, "gold": rng.normal(size=ended.shape) + better + 1.5 * ended}


rng = np.random.default_rng(0)
known = made_up_answers(0.4, 0.0, rng)
for better in (0.0, 0.5):
    world = {"evaluation": {"reference": known, "policy": made_up_answers(0.95, better, rng)}}
    whole = np.mean(world["evaluation"]["policy"]["gold"]) - np.mean(known["gold"])
    rest = at_equal_ending(world, "gold").mean() * statistics.within_sd(known["gold"])
    print(f"better by {better}: gained {whole:.2f}, at equal ending {rest:.2f}")
    assert abs(rest - better) < 0.05, "only what is better besides ending must be left"

# %% [markdown]
# **Predict**: what is left at equal ending of the six proxies' gains, and of gold's?

# %%
def two_dots(axis, found):
    """A full and an open dot a run, 95% over prompts.  Shapes: {run: two of (prompts,)}."""
    for place, (name, pair) in enumerate(found.items()):
        tint = plots.COLORS[re.match(r"\w+", name)[0].lower()]
        dots = [metrics.seed_interval(values) for values in pair if len(values) > 9]
        ys = (0.12 - place, -0.12 - place)[:len(dots)]
        axis.plot([mean for mean, _ in dots], ys, color="0.8", linewidth=3)
        for (mean, half), y, fill in zip(dots, ys, (tint, "white"), strict=False):
            axis.errorbar(mean, y, xerr=half, fmt="o", capsize=3, color=tint, markerfacecolor=fill)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_yticks([-place for place in range(len(found))], found)

# %%
figure, axis = plots.panels(1)
two_dots(axis, {name: [at_equal_ending(run, key) for key in ("proxy", "gold")]
                for name, run in SIX.items()})
axis.annotate("proxy (full)", (1.57, -3), color=plots.COLORS["bsr"], va="center")
axis.annotate("gold (open)", (-0.69, -3), color=plots.COLORS["bsr"], ha="right", va="center")
axis.set_xlim(-1.2, 2)
plots.label(axis, "what is left of the gain where both ended (sd), 95% over prompts", "",
            "At equal ending the two highest climbs show no gain of gold")

# %%
frame({name: {"prompts": str(len(at_equal_ending(run, "gold")))} | {
    f"{key} (sd)": "{:+.2f} ± {:.2f}".format(*metrics.seed_interval(at_equal_ending(run, key)))
    for key in ("proxy", "gold")} for name, run in SIX.items()})

# %% [markdown]
# **What to see.** Most of gold's gains are gone, and of four proxies'. BT 0 and BT 2: proxy and
# gold both up by a quarter to a third of a unit (gold just beyond its interval), a small honest
# climb. BSR 0: the proxy up by 1.4, and gold got nothing of it. BSR 2: the proxy up by a unit, gold
# undecided (more in Section 4). The intervals are over prompts: they speak of these six policies,
# on prompts that the reference can finish.

# %% [markdown]
# BT 1 and BSR 1: gold fell as far as in BSR 0, and their proxies hardly moved. That is not
# over-optimization. It may be **drift**: nothing here pulls a policy back to the reference. So the
# fall alone proves nothing about BSR 0's proxy.

# %% [markdown]
# ### Controls: rewards whose meaning is known
#
# The same training with other rewards (`data/runs/study_rloo_controls`; two more in Section 5),
# three seeds each:
# - *nothing*: a constant, so that only the penalty for not ending is left;
# - *random numbers*, a new one for every new text;
# - *gold* itself, the best reward that there is.
#
# **Predict**: paid for nothing but ending, what will the policy write? What will gold say of it?

# %%
controls = read_runs(RUNS / "study_rloo_controls")
KNOWN = {"gold": "gold", "noise": "random numbers", "constant": "nothing"}
frame({reward: {f"seed {run['seed']}": shorten(run["evaluation"]["policy"]["texts"][45], 70)
                for run in controls[f"{method}-kl0.0"]} for method, reward in KNOWN.items()}
      ).rename_axis(shorten(prompts[45]["prompt"]))

# %% [markdown]
# It writes a word or nothing, then the end.
#
# Here the reference gave *eight* answers a prompt, drawn anew. Below, the six policies are set
# beside these, too, and their numbers move a little.

# %%
eight = controls["gold-kl0.0"][0]["evaluation"]["reference"]
TAUGHT = {KNOWN[method]: controls[f"{method}-kl0.0"] for method in KNOWN}
TAUGHT |= {"a BT model": runs["bt-kl0.0"], "a BSR model": runs["bsr-kl0.0"]}
TAUGHT = {reward: [{"evaluation": run["evaluation"] | {"reference": eight}} for run in group]
          for reward, group in TAUGHT.items()}


def gold_gains(reward):
    """In sds.  Shapes: -> (seeds, prompts)."""
    return np.array([rloo.gains(run["evaluation"])["gold_gain"] for run in TAUGHT[reward]])


def distance(run):
    """KL of a policy from the reference, nats an answer."""
    return np.mean(run["evaluation"]["policy"]["kl"])


def left_over(run):
    """Gold's gain at equal ending, 95% over prompts; nothing where hardly one ended."""
    left = at_equal_ending(run, "gold")
    return "{:+.2f} ± {:.2f}".format(*metrics.seed_interval(left)) if len(left) > 9 else "-"

# %%
def taught(reward):
    group = TAUGHT[reward]
    policies = [run["evaluation"]["policy"] for run in group]
    beyond = {f"gold beyond {floor}": "" if floor == reward else shown(rloo.interval(
        gold_gains(reward) - gold_gains(floor)), "+.2f") for floor in ("nothing", "random numbers")}
    return {"gold (sd)": shown(rloo.interval(gold_gains(reward)), "+.2f"),
            "by seed": ", ".join(f"{m:+.2f}" for m in gold_gains(reward).mean(1)),
            "at equal ending, by seed": ", ".join(map(left_over, group)),
            "prompts of these": ", ".join(str(len(at_equal_ending(run, "gold"))) for run in group),
            **beyond, "tokens": f"{np.mean([policy['tokens'] for policy in policies]):.0f}",
            "ended": f"{np.mean([policy['finished'] for policy in policies]):.2f}",
            "KL (nats), by seed": ", ".join(f"{distance(run):.0f}" for run in group)}


frame({reward: taught(reward) for reward in TAUGHT})

# %%
figure, axis = plots.panels(1)
for place, (reward, group) in enumerate(TAUGHT.items()):
    tint = plots.COLORS[reward.split()[1].lower()] if reward.startswith("a ") else "black"
    _, low, high = rloo.interval(gold_gains(reward))
    axis.plot((low, high), [0.14 - place] * 2, color=tint, linewidth=1)
    left = [at_equal_ending(run, "gold").mean() for run in group]
    for values, y, fill in ((gold_gains(reward).mean(1), 0.14, tint), (left, -0.14, "white")):
        axis.plot(values, [y - place] * 3, "o", color=tint, markerfacecolor=fill, markersize=5)
axis.axvline(0, color="black", linewidth=0.8)
axis.set_yticks([-place for place in range(len(TAUGHT))], TAUGHT)
plots.label(axis, "gain of gold (sd); dots: seeds, lines: 95% over seeds and prompts; "
            "open: at equal ending", "trained on",
            "At equal ending all six models lie between random numbers and gold")

# %% [markdown]
# **What to see.** Paid for ending alone, the policy falls silent: gold loses three sds and more.
# (We had foretold .3 to 1.5 *more* gold.) **Random numbers prevent most of that in every seed** (on
# average 3.1 sds, .3 to 5.8). Why was not looked into.
#
# **Which floor?** Beside *nothing* a model looks worth four sds, but random numbers three.
# What a model *knows* is its lead over random numbers: about one sd, undecided.
#
# **At equal ending** random numbers cost gold .7 to 1.5 sds: so much is drift, at *their* distance
# (KL 14 to 17 nats; the six models' 14 to 47). Gold itself brings .8 to 1.0. All six lie between:
# no fall is seen beyond drift.

# %% [markdown]
# ## 4. Read the answers, for gold can be blind, too
#
# 52 of the 112 prompts ask for a list, 60 for sentences. A policy that learned *to do what is
# asked* numbers its answers where a list is asked for, and nowhere else. A policy that learned *a
# mannerism* numbers everything, or nothing. **Predict** which of the six is which, from the answers
# of Section 1.

# %%
asked = np.array([row["unit"] == "item" for row in prompts])


def habits(found):
    lists = np.array([text.lstrip().startswith("1.") for text in found["texts"]])
    return {f"numbered, of {asked.sum()} that asked": lists[asked].sum(),
            f"numbered, of {(~asked).sum()} that did not": lists[~asked].sum()}


SEVEN = {"reference": reference} | {name: run["evaluation"]["policy"] for name, run in SIX.items()}
frame({name: habits(found) for name, found in SEVEN.items()}).transpose()

# %% [markdown]
# **What to see.** BT 0 numbers more lists than the reference and nothing else, BSR 2 everything. BT
# 2 stayed, and three gave up lists altogether.
#
# So BSR 2 learned a mannerism, and gold was right to punish it? Here is an answer with its line
# breaks, which Section 1 left out:

# %%
print(repr(SEVEN["BSR 2"]["texts"][45]))
print("asked for:", prompts[45]["count"])

# %% [markdown]
# **Predict**: gold counts an item where a *line* begins with a number, and a sentence where a full
# stop is followed by a space. How many items does it count here? How many sentences?
#
# <details><summary>Answer</summary>
#
# One item and three sentences.
# </details>

# %%
def lined(text):
    """Every number of a list begins a line."""
    return re.sub(r"\s+(?=\d+\s*[.):]\s)", "\n", text.strip())


def right(found, read=str):
    """Has the answer as many items or sentences as asked for?  Shapes: -> (prompts,)."""
    return terms(found, read)[:, TERMS.index("instruction")] == 1


toy = "1. Bees. 2. Ants."
assert len(ITEM.findall(toy)) == 1 and len(ITEM.findall(lined(toy))) == 2, "items begin lines"
assert count_sentences(toy) == 3 and count_sentences(lined(toy)) == 2, "a number's stop ends none"

# %%
def right_of(found):
    stops = [bool(re.match(r"\s*1\.", t)) and "2." not in t and ended[0]
             for t, ended in zip(found["texts"], found["finished"], strict=True)]
    return {f"{what} right, of {which.sum()}: {how}": right(found, read)[which].sum()
            for what, which in (("lists", asked), ("sentences", ~asked))
            for how, read in (("as gold counts", str), ("numbers on their own lines", lined))
            } | {"ended with a 1. and no 2., of 52": np.array(stops)[asked].sum()}


frame({name: right_of(found) for name, found in SEVEN.items()}).transpose()

# %% [markdown]
# **What to see.** **Gold is blind twice. A list number within a line is no item to it, and its full
# stop is a sentence.** BSR 2 writes in one line. It gives as many items as asked in all 52 lists,
# and gold sees two; as many sentences in 45 of 60 answers, and gold sees four.
#
# BT 0 begins 41 lists and ends 23 of them without a 2: they only *look* like lists. (The reference,
# mostly cut off, ends one so.) It has 11 right, the reference 4.
#
# Let gold read again with each number on its own line. (The proxies learned from gold as it is; we
# chose this reading after seeing BSR 2's answers.)

# %%
read_again = by_method(lined)
figure, axis = plots.panels(1)
two_dots(axis, {name: [others(gains)[name.split()[0].lower()][int(name.split()[1])]
                       for gains in (split, read_again)] for name in SIX})
tint = plots.COLORS["bsr"]
axis.annotate("gold as it is (full)", (-0.4, -4.9), color=tint, ha="right", va="center")
axis.annotate("numbers on their\nown lines (open)", (1, -5.05), color=tint, va="center")
axis.set(xlim=(-1.3, 1.5), ylim=(-5.6, 0.5))
plots.label(axis, "gold but for complete, policy minus reference (sd), 95% over prompts", "",
            "Read with list numbers on their own lines, BSR 2 is the best of the six")

# %%
def first_answers(name, how):
    """The other four terms, and gold where both ended, with 95% over prompts."""
    method, seed = name.lower().split()
    both = np.array([SEVEN[part]["finished"] for part in (name, "reference")])[..., 0].all(0)
    gains = READ[how][method][int(seed)]  # (prompts, 5)
    parts = {"other four": gains[:, 1:].sum(1), "gold at equal ending": gains[both].sum(1)}
    return {f"{part}, {how} (sd)": "{:+.2f} ± {:.2f}".format(*metrics.seed_interval(values))
            for part, values in parts.items()}


READ = {"as gold counts": split, "numbers on their own lines": read_again}
for how, gains in READ.items():
    print(f"BSR, instruction, {how}:", shown(rloo.interval(gains["bsr"][..., 1]), "+.2f"))
print(prompts[7]["prompt"], "BSR 2:", SEVEN["BSR 2"]["texts"][7], sep="\n")
frame({name: {column: text for how in READ for column, text in first_answers(name, how).items()}
       for name in SIX})

# %% [markdown]
# **What to see.** The other four terms of BSR 2 go from -.14 to +.71, the best of the six. The
# other runs hardly move. At equal ending BSR 2 had -.16 with both answers (Section 3; +.08 beside
# eight). The first alone, the only texts on record, have -.43, and +.28 when read again: undecided.
# So is now the fall of *instruction* under BSR. **Gold misjudged how many items and sentences BSR 2
# gives.**
#
# Its numbering of everything is a mannerism: asked for a story, it gives four points and no story.
# Gold has no term for that. Only reading shows it.

# %% [markdown]
# ## 5. Three ways to be wrong
#
# Take the reference's 64 recorded answers to each of 112 prompts (`data/runs/best_of_n`), keep
# their gold, and make up three proxies:
# - **gold + noise**: independent normal noise, 1.2 sds of it, so that the two correlate as much
#   as gold and a trained proxy do;
# - **gold + heavy tails**: noise of the same quartiles that is now and then huge (Student's t,
#   two degrees of freedom);
# - **gold + rare trick**: less noise, .8 sds, but one answer in a hundred has a trick: the proxy
#   adds 5 sds where gold takes 2 off.

# %% [markdown]
# Then look at **the proxy's favourites** among the answers to a prompt: the top half, the top
# quarter, ..., the top one of 64. What is their gold?
#
# **Predict**: as the choice gets stricter, whose favourites get better all the way, and whose turn?

# %%
scores = {name: values.astype(float) for name, values in
          np.load(RUNS / "best_of_n" / "scores.npz").items()}  # (prompts, 64) each
unit = statistics.within_sd(scores["gold"])
gold = (scores["gold"] - scores["gold"].mean(1, keepdims=True)) / unit  # sds above the average
TRAINED = {method: [(scores[f"{method}-seed{s}"], gold) for s in range(4)]
           for method in ("bt", "bsr", "centering", "l2")}

# %%
FAULTS = {"+ noise": "#999933", "+ heavy tails": "#882255", "+ rare trick": "#332288"}  # colours
made_up = {name: [] for name in FAULTS}
for draw in range(20):
    rng = np.random.default_rng(draw)
    normal, heavy = rng.standard_normal(gold.shape), rng.standard_t(2, gold.shape)
    trick = rng.random(gold.shape) < 0.01
    made_up["+ noise"].append((gold + 1.2 * normal, gold))
    made_up["+ heavy tails"].append((gold + 1.2 * 0.826 * heavy, gold))  # .826: same quartiles
    made_up["+ rare trick"].append((gold + 0.8 * normal + 5 * trick, gold - 2 * trick))

# %%
def favourites(proxy, gold, keep):
    """Mean gold of the `keep` answers to each prompt that the proxy likes best.  Shapes: (P, N) ->
    (P,)."""
    best = np.argsort(-proxy, axis=1)[:, :keep]
    return np.take_along_axis(gold, best, axis=1).mean(1)

# %%
KEEP = (64, 32, 16, 8, 4, 2, 1)
curves = {name: np.array([[favourites(*one, keep) for keep in KEEP] for one in pairs])
          for name, pairs in (TRAINED | made_up).items()}  # (seeds or draws, sizes, prompts)
best = np.array([favourites(gold, gold, keep).mean() for keep in KEEP])

# %%
figure, axes = plots.panels(2, sharey=True)
titles = ("trained proxies: better all the way", "known faults: noise rises, the others turn")
for axis, names, title in zip(axes, (TRAINED, made_up), titles, strict=True):
    axis.plot(KEEP, best, ":", color="black")
    axis.annotate("picked by gold", (6.5, 1.8), color="black", ha="right")
    for i, name in enumerate(names):
        tint = (plots.COLORS | FAULTS)[name]
        mean, low, high = np.array([statistics.two_way_interval(curves[name][:, k])[:3]
                                    for k in range(len(KEEP))]).T
        axis.errorbar(np.array(KEEP) * 0.96**i, mean, [mean - low, high - mean], fmt="o-",
                      color=tint, markersize=3, linewidth=1, capsize=2)
        if names is made_up:
            axis.annotate(name, (0.8, mean[-1]), color=tint, va="center")
    axis.set_xscale("log", base=2)
    axis.set_xlim(75, 0.12 if names is made_up else 0.7)
    axis.set_xticks(KEEP, ["all", *(f"1/{64 // keep}" for keep in KEEP[1:])])
    axis.axhline(0, color="black", linewidth=0.8)
    plots.label(axis, "the proxy's favourites: top share of the answers", "", title)
axes[0].set_ylabel("mean gold (sd above average)")
axes[0].annotate("BT, BSR, centering, L2:\none curve", (1, 0.6), ha="right", va="center")
axes[0].plot(KEEP, curves["+ noise"].mean((0, 2)), color=FAULTS["+ noise"], linewidth=1)
axes[0].annotate("+ noise", (1.2, 1.43), color=FAULTS["+ noise"], ha="center")
figure.suptitle("Trained proxies' favourites do not turn, but fall short of honest noise's");

# %%
def turning(name):
    """The strictest choice against the top eighth."""
    later = curves[name][:, KEEP.index(1)] - curves[name][:, KEEP.index(8)]
    mean, low, high, _ = statistics.two_way_interval(later)
    behind = statistics.two_way_interval(curves[name][:, -1] - curves["+ noise"][:, -1].mean(0))
    agreed = [statistics.within_correlation(*one) for one in (TRAINED | made_up)[name]]
    return {"correlation with gold": f"{np.mean(agreed):.2f}",
            "gold at top 1/64 (sd)": f"{curves[name][:, -1].mean():.2f}",
            "minus noise's": "" if name == "+ noise" else shown(behind[:3], "+.2f"),
            "top 1/64 minus top 1/8": shown((mean, low, high), "+.2f"),
            "verdict": "turns down" if high < 0 else "rises" if low > 0 else "undecided"}

# %%
table = frame({name: turning(name) for name in curves})
assert list(table.verdict[list(made_up)]) == ["rises", "turns down", "turns down"], (
    "a fault shows itself among the favourites")
table.head(len(table))

# %% [markdown]
# **What to see.** *Noise*: better all the way. *Heavy tails*: better up to the top eighth. From
# there huge errors decide the pick. *A rare trick*: the curve falls back nearly to zero, for in
# nearly half of the prompts one of 64 answers has the trick. The trained proxies' favourites get
# better to the end, each beyond its interval. So **they do not turn among what the reference says
# by itself**. But at the top they lie .3 below those of noise.
#
# The correlation does not tell BT, *noise* and *a rare trick* apart: .64 each. It is an average
# over all answers, and a search lives among the extremes.

# %% [markdown]
# Without gold, let people judge the favourites: the top one of 64 against the top eighth.
#
# And a policy? It *moves*, beyond what the reference says by itself. Two faults were trained on
# (Section 3's controls): gold + *heavy tails*, where the first word decides the error, so that it
# can be learned; and gold + *a trick* that gold does not mind, half a point a "!".

# %%
for fault in ("heavy-tails", "trick"):
    TAUGHT[fault] = controls[f"{fault}-kl0.0"]
frame({fault: {"gold (sd), by seed": ", ".join(f"{m:+.2f}" for m in gold_gains(fault).mean(1))} | {
    f"minus trained on {other}": shown(rloo.interval(gold_gains(fault) - gold_gains(other)), "+.2f")
    for other in ("gold", "random numbers")} for fault in ("heavy-tails", "trick")})

# %% [markdown]
# **What to see.** The learnable, heavy-tailed error cost one sd against training on gold. Gold
# still rose beside the reference in each seed; beside random numbers that is undecided. Whether the
# tails cost it, or that the error can be learned, no run tells apart. What the trick costs is
# undecided.

# %% [markdown]
# ## 6. BSR's policies against BT's
#
# A seed has the same prompts in the same order under both methods: the comparison is paired.

# %%
def both(value):
    """BSR minus BT.  Shapes: -> (seeds, ...)."""
    bt, bsr = (np.array([value(run) for run in runs[f"{m}-kl0.0"]]) for m in ("bt", "bsr"))
    return bsr - bt

# %%
rows = {"climbed further by its own proxy": both(lambda run: rloo.gains(
            run["evaluation"])["proxy_gain"]),
        "gold": both(lambda run: rloo.gains(run["evaluation"])["gold_gain"]),
        "gold but for *complete*": both(lambda run: term_gains(run)[:, 1:].sum(1)),
        "the same, numbers on their own lines": both(
            lambda run: term_gains(run, lined)[:, 1:].sum(1))}
frame({title: {"BSR minus BT (sd)": shown(rloo.interval(d), "+.2f"),
               "by seed": ", ".join(f"{m:+.2f}" for m in d.mean(1))} for title, d in rows.items()})

# %% [markdown]
# **What to see.** BSR's proxies were climbed further in every seed. Gold lies lower in two of
# three. Every interval holds zero, and gold's three hold large effects either way.

# %% [markdown]
# ### Proxies that were never asked
#
# Now reward models from another world (`data/runs/study_rloo_style`; 04, Section 9). In their
# training every answer ended in a second paragraph, a postscript, the same for all answers to a
# prompt. So no pair asked Bradley-Terry what one is worth. The policy's prompts are the plain ones.
# (*spread* is BSR without its level term, here at $10^{-1}$; *BSR* at $10^{-2}$.)
#
# **Predict**: will gold follow these proxies? Does it matter whether the spread was held down?

# %%
NAMES = {"bt": "BT", "spread-1e-1": "spread", "bsr-1e-2": "BSR"}
style = read_runs(RUNS / "study_rloo_style")


def paragraphs(found):
    return f"{np.mean([chr(10) * 2 in text for text in found['texts']]):.2f}"


def row_of(run):
    policy, reference = (run["evaluation"][part] for part in ("policy", "reference"))
    gain = rloo.gains(run["evaluation"])
    correlation = statistics.within_correlation(reference["proxy"], reference["gold"])
    return {"correlation": f"{correlation:+.2f}", "proxy (sd)": f"{gain['proxy_gain'].mean():+.2f}",
            "gold (sd)": "{:+.2f} ± {:.2f}".format(*metrics.seed_interval(gain["gold_gain"])),
            "gold at equal ending": left_over(run), "ended": f"{np.mean(policy['finished']):.2f}",
            "tokens": f"{np.mean(policy['tokens']):.0f}", "KL (nats)": f"{distance(run):.0f}",
            f"two paragraphs (reference {paragraphs(reference)})": paragraphs(policy),
            "an answer": shorten(policy["texts"][45].replace("\n\n", " // "), 60)}


NINE = {f"{name}, seed {run['seed']}": run for method, name in NAMES.items()
        for run in style[f"{method}-kl0.0"]}
frame({name: row_of(run) for name, run in NINE.items()}).rename_axis(
    shorten(prompts[45]["prompt"]))

# %%
floor = [at_equal_ending(run, "gold").mean() for run in TAUGHT["random numbers"]]
far = [distance(run) for run in TAUGHT["random numbers"]]
figure, axis = plots.panels(1)
axis.axvspan(min(floor), max(floor), color="0.9", linewidth=0)
axis.annotate(f"gold, random\nnumbers ({min(far):.0f}\nto {max(far):.0f} nats)",
              (sum(floor) / 3 + 0.1, -1), ha="center", va="center")
two_dots(axis, {f"{name} ({distance(run):.0f} nats)": [at_equal_ending(run, key)
                for key in ("proxy", "gold")] for name, run in NINE.items()})
axis.annotate("gold (open)", (-2.57, 0.3), color=plots.COLORS["bt"], ha="center")
axis.annotate("proxy (full)", (2.31, 0.4), color=plots.COLORS["bt"], ha="center")
axis.annotate("never ends", (0.1, -1), va="center")
axis.set_ylim(-8.5, 1)
plots.label(axis, "what is left of the gain where both ended (sd), 95% over prompts", "",
            "At equal ending five of eight policies raised the proxy and lowered gold")

# %%
bt, spread, bsr = (np.array([rloo.gains(run["evaluation"])["gold_gain"]
                             for run in style[f"{method}-kl0.0"]]) for method in NAMES)
print("gold, spread minus BT:", shown(rloo.interval(spread - bt), "+.2f"))
print("gold, BSR minus BT:   ", shown(rloo.interval(bsr - bt), "+.2f"))

# %% [markdown]
# **What to see.** **At equal ending gold falls in five of the eight runs that end**, while their
# proxies rise by 1.2 to 2.4 sds. But **drift is excluded for none**. Only BT's seed 0 (-2.57) falls
# further than under random numbers (grey), and its KL is about twice theirs (29 nats). (BT's seed 1
# never ends: its proxy *dis*agrees with gold from the start.)
#
# Brevity goes with the fall: those five wrote 7 to 26 tokens, the other three 33 to 42. Second
# paragraphs are missing in four of the five, and in none of the three. Neither is shown to be a
# cause. Which *method* resists is undecided: BT's runs differ by 2.7 sds.

# %% [markdown]
# ## 7. What holds here
#
# - **Ending explains most of what gold gained beside the reference.** At equal ending gold rose in
#   two of six runs and fell in three, not seen to go beyond drift.
# - **What a model adds to random numbers**, about one sd, is undecided.
# - **Proxy up, gold down at equal ending**: five of nine runs against models of another world.
#   Drift is excluded for none.
# - **Gold misjudged BSR 2**: it cannot read numbers within a line.
# - **BSR against BT, spread against BT: undecided.**
#
# Unlike the paper (Sec. 3.2): 135M, not 1.5B, no own SFT, LoRA, 16 answers a step, not 128, no KL
# price.

# %% [markdown]
# ## Exercises
#
# A wrong answer gets a second hint from its checker. Solutions are in `notebooks/solutions/`.
#
# **1.** Each answer has a trick with probability `rate`, independently, and the proxy picks one
# with a trick whenever there is one. Its gold is `trick`. `honest[n - 1]`, of a tensor of length
# N, is gold of the best of n answers without a trick. Return the integer n, 1 to N, at which the
# expected gold of the pick is highest.
#
# <details><summary>First hint</summary>
#
# Split the cases by whether *any* of the n answers has the trick.
# </details>

# %%
def best_size(honest, trick, rate):
    return None


checks.check_best_size(best_size);

# %% [markdown]
# **2.** Judge the record. BT 0 and BSR 0 were trained once more with the paper's KL price of .05.
# `priced` and `free`, tensors of length P, are gold's gains on the same prompts with and without
# the price. Return 1 where the price helped beyond a 95% interval over prompts, -1 where it cost,
# 0 where that is undecided.
#
# <details><summary>First hint</summary>
#
# Which prompts did the two runs answer? What does that allow you to do before any interval?
# </details>

# %%
def price_verdict(priced, free):
    return None


checks.check_price_verdict(price_verdict);

# %%
for method in ("bt", "bsr"):
    priced, free = (torch.tensor(rloo.gains(runs[f"{method}-kl{price}"][0]["evaluation"])[
        "gold_gain"]) for price in (0.05, 0.0))
    print(method.upper(), f"{(priced - free).mean():+.2f}", price_verdict(priced, free))

# %% [markdown]
# *Then judge its two answers*: what may you say about KL prices?
#
# <details><summary>Answer</summary>
#
# Under BT the price cost gold, under BSR it brought some, each beyond its interval over prompts.
# But it is one run a side, and seeds differ by as much: nothing follows for KL prices.
# </details>

# %% [markdown]
# **3.** A policy may number its answers more often *because it was asked to*, or just more often.
# From three boolean tensors (numbered before, numbered after, asked for) return by how much
# more the *share* numbered grew where a list was asked for than where none was: 0 where it grew
# alike, 1 where it went from none to all of the asked and stayed elsewhere.
#
# Then compute it for BSR 2 and BT 1, by hand from Section 4's counts. Why are they alike, and what
# second number would tell them apart?
#
# <details><summary>First hint</summary>
#
# Section 4 has two counts for the reference and two for a run. A mannerism must cancel.
# </details>

# %%
def learned_to_list(before, after, asked):
    return None


checks.check_learned_to_list(learned_to_list);

# %% [markdown]
# <details><summary>Answer to the second part</summary>
#
# -.33 and -.35. A difference forgets where it started: BSR 2 rose most where no list was asked for,
# BT 1 gave up those that were. The share numbered of the asked, after training, tells them apart:
# 52 and 0 of 52.
# </details>

# %% [markdown]
# ## Check yourself
#
# 1. A reward model's policy gains a sd of gold. Which two runs do you want to see beside it?
# 2. Why does *picking* by an honest proxy keep its correlation with gold, and not 1?
# 3. All gains vanish at equal ending. Did the policy learn nothing from its reward?
# 4. Two proxies correlate with gold equally. How can one be harmless and one not?
# 5. Gold itself says that an answer got worse. Name two reasons not to believe it.

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1. The same training on random numbers (the floor) and on gold (the ceiling); a constant shows
#    what the set-up alone teaches.
# 2. Of a picked answer's lead a part is luck of the proxy's errors; that part is not in gold.
# 3. Not shown: without any reward answers fall silent. Compare with random numbers.
# 4. By the worth of its favourites: rare huge errors are picked first.
# 5. Its rule may be blind to the form (numbers within a line); and its interval may hold zero.
# </details>

# %% [markdown]
# ## What to watch, what to vary
#
# | In your run, watch | Seen here | If not, or next, vary |
# |---|---|---|
# | tokens, endings | 40 to 25 tokens, .4 to .95 ended | 4 tokens: lower the penalty |
# | share kept, correlation | .17 to .89, .63 to .69 | far below: read the favourites |
# | a constant, random numbers | gold -3.4, -.3 sds | no gain beyond random numbers: more seeds |

# %% [markdown]
# ## What you know now
#
# - A gain that any proxy would bring, such as ending, must be taken out of *both* rewards before
#   the share kept says anything. What a model adds, only a control shows.
# - For picking, a proxy's correlation with gold says less than the worth of its favourites.
#
# **To pass on:** a rising reward says that the policy found *something*. Train on a constant and on
# random numbers, three seeds each, to see what comes without knowledge. Then read the answers: the
# judge may be blind, too.
