"""Safety rows whose label seems turned round: the reply to imitate or prefer helps where it should decline, or the
other way. They wait in quarantine for a person."""

from collections.abc import Callable

from tasks.preferences.rules.row import Mode, Options, Row, preferred
from tasks.records import Preference, Record, Safety

Declines = Callable[[str], bool]
REASON = "safety_label_inverted"


class SafetyOptions(Options):
    mode: Mode = "refuse"
    domains: tuple[str, ...] = ("safety", "unsafe")  # comparisons of these domains prefer the refusal


def check(options: SafetyOptions, declines: Declines | None, row: Row) -> None:
    """`declines` tells a refusal; without it nothing can be said."""
    if declines is not None and any(_is_inverted(record, options, declines) for record in row.records):
        row.found(options.mode, REASON)


def _is_inverted(record: Record, options: SafetyOptions, declines: Declines) -> bool:
    if isinstance(record, Safety):
        return record.reply is not None and declines(record.reply) != (record.expected == "decline")
    if not isinstance(record, Preference) or record.domain not in options.domains:
        return False
    chosen = preferred(record)
    if chosen is None:
        return False
    rejected = record.reply_b if chosen == record.reply_a else record.reply_a
    return declines(rejected) and not declines(chosen)
