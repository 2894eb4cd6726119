"""Numbers as people and models write them, by hand."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.rlhf.verification import Resources
from tasks.rlhf.verifiers.numeric import Spec, numbers, verifier


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("2 + 3 = 5.", ["2", "3", "5"]),
        ("5 - 3 = 2", ["5", "3", "2"]),
        ("5-3=2", ["5", "3", "2"]),
        ("it is -3", ["-3"]),
        ("(-3)", ["-3"]),
        ("f(x)-3", ["3"]),
        ("−3,5", ["-3", "5"]),  # no decimal commas
        ("1,234,567.5 $", ["1234567.5"]),
        ("1,2,3", ["1", "2", "3"]),
        ("1,234,56", ["1234", "56"]),
        ("1234,567", ["1234", "567"]),
        ("3/4", ["3/4"]),
        ("-3/4", ["-3/4"]),
        ("1 1/2", ["3/2"]),
        ("1½ or ¾", ["3/2", "3/4"]),
        ("-1 1/2", ["-3/2"]),
        ("0.5/2", ["1/4"]),
        ("1/2/2024", ["1", "2", "2024"]),
        ("50%", ["1/2"]),
        ("12.5 % of it", ["1/8"]),
        ("1e3, 2E-2, 1.5e+1", ["1000", "1/50", "15"]),
        ("2e", ["2"]),
        (".5 and 0.50.", ["1/2", "1/2"]),
        ("x2, H2O, a_1, 7th, 5kg", ["7", "5"]),
        ("答案是5", ["5"]),
        ("5²", ["5"]),
        ("no number", []),
        ("1/0", [None]),
        ("1e999", [None]),
        ("1e99999", [None]),
        ("9" * 401, [None]),
    ],
)
def test_numbers_by_hand(text, found):
    assert numbers(text) == [value if value is None else Fraction(value) for value in found]


@pytest.mark.parametrize(
    ("keys", "reply", "score"),
    [
        ({"answer": "5"}, "So 5.0", 1),
        ({"answer": "5"}, "5, or rather 6", 0),  # the last one counts
        ({"answer": "5"}, "five", 0),
        ({"answer": 0.1}, "1/10", 1),
        ({"answer": 0.1}, "10%", 1),
        ({"answer": "1/3"}, "0.333", 0),
        ({"answer": "1/3", "tolerance": 0.001}, "0.333", 1),
        ({"answer": "1000", "relative": 0.01}, "1,010", 1),
        ({"answer": "1000", "relative": 0.01}, "1,010.01", 0),
        ({"answer": "-1000", "relative": 0.01}, "-990", 1),
        ({"answer": 3}, "1e999", 0),
        ({"answer": 1e-7}, "0.0000001", 1),
    ],
)
def test_answers_by_hand(keys, reply, score):
    assert verifier(Spec(**keys), Resources())(reply) == score


@settings(deadline=None, max_examples=50)
@given(st.fractions(max_denominator=999))
def test_what_is_written_is_read(value):
    assert numbers(f"The answer is {value}.") == [value]
    assert numbers(f"{float(value):,}") == [Fraction(str(float(value)))]
