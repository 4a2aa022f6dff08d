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
# are no illness. For the others there is one habit: *compare two things that must agree, or two
# that must differ.* Rewards before and after loading must agree. A pair's two answers must differ.
#
# Each of eight sections brings one symptom about, compares, and mends it.

# %% [markdown]
# After it you can
# - tell a symptom that needs a cure from one that only looks odd;
# - name for each symptom the comparison to make first, and what its check misses;
# - say why a KL estimate may be slightly below zero, and what makes it strongly negative.

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
import tempfile
from dataclasses import replace
from functools import partial

import pandas as pd
import torch

from bsr_lite import batching, generate, plots, rloo
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
# A check that has never said "ok" proves nothing when it says "broken". So we begin with a healthy
# model. Its backbone, the first four layers of the embedded model, stays frozen. Its **head** is
# the vector $W_p$ (Eq. 2 of the paper): the reward of an answer is $r = W_p \cdot h$, where $h$ is
# the hidden state at the last token of the chat.

# %% [markdown]
# The data are pairs of the pocket world: to each prompt its best and its worst answer. We train on
# 80 pairs and check on 48 pairs of other prompts. The worst answer is often gibberish or
# unfinished, so a high accuracy is easy: a clear control, but no measure of a method.

# %%
train = doctor.read(POCKET, "pocket", "train", count=80)
pairs = doctor.read(POCKET, "pocket", count=48)  # of the dev split
model = load_reward_model("smollm2-135m-instruct", depth=4, dtype="float32")
model.requires_grad_(False)
for name, text in (("prompt", pairs[2].prompt[-1]["content"]), ("chosen", pairs[2].chosen),
                   ("rejected", pairs[2].rejected)):
    print(f"{name:9s} {text[:88]}")

# %% [markdown]
# `fitted` trains a head on hidden states, which a frozen backbone computes only once. Its loss is
# Bradley-Terry's (Eq. 3) or BSR's (Eq. 25), plus a pull towards the head that it starts from.
# Without the pull many heads would fit equally well: a head has 576 weights, and 80 pairs are few.
#
# The *doctor* is a list of checks. `judged` collects what it must know of a head's rewards.

# %%
def states(pairs):  # last hidden states of both answers, (P, 2, H)
    found, _ = fitting(model, pairs_as_groups(pairs), None)
    return torch.stack([s["after_norm"] for s in score_tokens(model, [t for _, t in found])])


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


seen, new = states(train), states(pairs)

# %%
def judged(rewards, pairs=pairs):  # (P, 2)
    right = (rewards.diff(dim=1)[:, 0] < 0).float()
    score, low, high = bootstrap_interval(right)
    longer = sum(len(pair.chosen) > len(pair.rejected) for pair in pairs) / len(pairs)
    return {"score": score, "low": low, "high": high, "groups": len(pairs), "rewards":
            rewards.tolist(), "per_prompt": right.tolist(), "length_score": longer}


# %%
start = model.head_weight.clone().cpu()  # drawn from N(0, 1/(H+1)), untrained
healthy = fitted(seen, start, "bsr", bsr_lambda=0.1)
model.head_weight.copy_(healthy)
model.meta["new_head"] = False  # it is trained now; saving and loading does this by itself
assert doctor.examine(model, pairs), "the positive control: no check says broken"

# %% [markdown]
# **What to see.** One line a check. *ok*: this check found nothing, which does not mean all is
# well. *look* may be fine, *broken* is to be mended first.
#
# |check|asks|section|
# |---|---|---|
# |head|was it saved, and is it no new draw?|4|
# |template|do all chats end in the same token?|7|
# |data|do a pair's two answers differ, even cut at the limit?|6|
# |batches|is a reward the same alone and beside others?|5|
# |level|where do the rewards lie?|1, 2|
# |accuracy|how many pairs are ranked rightly?|3|
# |kl, only with a policy|is the sign of the KL possible?|8|

