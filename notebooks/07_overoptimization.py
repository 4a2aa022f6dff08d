# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 07 · Which of the paper's claims about over-optimization hold here?
#
# A reward model of ours reaches tau .35 on answers of *known sources*: models whose answers it was
# trained on. On answers of *new sources* it reaches .26. Is it over-optimized? **Compared with
# what?** A lower score says something only beside a control.
#
# Two things go by the name of **over-optimization**.
#
# - A reward model **overfits** when its score on training data rises, or stays at its ceiling,
#   while its score on new data falls.
# - A reward is **exploited** when something that optimizes against it gains reward and *loses*
#   quality.

# %% [markdown]
# The paper speaks of the first: reward models trained with Bradley-Terry (BT) overfit because
# hidden norms disperse, and batch-wise sum-to-zero regularization (BSR, Eq. 25) counters it.

# %% [markdown]
# Words from before: *tau*, the *pocket world* (notebook 01), *paired*, *excludes zero* (06). Three
# more:
#
# - A claim is **open** when its interval holds zero: neither shown nor refuted.
# - **Gold** is the preference that decides what is right, in the pocket world a formula.
# - A **proxy** is a reward that stands in for gold. A **policy** is what writes answers.

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
import dataclasses
import math

import numpy as np
import pandas as pd
import torch

from bsr_lite import metrics, plots
from bsr_lite.config import load_config
from bsr_lite.course import checks_policy as checks
from bsr_lite.data import read_groups
from bsr_lite.scenarios import load_scenarios, prompt_key, sets_of
from bsr_lite.studies import records, statistics, worlds
from bsr_lite.studies.best_of_n import noisy_gold
from bsr_lite.studies.records import read_runs, read_table, watched

# %% [markdown]
# ## 1. Four ways to be new
#
# A training pair is a prompt with two responses. Each was written by some *source*: a model, or a
# model under a system prompt. New data can be new in its prompts, its sources, or both (Sec. 2.2):
#
# | | known sources | new sources |
# |---|---|---|
# | **training prompts** | in-domain | response-disjoint |
# | **new prompts** | prompt-disjoint | mutual-disjoint |
#
# *In-domain* are two answers of a training prompt that training left out, scored by accuracy. The
# other sets have four answers to a prompt. They are scored by tau, averaged over prompts. *Known*
# and *new sources* below mean both sets of their column.

# %% [markdown]
# **Predict**: which two of the four sets have, in the pocket world, the very same prompts, so that
# their scores can be paired?

# %%
base = load_config("bsr_lite/configs/rm_fast.yaml")
groups = read_groups(base.data.source)
NEW = base.data.valid_models
sources = sorted({m for g in groups for m in g.models} - set(NEW)) + NEW
ROLES = {("train", False): "train", ("train", True): "response_disjoint",
         ("valid", False): "prompt_disjoint", ("valid", True): "mutual_disjoint"}
base.data.max_pairs = len(groups)  # all of them
left_out = {prompt_key(g.prompt): g.models for g in load_scenarios(base).in_domain}
groups.sort(key=lambda g: (("train", "valid", "dev").index(g.split), -len(g.models)))
groups = [g for g in groups if g.split != "train" or prompt_key(g.prompt) in left_out]  # no tie
groups = groups[::16]
SHADES = plots.SCENARIO_COLORS | {"train": "#99CCFF", "dev": "#cccccc"}  # train: not near in-domain
picture = np.ones((len(groups), len(sources), 3))
for row, g in zip(picture, groups, strict=True):
    for model in g.models:
        role = ROLES.get((g.split, model in NEW))
        if role == "train" and model in left_out.get(prompt_key(g.prompt), ()):
            role = "in_domain"
        row[sources.index(model)] = plots.to_rgb(SHADES[role or "dev"])

# %%
# drawing only
figure, axis = plots.panels(1)
axis.imshow(picture, aspect="auto", interpolation="nearest")
axis.set_xticks(range(len(sources)), sources, rotation=30, ha="right")
axis.grid(visible=False)
edge = len(sources) - len(NEW) - 0.5  # known to the left, new to the right
axis.axvline(edge, color="black", linewidth=3)
top = axis.secondary_xaxis("top")
middles = (edge - 0.5) / 2, (edge + len(sources) - 0.5) / 2
top.set_xticks(middles, ("known sources", "new sources"))
top.tick_params(length=0)
for role in ("train", "in_domain", *list(ROLES.values())[1:]):
    axis.plot([], [], "s", color=SHADES[role], label=role.replace("_", "-"))
axis.plot([], [], "s", color=SHADES["dev"], label="dev: every choice is made here")
axis.plot([], [], "s", color="white", markeredgecolor="#888888", label="no answer drawn")
named = {"train": "training\nprompts", "valid": "new\nprompts", "dev": "dev"}
axis.set_yticks([np.mean([i for i, g in enumerate(groups) if g.split == part]) for part in named],
                named.values())
plots.label(axis, "source of the response", "every 16th prompt",
            "New is a matter of row, of column, or of both")
axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8);

# %% [markdown]
# **What to see.** Every prompt has four known sources, drawn at random. The four new sources
# answer a third of the training prompts and all other prompts.
#
# <details><summary>Answer</summary>
#
# Prompt- and mutual-disjoint.
# </details>

