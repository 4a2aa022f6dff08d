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
# Bradley-Terry cannot see a shift $c(x)$ per prompt (notebook 01), so nothing in the loss holds
# the level of the rewards. **Batch-wise sum-to-zero regularization (BSR)** adds one term that
# does. The paper's claim: this calms the dispersion of hidden states (notebook 02) and makes
# reward models more robust to answers unlike those they were trained on.

# %% [markdown]
# After it you can
# - derive what the penalty does on average, and check it by simulation;
# - say why none of the usual measures can see its direct effect;
# - compute it exactly under gradient accumulation and data parallelism, where the obvious code is
#   another regularizer;
# - say how a push that is the same for a whole group shrinks the spread between pairs;
# - place it among its relatives and judge what a $\lambda$ weighs.

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
import contextlib
import io
import tempfile

import torch

from bsr_lite import losses, plots
from bsr_lite.config import load_config
from bsr_lite.course import checks
from bsr_lite.metrics import kendall_tau_b
from bsr_lite.runlog import read_metrics
from bsr_lite.studies.records import watched

torch.manual_seed(0);

# %% [markdown]
# ## 1. The penalty
#
# A **group** is a set of $G$ pairs, so $2G$ rewards $r_j$. BSR wants their sum to be zero (Eq.
# 24, 25):
#
# $$L_{BSR} = L_{BT} + \lambda\,G\,\Bigl(\frac{1}{2G}\sum_{j=1}^{2G} r_j\Bigr)^2
# = L_{BT} + \frac{\lambda}{4G}\Bigl(\sum_{j=1}^{2G} r_j\Bigr)^2$$
#
# A batch of $B$ pairs is cut into $B/G$ groups and their penalties are averaged; by default it is
# one group. *Deviation:* the paper's text leaves the scale open; the factor $G$ is that of its
# official code, whose group is whatever one device computes at a time. Here the group is a
# setting, `bsr_group_size`.

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
# about one of them. What does the penalty want **on average**? Call each pair's mean $s_i =
# (r_{w,i} + r_{l,i})/2$, with mean $\mu_s$ and variance $\mathrm{Var}(s)$ over all pairs. A
# group's mean reward $\bar r$ is the mean of $G$ of them, and the expectation of a square is the
# squared expectation plus the variance:
#
# $$E\bigl[G\,\bar r^{\,2}\bigr] = G\,\Bigl(\mu_s^2 + \frac{\mathrm{Var}(s)}{G}\Bigr)
# = G\,\mu_s^2 + \mathrm{Var}(s).$$
#
# *Second reading*: **pin the global mean** with a weight that grows with $G$, and **shrink the
# spread of the pair means** with a weight that does not depend on $G$.

# %% [markdown]
# $\mathrm{Var}(s)$ has two sources: prompts differ in level (the $c(x)$ of notebook 01), and
# pairs of one prompt differ in their mean (two good answers, or two bad ones). BSR cannot tell
# them apart, and the second is honest quality.
#
# One small print: an epoch draws *without* replacement. From $N$ pairs the variance of a group's
# mean is then smaller by the factor $(N - G)/(N - 1)$.
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
assert abs(simulated[-1] - N * mu**2) < 1e-9, "G = N must leave the mean alone: N mu^2, no variance"

# %%
figure, axis = plots.panels(1)
axis.loglog(sizes, simulated, "o", color=plots.COLORS["bsr"], label="mean penalty, 4000 groups")
axis.loglog(sizes, exact, color=plots.COLORS["bsr"], linewidth=1, label="formula")
axis.loglog(sizes, [G * mu**2 for G in sizes], color="grey", linestyle=":", label="$G \\mu_s^2$")
axis.axhline(variance, color="grey", linestyle="--", linewidth=1, label="Var(s)")
plots.label(axis, "group size G (pairs)", "penalty (squared reward units)",
            "two terms of one penalty")
axis.legend();

