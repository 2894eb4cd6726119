"""A slur mentioned, not used: quoted as a word, named as one, explained, reported, or declined to be said.

Use and mention: Quine 1940, Mathematical Logic, section 4. What counts is said right at the word, in its sentence:
quotation marks alone do not free it (they may be scorn), nor does talk of words elsewhere in the text.
"""

import re

from tasks.preferences.rules.lexicon import SLURS

_BEFORE, _AFTER = 90, 70  # characters of a sentence around a word that are looked at
_SENTENCE_END = re.compile(r"[.!?](?:\s|$)|\n")
_QUOTES = str.maketrans(dict.fromkeys("“”„«»‟", '"') | dict.fromkeys("‘’‚`´", "'"))
_WORD = re.compile(r"[a-z]+")
_CONTRACTION = re.compile(r"(?<=[a-z])'(?=[a-z])")  # don't becomes dont: it is no quotation mark

# A term of three words at most within quotation marks; longer quotations are speech.
_OPENED = re.compile(r"""(?:^|(?<=[^a-z]))["'](?:[\w-]+ ){0,2}$""")
_CLOSED = re.compile(r"""^(?: [\w-]+){0,2}[,.;:!?]?["'](?:[^a-z]|$)""")

_KIND = r"(?:words?|terms?|slurs?|epithets?|expressions?|phrases?|insults?|pejoratives?)"
_BAD = (
    r"(?:derogatory|offensive|pejorative|hateful|hurtful|racist|homophobic|transphobic|antisemitic|ableist|insulting|"
    r"disrespectful|unacceptable|inappropriate|vulgar|harmful|wrong|abuse|bullying)"
)
# In the sentence of a quoted term.
_TALK = re.compile(
    rf"\b(?:{_KIND}|{_BAD}|names?|labels?|slang|language|called|said|says|shouted|yelled|heard|wrote|spell?ed|spelt|"
    r"pronounced|translated?|used|uses|using|mean(?:s|t|ing)?|refers?|such as|synonyms?|etymology)\b"
)
# Right before a term without quotation marks.
_FRAMES = (
    re.compile(  # the word ...; terms such as ..., ... and ...
        r"\b(?:the|a|an|this|that|of|racial|racist|offensive|old|bad|such|use|using|used|some|are) "
        rf"(?:[\w-]+ )?(?<!other ){_KIND}(?: (?:like|such as|including|is|was|are|were))? "
        r"(?:[\w-]+(?:,|,? and|,? or) ){0,6}$"
    ),
    re.compile(
        r"\b(?:words|terms|slurs|epithets|expressions) (?:like|such as|including) (?:[\w-]+(?:,|,? and|,? or) ){0,6}$"
    ),
    re.compile(r"\b(?:etymology|meaning|definition|spelling|connotations?) of $"),
    re.compile(r"\b(?:if|when) \w+ calls? (?:you|me|him|her|us|them|someone|somebody|people)(?: an?)? $"),
    re.compile(  # was ever called a ...
        r"(?<!deserve )(?<!deserves )\b(?:was|were|been|being|is|are|get|gets|got|getting)"
        r"(?: \w+ly| ever| often| once)? called(?: an?)? $"
    ),
    re.compile(
        r"(?<!i )(?<!we )(?<!have )\bcalled (?:me|you|him|her|us|them|someone|somebody|people|an? \w+)(?: an?)? $"
    ),
    re.compile(  # I will not call anyone a ...
        r"(?:(?<!why )\b(?:not|never|avoid|cannot|cant|wont|dont|doesnt|shouldnt|wouldnt)|"
        r"(?<!never )(?<!not )(?<!t )\bstop|"
        rf"(?<!not )(?<!isnt )(?<!nothing )\b{_BAD} to)"
        r"(?: (?!stop|only|just|afraid|ashamed|scared|sorry|hesitate|mind|wrong|bad)\w+){0,5}? "
        r"(?:say|saying|call|calling|use|using|repeat|repeating|write|writing)(?: \w+){0,4}? $"
    ),
)
_CALLING = re.compile(r"\b(?:calling|to call)(?: \w+){1,3}? $")  # it is wrong after the term
# Right after a term.
_IS_WRONG = re.compile(rf"""^["']? (?:is|was|would be)(?: [\w-]+){{0,2}}? {_BAD}\b""")
_EXPLAINED = re.compile(
    rf"^(?:(?::| -| –|,) an? (?:[\w-]+ ){{0,3}}?{_KIND}\b|"
    rf" (?:is|was|are|were|has been|have been|as)(?: [\w-]+){{0,4}}? (?:{_KIND}|derogatory|pejorative)\b|"
    r" refers? to\b| means? (?!nothing|business|trouble|little|less|well|harm|war))"
)
# Right before it, and it is used whatever else is said.
_AIMED = re.compile(
    r"(?<!called )(?<!calls )\b(?:you|your|youre|u|ur|those|these|hes|shes|theyre|all|every|dirty|filthy|fucking|"
    r"stupid|dumb|damn|goddamn|ugly|lazy|bunch of|pack of|"
    r"(?:he|she|they|it|who|you|i|we|people|all|them) (?:is|am|are|was|were))(?: an?| the| such an?| all)? $"
)


def all_mentioned(text: str, count: int) -> bool:
    """Whether each of the `count` slurs known to be in a text is mentioned; a disguised one is not.

    Microseconds for a text of some hundred characters; to be asked of those alone that hold a slur.
    """
    plain = _CONTRACTION.sub("", text.casefold().translate(_QUOTES))
    found = [word.span() for word in _WORD.finditer(plain) if word.group() in SLURS]
    return len(found) == count and all(_is_mentioned(plain, start, end) for start, end in found)


def _is_mentioned(text: str, start: int, end: int) -> bool:
    before, after = text[max(0, start - _BEFORE) : start], text[end : end + _AFTER]
    if ends := [*_SENTENCE_END.finditer(before)]:
        before = before[ends[-1].end() :]
    if stop := _SENTENCE_END.search(after):
        after = after[: stop.end()]
    if (opened := _OPENED.search(before)) and _CLOSED.match(after):
        told = before[: opened.start()]
        is_talked_of = _TALK.search(told) or _TALK.search(after)
    else:
        told, is_talked_of = before, _EXPLAINED.match(after) or (_CALLING.search(before) and _IS_WRONG.match(after))
    return not _AIMED.search(told) and bool(is_talked_of or any(frame.search(told) for frame in _FRAMES))
