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
# A reward model judges a whole answer. It cannot say which word to change. A *policy gradient*
# turns such judgements into a direction for the weights. The one built here is that of "On the
# Robustness of Reward Models for Language Model Alignment" (the paper): **RLOO** (REINFORCE
# leave-one-out). One idea carries it: *push an answer by how much it beats its siblings*, the other
# answers to the same prompt.

# %% [markdown]
# After it you can
# - derive the policy gradient, and say which of its estimates are unbiased;
# - say what a baseline does, and why it is taken per prompt;
# - put the KL where it does what you think it does;
# - write RLOO's loss, read the whole loop, and say what it taught.
#
# Words from before: *gold*, *KL* (notebook 07), *level* (03), *undecided* (06). New: the
# **policy** $\pi$ is the language model in training, the **reference** $\pi_{ref}$ the same model
# before training.

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
from bsr_lite.scorers import pocket_gold, read_prompts
from bsr_lite.step import loss_scaler
from bsr_lite.studies.records import drawn, read_runs

torch.manual_seed(0)
pd.set_option("display.max_colwidth", None)

# %% [markdown]
# What is to be explained: 40 steps of such a loop (`data/runs/rloo_rate_1e-3`). Each answer earned
# *gold*, a rule's points (Section 6), less a penalty if it was cut off. Here are two new prompts,
# picked by us. On one the answer got better, on the other only gold did.

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
# How can one learn from a reward that has no derivative? Take one prompt and three possible
# answers, the "arms" of a **bandit**, with rewards $r = (1, 0.2, -0.5)$. The policy is a softmax of
# three logits. We want to raise the expected reward $J = \sum_a \pi(a)\, r(a)$. Since
# $\nabla \pi = \pi \nabla \log \pi$, its gradient is an expectation again:
#
# $$\nabla J = \sum_a \nabla \pi(a)\, r(a) = E_{a \sim \pi}\bigl[r(a)\, \nabla \log \pi(a)\bigr].$$
#
# The right side can be *sampled*. Draw an answer, and push its log-probability in proportion to its
# reward: **REINFORCE**.
#
# **Predict**: how near do 10,000 draws come to the gradient?

# %%
rewards = torch.tensor([1.0, 0.2, -0.5], dtype=torch.float64)
logits = torch.tensor([0.3, -1.0, 0.9], dtype=torch.float64)


def grad_log_pi(logits):
    """grad log pi of every arm: onehot(a) - pi.  Shapes: (3,) -> (3, 3)."""
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
# **What to see.** All three means lie within 1.3 standard errors of the gradient.

# %% [markdown]
# ## 2. Baselines
#
# Which zero should rewards have? Bradley-Terry sees differences only (Eq. 3, notebook 01). Add 3 to
# all rewards: task and gradient stay the same. But now *every* sampled answer is pushed up. Only
# the average over many draws tells good from bad.
#
# The cure is to subtract a **baseline** $b$ from the reward. The mean stays, since
# $E[b\, \nabla\log\pi] = b \sum_a \nabla \pi(a) = b\,\nabla 1 = 0$.
#
# **Predict** the variance of one draw's gradient as a function of $b$. What shape has it? Is its
# minimum at the mean reward?

# %%
def moments(estimates):
    """Mean, and variance summed over components, of (probability, gradient) pairs, enumerated."""
    mean = sum(p * g for p, g in estimates)
    return mean, sum(p * (g - mean).square().sum() for p, g in estimates).item()


def one_draw(shift, b):
    """The same of one draw's gradient, `shift` added to all rewards."""
    pi, push = logits.softmax(0), grad_log_pi(logits)
    return moments([(pi[a], (rewards[a] + shift - b) * push[a]) for a in range(3)])

# %%
for shift, b in itertools.product((0.0, 3.0), (-1.0, 0.0, 2.5)):
    torch.testing.assert_close(one_draw(shift, b)[0], true, msg="a baseline adds no bias")

# %% [markdown]
# Adding 3 raises the mean reward by 3. So, drawn against $b$ minus the mean reward, both tasks
# have the same curve.

# %%
mean_reward = (logits.softmax(0) * rewards).sum().item()
offset = np.linspace(-3.3, 3.3, 661)
variance = np.array([one_draw(0.0, mean_reward + o)[1] for o in offset])
at_mean = one_draw(0.0, mean_reward)[1]
lowest = offset[variance.argmin()]

# %%
figure, axes = plots.panels(2)
for axis, shift in zip(axes, (3.0, 0.0), strict=True):
    point = (-mean_reward - shift, one_draw(shift, 0.0)[1])
    axis.plot(offset, variance, color="black")
    axis.plot(0, at_mean, "s", color="black")
    axis.plot(*point, "o", color="#882255")
    axis.annotate("no baseline (b = 0),\nrewards " + ("+ 3" if shift else "as they are"), point,
                  (10, -4) if shift else (-10, -26), textcoords="offset points", color="#882255",
                  ha="left" if shift else "right")
    axis.annotate("b = mean reward", (0, at_mean), (0, 50) if shift else (10, 2),
                  textcoords="offset points", ha="center" if shift else "left",
                  arrowprops={"arrowstyle": "-"} if shift else None)
