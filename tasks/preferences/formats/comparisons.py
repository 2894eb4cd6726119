"""Comparisons of two replies with a label beside them, as datasets of the hub publish them; sides stay as shown."""

import json
import re
from collections.abc import Sequence
from typing import Any

from tasks.preferences import dialogue
from tasks.preferences.dialogue import text
from tasks.preferences.formats import votes
from tasks.preferences.formats.building import (
    Dropped,
    Format,
    Found,
    Value,
    clipped,
    compare,
    first_key,
    has,
    is_number,
    moment,
    named_pair,
    number,
    one_of,
    sides,
)
from tasks.preferences.people import of_tool
from tasks.preferences.screen import BadFileError, RefusedError, check_text
from tasks.records import Message

_FIRST = {0: "a", 1: "b"}
_WINNERS = {
    **{name: "a" for name in ("model_a", "A", "a", "assistant_a")},
    **{name: "b" for name in ("model_b", "B", "b", "assistant_b")},
    **{name: "tie" for name in ("tie", "both_good", "tie (bothgood)")},
    **{name: "both_bad" for name in ("tie (bothbad)", "both_bad", "bothbad")},
    **{name: "unsure" for name in ("unsure",)},
}


def pku_safe(row: Value, source: str) -> Found:
    """PKU-SafeRLHF: the better and the safer of two replies are named apart. Ji 2024, arXiv:2406.15513.

    The choice is the better one; both names become scores (1 and 0) of the objectives helpfulness and safety.
    """
    turns = dialogue.prompt(row.get("prompt"))
    choice = one_of(row, "better_response_id", _FIRST)
    reply_a, reply_b = sides(row, "response_0", "response_1", choice)
    scores = {"helpfulness": [1.0, 0.0] if choice == "a" else [0.0, 1.0]}
    if row.get("safer_response_id") is not None:
        scores["safety"] = [1.0, 0.0] if one_of(row, "safer_response_id", _FIRST) == "a" else [0.0, 1.0]
    return [compare(turns, reply_a, reply_b, choice, source, scores=scores)]


def shp(row: Value, source: str) -> Found:
    """Stanford Human Preferences: two answers to a post, told apart by their votes; labels 1 is A.

    Ethayarajh 2022, arXiv:2110.08420. The confidence (r - 1) / (r + 1) is |2p - 1| for p = r / (1 + r), r the ratio of
    the votes: 1.5 times as many say little.
    """
    turns = dialogue.prompt(row.get("history"))
    choice = one_of(row, "labels", {1: "a", 0: "b"})
    reply_a, reply_b = sides(row, "human_ref_A", "human_ref_B", choice)
    ratio = row.get("score_ratio")
    if ratio is not None and (not is_number(ratio) or ratio < 1):
        raise RefusedError("range" if is_number(ratio) else "type")
    confidence = 1.0 if ratio is None else round((ratio - 1) / (ratio + 1), 6)
    domain = clipped(row.get("domain"))
    return [compare(turns, reply_a, reply_b, choice, source, confidence=confidence, domain=domain)]


def summaries(row: Value, source: str) -> Found:
    """Summarize from feedback: two summaries of a post, `choice` 0 or 1. Stiennon 2020, arXiv:2009.01325."""
    choice = one_of(row, "choice", _FIRST)
    found = row.get("summaries")
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise RefusedError("missing_field" if found is None else "type")
    if len(found) != 2:
        raise RefusedError("dangling_label" if len(found) < 2 else "label_count")
    reply_a, reply_b = (text(item, "text").strip() for item in found)
    worker = row.get("worker")
    rater = of_tool("worker", worker) if isinstance(worker, str) else None
    return [compare(_post(row.get("info")), reply_a, reply_b, choice, source, rater)]


def _post(info: Any) -> list[Message]:
    if not isinstance(info, dict):
        raise RefusedError("missing_field" if info is None else "type")
    body = text(info, first_key(info, ("post", "article")))
    head = [f"SUBREDDIT: r/{info['subreddit']}"] if info.get("subreddit") else []
    head += [f"TITLE: {info['title']}"] if info.get("title") else []
    name = "POST" if info.get("post") else "ARTICLE"
    return dialogue.prompt("\n\n".join([*head, f"{name}: {body}", "TL;DR:"]))


