"""What a row's text may hold: one family of rules per file, put together and ordered here.

A row is the records made of it (tasks/preferences/formats.py). It comes out as records, perhaps redacted and tagged
with what was found, or RefusedError says the reason; nothing else is raised. Every family looks first for something
that most rows do not hold, so that a row costs microseconds.
"""

import copy
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime

from tasks.preferences import confusables, people
from tasks.preferences.rules import (
    control,
    language,
    opt_outs,
    personal,
    provenance,
    safety,
    secrets,
    stubs,
    style,
    toxicity,
)
from tasks.preferences.rules.opt_outs import OptOuts
from tasks.preferences.rules.personal import PersonalOptions
from tasks.preferences.rules.provenance import AllowedOptions, RubricOptions, Rubrics
from tasks.preferences.rules.row import RULES_VERSION, Mode, Options, RedactMode, Row, Texts
from tasks.preferences.rules.safety import Declines, SafetyOptions
from tasks.preferences.rules.toxicity import ToxicityOptions
from tasks.records import Record

FILES = ("opt_outs.json", "rubric.md", "rubric_versions.json", "style_guide.md")  # of data/ that rules read


class RulesOptions(Options):
    """The `ingest.rules` section: off | warn (counted, and a tag on the row) | refuse | redact."""

    personal: PersonalOptions = PersonalOptions()
    secret: RedactMode = "refuse"  # keys, tokens, passwords
    special_token: RedactMode = "refuse"  # markers of chat templates; redact: spelt apart
    error_text: Mode = "refuse"  # a reply that is an error message, or "As an AI ..." and no more
    unfinished: Mode = "refuse"  # a reply that a cut stream left a mark on
    identity_leak: Mode = "warn"  # a reply that names the model that wrote it
    prompt_echo: Mode = "warn"  # a reply that says the prompt again first
    injection_marker: Mode = "warn"  # orders to a model or a judge
    homoglyph: Mode = "warn"  # letters disguised as others
    toxicity: ToxicityOptions = ToxicityOptions()
    safety: SafetyOptions = SafetyOptions()
    style: Mode = "warn"  # of demonstrations, by data/style_guide.md
    language: AllowedOptions = AllowedOptions()
    sources: AllowedOptions = AllowedOptions()
    licences: AllowedOptions = AllowedOptions()
    rubric: RubricOptions = RubricOptions()
    latest: AwareDatetime | None = None  # no row can be dated later; a fresh shard: than the day after it was taken