# %% [markdown]
# **What to see.** In small groups the dashed line rules: BSR mostly shrinks the spread between
# pairs, and at $G = 1$ it is exactly a squared pair mean. In large groups the dotted line rules:
# it mostly holds the global mean. At $G = N$ only the mean is left. The lines cross at $G =
# \mathrm{Var}(s)/\mu_s^2$, here about 7; once the mean is pinned, the crossing moves far right
# and the spread is what remains to be paid for.
#
# *The group size is not a detail of the implementation. It sets the ratio of two different
# regularizers.*

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
# Down, to $-4 - \epsilon$: away from zero, with everyone else. It is a force on the **common
# mode**, the part that all rewards share.
# </details>

# %% [markdown]
# In one group, then, all rewards move together: margins stay, and so does every difference between
# pairs. Section 2 says that the spread of the pair means shrinks all the same. How can a common
# push do that? Groups are drawn anew at every step, and a pair with a high mean $s_i$ lifts the
# mean of every group that it is in. Over groups of $G$ of the $N$ pairs its mean push, with
# $\lambda = 1$, is
#
# $$E\bigl[\bar r \mid i \text{ in the group}\bigr] = \frac{s_i}{G} + \frac{G-1}{G}\cdot
# \frac{N\mu_s - s_i}{N - 1},$$
#
# a line in $s_i$ with slope $(N-G)/(G(N-1))$, about $1/G$.
#
# **Predict** the line for $G = N$.

# %%
pushes, generator = {}, torch.Generator().manual_seed(1)
for G in (1, 4, 16, 256):
    total = torch.zeros(N, dtype=torch.float64)
    for _ in range(2000):  # an epoch: all pairs in groups of G; a reward is pushed by its group's
        order = torch.randperm(N, generator=generator)  # mean
        total[order] += s[order].view(-1, G).mean(1).repeat_interleave(G)
    pushes[G] = total / 2000
    slope = ((pushes[G] - mu) @ (s - mu) / ((s - mu) @ (s - mu))).item()
    print(f"G = {G:3d}: slope {slope:.3f}, by the formula {(N - G) / (G * (N - 1)):.3f}")
    assert abs(slope - (N - G) / (G * (N - 1))) < 0.01, "a pair's mean push must rise with its mean"

# %%
figure, axis = plots.panels(1)
order = s.argsort()
for (G, push), style in zip(pushes.items(), ("-", "--", "-.", ":"), strict=True):
    axis.plot(s[order], push[order], style, color=plots.COLORS["bsr"], label=f"G = {G}")
axis.axhline(0, color="black", linewidth=0.8)
plots.label(axis, "mean $s_i$ of a pair (reward units)", "mean push down, $\\lambda = 1$",
            "on average a pair is pushed the more, the higher its own mean")
axis.legend(loc="center left", bbox_to_anchor=(1, 0.5));

# %% [markdown]
# **What to see.** At $G = 1$ every pair is pushed by its own mean, and the spread shrinks fastest.
# At $G = 16$ the line is nearly flat, but not quite: high pairs are pushed down by more than low
# ones. That remainder is the spread term.
#
# <details><summary>Answer</summary>
#
# Flat, with slope 0: all pairs are in one group, so the push is $\mu_s$ for everyone. Only the
# level term is left, as in Section 2.
# </details>

# %% [markdown]
# As free numbers rewards keep their margins. But rewards come from shared weights. For a
# linear head with mean hidden state $\bar h$, the gradient of the penalty is $2\lambda G\,\bar
# r\,\bar h$. A step against it changes margins wherever $h_w - h_l$ is not orthogonal to $\bar
# h$. Here chosen states have a little more of the common direction:

# %%
h_w, h_l = torch.randn(2, 16, 32) + 1.0  # hidden states share a mean direction
h_w = h_w + 0.3  # which chosen answers have more of
W = torch.rand(32, requires_grad=True)  # all positive: the mean reward is positive
(g_bsr,) = torch.autograd.grad(losses.bsr_penalty(h_w @ W, h_l @ W), W)
mean_hidden = torch.cat([h_w, h_l]).mean(0)
torch.testing.assert_close(g_bsr, 2 * 16 * (mean_hidden @ W) * mean_hidden)
(g_bt,) = torch.autograd.grad(losses.bt_loss(h_w @ W, h_l @ W), W)
print(f"cosine of the two gradients: {torch.cosine_similarity(g_bt, g_bsr, dim=0):+.2f}")
assert ((h_w - h_l) @ -g_bsr).mean() < 0, "here BSR's step must narrow the mean margin"

