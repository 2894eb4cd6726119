"""numeric: the last number of the reply is the answer, within a tolerance; compared as exact fractions.

A number is digits with an optional sign, thousands separators (1,234), decimal part, exponent, denominator (3/4,
1 1/2, ½) and per cent sign (50% is 1/2). Digits inside a word (x2) are none. A minus after a digit, a letter or a
closing bracket is a subtraction.
"""

import unicodedata
from fractions import Fraction
from typing import Annotated

from pydantic import Field

from tasks.rlhf.verification import Resources, Verify
from tasks.rlhf.verification import Spec as Base

DIGITS = frozenset("0123456789")
MAX_DIGITS = 400  # of a number, and size of its exponent up to which it is worked out; no longer number is an answer


class Spec(Base):
    answer: str | int | float
    tolerance: Annotated[float, Field(ge=0)] = 0.0  # absolute
    relative: Annotated[float, Field(ge=0)] = 0.0  # of the answer's size; the wider of the two counts


def verifier(spec: Spec, resources: Resources) -> Verify:
    """1 where the last number is the answer, else 0; a reply without a number is wrong."""
    found = numbers(str(spec.answer))
    if len(found) != 1 or found[0] is None:
        raise ValueError(f"answer = {spec.answer!r}: must hold exactly one number")
    answer = found[0]
    allowed = max(Fraction(spec.tolerance), Fraction(spec.relative) * abs(answer))

    def verify(reply: str) -> float:
        said = numbers(reply)
        return float(bool(said) and said[-1] is not None and abs(said[-1] - answer) <= allowed)

    return verify


def numbers(text: str) -> list[Fraction | None]:
    """The numbers of a text in order; None for one that is beyond working out (1e999, 1/0)."""
    text = _plain(text)
    found: list[Fraction | None] = []
    place = 0
    while place < len(text):
        if text[place] in DIGITS or (text[place] == "." and text[place + 1 : place + 2] in DIGITS):
            value, end = _number(text, place)
            if not _in_word(text[place - 1 : place]):
                found.append(-value if value is not None and _negative(text, place) else value)
            place = end
        else:
            place += 1
    return found


def _plain(text: str) -> str:
    """Signs and fractions of other scripts in ASCII: − and ½ (as ` 1/2`, so that 1½ reads as 1 1/2)."""
    out = []
    for character in text:
        if unicodedata.decomposition(character).startswith("<fraction>"):
            character = " " + unicodedata.normalize("NFKC", character).replace("⁄", "/")
        out.append({"−": "-", "⁄": "/"}.get(character, character))
    return "".join(out)


def _number(text: str, place: int) -> tuple[Fraction | None, int]:
    """The unsigned number that starts at `place`, and where it ends."""
    value, end = _decimal(text, place)
    whole, top, start = Fraction(0), value, place
    after = _digits_end(text, end + 1)
    if text[end : end + 1] == " " and after > end + 1 and text[after : after + 1] == "/" and _is_integer(value):
        mixed, mixed_end = _decimal(text, end + 1)
        if mixed_end == after and text[after + 1 : after + 2] in DIGITS:  # 1 1/2
            whole, top, start, end = value or whole, mixed, end + 1, after
    if text[end : end + 1] == "/" and text[end + 1 : end + 2] in DIGITS and text[start - 1 : start] != "/":
        bottom, bottom_end = _decimal(text, end + 1)
        if text[bottom_end : bottom_end + 1] != "/":  # 1/2/2024 is a date: three numbers
            end = bottom_end
            value = None if top is None or not bottom else whole + top / bottom
    for sign in ("%", " %"):
        if text.startswith(sign, end):
            return (None if value is None else value / 100), end + len(sign)
    return value, end


def _decimal(text: str, place: int) -> tuple[Fraction | None, int]:
    end = _digits_end(text, place)
    if end - place <= 3:
        while text[end : end + 1] == "," and _digits_end(text, end + 1) == end + 4:
            end += 4
    if text[end : end + 1] == "." and text[end + 1 : end + 2] in DIGITS:
        end = _digits_end(text, end + 1)
    mantissa, exponent = text[place:end].replace(",", ""), 0
    if text[end : end + 1] in ("e", "E"):
        digits = end + 1 + (text[end + 1 : end + 2] in ("+", "-"))
        last = _digits_end(text, digits)
        if last > digits:
            exponent = int(text[end + 1 : last]) if last - digits <= 4 else MAX_DIGITS + 1
            end = last
    if len(mantissa) > MAX_DIGITS or abs(exponent) > MAX_DIGITS:
        return None, end
    return Fraction(mantissa) * Fraction(10) ** exponent, end


def _digits_end(text: str, place: int) -> int:
    while text[place : place + 1] in DIGITS:
        place += 1
    return place


def _is_integer(value: Fraction | None) -> bool:
    return value is not None and value.denominator == 1


def _negative(text: str, place: int) -> bool:
    """Whether a minus sign belongs to the number at `place`."""
    if text[place - 1 : place] != "-" or place == 0:
        return False
    before = text[max(0, place - 2) : place - 1]
    return not (_in_word(before) or before in DIGITS or before in (")", "]"))


def _in_word(before: str) -> bool:
    """Whether what follows belongs to a word: scripts without case (中) put numbers right behind their letters."""
    return before == "_" or before.lower() != before.upper()
