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
# A reward model gives a whole answer one number. It cannot say which word to change. The paper,
# "On the Robustness of Reward Models for Language Model Alignment", trains a language model on such
# numbers by **RLOO** (REINFORCE leave-one-out). One idea carries it: *push an answer by how much it
# beats its siblings*, the other answers to the same prompt.
#
# **Sections 1 to 7 are the first reading**, Sections 8 to 12 the second.

# %% [markdown]
# After the first reading you can
# - say why a reward needs no derivative, and what a baseline changes;
# - write RLOO's loss, and read the whole loop;
# - say what a policy learned from its reward, and what from the loop.
#
# New words: the **policy** $\pi$ is the language model in training. The **reference** $\pi_{ref}$
# is the same model before training.

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
from bsr_lite.studies.records import drawn, read_runs

torch.manual_seed(0)
pd.set_option("display.max_colwidth", None)

# %% [markdown]
# A small language model was trained for 40 steps. Its reward was **gold**, points from 0 to 5 by a
# fixed rule, less a penalty for a cut-off answer. The table shows two new prompts, picked by us,
# answered before training (*reference*) and after it (*policy*). On the first the answer got
# better, on the second only its gold did.

# %%
record = "data/runs/rloo_rate_{}/gold-kl0.0-seed0/evaluation.json"
shown = json.loads(Path(record.format("1e-3")).read_text())
dev = drawn(read_prompts("data/pocket/pocket.jsonl.gz", "dev", pocket=True), 64, 0)
pd.DataFrame([{"prompt": dev[i]["prompt"], "who": who,
               "answer": " ".join(shown[who]["texts"][i].split()),
               "gold (0 to 5)": f"{shown[who]['gold'][i][0]:.2f}"}
              for i in (3, 51) for who in ("reference", "policy")])

# %% [markdown]
# ## 1. Three arms
#
# **How can one learn from a reward that has no derivative?** No formula leads from an answer's
# reward back to the weights.
#
# Take the smallest case: one prompt, and three possible answers, called *arms*. Their rewards are
# $r = (1, 0.2, -0.5)$. The policy is a softmax of three logits: it draws arm $a$ with probability
# $\pi(a)$. We want to raise the expected reward
#
# $$J =\sum_a\pi(a)\,r(a).$$

# %% [markdown]
# In $J$ only $\pi$ depends on the logits, so only $\pi$ is differentiated. The chain rule says
# $\nabla\log\pi =\nabla\pi /\pi$, hence $\nabla\pi =\pi\,\nabla\log\pi$. Put it in:
#
# $$\nabla J =\sum_a\nabla\pi(a)\,r(a) =\sum_a\pi(a)\,r(a)\,\nabla\log\pi(a)
# = E_{a\sim\pi}\bigl[r(a)\,\nabla\log\pi(a)\bigr].$$
#
# In words: $\nabla\log\pi(a)$ is the direction that makes arm $a$ more probable. Draw an arm from
# the policy, and push the logits in its direction, as strongly as its reward says. On average this
# push is the gradient of $J$. The method is called **REINFORCE**.

# %% [markdown]
# For a softmax, $\nabla\log\pi(a)$ is a one in place $a$, minus all probabilities.

# %%
rewards = torch.tensor([1.0, 0.2, -0.5], dtype=torch.float64)
logits = torch.tensor([0.3, -1.0, 0.9], dtype=torch.float64)


def grad_log_pi(logits):
    """grad log pi of every arm: onehot(a) - pi.  Shapes: (3,) -> (3, 3)."""
    return torch.eye(3, dtype=torch.float64) - logits.softmax(0)

# %% [markdown]
# **Predict**: how near to the gradient is the mean push of 10,000 drawn arms?

# %%
free = logits.clone().requires_grad_()
(true,) = torch.autograd.grad((free.softmax(0) * rewards).sum(), free)
drawn_arms = torch.multinomial(logits.softmax(0), 10_000, replacement=True)
sampled = rewards[drawn_arms, None] * grad_log_pi(logits)[drawn_arms]  # (10000, 3)
pd.DataFrame({"gradient of J": true, "mean of 10,000 draws": sampled.mean(0),
              "standard error of that mean": sampled.std(0) / 100},
             index=[f"logit of r = {r:.1f}" for r in rewards]).T.round(4)

# %% [markdown]
# **What to see.** The last row says how far a mean usually misses by chance. All three means lie
# within 1.3 standard errors of the gradient.
#
# So **the reward needs no derivative. It only says how strongly to push along the derivative of the
# policy's own log-probability.**

# %% [markdown]
# ## 2. The siblings' mean
#
# **Which zero should rewards have?** A reward model is trained on differences of rewards only
# (Eq. 3, notebook 01), so its zero is arbitrary.
#
# Add 3 to all three rewards. Now *every* arm that is drawn is pushed up, even the worst. Only the
# average over many draws tells good from bad.
#
# The cure is to subtract a number $b$ from every reward, the **baseline**.

# %% [markdown]
# Does this change the average push? It adds $-b\,E[\nabla\log\pi]$, and this is zero:
#
# $$E[\nabla\log\pi] =\sum_a\pi(a)\,\nabla\log\pi(a) =\sum_a\nabla\pi(a)
# =\nabla\sum_a\pi(a) =\nabla 1 = 0.$$
#
# In words: probabilities always add up to one, so equal pushes on all arms cancel on average.
#
# So a baseline changes only how single pushes scatter around the average push. With $b$ near the
# mean reward good arms are pushed up, and bad ones down.

