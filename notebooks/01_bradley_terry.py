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
# **prompt**, a **reward model** scores them, and training raises the score. People find it hard
# to score a text and easy to say which of two is better, so reward models learn from comparisons.
# This notebook builds their loss from nothing.
#
# "The paper", here and in the next notebooks, is *On the Robustness of Reward Models for Language
# Model Alignment* (ICML 2025); "Eq. n" is an equation of it.

# %% [markdown]
# After it you can
# - derive the Bradley-Terry loss (Eq. 3) and its gradient, and recognise logistic regression in
#   it;
# - fit it to data with known answers and say how uncertain the fit is;
# - name the directions the loss cannot see, one per prompt, and show them as a null space;
# - take a reward apart into length, length and angle (Eq. 16, 22, 23), the paper's starting point.
#
# You need calculus, eigenvalues and a little PyTorch. No model is loaded; it runs in seconds.

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
import torch

from bsr_lite import losses, plots

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)  # so that checks of exact facts can be strict

# %% [markdown]
# ## 1. A comparison is a noisy look at two hidden numbers
#
# Give every answer a hidden quality $r$, its **reward**. A judge who compares answers $a$ and $b$
# does not see $r$ but $r$ plus noise, and picks the larger. Let the two noises be independent
# **Gumbel** variables (a skewed bell, the limit law of a maximum: $P(g \le x) = e^{-e^{-x}}$).
# Then
#
# $$P(a \text{ beats } b) = \sigma(r_a - r_b), \qquad \sigma(z) = \frac{1}{1 + e^{-z}}.$$
#
# This is the **Bradley-Terry (BT) model**. Only the difference, the **margin** $m = r_a - r_b$,
# matters.

# %% [markdown]
# **Why $\sigma$?** $a$ wins if $g_b < m + g_a$. Given $g_a$ this has probability $e^{-e^{-(m +
# g_a)}} = e^{-u e^{-m}}$ with $u = e^{-g_a}$, and $u$ is exponentially distributed. So
#
# $$P = \int_0^\infty e^{-u}\, e^{-u e^{-m}}\, du = \frac{1}{1 + e^{-m}} = \sigma(m).$$
#
# **Predict** before you run: with $r_a = 2$ and $r_b = 1$, how often does the worse answer win?

# %%
r_a, r_b = torch.tensor(2.0), torch.tensor(1.0)
gumbel = torch.distributions.Gumbel(0.0, 1.0)
seen_a = r_a + gumbel.sample((200_000,))
seen_b = r_b + gumbel.sample((200_000,))
share = (seen_a > seen_b).double().mean()
print(f"a wins {share:.3f} of 200,000 simulated looks; sigma(1) = {torch.sigmoid(r_a - r_b):.3f}")
assert abs(share - torch.sigmoid(r_a - r_b)) < 0.005, "Gumbel noise must give sigma(r_a - r_b)"

# %% [markdown]
# <details><summary>Answer</summary>
#
# More than one time in four: 27%. A margin of 1 is a weak preference. To be right 95% of the time
# the margin has to be $\ln 19 \approx 2.9$ (Exercise 1).
# </details>
#
# Rewards have a unit, then: one unit of margin multiplies the odds by $e \approx 2.72$. Keep this
# in mind whenever a reward model reports a margin of 8. It claims odds of 3,000 to 1.

# %% [markdown]
# ## 2. From the probability to the loss
#
# We are told which answer was **chosen** ($w$, won) and which **rejected** ($l$, lost). Maximum
# likelihood asks for the rewards that make these outcomes most probable; comparisons are
# independent, so log-probabilities add, and minus their mean over the $B$ comparisons is the loss
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
for margin in (-2.0, 0.0, 2.0, 4.0):
    print(f"margin {margin:+.0f}: loss {bt_loss(torch.tensor([margin]), torch.zeros(1)):.3f} nats")

# %% [markdown]
# `torch.log(torch.sigmoid(x))` breaks at both ends. At a margin of -800 the sigmoid underflows to
# 0 and its logarithm is $-\infty$; above 37 it rounds to 1 and both the loss and its gradient
# become exactly 0 (in float32 far sooner, at 17). The library uses `logsigmoid`, the same
# function without the detour. In between the two agree.

