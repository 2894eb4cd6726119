"""The best accuracy that raters' noise leaves to any reward model: from their agreement or, in the world, the truth."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from tasks import world
from tasks.preferences.agreement import Estimate, Floats, Patterns, clustered, estimate, mean_agreement
from tasks.preferences.votes import FIRST, SECOND

NUM_PAIRS = 2000  # of the world that the truth is asked about


def from_agreement(found: Patterns, tie_share: float, seed: int = 0) -> tuple[Estimate, float] | None:
    """(accuracy of one who knows what most raters would say, what it is at least): approximate.

    Two raters who err alike on every item agree with a = p^2 + (1-p)^2, so p = (1 + sqrt(2a - 1)) / 2. Where items
    differ in difficulty this is too high (Jensen) and a itself too low: with independent errors the truth lies between
    the two. A tie is worth one half whoever judges, and so is `tie_share`, that of ties and `both_bad` among votes.
    """
    decided = found.of((FIRST, SECOND))
    agreed = mean_agreement(decided)

    def with_ties(right: Floats) -> Floats:
        reached: Floats = tie_share / 2 + (1 - tie_share) * right
        return reached

    def statistic(times: Floats) -> Floats:
        return with_ties((1 + np.sqrt(np.maximum(0.0, 2 * agreed(times) - 1))) / 2)

    value = estimate(decided, statistic, seed)
    if value is None:
        return None
    return value, float(with_ties(np.maximum(0.5, agreed(decided.items[None])))[0])


def of_world(folder: Path, params: world.WorldParams | None, seed: int) -> Estimate | None:
    """E[max(p, 1 - p)], p the mean label of a comparison over the simulated raters; None where none are simulated."""
    path = folder / f"{world.SOURCE}.parquet"
    if params is None or not path.is_file():
        return None
    verifiers = {item.text: json.dumps(item.verifier) for item in world.items(seed)}
    panel = world.raters(params, seed)
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        columns = ["prompt", "reply_a", "reply_b", "domain"]
        rows = next(file.iter_batches(NUM_PAIRS, columns=columns)).to_pylist() if file.metadata.num_rows else []
    asked = [(row, row["prompt"][-1]["content"]) for row in rows]
    known = [(row, text) for row, text in asked if text in verifiers]
    labels = np.array(
        [
            world.expected_label(row["domain"], verifiers[text], (row["reply_a"], row["reply_b"]), panel)
            for row, text in known
        ]
    )
    return clustered(np.maximum(labels, 1 - labels), [text for _, text in known])
