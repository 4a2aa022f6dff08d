# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 05 · How does an 8B reward model fit on one small GPU?
#
# Training every weight of an 8B reward model takes 120 GB before the first token is read. A small
# card has 16. Three tricks close the gap:
# - thin matrices, *adapters*, are trained beside a frozen base;
# - the base is held in 4 bits (with adapters: **QLoRA**, Dettmers et al. 2023);
# - most of what the layers compute is thrown away, and computed again when needed.

# %% [markdown]
# After it you can
# - predict a run's memory, and say which trick shrinks which part of it;
# - round a matrix to 4 bits and back, and say what a weight then costs;
# - save and merge a trained model without changing its rewards.
#
# **No 8B model was trained for this page.** Its bytes are counted (Section 4).

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
import functools
import io
import json
import tempfile

import torch
from IPython.display import Markdown

from bsr_lite import plots
from bsr_lite.config import load_config
from bsr_lite.course import checks
from bsr_lite.embedded import quiet_loading
from bsr_lite.models import load_reward_model
from bsr_lite.studies import tables

torch.manual_seed(0)
CONFIG = "bsr_lite/configs/rm_qlora_fast_{}.yaml"

# %% [markdown]
# ## 1. What one weight costs
#
# A weight that is trained in 32 bits brings three more numbers of 4 bytes: its **gradient**, and
# two running averages that the **optimizer** AdamW keeps. A **frozen** weight is only read.

# %%
WEIGHTS = 7.505e9  # Llama-3.1-8B as a reward model: its word scores replaced by one reward head
KINDS = (("trained", "weight, gradient, two averages, 32 bits each", 16),
         ("frozen", "weight, 16 bits", 2), ("frozen", "weight, 4 bits", 0.5))
Markdown(tables.table(["a weight that is", "holds", "bytes", "8B, GB"], [
    [kind, what, f"{size:g}", f"{WEIGHTS * size / 1e9:.1f}"] for kind, what, size in KINDS]))

# %% [markdown]
# ## 2. Four bits a weight
#
# So the base is frozen and held in 4 bits. Four bits name one of 16 values. Which 16? Trained
# weights look Gaussian. So **NF4** (4-bit NormalFloat) takes quantiles of a normal distribution: 8
# positive ones, 7 negative ones, and 0.
#
# Weights are rounded in **blocks** of 64. A block is divided by its largest absolute value, its
# *absmax*, so it lies in $[-1, 1]$. Of each weight its **code** is kept: the number of the nearest
# value.

# %%
normal = torch.distributions.Normal(0.0, 1.0)
# TAIL is the probability of the outermost quantile: 1 minus half a step. A step of probability is
# 1/16 for 16 values and 1/15 for 15; bitsandbytes takes the mean of both.
TAIL = 1 - (1 / 32 + 1 / 30) / 2


def half(count):  # quantiles from the tail to just above the median
    return normal.icdf(torch.linspace(TAIL, 0.5, count + 1, dtype=torch.float64)[:-1])


nf4 = torch.cat([half(8), torch.zeros(1), -half(7)]).sort().values
nf4 = (nf4 / nf4.max()).float()  # (16,)
print([round(x, 2) for x in nf4.tolist()])

# %%
def quantize(weight, values, block=64):
    blocks = weight.reshape(-1, block)
    absmax = blocks.abs().amax(1, keepdim=True)  # (blocks, 1)
    midpoints = (values[1:] + values[:-1]) / 2  # between two of them lies the nearest value's range
    codes = torch.bucketize(blocks / absmax, midpoints)  # 0..15
    return codes, absmax


def dequantize(codes, absmax, values):
    return values[codes] * absmax


with contextlib.redirect_stdout(io.StringIO()):
    base = load_reward_model("smollm2-135m-instruct", depth=5, dtype="float32")
W = base.backbone.layers[4].mlp.up_proj.weight.detach().cpu()  # (1536, 576)
codes, absmax = quantize(W, nf4)
W4 = dequantize(codes, absmax, nf4).view_as(W)

# %% [markdown]
# Does bitsandbytes, the usual library, do the same? It packs two codes into a byte.

# %%
import bitsandbytes.functional as bnb

packed, state = bnb.quantize_4bit(W, blocksize=64, quant_type="nf4")
torch.testing.assert_close(state.code, nf4, rtol=0, atol=1e-6)  # the same 16 values
torch.testing.assert_close(bnb.dequantize_4bit(packed, state), W4, rtol=0, atol=1e-6)
print("by hand and by bitsandbytes the same;", tuple(packed.shape), packed.dtype)

# %% [markdown]
# **Predict**: 16 values evenly spaced over $[-1, 1]$ instead of NF4's. Is the error larger or
# smaller? Does it matter how many weights share an absmax?