# %%
w, l = 3 * torch.randn(1000), 3 * torch.randn(1000)
torch.testing.assert_close(losses.bt_loss(w, l), bt_loss(w, l))
wrong = torch.tensor([-800.0]), torch.zeros(1)
print("by hand:", bt_loss(*wrong).item(), "  library:", losses.bt_loss(*wrong).item())
assert losses.bt_loss(*wrong) == 800, "far on the wrong side the loss is minus the margin"

# %% [markdown]
# ## 3. It is logistic regression
#
# Put the $n$ rewards into a vector $r$ and write one row per comparison: $+1$ in the winner's
# column, $-1$ in the loser's. With this design matrix $D$ the margins are $Dr$, and $L_{BT}$ is
# the loss of logistic regression without intercept on the features $D$, with every label 1.
#
# (Labels that are all 1 are harmless: flipping the sign of a row flips its label.) So everything
# known about logistic regression holds: the loss is convex in $r$, there are standard errors, and
# there are the two classical troubles, directions that the data do not touch and data that can be
# separated perfectly. Both come back below.

# %%
def design_matrix(winners, losers, n):
    rows = torch.zeros(len(winners), n)
    index = torch.arange(len(winners))
    rows[index, winners], rows[index, losers] = 1.0, -1.0
    return rows  # (B, n)


winners, losers = torch.tensor([0, 0, 1, 2]), torch.tensor([1, 2, 2, 1])
r_small, D_small = torch.tensor([1.0, 0.5, -0.5]), design_matrix(winners, losers, n=3)
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
w, l = torch.randn(5, requires_grad=True), torch.randn(5, requires_grad=True)
losses.bt_loss(w, l).backward()
by_hand = -torch.sigmoid(-(w - l)).detach() / 5
torch.testing.assert_close(w.grad, by_hand)
torch.testing.assert_close(l.grad, -by_hand)
assert torch.equal(w.grad, -l.grad), (
    "as free numbers, chosen and rejected must be pushed apart equally: BT never moves their mean")

# %%
figure, (left, right) = plots.panels(2)
m = torch.linspace(-4, 6, 200)
left.plot(m, -torch.nn.functional.logsigmoid(m), color=plots.COLORS["bt"])
left.axhline(torch.log(torch.tensor(2.0)), color="grey", linewidth=0.8, linestyle=":")
right.plot(m, torch.sigmoid(-m), color=plots.COLORS["bt"])
right.plot(m, torch.exp(-m).clamp(max=1), color="grey", linestyle=":", label="its limit $e^{-m}$")
plots.label(left, "margin $r_w - r_l$ (reward units)", "loss (nats)", "loss of one pair")
plots.label(right, "margin $r_w - r_l$ (reward units)", "push on the margin, $\\sigma(-m)$",
            "gradient: fades, never stops")
right.legend();

# %% [markdown]
# **What to see.** Left: at zero margin the loss is $\ln 2$ (dotted). Right: pairs on the wrong
# side are pushed with force near 1, and pairs that are right by a wide margin still get a push of
# about $e^{-m}$. It fades but is never 0. *For one pair with one label there is no margin at
# which BT is content.* Only comparisons that contradict each other, or features shared with other
# pairs, can stop it. That is where **over-optimization** can start: a training score that rises
# while the true quality no longer does.

# %% [markdown]
# ## 5. Maximum likelihood with known answers
#
# Eight answers with known strengths, compared at random. Only differences count, so we fix the
# mean strength at 0. The loss is convex, so a few Newton steps reach the optimum. They need the
# second derivative. For one margin it is $\frac{d}{dm}[-\sigma(-m)] = \sigma(m)\,\sigma(-m)$;
# with the vector of margins $m = Dr$ the chain rule, twice, gives the **Hessian**
#
# $$\nabla^2 L_{BT} = \frac{1}{B} D^\top \mathrm{diag}\bigl(\sigma(m)\,\sigma(-m)\bigr) D .$$

# %% [markdown]
# $B\,\nabla^2 L_{BT}$ is the **Fisher information**; its inverse is, for large samples, the
# covariance of the estimate. It has a zero direction (all strengths up together), so we take the
# pseudo-inverse, which leaves that direction out: exactly what fixing the mean at 0 does.

# %%
def hessian(r, D):
    p = torch.sigmoid(D @ r)
    return D.T @ ((p * (1 - p))[:, None] * D) / len(D)  # (n, n)


