# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Solutions to 07 · How do you show that a reward model over-optimizes?

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
import math

import numpy as np
import torch

from bsr_lite.config import load_config
from bsr_lite.course import checks_policy as checks
from bsr_lite.metrics import agreement, seed_interval
from bsr_lite.scenarios import load_scenarios, sets_of
from bsr_lite.studies import statistics, worlds
from bsr_lite.studies.best_of_n import noisy_gold
from bsr_lite.studies.records import drawn, read_runs

# %% [markdown]
# **1.** In `"a"` the control falls as far as the run with the suspect. But its seeds scatter, so
# its fall is not shown, and who reads two verdicts convicts the suspect. In `"b"` a seed's luck
# hides a fall of 1. It is the same luck in both trainings, and drops out of the difference.

# %%
luck = np.array([1.0, -1.0] * 4)  # eight seeds


def invented(case):
    return (0.1 * luck - 1, 9 * luck - 1) if case == "a" else (5 * luck - 1, 5 * luck)


assert checks.check_invented(invented)

# %% [markdown]
# BSR's lead, and BT's tau, are judged by the one difference: the suspect's part of the change, seed
# by seed, for a seed's trainings share answers and test sets.

# %%
def convicted(scores, control):
    mean, half = seed_interval((scores[1] - scores[0]) - (control[1] - control[0]))
    return int(mean + half < 0)

# %%
LABELS = {"false": "64 epochs", "clean": "64 epochs, clean labels"}  # as in Section 2
seen = {(method, labels): worlds.train(worlds.WORLDS[world], {"": worlds.OBJECTIVES[method]}, 16)
        for method in ("bt", "bsr-1e-3") for labels, world in LABELS.items()}

# %%
for part in ("prompt_disjoint", "mutual_disjoint"):
    taus = {key: np.array([looks[step][part][:, 0] for step in (75, 600)])
            for key, looks in seen.items()}  # epochs 8 and 64
    bt, lead = ([taus["bt", x] for x in LABELS],
                [taus["bsr-1e-3", x] - taus["bt", x] for x in LABELS])
    for name, (with_it, without) in (("BT", bt), ("BSR minus BT", lead)):
        both = np.diff(with_it, axis=0)[0], np.diff(without, axis=0)[0]
        print("{}, {}: {:+.3f} ± {:.3f}, clean {:+.3f} ± {:.3f}; difference {:+.3f} ± {:.3f}: {}"
              .format(part, name, *seed_interval(both[0]), *seed_interval(both[1]),
                      *seed_interval(both[0] - both[1]),
                      ("not convicted", "convicted")[convicted(with_it, without)]))

# %% [markdown]
# On prompt-disjoint BSR falls further, and false labels are not convicted of it: it falls behind
# with clean ones, too. They are not acquitted, either, for the interval allows -.006. On
# mutual-disjoint BT does not fall, and they are convicted all the same. (BSR's lead they *raise*
# there. The function asks only who pushes a change down.)

# %% [markdown]
# **2.** Brevity is exploited: gold rises to $n = 4$, and at 64 it is below that of a random answer.
# Its control correlates as weakly, and gold rises to the end. So weak correlation alone is not why.
#
# Of long answers brevity says the truth: those of over 40 words have low gold. But few answers are
# shorter than 6 words, and those are bad, too. The best of 64 is often one of them. Bar them, and
# gold falls less: the difference convicts them. A fall is left, so they are not alone. With all
# answers of under 12 words barred no fall is seen.

# %%
kept = np.load("data/runs/best_of_n/scores.npz")
gold, words = kept["gold"], kept["words"]
brevity = -words.astype(float)
correlation = statistics.within_correlation(brevity, gold)
proxies = {"brevity": [brevity], "control": noisy_gold(gold, correlation, 4)["normal noise"]}
barred = {f"no answer under {least} words": np.where(words < least, -100, brevity)
          for least in (6, 12)}

# %%
for name, several in (proxies | {name: [proxy] for name, proxy in barred.items()}).items():
    gains = [np.mean([statistics.best_of_n(proxy, gold, n) for proxy in several]) - gold.mean()
             for n in (1, 2, 4, 8, 16, 32, 64)]
    print(f"{name}: correlation {statistics.within_correlation(several[0], gold):.2f}; gain",
          " ".join(f"{gain:+.2f}" for gain in gains))
for low, high in ((1, 5), (6, 11), (16, 30), (41, 64)):
    print(f"{low} to {high} words: gold {gold[(words >= low) & (words <= high)].mean():.2f}")

