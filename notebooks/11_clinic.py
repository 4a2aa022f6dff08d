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
# "The rewards are around 300." "All rewards are negative." "Accuracy stays at 50%." Reports like
# these fill public issue trackers, and they come back every month. A few of them are no illness at
# all. The others have a cause that one measurement finds.
#
# In this lesson a healthy reward model is broken eight times, each time in at most five lines. Each
# time one check finds the cause. Then the model is mended and checked again.

# %% [markdown]
# After it you can
# - tell a symptom that needs a cure from one that only looks odd;
# - name for each of eight symptoms the one measurement that decides;
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

import pandas as pd
import torch

from bsr_lite import generate, plots, rloo
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
# **head** is the vector $W_p$ of Eq. 2: the reward of an answer is $r = W_p \cdot h$, where $h$ is
# the hidden state at the answer's last token.
#
# The data are pairs of the pocket world: to each prompt the best and the worst answer. 80 pairs
# are for training, 48 pairs of other prompts are for checking.

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
# a head on these states. Its loss is Bradley-Terry's (Eq. 3), or BSR's (Eq. 25), plus a weak pull
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
model.meta["new_head"] = False
assert doctor.examine(model, pairs), "the positive control: a healthy model passes every check"

# %% [markdown]
# **What to see.** One line a check. The first word is its name, the second its verdict: *ok*,
# *look* (may be fine, know what it means) or *broken* (mend it before you train on). Then comes
# what was measured. The interval behind the accuracy is a 95% bootstrap over prompts. The last
# number is how often the *longer* answer is the chosen one. Here it is below one half, so the rule
# "shorter wins" is the one to beat.
#
# The same lines come from `python -m bsr_lite.course.doctor MODEL [DATA]`, on your own model.

# %% [markdown]
# ## 1. "My rewards are around 300"
#
# To bring it about we add one number to every reward. **Predict**: what happens to the accuracy?
# And what would happen to the Bradley-Terry loss?

# %%
number = torch.tensor([300.0])
model.classifier.score.bias = torch.nn.Parameter(number, requires_grad=False)  # break
sick = evaluate(model, pairs_as_groups(pairs))
doctor.tell(doctor.level, sick)
doctor.tell(doctor.accuracy, sick);

# %% [markdown]
# <details><summary>Answer</summary>
#
# Nothing, and nothing. Both see $r_w - r_l$ alone, and a number that is added to both cancels
# (lesson 01).
# </details>
#
# The accuracy is the healthy model's. The check says *look*, never *broken*: under Bradley-Terry
# the level is free. But no one can read these rewards:

# %%
def draw(rewards, title):
    _, axis = plots.panels()
    chosen, rejected = torch.tensor(rewards)[:24].T
    axis.vlines(range(24), rejected, chosen, color="#BBBBBB", linewidth=1)
    axis.plot(chosen, "ko", markersize=4, label="chosen")
    axis.plot(rejected, "ko", markersize=5, markerfacecolor="white", label="rejected")
    plots.label(axis, "pair", "reward", title)
    axis.margins(y=0.25)
    axis.legend(ncols=2, loc="lower right")
    return axis


axis = draw(sick["rewards"], "A level of 300 hides a spread of about one")
axis.set_ylim(0, 340);

# %% [markdown]
# **What to see.** Twenty-four pairs, all on one line. What the model knows is the distance of the
# two dots of a pair, and that is too small to be seen beside the level.
#
# Mending is one subtraction: the mean reward of a fixed set of answers.

# %%
level = torch.tensor(sick["rewards"]).mean()
model.classifier.score.bias -= level  # mend
mended = evaluate(model, pairs_as_groups(pairs))
doctor.tell(doctor.level, mended)
draw(mended["rewards"], "The same model, the level subtracted: the spread is what it knows");

# %% [markdown]
# **What to see.** The same pairs, the same distances. In most pairs the chosen answer lies above
# the rejected one.
#
# So when does a level matter? Not for reinforcement learning with a baseline: leave-one-out
# advantages (lesson 08) do not contain it. It matters where a fixed number meets it, such as a
# penalty of 1 for an unfinished answer. And it matters in 16 bits: near 300 the numbers of bfloat16
# are 2 apart.

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
doctor.tell(doctor.level, {"rewards": (new @ sick).tolist()})
torch.testing.assert_close(loss[0], loss[1], rtol=1e-3, atol=1e-4)

# %% [markdown]
# <details><summary>Answer</summary>
#
# Unchanged. Along this direction the two states of every training pair are equal, so the gradient
# of Bradley-Terry has no part in it: nothing leads a head there, and nothing leads it back.
# </details>
#
# Nothing is wrong with negative rewards either. If you want them around zero, add a term that sees
# the level: BSR (lesson 03). We train on from the sick head, once with each loss.

# %%
for name, options in (("bt", {}), ("bsr", {"bsr_lambda": 0.1})):
    head = fitted(seen, sick, name, **options)  # bsr: mend
    print(f"trained on with {name.upper()}:", end=" ")
    doctor.tell(doctor.level, {"rewards": (new @ head).tolist()})

