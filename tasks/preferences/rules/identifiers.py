"""Where a text names a person or a machine of theirs, by shape and checksum."""

import re
from collections.abc import Callable, Iterator
from string import digits as DIGITS

from tasks.preferences.rules.checksums import (
    IBAN_LENGTHS,
    is_card,
    is_china,
    is_cpf,
    is_dni,
    is_iban,
    is_ip,
    is_nino,
    is_nir,
    is_ssn,
    only_digits,
)
from tasks.preferences.rules.placeholders import Entity

_DIGITS = DIGITS.encode()
_SHAPE = bytes.maketrans(_DIGITS, b"0" * len(_DIGITS))  # a search for one byte is many times faster than for a class
MIN_DIGITS = 4  # of an address as 1.1.1.1; any number below has more
_DENSE = re.compile(r"\d(?:[ .()/-]{0,2}\d){5,}")  # every number below has so many digits close together
_DENSE_SHAPE = re.compile(rb"0(?:[ .()/-]{0,2}0){5,}")
_BEFORE, _AFTER = 16, 48  # characters of a number around its digits: letters of an IBAN, a country, brackets
_DOTTED = re.compile(r"\d\.\d{1,3}\.\d{1,3}\.\d")  # in every IPv4 address
_COLONS = re.compile(r":[0-9A-Fa-f]{0,4}:[0-9A-Fa-f]{0,4}:")  # in every IPv6 address
_EMAIL = re.compile(
    r"(?<![\w.+%-])[\w.+%-]{1,64}+@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,62}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}(?![\w-])"
)
_IBAN = re.compile(r"(?<![\w-])[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}(?!\w)")
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)")
_IPV6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){3,7}(?![\w:])")
_PHONE = re.compile(
    r"(?<![\w.,/$€£%<-])(?:"
    r"(?P<world>\+[1-9]\d{0,2}(?:[ .-]?\(?\d{1,5}\)?){2,6})"
    r"|(?P<american>(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}[.-])\d{3}[.-]\d{4})"
    r"|(?P<told>\(?\d{2,5}\)?(?:[ .-]?\d{2,5}){1,4})"
    r")(?!\w|[-.,/]\d|%)"
)
_TOLD = re.compile(
    r"\b(?:phone|telephone|tel|call|text|sms|mobile|cell|fax|whatsapp|reach me|ring)\b[^\d<>\n\x1f]{0,24}$",
    re.IGNORECASE,
)
_FREE = frozenset("800 888 877 866 855 844 833 822 900".split())
_CARD = re.compile(
    r"(?<![\w.,/-])(?:\d{13,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{4}|\d{4}([ -])\d{6}\2\d{4,5})(?![\w/-]|[.,]\d)"
)


def may_hold(text: str, raw: bytes) -> bool:
    """Whether it is worth looking: an @, or some digits."""
    return "@" in text or len(raw) - len(raw.translate(None, _DIGITS)) >= MIN_DIGITS or "::" in text


def find(text: str) -> Iterator[Entity]:
    """The entities, the surest kinds first; some may overlap."""
    if "@" in text:
        for match in _EMAIL.finditer(text):
            yield _entity(match, "email", match[0].casefold())
    shape = text.encode("utf-8", "replace").translate(_SHAPE)
    num_digits = shape.count(b"0")
    if num_digits >= MIN_DIGITS or "::" in text:
        yield from _addresses(text, shape)
    if num_digits >= 6:
        yield from _numbers(text, shape)


