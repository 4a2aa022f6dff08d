# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 08 · How does a policy learn from a reward?
#
# A reward model judges whole answers; it cannot say which word to change. A *policy gradient*
# turns such judgements into a direction for the weights. This notebook builds the one that "On the
# Robustness of Reward Models for Language Model Alignment" (the paper) uses, **RLOO** (REINFORCE
# leave-one-out): from a bandit with three arms, in which every claim can be enumerated, up to a
# language model that learns on two CPU cores in minutes.

# %% [markdown]
# After it you can
# - derive the policy gradient, and check by enumeration that an estimate of it is unbiased;
# - say what a baseline does, why it is taken per prompt, and what leaving one out changes;
# - place the KL penalty where it does what you think it does;
# - write the whole loop, and say what it taught.
#
# Words from before: *gold*, *proxy*, *KL* (notebook 07), *level* and *spread* (03), *undecided*
# (06). New: the **policy** $\pi$ is the language model in training, the **reference**
# $\pi_{ref}$ the same model before training. A **bandit** is one decision: pick an "arm", get its
# reward.

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
import itertools
import json
import random

import numpy as np
import pandas as pd
import torch

from bsr_lite import metrics, plots, rloo
from bsr_lite.course import checks_policy as checks
from bsr_lite.data import read_rows
from bsr_lite.generate import prompt_ids, sample
from bsr_lite.policy import load_policy
from bsr_lite.scorers import pocket_gold, pocket_terms, read_prompts
from bsr_lite.step import loss_scaler
from bsr_lite.studies.records import drawn

torch.manual_seed(0)
pd.set_option("display.max_colwidth", None)

# %% [markdown]
# What is to be explained: forty steps of the loop of Section 6 (`data/runs/rloo_rate_1e-3`). The
# reward was gold itself, the pocket world's formula, less a penalty for being cut off. In each step
# the policy wrote 16 answers and was told one number for each. Before and after, on two prompts
# that it never trained on, picked by us: one to be glad of, and one not.

# %%
RATES = ("3e-4", "1e-3", "3e-3")
saved = {rate: json.loads(Path(f"data/runs/rloo_rate_{rate}/gold-kl0.0-seed0/evaluation.json")
                          .read_text()) for rate in RATES}
dev = drawn(read_prompts("data/pocket/pocket.jsonl.gz", "dev", pocket=True), 64, 0)
pd.DataFrame([{"prompt": dev[i]["prompt"], "who": who,
               "answer": " ".join(saved["1e-3"][who]["texts"][i].split()),
               "gold (0 to 5)": f"{saved['1e-3'][who]['gold'][i][0]:.2f}"}
              for i in (3, 51) for who in ("reference", "policy")])

# %% [markdown]
# ## 1. Three arms
#
# One prompt, three possible answers, rewards $r = (1, 0.2, -0.5)$. The policy is a softmax of
# three logits. We want to raise the expected reward $J = \sum_a \pi(a)\, r(a)$. Its gradient is
# an expectation again, since $\nabla \pi = \pi \nabla \log \pi$:
#
# $$\nabla J = \sum_a \nabla \pi(a)\, r(a) = E_{a \sim \pi}\bigl[r(a)\, \nabla \log \pi(a)\bigr].$$
#
# The right side can be *sampled*: draw an answer, get its reward, push its log-probability in
# proportion. The reward itself needs no gradient, so it may be a judge, a test, a formula. That
# is **REINFORCE**. ($\nabla\log\pi$ is called the *score*.)

# %%
rewards = torch.tensor([1.0, 0.2, -0.5], dtype=torch.float64)
logits = torch.tensor([0.3, -1.0, 0.9], dtype=torch.float64)


def grad_log_pi(logits):
    """The score of every arm: onehot(a) - pi.  Shapes: (3,) -> (3, 3)."""
    return torch.eye(3, dtype=torch.float64) - logits.softmax(0)

# %%
free = logits.clone().requires_grad_()
(true,) = torch.autograd.grad((free.softmax(0) * rewards).sum(), free)
expectation = (logits.softmax(0)[:, None] * rewards[:, None] * grad_log_pi(logits)).sum(0)
torch.testing.assert_close(expectation, true, msg="E[r grad log pi] must be the gradient of J")
drawn_arms = torch.multinomial(logits.softmax(0), 10_000, replacement=True)
sampled = rewards[drawn_arms, None] * grad_log_pi(logits)[drawn_arms]  # (10000, 3)
pd.DataFrame({"gradient of J": true, "mean of 10,000 draws": sampled.mean(0),
              "standard error of that mean": sampled.std(0) / 100},
             index=[f"logit of r = {r:.1f}" for r in rewards]).T.round(4)

