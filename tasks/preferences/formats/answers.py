"""What people answered in a labelling tool, whose columns and questions have names of the user's own.

Which column is the prompt and which are replies is told by their names; a verdict, by its words or the column it names.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.preferences import dialogue
from tasks.preferences.dialogue import text
from tasks.preferences.formats.building import REPLY_KEYS, Dropped, Value, compare, first_key, is_number, ranking, rated
from tasks.preferences.screen import RefusedError
from tasks.records import Message

PROMPTS: tuple[str, ...] = (
    "prompt",
    "instruction",
    "question",
    "query",
    "user_prompt",
    "input",
    "conversation",
    "messages",
    "dialogue",
)
PROMPTS += ("chat", "history", "context", "post", "text")
_LISTS = ("items", "responses", "replies", "answers", "completions", "candidates", "options", "generations")
_STEMS = {"response", "reply", "answer", "completion", "output", "generation", "text", "option", "candidate", "model"}
_STEMS |= {"summary", "assistant", "result", "generated", "llm", ""}
_PLACE = {letter: n for n, letter in enumerate("abcdefgh")} | {"left": 0, "first": 0, "one": 0}
_PLACE |= {"right": 1, "second": 1, "two": 1} | {str(n): n for n in range(20)}
_NAMED = re.compile(r"(.*?)_?([0-9]{1,2}|(?:(?<=_)|^)(?:[a-h]|left|right|one|two|first|second))")
_SIDE = re.compile(
    r"(?:the )?(?:response|reply|answer|model|option|assistant|text|completion|candidate|output|summary)? ?"
    r"(a|b|0|1|2|left|right|first|second|one|two)(?: is)?(?: much| slightly| clearly| significantly)?"
    r"(?: better| preferred| wins)?(?: one)?"
)
_WORDS = {
    "tie": "tie|equal|equally good|same|about the same|similar|both|both good|both are good|no preference|draw|neutral",
    "both_bad": "both bad|bothbad|both are bad|tie bothbad|tie both bad|neither|none|equally bad|both_bad",
    "unsure": "unsure|not sure|cannot tell|can t tell|don t know|i don t know|unclear|cannot judge|skip",
}
_CHOICE_OF = {word: choice for choice, words in _WORDS.items() for word in words.split("|")}
_GOOD = "good|yes|like|liked|thumbs up|positive|accept|accepted|desirable|correct|acceptable|up|helpful|true".split("|")
_BAD = "bad|no|dislike|disliked|thumbs down|negative|reject|rejected|undesirable|incorrect|unacceptable|down".split("|")
_BAD += ["unhelpful", "false"]


@dataclass(frozen=True)
class Answer:
    question: str
    kind: str  # choice, rating or ranking; what else a tool asks is `other`
    value: Any
    target: str = ""  # the column that was asked about, where the tool says


@dataclass(frozen=True)
class Task:
    """What was shown: the prompt and the replies by their names, in the order of the names."""

    prompt: list[Message]
    replies: dict[str, str]


def task(fields: Value) -> Task:
    """Raises RefusedError where there is no prompt or no reply among the fields."""
    key = next((name for name in PROMPTS if fields.get(name)), None) or next(
        (name for name in fields if _plain(name) in PROMPTS and fields[name]), None
    )
    if key is None:
        raise RefusedError("missing_field")
    replies = _replies({name: value for name, value in fields.items() if name != key})
    if not replies:
        raise RefusedError("missing_field")
    return Task(dialogue.prompt(fields[key]), replies)


def records(shown: Task, answers: Sequence[Answer], source: str, rater: str, **more: Any) -> list[Any]:
    """What one person's answers to one task give."""
    ratings = _ratings(shown, answers)
    seconds = {"seconds": more.pop("seconds")} if "seconds" in more else {}
    if len(shown.replies) == 1:
        return _feedback(shown, answers, ratings, source, rater, more)
    more = more | seconds
    for answer in answers:
        if answer.kind == "ranking" and (ranks := _ranks(shown, answer.value)):
            names = [name for name in shown.replies if name in ranks]
            replies = [shown.replies[name] for name in names]
            return list(ranking(shown.prompt, replies, [ranks[name] for name in names], source, rater=rater, **more))
    if len(shown.replies) == 2:
        for answer in answers:
            if answer.kind == "choice" and (choice := verdict(answer.value, list(shown.replies))):
                reply_a, reply_b = shown.replies.values()
                return [
                    compare(
                        shown.prompt, reply_a, reply_b, choice, source, rater, scores=_whole(shown, ratings), **more
                    )
                ]
    whole = _whole(shown, ratings)
    if whole:
        stars = next(iter(whole.values()))
        order = [-star for star in stars]
        return list(ranking(shown.prompt, list(shown.replies.values()), order, source, whole, rater=rater, **more))
    return [Dropped("unanswered" if not answers else "unreadable_answer")]


def side_columns(names: Iterable[str]) -> tuple[str, str] | None:
    """The two columns that hold replies, as response_a and response_b; None where there are not exactly two."""
    of_stem: dict[str, dict[int, str]] = {}
    for name in names:
        stem, side = _split(_plain(name))
        if side in _PLACE and stem and stem in _STEMS:
            of_stem.setdefault(stem, {})[_PLACE[side]] = name
    several = [found for found in of_stem.values() if len(found) > 1]
    if len(several) != 1 or len(several[0]) != 2:
        return None
    first, second = (several[0][place] for place in sorted(several[0]))
    return first, second


