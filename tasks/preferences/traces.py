"""What gives a subject away in a file: their name, their prompts, and the words of what they wrote.

For files that may be removed on suspicion: a name counts where it stands as a value (in a cell, after "rater", in
quotes), words where six in a row are those of a text that the subject owns.
"""

import html
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.preferences import people
from tasks.preferences.containers import parts
from tasks.preferences.screen import BadFileError, Row
from tasks.records import prompt_key

_RUN = 6  # words
_TOLD = ("rater", "owner", "prompt")
_TEXTS = ("reply", "reply_a", "reply_b")
_WORD = re.compile(r"\w+")
_ESCAPED = re.compile(r"\\u([0-9a-fA-F]{4})")
_MOST = 256 << 20  # bytes of a text file that is looked into
_TABLE = b"PAR1"
_QUOTE = r"(?:\\*[\"'`]|&#34;|&#39;|&quot;)"


@dataclass
class Traces:
    """A subject is a rater, the owner of prompts, or a prompt by its key."""

    subject: str
    prompts: set[str] = field(default_factory=set)  # keys of those that the subject owns
    runs: set[tuple[str, ...]] = field(default_factory=set)  # of words in what they own

    def __post_init__(self) -> None:
        forms = dict.fromkeys((self.subject, people.listed(self.subject)))
        names = "|".join(re.escape(each) for form in forms for each in (html.escape(form), form))
        flag = "i" if "@" in self.subject else ""
        name = f"(?:(?:{'|'.join(people.TOOLS)}):)?(?{flag}:{names})"
        keys = "|".join((*people.OWNER_KEYS, *people.RATER_KEYS))
        self._named = re.compile(
            rf"\b(?:{keys}){_QUOTE}*\s*[:=]\s*{_QUOTE}*{name}(?![\w-])|>\s*{name}\s*<|\b(?:rater|owner) {name}(?![\w-])"
        )
        self._quoted = re.compile(rf"{_QUOTE}{name}{_QUOTE}|(?:^|,){name}(?:,|\r?$)", re.MULTILINE)

    def learn(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Note the texts of rows that the subject owns; of a rater, they are not theirs."""
        for row in rows:
            key = prompt_key(row["prompt"])
            if key == self.subject or people.is_of(self.subject, row.get("owner")):
                self.prompts.add(key)
                texts = [turn["content"] for turn in row["prompt"]] + [row[name] for name in _TEXTS if row.get(name)]
                self.runs.update(run for text in texts for run in _runs(text))

    def in_row(self, row: Mapping[str, Any]) -> bool:
        if any(people.is_of(self.subject, row.get(key)) for key in ("rater", "owner")):
            return True
        prompt = row.get("prompt")
        return isinstance(prompt, list) and prompt_key(prompt) in {self.subject, *self.prompts}

    def in_text(self, text: str, quoted: bool = True) -> bool:
        """`quoted`: the name counts wherever it is a value; else, as a vocabulary may hold it, of a rater or owner."""
        if self._named.search(text) or (quoted and self._quoted.search(text)):
            return True
        return bool(self.runs) and any(run in self.runs for run in _runs(text))

    def in_file(self, path: Path, quoted: bool = True) -> bool:
        """Of a table or a text file; other files hold neither names nor words."""
        with path.open("rb") as file:
            head = file.read(1024)
        if head.startswith(_TABLE):
            try:
                return any(self.in_row(row) for row in _rows(path))
            except (pa.ArrowInvalid, OSError):
                return True  # torn: nobody can read it, nor say what is in it
        if b"\0" in head or path.stat().st_size > _MOST:
            return False
        return self.in_text(path.read_text(encoding="utf-8", errors="replace"), quoted)

    def in_input(self, path: Path) -> bool:
        """Of a file that people gave, as it lies and in whatever format or packing it is."""
        if self.in_file(path):
            return True
        try:
            rows = (row for part in parts(path) for row in part.open(Counter()))
            return any(self._in_given(row.value) for row in rows if isinstance(row, Row))
        except BadFileError:
            return False

    def _in_given(self, row: Mapping[str, Any]) -> bool:
        named = any(people.is_of(self.subject, name) for name in people.everyone(row))
        return named or self.in_text(json.dumps(row, ensure_ascii=False))


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The columns that tell whose a row is; none where there are none."""
    with pq.ParquetFile(path) as table:
        columns = [name for name in _TOLD if name in table.schema_arrow.names]
        for batch in table.iter_batches(columns=columns) if columns else ():
            yield from batch.to_pylist()


def _runs(text: str) -> Iterator[tuple[str, ...]]:
    plain = _ESCAPED.sub(lambda code: chr(int(code.group(1), 16)), html.unescape(text)).replace("\\n", " ")
    words = _WORD.findall(plain.casefold())
    return zip(*(words[start:] for start in range(_RUN)), strict=False)