# %% [markdown]
# For a real prompt nobody knows the mean reward. So RLOO draws $K$ answers to the *same* prompt,
# the **siblings**. The baseline $b_i$ of answer $i$ is the mean reward of the $K - 1$ **others**.
# What is left of its reward is its **advantage** $A_i$:
#
# $$A_i = r_i - b_i,\qquad b_i =\frac{1}{K-1}\sum_{j\ne i} r_j.$$
#
# Take rewards 1, 0, 0. The first answer's siblings have mean 0, so its $A$ is 1. The others'
# siblings have mean .5, so their $A$ is $-.5$.

# %%
def leave_one_out(r):
    """Every answer's reward minus the mean of its siblings'.  Shapes: (P, K) -> (P, K)."""
    return r - (r.sum(1, keepdim=True) - r) / (r.shape[1] - 1)

# %%
toy = torch.tensor([[1.0, 0.0, 0.0]])
torch.testing.assert_close(leave_one_out(toy), torch.tensor([[1.0, -0.5, -0.5]]))
torch.testing.assert_close(leave_one_out(toy), rloo.leave_one_out_advantages(toy))

# %% [markdown]
# **Why is the own reward left out?** The others are drawn independently of answer $y_i$. So the
# mean of the product is the product of the means, and the second of these is zero:
#
# $$E[b_i\,\nabla\log\pi(y_i)] = E[b_i]\;E[\nabla\log\pi(y_i)] = 0.$$
#
# So this baseline leaves the average push as it is, direction and length.
#
# With the own reward in, the push would not be wrong, only shorter. For rewards 1, 0, 0 the mean of
# all three leaves 2/3, $-1/3$, $-1/3$: two thirds of each $A$.

# %% [markdown]
# RLOO's estimate of $\nabla J$ is the mean push of $K$ draws,
# $\hat g =\frac1K\sum_i A_i\nabla\log\pi(y_i)$. Its noise is its **variance**, the mean squared
# distance from its own mean.
#
# With three arms and $K = 4$ there are $3^4 = 81$ sets of draws. Each counts with its probability,
# so mean and variance are exact. The mean must be $\nabla J$.

# %%
def moments(p, g):
    """Mean of g, and its variance, added up over its parts.  Shapes: (N,), (N, parts)."""
    mean = (p[:, None] * g).sum(0)
    return mean, (p * (g - mean).square().sum(1)).sum().item()


def k_draws(K, values, advantage):
    """The moments of K draws' estimate, over every set of draws."""
    pi, push = logits.softmax(0), grad_log_pi(logits)
    arms = torch.tensor(list(itertools.product(range(3), repeat=K)))  # (sets, K)
    estimate = (advantage(values[arms])[..., None] * push[arms]).mean(1)  # (sets, 3)
    return moments(pi[arms].prod(1), estimate)  # pi[arms].prod(1): a set's probability

# %%
torch.testing.assert_close(k_draws(4, rewards, leave_one_out)[0], true, msg="no bias")

# %% [markdown]
# **Predict**: add a number to all rewards. How does the variance change without a baseline, and how
# with leave-one-out?

# %%
added = np.linspace(-3, 4, 141)
figure, axis = plots.panels(1)
for name, way, tint, offset in (("no baseline", lambda r: r, "#882255", (8, -12)),
                                ("leave one out", leave_one_out, "black", (-36, 6))):
    axis.semilogy(added, [k_draws(4, rewards + x, way)[1] for x in added], color=tint, label=name)
    for x in (0, 3):
        y = k_draws(4, rewards + x, way)[1]
        axis.semilogy(x, y, "o", color=tint)
        axis.annotate(f"{y:.3f}", (x, y), color=tint, xytext=offset, textcoords="offset points")
axis.axvline(-(logits.softmax(0) * rewards).sum(), color="gray", linestyle=":", linewidth=1,
             label="mean reward = 0")
axis.legend(loc="lower left")
plots.label(axis, "number added to all rewards (reward units)",
            "variance of the estimate\n(reward units², log scale)",
            "K = 4: leave one out does not see where the rewards' zero lies")

# %% [markdown]
# **What to see.** With rewards + 3 the variance is .061 with leave-one-out, 1.549 without a
# baseline. Leave-one-out's curve is flat: what is added to all siblings cancels.
#
# Real rewards lie as far from zero: gold's mean is 3.0 (Section 7). Among a prompt's answers its
# standard deviation (**sd**) is .58, the arms' .69 (`data/runs/LOG.md`).
#
# With nothing added leave-one-out is noisier, .061 to .027: three siblings only guess the mean.
# (The dip misses the dotted line, since rarer arms push harder.)
#
# So **subtract the siblings' mean: the average push stays, and its noise no longer depends on the
# rewards' zero.**

# %% [markdown]
# ## 3. From arms to answers
#
# **Which word earned the reward?** An arm is now a whole answer $y$ to a prompt $x$. A language
# model writes it token by token, so its log-probability is a sum:
#
# $$\log\pi(y|x) =\sum_t\log\pi(y_t | x, y_{<t}).$$
#
# Each term is a token's log-probability, given all before it. The advantage $A$ multiplies the
# whole sum. So *every token is pushed with the same $A$*, even an **idle** one, which had no part
# in the reward. How can this teach the right token?