class Rules:
    """The rules in force, to be asked for every row."""

    def __init__(
        self, options: RulesOptions, opt_outs: OptOuts, rubrics: Rubrics, style_guide: str, declines: Declines | None
    ) -> None:
        self._options, self._opt_outs, self._rubrics, self._style_guide = options, opt_outs, rubrics, style_guide
        self._checks = _checks(options, opt_outs, rubrics, declines)
        self._requeues = options.rubric.old_votes == "requeue"
        # Under another key a row may fare otherwise.
        said = (RULES_VERSION, options.model_dump_json(), opt_outs.salt, *sorted(opt_outs.hashes), *rubrics.known)
        found = self.report()
        told = (*said, style_guide, *found["notes"], *found["personal"])
        self.key = hashlib.sha256("\0".join(told).encode()).hexdigest()

    @classmethod
    def read(cls, options: RulesOptions, data: Path, declines: Declines | None = None) -> "Rules":
        """The rules with what data/ says: opt-outs, rubric versions, style guide.

        declines: tells a refusal (tasks/evaluation/refusals.py); without it labels of safety rows are not looked at.
        """
        guide = data / "style_guide.md"
        version = hashlib.sha256(guide.read_bytes()).hexdigest()[:12] if guide.is_file() else "none"
        return cls(options, OptOuts.read(data), Rubrics.read(data), version, declines)

    def until(self, taken: datetime) -> "Rules":
        """The same rules, for a file taken at that moment: nothing in it can be of a later day."""
        made = copy.copy(self)
        made._requeues = False  # `ingest` reads the shard again and queues what is to be
        # A day is let pass, for clocks that differ.
        made._checks = [partial(provenance.check_latest, taken + timedelta(days=1)), *self._checks]
        return made

    def judge(self, records: list[Record], value: Mapping[str, Any], warnings: Counter[str]) -> list[Record]:
        """The records of a row as they may be kept. Raises RefusedError."""
        owner = next(people.named(value), None)
        if owner is not None:
            records = [record if record.owner else replace(record, owner=owner) for record in records]
        row = Row(records, value)
        for check in self._checks:
            check(row)
        if self._requeues:
            provenance.check_requeue(self._rubrics, row)
        warnings.update(row.tags)
        return row.tagged()

    def lets_keep(self, text: str, names: Iterable[str]) -> bool:
        """Whether a refused row may be kept as it came: not with what accepted rows are kept without.

        names: of whoever the row may belong to.
        """
        texts = Texts((text,), ())
        is_theirs = bool(self._opt_outs.hashes) and any(map(self._opt_outs.holds, names))
        return not is_theirs and not any(holds(texts) for holds in self._lost)

    @cached_property
    def _lost(self) -> list[Callable[[Texts], bool]]:
        """What tells texts that hold something which the rules refuse or redact, so that it is not kept."""
        families: tuple[tuple[str, Callable[[Texts], bool]], ...] = (
            (self._options.secret, secrets.has_one),
            (self._options.personal.mode, personal.Check(self._options.personal).finds),
        )
        return [holds for mode, holds in families if mode in ("refuse", "redact")]

    def breaches(self, reply: str) -> list[str] | None:
        """What a demonstration made of a preferred reply breaks of the style guide; None: it is not to be made."""
        if self._options.style == "off":
            return []
        found = style.breaches(reply)
        return None if found and self._options.style == "refuse" else found

    @property
    def rubric(self) -> str | None:
        """What a vote by the present rubric says of it."""
        return self._rubrics.name

    def report(self) -> dict[str, Any]:
        """For the ingest report: versions, and what a reader must know."""
        return {
            "version": RULES_VERSION,
            "style_guide": self._style_guide,
            "rubric": self._rubrics.present[:12] or "none",
            "notes": personal.notes(self._options.personal),
            "personal": personal.versions(self._options.personal),
        }


def _checks(
    options: RulesOptions, opted: OptOuts, rubrics: Rubrics, declines: Declines | None
) -> list[Callable[[Row], None]]:
    """In this order: who may be heard, what must not be kept, what is no answer, what is only to be known."""
    families: tuple[tuple[bool, Callable[[Row], None]], ...] = (
        (bool(opted.hashes), partial(opt_outs.check, opted)),
        (options.latest is not None, partial(provenance.check_latest, options.latest or datetime.max)),
        (options.sources.mode != "off", partial(provenance.check_source, options.sources)),
        (options.licences.mode != "off", partial(provenance.check_licence, options.licences)),
        (True, partial(provenance.check_rubric, options.rubric, rubrics)),
        (options.secret != "off", partial(secrets.check, options.secret)),
        (options.special_token != "off", partial(control.check_token, options.special_token)),
        (options.error_text != "off", partial(stubs.check_error, options.error_text)),
        (options.unfinished != "off", partial(stubs.check_unfinished, options.unfinished)),
        (options.personal.mode != "off", personal.Check(options.personal)),
        (options.toxicity.mode != "off", toxicity.Check(options.toxicity)),
        (options.safety.mode != "off", partial(safety.check, options.safety, declines)),
        (options.language.mode != "off", partial(language.check, options.language)),
        (options.identity_leak != "off", partial(stubs.check_identity, options.identity_leak)),
        (options.prompt_echo != "off", partial(stubs.check_echo, options.prompt_echo)),
        (options.injection_marker != "off", partial(control.check_injection, options.injection_marker)),
        (options.homoglyph != "off", partial(_check_homoglyph, options.homoglyph)),
        (options.style != "off", partial(style.check, options.style)),
    )
    return [check for is_on, check in families if is_on]


def _check_homoglyph(mode: str, row: Row) -> None:
    if row.texts.once(_is_disguised):
        row.found(mode, "homoglyph")


def _is_disguised(texts: Texts) -> bool:
    return not texts.is_ascii and confusables.is_disguised(texts.text, texts.raw)
