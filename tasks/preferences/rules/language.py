"""The language of a text, by its script and, for Latin letters, by its most frequent words. Light and coarse: texts of
few words have no language here, and pass. A longer one that is in no language known here is judged by what it lacks: a
script, or frequent words, of those that are allowed."""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection

from tasks.preferences.rules.provenance import AllowedOptions
from tasks.preferences.rules.row import Row

MIN_WORDS = 8  # of a text in Latin letters
MIN_SHARE = 0.15  # of its words that are frequent ones of the language
MIN_LETTERS = 12  # of a text that its script alone refuses
MIN_RUNNING_WORDS = 12  # of a text in Latin letters that has too few words of the allowed languages
MIN_ALLOWED_SHARE = 0.1  # of its words that are frequent ones of them: above, it may be one of them
_SCRIPTS = {
    "ja": re.compile("[\u3040-\u30ff]"),
    "ko": re.compile("[\uac00-\ud7af\u1100-\u11ff]"),
    "zh": re.compile("[\u4e00-\u9fff]"),
    "ru": re.compile("[\u0400-\u04ff]"),
    "ar": re.compile("[\u0600-\u06ff]"),
    "hi": re.compile("[\u0900-\u097f]"),
    "he": re.compile("[\u0590-\u05ff]"),
    "el": re.compile("[\u0370-\u03ff]"),
    "th": re.compile("[\u0e00-\u0e7f]"),
}
_FREQUENT = {
    language: frozenset(words.split())
    for language, words in {
        "en": "the of and to a in is that it for you was on are with as i be this have or what how do can not my your "
        "they we but from if would there their which about when who will more does should could than them been has "
        "were these because some just like other he she his her its an by at all so get very any then into don",
        "de": "der die das und ist nicht ich ein eine zu den mit sie es auf für von dem wie was sich auch kann wir",
        "fr": "le la les de des et est un une que qui dans pour pas je vous il elle nous sur au avec ce comment",
        "es": "el la los las de y que en un una es no por para con se lo como más su qué está yo del al",
        "it": "il lo la gli di e che in un una è non per con si come sono mi del della al anche più questo",
        "pt": "o a os as de e que em um uma é não por para com se do da como mais você eu no na",
        "nl": "de het een en van ik is niet dat die in je op te met voor zijn er maar wat hoe aan",
        "pl": "i w nie na się jest to że z do jak co o ja czy po za od tak dla",
        "sv": "och att det som en är jag inte på för med av ett den till har du kan vad hur",
        "tr": "bir ve bu için da de ne mi ben çok var ile olarak ama daha nasıl gibi sen",
        # Like English in "a" and "is".
        "hu": "a az és hogy nem is egy ez de azt mint csak meg kell ha már vagy lehet én te volt mi van",
    }.items()
}
_SHARED = frozenset("a i e o on as be my do to".split())  # frequent in languages that are not known here, too
_KNOWN = _SCRIPTS.keys() | _FREQUENT.keys()
_LETTER = "[A-Za-z\u00c0-\u024f\u1e00-\u1eff]"
_LATIN = re.compile(_LETTER)
_WORD = re.compile(r"[^\W\d_]+")
_RUN = re.compile(rf"{_LETTER}+(?:['’ ]{_LETTER}+){{3,}}")  # of words without a sign between them: in no list, nor code


def language_of(text: str) -> str | None:
    """An ISO 639-1 code, or None where the text does not say."""
    letters = sum(map(str.isalpha, text))
    if not text.isascii():
        found = {language: len(script.findall(text)) for language, script in _SCRIPTS.items()}
        if found["ja"]:
            found["ja"] += found["zh"]  # Japanese writes Chinese characters among its own
        best = max(found, key=lambda language: found[language])
        if found[best] > 0.5 * letters:
            return best
    words = _WORD.findall(text.lower())
    if len(words) < MIN_WORDS:
        return None
    counts = Counter(words)
    shares = {language: sum(counts[word] for word in known) / len(words) for language, known in _FREQUENT.items()}
    best = max(shares, key=lambda language: shares[language])
    return best if shares[best] >= MIN_SHARE else None


def is_foreign(text: str, allowed: Collection[str]) -> bool:
    """Whether a text is in another language than these. Where one of them is unknown here, so may be the text's."""
    language = language_of(text)
    if language is not None:
        return language not in allowed
    if not _KNOWN.issuperset(allowed):
        return False
    text = unicodedata.normalize("NFKC", text)
    frequent = set().union(*(_FREQUENT.get(code, ()) for code in allowed)) - _SHARED
    scripts = [_SCRIPTS[code] for code in allowed if code in _SCRIPTS] + ([_LATIN] if frequent else [])
    letters = sum(map(str.isalpha, text))
    if letters >= MIN_LETTERS and sum(len(script.findall(text)) for script in scripts) < 0.5 * letters:
        return True
    words = _WORD.findall(" ".join(_RUN.findall(text)).lower())
    if len(words) < MIN_RUNNING_WORDS or not frequent:
        return False
    return sum(word in frequent for word in words) < MIN_ALLOWED_SHARE * len(words)


def check(options: AllowedOptions, row: Row) -> None:
    if any(is_foreign(text, options.allowed) for text in (*row.texts.prompts, *row.texts.replies)):
        row.found(options.mode, "language")
