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
# A **reward model** gives an answer a number, its reward. Training every weight of one with 8
# billion weights (8B) takes 120 GB of memory, however short its texts are. A small GPU has 16 GB.
# Three tricks close the gap:
# - **Adapters**: the model's weights stay as they are, and thin matrices beside them are trained.
# - **4 bits**: the weights that stay take 4 bits each. With adapters this is **QLoRA** (Dettmers et
#   al. 2023).
# - **Gradient checkpointing**: most of what the layers compute is thrown away, and computed again
#   later.

# %% [markdown]
# After it you can
# - count the memory that a run needs whatever its batch, and say which trick shrinks which part;
# - round a matrix to 4 bits and back, and say what a weight then costs;
# - save and reload a trained model, and check that it is still the same model.
#
# Sections 1 to 6 are the first reading. **No 8B model was trained for this page**: its bytes are
# counted. A small model is trained.

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
# How many bytes does a card hold for one weight of the model?
#
# In 32 bits a weight takes 4 bytes. A weight that is **trained** brings three more numbers of 4
# bytes each. The first is its **gradient**, which says how the loss changes with this weight. The
# other two belong to AdamW, the usual **optimizer**, which turns gradients into steps. It keeps a
# running average of the gradient, and one of its square.
#
# A **frozen** weight is never changed, only read. So it needs no gradient and no averages, and
# fewer bits may do.

# %%
WEIGHTS = 7.505e9  # Llama-3.1-8B as a reward model: its word scores replaced by one reward head
KINDS = (("trained", "weight, gradient, two averages, 32 bits each", 16),
         ("frozen", "weight, 16 bits", 2), ("frozen", "weight, 4 bits", 0.5))
Markdown(tables.table(["a weight that is", "holds", "bytes", "8B, GB"], [
    [kind, what, f"{size:g}", f"{WEIGHTS * size / 1e9:.1f}"] for kind, what, size in KINDS]))

# %% [markdown]
# **So a trained weight costs 16 bytes, and a frozen one in 4 bits costs half a byte.** For the 8B
# model this is 120.1 GB against 3.8.

# %% [markdown]
# ## 2. Four bits a weight
#
# How can a weight live in 4 bits?
#
# Four bits can name 16 things. So only 16 values are allowed, and each weight is rounded to the
# nearest. What is stored is the number of that value, from 0 to 15. It is the weight's **code**.
#
# *On which scale?* Weights are rounded in **blocks** of 64 neighbours. Each block is divided by its
# largest absolute value, its **absmax**. Then all 64 numbers lie in $[-1, 1]$. The absmax is stored
# beside the codes, to undo the division.

# %% [markdown]
# *Which 16 values?* Trained weights look Gaussian: most lie near zero, few far out. So the 16
# values should be dense near zero. The usual ones, **NF4** (4-bit NormalFloat), are taken from a
# Gaussian bell.
#
# The cell lets `bitsandbytes`, a library, round one matrix $W$ of our small language model.

# %%
import bitsandbytes.functional as bnb

with contextlib.redirect_stdout(io.StringIO()):
    base = load_reward_model("smollm2-135m-instruct", depth=5, dtype="float32")
W = base.backbone.layers[4].mlp.up_proj.weight.detach().cpu()  # (1536, 576)
packed, state = bnb.quantize_4bit(W, blocksize=64, quant_type="nf4")
nf4 = state.code  # the 16 values
print([round(x, 2) for x in nf4.tolist()])

# %% [markdown]
# Can we round by hand? `quantize` finds the codes, and the absmax of each block. `dequantize` reads
# them back: it looks up each code's value, and multiplies it by its block's absmax.

# %%
def quantize(weight, values, block=64):
    blocks = weight.reshape(-1, block)
    absmax = blocks.abs().amax(1, keepdim=True)  # (blocks, 1)
    midpoints = (values[1:] + values[:-1]) / 2  # here the nearest value changes
    codes = torch.bucketize(blocks / absmax, midpoints)  # 0..15
    return codes, absmax


def dequantize(codes, absmax, values):
    return values[codes] * absmax

# %% [markdown]
# What is read back is $W_4$. It must be the matrix that bitsandbytes gives.

# %%
codes, absmax = quantize(W, nf4)
W4 = dequantize(codes, absmax, nf4).view_as(W)
torch.testing.assert_close(bnb.dequantize_4bit(packed, state), W4, rtol=0, atol=1e-6)
print("weights", W.numel(), "bytes of packed codes", packed.nbytes)

# %% [markdown]
# It is. And two codes share a byte. How much does rounding change a weight? We measure the
# standard deviation of the rounding error, as a percentage of the weights' own.

# %%
def error(weight, values, block):  # percent of the weights' standard deviation
    rounded = dequantize(*quantize(weight, values, block), values).view_as(weight)
    return 100 * ((rounded - weight).std() / weight.std()).item()


print(f"NF4, blocks of 64: rounding error {error(W, nf4, 64):.1f}%")

# %% [markdown]
# The figure shows the weights of $W$, each divided by its block's absmax. The ticks below are NF4's
# 16 values. Look at where they are dense.

# %%
# drawing only
figure, axis = plots.panels(1)
axis.hist((W.reshape(-1, 64) / absmax).flatten(), bins=121, color="#BBBBBB")
axis.plot(nf4, torch.full((16,), -900), "|", color="#4477AA", markersize=12)
axis.text(-1.05, -900, "NF4", color="#4477AA", ha="right", va="center")
axis.set(xlim=(-1.2, 1.1), yticks=(0, 5000, 10000, 15000))
plots.label(axis, "weight / absmax of its block", "number of weights",
            "NF4 puts its values where the weights are");

