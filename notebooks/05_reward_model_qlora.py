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
# card has 16. Three tricks close the gap. Thin matrices are trained beside a frozen base. The base
# is held in 4 bits (both together are **QLoRA**, Dettmers et al. 2023). What a layer computed is
# computed again instead of kept. We count the bytes of each. Then we train such a model with BSR,
# and ask which copies of it are still the same model.

# %% [markdown]
# After it you can
# - say which trick shrinks which part of the memory, and predict a run's memory before it starts;
# - quantize a matrix to NF4 by hand, and say what a weight then costs;
# - say why an adapter starts at zero, and which base it belongs to;
# - save, reload and merge a reward model without silently changing its rewards.
#
# **No card of that size has run any of this.** Bytes are counted, on a CPU: Section 4 says how
# far to trust that.

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
# A weight that is trained in 32 bits comes with three more numbers of 4 bytes: its **gradient**,
# and two running averages that the **optimizer** AdamW keeps. A **frozen** weight is only read. It
# needs no company, and fewer bits.

# %%
WEIGHTS = 7.505e9  # Llama-3.1-8B as a reward model: its word scores replaced by one reward head
KINDS = (("trained", "weight, gradient, two averages, 32 bits each", 16),
         ("frozen", "weight, 16 bits", 2), ("frozen", "weight, 4 bits", 0.5))
Markdown(tables.table(["a weight that is", "holds", "bytes", "all weights, GB"], [
    [kind, what, f"{size:g}", f"{WEIGHTS * size / 1e9:.0f}"] for kind, what, size in KINDS]))

# %% [markdown]
# So freeze the base. But how do 4 bits hold a weight (Section 2)? And what learns if the base does
# not (Section 3)? Not in this table are the **activations**: what each layer computed, kept for the
# backward pass (Section 4).
#
# ## 2. Four bits a weight
#
# 4 bits name one of 16 levels. Trained weights look Gaussian, so **NF4** (4-bit NormalFloat) puts
# its levels at quantiles of a normal distribution. Each **block** of 64 weights is divided by its
# largest absolute value (*absmax*), so it lies in $[-1, 1]$. Every weight becomes the number of its
# nearest level. One level is exactly 0; that leaves 8 positive and 7 negative ones.

# %%
normal = torch.distributions.Normal(0.0, 1.0)
# The outermost quantile lies half a step from the end. A step is 1/16 for 16 levels, 1/15 for 15;
# bitsandbytes, the usual library, takes the mean of both.
TAIL = 1 - (1 / 32 + 1 / 30) / 2


def half(count):  # quantiles from the tail to just above the median
    return normal.icdf(torch.linspace(TAIL, 0.5, count + 1, dtype=torch.float64)[:-1])


levels = torch.cat([half(8), torch.zeros(1), -half(7)]).sort().values
levels = (levels / levels.max()).float()  # (16,)
print([round(x, 2) for x in levels.tolist()])

# %%
def quantize(weight, levels, block=64):
    blocks = weight.reshape(-1, block)
    absmax = blocks.abs().amax(1, keepdim=True)  # (blocks, 1)
    codes = ((blocks / absmax)[..., None] - levels).abs().argmin(-1)  # 0..15
    return codes, absmax


def dequantize(codes, absmax, levels):
    return levels[codes] * absmax


base = load_reward_model("smollm2-135m-instruct", depth=10, dtype="float32")
W = base.backbone.layers[4].mlp.up_proj.weight.detach().cpu()  # (1536, 576)
codes, absmax = quantize(W, levels)
W4 = dequantize(codes, absmax, levels).view_as(W)

# %% [markdown]
# Does bitsandbytes do the same? (It packs two codes into a byte.)

# %%
import bitsandbytes.functional as bnb

packed, state = bnb.quantize_4bit(W, blocksize=64, quant_type="nf4")
torch.testing.assert_close(state.code, levels, rtol=0, atol=1e-6)  # the same 16 levels
torch.testing.assert_close(bnb.dequantize_4bit(packed, state), W4, rtol=0, atol=1e-6)
print("by hand and by bitsandbytes the same;", tuple(packed.shape), packed.dtype)

# %% [markdown]
# **Predict**: 16 levels evenly spaced over $[-1, 1]$ instead of NF4's. Is the error larger or
# smaller? Does it matter how many weights share an absmax?

