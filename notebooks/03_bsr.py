# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 03 · What happens when the rewards of a batch must sum to zero?
#
# A reward model gives every answer a number, its reward. Bradley-Terry (BT) compares two answers to
# one prompt, and sees only the difference of their rewards. So nothing in its loss says where
# rewards should lie (notebook 01).
#
# **Batch-wise sum-to-zero regularization (BSR)** adds a term that does say it. The paper claims
# that it makes reward models more robust: better on prompts and answers unlike those of training.
# Here we ask what the term pulls on. Notebook 04 asks when it helps.

# %% [markdown]
# The lesson in one sentence: *BSR is two penalties in one, and how many pairs it sees at a time
# sets their ratio.*
#
# Sections 1 to 6 are the first reading. Sections 7 to 11, at the end of the page, are the second.

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
import torch

from bsr_lite import losses, plots
from bsr_lite.course import checks
from bsr_lite.metrics import seed_interval
from bsr_lite.studies.records import read_runs

torch.manual_seed(0);

# %% [markdown]
# ## 1. The penalty
#
# *What does BSR add to the loss?*
#
# A **group** is a set of $G$ pairs. Each pair has two rewards, so the group has $2G$ rewards $r_j$.
# Their mean is $\bar r$. BSR wants their sum to be zero, which is the same as $\bar r = 0$. So it
# adds a penalty on $\bar r$ (Eq. 24, 25):
#
# $$L_{BSR} = L_{BT} + \lambda\,G\,\bar r^{\,2}, \qquad
# \bar r = \frac{1}{2G}\sum_{j=1}^{2G} r_j.$$
#
# You choose $\lambda$. The factor $G$ is that of the official code.

# %% [markdown]
# A **batch** is what one training step sees. If it is cut into several groups, their penalties are
# averaged. In code a group's penalty is two lines:

# %%
def bsr_penalty(rewards_chosen, rewards_rejected):
    rewards = torch.cat([rewards_chosen, rewards_rejected])  # (2G,)
    return len(rewards_chosen) * rewards.mean() ** 2

# %% [markdown]
# We check it on two pairs by hand, then against the library's function.

# %%
w, l = torch.tensor([3.0, 1.0]), torch.tensor([-1.0, 1.0])
print("rewards", w.tolist(), l.tolist(), "mean 1, G = 2: penalty", bsr_penalty(w, l).item())
assert bsr_penalty(w, l) == 2, "G times the squared mean: 2 * 1^2"
assert bsr_penalty(w - 1, l - 1) == 0, "a batch that sums to zero pays nothing"
w, l = torch.randn(2, 64)
torch.testing.assert_close(losses.bsr_penalty(w, l), bsr_penalty(w, l))

# %% [markdown]
# **BSR adds one number for each group, averaged over the groups: $\lambda G$ times the squared mean
# reward.**

# %% [markdown]
# ## 2. One term, two penalties
#
# *A group's penalty depends on which pairs are in it. What does BSR want on average, over many
# random groups?*
#
# We need three quantities.
# - The **pair mean** $s_i = (r_{w,i} + r_{l,i})/2$ is the mean of pair $i$'s two rewards.
# - The **level** $\mu_s$ is the mean of $s$ over all pairs of the data.
# - The **spread** $\mathrm{Var}(s)$ is the variance of $s$ over all pairs of the data. Its root is
#   $\mathrm{sd}(s)$.

# %% [markdown]
# A group's $\bar r$ is the mean of its $G$ pair means. If these are drawn independently, $\bar r$
# has the expectation $\mu_s$ and the variance $\mathrm{Var}(s)/G$. The expectation of a square is
# the squared expectation plus the variance. So
#
# $$E\bigl[G\,\bar r^{\,2}\bigr] = G\,\Bigl(\mu_s^2 + \frac{\mathrm{Var}(s)}{G}\Bigr)
# = G\,\mu_s^2 + \mathrm{Var}(s).$$
#
# In words: on average the penalty has two terms. The first wants the level at zero, and its weight
# is $G$. The second wants a small spread. Its weight is 1, for the factor $G$ and the $1/G$ cancel.

# %% [markdown]
# We test the formula on $N = 256$ invented pair means, whose level and spread we know.

# %%
N, mu = 256, 0.5
s = torch.randn(N, dtype=torch.float64) * 1.4
s = s - s.mean() + mu  # pair means with a known mean and variance
variance = s.var(correction=0).item()

# %% [markdown]
# **Predict**, for $\mu_s = 0.5$ and $\mathrm{Var}(s) = 1.76$:
# 1. From which $G$ on does the level's term cost more than the spread's?
# 2. When the group is the whole data, $G = N$, is anything left of the spread's term?
#
# The next cell draws 4000 random groups of each size. It draws *without* replacement, as training
# does: no pair is in a group twice.

# %%
sizes = [1, 4, 16, 64, 128, 256]
simulated = []
for G in sizes:
    drawn = torch.stack([s[torch.randperm(N)[:G]] for _ in range(4000)])  # without replacement
    simulated.append((G * drawn.mean(1) ** 2).mean().item())
exact = [G * mu**2 + variance * (N - G) / (N - 1) for G in sizes]
torch.testing.assert_close(torch.tensor(simulated), torch.tensor(exact), rtol=0.06, atol=0.0)

# %%
# drawing only
figure, axis = plots.panels(1)
grid = torch.logspace(0, 8, 200, base=2)
level, spread = grid * mu**2, variance * (N - grid) / (N - 1)
axis.loglog(grid, level + spread, color=plots.COLORS["bsr"])
axis.loglog(sizes, simulated, "o", color=plots.COLORS["bsr"])
axis.loglog(grid, level, ":", color=plots.COLORS["level"])
axis.loglog(grid, spread, "--", color=plots.COLORS["spread"])
axis.axvline(variance / mu**2, color="0.6", linewidth=0.8)
axis.annotate("$\\mathrm{Var}(s)/\\mu_s^2$ = 1.76 / 0.25 = 7", (7.4, 0.2))
axis.annotate("penalty: line, the sum of both\nterms; dots, mean of 4000 groups", (1.3, 4.5),
              color=plots.COLORS["bsr"])
