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
# Notebook 08 trained a policy on gold itself. Nobody has gold: one trains on a **proxy**, a reward
# model, and hopes. Here the proxies of notebook 07 train policies while gold looks on. Does the
# proxy go on rising after gold has stopped? What does the policy learn to say? And is a BSR reward
# model the better teacher (the paper's Part 2)?

# %% [markdown]
# After it you can
# - say when optimizing a proxy helps, and when it starts to hurt, from an exact example;
# - read proxy and gold against steps and against KL (the paper's Fig. 5);
# - compare RLOO with best-of-$n$ at the same KL;
# - find out *what* a policy exploits, and correct a win rate for length.
#
# Words from before: *proxy, gold, KL, tilted policy* (notebook 08), *best-of-n* (07).

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
import random

import numpy as np

from bsr_lite import metrics, plots
from bsr_lite.config import load_config
from bsr_lite.course import checks_policy as checks
from bsr_lite.gold import gold_terms
from bsr_lite.scorers import read_prompts
from bsr_lite.studies import figures, statistics
from bsr_lite.studies.best_of_n import BestOfNConfig, draw_prompts, noisy_gold
from bsr_lite.studies.records import read_runs, read_table

# %% [markdown]
# ## 1. Three ways for a proxy to be wrong
#
# One prompt, 200,000 possible answers, all equally likely under the reference; gold is normal.
# Three proxies:
# - **noisy**: gold plus independent normal noise;
# - **heavy-tailed**: gold plus independent noise that is now and then huge (Student's t with two
#   degrees of freedom);
# - **fooled**: the first, but one answer in a thousand has a trick: the proxy adds 6 where gold
#   takes 2 off (a list that is no list, say).
#
# Nothing is trained: the best policy at a KL price $\beta$ is known (notebook 08, Section 5),
# $\pi_\beta \propto \pi_{ref}\, e^{p/\beta}$.
#
# **Predict**: gold against KL, as $\beta$ falls, for all three.

# %%
rng, N = np.random.default_rng(0), 200_000
value, noise = rng.normal(size=(2, N))
trick = rng.random(N) < 1e-3
fooled_value = value - 2 * trick
CASES = {"noisy": (value, value + noise),
         "heavy-tailed": (value, value + 0.826 * rng.standard_t(2, N)),  # quartiles as the noise's
         "fooled": (fooled_value, fooled_value + noise + 6 * trick)}

# %%
def tilted(proxy, beta):
    """Probabilities of the best policy at this price, and its KL to the (uniform) reference."""
    weights = np.exp((proxy - proxy.max()) / beta)
    p = weights / weights.sum()
    return p, float((p[p > 0] * np.log(p[p > 0] * N)).sum())

# %%
def best_of(proxy, n):
    """The same for the best of n draws: the answer of rank r wins (r/N)^n - ((r-1)/N)^n."""
    rank = np.empty(N)
    rank[np.argsort(proxy)] = np.arange(1, N + 1)
    return (rank / N) ** n - ((rank - 1) / N) ** n

# %%
PRICES = np.geomspace(200, 0.4, 60)
SIZES = 2 ** np.arange(0, 13)
figure, axes = plots.panels(3)
for axis, (name, (gold, proxy)) in zip(axes, CASES.items(), strict=True):
    path = [tilted(proxy, beta) for beta in PRICES]
    kl = np.array([k for _, k in path])
    seen = kl < 7
    axis.plot(kl[seen], [p @ proxy for p, _ in path][: seen.sum()], color="black", label="proxy")
    axis.plot(kl[seen], [p @ gold for p, _ in path][: seen.sum()], color="#DDAA33", label="gold")
    bounds = [statistics.best_of_n_kl(n) for n in SIZES]
    axis.plot(bounds, [best_of(proxy, n) @ gold for n in SIZES],
              ".", color="#BB5566", label="gold of best-of-n, n = 1 to 4096")
    axis.set_ylim(-1.2, 4)
    plots.label(axis, "KL to the reference (nats)", "mean reward", f"a {name} proxy")
axes[0].legend(fontsize=7);

# %%
print("gold of the best of n")
print(" " * 13 + "".join(f"{f'n={n}':>8s}" for n in SIZES[::2]))
for name, (gold, proxy) in CASES.items():
    print(f"{name:13s}" + "".join(f"{best_of(proxy, n) @ gold:8.2f}" for n in SIZES[::2]))

