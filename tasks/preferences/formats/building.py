"""What the formats build records from: fields read, verdicts understood, comparisons and rankings put together.

A converter raises RefusedError with a reason code. Names of files and keys nobody knows decide nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations
from json import dumps
from math import comb
from typing import Any, TypeGuard

from tasks.preferences import dialogue
from tasks.preferences.canonical import is_of_a_vote
from tasks.preferences.people import VOTER_KEYS, person
from tasks.preferences.screen import RefusedError
from tasks.records import Demonstration, Feedback, Message, Preference, Record, prompt_key, row_id, signal_weight

Value = dict[str, Any]
REPLY_KEYS = ("response", "text", "content", "completion", "reply", "answer", "output", "body", "value")
SCORE_KEYS = ("overall_score", "score", "rating", "fine-grained_score", "reward")
# The preferred reply and the other, by the names that datasets of the hub and makers of models give them.
_TEXTS = ("response", "answer", "text", "completion", "reply", "output")
PAIRS = (
    ("chosen", "rejected"),
    *((f"chosen_{what}", f"rejected_{what}") for what in _TEXTS),
    *((f"{what}_chosen", f"{what}_rejected") for what in _TEXTS),
    ("preferred_output", "non_preferred_output"),
    ("preferred_response", "dispreferred_response"),
    ("preferred", "dispreferred"),
    ("better", "worse"),
    ("better_response", "worse_response"),
    ("y_w", "y_l"),
    ("response_w", "response_l"),
    ("response_j", "response_k"),
)
CONTEXT = ("system", "system_prompt", "history", "input")  # what a prompt may say beside its question
MOST_REPLIES = 64  # of a ranking: it gives 2,016 pairs


@dataclass(frozen=True)
class Dropped:
    """A part of a row that gives no record: counted in the warnings; where all parts are dropped, the row's reason."""

    reason: str


Found = Sequence[Record | Dropped]


@dataclass(frozen=True)
class Format:
    name: str
    fields: frozenset[str]  # keys it reads; others are dropped and counted
    matches: Callable[[Value], bool]  # by keys and kinds only: a bad row of this format still matches
    convert: Callable[[Value, str], Found]  # (row, source) -> records
    # Rows that stand together and have the same key are converted as one: the last has all of them under GROUP.
    # The key is made of one row, which is refused here where it is bad by itself.
    group: Callable[[Value], object] | None = None
    any_fields: bool = False  # columns have names of the user: none is unknown


GROUP = "_group"


def compare(
    turns: list[Message], reply_a: str, reply_b: str, choice: str, source: str, rater: str | None = None, **more: Any
) -> Preference:
    """A preference whose sides stand as they were shown. Equal replies are refused where one is said to be better."""
    if choice in ("a", "b") and dialogue.fold(reply_a) == dialogue.fold(reply_b):
        raise RefusedError("identical_pair")
    rater = rater or f"source:{source}"
    scores = more.pop("scores", None)
    fixed: dict[str, Any] = {"confidence": 1.0, "domain": "general", "source": source, "cluster": None} | more
    fixed["cluster"] = fixed["cluster"] or dialogue.cluster(turns)
    return Preference(
        id=row_id(prompt_key(turns), reply_a, reply_b, choice, rater.removeprefix("source:")),
        prompt=turns,
        reply_a=reply_a,
        reply_b=reply_b,
        choice=choice,
        rater=rater,
        scores=dumps(scores, sort_keys=True) if scores else None,
        **fixed,
    )


def better(turns: list[Message], preferred: str, other: str, source: str, tie: bool = False, **more: Any) -> Preference:
    """A preference from a format that names the better reply: the side it stands on is drawn by hash."""
    swap = int(row_id(prompt_key(turns), preferred, other), 16) % 2 == 1
    reply_a, reply_b = (other, preferred) if swap else (preferred, other)
    if swap and more.get("scores"):
        more["scores"] = {name: pair[::-1] for name, pair in more["scores"].items()}
    return compare(turns, reply_a, reply_b, "tie" if tie else "b" if swap else "a", source, **more)


