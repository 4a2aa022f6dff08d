"""Readers that map every preference format onto pairs or groups. Bad input raises DataError naming
file, row and fix; what cannot teach anything is dropped and counted. data/README.md lists what
becomes of every column."""

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from .conversations import (
    REFUSED,
    TOOLS,
    Dropped,
    Group,
    Messages,
    Pair,
    column,
    hh_turns,
    number,
    prompt_of,
    read_messages,
    refuse,
    text,
)
from .errors import DataError
from .sources import read_rows


def split_of(value) -> str | None:
    return text(value, "split") if value else None


def new_group(prompt, responses, gold, models, split=None, row: dict | None = None) -> Group:
    if not all(isinstance(found, list) for found in (responses, gold, models)):
        raise ValueError("responses, gold scores and models must be lists")
    if not len(responses) == len(gold) == len(models) or len(responses) < 2:
        raise ValueError(f"needs equally many (at least 2) responses, gold scores and models, got "
                         f"{len(responses)}, {len(gold)} and {len(models)}")
    return Group(prompt_of(row or {}, read_messages(prompt, "prompt")),
                 [text(r, f"responses[{i}]") for i, r in enumerate(responses)],
                 [number(g, f"gold[{i}]") for i, g in enumerate(gold)],
                 [text(m, f"models[{i}]") for i, m in enumerate(models)], split_of(split))


# ---- formats -----------------------------------------------------------------------------------

# where a prompt may stand beside answers; and names under which one would be overlooked
PROMPTS = ("prompt", "messages", "conversations")
OVERLOOKED = ("instruction", "question", "query", "input")
SCORES = (("score_chosen", "score_rejected"), ("chosen_score", "rejected_score"),
          ("chosen_rating", "rejected_rating"))
USED = {*PROMPTS, *REFUSED, "chosen", "rejected", "margin", "system", "tools",
        *(name for names in SCORES for name in names)}


def _answer(value, conversation: Messages, name: str) -> str:
    """The text of an answer, which may come after the conversation once more."""
    if isinstance(value, str):
        return text(value, name)
    if len(value) > 1 and value[:-1] != conversation:
        raise ValueError(f"{name} carries another conversation than the prompt or the other answer")
    if value[-1]["role"] != "assistant":
        raise ValueError(f"{name} must end in one assistant message after the shared prompt")
    return value[-1]["content"]


def _shared_start(chosen, rejected):
    """What both answers begin with: whole messages, or text up to its last white space."""
    limit = min(len(chosen), len(rejected)) - 1  # never a whole answer: identical ones are no error
    shared = next((i for i in range(limit) if chosen[i] != rejected[i]), limit)
    if isinstance(chosen, str):  # between words, as the answers may start with the same letters
        shared = max((i + 1 for i in range(shared) if chosen[i].isspace()), default=0)
    return chosen[:shared]


def trl_pair(row: dict) -> Pair:
    """TRL's preference format: prompt given or implied by the shared start of chosen and
    rejected, each as text or as messages. Skywork-80K is the implied message form. Dialogs as
    HH-RLHF writes them are read as messages, and messages may be ShareGPT's.

    Raises: Dropped for HH-RLHF's rows with an empty turn or without a shared dialog, ValueError.
    """
    sides = [column(row, name) for name in ("chosen", "rejected")]
    if isinstance(sides[0], str) != isinstance(sides[1], str):
        raise ValueError("chosen and rejected must both be text or both be message lists")
    dialogs = [hh_turns(side) for side in sides]
    if all(dialogs):
        if not all(turn["content"] for turns in dialogs for turn in turns):
            raise Dropped("an empty turn")
        if dialogs[0][:-1] != dialogs[1][:-1] or {d[-1]["role"] for d in dialogs} != {"assistant"}:
            raise Dropped("two dialogs that differ before their last answers")
        sides = dialogs
    elif not isinstance(sides[0], str):
        sides = [read_messages(*side) for side in zip(sides, ("chosen", "rejected"), strict=True)]
    whole = not isinstance(sides[0], str) and max(map(len, sides)) > 1
    # `messages` beside whole conversations is one of them once more, as in UltraFeedback binarized
    name = next((n for n in PROMPTS[:1 if whole else 3] if row.get(n) is not None), None)
    for other in PROMPTS[1:] if whole else ():
        turns = row.get(other) and read_messages(row[other], other)
        if turns and not any(turns in (side[:len(turns)], side[-len(turns):]) for side in sides):
            raise ValueError(f"column {other!r} holds another conversation than chosen and "
                             "rejected: name it prompt, or remove it")
    if name:
        turns = hh_turns(row[name])  # which end where an answer is to follow
        prompt = read_messages(turns[:-1 if not turns[-1]["content"] else None] if turns
                               else row[name], name)
        if whole and sides[0][:-1][-len(prompt):] == prompt:
            prompt = sides[0][:-1]  # with what stands before it
    elif not whole and (name := next((n for n in OVERLOOKED if row.get(n)), None)):
        raise ValueError(f"no column 'prompt', but {name!r}: rename it to prompt")
    elif not whole and (name := next((n for n in PROMPTS if n in row), None)):
        raise ValueError(f"column {name!r} is empty: fill it, remove the row, or the column where "
                         "both answers begin with their prompt")
    else:
        prompt, name = _shared_start(*sides), "the shared start of chosen and rejected"
        if isinstance(prompt, str):
            sides = [side[len(prompt):] for side in sides]
        prompt = read_messages(prompt, name)
    answers = [_answer(side, prompt, n) for side, n in zip(sides, ("chosen", "rejected"),
                                                           strict=True)]
    margin = None if row.get("margin") is None else number(row["margin"], "margin")
    return Pair(prompt_of(row, prompt, name), *answers, margin)


