# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Solutions to 02 · Do hidden norms disperse while a reward model is trained?

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

from bsr_lite.course import checks

# %% [markdown]
# **1.** With $v = u/\mathrm{rms}(u)$ the reward is $(g \odot W_p)^\top v$, and $v$ is $u$
# stretched to length $\sqrt H$. Its derivative removes the part along $u$ and divides by the
# scale: $\frac{1}{\mathrm{rms}(u)}\bigl(a - \frac{v^\top a}{H} v\bigr)$ with $a = g \odot W_p$.
# It is orthogonal to $u$ and shrinks like $1/\lVert u\rVert$: a longer raw state has the same
# reward and is harder to turn.

# %%
def raw_gradient(raw_state, gain, head_weight):
    rms = raw_state.square().mean().sqrt()
    v, a = raw_state / rms, gain * head_weight
    return (a - (v @ a) / len(v) * v) / rms


assert checks.check_raw_gradient(raw_gradient)

# %% [markdown]
# **2.** Sum both sides of the law of cosines over the pairs, then divide.

# %%
def angle_share(hidden_chosen, hidden_rejected):
    a, b = hidden_chosen.norm(dim=-1), hidden_rejected.norm(dim=-1)
    cosine = (hidden_chosen * hidden_rejected).sum(-1) / (a * b)
    angle = 2 * a * b * (1 - cosine)
    return angle.sum() / (hidden_chosen - hidden_rejected).square().sum()


assert checks.check_angle_share(angle_share)

# %% [markdown]
# **3.** The entropy of the normalised singular values, back from nats to a count. Four equal
# values count as 4; one non-zero value as 1.

# %%
def effective_rank_of(singular_values):
    p = singular_values / singular_values.sum()
    return torch.special.entr(p).sum().exp()


assert checks.check_effective_rank(effective_rank_of)

# %% [markdown]
# **4.** With $v = u / \mathrm{rms}(u)$, a vector of length $\sqrt H$ in any direction, the reward
# is $(g \odot W)^\top v$. By Cauchy-Schwarz it is at most $\lVert g \odot W \rVert \sqrt H$,
# attained when $v$ points along $g \odot W$, and at least minus that. The largest margin is the
# difference.

# %%
def largest_margin(gain, head_weight):
    return 2 * (gain * head_weight).norm() * len(gain) ** 0.5


assert checks.check_largest_margin(largest_margin)
