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
# The paper's diagnosis: Bradley-Terry wants ever larger margins, the head $W_p$ does not grow
# (Fig. 1), so the **hidden states** do. *Dispersion* has two readings.
# 1. *Differences* $\lVert h_w - h_l\rVert$ get longer, spread, and grow a right tail (Fig. 2).
# 2. *Lengths* $\lVert h\rVert$ scatter, on data unlike training's most of all (Fig. 3). We measure
#    this by their **cv**, the coefficient of variation: standard deviation over mean.
#
# We see both in a small world, ask what a final normalization leaves of them, and look for them in
# a language model.

# %% [markdown]
# After it you can
# - say where in the network a hidden norm is taken, and why that decides what it can do;
# - read a reward-model training loop of 25 lines;
# - split a growing margin into head, difference and angle (Eq. 16, 23);
# - read a handful of seeds honestly.
#
# Words from before (notebook 01): *margin*, *head*, *hidden state*, the *pocket world* and *gold*.

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

import pandas as pd
import torch

from bsr_lite import plots
from bsr_lite.config import load_config
from bsr_lite.course import checks
from bsr_lite.dispersion import effective_rank, norm_share
from bsr_lite.metrics import seed_interval
from bsr_lite.models import load_reward_model
from bsr_lite.scenarios import load_scenarios, pairs_as_groups
from bsr_lite.studies import worlds
from bsr_lite.tokenization import pair_tokens
from bsr_lite.train_rm import draw_groups

# %% [markdown]
# ## 1. A world in which norms disperse
#
# An answer is forty numbers, its quality is linear in ten of them, and labels are Bradley-Terry
# draws on quality (notebook 04 says more). A network with one hidden layer turns an answer into a
# state $h$ of 64 numbers. Its head learns at a hundredth of the network's rate, so that it stays,
# as in the paper. It sees 6,400 pairs once. We train it twice: as it is, and with a last operation
# that scales every state to one length, a **final norm**.
#
# **Predict**: which of the two readings can still happen with a final norm?

# %%
BT, SEEDS = {"bt": worlds.OBJECTIVES["bt"]}, 8  # every seed has its own states, labels and network
VERSIONS = {"no final norm": "helps", "final norm": "helps, RMSNorm"}
seen = {name: worlds.train(worlds.WORLDS[world], BT, SEEDS, looks=20)
        for name, world in VERSIONS.items()}
at = list(seen["final norm"])  # steps


def course(looks, key):
    return torch.stack([looks[step][key][:, 0] for step in at], 1)  # (seeds, steps)

# %%
figure, (left, middle, right) = plots.panels(3)
for step, tint, name in ((at[0], "#BBBBBB", "before"), (at[-1], plots.COLORS["bt"], "after")):
    norms = seen["no final norm"][step]["differences"].flatten()
    left.hist(norms, torch.linspace(0, 12, 41), color=tint, alpha=0.7, density=True)
    left.text(*((3.4, 0.5) if step == 0 else (6, 0.13)), name)
for (name, looks), tint in zip(seen.items(), (plots.COLORS["bt"], "#DDAA33"), strict=True):
    for axis, key in ((middle, "norm_cv"), (right, "difference")):
        values = course(looks, key)
        plots.seed_curves(axis, at, values / (values[:, :1] if axis is right else 1), name, tint)
plots.label(left, "$|h_w - h_l|$ of a pair", "density", "no final norm: a right tail")
plots.label(middle, "step", "cv of $|h|$", "lengths: a norm stops them")
plots.label(right, "step", "mean $|h_w - h_l|$ / its start", "differences: grow in both")
figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=2)
figure.suptitle("In this world norms disperse; a final norm stops lengths, not differences");

# %%
rows = {}
for name, looks in seen.items():
    for key, what in (("head", "|W_p|"), ("norm_cv", "cv of |h|"), ("difference", "|h_w - h_l|")):
        start, end = course(looks, key)[:, 0], course(looks, key)[:, -1]
        growth = "{:+.3f} ± {:.3f}".format(*seed_interval(end - start))
        rows[f"{what}, {name}"] = [start.mean().item(), growth]
assert course(seen["final norm"], "norm_cv").max() < 1e-5, "a norm must leave one length"
pd.DataFrame.from_dict(rows, orient="index", columns=["start", "change, 95% over seeds"]).round(3)

