# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 10 · What changes between a 135M model on a laptop and 8B on eight GPUs?
#
# Where the numbers lie, who computes them, and how long that takes. Some tricks change the numbers
# on purpose (bf16, QLoRA). The others must not: **does such a trick give the plain way's numbers,
# and would the test notice if it did not?** Packing and two processes pass here; one obvious way to
# split a batch fails.

# %% [markdown]
# After it you can
# - say which lines of an 8B config decide the loss, and which only memory and time;
# - lay a batch out without padding, and say which attention mask that stands for;
# - split a batch-coupled loss (BSR, Eq. 25) over GPUs without changing it;
# - count a run's memory beforehand, and say why its time must be measured.

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
import dataclasses
import json

import pandas as pd
import torch

from bsr_lite import plots
from bsr_lite.config import load_config
from bsr_lite.course import checks_policy as checks

CONFIG = "bsr_lite/configs/rm_8b_bsr.yaml"

# %% [markdown]
# ## 1. The config, and what decides the loss
#
# `rm_8b_bsr.yaml` follows the paper's 8B recipe. Comments name a value's source; its first lines,
# not shown, say where it differs.
#
# **Predict**: two lines decide a training step's memory and speed, but never its loss. Which?

# %%
text = Path(CONFIG).read_text()
print(text[text.index("output_dir"):])

# %%
small, big = load_config("bsr_lite/configs/rm_fast.yaml"), load_config(CONFIG)
assert big.batch_size % big.bsr_group_size == 0, "groups are runs of pairs: they must fill a batch"

# %% [markdown]
# <details><summary>Answer</summary>
#
# `token_budget`, the tokens of a micro-batch, and `gradient_checkpointing`: layers are computed
# again in the backward pass, not kept. (`dtype` rounds: weights in fp32, products in bf16.)
# </details>
#
# `bsr_group_size: 16` decides the loss. The official code takes BSR's mean over the micro-batch of
# one GPU, 16 pairs, and nothing links the GPUs. So $G$ in $\lambda G\,\bar r^{\,2}$ (Eq. 25, which
# writes $B$) is 16, averaged over the batch's 8 groups.

# %% [markdown]
# ## 2. A batch without padding
#
# Pairs differ in length. A padded batch computes every row as long as the longest, and every
# prompt twice. Take four pairs with these lengths (prompt, chosen, rejected).
#
# **Predict**: what share of the padded rectangle is padding or repetition? And when a row holds
# each prompt once, then both answers: where must the rejected answer's attention have a hole?

# %%
PAIRS = [(12, 30, 8), (6, 10, 14), (20, 6, 9), (4, 40, 25)]
pairs = [[[1] * p, [2] * c, [3] * r] for p, c, r in PAIRS]
longest = max(p + max(c, r) for p, c, r in PAIRS)
padded = 2 * len(PAIRS) * longest
packed, again = sum(p + c + r for p, c, r in PAIRS), sum(p for p, _, _ in PAIRS)
print(f"padded: 8 rows of {longest} = {padded} tokens; once each: {packed}; "
      f"{1 - packed / padded:.0%} computed for nothing: "
      f"padding {1 - (packed + again) / padded:.0%}, prompts again {again / padded:.0%}")

# %% [markdown]
# So all pairs go into *one row*, `prompt | chosen | rejected | prompt | ...`. Positions
# restart in every pair, and go on from the prompt's end in every answer. A token attends to itself,
# to the tokens before it in its part, and, in an answer, to the whole prompt. Nothing else.

# %%
from bsr_lite.batching import pack

row = pack(pairs)
allowed = torch.zeros(packed, packed)
start = 0
for queries, keys in zip(row.query_lengths, row.keys.split(row.key_lengths), strict=True):
    for i in range(queries):  # the last query of a segment sees all of its keys
        allowed[start + i, keys[:len(keys) - queries + 1 + i]] = 1
    start += queries
kinds = row.input_ids[0]
TINTS = torch.tensor([[1, 1, 1], [0.27, 0.47, 0.67], [0.13, 0.53, 0.2], [0.93, 0.4, 0.47],
                      [0.75, 0.83, 0.9], [0.87, 0.87, 0.87]])