# %% [markdown]
# A negative cosine: the two objectives pull the head in opposite directions, although BSR never
# looks at a margin. (With a negative mean reward they would help each other.)

# %% [markdown]
# ## 4. What nobody can see
#
# BSR acts on the level of rewards. Take an *idealised* BSR, which removes $c(x)$ and nothing else:
# subtract from each prompt's rewards their mean.
#
# **Predict** which of these change: the penalty, the BT loss, tau within prompts, best-of-4, tau
# pooled over prompts, and **RLOO advantages**. (REINFORCE leave-one-out, the RL method of the
# paper: an answer's advantage is its reward minus the mean reward of the *other* answers to the
# prompt.)

# %%
gold = torch.rand(200, 4, dtype=torch.float64)  # 200 prompts, 4 answers
noisy = gold + 0.3 * torch.randn(200, 4) + 2 * torch.randn(200, 1) + 1  # a reward model with c(x)
centred = noisy - noisy.mean(1, keepdim=True)


def advantages(r):
    others = (r.sum(1, keepdim=True) - r) / (r.shape[1] - 1)
    return r - others

# %%
for name, f in {"BSR penalty": lambda r: losses.bsr_penalty(r[:, 0], r[:, 1]).item(),
                "BT loss": lambda r: losses.bt_loss(r[:, 0], r[:, 1]).item(),
                "tau within": lambda r: kendall_tau_b(r, gold).mean(),
                "best-of-4 gold": lambda r: gold.gather(1, r.argmax(1, keepdim=True)).mean(),
                "tau pooled": lambda r: kendall_tau_b(r.ravel(), gold.ravel()).item()}.items():
    print(f"{name:15s} {f(noisy):8.3f} -> {f(centred):8.3f}")
torch.testing.assert_close(advantages(noisy), advantages(centred), msg="RLOO must not see c(x)")

# %% [markdown]
# <details><summary>Answer</summary>
#
# Only the penalty and pooled tau. (The penalty is not exactly 0: it sees two of the four answers.)
# Whatever compares answers of one prompt is blind.
# </details>
#
# So a pure shift of levels cannot gain anything on within-prompt tau, best-of-n or RLOO. **What
# BSR gains there must come through shared parameters**, by changing what the network learns. And
# it can cost: the spread of pair means that it shrinks holds honest quality too (Section 2).

# %% [markdown]
# Which comparisons tell mechanism from side effect? For pooled tau: BT, centred per prompt
# afterwards. For RLOO: BT, rescaled to BSR's spread (a smaller reward acts like a larger KL
# weight). For tau and best-of-n neither can change anything: there the controls are *other
# trained penalties*, such as centering, or L2 on rewards, $r_w^2 + r_l^2 = 2s^2 + m^2/2$, which
# pulls on the margin $m$ as well.

# %% [markdown]
# ## 5. Micro-batches, accumulation, data parallelism
#
# A large batch is computed in parts, **micro-batches**, whose gradients add up. For a mean over
# pairs the mean of the parts (weighted by their sizes) is right. A squared mean is not additive:
# $(\tfrac{a+b}{2})^2 \neq \tfrac12 (a^2 + b^2)$.
#
# Penalizing each part's own mean is what a loss inside a standard trainer does, the official code
# included. It is BSR with a smaller group: *another regularizer* (Section 2), which changes with
# your memory size. The mean's weight falls with the group; if $\lambda$ is raised to mend that,
# the spread's weight is too large.

# %%
B, lam = 32, 0.1
h_w, h_l = torch.randn(2, B, 24, dtype=torch.float64) + 0.5
W = torch.randn(24, dtype=torch.float64) / 5


# %%
def head_gradient(loss_of_head):
    head = W.clone().requires_grad_()
    loss_of_head(head).backward()
    return head.grad


def objective(head, part=slice(None), factor=1):
    r_w, r_l = h_w[part] @ head, h_l[part] @ head
    return losses.bt_loss(r_w, r_l) + factor * lam * losses.bsr_penalty(r_w, r_l)


