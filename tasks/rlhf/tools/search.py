"""search: the passage of a local corpus (`align.tools.corpus`) that fits a query best, by BM25.

Robertson 2009, doi:10.1561/1500000019; the rarity of a word has 1 + inside the logarithm and is never negative.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tasks.rlhf.verification import Resources, Row, words

TABLE = "corpus"
NOTHING = "nothing found"
K1, B = 1.2, 0.75  # how soon repeats stop to count; how much length is held against a passage


@dataclass(frozen=True)
class Index:
    rows: Sequence[Row]
    counts: Sequence[Counter[str]]
    rarity: dict[str, float]  # of each word: its inverse document frequency
    mean_length: float


def use(argument: str, resources: Resources) -> str:
    """`[id] text`; `nothing found` where no passage shares a word with the query."""
    index: Index = resources.index(TABLE, build)
    scores = [_score(set(words(argument)), counts, index) for counts in index.counts]
    best = max(range(len(scores)), key=scores.__getitem__)
    return f"[{index.rows[best]['id']}] {index.rows[best]['text']}" if scores[best] > 0 else NOTHING


def failed(result: str) -> bool:
    return result == NOTHING


def build(rows: Sequence[Row]) -> Index:
    if not rows or not all(isinstance(row.get(key), str) for row in rows for key in ("id", "text")):
        raise ValueError(f"table {TABLE!r}: must have rows with an id and a text, both text")
    counts = [Counter(words(row["text"])) for row in rows]
    found_in = Counter(word for count in counts for word in count)
    rarity = {word: math.log(1 + (len(rows) - n + 0.5) / (n + 0.5)) for word, n in found_in.items()}
    return Index(rows, counts, rarity, sum(map(Counter.total, counts)) / len(rows))


def _score(query: set[str], counts: Counter[str], index: Index) -> float:
    norm = K1 * (1 - B + B * counts.total() / index.mean_length)
    return sum(
        index.rarity[word] * counts[word] * (K1 + 1) / (counts[word] + norm) for word in sorted(query) if counts[word]
    )