rows = torch.full((2 * len(PAIRS), longest), 5)  # padding
for i, (p, c, r) in enumerate(PAIRS):
    for j, answer in enumerate((c, r)):
        rows[2 * i + j, :p], rows[2 * i + j, p:p + answer] = 1, 2 + j
    rows[2 * i + 1, :p] = 4  # the prompt again

# %%
figure, (left, right) = plots.panels(2, width_ratios=[1, 1.15])
left.imshow(TINTS[rows], aspect="auto", interpolation="nearest")
right.imshow(TINTS[(allowed * kinds[:, None]).long()], aspect="auto", interpolation="nearest")
ends = torch.tensor([0, *(sum(pair) for pair in PAIRS)]).cumsum(0)
for axis, middles in ((left, torch.arange(4) * 2 + 0.5), (right, (ends[:-1] + ends[1:]) / 2)):
    axis.set_yticks(middles.tolist(), [f"pair {i}" for i in range(1, 5)])
for x, y, name, tint in ((0.5, 0, "prompt", "white"), (18, 0, "chosen", "white"),
                         (12.5, 1, "rejected", "white"), (0.5, 1, "prompt again", "black"),
                         (30, 1, "padding", "black")):
    left.text(x, y, name, fontsize=8, color=tint, va="center")
right.text(ends[-1] - 45, ends[-1] - 12, "hole", fontsize=8, ha="center", va="center")
plots.label(left, "token of a row", "two rows a pair",
            f"Padded: grey and pale, {1 - packed / padded:.0%} of {padded} tokens, is waste")
plots.label(right, "token that is looked at", "token that looks, in its colour",
            f"Packed: {packed} tokens; rejected never sees chosen")
left.grid(False)
right.grid(False);

# %% [markdown]
# **What to see.** Left, padding is grey (36%), the second copy of each prompt pale (12%). Right,
# one triangle a pair for prompt and chosen answer. The rejected answer has its own triangle and a
# block over the prompt; the hole between them is the chosen answer, which it must not see.
#
# The test: rewards from packed rows against those of each answer alone. The control fills the hole:
# chosen and rejected become one long answer (so the rejected one's positions move, too).
#
# **Predict**: the rewards' standard deviation is .17. How large is each of the two differences?

# %%
from bsr_lite.models import load_reward_model, rewards
from bsr_lite.scenarios import load_scenarios
from bsr_lite.tokenization import pair_tokens

model = load_reward_model(small.model.name, depth=4, dtype="float32")
some, _ = pair_tokens(load_scenarios(small).train[:8], model.tokenizer, 320)
together = rewards(model, pack(some))
alone = torch.cat([rewards(model, pack([[prompt, answer]])) for prompt, *both in some
                   for answer in both])
leaking = torch.cat([rewards(model, pack([[p, c + r]])) for p, c, r in some])
exact, leak = (together - alone).abs().max(), (leaking - alone[1::2]).abs().max()
print(f"16 rewards, standard deviation {alone.std():.2f}; largest difference: packed {exact:.1e}, "
      f"with the hole filled {leak:.2f}")
assert exact < 5e-5, "packing must not change a reward"
assert leak > 0.05, "the comparison must notice a leak"

# %% [markdown]
# Packed differs by rounding; the control moves one of eight rewards by .14. So packing passes. How
# much faster is it? Recorded on one CPU thread (`python tests/speed/bench.py`), against the
# RewardTrainer of TRL (Hugging Face's library for such training) at its best settings: the same
# pairs, weights and optimizer, four layers; medians and quartiles. *Pocket*: pairs of the pocket
# world; *dialogs*: the same after four earlier turns; *judged*: real answers (notebook 07).

# %%
table = json.loads(Path("data/runs/bench/results.json").read_text())["table"]["reward models"]
best = {name: entry["trl_best"] for name, entry in table.items()}
pd.DataFrame([{"data, training": name, "tokens, TRL's over ours": round(row["computed_tokens"], 2),
               "speed-up (quartiles)": "{:.2f} ({:.2f} to {:.2f})".format(*row["speed_up"])}
              for name, row in best.items()])

# %% [markdown]
# TRL's padded batches compute 1.8 to 2.7 times the tokens. Speed need not follow: *pocket, full*
# gains less than that, both *judged* rows more. Why was not measured; no GPU has timed it.

