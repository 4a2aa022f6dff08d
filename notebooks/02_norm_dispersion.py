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
# Bradley-Terry wants ever larger margins. In the paper's models the head $W_p$ does not grow
# (Fig. 1), so, the paper says, the **hidden states** do. This *dispersion* has two readings.
# 1. *Differences* $\lVert h_w - h_l\rVert$ grow, and get a longer right tail (Fig. 2).
# 2. *Lengths* $\lVert h\rVert$ scatter, most of all on data unlike training's (Fig. 3). We measure
#    this by their **cv**, the coefficient of variation: standard deviation over mean.
#
# We look for both, first in a small world, then in a language model. Section 7 adds a third sign.

# %% [markdown]
# After it you can split a growing margin into head, difference and cosine.
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
# Can both readings happen at all? We begin with a small world.
# - An answer is forty numbers. Its quality is linear in ten of them.
# - Labels are Bradley-Terry draws on quality.
# - A network with one hidden layer turns an answer into a state $h$ of 64 numbers.
# - The head learns at a hundredth of the network's rate, so that it stays.
#
# We train for 200 steps of 32 pairs, twice: as it is, and with a **final RMSNorm**. That is a last
# operation that scales every state to one length.
#
# **Predict**: which of the two readings can still happen with a final RMSNorm?

# %%
BT, SEEDS = {"bt": worlds.OBJECTIVES["bt"]}, 8  # every seed has its own states, labels and network
VERSIONS = {"no RMSNorm": "helps", "final RMSNorm": "helps, RMSNorm"}  # notebook 04's world names
seen = {name: worlds.train(worlds.WORLDS[world], BT, SEEDS, looks=20)
        for name, world in VERSIONS.items()}
at = list(seen["final RMSNorm"])  # steps

# %%
def course(looks, key):
    return torch.stack([looks[step][key][:, 0] for step in at], 1)  # (seeds, steps)


def interval(x, digits=3):  # (seeds,) -> its mean and 95% interval, as text
    return "{:+.{d}f} ± {:.{d}f}".format(*seed_interval(x), d=digits)

# %%
figure, (left, middle, right) = plots.panels(3)  # drawing only
bins = torch.linspace(0, 17, 35)
for (name, looks), tint in zip(seen.items(), (plots.COLORS["bt"], "#DDAA33"), strict=True):
    for step, line in ((at[0], "--"), (at[-1], "-")):
        left.hist(looks[step]["differences"].flatten(), bins, color=tint, histtype="step",
                  linestyle=line, linewidth=1.3, density=True, log=True)  # all eight seeds
    for axis, key in ((middle, "norm_cv"), (right, "difference")):
        values = course(looks, key)
        plots.seed_curves(axis, at, values / (values[:, :1] if axis is right else 1), name, tint)
        axis.axvline(20, color="grey", linewidth=0.8, linestyle=":")
for axis, height in ((middle, 0.03), (right, 0.97)):
    axis.text(23, height, "mean margin 0.7", fontsize=8, color="grey")
middle.text(60, 0.055, "thin: one seed each\nband: 95% interval")
left.text(8.6, 0.25, "dashed: before\nsolid: after")
plots.label(left, "$|h_w - h_l|$ of a pair", "density (log)", "differences: the right tail grows")
plots.label(middle, "step", "cv of $|h|$", "lengths: all equal with RMSNorm")
plots.label(right, "step", "mean $|h_w - h_l|$ / its start", "differences: grow in both")
figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=2)
figure.suptitle("A final RMSNorm stops the scatter of lengths, not the growth of differences");

# %% [markdown]
# <details><summary>Answer</summary>
#
# The first. With RMSNorm (yellow) the cv stays zero, but the two states of a pair turn apart.
# </details>
#
# What makes the margin grow? A pair's margin is head × difference × **cosine**:
# $\lVert W_p\rVert\,\lVert h_w - h_l\rVert \cos\psi_\Delta$, with $\psi_\Delta$ the angle between
# $W_p$ and $h_w - h_l$ (Eq. 23). We split a *mean* margin in the same way. Its cosine is, by
# definition, mean margin / (head × mean difference). In the world without RMSNorm:

# %%
looks = seen["no RMSNorm"]
values = {what: course(looks, key) for what, key in (
    ("mean margin", "margin"), ("|W_p|", "head"), ("mean |h_w - h_l|", "difference"),
    ("cv of |h|", "norm_cv"))}
values["cosine"] = values["mean margin"] / (values["|W_p|"] * values["mean |h_w - h_l|"])

