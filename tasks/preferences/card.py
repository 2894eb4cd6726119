"""What the data card says of data/raw: counts, lengths, labels, style, drift by shard. Deterministic.

Columns are read batch by batch; what needs the words of texts looks at a sample spread evenly (`holds.sample`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from tasks.preferences import holds, ngrams, shift
from tasks.preferences.drift import divergence
from tasks.preferences.predictor import decided
from tasks.preferences.tables import arrow_batches, characters, longer_won, source_of
from tasks.preferences.triggers import MIN_PROMPTS, Corpus, one_sided
from tasks.records import DATASETS

Ints = npt.NDArray[np.int64]
TEXTS = {
    "demonstrations": ("reply",),
    "preferences": ("reply_a", "reply_b"),
    "safety": ("reply",),
    "feedback": ("reply",),
}
COUNTED = ("source", "licence", "domain", "category", "expected", "choice", "rubric", "signal")
UNSAID = "not said"
MOST = 40  # values of a column that are listed; the rest are counted together
QUANTILES = (5, 25, 50, 75, 95, 99)
BINS = 24
NUM_NGRAMS = 8
ORDERS = (1, 2, 3)


def describe(raw: Path, sampled: int, shards: Sequence[str]) -> dict[str, Any]:
    """Everything there is to say of the datasets.

    sampled: rows whose words are looked at. shards: hashes of the accepted shards in order of arrival.
    """
    rows = holds.sample(raw / "preferences", sampled)
    demonstrations = holds.sample(raw / "demonstrations", sampled)
    replies: dict[str, list[str]] = {}
    for row in demonstrations:
        replies.setdefault(row["domain"], []).append(row["reply"])
    return {
        "datasets": {name: dataset(raw / name, name) for name in DATASETS},
        "lengths_of_sides": sides(rows),
        "style": {
            "preferred replies": shift.style(_enough(shift.preferred(decided(rows)))),
            "demonstrations": shift.style(_enough(replies)),
        },
        "ngrams": telling(decided(rows)),
        "drift": drift(raw / "preferences", shards),
    }


def _enough(replies: Mapping[str, list[str]]) -> dict[str, list[str]]:
    return {domain: texts for domain, texts in sorted(replies.items()) if len(texts) >= shift.SAMPLE}


def dataset(folder: Path, name: str) -> dict[str, Any]:
    """Rows, prompts, counts by column, lengths in characters and how many texts are of which length."""
    counts: dict[str, Counter[str]] = {}
    lengths: dict[str, list[Ints]] = {}
    clusters: list[npt.NDArray[np.uint64]] = []
    rows = 0
    columns = (*COUNTED, "cluster", *TEXTS.get(name, ()))
    for batch in arrow_batches(sorted(folder.glob("*.parquet")), columns):
        rows += batch.num_rows
        for column in batch.schema.names:
            values = batch.column(column)
            if column in COUNTED:
                found = {pair["values"]: pair["counts"] for pair in pc.value_counts(values).to_pylist()}
                counts.setdefault(column, Counter()).update({k or UNSAID: n for k, n in found.items()})
            elif column == "cluster":
                clusters.append(_hashes(values))
            else:
                lengths.setdefault(column, []).append(characters(values))
    return {
        "rows": rows,
        "prompts": len(np.unique(np.concatenate(clusters))) if clusters else 0,
        **{column: listed(found) for column, found in sorted(counts.items())},
        "characters": {column: quantiles(np.concatenate(parts)) for column, parts in sorted(lengths.items())},
        "lengths": _classes([values for parts in lengths.values() for values in parts]),
    }


def listed(counts: Counter[str]) -> dict[str, int]:
    """The most frequent values first; those beyond MOST together."""
    ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    rest = sum(count for _, count in ranked[MOST:])
    return dict(ranked[:MOST]) | ({f"{len(ranked) - MOST} others": rest} if rest else {})


def _classes(lengths: Sequence[Ints]) -> dict[str, int]:
    """How many texts there are from each edge of `shift.LENGTHS` on."""
    classes = Counter(place for values in lengths for place in np.searchsorted(shift.LENGTHS, values, "right").tolist())
    return {str(edge): classes[place] for place, edge in enumerate(shift.LENGTHS, 1) if classes[place]}


def quantiles(values: Ints) -> dict[str, int]:
    if not len(values):
        return {}
    found = np.percentile(values, QUANTILES, method="lower")
    return {f"p{q}": int(v) for q, v in zip(QUANTILES, found, strict=True)} | {"max": int(values.max())}


def sides(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """Shares of preferred and refused replies by length, in equal classes up to 99% of the replies."""
    pairs = [(row["reply_a"], row["reply_b"]) for row in decided(rows)]
    first = [row["choice"] == "a" for row in decided(rows)]
    if not pairs:
        return []
    lengths = np.array([[len(text) for text in pair] for pair in pairs])
    edges = np.linspace(0, max(BINS, float(np.percentile(lengths, 99))), BINS + 1)
    better, worse = (np.where(side, *lengths.T) for side in (first, np.logical_not(first)))
    shares = [np.histogram(values, edges)[0] / len(pairs) for values in (better, worse)]
    return [
        {"characters": round(float(edge), 1), "preferred": round(float(a), 5), "refused": round(float(b), 5)}
        for edge, a, b in zip(edges[1:], *shares, strict=True)
    ]


def telling(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The n-grams that tell most of the label: in how many prompts each stands on one side alone."""
    if not rows:
        return []
    corpus = Corpus(rows)
    found: list[tuple[float, int, int, int, int]] = []
    for order in ORDERS:
        tally = one_sided(corpus, order)
        here = tally.preferred + tally.refused
        z = (tally.preferred - tally.refused) / np.sqrt(np.maximum(1, here))
        z[here < MIN_PROMPTS] = 0
        best = np.argsort(-np.abs(z), kind="stable")[: 4 * NUM_NGRAMS]
        found += [
            (float(z[p]), order, int(tally.grams[p]), int(tally.preferred[p]), int(tally.refused[p])) for p in best
        ]
    found.sort(key=lambda entry: (-abs(entry[0]), entry[1], entry[2]))
    seen: set[tuple[int, int]] = set()
    told: list[dict[str, Any]] = []
    for z, order, gram, preferred, refused in found:
        if (preferred, refused) in seen or len(told) == NUM_NGRAMS or z == 0:
            continue
        seen.add((preferred, refused))
        words = ngrams.spelled(corpus.replies, gram, order)
        if any(words == known["ngram"] for known in told):  # with the mark of start or end, and without
            continue
        told.append({"ngram": words, "preferred": preferred, "refused": refused, "z": round(z, 2)})
    return told


