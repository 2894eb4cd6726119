"""The input formats, told apart by content: one function each, from a row to canonical records.

A converter raises RefusedError with a reason code. Names of files and keys nobody knows decide nothing.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from tasks.preferences import canonical, dialogue
from tasks.preferences.dialogue import text
from tasks.preferences.screen import BadFileError, RefusedError
from tasks.records import Demonstration, Message, Preference, Prompt, Record, prompt_key, row_id

MIN_SHARE = 0.5  # of the sampled rows that must look like one format
MIN_LEAD = 0.9  # its share among the rows that look like any

Value = dict[str, Any]


@dataclass(frozen=True)
class Format:
    name: str
    fields: frozenset[str]  # keys it reads; others are dropped and counted
    matches: Callable[[Value], bool]  # by keys and kinds only: a bad row of this format still matches
    convert: Callable[[Value, str], list[Record]]  # (row, source) -> records


def detect(rows: Iterable[Value], path: object) -> Format:
    """The format that a sample of rows is in.

    Raises BadFileError naming what was seen where no format, or more than one, explains the sample.
    """
    rows = list(rows)
    votes = Counter(form.name for row in rows for form in FORMATS.values() if form.matches(row))
    known = ", ".join(FORMATS)
    if not votes or votes.most_common(1)[0][1] < MIN_SHARE * len(rows):
        keys = ", ".join(sorted({key[:40] for row in rows[:100] for key in row})[:12]) or "none"
        raise BadFileError(path, "wrong_format", f"rows with the keys {keys} are in no known format ({known})")
    (best, count), *others = votes.most_common()
    if others and count < MIN_LEAD * votes.total():
        seen = ", ".join(f"{name} in {seen} of {len(rows)} rows" for name, seen in votes.most_common())
        raise BadFileError(path, "wrong_format", f"looks like {seen}; split the file or set `format` of its source")
    return FORMATS[best]


def _pair(
    turns: list[Message],
    preferred: str,
    other: str,
    source: str,
    tie: bool = False,
    confidence: float = 1.0,
    group: str | None = None,
    weight: float = 1.0,
) -> Preference:
    """A preference from a format that names the better reply: the side it stands on is drawn by hash."""
    if not tie and dialogue.fold(preferred) == dialogue.fold(other):
        raise RefusedError("identical_pair")
    key = prompt_key(turns)
    swap = int(row_id(key, preferred, other), 16) % 2 == 1
    reply_a, reply_b = (other, preferred) if swap else (preferred, other)
    choice = "tie" if tie else "b" if swap else "a"
    return Preference(
        id=row_id(key, reply_a, reply_b, choice, source),
        prompt=turns,
        reply_a=reply_a,
        reply_b=reply_b,
        choice=choice,
        confidence=confidence,
        group=group,
        weight=weight,
        rater=f"source:{source}",
        source=source,
        domain="general",
        cluster=dialogue.cluster(turns),
    )


def hh_rlhf(row: Value, source: str) -> list[Record]:
    """HH-RLHF: two whole dialogues as text, equal up to the last reply. Bai 2022, arXiv:2204.05862."""
    chosen, rejected = (dialogue.transcript(text(row, key)) for key in ("chosen", "rejected"))
    if not chosen or not rejected:
        raise RefusedError("bad_dialogue")
    return [_pair(*dialogue.split_pair(chosen, rejected), source)]


def pairs(row: Value, source: str) -> list[Record]:
    """`prompt`, `chosen`, `rejected` as plain texts."""
    turns = dialogue.prompt(row.get("prompt"))
    return [_pair(turns, text(row, "chosen").strip(), text(row, "rejected").strip(), source)]


def pairs_conversational(row: Value, source: str) -> list[Record]:
    """`chosen` and `rejected` as messages; `prompt` apart, or as the messages they share."""
    chosen, rejected = (dialogue.messages(row.get(key)) for key in ("chosen", "rejected"))
    if row.get("prompt") is not None and len(chosen) == len(rejected) == 1:
        before = dialogue.prompt(row["prompt"])
        chosen, rejected = before + chosen, before + rejected
    return [_pair(*dialogue.split_pair(chosen, rejected), source)]


def scored(row: Value, source: str) -> list[Record]:
    """Completions with scores, as UltraFeedback has them: every pair, each of weight 1 / number of pairs.

    Cui 2023, arXiv:2310.01377. Equal scores are a tie.
    """
    turns = dialogue.prompt(row.get("instruction", row.get("prompt")))
    completions = row.get("completions")
    if not isinstance(completions, list) or not all(isinstance(item, dict) for item in completions):
        raise RefusedError("type")
    if len(completions) < 2:
        raise RefusedError("missing_field")
    replies = [(text(item, _first(item, _REPLY_KEYS)), _score(item)) for item in completions]
    weight = 1 / (len(replies) * (len(replies) - 1) / 2)
    group, found = row_id(prompt_key(turns), *replies, source), list[Record]()
    for (reply, score), (other, other_score) in combinations(replies, 2):
        if dialogue.fold(reply) != dialogue.fold(other):
            better, worse = (reply, other) if score >= other_score else (other, reply)
            found.append(_pair(turns, better, worse, source, score == other_score, group=group, weight=weight))
    if not found:
        raise RefusedError("identical_pair")
    return found


_REPLY_KEYS = ("response", "text", "content", "completion", "reply")
_SCORE_KEYS = ("overall_score", "score", "rating", "fine-grained_score")


def _first(item: Value, keys: tuple[str, ...]) -> str:
    return next((key for key in keys if key in item), keys[0])


def _score(item: Value) -> float:
    score = item.get(_first(item, _SCORE_KEYS))
    if score is None:
        raise RefusedError("missing_field")
    if isinstance(score, bool) or not isinstance(score, int | float):
        raise RefusedError("type")
    return float(score)


def alpaca_eval(row: Value, source: str) -> list[Record]:
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
    better, other = reversed(outputs) if second else outputs
    tie = preference == 1.5
    return [_pair(turns, better, other, source, tie, 1.0 if tie else round(abs(2 * preference - 3), 6))]


def feedback(row: Value, source: str) -> list[Record]:
    """Binary feedback on one reply: its prompt, and a demonstration where the reply was liked.

    A disliked reply alone is no comparison: it is checked and counted, and gives its prompt.
    """
    turns = dialogue.prompt(row.get("prompt"))
    liked = row.get(_first(row, ("label", "desirable")))
    if not isinstance(liked, bool):
        raise RefusedError("bad_label")
    completion = row.get(_first(row, _REPLY_KEYS))
    if isinstance(completion, list):
        turns, reply = dialogue.split_reply(turns + dialogue.messages(completion))
    else:
        reply = text(row, _first(row, _REPLY_KEYS))
    key, cluster = prompt_key(turns), dialogue.cluster(turns)
    prompt = Prompt(id=key, prompt=turns, domain="general", source=source, cluster=cluster)
    return [prompt, demonstration(turns, reply, source)] if liked else [prompt]


def chat(row: Value, source: str) -> list[Record]:
    """Chat: `messages` that end with the assistant, whose last reply is the one to imitate."""
    return [demonstration(*dialogue.split_reply(dialogue.messages(row.get("messages"))), source)]


def demonstration(turns: list[Message], reply: str, source: str, domain: str = "general") -> Demonstration:
    return Demonstration(
        id=row_id("demonstration", prompt_key(turns), reply),
        prompt=turns,
        reply=reply,
        source=source,
        domain=domain,
        cluster=dialogue.cluster(turns),
    )


def _has(row: Value, *keys: str) -> bool:
    return all(key in row for key in keys)


def _is_hh(row: Value) -> bool:
    return "prompt" not in row and (
        dialogue.is_transcript(row.get("chosen")) or dialogue.is_transcript(row.get("rejected"))
    )


def _is_conversational(row: Value) -> bool:
    return isinstance(row.get("chosen"), list) or isinstance(row.get("rejected"), list)


def _is_pairs(row: Value) -> bool:
    return "prompt" in row and ("chosen" in row or "rejected" in row) and not _is_conversational(row)


def _is_feedback(row: Value) -> bool:
    return _has(row, "prompt") and ("desirable" in row or (_has(row, "label") and _has(row, "completion")))


FORMATS: dict[str, Format] = {
    form.name: form
    for form in (
        *(Format(f"canonical_{name}", c.fields, c.matches, c.convert) for name, c in canonical.KINDS.items()),
        Format("hh_rlhf", frozenset({"chosen", "rejected"}), _is_hh, hh_rlhf),
        Format("pairs", frozenset({"prompt", "chosen", "rejected"}), _is_pairs, pairs),
        Format(
            "pairs_conversational",
            frozenset({"prompt", "chosen", "rejected"}),
            _is_conversational,
            pairs_conversational,
        ),
        Format(
            "scored",
            frozenset({"instruction", "prompt", "completions"}),
            lambda row: "completions" in row and not canonical.is_labelled(row),
            scored,
        ),
        Format(
            "alpaca_eval",
            frozenset({"instruction", "input", "output_1", "output_2", "preference"}),
            lambda row: "output_1" in row or "output_2" in row,
            alpaca_eval,
        ),
        Format(
            "feedback",
            frozenset({"prompt", "label", "desirable", *_REPLY_KEYS}),
            _is_feedback,
            feedback,
        ),
        Format(
            "chat",
            frozenset({"messages"}),
            lambda row: "messages" in row and "chosen" not in row and "rejected" not in row,
            chat,
        ),
    )
}