axis.annotate("level: $G\\mu_s^2$", (45, 6), color=plots.COLORS["level"])
axis.annotate("spread: $\\mathrm{Var}(s)\\,(N-G)/(N-1)$", (10, 1.05), color=plots.COLORS["spread"])
axis.set_ylim(0.15, 100)
axis.set_xticks(sizes, sizes, minor=False)
axis.minorticks_off()
plots.label(axis, "group size G (pairs)", "penalty (squared reward units)",
            "At level 0.5 the spread costs more in groups below 7, the level in larger ones")

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1. From $G = \mathrm{Var}(s)/\mu_s^2 = 7$ on.
# 2. Nothing. There is only one such group, so its mean does not vary. The penalty is
#    $N\mu_s^2 = 64$.
# </details>
#
# **What to see.** The dots lie close to the line. The line is the formula with one correction, a
# factor $(N - G)/(N - 1)$ on the spread's term: drawn without replacement, a group's mean varies a
# little less. The level's term grows with $G$. The spread's hardly changes up to $G = 16$.

# %% [markdown]
# In training $G$ is far below $N$, and the factor is nearly 1.
#
# **On average BSR is two penalties: on the level, with weight $\lambda G$, and on the spread, with
# weight $\lambda$. So the group size sets their ratio.**

# %% [markdown]
# ## 3. The push on one reward
#
# *Which way does BSR push a single reward?*
#
# **Predict**, before you read the formula: a group has the mean $+1$. One of its rewards is $-4$.
# Which way does BSR move that reward: up towards zero, or further down?
#
# We call the gradient of a loss on one reward its **push**. A training step goes against the
# gradient, so a positive push is downwards. BSR's push on the reward $r_j$ is
#
# $$\frac{\partial}{\partial r_j}\,\lambda\,G\,\bar r^{\,2} = \lambda\,G\cdot 2 \bar r \cdot
# \frac{1}{2G} = \lambda\,\bar r \qquad\text{for every } j.$$

# %% [markdown]
# Here are three pairs with the mean 1. `backward` gives the push on each reward, for $\lambda = 1$.

# %%
w = torch.tensor([4.0, 3.0, -1.0], requires_grad=True)
l = torch.tensor([2.0, 2.0, -4.0], requires_grad=True)
losses.bsr_penalty(w, l).backward()
print("gradient of BSR: chosen", w.grad.tolist(), "rejected", l.grad.tolist())

# %% [markdown]
# <details><summary>Answer</summary>
#
# Down, away from zero, with everyone else: the reward's own value plays no part. (The paper's text
# has the gradient proportional to $r(x, y)$, the answer's own reward. Its formula's is not.)
# </details>
#
# Were rewards free numbers, this common push would keep every difference $r_w - r_l$.
#
# **BSR pushes all rewards of a group the same way and equally hard.**

# %% [markdown]
# ## 4. How a common push acts on the spread
#
# *BSR pushes every pair of a group alike. How can it draw pair means together?*
#
# A pair meets its partners by chance. If its mean is high, it lifts the mean of whichever group it
# joins. So, averaged over these groups, it is pushed down by more than other pairs.
#
# By how much more? Say that each step's batch is all of Section 2's 256 pairs, cut at random into
# groups of $G$. The groups' penalties are averaged (Section 1).

# %% [markdown]
# **Predict**: we go from groups of 1 to groups of 16. What becomes of the mean push, over
# all orders, on a pair's rewards: does it grow, stay, or fall?
# 1. For the average pair.
# 2. For a pair 2 above the level: what it gets *beyond* the average pair.
#
# One of $N/G$ groups weighs $G/N$. So its push on each of its rewards is
# $\frac{G}{N}\lambda\bar r = \frac{\lambda}{N} G\bar r$. The next cell cuts 10,000 random orders of
# the pairs, whose rewards stay as they are, and prints $G\bar r$. In groups of 1 that is $s_i$. For
# question 2 it fits a straight line to all pairs.

# %%
orders = torch.rand(10_000, N).argsort(1)  # the pairs in 10,000 orders
table = {}
for G in (1, 16, 64, 256):  # all pairs in groups of G
    push = G * s[orders].view(len(orders), -1, G).mean(2, keepdim=True)  # over lambda / N
    total = torch.zeros(N, dtype=torch.float64)
    total.index_add_(0, orders.flatten(), push.expand(-1, -1, G).flatten())
    mean_push = total / len(orders)  # (N,)
    slope = (mean_push @ (s - mu) / ((s - mu) @ (s - mu))).item()  # more, per unit above mu
    assert abs(slope - (N - G) / (N - 1)) < 0.05, "the push on the spread must not fall as 1 / G"
    table[f"G = {G}"] = [mean_push.mean().item(), 2 * slope]

# %%
rows = ["on the average pair", "beyond it, on a pair 2 above the level"]
(pd.DataFrame(table, rows).round(2) + 0.0).map("{:.2f}".format).rename_axis(
    "mean push over all steps, divided by lambda / N", axis=1)

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1. It grows 16 times, from .5 to 8: with 16 times fewer groups each weighs 16 times as much.
# 2. It stays near 2. A group weighs 16 times as much, but the pair makes only 1/16 of its mean.
#    What is missing from 2 is Section 2's factor, $(N - G)/(N - 1)$.
# </details>
#
# So, as long as $G$ is far below $N$, a larger group pushes harder on the level, and on the spread
# as before.
#
# **Within one group the push is common. Over many groups a high pair gets more of it, and this
# works against the spread.**

# %% [markdown]
# ## 5. A micro-batch's own mean is BSR with a smaller group
#
# *What becomes of the penalty when a batch is computed in parts?*
#
# A batch that does not fit into memory is computed in equal parts, **micro-batches**. Their
# gradients are averaged. For BT this changes nothing: its loss is a mean over pairs. But BSR
# squares the mean of a whole group.