def drift(folder: Path, shards: Sequence[str]) -> list[dict[str, Any]]:
    """Each shard against all that was there before it: a version of the data is what came before the next shard."""
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.parquet")):
        files.setdefault(source_of(path), []).append(path)
    first = [path for name, paths in files.items() if not name.startswith("shard-") for path in paths]
    before = _summary(first)
    told = []
    for name in [f"shard-{sha256[:12]}" for sha256 in shards]:
        if name not in files:  # of another dataset
            continue
        here = _summary(files[name])
        told.append({"shard": name.removeprefix("shard-"), "rows": here["choice"].total(), **_moved(here, before)})
        for key in before:
            before[key] += here[key]
    return told


def _summary(paths: Sequence[Path]) -> dict[str, Any]:
    found: dict[str, Any] = {"choice": Counter(), "domain": Counter(), "length": Counter(), "longer": Counter()}
    for batch in arrow_batches(paths, ("choice", "domain", "reply_a", "reply_b")):
        found["choice"].update(batch["choice"].to_pylist())
        found["domain"].update(batch["domain"].to_pylist())
        lengths = np.concatenate([characters(batch["reply_a"]), characters(batch["reply_b"])])
        found["length"].update(np.searchsorted(shift.LENGTHS, lengths).tolist())
        found["longer"].update(longer_won(batch).tolist())
    return found


def _moved(here: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, float]:
    """Jensen-Shannon divergences in bits, and the move of the length AUC."""
    moved = {key: round(divergence(here[key], before[key]), 4) for key in ("choice", "domain", "length")}
    return moved | {"length_auc": round(_auc(here["longer"]) - _auc(before["longer"]), 4)}


def _auc(longer: Counter[int]) -> float:
    return (longer[1] + longer[0] / 2) / longer.total() if longer.total() else 0.5


def _hashes(column: Any) -> npt.NDArray[np.uint64]:
    from pandas.util import hash_array

    return np.asarray(hash_array(column.to_numpy(zero_copy_only=False), categorize=False))
