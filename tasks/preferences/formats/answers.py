"""What people answered in a labelling tool, whose columns and questions have names of the user's own.

Which column is the prompt and which are replies is told by their names; a verdict, by its words or the column it names.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from tasks.preferences import dialogue
from tasks.preferences.dialogue import text
from tasks.preferences.formats.building import (
    CONTEXT,
    REPLY_KEYS,
    Dropped,
    Value,
    compare,
    first_key,
    is_number,
    prompt_of,
    ranking,
    rated,
)
from tasks.preferences.screen import RefusedError
from tasks.records import Message

T = TypeVar("T")
PROMPTS: tuple[str, ...] = ("prompt", "instruction", "question", "query", "user_prompt", "input", "conversation")
PROMPTS += ("messages", "dialogue", "chat", "history", "context", "post", "text")
_LISTS = ("items", "responses", "replies", "answers", "completions", "candidates", "options", "generations")
# The names of a reply. Where columns of several stand side by side, the first of these holds it: model_a beside
# response_a is who wrote it. Of a single reply a model is never the text.
_STEMS: tuple[str, ...] = ("response", "reply", "answer", "completion", "output", "generation", "generated", "summary")
_STEMS += ("text", "assistant", "result", "candidate", "option", "llm", "model")
_NO_TEXT = {"candidate", "option", "llm", "model"}
_PLACE = {letter: n for n, letter in enumerate("abcdefgh")} | {"left": 0, "first": 0, "one": 0}
_PLACE |= {"right": 1, "second": 1, "two": 1} | {str(n): n for n in range(20)}
_NAMED = re.compile(r"(.*?)_?([0-9]{1,2}|(?:(?<=_)|^)(?:[a-h]|left|right|one|two|first|second))")
_SIDE = re.compile(
    r"(?:i )?(?:strongly |slightly |clearly )?(?:prefer |choose )?"
    r"(?:the )?(?:response|reply|answer|model|option|assistant|text|completion|candidate|output|summary)? ?"
    r"(a|b|0|1|2|left|right|first|second|one|two)(?: is)?(?: much| slightly| clearly| significantly)?"
    r"(?: better| preferred| wins)?(?: one)?(?: than (?:the )?(?:\w+ )?(?:a|b|0|1|2|left|right|first|second|one|two))?"
)
_SIGNED = re.compile(r"\s*[-+\u2212]\s*[0-9]")  # of a scale, and no side
_GREATER = re.compile(r"([\w ]+?)\s*(>{1,3}|<{1,3})\s*([\w ]+)")
_WORDS = {
    "tie": "tie|equal|equally good|same|about the same|similar|about equal|both|both good|both are good|no preference"
    "|draw|neutral",
    "both_bad": "both bad|bothbad|both are bad|tie bothbad|tie both bad|neither|neither is good|none|equally bad"
    "|both_bad",
    "unsure": "unsure|not sure|cannot tell|can t tell|don t know|i don t know|unclear|cannot judge|skip",
}
_CHOICE_OF = {word: choice for choice, words in _WORDS.items() for word in words.split("|")}
_GOOD = "good|yes|like|liked|thumbs up|positive|accept|accepted|desirable|correct|acceptable|up|helpful".split("|")
_GOOD += ["true", "safe"]
_BAD = "bad|no|dislike|disliked|thumbs down|negative|reject|rejected|undesirable|incorrect|unacceptable|down".split("|")
_BAD += ["unhelpful", "false", "unsafe"]
_SIGNS = {"👍": True, "👎": False}
# What a question asks, by the beginnings of the words of its name: which reply is better, how good one is, what is bad
# about one (more of it is worse), or something that says neither.
_BETTER = re.compile(r"_(?:prefer|better|best|winner|cho(?:ice|ose|sen)|compar|overall|rank|verdict|vote)")
_QUALITY = re.compile(
    r"_(?:quality|helpful|harmless|rat(?:e|ing)|scor|star|satisf|thumb|lik(?:e|ing)|label|accept|good)"
)
_BAD_OF_IT = re.compile(
    r"_(?:wors|harm(?!less)|tox|unsafe|offens|bias|error|mistake|length|long|short|verbos|hallucin|refus|spam)"
)
_ELSE = re.compile(
    r"_(?:difficult|topic|categor|language|shown|order|first|seen|time|confiden|sure|flag|verif|comment|reason|rationale)"
)
_LESS = re.compile(r"_(?:less|least|fewer|fewest|not?|non|free)(?:_|$)")  # of what is bad, which is better
_AMBIGUOUS = object()


@dataclass(frozen=True)
class Answer:
    question: str
    kind: str  # choice, rating or ranking; what else a tool asks is `other`
    value: Any
    target: str = ""  # the column that was asked about, where the tool says
    compares: bool = False  # the tool says that replies were compared

    @property
    def rank(self) -> int:
        return _rank(self.question, self.compares or self.kind == "ranking")


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
    context = {name: fields[name] for name in CONTEXT if name != key and name in fields}
    replies = _replies({name: value for name, value in fields.items() if name != key and name not in context})
    if not replies:
        raise RefusedError("missing_field")
    return Task(prompt_of(fields, key), replies)


def records(shown: Task, answers: Sequence[Answer], source: str, rater: str, **more: Any) -> list[Any]:
    """What one person's answers to one task give."""
    ratings = _ratings(shown, answers)
    seconds = {"seconds": more.pop("seconds")} if "seconds" in more else {}
    if len(shown.replies) == 1:
        return _feedback(shown, answers, ratings, source, rater, more)
    more = more | seconds
    replies = list(shown.replies.values())
    rankings = _agreed(answers, "ranking", lambda value: _ranks(shown, value) or None)
    if rankings is _AMBIGUOUS:
        return [Dropped("ambiguous_question")]
    if rankings:
        names = [name for name in shown.replies if name in rankings]
        ranks = [rankings[name] for name in names]
        return list(ranking(shown.prompt, [shown.replies[name] for name in names], ranks, source, rater=rater, **more))
    if len(replies) == 2:
        choice = _agreed(answers, "choice", lambda value: verdict(value, list(shown.replies)))
        if choice is _AMBIGUOUS:
            return [Dropped("ambiguous_question")]
        if choice:
            scores = _whole(shown, ratings)
            return [compare(shown.prompt, replies[0], replies[1], choice, source, rater, scores=scores, **more)]
    whole = _whole(shown, ratings)
    if stars := _surest(whole):
        order = [-star for star in stars]
        return list(ranking(shown.prompt, replies, order, source, whole, rater=rater, **more))
    return [Dropped("unanswered" if not answers else "unreadable_answer")]