def fit(D, steps=30):
    r = torch.zeros(D.shape[1])
    for _ in range(steps):
        gradient = -D.T @ torch.sigmoid(-D @ r) / len(D)
        r = r - torch.linalg.pinv(hessian(r, D), rtol=1e-8) @ gradient
    return r  # (n,), mean 0 because pinv never moves along the null direction


torch.testing.assert_close(
    torch.autograd.functional.hessian(
        lambda r: losses.bt_loss(D_small @ r, torch.zeros(4)), r_small),
    hessian(r_small, D_small), msg="the Hessian by hand must be autograd's")

# %%
strength = torch.tensor([-1.5, -1.0, -0.5, 0.0, 0.0, 0.5, 1.0, 1.5])


def simulate(comparisons):
    pairs = torch.stack([torch.randperm(8)[:2] for _ in range(comparisons)])  # (B, 2)
    margin = strength[pairs[:, 0]] - strength[pairs[:, 1]]
    second_wins = torch.rand(comparisons) > torch.sigmoid(margin)
    pairs[second_wins] = pairs[second_wins].flip(1)
    return design_matrix(pairs[:, 0], pairs[:, 1], n=8)

# %%
figure, axes = plots.panels(2, sharey=True)
shown = strength + torch.tensor([0, 0, 0, -0.06, 0.06, 0, 0, 0])  # two answers are equally strong
for axis, comparisons in zip(axes, (100, 1600), strict=True):
    D = simulate(comparisons)
    estimate = fit(D)
    error = torch.linalg.pinv(len(D) * hessian(estimate, D), rtol=1e-8).diagonal().sqrt()
    axis.errorbar(shown, estimate, 1.96 * error, fmt="o", color=plots.COLORS["bt"], capsize=3)
    axis.plot([-1.7, 1.7], [-1.7, 1.7], color="grey", linewidth=0.8, label="truth")
    plots.label(axis, "true strength (reward units)", "estimate, 95% interval",
                f"{comparisons} comparisons, mean standard error {error.mean():.2f}")

# %% [markdown]
# **What to see.** Sixteen times the data, a quarter of the error: $1/\sqrt{B}$. With 100
# comparisons neighbours cannot be told apart. One comparison tells most about a margin near 0
# (there $\sigma(m)\sigma(-m) = 1/4$) and almost nothing about a large one. Even at best, $k$
# looks at a pair give its margin a standard error of $2/\sqrt{k}$: 16 looks, $\pm 1$ at 95%.
#
# An interval should be believed only if it is right as often as it says. Repeat the experiment 300
# times and count.

# %%
hits = []
for _ in range(300):
    D = simulate(200)
    estimate = fit(D)
    error = torch.linalg.pinv(len(D) * hessian(estimate, D), rtol=1e-8).diagonal().sqrt()
    hits.append((estimate - strength).abs() < 1.96 * error)
coverage = torch.stack(hits).double().mean().item()
print(f"95% intervals that hold the truth: {coverage:.3f} (300 fits, 8 intervals each)")
assert 0.93 < coverage < 0.97, "the Fisher information must give honest intervals here"

# %% [markdown]
# ## 6. What Bradley-Terry cannot see
#
# In RLHF, answers compete only with answers to the *same* prompt: there is one BT model per
# prompt $x$ (Eq. 4), and one network ties them together. Add to all rewards of a prompt any
# number $c(x)$:
#
# $$\bigl(r(x, y_w) + c(x)\bigr) - \bigl(r(x, y_l) + c(x)\bigr) = r(x, y_w) - r(x, y_l)$$
#
# Every margin, the loss and all its derivatives in the rewards stay as they are. $c(x)$ is **not
# identified**: no amount of data will tell it. In the Hessian such a direction is an eigenvector
# with eigenvalue zero; there is one per prompt when all its answers are linked by comparisons.

