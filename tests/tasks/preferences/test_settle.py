"""What a row may be beside those before it: near duplicates, clusters and their sides, leaks."""

import random
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.preferences import dialogue
from tasks.preferences.clusters import HELD_OUT
from tasks.preferences.dialogue import fold
from tasks.preferences.folds import fold_of
from tasks.preferences.multimap import Multimap
from tasks.preferences.prints import of_rows
from tasks.preferences.settle import Settler, Verdict
from tasks.preferences.shingles import containment, shingle, similarity, words
from tasks.records import Demonstration, Message, Preference, Record

SHARES = {"test": 0.3, "dev": 0.05, "judge": 0.15}
WORDS = "amber basin cedar delta ember fjord grove haven inlet juniper kelp lagoon marsh north ocean pebble".split()


def user(*turns: str) -> list[Message]:
    return [Message(role=("user", "assistant")[n % 2], content=turn) for n, turn in enumerate(turns)]


def vote(prompt: str | list[Message], a: str = "Yes.", b: str = "No.", choice: str = "a", **change: Any) -> Preference:
    turns = user(prompt) if isinstance(prompt, str) else prompt
    shared: dict[str, Any] = {"confidence": 1.0, "rater": "ann", "source": "s", "domain": "x"}
    cluster = dialogue.cluster(turns)
    return Preference(
        **{
            "id": "v",
            "prompt": turns,
            "reply_a": a,
            "reply_b": b,
            "choice": choice,
            "cluster": cluster,
            **shared,
            **change,
        }
    )


def text(seed: int, count: int = 60) -> str:
    """Words that no other seed has in common but by chance."""
    rng = random.Random(seed)
    return " ".join(f"{rng.choice(WORDS)}{rng.choice('abcdefgh')}{rng.choice('klmnop')}" for _ in range(count))


def on(side: str, number: int = 0, count: int = 60) -> str:
    """The `number`th of the texts whose default cluster stands on a side."""
    seeds = (seed for seed in range(10_000) if fold_of(dialogue.cluster(user(text(seed, count))), SHARES) == side)
    return text(next(seed for n, seed in enumerate(seeds) if n == number), count)


def edit(value: str, *places: int) -> str:
    found = value.split()
    for place in places:
        found[place] = "changed"
    return " ".join(found)


@pytest.fixture
def settler(tmp_path: Path) -> Settler:
    return Settler(tmp_path, SHARES, jaccard=0.8)


def verdicts(settler: Settler, *rows: Record, source: str = "s", batch: int = 3) -> list[Verdict]:
    return [
        verdict
        for start in range(0, len(rows), batch)
        for verdict in settler.settle([[row] for row in rows[start : start + batch]], source)
    ]


def reasons(settler: Settler, *rows: Record, **options: Any) -> list[str | None]:
    return [verdict.reason for verdict in verdicts(settler, *rows, **options)]


LONG, REPLY, OTHER = text(1), text(2), text(3)


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (vote(edit(LONG, 5), edit(REPLY, 50), OTHER), "near_duplicate"),
        (vote(LONG, OTHER, edit(REPLY, 3), "b"), "near_duplicate"),  # the other way round
        (vote(LONG, REPLY, OTHER, rater="bob"), None),  # agreement
        (vote(LONG, edit(REPLY, 3), OTHER, "b"), None),  # says the opposite
        (vote(LONG, edit(REPLY, 3), OTHER, "tie"), None),
        (vote(LONG, edit(REPLY, 3, 12, 21, 30, 39, 48), OTHER), None),  # further apart than 0.8
        (vote(edit(LONG, 3, 12, 21, 30, 39, 48), REPLY, OTHER), None),
        (vote(LONG, REPLY, edit(REPLY, 3)), None),
    ],
)
def test_a_vote_that_says_nearly_the_same_again_is_refused(settler: Settler, second: Preference, reason: str) -> None:
    first, again = verdicts(settler, vote(LONG, REPLY, OTHER), second)
    assert (first.reason, again.reason) == (None, reason)
    if reason:
        assert again.near == first.records[0].cluster