# %%
table = {"start": {what: f"{x[:, 0].mean():.3f}" for what, x in values.items()}}
for step in (20, at[-1]):
    table[f"change by step {step}, 95%"] = {
        what: interval(x[:, at.index(step)] - x[:, 0]) for what, x in values.items()}
assert course(seen["final RMSNorm"], "norm_cv").max() < 1e-5, "RMSNorm must leave one length"
pd.DataFrame(table)

# %% [markdown]
# **What to see.** *At the end* this is the paper's picture, on training pairs. The head hardly
# moves, differences and their right tail grow, lengths scatter.
#
# At step 20 it is not there yet. The mean margin has grown by 0.7, mostly by the cosine.
# Differences are only a tenth larger.
#
# **The cosine comes first.** It must: with a random head it starts near 0, and no other factor can
# lift a product off 0. Later, too, it does more. From step 20 to the end (start plus
# change) it doubles, from 0.25 to 0.51. Differences grow by half, from 2.7 to 4.1.

# %% [markdown]
# ## 2. A language model, and its last normalization
#
# Which of its norms does the reward see? The model is SmolLM2-135M-Instruct, all 30 layers, on the
# pocket world. Every weight is trained (**full fine-tuning**) at one learning rate, as in the
# paper. The labels are noisy on purpose: which answer counts as *chosen* is drawn from
# Bradley-Terry on gold.

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
# (Eq. 2). $W_p$ is drawn at random, so these first rewards are noise.

# %%
from bsr_lite.batching import pack

pairs, dropped = pair_tokens(scenarios.train, model.tokenizer, config.data.max_length)
packed = pack(pairs[:16]).to(model.device)
with torch.no_grad():
    h, u = (x.cpu() for x in model.last_hidden(packed))  # (32, 576): 16 pairs, 2 answers
    rewards = model(packed).cpu()
W = model.head_weight.detach().cpu()
torch.testing.assert_close(rewards, h @ W, rtol=1e-4, atol=1e-4)
print(f"{len(pairs)} pairs; rewards of the first {rewards[0]:.2f} (chosen), {rewards[1]:.2f}")

# %% [markdown]
# `last_hidden` returned *two* states. The network's last operation is an **RMSNorm**: from the raw
# state $u$ it makes
#
# $$h = g \odot \frac{u}{\mathrm{rms}(u)}, \qquad \mathrm{rms}(u) = \lVert u \rVert / \sqrt{H},$$
#
# with one learned **gain** $g_i$ per coordinate. The head sees $h$.
#
# **Predict**: suppose every $u$ becomes three times as long. What happens to the rewards?

# %%
gain = model.backbone.norm.weight.detach().cpu()
H = len(gain)


def rms_norm(raw):
    return gain * raw / raw.square().mean(-1, keepdim=True).sqrt()


torch.testing.assert_close(rms_norm(u), h, rtol=1e-2, atol=1e-2)  # 16 bits on some machines
torch.testing.assert_close(rms_norm(3 * u) @ W, rms_norm(u) @ W, rtol=1e-4, atol=1e-4)
print("rewards  ", [round(x, 3) for x in (rms_norm(u) @ W)[:4].tolist()])
print("u times 3", [round(x, 3) for x in (rms_norm(3 * u) @ W)[:4].tolist()])

# %% [markdown]
# <details><summary>Answer</summary>
#
# Nothing. The length of $u$ never reaches the head.
# </details>
#
# So "the hidden norm" has two meanings.
# - The **raw** $\lVert u\rVert$ may grow, and no reward moves.
# - The **normalized** $\lVert h\rVert$ is the one of the paper's Eq. 16. If all $|g_i|$ were equal,
#   as in Section 1, it would be a constant. It can scatter only because the gains differ.

# %%
low, high = gain.abs().aminmax()
print(f"the gains |g| go from {low:.2f} to {high:.2f}")
for name, x in (("|u|", u), ("|h|", h)):
    print(f"cv of {name}: {x.norm(dim=-1).std() / x.norm(dim=-1).mean():.3f}")

# %% [markdown]
# Both scatter, the raw one twice as much.
#
# The *difference* of a pair has two parts, a length and an angle (middle panel below). With
# $\theta$ the angle between $h_w$ and $h_l$, the law of cosines says
#
# $$\lVert h_w - h_l\rVert^2 =
# \underbrace{(\lVert h_w\rVert - \lVert h_l\rVert)^2}_{\text{difference of lengths}} +
# \underbrace{2\,\lVert h_w\rVert\,\lVert h_l\rVert\,(1 - \cos\theta)}_{\text{angle, at common
# length}}.$$

