"""Rewards by rule: from a prompt's verifier, JSON {"kind": ..., ...}, to the function that checks a reply.

A kind is a file in `verifiers/` with a `Spec` (the keys of its JSON) and `verifier(spec, resources)`, which gives the
check, or None where the prompt cannot be scored. There is no registry: a new file is a new kind. Whether a reply can
be scored depends on its prompt alone: a policy could otherwise dodge a bad score by replies that nothing can score.
"""

import importlib
import json
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

Row = dict[str, Any]
Verify = Callable[[str], float]  # the reply's text -> how right it is, 0 to 1
RunCode = Callable[[str], str | None]  # a program -> what it printed; None where it failed or broke a limit

NOTES = frozenset({"question", "of", "about"})  # what a verifier may say for its readers beside what its rule reads
MAX_REPLY = 100_000  # characters; a longer reply is wrong
_EDGES = ".,;:!?\"'`*_()[]{}<>“”‘’«»…"


class Spec(BaseModel):
    """Base of the keys of a kind: frozen; an unknown key or a value of the wrong kind is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


@dataclass
class Resources:
    """What verifiers may look things up in, and what runs code."""

    tables: Mapping[str, Sequence[Row]] = field(default_factory=dict)  # by the name that verifiers use
    run_code: RunCode | None = None
    _indexed: dict[tuple[str, Any], Any] = field(default_factory=dict)

    def index(self, table: str, build: Callable[[Sequence[Row]], Any]) -> Any:
        """What `build` makes of a table, made once."""
        if table not in self.tables:
            known = ", ".join(sorted(self.tables)) or "none"
            raise ValueError(f"table {table!r} is not in align.rewards.tables; there are: {known}")
        if (table, build) not in self._indexed:
            self._indexed[table, build] = build(self.tables[table])
        return self._indexed[table, build]


def files() -> dict[str, Path]:
    """The file of each kind."""
    return {file.stem: file for file in sorted((Path(__file__).parent / "verifiers").glob("[a-z]*.py"))}


def load(text: str | None, resources: Resources) -> Verify | None:
    """The check that a verifier stands for; None where there is no verifier, or none of its kind here.

    Raises ValueError where the JSON, or a key of it, is not what its kind wants.
    """
    if text is None:
        return None
    document = _parsed(text)
    kind = document.get("kind")
    if not isinstance(kind, str):
        raise ValueError(f"kind = {kind!r}: must be a name, such as one of {', '.join(files())}")
    if kind not in files():
        return None
    module = importlib.import_module(f"tasks.rlhf.verifiers.{kind}")
    try:
        spec = module.Spec(**{key: value for key, value in document.items() if key not in NOTES | {"kind"}})
    except ValidationError as error:
        raise ValueError("; ".join(_explained(problem) for problem in error.errors(include_url=False))) from None
    verify: Verify | None = module.verifier(spec, resources)
    return None if verify is None else lambda reply: verify(reply) if len(reply) <= MAX_REPLY else 0.0


def _parsed(text: str) -> Row:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(document, dict):
        raise ValueError(f"must be a JSON object, not {type(document).__name__}")
    return document


def _explained(problem: Mapping[str, Any]) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{key}: unknown key"
    value = "" if problem["type"] == "missing" else f" = {problem['input']!r}"
    return f"{key}{value}: {problem['msg']}"


def words(text: str) -> list[str]:
    """Words for comparison: Unicode form and case folded, punctuation around them off; `-5` and `c++` stay whole."""
    stripped = (word.strip(_EDGES) for word in unicodedata.normalize("NFKC", text).casefold().split())
    return [word for word in stripped if word]


def fenced(reply: str) -> str:
    """What stands in the last complete ``` block, without the language it names; the whole reply if there is none."""
    blocks = reply.split("```")[1:-1:2]
    if not blocks:
        return reply
    language, line_break, rest = blocks[-1].partition("\n")
    is_language = line_break and (not language.strip() or language.strip().isalnum())
    return rest if is_language else blocks[-1]


def contains(text: Sequence[str], part: Sequence[str]) -> bool:
    """Whether the words of `part` stand in `text`, side by side and in order."""
    return f" {' '.join(part)} " in f" {' '.join(text)} "
