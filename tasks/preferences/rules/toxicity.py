"""Toxic text. Only a reply that would be imitated or preferred refuses its row, and only outside the safety set: toxic
prompts and toxic rejected replies are what a model learns to answer and to avoid; they are let in and tagged.

A scorer is a function from a text to a score; the built-in one (`lexical`) reads words through common disguises.
"""

import importlib
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Annotated, Any

from pydantic import Field, field_validator

from tasks.preferences.rules.disguise import letters
from tasks.preferences.rules.lexicon import INSULTS, PROFANE, SLURS, STRONG, THREATS
from tasks.preferences.rules.mention import all_mentioned
from tasks.preferences.rules.row import Mode, Options, Row, Texts, preferred
from tasks.records import Safety

LEXICAL = "lexical"
_REMEMBERED = 512  # texts whose score is
_LONG = 1 << 14  # characters of a text whose score is not
_SLURS, _PROFANE, _INSULTS, _THREATS = (
    frozenset(word.encode() for word in words) for words in (SLURS, PROFANE, INSULTS, THREATS)
)
_GATE = _SLURS | _PROFANE | _INSULTS | _THREATS
_SPACED = tuple(" ".join(word).encode() for word in STRONG)
_STRETCH = re.compile(rb"([a-z])\1{2,}")
_MASKED = re.compile(rb"\b[a-z]+\*+[a-z]*")
_YOU = (
    r"\b(?:you(?: are| re)?|u(?: r)?|ur|your|they(?: are| re)?|those|these|all (?:of )?(?:them|these|those))"
    r"(?: (?:a|an|all|so|such|just|really|fucking|nothing|but|complete|total|little|dirty|filthy|dumb|stupid)){0,4}"
)
_CALLED = re.compile(rf"{_YOU} ({'|'.join(sorted(INSULTS | PROFANE | SLURS))})\b")
_THREAT = re.compile(
    r"\b(?:kill|hang|shoot|drown|stab) (?:yourself|urself)\b|\bgo (?:and )?(?:die|kill yourself|hang yourself)\b"
    r"|\bi (?:hope|wish) (?:you|they|she|he)(?: all)? (?:die|burn|suffer|get (?:raped|killed|cancer))\b"
    r"|\bi(?: am going to| m going to| will| ll| m gonna)? (?:kill|murder|rape|stab|beat) (?:you|them all)\b"
    r"|\b(?:kill|exterminate|gas|murder) (?:all|every|them all|all the) "
)
_WEIGHTS = {"slur": 1.0, "threat": 1.0, "called": 0.6, "profane": 0.25, "mentioned": 0.25}

Scorer = Callable[[str], float]


class ToxicityOptions(Options):
    mode: Mode = "refuse"  # of a preferred reply or a demonstration; elsewhere toxic text is tagged
    scorer: str = LEXICAL  # or `module:function`, from a text to a score
    threshold: Annotated[float, Field(gt=0)] = 1.0  # the score from which a text is toxic

    @field_validator("scorer")
    @classmethod
    def _can_be_found(cls, value: str) -> str:
        load(value)
        return value


def load(name: str) -> Scorer:
    """The scorer of this name. Raises ValueError where there is none."""
    if name == LEXICAL:
        return lexical
    module, _, function = name.partition(":")
    try:
        found: Any = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"cannot be imported ({error}); give {LEXICAL} or `module:function`") from None
    if not callable(found):
        raise ValueError(f"is no function; give {LEXICAL} or `module:function`")
    return found  # type: ignore[no-any-return]


class Check:
    def __init__(self, options: ToxicityOptions) -> None:
        self._options, self._score = options, load(options.scorer)
        self._gated = options.scorer == LEXICAL

    def __call__(self, row: Row) -> None:
        if self._gated and not row.texts.once(may_be_toxic):
            return
        is_safety = any(isinstance(record, Safety) for record in row.records)
        wanted = dict.fromkeys(reply for record in row.records if (reply := preferred(record)) is not None)
        if self._any(wanted):
            if is_safety:
                row.tags.add("toxic_safety")
            else:
                row.found(self._options.mode, "toxic_chosen")
        if self._any([reply for reply in row.texts.replies if reply not in wanted]):
            row.tags.add("toxic_safety" if is_safety else "toxic_rejected")
        if self._any(row.texts.prompts):
            row.tags.add("toxic_prompt")

    def _any(self, texts: Iterable[str]) -> bool:
        return any(self._score(text) >= self._options.threshold for text in texts)


def may_be_toxic(texts: Texts) -> bool:
    """Whether it is worth scoring the texts one by one: one of the words is there, or a disguise."""
    seen = texts.letters
    return not _GATE.isdisjoint(texts.words) or b"*" in seen or _is_stretched(seen) or _is_spaced(seen)


def _is_stretched(folded: bytes) -> bool:
    return b"uuu" in folded or b"iii" in folded or b"ccc" in folded or b"ggg" in folded or b"ttt" in folded


def _is_spaced(folded: bytes) -> bool:
    """Letters of the strong words one by one."""
    return (
        b" u c " in folded or b" h i t" in folded or b" i g g" in folded or b" a g g" in folded or b" u n t" in folded
    )


def lexical(text: str) -> float:
    """0 for clean text; 1 for a slur or a threat, 0.6 for a name that somebody is called, 0.25 for a coarse word.

    Slurs that are only mentioned (a word explained, reported, declined) are coarse words together.

    Coarse words count once each, so that a long angry story is not worse than a short one.
    """
    return _remembered(text) if len(text) < _LONG else _lexical(text)


def _lexical(text: str) -> float:
    folded = letters(text, text.encode("utf-8", "replace"))
    if _is_spaced(folded):
        for spaced in _SPACED:
            folded = folded.replace(spaced, spaced.replace(b" ", b""))
    if _is_stretched(folded):
        folded = _STRETCH.sub(rb"\1", folded)
    spoken = folded.replace(b"*", b" ").split()
    if b"*" in folded:
        spoken += [word for masked in set(_MASKED.findall(folded)) for word in _unmasked(masked)]
    words = set(spoken)
    line = " ".join(folded.decode().split())
    score = _WEIGHTS["profane"] * len(words & _PROFANE)
    if words & _SLURS:
        mentioned = all_mentioned(text, sum(word in _SLURS for word in spoken))
        score += _WEIGHTS["mentioned" if mentioned else "slur"]
    if words & (_INSULTS | _PROFANE | _SLURS):
        score += _WEIGHTS["called"] * len(set(_CALLED.findall(line)))
    if words & _THREATS and _THREAT.search(line):
        score += _WEIGHTS["threat"]
    return score


_remembered = lru_cache(_REMEMBERED)(_lexical)


def _unmasked(word: bytes) -> list[bytes]:
    """The strong words that a word with asterisks stands for."""
    shape = re.compile(rb"[a-z]".join(re.escape(part) for part in word.split(b"*")))
    return [strong.encode() for strong in STRONG if shape.fullmatch(strong.encode())]
