"""Scores of a policy's answers: the rewards it is trained on, and what is tracked as gold, which is
the pocket world's formula or any reward model."""

import itertools
from collections.abc import Callable

import torch

from . import machine
from .conversations import REFUSED, read_messages, refuse, text
from .data import convert, read_rows
from .errors import DataError, ModelError
from .eval_rm import group_tokens, score_tokens
from .gold import WORDS_PER_UNIT, gold_reward, gold_terms
from .models import load_reward_model

# A batch as `generate.roll_out` gives it, a dict a prompt: its `row`, the `texts` of its answers
# and whether each `finished`, that is, ended by itself -> one score an answer, (P, K). All at once:
# on a GPU a pass of one prompt costs as much as one of many.
Scorer = Callable[[list[dict]], list[list[float]]]


def read_prompts(source: str, split: str | None = None, pocket: bool = False,
                 least: int = 1) -> list[dict]:
    """Rows of one split (None: all) with a text `prompt`, or `instruction` as AlpacaEval calls it;
    `pocket`: with what the pocket world's gold needs to know of a prompt, too.

    Raises: DataError naming file, row and fix, and for fewer than `least`.
    """
    def checked(row: dict) -> dict | None:
        if split and row.get("split") != split:
            return None
        refuse(row, (*REFUSED, "system", "tools", "input"))
        prompt = text(row.get("instruction") or row.get("prompt"), "instruction, or prompt,")
        stems, count = row.get("stems"), row.get("count")
        if pocket and not (row.get("unit") in [*WORDS_PER_UNIT] and type(count) is int and count > 0
                           and isinstance(stems, list) and {*map(type, stems)} <= {str}):
            raise ValueError("the pocket world's gold needs `unit` (sentence or item), `count` "
                             "(1, 2, ...) and `stems` (a list of texts)")
        return row | {"prompt": prompt}

    found = [row for row in convert(source, read_rows(source), checked) if row]
    if len(found) < least:
        raise DataError(f"{source}: {f'{len(found)} prompts' if found else 'no row'} of split "
                        f"{split or 'any'!r}, {least} asked for")
    return found


# ---- gold ----------------------------------------------------------------------------------------

def gold_scorer(batch: list[dict]) -> list[list[float]]:
    """`pocket_gold` of a batch."""
    return [pocket_gold(b["row"], b["texts"], b["finished"]) for b in batch]


def pocket_terms(row: dict, texts: list[str], finished: list[bool]) -> list[dict[str, float]]:
    """The terms of the pocket world's gold; `row` carries what the prompt asks for."""
    return [gold_terms(text, finished=end, **{key: row[key] for key in ("unit", "count", "stems")})
            for text, end in zip(texts, finished, strict=True)]


def pocket_gold(row: dict, texts: list[str], finished: list[bool]) -> list[float]:
    """r* of the pocket world."""
    return list(map(gold_reward, pocket_terms(row, texts, finished)))


def model_gold(name: str, trust_remote_code: bool) -> Scorer:
    """Scores of a reward model: a folder of save_reward_model, or any sequence classifier of one
    label; with `trust_remote_code` one that brings its own code, as ArmoRM, whose output carries
    its gated sum of objectives as `score`.

    Raises: ModelError when it cannot be loaded, or needs code of its own.
    """
    if not trust_remote_code:
        try:
            model = load_reward_model(name, for_scoring=True)
        except ModelError as error:
            raise ModelError(f"{error} If it brings its own code, read that and set "
                             "trust_remote_code: true") from error
        return reward_scorer(model)
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    try:
        model = AutoModelForSequenceClassification.from_pretrained(
            name, trust_remote_code=True, dtype=getattr(
                torch, machine.resolve_dtype("bfloat16", saved=True))).eval().to(machine.device())
        tokenizer = AutoTokenizer.from_pretrained(name)
    except Exception as error:  # the hub and remote code raise of all kinds
        raise ModelError(f"cannot load {name}: {' '.join(str(error).split())}") from error

    @torch.no_grad()
    def score(prompt: str, answer: str) -> float:
        chat = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        ids = tokenizer(tokenizer.apply_chat_template(chat, tokenize=False),
                        add_special_tokens=False, return_tensors="pt")
        out = model(**ids.to(model.device))
        value = out.score if hasattr(out, "score") else out.logits
        if value.numel() != 1:
            raise ModelError(f"{name} gives {value.numel()} numbers an answer, not one")
        return value.float().item()
    # one by one: what it makes of padding is not ours to know
    return lambda batch: [[score(b["row"]["prompt"], text) for text in b["texts"]] for b in batch]


# ---- rewards -------------------------------------------------------------------------------------

def reward_scorer(model, token_budget: int = 4096) -> Scorer:
    """Rewards of one of our reward models: what `eval_rm` gives, a prompt computed once for all its
    answers."""
    def scores(batch: list[dict]) -> list[list[float]]:
        token_groups = [group_tokens(model.tokenizer, read_messages(b["row"]["prompt"], "prompt"),
                                     b["texts"]) for b in batch]
        return [s["rewards"].tolist() for s in score_tokens(model, token_groups, token_budget)]
    return scores


def reward_function(model, token_budget: int = 4096):
    """`reward_funcs` of TRL's RLOOTrainer and GRPOTrainer: `reward_scorer` in their words, answers
    to one prompt in a row. A completion of several messages is scored at its last one. Of a model
    loaded with for_scoring=True it gives what `studies.evaluate` scores. The folder that
    `scale.merge` wrote works as a path, too, but does not strip white space around answers.

    Raises: DataError for a completion that ends in no answer, or holds what is no text."""
    score = reward_scorer(model, token_budget)

    def chat(prompt, completion) -> tuple[list, str]:
        """What came before the last answer, turns of the completion included, and that answer."""
        *turns, last = ([{"role": "assistant", "content": completion}]
                        if isinstance(completion, str) else completion)
        try:
            if last["role"] != "assistant" or not isinstance(last["content"], str):
                raise ValueError(f"a completion ends in {last!r:.60}, not in an assistant's text")
            before = read_messages(turns, "completion") if turns else []
            return [*read_messages(prompt, "prompt"), *before], last["content"]
        except ValueError as error:
            raise DataError(f"a rollout cannot be scored: {error}") from error

    def reward_model(prompts, completions, **_) -> list[float]:
        chats = map(chat, prompts, completions)
        batch = [{"row": {"prompt": prompt}, "texts": [answer for _, answer in found]}
                 for prompt, found in itertools.groupby(chats, lambda c: c[0])]
        return [reward for rewards in score(batch) for reward in rewards]
    return reward_model