# %% [markdown]
# ## 2. Where BT falls, does BSR fall less?
#
# First a place where BT does fall: notebook 06's small world (*helps* of 04, with 300 pairs, 64
# epochs). Of 40 coordinates 10 decide gold, the rest are nuisance. Of the labels .17 are *false*:
# against gold.
#
# **The control** is the same training with *clean* labels, gold's own. *False minus clean* is the
# difference that false labels make.
#
# By epoch 8 BT orders .99 of the training pairs as labelled. With clean labels it orders them all
# (`data/runs/worlds`). So we look at the change from there to epoch 64. *Train* is scored by the
# labels as given, all else by gold.

# %%
PARTS = ["in_domain", "prompt_disjoint", "response_disjoint", "mutual_disjoint"]
SEEDS = 16  # each has its own states, labels and network
LABELS = {"false": worlds.WORLDS["64 epochs"], "clean": worlds.WORLDS["64 epochs, clean labels"]}
STEPS, EPOCHS = range(75, 601, 75), range(8, 65, 8)  # from epoch 8 on


def trained(world, objective):  # scores of train and the four sets, (5, looks, seeds)
    looks = worlds.train(world, {"": worlds.OBJECTIVES[objective]}, SEEDS)
    return np.stack([[looks[step][part][:, 0] for step in STEPS] for part in ["train", *PARTS]])


small = {objective: {labels: trained(world, objective) for labels, world in LABELS.items()}
         for objective in ("bt", "bsr-1e-3", "bsr-1e-2")}
noisy, control = (worlds.draw(world, SEEDS)[0] for world in LABELS.values())
print(f"false labels: {(noisy != control).flatten(2).any(-1).float().mean():.2f} of the pairs")

# %%
def shown(values, interval=metrics.seed_interval):  # in the tables
    mean, half = interval(values)
    return f"{round(mean, 3) + 0.0:+.3f} ± {half:.3f}"  # no -0.000


def since(scores):  # (1 + sets, looks, seeds) -> (1 + sets, seeds)
    return scores[:, -1] - scores[:, 0]


UNITS = {part: f"{part} (accuracy)" for part in ("train", "in_domain")}


def table(columns, parts):  # columns: by name, (1 + sets, seeds)
    rows = [["train", *PARTS].index(part) for part in parts]
    found = {name: [shown(v) for v in values[rows]] for name, values in columns.items()}
    return pd.DataFrame(found, [UNITS.get(part, part) for part in parts])


def changes(scores):
    false, clean = (since(scores[labels]) for labels in LABELS)
    return {"false": false, "clean": clean, "false minus clean": false - clean}

# %%
table(changes(small["bt"]), ["train", *PARTS]).rename_axis("BT, change")

# %% [markdown]
# BT overfits: *train* rises while known sources fall. With clean labels they are not seen to fall,
# and false minus clean excludes zero. So false labels are why.
#
# On new sources no fall is seen. That is no acquittal: with clean labels they rise by .06.

# %% [markdown]
# The paper suspects dispersion. It is there: the spread of $\lVert h\rVert$ over its mean grows
# from .21 to .42 (`data/runs/worlds`). But with clean labels it grows, too, from .24 to .44.
#
# So take it away. With a final RMSNorm all $h$ have one length.
#
# **Predict**: do known sources still fall?

# %%
one_length = {labels: trained(dataclasses.replace(world, norm=True), "bt")
              for labels, world in LABELS.items()}
table(changes(one_length), ["train", *PARTS[:2]]).rename_axis("BT, RMSNorm")

# %% [markdown]
# <details><summary>Answer</summary>
#
# They fall, prompt-disjoint by .064. So a fall needs no dispersion. False minus clean is -.044 with
# the norm and -.043 without: false labels do their harm here, too.
#
# With clean labels it falls by .020. There no label is false, so with a final norm something else
# does harm as well. We have not looked for it.
# </details>

# %% [markdown]
# Now BSR with false labels, at the paper's $\lambda = 10^{-3}$ and at $10^{-2}$, where it gained in
# *helps* (04).
#
# **Predict**: where BT falls, in-domain and on prompt-disjoint, does BSR fall less?

# %%
def draw(axis, name, scores, tint, line, band):  # a mean, named; band: 95% over seeds
    mean, half = np.array([metrics.seed_interval(values) for values in scores]).T
    axis.plot(EPOCHS, mean, line, color=tint)
    if band:
        axis.fill_between(EPOCHS, mean - half, mean + half, color=tint, alpha=0.15, linewidth=0)
    axis.annotate(name, (66, mean[-1]), color=tint, fontsize=9, va="center")

# %%
# drawing only
figure, axes = plots.panels(2, sharey=True)
fell = {objective: scores["false"][1 + PARTS.index("prompt_disjoint")]
        for objective, scores in small.items()}
fell = {objective: tau - tau[0] for objective, tau in fell.items()}
draw(axes[0], "BT", fell["bt"], plots.COLORS["bt"], "-", False)
for objective, line in (("bsr-1e-3", "--"), ("bsr-1e-2", "-")):
    name, tint = objective.replace("bsr-", "BSR "), plots.COLORS["bsr"]
    draw(axes[0], name, fell[objective], tint, line, False)
    draw(axes[1], name, fell[objective] - fell["bt"], tint, line, True)
titles = {"each method's own change": "epoch",
          "BSR's change minus BT's": "epoch (band: 95% over seeds)"}
for axis, (title, unit) in zip(axes, titles.items(), strict=True):
    axis.plot((8, 64), (0, 0), color="black", linewidth=0.8)
    axis.set(xlim=(6, 85), xticks=range(8, 65, 8))  # room for the names
    plots.label(axis, unit, "", title)
