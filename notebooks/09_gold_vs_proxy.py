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
# gold follow? If it does, *why*? And is a BSR reward model (Eq. 25) the better teacher, as the
# paper has it (Sec. 3.2)?

# %% [markdown]
# After it you can
# - put proxy and gold into one unit;
# - find the dull explanation of a gain;
# - set a policy beside others whose rewards know nothing;
# - read the answers for what even the judge does not see.
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
SPELLED = {"bt": "BT", "bsr": "BSR"}


def frame(rows):
    """A table of {row: {column: value}}."""
    return pd.DataFrame.from_dict(rows, orient="index").rename(index=SPELLED)


def told(values):
    """Mean and half its 95% interval over prompts."""
    return "{:+.2f} ± {:.2f}".format(*metrics.seed_interval(values))

# %%
# Drawing only.
def two_dots(axis, found, marks="oo", full=True):
    """Two marks a run, 95% over prompts; the second is open.  Shapes: {run: two of (prompts,)}."""
    for place, (name, pair) in enumerate(found.items()):
        tint = plots.COLORS[name.split()[0].lower()]
        dots = [metrics.seed_interval(values) for values in pair]
        ys = (0.12 - place, -0.12 - place)
        axis.plot([mean for mean, _ in dots], ys, color="0.8", linewidth=3)
        fills = (tint if full else "white", "white")
        for (mean, half), y, mark, fill in zip(dots, ys, marks, fills, strict=True):
            axis.errorbar(mean, y, xerr=half, fmt=mark, capsize=3, color=tint, markerfacecolor=fill)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_yticks([-place for place in range(len(found))], found)

# %% [markdown]
# ## 1. The same prompt, before and after
#
# Six runs are on record in `data/runs/study_rloo`. Each trained the embedded model (135M, LoRA) by
# 40 steps of RLOO, with 16 answers a step, of at most 48 tokens. An answer that had not ended by
# then paid a penalty of 1, about one sd of the proxy. Each run had its own proxy, a BT or a BSR
# reward model ($\lambda = 10^{-3}$): "BT 1" was trained on BT's proxy of seed 1. There is no KL
# price ($\beta = 0$), so that what a proxy gets wrong can show.
#
# The six policies and the reference then gave two answers each to the same 112 new prompts.

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

# %%
def shorten(text, most=170):
    line = " ".join(text.split())  # one line: no \n, no \r, no tabs
    return line if len(line) <= most else line[:most] + " ..."

# %%
def answers(place, *columns):
    """The first answer of the reference and of all six policies to one prompt."""
    table = frame({name: {
        "answer": shorten(found["texts"][place]),
        "ended": "yes" if found["finished"][place][0] else "cut off",
        "gold (0 to 5)": f"{found['gold'][place][0]:.2f}"} for name, found in SEVEN.items()})
    return table[list(columns)].rename_axis(shorten(prompts[place]["prompt"]))

# %%
answers(45, "answer", "ended")

# %% [markdown]
# **Predict**: gold is a formula. It gives up to a point each for the number of sentences or items
# asked for, the topic, ending, not repeating, the right length. Which answer does gold like best?

# %%
answers(45, "gold (0 to 5)")

# %% [markdown]
# **What to see.** Gold likes BSR 2's list best, and no policy less than the reference.

# %% [markdown]
# ## 2. One unit
#
# Gold runs from 0 to 5, a reward model's numbers have no unit. So
# count both in **their own standard deviation (sd) among the reference's answers to one prompt**:
#
# $$\text{gain} = \frac{\text{mean of the policy} - \text{mean of the reference}}
# {\text{sd of the reference within a prompt}}.$$

# %%
def gain(policy, reference):
    """Shapes: (prompts, answers), (prompts, answers) -> ()."""
    sd = np.sqrt(np.var(reference, axis=1, ddof=1).mean())
    return (np.mean(policy) - np.mean(reference)) / sd


