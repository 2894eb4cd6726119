"""The style guide for demonstrations (data/style_guide.md), as far as rules can check it: one reason per section."""

import re
from collections.abc import Callable
from itertools import pairwise

from tasks.preferences.rules.row import Row
from tasks.records import Demonstration, Safety

_ENDS = tuple(".!?…:;)]}>\"'”’»*_`|。！？")
_LIST = re.compile(r"\n\s*(?:[-*•+]|\d{1,3}[.)]|\|)[^\n]*$")  # the last line of a list or table needs no full stop
_NUMBERED = re.compile(r"^\s{0,3}(\d{1,3})[.)]\s", re.MULTILINE)
_HEDGES = (
    r"^\W*(?:what a|that's a|that is a|this is a)?\s*(?:great|good|excellent|wonderful|interesting) question\b"
    r"|\bas an? (?:ai|large language|language) (?:language )?(?:model|assistant)\b"
    r"|^\W*(?:certainly|absolutely|of course|sure thing|definitely)[!,.]? (?:here (?:is|are)|i(?:'d| would) be happy)\b"
    r"|\bi hope (?:this|that) helps\b|\blet me know if (?:you have any|you need any|there is anything)\b"
    r"|\bis there anything else (?:i can|you)\b|\bmy knowledge cut-?off\b|\blorem ipsum\b|\[insert [^\]]{1,40}\]"
)
_BOILERPLATE = re.compile(_HEDGES)
_RUDE = re.compile(
    r"\b(?:stupid|silly|dumb|idiotic|ridiculous|pointless) (?:question|request|thing to ask)\b"
    r"|\byou(?:'re| are) (?:being )?(?:an? )?(?:idiot|stupid|silly|dumb|ignorant|lazy|ridiculous)\b"
    r"|\b(?:obviously,? you|everyone knows|any fool)\b|!{3,}|\?{3,}"
)
_MAX_CAPITALS = 0.5  # of the letters, where there are enough of them to shout
_MIN_LETTERS = 24


def is_unfinished(reply: str) -> bool:
    """It breaks off: no closing sign at the end, and no list or code there either. A few words may stand alone."""
    text = reply.rstrip()
    if len(text.split()) < 4 or text.endswith(_ENDS) or (not text.isprintable() and _LIST.search(text)):
        return False
    return text[-1].isalpha() or text[-1] in ",-–—("


def is_malformed(reply: str) -> bool:
    """A code fence that is not closed, a numbered list that does not count up, more than two blank lines in a row."""
    if reply.count("```") % 2 or "\n\n\n\n" in reply:
        return True
    numbers = [int(number) for number in _NUMBERED.findall(reply)]
    return len(numbers) > 2 and any(after not in (before + 1, 1) for before, after in pairwise(numbers))


def is_rude(reply: str) -> bool:
    letters = [c for c in reply if c.isalpha()]
    shouts = len(letters) >= _MIN_LETTERS and sum(map(str.isupper, letters)) > _MAX_CAPITALS * len(letters)
    return shouts or _RUDE.search(reply.lower()) is not None


def is_boilerplate(reply: str) -> bool:
    return _BOILERPLATE.search(reply.lower().replace("\u2019", "'")) is not None


RULES: dict[str, Callable[[str], bool]] = {
    "style_unfinished": is_unfinished,
    "style_format": is_malformed,
    "style_tone": is_rude,
    "style_boilerplate": is_boilerplate,
}


def breaches(reply: str) -> list[str]:
    return [reason for reason, breaks in RULES.items() if breaks(reply)]


def check(mode: str, row: Row) -> None:
    for record in row.records:
        if isinstance(record, Demonstration | Safety) and record.reply:
            for reason in breaches(record.reply):
                row.found(mode, reason)