# %%
gold, proxy = CASES["noisy"]
for beta in (8.0, 2.0, 1.0):
    p, _ = tilted(proxy, beta)
    assert abs(p @ gold / (p @ proxy) - 0.5) < 0.05, "with normal noise gold keeps a fixed share"
gold, proxy = CASES["heavy-tailed"]
picked = [best_of(proxy, n) @ gold for n in SIZES]
assert picked[-1] < 0.5 * max(picked), "with heavy tails even best-of-n loses what it had gained"
peak = max((tilted(CASES["fooled"][1], b)[0] @ CASES["fooled"][0], b) for b in PRICES)[1]
assert PRICES[-1] < peak < PRICES[0], "with a trick gold has its best price inside, not at an end"

# %% [markdown]
# **What to see.** *Noisy*: gold rises at a fixed share of the proxy, here half (the noise has half
# the proxy's variance), at any KL. The proxy promises too much and is never harmful.
# *Heavy-tailed*: the more one draws, the more the pick is decided by one huge error, which says
# nothing of gold. Gold falls back to where it started. (The tilted policy goes for that error at
# once.) *Fooled*: gold turns at 2 nats. A trick
# that hardly ever occurs costs nothing until optimization *makes* it occur.
#
# So the first question about a proxy is not how often it errs. It is whether the answers that it
# likes *best* are still better.

# %% [markdown]
# <details><summary>And best-of-n against the trick?</summary>
#
# It turns as well, but later: the trick wins the draw whenever it is there, yet with $n$ draws it
# is there in one of $1000/n$ cases; the tilted policy says it as often as it likes. **Equal KL does
# not mean equal damage.**
# </details>

# %% [markdown]
# The same on the language model's own answers (`data/runs/best_of_n`: 64 answers to each of 112
# prompts). Beside four trained proxies stand two that are known: gold plus normal noise, in the
# amount that makes it agree with gold as well as Bradley-Terry's does, and gold plus heavy-tailed
# noise of the same quartiles. Both axes of the right panel are in standard deviations: the **share
# kept** is gold's gain over the proxy's.

# %%
picks = read_table("data/runs/best_of_n")
figures.best_of_n_figure(picks);

# %%
scores = np.load("data/runs/best_of_n/scores.npz")
assert abs(picks["methods"]["heavy-tailed noise"]["gold"][0][0] - scores["gold"].mean()) < 1e-3
print(f"{'gold of the pick':20s}{'best n':>8s}{'there':>8s}{'n=64':>8s}   share at n=2, at n=64")
for name, row in picks["methods"].items():
    gold = [mean for mean, *_ in row["gold"]]
    top = int(np.argmax(gold))
    print(f"{name:20s}{picks['n'][top]:8d}{gold[top]:8.2f}{gold[-1]:8.2f}   "
          + ", ".join("{:.2f} ({:.2f}, {:.2f})".format(*row["share"][i]) for i in (1, -1)))

# %%
gold = scores["gold"]
agreed = np.mean(picks["methods"]["bt"]["correlations"])
for name, proxies in noisy_gold(gold, agreed, 20).items():
    fall = np.array([statistics.best_of_n(p, gold, 64) - statistics.best_of_n(p, gold, 16)
                     for p in proxies])  # (draws of the noise, prompts)
    mean, low, high, _ = statistics.two_way_interval(fall)
    print(f"{name}: gold at n = 64 minus n = 16 {mean:+.3f} ({low:+.3f}, {high:+.3f}), 20 draws")

# %% [markdown]
# **What to see.** The trained proxies keep about the same share at every $n$, near their
# correlation with gold (dotted). With normal noise it sinks a little, .63 to .57, while gold rises
# furthest. The heavy-tailed one falls from .80 to .18, and its gold turns down, beyond the
# interval: that is over-optimization. The trained proxies do not show it up to 64 answers.

