"""Secrets: private keys, tokens of well-known services, passwords in addresses, and keys assigned in code."""

import math
import re
from collections import Counter
from collections.abc import Iterator

from tasks.preferences.rules.placeholders import Entity, Placeholders
from tasks.preferences.rules.row import Row, Texts

REASON = "secret"
# What a text must hold, before the pattern is tried; most rows hold none of it.
_SHAPES = {
    "-----BEGIN": r"-----BEGIN (?:[A-Z]{2,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
    r"(?:[^\x1f]{0,8000}?-----END [A-Z ]{5,40}-----)?",
    "AKIA": r"\bAKIA[A-Z0-9]{16}\b",
    "ASIA": r"\bASIA[A-Z0-9]{16}\b",
    "ghp_ gho_ ghu_ ghs_ ghr_": r"\bgh[pousr]_[A-Za-z0-9]{36,255}\b",
    "github_pat_": r"\bgithub_pat_\w{22,255}\b",
    "glpat-": r"\bglpat-[\w-]{20,64}",
    "xox": r"\bxox[abeoprs]-[\w-]{10,255}",
    "hooks.slack": r"hooks\.slack\.com/services/[\w/]{20,80}",
    "sk-": r"\bsk-(?=[\w-]{0,200}\d)[\w-]{20,200}",
    "k_live_": r"\b[srp]k_live_[A-Za-z0-9]{16,99}\b",
    "AIza": r"\bAIza[\w-]{35}(?![\w-])",
    "ya29.": r"\bya29\.[\w-]{20,500}",
    "eyJ": r"\beyJ[\w-]{8,2000}\.eyJ[\w-]{8,8000}\.[\w-]{8,2000}",
    "hf_": r"\bhf_[A-Za-z0-9]{30,60}\b",
    "npm_": r"\bnpm_[A-Za-z0-9]{36}\b",
    "pypi-": r"\bpypi-[\w-]{60,300}",
    "SG.": r"\bSG\.[\w-]{16,32}\.[\w-]{32,64}",
    "AGE-SECRET": r"\bAGE-SECRET-KEY-1[A-Z0-9]{50,60}",
    "AccountKey": r"AccountKey=[A-Za-z0-9+/]{60,100}={0,2}",
    "://": r"\b[a-z][a-z0-9+.-]{1,20}://[^\s/:@<>]{1,64}:[^\s/@<>]{3,128}@[\w.-]+",
}
_SIGNS = (b"_", b"-")
_PATTERNS = tuple((mark.encode(), re.compile(pattern)) for marks, pattern in _SHAPES.items() for mark in marks.split())
# Most texts hold no underscore and no dash: a single byte is the cheapest thing to look for.
_BY_SIGN = {
    signs: tuple(
        (mark, pattern) for mark, pattern in _PATTERNS if all(sign in signs or sign not in mark for sign in _SIGNS)
    )
    for signs in (b"", b"_", b"-", b"_-")
}
_NAMES = frozenset(
    b"key keys apikey secretkey accesskey privatekey accountkey secret secrets clientsecret token tokens accesstoken "
    b"authtoken password passwd passwords pwd dbpassword".split()
)
_WORDS = ("key", "secret", "token", "passw", "pwd")
_ASSIGNED = re.compile(r"""\w{0,16}["']?[ \t]{0,3}(?:=>|:=|=|:)[ \t]{0,3}["'`]?([A-Za-z0-9+/_.=~!@#$%^&*-]{16,256})""")
MIN_BITS = 3.5  # of entropy per character: English words have about 3, random base64 above 4


def check(mode: str, row: Row) -> None:
    if not row.texts.once(has_one):
        return
    if mode == "redact":
        row.rewrite(lambda text: Placeholders(text).apply(text, find))
    row.found(mode, REASON)


def has_one(texts: Texts) -> bool:
    is_assigned = not _NAMES.isdisjoint(texts.words)
    return next(find(texts.text, texts.lower if is_assigned else ""), None) is not None


def find(text: str, lower: str | None = None) -> Iterator[Entity]:
    """Secrets and their places; `lower` empty: assignments are not looked for."""
    raw = text.encode("utf-8", "replace")  # a search in bytes is the faster one
    for mark, pattern in _BY_SIGN[b"".join(sign for sign in _SIGNS if sign in raw)]:
        if mark in raw:
            for match in pattern.finditer(text):
                yield Entity(match.start(), match.end(), REASON, match[0])
    lower = text.lower() if lower is None else lower
    if lower and ("=" in text or ":" in text):
        yield from _assigned(text, lower if len(lower) == len(text) else text)


def _assigned(text: str, lower: str) -> Iterator[Entity]:
    """Random values given to a name that holds one of the words; `lower` has the places of `text`."""
    for word in _WORDS:
        place = lower.find(word)
        while place >= 0:
            match = _ASSIGNED.match(text, place + len(word))
            if match and _is_random(match[1]):
                yield Entity(match.start(1), match.end(1), REASON, match[1])
            place = lower.find(word, match.end() if match else place + 1)


def _is_random(value: str) -> bool:
    """Letters and digits mixed, with more entropy than words have."""
    if not (any(c.isdigit() for c in value) and any(c.isalpha() for c in value)):
        return False
    counts = Counter(value).values()
    return -sum(n / len(value) * math.log2(n / len(value)) for n in counts) >= MIN_BITS