# %% [markdown]
# A loss inside a standard trainer sees one micro-batch at a time. So it squares that part's own
# mean, and the parts' penalties are averaged. In the official code, too, a group is what one device
# computes at a time. *Deviation:* in this library a group is the whole batch, unless you set
# `bsr_group_size`.
#
# **Predict**: a batch of 32 pairs should be one group, but is computed in four parts of 8.
# 1. What becomes of the level's weight, and of the spread's?
# 2. Does $4\lambda$ make the average penalty right again? Think of data with the level 1, and then
#    of data with the level 0.

# %% [markdown]
# The next cell moves the pair means of Section 2 to these two levels. It draws 4000 batches, and
# takes the mean penalty of whole batches, of parts, and of parts with $4\lambda$.

# %%
drawn = torch.rand(4000, N).argsort(1)[:, :32]  # 4000 batches of 32 pairs, without replacement
table = {}
for target in (1, 0):
    batches = s[drawn] - mu + target  # (4000, 32)
    whole = (32 * batches.mean(1) ** 2).mean().item()
    parts = (8 * batches.view(4000, 4, 8).mean(2) ** 2).mean().item()
    table[f"level {target}"] = [whole, parts, 4 * parts]
    assert abs(4 * parts - whole - 3 * variance) < 0.3, "what is too much must be 3 Var(s)"
rows = ["whole batch", "four parts", "four parts, 4 lambda"]
pd.DataFrame(table, rows).transpose().round(1).rename_axis(
    "mean penalty, over lambda (squared reward units)", axis=1)

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1. The level's falls to a quarter, from $32\lambda$ to $8\lambda$. The spread's stays $\lambda$.
# 2. No. With $4\lambda$ the level weighs $32\lambda$ again. But the spread now weighs $4\lambda$.
# </details>
#
# The last column should equal the first. At both levels it is 5.4 too high. That is about three
# times $\mathrm{Var}(s) = 1.76$: the spread counts about four times instead of once.
#
# (An exact way needs one more forward pass: second reading, Exercise 3.)
#
# **Penalizing each micro-batch is BSR with a smaller group. No $\lambda$ alone makes it the whole
# batch's again. Your GPU's memory sets the micro-batch, and so the regularizer.**

# %% [markdown]
# ## 6. The level's term at work
#
# *Does BSR bring the level to zero in training?*
#
# We look at recorded runs (`data/runs/study_lambda`). The model is notebook 02's, cut to ten
# layers. Each of 23 batches has 16 pairs and is one group. (A last, smaller one is left out.) A
# batch's mean reward estimates the level. A run's seed decides how it starts, and in which order
# the pairs come. Runs of one seed differ only in their loss.

# %%
RUNS = Path("runs" if PROFILE == "full" else "data/runs")
if PROFILE == "full":  # trains what "fast" reads; finished runs are read back
    from bsr_lite.studies.reward_models import run_study
    run_study(Path("bsr_lite/configs/study_lambda.yaml"))
record = read_runs(RUNS / "study_lambda")  # {method: one run a seed}


def course(run, key):
    """A number of every step's batch.  Shapes: -> (steps,)."""
    return np.array([row[key] for row in run["metrics"] if key in row])

# %%
def crossing(run):
    means = course(run, "train/reward_mean")
    below = np.flatnonzero(means < 0)  # every head starts above zero
    return str(below[0] + 1) if len(below) else "never"

# %% [markdown]
# **Predict**: where does a batch's mean reward go in 23 steps under BT, and where with BSR, at
# $\lambda = 10^{-3}$ and at a tenth of it? For scale: on seed 0's new head the penalty's
# gradient at $10^{-3}$ is 1.2 times as long as BT's (Section 10).
#
# Look at BT first, and then at the dots: there a mean is below zero for the first time.

# %%
# drawing only
figure, axes = plots.panels(3, sharey=True)
TINTS = {"bt": plots.COLORS["bt"], "bsr-1e-4": "#D14A66", "bsr-1e-3": "#C2182F"}
NAMES = {"bt": "BT", "bsr-1e-4": "λ = 1e-4", "bsr-1e-3": "λ = 1e-3"}
AT = [[(9, 3.5), (6.5, 1.65), (9, -0.95)], [(14, 3.3), (9, 1.5), (8, -0.95)],
      [(14, 3.0), (4.5, 1.35), (7, -0.95)]]  # of the names, in each panel
for seed, axis in enumerate(axes):
    axis.axhline(0, color="black", linewidth=0.8)
    for (method, tint), place in zip(TINTS.items(), AT[seed], strict=True):
        run = record[method][seed]
        curve, step = course(run, "train/reward_mean")[:23], crossing(run)
        axis.plot(range(1, len(curve) + 1), curve, color=tint, linewidth=1.2,
                  linestyle="--" if method == "bsr-1e-4" else "-")
        axis.annotate(NAMES[method], place, color=tint)
        if step != "never":
            axis.plot(int(step), curve[int(step) - 1], "o", color=tint, markersize=5, zorder=3)
            axis.annotate(f"step {step}", (int(step), -1.5), color=tint, ha="center")
    axis.set_ylim(-1.7, 4.6)
    plots.label(axis, "optimizer step", "", f"seed {seed}")
axes[0].set_ylabel("mean reward of the batch (reward units)")
figure.suptitle("In three runs BT's mean rises; with λ = 1e-3 it crosses zero by step 4");

# %% [markdown]
# **What to see.** Under BT the mean ends above where it began. At $\lambda = 10^{-3}$ it falls
# below zero at step 3 or 4, and then swings about zero. (Why it swings, we did not test.) With a
# tenth of this $\lambda$ it gets there at step 14 to 19.

# %% [markdown]
# Why does BT move the mean, if it does not see it? All rewards come from the same weights. So steps
# that widen differences may carry the mean along, and nothing in BT pulls it to a place of its own.
# (An argument.)
#
# **With BSR the mean came to zero, and swung about it: the level's term at work.** The figure does
# not show what the spread's term does (Section 11 asks).

