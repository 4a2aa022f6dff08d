# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 11 · My reward model looks wrong: where do I look first?
#
# "The rewards are around 300." "All rewards are negative." "Accuracy stays at 50%." Some symptoms
# are no illness. How do you tell?
#
# A number alone is neither well nor ill. Ask of each one:
# **must it agree with another, must it differ from another, or does it need a scale?**
# Rewards after loading must agree with those before saving. A trained model's accuracy must differ
# from a random one's. A mean reward of 300 needs a scale.
#
# The **first reading** has one section for each kind. The **second reading** has five more
# symptoms, and what the first leaves open.

# %% [markdown]
# After the first reading you can
# - tell a symptom that needs a cure from one that only looks odd;
# - say of which of the three kinds a number is;
# - judge whether an accuracy may be luck.

# %% [markdown]
# Words from before:
# - *reward model*: gives an answer to a prompt one number, the *reward* $r$ (01);
# - *pair*: two answers to one prompt, the better one *chosen*, with reward $r_w$, the other one
#   *rejected*, with reward $r_l$ (01);
# - *accuracy*: the share of pairs ranked rightly, with $r_w > r_l$;
# - *Bradley-Terry's loss*: $-\log \sigma(r_w - r_l)$, averaged over pairs (Eq. 3; 01);
# - *BSR*: the same loss with a price on the sum of a batch's rewards (Eq. 25; 03).

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
import tempfile
from dataclasses import replace
from functools import partial

import pandas as pd
import torch

from bsr_lite import batching, generate, plots
from bsr_lite.course import checks_clinic as checks
from bsr_lite.course import doctor
from bsr_lite.embedded import quiet_loading
from bsr_lite.eval_rm import evaluate, fitting, score_tokens
from bsr_lite.losses import preference_loss
from bsr_lite.metrics import bootstrap_interval
from bsr_lite.models import load_reward_model
from bsr_lite.scenarios import pairs_as_groups
from bsr_lite.tokenization import answer_rows

torch.manual_seed(0)
RUNS, POCKET = Path(tempfile.mkdtemp()), "data/pocket/pocket.jsonl.gz"

# %% [markdown]
# ## A healthy patient first
#
# What does a check say of a model that is well? Unless we have seen it say *ok*, its *broken*
# proves nothing.
#
# Our reward model has two parts. The **backbone**, the first four layers of a small language
# model, turns a prompt with its answer into a vector $h$, the hidden state at the last token. The
# **head** is a vector $W_p$ of $H = 576$ weights. The reward is $r = W_p \cdot h$ (Eq. 2). Only the
# head is trained.

# %% [markdown]
# The data are lesson 01's pocket world: of each prompt we take the best and the worst answer. 80
# pairs train the head. 48 pairs of other prompts test it: these are the **new pairs**.
#
# The worst answer is often gibberish or unfinished, so a high accuracy is easy. One new pair:

# %%
train = doctor.read(POCKET, "pocket", "train", count=80)
pairs = doctor.read(POCKET, "pocket", count=48)  # of the dev split
model = load_reward_model("smollm2-135m-instruct", depth=4, dtype="float32")
model.requires_grad_(False)
for name, text in (("prompt", pairs[2].prompt[-1]["content"]), ("chosen", pairs[2].chosen),
                   ("rejected", pairs[2].rejected)):
    print(f"{name:9s} {text[:88]}")

# %% [markdown]
# `states` computes two hidden states for each pair, of the chosen and of the rejected answer.

# %%
def states(pairs):  # last hidden states of both answers, (P, 2, H)
    found, _ = fitting(model, pairs_as_groups(pairs), None)  # their tokens; none is too long
    return torch.stack([s["after_norm"]  # h, as the head reads it
                        for s in score_tokens(model, [t for _, t in found])])


seen, new = states(train), states(pairs)

# %% [markdown]
# `fitted` trains a head, from the head `start` on. To the loss it adds .05 times the squared
# distance from `start`, the **pull**. Without it many heads would fit: 80 pairs for 576 weights.