# %% [markdown]
# ## 2. Baselines
#
# Rewards have no natural zero: Bradley-Terry sees differences only (Eq. 3, notebook 01). Add 3 to
# all: the same task, the same gradient. But now *every* sampled answer is pushed up, and only the
# average over many draws tells good from bad. Subtracting a **baseline** $b$ cures it: $E[b\,
# \nabla\log\pi] = b \sum_a \nabla \pi(a) = b\,\nabla 1 = 0$, so the mean stays, and the variance
# changes.
#
# **Predict** the variance of one draw's gradient as a function of $b$. Which shape has it? Is its
# minimum at the mean reward?

# %%
def moments(estimates):
    """Mean, and variance summed over components, of (probability, gradient) pairs, enumerated."""
    mean = sum(p * g for p, g in estimates)
    return mean, sum(p * (g - mean).square().sum() for p, g in estimates).item()


def one_draw(shift, b):
    """The same of one draw's gradient, when `shift` is added to all rewards."""
    pi, score = logits.softmax(0), grad_log_pi(logits)
    return moments([(pi[a], (rewards[a] + shift - b) * score[a]) for a in range(3)])

# %%
for shift, b in itertools.product((0.0, 3.0), (-1.0, 0.0, 2.5)):
    torch.testing.assert_close(one_draw(shift, b)[0], true, msg="a baseline adds no bias")

# %% [markdown]
# Adding 3 to all rewards moves that curve by 3 and changes nothing else. So both tasks are one
# curve, drawn against $b$ minus the mean reward.

# %%
mean_reward = (logits.softmax(0) * rewards).sum().item()
offset = np.linspace(-3.3, 3.3, 661)
variance = np.array([one_draw(0.0, mean_reward + o)[1] for o in offset])
at_mean = one_draw(0.0, mean_reward)[1]

# %%
figure, axes = plots.panels(2)
for axis, shift in zip(axes, (3.0, 0.0), strict=True):
    point = (-mean_reward - shift, one_draw(shift, 0.0)[1])
    axis.plot(offset, variance, color="black")
    axis.plot(0, at_mean, "s", color="black")
    axis.plot(*point, "o", color="#882255")
    axis.annotate(f"no baseline (b = 0),\nrewards + {shift:.0f}", point,
                  (10, -4) if shift else (-10, -26), textcoords="offset points", color="#882255",
                  ha="left" if shift else "right")
    axis.annotate("b = mean reward", (0, at_mean), (0, -14) if shift else (10, 2),
                  textcoords="offset points", ha="center" if shift else "left")
axes[0].set_ylim(-0.7, 7.5)
axes[1].set(xlim=(-0.8, 1.2), ylim=(0, 0.3))
for axis, title in zip(axes, (f"No baseline: {one_draw(3.0, 0.0)[1] / at_mean:.0f} times the noise",
                              "The bottom is near the mean reward, not at it"), strict=True):
    plots.label(axis, "b minus the mean reward (reward units)",
                "variance of one draw's gradient" if axis is axes[0] else "", title)

# %%
lowest = offset[variance.argmin()]
print(f"variance {at_mean:.3f} at the mean reward; the least, {variance.min():.3f}, "
      f"at b = the mean reward + {lowest:.2f}")

# %% [markdown]
# **What to see.** Where rewards average nearly zero, no baseline costs little. With 3 added, the
# same missing baseline costs a factor of 67.
#
# <details><summary>Answer</summary>
#
# A parabola: the variance is $E[(r-b)^2\,\lVert\nabla\log\pi\rVert^2]$ minus a constant. Its
# minimum is not at the mean reward but .33 above it. Where exactly is exercise 1.
# </details>

# %% [markdown]
# Where does a baseline come from? RLOO draws $K$ answers to the *same* prompt, and pushes answer
# $i$ by its **advantage** $A_i$, its reward minus the mean reward **of the others**:
#
# $$A_i = r_i - b_i, \qquad b_i = \frac{1}{K-1} \sum_{j \ne i} r_j.$$
#
# The others are drawn independently of answer $i$, so $E[b_i \nabla\log\pi(y_i)] = E[b_i]\,
# E[\nabla\log\pi(y_i)] = 0$: no bias. The mean of *all* $K$ contains $r_i/K$, and
# $E[r_i\nabla\log\pi(y_i)]/K = \nabla J/K$ is lost: $(K-1)/K$ of the gradient is left.

# %%
def leave_one_out(r):
    """Every answer's reward minus the mean of its siblings'.  Shapes: (P, K) -> (P, K)."""
    return r - (r.sum(1, keepdim=True) - r) / (r.shape[1] - 1)

# %%
toy = torch.tensor([[1.0, 0.0, 0.0]])
torch.testing.assert_close(leave_one_out(toy), torch.tensor([[1.0, -0.5, -0.5]]))
torch.testing.assert_close(leave_one_out(toy), rloo.leave_one_out_advantages(toy))

# %%
def k_draws(K, shift, advantage):
    """Every set of K draws with its probability, and the mean of A grad log pi over it."""
    pi, score, found = logits.softmax(0), grad_log_pi(logits), []
    for arms in itertools.product(range(3), repeat=K):
        a = torch.tensor(arms)
        A = advantage((rewards[a] + shift)[None])[0]
        found.append((pi[a].prod(), (A[:, None] * score[a]).mean(0)))
    return moments(found)