# %% [markdown]
# The smallest case has two tokens, each 0 or 1 with probability 1/2. The reward is the first token.
# The second token is idle. The baseline is the mean reward, 1/2.
#
# Each token has one logit, that of its 1. As in Section 1, the direction is what was drawn minus
# the probability of a 1, $y_t -\frac12$. So the push is $A\,(y_t -\frac12)$. If positive, it makes
# a 1 more probable.
#
# **Predict**: is the idle token pushed in a single answer? And on average over all four?

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
# **What to see.** Every push has the same size, so no single answer shows which token is idle. But
# the first token is always pushed towards 1. The second is pushed both ways equally often.
#
# An answer stops with its **end-of-turn token**. It is part of the sum, so stopping is pushed like
# any other choice.
#
# So **no single answer tells which word earned the reward. Only the average over many answers
# does.**

# %% [markdown]
# ## 4. A price for leaving the reference
#
# **How does one charge a policy for leaving the model it came from?** A reward model can be trusted
# only near what it was trained on. So the paper (Sec. 3.2) sets a **price** on what the policy says
# more readily than the reference. In place of $r$ comes
#
# $$R = r -\beta\,d,\qquad d =\log\pi(y|x) -\log\pi_{ref}(y|x).$$
#
# $d$ is in nats: at $d = 1$ the policy writes this answer $e$ times as often as the reference.
# $\beta$ is the price of one nat. The mean of $d$ over the policy's answers is the **KL**.

# %% [markdown]
# Now $R$ depends on the logits, too. So the product rule gives a second sum:
#
# $$\nabla E[R] =\sum_y R(y)\,\nabla\pi(y) +\sum_y\pi(y)\,\nabla R(y).$$
#
# As the reference is fixed, $\nabla R = -\beta\,\nabla\log\pi$. So the second sum is
# $-\beta\,E[\nabla\log\pi] = 0$ (Section 2). The push is still Section 1's, with $R$ for $r$. The
# code treats $d$ as a number (`detach`).
#
# So **of two siblings with the same reward, the one with the smaller $d$ wins.** Whether this keeps
# a policy near the reference, we do not test here.

# %% [markdown]
# ## 5. The loop
#
# **What does one step of RLOO do to a language model's answers?** Ours has LoRA (notebook 05):
# only a small *adapter* is trained. With the adapter off it is the reference. The judge is
# **gold**, the sum of five terms from 0 to 1:
# - *instruction*: as many sentences or items as asked for;
# - *topic*: words that belong to it;
# - *complete*: half for ending by itself within 48 tokens, half for a closing mark;
# - *fresh*: no repetition;
# - *concise*: the right length for what was asked.

# %% [markdown]
# An answer cut off at 48 tokens pays a penalty of .57 points, about gold's sd. A nat of $d$ costs
# $\beta = .02$ points, so 28 nats cost as much as the penalty.

# %%
policy = load_policy("smollm2-135m-instruct", lora_rank=16)
rows = [r for r in read_rows("data/pocket/pocket.jsonl.gz") if r["split"] == "train"]
trainable = [p for p in policy.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(trainable, lr=1e-3, weight_decay=0.0)
scaler = loss_scaler(policy)
stop, K, BETA, PENALTY = policy.tokenizer.eos_token_id, 4, 0.02, 0.57

# %% [markdown]
# *Draw.* Each of $P$ prompts gets $K = 4$ answers. They are drawn from $\pi$ as it is, because
# Section 1's expectation is over $\pi$.

# %%
def roll_out(rows, generator):
    """[prompt, answer, answer, ...] ids, texts, and whether each answer ended by itself."""
    prompts = [prompt_ids(policy.tokenizer, r) for r in rows]
    tokens, mask = sample(policy, prompts, K, 48, stop, generator)
    answers = [t[m].tolist() for t, m in zip(tokens.cpu(), mask.cpu(), strict=True)]
    texts = [policy.tokenizer.decode(a, skip_special_tokens=True).strip() for a in answers]
    ids = [[p, *answers[i * K:(i + 1) * K]] for i, p in enumerate(prompts)]
    return ids, texts, [a[-1] == stop for a in answers]

# %% [markdown]
# *Judge.* The reward is gold less the penalty.

# %%
def judge(rows, texts, ended):
    """Gold, and the reward.  Shapes: -> (P, K) each."""
    gold = torch.tensor([pocket_gold(row, texts[i * K:(i + 1) * K], ended[i * K:(i + 1) * K])
                         for i, row in enumerate(rows)])
    return gold, gold - PENALTY * ~torch.tensor(ended).view(-1, K)

# %% [markdown]
# *Push.* An optimizer needs a loss to descend. **Predict** one whose gradient is the mean of
# $-A\,\nabla\log\pi$, with Section 2's $A$ made from Section 4's $R$.

# %%
def loss_of(reward, logp, ref):
    """RLOO's loss, and A.  Shapes: (P, K) each, `logp` with a graph -> scalar, (P, K)."""
    A = leave_one_out(reward - BETA * (logp.detach() - ref))  # d is a number (Section 4)
    return -(A * logp).mean(), A  # the loss has the gradient: minus the mean of A grad log pi

# %% [markdown]
# Two helpers:

# %%
def whole(ids):
    """log pi of whole answers.  Shapes: P lists [prompt, K answers] -> (P, K)."""
    return torch.stack([tokens.sum() for tokens in policy.logprobs(ids)]).view(-1, K)

# %%
def descend(loss):
    """One step of AdamW, the gradient clipped. The scaler works in float16 alone (notebook 02)."""
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(trainable, 1.0)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)

