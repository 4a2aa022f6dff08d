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
# **prompt**, a **reward model** scores them, and training raises the score. The reward model learns
# from choices: a judge says which of two answers is better.
#
# This notebook builds the loss that turns choices into numbers. But choices alone never tell the
# numbers' *zero* (Section 6). And few pairs do not tell their *size*: how far apart the numbers lie
# (Section 7).

# %% [markdown]
# "The paper" is *On the Robustness of Reward Models for Language Model Alignment* (ICML 2025);
# "Eq. n" is an equation of it. You need calculus, eigenvalues, 95% intervals and a little PyTorch.

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
# Answer 2: it is about hiking, and it describes. Marks are harder: all judges would have to share a
# scale. A choice needs none.
# </details>
#
# In the pocket world a program plays the judge. Its mark is the **gold** score: the sum of five
# scores between 0 and 1 (follows the instruction, on topic, complete, fresh, concise). A reward
# model sees only choices, and these are noisy: in each look the judge misreads a mark by about .64
# (standard deviation).
#
# **Predict**: two marks are half a point apart. How often will the judge pick the worse answer:
# under 10%, 10 to 20%, more?

# %% [markdown]
# ## 1. A comparison is a noisy look at two hidden numbers
#
# Give every answer a hidden number $r$, its **reward**. A judge who compares answers $a$ and $b$
# does not see $r$ but $r$ plus noise, and picks the larger. Let the two noises be independent
# **Gumbel** variables (a skewed bell: $P(g \le z) = e^{-e^{-z}}$). Their difference is below $z$
# with probability $\sigma(z)$, so
#
# $$P(a \text{ beats } b) = \sigma(r_a - r_b), \qquad \sigma(z) = \frac{1}{1 + e^{-z}}.$$
#
# This is the **Bradley-Terry (BT) model**. Only the difference matters, the **margin** $m = r_a -
# r_b$.

# %% [markdown]
# Real judges may not obey BT. Our judge does, so the troubles below are those of a *right* model.
# Its reward is $r$ = gold / 0.5. (Gumbel noise has standard deviation 1.28, which is .64 in marks.)
# Below, $a$ is answer 2.
#
# **Predict**: which margin makes the better answer win 95% of the time?

# %%
r_a, r_b = torch.tensor([example.gold[3], example.gold[0]]) / 0.5
gumbel = torch.distributions.Gumbel(0.0, 1.0)
seen_a, seen_b = r_a + gumbel.sample((200_000,)), r_b + gumbel.sample((200_000,))
share = (seen_a > seen_b).double().mean()
print(f"gold of answers 1 and 2: {example.gold[0]:.1f} and {example.gold[3]:.1f}")
print(f"the better wins {share:.3f} of 200,000 looks; sigma(1) = {torch.sigmoid(r_a - r_b):.3f}",
      f"\nfor .95 it takes a margin of {torch.logit(torch.tensor(0.95)):.2f}")
assert abs(share - torch.sigmoid(r_a - r_b)) < 0.005, "Gumbel noise must give sigma(r_a - r_b)"

# %% [markdown]
# <details><summary>Answer</summary>
#
# The worse wins more than one time in four: a margin of 1 is a weak preference. For 95% it takes
# about 2.9. (Answer 1 describes nothing and gets 4.0: the program sees words and form.)
# </details>
#
# So rewards have a unit: each unit of margin multiplies the odds by $e$.

# %% [markdown]
# ## 2. From the probability to the loss
#
# Which rewards make the choices that we saw most probable? In each comparison one answer was
# **chosen** ($w$, won) and one **rejected** ($l$, lost). We take comparisons to be independent, so
# their log-probabilities add. The loss is minus their mean over the $B$ comparisons (Eq. 3), in
# **nats** (natural-log units):
#
# $$L_{BT} = -\frac{1}{B} \sum_{i=1}^{B} \log \sigma(r_{w,i} - r_{l,i})$$

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
# In float32, the usual format of training, `torch.log(torch.sigmoid(z))` breaks at both ends. The
# library's `logsigmoid` does not.

# %%
chosen, rejected = 3 * torch.randn(1000), 3 * torch.randn(1000)
torch.testing.assert_close(losses.bt_loss(chosen, rejected), bt_loss(chosen, rejected))
for margin in (-90.0, 17.0):
    z = torch.tensor([margin], dtype=torch.float32, requires_grad=True)
    for name, loss in (("by hand", bt_loss(z, 0)), ("library", losses.bt_loss(z, 0))):
        (gradient,) = torch.autograd.grad(loss, z)
        print(f"{margin:4.0f}, {name}: loss {abs(loss):.3g}, gradient {gradient.item() + 0:.3g}")