# %%
ray = torch.arange(121).deg2rad()  # for a sketch with two coordinates, gains 0.9 and 1.5
ray = torch.stack([ray.cos(), ray.sin()], 1)  # (121, 2), from 0 to 120 degrees
ellipse = torch.tensor([0.9, 1.5]) * 2**0.5 * ray  # every h there can be
w, l = ellipse[62], ellipse[12]
drawn = norm_share(w[None], l[None])
print(f"length's part of the sketch's |h_w - h_l|^2: {drawn:.0%}")

# %%
figure, axes = plots.panels(3)  # drawing only
BROWN, BLUE, PURPLE, GREEN, RED = "#994F00", "#4477AA", "#AA3377", "#228833", "#EE6677"
for axis, title in zip(axes, (
        "$h$ depends only on $u$'s direction", "difference: length and angle",
        "margin: head × difference × cosine"), strict=True):
    axis.plot(*ellipse.T, color="#BBBBBB")
    axis.set(xlim=(0, 2.4), ylim=(0, 2.4), aspect="equal", xticks=[], yticks=[], title=title)
for axis, tip, text, tint, tail in (
        (0, 0.7 * ray[18], "$u$", BROWN, 0 * l), (0, 2.1 * ray[18], "$3u$", BROWN, 0 * l),
        (0, ellipse[18], "$h$ of both", "black", 0 * l), (1, w, "$h_w$", "black", 0 * l),
        (1, l, "$h_l$", "black", 0 * l), (1, w, "", BLUE, l), (2, w, "", BLUE, l),
        (2, l + torch.tensor([0.5, 1.5]), "$W_p$", PURPLE, l)):
    axes[axis].annotate("", tip, tail, arrowprops={
        "arrowstyle": "-|>", "color": tint, "shrinkA": 0, "shrinkB": 0, "linewidth": 1.6})
    axes[axis].annotate(text, tip, (4, 4), textcoords="offset points", color=tint)
axes[1].plot(*(ray[20:73] * l.norm()).T, "--", color=GREEN)
axes[1].plot(*torch.stack([w * l.norm() / w.norm(), w]).T, color=RED, linewidth=4)
axes[2].plot(*(l + 0.6 * ray[72:115]).T, color="black", linewidth=1)  # from W_p to h_w - h_l
for axis, *place, text, tint in (
        (0, 1.2, 1.5, "grey: every $h$.\nGains: 0.9 across,\n1.5 up. Unequal\ngains rotate $u$.",
         "grey"), (1, 0.45, 0.8, "angle", GREEN), (1, 1, 1.4, "$h_w - h_l$", BLUE),
        (1, 0.03, 1.4, f"length:\n{drawn:.0%} of\nsquare", RED), (2, 0.4, 1, "$h_w - h_l$", BLUE),
        (2, 1.15, 1.1, "$\\psi_\\Delta$", "black")):
    axes[axis].text(*place, text, color=tint)
figure.suptitle("The head never sees the length of $u$; two $h$ may differ in length and angle");

# %% [markdown]
# **Predict**: how much of $\lVert h_w - h_l\rVert^2$ is length? And of $\lVert u_w - u_l\rVert^2$?

# %%
for name, states in (("u", u), ("h", h)):
    w, l = states[0::2], states[1::2]  # (16, 576): chosen, rejected
    a, b = w.norm(dim=-1), l.norm(dim=-1)
    turned = 2 * a * b * (1 - torch.cosine_similarity(w, l))
    torch.testing.assert_close((a - b) ** 2 + turned, (w - l).square().sum(-1), rtol=1e-3, atol=.01)
    share = ((a - b) ** 2).sum() / (w - l).square().sum()  # one for all 16 pairs: norm_share
    print(f"|{name}_w - {name}_l|^2: {share:.1%} length, the rest angle")
print(f"with chosen h 30% longer: {norm_share(1.3 * w, l):.1%} length")
assert norm_share(1.3 * w, l) > 0.3, "longer chosen states must show as length"

# %% [markdown]
# <details><summary>Answer</summary>
#
# About 1% of $h$'s, 4% of $u$'s. The last line is a control: longer chosen states would show.
# </details>
#
# So on these pairs $\lVert h_w - h_l\rVert$ measures almost only **direction**. The paper's models
# end in an RMSNorm, too; we have not measured them.

# %% [markdown]
# ## 3. The training loop
#
# Does training change this? First, the loop. A step draws a random batch and cuts it into
# **micro-batches** that fit in memory. It adds up their gradients, **clips** the sum to norm at
# most 1, and lets Adam move the weights. Each micro-batch is weighted by its share of the pairs.