# %% [markdown]
# The whole step:

# %%
def step(rows, generator):
    """One step of RLOO, and what it saw: a row an answer."""
    ids, texts, ended = roll_out(rows, generator)
    gold, reward = judge(rows, texts, ended)
    with torch.no_grad(), policy.reference():
        ref = whole(ids)
    logp = whole(ids)  # with a graph
    loss, A = loss_of(reward.to(policy.device), logp, ref)
    descend(loss)
    with torch.no_grad():  # not part of the step: what it did to these answers
        change = whole(ids) - logp
    seen = {"gold": gold, "reward": reward, "d (nats)": logp.detach() - ref, "A": A,
            "change of log π (nats)": change}
    return pd.DataFrame({"answer": [" ".join(text.split()) for text in texts], "ended": ended,
                         **{name: x.flatten().cpu().double().numpy() for name, x in seen.items()}})

# %% [markdown]
# Three steps of two prompts each. **Predict**: of four siblings, which becomes more probable, and
# which less? What if all are bad?

# %%
draw, generator = random.Random(0), torch.Generator().manual_seed(0)
batches = [draw.sample(rows, 2) for _ in range(3)]
steps = [step(batch, generator) for batch in batches]

# %% [markdown]
# The second prompt of the third step:

# %%
assert abs(steps[0]["d (nats)"].mean()) < 0.05, "before its first update: the reference"
moved = [(seen["A"] * seen["change of log π (nats)"]).mean() for seen in steps]
assert sum(moved) > 0, "updates must raise the mean of A log pi of the answers they are made from"
print(batches[2][1]["prompt"])
steps[2][K:].round(2)

# %% [markdown]
# **What to see.** Answer 4 was cut off. It earns least, so its $A$ is negative, and it became less
# probable.
#
# Answers 5 and 7 earned the same, 3.00 points. But 5 has the larger $d$, 3.30, for which it pays
# $.02\cdot 3.30 = .07$ points. So its $A$ is smaller. (How far an answer then moves depends on its
# words, too.)
#
# All four are poor. Still the best two by gold are pushed up: four $A$ always add up to zero.
#
# The figure has all 24. **Predict**: how many moved against their $A$? How could one?

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
# **What to see.** One of 24 moved against its $A$, which was near zero. Answers share the weights,
# so a push on one also moves the others.
#
# So **a step makes answers that beat their siblings more probable, and the others less.**

# %% [markdown]
# ## 6. What did forty steps teach?
#
# **What does the policy do better after 40 steps, on new prompts?** We read it from recorded runs
# of the library's loop. Three **seeds** are three trainings that differ only in chance. As in
# Section 5 a cut-off answer lost one sd of gold. But a step had four prompts, and there was no
# price ($\beta = 0$).
#
# Then each policy answered 112 new prompts twice, the reference eight times.

# %%
controls = read_runs("data/runs/study_rloo_controls")
known = controls["gold-kl0.0"][0]["evaluation"]["reference"]
TERMS = ["complete", "instruction", "topic", "fresh", "concise"]


def policies(method):
    """What each seed's policy answered."""
    return [run["evaluation"]["policy"] for run in controls[f"{method}-kl0.0"]]


def gains(method):
    """Policy minus reference, mean over prompts.  Shapes: -> (3 seeds, 5 terms)."""
    return pd.DataFrame([{name: np.mean(answered["terms"][name]) - np.mean(known["terms"][name])
                          for name in TERMS} for answered in policies(method)])


def told(values):
    return "{:+.2f} ± {:.2f}".format(*metrics.seed_interval(values))

# %% [markdown]
# **Predict**: which of gold's five terms rose? The table has the mean over seeds, ± half its 95%
# interval.

# %%
gained = gains("gold").assign(gold=lambda gain: gain.sum(axis=1))
pd.DataFrame({"policy minus reference (points)": gained.apply(told)})

# %% [markdown]
# **What to see.** Gold rose by .96 points, more than one sd. Two terms did it: *complete* and
# *instruction*. *topic* is undecided: its interval contains zero. *fresh* and *concise* hardly
# moved.
#
# So **on new prompts the policy completes more of its answers, and more often writes as many
# sentences or items as asked for.**
#
# The learning rate was 1e-3, which gained most of three on other prompts. At 3e-4 one run gained
# little but *complete* (`data/runs/LOG.md`).

# %% [markdown]
# ## 7. Would any reward have taught that?
#
# **How much of this gain is gold's work?** Stopping was paid twice: by *complete*, and by the
# penalty, which is there whatever the reward is.
#
# So the same loop was run with two rewards that judge nothing: **a constant**, and **random
# numbers**, a new one for every text, with an sd of one penalty. All else is as before. What
# such *controls* can gain, we cannot credit to gold.
#
# **Predict**: what do the answers look like under a constant? One prompt, picked by us, seed 0.
# (Gold does not ask for sense.)

# %%
REWARDS = {"gold": "gold", "random numbers": "noise", "a constant": "constant"}
new = drawn(read_prompts("data/pocket/pocket.jsonl.gz", "valid", pocket=True), 112, 0)
print(new[11]["prompt"])
written = {"none (reference)": known} | {r: policies(m)[0] for r, m in REWARDS.items()}
pd.DataFrame({reward: {"answer": " ".join(answered["texts"][11].split()),
                       "gold (0 to 5)": f"{answered['gold'][11][0]:.2f}"}
              for reward, answered in written.items()}).T.rename_axis("reward")

