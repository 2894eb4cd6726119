"""The canary's texts: obvious preferences, the reply of a demonstration against noise in its place.

Some are planted among the comparisons that a model learns from and take the path of all others, so that whatever
swaps or mispairs labels and replies hits them too; the rest are held out. `prepare` notes which demonstrations they
are; whoever asks a model makes their texts again from data/raw, so that no error of the path can agree with itself.
Among solutions, for models that judge answers and steps, it plants right ones and noise in their place in the same way.
"""

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.preferences.tables import batches
from tasks.records import CANARY, Message, Preference, Solution

NUM_PLANTED = 64  # at least
PLANTED_SHARE = 0.01  # of the comparisons, where that is more
MAX_WEIGHT = 0.02  # that they have together, for a weight of 1 of the other comparisons of the fold
NUM_HELD_OUT = 100
SYMBOLS = "#@%&*~^_|<>;"
SOLUTIONS = "solutions"  # where data/prepared/canary.json names those planted among them; else it names folds

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Obvious:
    """A true reply, and what is plainly worse."""

    prompt: list[Message]
    true: str
    ruined: str


def choose(demonstrations: Iterable[Row], folds: Callable[[str], str]) -> dict[str, dict[str, list[Row]]]:
    """{fold: {"planted": rows, "held_out": rows}}, a row per cluster; `folds` tells the fold of one.

    Hashes decide, so that the order of the rows has no say; a cluster is never on both sides. A fold without
    demonstrations has none.
    """
    first: dict[str, Row] = {}
    for row in demonstrations:
        known = first.get(row["cluster"])
        if known is None or _hash(row["id"]) < _hash(known["id"]):
            first[row["cluster"]] = row
    sides: dict[str, dict[str, list[Row]]] = {}
    for position, cluster in enumerate(sorted(first, key=_hash)):
        fold = sides.setdefault(folds(cluster), {"planted": [], "held_out": []})
        fold["held_out" if position % 2 else "planted"].append(first[cluster])
    return sides


def num_planted(num_pairs: int) -> int:
    """How many there are to be among so many comparisons."""
    return max(NUM_PLANTED, int(PLANTED_SHARE * num_pairs))


def repeat(rows: Sequence[Row], number: int) -> list[Row]:
    """So many rows: few are used several times, each time against other noise."""
    return [rows[i % len(rows)] for i in range(number)] if rows else []


def obvious(rows: Sequence[Row]) -> list[Obvious]:
    """Each row's reply against noise, or against a single symbol over and over, as says a model that is stuck.

    The steps of a solution, one to a line, against as many of noise.
    """
    made = []
    for position, row in enumerate(rows):
        rng, stuck = random.Random(f"canary/{row['id']}/{position}"), position // 2 % 2 == 0
        parts = row["steps"] if "steps" in row else [row["reply"]]
        ruined = [noise(part, rng, stuck) for part in parts]
        made.append(Obvious(row["prompt"], "\n".join(parts), "\n".join(ruined)))
    return made


def all_right(row: Row) -> bool:
    """Whether a solution is known to be right in every step that somebody judged, and in its answer."""
    labels = [label for label in row["labels"] if label is not None]
    return all(labels) and row["correct"] is not False and bool(labels or row["correct"])


def noise(reply: str, rng: random.Random, stuck: bool) -> str:
    """Symbols in place of a reply, or one of them over and over (`stuck`); about as many as it has tokens."""
    size = max(6, 3 * len(reply.split()) // 2)
    return "".join([rng.choice(SYMBOLS)] * size if stuck else rng.choices(SYMBOLS, k=size))


def comparisons(rows: Sequence[Row], others: float) -> list[Preference]:
    """To be planted among comparisons that weigh `others`; the true reply is a and b in turn."""
    weight = _weight(len(rows), others)
    return [
        Preference(
            id=f"canary-{number}-{row['id']}",
            prompt=each.prompt,
            reply_a=each.ruined if number % 2 else each.true,
            reply_b=each.true if number % 2 else each.ruined,
            choice="b" if number % 2 else "a",
            confidence=weight,
            rater=CANARY,
            source=CANARY,
            domain=row["domain"],
            cluster=row["cluster"],
        )
        for number, (row, each) in enumerate(zip(rows, obvious(rows), strict=True))
    ]


def judged_solutions(rows: Sequence[Row], others: float) -> tuple[list[Solution], float]:
    """To be planted among solutions that weigh `others`: right ones, and noise in place of each; what each weighs."""
    planted = [
        Solution(
            id=f"canary-{number}-{'right' if is_right else 'wrong'}-{row['id']}",
            prompt=each.prompt,
            steps=(each.true if is_right else each.ruined).split("\n"),
            labels=[is_right] * len(row["steps"]),
            correct=is_right,
            source=CANARY,
            domain=row["domain"],
            cluster=row["cluster"],
        )
        for number, (row, each) in enumerate(zip(rows, obvious(rows), strict=True))
        for is_right in (True, False)
    ]
    return planted, _weight(len(planted), others)


def _weight(number: int, others: float) -> float:
    return min(1.0, MAX_WEIGHT * others / max(1, number)) if others else 1.0


def read(data: Path, fold: str) -> tuple[list[Obvious], list[Obvious]]:
    """Those planted in a fold, or among SOLUTIONS, and those held out, as data/prepared/canary.json names them, from
    their source."""
    noted = json.loads((data / "prepared/canary.json").read_text(encoding="utf-8"))[fold]
    wanted = {row_id for ids in noted.values() for row_id in ids}
    source = "solutions" if fold == SOLUTIONS else "demonstrations"
    rows = {row["id"]: row for batch in batches(data / "raw" / source) for row in batch if row["id"] in wanted}
    planted, held_out = (obvious([rows[row_id] for row_id in noted[side]]) for side in ("planted", "held_out"))
    return planted, held_out


def _hash(text: str) -> str:
    return hashlib.sha256(f"canary/{text}".encode()).hexdigest()
