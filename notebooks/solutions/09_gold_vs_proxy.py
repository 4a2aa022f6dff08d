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
from bsr_lite.metrics import seed_interval
from bsr_lite.studies.records import read_runs
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
# **2.** What a policy gained by ending is the worth times what its share grew by. That holds for
# random numbers as for a model's policies. The reward added what is left of the model's gain, minus
# what is left of random numbers' ("training alone" in the table).

# %%
def three_parts(gained, ended, before, worth):
    ending = worth * (ended - before)
    left = gained - ending
    return torch.stack([left[1], left[0] - left[1], ending[0]])


assert checks.check_three_parts(three_parts)

# %%
controls = read_runs(Path("data/runs/study_rloo_controls"))
own = runs["bt-kl0.0"][0]["evaluation"]["reference"]  # the same for all
groups = {"gold": controls["gold-kl0.0"], "BT": runs["bt-kl0.0"], "BSR": runs["bsr-kl0.0"],
          "random": controls["noise-kl0.0"]}
gains, shares = ({name: [of(run["evaluation"]["policy"]) for run in group]
                  for name, group in groups.items()} for of in (
    lambda policy: (np.mean(policy["gold"]) - np.mean(own["gold"])) / within_sd(own["gold"]),
    lambda policy: np.mean(policy["finished"])))
rows = {}
for name in ("gold", "BT", "BSR"):
    for worth in (0.83, 1.65, 3.3):
        gained, ended = (torch.tensor([of[name], of["random"]]) for of in (gains, shares))
        parts = three_parts(gained, ended, np.mean(own["finished"]), worth).numpy()
        alone, added, ending = parts
        rows[f"{name}, worth {worth}"] = {
            "training alone": alone.mean(), "the reward added": added.mean(),
            "± paired": seed_interval(added)[1], "ending": ending.mean()}
pd.DataFrame.from_dict(rows, orient="index").round(2)

# %% [markdown]
# What the reward added moves by .11 at most, while the worth grows fourfold: both rows end almost
# alike, and the reference's share drops out. So one may compare a model's policies with those on
# random numbers at once, without the reference (`LOG.md`, `study_rloo_controls`).

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
