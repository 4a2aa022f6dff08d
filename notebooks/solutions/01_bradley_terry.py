# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Solutions to 01 · How does "A is better than B" become a loss?

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
import math

import torch

from bsr_lite.course import checks

# %% [markdown]
# **1.** Solve $p = 1/(1 + e^{-m})$ for $m$: the **log-odds** $m = \ln\frac{p}{1-p}$. At $p =
# 0.95$ that is $\ln 19 \approx 2.94$.

# %%
def margin_for(p):
    return math.log(p / (1 - p))


assert checks.check_margin_for(margin_for)

# %% [markdown]
# **2.** From Section 4, $\frac{d}{dm}[-\log\sigma(m)] = -\sigma(-m)$ and, mirrored,
# $\frac{d}{dm}[-\log\sigma(-m)] = \sigma(m)$. Together
#
# $$-q\,\sigma(-m) + (1-q)\,\sigma(m) = \sigma(m) - q.$$
#
# It is zero at $\sigma(m) = q$: with soft labels Bradley-Terry *does* have a margin at which it is
# content. With hard labels ($q = 1$) that margin is $+\infty$.

# %%
def soft_label_gradient(margin, q):
    return torch.sigmoid(margin) - q


assert checks.check_soft_label_gradient(soft_label_gradient)

# %% [markdown]
# **3.** A vector that all comparisons ignore must be constant along every line of the graph, so
# it is constant on every **connected component**, and free to differ between components. Count
# them with a small union-find; or take $n$ minus the rank of the design matrix.

# %%
def invisible_directions(n, compared):
    parent = list(range(n))

    def root(a):
        return a if parent[a] == a else root(parent[a])

    for a, b in compared:
        parent[root(a)] = root(b)
    return sum(parent[a] == a for a in range(n))


assert checks.check_invisible_directions(invisible_directions)

# %% [markdown]
# **4.** $\partial L/\partial h_l = +\sigma(-m)\,W_p$ for every pair, divided by $B$ for the mean.

# %%
def rejected_gradient(hidden_chosen, hidden_rejected, head_weight):
    margin = (hidden_chosen - hidden_rejected) @ head_weight  # (B,)
    return torch.sigmoid(-margin)[:, None] * head_weight / len(margin)  # (B, H)


assert checks.check_rejected_gradient(rejected_gradient)
