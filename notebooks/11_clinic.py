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
# "The rewards are around 300." "All rewards are negative." "Accuracy stays at 50%." Some of these
# are no illness at all. The others have a cause, and a cheap comparison says where to look for it.
#
# In this lesson a reward model, and at the end a policy, is given eight symptoms, each in a few
# lines. Each time one check says where to look first: twice that nothing needs a cure. Two faults
# (3 and 4) it cannot name alone. Then each is mended and checked again.

# %% [markdown]
# After it you can
# - tell a symptom that needs a cure from one that only looks odd;
# - name for each of eight symptoms the comparison to make first, and what it cannot tell;
# - run the same checks on your own model with one command;
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
from bsr_lite.models import load_reward_model
from bsr_lite.scenarios import pairs_as_groups
from bsr_lite.tokenization import answer_rows

torch.manual_seed(0)
RUNS, POCKET = Path(tempfile.mkdtemp()), "data/pocket/pocket.jsonl.gz"

# %% [markdown]
# ## A healthy patient first
#
# A check that has never said "ok" proves nothing when it says "broken". So we begin with a healthy
# model. Its backbone is the first four layers of the embedded model, and it stays frozen. Its
# **head** is the vector $W_p$ (Eq. 2 of the paper): the reward of an answer is $r = W_p \cdot h$,
# where $h$ is the hidden state at the answer's last token.

# %% [markdown]
# The data are pairs of the pocket world: to each prompt the best and the worst answer. 80 pairs
# are for training, 48 pairs of other prompts are for checking. The worst answer is often gibberish
# or cut off. So a high accuracy is easily had: this is a clear control, no measure of a method.

# %%
train = doctor.read(POCKET, "pocket", "train", count=80)
pairs = doctor.read(POCKET, "pocket", count=48)  # of the dev split
model = load_reward_model("smollm2-135m-instruct", depth=4, dtype="float32")
model.requires_grad_(False)
for name, text in (("prompt", pairs[2].prompt[-1]["content"]), ("chosen", pairs[2].chosen),
                   ("rejected", pairs[2].rejected)):
    print(f"{name:9s} {text[:88]}")

# %% [markdown]
# The backbone is frozen, so every hidden state needs to be computed only once. `fitted` then trains
# a head on these states. Its loss is Bradley-Terry's (Eq. 3), or BSR's (Eq. 25), plus a pull
# towards the head that it starts from.

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
start = model.head_weight.clone()  # drawn from N(0, 1/(H+1)), untrained
healthy = fitted(seen, start, "bsr", bsr_lambda=0.1)
model.head_weight.copy_(healthy)
model.meta["new_head"] = False  # it is trained now; saving and loading does this by itself
assert doctor.examine(model, pairs), "the positive control: no check says broken"

# %% [markdown]
# **What to see.** One line a check: its name, its verdict, what it measured. *ok* needs nothing,
# *look* may be fine, *broken* is to be mended before you train on.
# - **head**: its norm, and whether it was *there* at loading. "(new: 1)": a new head of $H = 576$
#   numbers is drawn from $N(0, 1/(H+1))$, so its norm is near 1. *broken*: missing, zero or a new
#   draw; *look*: a norm outside .1 to 10;
# - **template**: does each chat end in one *end-of-turn* token, and is its answer whole? If not,
#   *broken*. *look*: two begin-of-sequence tokens (BOS);

# %% [markdown]
# - **data**: pairs of equal tokens, whole or cut at 512, and prompts that come twice. *broken*:
#   over a tenth are equal once cut; *look*: any of this;
# - **batches**: how far rewards move when answers are scored in one row (*packed*) or in padded
#   rows, not alone. *broken*: beyond .01 standard deviations in 32 bits;
# - **level**: the mean reward of these answers, and the *spread within prompts*: how far a reward
#   lies on average from the mean of its pair, half of the mean $|r_w - r_l|$. *look*: all rewards
#   have one sign, or the mean exceeds ten spreads;

# %% [markdown]
# - **accuracy**: the share of pairs ranked rightly, with a 95% bootstrap over prompts. The last
#   number is how often the longer answer is the chosen one: .31, so "shorter wins" is right in .69:
#   the rule to beat. *ok*: the interval lies above it; *broken*: it lies below one half.
#
# Your own model and pairs: `python -m bsr_lite.course.doctor MODEL DATA --format FORMAT`. Without
# DATA it takes the pocket world, and then accuracy says nothing of your task. Add the limit that
# you train with (`--max-length`), and `--policy FOLDER` for Section 8's check.