# %% [markdown]
# **Predict** for $K = 2$: which of *no baseline*, *mean of all K* and *leave one out* is biased,
# and which is calmest? Multiply the biased one by $K/(K-1)$: what is its variance then?

# %%
def minus_mean(r):
    return r - r.mean(1, keepdim=True)


WAYS = {"no baseline": lambda r: r, "mean of all K": minus_mean,
        "mean of all K, times K/(K-1)": lambda r: minus_mean(r) * r.shape[1] / (r.shape[1] - 1),
        "leave one out": leave_one_out}
table = pd.DataFrame({name: {
    **{f"share of the gradient, K={K}": (k_draws(K, 3.0, way)[0] / true).mean().item()
       for K in (2, 4)},
    **{f"variance, K={K}, rewards + {shift:.0f}": k_draws(K, shift, way)[1]
       for shift in (3.0, 0.0) for K in (2, 4)}} for name, way in WAYS.items()}).T
table.round(3)

# %%
for K in (2, 4):
    loo, plain = k_draws(K, 3.0, leave_one_out), k_draws(K, 3.0, minus_mean)
    torch.testing.assert_close(loo[0], true, msg="leave-one-out is unbiased")
    torch.testing.assert_close(plain[0], true * (K - 1) / K, msg="shrunk by (K-1)/K")
    rescaled = plain[1] * (K / (K - 1)) ** 2
    assert abs(rescaled - loo[1]) < 1e-12, "rescaled, the two are the same estimator"

# %% [markdown]
# **What to see.** Leave-one-out is unbiased, and its variance is the same at any level of the
# rewards. Far from zero that is far calmer than no baseline. Where rewards average zero already, to
# estimate the level costs: five times the variance of no baseline for $K = 2$.
#
# <details><summary>Answer</summary>
#
# The mean of all $K$ is biased: half the gradient is left. It is calmest because it is smaller.
# Rescaled, it *is* leave-one-out; a learning rate would absorb the factor.
# </details>

# %% [markdown]
# **Why the others of the same prompt?** Two prompts with two answers each, and the second prompt's
# rewards lie higher by a gap. The baseline is the prompt's other answer, or the batch's three
# others.

# %%
def two_prompts(gap, advantage):
    pi, found = logits.softmax(0), []
    for arms in itertools.product(range(3), repeat=4):
        a = torch.tensor(arms)
        A = advantage((rewards[a] + torch.tensor([0, 0, gap, gap])).view(2, 2)).flatten()
        found.append((pi[a].prod(), (A[:, None] * grad_log_pi(logits)[a]).mean(0)))
    return moments(found)


def of_batch(r):
    return leave_one_out(r.reshape(1, 4))

# %%
torch.testing.assert_close(two_prompts(3, of_batch)[0], two_prompts(3, leave_one_out)[0],
                           msg="neither is biased")
sd = (logits.softmax(0) * (rewards - mean_reward) ** 2).sum().sqrt().item()
pd.DataFrame({f"gap {gap} ({gap / sd:.1f} sd of the rewards)": {
    "the prompt's other answer": two_prompts(gap, leave_one_out)[1],
    "the batch's three others": two_prompts(gap, of_batch)[1]} for gap in (0, 1, 1.2, 3)}).round(3)

# %% [markdown]
# **What to see.** At equal levels the batch's others are the better baseline, being three and not
# one. At a gap between 1 and 1.2 the two variances cross; at 3 the batch's is four times larger.
#
# So under RLOO it changes nothing *directly* that BSR pins the level of the rewards and shrinks the
# differences between prompts (notebook 03). The first could help a REINFORCE without baseline, the
# second one with the batch's. Under RLOO a gain must come from elsewhere: from what the reward
# model has learned within a prompt, or from its scale (Section 5).

# %% [markdown]
# ## 3. From arms to answers
#
# An arm is now a whole answer $y$ to a prompt $x$, and Sections 1 and 2 hold as they stand: *every
# token of an answer is pushed with the same $A$*. How can a token that had no part in the reward
# get off? The smallest case: two tokens, each 0 or 1 with probability 1/2. The reward is the first
# token; the second does nothing. The baseline is the mean reward, 1/2.
#
# **Predict** the push on the logit of either token, $A\,(y_t - \frac12)$: in each of the four
# answers, and on average.

# %%
four = pd.DataFrame(itertools.product((0, 1), repeat=2), columns=["first", "second"],
                    index=["answer 00", "answer 01", "answer 10", "answer 11"])
four["reward"] = four["first"]
four["A"] = four["reward"] - 0.5
for token in ("first", "second"):
    four[f"push on {token}"] = four["A"] * (four[token] - 0.5)
