"""Preferences that run in a circle, against a search of every path."""

from collections import Counter
from itertools import combinations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.preferences.cycles import consistency

Vote = tuple[int, int, int, int]  # prompt, better, worse, rater


def counted(*votes: Vote) -> dict[str, int]:
    return consistency(*np.array(votes, dtype=np.uint32).reshape(-1, 4).T)


def test_a_circle_of_three_by_one_rater_and_by_all_together() -> None:
    circle = [(1, 10, 11, 5), (1, 11, 12, 5), (1, 12, 10, 5)]
    assert counted(*circle) == {"disagreements": 0, "cyclic_prompts": 1, "cyclic_pairs": 3, "cyclic_raters": 1}
    shared = [(1, 10, 11, 5), (1, 11, 12, 6), (1, 12, 10, 7)]
    assert counted(*shared) == {"disagreements": 0, "cyclic_prompts": 1, "cyclic_pairs": 3, "cyclic_raters": 0}
    elsewhere = [(1, 10, 11, 5), (2, 11, 12, 5), (1, 12, 10, 5)]
    assert counted(*elsewhere)["cyclic_prompts"] == 0


def test_the_majority_decides_a_pair_and_disagreement_is_counted() -> None:
    votes = [(1, 10, 11, rater) for rater in (1, 2)] + [(1, 11, 10, 3), (1, 11, 12, 1), (1, 12, 10, 1)]
    assert counted(*votes) == {"disagreements": 1, "cyclic_prompts": 1, "cyclic_pairs": 3, "cyclic_raters": 1}
    assert counted(*votes, (1, 11, 10, 4))["cyclic_prompts"] == 0  # as many say the one as the other
    assert counted() == {"disagreements": 0, "cyclic_prompts": 0, "cyclic_pairs": 0, "cyclic_raters": 0}


def is_cyclic(edges: set[tuple[int, int]]) -> bool:
    reach = set(edges)
    for _ in range(8):
        reach |= {(a, d) for a, b in reach for c, d in edges if b == c}
    return any(a == b for a, b in reach)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 2), st.integers(0, 4), st.integers(0, 4), st.integers(1, 3)).filter(
            lambda vote: vote[1] != vote[2]
        ),
        max_size=25,
    )
)
def test_circles_are_those_that_a_search_finds(votes: list[Vote]) -> None:
    def cyclic(chosen: list[Vote]) -> bool:
        wins = Counter((better, worse) for _, better, worse, _ in chosen)
        return is_cyclic({(a, b) for a, b in wins if wins[a, b] > wins[b, a]})

    found = counted(*votes)
    assert found["cyclic_prompts"] == sum(cyclic([vote for vote in votes if vote[0] == n]) for n in (1, 2))
    each = [[vote for vote in votes if (vote[0], vote[3]) == (n, rater)] for n in (1, 2) for rater in (1, 2, 3)]
    assert found["cyclic_raters"] == sum(map(cyclic, each))
    said = {vote[:3] for vote in votes}
    both = sum({(n, a, b), (n, b, a)} <= said for n in (1, 2) for a, b in combinations(range(5), 2))
    assert found["disagreements"] == both