# %% [markdown]
# ## 1. "My rewards are around 300"
#
# To bring it about we add one number to every reward. **Predict**: what happens to the accuracy?
# And what would happen to the Bradley-Terry loss?

# %%
number = torch.tensor([300.0])
model.classifier.score.bias = torch.nn.Parameter(number, requires_grad=False)  # break
sick = evaluate(model, pairs_as_groups(pairs))
brief = partial(doctor.tell, advice=False)  # the finding alone, not what to do
brief(doctor.level, sick)
brief(doctor.accuracy, sick);

# %% [markdown]
# <details><summary>Answer</summary>
#
# Nothing, and nothing. Both see $r_w - r_l$ alone, and a number that is added to both cancels
# (lesson 01).
# </details>
#
# The check says *look*, never *broken*: Bradley-Terry's loss
# does not see the level. But can anyone read these rewards? **Predict**: on an axis from 0 to 340,
# in how many of 24 pairs will you see which answer is higher?

# %%
def draw(rewards, title, tint="black"):
    _, axis = plots.panels()
    drawn = torch.tensor(rewards)[:24]
    chosen, rejected = drawn[drawn.diff(dim=1)[:, 0].argsort()].T  # r_w - r_l falls
    wrong = chosen < rejected
    axis.vlines(range(24), rejected, chosen, linewidth=2,
                color=[tint if w else "#BBBBBB" for w in wrong])
    axis.scatter(range(24), rejected, s=36, facecolors="white", linewidths=1.5, zorder=3,
                 edgecolors=[tint if w else "black" for w in wrong])
    axis.plot(chosen, "ko", markersize=4, zorder=4)
    plots.label(axis, "pair, sorted by chosen minus rejected", "reward", title)
    axis.margins(y=0.2)
    return axis, chosen, rejected, wrong


axis, chosen, rejected, _ = draw(
    sick["rewards"], "At a level of 300 even the widest gap is less than a dot's height")
axis.text(0, 250, "24 pairs, two dots each: chosen filled, rejected open")
axis.set_ylim(0, 340)
print(f"widest gap {(chosen - rejected).abs().max():.1f}")

# %% [markdown]
# **What to see.** The widest gap is about half a dot's height. On the left the open dot sticks out
# below the filled one; from pair 15 on no one can tell which answer won.
#
# Where one number is wanted, one subtraction gives it: take off the mean reward of fixed answers.
#
# **Predict**: in how many of these 24 pairs will the filled dot, the chosen answer, lie lower?

# %%
level = torch.tensor(sick["rewards"]).mean()
model.classifier.score.bias -= level  # mend
mended = evaluate(model, pairs_as_groups(pairs))
doctor.tell(doctor.level, mended)
axis, chosen, rejected, wrong = draw(
    mended["rewards"], "The level subtracted, the gaps are plain: few pairs are ranked wrongly",
    tint="#D55E00")
axis.text(0.4, chosen[0], "chosen", va="center")
axis.text(0.4, rejected[0], "rejected", va="center")
axis.text(23, chosen[-1] + 1.2, "ranked wrongly", ha="right", color="#D55E00")
print(f"ranked wrongly: {wrong.sum()} of 24")

# %% [markdown]
# <details><summary>Answer</summary>
#
# In three. They stand at the right because the pairs are sorted. That their gaps are small, below
# .4, is what the picture shows.
# </details>
#
# So when does a level matter? Not for reinforcement learning with a baseline: leave-one-out
# advantages (lesson 08) do not contain it. It matters where a fixed number takes the reward's place
# or is compared with it: a reward of -1 *instead of* $r$ for an unfinished answer, or a threshold
# "accept above 0". (A penalty that is *subtracted*, as in lesson 08, leaves the level to cancel.)
# And it matters in 16 bits: near 300 the numbers of bfloat16 are 2 apart.

# %%
high, low = (torch.tensor(found["rewards"]) for found in (sick, mended))
torch.testing.assert_close(rloo.leave_one_out_advantages(high),
                           rloo.leave_one_out_advantages(low), rtol=0, atol=1e-2)