# %% [markdown]
# ## 3. It is logistic regression
#
# Put all rewards into one vector $r$. Write one row per comparison: $+1$ in the winner's column,
# $-1$ in the loser's. This is the design matrix $D$, and the margins are $Dr$. So $L_{BT}$ is the
# loss of logistic regression on the features $D$, without intercept, with every label 1.
#
# We inherit a convex loss and two troubles: directions that no data touch (the zero, Section 6),
# and data that can be separated perfectly (the size, Section 7).

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
# \partial r_l = +\sigma(-m)/B$. The **push** $\sigma(-m)$ is the probability that the model gave to
# the outcome that did *not* happen: mistakes push.

# %%
chosen, rejected = torch.randn(5, requires_grad=True), torch.randn(5, requires_grad=True)
losses.bt_loss(chosen, rejected).backward()
by_hand = -torch.sigmoid(-(chosen - rejected)).detach() / 5
torch.testing.assert_close(chosen.grad, by_hand)
assert torch.equal(chosen.grad, -rejected.grad), (
    "as free numbers, chosen and rejected must be pushed apart equally: BT never moves their mean")

# %% [markdown]
# **Predict**: at which margin is the push one half? Is there a margin where it is 0?

# %%
figure, axis = plots.panels()
m = torch.linspace(-4, 10, 200)
axis.semilogy(m, -torch.nn.functional.logsigmoid(m), color=plots.COLORS["bt"], linewidth=2)
axis.semilogy(m, torch.sigmoid(-m), color="black", linestyle="--")
for text, place, tint in (("loss $-\\log\\sigma(m)$", (-3.3, 4.4), plots.COLORS["bt"]),
                          ("push $\\sigma(-m)$", (-3.3, 0.4), "black"),
                          ("no opinion: loss $\\ln 2$, push 1/2", (0.25, 0.75), "grey"),
                          ("right by a wide margin: both near $e^{-m}$", (4.6, 0.02), "grey")):
    axis.annotate(text, place, color=tint)
axis.plot([0, 0], [0.5, 0.693], "o", color="grey", markersize=5)
axis.set_ylim(2e-5, 10)
plots.label(axis, "margin $m = r_w - r_l$ (reward units)", "loss (nats), push (log scale)",
            "Loss and push fade, but no margin ends them");

# %% [markdown]
# <details><summary>Answer</summary>
#
# At 0. And no: a pair that is right by a wide margin still gets a push of about $e^{-m}$.
# </details>
#
# **What to see.** *For one pair with one label there is no margin at which BT is content.* While
# rewards are free numbers, only contradiction stops a margin's growth: the same pair judged both
# ways, or a circle of wins ($a$ over $b$, $b$ over $c$, $c$ over $a$).

# %% [markdown]
# ## 5. Maximum likelihood where the truth is known
#
# We take eight answers whose rewards we know (here called strengths, with mean 0) and compare
# random pairs. We fit by Newton's steps. They need second derivatives. One margin's is
# $\frac{d}{dm}[-\sigma(-m)] = \sigma(m)\,\sigma(-m)$. As $m = Dr$, the chain rule gives the
# **Hessian**
#
# $$\nabla^2 L_{BT} = \frac{1}{B} D^\top \mathrm{diag}\bigl(\sigma(m)\,\sigma(-m)\bigr) D .$$
#
# $B\,\nabla^2 L_{BT}$ is the **Fisher information**: what the comparisons tell. For large samples
# its inverse (in code `pinv`) is the estimate's covariance. The square roots of its diagonal are
# the **standard errors**; $\pm 1.96$ of them give the 95% interval.

# %%
def hessian(r, D):
    win = torch.sigmoid(D @ r)
    return D.T @ ((win * (1 - win))[:, None] * D) / len(D)  # (count, count)


torch.testing.assert_close(
    torch.autograd.functional.hessian(
        lambda r: losses.bt_loss(D_small @ r, torch.zeros(4)), r_small),
    hessian(r_small, D_small), msg="the Hessian by hand must be autograd's")

