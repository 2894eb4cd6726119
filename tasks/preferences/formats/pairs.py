"""Pairs in which the better reply is named: HH-RLHF, prompt/chosen/rejected in three shapes, AlpacaEval."""

from typing import Any

from tasks.preferences import dialogue
from tasks.preferences.dialogue import text
from tasks.preferences.formats.building import (
    PAIRS,
    Format,
    Found,
    Value,
    better,
    first_key,
    has,
    is_number,
    named_pair,
)
from tasks.preferences.screen import RefusedError

_PROMPTS = ("prompt", "question", "instruction", "input")


def hh_rlhf(row: Value, source: str) -> Found:
    """HH-RLHF: two whole dialogues as text, equal up to the last reply. Bai 2022, arXiv:2204.05862."""
    chosen, rejected = (dialogue.transcript(text(row, key)) for key in ("chosen", "rejected"))
    if not chosen or not rejected:
        raise RefusedError("bad_dialogue")
    return [better(*dialogue.split_pair(chosen, rejected), source)]


def pairs(row: Value, source: str) -> Found:
    """`prompt` (or `question`, `instruction`, `input`), `chosen`, `rejected` as plain texts; with an `instruction` its
    `input`, and `system` and `history` where they are given.
    """
    row = _renamed(row)
    key = first_key(row, _PROMPTS)
    turns = dialogue.prompt(_instruction(row) if key == "instruction" else row.get(key))
    system, history = row.get("system"), row.get("history")
    if isinstance(system, str) and system.strip() and turns[0]["role"] == "user":
        turns = [{"role": "system", "content": system}, *turns]
    if isinstance(history, list) and history:
        turns = dialogue.check_prompt([*turns[:-1], *_history(history), turns[-1]])
    return [_scored(row, turns, text(row, "chosen").strip(), text(row, "rejected").strip(), source)]


def pairs_conversational(row: Value, source: str) -> Found:
    """`chosen` and `rejected` as messages; `prompt` or `messages` apart, or as the messages they share.

    OpenAI's files for preference tuning, too: `input: {messages}`, `preferred_output`, `non_preferred_output`.
    """
    row = _renamed(row)
    chosen, rejected = (_messages(row.get(key)) for key in ("chosen", "rejected"))
    given = next((row[key] for key in ("prompt", "messages", "input") if row.get(key) is not None), None)
    if given is not None and len(chosen) == len(rejected) == 1:
        before = dialogue.prompt(given.get("messages") if isinstance(given, dict) else given)
        chosen, rejected = before + chosen, before + rejected
    turns, preferred, other = dialogue.split_pair(chosen, rejected)
    return [_scored(row, turns, preferred, other, source)]


def sharegpt_pairs(row: Value, source: str) -> Found:
    """`conversations` in ShareGPT's words, then `chosen` and `rejected` as one message each."""
    turns = dialogue.check_prompt(dialogue.messages(row.get("conversations")))
    chosen, rejected = (_messages(row.get(key)) for key in ("chosen", "rejected"))
    return [better(*dialogue.split_pair(turns + chosen, turns + rejected), source)]


def _renamed(row: Value) -> Value:
    """With its replies as `chosen` and `rejected`."""
    names = named_pair(row)
    return row | {new: row.get(old) for new, old in zip(PAIRS[0], names, strict=True)} if names else row


def _instruction(row: Value) -> Any:
    """With what it is to be done to, where that stands apart."""
    asked, more = row.get("instruction"), row.get("input")
    return f"{asked}\n\n{more}" if isinstance(asked, str) and isinstance(more, str) and more.strip() else asked


def _messages(value: Any) -> list[Any]:
    return dialogue.messages([value] if isinstance(value, dict) else value)


def _history(history: list[Any]) -> list[Any]:
    """Earlier turns, as pairs of question and answer."""
    if not all(isinstance(turn, list) and len(turn) == 2 and all(isinstance(t, str) for t in turn) for turn in history):
        raise RefusedError("type")
    return [
        {"role": role, "content": said}
        for turn in history
        for role, said in zip(("user", "assistant"), turn, strict=True)
    ]


def _scored(row: Value, turns: list[Any], preferred: str, other: str, source: str) -> Any:
    """Scores of both, where the row has them (UltraFeedback binarised): equal ones are a tie."""
    scores = [row.get(key) for key in ("score_chosen", "score_rejected")]
    if not all(is_number(score) for score in scores):
        return better(turns, preferred, other, source)
    return better(turns, preferred, other, source, scores[0] == scores[1], scores={"overall": scores})


def alpaca_eval(row: Value, source: str) -> Found:
    """AlpacaEval annotations: `preference` is 1 + P(output_2 is better), so 1.5 is a tie.

    The confidence |2p - 1| gives a preference of 1.3 the same pull on the loss as its soft label, at margin 0.
    """
    turns = dialogue.prompt(_instruction(row))
    preference = row.get("preference")
    if isinstance(preference, bool) or not isinstance(preference, int | float) or not 1 <= preference <= 2:
        raise RefusedError("bad_label")
    second = preference > 1.5
    if row.get("output_2" if second else "output_1") is None:
        raise RefusedError("dangling_label")
    outputs = [text(row, "output_1"), text(row, "output_2")]
    preferred, other = reversed(outputs) if second else outputs
    tie = preference == 1.5
    confidence = 1.0 if tie else round(abs(2 * preference - 3), 6)
    return [better(turns, preferred, other, source, tie, confidence=confidence)]


def _is_hh(row: Value) -> bool:
    return not any(key in row for key in _PROMPTS) and (
        dialogue.is_transcript(row.get("chosen")) or dialogue.is_transcript(row.get("rejected"))
    )


def _is_conversational(row: Value) -> bool:
    return any(isinstance(row.get(name), list | dict) for name in named_pair(row) or ())


def _is_pairs(row: Value) -> bool:
    return (
        any(key in row for key in _PROMPTS)
        and named_pair(row) is not None
        and not (_is_conversational(row) or has(row, "conversations"))
    )


_SCORES = {"score_chosen", "score_rejected"}
_REPLIES = {name for names in PAIRS for name in names}
FORMATS = (
    Format("hh_rlhf", frozenset({"chosen", "rejected"}), _is_hh, hh_rlhf),
    Format("pairs", frozenset({*_PROMPTS, "system", "history", *_REPLIES, *_SCORES}), _is_pairs, pairs),
    Format(
        "pairs_conversational",
        frozenset({"prompt", "messages", "input", *_REPLIES, *_SCORES}),
        lambda row: _is_conversational(row) and "conversations" not in row,
        pairs_conversational,
    ),
    Format(
        "sharegpt_pairs",
        frozenset({"conversations", "chosen", "rejected"}),
        lambda row: "conversations" in row and ("chosen" in row or "rejected" in row),
        sharegpt_pairs,
    ),
    Format(
        "alpaca_eval",
        frozenset({"instruction", "input", "output_1", "output_2", "preference"}),
        lambda row: "output_1" in row or "output_2" in row,
        alpaca_eval,
    ),
)