# %%
def fitted(states, start, loss, **options):
    head = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([head], max_iter=100, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        chosen, rejected = (states @ head).unbind(1)  # (P,) each
        value = preference_loss(loss, chosen, rejected, **options)
        value = value + 0.05 * (head - start).square().sum()
        value.backward()
        return value

    optimizer.step(closure)
    return head.detach()

# %% [markdown]
# `judged` works out what the checks need: above all the accuracy and its 95% interval, where the
# accuracy might lie had we drawn other pairs of this kind.

# %%
def judged(rewards, pairs=pairs):  # (P, 2)
    right = (rewards.diff(dim=1)[:, 0] < 0).float()
    score, low, high = bootstrap_interval(right)
    longer = sum(len(pair.chosen) > len(pair.rejected) for pair in pairs) / len(pairs)
    return {"score": score, "low": low, "high": high, "groups": len(pairs), "rewards":
            rewards.tolist(), "per_prompt": right.tolist(), "length_score": longer}

# %% [markdown]
# Now we train the healthy head, with BSR, so that its mean reward is near zero. We put it into the
# model, and call three checks of our **doctor**. A line holds a check's name, its verdict, and what
# it measured. *ok*: this check found nothing. *look*: this may be fine. *broken*: mend this first.

# %%
start = model.head_weight.clone().cpu()  # drawn from N(0, 1/(H+1)), untrained
healthy = fitted(seen, start, "bsr", bsr_lambda=0.1)
model.head_weight.copy_(healthy)
model.meta["new_head"] = False  # it is trained now; saving and loading does this by itself
scores = judged(new @ healthy)
well = [doctor.tell(doctor.head, model), doctor.tell(doctor.level, scores),
        doctor.tell(doctor.accuracy, scores)]
assert all(well), "the control: no check says broken"

# %% [markdown]
# Sections 1 to 3 explain what the lines hold.
#
# The check *accuracy* knows two rules that are blind to quality. "The longer answer wins" ranks .31
# of the pairs rightly, so "the shorter answer wins" ranks .69.
# - *ok*: the whole interval, here .83 to .98, lies above both rules.
# - *broken*: the whole interval lies below .5.
# - *look*: all else.
#
# **The answer**: of a model that is well each check says *ok*.

# %% [markdown]
# ## 1. "My rewards are around 300", "All my rewards are negative"
#
# Kind: *needs a scale*. We add 300 to every reward of the healthy model, or subtract 8.
# Last, we store the raised rewards in 16 bits (*bfloat16*).
#
# **Predict**: what happens to the accuracy, and to the Bradley-Terry loss?

# %%
brief = partial(doctor.tell, advice=False)  # the finding alone, not what to do
coarse = (new @ healthy + 300).bfloat16().float()  # to 16 bits and back
for name, r in (("before", new @ healthy), ("300 more", new @ healthy + 300),  # break
                ("8 less", new @ healthy - 8), ("300 more, in bfloat16", coarse)):
    print(f"---- {name}: Bradley-Terry loss {preference_loss('bt', *r.unbind(1)):.3f}")
    brief(doctor.level, judged(r))
    brief(doctor.accuracy, judged(r))
print("only", *coarse.unique().int().tolist(), "left, pairs tied:", int((coarse.diff() == 0).sum()))

# %% [markdown]
# <details><summary>Answer</summary>
#
# Nothing, in 32 bits: both see only the difference $r_w - r_l$.
# </details>
#
# Is 300 large? The check *level* takes as its scale the **distance to pair mean**: how far a reward
# lies, on average, from the mean of its pair's two rewards. Here that is 1.28. *Level* says *look*
# in two cases:
# - the mean reward is more than ten such distances from zero, a convention;
# - all rewards lie on one side of zero.
#
# At 300 both hold. At -8, six distances, only the second does.

# %% [markdown]
# Zero matters where a fixed number meets the rewards: a program that accepts rewards above 0
# accepts all at 300, and none at -8. Then subtract the mean.
#
# In bfloat16 numbers near 300 are 2 apart. So pairs tie, and accuracy falls to .77. Then use 32
# bits.
#
# **The answer**: in 32 bits a level of 300, or below zero, is no illness, unless a fixed number
# meets the rewards.

# %% [markdown]
# ## 2. "The loss falls, but accuracy stays at 50%"
#
# Kind: *must differ*, from a model that has learned nothing.
#
# The fault: somebody has put the two answers of each training pair into alphabetical order. Now the
# first one is *chosen*.
#
# With these labels we train a head, called *alphabet*. **Predict** its accuracy on the training
# pairs with these labels, and on the new pairs, whose labels are right.

# %%
flip = torch.tensor([pair.chosen > pair.rejected for pair in train])  # break
lost = seen.clone()
lost[flip] = lost[flip].flip(1)
learned = fitted(lost, start, "bsr", bsr_lambda=0.1)
loss = [preference_loss("bt", *(lost @ head).unbind(1)) for head in (start, learned)]
print(f"{flip.float().mean():.0%} of the labels are turned")
print(f"training loss {loss[0]:.2f} to {loss[1]:.2f}")

# %%
handed = [replace(pair, chosen=pair.rejected, rejected=pair.chosen) if turn else pair
          for pair, turn in zip(train, flip, strict=True)]
print("alphabet on its training pairs, then on new pairs:")
brief(doctor.accuracy, judged(lost @ learned, handed))
brief(doctor.accuracy, judged(new @ learned))
right = ((seen @ healthy).diff(dim=1) < 0).float().mean()
print(f"healthy on its training pairs: {right:.2f}")
ahead = [sum(pair.chosen < pair.rejected for pair in some) for some in (handed, train)]
print("chosen comes first in the alphabet: {} of 80, before the fault {}".format(*ahead))
for pair in handed[5:9]:
    print(f"    chosen {pair.chosen[:18]:18} rejected {pair.rejected[:18]}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# High on the training pairs, near one half on the new ones.
# </details>
#
# **What to see.** The loss falls. On its training pairs the head gets .84, and the check says *ok*.
# On the new pairs it gets .56. Healthy, trained with the right labels, gets .98 and .92.
#
# So the gap from .84 to .56 is the alarm. It does not show *what* is wrong: overfitting can look
# like this, too. The labels do: in all 80 pairs *chosen* comes first.

# %% [markdown]
# ### What does a head get that has learned nothing?
#
# We draw 1000 random heads. Beside them we toss 1000 coins, each once for every new pair. 95% of
# the coins rank between 35% and 65% of the pairs rightly.
#
# **Predict** between which accuracies 95% of the random heads lie.

# %%
heads, differ = torch.randn(len(start), 1000), new[:, 0] - new[:, 1]  # (H, 1000), (P, H)
tosses, reaches = torch.randn(len(new), 1000), {}
for name, margins in (("coins", tosses), ("random heads", differ @ heads)):  # margins: (P, 1000)
    drawn = (margins > 0).float().mean(0)  # (1000,), of each the accuracy
    reaches[name] = reach = drawn.quantile(torch.tensor([0.025, 0.975])).tolist()
    print(f"{name:12} 95% rank {reach[0]:.0%} to {reach[1]:.0%} rightly")

# %% [markdown]
# <details><summary>Answer</summary>
#
# From 17% to 81%, about twice as wide as the coins' range.
# </details>
#
# A coin is tossed anew for each pair. One head ranks all 48 pairs, and their differences
# $h_w - h_l$ have much in common. So a random head turns many pairs at once. (Section 9 shows it.)
#
# The figure puts three heads beside the 1000 random ones. *Untrained* is our `start`, one more
# random head. The range of 95% of the random heads is called the **band**. Which of the three lie
# outside the coins' range, which outside the band?

# %%
# drawing only
_, axis = plots.panels()
counts, _, _ = axis.hist(drawn, bins=((torch.arange(50) - 0.5) / 48).tolist(), color="#BBBBBB")
top = counts.max()
for (name, ends), y in zip(reaches.items(), (1.34, 1.56), strict=True):
    axis.plot(ends, [y * top] * 2, color="black", linewidth=2)
    axis.vlines(ends, 0, y * top, color="black", linestyle=":", linewidth=1)
    axis.text(0.5, (y + 0.03) * top, f"95% of {name}", ha="center")
marks = {"alphabet": learned, "untrained": start, "healthy": healthy}
marks = {name: judged(new @ head)["score"] for name, head in marks.items()}
for name, value in marks.items():
    axis.plot(value, 0, "^", color="#D55E00", markersize=9, clip_on=False, zorder=4)
    axis.text(value, 1.08 * top, f"{name}\n{value:.2f}", ha="center", color="#D55E00")
    axis.vlines(value, 0, 1.05 * top, color="#D55E00", linewidth=1)
axis.set_ylim(0, 1.75 * top)
plots.label(axis, "share of the 48 new pairs ranked rightly", "random heads, of 1000",
            "Luck takes untrained past the coins; only healthy leaves the band")
outside = {name: [n for n, x in marks.items() if not a <= x <= b]
           for name, (a, b) in reaches.items()}
assert outside == {"coins": ["untrained", "healthy"], "random heads": ["healthy"]}

# %% [markdown]
# **What to see.** Untrained's .75 lies outside the coins' range, and yet it is luck: nobody trained
# this head. Only healthy lies above the band. Alphabet's .56 lies inside: it shows neither that
# something was learned, nor that nothing was.
#
# The *band* is not the *interval*. The interval: what would other *pairs* give this head? The band:
# what do other *heads* get on these pairs? Band and accuracy are both of these 48 pairs: compare
# those two. The doctor has no band: its *ok* is not enough.

# %% [markdown]
# ### Has it learned the alphabet?
#
# If so, it should do well on the new pairs once these are in alphabetical order, too. We call them
# the *sorted pairs*. But that may be luck:
# - *of the start?* So we train five more alphabet heads, each from another random head.
# - *of this set of labels?* So we train 100 heads from our start, each with labels tossed by coins.
#
# **Predict**: will the six alphabet heads end near where they began, or near each other?

# %%
flip_new = torch.tensor([pair.chosen > pair.rejected for pair in pairs])
order = torch.where(flip_new[:, None], -differ, differ)  # (P, H), of the sorted pairs
coins = torch.rand(100, len(seen), generator=torch.Generator().manual_seed(0)) < 0.5
tossed = torch.stack([fitted(torch.where(coin[:, None, None], seen.flip(1), seen), start, "bsr",
                             bsr_lambda=0.1) for coin in coins], 1)  # (H, 100)
reach_sorted, reach_tossed = (
    (order @ some > 0).float().mean(0).quantile(torch.tensor([0.025, 0.975])).tolist()
    for some in (heads, tossed))
print("sorted pairs: 95% of random heads get {:.2f} to {:.2f},".format(*reach_sorted))
print("of heads trained with tossed labels {:.2f} to {:.2f}".format(*reach_tossed))
dice = torch.Generator().manual_seed(1)
others = torch.randn(5, len(start), generator=dice) / (len(start) + 1)**0.5
ends = [fitted(lost, head, "bsr", bsr_lambda=0.1) for head in others]
ways = [[(order @ head > 0).float().mean().item() for head in way]  # before and after training
        for way in ((start, learned), *zip(others, ends, strict=True))]

# %%
# drawing only
_, axis = plots.panels()
axis.axvspan(*reach_sorted, color="#EEEEEE", zorder=0)
axis.text(0.5, -0.4, "the band: 95% of random heads", ha="center")
axis.plot(reach_tossed, [6.1] * 2, color="#D55E00", linewidth=2)
axis.text(0.5, 5.95, "95% after training with tossed labels", ha="center", color="#D55E00")
for row, (before, after) in enumerate(ways):
    axis.annotate("", (after, row), (before, row), arrowprops={"arrowstyle": "->"})
    side = 1 if before < after else -1
    for x, color, away in ((before, "#777777", -side), (after, "#D55E00", side)):
        axis.plot(x, row, "o", color=color)
        axis.text(x + 0.01 * away, row, f"{x:.2f}", color=color, va="center",
                  ha="left" if away > 0 else "right")
axis.set(xlim=(0.2, 0.85), ylim=(6.5, -0.9), yticks=range(6),
         yticklabels=["our start", *(f"random head {n}" for n in range(1, 6))])
axis.text(ways[1][0], 0.7, "before training", color="#777777", ha="center")
axis.text(0.77, -0.4, "after", color="#D55E00")
plots.label(axis, "share of the 48 sorted pairs ranked rightly", "",
            "Six heads begin far apart and end close together, near the band's end")

# %% [markdown]
# <details><summary>Answer</summary>
#
# Near each other.
# </details>
#
# **What to see.** From our start alone one cannot tell: it had .71 before any training, and .73
# after. But the six begin far apart, and all end between .67 and .73. So the labels bring them
# there, not the start.

# %% [markdown]
# Do these labels teach the alphabet, or are they lucky? Of the heads with tossed labels 95% get .31
# to .70. Four of our six exceed that, by .03 at most, two pairs of 48. And the six share one set of
# labels: so they are one draw, not six. It stays open.
#
# **The answer**: read the labels. An accuracy *well* outside the band, as healthy's .92 is by a
# tenth, makes luck unlikely. One inside, or a hair outside, decides nothing.

# %% [markdown]
# ## 3. "After loading, all scores are different"
#
# Kind: *must agree*, with the rewards before saving.
#
# `save_pretrained` saves the object that it is called on. Here somebody calls it on the backbone.
# So the head is not saved, and loading draws a new one: $H = 576$ numbers from $N(0, 1/(H+1))$.
#
# **Predict** the norm (the length) of the new head; the healthy head has 1.62. Does the norm give
# the fault away?

# %%
with quiet_loading():
    model.backbone.save_pretrained(RUNS / "lost")  # break
    model.tokenizer.save_pretrained(RUNS / "lost")
try:
    doctor.main([str(RUNS / "lost")])
except SystemExit as end:
    print("exit status", int(end.code))

# %% [markdown]
# <details><summary>Answer</summary>
#
# About 1: 576 squares add up, each about 1/577. That only hints at the fault, because a trained
# head may have such a norm, too.
# </details>
#
# The verdict comes from the folder, which holds no head. transformers itself warns, too, when it
# loads such a folder: `score.weight` is missing, and *newly initialized*. (This page keeps it
# quiet; you should read it.) A random head that somebody *saved* brings no warning, and can pass
# the check. The cure is to save the whole model.

# %%
from bsr_lite.saving import save_reward_model

save_reward_model(model, RUNS / "whole")  # mend
loaded = load_reward_model(str(RUNS / "whole")).requires_grad_(False)
doctor.tell(doctor.head, loaded);

# %% [markdown]
# As the check has this gap, we compare three pairs' rewards.

# %%
again = judged(new @ healthy)
with quiet_loading():
    anew = load_reward_model(str(RUNS / "lost"), dtype="float32").requires_grad_(False)
first = pairs_as_groups(pairs[:3])
found = {"before saving": again["rewards"][:3], "backbone saved": evaluate(anew, first)["rewards"],
         "all saved": evaluate(loaded, first)["rewards"]}
torch.testing.assert_close(*map(torch.tensor, (found["all saved"], found["before saving"])),
                           rtol=0, atol=1e-4)
pd.DataFrame({name: [f"{r:+.2f}" for pair in rewards for r in pair]
              for name, rewards in found.items()},
             index=[f"pair {n}, {side}" for n in (1, 2, 3) for side in ("chosen", "rejected")])

# %% [markdown]
# **What to see.** With the whole model saved the rewards agree, to .0001. With only the backbone
# all six differ: the chosen answers' by .5 at most, the rejected ones' by up to 2.9. So compare
# both. (Pair 1 is among the 8% that the healthy head ranks wrongly.)
#
# This shows *that* something changed, not *what*. Other suspects: the *template* that joins prompt
# and answer to one text, the padding, the number format.
#
# **The answer**: score three pairs before saving, and keep the rewards. If they differ after
# loading, look for the head first.

# %% [markdown]
# ## Exercises
#
# Write what the stub leaves out. A hint is folded below each task, a second in the next fold or
# the checker. Solutions are in `notebooks/solutions/`.

# %% [markdown]
# ### On paper: two reports
#
# Ill, well, or can one not tell? And what do you compare, or do, next?
#
# - *A*: accuracy .75 (.68 to .82) on new pairs. On these pairs 95% of random heads get .35 to .65,
#   and "the longer answer wins" gets .72.
# - *B*: accuracy .90 (.84 to .95), above random heads and both length rules. Mean reward 310,
#   distance to pair mean .5. In your run every unfinished answer gets -1 in place of its reward.

# %% [markdown]
# <details><summary>Answers</summary>
#
# - A: one cannot tell. The .75 lies a tenth above the band: luck is unlikely. But .72 lies within
#   the interval: length may explain it. Judge pairs of like length.
# - B: well, but ill used. The -1 lies 311 below the mean, over 600 distances: it outweighs all
#   else. Subtract the mean first.
# </details>

# %% [markdown]
# ### Exercise 1
#
# *Two patients.* Each is a copy of the healthy model with at most one fault. To all rewards -40 is
# added: this belongs to the patient, and stays. The last two lines show three pairs' rewards,
# chosen and rejected, before saving and after loading.
#
# Return a list of two numbers: for each patient the section of its fault (1 to 3), or 0 where
# nothing needs a cure.
#
# <details><summary>Hint</summary>
#
# Of which kind is each number? Do those agree that must?
# </details>

# %%
for number in (1, 2):
    patient = checks.patient(number, model)
    scores = evaluate(patient, pairs_as_groups(pairs))
    print(f"---- patient {number}")
    brief(doctor.head, patient)
    brief(doctor.level, scores)
    brief(doctor.accuracy, scores)
    for name, r in (("before", torch.tensor(again["rewards"]) - 40),
                    ("after", torch.tensor(scores["rewards"]))):
        print(f"{name:9}", ", ".join("{:.2f} {:.2f}".format(*pair) for pair in r[:3]))


def diagnoses():
    return None


checks.check_diagnoses(diagnoses);

# %% [markdown]
# ### Exercise 2
#
# *A third patient.* An export has swapped the two answers in every second ten of the 80 training
# pairs. Half of the labels are turned, so they say nothing of quality. The cell trains this head
# from six starts. On the new pairs all six get more than .65. "Six times is no luck", says a
# colleague.
#
# `by_chance` returns the accuracy on the new pairs, a number, of a head trained from `start` as the
# patient's was, but with labels drawn by `dice`, a random generator.
# **Predict** the range of 95% of 100 such heads. What does it say of the six?

# %% [markdown]
# <details><summary>Hint</summary>
#
# Which labels surely teach nothing, and are others in each of 100 trainings?
# </details>
#
# <details><summary>Second hint</summary>
#
# Toss a coin for each pair, as Section 2 did: `torch.rand(80, generator=dice) < 0.5`.
# </details>

# %%
blocks = torch.arange(80) // 10 % 2 == 1  # every second ten
swapped = torch.where(blocks[:, None, None], seen.flip(1), seen)
six = [fitted(swapped, head, "bsr", bsr_lambda=0.1) for head in (start, *others)]
print("patient 3:", *(f"{(differ @ head > 0).float().mean():.2f}" for head in six))


def by_chance(dice):
    return None


dice = torch.Generator().manual_seed(0)
if by_chance(dice) is not None:
    band = torch.tensor([float(by_chance(dice)) for _ in range(100)])
    print("95% of 100: {:.2f} to {:.2f}".format(*band.quantile(torch.tensor([0.025, 0.975]))))

# %% [markdown]
# <details><summary>Answer</summary>
#
# From about .26 to .77: all six lie inside. Six times is no proof: they share one luck of labels.
# This pattern is lucky: with seven other sizes of block not all six exceed .65. Swap the *other*
# tens, and the six get .27 to .33. (All in the solution.)
# </details>

# %% [markdown]
# ## Check yourself
#
# 1. A colleague's rewards are all between 40 and 44. Is the model broken?
# 2. Accuracy on new pairs lies clearly *below* one half. Was something learned?
# 3. Accuracy is .84 on the training pairs, and the check says *ok*. What does that say of new
#    ones?
# 4. No line of the doctor says *broken*. Name two faults that it cannot see.
# 5. Of which kind is each? The same answer gets 1.4 on Monday and 2.1 on Tuesday. Accuracy is .80,
#    and "the longer answer wins" gets .80, too.

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1. Not for that reason. Look at accuracy, and whether a fixed number meets the rewards.
# 2. Not for sure: random heads may do as badly. Below their band something probably was, with the
#    wrong sign. Then suspect turned labels.
# 3. Nothing: Section 2's *alphabet* head had just that, and .56 on new pairs.
# 4. A random head that was saved; an accuracy that is luck, within the band of random heads.
# 5. The first must agree: look for what changed. The second must differ, and does not: judge pairs
#    of like length.
# </details>

# %% [markdown]
# ## What to watch, what to vary
#
# Begin with row 3: if loading has changed the model, rows 1 and 2 judge another one. If a
# comparison fails, vary one thing at a time.

# %%
pd.DataFrame([
    ["rewards of 300, or below 0", "needs a scale", "mean reward with distance to pair mean",
     "whether a fixed number meets the rewards, or 16 bits tie them"],
    ["accuracy of 50%", "must differ", "your accuracy with random heads', on new pairs",
     "whether the new pairs' labels are turned as well"],
    ["other scores after loading", "must agree", "rewards before saving with those after loading",
     "which part has changed"]],
    columns=["symptom", "kind", "compare", "what this cannot tell"], index=range(1, 4))

# %% [markdown]
# For your own model: `python -m bsr_lite.course.doctor MODEL DATA --format trl`, where DATA is a
# file with columns chosen and rejected. Take pairs that MODEL was *not* trained on.
#
# The command cannot print the band. Take Section 2's code, with *your* pairs. The random heads
# belong on the model *before* training: often training moves the backbone, too, and its states then
# hold what was learned. 17% to 81% is ours alone.

# %% [markdown]
# ## What you know now
#
# **A number alone is neither well nor ill: find what it must agree with, what it must differ from,
# or its scale.**
#
# A check that says *ok* has only found nothing. It cannot see whether the labels mean what you
# think.

# %% [markdown]
# ## Second reading
#
# Sections 4 to 8: the other symptoms. 9: why a random head is no coin. 10: how a level escapes the
# loss. First the control, all six checks. Their new words are explained in Sections 5 (*packed*,
# *padded*), 6 (*cut*, *repeat*) and 7 (*end of turn*, *kept*, *BOS*).

# %%
assert doctor.examine(model, pairs), "the control: no check says broken"

# %% [markdown]
# ## 4. "My KL is negative"
#
# Kind: *needs a scale*. Is a KL below zero a fault?
#
# A **policy** $\pi$ is a language model that is trained with rewards. Its
# **reference** $\pi_\text{ref}$ is the same model before this training (08). The KL says how far
# the policy has moved away:
#
# $$\mathrm{KL}(\pi \,\|\, \pi_\text{ref})
# = \mathbb{E}_{y \sim \pi}\left[\log \pi(y) - \log \pi_\text{ref}(y)\right].$$
#
# In words: let the policy sample answers $y$. See how much likelier each one is under the policy
# than under the reference, in natural logarithms (the unit is the *nat*). Take the mean. The KL is
# never negative: on average no model finds the policy's answers likelier than the policy does.

# %% [markdown]
# In practice the mean is over a few sampled answers. One answer's term is called
# $k_1 = \log \pi(y) - \log \pi_\text{ref}(y)$. Can a mean of 32 terms be negative?
#
# A toy: an answer is one of five words, and the policy has hardly moved from its reference. Its KL
# is .002, and one term's standard deviation .065. We take the mean of 32 samples, 1000 times.
# **Predict** how many of these means are negative.

# %%
torch.manual_seed(0)
ref = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05])
pi = (ref.log() + 0.05 * torch.randn(5)).softmax(0)
k1 = (pi / ref).log()
samples = k1[torch.multinomial(pi, 32 * 1000, True)].view(1000, 32)
means = samples.mean(1)
print(f"KL {(pi * k1).sum():.4f} nats, standard deviation of one term {samples.std():.3f},",
      f"of the means {means.std():.4f}")
