# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Solutions to 03 · What happens when the rewards of a batch must sum to zero?

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
from bsr_lite.losses import preference_loss
from bsr_lite.studies.records import read_runs

# %% [markdown]
# **1.** With the level at zero $G\,\bar r^{\,2}$ is still $\mathrm{Var}(s)$ on average: the mean of
# $G$ pairs scatters. What is beyond that is the level's. Section 2 in one line, solved for
# $G\mu_s^2$ and summed over the steps.

# %%
def level_share(batch_means, variances, group):
    return 1 - variances.sum() / (group * batch_means.square().sum())


assert checks.check_level_share(level_share)

# %%
record = read_runs("data/runs/study_lambda")
for method in ("bsr-1e-3", "bt"):
    for run in record[method]:
        means, variances = (torch.tensor([row[key] for row in run["metrics"] if key in row][4:23])
                            for key in ("train/reward_mean", "bsr/variance_term"))
        share = level_share(means, variances, 16)
        print(f"{method} seed {run['seed']}: share of the level {share:.3f}")
torch.manual_seed(0)
null = [level_share(torch.randn(19) * 0.7 / 4, torch.full((19,), 0.49), 16) for _ in range(1000)]
print("level zero, 95% of 1000 runs:", torch.stack(null).quantile(torch.tensor([0.025, 0.975])))

# %% [markdown]
# So the sentence may not stand: in each of the three seeds most of the penalty from step 5 on is
# the level's. It crosses zero, but swings about it, and a swing of $0.4$ costs $16 \cdot 0.4^2
# \approx 2.6$, several times the spread. The controls: under BT, where nothing holds the level, the
# share is nearly 1; where the level is zero, 19 steps hardly ever give so high a share by chance.
# (The estimate can be negative where the level is small: then the batch means happened to scatter
# less than their variance promised.)

# %% [markdown]
# **2.** Centering adds $4\kappa$ to both weights. So $\lambda' G_{new} + 4\kappa = \lambda G_{old}$
# (level) and $\lambda' + 4\kappa = \lambda$ (spread); the difference has no $\kappa$. In larger
# groups BSR gives the spread too little, and centering the rest. In smaller ones $\kappa$ is
# negative: the weights are right on average, but a batch's penalty can fall below zero, and has no
# bound there. With groups of one BSR is centering itself, and no pair of numbers helps.

# %%
def same_weights(bsr_lambda, old, new):
    new_lambda = bsr_lambda * (old - 1) / (new - 1)
    return new_lambda, (bsr_lambda - new_lambda) / 4


assert checks.check_same_weights(same_weights)

# %% [markdown]
# **3.** Three steps: all rewards, part by part, *without* a graph; the loss of the whole batch and
# its gradient $\partial L/\partial r$, without the network; each part again, *with* a graph,
# backward from its slice of $\partial L/\partial r$.
#
# With dropout step 1 would draw one mask and step 3 another: the slices would belong to other
# rewards than the graphs, and the sum would be the gradient of no loss. So each part's pass with a
# graph must repeat the mask of its pass without one: keep the random state before it, and set it
# back.

# %%
def accumulated_gradient(rewards, parts, head_weight, bsr_lambda):
    with torch.no_grad():  # 1. all rewards, no graph
        pairs = [torch.stack([rewards(w, head_weight), rewards(l, head_weight)], dim=1)
                 for w, l in parts]
    whole = torch.cat(pairs).requires_grad_()  # (B, 2)
    loss = preference_loss("bsr", whole[:, 0], whole[:, 1], bsr_lambda=bsr_lambda)
    (dL_dr,) = torch.autograd.grad(loss, whole)  # 2. of the whole batch
    head = head_weight.clone().requires_grad_()
    for (w, l), p in zip(parts, dL_dr.split([len(w) for w, _ in parts]), strict=True):
        (rewards(w, head) * p[:, 0]).sum().backward()  # 3. each part with its own slice
        (rewards(l, head) * p[:, 1]).sum().backward()
    return head.grad


assert checks.check_accumulated_gradient(accumulated_gradient)

# %% [markdown]
# With a linear head step 3 is one line:

# %%
h_w, h_l = torch.randn(2, 8, 24, dtype=torch.float64)
head = torch.randn(24, dtype=torch.float64)
rewards = torch.stack([h_w @ head, h_l @ head]).requires_grad_()  # (2, B), numbers only
(dL_dr,) = torch.autograd.grad(preference_loss("bsr", *rewards, bsr_lambda=0.1), rewards)
torch.testing.assert_close(
    dL_dr[0] @ h_w + dL_dr[1] @ h_l,
    accumulated_gradient(torch.matmul, [(h_w[:5], h_l[:5]), (h_w[5:], h_l[5:])], head, 0.1))

# %% [markdown]
# **4.** Set $G\mu_s^2 = \mathrm{Var}(s)\,(N-G)/(N-1)$ and solve for $G$:
# $G\,(\mu_s^2 (N-1) + \mathrm{Var}(s)) = N\,\mathrm{Var}(s)$.

# %%
def crossing_group_size(mean, variance, n):
    return n * variance / (mean**2 * (n - 1) + variance)


assert checks.check_crossing_group_size(crossing_group_size)
