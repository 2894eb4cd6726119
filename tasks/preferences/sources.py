"""A source read whole: bytes to rows to canonical records, every row either accepted or refused.

What is accepted is staged as parquet together with where it stood, because a later row may still contradict it.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any, NamedTuple

from tasks.preferences import delimited, screen, workers
from tasks.preferences.duplicates import Index
from tasks.preferences.errors import check_schema_version
from tasks.preferences.formats import FORMATS, Format, detect
from tasks.preferences.grouped import grouped
from tasks.preferences.keys import key_of
from tasks.preferences.prints import Print, Prints
from tasks.preferences.rules import Rules
from tasks.preferences.rules.provenance import AskAgainError
from tasks.preferences.screen import REPEATS, BadFileError, Refusal, RefusedError, Row
from tasks.preferences.staging import Staging, Tally
from tasks.records import DATASETS, Demonstration, Feedback, Preference, Prompt, Record, prompt_key, row_id

_SAMPLE = 256  # rows by which a format is recognised
MAX_CONFLICTS = 0.01  # share of rows that reuse an id, above which ids mean nothing
_CHUNK = 2000  # rows read at once
_DATASET = {record: dataset for dataset, record in DATASETS.items()}


@dataclass(frozen=True, kw_only=True)
class Source:
    """What to read, and under which name its rows go."""

    name: str
    where: object  # path or hub name, for messages
    rows: Iterator[Row | Refusal]
    warnings: Counter[str]  # what reading counts
    format: str = "auto"
    imitate_chosen: bool = False  # make demonstrations of the preferred replies
    rows_source: str | None = None  # the source of rows that name none, where it is not `name`
    derive: bool = True  # a preference also gives its prompt for rollouts
    rules: Rules | None = None  # what texts may hold; None: not asked
    max_quarantine_rate: float | None = None  # None: no limit (an accepted shard cannot block later runs)
    again: bool = (
        False  # rows of `format` that were refused before (refused.py): rows of other formats may be among them
    )


class _Accepted(NamedTuple):
    row: Row
    records: list[Record]
    prints: list[Print]  # of the records, where they are to be held against others


def read(source: Source, staging: Staging, index: Index) -> Tally:
    """Stage the records of a source. Raises BadFileError where the source as a whole cannot be trusted."""
    if source.again:  # rows that only say something together are one already
        form = FORMATS[source.format]
        rows: Iterator[Row | Refusal] = map(_with_messages, source.rows)
    else:
        form, rows = recognised(source.rows, source.where, source.format)
    tally = Tally(form.name, warnings=source.warnings)
    batches = _batches(rows)
    told = source.again or source.format == "auto"
    judge = workers.Judge(form.name, source.rows_source or source.name, source.rules, index.settles, told)
    for batch, verdicts, warnings, made in workers.judged(batches, judge):
        tally.input += len(batch)
        tally.warnings.update(warnings)
        verdict, printed = iter(verdicts), iter(made[0] if made else ())
        found = [
            row if isinstance(row, Refusal) else _accept(row, source, next(verdict), printed, form, index, tally)
            for row in batch
        ]
        refusals = [row for row in found if isinstance(row, Refusal)]
        if again := [pair for each in verdicts if isinstance(each, AskAgainError) for pair in each.pairs]:
            staging.ask_again(source.name, again)
        prints = made[1] if made else None
        refusals += _settle(
            [row for row in found if not isinstance(row, Refusal)], prints, source, staging, index, tally
        )
        tally.quarantined.update(refusal.reason for refusal in refusals)
        staging.refuse(source.name, sorted(refusals, key=lambda refusal: refusal.line))
    tally.check()
    _limit(source, tally)
    staging.finish(source.name)
    staging.drop(source.name, index.contradicted, tally)
    return tally


def recognised(
    rows: Iterator[Row | Refusal], where: object, name: str = "auto"
) -> tuple[Format, Iterator[Row | Refusal]]:
    """The format of some rows, and the rows, those that only say something together as one. Raises BadFileError."""
    rows = map(_with_messages, rows)
    head = list(islice(rows, _SAMPLE))
    sample = [row.value for row in head if isinstance(row, Row)]
    if not sample:
        reasons = Counter(row.reason for row in head if isinstance(row, Refusal))
        raise BadFileError(where, "wrong_format", f"no row can be read ({_counts(reasons)})")
    form = detect(sample, where) if name == "auto" else FORMATS[name]
    every = chain(head, rows)
    return form, grouped(every, form.group) if form.group else every


def _with_messages(row: Row | Refusal) -> Row | Refusal:
    """With the messages that its texts hold: tables without lists keep them as JSON."""
    if isinstance(row, Refusal):
        return row
    try:
        texts = {key: value for key, value in row.value.items() if isinstance(value, str)}
        found = {key: turns for key, said in texts.items() if (turns := delimited.messages_in(said)) is not None}
    except RefusedError as refused:
        return _refuse(row, refused)
    return replace(row, value=row.value | found) if found else row


def _accept(
    row: Row,
    source: Source,
    verdict: workers.Verdict,
    printed: Iterator[list[Print]],
    form: Format,
    index: Index,
    tally: Tally,
) -> _Accepted | Refusal:
    """One row's records, or why there are none. Where a row gives several, those that repeat are left out."""
    if "schema_version" in row.value:
        check_schema_version(f"{source.where}, row {row.line}", row.value)
    if isinstance(verdict, RefusedError):
        return _refuse(row, verdict)
    records, dropped = verdict
    prints = next(printed) if index.settles and records else []
    keys = [each.key for each in prints] if prints else [key_of(record) for record in records]
    reasons = [index.reason(record, key) for record, key in zip(records, keys, strict=True)]
    if records and all(reasons):
        if reasons[0] == "id_conflict" and "id" in row.value:
            tally.warnings["reused_id"] += 1
        rater = getattr(records[0], "rater", None) if reasons[0] == "self_contradiction" else None
        return _refuse(row, RefusedError(reasons[0]), rater=rater)
    if not form.any_fields:
        tally.ignore(row.value.keys() - form.fields - {"schema_version"})
    tally.warnings.update(f"dropped_{reason}" for reason in dropped)
    kept = [place for place, reason in enumerate(reasons) if reason is None]
    return _Accepted(row, [records[place] for place in kept], [prints[place] for place in kept] if prints else [])