# %% [markdown]
# Is there *one* optimum? The loss is convex, but an answer that never lost would run off to
# infinity. If chains of wins lead from every answer to every other, there is one, up to a shift of
# all rewards (Section 6). We take mean 0.

# %%
def fit(D, steps=12):
    r = torch.zeros(D.shape[1])
    for _ in range(steps):
        gradient = -D.T @ torch.sigmoid(-D @ r) / len(D)
        r = r - torch.linalg.pinv(hessian(r, D), rtol=1e-8) @ gradient
    assert gradient.abs().max() < 1e-8, "Newton's steps must have arrived at the optimum"
    covariance = torch.linalg.pinv(len(D) * hessian(r, D), rtol=1e-8)  # (count, count)
    return r, covariance  # r has mean 0, because pinv never moves along the null direction

# %%
strength = torch.tensor([-1.5, -1.0, -0.5, 0.0, 0.0, 0.5, 1.0, 1.5])


def simulate(comparisons):
    pairs = torch.rand(comparisons, 8).argsort(1)[:, :2]  # (B, 2), two different answers
    margin = strength[pairs[:, 0]] - strength[pairs[:, 1]]
    second_wins = torch.rand(comparisons) > torch.sigmoid(margin)
    pairs[second_wins] = pairs[second_wins].flip(1)
    return design_matrix(pairs[:, 0], pairs[:, 1], count=8)

# %% [markdown]
# **Predict**: we fit the first 200 of 3,200 comparisons, then all of them. By what factor does a
# typical interval shrink?

# %%
figure, axes = plots.panels(2, sharey=True)
D = simulate(3200)
shown = strength + torch.tensor([0, 0, 0, -0.06, 0.06, 0, 0, 0])  # the two at 0 side by side
for axis, comparisons, title in ((axes[0], 200, "200 comparisons: the order is partly luck"),
                                 (axes[1], 3200, "All 3,200: every strength in its place")):
    estimate, C = fit(D[:comparisons])
    half = 1.96 * C.diagonal().sqrt()
    print(f"{comparisons:5,} comparisons: half an interval {half.median():.2f} (median)")
    axis.plot([-1.7, 1.7], [-1.7, 1.7], color="grey", linewidth=0.8, label="truth")
    missed = (estimate - strength).abs() > half
    axis.plot(shown[missed], estimate[missed], "ks", fillstyle="none", markersize=13,
              label="interval misses the truth")
    axis.errorbar(shown, estimate, half, fmt="o", capsize=3, color=plots.COLORS["bt"],
                  label="estimate")
    plots.label(axis, "true strength (reward units)", "", title)
for ends, place in (("weakest", (-1.25, -0.6)), ("strongest", (1.25, 2.5))):
    axes[0].annotate(f"{ends} two\nchange places", place, color="grey", ha="center")
axes[0].set(ylabel="estimate (reward units), 95% interval", ylim=(-3.7, 3.3))
axes[0].legend(loc="lower right");

# %% [markdown]
# **What to see.** Left: the order is wrong at both ends, and three of eight intervals miss (boxes).
#
# <details><summary>Answer</summary>
#
# By about four: sixteen times the data, a quarter of the error ($1/\sqrt{B}$).
# </details>
#
# Bad luck, or a bad method? Repeat 300 times.

# %%
rows = []
for comparisons in (200, 3200):
    fits = [fit(simulate(comparisons)) for _ in range(300)]
    hits = torch.stack([((r - strength).abs() < 1.96 * C.diagonal().sqrt()).double().mean()
                        for r, C in fits])
    rows.append({"comparisons": comparisons, "intervals that hold the truth": hits.mean().item(),
                 "fits that miss three or more": (hits < 0.7).double().mean().item(),
                 "fits with a wrong order": sum(not torch.equal(strength[r.argsort()], strength)
                                                for r, C in fits) / 300})
    assert 0.93 < hits.mean() < 0.97, "the Fisher information must keep its promise here"
pd.DataFrame(rows).round(3)

# %% [markdown]
# Bad luck: 95 to 96% of the intervals hold the truth, as promised. Only one of 300 fits to 200
# comparisons misses three or more. (The draw above is what this page's seed, 0, gave.) But two in
# three have a wrong order.
#
# So choices *can* tell a size where they contradict each other.