def ranking(
    turns: list[Message],
    replies: Sequence[str],
    ranks: Sequence[float],
    source: str,
    scores: Mapping[str, Sequence[float | None]] | None = None,
    **more: Any,
) -> list[Preference | Dropped]:
    """Every pair of k ranked replies, each of weight 1 / C(k, 2), of one group; the lowest rank is best, equals tie.

    Of replies of one text the first is taken, and k is of those; a pair over which copies contradict each other says
    nothing. `scores`: {objective: one per reply}. Raises RefusedError.
    """
    if len(replies) < 2:
        raise RefusedError("missing_field")
    if len(replies) > MOST_REPLIES:
        raise RefusedError("range")
    copies: dict[str, list[int]] = {}
    for place, reply in enumerate(replies):
        copies.setdefault(dialogue.fold(reply), []).append(place)
    if len(copies) < 2:
        raise RefusedError("identical_pair")
    rater = more.get("rater") or source
    more = {"group": row_id(prompt_key(turns), list(zip(replies, ranks, strict=True)), rater), **more}
    more["weight"] = 1 / comb(len(copies), 2)
    found: list[Preference | Dropped] = []
    for ours, theirs in combinations(copies.values(), 2):
        order, *others = {(ranks[i] > ranks[j]) - (ranks[i] < ranks[j]) for i in ours for j in theirs}
        if others:
            found.append(Dropped("self_contradiction"))
            continue
        first, second = (ours[0], theirs[0]) if order <= 0 else (theirs[0], ours[0])
        of_pair = {
            name: [values[first], values[second]]
            for name, values in (scores or {}).items()
            if values[first] is not None and values[second] is not None
        }
        found.append(better(turns, replies[first], replies[second], source, order == 0, scores=of_pair, **more))
    if all(isinstance(pair, Dropped) for pair in found):
        raise RefusedError("self_contradiction")
    return found + [Dropped("repeated_reply")] * (len(replies) - len(copies))


def rated(
    turns: list[Message], reply: str, desirable: bool, source: str, rater: str | None = None, **more: Any
) -> Feedback:
    """Feedback on one reply; `signal`, `noise` and `weight` may be given."""
    signal, noise = more.pop("signal", "explicit"), more.pop("noise", 0.0)
    rater = rater or f"source:{source}"
    fixed: dict[str, Any] = {
        "weight": signal_weight(noise),
        "domain": "general",
        "source": source,
        "cluster": None,
    } | more
    fixed["cluster"] = fixed["cluster"] or dialogue.cluster(turns)
    return Feedback(
        id=row_id("feedback", prompt_key(turns), reply, desirable, signal, rater),
        prompt=turns,
        reply=reply,
        desirable=desirable,
        signal=signal,
        noise=noise,
        rater=rater,
        **fixed,
    )


def demonstration(turns: list[Message], reply: str, source: str, domain: str = "general") -> Demonstration:
    return Demonstration(
        id=row_id("demonstration", prompt_key(turns), reply),
        prompt=turns,
        reply=reply,
        source=source,
        domain=domain,
        cluster=dialogue.cluster(turns),
    )


def named_pair(row: Value) -> tuple[str, str] | None:
    """The names of a preferred reply and of the other; of `chosen` and `rejected` one is enough to tell."""
    for names in PAIRS[1:]:
        if all(isinstance(row.get(name), str | list | dict) for name in names):
            return names
    return PAIRS[0] if "chosen" in row or "rejected" in row else None


def prompt_of(row: Value, key: str) -> list[Message]:
    """The prompt under a key, with the `input` of a task, and the `system` message and `history` beside it."""
    turns = asked(row, key)
    return turns if key == "history" else in_context(row, turns)