# %% [markdown]
# **What to see.** Without a final norm this is the paper's picture: the head stays, differences get
# longer and grow a right tail, and lengths scatter. So our measures see dispersion where it is.
#
# <details><summary>Answer</summary>
#
# The first. With a final norm the cv stays at zero. Differences grow all the same, by another way:
# the two states of a pair turn apart.
# </details>

# %% [markdown]
# ## 2. A language model, and its last normalization
#
# Now SmolLM2-135M-Instruct, all 30 layers, on the pocket world. Every weight is trained (**full
# fine-tuning**) at one learning rate, as in the paper. Live we take few pairs; the recorded runs
# further down use the config file as it is.
#
# The labels are noisy on purpose: which answer counts as *chosen* is drawn from Bradley-Terry on
# the gold scores.

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
print(f"{scenarios.counts['labels_against_gold']} of {len(scenarios.train)} labels against gold")

# %% [markdown]
# Prompt and answer go through the network; $h \in \mathbb{R}^{H}$, $H = 576$, is the state at the
# answer's **last** token, the only one that has seen everything. The reward is $W_p^\top h$
# (Eq. 2). $W_p$ is drawn at random, so these first rewards are noise. (`pack` lays pairs side by
# side in one row, without padding; rewards are those of separate rows.)

# %%
from bsr_lite.batching import pack

pairs, dropped = pair_tokens(scenarios.train, model.tokenizer, config.data.max_length)
packed = pack(pairs[:16]).to(model.device)
with torch.no_grad():
    after, before = (x.cpu() for x in model.last_hidden(packed))  # (32, 576): 16 pairs, 2 answers
    rewards = model(packed).cpu()
W = model.head_weight.detach().cpu()
torch.testing.assert_close(rewards, after @ W, rtol=1e-4, atol=1e-4)
print(f"{len(pairs)} pairs; rewards of the first {rewards[0]:.2f} (chosen), {rewards[1]:.2f}")

# %% [markdown]
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
torch.testing.assert_close(rms_norm(3 * before) @ W, rms_norm(before) @ W, rtol=1e-4, atol=1e-4)
print("rewards  ", [round(x, 3) for x in (rms_norm(before) @ W)[:4].tolist()])
print("u times 3", [round(x, 3) for x in (rms_norm(3 * before) @ W)[:4].tolist()])

# %% [markdown]
# <details><summary>Answer</summary>
#
# Nothing. The length of $u$ never reaches the head.
# </details>
#
# So "the hidden norm" has two meanings. The raw $\lVert u\rVert$ may grow and no reward moves (it
# only gets harder to turn: Exercise 1). The normalized $\lVert h\rVert$ is what Eq. 16 is about,
# and it is bounded: $\min_i|g_i|\sqrt H \le \lVert h\rVert \le \max_i|g_i|\sqrt H$. If all
# $|g_i|$ were equal, as in Section 1, it would be a constant. All its scatter comes from *which*
# coordinates of $u$ are large.

# %%
short, long = gain.abs().min() * H**0.5, gain.abs().max() * H**0.5
norms = after.norm(dim=-1)
print(f"|h| may lie in [{short:.0f}, {long:.0f}], here {norms.min():.1f} to {norms.max():.1f}")
assert short <= norms.min() and norms.max() <= long, "RMSNorm bounds |h| by its gains"
torch.manual_seed(0)
for name, x in (("|u|", before), ("|h|", after),
                ("|h| if u pointed anywhere", rms_norm(torch.randn(10_000, H)))):
    print(f"cv of {name}: {x.norm(dim=-1).std() / x.norm(dim=-1).mean():.3f}")

# %% [markdown]
# The bounds allow a factor of four between the longest and the shortest state; these differ by 10%.
#
# In training, too, $\lVert h\rVert$ can change only because $u$ turns. Adam moves a weight by about
# its learning rate a step (notebook 01). The recorded runs have 32 steps, from $2 \cdot 10^{-5}$
# down to zero, so a gain (about 1.8) moves by 0.0003 at most.

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
for place, states in (("after", after), ("before", before)):
    w, l = states[0::2], states[1::2]  # (16, 576): chosen, rejected
    a, b = w.norm(dim=-1), l.norm(dim=-1)
    angle = 2 * a * b * (1 - torch.cosine_similarity(w, l))
    torch.testing.assert_close((a - b) ** 2 + angle, (w - l).square().sum(-1), rtol=1e-3, atol=1e-2)
    print(f"{place:6s} the norm: {norm_share(w, l):.1%} length, the rest angle")