assert four["push on second"].mean() == 0, "a token without part in the reward: no push on average"
pd.concat([four, four.mean().to_frame("mean of the four").T])

# %% [markdown]
# **What to see.** In any one answer the idle token is pushed as hard as the paid one. But the paid
# one is always pushed up, the idle one as often down: which token mattered shows *only in the
# average over answers*.
#
# In code, $\log \pi(y|x) = \sum_t \log \pi(y_t | x, y_{<t})$, **the end-of-turn token included**:
# to stop is a decision, learned as any other. What a padded batch holds behind it is no part of
# the answer (exercise 2).

# %% [markdown]
# ## 4. Where to put the KL
#
# A reward model is right only near what it was trained on. The paper (Sec. 3.2) therefore charges
# an answer for what the policy says more readily than the reference does. In place of $r$ comes
#
# $$R = r - \beta\, d, \qquad d = \log\pi(y|x) - \log\pi_{ref}(y|x), \quad \beta = 0.05.$$
#
# $E[d]$ is the **KL divergence** $\mathrm{KL}(\pi \Vert \pi_{ref})$, where $\mathrm{KL}(p \Vert
# q) = E_{y\sim p}[\log p(y) - \log q(y)] \ge 0$, zero only for $p = q$, and not symmetric. $R$
# depends on the weights, which adds $E[\nabla R] = -\beta E[\nabla \log \pi] = 0$ to $\nabla J$. So
# $R$ may be detached, and Section 1's formula holds.

# %% [markdown]
# Three estimates of the KL from one answer are in use: $k_1 = d$, $k_2 = d^2/2$, $k_3 = e^{-d} -
# 1 + d$. Each can stand in two places: *in the reward*, as a number, or *as a loss* beside the
# policy loss, where it is differentiated.
#
# **Predict**: which of the three average to the KL? As a loss, which one pulls towards the
# reference along $\nabla\mathrm{KL}(\pi\Vert\pi_{ref})$? Which does not pull at all?

# %%
log_ref = torch.tensor([-0.2, 0.4, 0.1], dtype=torch.float64).log_softmax(0)


def gradient_of(f):
    free = logits.clone().requires_grad_()
    return torch.autograd.grad(f(free.log_softmax(0)), free)[0]


def as_loss(kind):  # answers are drawn: their probabilities are detached
    return gradient_of(lambda lp: (
        lp.detach().exp() * rloo.kl_estimate(lp, log_ref, kind)).sum())


def in_reward(kind):  # a value that multiplies grad log pi
    return gradient_of(lambda lp: (
        lp.detach().exp() * rloo.kl_estimate(lp, log_ref, kind).detach() * lp).sum())

# %%
to_ref = gradient_of(lambda lp: (lp.exp() * (lp - log_ref)).sum())
from_ref = gradient_of(lambda lp: (log_ref.exp() * (log_ref - lp)).sum())
KNOWN = {"nothing": 0 * to_ref, "∇KL(π‖ref)": to_ref, "∇KL(ref‖π)": from_ref,
         "∇KL(π‖ref) - ∇KL(ref‖π)": to_ref - from_ref}
pi = logits.softmax(0)
KL = (pi * (pi.log() - log_ref)).sum().item()


def name_of(g):
    return next((n for n, known in KNOWN.items() if torch.allclose(g, known)), "neither")


pd.DataFrame({k: {"its mean": f"{(pi * rloo.kl_estimate(pi.log(), log_ref, k)).sum():.3f}",
                  "as a loss it pulls along": name_of(as_loss(k)),
                  "in the reward it pulls along": name_of(in_reward(k))}
              for k in ("k1", "k2", "k3")}).T.rename_axis(f"KL(π‖ref) = {KL:.3f}")

# %%
torch.testing.assert_close(as_loss("k1"), 0 * to_ref, msg="k1 as a loss does nothing on average")
torch.testing.assert_close(in_reward("k1"), to_ref, msg="k1 in the reward: the KL's own gradient")

# %% [markdown]
# **What to see.** A right mean does not make a right gradient.
#
# <details><summary>Answer</summary>
#
# $k_1$ and $k_3$ average to the KL, $k_2$ does not. As losses they trade places. $k_1$ has gradient
# *zero* on average, since $E[\nabla \log \pi] = 0$. $k_2$, the biased one, has the gradient of the
# KL. $k_3$ has that of the *other* KL.
# </details>
#
# In the reward an estimate is multiplied by $\nabla\log\pi$. $E[d\,\nabla\log\pi]$ is
# $\nabla\mathrm{KL}(\pi\Vert\pi_{ref})$: **the KL belongs in the reward, as $k_1$**, with $d$ of
# whole answers.

