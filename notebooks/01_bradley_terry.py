# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 01 · How does "A is better than B" become a loss?
#
# In **RLHF** (reinforcement learning from human feedback) a language model writes answers to a
# **prompt**, a **reward model** scores them, and training raises the score. It learns from choices:
# a judge says which of two answers is better. This notebook builds the loss that turns choices into
# scores, and asks what it cannot see.
#
# "The paper", here and in the next notebooks, is *On the Robustness of Reward Models for Language
# Model Alignment* (ICML 2025); "Eq. n" is an equation of it.

# %% [markdown]
# After it you can
# - derive the Bradley-Terry loss (Eq. 3) and its gradient, and recognise logistic regression in
#   it;
# - fit it to data whose true rewards are known, and say how uncertain the fit is;
# - name the directions the loss cannot see, one per prompt, and show them as a null space;
# - say when it claims more than it knows.
#
# You need calculus, eigenvalues and a little PyTorch.

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
import pandas as pd
import torch

from bsr_lite import losses, plots
from bsr_lite.data import read_groups

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)  # in place of the format above: exact facts, strict checks

# %% [markdown]
# ## A pair to look at
#
# The **pocket world** (`data/pocket/`) holds 1,536 prompts with answers of small language models.
# Here are a prompt and two of its answers. **Predict**: which is better? And which mark from 0 to
# 5 would you give to each?

# %%
groups = [g for g in read_groups("data/pocket/pocket.jsonl.gz", "pocket") if g.split == "dev"]
example = groups[113]
for name, text in (("prompt", example.prompt[0]["content"]), ("answer 1", example.responses[0]),
                   ("answer 2", example.responses[3])):
    print(f"{name:9s}", text)

# %% [markdown]
# <details><summary>Answer</summary>
#
# Answer 2: it is about hiking, and it does describe. The marks are harder: they need a scale that
# all judges share. A choice needs none.
# </details>
#
# In the pocket world a program plays the judge. It gives marks, the **gold** quality: the sum of
# five scores between 0 and 1 (follows the instruction, on topic, complete, fresh, concise). Here
# they are 4.0 and 4.5. A reward model never sees them, only choices.

# %% [markdown]
# ## 1. A comparison is a noisy look at two hidden numbers
#
# Give every answer a hidden quality $r$, its **reward**. A judge who compares answers $a$ and $b$
# does not see $r$ but $r$ plus noise, and picks the larger. Let the two noises be independent
# **Gumbel** variables (a skewed bell: $P(g \le z) = e^{-e^{-z}}$). Then
#
# $$P(a \text{ beats } b) = \sigma(r_a - r_b), \qquad \sigma(z) = \frac{1}{1 + e^{-z}}.$$
#
# This is the **Bradley-Terry (BT) model**. Only the difference, the **margin** $m = r_a - r_b$,
# matters.

# %% [markdown]
# **Why $\sigma$?** $a$ wins if $g_b < m + g_a$. Given $g_a$ this has probability $e^{-e^{-(m +
# g_a)}} = e^{-t e^{-m}}$ with $t = e^{-g_a}$, and $t$ is exponentially distributed. So
#
# $$P = \int_0^\infty e^{-t}\, e^{-t e^{-m}}\, dt = \frac{1}{1 + e^{-m}} = \sigma(m).$$
#
# Labels of the pocket world are drawn so, with $r$ = gold / 0.5. The pair above has a margin of 1.
#
# **Predict**: how often does the worse answer win?

# %%
r_a, r_b = torch.tensor([example.gold[3], example.gold[0]]) / 0.5
gumbel = torch.distributions.Gumbel(0.0, 1.0)
seen_a = r_a + gumbel.sample((200_000,))
seen_b = r_b + gumbel.sample((200_000,))
share = (seen_a > seen_b).double().mean()
print(f"the better wins {share:.3f} of 200,000 looks; sigma(1) = {torch.sigmoid(r_a - r_b):.3f}")
assert abs(share - torch.sigmoid(r_a - r_b)) < 0.005, "Gumbel noise must give sigma(r_a - r_b)"