# %%
from bsr_lite.batching import count_tokens, draw_batch, micro_batches
from bsr_lite.losses import bt_loss
from bsr_lite.step import loss_scaler, make_optimizer, schedule


def train_bt(model, pairs, config):
    optimizer, scaler, losses = make_optimizer(model, config), loss_scaler(model), []  # AdamW
    total = -(-len(pairs) // config.batch_size)  # one epoch, rounded up
    for step in range(total):
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
    return losses

# %% [markdown]
# ## 4. Train and measure
#
# Which of a margin's three factors moves when this model learns? We train all 30 layers for six
# steps and measure 12 training pairs before and after. With one seed and so few steps it is no
# result.
#
# **Predict**: head, difference or cosine?

# %%
from bsr_lite.eval_rm import evaluate

watched_pairs = draw_groups(model, pairs_as_groups(scenarios.train), config)


def measure(model):
    m, head = evaluate(model, watched_pairs, dispersion=True), model.head_weight.norm().item()
    difference = m["difference_after"]["mean"]  # of h: after the final RMSNorm
    return head, difference, m["margin"] / (head * difference), m["margin"]

# %%
live = {"before": measure(model)}
losses = train_bt(model, pairs, config)
live["after six steps"] = measure(model)
print("loss by step", [round(x, 2) for x in losses])
pd.DataFrame.from_dict(live, orient="index", columns=[
    "|W_p|", "mean |h_w - h_l|", "cosine", "mean margin"]).round(4)

# %% [markdown]
# <details><summary>Answer</summary>
#
# The cosine: it changes sign. The difference rises, too, by 7%. Section 5 has more pairs and seeds.
# </details>

# %% [markdown]
# Section 3's loop is that of `python -m bsr_lite.train_rm`. A two-layer model in fp32 has the same
# losses with either.

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
# ## 5. Four recorded runs: which factor grows? (Fig. 1, Fig. 2)
#
# Do larger differences make the margin? `data/runs/study_norms` holds the same training on 512
# pairs: 32 steps of 16, four seeds. A seed changes only the random head and the order of the
# batches. So the 95% intervals below are about those, not about other prompts. We call a change
# *undecided* if its interval holds zero.

# %% [markdown]
# Every fourth step five sets of 32 pairs were measured: training pairs, and the paper's
# **generalization scenarios** (Sec. 2.2). A *source* is the model that wrote an answer.
# - *in-domain*: training prompts, other answers of the same sources;
# - *prompt-disjoint*: **new prompts**, known sources;
# - *response-disjoint*: training prompts, **new sources**;
# - *mutual-disjoint*: new prompts and new sources, **both new**.
#
# In training pairs $h_w$ is the chosen answer. In the other sets it is the better by gold of a
# prompt's first two answers.

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
# 3. Does the effective rank (Section 7) fall *more* on training pairs than on new prompts?
#
# All other numbers are for exploring: among twenty intervals one misses by chance. One such number
# is the differences' **95% quantile**, for their right tail: two of 32 pairs lie beyond it.

# %%
# in the records' keys "_before" and "_after" mean the final RMSNorm: of u and of h, not of training
CV, DIFFERENCE = ("norm_after", "cv"), ("difference_after", "mean")
TAIL = ("difference_after", "quantiles")
RANK, CENTERED = ("effective_rank_after",), ("effective_rank_centered_after",)
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
MARKS = dict(zip("os^D", ("#7B3294", "#EE7733", "#33BBEE", "#888822"), strict=True))  # of seeds
figure, axes = plots.panels(4)  # drawing only
difference, margin = curves("train", *DIFFERENCE), curves("train", "margin")
tail = curves("train", *TAIL)[..., -1]  # of five quantiles the last, 95%
for axis, values, title in zip(
        axes, (margin, difference, tail, margin / (heads * difference)),
        ("mean margin: larger", "mean $|h_w - h_l|$: smaller", "its 95% quantile: less",
         "cosine: larger"), strict=True):
    axis.axhline(0, color="grey", linewidth=0.8)
    for seed, (mark, tint) in enumerate(MARKS.items()):
        axis.plot(steps, values[seed], mark + "-", color=tint, markersize=4, label=f"seed {seed}")
    plots.label(axis, "optimizer step", "", title)
axes[1].text(1, 3, "seeds 0 and 1 up\nagain after step 12", fontsize=8)
axes[3].axhspan(-((32 * H) ** -0.5), (32 * H) ** -0.5, color="#D9D9D9", zorder=0)
axes[3].text(11, 0.009, "shaded: random\nhead, mean of\n32 unrelated\npairs (± one s.d.)",
             fontsize=8)
figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=4)
figure.suptitle("Training pairs, four seeds: the cosine makes the margin, not larger differences");

