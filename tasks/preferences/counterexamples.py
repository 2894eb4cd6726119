"""Counterexamples made of comparisons: a preferred reply against a reply to another prompt, or against itself, ruined;
and swaps: a text against the same with a word in place of another that must not matter.

Hashes of ids decide which comparisons are used and how, so that the order of the rows has no say.
"""

import hashlib
import json
import random
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tasks.preferences.canary import noise
from tasks.records import CANARY, MINED, Message, read_table

COLUMNS = ["id", "cluster", "domain", "source", "prompt", "reply_a", "reply_b", "label"]
PLACES = ("prompt", "reply")
TRIES = 20  # draws of another prompt's reply before a row is given up

Row = Mapping[str, Any]
Replies = Sequence[tuple[Row, str]]  # comparisons and their preferred replies


@dataclass(frozen=True)
class Made:
    """A text and its counterexample: what is worse or, for a swap, what should score the same."""

    kind: str  # mismatched | corrupted | swap
    way: str  # how it was made
    cluster: str
    prompt: list[Message]
    reply: str
    other_prompt: list[Message]
    other: str


def read(path: Path) -> list[Row]:
    """The comparisons that people (or labellers) made, of a prepared table."""
    rows = read_table(path, COLUMNS).to_pylist()
    return [row for row in rows if row["source"] != CANARY and not row["source"].startswith(MINED)]


def mismatched(rows: Sequence[Row], number: int) -> list[Made]:
    """Against the preferred reply to another prompt: of the same domain and of any, in turn.

    Never a reply that was also given to this prompt: "4" may be right for several sums.
    """
    decided = _decided(rows)
    domains: dict[str, list[tuple[Row, str]]] = defaultdict(list)
    given: dict[str, set[str]] = defaultdict(set)
    for row, reply in decided:
        domains[row["domain"]].append((row, reply))
    for row in rows:
        given[row["cluster"]] |= {row["reply_a"], row["reply_b"]}
    made = []
    for position, (row, reply) in enumerate(_first(decided, "mismatched", number)):
        way = "same_domain" if position % 2 else "any_domain"
        rng = random.Random(f"mismatched/{row['id']}")
        other = _draw(domains[row["domain"]] if position % 2 else decided, given[row["cluster"]], row["cluster"], rng)
        if other is not None:
            made.append(Made("mismatched", way, row["cluster"], row["prompt"], reply, row["prompt"], other))
    return made


def corrupted(rows: Sequence[Row], number: int) -> list[Made]:
    """Against itself, ruined in each of the ways in turn; a reply that a way leaves as it is gives none."""
    ways = sorted(WAYS)
    made = []
    for position, (row, reply) in enumerate(_first(_decided(rows), "corrupted", number)):
        way = ways[position % len(ways)]
        other = WAYS[way](reply, random.Random(f"corrupted/{row['id']}"))
        if other.strip() and other != reply:
            made.append(Made("corrupted", way, row["cluster"], row["prompt"], reply, row["prompt"], other))
    return made


def _shuffled(reply: str, rng: random.Random) -> str:
    words = reply.split()
    return " ".join(rng.sample(words, len(words)))


def _cut(reply: str, rng: random.Random) -> str:
    """Within its middle, and so mostly within a word."""
    return reply[: rng.randint(len(reply) // 4, 3 * len(reply) // 4)]


def _repeated(reply: str, rng: random.Random) -> str:
    words = reply.split()
    return " ".join([rng.choice(words)] * max(4, len(words)))


WAYS: dict[str, Callable[[str, random.Random], str]] = {
    "symbols": partial(noise, stuck=False),  # these two are the canary's
    "stuck": partial(noise, stuck=True),
    "shuffled": _shuffled,
    "cut": _cut,
    "repeated": _repeated,
}


@dataclass(frozen=True)
class SwapList:
    """Words of which none may matter more than another, and where they may be exchanged."""

    kind: str
    words: tuple[str, ...]
    where: tuple[str, ...]

    def exchanged(self, row: Row, reply: str, rng: random.Random) -> tuple[list[Message], str] | None:
        """The prompt and reply with a word of theirs and another of the list exchanged; None where there is none."""
        texts = [message["content"] for message in row["prompt"]] if "prompt" in self.where else []
        texts += [reply] if "reply" in self.where else []
        found = sorted({match for text in texts for match in _any_of(self.words).findall(text)})
        if not found:
            return None
        one = rng.choice(found)
        pair = (one, rng.choice([word for word in self.words if word != one]))
        swap = partial(_any_of(pair).sub, lambda match: pair[match[0] == one])
        prompt = [Message(role=m["role"], content=swap(m["content"])) for m in row["prompt"]]
        return (prompt if "prompt" in self.where else row["prompt"], swap(reply) if "reply" in self.where else reply)


def read_swaps(path: Path) -> list[SwapList]:
    """Lists of words, an object a line. Raises ValueError or FileNotFoundError, naming the line."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; restore it with git, or write your own lists of words")
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            found.append(_swap_list(json.loads(line)))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{path}:{number}: not a list of swaps ({error}); it wants kind, two or more different words, and "
                "where: prompt, reply or both"
            ) from None
    return found


def swapped(rows: Sequence[Row], lists: Sequence[SwapList], number: int) -> list[Made]:
    """At most so many swaps, one of a comparison that has a word of a list."""
    made: list[Made] = []
    for row in sorted(rows, key=lambda row: _hash("swap", row["id"])):
        if len(made) == number:
            break
        rng = random.Random(f"swap/{row['id']}")
        reply = row[rng.choice(("reply_a", "reply_b"))]
        for each in rng.sample(lists, len(lists)):
            if (other := each.exchanged(row, reply, rng)) is not None:
                made.append(Made("swap", each.kind, row["cluster"], row["prompt"], reply, *other))
                break
    return made


def _swap_list(line: Mapping[str, Any]) -> SwapList:
    kind, words, where = line["kind"], tuple(line["words"]), tuple(line["where"])
    if not (isinstance(kind, str) and all(isinstance(word, str) and word.strip() for word in words)):
        raise ValueError("kind and words are texts")
    if len(set(words)) < 2 or len(set(words)) < len(words):
        raise ValueError(f"words = {list(words)}")
    if not where or not set(where) <= set(PLACES) or line.keys() != {"kind", "words", "where"}:
        raise ValueError(f"where = {list(where)}, keys {', '.join(line)}")
    return SwapList(kind, words, where)


def _any_of(words: Sequence[str]) -> re.Pattern[str]:
    """Whole words: "two" is not in "twofold". The longest that fits comes first."""
    inner = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    return re.compile(rf"(?<!\w)(?:{inner})(?!\w)")


def _decided(rows: Sequence[Row]) -> list[tuple[Row, str]]:
    return [(row, row["reply_a"] if row["label"] > 0.5 else row["reply_b"]) for row in rows if row["label"] != 0.5]


def _first(decided: Replies, kind: str, number: int) -> Replies:
    return sorted(decided, key=lambda pair: _hash(kind, pair[0]["id"]))[:number]


def _draw(pool: Replies, given: set[str], cluster: str, rng: random.Random) -> str | None:
    for _ in range(TRIES):
        row, reply = rng.choice(pool)
        if row["cluster"] != cluster and reply not in given:
            return reply
    return None


def _hash(kind: str, row_id: str) -> str:
    return hashlib.sha256(f"{kind}/{row_id}".encode()).hexdigest()