# %% [markdown]
# <details><summary>Answer</summary>
#
# More than one time in four: 27%. A margin of 1 is a weak preference. To be right 95% of the time
# takes a margin of about 2.9.
# </details>
#
# Rewards have a unit, then: one unit of margin multiplies the odds by $e \approx 2.72$. Keep this
# in mind whenever a reward model reports a margin of 8. It claims odds of 3,000 to 1.

# %% [markdown]
# ## 2. From the probability to the loss
#
# We are told which answer was **chosen** ($w$, won) and which **rejected** ($l$, lost). Maximum
# likelihood asks for the rewards that make these outcomes most probable. We take comparisons to be
# independent, so log-probabilities add. Minus their mean over the $B$ comparisons is the loss
# (Eq. 3), in **nats** (natural-log units):
#
# $$L_{BT} = -\frac{1}{B} \sum_{i=1}^{B} \log \sigma(r_{w,i} - r_{l,i})$$
#
# First on numbers that you can check by hand.

# %%
def bt_loss(rewards_chosen, rewards_rejected):
    margin = rewards_chosen - rewards_rejected  # (B,)
    return -torch.log(torch.sigmoid(margin)).mean()


no_opinion = bt_loss(torch.zeros(3), torch.zeros(3))
assert torch.isclose(no_opinion, torch.log(torch.tensor(2.0))), (
    "BT loss at zero margin must be ln 2: the model gives both answers probability 1/2")
pd.DataFrame([{"margin": margin, "loss (nats)": bt_loss(torch.tensor([margin]), 0).item()}
              for margin in (-2.0, 0.0, 2.0, 4.0)]).round(3)

# %% [markdown]
# `torch.log(torch.sigmoid(z))` breaks at both ends: at -800 it is $-\infty$, and above 37 the loss
# and its gradient round to 0. The library's `logsigmoid` is the same function without the detour.

# %%
chosen, rejected = 3 * torch.randn(1000), 3 * torch.randn(1000)
torch.testing.assert_close(losses.bt_loss(chosen, rejected), bt_loss(chosen, rejected))
wrong = torch.tensor([-800.0]), torch.zeros(1)
print("by hand:", bt_loss(*wrong).item(), "  library:", losses.bt_loss(*wrong).item())

# %% [markdown]
# ## 3. It is logistic regression
#
# Put all rewards into one vector $r$ and write one row per comparison: $+1$ in the winner's
# column, $-1$ in the loser's. With this design matrix $D$ the margins are $Dr$, and $L_{BT}$ is
# the loss of logistic regression without intercept on the features $D$, with every label 1.
#
# So all that is known of logistic regression holds. The loss is convex in $r$, and there are
# standard errors. And there are two classical troubles: directions that the data do not touch
# (Section 6), and data that can be separated perfectly (Section 7).

# %%
def design_matrix(winners, losers, count):
    rows = torch.zeros(len(winners), count)
    index = torch.arange(len(winners))
    rows[index, winners], rows[index, losers] = 1.0, -1.0
    return rows  # (B, count)


winners, losers = torch.tensor([0, 0, 1, 2]), torch.tensor([1, 2, 2, 1])
r_small, D_small = torch.tensor([1.0, 0.5, -0.5]), design_matrix(winners, losers, count=3)
print(D_small.int())
logistic = torch.nn.functional.binary_cross_entropy_with_logits(D_small @ r_small, torch.ones(4))
assert torch.isclose(logistic, bt_loss(r_small[winners], r_small[losers])), (
    "BT must be logistic regression on D")

# %% [markdown]
# ## 4. The gradient by hand
#
# Differentiate one pair's loss with respect to its margin $m = r_w - r_l$, using
# $\sigma'(z) = \sigma(z)\,\sigma(-z)$:
#
# $$\frac{d}{dm}\bigl[-\log \sigma(m)\bigr] = -\frac{\sigma(m)\,\sigma(-m)}{\sigma(m)}
# = -\sigma(-m)$$
#
# and by the chain rule $\partial L_{BT} / \partial r_w = -\sigma(-m)/B$, $\partial L_{BT} /
# \partial r_l = +\sigma(-m)/B$. The number $\sigma(-m)$ is the probability that the model gave to
# the outcome that did *not* happen: mistakes push. The two pushes of a pair are equal and
# opposite.

