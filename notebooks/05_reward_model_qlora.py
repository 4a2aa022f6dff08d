# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 05 · How does an 8B reward model fit on one small GPU?
#
# Full fine-tuning of 8 billion weights takes over 100 GB. **QLoRA** holds the base in 4 bits,
# freezes it, and trains thin adapters beside it. We take it apart on a model that fits anywhere,
# count every megabyte, then train, save, merge and use a BSR reward model.

# %% [markdown]
# After it you can
# - quantize a matrix to NF4 by hand and say what a weight costs;
# - say why an adapter starts at zero, and what merging does;
# - predict a run's memory before you start it, and say what 4 bits do *not* shrink;
# - save, reload and merge a reward model without silently changing its rewards;
# - score your own text, and read the field's benchmarks.

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
import contextlib
import io
import json
import tempfile

import torch

from bsr_lite import plots
from bsr_lite.config import load_config
from bsr_lite.course import checks
from bsr_lite.embedded import quiet_loading
from bsr_lite.models import load_reward_model

torch.manual_seed(0)
CONFIG = "bsr_lite/configs/rm_qlora_fast_{}.yaml"

# %% [markdown]
# ## 1. Four bits a weight
#
# 4 bits name one of 16 levels. Trained weights look Gaussian, so **NF4** (4-bit NormalFloat,
# Dettmers et al. 2023) puts its levels at quantiles of a normal distribution: most where most
# weights are. Each **block** of 64 weights is divided by its largest absolute value (*absmax*),
# so it lies in $[-1, 1]$, and every weight becomes the number of its nearest level. One level is
# exactly 0, so that zeros stay zeros; that leaves 8 positive and 7 negative ones.

# %%
normal = torch.distributions.Normal(0.0, 1.0)


TAIL = 1 - (1 / 32 + 1 / 30) / 2  # where the outermost quantile lies


def half(count):  # quantiles from the tail to just above the median
    return normal.icdf(torch.linspace(TAIL, 0.5, count + 1, dtype=torch.float64)[:-1])


levels = torch.cat([half(8), torch.zeros(1), -half(7)]).sort().values
levels = (levels / levels.max()).float()  # (16,)
print([round(x, 2) for x in levels.tolist()])

# %%
def quantize(weight, levels):
    blocks = weight.reshape(-1, 64)
    absmax = blocks.abs().amax(1, keepdim=True)  # (blocks, 1)
    codes = ((blocks / absmax)[..., None] - levels).abs().argmin(-1)  # 0..15
    return codes, absmax


def dequantize(codes, absmax, levels):
    return levels[codes] * absmax


base = load_reward_model("smollm2-135m-instruct", depth=10, dtype="float32")
W = base.backbone.layers[4].mlp.up_proj.weight.detach().cpu()  # (1536, 576)
codes, absmax = quantize(W, levels)
W4 = dequantize(codes, absmax, levels).view_as(W)

# %% [markdown]
# Is that what the library that everyone uses does? `bitsandbytes` packs two codes into a byte.

# %%
import bitsandbytes.functional as bnb

packed, state = bnb.quantize_4bit(W, blocksize=64, quant_type="nf4")
torch.testing.assert_close(state.code, levels, rtol=0, atol=1e-6)  # the same 16 levels
torch.testing.assert_close(bnb.dequantize_4bit(packed, state), W4, rtol=0, atol=1e-6)
print("by hand and by bitsandbytes the same;", tuple(packed.shape), packed.dtype)

# %% [markdown]
# **Predict**: 16 levels evenly spaced over $[-1, 1]$ instead. Larger or smaller error?

# %%
def error(levels):
    codes, absmax = quantize(W, levels)
    return ((dequantize(codes, absmax, levels).view_as(W) - W).std() / W.std()).item()


even = torch.linspace(-1, 1, 16)
figure, (left, right) = plots.panels(2)
left.hist((W.reshape(-1, 64) / absmax).flatten(), bins=121, color="#BBBBBB")
for level in levels:
    left.axvline(level, color="#4477AA", linewidth=0.8)
plots.label(left, "weight / absmax of its block", "weights", "NF4's levels over one matrix")
right.bar(["NF4", "evenly spaced"], [100 * error(levels), 100 * error(even)], 0.5,
          color=["#4477AA", "#BBBBBB"])
plots.label(right, "", "rms error, % of the weights' std", "what rounding costs")

