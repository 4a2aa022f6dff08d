# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 02 · Do hidden norms disperse while a reward model is trained?
#
# The paper's diagnosis: Bradley-Terry wants ever larger margins, the head does not grow, so the
# **hidden states** do: the length of $h_w - h_l$ rises, spreads and skews (Fig. 1, 2), hidden
# lengths scatter on unseen data (Fig. 3), and training states lose rank that unseen ones keep
# (Table 1). Here we train a real reward model with a loop that fits on a page, measure all of it,
# and say which parts show at this size.

# %% [markdown]
# After it you can
# - say where in the network a hidden norm is taken, and why that decides what it can do;
# - read a reward-model training loop of 30 lines, shown to be the library's;
# - split a growing margin into head, length and angle (Eq. 16, 23);
# - read a handful of seeds honestly.
#
# The model is SmolLM2-135M-Instruct with all 30 layers, the data the pocket world (real answers
# with a known gold quality; notebook 01, Section 6).

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

from bsr_lite import plots
from bsr_lite.config import load_config
from bsr_lite.course import checks
from bsr_lite.models import load_reward_model
from bsr_lite.scenarios import load_scenarios, pairs_as_groups
from bsr_lite.tokenization import pair_tokens
from bsr_lite.train_rm import draw_groups

# %% [markdown]
# ## 1. A reward model and what it sees
#
# One config file describes a run: **full fine-tuning** (every weight is trained), one learning
# rate for all, as in the paper. Live we train on few pairs; the recorded runs further down use
# the file as it is.
#
# The labels are noisy on purpose: which answer counts as *chosen* is drawn from Bradley-Terry on
# the gold scores, so a fair share of the pairs, perhaps this one, is the wrong way round.

# %%
CONFIG = "bsr_lite/configs/rm_full_depth.yaml"
config = load_config(CONFIG, overrides=[
    "data.max_pairs=48", "batch_size=8", "eval_groups=12"])
scenarios = load_scenarios(config)
model = load_reward_model(config.model.name, dtype=config.model.dtype, seed=0)
pair = scenarios.train[0]
print("prompt  ", pair.prompt[0]["content"])
print("chosen  ", pair.chosen[:150].replace("\n", " "), "...")
print("rejected", pair.rejected[:150].replace("\n", " "), "...")

# %% [markdown]
# Prompt and answer go through the network; $h(x, y) \in \mathbb{R}^{576}$ is the state at the
# answer's **last** token, the only one that has seen everything, as each token sees only those
# before it. The reward is $W_p^\top h$ (Eq. 2), and $W_p$ is drawn at random, so these first
# rewards are noise.
#
# `pair_tokens` turns pairs into token ids, a prompt once and both answers after it; `pack` lays
# pairs side by side in one row, without padding. It is only a way to compute: rewards are those
# of separate rows.

# %%
from bsr_lite.batching import pack

pairs, dropped = pair_tokens(scenarios.train, model.tokenizer, config.data.max_length)
row = pack(pairs[:16]).to(model.device)
with torch.no_grad():
    after, before = (x.cpu() for x in model.last_hidden(row))  # (32, 576): 16 pairs, 2 answers
    rewards = model(row).cpu()
torch.testing.assert_close(rewards, after @ model.head_weight.cpu(), rtol=1e-4, atol=1e-4)
print(f"{len(pairs)} pairs, dropped {dropped}; rewards of the first pair "
      f"{rewards[0]:.2f} (chosen), {rewards[1]:.2f} (rejected)")

# %% [markdown]
# ## 2. Before or after the last normalization?
#
# `last_hidden` returned *two* states. The network's last operation is an **RMSNorm**: from the raw
# state $u$ it makes
#
# $$h = g \odot \frac{u}{\mathrm{rms}(u)}, \qquad \mathrm{rms}(u) = \lVert u \rVert / \sqrt{H},$$
#
# with one learned **gain** $g_i$ per coordinate. The head sees $h$.
#
# **Predict**: the training makes every $u$ three times as long. What happens to the rewards?

# %%
gain = model.backbone.norm.weight.detach().cpu()
H = len(gain)


def rms_norm(u):
    return gain * u / u.square().mean(-1, keepdim=True).sqrt()


torch.testing.assert_close(rms_norm(before), after, rtol=1e-2, atol=1e-2)  # 16-bit network
torch.testing.assert_close(rms_norm(3 * before), rms_norm(before))
print("three times the raw length, the same rewards: RMSNorm forgets the length of u")

