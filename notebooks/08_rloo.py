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
# turns such judgements into a direction for the weights. This notebook builds the one the paper
# uses, **RLOO** (REINFORCE leave-one-out), from a bandit with three arms up to a language model
# that learns on this machine, in minutes.

# %% [markdown]
# After it you can
# - derive the policy gradient, and check by enumeration that an estimate of it is unbiased;
# - say what a baseline does, why it is taken per prompt, and what leaving one out changes;
# - place the KL penalty where it does what you think it does;
# - write the whole loop in 40 lines.
#
# Words: the **policy** $\pi$ is the language model in training, an **answer** $y$ its output for a
# prompt $x$, the **reference** $\pi_{ref}$ the policy before training, a **proxy** the reward that
# training sees, as opposed to gold. A *bandit* is one decision: pick an "arm", get its reward.

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
import random
import time

import torch

from bsr_lite import plots, rloo
from bsr_lite.course import checks_policy as checks
from bsr_lite.data import read_rows
from bsr_lite.generate import prompt_ids, sample
from bsr_lite.policy import load_policy
from bsr_lite.scorers import pocket_gold
from bsr_lite.step import loss_scaler

torch.manual_seed(0);

# %% [markdown]
# ## 1. Three arms
#
# One prompt, three possible answers, rewards $r = (1, 0.2, -0.5)$. The policy is a softmax of
# three logits. We want to raise the expected reward $J = \sum_a \pi(a)\, r(a)$. Its gradient is
# an expectation again, since $\nabla \pi = \pi \nabla \log \pi$:
#
# $$\nabla J = \sum_a \nabla \pi(a)\, r(a) = E_{a \sim \pi}\bigl[r(a)\, \nabla \log \pi(a)\bigr].$$
#
# The right side can be *sampled*: draw an answer, score it, push its log-probability in
# proportion. The reward itself needs no gradient, so it may be a judge, a test, a formula. That
# is REINFORCE.

# %%
rewards = torch.tensor([1.0, 0.2, -0.5], dtype=torch.float64)
logits = torch.tensor([0.3, -1.0, 0.9], dtype=torch.float64)


def grad_log_pi(logits):
    """grad log pi(a) for every arm: onehot(a) - pi.  Shapes: (3,) -> (3, 3)."""
    return torch.eye(3, dtype=torch.float64) - logits.softmax(0)

# %%
free = logits.clone().requires_grad_()
(true,) = torch.autograd.grad((free.softmax(0) * rewards).sum(), free)
expectation = (logits.softmax(0)[:, None] * rewards[:, None] * grad_log_pi(logits)).sum(0)
print("gradient of J       ", [f"{g:+.4f}" for g in true.tolist()])
torch.testing.assert_close(expectation, true, msg="E[r grad log pi] must be the gradient of J")
drawn = torch.multinomial(logits.softmax(0), 10_000, replacement=True)
sampled = (rewards[drawn, None] * grad_log_pi(logits)[drawn]).mean(0)
print("mean of 10,000 draws", [f"{g:+.4f}" for g in sampled.tolist()])

# %% [markdown]
# ## 2. Baselines
#
# Rewards have no natural zero: Bradley-Terry sees differences only (Eq. 3, notebook 01). Add 3 to
# all: the same task, the same gradient, but now *every* sampled answer is pushed up, and only the
# average over many draws tells good from bad. Subtracting a **baseline** $b$ cures it: $E[b\,
# \nabla\log\pi] = b \sum_a \nabla \pi(a) = b\,\nabla 1 = 0$, so the mean stays, and the variance
# changes.
#
# **Predict** the shape of the variance as a function of $b$, and where its minimum is.

# %%
def moments(estimates):
    """Mean, and variance summed over components, of (probability, gradient) pairs, enumerated."""
    mean = sum(p * g for p, g in estimates)
    return mean, sum(p * (g - mean).square().sum() for p, g in estimates).item()


def one_draw(level, b):
    pi, s = logits.softmax(0), grad_log_pi(logits)
    return moments([(pi[a], (rewards[a] + level - b) * s[a]) for a in range(3)])