axes[0].set_ylim(0, 7.5)
axes[1].set(xlim=(-0.8, 1.2), ylim=(0, 0.3))
axes[1].plot(lowest, variance.min(), "v", color="black")
axes[1].annotate("least noise", (lowest, variance.min()), (0, -16), textcoords="offset points",
                 ha="center")
for axis, close, title in zip(axes, ("", ", close-up"), (
        f"No baseline, rewards + 3: {one_draw(3.0, 0.0)[1] / at_mean:.0f} times\n"
        "the variance at b = mean reward",
        f"Least noise: {lowest:.2f} above the mean reward\n"
        f"(variance {variance.min():.3f}, not {at_mean:.3f})"), strict=True):
    plots.label(axis, f"b minus the mean reward (reward units{close})",
                "" if close else "variance of one draw's\ngradient (reward units²)", title)

# %% [markdown]
# **What to see.** With 3 added, to have no baseline costs a factor of 67 (left). Where rewards
# average nearly zero it costs little (right).
#
# <details><summary>Answer</summary>
#
# A parabola. Its bottom is .33 above the mean reward (exercise 1).
# </details>

# %% [markdown]
# RLOO draws $K$ answers to the *same* prompt. It pushes answer $i$ by its **advantage** $A_i$: its
# reward minus the mean reward **of the others**. The estimate of $\nabla J$ is $\hat g$:
#
# $$A_i = r_i - b_i, \quad b_i = \frac{1}{K-1} \sum_{j \ne i} r_j, \qquad
# \hat g = \frac1K \sum_i A_i\, \nabla \log \pi(y_i).$$
#
# The others are drawn independently of answer $i$, so
# $E[b_i \nabla\log\pi(y_i)] = E[b_i]\, E[\nabla\log\pi(y_i)] = 0$: no bias.
#
# The mean of *all* $K$ contains $r_i/K$ itself. Subtracting that takes
# $E[r_i\nabla\log\pi(y_i)]/K = \nabla J/K$ away: $(K-1)/K$ of the gradient is left.

# %%
def leave_one_out(r):
    """Every answer's reward minus the mean of its siblings'.  Shapes: (P, K) -> (P, K)."""
    return r - (r.sum(1, keepdim=True) - r) / (r.shape[1] - 1)

# %%
toy = torch.tensor([[1.0, 0.0, 0.0]])
torch.testing.assert_close(leave_one_out(toy), torch.tensor([[1.0, -0.5, -0.5]]))
torch.testing.assert_close(leave_one_out(toy), rloo.leave_one_out_advantages(toy))

# %%
def k_draws(K, values, advantage, gaps=(0,), of_batch=False):
    """Moments of the estimate, over every set of draws. `gaps`: one a prompt, added to its rewards.
    `of_batch`: all draws are siblings, not only the K of the own prompt."""
    pi, push = logits.softmax(0), grad_log_pi(logits)
    arms = torch.tensor(list(itertools.product(range(3), repeat=K * len(gaps))))  # (sets, draws)
    r = values[arms] + torch.tensor(gaps).repeat_interleave(K)
    A = advantage(r.view(-1, r.shape[1] if of_batch else K)).view(r.shape)
    return moments(list(zip(pi[arms].prod(1), (A[..., None] * push[arms]).mean(1), strict=True)))

# %% [markdown]
# **Predict** for $K = 2$ and rewards + 3: which of *no baseline*, *mean of all K* and *leave one
# out* is biased? Which has the least variance?

# %%
def minus_mean(r):
    return r - r.mean(1, keepdim=True)


WAYS = {"no baseline": lambda r: r, "mean of all K": minus_mean, "leave one out": leave_one_out}
pd.DataFrame({name: {
    "share of the gradient": (k_draws(2, rewards + 3, way)[0] / true).mean().item(),
    "variance, rewards + 3": k_draws(2, rewards + 3, way)[1],
    "variance, rewards as they are": k_draws(2, rewards, way)[1],
    "as they are, but K = 4": k_draws(4, rewards, way)[1]}
    for name, way in WAYS.items()}).T.round(3).rename_axis("K = 2")

# %%
for K in (2, 4):
    loo, plain = (k_draws(K, rewards + 3, way) for way in (leave_one_out, minus_mean))
    torch.testing.assert_close(loo[0], true, msg="leave-one-out is unbiased")
    torch.testing.assert_close(plain[0], true * (K - 1) / K, msg="shrunk by (K-1)/K")

# %% [markdown]
# **What to see.** Leave-one-out is unbiased, and a shift of all rewards does not change its
# variance. With rewards + 3 it is far calmer than no baseline. Where rewards average nearly zero it
# costs, since one sibling is a noisy baseline: five times the variance. With three siblings, as in
# our loop, it is 2.2 times.
#
# <details><summary>Answer</summary>
#
# The mean of all $K$ is biased: half the gradient is left. That is why it varies least. But every
# $A$ is halved alike: the direction stays.
# </details>