# %%
chosen, rejected = torch.randn(5, requires_grad=True), torch.randn(5, requires_grad=True)
losses.bt_loss(chosen, rejected).backward()
by_hand = -torch.sigmoid(-(chosen - rejected)).detach() / 5
torch.testing.assert_close(chosen.grad, by_hand)
torch.testing.assert_close(rejected.grad, -by_hand)
assert torch.equal(chosen.grad, -rejected.grad), (
    "as free numbers, chosen and rejected must be pushed apart equally: BT never moves their mean")

# %% [markdown]
# **Predict**: at which margin does the push have half its largest value? Is there a margin where
# it is 0?

# %%
figure, (left, right) = plots.panels(2)
m = torch.linspace(-4, 6, 200)
left.plot(m, -torch.nn.functional.logsigmoid(m), color=plots.COLORS["bt"],
          label="$-\\log\\sigma(m)$")
left.axhline(torch.log(torch.tensor(2.0)), color="grey", linewidth=0.8, linestyle=":",
             label="no opinion: $\\ln 2$")
right.plot(m, torch.sigmoid(-m), color=plots.COLORS["bt"], label="$\\sigma(-m)$")
right.plot(m[m > 0], torch.exp(-m[m > 0]), color="grey", linestyle=":",
           label="$e^{-m}$, its limit on the right")
plots.label(left, "margin $m = r_w - r_l$ (reward units)", "loss (nats)",
            "A wrong pair costs about its margin")
plots.label(right, "margin $m = r_w - r_l$ (reward units)", "push on the margin",
            "The push fades, it never stops")
left.legend(), right.legend();

# %% [markdown]
# **What to see.** Left: far on the wrong side the loss is minus the margin. Right: a pair on the
# wrong side is pushed with a force between one half and 1.
#
# <details><summary>Answer</summary>
#
# At 0. And no: a pair that is right by a wide margin still gets a push of about $e^{-m}$.
# </details>
#
# *For one pair with one label there is no margin at which BT is content.* Only comparisons that
# contradict each other, or features shared with other pairs, can stop it.

# %% [markdown]
# ## 5. Maximum likelihood where the truth is known
#
# Eight answers with known strengths, compared at random. Only differences count, so we fix the
# mean strength at 0. The loss is convex, so a few Newton steps reach the optimum. The second
# derivative of one margin's loss is $\frac{d}{dm}[-\sigma(-m)] = \sigma(m)\,\sigma(-m)$;
# with $m = Dr$ the chain rule, twice, gives the **Hessian**
#
# $$\nabla^2 L_{BT} = \frac{1}{B} D^\top \mathrm{diag}\bigl(\sigma(m)\,\sigma(-m)\bigr) D .$$
#
# $B\,\nabla^2 L_{BT}$ is the **Fisher information**: how much the comparisons tell. Its inverse is,
# for large samples, the covariance of the estimate. One direction (all strengths up together) has
# no information; the pseudo-inverse leaves it out.

# %%
def hessian(r, D):
    win = torch.sigmoid(D @ r)
    return D.T @ ((win * (1 - win))[:, None] * D) / len(D)  # (count, count)


torch.testing.assert_close(
    torch.autograd.functional.hessian(
        lambda r: losses.bt_loss(D_small @ r, torch.zeros(4)), r_small),
    hessian(r_small, D_small), msg="the Hessian by hand must be autograd's")

# %%
def fit(D, steps=12):
    r = torch.zeros(D.shape[1])
    for _ in range(steps):
        gradient = -D.T @ torch.sigmoid(-D @ r) / len(D)
        r = r - torch.linalg.pinv(hessian(r, D), rtol=1e-8) @ gradient
    error = torch.linalg.pinv(len(D) * hessian(r, D), rtol=1e-8).diagonal().sqrt()
    return r, error  # (count,), mean 0 because pinv never moves along the null direction