before, after = np.array([[1.0, 3.0], [2.0, 4.0]]), np.array([[3.0], [4.0]])  # two prompts
assert np.isclose(gain(after, before), 1 / np.sqrt(2)), "up by 1, where an sd is 1.41"
assert np.isclose(gain(10 * after - 7, 10 * before - 7), gain(after, before)), "no unit is left"

# %%
frame({name: {f"{key} gain (sd)": told(rloo.gains(run["evaluation"])[f"{key}_gain"])
              for key in ("proxy", "gold")} for name, run in SIX.items()})

# %% [markdown]
# **What to see.** Every proxy says that its policy gained more than one sd. Gold says that all six
# gained, each beyond its 95% interval over prompts (±). But in four runs gold gained less than half
# of what the proxy did.
#
# That invites a story: two proxies were honest and four were exploited. **Predict**: what
# could raise proxy *and* gold without better writing?
#
# <details><summary>Answer</summary>
#
# To *end*. In Section 1 the reference was cut off, and all six policies ended.
# </details>

# %% [markdown]
# ## 3. The dull explanation: ending
#
# The penalty teaches a policy to end. The gains above leave it out. But gold has a term for ending,
# and the proxies learned from gold's labels. So both rate an ended answer of the reference above a
# cut-off one to the same prompt: gold by 1.65 sds, every proxy by more (`data/runs/LOG.md`, "The
# recorded RLOO policies learned to end"). How much of the gains does ending explain?

# %%
frame({name: {"answers that ended": f"{np.mean(found['finished']):.2f}",
              "tokens": f"{np.mean(found['tokens']):.0f}"}
       for name, found in SEVEN.items()}).transpose()

# %% [markdown]
# All six policies end far more often. To see what else they gained, one can *hold ending equal*:
# keep the prompts to which both the reference and the policy gave an answer that ended, and compare
# these answers alone.

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
#
# **Predict**: what is left, at equal ending, of the six proxies' gains? And of gold's?

# %%
figure, axis = plots.panels(1)
two_dots(axis, {name: [at_equal_ending(run, key) for key in ("proxy", "gold")]
                for name, run in SIX.items()})
for place, run in enumerate(SIX.values()):
    for key, y, fill in (("proxy", 0.12, "0.6"), ("gold", -0.12, "white")):
        axis.plot(rloo.gains(run["evaluation"])[f"{key}_gain"].mean(), y - place, "s", color="0.6",
                  markerfacecolor=fill, markersize=4)
axis.annotate("proxy (full)", (1.57, -3.1), color=plots.COLORS["bsr"], va="center")
axis.annotate("gold (open)", (-0.69, -3.1), color=plots.COLORS["bsr"], ha="right", va="center")
axis.annotate("squares: the whole gain,\nall answers", (1.37, 0), color="0.4", va="center")
axis.set_xlim(-1.2, 2.3)
plots.label(axis, "what is left of the gain where both ended (sd), 95% over 59 or 60 prompts", "",
            "At equal ending BSR 0 and BSR 2 climb their proxies most, and gold does not follow")

# %% [markdown]
# **What to see.** **Most of gold's gains are gone.** So are most gains of four proxies. BT 0 and BT
# 2 keep a small climb of both. BSR 0 and BSR 2 keep one sd or more of the proxy's gain, and gold
# does not follow.
#
# Did BSR 0 exploit its proxy? That gold fell does not prove it. Gold fell as far in BT 1 and BSR 1,
# whose proxies hardly moved. Perhaps gold falls without a proxy, too.
#
# <details><summary>Fine print</summary>
#
# Over first answers alone gold's climbs are undecided (same entry of `LOG.md`).
# </details>

# %% [markdown]
# ## 4. Controls: rewards whose meaning is known
#
# What does the same training do with a reward that knows nothing? Five controls are on record
# (`data/runs/study_rloo_controls`), three seeds each. Here are four. They are paid for
# - *gold* itself;
# - *gold + error*: each opening word has its own error, now and then a huge one;
# - *random numbers*, a new one for every new text;
# - *nothing*: a constant, so that only the penalty for not ending is left.
#
# From 08 you know that *nothing* falls silent. **Predict**: how far does gold under a BT model lead
# gold under random numbers?