# %% [markdown]
# <details><summary>Answer</summary>
#
# Larger, but not by much: blocks are small, so absmax already adapts to the scale.
# </details>
#
# **What to see.** Levels are dense where weights are. The spike at $\pm 1$ is each block's own
# maximum, kept exactly (until its absmax is rounded too, below). (Our weights came out of a 4-bit
# file of another format once before; Gaussian ones give 9.2%.) What does that do to a product?

# %%
x = torch.randn(64, W.shape[1])
noise = (x @ (W4 - W).T).norm() / (x @ W.T).norm()
print(f"error of the products W x: {noise:.1%} of their size")

# %% [markdown]
# The same 9%: signal and error both add up like $\sqrt n$, nothing averages out. Networks tolerate
# it surprisingly well; whether *yours* does has to be measured.

# %% [markdown]
# **The bill.** 4 bits, plus a 32-bit absmax per 64 weights: 4.5 bits. *Double quantization* stores
# these absmax in 8 bits too, in blocks of 256 with a 32-bit scale each:
# $4 + \frac{8}{64} + \frac{32}{64 \cdot 256} = 4.127$ bits.

# %%
packed, state = bnb.quantize_4bit(W, blocksize=64, quant_type="nf4", compress_statistics=True)
stored = packed.nbytes + state.absmax.nbytes  # codes, 8-bit absmax
stored += state.state2.absmax.nbytes  # the scales of the absmax
print(f"{8 * stored / W.numel():.3f} bits a weight")
assert abs(8 * stored / W.numel() - 4.127) < 1e-3, "the bill must add up"

# %% [markdown]
# ## 2. An adapter
#
# 4-bit weights cannot take small steps. **LoRA** (Hu et al. 2021) leaves $W$ as it is and learns a
# change of rank $r$ beside it:
#
# $$y = W x + \frac{\alpha}{r}\, B A x, \qquad A \in \mathbb{R}^{r \times n},\;
# B \in \mathbb{R}^{m \times r}.$$
#
# $r(m + n)$ numbers instead of $mn$. $A$ starts random, $B$ at **zero**, so that training begins
# at the pretrained model.
#
# **Predict** the gradients of $A$ and $B$ at the very first step.

# %%
r, alpha = 16, 32
m, n = W.shape
A = (torch.randn(r, n) / n**0.5).requires_grad_()
B = torch.zeros(m, r, requires_grad=True)
x = torch.randn(8, n)
y = x @ W4.T + alpha / r * (x @ A.T) @ B.T  # rows of x are inputs, (8, m)
assert torch.equal(y, x @ W4.T), "with B = 0 the adapter must not change anything"
y.square().sum().backward()
print(f"|grad A| {A.grad.norm():.2f}   |grad B| {B.grad.norm():.2f}   "
      f"{100 * r * (m + n) / (m * n):.1f}% of the matrix's size")
assert A.grad.norm() == 0 and B.grad.norm() > 0, "A's gradient passes through B"

# %% [markdown]
# <details><summary>Answer</summary>
#
# dL/dA = (alpha / r) B^T (dL/dy)^T x = 0 as B = 0: the first step moves B alone.
# </details>
#
# **Merging** folds the adapter in: $W' = W + \frac{\alpha}{r} B A$. The same outputs from one
# plain matrix, up to rounding. A reward model needs one more trained part: the head $W_p$ of Eq.
# 2, which is new, and stays in 32 bits with a learning rate of its own.

# %%
with torch.no_grad():
    B.normal_(std=0.02)  # as if it had been trained
    merged = W4 + alpha / r * B @ A
    torch.testing.assert_close(x @ merged.T, x @ W4.T + alpha / r * (x @ A.T) @ B.T,
                               rtol=1e-4, atol=1e-4)
    rank = torch.linalg.matrix_rank(merged - W4, atol=1e-4).item()
print("rank of the change:", rank)
assert rank == r, "an adapter can change W by rank r at most"

# %% [markdown]
# ## 3. Where the memory goes
#
# Five parts: **base** weights, **adapters** with the head, their **gradients** (4 bytes each),
# the **optimizer** (AdamW keeps two more numbers per trained weight), and **activations**: what
# the forward pass keeps for the backward one.
#
# The first four are multiplication. Activations depend on every line of the model's code, so
# `bsr_lite.scale.estimate` does not guess: it runs the training step on *fake* tensors, which have
# shapes but no memory, and counts. Does that agree with the real model?

