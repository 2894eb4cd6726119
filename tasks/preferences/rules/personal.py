"""Personal data: e-mail and IP addresses, phones, payment cards, IBANs, national ids; by shape and, where there is one,
by checksum.

Dialogues are full of numbers (years, prices, sums, versions), so a number is taken only for its shape and checksum, or
for a word like "phone" just before it; toll-free numbers, which belong to services, are left. Names and places have
no shape: presidio finds them where it is installed and asked for.
"""

import importlib.util
from collections.abc import Callable, Iterator
from typing import Annotated, Any

from pydantic import Field

from tasks.preferences.rules import identifiers
from tasks.preferences.rules.placeholders import Entity, Placeholders
from tasks.preferences.rules.row import SEPARATOR, Options, RedactMode, Row, RuleError, Texts

REDACTED, FOUND, DENSE = "pii_redacted", "pii_found", "pii_dense"
_PRESIDIO = "presidio_analyzer"
_PRESIDIO_KINDS = {"PERSON": "name", "LOCATION": "place", "DATE_TIME": None, "NRP": None}


class PersonalOptions(Options):
    mode: RedactMode = "redact"  # redact: typed placeholders, the same for the same value in prompt and replies
    max_entities: Annotated[int, Field(gt=0)] = 10  # different values in a row; more refuse it
    presidio: bool = False  # also names and places, by the optional extra `pii`; milliseconds per row


class Check:
    def __init__(self, options: PersonalOptions) -> None:
        self._options = options
        self._find: Callable[[str], Iterator[Entity]] = identifiers.find
        if options.presidio and is_presidio_here():
            self._find = _with_presidio()
        self._plain = self._find is identifiers.find

    def __call__(self, row: Row) -> None:
        number, redacted = row.texts.once(self._redacted)
        if not number:
            return
        if number > self._options.max_entities:
            raise RuleError(DENSE)
        if self._options.mode == "redact":
            row.rewrite(lambda _: redacted)
        row.found(self._options.mode, REDACTED if self._options.mode == "redact" else FOUND)

    def _redacted(self, texts: Texts) -> tuple[int, str]:
        """(different values in some texts, the texts without them)."""
        if self._plain and not identifiers.may_hold(texts.text, texts.raw):
            return 0, ""
        placeholders = Placeholders(texts.text)
        redacted = placeholders.apply(texts.text, self._find)
        return len(placeholders.names), redacted


def is_presidio_here() -> bool:
    return importlib.util.find_spec(_PRESIDIO) is not None


def notes(options: PersonalOptions) -> list[str]:
    """What a reader of the report must know."""
    if options.mode == "off" or not options.presidio or is_presidio_here():
        return []
    return [
        "ingest.rules.personal.presidio = true, but presidio is not installed: names and places were NOT looked for; "
        "install the extra (`pip install 'plumbline[pii]'`) or set it to false"
    ]


def _with_presidio() -> Callable[[str], Iterator[Entity]]:
    module: Any = importlib.import_module(_PRESIDIO)
    engine = module.AnalyzerEngine()

    def find(text: str) -> Iterator[Entity]:
        yield from identifiers.find(text)
        for hit in engine.analyze(text=text, language="en", entities=list(_PRESIDIO_KINDS)):
            kind, surface = _PRESIDIO_KINDS.get(hit.entity_type), text[hit.start : hit.end]
            # A match across two texts of the row is none, and a placeholder is no name.
            if kind and SEPARATOR not in surface and "<" not in surface and ">" not in surface:
                yield Entity(hit.start, hit.end, kind, surface.casefold())

    return find