# %% [markdown]
# **What to see.** The ticks are dense in the middle, where the bars are high. The tall bars at $-1$
# and $1$ are the largest weights of the blocks.
#
# (The small bumps: our model's file itself holds rounded weights. We call them *original* all the
# same.)

# %% [markdown]
# *What does a weight now cost?* A code takes 4 bits. An absmax of 32 bits, shared by 64 weights,
# adds half a bit to each. **Double quantization** makes this smaller. It stores each absmax in 8
# bits, and 256 of them share one scale of 32 bits. In all a weight costs
#
# $$4 + \frac{8}{64} + \frac{32}{64 \cdot 256} = 4.127 \text{ bits.}$$
#
# The cell counts what bitsandbytes stores.

# %%
packed, state = bnb.quantize_4bit(W, blocksize=64, quant_type="nf4", compress_statistics=True)
stored = packed.nbytes + state.absmax.nbytes  # codes, 8-bit absmax
stored += state.state2.absmax.nbytes  # the scales of the absmax
print(f"{8 * stored / W.numel():.3f} bits a weight")
assert abs(8 * stored / W.numel() - 4.127) < 1e-3, "the bill must add up"

# %% [markdown]
# **So a weight lives in 4.127 bits, as the code of one of 16 values and a share of its block's
# absmax. Here the rounding error is 9.3% of the weights' standard deviation.** Section 6 looks at
# what such errors do to rewards.

# %% [markdown]
# ## 3. What learns: an adapter
#
# How can a model learn whose weights are frozen?
#
# Something beside them learns. **LoRA** (Hu et al. 2021) leaves a matrix as it is, here the
# rounded $W_4$. Beside it two thin matrices are trained, $A$ and $B$. The two are an **adapter**.
# Let $h$, a token's vector, enter the layer. What leaves it is
#
# $$y = W_4 h + \frac{\alpha}{k}\, B A\, h.$$

# %% [markdown]
# So the adapter adds a correction. $A$ has $k$ rows, and shrinks $h$ to $k$ numbers. $B$ has $k$
# columns, and makes of them a vector as long as $y$. The number $k$ is the **rank**, here 16. The
# constant $\alpha$ sets how strongly the adapter counts.
#
# Why not train $W_4$ itself? A training step moves a weight only a little, and rounding to the
# nearest of 16 values can move it back.
#
# $A$ starts random, $B$ at **zero**. So at first the adapter adds nothing, and training begins at
# the *rounded* model.

# %% [markdown]
# **Predict**: $W$ has 1,536 rows and 576 columns. With rank 16, how many numbers do $A$ and $B$
# have together, in percent of $W$'s?
#
# The cell makes such an adapter by hand, and checks that it adds nothing yet.

# %%
rank, alpha = 16, 32
outputs, inputs = W.shape
A, B = torch.randn(rank, inputs) / inputs**0.5, torch.zeros(outputs, rank)
h = torch.randn(8, inputs)  # a hidden state a row
y = h @ W4.T + alpha / rank * (h @ A.T) @ B.T  # (8, outputs)
assert torch.equal(y, h @ W4.T), "with B = 0 the adapter must not change anything"
print(f"A and B have {(A.numel() + B.numel()) / W.numel():.1%} of the matrix's numbers")

# %% [markdown]
# <details><summary>Answer</summary>
#
# 3.8%: $A$ has $16 \cdot 576$ numbers, $B$ has $1536 \cdot 16$.
# </details>
#
# The figure is to scale.

# %%
# drawing only
figure, axis = plots.panels(1)
x, top = 1400, outputs + 70  # the product's box begins at x; A lies above it, B left of it
box = plots.plt.Rectangle
for patch in (box((0, 0), inputs, outputs, color="#BBBBBB"),
              box((x - 70 - rank, 0), rank, outputs, color="#AA3377"),
              box((x, top), inputs, rank, color="#AA3377"),
              box((x, 0), inputs, outputs, fill=False, linestyle="--")):
    axis.add_patch(patch)
axis.plot([x - 70, x + 420, x + 420], [1200, 1200, top], "k:o", markevery=[1])
for place, y, text in ((30, 700, f"$W_4$\n{outputs} × {inputs}\nfrozen, 4 bits"),
                       (800, 700, r"$+\;\frac{\alpha}{k}$"),
                       (x - 490, 1330, f"$B$\n{outputs} × {rank}\ntrained"),
                       (x + 620, top - 20, f"$A$, {rank} × {inputs}, trained"),
                       (x + 30, 600, f"$B A$\n{outputs} × {inputs}\nnot stored"),
                       (x + 620, 1200, "a number of $B A$:\na row of $B$\ntimes a column of $A$")):
    axis.text(place, y, text, fontsize=18 if "alpha" in text else None, va="center")
axis.set(xlim=(-20, 3200), ylim=(-20, top + 60), aspect="equal")
axis.axis("off")
plots.label(axis, "", "", "two thin strips multiply to a matrix as large as $W_4$");

# %% [markdown]
# **What to see.** The strips are only 16 numbers thin. Yet their product, the dashed box, is as
# large as $W_4$.
#
# Every linear matrix of every layer gets an adapter. In the 8B model all adapters together have 42
# million numbers, where the base has 7.5 billion. The reward head $W_p$ (Eq. 2), which makes a
# reward of the last hidden state, is new and random. So it is trained as a whole.
#
# **So adapters and head learn, and only they need gradients and averages. The rest, the base, stays
# as it was rounded.**