# %% [markdown]
# All 112 prompts, seed by seed:

# %%
ROWS = (("tokens", "tokens", 0), ("ended", "finished", 2), ("gold (0 to 5)", "gold", 1))
answerers = {"none (reference)": [known]} | {r: policies(m) for r, m in REWARDS.items()}
pd.DataFrame({who: {f"{name}, by seed": ", ".join(f"{np.mean(p[key]):.{digits}f}" for p in seeds)
                    for name, key, digits in ROWS} for who, seeds in answerers.items()})

# %% [markdown]
# **What to see.** All nine policies learned to end. Under a constant they fall silent: one to four
# tokens, and less than half the reference's gold.
#
# There only the penalty tells siblings apart, so the end-of-turn token is pushed up. Once all
# answers end, siblings earn the same, and the gradient is zero. By then they have 11 to 19 tokens.
# But AdamW steps on along a mean of *past* gradients (Section 11).

# %% [markdown]
# The last figure splits each gain: *complete*, and the sum of the other four terms. **Predict**:
# under which rewards is the second part above zero?

# %%
TINTS = dict(zip(REWARDS, ("#EE7733", "#332288", "#882255"), strict=True))
figure, axis = plots.panels(1)
for i, (reward, method) in enumerate(REWARDS.items()):
    for part, names, x, fill in (("complete", ["complete"], i - 0.2, TINTS[reward]),
                                 ("the other four", TERMS[1:], i + 0.25, "white")):
        values = gains(method)[names].sum(axis=1)
        axis.plot([x - 0.1, x - 0.07, x - 0.04], values, "o", color=TINTS[reward],
                  markerfacecolor=fill)
        mean, half = metrics.seed_interval(values)
        axis.errorbar(x, mean, half, fmt="_", capsize=3, color="black")
        axis.annotate(f"{part}\n{told(values)}", (x, mean + np.sign(mean) * (half + 0.4)),
                      ha="center", va="center", color=TINTS[reward])
axis.axhline(0, color="black", linewidth=0.8)
axis.set(xlim=(-0.5, 2.6), ylim=(-3.9, 1.7))
axis.set_xticks(range(3), list(REWARDS))
plots.label(axis, "reward (a dot: a seed; bar: 95% interval over seeds)",
            "policy minus reference (points)",
            "At rate 1e-3 only gold raised the other four terms' sum")

# %% [markdown]
# **What to see.** With gold the other four rose, by $.46\pm .05$ in sum. Under the controls they
# *fell*.
#
# *complete* proves nothing about gold: random numbers may raise it as much, by $+.40\pm .42$.
# (Under a constant few answers keep a closing mark: `data/runs/LOG.md`.)
#
# So **at rate 1e-3 about half of gold's gain lies in the other four terms, whose sum no control
# raised. The other half, *complete*, we cannot credit to gold.**
#
# Even the .46 may come from ending, in part: a list that is cut off lacks its last item. Among
# first answers that ended, before and after, the four terms gained .48, .20 and .11 by seed. Only
# the first is clearly above zero (Section 12).

# %% [markdown]
# ## Exercises
#
# Solutions are in `notebooks/solutions/`. A wrong answer gets a second hint.

# %% [markdown]
# **1.** *Write the loss* from tokens, with the own reward left in: the baseline is the mean of all
# $K$ values of $R$. The rest is as in Section 5.
#
# `reward` is (P, K); `logp`, `ref` and `mask` are (P, K, T). `mask` is 1 on an answer's tokens, 0
# behind its end. The checker compares gradients in `logp`.
#
# - (a) By which factor is your gradient shorter than Section 5's?
# - (b) Someone divides each answer's log-probability by its number of tokens. Two answers have
#   $A = -1$, one of 12 tokens, one of 48. Whose tokens are pushed harder, and how much?
#
# <details><summary>Hint</summary>
#
# (a) Write Section 2's $b_i$ with the sum of all $K$.
# </details>

# %%
def token_loss(reward, logp, ref, mask, beta):
    return None


checks.check_token_loss(token_loss);

# %% [markdown]
# **2.** *Judge a record*: "Gold taught this policy .96 points." Two tensors: `gold` (seeds, terms)
# holds gold's gains over the reference, `controls` (2, seeds, terms) those of the controls. Return,
# term by term, the part of gold's mean gain that no control taught. It may be negative.
#
# - (a) The last cell puts Section 7's runs in. Your credits add up to more than .46. Which term
#   makes the difference, and why does Section 7 leave it out?
# - (b) Which credit would you defend by itself against these controls? For every other name the
#   interval in the table that forbids it: gold's own, or a control's.
#
# <details><summary>Hint</summary>
#
# Is what a control *lost* part of what gold gained?
# </details>

# %%
def credited(gold, controls):
    return None


checks.check_credited(credited);

# %%
runs = [torch.tensor(gains(method).to_numpy()) for method in REWARDS.values()]
credit = credited(runs[0], torch.stack(runs[1:]))
table = pd.DataFrame({reward: gains(method).apply(told) for reward, method in REWARDS.items()})
table["your credit"] = "to do" if credit is None else [f"{c:+.2f}" for c in credit]
table.rename_axis("policy minus reference (points)")

