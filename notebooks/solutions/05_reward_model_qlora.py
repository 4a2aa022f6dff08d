# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Solutions to 05 · How does an 8B reward model fit on one small GPU?

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
# **1.** A frozen number is only itself; a trained one brings its gradient and AdamW's two averages.

# %%
def fixed_memory(linear, others, trained):
    return (linear * 4.127 / 8 + others * 2 + trained * (4 + 4 + 8)) / 1e9


assert checks.check_fixed_memory(fixed_memory)

# %%
print(f"8B:  {fixed_memory(6.98e9, 0.525e9, 0.042e9):.1f} GB")
print(f"70B: {fixed_memory(68.5e9, 1.05e9, 0.207e9):.1f} GB")

# %% [markdown]
# 8B: 4.65 GB of base and .67 of what is trained, as in Section 4; a 16 GB card keeps about 10 for
# CUDA and activations. 70B needs 40.7 GB, so cards of 16, 24 and 32 GB are ruled out. On one of 48
# GB some 7 are left: whether that is enough, the tokens of the batch decide.

# %% [markdown]
# **2.** Section 6 takes all differences of one prompt's rewards; here it is done in every row.

# %%
def margin_change(trained, loaded):
    def margins(rewards):
        return rewards[:, :, None] - rewards[:, None, :]  # (prompts, answers, answers)
    return (margins(loaded) - margins(trained)).abs().max()


assert checks.check_margin_change(margin_change)

# %%
saved = torch.tensor([[1.0, 0.2, 0.1, -0.4], [0.5, 0.9, -1.1, 0.0]])
lost = torch.tensor([[0.3, 0.1, 0.0, -0.2], [-0.1, 0.1, 0.4, 0.2]])
for name, copy in {"a": saved + 2, "b": 0.8 * saved, "c": lost}.items():
    same = (copy.argsort(1) == saved.argsort(1)).all(1).tolist()
    print(f"{name}: {margin_change(saved, copy):.2f}; the saved order, prompt by prompt: {same}")

# %% [markdown]
# Copy a keeps every margin, and only margins mean something: hand it on. (But ask where the 2 comes
# from. On the same machine the rewards should be the same.) Rewards alone would have refused a as
# well as b and c. Orders would have let b pass, whose margins are a fifth smaller. They find the
# lost head of c in the second prompt only: in the first its order is right by luck.

# %% [markdown]
# **3.** The layer computes with its rounded values, so these are what the change is
# added to. The rank is the number of $A$'s rows.
# Merged into $W$, every output is wrong by $h D^T$ with $D = W - W_4$, the rounding error, whatever
# $A$ and $B$ are: beside $W$ the adapter does just the same, merged or not (Section 10).

# %%
def merged_matrix(codes, absmax, values, A, B, alpha):
    base = (values[codes] * absmax).view(len(B), A.shape[1])  # blocks run along the rows
    return base + alpha / len(A) * B @ A


assert checks.check_merged_matrix(merged_matrix)

# %% [markdown]
# **4.** $A$'s gradient passes through $B$, which is zero, so $A$ stays. $B$'s is the matrix's
# gradient times $A^T$, times $\alpha / k$. And the move of $B$ comes back into $W'$ with another
# $\alpha / k$.

# %%
def first_step(gradient, A, alpha, rate):
    B_moves = -rate * alpha / len(A) * gradient @ A.T  # (outputs, k)
    return alpha / len(A) * B_moves @ A


assert checks.check_first_step(first_step)

# %% [markdown]
# The same by automatic differentiation, and with twice the $\alpha$.

# %%
torch.manual_seed(0)
gradient, A, B = torch.randn(4, 6), torch.randn(3, 6), torch.zeros(4, 3)
A.requires_grad_(), B.requires_grad_()
(gradient * (12 / 3 * B @ A)).sum().backward()
step = 12 / 3 * (B - 0.1 * B.grad) @ (A - 0.1 * A.grad)
torch.testing.assert_close(first_step(gradient, A, 12, 0.1), step)
twice = first_step(gradient, A, 24, 0.1).norm() / step.norm()
print(f"twice the alpha: a step {twice.item():.2f} times as large")

# %% [markdown]
# Four times: so $\alpha$ and the learning rate are tuned together. (AdamW divides a step by the
# gradient's size. Under it one of the two factors cancels, and twice the $\alpha$ is about twice
# the first step.)
