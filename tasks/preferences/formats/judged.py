"""Whether a row says how good its one reply is: such a reply is no demonstration, for it may be a bad one."""

import re
from functools import lru_cache
from typing import Any

from tasks.preferences.formats.answers import liking
from tasks.preferences.formats.building import Value, first_key, is_number

LIKED = ("label", "desirable", "liked", "thumbs_up", "is_safe", "is_correct", "kto_tag", "is_preferred")
SAID = ("feedback", "thumbs", "vote", "verdict")  # where their value is a verdict; else they say other things
WORDS = ("user_feedback", "human_feedback", "thumb", "reaction", "rating", "response_label")  # where they hold a word
_STARS = ("rating", "stars", "score", "reward")  # of how many, nobody said: such a reply is neither wanted nor imitated
_MESSAGES = ("messages", "conversations", "conversation")
# Columns of other names, but for those about the prompt. A mark of harm judges where it is set.
_HARM = re.compile(r"_(?:harm(?!less)|tox|unsafe|offens)")
_QUALITY = re.compile(
    r"_(?:feedback|thumbs?|rating|rated|stars?|scored?|(?:up|down)?votes?|(?:dis)?like[sd]?|quality|reward|accepted"
    r"|approved|correct|correctness|safe|verdict|reaction|helpful|harmless|rank|chosen|preferred|winner|best|selected)_"
)
# What says the same in a column of any name: `status`, `type`.
_DECIDED = {"chosen", "preferred", "rejected", "dispreferred", "disliked", "thumbs_up", "thumbs_down"}
_OF_PROMPT = re.compile(
    r"_(?:prompt|input|instruct|question|query|topic|categor|languag|difficult|complex|length|time)"
)
_HARMFUL = {"harmful", "toxic", "unsafe", "offensive", "yes", "true"}
_ENOUGH = 0.5  # of a probability of harm


def verdict_of(row: Value) -> Any:
    """What a row says of its reply: where no column is readable, the first that should be; None: nothing."""
    for keys, is_readable in ((LIKED, _is_there), (SAID, _is_liking), (WORDS, _is_word)):
        for key in keys:
            if is_readable(row.get(key)):
                return row[key]
    return row.get(first_key(row, (*LIKED, *SAID)))


def has_verdict(row: Value) -> bool:
    """Whether a column that `verdict_of` reads is there, if empty."""
    return bool({*LIKED, *SAID} & row.keys()) or any(_is_word(row.get(key)) for key in WORDS)


def is_judged(row: Value) -> bool:
    return judging(row) is not None


def judging(row: Value) -> str | None:
    """The column that judges the reply."""
    by_name = (*LIKED[1:], *_STARS) + (("label",) if row.keys() & {"completion", "response"} else ())
    if key := next((key for key in by_name if key in row), None):
        return key
    if key := next((key for key in ("label", *SAID) if _is_liking(row.get(key))), None):
        return key
    if key := next(
        (key for key, value in row.items() if _judges(key, value) or (key in WORDS and _is_word(value))), None
    ):
        return key
    where = first_key(row, _MESSAGES)
    turns = row.get(where)
    last = turns[-1] if isinstance(turns, list) and turns else None
    of_turn = last.items() if isinstance(last, dict) else ()
    return next((f"{where}.{key}" for key, value in of_turn if _judges(key, value)), None)


def liked(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    if is_number(value):
        return {1.0: True, 0.0: False, -1.0: False}.get(float(value))
    word = value.strip() if isinstance(value, str) else ""
    return {"1": True, "0": False, "-1": False}.get(word, liking(word))


def _judges(name: str, value: Any) -> bool:
    if isinstance(value, str) and value.strip().casefold().replace(" ", "_") in _DECIDED:
        return True
    kind = _kind(name) if isinstance(value, bool | int | float | str | dict) else None
    if kind is None:
        return False
    if kind is _HARM:
        if isinstance(value, str):
            return value.strip().casefold() in _HARMFUL
        return value is True or (is_number(value) and value >= _ENOUGH)
    said = value.values() if isinstance(value, dict) else (value,)
    return any(isinstance(item, bool) or is_number(item) or _is_word(item) for item in said)


@lru_cache(4096)
def _kind(name: str) -> re.Pattern[str] | None:
    """What a column judges, by its name; None: not the reply."""
    plain = re.sub(r"[^a-z0-9]+", "_", f"_{name}_".casefold())
    if _OF_PROMPT.search(plain):
        return None
    return next((kind for kind in (_HARM, _QUALITY) if kind.search(plain)), None)


def _is_there(value: Any) -> bool:
    return value is not None


def _is_liking(value: Any) -> bool:
    return liked(value) is not None


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and liking(value) is not None