# %% [markdown]
# Behind the accuracy stands its 95% bootstrap interval. *Longer answer* is the accuracy of the rule
# "longer wins", .31; so "shorter wins" has .69. The verdict is *ok* if the interval lies above both
# rules, *broken* if it lies below .5, else *look*.
#
# <details><summary>Fine print</summary>
#
# *Kept*: the template leaves the chosen text whole. *A second BOS*: the token that begins a text
# comes twice. *Repeat a prompt*: pairs whose prompt came before among these pairs.
# </details>

# %% [markdown]
# ## 1. "My rewards are around 300"
#
# Is that an illness? To bring it about we add 300 to every reward. **Predict**: what happens to the
# accuracy, and to the Bradley-Terry loss?

# %%
raised = judged(new @ healthy + 300)  # break
brief = partial(doctor.tell, advice=False)  # the finding alone, not what to do
brief(doctor.level, raised)
brief(doctor.accuracy, raised)
for name, r in (("before", new @ healthy), ("at 300", torch.tensor(raised["rewards"]))):
    print(f"Bradley-Terry loss {name}: {preference_loss('bt', *r.unbind(1)):.3f}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# Nothing, and nothing. Both see $r_w - r_l$ alone: a number added to both rewards cancels.
# </details>
#
# The check compares the mean reward with the *distance to pair mean*: how far rewards lie, on
# average, from the mean of their pair. It says *look* where the mean exceeds ten such distances (a
# convention), or where all rewards have one sign. It never says *broken*.
#
# Where you want it mended, subtract the mean reward of some fixed answers, here of these 48 pairs.

# %%
high = torch.tensor(raised["rewards"])  # (P, 2)
low = high - high.mean()  # mend
doctor.tell(doctor.level, judged(low))
assert torch.equal(high.diff(dim=1) < 0, low.diff(dim=1) < 0), "a level changes no pair's order"

# %%
# drawing only
def draw(axis, rewards, title):
    drawn = torch.as_tensor(rewards)[:24]
    chosen, rejected = drawn[drawn.diff(dim=1)[:, 0].argsort()].T  # r_w - r_l falls
    wrong = chosen < rejected
    axis.vlines(range(24), rejected, chosen, linewidth=2,
                color=["#D55E00" if w else "#BBBBBB" for w in wrong])
    axis.scatter(range(24), rejected, s=36, facecolors="white", linewidths=1.5, zorder=3,
                 edgecolors=["#D55E00" if w else "black" for w in wrong])
    axis.plot(chosen, "ko", markersize=4, zorder=4)
    plots.label(axis, "pair, sorted by chosen minus rejected", "reward", title)
    axis.margins(y=0.2)
    return chosen, rejected, wrong


_, axes = plots.panels(2)
for axis, rewards, title in zip(axes, (high, low), (
        "A level of 300: 3 of 24 pairs ranked wrongly", "The level subtracted: the same 3"),
        strict=True):
    chosen, rejected, wrong = draw(axis, rewards, title)
    axis.set_xlim(-6, 24)
    axis.text(-0.6, chosen[0], "chosen", va="center", ha="right")
    axis.text(-0.6, rejected[0], "rejected", va="center", ha="right")
    axis.text(23.5, chosen[-1] + 1.2, "ranked wrongly", ha="right", color="#D55E00")
    axis.set_xticks(range(0, 24, 5))
assert wrong.sum() == 3, "as the titles say"

# %% [markdown]
# **What to see.** Only the numbers on the axis move. When does a level matter?
#
# - Not in reinforcement learning with a baseline: leave-one-out advantages (lesson 08) do not
#   contain it.
# - Where a fixed number meets the reward: "-1 for an unfinished answer", "accept above 0".
# - In 16 bits. Near 300 the numbers of bfloat16 are 2 apart, so two rewards may be rounded to one
#   number. Score in 32 bits, and subtract the level before anything is rounded.

# %%
torch.testing.assert_close(rloo.leave_one_out_advantages(high),
                           rloo.leave_one_out_advantages(low), rtol=0, atol=1e-2)
ties = [(r.bfloat16().diff(dim=1) == 0).float().mean().item() for r in (high, low)]
print(f"pairs that tie in bfloat16: {ties[0]:.0%} at a level of 300, {ties[1]:.0%} at 0")
assert ties[0] > 0.1 > ties[1], "a level costs precision: the format's steps grow with it"

# %% [markdown]
# ## 2. "All my rewards are negative"
#
# Bradley-Terry sees only the differences $h_w - h_l$ of its training pairs. If the head moves at
# right angles to all of them, no $r_w - r_l$ changes. To find such a direction we take the mean
# hidden state of the training answers, and remove what the differences span. What is left is the
# *unseen direction*. We move the head against it until the mean training reward has fallen by 8.
#
# **Predict** the training loss after this move.

# %%
gaps, mean = seen[:, 0] - seen[:, 1], seen.mean((0, 1))  # (P, H), (H,)
unseen = mean - gaps.T @ torch.linalg.lstsq(gaps.T, mean[:, None]).solution[:, 0]
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
# Unchanged: no difference has a part along this direction.
# </details>
#
# New pairs are ranked as well as before: negative rewards are no illness either. BSR (lesson 03)
# adds a term that sees the level. We train on from the sick head: with Bradley-Terry, then with BSR
# at three values of $\lambda$. The pull is now towards the sick head, so it starts at zero. This
# lets Bradley-Terry move its pairs further apart.

# %%
table = {}
for weight in (None, 0.001, 0.01, 0.1):
    head = fitted(seen, sick, "bsr" if weight else "bt", bsr_lambda=weight)  # bsr: mend
    moved = ((head - sick) @ mean, (head - sick) @ unseen, (new @ head).mean())
    verdict, _ = doctor.level({"rewards": (new @ head).tolist()})
    table[f"BSR, lambda {weight}" if weight else "BT"] = [*map("{:+.2f}".format, moved), verdict]
pd.DataFrame(table, index=["mean training reward moves by", "of that along the unseen direction",
                           "mean reward of the new pairs then", "level"])

# %% [markdown]
# **What to see.** With Bradley-Terry the mean reward rises by 1.4. Learning to rank moves the head
# along directions that the loss sees, and these change the mean, too.
#
# BSR brings the mean to zero, mostly along the unseen direction. There only the pull resists, and
# it is too weak even against a $\lambda$ of .001.

# %% [markdown]
# ## 3. "The loss falls, but accuracy stays at 50%"
#
# Has the model learned nothing? Here somebody has put the two answers of each training pair into
# alphabetical order. The columns are still called chosen and rejected.
#
# **Predict** the accuracy on the training pairs as handed over, and on new pairs.

# %%
flip = torch.tensor([pair.chosen > pair.rejected for pair in train])  # break
lost = seen.clone()
lost[flip] = lost[flip].flip(1)
learned = fitted(lost, start, "bsr", bsr_lambda=0.1)
loss = [preference_loss("bt", *(lost @ head).unbind(1)) for head in (start, learned)]
print(f"{flip.float().mean():.0%} of the labels are turned")
print(f"training loss {loss[0]:.2f} to {loss[1]:.2f}")
print("this head on the training pairs as handed over, then on new pairs:")
handed = [replace(pair, chosen=pair.rejected, rejected=pair.chosen) if turn else pair
          for pair, turn in zip(train, flip, strict=True)]
brief(doctor.accuracy, judged(lost @ learned, handed))
brief(doctor.accuracy, judged(new @ learned))
right = ((seen @ healthy).diff(dim=1) < 0).float().mean()
print(f"the healthy head on the training pairs as they were: {right:.2f}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# High on the training pairs, near a coin's on new ones.
# </details>
#
# **What to see.** On the head's own 80 pairs the doctor says *ok*. Only pairs that it was *not*
# trained on show the fault: there the interval holds one half. With the right labels the same
# training gave .98 and .92.
#
# Your own run has no such comparison, and overfitting alone can look like this. So read the labels:
# are they sorted by anything but quality?

# %%
for name, turned in (("as they were", torch.zeros_like(flip)), ("as handed over", flip)):
    first = [(p.chosen < p.rejected) != bool(t) for p, t in zip(train, turned, strict=True)]
    print(f"labels {name}: chosen is first in the alphabet in {sum(first) / len(first):.0%}")

# %% [markdown]
# The labels give the rule away. Whether the head has learned this rule, or its 80 pairs by heart,
# we leave open.
#
# And a head that was never trained: is it a coin? **Predict**: of how many random heads does the
# whole interval lie *below* one half?

# %%
heads, differ = torch.randn(len(start), 1000), new[:, 0] - new[:, 1]  # (H, 1000), (P, H)
_, sizes, (main, *_) = torch.linalg.svd(differ, full_matrices=False)  # main: (H,), a unit vector
print(f"one direction holds {sizes[0]**2 / differ.norm()**2:.0%} of all squared differences")
for name, margins in (("coins", torch.randn(len(new), 1000)),
                      ("heads without it", (differ - torch.outer(differ @ main, main)) @ heads),
                      ("random heads", differ @ heads)):  # margins: (P, 1000)
    drawn = (margins > 0).float().mean(0)  # (1000,), of each the accuracy
    half = 1.96 * (drawn * (1 - drawn) / len(new)).sqrt()  # of a normal 95% interval
    reach = drawn.quantile(torch.tensor([0.025, 0.975])).tolist()
    print(f"{name:16} {(drawn + half < 0.5).float().mean():3.0%} with the interval below one half;",
          "95% rank {:.0%} to {:.0%} rightly".format(*reach))

# %% [markdown]
# <details><summary>Answer</summary>
#
# Of a quarter.
# </details>
#
# Of coins only 4% do so badly. Why is a head no coin? A coin is tossed anew for each pair. One head
# ranks all 48, and a third of their squared differences $h_w - h_l$ lies along one direction. A
# head's sign there turns many pairs at once. Without that direction random heads range about as
# coins do.

# %% [markdown]
# An accuracy below one half, then, need not have been *learned*. Compare it with the range of 95%
# of random heads. Below that range luck is unlikely: the model has learned something, with the
# wrong sign for these pairs.
#
# To see this we turn all 80 training labels, and none of the new pairs'. **Predict** the accuracy
# on new pairs.

# %%
turned = fitted(seen.flip(1), start, "bsr", bsr_lambda=0.1)  # break once more
assert not doctor.tell(doctor.accuracy, judged(new @ turned))
both = ((new @ turned).diff(dim=1) > 0).float().mean()
print(f"accuracy had the new pairs been turned, too: {both:.2f}")
again = judged(new @ healthy)  # mend: trained with the labels as they were
doctor.tell(doctor.accuracy, again)
assert again["low"] > reach[1], "above the range of 95% of random heads"

# %%
# drawing only
_, axis = plots.panels()
counts, _, _ = axis.hist(drawn, bins=((torch.arange(50) - 0.5) / 48).tolist(), color="#BBBBBB")
axis.axvspan(*reach, color="black", alpha=0.06, linewidth=0)
axis.text(reach[0], 1.28 * counts.max(), " 95% of the heads")
marks = {"turned": turned, "alphabet": learned, "untrained": start, "healthy": healthy}
marks = {name: judged(new @ head)["score"] for name, head in marks.items()}
for name, value in marks.items():
    axis.plot(value, 0, "^", color="#D55E00", markersize=9, clip_on=False, zorder=4)
    axis.text(value, 1.08 * counts.max(), f"{name}\n{value:.2f}", ha="center", color="#D55E00")
    axis.vlines(value, 0, 1.05 * counts.max(), color="#D55E00", linewidth=1)
axis.set_ylim(0, 1.4 * counts.max())
plots.label(axis, "share of the 48 new pairs ranked rightly", "random heads, of 1000",
            "Of four heads only turned and healthy lie outside the range of 95% of random ones")
assert [n for n, x in marks.items() if not reach[0] <= x <= reach[1]] == ["turned", "healthy"]

# %% [markdown]
# <details><summary>Answer</summary>
#
# .10, about one minus the healthy .92.
# </details>
#
# **What to see.** By its accuracy *alphabet* cannot be told from a random head. Our *untrained*
# start is such a head, and ranks .75: quote no accuracy without this range.
#
# A fault that turns the new pairs as well leaves .90: no check sees it.

# %% [markdown]
# Has a model at 50% learned nothing? Within the range of random heads accuracy cannot tell: read
# the labels. Below it, and below both length rules, suspect that most labels are turned.

# %% [markdown]
# ## 4. "After loading, all scores are different"
#
# `save_pretrained` saves what it is called on. Here that is the backbone, and the head is no part
# of it. Loading then draws a new head, $H = 576$ numbers from $N(0, 1/(H+1))$. Plain transformers
# draws one, too, and only warns.
#
# **Predict** the norm of the new head. Will the norm give the fault away?

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
# About 1, as of every head drawn so. That only hints at the fault.
# </details>
#
# The verdict comes from the folder: no head is in it. A random head that somebody *saved* can pass.
# To mend it, save the whole model.

# %%
from bsr_lite.saving import save_reward_model

save_reward_model(model, RUNS / "whole")  # mend
loaded = load_reward_model(str(RUNS / "whole")).requires_grad_(False)
with quiet_loading():
    anew = load_reward_model(str(RUNS / "lost"), dtype="float32").requires_grad_(False)
doctor.tell(doctor.head, loaded)
first = pairs_as_groups(pairs[:3])
found = {"before saving": again["rewards"][:3], "backbone saved": evaluate(anew, first)["rewards"],
         "all saved": evaluate(loaded, first)["rewards"]}
torch.testing.assert_close(*map(torch.tensor, (found["all saved"], found["before saving"])),
                           rtol=1e-4, atol=1e-4)
pd.DataFrame({name: [f"{r:+.2f}" for pair in rewards for r in pair]
              for name, rewards in found.items()},
             index=[f"pair {n}, {side}" for n in (1, 2, 3) for side in ("chosen", "rejected")])

# %% [markdown]
# **What to see.** Saved whole, the rewards are the same. With the backbone alone all six differ:
# the chosen answers by .5 at most, the rejected ones by up to 2.9. So compare both answers, and of
# more than one pair.

# %% [markdown]
# ## 5. "Scores change with the batch size"
#
# Answers in a batch are *padded* to one length, on the right or on the left, with the tokenizer's
# padding token. Plain transformers reads the reward at the last token that is not
# `config.pad_token_id`, whatever the attention mask says. If the two tokens differ, the padding is
# taken for the answer.
#
# The check scores answers alone, padded, and *packed* into one row. It prints the largest change,
# in standard deviations of the rewards. In bfloat16 it allows half a deviation: for a sharper check
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
# rightly. That fails only if `config.pad_token_id` is the end of turn itself (Exercise 2).
# </details>
#
# Now 24 pairs in one batch, padded on the right. **Predict**: where will their rewards lie?

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
            "Read at the padding, all rewards but one fall, to about -9")
assert (beside < -7).sum() == 47, "as the title says"

# %% [markdown]
# <details><summary>Answer</summary>
#
# All but one lie near -9, below every reward that was scored alone.
# </details>
#
# **What to see.** The head was never trained at padding. So neither level nor order may be read.

# %%
model.classifier.config.pad_token_id = model.tokenizer.pad_token_id  # mend
assert doctor.tell(doctor.batches, model, rows(pairs)[:2]), "padding must not change a reward"

# %% [markdown]
# ## 6. "The loss stays at 0.693"
#
# 0.693 is $\log 2$, the loss of a pair without any difference. One cause is a length limit: the
# tokens beyond it are cut off. Here 520 words of rules precede every prompt.
#
# **Predict**: of how many pairs will the two chats be equal, whole and cut at 512 tokens?

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
# Mending means a limit that holds the chats, or shorter prompts. Drop a pair that does not fit: a
# cut answer is another answer.

# %%
longest = max(len(ids) for pair in rows(long) for ids in pair)
print(f"longest chat: {longest} tokens; loss of the two pairs whole: {loss_at(longest):.3f}")
assert doctor.tell(doctor.data, long, rows(long), 1024), "with room for the answers nothing is lost"

# %% [markdown]
# With room for the answers the loss leaves $\log 2$. It is still high: the healthy head ranks
# pair 1 wrongly even without rules (Section 4).
#
# The check cannot see another cause: a head that is never updated. Then the losses lie near
# $\log 2$, but seldom exactly on it.

# %% [markdown]
# ## 7. "With another template accuracy is gone"
#
# The reward is read at the last token of the chat. A good template ends every answer in the same
# **end-of-turn** token. The one below puts nothing behind an answer.
#
# **Predict**: how much is left of the accuracy of .92 with the healthy head? And with a head that
# was *trained* with this template, too?

# %%
template = model.tokenizer.chat_template
model.tokenizer.chat_template = template.replace(  # break: nothing closes an answer
    "'<|im_end|>' + '\n'", "('' if message['role'] == 'assistant' else '<|im_end|>\n')")
assert model.tokenizer.chat_template != template
doctor.tell(doctor.template, model.tokenizer, pairs, rows(pairs))
bare = states(pairs)
brief(doctor.accuracy, judged(bare @ healthy))
there = fitted(states(train), start, "bsr", bsr_lambda=0.1)
print("a head trained with this template, too:")
brief(doctor.accuracy, judged(bare @ there))
last = sorted({model.tokenizer.decode(ids[-1]) for _, ids in rows(pairs)})
print(len(last), "different last tokens, among them", last[::3])

# %% [markdown]
# <details><summary>Answer</summary>
#
# The healthy head keeps .56. A head trained with this template has .83.
# </details>
#
# **What to see.** Now 48 rejected answers are read at 33 different tokens. Why accuracy falls we
# leave open: the missing end itself, or another template than in training. Nor does .83 show that
# the second head has learned anything. Section 3's range of random heads is of other states; for
# the range of these run its code with `bare` in place of `new`.
#
# The template check cannot know how a model was trained: it says *broken* for both heads.

# %%
model.tokenizer.chat_template = template  # mend; a head trained without must train again
assert doctor.tell(doctor.template, model.tokenizer, pairs, rows(pairs)), "one end for all chats"
print("last tokens:", sorted({model.tokenizer.decode(ids[-1]) for _, ids in rows(pairs)}))

# %% [markdown]
# ## 8. "My KL is negative"
#
# Lesson 08 estimates $\mathrm{KL}(\pi \,\|\, \pi_\text{ref})$ by the mean of
# $k_1 = \log \pi(y) - \log \pi_\text{ref}(y)$ over answers $y$ that $\pi$ sampled. A KL is never
# negative. A single $k_1$ may well be, and so may the mean of a few.
#
# First a toy: a policy of five words, hardly moved from its reference. **Predict** how often the
# mean of 32 samples is negative.

# %%
torch.manual_seed(0)
ref = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05])
pi = (ref.log() + 0.05 * torch.randn(5)).softmax(0)
k1 = (pi / ref).log()
samples = k1[torch.multinomial(pi, 32 * 1000, True)].view(1000, 32)
means, errors = samples.mean(1), samples.std(1) / 32**0.5
print(f"KL {(pi * k1).sum():.4f} nats, standard deviation of the means {means.std():.4f}")
print(f"means below zero: {(means < 0).float().mean():.0%};",
      f"by more than two standard errors: {(means + 2 * errors < 0).float().mean():.1%}")

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
# <details><summary>Answer</summary>
#
# In 42% of these means.
# </details>
#
# **What to see.** The true KL lies just above zero, and the noise of 32 samples is about five times
# as large. More samples shrink the noise.
#
# So a mean slightly below zero may be noise: the check says *look*. It says *broken* where the mean
# lies more than two of its own standard errors below zero. That befalls a healthy policy, too: here
# .7% of the means.