axes[0].set_ylabel("tau minus that at epoch 8")
figure.suptitle("On prompt-disjoint, where BT falls, BSR falls further");

# %% [markdown]
# **What to see.** Both methods fall (left). The difference of the two (right) ends below zero at
# both $\lambda$. Next, all four sets: the changes, then where they end.

# %%
def compared(take):  # BT, and how far BSR is above it
    own = {objective: take(scores["false"]) for objective, scores in small.items()}
    return {"BT": own["bt"]} | {f"BSR {weight} minus BT": own[f"bsr-{weight}"] - own["bt"]
                                for weight in ("1e-3", "1e-2")}


pd.concat({"change since epoch 8": table(compared(since), PARTS),
           "score at epoch 64": table(compared(lambda scores: scores[:, -1]), PARTS)})

# %% [markdown]
# <details><summary>Answer</summary>
#
# No. On prompt-disjoint BSR falls further than BT: by .009 at $10^{-3}$, by .018 at $10^{-2}$.
# In-domain it falls further at $10^{-2}$. At $10^{-3}$ that is open.
# </details>

# %%
bt, clean = small["bt"]["false"], small["bt"]["clean"]
up, _ = metrics.seed_interval(since(bt)[0])
down, half = metrics.seed_interval(since(bt)[2])
assert up > 0 > down + half, "overfitting: what was seen goes up while prompt-disjoint falls"

# %% [markdown]
# So BSR does not stop the fall. On new sources, where no fall of BT is seen, it ends *ahead* of BT:
# on mutual-disjoint by .018 ± .010 at $10^{-3}$. When did that lead come? At $10^{-2}$
# it is not seen to grow after epoch 8 (upper half). At $10^{-3}$ only mutual-disjoint's is, by .012
# ± .009. Are false labels why there is a lead? That is Exercise 4.

# %% [markdown]
# And the language model? *Lora* (LoRA on 10 layers, 900 pairs, four seeds) scored 32 prompts of
# every set on the way. Here is the second half of its one epoch.

# %%
RUNS = Path("runs" if PROFILE == "full" else "data/runs")
STUDIES = ("study_lora", "study_norms", "study_judged")
if PROFILE == "full":  # trains what "fast" reads; finished runs are read back
    from bsr_lite.studies.best_of_n import run_best_of_n
    from bsr_lite.studies.reward_models import run_study
    for study in STUDIES:  # the data of study_judged is not in this repository
        run_study(Path(f"bsr_lite/configs/{study}.yaml"), resume=study == "study_judged")
    run_best_of_n(Path("bsr_lite/configs/best_of_n.yaml"))

# %%
runs = read_runs(RUNS / "study_lora")
steps = watched(runs["bt"], "train", "score")[0]
looks = [steps.index(step) for step in (28, 57)]
scores = np.array([np.array(watched(runs["bt"], part, "score")[1]).T[looks]
                   for part in ["train", *PARTS]])
table({"BT, step 28 to 57": since(scores)}, ["train", *PARTS])

# %% [markdown]
# No fall is seen. But each pair was seen only *once*, and an interval of ± .047 would not show the
# small world's fall, .018.
#
# A *head alone*, on the model's frozen states, did fall: after 32 epochs its tau was .02 to .06
# lower than after 4. With BSR it ended lower still. This retired record (*frozen_long*,
# `data/runs/LOG.md`) has no clean-label control, and no interval for the fall.

# %% [markdown]
# ## 3. Does BSR rank better? The paper's table beside ours
#
# The paper's Table 5 gives tau of BT and of BSR ($\lambda = 10^{-3}$) for four models. Six studies
# of ours have this $\lambda$. Four train LoRA on 10 layers. *Norms* trains all weights of 30
# layers. *Judged* trains QLoRA on real answers that a GPT-4 judge ranked. All but *judged* draw
# from the same prompts, so these are not six independent looks.
#
# **Predict**: of eighteen intervals (six studies, three sets), how many exclude zero, and on which
# side?

# %%
PAPER = {"Llama-3.2-1B": (0.0041, 0.0131, 0.0141), "Llama-3.2-3B": (0.0230, 0.0207, 0.0216),
         "Qwen2.5-1.5B": (0.0014, 0.0017, 0.0007), "Qwen2.5-3B": (0.0152, 0.0074, 0.0236)}
studies = {name.removeprefix("study_"): read_table(RUNS / name) for name in STUDIES}
studies |= {name: read_table(f"data/runs/study_{name}") for name in ("lambda", "pocket", "terms")}
SAME = {"lora": "bsr", "pocket": "bsr", "terms": "bsr-1e-3", "lambda": "bsr-1e-3", "norms": "bsr",
        "judged": "bsr"}
ours = pd.DataFrame([(study, part, *studies[study][method][part]["difference"])  # all at 1e-3
                     for study, method in SAME.items() for part in PARTS[1:]],
                    columns=["study", "set", "mean", "low", "high"])
names, out = list(SAME), ours[ours.low * ours.high > 0]
inside = [row.low < gain[PARTS.index(row.set) - 1] < row.high  # is the paper's gain in ours?
          for row in ours.itertuples() for gain in PAPER.values()]

# %%
print(f"{len(ours) - len(out)} hold zero; not:\n", out.round(3).to_string(index=False))
print(f"of the paper's gains {sum(inside)} of {len(inside)} lie in our interval")

