"""Replies judged one by one: what KTO learns from, and how each finds its mismatched partner."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from tasks.records import read_table
from tasks.rlhf.batch import Example, Pair


@dataclass(frozen=True)
class Feedback:
    """A reply with a verdict; desirable is P(it is wanted).

    `mismatched` is the same prompt with the reply to another one. It belongs to the row, whatever batch that lands in.
    """

    id: str
    example: Example
    mismatched: Example
    desirable: float
    weight: float
    planted: bool = False  # by the canary: learned from, and counted in no figure

    @property
    def examples(self) -> tuple[Example, ...]:
        return (self.example,)


@dataclass(frozen=True)
class Judged:
    """A reply that was judged by itself, not in a pair."""

    id: str
    example: Example
    desirable: float  # P(it is wanted)
    weight: float


def read(path: Path) -> list[Judged]:
    """Rows of data/prepared/feedback."""
    columns = ["id", "prompt_ids", "reply_ids", "desirable", "weight"]
    return [
        Judged(row["id"], Example(row["prompt_ids"], row["reply_ids"]), float(row["desirable"]), row["weight"])
        for row in read_table(path, columns).to_pylist()
    ]


def from_pairs(pairs: Sequence[Pair], judged: Sequence[Judged] = ()) -> list[Feedback]:
    """Two rows per pair, `<id>/a` and `<id>/b`: the preferred reply is wanted, the other is not; then the judged.

    A label between 0 and 1 is P(a is wanted), and one less it P(b is wanted). Of a tie nothing is known to be wanted:
    it gives no row. ValueError where no reply is known to be wanted or unwanted.
    """
    untied = [pair for pair in pairs if pair.label != 0.5]
    if not untied and not judged:
        raise ValueError(
            f"none of the {len(pairs)} pairs has a preferred reply: no reply is known to be wanted or unwanted; "
            "check the sources of ingest"
        )
    ids = [f"{pair.id}/{side}" for pair in untied for side in "ab"]
    examples = [example for pair in untied for example in (pair.a, pair.b)]
    wanted = [p for pair in untied for p in (pair.label, 1 - pair.label)]
    weights = [pair.weight for pair in untied for _ in "ab"]
    planted = [pair.planted for pair in untied for _ in "ab"]
    ids += [f"feedback/{row.id}" for row in judged]
    examples += [row.example for row in judged]
    wanted += [row.desirable for row in judged]
    weights += [row.weight for row in judged]
    planted += [False] * len(judged)
    return [
        Feedback(*row) for row in zip(ids, examples, mismatch(ids, examples), wanted, weights, planted, strict=True)
    ]


def balance(rows: Sequence[Feedback], config: Any) -> float | None:
    """Wanted over unwanted replies, by their weights and those of KTO's Config; None where none is unwanted.

    Hand-worked: 6 wanted and 2 unwanted of weight 1, desirable_weight 0.5: 1.5.
    """
    wanted = config.desirable_weight * sum(row.weight * row.desirable for row in rows)
    unwanted = config.undesirable_weight * sum(row.weight * (1 - row.desirable) for row in rows)
    return wanted / unwanted if unwanted else None


def unbalanced(ratio: float | None) -> str | None:
    """What to say of a balance outside of what is known to work: 1 to 4/3 (Ethayarajh 2024, arXiv:2402.01306)."""
    if ratio is None:
        return "align.kto: no reply that weighs anything is unwanted: nothing says what to leave"
    if 0.99 <= ratio <= 1.34:  # rounded
        return None
    return (
        f"align.kto: wanted replies weigh {ratio:.3g} times what unwanted ones do, and 1 to 4/3 is known to work; "
        "set desirable_weight or undesirable_weight so"
    )


def mismatch(ids: Sequence[str], examples: Sequence[Example]) -> list[Example]:
    """Each row's prompt with the reply of another row whose prompt differs, decided by ids and contents alone.

    The rows stand in a ring in the order of their hashes, and each takes the reply of the next one that answers
    another prompt: neither the order of the rows nor any batch has a say. A reply is cut where prompt and reply
    would be longer than the longest row, which is known to fit into the model.
    """
    prompts = [tuple(example.prompt_ids) for example in examples]
    if len(set(prompts)) < 2:
        raise ValueError(
            f"all {len(prompts)} replies answer one prompt: the reference point of KTO is measured on replies to other "
            "prompts; give data with two prompts or more"
        )
    ring = sorted(range(len(ids)), key=lambda i: _hash(ids[i], examples[i]))
    partner: dict[int, int] = {}
    # Backwards, and round twice, so that a row whose successor answers the same prompt takes over its partner.
    for row, after in reversed(list(pairwise(ring + ring))):
        if prompts[row] != prompts[after]:
            partner[row] = after
        elif after in partner:
            partner[row] = partner[after]
    longest = max(example.length for example in examples)
    return [
        Example(own.prompt_ids, examples[partner[row]].reply_ids[: longest - len(own.prompt_ids)])
        for row, own in enumerate(examples)
    ]


def _hash(row_id: str, example: Example) -> bytes:
    """Of the contents too, so that rows without ids of their own have a fixed order as well."""
    text = repr((row_id, list(example.prompt_ids), list(example.reply_ids)))
    return hashlib.sha256(text.encode()).digest()
