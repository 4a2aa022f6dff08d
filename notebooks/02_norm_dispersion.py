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
# (Table 1). Here we train a real reward model with our own loop, measure all of it, and say which
# parts show at this size.

# %% [markdown]
# After it you can
# - say where in the network a hidden norm is taken, and why that decides what it can do;
# - write a reward-model training loop in 30 lines and show that it is the library's;
# - split a growing margin into head, length and angle (Eq. 16, 23);
# - read three seeds honestly.
#
# The model is SmolLM2-135M-Instruct with all 30 layers, the data the pocket world (real answers,
# known gold quality). Notebook 01 has the loss.

# %%
import contextlib
import io
import os
import tempfile
from pathlib import Path

import torch

from bsr_lite import checks, plots
from bsr_lite.config import load_config
from bsr_lite.models import load_reward_model
from bsr_lite.train_rm import draw_groups, load_scenarios, pair_trees

ROOT = next(p for p in (Path.cwd(), *Path.cwd().parents) if (p / "data/pocket").exists())
os.chdir(ROOT)  # paths below start at the repository's root
os.environ["TQDM_DISABLE"] = "1"  # no progress bars in the page
PROFILE = os.environ.get("BSR_PROFILE", "fast")

# %% [markdown]
# ## 1. A reward model and what it sees
#
# One config file describes a run: full fine-tuning of every weight, one learning rate for all, as
# in the paper. Live we train on few pairs; the recorded runs further down use the same file as it
# is.

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
# answer's **last** token, the only one that has seen everything. The reward is $W_p^\top h$ (Eq.
# 2).
#
# `pair_trees` turns pairs into tokens. A "tree" holds a prompt once and both answers after it,
# so that the prompt is computed once; `plant` lays trees side by side in one row. It is only a way
# to compute: rewards are those of separate rows.

# %%
from bsr_lite.batching import plant

trees, dropped = pair_trees(scenarios.train, model.tokenizer, config.data.max_length)
with torch.no_grad():
    after, before = model.last_hidden(plant(trees[:16]))  # (32, 576) each: 16 pairs, 2 answers
    rewards = model(plant(trees[:16]))
torch.testing.assert_close(rewards, after @ model.head_weight, rtol=1e-4, atol=1e-4)
print(f"{len(trees)} pairs, dropped {dropped}; rewards of the first pair {rewards[:2].tolist()}")

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
gain = model.backbone.norm.weight.detach()
H = len(gain)


def rms_norm(u):
    return gain * u / u.square().mean(-1, keepdim=True).sqrt()


torch.testing.assert_close(rms_norm(before), after, rtol=1e-2, atol=1e-2)
torch.testing.assert_close(rms_norm(3 * before), rms_norm(before))
print("three times the raw length, the same rewards: RMSNorm forgets the length of u")

# %% [markdown]
# <details><summary>Answer</summary>
#
# Nothing. The length of $u$ never reaches the head.
# </details>
#
# So "the hidden norm" has two meanings. The raw $\lVert u\rVert$ may grow as it likes and no
# reward moves. The normalized $\lVert h\rVert$ is what Eq. 16 is about, and it lives in a narrow
# range: $\min_i|g_i|\sqrt H \le \lVert h\rVert \le \max_i|g_i|\sqrt H$. If all gains were equal,
# it would be a constant, and all its spread comes from *which* coordinates of $u$ are large.

# %%
short, long = gain.abs().min() * H**0.5, gain.abs().max() * H**0.5
length = after.norm(dim=-1)
print(f"|h| may lie in [{short:.0f}, {long:.0f}]; it does in "
      f"[{length.min():.1f}, {length.max():.1f}]")
assert short <= length.min() and length.max() <= long, "RMSNorm bounds |h| by its gains"
print(f"most a reward could be: {(gain * model.head_weight.detach()).norm() * H**0.5:.0f}, "
      f"largest here: {rewards.abs().max():.1f}")

