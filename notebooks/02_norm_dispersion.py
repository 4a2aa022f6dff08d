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
# In a small world we see the first, and the second on training pairs. Then we ask what a final
# normalization leaves of them, and look for them in a language model.

# %% [markdown]
# After it you can
# - say where in the network a hidden norm is taken, and why that decides what it can do;
# - read a reward-model training loop of 25 lines;
# - split a growing margin into head, difference and cosine (Eq. 16, 23);
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
# draws on quality. A network with one hidden layer turns an answer into a state $h$ of 64 numbers.
# Its head learns at a hundredth of the network's rate, so that it stays.
# We train it as it is, and with a last operation that scales every state to one length, a **final
# RMSNorm** (formula in Section 2).
#
# **Skewness**, the mean cube of standardized values, is positive where the long tail is right.
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


def skewness(x):  # (seeds, pairs) -> (seeds,)
    return ((x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True)).pow(3).mean(-1)

# %%
figure, (left, middle, right) = plots.panels(3)
bins = torch.linspace(0, 17, 57)
for step, tint, name in ((at[0], "#BBBBBB", "before"), (at[-1], plots.COLORS["bt"], "after")):
    norms = seen["no RMSNorm"][step]["differences"].flatten()  # of all eight seeds
    left.hist(norms, bins, color=tint, alpha=0.7, density=True)
    left.text(*((3.4, 0.5) if step == 0 else (7, 0.1)), name)
left.hist(seen["final RMSNorm"][at[-1]]["differences"].flatten(), bins, color="#DDAA33",
          histtype="step", linewidth=1.5, density=True)
for (name, looks), tint in zip(seen.items(), (plots.COLORS["bt"], "#DDAA33"), strict=True):
    for axis, key in ((middle, "norm_cv"), (right, "difference")):
        values = course(looks, key)
        plots.seed_curves(axis, at, values / (values[:, :1] if axis is right else 1), name, tint)
plots.label(left, "$|h_w - h_l|$ of a pair", "density", "differences: a right tail in both")
plots.label(middle, "step", "cv of $|h|$", "lengths: RMSNorm fixes them")
plots.label(right, "step", "mean $|h_w - h_l|$ / its start", "differences: grow in both")
figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=2)
figure.suptitle("Differences and lengths disperse; a final RMSNorm fixes lengths, not differences");

# %%
rows = {}
for name, looks in seen.items():
    values = {what: course(looks, key) for key, what in (
        ("head", "|W_p|"), ("norm_cv", "cv of |h|"), ("difference", "mean |h_w - h_l|"))}
    values["skewness of |h_w - h_l|"] = torch.stack(
        [skewness(looks[step]["differences"]) for step in at], 1)
    for what, x in values.items():  # (seeds, steps)
        growth = "{:+.3f} ± {:.3f}".format(*seed_interval(x[:, -1] - x[:, 0]))
        rows[f"{what}, {name}"] = [x[:, 0].mean().item(), growth]
assert course(seen["final RMSNorm"], "norm_cv").max() < 1e-5, "RMSNorm must leave one length"
pd.DataFrame.from_dict(rows, orient="index", columns=["start", "change, 95% over seeds"]).round(3)

# %% [markdown]
# **What to see.** Without RMSNorm this is the paper's picture: the head stays, differences get
# longer and grow a right tail, and lengths scatter. So these measures see dispersion on *training*
# pairs where it is. For new data Section 6 comes back to it; for rank we have no such control.
#
# <details><summary>Answer</summary>
#
# The first, tail included (yellow outline): the two states of a pair turn apart. The cv stays zero.
# </details>

# %% [markdown]
# ## 2. A language model, and its last normalization
#
# Now SmolLM2-135M-Instruct, all 30 layers, on the pocket world. Every weight is trained (**full
# fine-tuning**) at one learning rate, as in the paper. Live we take few pairs. The labels are noisy
# on purpose: which answer counts as *chosen* is drawn from Bradley-Terry on gold.

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
# (Eq. 2). $W_p$ is drawn at random, so these first rewards are noise. (`pack` puts pairs into one
# row, without padding.)

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
# **Predict**: the training makes every $u$ three times as long. What happens to the rewards?

# %%
gain = model.backbone.norm.weight.detach().cpu()
H = len(gain)


def rms_norm(raw):
    return gain * raw / raw.square().mean(-1, keepdim=True).sqrt()


