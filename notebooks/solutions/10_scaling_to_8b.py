# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Solutions to 10 · What changes between a 135M model on a laptop and 8B on eight GPUs?

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
import json
from pathlib import Path

import pandas as pd
import torch

from bsr_lite.course import checks_policy as checks

# %% [markdown]
# **1.** Sixteen bytes a weight in all; the optimizer's eight are cut first. Stage 3 sends half as
# much again between the GPUs as the others, so it is the last to take. On 8 GPUs a card of 24 GB
# holds no stage of the 8 billion: at stage 3 it would need 36. On 64 GPUs it needs 22.

# %%
def first_stage(weights, gpus, activations, card):
    parts = (8, 4, 4)  # averages, gradient, weight
    for stage in range(4):
        each = sum(size / gpus if place < stage else size for place, size in enumerate(parts))
        if weights * each + activations <= card:
            return stage
    return -1


assert checks.check_first_stage(first_stage)

# %% [markdown]
# **2.** A group's $\lambda G\,\bar r^{\,2}$ holds the mean $\bar r$ of $2G$ rewards. So its
# derivative is $\lambda\,\bar r$, the same for every reward of the group; averaging divides it by
# the number of groups. Only `rewards` had to cross the GPUs. Bradley-Terry's part needs nothing of
# another rank.
#
# If each of two ranks goes backward for all pairs, each has the whole gradient, and their sum is
# twice that. The first loss is right, for the rewards are. The gradient's norm is 100% too large.

# %%
def bsr_gradient(rewards, mine, size, bsr_lambda):
    means = rewards.view(len(rewards) // size, -1).mean(1)  # (groups,)
    return bsr_lambda * means[mine // size, None].expand(-1, 2) / len(means)


assert checks.check_bsr_gradient(bsr_gradient)

# %% [markdown]
# **3.** Causal, but for one rectangle: a rejected token does not see the chosen answer. The chosen
# answer comes earlier, so causality alone hides the rejected one from it.

# %%
def may_attend(prompt, chosen, rejected):
    length, start = prompt + chosen + rejected, prompt + chosen
    mask = torch.ones(length, length, dtype=torch.bool).tril()
    mask[start:, prompt:start] = False
    return mask


assert checks.check_may_attend(may_attend)

# %% [markdown]
# **4.** Seconds are tokens over rate. A line through two points, read at zero tokens.

# %%
def fixed_seconds(tokens, rates):
    seconds = [n / rate for n, rate in zip(tokens, rates, strict=True)]
    slopes = [(seconds[i + 1] - seconds[i]) / (tokens[i + 1] - tokens[i]) for i in (0, 1)]
    a, b = (seconds[i] - slopes[i] * tokens[i] for i in (0, 1))
    return a, b, int(abs(a - b) <= max(a, b) / 10)


assert checks.check_fixed_seconds(fixed_seconds)

# %%
record = json.loads(Path("data/runs/gpu_nvidia-h100-80gb-hbm3/speed.json").read_text())
speed, found = pd.DataFrame(record["found"]["tables"]["of the embedded model"]), {}
for kind, runs in speed[speed.what.str.startswith("train")].groupby("what"):
    tokens, rates = runs["token budget"].astype(int).tolist(), runs["tokens/s"].tolist()
    first, last, fits = fixed_seconds(tokens, rates)
    share, seconds = runs["of the published peak"].iloc[-1], tokens[-1] / rates[-1]
    found[kind] = {f"s, {n:,} tokens": n / r for n, r in zip(tokens, rates, strict=True)}
    found[kind] |= {"fixed (s), first two": first, "fixed (s), last two": last, "fits": fits,
                    "of the peak (%)": 100 * share,
                    "without fixed (%)": 100 * share * seconds / (seconds - last)}
pd.DataFrame.from_dict(found, orient="index").round(3)

# %% [markdown]
# - The line fits *full* alone: .131 and .128 seconds without tokens. For LoRA and QLoRA the two
#   parts give other fixed seconds, so a line is the wrong picture.
# - They are a third of its largest step: without them 6% would be 9%, not 35%. So the second
#   sentence is wrong.
# - No. That the card waits for the CPU in them is a guess.

# %% [markdown]
# What the rest is (small matrices, or the slow attention that is mended since) the record does not
# separate. It is one card, one call of each setting, the median of five steps: no interval between
# calls. Seconds are budget over rate; 8,064 tokens for 8,192 change no verdict. An 8B model does
# about 66 times the operations a token: neither 6% nor 35% carries over. Measure ten steps.