# %% [markdown]
# ## 4. What the batch costs: activations
#
# What else must fit on the card, and which trick shrinks which part?
#
# The **forward pass** computes the rewards, the **backward pass** then the gradients.
# **Activations** are what the forward pass makes, and keeps because the backward pass needs it
# again. Most are vectors, several for each token in each layer. So they grow with the tokens.
#
# **Gradient checkpointing** keeps only the vector that enters each layer. When the backward pass
# comes to a layer, it computes the layer's other vectors again. The price is time: one more
# forward pass.

# %% [markdown]
# How does one learn the bytes without the card? `bsr_lite.scale.estimate` takes a training step on
# *fake* tensors, which have shapes but no memory. It counts the most bytes that live at once.
#
# We count five ways to train:
# - *full*: every weight is trained in 32 bits, and copied to 16 bits to compute. The backward pass
#   needs the copies again. So they count as activations, though they do not grow with the tokens.
# - *LoRA*: adapters beside a frozen 16-bit base, with and without checkpointing.
# - *QLoRA*: adapters beside a 4-bit base, with and without checkpointing.

# %%
# each way changes the config of our small QLoRA run: no 4 bits; gradient checkpointing
PLAIN, AGAIN = "model.quantization=null", "model.gradient_checkpointing=true"
WAYS = {"full": ["model.lora_rank=null", PLAIN], "LoRA": [PLAIN],
        "LoRA,\ncheckpointing": [PLAIN, AGAIN], "QLoRA": [], "QLoRA,\ncheckpointing": [AGAIN]}
BIG = "model.name=meta-llama/Llama-3.1-8B-Instruct"  # its shapes alone

# %% [markdown]
# The model is Llama-3.1-8B. The card computes one pair at a time: a prompt and its two answers. We
# count long texts and short ones: a prompt and *one* answer together have 2,048 tokens, or 512. A
# quarter of them is the prompt, which both answers share.
#
# All 32 layers are alike. So the cell counts a model of few layers, and one of a layer more. Their
# difference is what each further layer adds.

# %%
from bsr_lite.scale.estimate import estimate


@functools.cache  # nothing is counted twice
def counted(length, way, layers):
    return estimate(load_config(CONFIG.format("bt"), overrides=[
        BIG, f"model.depth={layers}", f"data.max_length={length}", f"token_budget={2 * length}",
        *WAYS[way]]), card="4060ti")  # a card of 16 GB


def on_a_line(length, way, layers=32):
    first = 2 if way in ("full", "LoRA") else 1  # their one layer lies off the line
    less, more = counted(length, way, first), counted(length, way, first + 1)
    return {part: less[part] + (layers - first) * (more[part] - less[part]) for part in less}

# %% [markdown]
# Now the bill, in GB ($10^9$ bytes). Its parts are the base, what training adds, the activations,
# and what CUDA, the GPU's software, takes for itself. The table shows two ways, with long texts.

# %%
bill = {}
for length, way in [(2048, way) for way in WAYS] + [(512, way) for way in list(WAYS)[1:]]:
    parts = on_a_line(length, way)
    parts["trained"] = sum(parts[p] for p in ("adapters", "gradients", "optimizer"))
    bill[length, way] = {p: parts[p] / 1e9 for p in (
        "base", "trained", "activations", "context", "total")}  # context: CUDA's own, assumed


def gb(ways):  # a row a way, with long texts
    return Markdown(tables.table(
        ["GB", "base", "gradients, averages, adapters", "activations", "CUDA", "total"],
        [[name, *(f"{x:.1f}" for x in bill[2048, way].values())] for name, way in ways.items()]))


gb({"full": "full", "LoRA": "LoRA"})

# %% [markdown]
# In *full*, 30.0 and 90.1 GB are the 120.1 of Section 1. Adapters make three parts smaller:
# - Gradients and averages nearly vanish.
# - The frozen base needs only 16 bits.
# - Activations no longer hold the 16-bit copies.
#
# **Predict**: which trick saves more with long texts, 4 bits or checkpointing? And which with
# short ones, a quarter as long?
#
# A bar of the figure is one way to train, and its total stands below it. Look for the bars that
# stay below a card's dashed line.

# %%
# drawing only
PARTS = {"base": ("frozen base", "#BBBBBB"), "activations": ("activations", "#4477AA"),
         "trained": ("adapters, gradients, averages", "#AA3377"), "context": ("CUDA", "#CCBB44")}
figure, axes = plots.panels(2, sharey=True)
for axis, length in zip(axes, (2048, 512), strict=True):
    bottom, some = torch.zeros(4), list(WAYS)[1:]
    for part, (name, tint) in PARTS.items():
        height = torch.tensor([bill[length, way][part] for way in some])
        bars = axis.bar(range(4), height, 0.6, bottom=bottom, color=tint, label=name, zorder=2)
        axis.bar_label(bars, [f"{x:.1f}" if x > 1.8 else "" for x in height], fontsize=8,
                       label_type="center", color="white" if part == "activations" else "black")
        bottom += height
    for limit in (16, 24):
        axis.axhline(limit, color="black", linewidth=0.8, linestyle="--", zorder=1)
        axis.text(3.45, limit + 0.4, f"{limit} GB card", fontsize=8, ha="right")
    axis.set_xticks(range(4), [f"{x:.1f} GB\n{way}" for x, way in zip(bottom, some, strict=True)],
                    fontsize=8.5)
plots.label(axes[0], "", "memory, counted (GB)",
            "2,048 tokens: a 16 GB card needs all three tricks")
