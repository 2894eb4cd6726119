"""One reply to a prompt: demonstrations in their several shapes, ratings of attributes, and binary feedback."""

from itertools import chain
from typing import Any

from tasks.preferences import dialogue
from tasks.preferences.dialogue import text
from tasks.preferences.formats.building import (
    GROUP,
    PAIRS,
    REPLY_KEYS,
    Dropped,
    Format,
    Found,
    Value,
    demonstration,
    first_key,
    has,
    is_number,
    named_pair,
    number,
    ranking,
    rated,
)
from tasks.preferences.formats.comparisons import marked_turns
from tasks.preferences.screen import RefusedError

_LIKED = ("label", "desirable", "liked", "thumbs_up", "is_safe", "is_correct")
_SAID = ("feedback", "thumbs", "vote", "verdict")  # where their value is one of these words; else they say other things
_WORDS = {True: {"thumbs_up", "good", "like", "positive", "up", "👍"}}
_WORDS[False] = {"thumbs_down", "bad", "dislike", "negative", "down", "👎"}
_MEANS: dict[Any, bool] = {word: liked for liked, words in _WORDS.items() for word in words} | {1: True, 0: False}
_COMPLETIONS = ("completion", "response", "output", "answer")
_ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


def feedback(row: Value, source: str) -> Found:
    """Binary feedback on one reply, as KTO learns from. Ethayarajh 2024, arXiv:2402.01306.

    A label is true or false, 1 or 0, or a word for them. `is_safe` (BeaverTails) and `is_correct` are verdicts, too.
    """
    turns = dialogue.prompt(row.get("prompt"))
    liked = _liked(row.get(first_key(row, (*_LIKED, *_SAID))))
    if liked is None:
        raise RefusedError("bad_label")
    key = first_key(row, REPLY_KEYS)
    if isinstance(row.get(key), list):
        turns, reply = dialogue.split_reply(turns + dialogue.messages(row[key]))
    else:
        reply = text(row, key)
    return [rated(turns, reply, liked, source)]


def _liked(value: Any) -> bool | None:
    if isinstance(value, str):
        value = value.strip().casefold().replace(" ", "_").replace("-", "_")
    return _MEANS.get(value) if isinstance(value, str | int) else None


def helpsteer(row: Value, source: str) -> Found:
    """HelpSteer 1 and 2: attributes of a reply from 0 to 4; the replies to one prompt stand in rows together.

    Wang 2023, arXiv:2311.09528. They are ranked by helpfulness, equal ones tie; the attributes become scores.
    """
    group = row.get(GROUP)
    if not group:
        return []
    replies = [text(item, "response") for item in group]
    if len(replies) < 2:
        return [Dropped("single_reply")]
    names = [name for name in _ATTRIBUTES if all(is_number(item.get(name)) for item in group)]
    scores: dict[str, list[float | None]] = {name: [float(item[name]) for item in group] for name in names}
    return ranking(marked_turns(row.get("prompt")), replies, [-item["helpfulness"] for item in group], source, scores)


def _prompt_of(row: Value) -> object:
    marked_turns(row.get("prompt"))
    text(row, "response")
    if not 0 <= number(row, "helpfulness") <= 10:
        raise RefusedError("range")
    return row["prompt"]


def chat(row: Value, source: str) -> Found:
    """Chat: `messages` that end with the assistant, whose last reply is the one to imitate."""
    return [demonstration(*dialogue.split_reply(dialogue.messages(row.get("messages"))), source)]


def sharegpt(row: Value, source: str) -> Found:
    """ShareGPT: `conversations` of `{from: human or gpt, value}`; replies before the first question are left out."""
    turns = dialogue.messages(row.get(first_key(row, ("conversations", "conversation"))))
    start = next((n for n, turn in enumerate(turns) if turn["role"] != "assistant"), len(turns))
    if start == len(turns):
        raise RefusedError("missing_field")
    early: list[Any] = [Dropped("reply_before_question")] if start else []
    system = row.get("system")
    if isinstance(system, str) and system.strip() and turns[start]["role"] == "user":
        turns[start:start] = [{"role": "system", "content": system}]
    return [demonstration(*dialogue.split_reply(turns[start:]), source), *early]


def alpaca(row: Value, source: str) -> Found:
    """Alpaca: `instruction`, `input` where there is one, `output`; `system` and `history` as others add them."""
    asked = text(row, "instruction") if row.get("instruction") or not row.get("input") else row["input"]
    more = row.get("input")
    if more is not None and not isinstance(more, str):
        raise RefusedError("type")
    if more and more.strip() and more is not asked:
        asked = f"{asked}\n\n{more}"
    return [demonstration(dialogue.prompt(asked), text(row, first_key(row, _COMPLETIONS[::-1])), source)]


def prompt_completion(row: Value, source: str) -> Found:
    """`prompt` and `completion` (or `response`, `output`, `answer`; `question`), as texts or as messages."""
    turns = dialogue.prompt(row.get(first_key(row, ("prompt", "question", "instruction"))))
    key = first_key(row, _COMPLETIONS)
    context = row.get("context")
    if isinstance(context, str) and context.strip() and "instruction" in row:
        turns[-1] = {"role": "user", "content": f"{turns[-1]['content']}\n\n{context}"}
    if isinstance(row.get(key), list):
        return [demonstration(*dialogue.split_reply(turns + dialogue.messages(row[key])), source)]
    return [demonstration(turns, text(row, key), source)]


_OTHERS = {*chain(*PAIRS), "reply_a", "reply_b", "expected", "steps", *_ATTRIBUTES, "output_1", "output_2"}


def _is_feedback(row: Value) -> bool:
    return (
        "prompt" in row
        and "reply" not in row
        and (
            any(key in row for key in _LIKED[1:])
            or has(row, "label", "completion")
            or has(row, "label", "response")
            or _says(row)
        )
    )


def _says(row: Value) -> bool:
    return any(_liked(row.get(key)) is not None for key in _SAID)


def _is_completion(row: Value) -> bool:
    asked = "prompt" in row or has(row, "question", "answer") or has(row, "instruction", "response")
    said = any(isinstance(row.get(key), str) or _is_messages(row.get(key)) for key in _COMPLETIONS)
    if not asked or _says(row) or (set(_LIKED) | _OTHERS | {"reply", "messages"}) & set(row):
        return False
    return said or "completion" in row


def _is_messages(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and "role" in value[0]


FORMATS = (
    Format("feedback", frozenset({"prompt", *_LIKED, *_SAID, *REPLY_KEYS}), _is_feedback, feedback),
    Format(
        "helpsteer",
        frozenset({"prompt", "response", *_ATTRIBUTES, GROUP}),
        lambda row: has(row, "response", "helpfulness") and "prompt" in row,
        helpsteer,
        group=_prompt_of,
    ),
    Format(
        "chat",
        frozenset({"messages"}),
        lambda row: "messages" in row and named_pair(row) is None,
        chat,
    ),
    Format(
        "sharegpt",
        frozenset({"conversations", "conversation", "system"}),
        lambda row: (
            ("conversations" in row or _is_messages(row.get("conversation")))
            and "messages" not in row
            and named_pair(row) is None
        ),
        sharegpt,
    ),
    Format(
        "alpaca",
        frozenset({"instruction", "input", "output"}),
        lambda row: has(row, "instruction", "output"),
        alpaca,
    ),
    Format(
        "prompt_completion",
        frozenset({"prompt", "question", "instruction", "context", *_COMPLETIONS}),
        lambda row: _is_completion(row) and not has(row, "instruction", "output"),
        prompt_completion,
    ),
)