def _rank(question: str, compares: bool = False) -> int:
    """How surely it asks which reply is better, or how good one is; below 0: it asks something else."""
    name = f"_{_plain(question)}"
    if _BAD_OF_IT.search(name) and not _LESS.search(name):
        return -1
    if _BETTER.search(name) or compares:
        return 2
    if _ELSE.search(name):
        return -1
    return 1 if _QUALITY.search(name) else 0


def _surest(ratings: Mapping[str, T]) -> T | None:
    """Of what was rated, that which says most surely how good replies are."""
    asked = [what for what in ratings if _rank(what) >= 0]
    return ratings[max(asked, key=_rank)] if asked else None


def _agreed(answers: Sequence[Answer], kind: str, read: Callable[[Any], Any]) -> Any:
    """What the surest readable answers of a kind say; None where none does, _AMBIGUOUS where they contradict.

    Questions about something else, by their names, are not asked: which reply is longer, or worse.
    """
    said = [(answer.rank, read(answer.value)) for answer in answers if answer.kind == kind and answer.rank >= 0]
    said = [(rank, value) for rank, value in said if value is not None]
    surest = max((rank for rank, _ in said), default=0)
    values = [value for rank, value in said if rank == surest]
    if not values:
        return None
    return values[0] if all(value == values[0] for value in values) else _AMBIGUOUS