# %%
grid = torch.linspace(-3, 6, 61).tolist()
for level in (0.0, 3.0):
    for b in (-1.0, 0.0, 2.5):
        torch.testing.assert_close(one_draw(level, b)[0], true, msg="a baseline adds no bias")

# %%
s2 = grad_log_pi(logits).square().sum(1)

# %%
figure, axis = plots.panels(1)
for level, tint in ((0.0, "#004488"), (3.0, "#BB5566")):
    pi, r = logits.softmax(0), rewards + level
    axis.semilogy(grid, [one_draw(level, b)[1] for b in grid], color=tint,
                  label=f"rewards + {level:.0f}")
    axis.axvline((pi * r).sum(), color=tint, linestyle=":")  # the mean reward
    best = ((pi * s2 * r).sum() / (pi * s2).sum()).item()  # exercise 1
    print(f"rewards + {level:.0f}: variance without baseline {one_draw(level, 0.0)[1]:.3f}, at the "
          f"mean reward {one_draw(level, (pi * r).sum())[1]:.3f}, "
          f"at b = {best:.2f}, the least, {one_draw(level, best)[1]:.3f}")
plots.label(axis, "baseline b (reward units)", "variance of one draw's gradient",
            "the mean is the same everywhere; dotted: mean reward")
axis.legend();

# %% [markdown]
# **What to see.** Parabolas (on a logarithmic scale), $E[(r-b)^2\,\lVert\nabla\log\pi\rVert^2]$
# minus a constant. The minimum is at a *weighted* mean reward (exercise 1), here .33 above the
# plain mean. Without a baseline the shifted task is 67 times noisier than with the mean reward;
# unshifted, where rewards average nearly zero, $b = 0$ costs little over it.

# %% [markdown]
# Where from? A value network is one way (a second network that predicts the expected reward, as in
# the algorithm PPO). RLOO's is cheaper: draw $K$ answers to the *same* prompt and take the mean
# reward **of the others**,
#
# $$A_i = R_i - b_i, \qquad b_i = \frac{1}{K-1} \sum_{j \ne i} R_j.$$
#
# The others are drawn independently of answer $i$, so $E[b_i \nabla\log\pi(y_i)] = E[b_i]\,
# E[\nabla\log\pi(y_i)] = 0$: no bias. The mean of *all* $K$ contains $R_i/K$, and
# $E[R_i\nabla\log\pi(y_i)]/K = \nabla J/K$ is lost: $(K-1)/K$ of the gradient is left.

# %%
def k_draws(K, level, advantage):
    """Every set of K draws with its probability, and the mean of A grad log pi over it."""
    pi, s, found = logits.softmax(0), grad_log_pi(logits), []
    for arms in itertools.product(range(3), repeat=K):
        a = torch.tensor(arms)
        weights = advantage((rewards[a] + level)[None])[0]
        found.append((pi[a].prod(), (weights[:, None] * s[a]).mean(0)))
    return moments(found)


def self_including(R):
    return R - R.mean(1, keepdim=True)

# %%
NAMES = {"no baseline": lambda R: R, "mean of all K": self_including,
         "leave one out": rloo.leave_one_out_advantages}
print("share of the true gradient, and variance, rewards + 3")

# %%
for K in (2, 4, 6):
    for name, f in NAMES.items():
        mean, variance = k_draws(K, 3.0, f)
        print(f"K={K}  {name:15s} {(mean / true).mean():.3f}  {variance:.4f}")

# %%
for K in (2, 4):
    loo, plain = k_draws(K, 3.0, NAMES["leave one out"]), k_draws(K, 3.0, self_including)
    torch.testing.assert_close(loo[0], true, msg="leave-one-out is unbiased")
    torch.testing.assert_close(plain[0], true * (K - 1) / K, msg="shrunk by (K-1)/K")
    rescaled = plain[1] * (K / (K - 1)) ** 2
    assert abs(rescaled - loo[1]) < 1e-12, "rescaled, the two are the same estimator"
