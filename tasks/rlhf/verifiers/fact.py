"""fact: what the reply names is what a local table says of a subject.

The table (`align.rewards.tables`) has rows {"subject", "relation", "value"}; several rows for one subject and
relation: any of their values is right. The reply must name a right value, and none that the table gives to another
subject for the same relation: listing all of them is wrong. A denial ("not Solm") is not understood.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from tasks.rlhf.verification import Resources, Row, Verify, words
from tasks.rlhf.verification import Spec as Base

Phrase = tuple[str, ...]


class Spec(Base):
    table: str
    subject: str
    relation: str


@dataclass
class Relation:
    right: dict[Phrase, set[Phrase]] = field(default_factory=lambda: defaultdict(set))  # values of each subject
    values: set[Phrase] = field(default_factory=set)
    longest: int = 0  # words of a value


def verifier(spec: Spec, resources: Resources) -> Verify | None:
    """1 where the reply names a right value and no wrong one, else 0; None where the table does not say."""
    relation = resources.index(spec.table, relations).get(tuple(words(spec.relation)))
    right = relation.right.get(tuple(words(spec.subject))) if relation else None
    if not right:
        return None

    def verify(reply: str) -> float:
        named = _named(words(reply), relation)
        return float(bool(named) and named <= right)

    return verify


def relations(rows: Sequence[Row]) -> dict[Phrase, Relation]:
    found: dict[Phrase, Relation] = defaultdict(Relation)
    for number, row in enumerate(rows, 1):
        subject, name, value = (_phrase(row, key, number) for key in ("subject", "relation", "value"))
        found[name].right[subject].add(value)
        found[name].values.add(value)
        found[name].longest = max(found[name].longest, len(value))
    return dict(found)


def _phrase(row: Row, key: str, number: int) -> Phrase:
    phrase = tuple(words(row[key])) if isinstance(row.get(key), str) else ()
    if not phrase:
        raise ValueError(
            f"row {number} of the table: {key} = {row.get(key)!r}: must be text; a row has subject, relation, value"
        )
    return phrase


def _named(said: list[str], relation: Relation) -> set[Phrase]:
    """The values that stand in a text; where one is part of another (York, New York), the longer one."""
    found: set[Phrase] = set()
    place = 0
    while place < len(said):
        sizes = range(min(relation.longest, len(said) - place), 0, -1)
        size = next((n for n in sizes if tuple(said[place : place + n]) in relation.values), 0)
        if size:
            found.add(tuple(said[place : place + size]))
        place += size or 1
    return found