# %%
def error(weight, values, block):  # percent of the weights' standard deviation
    rounded = dequantize(*quantize(weight, values, block), values).view_as(weight)
    return 100 * ((rounded - weight).std() / weight.std()).item()


even, gauss = torch.linspace(-1, 1, 16), torch.randn(128, 4096)
print(f"blocks of 64: NF4 {error(W, nf4, 64):.1f}%, even {error(W, even, 64):.1f}%")
for b in (64, 4096):
    print(f"absmax of {b:4d} Gaussian numbers: {gauss.view(-1, b).abs().amax(1).mean():.1f} std")

# %%
# drawing only
blocks = [b for b in (16, 64, 256, 1024, 4096) if b <= W.numel()]
figure, (left, right) = plots.panels(2)
left.hist((W.reshape(-1, 64) / absmax).flatten(), bins=121, color="#BBBBBB")
for name, place, tint, height in (("NF4", nf4, "#4477AA", -900), ("even", even, "black", -2200)):
    left.plot(place, torch.full((16,), height), "|", color=tint, markersize=9)
    left.text(-1.08, height, name, color=tint, ha="right", va="center", fontsize=8)
    right.plot(blocks, [error(W, place, b) for b in blocks], "o-", color=tint, markersize=4)
    right.plot(blocks, [error(gauss, place, b) for b in blocks], ":", color=tint)
    right.text(4700, error(W, place, blocks[-1]), name, color=tint, va="center")
left.annotate("the largest of\neach block", (1, 8200), (0.62, 12500), fontsize=8, ha="left",
              arrowprops={"arrowstyle": "-", "color": "#888888"})
plots.label(left, "weight / absmax of its block", "number of weights",
            "NF4 puts its values where the weights are")
plots.label(right, "weights in a block", "rms error, % of the weights' std",
            "NF4's lead over even values grows with the block")
left.set(xlim=(-1.3, 1.1), yticks=(0, 5000, 10000, 15000))
right.set(xscale="log", xlim=(13, 9000), ylim=(0, None))
right.set_xticks(blocks, blocks)
right.annotate("dotted: Gaussian numbers", (1024, error(gauss, nf4, 1024)), (1024, 7.2), fontsize=8,
               ha="center", arrowprops={"arrowstyle": "-", "color": "#4477AA"});

# %% [markdown]
# <details><summary>Answer</summary>
#
# It is larger: at 64 by a tenth, at 4,096 by more than a third. The larger the block, the farther
# out its absmax, and the more even values are wasted on a thin tail.
# </details>
#
# **What to see.** Right, even values keep up only in blocks of 16.
#
# The bumps on the left: our model's file is in a 4-bit format of evenly spaced values (Q4_1). So
# Section 6's "original" was rounded, too.

# %% [markdown]
# **The bill.** A code takes 4 bits. A 32-bit absmax for 64 weights adds half a bit. *Double
# quantization* shrinks that: each absmax is stored in 8 bits, and 256 of them share a 32-bit scale.
# In all $4 + \frac{8}{64} + \frac{32}{64 \cdot 256} = 4.127$ bits.
#
# This saves memory, not work: for each product the matrix is made again from its codes, then
# dropped.

# %%
packed, state = bnb.quantize_4bit(W, blocksize=64, quant_type="nf4", compress_statistics=True)
stored = packed.nbytes + state.absmax.nbytes  # codes, 8-bit absmax
stored += state.state2.absmax.nbytes  # the scales of the absmax
print(f"{8 * stored / W.numel():.3f} bits a weight")
assert abs(8 * stored / W.numel() - 4.127) < 1e-3, "the bill must add up"

# %% [markdown]
# ## 3. What learns: an adapter
#
# Training steps are easily lost on 4-bit weights (Section 6). **LoRA** (Hu et al. 2021) leaves the
# matrix as it is, here the rounded $W_4$. Beside it two thin matrices $A$ and $B$ are trained, an
# **adapter**. With $h$ the hidden state that enters:
#
# $$y = W_4 h + \frac{\alpha}{k}\, B A\, h.$$
#
# $A$ has $k$ rows and $B$ has $k$ columns, so the rank of $BA$ is at most $k$. $\alpha$ is a
# constant. $A$ starts random, $B$ at **zero**. So training begins at the *rounded* model.
#
# **Predict** the gradients of $A$ and of $B$ at the very first step.

# %%
rank, alpha = 16, 32
outputs, inputs = W.shape
A = (torch.randn(rank, inputs) / inputs**0.5).requires_grad_()
B = torch.zeros(outputs, rank, requires_grad=True)
h = torch.randn(8, inputs)  # a hidden state a row
y = h @ W4.T + alpha / rank * (h @ A.T) @ B.T  # (8, outputs)
assert torch.equal(y, h @ W4.T), "with B = 0 the adapter must not change anything"
y.square().mean().backward()
print(f"|gradient of A| {A.grad.norm():.2f}, |gradient of B| {B.grad.norm():.2f}; "
      f"size: {(A.numel() + B.numel()) / W.numel():.1%} of the matrix's")