# %% [markdown]
# <details><summary>Answer</summary>
#
# Nothing. The length of $u$ never reaches the head.
# </details>
#
# So "the hidden norm" has two meanings. The raw $\lVert u\rVert$ may grow and no reward moves (it
# only gets harder to turn: Exercise 1). The normalized $\lVert h\rVert$ is what Eq. 16 is about,
# and it is bounded: $\min_i|g_i|\sqrt H \le \lVert h\rVert \le \max_i|g_i|\sqrt H$. If all
# $|g_i|$ were equal it would be a constant; all its spread comes from *which* coordinates of $u$
# are large.

# %%
short, long = gain.abs().min() * H**0.5, gain.abs().max() * H**0.5
length = after.norm(dim=-1)
print(f"|h| may lie in [{short:.0f}, {long:.0f}]; it does in "
      f"[{length.min():.1f}, {length.max():.1f}]")
assert short <= length.min() and length.max() <= long, "RMSNorm bounds |h| by its gains"

# %%
figure, (left, right) = plots.panels(2)
for values, style, name in ((before, "step", "before RMSNorm"), (after, "bar", "after")):
    norms = values.norm(dim=-1)
    left.hist(norms / norms.mean(), bins=torch.linspace(0.82, 1.18, 25), histtype=style,
              label=f"{name}: mean {norms.mean():.0f}, cv {norms.std() / norms.mean():.3f}")
plots.label(left, "length / mean length", "answers", "lengths of 32 hidden states")
left.set_ylim(0, 16)
left.legend()
right.plot(gain.abs().sort().values, color="#4477AA")
plots.label(right, "coordinate, sorted", "gain $|g_i|$", "the gains of the final RMSNorm")

# %% [markdown]
# **What to see.** Left: after the norm, lengths scatter by about 3% of their mean (**cv**, the
# coefficient of variation: standard deviation over mean), half of what they do before. Right: most
# gains are alike; the bounds above allow a factor of four, real states use a tenth of that.
#
# With the first 10 layers only, the cv is 0.005 (recorded in `data/runs/study_pocket`): there one
# could say nothing about norms. And **LoRA**, which trains small added matrices and freezes the
# rest, leaves $g$ as it is. That is why this notebook trains *every* weight of *all* layers.

# %% [markdown]
# **The same for differences.** By the law of cosines, with $\theta$ the angle between $h_w$ and
# $h_l$,
#
# $$\lVert h_w - h_l\rVert^2 =
# \underbrace{(\lVert h_w\rVert - \lVert h_l\rVert)^2}_{\text{difference of lengths}} +
# \underbrace{2\,\lVert h_w\rVert\,\lVert h_l\rVert\,(1 - \cos\theta)}_{\text{angle, at common
# length}}.$$
#
# **Predict**: how much of $\lVert h_w - h_l\rVert^2$ is length, after the norm and before?

# %%
from bsr_lite.dispersion import norm_share

for place, states in (("after", after), ("before", before)):
    w, l = states[0::2], states[1::2]  # (16, 576): chosen, rejected
    a, b = w.norm(dim=-1), l.norm(dim=-1)
    angle = 2 * a * b * (1 - torch.cosine_similarity(w, l))
    torch.testing.assert_close((a - b) ** 2 + angle, (w - l).square().sum(-1), rtol=1e-3, atol=1e-2)
    print(f"{place:6s} the norm: {norm_share(w, l):.1%} length, the rest angle")

# %% [markdown]
# <details><summary>Answer</summary>
#
# About 1% after, a few percent before.
# </details>
#
# So here $\lVert h_w - h_l\rVert$ measures almost only **direction**: how differently the two
# answers point. It cannot exceed twice the largest $\lVert h\rVert$, whatever the margin "wants".
# The paper's models end in an RMSNorm too (we have not measured them); its word *norm dispersion*
# suggests vectors of growing length, and for differences of normalized states that is mostly a
# statement about angles.

# %% [markdown]
# ## 3. The training loop
#
# Nothing is hidden: draw a random batch, cut it into **micro-batches** of at most `token_budget`
# tokens that fit in memory, add up their gradients, **clip** the sum to length 1, take an Adam
# step with a learning rate that rises for a moment (**warmup**), then decays to zero. For
# Bradley-Terry, a mean over pairs, micro-batches weighted by their share of the pairs give the
# whole batch's gradient exactly. (For BSR they do not: notebook 03.)

# %% [markdown]
# The `scaler` does nothing on most machines. GPUs without bfloat16 compute in float16, where small
# gradients round to zero: there it multiplies the loss by a large number, and divides the sum of
# the gradients by it.