# %%
def error(weight, levels, block):  # percent of the weights' standard deviation
    rounded = dequantize(*quantize(weight, levels, block), levels).view_as(weight)
    return 100 * ((rounded - weight).std() / weight.std()).item()


even, gauss = torch.linspace(-1, 1, 16), torch.randn(512, 4096)
print(f"blocks of 64: NF4 {error(W, levels, 64):.1f}%, even {error(W, even, 64):.1f}%")
for b in (64, 4096):
    print(f"absmax of {b:4d} Gaussian numbers: {gauss.view(-1, b).abs().amax(1).mean():.1f} std")

# %%
blocks = [b for b in (16, 64, 256, 1024, 4096) if b <= W.numel()]
figure, (left, right) = plots.panels(2)
left.hist((W.reshape(-1, 64) / absmax).flatten(), bins=121, color="#BBBBBB")
for name, place, tint, height in (("NF4", levels, "#4477AA", -900), ("even", even, "black", -2200)):
    left.plot(place, torch.full((16,), height), "|", color=tint, markersize=9)
    left.text(-1.08, height, name, color=tint, ha="right", va="center", fontsize=8)
    right.plot(blocks, [error(W, place, b) for b in blocks], "o-", color=tint, markersize=4)
    right.plot(blocks, [error(gauss, place, b) for b in blocks], ":", color=tint)
    right.text(4700, error(W, place, blocks[-1]), name, color=tint, va="center")
plots.label(left, "weight / absmax of its block", "weights",
            "NF4 puts its levels where the weights are")
plots.label(right, "weights in a block", "rms error, % of the weights' std",
            "the larger the block, the more NF4 saves")
left.set(xlim=(-1.3, 1.1), yticks=(0, 5000, 10000, 15000))
right.set(xscale="log", xlim=(13, 9000), ylim=(0, None))
right.set_xticks(blocks, blocks)
right.text(4096, 5, "dotted: Gaussian numbers", fontsize=8, ha="right");

# %% [markdown]
# <details><summary>Answer</summary>
#
# At 64 it is larger, by a tenth. In blocks of 4,096 it is larger by more than a third, in blocks of
# 16 no larger at all. The larger the block, the farther out its absmax, and the more even levels
# are wasted on a thin tail.
# </details>
#
# **What to see.** Left, the spike at $\pm 1$ is each block's own absmax. Right, dotted, Gaussian
# numbers behave as our matrix does. (Our copy of the model was once in 4 bits of another format;
# hence, most likely, the small bumps.) Whether a network tolerates 9% is not answered here.

# %% [markdown]
# **The bill.** 4 bits, plus a 32-bit absmax per 64 weights: 4.5 bits. *Double quantization* stores
# these absmax in 8 bits too, in blocks of 256 with a 32-bit scale each:
# $4 + \frac{8}{64} + \frac{32}{64 \cdot 256} = 4.127$ bits.

# %%
packed, state = bnb.quantize_4bit(W, blocksize=64, quant_type="nf4", compress_statistics=True)
stored = packed.nbytes + state.absmax.nbytes  # codes, 8-bit absmax
stored += state.state2.absmax.nbytes  # the scales of the absmax
print(f"{8 * stored / W.numel():.3f} bits a weight")
assert abs(8 * stored / W.numel() - 4.127) < 1e-3, "the bill must add up"

# %% [markdown]
# ## 3. What learns: an adapter
#
# A learning step is far smaller than the gap between two levels, so 4-bit weights cannot take it.
# **LoRA** (Hu et al. 2021) leaves a matrix $W$ as it is, and learns beside it a change of low rank
# $k$, an **adapter**. With $h$ the hidden state that enters:
#
# $$y = W h + \frac{\alpha}{k}\, B A\, h.$$
#
# $A$ has $k$ rows and $B$ has $k$ columns; $\alpha$ is a constant. $A$ starts random and $B$ at
# **zero**, so that training begins at the pretrained model. (Papers write $r$ for the rank; our $r$
# is the reward. $B$ is no batch.)
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
# $A$'s gradient is zero: it passes through $B$, which is zero. The first step moves $B$ alone.
# </details>
#
# **Merging** folds the adapter into one matrix, $W' = W + \frac{\alpha}{k} B A$, which gives the
# same outputs. Trained whole is the new head $W_p$ of Eq. 2, in 32 bits. (In bfloat16, the usual 16
# bits, rewards near 4 lie on a grid of 1/32, and close answers tie: exercise 4.)