assert A.grad.norm() == 0 and B.grad.norm() > 0, "A's gradient passes through B"

# %% [markdown]
# <details><summary>Answer</summary>
#
# $A$'s gradient is zero: it passes through $B$, which is zero.
# </details>
#
# Every linear matrix of every layer gets an adapter, of rank 16. In the 8B model these
# are 42 million numbers. The reward head $W_p$ (Eq. 2) is new, so it is trained as a whole.
#
# **Merging** folds the adapter into one matrix, $W' = W_4 + \frac{\alpha}{k} B A$, which gives the
# same outputs. But $W'$ does not lie on the 16 values. So it takes at least 16 bits a weight again,
# 15.0 GB for 8B. For 4 bits it must be rounded again.

# %% [markdown]
# ## 4. What the batch costs: activations
#
# A batch adds **activations**: what each layer computed, kept for the backward pass. **Gradient
# checkpointing** keeps only what enters each layer, and computes the rest again in the backward
# pass. The price is time: one more forward pass.
#
# `bsr_lite.scale.estimate` takes a training step on *fake* tensors, which have shapes but no
# memory, and counts the bytes that live at once.
#
# **Predict** for four layers of our small model, in 32 bits, and 1,024 tokens: which is larger,
# base or activations? Which of the two do 4 bits shrink?

# %%
# two settings that differ from the file's: no 4 bits; gradient checkpointing
PLAIN, AGAIN = "model.quantization=null", "model.gradient_checkpointing=true"

# %%
from bsr_lite.scale.estimate import estimate, measure

rows = []
for name, changes in {"LoRA": [PLAIN], "QLoRA": [], "QLoRA, checkpointing": [AGAIN]}.items():
    config = load_config(CONFIG.format("bt"), overrides=[
        "model.depth=4", "token_budget=1024", *changes])  # of the file's 10: faster
    with contextlib.redirect_stdout(io.StringIO()):
        parts, real = estimate(config), measure(config)
    rows.append([name, *(f"{x / 1e6:.0f}" for x in (parts["base"], parts["activations"], real))])
    if not torch.cuda.is_available():  # a GPU's allocator rounds up: look, do not assert
        assert abs(parts["activations"] / real - 1) < 0.02, "the estimate must hold within 2%"
Markdown(tables.table(["4 layers, 1,024 tokens; MB", "base", "activations, estimated",
                       "activations, same counter on real tensors"], rows))

# %% [markdown]
# <details><summary>Answer</summary>
#
# Activations are larger, until checkpointing shrinks them. Here 4 bits shrink only the base, by
# less than half: embeddings are not rounded.
# </details>
#
# **A rule.** Say each layer keeps *one* vector a token, as wide as a hidden state. Here these are
# $4 \cdot 1024 \cdot 576$ numbers of 4 bytes, 9.4 MB. LoRA's 191 MB are 20 times as much, so about
# 20 vectors. Checkpointing keeps one, and all 20 only in the layer that is computed again.

# %% [markdown]
# **How far to trust the count.** Both columns of activations come from one counter, and would share
# its errors. On an H100 our small model's activations took at most 1.6% more than counted
# (`data/runs/gpu_nvidia-h100-80gb-hbm3/summary.md`). CUDA itself took .2 GB more than we assume.
# Neither an 8B model nor checkpointing was tried there.

# %% [markdown]
# Now Llama-3.1-8B: 32 layers, hidden states of 4,096 numbers, in 16 bits. The card holds one
# **pair** at a time (03).
#
# A prompt with *one* answer may have 2,048 tokens. A quarter of them is the prompt's. A pair is one
# prompt and two answers, so it has $512 + 2 \cdot 1536 = 3584$ tokens. At 512 tokens, the figure's
# right half, it has $128 + 2 \cdot 384 = 896$.
#
# **Predict** for 2,048 tokens, by the rule: which saves more of LoRA's memory, 4 bits or
# checkpointing? Which does a 24 GB card need, which a 16 GB card?

# %%
WAYS = {"full": ["model.lora_rank=null", PLAIN], "LoRA": [PLAIN],
        "LoRA,\ncheckpointing": [PLAIN, AGAIN], "QLoRA": [], "QLoRA,\ncheckpointing": [AGAIN]}
BIG = "model.name=meta-llama/Llama-3.1-8B-Instruct"  # its shapes alone


# %% [markdown]
# From the third layer on, often from the second, each layer adds the same number of bytes. So two
# depths are counted, and a straight line leads to 32 layers. (Once all 32 were counted, with the
# same digits: `data/runs/LOG.md`.)