# %%
figure, (left, right) = plots.panels(2)
for values, tint, name in ((before, "#BBBBBB", "before RMSNorm"), (after, "#4477AA", "after")):
    norms = values.norm(dim=-1)
    left.hist(norms / norms.mean(), bins=torch.linspace(0.82, 1.18, 25), color=tint, alpha=0.8,
              label=f"{name}: mean {norms.mean():.0f}, cv {norms.std() / norms.mean():.3f}")
plots.label(left, "length / mean length", "answers", "lengths of 32 hidden states")
left.legend()
right.bar(range(H), gain.sort().values, width=1.0, color="#4477AA")
plots.label(right, "coordinate, sorted", "gain $g_i$", "the gains of the final RMSNorm")

# %% [markdown]
# **What to see.** Left: after the norm, lengths scatter by about 3% of their mean (**cv**, the
# coefficient of variation), about half of what they do before. Right: the gains are not all
# equal, and that is the only reason the blue histogram has any width.
#
# At depth 10 of the same model the cv after the norm is 0.005: there, nothing could be said about
# norms at all. And LoRA leaves $g$ frozen. That is why this notebook trains *every* weight of
# *all* layers.

# %% [markdown]
# **The same for differences.** By the law of cosines, with $\theta$ the angle between $h_w$ and
# $h_l$,
#
# $$\lVert h_w - h_l\rVert^2 =
# \underbrace{(\lVert h_w\rVert - \lVert h_l\rVert)^2}_{\text{length}} +
# \underbrace{2\,\lVert h_w\rVert\,\lVert h_l\rVert\,(1 - \cos\theta)}_{\text{angle}}.$$
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
# So in a model with a final RMSNorm, $\lVert h_w - h_l\rVert$ is a measure of **direction**: how
# differently the two answers point. It cannot exceed twice the largest $\lVert h\rVert$. The
# paper's "norm dispersion" of differences is, read exactly, a statement about angles. That is not
# a flaw of the regularizer, but it changes what to look for.

# %% [markdown]
# ## 3. The training loop
#
# Nothing is hidden: draw a random batch, cut it into **micro-batches** that fit in memory, sum
# their gradients, clip, step. For Bradley-Terry, a sum over pairs, micro-batches weighted by
# their share of the pairs give the whole batch's gradient exactly. (For BSR they do not: notebook
# 03.)

# %%
from bsr_lite.batching import draw_batch, micro_batches, tree_tokens
from bsr_lite.losses import bt_loss
from bsr_lite.train_rm import make_optimizer, schedule


