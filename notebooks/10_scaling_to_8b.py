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
# The loss does not, and the loop does not: `train_rm` is one file. What changes is *where* the
# numbers lie, who computes them, and how long it takes. This notebook reads the 8B config line by
# line, does the arithmetic of memory, time and money, packs a batch without padding, and runs the
# training loop in two processes on this machine.

# %% [markdown]
# After it you can
# - read the 8B config, and say which of its lines are the paper's;
# - lay a batch out without padding, and say which attention mask that stands for;
# - split a batch-coupled loss (BSR, Eq. 25) over GPUs without changing it;
# - predict memory, time and cost of a run before it starts;
# - launch on one, eight or many GPUs, and go on after a failure.

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
import json
import sys
import tempfile

import torch

from bsr_lite import plots
from bsr_lite.config import load_config
from bsr_lite.course import checks_policy as checks

CONFIG = "bsr_lite/configs/rm_8b_bsr.yaml"

# %% [markdown]
# ## 1. The config, line by line
#
# `rm_8b_bsr.yaml` follows the paper's 8B recipe; comments name the section that a value comes from,
# the first lines say where it differs. Defaults left out: clipping at 1.0, no weight decay, seed 0.

# %%
print(Path(CONFIG).read_text())

# %%
small = load_config("bsr_lite/configs/rm_fast.yaml")
big = load_config(CONFIG)
for name in ("batch_size", "token_budget", "learning_rate", "optimizer", "bsr_group_size"):
    print(f"{name:16s} laptop {getattr(small, name)!s:12s} 8B {getattr(big, name)}")
assert big.batch_size % big.bsr_group_size == 0, "groups are runs of pairs: they must fill a batch"

# %% [markdown]
# `bsr_group_size: 16` is the one line that is easily missed. The official code computes BSR's mean
# over the micro-batch of one GPU, 16 pairs, and nothing links the GPUs. So $\lambda B$ in
# $\lambda B\,\bar r^2$ (Eq. 25) is $16\lambda$, though 128 pairs make a step. Here the group is a
# line of the config, and the number of GPUs does not change the loss.
#
# `dtype`: weights are kept in fp32 and computed in bf16. `gradient_checkpointing`: layers are
# computed again in the backward pass. `token_budget`: tokens of a micro-batch; it decides memory
# and speed, never the loss.

# %% [markdown]
# ## 2. A batch without padding
#
# Pairs differ in length. A padded batch computes every row as long as the longest, and every
# prompt twice. Take four pairs with these lengths (prompt, chosen, rejected).
#
# **Predict**: what share of the padded rectangle is padding or repetition?

# %%
PAIRS = [(12, 30, 8), (6, 10, 14), (20, 6, 9), (4, 40, 25)]
pairs = [[[1] * p, [2] * c, [3] * r] for p, c, r in PAIRS]
longest = max(p + max(c, r) for p, c, r in PAIRS)
padded = 2 * len(PAIRS) * longest
packed = sum(p + c + r for p, c, r in PAIRS)
print(f"padded: 8 rows of {longest} = {padded} tokens; once each: {packed}; "
      f"{1 - packed / padded:.0%} computed for nothing")

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
TINTS = torch.tensor([[1, 1, 1], [0.27, 0.47, 0.67], [0.13, 0.53, 0.2], [0.93, 0.4, 0.47]])

# %%
figure, (left, right) = plots.panels(2, width_ratios=[1, 1.3])
rows = torch.zeros(2 * len(PAIRS), longest)
for i, (p, c, r) in enumerate(PAIRS):
    for j, answer in enumerate((c, r)):
        rows[2 * i + j, :p], rows[2 * i + j, p:p + answer] = 1, 2 + j
left.imshow(TINTS[rows.long()], aspect="auto", interpolation="nearest")
right.imshow(TINTS[(allowed * kinds[:, None]).long()], aspect="auto", interpolation="nearest")
for tint, name in zip(TINTS[1:], ("prompt", "chosen", "rejected"), strict=True):
    left.plot([], [], "s", color=tint.tolist(), label=name)
