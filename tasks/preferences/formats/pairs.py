"""Pairs in which the better reply is named: HH-RLHF, prompt/chosen/rejected in three shapes, AlpacaEval."""

from dataclasses import replace
from typing import Any

from tasks.preferences import dialogue
from tasks.preferences.dialogue import text
from tasks.preferences.formats import votes
from tasks.preferences.formats.building import (
    PAIRS,
    VOTE,
    Dropped,
    Format,
    Found,
    Value,
    better,
    first_key,
    has,
    in_context,
    is_number,
    named_pair,
    prompt_of,
    ranking,
    vote_of,
)
from tasks.preferences.screen import RefusedError
from tasks.records import Message, Preference

_PROMPTS = ("prompt", "question", "instruction", "input")
_ASKED = (*_PROMPTS, "query", "user_prompt", "messages", "conversation", "trajectory")  # before replies that are texts
_SCORED = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen_rating", "rejected_rating"),
    ("rating_chosen", "rating_rejected"),
    ("chosen-rating", "rejected-rating"),
    ("chosen_avg_rating", "rejected_avg_rating"),
    ("chosen_reward", "rejected_reward"),
)


def hh_rlhf(row: Value, source: str) -> Found:
    """HH-RLHF: two whole dialogues as text, equal up to the last reply. Bai 2022, arXiv:2204.05862."""
    return [_scored(row, *_of_transcripts(row), source)]


def pairs(row: Value, source: str) -> Found:
    """`prompt` (or `question`, `instruction`, `input`), `chosen`, `rejected` as plain texts; with an `instruction` its
    `input`, and `system` and `history` where they are given.
    """
    row = _renamed(row)
    key = first_key(row, _ASKED)
    if all(dialogue.is_transcript(row.get(name)) for name in PAIRS[0]):
        said, preferred, other = _of_transcripts(row)
        return [_scored(row, in_context(row, _agreeing(row.get(key), said)), preferred, other, source)]
    turns = prompt_of(row, key)
    return [_scored(row, turns, text(row, "chosen").strip(), text(row, "rejected").strip(), source)]


def pairs_conversational(row: Value, source: str) -> Found:
    """`chosen` and `rejected` as messages; `prompt` or `messages` apart, or as the messages they share.

    OpenAI's files for preference tuning, too: `input: {messages}`, `preferred_output`, `non_preferred_output`.
    """
    row = _renamed(row)
    chosen, rejected = (_messages(row.get(key)) for key in PAIRS[0])
    given = next((row[key] for key in ("prompt", "messages", "input") if row.get(key) is not None), None)
    given = given.get("messages") if isinstance(given, dict) else given
    if given is not None and len(chosen) == len(rejected) == 1:
        before = dialogue.prompt(given)
        chosen, rejected = before + chosen, before + rejected
    turns, preferred, other = dialogue.split_pair(chosen, rejected)
    if row.get("prompt") is not None:
        turns = _agreeing(row["prompt"], turns)
    return [_scored(row, in_context(row, turns), preferred, other, source)]


def _of_transcripts(row: Value) -> tuple[list[Message], str, str]:
    chosen, rejected = (dialogue.transcript(text(row, key)) for key in PAIRS[0])
    if not chosen or not rejected:
        raise RefusedError("bad_dialogue")
    return dialogue.split_pair(chosen, rejected)


def _agreeing(given: Any, turns: list[Message]) -> list[Message]:
    """The prompt that both dialogues hold, where what the row calls its prompt is about it. Raises RefusedError.

    What cannot be read as a prompt contradicts nothing: the dialogues are whole.
    """
    try:
        asked = dialogue.prompt(given)
    except RefusedError:
        return turns
    said = [dialogue.fold(turn["content"]) for turn in turns]
    whole = " ".join(dialogue.fold(turn["content"]) for turn in asked)
    users = [dialogue.fold(turn["content"]) for turn in asked if turn["role"] == "user"]
    if not (said[-1] in whole or all(user in said for user in users)):
        raise RefusedError("prompt_mismatch")
    if asked[0]["role"] == "system" and turns[0]["role"] != "system":
        return [asked[0], *turns]
    return turns


def pairs_of_lists(row: Value, source: str) -> Found:
    """`chosen` and `rejected` as lists of replies, as RewardBench 2 has them: each of the one beats each of the other.

    Malik 2025, arXiv:2506.01937. The pairs are one group of weight 1 together; of two on one side nothing is said.
    """
    row = _renamed(row)
    turns = prompt_of(row, first_key(row, _PROMPTS))
    chosen, rejected = (_texts(row, name) for name in PAIRS[0])
    more = vote_of(row) | ({"group": None} if len(chosen) == len(rejected) == 1 else {})
    ranked = ranking(turns, chosen + rejected, [0] * len(chosen) + [1] * len(rejected), source, **more)
    pairs = [pair for pair in ranked if isinstance(pair, Preference) and pair.choice != "tie"]
    dropped = [pair for pair in ranked if isinstance(pair, Dropped)]
    return [*(replace(pair, weight=1 / len(pairs)) for pair in pairs), *dropped]


