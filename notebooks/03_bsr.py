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
# Bradley-Terry (BT) sees differences of rewards only. A shift $c(x)$ of all rewards of a prompt
# changes nothing (notebook 01). So nothing in the loss says where the rewards as a whole should
# lie. **Batch-wise sum-to-zero regularization (BSR)** adds one term that does. The paper's claim:
# it calms the dispersion of hidden states (notebook 02) and makes reward models more robust.

# %% [markdown]
# After it you can
# - derive what the penalty does on average, and check it by simulation;
# - say how one push for a whole group can shrink the spread between pairs;
# - say which of the usual measures cannot see its direct effect;
# - say why a micro-batch's own mean is another regularizer;
# - judge what a $\lambda$ weighs, and find that in a recorded run.

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
from bsr_lite.config import load_config
from bsr_lite.course import checks
from bsr_lite.metrics import kendall_tau_b, seed_interval
from bsr_lite.studies.records import read_runs

torch.manual_seed(0);

# %% [markdown]
# Three recorded runs of BT, to look at first (`data/runs/study_lambda`: the embedded language
# model, ten layers, LoRA, 24 steps of 16 pairs; a seed decides the head and the order of pairs).

# %%
RUNS = Path("runs" if PROFILE == "full" else "data/runs")
if PROFILE == "full":  # trains what "fast" reads; finished runs are read back
    from bsr_lite.studies.reward_models import run_study
    run_study(Path("bsr_lite/configs/study_lambda.yaml"))
record = read_runs(RUNS / "study_lambda")  # {method: one run a seed}


def course(run, key):
    """A number of every step's batch.  Shapes: -> (steps,)."""
    return np.array([row[key] for row in run["metrics"] if key in row])


pd.DataFrame([{"seed": run["seed"], "mean reward, step 1": course(run, "train/reward_mean")[0],
               "steps 17 to 24": course(run, "train/reward_mean")[16:].mean(),
               "mean margin, steps 17 to 24": course(run, "train/margin")[16:].mean()}
              for run in record["bt"]]).set_index("seed").round(2)

# %% [markdown]
# BT asks for margins. The mean reward starts where the random head put it, and rises in each of the
# three seeds, by several times the margin. Nothing in the loss asked for that, and nothing holds
# it back.
#
# ## 1. The penalty
#
# A **group** is a set of $G$ pairs, so $2G$ rewards $r_j$ with the mean $\bar r$. BSR wants their
# sum to be zero (Eq. 24, 25, with the scale of the official code):
#
# $$L_{BSR} = L_{BT} + \lambda\,G\,\bar r^{\,2}, \qquad
# \bar r = \frac{1}{2G}\sum_{j=1}^{2G} r_j.$$
#
# A batch of $B$ pairs is cut into $B/G$ groups whose penalties are averaged; by default it is one
# group (`bsr_group_size`). *Deviation:* in the official code a group is whatever one device
# computes at a time.

# %%
def bsr_penalty(rewards_chosen, rewards_rejected):
    rewards = torch.cat([rewards_chosen, rewards_rejected])  # (2G,)
    return len(rewards_chosen) * rewards.mean() ** 2


w, l = torch.tensor([3.0, 1.0]), torch.tensor([-1.0, 1.0])
print("rewards", w.tolist(), l.tolist(), "mean 1, G = 2: penalty", bsr_penalty(w, l).item())
assert bsr_penalty(w, l) == 2, "G times the squared mean: 2 * 1^2"
assert bsr_penalty(w - 1, l - 1) == 0, "a batch that sums to zero pays nothing"
w, l = torch.randn(2, 64)
torch.testing.assert_close(losses.bsr_penalty(w, l), bsr_penalty(w, l))

# %% [markdown]
# ## 2. Two readings of one term
#
# *First reading*: the group sums to zero. True, but groups are drawn at random, and no one cares
# about one of them. What does the penalty want **on average**? Call $s_i = (r_{w,i} +
# r_{l,i})/2$ the **pair mean**. Over all pairs it has a mean $\mu_s$, the **level**, and a
# variance $\mathrm{Var}(s)$, the **spread**. A group's $\bar r$ is the mean of $G$ pair means, and
# the expectation of a square is the squared expectation plus the variance:
#
# $$E\bigl[G\,\bar r^{\,2}\bigr] = G\,\Bigl(\mu_s^2 + \frac{\mathrm{Var}(s)}{G}\Bigr)
# = G\,\mu_s^2 + \mathrm{Var}(s).$$
#
# *Second reading*: **hold the level at zero** with a weight that grows with $G$, and **shrink the
# spread** with a weight that does not depend on $G$.

# %% [markdown]
# The spread has two sources: prompts are shifted (the $c(x)$ of notebook 01), and some prompts
# simply have better answers than others. BSR cannot tell them apart, and the second is honest
# quality.
#
# Small print: an epoch draws *without* replacement. From $N$ pairs the variance of a group's mean
# is then smaller by the factor $(N - G)/(N - 1)$.
#
# **Predict** the penalty when the group is the whole data, $G = N$.