print("variance at mean reward 0.05, K = 2: "
      + ", ".join(f"{n} {k_draws(2, 0.0, f)[1]:.3f}" for n, f in NAMES.items()))

# %%
def two_prompts(advantage):
    """Prompts at levels 0 and 3, two answers each; baselines from the prompt or from the batch."""
    pi, found = logits.softmax(0), []
    for arms in itertools.product(range(3), repeat=4):
        a = torch.tensor(arms)
        A = advantage((rewards[a] + torch.tensor([0, 0, 3, 3])).view(2, 2)).flatten()
        found.append((pi[a].prod(), (A[:, None] * grad_log_pi(logits)[a]).mean(0)))
    return moments(found)

# %%
per_prompt = two_prompts(rloo.leave_one_out_advantages)
per_batch = two_prompts(lambda R: rloo.leave_one_out_advantages(R.reshape(1, 4)))
print(f"variance with the prompt's others {per_prompt[1]:.3f}, the batch's {per_batch[1]:.3f}")
torch.testing.assert_close(per_batch[0], per_prompt[0], msg="neither is biased")

# %% [markdown]
# **What to see.** Leave-one-out is unbiased and, with rewards far from zero, far calmer. The mean
# of all $K$ is *the same estimator* scaled by $(K-1)/K$, which a learning rate absorbs; with $K$
# different from prompt to prompt the factor would differ, too. And prompts differ in level:
# others of the whole *batch* are a poor baseline, others of the same prompt a good one.
#
# Estimating the level costs: where rewards average zero already, leave-one-out has five times the
# variance of no baseline for $K = 2$. Its own variance is the same at *any* level. So under RLOO
# it changes nothing that BSR pins the mean reward; that could help only a REINFORCE without
# baseline.

# %% [markdown]
# ## 3. From arms to answers
#
# An arm is now a whole answer, and Sections 1 and 2 hold as they stand: *every token of an answer
# is pushed with the same $A$*. Which word mattered shows only in the average over many answers.
#
# $\log \pi(y|x) = \sum_t \log \pi(y_t | x, y_{<t})$, **the end-of-turn token included**: to stop
# is a decision that must be learned. What a padded batch holds behind it is no part of the answer.

# %% [markdown]
# With logits $z_v$, one per token of the vocabulary, a token's log-probability is $z_y - \log
# \sum_v e^{z_v}$. For 32 answers of 48 tokens and 49,152 logits each that is 75 million numbers,
# 300 MB, and as much for the gradient. But its gradient in $z$ is onehot$(y)$ minus softmax$(z)$,
# as in Section 1: keep only the normalizer, and make the logits again, a chunk at a time, when
# they are needed.

# %%
H, V, N = 64, 2000, 500
hidden, weight = torch.randn(N, H, requires_grad=True), torch.randn(V, H) / 8
targets = torch.randint(V, (N,))
chunked = rloo.token_logprobs(hidden, weight, targets, chunk=128)
full = torch.log_softmax(hidden @ weight.T, -1)[torch.arange(N), targets]
torch.testing.assert_close(chunked, full)
a, b = (torch.autograd.grad(x.sum(), hidden, retain_graph=True)[0] for x in (chunked, full))
torch.testing.assert_close(a, b, msg="chunks must not change the gradient")
print(f"largest difference of the gradients {(a - b).abs().max():.0e}")
print(f"largest tensor: {N * V:,} numbers at once, {128 * V:,} in chunks")

# %% [markdown]
# ## 4. Where to put the KL
#
# A reward model is right only near what it was trained on. The paper (Sec. 3.2) therefore rewards
#
# $$R(x, y) = r(x, y) - \beta\, d, \qquad d = \log\pi(y|x) - \log\pi_{ref}(y|x), \quad \beta =
# 0.05.$$
#
# $E[d]$ is the **KL divergence** $\mathrm{KL}(\pi \Vert \pi_{ref})$, where $\mathrm{KL}(p \Vert
# q) = E_{y\sim p}[\log p(y) - \log q(y)] \ge 0$, zero only for $p = q$, and not symmetric. $R$
# depends on the weights itself, which gives $\nabla J$ a second term $E[\nabla R] = -\beta
# E[\nabla \log \pi] = 0$. So $R$ may be detached, and Section 1's formula holds.