torch.testing.assert_close(rms_norm(u), h, rtol=1e-2, atol=1e-2)  # 16-bit network
torch.testing.assert_close(rms_norm(3 * u) @ W, rms_norm(u) @ W, rtol=1e-4, atol=1e-4)
print("rewards  ", [round(x, 3) for x in (rms_norm(u) @ W)[:4].tolist()])
print("u times 3", [round(x, 3) for x in (rms_norm(3 * u) @ W)[:4].tolist()])

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
norms = h.norm(dim=-1)
print(f"|h| may lie in [{short:.0f}, {long:.0f}], here {norms.min():.1f} to {norms.max():.1f}")
assert short <= norms.min() and norms.max() <= long, "RMSNorm bounds |h| by its gains"
torch.manual_seed(0)
for name, x in (("|u|", u), ("|h|", h),
                ("|h| if u pointed anywhere", rms_norm(torch.randn(10_000, H)))):
    print(f"cv of {name}: {x.norm(dim=-1).std() / x.norm(dim=-1).mean():.3f}")

# %% [markdown]
# The bounds allow a factor of four; these states differ by 10%. In training, too, $\lVert h\rVert$
# can change only because $u$ turns. Adam moves a weight by about its learning rate a step (notebook
# 01): in the 32 steps of Section 5, from $2 \cdot 10^{-5}$ down to zero, a gain (about 1.8) moves
# by about 0.0003 at most.

# %% [markdown]
# **The same for differences.** By the law of cosines, with $\theta$ the angle between $h_w$ and
# $h_l$,
#
# $$\lVert h_w - h_l\rVert^2 =
# \underbrace{(\lVert h_w\rVert - \lVert h_l\rVert)^2}_{\text{difference of lengths}} +
# \underbrace{2\,\lVert h_w\rVert\,\lVert h_l\rVert\,(1 - \cos\theta)}_{\text{angle, at common
# length}}.$$
#
# **Predict**: how much of $\lVert h_w - h_l\rVert^2$ is length? And of $\lVert u_w - u_l\rVert^2$?

# %%
for name, states in (("u", u), ("h", h)):
    w, l = states[0::2], states[1::2]  # (16, 576): chosen, rejected
    a, b = w.norm(dim=-1), l.norm(dim=-1)
    turned = 2 * a * b * (1 - torch.cosine_similarity(w, l))
    whole = (w - l).square().sum(-1)
    torch.testing.assert_close((a - b) ** 2 + turned, whole, rtol=1e-3, atol=1e-2)
    print(f"|{name}_w - {name}_l|^2: {norm_share(w, l):.1%} length, the rest angle")
print(f"with chosen h 30% longer: {norm_share(1.3 * w, l):.1%} length")
assert norm_share(1.3 * w, l) > 0.3, "longer chosen states must show as length"

# %% [markdown]
# <details><summary>Answer</summary>
#
# About 1% of $h$'s, 4% of $u$'s. (Section 5 looks again, after training.)
# </details>
#
# So on these pairs $\lVert h_w - h_l\rVert$ measures almost only **direction**. The paper's models
# end in an RMSNorm, too; we have not measured them.

# %% [markdown]
# ## 3. The training loop
#
# Draw a random batch, cut it into **micro-batches** that fit in memory, add up their gradients,
# **clip** the sum to length 1, take an Adam step. Bradley-Terry is a mean over pairs: micro-batches
# weighted by their part of the pairs give the batch's gradient.

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
# It is the loop of `python -m bsr_lite.train_rm`: a two-layer model in fp32 has the same losses
# with either.

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
        difference = m["difference_after"]["mean"]  # of h: after the final RMSNorm
        live.append([step, head, difference, m["margin"] / (head * difference), m["margin"]])

# %%
losses = train_bt(model, pairs, config, watch)
print("loss by step", [round(x, 2) for x in losses])
pd.DataFrame(live, columns=["step", "|W_p|", "mean |h_w - h_l|", "cosine", "mean margin"]).round(4)

# %% [markdown]
# Head, difference and cosine multiply to the mean margin (Eq. 23 for averages). So this *cosine* is
# the mean of $\cos\psi_\Delta$, weighted by $\lVert h_w - h_l\rVert$; $\psi_\Delta$ lies between
# $W_p$ and $h_w - h_l$ and is not the $\theta$ of Section 2, between $h_w$ and $h_l$. One seed and
# 12 pairs show the mechanics, not a result.

