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
# **1.** The sum over an answer's tokens gives whole answers. The rest is Section 5's loss, with
# another baseline.
#
# - (a) $(K - 1) / K$. With $S$ the sum of all $K$, $A_i = R_i - (S - R_i) / (K - 1)$, which is
#   $(K R_i - S) / (K - 1)$. And $R_i - S / K = (K R_i - S) / K$.
# - (b) The short one's, four times as hard: $-1/12$ a token, in the long one $-1/48$. A bad
#   answer is then spared by being long. (Nor is the average push still $\nabla J$.)

# %%
def token_loss(reward, logp, ref, mask, beta):
    logp, ref = (logp * mask).sum(2), (ref * mask).sum(2)
    R = reward - beta * (logp.detach() - ref)
    return -((R - R.mean(1, keepdim=True)) * logp).mean()


assert checks.check_token_loss(token_loss)

# %% [markdown]
# **2.** A control that lost taught nothing: only a control's *gain* is taken off. This is a
# convention. Gold minus random numbers would be 1.05 for the other four, but a part of that only
# undoes their damage, $-.59$.
#
# - (a) *complete* keeps .11, *instruction* .35, *topic* .10, the other two next to nothing: .57 in
#   all. The .11 make the difference: random numbers may raise *complete* as much as gold does.
# - (b) *instruction* alone: gold has $+.35\pm .14$, random numbers $-.22\pm .27$. For *complete*,
#   the control's interval forbids it, $+.40\pm .42$. For *topic*, gold's own, $+.10\pm .15$,
#   contains zero, as for *fresh* and *concise*. (Against these controls. At equal ending it is not
#   clear: Section 7, last paragraph.)

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
