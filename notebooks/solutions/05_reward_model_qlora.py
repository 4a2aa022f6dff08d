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
import json

import torch

from bsr_lite.course import checks

# %% [markdown]
# **1.** A frozen number is only itself; a trained one brings its gradient and AdamW's two averages.

# %%
def fixed_memory(linear, others, trained):
    return (linear * 4.127 / 8 + others * 2 + trained * (4 + 4 + 8)) / 1e9


assert checks.check_fixed_memory(fixed_memory)

# %%
print(f"8B:  {fixed_memory(6.98e9, 0.525e9, 0.042e9):.1f} GB")
print(f"70B: {fixed_memory(68.5e9, 1.05e9, 0.207e9):.1f} GB")

# %% [markdown]
# 8B: 4.65 GB of base and .67 of what is trained, as in the table; a 16 GB card keeps about 10 for
# CUDA, activations and fragments. 70B rules out every card of 32 GB and below. On one of 48 GB some
# 7 are left: whether that is enough, the tokens of the batch decide.

# %% [markdown]
# **2.** Through logarithms a power law is a line, and its slope the exponent.

# %%
def growth_exponent(tokens, peaks):
    x, y = tokens.log(), peaks.log()
    x, y = x - x.mean(), y - y.mean()
    return (x * y).sum() / (x * x).sum()


assert checks.check_growth_exponent(growth_exponent)

# %%
growth = json.loads(Path("data/runs/bench_growth/results.json").read_text())["table"]["steps"]
record = growth["tokens a response"]
tokens, peaks = (torch.tensor(record[key], dtype=torch.float64) for key in ("tokens", "peak"))
print(f"exponent, all sizes: {growth_exponent(tokens, peaks):.3f}; "
      f"the two longest: {growth_exponent(tokens[-2:], peaks[-2:]):.3f}")

# %% [markdown]
# Not the square: up to answers of 1,024 tokens memory grows like tokens. Every size was measured
# once, so there is no interval. And the record ends there: between the two longest the exponent is
# a little above 1, and nothing here says what it is at 32,000. (Attention computes every pair of
# tokens, which takes *time*; kernels that save memory never hold them all at once.)

# %% [markdown]
# **3.** Positions count from 1, padding counts 0: the largest is the last real token, whatever
# side is padded. (Looking for the last token that is not the pad *id* fails when the pad token is
# also the end of turn.)

# %%
def pool_last(hidden, attention_mask):
    positions = torch.arange(1, attention_mask.shape[1] + 1)
    last = (attention_mask * positions).argmax(1)  # (N,)
    return hidden[torch.arange(len(hidden)), last]


assert checks.check_pool_last(pool_last)

# %% [markdown]
# **4.** bfloat16 has 8 significant bits (7 are stored): near 4 its numbers are 1/32 apart.

# %%
def new_ties(rewards):
    def pairs(x):
        i, j = torch.triu_indices(len(x), len(x), offset=1)
        return x[i] == x[j]

    return (pairs(rewards.bfloat16()) & ~pairs(rewards)).sum()


assert checks.check_new_ties(new_ties)