# %%
controls = read_runs(RUNS / "study_rloo_controls")
KNOWN = {"gold": "gold", "heavy-tails": "gold + error", "noise": "random numbers",
         "constant": "nothing"}
frame({reward: {f"seed {run['seed']}": shorten(run["evaluation"]["policy"]["texts"][45], 70)
                for run in controls[f"{method}-kl0.0"]} for method, reward in KNOWN.items()}
      ).rename_axis(shorten(prompts[45]["prompt"]))

# %% [markdown]
# And the six policies, beside the same reference?
#
# ± asks whether *this run* would gain on other prompts. The table's "a to b" asks more: would a
# *new run*, with a new seed, gain (06)? Three seeds say little about a fourth, so it is wide.

# %%
TAUGHT = {KNOWN[method]: controls[f"{method}-kl0.0"] for method in KNOWN}
TAUGHT |= {"a BT model": runs["bt-kl0.0"], "a BSR model": runs["bsr-kl0.0"]}
TAUGHT = {reward: [{"evaluation": run["evaluation"] | {"reference": reference}} for run in group]
          for reward, group in TAUGHT.items()}


def gold_gains(reward):
    """In sds.  Shapes: -> (seeds, prompts)."""
    after = np.array([run["evaluation"]["policy"]["gold"] for run in TAUGHT[reward]]).mean(2)
    return (after - np.mean(reference["gold"], 1)) / statistics.within_sd(reference["gold"])


def lead_at_equal_ending(reward):
    """Over random numbers' gold, in sds.  Shapes: -> (seeds, prompts where all runs ended)."""
    ours, theirs = (np.array([of_ended(run["evaluation"]["policy"], "gold")
                              for run in TAUGHT[name]]) for name in (reward, "random numbers"))
    apart = (ours - theirs)[:, ~np.isnan(ours + theirs + of_ended(reference, "gold")).any(0)]
    return apart / statistics.within_sd(reference["gold"])

# %%
def taught(reward):
    policies = [run["evaluation"]["policy"] for run in TAUGHT[reward]]
    leads = {"lead over random numbers": gold_gains(reward) - gold_gains("random numbers"),
             "lead at equal ending": lead_at_equal_ending(reward)}
    equal = np.mean([at_equal_ending(run, "gold").mean() for run in TAUGHT[reward]])
    return ({"gold (sd)": shown(rloo.interval(gold_gains(reward)), "+.2f"),
             "gold at equal ending": f"{equal:+.2f}"}
            | {name: "" if reward == "random numbers" else shown(rloo.interval(lead), "+.2f")
               for name, lead in leads.items()}
            | {"ended": f"{np.mean([policy['finished'] for policy in policies]):.2f}"})


frame({reward: taught(reward) for reward in TAUGHT})

# %%
left = {reward: np.array([metrics.seed_interval(at_equal_ending(run, "gold")) for run in group])
        for reward, group in TAUGHT.items()}  # (seeds, 2): mean, half an interval over prompts
rows = ("gold", "gold + error", "a BT model", "a BSR model", "random numbers")
figure, axis = plots.panels(1)
for place, reward in enumerate(rows):
    tint = plots.COLORS[reward.split()[1].lower()] if reward.startswith("a ") else "black"
    for seed, (mean, half) in enumerate(left[reward]):
        axis.errorbar(mean, 0.2 - 0.2 * seed - place, xerr=half, fmt="o", color=tint, capsize=2)
for reward in ("gold", "random numbers"):
    axis.axvspan(left[reward][:, 0].min(), left[reward][:, 0].max(), color="0.9", linewidth=0)
    axis.annotate(f"range of\n{reward}", (left[reward][:, 0].mean(), -3), ha="center", va="center")
axis.annotate("not drawn: nothing", (-1.95, 0), va="center")
axis.axvline(0, color="black", linewidth=0.8)
axis.set_yticks([-place for place in range(len(rows))], rows)
plots.label(axis, "gold's gain where both ended (sd), a dot a seed, 95% over 59 or 60 prompts",
            "trained on",
            "At equal ending the models' six policies lie between random numbers and gold")