# %% [markdown]
# ## 6. No zero: what Bradley-Terry cannot see
#
# In RLHF, answers $y$ compete only within a prompt $x$. That is one BT model per prompt (Eq. 4).
# Add any number $c(x)$ to all rewards of a prompt:
#
# $$\bigl(r(x, y_w) + c(x)\bigr) - \bigl(r(x, y_l) + c(x)\bigr) = r(x, y_w) - r(x, y_l)$$
#
# No margin changes, nor the loss. $c(x)$ is **not identified**: while rewards are free numbers, no
# amount of data will tell it. So a prompt's mean reward, its **level**, has no zero.
#
# In the Hessian each such shift is an eigenvector with eigenvalue zero.

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
# Now real answers, to the 160 **dev** prompts (kept for tuning). We score them with the true
# reward. Then we add a random $c(x)$ to every prompt (standard deviation 6, our choice).
# **Kendall's tau** says how well scores order answers: 1 as gold does, 0 unrelated, -1 reversed. We
# average it *within* prompts, or *pool* all prompts. The loss takes a prompt's first two answers.
#
# **Predict**: what changes: the BT loss, tau within, tau pooled?

# %%
from bsr_lite.metrics import kendall_tau_b, seed_interval

gold = torch.tensor([g.gold[:4] for g in groups]) / 0.5  # (160, 4), rewards as in Section 1
gold = gold[gold.std(1) > 0]  # one prompt's answers are all equally good: no order to find
shifted = gold + 6 * torch.randn(len(gold), 1)
sign = (gold[:, 0] - gold[:, 1]).sign()  # which of the first two is better, 0: neither


def pair_loss(r):
    margin = (sign * (r[:, 0] - r[:, 1]))[sign != 0]
    return losses.bt_loss(margin, torch.zeros_like(margin)).item()


assert abs(pair_loss(gold) - pair_loss(shifted)) < 1e-9, "the BT loss must not see c(x)"
pd.DataFrame({name: {"BT loss (nats), noise-free choices": pair_loss(r),
                     "tau within prompts": kendall_tau_b(r, gold).mean().item(),
                     "tau pooled": kendall_tau_b(r.ravel(), gold.ravel()).item()}
              for name, r in (("gold", gold), ("shifted by c(x)", shifted))}).round(3)

# %%
figure, axes = plots.panels(2, sharey=True)
for axis, r, title in ((axes[0], gold, "True rewards: prompt 11 lies above prompt 10"),
                       (axes[1], shifted, "Shifted by $c(x)$: 11 far below 10, same BT loss")):
    for prompt in range(12):
        tint = plots.COLORS["level"] if prompt in (10, 11) else plots.COLORS["bt"]
        axis.vlines(prompt, r[prompt].min(), r[prompt].max(), color=tint, alpha=0.4)
        axis.plot([prompt] * 4, r[prompt], "o", markersize=4, color=tint)
        axis.hlines(r[prompt].mean(), prompt - 0.35, prompt + 0.35, color=tint, linewidth=2)
    for prompt in (10, 11):
        axis.annotate(str(prompt), (prompt, r[prompt].max()), (0, 6), color=plots.COLORS["level"],
                      textcoords="offset points", ha="center")
    plots.label(axis, "prompt, 12 of the 159 (dash: its level)", "", title)
axes[0].set_ylabel("rewards of its four answers (reward units)")
assert gold[10].mean() < gold[11].mean() and shifted[10].mean() > shifted[11].mean()

# %% [markdown]
# <details><summary>Answer</summary>
#
# Only the pooled tau: it mixes prompts.
# </details>
#
# **What to see.** No distance within a prompt changes, and BT sees nothing else.

# %% [markdown]
# These rewards were free numbers. A network shares its weights among prompts: do its levels of
# *new* prompts carry the true ones? The record `study_lora` holds four reward models trained with
# BT (see Section 8). They scored 240 new prompts.

# %%
from bsr_lite.studies.records import read_runs

trained = [run["evaluation"]["scenarios"] for run in read_runs(Path("data/runs/study_lora"))["bt"]]
part = "prompt_disjoint"  # new prompts, answers by language models seen in training
true_level = torch.tensor(trained[0][part]["gold"]).mean(1)  # (240,), of four answers each
mean, half = seed_interval([kendall_tau_b(torch.tensor(run[part]["rewards"]).mean(1), true_level)
                            for run in trained])
print(f"tau between the models' levels and the true ones: {mean:.2f} ± {half:.2f} (95%)")