# %% [markdown]
# ## 3. Where 8 billion weights go
#
# Full fine-tuning in fp32: 4 bytes a weight, 4 for its gradient, 8 for AdamW's two averages; 16 in
# all, 128 GB for 8 billion. QLoRA (notebook 05) shrank the 16; with eight GPUs one can also *cut*
# them: **FSDP2** (fully sharded data parallel; ZeRO stage 3) gives every GPU an eighth of each
# weight, gradient and average, and gathers a layer's weights only while it computes. *DDP* cuts
# nothing: every GPU holds everything, and gradients are added up.

# %% [markdown]
# **Activations**, what the forward pass keeps for the backward pass, come on top. Say 20 GB on each
# GPU.
#
# **Predict**: how many 80 GB cards does it take? And how many GB a GPU remain on 64?

# %%
def sharded(parts, gpus):
    """Bytes on each GPU when all that belongs to weights is cut, and activations are not."""
    cut = sum(parts[k] for k in ("weights", "gradients", "optimizer"))
    return cut / gpus + parts["activations"]


full = {"weights": 4 * 8e9, "gradients": 4 * 8e9, "optimizer": 8 * 8e9, "activations": 20e9}
assert sharded(full, 8) - full["activations"] == 16e9, "16 bytes a weight, an eighth on each of 8"
pd.DataFrame([{"GPUs": gpus, "GB each": sharded(full, gpus) / 1e9}
              for gpus in (1, 2, 3, 4, 8, 64)]).round(1)

# %% [markdown]
# <details><summary>Answer</summary>
#
# Three: two miss it by 4 GB. On 64 there are 22 left, and no number of GPUs gets below the
# activations.
# </details>
#
# `scale.dry_run` counts for a config: the model on *fake* tensors (notebook 05), its parts cut over
# the GPUs, and *gathered*, what a GPU holds whole for a moment. For CUDA itself it assumes .6 GB
# (on an H100: .81).
#
# **Predict**: from 8 GPUs with 32,768 tokens a micro-batch, which saves more: cutting the
# micro-batch to a quarter, or then eight times the GPUs?

# %%
from bsr_lite.scale.dry_run import UTILISATION, memory, step_work, steps_of
from bsr_lite.scale.fake import meta_model

less = dataclasses.replace(big, token_budget=8192)
qlora = load_config("bsr_lite/configs/rm_8b_qlora_bsr.yaml")  # 8,192 tokens, too
meta = meta_model(big.model)
wide, narrow = (memory(config, meta, 8)["FSDP2"] for config in (big, less))
CUT = ("base", "gradients", "optimizer")
more = narrow | {part: narrow[part] / 8 for part in CUT}  # on 64 GPUs
bills = {"8 GPUs, full: 32,768 tokens": wide, "8 GPUs, full: 8,192 tokens": narrow,
         "64 GPUs, full: 8,192 tokens": more,
         "1 GPU, QLoRA: 8,192 tokens": memory(qlora, meta_model(qlora.model), 1)["one GPU"]}

# %%
PARTS = {"weights": (["base"], "#888888"), "gathered": (["gathered"], "#66CCEE"),
         "gradients and AdamW": (["adapters", "gradients", "optimizer"], "#CCBB44"),
         "activations": (["activations"], "#4477AA")}
bills = pd.DataFrame({part: {name: sum(bill[k] for k in keys) / 1e9
                                 for name, bill in bills.items()}
                          for part, (keys, _) in PARTS.items()})
bills.assign(**{"total (GB)": bills.sum(axis=1)}).round(1)

# %%
figure, axis = plots.panels(1)
shown = bills.iloc[:3]  # full fine-tuning
names = [name.replace(", full: ", ",\n") for name in shown.index]
bottom = 0 * shown["weights"]
for part, (_, tint) in PARTS.items():
    axis.barh(names, shown[part], 0.6, left=bottom, color=tint)
    axis.text(bottom.iloc[0] + shown[part].iloc[0] / 2, -0.34, part, fontsize=8,
              ha="center", va="bottom")
    bottom += shown[part]