plots.label(axes[1], "", "", "512 tokens: adapters and 4 bits suffice on 16 GB")
axes[1].legend(loc="upper right", fontsize=8, reverse=True);

# %% [markdown]
# <details><summary>Answer</summary>
#
# With long texts checkpointing: it takes LoRA from 41.8 to 18.5 GB, 4 bits only to 27.5. With
# short ones 4 bits: they take LoRA from 22.7 to 11.5 GB, checkpointing only to 16.8.
# </details>

# %% [markdown]
# **What to see.** On the left texts are long, and most of LoRA's bar is activations. Only all
# three tricks together stay below 16 GB, at 7.8. On the right activations are a quarter, and most
# of LoRA's bar is the base. There QLoRA fits into 16 GB without checkpointing. LoRA with
# checkpointing, at 16.8 GB, does not.
#
# Why does the 4-bit base take 4.7 GB, not the 3.8 of Section 1? Each block has its absmax, and the
# **embeddings**, a vector for each word, stay in 16 bits. (Section 8 says why 4 bits shrink even
# the activations.)

# %% [markdown]
# How far can the count be trusted? On a real card, an H100, our small model's activations took at
# most 1.6% more than counted (`data/runs/gpu_nvidia-h100-80gb-hbm3/summary.md`). Neither an 8B
# model nor checkpointing was tried there.
#
# CUDA's .6 GB are assumed, where the H100 took .8. Gaps in the card's memory, between tensors, are
# not counted. So leave 1 to 2 GB free.
#
# **So adapters shrink gradients and averages, 4 bits the base, checkpointing the activations. With
# long texts a 16 GB card needs all three.**

# %% [markdown]
# ## 5. Train, live
#
# Can a model be trained whose base is rounded to 4 bits?
#
# We cut our small model to its first six layers, and hold it in NF4. Adapters and head are trained
# for ten steps of eight pairs. The loss is BSR's (Eq. 25, lesson 03). It pushes the better answer's
# reward above the worse one's, and pulls a batch's mean reward to zero.

# %%
from bsr_lite.train_rm import train

RUNS = Path(tempfile.mkdtemp())
run = load_config(CONFIG.format("bsr"), overrides=[
    "model.depth=6", "data.max_pairs=80", "batch_size=8", "eval_every=100", "eval_groups=2",
    f"output_dir={RUNS / 'bsr'}"])
with contextlib.redirect_stdout(io.StringIO()):
    bsr, _ = train(run)
learned = sum(p.numel() for p in bsr.parameters() if p.requires_grad)
print(f"adapters and head: {learned / 1e6:.2f} million numbers trained")

# %% [markdown]
# **So training runs beside a base held in 4 bits.** What ten steps taught is barely shown (Section
# 11). Not tested here: whether a model learns *worse* on a rounded base than on one in 16 bits.

# %% [markdown]
# ## 6. Save, load, check
#
# What must be saved, and how does one notice that a loaded model is not the trained one?
#
# Training changed only adapters and head, so only these are saved. When the model is loaded, the
# base is made anew from its own file. A note, `reward_model.json`, says how the base was held.

# %%
folder = RUNS / "bsr" / "model"
size = sum(f.stat().st_size for f in folder.glob("adapter_model*"))
meta = json.loads((folder / "reward_model.json").read_text())
print(f"adapters and head: {size / 1e6:.1f} MB; base: {meta['quantization']}")

# %% [markdown]
# Must the base be rounded again, as in training? The *original* base, as the model's file gives it,
# is more exact. To try it, the cell copies the folder, and changes nothing but the note.

# %%
import shutil

original = RUNS / "original"
shutil.copytree(folder, original)  # the same adapters, the same head
(original / "reward_model.json").write_text(json.dumps(meta | {"quantization": None}));

# %% [markdown]
# We load three copies. One is *reloaded* as it was saved, and one has its adapters *beside the
# original* base. The third, a yardstick, has *no adapters*: its $B$ are set to zero. A good check
# must tell all three apart.

# %%
copies = {"reloaded": load_reward_model(str(folder)),
          "beside the original": load_reward_model(str(original)),  # a warning would show below
          "no adapters": load_reward_model(str(folder))}
for name, weights in copies["no adapters"].named_parameters():
    if "lora_B" in name:
        weights.data.zero_()

# %%
from bsr_lite.eval_rm import score_answers

PROMPT = "Explain why the sky is blue. Answer in two sentences."
ANSWERS = ["Sunlight is scattered by the air, and blue light is scattered most. So blue light "
           "reaches our eyes from all over the sky.",
           "The sky is blue because it is blue. The sky is blue because it is blue. The sky is",
           "I like trains.", "Blue."]
rewards = score_answers(bsr, PROMPT, ANSWERS)
scored = {name: score_answers(model, PROMPT, ANSWERS) for name, model in copies.items()}

# %% [markdown]
# Which change counts? Only **margins**, differences between two rewards of the same prompt, mean
# something (01). So the table's last column is the largest change of any margin.
#
# The trained model puts answer 4 above answer 2, by 1.22. **Predict**: by how much does a margin
# change beside the original base? Does the order of the four change?

# %%
def margins(rewards):
    return rewards[:, None] - rewards  # (4, 4): of each answer over each


def off(name, reference=rewards):  # the largest change of any margin
    return (margins(scored[name]) - margins(reference)).abs().max().item()