left.legend(fontsize=7, loc="upper right")
plots.label(left, "token", "row of the padded batch", f"{padded} tokens; white: padding")
plots.label(right, "attended token", "attending token",
            f"the mask of one row, {packed} tokens; white: not attended")
left.grid(False)
right.grid(False);

# %% [markdown]
# **What to see.** Left, prompts twice and a tail of padding in most rows. Right, one triangle a
# pair for prompt and chosen answer; the rejected answer has its own triangle and a block over the
# prompt, and a gap where the chosen answer stands. This square is never built: every answer is one
# call of attention over its own queries and keys, with a small mask where it looks back at a
# prompt (on a GPU in 16 bits, with a recent torch, all in one kernel).
#
# Is it exact? The rewards of a model in packed rows against each answer alone:

# %%
from bsr_lite.models import load_reward_model, rewards
from bsr_lite.scenarios import load_scenarios
from bsr_lite.tokenization import pair_tokens

model = load_reward_model(small.model.name, depth=4, dtype="float32")
some, _ = pair_tokens(load_scenarios(small).train[:8], model.tokenizer, 320)
together = rewards(model, pack(some))
alone = torch.cat([rewards(model, pack([[prompt, answer]])) for prompt, *both in some
                   for answer in both])
print(f"largest difference of 16 rewards: {(together - alone).abs().max():.1e}")
assert torch.allclose(together, alone, atol=5e-5), "packing must not change a reward"

# %%
table = json.loads(Path("data/runs/bench/results.json").read_text())["table"]
print(f"speed-up {'':25s}{'over TRL, defaults':>22s}{'over TRL, best':>22s}{'tokens':>8s}")
for name, row in table["reward models"].items():
    cells = "".join(f"{'{:.2f} ({:.2f} to {:.2f})'.format(*row[s]['speed_up']):>22s}"
                    for s in ("trl", "trl_best"))
    print(f"{name:34s}{cells}{row['trl']['computed_tokens']:8.2f}")

# %% [markdown]
# Recorded on a CPU (`python tests/speed/bench.py`): the same pairs, weights and optimizer through
# TRL's RewardTrainer, as it comes (weights in fp32, forward passes computed twice to save memory)
# and at its best settings; four layers of the embedded model; median (quartiles) over batches and
# rounds. *Tokens*: what it computes for every token that has to be computed. On a GPU nothing was
# measured.

# %% [markdown]
# ## 3. Where 8 billion weights go
#
# Full fine-tuning in fp32: 4 bytes a weight, 4 for its gradient, 8 for AdamW's two averages; 16 in
# all, 128 GB for 8 billion. Activations come on top. QLoRA (notebook 05) shrank the 16; with eight
# GPUs one can also *cut* them: **FSDP2** (fully sharded data parallel; ZeRO stage 3) gives every
# GPU an eighth of each weight, gradient and average, and gathers a layer's weights only while it
# computes.
#
# **Predict**: how many 80 GB cards does it take?

# %%
def sharded(parts, gpus):
    """Bytes on each GPU when all that belongs to weights is cut, and activations are not."""
    cut = sum(parts[k] for k in ("base", "adapters", "gradients", "optimizer"))
    return cut / gpus + parts["activations"]


full = {"base": 4 * 8e9, "adapters": 0, "gradients": 4 * 8e9, "optimizer": 8 * 8e9,
        "activations": 20e9}
for gpus in (1, 2, 4, 8, 64):
    print(f"{gpus:3d} GPUs: {sharded(full, gpus) / 1e9:6.1f} GB each")
assert sharded(full, 8) - full["activations"] == 16e9, "16 bytes a weight, an eighth on each of 8"

# %% [markdown]
# That is arithmetic with round numbers. `scale.dry_run` does it for a config: the model on *fake*
# tensors (notebook 05), the parts cut over the GPUs, the gathered layers added.

# %%
from bsr_lite.scale.dry_run import memory, report
from bsr_lite.scale.fake import meta_model

PARTS = {"base": "#BBBBBB", "adapters": "#CCBB44", "gradients": "#EE6677", "optimizer": "#AA3377",
         "gathered": "#66CCEE", "activations": "#4477AA", "context": "#DDDDDD"}