# %% [markdown]
# ## 5. Four recorded runs: which factor grows? (Fig. 1, Fig. 2)
#
# `data/runs/study_norms`: the same config on 512 pairs (32 steps of 16), four seeds. A seed changes
# the random head and the order of the batches, nothing else: same model, same pairs, same 32
# prompts in each watched set. So intervals below (95%) are about *another head and order*, not
# about other prompts.

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
# 3. Does the effective rank (Section 7) of training states fall *more* than that of new prompts?
#
# All other numbers are for exploring: among twenty intervals one misses by chance.
#
# **Predict**: $W_p$ starts at random and hardly moves. Which of the two other factors must move
# first? Which way does the paper expect the difference to go?

# %%
# in the records' keys "_before" and "_after" mean the final RMSNorm: of u and of h, not of training
CV, RANK, LENGTH = ("norm_after", "cv"), ("effective_rank_after",), ("difference_after", "mean")
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
figure, axes = plots.panels(3)
difference, margin = curves("train", "difference_after", "mean"), curves("train", "margin")
for axis, values in zip(axes, (margin, difference, margin / (heads * difference)), strict=True):
    axis.axvline(16, color="grey", linewidth=0.8, linestyle=":")
    for seed, (mark, tint) in enumerate(MARKS.items()):
        axis.plot(steps, values[seed], mark + "-", color=tint, markersize=4, label=f"seed {seed}")
plots.label(axes[0], "optimizer step", "mean margin", "margin: most of it by step 16")
plots.label(axes[1], "optimizer step", "mean $|h_w - h_l|$", "differences: end shorter in all four")
plots.label(axes[2], "optimizer step", "cosine", "cosine: shaped like the margin")
axes[0].text(16.5, -0.08, "half of the run", fontsize=8, color="grey")
figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=4)
figure.suptitle("Training pairs: the cosine to the head makes the margin, differences shrink");

# %%
moved, bound = (heads - heads[:, :1]).abs().max(), 0.5 * 2e-5 * 32 * H**0.5
print(f"the length |W_p| changes by {moved:.4f} at most; the vector can move by about {bound:.4f}")
FACTORS = {"margin": ("margin",), "mean |h_w - h_l|": ("difference_after", "mean"),
           "mean |h|": ("norm_after", "mean")}
rows = {}
for name, keys in FACTORS.items():
    x = curves("train", *keys)
    for since, until in ((0, 16), (16, 32)):
        late = x[:, steps.index(until)] - x[:, steps.index(since)]  # (seeds,)
        rows[f"{name}, step {since} to {until}"] = [
            *late.tolist(), "{:+.2f} ± {:.2f}".format(*seed_interval(late))]
pd.DataFrame.from_dict(rows, orient="index", columns=[
    *(f"seed {seed}" for seed in range(4)), "change, 95%"]).round(2)

# %%
rows = {}
for part, name in SETS.items():
    cells = []
    for keys in (LENGTH, ("margin",)):
        values = change(part, *keys)  # (seeds,)
        cells += ["{:+.1f} to {:+.1f}".format(*values.aminmax()),
                  "{:+.2f} ± {:.2f}".format(*seed_interval(values))]
    rows[name.replace("\n", " ")] = cells
pd.DataFrame.from_dict(rows, orient="index", columns=[
    "|h_w - h_l|, change, four seeds", "95%", "margin, change, four seeds", "95% "])

# %% [markdown]
# **What to see.** *Head*: its length stays, as the learning rate forces it to (the vector's bound:
# half the rate, as it decays, times steps, times $\sqrt{H}$). *Difference*: in all four seeds it
# ends **shorter**, on all five sets, the opposite of the paper's Fig. 2. On training pairs $\lVert
# h\rVert$, of 46, changes far less in proportion, so $\theta$ **closes** there. *Cosine*: the
# margin is made here, on new prompts and sources, too.
#
# (Training margins point to the noisy label, the others to gold: compare them with zero, not with
# each other.)

# %% [markdown]
# Could the difference take over later, once the cosine has risen? In the second half (after step
# 16, our choice) that is undecided (-0.37 ± 1.81).
#
# <details><summary>Answer</summary>
#
# The cosine. The head is random, so the cosine starts near 0, and no other factor can lift a
# product off 0. The paper expects the difference to rise.
# </details>