rows = [["trained", *(f"{r:+.2f}" for r in rewards), ""]]
rows += [[name, *(f"{r:+.2f}" for r in scored[name]), f"{off(name):.3f}"] for name in scored]
Markdown(tables.table(["rewards of", *(f"{n + 1}: {ANSWERS[n][:14]}" for n in range(4)),
                       "largest change of a margin"], rows))

# %% [markdown]
# <details><summary>Answer</summary>
#
# By up to .127, a tenth of 1.22. The order stays.
# </details>
#
# Reloaded, the rewards are the same, to the bit. Beside the original base nothing failed, and no
# warning came. Yet the margin of answer 4 over answer 2 fell from 1.22 to 1.09. For scale: with no
# adapters at all a margin changes by up to .566.
#
# The *order* does not show the other base. Which copy judges *better*, four answers cannot say.
# Even the trained model puts "I like trains." above the right answer.

# %%
assert torch.equal(scored["reloaded"], rewards), "same adapters, same 4-bit base, same bits"
assert off("beside the original") > 2e-3, "the check must notice another base"

# %% [markdown]
# When must rewards agree to the bit? Only on the same machine, with the same texts in one batch.
# Otherwise sums may run in another order, and margins agree only *nearly*.
#
# How nearly? On the H100 our small model's *rewards* differed from a CPU's by a millionth of their
# size in 32 bits. In 16 bits it was up to 1.4% (Section 4's record). Margins were not measured. A
# tenth of the largest margin is far more.
#
# **So a trained model is its head, its adapters *and* its rounded base. To check a copy, compare
# the margins of a few answers. The order alone can hide a change.**

# %% [markdown]
# ## Exercises
#
# A wrong answer gets a second hint. Solutions: `notebooks/solutions/`.

# %% [markdown]
# **1.** *How large a block?* A matrix may take `budget` bits a weight. It is rounded in blocks of
# 32, 64 or 128, with double quantization. Return the block whose rounding error is smallest among
# those within the budget. Measure the error, with Section 2's functions: `weight` may be any
# matrix. Then decide for the 8B model: its matrices have 6.98 billion weights, and may take 3.65
# GB. Which block, if they look like $W$? Is any left, if each absmax stays in 32 bits?
#
# <details><summary>Hint</summary>
#
# Ask two things of each block: what does it cost, and what does it lose? Which question comes
# first?
# </details>

# %%
def best_block(weight, values, budget):
    return None


checks.check_best_block(best_block);

# %%
for budget in (4.1, 4.2, 4.3):
    print(f"at most {budget} bits a weight: blocks of {best_block(W, nf4, budget)}")

# %% [markdown]
# **2.** *Before you rent a card.* How many GB ($10^9$ bytes) does a QLoRA run need that do not
# depend on its batch, CUDA's own left out? `linear` weights lie in NF4 with double quantization.
# `others`, the embeddings, are frozen in 16 bits. `trained` numbers are in 32 bits with AdamW.
# Control: 5.3 GB (4.65 + .67) for Section 4's 8B model. Then Llama-3.1-70B: which of the cards of
# 16, 24, 32, 48 and 80 GB are ruled out whatever the batch?
#
# <details><summary>Hint</summary>
#
# What does training add to a number, and to which of the three?
# </details>

# %%
def fixed_memory(linear, others, trained):
    return None


checks.check_fixed_memory(fixed_memory);

# %%
print("8B: ", fixed_memory(6.98e9, 0.525e9, 0.042e9), "GB")
print("70B:", fixed_memory(68.5e9, 1.05e9, 0.207e9), "GB")

# %% [markdown]
# **3.** *Check a copy.* `trained` holds the trained model's rewards, a row a prompt, a column an
# answer. `loaded` holds a copy's. Return the largest change of any margin. One of the three copies
# below has lost its head, and got a random one. Which copies would you hand on? What would you have
# said had you compared only the rewards? And only each prompt's order?
#
# <details><summary>Hint</summary>
#
# Margins compare answers of *one* prompt. Which rewards of the table may not be compared?
# </details>

# %%
def margin_change(trained, loaded):
    return None


checks.check_margin_change(margin_change);

# %%
saved = torch.tensor([[1.0, 0.2, 0.1, -0.4], [0.5, 0.9, -1.1, 0.0]])
lost = torch.tensor([[0.3, 0.1, 0.0, -0.2], [-0.1, 0.1, 0.4, 0.2]])
for name, copy in {"a": saved + 2, "b": 0.8 * saved, "c": lost}.items():
    print(f"{name}: {margin_change(saved, copy)}")

# %% [markdown]
# ## Check yourself
#
# 1. A weight is frozen, and stays in 32 bits. How many bytes does it cost, and what has it lost?
# 2. Prompts and answers become half as long. Which parts of the bars in Section 4's figure shrink?
# 3. An adapter of rank 64 beside our $W$: how many percent of its numbers?
# 4. In some matrix the weights of a block spread evenly from $-1$ to 1 times its absmax. Would you
#    round it with NF4?
# 5. A colleague sends you adapters and head, 3.9 MB. What else must you know to load her model, and
#    what to see that you have it?

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1. Four of 16. It has no gradient and no averages.
# 2. The activations shrink, to about half, as the tokens. All other parts stay.
# 3. Four times as many as rank 16: 15.3%.
# 4. No: 16 evenly spaced values fit it better. NF4 is made for weights that are dense near zero.
# 5. Which base she used, and how it was rounded. And her rewards of a few answers, to compare
#    margins.
# </details>