WAYS = {"8 GPUs, full": (CONFIG, 8, "FSDP2"), "64 GPUs, full": (CONFIG, 64, "FSDP2"),
        "1 GPU, QLoRA": ("bsr_lite/configs/rm_8b_qlora_bsr.yaml", 1, "one GPU")}
bills = {}
for name, (path, gpus, way) in WAYS.items():
    config = load_config(path)
    bills[name] = memory(config, meta_model(config.model), gpus)[way]
    print(f"{name:14s} {bills[name]['total'] / 1e9:6.1f} GB a GPU")

# %%
figure, axis = plots.panels(1)
bottom = torch.zeros(len(bills))
for part, tint in PARTS.items():
    gigabytes = torch.tensor([bill[part] / 1e9 for bill in bills.values()])
    axis.bar(list(bills), gigabytes, 0.5, bottom=bottom, color=tint, label=part)
    bottom += gigabytes
for limit, card in ((24, "24 GB card"), (80, "80 GB card")):
    axis.axhline(limit, color="black", linewidth=0.8, linestyle="--")
    axis.text(2.3, limit + 1, card, fontsize=8, ha="right")
plots.label(axis, "", "memory of one GPU (GB)",
            "Llama-3.1-8B; micro-batches of up to 32,768 tokens (64 GPUs and QLoRA: 8,192)")
axis.legend(fontsize=7);

# %% [markdown]
# **What to see.** Cutting shrinks weights, gradients and optimizer with every GPU. Activations
# follow a GPU's micro-batch: `token_budget` sets it, until the GPU's share of the batch is smaller
# (here beyond 16 GPUs). What is gathered, mostly the embedding and its gradient, no number of GPUs
# makes smaller. QLoRA's activations are small because its `token_budget` is a quarter, not because
# of 4 bits.

# %% [markdown]
# ## 4. A loss that couples all GPUs
#
# A sum over pairs splits over GPUs: each computes its share, gradients add up. BSR does not:
# $\lambda G\,\bar r^2$ holds the mean of *all* rewards of a group, wherever they are. But the
# loss's derivative by each reward, $dL/dr$, is 256 numbers. So all *ranks* (a rank is one process,
# normally with one GPU) exchange their rewards, each computes the whole batch's $dL/dr$, and takes
# its own slice backward. Several micro-batches on one GPU need the same: all rewards first, then
# each again with a graph.
#
# **Predict**: two GPUs each compute BSR of their own half, and gradients are averaged. Is that
# penalty too large or too small, and when?

# %%
from bsr_lite.losses import bsr_penalty

LAMBDA = 0.1
torch.manual_seed(0)
values = torch.randn(8, 2, dtype=torch.float64) + torch.tensor([[1.0]] * 4 + [[-1.0]] * 4)
values.requires_grad_()


def gradient(loss):
    return torch.autograd.grad(loss, values)[0]


def penalty(pairs):
    return LAMBDA * bsr_penalty(pairs[:, 0], pairs[:, 1])


whole = gradient(penalty(values))
naive = gradient((penalty(values[:4]) + penalty(values[4:])) / 2)
print("mean of both halves, and each:", [round(v.mean().item(), 2) for v in (
    values, values[:4], values[4:])])
print("gradient of a reward, whole:", whole[0, 0].item(), " naive:", naive[0, 0].item())

# %%
mean = values.detach().mean()  # what the ranks exchange
shares = []
for half in (values[:4], values[4:]):  # each rank alone
    dL_dr = torch.full_like(half, 2 * LAMBDA * 8 * mean / 16)
    shares.append(gradient((half * dL_dr).sum()))
assert torch.allclose(sum(shares), whole), "slices of dL/dr add up to the whole batch's gradient"
assert not torch.allclose(naive, whole), "averaging penalties of halves is another loss"

