"""The one place where text becomes tokens: those of the chat as its template renders it."""

import functools
import hashlib
import itertools
import json
import re
from array import array
from collections.abc import Iterable, Sequence

from .batching import shared_prefix
from .conversations import TOOLS, Messages, Pair
from .errors import DataError

DATE = "26 Jul 2024"  # what Llama's templates write where they have no clock
CHUNK = 512  # chats tokenized by one call, which spreads over the cores


class TokenPair(list):
    """A token group of two answers, chosen first, and the margin demanded of their rewards."""

    target_margin: float = 0.0


# ---- rendering -----------------------------------------------------------------------------------

def _apply_template(tokenizer, chat: Messages, **options) -> str:
    tools = [json.loads(m["content"]) for m in chat if m["role"] == TOOLS]
    return tokenizer.apply_chat_template([m for m in chat if m["role"] != TOOLS], tokenize=False,
                                         tools=tools[0] if tools else None, date_string=DATE,
                                         **options)


@functools.lru_cache(maxsize=256)
def _check_template(tokenizer, template: str, roles: tuple[str, ...], tools: str | None) -> None:
    """Raises: ValueError when the template drops or reorders a message of these roles, or leaves
    out the tools; what the template itself raises."""
    marks = [f"\ue000{i}\ue001" for i in range(len(roles))]
    chat = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
    rest = _apply_template(tokenizer, chat)
    if tools and rest == _apply_template(tokenizer, [{"role": TOOLS, "content": tools}, *chat]):
        raise ValueError("it leaves out the tools: take a model that is told of them, or remove "
                         "the column")
    for i, mark in enumerate(marks):
        _, found, rest = rest.partition(mark)
        if not found:
            raise ValueError(f"it drops or reorders message {i} ({roles[i]})")


@functools.lru_cache(maxsize=8)
def _control_tokens(tokenizer) -> tuple[tuple[str, ...], set[int]]:
    """Every token that means something to the model, such as the end of a turn; and the ids of
    those that the tokenizer looks for in normalized text, where other letters are the same."""
    special = {i: t for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    return (tuple({t.content for t in special.values()} | set(tokenizer.all_special_tokens)),
            {i for i, t in special.items() if t.normalized and tokenizer.is_fast})


@functools.lru_cache(maxsize=64)
def _any_of(names: tuple[str, ...]) -> re.Pattern:
    return re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))) or "(?!)")


def _control_texts(tokenizer, texts: list[str]) -> dict[str, None]:
    """What in a user's texts would become a control token."""
    names, late = _control_tokens(tokenizer)
    found = dict.fromkeys(name for text in texts for name in _any_of(names).findall(text))
    for text in texts if late else ():
        ids = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        found |= {text[start:end]: None for i, (start, end)
                  in zip(ids["input_ids"], ids["offset_mapping"], strict=True) if i in late}
    return found


def render(tokenizer, chat: Messages, generate: bool = False) -> list[str]:
    """The chat as its template writes it, cut where a text holds a control token's letters: every
    second piece is such a token, which stays letters.

    generate: up to where an answer starts. Otherwise what the template puts after the last
    end-of-turn token is removed. Outer white space of every text is removed, too.
    Raises: DataError naming the tokenizer and what its template lacks.
    """
    if not (template := getattr(tokenizer, "chat_template", None)):
        raise DataError(f"tokenizer {tokenizer.name_or_path} has no chat template; "
                        "use an instruction-tuned model's or set tokenizer.chat_template")
    chat = [{**m, "content": m["content"].strip()} for m in chat]
    everything = "".join(m["content"] for m in chat)
    # while the template is at work, a character that no text holds stands for such a token
    free = (c for c in map(chr, range(0xF0000, 0x10FFFE)) if c not in everything)
    marks = dict(zip(_control_texts(tokenizer, [m["content"] for m in chat]), free, strict=False))
    tokens = {mark: token for token, mark in marks.items()}
    if marks:
        control = _any_of(tuple(marks))
        chat = [{**m, "content": control.sub(lambda found: marks[found[0]], m["content"])}
                for m in chat]
    try:
        roles = tuple(m["role"] for m in chat if m["role"] != TOOLS)
        tools = next((m["content"] for m in chat if m["role"] == TOOLS), None)
        _check_template(tokenizer, template, roles, tools)
        text = _apply_template(tokenizer, chat, add_generation_prompt=generate)
    except Exception as error:  # templates raise what they like, e.g. for a system message
        raise DataError(f"the chat template of {tokenizer.name_or_path} refuses the prompt "
                        f"{everything[:60]!r}: {error}") from error
    text = text if generate else text.rstrip()
    pieces = re.split(f"([{''.join(tokens)}])", text) if tokens else [text]
    return [tokens.get(piece, piece) for piece in pieces]