# %%
@functools.cache  # nothing is counted twice
def counted(length, way, layers):
    return estimate(load_config(CONFIG.format("bt"), overrides=[
        BIG, f"model.depth={layers}", f"data.max_length={length}", f"token_budget={2 * length}",
        *WAYS[way]]), card="4060ti")


def on_a_line(length, way, layers=32):
    first = 2 if way in ("full", "LoRA") else 1  # the smallest depth on the line
    less, more = counted(length, way, first), counted(length, way, first + 1)
    return {part: less[part] + (layers - first) * (more[part] - less[part]) for part in less}


# %%
bill = {}
for length in (2048, 512):
    for way in WAYS:
        if (length, way) == (512, "full"):
            continue  # no small card holds its weights
        parts = on_a_line(length, way)
        parts["trained"] = sum(parts[p] for p in ("adapters", "gradients", "optimizer"))
        bill[length, way] = {p: parts[p] / 1e9 for p in (
            "base", "trained", "activations", "context", "total")}  # context: CUDA's own, assumed
full, lora = bill[2048, "full"], bill[2048, "LoRA"]
print(f"full, 2,048 tokens: {full['total']:.0f} GB; weights, gradients and averages alone "
      f"{full['base'] + full['trained']:.0f}")
print(f"with adapters: gradients, averages and the adapters {lora['trained']:.1f} GB")

# %%
for way in ("full", "LoRA"):
    assert on_a_line(2048, way, 5) == counted(2048, way, 5), "five layers lie on the line"
assert abs(bill[2048, "full"]["base"] / (4 * WEIGHTS / 1e9) - 1) < 1e-3, "Section 1's weights"
fits = {limit: [way for way in WAYS if bill[2048, way]["total"] < limit] for limit in (16, 24)}
assert fits[16] == ["QLoRA,\ncheckpointing"], "at 2,048 tokens 16 GB takes all three tricks"
assert fits[24] == ["LoRA,\ncheckpointing", "QLoRA,\ncheckpointing"], "24 GB needs no 4 bits"

# %%
# drawing only
COLORS = {"base": "#BBBBBB", "trained": "#AA3377", "activations": "#4477AA", "context": "#CCBB44"}
NAMES = ("frozen base", "adapters, gradients, averages", "activations", "CUDA")
(figure, axes), some = plots.panels(2, sharey=True), list(WAYS)[1:]
for axis, length in zip(axes, (2048, 512), strict=True):
    bottom = torch.zeros(len(some))
    for (part, tint), name in zip(COLORS.items(), NAMES, strict=True):
        height = torch.tensor([bill[length, way][part] for way in some])
        axis.bar_label(axis.bar(some, height, 0.6, bottom=bottom, color=tint, label=name),
                       [f"{x:.1f}" if x > 1.8 else "" for x in height], label_type="center",
                       fontsize=8, color="white" if part == "activations" else "black")
        bottom += height
    for place, total in enumerate(bottom.tolist()):
        beside = 22 < total < 24  # above its bar it would stand over a card's line
        axis.text(place + 0.33 * beside, total - 1.1 if beside else total + 0.7, f"{total:.1f}",
                  ha="left" if beside else "center", fontsize=9, weight="bold")
    for limit in (16, 24):
        axis.axhline(limit, color="black", linewidth=0.8, linestyle="--", zorder=0)
        axis.text(3.45, limit + 0.4, f"{limit} GB card", fontsize=8, ha="right")
    axis.tick_params(axis="x", labelsize=8)
    axis.set_axisbelow(True)
axes[0].text(3.45, 40, f"full: {full['total']:.0f} GB, far off this axis", fontsize=9, ha="right")
plots.label(axes[0], "", "memory, counted (GB)",
            "2,048 tokens: a 16 GB card needs all three tricks")
plots.label(axes[1], "", "", "512 tokens: adapters and 4 bits suffice on 16 GB")
axes[1].legend(loc="upper right", fontsize=8, reverse=True);

# %% [markdown]
# <details><summary>Answer</summary>
#
# Checkpointing. By the rule a token has $20 \cdot 32$ vectors, with checkpointing $32 + 20$: 18.8
# and 1.5 GB. Counted are 25.5 and 2.2. The rule is too low, but right about which saves more. With
# adapters a 24 GB card needs only checkpointing. A 16 GB card needs all three tricks, or shorter
# answers.
#
# 4 bits save 14.3 GB, of which 10.3 are weights. The rest is activations. Beside a 16-bit layer
# PEFT, the library of adapters, copies an adapter's input to 32 bits. Beside a 4-bit layer it makes
# no copy.
# </details>

# %% [markdown]
# **What to see.** With 2,048 tokens most of LoRA's memory is activations, so checkpointing helps
# more. With 512 most is the base, so 4 bits do. The 4-bit base takes 4.7 GB, not Section 1's 3.8:
# embeddings stay in 16 bits, and each block has its absmax.