# %% [markdown]
# **Why the same prompt?** Take two prompts. Both have Section 1's logits and rewards, but the
# second's rewards lie higher by a gap. The baseline is the mean of the prompt's own other answers,
# or of all others in the batch. For gold (Section 6) the gap is typically 1.15 standard
# deviations of a prompt's answers (`data/runs/LOG.md`). For these arms that is .8.
#
# **Predict** the variance: at which gaps do the other prompt's answers help?

# %%
torch.testing.assert_close(k_draws(2, rewards, leave_one_out, (0, 3), of_batch=True)[0],
                           k_draws(2, rewards, leave_one_out, (0, 3))[0], msg="neither is biased")
pd.DataFrame({f"gap {gap}": {
    f"K = {K}, {who}": k_draws(K, rewards, leave_one_out, (0, gap), who == "whole batch")[1]
    for K in (2, 4) for who in ("own prompt", "whole batch")} for gap in (0, 0.8, 3)}).round(3)

# %% [markdown]
# **What to see.** The batch has more answers: without a gap its mean is the better baseline. A gap
# makes it a wrong zero. At gold's gap of .8 the batch still wins with two answers a prompt. With
# four, as in our loop, the own prompt wins by little, at a gap of 3 by far. (.137 is half of the
# last table's .273: two prompts are averaged.)
#
# What shifts all rewards of one prompt leaves each $A$ as it is. So RLOO does not see the levels
# that BSR pins (notebook 03).

# %% [markdown]
# ## 3. From arms to answers
#
# An arm is now a whole answer $y$ to a prompt $x$. *Every token of an answer is pushed with the
# same $A$*, also an **idle** one, which had no part in the reward.
#
# The smallest case has two tokens, each 0 or 1 with probability 1/2. The reward is the first token;
# the second is idle. The baseline is the mean reward, 1/2. A token's logit sets how probable its 1
# is. At 1/2, $\nabla\log\pi(y_t)$ is $y_t - \frac12$, so the push is $A\,(y_t - \frac12)$.
#
# **Predict** either token's push in the four answers, and on average.

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
# one is always pushed up, the idle one as often down. Which token mattered shows *only in the
# average over answers*.
#
# In code, $\log \pi(y|x) = \sum_t \log \pi(y_t | x, y_{<t})$, **the end-of-turn token included**:
# to stop is a decision, learned as any other.

# %% [markdown]
# ## 4. Where to put the KL
#
# A reward model is right only near what it was trained on. So the paper (Sec. 3.2) charges a
# **price** for what the policy says more readily than the reference. In place of $r$ comes
#
# $$R = r - \beta\, d, \qquad d = \log\pi(y|x) - \log\pi_{ref}(y|x), \quad \beta = 0.05.$$
#
# The mean of $d$ is the **KL divergence** $\mathrm{KL}(\pi \Vert \pi_{ref})$: never negative, and
# zero only where $\pi = \pi_{ref}$.
#
# $R$ depends on the weights. But that adds only $E[\nabla R] = -\beta E[\nabla \log \pi] = 0$ to
# $\nabla J$. So $R$ may be detached, and Section 1's formula holds.

# %% [markdown]
# Three estimates of the KL from one answer are in use: $k_1 = d$, $k_2 = d^2/2$, and
# $k_3 = e^{-d} - 1 + d$. Each can stand in two places. *In the reward* it is a number. *As a loss*
# it is differentiated.
#
# **Predict**: which of the three average to the KL? As a loss, which one pulls towards the
# reference along $\nabla\mathrm{KL}(\pi\Vert\pi_{ref})$?

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
KNOWN = {"nothing": 0 * to_ref, "∇KL(π‖ref)": to_ref, "∇KL(ref‖π)": from_ref}
pi = logits.softmax(0)
KL = (pi * (pi.log() - log_ref)).sum().item()


def name_of(g):
    return next((n for n, known in KNOWN.items() if torch.allclose(g, known)), "none of these")


pd.DataFrame({k: {"its mean": f"{(pi * rloo.kl_estimate(pi.log(), log_ref, k)).sum():.3f}",
                  "as a loss it pulls along": name_of(as_loss(k)),
                  "in the reward it pulls along": name_of(in_reward(k))}
              for k in ("k1", "k2", "k3")}).T.rename_axis(f"KL(π‖ref) = {KL:.3f}")

# %% [markdown]
# **What to see.** A right mean does not make a right gradient.
#
# <details><summary>Answer</summary>
#
# $k_1$ and $k_3$ average to the KL. As a loss $k_1$ has gradient *zero* on average, since
# $E[\nabla \log \pi] = 0$. $k_2$ has a wrong mean, but the gradient of the KL. $k_3$ has that of
# the *other* KL, with $\pi$ and $\pi_{ref}$ swapped.
# </details>
#
# So two places pull along this KL: **$k_1$ in the reward**, as in the paper, and $k_2$ as a loss.