# %% [markdown]
# **What to see.** Random numbers teach ending, too. So compare a model with them, not with the
# reference. *Gold* leads them by two sds. BT, BSR and *gold + error* lead by about one, over all
# answers and at equal ending. Both times this lead is **undecided** over new seeds.
#
# Nor would a lead prove knowledge. A policy cannot climb random numbers. It can climb any
# consistent reward, even one for length.

# %% [markdown]
# **At equal ending random numbers cost gold 1.4 sds.** Over all answers they cost only .4: nearly
# all of them ended, and ending pays. The models' six policies lost less at equal ending, or nothing
# (BT 1's interval touches the range of random numbers). So a fall like those of Section 3 needs no
# misleading proxy.
#
# What lowers gold, then? No run here rules out any of these:
# - **drift**: nothing pulls a policy back to the reference;
# - the **penalty**: it pushes to short answers;
# - **selection**, as in the third made-up world. But it is not seen: over eight answers a prompt
#   the ended ones lead by 1.55 sds. Gold's term for ending alone brings that (`LOG.md`,
#   `study_rloo_style`).

# %% [markdown]
# ## 5. Read the answers, for gold can be blind, too
#
# 52 of the 112 prompts ask for a list, 60 for sentences. A policy that learned *to do what is
# asked* numbers its answers where a list is asked for. A policy that learned *a mannerism* numbers
# everything, or nothing. **Guess**: which of the six is which?

# %%
asked = np.array([row["unit"] == "item" for row in prompts])


def habits(found):
    lists = np.array([text.lstrip().startswith("1.") for text in found["texts"]])
    return {f"numbered, of {asked.sum()} that asked": lists[asked].sum(),
            f"numbered, of {(~asked).sum()} that did not": lists[~asked].sum()}


frame({name: habits(found) for name, found in SEVEN.items()}).transpose()

# %% [markdown]
# **What to see.** BT 0 begins with "1." more often than the reference where a list was asked for,
# and never elsewhere. BSR 2 begins all answers so but one. Three gave up lists.
#
# So BSR 2 learned a mannerism. Was gold right, then, not to follow its proxy? Here is an answer
# with its line breaks:

# %%
print(repr(SEVEN["BSR 2"]["texts"][45]))
print("asked for:", prompts[45]["count"])

# %% [markdown]
# **Predict**: gold counts an item where a *line* begins with a number. It counts a sentence at
# every full stop, but not at the stop of a number that begins a line. How many items does it count
# here? How many sentences?
#
# <details><summary>Answer</summary>
#
# One item and three sentences.
# </details>

# %%
TERMS = ("complete", "instruction", "topic", "fresh", "concise")  # gold is their sum


def lined(text):
    """Every number of a list begins a line."""
    return re.sub(r"\s+(?=\d+\s*[.):]\s)", "\n", text.strip())


def terms(found, read=str):
    """Gold's terms of the first answers, as `read` gives them.  Shapes: -> (prompts, 5)."""
    return np.array([[gold_terms(read(text), unit=row["unit"], count=row["count"],
                                 stems=row["stems"], finished=ended[0])[t] for t in TERMS]
                     for text, ended, row
                     in zip(found["texts"], found["finished"], prompts, strict=True)])


toy = "1. Bees. 2. Ants."
assert len(ITEM.findall(toy)) == 1 and len(ITEM.findall(lined(toy))) == 2, "items begin lines"
assert count_sentences(toy) == 3 and count_sentences(lined(toy)) == 2, "a number's stop ends none"
assert np.allclose(terms(reference).sum(1), np.array(reference["gold"])[:, 0], atol=1e-4), "sum"

# %%
def right_of(found):
    right = {how: terms(found, read)[:, TERMS.index("instruction")] == 1 for how, read in
             (("as gold counts", str), ("numbers on their own lines", lined))}
    return {f"{what} right, of {which.sum()}: {how}": right[how][which].sum()
            for what, which in (("lists", asked), ("sentences", ~asked)) for how in right}


