"""People who opted out. data/opt_outs.json holds salted hashes of them, so that the list itself names nobody.

A subject is a rater, the owner of a prompt, or a prompt by its key; a row of theirs is refused and nothing of it kept.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tasks.preferences import people
from tasks.preferences.rules.row import Row, RuleError
from tasks.records import Record, prompt_key

FILE = "opt_outs.json"


class OptedOutError(RuleError):
    keeps_excerpt = False


@dataclass(frozen=True)
class OptOuts:
    salt: str
    hashes: frozenset[str]

    @classmethod
    def read(cls, data: Path) -> Self:
        """Raises ValueError where the file is not a list of opt-outs; a missing file says that nobody opted out."""
        path = data / FILE
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            return cls(str(document["salt"]), frozenset(map(str, document["hashes"])))
        except FileNotFoundError:
            return cls("", frozenset())
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: not a list of opt-outs ({error!r}); restore it with git") from None

    def hash(self, subject: str) -> str:
        """Of the form in which a subject is listed."""
        return self._hash(people.listed(subject))

    def holds(self, name: str) -> bool:
        """Whether somebody is listed, by a name in whatever form a row has it."""
        return any(self._hash(form) in self.hashes for form in people.forms(name))

    def _hash(self, text: str) -> str:
        return hashlib.sha256(f"{self.salt}\0{text}".encode("utf-8", "replace")).hexdigest()


def check(opt_outs: OptOuts, row: Row) -> None:
    if any(opt_outs.holds(subject) for record in row.records for subject in subjects(record, row.value)):
        raise OptedOutError("opted_out")


def subjects(record: Record, value: Mapping[str, Any]) -> Iterator[str]:
    """Everyone whom a row belongs to: its rater, its owner, its prompt, and whoever its own keys name."""
    yield prompt_key(record.prompt)
    yield from (str(getattr(record, name)) for name in ("rater", "owner") if getattr(record, name, None))
    yield from people.everyone(value)