# %%
N, mu = 256, 0.5
s = torch.randn(N, dtype=torch.float64) * 1.4
s = s - s.mean() + mu  # pair means with a known mean and variance
variance = s.var(correction=0).item()
sizes = [1, 4, 16, 64, 128, 256]
simulated = []
for G in sizes:
    drawn = torch.stack([s[torch.randperm(N)[:G]] for _ in range(4000)])  # without replacement
    simulated.append((G * drawn.mean(1) ** 2).mean().item())
exact = [G * mu**2 + variance * (N - G) / (N - 1) for G in sizes]
torch.testing.assert_close(torch.tensor(simulated), torch.tensor(exact), rtol=0.06, atol=0.0)
assert abs(simulated[-1] - exact[-1]) < 1e-9, "the formula must be exact where nothing is drawn"

# %%
figure, axis = plots.panels(1)
grid = torch.logspace(0, 8, 200, base=2)
level, spread = grid * mu**2, variance * (N - grid) / (N - 1)
axis.loglog(grid, level + spread, color=plots.COLORS["bsr"])
axis.loglog(sizes, simulated, "o", color=plots.COLORS["bsr"])
axis.loglog(grid, level, ":", color=plots.COLORS["level"])
axis.loglog(grid, spread, "--", color=plots.COLORS["spread"])
axis.annotate("penalty: line by the formula,\ndots from 4000 groups", (1.3, 3.2))
axis.annotate("level: $G\\mu_s^2$", (45, 6), color=plots.COLORS["level"])
axis.annotate("spread: $\\mathrm{Var}(s)\\,(N-G)/(N-1)$", (10, 1.05), color=plots.COLORS["spread"])
axis.set_ylim(0.15, 100)
plots.label(axis, "group size G (pairs)", "penalty (squared reward units)",
            "Small groups pay for the spread, large ones for the level")

# %% [markdown]
# **What to see.** In small groups the spread rules, and at $G = 1$ the penalty is exactly the mean
# squared pair mean. In large groups the level rules. The terms cross at $G =
# \mathrm{Var}(s)/\mu_s^2$, here about 7. With a smaller level the crossing moves right, and the
# spread is what remains to be paid for.
#
# *The group size is not a detail of the implementation. It sets the ratio of two different
# regularizers.*
#
# <details><summary>Answer</summary>
#
# $N\mu_s^2$. There is only one such group, so its mean does not vary: no spread term is left.
# </details>

# %% [markdown]
# ## 3. The gradient: one number for everyone
#
# $$\frac{\partial}{\partial r_j}\,\lambda\,G\,\bar r^{\,2} = \lambda\,G\cdot 2 \bar r \cdot
# \frac{1}{2G} = \lambda\,\bar r \qquad\text{for every } j.$$
#
# The same push on all, whatever $r_j$ is. The paper words it as a force proportional to $r(x,
# y)$; that would be an L2 penalty on rewards. The difference is plain for an answer far *below*
# zero in a batch whose mean is above.
#
# **Predict**: the batch has mean $+1$, one answer has $r = -4$. Which way does BSR push it?

# %%
w = torch.tensor([4.0, 3.0, -1.0], requires_grad=True)
l = torch.tensor([2.0, 2.0, -4.0], requires_grad=True)
losses.bsr_penalty(w, l).backward()
print("mean reward", (torch.cat([w, l]).mean()).item())
print("gradient of BSR  chosen", w.grad.tolist(), " rejected", l.grad.tolist())
assert torch.allclose(torch.cat([w.grad, l.grad]), torch.ones(6)), (
    "the gradient of the penalty must be the batch mean, for every response")
assert torch.equal(w.grad, l.grad), "as free numbers, BSR never moves a pair's margin"

# %% [markdown]
# <details><summary>Answer</summary>
#
# Down, below $-4$: away from zero, with everyone else.
# </details>
#
# In one group, then, all rewards move together, and no difference between pairs changes. Section 2
# says that the spread shrinks all the same. How can a common push do that? Groups are drawn anew
# at every step. A pair with a high mean lifts the mean of every group that it is in, so it is
# pushed down by more than others. In a batch of $B/G$ groups a reward is pushed by
# $\lambda\,\bar r\,G/B$, on average (without replacement, from $N$ pairs) by
#
# $$\frac{\lambda}{B}\Bigl(G\,\mu_s + \frac{N-G}{N-1}\,(s_i - \mu_s)\Bigr).$$

# %% [markdown]
# <details><summary>Why?</summary>
#
# Given that pair $i$ is in the group, the other $G - 1$ pairs have the mean $(N\mu_s - s_i)/(N-1)$
# on average. So $E[\bar r \mid i] = \frac{s_i}{G} + \frac{G-1}{G}\cdot\frac{N\mu_s - s_i}{N-1}$.
# Multiply by $\lambda G/B$ and collect $s_i - \mu_s$.
# </details>
#
# The two terms of Section 2 again: a height that grows with $G$, and a slope in $s_i$ that does
# not.
#
# **Predict** the slopes in $s_i$ for $G = 1$, $G = 16$ and $G = N$: which is steepest?

