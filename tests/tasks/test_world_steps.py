"""The step-labelled sums: every label is checked by doing the sum."""

import re

import pytest
from pydantic import ValidationError

from tasks import world
from tasks.world_steps import StepsParams, generate, graded, workings

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


def test_whoever_writes_a_reply_it_is_graded_alike():
    for row in workings(5, 300):
        assert graded(row.prompt, row.reply) == row


@pytest.mark.parametrize(
    ("reply", "labels", "correct"),
    [
        ("3 + 4 = 7.\n7 + 5 = 12.", [True, True], True),
        ("3 + 4 = 8.\n8 + 5 = 12.", [False, False], True),  # a lucky guess
        ("3 + 4 = 8.\n8 + 5 = 13.", [False, True], False),
        ("3 + 9 = 12.", [False], True),  # not the term that is next
        ("3 + 4 = 7.\n7 + 5 = 12.\n12 + 0 = 12.", [True, True, False], True),  # a step too many
        ("3 + 4 = 7.\n\n8 + 5 = 13.", [True, False], False),  # not the result as it was said
        ("It is 12.", [False], True),
        ("3 + 4 = 7.", [True], False),
        ("", [], False),
    ],
)
def test_grading_by_hand(reply, labels, correct):
    found = graded("What is 3 + 4 + 5? Show each step.", reply)
    assert (list(found.labels), found.correct) == (labels, correct)


def test_the_rows_of_a_run():
    params = StepsParams(num_demonstrations=50, num_prompts=60, num_solutions=70, num_terms=3, error_rate=0.4)
    made = generate(params, 0)
    assert {name: len(rows) for name, rows in made.items()} == {"demonstrations": 50, "prompts": 60, "solutions": 70}
    assert generate(params, 0) == made != generate(params, 1)
    for rows in made.values():
        assert len({row.id for row in rows}) == len(rows)
        assert {(row.source, row.domain) for row in rows} == {(world.SOURCE, "steps")}
    assert len({row.cluster for row in made["prompts"]}) == 60
    for row in made["solutions"]:
        found = graded(row.cluster, row.reply)
        assert (list(found.labels), found.correct) == (row.labels, row.correct)
    for row in made["demonstrations"]:
        verifier = next((p.verifier for p in made["prompts"] if p.cluster == row.cluster), None)
        if verifier:  # the rule for a sum is that of the world
            right = graded(row.cluster, row.reply).correct
            assert world.utility("steps", verifier, row.reply) == (3.5 if right else 1.0)
    small = generate(params.model_copy(update={"max_term": 2, "num_prompts": 8}), 0)
    assert {row.cluster for row in small["prompts"]} >= {row.cluster for row in small["solutions"]}
    with pytest.raises(ValidationError, match=r"num_prompts = 82: there are 81 sums"):
        StepsParams(num_demonstrations=1, num_prompts=82, num_solutions=1, num_terms=2)