# %% [markdown]
# Quite well, then ($t$ interval over the four models). The answers *within* a prompt they order
# with .35 (`data/runs/study_lora/results.md`; but a mean of four answers is less noisy).
#
# Why, if the loss cannot see levels? We guess: shared weights reward a merit, say keeping to the
# topic, alike in every prompt. Some prompts' answers have more of it. But the loss neither asked
# for this nor guards it.
#
# The level matters where rewards of *different* prompts meet. It does not matter for picking the
# **best of $n$** answers to a prompt, nor for **advantages** (rewards minus the prompt's mean).

# %%
assert torch.equal(gold.argmax(1), shifted.argmax(1)), "best-of-n must not change under c(x)"

# %% [markdown]
# ## 7. Size only from contradiction: over-confidence
#
# What if some weights get every pair right? Then nothing contradicts, and the loss wants all
# margins at $+\infty$. This happens easily where pairs are few and have **one label** each. With
# fewer than *two pairs per weight* even coin-flip labels can usually all be met (Cover, 1965).
#
# Our toy has 40 weights, so this border lies at 80 pairs. An answer is 40 features. The true reward
# is linear in them, with margins of about 2 (standard deviation). Labels come from BT.
#
# Gradient descent passes 3,000 times over the same pairs. A fit's **size** is the norm of its
# weights: all its margins grow with it.

# %%
d, STEPS = 40, (1, 2, 3, 5, 10, 20, 30, 100, 300, 1000, 3000)
truth = torch.randn(d) * 1.5 / d**0.5


def draw_pairs(number):
    difference = torch.randn(number, d) * 2**0.5  # features of answer a minus those of answer b
    a_wins = torch.rand(number) < torch.sigmoid(difference @ truth)
    return torch.where(a_wins[:, None], difference, -difference)  # (number, d), chosen - rejected


def train(features):
    weights, kept = torch.zeros(d), []
    for step in range(1, max(STEPS) + 1):
        push = torch.sigmoid(-features @ weights)  # (number,)
        weights = weights + 0.5 * features.T @ push / len(features)
        if step in STEPS:
            kept.append(weights)
    return torch.stack(kept)  # (len(STEPS), d)

# %% [markdown]
# We test a fit on 20,000 *fresh* pairs. It **claims** the probability $\sigma(|m|)$ for the answer
# that it prefers. It is **right** where the pair's noisy label agrees. Mean claim minus share right
# is its **over-claim**. Above 0 it is **over-confident**.
#
# We fit 60, 250 or 2,000 pairs, eight draws of each. **Predict**: which fits claim the most? Which
# are right most often?

# %%
def summary(weights):  # (d, DRAWS), a column is a fit; on fresh pairs
    margins = fresh @ weights
    claims, right = torch.sigmoid(margins.abs()).mean(0), (margins > 0).double().mean(0)
    return {"claims": claims, "right": right, "claims - right": claims - right,
            "norm / true norm": weights.norm(dim=0) / truth.norm()}


def show(rows):  # means of eight draws
    return pd.DataFrame(rows).transpose().map(lambda x: x.mean().item()).round(2) + 0.0

# %%
fresh, DRAWS, rows, fits = draw_pairs(20_000), 8, {}, {}
for number in (60, 250, 2000):
    draws = [draw_pairs(number) for _ in range(DRAWS)]
    fits[number] = torch.stack([train(features) for features in draws])  # (DRAWS, STEPS, d)
    wrong = [(f @ w <= 0).double().mean() for f, w in zip(draws, fits[number][:, -1], strict=True)]
    rows[f"{number:,} pairs"] = {"training pairs wrong": torch.stack(wrong),
                                 **summary(fits[number][:, -1].T)}
print("the truth itself claims {claims:.2f} and is right {right:.2f}".format(**summary(truth)))
show(rows)

# %% [markdown]
# **What to see** (means of eight draws). The fewer the pairs, the more a fit claims and the less
# often it is right.
#
# To read the next figure's right half: sort the fresh pairs by claim and cut them into ten equal
# bins. Each bin is a point: its mean claim, its share right.

# %%
# Drawing only, may be skipped.
TINTS = {60: "#332288", 250: "#882255", 2000: "#117733"}


def calibration(weights):  # (d,): what it claims and how often it is right, in ten bins of pairs
    margin = fresh @ weights
    bins = margin.abs().argsort().chunk(10)
    return torch.stack([torch.stack([torch.sigmoid(margin[b].abs()).mean() for b in bins]),
                        torch.stack([(margin[b] > 0).double().mean() for b in bins])])