# %%
pushes, orders = {}, torch.rand(10_000, N).argsort(1)  # 10,000 epochs, each in its own order
for G in (1, 4, 16, 64, 256):  # all pairs in groups of G
    push = G * s[orders].view(len(orders), -1, G).mean(2, keepdim=True)  # times lambda / B
    total = torch.zeros(N, dtype=torch.float64)
    total.index_add_(0, orders.flatten(), push.expand(-1, -1, G).flatten())
    pushes[G] = total / len(orders)  # (N,)
rows = []
for G, push in pushes.items():
    slope = (push @ (s - mu) / ((s - mu) @ (s - mu))).item()
    rows.append([G, push.mean().item(), G * mu, slope, (N - G) / (N - 1)])
    assert abs(slope - (N - G) / (N - 1)) < 0.05, "the push on the spread must not fall as 1 / G"
pd.DataFrame(rows, columns=["G", "height (mean over pairs)", "formula: G mu_s", "slope in s_i",
                            "formula: (N - G) / (N - 1)"]).set_index("G").round(2)

# %%
figure, axes = plots.panels(2)
order = s.argsort()
for push, style in zip(pushes.values(), ("-", "--", "-.", (0, (4, 1)), ":"), strict=True):
    axes[1].plot(s[order], (push - push.mean())[order], linestyle=style, linewidth=1.2,
                 color=plots.COLORS["spread"])
axes[0].loglog(list(pushes), [p.mean() for p in pushes.values()], "o-", color=plots.COLORS["level"])
for text, place in (("G = 1, 4, 16:\none line", (-2.7, 0.4)), ("G = 64", (2.7, 1.0)),
                    ("G = N = 256", (1.9, -0.7))):
    axes[1].annotate(text, place)
plots.label(axes[0], "group size G (pairs)", "mean push down, times $B/\\lambda$ (reward units)",
            "On the level: grows with G")
plots.label(axes[1], "mean $s_i$ of a pair (reward units)",
            "push minus its mean over pairs", "On the spread: the same until G nears N")

# %% [markdown]
# **What to see.** The level is pushed in proportion to $G$; the spread by the same line at $G = 1$,
# 4 and 16. One group in one step pushes all its pairs alike. The line is an average over many
# groups, and in large groups it lies under much noise: one group's push scatters by
# $\sqrt G\,\mathrm{sd}(s)$.
#
# <details><summary>Answer</summary>
#
# $G = 1$ and $G = 16$ have nearly the same slope. At $G = N$ all pairs are in one group: no slope,
# only the push on the level is left.
# </details>

# %% [markdown]
# As free numbers rewards keep their margins. But rewards come from shared weights. For a linear
# head with mean hidden state $\bar h$ the gradient of the penalty is $2\lambda G\,\bar r\,\bar h$.
# A step against it changes the margin of every pair whose $h_w - h_l$ is not orthogonal to
# $\bar h$.
#
# **Predict**: chosen states have a little more of the common direction $\bar h$ than rejected ones,
# and the mean reward is positive. Do the gradients of BT and of BSR help or oppose each other?

# %%
rows = []
for lift in (0.3, 0.0, -0.3):  # of the common direction, chosen answers have more, as much, less
    cosines = []
    for _ in range(200):
        h_w, h_l = torch.randn(2, 16, 32) + 1.0  # hidden states share a mean direction
        h_w = h_w + lift
        W = (0.1 * torch.rand(32)).requires_grad_()  # all positive: so is the mean reward
        (g_bsr,) = torch.autograd.grad(losses.bsr_penalty(h_w @ W, h_l @ W), W)
        (g_bt,) = torch.autograd.grad(losses.bt_loss(h_w @ W, h_l @ W), W)
        mean_hidden = torch.cat([h_w, h_l]).mean(0)
        torch.testing.assert_close(g_bsr, 2 * 16 * (mean_hidden @ W) * mean_hidden)
        cosines.append(torch.cosine_similarity(g_bt, g_bsr, dim=0).item())
    mean, half = seed_interval(cosines)
    negative = np.mean(np.array(cosines) < 0)
    rows.append([f"{lift:+.1f}", f"{mean:+.2f} ± {half:.2f}", f"{negative:.0%}"])
pd.DataFrame(rows, columns=["chosen states' lift along the common direction",
                            "cosine of both gradients, mean ± 95%", "negative in"])

# %% [markdown]
# With a lift the two gradients oppose each other in every draw; with a negative lift BSR helps BT.
# Without a lift the sign varies from draw to draw. (Its mean is slightly positive: BT itself
# shrinks a head that fits noise.) So BSR never looks at a margin, and yet it moves margins. A
# negative mean reward would turn BSR's push around.

# %% [markdown]
# ## 4. What no comparison within a prompt can see
#
# Take an *idealised* BSR that takes away each prompt's mean reward: the shift $c(x)$, and with it
# the honest difference between prompts.
#
# **Predict** which of these change: the penalty, the BT loss, tau within prompts, best-of-4, **RLOO
# advantages**, and tau pooled over prompts. (REINFORCE leave-one-out, the RL method of the paper:
# an answer's advantage is its reward minus the mean reward of the *other* answers to the prompt.)