def _texts(row: Value, key: str) -> list[str]:
    """The texts of a list, at least one. Raises RefusedError."""
    said = row.get(key)
    if not isinstance(said, list):
        raise RefusedError("missing_field" if said is None else "type")
    if not said:
        raise RefusedError("missing_field")
    return [text({key: item}, key).strip() for item in said]


def sharegpt_pairs(row: Value, source: str) -> Found:
    """`conversations` in ShareGPT's words, then `chosen` and `rejected` as one message each."""
    turns = dialogue.check_prompt(dialogue.messages(row.get("conversations")))
    chosen, rejected = (_messages(row.get(key)) for key in PAIRS[0])
    turns, preferred, other = dialogue.split_pair(turns + chosen, turns + rejected)
    return [_scored(row, in_context(row, turns), preferred, other, source)]


def _renamed(row: Value) -> Value:
    """With its replies as `chosen` and `rejected`."""
    names = named_pair(row)
    return row | {new: row.get(old) for new, old in zip(PAIRS[0], names, strict=True)} if names else row


def _messages(value: Any) -> list[Message]:
    return dialogue.messages([value] if isinstance(value, dict) else value)


def _scored(row: Value, turns: list[Message], preferred: str, other: str, source: str) -> Any:
    """Scores of both, where the row has them (UltraFeedback binarised): equal ones are a tie."""
    more = vote_of(row)
    scores = next(([row[key] for key in keys] for keys in _SCORED if all(is_number(row.get(k)) for k in keys)), None)
    if scores is None:
        return better(turns, preferred, other, source, row.get("status") == "tie", **more)
    return better(turns, preferred, other, source, scores[0] == scores[1], scores={"overall": scores}, **more)


def alpaca_eval(row: Value, source: str) -> Found:
    """AlpacaEval annotations: `preference` is 1 + P(output_2 is better), so 1.5 is a tie, as 0 was in its first files.

    The confidence |2p - 1| gives a preference of 1.3 the same pull on the loss as its soft label, at margin 0.
    """
    turns = prompt_of(row, "instruction")
    preference = row.get("preference")
    if preference is None:
        return [Dropped("unanswered")]
    if not is_number(preference) or not (preference == 0 or 1 <= preference <= 2):
        raise RefusedError("bad_label")
    second = preference > 1.5
    if row.get("output_2" if second else "output_1") is None:
        raise RefusedError("dangling_label")
    outputs = [text(row, "output_1"), text(row, "output_2")]
    preferred, other = reversed(outputs) if second else outputs
    tie = preference in (0, 1.5)
    confidence = 1.0 if tie else round(abs(2 * preference - 3), 6)
    return [better(turns, preferred, other, source, tie, **vote_of(row) | {"confidence": confidence})]


def _is_hh(row: Value) -> bool:
    return not any(key in row for key in _PROMPTS) and (
        dialogue.is_transcript(row.get("chosen")) or dialogue.is_transcript(row.get("rejected"))
    )


def _is_conversational(row: Value) -> bool:
    return any(isinstance(row.get(name), list | dict) for name in named_pair(row) or ()) and not _is_of_lists(row)


def _is_of_lists(row: Value) -> bool:
    said = [row.get(name) for name in named_pair(row) or ()]
    return any(said) and all(isinstance(each, list) and all(isinstance(t, str) for t in each) for each in said)


def _is_pairs(row: Value) -> bool:
    """Not where what is chosen is one of two columns, which makes it a vote."""
    names = named_pair(row)
    return (
        names is not None
        and any(key in row for key in _ASKED)
        and not _is_hh(row)
        and not (_is_conversational(row) or _is_of_lists(row) or has(row, "conversations"))
        and not votes.names_a_side(row, names[0])
    )


_KEYS = (
    VOTE | {name for names in (*PAIRS, *_SCORED) for name in names} | {"system", "system_prompt", "history", "status"}
)
FORMATS = (
    Format("hh_rlhf", _KEYS, _is_hh, hh_rlhf),
    Format("pairs", _KEYS | {*_ASKED}, _is_pairs, pairs),
    Format(
        "pairs_conversational",
        _KEYS | {"prompt", "messages", "input"},
        lambda row: _is_conversational(row) and "conversations" not in row,
        pairs_conversational,
    ),
    Format(
        "pairs_of_lists",
        _KEYS | {*_PROMPTS},
        lambda row: _is_of_lists(row) and "conversations" not in row,
        pairs_of_lists,
    ),
    Format(
        "sharegpt_pairs",
        _KEYS | {"conversations"},
        lambda row: "conversations" in row and ("chosen" in row or "rejected" in row),
        sharegpt_pairs,
    ),
    Format(
        "alpaca_eval",
        VOTE | {"instruction", "input", "output_1", "output_2", "preference"},
        lambda row: (
            ("output_1" in row or "output_2" in row)
            and (row.get("preference") is not None or votes.verdict_of(row) is None)
        ),
        alpaca_eval,
    ),
)