# %%
strength = torch.tensor([-1.5, -1.0, -0.5, 0.0, 0.0, 0.5, 1.0, 1.5])


def simulate(comparisons):
    pairs = torch.rand(comparisons, 8).argsort(1)[:, :2]  # (B, 2), two different answers
    margin = strength[pairs[:, 0]] - strength[pairs[:, 1]]
    second_wins = torch.rand(comparisons) > torch.sigmoid(margin)
    pairs[second_wins] = pairs[second_wins].flip(1)
    return design_matrix(pairs[:, 0], pairs[:, 1], count=8)

# %% [markdown]
# **Predict**: we fit the first 200 of 3,200 comparisons, then all of them. By what factor do the
# intervals shrink? Two of the eight answers are equally strong: will the first fit say so?

# %%
figure, axes = plots.panels(2, sharey=True)
D, shown = simulate(3200), strength + torch.tensor([0, 0, 0, -0.06, 0.06, 0, 0, 0])
for axis, comparisons, title in ((axes[0], 200, "200 comparisons: the order is partly luck"),
                                 (axes[1], 3200, "All 3,200: every strength in its place")):
    estimate, error = fit(D[:comparisons])
    axis.plot([-1.7, 1.7], [-1.7, 1.7], color="grey", linewidth=0.8, label="truth")
    for fill, which in ((plots.COLORS["bt"], strength != 0), ("white", strength == 0)):
        axis.errorbar(shown[which], estimate[which], 1.96 * error[which], fmt="o", capsize=3,
                      color=plots.COLORS["bt"], markerfacecolor=fill,
                      label="the two equal ones" if fill == "white" else "estimate")
    plots.label(axis, "true strength (reward units)", "estimate, 95% interval", title)
axes[0].legend(loc="upper left");

# %% [markdown]
# **What to see.** Left: the two weakest change places, and so do the two strongest. Three of eight
# intervals miss the truth. Right: every strength is near the line.
#
# <details><summary>Answer</summary>
#
# By four: sixteen times the data, a quarter of the error ($1/\sqrt{B}$). The two equal ones lie
# close together and their intervals overlap widely: the first fit does not say which is better.
# </details>
#
# Three misses of eight, where 95% are promised: bad luck, or a bad method? Repeat both experiments
# 300 times and count.

# %%
rows = []
for comparisons in (200, 3200):
    fits = [fit(simulate(comparisons)) for _ in range(300)]
    hits = torch.stack([((r - strength).abs() < 1.96 * error).double().mean() for r, error in fits])
    order = [bool((torch.cat([r[:3], r[3:5].sort().values, r[5:]]).diff() > 0).all())
             for r, _ in fits]  # the two equal ones may be in any order
    rows.append({"comparisons": comparisons, "intervals that hold the truth": hits.mean().item(),
                 "+-": 1.96 * hits.std().item() / 300**0.5,
                 "fits with all in order": sum(order) / 300,
                 "mean standard error": torch.stack([error for _, error in fits]).mean().item()})
    assert 0.93 < hits.mean() < 0.97, "the Fisher information must keep its promise here"
pd.DataFrame(rows).round(3)

# %% [markdown]
# The promise is kept: 95 to 96% hold the truth, and the left panel was bad luck. (The errors of one
# fit move together, so misses come in company.) With 200 comparisons a third of the fits have every
# strength in order.

# %% [markdown]
# ## 6. What Bradley-Terry cannot see
#
# In RLHF, answers $y$ compete only with answers to the *same* prompt $x$: there is one BT model per
# prompt (Eq. 4), and one network ties them together. Add any number $c(x)$ to all rewards of a
# prompt:
#
# $$\bigl(r(x, y_w) + c(x)\bigr) - \bigl(r(x, y_l) + c(x)\bigr) = r(x, y_w) - r(x, y_l)$$
#
# Every margin stays, and with it the loss. $c(x)$ is **not identified**: no amount of data will
# tell it. In the Hessian such a direction is an eigenvector with eigenvalue zero, one per prompt
# when all its answers are linked by comparisons.