# %% [markdown]
# ## What to watch, what to vary
#
# | In your run, watch | Healthy | If not, or next, vary |
# |---|---|---|
# | estimate, total | at least 1 to 2 GB under the card's | 4 bits, checkpointing, shorter answers |
# | rewards after a reload, same machine, same batch | equal to the bit | the note's base |
# | margins, on another card | change: far below a tenth of the largest | the base: its own? |

# %% [markdown]
# ## What you know now
#
# **Adapters shrink what training adds, 4 bits the base, checkpointing the activations. And the
# rounded base is part of the trained model.**
#
# The whole bill, with long texts, one trick more a row:

# %%
gb({"full": "full", "+ adapters": "LoRA", "+ checkpointing": "LoRA,\ncheckpointing",
    "+ 4 bits": "QLoRA,\ncheckpointing"})

# %% [markdown]
# Next: **06 · Can you trust a comparison of two reward models?**

# %% [markdown]
# ## Second reading
#
# For those who will change a setting of QLoRA, or hand a trained model on. Exercise 4 closes it.

# %% [markdown]
# ## 7. Where NF4's values come from, and why blocks of 64
#
# **NF4** takes **quantiles** of the Gaussian bell. The quantile of probability $p$ has a share $p$
# of the bell below it. Equal steps of $p$ give numbers that are dense where the bell is high. NF4
# takes 8 positive quantiles, 7 negative ones, and 0. It divides all by the largest, which becomes
# 1.

# %%
normal = torch.distributions.Normal(0.0, 1.0)
# Probability 1 lies at infinity, so the outermost quantile stands half a step before it. A step is
# 1/16 for 16 values and 1/15 for 15; bitsandbytes takes the mean of both.
TAIL = 1 - (1 / 32 + 1 / 30) / 2


def half(count):  # quantiles from the tail to just above the median
    return normal.icdf(torch.linspace(TAIL, 0.5, count + 1, dtype=torch.float64)[:-1])


ours = torch.cat([half(8), torch.zeros(1), -half(7)]).sort().values
torch.testing.assert_close((ours / ours.max()).float(), nf4, rtol=0, atol=1e-6)

# %% [markdown]
# Sixteen evenly spaced values in $[-1, 1]$ would be simpler. Larger blocks would need fewer absmax.
# What would be lost?
#
# **Predict**: in blocks of 64, is the error larger with even values, or smaller? Does NF4's lead
# grow or shrink with the block?

# %%
torch.manual_seed(0)
even, gauss = torch.linspace(-1, 1, 16), torch.randn(128, 4096)
print(f"blocks of 64: NF4 {error(W, nf4, 64):.1f}%, even {error(W, even, 64):.1f}%")
for b in (64, 4096):
    print(f"absmax of {b:4d} Gaussian numbers: {gauss.view(-1, b).abs().amax(1).mean():.1f} std")

# %%
# drawing only
blocks = [b for b in (16, 64, 256, 1024, 4096) if b <= W.numel()]
figure, axis = plots.panels(1)
for name, place, tint in (("NF4", nf4, "#4477AA"), ("even", even, "black")):
    axis.plot(blocks, [error(W, place, b) for b in blocks], "o-", color=tint, markersize=4)
    axis.plot(blocks, [error(gauss, place, b) for b in blocks], ":", color=tint)
    axis.text(4700, error(W, place, blocks[-1]), name, color=tint, va="center")
plots.label(axis, "weights in a block", "rounding error, % of the weights' std",
            "NF4's lead over even values grows with the block")
axis.set(xscale="log", xlim=(13, 7500), ylim=(0, None))
axis.set_xticks(blocks, blocks)
axis.annotate("dotted: Gaussian numbers", (1024, error(gauss, nf4, 1024)), (1024, 7.2),
              ha="center", arrowprops={"arrowstyle": "-", "color": "#4477AA"});

# %% [markdown]
# <details><summary>Answer</summary>
#
# It is larger: at 64 by a tenth, at 4,096 by more than a third. So the lead grows. The larger the
# block, the farther out its absmax, and the more even values are wasted on a thin tail.
# </details>
#
# **What to see.** In blocks of 16 even values are slightly better. And every error grows with the
# block: so smaller blocks mean smaller errors, but more bits for their absmax. On Gaussian numbers,
# dotted, NF4's lead grows too. So it does not come from our file's format.

# %% [markdown]
# ## 8. What the activations hold
#
# Can a count be checked by hand? We take four layers of our small model, in 32 bits, with 1,024
# tokens. The last column counts real tensors.
#
# **Predict**: which is larger, base or activations? Which of the two do 4 bits shrink?

# %%
from bsr_lite.scale.estimate import measure

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
# 20 vectors. Checkpointing keeps one, and all 20 only in the layer that is computed again. These
# are 24 vectors, 57 MB, where 67 are counted.

# %% [markdown]
# Now 8B, with long texts. As both answers share their prompt, a pair has
# $512 + 2 \cdot 1536 = 3584$ tokens. By the rule a token has $20 \cdot 32$ vectors of 4,096
# numbers, in 16 bits. With checkpointing it has $32 + 20$. These are 18.8 and 1.5 GB. Counted are
# 25.5 and 2.2. The rule is too low, but right about which trick saves more.

# %% [markdown]
# Why too low? Probably for two reasons, whose shares were not measured. It carries 20 from our
# model to 8B. But the widest vectors in a layer of 8B are 3.5 times as wide as a hidden state, and
# in our model 2.7 times. And beside a 16-bit layer PEFT, the library of adapters, copies an
# adapter's input to 32 bits.