# %% [markdown]
# ## 5. Train, live
#
# Does a model with a rounded base learn? We cut our model to its first six layers, and train it for
# ten steps of eight pairs with BSR (Eq. 25, $\lambda = 10^{-3}$, one group a batch). A random head
# may rank well by luck, so the same prompts are scored before training, too (Kendall's tau).
#
# One seed, so a demonstration. Whether a rounded base learns *worse* is not tested.

# %%
import dataclasses

from bsr_lite.train_rm import train

RUNS = Path(tempfile.mkdtemp())
config = load_config(CONFIG.format("bsr"), overrides=[
    "model.depth=6", "data.max_pairs=80", "batch_size=8", "eval_every=100", "eval_groups=30",
    f"output_dir={RUNS / 'bsr'}"])

# %%
from bsr_lite.eval_rm import evaluate, score_answers
from bsr_lite.metrics import bootstrap_interval, clustered
from bsr_lite.train_rm import prepare

with contextlib.redirect_stdout(io.StringIO()):
    start, _, watched, _ = prepare(config, None)  # the head and adapters that training starts from
    bsr, _ = train(dataclasses.replace(config, eval_groups=2))
before, after = (evaluate(model.eval(), watched["dev"], token_budget=config.token_budget)
                 for model in (start, bsr))
assert before["prompt"] == after["prompt"], "a paired difference needs the same prompts"

# %% [markdown]
# **Predict**: where does a random head start? Do most prompts rank better after ten steps?

# %%
change = torch.tensor(after["per_prompt"]) - torch.tensor(before["per_prompt"])  # a number a prompt
mean, low, high = bootstrap_interval(clustered(change.tolist(), after["prompt"]))
worse, same, better = ((change.sign() == x).sum().item() for x in (-1, 0, 1))

# %%
# drawing only
figure, axes = plots.panels(2)
words = {"as before": "#888888", "better": "#0077BB", "worse": "#EE7733"}
tints = [list(words.values())[int(x)] for x in change.sign()]
apart = torch.linspace(-0.03, 0.03, len(change))  # equal lines, drawn beside one another
for taus, shift, tint in zip(zip(before["per_prompt"], after["per_prompt"], strict=True), apart,
                             tints, strict=True):
    axes[0].plot([0, 1], torch.tensor(taus) + shift, color=tint, linewidth=0.8, alpha=0.6)
MEAN = {"color": "black"}
axes[0].plot([before["score"], after["score"]], "o-", linewidth=2.5, **MEAN)
axes[0].text(1.04, after["score"], "mean", va="center", fontsize=8, **MEAN)
axes[0].set(xlim=(-0.1, 1.25), xticks=[0, 1], xticklabels=["untrained", "after ten steps"])
axes[1].scatter(range(len(change)), change.sort().values, 16, [tints[n] for n in change.argsort()])
axes[1].errorbar([len(change) + 3], [mean], [[mean - low], [high - mean]], fmt="D", **MEAN)
axes[1].text(len(change) + 3, high + 0.08, "mean,\n95%", ha="center", fontsize=8, **MEAN)
for x, y, count, word in ((worse, -0.36, worse, "worse"), (worse + 2, 0.08, same, "as before"),
                          (worse + same, 0.43, better, "better")):
    axes[1].text(x + 0.3, y, f"{count} {word}", color=words[word], fontsize=8)
plots.label(axes[0], "a line a prompt (moved by up to .03); colours as on the right",
            "Kendall's tau within a prompt",
            f"mean tau {before['score']:+.2f} untrained, {after['score']:+.2f} after ten steps")
plots.label(axes[1], "dev prompts, sorted", "tau after training minus before",
            f"a mixture: {better} of {len(change)} prompts rank better")
axes[1].set(xlim=(-1, 36), xticks=[0, 10, 20, 29])
for axis in axes:
    axis.axhline(0, color="grey", linewidth=0.6)

# %%
print(f"before: dev tau {before['score']:+.2f} ({before['low']:+.2f} to {before['high']:+.2f})")
print(f"after minus before: {mean:+.2f} ({low:+.2f} to {high:+.2f})")

# %% [markdown]
# <details><summary>Answer</summary>
#
# At .17, but the interval holds zero (-.04 to +.36). Half of the prompts rank better.
# </details>
#
# **What to see.** After ten steps the same prompts score .22 higher (+.02 to +.44 over prompts).
# This flatters: of six sizes tried, this is the cheapest whose interval leaves out zero. For three
# of them it holds zero (`data/runs/LOG.md`). Head and adapters were trained together: what the head
# alone would gain was not tested. Whether more than a length was learned, lesson 07 asks.