# %% [markdown]
# Bradley-Terry leaves all rewards negative. BSR brings their mean to zero. The spread within
# prompts comes out the same with both.

# %% [markdown]
# ## 3. "The loss falls, but accuracy stays at 50%"
#
# Somewhere between the annotators and the trainer the two answers were put into alphabetical order.
# The columns are still called chosen and rejected.

# %%
flip = torch.tensor([pair.chosen > pair.rejected for pair in train])  # break
lost = seen.clone()
lost[flip] = lost[flip].flip(1)
model.head_weight.copy_(fitted(lost, start, "bsr", bsr_lambda=0.1))
fits = ((lost @ model.head_weight).diff(dim=1) < 0).float().mean()
print(f"training accuracy {fits:.2f}, {flip.float().mean():.0%} of the labels are turned")
doctor.tell(doctor.accuracy, evaluate(model, pairs_as_groups(pairs)));

# %% [markdown]
# **What to see.** On its training pairs the head gets most of these labels right, although they
# say nothing of quality: 576 weights and 80 pairs leave room for that. The interval on new prompts
# holds one half, so the head is not seen to beat a coin. An interval *below* one half would say
# more: the labels are not lost but turned, and the check says *broken*.
#
# Mending means to find the step that lost the order. No learning rate cures it.

# %%
model.head_weight.copy_(fitted(seen, start, "bsr", bsr_lambda=0.1))  # mend: labels as they were
again = evaluate(model, pairs_as_groups(pairs))
doctor.tell(doctor.accuracy, again)
assert again["low"] > 0.5, "with its labels the same training beats a coin"

# %% [markdown]
# ## 4. "After loading, all scores are different"
#
# `save_pretrained` saves what it is called on. Here that is the backbone, and the head is no part
# of it. (With PEFT the same happens where the adapter's task type is `CAUSAL_LM` in place of
# `SEQ_CLS`.) Loading then draws a new head, and plain transformers only warns. We look at the
# folder with the command itself.

# %%
with quiet_loading():
    model.backbone.save_pretrained(RUNS / "lost")  # break
    model.tokenizer.save_pretrained(RUNS / "lost")
try:
    doctor.main([str(RUNS / "lost")])
except SystemExit as end:
    print("exit status", int(end.code))

# %% [markdown]
# Mending means to save the whole model, and to load it once before the machine that trained it is
# given back.

# %%
from bsr_lite.saving import save_reward_model

save_reward_model(model, RUNS / "whole")  # mend
loaded = load_reward_model(str(RUNS / "whole")).requires_grad_(False)
doctor.tell(doctor.head, loaded)
torch.testing.assert_close(loaded.head_weight, model.head_weight, rtol=0, atol=0)

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
# the answer's end whatever the padding is.
# </details>
#
# The check scores eight answers four times: each alone, packed as in this library, and in rows that
# plain transformers pads on either side. Differences are in standard deviations of the rewards. The
# packed rows are right all the time, as they contain no padding.

# %%
model.classifier.config.pad_token_id = model.tokenizer.pad_token_id  # mend
assert doctor.tell(doctor.batches, model, rows(pairs)[:4]), "padding must not change a reward"

# %% [markdown]
# What remains in 32 bits is rounding, below a thousandth. In 16 bits rounding is coarser, and the
# check allows for it. Close calls are then best scored one by one.

# %% [markdown]
# ## 6. "The loss stays at 0.693"
#
# 0.693 is $\log 2$, the loss of a pair without any difference. Long prompts bring it about: the
# tokens are cut at a limit, and the limit falls before the answers begin. Here a page of rules is
# put in front of every prompt.

# %%
RULES = "Be helpful, be honest, do not harm anyone, and answer in plain words. " * 40
long = [replace(pair, prompt=[{"role": "user", "content": RULES + pair.prompt[-1]["content"]}])
        for pair in pairs]  # break
doctor.tell(doctor.data, long, rows(long), 512);

# %% [markdown]
# The first number counts pairs whose whole chats are equal. The second counts those that are equal
# once they are cut: all of them. Two equal rows have equal rewards, so their gradient is zero and
# training says nothing.
#
# Mending means a limit that holds the chats, or shorter prompts. A pair that does not fit is
# dropped, not cut, as a cut answer is another answer. `train_rm` drops and counts.

# %%
longest = max(len(ids) for pair in rows(long) for ids in pair)
print(f"longest chat: {longest} tokens")
assert doctor.tell(doctor.data, long, rows(long), 1024), "with room for the answers nothing is lost"

# %% [markdown]
# ## 7. "My policy never stops" and "cut answers score as well as whole ones"
#
# The reward is read at the last token of the chat. A good template ends every answer in the same
# **end-of-turn** token. A template without one reads the reward at whatever letter comes last.