# %% [markdown]
# Beside a 4-bit layer PEFT makes no copy. So 4 bits save 14.3 GB of LoRA's total, of which 10.3 are
# weights. The rest is activations. Our small model computes in 32 bits anyway, so the table shows
# no such saving.

# %% [markdown]
# **How far to trust the count.** Both columns of activations come from one counter, and would share
# its errors. The H100 of Section 4 is a second opinion, without checkpointing.
#
# Section 4 counts one and two layers. For *full* and *LoRA*, whose one layer lies off the line, it
# counts two and three. The cell asserts that five lie on that line. It also asserts the
# left half of Section 4's figure. All 32 layers, once counted, gave the same digits
# (`data/runs/LOG.md`).
#
# *And your card?* `README.md` has such a count for cards of 12, 16 and 24 GB, for other models or
# more tokens at a time. So its GB differ from ours. None of its runs was tried.

# %%
fits = {limit: [way for way in WAYS if bill[2048, way]["total"] < limit] for limit in (16, 24)}
assert fits[16] == ["QLoRA,\ncheckpointing"], "at 2,048 tokens 16 GB takes all three tricks"
assert fits[24] == ["LoRA,\ncheckpointing", "QLoRA,\ncheckpointing"], "24 GB needs no 4 bits"
assert abs(bill[2048, "full"]["base"] / (4 * WEIGHTS / 1e9) - 1) < 1e-3, "Section 1's weights"
for way in ("full", "LoRA"):
    assert on_a_line(2048, way, 5) == counted(2048, way, 5), "five layers lie on the line"

# %% [markdown]
# ## 9. What the first step moves
#
# An adapter starts with $B = 0$ (Section 3). **Predict**: at the very first step, is the gradient
# of $A$ zero? Is that of $B$? The cell takes a made-up loss.

# %%
A.requires_grad_(), B.requires_grad_()
y = h @ W4.T + alpha / rank * (h @ A.T) @ B.T
y.square().mean().backward()
print(f"|gradient of A| {A.grad.norm():.2f}, |gradient of B| {B.grad.norm():.2f}")
assert A.grad.norm() == 0 and B.grad.norm() > 0, "A's gradient passes through B"

# %% [markdown]
# <details><summary>Answer</summary>
#
# $A$'s is zero: it passes through $B$, which is zero. $B$'s is not. If both started at zero, each
# one's gradient would pass through the other, and no adapter would ever move.
# </details>

# %% [markdown]
# ## 10. Merge, and round again
#
# **Merging** folds an adapter into one matrix, $W' = W_4 + \frac{\alpha}{k} B A$, which gives the
# same outputs. But $W'$ does not lie on the 16 values. So it takes at least 16 bits a weight again,
# 15.0 GB for 8B. For 4 bits it must be rounded again. Which copy is still the model?
#
# Three more copies join those of Section 6: the adapters *merged* into the rounded base, in 32
# bits; *merged into the original* base, in 32 bits; and *merged, rounded again* to 4 bits. The
# control is Section 6's copy with no adapters.
#
# **Predict**: which copies keep every margin?

# %%
from bsr_lite.scale.merge import merge_reward_model

with quiet_loading(), contextlib.redirect_stdout(io.StringIO()):
    for name, source in (("merged", folder), ("merged into the original", original)):
        merge_reward_model(source, RUNS / name)  # the base's values + (alpha / k) B A
        scored[name] = score_answers(load_reward_model(str(RUNS / name)), PROMPT, ANSWERS)

# %% [markdown]
# The copy without adapters (its rewards are kept) becomes the one that is rounded again: into each
# of its matrices goes the rounded sum of base and trained adapter.

# %%
def adapted(model):  # the matrices with an adapter
    return [layer for layer in model.backbone.modules() if hasattr(layer, "lora_A")]


again = copies["no adapters"]
for layer, trained in zip(adapted(again), adapted(bsr), strict=True):
    held = trained.base_layer.weight
    A, B = (getattr(trained, x)["default"].weight.data for x in ("lora_A", "lora_B"))
    whole = bnb.dequantize_4bit(held.data, held.quant_state)
    whole = (whole.float() + trained.scaling["default"] * B @ A).to(whole.dtype)
    held = layer.base_layer.weight
    held.data, held.quant_state = bnb.quantize_4bit(
        whole, blocksize=64, quant_type="nf4", compress_statistics=True)
scored["merged, rounded again"] = score_answers(again, PROMPT, ANSWERS)

# %%
# drawing only
figure, axis = plots.panels(1)
figure.set_figheight(1.2 * figure.get_figheight())
names = ["reloaded", "merged", "beside the original", "merged into the original",
         "merged, rounded again", "no adapters"]
for place, name in enumerate(reversed(names)):
    moved = scored[name] - rewards
    ground = "#F2F2F2" if place % 2 else "white"
    axis.axhspan(place - 0.5, place + 0.5, color=ground, zorder=-1)
    axis.plot([moved.min(), moved.max()], [place] * 2, color="black", linewidth=1, zorder=4)
    for answer, x in enumerate(moved.tolist()):  # digits one below the other, to be read
        axis.text(x, place + 0.23 * (1.5 - answer), f"{answer + 1}", color="#4477AA", ha="center",
                  va="center_baseline", fontsize=8,
                  bbox={"color": ground, "pad": 0.2, "linewidth": 0})
    axis.text(1.02, place, f"{off(name):.3f}", va="center", transform=axis.get_yaxis_transform())
axis.text(1.02, len(names) - 0.5, "largest change\nof a margin", fontsize=8,
          transform=axis.get_yaxis_transform())
