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
# - recognise noise, heavy tails and a trick by what a proxy's favourites are worth;
# - compare a trained policy with best-of-$n$ at the same KL;
# - correct a win rate for length, with an interval.
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
import numpy as np
import pandas as pd

from bsr_lite import metrics, plots
from bsr_lite.course import checks_policy as checks
from bsr_lite.gold import gold_terms
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
# `data/runs/study_rloo`: the embedded model (135M) as policy, LoRA, 40 steps of RLOO with 16
# answers of at most 48 tokens. Each run had its own proxy: a BT or a BSR reward model ($\lambda =
# 10^{-3}$) of seed 0, 1 or 2. "BT 1" is the policy that was trained on BT's proxy of seed 1. There
# is no KL price ($\beta = 0$), so that what a proxy gets wrong can show. All runs then answered the
# same 112 new prompts.

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

# %%
answers(85, "answer", "ended", "gold (0 to 5)", "its proxy")

# %% [markdown]
# **What to see.** First prompt: the reference was cut off after 48 tokens, and gold likes three
# policies better, none less. Second prompt: the reference had ended, and gold likes three policies
# *less*. BSR 2 lists items where one sentence was asked for. No other policy's proxy gives as much,
# and gold gives .75 less than to the reference.
#
# <details><summary>Answer</summary>
#
# Gold likes the list of BSR 2 best. The proxies of BT 2 and BSR 0 think more of their policies'
# answers than BSR 2's does. But six proxies have six scales (zero is the reference's average on
# training prompts). Before they are compared they need one unit.
# </details>

