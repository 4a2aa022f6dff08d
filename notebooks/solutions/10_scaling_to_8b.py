# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Solutions to 10 · What changes between a 135M model on a laptop and 8B on eight GPUs?

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

from bsr_lite.course import checks_policy as checks

# %% [markdown]
# **1.** Two rows a pair, all as long as the longest; against every prompt and answer once.

# %%
def padding_factor(prompts, chosen, rejected):
    rows = list(zip(prompts, chosen, rejected, strict=True))
    longest = max(p + max(c, r) for p, c, r in rows)
    return 2 * len(rows) * longest / sum(map(sum, rows))


assert checks.check_padding_factor(padding_factor)

# %% [markdown]
# **2.** Sixteen bytes a weight in all; the optimizer's eight are cut first.

# %%
def zero_bytes(weights, gpus, stage):
    parts = (8, 4, 4)  # optimizer, gradients, weights
    return weights * sum(size / gpus if place < stage else size
                         for place, size in enumerate(parts))


assert checks.check_zero_bytes(zero_bytes)

# %% [markdown]
# **3.** $\lambda B\bar r^2$ with $\bar r = S/2B$: the derivative is $2\lambda B\bar r/2B =
# \lambda \bar r$, the same for every response, wherever it is computed.

# %%
def bsr_slice(total, pairs, n, bsr_lambda):
    return torch.full((n, 2), bsr_lambda * total / (2 * pairs), dtype=torch.float64)


assert checks.check_bsr_slice(bsr_slice)

# %% [markdown]
# **4.** $8N$ operations a token: 2 forward, 2 once more for what was not kept, 4 backward.

# %%
def hours(tokens, weights, gpus, peak, utilisation):
    return 8 * weights * tokens / (gpus * peak * utilisation) / 3600


assert checks.check_hours(hours)
