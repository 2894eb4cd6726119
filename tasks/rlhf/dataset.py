"""Reading prepared tables into what the loops train on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.records import CANARY, Message, read_table
from tasks.rlhf.batch import Example, Pair, Prompt

PAIR_COLUMNS = ["id", "source", "prompt_ids", "a_ids", "b_ids", "label", "weight"]


def read_examples(path: Path) -> list[Example]:
    """Demonstrations: columns `prompt_ids`, `reply_ids`."""
    table = read_table(path, ["prompt_ids", "reply_ids"])
    return [Example(row["prompt_ids"], row["reply_ids"]) for row in table.to_pylist()]


def read_pairs(*paths: Path) -> list[Pair]:
    """Comparisons of one or several tables, and what the canary planted among them."""
    rows: list[dict[str, Any]] = []
    for path in paths:
        rows += read_table(path, PAIR_COLUMNS).to_pylist()
    return [
        Pair(
            Example(r["prompt_ids"], r["a_ids"]),
            Example(r["prompt_ids"], r["b_ids"]),
            r["label"],
            r["weight"],
            r["id"],
            r["source"] == CANARY,
        )
        for r in rows
    ]


def read_prompts(path: Path) -> list[Prompt]:
    """Prompts for rollouts: columns `prompt_ids`, `domain`, `verifier`, `id`."""
    rows = read_table(path, ["prompt_ids", "domain", "verifier", "id"]).to_pylist()
    return [Prompt(row["prompt_ids"], row["domain"], row["verifier"], row["id"]) for row in rows]


def read_messages(*paths: Path) -> dict[str, list[Message]]:
    """The text of the prompts of one or several tables, by their ids."""
    rows = [row for path in paths for row in read_table(path, ["id", "prompt"]).to_pylist()]
    return {row["id"]: row["prompt"] for row in rows}


def both(pairs: Sequence[Pair]) -> list[Example]:
    """All first replies, then all second ones."""
    return [pair.a for pair in pairs] + [pair.b for pair in pairs]


def read_sft_replies(collected: Path, demonstrations: Path, most: int = 2000) -> list[Example]:
    """Replies of the SFT policy; where none were collected, demonstrations, which it was taught to imitate."""
    rows = read_table(collected, ["prompt_ids", "a_ids", "b_ids"]).to_pylist()
    replies = [Example(r["prompt_ids"], r[side]) for r in rows for side in ("a_ids", "b_ids")]
    return (replies or read_examples(demonstrations))[:most]