# %% [markdown]
# ## 2. The runs
#
# `data/runs/study_rloo`: the embedded model as policy (LoRA, learning rate $10^{-3}$), 40 steps of
# 4 prompts x $K = 4$ answers of at most 48 tokens. Proxies: reward models of the lora study's
# configs (notebook 07), BT and BSR (Eq. 25, $\lambda = 10^{-3}$), three seeds each; a seed has the
# same prompts in the same order under both. A proxy's rewards are put into its own units: zero is
# the mean on the reference's answers, one their standard deviation within a prompt. $\beta = 0$, so
# that what the proxies get wrong can show; one seed each at the paper's $\beta = 0.05$.

# %% [markdown]
# Unlike the paper (Sec. 3.2): 135M, no SFT of our own, LoRA, 16 answers a step instead of 128.

# %%
if PROFILE == "full":
    from bsr_lite.studies.rloo import run_study
    run_study(Path("bsr_lite/configs/study_rloo.yaml"))
RUNS = Path("runs" if PROFILE == "full" else "data/runs")
runs = read_runs(RUNS / "study_rloo")
BLOCK = 5  # steps that are averaged: 80 answers

# %%
def series(name, key):
    """A logged number, averaged over blocks of steps.  Shapes: -> (seeds, blocks)."""
    rows = np.array([[row[key] for row in run["metrics"]] for run in runs[name]])
    return rows.reshape(len(rows), -1, BLOCK).mean(2)

# %%
WATCHED = {"train/proxy_reward": "proxy (its units)", "train/gold_reward": "gold (0 to 5)",
           "train/kl": "KL (nats an answer)", "train/length": "length (tokens)"}

# %%
steps = np.arange(1, series("bt-kl0.0", "train/kl").shape[1] + 1) * BLOCK
figure, axes = plots.panels(4)
for axis, (key, title) in zip(axes, WATCHED.items(), strict=True):
    for method in ("bt", "bsr"):
        plots.seed_curves(axis, steps, series(f"{method}-kl0.0", key), method.upper(),
                          plots.COLORS[method])
    plots.label(axis, "step", "", title)
axes[0].legend();

# %%
half = len(steps) // 2
print("change over the second half of training, +- half a 95% interval over seeds")
for method in ("bt", "bsr"):
    for key in ("train/proxy_reward", "train/gold_reward"):
        curves = series(f"{method}-kl0.0", key)
        change = curves[:, -2:].mean(1) - curves[:, half - 2:half].mean(1)
        mean, width = metrics.seed_interval(change)
        print(f"{method.upper():4s} {key.partition('/')[2]:13s} {mean:+.3f} +- {width:.3f}")

# %% [markdown]
# **What to see.** Every proxy rises, by one to two of its units and more; gold hardly follows. In
# two BT runs it gains a quarter of a point in 15 steps and then stands, in the third it falls; the
# BSR runs stand for 25 steps, one dips by half a point and comes back. KL runs to 13 to 46 nats.
# Lengths fall first: an answer that does not end by itself costs a unit (`missing_eos_penalty`), so
# ending is the first lesson, and gold likes it, too.

# %% [markdown]
# The paper's Fig. 5 has gold rising on with BSR and standing still with BT in the second half. Here
# both intervals hold zero. **Seeds differ more than methods**: each seed is another proxy, with
# another head and order of batches, and each policy found its own way to please it.

# %% [markdown]
# ## 3. Reward against KL (Fig. 5a, b)
#
# Steps are an arbitrary clock: one proxy may simply push harder. KL is the fairer axis, since it
# says how far the policy has moved for what it gained.

# %%
figure, axes = plots.panels(2)
for axis, (key, title) in zip(axes, {"train/proxy_reward": "proxy (its units)",
                                     "train/gold_reward": "gold (0 to 5)"}.items(), strict=True):
    for name in runs:
        method, _, price = name.partition("-kl")
        style = {"color": plots.COLORS[method], "linestyle": "--" if float(price) else "-"}
        for kl, reward in zip(series(name, "train/kl"), series(name, key), strict=True):
            axis.plot(kl, reward, marker=".", markersize=3, linewidth=1, **style)
        axis.plot([], [], label=f"{method.upper()}, $\\beta$ = {price}", **style)
    plots.label(axis, "KL to the reference (nats an answer)", "", title)
axes[0].legend(fontsize=7);

# %%
def gold_at(run, nats):
    """Gold where a run's KL first passes `nats`, on the line between two blocks of steps."""
    kl, gold = (np.array([row[k] for row in run["metrics"]]).reshape(-1, BLOCK).mean(1)
                for k in ("train/kl", "train/gold_reward"))
    after = int(np.argmax(kl >= nats))
    return np.interp(nats, kl[after - 1:after + 1], gold[after - 1:after + 1])