ties = [(r.bfloat16().diff(dim=1) == 0).float().mean().item() for r in (high, low)]
print(f"pairs that tie in bfloat16: {ties[0]:.0%} at a level of 300, {ties[1]:.0%} at 0")
assert ties[0] > 0.1 > ties[1], "a level costs precision: the format's steps grow with it"
model.classifier.score.bias = None

# %% [markdown]
# ## 2. "All my rewards are negative"
#
# The same check, another way to get there. Bradley-Terry sees the differences $h_w - h_l$ of its
# training pairs. We take the mean hidden state, remove all that these differences can see, and move
# the head against what is left.
#
# **Predict** the training loss after this move.

# %%
gaps, mean = seen[:, 0] - seen[:, 1], seen.mean((0, 1))  # (P, H), (H,)
unseen = mean - gaps.T @ torch.linalg.lstsq(gaps.T, mean[:, None]).solution[:, 0]
sick = healthy - 8 * unseen / (unseen @ mean)  # break
loss = [preference_loss("bt", *(seen @ head).unbind(1)) for head in (healthy, sick)]
print(f"training loss before {loss[0]:.4f}, after {loss[1]:.4f}")
brief(doctor.level, {"rewards": (new @ sick).tolist()})
torch.testing.assert_close(loss[0], loss[1], rtol=1e-3, atol=1e-4)

# %% [markdown]
# <details><summary>Answer</summary>
#
# Unchanged. Along this direction the two states of every training pair are equal, so the gradient
# of Bradley-Terry has no part in it: this component of the head stays as it is.
# </details>
#
# Nothing is wrong with negative rewards either. If you want them around zero, add a term that sees
# the level: BSR (lesson 03). We train on from the sick head, once with each loss.

# %%
for name, options in (("bt", {}), ("bsr", {"bsr_lambda": 0.1})):
    head = fitted(seen, sick, name, **options)  # bsr: mend
    moved = [(head - sick) @ direction for direction in (mean, unseen)]
    print(f"{name.upper()} moves the level by {moved[0]:+.2f}, "
          f"{moved[1]:+.2f} of it along the unseen direction")
    doctor.tell(doctor.level, {"rewards": (new @ head).tolist()})
    assert name == "bsr" or moved[1].abs() < 0.01, "Bradley-Terry cannot see this direction"

# %% [markdown]
# **What to see.** Along the unseen direction Bradley-Terry moves nothing. It still moves the level
# a little: the directions that it does see are not perpendicular to the mean state, so learning to
# rank drags the level along. Exercise 1 shows where recorded runs ended.
#
# BSR brings the mean to zero.

# %% [markdown]
# ## 3. "The loss falls, but accuracy stays at 50%"
#
# Somewhere between the annotators and the trainer the two answers were put into alphabetical order.
# The columns are still called chosen and rejected.
#
# **Predict** the accuracy on the training pairs, and on new ones.

# %%
flip = torch.tensor([pair.chosen > pair.rejected for pair in train])  # break
lost = seen.clone()
lost[flip] = lost[flip].flip(1)
model.head_weight.copy_(fitted(lost, start, "bsr", bsr_lambda=0.1))
loss = [preference_loss("bt", *(lost @ head).unbind(1)) for head in (start, model.head_weight)]
fits = ((lost @ model.head_weight).diff(dim=1) < 0).float().mean()
print(f"{flip.float().mean():.0%} of the labels are turned")
print(f"training loss {loss[0]:.2f} to {loss[1]:.2f}, training accuracy {fits:.2f}")
brief(doctor.accuracy, evaluate(model, pairs_as_groups(pairs)));

# %% [markdown]
# <details><summary>Answer</summary>
#
# High on the training pairs, near a coin's on new ones.
# </details>
#
# **What to see.** The loss falls, and the head gets most of its training labels right: 576 weights
# and 80 pairs leave room for that. The interval on new prompts holds one half, so it is not seen to
# beat a coin. That alone could be overfitting. What settles it is a look at the labels: is the
# column sorted by anything but quality?

# %%
for name, turned in (("as they were", torch.zeros_like(flip)), ("as handed over", flip)):
    first = [(p.chosen < p.rejected) != bool(t) for p, t in zip(train, turned, strict=True)]
    print(f"labels {name}: chosen is first in the alphabet in {sum(first) / len(first):.0%}")