def chat_ids(tokenizer, chats: Sequence[Messages], generate: bool = False) -> list[list[int]]:
    """Token ids of chats: of each `render`ed text, all at once.

    They are what `tokenizer(apply_chat_template(chat, tokenize=False), add_special_tokens=False)`
    gives plain transformers, so BOS comes exactly as often as the template writes it; but a user
    who writes a control token gets its letters.
    """
    pieces = [render(tokenizer, chat, generate) for chat in chats]
    encode = functools.partial(tokenizer, add_special_tokens=False, return_attention_mask=False)
    texts, letters = ([p for found in pieces for p in found[start::2]] for start in (0, 1))
    ids = iter(encode(texts)["input_ids"])
    plain = iter(encode(letters, split_special_tokens=True)["input_ids"] if letters else ())
    return [[i for place, _ in enumerate(found) for i in next(plain if place % 2 else ids)]
            for found in pieces]


# ---- token groups --------------------------------------------------------------------------------

def answer_rows(tokenizer,
                chats: Sequence[tuple[Messages, Sequence[str]]]) -> Iterable[list[list[int]]]:
    """Per (prompt, answers) the token ids of the chat that each answer ends."""
    rows = iter(chat_ids(tokenizer, [[*prompt, {"role": "assistant", "content": answer}]
                                     for prompt, answers in chats for answer in answers]))
    return [[next(rows) for _ in answers] for _, answers in chats]


def pair_tokens(pairs: Iterable[Pair], tokenizer,
                max_length: int) -> tuple[list[TokenPair], dict[str, int]]:
    """The pairs as [shared prefix, rest of chosen, rest of rejected], tokenized `CHUNK` at a time,
    and how many were dropped why.

    Over-length pairs are dropped, not truncated: a cut answer is another answer.
    Raises: DataError when nothing is left.
    """
    kept, dropped, rest = [], {"over_length": 0, "identical": 0}, iter(pairs)
    while chunk := list(itertools.islice(rest, CHUNK)):
        rows = answer_rows(tokenizer, [(p.prompt, (p.chosen, p.rejected)) for p in chunk])
        for pair, (chosen, rejected) in zip(chunk, rows, strict=True):
            if chosen == rejected:
                dropped["identical"] += 1
            elif max(len(chosen), len(rejected)) > max_length:
                dropped["over_length"] += 1
            else:  # arrays: 4 bytes a token, where a list takes up to 36
                kept.append(TokenPair(array("i", ids) for ids in shared_prefix([chosen, rejected])))
                if pair.margin:
                    kept[-1].target_margin = pair.margin
    if not kept:
        raise DataError(f"none of {sum(dropped.values())} pairs is left ({dropped}); raise "
                        f"data.max_length (now {max_length} tokens) or check the data")
    return kept, dropped


def token_fingerprint(pairs: Iterable[TokenPair]) -> str:
    """Short checksum of tokenized pairs, to tell whether they are what an earlier run saw."""
    digest = hashlib.sha256()
    for pair in pairs:
        for ids in pair:
            digest.update(len(ids).to_bytes(4, "little") + ids.tobytes())
        digest.update(repr(pair.target_margin).encode() if pair.target_margin else b"")
    return digest.hexdigest()[:16]