# %% [markdown]
# ## 4. What the batch costs: activations
#
# Activations depend on every line of the model's code. So `bsr_lite.scale.estimate` does not guess:
# it runs the training step on *fake* tensors, which have shapes but no memory, and counts the bytes
# that live at once.
#
# **Gradient checkpointing** keeps only what enters each layer, and computes the rest again in the
# backward pass. Over a frozen base that is about half more work: forward 1, backward 1, and forward
# 1 again.
#
# First our small model, whose step also runs with real tensors. **Predict**: which is larger, base
# or activations, and which of them do 4 bits shrink?

# %%
PLAIN, AGAIN = "model.quantization=null", "model.gradient_checkpointing=true"

# %%
from bsr_lite.scale.estimate import estimate, measure

rows = []
for name, changes in {"LoRA, 16-bit base": [PLAIN], "QLoRA": [],
                      "QLoRA, checkpointing": [AGAIN]}.items():
    config = load_config(CONFIG.format("bt"), overrides=changes)
    with contextlib.redirect_stdout(io.StringIO()):
        parts, real = estimate(config), measure(config)
    rows.append([name, *(f"{x / 1e6:.0f}" for x in (parts["base"], parts["activations"], real))])
    if not torch.cuda.is_available():  # a GPU's allocator rounds up: look, do not assert
        assert abs(parts["activations"] / real - 1) < 0.02, "the estimate must hold within 2%"
Markdown(tables.table(["10 layers, 2,048 tokens; MB", "base", "activations, estimated",
                       "activations, real step"], rows))

# %% [markdown]
# <details><summary>Answer</summary>
#
# Activations are far larger, and 4 bits leave them as they are. A small model gains little.
# </details>
#
# **How far to trust it.** The agreement says that fake tensors have the right shapes. A test finds
# the count within .02% of torch's own allocator, on a CPU. The operating system sees more: in four
# recorded settings 1.4 to 7 times as much, as freed blocks are kept (`data/runs/LOG.md`). On an
# H100 a step of the whole small model took within 2% of the count. A card loses some to
# fragmentation: leave 1 to 2 GB.

# %% [markdown]
# Now Llama-3.1-8B, which we need not download to know its shapes, on an RTX 4060 Ti with 16 GB. A
# step holds one pair. Prompt and answer have up to 2,048 tokens together, or up to 512.
#
# **Predict** for 2,048 tokens: which trick saves more of LoRA's memory, 4 bits or checkpointing?
# Which does a 24 GB card need, and which a 16 GB card?

# %%
WAYS = {"full": ["model.lora_rank=null", PLAIN], "LoRA": [PLAIN],
        "LoRA,\ncheckpointing": [PLAIN, AGAIN], "QLoRA": [], "QLoRA,\ncheckpointing": [AGAIN]}
BIG = ["model.name=meta-llama/Llama-3.1-8B-Instruct", "model.depth=null"]

# %%
bill = {}
for length in (2048, 512):
    for way, changes in WAYS.items():
        config = load_config(CONFIG.format("bt"), overrides=[
            *BIG, f"data.max_length={length}", f"token_budget={2 * length}", *changes])
        parts = estimate(config, card="4060ti")
        parts["trained"] = sum(parts[p] for p in ("adapters", "gradients", "optimizer"))
        bill[length, way] = {p: parts[p] / 1e9 for p in (
            "base", "trained", "activations", "context", "total")}  # context: CUDA's own, assumed
assert abs(bill[512, "full"]["base"] / (4 * WEIGHTS / 1e9) - 1) < 1e-3, "Section 1's weights"
Markdown(tables.table(
    ["8B, GB at 2,048 tokens", "base", "adapters, gradients, averages", "activations", "CUDA",
     "total", "total at 512 tokens"],
    [[way, *(f"{x:.1f}" for x in bill[2048, way].values()), f"{bill[512, way]['total']:.1f}"]
     for way in WAYS]))