# %%
def advantages(r):
    others = (r.sum(1, keepdim=True) - r) / (r.shape[1] - 1)
    return r - others


def world():
    """Gold of 200 prompts with 4 answers, and four reward models."""
    gold = torch.rand(200, 1, dtype=torch.float64) + torch.rand(200, 4) - 1  # prompt's + answer's
    noise, c = 0.3 * torch.randn(200, 4), 2 * torch.randn(200, 1) + 1
    raw = gold + noise + c
    return gold, {"raw: gold + noise + c(x)": raw, "prompt mean away": raw - raw.mean(1, True),
                  "only c(x) away": raw - c, "control: a third of the noise": gold + noise / 3 + c}


MEASURES = {"BSR penalty": lambda r, gold: losses.bsr_penalty(r[:, 0], r[:, 1]).item(),
            "BT loss": lambda r, gold: losses.bt_loss(r[:, 0], r[:, 1]).item(),
            "tau within prompts": lambda r, gold: kendall_tau_b(r, gold).mean(),
            "best-of-4: gold": lambda r, gold: gold.gather(1, r.argmax(1, True)).mean().item(),
            "RLOO: mean |advantage|": lambda r, gold: advantages(r).abs().mean().item(),
            "tau pooled": lambda r, gold: kendall_tau_b(r.ravel(), gold.ravel()).item()}

# %%
found: dict = {}
for _ in range(20):  # worlds
    gold, models = world()
    raw, away, *_ = models.values()
    torch.testing.assert_close(advantages(raw), advantages(away), msg="RLOO must not see c(x)")
    for name, r in models.items():
        for measure, f in MEASURES.items():
            found.setdefault(name, {}).setdefault(measure, []).append(f(r, gold))
pd.DataFrame({name: {measure: "{:.2f} ± {:.2f}".format(*seed_interval(values))
                     for measure, values in cells.items()} for name, cells in found.items()})

# %% [markdown]
# (Means over 20 worlds, ± 95%.) The control shows that the other measures can move: with less
# noise within prompts they do.
#
# <details><summary>Answer</summary>
#
# Only the penalty and pooled tau. Whatever compares answers of one prompt is blind. Pooled tau
# gains most when only $c(x)$ goes; taking the whole prompt mean costs a part of that gain, the
# honest part.
# </details>
#
# So a shift alone cannot gain anything on tau within prompts, best-of-n or RLOO. **What BSR gains
# there must come through shared weights**, by changing what the network learns.

# %% [markdown]
# Controls that tell mechanism from side effect follow from this. *Pooled tau*: BT, centred per
# prompt afterwards. *RLOO*: BT, rescaled so that rewards within a prompt scatter as much as BSR's,
# since a smaller reward acts like a larger KL weight. (KL: the penalty that keeps the policy near
# its start, notebook 08.) *Tau and best-of-n*: neither trick can change anything, so the controls
# are other trained penalties (Section 6).

# %% [markdown]
# ## 5. A micro-batch's own mean is another regularizer
#
# A large batch is computed in parts, **micro-batches**, whose gradients are averaged. For a mean
# over pairs that is right. A squared mean is not additive: $(\tfrac{a+b}{2})^2 \neq \tfrac12
# (a^2 + b^2)$. Penalizing each part's own mean, as a loss inside a standard trainer does, is BSR
# with a smaller group: another ratio of level and spread (Section 2), which changes with your
# memory size.
#
# **Predict**: four micro-batches, each with its own mean. Does four times the $\lambda$ repair
# it: far from zero? With the mean at zero?

# %%
B, lam = 32, 0.1
parts = [slice(i, i + 8) for i in range(0, B, 8)]  # 4 micro-batches of 8 pairs


def objective(head, h_w, h_l, factor=1):
    r_w, r_l = h_w @ head, h_l @ head
    return losses.bt_loss(r_w, r_l) + factor * lam * losses.bsr_penalty(r_w, r_l)


def naive(head, h_w, h_l, factor=1):
    return sum(objective(head, h_w[p], h_l[p], factor) for p in parts) / 4


def gradient(loss, head, *rest):
    head = head.clone().requires_grad_()
    return torch.autograd.grad(loss(head, *rest), head)[0]

# %%
errors: dict = {}
for _ in range(20):  # batches and heads
    h_w, h_l = torch.randn(2, B, 24, dtype=torch.float64) + 0.5
    W, common = torch.randn(24, dtype=torch.float64) / 5, torch.cat([h_w, h_l]).mean(0)
    for mean in (1.0, 0.0):  # the same head, moved along the mean state to this mean reward
        head = W + common * (mean - W @ common) / (common @ common)
        right = gradient(objective, head, h_w, h_l)
        for factor in (1, 4):
            wrong = gradient(naive, head, h_w, h_l, factor) - right
            errors.setdefault(f"lambda times {factor}", {}).setdefault(
                f"mean reward {mean:.0f}", []).append((wrong.norm() / right.norm()).item())