# %%
for nats in (3.0, 8.0):
    found = {m: np.array([gold_at(run, nats) for run in runs[f"{m}-kl0.0"]]) for m in ("bt", "bsr")}
    mean, width = metrics.seed_interval(found["bsr"] - found["bt"])
    print(f"gold at {nats:.0f} nats: BT {found['bt'].mean():.2f}, BSR {found['bsr'].mean():.2f}, "
          f"difference {mean:+.2f} +- {width:.2f} (95%, three seeds)")

# %% [markdown]
# **What to see.** Up to a few nats gold rises with the proxy; from there the lines of the left
# panel go on and those of the right one do not. A nat buys less and less proxy, and no gold at all.
# At equal KL BT and BSR cannot be told apart with three seeds.

# %% [markdown]
# ## 4. On new prompts, and against best-of-n
#
# 112 prompts of the valid split, two answers each; gains over the reference's answers to the same
# prompts, intervals over seeds and prompts. Best-of-$n$ by models of the same configs on the *same*
# prompts was recorded for notebook 07 (answers of up to 64 tokens, so gains compare, levels not).

# Proxy and gold are put into **one unit**: standard deviations of the reference's answers to one
# prompt, each in its own. The *share kept* is gold's gain over the proxy's. What would it be if the
# policy exploited nothing? To first order the correlation of proxy and gold among the reference's
# answers (Section 1).

# %%
table = read_table(RUNS / "study_rloo")


def shown(values, form="+.2f"):
    mean, low, high = values
    return format(mean, form) + (f" ({low:{form}}, {high:{form}})" if low is not None else "")

# %%
print(f"{'':12s}{'proxy gain':>22s}{'gold gain':>22s}{'share kept':>22s}  correlation  KL (nats)")
for name, row in table.items():
    print(f"{name:12s}" + "".join(f"{shown(row[k]):>22s}" for k in
                                  ("proxy_gain", "gold_gain", "share"))
          + f"{np.mean(row['correlations']):13.2f}  {shown(row['kl'], '.1f')}")

# %%
for name in ("bt-kl0.0", "bsr-kl0.0"):
    row = table[name]
    print(f"{name}: share by seed " + ", ".join(f"{s:.2f}" for s in row["shares"])
          + f"; second half of training: proxy {shown(row['late_proxy'])}, gold "
          f"{shown(row['late_gold'])}: {row['verdict']}")

# %% [markdown]
# **What to see.** BT's policies keep as much as an honest climb would, BSR's half of that. But the
# seeds of either lie far apart, and both intervals hold the correlation: with three seeds it is
# undecided whether any policy exploited its proxy.

# %%
world = read_prompts("data/pocket/pocket.jsonl.gz", "valid", pocket=True)
rows = random.Random(0).sample(world, 112)
config = load_config("bsr_lite/configs/best_of_n.yaml", BestOfNConfig)
assert draw_prompts(config) == rows, "both optimizers must answer the same prompts"
scores = np.load(RUNS / "best_of_n" / "scores.npz")
SIZES = (1, 2, 4, 8, 16, 32, 64)

# %%
def best_of_n_gain(method):
    """Gold of the pick minus gold of a random sample.  Shapes: -> (seeds, sizes)."""
    picked = [[statistics.best_of_n(scores[f"{method}-seed{s}"], scores["gold"], n).mean()
               for n in SIZES] for s in (0, 1, 2)]
    return np.array(picked) - scores["gold"].mean()

# %%
figure, axis = plots.panels(1)
for method in ("bt", "bsr"):
    gain, tint = best_of_n_gain(method).mean(0), plots.COLORS[method]
    axis.plot([statistics.best_of_n_kl(n) for n in SIZES], gain, color=tint,
              label=f"best-of-n, {method.upper()} (KL: bound)")
    for beta, mark in ((0.0, "o"), (0.05, "^")):
        found = [run["evaluation"] for run in runs[f"{method}-kl{beta}"]]
        axis.plot([np.mean(f["policy"]["kl"]) for f in found],
                  [np.mean(f["policy"]["gold"]) - np.mean(f["reference"]["gold"]) for f in found],
                  mark, color=tint, label=f"RLOO, {method.upper()}, $\\beta$ = {beta}")