frame({name: right_of(found) for name, found in SEVEN.items()}).transpose()

# %% [markdown]
# **What to see.** **Gold is blind twice. A list number within a line is no item to it, and its full
# stop ends a sentence.** BSR 2 writes in one line. All its 52 lists have the number of items asked
# for; gold sees that in two.
#
# Let gold read again, with each number on its own line. We chose this reading after seeing BSR 2's
# answers. The figure leaves out gold's term for ending. It shows first answers: only their texts
# are on record.

# %%
def other_terms(run, read):
    """The gain of gold but for *complete* (ending and closing punctuation), in sds."""
    policy, own = (run["evaluation"][part] for part in ("policy", "reference"))
    apart = (terms(policy, read) - terms(own, read))[:, 1:].sum(1)
    return apart / statistics.within_sd(own["gold"])


figure, axis = plots.panels(1)
for reward in ("random numbers", "gold"):
    means = [other_terms(run, lined).mean() for run in TAUGHT[reward]]
    axis.axvspan(min(means), max(means), color="0.9", linewidth=0)
    axis.annotate(f"trained on\n{reward}", (np.mean(means), -2), ha="center")
two_dots(axis, {name: [other_terms(run, read) for read in (str, lined)]
                for name, run in SIX.items()}, "sD", full=False)
tint = plots.COLORS["bsr"]
axis.annotate("gold as it is (square)", (-0.4, -4.9), color=tint, ha="right", va="center")
axis.annotate("numbers on their own\nlines (diamond)", (1, -5.05), color=tint, va="center")
axis.set(xlim=(-1.7, 1.6), ylim=(-5.6, 0.5))
plots.label(axis, "gain of gold's other four terms (sd), 95% over 112 prompts", "",
            "Read with each number on its own line, BSR 2 reaches the policies trained on gold")

# %%
print(prompts[7]["prompt"], "BSR 2: " + SEVEN["BSR 2"]["texts"][7], sep="\n")

# %% [markdown]
# **What to see.** **Gold misjudged how many items and sentences BSR 2 gives.**
#
# BSR 2's numbering is a mannerism all the same. Asked for a story, it gives four points and no
# story. Gold has no term for that.

# %% [markdown]
# ## 6. Proxies from another world
#
# A fall of gold convicts no proxy. We call a policy **misled** if three things hold:
# 1. It does what its proxy pays for.
# 2. Gold marks that down.
# 3. None of the controls *gold*, *gold + error* and *random numbers* does it. (*Nothing* does not
#    count: it pays every text alike.)

# %% [markdown]
# The proxies of nine new runs (`data/runs/study_rloo_style`) are those of 04, Section 9: BT, BSR at
# $10^{-2}$, and *spread*, BSR without its level term, at $10^{-1}$. They learned from answers that
# all had a postscript, such as
#
# > P.S. THE PRINTING PRESS IS A TOOL FOR RELEASING MESSAGES FROM BOOKS.
#
# The policies' prompts ask for none.

# %%
NAMES = {"bt": "BT", "spread-1e-1": "spread", "bsr-1e-2": "BSR"}
style = read_runs(RUNS / "study_rloo_style")
NINE = {f"{name}, seed {run['seed']}": run for method, name in NAMES.items()
        for run in style[f"{method}-kl0.0"]}


def row_of(run):
    own, gains = run["evaluation"]["reference"], rloo.gains(run["evaluation"])
    ended = np.mean(run["evaluation"]["policy"]["finished"]) > 0.01
    return {"proxy's correlation with gold":
            f"{statistics.within_correlation(own['proxy'], own['gold']):+.2f}",
            "proxy (sd)": told(gains["proxy_gain"]), "gold (sd)": told(gains["gold_gain"]),
            "gold at equal ending": told(at_equal_ending(run, "gold")) if ended else "never ends"}


frame({name: row_of(run) for name, run in NINE.items()})

# %% [markdown]
# **What to see.** All nine proxies rose by more than one sd. Gold rose in five runs and fell in
# three, beyond ±.
#
# **Predict**: of the 112 first answers of a run, how many differ?