for place, total in enumerate(bottom):
    change = f" ({total - bottom.iloc[place - 1]:+.1f})" if place else ""
    axis.text(total + 0.4, place, f"{total:.1f} GB{change}", fontsize=9, va="center")
saved = -bottom.diff()
axis.set(xlim=(0, 52), ylim=(2.4, -0.6))
plots.label(axis, "memory of one GPU (GB), without CUDA's own", "",
            f"Cutting tokens to a quarter saves {saved.iloc[1]:.0f} GB, "
            f"then eight times the GPUs {saved.iloc[2]:.0f} GB")

# %% [markdown]
# **What to see.** Fewer tokens shrink activations. More GPUs then shrink weights, gradients and
# averages; what is gathered, mostly the embedding and its gradient, stays. (64 GPUs share 128
# pairs: two each, at most 8,192 tokens. There both changes come together.)
#
# How far to trust it: on an H100 the count was 98 to 100% of the small model's measured
# activations (`data/runs/gpu_nvidia-h100-80gb-hbm3`), in six settings *without* checkpointing. It
# was never too high, so leave room. With checkpointing, as in all bars above, for 8B and for
# several GPUs, it was never measured.

# %% [markdown]
# ## 4. A loss that couples all GPUs
#
# Notebook 03 (Section 5) showed that a micro-batch's own mean is another regularizer. A GPU's share
# is a micro-batch, too. Groups have 16 pairs, and so has each GPU: might each group stay at home?
# No: pairs are dealt to GPUs by length, so that none waits for another.
#
# **Predict**: the rewards of GPU 1 lie above zero on average, those of GPU 2 further below it. The
# obvious way averages the penalties of the halves. Which way does that push each half's rewards?
# Which way does the whole batch's penalty push them?

# %%
from bsr_lite.losses import bsr_penalty

LAMBDA = 0.1
torch.manual_seed(0)
values = torch.randn(8, 2, dtype=torch.float64) + torch.tensor([[1.0]] * 4 + [[-1.0]] * 4)
values.requires_grad_()


def penalty(rewards):  # (B, 2), one group
    return LAMBDA * bsr_penalty(rewards[:, 0], rewards[:, 1])


def halves(rewards):
    return (penalty(rewards[:4]) + penalty(rewards[4:])) / 2


def gradient(loss, of):
    return torch.autograd.grad(loss, of)[0]


whole, naive = gradient(penalty(values), values), gradient(halves(values), values)
print("mean of all, of each half:", *(f"{v.mean():.2f}" for v in (values, values[:4], values[4:])))

# %%
figure, axis = plots.panels(1)
for name, slope, marker, tint in (("whole batch", whole, "o", "#EE6677"),
                                  ("each half alone", naive, "s", "#888888")):
    push = -slope[:, 0]  # a step goes against the gradient
    axis.plot(range(1, 9), push, marker, color=tint)
    axis.text(8.15, push[-1], name, fontsize=9, color=tint, va="center")
for x, name in ((2.5, "GPU 1"), (6.5, "GPU 2")):
    axis.text(x, -0.02, name, ha="center")
axis.axvline(4.5, color="black", linewidth=0.8, linestyle="--")
axis.axhline(0, color="black", linewidth=0.8)
axis.set(ylim=(-0.023, 0.038), xlim=(0.7, 9.3), xticks=range(1, 9))
plots.label(axis, "pair", "the penalty's push on its chosen reward",
            "The whole batch pushes all rewards up; halves push GPU 1's down")

# %% [markdown]
# **What to see.** The mean of all is below zero: the whole batch pushes every reward up by the same
# amount. In halves GPU 1 sees only its own mean, above zero, and pushes *down*.
#
# <details><summary>Why</summary>
#
# With $\bar r_1, \bar r_2$ the halves' means the batch's penalty is
# $2\lambda(\bar r_1+\bar r_2)^2$, the naive one $2\lambda(\bar r_1^{\,2}+\bar r_2^{\,2})$. Naive is
# smaller by $4\lambda\,\bar r_1 \bar r_2$ (larger where signs differ), and zero only if both are.
# </details>
#
# The naive loss is BSR with `bsr_group_size: 4`. That is legitimate: the official code does just
# this, with 16 pairs a GPU. It fails here: the config fixes $G$, so the number of GPUs must not.

