"""The transparent gold preference r*(x, y) of the pocket world: a sum of readable terms.

Each term looks at the text alone and lies in [0, 1]. `gold_terms` returns them one by one, so
that every preference of the pocket world can be explained. Nothing of it is learned.
"""

import itertools
import re

ITEM = re.compile(r"^\s*(?:\d+\s*[.):]|[-*•])\s+", re.MULTILINE)
SENTENCE_END = re.compile(r"[.!?]+[\"')\]]*(?=\s|$)")
WORD = re.compile(r"[a-zA-Z']+")
WORDS_PER_UNIT = {"sentence": (6, 26), "item": (2, 20)}  # fewest and most words for one of them
STEMS_FOR_FULL_MARKS = 4


def count_sentences(text: str) -> int:
    """Closing marks before a space or the end; the full stop of a list number is none.

    >>> count_sentences("1. It is 3.5 km. Yes!")
    2
    """
    return len(SENTENCE_END.findall(ITEM.sub("", text)))


def instruction_term(text: str, unit: str, count: int) -> float:
    """Does it have the number of sentences or list items asked for? 1 - |n - asked| / asked."""
    n = len(ITEM.findall(text)) if unit == "item" else count_sentences(text)
    return max(0.0, 1 - abs(n - count) / count)


def topic_term(text: str, stems: list[str]) -> float:
    """Is it about the topic? Different lexicon stems that occur, out of four."""
    words = {w.lower() for w in WORD.findall(text)}
    hits = sum(any(w.startswith(stem) for w in words) for stem in stems)
    return min(1.0, hits / STEMS_FOR_FULL_MARKS)


def complete_term(text: str, finished: bool) -> float:
    """Did it end by itself (not at the token limit) and on closing punctuation? Half each."""
    return 0.5 * finished + 0.5 * bool(re.search(r"[.!?][\"')\]]*$", text.strip()))


def fresh_term(text: str) -> float:
    """Is it free of repetition? Share of different word pairs, from one half (0) to all (1)."""
    words = [w.lower() for w in WORD.findall(text)]
    pairs = list(itertools.pairwise(words))
    return max(0.0, 2 * len(set(pairs)) / len(pairs) - 1) if pairs else 0.0


def concise_term(text: str, unit: str, count: int) -> float:
    """Is its length right for what was asked? 1 inside the budget, falling off on both sides."""
    low, high = (count * limit for limit in WORDS_PER_UNIT[unit])
    words = len(WORD.findall(text))
    return min(1.0, words / low, high / max(words, 1))


def gold_terms(text: str, *, unit: str, count: int, stems: list[str],
               finished: bool) -> dict[str, float]:
    """All terms of r*, each in [0, 1]; `unit` and `count` are what the prompt asks for."""
    return {"instruction": instruction_term(text, unit, count), "topic": topic_term(text, stems),
            "complete": complete_term(text, finished), "fresh": fresh_term(text),
            "concise": concise_term(text, unit, count)}


def gold_reward(terms: dict[str, float]) -> float:
    """r* = the plain sum of its terms, rounded so that equal answers tie; here in [0, 5].

    >>> gold_reward(gold_terms("Bees make honey. They fly.", unit="sentence", count=2,
    ...                        stems=["honey", "fly"], finished=True))
    3.9167
    """
    return round(sum(terms.values()), 4)