pd.DataFrame({factor: {where: "{:.2f} ± {:.2f}".format(*seed_interval(values))
                       for where, values in cells.items()} for factor, cells in errors.items()})

# %% [markdown]
# (Error of the naive gradient over the length of the right one; mean of 20 draws, ± 95%.)
#
# <details><summary>Answer</summary>
#
# Far from zero it looks like a repair: only the level counts there, and its weight $\lambda G$ is
# right again. With the mean at zero the error is four times as large as without the repair: four
# times the weight on the spread. No $\lambda$ mends both.
# </details>

# %% [markdown]
# **The exact way** uses that the loss depends on the network only through $2B$ numbers:
# 1. all rewards, part by part, *without* a graph;
# 2. the loss of the whole batch and its gradient $\partial L/\partial r$: cheap, no network;
# 3. each part again, *with* a graph, backward from its slice of $\partial L/\partial r$.
#
# It costs one more forward pass and is exact for any loss, as long as both passes compute the same
# numbers (no dropout). `train_rm` does this, and you will in Exercise 4. Here step 2, and for a
# linear head all of step 3 in one line. Several processes have the same problem: notebook 10.

# %%
rewards = torch.stack([h_w @ head, h_l @ head]).requires_grad_()  # (2, B), numbers only
(push,) = torch.autograd.grad(
    losses.preference_loss("bsr", *rewards, bsr_lambda=lam), rewards)  # (2, B)
torch.testing.assert_close(push[0] @ h_w + push[1] @ h_l, right,
                           msg="dL/dr and the states must give the whole batch's gradient")

# %% [markdown]
# ## 6. The family: forces on margin and pair mean
#
# For one pair with the **margin** $m = r_w - r_l$ and the pair mean $s$:
#
# - **BT**: $-\log\sigma(m)$; **BSR**, groups of one: $L_{BT} + \lambda s^2$;
# - **centering**: $L_{BT} + \kappa\,(r_w + r_l)^2 = L_{BT} + 4\kappa\,s^2$;
# - **L2** on rewards: $L_{BT} + \lambda\,(r_w^2 + r_l^2)/2 = L_{BT} + \lambda\,(s^2 + m^2/4)$.
#
# The paper also compares (Sec. 4.3) **Hinge**, $\max(0, 2 - m)$; **Norm**,
# $-\log\sigma\bigl(m / \sqrt{r_w^2 + r_l^2}\bigr)$; and **DR**, $L_{BT} - \log\sigma(r_w) -
# \log\sigma(-r_l)$.
#
# **Predict**: which of the seven leave $s$ alone? Which one can push $s$ *away* from zero?

# %%
OBJECTIVES = {"bt": {}, "bsr": {"bsr_lambda": 0.15}, "centering": {"centering_coefficient": 0.0375},
              "l2": {"l2_coefficient": 0.15}, "hinge": {"target_margin": 2.0}, "norm": {}, "dr": {}}


def force(kind, m, s):
    """Downhill of a pair's loss in (m, s).  Shapes: (n,), (n,) -> (n,), (n,)."""
    m, s = (torch.as_tensor(x, dtype=torch.float64).requires_grad_() for x in (m, s))
    values = [losses.preference_loss(kind, (y + x / 2)[None], (y - x / 2)[None],
                                     **OBJECTIVES[kind]) for x, y in zip(m, s, strict=True)]
    return torch.autograd.grad(-sum(values), (m, s), allow_unused=True, materialize_grads=True)


rows = {kind: [f for pair in zip(*force(kind, [3.0, -1.0], [1.0, 1.0]), strict=True)
               for f in pair] for kind in OBJECTIVES}
assert rows["bsr"] == rows["centering"], "4 kappa = lambda: one and the same function of a pair"
table = pd.DataFrame(rows, ["right order, far apart (m = 3): force on m", "on s = 1",
                            "wrong order (m = -1): force on m", "on s = 1 "]).T
table.astype(float).round(2) + 0.0

# %%
figure, axes = plots.panels(3, sharex=True, sharey=True)
m, s = (x.flatten() for x in torch.meshgrid(torch.linspace(-2, 6, 9), torch.linspace(-4, 4, 9),
                                            indexing="ij"))
TITLES = {"bt": "BT: the pair mean is free",
          "bsr": "BSR (groups of one), centering:\npull to s = 0",
          "l2": "L2: pulls on a large margin, too"}
for axis, (kind, title) in zip(axes, TITLES.items(), strict=True):
    f_m, f_s = force(kind, m, s)
    motion = torch.stack([2 * f_m, f_s / 2])  # what a step on (r_w, r_l) does to (m, s)
    axis.axhline(0, color="black", linewidth=0.8)
    axis.quiver(m, s, *motion, color=plots.COLORS[kind], angles="xy", scale_units="xy", scale=1.2,
                width=0.006)
    plots.label(axis, "margin $m$ (reward units)", "", title)
axes[0].set_ylabel("pair mean $s$ (reward units)");