# %% [markdown]
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
# `stale` takes the place of `roll_out`.
#
# **Predict** the sign, and say whose KL it is.

# %%
def stale(policy, *arguments, **options):  # break
    with policy.reference():
        return roll_out(policy, *arguments, **options)


roll_out, generate.roll_out = generate.roll_out, stale
assert not doctor.tell(doctor.kl, policy, pairs), "answers of another policy give no KL"

# %% [markdown]
# <details><summary>Answer</summary>
#
# Negative, and far from zero: over answers of the reference the mean of
# $\log \pi - \log \pi_\text{ref}$ is $-\mathrm{KL}(\pi_\text{ref} \,\|\, \pi)$. In this toy
# both KLs happen to be of like size; in general not.
# </details>
#
# The check is one-sided. Sampled a little too hot or too cold, the mean is wrong and still
# positive (Exercise 3).

# %%
generate.roll_out = roll_out  # mend
assert doctor.tell(doctor.kl, policy, pairs), "the policy's own answers again"

# %% [markdown]
# ## The whole clinic in one table

# %%
pd.DataFrame([
    ["rewards of 300", "mean and distance to pair mean", "neither: only odd",
     "level", "whether a threshold, or 16 bits, meets it"],
    ["all negative", "mean and distance to pair mean", "neither: only odd",
     "level", "where the level came from"],
    ["accuracy of 50%", "accuracy on new pairs, yours and random heads'",
     "differ; else read labels", "accuracy", "a lucky random head; new pairs turned, too"],
    ["other scores after loading", "rewards before and after", "agree",
     "head", "a random head that was saved"],
    ["scores change with the batch", "rewards alone and in a batch", "agree",
     "batches", "in bfloat16, any error below half a deviation"],
    ["loss stays at log 2", "a pair's answers, whole and cut", "differ",
     "data", "a head that is never updated"],
    ["accuracy gone with a template", "last tokens of all chats, in training and now", "agree",
     "template", "a model trained with another template"],
    ["negative KL", "who sampled, who scored", "agree",
     "kl", "a wrong one that is still above 0"]],
    columns=["symptom", "compare first", "they must", "the doctor's line", "it cannot tell"],
    index=range(1, 9))