axis.axvline(0, color="#BBBBBB", linewidth=0.6, zorder=0)
axis.grid(False)
axis.set(yticks=range(len(names)), yticklabels=names[::-1], ylim=(-0.5, len(names) - 0.5))
plots.label(axis, "reward minus the trained model's; digits: the four answers", "",
            "only its own rounded base keeps the margins; rounded again is like no adapters")

# %%
# sums run in another order; in 16 bits each is rounded more coarsely: a wide bound
near = 1e-3 if meta["dtype"] == "float32" else 0.06
assert off("merged") < near, "merged into the base it was trained on: the same model"
beside, into = "beside the original", "merged into the original"
assert off(beside, scored[into]) < near, "one function"
for name in (beside, into, "merged, rounded again"):
    assert off(name) > max(off("merged"), 2e-3), f"{name}: moved too little"  # twice 1e-3

# %% [markdown]
# <details><summary>Answer</summary>
#
# Only two: the reloaded copy to the bit, the merged one to three decimals.
# </details>
#
# **What to see.** A margin changes by the difference of its two rewards' moves. So a row's line is
# as long as the largest change of a margin. A digit's height in its row means nothing.
#
# Beside the original or merged into it is the same: **beside or merged is one function; the base
# decides.** So `merge` reads the note, and adds to the base that it names. On the original base a
# margin moves by .127. Without all that the adapters learned, one moves by .566.

# %% [markdown]
# Why is the copy that was rounded again nearly the control? **Predict** how many 4-bit codes ten
# steps moved.

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
# Not tried: longer training, and merging in 16 bits, in which an 8B model computes.

# %% [markdown]
# ## 11. Did ten steps teach it anything?
#
# Does the model of Section 5 order answers better than before? **Kendall's tau** compares two
# orders of a prompt's four answers, that of the rewards and that of gold, the pocket world's true
# quality (01). It is 1 for the same order, 0 for unrelated orders, and $-1$ for the reversed one.
#
# We take 30 prompts of *dev*, a set that is not trained on. A random head may rank well by luck.
# So the cell scores `start`, the model before training, too.

# %%
import dataclasses

from bsr_lite.eval_rm import evaluate
from bsr_lite.metrics import bootstrap_interval, clustered
from bsr_lite.train_rm import prepare

with contextlib.redirect_stdout(io.StringIO()):  # the head and adapters that training starts from
    start, _, watched, _ = prepare(dataclasses.replace(run, eval_groups=30), None)
before, after = (evaluate(model.eval(), watched["dev"], token_budget=run.token_budget)
                 for model in (start, bsr))
assert before["prompt"] == after["prompt"], "a paired difference needs the same prompts"

# %% [markdown]
# **Predict**: at which tau does a random head start? How many of the 30 prompts rank better after
# ten steps?
#
# The cell takes each prompt's change of tau, and their mean with a 95% interval over prompts.

# %%
change = torch.tensor(after["per_prompt"]) - torch.tensor(before["per_prompt"])  # a number a prompt
mean, low, high = bootstrap_interval(clustered(change.tolist(), after["prompt"]))
worse, same, better = ((change.sign() == x).sum().item() for x in (-1, 0, 1))
print(f"before: dev tau {before['score']:+.2f} ({before['low']:+.2f} to {before['high']:+.2f})")
print(f"after minus before: {mean:+.2f} ({low:+.2f} to {high:+.2f})")

# %% [markdown]
# In the figure a point is a prompt. Look at how many lie above zero, and whether the bar of the
# mean reaches zero.

# %%
# drawing only
figure, axis = plots.panels(1)
tints = ["#EE7733" if x < 0 else "#0077BB" if x > 0 else "#888888" for x in change.sort().values]
axis.scatter(range(len(change)), change.sort().values, 24, tints)
axis.errorbar([len(change) + 3], [mean], [[mean - low], [high - mean]], fmt="D", color="black")
axis.text(len(change) + 3, high + 0.08, "mean,\n95%", ha="center")
axis.axhline(0, color="grey", linewidth=0.6)
axis.set(xlim=(-1, 36), xticks=[0, 10, 20, 29])
plots.label(axis, "prompts, sorted", "tau after training minus before",
            f"mean {mean:+.2f} (95% interval {low:+.2f} to {high:+.2f}): "
            f"{better} prompts better, {same} as before, {worse} worse");

# %% [markdown]
# <details><summary>Answer</summary>
#
# At .17. Its interval holds zero, so this may be luck. Half of the prompts rank better.
# </details>
#
# **What to see.** The mean's interval just leaves out zero.
#
# This flatters. Six sizes of the run were tried. For three of them the interval holds zero
# (`data/runs/LOG.md`). We show the cheapest whose interval does not, with one seed.
#
# Not tested: what the head alone would gain.
#
# **So a model on a base of 4 bits learned something, but this is barely shown.**

# %% [markdown]
# ## Exercise 4
#
# *One matrix for two.* A layer holds `codes` and `absmax` (a block a row) of NF4 `values` (16,),
# and an adapter `A` (k, inputs), `B` (outputs, k) with `alpha`. Return the matrix $W'$, (outputs,
# inputs), for which `h @ W'.T` is what both give together. Then: a colleague merges into the
# original matrix `W`. By which matrix is the result wrong, and does it depend on `A` and `B`? And
# why does merging into the original give the same as standing beside it?
#
# <details><summary>Hint</summary>
#
# Write both layers' outputs for one $h$, and subtract.
# </details>

# %%
def merged_matrix(codes, absmax, values, A, B, alpha):
    return None


checks.check_merged_matrix(merged_matrix);