# %%
moved = (heads - heads[:, :1]).abs().max()
rates = sum(config.learning_rate * schedule(k, 32, config.warmup_ratio) for k in range(32))
bound = rates * H**0.5  # Adam moves one weight by about the rate a step
print(f"the norm |W_p| changes by {moved:.4f} at most; the vector can move by about {bound:.4f}")

# %% [markdown]
# **What to see.** On training pairs:
# - *Difference*: it ends **smaller** in all four seeds, the opposite of the paper's Fig. 2.
# - *Tail*: it ends **shorter** in all four (exploring). Its quantile falls from 27 to 25 or less.
# - *Cosine*: it starts near zero and ends at 0.03 to 0.05. From start to end it alone makes the
#   margin. In seeds 2 and 3 cosine and margin peak midway, then fall. Seed 2 was unsteady, with
#   losses above 1 (`data/runs/LOG.md`). We keep it.
# - *Head*: its length stays near 1, and it moves by at most about 0.008. That changes a cosine by
#   no more.
#
# Now all five sets: changes from start to end, with 95% intervals.

# %%
rows = {}
for part, name in SETS.items():
    difference = curves(part, *DIFFERENCE)  # (seeds, measurements)
    cosine = curves(part, "margin") / (heads * difference)
    shares = change(part, *DIFFERENCE) / difference[:, 0]  # (seeds,)
    rows[name.replace("\n", " ")] = ["{:+.0%} to {:+.0%}".format(*shares.aminmax()), *(
        interval(x) for x in (change(part, *DIFFERENCE), cosine[:, -1] - cosine[:, 0],
                              change(part, "margin"), change(part, *TAIL)[:, -1]))]
pd.DataFrame.from_dict(rows, orient="index", columns=[
    "mean |h_w - h_l|, four seeds", "mean |h_w - h_l|", "cosine", "mean margin", "95% quantile"])

# %% [markdown]
# **What to see.** On the other four sets:
# - *Difference*: smaller in all four seeds, too. On new sources the interval holds zero.
# - *Cosine* and *margin*: larger. In domain the margin's change is undecided, and the
#   cosine's interval begins near zero.
# - *Tail*: undecided.

# %% [markdown]
# The next figures show the start, which all seeds share, and step 32.
#
# **Predict**: is $\lVert h_w - h_l\rVert$ still a matter of direction after training?

# %%
def draw_ends(axis, *keys, floor=None):
    values = torch.stack([curves(part, *keys) for part in SETS])  # (sets, seeds, times)
    axis.plot(range(len(SETS)), values[:, 0, 0], "_", color="#888888", markersize=20, mew=4,
              label="before training")
    for seed, (mark, tint) in enumerate(MARKS.items()):
        axis.plot([place + 0.12 * (seed - 1.5) for place in range(len(SETS))], values[:, seed, -1],
                  mark, color=tint, markersize=5, label=f"seed {seed}")
    axis.set_xticks(range(len(SETS)), SETS.values(), fontsize=7.5)
    axis.set_ylim(floor)

# %%
figure, axes = plots.panels(2, sharey=True)
for axis, key, title in zip(axes, ("norm_share_before", "norm_share_after"), (
        "$u$, raw: 2 to 16%", "$h$, what the head sees: at most 2.5%"), strict=True):
    draw_ends(axis, key, floor=-0.004)
    plots.label(axis, "", "", title)
axes[0].yaxis.set(label_text="length's share of $|x_w - x_l|^2$,\n$x = u$ or $h$",
                  major_formatter="{x:.0%}")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
figure.suptitle("After training, too, length is a small part of $|h_w - h_l|^2$");

# %% [markdown]
# **What to see.** It is. Length makes at most 2.5% of $\lVert h_w - h_l\rVert^2$, and up to 16% of
# $\lVert u_w - u_l\rVert^2$.

# %% [markdown]
# ## 6. Do lengths scatter on new data? A gap that was there before training (Fig. 3)
#
# The left panel below shows the cv on each set. The right panel shows the *gap*: that cv **minus**
# the cv of training pairs. Grey marks are before training: they come from a set's 32 prompts and
# answers.
#
# **Predict**: what changes the cv at the end more, another set or another seed?