# %%
figure, axes = plots.panels(3, sharex=True, sharey=True)
for row in ours.itertuples():
    axis, place = axes[PARTS.index(row.set) - 1], names.index(row.study)
    tint = "black" if row.high < 0 else plots.COLORS["bsr"]
    axis.plot((row.low, row.high), (place, place), color=tint, linewidth=2)
    axis.plot(row.mean, place, "o", color=tint)
    if row.high < 0:  # the cost
        axis.annotate(f"to {row.high:.3f}", (0.005, place), fontsize=8, va="center")
    if row.high > 0.1:  # cut: else it would set the scale
        axis.plot(0.1, place, ">", color=tint)
for index, (axis, part) in enumerate(zip(axes, PARTS[1:], strict=True)):
    axis.plot([gains[index] for gains in PAPER.values()], range(6, 10), "X", color="#888888")
    axis.axvline(0, color="black", linewidth=0.8)
    axis.axhline(5.5, color="#888888", linewidth=0.8)
    axis.grid(visible=False, axis="y")
    plots.label(axis, "tau of BSR minus BT's", "", part.replace("_", "-"))
axes[0].set(xlim=(-0.095, 0.105), ylim=(9.6, -0.6))
axes[0].set_yticks(range(10), [*names, *PAPER])
axes[0].annotate("the paper's:\nno intervals", (-0.09, 7.5), color="#666666", va="center")
figure.supxlabel("ours: 95% over seeds and topics (judged: prompts); arrow: to "
                 f"{ours.high.max():.3f}", size=8)
figure.suptitle(f"No gain of BSR is shown: {len(ours) - len(out)} of {len(ours)} intervals hold "
                f"zero, {len(out)} is a cost (black)");

# %% [markdown]
# **What to see.** The paper's gains are small, all below .025.
#
# <details><summary>Answer</summary>
#
# One, a cost: *lambda*, mutual-disjoint. Of eighteen, chance alone would give .9. So alone it
# convicts nobody (06, Section 5).
#
# No gain is shown. Nor are most of the paper's excluded: 53 of 72 lie inside our intervals. With
# other models and data that is no refutation.
#
# Left out are *fast* (two seeds) and a head alone (*frozen*, *frozen_long*). With a head alone BSR
# costs .002 to .007, and five of six intervals exclude zero (`data/runs/LOG.md`).
# </details>

# %% [markdown]
# ## 4. New sources score lower: is that overfitting?
#
# In the paper's Table 5 tau is lower on new sources. A **gap**, below, is tau on new sources minus
# tau on prompt-disjoint. Is it the model's fault, or are the sets different?
#
# In *lora* mutual-disjoint has the very prompts of prompt-disjoint: only the sources change.
# Response-disjoint has other prompts, too, of other topics.
#
# So score a rule that saw no pair, the number of **characters**. Fewer is better in the pocket
# world, more in *judged*. (The sign was chosen on dev, in *judged* on these prompts.)
#
# **Predict**: in *lora* and in *judged*, does the rule's gap have BT's sign?

# %%
def fewer_characters(sets):
    lengths = np.array([[len(text) for text in group.responses] for group in sets])
    return metrics.agreement(-lengths, np.array([group.gold for group in sets]))[1]  # (prompts,)


config = load_config("bsr_lite/configs/rm_fast.yaml", overrides=["data.max_pairs=900"])  # lora's
texts = load_scenarios(config)
on_dev = fewer_characters(sets_of(texts, "dev_prompt_disjoint")).mean()
print(f"tau of fewer characters on dev: {on_dev:+.3f}")

# %%
rule, asked, topics = {}, {}, {}  # of a set: the rule's tau on each prompt; prompts; topics
for part in PARTS[1:]:
    same = runs["bt"][0]["evaluation"]["scenarios"][part]["gold"]
    sets = records.drawn(sets_of(texts, part), len(same), config.data.seed)
    assert np.allclose([group.gold for group in sets], same, atol=1e-3), "BT's own sets"
    rule[part] = fewer_characters(sets)
    asked[part] = [group.prompt for group in sets]
    topics[part] = records.topics(config, sets)
assert asked["mutual_disjoint"] == asked["prompt_disjoint"], "only the sources change"
assert not set(topics["response_disjoint"]) & set(topics["prompt_disjoint"]), "other topics"

# %%
def between(known, new, same_prompts=False):
    """Mean on new minus mean on known, and the half width of its interval over prompts: paired,
    where both are scores of the same prompts."""
    parts = [np.subtract(new, known)] if same_prompts else [np.asarray(known), np.asarray(new)]
    half = 1.96 * math.sqrt(sum(x.var(ddof=1) / len(x) for x in parts))
    return np.mean(new) - np.mean(known), half

# %%
def gaps(study, part):
    """BT's gap by seed, its half width over prompts; the rule's tau on known and on new sources."""
    known, new = (studies[study]["bt"][name] for name in ("prompt_disjoint", part))
    scenarios = [run["evaluation"]["scenarios"] for run in read_runs(RUNS / f"study_{study}")["bt"]]
    by_prompt = [np.mean([s[name]["per_prompt"] for s in scenarios], 0)
                 for name in ("prompt_disjoint", part)]
    half = between(*by_prompt, same_prompts=(study, part) == ("lora", "mutual_disjoint"))[1]
    sign = np.sign(known["length_score"])
    return (np.subtract(new["seeds"], known["seeds"]), half,
            sign * known["length_score"], sign * new["length_score"])

# %%
found = {(study, part): gaps(study, part) for study in ("lora", "judged") for part in PARTS[2:]}
ruled = {("lora", part): between(rule["prompt_disjoint"], rule[part], part == "mutual_disjoint")[1]
         for part in PARTS[2:]}  # half widths; judged's rule has but one number a set

