"""Rankings of replies: canonical ones, UltraFeedback's scores, Nectar's ranks, PRISM, OpenAssistant's trees."""

import re
from itertools import groupby
from typing import Any

from tasks.preferences import canonical, dialogue
from tasks.preferences.dialogue import text
from tasks.preferences.formats.building import (
    CONTEXT,
    GROUP,
    REPLY_KEYS,
    SCORE_KEYS,
    Dropped,
    Format,
    Found,
    Value,
    first_key,
    is_number,
    named_pair,
    number,
    prompt_of,
    ranking,
)
from tasks.preferences.people import person
from tasks.preferences.screen import RefusedError
from tasks.records import Message

_LISTS = ("replies", "responses", "answers", "completions", "candidates", "generations", "outputs")
_RANKS = ("ranks", "ranking", "rankings", "rank", "order")
_SCORES = ("scores", "rewards", "ratings", "rating")
_PROMPTS = ("prompt", "instruction", "question", "query", "input")
_HISTORY = "conversation_history"
_NUMBER = re.compile(r"-?[0-9]{1,9}(\.[0-9]{1,9})?")


def rankings(row: Value, source: str) -> Found:
    """`prompt`, `replies`, and `ranks` (1 is best; equal ranks tie), or `order` (positions from 0, the best first;
    a list among them ties), or `scores` (the highest is best).
    """
    turns = prompt_of(row, first_key(row, _PROMPTS))
    replies = row.get(first_key(row, _LISTS))
    if not isinstance(replies, list):
        raise RefusedError("missing_field" if replies is None else "type")
    ranks = _ranks(row, len(replies))
    # A model that rates gives no number at times.
    ranked = [place for place, rank in enumerate(ranks) if rank is not None]
    if len(ranked) < 2 <= len(replies):
        return [Dropped("unanswered")]
    texts = [_reply(replies[place]) for place in ranked]
    more = canonical.origin_of_vote(row, source, turns)
    if group := row.get("group"):
        if not isinstance(group, str):
            raise RefusedError("type")
        more["group"] = group
    found = ranking(turns, texts, [rank for rank in ranks if rank is not None], **more)
    return [*found, *[Dropped("unanswered")] * (len(ranks) - len(ranked))]


def _ranks(row: Value, count: int) -> list[float | None]:
    """The rank of each reply, lower is better; None where its score is null. Raises RefusedError."""
    key = first_key(row, (*_RANKS, *_SCORES))
    given = row.get(key)
    if given is None:
        raise RefusedError("missing_field")
    if not isinstance(given, list):
        raise RefusedError("type")
    ranks = _from_order(given, count) if key == "order" else given
    if len(ranks) != count:
        raise RefusedError("label_count")
    if not all(is_number(rank) or (rank is None and key in _SCORES) for rank in ranks):
        raise RefusedError("bad_label")
    return [None if rank is None else -float(rank) if key in _SCORES else float(rank) for rank in ranks]


def _from_order(order: list[Any], count: int) -> list[float]:
    ranks: dict[int, float] = {}
    for rank, place in enumerate(order):
        for position in place if isinstance(place, list) else [place]:
            if not isinstance(position, int) or isinstance(position, bool) or position in ranks:
                raise RefusedError("bad_label")
            if not 0 <= position < count:
                raise RefusedError("dangling_label")
            ranks[position] = float(rank)
    if len(ranks) != count:
        raise RefusedError("label_count")
    return [ranks[position] for position in range(count)]


def _reply(item: Any) -> str:
    """A reply of a list: a text, or an object that holds it. Raises RefusedError."""
    item = item if isinstance(item, dict) else {"response": item}
    return text(item, first_key(item, REPLY_KEYS))


def scored(row: Value, source: str) -> Found:
    """Completions with scores, as UltraFeedback has them: every pair, each of weight 1 / number of pairs.

    Cui 2023, arXiv:2310.01377. Equal scores are a tie. The ratings of its aspects become scores of objectives. What is
    empty or has no score is left out while two are left.
    """
    turns = prompt_of(row, first_key(row, _PROMPTS))
    completions = row.get("completions")
    if not isinstance(completions, list) or not all(isinstance(item, dict) for item in completions):
        raise RefusedError("type")
    if len(completions) < 2:
        raise RefusedError("missing_field")
    usable, refused = [], []
    for item in completions:
        try:
            usable.append((item, text(item, first_key(item, REPLY_KEYS)), -_score(item)))
        except RefusedError as error:
            refused.append(error)
    if len(usable) < 2:
        raise refused[0]
    items, replies, ranks = map(list, zip(*usable, strict=True))
    dropped = [Dropped(error.reason) for error in refused]
    return [*ranking(turns, replies, ranks, source, _aspects(items)), *dropped]