# %% [markdown]
# **What to see.** An arrow is a step of gradient descent on $(r_w, r_l)$. BT moves the margin
# alone, ever more weakly. BSR adds a pull to $s = 0$ that is the same at every margin; for one pair
# centering is the same function. L2 pulls $s$ alike, and large margins back. ($\lambda$ is large
# here, to be visible.)
#
# <details><summary>Answer</summary>
#
# BT and Hinge leave $s$ alone. Norm pushes $s$ away from zero for a pair in the wrong order: more
# length makes its wrong direction count less.
# </details>

# %% [markdown]
# With more than one pair, centering and BSR separate. Centering averages $4 s_i^2$: always
# $4\kappa\,(\mu_s^2 + \mathrm{Var}(s))$. BSR is $\lambda\,(G\mu_s^2 + \mathrm{Var}(s))$. **The same
# two terms, another ratio**: 1 to 1 against $G$ to 1.

# %%
r_w, r_l = torch.randn(2, 4096, dtype=torch.float64) * 2 + 0.7
pair_means = (r_w + r_l) / 2
mean, spread = pair_means.mean(), pair_means.var(correction=0)
torch.testing.assert_close(losses.centering_penalty(r_w, r_l), 4 * (mean**2 + spread))
torch.testing.assert_close(losses.bsr_penalty(r_w, r_l, 1), mean**2 + spread)  # groups of one
pd.DataFrame([[G, losses.bsr_penalty(r_w, r_l, G).item(), (G * mean**2 + spread).item()]
              for G in (1, 16, 128)], columns=["G", "BSR of 4,096 pairs, cut into groups once",
                                               "G mu_s^2 + Var(s)"]).set_index("G").round(2)

# %% [markdown]
# At $G = 1$ exactly; else one way to cut differs from the average over all ways by a little.
#
# ## 7. How heavy is $\lambda$?
#
# Compare the pushes on *one reward*. BT gives $\sigma(-m)/B$, about $\tfrac{1}{2B}$ early on. BSR
# gives $\lambda\,\bar r\,G/B$ (Section 3). The ratio does not depend on $B$, but on the group:
#
# $$\frac{\lambda\,\bar r\,G/B}{1/(2B)} = 2\,\lambda\,G\,\bar r .$$
#
# **A $\lambda$ means little without its group size.** At the start $\bar r$ may well be 1 or 2 (the
# first table). With the level at zero, what is left is the scatter of group means,
# $\mathrm{sd}(s)/\sqrt G$. That push changes its sign from group to group; only its slope in $s_i$
# stays on average.

# %%
LAMBDAS = (1e-4, 1e-3, 1e-2, 1e-1)
rows = {f"G = {G}, {when}": [f"{2 * x * G * mean:.1%}" for x in LAMBDAS]
        for G in (16, 128)  # our runs and the official 8B recipe; the paper's batch as one group
        for mean, when in ((1.0, "mean 1"), (G**-0.5, "level 0, sd(s) = 1"))}
r = torch.ones(64, requires_grad=True)  # check the formula at G = 32, lambda = 1e-3, mean 1
(bsr_push,) = torch.autograd.grad(1e-3 * losses.bsr_penalty(r[:32], r[32:]), r)
(bt_push,) = torch.autograd.grad(losses.bt_loss(r[:32], r[32:]), r)
ratio = (bsr_push / bt_push.abs())[0].item()
assert abs(ratio - 2 * 1e-3 * 32) < 1e-6, "the ratio must be 2 lambda G times the mean"
pd.DataFrame(rows, index=[f"BSR's push over BT's, lambda {x:g}" for x in LAMBDAS]).transpose()

# %% [markdown]
# So at the paper's default $\lambda = 10^{-3}$ and $G = 16$ BSR is a 3% correction? Per reward,
# yes. On shared weights pushes add up, or cancel. Measure it: the gradients on the head of a real
# model, 16 pairs, before the first step.

# %%
from bsr_lite.batching import pack
from bsr_lite.models import load_reward_model
from bsr_lite.scenarios import load_scenarios
from bsr_lite.tokenization import pair_tokens

config = load_config("bsr_lite/configs/rm_fast.yaml", overrides=["data.max_pairs=96"])
model = load_reward_model(config.model.name, depth=10, seed=0)
pairs, _ = pair_tokens(load_scenarios(config).train, model.tokenizer, config.data.max_length)
with torch.no_grad():
    hidden, _ = model.last_hidden(pack(pairs[:16]).to(model.device))
h_w, h_l = hidden.cpu()[0::2], hidden.cpu()[1::2]  # (16, 576) each
W = model.head_weight.detach().cpu().clone().requires_grad_()
del model

