"""How far conduct (a vote for a post, asking again, a long conversation) agrees with verdicts that were asked for."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from tasks.preferences.dialogue import fold
from tasks.preferences.tables import arrow_batches, batches, parquet_files
from tasks.records import SIGNALS, Message, prompt_key

_COMPARED = ("prompt", "reply_a", "reply_b", "choice")


def agreement(folder: Path) -> dict[str, tuple[int, int]]:
    """{signal: (rows on a reply that explicit verdicts decide, how many of them say the same)} of data/raw/feedback.

    A reply is known by its prompt and its folded text; where explicit verdicts on it are even, it decides nothing.
    Hand-worked: explicit yes, yes, no on one reply; upvote yes and regeneration no on it: {"upvote": (1, 1),
    "regeneration": (1, 0)}.
    """
    asked: Counter[int] = Counter()
    for batch in batches(folder):
        for row in batch:
            if row["signal"] == "explicit":
                asked[_key(row["prompt"], row["reply"])] += 1 if row["desirable"] else -1
    return _compared(folder, asked)


def agreement_with_comparisons(folder: Path, comparisons: Path) -> dict[str, tuple[int, int]]:
    """As `agreement`, with decided comparisons (data/raw/preferences): a reply is liked that wins more than it loses.

    Hand-worked: a reply wins twice and loses once; upvote yes and regeneration no on it: {"upvote": (1, 1),
    "regeneration": (1, 0)}.
    """
    wanted = {_key(row["prompt"], row["reply"]) for batch in batches(folder) for row in batch if _is_implicit(row)}
    won: Counter[int] = Counter()
    for batch in arrow_batches(parquet_files(comparisons), _COMPARED) if wanted else ():
        for row in batch.filter(pc.field("choice").isin(["a", "b"])).to_pylist():
            for side in ("a", "b"):
                if (key := _key(row["prompt"], row[f"reply_{side}"])) in wanted:
                    won[key] += 1 if row["choice"] == side else -1
    return _compared(folder, won)


def _compared(folder: Path, balances: Counter[int]) -> dict[str, tuple[int, int]]:
    """{signal: (implicit rows on a reply with a balance, how many have its sign)}."""
    compared, same = Counter[str](), Counter[str]()
    for batch in batches(folder) if balances else ():
        for row in batch:
            if _is_implicit(row) and (balance := balances[_key(row["prompt"], row["reply"])]):
                compared[row["signal"]] += 1
                same[row["signal"]] += (balance > 0) == row["desirable"]
    return {signal: (compared[signal], same[signal]) for signal in SIGNALS if compared[signal]}


def _is_implicit(row: Mapping[str, Any]) -> bool:
    return bool(row["signal"] != "explicit")


def _key(prompt: list[Message], reply: str) -> int:
    text = f"{prompt_key(prompt)}\0{fold(reply)}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