# %%
parts = [slice(i, i + 8) for i in range(0, B, 8)]  # 4 micro-batches of 8 pairs
whole = head_gradient(objective)
print("naive accumulation, relative gradient error")
for name, factor in (("same lambda", 1), ("lambda times 4", 4)):
    naive = head_gradient(lambda head, f=factor: sum(objective(head, p, f) for p in parts) / 4)
    print(f"  {name:15s} {(naive - whole).norm() / whole.norm():.2f}")

# %% [markdown]
# **The exact way** uses that the loss depends on the network only through $2B$ numbers:
# 1. all rewards, part by part, *without* a graph;
# 2. the loss of the whole batch, and its gradient $\partial L/\partial r$: cheap, no network;
# 3. each part again, *with* a graph, backward from its slice of $\partial L/\partial r$.
#
# It costs one more forward pass and is exact for any loss, as long as both passes compute the same
# numbers (no dropout). `train_rm` does this.

# %%
with torch.no_grad():  # step 1
    rewards = torch.cat([torch.stack([h_w[p] @ W, h_l[p] @ W], dim=1) for p in parts])  # (B, 2)
rewards.requires_grad_()
loss = losses.preference_loss("bsr", rewards[:, 0], rewards[:, 1], bsr_lambda=lam)
(push,) = torch.autograd.grad(loss, rewards)  # (B, 2), step 2

# %%
head = W.clone().requires_grad_()
for p in parts:  # step 3
    part_rewards = torch.stack([h_w[p] @ head, h_l[p] @ head], dim=1)
    (part_rewards * push[p]).sum().backward()
error = (head.grad - whole).norm() / whole.norm()
print(f"two passes: relative gradient error {error:.0e}")
assert error < 1e-12, "two passes must give the whole batch's gradient"

# %% [markdown]
# **Data parallelism** has the same problem: each process holds a part of the batch, and gradients
# are averaged. An *all-reduce* (everyone gets the mean of all) is cheap, but a number received
# from another process has no graph. Three attempts, simulated with 4 "processes" of 8 pairs:
# - *local*: everyone penalizes its own mean;
# - *detached*: penalize the global mean as received: the penalty has no gradient;
# - *value of all, gradient of mine*:
#   $\bar r = \bar r_{all} + (\bar r_{mine} - \bar r_{mine}.\text{detach}())$.

# %%
mean_of_all = torch.cat([h_w @ W, h_l @ W]).mean()  # what an all-reduce would return
PENALTIES = {"local": lambda mine: 8 * mine**2, "detached": lambda mine: B * mean_of_all**2,
             "value of all": lambda mine: B * (mean_of_all + (mine - mine.detach())) ** 2}


def process_loss(head, p, penalty):
    r_w, r_l = h_w[p] @ head, h_l[p] @ head
    return losses.bt_loss(r_w, r_l) + lam * penalty(torch.cat([r_w, r_l]).mean())

# %%
for name, f in PENALTIES.items():
    g = head_gradient(lambda head, f=f: sum(process_loss(head, p, f) for p in parts) / 4)
    print(f"{name:13s} relative gradient error {(g - whole).norm() / whole.norm():.0e}")
assert torch.allclose(g, whole), "all-reduced value plus own gradient must be exact"

# %% [markdown]
# The last line holds for equal parts. With unequal ones, exchange *sums* and divide by the global
# count; a mean of means is wrong.

# %% [markdown]
# ## 6. The family: forces on margin and level
#
# Every objective of the paper's comparison (Sec. 4.3) and centering, for one pair with **margin**
# $m = r_w - r_l$ and **level** $s = (r_w + r_l)/2$:
#
# - **BT**: $-\log\sigma(m)$;
# - **BSR**, groups of one: $L_{BT} + \lambda s^2$;
# - **centering**: $L_{BT} + c\,(r_w + r_l)^2 = L_{BT} + 4c\,s^2$;
# - **Hinge**: $\max(0, 2 - m)$;
# - **Norm**: $-\log\sigma\bigl(m / \sqrt{r_w^2 + r_l^2}\bigr)$, where $r_w^2 + r_l^2 = 2s^2 +
#   m^2/2$;
# - **DR**: $L_{BT} - \log\sigma(r_w) - \log\sigma(-r_l)$.