def draw_claims(axis, columns, places, title):  # {pairs: (d, DRAWS)}
    axis.plot([0.5, 1], [0.5, 1], color="grey", linewidth=0.8)
    axis.annotate("grey line: claims come true,\nbelow: over-confident", (0.5, 0.95), color="grey")
    for (number, weights), place in zip(columns.items(), places, strict=True):
        axis.annotate(f"{number:,} pairs", place, color=TINTS[number])
        curves = torch.stack([calibration(w) for w in weights.T])  # (DRAWS, 2, 10)
        for curve in curves:
            axis.plot(*curve, color=TINTS[number], alpha=0.25, linewidth=0.8)
        axis.plot(*curves.mean(0), color=TINTS[number], linewidth=2)
    plots.label(axis, "claimed probability $\\sigma(|m|)$", "share right, fresh pairs", title)

# %%
figure, (left, right) = plots.panels(2)
for number, up in ((60, 0), (250, 8), (2000, 0)):
    sizes = fits[number].norm(dim=2).T / truth.norm()  # (STEPS, DRAWS)
    left.loglog(STEPS, sizes, color=TINTS[number], alpha=0.25, linewidth=0.8)
    left.loglog(STEPS, sizes.mean(1), color=TINTS[number], linewidth=2)
    wrong = rows[f"{number:,} pairs"]["training pairs wrong"].mean()
    left.annotate(f"{number:,} pairs,\n{wrong:.0%} stay wrong", (3500, sizes[-1].mean()), (0, up),
                  color=TINTS[number], textcoords="offset points", va="center")
left.plot((8, 3000), (1, 1), color="black", linestyle=":", zorder=5)
left.annotate("dotted: the true size\nthin: one draw, thick: mean of eight", (2.8e4, 0.72),
              ha="right", va="center")
left.minorticks_off()
left.set(xlim=(8, 3e4), ylim=(0.6, 11), xticks=(10, 100, 1000, 3000), yticks=(1, 2, 5, 10),
         xticklabels=("10", "100", "1,000", "3,000"), yticklabels=("1", "2", "5", "10"))
plots.label(left, "passes over the pairs", "norm / true norm",
            "Uncontradicted, the size grows on")
draw_claims(right, {number: w[:, -1].T for number, w in fits.items()},
            ((0.57, 0.5), (0.78, 0.565), (0.53, 0.67)), "Fewer pairs, greater over-claim")
right.plot(*calibration(truth), "k.")
right.annotate("dots: the truth itself\n(off the line by chance)", (0.76, 0.83), ha="right");

# %% [markdown]
# **What to see.** Left: the 60-pair fits get every pair right, noise included, and their size grows
# on. The 250-pair fits are contradicted, and their size stops. But it stops above the true size in
# every draw, and they claim too much (right). So over-confidence needs no endless margin.
#
# The 60-pair curve ends in a vertical stroke. Bins that all claim almost 1 are right from .6 to
# over .8 of the time. There the claim no longer tells sure from unsure.
#
# Why does the 250-pair size stop too high? *Training* pairs set it, and the fits learned part of
# their noise: they are wrong on 18% of training pairs, 27% of fresh ones. So they met too little
# contradiction.

# %% [markdown]
# Three candidates for a cure:
#
# - *ten passes*: stop there;
# - *best stop*: stop where the loss on 20,000 *other* fresh pairs is lowest;
# - *one factor*: multiply the last weights by the one number that makes this loss lowest.
#
# **Predict**: which end the over-claim? Does any make the 60-pair fits right more often?

# %%
others, factors, stopped, resized = draw_pairs(20_000), torch.linspace(0, 1.5, 151), {}, {}


def resize(last, held_out):  # (d, DRAWS): times the one factor of the lowest loss
    loss = [-torch.nn.functional.logsigmoid(factor * (held_out @ last)).mean(0)
            for factor in factors]
    return last * factors[torch.stack(loss).argmin(0)]


early = {number: w[:, STEPS.index(10)].T for number, w in fits.items()}  # (d, DRAWS) each
for number, w in fits.items():
    loss = [-torch.nn.functional.logsigmoid(others @ kept.T).mean(0) for kept in w]  # (STEPS,)
    stopped[number] = w[torch.arange(DRAWS), torch.stack(loss).argmin(1)].T
    resized[number] = resize(w[:, -1].T, others)

