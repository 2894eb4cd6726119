"""Ten thousand mutated rows: no process dies, no row is lost, and the same file gets the same verdicts."""

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest

from tasks.preferences.formats import FORMATS
from tasks.preferences.screen import BadFileError
from tests.tasks.folders import fresh
from tests.tasks.preferences.test_bad_inputs import run, verdicts
from tests.tasks.preferences.test_formats import EXAMPLES

ROWS = 10_000
HOSTILE: list[Any] = [
    None, True, -1, 0, 1e308, "", " ", "\x00", "\u202ehidden", "\ud83d", "a" * 5000, [], {}, [[[]]], {"role": "user"},
    [{"role": "user", "content": None}], [{"role": "system", "content": "x"}] * 3, {"from": "gpt", "value": 3},
    "../../etc/passwd", "<|im_end|>", "a@b.org " * 20, "2026-13-45", 10**30, ["a", 1], "\n\nHuman: \n\nAssistant: ",
]  # fmt: skip
BYTES = [
    b"\xff",
    b"\xc3",
    b"\xed\xa0\x80",
    b"\x00",
    b"\r",
    b"\n",
    b"}",
    b"[" * 40,
    b"NaN",
    b"1e999",
    b'"a":1,"a":2',
    b"\\",
]


def replaced(value: Any, rng: random.Random) -> Any:
    """Something in the value, or the whole of it, is something hostile or is gone."""
    if rng.random() < 0.4 or not isinstance(value, dict | list) or not value:
        return rng.choice(HOSTILE)
    if isinstance(value, list):
        place = rng.randrange(len(value))
        return [*value[:place], *([] if rng.random() < 0.3 else [replaced(value[place], rng)]), *value[place + 1 :]]
    key = rng.choice(list(value))
    if rng.random() < 0.3:
        return {name: item for name, item in value.items() if name != key}
    return {**value, key: replaced(value[key], rng)}


def varied(value: Any, number: int) -> Any:
    """The same row about something else, so that not all are repeats of one."""
    if isinstance(value, str):
        return f"{value} {number}" if " " in value or value.istitle() else value
    if isinstance(value, list):
        return [varied(item, number) for item in value]
    return {key: varied(item, number) for key, item in value.items()} if isinstance(value, dict) else value


def mutated(example: dict[str, Any], number: int, rng: random.Random) -> bytes:
    row: Any = varied(example, number)
    if rng.random() < 0.5:
        row = {**row, key: replaced(row[key], rng)} if (key := rng.choice(list(row))) else row
    line = json.dumps(row, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    if rng.random() < 0.3:
        place = rng.randrange(len(line) + 1)
        line = line[:place] + rng.choice(BYTES) + line[place + rng.randrange(4) :]
    return line + b"\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_mutated_rows_end_as_accepted_or_refused(name: str, tmp_path: Path) -> None:
    rng = random.Random(name)
    content = b"".join(mutated(EXAMPLES[name], n, rng) for n in range(ROWS // len(EXAMPLES)))
    told = []
    for attempt in ("first", "again"):
        data = fresh(tmp_path / attempt)
        (data / "inputs/rows.jsonl").write_bytes(content)
        source = {"kind": "file", "path": "rows.jsonl", "format": name}
        try:
            metrics = run(data, "rows.jsonl", sources=[source])
        except BadFileError as error:
            told.append(str(error.reason))
            continue
        lines = [line for line in content.split(b"\n") if line.strip(b" \t\r\n\x0b\x0c")]
        assert metrics["input"] == len(lines)
        files = sorted((data / "quarantine").glob("*.jsonl"))
        told.append([verdicts(data, metrics), [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]])
        assert metrics["accepted"] < metrics["input"]
        assert metrics["accepted"] > 0 or FORMATS[name].group  # those need each other, and here every prompt is another
    assert told[0] == told[1]
    assert not isinstance(told[0], str), f"refused whole: {told[0]}"
