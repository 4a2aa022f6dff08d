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

import numpy as np
import pandas as pd
import torch

from bsr_lite.course import checks_policy as checks
from bsr_lite.studies.records import read_table
from bsr_lite.studies.statistics import two_way_interval

# %% [markdown]
# **1.** $2^S$ sequences of signs are equally probable, $\binom{S}{j}$ of them have $j$ heads. Those
# with at least $k$ tails are as many.

# %%
def chance_of_agreement(k, seeds):
    return 2 * sum(math.comb(seeds, j) for j in range(k, seeds + 1)) / 2**seeds


assert checks.check_chance_of_agreement(chance_of_agreement)
print({seeds: chance_of_agreement(seeds, seeds) for seeds in (3, 4, 5, 6)})

# %% [markdown]
# All of four agree once in eight times by chance. It takes six seeds before "all agree" is rarer
# than .05.

# %% [markdown]
# **2.** The middle of an interval is the study's mean.

# %%
def exaggeration(ends, truth):
    low, high = ends.unbind(-1)
    return ((low + high).abs() / 2)[(low > 0) | (high < 0)].mean() / abs(truth)


assert checks.check_exaggeration(exaggeration)

# %%
rng = np.random.default_rng(0)
null = torch.tensor([two_way_interval(  # deviations of Section 2: seeds, prompts, rest
    0.011 * rng.standard_normal((4, 1)) + 0.029 * rng.standard_normal((1, 240))
    + 0.176 * rng.standard_normal((4, 240)))[1:3] for _ in range(1000)])
rows = {}
for truth in (0.01, 0.02, 0.04, 0.06):
    ends = null + truth
    factor, sizes = exaggeration(ends, truth).item(), ends[ends.prod(1) > 0].mean(1).abs()
    rows[truth] = factor, truth * factor, *np.quantile(sizes, (0.1, 0.9))
pd.DataFrame.from_dict(rows, orient="index", columns=[
    "reported over true", "reported", "10% are below", "90% are below"]).round(3)

# %% [markdown]
# Rows are true differences. A small effect is found by the studies with good luck, so what they
# report is too large: about twice a difference of .01. Where the power is high nothing is
# exaggerated. So .01 is reported as about .02, and .02 as about .025. The middle 80% of the reports
# reach from .014 to .028, and from .017 to .034. A reported .024 lies in both: it does not tell
# them apart. (The paper has more prompts, so this says nothing about its own .024.)

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
judged = {(name, method): cells for name in ("terms", "lambda")
          for method, cells in list(read_table(f"data/runs/study_{name}").items())[1:]}  # not BT
verdicts = {key: {  # useful: 2.5 of 100 pairs, as in Section 4
    test: verdict(*cell["difference"][1:], 0.025 if test == "in_domain" else 0.05)
    for test, cell in cells.items()} for key, cells in judged.items()}
pd.DataFrame.from_dict(verdicts, orient="index")

# %% [markdown]
# At most 20 of the 36 verdicts of *terms* can be 0: an interval wider than twice the useful
# difference does not fit inside it. 17 are 0, 19 are 2.
#
# (a) Where a 0 stands you may say "no difference of .05" (of .025 in accuracy; also at a 1 or -1
# with both ends inside: none here), where a 2 stands not. "None at all" may be said nowhere: every
# interval holds differences other than zero.

# %% [markdown]
# (b) They do not. In *terms* the verdict is 0: -.003 (-.021 to +.016). In *lambda* it is -1: -.037
# (-.073 to -.002). Both intervals hold every value from -.021 to -.002. One beyond zero and one
# that holds zero do not show that the two differ. Nor need they agree: *lambda* trains on fewer
# pairs. (`data/runs/study_terms/results.md`, `data/runs/study_lambda/results.md`)
#
# And the cost is one of six in 60 intervals, where at 5% each chance gives 3.0. All six are of
# *lambda*, whose four $\lambda$ share one BT run a seed, so they miss together. Before you write
# that one costs: name its set and its sign, then run new seeds, on new prompts where you can.

# %%
rows = {key: cells for key, cells in verdicts.items() if key[0] == "lambda"}
costs = {method: list(cells.values()).count(-1) for (_, method), cells in rows.items()}
nulls = [v for key, cells in verdicts.items() if key[0] == "terms" for v in cells.values()]
print("informative nulls of terms:", nulls.count(0), "of", len(nulls))
cells = [(test, *c["difference"][1:]) for (name, _), by_set in judged.items() if name == "terms"
         for test, c in by_set.items()]
narrow = sum(high - low < (0.05 if test == "in_domain" else 0.1) for test, low, high in cells)
print("half-width below the useful difference:", narrow)
assert (narrow, nulls.count(0), nulls.count(2)) == (20, 17, 19)
print(costs, "of", sum(map(len, rows.values())))
assert costs == {"bsr-1e-4": 0, "bsr-1e-3": 2, "bsr-1e-2": 1, "bsr-1e-1": 3}
for key, cells in verdicts.items():  # no cost or gain that is certainly below .05
    ends = [judged[key][test]["difference"][1:] for test, v in cells.items() if abs(v) == 1]
    assert all(low <= -0.05 or high >= 0.05 for low, high in ends)

# %% [markdown]
# **4.** A seed more lowers the variance by $V_\text{seed}/S^2$ and costs `cost_seed`; both sides
# must buy the same for the money: $V_\text{seed}/(S^2 c_\text{seed}) = V_\text{prompt}/(P^2
# c_\text{prompt})$. So $S$ is proportional to the deviation over the root of the cost.

# %%
def best_seeds(sd_seed, sd_prompt, cost_seed, cost_prompt, budget):
    spent = sd_seed * math.sqrt(cost_seed) + sd_prompt * math.sqrt(cost_prompt)
    return budget * sd_seed / math.sqrt(cost_seed) / spent


assert checks.check_best_seeds(best_seeds)
print(f"without the rest: {best_seeds(0.011, 0.029, 100, 1, 640):.1f} seeds")
errors = {S: math.sqrt(0.011**2 / S + (0.029**2 + 0.176**2 / S) / (640 - 100 * S))
          for S in range(2, 7)}
print("with it, standard error by seeds:", {S: round(error, 4) for S, error in errors.items()})
assert min(errors, key=errors.get) == 4, "the rest asks for more prompts and fewer seeds"

# %% [markdown]
# Without the rest 5.1 seeds are best, with it four (and 240 prompts, as in *lora*). The rest
# shrinks with $S\,P$, the number of single differences. That is largest where seeds take half the
# budget: at 3.2 seeds. So the best moves down, toward 3.2.