# %% [markdown]
# **Spread and tail.** From here on a figure shows the two ends: a grey bar for the start, which all
# seeds share, and a mark a seed for step 32. A colour is still a seed.
#
# **Predict**: differences got shorter on average. Does their spread fall with them? Does their
# right tail (skewness)?

# %%
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
        ("spread: mostly down", "right tail: either way", "length: at most 2.5%"), strict=True):
    draw_ends(axis, *keys, floor=0)
    plots.label(axis, "", name, title)
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
figure.suptitle("Differences do not spread in general, and they still measure direction");

# %% [markdown]
# **What to see.** *Spread*: falls in every seed on training pairs (just undecided: Section 8), on
# new prompts and where both are new, in domain in three. On answers of new sources it rises in
# three of four. *Tail*: there before training; it moves either way. *Length*: at the end a share of
# 0.03% to 2.5%. So $\lVert h_w - h_l\rVert$ measures direction after training as well.

# %%
raw = {name.replace("\n", " "): curves(part, "norm_share_before") for part, name in SETS.items()}
pd.DataFrame({name: [f"{y:.1%}" for y in (x[0, 0], *x[:, -1])] for name, x in raw.items()},
             ["before training", *(f"seed {seed}, end" for seed in range(4))])

# %% [markdown]
# This is the share of length in $\lVert u_w - u_l\rVert^2$. In seed 0 the raw states of a pair come
# to differ in length, too (10 to 16%), while in $h$ the share is below 2% (figure above): here
# RMSNorm removes a difference that is really there. In the other seeds there is less to remove (2
# to 11%).

# %% [markdown]
# ## 6. Do lengths scatter on new data? (Fig. 3)
#
# The second reading: the cv of lengths, of $h$, which the head sees, and of $u$, which it does not
# (over all answers of a set). The paper's claim is about *new* data. So the third panel shows, seed
# by seed, the change on a set **minus** the change on training pairs. Above zero, lengths there
# came to scatter more, or lost less scatter, than on training pairs.
#
# **Predict**: five sets, four seeds. Do marks of one *set* lie together, or marks of one *seed*?

# %%
def draw_changes(axis, changes):
    axis.axhline(0, color="grey", linewidth=0.8)
    for place, values in enumerate(changes.values()):  # (seeds,)
        mean, half = seed_interval(values)
        axis.errorbar(place - 0.12, mean, half, fmt="_", color="black", capsize=4, markersize=10)
        for seed, (mark, tint) in enumerate(MARKS.items()):
            axis.plot(place + 0.1 * (1 + seed), values[seed], mark, color=tint, markersize=5)
    axis.set_xticks(range(len(changes)), changes, fontsize=7.5)
    axis.set_xlim(-0.5, len(changes) - 0.4)

# %%
def gaps(*keys):  # the change of a set minus that of training pairs
    return {name: change(part, *keys) - change("train", *keys)
            for part, name in list(SETS.items())[1:]}

# %%
figure, axes = plots.panels(3)
draw_ends(axes[0], "norm_after", "cv", floor=0)
draw_ends(axes[1], "norm_before", "cv", floor=0)
draw_changes(axes[2], gaps("norm_after", "cv"))
plots.label(axes[0], "", "cv of $|h|$", "$h$: depends on the seed")
plots.label(axes[1], "", "cv of $|u|$", "$u$: two up, two mostly down")
plots.label(axes[2], "", "change of cv of $|h|$ minus train's", "minus train: two sets up")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
figure.suptitle("Whether lengths scatter depends on the seed; two sets differ from training");

# %% [markdown]
# **What to see.** $h$: lengths become nearly equal in seeds 2 and 3 and scatter more in seed 1.
# $u$: they scatter more in seeds 0 and 1; in 2 and 3 they do not.
#
# *Minus train*, in-domain stands at 0.010, new prompts at 0.004. The set most like training is
# first: not the paper's order. With new sources nothing is decided.
#
# <details><summary>Answer</summary>
#
# Marks of one seed, on the whole. A single run would have told a clear story, another the opposite.
# </details>
#
# How sharp is that? Section 1's world without RMSNorm is the control. **Predict**: do lengths there
# scatter *more* on new answers than on training pairs?

