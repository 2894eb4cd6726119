"""Letters that look like others: a word that mixes scripts is read as the Latin word that it shows.

The pairs are of Unicode's confusables.txt (UTS #39), as far as Cyrillic and Greek letters pass for Latin ones.
"""

import re

# Code point (hexadecimal) and what it looks like.
_CYRILLIC = (
    "430a 435e 43eo 440p 441c 443y 445x 456i 458j 455s 4bbh 501d 51bq 51dw "
    "410A 412B 415E 41aK 41cM 41dH 41eO 420P 421C 422T 423Y 425X 406I 408J 405S"
)
_GREEK = "3bfo 3b1a 3bdv 3c1p 3b9i 3bak 3c5u 391A 392B 395E 396Z 397H 399I 39aK 39cM 39dN 39fO 3a1P 3a4T 3a5Y 3a7X"
_LATIN = {int(pair[:-1], 16): pair[-1] for pair in f"{_CYRILLIC} {_GREEK}".split()}
# A run of letters in which a Latin one stands with one that looks Latin.
_OTHER = "[\u0370-\u03ff\u0400-\u052f]"
_MIXED = re.compile(rf"[a-zA-Z]++{_OTHER}[^\W\d_]*+|{_OTHER}++[a-zA-Z][^\W\d_]*+")
_BYTES = bytes(range(0xCD, 0xD5))  # with which those letters begin in UTF-8
_FORMS = re.compile("[\ufb00-\ufb06\uff21-\uff3a\uff41-\uff5a\U0001d400-\U0001d7ff]")


def plain(text: str) -> str:
    """The text with the words that mix scripts spelt in Latin letters; other words, Russian ones too, stay."""
    if text.isascii() or not _holds(text.encode("utf-8", "replace"), _BYTES):
        return text
    return _MIXED.sub(lambda word: word[0].translate(_LATIN), text)


def is_disguised(text: str, raw: bytes) -> bool:
    """Whether the text holds a word of mixed scripts, or letters in a form made for looks (fullwidth, mathematical).

    `raw` is the text in UTF-8: its bytes tell in a microsecond that there is nothing to look for.
    """
    if _holds(raw, _BYTES) and any(word[0].translate(_LATIN) != word[0] for word in _MIXED.finditer(text)):
        return True
    return _holds(raw, b"\xef\xf0") and _FORMS.search(text) is not None


def _holds(raw: bytes, some: bytes) -> bool:
    """Whether one of these bytes is there; several times faster than a regular expression."""
    return len(raw) != len(raw.translate(None, some))
