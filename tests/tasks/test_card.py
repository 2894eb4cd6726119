"""card: its figures against the data, drift of shards, hostile text, the page on its own."""

import csv
import dataclasses
import json
import re
from collections import Counter
from contextlib import closing
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from tasks import card
from tasks.adapters.telemetry import FileTracker
from tasks.preferences import drift
from tasks.preferences.bounds import HoldOptions
from tasks.records import DATASETS, Demonstration, Preference, Safety, to_table, write_table
from tests.tasks.preferences.shard_votes import comparisons

SHARD = "ab" * 32
HOSTILE = "<script>alert(1)</script>\u202egnp"
VOTES = [Preference(**row) for row in comparisons(400, seed=1)]
FRESH = [dataclasses.replace(vote, id=f"f{n}", domain="new", choice="a") for n, vote in enumerate(VOTES[:100])]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    ask: Any = [{"role": "user", "content": "Hi"}]
    shared: dict[str, Any] = {"prompt": ask, "source": HOSTILE, "cluster": "c"}
    rows: dict[str, list[Any]] = {
        "demonstrations": [Demonstration(id="1", reply="Hello.", domain=HOSTILE, licence="MIT", **shared)],
        "safety": [Safety(id="1", expected="decline", category="c", **shared)],
    }
    for name, record in DATASETS.items():
        write_table(to_table(rows.get(name, []), record), tmp_path / "raw" / name / "first.parquet")
    write_table(to_table(VOTES, Preference), tmp_path / "raw/preferences/first.parquet")
    write_table(to_table(FRESH, Preference), tmp_path / f"raw/preferences/shard-{SHARD[:12]}.parquet")
    released = {"by": "ann", "reason": HOSTILE, "at": "t", "holds": ["shift_hold: x"]}
    entry = {"dataset": "preferences", "rows": 100, "sha256": SHARD, "released": released}
    source = {"format": "pairs", "input": 510, "accepted": 500, "quarantined": 10, "rows": {"preferences": 500}}
    ingest = {
        "input": 510,
        "accepted": 500,
        "quarantined": {"total": 10, "type": 3, "exact_duplicate": 4, "duplicate_swapped": 1, "secret": 2},
        "consistency": {"disagreements": 6, "cyclic_prompts": 0},
        "requeued": 77,
        "warnings": {"pii_redacted": 3},
        "sources": {HOSTILE: source},
    }
    checked = {"rows": 500, "critical": {"passed": 7, "failed": 0}, "warnings": {}}
    cell = {"task": "safety", "case": "look-alike", "least": 25, "rows": 0, "covered": False}
    validate = {"preferences": checked, "taxonomy": [cell], "holds": {"quarantine_rate": 0.02}}
    files = {
        "shards/index.json": {"shards": [entry]},
        "releases.json": {"releases": []},
        "reports/ingest.json": {"metrics": ingest},
        "reports/validate.json": {
            "metrics": validate,
            "params": {"holds": HoldOptions().model_dump(mode="json")},
            "inputs": {},
        },
        "reports/prepare.json": {"metrics": {}},
    }
    for name, document in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(document))
    return tmp_path


def run(data: Path) -> dict[str, Any]:
    with closing(FileTracker("card", data)) as tracker:
        return card.run(card.Params(num_sampled=1000), data, tracker)


def test_what_was_looked_for_is_told_though_nothing_was_found(data: Path) -> None:
    run(data)
    page = (data / "card.html").read_text()
    table = page[page.index("What was looked for") :]
    found = re.findall(r'<th scope="row">([^<]*)</th><td class="r">([0-9]+)</td>', table[: table.index("</table>")])
    assert [int(count) for _, count in found] == [5, 0, 0, 6, 0, 0, 0, 2, 3]
    assert "decided both ways" in found[3][0]
    assert "replaced" in found[-1][0]


def test_its_figures_are_those_of_the_data(data: Path) -> None:
    found = run(data)
    pairs = found["datasets"]["preferences"]
    every = VOTES + FRESH
    assert pairs["rows"] == 500
    assert pairs["prompts"] == 400
    assert pairs["choice"] == dict(Counter(vote.choice for vote in every).most_common())
    assert pairs["licence"] == {"not said": 500}
    lengths = [len(vote.reply_a) for vote in every]
    assert pairs["characters"]["reply_a"]["p50"] == np.percentile(lengths, 50, method="lower")
    assert pairs["characters"]["reply_a"]["max"] == max(lengths)
    both = [*lengths, *(len(vote.reply_b) for vote in every)]
    edges = [0, 20, 50, 100, 200, 400, 800, 1600, 3200, 10**9]
    assert pairs["lengths"] == {
        str(low): n for low, high in pairwise(edges) if (n := sum(low <= length < high for length in both))
    }
    assert found["datasets"]["demonstrations"]["licence"] == {"MIT": 1}
    assert found["taxonomy"][0]["covered"] is False
    words = {each["ngram"]: each for each in found["ngrams"]}
    assert words["polite"]["preferred"] > 1.5 * words["polite"]["refused"]


def test_a_shard_is_held_against_what_was_there_before_it(data: Path) -> None:
    (shard,) = run(data)["drift"]
    assert (shard["shard"], shard["rows"]) == (SHARD[:12], 100)
    assert shard["domain"] == 1.0  # nothing in common
    choices = [Counter(vote.choice for vote in votes) for votes in (FRESH, VOTES)]
    shares = [[counts[c] / counts.total() for c in ("a", "b", "tie")] for counts in choices]
    assert shard["choice"] == pytest.approx(jensenshannon(*shares, base=2) ** 2, abs=1e-4)


def test_the_page_stands_alone_and_shows_hostile_text_as_text(data: Path) -> None:
    run(data)
    text = (data / "card.html").read_text(encoding="utf-8")
    tags: Counter[str] = Counter()

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags[tag] += 1
            assert not {"src", "href", "onload", "onclick"} & {name for name, _ in attrs}

    Parser().feed(text)
    assert tags["script"] == tags["link"] == tags["img"] == 0
    assert "\u202e" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "⟨U+202E⟩" in text
    assert "77 pairs are to be voted on again" in text
    for said in ("✕ uncovered", "Released by", "pii_redacted", "Mended or noticed", "too few rows"):
        assert said in text
    assert tags["svg"] >= 1
    assert 'lang="en"' in text


def test_the_same_data_gives_the_same_bytes_and_tables_to_plot(data: Path) -> None:
    first = run(data)
    files = {name: (data / name).read_bytes() for name in ("card.html", "card/lengths.csv", "card/counts.csv")}
    assert run(data) == first
    assert {name: (data / name).read_bytes() for name in files} == files
    with (data / "card/lengths.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert 0.9 < sum(float(row["preferred"]) for row in rows) <= 1.001
    with (data / "card/counts.csv").open(newline="") as file:
        assert {row["what"]: row["rows"] for row in csv.DictReader(file)}["quarantined: type"] == "3"


def test_divergence_is_that_of_scipy() -> None:
    one, other = Counter(a=5, b=3, c=2), Counter(a=1, c=4, d=9)
    shares = [[counts[k] / counts.total() for k in "abcd"] for counts in (one, other)]
    assert drift.divergence(one, other) == pytest.approx(jensenshannon(*shares, base=2) ** 2, abs=1e-12)
    assert drift.divergence(one, one) == 0.0
    assert drift.divergence(one, Counter()) == 0.0
