"""Pairs and groups of answers, and how a row says what their conversation is. What is checked here
raises ValueError; `data.convert` adds file and row."""

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

Messages = list[dict[str, str]]
TOOLS = "tools"  # role of a first message that holds a JSON list of tools, for the template


@dataclass
class Pair:
    """One comparison: the conversation so far, the preferred and the other answer; `margin` is the
    one demanded of their rewards, see `losses.bt_loss`."""

    prompt: Messages
    chosen: str
    rejected: str
    margin: float | None = None


@dataclass
class Group:
    """One ranking set: K answers to a prompt with their gold scores and source models."""

    prompt: Messages
    responses: list[str]
    gold: list[float]
    models: list[str]
    split: str | None = None  # train, dev or valid; of a benchmark: its subset


class Dropped(ValueError):
    """A row that a published data set is known to hold some of: left out and counted."""


# ---- checks --------------------------------------------------------------------------------------

def column(row: dict, name: str):
    if row.get(name) is None:
        raise ValueError(f"column {name!r} is missing or null; found columns: {', '.join(row)}")
    return row[name]


WRITTEN = re.compile(r"""\s*\[?\s*\{[^{}]{0,200}?['"](role|from)['"]\s*:""")


def text(value, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        what = "empty text" if isinstance(value, str) else type(value).__name__
        raise ValueError(f"{name} must be non-empty text, got {what}")
    if WRITTEN.match(value):
        raise ValueError(f"{name} is messages written as text: store them as a list of objects")
    value.encode()  # a lone surrogate is a ValueError here, and no tokenizer's trouble later
    return value


def number(value, name: str) -> float:
    try:  # CSV knows text alone
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not abs(found) < 1e38:
        raise ValueError(f"{name} must be a finite number, got {value!r:.40}: remove or rescore it")
    return found


# ---- conversations -------------------------------------------------------------------------------

# no other role: templates write any word where their own control tokens stand
ROLES = {name: name for name in ("system", "developer", "user", "assistant", "tool", "function")}
ROLES |= {"human": "user", "prompter": "user", "gpt": "assistant", "observation": "tool"}
HH_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
LIKE_HH = re.compile(r"\s*(Human|System):.*\n\s*Assistant:|\n\nHuman:", re.DOTALL)
# of a message: what would be lost with the name of the way out
MESSAGE_FIELDS = dict.fromkeys(("tool_calls", "function_call"), "calls a tool") | dict.fromkeys(
    ("reasoning_content", "reasoning", "thinking"), "holds its reasoning apart")
# what a row or a message may say of its conversation that text alone cannot carry
REFUSED = ("images", "image", "videos", "video", "audios", "audio", "documents", "history")


def refuse(row: dict, columns: Iterable[str]) -> None:
    for name in columns:
        if row.get(name):
            raise ValueError(f"{name!r} is part of the conversation and not supported here: "
                             "remove the row, or it where it does not matter")


def read_messages(value, name: str) -> Messages:
    """Messages of a text, a message or a list of them, in OpenAI's words or ShareGPT's."""
    if isinstance(value, str):
        return [{"role": "user", "content": text(value, name)}]
    value = [value] if isinstance(value, dict) else value
    if not isinstance(value, list) or not value:
        raise ValueError(f"{name} must be text or a list of messages, got {type(value).__name__}")
    messages = []
    for i, message in enumerate(value):
        if isinstance(message, dict) and message.get("from") is not None:
            message = {**message, "role": message["from"], "content": message.get("value")}
        role = message.get("role") if isinstance(message, dict) else None
        if not isinstance(role, str):
            raise ValueError(f"{name}[{i}] must be a message with role and content")
        for field, what in MESSAGE_FIELDS.items():
            if message.get(field) or role == field:
                raise ValueError(f"{name}[{i}] {what}, which is not supported ({field}): write it "
                                 "into its content, or remove the row")
        refuse(message, REFUSED)
        if role.lower() not in ROLES:
            raise ValueError(f"{name}[{i}] must be of one of the roles {', '.join(ROLES)}, not of "
                             f"{role!r:.40}")
        messages.append({"role": ROLES[role.lower()],
                         "content": text(message.get("content"), f"{name}[{i}].content")})
    return messages


def hh_turns(value) -> Messages | None:
    """The turns of a dialog in HH-RLHF's words, "\\n\\nHuman: ...\\n\\nAssistant: ...", empty ones
    included; None of anything else."""
    value = value.replace("\r\n", "\n") if isinstance(value, str) else ""
    if not (value.lstrip().startswith("Human:") and "\n\nAssistant:" in value):
        if LIKE_HH.match(value):
            raise ValueError("a dialog nearly as HH-RLHF writes it: its turns must begin with "
                             "'\\n\\nHuman:' and '\\n\\nAssistant:'; or give messages")
        return None
    _, *parts = HH_TURN.split(value.strip())
    return [{"role": "user" if who == "Human" else "assistant", "content": said.strip()}
            for who, said in zip(parts[::2], parts[1::2], strict=True)]


def prompt_of(row: dict, prompt: Messages, name: str = "prompt") -> Messages:
    """A row's conversation up to the answer: its `system` text before the messages, its `tools` in
    a first message of their own for the template."""
    refuse(row, REFUSED)
    if prompt[-1]["role"] == "assistant":
        raise ValueError(f"{name} ends in an assistant message: an answer must follow a user's")
    if row.get("system"):
        if prompt[0]["role"] == "system" and prompt[0]["content"] != row["system"]:
            raise ValueError(f"column 'system' and the system message of {name} differ: keep one")
        prompt = prompt[prompt[0]["role"] == "system":]
        prompt.insert(0, {"role": "system", "content": text(row["system"], "system")})
    if tools := row.get("tools"):
        try:
            tools = json.loads(tools) if isinstance(tools, str) else tools
        except ValueError:
            tools = None
        if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
            raise ValueError("column 'tools' must be a list of JSON schemas, or that as text")
        if tools:
            content = text(json.dumps(tools, ensure_ascii=False), "tools")
            prompt.insert(0, {"role": TOOLS, "content": content})
    return prompt