# %%
figure, axes = plots.panels(2, sharey=True)
for (study, part), (dots, half, before, after) in found.items():
    axis, place = axes[("lora", "judged").index(study)], PARTS.index(part) - 2
    beside = place - 0.1 + np.linspace(-0.03, 0.03, len(dots))  # no two seeds in one place
    axis.plot(beside, dots, ".", color=plots.COLORS["bt"])
    axis.errorbar(place, dots.mean(), half, fmt="o", capsize=3, color=plots.COLORS["bt"])
    own = ruled.get((study, part))
    axis.errorbar(place + 0.15, after - before, own, fmt="kD", capsize=3,
                  markerfacecolor="black" if own else "white")
    plots.label(axis, "", "", study)
for axis in axes:
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set_xticks((0, 1), ("response-disjoint", "mutual-disjoint"))
    axis.set_xlim(-0.5, 1.5)
axes[0].annotate("BT (a small\ndot a seed)", (-0.45, 0.03), color=plots.COLORS["bt"], fontsize=9)
axes[0].annotate("rule: no pair seen", (0.2, -0.22), fontsize=9)
axes[1].annotate("rule (hollow: no\ninterval recorded)", (0.22, 0.225), fontsize=9, va="center")
axes[0].set_ylabel("tau minus that on prompt-disjoint")
figure.supxlabel("bar: 95% over prompts, for these seeds", fontsize=8)
figure.suptitle("The mean gap of an untrained rule has BT's sign in all four");

# %%
assert all(dots.mean() * (after - before) > 0 for dots, _, before, after in found.values()), \
    "the mean gap of a rule that learned nothing has the sign of BT's"
pd.DataFrame({key: {
    "BT's tau, known to new": "{:.3f} to {:.3f}".format(
        *(studies[key[0]]["bt"][part]["mean"] for part in ("prompt_disjoint", key[1]))),
    "the rule's tau": f"{before:.3f} to {after:.3f}"}
    for key, (_, _, before, after) in found.items()}).transpose()

# %% [markdown]
# <details><summary>Answer</summary>
#
# In both, judged by the means. In *judged* BT and the rule both rise on new sources, in *lora* both
# fall. On *lora*'s mutual-disjoint, where sources alone change, either gap is open.
# </details>

# %% [markdown]
# Does the rule acquit BT, then? **Would this test convict anybody?** Go back to Section 2's world.
# Its 30 nuisance coordinates are nearly equal among known sources' answers to a prompt, and
# different among new ones'. Take two rules there: *one signal coordinate*, and the *plain sum of
# all 40*.
#
# **Predict**: beside which does BT look guilty (it loses more than the rule)? And will BT trained
# on *clean* labels look innocent?

# %%
answers, true = worlds.draw(LABELS["false"], SEEDS)[1], worlds.gold_direction()


def rule_gap(weights):  # (seeds,)
    known, new = ([metrics.agreement((x @ weights).numpy(), (x @ true).numpy())[1].mean()
                   for x in answers[part]] for part in ("prompt_disjoint", "mutual_disjoint"))
    return np.subtract(new, known)

# %%
def gap(scores):  # (1 + sets, looks, seeds) -> (seeds,), at epoch 64; 0 is train
    known, new = (1 + PARTS.index(part) for part in ("prompt_disjoint", "mutual_disjoint"))
    return scores[new, -1] - scores[known, -1]


guilty, innocent = gap(bt), gap(clean)
rules = {"one signal coordinate": rule_gap(torch.eye(len(true))[0]),
         "plain sum of all 40": rule_gap(torch.ones(len(true)))}
for name, own in rules.items():
    print(f"BT's gap at 64, minus that of {name}: {shown(guilty - own)}, "
          f"clean labels {shown(innocent - own)}")

# %%
one, alike = rules
four = {f"rule: {one}": rules[one], "BT, clean labels": innocent, "BT, false labels": guilty,
        f"rule: {alike}": rules[alike]}
figure, axis = plots.panels(1)
axis.plot(range(4), np.stack(list(four.values())), color="#bbbbbb", linewidth=0.6)
for place, (name, values) in enumerate(four.items()):
    mean, half = metrics.seed_interval(values)
    axis.errorbar(place, mean, half, fmt="o", capsize=3,
                  color=plots.COLORS["bt"] if name.startswith("BT") else "black")
axis.plot((1, 1, 2, 2), (-0.065, -0.05, -0.05, -0.065), color=plots.COLORS["bt"])  # a bracket
axis.annotate(f"false labels' part: {shown(guilty - innocent)}", (1.5, -0.045), ha="center",
              va="bottom", color=plots.COLORS["bt"])
arrow = {"arrowstyle": "->", "shrinkB": 6}
axis.annotate("beside this rule\nBT loses more: guilty", (0, rules[one].mean()), (-0.1, -0.3),
              arrowprops=arrow)
axis.annotate("beside this one\nit loses less: innocent", (3, rules[alike].mean()), (3, -0.2),
              ha="center", arrowprops=arrow)
axis.axhline(0, color="black", linewidth=0.8)
axis.set_xticks(range(4), list(four))
plots.label(axis, "a grey line: one seed", "tau, mutual- minus prompt-disjoint",
            "One rule convicts BT, the other acquits it")
assert sum(metrics.seed_interval(guilty - innocent)) < 0, "false labels widen the gap"

