"""The canonical records as an input format (JSON Lines or parquet), one kind per dataset.

Prompt, replies and label must be there; what a record can do without takes its default.
"""

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from functools import cache
from typing import Any

from tasks.preferences import dialogue
from tasks.preferences.dialogue import text
from tasks.preferences.screen import RefusedError
from tasks.records import (
    CHOICES,
    DATASETS,
    SIGNALS,
    Demonstration,
    Feedback,
    Message,
    Preference,
    Prompt,
    Record,
    Safety,
    Solution,
    prompt_key,
    row_id,
    signal_weight,
)

Value = dict[str, Any]
_FIRST, _LAST = datetime(1970, 1, 2, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)  # of a vote
_ID = re.compile(r"(?!.*\.\.)[\w.:@#+=-]{1,128}")
_TAGS = re.compile(r"[a-z_]{1,32}(?:,[a-z_]{1,32}){0,15}")


@dataclass(frozen=True)
class Kind:
    fields: frozenset[str]
    matches: Callable[[Value], bool]
    convert: Callable[[Value, str], list[Record]]


def to_json(record: Record) -> str:
    """One canonical row of JSON Lines; fields that are None are left out."""
    row = {key: value for key, value in asdict(record).items() if value is not None}
    return json.dumps(row, ensure_ascii=False, sort_keys=True)


def demonstration(row: Value, source: str) -> list[Record]:
    turns = dialogue.prompt(row.get("prompt"))
    reply = text(row, "reply")
    return [
        Demonstration(
            id=_id(row, "demonstration", prompt_key(turns), reply),
            prompt=turns,
            reply=reply,
            licence=_optional(row, "licence"),
            created_at=_time(row),
            **_origin(row, source, turns),
            domain=_optional(row, "domain") or "general",
        )
    ]


def preference(row: Value, source: str) -> list[Record]:
    turns = dialogue.prompt(row.get("prompt"))
    choice = row.get("choice")
    if choice is None:
        raise RefusedError("missing_field")
    if choice not in CHOICES:
        raise RefusedError("bad_label")
    if choice in ("a", "b") and row.get(f"reply_{choice}") is None:
        raise RefusedError("dangling_label")
    reply_a, reply_b = text(row, "reply_a"), text(row, "reply_b")
    if choice in ("a", "b") and dialogue.fold(reply_a) == dialogue.fold(reply_b):
        raise RefusedError("identical_pair")
    origin = origin_of_vote(row, source, turns)
    return [
        Preference(
            id=_id(row, prompt_key(turns), reply_a, reply_b, choice, origin["rater"]),
            prompt=turns,
            reply_a=reply_a,
            reply_b=reply_b,
            choice=choice,
            scores=_json(row, "scores"),
            group=_optional(row, "group"),
            weight=1.0 if row.get("weight") is None else _number(row, "weight"),
            **origin,
        )
    ]


def origin_of_vote(row: Value, source: str, turns: list[Message]) -> Value:
    """What a row says of its rater and of where it comes from. Raises RefusedError."""
    rater = row.get("rater", f"source:{source}")
    if not isinstance(rater, str) or not rater.strip():
        raise RefusedError("rater_unknown")
    return {
        "confidence": _confidence(row),
        "rater": rater,
        "rubric": _optional(row, "rubric"),
        "created_at": _time(row),
        "seconds": _number(row, "seconds"),
        "licence": _optional(row, "licence"),
        **_origin(row, source, turns),
        "domain": _optional(row, "domain") or "general",
    }