# %% [markdown]
# The repair: the loss needs the network only through its rewards. 128 pairs have 256 of them, a
# kilobyte; the weights' gradient has 30 GB. So all *ranks* (processes, normally one a GPU) exchange
# their rewards before anyone goes backward. Each computes $dL/dr$, the derivative of the whole
# batch's loss by each reward, and takes its own slice backward.
#
# Several micro-batches on one GPU do the same: all rewards first, then each part again with a
# graph. That second forward pass is the real price, not the kilobyte: a quarter more work with
# checkpointing (Section 6), none if a GPU's share is one micro-batch.

# %% [markdown]
# The slices' gradients must be *summed*. Where a library averages them, multiply the loss of a
# slice by the number of ranks. Forget it, and the first loss is still right, and AdamW, which
# divides by the gradient's own size, nearly hides the factor: only the gradient's norm shows it.
#
# **Predict**: five weights see all pairs. How far is their gradient off from the whole batch's with
# rewards exchanged, and how far with halves?

# %%
states = torch.randn(8, 2, 5, dtype=torch.float64)  # what a network of five weights sees
states[..., 0] += torch.tensor([[1.0]] * 4 + [[-1.0]] * 4)
weights = torch.ones(5, dtype=torch.float64, requires_grad=True)
exchanged = (states @ weights).detach().requires_grad_()  # all rewards, no graph behind them
dL_dr = gradient(penalty(exchanged), exchanged)  # any loss of all rewards
ranks = sum(gradient((states[own] @ weights * dL_dr[own]).sum(), weights)  # each rank alone
            for own in (slice(0, 4), slice(4, 8)))
plain, split = (gradient(loss(states @ weights), weights) for loss in (penalty, halves))
off = [((found - plain).norm() / plain.norm()).item() for found in (ranks, split, ranks / 2)]
print(f"gradient of the weights, off from the whole batch's: rewards exchanged {off[0]:.0e}, "
      f"each half alone {off[1]:.0%}, averaged instead of summed {off[2]:.0%}; "
      f"mean of all rewards {exchanged.mean():.2f}")
assert off[0] < 1e-12, "slices of dL/dr add up to the whole batch's gradient"
assert off[1] > 0.1, "averaging penalties of halves is another loss"

# %% [markdown]
# 310% is this example's: halves of opposite sign nearly cancel in the whole (mean .10), so its
# gradient is small.

# %% [markdown]
# ## 5. Two processes, live
#
# `accelerate launch` starts the same command twice. The config is `rm_fast.yaml`, cut down: 4
# layers, LoRA, 32 pairs, batches of 8, each one group. Then the same in one process. The control is
# one process with groups of 4: BSR in halves, much as ranks that do not exchange (theirs would be
# sorted by length). All on the CPU.
#
# **Predict**: in which digit does each differ from one process?

# %%
import sys
import tempfile

SMALL = ["--config", "bsr_lite/configs/rm_fast.yaml", "--set", "model.depth=4", "loss=bsr",
         "model.dtype=float32", "bsr_lambda=1e-2", "data.max_pairs=32", "batch_size=8",
         "eval_groups=2"]
LAUNCH = ["-m", "accelerate.commands.launch", "--config_file",
          "bsr_lite/configs/accelerate/ddp.yaml"]


