"""A row as the rules see it: the texts of all its records at once, and what was found in them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict

from tasks.preferences import dialogue
from tasks.preferences.rules.disguise import letters
from tasks.preferences.screen import RefusedError
from tasks.records import Demonstration, Feedback, Message, Preference, Record, Safety, Solution, prompt_key, row_id

RULES_VERSION = "3"  # of what this package refuses, redacts and warns of; raise it when one of them changes
_REMEMBERED = 128  # rows whose texts are remembered
_LONG = 1 << 14  # characters of those that are not
SEPARATOR = "\x1f"  # between the texts of a row: the screen has refused rows that hold control characters


class RuleError(RefusedError):
    """A row is refused for what it holds; the argument is the reason code."""

    rule_version = f"rules-{RULES_VERSION}"


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _off(value: Any) -> Any:
    return "off" if value is False else value  # YAML 1.1 reads a bare `off` as false


Mode = Annotated[Literal["off", "warn", "refuse"], BeforeValidator(_off)]
RedactMode = Annotated[Literal["off", "warn", "refuse", "redact"], BeforeValidator(_off)]


T = TypeVar("T")


class Texts:
    """The texts of a row, and what was found in them: several people judge the same pair, and it is read once."""

    def __init__(self, prompts: tuple[str, ...], replies: tuple[str, ...]) -> None:
        self.prompts, self.replies = prompts, replies
        self.text = SEPARATOR.join([*prompts, *replies])
        self.is_ascii = self.text.isascii()
        self.raw = self.text.encode("utf-8", "replace")
        self.letters = letters(self.text, self.raw)
        self.words = set(self.letters.split())
        self._known: dict[Callable[..., Any], Any] = {}

    @cached_property
    def lower(self) -> str:
        return self.text.lower()

    def once(self, find: "Callable[[Texts], T]") -> T:
        """What `find` says of these texts; it must depend on nothing else."""
        if find not in self._known:
            self._known[find] = find(self)
        found: T = self._known[find]
        return found


_read = lru_cache(_REMEMBERED)(Texts)


class Row:
    """The records made of one row. A check reads the texts, warns, replaces texts, or raises RuleError."""

    def __init__(self, records: Sequence[Record], value: Mapping[str, Any]) -> None:
        self.records = list(records)
        self.value = value  # as it came, with the keys that no record has
        self.tags: set[str] = set()
        self._read()

    def _read(self) -> None:
        prompts = dict.fromkeys(turn["content"] for record in self.records for turn in record.prompt)
        replies = dict.fromkeys(reply for record in self.records for reply in replies_of(record))
        is_long = sum(map(len, prompts)) + sum(map(len, replies)) >= _LONG
        self.texts = (Texts if is_long else _read)(tuple(prompts), tuple(replies))

    def found(self, mode: str, reason: str) -> None:
        """Warn of a finding, or refuse the row for it."""
        if mode == "refuse":
            raise RuleError(reason)
        self.tags.add(reason)

    def rewrite(self, change: Callable[[str], str]) -> None:
        """Change all texts at once: `change` gets them joined by SEPARATOR and keeps the separators."""
        texts = [*self.texts.prompts, *self.texts.replies]
        changed = dict(zip(texts, change(self.texts.text).split(SEPARATOR), strict=True))
        self.records = [_rewritten(record, changed) for record in self.records]
        self._read()

    def tagged(self) -> list[Record]:
        """The records, each with what was found in its row."""
        if not self.tags:
            return self.records
        return [replace(record, tags=",".join(sorted(self.tags | _known(record)))) for record in self.records]


def _known(record: Record) -> set[str]:
    return set(record.tags.split(",")) if record.tags else set()


def replies_of(record: Record) -> tuple[str, ...]:
    if isinstance(record, Preference):
        return record.reply_a, record.reply_b
    if isinstance(record, Demonstration | Feedback):
        return (record.reply,)
    if isinstance(record, Safety):
        return (record.reply,) if record.reply else ()
    return tuple(record.steps) if isinstance(record, Solution) else ()


def preferred(record: Record) -> str | None:
    """The reply that a model will imitate or be drawn to: that of a demonstration, the chosen one of a pair."""
    if isinstance(record, Demonstration) or (isinstance(record, Feedback) and record.desirable):
        return record.reply
    if isinstance(record, Preference) and record.choice in ("a", "b"):
        return record.reply_a if record.choice == "a" else record.reply_b
    return None


def _rewritten(record: Record, changed: Mapping[str, str]) -> Record:
    prompt = [Message(role=turn["role"], content=changed[turn["content"]]) for turn in record.prompt]
    fields: dict[str, Any] = {"prompt": prompt}
    # What is derived from the prompt is derived anew, so that rows with the same new prompt stay together.
    key = prompt_key(record.prompt)
    if record.id in (key, row_id(key)):
        fields["id"] = prompt_key(prompt) if record.id == key else row_id(prompt_key(prompt))
    if record.cluster == dialogue.cluster(record.prompt):
        fields["cluster"] = dialogue.cluster(prompt)
    if isinstance(record, Preference):
        fields |= {"reply_a": changed[record.reply_a], "reply_b": changed[record.reply_b]}
    elif isinstance(record, Solution):
        fields["steps"] = [changed[step] for step in record.steps]
    elif isinstance(record, Demonstration | Feedback) or (isinstance(record, Safety) and record.reply):
        fields["reply"] = changed[record.reply]  # type: ignore[index]
    return replace(record, **fields)
