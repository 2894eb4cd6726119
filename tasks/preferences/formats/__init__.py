"""The input formats, told apart by content: a file per family, a function per format, from a row to records.

Names of files and keys nobody knows decide nothing.
"""

from collections import Counter
from collections.abc import Iterable

from tasks.preferences import canonical
from tasks.preferences.formats import (
    answers,
    argilla,
    comparisons,
    judged,
    label_studio,
    pairs,
    rankings,
    replies,
    votes,
)
from tasks.preferences.formats.building import Dropped, Format, Found, Value, named_pair
from tasks.preferences.screen import BadFileError

__all__ = ["FORMATS", "Dropped", "Format", "Found", "Value", "detect", "matching", "misfit"]

MIN_SHARE = 0.5  # of the sampled rows that must look like one format
DEMONSTRATIONS = frozenset({"chat", "sharegpt", "alpaca", "prompt_completion"})  # unless somebody judged the reply
MIN_LEAD = 0.9  # its share among the rows that look like any

_EXPORTS = (*label_studio.FORMATS, *argilla.FORMATS)
_OTHERS = (*pairs.FORMATS, *rankings.FORMATS, *comparisons.FORMATS, *replies.FORMATS, *votes.FORMATS)
_CANONICAL = tuple(Format(f"canonical_{name}", c.fields, c.matches, c.convert) for name, c in canonical.KINDS.items())
FORMATS: dict[str, Format] = {form.name: form for form in (*_CANONICAL, *_OTHERS, *_EXPORTS)}


def matching(row: Value) -> list[str]:
    """The formats that a row looks like. An export of a labelling tool holds columns of every name: it goes first;
    tables of votes, whose columns have names of somebody's own, and bare prompts go last.
    """
    exports = [form.name for form in _EXPORTS if form.matches(row)]
    found = exports or [form.name for form in FORMATS.values() if form.matches(row)]
    if "canonical_prompts" in found and answers.are_side_by_side(row):
        found.remove("canonical_prompts")  # a comparison, whatever its columns are called
    for last in ("canonical_prompts", "votes", "annotated"):
        found = [name for name in found if name != last] or found
    return found


def misfit(row: Value, form: Format) -> str | None:
    """Why a row is not to be read as one of the format that its file is in; None: it may be, for all that it shows."""
    if form.matches(row):
        return None
    found = matching(row)
    if form.name == "feedback" and found and DEMONSTRATIONS.issuperset(found):
        return "unanswered"
    return "other_format" if found or (form.name in DEMONSTRATIONS and judged.is_judged(row)) else None


def detect(rows: Iterable[Value], path: object) -> Format:
    """The format that a sample of rows is in.

    Raises BadFileError naming what was seen where no format, or more than one, explains the sample.
    """
    rows = list(rows)
    votes = Counter(name for row in rows for name in matching(row))
    known = ", ".join(FORMATS)
    if not votes or votes.most_common(1)[0][1] < MIN_SHARE * len(rows):
        keys = ", ".join(sorted({key[:40] for row in rows[:100] for key in row})[:12]) or "none"
        remedy = f"{_remedy(rows)}, or set `format` of its source to one of {known}"
        raise BadFileError(path, "wrong_format", f"rows with the keys {keys} are in no known format: {remedy}")
    if "feedback" in votes and votes.keys() <= DEMONSTRATIONS | {"feedback"}:
        return FORMATS["feedback"]  # where some replies are judged, the others are not yet
    (best, count), *others = votes.most_common()
    if others and count < MIN_LEAD * votes.total():
        seen = ", ".join(f"{name} in {seen} of {len(rows)} rows" for name, seen in votes.most_common())
        raise BadFileError(path, "wrong_format", f"looks like {seen}; split the file or set `format` of its source")
    if best == "helpsteer_preference":
        comparisons.check_strengths(rows, path)
    return FORMATS[best]


def _remedy(rows: list[Value]) -> str:
    """What the first row lacks that would make it readable."""
    row = rows[0] if rows else {}
    if names := answers.side_columns(row):
        return (
            f"say in a column `choice` which of `{names[0]}` and `{names[1]}` is better (a, b, tie, both_bad, unsure)"
        )
    if not named_pair(row) and (key := judged.judging(row)):
        return f"`{key[:40]}` judges the reply, which may be bad: say in a column `label` if it is liked (true, false)"
    return "name its columns as data/README.md lists them"
