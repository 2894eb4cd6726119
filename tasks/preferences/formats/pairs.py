"""Pairs in which the better reply is named: HH-RLHF, prompt/chosen/rejected in three shapes, AlpacaEval."""

from typing import Any

from tasks.preferences import dialogue
from tasks.preferences.dialogue import text
from tasks.preferences.formats.building import Format, Found, Value, better, first_key, has, is_number
from tasks.preferences.screen import RefusedError

_PROMPTS = ("prompt", "question", "instruction")


def hh_rlhf(row: Value, source: str) -> Found:
    """HH-RLHF: two whole dialogues as text, equal up to the last reply. Bai 2022, arXiv:2204.05862."""
    chosen, rejected = (dialogue.transcript(text(row, key)) for key in ("chosen", "rejected"))
    if not chosen or not rejected:
        raise RefusedError("bad_dialogue")
    return [better(*dialogue.split_pair(chosen, rejected), source)]


def pairs(row: Value, source: str) -> Found:
    """`prompt` (or `question`), `chosen`, `rejected` as plain texts; `system` and `history` where they are given."""
    turns = dialogue.prompt(row.get(first_key(row, _PROMPTS)))
    system, history = row.get("system"), row.get("history")
    if isinstance(system, str) and system.strip() and turns[0]["role"] == "user":
        turns = [{"role": "system", "content": system}, *turns]
    if isinstance(history, list) and history:
        turns = dialogue.check_prompt([*turns[:-1], *_history(history), turns[-1]])
    return [_scored(row, turns, text(row, "chosen").strip(), text(row, "rejected").strip(), source)]


def pairs_conversational(row: Value, source: str) -> Found:
    """`chosen` and `rejected` as messages; `prompt` apart, or as the messages they share."""
    chosen, rejected = (_messages(row.get(key)) for key in ("chosen", "rejected"))
    if row.get("prompt") is not None and len(chosen) == len(rejected) == 1:
        before = dialogue.prompt(row["prompt"])
        chosen, rejected = before + chosen, before + rejected
    turns, preferred, other = dialogue.split_pair(chosen, rejected)
    return [_scored(row, turns, preferred, other, source)]


def sharegpt_pairs(row: Value, source: str) -> Found:
    """`conversations` in ShareGPT's words, then `chosen` and `rejected` as one message each."""
    turns = dialogue.check_prompt(dialogue.messages(row.get("conversations")))
    chosen, rejected = (_messages(row.get(key)) for key in ("chosen", "rejected"))
    return [better(*dialogue.split_pair(turns + chosen, turns + rejected), source)]


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
    instruction = row.get("instruction")
    if isinstance(instruction, str) and isinstance(row.get("input"), str) and row["input"].strip():
        instruction = f"{instruction}\n\n{row['input']}"
    turns = dialogue.prompt(instruction)
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
    return isinstance(row.get("chosen"), list | dict) or isinstance(row.get("rejected"), list | dict)


def _is_pairs(row: Value) -> bool:
    return (
        any(key in row for key in _PROMPTS)
        and ("chosen" in row or "rejected" in row)
        and not (_is_conversational(row) or has(row, "conversations"))
    )


_SCORES = {"score_chosen", "score_rejected"}
FORMATS = (
    Format("hh_rlhf", frozenset({"chosen", "rejected"}), _is_hh, hh_rlhf),
    Format("pairs", frozenset({*_PROMPTS, "system", "history", "chosen", "rejected", *_SCORES}), _is_pairs, pairs),
    Format(
        "pairs_conversational",
        frozenset({"prompt", "chosen", "rejected", *_SCORES}),
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