# %%
def scatter(part):  # change of the small world's cv
    x = course(seen["no RMSNorm"], "norm_cv" if part == "train" else f"norm_cv, {part}")
    return x[:, -1] - x[:, 0]  # (8 seeds,)

# %%
rows = {}
for part, name in SETS.items():
    start, gap = curves(part, *CV)[0, 0].item(), change(part, *CV) - change("train", *CV)
    rows[name.replace("\n", " ")] = [
        *("{:+.3f} ± {:.3f}".format(*seed_interval(x)) if x.any() else "" for x in (
            scatter(part), scatter(part) - scatter("train"), gap)),
        f"{start:.3f}", f"{sum(seed_interval(gap)) / start:.0%}" if gap.any() else ""]
pd.DataFrame(rows, ["small world: change", "small world: minus train's",
                    "language model: minus train's", "language model: cv before training",
                    "upper end of minus train's, of this cv"])

# %% [markdown]
# **What to see.** On the last three sets the upper ends, 0.005 to 0.006, are 20 to 28% of the cv
# before training. A larger excess is excluded for these pairs. But the gap is no test of
# dispersion by itself: in the small world the cv rises on new answers, too, but no interval of
# minus train's lies above zero.

# %% [markdown]
# ## 7. Do training states lose directions? (Table 1)
#
# How many directions do hidden states use? With singular values $s_k$ of the matrix of $N$
# states, $p_k = s_k / \sum_j s_j$, the **effective rank** is $\exp(-\sum_k p_k \ln p_k)$: $n$ if
# $n$ directions are used equally, 1 if all states are parallel.
#
# The states' mean is large, and one may subtract it first. Below, every state moves 30% of its way
# towards the mean: no direction is lost.
#
# **Predict**: what does that do to either kind of rank?

# %%
p = torch.linalg.svdvals(h.double())
p = p / p.sum()
torch.testing.assert_close((-(p * p.log()).sum()).exp().item(), effective_rank(h))
squeezed = h.mean(0) + 0.7 * (h - h.mean(0))  # same mean, deviations 30% smaller
assert effective_rank(squeezed) < effective_rank(h) - 1, "smaller deviations must cost rank"
pd.DataFrame({kind: [effective_rank(x, center=center) for x in (h, squeezed)]
              for kind, center in (("as they are", False), ("mean subtracted", True))},
             index=["32 states of Section 2", "deviations x 0.7"]).round(1)

# %% [markdown]
# <details><summary>Answer</summary>
#
# As they are, rank falls, without a direction lost. With the mean subtracted it stays.
# </details>
#
# Now the recorded runs, 64 states in every set.
#
# **Predict**: $\lVert h_w - h_l\rVert$ got shorter. Does rank rise or fall? The paper has training
# states below new data's: do they lose more?

# %%
CENTERED, ASKED = ("effective_rank_centered_after",), "new\nprompts"
figure, axes = plots.panels(3, width_ratios=(3, 2, 2))
draw_ends(axes[0], *RANK)
for axis, keys in zip(axes[1:], (RANK, CENTERED), strict=True):
    draw_changes(axis, {"new prompts": gaps(*keys)[ASKED]})
plots.label(axes[0], "", "effective rank", "as they are: every set loses")
plots.label(axes[1], "", "change of rank minus train's", "as they are: all below 0")
plots.label(axes[2], "", "", "mean subtracted: mixed")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
figure.suptitle("Plain rank falls everywhere; training is not seen to fall behind new prompts");

# %%
rows = {}
for kind, keys in (("as they are", RANK), ("mean subtracted", CENTERED)):
    apart = gaps(*keys)
    for name, values in (("train, change", change("train", *keys)), *(
            (f"{part} minus train", apart[part]) for part in (ASKED, "new\nsources", "both\nnew"))):
        rows[f"{name}, {kind}".replace("\n", " ")] = [
            *(f"{x:+.2f}" for x in values.tolist()),
            "{:+.2f} ± {:.2f}".format(*seed_interval(values))]
pd.DataFrame.from_dict(rows, orient="index", columns=[
    *(f"seed {seed}" for seed in range(4)), "95%"])

