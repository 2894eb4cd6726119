"""What raters are worth to a folder of comparisons: said once beside its files, applied by whoever reads them.

It changes with every vote; so no row is ever rewritten for it.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from tasks.files import write_json

_NAME = "_raters.json"  # readers of parquet folders pass over names that begin so


@dataclass(frozen=True)
class Worth:
    """factors: on the weights of a rater's rows, 1 where it is not given; held_out: raters whose rows do not count."""

    factors: Mapping[str, float]
    held_out: frozenset[str]

    def applied(self, table: pa.Table) -> pa.Table:
        """The rows that count, in their order, with the column `weight`, where there is one, as it is after all."""
        coded = table["rater"].combine_chunks().dictionary_encode()
        raters = coded.dictionary.to_pylist()
        if "weight" in table.column_names:
            factors = pa.array([float(self.factors.get(rater, 1.0)) for rater in raters], pa.float64())
            weights = pc.multiply(table["weight"], factors.take(coded.indices))
            place = table.schema.get_field_index("weight")
            table = table.set_column(place, table.schema.field(place), weights)
        if self.held_out.isdisjoint(raters):
            return table
        counts = pa.array([rater not in self.held_out for rater in raters], pa.bool_())
        return table.filter(counts.take(coded.indices))


def write(folder: Path, factors: Mapping[str, float], held_out: Iterable[str]) -> None:
    write_json(folder / _NAME, {"factors": dict(factors), "held_out": sorted(held_out)})


def read(folder: Path) -> Worth | None:
    """What `write` left there."""
    path = folder / _NAME
    if not path.exists():
        return None
    document = json.loads(path.read_text(encoding="utf-8"))
    return Worth(document["factors"], frozenset(document["held_out"]))
