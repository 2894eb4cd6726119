"""Preference rows by seed, about 1 KB each: what a busy collection of votes looks like, with what goes wrong in one.

Texts have lengths drawn from log-normal laws, five in a hundred hold other scripts; a prompt gets several pairs, a
pair several votes by raters of whom few are busy and most are not. One row in a hundred is bad, two in a hundred
repeat an earlier one, one in 500 contradicts its rater's own vote.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LETTERS = "etaoinshrdlcumwfgypbvkjxqz"
SCRIPTS = ("naïve café déjà vu", "深い学習の報酬", "оценка ответа", "🙂🚀", "שלום", "“quoted” – so…")
BAD = (
    lambda row: {**row, "choice": "c"},
    lambda row: {**row, "reply_a": ""},
    lambda row: {**row, "confidence": 3},
    lambda row: {**row, "prompt": row["prompt"] + "\x07"},
    lambda row: {**row, "reply_b": row["reply_b"] + "\u202e"},
    lambda row: {key: value for key, value in row.items() if key != "reply_b"},
    lambda row: {**row, "created_at": "yesterday"},
)


class Words:
    """Sentences of made-up words, some words far more frequent than others."""

    def __init__(self, rng: random.Random, num_words: int = 8000, num_sentences: int = 60_000) -> None:
        words = ["".join(rng.choices(LETTERS, range(26, 0, -1), k=rng.randint(1, 10))) for _ in range(num_words)]
        weights = [1 / (rank + 5) for rank in range(num_words)]
        drawn = iter(rng.choices(words, weights, k=12 * num_sentences))
        self._rng = rng
        self._sentences = []
        for _ in range(num_sentences):
            sentence = " ".join(next(drawn) for _ in range(rng.randint(4, 11)))
            self._sentences.append(sentence.capitalize() + rng.choice("....?!:"))

    def text(self, chars: int) -> str:
        """About so many characters, each text with a word of its own; one in seven names a number."""
        rng = self._rng
        parts = rng.choices(self._sentences, k=max(1, chars // 46))
        own = str(rng.randrange(10**9)) if rng.random() < 0.15 else "".join(rng.choices(LETTERS, k=8))
        parts.append(f"{rng.choice(self._sentences)[:-1]} {own}.")
        if rng.random() < 0.05:
            parts.append(rng.choice(SCRIPTS))
        return ("\n" if rng.random() < 0.2 else " ").join(parts)


def rows(number: int, seed: int, first: int = 0) -> Iterator[dict[str, Any]]:
    """So many rows; `first` numbers the prompts, so that two files share none of theirs."""
    rng = random.Random(f"votes/{seed}/{first}")
    words = Words(rng)
    raters = [f"rater-{n:03d}" for n in range(60)]
    busy = [1 / (rank + 3) for rank in range(60)]
    made, prompt = 0, first
    while True:
        prompt += 1
        question = words.text(int(rng.lognormvariate(4.8, 0.6)))
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            replies = [words.text(int(rng.lognormvariate(5.4, 0.7))) for _ in range(2)]
            better = rng.choices(("a", "b"), (52, 48))[0]
            for rater in sorted(set(rng.choices(raters, busy, k=rng.choice((1, 1, 2, 3))))):
                row = {
                    "prompt": question,
                    "reply_a": replies[0],
                    "reply_b": replies[1],
                    "choice": _vote(better, rng),
                    "confidence": round(rng.random(), 2),
                    "rater": rater,
                    "domain": f"domain-{prompt % 12}",
                    "created_at": f"2026-0{rng.randint(1, 9)}-{rng.randint(10, 28)}T12:{rng.randint(10, 59)}:00Z",
                }
                for out in _mishaps(row, rng):
                    yield out
                    made += 1
                    if made == number:
                        return


def _vote(better: str, rng: random.Random) -> str:
    """Three decided votes in four are for the better reply."""
    other = "b" if better == "a" else "a"
    return rng.choices((better, other, "tie", "both_bad", "unsure"), (65, 22, 8, 3, 2))[0]


def _mishaps(row: dict[str, Any], rng: random.Random) -> Iterator[dict[str, Any]]:
    luck = rng.random()
    yield rng.choice(BAD)(row) if luck < 0.01 else row
    if 0.01 < luck < 0.02:
        yield row
    elif luck < 0.03 and row["choice"] in "ab":
        turned = {"a": "b", "b": "a"}[row["choice"]]
        yield {**row, "reply_a": row["reply_b"], "reply_b": row["reply_a"], "choice": turned}
    elif luck < 0.032 and row["choice"] in "ab":
        yield {**row, "choice": {"a": "b", "b": "a"}[row["choice"]]}


def write(path: Path, number: int, seed: int, first: int = 0) -> Path:
    """JSON Lines; every third line escapes what is not ASCII, and one in 300 is no JSON at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for line, row in enumerate(rows(number, seed, first)):
            text = json.dumps(row, ensure_ascii=line % 3 == 0)
            file.write((text[: len(text) // 2] if line % 300 == 299 else text) + "\n")
    return path
