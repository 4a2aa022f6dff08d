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
import torch

from bsr_lite import checks

# %% [markdown]
# **1.** The mean is over the $H$ coordinates of each state; the gain multiplies afterwards.

# %%
def rms_norm_exercise(hidden, gain):
    rms = hidden.square().mean(-1, keepdim=True).sqrt()  # (N, 1)
    return gain * hidden / rms


assert checks.check_rms_norm(rms_norm_exercise)

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
def effective_rank_exercise(singular_values):
    p = singular_values / singular_values.sum()
    return torch.special.entr(p).sum().exp()


assert checks.check_effective_rank(effective_rank_exercise)

# %% [markdown]
# **4.** With $v = u / \mathrm{rms}(u)$, a vector of length $\sqrt H$ in any direction, the reward
# is $\sum_i W_i g_i v_i = (g \odot W)^\top v$. By Cauchy-Schwarz it is at most $\lVert g \odot W
# \rVert \sqrt H$, attained when $v$ points along $g \odot W$.

# %%
def largest_reward(gain, head_weight):
    return (gain * head_weight).norm() * len(gain) ** 0.5


assert checks.check_largest_reward(largest_reward)