print(f"chosen states 30% longer: {norm_share(1.3 * w, l):.1%} length")
assert norm_share(1.3 * w, l) > 0.3, "longer chosen states must show as length"

# %% [markdown]
# <details><summary>Answer</summary>
#
# About 1% after, a few percent before. Even before the norm it is 96% angle, so the norm is not the
# only reason.
# </details>
#
# So on these pairs $\lVert h_w - h_l\rVert$ measures almost only **direction**: how differently the
# two answers point. It cannot exceed twice the largest $\lVert h\rVert$, whatever the margin
# "wants". The paper's models end in an RMSNorm, too (we have not measured them).

# %% [markdown]
# ## 3. The training loop
#
# Draw a random batch, cut it into **micro-batches** that fit in memory, add up their gradients,
# **clip** the sum to length 1, take an Adam step. The learning rate rises for a moment, then decays
# to zero. Bradley-Terry is a mean over pairs: micro-batches weighted by their part of the pairs
# give the whole batch's gradient exactly. (For BSR they do not: notebook 03.)

# %%
from bsr_lite.batching import count_tokens, draw_batch, micro_batches
from bsr_lite.losses import bt_loss
from bsr_lite.step import loss_scaler, make_optimizer, schedule


def train_bt(model, pairs, config, watch=lambda step: None):
    optimizer, scaler, losses = make_optimizer(model, config), loss_scaler(model), []  # AdamW
    total = -(-len(pairs) // config.batch_size)  # one epoch, rounded up
    for step in range(total):
        watch(step)
        batch = [pairs[i] for i in draw_batch(len(pairs), config.batch_size, config.seed, step)]
        losses.append(0.0)
        for places in micro_batches([count_tokens(p) for p in batch], config.token_budget):
            rewards = model(pack([batch[i] for i in places]).to(model.device)).view(-1, 2)  # (b, 2)
            loss = bt_loss(rewards[:, 0], rewards[:, 1]) * len(places) / len(batch)
            scaler.scale(loss).backward()  # scaled in float16 alone
            losses[-1] += loss.item()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * schedule(step, total, config.warmup_ratio)
        scaler.step(optimizer), scaler.update()
        optimizer.zero_grad()
    watch(total)
    return losses

# %% [markdown]
# It is the loop of `python -m bsr_lite.train_rm`: a small model (two layers in fp32, so that the
# comparison can be strict) has the same losses with either.

# %%
from bsr_lite.runlog import read_metrics
from bsr_lite.train_rm import train

small = load_config(CONFIG, overrides=[
    "data.max_pairs=24", "batch_size=8", "eval_groups=2", "eval_every=100", "watch=[]",
    "model.depth=2", "model.dtype=float32"])
few = load_scenarios(small)
with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as folder:
    ours = load_reward_model(small.model.name, depth=2, dtype="float32", seed=small.seed)
    here = train_bt(ours, pair_tokens(few.train, ours.tokenizer, small.data.max_length)[0], small)
    small.output_dir = folder + "/run"
    train(small, scenarios=few)
    theirs = [row["train/loss"] for row in read_metrics(small.output_dir)]
rtol = 1e-3 if torch.cuda.is_available() else 1e-5  # a GPU adds up in another order every time
torch.testing.assert_close(torch.tensor(here), torch.tensor(theirs), rtol=rtol, atol=1e-6)
print("here", [round(x, 5) for x in here], "library", [round(x, 5) for x in theirs])

# %% [markdown]
# ## 4. Train and measure
#
# Back to 30 layers, and the measurements of Section 2 every second step. They are taken on training
# pairs, and in recorded runs on the paper's **generalization scenarios** (Sec. 2.2). A *source* is
# the model that wrote an answer.
# - *in-domain*: training prompts, other answers of the same sources;
# - *prompt-disjoint*: **new prompts**, known sources;
# - *response-disjoint*: training prompts, **new sources**;
# - *mutual-disjoint*: new prompts and new sources, **both new**.
#
# On training pairs $h_w$ is the (noisy) chosen answer, elsewhere the better one by gold of a set's
# first two answers.

# %%
from bsr_lite.eval_rm import evaluate

watched_pairs, live = draw_groups(model, pairs_as_groups(scenarios.train), config), []


def watch(step):
    if step % 2 == 0:
        m, head = evaluate(model, watched_pairs, dispersion=True), model.head_weight.norm().item()
        difference = m["difference_after"]["mean"]
        live.append([step, head, difference, m["margin"] / (head * difference), m["margin"]])

# %%
losses = train_bt(model, pairs, config, watch)
print("loss by step", [round(x, 2) for x in losses])
pd.DataFrame(live, columns=["step", "|W_p|", "mean |h_w - h_l|", "cosine", "mean margin"]).round(4)

# %% [markdown]
# Head, difference and cosine multiply to the mean margin (Eq. 23 for averages). So this *cosine* is
# the mean of $\cos\psi_\Delta$, weighted by $\lVert h_w - h_l\rVert$. In these six steps the
# difference happens to rise: one seed, 12 pairs. They show the mechanics, not a result.

# %% [markdown]
# ## 5. Four recorded runs: which factor grows? (Fig. 1, Fig. 2)
#
# `data/runs/study_norms`: the same config on 512 pairs (32 steps of 16), four seeds. A seed changes
# the random head and the order of the batches, nothing else: same model, same pairs, same 32
# prompts in each watched set. So intervals below (95%, for four seeds the mean ± 3.18 standard
# errors) are about *another head and order*, not about other prompts. All quantities without $W_p$
# start from one point.

# %%
from bsr_lite.studies.records import read_runs, watched

if PROFILE == "full":
    from bsr_lite.studies.reward_models import run_study
    run_study(Path("bsr_lite/configs/study_norms.yaml"))  # hours on a CPU
RUNS = Path("runs" if PROFILE == "full" else "data/runs") / "study_norms"
bt = read_runs(RUNS)["bt"]
assert len(bt) == 4, "four seeds are recorded"

# %% [markdown]
# Three questions were named before looking.
# 1. Does the mean difference $\lVert h_w - h_l\rVert$ on training pairs rise?
# 2. Does $\lVert h \rVert$ scatter more on new prompts than before training?
# 3. Does the effective rank (Section 7) of training states fall behind that of new prompts?
#
# All other numbers are for exploring: among twenty intervals one misses by chance.
#
# **Predict**: $W_p$ starts at random and hardly moves. Which of the two other factors must move
# first? Which way does the paper expect the difference to go?

# %%
SETS = {"train": "train", "in_domain": "in\ndomain", "prompt_disjoint": "new\nprompts",
        "response_disjoint": "new\nsources", "mutual_disjoint": "both\nnew"}

# %%
def curves(part, *keys):
    return torch.tensor(watched(bt, part, *keys)[1])  # (seeds, measurements)


def change(part, *keys):
    values = curves(part, *keys)
    return values[:, -1] - values[:, 0]  # (seeds,)


steps, _ = watched(bt, "train", "margin")
heads = torch.tensor([[row["train/head_norm"] for row in run["metrics"] if "watch" in row]
                      for run in bt])

# %%
figure, axes = plots.panels(3)
for part, name in SETS.items():
    difference, margin = curves(part, "difference_after", "mean"), curves(part, "margin")
    for axis, values in zip(axes, (margin, difference, margin / (heads * difference)), strict=True):
        axis.plot(steps, values.T, color=plots.SCENARIO_COLORS[part], alpha=0.25, linewidth=0.8)
        axis.plot(steps, values.mean(0), color=plots.SCENARIO_COLORS[part],
                  label=name.replace("\n", " "))
plots.label(axes[0], "optimizer step", "mean margin", "margin: rises up to step 16")
plots.label(axes[1], "optimizer step", "mean $|h_w - h_l|$", "differences: shorter in every seed")
plots.label(axes[2], "optimizer step", "cosine", "cosine: the same shape")
figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=5)
figure.suptitle("The angle makes the margin, while differences shrink (bold: means of four seeds)");