# %%
from bsr_lite.scale.estimate import estimate, measure

print("                        estimated  measured")
for name, changes in {"LoRA": ["model.quantization=null"], "QLoRA": [],
                      "QLoRA, checkpointing": ["model.gradient_checkpointing=true"]}.items():
    config = load_config(CONFIG.format("bt"), overrides=changes)
    expected, real = estimate(config)["activations"], measure(config)
    print(f"{name:22s} {expected / 1e6:7.0f} MB {real / 1e6:6.0f} MB")
    if not torch.cuda.is_available():  # a GPU's allocator rounds up: look, do not assert
        assert abs(expected / real - 1) < 0.02, "the estimate must hold within 2%"

# %% [markdown]
# *Measured* counts each tensor of a real step; a test compares it with torch's allocator. An
# operating system sees more: Python and its libraries, and on a CPU freed blocks that `malloc`
# keeps (`data/runs/LOG.md`).
#
# **Gradient checkpointing** keeps only what enters each layer and computes the rest again in the
# backward pass: a fraction of the memory for one more forward pass, a third more work in full
# fine-tuning, about half more over a frozen base.
#
# Now our model with all 30 layers and micro-batches of 2,000 tokens, and Llama-3.1-8B, which we
# need not download to know its shapes, with one pair of 2,048 tokens.

# %%
PARTS = {"base": "#BBBBBB", "adapters": "#CCBB44", "gradients": "#EE6677",
         "optimizer": "#AA3377", "activations": "#4477AA"}
WAYS = {"full": ["model.lora_rank=null", "model.quantization=null"],  # null: without it
        "LoRA": ["model.quantization=null"], "QLoRA": [],
        "QLoRA,\ncheckp.": ["model.gradient_checkpointing=true"]}
BIG = ["model.name=meta-llama/Llama-3.1-8B-Instruct", "data.max_length=2048", "token_budget=4096"]
bill = {}
for size, more in {"135M": [], "8B": BIG}.items():
    for way, changes in WAYS.items():
        config = load_config(CONFIG.format("bt"), overrides=["model.depth=null", *more, *changes])
        bill[size, way] = estimate(config)
        parts = "  ".join(f"{p} {bill[size, way][p] / 1e9:.2f}" for p in PARTS)
        name = f"{size:4s} {way.replace(chr(10), ' '):15s}"
        print(f"{name} {bill[size, way]['total'] / 1e9:6.2f} GB:  {parts}")

# %%
figure, axes = plots.panels(3)
some = list(WAYS)[1:]
for axis, size, ways in zip(axes, ("135M", "8B", "8B"), (WAYS, WAYS, some), strict=True):
    bottom = torch.zeros(len(ways))
    for part, tint in PARTS.items():
        gigabytes = torch.tensor([bill[size, way][part] / 1e9 for way in ways])
        axis.bar(list(ways), gigabytes, 0.6, bottom=bottom, color=tint, label=part)
        bottom += gigabytes
    plots.label(axis, "", "memory (GB)", size)
axes[2].axhline(24, color="black", linewidth=0.8, linestyle="--")
axes[2].set_title("8B again, and a 24 GB card")
axes[1].legend();

# %% [markdown]
# **What to see.** At 8B full fine-tuning needs four 32-bit numbers per weight before the first
# token. LoRA removes three and holds the fourth in 16 bits; NF4 takes 10 GB of the remaining 15.
# (Embeddings stay in 16 bits: $6.98 \cdot 10^9 \times 4.127 / 8$ bytes + 1.05 GB = 4.65 GB.) But
# **4 bits shrink weights, never activations**: on a 24 GB card QLoRA fits only with
# checkpointing. At 135M, with the activations of 2,000 tokens, 4 bits save 8%. Small models gain
# little; they serve here as a cheap way to see everything else that QLoRA does.

# %%
for size in ("135M", "8B"):
    lora, qlora = bill[size, "LoRA"], bill[size, "QLoRA"]
    assert 0.8 < qlora["activations"] / lora["activations"] < 1.05, "4 bits spare few activations"
    assert qlora["base"] < 0.6 * lora["base"], "they about halve the base, or better"
fits = {way: parts["total"] < 24e9 for (size, way), parts in bill.items() if size == "8B"}
assert list(fits.values()) == [False, False, False, True], "8B on 24 GB: both tricks are needed"