# %% [markdown]
# ## Check yourself
#
# 1. All rewards of one prompt rise by 10. What happens to RLOO's push? And without a baseline?
# 2. All answers to a prompt earn the same, and $\beta = 0$. What does this prompt teach?
# 3. A prompt's two answers earn 3.5 each. Their $d$ is 10 and 0, $\beta = .02$. What are their $A$?
# 4. A closing phrase that the reward ignores grows more frequent. Must it have been paid?
# 5. Why does a run that gains gold need one with a constant reward beside it?

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1. Nothing: siblings rise alike. Without a baseline even bad answers are pushed up.
# 2. Nothing: every advantage is zero.
# 3. $R$ is 3.3 and 3.5. With one sibling each, $A$ is $-.2$ and $+.2$.
# 4. No. A whole answer shares one push. With few answers idle tokens are carried along.
# 5. It shows what loop and penalty do when nothing is judged. Here they ended every answer and
#    *cost* gold.
# </details>

# %% [markdown]
# ## What to watch, what to vary
#
# | In your run, watch | Healthy (gold) | Seen when wrong (a constant) | Then vary |
# |---|---|---|---|
# | tokens an answer | 40, then 26 to 30 | 40, then 1 to 4 | the penalty |
# | gradient's norm (Section 11) | never 0 | 0 after 4 or 7 steps | what tells siblings apart |
# | the other four terms | +.46 ± .05 | -2.06 ± .99 | what the reward sees |

# %% [markdown]
# ## What you know now
#
# - A reward needs no derivative, and a whole answer shares one push.
# - **RLOO pushes each answer by how much it beats its siblings. Before you credit the reward, run
#   the loop on a constant and on random numbers.** Here, at rate 1e-3, all learned to end, and only
#   gold raised the other four terms' sum, part of it perhaps by ending.
#
# Next: **09 · What does a policy learn when its reward is only nearly right?**

# %% [markdown]
# ## Second reading
#
# For those who must choose a baseline or a KL penalty (8 to 10), or ask how far Section 7 carries
# (11, 12).

# %% [markdown]
# ## 8. Why siblings of the same prompt?
#
# Take two prompts with Section 1's logits and rewards, but the second's rewards lie higher by a
# gap. The baseline is the mean of the prompt's own other answers, or of all others in the batch.
# For gold the gap is typically 1.15 sds of a prompt's answers (`data/runs/LOG.md`), for these arms
# .8.
#
# **Predict** the variance: at which gaps do the other prompt's answers help?

# %%
def two_prompts(K, gap, of_batch):
    """Moments of the estimate from K draws a prompt. `of_batch`: all draws are siblings."""
    pi, push = logits.softmax(0), grad_log_pi(logits)
    arms = torch.tensor(list(itertools.product(range(3), repeat=2 * K)))  # (sets, draws)
    r = rewards[arms] + torch.tensor([0.0, gap]).repeat_interleave(K)
    A = leave_one_out(r.view(-1, 2 * K if of_batch else K)).view(r.shape)
    return moments(pi[arms].prod(1), (A[..., None] * push[arms]).mean(1))

# %%
torch.testing.assert_close(two_prompts(2, 3.0, True)[0], two_prompts(2, 3.0, False)[0],
                           msg="neither is biased")
pd.DataFrame({f"gap {gap:g}": {
    f"K = {K}, {who}": two_prompts(K, gap, who == "whole batch")[1]
    for K in (2, 4) for who in ("own prompt", "whole batch")} for gap in (0.0, 0.8, 3.0)}).round(3)

# %% [markdown]
# **What to see.** (Two prompts are averaged: .030 is half of Section 2's .061.) Without a gap the
# batch's mean, of more answers, is the better baseline. A gap makes it a wrong zero. At gold's gap
# of .8 the batch still wins with two answers a prompt. With four, as in our loop, the own prompt
# wins by little, at a gap of 3 by far.
#
# So RLOO does not see the rewards' level, which BSR pins (notebook 03).

# %% [markdown]
# ## 9. Three estimates of the KL, two places
#
# A price on $d$ in the reward pushes against the gradient of Section 4's KL. The product rule's
# second sum is zero, as there:
#
# $$\nabla\,\mathrm{KL} =\sum_a\nabla\pi(a)\,d(a) = E[d\,\nabla\log\pi].$$
#
# Three estimates of the KL from one answer are in use: $k_1 = d$, $k_2 = d^2/2$, and
# $k_3 = e^{-d} - 1 + d$. *In the reward* each is a number, which pushes. *As a loss* it is
# differentiated, at answers already drawn: how often each came up is held fixed.
#
# **Predict**: which of the three average to the KL? As a loss, which one has the gradient
# $\nabla\mathrm{KL}(\pi\Vert\pi_{ref})$?

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
                  "its gradient as a loss": name_of(as_loss(k)),
                  "as a price in the reward": name_of(in_reward(k))}
              for k in ("k1", "k2", "k3")}).T.rename_axis(f"KL(π‖ref) = {KL:.3f}")

# %% [markdown]
# **What to see.** A right mean does not make a right gradient.
#
# <details><summary>Answer</summary>
#
# $k_1$ and $k_3$ average to the KL. As a loss $k_1$ has gradient *zero* on average, since
# $\pi_{ref}$ is fixed and $E[\nabla \log \pi] = 0$. $k_2$ has a wrong mean, but the gradient of the
# KL. $k_3$ has that of the *other* KL, with $\pi$ and $\pi_{ref}$ swapped.
# </details>
#
# So two places lower this KL: **$k_1$ in the reward**, as in the paper, and $k_2$ as a loss.

