"""The tools by hand, and against arguments that mean harm."""

import ast
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.rlhf.tools import calculator, python, search
from tasks.rlhf.verification import Resources

NONE = Resources()


@pytest.mark.parametrize(
    ("argument", "result"),
    [
        ("2 + 3", "5"),
        (" -(2 - 3) * 4 ", "4"),
        ("1/3", "0.333333333333"),
        ("0.1 + 0.2", "0.3"),  # exact, unlike floats
        ("7 // 2", "3"),
        ("-7 % 3", "2"),
        ("2 ** 10", "1024"),
        ("2 ** -1", "0.5"),
        ("1 / 0", "error: division by zero"),
        ("0 ** -1", "error: division by zero"),
        ("2 ** 0.5", "error: exponent must be a small whole number"),
        ("2 ** 999999999", "error: exponent must be a small whole number"),
        ("9 ** 256 ** 2", "error: exponent must be a small whole number"),
        ("((9 ** 200) ** 200)", "error: too large"),
        ("1e999", "error: too large"),
        ("9" * 199, "9" * 199),
        ("9" * 201, "error: too long"),
        ("", "error: no arithmetic"),
        ("(" * 100, "error: no arithmetic"),
        ("-" * 199 + "1", "-1"),
        ("True + 1", "error: no arithmetic"),
        ("'a' * 9", "error: no arithmetic"),
        ("__import__('os')", "error: no arithmetic"),
        ("x := 1", "error: no arithmetic"),
        ("\x00", "error: "),
    ],
)
def test_calculator(argument, result):
    assert calculator.use(argument, NONE).startswith(result)


@settings(deadline=None, max_examples=100)
@given(st.text(alphabet=st.sampled_from(list("0123456789.+-*/() ")), max_size=24))
def test_the_calculator_is_python_without_its_floats(text):
    said = calculator.use(text, NONE)
    if said.startswith("error") or "**" in text or "//" in text:  # where rounding of floats decides
        return
    assert float(said) == pytest.approx(
        float(eval(compile(ast.parse(text.strip(), mode="eval"), "", "eval"))), rel=1e-6, abs=1e-6
    )


CORPUS = [
    {"id": "p1", "text": "the sun is a star"},
    {"id": "p2", "text": "a planet goes around a star"},
    {"id": "p3", "text": "bread is baked"},
]


def test_search_by_hand():
    """`sun`: in one of three passages, once among 5 words; the mean length is 14/3."""
    resources = Resources({search.TABLE: CORPUS})
    assert search.use("What is the Sun?", resources) == "[p1] the sun is a star"
    assert search.use("planet star", resources) == "[p2] a planet goes around a star"
    assert search.use("moon", resources) == search.use("", resources) == "nothing found"
    index = search.build(CORPUS)
    rarity = math.log(1 + 2.5 / 1.5)
    expected = rarity * 2.2 / (1 + 1.2 * (0.25 + 0.75 * 5 / (14 / 3)))
    assert search._score({"sun"}, index.counts[0], index) == pytest.approx(expected)


def test_search_needs_passages():
    with pytest.raises(ValueError, match="must have rows with an id and a text"):
        search.use("sun", Resources({search.TABLE: [{"id": 1, "text": "x"}]}))


def test_python_gives_what_is_printed():
    assert python.use("print(1)", Resources(run_code=lambda program: f"  ran {program}\n")) == "ran print(1)"
    assert python.use("1/0", Resources(run_code=lambda program: None)) == "error"
    with pytest.raises(ValueError, match="needs the sandbox"):
        python.use("1", NONE)