# %% [markdown]
# <details><summary>Answer</summary>
#
# With $m_1, m_2$ the halves' means the batch's penalty is $2\lambda(m_1+m_2)^2$, the naive one
# $2\lambda(m_1^2+m_2^2)$. Equal means (a common offset): naive is half, since $G$ is 4, not 8.
# Opposite signs, as here: too large; it pulls each half to zero, although only their sum is what
# Eq. 25 penalizes. It is BSR with `bsr_group_size: 4`, a legitimate loss (the official code's way),
# but one that changes with the number of GPUs.
# </details>

# %% [markdown]
# ## 5. Two processes, live
#
# `accelerate launch` starts the same command twice; each process finds out which rank it is. NCCL
# (on GPUs) and gloo (here) are the libraries that carry tensors between them. The config is
# `rm_fast.yaml`, cut down to run in seconds: 4 layers, 32 pairs, batches of 8. Then the same in one
# process. All of it on the CPU: two processes would need two GPUs, so any GPU is hidden from them.

# %%
SMALL = ["--config", "bsr_lite/configs/rm_fast.yaml", "--set", "model.depth=4", "loss=bsr",
         "model.dtype=float32", "bsr_lambda=1e-2", "data.max_pairs=32", "batch_size=8",
         "eval_groups=2"]
LAUNCH = ["-m", "accelerate.commands.launch", "--config_file",
          "bsr_lite/configs/accelerate/ddp.yaml"]