# %%
figure, axes = plots.panels(3, sharey=True)
for axis, columns, title in ((axes[0], early, "Ten passes: off both ways"),
                             (axes[1], stopped, "Best stop: claims nearly come true"),
                             (axes[2], resized, "One factor: claims come true")):
    draw_claims(axis, columns, ((0.83, 0.52), (0.83, 0.56), (0.83, 0.6)), title)
    axis.label_outer()

# %%
cures = {"ten passes": early, "best stop": stopped, "one factor": resized}
cured = {name: {number: summary(w[number]) for number in fits} for name, w in cures.items()}
print("60 pairs, norm / true norm:", ", ".join(f"{name} {at[60]['norm / true norm'].mean():.2f}"
                                               for name, at in cured.items()))
print("claims - right:")
show({name: {f"{number:,} pairs": at[number]["claims - right"] for number in fits}
      for name, at in cured.items()})

# %% [markdown]
# **What to see.** Ten passes are too many for 60 pairs and too few for 2,000: those fits claim .05
# too *little*. The other two cures, chosen on fresh pairs, leave .02 or less on average.

# %%
late = summary(fits[60][:, -1].T)["right"]  # (DRAWS,)
for name, columns in (("ten passes", early), ("best stop", stopped)):
    mean, half = seed_interval(summary(columns[60])["right"] - late)
    print(f"60 pairs, right after {name} minus after 3,000: {mean:+.3f} ± {half:.3f} (95%)")
small = [summary(resize(fits[60][:, -1].T, others[i:i + 200]))["claims - right"].abs()
         for i in range(0, 4000, 200)]
print(f"60 pairs, factor chosen on 200 others: claims off by {torch.cat(small).mean():.2f} on",
      f"average, {torch.cat(small).max():.2f} at most (20 sets of 200)")

# %% [markdown]
# <details><summary>Answer</summary>
#
# The factor changes no choice. Ten passes are right more often than 3,000, by .014 $\pm$ .009
# (eight draws, one truth): going on also turned the *direction* the wrong way. With the best stop
# this is undecided.
# </details>

# %% [markdown]
# Is the true size the best? No. Here the 60-pair fits have nearly the true size after ten passes
# (.98 of it) and still claim .11 too much. The factor shrinks the last weights to .43 of the true
# size. *Over-confidence is a size too great for a direction that is partly wrong.*

# %% [markdown]
# ## 8. Where a language model keeps the size
#
# A language model carries a vector, the **hidden state**, for each **token** (piece of a word). A
# reward model takes the last token's, $h \in \mathbb{R}^H$, and applies one linear map, the
# **head** $W_p$ (Eq. 2). With $\psi$ the angle between $W_p$ and $h$, and $\psi_\Delta$ that
# between $W_p$ and $h_w - h_l$,
#
# $$r = W_p^\top h = \lVert W_p\rVert\,\lVert h\rVert \cos\psi \qquad \text{(Eq. 16)},$$
# $$r_w - r_l = W_p^\top (h_w - h_l) = \lVert W_p\rVert\,\lVert h_w - h_l\rVert \cos\psi_\Delta
# \qquad \text{(Eq. 23)}.$$
#
# So a margin has three factors: head, difference, cosine. BT does not care which one grows.

# %% [markdown]
# ## Exercises
#
# A wrong answer gets a hint. Solutions are in `notebooks/solutions/`.
#
# **1.** The true margin of two answers is $m$. How many comparisons of this pair does it take until
# the 95% interval *of the margin* is no wider than $\pm$ `half_width`? Take the Fisher information
# of $m$ alone, at its true value. Return the smallest whole number.
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
# = r_{first} - r_{second}$ the loss of a pair is $-q \log\sigma(m) - (1-q) \log\sigma(-m)$. Return
# its derivative with respect to $m$, for a tensor $m$ of any shape and a float $q$. Where is it
# zero?

# %%
def soft_label_gradient(margin, q):
    return None


checks.check_soft_label_gradient(soft_label_gradient);

# %% [markdown]
# **3.** Comparisons need not cover all pairs. Given a list `compared` of tuples `(a, b)` among
# answers `0 .. count - 1` (it may be empty, and a pair may come twice): how many directions can
# Bradley-Terry not see?
#
# <details><summary>Hint</summary>
#
# Draw answers as points, comparisons as lines. Which vectors $v$ have $v_a = v_b$ along every line?
# </details>

