"""Where a row comes from: sources and licences that are allowed, the rubric that its rater saw, and when that was."""

import hashlib
import json
import re
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tasks.preferences.rules.row import Mode, Options, Row, RuleError
from tasks.records import Preference

RUBRIC = "rubric"  # the id of data/rubric.md in a row's `rubric`
UNKNOWN = "unknown"  # the licence of a row that names none
_RUBRIC = re.compile(rf"{RUBRIC}@([0-9a-f]{{6,64}})")


class AllowedOptions(Options):
    mode: Mode = "off"
    allowed: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _says_what(self) -> Self:
        if self.mode != "off" and not self.allowed:
            raise ValueError("allowed = []: nothing would be allowed; list what is, or set mode: off")
        return self


class RubricOptions(Options):
    old_votes: Literal["keep", "down_weight", "requeue"] = "keep"  # by an earlier version of data/rubric.md
    weight: Annotated[float, Field(ge=0, le=1)] = 0.5  # factor on their weight, with down_weight
    unknown: Mode = "warn"  # a hash that data/rubric_versions.json does not list


class AskAgainError(RuleError):
    """A vote by an older rubric; beside the reason, the pairs to be voted on again."""

    @property
    def pairs(self) -> list[Preference]:
        return list(self.args[1])


def check_latest(latest: datetime, row: Row) -> None:
    """Raises where a record is dated later."""
    dates = (getattr(record, "created_at", None) for record in row.records)
    if any(date and datetime.fromisoformat(date) > latest for date in dates):
        raise RuleError("time")


def check_source(options: AllowedOptions, row: Row) -> None:
    if any(record.source not in options.allowed for record in row.records):
        row.found(options.mode, "source_not_allowed")


def check_licence(options: AllowedOptions, row: Row) -> None:
    if any((getattr(record, "licence", None) or UNKNOWN) not in options.allowed for record in row.records):
        row.found(options.mode, "source_not_allowed")


@dataclass(frozen=True)
class Rubrics:
    """The present rubric and the versions known; hashes are prefixes of sha256."""

    present: str
    known: tuple[str, ...]

    @property
    def name(self) -> str | None:
        """What a vote by the present rubric says of it."""
        return f"{RUBRIC}@{self.present[:12]}" if self.present else None

    @classmethod
    def read(cls, data: Path) -> Self:
        """Raises ValueError where data/rubric_versions.json is not what it should be."""
        rubric, versions = data / "rubric.md", data / "rubric_versions.json"
        present = hashlib.sha256(rubric.read_bytes()).hexdigest() if rubric.is_file() else ""
        try:
            listed = json.loads(versions.read_text(encoding="utf-8"))["versions"] if versions.is_file() else []
            return cls(present, (present, *(str(version["sha256"]) for version in listed)))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{versions}: not a list of versions ({error!r}); restore it with git") from None


def check_rubric(options: RubricOptions, rubrics: Rubrics, row: Row) -> None:
    for place, record in enumerate(row.records):
        named = _RUBRIC.fullmatch(record.rubric or "") if isinstance(record, Preference) else None
        if named is None or (rubrics.present and rubrics.present.startswith(named[1])):
            continue
        if options.unknown != "off" and not any(known.startswith(named[1]) for known in rubrics.known if known):
            row.found(options.unknown, "schema_unknown")
        else:
            row.tags.add("rubric_changed")
            if options.old_votes == "down_weight" and isinstance(record, Preference):
                row.records[place] = replace(record, weight=record.weight * options.weight)


def check_requeue(rubrics: Rubrics, row: Row) -> None:
    """Raises for a vote by an older rubric, with its texts as other rules left them: so it is asked last."""
    if "rubric_changed" in row.tags:
        rubric = rubrics.name
        pairs = [replace(record, rubric=rubric) for record in row.records if isinstance(record, Preference)]
        raise AskAgainError("rubric_changed", pairs)
