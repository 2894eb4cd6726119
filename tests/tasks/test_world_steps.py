"""The step-labelled sums: every label is checked by doing the sum."""

import re

import pytest

from tasks.world_steps import workings

LINE = re.compile(r"(\d+) \+ (\d) = (\d+)\.")


def test_labels_are_true():
    for row in workings(0, 500):
        terms = [int(term) for term in re.findall(r"\d", row.prompt)]
        assert len(row.steps) == len(row.labels) == len(terms) - 1 == 3
        said = terms[0]
        for step, label, term in zip(row.steps, row.labels, terms[1:], strict=True):
            left, right, result = (int(number) for number in LINE.fullmatch(step).groups())
            assert (left, right) == (said, term)  # a step goes on from what was said, right or wrong
            assert label == (left + right == result)
            said = result
        assert row.correct == (said == sum(terms))
        assert row.reply.split("\n") == list(row.steps)


def test_there_are_lucky_guesses_and_honest_errors():
    rows = workings(1, 2000)
    right = [row for row in rows if row.correct]
    lucky = [row for row in right if not all(row.labels)]
    assert 0.5 < len(right) / len(rows) < 0.8
    assert 0.05 < len(lucky) / len(right) < 0.3
    assert all(row.correct for row in workings(1, 100, error_rate=0.0))
    # Without repairs an answer is right by luck only where a second error happens to cancel the first.
    assert sum(row.correct and not all(row.labels) for row in workings(1, 2000, repair_rate=0.0)) < len(lucky) / 2


def test_the_seed_decides_and_more_rows_change_none():
    assert workings(3, 20) == workings(3, 40)[:20]
    assert workings(3, 20) != workings(4, 20)
    with pytest.raises(ValueError, match="num_terms = 1: a sum has at least 2 terms"):
        workings(0, 1, num_terms=1)
