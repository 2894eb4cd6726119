"""Dialogues: messages checked and compared, whatever form they came in.

A prompt is an optional system message, then user and assistant in turn, ending with the user.
"""

import hashlib
import re
import unicodedata
from functools import lru_cache
from typing import Any

from tasks.preferences.confusables import plain
from tasks.preferences.screen import RefusedError
from tasks.records import ROLES, Message

_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"human": "user", "prompter": "user", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant"}
_ROLES |= {"bot": "assistant", "ai": "assistant", "developer": "system"}
_SPEAKER = {"Human": "user", "Assistant": "assistant"}
_FOLDED = 1024  # texts remembered folded: a row asks for each of its own several times
_LONG = 1 << 14  # characters of a text that is not remembered


def text(row: dict[str, Any], key: str) -> str:
    """A text field that must be there and say something. Raises RefusedError."""
    value = row.get(key)
    if value is None:
        raise RefusedError("missing_field")
    if not isinstance(value, str):
        raise RefusedError("type")
    if not value.strip():
        raise RefusedError("empty_text")
    return value


def prompt(value: Any) -> list[Message]:
    """A prompt given as text, as an HH-RLHF dialogue, or as messages. Raises RefusedError."""
    if value is None:
        raise RefusedError("missing_field")
    if isinstance(value, str):
        if not value.strip():
            raise RefusedError("empty_prompt")
        turns = transcript(value) if is_transcript(value) else [Message(role="user", content=value)]
        if len(turns) > 1 and turns[-1]["role"] == "assistant" and not turns[-1]["content"]:
            turns.pop()  # an open "Assistant:" at the end invites the reply
        return check_prompt(turns)
    return check_prompt(messages(value))


def messages(value: Any) -> list[Message]:
    """Messages as `{role, content}`, or `{from, value}` in the words of ShareGPT; other keys are dropped.

    Content may be a list of parts of type text. Raises RefusedError.
    """
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise RefusedError("type")
    if not value:
        raise RefusedError("empty_prompt")
    found = []
    for item in value:
        role, content = item.get("role"), item.get("content")
        if role is None and "from" in item:
            role, content = item["from"], item.get("value")
        if role is None or content is None:
            raise RefusedError("missing_field")
        role = _ROLES.get(role.casefold(), role.casefold()) if isinstance(role, str) else role
        if isinstance(content, list):
            content = _joined(content)
        if not isinstance(role, str) or not isinstance(content, str):
            raise RefusedError("type")
        if role not in ROLES:
            raise RefusedError("bad_dialogue")
        if role != "system" or content.strip():  # a system message that says nothing is none
            found.append(Message(role=role, content=content))
    if not found:
        raise RefusedError("empty_prompt")
    return found


def _joined(parts: list[Any]) -> str:
    if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in parts):
        raise RefusedError("type")
    return "\n".join(part["text"] for part in parts)


def is_transcript(value: Any) -> bool:
    """Whether a text is a whole dialogue in the form of HH-RLHF."""
    return isinstance(value, str) and bool(re.match(r"\s*Human:", value))


def transcript(value: str) -> list[Message]:
    """Cut an HH-RLHF dialogue ("\\n\\nHuman: ...\\n\\nAssistant: ...") into messages."""
    parts = _TURN.split("\n\n" + value.replace("\r\n", "\n").lstrip())
    return [
        Message(role=_SPEAKER[speaker], content=content.strip())
        for speaker, content in zip(parts[1::2], parts[2::2], strict=True)
    ]


def split_reply(turns: list[Message]) -> tuple[list[Message], str]:
    """A whole dialogue as (prompt, last reply). Raises RefusedError."""
    if turns[-1]["role"] != "assistant":
        raise RefusedError("no_target")
    if len(turns) == 1:
        raise RefusedError("missing_field")  # an answer without a question
    before = check_prompt(turns[:-1])
    if not turns[-1]["content"].strip():
        raise RefusedError("empty_text")
    return before, turns[-1]["content"]


def split_pair(chosen: list[Message], rejected: list[Message]) -> tuple[list[Message], str, str]:
    """Two whole dialogues as (their common prompt, chosen reply, rejected reply). Raises RefusedError."""
    prompt_of_chosen, reply = split_reply(chosen)
    prompt_of_rejected, other = split_reply(rejected)
    if prompt_of_chosen != prompt_of_rejected:
        raise RefusedError("prompt_mismatch")
    return prompt_of_chosen, reply, other


def check_prompt(turns: list[Message]) -> list[Message]:
    """Raises RefusedError unless roles stand in order and every turn says something."""
    body = turns[1:] if turns and turns[0]["role"] == "system" else turns
    if not body:
        raise RefusedError("empty_prompt")
    expected = ["user", "assistant"] * (len(body) // 2 + 1)
    if [turn["role"] for turn in body] != expected[: len(body)] or body[-1]["role"] != "user":
        raise RefusedError("bad_dialogue")
    if not body[-1]["content"].strip():
        raise RefusedError("empty_prompt")
    if not all(turn["content"].strip() for turn in turns):
        raise RefusedError("bad_dialogue")
    return turns


def fold(value: str) -> str:
    """The form in which two texts are compared: NFKC, letters as they look, no case, white space collapsed."""
    return _remembered(value) if len(value) < _LONG else _fold(value)


def _fold(value: str) -> str:
    if not value.isascii():
        return " ".join(plain(unicodedata.normalize("NFKC", value)).casefold().split())
    folded = value.lower()
    is_collapsed = folded.isprintable() and "  " not in folded and folded == folded.strip(" ")
    return folded if is_collapsed else " ".join(folded.split())


_remembered = lru_cache(_FOLDED)(_fold)


def cluster(turns: list[Message]) -> str:
    """The cluster of a prompt: its first user turn, folded.

    Dialogues that begin alike stay on one side of a split, so a later turn never reveals an earlier reply.
    """
    first = next(turn["content"] for turn in turns if turn["role"] == "user")
    return hashlib.sha256(fold(first).encode()).hexdigest()[:16]
