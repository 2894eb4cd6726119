"""Tables of votes whose columns have names of somebody's own: a prompt, two replies, and which is better.

Read where no other format explains a row. What a verdict means has to stand in it: a word, or the part of a column's
name that tells its side (1 of response_1). So 0 and 1 beside response_a and response_b are refused.
"""

from typing import Any

from tasks.preferences import dialogue
from tasks.preferences.formats import answers
from tasks.preferences.formats.building import Format, Found, Value, compare, sides
from tasks.preferences.screen import RefusedError

_VERDICTS: tuple[str, ...] = ("choice", "preference", "preferred", "winner", "verdict", "vote", "label", "better")
_VERDICTS += ("best", "selected", "judgement", "judgment", "annotation", "human_preference")
_VERDICTS += ("preferred_response", "better_response")
_RATERS = ("rater", "rater_id", "annotator", "annotator_id", "worker", "worker_id", "labeler", "labeller", "judge")


def votes(row: Value, source: str) -> Found:
    """`prompt`, `response_a`, `response_b` and `preference`, or names like them; `rater` where there is one."""
    asked, key, names = _first(row, answers.PROMPTS), _first(row, _VERDICTS), answers.side_columns(row)
    if asked is None or key is None or names is None:
        raise RefusedError("missing_field")
    turns = dialogue.prompt(row[asked])
    if row[key] is None:
        raise RefusedError("missing_field")
    choice = _choice(row[key], names)
    reply_a, reply_b = sides(row, *names, choice)
    return [compare(turns, reply_a, reply_b, choice, source, _rater(row))]


def _choice(value: Any, names: tuple[str, str]) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    is_number = str(value).strip().isdigit()
    found = None if is_number and str(value).strip() not in map(answers.token, names) else answers.verdict(value, names)
    if found is None:
        raise RefusedError("bad_label")
    return found


def _rater(row: Value) -> str | None:
    key = _first(row, _RATERS)
    name = row[key] if key else None
    if isinstance(name, bool) or not isinstance(name, str | int) or not str(name).strip():
        return None
    return str(name).strip()


def _first(row: Value, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in row), None)


FORMATS = (
    Format(
        "votes",
        frozenset({*answers.PROMPTS, *_VERDICTS, *_RATERS}),
        lambda row: (
            _first(row, answers.PROMPTS) is not None
            and _first(row, _VERDICTS) is not None
            and answers.side_columns(row) is not None
        ),
        votes,
        any_fields=True,
    ),
)
