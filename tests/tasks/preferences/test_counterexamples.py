"""Counterexamples: what the worse side is and where it comes from; swaps: what is exchanged, and what is not."""

import random

import pytest

from tasks.preferences import counterexamples
from tasks.preferences.counterexamples import SwapList, corrupted, mismatched, read_swaps, swapped
from tests.tasks.conftest import ROOT


def row(number, label=1.0, **changes):
    values = {
        "id": f"p{number}",
        "cluster": f"c{number}",
        "domain": f"d{number % 2}",
        "source": "s",
        "prompt": [{"role": "user", "content": f"What is number {number}?"}],
        "reply_a": f"It is the number {number}, of course.",
        "reply_b": f"Not sure about {number}.",
        "label": label,
    }
    return values | changes


ROWS = [row(number, label=(1.0, 0.0, 0.5)[number % 3]) for number in range(60)]
BY_CLUSTER = {each["cluster"]: each for each in ROWS}


def preferred(each):
    return each["reply_a"] if each["label"] > 0.5 else each["reply_b"]


def test_a_mismatched_reply_is_the_preferred_one_of_another_prompt():
    made = mismatched(ROWS, 30)
    owners = {preferred(each): each for each in ROWS if each["label"] != 0.5}
    assert len(made) == 30
    for each in made:
        own, other = BY_CLUSTER[each.cluster], owners[each.other]
        assert each.reply == preferred(own)
        assert each.prompt == each.other_prompt == own["prompt"]
        assert other["cluster"] != each.cluster
        assert each.way == "any_domain" or other["domain"] == own["domain"]
    assert {each.way for each in made} == {"any_domain", "same_domain"}
    assert any(owners[each.other]["domain"] != BY_CLUSTER[each.cluster]["domain"] for each in made)


def test_a_reply_given_to_this_prompt_too_is_no_mismatch():
    right = "Four."
    rows = [row(number, reply_a=right, domain="d") for number in range(6)] + [row(9, reply_a="Nine.", domain="d")]
    assert {each.other for each in mismatched(rows, 7) if each.cluster != "c9"} == {"Nine."}
    assert mismatched([row(0)], 1) == []  # one prompt only


def test_which_comparisons_are_used_depends_on_neither_order_nor_number():
    backwards = list(reversed(ROWS))
    for make in (mismatched, corrupted):
        few = make(ROWS, 10)
        assert few == make(ROWS, 20)[:10]
        assert [each.reply for each in few] == [each.reply for each in make(backwards, 10)]
    assert corrupted(backwards, 10) == corrupted(ROWS, 10)


def test_corrupted_replies_are_ruined_in_every_way():
    made = corrupted(ROWS, 40)
    assert {each.way for each in made} == set(counterexamples.WAYS)
    for each in made:
        assert each.reply == preferred(BY_CLUSTER[each.cluster])
        assert each.other != each.reply
        if each.way == "shuffled":
            assert sorted(each.other.split()) == sorted(each.reply.split())
        if each.way == "cut":
            assert each.reply.startswith(each.other)
            assert len(each.other) <= 0.75 * len(each.reply)
        if each.way == "repeated":
            assert len(set(each.other.split())) == 1
        if each.way in ("symbols", "stuck"):
            assert not any(character.isalnum() for character in each.other)
    assert corrupted([row(0, reply_a="a", reply_b="b", label=0.5)], 5) == []  # a tie has no better side


def test_a_swap_exchanges_two_words_wherever_they_stand():
    names = SwapList("name", ("Ann", "Bo"), ("prompt", "reply"))
    asked = row(0, prompt=[{"role": "user", "content": "Ann met Bo, not Anna."}])
    prompt, reply = names.exchanged(asked, "Bo met Ann.", random.Random(0))
    assert prompt == [{"role": "user", "content": "Bo met Ann, not Anna."}]
    assert reply == "Ann met Bo."
    assert asked["prompt"][0]["content"] == "Ann met Bo, not Anna."
    assert names.exchanged(row(0), "Anna.", random.Random(0)) is None
    digits = SwapList("digits", ("2", "two"), ("prompt",))
    asked = row(0, prompt=[{"role": "user", "content": "List two things."}])
    assert digits.exchanged(asked, "two things", random.Random(0)) == (
        [{"role": "user", "content": "List 2 things."}],
        "two things",
    )
    assert digits.exchanged(row(0), "two things", random.Random(0)) is None  # not where it may be exchanged


def test_swaps_take_each_comparison_once():
    lists = [SwapList("number", ("1", "one"), ("prompt",)), SwapList("sure", ("sure", "certain"), ("reply",))]
    made = swapped(ROWS, lists, 100)
    assert 0 < len(made) <= len(ROWS)
    assert len({each.cluster for each in made}) == len(made)
    for each in made:
        assert (each.prompt != each.other_prompt) == (each.way == "number")
        assert (each.reply != each.other) == (each.way == "sure")
    assert swapped(ROWS, lists, 3) == made[:3]


def test_the_lists_that_come_along_can_be_read():
    kinds = {each.kind for each in read_swaps(ROOT / "data/swaps.jsonl")}
    assert {"name", "group", "digits"} <= kinds


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "{",
        '{"kind": "x", "words": ["a"], "where": ["reply"]}',
        '{"kind": "x", "words": ["a", "a"], "where": ["reply"]}',
        '{"kind": "x", "words": ["a", "b"], "where": ["answer"]}',
        '{"kind": "x", "words": ["a", "b"], "where": []}',
        '{"kind": "x", "words": ["a", "b"]}',
        '{"kind": "x", "words": ["a", 2], "where": ["reply"]}',
    ],
)
def test_a_bad_list_is_named_by_its_line(tmp_path, line):
    path = tmp_path / "swaps.jsonl"
    path.write_text('{"kind": "x", "words": ["a", "b"], "where": ["reply"]}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"swaps.jsonl:2: not a list of swaps .*it wants kind, two or more"):
        read_swaps(path)