fits = ((seen @ healthy).diff(dim=1) < 0).float().mean()
print(f"training accuracy of the healthy head {fits:.2f}")

# %% [markdown]
# As they were handed over, the alphabet decides every pair. Mending means to find the step that
# lost the order.
#
# An interval *below* one half would say more: the labels are not lost but turned. Here all are.

# %%
model.head_weight.copy_(fitted(seen.flip(1), start, "bsr", bsr_lambda=0.1))  # break once more
assert not doctor.tell(doctor.accuracy, evaluate(model, pairs_as_groups(pairs)))
model.head_weight.copy_(fitted(seen, start, "bsr", bsr_lambda=0.1))  # mend: labels as they were
again = evaluate(model, pairs_as_groups(pairs))
doctor.tell(doctor.accuracy, again)
assert again["low"] > 0.5, "with its labels the same training beats a coin"

# %% [markdown]
# ## 4. "After loading, all scores are different"
#
# `save_pretrained` saves what it is called on. Here that is the backbone, and the head is no part
# of it. Loading then draws a new head, and plain transformers only warns. We look at the
# folder with the command itself. After a broken head it stops: nothing below would mean anything.
#
# **Predict** the norm of the head that it finds. Will the norm give the fault away?

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
# About 1, as of every new head. That only hints at the fault.
# </details>
#
# The verdict comes from the folder: the head is not in it. A random head that somebody *saved* can
# pass this check. What decides is to compare rewards before and after.
#
# Mending means to save the whole model, and to load it once before the machine that trained it is
# given back. Side by side, the rewards of three chosen answers:

# %%
from bsr_lite.saving import save_reward_model

save_reward_model(model, RUNS / "whole")  # mend
loaded = load_reward_model(str(RUNS / "whole")).requires_grad_(False)
with quiet_loading():
    anew = load_reward_model(str(RUNS / "lost"), dtype="float32").requires_grad_(False)
doctor.tell(doctor.head, loaded)
found = {"before saving": again, "backbone saved": evaluate(anew, pairs_as_groups(pairs)),
         "all saved": evaluate(loaded, pairs_as_groups(pairs))}
torch.testing.assert_close(torch.tensor(found["all saved"]["rewards"]),
                           torch.tensor(again["rewards"]), rtol=1e-4, atol=1e-4)
brief(doctor.accuracy, found["backbone saved"])
pd.DataFrame({name: [*(f"{r:+.2f}" for r, _ in f["rewards"][:3]), f"{f['score']:.2f}"]
              for name, f in found.items()},
             index=["reward of pair 1", "reward of pair 2", "reward of pair 3", "accuracy"])

# %% [markdown]
# **What to see.** Saved whole, the rewards are the same. With the new head they are not, yet it
# ranks three quarters of these pairs rightly: they are easy, and this is one draw. So an accuracy
# of .75, seen by itself, does not name the fault: it may as well be a poor model. Three rewards,
# before and after, do.

# %% [markdown]
# ## 5. "Scores change with the batch size"
#
# Plain transformers reads the reward at the last token of a row that is not `config.pad_token_id`.
# It does not look at the attention mask for that. The tokenizer pads with a token of its own. If
# the two are not the same token, the padding is taken for the answer.
#
# **Predict** which rows are read wrongly: those padded on the right, or those padded on the left?

# %%
def rows(pairs):  # of each pair the tokens of both chats
    chats = [(pair.prompt, (pair.chosen, pair.rejected)) for pair in pairs]
    return list(answer_rows(model.tokenizer, chats))


model.classifier.config.pad_token_id = 7  # break; the tokenizer pads with 0
doctor.tell(doctor.batches, model, rows(pairs)[:4]);

# %% [markdown]
# <details><summary>Answer</summary>
#
# Those padded on the right, unless they are the longest of the batch. On the left the last token is
# the answer's end, as long as `config.pad_token_id` is not the end of turn itself (Exercise 2).
# </details>
#
# The packed rows are right all the time, as they contain no padding.
#
# 24 answers, their reward alone against their reward in one padded batch.
# **Predict**: where will the misread rewards lie, and does their order still follow the answers?