# %%
mean_hidden, margin_direction = torch.cat([h_w, h_l]).mean(0), (h_w - h_l).mean(0)
r_w, r_l = h_w @ W, h_l @ W
(g_bt,) = torch.autograd.grad(losses.bt_loss(r_w, r_l), W, retain_graph=True)
(g_bsr,) = torch.autograd.grad(1e-3 * losses.bsr_penalty(r_w, r_l), W)
one_pair = (torch.sigmoid(r_l - r_w)[:, None] * (h_w - h_l)).detach().norm(dim=1).mean()
mean_reward = torch.cat([r_w, r_l]).mean().item()
print(f"mean reward {mean_reward:.2f}, |mean h| {mean_hidden.norm():.0f}, "
      f"mean |h_w - h_l| {(h_w - h_l).norm(dim=1).mean():.1f}")
pd.DataFrame([["one reward", f"{2e-3 * 16 * mean_reward:.0%}"],
              ["the head, BT of one pair (mean length)", f"{g_bsr.norm() / one_pair:.0%}"],
              ["the head, BT of all 16 pairs", f"{g_bsr.norm() / g_bt.norm():.0%}"]],
             columns=["push on", "BSR's over BT's, lambda 1e-3, G = 16"])

# %% [markdown]
# A pair's two BT pushes nearly cancel: they act along $h_w - h_l$, which is short. The differences
# of different pairs point different ways and cancel again. BSR's pushes all add up along $\bar h$,
# which is long.
#
# And the optimizer? AdamW divides every coordinate by its own size, so its first step is the *sign*
# of the gradient times the learning rate. How much BSR weighs sets the direction of the step, not
# its length. What does such a step of the head do to level and mean margin?

# %%
rows = []
for x in (0.0, *LAMBDAS):
    step = -config.head_learning_rate * (g_bt + x / 1e-3 * g_bsr).sign()
    rows.append([f"{x:g}", (mean_hidden @ step).item(), (margin_direction @ step).item()])
print(f"plain gradient step along BSR's part: the mean margin changes by "
      f"{(margin_direction @ g_bsr / (mean_hidden @ g_bsr)).item():.1%} of what the level does")
pd.DataFrame(rows, columns=["lambda", "change of the level by AdamW's first step",
                            "of the mean margin"]).set_index("lambda").round(3)

# %% [markdown]
# **Two answers to one question.** Reward by reward BSR at $10^{-3}$ is a small correction. On the
# head it weighs as much as BT itself, and nearly all of it goes into the level. By the sign rule
# $10^{-3}$ already moves the level by more than half of what $10^{-1}$ does; from $10^{-2}$ on
# nothing is left for the margin in this first step. (One model, one head, one batch: a scale, not
# a law.)

# %% [markdown]
# ## 8. What happens in the recorded runs
#
# The same study as at the start, with BSR: 16 pairs a batch, one group. Within a seed all methods
# have the same head and the same batches.
#
# **Predict** from $\lambda\,(16\,\mu_s^2 + \mathrm{Var}(s))$ and from the last table: which is
# reached by the smaller $\lambda$, the level or the spread? Does a hundredfold $\lambda$ bring the
# level to zero much sooner?

# %%
figure, axes = plots.panels(3, sharey=True)
STYLES = {"bt": "-", "bsr-1e-4": ":", "bsr-1e-3": "-", "bsr-1e-1": "--"}
for seed, axis in enumerate(axes):
    axis.axhline(0, color="black", linewidth=0.8)
    for method, style in STYLES.items():
        curve = course(record[method][seed], "train/reward_mean")
        axis.plot(range(1, len(curve) + 1), curve, style, color=plots.color(method, 0))
    plots.label(axis, "optimizer step", "", f"seed {seed}")
for text, place, method in (("BT", (9, 3.6), "bt"), ("BSR 1e-4 (dotted)", (10, 1.5), "bsr"),
                            ("1e-3 (solid), 1e-1 (dashed)", (6.5, -1.6), "bsr")):
    axes[0].annotate(text, place, color=plots.COLORS[method])
axes[0].set_ylabel("mean reward of the batch (reward units)")
figure.suptitle("A hundred times the λ crosses zero at most one step sooner; BT's level rises");

# %%
METHODS = ("bsr-1e-4", "bsr-1e-3", "bsr-1e-2", "bsr-1e-1")


def crossing(run):
    means = course(run, "train/reward_mean")
    below = np.flatnonzero(means < 0)  # every head starts above zero
    return str(below[0] + 1) if len(below) else "never"


def over_bt(method, key):
    """Standard deviation on new prompts over BT's of the same seed.  Shapes: -> (seeds,)."""
    ours, bt = ([run["evaluation"]["scenarios"]["prompt_disjoint"][key] for run in record[name]]
                for name in (method, "bt"))
    return np.sqrt(np.divide(ours, bt))


SPREADS = {"between_prompts": "between prompts", "within_prompts": "within prompts"}
pd.DataFrame([[name, ", ".join(map(crossing, record[name])), *(
    "{:.2f} ± {:.2f}".format(*seed_interval(over_bt(name, key))) for key in SPREADS)]
    for name in METHODS], columns=["method", "first step with a mean below zero, by seed", *(
        f"sd {name} over BT's, ± 95%" for name in SPREADS.values())]).set_index("method")