plots.label(axis, "KL (nats an answer)", "gain in gold", "what a nat buys, on new prompts")
axis.set_xscale("symlog", linthresh=1)
axis.set_ylim(bottom=0)
axis.legend(fontsize=7);

# %% [markdown]
# **What to see.** In half a nat to three, best-of-$n$ buys as much gold as RLOO does for 10 to 50.
# RLOO has the proxy's whole landscape to climb, best-of-$n$ only what the reference already says;
# its pick is always something that the reference would have said. (For such small gains it is the
# better deal; it pays $n$ times at every answer, where RLOO pays once.)

# %% [markdown]
# ## 5. What did it learn to say?
#
# A number does not tell you *what* is exploited. Read. **Predict**: what would a reward model that
# was trained on brief, on-topic, finished answers of small models be fooled by?

# %%
def show(text):
    return " / ".join(text.split("\n"))[:200]

# %%
for place in (3, 90, 77):
    print("PROMPT   ", show(rows[place]["prompt"]))
    first = runs["bt-kl0.0"][0]["evaluation"]["reference"]
    print(f"before: gold {first['gold'][place][0]:.2f}: {show(first['texts'][place])}")
    for method, seed in (("bt", 0), ("bt", 1), ("bsr", 0), ("bsr", 1)):
        f = runs[f"{method}-kl0.0"][seed]["evaluation"]["policy"]
        gold, proxy = f["gold"][place][0], f["proxy"][place][0]
        print(f"{method.upper()} {seed}: gold {gold:.2f}, proxy {proxy:+.2f}: "
              f"{show(f['texts'][place])}")
    print()

# %%
TERMS = ("instruction", "topic", "complete", "fresh", "concise")


def terms(found):
    """Gold's terms of the first answers.  Shapes: -> (P, 5)."""
    return np.array([[gold_terms(text, unit=row["unit"], count=row["count"], stems=row["stems"],
                                 finished=ended[0])[t] for t in TERMS]
                     for text, ended, row in zip(found["texts"], found["finished"], rows,
                                                 strict=True)])

# %%
changes = {m: np.array([terms(r["evaluation"]["policy"]) - terms(r["evaluation"]["reference"])
                        for r in runs[f"{m}-kl0.0"]]) for m in ("bt", "bsr")}  # (S, P, 5)

# %%
first = runs["bt-kl0.0"][0]["evaluation"]
assert np.allclose(terms(first["policy"]).sum(1), [g[0] for g in first["policy"]["gold"]],
                   atol=1e-4), "the terms must add up to the recorded gold"

# %%
figure, axis = plots.panels(1)
for i, (method, change) in enumerate(changes.items()):
    found = [statistics.two_way_interval(change[..., j]) for j in range(len(TERMS))]
    mean, low, high = np.array([f[:3] for f in found]).T
    axis.errorbar(np.arange(len(TERMS)) + 0.1 * (2 * i - 1), mean, [mean - low, high - mean],
                  fmt="o", capsize=3, color=plots.COLORS[method], label=method.upper())
axis.axhline(0, color="black", linewidth=0.8)
axis.set_xticks(range(len(TERMS)), TERMS)
plots.label(axis, "term of gold (0 to 1 each)", "policy minus reference", "where gold moved")
axis.legend();

# %%
for name in ("bt-kl0.0", "bsr-kl0.0"):
    for run in runs[name]:
        texts = run["evaluation"]["policy"]["texts"]
        opening = [" ".join(text.split()[:3]) for text in texts]
        common = sorted(set(opening), key=lambda o: (opening.count(o), o))[:-3:-1]
        lists = sum(text.startswith("1.") for text in texts)
        print(f"{name[:3].strip('-').upper():4s}{run['seed']}: of {len(texts)} answers {lists} are "
              "numbered lists, " + ", ".join(
                  f"{opening.count(o)} open with {o!r}" for o in common))

# %%
before = runs["bt-kl0.0"][0]["evaluation"]["reference"]["texts"]
print("before:", sum(text.startswith("1.") for text in before), "numbered lists")