# %%
def different(run):
    return len(set(run["evaluation"]["policy"]["texts"]))


def repeats(run):
    texts = run["evaluation"]["policy"]["texts"]
    return {"different answers": different(run), "an answer": shorten(texts[45], 60),
            "times it is given": texts.count(texts[45])}


for method, reward in KNOWN.items():
    print(f"trained on {reward}:", [different(run) for run in controls[f"{method}-kl0.0"]])
frame({name: repeats(run) for name, run in NINE.items()}).rename_axis(
    shorten(prompts[45]["prompt"]))

# %%
first, second = (NINE[f"BT, seed {seed}"]["evaluation"] for seed in (0, 1))
same = np.array(first["policy"]["texts"]) == first["policy"]["texts"][45]
known = second["reference"]
cut_off = known | {"finished": ~np.array(known["finished"])}
for key in ("proxy", "gold"):
    repeated = np.array(first["policy"][key])[same, 0] - np.mean(first["reference"][key], 1)[same]
    apart = of_ended(cut_off, key) - of_ended(known, key)  # of the reference's, to one prompt
    sds = [statistics.within_sd(run["reference"][key]) for run in (first, second)]
    print(f"{key} (sd): seed 0, repeated answer minus reference {told(repeated / sds[0])}; "
          f"seed 1, cut off minus ended {told(apart[~np.isnan(apart)] / sds[1])}")
print(f"penalty on seed 1's proxy (sd): {1 / statistics.within_sd(known['proxy']):.2f}")

# %% [markdown]
# **What to see.** **Two runs are shown to be misled.** We noticed both only after seeing answers.
#
# *BT's seed 0* gives 78 of 112 prompts the same answer, "Safety, Comfort".
# 1. Its proxy pays 2.7 sds for it.
# 2. Gold takes 1.1 sds off.
# 3. The three controls never repeat an answer.
#
# *BT's seed 1* never ends.
# 1. Its proxy rates a cut-off answer of the reference 1.3 sds above an ended one. The penalty takes
#    only .8 of that.
# 2. Gold rates it 1.55 sds below.
# 3. The three controls learned to end (Section 4).

# %% [markdown]
# At equal ending gold fell in five of the eight runs that end. Random numbers cost .7 to 1.5 sds
# beside the same reference (`LOG.md`, `study_rloo_style`; Section 4 has a smaller sample of it).
# Only BT's seed 0 fell further. The other four runs are not shown to be misled.
#
# Would the correlation with gold have warned us? Of the two misled runs' proxies one has -.22. The
# other has +.45, nearly the highest of the nine.

# %% [markdown]
# ## 7. The proxy's favourites
#
# Does a proxy's correlation with gold say how good its picks are? Here no policy is trained: we
# pick among 64 recorded answers to each of 112 prompts (`data/runs/best_of_n`). Two made-up proxies
# correlate with gold as the trained ones do:
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
# ## 8. What holds here
#
# Did BSR's policies gain more gold than BT's? Seeds are paired: the same prompts in the same
# order.

# %%
def minus_bt(name, group):
    ours, theirs = (np.array([rloo.gains(run["evaluation"])["gold_gain"]
                              for run in group[f"{method}-kl0.0"]]) for method in (name, "bt"))
    return {"gold (sd)": shown(rloo.interval(ours - theirs), "+.2f")}


frame({"Section 1: BSR minus BT": minus_bt("bsr", runs),
       "Section 6: BSR minus BT": minus_bt("bsr-1e-2", style),
       "Section 6: spread minus BT": minus_bt("spread-1e-1", style)})

# %% [markdown]
# **What to see.**
# - **BSR or spread against BT: undecided.** Every interval is wide and holds zero.
# - **Does gold follow?** Over all answers it rose in all six runs. Ending would account for most of
#   that, unless good answers end first (not seen). At equal ending gold rose a little in two and
#   fell in three, in none further than under random numbers.
# - **Random numbers** teach ending, too, yet under them gold did not rise on average. All six runs
#   led them. Over new seeds this is undecided.
# - **Gold misjudged BSR 2**: it cannot read numbers within a line.
# - **Two of Section 6's nine runs were misled.**
#
# The paper trains 1.5B parameters, with a KL price.