def run(launcher, folder):
    command = [sys.executable, *launcher, "-m", "bsr_lite.train_rm", *SMALL, f"output_dir={folder}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False,
                          env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


with tempfile.TemporaryDirectory() as folder:
    two, one = run(LAUNCH, f"{folder}/two"), run([], f"{folder}/one")

# %%
for a, b in zip(two, one, strict=True):
    print(f"step {a['step']}: loss {a['train/loss']:.6f} on two ranks, {b['train/loss']:.6f} on "
          f"one; gradient norm {a['train/grad_norm']:.5f}, {b['train/grad_norm']:.5f}")
assert max(abs(a["train/loss"] - b["train/loss"]) for a, b in zip(two, one, strict=True)) < 1e-4, \
    "ranks are a way to compute: the loss must not know of them"

# %% [markdown]
# The same batches, the same loss, in another order of additions. The tests do this with shares of
# unequal size, a rank without any pair, FSDP2's shards, a resume on another number of processes,
# and a rank that is killed (`tests/test_distributed.py`).

# %% [markdown]
# ## 6. Time and money
#
# A token costs $6N$ operations in full fine-tuning ($2N$ forward, $4N$ backward), $4N$ over a
# frozen base, $2N$ more with checkpointing, and $2N$ once more for BSR over several micro-batches,
# whose rewards are computed first. $N$ counts the weights of matrix products: without embedding
# and output matrix 7.0 of the 8 billion. A card's peak is on its data sheet; real runs reach a part
# of it, the **utilisation**, here *assumed* to be 35%, recomputed work included.
#
# In the report, *DDP*: every GPU holds everything, and gradients are summed.

# %%
print(report(big, gpus=8))

# %% [markdown]
# Seconds, hours and dollars: the most tokens possible, times an *assumed* utilisation and rent,
# without communication, loading and evaluation; no bound if 35% is not reached. *fits* counts
# 0.6 GB for CUDA (*context*) and nothing for fragmentation: 47 of 48 GB is too little. Good enough
# to tell hours from weeks. Before you plan, measure ten steps and multiply.

# %% [markdown]
# ## 7. Launching, and going on
#
# ```
# # one GPU
# python -m bsr_lite.train_rm --config bsr_lite/configs/rm_8b_qlora_bsr.yaml
# # eight GPUs, weights cut over them
# accelerate launch --config_file bsr_lite/configs/accelerate/fsdp2.yaml \
#     -m bsr_lite.train_rm --config bsr_lite/configs/rm_8b_bsr.yaml
# # two machines of eight: the same on each, with its own rank
# accelerate launch --config_file bsr_lite/configs/accelerate/fsdp2.yaml --num_machines 2 \
#     --num_processes 16 --machine_rank 0 --main_process_ip FIRST --main_process_port 29500 \
#     -m bsr_lite.train_rm --config bsr_lite/configs/rm_8b_bsr.yaml
# ```

# %% [markdown]
# Runs die: a node reboots, a quota ends. `--resume` goes on from the last checkpoint, on the same
# or another number of GPUs, since batches and learning rate are functions of seed and step. At
# most `eval_every` steps (100) are lost. A run begun without FSDP cannot go on under it. Several
# machines need the same files and an `output_dir` that they share.

# %% [markdown]
# ## 8. What to reach, and how to record it
#
# Nobody has run the 8B config with this repository yet. The paper's targets (Table 2, RM-Bench,
# Llama-3.1-8B on Skywork-80K; no intervals given):

# %% [markdown]
# | $\lambda$ | chat | math | code | safety | hard | normal | easy | overall |
# |---|---|---|---|---|---|---|---|---|
# | 0 | 69.2 | 62.1 | 53.4 | 95.9 | 47.8 | 74.0 | 88.4 | 70.1 |
# | 1e-4 | 70.0 | 61.4 | 52.9 | 95.1 | 47.9 | 74.3 | 87.4 | 69.9 |
# | 1e-3 | 70.1 | 61.2 | 53.9 | 95.4 | 52.1 | 73.5 | 85.0 | 70.2 |
# | 1e-2 | 70.0 | 60.1 | 53.1 | 96.0 | 55.7 | 72.5 | 81.9 | 70.0 |

# %% [markdown]
# Read it with notebook 06 in mind: overall scores within .3 of each other; what moves with
# $\lambda$ is *hard* up, *easy* down.
#
# Table 1 (effective rank, train then RM-Bench): BT 23.34, 33.76; BSR 33.45, 33.59. Table 3
# (AlpacaEval 2.0: mean length, length-controlled win rate in %, of the 1.5B policy): after SFT
# 2247, 2.59; after RLOO against the BT model 2180, 8.41; against the BSR model 1337, 9.02.
#
# If you run it: copy `config.yaml`, `metrics.jsonl`, `env.json` into `data/runs/<name>/`, evaluate
# with `studies.evaluate --format rm_bench`, at least three seeds of each method, and add an entry
# to `data/runs/LOG.md`: the command, what you expected before, what came out, with intervals, and
# what you did not test. A null result is a result.

# %% [markdown]
# ## Exercises
#
# Each stub returns `None`; its checker then says "not attempted yet". Solutions are in
# `notebooks/solutions/`.
#
# **1.** Tokens that a padded batch computes, over those of packed rows with shared prompts, for
# lists of prompt, chosen and rejected lengths.

# %%
def padding_factor(prompts, chosen, rejected):
    return None


checks.check_padding_factor(padding_factor);

# %% [markdown]
# **2.** Memory per GPU in bytes, activations apart, of `weights` weights in full fine-tuning with
# fp32 weights and gradients and AdamW (8 bytes a weight), when *stage* parts are cut over the GPUs:
# 0 none, 1 the optimizer, 2 also gradients, 3 also weights (ZeRO's stages).

# %%
def zero_bytes(weights, gpus, stage):
    return None


checks.check_zero_bytes(zero_bytes);

# %% [markdown]
# **3.** $dL/dr$ of BSR (Eq. 25) for the pairs of one rank, a tensor (n, 2), when `total` is the sum
# of all rewards of the batch of `pairs` pairs, and the batch is one group.

# %%
def bsr_slice(total, pairs, n, bsr_lambda):
    return None


checks.check_bsr_slice(bsr_slice);

# %% [markdown]
# **4.** Hours of an epoch: tokens of the data, weights, GPUs, peak operations a second of one,
# utilisation; BT, full fine-tuning with checkpointing.

# %%
def hours(tokens, weights, gpus, peak, utilisation):
    return None


checks.check_hours(hours);

# %% [markdown]
# ## What you know now
#
# - Scale changes where numbers lie, not the loss; a test can show that on a laptop.
# - Padding and repeated prompts are work for nothing (half the tokens of our example); a layout
#   removes them exactly.
# - A batch-coupled loss needs one small exchange, the rewards, to be the same on any number of
#   GPUs.
# - Memory, time and cost are arithmetic; do it before the run, then measure ten steps.