def _numbers(text: str, shape: bytes) -> Iterator[Entity]:
    spans = [(start, end, _num_digits(text, shape, start, end)) for start, end in _spans(text, shape)]

    def matches(pattern: re.Pattern[str], least: int = 0, sign: str = "") -> Iterator[re.Match[str]]:
        """In the spans that have so many digits, and the sign."""
        return (
            match
            for start, end, count in spans
            if count >= least and text.find(sign, start, end) >= 0
            for match in pattern.finditer(text, start, end)
        )

    if not spans:
        return
    for match in matches(_IBAN):
        compact = match[0].replace(" ", "")
        length = IBAN_LENGTHS.get(compact[:2], 0)
        if is_iban(compact[:length]):
            end = match.start()
            for _ in range(length):  # the pattern may have run on into the next word
                end += 1 + (text[end] == " ")
            yield Entity(match.start(), end, "iban", compact[:length])
    for match in matches(_CARD, 13):
        if is_card(only_digits(match[0])):
            yield _entity(match, "card", only_digits(match[0]))
    for pattern, least, sign, is_one in NATIONAL_IDS:
        for match in matches(pattern, least, sign):
            if is_one(match[0]):
                yield _entity(match, "national_id", re.sub(r"\W", "", match[0]).upper())
    phones = {}
    for match in matches(_PHONE, 7):
        number = only_digits(match[0])
        if is_phone(match, text[max(0, match.start() - 48) : match.start()], number):
            phones[number] = match
            yield _entity(match, "phone", number[-10:])
    if phones:  # said once to be a phone, it is one where it is repeated
        for match in matches(_PHONE):
            if only_digits(match[0]) in phones:
                yield _entity(match, "phone", only_digits(match[0])[-10:])


def _num_digits(text: str, shape: bytes, start: int, end: int) -> int:
    return shape.count(b"0", start, end) if len(shape) == len(text) else sum(map(str.isdecimal, text[start:end]))


def _spans(text: str, shape: bytes) -> Iterator[tuple[int, int]]:
    """Where digits are close together, with room for what a number may have before and after them.

    A pattern that may begin anywhere costs as much per character as a whole screen; few characters are near digits.
    """
    start, end = 0, -1
    is_ascii = len(shape) == len(text)  # then places in both are the same, and there are no other digits
    for match in _DENSE_SHAPE.finditer(shape) if is_ascii else _DENSE.finditer(text):
        if match.start() - _BEFORE > end:
            if end > 0:
                yield start, end
            start = max(0, match.start() - _BEFORE)
        end = match.end() + _AFTER
    if end > 0:
        yield start, end


def _addresses(text: str, shape: bytes) -> Iterator[Entity]:
    if (len(shape) != len(text) or b"0.0" in shape) and _DOTTED.search(text):
        for match in _IPV4.finditer(text):
            if is_ip(match[0]) and not text[max(0, match.start() - 12) : match.start()].lower().rstrip().endswith(
                ("version", "v", "release", "section")
            ):
                yield _entity(match, "ip", match[0])
    if text.count(":") > 2 and _COLONS.search(text):
        for match in _IPV6.finditer(text):
            if is_ip(match[0]):
                yield _entity(match, "ip", match[0].lower())


def _entity(match: re.Match[str], kind: str, value: str) -> Entity:
    return Entity(match.start(), match.end(), kind, value)


def is_phone(match: re.Match[str], before: str, number: str) -> bool:
    if number[-10:-7] in _FREE and len(number) in (10, 11):
        return False
    if match["world"]:
        return 8 <= len(number) <= 15
    if match["american"]:
        return number[-10] != "0"
    return 7 <= len(number) <= 12 and _TOLD.search(before) is not None


# A pattern, the digits that it has at least, a sign that it has, and the check.
NATIONAL_IDS: tuple[tuple[re.Pattern[str], int, str, Callable[[str], bool]], ...] = (
    (re.compile(r"(?<![\w.,/-])\d{3}-\d{2}-\d{4}(?![\w/-])"), 9, "-", is_ssn),
    (re.compile(r"(?<![\w.,/-])\d{3}\.\d{3}\.\d{3}-\d{2}(?![\w/-])"), 11, "-", is_cpf),
    (re.compile(r"(?<![\w.,/-])(?:\d{8}|[XYZ]-?\d{7})-?[A-HJ-NP-TV-Z](?![\w/-])"), 7, "", is_dni),
    (re.compile(r"(?<![\w.,/-])[12] ?\d{2} ?\d{2} ?\d{2} ?\d{3} ?\d{3} ?\d{2}(?![\w/-])"), 13, "", is_nir),
    (re.compile(r"(?<![\w.,/-])[1-9]\d{5}(?:19|20)\d{2}(?:0[1-9]|1[0-2])[0-3]\d{4}[\dXx](?![\w/-])"), 17, "", is_china),
    (re.compile(r"(?<![\w-])[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d{2} ?\d{2} ?\d{2} ?[A-D](?![\w-])"), 6, "", is_nino),
)