@pytest.mark.parametrize(
    ("one", "other", "reason"),
    [
        ("How do I bake a loaf of bread at home?", "how do i bake a loaf of bread at home", "near_duplicate"),
        ("Question 1", "Question 10", None),
        ("What is 12 + 35 in words, please?", "What is 12 + 36 in words, please?", None),  # another number
        ("Hi", "Ho", None),
        ("如何在家里烤一条面包，需要哪些材料呢", "如何在家里烤一条面包，需要哪些材料呢？", "near_duplicate"),
    ],
)
def test_short_prompts_are_near_by_characters_and_numbers_count(
    settler: Settler, one: str, other: str, reason: str
) -> None:
    assert reasons(settler, vote(one), vote(other)) == [None, reason]


def test_a_row_without_a_rater_repeats_another_and_demonstrations_do(settler: Settler) -> None:
    anonymous = {"rater": "source:s"}
    rows = [vote(LONG, REPLY, OTHER, **anonymous), vote(LONG, edit(REPLY, 3), OTHER, **anonymous)]
    assert reasons(settler, *rows) == [None, "near_duplicate"]
    told = [
        Demonstration(id=str(n), prompt=user(LONG), reply=reply, source="s", domain="x", cluster=rows[0].cluster)
        for n, reply in enumerate((REPLY, edit(REPLY, 3), OTHER))
    ]
    assert reasons(settler, *told) == [None, "near_duplicate", None]


def test_near_prompts_share_the_cluster_of_the_earliest(settler: Settler) -> None:
    one = on("train")
    rows = [vote(one), vote(edit(one, 7), "A.", "B."), vote(edit(one, 7, 25), "C.", "D."), vote(text(9))]
    clusters = [verdict.records[0].cluster for verdict in verdicts(settler, *rows)]
    assert clusters == [rows[0].cluster] * 3 + [rows[3].cluster]
    assert rows[1].cluster != rows[0].cluster


def test_dialogues_that_begin_alike_share_a_cluster_and_near_ones_do(settler: Settler) -> None:
    first, reply = on("train"), text(5)
    rows = [
        vote(user("Hello there", reply, first)),
        vote(user("Hello there", "Hm.", "And now?")),  # the same beginning
        vote(user("Hello, you", reply, first), "A.", "B."),  # nearly the same whole
    ]
    assert len({verdict.records[0].cluster for verdict in verdicts(settler, *rows)}) == 1


@pytest.mark.parametrize("sides", [("train", "test"), ("test", "judge"), ("train", "train")])
def test_a_row_that_would_bridge_two_sides_is_refused(settler: Settler, sides: tuple[str, str]) -> None:
    body = text(4), text(5)
    one, other = (on(side, number, 4) for number, side in enumerate(sides))
    known = [vote(user(one, *body)), vote(other)]
    # Begins as the one does, and goes on as the other.
    bridge = vote(user(other, *body), "A.", "B.")
    expected = None if sides[0] == sides[1] else "cluster_bridge"
    assert reasons(settler, *known, bridge, bridge) == [None, None, expected, expected or "near_duplicate"]
    # It left no trace: what it began with goes where it belongs.
    (verdict,) = verdicts(settler, vote(user(other, "Hm.", "So?")))
    assert verdict.records[0].cluster in {known[0].cluster, known[1].cluster}
    assert fold_of(verdict.records[0].cluster, SHARES) == sides[1]


def test_declared_clusters_stay_though_their_prompts_are_near(settler: Settler) -> None:
    rows = [vote(edit(LONG, n), cluster=f"item {n}") for n in range(8)]
    assert len({fold_of(row.cluster, SHARES) for row in rows}) > 1
    assert [verdict.records[0].cluster for verdict in verdicts(settler, *rows)] == [row.cluster for row in rows]
    # Of another source the same would leak.
    assert reasons(settler, vote(edit(LONG, 40)), source="other") == ["cluster_bridge"]


def test_rows_of_a_ranking_share_a_cluster(settler: Settler) -> None:
    rows = [vote(text(n), group="g") for n in range(4)]
    assert {verdict.records[0].cluster for verdict in verdicts(settler, *rows)} == {rows[0].cluster}