# %%
plain = loaded.classifier
plain.set_attn_implementation("eager")  # rows as plain transformers computes them
plain.config.pad_token_id = 7
alone = torch.tensor(again["rewards"])[:12].flatten()
_, axes = plots.panels(2, sharex=True, sharey=True)
for axis, side, says in ((axes[0], "right", "read at the padding"), (axes[1], "left", "as alone")):
    batch = loaded.tokenizer.pad({"input_ids": [ids for pair in rows(pairs)[:12] for ids in pair]},
                                 padding_side=side, return_tensors="pt")
    beside = plain(**batch.to(loaded.device)).logits[:, 0].cpu()
    axis.axline((0, 0), slope=1, color="#BBBBBB")
    axis.plot(alone, beside, "ko", markersize=4)
    plots.label(axis, "reward alone", "reward in the batch", f"Padded on the {side}: {says}")
    print(f"padded on the {side}: {(beside.view(12, 2).diff(dim=1) < 0).sum()} of 12 pairs right")
axes[0].text(alone.min() + 1.3, -2.9, "the longest answer: no padding")
axes[1].text(-3.5, -1.2, "equal rewards", color="#777777");

# %% [markdown]
# <details><summary>Answer</summary>
#
# Near -9, below every true reward. Of 12 pairs 5 are ranked rightly, no more than by a coin; with
# the true rewards 9 are.
# </details>

# %%
model.classifier.config.pad_token_id = model.tokenizer.pad_token_id  # mend
assert doctor.tell(doctor.batches, model, rows(pairs)[:4]), "padding must not change a reward"

# %% [markdown]
# What remains in 32 bits is rounding, below a thousandth. In bfloat16 the check calls up to half a
# standard deviation rounding. So there it finds a wrong token, not a small error: score in 32 bits
# to see more.

# %% [markdown]
# ## 6. "The loss stays at 0.693"
#
# 0.693 is $\log 2$, the loss of a pair without any difference. Long prompts bring it about: the
# tokens are cut at a limit, and the limit falls before the answers begin. Here a page of rules is
# put in front of every prompt.
#
# **Predict**: of how many pairs will the two rows be equal, whole and cut at 512 tokens?

# %%
RULES = "Be helpful, be honest, do not harm anyone, and answer in plain words. " * 40
long = [replace(pair, prompt=[{"role": "user", "content": RULES + pair.prompt[-1]["content"]}])
        for pair in pairs]  # break
doctor.tell(doctor.data, long, rows(long), 512)
cut = [torch.cat([model(batching.pack([[ids[:511], ids[511:512]]])) for ids in pair])
       for pair in rows(long)[:4]]
print(f"loss of four pairs cut at 512: {preference_loss('bt', *torch.stack(cut).unbind(1)):.3f}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# Whole none, cut all 48.
# </details>
#
# Two equal rows have equal rewards, so Bradley-Terry's gradient on
# them is zero. BSR still pulls at their level, and learns no ranking from them.
#
# Mending means a limit that holds the chats, or shorter prompts. A pair that does not fit is
# dropped, not cut, as a cut answer is another answer. `train_rm` drops and counts.

# %%
longest = max(len(ids) for pair in rows(long) for ids in pair)
print(f"longest chat: {longest} tokens")
assert doctor.tell(doctor.data, long, rows(long), 1024), "with room for the answers nothing is lost"

# %% [markdown]
# ## 7. "My policy never stops"
#
# The reward is read at the last token of the chat. A good template ends every answer in the same
# **end-of-turn** token. A template without one reads the reward at whatever token comes last.
#
# **Predict**: at how many different tokens will it read 48 rejected answers?

# %%
template = model.tokenizer.chat_template
model.tokenizer.chat_template = (  # break
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
doctor.tell(doctor.template, model.tokenizer, pairs, rows(pairs))
last = sorted({model.tokenizer.decode(ids[-1]) for _, ids in rows(pairs)})
print(len(last), "different last tokens:", last)

# %% [markdown]
# <details><summary>Answer</summary>
#
# At 33.
# </details>
#
# **What to see.** The last tokens of the rejected chats: punctuation, a digit, or any word at which
# an answer was cut off. The head reads its reward at all of them. A policy that is trained with
# this template has no token with which to stop (not shown here: that would need a policy trained
# with it).

# %%
model.tokenizer.chat_template = template  # mend; a head trained without must train again
assert doctor.tell(doctor.template, model.tokenizer, pairs, rows(pairs)), "one end for all chats"
print("last tokens:", sorted({model.tokenizer.decode(ids[-1]) for _, ids in rows(pairs)}))

# %% [markdown]
# The template closes cut answers, too: it says where the turn ends, not that the answer is
# complete. Whether cut answers score lower depends on the pairs: some must have been *rejected*.

# %% [markdown]
# ## 8. "My KL is negative"
#
# Lesson 08 estimates $\mathrm{KL}(\pi \,\|\, \pi_\text{ref})$ by the mean of
# $k_1 = \log \pi(y) - \log \pi_\text{ref}(y)$ over answers $y$ that $\pi$ sampled. A KL is never
# negative. A single $k_1$ may well be, and so may the mean of a few. First a toy: a policy of five
# words, hardly moved from its reference.
#
# **Predict** how often the mean of 32 is negative where the KL is tiny.

# %%
torch.manual_seed(0)
ref = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05])
pi = (ref.log() + 0.05 * torch.randn(5)).softmax(0)
k1 = (pi / ref).log()
means = k1[torch.multinomial(pi, 32 * 1000, True)].view(1000, 32).mean(1)
_, axis = plots.panels()
counts, edges, bars = axis.hist(means, bins=(torch.arange(-17, 21) / 500).tolist())
for bar, left in zip(bars, edges[:-1], strict=True):
    bar.set_facecolor("#D55E00" if left < 0 else "#BBBBBB")