# %% [markdown]
# ## Exercises
#
# Solutions: `notebooks/solutions/`.

# %% [markdown]
# **1.** *Judge a record.* Someone reads Section 6: "at $10^{-3}$ the level is at zero from step 4
# on; what the penalty still costs is the spread". May the sentence stand?
#
# Given are two tensors (T,), with one number a step: the batch mean $\bar r_t$, and the unbiased
# variance of the batch's pair means. Each batch is one group of $G$ = `group` pairs. Estimate the
# level's share: $\sum_t G\,\mu_t^2$ over $\sum_t G\,\bar r_t^{\,2}$. The level $\mu_t$ is not
# recorded, and it may move from step to step. Leave a share below zero as it is.

# %% [markdown]
# *Guess first*: 10, 50 or 90%? The second cell below asks the record. It has two controls: BT, and
# 1000 invented runs with $\mathrm{sd}(s) = .7$ whose level *is* zero.
#
# <details><summary>Hint</summary>
#
# Let the level be exactly zero. What is $G\,\bar r^{\,2}$ of one batch on average?
# </details>

# %%
def level_share(batch_means, variances, group):
    return None


checks.check_level_share(level_share);

# %%
for method in ("bsr-1e-3", "bt"):
    for run in record[method]:
        means, variances = (torch.from_numpy(course(run, key)[4:23])  # steps 5 to 23
                            for key in ("train/reward_mean", "bsr/variance_term"))
        print(method, "seed", run["seed"], "level's share:", level_share(means, variances, 16))
null = [level_share(torch.randn(19) * 0.7 / 4, torch.full((19,), 0.49), 16) for _ in range(1000)]
print("level zero, 95% of 1000 runs:", None if None in null else np.quantile(null, [0.025, 0.975]))

# %% [markdown]
# <details><summary>What the record says (after your guess)</summary>
#
# No. At $10^{-3}$ the level's share is 82 to 92%; under BT it is nearly 100%. Where the level *is*
# zero, chance lifts it above 43% in one run of 40 (`solutions/03_bsr`). The mean swings, and its
# swings cost more than the spread.
# </details>

# %% [markdown]
# **2.** *Another machine.* You found a good $\lambda$ with groups of `old` pairs. On a new machine
# a group is `new` pairs, more than one. No $\lambda$ alone gives back both weights. So you add a
# second penalty, **centering**: $\kappa$ times the mean of $4 s^2$ over the batch. Return the pair
# $(\lambda', \kappa)$ with which level and spread weigh, on average, what they did. ($N$ is large.)
# Then think: what would a negative $\kappa$ mean?
#
# <details><summary>Hint</summary>
#
# Which weights does centering give to level and spread? Then write down both weights, old and new.
# </details>

# %%
def same_weights(bsr_lambda, old, new):
    return None


checks.check_same_weights(same_weights);

# %% [markdown]
# ## Check yourself
#
# 1. You go from groups of 16 to 128 and divide $\lambda$ by 8. What stays, what changes?
# 2. The level doubles, the spread stays. What happens to the group size at which the two terms
#    cost the same? ($N$ is large.)
# 3. The level is 0. All rewards rise by 1. What changes: BT's loss, the level's term, the spread's?
# 4. A group's mean is $-0.5$. One of its rewards is $+3$. Which way does BSR push it, and how hard?
# 5. Your trainer penalizes each micro-batch by itself. You halve its size. What changes?

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1. The level's weight stays, the spread's falls to an eighth.
# 2. It falls to a quarter: it is $\mathrm{Var}(s)/\mu_s^2$.
# 3. Only the level's term: from 0 to $\lambda G$.
# 4. Up, with all others: the gradient is $-\lambda/2$. Its own value plays no part.
# 5. The level's weight halves, the spread's stays.
# </details>

# %% [markdown]
# ## What to watch, what to vary
#
# | In your run, watch | Seen at $10^{-3}$, $G = 16$ | To change it, vary |
# |---|---|---|
# | `train/reward_mean` | crosses zero by step 4, then swings | $\lambda$ (larger may cost margin) |
# | `bsr/mean_term`: estimates $G\mu_s^2$ | most of the penalty (Exercise 1) | $G$ |
# | `train/margin`: mean of $r_w - r_l$ | near BT's (Section 11) | $\lambda$ |

# %% [markdown]
# ## What you know now
#
# **On average BSR is a penalty on the level with weight $\lambda G$ plus one on the spread with
# weight $\lambda$. So where each micro-batch is penalized by itself, the micro-batch size is a
# hyperparameter.**
#
# Algebra and simulation show this. Section 6's runs show the level's term at work, and nothing of
# the spread's (Section 11). Nor do they show a gain in robustness: of 24 differences from BT on
# test sets six exclude zero, all for the worse (`data/runs/study_lambda/results.md`). Chance makes
# one.

# %% [markdown]
# Next: **04 · When does BSR help, when does it cost, and which part of it?**

# %% [markdown]
# ## Second reading
#
# For those who will train with BSR and must choose a penalty, a group and a $\lambda$. Sections 7
# to 10 need no training. Section 11 takes the recorded runs apart.

# %% [markdown]
# ## 7. The formula behind Section 4
#
# A batch of all $N$ pairs is cut into groups of $G$. The mean push on pair $i$ is
#
# $$\frac{\lambda}{N}\Bigl(G\,\mu_s + \frac{N-G}{N-1}\,(s_i - \mu_s)\Bigr).$$
#
# The first part is the average push. The second is what pair $i$ gets beyond it. Why? Given pair
# $i$, the other $G - 1$ have the mean $(N\mu_s - s_i)/(N-1)$ on average. So
#
# $$E[\bar r \mid i] = \frac{s_i}{G} + \frac{G-1}{G}\cdot\frac{N\mu_s - s_i}{N-1}.$$
#
# Multiply by $\lambda$, and by the group's weight $G/N$ in the average. At $G = 1$ the factor of
# the second part is 1. At $G = N$ it is 0.