# %% [markdown]
# ## 2. One unit
#
# Gold runs from 0 to 5. A reward model's numbers have no unit at all. So both are counted in
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
# How much would a proxy let gold keep that is merely noisy? Say proxy = gold + independent normal
# noise. An answer that lies one standard deviation up by the proxy lies $\rho$ up by gold, $\rho$
# the correlation of the two. So **an honest climb keeps $\rho$**, however far it goes.

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
    return {"gold's sd (points)": statistics.within_sd(reference["gold"]),
            "proxy gain (sd)": gains["proxy"], "gold gain (sd)": gains["gold"],
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
# Something that all proxies like and that training teaches anyway: to *end*. Look again at the
# first prompt of Section 1: the reference was cut off, all six policies ended.
# </details>

# %% [markdown]
# ## 3. The dull explanation: ending
#
# Training subtracts a penalty of 1 from an answer that does not end by itself within 48 tokens
# (`missing_eos_penalty`). The reference ends four answers in ten. Both rewards like endings: one of
# gold's five terms, *complete*, is earned by it. What is **the worth of ending**? Take the prompts
# to which the reference gave one answer that ended and one that did not, and compare the two.

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
    ended = np.array(reference["finished"])
    alike = ended.all(1) | ~ended.any(1)  # prompts whose answers all ended, or none
    row = {"ended, before": ended.mean(), "ended, after": np.mean(policy["finished"])}
    more = row["ended, after"] - row["ended, before"]
    for key in ("proxy", "gold"):
        row[f"worth, {key} (sd)"] = "{:.2f} ± {:.2f}".format(
            *metrics.seed_interval(worth(reference, key)))
        row[f"{key}: ending alone"] = more * worth(reference, key).mean()
        row[f"{key}: gained"] = gain(policy[key], reference[key])
    return row | {"correlation, ending alike": statistics.within_correlation(
        *(np.array(reference[key])[alike] for key in ("proxy", "gold")))}

# %%
frame({name: ending(run) for name, run in SIX.items()}).round(2)

# %% [markdown]
# **What to see.** After training .87 or more of the answers end. An ending is worth nearly two sds
# of the proxy and more than one and a half of gold (± 95% over 31 prompts). *Ending alone*, the
# rise in endings times their worth, would so bring about 1.1 of the proxy and .9 of gold. BT's
# policies gained little more of the proxy than that. Of gold only BT 0, BT 2 and BSR 2 gained as
# much.

# %% [markdown]
# The correlation owes much to endings, too: .63 to .69 in Section 2, .30 to .46 among answers that
# end alike. **The share kept measures mostly how both rewards like an ending.** (An answer that
# ends may be better in other ways as well. So its worth is an estimate, not yet a cause.)

# %% [markdown]
# For gold the split is exact, since gold is a sum of its terms: *complete* is what ending earns,
# the **other four** are content and form. The texts of the first answers are on record, so their
# terms can be computed again.

# %%
TERMS = ("complete", "instruction", "topic", "fresh", "concise")


def terms(found):
    """Gold's terms of the first answers.  Shapes: -> (prompts, 5)."""
    return np.array([[gold_terms(text, unit=row["unit"], count=row["count"], stems=row["stems"],
                                 finished=ended[0])[t] for t in TERMS] for text, ended, row
                     in zip(found["texts"], found["finished"], prompts, strict=True)])

# %%
def term_gains(run):
    """In sds of gold.  Shapes: -> (prompts, 5)."""
    policy, reference = (run["evaluation"][part] for part in ("policy", "reference"))
    np.testing.assert_allclose(terms(policy).sum(1), np.array(policy["gold"])[:, 0], atol=1e-4,
                               err_msg="the terms must add up to the recorded gold")
    return (terms(policy) - terms(reference)) / statistics.within_sd(reference["gold"])

# %%
split = {method: np.array([term_gains(run) for name, run in SIX.items()
                           if name.split()[0].lower() == method]) for method in ("bt", "bsr")}

# %%
figure, axis = plots.panels(1)
columns = [*TERMS, "the other four"]
for i, (method, gains) in enumerate(split.items()):
    gains = np.concatenate([gains, gains[..., 1:].sum(-1, keepdims=True)], -1)  # (S, P, 6)
    for j in range(len(columns)):
        mean, low, high, _ = statistics.two_way_interval(gains[..., j])
        place = j + 0.16 * (2 * i - 1)
        axis.errorbar(place, mean, [[mean - low], [high - mean]], fmt="_", capsize=3,
                      markersize=10, color=plots.COLORS[method])
        axis.plot([place] * len(gains), gains[..., j].mean(1), ".", color=plots.COLORS[method],
                  alpha=0.7)
    axis.annotate(method.upper(), (0.16 * (2 * i - 1), 1.25), color=plots.COLORS[method],
                  ha="center")
axis.axhline(0, color="black", linewidth=0.8)
axis.set_xticks(range(len(columns)), columns)
plots.label(axis, "term of gold; dots: seeds, bars: 95% over seeds and prompts",
            "policy minus reference (sd of gold)",
            "Gold gained by ending; the other terms stood or fell")
axis.set_ylim(top=1.5);

# %%
others = {method: gains[..., 1:].sum(-1) for method, gains in split.items()}  # (seeds, prompts)
frame({method.upper(): {
    "complete (sd of gold)": shown(rloo.interval(gains[..., 0]), "+.2f"),
    "the other four": shown(rloo.interval(others[method]), "+.2f"),
    "the other four, by seed": ", ".join(f"{m:+.2f}" for m in others[method].mean(1))}
    for method, gains in split.items()})

# %% [markdown]
# **What to see.** *Complete* rises by about a standard deviation in every run. *Instruction*, doing
# what is asked, falls under BSR beyond its interval. The other four together rise by less than a
# tenth in two runs and fall in four. Over seeds and prompts that fall is undecided for either
# method.

# %% [markdown]
# The proxy is no sum of terms. But one can *hold ending equal*: keep the prompts to which both the
# reference's first answer and the policy's first answer ended, and compare these two answers.
#
# **Predict**: at equal ending, where are the proxies' gains, and where is gold's?

# %%
def at_equal_ending(run, key):
    """Policy minus reference, in sds of the reference.  Shapes: -> (prompts where both ended,)."""
    policy, reference = (run["evaluation"][part] for part in ("policy", "reference"))
    both = np.array(policy["finished"])[:, 0] & np.array(reference["finished"])[:, 0]
    first = np.array(policy[key])[:, 0] - np.array(reference[key])[:, 0]
    return first[both] / statistics.within_sd(reference[key])

# %%
figure, axes = plots.panels(2, sharey=True)
for axis, key in zip(axes, ("proxy", "gold"), strict=True):
    for place, (name, run) in enumerate(SIX.items()):
        mean, half = metrics.seed_interval(at_equal_ending(run, key))
        axis.errorbar(mean, -place, xerr=half, fmt="o", capsize=3,
                      color=plots.COLORS[name.split()[0].lower()])
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_yticks([-place for place in range(len(SIX))], SIX)
    plots.label(axis, "gain (sd), 95% over prompts", "",
                f"{key}: {'up by a unit in two' if key == 'proxy' else 'up in none, down in four'}")
figure.suptitle("Six runs where both answers ended: gold does not follow the proxy");

# %%
frame({name: {"prompts": str(len(at_equal_ending(run, "gold")))} | {
    f"{key} (sd)": "{:+.2f} ± {:.2f}".format(*metrics.seed_interval(at_equal_ending(run, key)))
    for key in ("proxy", "gold")} for name, run in SIX.items()})

# %% [markdown]
# **What to see.** BT's proxies gained a quarter of a unit or nothing. The proxies of BSR 0 and BSR
# 2 gained a whole unit, and gold *fell*, beyond its interval. That is over-optimization, in these
# two runs. The share kept had hidden it: by that BSR 2 looked better than BSR 1.
#
# <details><summary>Answer</summary>
#
# The gains of BT's proxies are nearly gone, and so is that of BSR 1's. Gold's gains are gone
# everywhere: what gold had gained was ending.
# </details>
#
# The intervals are over prompts alone. They speak of these six policies, on prompts that the
# reference can finish, and not of new seeds.

# %% [markdown]
# ### Controls: what would a proxy without knowledge give?
#
# Each control is the same training with a reward that is known: *gold* itself; a *constant*, so
# that only the penalty for not ending is left; pure *noise*, a random number for every new text;
# *heavy-tails*, gold plus one error an opening word, now and then a huge one; a *trick*, gold plus
# half a point for every exclamation mark. BT and BSR stand below for comparison.

# %%
FAULTS = {"noise": "#999933", "heavy-tails": "#882255", "trick": "#332288"}  # their colours
CONTROLS = ("gold", "constant", "noise", "heavy-tails", "trick", "bt", "bsr")
found = {method: runs[f"{method}-kl0.0"] for method in CONTROLS if f"{method}-kl0.0" in runs}

# %%
def control_row(group):
    gains = [rloo.gains(run["evaluation"]) for run in group]
    proxy, gold, ended = ([one[key].mean() for one in gains]
                          for key in ("proxy_gain", "gold_gain", "finished"))
    row = {"seeds": len(group)}
    for key, title in (("proxy_gain", "proxy gain (sd)"), ("gold_gain", "gold gain (sd)")):
        row[title] = shown(rloo.interval(np.array([one[key] for one in gains])), "+.2f")
    row["gold but for ending (sd)"] = shown(rloo.interval(np.array(
        [term_gains(run)[:, 1:].sum(1) for run in group])), "+.2f")
    row["share ended, by seed"] = ", ".join(f"{e:.2f}" for e in ended)
    row["share kept, by seed"] = ", ".join(f"{g / p:.2f}" if p > 0.1 else "no gain"
                                           for g, p in zip(gold, proxy, strict=True))
    return row

# %%
frame({method: control_row(group) for method, group in found.items()})

# %%
figure, axis = plots.panels(1)
for place, (method, group) in enumerate(found.items()):
    whole = np.array([rloo.gains(run["evaluation"])["gold_gain"] for run in group])
    rest = np.array([term_gains(run)[:, 1:].sum(1) for run in group])
    tint = (plots.COLORS | FAULTS).get(method, "black")
    for gains, y, fill in ((whole, 0.13, tint), (rest, -0.13, "white")):
        mean, low, high = rloo.interval(gains)  # (seeds, prompts)
        if low is not None:
            axis.plot((low, high), [y - place] * 2, color=tint, linewidth=1)
        axis.plot(gains.mean(1), [y - place] * len(gains), "o", color=tint, markerfacecolor=fill)
axis.axvline(0, color="black", linewidth=0.8)
axis.set_yticks([-place for place in range(len(found))], [SPELLED.get(m, m) for m in found])
axis.set_ylim(0.5 - len(found), 0.5)
plots.label(axis, "gain (sd of gold), a dot a seed, 95% over seeds and prompts", "",
            "What each proxy taught: all of gold (full), gold but for ending (open)")

# %% [markdown]
# TODO controls

# %% [markdown]
# ## 4. Three ways to be wrong
#
# Some errors of a proxy matter, some do not. Take the reference's 64 recorded answers to each of
# 112 prompts (`data/runs/best_of_n`), keep their gold, and make up three proxies:
# - **noise**: gold plus independent normal noise, 1.2 sds of it, so that the two correlate as much
#   as gold and a trained proxy do;
# - **heavy tails**: gold plus noise of the same quartiles that is now and then huge (Student's t,
#   two degrees of freedom);
# - **a trick**: less noise, .8 sds, but one answer in a hundred has a trick: the proxy adds 5 sds
#   where gold takes 2 off. By correlation it is as good as *noise*.

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
made_up = {"noise": [], "heavy-tails": [], "trick": []}
for draw in range(20):
    rng = np.random.default_rng(draw)
    normal, heavy = rng.standard_normal(gold.shape), rng.standard_t(2, gold.shape)
    trick = rng.random(gold.shape) < 0.01
    made_up["noise"].append((gold + 1.2 * normal, gold))
    made_up["heavy-tails"].append((gold + 1.2 * 0.826 * heavy, gold))  # .826: the same quartiles
    made_up["trick"].append((gold + 0.8 * normal + 5 * trick, gold - 2 * trick))

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
for proxy, truth in made_up["trick"]:
    np.testing.assert_allclose(favourites(proxy, truth, 1), statistics.best_of_n(proxy, truth, 64),
                               err_msg="the top one of 64 is what best-of-64 picks")
    np.testing.assert_allclose(favourites(proxy, truth, 64), truth.mean(1), atol=1e-12,
                               err_msg="who keeps everything prefers nothing")

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
            axis.annotate(name, (0.7, mean[-1] + 0.06), color=tint)
        else:
            axis.annotate(SPELLED.get(name, name), (1, 0.75 - 0.2 * i), color=tint, ha="right")
    axis.set_xscale("log", base=2)
    axis.set_xlim(75, 0.2)
    axis.set_xticks(KEEP, ["all", *(f"1/{64 // keep}" for keep in KEEP[1:])])
    axis.axhline(0, color="black", linewidth=0.8)
    plots.label(axis, "the proxy's favourites: top share of the answers", "", title)
axes[0].set_ylabel("mean gold (sd above the average answer)")
figure.suptitle("Mean gold of the proxy's favourites");

# %%
def turning(name):
    """The strictest choice against the top eighth."""
    later = curves[name][:, KEEP.index(1)] - curves[name][:, KEEP.index(8)]
    mean, low, high, _ = statistics.two_way_interval(later)
    means = curves[name].mean((0, 2))
    agreed = [statistics.within_correlation(*one) for one in (TRAINED | made_up)[name]]
    return {"correlation with gold": f"{np.mean(agreed):.2f}",
            "best at top": f"1/{64 // KEEP[means.argmax()]}", "gold there": f"{means.max():.2f}",
            "gold at top 1/64": f"{means[-1]:.2f}",
            "top 1/64 minus top 1/8": shown((mean, low, high), "+.2f"),
            "verdict": "turns down" if high < 0 else "rises" if low > 0 else "undecided"}

# %%
table = frame({name: turning(name) for name in curves})
assert list(table.verdict[list(made_up)]) == ["rises", "turns down", "turns down"], (
    "a fault shows itself among the favourites")
table.head(len(table))

# %% [markdown]
# **What to see.** *Noise*: better all the way. It promises too much and is never harmful. *Heavy
# tails*: better up to the top eighth. From there huge errors decide the pick, and they say nothing
# of gold. *A trick*: the curve falls back nearly to zero. In nearly half of the prompts one of 64
# answers has the trick, and then it is the favourite. The trained proxies' favourites get better to
# the end, each beyond its interval. So **they do not turn among what the reference says by
# itself**.

# %% [markdown]
# The correlation does not tell them apart: .64 for BT, for *noise* and for *a trick*. It is an
# average over all answers, and a search lives among the extremes.

# %% [markdown]
# <details><summary>Answer; and why did Section 3 find over-optimization, then?</summary>
#
# Noise never turns, heavy tails and a trick do. As to Section 3: best-of-$n$ picks among answers
# that the reference gives anyway. A policy *moves*: it makes answers that the reference hardly ever
# gives, if the proxy pays for them (Section 6 counts some). What a proxy says of the usual answers
# does not tell what it says of those.
# </details>

# %% [markdown]
# ## 5. In the course of training
#
# Gains of training's own answers, averaged over five steps (80 answers), in the same units.

# %%
BLOCK = 5


def course(run, key):
    """Shapes: -> (blocks,).  proxy, gold: gains in sds; others as logged."""
    if key in ("proxy", "gold"):
        both = rloo.curves(run["evaluation"] | {"metrics": run["metrics"]})
        values = both[("proxy", "gold").index(key)]
    else:
        values = np.array([row[f"train/{key}"] for row in run["metrics"]])
    return values.reshape(-1, BLOCK).mean(1)

# %%
figure, axes = plots.panels(3)
WATCHED = {"finished": "first they learn to end", "proxy": "proxies climb",
           "gold": "gold rises early, then scatters"}
for axis, (key, title) in zip(axes, WATCHED.items(), strict=True):
    for name, run in SIX.items():
        method, seed = name.lower().split()
        curve = course(run, key)
        axis.plot(np.arange(1, len(curve) + 1) * BLOCK, curve, color=plots.COLORS[method],
                  linestyle=("-", "--", ":")[int(seed)], linewidth=1.2)
    plots.label(axis, "step", "share of answers" if key == "finished" else "gain (sd)", title)
figure.suptitle("A line a run: BT blue, BSR red; seed 0 solid, 1 dashed, 2 dotted");

# %%
summary = rloo.summarize({name: [run["evaluation"] | {"metrics": run["metrics"]}
                                 for run in runs[name]] for name in ("bt-kl0.0", "bsr-kl0.0")})
frame({name.partition("-")[0].upper(): {
    "proxy, last quarter minus second (sd)": shown(row["late_proxy"], "+.2f"),
    "gold, last quarter minus second (sd)": shown(row["late_gold"], "+.2f"),
    "verdict": row["verdict"]} for name, row in summary.items()})

# %% [markdown]
# **What to see.** Endings come within fifteen steps, and gold's first rise comes with them. After
# step 20 the proxies of BSR 0 and BSR 2 climb on. Gold of BSR 2 falls far below the reference and
# comes back, as its answers stop ending and end again.
#
# The paper's Fig. 5 has gold rising on with BSR in the second half and standing still with BT. Here
# both changes are **undecided** over three seeds, and so is the proxies' rise. Each run is another
# proxy, and each policy found its own way to please it.

# %% [markdown]
# ### At equal KL: training against picking
#
# Steps are an arbitrary clock. KL says how far a policy has moved. Best-of-$n$ moves, too, by at
# most $\log n - \frac{n-1}{n}$ nats (notebook 07). The recorded picks come from models of the same
# configs and seeds, so they can be paired with the runs: at the KL of best-of-$n$, what has either
# gained?

# %%
SIZES = (1, 2, 4, 8, 16, 32, 64)
nats = [statistics.best_of_n_kl(n) for n in SIZES]


def picked(method, seed):
    """Gold's gain of best-of-n.  Shapes: -> (sizes,)."""
    proxy = scores[f"{method}-seed{seed}"]
    return np.array([statistics.best_of_n(proxy, gold, n).mean() for n in SIZES])

# %%
def trained(run):
    """Gold's gain where a run's KL first passes those of best-of-n, on the line between blocks."""
    kl, gain = (np.append(0, course(run, key)) for key in ("kl", "gold"))  # it starts at 0, 0
    first = np.flatnonzero(np.maximum.accumulate(kl) == kl)  # as long as KL goes up
    return np.interp(nats, kl[first], gain[first])

# %%
figure, axes = plots.panels(2, sharey=True)
for axis, method in zip(axes, ("bt", "bsr"), strict=True):
    for run in runs[f"{method}-kl0.0"]:
        kl, gold_gain = (np.append(0, course(run, key)) for key in ("kl", "gold"))
        axis.plot(kl, gold_gain, ".-", color=plots.COLORS[method], linewidth=1, markersize=4)
        axis.plot(nats, picked(method, run["seed"]), color="black", linewidth=1)
    axis.annotate("best-of-n, n to 64", (0.1, 1.1), color="black")
    axis.annotate("RLOO, a dot five steps", (0.1, -0.3), color=plots.COLORS[method])
    axis.set_xlim(-0.05, 80)
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set_xscale("symlog", linthresh=1)
    axis.set_xticks((0, 1, 3, 10, 30), ("0", "1", "3", "10", "30"))
    plots.label(axis, "KL to the reference (nats)", "", f"{method.upper()}, a line a seed")
axes[0].set_ylabel("gold gain (sd)")
figure.suptitle("Up to 3 nats picking buys more gold than training");

# %%
rows = {}
for method in ("bt", "bsr"):
    three = runs[f"{method}-kl0.0"]
    ours = np.array([trained(run) for run in three])
    theirs = np.array([picked(method, run["seed"]) for run in three])
    for n in (16, 64):
        i = SIZES.index(n)
        mean, half = metrics.seed_interval(ours[:, i] - theirs[:, i])
        rows[f"{method.upper()}, {nats[i]:.2f} nats (n = {n})"] = {
            "RLOO (sd of gold)": f"{ours[:, i].mean():.2f}",
            "best-of-n": f"{theirs[:, i].mean():.2f}",
            "RLOO minus best-of-n": shown((mean, mean - half, mean + half), "+.2f")}
frame(rows)

# %% [markdown]
# **What to see.** At the KL of best-of-16, and at that of best-of-64, training has gained at least
# half a standard deviation of gold less than picking, with either proxy, beyond the interval over
# three seeds. It goes on to 13 to 46 nats, and only three of six runs ever come near best-of-64. *A
# nat of picking buys more*: picking stays among what the reference says by itself.
#
# Two limits. Best-of-$n$ had 64 tokens, so fewer of its answers need be cut off. And it pays $n$
# answers for every one it gives, where a trained policy pays once.

# %% [markdown]
# ## 6. What did they learn to say?
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

# %%
frame({"reference": habits(SIX["BT 0"]["evaluation"]["reference"])} | {
    name: habits(run["evaluation"]["policy"]) for name, run in SIX.items()})

# %% [markdown]
# **What to see.** Two runs went opposite ways from the reference's 18 and 0, one stayed there, and
# three gave up lists altogether. BT 1 talks *about* answers ("This describes a description of the
# user"). BSR 0 is solemn ("The timeless allure of ..."). Nobody rewarded any of this on purpose,
# and runs of one method differ as much as runs of two.
#
# <details><summary>Answer</summary>
#
# BT 0 learned the instruction: it numbers where a list was asked for, and nowhere else. BSR 2
# learned the mannerism: it numbers nearly always. BT 2 stayed. BT 1, BSR 0 and BSR 1 number
# nothing.
# </details>

# %% [markdown]
# ## 7. BSR's policies against BT's
#
# A seed has the same prompts in the same order under both methods. So the comparison is paired.

# %%
def paired(key):
    """BSR minus BT.  Shapes: -> (seeds, prompts)."""
    if key == "the other four":
        return others["bsr"] - others["bt"]
    bt, bsr = (np.array([rloo.gains(run["evaluation"])[key] for run in runs[f"{method}-kl0.0"]])
               for method in ("bt", "bsr"))
    return bsr - bt

# %%
KEYS = {"proxy_gain": "proxy gain", "gold_gain": "gold gain",
        "the other four": "gold but for ending"}
rows = {title: paired(key) for key, title in KEYS.items()}
frame({title: {
    "BSR minus BT (sd)": shown(statistics.two_way_interval(d)[:3], "+.2f"),
    "by seed": ", ".join(f"{m:+.2f}" for m in d.mean(1)),
    "verdict": "undecided" if np.prod(statistics.two_way_interval(d)[1:3]) < 0 else "decided"}
    for title, d in rows.items()})

# %%
figure, axis = plots.panels(1)
for place, d in enumerate(rows.values()):
    mean, low, high, _ = statistics.two_way_interval(d)
    axis.errorbar(mean, -place, xerr=[[mean - low], [high - mean]], fmt="s", capsize=4,
                  color=plots.COLORS["bsr"])
    axis.plot(d.mean(1), [-place - 0.15] * len(d), ".", color=plots.COLORS["bsr"], alpha=0.6)
axis.axvline(0, color="black", linewidth=0.8)
axis.set_yticks([-place for place in range(len(rows))], rows)
axis.set_ylim(-2.5, 0.5)
plots.label(axis, "BSR minus BT (sd); dots: seeds, bars: 95% over seeds and prompts", "",
            "Which proxy is the better teacher? Undecided");

# %% [markdown]
# **What to see.** BSR's proxies were climbed further in every seed. Gold lies lower in two of
# three. Every interval holds zero, and holds large effects either way as well. Three seeds do not
# answer the paper's question.

# %% [markdown]
# ## 8. Winning, and winning at equal length (Table 3)
#
# The paper's Part 3 asks a judge how often a policy beats a baseline, in percent:
#
# | the paper's | mean length | win rate at equal length |
# |---|---|---|
# | SFT | 2247 | 2.59 |
# | RLOO with BT | 2180 | 8.41 |
# | RLOO with BSR | 1337 | 9.02 |
#
# Here gold is the judge and the reference the opponent. The correction for length: a logistic
# regression of "wins" on the difference in words, read at difference zero.

# %% [markdown]
# An interval over seeds *and* prompts needs one number for each prompt of each seed. A regression
# gives one for all. The *jackknife* helps: leave a prompt out and see how the estimate moves. $P$
# times the whole minus $P - 1$ times the rest is that prompt's **pseudo-value**. For a plain mean
# it is the prompt's own number. The regression works in log-odds, the logarithm of wins over
# losses, so the interval does, too, and the rates stay between 0 and 1.

# %%
def log_odds(wins, words, base_words):
    """Of winning: raw, and at equal length.  Shapes: (P,) each -> (2,)."""
    found = statistics.length_controlled_win_rate(wins, words, base_words)
    rates = np.array([found["win_rate"], found["length_controlled"]])
    return np.log(rates / (1 - rates))

# %%
def pseudo_values(run):
    """Shapes: -> (2, prompts)."""
    policy, reference = (run["evaluation"][part] for part in ("policy", "reference"))
    gold, base = (np.array(found["gold"])[:, 0] for found in (policy, reference))
    data = np.array([(np.sign(gold - base) + 1) / 2,  # 1, 1/2 for a tie, 0
                     *([len(text.split()) for text in found["texts"]]
                       for found in (policy, reference))])
    P, whole = data.shape[1], log_odds(*data)
    return np.array([P * whole - (P - 1) * log_odds(*np.delete(data, p, axis=1))
                     for p in range(P)]).T

# %%
data = np.random.default_rng(0).normal(size=20)
leave_out = [20 * data.mean() - 19 * np.delete(data, p).mean() for p in range(20)]
np.testing.assert_allclose(leave_out, data, err_msg="a mean's pseudo-values are its numbers")

# %%
def sigmoid(x):
    return 1 / (1 + np.exp(-x))

# %%
words = np.random.default_rng(0).normal(60, 15, (2, 4000))  # a world in which the answer is known
words[1] -= 20
for fair in (0.5, 0.7):
    longer = np.tanh((words[0] - words[1]) / (words[0] - words[1]).std())
    chance = sigmoid(np.log(fair / (1 - fair)) + 0.8 * longer)
    wins = (np.random.default_rng(1).random(4000) < chance).astype(float)
    raw, equal = sigmoid(log_odds(wins, *words))
    print(f"equal lengths {fair:.2f}: raw {raw:.2f}, corrected {equal:.2f}")
    assert abs(equal - fair) < 0.04, "length must be taken out, quality kept"

# %%
TITLES = ("wins against the reference", "at equal length")
values = {method: np.array([pseudo_values(run) for run in runs[f"{method}-kl0.0"]])
          for method in ("bt", "bsr")}  # (seeds, 2, prompts)
rows = {method.upper(): {title: shown(sigmoid(np.array(
    statistics.two_way_interval(values[method][:, i])[:3])), ".2f")
    for i, title in enumerate(TITLES)} for method in values}
for method, found in values.items():
    rows[method.upper()]["at equal length, by seed"] = ", ".join(
        f"{rate:.2f}" for rate in sigmoid(found[:, 1].mean(1)))
rows["BSR minus BT (log-odds)"] = {title: shown(statistics.two_way_interval(
    values["bsr"][:, i] - values["bt"][:, i])[:3], "+.2f") for i, title in enumerate(TITLES)}
frame(rows).fillna("")

# %% [markdown]
# **What to see.** On average both kinds of policies win more often than they lose, at equal length
# hardly. Both intervals at equal length hold one half: one BT policy lies far from the other two.
# The difference of the methods, in log-odds, is undecided by far. So the paper's order, BSR above
# BT at equal length, is neither seen nor excluded here.

# %% [markdown]
# ## 9. What holds here
#
# - **Ending explains what gold gained**, and nearly all that BT's proxies gained. At equal ending
#   gold rose in none of six runs beyond its interval, and fell in four.
# - **Two of six runs were over-optimized at equal ending**, both with BSR's proxies: the proxy up
#   by a unit, gold down. Over seeds no method's fall is decided.
# - **Faults show themselves among the favourites.** Heavy tails and a trick turn; noise does not;
#   the trained proxies do not turn up to 64 of the reference's answers.

# %% [markdown]
# - **At equal KL picking beats training**, up to three nats.
# - **BSR against BT: undecided** for proxy, gold and wins. The paper's Part 2 is neither confirmed
#   nor refuted.
#
# Unlike the paper (Sec. 3.2): 135M instead of 1.5B, no SFT of our own, LoRA, 16 answers a step
# instead of 128, no KL price.

# %% [markdown]
# ## Exercises
#
# Each stub returns `None`; its checker then says "not attempted yet". A fold holds the first hint,
# and a wrong answer gets a second one from its checker. Solutions are in `notebooks/solutions/`.
#
# **1.** One answer in `1 / rate` has a trick, and the proxy picks it whenever it is among the n.
# Gold of a trick is `trick`. `honest[n - 1]` is gold of the best of n answers without a trick.
# Return the n, counted from 1, at which gold of the pick is highest.
#
# <details><summary>First hint</summary>
#
# There are two kinds of draws. How likely is the harmless kind among n?
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
# The prompts are the same: what should be put into an interval, two columns or one?
# </details>

# %%
def price_verdict(priced, free):
    return None


checks.check_price_verdict(price_verdict);

# %% [markdown]
# *And then judge your own function's two answers*: what may you say about KL prices? (The solution
# has an opinion.)
#
# **3.** A policy may number its answers more often *because it was asked to*, or just more often.
# From three vectors of booleans (numbered before, numbered after, asked for) return one number, in
# rates: zero where numbering grew alike everywhere, 1 where all the growth there can be is where a
# list was asked for.
#
# <details><summary>First hint</summary>
#
# Section 6 has four counts for a run. A mannerism must cancel.
# </details>

# %%
def learned_to_list(before, after, asked):
    return None


checks.check_learned_to_list(learned_to_list);

# %% [markdown]
# ## What you know now
#
# - Proxy and gold compare in one unit, the reference's standard deviation within a prompt. An
#   honest noisy proxy lets gold keep the correlation.
# - A gain that any proxy would bring, such as ending, must be taken out of *both* rewards before
#   the share kept says anything.
# - How often a proxy errs matters less than what its favourites are worth.
# - Reading answers and counting habits finds what a mean reward hides.
#
# **To pass on:** a rising reward says that the policy found *something*. Take the dull explanation
# out first: ours had mostly learned to stop.
