"""Votes made up for tests of raters: as records in a folder, or as arrays."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks.preferences import votes
from tasks.preferences.votes import Votes
from tasks.records import Preference, to_table, write_table


def row(number: int, rater: str = "ann", choice: str = "a", **change: Any) -> Preference:
    """A vote on item `number`."""
    return Preference(
        **{
            "id": f"v{number}-{rater}",
            "prompt": [{"role": "user", "content": f"Question {number}?"}],
            "reply_a": "It is so.",
            "reply_b": "No.",
            "choice": choice,
            "confidence": 1.0,
            "rater": rater,
            "source": "test",
            "domain": "x",
            "cluster": f"c{number}",
            **change,
        }
    )


def stored(folder: Path, rows: Sequence[Preference], name: str = "test") -> Path:
    write_table(to_table(rows, Preference), folder / f"{name}.parquet")
    return folder


def read(folder: Path, rows: Sequence[Preference]) -> Votes:
    return votes.read(stored(folder, rows))


def panel(
    right: Sequence[float], num_items: int, per_item: int, seed: int, tie_share: float = 0.0
) -> tuple[Any, Any, Any]:
    """(item, rater, value) of raters who are each right with their own probability, truth first or second at random."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, num_items)
    item = np.repeat(np.arange(num_items), per_item)
    rater = rng.permuted(np.tile(np.arange(len(right)), (num_items, 1)), axis=1)[:, :per_item].ravel()
    told = np.where(rng.random(len(item)) < np.asarray(right)[rater], truth[item], 1 - truth[item])
    value = np.where(rng.random(len(item)) < tie_share, votes.TIE, told)
    return item, rater.astype(np.int32), value.astype(np.int8)