# %% [markdown]
# <details><summary>Answer</summary>
#
# The first convicts: BT loses .155 ± .024 more. The second acquits: BT loses .301 ± .026 *less*.
# *The verdict depends on the rule.* Even clean BT looks guilty beside the first: it loses .114 ±
# .021 more.
# </details>
#
# So train the same model without the suspected cause. *False labels* widen the gap by .041 ± .014:
# about a quarter of it. The rest is there with clean labels, too.

# %% [markdown]
# ## 5. Exploitation: best-of-n
#
# Does gold fall when BT's reward is optimized? The plainest way: draw $n$ answers, keep the one
# the proxy likes best.
#
# With $N = 64$ answers to a prompt on record, average over *all* $\binom{N}{n}$ draws of $n$. Sort
# them by the proxy. Let $v_{(i)}$ be the value of the answer with $i$ others below it, $i = 0,
# \dots, N-1$. It wins when the other $n-1$ of its draw come from those $i$:
#
# $$\widehat{E}_n = \sum_{i} \frac{\binom{i}{n-1}}{\binom{N}{n}}\; v_{(i)}.$$
#
# It estimates the mean value of what best-of-$n$ keeps. A value may be gold or the proxy itself.

# %%
def best_of_n(proxy, values, n):
    ranked = np.asarray(values)[np.argsort(proxy)]
    total = math.comb(len(ranked), n)
    return sum(math.comb(i, n - 1) / total * v for i, v in enumerate(ranked))

# %%
rng = np.random.default_rng(0)
proxy, value = rng.normal(size=(2, 16))
drawn = [value[max(rng.choice(16, 4, replace=False), key=proxy.__getitem__)] for _ in range(20_000)]
exact = best_of_n(proxy, value, 4)
print(f"20,000 draws of 4: {np.mean(drawn):.3f}, by the formula {exact:.3f}")
assert abs(np.mean(drawn) - exact) < 0.02, "the average over all draws is what drawing estimates"
assert math.isclose(exact, statistics.best_of_n(proxy, value, 4)), "ties aside the library agrees"
assert math.isclose(best_of_n(proxy, value, 1), value.mean()), "the best of one is any answer"

# %% [markdown]
# Recorded (`data/runs/best_of_n`) are 64 answers of the embedded model to each of 112 new prompts,
# scored by gold and by *lora*'s reward models. Beside them stand two more proxies:
#
# - *fewest words*;
# - *heavy tails*: gold plus noise with rare huge errors (Student's t, two degrees of freedom).
#
# The table adds *normal noise*, which correlates with gold as weakly as *heavy tails*.
#
# **Predict**: which of these curves of gold turn down, if any?

# %%
picks, kept = read_table(RUNS / "best_of_n"), np.load(RUNS / "best_of_n/scores.npz")
gold, sizes = kept["gold"], picks["n"]  # (112, 64)
NAMES = {"bt": "BT", "heavy-tailed noise": "heavy tails", "words": "fewest words"}
proxies = {"bt": [kept[f"bt-seed{seed}"] for seed in range(4)], "words": [-kept["words"] * 1.0]}
agreed = np.mean([statistics.within_correlation(proxy, gold) for proxy in proxies["bt"]])
heavy = noisy_gold(gold, agreed, 4)["heavy-tailed noise"]  # as recorded
weak = np.mean([statistics.within_correlation(proxy, gold) for proxy in heavy])
proxies |= {"heavy-tailed noise": heavy, "twin": noisy_gold(gold, weak, 4)["normal noise"]}


def gained(proxy, values):  # the pick's gain on a pick at random, (of n, prompts)
    return np.array([statistics.best_of_n(proxy, values, n) for n in sizes]) - values.mean(1)


def promised(proxy):  # its own gain, drawn with gold's spread within a prompt
    return (gained(proxy, proxy).mean(1) / statistics.within_sd(proxy)) * statistics.within_sd(gold)


gains = {name: np.array([gained(proxy, gold) for proxy in proxies[name]]) for name in proxies}
promises = {name: np.mean([promised(proxy) for proxy in proxies[name]], 0) for name in NAMES}
for name in ("bt", "heavy-tailed noise"):
    recorded = np.array(picks["methods"][name]["seeds"]) - gold.mean()
    assert np.allclose(gains[name].mean(2), recorded, atol=1e-4), "as recorded"

# %%
def both(values):  # (proxies, prompts): mean, 95% half width over both; over prompts, if one proxy
    if len(values) == 1:
        return metrics.seed_interval(values[0])
    mean, _, high, _ = statistics.two_way_interval(values)
    return mean, high - mean

# %%
figure, axes = plots.panels(3, sharey=True)
for axis, (name, text) in zip(axes, NAMES.items(), strict=True):
    tint = {"bt": plots.COLORS["bt"], "words": "black"}.get(name, "#994455")
    mean, half = np.array([both(gains[name][:, i]) for i in range(len(sizes))]).T
    axis.plot(sizes, promises[name], "--", color=tint, linewidth=1)
    axis.plot(sizes, mean, "o-", color=tint, markersize=3)
    axis.fill_between(sizes, mean - half, mean + half, color=tint, alpha=0.2, linewidth=0)
    for word, values in (("proxy,\nrescaled", promises[name]), ("gold", mean)):
        axis.annotate(word, (64, values[-1]), (4, 0), textcoords="offset points", color=tint,
                      fontsize=8, va="center")
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set_xscale("log", base=2)
    axis.set_xlim(0.9, 170)  # room for the words
    axis.set_xticks(sizes, sizes)
    band = "prompts; it has no seeds" if name == "words" else "seeds and prompts"
    plots.label(axis, f"n (band: {band})", "", text)