# %% [markdown]
# The library, too, charges its price in the reward. Its loss has $\pi/\pi_{old}$ in place of
# $\log\pi$, where $\pi_{old}$ wrote the answers. Before any update $\pi =\pi_{old}$, so the ratio
# is 1, and its gradient is $\nabla\pi/\pi =\nabla\log\pi$. So it pushes as Section 5's loss does.

# %%
reward, ref, logp = torch.randn(3, 2, K).unbind()
logp.requires_grad_()
A = rloo.leave_one_out_advantages(
    rloo.kl_penalized_rewards(reward, rloo.kl_estimate(logp.detach(), ref), BETA))
ours, library = (torch.autograd.grad(loss, logp)[0] for loss in (
    loss_of(reward, logp, ref)[0], rloo.rloo_loss(logp, logp.detach(), A)))
torch.testing.assert_close(ours, library, msg="at ratio 1 the library's loss is REINFORCE")

# %% [markdown]
# ## 10. Where does it end?
#
# With Section 4's price the best policy is the reference, tilted towards the reward:
# $\pi^*(y) =\pi_{ref}(y)\,e^{r(y)/\beta} / Z$, where $Z$ makes it sum to one. To see why, solve
# for $r =\beta\log(\pi^*/\pi_{ref}) +\beta\log Z$ and put it into the objective:
#
# $$E_\pi[r] -\beta\,\mathrm{KL}(\pi\Vert\pi_{ref}) =\beta\log Z -\beta\,\mathrm{KL}(\pi\Vert
# \pi^*).$$
#
# The first term is fixed; the second is best at $\pi =\pi^*$. Only $r/\beta$ counts for $\pi^*$:
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
figure, axes = plots.panels(3, sharey=True)
for axis, place in zip(axes, RUNS, strict=True):
    for arm, tint in enumerate(("#332288", "#999933", "#882255")):
        axis.semilogx(range(1, 3001), paths[place][:, arm], color=tint, linewidth=1)
        axis.axhline(tilted[arm], color=tint, linestyle=":")
        if place == "k1 in the reward":
            axis.annotate(f"r = {rewards[arm]:.1f}", (3000, tilted[arm] + 0.02), color=tint,
                          ha="right")
    plots.label(axis, "update", "probability of an arm" if axis is axes[0] else "", place)
figure.suptitle("Estimate and place of the KL decide where RLOO ends (dotted: tilted reference)");

# %% [markdown]
# **What to see.** Compare each end with the dotted lines.
#
# <details><summary>Answer</summary>
#
# *$k_1$ in the reward* ends at the tilted policy and stands still. There every answer has the same
# $R = r - \beta\log(\pi^*/\pi_{ref}) = \beta\log Z$. So **all advantages are zero, and the noise
# dies.** *$k_2$ as a loss* gets there, too, but goes on shaking: its price is added behind the
# baseline. *$k_1$ as a loss* is no price: it ends at the best arm.
# </details>

# %% [markdown]
# ## 11. How does a policy fall silent?
#
# The figure follows the length of Section 7's answers through the training. What happens after a
# dot?

# %%
figure, axis = plots.panels(1)
for reward, method in REWARDS.items():
    for seed, run in enumerate(controls[f"{method}-kl0.0"]):
        tokens = [row["train/length"] for row in run["metrics"]]
        last = max(row["step"] for row in run["metrics"] if row["train/grad_norm"] > 0)
        axis.plot(range(1, 41), tokens, color=TINTS[reward], linewidth=0.8,
                  label="" if seed else reward)
        if last < 40:
            axis.plot(last + 1, tokens[last], "o", color=TINTS[reward])
axis.legend(loc="upper right", ncols=3)
axis.set_ylim(0, 56)
plots.label(axis, "step (dot: from here on the gradient is 0)", "tokens an answer, in training",
            "With a constant the policy falls silent, with random numbers not in 40 steps")

# %% [markdown]
# **What to see.** Before a dot the penalty's push took 20 to 32 tokens. After it every advantage is
# zero, and weights do not decay. So only AdamW's mean of *past* gradients moves them. It takes
# another 7 to 18.
#
# We had foretold that the penalty alone *raises* gold (R1 in `data/runs/LOG.md`). It cost gold.
#
# Random numbers, too, pay, on average, for nothing but ending. But siblings get different ones, so
# the gradient never vanishes.

# %% [markdown]
# ## 12. Two rates, and answers that ended
#
# Does "the policy learned more than to end" hold at another learning rate? Two recorded runs differ
# only in the rate, 3e-4 and 1e-3. Each policy answered 64 new prompts, twice. They share ten
# **subjects**, our unit of repetition, since prompts of one subject may be alike.
#
# **Predict**: which of gold's terms rose at both rates, and which only at 1e-3?

# %%
RATES = ("3e-4", "1e-3", "3e-3")  # the third is for Exercise 4
saved = {rate: json.loads(Path(record.format(rate)).read_text()) for rate in RATES}
subjects = np.array([row["topic"] for row in dev])


def change(rate):
    """Policy minus reference, prompt by prompt.  Shapes: -> (64 prompts, 5 terms)."""
    after, before = (pd.DataFrame(saved[rate][who]["terms"]) for who in ("policy", "reference"))
    return (after - before)[TERMS]