# %%
prompts, K = 5, 4  # 5 prompts, 4 answers each; all 6 pairs within a prompt are compared
pairs = torch.combinations(torch.arange(K))  # (6, 2)
pairs = torch.cat([pairs + K * prompt for prompt in range(prompts)])  # (30, 2)
count = prompts * K
hess = hessian(torch.randn(count), design_matrix(pairs[:, 0], pairs[:, 1], count))
zeros = int((torch.linalg.eigvalsh(hess) < 1e-12).sum())
print(f"{count} rewards, {len(pairs)} comparisons: {zeros} zero eigenvalues, one for each prompt")
shifts = torch.eye(prompts).repeat_interleave(K, dim=0)  # (20, 5): a column shifts one prompt
assert zeros == prompts, "each linked prompt must add exactly one null direction"
assert torch.allclose(hess @ shifts, torch.zeros(count, prompts)), "a shift c(x) must cost nothing"

# %% [markdown]
# Now on real answers, those of the 160 **dev** prompts (kept for choices). We play reward model:
# first with the gold score itself, then with a copy that adds a wild random $c(x)$ to every prompt.
# How well do they order answers? **Kendall's tau** says it (1: same order, 0: unrelated, -1:
# reversed), *within* each prompt and averaged, or *pooled* over all answers of all prompts.
#
# **Predict**: which of the three numbers in the table change?

# %%
from bsr_lite.metrics import kendall_tau_b

gold = torch.tensor([g.gold[:4] for g in groups])  # (160, 4)
gold = gold[gold.std(1) > 0]  # one prompt's answers are all equally good: no order to find
shifted = gold + 3 * torch.randn(len(gold), 1)
sign = (gold[:, 0] - gold[:, 1]).sign()  # which of the first two is better, 0: neither


def pair_loss(r):
    margin = (sign * (r[:, 0] - r[:, 1]))[sign != 0]
    return losses.bt_loss(margin, torch.zeros_like(margin)).item()


assert abs(pair_loss(gold) - pair_loss(shifted)) < 1e-9, "the BT loss must not see c(x)"
assert torch.equal(gold.argmax(1), shifted.argmax(1)), "best-of-n must not change under c(x)"
torch.testing.assert_close(gold - gold.mean(1, keepdim=True),  # advantages
                           shifted - shifted.mean(1, keepdim=True))
pd.DataFrame({name: {"BT loss (nats)": pair_loss(r),
                     "tau within prompts": kendall_tau_b(r, gold).mean().item(),
                     "tau pooled": kendall_tau_b(r.ravel(), gold.ravel()).item()}
              for name, r in (("gold", gold), ("shifted by c(x)", shifted))}).round(3)

# %%
figure, axes = plots.panels(2, sharey=True)
for axis, r, title in ((axes[0], gold, "Gold: levels of prompts are alike"),
                       (axes[1], shifted, "With $c(x)$: the same to BT")):
    axis.vlines(range(12), r[:12].min(1).values, r[:12].max(1).values, color="#BBBBBB")
    axis.plot(r[:12], "o", markersize=4, color=plots.COLORS["bt"])
    plots.label(axis, "prompt", "rewards of its four answers (reward units)", title)

# %% [markdown]
# **What to see.** Each prompt's answers move together. No distance within a prompt changes, and BT
# sees nothing else.
#
# <details><summary>Answer</summary>
#
# Only the pooled tau: it mixes prompts. (Gold's own loss is not 0: its margins are small.)
# </details>
#
# Where does the level matter? Wherever rewards of *different* prompts meet: a threshold, pooled
# statistics, RL that does not subtract a per-prompt average (a **baseline**; reward minus baseline
# is the **advantage**). Where not? In picking the **best of $n$** sampled answers, and in
# advantages: the table's cell asserts both. Batch-wise sum-to-zero regularization (notebook 03)
# acts on this unseen level, through the mean of a batch.

