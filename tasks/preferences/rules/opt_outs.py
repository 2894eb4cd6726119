"""People who opted out. data/opt_outs.json holds salted hashes of them, so that the list itself names nobody.

A subject is a rater, the owner of a prompt, or a prompt by its key; a row of theirs is refused and nothing of it kept.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tasks.preferences.rules.row import Row, RuleError
from tasks.records import Record, prompt_key

FILE = "opt_outs.json"
OWNER_KEYS = ("owner", "user_id", "author_id")  # of a row, whatever its format: who wrote the prompt
RATER_KEYS = ("annotator", "annotator_id", "worker_id", "rater_id")
_MAX_ID = 256  # characters: what is longer is no name of a person


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
        return hashlib.sha256(f"{self.salt}\0{subject}".encode("utf-8", "replace")).hexdigest()

    def holds(self, subject: str) -> bool:
        return self.hash(subject) in self.hashes


def check(opt_outs: OptOuts, row: Row) -> None:
    if any(opt_outs.holds(subject) for record in row.records for subject in subjects(record, row.value)):
        raise OptedOutError("opted_out")


def subjects(record: Record, value: Mapping[str, Any]) -> Iterator[str]:
    """Everyone whom a row belongs to: its rater, its owner, its prompt, and whoever its own keys name."""
    yield prompt_key(record.prompt)
    yield from (str(getattr(record, name)) for name in ("rater", "owner") if getattr(record, name, None))
    yield from named(value, (*OWNER_KEYS, *RATER_KEYS))


def named(value: Mapping[str, Any], keys: tuple[str, ...] = OWNER_KEYS) -> Iterator[str]:
    """The people whom a row names under these keys."""
    for key in keys:
        name = value.get(key)
        if isinstance(name, str | int) and not isinstance(name, bool) and 0 < len(str(name)) <= _MAX_ID:
            yield str(name)