# %%
moved, bound = (heads - heads[:, :1]).abs().max(), 0.5 * 2e-5 * 32 * H**0.5
print(f"|W_p| moves by {moved:.4f} at most; notebook 01's bound for these runs is {bound:.4f}")
for name, *keys in (("margin", "margin"), ("|h_w - h_l|", "difference_after", "mean")):
    late = curves("train", *keys)[:, -1] - curves("train", *keys)[:, steps.index(16)]  # (seeds,)
    print(f"{name}, training pairs, step 16 to 32:", [round(x, 2) for x in late.tolist()],
          "mean {:+.2f} ± {:.2f}".format(*seed_interval(late)))

# %% [markdown]
# **What to see.** *Head*: still, as the learning rate forces it to be (the bound is half the rate,
# times steps, times $\sqrt{H}$). *Difference*: in all four seeds it ends **shorter** than it began,
# on all five sets. That is the opposite of the paper's Fig. 2. *Angle*: the margin is made here, on
# three unseen sets as much as on training pairs. In-domain pairs get a third of it, on average.

# %% [markdown]
# The second half could have surprised: on average the cosine has stopped, and the paper's story
# needs the difference to take over. Whether it does is undecided (-0.37 ± 1.81 from step 16 on). In
# seeds 0 and 1 margin and difference both creep up, in seeds 2 and 3 both fall back.
#
# <details><summary>Answer</summary>
#
# The cosine, and it is no surprise. The head is random, so the cosine starts near 0, and no other
# factor can lift a product off 0. It stays small: 0.04 is the typical size of the cosine of two
# random directions in 576 dimensions ($1/\sqrt{576}$). What most pairs come to share is its *sign*.
# The paper expects the difference to rise.
# </details>

