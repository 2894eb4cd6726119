"""Replies that are no answer: the error of an API, a stub of "as an AI", a stream that was cut; and replies that say
the prompt again or name the model that wrote them."""

import re

from tasks.preferences.rules.row import Row, Texts
from tasks.records import Safety

_MAX_ERROR = 400  # characters: a longer reply that begins so says more than the error
_ERROR = re.compile(
    r"\W{0,3}(?:(?:api|http|server|network|openai|internal|request|fatal|runtime|connection|timeout|read)[ _-]?)?"
    r"(?:error|exception)\W{0,4}(?:code\W{0,3})?(?:\d{3}\b|:|occurred|communicating|in the message stream|$)"
    r"|\W{0,3}(?:http\W{0,3})?(?:4(?:0[0-9]|13|2[29])|5(?:0[0-4]|2[0-9]))\W{1,3}(?:bad|unauthorized|forbidden|not found"
    r"|too many|internal|service|gateway|request|payload|client|web server)"
    r"|\W{0,3}(?:internal server error|bad gateway|service unavailable|gateway time-?out|too many requests)\b"
    r"|\W{0,3}(?:you exceeded your current quota|rate limit (?:reached|exceeded)|the model is (?:currently )?overloaded"
    r"|that model is currently overloaded|this model's maximum context length|maximum context length exceeded)"
    r"|\W{0,3}(?:an? (?:unknown |unexpected |internal )?error (?:has )?occurred|something went wrong|request timed out"
    r"|connection (?:reset|refused|timed out)|failed to (?:generate|fetch|get) (?:a |the )?(?:response|reply))\b"
    r"|\{\W{0,4}\"?(?:error|detail|message)\"?\s?:|traceback \(most recent call last\):"
    r"|(?:null|undefined|nan|\[object object\]|<no (?:response|output)>|\[?(?:no response|empty|error)\]?)\W{0,2}$"
)
_STUB = re.compile(
    r"(?:(?:i'?m |i am )?(?:sorry|i apologi[sz]e|apologies|unfortunately)\b\W{1,3}(?:but\W{1,2})?)?"
    r"as an? (?:ai|artificial intelligence|large language|language)\b[^.!?\n]{0,60}?,? (?:i|it)\b[^.!?\n]{0,200}[.!?]?"
    r"(?:\s+[^.!?\n]{0,120}[.!?]?)?$"
)
_CUT = re.compile(
    r"(?:[▁-▏▌█]|\ufffd|\[done\]|\[(?:response |reply |message |text )?(?:truncated|cut ?off|incomplete|interrupted)\]"
    r"|<(?:truncated|incomplete|interrupted)>|\((?:truncated|cut off|incomplete|continued?)\)"
    r"|\[(?:continue|continued|stopped|stop|max[_ ]tokens|length)\]|finish_reason\W{1,4}length\W{0,3})\s*$"
)
_NAMES = frozenset(
    b"openai chatgpt anthropic claude gpt gpta bard gemini deepmind llama mistral qwen deepseek vicuna alpaca grok "
    b"copilot google meta microsoft alibaba xai".split()  # digits read as letters: gpt4 is gpta
)
_IDENTITY = re.compile(
    r"\b(?:i am|i'm|i’m|my name is|this is|call me|as)\W{1,2}(?:an? )?(?:ai )?(?:assistant )?(?:called |named )?"
    r"(?:chatgpt|gpt-?\d|claude|bard|gemini|llama|mistral|qwen|deepseek|vicuna|alpaca|grok|copilot)\b"
    r"|\b(?:developed|created|trained|made|built|designed) by (?:openai|anthropic|google|meta(?: ai)?|deepmind"
    r"|mistral(?: ai)?|alibaba|deepseek|xai|microsoft)\b"
)
_MIN_ECHO = 24  # characters: a shorter question may well be a part of its answer


def check_error(mode: str, row: Row) -> None:
    # Where declining is the conduct asked for, a short refusal is an answer.
    if row.texts.once(_has_error) or (not isinstance(row.records[0], Safety) and row.texts.once(_has_stub)):
        row.found(mode, "error_text")


def _short(texts: Texts) -> list[str]:
    return [_plain(reply) for reply in texts.replies if len(reply) <= _MAX_ERROR]


def _has_error(texts: Texts) -> bool:
    return any(_ERROR.match(reply) for reply in texts.once(_short))


def _has_stub(texts: Texts) -> bool:
    return any("as an" in reply and _STUB.match(reply) for reply in texts.once(_short))


def check_unfinished(mode: str, row: Row) -> None:
    if row.texts.once(_is_cut):
        row.found(mode, "unfinished")


def _is_cut(texts: Texts) -> bool:
    return any(_CUT.search(reply[-48:].lower()) for reply in texts.replies)


def check_identity(mode: str, row: Row) -> None:
    if row.texts.once(_names_a_maker):
        row.found(mode, "identity_leak")


def _names_a_maker(texts: Texts) -> bool:
    return not _NAMES.isdisjoint(texts.words) and any(_IDENTITY.search(reply.lower()) for reply in texts.replies)


def check_echo(mode: str, row: Row) -> None:
    for record in row.records:
        asked = record.prompt[-1]["content"].strip()
        if len(asked) < _MIN_ECHO:
            continue
        head = asked[:_MIN_ECHO].lower()
        for reply in row.texts.replies:
            start = reply[: _MIN_ECHO + 8].lstrip("\"'> \n").lower()
            if start.startswith(head) and reply.lstrip("\"'> \n").lower().startswith(asked.lower()):
                row.found(mode, "prompt_echo")
                return


def _plain(reply: str) -> str:
    return reply.strip().lower().replace("\u2019", "'")