# %% [markdown]
# ## Exercises
#
# A wrong answer gets a second hint from its checker. Solutions are in `notebooks/solutions/`.
#
# **1.** Each answer has a trick with probability `rate`, independently, and the proxy picks one
# with a trick whenever there is one. A trick's gold is `trick`. `honest[n - 1]`, of a tensor of
# length N, is gold of the best of n answers without a trick. Return the expected gold of the pick
# for n = 1 to N, a tensor.
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
# *Then judge*: what do your three numbers say about the verdict "rises" in Section 7's table?
#
# <details><summary>Answer</summary>
#
# The rarer the trick, the later the turn. At one in a thousand there is none up to 64: "rises"
# cannot see it.
# </details>

# %% [markdown]
# **2.** How large is the dull part? `value` and `ended`, (P, 2), are the rewards of the reference's
# two answers to a prompt, and whether they ended (`.double()` before a mean). `later` is the share
# of the policy's answers that ended. Return the gain that ending alone would bring: how much the
# share grew, times what an ending is worth. Find that worth among the reference's answers.
#
# <details><summary>First hint</summary>
#
# The prompts to which both answers ended may be the easy ones. Which prompts allow a fairer
# comparison?
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
# *Then judge*: what is left of BSR 0's two gains? Does it agree with Section 3, and what must it
# assume?
#
# <details><summary>Answer</summary>
#
# The proxy keeps 1.2 sds, gold loses .4, as in Section 3. It assumes that an ending is worth as
# much to the policy's answers as to the reference's, and that good answers do not end first: in
# the third made-up world it, too, finds a loss where there is none. And few prompts tell that
# worth: 31 of 112 have one answer of each kind.
# </details>

# %% [markdown]
# **3.** A policy may number its answers more often *because it was asked to*, or just more often.
# From three boolean tensors (numbered before, numbered after, asked for) return by how much more
# the *share* numbered grew where a list was asked for than where none was: 0 where it grew alike, 1
# where it went from none to all of the asked and stayed elsewhere. (`.double()` first.)
#
# Then compute it for BSR 2 and BT 1, by hand from Section 5's counts. Why are they alike, and what
# second number would tell them apart?
#
# <details><summary>First hint</summary>
#
# Section 5 has two counts for the reference and two for a run. A mannerism must cancel.
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
# 2. At equal ending a policy's gold fell. Why does that not convict its proxy?
# 3. All gains vanish at equal ending. Did the policy learn nothing from its reward?
# 4. Two proxies correlate with gold equally. How can one be harmless and one not?
# 5. Gold itself says that an answer got worse. Name two reasons not to believe it.

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1. The same training on random numbers (*a* floor: they cannot be climbed) and on gold (the
#    ceiling).
# 2. It needs no misleading proxy: policies trained on random numbers fell, too.
# 3. Not shown: at equal ending random numbers cost gold. Compare with them.
# 4. By the worth of its favourites: rare huge errors are picked first.
# 5. Its rule may be blind to the form (numbers within a line); and its interval may hold zero.
# </details>

# %% [markdown]
# ## What to watch, what to vary
#
# | In your run, watch | Seen here | If not, or next, vary |
# |---|---|---|
# | tokens, endings | 41 to 26 tokens, .4 to .95 ended | few tokens: do all answers earn alike? |
# | gold and proxy, in sds | BT 0: 1.1 and 1.3; BSR 0: .35 and 2.05 | far apart: read the answers |

# %% [markdown]
# ## What you know now
#
# - Take what nearly any proxy would bring, such as ending, out of proxy *and* gold before you
#   compare them.
# - **Equal correlation, unequal picks**: look at the favourites.
#
# **To pass on:** a rising reward says that the policy found *something*. Train on random numbers,
# too: at least that much comes without knowledge. And read the answers, for the judge may be blind.