def asked(row: Value, key: str) -> list[Message]:
    """The prompt under a key; what it is to be done to, `input`, may stand apart."""
    said, more = row.get(key), row.get("input")
    if key != "input" and isinstance(said, str) and isinstance(more, str) and more.strip() and more not in said:
        said = f"{said}\n\n{more}"
    return dialogue.prompt(said)


def in_context(row: Value, turns: list[Message]) -> list[Message]:
    """Turns after the `system` message and `history` of their row, where it has some that they do not hold."""
    head = turns[:1] if turns[0]["role"] == "system" else []
    body = turns[len(head) :]
    earlier = _earlier(row.get("history"))
    if body[: len(earlier)] != earlier:
        body = [*earlier, *body]
    system = next((row[key] for key in ("system", "system_prompt") if row.get(key)), None)
    if isinstance(system, str) and system.strip() and not head and body[0]["role"] != "system":
        head = [Message(role="system", content=system)]
    return dialogue.check_prompt([*head, *body])


def _earlier(history: Any) -> list[Message]:
    """Earlier turns, given as messages or as pairs of question and answer; a history of something else says nothing."""
    if not isinstance(history, list) or not history:
        return []
    if all(isinstance(turn, list) and len(turn) == 2 and all(isinstance(t, str) for t in turn) for turn in history):
        roles = ("user", "assistant")
        return [Message(role=role, content=said) for turn in history for role, said in zip(roles, turn, strict=True)]
    try:
        return dialogue.messages(history)
    except RefusedError:
        return []


def vote_of(row: Value) -> Value:
    """What a row says of its vote, by the names of our own records and others': rater, confidence, weight, time."""
    found: Value = {"rater": next((name for key in VOTER_KEYS if (name := person(row.get(key)))), None)}
    confidence, weight, seconds = (row.get(key) for key in ("confidence", "weight", "seconds"))
    if is_number(confidence) and 0 <= confidence <= 1:
        found["confidence"] = float(confidence)
    if is_number(weight) and weight >= 0:
        found["weight"] = float(weight)
    if is_number(seconds) and seconds >= 0:
        found["seconds"] = float(seconds)
    created = moment(row.get("created_at"))
    return found | ({"created_at": created} if created else {})


VOTE = frozenset({*VOTER_KEYS, "confidence", "weight", "seconds", "created_at"})


def sides(row: Value, key_a: str, key_b: str, choice: str) -> tuple[str, str]:
    """Both replies of a row. Raises RefusedError, with a name of its own where the label points at a missing one."""
    if choice in ("a", "b") and row.get(key_a if choice == "a" else key_b) is None:
        raise RefusedError("dangling_label")
    return dialogue.text(row, key_a), dialogue.text(row, key_b)


def first_key(item: Value, keys: Sequence[str]) -> str:
    """The first of the keys that the item has, or the first of all."""
    return next((key for key in keys if item.get(key) is not None), keys[0])


def number(item: Value, key: str) -> float:
    """A number that must be there. Raises RefusedError."""
    value = item.get(key)
    if value is None:
        raise RefusedError("missing_field")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RefusedError("type")
    return float(value)


def one_of(row: Value, key: str, choices: Mapping[Any, str]) -> str:
    """A label looked up. Raises RefusedError."""
    value = row.get(key)
    if value is None:
        raise RefusedError("missing_field")
    if isinstance(value, list | dict) or value not in choices:
        raise RefusedError("bad_label")
    return choices[value]


def clipped(value: Any) -> str:
    return value if isinstance(value, str) and value.strip() else "general"


def moment(value: Any) -> str | None:
    """A time as RFC 3339 with a zone, from that or from seconds since 1970; None for anything else."""
    try:
        if isinstance(value, str):
            return value if is_of_a_vote(datetime.fromisoformat(value)) else None
        if is_number(value) and is_of_a_vote(found := datetime.fromtimestamp(value, UTC)):
            return found.isoformat()
    except (ValueError, OverflowError, OSError):  # no time, or of no year
        return None
    return None


def has(row: Value, *keys: str) -> bool:
    return all(key in row for key in keys)


def is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
