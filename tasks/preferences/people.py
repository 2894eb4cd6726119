"""Who a row belongs to: the keys that name a rater or an owner, and the forms in which one name stands.

An e-mail address is kept as its hash, a name of a labelling tool behind the tool's own: `label-studio:5`. Whoever
opts out is meant in every form.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from tasks.records import row_id

OWNER_KEYS = ("owner", "user_id", "author_id")  # of a row, whatever its format: who wrote the prompt
VOTER_KEYS: tuple[str, ...] = ("rater", "rater_id", "annotator_index", "annotator_id", "annotator", "worker_id")
VOTER_KEYS += ("worker", "labeler", "labeller", "evaluator")  # of a vote in any format, the first that says something
RATER_KEYS = (*VOTER_KEYS, "judge", "evaluation_session_id", "completed_by", "annotator_email")
LABEL_STUDIO = "label-studio"
TOOLS = (LABEL_STUDIO, "argilla", "arena", "worker")
_PARTS = ("email", "id", "username")  # of a person given as an object, the surest first
MAX_NAME = 256  # characters: what is longer is no name of a person


def person(who: Any) -> str | None:
    """Whoever voted, by a text or whole number; an e-mail address only as its hash. None where that says nobody."""
    name = _name(who)
    return row_id("rater", name.casefold()) if name and "@" in name else name


def of_tool(tool: str, who: Any) -> str | None:
    """The same, as a labelling tool knows them; an object of Label Studio by its address, the same everywhere."""
    if isinstance(who, dict):
        who = next((who[part] for part in _PARTS if who.get(part)), None)
    name = person(who)
    return f"{tool}:{name}" if name else None


def listed(name: str) -> str:
    """The form in which somebody opts out."""
    tool, bare = _apart(name.strip())
    return tool + (person(bare) or "")


def forms(name: str) -> frozenset[str]:
    """Every form in which whoever is called so in a row may have opted out."""
    return _forms(name) if len(name) <= MAX_NAME else frozenset((name,))


@lru_cache(4096)
def _forms(name: str) -> frozenset[str]:
    bare = _apart(name.strip())[1]
    return frozenset((name, listed(name), bare, listed(bare)))


def is_of(subject: str, name: Any) -> bool:
    return isinstance(name, str) and listed(subject) in forms(name)


def named(value: Mapping[str, Any], keys: tuple[str, ...] = OWNER_KEYS) -> Iterator[str]:
    """The people whom a row itself names under these keys."""
    for key in keys:
        name = value.get(key)
        if isinstance(name, str | int) and not isinstance(name, bool) and 0 < len(str(name)) <= MAX_NAME:
            yield str(name)


def everyone(value: Mapping[str, Any]) -> Iterator[str]:
    """All raters and owners whom a row names, in its parts, too: an export holds the answers of several."""
    pending: list[Any] = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, list):
            pending.extend(each for each in item if isinstance(each, dict | list))
            continue
        for key, said in item.items():
            if key in _KEYS:
                of = f"{LABEL_STUDIO}:" if key == "completed_by" or isinstance(said, dict) else ""
                yield from (of + name for name in _all_names(said))
            if isinstance(said, dict | list):
                pending.append(said)


_KEYS = frozenset((*OWNER_KEYS, *RATER_KEYS))


def _all_names(said: Any) -> Iterator[str]:
    if isinstance(said, list):
        for each in said:
            yield from _all_names(each)
    elif isinstance(said, dict):
        for part in _PARTS:
            if name := _name(said.get(part)):
                yield name
    elif name := _name(said):
        yield name


def _name(who: Any) -> str | None:
    if isinstance(who, float) and who.is_integer():
        who = int(who)
    if isinstance(who, bool) or not isinstance(who, str | int):
        return None
    return str(who).strip() or None


def _apart(name: str) -> tuple[str, str]:
    """("label-studio:", "5"), or ("", the name)."""
    tool, colon, bare = name.partition(":")
    return (tool + colon, bare) if bare and tool in TOOLS else ("", name)