# %%
prompts, K = 5, 4  # 5 prompts, 4 answers each; all 6 pairs within a prompt are compared
pairs = torch.combinations(torch.arange(K))  # (6, 2)
pairs = torch.cat([pairs + K * prompt for prompt in range(prompts)])  # (30, 2)
n = prompts * K
hess = hessian(torch.randn(n), design_matrix(pairs[:, 0], pairs[:, 1], n))
eigenvalues = torch.linalg.eigvalsh(hess)
zeros = int((eigenvalues < 1e-12).sum())
print(f"{n} rewards, {len(pairs)} comparisons: {zeros} zero eigenvalues, one for each prompt")
shifts = torch.eye(prompts).repeat_interleave(K, dim=0)  # (20, 5): column p shifts all of prompt p
assert zeros == prompts, "each linked prompt must add exactly one null direction"
assert torch.allclose(hess @ shifts, torch.zeros(n, prompts)), "a shift c(x) must cost nothing"

# %% [markdown]
# Now on real answers. The pocket world (`data/pocket/`) holds answers of small language models
# with a known **gold** quality, a sum of five readable rules. We play reward model: first with
# the gold score itself, then with a copy that adds a wild random $c(x)$ to every prompt.
#
# Two ways to ask how well rewards order answers, both with **Kendall's tau** (1: same order, 0:
# unrelated, -1: reversed): *within* each prompt, then averaged, or *pooled* over all answers of
# all prompts.
#
# **Predict**: which of the three numbers change?

# %%
from bsr_lite.data import read_groups
from bsr_lite.metrics import kendall_tau_b

groups = [g for g in read_groups("data/pocket/pocket.jsonl.gz", "pocket") if g.split == "dev"]
gold = torch.tensor([g.gold[:4] for g in groups])  # (160, 4)
gold = gold[gold.std(1) > 0]  # one prompt's answers are all equally good: no order to find
shifted = gold + 3 * torch.randn(len(gold), 1)
first_wins = gold[:, 0] > gold[:, 1]  # the pairs for the loss


def pair_loss(r):
    return losses.bt_loss(r[first_wins, 0], r[first_wins, 1]).item()

# %%
print("                      gold   shifted by c(x)")
for name, measure in {
        "BT loss (nats)": pair_loss,
        "tau within prompts": lambda r: kendall_tau_b(r, gold).mean(),
        "tau pooled": lambda r: kendall_tau_b(r.ravel(), gold.ravel()).item()}.items():
    print(f"{name:20s} {measure(gold):6.3f}   {measure(shifted):6.3f}")
assert abs(pair_loss(gold) - pair_loss(shifted)) < 1e-9, "the BT loss must not see c(x)"

# %% [markdown]
# <details><summary>Answer</summary>
#
# Only the pooled tau. Loss and within-prompt tau are blind to $c(x)$; pooled tau mixes prompts,
# and the shift buries it.
# </details>
#
# BT leaves the level of each prompt's rewards to chance and to the network. Where does it matter?
# Wherever rewards of *different* prompts meet: a threshold, pooled statistics, RL without a
# baseline per prompt. Where does it not? In picking the **best of $n$** sampled answers, and in
# RL that subtracts the prompt's mean reward. Check both.
#
# Remember the blindness: batch-wise sum-to-zero regularization (notebook 03) acts on this unseen
# level, through the mean of a batch.

# %%
picked, picked_shifted = gold.argmax(1), shifted.argmax(1)
assert torch.equal(picked, picked_shifted), "best-of-n must not change under a shift c(x)"
advantage = gold - gold.mean(1, keepdim=True)
advantage_shifted = shifted - shifted.mean(1, keepdim=True)
torch.testing.assert_close(advantage, advantage_shifted)
print("best-of-4 and rewards minus the prompt's mean are the same with and without c(x)")

# %% [markdown]
# ## 7. Few pairs: over-confidence
#
# Section 5 had 200 comparisons for 7 free numbers. A reward model sees each pair **once** and has
# far more parameters than pairs. Judged alone, a pair that was seen once has its best margin at
# $+\infty$, whether its label is right or noise. Only what pairs *share*, the features and the
# network, says no.
#
# Watch it: answers have 40 features, the true reward is linear in them, labels are drawn from BT.
# Fit the weights by gradient descent on few and on many pairs, and ask the fit about fresh pairs.

# %%
d = 40
truth = torch.randn(d) * 1.5 / d**0.5


def draw_pairs(count):
    difference = torch.randn(count, d) * 2**0.5  # features of answer a minus those of answer b
    a_wins = torch.rand(count) < torch.sigmoid(difference @ truth)
    return torch.where(a_wins[:, None], difference, -difference)  # chosen minus rejected


