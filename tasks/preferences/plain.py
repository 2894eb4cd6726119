"""The fast path of screening: rows that a cheap scan shows to be free of trouble, through a native parser.

Whatever could be refused, or be read in two ways, gets None here and is judged by `screen.judge` alone; so for any
bytes this gives what that gives, or nothing. That is a property tested on hostile bytes.
"""

import re
from typing import Any

import orjson

MAX_DEPTH = 32
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_BRACKETS = re.compile(rb"[\[\]{}]")
# Bytes that begin a hidden character in UTF-8; some harmless ones (dashes and quotes are not among them) share them.
_HIDDEN = re.compile(rb"\xe2\x80[\x8b\xaa-\xae]|\xe2\x81[\xa0\xa6-\xa9]|\xef\xbb\xbf|\xf3\xa0[\x80\x81]")
# Escapes of characters that may be refused, of a colon (colons are counted below), and backspace.
_ESCAPES = re.compile(rb"\\u(?:00(?:[01]|7[fF]|3[aA])|20(?:0[bB]|2[a-eA-E]|6[06-9])|[fF][eE][fF][fF]|[dD][bB]40)|\\b")
_SAFE_INTEGER = 10**18  # above, it may have more digits than a row may hold
_SAFE_FLOAT = 1e15  # above, it may have been an integer


def parse(raw: bytes) -> dict[str, Any] | None:
    """One row, where it is sure to be accepted by the screen; None where somebody has to look."""
    if b"\x7f" in raw or depth(raw) > MAX_DEPTH:
        return None
    if not raw.isascii() and _HIDDEN.search(raw):
        return None
    if b"\\" in raw and _ESCAPES.search(raw):
        return None
    try:
        value = orjson.loads(raw)  # refuses raw control characters, bad UTF-8, lone surrogates, NaN, what is cut
    except orjson.JSONDecodeError:
        return None
    # A key that stands twice is dropped silently, and its colon with it.
    if type(value) is not dict or _colons(value) != raw.count(b":"):
        return None
    return value


def depth(raw: bytes) -> int:
    """How deep brackets are nested outside strings; 0 where there are too few to be refused."""
    if raw.count(b"{") + raw.count(b"[") <= MAX_DEPTH:
        return 0  # cannot be deeper than it has brackets
    level = deepest = 0
    for match in _BRACKETS.finditer(_STRING.sub(b"", raw)):
        level += 1 if match[0] in b"[{" else -1
        deepest = max(deepest, level)
    return deepest


def _colons(value: Any) -> int:
    """Colons that a value was written with: one per key, and those in texts. -1 or less where a number is in doubt."""
    kind = type(value)
    if kind is str:
        return int(value.count(":"))
    if kind is dict:
        total = len(value)
        for key, item in value.items():
            total += key.count(":") + (item.count(":") if type(item) is str else _colons(item))
        return total
    if kind is list:
        return sum(map(_colons, value))
    if kind is int:
        return 0 if -_SAFE_INTEGER < value < _SAFE_INTEGER else _DOUBT
    if kind is float:
        return 0 if -_SAFE_FLOAT < value < _SAFE_FLOAT else _DOUBT
    return 0


_DOUBT = -(1 << 62)  # no sum of colons makes up for it