def run(launcher, folder, *more):
    command = [sys.executable, *launcher, "-m", "bsr_lite.train_rm", *SMALL, *more,
               f"output_dir={folder}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False,
                          env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 0, done.stderr[-2000:]
    return pd.read_json(Path(folder) / "metrics.jsonl", lines=True).set_index("step")


with tempfile.TemporaryDirectory() as folder:
    two, one = run(LAUNCH, f"{folder}/two"), run([], f"{folder}/one")
    other = run([], f"{folder}/other", "bsr_group_size=4")

# %%
KEYS = ["train/loss", "train/grad_norm"]
error = ((two[KEYS] - one[KEYS]) / one[KEYS]).abs().max()
control = ((other[KEYS] - one[KEYS]) / one[KEYS]).abs().loc[1]
assert error.max() < 1e-4, "ranks are a way to compute: loss and gradient norm must not know"
assert control.min() > 1e-3, "the comparison must notice another loss"
pd.concat({"two processes": two[KEYS], "one": one[KEYS], "one, groups of 4": other[KEYS]},
          axis=1).round(6)

# %%
figure, axes = plots.panels(2, sharey=True)
FLOOR = 1e-8
for axis, key, title in zip(axes, KEYS, (
        "Loss: two processes agree with one,\ngroups of 4 do not",
        "Gradient norm: the same verdict,\ngroups of 4 still further off"), strict=True):
    for label, runs, tint in (("two processes", two, "#EE6677"), ("groups of 4", other, "#888888")):
        off = ((runs[key] - one[key]) / one[key]).abs().clip(lower=FLOOR)
        axis.semilogy(off.index, off, "o", color=tint)
        axis.text(2.5, off.max() * 3, label, fontsize=9, color=tint, ha="center")
        for step in off.index[off == FLOOR]:  # smaller ones look alike
            axis.plot(step, FLOOR, "o", color=tint, markerfacecolor="white")
            axis.text(step + 0.08, FLOOR, "1e-8 or less", fontsize=8, va="center")
    axis.axhline(1e-4, color="black", linewidth=0.8, linestyle="--")
    axis.text(2.5, 1.3e-4, "limit of the test", fontsize=8, ha="center")
    axis.set(xticks=range(1, 5), ylim=(3e-9, 10))
    plots.label(axis, "step", "", title)
axes[0].set_ylabel("difference from one process\n(share of its value)");

# %% [markdown]
# **What to see.** Between two processes and one lie a few millionths at most, rounding, even after
# three updates. The control is 5% off in its loss and 48% in its gradient norm at the first step,
# where the weights are still the same.
#
# This is LoRA in fp32, with all weights in each process. The 8B config trains and cuts every
# weight; `tests/test_distributed.py` does that with FSDP2, for a tiny model in two CPU processes.
# No two GPUs have run this code.

# %% [markdown]
# ## 6. Time, which cannot be counted
#
# Let $N$ be the weights of matrix products, 7.0 of the 7.5 billion (the rest is the embedding; a
# reward model has no output layer). A token costs $2N$ operations in the forward pass and $4N$ in
# the backward pass. Checkpointing adds $2N$. So does Section 4's second forward pass. In all $10N$;
# attention between tokens adds 4%.

# %%
work = step_work(big, meta, 8)
products = sum(p.numel() for name, p in meta.backbone.named_parameters() if "embed" not in name)
record = json.loads(Path("data/runs/gpu_nvidia-h100-80gb-hbm3/speed.json").read_text())
speed = pd.DataFrame(record["found"]["tables"]["of the embedded model"])
shares = speed[speed.what.str.startswith("train")]["of the published peak"]
print(f"8B: {products / 1e9:.1f} billion weights in products, attention adds "
      f"{work['flops'] / (10 * products * work['tokens']) - 1:.0%}\n"
      f"135M, trained on an H100: {shares.min():.1%} to {shares.max():.1%} of its peak")

# %% [markdown]
# A card's peak is on its data sheet; a run reaches a part, its **utilisation**. `dry_run`
# *assumes* 35%. On the H100 our 135M model reached .2% (QLoRA, 2,048 tokens a micro-batch) to 6%
# (all weights, 32,768), with a slow path of attention that is mended since.
#
# A part of each step may be fixed, perhaps because the card waits for the CPU to start every
# operation (a *kernel*). How much of the 6% a fixed part explains is Exercise 4; what slows the
# rest is unknown. 8B has other matrices: neither 6% nor 35% is a forecast for it.
#
# **Predict**: 596 steps of 524,288 tokens on eight H100s, $989 \cdot 10^{12}$ operations a second
# each: how many hours at 35%?

# %%
from bsr_lite.scale.cards import CARDS

total = wide["total"] / 1e9
print(f"{work['flops']:.2g} operations a step, {steps_of(big)} steps; {total:.0f} GB a GPU (FSDP2)")
costs = {}
for name in ("l40s", "a100", "h100", "b200"):
    card = CARDS[name]
    hours = work["flops"] * steps_of(big) / (8 * card.tflops * 1e12) / 3600  # at the peak
    costs[f"8 x {name}"] = {"GB left": card.memory - total, "hours at 35%": hours / UTILISATION,
                            "dollars at 35%": 8 * hours / UTILISATION * card.dollars,
                            "hours at 6%": hours / 0.06,
                            "dollars at 6%": 8 * hours / 0.06 * card.dollars}
pd.DataFrame.from_dict(costs, orient="index").round(1)

# %% [markdown]
# Between 35% and 6% lie six times the hours and the dollars, and nothing here shows that 8B lies
# between them: .2%, our worst setting, would be two weeks on the H100s. (Tokens are an upper bound,
# rents are assumed, communication and evaluation are left out. A card with less than 2 GB left we
# call too small: memory breaks into pieces.) So first measure ten steps, and multiply.

# %% [markdown]
# ## 7. Launch it
#
# ```
# python -m bsr_lite.scale.dry_run --config bsr_lite/configs/rm_8b_bsr.yaml --gpus 8
# # one GPU
# python -m bsr_lite.train_rm --config bsr_lite/configs/rm_8b_qlora_bsr.yaml
# # eight GPUs; after a failure the same with --resume, on any number of GPUs
# accelerate launch --config_file bsr_lite/configs/accelerate/fsdp2.yaml \
#     -m bsr_lite.train_rm --config bsr_lite/configs/rm_8b_bsr.yaml
# ```

# %% [markdown]
# Nobody has run the 8B config yet. If you do, take three seeds of each method, evaluate with
# `studies.evaluate --format rm_bench`, and add an entry with intervals to `data/runs/LOG.md`. Two
# folds hold the paper's numbers, without intervals.

# %% [markdown]
# <details><summary>Reward model: Table 2</summary>
#
# Accuracy in % on RM-Bench (pairs whose style is varied), Llama-3.1-8B on Skywork-80K. *Easy*:
# style helps the better answer; *hard*: it misleads; *math*: one of its subjects.
#
# | $\lambda$ | hard | normal | easy | math | overall |
# |---|---|---|---|---|---|
# | 0 | 47.8 | 74.0 | 88.4 | 62.1 | 70.1 |
# | 1e-3 | 52.1 | 73.5 | 85.0 | 61.2 | 70.2 |
# | 1e-2 | 55.7 | 72.5 | 81.9 | 60.1 | 70.0 |
#
# At 1e-2 *hard* is 7.9 higher and *easy* 6.5 lower.
# </details>

# %% [markdown]
# <details><summary>Policy: Table 3, AlpacaEval 2.0</summary>
#
# | 1.5B policy | mean length | length-controlled win rate, % |
# |---|---|---|
# | before RLOO | 2247 | 2.59 |
# | RLOO against BT | 2180 | 8.41 |
# | RLOO against BSR | 1337 | 9.02 |
#
# Length-controlled: corrected for the judge's taste for long answers. The .6 points of win rate
# between BT and BSR are not established.
# </details>

# %% [markdown]
# ## Exercises
#
# Each stub returns `None`, "not attempted yet". A fold holds the first hint; the checker gives a
# wrong answer a second one. Solutions are in `notebooks/solutions/`.
#
# **1.** The mask of one pair's packed row, for `prompt`, `chosen`, `rejected` tokens: a boolean
# tensor (T, T), attending by attended.
#
# <details><summary>Hint</summary>
#
# Start from a row that is one text. Which pairs of tokens does that allow too many?
# </details>

# %%
def may_attend(prompt, chosen, rejected):
    return None


checks.check_may_attend(may_attend);

# %% [markdown]
# **2.** ZeRO cuts in stages: 0 nothing, 1 AdamW's averages, 2 gradients too, 3 weights too. By its
# authors' count stages 1 and 2 send between GPUs what 0 does, stage 3 half as much again. Return
# the lowest stage at which full fine-tuning in fp32 (16 bytes a weight) fits, -1 if none does.
# `activations`, `card`: bytes on each GPU.
#
# <details><summary>Hint</summary>
#
# Write down the bytes a weight on one GPU at stage 0 and at stage 3. What lies between?
# </details>

# %%
def first_stage(weights, gpus, activations, card):
    return None


checks.check_first_stage(first_stage);

# %% [markdown]
# **3.** The gradient of $\lambda$ times BSR's *penalty* on one rank (Bradley-Terry's part needs no
# other pair). `rewards` (B, 2) are the whole batch's, exchanged; groups are runs of `size` pairs,
# and the penalty is their average. `mine` (n,) holds the indices of this rank's pairs, from several
# groups. Return the derivative by each of its rewards, (n, 2), without autograd.
#
# <details><summary>Hint</summary>
#
# On how many rewards does one group's penalty depend, and does it tell them apart?
# </details>

# %%
def bsr_gradient(rewards, mine, size, bsr_lambda):
    return None


checks.check_bsr_gradient(bsr_gradient);

# %% [markdown]
# **4.** *Judge a record.* "On the H100 a step's seconds are a fixed part, in which the card waits,
# plus so much a token. Without the fixed part the 6% would be 35%." Three micro-batches have
# `tokens` (rising), done at `rates` (tokens a second). Return the fixed seconds by the first two,
# those by the last two, and 1 if they differ by at most a tenth of the larger, else 0. Then run the
# last cell. Which training fits "a fixed part plus so much a token"? Does that show that the card
# waits? At which share of the peak would its last step run without the fixed seconds?

# %% [markdown]
# <details><summary>Hint</summary>
#
# What does the record hold, and what do you need instead? How long is a step without tokens? For
# the share: the same operations, in fewer seconds.
# </details>

# %%
def fixed_seconds(tokens, rates):
    return None


checks.check_fixed_seconds(fixed_seconds);

# %%
found = {}
for kind, runs in speed[speed.what.str.startswith("train")].groupby("what"):
    tokens, rates = runs["token budget"].astype(int).tolist(), runs["tokens/s"].tolist()
    mine = fixed_seconds(tokens, rates)
    found[kind] = {f"s, budget {n:,}": round(n / r, 3) for n, r in zip(tokens, rates, strict=True)}
    found[kind] |= {"of the peak, last": f"{runs['of the published peak'].iloc[-1]:.1%}",
                    "your answer": "{:.3f} s, {:.3f} s, {}".format(*mine) if mine else "not yet"}
pd.DataFrame.from_dict(found, orient="index")

# %% [markdown]
# (One card, one call of each setting, the median of five steps: the noise between calls is not
# known. Seconds are budget over rate.)

# %% [markdown]
# ## Check yourself
#
# 1. Why does no number of GPUs shrink activations as long as the micro-batch stays?
# 2. Bradley-Terry needs no exchange of rewards. Why does BSR?
# 3. Two processes and one print the same loss. What else must agree, and what must differ, before
#    you believe it?
# 4. All prompts of a batch are equally long, and so are all answers. What does packing still save?
# 5. A card is used at 6%. Name a cause that a larger model may remove.

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1. They belong to tokens, not to weights, and each GPU computes its own.
# 2. BT is a sum over pairs. BSR squares a mean of all rewards of a group.
# 3. The gradient's norm must agree (a gradient averaged instead of summed leaves the first loss as
#    it is), and another loss, such as BSR in halves, must change both.
# 4. The second copy of every prompt.
# 5. It may wait for the CPU to start its kernels; larger ones keep it busy. (At our 6% a fixed part
#    is the smaller one: Exercise 4.)
# </details>

# %% [markdown]
# ## What to watch, what to vary
#
# | In your run, watch | Healthy (seen here) | If not, or next, vary |
# |---|---|---|
# | packed against alone | rewards within a few 1e-6 in fp32; a leak makes .14 | positions, mask |
# | loss, gradient norm: 1, 2 ranks | equal to 6 digits (groups of 4: 5%, 48% off) | exchange; sum |
# | measured activations over count | 1.00 to 1.02 (H100, 135M, no checkpointing) | `token_budget` |
# | seconds of ten steps | 8B: not measured; 135M: 6% of the peak at best | `token_budget`, GPUs |

# %% [markdown]
# ## What you know now
#
# A trick that only moves work may change memory and time, never the loss. Test it against the plain
# way, beside a control that must fail. For any loss of the rewards it is enough to exchange all of
# them before anyone goes backward.
#
# **To a colleague**: *BSR looks at a group's mean: GPUs that share a group must share its rewards,
# or the number of GPUs silently becomes a hyperparameter.*