# %% [markdown]
# ## 5. Where does it end?
#
# With that price the best policy is the reference, tilted towards the reward:
# $\pi^*(y) = \pi_{ref}(y)\, e^{r(y)/\beta} / Z$, where $Z$ makes it sum to one. To see why, solve
# for $r = \beta\log(\pi^*/\pi_{ref}) + \beta\log Z$ and put it into the objective:
#
# $$E_\pi[r] - \beta\,\mathrm{KL}(\pi\Vert\pi_{ref}) = \beta\log Z - \beta\,\mathrm{KL}(\pi\Vert
# \pi^*).$$
#
# The first term is fixed; the second is best at $\pi = \pi^*$. Only $r/\beta$ counts for $\pi^*$:
# **a $\beta$ means nothing without the reward's scale**.

# %% [markdown]
# Does RLOO get there? Three runs on the three arms, with $\beta = 1$, differ only in the KL's
# estimate and place: *$k_1$ in the reward*, *$k_2$ as a loss* and *$k_1$ as a loss*.
#
# A price in the reward comes before the baseline, a price as a loss after it. A loss $\beta k_1$
# has the gradient $\beta\,\nabla\log\pi$: the code subtracts $\beta$ from the finished $A$. For
# $\beta k_2$ it subtracts $\beta d$.
#
# **Predict**: which runs end at the tilted policy? Which at "always the best arm"?

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
        slope = {"k1 as a loss": torch.ones(3), "k2 as a loss": d}.get(place)  # k'(d)
        if slope is not None:
            A = A - beta * slope[arms]
        free = free + rate * (A[:, None] * grad_log_pi(free)[arms]).mean(0)
        path.append(free.softmax(0))
    return torch.stack(path)

# %%
RUNS = ("k1 in the reward", "k2 as a loss", "k1 as a loss")
paths = {place: train_bandit(place) for place in RUNS}
tilted = (log_ref + rewards).softmax(0)  # beta = 1
assert ((paths["k1 in the reward"][-1] / tilted - 1).abs() < 0.01).all(), "it must end there"

# %%
ENDS = "there, and at rest", "there, but shaking", "no price at all"
TITLES = {place: f"{place}:\n{end}" for place, end in zip(RUNS, ENDS, strict=True)}

# %%
figure, axes = plots.panels(3, sharey=True)
for axis, (place, title) in zip(axes, TITLES.items(), strict=True):
    for arm, tint in enumerate(("#332288", "#999933", "#882255")):
        axis.semilogx(range(1, 3001), paths[place][:, arm], color=tint, linewidth=1)
        axis.axhline(tilted[arm], color=tint, linestyle=":")
        if place == "k1 in the reward":
            axis.annotate(f"r = {rewards[arm]:.1f}", (3000, tilted[arm] + 0.02), color=tint,
                          ha="right")
    plots.label(axis, "update", "probability of an arm" if axis is axes[0] else "", title)
figure.suptitle("Estimate and place of the KL decide where RLOO ends (dotted: tilted reference)");

# %% [markdown]
# **What to see.** **At the tilted policy every answer has the same
# $R = r - \beta\log(\pi^*/\pi_{ref}) = \beta\log Z$. So all advantages are zero, and the noise
# dies.**
#
# <details><summary>Answer</summary>
#
# *$k_1$ in the reward* ends at the tilted policy and stands still. *$k_2$ as a loss* gets there,
# too, but goes on shaking: its price is added behind the baseline, so the pushes do not vanish.
# *$k_1$ as a loss* is no price: it ends at the best arm.
# </details>

# %% [markdown]
# ## 6. The loop
#
# Now a language model. Ours has LoRA (notebook 05): only its low-rank *adapter* is trained, and
# with the adapter *off* it is the reference. The reward is **gold**, the sum of five terms from 0
# to 1:
# - *instruction*: as many sentences or items as asked for;
# - *topic*: words that belong to it;
# - *complete*: half for ending by itself within 48 tokens, half for a closing mark;
# - *fresh*: no repetition;
# - *concise*: the right length for what was asked.

# %% [markdown]
# Answers are drawn at *temperature* 1, from $\pi$ as it is: Section 1's formula asks for that. A
# cut-off answer pays .57 points, about gold's standard deviation (sd) within a prompt. A nat of $d$
# costs $\beta$ = .02 points. (The paper's .05 is in units of another reward.)

