"""One reply to a prompt: demonstrations in their several shapes, ratings of attributes, and binary feedback."""

from typing import Any

from tasks.preferences import dialogue
from tasks.preferences.dialogue import text
from tasks.preferences.formats import judged
from tasks.preferences.formats.building import (
    CONTEXT,
    GROUP,
    REPLY_KEYS,
    VOTE,
    Dropped,
    Format,
    Found,
    Value,
    asked,
    demonstration,
    first_key,
    has,
    in_context,
    is_number,
    named_pair,
    number,
    prompt_of,
    ranking,
    rated,
    vote_of,
)
from tasks.preferences.formats.comparisons import marked_turns
from tasks.preferences.screen import RefusedError
from tasks.records import Message

_ASKED = ("prompt", "question", "instruction")
_COMPLETIONS = ("completion", "response", "output", "answer")
_ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


def feedback(row: Value, source: str) -> Found:
    """Binary feedback on one reply, as KTO learns from. Ethayarajh 2024, arXiv:2402.01306.

    A label is true or false, 1 or 0, or a word for them. `is_safe` (BeaverTails) and `is_correct` are verdicts, too,
    and `kto_tag` of dialogues in ShareGPT's words.
    """
    said = judged.verdict_of(row)
    if said is None:
        return [Dropped("unanswered")]
    liked = judged.liked(said)
    if liked is None:
        raise RefusedError("bad_label")
    turns, reply = _single(row)
    vote = {key: value for key, value in vote_of(row).items() if key in ("rater", "weight", "created_at")}
    return [rated(turns, reply, liked, source, **vote)]


def _single(row: Value) -> tuple[list[Message], str]:
    """The prompt of a row and its one reply, in whatever shape. Raises RefusedError."""
    if (key := first_key(row, ("messages", "conversations", "conversation"))) in row and not _is_asked(row):
        turns, reply = dialogue.split_reply(dialogue.messages(row[key]))
        return in_context(row, turns), reply
    said = first_key(row, (*_COMPLETIONS, *REPLY_KEYS))
    if not isinstance(row.get(said), list):
        return prompt_of(row, first_key(row, _ASKED)), text(row, said)
    turns = dialogue.messages(row[said])
    if turns[0]["role"] == "assistant":
        turns = asked(row, first_key(row, _ASKED)) + turns
    turns, reply = dialogue.split_reply(turns)  # else the whole dialogue stands there
    return in_context(row, turns), reply


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
    turns, reply = dialogue.split_reply(dialogue.messages(row.get("messages")))
    return [demonstration(in_context(row, turns), reply, source)]


def sharegpt(row: Value, source: str) -> Found:
    """ShareGPT: `conversations` of `{from: human or gpt, value}`; replies before the first question are left out."""
    turns = dialogue.messages(row.get(first_key(row, ("conversations", "conversation"))))
    start = next((n for n, turn in enumerate(turns) if turn["role"] != "assistant"), len(turns))
    if start == len(turns):
        raise RefusedError("missing_field")
    early: list[Any] = [Dropped("reply_before_question")] if start else []
    turns, reply = dialogue.split_reply(turns[start:])
    return [demonstration(in_context(row, turns), reply, source), *early]


def alpaca(row: Value, source: str) -> Found:
    """Alpaca: `instruction`, `input` where there is one, `output`; `system` and `history` as others add them."""
    if row.get("input") is not None and not isinstance(row["input"], str):
        raise RefusedError("type")
    key = "instruction" if row.get("instruction") or not row.get("input") else "input"
    if key == "instruction":
        text(row, key)
    return [demonstration(prompt_of(row, key), text(row, first_key(row, _COMPLETIONS[::-1])), source)]


def prompt_completion(row: Value, source: str) -> Found:
    """`prompt` and `completion` (or `response`, `output`, `answer`; `question`), as texts or as messages."""
    turns, reply = _single(row)
    context = row.get("context")
    if isinstance(context, str) and context.strip() and "instruction" in row:
        turns = [*turns[:-1], {"role": "user", "content": f"{turns[-1]['content']}\n\n{context}"}]
    return [demonstration(turns, reply, source)]


_OTHERS = {
    "chosen",
    "rejected",
    "reply_a",
    "reply_b",
    "expected",
    "steps",
    "output_1",
    "output_2",
    "reply",
    *_ATTRIBUTES,
}


def _is_other(row: Value) -> bool:
    return bool(_OTHERS & row.keys()) or named_pair(row) is not None


def _is_asked(row: Value) -> bool:
    return any(key in row for key in _ASKED)


def _is_feedback(row: Value) -> bool:
    if not judged.is_judged(row) or _is_other(row) or not judged.has_verdict(row):
        return False
    said = first_key(row, (*_COMPLETIONS, *REPLY_KEYS))
    if _is_asked(row):
        return said in row and not isinstance(row[said], dict)
    return any(_is_messages(row.get(key)) for key in ("messages", "conversations", "conversation", said))


def _is_completion(row: Value) -> bool:
    asks = "prompt" in row or has(row, "question", "answer") or has(row, "instruction", "response")
    if not asks or judged.is_judged(row) or _is_other(row) or "messages" in row:
        return False
    return "completion" in row or any(isinstance(row.get(k), str) or _is_messages(row.get(k)) for k in _COMPLETIONS)


def _is_messages(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and isinstance(value[0], dict)
        and bool({"role", "from"} & set(value[0]))
    )


def _is_dialogue(row: Value) -> bool:
    return named_pair(row) is None and not judged.is_judged(row)


FORMATS = (
    Format(
        "feedback",
        VOTE
        | {
            *_ASKED,
            *CONTEXT,
            *judged.LIKED,
            *judged.SAID,
            *judged.WORDS,
            *REPLY_KEYS,
            "messages",
            "conversations",
            "conversation",
        },
        _is_feedback,
        feedback,
    ),
    Format(
        "helpsteer",
        frozenset({"prompt", "response", *_ATTRIBUTES, GROUP}),
        lambda row: has(row, "response", "helpfulness") and "prompt" in row,
        helpsteer,
        group=_prompt_of,
    ),
    Format(
        "chat",
        frozenset({"messages", *CONTEXT}),
        lambda row: "messages" in row and _is_dialogue(row),
        chat,
    ),
    Format(
        "sharegpt",
        frozenset({"conversations", "conversation", *CONTEXT}),
        lambda row: (
            ("conversations" in row or _is_messages(row.get("conversation")))
            and "messages" not in row
            and _is_dialogue(row)
        ),
        sharegpt,
    ),
    Format(
        "alpaca",
        frozenset({"instruction", "output", *CONTEXT}),
        lambda row: has(row, "instruction", "output") and _is_dialogue(row),
        alpaca,
    ),
    Format(
        "prompt_completion",
        frozenset({*_ASKED, "context", *CONTEXT, *_COMPLETIONS}),
        lambda row: _is_completion(row) and not has(row, "instruction", "output"),
        prompt_completion,
    ),
)