# %% [markdown]
# For your own model: `python -m bsr_lite.course.doctor MODEL DATA --format trl`, where DATA has
# columns chosen and rejected.
#
# - DATA must be pairs that MODEL was *not* trained on. On its training pairs even Section 3's
#   *alphabet* head gets *ok*. Keep DATA in a file of its own: of several splits the command reads
#   *train*.
# - Without DATA the command takes the pocket world. Accuracy then says nothing of your task.
# - `--max-length` is that of training. `--policy FOLDER` adds Section 8's check.
# - For random heads take Section 3's code, with `states` of *your* pairs, from the model *before*
#   training: 17% to 81% is of these 48 pairs alone.

# %% [markdown]
# ## Exercises
#
# Each stub returns `None`; its checker then says "not attempted yet". A first hint is folded below
# each task, the checker gives a second one. Solutions are in `notebooks/solutions/`.

# %% [markdown]
# **1.** *Judge recorded models.* Write the level in units of the *distance to pair mean*: shape
# (P, 2) in, one number out. The cell applies it to `recorded`: four methods, four seeds each.
#
# **Predict**: if a loss does not see the level, will its four seeds have four random levels, or
# one? Call it a level where its size exceeds one unit: like the doctor's ten, a convention. Which
# methods have one?
#
# <details><summary>Hint</summary>
#
# In a pair both rewards are equally far from their mean. How far, in terms of $r_w - r_l$?
# </details>

