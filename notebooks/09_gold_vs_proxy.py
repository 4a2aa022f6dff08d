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
# model, and hopes. Here the reward models of notebook 07 train policies while gold looks on. Three
# questions: does gold follow the proxy? If it does, *why*? And is a BSR reward model (Eq. 25) the
# better teacher, as the paper's Part 2 has it?

# %% [markdown]
# After it you can
# - put proxy and gold into one unit, and say how much an honest proxy would let gold keep;
# - find the dull explanation of a gain, and take it out of both rewards;
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

from bsr_lite import metrics, plots
from bsr_lite.course import checks_policy as checks
from bsr_lite.gold import ITEM, gold_terms
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
# 16 answers (4 prompts, 4 answers each) of at most 48 tokens. Each run had its own proxy: a BT or
# a BSR reward model ($\lambda = 10^{-3}$) of seed 0, 1 or 2. "BT 1" is the policy that was
# trained on BT's proxy of seed 1. There is no KL price ($\beta = 0$), so that what a proxy gets
# wrong can show.

# %% [markdown]
# All runs, and the reference, then gave **two answers** each to the same 112 new prompts. The text
# of the first is on record; gold, proxy and whether it ended are on record for both.

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
# asked for, for the topic, for ending, for not repeating, for the right length. Which answer does
# gold like best? Which proxy thinks most of its own policy's answer?

# %%
answers(45, "gold (0 to 5)", "its proxy")

# %% [markdown]
# **What to see.** The reference was cut off after 48 tokens, and gold likes three policies better,
# none less.

# %% [markdown]
# <details><summary>Answer</summary>
#
# Gold likes the list of BSR 2 best. The proxies of BT 2 and BSR 0 think more of their policies'
# answers than BSR 2's does. These numbers already have a rough unit: the trainer subtracts the
# reference's mean and divides by its standard deviation on 32 training prompts. Section 2 does it
# again, exactly, for proxy and gold on the same 112 prompts.
# </details>

# %% [markdown]
# ## 2. One unit
#
# Gold runs from 0 to 5. A reward model's raw numbers have no unit. So both are counted in
# **their own standard deviation (sd) among the reference's answers to one prompt**. A *gain* of 1
# then says: the policy's average answer is as good as one that lies a standard deviation above the
# reference's average.
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
# How much would a proxy let gold keep that is merely noisy? Say proxy = gold + independent noise,
# both normal. An answer that lies one standard deviation up by the proxy lies $\rho$ up by gold,
# $\rho$ the correlation of the two. So **an honest climb keeps $\rho$**, however far it goes.

# %%
rng = np.random.default_rng(0)
value, noise = rng.normal(size=(2, 2000, 64))  # 2,000 prompts, 64 answers each
rho = np.corrcoef(value.ravel(), (value + noise).ravel())[0, 1]
for n in (2, 8, 64):
    picked = [statistics.best_of_n(value + noise, v, n).mean() for v in (value, value + noise)]
    kept = picked[0] / (picked[1] / (value + noise).std())
    assert abs(kept - rho) < 0.03, "with normal noise the share kept is the correlation at any n"
print(f"correlation {rho:.2f}; share kept by best-of-64 {kept:.2f}")

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
# kept more than the correlation, the other four less. (The real gold is not normal. So $\rho$ is a
# yardstick, and more than $\rho$ is no certificate.)

# %% [markdown]
# That invites a story: two proxies were honest and four were exploited. **Predict** before you
# believe it: what could raise *any* reward of the policy, whatever its proxy knows?
#
# <details><summary>Answer</summary>
#
# Something that all proxies like and that training teaches anyway: to *end*. Look again at the
# first prompt of Section 1: the reference was cut off, all six policies ended.
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
# of the proxy and more than one and a half of gold (± 95% over 31 prompts). *Ending alone*, the
# rise in endings times their worth, would so bring about 1.1 of the proxy and .9 of gold. Of gold
# only BT 0, BT 2 and BSR 2 gained as much.
#
# **Ending alone would give every run a share of .83 to .93.** What sets .17 apart from .89 is
# what the policy did besides. (An answer that ends may be better in other ways as well. So its
# worth is an estimate, not yet a cause.)