# %% [markdown]
# The figure draws each as a landscape; $\lambda = 4c = 0.15$ is large, to be visible. Arrows show
# where gradient descent on $(r_w, r_l)$ moves a pair: $(2F_m, F_s/2)$ for a force $F$. Dark is
# strong.

# %%
m, s = torch.meshgrid(torch.linspace(-3, 6, 37), torch.linspace(-4, 4, 33), indexing="ij")
OBJECTIVES = {"bt": {}, "bsr": {"bsr_lambda": 0.15}, "centering": {"centering_coefficient": 0.0375},
              "hinge": {"target_margin": 2.0}, "norm": {}, "dr": {}}


def landscape(kind, options):
    grid = torch.stack([m.flatten(), s.flatten()]).requires_grad_()  # (2, points)
    values = torch.stack([losses.preference_loss(kind, (y + x / 2)[None], (y - x / 2)[None],
                                                 **options) for x, y in grid.T])
    (gradient,) = torch.autograd.grad(values.sum(), grid)
    motion = -gradient * torch.tensor([[2.0], [0.5]])
    return values.detach().view_as(m), motion.view(2, *m.shape)

# %%
figure, axes = plots.panels(3, rows=2, sharex=True, sharey=True, dpi=75)
field = slice(2, None, 4)
for axis, (kind, options) in zip(axes.flat, OBJECTIVES.items(), strict=True):
    values, motion = landscape(kind, options)
    axis.contour(m, s, values, levels=12, colors=plots.COLORS[kind], linewidths=1.1)
    motion = motion[:, field, field]
    size = motion.norm(dim=0)
    arrows = motion / size.clamp(min=1e-3)  # one length: the shade tells the strength
    axis.quiver(m[field, field], s[field, field], *arrows, size.sqrt(), cmap="Greys", scale=15,
                width=0.006, clim=(-0.2, 1.2))
    plots.label(axis, "", "", kind.upper())
figure.supxlabel("margin $m$ (reward units)")
figure.supylabel("level $s$ (reward units)");

# %% [markdown]
# **What to see.** BT and Hinge: all arrows are horizontal, level is free; Hinge stops at $m = 2$.
# BSR and centering: the same horizontal arrows plus a pull to $s = 0$; for one pair they are the
# same function. DR: wants chosen above zero *and* rejected below; its pull on the level fades
# once $r_w > 0 > r_l$. Norm: its level lines are rays, since only the direction of $(r_w, r_l)$
# counts; it turns a pair towards $m > 0$, $s = 0$, but a pair on the wrong side is turned by way
# of larger $|s|$, and one exactly reversed at $s = 0$ feels nothing.

# %% [markdown]
# With more than one pair, centering and BSR separate. Centering, $\mathrm{mean}(r_w + r_l)^2$,
# averages $4 s_i^2$: always $4(\mu_s^2 + \mathrm{Var}(s))$. BSR is $G\mu_s^2 + \mathrm{Var}(s)$.
# **The same two terms, another ratio**: 1 to 1 against $G$ to 1.
#
# Weight decay on the head is no relative: it shrinks *all* rewards, margins included, and pins
# nothing (a small head still has $r \propto W^\top \bar h \neq 0$).

# %%
r_w, r_l = torch.randn(2, 4096, dtype=torch.float64) * 2 + 0.7
pair_means = (r_w + r_l) / 2
mean, spread = pair_means.mean(), pair_means.var(correction=0)
torch.testing.assert_close(losses.centering_penalty(r_w, r_l), 4 * (mean**2 + spread))
for G in (1, 16, 128):
    average = losses.bsr_penalty(r_w, r_l, bsr_group_size=G).item()
    print(f"BSR, groups of {G:3d}: {average:6.2f}   G mu^2 + Var = {G * mean**2 + spread:6.2f}")
assert torch.isclose(losses.bsr_penalty(r_w, r_l, 1), mean**2 + spread), (
    "groups of one pair: BSR must be a quarter of centering")

# %% [markdown]
# ## 7. How heavy is $\lambda$?
#
# Compare the pushes on *one reward*. BT gives $\sigma(-m)/B$, about $\tfrac{1}{2B}$ early on. In
# a batch of $B/G$ groups, BSR gives $\lambda\,\bar r \cdot G/B$. The ratio does not depend on
# $B$, but on the group:
#
# $$\frac{\lambda\,\bar r\,G/B}{1/(2B)} = 2\,\lambda\,G\,\bar r .$$
#
# **A $\lambda$ means little without its group size.** A fresh head easily starts at $\bar r
# \approx 1$. Once the mean is pinned, what is left is the scatter of group means,
# $\mathrm{sd}(s)/\sqrt G$.