# %%
recorded = {}
for path in sorted(Path("data/runs/study_lora").glob("*-seed*/evaluation.json")):
    scenarios = json.loads(path.read_text())["scenarios"]
    recorded[path.parent.name] = torch.tensor(scenarios["in_domain"]["rewards"])  # (240, 2)


def level_in_units(rewards):
    return None


if checks.check_level_in_units(level_in_units):
    print({name: round(float(level_in_units(r)), 1) for name, r in recorded.items()})

# %% [markdown]
# **2.** In how many rows does plain transformers read the reward at another *position* than that of
# the chat's last token? `ids` and `mask` have shape (B, L); the mask is 1 at real tokens, on
# whichever side the padding is. It reads at the last token whose id is not `config_pad`.
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
# **3.** The exact mean of $\log \pi - \log \pi_\text{ref}$ when the words are drawn from $\pi$ at
# temperature $T$: the log-probabilities are divided by $T$ before the softmax. `pi` and `ref` are
# distributions over five words. The cell takes Section 8's `ref` and a sharper policy,
# $\pi \propto \pi_\text{ref}^2$. **Predict** at which $T$ the words come from the reference itself.
# Where is the mean wrong and still positive?
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
# **4.** *Four patients.* Each is a copy of the healthy model with at most one fault. To all rewards
# a constant, -40, is added: it stays, whatever befalls the head. Read their lines. Below them stand
# three rewards, here and on the machine that trained it. Return a list of four numbers: the section
# of each patient's cause, or 0 where nothing needs a cure. One of the ill has no line that says
# *broken*.
#
# <details><summary>Hint</summary>
#
# One fault can spoil more than one line. Which line could bring about the others?
# </details>

