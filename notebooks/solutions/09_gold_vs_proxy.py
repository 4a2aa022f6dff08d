# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Solutions to 09 · What does a policy learn when its reward is only nearly right?

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
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from bsr_lite.course import checks_policy as checks
from bsr_lite.scorers import read_prompts
from bsr_lite.studies.records import drawn, read_runs
from bsr_lite.studies.statistics import within_sd

# %% [markdown]
# **1.** Where one answer ended and one was cut off, the prompt is the same. Over all answers the
# prompts differ, too: some are finished more often than others.

# %%
def ending_alone(value, ended, later):
    worth = torch.where(ended, value, -value).sum(1)[ended.sum(1) == 1].mean()
    return (later - ended.double().mean()) * worth


assert checks.check_ending_alone(ending_alone)

# %%
runs = read_runs(Path("data/runs/study_rloo"))
rows = {}
for method, run in ((m, run) for m in ("bt", "bsr") for run in runs[f"{m}-kl0.0"]):
    policy, own = (run["evaluation"][part] for part in ("policy", "reference"))
    for key in ("proxy", "gold"):
        sd = within_sd(own[key])
        gained = (np.mean(policy[key]) - np.mean(own[key])) / sd
        alone = ending_alone(torch.tensor(own[key]).double() / sd, torch.tensor(own["finished"]),
                             np.mean(policy["finished"])).item()
        rows[f"{method.upper()} {run['seed']}, {key}"] = {
            "gained (sd)": gained, "by ending alone": alone, "the rest": gained - alone}
pd.DataFrame.from_dict(rows, orient="index").round(2)

# %% [markdown]
# As at equal ending (Section 3), two proxies keep a climb, of 1.05 sds and more: those of BSR 0 and
# BSR 2. The other four keep .26 at most. No gold keeps more than .2. There is no interval here. The
# rest also rests on one worth of an ending: the reference's, on prompts with one answer of each.
# Where good answers end first, that worth is too high: in Section 8's third made-up world this
# rule, too, finds a loss where there is none.

# %% [markdown]
# **2.** A difference of differences. What grew everywhere alike cancels.

# %%
def learned_to_list(before, after, asked):
    change = after.double() - before.double()
    return change[asked].mean() - change[~asked].mean()


assert checks.check_learned_to_list(learned_to_list)

# %%
prompts = drawn(read_prompts("data/pocket/pocket.jsonl.gz", "valid", pocket=True), 112, 0)
asked = torch.tensor([row["unit"] == "item" for row in prompts])


def numbered(found):
    return torch.tensor([text.lstrip().startswith("1.") for text in found["texts"]])


learned = {f"{method.upper()} {run['seed']}": learned_to_list(
    numbered(run["evaluation"]["reference"]), numbered(run["evaluation"]["policy"]), asked).item()
    for method in ("bt", "bsr") for run in runs[f"{method}-kl0.0"]}

# %% [markdown]
# BT 0 numbers where a list was asked for. BSR 2 numbers nearly everything, and since it had further
# to go where nothing was asked, the number is negative. Three others *unlearned* lists. They get
# nearly the same number: a difference forgets where it started. The share numbered among the asked,
# after training, tells them apart.

# %%
after = {f"{method.upper()} {run['seed']}": numbered(run["evaluation"]["policy"])[asked]
         for method in ("bt", "bsr") for run in runs[f"{method}-kl0.0"]}
pd.DataFrame({"learned": learned, "numbered, of the asked": {
    name: lists.double().mean().item() for name, lists in after.items()}}).round(2)

# %% [markdown]
# Even both together do not say that a list is a good one: of BT 0's 41 (Section 9), 11 have the
# number asked for (Section 5).

# %% [markdown]
# **3.** With probability $(1 - rate)^n$ none of the n has the trick, and the pick is the honest
# one. Else it is the trick. A trick that gold likes (the checker has one) is no reason to stop.

# %%
def expected_gold(honest, trick, rate):
    n = torch.arange(1, len(honest) + 1)
    harmless = (1 - rate) ** n
    return harmless * honest + (1 - harmless) * trick


assert checks.check_expected_gold(expected_gold)

# %%
honest = torch.arange(1.0, 1001).log()  # gold of the best of n grows about like this
sizes = {f"best n up to {most}": {
    f"one in {round(1 / rate)}": int(expected_gold(honest[:most], -2.0, rate).argmax() + 1)
    for rate in (0.1, 0.01, 0.001)} for most in (64, 1000)}
pd.DataFrame(sizes).rename_axis("tricks")

# %% [markdown]
# Up to some n the search finds better answers, from there it finds the trick. The rarer the trick
# the later the turn. At one in a thousand gold still rises at 64 and turns at 143: "rises" up to
# 64 cannot see such a trick.