def _score(item: Value) -> float:
    """Of a completion; a number may stand as text. Raises RefusedError."""
    key = first_key(item, SCORE_KEYS)
    value = item.get(key)
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        return float(value)
    return number(item, key)


def _aspects(completions: list[Value]) -> dict[str, list[float | None]]:
    """UltraFeedback: `annotations: {aspect: {Rating: "1".."5" or "N/A"}}` of each completion."""
    found: dict[str, list[float | None]] = {}
    for position, item in enumerate(completions):
        annotations = item.get("annotations")
        for name, annotation in annotations.items() if isinstance(annotations, dict) else ():
            rating = annotation.get("Rating") if isinstance(annotation, dict) else None
            if isinstance(rating, str) and rating.isdigit():
                found.setdefault(name, [None] * len(completions))[position] = float(rating)
    return {name: values for name, values in found.items() if sum(value is not None for value in values) > 1}


def nectar(row: Value, source: str) -> Found:
    """`answers`, each with its text and its `rank` (1 is best). Zhu 2023, Nectar."""
    turns = prompt_of(row, first_key(row, _PROMPTS))
    answers = row.get("answers")
    if not isinstance(answers, list) or not all(isinstance(item, dict) for item in answers):
        raise RefusedError("type")
    replies = [text(item, first_key(item, ("answer", *REPLY_KEYS))) for item in answers]
    return ranking(turns, replies, [number(item, "rank") for item in answers], source)


def oasst_messages(row: Value, source: str) -> Found:
    """OpenAssistant: messages of trees, one to a row; replies to one message are ranked, 0 the best.

    Köpf 2023, arXiv:2304.07327. A tree's rows stand together; without ranked replies it gives nothing.
    """
    if not row.get(GROUP):
        return []
    messages = {message["message_id"]: message for message in row[GROUP]}
    children: dict[str, list[Value]] = {}
    for message in messages.values():
        children.setdefault(message.get("parent_id") or "", []).append(message)
    found: list[Any] = []
    for parent, replies in children.items():
        if parent in messages:
            found += _ranked(_path(messages, parent), replies, source)
    return found


def oasst_tree(row: Value, source: str) -> Found:
    """OpenAssistant: a whole tree in one row, `prompt` with its `replies`, and theirs."""
    root = row.get("prompt")
    if not isinstance(root, dict):
        raise RefusedError("missing_field" if root is None else "type")
    found: list[Any] = []
    pending: list[tuple[Value, list[Message]]] = [(root, [])]
    while pending:
        node, before = pending.pop()
        turns = [*before, _turn(node)]
        beneath = node.get("replies") or []
        if not isinstance(beneath, list):
            raise RefusedError("type")
        replies = [reply for reply in beneath if isinstance(reply, dict)]
        found += _ranked(turns, replies, source)
        pending += [(reply, turns) for reply in reversed(replies)]
    return found or [Dropped("unranked")]


def prism(row: Value, source: str) -> Found:
    """PRISM: a dialogue whose turns hold the replies of several models, of which one was chosen and went on.

    Kirk 2024, arXiv:2404.16019. Replies of a turn are ranked by their scores, where all have one; of equal ones, or
    without scores, the chosen one is better than the others, which are equal.
    """
    spoken = row.get(_HISTORY)
    if not isinstance(spoken, list) or not all(isinstance(turn, dict) for turn in spoken):
        raise RefusedError("type")
    rater = person(row.get("user_id"))
    before: list[Message] = []
    found: list[Any] = []
    for _, group in groupby(spoken, key=lambda turn: turn.get("role") == "user"):
        turns = list(group)
        if turns[0].get("role") == "user":
            before += [Message(role="user", content=text(turn, "content")) for turn in turns]
            continue
        chosen = [turn for turn in turns if turn.get("if_chosen") is True]
        if len(turns) > 1:
            found += _of_turn(before, turns, source, rater)
        if len(chosen) != 1:
            break  # nobody knows what the next turn answers
        before = [*before, Message(role="assistant", content=text(chosen[0], "content"))]
    return found or [Dropped("unranked")]


