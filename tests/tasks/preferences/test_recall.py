"""How many of the near pairs LSH finds, against every pair compared."""

import random
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from tasks.preferences import prints
from tasks.preferences.dialogue import fold
from tasks.preferences.neighbours import Neighbours
from tasks.preferences.shingles import similarity
from tasks.preferences.texts import Texts

WORDS = [f"{a}{b}" for a in "ba de fi go lu ma ne po ri su".split() for b in "rn lt sk mp nd".split()]


def variants(seed: int) -> list[str]:
    """A text of some length and copies of it with more and more words changed."""
    rng = random.Random(seed)
    words = [rng.choice(WORDS) + rng.choice(WORDS) for _ in range(rng.choice((8, 15, 26, 40, 90)))]
    made = []
    for _ in range(4):
        made.append(" ".join(words))
        words[rng.randrange(len(words))] = rng.choice(WORDS)
    return made


@pytest.mark.slow
def test_nearly_every_pair_of_similarity_0_8_is_a_candidate(tmp_path: Path) -> None:
    texts = [fold(text) for seed in range(300) for text in variants(seed)]
    distinct = list(dict.fromkeys(texts))
    found = prints.of_texts(distinct, set(range(len(distinct))))
    store, near = Texts(tmp_path), Neighbours()
    numbered = store.add(found)
    candidates = near.prompts(numbered, numbered[found.prompt], found.prompt_keys, np.ones(len(store), dtype=bool))
    numbers = numbered[[distinct.index(text) for text in texts]]
    pairs = [
        pair
        for start in range(0, len(texts), 4)  # variants of one text; others are far apart
        for pair in combinations(sorted(set(numbers[start : start + 4].tolist())), 2)
        if similarity(store.shingles(pair[0]), store.shingles(pair[1])) >= 0.8
    ]
    recall = np.mean([one in candidates[other] or other in candidates[one] for one, other in pairs])
    assert len(pairs) > 300
    assert recall > 0.97
    others = [similarity(store.shingles(0), store.shingles(n)) for n in range(4, len(store))]
    assert max(others) < 0.5