# %%
LAMBDAS = (1e-4, 1e-3, 1e-2, 1e-1)
print("BSR's push over BT's, per reward     " + "".join(f"{x:>9g}" for x in LAMBDAS))
for G, where in ((16, "official 8B recipe, our runs"), (128, "one group of the paper's batch")):
    for mean, when in ((1.0, "at the start"), (1 / G**0.5, "once pinned")):
        shares = "".join(f"{2 * x * G * mean:9.1%}" for x in LAMBDAS)
        print(f"G = {G:3d}, mean {mean:.2f} ({when:12s})   {shares}   {where}")

# %%
r = torch.ones(64, requires_grad=True)  # check the formula at G = 32, lambda = 1e-3, mean 1
(bsr_push,) = torch.autograd.grad(1e-3 * losses.bsr_penalty(r[:32], r[32:]), r)
(bt_push,) = torch.autograd.grad(losses.bt_loss(r[:32], r[32:]), r)
ratio = (bsr_push / bt_push.abs())[0].item()
assert abs(ratio - 2 * 1e-3 * 32) < 1e-6, "the ratio must be 2 lambda G times the mean"

# %% [markdown]
# So at the paper's default $\lambda = 10^{-3}$ BSR is a 3% correction? Per reward, yes. On shared
# weights it is more: BT's two pushes of a pair nearly cancel (they act along $h_w - h_l$, which
# is short), BSR's all add up along $\bar h$, which is long. Measure it: the gradients on the head
# of a real model before its first step.

# %%
from bsr_lite.batching import pack
from bsr_lite.models import load_reward_model
from bsr_lite.scenarios import load_scenarios
from bsr_lite.tokenization import pair_tokens
from bsr_lite.train_rm import train

config = load_config("bsr_lite/configs/rm_fast.yaml", overrides=["data.max_pairs=96"])
scenarios = load_scenarios(config)

# %%
model = load_reward_model(config.model.name, depth=10, seed=0)
pairs, _ = pair_tokens(scenarios.train, model.tokenizer, config.data.max_length)
with torch.no_grad():
    hidden, _ = model.last_hidden(pack(pairs[:16]).to(model.device))
hidden = hidden.cpu()  # (32, 576): chosen, rejected, chosen, ...

# %%
W = model.head_weight.detach().cpu().clone().requires_grad_()
r_w, r_l = hidden[0::2] @ W, hidden[1::2] @ W
(g_bt,) = torch.autograd.grad(losses.bt_loss(r_w, r_l), W, retain_graph=True)
(g_bsr,) = torch.autograd.grad(1e-3 * losses.bsr_penalty(r_w, r_l), W)
mean_reward = torch.cat([r_w, r_l]).mean().item()
print(f"mean reward {mean_reward:.2f}; |mean h| {hidden.mean(0).norm():.0f}, mean |h_w - h_l| "
      f"{(hidden[0::2] - hidden[1::2]).norm(dim=1).mean():.0f}")
print(f"BSR's push over BT's at lambda 1e-3: per reward {2e-3 * 16 * abs(mean_reward):.0%}, "
      f"on the head {g_bsr.norm() / g_bt.norm():.0%}")
del model

# %% [markdown]
# **Two answers to one question.** Reward by reward BSR is a 3% correction, and it never touches a
# margin directly. On the head it weighs as much as BT itself, and all of it goes into the level.
# So expect the *level* to be pinned within a few steps even at $10^{-3}$, and everything else to
# change only as far as that fight over shared weights spills over.

# %% [markdown]
# ## 8. Live: the mean reward, free and pinned
#
# The embedded model (10 layers, LoRA adapters, `rm_fast.yaml` cut to seconds): the same batches,
# the same random head, BT against BSR at $\lambda = 10^{-2}$. Measured on training pairs and on
# new prompts (*prompt-disjoint*). One seed: an illustration, not evidence.