# %% [markdown]
# **What to see.** BT 1 learned to *say* that it is concise ("This is a concise response to ...").
# BSR 0 learned solemnity ("The art of ...", tapestries, eternal quests) and has the highest KL and
# a gain of gold of .2. BSR 2 numbers its sentences, asked for or not. Nobody rewarded any of this
# on purpose: it is what a proxy of Section 1's second kind looks like from inside. A proxy that
# ranks honest answers with a tau of .35 has not been asked about these.

# %% [markdown]
# <details><summary>Which of gold's terms moved?</summary>
#
# *complete*, by half a point, which ending by itself earns. *instruction* (does what was asked)
# falls, under BSR beyond its interval; the others do not move. So the gain is the first lesson,
# ending, and owes nothing to what the proxies know of content.
# </details>

# %% [markdown]
# ## 6. Winning, and winning at equal length (Table 3)
#
# The paper's Part 3 asks a judge: AlpacaEval 2.0, length-controlled. Its numbers (mean length /
# LC win rate): SFT 2247 / 2.59; RLOO with BT 2180 / 8.41; with BSR 1337 / 9.02. The correction is a
# logistic regression of "wins" on the difference in length, read at difference zero. Here gold is
# the judge and the reference the opponent.

# %%
print(f"{'':12s}{'win rate':>10s}{'length-controlled':>19s}{'effect of length':>18s}")
for name, row in table.items():
    fair = row["length_controlled"]
    print(f"{name:12s}{row['win_rate']:10.3f}{fair if fair is not None else float('nan'):19.3f}"
          f"{row['length_effect']:18.2f}")

# %%
rng = np.random.default_rng(0)  # the correction on answers whose true win rate we know
words, base = rng.normal(60, 15, 4000), rng.normal(40, 15, 4000)
for true in (0.5, 0.7):
    chance = 1 / (1 + np.exp(-(np.log(true / (1 - true)) + 0.8 * np.tanh(
        (words - base) / (words - base).std()))))
    wins = (rng.random(4000) < chance).astype(float)
    found = statistics.length_controlled_win_rate(wins, words, base)
    print(f"equal lengths {true:.2f}: raw {found['win_rate']:.2f}, corrected "
          f"{found['length_controlled']:.2f}")
    assert abs(found["length_controlled"] - true) < 0.04, "length must be taken out, quality kept"

# %% [markdown]
# ## 7. What holds here
#
# - A proxy with heavy-tailed errors, or with a trick, is over-optimized beyond doubt: gold turns
#   down (Section 1). The trained proxies keep their share up to 64 answers.
# - RLOO's policies gain one to two standard deviations of their proxies, and half to one of gold,
#   which comes from ending early. Whether the share falls is undecided at three seeds.
# - BSR's proxies were climbed at least as far as BT's, not less; of gold their policies gained
#   less, undecided.
# - So the paper's Part 2 is neither confirmed nor refuted: its reward models are 3B, its proxies
#   much better, its policies get 128 answers a step and a KL price.

# %% [markdown]
# Not tested: a learning rate per proxy, more seeds than three, other $\lambda$, the controls of
# notebook 06 (BT rescaled to BSR's spread is the same proxy here, since units are standardized).

# %% [markdown]
# ## Exercises
#
# Each stub returns `None`; its checker then says "not attempted yet". Solutions are in
# `notebooks/solutions/`.
#
# **1.** A few answers with their reference probabilities, proxy and gold. For the policy that is
# best for the *proxy* at KL price $\beta$, return a tensor of its KL to the reference, its mean
# proxy and its mean gold.

# %%
def tilt(reference, proxy, gold, beta):
    return None


checks.check_tilt(tilt);

# %% [markdown]
# **2.** Which share of the proxy's rise did gold keep, each in standard deviations of its own
# values before training?

# %%
def share_kept(gold, base_gold, proxy, base_proxy):
    return None


checks.check_share_kept(share_kept);

# %% [markdown]
# **3.** The win rate of one tensor of rewards over another, pair by pair; a tie is half a win.

# %%
def win_rate(rewards, base_rewards):
    return None


checks.check_win_rate(win_rate);

# %% [markdown]
# **4.** A length correction without a model: the win rate among the pairs whose word counts differ
# by at most `within`.

# %%
def matched_win_rate(wins, words, base_words, within):
    return None


checks.check_matched_win_rate(matched_win_rate);
