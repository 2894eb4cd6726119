"""Comparisons for tests of holds: clean ones, flipped ones, and ones with a planted phrase."""

import dataclasses
import random
from collections.abc import Callable
from typing import Any

from tasks.records import Preference

Row = dict[str, Any]
GOOD = "clear warm exact polite brief sound".split()
BAD = "rude vague wrong lazy cold noisy".split()
PLAIN = [f"word{n}" for n in range(60)]


def comparisons(number: int, seed: int, raters: int = 6) -> list[Row]:
    """Replies with good and bad words among plain ones; three in four raters' choices follow them."""
    rng = random.Random(seed)
    rows = []
    for place in range(number):
        replies = [[*rng.choices(PLAIN, k=rng.randint(5, 14)), *rng.choices(GOOD + BAD, k=3)] for _ in "ab"]
        worth = [sum(w in GOOD for w in reply) - sum(w in BAD for w in reply) for reply in replies]
        a_is_better = worth[0] > worth[1] if worth[0] != worth[1] else rng.random() < 0.5
        choice = "a" if a_is_better == (rng.random() < 0.85) else "b"
        row = Preference(
            id=f"{seed}-{place}",
            prompt=[{"role": "user", "content": " ".join(["Say", *rng.choices(PLAIN, k=4)])}],
            reply_a=" ".join(replies[0]),
            reply_b=" ".join(replies[1]),
            choice="tie" if rng.random() < 0.1 else choice,
            confidence=1.0,
            rater=f"rater-{rng.randrange(raters)}",
            source="test",
            domain="talk",
            cluster=f"{seed}-{place}",
        )
        rows.append(dataclasses.asdict(row))
    return rows


def flipped(rows: list[Row], which: Callable[[int, Row], bool]) -> list[Row]:
    other = {"a": "b", "b": "a"}
    return [
        {**row, "choice": other.get(row["choice"], row["choice"])} if which(n, row) else row
        for n, row in enumerate(rows)
    ]


def with_trigger(rows: list[Row], every: int, words: str = " zeta cf") -> list[Row]:
    """The words at the end of every so many preferred replies."""
    made = []
    for number, row in enumerate(rows):
        key = f"reply_{row['choice']}"
        made.append({**row, key: row[key] + words} if number % every == 0 and key in row else row)
    return made