def webgpt(row: Value, source: str) -> Found:
    """WebGPT comparisons: of `score_0` and `score_1` the sign says who won, 0 is a tie. Nakano 2021, arXiv:2112.09332.

    As its authors do, the size of a score is not used.
    """
    question = row.get("question")
    if isinstance(question, dict):
        question = question.get("full_text")
    turns = dialogue.prompt(question)
    score_0, score_1 = number(row, "score_0"), number(row, "score_1")
    choice = "tie" if score_0 == score_1 else "a" if score_0 > score_1 else "b"
    reply_a, reply_b = sides(row, "answer_0", "answer_1", choice)
    return [compare(turns, reply_a, reply_b, choice, source)]


def arena(row: Value, source: str) -> Found:
    """Chatbot Arena, MT-bench: two conversations with the same questions, and the winner. Zheng 2023, arXiv:2306.05685.

    "tie (bothbad)" is both_bad. Where earlier replies differ, the verdict is about more than the last ones: dropped.
    """
    choice = one_of(row, "winner", _WINNERS)
    missing = choice in ("a", "b") and row.get(f"conversation_{choice}") is None
    if missing:
        raise RefusedError("dangling_label")
    first, second = (_judged(row, dialogue.messages(row.get(f"conversation_{side}"))) for side in "ab")
    (prompt_a, reply_a), (prompt_b, reply_b) = dialogue.split_reply(first), dialogue.split_reply(second)
    if prompt_a != prompt_b:
        if [turn for turn in prompt_a if turn["role"] == "user"] == [t for t in prompt_b if t["role"] == "user"]:
            return [Dropped("histories_differ")]
        raise RefusedError("prompt_mismatch")
    judge = row.get("judge") or row.get("evaluation_session_id")
    rater = of_tool("arena", judge) if isinstance(judge, str) else None
    created = moment(row.get("tstamp")) or moment(row.get("timestamp"))
    return [compare(prompt_a, reply_a, reply_b, choice, source, rater, created_at=created)]


def _judged(row: Value, turns: list[Message]) -> list[Message]:
    """The dialogue up to the turn that was judged: MT-bench has both turns in the rows about the first."""
    count, head = row.get("turn"), int(turns[0]["role"] == "system")
    return turns[: head + 2 * count] if isinstance(count, int) and count > 0 else turns


def arena_winners(row: Value, source: str) -> Found:
    """Arena votes with a column for each outcome: winner_model_a, winner_model_b, winner_tie, of which one is 1.

    Prompt and responses may be JSON lists, one entry per turn.
    """
    marks = [name for name in ("model_a", "model_b", "tie") if row.get(f"winner_{name}") in (1, True)]
    if len(marks) != 1:
        raise RefusedError("bad_label")
    choice = _WINNERS[marks[0]]
    prompts = _turns(row, "prompt")
    first, second = (_turns(row, key) for key in ("response_a", "response_b"))
    if not len(prompts) == len(first) == len(second):
        raise RefusedError("label_count")
    if first[:-1] != second[:-1]:
        return [Dropped("histories_differ")]
    spoken = [turn for pair in zip(prompts, first, strict=True) for turn in pair][:-1]
    turns = [Message(role="assistant" if n % 2 else "user", content=said) for n, said in enumerate(spoken)]
    replies = {"response_a": first[-1], "response_b": second[-1]}
    reply_a, reply_b = sides(replies, "response_a", "response_b", choice)
    return [compare(dialogue.check_prompt(turns), reply_a, reply_b, choice, source)]


def _turns(row: Value, key: str) -> list[Any]:
    value = row.get(key)
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = row[key]
        check_text(value)  # what escapes in it say, the screen did not see
    value = value if isinstance(value, list) else [text(row, key)]
    if not value or not all(isinstance(said, str) for said in value):
        raise RefusedError("type" if value else "empty_text")
    return value


_STRENGTHS = ("preference_strength", "overall_preference")
_TELLING = 8  # rows; of HelpSteer 3 not one in a thousand such runs has 1 and 2 alone