def side_columns(names: Iterable[str]) -> tuple[str, str] | None:
    """The two columns that hold replies, as response_a and response_b; None where there are not exactly two."""
    stem, found = next(iter(_by_stem(names).items()), ("", {}))
    if stem not in _STEMS or len(found) != 2:
        return None
    first, second = (found[place] for place in sorted(found))
    return first, second


def are_side_by_side(row: Value) -> bool:
    """Whether two texts stand in columns whose names differ in a side alone: `Antwort A`, `Antwort B`."""
    return bool(_by_stem(name for name, value in row.items() if isinstance(value, str)))


def _by_stem(names: Iterable[str]) -> dict[str, dict[int, str]]:
    """Columns that differ in a side alone: {stem: {place: column}} of at least two, the likeliest replies first."""
    of_stem: dict[str, dict[int, str]] = {}
    for name in names:
        stem, side = _split(_plain(name))
        if side in _PLACE:
            of_stem.setdefault(stem, {})[_PLACE[side]] = name
    several = {stem: found for stem, found in of_stem.items() if len(found) > 1}
    return {stem: several[stem] for stem in _STEMS if stem in several} or several


def verdict(value: Any, names: Sequence[str]) -> str | None:
    """a, b, tie, both_bad or unsure; None where the words say none of them."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, str | int) or isinstance(value, bool) or _SIGNED.match(str(value)):
        return None
    if greater := _GREATER.fullmatch(str(value).strip()):
        sides = [verdict(greater[n], names) for n in (1, 3)]
        return sides[greater[2][0] == "<"] if sorted(map(str, sides)) == ["a", "b"] else None
    plain = _plain(str(value))
    for place, name in enumerate(names):
        if plain and plain in (_plain(name), token(name)):
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
    """Of one reply: liked or not. Of five stars, as many as 4 are liking and 2 disliking; 3 says neither."""
    ((name, reply),) = shown.replies.items()
    liked = _agreed(answers, "choice", liking)
    if liked is _AMBIGUOUS:
        return [Dropped("ambiguous_question")]
    if liked is not None:
        return [rated(shown.prompt, reply, liked, source, rater, **more)]
    star = _surest({what: of_reply[name] for what, of_reply in ratings.items()})
    if star is None:
        return [Dropped("unanswered" if not answers else "unreadable_answer")]
    if not 1 <= star <= 5:  # of ten, or of a hundred: what is many there, nobody said
        raise RefusedError("range")
    if 2 < star < 4:
        return [Dropped("neutral")]
    return [rated(shown.prompt, reply, star >= 4, source, rater, **more)]


def liking(value: Any) -> bool | None:
    """Whether a word says that a reply is wanted; None where it says neither."""
    word = value[0] if isinstance(value, list) and len(value) == 1 else value
    if isinstance(word, str) and word.strip() in _SIGNS:
        return _SIGNS[word.strip()]
    said = _plain(str(word)).replace("_", " ")
    return said in _GOOD if said in _GOOD + _BAD else None


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
    texts = [name for name, value in fields.items() if _is_reply(value)]
    several = _by_stem(texts)
    if len(several) == 1 or any(stem in _STEMS for stem in several):  # else any two columns of the task might be they
        found = next(iter(several.values()))
        return {found[place]: _item_text(fields[found[place]]) for place in sorted(found)}
    if all(_is_reply(fields.get(name)) for name in ("chosen", "rejected")):
        return {name: _item_text(fields[name]) for name in ("chosen", "rejected")}
    of_stem = {_plain(name): name for name in texts}
    single = [of_stem[stem] for stem in _STEMS if stem in of_stem and stem not in _NO_TEXT]
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
