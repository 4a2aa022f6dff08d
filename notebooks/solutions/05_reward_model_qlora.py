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
# **1.** The scale's bits are shared by the block; nested, so are the scale's scale's.

# %%
def bits_per_weight(block, nested):
    scale = 8 + 32 / 256 if nested else 32
    return 4 + scale / block


assert checks.check_bits_per_weight(bits_per_weight)

# %% [markdown]
# **2.** Positions count from 1, padding counts 0: the largest is the last real token, whatever
# side is padded. (Looking for the last token that is not the pad *id* fails when the pad token is
# also the end of turn.)

# %%
def pool_last(hidden, attention_mask):
    positions = torch.arange(1, attention_mask.shape[1] + 1)
    last = (attention_mask * positions).argmax(1)  # (B,)
    return hidden[torch.arange(len(hidden)), last]


assert checks.check_pool_last(pool_last)

# %% [markdown]
# **3.** PEFT's task type `CAUSAL_LM` neither trains nor saves the head; `all-linear` with a wrong
# type may put an adapter on it.

# %%
def head_is_safe(parameters):
    head = [(name, dtype, trains) for name, dtype, trains in parameters if "score" in name]
    trained = [dtype for _, dtype, trains in head if trains]
    adapted = any("lora_" in name for name, _, _ in head)
    return bool(trained) and not adapted and all(d is torch.float32 for d in trained)


assert checks.check_head_is_safe(head_is_safe)

# %% [markdown]
# **4.** bfloat16 has 8 significant bits (7 are stored): near 4 its numbers are 1/32 apart.

# %%
def new_ties(rewards):
    def pairs(x):
        i, j = torch.triu_indices(len(x), len(x), offset=1)
        return x[i] == x[j]

    return (pairs(rewards.bfloat16()) & ~pairs(rewards)).sum()


assert checks.check_new_ties(new_ties)

# %% [markdown]
# **5.** First the weights that training saw, then the change it learned.

# %%
def merged_weight(codes, absmax, levels, A, B, alpha):
    change = alpha / len(A) * B @ A  # (m, n)
    return (levels[codes] * absmax).view_as(change) + change


assert checks.check_merged_weight(merged_weight)
