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
import torch

from bsr_lite.course import checks_policy as checks

# %% [markdown]
# **1.** $\pi_\beta \propto \pi_{ref}\,e^{p/\beta}$ maximizes $E[p] - \beta\,\mathrm{KL}$. Gold has
# no part in choosing it; it is only looked up.

# %%
def tilt(reference, proxy, gold, beta):
    best = (reference.log() + proxy / beta).softmax(0)
    return torch.stack([(best * (best / reference).log()).sum(), best @ proxy, best @ gold])


assert checks.check_tilt(tilt)

# %% [markdown]
# **2.** In its own standard deviations each, so that a proxy's scale, which means nothing, cancels.
# For normal noise this share is the correlation at every KL (Section 1).

# %%
def share_kept(gold, base_gold, proxy, base_proxy):
    rise = (gold.mean() - base_gold.mean()) / base_gold.std()
    return rise / ((proxy.mean() - base_proxy.mean()) / base_proxy.std())


assert checks.check_share_kept(share_kept)

# %% [markdown]
# **3.** The sign of the difference is 1, 0 or -1.

# %%
def win_rate(rewards, base_rewards):
    return ((rewards - base_rewards).sign() / 2 + 0.5).mean()


assert checks.check_win_rate(win_rate)

# %% [markdown]
# **4.** No model of the length's effect is needed, but the pairs that differ more are thrown away,
# and the tighter the match the fewer are left.

# %%
def matched_win_rate(wins, words, base_words, within):
    return wins[(words - base_words).abs() <= within].mean()


assert checks.check_matched_win_rate(matched_win_rate)