# %%
def gaps(*keys):  # a set minus training pairs
    return {name: curves(part, *keys) - curves("train", *keys)  # (seeds, measurements)
            for part, name in list(SETS.items())[1:]}


def draw_gaps(axis, apart):
    axis.axhline(0, color="grey", linewidth=0.8)
    for place, gap in enumerate(apart.values()):
        axis.plot(place, gap[0, 0], "_", color="#888888", markersize=20, mew=4)
        for seed, (mark, tint) in enumerate(MARKS.items()):
            axis.plot([place + 0.12 * (seed - 1.5)] * 2, gap[seed, [0, -1]], mark + "-", color=tint,
                      markersize=5, linewidth=1.5, markevery=[1])
    axis.set_xticks(range(len(apart)), apart, fontsize=7.5)
    axis.set_xlim(-0.5, len(apart) - 0.5)

# %%
figure, (left, right) = plots.panels(2)
draw_ends(left, *CV, floor=0)
draw_gaps(right, gaps(*CV))
right.text(0.45, -0.0088, "lines: what training did", color="grey")
plots.label(left, "", "cv of $|h|$", "seeds differ more than sets")
plots.label(right, "", "cv of $|h|$ minus train's", "minus train: none clearly apart at the end")
figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=5)
figure.suptitle("Lengths on new data are not seen to scatter more than on training pairs");

# %% [markdown]
# <details><summary>Answer</summary>
#
# Another seed, on the whole. One run would have told a clear story, another the opposite.
# </details>
#
# The table shows each gap before training, its change, and its end.

# %%
rows = {}
for part, name in list(SETS.items())[1:]:
    gap = gaps(*CV)[name]  # (seeds, measurements)
    rows[name.replace("\n", " ")] = [
        interval(change(part, *CV), 4), f"{gap[0, 0]:+.4f}",
        interval(gap[:, -1] - gap[:, 0], 4), interval(gap[:, -1], 4)]
pd.DataFrame.from_dict(rows, orient="index", columns=[
    "change of the cv, 95%", "gap before", "change of the gap, 95%", "gap at the end, 95%"])

# %% [markdown]
# **What to see.** On new prompts the cv rises in two seeds and falls in two: undecided. No gap at
# the end is clearly off zero. In seed 2 all cvs shrink to a third or less, and gaps with them.
# Ratios to training's cv are undecided, too (`data/runs/LOG.md`).
#
# We do not know if the cv would show such a gap. In Section 1's world lengths scatter, yet no set
# ends clearly above training pairs (also there).
#
# *A trap*: in domain and on new prompts the *change of the gap* is clearly above zero. But the
# *gap before* was below zero, and training closed it. All seeds share the gap before, so no
# interval over seeds warns of it.

# %% [markdown]
# ## 7. Rank can fall without a direction lost (Table 1)
#
# The paper's third sign: after Bradley-Terry, states of training pairs have a lower **effective
# rank** than unseen ones, 23.3 against 33.8. With singular values $\sigma_k$ of the matrix of $N$
# states and $p_k = \sigma_k / \sum_j \sigma_j$, this rank is $\exp(-\sum_k p_k \ln p_k)$. It is $n$
# if $n$ directions are used equally, and 1 if all states are parallel.
#
# Should one subtract the mean first? We change Section 2's states in two ways. Either each moves
# 30% of its way to the mean: no direction is lost. Or only 8 directions stay.
#
# **Predict**: which kind of rank, with the mean or without, tells the two apart?

# %%
p = torch.linalg.svdvals(h.double())
p = p / p.sum()
torch.testing.assert_close((-(p * p.log()).sum()).exp().item(), effective_rank(h))
squeezed = h.mean(0) + 0.7 * (h - h.mean(0))  # same mean, deviations 30% smaller
assert effective_rank(squeezed) < effective_rank(h) - 1, "smaller deviations must cost rank"
U, sigma, V = torch.linalg.svd((h - h.mean(0)).double(), full_matrices=False)
flat = h.mean(0) + (U[:, :8] * sigma[:8]) @ V[:8]  # all but 8 directions gone
assert effective_rank(flat, center=True) < 8.01, "lost directions must show"
pd.DataFrame({kind: [effective_rank(x, center=center) for x in (h, squeezed, flat)]
              for kind, center in (("as they are", False), ("mean subtracted", True))},
             index=["32 states of Section 2", "deviations x 0.7", "8 directions left"]).round(1)

# %% [markdown]
# <details><summary>Answer</summary>
#
# With the mean subtracted. As they are, rank falls either way.
# </details>
#
# Now the recorded runs. A set has 64 states, so its ranks cannot be compared with those above.
#
# **Predict**: which kind of rank falls?