axis.text(-0.03, 0.6 * counts.max(), f"{(means < 0).float().mean():.0%} below zero",
          color="#D55E00")
axis.margins(y=0.15)
for value, text in ((0.0, "zero "), ((pi * k1).sum().item(), " the true KL")):
    axis.axvline(value, color="black", linestyle="-" if value else ":")
    axis.text(value, 0.94, text, ha="left" if value else "right",
              transform=axis.get_xaxis_transform())
plots.label(axis, "mean $k_1$ of 32 samples (nats)", "estimates, of 1000",
            "Near the reference about 4 in 10 estimates of the KL fall below zero")
print(f"KL {(pi * k1).sum():.5f} nats, below zero: {(means < 0).float().mean():.0%} of the means")

# %% [markdown]
# <details><summary>Answer</summary>
#
# In 42% of these estimates.
# </details>
#
# **What to see.** The true KL lies just above zero, and the noise of 32 samples is much wider. So
# a slightly negative estimate is nothing to mend.
#
# The patient is a tiny policy with random weights. Its LoRA adapter is stirred, so that it differs
# from its reference, the same weights without the adapter.

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
# A second positive control: sampled from the policy itself, the mean is above zero. Behind "+-"
# stand two standard errors over the 32 answers; *broken* is further below zero than that. Now the
# engine that samples has not been given the new weights. It still holds the reference's.
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
# $\log \pi - \log \pi_\text{ref}$ is $-\mathrm{KL}(\pi_\text{ref} \,\|\, \pi)$.
# </details>
#
# The other causes are of the same kind. The answers were sampled at another temperature (Exercise
# 3), or the log-probabilities are those of another template, or padding was counted on one side.
#
# The check is one-sided. Sampled a little too hot or too cold, the mean is wrong and still
# positive (Exercise 3). *ok* means "not impossible", not "right".

# %%
generate.roll_out = roll_out  # mend
assert doctor.tell(doctor.kl, policy, pairs), "the policy's own answers again"

# %% [markdown]
# ## The whole clinic in one table

# %%
pd.DataFrame([
    ["rewards of 300", "mean and spread within prompts", "whether a threshold meets it",
     "level", "nothing, or subtract"],
    ["all negative", "mean and spread within prompts", "where the level came from",
     "level", "nothing, or BSR"],
    ["accuracy of 50%", "new pairs and training pairs",
     "lost labels or overfitting: read labels", "accuracy", "find the step"],
    ["other scores after loading", "rewards before and after", "which weights differ",
     "head", "save the whole model"],
    ["scores change with the batch", "alone and in a batch", "in 16 bits, small errors",
     "batches", "a pad token that ends no chat"],
    ["loss stays at log 2", "whole and cut tokens", "a head that is not trained",
     "data", "raise the limit, drop long pairs"],
    ["never stops", "last tokens of all chats", "whether the answer is complete",
     "template", "add an end, train again"],
    ["negative KL", "who sampled, who scored", "a wrong one that is still above 0",
     "kl", "one policy for both"]],
    columns=["symptom", "compare first", "what it cannot tell", "check", "mend"],
    index=range(1, 9))