def by_subject(rate):
    """The same, a mean a subject, with gold as the sum.  Shapes: -> (10 subjects, 6)."""
    return change(rate).assign(gold=lambda c: c.sum(axis=1)).groupby(subjects).mean()

# %%
figure, axis = plots.panels(1)
found = {rate: by_subject(rate) for rate in RATES}
for rate, tint, side in (("3e-4", "black", -0.12), ("1e-3", "#EE7733", 0.12)):
    for i, name in enumerate(found[rate]):
        mean, half = metrics.seed_interval(found[rate][name])
        axis.errorbar(i + side, mean, half, fmt="o", capsize=4, color=tint,
                      label="" if i else f"rate {rate}")
        axis.annotate(f"{mean:+.2f}", (i + side * 1.5, max(mean, 0.04)), color=tint, va="center",
                      ha="left" if side > 0 else "right")
axis.axhline(0, color="black", linewidth=0.8)
axis.legend(loc="upper center")
axis.set_xlim(-0.6, 5.6)
axis.set_xticks(range(len(TERMS) + 1), [*TERMS, "gold"])
plots.label(axis, "term of gold, and their sum (bar: 95% interval over ten subjects)",
            "policy minus reference (points)",
            'After 40 steps both runs complete more answers; at 1e-3 "instruction" rose, too');

# %% [markdown]
# **What to see.** At 3e-4 the policy learned to complete its answers, and little else: *complete*
# brings .55 of gold's .59 points. At 1e-3 *instruction* gained .34, and *topic* .11, which
# Section 6's three seeds leave undecided.
#
# This is one run a rate, and 1e-3 was kept *because* it gained most on these very prompts.

# %% [markdown]
# Second: did ending itself raise gold? A cut-off answer may lack the last item. So compare, on the
# same prompts, a policy's answers that ended with the reference's that ended. These are again the
# runs of Section 7, on 112 prompts of 20 subjects. Single terms we know of first answers only.

# %%
def gold_of_ended(answered):
    """Mean gold of a prompt's answers that ended, NaN for none.  Shapes: -> (prompts,)."""
    kept = np.where(answered["finished"], answered["gold"], np.nan)
    return pd.DataFrame(kept).mean(axis=1)


def first_ended(answered):
    """Terms of each prompt's first answer, NaN if it was cut off.  Shapes: -> (112, 5)."""
    firsts = zip(new, answered["texts"], answered["finished"], strict=True)
    return pd.DataFrame([pocket_terms(row, [text], [True])[0] if ended[0] else {}
                         for row, text, ended in firsts])

# %%
def lead(difference):
    means = difference.groupby([row["topic"] for row in new]).mean().dropna()
    return f"{told(means)} ({difference.count()})"

# %%
leads = {}
for reward, method in (("gold", "gold"), ("random numbers", "noise")):
    for seed, answered in enumerate(policies(method)):
        first = first_ended(answered) - first_ended(known)
        leads[f"{reward}, seed {seed}"] = {
            "gold": lead(gold_of_ended(answered) - gold_of_ended(known)),
            "first answers: complete": lead(first["complete"]),
            "first answers: the other four": lead(first[TERMS[1:]].sum(axis=1, skipna=False))}
pd.DataFrame(leads).T.rename_axis("policy minus reference where both ended (prompts)")

# %% [markdown]
# **What to see** (± 95% over subjects). Where both ended, gold's runs lead the reference, by .44 to
# .52 points. Random numbers, which end as often, lose.
#
# Mind the selection: nearly all of gold's answers ended, but 4 in 10 of the reference's. A policy
# that only ended more could differ here by *which* answers it ends.
#
# Where both *first* answers ended, the lead is .53, .25 and .15, at most .05 of it *complete* (a
# closing mark).
#
# So, on prompts that the reference can finish, 88 or 89 of 112, **gold's ended answers beat the
# reference's. In the other four terms, on first answers, this is clear at one seed of three.**

# %% [markdown]
# ### Exercise 3
#
# Another reward model gives $r' = c\,r$ with $c > 0$. Which $\beta'$ has the same best policy as
# $\beta$ had with $r$? By which factor does the gradient of the loss then grow? Return
# `(β', factor)`.
#
# - (a) Would $c$ matter in Section 6's runs? They divide the reward by its own sd.
# - (b) In Section 5's loop, which number beside $\beta$ is in points? Once it is scaled, too, does
#   $c$ still matter, behind clip and AdamW?
#
# <details><summary>Hint</summary>
#
# When do $r -\beta d$ and $c\,r -\beta' d$ order every two answers alike, whatever their $d$?
# </details>

# %%
def rescaled(beta, c):
    return None


checks.check_rescaled(rescaled);

# %% [markdown]
# ### Exercise 4
#
# *Judge a record*, with a third rate, 3e-3. Someone says: "RLOO taught the policy more than to
# stop." Tensors: `change` (prompts, 5), after minus before, *complete* first; `subjects`
# (prompts,) numbers each prompt's subject. Return what the other four terms gained: the mean over
# subjects, and half its 95% interval (`metrics.seed_interval`).
#
# - (a) At which rates may it stand, by the other four *and* by gold where both ended?
# - (b) Which interval may you use, subjects' or prompts'? Does a verdict hang on it?
# - (c) 3e-3 went farther than 1e-3 and gained less: what must you see to blame the rate?
#
# <details><summary>Hint</summary>
#
# (b) Copy every prompt: should the interval shrink? (c) Compare KL.
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