# %% [markdown]
# **Spread and tail.** From here on a figure shows the two ends: a grey bar for the start, which all
# seeds share, and a mark a seed for step 32. Follow a colour to follow a seed.

# %%
MARKS = dict(zip("os^D", ("#332288", "#CC6677", "#117733", "#E69F00"), strict=True))  # of seeds


def draw_ends(axis, *keys, floor=None):
    values = torch.stack([curves(part, *keys) for part in SETS])  # (sets, seeds, times)
    axis.plot(range(len(SETS)), values[:, 0, 0], "_", color="#888888", markersize=20, mew=4,
              label="before training")
    for seed, (mark, tint) in enumerate(MARKS.items()):
        axis.plot(range(len(SETS)), values[:, seed, -1], mark + "-", color=tint, linewidth=0.6,
                  markersize=5, label=f"seed {seed}")
    axis.set_xticks(range(len(SETS)), SETS.values(), fontsize=7.5)
    axis.set_ylim(floor)

# %%
figure, axes = plots.panels(3)
for axis, keys, name, title in zip(
        axes, (("difference_after", "std"), ("difference_after", "skew"), ("norm_share_after",)),
        ("std of $|h_w - h_l|$", "skewness of $|h_w - h_l|$", "share of $|h_w - h_l|^2$"),
        ("spread: mostly down", "right tail: either way", "difference of lengths"), strict=True):
    draw_ends(axis, *keys, floor=0)
    plots.label(axis, "", name, title)
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
figure.suptitle("Differences do not spread in general, and lengths make at most 2.5% of them");

# %% [markdown]
# **What to see.** *Spread*: falls in every seed on training pairs (just undecided: Section 8), on
# new prompts and where both are new. On answers of new sources it rises in three of four. *Tail*
# (skewness, positive where the long tail is on the right): there before training, as most pairs are
# similar and a few are not; it moves either way. *Difference of lengths*: at the end a share of
# 0.03% to 2.5%. In seed 2 it all but vanishes. So $\lVert h_w - h_l\rVert$ measures direction after
# training as well.

# %% [markdown]
# ## 6. Do lengths scatter on new data? (Fig. 3)
#
# The second reading: the cv of lengths, after the final norm, where the head sees it, and before,
# where it does not. The paper's claim is about *new* data. So the third panel shows how much more
# the cv changed on a set than on training pairs, seed by seed.
#
# **Predict**: five sets, four seeds. Do marks of one *set* lie together, or marks of one *seed*?

# %%
def draw_gaps(axis, *keys):
    axis.axhline(0, color="grey", linewidth=0.8)
    for place, part in enumerate(list(SETS)[1:]):
        gap = change(part, *keys) - change("train", *keys)  # (seeds,)
        mean, half = seed_interval(gap)
        axis.errorbar(place - 0.12, mean, half, fmt="_", color="black", capsize=4, markersize=10)
        for seed, (mark, tint) in enumerate(MARKS.items()):
            axis.plot(place + 0.1 * (1 + seed), gap[seed], mark, color=tint, markersize=5)
    axis.set_xticks(range(len(SETS) - 1), list(SETS.values())[1:], fontsize=7.5)
    axis.set_xlim(-0.5, len(SETS) - 1.4)