def feedback(row: Value, source: str) -> list[Record]:
    """A verdict on one reply; every `signal` but `explicit` is read from conduct: noisy, so of low weight."""
    turns = dialogue.prompt(row.get("prompt"))
    reply = text(row, "reply")
    desirable, signal = row.get("desirable", row.get("label")), row.get("signal", "explicit")
    if desirable is None:
        raise RefusedError("missing_field")
    if not isinstance(desirable, bool) or not isinstance(signal, str) or signal not in SIGNALS:
        raise RefusedError("bad_label")
    noise = SIGNALS[signal] if row.get("noise") is None else _number(row, "noise")
    if noise > 0.5:
        raise RefusedError("range")
    origin = origin_of_vote(row, source, turns)
    rater = origin["rater"]
    return [
        Feedback(
            id=_id(row, "feedback", prompt_key(turns), reply, desirable, signal, rater),
            prompt=turns,
            reply=reply,
            desirable=desirable,
            signal=signal,
            noise=noise,
            weight=signal_weight(noise) if row.get("weight") is None else _number(row, "weight"),
            **{key: origin[key] for key in ("rater", "source", "domain", "cluster", "created_at", "licence", "owner")},
        )
    ]


def prompt(row: Value, source: str) -> list[Record]:
    turns = dialogue.prompt(row.get("prompt"))
    return [
        Prompt(
            id=_id(row, prompt_key(turns)),
            prompt=turns,
            verifier=_json(row, "verifier"),
            **_origin(row, source, turns),
            domain=_optional(row, "domain") or "general",
        )
    ]


def safety(row: Value, source: str) -> list[Record]:
    turns = dialogue.prompt(row.get("prompt"))
    expected = text(row, "expected")
    if expected not in ("decline", "assist"):
        raise RefusedError("bad_label")
    return [
        Safety(
            id=_id(row, "safety", prompt_key(turns)),
            prompt=turns,
            expected=expected,
            category=_optional(row, "category") or "general",
            reply=_optional(row, "reply"),
            created_at=_time(row),
            **_origin(row, source, turns),
        )
    ]


def solution(row: Value, source: str) -> list[Record]:
    """Steps with labels, and whether the final answer is right; `completions` is another name of `steps`."""
    turns = dialogue.prompt(row.get("prompt"))
    steps = _steps(row.get("steps", row.get("completions")))
    labels = row.get("labels", [None] * len(steps))
    if not isinstance(labels, list):
        raise RefusedError("type")
    if len(labels) != len(steps):
        raise RefusedError("label_count")
    correct = row.get("correct")
    if not all(label is None or isinstance(label, bool) for label in (*labels, correct)):
        raise RefusedError("bad_label")
    if all(label is None for label in (*labels, correct)):
        raise RefusedError("unlabelled")
    return [
        Solution(
            id=_id(row, "solution", prompt_key(turns), *steps),
            prompt=turns,
            steps=steps,
            labels=labels,
            correct=correct,
            **_origin(row, source, turns),
            domain=_optional(row, "domain") or "general",
        )
    ]


def _steps(value: Any) -> list[str]:
    """Steps as lines: a line break inside one becomes a space."""
    if value is None:
        raise RefusedError("missing_field")
    if not isinstance(value, list) or not all(isinstance(step, str) for step in value):
        raise RefusedError("type")
    steps = [" ".join(step.split("\n")).strip() for step in value]
    if not steps or not all(steps):
        raise RefusedError("empty_text")
    return steps


def _origin(row: Value, source: str, turns: list[Message]) -> dict[str, Any]:
    return {
        "owner": _optional(row, "owner"),
        "tags": _tags(row),
        "source": _optional(row, "source") or source,
        "cluster": _optional(row, "cluster") or dialogue.cluster(turns),
    }


def _tags(row: Value) -> str | None:
    """What an earlier reading found: a shard is read again after it was redacted."""
    tags = _optional(row, "tags")
    if tags is not None and not _TAGS.fullmatch(tags):
        raise RefusedError("type")
    return tags


def _id(row: Value, *content: object) -> str:
    identity = row.get("id")
    if identity is None:
        return row_id(*content)
    if isinstance(identity, int) and not isinstance(identity, bool):
        identity = str(identity)
    if not isinstance(identity, str):
        raise RefusedError("type")
    if not _ID.fullmatch(identity):
        raise RefusedError("bad_id")
    return identity


def _optional(row: Value, key: str) -> str | None:
    value = row.get(key)
    if value is not None and not isinstance(value, str):
        raise RefusedError("type")
    return value or None


def _confidence(row: Value) -> float:
    value = row.get("confidence", 1.0)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RefusedError("type")
    if not 0 <= value <= 1:
        raise RefusedError("range")
    return float(value)