axes[0].set_ylabel("gain (gold's scale: 0 to 5)")
axes[0].set_ylim(top=1.9)
figure.suptitle("Gold turns down under heavy tails and fewest words, not under BT up to n = 64");

# %%
rows = {text: [f"{np.mean([statistics.within_correlation(p, gold) for p in proxies[name]]):.2f}"]
        + [shown(gains[name][:, 6] - gains[name][:, other], both) for other in (0, 4)]
        for name, text in (NAMES | {"twin": "normal noise"}).items()}  # places in sizes
mean, _, high, _ = picks["methods"]["bsr"]["difference"][6]
rows["BSR minus BT"] = ["", f"{round(mean, 3) + 0.0:+.3f} ± {high - mean:.3f}", ""]
peak = {name: values.mean((0, 2)).argmax() for name, values in gains.items()}
assert peak["bt"] == peak["twin"] == 6 > max(peak["words"], peak["heavy-tailed noise"]), "turns"
heads = ["correlation with gold", "gold's gain at n = 64", "from n = 16 to 64"]
pd.DataFrame(rows, index=heads).transpose()  # gain on a pick at random, points of gold

# %% [markdown]
# **What to see.** The proxy (dashed, rescaled to gold's spread within a prompt) rises *by
# construction*. A gap between the lines is not yet exploitation: BT correlates with gold by .64, so
# gold should gain about .64 of what the dashed line does. Look whether gold turns.
#
# <details><summary>Answer</summary>
#
# *Heavy tails* and *fewest words*. From 16 to 64 both proxies rise and gold falls: both are
# exploited.
#
# *Normal noise* correlates as weakly as *heavy tails*, yet gold rises. So low correlation is not
# why, the rare huge errors are. Why *fewest words* turns is open.
#
# Gold of BT's picks rises. These are answers of one policy, whose source BT knows. Whether BSR
# picks better is open (last row).
# </details>

# %% [markdown]
# ## 6. The verdicts
#
# Every claim gets one of four words.
#
# - *Shown*: the interval lies on the claim's side of zero.
# - *Against*: the interval rules the claim out.
# - *Open*: the interval holds zero.
# - *Not tested*: nobody looked, or there was no fall to explain or to stop.
#
# **Predict** the *language model's* word for four claims:
#
# 1. BT overfits.
# 2. False labels are why.
# 3. BSR gains tau.
# 4. Best-of-$n$ by BT loses gold.
#
# A star marks a claim of ours. Brackets name the section: 04.6 is notebook 04's Section 6.

# %% [markdown]
# <details><summary>Claims about BT</summary>
#
# | claim | small worlds | language model |
# |---|---|---|
# | it overfits (2) | known sources **shown** | **open** |
# | norms disperse (2; 02.8) | **shown** | **open** |
# | norms must disperse for a fall (2) | **against** | not tested |
# | false labels are why* (2; 06.6) | **shown**, without a final norm | not tested |
# | mutual-disjoint scores lower (4) | *helps* **shown** | *lora* **open**, *judged* **against** |
# | best-of-$n$ by BT loses gold* (5) | not tested | **against**, $n = 16$ to 64 |
#
# *Judged* speaks of its three models: Section 4's bars are over prompts only.
# </details>

# %% [markdown]
# <details><summary>Claims about BSR</summary>
#
# | claim | small worlds | language model |
# |---|---|---|
# | stops the fall, $10^{-3}$ (2) | prompts **against**, in-domain **open** | head: ends lower |
# | stops the fall, $10^{-2}$ (2) | both **against** | head: ends lower |
# | ends ahead on new sources*, both $\lambda$ (2) | **shown** | not tested |
# | gains tau, $10^{-3}$ (3) | *helps* **shown**, others **against** | **open**; head **against** |
#
# *Prompts* is prompt-disjoint, *head* a head alone, whose fall has no interval. *Helps* and the
# three *others* are worlds of 04.6. At other
# $\lambda$ there are costs in the language model (04.9), and one gain on labels of people (06.5).
# </details>

# %% [markdown]
# In the small world BT overfits, and without a final norm false labels are why. Dispersion is not
# needed. BSR does not stop the fall. On new sources it ends ahead.
#
# In the language models that we trained two things are decided. Gold of BT's picks rises up to
# $n = 64$. In *judged* new sources score higher. Of a head alone one more: BSR does not gain tau.

# %% [markdown]
# ## Exercises
#
# A fold holds the first hint, a wrong answer gets a second. Solutions: `notebooks/solutions/`.

# %% [markdown]
# **1.** A proxy such as the number of words is an integer, so samples *tie*, and Section 5's
# function breaks ties as its sort happens to leave them. Write the estimate in which ties are
# broken at random (exactly, not by shuffling), from tensors `proxy` and `gold` of $N$ samples.
#
# <details><summary>Hint</summary>
#
# Do not ask which sample wins, but which *value of the proxy* is the largest in a draw.
# </details>

# %%
def best_of_n_with_ties(proxy, gold, n):
    return None


checks.check_best_of_n_with_ties(best_of_n_with_ties);

