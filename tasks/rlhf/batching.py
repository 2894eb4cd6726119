"""Which rows stand in one batch: those of similar length, and side by side those that share what is computed.

A prompt is read once for the replies that are packed behind it (packing.py), and a reply that is compared several
times, as those of a ranking are, is computed once: all comparisons of a ranking in one step (Ouyang 2022,
arXiv:2203.02155, section 3.5).
"""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby
from typing import Protocol, TypeVar

import numpy as np

from tasks.rlhf.batch import Example

# Replies packed behind one prompt, and standing side by side for that: more save less than their attention costs.
TOGETHER = 4
# Replies of a ranking, and its comparisons, that stand side by side.
RANKED, COMPARED = 16, 120
# A reply that is compared again counts an eighth, once these are more than the different ones: a step of a thousand
# votes on few replies would be a step like any other, and an epoch have few of them.
AGAIN = 8

Ids = tuple[int, ...]


class Row(Protocol):
    @property
    def examples(self) -> Sequence[Example]:
        """Those that the row is about, one or two, most often on one prompt."""


R = TypeVar("R", bound=Row)


class Groups:
    """The rows of a dataset, in groups that batches do not tear."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._groups = [np.array(group) for group in side_by_side([row.examples for row in rows])]
        found = [[rows[i].examples for i in group] for group in self._groups]
        self._tokens = np.array([_tokens(each) for each in found])
        self._widths = np.array([packed_width(distinct(chain.from_iterable(each))[0]) for each in found])

    def epoch(self, budget: int, generator: np.random.Generator) -> list[np.ndarray]:
        """All rows in random order, in batches of groups that take similar places when packed.

        A batch holds at most `budget` tokens, and at least one group. Padding is not counted, nor is an example that
        is compared again (but see AGAIN).
        """
        ones = np.ones_like(self._tokens)
        batches = _pools(ones, self._tokens, self._widths, budget, generator, padded=False)
        return [np.concatenate([self._groups[i] for i in batch]) for batch in batches]


def measured(examples: Sequence[Example], budget: int) -> list[np.ndarray]:
    """Places of all examples, in the same batches every time, for passes that bound what is computed at once.

    A batch takes at most `budget` places, padding counted, in rows of their own (packing.py takes fewer), and holds at
    least one group of examples on one prompt.
    """
    by_prompt: dict[int, list[int]] = {}
    for number, example in enumerate(examples):
        by_prompt.setdefault(hash(tuple(example.prompt_ids)), []).append(number)
    groups = [part for numbers in by_prompt.values() for part in _split(numbers)]
    found = [[examples[i] for i in group] for group in groups]
    sizes = np.array([len(group) for group in groups])
    longest = np.array([max(example.length for example in each) for each in found])
    widths = np.array([packed_width(each) for each in found])
    batches = _pools(sizes, longest, widths, budget, np.random.default_rng(0), padded=True)
    return [np.concatenate([groups[i] for i in batch]) for batch in batches]


def distinct(examples: Iterable[Example]) -> tuple[list[Example], list[int]]:
    """Each example once, and for every one of `examples` its place among those."""
    places: dict[Hashable, int] = {}
    once: list[Example] = []
    every: list[int] = []
    for example in examples:
        place = places.setdefault(_key(example), len(once))
        if place == len(once):
            once.append(example)
        every.append(place)
    return once, every


def runs(rows: Sequence[R], budget: int) -> list[list[R]]:
    """Neighbours whose different examples take at most `budget` places, padding counted; at least one row each."""
    found: list[list[R]] = []
    seen: set[Hashable] = set()
    longest = 0
    for row in rows:
        own = {_key(example) for example in row.examples}
        width = max(example.length for example in row.examples)
        if not found or (len(seen) + len(own - seen)) * max(longest, width) > budget:
            found.append([])
            seen, longest = set(), 0
        found[-1].append(row)
        seen |= own
        longest = max(longest, width)
    return found


def by_prompt(rows: Iterable[R]) -> list[list[R]]:
    """Neighbours on one prompt."""
    return [list(run) for _, run in groupby(rows, lambda row: row.examples[0].prompt_ids)]


def side_by_side(rows: Sequence[Sequence[Example]]) -> list[list[int]]:
    """Rows on one prompt, in groups of at most TOGETHER replies, or of more where they are compared with each other.

    Hashes say what is equal: two prompts taken for one would share a step and nothing else.
    """
    prompts = [hash(tuple(row[0].prompt_ids)) for row in rows]
    replies = [{hash((p, *example.reply_ids)) for example in row} for p, row in zip(prompts, rows, strict=True)]
    groups: list[_Group] = []
    latest: dict[int, _Group] = {}
    for ranking in _connected(replies):
        for part in _parts(ranking, replies):
            prompt = prompts[part.rows[0]]
            group = latest.get(prompt)
            if (
                group is None
                or len(group.replies | part.replies) > TOGETHER
                or len(group.rows) + len(part.rows) > COMPARED
            ):
                groups.append(part)
                latest[prompt] = part
            else:
                group.rows += part.rows
                group.replies |= part.replies
    return [sorted(group.rows) for group in groups]


@dataclass
class _Group:
    rows: list[int] = field(default_factory=list)
    replies: set[int] = field(default_factory=set)


def _connected(sets: Sequence[set[int]]) -> Iterable[list[int]]:
    """The numbers of sets that have members in common, with each other or through others; in order."""
    parent: dict[int, int] = {}

    def root(member: int) -> int:
        while (above := parent.setdefault(member, member)) != member:
            parent[member] = parent.get(above, above)
            member = parent[member]
        return member

    for members in sets:
        first, *others = members
        for other in others:
            parent[root(other)] = root(first)
    found: dict[int, list[int]] = {}
    for number, members in enumerate(sets):
        found.setdefault(root(next(iter(members))), []).append(number)
    return found.values()


def _parts(ranking: Sequence[int], replies: Sequence[set[int]]) -> Iterator[_Group]:
    """A ranking, whole where it has at most RANKED replies and COMPARED comparisons.

    Else its replies, in blocks of half of RANKED, and for every two of these blocks the comparisons between them: in
    whatever order they come, a part has at most RANKED replies.
    """
    numbers: dict[int, int] = {}
    for row in ranking:
        for reply in sorted(replies[row]):
            numbers.setdefault(reply, len(numbers))
    half = len(numbers) if len(numbers) <= RANKED else RANKED // 2
    last = max(1, (len(numbers) - 1) // half)
    parts: dict[tuple[int, int], list[int]] = {}
    for row in ranking:
        blocks = sorted(numbers[reply] // half for reply in replies[row])
        first, second = blocks[0], blocks[-1]
        if first == second:  # within one block: with those to the next
            first, second = (first, first + 1) if first < last else (first - 1, first)
        parts.setdefault((first, second), []).append(row)
    for rows in parts.values():
        for start in range(0, len(rows), COMPARED):
            some = rows[start : start + COMPARED]
            yield _Group(some, set().union(*(replies[row] for row in some)))


def packed(examples: Sequence[Example]) -> list[tuple[Ids, list[int]]]:
    """The rows that examples are packed into: a prompt, and the numbers of those whose replies stand behind it."""
    numbers: dict[Ids, list[int]] = {}
    for number, example in enumerate(examples):
        numbers.setdefault(tuple(example.prompt_ids), []).append(number)
    return [(prompt, part) for prompt, found in numbers.items() for part in _split(found)]


def packed_width(examples: Sequence[Example]) -> int:
    """Tokens of the widest row."""
    return max(len(prompt) + sum(len(examples[i].reply_ids) for i in numbers) for prompt, numbers in packed(examples))


def _key(example: Example) -> Hashable:
    return tuple(example.prompt_ids), tuple(example.reply_ids)


def _tokens(rows: Sequence[Sequence[Example]]) -> int:
    """What they count in a step."""
    alone = sum(row[0].length for row in rows if len(row) == 1)
    compared = [example for row in rows if len(row) > 1 for example in row]
    once = sum(example.length for example in distinct(compared)[0])
    return alone + max(once, sum(example.length for example in compared) // AGAIN)


def _split(numbers: list[int]) -> list[list[int]]:
    """At most TOGETHER each, as many in one as in another."""
    size, parts = len(numbers), -(-len(numbers) // TOGETHER)
    return [numbers[size * i // parts : size * (i + 1) // parts] for i in range(parts)]


def _pools(
    rows: np.ndarray, sizes: np.ndarray, widths: np.ndarray, budget: int, generator: np.random.Generator, padded: bool
) -> list[np.ndarray]:
    """Groups are shuffled, sorted by width within pools of about 32 batches, cut, and the batches shuffled.

    `sizes`: tokens of each group; `padded`: of the longest of its so many `rows`, and a batch's rows are as long as its
    longest.
    """
    if not len(sizes):
        return []
    order = generator.permutation(len(sizes))
    pool = max(1, int(32 * budget / max(1.0, float((rows * sizes).mean()))))
    batches: list[np.ndarray] = []
    for start in range(0, len(order), pool):
        taken = order[start : start + pool]
        taken = taken[np.argsort(widths[taken], kind="stable")]
        batches += [taken[i:j] for i, j in _cuts(rows[taken], sizes[taken], budget, padded)]
    return [batches[i] for i in generator.permutation(len(batches))]


def _cuts(rows: np.ndarray, sizes: np.ndarray, budget: int, padded: bool) -> Iterator[tuple[int, int]]:
    start, count, total, longest = 0, 0, 0, 0
    for end, (number, size) in enumerate(zip(rows.tolist(), sizes.tolist(), strict=True)):
        count, total, longest = count + number, total + size, max(longest, size)
        if end > start and (count * longest if padded else total) > budget:
            yield start, end
            start, count, total, longest = end, number, size, size
    yield start, len(sizes)
