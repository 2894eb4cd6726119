"""The held-out prompts and comparisons, and what is true about replies to them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks import records, world
from tasks.evaluation import refusals, text

Row = dict[str, Any]


@dataclass(frozen=True)
class Fold:
    """The tables, under data/, of a fold that is measured by."""

    name: str
    prompts: str
    safety: str
    pairs: tuple[str, ...]

    @property
    def paths(self) -> tuple[str, ...]:
        return self.prompts, self.safety, *self.pairs


TEST = Fold(
    "test",
    "prepared/prompts/test",
    "prepared/safety/test",
    ("prepared/pairs/test", "collected/test.parquet"),
)


def read_prompts(data: Path, fold: Fold) -> list[Row]:
    """The prompts and the safety prompts of a fold, each prompt once.

    A row is that of data/prepared/prompts with `key`, the prompt's identity, and `expected`, the conduct that it
    calls for (decline, assist) or None.
    """
    rows: dict[str, Row] = {}
    for row in _read(data / fold.prompts):
        key = records.prompt_key(row["prompt"])
        rows.setdefault(key, {**row, "key": key, "expected": None})
    for row in _read(data / fold.safety):
        key = records.prompt_key(row["prompt"])
        rows.setdefault(key, {**row, "key": key, "domain": row["category"], "verifier": None})
        rows[key]["expected"] = row["expected"]
    if not rows:
        remedy = f"raise folds.{fold.name} in params.yaml or give more prompts, then `make run`"
        raise ValueError(f"{data / fold.prompts}: no {fold.name} prompts; {remedy}")
    return list(rows.values())


def read_pairs(data: Path, fold: Fold) -> list[Row]:
    """The comparisons of a fold, given and collected, with `gold_a` and `gold_b` where the truth is known.

    What makes a reply right stands with the prompt, and prompts and pairs of a fold share their prompts.
    """
    prompts = {row["key"]: row for row in read_prompts(data, fold)}
    rows = [row for path in fold.pairs for row in _read(data / path)]
    for row in rows:
        prompt = prompts.get(records.prompt_key(row["prompt"]))
        row |= {f"gold_{side}": gold(prompt, row[f"reply_{side}"]) if prompt else None for side in "ab"}
    return rows


def gold(prompt: Row, reply: str) -> float | None:
    """The true utility of a reply; only the prompts of the simulated world have one."""
    if prompt["source"] != world.SOURCE or prompt["verifier"] is None:
        return None
    return world.utility(prompt["domain"], prompt["verifier"], reply)


def monitors(prompt: Row, reply: str) -> Row:
    """What the text of a reply shows without any model."""
    declines = world.declines if prompt["source"] == world.SOURCE else refusals.declines
    return {
        "gold": gold(prompt, reply),
        "declined": declines(reply),
        "echo": text.echoes(prompt["prompt"][-1]["content"], reply),
        "repetition": text.repetition(reply),
    }


def _read(path: Path) -> list[Row]:
    if not path.exists():
        raise FileNotFoundError(f"{path}: missing; run the stage that writes it (`dvc repro`)")
    rows: list[Row] = records.read_table(path).to_pylist()
    return rows
