"""How far fresh comparisons lie from the accepted ones: labels, lengths, raters, style.

Alarms are on the size of an effect that is also beyond chance: with many rows every difference is significant.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import gammaln

from tasks.preferences import ngrams
from tasks.records import CHOICES

Row = Mapping[str, Any]
Z = 4.0  # standard errors beyond which a difference is no chance: 1 clean shard in 15,000
SAMPLE = 100  # replies among which openings are counted
LENGTHS = (0, 20, 50, 100, 200, 400, 800, 1600, 3200)  # characters: edges of the classes of length


def label_shift(shard: Sequence[Row], old: Sequence[Row]) -> tuple[float, str]:
    """The choice whose share moved furthest, and by how much; 0 where all moves are within chance."""
    here, before = (Counter(row["choice"] for row in rows) for rows in (shard, old))
    moved = [(_share_moved(here[c], len(shard), before[c], len(old)), c) for c in CHOICES]
    return max(moved, key=lambda move: abs(move[0]))


def absent(shard: Sequence[Row], old: Sequence[Row]) -> str | None:
    """A choice that chance alone would not have left out (expected 10 times and more), or None."""
    here, before = (Counter(row["choice"] for row in rows) for rows in (shard, old))
    return next((c for c in CHOICES if not here[c] and before[c] / len(old) * len(shard) >= 10), None)


def _share_moved(here: int, rows: int, before: int, old_rows: int) -> float:
    move, pooled = here / rows - before / old_rows, (here + before + 1) / (rows + old_rows + 2)
    error = math.sqrt(pooled * (1 - pooled) * (1 / rows + 1 / old_rows))
    return move if abs(move) > Z * error else 0.0


def length_gap(rows: Sequence[Row]) -> np.ndarray[Any, Any]:
    """log(characters of the preferred reply / of the refused), of each decided row."""
    turned = [("reply_a", "reply_b") if row["choice"] == "a" else ("reply_b", "reply_a") for row in rows]
    return np.array([math.log((1 + len(row[a])) / (1 + len(row[b]))) for row, (a, b) in zip(rows, turned, strict=True)])


def length_shift(shard: Sequence[Row], old: Sequence[Row]) -> float:
    """How far the mean length gap moved, in standard deviations of the gap; 0 within chance."""
    here, before = length_gap(shard), length_gap(old)
    deviation = max(float(before.std()), 1e-9)
    move = float(here.mean() - before.mean()) / deviation
    return move if abs(move) > Z * math.sqrt(1 / len(here) + 1 / len(before)) else 0.0


def length_auc(rows: Sequence[Row]) -> float:
    """AUC of a classifier that knows nothing but which reply is longer: P(a preferred reply is longer), ties 1/2.

    Within pairs, so that the side has no say; the same as over all pairs in both orders, where no lengths are equal.
    """
    gap = length_gap(rows)
    return float((gap > 0).mean() + (gap == 0).mean() / 2) if len(gap) else 0.5


def dominance(rows: Sequence[Row]) -> tuple[str, float]:
    """The rater with most rows, and the share; ("", 0) where nobody is named."""
    named = Counter(row["rater"] for row in rows if not row["rater"].startswith("source:"))
    rater, count = named.most_common(1)[0] if named else ("", 0)
    return rater, count / max(1, len(rows))


def busiest_day(rows: Sequence[Row]) -> tuple[str, int]:
    """The rater with most votes on one day of `created_at`, and how many."""
    days = Counter((row["rater"], row["created_at"][:10]) for row in rows if row["created_at"])
    (rater, _), count = days.most_common(1)[0] if days else (("", ""), 0)
    return rater, count


def openings(texts: Sequence[str]) -> float:
    """Distinct openings (first three tokens) to be expected among SAMPLE replies. Hurlbert 1971, rarefaction."""
    counts = np.array(list(Counter(tuple(ngrams.tokens(text[:200])[1:4]) for text in texts).values()))
    return rarefied(counts, min(SAMPLE, len(texts)))


def rarefied(counts: np.ndarray[Any, Any], size: int) -> float:
    """Kinds to be expected in `size` draws without replacement from kinds of these counts."""
    total = int(counts.sum())
    others = total - counts
    # A kind is missed in C(others, size) of C(total, size) draws; with fewer others in none, for gammaln(0) is inf.
    missed = gammaln(others + 1) - gammaln(np.maximum(others - size + 1, 0))
    missed -= gammaln(total + 1) - gammaln(total - size + 1)
    return float(len(counts) - np.exp(missed).sum())


def length_spread(texts: Sequence[str]) -> float:
    """Standard deviation of the logarithm of the number of characters."""
    return float(np.log1p([len(text) for text in texts]).std())


def layouts(texts: Sequence[str]) -> float:
    """Layouts in use: exp(entropy) over plain lines, paragraphs, lists, headings, code and tables."""
    counts = np.array(list(Counter(map(layout, texts)).values()), dtype=float)
    shares = counts / counts.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def layout(text: str) -> str:
    if "```" in text:
        return "code"
    lines = text.split("\n")
    starts = {line.lstrip()[:2] for line in lines}
    if "|" in text and sum(line.count("|") > 1 for line in lines) > 1:
        return "table"
    if starts & {"# ", "##"}:
        return "headings"
    if starts & {"- ", "* ", "• "} or any(
        line[:1].isdigit() and line.lstrip("0123456789")[:1] in ".)" for line in lines
    ):
        return "list"
    return "paragraphs" if "\n\n" in text else "lines" if len(lines) > 1 else "plain"


STYLES = {"openings": openings, "lengths": length_spread, "layouts": layouts}


def style(replies: Mapping[str, Sequence[str]]) -> dict[str, dict[str, float]]:
    """{domain: {measure: value}}: how diverse the replies of each domain are."""
    return {domain: {name: measure(texts) for name, measure in STYLES.items()} for domain, texts in replies.items()}


def style_fall(shard: Mapping[str, Sequence[str]], old: Mapping[str, Sequence[str]]) -> tuple[float, str]:
    """The largest fall of a measure of style in a domain with SAMPLE replies on both sides, as a share, and where."""
    common = [d for d in shard if min(len(shard[d]), len(old.get(d, ()))) >= SAMPLE]
    here, before = (style({domain: replies[domain] for domain in common}) for replies in (shard, old))
    falls = [
        (1 - here[domain][name] / before[domain][name], f"{name} of domain {domain}")
        for domain in common
        for name in STYLES
        if before[domain][name] > 0
    ]
    return max(falls, default=(0.0, ""))


def preferred(rows: Sequence[Row]) -> dict[str, list[str]]:
    """The preferred replies of each domain."""
    found = defaultdict(list)
    for row in rows:
        found[row["domain"]].append(row["reply_a"] if row["choice"] == "a" else row["reply_b"])
    return found


def length_class(text: str) -> int:
    return int(np.searchsorted(LENGTHS, len(text), side="right"))
