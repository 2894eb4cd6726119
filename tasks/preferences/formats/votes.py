"""Tables of votes whose columns have names of somebody's own: a prompt, two replies, and which is better.

Read where no other format explains a row. What a verdict means has to stand in it: a word, or the part of a column's
name that tells its side (1 of response_1). So 0 and 1 beside response_a and response_b are refused.
"""

from tasks.preferences.formats import answers
from tasks.preferences.formats.building import VOTE, Dropped, Format, Found, Value, compare, prompt_of, sides, vote_of
from tasks.preferences.people import person
from tasks.preferences.screen import RefusedError
from tasks.records import Record

_VERDICTS: tuple[str, ...] = ("choice", "preference", "preferred", "winner", "verdict", "vote", "label", "better")
_VERDICTS += ("best", "selected", "judgement", "judgment", "annotation", "human_preference")
_VERDICTS += ("preferred_response", "better_response")


def votes(row: Value, source: str) -> Found:
    """`prompt`, `response_a`, `response_b` and `preference`, or names like them; `rater` where there is one."""
    asked, key, names = _first(row, answers.PROMPTS), verdict_of(row), answers.side_columns(row)
    if asked is None or names is None:
        raise RefusedError("missing_field")
    turns = prompt_of(row, asked)
    if key is None:
        return [Dropped("unanswered")]
    choice = _choice(row, key, names)
    reply_a, reply_b = sides(row, *names, choice)
    judge = row.get("judge")
    more = vote_of(row)
    more["rater"] = more["rater"] or (person(judge) if isinstance(judge, str) else None)
    return [compare(turns, reply_a, reply_b, choice, source, **more)]


def annotated(row: Value, source: str) -> Found:
    """Two replies, and lists of what each of several people said of them, as MultiPref has them.

    Miranda 2024, arXiv:2410.19133. An annotation is read as a row of `votes` that has it beside the replies.
    """
    found: list[Record | Dropped] = []
    shown = {name: value for name, value in row.items() if name not in VOTE}
    for said in _annotations(row):
        vote = {name: value for name, value in said.items() if name in VOTE}
        try:
            found += votes(shown | vote | {"choice": said[_verdict_in(said) or ""]}, source)
        except RefusedError as refused:
            found.append(Dropped(refused.reason))
    return found or [Dropped("unanswered")]


def _annotations(row: Value) -> list[Value]:
    """Every object in a list of those that hold a verdict."""
    lists = [value for value in row.values() if isinstance(value, list)]
    told = [value for value in lists if all(isinstance(said, dict) and _verdict_in(said) for said in value)]
    return [said for value in told for said in value]


def _verdict_in(said: Value) -> str | None:
    return next((key for key in (*_VERDICTS, "overall_pref", "overall_preference") if key in said), None)


def names_a_side(row: Value, key: str) -> bool:
    """Whether the row has two replies in columns of their own and says under this key which of them."""
    names = answers.side_columns(row)
    return names is not None and key not in names and _meant(row, key, names) is not None


def names_a_winner(row: Value) -> bool:
    """Whether a column of a vote says which of two replies is better."""
    return any(row.get(key) is not None and names_a_side(row, key) for key in _VERDICTS)


def verdict_of(row: Value) -> str | None:
    return next((key for key in (*_VERDICTS, "chosen") if row.get(key) is not None), None)


def _choice(row: Value, key: str, names: tuple[str, str]) -> str:
    found = _meant(row, key, names)
    if found is None:
        raise RefusedError("bad_label")
    return found


def _meant(row: Value, key: str, names: tuple[str, str]) -> str | None:
    value = row.get(key)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    said = str(value).strip()
    if said.isdigit() and said not in map(answers.token, names):
        return None
    models = {key.casefold().replace(" ", "_"): who for key, who in row.items() if "model" in key.casefold()}
    wrote = [models.get(f"model_{answers.token(name)}") for name in names]
    if isinstance(value, str) and wrote.count(value) == 1:
        return "ab"[wrote.index(value)]
    return answers.verdict(value, names)


def _first(row: Value, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in row), None)


FORMATS = (
    Format(
        "votes",
        VOTE | {*answers.PROMPTS, *_VERDICTS},
        lambda row: (
            _first(row, answers.PROMPTS) is not None
            and _first(row, (*_VERDICTS, "chosen")) is not None
            and answers.side_columns(row) is not None
        ),
        votes,
        any_fields=True,
    ),
    Format(
        "annotated",
        VOTE | {*answers.PROMPTS},
        lambda row: (
            _first(row, answers.PROMPTS) is not None
            and verdict_of(row) is None
            and answers.side_columns(row) is not None
            and bool(_annotations(row))
        ),
        annotated,
        any_fields=True,
    ),
)