# %%
figure, (left, right) = plots.panels(2)
draw_ends(left, *RANK, floor=13)
draw_ends(right, *CENTERED, floor=38)
plots.label(left, "", "effective rank, axis from 13", "as they are: every set falls in every seed")
plots.label(right, "", "effective rank, axis from 38", "mean subtracted: two seeds fall, two rise")
figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=5)
figure.suptitle("As they are, states lose rank; whether they lose directions is undecided");

# %%
rows = {}
for kind, keys in (("as they are", RANK), ("mean subtracted", CENTERED)):
    gap = gaps(*keys)
    for name, x in (("train", curves("train", *keys)),
                    ("new prompts minus train", gap["new\nprompts"]),
                    ("both new minus train", gap["both\nnew"])):
        moved = x[:, -1] - x[:, 0]  # (seeds,)
        rows[f"{name}, {kind}"] = [
            f"{x[0, 0]:.2f}", f"{(moved > 0).sum()} of 4", interval(moved), interval(x[:, -1])]
pd.DataFrame.from_dict(rows, orient="index", columns=[
    "before", "rises in", "change, 95%", "at the end, 95%"])

# %% [markdown]
# <details><summary>Answer</summary>
#
# As they are: every set, in every seed. Smaller deviations would do that; they were not recorded.
# With the mean subtracted it is undecided.
# </details>
#
# **What to see.** The paper's sign is a gap *at the end*: new states above training's.
# - *New prompts, as they are* (question 3): the gap ends at 0.0 ± 0.1. Its change is undecided.
# - *Both new, mean subtracted*: the gap ends at 1.5 ± 1.1, with the paper's sign. It began at 0.6.
#   Whether training widened it is undecided.
# - *Both new, as they are*: the gap began below zero and ends below zero.
#
# All but question 3 is exploring.

# %% [markdown]
# ## 8. What holds here?
#
# The three questions, for this model, 32 steps, four seeds:
# 1. *Differences* on training pairs do not rise. They end 8 to 19% smaller in every seed.
# 2. *Lengths* on new prompts: undecided.
# 3. *Rank*, training states against new prompts: undecided.
#
# How far had training come? First the labels of the 32 training pairs, then how many are in order.

# %%
right = {(p.chosen, p.rejected) for p in load_scenarios(
    load_config(CONFIG, overrides=["data.label_temperature=0"])).train}  # in gold's order
recorded = load_config(CONFIG)
watched_here = draw_groups(model, pairs_as_groups(load_scenarios(recorded).train), recorded)
agree, against = (sum(tuple(pair.responses[::way]) in right for pair in watched_here)
                  for way in (1, -1))
print(f"{agree} labels as gold orders, {against} against it,",
      f"{len(watched_here) - agree - against} where gold ties")

# %%
order = (32 * curves("train", "score")).round().int()
pd.DataFrame({"in order before, of 32": order[:, 0], "at the end": order[:, -1]},
             index=[f"seed {run['seed']}" for run in bt])

# %% [markdown]
# **How far does this reach?** 135M weights and 32 steps are not 8B and 600. At the end 20 to 22 of
# the 32 pairs are in labelled order. Whether that is more than before is undecided.
#
# Only 2 of the 32 labels go against gold. Of all 512 labels 120 do (`data/runs/LOG.md`). So these
# pairs tell little about fitting wrong labels.
#
# The paper blames a pressure towards ever larger margins on pairs already in order. It may not have
# had its time here. So the paper's dispersion is *not reproduced here*, not *refuted*.
#
# Do the labels make differences fall, or would any training? Shuffled labels would tell.

# %% [markdown]
# ## Exercises
#
# A fold holds the first hint; a wrong answer gets a second from its checker. Solutions are in
# `notebooks/solutions/`.
#
# **1.** The gradient of the reward $W_p^\top h$ on the raw state $u$, one vector of shape (H,),
# through $h = g \odot u / \mathrm{rms}(u)$. (How does its length depend on $\lVert u\rVert$?)
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
# **2.** Could the difference take over later? Mean margin = head × difference × cosine. `early` and
# `late`, both (3,), hold the three factors at two times, all positive. Return three numbers: what
# each factor adds to the margin's growth.
# - Each depends on its own factor alone, and is about 0.01 where that grows by 1%.
# - Their sum depends on the two margins alone.
#
# Run the second cell. In which seeds is the difference's part larger **in size** than the cosine's?
# Does the start matter? Why not step 0?
#
# <details><summary>Hint</summary>
#
# Try `late / early - 1` where two factors double, and where one is fourfold. The margin is fourfold
# in both. And the sum?
# </details>