# %%
def live_run(loss):
    options = [f"loss={loss}", "data.max_pairs=96", "token_budget=4096", "eval_groups=8",
               "eval_every=2", "watch=[train, prompt_disjoint]"]
    options += ["bsr_lambda=1e-2"] if loss == "bsr" else []
    config = load_config("bsr_lite/configs/rm_fast.yaml", overrides=options)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        config.output_dir = folder + "/run"
        train(config, scenarios=scenarios)
        return [{"metrics": read_metrics(config.output_dir)}]


live = {loss: live_run(loss) for loss in ("bt", "bsr")}

# %%
figure, axes = plots.panels(2)
for loss, run in live.items():
    for axis, key in zip(axes, ("reward_mean", "margin"), strict=True):
        for part, style in (("train", "-"), ("prompt_disjoint", ":")):
            steps, (curve,) = watched(run, part, key)
            axis.plot(steps, curve, style, color=plots.COLORS[loss],
                      label=f"{loss.upper()}, {part.replace('_', '-')}")
            axis.axhline(0, color="grey", linewidth=0.6)
plots.label(axes[0], "optimizer step", "mean reward (reward units)", "level")
plots.label(axes[1], "optimizer step", "mean margin (reward units)", "margin, better minus worse")
axes[1].legend();

# %% [markdown]
# **What to see.** The level: BT's stays where the random head put it, or drifts; BSR's is brought
# to zero within two or three steps, with an overshoot. The margin: BSR's lags behind BT's on the
# training pairs. Is that a price, and which of the two terms asks for it? Notebook 04 takes them
# apart.

# %% [markdown]
# ## Exercises
#
# Each stub returns `None`; its checker then says "not attempted yet". Solutions are in
# `notebooks/solutions/`.
#
# **1.** At which group size do both terms of the mean penalty weigh the same, when a group is
# drawn without replacement from $N$ pairs with mean $\mu_s$ and variance $\mathrm{Var}(s)$
# (divided by $N$)? A real number; for $N \to \infty$ it is $\mathrm{Var}(s)/\mu_s^2$.

# %%
def crossing_group_size(mean, variance, n):
    return None


checks.check_crossing_group_size(crossing_group_size);

# %% [markdown]
# **2.** The gradient of $\lambda$ times the penalty on every chosen reward, when the batch of $B$
# pairs is cut into consecutive groups of `size` pairs (`size` divides $B$) and the penalty is
# averaged over groups. Returns shape (B,).

# %%
def penalty_gradient(rewards_chosen, rewards_rejected, bsr_lambda, size):
    return None


checks.check_penalty_gradient(penalty_gradient);

# %% [markdown]
# **3.** You found a good $\lambda$ with groups of `old` pairs and now use groups of `new`. Which
# $\lambda$ keeps BSR's push relative to BT's, at the same mean reward? (And what happens to the
# weight of $\mathrm{Var}(s)$?)

# %%
def same_weight(bsr_lambda, old, new):
    return None


checks.check_same_weight(same_weight);

# %% [markdown]
# **4.** *Exact global BSR under accumulation.* `parts` is a list of micro-batches of different
# sizes, each a tuple of hidden states (chosen, rejected). `rewards(hidden, head)` is the network:
# not linear, and with room for the graph of one micro-batch at a time. Return the gradient on the
# head of $L_{BT} + \lambda\,$BSR of the *whole* batch, as one group.

# %%
def accumulated_gradient(rewards, parts, head_weight, bsr_lambda):
    return None


checks.check_accumulated_gradient(accumulated_gradient);

# %% [markdown]
# ## What you know now
#
# - On average BSR is $G\mu_s^2 + \mathrm{Var}(s)$: it pins the mean and shrinks the spread of pair
#   means. A $\lambda$ has a meaning only with its group size.
# - Its gradient is one number for a whole group. What within-prompt tau, best-of-n or RLOO gain
#   must come through shared parameters.
# - It couples pairs: two passes under accumulation, an all-reduced value with one's own gradient
#   under data parallelism.
# - **BSR is one push for a whole group; averaged over random groups it pins the level and shrinks
#   the spread of the pair means.**
#
# Next: **04 · When does BSR help, when does it cost, and which part of it?**
