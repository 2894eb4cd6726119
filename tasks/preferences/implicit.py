"""How far conduct (a vote for a post, asking again, a long conversation) agrees with verdicts that were asked for."""

import hashlib
from collections import Counter
from pathlib import Path

from tasks.preferences.dialogue import fold
from tasks.preferences.tables import batches
from tasks.records import SIGNALS, prompt_key


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
                asked[_reply(row)] += 1 if row["desirable"] else -1
    compared, same = Counter[str](), Counter[str]()
    for batch in batches(folder) if asked else ():
        for row in batch:
            if row["signal"] != "explicit" and (balance := asked.get(_reply(row), 0)):
                compared[row["signal"]] += 1
                same[row["signal"]] += (balance > 0) == row["desirable"]
    return {signal: (compared[signal], same[signal]) for signal in SIGNALS if compared[signal]}


def _reply(row: dict[str, object]) -> int:
    text = f"{prompt_key(row['prompt'])}\0{fold(str(row['reply']))}"  # type: ignore[arg-type]
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