# %% [markdown]
# In training a batch has only $B$ of the pairs. So each of its groups weighs $G/B$, and for a pair
# in the batch $\lambda/N$ becomes $\lambda/B$.
#
# A training run may put each pair into one group only. But high pairs can look alike to the model,
# and one set of weights serves all pairs. Over many groups these weights collect what high pairs
# get beyond the others. (An argument: no output here shows it.)

# %% [markdown]
# ## 8. What no comparison within a prompt can see
#
# Is a small spread good? It holds errors of the model, but also honest quality: some pairs have
# better answers than others. BSR cannot tell these apart.
#
# Take the wish for a small spread to its extreme: each prompt's mean reward is taken away, and so
# is any shift $c(x)$ of a prompt. (BSR itself acts on pair means.) Who would notice?
#
# **Predict** which of these change: the penalty, the BT loss, tau within prompts, best-of-4, **RLOO
# advantages**, tau pooled over prompts. (RLOO is the paper's RL method: an answer's advantage is
# its reward minus the mean reward of the *other* answers to the prompt. The rest: notebook 01.)

# %%
from bsr_lite.metrics import kendall_tau_b


def advantages(r):
    others = (r.sum(1, keepdim=True) - r) / (r.shape[1] - 1)
    return r - others

# %%
def world():
    """Gold of 200 prompts with 4 answers, and four reward models."""
    gold = torch.rand(200, 1, dtype=torch.float64) + torch.rand(200, 4) - 1  # prompt's + answer's
    noise, c = 0.3 * torch.randn(200, 4), 2 * torch.randn(200, 1) + 1
    raw = gold + noise + c
    return gold, {"raw: gold + noise + c(x)": raw, "prompt mean away": raw - raw.mean(1, True),
                  "control: a third of the noise": gold + noise / 3 + c,
                  "raw, c(x) a quarter": gold + noise + c / 4}

# %%
def labelled(r, gold):
    """Of each prompt's first two answers the one that gold prefers, then the other."""
    better = gold[:, :2].argmax(1, True)
    return r.gather(1, better)[:, 0], r.gather(1, 1 - better)[:, 0]


MEASURES = {"BSR penalty": lambda r, gold: losses.bsr_penalty(*labelled(r, gold)).item(),
            "BT loss": lambda r, gold: losses.bt_loss(*labelled(r, gold)).item(),
            "tau within prompts": lambda r, gold: kendall_tau_b(r, gold).mean(),
            "best-of-4: gold": lambda r, gold: gold.gather(1, r.argmax(1, True)).mean().item(),
            "RLOO: mean |advantage|": lambda r, gold: advantages(r).abs().mean().item(),
            "tau pooled": lambda r, gold: kendall_tau_b(r.ravel(), gold.ravel()).item()}

# %%
worlds = [world() for _ in range(20)]
for _, models in worlds:
    raw, away, *_ = models.values()
    torch.testing.assert_close(advantages(raw), advantages(away), msg="RLOO must not see c(x)")
found = {name: {measure: [f(models[name], gold) for gold, models in worlds]
                for measure, f in MEASURES.items()} for name in models}
pd.DataFrame({name: {measure: "{:.2f} ± {:.2f}".format(*seed_interval(values))
                     for measure, values in cells.items()} for name, cells in found.items()})

# %% [markdown]
# Mean of 20 worlds, ± 95%. *Positive control*: less noise within prompts moves the middle four.
#
# <details><summary>Answer</summary>
#
# Only the penalty and pooled tau.
# </details>
#
# Pooled tau rises, for this $c(x)$ is large. With a quarter of it (last column) it would fall, from
# .40 to .29: gold's own differences between prompts go too.
#
# **Whatever compares answers of one prompt is blind to this. A gain there must come through shared
# weights.**

# %% [markdown]
# ## 9. Its relatives: the same two terms, other ratios
#
# Two older penalties on rewards have a weight $\kappa$ of their own:
# - **centering**: $\kappa$ times the mean of $(r_w + r_l)^2 = 4 s^2$;
# - **L2**: $\kappa$ times the mean of $(r_w^2 + r_l^2)/2 = s^2 + m^2/4$, with the
#   margin $m = r_w - r_l$.
#
# The mean of $s^2$ is $\mu_s^2 + \mathrm{Var}(s)$. So each penalty is a sum of at most three parts:

# %% jupyter={"source_hidden": true}
r_w, r_l = torch.randn(2, 4096, dtype=torch.float64) * 2 + 0.7
means, margins = (r_w + r_l) / 2, r_w - r_l
made_of = torch.stack([means.mean() ** 2, means.var(correction=0), margins.square().mean()])
WEIGHTS = {"BSR, groups of one": (1, 1, 0), "BSR, G = 16": (16, 1, 0), "centering": (4, 4, 0),
           "L2": (1, 1, 1 / 4)}
values = [losses.bsr_penalty(r_w, r_l, 1), losses.bsr_penalty(r_w, r_l, 16),
          losses.centering_penalty(r_w, r_l), losses.l2_penalty(r_w, r_l)]
rows = {name: [*weights, (torch.tensor(weights).double() @ made_of).item(), value.item()]
        for (name, weights), value in zip(WEIGHTS.items(), values, strict=True)}
assert all(abs(row[3] - row[4]) < 1e-9 for name, row in rows.items() if name != "BSR, G = 16")
pd.DataFrame(rows, ["weight of level squared", "of the spread", "of the mean squared margin",
                    "sum of the three", "the penalty"]).transpose().round(2)

# %% [markdown]
# **BSR with groups of one *is* centering, with $\kappa = \lambda/4$.** Larger groups add weight on
# the level alone: $G$ to 1 instead of 1 to 1. L2 pulls on margins as well. (At $G = 16$ the last
# column is one cutting into groups; the sum is the mean over all.)

