"""The canonical records: what a demonstration, a preference, a prompt, a safety item, a solution and feedback are.

Every stage reads and writes these as parquet. A prompt is a list of messages `{role, content}`;
a *reply* is the text that answers it, without template or special tokens.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from json.encoder import encode_basestring as _quoted
from pathlib import Path
from typing import Any, Literal, TypedDict

import pyarrow as pa
import pyarrow.parquet as pq

from tasks import worth

CHOICES = ("a", "b", "tie", "both_bad", "unsure")
ROLES = ("system", "user", "assistant")
CANARY = "_canary"  # the source of planted comparisons; no source of people can have this name
MINED = "mined@"  # and the start of the policy's hash: the source of comparisons of tasks/mine.py
Choice = Literal["a", "b", "tie", "both_bad", "unsure"]
# What feedback is read from, and the share of wrong verdicts that is assumed where a row does not say: only `explicit`
# was asked for; the others are conduct (a vote for a post, asking again, how long a conversation went on).
SIGNALS = {"explicit": 0.0, "upvote": 0.25, "regeneration": 0.35, "length": 0.45}


class Message(TypedDict):
    role: str
    content: str


@dataclass(frozen=True, kw_only=True)
class Demonstration:
    """A prompt and a reply worth imitating."""

    id: str
    prompt: list[Message]
    reply: str
    source: str
    domain: str
    cluster: str  # rows of one cluster never stand on two sides of a split
    licence: str | None = None
    created_at: str | None = None  # RFC 3339 with zone; None where the source does not say
    owner: str | None = None  # of the prompt, where the source says whose it is
    tags: str | None = None  # what the rules of ingest found and let pass, by comma


@dataclass(frozen=True, kw_only=True)
class Preference:
    """One rater's comparison of two replies to one prompt."""

    id: str
    prompt: list[Message]
    reply_a: str
    reply_b: str
    choice: str  # one of CHOICES
    confidence: float  # 0..1, as the rater stated it; 1.0 where the source does not say
    rater: str
    source: str
    domain: str
    cluster: str
    rubric: str | None = None  # "<id>@<sha256 prefix>" of the rubric the rater saw
    created_at: str | None = None
    scores: str | None = None  # JSON {objective: [score of a, score of b]}
    group: str | None = None  # the ranking that this pair is a part of
    weight: float = 1.0  # of the row by design: 1/C(k,2) for each pair of a ranking of k replies
    seconds: float | None = None  # that the rater took
    licence: str | None = None
    owner: str | None = None  # of the prompt, where the source says whose it is
    tags: str | None = None  # what the rules of ingest found and let pass, by comma


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A prompt for rollouts; the verifier, where there is one, can check a reply by rule."""

    id: str
    prompt: list[Message]
    domain: str
    source: str
    cluster: str
    verifier: str | None = None  # JSON {"kind": exact|numeric|..., "answer": ...}
    owner: str | None = None  # of the prompt, where the source says whose it is
    tags: str | None = None  # what the rules of ingest found and let pass, by comma


@dataclass(frozen=True, kw_only=True)
class Safety:
    """A prompt with the conduct it calls for."""

    id: str
    prompt: list[Message]
    expected: str  # "decline" (with help offered) or "assist" (a harmless look-alike)
    category: str
    source: str
    cluster: str
    reply: str | None = None  # a model answer
    created_at: str | None = None
    owner: str | None = None  # of the prompt, where the source says whose it is
    tags: str | None = None  # what the rules of ingest found and let pass, by comma


@dataclass(frozen=True, kw_only=True)
class Solution:
    """A reply in steps, one to a line, and what is known of them."""

    id: str
    prompt: list[Message]
    steps: list[str]  # without line breaks
    labels: list[bool | None]  # of each step: whether it is right; None: nobody said
    source: str
    domain: str
    cluster: str
    correct: bool | None = None  # whether the final answer is right
    owner: str | None = None  # of the prompt, where the source says whose it is
    tags: str | None = None  # what the rules of ingest found and let pass, by comma

    @property
    def reply(self) -> str:
        return "\n".join(self.steps)


@dataclass(frozen=True, kw_only=True)
class Feedback:
    """What one person, or their conduct, says of one reply."""

    id: str
    prompt: list[Message]
    reply: str
    desirable: bool
    signal: str  # a key of SIGNALS
    noise: float  # estimated share of wrong verdicts, 0..0.5
    weight: float  # of the row by design
    rater: str
    source: str
    domain: str
    cluster: str
    created_at: str | None = None
    licence: str | None = None
    owner: str | None = None  # of the prompt, where the source says whose it is
    tags: str | None = None  # what the rules of ingest found and let pass, by comma


Record = Demonstration | Preference | Prompt | Safety | Solution | Feedback
DATASETS: dict[str, type[Record]] = {
    "demonstrations": Demonstration,
    "preferences": Preference,
    "safety": Safety,
    "prompts": Prompt,
    "solutions": Solution,
    "feedback": Feedback,
}

_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_ARROW: dict[str, pa.DataType] = {
    "prompt": _MESSAGES,
    "confidence": pa.float64(),
    "weight": pa.float64(),
    "seconds": pa.float64(),
    "steps": pa.list_(pa.string()),
    "labels": pa.list_(pa.bool_()),
    "correct": pa.bool_(),
    "desirable": pa.bool_(),
    "noise": pa.float64(),
}


def schema(record: type[Record]) -> pa.Schema:
    return pa.schema([(field.name, _ARROW.get(field.name, pa.string())) for field in fields(record)])


def to_table(rows: Iterable[Record], record: type[Record]) -> pa.Table:
    return pa.Table.from_pylist([asdict(row) for row in rows], schema=schema(record))


def from_table(table: pa.Table, record: type[Any]) -> list[Any]:
    return [record(**row) for row in table.to_pylist()]


def write_table(table: pa.Table, path: Path) -> None:
    """Write parquet whose pages carry checksums; `read_table` verifies them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd", write_page_checksum=True)


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read one parquet file, or every parquet file of a folder in name order; all columns, or these.

    Rows of a folder that says what raters are worth (`worth.write`) are weighed so.
    """
    if not path.is_dir():
        return pq.read_table(path, columns=columns, page_checksum_verification=True, partitioning=None)
    parts = sorted(path.glob("*.parquet"))
    if not parts:
        raise FileNotFoundError(f"{path}: no parquet file in this folder; run the stage that writes it")
    known = worth.read(path)
    wanted = columns if columns is None or known is None else [*dict.fromkeys([*columns, "rater"])]
    table = pa.concat_tables([read_table(part, wanted) for part in parts])
    if known is not None:
        table = known.applied(table)
    return table if columns is None else table.select(columns)


_IDS = pa.list_(pa.int32())
PAIRS = pa.schema(  # comparisons ready for training: tokenised once
    [
        *((name, pa.string()) for name in ("id", "cluster", "domain", "source", "rater", "choice")),
        ("prompt", _MESSAGES),
        *((name, pa.string()) for name in ("reply_a", "reply_b")),
        *((name, _IDS) for name in ("prompt_ids", "a_ids", "b_ids")),
        ("label", pa.float64()),  # P(a is preferred)
        ("weight", pa.float64()),
        ("confidence", pa.float64()),
        ("scores", pa.string()),  # JSON {objective: [score of a, score of b]}, where the source gives it
    ]
)
LABELS = {"a": 1.0, "b": 0.0, "tie": 0.5, "both_bad": 0.5}  # `unsure` carries no training signal


def pair_row(row: Preference, prompt_ids: list[int], a_ids: list[int], b_ids: list[int]) -> dict[str, Any]:
    """A row of the PAIRS schema; its weight is the rater's confidence times the row's own."""
    kept = {name: getattr(row, name) for name in PAIRS.names if hasattr(row, name)}
    ids = {"prompt_ids": prompt_ids, "a_ids": a_ids, "b_ids": b_ids}
    return {**kept, **ids, "label": LABELS[row.choice], "weight": row.confidence * row.weight}


def pair_table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=PAIRS)


def signal_weight(noise: float) -> float:
    """(1 - 2 noise)^2: so many clean verdicts is one worth that is wrong with this chance.

    It is the share of the information about the sign that a symmetric channel lets through, to second order.
    Hand-worked: noise 0: 1; 0.25: 0.25; 0.5: 0.
    """
    return (1 - 2 * noise) ** 2


def prompt_key(prompt: list[Message]) -> str:
    """The identity of a prompt, the same for every record that carries it."""
    turns = tuple((m["role"], m["content"]) for m in prompt)
    return _remembered_key(turns) if sum(len(content) for _, content in turns) < _LONG else _key(turns)


def _key(turns: tuple[tuple[str, str], ...]) -> str:
    text = ", ".join(f"[{_quoted(role)}, {_quoted(content)}]" for role, content in turns)  # as json.dumps writes it
    return hashlib.sha256(f"[{text}]".encode()).hexdigest()[:16]


_LONG = 1 << 14  # characters of a prompt whose key is not remembered
_remembered_key = lru_cache(1024)(_key)  # the same prompt comes with many replies


def row_id(*parts: object) -> str:
    """A stable id from content, for sources that carry none."""
    texts = [_quoted(part) for part in parts if isinstance(part, str)]
    if len(texts) < len(parts):
        texts = [json.dumps(part, ensure_ascii=False) for part in parts]
    text = f"[{', '.join(texts)}]"  # as json.dumps writes the list, in a third of the time
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def forget_environment(tokenizer_folder: Path) -> None:
    """Drop what transformers notes down of the environment (HF_HUB_OFFLINE), which would enter the folder's hash."""
    path = tokenizer_folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.pop("local_files_only", None) is not None:
        path.write_text(json.dumps(config, indent=2, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