# %%
COLORS = {"base": "#BBBBBB", "trained": "#AA3377", "activations": "#4477AA", "context": "#CCBB44"}
NAMES = ("frozen base", "adapters, gradients, averages", "activations", "CUDA")
figure, axes = plots.panels(2, sharey=True)
some = list(WAYS)[1:]
for axis, length in zip(axes, (2048, 512), strict=True):
    axis.set_axisbelow(True)
    bottom = torch.zeros(len(some))
    for (part, tint), name in zip(COLORS.items(), NAMES, strict=True):
        height = torch.tensor([bill[length, way][part] for way in some])
        axis.bar(some, height, 0.6, bottom=bottom, color=tint, label=name)
        bottom += height
    for place, total in enumerate(bottom.tolist()):
        axis.text(place, total + 0.9, f"{total:.1f}", ha="center", fontsize=8,
                  bbox={"color": "white", "pad": 0.4})
    for limit in (16, 24):
        axis.axhline(limit, color="black", linewidth=0.8, linestyle="--", zorder=0)
        axis.text(3.65, limit + 0.4, f"{limit} GB card", fontsize=8, ha="right")
    axis.tick_params(axis="x", labelsize=8)
plots.label(axes[0], "", "memory (GB)", "2,048 tokens: 16 GB takes all three tricks")
plots.label(axes[1], "", "", "512 tokens: 16 GB takes adapters and 4 bits")
axes[1].legend(loc="upper right", fontsize=8);

# %% [markdown]
# **What to see.** Of the 120 GB before any token, adapters leave 16. (Full fine-tuning is off the
# figure.) 4 bits take 10 of 15 GB of frozen weights; embeddings stay in 16 bits. Checkpointing
# takes 23 of LoRA's 26 GB of activations. So a 24 GB card needs no 4 bits: adapters and
# checkpointing are enough. A 16 GB card needs all three tricks, or shorter answers.
#
# **4 bits shrink weights, never activations.** Yet QLoRA's are smaller, 21.6 GB against 25.5.
# That is software: on a card PEFT, the library of adapters, copies the input for an adapter beside
# a 16-bit layer, not beside a 4-bit one. On a CPU it copies both: the small model's are equal.

# %%
fits = {limit: [way for way in WAYS if bill[2048, way]["total"] < limit] for limit in (16, 24)}
assert fits[16] == ["QLoRA,\ncheckpointing"], "at 2,048 tokens 16 GB takes all three tricks"
assert fits[24] == ["LoRA,\ncheckpointing", "QLoRA,\ncheckpointing"], "24 GB needs no 4 bits"

# %% [markdown]
# ## 5. Train, live
#
# Does it learn? BT and BSR (Eq. 25, $\lambda = 10^{-3}$, one group a batch) on a 4-bit base, with
# the same seed: same head, same adapters, same batches. One seed and 10 steps are a demonstration,
# no comparison.

# %%
from bsr_lite.runlog import read_metrics
from bsr_lite.train_rm import train

RUNS = Path(tempfile.mkdtemp())


def run(loss):
    config = load_config(CONFIG.format(loss), overrides=[
        "data.max_pairs=160", "eval_every=5", "eval_groups=20", f"output_dir={RUNS / loss}"])
    with contextlib.redirect_stdout(io.StringIO()):
        model, _ = train(config)
    return model.eval(), read_metrics(RUNS / loss)


(bt, bt_log), (bsr, bsr_log) = run("bt"), run("bsr")

# %% [markdown]
# **Predict**: the head is random. Where does the *level*, the mean reward of a batch, start under
# BT and under BSR? Which will tell the two apart in 10 steps, the level or the margins?

# %%
figure, axes = plots.panels(2)
steps = [row["step"] for row in bt_log]
for name, log in (("bt", bt_log), ("bsr", bsr_log)):
    level = [row["train/reward_mean"] for row in log]
    axes[0].plot(steps, level, color=plots.COLORS[name])
    axes[0].text(10.2, level[-1], name.upper(), color=plots.COLORS[name], va="center")
gap = [b["train/margin"] - a["train/margin"] for a, b in zip(bt_log, bsr_log, strict=True)]
axes[1].bar(steps, gap, 0.5, color="#777777")
plots.label(axes[0], "optimizer step", "level: mean reward of the batch",
            "BSR pulls the level down, BT's climbs")
plots.label(axes[1], "optimizer step", "mean margin, BSR minus BT",
            "same batches: BSR's margin is a little smaller")
for axis in axes:
    axis.axhline(0, color="grey", linewidth=0.6)
axes[0].set_xlim(0.5, 11.5);

# %%
for name, log in (("BT", bt_log), ("BSR", bsr_log)):
    last = log[-1]
    print(f"{name:3s} last margin {last['train/margin']:.2f}, dev tau {last['val/tau']:+.2f} "
          f"({last['val/low']:+.2f} to {last['val/high']:+.2f}, {last['val/groups']} prompts)")