def _number(row: Value, key: str) -> Any:
    """A number that is not negative; None where the row has none."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float | None):
        raise RefusedError("type")
    if value is not None and value < 0:
        raise RefusedError("range")
    return None if value is None else float(value)


def _time(row: Value) -> str | None:
    """RFC 3339 with a zone, of a year that a vote can be of; `ingest.rules.latest` bounds it by a moment.

    The clock is not asked: the same row would be refused today and accepted tomorrow (infra/decisions/0022-time.md).
    """
    value = _optional(row, "created_at")
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise RefusedError("time") from None
    if not is_of_a_vote(moment):
        raise RefusedError("time")
    return value


def is_of_a_vote(moment: datetime) -> bool:
    return moment.tzinfo is not None and _FIRST < moment < _LAST


def _json(row: Value, key: str) -> str | None:
    """A field kept as JSON text, given as such or as an object."""
    value = row.get(key)
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, dict):
        raise RefusedError("type")
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


@cache
def _fields(dataset: str) -> frozenset[str]:
    return frozenset(field.name for field in fields(DATASETS[dataset]))


def is_labelled(row: Value) -> bool:
    """Completions with a label each are steps; those with scores are replies to choose from."""
    return "completions" in row and "labels" in row


# Keys of the other formats: a row that has one is not a bare prompt.
_NOT_PROMPT = frozenset(
    "reply reply_a reply_b replies response response_0 response_1 response_a response1 responses chosen rejected "
    "completion completions output output_1 output_2 answer answers messages message_tree_id steps "
    "expected choice label desirable".split()
)
# What published prompts carry beside them, in words.
_BESIDE = frozenset(
    "prompt_id uid uuid index idx split subset category subcategory topic task task_type type dataset origin lang "
    "language difficulty level url title meta metadata intent knowledge style author date ground_truth solution "
    "reference system instruction_id_list kwargs".split()
)


_LIKE_A_REPLY = re.compile(
    r"chosen|reject|resp|repl(?:y|ies)|answer|complet|output|prefer|winner|loser|better|worse|good|bad|posit|negat|accept"
    r"|label|verdict|vote|score|rating",
    re.IGNORECASE,
)
_FEW = 6  # words, below which a text is no reply
_FEW_SIGNS = 10  # the same in scripts without spaces


def _is_bare_prompt(row: Value) -> bool:
    """Not where another column is called, or looks, like a reply or a verdict, which would be lost."""
    if "prompt" not in row or _NOT_PROMPT & row.keys():
        return False
    others = row.keys() - _fields("prompts") - _BESIDE
    return not any(_LIKE_A_REPLY.search(key) or _is_long(row[key]) for key in others)


def _is_long(value: Any) -> bool:
    if isinstance(value, list):
        return any(isinstance(item, str) and _is_long(item) for item in value[:100])
    if not isinstance(value, str):
        return False
    unspaced = 0 if value.isascii() else sum("\u2e80" <= char <= "\ud7ff" for char in value)
    return len(value.split(None, _FEW)) >= _FEW or unspaced >= _FEW_SIGNS


KINDS: dict[str, Kind] = {
    "demonstrations": Kind(
        _fields("demonstrations"),
        lambda row: "prompt" in row and "reply" in row and not {"expected", "desirable", "label", "signal"} & set(row),
        demonstration,
    ),
    "preferences": Kind(
        _fields("preferences"),
        lambda row: "reply_a" in row or "reply_b" in row,
        preference,
    ),
    "safety": Kind(_fields("safety"), lambda row: "prompt" in row and "expected" in row, safety),
    "prompts": Kind(
        _fields("prompts"),
        _is_bare_prompt,
        prompt,
    ),
    "feedback": Kind(
        _fields("feedback") | {"label"},
        lambda row: "prompt" in row and "reply" in row and bool({"desirable", "label", "signal"} & set(row)),
        feedback,
    ),
    "solutions": Kind(
        _fields("solutions") | {"completions"},
        lambda row: "steps" in row or is_labelled(row),
        solution,
    ),
}