# %% [markdown]
# ## 5. Where does it end?
#
# With the penalty the best policy is the reference, tilted: $\pi^*(y) = \pi_{ref}(y)\,
# e^{r(y)/\beta} / Z$. Put $r = \beta\log(\pi^*/\pi_{ref}) + \beta\log Z$ into the objective:
#
# $$E_\pi[r] - \beta\,\mathrm{KL}(\pi\Vert\pi_{ref}) = \beta\log Z - \beta\,\mathrm{KL}(\pi\Vert
# \pi^*),$$
#
# largest at $\pi = \pi^*$. Dividing $\beta$ by two or doubling all rewards is the same: **a $\beta$
# means nothing without the reward's scale**. (So the script `bsr_lite/train_rloo.py`, Section 6's
# loop with logs, divides rewards by their standard deviation among the reference's answers to a
# prompt.)

# %% [markdown]
# Does RLOO get there? Three runs on the three arms with $\beta = 1$ differ only in where the KL
# stands. As a loss it is written as what its derivative adds to $A$.
#
# **Predict**: which run ends at the tilted policy? Which elsewhere, and which at "always the best
# arm"? In which does the noise stop, though arms are drawn at random to the end?

# %%
def train_bandit(place, beta=1.0, steps=3000, K=4, rate=0.05):
    free, path = log_ref.clone(), []
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        lp = free.log_softmax(0)
        d = lp - log_ref
        arms = torch.multinomial(lp.exp(), K, replacement=True, generator=generator)
        R = rewards - beta * d if place == "k1 in the reward" else rewards
        A = leave_one_out(R[arms][None])[0]
        if place == "k3 as a loss":
            A = A - beta * (1 - torch.exp(-d))[arms]  # the derivative of k3 in d
        if place == "k1 as a loss":
            A = A - beta  # that of k1: the same for every arm
        free = free + rate * (A[:, None] * grad_log_pi(free)[arms]).mean(0)
        path.append(free.softmax(0))
    return torch.stack(path)

# %%
TITLES = {"k1 in the reward": "k1 in the reward: there, and calm",
          "k3 as a loss": "k3 as a loss: beside it, and noisy",
          "k1 as a loss": "k1 as a loss: no penalty at all"}
paths = {place: train_bandit(place) for place in TITLES}
tilted = (log_ref + rewards).softmax(0)  # beta = 1

# %%
figure, axes = plots.panels(3, sharey=True)
for axis, (place, title) in zip(axes, TITLES.items(), strict=True):
    for arm, tint in enumerate(("#332288", "#999933", "#882255")):
        axis.semilogx(range(1, 3001), paths[place][:, arm], color=tint, linewidth=1)
        axis.axhline(tilted[arm], color=tint, linestyle=":")
        if axis is axes[0]:
            axis.annotate(f"arm with r = {rewards[arm]:.1f}", (1.2, 0.92 - 0.08 * arm), color=tint)
    plots.label(axis, "update", "probability of an arm" if axis is axes[0] else "", title)
figure.suptitle("RLOO ends at the tilted reference (dotted) if k1 is in the reward")
assert ((paths["k1 in the reward"][-1] / tilted - 1).abs() < 0.01).all(), "it must end there"

# %%
pd.DataFrame({"tilted reference": [*tilted.tolist(), 0.0], **{
    place: [*path[-500:].mean(0).tolist(), path[-500:, 0].std().item()]
    for place, path in paths.items()}},
    index=[*(f"probability of r = {r:.1f}" for r in rewards), "sd of the first over 500 updates"]
    ).T.round(4)

# %% [markdown]
# **What to see.** In the table: means of the last 500 updates. **At the tilted policy every answer
# has the same penalized reward, $r - \beta\log(\pi^*/\pi_{ref}) = \beta\log Z$: all advantages are
# zero, and the noise dies.**
#
# <details><summary>Answer</summary>
#
# *$k_1$ in the reward* ends at the tilted policy and stands still. *$k_3$ as a loss* ends beside it
# and goes on shaking, since answers are still pushed there, against each other. *$k_1$ as a loss*
# is no penalty: it ends at the best arm, and is calm for the dull reason that one arm is drawn
# nearly always.
# </details>

# %%
for beta in (0.3, 1.0):
    best = (log_ref + rewards / beta).softmax(0)
    print(f"beta {beta}: probability of the best arm {best[0]:.2f}, "
          f"KL to the reference {(best * (best.log() - log_ref)).sum():.2f} nats")

# %% [markdown]
# A smaller $\beta$ ends nearer to "always the best arm". Whether that is good depends on the
# proxy: notebook 09.

# %% [markdown]
# ## 6. The loop
#
# Now the embedded model with LoRA. The reward is **gold**, the pocket world's formula, a sum of
# five terms from 0 to 1:
# - *instruction*: as many sentences or list items as asked for;
# - *topic*: words that belong to it;
# - *complete*: half for ending by itself (not cut off at 48 tokens), half for a closing mark;
# - *fresh*: no repetition;
# - *concise*: the right length for what was asked.
#
# The reference is the same model *with its adapter off*: no second copy in memory. $\beta$ is .02
# on raw gold (the paper's .05 belongs to another reward). The learning rate is 3e-4.