# %%
from bsr_lite.batching import count_tokens, draw_batch, micro_batches
from bsr_lite.losses import bt_loss
from bsr_lite.step import loss_scaler, make_optimizer, schedule


def train_bt(model, pairs, config, watch=lambda step: None):
    optimizer, losses = make_optimizer(model, config), []  # AdamW
    scaler = loss_scaler(model)
    total = -(-len(pairs) // config.batch_size)  # one epoch, rounded up
    watch(0)
    for step in range(total):
        batch = draw_batch(len(pairs), config.batch_size, config.seed, step)
        lengths = [count_tokens(pairs[i]) for i in batch]
        loss = 0.0
        for part in micro_batches(lengths, config.token_budget):
            row = pack([pairs[batch[i]] for i in part]).to(model.device)
            rewards = model(row).view(-1, 2)  # (b, 2)
            share = bt_loss(rewards[:, 0], rewards[:, 1]) * len(part) / len(batch)
            scaler.scale(share).backward()
            loss += share.item()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * schedule(step, total, config.warmup_ratio)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        losses.append(loss)
        watch(step + 1)
    return losses

# %% [markdown]
# **Is it the library's loop?** Train the same small model twice, here and with `python -m
# bsr_lite.train_rm`'s function, and compare every loss. (Two layers in fp32, so that it takes
# seconds and the comparison can be strict.)

# %%
from bsr_lite.train_rm import train

small = load_config(CONFIG, overrides=[
    "data.max_pairs=24", "batch_size=8", "eval_groups=2", "eval_every=100", "watch=[]",
    "model.depth=2", "model.dtype=float32"])
few = load_scenarios(small)
ours = load_reward_model(small.model.name, depth=2, dtype="float32", seed=small.seed)
here = train_bt(ours, pair_tokens(few.train, ours.tokenizer, small.data.max_length)[0], small)

# %%
with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
    small.output_dir = folder + "/run"
    library, _ = train(small, scenarios=few)
    from bsr_lite.runlog import read_metrics
    theirs = [row["train/loss"] for row in read_metrics(small.output_dir)]
rtol = 1e-3 if torch.cuda.is_available() else 1e-5  # a GPU adds up in another order every time
torch.testing.assert_close(torch.tensor(here), torch.tensor(theirs), rtol=rtol, atol=1e-6)
print("losses here   ", [round(x, 5) for x in here])
print("losses library", [round(x, 5) for x in theirs])

# %%
fresh = load_reward_model(small.model.name, depth=2, dtype="float32", seed=small.seed)
mine, other, start = (torch.cat([p.detach().cpu().flatten() for p in m.parameters()])
                      for m in (ours, library, fresh))
apart = ((mine - other).norm() / (other - start).norm()).item()
print(f"after training the two differ by {apart:.1e} of the way they went")
assert apart < (5e-2 if torch.cuda.is_available() else 1e-2), "the loop must be the library's"
del ours, library, fresh

# %% [markdown]
# ## 4. Train and measure
#
# Back to 30 layers. Every second step we score fixed sets: some training pairs, and the paper's
# **generalization scenarios** (Sec. 2.2). A *source* is the model that wrote an answer.
# - *in-domain*: training prompts, other answers of the same sources;
# - *prompt-disjoint*: new prompts, known sources;
# - *response-disjoint*: training prompts, new sources;
# - *mutual-disjoint*: new prompts **and** new sources.
#
# `evaluate(..., dispersion=True)` takes the measurements of Section 2. For training pairs $h_w$
# is the (noisy) chosen answer, for the others the better one by gold of a set's first two
# answers.

# %%
from bsr_lite.eval_rm import evaluate

sets = {"train": draw_groups(model, pairs_as_groups(scenarios.train), config)}
sets["mutual_disjoint"] = draw_groups(model, scenarios.mutual_disjoint, config)
live = []


def watch(step):
    if step % 2 == 0:
        measured = {name: evaluate(model, groups, dispersion=True) for name, groups in sets.items()}
        live.append((step, model.head_weight.norm().item(), measured))

# %%
losses = train_bt(model, pairs, config, watch)
print("loss by step", [round(x, 2) for x in losses])

# %%
print("                         |W_p|   |h_w - h_l|   margin   cosine")
for name in sets:
    for step, head, measured in live:
        m = measured[name]
        cosine = m["margin"] / (head * m["difference_after"]["mean"])
        print(f"{name:16s} step {step}  {head:.4f}    {m['difference_after']['mean']:6.2f}      "
              f"{m['margin']:+.3f}   {cosine:+.4f}")

# %% [markdown]
# Here $\text{cosine} = \overline{\text{margin}} / (\lVert W_p\rVert\;\overline{\lVert h_w -
# h_l\rVert})$: the mean of $\cos\psi_\Delta$ weighted by length, so that the three factors
# multiply to the mean margin (Eq. 23 for averages).
#
# Six steps show the mechanics, not a result. For that we turn to recorded runs.

# %% [markdown]
# ## 5. Four recorded runs: which factor grows? (Fig. 1, Fig. 2)
#
# `data/runs/study_norms`: the same config on 512 pairs (32 steps of 16), four seeds. In the full
# profile the cell below trains them; otherwise it reads the record.
#
# A seed changes the random head and the order of the batches, nothing else: same model, same
# pairs, same 32 prompts in each watched set. So intervals below are about *another head and
# order*, not about other prompts, and all quantities without $W_p$ start from one point.

# %%
from bsr_lite.metrics import seed_interval
from bsr_lite.studies.records import read_runs, watched

if PROFILE == "full":
    from bsr_lite.studies.reward_models import run_study
    run_study(Path("bsr_lite/configs/study_norms.yaml"))  # hours on a CPU
RUNS = Path("runs" if PROFILE == "full" else "data/runs") / "study_norms"
bt = read_runs(RUNS)["bt"]
assert len(bt) == 4, "four seeds are recorded"

# %% [markdown]
# Before looking, name what will be judged: (1) does the length $\lVert h_w - h_l\rVert$ on
# training pairs rise; (2) does $\lVert h \rVert$ scatter more on unseen prompts; (3) does the
# effective rank of training states fall behind that of unseen ones. All other numbers are for
# exploring: among twenty intervals one misses by chance.

# %%
def curves(part, *keys):
    return torch.tensor(watched(bt, part, *keys)[1])  # (seeds, measurements)


steps, _ = watched(bt, "train", "margin")
heads = torch.tensor([[row["train/head_norm"] for row in run["metrics"] if "watch" in row]
                      for run in bt])
SHOWN = ("train", "prompt_disjoint", "mutual_disjoint")
TINTS = [plots.SCENARIO_COLORS[part] for part in SHOWN]

# %%
figure, axes = plots.panels(3)
plots.seed_curves(axes[0], steps, 1000 * (heads - heads[:, :1]), "head", "#000000")
for part, tint in zip(SHOWN, TINTS, strict=True):
    length = curves(part, "difference_after", "mean")
    cosine = curves(part, "margin") / (heads * length)
    plots.seed_curves(axes[1], steps, length, part.replace("_", "-"), tint)
    plots.seed_curves(axes[2], steps, cosine, part, tint)
plots.label(axes[0], "optimizer step", "change of $|W_p|$, thousandths", "head (Fig. 1)")
plots.label(axes[1], "optimizer step", "mean $|h_w - h_l|$", "length (Fig. 2)")
plots.label(axes[2], "optimizer step", "cosine, weighted by length", "angle to the head")
axes[1].legend();

# %% [markdown]
# **What to see.** *Head*: still, to a few ten-thousandths. Notebook 01's bound was about 0.008;
# the rest is that the head moves almost perpendicular to itself. *Length*: in all four seeds
# $\lVert h_w - h_l\rVert$ ends **shorter** than it began, on training pairs and on unseen ones:
# the opposite of the paper's Fig. 2. The ways there differ: two seeds fall and then grow a
# little, one rises first. *Angle*: here the margin is made, in every seed, on unseen sets as much
# as on training pairs.

# %%
figure, axes = plots.panels(3)
for part, tint in zip(SHOWN, TINTS, strict=True):
    for axis, keys in zip(axes, (("difference_after", "std"), ("difference_after", "skew"),
                                 ("norm_share_after",)), strict=True):
        plots.seed_curves(axis, steps, curves(part, *keys), part.replace("_", "-"), tint)
plots.label(axes[0], "optimizer step", "std of $|h_w - h_l|$", "spread (Fig. 2)")
plots.label(axes[1], "optimizer step", "skewness of $|h_w - h_l|$", "right tail (Fig. 2)")
plots.label(axes[2], "optimizer step", "share of $|h_w - h_l|^2$", "difference of lengths")
axes[0].legend();

# %% [markdown]
# **What to see.** Spread shrinks along with the length. The skewness was positive before any
# training (most pairs are similar, a few are not) and moves either way. The difference of lengths
# makes at most about 2% of $\lVert h_w - h_l\rVert^2$ at any time; in two seeds it all but
# vanishes.

# %% [markdown]
# ## 6. Lengths over the scenarios (Fig. 3)
#
# The paper sees hidden lengths scatter on data unlike the training data. Here is the cv of
# lengths for every set, before training (grey, one for all seeds) and after it (one dot a seed),
# behind and before the final RMSNorm.

# %%
SETS = ("train", "in_domain", "prompt_disjoint", "response_disjoint", "mutual_disjoint")
figure, axes = plots.panels(2)
for axis, place in zip(axes, ("after", "before"), strict=True):
    for i, part in enumerate(SETS):
        cv = curves(part, f"norm_{place}", "cv")
        axis.plot(i - 0.15, cv[0, 0], "s", color="#AAAAAA")
        axis.plot([i + 0.15] * len(cv), cv[:, -1], "o", color=plots.SCENARIO_COLORS[part])
    axis.set_xticks(range(len(SETS)), [part.replace("_", "\n") for part in SETS])
    axis.set_ylim(0)
plots.label(axes[0], "", "cv of $|h|$", "after the final RMSNorm: what the head sees")
plots.label(axes[1], "", "cv of $|u|$", "before it: what the head cannot see")

# %% [markdown]
# **What to see.** Seeds scatter far more than sets. After the norm, lengths become nearly equal
# in two seeds (cv around 0.01 or below) and spread further in another; raw lengths spread in one
# and settle in others. *Within* a seed all sets go the same way, training pairs included. So how
# lengths disperse is chance here, and no gap opens between known and unseen data.

# %% [markdown]
# ## 7. Effective rank, train and unseen (Table 1)
#
# How many directions do hidden states use? With singular values $\sigma_k$ of the matrix of
# states, $p_k = \sigma_k / \sum_j \sigma_j$, the **effective rank** is $\exp(-\sum_k p_k \ln
# p_k)$: $n$ if $n$ directions are used equally, 1 if all states are parallel.
#
# Two choices decide the number: how many states (it cannot exceed $N$), and whether their mean is
# subtracted first. States share a large mean.

# %%
from bsr_lite.dispersion import effective_rank

p = torch.linalg.svdvals(after.double())
p = p / p.sum()
torch.testing.assert_close((-(p * p.log()).sum()).exp().item(), effective_rank(after))
mean_state = after.mean(0)
squeezed = mean_state + 0.7 * (after - mean_state)  # same mean, deviations 30% smaller
print("                    as they are   mean subtracted")
for name, x in (("32 states, Section 1", after), ("deviations x 0.7", squeezed)):
    print(f"{name:20s} {effective_rank(x):8.1f} {effective_rank(x, center=True):15.1f}")
assert effective_rank(squeezed) < effective_rank(after) - 1, "a smaller spread must cost rank"

# %% [markdown]
# So without centring, effective rank is mostly a ratio: *spread against the common part*. It
# falls when the mean grows **or** when the rest shrinks, without a single direction lost. With
# centring it is blind to both. Now the recorded runs, with 64 states (32 pairs) in every set:

# %%
figure, axes = plots.panels(2)
for part, tint in zip(SHOWN, TINTS, strict=True):
    for axis, kind in zip(axes, ("effective_rank_after", "effective_rank_centered_after"),
                          strict=True):
        plots.seed_curves(axis, steps, curves(part, kind), part.replace("_", "-"), tint)
plots.label(axes[0], "optimizer step", "effective rank", "states as they are")
plots.label(axes[1], "optimizer step", "effective rank", "mean state subtracted")
axes[0].legend();

# %% [markdown]
# **What to see.** Left: as they are, states lose rank in every seed (1 to 5 of 19), and as much
# on unseen sets as on training pairs. Right: with the mean subtracted, rank moves either way. So
# no directions are lost: differences between answers shrink against the part that all answers
# share.
#
# Table 1 has BT's training states at 23 and RM-Bench's at 34, read as a loss of rank in training.
# It compares two data sets, at the end, and does not say whether the mean was subtracted. Here
# the starting gap is known: training minus mutual-disjoint was already +1.1 before any training.

# %% [markdown]
# ## 8. What holds here?
#
# Every row shows the change from the first measurement to the last: the four seeds, then their
# mean with a 95% t interval. First the three questions of Section 5, then the rest.

# %%
def row(name, change):
    mean, half = seed_interval(change)
    word = "up" if mean > half else "down" if mean < -half else "undecided"
    seeds = " ".join(f"{x:+7.3f}" for x in change.tolist())
    print(f"{name:32s} {seeds}   {mean:+.3f} +- {half:.3f}  {word}")


def change(part, *keys):
    values = curves(part, *keys)
    return values[:, -1] - values[:, 0]


RANK = "effective_rank_after"
row("1 |h_w - h_l|, train", change("train", "difference_after", "mean"))
row("2 cv of |h|, prompt-disjoint", change("prompt_disjoint", "norm_after", "cv"))
row("3 rank, train - prompt-disjoint", change("train", RANK) - change("prompt_disjoint", RANK))
row("  rank, train - mutual-disjoint", change("train", RANK) - change("mutual_disjoint", RANK))

# %%
row("|W_p|, thousandths", 1000 * (heads[:, -1] - heads[:, 0]))
for name, part, *keys in (
        ("|h_w - h_l|, prompt-disjoint", "prompt_disjoint", "difference_after", "mean"),
        ("|h_w - h_l|, mutual-disjoint", "mutual_disjoint", "difference_after", "mean"),
        ("std of |h_w - h_l|, train", "train", "difference_after", "std"),
        ("skewness of it", "train", "difference_after", "skew"),
        ("mean |h|, train", "train", "norm_after", "mean"),
        ("cv of |u|, prompt-disjoint", "prompt_disjoint", "norm_before", "cv"),
        ("effective rank, train", "train", RANK),
        ("margin, train", "train", "margin"),
        ("variance between prompts, train", "train", "between_prompts")):
    row(name, change(part, *keys))

# %% [markdown]
# **The verdict**, for this model, 32 steps, four seeds:
# 1. *Length*: falls, in every seed. The paper's rise does not reproduce.
# 2. *Dispersion on unseen prompts*: undecided; seeds disagree in sign.
# 3. *Rank gap*: undecided and tiny, at most a point where the paper has ten.
#
# The still head does reproduce (Fig. 1), for the reason of notebook 01. What grows, in every
# seed, is the margin by way of the angle, and the variance of rewards *between prompts*, which no
# one asked for.

# %% [markdown]
# **How far does this reach?** A model of 135M, 512 noisy pairs and 32 steps is not 8B and 600.
# The paper's dispersion may need longer training. Nor do we know that Bradley-Terry causes what
# we saw: a control with shuffled labels would tell fine-tuning as such from learning preferences.
# What carries over without any run is Section 2: in a network with a final RMSNorm, look at
# directions first.

# %% [markdown]
# ## Exercises
#
# Each stub returns `None`; its checker then says "not attempted yet". Solutions are in
# `notebooks/solutions/`.
#
# **1.** The gradient of the reward $W_p^\top h$ on the raw state $u$, one vector of shape (H,),
# through $h = g \odot u / \mathrm{rms}(u)$. (What is its component along $u$? How does its length
# depend on $\lVert u\rVert$?)

# %%
def raw_gradient(raw_state, gain, head_weight):
    return None


checks.check_raw_gradient(raw_gradient);

# %% [markdown]
# **2.** Which share of $\sum_i \lVert h_{w,i} - h_{l,i}\rVert^2$ is the *angle* term of Section
# 2? Shapes (B, H) and (B, H) in, one number out.

# %%
def angle_share(hidden_chosen, hidden_rejected):
    return None


checks.check_angle_share(angle_share);

# %% [markdown]
# **3.** The effective rank from a vector of singular values, some of which may be 0.

# %%
def effective_rank_of(singular_values):
    return None


checks.check_effective_rank(effective_rank_of);

# %% [markdown]
# **4.** What is the largest **margin** that any two raw states can have, for given gain and head,
# both (H,)? (So for fixed gain and head a reward model with a final RMSNorm has a ceiling.)

# %%
def largest_margin(gain, head_weight):
    return None


checks.check_largest_margin(largest_margin);

# %% [markdown]
# ## What you know now
#
# - RMSNorm forgets the length of the raw state; $\lVert h\rVert$ is bounded by the gains, and
#   $\lVert h_w - h_l\rVert$ is nearly all angle.
# - The training loop: draw, cut, accumulate, clip, step.
# - A margin is head times length times cosine; here the cosine makes it.
# - Uncentred effective rank is mostly spread against the common part.
# - Seeds differ in *how* they get there. A single curve is an anecdote.
#
# Next: **03 · What happens when the rewards of a batch must sum to zero?**
