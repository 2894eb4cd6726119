"""Text that means to steer what reads it: control tokens of chat templates, and orders to a model or a judge."""

import re

from tasks.preferences.rules.row import Row, Texts

# Markers of the chat templates in use. Roles in angle brackets (`<user>`) are ordinary text.
_TOKENS = re.compile(
    r"<\|[a-z_0-9▁]{2,32}\|>|<｜[^｜<>\n]{2,40}｜>|\[/?INST\]|<</?SYS>>|</?s>|<(?:bos|eos|pad|unk|mask)>"
    r"|<(?:start|end)_of_(?:turn|image|text)>|\[(?:BOS|EOS|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS)\]"
)
_OPENERS = tuple(
    "<| <｜ INST] SYS>> <s> </s> os> <pad> <unk> <mask> _of_t _of_i [BOS [EOS [SYSTEM_P [AVAILABLE_T [TOOL_C".split()
)
_SYSTEM = r"\b(?:reveal|print|show|repeat|output)\b[^.\n]{0,20}\bsystem prompt\b|\bsystem prompt\W{1,3}you are\b"
# Orders, each with words of which one must be there before it is looked for.
_ORDERS = tuple(
    (frozenset(words.encode().split()), re.compile(pattern))
    for words, pattern in {
        "ignore disregard forget override": r"\b(?:ignore|disregard|forget|override)\b[^.\n]{0,30}"
        r"\b(?:previous|prior|above|earlier|preceding|all|your|the)\b[^.\n]{0,24}"
        r"\b(?:instructions?|prompts?|rubric|guidelines|directions)\b",
        "verdict": r"\b(?:final )?verdict\W{1,3}(?:is )?\W{0,3}(?:\[\[|(?:assistant|response|answer) [ab]\b)",
        "tool function invoke": r"</?(?:tool_call|tool_response|tool_use|function_calls?|invoke)\b",
        "prompt": _SYSTEM,
        "dan mode anything": r"\byou are now (?:dan\b|in (?:developer|dan|god) mode)|\bdo anything now\b",
        "rate score grade judge choose prefer select pick": r"\b(?:rate|score|grade|judge|choose|prefer|select|pick)\b"
        r"[^.\n]{0,30}\bthis (?:response|answer|reply|one)\b[^.\n]{0,30}\b(?:10|ten|100|best|highest|higher|winner)\b",
    }.items()
)
_VERDICT = re.compile(r"\[\[(?:a|b|c|tie|rating|\d{1,2})\]\]")


def has_token(texts: Texts) -> bool:
    text = texts.text
    return (
        ("<" in text or "[" in text) and any(opener in text for opener in _OPENERS) and _TOKENS.search(text) is not None
    )


def check_token(mode: str, row: Row) -> None:
    if row.texts.once(has_token):
        if mode == "redact":
            row.rewrite(lambda text: _TOKENS.sub(_spell, text))
        row.found("warn" if mode == "redact" else mode, "special_token")


def _spell(match: re.Match[str]) -> str:
    """The marker as text that no tokenizer takes for one: its brackets apart from its name."""
    token = match[0]
    return f"{token[0]} {token[1:-1]} {token[-1]}"


def check_injection(mode: str, row: Row) -> None:
    if row.texts.once(_has_order):
        row.found(mode, "injection_marker")


def _has_order(texts: Texts) -> bool:
    if "[[" in texts.text and _VERDICT.search(texts.lower) is not None:
        return True
    return any(not words.isdisjoint(texts.words) and order.search(texts.lower) for words, order in _ORDERS)