# %% [markdown]
# **What to see.** *As they are*: all sets lose rank in every seed, training pairs 1.3 to 4.7 of 19.
# New prompts, the comparison asked for, lose a little more in all four: **against** the paper, just
# undecided. New sources, not asked for, lose less, undecided.
#
# *Mean subtracted* (of 41): training pairs lose 2.4 and 2.2 in seeds 0 and 1, **gain** 1.2 and 1.0
# in 2 and 3. So there plain rank fell without directions lost, as in the table before. New prompts
# minus train: either sign. Both new minus train: the paper's sign in all four seeds, undecided, not
# asked for.
#
# <details><summary>Answer</summary>
#
# It falls. Shorter differences are smaller deviations within a prompt.
# </details>

# %% [markdown]
# ## 8. What holds here?
#
# The three questions; under them, in brackets, what was not asked beforehand. The variance of
# rewards splits into the mean variance *within* a prompt and the variance of prompt means,
# *between* prompts. Bradley-Terry cannot see the second: it is notebook 01's $c(x)$.

# %%
rows = {}
for name, expected, values in (
        ("1 mean |h_w - h_l|, train", "+", change("train", *LENGTH)),
        ("2 cv of |h|, new prompts", "+", change("prompt_disjoint", *CV)),
        ("(2 minus train's)", "+", gaps(*CV)["new\nprompts"]),
        ("3 rank, new prompts minus train", "+", gaps(*RANK)[ASKED]),
        ("(3 with mean subtracted)", "+", gaps(*CENTERED)[ASKED]),
        ("(the same, both new minus train)", "+", gaps(*CENTERED)["both\nnew"]),
        ("(mean margin, train)", "+", change("train", "margin")),
        ("(std of |h_w - h_l|, train)", "+", change("train", "difference_after", "std"))):
    d = 3 if "cv" in name or "(2" in name else 2
    rows[name] = [expected, *(f"{x:+.{d}f}" for x in values.tolist()),
                  "{:+.{d}f} ± {:.{d}f}".format(*seed_interval(values), d=d)]
pd.DataFrame.from_dict(rows, orient="index", columns=[
    "paper expects", *(f"seed {seed}" for seed in range(4)), "change, 95%"])

# %%
pd.DataFrame({name.replace("\n", " "): [
    "{:+.2f} ± {:.2f}".format(*seed_interval(change(part, key)))
    for key in ("within_prompts", "between_prompts")] for part, name in SETS.items()},
    [f"variance of rewards {which} prompts, change" for which in ("within", "between")])

# %% [markdown]
# **The verdict**, for this model, 32 steps, four seeds:
# 1. *Differences* on training pairs get shorter in every seed, by 8 to 19%: not the paper's rise.
# 2. *Lengths* on new prompts: undecided. Minus train: cv rises more, or falls less, in domain and
#    on new prompts, the sets *most like* training. No support for Fig. 3.
# 3. *Rank*: new prompts lose more, by 0.03 to 0.20, just undecided. With the mean subtracted rank
#    falls in two seeds, rises in two; question 3 has either sign.
#
# The still head reproduces (Fig. 1), as it had to. What grows is the margin, and the variance of
# rewards: within prompts on all sets, *between* prompts on four of five (both new: undecided).

# %%
order, margin = curves("train", "score"), curves("train", "margin")
pd.DataFrame({
    "largest loss": [max(row.get("train/loss", 0) for row in run["metrics"]) for run in bt],
    "training pairs in labelled order, before": order[:, 0], "at the end": order[:, -1],
    "mean margin, before": margin[:, 0], "at the end ": margin[:, -1]},
    index=[f"seed {run['seed']}" for run in bt]).round(2)

# %% [markdown]
# **How far does this reach?** A model of 135M, 512 noisy pairs and 32 steps is not 8B and 600.
# Every pair is seen once, so a gap to new data has little cause to open. Of 32 watched pairs 62 to
# 69% end in labelled order. (Seed 1 had 72% before, by luck of its head.) Their margin ends at 0.3
# to 0.5. The pressure that the paper blames, ever larger margins on pairs already in order, may not
# have had its time: *not reproduced here*, not *refuted*.

# %% [markdown]
# Why seeds part into {0, 1} and {2, 3} we do not know: seed 2 has a loss above 1, seed 3 has none.
# Nor do we know that Bradley-Terry *causes* what we saw: shuffled labels would tell. Section 2's
# bound on $\lVert h\rVert$ is far from binding: the mean length moved by less than 4 from 46, in
# [21, 80]. (For margins: Exercise 4.)

