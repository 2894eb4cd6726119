"""Which rows stand in one batch: those of similar length, and side by side those that share what is computed.

A prompt is read once for the replies that are packed behind it (packing.py), and a reply that is compared several
times, as those of a ranking are, is computed once: all comparisons of a ranking in one step (Ouyang 2022,
arXiv:2203.02155, section 3.5).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from tasks.rlhf.batch import Example

# Replies packed behind one prompt, and standing side by side for that: more save less than their attention costs.
TOGETHER = 4
# Replies of a ranking, and its comparisons, that stand side by side.
RANKED, COMPARED = 16, 120

Ids = tuple[int, ...]


class Groups:
    """The rows of a dataset, in groups that batches do not tear; `rows`: the examples of each, all on one prompt."""

    def __init__(self, rows: Sequence[Sequence[Example]]) -> None:
        self._groups = [np.array(group) for group in side_by_side(rows)]
        found = [distinct([example for row in group for example in rows[row]])[0] for group in self._groups]
        self._tokens = np.array([sum(example.length for example in each) for each in found])
        self._widths = np.array([packed_width(each) for each in found])

    def epoch(self, budget: int, generator: np.random.Generator) -> list[np.ndarray]:
        """All rows in random order, in batches of groups that take similar places when packed.

        A batch holds at most `budget` tokens, and at least one group. Padding is not counted, nor is an example that
        stands there again.
        """
        batches = _pools(self._tokens, self._widths, budget, generator, padded=False)
        return [np.concatenate([self._groups[i] for i in batch]) for batch in batches]


def measured(examples: Sequence[Example], budget: int) -> list[np.ndarray]:
    """Places of all examples, in the same batches every time, for passes that bound what is computed at once.

    A batch takes at most `budget` places when packed, padding counted, and holds at least one group. Several groups on
    one prompt are packed anew, and may take some more.
    """
    groups = side_by_side([(example,) for example in examples])
    widths = np.array([packed_width([examples[i] for i in group]) for group in groups])
    batches = _pools(widths, widths, budget, np.random.default_rng(0), padded=True)
    return [np.concatenate([groups[i] for i in batch]) for batch in batches]


def distinct(examples: Iterable[Example]) -> tuple[list[Example], list[int]]:
    """Each example once, and for every one of `examples` its place among those."""
    places: dict[tuple[Ids, Ids], int] = {}
    once: list[Example] = []
    every: list[int] = []
    for example in examples:
        place = places.setdefault((tuple(example.prompt_ids), tuple(example.reply_ids)), len(once))
        if place == len(once):
            once.append(example)
        every.append(place)
    return once, every


def side_by_side(rows: Sequence[Sequence[Example]]) -> list[list[int]]:
    """Rows on one prompt, in groups of at most TOGETHER replies, or of more where they are compared with each other.

    Hashes say what is equal: two prompts taken for one would share a step and nothing else.
    """
    prompts = [hash(tuple(row[0].prompt_ids)) for row in rows]
    replies = [
        {hash((prompt, *example.reply_ids)) for example in row} for prompt, row in zip(prompts, rows, strict=True)
    ]
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
    """A ranking, whole where it has at most RANKED replies and COMPARED comparisons."""
    part = _Group()
    for number in ranking:
        if part.rows and (len(part.replies | replies[number]) > RANKED or len(part.rows) == COMPARED):
            yield part
            part = _Group()
        part.rows.append(number)
        part.replies |= replies[number]
    yield part


def packed(examples: Sequence[Example]) -> list[tuple[Ids, list[int]]]:
    """The rows that examples are packed into: a prompt, and the numbers of those whose replies stand behind it."""
    by_prompt: dict[Ids, list[int]] = {}
    for number, example in enumerate(examples):
        by_prompt.setdefault(tuple(example.prompt_ids), []).append(number)
    rows = []
    for prompt, numbers in by_prompt.items():
        size, parts = len(numbers), -(-len(numbers) // TOGETHER)
        rows += [(prompt, numbers[size * i // parts : size * (i + 1) // parts]) for i in range(parts)]
    return rows


def packed_width(examples: Sequence[Example]) -> int:
    """Tokens of the widest row."""
    return max(len(prompt) + sum(len(examples[i].reply_ids) for i in numbers) for prompt, numbers in packed(examples))


def _pools(
    sizes: np.ndarray, widths: np.ndarray, budget: int, generator: np.random.Generator, padded: bool
) -> list[np.ndarray]:
    """Rows are shuffled, sorted by width within pools of about 32 batches, cut, and the batches shuffled."""
    if not len(sizes):
        return []
    order = generator.permutation(len(sizes))
    pool = max(1, int(32 * budget / max(1.0, float(sizes.mean()))))
    batches: list[np.ndarray] = []
    for start in range(0, len(order), pool):
        rows = order[start : start + pool]
        rows = rows[np.argsort(widths[rows], kind="stable")]
        batches += [rows[i:j] for i, j in _cuts(sizes[rows], budget, padded)]
    return [batches[i] for i in generator.permutation(len(batches))]


def _cuts(sizes: np.ndarray, budget: int, padded: bool) -> Iterator[tuple[int, int]]:
    start, total, longest = 0, 0, 0
    for end, size in enumerate(sizes.tolist()):
        total, longest = total + size, max(longest, size)
        if end > start and ((end - start + 1) * longest if padded else total) > budget:
            yield start, end
            start, total, longest = end, size, size
    yield start, len(sizes)