# %% [markdown]
# **What to see.** Both levels start at .67, where the random head put them. BT's climbs to 1.4.
# BSR's is pulled down, overshoots to -.3, and stays within .3 of zero. On the same batches BSR's
# margins are the smaller ones, by about a tenth at the end. It is one seed.
#
# Both dev intervals (Kendall's tau within prompts, 95%) are above zero: it learns. They are over .4
# wide, so which ranks better is open.
#
# ## 6. Which copy is still the model?
#
# Saved are the adapters and the head, not the base: it can be had again. A merged model is one
# plain folder for `transformers`.

# %%
from bsr_lite.eval_rm import score_answers
from bsr_lite.scale.merge import merge_reward_model

folder = RUNS / "bsr" / "model"
size = sum(f.stat().st_size for f in folder.glob("adapter_model*"))
meta = json.loads((folder / "reward_model.json").read_text())
print(f"adapters and head: {size / 1e6:.1f} MB; the base was held in: {meta['quantization']}")

# %%
other_base = RUNS / "other_base"
other_base.mkdir()  # the same files; only the note on how the base was held changes
for file in folder.iterdir():
    (other_base / file.name).write_bytes(file.read_bytes())
(other_base / "reward_model.json").write_text(json.dumps(meta | {"quantization": None}))
with quiet_loading(), contextlib.redirect_stdout(io.StringIO()):
    merge_reward_model(folder, RUNS / "merged")  # base from 4 bits, then + (alpha / k) B A
    merge_reward_model(other_base, RUNS / "merged_other")

# %% [markdown]
# **Predict**: do rewards stay the same, get better, or just differ, if you
# - reload the adapters on the 4-bit base;
# - put them on the original 16-bit base;
# - merge them into the values of the 4-bit base;
# - merge them into the original base;
# - merge them, and store the sum in 4 bits again?
#
# The last one first: how many codes does training move?

# %%
moved = total = 0
shares = []
for layer in bsr.backbone.modules():
    if hasattr(layer, "lora_A"):  # PEFT's: a 4-bit base_layer with its adapter
        held = layer.base_layer.weight
        held = bnb.dequantize_4bit(held.data, held.quant_state).float().cpu()
        A, B = (getattr(layer, x)["default"].weight.detach().cpu() for x in ("lora_A", "lora_B"))
        change = layer.scaling["default"] * B @ A
        moved += (quantize(held + change, levels)[0] != quantize(held, levels)[0]).sum().item()
        total += held.numel()
        shares.append((change.norm() / held.norm()).item())
assert moved < 1e-4 * total, "4 bits cannot hold what ten steps of training change"
print(f"a change is {100 * min(shares):.2f}% to {100 * max(shares):.2f}% of its matrix; in 4 bits "
      f"{moved} of {total / 1e6:.0f} million codes differ")

# %%
PROMPT = "Explain why the sky is blue. Answer in two sentences."
ANSWERS = ["Sunlight is scattered by the air, and blue light is scattered most. So blue light "
           "reaches our eyes from all over the sky.",
           "The sky is blue because it is blue. The sky is blue because it is blue. The sky is",
           "I like trains.", "Blue."]
rewards = score_answers(bsr, PROMPT, ANSWERS)

# %%
with contextlib.redirect_stdout(io.StringIO()):
    copies = {name: load_reward_model(str(path)) for name, path in (
        ("reloaded", folder), ("merged", RUNS / "merged"), ("on the 16-bit base", other_base),
        ("merged, 16-bit base", RUNS / "merged_other"), ("rounded to 4 bits again", folder))}
for name, parameter in copies["rounded to 4 bits again"].named_parameters():
    if "lora_B" in name:
        parameter.data.zero_()  # what is left of the adapters when no code differs
scored = {name: score_answers(model, PROMPT, ANSWERS) for name, model in copies.items()}
Markdown(tables.table(
    ["copy", "largest change of a reward", "margin of answer 1 over \"Blue.\""],
    [[name, f"{(r - rewards).abs().max():.3f}", f"{r[0] - r[3]:+.2f}"]
     for name, r in {"as trained": rewards, **scored}.items()]))

# %%
TOLERANCE = 0.1  # set between what number formats (.03) and what another base (.24) do to a reward
figure, axis = plots.panels(1)
for place, r in enumerate(reversed(scored.values())):
    change = (r - rewards).tolist()
    same = max(map(abs, change)) < TOLERANCE
    axis.plot(change, [place] * 4, "o", color="#4477AA" if same else "#BB5566", alpha=0.7)
