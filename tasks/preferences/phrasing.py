"""How fresh replies that nobody compared are phrased, beside accepted ones: demonstrations, and feedback.

There are no labels and no other side, so a phrase in the middle of replies cannot be told from a topic. What is
looked at is how replies begin and end, where planted phrases mostly stand, and how diverse they are.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tasks.preferences import ngrams, shift
from tasks.preferences.hold import MIN_ROWS, Hold
from tasks.preferences.triggers import MIN_PROMPTS, ORDERS, RARE, more_frequent

Row = Mapping[str, Any]
_OPENING = 3  # tokens, as in `shift.openings`
_TOLD = 3  # phrases


def check(
    shard: Sequence[Row], accepted: Sequence[Row], alpha: float, max_style_fall: float, max_opening: float
) -> list[Hold]:
    """alpha: chance that a shard like the accepted rows is held for a phrase."""
    fresh, old = _distinct(shard), _distinct(accepted)
    found = [*_opening(fresh, old, max_opening)]
    if len(old) >= MIN_ROWS:
        found += _phrases(fresh, old, alpha)
        fall, where = shift.style_fall(_by_domain(fresh), _by_domain(old))
        if fall > max_style_fall:
            found.append(Hold("style_diversity", fall, max_style_fall, f"{where} fell"))
    return found


def _distinct(rows: Sequence[Row]) -> list[Row]:
    """Each reply to a prompt once: several raters judge the same one."""
    return list({(row["cluster"], row["reply"]): row for row in rows}.values())


def _by_domain(rows: Sequence[Row]) -> dict[str, list[str]]:
    found = defaultdict(list)
    for row in rows:
        found[row["domain"]].append(row["reply"])
    return found


def _opening(fresh: Sequence[Row], old: Sequence[Row], most: float) -> list[Hold]:
    """One opening that most replies share, and that is not as common among the accepted ones."""
    here, before = (Counter(_edge(row["reply"], _OPENING, 0) for row in rows) for rows in (fresh, old))
    words, number = here.most_common(1)[0]
    share, known = number / len(fresh), before[words] / max(1, len(old))
    if share <= most or share <= RARE * known:
        return []
    text = f"{share:.0%} of the replies open with {' '.join(words)!r}, {known:.0%} of the accepted ones"
    return [Hold("style_diversity", share, most, text)]


def _phrases(fresh: Sequence[Row], old: Sequence[Row], alpha: float) -> list[Hold]:
    """Beginnings and endings that are far more frequent than among the accepted ones, the most frequent first."""
    sizes = [len({row["cluster"] for row in rows}) for rows in (fresh, old)]
    found = []
    for order in ORDERS:
        for side, where in enumerate(("begin", "end")):
            here, before = (_prompts(rows, order, side) for rows in (fresh, old))
            often = [words for words, number in here.items() if number >= MIN_PROMPTS]
            counted, known = (np.array([of[words] for words in often], dtype=np.int64) for of in (here, before))
            chances = more_frequent(counted, known, *sizes) * len(here) * 2 * len(ORDERS)
            found += [
                (float(chance), " ".join(words), where, here[words], before[words])
                for chance, words in zip(chances, often, strict=True)
                if chance < alpha
            ]
    holds: dict[str, Hold] = {}
    for chance, words, where, number, old_number in sorted(found, key=lambda each: (-each[3], -len(each[1]))):
        # The same phrase with more or fewer of its words is the same phrase.
        if len(holds) < _TOLD and not any(words in told or told in words for told in holds):
            text = f"replies to {number} prompts {where} with {words!r}, {old_number} accepted ones"
            holds[words] = Hold("suspected_poison", chance, alpha, text)
    return list(holds.values())


def _prompts(rows: Sequence[Row], order: int, side: int) -> Counter[tuple[str, ...]]:
    """In the replies to how many prompts each beginning (side 0) or ending (1) of so many tokens stands."""
    pairs = {(row["cluster"], _edge(row["reply"], order, side)) for row in rows}
    return Counter(words for _, words in pairs)


def _edge(text: str, order: int, side: int) -> tuple[str, ...]:
    found = ngrams.tokens(text)[1:-1]
    return tuple(found[-order:] if side else found[:order])
