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
# People find it hard to score a text and easy to say which of two is better. A reward model turns
# such comparisons into numbers. This notebook builds its loss from nothing.
#
# After it you can
# - derive the Bradley-Terry loss (Eq. 3) and its gradient, and recognise logistic regression in
#   it;
# - fit it to data with known answers and say how uncertain the fit is;
# - name the direction the loss cannot see, and show it as a null space;
# - take a reward apart into length, length and angle (Eq. 16 to 23), the paper's starting point.
#
# You need calculus and a little PyTorch. No model is loaded; it runs in seconds.

# %%
import os
from pathlib import Path

import torch

from bsr_lite import checks, losses, plots

ROOT = next(p for p in (Path.cwd(), *Path.cwd().parents) if (p / "data/pocket").exists())
os.chdir(ROOT)  # paths below start at the repository's root
torch.manual_seed(0)
torch.set_default_dtype(torch.float64)  # so that checks of exact facts can be strict

# %% [markdown]
# ## 1. A comparison is a noisy look at two hidden numbers
#
# Give every answer a hidden quality $r$. A judge who compares answers $a$ and $b$ does not see $r$
# but $r$ plus noise, and picks the larger. If the two noises follow a Gumbel distribution (the
# bell-like curve of "largest of many"), then
#
# $$P(a \text{ beats } b) = \sigma(r_a - r_b), \qquad \sigma(z) = \frac{1}{1 + e^{-z}}.$$
#
# This is the **Bradley-Terry (BT) model**. Only the *difference*, the **margin**, matters.
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
# likelihood asks for the rewards that make these outcomes most probable; minus the mean
# log-probability is the loss (Eq. 3):
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
# `torch.log(torch.sigmoid(x))` breaks for confident mistakes: at a margin of -800 the sigmoid
# underflows to 0 and its logarithm is $-\infty$. The library uses `logsigmoid`, which computes the
# same function without the detour. Everywhere else the two agree.

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
# the logistic regression of a label that is always 1 on the features $D$.
#
# So everything known about logistic regression holds: the loss is convex in $r$, there are
# standard errors, and there are the two classical troubles, directions that the data do not touch
# and data that can be separated perfectly. Both come back below.

# %%
def design_matrix(winners, losers, n):
    rows = torch.zeros(len(winners), n)
    index = torch.arange(len(winners))
    rows[index, winners], rows[index, losers] = 1.0, -1.0
    return rows  # (B, n)


winners, losers = torch.tensor([0, 0, 1, 2]), torch.tensor([1, 2, 2, 1])
r, D = torch.tensor([1.0, 0.5, -0.5]), design_matrix(winners, losers, n=3)
print(D.int())
logistic = torch.nn.functional.binary_cross_entropy_with_logits(D @ r, torch.ones(4))
assert torch.isclose(logistic, bt_loss(r[winners], r[losers])), "BT is logistic regression on D"

# %% [markdown]
# ## 4. The gradient by hand
#
# Differentiate one pair's loss with respect to its margin $m = r_w - r_l$, using
# $\sigma'(z) = \sigma(z)\,\sigma(-z)$:
#
# $$\frac{d}{dm}\bigl[-\log \sigma(m)\bigr] = -\frac{\sigma(m)\,\sigma(-m)}{\sigma(m)}
# = -\sigma(-m)$$
#
# and by the chain rule $\partial L / \partial r_w = -\sigma(-m)/B$, $\partial L / \partial r_l =
# +\sigma(-m)/B$. The number $\sigma(-m)$ is the probability that the model gives to the outcome
# that did *not* happen. Surprise pushes; the two pushes of a pair are equal and opposite.

# %%
w, l = torch.randn(5, requires_grad=True), torch.randn(5, requires_grad=True)
losses.bt_loss(w, l).backward()
by_hand = -torch.sigmoid(-(w - l)).detach() / 5
torch.testing.assert_close(w.grad, by_hand)
torch.testing.assert_close(l.grad, -by_hand)
assert torch.isclose((w.grad + l.grad).sum(), torch.tensor(0.0)), (
    "BT can never push chosen and rejected the same way: its gradient sums to zero in each pair")