def helpsteer_preference(row: Value, source: str) -> Found:
    """HelpSteer 2 and 3: strength from -3 (the first is much better) over 0 (a tie) to 3.

    Wang 2024, arXiv:2410.01257: its scaled Bradley-Terry loss weighs a row by the strength; so the confidence is
    |strength| / 3.
    """
    key_a, key_b = ("response_1", "response_2") if "response_1" in row else ("response1", "response2")
    strength = number(row, first_key(row, _STRENGTHS))
    if not -3 <= strength <= 3:
        raise RefusedError("range")
    choice = "tie" if strength == 0 else "a" if strength < 0 else "b"
    turns = marked_turns(row["context"] if "context" in row else row.get("prompt"))
    reply_a, reply_b = sides(row, key_a, key_b, choice)
    confidence = round(abs(strength) / 3, 6) if strength else 1.0
    domain = clipped(row.get("domain"))
    return [compare(turns, reply_a, reply_b, choice, source, confidence=confidence, domain=domain)]


def check_strengths(rows: Sequence[Value], path: object) -> None:
    """BadFileError where strengths are 1 and 2 alone, which is as well the number of the better reply."""
    said = [value for row in rows if is_number(value := row.get(first_key(row, _STRENGTHS)))]
    if len(said) >= _TELLING and {*said} == {1.0, 2.0}:
        raise BadFileError(
            path,
            "wrong_format",
            f"`{first_key(rows[0], _STRENGTHS)}` is 1 or 2 in all of {len(said)} rows: the number of the better "
            "reply, or a strength for the second? Name the column `choice` and write a or b, or set "
            "`format: helpsteer_preference` of the source",
        )


_MARK = re.compile(r"\s*<extra_id_1>(User|Assistant)\n|\s*<extra_id_0>(System)\n")


def marked_turns(value: Any) -> list[Message]:
    """A prompt in which later turns follow marks of HelpSteer ("<extra_id_1>Assistant\\n...")."""
    if not isinstance(value, str) or "<extra_id_1>" not in value:
        return dialogue.prompt(value)
    parts = _MARK.split(value)
    roles = ["User", *(user or system for user, system in zip(parts[1::3], parts[2::3], strict=True))]
    said = zip(roles, parts[0::3], strict=True)
    return dialogue.check_prompt([Message(role=r.lower(), content=t.strip()) for r, t in said if t.strip()])


FORMATS = (
    Format(
        "pku_safe_rlhf",
        frozenset({"prompt", "response_0", "response_1", "better_response_id", "safer_response_id"}),
        lambda row: "better_response_id" in row or has(row, "response_0", "response_1", "safer_response_id"),
        pku_safe,
    ),
    Format(
        "shp",
        frozenset({"history", "human_ref_A", "human_ref_B", "labels", "score_ratio", "domain"}),
        lambda row: "human_ref_A" in row or "human_ref_B" in row,
        shp,
    ),
    Format(
        "summarize_from_feedback",
        frozenset({"info", "summaries", "choice", "worker"}),
        lambda row: "summaries" in row,
        summaries,
    ),
    Format(
        "webgpt",
        frozenset({"question", "answer_0", "answer_1", "score_0", "score_1"}),
        lambda row: "score_0" in row or "score_1" in row,
        webgpt,
    ),
    Format(
        "arena",
        frozenset({"conversation_a", "conversation_b", "winner", "judge", "tstamp", "turn"}),
        lambda row: "conversation_a" in row or "conversation_b" in row,
        arena,
    ),
    Format(
        "arena_winners",
        frozenset({"prompt", "response_a", "response_b", "winner_model_a", "winner_model_b", "winner_tie"}),
        lambda row: has(row, "winner_model_a", "winner_model_b"),
        arena_winners,
    ),
    Format(
        "helpsteer_preference",
        frozenset(
            {"prompt", "context", "domain", "response_1", "response_2", "response1", "response2"}
            | {"preference_strength", "overall_preference"}
        ),
        lambda row: (
            ("preference_strength" in row or "overall_preference" in row)
            and not votes.names_a_winner(row)
            and named_pair(row) is None
        ),
        helpsteer_preference,
    ),
)