# %% [markdown]
# ## 7. Few pairs: over-confidence
#
# Section 5 had at least 200 comparisons for 7 free numbers. A reward model gets **one label** a
# pair and has far more parameters than pairs. Only what pairs *share*, the features and the
# network, keeps a margin from $+\infty$.
#
# A toy: answers have 40 features, the true reward is linear in them, labels are drawn from BT. Fit
# the weights by gradient descent (3,000 passes over the same pairs, to see where the loss leads),
# and ask the fit about fresh pairs.

# %%
d, STEPS = 40, (10, 30, 100, 300, 1000, 3000)
truth = torch.randn(d) * 1.5 / d**0.5


def draw_pairs(count):
    difference = torch.randn(count, d) * 2**0.5  # features of answer a minus those of answer b
    a_wins = torch.rand(count) < torch.sigmoid(difference @ truth)
    return torch.where(a_wins[:, None], difference, -difference)  # chosen minus rejected


def train(features):
    weights, norms = torch.zeros(d), []
    for step in range(1, max(STEPS) + 1):
        push = torch.sigmoid(-features @ weights)  # (count,)
        weights = weights + 0.5 * features.T @ push / len(features)
        if step in STEPS:
            norms.append(weights.norm().item())
    return weights, norms

# %% [markdown]
# A fit *claims* $\sigma(|m|)$ for the answer that it prefers. **Predict**: with 60, 250 or 2,000
# pairs for 40 weights, which fit claims the most on fresh pairs, and which is right most often?

# %%
fresh, DRAWS = draw_pairs(20_000), 8
print(f"the truth itself is right {((fresh @ truth) > 0).double().mean():.2f}: judges are noisy")
fits, rows = {}, []
for count in (60, 250, 2000):
    draws = [draw_pairs(count) for _ in range(DRAWS)]
    fits[count] = [train(pairs) for pairs in draws]
    wrong = torch.stack([(pairs @ weights <= 0).double().mean()
                         for pairs, (weights, _) in zip(draws, fits[count], strict=True)])
    margins = fresh @ torch.stack([weights for weights, _ in fits[count]]).T  # (20000, DRAWS)
    loss = torch.stack([-torch.nn.functional.logsigmoid(scale * margins).mean(0)
                        for scale in torch.linspace(0, 1.5, 76)])  # (76, DRAWS)
    claims, right = torch.sigmoid(margins.abs()).mean(0), (margins > 0).double().mean(0)
    rows.append({"pairs": count, "training pairs wrong": wrong, "claims": claims, "right": right,
                 "fresh loss (nats)": loss[50], "at its best norm": loss.min(0).values})  # scale 1
table = pd.DataFrame(rows).set_index("pairs")
table.map(lambda x: f"{x.mean():.2f} ({x.min():.2f} to {x.max():.2f})")

# %%
TINTS = {60: "#332288", 250: "#882255", 2000: "#117733"}
figure, (left, right) = plots.panels(2)
left.plot([0.5, 1], [0.5, 1], color="grey", linewidth=0.8, label="right as often as claimed")
for count, results in fits.items():
    for weights, norms in results:
        margin = fresh @ weights
        bins = margin.abs().argsort().chunk(10)
        left.plot([torch.sigmoid(margin[b].abs()).mean() for b in bins],
                  [(margin[b] > 0).double().mean() for b in bins], color=TINTS[count], alpha=0.6,
                  linewidth=1, label=f"{count} pairs" if weights is results[0][0] else None)
        right.semilogx(STEPS, norms, color=TINTS[count], alpha=0.6, linewidth=1)
right.axhline(truth.norm(), color="grey", linewidth=0.8, linestyle=":", label="the true weights")
plots.label(left, "claimed probability $\\sigma(|m|)$", "share that is right, fresh pairs",
            "Fewer pairs: claims more, knows less")