# %% [markdown]
# ## 6. Which copy is still the model?
#
# Only the adapters and the head are saved, and the base is made anew. Must it be rounded, as in
# training?
#
# | copy | base | adapters | kept here in |
# |---|---|---|---|
# | 1 | rounded | beside | 4 bits |
# | 2 | rounded | merged | 32 bits |
# | 3 | original | beside | 32 bits |
# | 4 | original | merged | 32 bits |
# | 5 | rounded | merged, the sum rounded again | 4 bits |
# | control | rounded | left out | 4 bits |
#
# **Predict**: which copies keep every margin?

# %%
import shutil

from bsr_lite.scale.merge import merge_reward_model

folder, original = RUNS / "bsr" / "model", RUNS / "original"
size = sum(f.stat().st_size for f in folder.glob("adapter_model*"))
meta = json.loads((folder / "reward_model.json").read_text())
print(f"adapters and head: {size / 1e6:.1f} MB; base: {meta['quantization']}")
shutil.copytree(folder, original)  # the same files; only the note on how the base is held changes
(original / "reward_model.json").write_text(json.dumps(meta | {"quantization": None}));

# %%
places = {"1 reloaded": folder, "2 merged": RUNS / "copy2", "3 beside the original": original,
          "4 merged into the original": RUNS / "copy4"}
with quiet_loading(), contextlib.redirect_stdout(io.StringIO()):
    for number, source in ((2, folder), (4, original)):
        merge_reward_model(source, RUNS / f"copy{number}")  # the base's values + (alpha / k) B A
    copies = {name: load_reward_model(str(place)) for name, place in places.items()}

# %%
PROMPT = "Explain why the sky is blue. Answer in two sentences."
ANSWERS = ["Sunlight is scattered by the air, and blue light is scattered most. So blue light "
           "reaches our eyes from all over the sky.",
           "The sky is blue because it is blue. The sky is blue because it is blue. The sky is",
           "I like trains.", "Blue."]
rewards = score_answers(bsr, PROMPT, ANSWERS)
scored = {name: score_answers(model, PROMPT, ANSWERS) for name, model in copies.items()}
Markdown(tables.table(["answer", "begins", "reward in the trained model"], [
    [f"{n + 1}", ANSWERS[n][:24], f"{rewards[n]:+.2f}"] for n in range(4)]))

# %% [markdown]
# The model is no good judge: "I like trains." beats the right answer. But do copies give the *same*
# rewards?
#
# The next cell turns the reloaded copy into the control ($B$ set to zero), then into copy 5 (the
# sum, rounded).

# %%
again, sums = copies["1 reloaded"], []
layers = [layer for layer in again.backbone.modules() if hasattr(layer, "lora_A")]
for layer in layers:
    held, (A, B) = layer.base_layer.weight, (
        getattr(layer, x)["default"].weight.data for x in ("lora_A", "lora_B"))
    whole = bnb.dequantize_4bit(held.data, held.quant_state)
    sums.append((whole.float() + layer.scaling["default"] * B @ A).to(whole.dtype))
    B.zero_()  # no adapter from here on
scored["control: no adapters"] = score_answers(again, PROMPT, ANSWERS)
for layer, whole in zip(layers, sums, strict=True):
    held = layer.base_layer.weight
    held.data, held.quant_state = bnb.quantize_4bit(
        whole, blocksize=64, quant_type="nf4", compress_statistics=True)
scored["5 merged, rounded again"] = score_answers(again, PROMPT, ANSWERS)
scored = dict(sorted(scored.items()))

# %%
def off(name, reference=rewards):  # the largest change of any margin
    return (scored[name] - reference).max().item() - (scored[name] - reference).min().item()


# %%
# drawing only
figure, axis = plots.panels(1)
figure.set_figheight(1.2 * figure.get_figheight())
for place, name in enumerate(reversed(scored)):
    moved = scored[name] - rewards
    ground = "#F2F2F2" if place % 2 else "white"
    axis.axhspan(place - 0.5, place + 0.5, color=ground, zorder=-1)
    axis.plot([moved.min(), moved.max()], [place] * 2, color="black", linewidth=1, zorder=4)
    for answer, x in enumerate(moved.tolist()):  # digits one below the other, to be read
        axis.text(x, place + 0.23 * (1.5 - answer), f"{answer + 1}", color="#4477AA", ha="center",
                  va="center_baseline", fontsize=8,
                  bbox={"color": ground, "pad": 0.2, "linewidth": 0})
    axis.text(1.02, place, f"{off(name):.3f}", va="center", transform=axis.get_yaxis_transform())
axis.text(1.02, len(scored) - 0.5, "largest change\nof a margin", fontsize=8,
          transform=axis.get_yaxis_transform())