def remarks(row: dict) -> Iterator[str]:
    """What is worth a count in a row of pairs: it changes nothing."""
    for better, worse in SCORES:
        if row.get(better) is not None and row.get(worse) is not None:
            difference = number(row[better], better) - number(row[worse], worse)
            if difference <= 0:
                yield (f"{better} is {'equal to' if difference == 0 else 'below'} {worse}; they are"
                       " kept as labelled")
    for name in row:
        if name not in USED and row[name] is not None:
            yield f"not used: {name!r}"


def to_trl(pairs: list[Pair]) -> list[dict]:
    """Rows of TRL's preference format: `datasets.Dataset.from_list(to_trl(pairs))` is what its
    trainers take, and `trl_pair` reads them back. A margin is a demanded one for TRL, too, and 0
    for pairs that demand none where others do: `from_list` takes its columns from the first row."""
    margins = any(p.margin is not None for p in pairs)
    tools = [next((m["content"] for m in p.prompt if m["role"] == TOOLS), None) for p in pairs]
    return [{"prompt": [m for m in p.prompt if m["role"] != TOOLS],
             "chosen": [{"role": "assistant", "content": p.chosen}],
             "rejected": [{"role": "assistant", "content": p.rejected}],
             **({TOOLS: tool} if any(tools) else {}),
             **({"margin": p.margin or 0.0} if margins else {})}
            for p, tool in zip(pairs, tools, strict=True)]


def group_row(row: dict) -> Group:
    """Our own schema, `prompt, responses, gold, models` and optional `split` (pocket world)."""
    columns = (column(row, name) for name in ("prompt", "responses", "gold", "models"))
    return new_group(*columns, row.get("split"), row)


def ultrafeedback(row: dict) -> Group:
    """UltraFeedback: `instruction, completions[{model, response, overall_score}]`.

    Raises: Dropped for a row in which an answer is empty or has no score, ValueError."""
    completions = column(row, "completions")
    if not isinstance(completions, list) or not all(isinstance(c, dict) for c in completions):
        raise ValueError(f"completions must be a list of objects, got {completions!r:.40}")
    refuse(row, ("input",))
    if not completions or not all(str(c.get("response") or "").strip()
                                  and c.get("overall_score") is not None for c in completions):
        raise Dropped("an answer that is empty or has no score")
    columns = [[column(c, name) for c in completions]
               for name in ("response", "overall_score", "model")]
    return new_group(column(row, "instruction"), *columns, row=row)


def preference_logit(preference: float) -> float:
    """A judge's preference in [0, 1] as a logit, clipped to +-14 and rounded to a tenth, so that
    judgements that hardly differ are ties.

    >>> preference_logit(0.5), preference_logit(0.0), preference_logit(0.9)
    (0.0, -14.0, 2.2)
    """
    if not 0 <= preference <= 1:
        raise ValueError(f"gold must be a preference in [0, 1], got {preference}: read tables of "
                         "other scores as `judged`")
    odds = max(preference, 1e-9) / max(1 - preference, 1e-9)
    return round(max(-14.0, min(14.0, math.log(odds))), 1)