# %% [markdown]
# **2.** How far has best-of-$n$ moved the policy $p$? With $q$ the distribution of what it keeps,
# the **KL** of $q$ to $p$ is $\sum_k q_k \log(q_k / p_k)$, in nats. It is at most $\log n -
# \frac{n-1}{n}$, reached only where no answer is ever drawn twice.
#
# Now a policy has a handful of answers, with `probabilities` (a float64 tensor) $p_1, \dots, p_K$,
# all above zero, in ascending order of reward. What is the exact KL for $n$ *independent* draws?
# Compare it with the bound for two answers of probability 1/2 and $n = 2$. And how far can Section
# 5's best of 64 have moved?
#
# <details><summary>Hint</summary>
#
# Which event leaves all $n$ draws among the $j$ worst?
# </details>

# %%
def best_of_n_divergence(probabilities, n):
    return None


checks.check_best_of_n_divergence(best_of_n_divergence);

# %% [markdown]
# **3.** *Judge a record, and plan the next.* How much of BT's gap on *lora*'s response-disjoint is
# beyond the rule's? From `model_known, model_new, rule_known, rule_new` (scores of the *same*
# prompts by model, its seeds averaged, and rule) return a tensor of three:
#
# - the model's gap minus the rule's;
# - its half width, 1.96 standard errors over prompts (variances with $n - 1$);
# - the prompts a set, rounded up, at which the half width would be `useful`.
#
# Run the last cell: what is shown, of which models? Would it do for mutual-disjoint?
#
# <details><summary>Hint</summary>
#
# Which scores belong to the same prompt? See Section 1's picture.
# </details>

# %%
def gap_beyond(model_known, model_new, rule_known, rule_new, useful):
    return None


checks.check_gap_beyond(gap_beyond);

# %%
pair = ("prompt_disjoint", "response_disjoint")  # of lora
scores = [np.mean([run["evaluation"]["scenarios"][part]["per_prompt"] for run in runs["bt"]], 0)
          for part in pair] + [rule[part] for part in pair]  # BT's, then the rule's
print(gap_beyond(*(torch.as_tensor(x, dtype=torch.float64) for x in scores), useful=0.05))

# %% [markdown]
# **4.** *Take the suspected cause away.* A method's *lead* is its score minus BT's. It *counters*
# false labels, we say, where both hold (not fixed in advance):
#
# 1. Its lead with false labels is above zero.
# 2. So is false minus clean: that lead minus the one with clean labels.
#
# From four arrays of scores, one number a seed, return mean and 95% half width of the lead with
# false labels (Section 2's), with clean ones, and of false minus clean.
#
# Then judge L2 (04): run the commented line, put "l2-1e-2" and "response_disjoint" into the last
# cell. Which condition alone would mislead?
#
# <details><summary>Hint</summary>
#
# A world with false labels and its clean twin share a seed: subtract before you average.
# </details>

# %%
def leads(method_false, method_clean, bt_false, bt_clean):
    return None

# small["l2-1e-2"] = {labels: trained(world, "l2-1e-2") for labels, world in LABELS.items()}

# %%
test = 1 + PARTS.index("mutual_disjoint")
print(leads(*(small[method][labels][test, -1] for method in ("bsr-1e-2", "bt")
              for labels in ("false", "clean"))))

# %% [markdown]
# ## Check yourself
#
# 1. Why can a curve that stands still be a loss?
# 2. A rule falls on the new set as much as your model. Is the model acquitted?
# 3. With false labels a method ends below BT, with clean labels as far below. What do you conclude?
# 4. A proxy rises and gold falls, while the reward model and its tau on a fixed test set stay as
#    they were. Overfitted or exploited?
# 5. Why can best-of-$n$ with a huge $n$ do harm that $n = 4$ does not?

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1. A control without the cause might have risen.
# 2. No. The rule may fall for reasons of its own; another rule may convict.
# 3. It costs by itself; that it counters false labels is not shown.
# 4. Exploited: the picks moved to where the proxy errs.
# 5. It looks for the proxy's largest errors; rare ones are found only among many.
#
# </details>

# %% [markdown]
# <details><summary>Exercises 2 to 4</summary>
#
# Exercise 2: .131 beside .193: answers drawn twice move the policy less. Best of 64 moves by 3.2
# nats at most.
#
# Exercise 3: nothing is shown, +.070 ± .120 (+: BT loses *less* than the rule). To reach ± .05
# takes 1,390 prompts a set, *for these four models*. There are 240. Mutual-disjoint needs the
# paired form.
#
# Exercise 4: BSR counters false labels: both conditions hold. L2 does not: with false labels it
# ends .159 below BT. Its false minus clean is +.038 ± .024 (`data/runs/LOG.md`): condition 2 alone
# would mislead. Either cost is 27% of BT's tau, and that tau is smaller with false labels.
# </details>

# %% [markdown]
# ## What to watch, what to vary
#
# | In your run, watch | healthy | otherwise, seen here | then vary |
# |---|---|---|---|
# | prompt-disjoint against training | no fall | -.018 at 64 epochs | fewer epochs |
# | gap of new sources beyond clean labels' | none | -.041, small world | cleaner labels |
# | gold of the best of 64 over 16 | +.104, BT | -.098, heavy tails | smaller $n$; another proxy |
#
# No clean labels? Have a part relabelled with care, or flip some yourself. Compare both trainings.

# %% [markdown]
# ## What you know now
#
# The .35 and .26 of the start differ in sources, prompts and topics at once: that fall stays
# unexplained. A rule that saw no pair fell, too, from .13 to -.03. What BT loses beyond it is open
# (Exercise 3).

# %% [markdown]
# **A lower score on new data convicts nobody until you train the same model without the suspected
# cause.**
#
# Next: **08 · How does a policy learn from a reward?**