def train(features, steps):
    weights = torch.zeros(d)
    for _ in range(steps):
        push = torch.sigmoid(-features @ weights)  # (count,)
        weights = weights + 0.5 * features.T @ push / len(features)
    return weights

# %%
fresh, STEPS = draw_pairs(20_000), (10, 30, 100, 300, 1000)
print(f"   truth: right {((fresh @ truth) > 0).double().mean():.2f}; judges are noisy")
fits = {}
for count in (60, 250, 4000):
    pairs = draw_pairs(count)
    path = [train(pairs, steps) for steps in STEPS]
    fits[count] = path
    margin = fresh @ path[-1]
    print(f"{count:5d} pairs: says {torch.sigmoid(margin.abs()).mean():.2f}, right "
          f"{(margin > 0).double().mean():.2f}; training pairs on the wrong side: "
          f"{((pairs @ path[-1]) <= 0).sum()}; cosine with the truth "
          f"{torch.cosine_similarity(path[-1], truth, dim=0):.2f}")

# %%
figure, (left, right) = plots.panels(2)
for (count, path), tint in zip(fits.items(), ("#DDAA33", "#BB5566", "#004488"), strict=True):
    margin = fresh @ path[-1]
    bins = margin.abs().argsort().chunk(12)
    left.plot([torch.sigmoid(margin[b].abs()).mean() for b in bins],
              [(margin[b] > 0).double().mean() for b in bins], "o-", ms=3, color=tint)
    right.semilogx(STEPS, [w.norm() for w in path], "o-", ms=3, color=tint, label=f"{count} pairs")
left.plot([0.5, 1], [0.5, 1], color="grey", linewidth=0.8)
right.axhline(truth.norm(), color="grey", linewidth=0.8, label="the true weights")
plots.label(left, "claimed probability $\\sigma(|margin|)$", "share that is right", "fresh pairs")
plots.label(right, "gradient steps", "length of the weights", "only the separable fit grows on")
right.legend();

# %% [markdown]
# **What to see.** With 4,000 pairs the fit means what it says (left, near the diagonal) and is as
# often right as the truth itself can be against noisy judges. With 250 it claims too much. With
# 60 pairs and 40 features the training data are separated perfectly, noise included: most claims
# crowd at certainty, about 6 in 10 are right, and the weights grow like the logarithm of the
# steps.
#
# *Over-confidence is a length too great for a direction that is partly wrong; and where the data
# can be separated, nothing in the loss stops the length.* A language model has many more than 40
# features. What grows in it? That needs one more step.

# %% [markdown]
# ## 8. The reward head: Eq. 16, 22 and 23
#
# A language model reads text as **tokens** (pieces of words) and carries a vector for each, the
# **hidden state**. A reward model takes the last token's, $h(x, y) \in \mathbb{R}^H$, and applies
# one linear map without bias, the **head** (Eq. 2). Its weights start at random with variance
# $1/(H+1)$, so that $E\lVert W_p \rVert^2 \approx 1$.
#
# $$r(x, y) = W_p^\top h(x, y) = \lVert W_p\rVert\,\lVert h\rVert \cos\psi \qquad \text{(Eq. 16)}$$
#
# The second form defines the angle $\psi$ between $W_p$ and $h$. A large reward needs a long
# head, a long hidden state, or a small angle.

# %%
from bsr_lite.dispersion import margin_decomposition, reward_decomposition

H, B = 576, 64  # the width of the small model of the next notebook
W = torch.randn(H) / (H + 1) ** 0.5
h_w, h_l = torch.randn(B, H), torch.randn(B, H)
parts = reward_decomposition(h_w, W)
product = parts["head_norm"] * parts["hidden_norm"] * parts["cosine"]
torch.testing.assert_close(product, h_w @ W, msg="Eq. 16 must be exact")
print(f"length of a fresh head: {W.norm():.3f} (its expected square is H / (H + 1))")