# %% [markdown]
# Three estimates of the KL from one answer are in use: $k_1 = d$, $k_2 = d^2/2$, $k_3 = e^{-d} -
# 1 + d$.
#
# **Predict**: which of them average to the KL? And when one is *differentiated*, as a loss term
# beside the policy loss: where does it pull?

# %%
reference = torch.tensor([-0.2, 0.4, 0.1], dtype=torch.float64).log_softmax(0)
logp = logits.log_softmax(0)
KL = (logp.exp() * (logp - reference)).sum()
print(f"KL(pi || ref) {KL:.4f}; expectation of "
      + ", ".join(f"{k} {(logp.exp() * rloo.kl_estimate(logp, reference, k)).sum():.4f}"
                  for k in ("k1", "k2", "k3")))

# %%
def gradient_of(f):
    free = logits.clone().requires_grad_()
    return torch.autograd.grad(f(free.log_softmax(0)), free)[0]


def as_loss(kind):  # answers are drawn: their probabilities are detached
    return gradient_of(lambda lp: (
        lp.detach().exp() * rloo.kl_estimate(lp, reference, kind)).sum())


def in_reward(kind):  # a value that multiplies grad log pi
    return gradient_of(lambda lp: (
        lp.detach().exp() * rloo.kl_estimate(lp, reference, kind).detach() * lp).sum())