@pytest.mark.parametrize("first", ["train", "test"])
def test_what_is_measured_by_is_not_learned_from(settler: Settler, first: str) -> None:
    second = "test" if first == "train" else "train"
    asked = on(first)
    assert reasons(settler, vote(asked)) == [None]
    # The prompt again, in a reply; and a reply that has a few of its words.
    assert reasons(settler, vote(on(second), "No.", edit(asked, 4))) == ["contamination"]
    assert reasons(settler, vote(on(second, 1), "No.", " ".join(asked.split()[:15]) + text(51, 60))) == [None]
    assert reasons(settler, vote(on(first, 1), edit(asked, 4), "No.")) == [None]


def test_replies_alike_to_prompts_apart_are_no_leak(settler: Settler) -> None:
    """A model declines a hundred prompts in the same words."""
    rows = [vote(on(side, number), text(50), "No.") for side in ("train", "test") for number in range(3)]
    assert reasons(settler, *rows) == [None] * len(rows)


def test_a_long_text_that_holds_a_measured_one_is_refused_and_the_refused_leaves_no_trace(settler: Settler) -> None:
    measured = on("test")
    holds = vote(on("train"), f"{text(51)} {measured} {text(52)}", "No.", rater="bob")
    assert reasons(settler, vote(measured), holds) == [None, "contamination"]
    assert reasons(settler, vote(on("test", 1), text(52), "No.")) == [None]


def test_held_out_rows_are_near_to_nothing_that_is_taken(settler: Settler) -> None:
    settler.hold_out([[vote(LONG, REPLY, OTHER)]])
    found = verdicts(settler, vote(edit(LONG, 3)), vote(on("train"), edit(REPLY, 5), "No."), vote(text(8)))
    assert [verdict.reason for verdict in found] == ["contamination", "contamination", None]
    assert found[0].near == HELD_OUT


POOL = [edit(text(seed, 30), place) for seed in range(4) for place in range(0, 30, 4)] + ["Hi", "Hello", "hi"]
REPLIES = [edit(text(seed, 40), place) for seed in (90, 91) for place in (0, 20)] + ["Yes.", "No."]
ROWS = st.builds(
    lambda turns, a, b, rater, declared: vote(
        user(*turns), a, b, rater=rater, **({"cluster": declared} if declared else {})
    ),
    st.lists(st.sampled_from(POOL), min_size=1, max_size=3).filter(lambda turns: len(turns) % 2),
    st.sampled_from(REPLIES),
    st.sampled_from(REPLIES),
    st.sampled_from(["ann", "source:s"]),
    st.sampled_from([None, None, "one", "two", "three"]),
)


def told(found: Sequence[Verdict]) -> list[Any]:
    return [(verdict.reason, verdict.near, [record.cluster for record in verdict.records]) for verdict in found]


@settings(max_examples=20, deadline=None)
@given(rows=st.lists(ROWS, max_size=12), cuts=st.integers(1, 5), seed=st.integers(0, 9))
def test_verdicts_depend_on_what_came_before_alone(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Preference], cuts: int, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("settle")
    first, later = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    whole = told(verdicts(Settler(folder / "a", SHARES, 0.8), *rows, batch=100))
    assert told(verdicts(Settler(folder / "b", SHARES, 0.8), *rows, batch=cuts)) == whole
    random.Random(seed).shuffle(later)
    again = verdicts(Settler(folder / "c", SHARES, 0.8), *first, *later, batch=cuts)
    assert told(again[: len(first)]) == whole[: len(first)]


@settings(max_examples=20, deadline=None)
@given(rows=st.lists(ROWS, max_size=16))
def test_near_prompts_never_stand_on_two_sides(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Preference]
) -> None:
    rows = [vote(row.prompt, row.reply_a, row.reply_b, rater=row.rater) for row in rows]
    found = verdicts(Settler(tmp_path_factory.mktemp("sides"), SHARES, 0.8), *rows)
    kept = [verdict.records[0] for verdict in found if verdict.records]
    sides = [fold_of(record.cluster, SHARES) for record in kept]
    wholes = [fold(" ".join(turn["content"] for turn in record.prompt)) for record in kept]
    sets = shingle(wholes)
    for i in range(len(kept)):
        for j in range(i):
            if similarity(sets.of(i), sets.of(j)) >= 0.8:
                assert sides[i] == sides[j], (wholes[i], wholes[j])