# %% [markdown]
# ## 10. How heavy is $\lambda$?
#
# Beside BT, first on *one reward*:
# - BT pushes by $\sigma(-m)/B$, about $\tfrac{1}{2B}$ early on: the chosen up, the rejected down.
# - BSR pushes by $\lambda\,|\bar r|\,G/B$, all one way.
#
# $$\text{BSR over BT:}\qquad \frac{\lambda\,|\bar r|\,G/B}{1/(2B)} = 2\,\lambda\,G\,|\bar r| .$$
#
# **A $\lambda$ means little without its group size.** The *spread's* part does not need it: it is
# $\lambda\,|s_i - \mu_s|/B$ (Section 7, $G$ far below $N$). Over BT's that is
# $2\lambda\,|s_i - \mu_s|$.

# %%
LAMBDAS = (1e-4, 1e-3, 1e-2, 1e-1)
rows = {f"level: mean reward 1, G = {G}": [f"{2 * x * G:.2g}×" for x in LAMBDAS]
        for G in (16, 128)}
rows["spread: a pair 1 above the level"] = [f"{2 * x:.2g}×" for x in LAMBDAS]
pd.DataFrame(rows, index=[f"{x:g}" for x in LAMBDAS]).transpose().rename_axis(
    "BSR's push over BT's, by lambda", axis=1)

# %% [markdown]
# $G = 16$ is ours, and one GPU of the paper's 8B recipe; 128 is the paper's whole batch. At
# $\lambda = 10^{-3}$, $G = 16$ and mean reward 1 the level's push is 3% of BT's. The spread's, on a
# pair 1 above the level, is .2%.
#
# But all rewards come from the same weights, where pushes add up or cancel. On a linear head the
# penalty's gradient is $2\lambda G\,\bar r\,\bar h$, with the mean hidden state $\bar h$. Here
# $\bar h$ is 41 long, and the mean of $h_w - h_l$ only 2.1 (printed below).
#
# **Predict** its length beside BT's on a new head, before the first step: under 3%, 3%, or more?

# %%
from bsr_lite.batching import pack
from bsr_lite.config import load_config
from bsr_lite.models import load_reward_model
from bsr_lite.scenarios import load_scenarios
from bsr_lite.tokenization import pair_tokens

# %%
config = load_config("bsr_lite/configs/rm_fast.yaml", overrides=["data.max_pairs=96"])
model = load_reward_model(config.model.name, depth=10, seed=0)
pairs, _ = pair_tokens(load_scenarios(config).train, model.tokenizer, config.data.max_length)
with torch.no_grad():
    hidden, _ = model.last_hidden(pack(pairs[:16]).to(model.device))
h_w, h_l = hidden.cpu()[0::2], hidden.cpu()[1::2]  # (16, 576) each
W = model.head_weight.detach().cpu().clone().requires_grad_()
del model

# %%
mean_hidden = torch.cat([h_w, h_l]).mean(0)
r_w, r_l = h_w @ W, h_l @ W
(g_bt,) = torch.autograd.grad(losses.bt_loss(r_w, r_l), W, retain_graph=True)
(g_bsr,) = torch.autograd.grad(1e-3 * losses.bsr_penalty(r_w, r_l), W, retain_graph=True)
(g_spread,) = torch.autograd.grad(1e-3 * losses.spread_penalty(r_w, r_l), W)
torch.testing.assert_close(g_bsr, 2e-3 * 16 * (mean_hidden @ W) * mean_hidden)  # the formula

# %%
mean_reward, sd_s = torch.cat([r_w, r_l]).mean().item(), ((r_w + r_l) / 2).std().item()
state, apart = mean_hidden.norm().item(), (h_w - h_l).mean(0).norm().item()
print(f"mean reward {mean_reward:.2f}, sd(s) {sd_s:.2f}; length of the mean state {state:.0f}, "
      f"of a pair's difference {(h_w - h_l).norm(dim=1).mean():.1f} on average, "
      f"of the mean difference {apart:.1f}; {state:.0f} / ({apart:.1f} / 2) = "
      f"{2 * state / apart:.0f}")
over_bt = {"one reward": 2e-3 * 16 * mean_reward,
           "the head,\nthis batch": (g_bsr.norm() / g_bt.norm()).item(),
           "the spread's term,\nthis batch": (g_spread.norm() / g_bt.norm()).item()}

# %%
# drawing only
TEXTS = ("{:.0%}", "BSR along the long mean state, BT along a short mean difference: {:.0%}",
         "{:.1%}: a lighter weight, a small sd(s), along short differences")
figure, axis = plots.panels(1)
axis.axvline(1, color=plots.COLORS["bt"])
axis.annotate("as large\nas BT's", (1.1, 1.9), color=plots.COLORS["bt"])
for row, (x, text) in enumerate(zip(over_bt.values(), TEXTS, strict=True)):
    tint, left = plots.COLORS["spread" if row == 2 else "bsr"], row == 1
    axis.plot(x, row, "o", color=tint, markersize=8)
    axis.annotate(text.format(x), (x, row), (-9 if left else 9, -3), color=tint,
                  textcoords="offset points", ha="right" if left else "left",
                  bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5})
axis.set(xscale="log", xlim=(5e-4, 3), ylim=(2.5, -0.5))
axis.set_yticks(range(3), over_bt)
axis.set_xticks([0.001, 0.01, 0.1, 1], ["0.1%", "1%", "10%", "100%"])
axis.minorticks_off()
plots.label(axis, "BSR's gradient over BT's (λ = 1e-3, G = 16)", "",
            "BSR at 1e-3 is 3% of BT on one reward, but 120% on seed 0's head, "
            "nearly all by the level")

# %% [markdown]
# **What to see: 3% on a reward is 120% on this head.** BSR's gradient lies along the long $\bar h$.
# BT's is, early on, about half the mean of $h_w - h_l$. That is short, half of 2.1, for pairs
# differ in different directions. So the 3% grow about 40 times (the printed quotient: 39).

