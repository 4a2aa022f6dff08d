# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Solutions to 08 · How does a policy learn from a reward?

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
from bsr_lite.metrics import seed_interval

# %% [markdown]
# **1.** The variance is $E[(r - b)^2\,\ell]$ minus a constant, with $\ell =
# \lVert\nabla\log\pi\rVert^2$. Its derivative in $b$ is zero at $b = E[r\,\ell] / E[\ell]$: a mean
# reward in which arms weigh by how much they move the policy.

# %%
def best_baseline(probabilities, rewards, squared_lengths):
    weights = probabilities * squared_lengths
    return (weights * rewards).sum() / weights.sum()


assert checks.check_best_baseline(best_baseline)

# %% [markdown]
# **2.** A control that lost taught nothing: only a control's *gain* is taken off. This is a
# convention, and (b) says what for.
#
# - (a) *complete* keeps .11, *instruction* .35, *topic* .10, the other two next to nothing: .57 of
#   .96 in all.
# - (b) 1.05 is what gold brings in place of random numbers, in the same loop. A part of it only
#   undoes their damage, $-.59$. The .46 is what the policy gained over the reference, and no
#   control did.
# - (c) *instruction* alone. For *complete*, random numbers reach $+.40\pm .42$: the control may
#   gain as much as gold. For *topic*, gold's own interval, $+.10\pm .15$, contains zero, as for
#   *fresh* and *concise*.

# %%
def credited(gold, controls):
    best = controls.mean(1).max(0).values
    return gold.mean(0) - best.clamp(min=0)


assert checks.check_credited(credited)

# %% [markdown]
# **3.** $c\,r - \beta' d = c\,(r - \beta d)$ for $\beta' = c\,\beta$. Advantages, hence
# gradients, are $c$ times as large.
#
# - (a) No. The sd is $c$ times as large, too, so $c$ cancels. The penalty there is one sd.
# - (b) The penalty of .57. Unscaled, it makes $c$ matter. Take a cut-off answer of gold 4 and an
#   ended one of gold 2.5. With $c = 1$ the cut-off one wins, 3.43 to 2.5. With $c = .1$ it loses,
#   -.17 to .25.
#
#   With penalty and $\beta$ scaled, $c$ hardly matters. Above the clip a gradient leaves with norm
#   1. Below it Adam divides by the gradient's own size. Only which steps are clipped changes.

# %%
def rescaled(beta, c):
    return torch.tensor([c * beta, c])


assert checks.check_rescaled(rescaled)

# %% [markdown]
# **4.** A subject is one observation, ten in all.
#
# - At 1e-3 and at 3e-3 the sentence may stand, for one run each. The other four terms gained, and
#   so did gold where both ended: all these intervals lie above zero. At 3e-3 both gains are less
#   than half as large (+.17 ± .08 and +.20 ± .13).
# - At 3e-4 both are undecided: +.04 ± .10 each, next to .55 of *complete*.
#
# Use the interval over subjects: prompts of one subject may be alike. Over prompts it is narrower
# at two rates, but no verdict changes here. To blame the rate for 3e-3 takes several seeds at both
# rates, compared at the same KL (33 against 23 here).

# %%
def beyond_complete(change, subjects):
    others = change[:, 1:].sum(1)
    by_subject = [others[subjects == t].mean() for t in subjects.unique()]
    return torch.tensor(seed_interval(by_subject))


assert checks.check_beyond_complete(beyond_complete)