axis.axvline(0, color="#BBBBBB", linewidth=0.6, zorder=0)
axis.grid(False)
axis.set_yticks(range(len(scored)), list(scored)[::-1])
axis.set_ylim(-0.5, len(scored) - 0.5)
plots.label(axis, "reward minus the trained model's; digits: the four answers of the table", "",
            "only its own rounded base keeps the margins; rounded again, little is left")

# %%
near = 1e-3 if meta["dtype"] == "float32" else 0.06  # products of 16 bits differ from merged ones
assert torch.equal(scored["1 reloaded"], rewards), "same adapters, same 4-bit base, same bits"
assert off("2 merged") < near, "merged into the base it was trained on: the same model"
assert off("3 beside the original", scored["4 merged into the original"]) < near, "one function"
for name in ("3 beside the original", "4 merged into the original", "5 merged, rounded again"):
    assert off(name) > max(off("2 merged"), 2e-3), f"{name}: a margin moved too little"

# %% [markdown]
# <details><summary>Answer</summary>
#
# Only 1 and 2: copy 1 to the bit, copy 2 to three decimals.
# </details>
#
# **What to see.** A row's line is as long as the largest change of a margin. (A digit's height in
# its row means nothing.) Copies 3 and 4 agree: **beside or merged is one function; the base
# decides.** On the original base the margin of 2 over 4 moves by .13. In the control the largest
# change is .57 (2 over 3). Which copy judges better, four answers cannot say.

# %% [markdown]
# Why is copy 5 nearly the control? **Predict** how many 4-bit codes ten steps moved.

# %%
total, moved, farthest = 0, {1: 0, 100: 0}, 0
for layer in bsr.backbone.modules():
    if hasattr(layer, "lora_A"):  # PEFT's: a 4-bit base_layer with its adapter
        held = layer.base_layer.weight
        held = bnb.dequantize_4bit(held.data, held.quant_state).float().cpu()
        A, B = (getattr(layer, x)["default"].weight.detach().cpu() for x in ("lora_A", "lora_B"))
        change = layer.scaling["default"] * B @ A
        codes, absmax = quantize(held, nf4)  # absmax in 32 bits here, in 8 in the stored model
        for times in moved:
            moved[times] += (quantize(held + times * change, nf4)[0] != codes).sum().item()
        total += held.numel()
        farthest = max(farthest, (change.view_as(codes) / absmax).abs().max().item())
assert moved[1] < 1e-4 * total, "4 bits cannot hold what ten steps of training change"
assert moved[100] > 0.01 * total, "the count must see a change that is large enough"
print(f"largest move of a weight: {farthest:.3f} of its block's absmax; "
      f"half the smallest gap: {nf4.diff().min() / 2:.3f}")
print(f"in 4 bits {moved[1]} of {total / 1e6:.0f} million codes differ; "
      f"with 100 times the change {moved[100] / total:.0%}")

# %% [markdown]
# None. Before the merge each weight lies *on* one of the 16 values. For another code it must move
# at least half the smallest gap between two values, .04 of its block's absmax. The farthest moved
# by .023. So rounding again takes back nearly all that the adapters changed. Not all: where a
# block's absmax moves, all its weights move with it.
#
# Would one notice copy 4 by the *order* of the answers?

# %%
i, j = torch.triu_indices(4, 4, 1)  # the six pairs of four answers
r = scored["4 merged into the original"]
print(f"pairs in the trained order: {((r[i] > r[j]) == (rewards[i] > rewards[j])).sum()} of 6")
up, down = (r - rewards).argmax(), (r - rewards).argmin()  # of the margin that moves most
print(f"margin of answer {up + 1} over {down + 1}: {r[up] - r[down]:+.2f}, "
      f"in the trained model {rewards[up] - rewards[down]:+.2f}")

# %% [markdown]
# No: all six pairs keep their order. An order can hide a changed model, so **compare margins, not
# orders**. A saved model notes how its base was held, and `merge` adds to *that* base.

# %% [markdown]
# ## Exercises
#
# A wrong answer gets a second hint. Solutions: `notebooks/solutions/`.

# %% [markdown]
# **1.** *Before you rent a card.* How many GB ($10^9$ bytes) does a QLoRA run need before its first
# token, CUDA's own left out? `linear` weights lie in NF4 with double quantization, `others`
# (embeddings) are frozen in 16 bits, `trained` numbers are in 32 bits with AdamW. Control: the 8B
# model of Section 4, 4.7 and .7 GB. Then Llama-3.1-70B: which of the cards of 16, 24, 40, 48 and 80
# GB are ruled out whatever the batch?
#
# <details><summary>Hint</summary>
#
# For which of the three does anyone keep more than the number itself?
# </details>

# %%
def fixed_memory(linear, others, trained):
    return None


checks.check_fixed_memory(fixed_memory);

# %%
print("8B: ", fixed_memory(6.98e9, 0.525e9, 0.042e9), "GB")
print("70B:", fixed_memory(68.5e9, 1.05e9, 0.207e9), "GB")