# %%
def invisible_directions(count, compared):
    return None


checks.check_invisible_directions(invisible_directions);

# %% [markdown]
# **4.** *Judge a record.* The reward models of Section 6 (`study_lora`) saw 900 pairs, one label
# each, in one pass. Someone says: "Millions of weights, 900 labels: like the 60-pair fits they
# claim far more than they know." May the sentence stand?
#
# From a model's margins and the true ones (tensors) return its mean claim minus the mean
# probability that the judge of Section 1 agrees with it.
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

# %% [markdown]
# The next cell prints this over-claim for four seeds, with the 95% interval. All pairs are fresh:
#
# - `in_domain`: other answers to training prompts;
# - `prompt_disjoint`: new prompts;
# - `response_disjoint`: training prompts, answers by language models not seen in training;
# - `mutual_disjoint`: both new.
#
# First write down which over-claim would let the sentence stand. These models claim about .64 on
# average, so even a coin would over-claim by only .14. Then compare both ends of each interval with
# your number.

# %%
def all_margins(scores):  # per prompt the rewards of its answers; returns those of all pairs
    differences = [torch.tensor(s)[:, None] - torch.tensor(s) for s in scores]  # (K, K) each
    return torch.cat([x[tuple(torch.triu_indices(*x.shape, 1))] for x in differences])


for part in ("in_domain", "prompt_disjoint", "response_disjoint", "mutual_disjoint"):
    margins = [all_margins(run[part]["rewards"]) for run in trained]
    true = all_margins(trained[0][part]["gold"]) / 0.5  # the same for all four
    claims, best = torch.stack(margins).abs().sigmoid().mean(), true.abs().sigmoid().mean()
    print(f"{part:18s} mean claim {claims:.2f}; true rewards are right {best:.2f} of the time")
    numbers = [overclaim(m, true) for m in margins]
    print("        over-claim", [x if x is None else round(float(x), 3) for x in numbers])
    if numbers[0] is not None:
        print("              mean {:+.3f} ± {:.3f} (95%)".format(*seed_interval(numbers)))

# %% [markdown]
# <details><summary>Verdict, after yours</summary>
#
# It may not stand: no interval leaves -.04 to .07 (table in `notebooks/solutions/`).
#
# But calm does not mean good. These models claim only .62 to .65, and are right about as seldom.
# (True rewards: .74 to .76.) The toy's .31 was out of reach.
# </details>

# %% [markdown]
# ## Check yourself
#
# 1. Two labs train on the same pairs; one's rewards are all 100 higher. Whose model is better?
# 2. A fit gets every training pair right. Why is that no good news when judges are noisy?
# 3. You scale a model's rewards by three. What changes: its choices, its claims, its loss?
# 4. Why need judges not agree on a scale of marks?
# 5. Ten people judge each pair instead of one. What happens to endless margins?

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1. Neither: BT, tau within prompts and best-of-$n$ see no level.
# 2. It learned the wrong labels, too, and nothing contradicts its margins.
# 3. Not its choices. Its claims grow. The loss on fresh pairs falls only if the model claimed too
#    little.
# 4. The loss sees differences within a prompt, and only who won.
# 5. Where people disagree, they end: the loss is content where $\sigma(m)$ is the share.
# </details>

# %% [markdown]
# ## What to watch, what to vary
#
# | In your run, watch | Healthy | If not, or next, vary |
# |---|---|---|
# | training pairs wrong | the judge's noise (here .22)* | near 0: more pairs |
# | share right, fresh pairs | toward the truth's (here .78) | more pairs |
# | claims minus this share | near 0 | above: rescale or stop, by held-out pairs; below: go on |
#
# \* Unknown for real judges. Have some pairs judged twice, independently. The noise is at most the
# share where the two labels differ, and at least half of it.

# %% [markdown]
# ## What you know now
#
# **Choices alone never tell the zero of a prompt's rewards. They tell the size only where they
# contradict each other, and only fresh pairs test it.**
#
# Over-confidence is a size too great for a direction that is partly wrong. So trust no order of
# prompts, and no margin, that you have not checked.
#
# Next: **02 · Do hidden norms disperse while a reward model is trained?** measures the three
# factors of Eq. 23 in a real one.