def test_similarity_is_jaccard_of_the_sets() -> None:
    long, short = text(1, 30), "how do i bake bread"
    sets = shingle([long, edit(long, 9), short, short + "s", "x", "", short + "!?"])
    assert similarity(sets.of(0), sets.of(1)) == pytest.approx(25 / 31)  # 28 trigrams, 3 of them changed
    ends = f"\x02{short}\x03", f"\x02{short}s\x03"
    one, other = ({value[i : i + 5] for i in range(len(value) - 4)} for value in ends)
    assert similarity(sets.of(2), sets.of(3)) == pytest.approx(len(one & other) / len(one | other))
    assert similarity(sets.of(4), sets.of(5)) == 0
    assert similarity(sets.of(2), sets.of(6)) == 1
    assert containment(sets.of(0), sets.of(1)) == pytest.approx(25 / 28)
    assert containment(sets.of(2), sets.of(2)) == 0  # a few words are no leak


@given(st.text(alphabet="aB ,'.-\n\t\x1c\x85é\u3000—深", max_size=12))
def test_the_fast_way_folds_and_parts_as_the_plain_one(value: str) -> None:
    assert fold(value) == " ".join(unicodedata.normalize("NFKC", value).casefold().split())
    spaced = fold(value).replace("深", " 深 ")
    assert words(fold(value)) == "".join(sign for sign in spaced if sign not in ",'.-—").split()


@settings(max_examples=20, deadline=None)
@given(rows=st.lists(ROWS, max_size=12), kept=st.sets(st.integers(0, 11)))
def test_prints_made_of_more_rows_than_are_settled_say_the_same(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Preference], kept: set[int]
) -> None:
    of_records, prints = of_rows([[row] for row in rows])
    batch, made = ([each[n] for n in range(len(rows)) if n in kept] for each in ([[row] for row in rows], of_records))
    folder = tmp_path_factory.mktemp("prints")
    alone, given = Settler(folder / "a", SHARES, 0.8), Settler(folder / "b", SHARES, 0.8)
    for _ in range(2):
        assert given.settle(batch, "s", (made, prints)) == alone.settle(batch, "s")
    assert (folder / "a/00000.u32").read_bytes() == (folder / "b/00000.u32").read_bytes()
    for name in ("a", "b"):
        (alone if name == "a" else given).save(folder / f"saved-{name}")
    assert (folder / "saved-a/settled.npz").read_bytes() == (folder / "saved-b/settled.npz").read_bytes()
    texts = [row.reply_a for row in rows]
    where = np.array(sorted(kept & set(range(len(rows))), reverse=True), dtype=np.int64)
    some, whole = shingle(texts).only(where), shingle([texts[n] for n in where])
    assert all(np.array_equal(vars(some)[name], value) for name, value in vars(whole).items())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 5), max_size=300), st.integers(1, 50))
def test_a_multimap_keeps_the_first_ids_of_a_key(keys: list[int], batch: int) -> None:
    table, expected = Multimap(per_key=2, bits=3), dict[int, list[int]]()
    for start in range(0, len(keys), batch):
        part = np.array(keys[start : start + batch], dtype=np.uint32)
        table.insert(part, np.arange(start, start + len(part), dtype=np.uint32))
    for number, key in enumerate(keys):
        expected.setdefault(key, []).append(number)
    where, ids = table.find(np.array(list(expected), dtype=np.uint32))
    found: dict[int, list[int]] = {key: [] for key in expected}
    for position, number in zip(where.tolist(), ids.tolist(), strict=True):
        found[list(expected)[position]].append(number)
    assert found == {key: ids[:2] for key, ids in expected.items()}
