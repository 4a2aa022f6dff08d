"""Proxies whose fault is known, to hold trained ones against: rewards by a rule of the text.

A method of an RLOO study names one of RULES in place of a trained reward model. Ours, not the
paper's.
"""

import hashlib
import math
from collections.abc import Callable
from statistics import NormalDist

from ..gold import WORD
from ..scorers import Scorer, gold_scorer


def uniform(text: str, seed: int) -> float:
    """A number in (0, 1) that text and seed decide, as if drawn at random for every new text.

    >>> uniform("Bees.", 0) == uniform("Bees.", 0) != uniform("Bees!", 0)
    True
    """
    digest = hashlib.sha256(f"{seed} {text}".encode()).digest()
    return (int.from_bytes(digest[:6], "big") + 0.5) / 2**48


def heavy_tailed(u: float) -> float:
    """The u-quantile of Student's t with two degrees of freedom, whose variance is infinite."""
    a = 2 * u - 1
    return a * math.sqrt(2 / (1 - a * a))


def first_word(text: str) -> str:
    found = WORD.search(text)
    return found[0].lower() if found else ""


# name -> reward of (text, its gold, seed)
RULES: dict[str, Callable[[str, float, int], float]] = {
    # controls: what can be had at best, without any signal, and with one that says nothing
    "gold": lambda text, gold, seed: gold,
    "constant": lambda text, gold, seed: 0.0,
    "noise": lambda text, gold, seed: NormalDist().inv_cdf(uniform(text, seed)),
    # gold with an error that a policy can find: one an opening word, now and then a huge one
    "heavy-tails": lambda text, gold, seed: gold + heavy_tailed(uniform(first_word(text), seed)),
    # gold with a weakness: half a point for every exclamation mark
    "trick": lambda text, gold, seed: gold + 0.5 * text.count("!"),
}


def rule_scorer(name: str, seed: int) -> Scorer:
    """The rewards of a rule; every seed has errors of its own.  Shapes: as `Scorer`."""
    def scores(batch: list[dict]) -> list[list[float]]:
        return [[RULES[name](text, gold, seed) for text, gold in zip(b["texts"], row, strict=True)]
                for b, row in zip(batch, gold_scorer(batch), strict=True)]
    return scores