# %% [markdown]
# (Under full fine-tuning *activations* include 16-bit copies of the linear layers' weights, 14 GB
# at 8B.) A detail worth a gigabyte: PEFT, the library of adapters, usually casts embeddings to 32
# bits, 1.05 GB more at 8B, and with them the whole stream of activations. Here they stay in 16.
#
# ## 4. Train, live
#
# BT and BSR (Eq. 25, $\lambda = 10^{-3}$, one group a batch) with the same seed: same head, same
# adapters, same batches. 160 pairs, minutes on a laptop. *One seed and 10 steps: a demonstration.*

# %%
from bsr_lite.runlog import read_metrics
from bsr_lite.train_rm import train

RUNS = Path(tempfile.mkdtemp())


def run(loss):
    config = load_config(CONFIG.format(loss), overrides=[
        "data.max_pairs=160", "eval_every=5", "eval_groups=20", f"output_dir={RUNS / loss}"])
    with contextlib.redirect_stdout(io.StringIO()):
        model, _ = train(config)
    return model.eval(), read_metrics(RUNS / loss)


(bt, bt_log), (bsr, bsr_log) = run("bt"), run("bsr")

# %%
figure, axes = plots.panels(2)
for name, log in (("bt", bt_log), ("bsr", bsr_log)):
    for axis, key in zip(axes, ("train/reward_mean", "train/margin"), strict=True):
        axis.plot([row["step"] for row in log], [row[key] for row in log],
                  color=plots.COLORS[name], label=name.upper())
plots.label(axes[0], "optimizer step", "mean reward of the batch", "level")
plots.label(axes[1], "optimizer step", "mean margin of the batch", "margin, chosen - rejected")
axes[0].axhline(0, color="grey", linewidth=0.6)
axes[0].legend()
for name, log in (("BT", bt_log), ("BSR", bsr_log)):
    last = log[-1]
    print(f"{name:3s} dev tau {last['val/tau']:+.2f} ({last['val/low']:+.2f} to "
          f"{last['val/high']:+.2f}, 95% over {last['val/groups']} prompts)")

# %% [markdown]
# **What to see.** BSR brings the level near zero within a few steps, as in notebook 03; BT starts
# where the random head put it and drifts. Margins are noisy and alike.
# The dev intervals are .45 wide, from one seed and 20 prompts: which ranks better is open. (A fair
# comparison pairs seeds and prompts, as notebook 06 does.)
#
# ## 5. Save and reload
#
# Saved are the adapters, the head, the tokenizer, and a **model card** that says what a user must
# know. Not the base: it can be had again, and must then be held in the same 4 bits. (A *chat
# template* wraps prompt and answer in markers; an *end-of-turn token* closes each.)

# %%
folder = RUNS / "bsr" / "model"
size = sum(f.stat().st_size for f in folder.glob("adapter_model*"))
print(f"adapters and head: {size / 1e6:.1f} MB\n")
card = (folder / "README.md").read_text()
print("\n".join(line for line in card.split("## A raw score")[0].splitlines()
                if line.startswith("| ") and line != "| | |"))

# %%
from bsr_lite.eval_rm import score_answers

PROMPT = "Explain why the sky is blue. Answer in two sentences."
ANSWERS = ["Sunlight is scattered by the air, and blue light is scattered most. So blue light "
           "reaches our eyes from all over the sky.",
           "The sky is blue because it is blue. The sky is blue because it is blue. The sky is",
           "I like trains.", "Blue."]
rewards = score_answers(bsr, PROMPT, ANSWERS)
again = score_answers(load_reward_model(str(folder)), PROMPT, ANSWERS)
assert torch.equal(rewards, again), "the same adapters on the same 4-bit base: the same rewards"
print("reloaded: rewards are bitwise the same")

# %% [markdown]
# **Predict** what happens to these adapters on the *unquantized* base: better, as its weights are
# exact?

# %%
meta = json.loads((folder / "reward_model.json").read_text())
wrong = RUNS / "wrong_base"
wrong.mkdir()  # the same files; only the note on how the base was held changes
for file in folder.iterdir():
    (wrong / file.name).write_bytes(file.read_bytes())
(wrong / "reward_model.json").write_text(json.dumps(meta | {"quantization": None}))
other = score_answers(load_reward_model(str(wrong)), PROMPT, ANSWERS)
print("4-bit base", [round(x, 2) for x in rewards.tolist()])
print("16-bit base", [round(x, 2) for x in other.tolist()])
assert (other - rewards).abs().max() > 0.02, "another base is another model"

