"""The held-out prompts and comparisons, and what is true about replies to them."""

from pathlib import Path
from typing import Any

from tasks import records, world
from tasks.evaluation import refusals, text

Row = dict[str, Any]

PROMPTS = "prepared/prompts/test.parquet"
SAFETY = "prepared/safety/test.parquet"
PAIRS = ("prepared/pairs/test.parquet", "collected/test.parquet")


def read_prompts(data: Path) -> list[Row]:
    """The test prompts and the safety prompts, each prompt once.

    A row is that of data/prepared/prompts with `key`, the prompt's identity, and `expected`, the conduct that it
    calls for (decline, assist) or None.
    """
    rows: dict[str, Row] = {}
    for row in _read(data / PROMPTS):
        key = records.prompt_key(row["prompt"])
        rows.setdefault(key, {**row, "key": key, "expected": None})
    for row in _read(data / SAFETY):
        key = records.prompt_key(row["prompt"])
        rows.setdefault(key, {**row, "key": key, "domain": row["category"], "verifier": None})
        rows[key]["expected"] = row["expected"]
    if not rows:
        raise ValueError(f"{data / PROMPTS}: no test prompts; raise folds.test or give more prompts")
    return list(rows.values())


def read_pairs(data: Path) -> list[Row]:
    """The held-out comparisons, given and collected, with `gold_a` and `gold_b` where the truth is known.

    What makes a reply right stands with the prompt, and the test folds of prompts and pairs share their prompts.
    """
    prompts = {row["key"]: row for row in read_prompts(data)}
    rows = [row for path in PAIRS for row in _read(data / path)]
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
    if not path.is_file():
        raise FileNotFoundError(f"{path}: missing; run the stage that writes it (`dvc repro`)")
    rows: list[Row] = records.read_table(path).to_pylist()
    return rows
