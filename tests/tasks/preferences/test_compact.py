"""The compact map against a dict, and an index that is carried from run to run."""

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.preferences import compact
from tasks.preferences.compact import Table
from tasks.preferences.duplicates import Index
from tasks.preferences.formats import FORMATS
from tasks.records import Record

number = st.integers(0, 5) | st.integers(0, 2**64 - 1)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(number, number, st.booleans())), st.integers(0, 4))
def test_a_table_is_a_dict(changes: list[tuple[int, int, bool]], live: int) -> None:
    table, plain = Table(), dict[int, int]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compact, "_LIVE", live)
        for key, value, default in changes:
            assert table.get(key) == plain.get(key)
            if default:
                assert table.setdefault(key, value) == plain.setdefault(key, value)
            else:
                table.set(key, value)
                plain[key] = value
        keys, values = table.entries().tolist()
        assert dict(zip(keys, values, strict=True)) == plain
        assert keys == sorted(plain)
        other = Table()
        other.set(7, 1)
        other.update(table.entries())
        assert {key: other.get(key) for key in [*plain, 7]} == {7: 1} | plain


def test_an_entry_takes_16_bytes(tmp_path: Path) -> None:
    table = Table()
    for key in np.random.default_rng(0).integers(0, 2**63, 5000).tolist():
        table.set(key, 1)
    table.save(tmp_path / "table.npy")
    assert (tmp_path / "table.npy").stat().st_size < 16 * 5000 + 200


def records(number: int) -> list[Record]:
    """Votes of few raters on few pairs, some under reused ids or in declared clusters; many repeat or contradict."""
    rng, made = random.Random(0), list[Record]()
    for _ in range(number):
        row = {
            "prompt": f"Question {rng.randrange(12)}",
            "reply_a": f"Yes {rng.randrange(3)}",
            "reply_b": f"No {rng.randrange(3)}",
            "choice": rng.choice(("a", "b", "tie", "unsure")),
            "rater": rng.choice("xy"),
        }
        row |= rng.choice(({}, {}, {"id": f"id-{rng.randrange(40)}"}, {"cluster": f"declared {rng.randrange(3)}"}))
        if rng.random() < 0.3:
            row["reply_a"], row["reply_b"] = row["reply_b"], row["reply_a"]
        made += FORMATS["canonical_preferences"].convert(row, "s")
    return made


def judge(index: Index, rows: list[Record]) -> list[tuple[str, str | None]]:
    return [((placed := index.place(row)).cluster, index.reason(placed)) for row in rows]


def test_an_index_loaded_goes_on_as_the_one_saved(tmp_path: Path) -> None:
    rows, whole, first = records(400), Index(), Index()
    expected = judge(whole, rows)
    assert {reason for _, reason in expected} >= {None, "exact_duplicate", "self_contradiction", "id_conflict"}
    found = judge(first, rows[:200])
    first.save(tmp_path)
    second = Index()
    second.restore(tmp_path)
    found += judge(second, rows[200:])
    assert found == expected
    assert sorted(second.contradicted) == sorted(whole.contradicted)
