"""Text as plain lower-case letters: no accents, look-alikes and signs; digits read as the letters they stand for."""

import unicodedata
from string import ascii_letters

from tasks.preferences.confusables import plain

# What is no letter parts words; an asterisk may stand for one.
_LETTERS = {letter: letter.lower() for letter in ascii_letters} | {"*": "*"}
_LETTERS |= {"0": "o", "1": "i", "3": "e", "4": "a", "5": "s", "7": "t", "@": "a", "$": "s"}
_TABLE = bytes(ord(_LETTERS.get(chr(code), " ")) for code in range(256))


def letters(text: str, raw: bytes) -> bytes:
    """The words of a text, also given as UTF-8, parted by spaces. A translation of bytes is fast."""
    if text.isascii():
        return raw.translate(_TABLE)
    folded = plain(unicodedata.normalize("NFKD", text)).replace("\u2019", "'")
    return folded.encode("ascii", "ignore").translate(_TABLE)