plots.label(right, "passes over the pairs", "norm of the weights",
            "Only where pairs are few the norm grows on")
right.set_ylim(0)
left.legend(loc="upper left"), right.legend(loc="upper left");

# %% [markdown]
# **What to see** (a line a draw; the table: mean, smallest, largest of eight). With 60 pairs a fit
# claims .96 and is right .65; with 2,000 it means what it says. All eight fits to 60 pairs
# separate them perfectly, noise included, and their norm grows on: at the end about like the
# logarithm of the passes. After the first ten passes all norms were near the truth's or below.
#
# *Over-confidence is a norm too great for a direction that is partly wrong.* The last column keeps
# each direction and takes the best norm for fresh pairs: the loss falls from 3.3 to .62 nats, below
# "no opinion" (.69). The direction knew something.

# %% [markdown]
# ## 8. From free numbers to a language model
#
# A language model carries a vector, the **hidden state**, for each **token** (piece of a word). A
# reward model takes the last token's, $h(x, y) \in \mathbb{R}^H$, and applies one linear map, the
# **head** $W_p$ ($p$: projection; Eq. 2). It has no bias: BT could not see one. It starts at random
# with a norm of about 1. With $\psi$ the angle between the two,
#
# $$r = W_p^\top h = \lVert W_p\rVert\,\lVert h\rVert \cos\psi \qquad \text{(Eq. 16)},$$
# $$r_w - r_l = W_p^\top (h_w - h_l) = \lVert W_p\rVert\,\lVert h_w - h_l\rVert \cos\psi_\Delta
# \qquad \text{(Eq. 23)}.$$

# %% [markdown]
# A margin grows by any of the three factors. The paper sees the first stay near 1 all through
# training (Fig. 1). Is that a property of the loss? A toy without a network: the head and the
# differences of 64 pairs are free numbers, trained by **Adam**, which moves each weight by about
# its learning rate a step, however small the gradient. Only the rate changes; $5 \cdot 10^{-6}$ is
# the paper's for its 1B model.
#
# **Predict**: at which of the three rates does the norm of the head change by a tenth or more?

# %%
H, B = 576, 64  # the width of the small model of the next notebook
head_start, free_start = torch.randn(H) / (H + 1) ** 0.5, torch.randn(B, H) * 2**0.5
rows = []
for rate in (0, 5e-6, 1e-4, 1e-3):  # 0 shows the start
    head, free = head_start.clone().requires_grad_(), free_start.clone().requires_grad_()
    adam = torch.optim.Adam([head, free], lr=rate)
    for _ in range(400):
        adam.zero_grad()
        losses.bt_loss(free @ head, torch.zeros(B)).backward()
        adam.step()
    moved = (head - head_start).norm().item()
    assert moved <= 1.01 * rate * 400 * H**0.5, "Adam moves a weight by about its rate a step"
    norm, lengths, margin = head.norm(), free.norm(dim=1).mean(), (free @ head).mean()
    rows.append({"rate": f"{rate:.0e}" if rate else "start", "head moved by": moved,
                 "norm of the head": norm.item(), "mean norm of differences": lengths.item(),
                 "cosine": (margin / (norm * lengths)).item(), "mean margin": margin.item()})
pd.DataFrame(rows).set_index("rate").round(3)

# %% [markdown]
# <details><summary>Answer</summary>
#
# At the two larger ones.
# </details>
#
# At $5 \cdot 10^{-6}$ the norm is still, at $10^{-3}$ it grows by three quarters. Same loss,
# same toy: a still $W_p$ is no property of Bradley-Terry.
#
# Still is not idle. At the smallest rate the head moved by .047; 400 such steps allow at most
# $5 \cdot 10^{-6} \cdot 400 \cdot \sqrt{576} = .048$. Nearly all is sideways: the norms stay, and
# the *cosine* makes the margin. The paper's 1B model (width 2,048, 400 steps, a rate that decays)
# has room for .045. What the states of a real network do is not in this toy.