# %% [markdown]
# <details><summary>Answer</summary>
#
# Different, by up to 0.24, though in the same order here. Four answers cannot say which is better;
# but it is no longer the model that was trained and evaluated.
# </details>
#
# That is why `reward_model.json` remembers how the base was held.
#
# ## 6. Merge, and leave this library
#
# A merged model is one plain folder for `transformers`: no adapters, no 4 bits, no `bsr_lite`.
# Right is: *dequantize* the 4-bit base, add $\frac{\alpha}{r}BA$ in 32 bits, save. Merging into
# 4-bit weights would round the adapters away; merging into the original base is the mistake of
# Section 5.

# %%
from bsr_lite.scale.merge import merge_reward_model

merge_reward_model(folder, RUNS / "merged")
code = (RUNS / "merged" / "README.md").read_text().split("```python\n")[1].split("```")[0]
print(code)

# %% [markdown]
# That snippet is in the merged model's card. Run as it stands, it uses nothing of ours. (Our
# model stores adapters in 32 bits and computes in 16, the merged one computes in 32: hence the
# tolerance.)

# %%
snippet = code.replace("path/to/this/folder", str(RUNS / "merged"))
stranger: dict = {}
with quiet_loading(), contextlib.redirect_stdout(io.StringIO()):
    exec(snippet, stranger)  # its variables land in the dict
ours = score_answers(bsr, "What is 2 + 2?", ["4.", "5."])
torch.testing.assert_close(torch.tensor(stranger["rewards"]), ours, rtol=0, atol=0.1)
print(f"largest difference {(torch.tensor(stranger['rewards']) - ours).abs().max():.3f}")

# %% [markdown]
# Two traps that it steps around. Plain transformers reads the reward at the last token that is
# not *padding*; many chat templates put a newline after the end-of-turn token, and the reward
# would be read there. So the saved template ends in the end-of-turn token. And `pipeline`,
# transformers' one-line helper, would apply a sigmoid to a single label unless the config says
# `regression`; ours does.
#
# ## 7. Your own text

# %%
print(PROMPT)
for model, name in ((bt, "BT"), (bsr, "BSR")):
    for reward, answer in zip(score_answers(model, PROMPT, ANSWERS), ANSWERS, strict=True):
        print(f"{name:3s} {reward:+.2f}  {answer[:80]}")

# %% [markdown]
# Compare answers *to one prompt*; across prompts every reward carries an arbitrary $c(x)$
# (notebook 01). And do not expect wisdom of ten layers after 160 pairs.
#
# ## 8. How the field evaluates
#
# - **RewardBench**: pairs by subset; accuracy, a tie is wrong.
# - **RM-Bench**: three styles of a right and a wrong answer, concise, detailed, Markdown. The 3 x
#   3 accuracy matrix has chosen styles as rows: *hard* is the mean above the diagonal (a plain
#   right answer against a fancy wrong one), *normal* the diagonal, *easy* below it.
# - The paper's **four scenarios** (Sec. 2.2): accuracy in domain, Kendall's tau elsewhere.
#
# **Predict** the three for a model that prefers Markdown whatever it says, and tosses coins
# otherwise.

# %%
from bsr_lite.studies.leaderboards import rm_bench_scores

fancy = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [1.0, 1.0, 0.5]]).numpy()
domains = ("chat", "math", "code", "safety-refuse", "safety-response")
scores = rm_bench_scores(dict.fromkeys(domains, fancy))
print({k: round(scores[k], 3) for k in ("hard", "normal", "easy", "overall")})
assert scores["overall"] == 0.5, "a bias for style cancels in the overall score"

# %% [markdown]
# <details><summary>Answer</summary>
#
# Hard 1/6, normal 1/2, easy 5/6: the overall score does not see the bias, hard does.
# </details>
#
# In the paper's Table 2 (Llama-3.1-8B) BSR at $\lambda = 10^{-2}$ against BT moves *hard* from
# 47.8 to 55.7 and *easy* from 88.4 to 81.9, overall from 70.1 to 70.0. That looks like less bias
# for style rather than more skill; it is one table without intervals.
#
# `python -m bsr_lite.studies.evaluate` scores all of these formats (`--help`).