def verdict(value: Any, names: Sequence[str]) -> str | None:
    """a, b, tie, both_bad or unsure; None where the words say none of them."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, str | int) or isinstance(value, bool):
        return None
    plain = _plain(str(value))
    for place, name in enumerate(names):
        if plain in (_plain(name), token(name)):
            return "ab"[place]
    words = plain.replace("_", " ")
    if words in _CHOICE_OF:
        return _CHOICE_OF[words]
    said = _SIDE.fullmatch(words)
    if not said:
        return None
    first = 0 if not said[1].isdigit() or {token(name) for name in names} == {"0", "1"} else 1
    place = _PLACE[said[1]] - first
    return "ab"[place] if place in (0, 1) else None


def _feedback(
    shown: Task, answers: Sequence[Answer], ratings: dict[str, dict[str, float]], source: str, rater: str, more: Value
) -> list[Any]:
    """Of one reply: liked or not. Of stars, as many as 4 of 5 are liking and 2 disliking; 3 says neither."""
    ((_, reply),) = shown.replies.items()
    for answer in answers:
        word = answer.value[0] if isinstance(answer.value, list) and len(answer.value) == 1 else answer.value
        said = _plain(str(word)).replace("_", " ") if answer.kind == "choice" else ""
        if said in _GOOD + _BAD:
            return [rated(shown.prompt, reply, said in _GOOD, source, rater, **more)]
    stars = next((value for of_reply in ratings.values() for value in of_reply.values()), None)
    if stars is None:
        return [Dropped("unanswered" if not answers else "unreadable_answer")]
    share = stars / (5 if stars <= 5 else 10)
    if 0.4 < share < 0.8:
        return [Dropped("neutral")]
    return [rated(shown.prompt, reply, share >= 0.8, source, rater, **more)]


def _ratings(shown: Task, answers: Sequence[Answer]) -> dict[str, dict[str, float]]:
    """{what was rated: {name of the reply: stars}}."""
    found: dict[str, dict[str, float]] = {}
    for answer in answers:
        if answer.kind != "rating" or not is_number(answer.value):
            continue
        name = _named_in(answer.target, shown) or _named_in(answer.question, shown)
        if name is None and len(shown.replies) == 1:
            name = next(iter(shown.replies))
        if name is not None:
            what = _plain(answer.question).replace(_plain(name), "").strip("_")
            stem, _ = _split(what)
            found.setdefault(stem or "rating", {})[name] = float(answer.value)
    return found


def _whole(shown: Task, ratings: dict[str, dict[str, float]]) -> dict[str, list[float]]:
    """Ratings that every reply has, as one list each."""
    return {
        what: [of_reply[name] for name in shown.replies]
        for what, of_reply in ratings.items()
        if of_reply.keys() == shown.replies.keys()
    }


def _named_in(words: str, shown: Task) -> str | None:
    plain = _plain(words)
    for name in shown.replies:
        if _plain(name) and _plain(name) in plain:
            return name
    for name in shown.replies:
        if token(name) and plain.endswith(f"_{token(name)}"):
            return name
    return None


def _ranks(shown: Task, value: Any) -> dict[str, float]:
    """{name of a reply: its rank}, of {value, rank} objects or names in order; empty where they are no replies."""
    ranks: dict[str, float] = {}
    for place, item in enumerate(value if isinstance(value, list) else []):
        said, rank = (item.get("value"), item.get("rank")) if isinstance(item, dict) else (item, place)
        name = next((name for name in shown.replies if _plain(str(said)) in (_plain(name), token(name))), None)
        name = name or _named_in(str(said), shown)
        if name is None or not is_number(rank):
            return {}
        ranks[name] = float(rank)
    return ranks if len(ranks) > 1 else {}


def _replies(fields: Value) -> dict[str, str]:
    for name in _LISTS:
        items = fields.get(name)
        if isinstance(items, list) and len(items) > 1:
            return {_item_name(item, place): _item_text(item) for place, item in enumerate(items)}
    of_stem: dict[str, dict[int, str]] = {}
    for name, value in fields.items():
        stem, side = _split(_plain(name))
        if side in _PLACE and _is_reply(value):
            of_stem.setdefault(stem, {})[_PLACE[side]] = name
    several = [names for stem, names in of_stem.items() if len(names) > 1 and stem in _STEMS]
    several = several or [names for names in of_stem.values() if len(names) > 1]
    if several:
        return {names[place]: _item_text(fields[names[place]]) for names in several[:1] for place in sorted(names)}
    if all(_is_reply(fields.get(name)) for name in ("chosen", "rejected")):
        return {name: _item_text(fields[name]) for name in ("chosen", "rejected")}
    single = [name for name, value in fields.items() if _plain(name) in _STEMS - {""} and _is_reply(value)]
    return {name: _item_text(fields[name]) for name in single[:1]}


def _is_reply(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))


def _item_name(item: Any, place: int) -> str:
    return str(item["id"]) if isinstance(item, dict) and item.get("id") is not None else str(place)


def _item_text(item: Any) -> str:
    """A text; the last message of a dialogue; or the text of an object."""
    if isinstance(item, list):
        return dialogue.messages(item)[-1]["content"]
    item = item if isinstance(item, dict) else {"text": item}
    return text(item, first_key(item, (*REPLY_KEYS, "html", "title")))


def _plain(name: str) -> str:
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
    return re.sub(r"[^a-z0-9]+", "_", spaced.casefold()).strip("_")


def _split(plain: str) -> tuple[str, str]:
    """A name without its last part, where that tells sides apart, and the part."""
    found = _NAMED.fullmatch(plain)
    if found:
        return found[1].strip("_"), found[2]
    head, _, rest = plain.partition("_")
    return (rest, head) if head in ("left", "right", "first", "second") else (plain, "")


def token(name: str) -> str:
    """The part of a name that tells sides apart: the "a" of response_a; empty where it has none."""
    return _split(_plain(name))[1]
