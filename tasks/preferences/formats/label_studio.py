"""Exports of Label Studio: JSON (a task with its annotations) and JSON-MIN (one annotation, its answers as columns)."""

from typing import Any

from tasks.preferences.formats.answers import Answer, Task, records, task
from tasks.preferences.formats.building import Dropped, Format, Found, Value, is_number, moment
from tasks.preferences.people import LABEL_STUDIO, of_tool
from tasks.preferences.screen import RefusedError

_META = {"id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement", "annotator_email"}
_KINDS = {"pairwise": "choice", "choices": "choice", "rating": "rating", "number": "rating", "ranker": "ranking"}


def label_studio(row: Value, source: str) -> Found:
    """JSON: `data`, and `annotations` of `{result: [{type, from_name, to_name, value}], completed_by, lead_time}`.

    A cancelled annotation is dropped; predictions are a model's and are not read.
    """
    fields = row.get("data")
    if not isinstance(fields, dict):
        raise RefusedError("missing_field" if fields is None else "type")
    annotations = row.get("annotations", row.get("completions"))
    if annotations is not None and not isinstance(annotations, list):
        raise RefusedError("type")
    if not annotations:
        return [Dropped("unanswered")]
    shown = task(fields)
    return [record for annotation in annotations for record in _annotation(annotation, shown, source)]


def _annotation(annotation: Any, shown: Task, source: str) -> list[Any]:
    if not isinstance(annotation, dict) or not isinstance(annotation.get("result"), list):
        raise RefusedError("type")
    if annotation.get("was_cancelled") is True or annotation.get("skipped") is True:
        return [Dropped("discarded")]
    answers = [answer for result in annotation["result"] if isinstance(result, dict) for answer in _answers(result)]
    if not answers:
        return [Dropped("unanswered")]
    rater = of_tool(LABEL_STUDIO, annotation.get("completed_by")) or ""
    return records(shown, answers, source, rater, **_origin(annotation))


def _answers(result: Value) -> list[Answer]:
    kind, value = result.get("type"), result.get("value")
    if not isinstance(value, dict) or not isinstance(kind, str):
        return []
    question, target = str(result.get("from_name", "")), str(result.get("to_name", ""))
    if kind == "ranker":
        return [Answer(question, "ranking", order) for order in _orders(value)]
    said = value.get("selected") if kind == "pairwise" else value.get(kind)
    return [] if said is None else [Answer(question, _KINDS.get(kind, "other"), said, target, kind == "pairwise")]


def _orders(value: Value) -> list[Any]:
    """The lists of a ranker in order: of its buckets the fullest that was sorted; `_` holds what was not sorted."""
    if isinstance(value.get("items"), list) and isinstance(value.get("weights"), list):
        pairs = zip(value["items"], value["weights"], strict=False)
        return [[{"value": item, "rank": -weight} for item, weight in pairs if is_number(weight)]]
    ranked = value.get("ranker", value)
    if isinstance(ranked, dict):
        buckets = {name: items for name, items in ranked.items() if isinstance(items, list) and items}
        ranked = max(buckets.items(), key=lambda bucket: (bucket[0] != "_", len(bucket[1])), default=("", []))[1]
    return [ranked] if isinstance(ranked, list) and len(ranked) > 1 else []


def label_studio_min(row: Value, source: str) -> Found:
    """JSON-MIN: the task's columns, an answer per question, `annotator`, `annotation_id`, `lead_time`."""
    answers: list[Answer] = []
    fields: Value = {}
    for name, value in row.items():
        found = _column(name, value)
        answers += found
        if not found and name not in _META:
            fields[name] = value
    shown = task(fields)
    # A choice is a plain text, as a column of the task is.
    shown_names = set(shown.replies)
    for name, value in fields.items():
        if name not in shown_names and isinstance(value, str | int | float) and not isinstance(value, bool):
            answers.append(Answer(name, "rating" if is_number(value) else "choice", value))
    rater = of_tool(LABEL_STUDIO, row.get("annotator_email") or row.get("annotator")) or ""
    return records(shown, answers, source, rater, **_origin(row))


def _column(name: str, value: Any) -> list[Answer]:
    """What a column of JSON-MIN says, where its shape tells: `[{"selected": "left"}]`, `[{"rating": 4}]`, choices."""
    if isinstance(value, dict) and isinstance(value.get("choices"), list):
        return [Answer(name, "choice", value["choices"])]
    items = value if isinstance(value, list) else [value]
    found: list[Answer] = []
    for item in items:
        if isinstance(item, dict) and not {"role", "content", "id", "body"} & set(item):
            for kind, key in (("pairwise", "selected"), ("rating", "rating"), ("ranker", "ranker")):
                if key in item:
                    found += _answers({"type": kind, "value": item, "from_name": name})
    return found


def _origin(row: Value) -> Value:
    lead_time = row.get("lead_time")
    seconds = float(lead_time) if is_number(lead_time) and lead_time >= 0 else None
    return {"created_at": moment(row.get("created_at")), "seconds": seconds}


def _is_task(row: Value) -> bool:
    return isinstance(row.get("data"), dict) and any(
        isinstance(row.get(k), list) for k in ("annotations", "completions")
    )


FORMATS = (
    Format(
        "label_studio",
        frozenset({"id", "data", "annotations", "completions", "predictions", "meta", "project", *_META}),
        _is_task,
        label_studio,
        any_fields=True,
    ),
    Format(
        "label_studio_min",
        frozenset(),
        lambda row: "annotation_id" in row and any(key in row for key in ("annotator", "lead_time", "created_at")),
        label_studio_min,
        any_fields=True,
    ),
)
