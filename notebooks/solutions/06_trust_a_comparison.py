# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Solutions to 06 · Can you trust a comparison of two reward models?

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

from bsr_lite.course import checks_policy as checks
from bsr_lite.studies.records import read_table

# %% [markdown]
# **1.** The standard error of the mean is $sd/\sqrt{n}$, and 2.8 of them must fit into the
# difference: $n = (2.8\, sd / d)^2$.

# %%
def prompts_needed(sd, difference):
    return math.ceil((2.8 * sd / difference) ** 2)


assert checks.check_prompts_needed(prompts_needed)

# %% [markdown]
# **2.** The expected mean squares are $\sigma_e^2 + P\sigma_a^2$ (seeds), $\sigma_e^2 +
# S\sigma_b^2$ (prompts) and $\sigma_e^2$ (rest). Seeds plus prompts minus rest, over $SP$, is the
# variance of the mean.

# %%
def two_way_error(x):
    S, P = x.shape
    rows, columns = x.mean(1, keepdim=True), x.mean(0, keepdim=True)
    ms_seed, ms_prompt = P * rows.var(), S * columns.var()
    ms_rest = ((x - rows - columns + x.mean()) ** 2).sum() / ((S - 1) * (P - 1))
    return ((ms_seed + ms_prompt - ms_rest) / (S * P)).sqrt()


assert checks.check_two_way_error(two_way_error)

# %% [markdown]
# **3.** An interval beyond zero decides the sign, however small the difference. Else it holds zero,
# and its larger end says what is excluded.

# %%
def verdict(low, high, useful):
    if low > 0 or high < 0:
        return 1 if low > 0 else -1
    return 0 if max(-low, high) < useful else 2


assert checks.check_verdict(verdict)

# %%
PARTS = ["in_domain", "prompt_disjoint", "response_disjoint", "mutual_disjoint"]
for name in ("lora", "norms", "judged", "postscript"):
    for method, parts in list(read_table(f"data/runs/study_{name}").items())[1:]:
        print(f"{name}: {method:12s}", [verdict(*parts[p]["difference"][1:], 0.05) for p in PARTS])

# %% [markdown]
# A row of zeros may be read as "BSR makes no difference of .05": that is *lora*, in all four sets.
# Where a 2 stands the study cannot say so, however close to zero its mean is. "None at all" may be
# said nowhere: every interval here holds differences other than zero.