# %%
figure, (left, right) = plots.panels(2)
m = torch.linspace(-4, 6, 200)
left.plot(m, -torch.nn.functional.logsigmoid(m), color=plots.COLORS["bt"])
left.axhline(torch.log(torch.tensor(2.0)), color="grey", linewidth=0.8, linestyle=":")
right.plot(m, torch.sigmoid(-m), color=plots.COLORS["bt"])
right.plot(m, torch.exp(-m).clamp(max=1), color="grey", linestyle=":", label="min(1, $e^{-m}$)")
plots.label(left, "margin $r_w - r_l$ (reward units)", "loss (nats per pair)", "loss")
plots.label(right, "margin $r_w - r_l$ (reward units)", "push on the margin, $\\sigma(-m)$",
            "gradient: fades, never stops")
right.legend();

# %% [markdown]
# **What to see.** Left: at zero margin the loss is $\ln 2$ (dotted). Right: pairs on the wrong
# side are pushed with force near 1, and pairs that are right by a wide margin still get a push of
# about $e^{-m}$. It fades but is never 0. *Bradley-Terry has no margin at which it is content*,
# however sure the labels are. That is where over-optimization can start.

# %% [markdown]
# ## 5. Maximum likelihood with known answers
#
# Eight answers with known strengths, compared at random. Because only differences count, we fix
# the mean strength at 0. The loss is convex, so a few Newton steps reach the optimum. Its second
# derivative (the **Hessian**) per comparison is
#
# $$\nabla^2 L = \frac{1}{B} D^\top \mathrm{diag}\bigl(\sigma(m)\,\sigma(-m)\bigr) D ,$$
#
# and large-sample theory says: the covariance of the estimate is the (pseudo-)inverse of $B$ times
# it, the **Fisher information**.

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

# %%
strength = torch.tensor([-1.5, -1.0, -0.5, 0.0, 0.0, 0.5, 1.0, 1.5])


def simulate(comparisons):
    pairs = torch.stack([torch.randperm(8)[:2] for _ in range(comparisons)])  # (B, 2)
    margin = strength[pairs[:, 0]] - strength[pairs[:, 1]]
    second_wins = torch.rand(comparisons) > torch.sigmoid(margin)
    pairs[second_wins] = pairs[second_wins].flip(1)
    return design_matrix(pairs[:, 0], pairs[:, 1], n=8)

# %%
torch.testing.assert_close(
    torch.autograd.functional.hessian(lambda r: losses.bt_loss(D @ r, torch.zeros(4)), r),
    hessian(r, D), msg="the Hessian by hand must be autograd's")

# %%
figure, axes = plots.panels(2, sharey=True)
for axis, comparisons in zip(axes, (100, 1600), strict=True):
    D = simulate(comparisons)
    estimate = fit(D)
    error = torch.linalg.pinv(len(D) * hessian(estimate, D), rtol=1e-8).diagonal().sqrt()
    axis.errorbar(strength, estimate, 1.96 * error, fmt="o", color=plots.COLORS["bt"], capsize=3)
    axis.plot([-1.7, 1.7], [-1.7, 1.7], color="grey", linewidth=0.8)
    plots.label(axis, "true strength (reward units)", "estimate, 95% interval",
                f"{comparisons} comparisons: standard error {error.mean():.2f}")

# %% [markdown]
# **What to see.** Sixteen times the data, a quarter of the error: $1/\sqrt{B}$. With 100
# comparisons neighbours cannot be told apart. A preference carries at most one bit, and at a
# small margin much less than one.
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
print(f"95% intervals that hold the truth: {coverage:.3f} of 2,400")
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
# Every margin, the loss and every gradient stay as they are. $c(x)$ is **not identified**: no
# amount of data will tell it. In the Hessian such a direction is a zero eigenvalue, one for each
# prompt.

# %%
P, K = 5, 4  # 5 prompts, 4 answers each; all 6 pairs within a prompt are compared
pairs = torch.combinations(torch.arange(K))  # (6, 2)
pairs = torch.cat([pairs + K * prompt for prompt in range(P)])  # (30, 2)
H = hessian(torch.randn(P * K), design_matrix(pairs[:, 0], pairs[:, 1], P * K))
eigenvalues = torch.linalg.eigvalsh(H)
zeros = int((eigenvalues < 1e-12).sum())
print(f"{P * K} rewards, {len(pairs)} comparisons: {zeros} zero eigenvalues, one for each prompt")
shifts = torch.eye(P).repeat_interleave(K, dim=0)  # (20, 5): column p shifts all of prompt p
assert zeros == P, "each prompt must add exactly one null direction"
assert torch.allclose(H @ shifts, torch.zeros(P * K, P)), "a shift c(x) must cost nothing"

