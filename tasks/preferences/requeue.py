"""Pairs to be voted on again, as a file for raters: old votes that `ingest.rules.rubric` sends back to the queue.

A line is a canonical preference with neither `choice` nor `rater`, and the rubric to judge by; with both filled in,
`ingest` reads it. Texts are as the rules leave them: personal data is redacted as elsewhere.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from tasks.preferences import dialogue
from tasks.records import Preference, prompt_key, row_id

_ASKED = ("prompt", "reply_a", "reply_b", "choice", "rater", "rubric", "domain", "source")
_WHERE_SAID = ("cluster", "group", "licence", "owner")


def line(pair: Preference) -> str:
    """What a rater is to see, and where the pair belongs; nothing of the old vote."""
    row = {name: None if name in ("choice", "rater") else getattr(pair, name) for name in _ASKED}
    row |= {name: value for name in _WHERE_SAID if (value := getattr(pair, name)) is not None}
    if row["cluster"] == dialogue.cluster(pair.prompt):
        del row["cluster"]
    if pair.group is not None:
        row["weight"] = pair.weight  # its share of a ranking
    return json.dumps(row, ensure_ascii=False, sort_keys=True)


def merge(files: Iterable[Path], target: Path) -> int:
    """Write every pair of these files once, whoever voted on it and whichever side it stood on; how many there are."""
    seen: set[int] = set()
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("w", encoding="utf-8") as file:
        for path in files:
            for text in path.read_text(encoding="utf-8").split("\n")[:-1]:
                row = json.loads(text)
                key = int(row_id(prompt_key(row["prompt"]), *sorted((row["reply_a"], row["reply_b"]))), 16)
                if key not in seen:
                    seen.add(key)
                    file.write(f"{text}\n")
    return len(seen)