# %% [markdown]
# ### Which terms of gold rose?
#
# Gold is a sum of terms, so it splits exactly by *term*: *complete* (half for ending, half for
# closing punctuation, which a cut-off answer hardly has) and the **other four**, content and form.
# Ending touches these a little, too: a cut-off answer may lack a sentence. The texts of the first
# answers are on record, so their terms can be computed again.
#
# **Predict**: of gold's five terms, which rose, and did any fall?

# %%
TERMS = ("complete", "instruction", "topic", "fresh", "concise")


def terms(found, read=str):
    """Gold's terms of the first answers, as `read` gives them.  Shapes: -> (prompts, 5)."""
    return np.array([[gold_terms(read(text) if row["unit"] == "item" else text, unit=row["unit"],
                                 count=row["count"], stems=row["stems"], finished=ended[0])[t]
                      for t in TERMS]
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
    for seed, means in enumerate(gains.mean(1)):  # a seed's dots are joined
        axis.plot(places[:5], means[:5], "-", color=tint, linewidth=0.6, alpha=0.5)
        axis.plot(places, means, ".", color=tint)
        axis.annotate(seed, (places[5] + 0.04 * (1 + seed), means[5]), color=tint, va="center",
                      fontsize=7)
    for j, place in enumerate(places):
        mean, low, high, _ = statistics.two_way_interval(gains[..., j])
        axis.errorbar(place - 0.06, mean, [[mean - low], [high - mean]], fmt="_", capsize=3,
                      color=tint, alpha=0.6)
    axis.annotate(method.upper(), (places[0], 1.3), color=tint, ha="center")
axis.axvline(4.5, color="0.8")
axis.axhline(0, color="black", linewidth=0.8)
axis.set_xticks(range(6), [*TERMS, "sum of the\nother four"])
plots.label(axis, "term of gold; dots: seeds, bars: 95% over seeds and prompts",
            "policy minus reference (sd of gold)",
            "Complete rose in every run; no other term did")
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
# **What to see.** *Complete* rises by about a standard deviation in every run. *Instruction*, doing
# what is asked, falls under BSR beyond its interval (Section 4 takes this back). The other four
# together rise by less than a tenth in two runs and fall in four. Over seeds and prompts that fall
# is undecided for either method.
#
# <details><summary>Answer</summary>
#
# Beyond its interval only *complete* rose, and only *instruction* fell, under BSR.
# </details>

# %% [markdown]
# ### At equal ending
#
# The proxy is no sum of terms. But one can *hold ending equal*: keep the prompts to which both the
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
# **Predict**: in the six recorded runs, what is left at equal ending of the proxies' gains, and of
# gold's?

# %%
figure, axis = plots.panels(1)
for place, (name, run) in enumerate(SIX.items()):
    tint = plots.COLORS[name.split()[0].lower()]
    left = [metrics.seed_interval(at_equal_ending(run, key)) for key in ("proxy", "gold")]
    axis.plot([mean for mean, _ in left], [0.1 - place, -0.1 - place], color="0.8", linewidth=3)
    for (mean, half), y, fill in zip(left, (0.1, -0.1), (tint, "white"), strict=True):
        axis.errorbar(mean, y - place, xerr=half, fmt="o", capsize=3, color=tint,
                      markerfacecolor=fill)
    if name == "BSR 0":
        axis.annotate("proxy (full)", (left[0][0] + 0.2, -place), color=tint, va="center")
        axis.annotate("gold (open)", (left[1][0] - 0.33, -place), color=tint, ha="right",
                      va="center")
axis.axvline(0, color="black", linewidth=0.8)
axis.set_yticks([-place for place in range(len(SIX))], SIX)
axis.set_xlim(-1.2, 2)
plots.label(axis, "what is left of the gain where both ended (sd), 95% over prompts", "",
            "At equal ending the two highest climbs show no gain of gold")

# %%
frame({name: {"prompts": str(len(at_equal_ending(run, "gold")))} | {
    f"{key} (sd)": "{:+.2f} ± {:.2f}".format(*metrics.seed_interval(at_equal_ending(run, key)))
    for key in ("proxy", "gold")} for name, run in SIX.items()})

# %% [markdown]
# **What to see.** BT 0 and BT 2: proxy and gold both up by a quarter to a third of a unit (gold
# just beyond its interval), a small honest climb. BSR 0: the proxy up by 1.4, and gold got nothing
# of it. BSR 2: the proxy up by a unit, gold undecided (Section 4 says why). The share kept of
# Section 2 had warned of BSR 0, but had ranked BSR 2 above BSR 1.

# %% [markdown]
# BT 1 and BSR 1: gold fell as far as in BSR 0, and their proxies hardly moved. That is not
# over-optimization. It may be drift: nothing here pulls a policy back to the reference. **So the
# fall alone proves nothing about BSR 0's proxy.** (The controls below agree.)

# %% [markdown]
# <details><summary>Answer</summary>
#
# Most of the gains are gone: they had been ending. A quarter to a third of an sd of gold is left in
# BT 0 and BT 2.
# </details>
#
# The intervals are over prompts alone: they speak of these six policies, on prompts that the
# reference can finish.

# %% [markdown]
# ### Controls: rewards whose meaning is known
#
# The same training with other rewards (`data/runs/study_rloo_controls`), three seeds each, but two
# of *gold + opening word*:
# - *nothing*: a constant, so that only the penalty for not ending is left;
# - *random numbers*, a new one for every new text;
# - *gold* itself, the best reward that there is;
# - *gold + opening word*: gold plus one error an opening word, now and then a huge one;
# - *gold + "!"*: gold plus half a point for every exclamation mark.
#
# **Predict**: paid for nothing but ending, what will the policy write? What will gold say of it?

# %%
controls = read_runs(RUNS / "study_rloo_controls")
KNOWN = {"gold": "gold", "trick": 'gold + "!"', "heavy-tails": "gold + opening word",
         "noise": "random numbers", "constant": "nothing"}
frame({reward: {f"seed {run['seed']}": shorten(run["evaluation"]["policy"]["texts"][45], 70)
                for run in controls[f"{method}-kl0.0"]} for method, reward in KNOWN.items()}
      ).fillna("(not run)").rename_axis(shorten(prompts[45]["prompt"]))

# %%
TAUGHT = {KNOWN[method]: controls[f"{method}-kl0.0"] for method in KNOWN}
TAUGHT |= {"a BT model": runs["bt-kl0.0"], "a BSR model": runs["bsr-kl0.0"]}


def gains_of(group):
    """Of gold and of gold but for *complete* (first answers), in sds.  Shapes: (seeds, prompts)."""
    return (np.array([rloo.gains(run["evaluation"])["gold_gain"] for run in group]),
            np.array([term_gains(run)[:, 1:].sum(1) for run in group]))


def taught(group):
    own, ended, tokens = ([rloo.gains(run["evaluation"])[key] for run in group]
                          for key in ("proxy_gain", "finished", "tokens"))
    whole, rest = (shown(rloo.interval(values), "+.2f") for values in gains_of(group))
    marks = [np.mean([text.count("!") for text in run["evaluation"]["policy"]["texts"]])
             for run in group]
    return {"gold (sd)": whole, "gold but for complete": rest,
            "gold, by seed": ", ".join(f"{m:+.2f}" for m in gains_of(group)[0].mean(1)),
            "its own reward, by seed": ", ".join(f"{np.mean(m):+.2f}" for m in own),
            "tokens": f"{np.mean(tokens):.0f}", "ended": f"{np.mean(ended):.2f}",
            "! an answer, by seed": ", ".join(f"{m:.2f}" for m in marks)}


frame({reward: taught(group) for reward, group in TAUGHT.items()})

# %%
def left_over(run, key="gold"):
    """Gain at equal ending with its 95% interval over prompts; nothing where hardly one ended."""
    found = at_equal_ending(run, key)
    return "{:+.2f} ± {:.2f}".format(*metrics.seed_interval(found)) if len(found) > 9 else "-"


frame({f"trained on {reward}": {f"gold at equal ending, seed {run['seed']} (sd)": left_over(run)
                                for run in TAUGHT[reward]}
       for reward in ("gold", "random numbers", "nothing", "a BT model", "a BSR model")})

# %%
floors = {reward: gains_of(TAUGHT[reward])[0] for reward in ("nothing", "random numbers")}
frame({f"{reward}, gold beyond ...": {floor: shown(rloo.interval(
    gains_of(TAUGHT[reward])[0] - values), "+.2f") for floor, values in floors.items()}
    for reward in ("gold", "a BT model", "a BSR model", "random numbers")})  # seed by seed

# %%
figure, axis = plots.panels(1)
for place, (reward, group) in enumerate(TAUGHT.items()):
    tint = plots.COLORS[reward.split()[1].lower()] if reward.startswith("a ") else "black"
    for values, y, fill in zip(gains_of(group), (0.14, -0.14), (tint, "white"), strict=True):
        _, low, high = rloo.interval(values)
        if low is not None:
            axis.plot((low, high), [y - place] * 2, color=tint, linewidth=1)
        axis.plot(values.mean(1), [y - place] * len(group), "o", color=tint, markerfacecolor=fill,
                  markersize=5)
axis.axvline(0, color="black", linewidth=0.8)
axis.set_yticks([-place for place in range(len(TAUGHT))], TAUGHT)
plots.label(axis, "gain of gold (sd; open: but for complete); a dot a seed, 95%", "trained on",
            "Paid for nothing the policy falls silent; paid in random numbers much less so")

# %% [markdown]
# **What to see.** Paid for ending alone, the policy falls silent: one to four tokens, and gold
# falls by three sds and more. **Random numbers prevent four fifths or more of that in every seed**
# (3.1 sds, .3 to 5.8). But for *complete* gold still falls by one sd.
#
# Gold itself brings 1.7 sds. The errors of opening words left .21 and .52 of it, in two runs.
# The "!" was found by one run of three, the one with the least gold. (One seed of random numbers
# wrote .34 unpaid: a count of marks alone proves little.)

# %% [markdown]
# **Which floor?** Beside the *reference*, ending explains most of what gold gained. Beside
# *nothing* each trained model looks worth three sds, but so do random numbers. What a model *knows*
# is its lead over random numbers: about one sd, and with three seeds undecided. A gain means what
# its control makes of it. *At equal ending* gold itself brings .8 to 1.0, random numbers cost .7 to
# 1.5, and all six models lie between: Section 3's falls are not seen to go beyond drift.
#
# <details><summary>Answer</summary>
#
# As little as it can: one word or nothing, then the end. (We had foretold .3 to 1.5 sds *more*
# gold, R1 in `data/runs/LOG.md`: wrong.)
# </details>

# %% [markdown]
# ## 4. Read the answers, for gold can be blind, too
#
# A number does not tell *what* pleases a proxy. Count. 52 of the 112 prompts ask for a list, 60 for
# sentences. A policy that learned *to do what is asked* numbers its answers where a list is asked
# for, and nowhere else. A policy that learned *a mannerism* numbers everything, or nothing.
#
# **Predict** which of the six is which, from the answers of Section 1.

# %%
asked = np.array([row["unit"] == "item" for row in prompts])


def habits(found):
    lists = np.array([text.lstrip().startswith("1.") for text in found["texts"]])
    openings = [" ".join(text.split()[:2]) for text in found["texts"]]
    common = max(sorted(set(openings)), key=openings.count)
    return {f"numbered, of {asked.sum()} that asked": lists[asked].sum(),
            f"numbered, of {(~asked).sum()} that did not": lists[~asked].sum(),
            "commonest opening": common, "answers with it": openings.count(common)}


SEVEN = {"reference": reference} | {name: run["evaluation"]["policy"] for name, run in SIX.items()}
frame({name: habits(found) for name, found in SEVEN.items()})

# %% [markdown]
# **What to see.** BT 0 numbers more lists than the reference and nothing else, BSR 2 everything. BT
# 2 stayed, and three gave up lists altogether. Nobody rewarded that on purpose, and runs of one
# method differ as much as runs of two.
#
# So BSR 2 learned a mannerism, and gold was right to punish it? Section 1 squeezed the
# line breaks out of the answers. Here is one as it is:

# %%
print(repr(SEVEN["BSR 2"]["texts"][45]))
print("asked for:", prompts[45]["count"])

# %% [markdown]
# **Predict**: gold's formula counts an item where a *line* begins with a number. How many does it
# count here? In how many of the 52 lists does BSR 2 give as many items as were asked for?

# %%
NUMBER = re.compile(r"(?:(?<=\s)|^)\d+\s*[.):]\s+")  # "2. " wherever it stands
counts = np.array([row["count"] for row in prompts])


def right_lists(found):
    anywhere, seen = (np.array([len(rule.findall(text)) for text in found["texts"]])
                      for rule in (NUMBER, ITEM))
    stops = [bool(re.match(r"\s*1\.", t)) and "2." not in t for t in found["texts"]]
    return {f"as many items as asked, of {asked.sum()}": (anywhere == counts)[asked].sum(),
            "as many by gold's count": (seen == counts)[asked].sum(),
            "a 1. and no 2.": np.array(stops)[asked].sum()}


print("that answer, items by gold's count:", len(ITEM.findall(SEVEN["BSR 2"]["texts"][45])))
frame({name: right_lists(found) for name, found in SEVEN.items()})

# %% [markdown]
# **What to see.** BSR 2 gives as many items as asked in all 52 lists, and gold sees two of them. It
# writes its items in one line. BT 0 has the right number in 11, the reference in 3. But in 23 of BT
# 0's 41 lists no 2 follows the 1. It mostly learned to *look* like a list.
#
# How much of gold's verdict hangs on this? Put every number of a list *that was asked for* on a
# line of its own and let gold read again. (The proxies learned from gold as it is.)

# %%
def lined(text):
    return re.sub(r"\s+(?=\d+\s*[.):]\s)", "\n", text.strip())


assert len(ITEM.findall(lined("1. Bees. 2. Ants."))) == 2, "gold counts what begins a line"
read_again = by_method(lined)

# %%
figure, axis = plots.panels(1)
for place, name in enumerate(SIX):
    method, seed = name.lower().split()
    means = [metrics.seed_interval(others(gains)[method][int(seed)])
             for gains in (split, read_again)]
    tint = plots.COLORS[method]
    axis.plot([mean for mean, _ in means], [0.1 - place, -0.1 - place], color="0.8", linewidth=3)
    for (mean, half), y, fill in zip(means, (0.1, -0.1), (tint, "white"), strict=True):
        axis.errorbar(mean, y - place, xerr=half, fmt="o", capsize=3, color=tint,
                      markerfacecolor=fill)
axis.annotate("gold as it is (full)", (-0.4, -4.9), color=tint, ha="right", va="center")
axis.annotate("items counted\nanywhere (open)", (1, -5.05), color=tint, va="center")
axis.axvline(0, color="black", linewidth=0.8)
axis.set_yticks([-place for place in range(len(SIX))], SIX)
axis.set_xlim(-1.3, 1.5)
axis.set_ylim(-5.6, 0.5)
plots.label(axis, "gold but for complete, policy minus reference (sd), 95% over prompts", "",
            "BSR 2 gives the items asked for, and gold cannot see it")

# %%
def first_at_equal_ending(name, gains):
    method, seed = name.lower().split()
    both = np.array([SEVEN[part]["finished"] for part in (name, "reference")])[..., 0].all(0)
    return metrics.seed_interval(gains[method][int(seed)][both].sum(1))


frame({name: {f"gold at equal ending, {title} (sd)": "{:+.2f} ± {:.2f}".format(
    *first_at_equal_ending(name, gains)) for title, gains in (
        ("first answers", split), ("items counted anywhere", read_again))} for name in SIX})

# %%
for title, by in (("as gold counts", split), ("items counted anywhere", read_again)):
    print("BSR, instruction,", title, shown(rloo.interval(by["bsr"][..., 1]), "+.2f"))

# %% [markdown]
# **What to see.** With its lists read, the other four terms of BSR 2 go from -.14 to +.33: the best
# of the six. The other five runs hardly move. So **gold cannot read** these lists. But it saw a
# mannerism as well: at equal ending BSR 2's first answers go from a fall to undecided only, for it
# numbers sentences where no list was asked for. (Second answers have no text on record. On first
# ones alone the small climbs of BT 0 and BT 2, Section 3, are undecided, too.)

# %% [markdown]
# This takes back a verdict of Section 3: *instruction* under BSR does not fall any more.
#
# <details><summary>Answer; and which run learned the instruction?</summary>
#
# Gold counts one item. BSR 2 learned the instruction *and* overdid it: it numbers 59 of 60 answers
# where no list was asked for. BT 0 learned to begin a list. *Read the answers before you believe
# gold, too.*
# </details>

# %% [markdown]
# ## 5. Three ways to be wrong
#
# Some errors of a proxy matter, some do not. Take the reference's 64 recorded answers to each of
# 112 prompts (`data/runs/best_of_n`), keep their gold, and make up three proxies:
# - **gold + noise**: independent normal noise, 1.2 sds of it, so that the two correlate as much
#   as gold and a trained proxy do;
# - **gold + heavy tails**: noise of the same quartiles that is now and then huge (Student's t,
#   two degrees of freedom);
# - **gold + rare trick**: less noise, .8 sds, but one answer in a hundred has a trick: the proxy
#   adds 5 sds where gold takes 2 off.

# %% [markdown]
# Then look at **the proxy's favourites**: the top half of the answers to a prompt by its account,
# the top quarter, ..., the top one of 64. What is their gold?
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
    axis.annotate("picked by gold", (1.2, 1.75), color="black", ha="center")
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
axes[0].set_ylabel("mean gold (sd above the average answer)")
axes[0].annotate("BT, BSR, centering, L2:\none curve", (1, 0.6), ha="right", va="center")
figure.suptitle("Faults show among a proxy's favourites: those of trained proxies do not turn");

# %%
def turning(name):
    """The strictest choice against the top eighth."""
    later = curves[name][:, KEEP.index(1)] - curves[name][:, KEEP.index(8)]
    mean, low, high, _ = statistics.two_way_interval(later)
    means = curves[name].mean((0, 2))
    agreed = [statistics.within_correlation(*one) for one in (TRAINED | made_up)[name]]
    promised = [(proxy.max(1) - proxy.mean(1)).mean() / statistics.within_sd(proxy)
                for proxy, _ in (TRAINED | made_up)[name]]
    return {"correlation with gold": f"{np.mean(agreed):.2f}",
            "best at top": f"1/{64 // KEEP[means.argmax()]}",
            "proxy at top 1/64 (its sd)": f"{np.mean(promised):.2f}",
            "gold at top 1/64 (sd)": f"{means[-1]:.2f}",
            "top 1/64 minus top 1/8": shown((mean, low, high), "+.2f"),
            "verdict": "turns down" if high < 0 else "rises" if low > 0 else "undecided"}

# %%
table = frame({name: turning(name) for name in curves})
assert list(table.verdict[list(made_up)]) == ["rises", "turns down", "turns down"], (
    "a fault shows itself among the favourites")
table.head(len(table))

# %% [markdown]
# **What to see.** *Noise*: better all the way. It promises too much and is never harmful. *Heavy
# tails*: better up to the top eighth. From there huge errors decide the pick, and they say
# nothing of gold. *A rare trick*: the curve falls back nearly to zero. In nearly half of the
# prompts one of 64 answers has the trick, and then it is the favourite. The trained proxies'
# favourites get better to the end, each beyond its interval. So **they do not turn among what the
# reference says by itself**.

# %% [markdown]
# The correlation does not tell BT, *noise* and *a rare trick* apart: .64 each. It is an average
# over all answers, and a search lives among the extremes.
#
# Nobody has gold for this test. Without it, let people judge the favourites of a hundred prompts:
# the top one of 64 against the top eighth.

# %% [markdown]
# <details><summary>Answer; and why can a policy still lose gold?</summary>
#
# Noise never turns, heavy tails and a trick do. As to policies: best-of-$n$ picks among answers
# that the reference gives anyway. A policy *moves*: it makes answers that the reference hardly ever
# gives, if the proxy pays for them (Section 4 counts some). What a proxy says of the usual answers
# does not tell what it says of those.
# </details>

# %% [markdown]
# ## 6. BSR's policies against BT's
#
# Is BSR the better teacher? A seed has the same prompts in the same order under both methods, so
# the comparison is paired.

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
        "the same, items counted anywhere": both(lambda run: term_gains(run, lined)[:, 1:].sum(1))}
verdicts = {}
for title, d in rows.items():  # (seeds, prompts)
    found = statistics.two_way_interval(d)
    verdicts[title] = {"BSR minus BT (sd)": shown(found[:3], "+.2f"),
                       "by seed": ", ".join(f"{m:+.2f}" for m in d.mean(1)),
                       "verdict": "undecided" if found[1] < 0 < found[2] else "decided"}
frame(verdicts)

# %% [markdown]
# **What to see.** BSR's proxies were climbed further in every seed. Gold lies lower in two of
# three. Every interval holds zero, and holds large effects either way as well. How gold counts
# items moves the third row by a tenth of an sd.

# %% [markdown]
# ### Proxies that were never asked
#
# Now reward models from another world (`data/runs/study_rloo_style`; 04, Section 9). In their
# training every answer ended in a second paragraph, a postscript about something else, the same for
# all answers to a prompt. So no pair differed in it, and Bradley-Terry was never asked what one is
# worth. The policy's prompts are the plain ones: it has to *find* what such a model likes.
# (*spread* is BSR without its level term, here at $10^{-1}$; *BSR* at $10^{-2}$.)
#
# **Predict**: will gold follow these proxies? In the reference .26 of the answers have a second
# paragraph: what becomes of them? Does it matter whether the spread was held down?

# %%
NAMES = {"bt": "BT", "spread-1e-1": "spread 1e-1", "bsr-1e-2": "BSR 1e-2"}
style = read_runs(RUNS / "study_rloo_style")


def paragraphs(found):
    """Share of answers with a second paragraph."""
    return f"{np.mean([chr(10) * 2 in text for text in found['texts']]):.2f}"


def row_of(run):
    policy, reference = (run["evaluation"][part] for part in ("policy", "reference"))
    gain = rloo.gains(run["evaluation"])
    correlation = statistics.within_correlation(reference["proxy"], reference["gold"])
    return {"correlation": f"{correlation:+.2f}", "proxy (sd)": f"{gain['proxy_gain'].mean():+.2f}",
            "gold (sd)": "{:+.2f} ± {:.2f}".format(*metrics.seed_interval(gain["gold_gain"])),
            "gold at equal ending": left_over(run), "ended": f"{np.mean(policy['finished']):.2f}",
            "two paragraphs": paragraphs(policy),
            "an answer": shorten(policy["texts"][45].replace("\n\n", " // "), 60)}


NINE = {f"{name} {run['seed']}": run for method, name in NAMES.items()
        for run in style[f"{method}-kl0.0"]}
frame({name: row_of(run) for name, run in NINE.items()}).rename_axis(
    shorten(prompts[45]["prompt"]))

# %%
figure, axis = plots.panels(1)
for place, (name, run) in enumerate(NINE.items()):
    tint = plots.COLORS[name.split()[0].lower()]
    for key, y, fill in (("proxy", 0.13, tint), ("gold", -0.13, "white")):
        if left_over(run) != "-":
            mean, half = metrics.seed_interval(at_equal_ending(run, key))
            axis.errorbar(mean, y - place, xerr=half, fmt="o", capsize=3, color=tint,
                          markerfacecolor=fill, markersize=5)
    if name == "BT 0":
        axis.annotate("gold (open)", (-2.1, -place), color=tint, va="center")
        axis.annotate("proxy (full)", (1.1, -place), color=tint, va="center")
axis.annotate("never ends", (0.1, -1), va="center")
axis.axvline(0, color="black", linewidth=0.8)
axis.set_yticks([-place for place in range(len(NINE))], NINE)
plots.label(axis, "what is left of the gain where both ended (sd), 95% over prompts", "",
            "Of eight policies that end, five raised the proxy and lowered gold");

# %% [markdown]
# **What to see.** Every proxy was climbed. Gold as it is rose in five of nine, but Section 3 taught
# to take endings out. **At equal ending gold falls in five of the eight runs that end: BT 0, spread
# 2 and all three BSR runs**, while their proxies rise by 1.2 to 2.4 sds. It rises in BT 2 and two
# of spread. BT 1 never ends: its proxy *dis*agrees with gold from the start.
#
# In three runs .84 to .96 of the answers got a second paragraph, in BSR 0 down to "1. Ancient. //
# In.": the *place* of a postscript. Against gold or plain models it is .22 or less (below).

# %%
bt, spread, bsr = (np.array([rloo.gains(run["evaluation"])["gold_gain"]
                             for run in style[f"{method}-kl0.0"]]) for method in NAMES)
print("gold, spread minus BT:", shown(rloo.interval(spread - bt), "+.2f"))
print("gold, BSR minus BT:   ", shown(rloo.interval(bsr - bt), "+.2f"))
print("two paragraphs: reference", paragraphs(controls["gold-kl0.0"][0]["evaluation"]["reference"]))
for name, group in (("gold", controls["gold-kl0.0"]), ("plain models", SIX.values())):
    print(f"against {name}:", *(paragraphs(run["evaluation"]["policy"]) for run in group))

# %% [markdown]
# Proxy up and gold down is seen here in single runs, of every method. Which *method* resists it is
# undecided: BT's three runs differ by 2.7 sds.

# %% [markdown]
# ## 7. What holds here
#
# - **Ending explains most of what gold gained beside the reference.** At equal ending gold rose in
#   two of six runs, just beyond the interval, and fell in three, not seen to go beyond drift.
# - **Paid for ending alone the policy falls silent; paid in random numbers much less so.** What
#   the six models add to random numbers, about one sd, is undecided.
# - **Proxy up, gold down at equal ending**: five of nine runs against models that were never asked
#   about a second paragraph.
# - **Gold misjudged BSR 2**, which did what was asked in a form that gold cannot count.
# - **BSR against BT, spread against BT: undecided.**

# %% [markdown]
# Unlike the paper (Sec. 3.2): 135M, not 1.5B, no SFT of our own, LoRA, 16 answers a step, not 128,
# no KL price.

# %% [markdown]
# ## Exercises
#
# Each stub returns `None`; its checker then says "not attempted yet". A fold holds the first hint,
# and a wrong answer gets a second one from its checker. Solutions are in `notebooks/solutions/`.
#
# **1.** Each answer has a trick with probability `rate`, independently, and the proxy picks one
# with a trick whenever it is among the n. Its gold is `trick`. `honest[n - 1]`, of a tensor of
# length N, is gold of the best of n answers without a trick. Return the n, an integer from 1 to
# N, at which the expected gold of the pick is highest.
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
# **2.** Judge the record. BT 0 and BSR 0 were trained once more with a KL price of .05, the paper's
# (`runs["bt-kl0.05"][0]`, `runs["bsr-kl0.05"][0]`). `priced` and `free` are gold's gains on the
# same prompts with and without the price. Return 1 where the price helped beyond a 95% interval
# over prompts, -1 where it cost, 0 where that is undecided. Your function is called on both pairs.
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
    priced, free = (rloo.gains(runs[f"{method}-kl{price}"][0]["evaluation"])["gold_gain"]
                    for price in (0.05, 0.0))
    print(method.upper(), f"{np.mean(priced - free):+.2f}", price_verdict(priced, free))

# %% [markdown]
# *Then judge its two answers*: what may you say about KL prices?

# %% [markdown]
# **3.** A policy may number its answers more often *because it was asked to*, or just more often.
# From three boolean tensors (numbered before, numbered after, asked for) return by how much
# more the *share* numbered grew where a list was asked for than where none was: 0 where it grew
# alike, 1 where it went from none to all of the asked and stayed elsewhere.
#
# Then compute it for BSR 2 and BT 1 (Section 4). Why are they alike, and what second number would
# tell them apart?
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
# ## Check yourself
#
# 1. A reward model's policy gains a sd of gold. Which two runs do you want to see beside it?
# 2. Why is the share kept of an honest proxy its correlation with gold, and not 1?
# 3. All gains vanish at equal ending. Did the policy learn nothing from its reward?
# 4. Two proxies agree with gold equally often. How can one be harmless and one not?
# 5. Gold itself says that an answer got worse. Name two reasons not to believe it.

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1. The same training on random numbers (the floor) and on gold (the ceiling); a constant shows
#    what the set-up alone teaches.
# 2. Of its favourites' lead a part is luck of its own errors; that part is not in gold.
# 3. Not shown: without any reward answers fall silent. Compare with random numbers.
# 4. By the worth of its favourites: rare huge errors are picked first.
# 5. Its rule may be blind to the form (lists in one line); and its interval may hold zero.
# </details>

# %% [markdown]
# ## What to watch, what to vary
#
# | In your run, watch | Seen here | If not, or next, vary |
# |---|---|---|
# | tokens, endings | 40 to 25 tokens, .4 to .95 ended | 4 tokens: penalty beyond reward |
# | share kept beside the correlation | .17 to .89 beside .64 | far below: read the favourites |
# | a constant, random numbers | gold -3.4, -.3 sds | the gain beyond random numbers |

# %% [markdown]
# ## What you know now
#
# - A gain that any proxy would bring, such as ending, must be taken out of *both* rewards before
#   the share kept says anything. What a model adds, only a control shows.
# - How often a proxy errs matters less than what its favourites are worth.
#
# **To pass on:** a rising reward says that the policy found *something*. Train once on a constant
# and once on random numbers: the first shows what the set-up teaches, the second what any reward
# would do. Then read the answers: the judge may be blind, too.