axis.axvspan(-TOLERANCE, TOLERANCE, color="grey", alpha=0.15, linewidth=0)
axis.set_yticks(range(len(scored)), list(scored)[::-1])
axis.set_ylim(-0.5, len(scored) - 0.5)
plots.label(axis, "reward minus the trained model's, each of four answers", "",
            "two of five copies are still the trained model (grey: tolerance)")

# %%
assert torch.equal(scored["reloaded"], rewards), "same adapters, same 4-bit base, same bits"
for name in ("merged", "on the 16-bit base", "merged, 16-bit base", "rounded to 4 bits again"):
    largest = (scored[name] - rewards).abs().max()
    assert (largest < TOLERANCE) == (name == "merged"), f"{name}: moved by {largest:.3f}"

# %% [markdown]
# <details><summary>Answer</summary>
#
# Reloaded: the same to the bit. Merged into the 4-bit base's values: nearly the same (it computes
# in 32 bits, the trained one in 16). Any other way is another model. Four answers cannot say
# whether a better one. In 4 bits again, not one code differs: all that was trained is gone but the
# head.
# </details>

# %% [markdown]
# **What to see.** Raw rewards may all shift alike, and no ranking sees it. But the margin of the
# first answer over "Blue." grows threefold on the 16-bit base, and falls to zero where the adapters
# are rounded away. So a saved model remembers how its base was held, and `merge` adds the change to
# *that* base's values, in 32 bits. (The merged folder's `README.md` shows how plain `transformers`
# reads a raw reward.)

# %% [markdown]
# ## Exercises
#
# A fold holds the first hint, and a wrong answer gets a second one from its checker. Solutions are
# in `notebooks/solutions/`.

# %% [markdown]
# **1.** *Before you rent a card.* How many GB ($10^9$ bytes) does a QLoRA run need before its first
# token? `linear` weights lie in NF4 with double quantization, `others` (embeddings) are frozen in
# 16 bits, `trained` numbers are in 32 bits with AdamW. Control: the 8B table. Then Llama-3.1-70B:
# which cards are ruled out whatever the batch?
#
# <details><summary>Hint</summary>
#
# Three kinds of numbers. For which of them does anyone keep more than the number itself?
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
# with the *square* of the answers' length." `bench_growth` recorded the peak memory of a real step
# (LoRA, four layers) for answers of 64 to 1,024 tokens. With which power of the tokens does the
# peak grow? Return the exponent, by a least-squares line. Then run the last cell, over all sizes
# and over the two longest. What may one say, and what not?
#
# <details><summary>Hint</summary>
#
# On which axes is a power law a straight line? A slope over all sizes can hide what begins at the
# last one.
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
print("exponent, the two longest:", growth_exponent(tokens[-2:], peaks[-2:]))

# %% [markdown]
# **3.** *The reward is read at padding.* Pick every row's last real hidden state, from the
# attention mask alone (1 real token, 0 padding), whichever side is padded. Shapes (N, T, H) and
# (N, T) in, (N, H) out.
#
# <details><summary>Hint</summary>
#
# What does the number of ones tell you on a row that is padded on the left, and what does it not?
# </details>

# %%
def pool_last(hidden, attention_mask):
    return None


checks.check_pool_last(pool_last);

# %% [markdown]
# **4.** *A 16-bit head makes ties.* How many pairs i < j of these rewards, different in 32 bits,
# become equal in bfloat16? Shape (N,) in, one number out.
#
# <details><summary>Hint</summary>
#
# A tie in bfloat16 may have been one before. How do you tell the new ones?
# </details>

# %%
def new_ties(rewards):
    return None


checks.check_new_ties(new_ties);

# %% [markdown]
# ## What you know now
#
# **Adapters remove gradients and optimizer, 4 bits shrink the frozen weights, checkpointing
# shrinks activations; and an adapter belongs to the base it was trained on.**
#
# - A trained weight costs 16 bytes, a frozen one 2, in NF4 with double quantization 4.127 bits.
# - Which trick a card needs depends on the answers' length: activations follow tokens.
# - A trained change is far smaller than a 4-bit step: merge into dequantized weights, stay there.
#
# How the field scores such a model: notebook 10, Section 8; real judged answers: notebook 07.
#
# Next: **06 · Can you trust a comparison of two reward models?**