# %%
figure, axes = plots.panels(3)
draw_ends(axes[0], "norm_after", "cv", floor=0)
draw_ends(axes[1], "norm_before", "cv", floor=0)
draw_gaps(axes[2], "norm_after", "cv")
plots.label(axes[0], "", "cv of $|h|$", "after the norm: the seed decides")
plots.label(axes[1], "", "cv of $|u|$", "before it: up in two, down in two")
plots.label(axes[2], "", "change of cv of $|h|$ minus train's", "against training: 95%")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
figure.suptitle("Whether lengths scatter is the seed's luck; against training a small shift");

# %%
rows, known = {}, curves("train", "norm_after", "cv")
for part, name in list(SETS.items())[1:]:
    unseen = curves(part, "norm_after", "cv")
    rows[name.replace("\n", " ")] = ["{:+.3f} ± {:.3f}".format(*seed_interval(x[:, -1] - x[:, 0]))
                                     for x in (unseen - known, unseen.log() - known.log())]
pd.DataFrame.from_dict(rows, orient="index", columns=["cv minus train's", "ln cv minus train's"])

# %% [markdown]
# **What to see.** *After the norm* lengths become nearly equal in seeds 2 and 3 and scatter more in
# seed 1. In seed 0 they stay about where they were, but for in-domain. *Before it* they scatter
# more in seeds 0 and 1 and less in 2 and 3.
#
# *Against training* all seeds share a small shift: in-domain gains 0.010 of cv on training pairs,
# new prompts 0.004. Training pairs began as the more scattered; at the end the three are nearly
# level. On answers of new sources nothing is decided. We had not asked this beforehand, and in
# relative terms (second column) new prompts are undecided. So it is a hint.

# %% [markdown]
# <details><summary>Answer</summary>
#
# Marks of one seed, on the whole: colours keep their height from set to set. A single run would
# have told a clear story, and another run the opposite one.
# </details>

# %% [markdown]
# ## 7. Do training states lose directions? (Table 1)
#
# How many directions do hidden states use? With singular values $\sigma_k$ of the matrix of $N$
# states, $p_k = \sigma_k / \sum_j \sigma_j$, the **effective rank** is $\exp(-\sum_k p_k \ln
# p_k)$: $n$ if $n$ directions are used equally, 1 if all states are parallel.
#
# It cannot exceed $N$. And it depends on whether the states' mean, which is large, is subtracted
# first.

# %%
p = torch.linalg.svdvals(after.double())
p = p / p.sum()
torch.testing.assert_close((-(p * p.log()).sum()).exp().item(), effective_rank(after))
mean_state = after.mean(0)
squeezed = mean_state + 0.7 * (after - mean_state)  # same mean, deviations 30% smaller
assert effective_rank(squeezed) < effective_rank(after) - 1, "smaller deviations must cost rank"
pd.DataFrame({kind: [effective_rank(x, center=center) for x in (after, squeezed)]
              for kind, center in (("as they are", False), ("mean subtracted", True))},
             index=["32 states of Section 2", "deviations x 0.7"]).round(1)

# %% [markdown]
# Without subtracting the mean, effective rank falls when deviations shrink against the common part,
# without a single direction lost. With it, the number does not see this. Now the recorded runs, 64
# states in every set.
#
# **Predict**: $\lVert h_w - h_l\rVert$ got shorter. What does that do to either kind of rank?

# %%
figure, axes = plots.panels(3)
draw_ends(axes[0], "effective_rank_after")
draw_ends(axes[1], "effective_rank_centered_after")
draw_gaps(axes[2], "effective_rank_after")
plots.label(axes[0], "", "effective rank", "as they are: every seed loses")
plots.label(axes[1], "", "effective rank", "mean subtracted: two lose, two gain")
plots.label(axes[2], "", "change of rank minus train's", "against training: 95%")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
figure.suptitle("Rank falls on every set: no gap between training and new data is decided");

