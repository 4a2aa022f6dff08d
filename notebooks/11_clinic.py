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
# The **first reading** shows five symptoms, each with its kind. The **second reading**, at the
# page's end, has four more, and what the first leaves open.

# %% [markdown]
# After the first reading you can
# - tell a symptom that needs a cure from one that only looks odd;
# - say of a symptom whether a number must agree, must differ, or needs a scale;
# - say why the estimate of a KL may lie below zero.

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
# **head** is a vector $W_p$ of $H = 576$ weights. The reward is $r = W_p \cdot h$ (Eq. 2). The
# backbone stays as it is, and only the head is trained.

# %% [markdown]
# The data are lesson 01's pocket world: of each prompt we take the best and the worst answer. 80
# pairs train the head. 48 pairs of other prompts test it: these are the **new pairs**.
#
# The worst answer is often gibberish or unfinished, so a high accuracy is easy. That suits a
# healthy patient. The cell shows one new pair.

# %%
train = doctor.read(POCKET, "pocket", "train", count=80)
pairs = doctor.read(POCKET, "pocket", count=48)  # of the dev split
model = load_reward_model("smollm2-135m-instruct", depth=4, dtype="float32")
model.requires_grad_(False)
for name, text in (("prompt", pairs[2].prompt[-1]["content"]), ("chosen", pairs[2].chosen),
                   ("rejected", pairs[2].rejected)):
    print(f"{name:9s} {text[:88]}")

# %% [markdown]
# The backbone stays as it is, so it need compute each hidden state only once. `states` returns two
# for each pair, of the chosen and of the rejected answer.

# %%
def states(pairs):  # last hidden states of both answers, (P, 2, H)
    found, _ = fitting(model, pairs_as_groups(pairs), None)
    return torch.stack([s["after_norm"] for s in score_tokens(model, [t for _, t in found])])


seen, new = states(train), states(pairs)

# %% [markdown]
# `fitted` trains a head, from the head `start` on. To the loss it adds .05 times the squared
# distance from `start`, the **pull**. Without the pull many heads would fit equally well: 80 pairs
# are few for 576 weights.

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
# Now we train the healthy head, put it into the model, and call three checks of our **doctor**. A
# line holds a check's name, its verdict, and what it measured. *ok*: this check found nothing.
# *look*: this may be fine. *broken*: mend this first.

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
# **What to see.** All three say *ok*. Sections 1 to 4 explain what the lines hold.
#
# How does *accuracy* come to its verdict? It knows two rules that are blind to quality. "The longer
# answer wins" ranks .31 of the pairs rightly, so "the shorter answer wins" ranks .69.
# - *ok*: the whole interval, here .83 to .98, lies above both rules.
# - *broken*: the whole interval lies below .5.
# - *look*: all else.
#
# **The answer**: of a model that is well each check says *ok*. So a *broken* means something.

# %% [markdown]
# ## 1. "My rewards are around 300"
#
# Kind: *needs a scale*. To bring the symptom about, we add 300 to every reward of the healthy
# model.
#
# **Predict**: what happens to the accuracy, and to the Bradley-Terry loss?

