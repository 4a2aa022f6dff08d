"""The one place where text becomes tokens."""

from .card import DATE
from .data import DataError, Messages, Pair


def _ids(tokenizer, text: str, trusted: bool) -> list[int]:
    """Token ids; control tokens are recognised in the template's own text only."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=not trusted)["input_ids"]


def tokenize(tokenizer, prompt: Messages, response: str) -> tuple[list[int], list[int]]:
    """Token ids of the prompt, up to where the answer begins, and of the answer, which ends in the
    template's end-of-turn token.

    The chat template is rendered around placeholders and its own pieces are tokenized apart from
    users' text. So a user who writes a control token gets its letters, the prompt's ids do not
    depend on the response, and BOS comes exactly as often as the template writes it. Outer white
    space of every text, and what the template puts after the last end-of-turn token, is removed.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise DataError(f"tokenizer {tokenizer.name_or_path} has no chat template; "
                        "use an instruction-tuned model's or set tokenizer.chat_template")
    texts = [m["content"] for m in prompt] + [response]
    marked = [{"role": m["role"], "content": f"\ue000{i}\ue001"} for i, m in enumerate(prompt)]
    marked.append({"role": "assistant", "content": f"\ue000{len(prompt)}\ue001"})
    try:
        rest = tokenizer.apply_chat_template(marked, tokenize=False, date_string=DATE)
    except Exception as error:  # templates raise what they like, e.g. for a system message
        raise DataError(f"the chat template of {tokenizer.name_or_path} refuses the prompt "
                        f"{texts[0][:60]!r}: {error}") from error
    ids, prompt_length = [], 0
    for i, text in enumerate(texts):
        before, mark, rest = rest.partition(f"\ue000{i}\ue001")
        if not mark:
            raise DataError(f"the chat template of {tokenizer.name_or_path} drops or reorders "
                            f"message {i} ({prompt[i]['role'] if i < len(prompt) else 'answer'})")
        ids += _ids(tokenizer, before, trusted=True)
        prompt_length = len(ids)
        ids += _ids(tokenizer, text.strip(), trusted=False)
    ids += _ids(tokenizer, rest.rstrip(), trusted=True)
    return ids[:prompt_length], ids[prompt_length:]


def tokenize_pairs(
    pairs: list[Pair], tokenizer, max_length: int
) -> tuple[list[dict], dict[str, int]]:
    """Rows `chosen_ids, rejected_ids, prompt_length`, and how many pairs were dropped why.

    Over-length pairs are dropped, not truncated: a cut answer is another answer.
    Raises: DataError when nothing is left.
    """
    rows, dropped = [], {"over_length": 0, "identical": 0}
    for pair in pairs:
        prompt, chosen = tokenize(tokenizer, pair.prompt, pair.chosen)
        rejected = tokenize(tokenizer, pair.prompt, pair.rejected)[1]
        if chosen == rejected:
            dropped["identical"] += 1
        elif len(prompt) + max(len(chosen), len(rejected)) > max_length:
            dropped["over_length"] += 1
        else:
            rows.append({"chosen_ids": prompt + chosen, "rejected_ids": prompt + rejected,
                         "prompt_length": len(prompt)})
    if not rows:
        raise DataError(f"none of {len(pairs)} pairs is left ({dropped}); raise data.max_length "
                        f"(now {max_length} tokens) or check the data")
    return rows, dropped
