"""Groups of raters: shifts are found, small groups are hidden, also from those who subtract."""

import json

import pytest

from tasks.preferences import rater_groups
from tests.tasks.preferences.rater_votes import read, row

LONG, SHORT = {"reply_a": "It is so, I think."}, {"reply_b": "It is not so, I think."}


def told(tmp_path, sizes, min_group=5, choices=None):
    """Raters of groups of these sizes judge 40 comparisons each, all the same ones; a is the longer reply."""
    rows, attributes = [], {}
    for group, size in sizes.items():
        for number in range(size):
            rater = f"{group}-{number}"
            attributes[rater] = group
            say = (choices or {}).get(group, lambda n, _: "ab"[n % 2])
            rows += [row(n, rater, say(n, number), domain="xy"[n % 2], **LONG) for n in range(40)]
    return rater_groups.compare(read(tmp_path, rows), {"trade": attributes}, min_group)["trade"]


def test_a_shift_of_preference_is_seen_by_group_and_topic(tmp_path):
    """One group always prefers the longer reply in domain x, the other never; in y they agree."""

    def says(in_x):
        return lambda n, _: in_x if n % 2 == 0 else "ab"[n % 4 // 2]

    choices = {"nurse": says("a"), "clerk": says("b")}
    found = told(tmp_path, {"nurse": 6, "clerk": 5}, choices=choices)["groups"]
    assert found["nurse"]["raters"] == 6
    assert found["nurse"]["by_topic"]["x"]["prefers_longer"].value == 1.0
    assert found["nurse"]["by_topic"]["x"]["prefers_longer_difference"].value == 1.0
    assert found["nurse"]["by_topic"]["y"]["prefers_longer_difference"].value == 0.0
    assert found["nurse"]["by_topic"]["x"]["opposed_by_others"].value == 1.0
    assert found["clerk"]["by_topic"]["y"]["opposed_by_others"].value == 0.0
    assert found["clerk"]["opposed_by_others"].value == 0.5
    assert found["clerk"]["raw"].value == 1.0


def test_the_interval_of_a_shift_draws_raters_not_votes(tmp_path):
    """Half of the raters of one group always take the longer: with 12 raters that is little evidence."""
    choices = {"nurse": lambda _, rater: "a" if rater % 2 else "b", "clerk": lambda _, rater: "a" if rater % 3 else "b"}
    group = told(tmp_path, {"nurse": 12, "clerk": 12}, choices=choices)["groups"]["nurse"]
    shift = group["prefers_longer_difference"]
    assert shift.value == pytest.approx(0.5 - 2 / 3)
    assert shift.low < 0 < shift.high


def test_small_groups_are_hidden(tmp_path):
    found = told(tmp_path, {"nurse": 9, "clerk": 7, "smith": 3, "miner": 2})
    assert sorted(found["groups"]) == ["clerk", "nurse"]
    assert found["hidden_raters"] == 5
    assert "smith" not in json.dumps(found, default=str)


def test_a_lone_small_group_hides_the_next_so_that_nobody_can_subtract(tmp_path):
    found = told(tmp_path, {"nurse": 9, "clerk": 7, "smith": 3})
    assert list(found["groups"]) == ["nurse"]
    assert found["hidden_raters"] == 10
    assert found["groups"]["nurse"]["prefers_longer_difference"] is None  # nobody is left to differ from


def test_topics_need_as_many_raters_on_either_side(tmp_path):
    found = told(tmp_path, {"nurse": 6, "clerk": 5}, min_group=5)
    assert sorted(found["groups"]["nurse"]["by_topic"]) == ["x", "y"]
    few = [row(1, f"nurse-{n}") for n in range(6)] + [row(2, f"clerk-{n}", domain="z") for n in range(6)]
    who = {"trade": {f"{g}-{n}": g for g in ("nurse", "clerk") for n in range(6)}}
    assert rater_groups.compare(read(tmp_path / "few", few), who, 5)["trade"]["groups"]["nurse"]["by_topic"] == {}


@pytest.mark.parametrize(
    "text",
    [
        "rater,trade,age\nann,nurse,30-39\nbob,,\n",
        '{"rater": "ann", "trade": "nurse", "age": "30-39"}\n{"rater": "bob", "age": null}\n',
    ],
)
def test_csv_and_json_lines_say_the_same(tmp_path, text):
    path = tmp_path / "raters"
    path.write_text(text)
    assert rater_groups.read(path) == {"trade": {"ann": "nurse"}, "age": {"ann": "30-39"}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,trade\nann,nurse\n", r"raters:2: no `rater`"),
        ("rater,trade\nann,nurse\nann,clerk\n", r"raters:3: rater 'ann' stands twice"),
        ('{"rater": "ann", "age": 31}\n', r"raters:1: age = 31: attributes are text"),
        ('{"rater": "ann"}\n[]\n', r"raters:2: \[\]: every line is an object"),
        ('{"rater": \n', r"raters:1: not JSON"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path, text, message):
    path = tmp_path / "raters"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        rater_groups.read(path)
    with pytest.raises(FileNotFoundError, match="set the key to null"):
        rater_groups.read(tmp_path / "none.csv")