# %% [markdown]
# **The margin (Eq. 23).** The head is linear, so the margin is the head applied to the
# *difference* of hidden states, and the same decomposition holds for it:
#
# $$r_w - r_l = W_p^\top (h_w - h_l) = \lVert W_p\rVert\,\lVert h_w - h_l\rVert \cos\psi_\Delta$$
#
# **The gradient on the head (Eq. 18 to 22).** Chain rule with Section 4, for one pair with margin
# $m$:
#
# $$\frac{\partial L}{\partial W_p} = \frac{dL}{dm} \cdot \frac{\partial m}{\partial W_p} =
# -\sigma(-m)\,(h_w - h_l)$$
#
# Descent moves $W_p$ *towards* $h_w - h_l$. By the same rule the hidden states are pushed along
# the head: $\partial L / \partial h_w = -\sigma(-m)\,W_p$ and $\partial L / \partial h_l =
# +\sigma(-m)\,W_p$.

# %%
difference = margin_decomposition(h_w, h_l, W)
margin = (h_w - h_l) @ W
torch.testing.assert_close(
    difference["head_norm"] * difference["hidden_norm"] * difference["cosine"], margin)

W.requires_grad_(), h_w.requires_grad_()
losses.bt_loss(h_w @ W, h_l @ W).backward()
push = torch.sigmoid(-margin)[:, None]  # (B, 1)
torch.testing.assert_close(W.grad, -(push * (h_w - h_l)).mean(0).detach(), msg="Eq. 22")
torch.testing.assert_close(h_w.grad, -(push * W).detach() / B, msg="the push on h_w")

# %% [markdown]
# ## 9. Who grows? The loss does not say
#
# To widen a margin that is positive, $W_p$ can get longer, $h_w - h_l$ can get longer, or the
# angle can shrink. The paper observes that $\lVert W_p\rVert$ stays near 1 (Fig. 1) and concludes
# that the hidden states take the growth. Does the loss demand it? A toy: no network, the head and
# each difference $\Delta_i = h_{w,i} - h_{l,i}$ are free numbers, plain gradient descent.
#
# **Predict**: $W_p$ is one vector of length 1, the 64 differences have length 34. Which gets
# longer, relative to its size?

# %%
W = (torch.randn(H) / (H + 1) ** 0.5).requires_grad_()
delta = (torch.randn(B, H) * 2**0.5).requires_grad_()  # h_w - h_l of 64 pairs, free to move


def factors():  # their product is the mean margin
    parts = reward_decomposition(delta.detach(), W.detach())
    length, margin = parts["hidden_norm"].mean(), (delta @ W).detach().mean()
    return [parts["head_norm"], length, margin / (parts["head_norm"] * length), margin]


def conserved():
    return (W.square().sum() - delta.square().sum()).item()

# %%
before, law, squared = factors(), conserved(), W.detach().square().sum()
optimizer = torch.optim.SGD([W, delta], lr=1e-3)
for _ in range(2000):
    optimizer.zero_grad()
    losses.bt_loss(delta @ W, torch.zeros(B)).backward()
    optimizer.step()
NAMES = ("|W_p|", "mean |delta|", "mean margin / lengths", "mean margin")
for name, a, b in zip(NAMES, before, factors(), strict=True):
    print(f"{name:22s} {a:8.4f} -> {b:8.4f}")
grown = (W.detach().square().sum() - squared).item()
assert abs(conserved() - law) < 0.01 * grown, "|W|^2 - sum |delta|^2 must stay (see below)"

# %% [markdown]
# <details><summary>Answer</summary>
#
# The head, by a quarter; the differences do not move. At the start the push on $W_p$ has length
# about $\tfrac12 \cdot 34 / \sqrt{64} \approx 2$, that on each $\Delta_i$ about $\tfrac12 / 64
# \approx 0.008$. And neither length made the margin: the head *turned*.
# </details>
#
# There is even a law. With $\dot W = \frac1B \sum_i \sigma(-m_i) \Delta_i$ and $\dot\Delta_i =
# \frac1B \sigma(-m_i) W$, in the limit of small steps,
#
# $$\tfrac{d}{dt} \lVert W \rVert^2 = 2 W^\top \dot W = \tfrac{2}{B} \textstyle\sum_i \sigma(-m_i)\,
# m_i = \sum_i 2 \Delta_i^\top \dot\Delta_i = \tfrac{d}{dt} \sum_i \lVert \Delta_i \rVert^2 .$$