# %% [markdown]
# ## Exercises
#
# Each stub returns `None`; its checker then says "not attempted yet". A first hint is folded below
# each task, the checker gives a second one. Solutions are in `notebooks/solutions/`.

# %% [markdown]
# **1.** *Judge recorded models.* Write the level in units of the spread: the mean reward, divided
# by the spread within prompts. Shape (P, 2) in, one number out. The cell applies it to `recorded`:
# 16 models of four methods, four seeds each. Say in advance: if the loss does not see the level,
# will four seeds have four random levels, or one? Call it a level where it exceeds one spread.
# Which methods have one?
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


def level_in_spreads(rewards):
    return None


if checks.check_level_in_spreads(level_in_spreads):
    print({name: round(float(level_in_spreads(r)), 1) for name, r in recorded.items()})

# %% [markdown]
# **2.** In how many rows does plain transformers read the reward at another token than the last one
# of the chat? `ids` and `mask` have shape (B, L); the mask is 1 at real tokens, on whichever side
# the padding is. It reads at the last token whose id is not `config_pad`.
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
# distributions over five words; below, `ref` is Section 8's. The cell then takes
# $\pi \propto \pi_\text{ref}^2$, a policy that is sharper than its reference. **Predict** at
# which $T$ the words come from the reference itself. Where is the mean wrong and still positive?
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
# **4.** *Four patients.* Each is a copy of the healthy model, with a level and with at most one
# fault. Read their lines. Below them stand three rewards, here and on the machine that trained it.
# Return a list of four numbers: the section of each patient's cause, or 0 where nothing needs a
# cure. For one that is ill no line says *broken*.
#
# <details><summary>Hint</summary>
#
# One fault can spoil more than one line. Which line could bring about the others?
# </details>

# %%
for number in (1, 2, 3, 4):
    patient = checks.patient(number, model)
    print(f"---- patient {number}")
    doctor.examine(patient, pairs[:24], tell=brief)
    now = evaluate(patient, pairs_as_groups(pairs[:3]))["rewards"]
    print("three chosen answers, here", [round(r, 2) for r, _ in now], "where it was trained",
          [round(r - 40, 2) for r, _ in again["rewards"][:3]])


def diagnoses():
    return None


checks.check_diagnoses(diagnoses);

# %% [markdown]
# ## What to watch, what to vary
#
# | In your run, watch | Healthy (seen here) | If not, or next, vary |
# |---|---|---|
# | accuracy on new prompts | interval above the length rule, .69: .83 to .98 | labels, then rates |
# | rewards alone, in a batch | no difference to a thousandth | pad ids, then number format |
# | rewards on another machine | (H100, recorded) 1e-6 off in 32 bits, .014 in 16 | number format |
# | mean $k_1$ of own answers | above zero, or within its noise | who sampled, at which $T$ |

# %% [markdown]
# ## Check yourself
#
# 1. A colleague's rewards are all between 40 and 44. Is the model broken?
# 2. Accuracy on new pairs lies clearly *below* one half. Why is that better news than a coin?
# 3. Rewards differ only in batches. Which two numbers do you compare, and with what third?
# 4. The loss stays at $\log 2$. Which two causes come to mind?
# 5. A KL is far below zero. Why can more samples not cure it?

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1. Not for that reason. Look at accuracy.
# 2. The model knows quality: the labels may be turned. A coin knows nothing.
# 3. `tokenizer.pad_token_id` and `config.pad_token_id`, with the id that ends a chat: neither may
#    be that.
# 4. Pairs that are equal once cut, or a zero head that is *not trained*. A zero head that trains
#    leaves $\log 2$ in its first step.
# 5. Noise shrinks with samples, a wrong sampler's bias does not.
# </details>

# %% [markdown]
# ## What you know now
#
# **Before you doubt the loss, hand the model the same thing in two ways that must agree. Where they
# differ, the pipeline is at fault. A level changes no difference, so for ranking it is no fault.**
#
# The ways: before and after loading, alone and in a batch, whole and cut, labels as they were and
# as handed over, every chat's last token, the policy that sampled and the one that scored.
#
# What the checks cannot see: whether the labels mean what you think, and whether the model will
# still be right about answers that a policy finds later (lessons 07 and 09).