# %% [markdown]
# **2.** *Judge a record.* "Attention compares every token with every other. So activations grow
# with the *square* of the answers' length." `bench_growth` recorded the peak memory, the
# model's weights left out, of a real step on a CPU (LoRA, four layers, two pairs) at 64 to 1,024
# tokens of prompt and answer. Return the power with which the peak grows, by a
# least-squares line. Then run the last cell, over all sizes and between neighbours. What may one
# say, and what not?
#
# <details><summary>Hint</summary>
#
# On which axes is a power law a straight line?
# </details>

# %%
def growth_exponent(tokens, peaks):
    return None


checks.check_growth_exponent(growth_exponent);

# %%
growth = json.loads(Path("data/runs/bench_growth/results.json").read_text())["table"]["steps"]
record = growth["tokens a response"]
tokens, peaks = (torch.tensor(record[key], dtype=torch.float64) for key in ("tokens", "peak"))
print("MB:", [round(x / 1e6) for x in peaks.tolist()], "at tokens of two pairs:", record["tokens"])
print("exponent, all sizes:", growth_exponent(tokens, peaks))
print("between neighbours:", [growth_exponent(tokens[n:n + 2], peaks[n:n + 2]) for n in range(4)])

# %% [markdown]
# **3.** *One matrix for two.* A layer holds `codes` and `absmax` (a block a row) of NF4 `values`
# (16,), and an adapter `A` (k, inputs), `B` (outputs, k) with `alpha`. Return the matrix $W'$,
# (outputs, inputs), for which `h @ W'.T` is what both give together. Then: a colleague merges into
# the original matrix `W`. By which matrix is the result wrong, and does it depend on `A` and `B`?
# (So why did copies 3 and 4 agree?)
#
# <details><summary>Hint</summary>
#
# Write both layers' outputs for one $h$, and subtract.
# </details>

# %%
def merged_matrix(codes, absmax, values, A, B, alpha):
    return None


checks.check_merged_matrix(merged_matrix);

# %% [markdown]
# **4.** *The first step.* `gradient` (outputs, inputs) is the derivative of the loss with respect
# to the merged matrix $W'$. $B$ is zero. Both $A$ and $B$ take one step of plain gradient descent,
# of size `rate` times the gradient. By which matrix does $W'$ change? **Predict**, before the last
# cell: what does twice the `alpha` do to that step?
#
# <details><summary>Hint</summary>
#
# How often does $\alpha / k$ stand between the loss and the change of $W'$?
# </details>

# %%
def first_step(gradient, A, alpha, rate):
    return None


checks.check_first_step(first_step);

# %%
once, twice = (first_step(torch.ones(4, 6), torch.ones(3, 6), alpha, 0.1) for alpha in (12, 24))
print("to do" if once is None else f"twice the alpha: {(twice / once).mean():.1f} times the step")

# %% [markdown]
# ## Check yourself
#
# 1. Why does a frozen weight cost less than a trained one, even in the same number format?
# 2. LoRA with short answers does not fit a card. Which trick helps more, and why?
# 3. What would happen if $A$ and $B$ both started at zero?
# 4. Why is NF4 no better than even spacing in very small blocks?
# 5. A colleague merges your adapters into the original model. Nothing fails. What is wrong?

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1. It needs no gradient and no optimizer averages.
# 2. Fewer bits: with few tokens the weights are most of the memory.
# 3. Each one's gradient passes through the other: no adapter would ever move.
# 4. Absmax lies close to the other weights: no thin tail to waste values on.
# 5. The base is no longer the one of training: each layer's output moves by the rounding error
#    $(W - W_4) h$, whatever the adapters are (Exercise 3).
# </details>

# %% [markdown]
# ## What to watch, what to vary
#
# | In your run, watch | Healthy | If not, or next, vary |
# |---|---|---|
# | estimate, total | at least 1 to 2 GB under the card's | 4 bits, checkpointing, shorter answers |
# | tau minus the start's, same prompts | above zero, as is its interval | more steps or prompts |
# | rewards after a reload | equal to the bit, as here | the base that the folder names |
# | margins after merging | here, trained in 32 bits, moved by .000 | the base: as trained? |

# %% [markdown]
# ## What you know now
#
# **From 163 GB to 7.8, by count, with long answers: adapters remove nearly all gradients and
# averages, 4 bits shrink the frozen weights, checkpointing shrinks activations. A trained model is
# its head, its adapters *and* its rounded base: merged anywhere else, nothing fails and the margins
# change.**
#
# - After ten steps, rounding again lost nearly all that the adapters had changed.
# - Not tried: longer training, and merging in 16 bits, in which an 8B model computes.
#
# Next: **06 · Can you trust a comparison of two reward models?**