# %% [markdown]
# **What to see.** *As they are* all sets lose rank in every seed, training pairs 1.3 to 4.7 of 19.
# *Mean subtracted*: seeds 0 and 1 lose up to 3.6, seeds 2 and 3 gain. *Against training* answers of
# new sources lose a little less in all four seeds, to old and to new prompts. That is the paper's
# sign, but either interval holds zero.
#
# Table 1 has 23 for BT's training states and 34 for RM-Bench's. It compares two data sets at the
# end. Here sets differ by two before any training (grey bars).
#
# <details><summary>Answer</summary>
#
# Shorter differences are smaller deviations. As in the table above, the first kind falls. For the
# second that alone does nothing.
# </details>

# %% [markdown]
# ## 8. What holds here?
#
# The three questions, then what belongs to them and was not asked beforehand (2b, 3b).

# %%
CV, RANK = ("norm_after", "cv"), ("effective_rank_after",)
LENGTH = ("difference_after", "mean")
asked = {"1 mean $|h_w - h_l|$, train": ("train", None, LENGTH),
         "2 cv of $|h|$, new prompts": ("prompt_disjoint", None, CV),
         "2b cv of $|h|$, new prompts - train": ("prompt_disjoint", "train", CV),
         "3 rank, train - new prompts": ("train", "prompt_disjoint", RANK),
         "3b rank, train - both new": ("train", "mutual_disjoint", RANK)}

# %%
figure, axis = plots.panels()
axis.axvline(0, color="grey", linewidth=0.8)
for place, (part, other, keys) in enumerate(asked.values()):
    delta = change(part, *keys) - (change(other, *keys) if other else 0)
    percent = 100 * delta / curves(part, *keys)[0, 0]
    mean, half = seed_interval(percent)
    axis.errorbar(mean, -place, xerr=half, fmt="|", color="black", capsize=4, markersize=12)
    for seed, (mark, tint) in enumerate(MARKS.items()):
        axis.plot(percent[seed], 0.25 - place, mark, color=tint, label=f"seed {seed}")
axis.set_yticks([-place for place in range(len(asked))], asked)
plots.label(axis, "change, % of the value before training; mean and 95% over seeds", "",
            "Differences get shorter; the other two questions asked stay undecided")
figure.legend(*[x[:4] for x in axis.get_legend_handles_labels()], loc="outside right center");

# %%
rows = {}
for name, part, *keys in (
        ("mean margin, train", "train", "margin"),
        ("std of |h_w - h_l|, train", "train", "difference_after", "std"),
        ("reward variance within prompts, train", "train", "within_prompts"),
        ("reward variance between prompts, train", "train", "between_prompts"),
        ("reward variance between prompts, both new", "mutual_disjoint", "between_prompts")):
    rows[name] = [curves(part, *keys)[:, 0].mean().item(), *change(part, *keys).tolist(),
                  "{:+.2f} ± {:.2f}".format(*seed_interval(change(part, *keys)))]
pd.DataFrame.from_dict(rows, orient="index", columns=[
    "before", *(f"seed {seed}" for seed in range(4)), "change, 95%"]).round(2)

# %% [markdown]
# **The verdict**, for this model, 32 steps, four seeds:
# 1. *Differences* get shorter in every seed, by 8 to 19%. The paper's rise does not reproduce.
# 2. *Lengths* on new prompts: undecided against their own start, seeds disagree in sign. Against
#    training pairs a small shift the paper's way, not asked for beforehand.
# 3. *Rank gap*: undecided, and about a point at most in any seed, where the paper has ten.
#
# The still head reproduces (Fig. 1), as it had to. What grows in every seed is the margin, and with
# it the variance of rewards on training prompts: *within* prompts, as asked, and *between* them,
# which nobody asked for. (Where both are new the latter is undecided.)

# %%
pd.DataFrame({
    "mean reward at the start": [run["metrics"][0]["watch"]["train"]["reward_mean"] for run in bt],
    "largest loss": [max(row.get("train/loss", 0) for row in run["metrics"]) for run in bt],
    "training pairs in labelled order": [
        [row for row in run["metrics"] if "watch" in row][-1]["watch"]["train"]["score"]
        for run in bt]}, index=[f"seed {run['seed']}" for run in bt]).round(2)