# %%
for number in (1, 2, 3, 4):
    patient = checks.patient(number, model)
    print(f"---- patient {number}")
    doctor.examine(patient, pairs[:16], tell=brief)
    now = evaluate(patient, pairs_as_groups(pairs[:3]))["rewards"]
    print("three chosen answers, here", [round(r, 2) for r, _ in now], "where it was trained",
          [round(r - 40, 2) for r, _ in again["rewards"][:3]])


def diagnoses():
    return None


checks.check_diagnoses(diagnoses);

# %% [markdown]
# ## What to watch, what to vary
#
# | In your run, watch | Healthy | If not, or next, vary |
# |---|---|---|
# | accuracy on new prompts | above *your* length rule and 95% of random heads | labels, steps |
# | rewards alone, in a batch | equal to .01 deviations (32 bits) | pad ids, number format |
# | last tokens of all chats | one end of turn, as in training | template, then train again |
# | mean $k_1$ of own answers | above zero, or within its noise | who sampled, at which $T$ |

# %% [markdown]
# ## Check yourself
#
# 1. A colleague's rewards are all between 40 and 44. Is the model broken?
# 2. Accuracy on new pairs lies clearly *below* one half. Was something learned?
# 3. Rewards differ only in batches. Which two numbers do you compare, and with what third?
# 4. The loss stays at $\log 2$. Which two causes come to mind?
# 5. A KL is far below zero. Why can more samples not cure it?

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1. Not for that reason. Look at accuracy, and whether rewards are kept in 16 bits.
# 2. Not for sure: many random heads do as badly. Below the range of 95% of them something probably
#    was. Below "longer wins", too, suspect turned labels.
# 3. `tokenizer.pad_token_id` and `config.pad_token_id`: they must be equal. The third is the id
#    that ends a chat: neither may be that.
# 4. Pairs that are equal once cut: each loss is $\log 2$ exactly. Or a head that is never updated:
#    losses lie near it.
# 5. Noise shrinks with samples, a wrong sampler's bias does not.
# </details>

# %% [markdown]
# ## What you know now
#
# **Before you doubt the loss, compare what must agree and what must differ.** Rewards must agree
# alone and in a batch, before and after loading. So must the last tokens of all chats, and the
# policy that samples with the one that is scored. A pair's two answers must differ, even once cut.
# Where that fails by more than rounding, the pipeline is at fault.
#
# A check that says *ok* means only "not impossible". It cannot see whether the labels mean what you
# think, nor whether the model will be right about answers that a policy finds later (lessons 07
# and 09).