# %%
template = model.tokenizer.chat_template
model.tokenizer.chat_template = (  # break
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
doctor.tell(doctor.template, model.tokenizer, pairs, rows(pairs))
print("last tokens:", sorted({model.tokenizer.decode(ids[-1]) for _, ids in rows(pairs)}))

# %% [markdown]
# **What to see.** Shown are the last tokens of the rejected chats: a full stop, or any word at
# which an answer was cut off. No token says that an answer is finished. A policy that is trained
# with this template has none with which to stop.

# %%
model.tokenizer.chat_template = template  # mend: and train again, the head has seen other tokens
assert doctor.tell(doctor.template, model.tokenizer, pairs, rows(pairs)), "one end for all chats"
print("last tokens:", sorted({model.tokenizer.decode(ids[-1]) for _, ids in rows(pairs)}))

# %% [markdown]
# ## 8. "My KL is negative"
#
# Lesson 08 estimates $\mathrm{KL}(\pi \,\|\, \pi_\text{ref})$ by the mean of
# $k_1 = \log \pi(y) - \log \pi_\text{ref}(y)$ over answers $y$ that $\pi$ sampled. A KL is never
# negative. A single $k_1$ may well be, and so may the mean of a few.
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
# A second positive control: sampled from the policy itself, the mean is above zero. Now the engine
# that samples has not been given the new weights. It still holds the reference's.
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
# Always ask: is the distribution that sampled the one whose log-probabilities I use?

# %%
generate.roll_out = roll_out  # mend
assert doctor.tell(doctor.kl, policy, pairs), "the policy's own answers again"

# %% [markdown]
# ## The whole clinic in one table

# %%
pd.DataFrame([
    ["rewards of 300", "a number added to all", "level", "subtract it; price KL by the spread"],
    ["all negative", "a direction no pair sees", "level", "nothing, or BSR in training"],
    ["accuracy of 50%", "labels lost on the way", "accuracy", "find the step that lost them"],
    ["other scores after loading", "head not saved", "head", "save the whole model, load it once"],
    ["scores change with the batch", "two pad tokens", "batches", "one that ends no chat"],
    ["loss stays at log 2", "cut before the answers", "data", "raise the limit, drop long pairs"],
    ["never stops", "no end of turn", "template", "add one, train again"],
    ["negative KL", "another policy sampled", "kl", "sample and score with one policy"]],
    columns=["symptom", "cause here", "check", "mend"], index=range(1, 9))

# %% [markdown]
# **Before you doubt the loss, check what a minute can check: the head, the end of the chat, the
# labels, the padding; and do not treat a level, which is no illness.**
#
# What the checks cannot see: whether the labels mean what you think, and whether the model will
# still be right about answers that a policy finds later (lessons 07 and 09).

# %% [markdown]
# ## Exercises
#
# Each stub returns `None`; its checker then says "not attempted yet". A first hint is folded below
# each task, the checker gives a second one. Solutions are in `notebooks/solutions/`.
#
# **1.** *Judge recorded models.* Write the level in units of the spread: the mean reward, divided
# by how far a reward lies on average from the mean of its pair. Shape (P, 2) in, one number out.
# Then apply it to `recorded`: 16 models of four methods, four seeds each. Which methods leave the
# level free, and by how many spreads?
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


checks.check_level_in_spreads(level_in_spreads);

# %% [markdown]
# **2.** In how many rows does plain transformers read the reward at another token than the last one
# of the chat? `ids` and `mask` have shape (B, T); the mask is 1 at real tokens, on whichever side
# the padding is. It reads at the last token whose id is not `config_pad`. Before you run it,
# predict the count where `config_pad` is the end-of-turn token itself.
#
# <details><summary>Hint</summary>
#
# Two positions a row: where it reads, and where it should.
# </details>

# %%
def misread(ids, mask, config_pad):
    return None


checks.check_misread(misread);

# %% [markdown]
# **3.** The exact mean of $\log p - \log p_\text{ref}$ when the words are drawn from $p$ at
# temperature $T$. `p` and `ref` are distributions over five words. Afterwards take
# $p \propto p_\text{ref}^2$, a policy that is sharper than its reference. At which $T$ do the
# words come from the reference itself, and what is the mean then?
#
# <details><summary>Hint</summary>
#
# A temperature divides the log-probabilities before the softmax. Which distribution do the words
# come from?
# </details>

# %%
def mean_k1(p, ref, temperature):
    return None


checks.check_mean_k1(mean_k1);

# %% [markdown]
# ## Check yourself
#
# 1. A colleague's rewards are all between 40 and 44. Is the model broken?
# 2. Accuracy on new pairs is .12, with an interval from .05 to .20. What do you look at first?
# 3. Rewards agree for a batch of one and differ for a batch of eight. Which two numbers do you
#    compare?
# 4. The loss starts at 0.693 and stays there. Which two causes come to mind?
# 5. The KL of your first step is -0.02 ± 0.05 nats. And of the hundredth -14 ± 2?

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1. Not for that reason: the level is free. Compare the spread within prompts, and accuracy.
# 2. Whether chosen and rejected are turned. A coin would give .5, so this model knows a lot.
# 3. `tokenizer.pad_token_id` and `config.pad_token_id`.
# 4. Pairs that are equal once they are cut, or a head that is zero or gets no gradient.
# 5. The first is noise around zero. The second is not a KL: another policy, temperature or template
#    sampled.
# </details>
