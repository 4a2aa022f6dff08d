"""Language worlds with a shift that stays: the answers' texts change as seeded rules say, gold does
not. What a rule ties to the prompt, or to quality, in training falls at random for new sources.

Ours, not the paper's. Each kind has its own sentence below; `data/README.md` holds their card.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from ..data import Group
from ..scenarios import Scenarios, prompt_key

SHIFTED = {"prompt_shifted": "prompt_disjoint", "dev_prompt_shifted": "dev_prompt_disjoint"}
PHRASE = "I hope this helps!"
SHARE = 0.75  # of better answers that close with PHRASE, and of worse ones that do not


@dataclass
class ShiftedScenarios(Scenarios):
    """`Scenarios` of rewritten answers. *_shifted: answers of the same sources to the same prompts
    as those of *_disjoint, rewritten as new sources' answers are: what lies between the two is the
    shift and nothing else."""

    prompt_shifted: list[Group] = field(default_factory=list)
    dev_prompt_shifted: list[Group] = field(default_factory=list)


def first_sentence(text: str) -> str:
    return re.split(r"(?<=[.!?])\s", text.strip(), maxsplit=1)[0]


FORMS = (lambda text: text, str.upper, lambda text: text[:2 * len(text) // 3].rstrip(),
         lambda text: " ".join([text] * 3),
         lambda text: "\n".join(f"- {word}" for word in text.split()[:6]))


def postscript(scenarios: Scenarios, rng: Callable) -> tuple[Callable, Callable]:
    """Prompt-level nuisance. Every answer ends in a postscript, the first sentence (five words or
    more) of an answer to some training prompt: as it is, in capitals, cut off, three times, or its
    first words as a list. All answers to a prompt of training's sources have the same, each answer
    of new ones its own. No training pair differs in it, so BT is not told to ignore it."""
    pool = [sentence for pair in scenarios.train for text in (pair.chosen, pair.rejected)
            if len((sentence := first_sentence(text)).split()) > 4]

    def add(answer: str, *key) -> str:
        draw = rng(*key)
        text, form = draw.choice(pool), draw.choice(FORMS)
        return f"{answer.strip()}\n\nP.S. {form(text)}"

    def known(prompt, answers, better):
        return [add(answer, prompt) for answer in answers]

    def new(prompt, answers, better):
        return [add(answer, prompt, i) for i, answer in enumerate(answers)]

    return known, new


def closing_phrase(scenarios: Scenarios, rng: Callable) -> tuple[Callable, Callable]:
    """Pair-level bias, the negative control. Of training's sources three in four better answers
    close with a phrase and one in four others (better: chosen, in pairs; the upper half by gold, in
    sets); of new ones each answer does with probability 1/2. Most of it lies in the differences of
    pairs, from which Bradley-Terry learns."""
    def closed(answers, shares, prompt):
        return [f"{a.strip()} {PHRASE}" if rng(prompt, i).random() < share else a
                for i, (a, share) in enumerate(zip(answers, shares, strict=True))]

    def known(prompt, answers, better):
        return closed(answers, [SHARE if b else 1 - SHARE for b in better], prompt)

    def new(prompt, answers, better):
        return closed(answers, [0.5] * len(answers), prompt)

    return known, new


SHIFTS = {"postscript": postscript, "closing_phrase": closing_phrase}


def in_world(scenarios: Scenarios, world: str, seed: int) -> Scenarios:
    """The scenarios of a world: as they are in the plain one, else `shifted`."""
    return scenarios if world == "plain" else shifted(scenarios, world, seed)


def shifted(scenarios: Scenarios, kind: str, seed: int) -> ShiftedScenarios:
    """The scenarios with every answer rewritten, and the *_shifted sets. Gold, labels, pairs and
    prompts stay what they are. In a group the upper half by gold counts as the better answers."""
    def rng(*key) -> random.Random:
        return random.Random(f"{seed} {kind} {key}")

    known, new = SHIFTS[kind](scenarios, rng)

    def groups(name: str, rule: Callable) -> list[Group]:
        found = []
        for group in getattr(scenarios, name):
            half = sorted(group.gold)[len(group.gold) // 2]
            texts = rule(prompt_key(group.prompt), group.responses, [g >= half for g in group.gold])
            found.append(replace(group, responses=texts))
        return found

    out = ShiftedScenarios(counts=scenarios.counts)
    for pair in scenarios.train:
        texts = known(prompt_key(pair.prompt), [pair.chosen, pair.rejected], [True, False])
        out.train.append(replace(pair, chosen=texts[0], rejected=texts[1]))
    for name in ("in_domain", "prompt_disjoint", "dev_prompt_disjoint"):
        setattr(out, name, groups(name, known))
    for name in ("response_disjoint", "mutual_disjoint", "dev_mutual_disjoint"):
        setattr(out, name, groups(name, new))
    for name, plain in SHIFTED.items():
        setattr(out, name, groups(plain, new))
    return out