# %% [markdown]
# **How far does this reach?** A model of 135M, 512 noisy pairs and 32 steps is not 8B and 600.
# Seeds differ partly because seed 2 overshoots: a loss above 1, where a coin has 0.69. One pass is
# short: about two thirds of the training pairs end in the labelled order, and a gap to new data has
# had little time to open. Nor do we know that Bradley-Terry *causes* what we saw. A control with
# shuffled labels would tell.
#
# What carries over without any run is the bound of Section 2. Whether lengths use the room that it
# leaves must be measured.

# %% [markdown]
# ## Exercises
#
# Each stub returns `None`; its checker then says "not attempted yet". A fold holds the first hint,
# and a wrong answer gets a second one from its checker. Solutions are in `notebooks/solutions/`.
#
# **1.** The gradient of the reward $W_p^\top h$ on the raw state $u$, one vector of shape (H,),
# through $h = g \odot u / \mathrm{rms}(u)$. (What is its component along $u$? How does its length
# depend on $\lVert u\rVert$?)
#
# <details><summary>Hint</summary>
#
# Without any calculation: what does the reward do when $u$ moves along itself? So which component
# is zero?
# </details>

# %%
def raw_gradient(raw_state, gain, head_weight):
    return None


checks.check_raw_gradient(raw_gradient);

# %% [markdown]
# **2.** Mean margin = head × difference × cosine. `early` and `late`, both (3,), hold the three
# factors at two times, all positive. How much does each contribute to the margin's growth? Return
# three numbers: each depends on its own factor alone and is 0 where that stays, and together they
# are $\ln(\text{margin}_\text{late} / \text{margin}_\text{early})$. Then run the cell below it:
# does the difference take over in the second half?
#
# <details><summary>Hint</summary>
#
# What turns a product into a sum?
# </details>

# %%
def growth_by_factor(early, late):
    return None


checks.check_growth_by_factor(growth_by_factor);

# %%
difference = curves("train", *LENGTH)
factors = torch.stack([heads, difference, curves("train", "margin") / (heads * difference)], -1)
for seed in range(4):
    early, late = factors[seed, steps.index(16)], factors[seed, -1]  # (3,) each
    print(f"seed {seed}, step 16 to 32:", growth_by_factor(early, late))

# %% [markdown]
# **3.** *Judge a record.* "In all four seeds" sounds convincing. Suppose that the sign of a change
# is a coin toss in each of `seeds` seeds. Of so many independent `quantities`, how many do you
# expect to have one sign in all seeds? Then run the cell below it. It counts changes *against
# training* with one sign in all four seeds. Is it more than chance? Would it hold for other
# prompts?
#
# <details><summary>Hint</summary>
#
# Let the first seed have any sign. What must the others do? For the last question: what do the four
# seeds share (Section 5)?
# </details>

# %%
def agree_by_chance(seeds, quantities):
    return None


checks.check_agree_by_chance(agree_by_chance);

# %%
KINDS = (LENGTH, ("difference_after", "std"), CV, ("norm_before", "cv"), RANK,
         ("effective_rank_centered_after",))
signs = [(change(part, *keys) - change("train", *keys)).sign().sum().abs().item()
         for part in list(SETS)[1:] for keys in KINDS]  # 4: all seeds agree
print(f"{signs.count(4)} of {len(signs)} agree; by chance:", agree_by_chance(4, len(signs)))

# %% [markdown]
# **4.** For given gain and head, both (H,): what is the largest **margin** that any two raw states
# can have? (So for fixed gain and head a reward model with a final RMSNorm has a ceiling. How far
# below it are the margins of Section 5?)
#
# <details><summary>Hint</summary>
#
# Which vectors can $u/\mathrm{rms}(u)$ be? The reward is linear in them.
# </details>

# %%
def largest_margin(gain, head_weight):
    return None


checks.check_largest_margin(largest_margin)
print("this model's largest margin:", largest_margin(gain, W))

# %% [markdown]
# ## What you know now
#
# - RMSNorm forgets the length of the raw state; $\lVert h\rVert$ is bounded by the gains. What can
#   still grow is the angle between $h_w$ and $h_l$.
# - A margin is head times difference times cosine. Here the cosine makes it.
# - Uncentred effective rank is mostly spread against the common part.
# - One run is an anecdote. Four seeds with the same prompts say nothing about other prompts.
#
# **With a final norm the head never sees how long a state is: before you say that norms disperse,
# ask whether it is not angles that open.**
#
# Next: **03 · What happens when the rewards of a batch must sum to zero?**