# %%
figure, axis = plots.panels(1)
for (key, name), shift, tint in zip(SPREADS.items(), (-0.12, 0.12), (
        plots.COLORS["spread"], plots.COLORS["bsr"]), strict=True):
    for place, method in enumerate(METHODS):
        values = over_bt(method, key)
        mean, half = seed_interval(values)
        axis.plot([place + shift + 0.06] * len(values), values, ".", color=tint)
        axis.errorbar(place + shift, mean, half, fmt="o", color=tint, capsize=3)
    axis.annotate(name, (-0.45, 0.55 + shift), color=tint)
axis.axhline(1, color="black", linewidth=0.8)
axis.set_xticks(range(len(METHODS)), [f"λ = {method[4:]}" for method in METHODS])
axis.set(ylim=(0, 1.3), xlim=(-0.5, 3.5))
plots.label(axis, "", "standard deviation of rewards over BT's,\nsame seed, new prompts",
            "From 1e-2 on the spread shrinks, and with it what separates answers to one prompt")

# %% [markdown]
# **What to see.** *Level*: from $10^{-3}$ on it crosses zero at step 3 or 4 in each seed, then
# swings about it. $10^{-4}$ needs 14 to 19 steps. *Spread*: at $10^{-3}$ a change is undecided; at
# $10^{-2}$ a third is gone. So the level takes a much smaller $\lambda$ than the spread.
#
# <details><summary>Answer</summary>
#
# The level, by far: its weight is 16 times as large, and all pushes on it add up on the head. A
# hundredfold $\lambda$ gains at most one step. Section 7 told why: it turns a step of AdamW, and
# makes it hardly longer.
# </details>

# %% [markdown]
# The penalty holds no margin. Yet within prompts rewards shrink as they do between prompts, as if
# all were multiplied by one number. That is why Section 4 asks for BT *rescaled* as a control.
# Whether any of it helps is the question of notebook 04.

# %% [markdown]
# ## Exercises
#
# Each stub returns `None`; its checker then says "not attempted yet". A fold holds the first hint,
# and a wrong answer gets a second one from its checker. Solutions are in `notebooks/solutions/`.

# %% [markdown]
# **1.** At which group size do both terms of the mean penalty weigh the same, when a group is
# drawn without replacement from $N$ pairs with level $\mu_s$ and spread $\mathrm{Var}(s)$
# (divided by $N$)? A real number; for $N \to \infty$ it is $\mathrm{Var}(s)/\mu_s^2$.
#
# <details><summary>Hint</summary>
#
# Which of the two terms knows about $N$? Write both down for a finite $N$ before you solve.
# </details>

# %%
def crossing_group_size(mean, variance, n):
    return None


checks.check_crossing_group_size(crossing_group_size);

# %% [markdown]
# **2.** You found a good $\lambda$ with groups of `old` pairs and move to a machine on which a
# group is `new` pairs. Return two numbers: the $\lambda$ that keeps BSR's push on one reward
# relative to BT's, at the same mean reward; and the factor by which the weight of
# $\mathrm{Var}(s)$ is then changed.
#
# <details><summary>Hint</summary>
#
# Write down the mean penalty, $\lambda$ included, for the old and the new group. Two weights; one
# number to choose.
# </details>

# %%
def same_push(bsr_lambda, old, new):
    return None


checks.check_same_push(same_push);

# %% [markdown]
# **3.** *Judge a record.* Someone reads Section 8: "at $10^{-3}$ the level is at zero from step 4
# on, so what the penalty still costs is the spread". From a run's batch means $\bar r_t$ and its
# unbiased variances of pair means (both (T,), one group of `group` pairs a step), estimate which
# share of the summed penalty $\sum_t G\,\bar r_t^{\,2}$ is the *level's*. Then run the last cell.
# May the sentence stand?
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
for run in record["bsr-1e-3"]:
    means, variances = (torch.from_numpy(course(run, key)[4:])  # from step 5 on
                        for key in ("train/reward_mean", "bsr/variance_term"))
    print("seed", run["seed"], "share of the level:", level_share(means, variances, 16))

# %% [markdown]
# **4.** *Exact BSR under accumulation.* `parts` is a list of micro-batches of different sizes, each
# a tuple of hidden states (chosen, rejected), (b, D) each. `rewards(hidden, head)` is the network,
# (b, D) to (b,): not linear, and with room for the graph of one micro-batch at a time. Return the
# gradient on the head, (D,), of $L_{BT} + \lambda\,$BSR of the *whole* batch, as one group.
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
# ## What you know now
#
# - Its gradient is one number for a whole group. What tau within prompts, best-of-n or RLOO gain
#   must come through shared weights.
# - On a shared head nearly all of it goes into the level, and a small $\lambda$ is enough for that.
# - **BSR is two penalties in one: it holds the level at zero with weight $\lambda G$, and draws the
#   pair means together with weight $\lambda$. Change the group, and you change the regularizer.**
#
# Not answered here: whether any of this calms hidden states or helps on new answers. Nothing in the
# formula says so, for it sees rewards only.
#
# Next: **04 · When does BSR help, when does it cost, and which part of it?**