# %% [markdown]
# ## 9. Recorded: real judged answers
#
# AlpacaEval: answers of 25 models; gold is how strongly a GPT-4 judge prefers an answer to one
# fixed reference. QLoRA on answers of 16 models, six whole *families* held out
# (`data/runs/study_judged`: 316 pairs, 20 steps, three seeds, $\lambda = 10^{-3}$). In domain:
# accuracy over two answers; else tau within prompts; with half a 95% t interval over seeds.
# *Pooled*: tau over all prompts together, which sees $c(x)$.

# %%
from bsr_lite.metrics import seed_interval
from bsr_lite.studies.records import read_runs

judged = read_runs("data/runs/study_judged")
print(f"{'':18s} {'sets':>5s} {'BT':>18s} {'BSR - BT':>20s} {'BT pooled':>10s}")
for part in ("in_domain", "prompt_disjoint", "response_disjoint", "mutual_disjoint"):
    cells = {m: [run["evaluation"]["scenarios"][part] for run in judged[m]] for m in judged}
    b, s = (torch.tensor([c["score"] for c in cells[m]]) for m in ("bt", "bsr"))
    (mean, half), (gain, wide) = seed_interval(b), seed_interval(s - b)
    pooled = sum(c["pooled_tau"] for c in cells["bt"]) / len(b)
    print(f"{part:18s} {cells['bt'][0]['groups']:5d} {mean:8.3f} +- {half:.3f} "
          f"{gain:+11.3f} +- {wide:.3f} {pooled:10.3f}")

# %% [markdown]
# - It learns, and every difference BSR - BT is noise; it could have shown .02 to .06.
# - Unseen sources rank *better* than seen ones: the held-out families run from a 2.7B model to
#   GPT-4, so their answers are easier to tell apart. A gap between scenarios is not
#   over-optimization unless difficulty is held fixed.
# - Ranking answers **by their length alone** gives tau .28, .50 and .54 on the three disjoint
#   sets: as good as this reward model, or better. Always score a trivial rule beside your model.
# - Pooled tau is near zero: across prompts nothing was learned, as BT cannot see it.

# %% [markdown]
# ## Exercises
#
# Each stub returns `None`; its checker then says "not attempted yet". Solutions are in
# `notebooks/solutions/`. All but the first are traps that someone fell into.
#
# **1.** Bits a weight for blocks of `block` weights with a 32-bit absmax; with `nested` an 8-bit
# one, and a 32-bit scale per 256 absmax.

# %%
def bits_per_weight(block, nested):
    return None


checks.check_bits_per_weight(bits_per_weight);

# %% [markdown]
# **2.** *The reward is read at the wrong token.* Pick every row's last real hidden state, from the
# attention mask alone (1 real token, 0 padding), whichever side is padded. Shapes (B, T, H) and
# (B, T) in, (B, H) out.

# %%
def pool_last(hidden, attention_mask):
    return None


checks.check_pool_last(pool_last);

# %% [markdown]
# **3.** *The head is not trained, or not in 32 bits, or an adapter sits on it.* Given
# `(name, dtype, requires_grad)` of every parameter, is the head (names with `score`) safe: one of
# them is trained, every trained one is `torch.float32`, and none is an adapter (PEFT puts `lora_`
# in those names)? A frozen `score.original_module.weight` does not matter.

# %%
def head_is_safe(parameters):
    return None


checks.check_head_is_safe(head_is_safe);

# %% [markdown]
# **4.** *A 16-bit head makes ties.* How many pairs i < j of these rewards, different in 32 bits,
# become equal in bfloat16? Shape (N,) in, one number out.

# %%
def new_ties(rewards):
    return None


checks.check_new_ties(new_ties);

# %% [markdown]
# **5.** The weight that gives the adapted model's outputs: from codes (blocks, 64), absmax
# (blocks, 1), the 16 levels, A (r, n), B (m, r) and alpha. Shape (m, n) out.

# %%
def merged_weight(codes, absmax, levels, A, B, alpha):
    return None


checks.check_merged_weight(merged_weight);

# %% [markdown]
# ## What you know now
#
# - NF4: normal quantiles, an absmax per block, 4.127 bits with double quantization.
# - LoRA: a change of rank $r$ that starts at zero; merging adds it to the *dequantized* base.
# - Memory: weights, adapters, gradients, optimizer, activations. 4 bits shrink the first alone,
#   checkpointing the last.
# - A reward model is its adapters *and* how its base was held *and* its chat template.
# - Benchmarks disagree on purpose: hard against easy shows a bias that overall hides.
#
# Next: **06 · Can you trust a comparison of two reward models?**
