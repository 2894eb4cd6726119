"""Personal data: e-mail and IP addresses, phones, payment cards, IBANs, national ids; by shape and, where there is one,
by checksum.

Dialogues are full of numbers (years, prices, sums, versions), so a number is taken only for its shape and checksum, or
for a word like "phone" just before it; toll-free numbers, which belong to services, are left. Names and places have
no shape: presidio finds them where it is installed and asked for.
"""

import importlib.util
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from tasks.preferences.rules import identifiers
from tasks.preferences.rules.placeholders import Entity, Placeholders
from tasks.preferences.rules.row import SEPARATOR, Options, RedactMode, Row, RuleError, Texts
from tasks.records import row_id

REDACTED, FOUND, DENSE = "pii_redacted", "pii_found", "pii_dense"
_PRESIDIO = "presidio_analyzer"
_HASH = re.compile("(?:id-|source-)?[0-9a-f]{16,64}")  # as `row_id` makes them: what looks like a number in it is none
_PRESIDIO_KINDS = {"PERSON": "name", "LOCATION": "place", "DATE_TIME": None, "NRP": None}


class PersonalOptions(Options):
    mode: RedactMode = "redact"  # redact: typed placeholders, the same for the same value in prompt and replies
    max_entities: Annotated[int, Field(gt=0)] = 10  # different values in a row; more refuse it
    presidio: bool = False  # also names and places, by the optional extra `pii`; milliseconds per row
    presidio_model: str = "en_core_web_lg"  # what finds them: an installed spaCy model, or a folder that holds one


class Check:
    def __init__(self, options: PersonalOptions) -> None:
        self._options = options
        self._find: Callable[[str], Iterator[Entity]] = identifiers.find
        if options.presidio and is_presidio_here():
            self._find = _with_presidio(options.presidio_model)
        self._plain = self._find is identifiers.find

    def __call__(self, row: Row) -> None:
        if self._options.mode == "redact":
            _rename(row)
        number, redacted = row.texts.once(self._redacted)
        if not number:
            return
        if number > self._options.max_entities:
            raise RuleError(DENSE)
        if self._options.mode == "redact":
            row.rewrite(lambda _: redacted)
        row.found(self._options.mode, REDACTED if self._options.mode == "redact" else FOUND)

    def finds(self, texts: Texts) -> bool:
        return self._redacted(texts)[0] > 0

    def _redacted(self, texts: Texts) -> tuple[int, str]:
        """(different values in some texts, the texts without them)."""
        if self._plain and not identifiers.may_hold(texts.text, texts.raw):
            return 0, ""
        placeholders = Placeholders(texts.text)
        redacted = placeholders.apply(texts.text, self._find)
        return len(placeholders.names), redacted


def _rename(row: Row) -> None:
    """Ids and sources that hold personal data become hashes, the same in every row: they tell rows apart as before."""
    for place, record in enumerate(row.records):
        fields: dict[str, Any] = {
            name: _hashed(name, said) for name, said in (("id", record.id), ("source", record.source))
        }
        if fields != {"id": record.id, "source": record.source}:
            row.records[place] = replace(record, **fields)
            row.tags.add(REDACTED)


def _hashed(name: str, text: str) -> str:
    if _HASH.fullmatch(text) or not identifiers.may_hold(text, text.encode("utf-8", "replace")):
        return text
    return f"{name}-{row_id(name, text)}" if next(identifiers.find(text), None) else text


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


def versions(options: PersonalOptions) -> list[str]:
    """Of what looks for names and places, as "presidio-analyzer 2.2.366": other versions find others."""
    if options.mode == "off" or not options.presidio or not is_presidio_here():
        return []
    meta = json.loads((_model_folder(options.presidio_model) / "meta.json").read_text(encoding="utf-8"))
    model = f"{meta.get('lang')}_{meta.get('name')} {meta.get('version')}"
    return [*(f"{name} {metadata.version(name)}" for name in ("presidio-analyzer", "spacy")), model]


def _model_folder(model: str) -> Path:
    """Where a spaCy model lies. Presidio would fetch one that is missing, whatever its version is that day."""
    spacy: Any = importlib.import_module("spacy.util")
    if spacy.is_package(model):
        return Path(spacy.get_package_path(model))
    if (Path(model) / "meta.json").is_file():
        return Path(model)
    raise ValueError(
        f"ingest.rules.personal.presidio_model = {model!r}: neither an installed spaCy model nor a folder with one; "
        f"run `python -m spacy download {model}`, or set presidio to false"
    )


def _with_presidio(model: str) -> Callable[[str], Iterator[Entity]]:
    _model_folder(model)
    module: Any = importlib.import_module(_PRESIDIO)
    engines: Any = importlib.import_module(f"{_PRESIDIO}.nlp_engine")
    named = {"nlp_engine_name": "spacy", "models": [{"lang_code": "en", "model_name": model}]}
    nlp = engines.NlpEngineProvider(nlp_configuration=named).create_engine()
    engine = module.AnalyzerEngine(nlp_engine=nlp, supported_languages=["en"])

    def find(text: str) -> Iterator[Entity]:
        yield from identifiers.find(text)
        for hit in engine.analyze(text=text, language="en", entities=list(_PRESIDIO_KINDS)):
            kind, surface = _PRESIDIO_KINDS.get(hit.entity_type), text[hit.start : hit.end]
            # A match across two texts of the row is none, and a placeholder is no name.
            if kind and SEPARATOR not in surface and "<" not in surface and ">" not in surface:
                yield Entity(hit.start, hit.end, kind, surface.casefold())

    return find