def judged_row(row: dict, score: Callable[[float], float] = float) -> tuple:
    """(prompt, response, score(gold), model, split) of a row of a long table, a row an answer."""
    refuse(row, (*REFUSED, "system", "tools"))
    prompt, gold = text(column(row, "prompt"), "prompt"), number(row.get("gold"), "gold")
    return (prompt.strip(), text(row.get("response"), "response"), score(gold),
            text(row.get("model"), "model"), split_of(row.get("split")))


PAIR_FORMATS = {"trl": trl_pair, "skywork": trl_pair}
GROUP_FORMATS = {"pocket": group_row, "ultrafeedback": ultrafeedback, "judged": judged_row,
                 "alpaca_eval": functools.partial(judged_row, score=preference_logit)}


def convert(source: str, rows: Iterable[dict], reader: Callable,
            remarks: Callable[[dict], Iterable[str]] = lambda row: ()) -> list:
    """`reader` of every row; rows that it drops, and remarks on rows, are counted and printed.

    Raises: DataError, its complaint with file and row, or that nothing is left.
    """
    items, counts, place = [], Counter(), 0
    try:
        for row in rows:
            place += 1
            counts.update(remarks(row))
            try:
                items.append(reader(row))
            except Dropped as reason:
                counts[f"dropped: {reason}"] += 1
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{source}, row {place}: {error}") from error
    for remark, count in counts.items():
        print(f"{source}: {count} of {place} rows: {remark}")
    if not items:
        raise DataError(f"{source}: " + ("no row is left; see the counts above" if place else
                                         "holds no rows; check the file and the split's name"))
    return items


def read_pairs(source: str, format: str = "trl", split: str = "train") -> list[Pair]:
    """All pairs of a source.  Raises: DataError naming file, row and fix."""
    if format not in PAIR_FORMATS:
        raise DataError(f"format {format!r} holds no pairs; choose from {', '.join(PAIR_FORMATS)}")
    pairs = convert(source, read_rows(source, split), PAIR_FORMATS[format], remarks)
    if repeats := len(pairs) - len({hash(repr(pair)) for pair in pairs}):
        print(f"{source}: {repeats} of {len(pairs)} pairs are there before: they count twice")
    return pairs


def read_groups(source: str, format: str = "pocket", split: str = "train") -> list[Group]:
    """All ranking sets of a source. `judged` is a long table of (prompt, model, response, gold);
    `alpaca_eval` is one whose gold is a judge's preference in [0, 1], and becomes
    `preference_logit`s (data/alpaca_eval.py makes it of a clone of AlpacaEval's repository).

    Raises: DataError naming file, row and fix.
    """
    if format not in GROUP_FORMATS:
        raise DataError(f"format {format!r} holds no groups; choose from "
                        f"{', '.join(GROUP_FORMATS)}")
    found = convert(source, read_rows(source, split), GROUP_FORMATS[format])
    return found if isinstance(found[0], Group) else _long_table(source, found)


def _long_table(source: str, rows: list[tuple]) -> list[Group]:
    """Groups of (prompt, response, gold, model, split) rows, one answer a model: repeated ones and
    prompts with a single answer are dropped and counted."""
    table: dict[str, dict[str, tuple]] = {}
    for prompt, response, gold, model, split in rows:
        table.setdefault(prompt, {}).setdefault(model, (response, gold, model, split))
    groups = []
    for prompt, by_model in table.items():
        *columns, splits = map(list, zip(*by_model.values(), strict=True))
        if len(set(splits)) > 1:
            raise DataError(f"{source}: the prompt {prompt[:60]!r} has rows of several splits "
                            f"({', '.join(sorted(map(str, set(splits))))}): give it one")
        if len(splits) > 1:
            groups.append(new_group(prompt, *columns, splits[0]))
    repeats, single = len(rows) - sum(map(len, table.values())), len(table) - len(groups)
    if repeats or single:
        print(f"{source}: dropped {repeats} rows that repeat a prompt and model, {single} prompts "
              "with a single response")
    if not groups:
        raise DataError(f"{source}: no prompt has answers of two models")
    return groups