def train_bt(model, trees, config, watch=lambda step: None):
    optimizer, losses = make_optimizer(model, config), []  # AdamW
    total = -(-len(trees) // config.batch_size)  # one epoch, rounded up
    watch(0)
    for step in range(total):
        batch = draw_batch(len(trees), config.batch_size, config.seed, step)
        lengths = [tree_tokens(trees[i]) for i in batch]
        loss = 0.0
        for part in micro_batches(lengths, config.token_budget):
            rewards = model(plant([trees[batch[i]] for i in part])).view(-1, 2)  # (b, 2)
            share = bt_loss(rewards[:, 0], rewards[:, 1]) * len(part) / len(batch)
            share.backward()
            loss += share.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * schedule(step, total, config.warmup_ratio)
        optimizer.step()
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
here = train_bt(ours, pair_trees(few.train, ours.tokenizer, small.data.max_length)[0], small)
with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
    small.output_dir = folder + "/run"
    library, _ = train(small, scenarios=few)
    from bsr_lite.runlog import read_metrics
    theirs = [row["train/loss"] for row in read_metrics(small.output_dir)]
torch.testing.assert_close(torch.tensor(here), torch.tensor(theirs), rtol=1e-5, atol=1e-6)
for mine, other in zip(ours.parameters(), library.parameters(), strict=True):
    torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
print("losses here   ", [round(x, 5) for x in here])
print("losses library", [round(x, 5) for x in theirs])

# %% [markdown]
# ## 4. Train and measure
#
# Back to 30 layers. Every second step we score fixed sets: some training pairs, and three of the
# four **generalization scenarios** (Sec. 2.2 of the paper):
# - *in-domain*: training prompts, other answers of the same sources;
# - *prompt-disjoint*: new prompts, known sources;
# - *mutual-disjoint*: new prompts **and** new sources.
#
# `evaluate(..., dispersion=True)` takes the measurements of Section 2.

# %%
from bsr_lite.eval_rm import evaluate, pairs_as_groups

sets = {"train": draw_groups(model, pairs_as_groups(scenarios.train), config)}
for name in ("in_domain", "prompt_disjoint", "mutual_disjoint"):
    sets[name] = draw_groups(model, getattr(scenarios, name), config)
live = []


def watch(step):
    if step % 2 == 0:
        measured = {name: evaluate(model, groups, dispersion=True) for name, groups in sets.items()}
        live.append((step, model.head_weight.norm().item(), measured))

# %%
losses = train_bt(model, trees, config, watch)
print("loss by step", [round(x, 2) for x in losses])
print("step  |W_p|   |h_w-h_l|  margin   cosine   (training pairs)")
for step, head, measured in live:
    m = measured["train"]
    cosine = m["margin"] / (head * m["difference_after"]["mean"])
    print(f"{step:4d}  {head:.4f}  {m['difference_after']['mean']:8.2f}  {m['margin']:+.3f}   "
          f"{cosine:+.4f}")

# %% [markdown]
# Here $\text{cosine} = \overline{\text{margin}} / (\lVert W_p\rVert\;\overline{\lVert h_w -
# h_l\rVert})$, so that the three printed factors multiply to the mean margin: Eq. 23 for averages.
#
# Six steps show the mechanics, not a result. For that we turn to three recorded runs.

# %% [markdown]
# ## 5. Three recorded runs: which factor grows? (Fig. 1, Fig. 2)
#
# `data/runs/study_norms`: the same config on 512 pairs (32 steps of 16), three seeds for head and
# batch order. In the full profile the cell below trains them; otherwise it reads the record. Faint
# lines are seeds, bands the 95% interval of their mean.

# %%
from bsr_lite.metrics import seed_interval
from bsr_lite.runlog import read_runs, watched

if PROFILE == "full":
    from bsr_lite.study import run_study
    run_study(Path("bsr_lite/configs/study_norms.yaml"))  # an hour on a CPU, minutes on a GPU
RUNS = Path("runs" if PROFILE == "full" else "data/runs") / "study_norms"
bt = read_runs(RUNS)["bt"]
heads = [[row["train/head_norm"] for row in run["metrics"] if "watch" in row] for run in bt]
print(f"{len(bt)} seeds, {bt[0]['evaluation']['totals']['pairs']} pairs each")

# %%
figure, axes = plots.panels(3)
steps, _ = watched(bt, "train", "margin")
plots.seed_curves(axes[0], steps, heads, "$|W_p|$", "#000000")
axes[0].set_ylim(0.9, 1.1)
for part in ("train", "prompt_disjoint", "mutual_disjoint"):
    tint, name = plots.SCENARIO_COLORS[part], part.replace("_", "-")
    _, lengths = watched(bt, part, "difference_after", "mean")
    _, margins = watched(bt, part, "margin")
    cosines = [[m / (w * d) for m, w, d in zip(*seed, strict=True)]
               for seed in zip(margins, heads, lengths, strict=True)]
    plots.seed_curves(axes[1], steps, lengths, name, tint)
    plots.seed_curves(axes[2], steps, cosines, name, tint)
plots.label(axes[0], "optimizer step", "$|W_p|$", "head (paper's Fig. 1)")
plots.label(axes[1], "optimizer step", "mean $|h_w - h_l|$", "length (Fig. 2)")
plots.label(axes[2], "optimizer step", "cosine of mean margin", "angle to the head")
axes[2].legend();

# %% [markdown]
# PROSE5

# %%
figure, axes = plots.panels(3)
for part in ("train", "prompt_disjoint", "mutual_disjoint"):
    tint, name = plots.SCENARIO_COLORS[part], part.replace("_", "-")
    for axis, statistic in zip(axes, ("std", "skew"), strict=False):
        _, curves = watched(bt, part, "difference_after", statistic)
        plots.seed_curves(axis, steps, curves, name, tint)
    _, curves = watched(bt, part, "norm_share_after")
    plots.seed_curves(axes[2], steps, curves, name, tint)
plots.label(axes[0], "optimizer step", "std of $|h_w - h_l|$", "spread (Fig. 2)")
plots.label(axes[1], "optimizer step", "skewness of $|h_w - h_l|$", "right tail (Fig. 2)")
plots.label(axes[2], "optimizer step", "share of $|h_w - h_l|^2$", "length, not angle")
axes[2].set_ylim(0, 0.1)
axes[0].legend();

# %% [markdown]
# ## 6. Lengths over the scenarios (Fig. 3)
#
# The paper sees hidden lengths scatter on data unlike the training data. Boxes hold the middle
# half of the answers, whiskers 5% to 95% (mean of three seeds); light before training, dark
# after.

# %%
SETS = ("train", "in_domain", "prompt_disjoint", "response_disjoint", "mutual_disjoint")


def boxes(axis, place):
    for i, part in enumerate(SETS):
        curves = torch.tensor(watched(bt, part, f"norm_{place}", "quantiles")[1])  # (seeds, T, 5)
        for when, alpha in ((0, 0.35), (-1, 0.9)):
            low, q1, middle, q3, high = curves[:, when].mean(0).tolist()
            axis.bxp([{"whislo": low, "q1": q1, "med": middle, "q3": q3, "whishi": high}],
                     positions=[i + (0.18 if when else -0.18)], widths=0.3, showfliers=False,
                     patch_artist=True, medianprops={"color": "white"},
                     boxprops={"facecolor": plots.SCENARIO_COLORS[part], "alpha": alpha})
    axis.set_xticks(range(len(SETS)), [part.replace("_", "\n") for part in SETS])

# %%
figure, (left, right) = plots.panels(2)
boxes(left, "after")
boxes(right, "before")
plots.label(left, "", "$|h|$", "after the final RMSNorm: what the head sees")
plots.label(right, "", "$|u|$", "before it: what the head cannot see")
print("cv of lengths, before training -> after (mean of seeds)")
for part in SETS:
    cvs = [torch.tensor(watched(bt, part, f"norm_{place}", "cv")[1]).mean(0)[[0, -1]].tolist()
           for place in ("after", "before")]
    print(f"{part:18s} |h| {cvs[0][0]:.3f} -> {cvs[0][1]:.3f}    "
          f"|u| {cvs[1][0]:.3f} -> {cvs[1][1]:.3f}")

# %% [markdown]
# PROSE6

# %% [markdown]
# ## 7. Effective rank, train and unseen (Table 1)
#
# How many directions do hidden states use? With singular values $\sigma_k$ of the matrix of
# states, $p_k = \sigma_k / \sum_j \sigma_j$, the **effective rank** is $\exp(-\sum_k p_k \ln
# p_k)$: $n$ if $n$ directions are used equally, 1 if all states are parallel.
#
# Two choices decide the number: how many states (it cannot exceed $N$; we take 64 everywhere),
# and whether their mean is subtracted first. The paper: training 23 against unseen 34 for BT, 33
# against 34 for BSR.

# %%
from bsr_lite.dispersion import effective_rank

states = after.double()
p = torch.linalg.svdvals(states)
p = p / p.sum()
torch.testing.assert_close((-(p * p.log()).sum()).exp().item(), effective_rank(states))
print(f"share of the first direction: {p[0]:.0%}; cosine of that direction with the mean state: "
      f"{torch.cosine_similarity(torch.linalg.svd(states)[2][0], states.mean(0), dim=0).abs():.3f}")

# %%
figure, axes = plots.panels(2)
for part in ("train", "prompt_disjoint", "mutual_disjoint"):
    tint, name = plots.SCENARIO_COLORS[part], part.replace("_", "-")
    for axis, kind in zip(axes, ("effective_rank_after", "effective_rank_centered_after"),
                          strict=True):
        plots.seed_curves(axis, *watched(bt, part, kind), name, tint)
plots.label(axes[0], "optimizer step", "effective rank", "states as they are")
plots.label(axes[1], "optimizer step", "effective rank", "mean state subtracted")
axes[0].legend();

# %% [markdown]
# PROSE7

# %% [markdown]
# ## 8. What holds here?
#
# Every quantity as its change from the first measurement to the last, and over the second half
# alone, with a 95% t interval over three seeds. "Undecided" means that the interval holds zero.

# %%
def verdict(values):
    mean, half = seed_interval(values)
    word = "rises" if mean > half else "falls" if mean < -half else "undecided"
    return f"{mean:+9.4f} +- {half:<7.4f} {word:10s}"


def row(name, curves):
    curves = torch.tensor(curves)  # (seeds, T)
    middle = curves.shape[1] // 2
    print(f"{name:30s}{verdict(curves[:, -1] - curves[:, 0])}"
          f"{verdict(curves[:, -1] - curves[:, middle])}")

# %%
print(f"{'':30s}{'start to end':28s} second half")
row("|W_p|", heads)
for name, part, *keys in (
        ("mean |h_w - h_l|, train", "train", "difference_after", "mean"),
        ("its std", "train", "difference_after", "std"),
        ("its skewness", "train", "difference_after", "skew"),
        ("mean margin, train", "train", "margin"),
        ("cv of |h|, prompt-disjoint", "prompt_disjoint", "norm_after", "cv"),
        ("cv of |u|, prompt-disjoint", "prompt_disjoint", "norm_before", "cv"),
        ("effective rank, train", "train", "effective_rank_after"),
        ("effective rank, prompt-disj.", "prompt_disjoint", "effective_rank_after"),
        ("tau, prompt-disjoint", "prompt_disjoint", "score")):
    row(name, watched(bt, part, *keys)[1])

# %% [markdown]
# PROSE8

# %%
ranks = [torch.tensor(watched(bt, part, "effective_rank_after")[1])[:, -1]
         for part in ("train", "prompt_disjoint", "mutual_disjoint")]
print("effective rank at the end, train minus prompt-disjoint ", verdict(ranks[0] - ranks[1]))
print("                           train minus mutual-disjoint ", verdict(ranks[0] - ranks[2]))

# %% [markdown]
# ## Exercises
#
# Each stub returns `None`; its checker then says "not attempted yet". Solutions are in
# `notebooks/solutions/`.
#
# **1.** Write the final RMSNorm (without the tiny $\epsilon$ that guards against $u = 0$).

# %%
def rms_norm_exercise(hidden, gain):
    return None


checks.check_rms_norm(rms_norm_exercise);

# %% [markdown]
# **2.** Which share of $\sum_i \lVert h_{w,i} - h_{l,i}\rVert^2$ is *angle*? Compute it from the
# angle term of Section 2, not as one minus the length.

# %%
def angle_share(hidden_chosen, hidden_rejected):
    return None


checks.check_angle_share(angle_share);

# %% [markdown]
# **3.** The effective rank from a vector of singular values, some of which may be 0.

# %%
def effective_rank_exercise(singular_values):
    return None


checks.check_effective_rank(effective_rank_exercise);

# %% [markdown]
# **4.** Section 2 printed the most that any reward could be. Derive it: the largest $W_p^\top h$
# over all raw states $u$, given gain and head. (So a reward model with a final RMSNorm has a
# ceiling.)

# %%
def largest_reward(gain, head_weight):
    return None


checks.check_largest_reward(largest_reward);
