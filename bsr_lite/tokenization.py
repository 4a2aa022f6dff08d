"""The one place where text becomes tokens."""

import functools
import hashlib
import itertools
from array import array
from collections.abc import Iterable, Sequence

from .batching import TokenGroup, shared_prefix
from .data import Messages, Pair
from .errors import DataError
from .saving import DATE

CHUNK = 512  # chats tokenized by one call, which spreads over the cores


@functools.lru_cache(maxsize=256)
def _template_ids(tokenizer, template: str, roles: tuple[str, ...]) -> list[list[int]]:
    """Token ids of the chat template's own pieces around messages of these roles: before each, and
    after the last up to its end-of-turn token. Rendered once, around placeholders.

    Raises: ValueError when it drops or reorders a message; what the template itself raises.
    """
    marked = [{"role": role, "content": f"\ue000{i}\ue001"} for i, role in enumerate(roles)]
    rest = tokenizer.apply_chat_template(marked, tokenize=False, date_string=DATE)
    pieces = []
    for i, role in enumerate(roles):
        before, mark, rest = rest.partition(f"\ue000{i}\ue001")
        if not mark:
            raise ValueError(f"it drops or reorders message {i} ({role})")
        pieces.append(before)
    return [tokenizer(text, add_special_tokens=False)["input_ids"]
            for text in (*pieces, rest.rstrip())]


def _pieces(tokenizer, prompt: Messages) -> list[list[int]]:
    """Raises: DataError naming the tokenizer and the prompt."""
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        raise DataError(f"tokenizer {tokenizer.name_or_path} has no chat template; "
                        "use an instruction-tuned model's or set tokenizer.chat_template")
    try:
        return _template_ids(tokenizer, template, (*(m["role"] for m in prompt), "assistant"))
    except Exception as error:  # templates raise what they like, e.g. for a system message
        raise DataError(f"the chat template of {tokenizer.name_or_path} refuses the prompt "
                        f"{prompt[0]['content'][:60]!r}: {error}") from error


def tokenize_chats(tokenizer,
                   chats: Sequence[tuple[Messages, Sequence[str]]]) -> list[TokenGroup]:
    """Per chat [prompt ids, ids of each answer]; the prompt ends where the answer begins, every
    answer in the template's end-of-turn token.

    The template's pieces are tokenized apart from users' text, and control tokens recognised in
    them alone. So a user who writes a control token gets its letters, the prompt's ids do not
    depend on the response, and BOS comes exactly as often as the template writes it. Outer white
    space of every text, and what the template puts after the last end-of-turn token, is removed.
    Raises: DataError naming the tokenizer and what its template lacks.
    """
    pieces = [_pieces(tokenizer, prompt) for prompt, _ in chats]
    texts = [text.strip() for prompt, answers in chats
             for text in (*(m["content"] for m in prompt), *answers)]
    ids = iter(tokenizer(texts, add_special_tokens=False, split_special_tokens=True,
                         return_attention_mask=False)["input_ids"])
    chats_ids = []
    for (prompt, answers), template in zip(chats, pieces, strict=True):
        prompt_ids = [i for before in template[:len(prompt)] for i in (*before, *next(ids))]
        chats_ids.append([prompt_ids + template[-2],
                          *(next(ids) + template[-1] for _ in answers)])
    return chats_ids


def tokenize(tokenizer, prompt: Messages, response: str) -> tuple[list[int], list[int]]:
    """`tokenize_chats` of one prompt and answer."""
    ((prompt_ids, response_ids),) = tokenize_chats(tokenizer, [(prompt, [response])])
    return prompt_ids, response_ids


def pair_tokens(pairs: Iterable[Pair], tokenizer,
                max_length: int) -> tuple[list[TokenGroup], dict[str, int]]:
    """The pairs as [shared prefix, rest of chosen, rest of rejected], tokenized `CHUNK` at a time,
    and how many were dropped why.

    Over-length pairs are dropped, not truncated: a cut answer is another answer.
    Raises: DataError when nothing is left.
    """
    kept, dropped, rest = [], {"over_length": 0, "identical": 0}, iter(pairs)
    while chunk := list(itertools.islice(rest, CHUNK)):
        for prompt, chosen, rejected in tokenize_chats(
                tokenizer, [(p.prompt, (p.chosen, p.rejected)) for p in chunk]):
            if chosen == rejected:
                dropped["identical"] += 1
            elif len(prompt) + max(len(chosen), len(rejected)) > max_length:
                dropped["over_length"] += 1
            else:  # arrays: 4 bytes a token, where a list takes up to 36
                kept.append([array("i", ids) for ids in shared_prefix(prompt, [chosen, rejected])])
    if not kept:
        raise DataError(f"none of {sum(dropped.values())} pairs is left ({dropped}); raise "
                        f"data.max_length (now {max_length} tokens) or check the data")
    return kept, dropped


def token_fingerprint(token_groups: Iterable[TokenGroup]) -> str:
    """Short checksum of tokens, to tell whether they are what an earlier run saw."""
    digest = hashlib.sha256()
    for group in token_groups:
        for ids in group:
            digest.update(len(ids).to_bytes(4, "little") + ids.tobytes())
    return digest.hexdigest()[:16]