# %% [markdown]
# Now on real answers. The pocket world (`data/pocket/`) holds answers of small language models
# with a known gold quality. We play reward model: first with the gold score itself, then with a
# copy that adds a wild random $c(x)$ to every prompt.
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
shifted = gold + 3 * torch.randn(len(gold), 1)
print("                      gold   shifted by c(x)")
for name, measure in {
    "BT loss (nats)": lambda r: losses.bt_loss(r[gold[:, 0] > gold[:, 1]][:, 0],
                                               r[gold[:, 0] > gold[:, 1]][:, 1]).item(),
    "tau within prompts": lambda r: kendall_tau_b(r, gold).mean(),
    "tau pooled": lambda r: kendall_tau_b(r.ravel(), gold.ravel()).item()}.items():
    print(f"{name:20s} {measure(gold):6.3f}   {measure(shifted):6.3f}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# Only the pooled tau. Loss and within-prompt tau are blind to $c(x)$; pooled tau mixes prompts,
# and the shift buries it.
# </details>
#
# Remember this blindness. BT leaves the level of each prompt's rewards to chance and to the
# network. Batch-wise sum-to-zero regularization (notebook 03) acts exactly there. And the
# measures that matter for picking the best of $n$ answers, or for RL with a per-prompt baseline,
# are blind in the same way.

# %%
picked, picked_shifted = gold.argmax(1), shifted.argmax(1)
assert torch.equal(picked, picked_shifted), "best-of-n must not change under a shift c(x)"
advantage = gold - gold.mean(1, keepdim=True)
advantage_shifted = shifted - shifted.mean(1, keepdim=True)
torch.testing.assert_close(advantage, advantage_shifted)
print("best-of-4 and rewards minus the prompt's mean are the same with and without c(x)")

# %% [markdown]
# ## 7. Label noise and over-confidence
#
# Section 5 saw each pair many times. A reward model sees each pair **once**, and some labels are
# wrong. Judged one by one, a pair that was seen once has its best margin at $+\infty$, right
# label or not. Only what pairs *share*, the features and the network, says no.
#
# Watch it: answers have 40 features, the true reward is linear in them, labels are drawn from BT.
# Fit the weights by gradient descent on few and on many pairs, and ask the fit about fresh pairs.

# %%
d = 40
truth = torch.randn(d) * 1.5 / d**0.5


def comparisons(n):
    difference = torch.randn(n, d) * 2**0.5  # features of answer a minus those of answer b
    a_wins = torch.rand(n) < torch.sigmoid(difference @ truth)
    return torch.where(a_wins[:, None], difference, -difference)  # chosen minus rejected, (n, d)


def train(features, steps):
    weights = torch.zeros(d)
    for _ in range(steps):
        push = torch.sigmoid(-features @ weights)  # (n,)
        weights = weights + 0.5 * features.T @ push / len(features)
    return weights

# %%
fresh = comparisons(20_000)
figure, (left, right) = plots.panels(2)
for n, tint in ((60, "#DDAA33"), (250, "#BB5566"), (4000, "#004488")):
    pairs = comparisons(n)
    weights = train(pairs, steps=1000)
    says = torch.sigmoid((fresh @ weights).abs())  # confidence in the answer it prefers
    right_side = ((fresh @ weights) > 0).double()
    bins = says.argsort().chunk(12)
    left.plot([says[b].mean() for b in bins], [right_side[b].mean() for b in bins], "o-", ms=3,
              color=tint, label=f"{n} pairs")
    print(f"{n:5d} pairs: says {says.mean():.2f}, is right {right_side.mean():.2f}, "
          f"|w| = {weights.norm():.1f} (truth {truth.norm():.1f})")
    lengths = [train(pairs, steps=s).norm() for s in (10, 30, 100, 300, 1000)]
    right.semilogx([10, 30, 100, 300, 1000], lengths, "o-", ms=3, color=tint, label=f"{n} pairs")
left.plot([0.5, 1], [0.5, 1], color="grey", linewidth=0.8)
right.axhline(truth.norm(), color="grey", linewidth=0.8)
plots.label(left, "confidence $\\sigma(|margin|)$", "share that is right", "fresh pairs")
plots.label(right, "gradient steps", "length of the weights", "the fit keeps growing")
left.legend();

# %% [markdown]
# **What to see.** Left: with 4,000 pairs the fit means what it says (on the diagonal). With 60
# pairs and 40 features it claims to be right 95% of the time and is right about 6 times in 10.
# Right: with few pairs the data can be separated perfectly, and the length of the weights grows
# without end; the truth is the grey line. *Over-confidence is a length that grows.*
#
# A language model has more than 40 features. What grows in it? That needs one more step.

# %% [markdown]
# ## 8. The reward head: Eq. 16 to 23 step by step
#
# A reward model reads prompt and answer, takes the last token's hidden state $h(x, y) \in
# \mathbb{R}^H$, and applies one linear map without bias (Eq. 2), drawn from $N(0, 1/(H+1))$:
#
# $$r(x, y) = W_p^\top h(x, y) = \lVert W_p\rVert\,\lVert h\rVert \cos\psi \qquad \text{(Eq. 16)}$$
#
# The second form is just the definition of the angle $\psi$ between $W_p$ and $h$. A large reward
# needs a long head, a long hidden state, or a small angle.

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
# Descent moves $W_p$ *towards* the direction in which chosen and rejected differ.

# %%
difference = margin_decomposition(h_w, h_l, W)
margin = (h_w - h_l) @ W
torch.testing.assert_close(
    difference["head_norm"] * difference["hidden_norm"] * difference["cosine"], margin)

W.requires_grad_(), h_w.requires_grad_()
losses.bt_loss(h_w @ W, h_l @ W).backward()
push = torch.sigmoid(-margin)[:, None]  # (B, 1)
torch.testing.assert_close(W.grad, -(push * (h_w - h_l)).mean(0).detach(), msg="Eq. 22")
torch.testing.assert_close(h_w.grad, -(push * W).detach() / B, msg="same rule, other factor")

# %% [markdown]
# ## 9. Who grows? The loss does not say
#
# To make a margin larger, $W_p$ can get longer, $h_w - h_l$ can get longer, or the angle can
# shrink. The paper observes that $\lVert W_p\rVert$ stays near 1 (Fig. 1) and concludes that the
# hidden states take the growth. Does the loss alone demand that? Let both move freely by plain
# gradient descent. Each of $\Delta_i = h_{w,i} - h_{l,i}$ gets $\sigma(-m_i) W_p / B$, and $W_p$
# gets the mean of $\sigma(-m_i)\Delta_i$. Multiply each push by its own vector and both give the
# same sum, so
#
# $$\lVert W_p\rVert^2 - \sum_i \lVert \Delta_i \rVert^2 \quad \text{stays constant.}$$

# %% [markdown]
# **Predict**: $W_p$ is one vector of length 1, the 64 differences have length 34. Who grows more,
# relative to its size?

# %%
W = (torch.randn(H) / (H + 1) ** 0.5).requires_grad_()
delta = (torch.randn(B, H) * 2**0.5).requires_grad_()  # h_w - h_l of 64 pairs, free to move


def factors():
    parts = reward_decomposition(delta.detach(), W.detach())
    length, margin = parts["hidden_norm"].mean(), (delta @ W).detach().mean()
    return torch.stack([parts["head_norm"], length, margin / (parts["head_norm"] * length)])


def conserved():
    return (W.square().sum() - delta.square().sum()).item()

# %%
start, law = factors(), conserved()
optimizer = torch.optim.SGD([W, delta], lr=1e-3)  # small steps: the law is exact as they go to 0
for _ in range(2000):
    optimizer.zero_grad()
    losses.bt_loss(delta @ W, torch.zeros(B)).backward()
    optimizer.step()
for name, a, b in zip(("|W_p|", "|h_w - h_l|", "cosine"), start, factors(), strict=True):
    print(f"{name:12s} {a:8.4f} -> {b:8.4f}")
assert abs(conserved() - law) < 0.01, "gradient descent must keep |W|^2 - sum |delta|^2"

# %% [markdown]
# <details><summary>Answer</summary>
#
# The head, by far: all 64 pairs pull on it, while each difference is pulled once, by a vector of
# length
# 1. So a still $W_p$ does **not** follow from the Bradley-Terry gradient.
# </details>
#
# It follows from how reward models are trained. Adam moves each weight by about its learning rate
# $\eta$ per step, whatever the gradient's size. Over $T$ steps of a decaying schedule (mean
# $\eta/2$) the head moves at most about $\tfrac12 \eta\,T\sqrt{H}$, while the hidden states are
# moved by the small changes of *all* layers together.

# %%
for name, rate, pairs, width in (("1B, UltraFeedback", 5e-6, 51_200, 2048),
                                 ("8B, Skywork-80K", 2e-6, 77_000, 4096)):
    reach = 0.5 * rate * (pairs / 128) * width**0.5
    print(f"paper, {name:18s}: |W_p| starts near 1 and can move by about {reach:.3f}")

W = (torch.randn(H) / (H + 1) ** 0.5).requires_grad_()
start, adam = W.detach().clone(), torch.optim.Adam([W], lr=5e-6)
for _ in range(400):
    adam.zero_grad()
    losses.bt_loss(delta.detach() @ W, torch.zeros(B)).backward()
    adam.step()
moved = (W - start).norm().item()
assert 0 < moved <= 1.01 * 5e-6 * 400 * H**0.5, "Adam moves a weight by about lr per step"
print(f"here, 400 constant Adam steps at 5e-6: moved {moved:.3f} of {5e-6 * 400 * H**0.5:.3f}")

# %% [markdown]
# **What to take along.** Fig. 1 of the paper is what a small learning rate predicts. Given it,
# Eq. 23 leaves the length of $h_w - h_l$ and its angle to the head. Which of the two really grows
# is a question for measurement: notebook 02.

# %% [markdown]
# ## Exercises
#
# Each stub returns `None`; its checker then says "not attempted yet". Solutions are in
# `notebooks/solutions/`.
#
# **1.** Which margin does it take for the better answer to win with probability $p$?

# %%
def margin_for(p):
    return None


checks.check_margin_for(margin_for);

# %% [markdown]
# **2.** Labels may be soft: a share $q$ of judges preferred the first answer. The loss of a pair
# is then $-q \log\sigma(m) - (1-q)\log\sigma(-m)$. Derive its derivative with respect to the
# margin $m$. (Where is it zero? Compare with Section 4.)

# %%
def soft_label_gradient(margin, q):
    return None


checks.check_soft_label_gradient(soft_label_gradient);

# %% [markdown]
# **3.** Comparisons need not cover all pairs. Given the pairs that were compared, as a list of
# `(a, b)`, among answers `0 .. n-1`: how many directions can Bradley-Terry not see? (Draw answers
# as points and comparisons as lines. Section 6 is a special case.)

# %%
def invisible_directions(n, compared):
    return None


checks.check_invisible_directions(invisible_directions);

# %% [markdown]
# **4.** Write the gradient of the mean BT loss on the head, Eq. 22 averaged over a batch, without
# autograd.

# %%
def head_gradient(hidden_chosen, hidden_rejected, head_weight):
    return None


checks.check_head_gradient(head_gradient);

# %% [markdown]
# ## What you know now
#
# - Gumbel-noisy comparisons give $\sigma$ of the margin; maximum likelihood gives $L_{BT}$; it is
#   logistic regression on differences, with honest standard errors when pairs repeat.
# - Its gradient is the model's surprise $\sigma(-m)$, equal and opposite in a pair, never zero.
# - A shift $c(x)$ per prompt is invisible to the loss, to within-prompt tau, to best-of-n and to
#   per-prompt advantages.
# - Few pairs and many features: certainty without knowledge, as a length that grows.
# - $r_w - r_l = \lVert W_p\rVert\,\lVert h_w - h_l\rVert\cos\psi_\Delta$, and a small learning
#   rate keeps the first factor still.
#
# Next: **02 · Do hidden norms disperse?** measures the other two in a real reward model.