def _settle(
    rows: list[_Accepted], prints: Prints | None, source: Source, staging: Staging, index: Index, tally: Tally
) -> list[Refusal]:
    """Stage the records of rows; the refusals of those that what came before forbids."""
    refusals = []
    # A row that says something only together with the next ones has no record of its own.
    tally.accepted += sum(not each.records for each in rows)
    rows = [each for each in rows if each.records]
    made = None if prints is None else ([each.prints for each in rows], prints)
    for (row, *_), verdict in zip(rows, index.settle([each.records for each in rows], source.name, made), strict=True):
        if verdict.reason is not None:
            refusals.append(_refuse(row, RefusedError(verdict.reason), verdict.near))
            continue
        tally.accepted += 1
        kept = verdict.records
        derived = [extra for record in kept for extra in _derive(record, source) if index.is_new(extra)]
        tally.warnings.update(tag for extra in derived if extra.tags for tag in extra.tags.split(","))
        for record in (*kept, *derived):
            dataset = _DATASET[type(record)]
            tally.records[dataset] += 1
            staging.add(source.name, dataset, record, row)
    return refusals


def _refuse(row: Row, refused: RefusedError, near: str | None = None, rater: str | None = None) -> Refusal:
    excerpt = screen.redact(json.dumps(row.value, ensure_ascii=True)) if refused.keeps_excerpt else ""
    return Refusal(row.line, row.byte_offset, row.sha256, refused.reason, excerpt, refused.rule_version, near, rater)


def _derive(record: Record, source: Source) -> list[Record]:
    """A preference, as feedback, also gives its prompt for rollouts and, where asked for, a demonstration."""
    if not isinstance(record, Preference | Feedback) or not source.derive:
        return []
    key = prompt_key(record.prompt)
    shared: dict[str, Any] = {
        "prompt": record.prompt,
        "domain": record.domain,
        "source": record.source,
        "cluster": record.cluster,
        "owner": record.owner,
    }
    derived: list[Record] = [Prompt(id=key, **shared)]
    reply = _liked(record)
    breaches = source.rules.breaches(reply) if source.rules and source.imitate_chosen and reply else []
    if source.imitate_chosen and reply and breaches is not None:
        tags = ",".join(breaches) or None
        derived.append(Demonstration(id=row_id("demonstration", key, reply), reply=reply, tags=tags, **shared))
    return derived


def _liked(record: Preference | Feedback) -> str | None:
    """The reply worth imitating; what conduct alone speaks for is not."""
    if isinstance(record, Feedback):
        return record.reply if record.desirable and record.signal == "explicit" else None
    return {"a": record.reply_a, "b": record.reply_b}.get(record.choice)


def _limit(source: Source, tally: Tally) -> None:
    if source.max_quarantine_rate is None or source.max_quarantine_rate == 1:
        return
    conflicts = tally.warnings["reused_id"]  # not those that say otherwise what has no id of its own
    if conflicts > MAX_CONFLICTS * tally.input:
        message = f"{conflicts} of {tally.input} rows have an id that another row has; give every row one of its own"
        raise BadFileError(source.where, "id_conflict", message)
    serious = Counter({reason: n for reason, n in tally.quarantined.items() if reason not in REPEATS})
    share = serious.total() / tally.input
    if share <= source.max_quarantine_rate:
        return
    worst = serious.most_common(1)[0][0]
    reason = "wrong_encoding" if worst == "bad_encoding" else "too_many_refused"
    raise BadFileError(
        source.where,
        reason,
        f"{serious.total()} of {tally.input} rows are refused ({_counts(serious)}), above "
        f"ingest.max_quarantine_rate = {source.max_quarantine_rate}; mend the file or raise the limit",
    )


def _counts(reasons: Counter[str]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))


def _batches(rows: Iterator[Row | Refusal]) -> Iterator[list[Row | Refusal]]:
    while batch := list(islice(rows, _CHUNK)):
        yield batch