# %% [markdown]
# The spread's term, $\lambda\,\mathrm{Var}(s)$, is 0.1%. There are three reasons.
# - The level's weight is 16 times as large.
# - This head begins far from zero: its mean reward is .90, its $\mathrm{sd}(s)$ only .26.
# - The level's pushes all lie along the long $\bar h$. The spread's sum to zero, as BT's do. So
#   both lie along differences of states, which are short.
#
# (The table's .2% is on one reward.) One head, one batch: a scale, not a law.

# %% [markdown]
# ## 11. The recorded runs, term by term
#
# *First the level, at all four $\lambda$ of the record.*
#
# **Clipping** cuts a gradient longer than 1 to length 1. **AdamW** divides every coordinate of the
# gradient by its usual size.
#
# **Predict**: the penalty's gradient is proportional to $\lambda$. Does $\lambda = 10^{-1}$ bring
# the batch mean to zero much sooner than $10^{-3}$?

# %%
METHODS = ("bsr-1e-4", "bsr-1e-3", "bsr-1e-2", "bsr-1e-1")


def swing(run):
    """Root mean square of the batch means after the crossing, to step 23."""
    later = course(run, "train/reward_mean")[int(crossing(run)):23]
    return f"{np.square(later).mean() ** 0.5:.2f}"

# %%
COLUMNS = {"first step with a mean below zero": crossing,
           "root mean square of the later means": swing}
pd.DataFrame({name: [", ".join(map(f, record[method])) for method in METHODS]
              for name, f in COLUMNS.items()}, METHODS).rename_axis("seeds 0, 1, 2", axis=1)

# %% [markdown]
# At $10^{-3}$ and above the mean crosses zero at step 3 or 4. At $10^{-4}$ it takes 14 to 19 steps.
# After that its usual distance from zero is .1 to .7 (last column). A mean of 16 pairs scatters by
# $\mathrm{sd}(s)/4$ even where the level is zero: at $10^{-3}$ by .17 (next table).
#
# <details><summary>Answer</summary>
#
# No, by one step at most. Clipping and AdamW would explain it: a larger $\lambda$ adds length, and
# they take length away. (No run without clipping is shown.) Seed 0's first gradient is 1.2 long at
# $10^{-3}$, 112 at $10^{-1}$ (`train/grad_norm`). Clipping cuts both to 1. At $10^{-4}$ BT's
# gradient is the longer one (Section 10).
# </details>

# %% [markdown]
# *Then the spread.* BSR also wants pair means close together. But in a model that has learned
# less, rewards merely differ less. Then $\mathrm{sd}(s)$ is small, and so is the margin (here the
# mean of all $m$). We therefore compare the two.
#
# The table's last column divides them, as a multiple of BT's quotient in the same seed. Below 1 the
# spread has shrunk by more than the margin.

# %%
def point(runs, first, last):
    """Margin and sd(s), mean of the batches of some steps.  Shapes: -> (2, seeds)."""
    margin, variance = (np.array([course(run, key)[first - 1:last].mean() for run in runs])
                        for key in ("train/margin", "bsr/variance_term"))
    return np.stack([margin, variance**0.5])


ends = {name: point(record[name], 17, 23) for name in ("bt", "bsr-1e-3", "bsr-1e-2", "bsr-1e-1")}
bt_ratio = ends["bt"][1] / ends["bt"][0]
rows = [["{:.2f} ± {:.2f}".format(*seed_interval(x))
         for x in (*both, both[1] / both[0] / bt_ratio)] for both in ends.values()]
pd.DataFrame(rows, list(ends), ["margin", "sd(s)", "sd(s) / margin, BT's = 1"]).rename_axis(
    "steps 17 to 23, three seeds, ± 95%", axis=1)

# %%
# drawing only
figure, axis = plots.panels(1)
TINTS |= {"bsr-1e-2": "#8A1020", "bsr-1e-1": "#45060E"}
axis.plot([0, 0.45], [0, 0.45 * ends["bt"][1].mean() / ends["bt"][0].mean()], "--", color="0.6")
axis.annotate("on the dashed line both shrink alike", (0.04, 0.5), color="0.4")
axis.annotate("below it the spread shrinks by more", (0.22, 0.2), color="0.4")
for (name, (margin, sd)), move, mark in zip(ends.items(), (0.02, -0.07, -0.06, -0.04), "osD^",
                                            strict=True):
    axis.plot(margin, sd, mark, color=TINTS[name])
    axis.annotate(name.replace("bt", "BT").replace("bsr-", "λ = "),
                  (margin.mean() + 0.035, sd.mean() + move), color=TINTS[name])
axis.set(xlim=(0, 0.45), ylim=(0, 0.9))
plots.label(axis, "margin (reward units)", "sd(s) (reward units)",
            "Steps 17 to 23, a mark a seed: a larger λ lowers sd(s), but the margin with it")

# %% [markdown]
# **What to see.** $\mathrm{sd}(s)$ itself falls, at $10^{-1}$ to a third of BT's. But the margin
# falls as far, and at $10^{-1}$ further: there the marks lie above the dashed line. At $10^{-3}$
# both end close to BT's.
#
# Has the spread's term acted at the larger $\lambda$, or has the model only learned less?

# %% [markdown]
# A longer study takes the terms apart (`data/runs/study_terms`: four seeds, 65 steps).
# - *Level alone*: BSR's loss at $10^{-2}$, minus $\lambda$ times the variance of the batch's pair
#   means. What is left of the penalty is $\lambda G\mu_s^2$ on average (Section 2).
#   (A control only: its loss has no bound below where pairs come again, `losses.level_penalty`.)
# - *Spread alone*: $L_{BT} + \lambda\,\mathrm{Var}(s)$ at $10^{-1}$.
#
# **Predict**: early on BSR's margin is below BT's. Which of its terms does that? At the end,
# does the spread's term lower only $\mathrm{sd}(s)$, or the margin too?