def _of_turn(turns: list[Message], replies: list[Value], source: str, rater: str | None) -> list[Any]:
    scores = [score for reply in replies if is_number(score := reply.get("score"))]
    scores = scores if len(scores) == len(replies) else [0] * len(replies)
    keys = [(-score, reply.get("if_chosen") is not True) for score, reply in zip(scores, replies, strict=True)]
    order = sorted({*keys})
    ranks = [float(order.index(key)) for key in keys]
    try:
        said = [text(reply, "content") for reply in replies]
        return list(ranking(dialogue.check_prompt(turns), said, ranks, source, rater=rater))
    except RefusedError as refused:
        return [Dropped(refused.reason)]


def _ranked(turns: list[Message], replies: list[Value], source: str) -> list[Any]:
    ranked = [
        reply
        for reply in replies
        if is_number(reply.get("rank")) and reply.get("role") == "assistant" and not _is_deleted(reply)
    ]
    if len(ranked) < 2:
        return []
    try:
        prompt = dialogue.check_prompt(turns)
        return list(ranking(prompt, [text(r, "text") for r in ranked], [r["rank"] for r in ranked], source))
    except RefusedError as refused:
        return [Dropped(refused.reason)]


def _path(messages: dict[str, Value], last: str) -> list[Message]:
    turns: list[Message] = []
    key: str | None = last
    while key in messages and len(turns) <= len(messages):
        turns.insert(0, _turn(messages[key]))
        key = messages[key].get("parent_id")
    return turns


def _turn(message: Value) -> Message:
    role = {"prompter": "user"}.get(str(message.get("role")), str(message.get("role")))
    return Message(role=role, content=text(message, "text"))


def _is_deleted(message: Value) -> bool:
    return message.get("deleted") is True or message.get("review_result") is False


def _tree_of(row: Value) -> object:
    if not isinstance(row.get("message_id"), str):
        raise RefusedError("missing_field" if row.get("message_id") is None else "type")
    if not isinstance(row.get("parent_id"), str | None):
        raise RefusedError("type")
    if row.get("role") not in ("prompter", "assistant"):
        raise RefusedError("bad_dialogue")
    _turn(row)
    return row.get("message_tree_id")


def _is_ranking(row: Value) -> bool:
    if named_pair(row) or canonical.is_labelled(row) or ("completions" in row and _has_objects(row["completions"])):
        return False
    if any(_has_objects(row.get(key)) and "rank" in row[key][0] for key in ("answers",)):
        return False
    return any(isinstance(row.get(key), list) for key in _LISTS) and any(key in row for key in (*_RANKS, *_SCORES))


def _has_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


_VOTE = {"id", "rater", "confidence", "rubric", "source", "domain", "cluster", "created_at", "group", "seconds"}
FORMATS = (
    Format(
        "rankings",
        frozenset({*_PROMPTS, *CONTEXT, *_LISTS, *_RANKS, *_SCORES, *_VOTE, "licence"}),
        _is_ranking,
        rankings,
    ),
    Format(
        "scored",
        frozenset({*_PROMPTS, *CONTEXT, "completions"}),
        lambda row: "completions" in row and not canonical.is_labelled(row) and not _is_ranking(row),
        scored,
    ),
    Format(
        "nectar",
        frozenset({*_PROMPTS, *CONTEXT, "answers"}),
        lambda row: _has_objects(row.get("answers")) and "rank" in row["answers"][0],
        nectar,
    ),
    Format(
        "prism",
        frozenset({_HISTORY, "user_id"}),
        lambda row: (
            _has_objects(row.get(_HISTORY))
            and any("if_chosen" in turn for turn in row[_HISTORY] if isinstance(turn, dict))
        ),
        prism,
    ),
    Format(
        "oasst_messages",
        frozenset(
            {"message_id", "parent_id", "message_tree_id", "role", "text", "rank", "deleted", "review_result", GROUP}
        ),
        lambda row: "message_id" in row and "role" in row and "text" in row,
        oasst_messages,
        group=_tree_of,
    ),
    Format(
        "oasst_tree",
        frozenset({"message_tree_id", "prompt"}),
        lambda row: "message_tree_id" in row and isinstance(row.get("prompt"), dict),
        oasst_tree,
    ),
)