# %% [markdown]
# ## Exercises
#
# A fold holds the first hint; a wrong answer gets a second one from its checker. Solutions are in
# `notebooks/solutions/`.
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
# three numbers. Each depends on its own factor alone and is about 0.01 where that grows by 1%.
# Their sum depends on the two margins alone. Then run the cell below it: in which seeds does the
# cosine do more than the difference?
#
# <details><summary>Hint</summary>
#
# Try `late / early - 1` where two factors double. Does the sum tell that the margin is fourfold,
# and the same where one factor is fourfold?
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
# **3.** *Judge a record.* Suppose that the sign of a change is a coin toss in each of `seeds`
# seeds. Of so many independent `quantities`, how many do you expect to have one sign in all seeds?
# Then run the cell below it: + and - mark changes *minus training's* with one sign in all four
# seeds. Are there more than chance gives? Which go against the paper? (Read it as +, more on new
# data, in every row. For which rows is that its own claim, for which our reading?) Would they hold
# for other prompts?
#
# <details><summary>Hint</summary>
#
# With two seeds, how often do two coins agree? For the last question: what do the four seeds share
# (Section 5)?
# </details>

# %%
def agree_by_chance(seeds, quantities):
    return None


checks.check_agree_by_chance(agree_by_chance);

# %%
KINDS = {"mean |h_w - h_l|": LENGTH, "std |h_w - h_l|": ("difference_after", "std"), "cv |h|": CV,
         "cv |u|": ("norm_before", "cv"), "rank": RANK, "rank, mean subtracted": CENTERED}
signs = torch.tensor([[gap.sign().sum().item() for gap in gaps(*keys).values()]
                      for keys in KINDS.values()])  # 4 or -4: all seeds agree
print((signs.abs() == 4).sum().item(), "of", signs.numel(), "agree; by chance:",
      agree_by_chance(4, signs.numel()))
pd.DataFrame([["+" if x == 4 else "-" if x == -4 else "" for x in row] for row in signs.tolist()],
             list(KINDS), [name.replace("\n", " ") for name in list(SETS.values())[1:]])

# %% [markdown]
# **4.** For given gain and head, both (H,): what is the largest **margin** that any two raw states
# can have? (A ceiling. How far below it are the margins of Section 5?)
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
# 3. Differences get shorter, the head stays, and margins grow. How?
# 4. Effective rank falls. Has the model lost directions?
# 5. Four of four seeds agree, on the same prompts. What is still open?
# 6. In Section 3's loop, leave out `* len(places) / len(batch)`. 16 pairs are cut into 10 and 6.
#    What is the gradient now? Does clipping hide the mistake?

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1. Whether it is $u$ or $h$: the head never sees the length of $u$.
# 2. The first: the two states of a pair can turn apart. Lengths are one constant.
# 3. Differences turn towards the head: the cosine grows more than the length falls.
# 4. Not for that reason: states may have moved towards their mean. Subtract it and look again.
# 5. Whether it is these prompts' doing.
# 6. The sum of two means: weights 1/10 and 1/6 in place of 1/16, so short micro-batches count too
#    much. Clipping fixes the length at most; the weights change the direction.
# </details>

# %% [markdown]
# ## What to watch, what to vary
#
# | In your run, watch | Seen here (four seeds) | If not, or next, vary |
# |---|---|---|
# | largest loss | 0.83 to 0.89, once 1.24 | above 1: what follows? A lower rate, a longer warm-up |
# | mean margin, training pairs | from 0 to between 0.3 and 0.5 | no rise: labels, then the rate |
# | cv of $\lVert h\rVert$ | 0.004 to 0.037 | far above start: no last RMSNorm? Far below: open |
# | mean $\lVert h_w - h_l\rVert$ | 8 to 19% shorter | longer: length or angle? More steps, seeds |

# %% [markdown]
# ## What you know now
#
# - RMSNorm forgets the length of the raw state; $\lVert h\rVert$ stays within its gains. What can
#   still change is the angle $\theta$: it opened in the small world, with RMSNorm, and closed in
#   the language model.
# - A margin is head times difference times cosine. Here the cosine to the head makes it.
#
# **With a final RMSNorm the head never sees how long the raw state is: before you say that norms
# disperse, ask which norm, and whether it is length at all or direction.**
#
# Next: **03 · What happens when the rewards of a batch must sum to zero?**
