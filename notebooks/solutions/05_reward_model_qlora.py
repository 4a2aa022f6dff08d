# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Solutions to 05 · How does an 8B reward model fit on one small GPU?

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
import torch

from bsr_lite.course import checks

# %% [markdown]
# Section 2's functions:

# %%
def quantize(weight, values, block=64):
    blocks = weight.reshape(-1, block)
    absmax = blocks.abs().amax(1, keepdim=True)
    midpoints = (values[1:] + values[:-1]) / 2
    return torch.bucketize(blocks / absmax, midpoints), absmax


def error(weight, values, block):
    codes, absmax = quantize(weight, values, block)
    rounded = (values[codes] * absmax).view_as(weight)
    return 100 * ((rounded - weight).std() / weight.std()).item()

# %% [markdown]
# **1.** The budget first, then the error.

# %%
def bits(block, double=True):
    return 4 + (8 / block + 32 / (256 * block) if double else 32 / block)


def best_block(weight, values, budget):
    allowed = [block for block in (32, 64, 128) if bits(block) <= budget]
    return min(allowed, key=lambda block: error(weight, values, block))


assert checks.check_best_block(best_block)

# %%
import bitsandbytes.functional as bnb

from bsr_lite.embedded import quiet_loading
from bsr_lite.models import load_reward_model

with quiet_loading():
    base = load_reward_model("smollm2-135m-instruct", depth=5, dtype="float32")
W = base.backbone.layers[4].mlp.up_proj.weight.detach().cpu()
nf4 = bnb.quantize_4bit(W, blocksize=64, quant_type="nf4")[1].code
print(f"the budget: {8 * 3.65e9 / 6.98e9:.2f} bits a weight")
for block in (32, 64, 128):
    print(f"blocks of {block:3d}: {bits(block):.3f} bits, {bits(block) * 6.98e9 / 8e9:.2f} GB, "
          f"error {error(W, nf4, block):.1f}%; absmax in 32 bits: {bits(block, False):.2f} bits")

# %% [markdown]
# Of the blocks within 3.65 GB those of 64 have the smaller error. Blocks of 32 would lower it by
# half a point, for .11 GB more. With each absmax in 32 bits none of the three is within the budget.
# So double quantization pays for small blocks: its blocks of 32 cost what blocks of 128 cost
# without it.

# %% [markdown]
# **2.** A frozen number is only itself; a trained one brings its gradient and AdamW's two averages.

# %%
def fixed_memory(linear, others, trained):
    return (linear * 4.127 / 8 + others * 2 + trained * (4 + 4 + 8)) / 1e9


assert checks.check_fixed_memory(fixed_memory)

# %%
print(f"8B:  {fixed_memory(6.98e9, 0.525e9, 0.042e9):.1f} GB")
print(f"70B: {fixed_memory(68.5e9, 1.05e9, 0.207e9):.1f} GB")

# %% [markdown]
# 8B: 4.65 GB of base and .67 of what is trained, as in Section 4; a 16 GB card keeps about 10 for
# CUDA and activations. 70B needs 40.7 GB, so cards of 16, 24 and 32 GB are ruled out. On one of 48
# GB some 7 are left: whether that is enough, the tokens of the batch decide.

# %% [markdown]
# **3.** Section 6 takes all differences of one prompt's rewards; here it is done in every row.

# %%
def margin_change(trained, loaded):
    def margins(rewards):
        return rewards[:, :, None] - rewards[:, None, :]  # (prompts, answers, answers)
    return (margins(loaded) - margins(trained)).abs().max()


assert checks.check_margin_change(margin_change)

# %%
saved = torch.tensor([[1.0, 0.2, 0.1, -0.4], [0.5, 0.9, -1.1, 0.0]])
lost = torch.tensor([[0.3, 0.1, 0.0, -0.2], [-0.1, 0.1, 0.4, 0.2]])
for name, copy in {"a": saved + 2, "b": 0.8 * saved, "c": lost}.items():
    same = (copy.argsort(1) == saved.argsort(1)).all(1).tolist()
    print(f"{name}: {margin_change(saved, copy):.2f}; the saved order, prompt by prompt: {same}")

# %% [markdown]
# Copy a keeps every margin, and only margins mean something: hand it on. (But ask where the 2 comes
# from. Reloaded, the rewards should be nearly the same.) Rewards alone would have refused a as
# well as b and c. Orders would have let b pass, whose margins are a fifth smaller. They find the
# lost head of c in the second prompt only: in the first its order is right by luck.

# %% [markdown]
# **4.** The layer computes with its rounded values, so these are what the change is
# added to. The rank is the number of $A$'s rows.
# Merged into $W$, every output is wrong by $h D^T$ with $D = W - W_4$, the rounding error, whatever
# $A$ and $B$ are: beside $W$ the adapter does just the same, merged or not (Section 10).

# %%
def merged_matrix(codes, absmax, values, A, B, alpha):
    base = (values[codes] * absmax).view(len(B), A.shape[1])  # blocks run along the rows
    return base + alpha / len(A) * B @ A


assert checks.check_merged_matrix(merged_matrix)
