"""Text that means to steer what reads it: control tokens of chat templates, and orders to a model or a judge."""

import re

from tasks.preferences.rules.row import Row

# Markers of the chat templates in use. Roles in angle brackets (`<user>`) are ordinary text.
_TOKENS = re.compile(
    r"<\|[a-z_0-9▁]{2,32}\|>|<｜[^｜<>\n]{2,40}｜>|\[/?INST\]|<</?SYS>>|</?s>|<(?:bos|eos|pad|unk|mask)>"
    r"|<(?:start|end)_of_(?:turn|image|text)>|\[(?:BOS|EOS|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS)\]"
)
_OPENERS = tuple(
    "<| <｜ INST] SYS>> <s> </s> os> <pad> <unk> <mask> _of_t _of_i [BOS [EOS [SYSTEM_P [AVAILABLE_T [TOOL_C".split()
)
_HINTS = (
    *"ignore disregard forget override jailbreak verdict tool_call <tool <function </invoke <invoke [[".split(),
    *("system prompt", "developer mode", "you are now", "do anything now"),
    *("this response", "this answer", "this reply", "this one"),
)
_INJECTION = re.compile(
    r"\b(?:ignore|disregard|forget|override)\b[^.\n]{0,30}\b(?:previous|prior|above|earlier|preceding|all|your|the)\b"
    r"[^.\n]{0,24}\b(?:instructions?|prompts?|rubric|guidelines|rules you|directions)\b"
    r"|\[\[(?:a|b|c|tie|rating|\d{1,2})\]\]|</?(?:tool_call|tool_response|function_calls?|tool_use|invoke)\b"
    r"|\b(?:final )?verdict\W{1,3}(?:is )?\W{0,3}(?:\[\[|assistant [ab]\b|response [ab]\b|answer [ab]\b)"
    r"|\b(?:reveal|print|show|repeat|output)\b[^.\n]{0,20}\bsystem prompt\b|\bsystem prompt\W{1,3}you are\b"
    r"|\byou are now (?:dan\b|in (?:developer|dan|god) mode)|\bdo anything now\b"
    r"|\b(?:rate|score|grade|judge|choose|prefer|select|pick)\b[^.\n]{0,30}\bthis (?:response|answer|reply|one)\b"
    r"[^.\n]{0,30}(?:\b(?:10|ten|100|best|highest|higher|winner)\b)"
)


def has_token(row: Row) -> bool:
    return any(opener in row.text for opener in _OPENERS) and _TOKENS.search(row.text) is not None


def check_token(mode: str, row: Row) -> None:
    if has_token(row):
        if mode == "redact":
            row.rewrite(lambda text: _TOKENS.sub(_spell, text))
        row.found("warn" if mode == "redact" else mode, "special_token")


def _spell(match: re.Match[str]) -> str:
    """The marker as text that no tokenizer takes for one: its brackets apart from its name."""
    token = match[0]
    return f"{token[0]} {token[1:-1]} {token[-1]}"


def check_injection(mode: str, row: Row) -> None:
    if any(hint in row.lower for hint in _HINTS) and _INJECTION.search(row.lower):
        row.found(mode, "injection_marker")