# %% [markdown]
# ## Exercises
#
# Each stub returns `None`; its checker then says "not attempted yet". A fold holds the first hint,
# and a wrong answer gets a second one from its checker. Solutions are in `notebooks/solutions/`.
#
# **1.** The true margin of two answers is $m$. How many comparisons of this pair does it take until
# the 95% interval of the margin is no wider than $\pm$ `half_width`? Return the smallest whole
# number. (Which margins are dear?)
#
# <details><summary>Hint</summary>
#
# What does one look at a pair of margin $m$ add to the Fisher information (Section 5)?
# </details>

# %%
from bsr_lite.course import checks


def comparisons_needed(margin, half_width):
    return None


checks.check_comparisons_needed(comparisons_needed);

# %% [markdown]
# **2.** Labels may be soft: a share $q$ of judges preferred the first answer. With the margin $m
# = r_{first} - r_{second}$ (a tensor of any shape; $q$ is a float) the loss of a pair is $-q
# \log\sigma(m) - (1-q) \log\sigma(-m)$. Return its derivative with respect to $m$, one number for
# each margin. (Where is it zero? No need to hand that in; compare with Section 4.)
#
# <details><summary>Hint</summary>
#
# Differentiate the two terms apart; the second is the first, mirrored in $m$.
# </details>

# %%
def soft_label_gradient(margin, q):
    return None


checks.check_soft_label_gradient(soft_label_gradient);

# %% [markdown]
# **3.** Comparisons need not cover all pairs. Given a list `compared` of tuples `(a, b)` among
# answers `0 .. count - 1` (it may be empty, and a pair may come twice): how many directions can
# Bradley-Terry not see? (Section 6 is a special case.)
#
# <details><summary>Hint</summary>
#
# Draw answers as points and comparisons as lines. Which vectors $v$ give $v_a = v_b$ for every
# compared pair?
# </details>

# %%
def invisible_directions(count, compared):
    return None


checks.check_invisible_directions(invisible_directions);

# %% [markdown]
# **4.** *Judge a record.* `study_lora` trained language models with BT: 900 pairs, one label each,
# one pass, four seeds. Someone says: "Millions of weights, 900 labels: like the 60-pair fits they
# claim far more than they know." From a model's margins and the true ones, both tensors, return
# what it claims on average for the answers it prefers, minus how often the judge of Section 1
# agrees. Then run the last cell; `bsr_lite.metrics.seed_interval` gives four seeds an interval. May
# the sentence stand?
#
# <details><summary>Hint</summary>
#
# Let the model prefer the second answer of a pair. With which probability, in terms of the true
# margin, does the judge prefer it, too?
# </details>

# %%
def overclaim(margins, true_margins):
    return None


checks.check_overclaim(overclaim);

# %%
from bsr_lite.studies.records import read_runs


def all_margins(scores):  # per prompt the rewards of its answers; returns those of all pairs
    differences = [torch.tensor(s)[:, None] - torch.tensor(s) for s in scores]  # (K, K) each
    return torch.cat([x[tuple(torch.triu_indices(*x.shape, 1))] for x in differences])


for part in ("in_domain", "prompt_disjoint", "response_disjoint"):  # new answers, prompts, sources
    found = [run["evaluation"]["scenarios"][part]
             for run in read_runs(Path("data/runs/study_lora"))["bt"]]
    print(f"{part:18s}", [overclaim(all_margins(s["rewards"]), all_margins(s["gold"]) / 0.5)
                          for s in found])

# %% [markdown]
# ## What you know now
#
# **Bradley-Terry is logistic regression on reward differences: it is blind to every prompt's level,
# and never content with a margin that nothing contradicts.**
#
# - A shift $c(x)$ is invisible to the loss, within-prompt tau, best-of-n and advantages.
# - Many comparisons: standard errors that keep their promise. 60 pairs, 40 features: claims .96,
#   right .65.
# - In the toy a small learning rate kept the head's norm still; the loss did not.
#
# Next: **02 · Do hidden norms disperse while a reward model is trained?** measures the three
# factors of Eq. 23 in a real one.