# %%
def growth_by_factor(early, late):
    return None


checks.check_growth_by_factor(growth_by_factor);

# %%
difference = curves("train", *DIFFERENCE)
factors = torch.stack([heads, difference, curves("train", "margin") / (heads * difference)], -1)
torch.set_printoptions(precision=3, sci_mode=False)
for start in (16, 20, 24):
    for seed in range(4):
        early, late = factors[seed, steps.index(start)], factors[seed, -1]  # (3,) each
        print(f"step {start} to 32, seed {seed}:", growth_by_factor(early, late))

# %% [markdown]
# **3.** Suppose that the sign of a change is a coin toss in each of `seeds` seeds. Of so many
# `quantities`, how many do you expect to have one sign in all seeds?
#
# The second cell below lists, of 24 changes *minus training's*, those with one sign in all four
# seeds. Are there more than you expect? All share 32 training pairs, so they may move together.
# Flip the signs of whole seeds in `moves`, the list of all 24: 8 patterns. How many give 11 or
# more? And how many gaps end nearer to zero, on either side?
#
# <details><summary>Hint</summary>
#
# How often do two coins agree? Last: what do all seeds share (Sections 5 and 6)?
# </details>

# %%
def agree_by_chance(seeds, quantities):
    return None


checks.check_agree_by_chance(agree_by_chance);

# %%
KINDS = {"mean |h_w - h_l|": DIFFERENCE, "std |h_w - h_l|": ("difference_after", "std"),
         "cv |h|": CV, "cv |u|": ("norm_before", "cv"), "rank": RANK,
         "rank, mean subtracted": CENTERED}
rows, moves = [], []  # moves: all 24 changes by seed
for kind, keys in KINDS.items():
    for part, gap in gaps(*keys).items():
        moved = gap[:, -1] - gap[:, 0]  # (seeds,)
        moves.append(moved)
        if moved.sign().sum().abs() == 4:
            rows.append([kind, part.replace("\n", " "), "+" if moved[0] > 0 else "-",
                         *(f"{x:+.3f}" for x in (gap[0, 0], *gap[:, -1].aminmax()))])
print(f"{len(rows)} of 24 agree; by chance:", agree_by_chance(4, 24))
pd.DataFrame(rows, columns=["quantity", "set", "change minus train's", "gap before",
                            "gap at the end, from", "to"])

# %% [markdown]
# **4.** For given gain and head, both (H,): what is the largest **margin** that any two raw states
# can have? (How far below it are the margins of Section 5?)
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
# ## Check yourself
#
# 1. "Hidden norms doubled in training." What do you ask first?
# 2. A model ends in RMSNorm with equal gains. Which reading of dispersion is still possible?
# 3. Differences shrink, the head stays, and margins grow. How?
# 4. Effective rank falls. Has the model lost directions?
# 5. All seeds start from the same model. A set's *change* minus training's has a narrow interval
#    above zero. What do you look at before you believe it?

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1. Whether it is $u$ or $h$: the head never sees the length of $u$.
# 2. The first: the two states of a pair can turn apart. Lengths are one constant.
# 3. Differences turn towards the head: the cosine grows more than the differences shrink.
# 4. Not for that reason: states may have moved towards their mean. Subtract it and look again.
# 5. The gap at the start. All seeds share it, so no interval over seeds warns of it.
# </details>

# %% [markdown]
# ## What to watch, what to vary
#
# | In your run, watch | Seen here (four seeds) | If not, or next, vary |
# |---|---|---|
# | mean margin, training pairs | from 0 to between 0.3 and 0.5 | no rise: labels, then the rate |
# | mean $\lVert h_w - h_l\rVert$, training pairs | 8 to 19% less | larger: length's share, seeds |
# | cv of $\lVert h\rVert$ | 0.004 to 0.037 | far above 0.026, the start: do you measure $u$? |
# | training pairs in labelled order | 20 to 22 of 32 | near all: now watch the differences again |

# %% [markdown]
# ## What you know now
#
# In the small world norms dispersed, yet the cosine did more for the margin. In the language model,
# in 32 steps, training pairs' differences shrank. The cosine alone raised the margin. Whether
# lengths scatter is undecided.
#
# **Before you say that norms disperse, ask: raw or normalized? Length or direction? How much of the
# margin did the cosine make? Was the gap there before training?**
#
# Next: **03 · What happens when the rewards of a batch must sum to zero?**