# %% [markdown]
# Both gain the same *squared* length, shared by one vector on one side and 64 on the other. So a
# still $W_p$ does **not** follow from the Bradley-Terry gradient.
#
# A small learning rate is enough to explain it. Adam moves each weight by at most about its
# learning rate $\eta$ a step, whatever the gradient's size, and less when the gradient's sign
# changes. Over $T$ steps of a decaying schedule (mean about $\eta/2$) the length of the head can
# change by at most about $\tfrac12 \eta\,T\sqrt{H}$. With the paper's settings (global batch 128,
# one epoch):

# %%
for name, rate, pairs, width in (("1B, UltraFeedback", 5e-6, 51_200, 2048),
                                 ("8B, Skywork-80K", 2e-6, 80_000, 4096)):
    reach = 0.5 * rate * (pairs / 128) * width**0.5
    print(f"paper, {name:18s}: |W_p| starts near 1 and can change by at most about {reach:.3f}")

# %%
W = (torch.randn(H) / (H + 1) ** 0.5).requires_grad_()
first, adam, bound = W.detach().clone(), torch.optim.Adam([W], lr=5e-6), 5e-6 * 400 * H**0.5
for _ in range(400):  # always the same pairs: the push never changes sign, the best case for moving
    adam.zero_grad()
    losses.bt_loss(delta.detach() @ W, torch.zeros(B)).backward()
    adam.step()
moved, now = (W - first).norm().item(), W.norm().item()
print(f"400 steps at 5e-6: moved by {moved:.3f} of at most {bound:.3f}; "
      f"|W_p| {first.norm():.3f} -> {now:.3f}")
assert 0.9 * bound < moved < 1.01 * bound, "Adam must move a weight by about lr a step here"

# %% [markdown]
# **What to take along.** The paper's Fig. 1 is what a small learning rate predicts. The same
# holds for hidden states that are *free* numbers; what a network does, whose layers all move and
# whose states share weights, is not in this toy. Given a still head, Eq. 23 leaves the length of
# $h_w - h_l$ and its angle to the head. Which of the two grows is a question for measurement:
# notebook 02.

# %% [markdown]
# ## Exercises
#
# Each stub returns `None`; its checker then says "not attempted yet". Solutions are in
# `notebooks/solutions/`.
#
# **1.** Which margin does it take for the better answer to win with probability $p$ (a Python
# float)?

# %%
from bsr_lite.course import checks


def margin_for(p):
    return None


checks.check_margin_for(margin_for);

# %% [markdown]
# **2.** Labels may be soft: a share $q$ of judges preferred the first answer. With the margin $m
# = r_{first} - r_{second}$ (a tensor; $q$ is a float) the loss of a pair is $-q \log\sigma(m) -
# (1-q) \log\sigma(-m)$. Return its derivative with respect to $m$. (Where is it zero? Compare
# with Section 4.)

# %%
def soft_label_gradient(margin, q):
    return None


checks.check_soft_label_gradient(soft_label_gradient);

# %% [markdown]
# **3.** Comparisons need not cover all pairs. Given a list `compared` of tuples `(a, b)` among
# answers `0 .. n-1` (it may be empty, and a pair may come twice): how many directions can
# Bradley-Terry not see? (Draw answers as points and comparisons as lines. Section 6 is a special
# case.)

# %%
def invisible_directions(n, compared):
    return None


checks.check_invisible_directions(invisible_directions);

# %% [markdown]
# **4.** The gradient of the mean BT loss on the *rejected* hidden states, by hand. Shapes: (B, H),
# (B, H), (H,) in, (B, H) out.

# %%
def rejected_gradient(hidden_chosen, hidden_rejected, head_weight):
    return None


checks.check_rejected_gradient(rejected_gradient);

# %% [markdown]
# ## What you know now
#
# - Gumbel-noisy comparisons give $\sigma$ of the margin; maximum likelihood gives $L_{BT}$; it is
#   logistic regression on differences, with honest standard errors when comparisons far outnumber
#   parameters.
# - Its gradient is $\sigma(-m)$, equal and opposite in a pair, never zero.
# - A shift $c(x)$ per prompt is invisible to the loss, to within-prompt tau, to best-of-n and to
#   per-prompt advantages.
# - Few pairs and many features: certainty without knowledge.
# - $r_w - r_l = \lVert W_p\rVert\,\lVert h_w - h_l\rVert\cos\psi_\Delta$, and a small learning
#   rate keeps the first factor still.
#
# Next: **02 · Do hidden norms disperse?** measures the other two in a real reward model.