print(f"means below zero: {(means < 0).float().mean():.0%}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# 42%, nearly half. The mean of 32 terms has a standard deviation of $.065/\sqrt{32}$, about .011.
# Zero lies only .002 below the true KL.
# </details>
#
# The standard deviation of a mean is called its **standard error**. In the figure compare it with
# the gap between zero and the true KL.

# %%
# drawing only
_, axis = plots.panels()
counts, edges, bars = axis.hist(means, bins=(torch.arange(-17, 21) / 500).tolist())
for bar, left in zip(bars, edges[:-1], strict=True):
    bar.set_facecolor("#D55E00" if left < 0 else "#BBBBBB")
axis.text(-0.03, 0.6 * counts.max(), "below zero", color="#D55E00")
axis.errorbar((pi * k1).sum(), 1.08 * counts.max(), xerr=means.std(), color="black", capsize=4)
axis.text(0.014, 1.06 * counts.max(), "one standard error to each side")
axis.margins(y=0.25)
for value, text in ((0.0, "zero "), ((pi * k1).sum().item(), " the true KL")):
    axis.axvline(value, color="black", linestyle="-" if value else ":")
    axis.text(value, 0.94, text, ha="left" if value else "right",
              transform=axis.get_xaxis_transform())
plots.label(axis, "mean $k_1$ of 32 samples (nats)", "estimates, of 1000",
            f"KL .002, 32 samples: {(means < 0).float().mean():.0%} of the means fall below zero")

# %% [markdown]
# **What to see.** One standard error reaches far beyond the gap. So a mean slightly below zero may
# be noise.
#
# What is *slightly*? The scale is the standard error. In your run it is the standard deviation of
# your terms, divided by the root of their number. A mean down to two standard errors below zero
# may well be noise.

# %% [markdown]
# If it stays deeper with more answers, see Section 8.
#
# **The answer**: a KL estimate below zero proves no fault. Compare it with its standard error, and
# take more answers.

# %% [markdown]
# ## 5. "Scores change with the batch size"
#
# Kind: *must agree*.
# Answers in a batch are *padded* to one length, on the right or on the left, with the tokenizer's
# padding token. Plain transformers reads the reward at the last token that is not
# `config.pad_token_id`, whatever the attention mask says. If the two tokens differ, the padding is
# taken for the answer.
#
# The check scores answers alone, padded, and *packed* into one row. It prints the largest change,
# in standard deviations of the rewards.
#
# **Predict** which rows are read wrongly: those padded on the right, or those padded on the left?

# %%
def rows(pairs):  # of each pair the tokens of both chats
    chats = [(pair.prompt, (pair.chosen, pair.rejected)) for pair in pairs]
    return list(answer_rows(model.tokenizer, chats))


model.classifier.config.pad_token_id = 7  # break; the tokenizer pads with 0
doctor.tell(doctor.batches, model, rows(pairs)[:2]);

# %% [markdown]
# <details><summary>Answer</summary>
#
# Those padded on the right. Padded on the left, a row ends in the answer's last token, and is read
# rightly. That fails only if `config.pad_token_id` is the end of turn itself (Exercise 4).
# </details>
#
# Now 24 pairs in one batch, padded on the right. **Predict**: how many of them will be ranked
# rightly? Alone it is .88.

# %%
plain = loaded.classifier
plain.set_attn_implementation("eager")  # rows as plain transformers computes them
plain.config.pad_token_id = 7
batch = loaded.tokenizer.pad({"input_ids": [ids for pair in rows(pairs)[:24] for ids in pair]},
                             padding_side="right", return_tensors="pt")
beside = plain(**batch.to(loaded.device)).logits[:, 0].cpu().view(-1, 2)  # (P, 2)
alone = torch.tensor(again["rewards"])[:24]
for name, r in (("alone", alone), ("in the batch", beside)):
    print(name + ": {:.2f} ({:.2f} to {:.2f}) ranked rightly".format(
        *bootstrap_interval((r.diff(dim=1)[:, 0] < 0).float())))

# %% [markdown]
# <details><summary>Answer</summary>
#
# .54: of the .88 little is left above one half.
# </details>
#
# The head was never trained at padding. So what it reads there has no meaning.
# The cure is one padding token for both, tokenizer and config, which does not end a chat. In your
# run watch the rewards alone and in a batch: in 32 bits they are equal to .01 deviations.

# %%
model.classifier.config.pad_token_id = model.tokenizer.pad_token_id  # mend
assert doctor.tell(doctor.batches, model, rows(pairs)[:2]), "padding must not change a reward"

# %% [markdown]
# ## 6. "The loss stays at 0.693"
#
# Kind: *must differ*.
# 0.693 is $\log 2$, the loss of a pair without any difference. One cause is a length limit: the
# tokens beyond it are cut off. Here 520 words of rules precede every prompt.
#
# **Predict**: of how many pairs will the two chats be equal, whole and cut at 512 tokens?
#
# (*Repeat a prompt*: pairs whose prompt came before among these pairs.)

# %%
RULES = "Be helpful, be honest, do not harm anyone, and answer in plain words. " * 40
long = [replace(pair, prompt=[{"role": "user", "content": RULES + pair.prompt[-1]["content"]}])
        for pair in pairs]  # break
doctor.tell(doctor.data, long, rows(long), 512)


def loss_at(limit):  # of two pairs, each row cut at the limit
    kept = [[ids[:limit] for ids in pair] for pair in rows(long)[:2]]
    rewards = [torch.cat([model(batching.pack([[ids[:-1], ids[-1:]]])) for ids in pair])
               for pair in kept]
    return preference_loss("bt", *torch.stack(rewards).unbind(1))


print(f"loss of two pairs cut at 512: {loss_at(512):.3f}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# Whole none, cut all 48: the limit falls before the answers begin.
# </details>
#
# Two equal chats have equal rewards, so Bradley-Terry's gradient on them is zero.
#
# The cure is a limit that holds the chats. Drop a pair that does not fit: a cut answer is another
# answer.

# %%
longest = max(len(ids) for pair in rows(long) for ids in pair)
print(f"longest chat: {longest} tokens; loss of the two pairs whole: {loss_at(longest):.3f}")
assert doctor.tell(doctor.data, long, rows(long), 1024), "with room for the answers nothing is lost"

# %% [markdown]
# The check cannot see another cause: a head that is never updated. Then the losses lie near
# $\log 2$, but seldom exactly on it.

# %% [markdown]
# ## 7. "With another template accuracy is gone"
#
# Kind: *must agree*.
# The reward is read at the last token of the chat. A good template ends every answer in the same
# **end-of-turn** token. The one below puts nothing behind an answer.
#
# *Kept*: the template leaves the chosen text whole. *A second BOS*: the token that begins a text
# comes twice.
#
# **Predict**: how much is left of the accuracy of .92 with the healthy head? And with a head that
# was *trained* with this template, too?

# %%
template = model.tokenizer.chat_template
model.tokenizer.chat_template = template.replace(  # break: nothing closes an answer
    "'<|im_end|>' + '\n'", "('' if message['role'] == 'assistant' else '<|im_end|>\n')")
assert model.tokenizer.chat_template != template
doctor.tell(doctor.template, model.tokenizer, pairs, rows(pairs))
last = sorted({model.tokenizer.decode(ids[-1]) for _, ids in rows(pairs)})
print(len(last), "different last tokens, among them", last[::3])

# %%
bare = states(pairs)
brief(doctor.accuracy, judged(bare @ healthy))
there = fitted(states(train), start, "bsr", bsr_lambda=0.1)
print("a head trained with this template, too:")
brief(doctor.accuracy, judged(bare @ there))
lucky = ((bare[:, 0] - bare[:, 1]) @ heads > 0).float().mean(0)  # (1000,), as in Section 2
low, high = lucky.quantile(torch.tensor([0.025, 0.975])).tolist()
print(f"untrained start {judged(bare @ start)['score']:.2f}, 95% of random heads",
      f"{low:.2f} to {high:.2f}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# The healthy head keeps .56. A head trained with this template has .83.
# </details>
#
# **What to see.** The healthy head keeps no more than the untrained start has. Why, we leave open:
# the missing end itself, or another template than in training. The .83 stands on a knife's edge:
# 95% of random heads reach up to .83. So we do not say that the other head learned, though the
# check says *ok*.
#
# In your run watch the last tokens: one end of turn, the same as in training.

# %%
model.tokenizer.chat_template = template  # mend; a head trained without must train again
assert doctor.tell(doctor.template, model.tokenizer, pairs, rows(pairs)), "one end for all chats"
print("last tokens:", sorted({model.tokenizer.decode(ids[-1]) for _, ids in rows(pairs)}))

# %% [markdown]
# ## 8. "My KL is far below zero"
#
# Kind: *must agree*.
# What drives a KL far below zero? The check *kl* says *look* down to two standard errors below
# zero, and *broken* if the mean lies deeper.
#
# The patient is a tiny policy with a LoRA adapter, both of random weights. Without the adapter it
# is its reference.

# %%
from transformers import LlamaConfig, LlamaForCausalLM

from bsr_lite.policy import load_policy

config = LlamaConfig(vocab_size=len(model.tokenizer), hidden_size=32, intermediate_size=64,
                     num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                     initializer_range=0.2, pad_token_id=0, bos_token_id=1, eos_token_id=2)
with quiet_loading():
    LlamaForCausalLM(config).save_pretrained(RUNS / "tiny")
    model.tokenizer.save_pretrained(RUNS / "tiny")
policy = load_policy(str(RUNS / "tiny"), lora_rank=4, dtype="float32")
for name, weight in policy.hf.named_parameters():
    if "lora_B" in name:
        weight.data.normal_(0, 0.3)
assert doctor.tell(doctor.kl, policy, pairs), "of its own answers the mean is a KL"

# %% [markdown]
# Sampled from the policy itself, the mean is above zero: the control. Behind "+-" stand two
# standard errors.
#
# Now the engine that samples has not been given the new weights. It still holds the reference's:
# `stale` takes the place of `roll_out`, the function that samples.
#
# **Predict** the sign, and say whose KL it is.

# %%
roll_out = generate.roll_out


def stale(policy, *arguments, **options):
    with policy.reference():  # the adapter is off: the reference samples
        return roll_out(policy, *arguments, **options)


generate.roll_out = stale  # break
assert not doctor.tell(doctor.kl, policy, pairs), "answers of another policy give no KL"

# %% [markdown]
# <details><summary>Answer</summary>
#
# Negative, and far from zero: over answers of the reference the mean of
# $\log \pi - \log \pi_\text{ref}$ is $-\mathrm{KL}(\pi_\text{ref} \,\|\, \pi)$.
# </details>
#
# More samples would not cure it: noise shrinks with samples, a wrong sampler's bias does not. So
# compare who sampled with who was scored.

# %%
generate.roll_out = roll_out  # mend
assert doctor.tell(doctor.kl, policy, pairs), "the policy's own answers again"

# %% [markdown]
# ## 9. Why a random head is no coin
#
# In Section 2 random heads ranged wider than coins. Are the differences to blame that the pairs
# have in common? A third of all squares lies along one direction. We take it away.
#
# **Predict**: of how many random heads does the whole interval lie below one half, so that the
# check would say *broken*? (We take a normal interval. The check's own is a bootstrap.)

# %%
_, sizes, (main, *_) = torch.linalg.svd(differ, full_matrices=False)  # main: (H,), a unit vector
print(f"one direction holds {sizes[0]**2 / differ.norm()**2:.0%} of all squared differences")
without = (differ - torch.outer(differ @ main, main)) @ heads
for name, margins in (("coins", tosses), ("heads without it", without),
                      ("random heads", differ @ heads)):  # margins: (P, 1000)
    share = (margins > 0).float().mean(0)  # (1000,), of each the accuracy
    half = 1.96 * (share * (1 - share) / len(new)).sqrt()  # of a normal 95% interval
    print(f"{name:16} {(share + half < 0.5).float().mean():3.0%} with the interval below one half;",
          "95% rank {:.0%} to {:.0%} rightly".format(
              *share.quantile(torch.tensor([0.025, 0.975])).tolist()))

# %% [markdown]
# <details><summary>Answer</summary>
#
# Of a quarter. Of coins only 4% do so badly. (2.5% were due: the interval is rough, and chance
# adds.)
# </details>
#
# Without that one direction random heads range about as coins do.
#
# So an accuracy below one half need not have been *learned*. And one below the band? We turn all
# 80 training labels, and none of the new pairs'. **Predict** the accuracy on the new pairs.

# %%
turned = fitted(seen.flip(1), start, "bsr", bsr_lambda=0.1)  # break once more
assert not doctor.tell(doctor.accuracy, judged(new @ turned))
both = ((new @ turned).diff(dim=1) > 0).float().mean()
print(f"accuracy had the new pairs been turned, too: {both:.2f}")
doctor.tell(doctor.accuracy, again)  # mend: trained with the labels as they were
assert judged(new @ turned)["score"] < reach[0] and again["low"] > reach[1], "outside, both"

# %% [markdown]
# <details><summary>Answer</summary>
#
# .10, about one minus the healthy .92.
# </details>
#
# That is below the band, and below both length rules. Luck is unlikely: suspect that most labels
# are turned. A fault that turns the new pairs as well leaves .90: no check sees it.

# %% [markdown]
# ## 10. A level that the loss cannot see
#
# If the head moves at right angles to all differences $h_w - h_l$ of the training pairs, no
# $r_w - r_l$ changes. To find such a direction we take the mean hidden state of the training
# answers, and remove what the differences span: this leaves the *unseen direction*. We move the
# head against it until the mean training reward has fallen by 8.
#
# **Predict** the accuracy on the *new* pairs after this move.

# %%
gaps, mean = seen[:, 0] - seen[:, 1], seen.mean((0, 1))  # (P, H), (H,)
wide = gaps.T.double()  # the span is found in float64: last digits are then the same everywhere
unseen = mean - (wide @ torch.linalg.lstsq(wide, mean.double()[:, None]).solution)[:, 0].float()
sick = healthy - 8 * unseen / (unseen @ mean)  # break
loss = [preference_loss("bt", *(seen @ head).unbind(1)) for head in (healthy, sick)]
print(f"training loss before {loss[0]:.4f}, after {loss[1]:.4f}")
brief(doctor.level, {"rewards": (new @ sick).tolist()})
ranked = [((new @ head).diff(dim=1) < 0).float().mean().item() for head in (healthy, sick)]
print(f"new pairs ranked rightly: before {ranked[0]:.2f}, after {ranked[1]:.2f}")
torch.testing.assert_close(loss[0], loss[1], rtol=1e-3, atol=1e-4)

# %% [markdown]
# <details><summary>Answer</summary>
#
# As before: .92. This is an outcome: the new pairs' differences were not taken out.
# </details>
#
# BSR's term sees the level. We train on from the sick head, to which the pull now points: with
# Bradley-Terry, then with BSR at three values of its weight $\lambda$.

# %%
table = {}
for weight in (None, 0.001, 0.01, 0.1):
    head = fitted(seen, sick, "bsr" if weight else "bt", bsr_lambda=weight)  # bsr: mend
    moved = ((head - sick) @ mean, (head - sick) @ unseen, (new @ head).mean())
    verdict, _ = doctor.level({"rewards": (new @ head).tolist()})
    column = [f"{round(x.item(), 1) + 0:+.1f}" for x in moved]  # no -0.0
    table[f"BSR, lambda {weight}" if weight else "BT"] = [*column, verdict]
pd.DataFrame(table, index=["mean training reward moves by", "of that along the unseen direction",
                           "mean reward of the new pairs then", "level"])

# %% [markdown]
# **What to see.** With Bradley-Terry the mean reward rises by 1.4, none of it along the unseen
# direction.
#
# BSR brings the mean to zero, by 5.8 of the 8 along the unseen direction. There only the pull
# resists, too weakly even for the smallest $\lambda$. What this costs in accuracy we leave open.

# %% [markdown]
# ### Exercise 3
#
# A model can be sampled at a *temperature* $T$: the log-probabilities are divided by $T$ before
# the softmax. Give the exact mean of $\log \pi - \log \pi_\text{ref}$ when the words are drawn
# from $\pi$ at temperature $T$. `pi` and `ref` are distributions over five words.
#
# The cell takes Section 4's `ref` and a sharper policy, $\pi \propto \pi_\text{ref}^2$.
# **Predict** at which $T$ the words come from the reference itself. Where is the mean wrong and
# still positive, so that the check *kl* says *ok*?
#
# <details><summary>Hint</summary>
#
# Which distribution do the words come from?
# </details>

# %%
def mean_k1(pi, ref, temperature):
    return None


if checks.check_mean_k1(mean_k1):
    for temperature in (0.5, 1.0, 1.2, 1.4, 2.0, 3.0):
        print(temperature, mean_k1((2 * ref.log()).softmax(0), ref, temperature))

# %% [markdown]
# ### Exercise 4
#
# In how many rows does plain transformers read the reward at another *position* than that of the
# chat's last token (Section 5)? `ids` and `mask` have shape (B, L); the mask is 1 at real tokens,
# on whichever side the padding is. It reads at the last token whose id is not `config_pad`.
#
# Below, 2 is the end of turn, and 0 is the padding. **Predict** the count for `config_pad` 0, 7
# and 2.
#
# <details><summary>Hint</summary>
#
# Two positions a row: where it reads, and where it should.
# </details>

# %%
def misread(ids, mask, config_pad):
    return None


ids = torch.tensor([[5, 6, 2, 0, 0], [5, 6, 7, 8, 2]])
if checks.check_misread(misread):
    print({pad: int(misread(ids, (ids != 0).long(), pad)) for pad in (0, 7, 2)})

# %% [markdown]
# ### Exercise 5
#
# *Two more patients* (3 is not Exercise 2's), now with all checks. As in Exercise 1, return the
# section of each patient's fault, or 0.
#
# <details><summary>Hint</summary>
#
# One fault can spoil more than one line. Which line could bring about the others?
# </details>

# %%
for number in (3, 4):
    patient = checks.patient(number, model)
    print(f"---- patient {number}")
    doctor.examine(patient, pairs[:16], tell=brief)
    now = evaluate(patient, pairs_as_groups(pairs[:3]))["rewards"]
    print("rewards before saving", [round(r - 40, 2) for r, _ in again["rewards"][:3]],
          "after loading", [round(r, 2) for r, _ in now])


def more_diagnoses():
    return None


checks.check_more_diagnoses(more_diagnoses);