# %%
def over(ours, other):
    """Ours over the other's, paired by seed.  Shapes: -> (4, seeds)."""
    early = point(ours, 7, 16)[0] / point(other, 7, 16)[0]
    margin, sd = point(ours, 59, 65) / point(other, 59, 65)
    return np.stack([early, margin, sd, sd / margin])


terms = read_runs(Path("data/runs/study_terms"))
bt, bsr, level = (terms[name] for name in ("bt", "bsr-1e-2", "level-1e-2"))
ratios = {"BSR\nover BT": over(bsr, bt), "level alone\nover BT": over(level, bt),
          "BSR over\nlevel alone": over(bsr, level), "spread alone": over(terms["spread-1e-1"], bt)}

# %%
# drawing only
figure, axes = plots.panels(2, width_ratios=(1, 1.4))
early, in_bsr, alone = [x[0] for x in ratios.values()][:3], *list(ratios.values())[2:]
SERIES = [(axes[0], i, early[i], plots.COLORS[name], "o")
          for i, name in enumerate(("bsr", "level", "spread"))]
for i in range(3):
    SERIES += [(axes[1], i - 0.2, in_bsr[i + 1], plots.COLORS["spread"], "o"),
               (axes[1], i + 0.25, alone[i + 1], "#00423B", "s")]
for axis, y, values, tint, marker in SERIES:
    mean, half = seed_interval(values)
    axis.errorbar(mean, y, xerr=half, fmt=marker, color=tint, capsize=3)
    axis.annotate(f"{mean:.2f} ± {half:.2f}", (mean, y), (0, 7), ha="center", color=tint,
                  textcoords="offset points", fontsize=8,
                  bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5})
for axis in axes:
    axis.axvline(1, color="black", linewidth=0.8, zorder=0)
axes[0].set(xlim=(-0.05, 1.2), ylim=(2.5, -0.6))
axes[0].set_yticks(range(3), list(ratios)[:3])
axes[1].set(xlim=(0.3, 1.1), ylim=(3.2, -0.6))
axes[1].set_yticks(range(3), ["margin", "sd(s)", "sd(s) / margin"])
axes[1].legend(axes[1].containers[:2], ["in BSR at 1e-2: BSR over level alone",
                                        "alone at 1e-1: over BT"], loc="lower left", fontsize=8)
WHERE = "ratio within a seed, mean of four, 95% interval"
plots.label(axes[0], WHERE, "", "λ = 1e-2, margin of steps 7 to 16:\nthe slow start is the level's")
plots.label(axes[1], WHERE, "", "The spread's term, steps 59 to 65:\nit lowers margin and sd(s)")

# %% [markdown]
# <details><summary>Answer</summary>
#
# The level's: early on BSR's margin over level alone's is 1.00 ± .02 (lowest row on the left). At
# the end the spread's term lowers both.
# </details>
#
# **What to see.** Does $\mathrm{sd}(s)$ fall by more than the margin? The lowest row on the right
# answers: their ratio. *In BSR* (dots) it is .99 ± .02, so there is no sign of that. The spread's
# term takes 8% off both.
#
# *Alone at ten times the weight* (squares) it takes a third off the margin and two fifths off
# $\mathrm{sd}(s)$. Here the ratio's interval ends at 1, so the question is open.

# %% [markdown]
# So these runs do not show that BSR draws pair means together by more than it shrinks margins. (No
# rule chose the steps. Not shown: BSR at $10^{-3}$, and spread alone at 1.)
#
# Two controls. Does the spread's term alone, at the *same* weight, take off as much as in BSR? And
# does BSR *as a whole* differ from BT?

# %%
for name, x in (("spread alone", over(terms["spread-1e-2"], bt)), ("BSR", ratios["BSR\nover BT"])):
    print(f"{name} at 1e-2 over BT, steps 59 to 65:", "margin {:.2f} ± {:.2f}, sd(s) {:.2f} ± "
          "{:.2f}".format(*seed_interval(x[1]), *seed_interval(x[2])))

# %% [markdown]
# The first: about as much. The second is undecided.

# %% [markdown]
# *And the ranking?* The shorter record compares four $\lambda$ with BT on six test sets
# (`data/runs/study_lambda/results.md`). We call a difference *decided* when its 95% interval
# excludes zero. Of 24 differences six are decided; by chance it would be about one. All six are
# losses: BSR's rewards order the answers to a prompt less well.
#
# Two are at $10^{-3}$: $-.04$ and $-.05$ in tau, where BT's is about .3. Four are at larger
# $\lambda$: $-.12$ to $-.21$. The longer study has more data, but ran BSR at $10^{-3}$ and
# $10^{-2}$ only. It decides none (`data/runs/study_terms/results.md`).

# %% [markdown]
# ### Exercise 3
#
# *Exact BSR under accumulation.* `parts` is a list of micro-batches of different sizes. Each
# is a tuple of hidden states (chosen, rejected), (b, H) each. The network is
# `rewards(hidden, head)`, (b, H) to (b,). It is not linear, and there is room for the graph of one
# micro-batch at a time. Return the gradient on the head, (H,), of $L_{BT} + \lambda\,$BSR of the
# *whole* batch, as one group. Then think: what would dropout in `rewards` change?
#
# <details><summary>Hint</summary>
#
# The loss needs numbers, the network needs graphs: not at the same time.
# </details>

# %%
def accumulated_gradient(rewards, parts, head_weight, bsr_lambda):
    return None


checks.check_accumulated_gradient(accumulated_gradient);

# %% [markdown]
# ### Exercise 4
#
# *Where the terms cross.* Take Section 2's mean penalty of a group drawn without replacement from
# $N$ pairs, of level $\mu_s$ and spread $\mathrm{Var}(s)$. At which group size do its two terms
# cost the same? Return a real number. For $N \to \infty$ it is $\mathrm{Var}(s)/\mu_s^2$.
#
# <details><summary>Hint</summary>
#
# Which of the two terms knows about $N$?
# </details>

# %%
def crossing_group_size(mean, variance, n):
    return None


checks.check_crossing_group_size(crossing_group_size);