# %%
brief = partial(doctor.tell, advice=False)  # the finding alone, not what to do
raised = judged(new @ healthy + 300)  # break
brief(doctor.level, raised)
brief(doctor.accuracy, raised)
for name, r in (("before", new @ healthy), ("at 300", torch.tensor(raised["rewards"]))):
    print(f"Bradley-Terry loss {name}: {preference_loss('bt', *r.unbind(1)):.3f}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# Nothing happens to either. Both see only the difference $r_w - r_l$. What is added to both
# rewards cancels.
# </details>
#
# Is 300 large? The check takes as its scale the **distance to pair mean**: how far a reward lies,
# on average, from the mean of its pair's two rewards. Here that is 1.28, so a mean reward of 300
# is large.
#
# The check says *look* if the mean exceeds ten such distances, a convention, or if all rewards have
# one sign. It never says *broken*: you may subtract the mean from all rewards.

# %% [markdown]
# When does a level matter?
#
# - Where a fixed number meets the reward: "-1 for an unfinished answer", "accept above 0".
# - In 16 bits. The format bfloat16 keeps eight binary digits: from 256 to 512 its numbers lie 2
#   apart. So two different rewards may be rounded to one number: the pair ties.

# %%
high = torch.tensor(raised["rewards"])  # (P, 2)
low = high - high.mean()  # mend
ties = [(r.bfloat16().diff(dim=1) == 0).float().mean().item() for r in (high, low)]
print(f"pairs that tie in bfloat16: {ties[0]:.0%} at a level of 300, {ties[1]:.0%} at 0")
assert ties[0] > 0.1 > ties[1], "a level costs precision: the format's steps grow with it"

# %% [markdown]
# So score in 32 bits, and subtract the level before anything is rounded.
#
# **The answer**: rewards around 300 are no illness, unless a fixed number or 16 bits meet them.

# %% [markdown]
# ## 2. "All my rewards are negative"
#
# Kind: *needs a scale*. We subtract 8 from every reward, a lot beside the distance to pair mean,
# 1.28.

# %%
lowered = judged(new @ healthy - 8)  # break
brief(doctor.level, lowered)
brief(doctor.accuracy, lowered);

# %% [markdown]
# Now no reward is above zero, and so the level's verdict is *look*. The accuracy is still .92.
#
# **The answer**: negative rewards are no illness, unless a fixed number meets them. "Accept above
# 0" would now reject every answer.

# %% [markdown]
# ## 3. "The loss falls, but accuracy stays at 50%"
#
# Kind: *must differ*. The accuracy must differ from that of a model that has learned nothing.
#
# We bring the symptom about by a fault in the training labels. Somebody has put the two answers of
# each training pair into alphabetical order. The columns are still called chosen and rejected, but
# now *chosen* is the answer that comes first in the alphabet.
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
flip_new = torch.tensor([pair.chosen > pair.rejected for pair in pairs])
ranked = (new @ learned).diff(dim=1)[:, 0] < 0  # (P,)
print(f"had the new pairs been sorted, too: {(ranked != flip_new).float().mean():.2f}")
right = ((seen @ healthy).diff(dim=1) < 0).float().mean()
print(f"healthy on its training pairs: {right:.2f}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# High on the training pairs, near one half on the new ones.
# </details>
#
# **What to see.** The loss falls. On its training pairs the head gets .84, and the check says *ok*.
# On the new pairs it gets .56. The healthy head, trained in the same way with the right labels,
# gets .98 and .92.
#
# So only the new pairs show *that* something is wrong. They do not show *what*: overfitting can
# look like this, too. With the new pairs in alphabetical order as well, the head gets .73. Has it
# learned the alphabet?

# %% [markdown]
# ### What does a head get that has learned nothing?
#
# We draw 1000 random heads. Beside them we toss 1000 coins, each once for every new pair. 95% of
# the coins rank between 35% and 65% of the pairs rightly.
#
# **Predict** between which accuracies 95% of the random heads lie. (*Pairs sorted*: the same heads
# with the new pairs in alphabetical order.)

# %%
heads, differ = torch.randn(len(start), 1000), new[:, 0] - new[:, 1]  # (H, 1000), (P, H)
tosses = torch.randn(len(new), 1000)
after_sorting = torch.where(flip_new[:, None], -differ, differ) @ heads
for name, margins in (("coins", tosses), ("random heads, pairs sorted", after_sorting),
                      ("random heads", differ @ heads)):  # margins: (P, 1000)
    drawn = (margins > 0).float().mean(0)  # (1000,), of each the accuracy
    reach = drawn.quantile(torch.tensor([0.025, 0.975])).tolist()
    print(f"{name:26} 95% rank {reach[0]:.0%} to {reach[1]:.0%} rightly")
along = torch.linalg.matrix_norm(differ, 2)**2 / differ.norm()**2
print(f"one direction holds {along:.0%} of all squared differences")

# %% [markdown]
# <details><summary>Answer</summary>
#
# From 17% to 81%, about twice as wide as the coins' range.
# </details>
#
# A coin is tossed anew for each pair. One head ranks all 48 pairs, and their differences
# $h_w - h_l$ have much in common: a third of all squares lies along one direction. A head whose
# sign is wrong there turns many pairs at once.
#
# The figure puts three heads beside the 1000 random ones. *Untrained* is our `start`, one more
# random head. Look which of the three lie outside the light **band**, the range of 95%.

# %%
# drawing only
_, axis = plots.panels()
counts, _, _ = axis.hist(drawn, bins=((torch.arange(50) - 0.5) / 48).tolist(), color="#BBBBBB")
axis.axvspan(*reach, color="black", alpha=0.06, linewidth=0)
axis.text(reach[0], 1.28 * counts.max(), " 95% of random heads")
marks = {"alphabet": learned, "untrained": start, "healthy": healthy}
marks = {name: judged(new @ head)["score"] for name, head in marks.items()}
for name, value in marks.items():
    axis.plot(value, 0, "^", color="#D55E00", markersize=9, clip_on=False, zorder=4)
    axis.text(value, 1.08 * counts.max(), f"{name}\n{value:.2f}", ha="center", color="#D55E00")
    axis.vlines(value, 0, 1.05 * counts.max(), color="#D55E00", linewidth=1)
axis.set_ylim(0, 1.4 * counts.max())
plots.label(axis, "share of the 48 new pairs ranked rightly", "random heads, of 1000",
            "Of three heads only healthy lies outside the range of 95% of random ones")
assert [n for n, x in marks.items() if not reach[0] <= x <= reach[1]] == ["healthy"]

# %% [markdown]
# **What to see.** Only healthy lies above the band. Alphabet's .56 lies within it, and so cannot be
# told from a random head's. Nor can .75, which untrained gets by luck. Below the band something
# was probably learned, with the wrong sign.
#
# And the sorted pairs? There the band is .29 to .71, and alphabet's .73 lies one pair above it. So
# the head may have learned a little of the alphabet.

# %% [markdown]
# Two ranges answer two questions. The *interval*: what would other *pairs* give this head? The
# *band*: what do other *heads* get on these pairs? All heads rank the same pairs: so compare the
# accuracy itself with the band, not its interval. The doctor has no band: its *ok* is not enough.
#
# **The answer**: read the labels, for the model may have learned something else than quality. An
# accuracy on new pairs shows learning only where it lies outside the band of random heads.

# %% [markdown]
# ## 4. "After loading, all scores are different"
#
# Kind: *must agree*. Rewards after loading must agree with those before saving.
#
# Was everything saved? `save_pretrained` saves the object that it is called on. Here somebody
# calls it on the backbone. The head is no part of the backbone, so it is not saved. Loading then
# draws a new head: $H = 576$ numbers from $N(0, 1/(H+1))$.
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
# The verdict comes from the folder, which holds no head. So the check has a gap: a random head that
# somebody *saved* can pass. The cure is to save the whole model.

# %%
from bsr_lite.saving import save_reward_model

save_reward_model(model, RUNS / "whole")  # mend
loaded = load_reward_model(str(RUNS / "whole")).requires_grad_(False)
doctor.tell(doctor.head, loaded);

# %% [markdown]
# Neither norm nor folder is sure. So we compare three pairs' rewards.

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
# **What to see.** With the whole model saved the rewards agree, to .0001 in 32 bits. (In 16 bits
# rounding may change more.) With only the backbone all six differ: the chosen answers' by .5 at
# most, the rejected ones' by up to 2.9. So compare both.
#
# This shows *that* something changed, not *what*. Other suspects: the *template* that joins prompt
# and answer to one text, the padding, the number format.
#
# **The answer**: score three pairs before saving, and keep the rewards. If they differ after
# loading, look for the head first.

# %% [markdown]
# ## 5. "My KL is negative"
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
# than under the reference, in logarithms; with natural ones the unit is the *nat*. Take the mean.
# The KL is never negative: on average no model finds the policy's answers likelier than the policy
# itself does.

# %% [markdown]
# In practice the mean is over a few sampled answers. One answer's term is called
# $k_1 = \log \pi(y) - \log \pi_\text{ref}(y)$. It is negative where the reference finds this
# answer likelier. Can a mean of 32 terms be negative as well?
#
# We try it on a toy. An answer is one of five words, and the policy has hardly moved from its
# reference. Its KL is .002, and one term's standard deviation .065. We take the mean of 32 samples,
# 1000 times. **Predict** how many of these means are negative.

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
# The standard deviation of a mean is called its **standard error**. In the figure compare it, the
# width of the heap, with the gap between zero and the true KL.

# %%
# drawing only
_, axis = plots.panels()
counts, edges, bars = axis.hist(means, bins=(torch.arange(-17, 21) / 500).tolist())
for bar, left in zip(bars, edges[:-1], strict=True):
    bar.set_facecolor("#D55E00" if left < 0 else "#BBBBBB")
axis.text(-0.03, 0.6 * counts.max(), "below zero", color="#D55E00")
axis.margins(y=0.15)
for value, text in ((0.0, "zero "), ((pi * k1).sum().item(), " the true KL")):
    axis.axvline(value, color="black", linestyle="-" if value else ":")
    axis.text(value, 0.94, text, ha="left" if value else "right",
              transform=axis.get_xaxis_transform())
plots.label(axis, "mean $k_1$ of 32 samples (nats)", "estimates, of 1000",
            f"KL .002, 32 samples: {(means < 0).float().mean():.0%} of the means fall below zero")

# %% [markdown]
# **What to see.** The heap is far wider than the gap. So a mean slightly below zero may be noise.
#
# What is *slightly*? The scale is the standard error. In your run it is the standard deviation of
# your terms, divided by the root of their number. The check *kl* says *look* down to two standard
# errors below zero, and *broken* if the mean lies deeper.

# %% [markdown]
# Even then first take more answers: of few the standard error itself is unsure. If the mean stays
# so deep, compare who sampled with who was scored. Only if both are the same policy is the mean a
# KL: otherwise it can be wrong above zero, too.
#
# **The answer**: a KL estimate below zero proves no fault. Compare it with its standard error, and
# take more answers.

# %% [markdown]
# ## Exercises
#
# Write what the stub leaves out. A hint is folded below each task, its checker gives a second one.
# Solutions are in `notebooks/solutions/`.

# %% [markdown]
# ### On paper: two reports
#
# Ill, well, or can one not tell? And what do you compare, or do, next?
#
# - *A*: accuracy .75 (.68 to .82) on new pairs. On these pairs 95% of random heads get .30 to .70,
#   and "the longer answer wins" gets .72.
# - *B*: accuracy .90 (.84 to .95), above random heads and both length rules. Mean reward 310,
#   distance to pair mean .5. A program stores these rewards in bfloat16.

# %% [markdown]
# <details><summary>Answers</summary>
#
# - A: one cannot tell. The .75 lies above the band: luck is unlikely. But .72 lies within the
#   interval: length may explain it. Judge pairs of like length.
# - B: well, but ill used. A pair's rewards lie 1 apart on average, and near 310 bfloat16's numbers
#   lie 2 apart: many pairs tie. Subtract the mean first.
# </details>

# %% [markdown]
# ### Exercise 1
#
# *Two patients.* Each is a copy of the healthy model with at most one fault. To all rewards -40 is
# added: this belongs to the patient, and stays. The last line shows three chosen answers' rewards,
# before saving and after loading.
#
# Return a list of two numbers: for each patient the section of its fault (1 to 5), or 0 where
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
    print("rewards before saving", [round(r - 40, 2) for r, _ in again["rewards"][:3]],
          "after loading", [round(r, 2) for r, _ in scores["rewards"][:3]])


def diagnoses():
    return None


checks.check_diagnoses(diagnoses);

# %% [markdown]
# ## Check yourself
#
# 1. A colleague's rewards are all between 40 and 44. Is the model broken?
# 2. Accuracy on new pairs lies clearly *below* one half. Was something learned?
# 3. Accuracy is .84 on the training pairs, and the check says *ok*. What does that say of new
#    ones?
# 4. No line of the doctor says *broken*. Name two faults that it cannot see.
# 5. A KL estimate is -.01, with a standard error of .01. Is that a fault? What would you do?

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1. Not for that reason. Look at accuracy, and whether a fixed number or 16 bits meet the rewards.
# 2. Not for sure: random heads may do as badly. Below the range of 95% of them something probably
#    was, with the wrong sign. Then suspect turned labels.
# 3. Nothing: Section 3's *alphabet* head had just that, and .56 on new pairs.
# 4. A random head that was saved; an accuracy within the range of random heads; new pairs with
#    turned labels, too; a wrong KL estimate above zero.
# 5. It may be noise: it lies one standard error below zero. Take more answers: noise shrinks.
# </details>

# %% [markdown]
# ## What to watch, what to vary
#
# The whole clinic in one table. The row's number is the section's. Where the kind is *needs a
# scale*, the second thing compared is the scale of the first. If a comparison fails, vary one thing
# at a time. Sections 6 to 9, and their words, are in the second reading.

# %%
pd.DataFrame([
    ["rewards of 300", "needs a scale", "mean reward, distance to pair mean",
     "whether a fixed number meets the rewards"],
    ["all rewards negative", "needs a scale", "mean reward, distance to pair mean",
     "where the level came from"],
    ["accuracy of 50%", "must differ", "your accuracy and random heads', on new pairs",
     "whether the new pairs' labels are turned as well"],
    ["other scores after loading", "must agree", "rewards before saving and after loading",
     "which part has changed"],
    ["KL slightly below 0", "needs a scale", "mean, standard error",
     "whether a fault hides in the noise"],
    ["scores change in batches", "must agree", "rewards alone and in a batch",
     "whether a small change in bfloat16 is a fault"],
    ["loss stays at log 2", "must differ", "both answers of a pair, cut at the limit",
     "whether the head is updated at all"],
    ["another template", "must agree", "last tokens in training and now",
     "whether accuracy suffers by it"],
    ["KL far below 0", "must agree", "who sampled and who was scored",
     "whether a KL above 0 is right"]],
    columns=["symptom", "kind", "compare", "what this cannot tell"], index=range(1, 10))

# %% [markdown]
# For your own model: `python -m bsr_lite.course.doctor MODEL DATA --format trl`, where DATA is a
# file with columns chosen and rejected. Take pairs that MODEL was *not* trained on.
#
# The command cannot print the band: random heads belong on the model *before* training. Take
# Section 3's code, with *your* pairs and `states` of that model. 17% to 81% is of these 48 pairs
# and this backbone alone.

# %% [markdown]
# ## What you know now
#
# **A number alone is neither well nor ill: find what it must agree with, what it must differ from,
# or its scale.** Rewards after loading must agree with those before saving. An accuracy that shows
# learning must differ from random heads'. A level of 300, or below zero, and a KL below zero need
# a scale.
#
# A check that says *ok* has only found nothing. It cannot see whether the labels mean what you
# think.

# %% [markdown]
# ## Second reading
#
# Sections 6 to 9: the other symptoms. 10: why a random head is no coin. 11: how a level escapes the
# loss. First the control, all six checks.

# %%
assert doctor.examine(model, pairs), "the control: no check says broken"

# %% [markdown]
# ## 6. "Scores change with the batch size"
#
# Kind: *must agree*.
# Answers in a batch are *padded* to one length, on the right or on the left, with the tokenizer's
# padding token. Plain transformers reads the reward at the last token that is not
# `config.pad_token_id`, whatever the attention mask says. If the two tokens differ, the padding is
# taken for the answer.
#
# The check scores answers alone, padded, and *packed* into one row. It prints the largest change,
# in standard deviations of the rewards. In bfloat16 it allows half of one: for a sharper check
# load the model with `dtype="float32"`.
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
# rightly. That fails only if `config.pad_token_id` is the end of turn itself (Exercise 3).
# </details>
#
# Now 24 pairs in one batch, padded on the right. **Predict**: will their rewards spread as before?

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

# %%
# drawing only
_, axis = plots.panels()
axis.axline((-4, -4), slope=1, color="#BBBBBB", zorder=1)
axis.text(-0.5, 0.6, "the same in the batch as alone", color="#777777", ha="right")
for side, color in ((0, "black"), (1, "white")):
    axis.scatter(alone[:, side], beside[:, side], s=36, facecolors=color, edgecolors="black")
axis.text(1.2, -7.7, "chosen: filled", ha="center")
axis.text(-3.4, -8.4, "rejected: open", ha="center")
axis.annotate("the longest answer: no padding", (alone.flatten()[beside.argmax()], beside.max()),
              (-1.6, -4.5), arrowprops={"arrowstyle": "-", "color": "#777777"})
axis.set_ylim(-11, 3)
plots.label(axis, "reward of an answer alone", "reward in the batch",
            "Read at the padding, 47 of 48 rewards fall to about -9")
assert (beside < -7).sum() == 47, "as the title says"

# %% [markdown]
# <details><summary>Answer</summary>
#
# No: all but one lie near -9, below every reward that was scored alone.
# </details>
#
# **What to see.** The head was never trained at padding. So neither level nor order may be read.
# The cure is one padding token for both, tokenizer and config, which does not end a chat. In your
# run watch the rewards alone and in a batch: in 32 bits they are equal to .01 deviations.

# %%
model.classifier.config.pad_token_id = model.tokenizer.pad_token_id  # mend
assert doctor.tell(doctor.batches, model, rows(pairs)[:2]), "padding must not change a reward"

# %% [markdown]
# ## 7. "The loss stays at 0.693"
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
# With room for the answers the loss leaves $\log 2$.
#
# The check cannot see another cause: a head that is never updated. Then the losses lie near
# $\log 2$, but seldom exactly on it.

# %% [markdown]
# ## 8. "With another template accuracy is gone"
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
lucky = ((bare[:, 0] - bare[:, 1]) @ heads > 0).float().mean(0)  # (1000,), as in Section 3
low, high = lucky.quantile(torch.tensor([0.025, 0.975])).tolist()
print(f"untrained start {judged(bare @ start)['score']:.2f}, 95% of random heads",
      f"{low:.2f} to {high:.2f}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# The healthy head keeps .56. A head trained with this template has .83.
# </details>
#
# **What to see.** Now 48 rejected answers are read at 33 different tokens. The healthy head keeps
# no more than the untrained start has. Why, we leave open: the missing end itself, or another
# template than in training. The .83 stands on a knife's edge: 95% of random heads reach up to .83.
# So we do not say that the other head learned, though the check says *ok*.
#
# In your run watch the last tokens: one end of turn, the same as in training.

# %%
model.tokenizer.chat_template = template  # mend; a head trained without must train again
assert doctor.tell(doctor.template, model.tokenizer, pairs, rows(pairs)), "one end for all chats"
print("last tokens:", sorted({model.tokenizer.decode(ids[-1]) for _, ids in rows(pairs)}))

# %% [markdown]
# ## 9. "My KL is far below zero"
#
# Kind: *must agree*.
# Noise explains a KL slightly below zero (Section 5). What drives it far below?
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
# More samples would not cure it: noise shrinks with samples, a wrong sampler's bias does not.

# %%
generate.roll_out = roll_out  # mend
assert doctor.tell(doctor.kl, policy, pairs), "the policy's own answers again"

# %% [markdown]
# Can noise alone make *kl* say *broken*? In a second toy, beside Section 5's, only the rarest word
# becomes 1.5 times as likely.

# %%
other = ref * torch.tensor([1, 1, 1, 1, 1.5]) / 1.025  # sums to one
for size in (32, 320):
    dice = torch.Generator().manual_seed(0)
    words = torch.multinomial(other.expand(1000, 5), size, True, generator=dice)
    terms = (other / ref).log()[words]  # (1000, size)
    deep = terms.mean(1) + 2 * terms.std(1) / size**0.5 < 0
    print(f"{size} samples: {deep.float().mean():.1%} called broken,",
          f"{(words != 4).all(1).float().mean():.1%} without the rarest word")

# %% [markdown]
# Yes: 8.4% with 32 samples. Just as many miss the rarest word, the only one with a positive term.
# Then all terms are equal and negative, and the standard error is zero. So take more answers: of
# 320 samples .5% are left.

# %% [markdown]
# ## 10. Why a random head is no coin
#
# In Section 3 random heads ranged wider than coins. Is the direction to blame that holds a third of
# all squared differences? We take it away.
#
# **Predict**: of how many random heads does the whole interval lie below one half, so that the
# check would say *broken*?

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
# Of a quarter. Of coins only 4% do so badly.
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
# ## 11. A level that the loss cannot see
#
# A pair's difference is $r_w - r_l = W_p \cdot (h_w - h_l)$. If the head moves at right angles to
# all differences $h_w - h_l$ of the training pairs, no $r_w - r_l$ changes. To find such a
# direction we take the mean hidden state of the training answers, and remove what the differences
# span. What is left is the *unseen direction*. We move the head against it until the mean training
# reward has fallen by 8.
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
# As before: .92. The training loss cannot change. That the new pairs' accuracy stays as well is an
# outcome: their differences were not taken out.
# </details>
#
# BSR's term sees the level. We train on from the sick head: with Bradley-Terry, then with BSR at
# three values of its weight $\lambda$. The pull is now towards the sick head, so it starts at zero.
# This lets Bradley-Terry move its pairs further apart.

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
# **What to see.** With Bradley-Terry the mean reward rises by 1.4. Learning to rank moves the head
# along directions that the loss sees, and these change the mean, too.
#
# BSR brings the mean to zero: by 5.8 along the unseen direction, by the other 2.2 along directions
# that the loss sees. Along the unseen one only the pull resists, too weakly even for the smallest
# $\lambda$.

# %% [markdown]
# ### The doctor and your own model
#
# - Keep DATA in a file of its own: of several splits the command reads *train*.
# - `--max-length` is that of training. `--policy FOLDER` adds the check *kl*.

# %% [markdown]
# ### Exercise 2
#
# A model can be sampled at a *temperature* $T$: the log-probabilities are divided by $T$ before
# the softmax. Give the exact mean of $\log \pi - \log \pi_\text{ref}$ when the words are drawn
# from $\pi$ at temperature $T$. `pi` and `ref` are distributions over five words.
#
# The cell takes Section 5's `ref` and a sharper policy, $\pi \propto \pi_\text{ref}^2$.
# **Predict** at which $T$ the words come from the reference itself. Where is the mean wrong and
# still positive?
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
# ### Exercise 3
#
# In how many rows does plain transformers read the reward at another *position* than that of the
# chat's last token (Section 6)? `ids` and `mask` have shape (B, L); the mask is 1 at real tokens,
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
# ### Exercise 4
#
# *Two more patients*, as in Exercise 1, now with all checks. Return a list of two numbers: the
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
