"""Exports of Argilla, versions 1 and 2: records as JSON, and datasets of the hub whose columns are questions."""

from collections.abc import Iterator
from typing import Any

from tasks.preferences.formats.answers import Answer, records, task
from tasks.preferences.formats.building import Dropped, Format, Found, Value, is_number
from tasks.preferences.people import of_tool
from tasks.preferences.screen import RefusedError

_DONE = ("submitted", None)
_SUFFIX = ".responses"
Response = tuple[str, Any, str | None, str | None]  # question, value, user, status


def argilla(row: Value, source: str) -> Found:
    """`fields`, and `responses`: by user with `values` of questions (v1), or by question with `user_id` each (v2).

    Discarded and draft responses are dropped; suggestions are a model's and are not read.
    """
    fields = row.get("fields")
    if not isinstance(fields, dict):
        raise RefusedError("missing_field" if fields is None else "type")
    return _records(fields, list(_nested(row.get("responses") or [])), source)


def argilla_hub(row: Value, source: str) -> Found:
    """`<question>.responses`, `.responses.users`, `.responses.status` (v2), or a column of `{user_id, value, status}`
    per question (v1), beside a column per field.
    """
    responses: list[Response] = []
    fields: Value = {}
    for name, value in row.items():
        if name.endswith(_SUFFIX):
            question = name.removesuffix(_SUFFIX)
            users, statuses = (_listed(row.get(f"{name}.{what}")) for what in ("users", "status"))
            for place, said in enumerate(_listed(value)):
                responses.append((question, said, _at(users, place), _at(statuses, place)))
        elif rows := _columns(value):
            responses += [(name, item.get("value"), item.get("user_id"), item.get("status")) for item in rows]
        elif not any(mark in name for mark in (".suggestion", ".responses", "-suggestion")):
            fields[name] = value
    return _records({k: v for k, v in fields.items() if k not in ("metadata", "external_id")}, responses, source)


def _nested(responses: Any) -> Iterator[Response]:
    if isinstance(responses, dict):
        for question, given in responses.items():
            for item in given if isinstance(given, list) else [given]:
                item = item if isinstance(item, dict) else {"value": item}
                yield question, item.get("value"), item.get("user_id"), item.get("status")
        return
    if not isinstance(responses, list) or not all(isinstance(item, dict) for item in responses):
        raise RefusedError("type")
    for item in responses:
        values = item.get("values")
        if isinstance(values, dict):
            for question, value in values.items():
                value = value.get("value") if isinstance(value, dict) else value
                yield question, value, item.get("user_id"), item.get("status")
        elif "question_name" in item:
            yield item["question_name"], item.get("value"), item.get("user_id"), item.get("status")
        else:  # discarded before anything was answered
            yield "", None, item.get("user_id"), item.get("status")


def _records(fields: Value, responses: list[Response], source: str) -> list[Any]:
    """A user's answers belong together; those of nobody in particular are one user's each."""
    shown = task(fields)
    of_user: dict[str, list[Answer]] = {}
    dropped: dict[tuple[str, str], Dropped] = {}
    for number, (question, value, user, status) in enumerate(responses):
        who = of_tool("argilla", user) or f"argilla:unknown-{number}"
        if status not in _DONE:
            dropped[who, str(status)] = Dropped("discarded" if status == "discarded" else "draft")
        elif value is not None:
            of_user.setdefault(who, []).append(Answer(question, _kind(value), value))
    found: list[Any] = list(dropped.values())
    for who, answers in of_user.items():
        found += records(shown, answers, source, "" if who.startswith("argilla:unknown-") else who)
    return found or [Dropped("unanswered")]


def _kind(value: Any) -> str:
    if is_number(value):
        return "rating"
    if isinstance(value, list) and (len(value) > 1 or (value and isinstance(value[0], dict))):
        return "ranking"
    return "choice"


def _columns(value: Any) -> list[Value]:
    """The rows of a question's column in version 1: a list of objects, or an object of lists."""
    if isinstance(value, dict) and {"user_id", "value", "status"} <= set(value):
        columns = {key: _listed(item) for key, item in value.items()}
        return [{key: _at(items, n) for key, items in columns.items()} for n in range(len(columns["value"]))]
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return value if all({"user_id", "value", "status"} <= set(item) for item in value) else []
    return []


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _at(items: list[Any], place: int) -> Any:
    return items[place] if place < len(items) else None


def _is_hub(row: Value) -> bool:
    return any(name.endswith(_SUFFIX) for name in row) or any(_columns(value) for value in row.values())


FORMATS = (
    Format(
        "argilla",
        frozenset({"id", "fields", "responses", "suggestions", "metadata", "vectors", "external_id", "_server_id"}),
        lambda row: isinstance(row.get("fields"), dict) and ("responses" in row or "suggestions" in row),
        argilla,
        any_fields=True,
    ),
    Format("argilla_hub", frozenset(), _is_hub, argilla_hub, any_fields=True),
)