# %%
policy = load_policy("smollm2-135m-instruct", lora_rank=16)
rows = [r for r in read_rows("data/pocket/pocket.jsonl.gz") if r["split"] == "train"]
trainable = [p for p in policy.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(trainable, lr=3e-4, weight_decay=0.0)
scaler = loss_scaler(policy)
stop, K, BETA = policy.tokenizer.eos_token_id, 4, 0.02
spread = np.var(saved["1e-3"]["reference"]["gold"], axis=1, ddof=1).mean() ** 0.5
print(f"sd of gold among answers to a prompt {spread:.2f}; beta in that unit {BETA / spread:.3f}")


def roll_out(rows, generator):
    """[prompt, answer, answer, ...] ids, texts, and whether each answer ended by itself."""
    prompts = [prompt_ids(policy.tokenizer, r) for r in rows]
    tokens, mask = sample(policy, prompts, K, 48, stop, generator)
    answers = [t[m].tolist() for t, m in zip(tokens.cpu(), mask.cpu(), strict=True)]
    texts = [policy.tokenizer.decode(a, skip_special_tokens=True).strip() for a in answers]
    ids = [[p, *answers[i * K:(i + 1) * K]] for i, p in enumerate(prompts)]
    return ids, texts, [a[-1] == stop for a in answers]

# %%
def step(rows, generator):
    ids, texts, ended = roll_out(rows, generator)
    gold = torch.tensor([pocket_gold(row, texts[i * K:(i + 1) * K], ended[i * K:(i + 1) * K])
                         for i, row in enumerate(rows)]).to(policy.device)  # (P, K)
    with torch.no_grad(), policy.reference():
        ref = torch.stack([t.sum() for t in policy.logprobs(ids)]).view(-1, K)
    tokens = policy.logprobs(ids)  # per answer (T,), with a graph
    logp = torch.stack([t.sum() for t in tokens]).view(-1, K)  # (P, K)
    d = logp.detach() - ref
    A = leave_one_out(gold - BETA * d)
    loss = -(A * logp).mean()  # its gradient: minus the mean of A grad log pi
    scaler.scale(loss).backward()  # scaled in float16 alone, as in notebook 02
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(trainable, 1.0)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return {"gold (0 to 5)": gold.mean().item(), "KL (nats an answer)": d.mean().item(),
            "length (tokens)": sum(map(len, tokens)) / len(tokens),
            "ended (share)": sum(ended) / len(ended),
            "entropy (nats a token)": -torch.cat(tokens).mean().item()}, texts, ended

# %% [markdown]
# The library's `rloo_loss` has $\rho = \pi/\pi_{old}$ in the place of $\log\pi$, where $\pi_{old}$
# wrote the answers: so one batch can serve several updates. At the first it is the same gradient.

# %%
logp, A = torch.randn(2, K, requires_grad=True), leave_one_out(torch.randn(2, K))
ours, library = (torch.autograd.grad(loss, logp)[0] for loss in (
    -(A * logp).mean(), rloo.rloo_loss(logp, logp.detach(), A)))
torch.testing.assert_close(ours, library, msg="at ratio 1 the library's loss is REINFORCE")

# %% [markdown]
# **Predict**, before 11 steps of 8 prompts: which of length, share ended, entropy and gold will
# have moved beyond its own noise? Up or down? Which of gold's five terms is the easiest to gain?

# %%
def judged(row, text, ended):
    (terms,) = pocket_terms(row, [text], [ended])
    return {"prompt": row["prompt"], "answer": " ".join(text.split()) or "(nothing)",
            **{name: f"{v:.2f}" for name, v in terms.items()}, "gold": f"{sum(terms.values()):.2f}"}


def written(row):
    """An answer to one prompt, always from the same random numbers."""
    _, texts, ended = roll_out([row], torch.Generator().manual_seed(1))
    return judged(row, texts[0], ended[0])

# %%
draw, generator, history = random.Random(0), torch.Generator().manual_seed(0), []
examples = {"before": written(rows[0])}
for _ in range(11):
    batch = draw.sample(rows, 8)
    numbers, texts, ended = step(batch, generator)
    history.append(numbers)
examples["after"] = written(rows[0])
last = [judged(batch[i // K], text, end)
        for i, (text, end) in enumerate(zip(texts, ended, strict=True))]
idle = [a for a in last if a["instruction"] == a["topic"] == "0.00"]  # nothing of what was asked
examples["step 11, the best paid idle one"] = max(idle, key=lambda a: a["gold"], default={})

# %%
assert abs(history[0]["KL (nats an answer)"]) < 0.05, "before its first update: the reference"

# %% [markdown]
# Every step has other prompts, so single steps say little. A straight line through the eleven
# steps has a change from first to last, with a 95% interval from the scatter about it (as if steps
# were independent).

# %%
def line(values):
    """Fitted values, half of their 95% band, the whole change and half of its interval."""
    y, x = np.array(values), np.arange(len(values)) - (len(values) - 1) / 2
    slope = x @ y / (x @ x)
    fitted = y.mean() + slope * x
    t_sd = metrics.t_quantile(len(y) - 2) * np.sqrt(((y - fitted) ** 2).sum() / (len(y) - 2))
    band = t_sd * np.sqrt(1 / len(y) + x**2 / (x @ x))
    return fitted, band, (len(y) - 1) * slope, (len(y) - 1) * t_sd / np.sqrt(x @ x)


course = pd.DataFrame(history, index=range(1, 12))
lines = {name: line(course[name]) for name in course}
pd.DataFrame.from_dict({name: {
    "first step": f"{course[name].iloc[0]:.2f}", "last step": f"{course[name].iloc[-1]:.2f}",
    "change by the line": "{:+.2f} ± {:.2f}".format(*found[2:])}
    for name, found in lines.items()}, orient="index")

# %%
PANELS = {"ended (share)": ("Answers learn to end", 1), "length (tokens)": ("They get shorter", 48),
          "gold (0 to 5)": (f"Gold: {lines['gold (0 to 5)'][2]:+.1f} of 5 by the line", 5)}
figure, axes = plots.panels(3)
for axis, (name, (title, top)) in zip(axes, PANELS.items(), strict=True):
    fitted, band, *_ = lines[name]
    axis.plot(course.index, course[name], "o", color="black", markersize=4)
    axis.plot(course.index, fitted, color="black")
    axis.fill_between(course.index, np.maximum(fitted - band, 0), np.minimum(fitted + band, top),
                      color="black", alpha=0.12, linewidth=0)
    axis.axhline(course[name].iloc[0], color="#888888", linewidth=0.8, linestyle=":")
    axis.set_ylim(0, top)
    plots.label(axis, "step (dotted: the first)", name, title)

# %%
pd.DataFrame.from_dict(examples, orient="index")

# %% [markdown]
# **What to see.** Length and the share that ended move well beyond their noise; gold rises, just
# beyond it.
#
# <details><summary>Answer</summary>
#
# Up: the share that ended, and gold. Down: length. Entropy's interval holds zero: undecided. The
# easiest term is *complete*, as the next figure shows: an answer that is cut off loses half of it.
# Which of them moved *first*, eleven steps of ever new prompts cannot say. KL is an average of one
# sample an answer, and may be negative.
# </details>

# %% [markdown]
# Read the answers, too. The watched one had ended before training; after it is shorter, and gold
# likes it less. And the last: of the answers of step 11 that have no *instruction* and no *topic*,
# the best paid. Asked for one good and one bad thing about elephants it says "For a positive thing,
# it's...", and gold gives it 3.0, more than the average answer of step 1. It stopped, it repeated
# nothing, it had words enough. Training on gold cannot over-optimize *gold*. It can still find what
# gold's formula pays for and you did not mean.

# %% [markdown]
# ### On new prompts, after 40 steps
#
# Recorded runs (`data/runs/rloo_rate_*`, one a rate, gold as reward) went on for 40 steps, and then
# answered 64 dev prompts. They differ from the one above: four prompts a step, no KL price, rewards
# in units of their standard deviation, and a penalty of 1 for an answer that does not end. The
# prompts share ten topics, so a *topic* is the unit of repetition.
#
# **Predict**: at which rate does the policy learn more than to stop?

# %%
TERMS = ["complete", "instruction", "topic", "fresh", "concise"]
topics = [row["topic"] for row in dev]


def change(rate):
    """Policy minus reference, prompt by prompt.  Shapes: -> (64 prompts, 5 terms)."""
    after, before = (pd.DataFrame(saved[rate][who]["terms"]) for who in ("policy", "reference"))
    return (after - before)[TERMS]


def by_topic(rate):
    """The same, a mean a topic, with gold as the sum.  Shapes: -> (10 topics, 6)."""
    return change(rate).assign(gold=lambda c: c.sum(axis=1)).groupby(topics).mean()

# %%
figure, axis = plots.panels(1)
for rate, tint, side in (("3e-4", "black", -0.15), ("1e-3", "#EE7733", 0.15)):
    found = by_topic(rate)
    for i, name in enumerate(found):
        mean, half = metrics.seed_interval(found[name])
        axis.plot([i + side] * len(found), found[name], ".", color=tint, alpha=0.35)
        axis.errorbar(i + side + 0.06, mean, half, fmt="_", capsize=3, markersize=10, color=tint)
    axis.annotate(f"rate {rate}", (-0.3, 0.95 - side / 2), color=tint)
axis.axhline(0, color="black", linewidth=0.8)
axis.set_xticks(range(len(found.columns)), found.columns)
plots.label(axis, "term of gold, and their sum; dots: topics, bars: 95% over topics",
            "policy minus reference (points)",
            "Both rates learn to complete answers, 1e-3 to do what was asked as well");

# %%
log = pd.read_json("data/runs/rloo_rate_1e-3/gold-kl0.0-seed0/metrics.jsonl", lines=True)
parts = log.groupby(pd.cut(log["step"], [0, 10, 20, 40]), observed=True)
ended_before = np.mean(saved["1e-3"]["reference"]["finished"])
print(f"rate 1e-3; of the reference's answers to dev prompts {ended_before:.2f} end")
pd.DataFrame({f"steps {int(part.left) + 1} to {part.right}": {
    name: "{:.2f} ± {:.2f}".format(*metrics.seed_interval(steps[key]))
    for name, key in (("ended (share)", "train/finished"), ("gold (0 to 5)", "train/gold_reward"))}
    for part, steps in parts})

# %% [markdown]
# **What to see.** At 3e-4, the rate of this notebook, gold gains .59 of a point, .55 of it in
# *complete*: nearly all that was learned is to stop in time. *Instruction*, *topic* and *concise*
# are undecided. At 1e-3 the policy learns to do what was asked as well: *instruction* gains .34 ±
# .10.
#
# In that run, too, endings come first. Over its first ten steps .78 of the answers end already.
# Over the next ten that share rises by .11, which can pay .11 of gold at most; gold rises by half a
# point. (± is 95% over a run's steps. It is one run a rate: a rate is not told apart from luck.)

# %% [markdown]
# ## Exercises
#
# Each stub returns `None`; its checker then says "not attempted yet". A fold holds the first hint,
# and a wrong answer gets a second one from its checker. Solutions are in `notebooks/solutions/`.

# %% [markdown]
# **1.** The constant baseline with the smallest variance for one draw, given probabilities,
# rewards and the squared lengths $\lVert\nabla\log\pi(a)\rVert^2$ of each arm. (Then put Section
# 1's arms in: do you find the minimum of the first figure?)
#
# <details><summary>Hint</summary>
#
# The mean of $(r-b)\nabla\log\pi$ does not depend on $b$. So which expectation does the variance
# differ in?
# </details>

# %%
def best_baseline(probabilities, rewards, squared_lengths):
    return None


checks.check_best_baseline(best_baseline);

# %% [markdown]
# **2.** The sum of log-probabilities of each answer in a padded batch: `logprobs` (N, T), `tokens`
# (N, T), and the end-of-turn id. The first end-of-turn token counts, nothing after it does.
#
# <details><summary>Hint</summary>
#
# What tells the first end-of-turn token of a row from a second one, looking only to the left?
# </details>

# %%
def answer_logprobs(logprobs, tokens, stop):
    return None


checks.check_answer_logprobs(answer_logprobs);

# %% [markdown]
# **3.** Another reward model orders answers alike, but its rewards are $r' = c\,r$ with $c > 0$.
# Which `kl_coef` has the same best policy as $\beta$ had with $r$? By which factor does the
# gradient of the loss then grow? Return both. (With Section 6's clipping and optimizer, does that
# factor matter?)
#
# <details><summary>Hint</summary>
#
# When do two penalized rewards order every two answers alike, whatever their $d$?
# </details>

# %%
def rescaled(kl_coef, c):
    return None


checks.check_rescaled(rescaled);

# %% [markdown]
# **4.** *Judge a record.* Someone reads the gold of the recorded runs and says: "RLOO taught the
# policy more than to stop." Take out what *complete* earned. `change` (prompts, 5) is after minus
# before, *complete* in column 0; `topics` (prompts,) numbers the topics. Add up the other four
# terms, average over each topic's prompts, and return the mean over topics and half of its 95%
# interval. Then run the last cell. At which of the three rates may the sentence stand? What would
# you say of the others?
#
# <details><summary>Hint</summary>
#
# Prompts of one topic are answered from the same knowledge. How many independent numbers are left?
# </details>

# %%
def beyond_complete(change, topics):
    return None


checks.check_beyond_complete(beyond_complete);

# %%
numbered = torch.tensor(pd.factorize(pd.Series(topics))[0])
pd.DataFrame({f"rate {rate}": {
    "gold": "{:+.2f} ± {:.2f}".format(*metrics.seed_interval(by_topic(rate)["gold"])),
    "the other four": beyond_complete(torch.tensor(change(rate).to_numpy()), numbered),
    "KL (nats an answer)": f"{np.mean(saved[rate]['policy']['kl']):.0f}"} for rate in RATES})

# %% [markdown]
# ## What you know now
#
# - A policy gradient needs rewards of samples, not their derivatives; a baseline that does not
#   depend on the sample changes the noise and not the mean.
# - Leave-one-out is such a baseline without a second model; with few draws it adds noise of its
#   own.
# - The KL belongs in the reward, as $k_1$. Its price means something only beside the reward's
#   scale.
# - **RLOO pushes each answer by how much it beats its siblings, after a charge for leaving the
#   reference. What pays at once is learned first: here, to stop.**
#
# Next: **09 · What does a policy learn when its reward is only nearly right?**