# %%
to_ref = gradient_of(lambda lp: (lp.exp() * (lp - reference)).sum())
from_ref = gradient_of(lambda lp: (reference.exp() * (reference - lp)).sum())
for name, g in {"gradient of KL(pi || ref)": to_ref, "gradient of KL(ref || pi)": from_ref,
                **{f"{k} as a loss": as_loss(k) for k in ("k1", "k2", "k3")},
                **{f"{k} in the reward": in_reward(k) for k in ("k1", "k2", "k3")}}.items():
    print(f"{name:26s} {[round(x, 4) for x in g.tolist()]}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# $k_1$ and $k_3$ average to the KL, $k_2$ does not. As losses all trade places: $k_1$ has gradient
# *zero* on average ($E[\nabla \log \pi] = 0$), $k_2$, the biased one, has the gradient of
# KL$(\pi \Vert \pi_{ref})$, and $k_3$ that of the *other* KL, KL$(\pi_{ref} \Vert \pi)$.
# </details>
#
# In the reward an estimate is multiplied by $\nabla\log\pi$, and the right mean is not enough:
# $E[d\,\nabla\log\pi]$ is $\nabla\mathrm{KL}(\pi\Vert\pi_{ref})$, so $k_1$ is right there; $k_3$
# gives the *difference* of both gradients. (All of this with $d$ of whole answers. Summed token by
# token, as losses usually are, $k_2$ and $k_3$ also miss what a token does to later ones.)

# %%
torch.testing.assert_close(as_loss("k1"), 0 * to_ref, msg="k1 as a loss does nothing on average")
torch.testing.assert_close(as_loss("k2"), to_ref)
torch.testing.assert_close(as_loss("k3"), from_ref)
torch.testing.assert_close(in_reward("k1"), to_ref, msg="k1 in the reward: the KL's own gradient")
torch.testing.assert_close(in_reward("k3"), to_ref - from_ref)

# %% [markdown]
# ## 5. Where does it end?
#
# With the penalty the best policy is the reference, tilted: $\pi^*(y) = \pi_{ref}(y)\,
# e^{r(y)/\beta} / Z$. Put $r = \beta\log(\pi^*/\pi_{ref}) + \beta\log Z$ into the objective:
#
# $$E_\pi[r] - \beta\,\mathrm{KL}(\pi\Vert\pi_{ref}) = \beta\log Z - \beta\,\mathrm{KL}(\pi\Vert
# \pi^*),$$
#
# largest at $\pi = \pi^*$. Dividing $\beta$ by two or doubling all rewards is the same, so **a
# $\beta$ means nothing without the reward's scale**, and scale is one of the things in which BT
# and BSR models differ. (`train_rloo` first subtracts the mean reward of the reference's answers
# and divides by their standard deviation within a prompt.)

# %%
def train_bandit(beta, steps=3000, K=4, rate=0.05):
    free, path = reference.clone(), []
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        lp = free.log_softmax(0)
        arms = torch.multinomial(lp.exp(), K, replacement=True, generator=generator)
        R = rloo.kl_penalized_rewards(rewards[arms], (lp - reference)[arms], beta)
        A = rloo.leave_one_out_advantages(R[None])[0]
        free = free + rate * (A[:, None] * grad_log_pi(free)[arms]).mean(0)
        path.append(free.softmax(0))
    return torch.stack(path)

# %%
figure, axes = plots.panels(2, sharey=True)
for axis, beta in zip(axes, (0.3, 1.0), strict=True):
    path, best = train_bandit(beta), (reference + rewards / beta).softmax(0)
    for arm, tint in enumerate(("#228833", "#DDAA33", "#BB5566")):
        axis.plot(path[:, arm], color=tint, label=f"r = {rewards[arm]:.1f}")
        axis.axhline(best[arm], color=tint, linestyle=":")
        axis.axhline(reference[arm].exp(), color=tint, linewidth=0.5)
    assert (path[-1] - best).abs().max() < 0.02, "RLOO must end at the tilted reference"
    plots.label(axis, "update", "probability", f"beta = {beta}; thin: reference, dotted: tilted")
axes[0].legend();

# %% [markdown]
# **What to see.** RLOO finds the tilted reference. A smaller $\beta$ ends nearer to "always the
# best arm" (KL .96 nats at .3), a larger one nearer to the reference (.15 at 1). When the proxy
# is wrong about the best arm, the first is what costs.
#
# And the noise dies out, though answers are still drawn at random: at $\pi^*$ every answer has
# the *same* penalized reward, $r - \beta\log(\pi^*/\pi_{ref}) = \beta\log Z$, so all advantages
# are zero. Without the penalty they vanish only when all answers still drawn have equal reward:
# when it always says one thing, say.

# %% [markdown]
# ## 6. The loop, in 40 lines
#
# Now the embedded model with LoRA. Reward: the pocket world's **gold** formula itself, so that
# nothing can be over-optimized yet; notebook 09 puts reward models in its place. The reference is
# the same model *with its adapter off*: no second copy in memory. Prompts are computed once for
# their $K$ answers, in sampling and in training (notebook 02's packed rows).

# %%
policy = load_policy("smollm2-135m-instruct", lora_rank=16)
rows = [r for r in read_rows("data/pocket/pocket.jsonl.gz") if r["split"] == "train"]
trainable = [p for p in policy.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(trainable, lr=3e-4, weight_decay=0.0)
scaler = loss_scaler(policy)
stop, K, BETA = policy.tokenizer.eos_token_id, 4, 0.02


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
    logp = torch.stack([t.sum() for t in tokens]).view(-1, K)
    kl = rloo.kl_estimate(logp.detach(), ref)
    A = rloo.leave_one_out_advantages(rloo.kl_penalized_rewards(gold, kl, BETA))
    loss = rloo.rloo_loss(logp, logp.detach(), A)  # ratio 1: REINFORCE
    scaler.scale(loss).backward()  # scaled in float16 alone, as in notebook 02
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(trainable, 1.0)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return {"gold": gold.mean().item(), "KL": kl.mean().item(),
            "length": sum(map(len, tokens)) / len(tokens), "ended": sum(ended) / len(ended),
            "entropy": -torch.cat(tokens).mean().item()}, texts

# %% [markdown]
# `rloo_loss` is $-\mathrm{mean}(A\rho)$ with $\rho = \pi/\pi_{old}$ of whole answers. Here
# $\pi_{old}$ is $\pi$, detached: $\rho = 1$, but $\nabla\rho = \nabla\log\pi$, which is
# REINFORCE. Several updates on one batch of answers make it *off-policy*; then $\rho \ne 1$, and
# may be clipped.
#
# **Predict**, before 11 steps of 8 prompts: which moves first, the length, the share that ended by
# itself, or the entropy? Up or down? (Gold's five terms: does what was asked, on topic, complete,
# no repetition, concise.)

# %%
draw = random.Random(0)
generator = torch.Generator().manual_seed(0)
history, started = [], time.perf_counter()

# %%
for number in range(11):
    numbers, texts = step(draw.sample(rows, 8), generator)
    history.append(numbers)
    if number in (0, 10):
        print(f"step {number + 1}: " + ", ".join(f"{k} {v:.2f}" for k, v in numbers.items()))
        print("   " + " ".join(texts[0].split())[:150])

# %%
assert abs(history[0]["KL"]) < 0.05, "before its first update the policy is its reference"

# %%
UNITS = {"gold": "0 to 5", "KL": "nats an answer", "length": "tokens", "ended": "share",
         "entropy": "nats a token"}
figure, axes = plots.panels(5)
for axis, (key, unit) in zip(axes, UNITS.items(), strict=True):
    axis.plot(range(1, 12), [h[key] for h in history], color=plots.COLORS["bt"], marker=".")
    plots.label(axis, "step", "", f"{key} ({unit})")

# %% [markdown]
# **What to see.** The share that ended rises, by fits and starts, from a third to four fifths, and
# the length falls with it, from 40 tokens to 27. That pays in two of gold's terms at once
# (complete, concise). Entropy falls, a little. Gold itself is a mean over 32 answers to ever new
# prompts, and so noisy that its rise is hardly out of the noise after 11 steps. KL grows to 3
# nats an answer; it is a one-sample estimate, too, and may be negative.

# %% [markdown]
# Nothing here is over-optimized, since the reward *is* gold. Had the reward been a model that
# likes short answers a little too much, these steps would look the same.

# %% [markdown]
# ## Exercises
#
# Each stub returns `None`; its checker then says "not attempted yet". Solutions are in
# `notebooks/solutions/`.
#
# **1.** The constant baseline with the smallest variance for one draw, given probabilities,
# rewards and the squared lengths $\lVert\nabla\log\pi(a)\rVert^2$ of each arm. (Not quite the
# mean reward.)

# %%
def best_baseline(probabilities, rewards, squared_lengths):
    return None


checks.check_best_baseline(best_baseline);

# %% [markdown]
# **2.** The sum of log-probabilities of each answer in a padded batch: `logprobs` (N, T), `tokens`
# (N, T), and the end-of-turn id. The first end-of-turn token counts, nothing after it does.

# %%
def answer_logprobs(logprobs, tokens, stop):
    return None


checks.check_answer_logprobs(answer_logprobs);

# %% [markdown]
# **3.** A proxy is $r' = c\,r$. Which `kl_coef` trains the same policy as $\beta$ did with $r$?
# And what does the gradient of the loss become, relative to before? Return both, (kl_coef,
# factor).

# %%
def rescaled(kl_coef, c):
    return None


checks.check_rescaled(rescaled);

# %% [markdown]
# **4.** The KL of the tilted policy $\pi^* \propto \pi_{ref}\, e^{r/\beta}$ to the reference, in
# nats.

# %%
def tilted_divergence(reference, rewards, beta):
    return None


checks.check_tilted_divergence(tilted_divergence);

# %% [markdown]
# ## What you know now
#
# - A policy gradient needs rewards of samples, not their derivatives; a baseline that does not
#   depend on the sample changes the noise and not the mean.
# - Leave-one-out is such a baseline without a second model; with few draws it adds noise of its
#   own.
# - The KL belongs into the reward ($k_1$). Its weight means something only beside the reward's
#   scale.
# - The loop is short; what it learns is what the reward pays for, no more.