# %%
def late(proxy):  # gold's change from n = 16 to 64, prompt by prompt
    return statistics.best_of_n(proxy, gold, 64) - statistics.best_of_n(proxy, gold, 16)


print("from n = 16 to 64, brevity: {:+.3f} ± {:.3f}".format(*seed_interval(late(brevity))))
for name, proxy in barred.items():
    print("{}: {:+.3f} ± {:.3f}; brevity's change minus this {:+.3f} ± {:.3f}".format(
        name, *seed_interval(late(proxy)), *seed_interval(late(brevity) - late(proxy))))

# %% [markdown]
# **3.** Pair first: model minus rule on the same prompt. What is left is a comparison of two
# independent sets of prompts, so variances add. With $P$ prompts a set the half width is $1.96
# \sqrt{(V_{known} + V_{new}) / P}$: set it to `useful` and solve for $P$.

# %%
def gap_beyond(model_known, model_new, rule_known, rule_new, useful):
    known, new = model_known - rule_known, model_new - rule_new
    half = 1.96 * (known.var() / len(known) + new.var() / len(new)).sqrt()
    prompts = (1.96 / useful) ** 2 * (known.var() + new.var())
    return torch.stack([new.mean() - known.mean(), half, prompts.ceil()])


assert checks.check_gap_beyond(gap_beyond)

# %%
config = load_config("bsr_lite/configs/rm_fast.yaml", overrides=["data.max_pairs=900"])  # lora's
texts, runs = load_scenarios(config), read_runs("data/runs/study_lora")["bt"]
model, rule = {}, {}
for part in ("prompt_disjoint", "response_disjoint"):
    sets = drawn(sets_of(texts, part), 240, config.data.seed)
    fewer = -np.array([[len(text) for text in group.responses] for group in sets])
    rule[part] = torch.tensor(agreement(fewer, np.array([group.gold for group in sets]))[1])
    model[part] = torch.tensor([run["evaluation"]["scenarios"][part]["per_prompt"]
                                for run in runs], dtype=torch.float64)  # (seeds, prompts)
known, new = model.values()
scores = (known.mean(0), new.mean(0), *rule.values())
print("{:+.3f} ± {:.3f}; ± .05 takes {:.0f} prompts a set".format(*gap_beyond(*scores, 0.05)))

# %%
by_seed = [(model[part] - rule[part]).mean(1) for part in model]  # gaps: new minus known
by_seed = by_seed[1] - by_seed[0]
luck = sum((x - x.mean(0)).var(1).sum() / (len(x) - 1) / x.shape[1] for x in model.values())
print(f"by seed: {', '.join(f'{gap:.3f}' for gap in by_seed)}; over seeds alone ± "
      f"{seed_interval(by_seed)[1]:.3f}; {luck / by_seed.var():.2f} of this variance is luck")

# %% [markdown]
# Nothing is shown. BT's gap is smaller than the rule's, and the interval holds zero: that BT loses
# nothing beyond what the rule loses is as possible as that it gains a tenth. To tell .05 takes
# nearly six times the 240 prompts. (Another rule may say otherwise, and prompts of one topic are
# alike, so the intervals are a little narrow.)
#
# All that is said of *these four models*, for their mean. Of other seeds the same gap is known to
# ± .070 at best. A third of that variance is a seed's luck with these prompts, which more prompts
# average out; the rest takes more seeds.

# %% [markdown]
# Not for mutual-disjoint: it has the very prompts of prompt-disjoint. There the two gaps pair, too,
# and the half width is that of one mean of differences.
#
# Of *judged* one can only say that both rise. Without the rule's scores by prompt there is no
# paired interval, so no claim about BT beyond the rule.

# %% [markdown]
# **4.** The largest value in a draw is this one when all $n$ come from the $L + T$ samples at or
# below it, but not all from the $L$ below: $\binom{L+T}{n} - \binom{L}{n}$ draws. Each of the $T$
# that share it wins equally often, so the tie counts with its mean gold.

# %%
def best_of_n_with_ties(proxy, gold, n):
    expected = 0.0
    for value in proxy.unique():
        tie, below = proxy == value, (proxy < value).sum().item()
        draws = math.comb(below + tie.sum().item(), n) - math.comb(below, n)
        expected = expected + draws / math.comb(len(proxy), n) * gold[tie].mean()
    return expected


assert checks.check_best_of_n_with_ties(best_of_n_with_ties)