# %%
policy = load_policy("smollm2-135m-instruct", lora_rank=16)
rows = [r for r in read_rows("data/pocket/pocket.jsonl.gz") if r["split"] == "train"]
trainable = [p for p in policy.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(trainable, lr=1e-3, weight_decay=0.0)
scaler = loss_scaler(policy)
stop, K, BETA, PENALTY = policy.tokenizer.eos_token_id, 4, 0.02, 0.57


def roll_out(rows, generator):
    """[prompt, answer, answer, ...] ids, texts, and whether each answer ended by itself."""
    prompts = [prompt_ids(policy.tokenizer, r) for r in rows]
    tokens, mask = sample(policy, prompts, K, 48, stop, generator)
    answers = [t[m].tolist() for t, m in zip(tokens.cpu(), mask.cpu(), strict=True)]
    texts = [policy.tokenizer.decode(a, skip_special_tokens=True).strip() for a in answers]
    ids = [[p, *answers[i * K:(i + 1) * K]] for i, p in enumerate(prompts)]
    return ids, texts, [a[-1] == stop for a in answers]

# %% [markdown]
# **Predict** a loss of one line: its gradient is the mean of $-\hat g$ over prompts, with
# Section 4's $R$ in the place of $r$.
#
# The library's has $\pi/\pi_{old}$ in place of $\log\pi$, where $\pi_{old}$ wrote the answers.
# Before any update its gradient is the same.

# %%
def loss_of(reward, logp, ref):
    """RLOO's loss, and A.  Shapes: (P, K) each, `logp` with a graph -> scalar, (P, K)."""
    A = leave_one_out(reward - BETA * (logp.detach() - ref))
    return -(A * logp).mean(), A  # the loss has the gradient: minus the mean of A grad log pi

# %%
reward, ref, logp = torch.randn(3, 2, K).unbind()
logp.requires_grad_()
A = rloo.leave_one_out_advantages(
    rloo.kl_penalized_rewards(reward, rloo.kl_estimate(logp.detach(), ref), BETA))
ours, library = (torch.autograd.grad(loss, logp)[0] for loss in (
    loss_of(reward, logp, ref)[0], rloo.rloo_loss(logp, logp.detach(), A)))
torch.testing.assert_close(ours, library, msg="at ratio 1 the library's loss is REINFORCE")

# %%
def whole(ids):
    """log pi of whole answers.  Shapes: P lists [prompt, K answers] -> (P, K)."""
    return torch.stack([tokens.sum() for tokens in policy.logprobs(ids)]).view(-1, K)

# %%
def step(rows, generator):
    ids, texts, ended = roll_out(rows, generator)
    gold = torch.tensor([pocket_gold(row, texts[i * K:(i + 1) * K], ended[i * K:(i + 1) * K])
                         for i, row in enumerate(rows)])  # (P, K)
    reward = gold - PENALTY * ~torch.tensor(ended).view(-1, K)
    with torch.no_grad(), policy.reference():
        ref = whole(ids)
    logp = whole(ids)  # with a graph
    loss, A = loss_of(reward.to(policy.device), logp, ref)
    scaler.scale(loss).backward()  # scaled in float16 alone, as in notebook 02
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(trainable, 1.0)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():  # not part of the step: what it did to these answers
        change = whole(ids) - logp
    seen = {"gold": gold, "reward": reward, "d (nats)": logp.detach() - ref, "A": A,
            "change of log π (nats)": change}
    return pd.DataFrame({"answer": [" ".join(text.split()) for text in texts], "ended": ended,
                         **{name: x.flatten().cpu().double().numpy() for name, x in seen.items()}})

# %% [markdown]
# **Predict**, before three steps of two prompts: of four siblings, which becomes more probable by
# the update, and which less? What if all four are bad?

# %%
draw, generator = random.Random(0), torch.Generator().manual_seed(0)
batches = [draw.sample(rows, 2) for _ in range(3)]
steps = [step(batch, generator) for batch in batches]

# %%
assert abs(steps[0]["d (nats)"].mean()) < 0.05, "before its first update: the reference"
moved = [(seen["A"] * seen["change of log π (nats)"]).mean() for seen in steps]
assert sum(moved) > 0, "updates must raise the mean of A log pi of the answers they are made from"
print(batches[0][0]["prompt"])
steps[0][:K].round(2)

# %%
figure, axis = plots.panels(1)
for number, (seen, mark) in enumerate(zip(steps, "os^", strict=True), 1):
    axis.plot(seen["A"], seen["change of log π (nats)"], mark, color="black",
              markerfacecolor="none", label=f"step {number}")
every = pd.concat(steps)
won, lost = (every[rows]["change of log π (nats)"] for rows in (every["A"] > 0, every["A"] < 0))
axis.axhline(0, color="black", linewidth=0.8)
axis.axvline(0, color="black", linewidth=0.8)
axis.legend(loc="upper left")
plots.label(axis, "A: reward less price, minus the siblings' mean of it (points); a mark an answer",
            "change of log π (nats)",
            f"{(won > 0).sum()} of {len(won)} answers that beat their siblings rose, "
            f"{(lost < 0).sum()} of {len(lost)} that lost fell")

# %% [markdown]
# **What to see.** Answers that beat their siblings became more probable, all but one here. Those
# that lost became less probable. Answers share the weights, so a push on one also moves the others.
# These are the answers that made the update, not new ones.
#
# One update took 39 nats off an answer. That is a sum over its 48 tokens, .8 nats each.
#
# <details><summary>Answer</summary>
#
# At step 1, where $d = 0$, $A$ orders siblings as the reward does. A prompt's four $A$ add up to
# zero: unless all earn the same, one is pushed up, *however bad all are*.
# </details>

# %% [markdown]
# ## 7. What did forty steps teach?
#
# Recorded runs made 40 steps by the library's loop. A step has four prompts with four answers each.
# Gold was divided by its sd, and a cut-off answer lost one sd. There was no KL price ($\beta = 0$):
# nothing held the policy back. With a learning rate of 3e-4 the KL came to 6 nats, with 1e-3 to 23
# (Exercise 4).
#
# Then each policy answered 64 new prompts, twice. They share ten **subjects**. A subject is the
# unit of repetition.
#
# **Predict**: which of gold's terms rose at both rates, and which only at 1e-3?

# %%
TERMS = ["complete", "instruction", "topic", "fresh", "concise"]
subjects = np.array([row["topic"] for row in dev])


def change(rate):
    """Policy minus reference, prompt by prompt.  Shapes: -> (64 prompts, 5 terms)."""
    after, before = (pd.DataFrame(saved[rate][who]["terms"]) for who in ("policy", "reference"))
    return (after - before)[TERMS]


def by_subject(rate):
    """The same, a mean a subject, with gold as the sum.  Shapes: -> (10 subjects, 6)."""
    return change(rate).assign(gold=lambda c: c.sum(axis=1)).groupby(subjects).mean()


def told(values):
    return "{:+.2f} ± {:.2f}".format(*metrics.seed_interval(values))

# %%
figure, axis = plots.panels(1)
found = {rate: by_subject(rate) for rate in RATES}
for i, name in enumerate(found["1e-3"]):
    pair = [found["3e-4"][name], found["1e-3"][name]]
    axis.plot([i - 0.1, i + 0.1], pair, color="0.8", linewidth=0.6, zorder=0)
    for values, tint, side in zip(pair, ("black", "#EE7733"), (-0.1, 0.1), strict=True):
        mean, half = metrics.seed_interval(values)
        axis.plot([i + side] * len(values), values, ".", color=tint, alpha=0.35)
        axis.errorbar(i + 1.5 * side, mean, half, fmt="_", capsize=3, markersize=10, color=tint)
        axis.annotate(f"{mean:+.2f}", (i + 1.95 * side, max(mean, 0.02)), color=tint, fontsize=8,
                      ha="left" if side > 0 else "right")
axis.annotate("rate 3e-4", (5 - 0.1, 0.83), color="black", ha="right")
axis.annotate("rate 1e-3", (5 + 0.1, 1.31), color="#EE7733", ha="center")
axis.axhline(0, color="black", linewidth=0.8)
axis.set(xlim=(-0.5, 5.5), ylim=(-0.22, 1.42))
axis.set_xticks(range(len(TERMS) + 1), [*TERMS, "gold"])
plots.label(axis, "term of gold, and their sum; lines join a subject's dots; "
            "bars: 95% over subjects", "policy minus reference (points)",
            'After 40 steps both runs complete more answers; at 1e-3 "instruction" rose, too');

# %% [markdown]
# **What to see.** At 3e-4 the policy learned to complete its answers, and little else: *complete*
# brings .55 of gold's .59 points. (*fresh* rose, too, by .03.) At 1e-3 *instruction* gained .34,
# and *topic* .11.
#
# This is one run a rate, and 1e-3 was kept *because* it gained most on these very prompts.

# %% [markdown]
# Stopping was paid twice, by *complete* and by the penalty. **What does the penalty teach by
# itself?** The runs of `study_rloo_controls` keep penalty and rate (1e-3). As reward they have
# - gold (seed 0 is the run above);
# - random numbers, a new one for every text;
# - or a constant.
#
# Each has three seeds. All answered the same 112 new prompts on 20 subjects, each policy twice, the
# reference eight times.
#
# **Predict**: how long are their answers, and what becomes of gold's other four terms?

# %%
PARTS = ["complete", "the other four's sum"]


def parts_of(evaluated):
    """Means of *complete* and of the other four's sum.  Shapes: -> (2,)."""
    mean = {name: np.mean(evaluated["terms"][name]) for name in TERMS}
    return np.array([mean.pop("complete"), sum(mean.values())])


def told_by(answered):
    """Tokens an answer, share that ended, gold: a number a seed."""
    return {f"{name}, by seed": ", ".join(f"{np.mean(p[key]):.{digits}f}" for p in answered)
            for name, key, digits in (("tokens", "tokens", 0), ("ended", "finished", 2),
                                      ("gold (0 to 5)", "gold", 1))}

# %%
controls = read_runs("data/runs/study_rloo_controls")
known = controls["gold-kl0.0"][0]["evaluation"]["reference"]
table, moves, lengths, last = {"none (reference)": told_by([known])}, {}, {}, {}
written = {"none (reference)": known}
for reward, method in (("gold", "gold"), ("random numbers", "noise"), ("a constant", "constant")):
    runs = controls[f"{method}-kl0.0"]
    written[reward] = runs[0]["evaluation"]["policy"]  # of seed 0
    after = [run["evaluation"]["policy"] for run in runs]
    moves[reward] = np.array([parts_of(p) - parts_of(known) for p in after])  # (3 seeds, 2)
    lengths[reward] = np.array([[row["train/length"] for row in run["metrics"]] for run in runs])
    last[reward] = [max(row["step"] for row in run["metrics"] if row["train/grad_norm"] > 0)
                    for run in runs]
    table[reward] = told_by(after) | {
        f"change of {name}, mean ± 95%": told(part)
        for name, part in zip(PARTS, moves[reward].T, strict=True)}
pd.DataFrame(table).fillna("").rename_axis("reward", axis=1)

# %% [markdown]
# One prompt, picked by us, and the answers of seed 0. (Gold does not ask for sense.)

# %%
new = drawn(read_prompts("data/pocket/pocket.jsonl.gz", "valid", pocket=True), 112, 0)
print(new[11]["prompt"])
pd.DataFrame({reward: {"answer": " ".join(answered["texts"][11].split()),
                       "gold (0 to 5)": f"{answered['gold'][11][0]:.2f}"}
              for reward, answered in written.items()}).T.rename_axis("reward")

# %%
figure, (left, right) = plots.panels(2)
for i, (reward, tint) in enumerate(zip(moves, ("#EE7733", "#332288", "#882255"), strict=True)):
    for seed, tokens in enumerate(lengths[reward]):
        left.plot(range(1, 41), tokens, color=tint, linewidth=0.8, label="" if seed else reward)
        if last[reward][seed] < 40:
            left.plot(last[reward][seed] + 1, tokens[last[reward][seed]], "o", color=tint)
    for part, fill in enumerate((tint, "white")):
        right.plot(i + 0.2 * part - 0.1 + np.array([-0.03, 0, 0.03]), moves[reward][:, part], "o",
                   color=tint, markerfacecolor=fill)
left.legend(loc="upper right", ncols=3)
right.annotate("complete", (-0.1, 0.67), ha="center", color="#EE7733")
right.annotate("the other four", (0.04, 0.37), va="top", color="#EE7733")
right.set_ylim(top=0.9)
left.set_ylim(0, 56)
right.axhline(0, color="black", linewidth=0.8)
right.set_xlim(-0.5, 2.5)
right.set_xticks(range(len(moves)), moves)
plots.label(left, "step (dot: from here on the gradient is 0)", "tokens an answer, in training",
            "With a constant the policy falls silent,\nwith random numbers not in 40 steps")
plots.label(right, "full: complete; open: the other four's sum; a dot a seed",
            "policy minus reference (points)", "Only gold raised\nthe other four's sum")

# %% [markdown]
# **What to see.** Every run learned to end. With a constant the policy falls silent: one to four
# tokens, and less than half the reference's gold. We had foretold the opposite: that the penalty
# alone *raises* gold (R1 in `data/runs/LOG.md`). *complete* rose by .09 only: half of it is for a
# closing mark, and hardly an answer has one (same record).
#
# Once all answers end, every advantage is zero, and so is the gradient (dots). But AdamW steps on
# along a mean of *past* gradients, so answers shrink on.
#
# Random numbers, too, pay, on average, for nothing but ending. But siblings get different ones, so
# the gradient never vanishes. Why these answers did not fall silent is not shown.

# %%
pd.DataFrame({"change with gold, mean ± 95% over seeds": {
    name: told([np.mean(run["evaluation"]["policy"]["terms"][name]) - np.mean(known["terms"][name])
                for run in controls["gold-kl0.0"]]) for name in TERMS}}).transpose()

# %% [markdown]
# **Of these only gold raised the other four's sum**, by .46 ± .05: about half of its gain. That is
# mostly *instruction*. *topic* rose in the one run above, but three seeds leave it undecided. The
# other half is *complete*, which random numbers may raise as well (.40 ± .42).
#
# Did ending itself raise the other four? A cut-off answer may lack the last item. So compare, on
# the same prompts, a policy's answers that ended with the reference's that ended.

# %%
def gold_of_ended(answered):
    """Mean gold of a prompt's answers that ended, NaN for none.  Shapes: -> (112,)."""
    kept = np.where(answered["finished"], answered["gold"], np.nan)
    return pd.DataFrame(kept).mean(axis=1)


def lead(policy):
    """Policy minus reference where both ended, over subjects, and on how many prompts."""
    difference = gold_of_ended(policy) - gold_of_ended(known)
    means = difference.groupby([row["topic"] for row in new]).mean()  # (20 subjects,)
    return f"{told(means)} ({difference.count()})"

# %%
pd.DataFrame({reward: {f"seed {seed}": lead(run["evaluation"]["policy"])
    for seed, run in enumerate(controls[f"{method}-kl0.0"])}
    for reward, method in (("gold", "gold"), ("random numbers", "noise"))}).rename_axis(
    "gold where both ended, policy minus reference (prompts)", axis=1)

# %% [markdown]
# **What to see** (± 95% over subjects). Where both ended, gold's runs lead the reference, by
# .44 to .52 points. Random numbers lose. On the prompts that the reference can finish, 89 of 112,
# **gold taught more than to end.**

# %% [markdown]
# ## Exercises
#
# Solutions are in `notebooks/solutions/`.

# %% [markdown]
# **1.** The constant baseline with the smallest variance for one draw, given probabilities,
# rewards and the squared lengths $\lVert\nabla\log\pi(a)\rVert^2$ of each arm. The last cell puts
# Section 1's arms in: do you find the first figure's minimum?
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

# %%
found_b = best_baseline(logits.softmax(0), rewards, grad_log_pi(logits).square().sum(1))
print("your b minus the mean reward:",
      "to do" if found_b is None else f"{found_b - mean_reward:.2f}", f"(figure: {lowest:.2f})")

# %% [markdown]
# **2.** The sum of log-probabilities of each answer in a padded batch: `logprobs` (N, T), `tokens`
# (N, T), and the end-of-turn id. The first end-of-turn token counts, nothing after it does. An
# answer that was cut off has none: all its tokens count.
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
# **3.** Another reward model gives $r' = c\,r$ with $c > 0$. Which $\beta'$ has the same best
# policy as $\beta$ had with $r$? By which factor does the gradient of the loss then grow? Return
# `(β', factor)`.
#
# - (a) Would $c$ matter in Section 7's runs? They divide the reward by its own sd.
# - (b) In Section 6's loop, which number beside $\beta$ is in points? Once it is scaled, too, does
#   $c$ still matter, behind clip and AdamW?
#
# <details><summary>Hint</summary>
#
# When do $r - \beta d$ and $c\,r - \beta' d$ order every two answers alike, whatever their $d$?
# </details>

# %%
def rescaled(beta, c):
    return None


checks.check_rescaled(rescaled);

# %% [markdown]
# **4.** *Judge a record*, with a third rate, 3e-3. Someone says: "RLOO taught the policy more than
# to stop." Tensors: `change` (prompts, 5), after minus before, *complete* first; `subjects`
# (prompts,) numbers each prompt's subject. Return what the other four terms gained: the mean over
# subjects, and half its 95% interval (`metrics.seed_interval`).
#
# - (a) At which rates may it stand, by the other four *and* by gold where both ended?
# - (b) Which interval may you use, subjects' or prompts'? Does a verdict hang on it?
# - (c) 3e-3 went farther than 1e-3 and gained less: what must you see to blame the rate?
#
# <details><summary>Hint</summary>
#
# If the same prompts were written ten times over, should the interval shrink?
# </details>

# %%
def beyond_complete(change, subjects):
    return None


checks.check_beyond_complete(beyond_complete);

# %%
numbered, table = torch.tensor(pd.factorize(subjects)[0]), {}
for rate in RATES:
    gained = [beyond_complete(torch.tensor(change(rate).to_numpy()), units)
              for units in (numbered, torch.arange(len(numbered)))]
    over, as_if = ("to do" if g is None else "{:+.3f} ± {:.3f}".format(*map(float, g))
                   for g in gained)
    table[f"rate {rate}"] = {
        "gold": told(found[rate]["gold"]), "KL": f"{np.mean(saved[rate]['policy']['kl']):.0f} nats",
        "the other four, over subjects": over, "as if over prompts": as_if,
        "gold where both ended": told((gold_of_ended(saved[rate]["policy"]) - gold_of_ended(
            saved[rate]["reference"])).groupby(subjects).mean())}
pd.DataFrame(table)

# %% [markdown]
# ## Check yourself
#
# 1. All rewards of one prompt rise by 10. What happens to RLOO's push? And without a baseline?
# 2. All answers to a prompt earn the same, and $\beta = 0$. What does this prompt teach?
# 3. Someone adds $\beta d$ to the loss, and the policy drifts as before. Why?
# 4. A closing phrase that the reward ignores grows more frequent. Must it have been paid?
# 5. Why does a run that gains gold need one with a constant reward beside it?

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1. Nothing: siblings rise alike. Without a baseline even bad answers are pushed up.
# 2. Nothing: every advantage is zero.
# 3. $k_1$ as a loss has gradient zero on average.
# 4. No. A whole answer shares one push; with few answers idle tokens ride along.
# 5. It shows what loop and penalty do when nothing is judged: here they ended every answer and
#    *cost* gold.
# </details>

# %% [markdown]
# ## What to watch, what to vary
#
# | In your run, watch | Healthy (seen here) | Seen when wrong | Then vary |
# |---|---|---|---|
# | tokens an answer | 40, then 26 to 30 (1e-3) | 1 to 4 (a constant) | reward |
# | *instruction* | +.35 ± .14 (1e-3) | +.03 (3e-4) | steps, then rate |
# | KL after 40 steps | 23 nats (1e-3) | 33 nats, less gold (3e-3) | seed, then rate |

# %% [markdown]
# ## What you know now
#
# - A policy gradient needs no derivative of the reward. An independent baseline changes its noise,
#   not its mean.
# - $k_1$ in the reward has the KL's gradient, and rests where the policy should; as a loss it has
#   none. Its $\beta$ needs the reward's scale.
# - **RLOO pushes each answer by how much it beats its siblings. Before you credit the reward, run
#   the loop on a constant and on random numbers: here all learned to end, and only gold raised the
#   other four terms' sum.**
#
# Next: **09 · What does a policy learn when its reward is only nearly right?**
