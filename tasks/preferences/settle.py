"""What can be said of a row only beside those before it: its prompt's cluster, whether it leaks, whether it repeats.

Order of arrival decides, so nothing that comes later changes a verdict: a prompt joins the cluster of the earliest
prompt near it. A row is refused that would join clusters on different sides of the split (`cluster_bridge`), that
holds much of a prompt of the other kind of fold (`contamination`), or that says again what the same rater said of
nearly the same texts (`near_duplicate`).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from tasks.preferences.clusters import (
    Clusters,
    default_name,
    moved,
    prompt_texts,
)
from tasks.preferences.columns import Column, save_arrays
from tasks.preferences.cycles import consistency
from tasks.preferences.multimap import Multimap
from tasks.preferences.neighbours import Candidates, Neighbours
from tasks.preferences.prints import Print, Prints, of_rows, of_texts
from tasks.preferences.shingles import containment
from tasks.preferences.texts import Texts
from tasks.records import Message, Record

OVERLAP = 0.5  # of a measured text's word trigrams; Lambert 2024, arXiv:2411.15124, section 3.2, has half of its tokens
_NOWHERE = 2**32 - 1
_LEARNED, _MEASURED, _HELD_OUT = 1, 2, 4  # what a text was seen in: folds to learn from and to measure by, held out


@dataclass(frozen=True)
class Verdict:
    records: Sequence[Record]  # to be kept, in their cluster
    reason: str | None = None  # why the row is refused
    near: str | None = None  # the cluster of what it is near


@dataclass(frozen=True)
class _Row:
    records: Sequence[Record]
    exact: list[int]  # texts that decide the cluster where they are known: first turn, whole prompt, ranking
    replies: list[list[int]]  # of each record
    prints: Sequence[Print]  # of each record
    default: int  # the cluster of a prompt whose source names none, as a number
    texts: list[int]  # what must not be both learned from and measured by: the whole prompt, the replies

    @property
    def whole(self) -> int:
        return self.exact[1]


class Settler:
    """Knows every row accepted so far, by a few hashes of each; sets of shingles lie in a folder."""

    def __init__(self, folder: Path, shares: Mapping[str, float], jaccard: float) -> None:
        self.shares, self.jaccard = shares, jaccard
        self.texts = Texts(folder)
        self._near = Neighbours()
        self._cluster = Column(np.uint32, _NOWHERE)  # of a text that is (the beginning of) a prompt
        self._seen = Column(np.uint8)
        self._vote_texts = tuple(Column(np.uint32) for _ in range(3))  # prompt and replies
        self._vote_kept = Column(np.uint8)
        self._vote_rater = Column(np.uint32)  # hashed, of what decides between two replies; 0 otherwise
        self._clusters = Clusters(shares)

    def settle(
        self, batch: Sequence[Sequence[Record]], source: str, made: tuple[list[list[Print]], Prints] | None = None
    ) -> list[Verdict]:
        """The verdict on every row of a batch, given as the records made of it, which all have one prompt.

        `made`: the prints of these records and those of their texts, which may be of more.
        """
        of_records, prints = made or of_rows(batch)
        rows, near, sharing = self._take(batch, of_records, prints)
        votes = self._take_votes(rows, prints)
        return [self._judge(row, cast, near, sharing, source) for row, cast in zip(rows, votes, strict=True)]

    def trust(self, prompts: Sequence[tuple[list[Message], str]], source: str) -> None:
        """Prompts with clusters, of a source that knows which belong together: near to each other or not, they stay."""
        pairs = [prompt_texts(prompt) for prompt, _ in prompts]
        texts = {text: number for number, text in enumerate(dict.fromkeys(chain.from_iterable(pairs)))}
        prints = of_texts(list(texts), set(texts.values()))
        numbers = self.texts.add(prints)
        self._grow()
        self._near.prompts(numbers, numbers[prints.prompt], prints.prompt_keys, self._cluster.values == _NOWHERE)
        for (_, name), pair in zip(prompts, pairs, strict=True):
            cluster = self._clusters.declared(name, source)
            for text in {int(numbers[texts[part]]) for part in pair}:
                if self._cluster[text] == _NOWHERE:
                    self._cluster[text] = cluster

    def hold_out(self, batch: Sequence[Sequence[Record]]) -> None:
        """Rows of an evaluation set: whatever is near them, or holds much of them, is refused from now on."""
        rows, _, _ = self._take(batch, *of_rows(batch))
        for row in rows:
            for text in row.exact:
                self._cluster[text] = self._clusters.held_out
            for text in row.texts:
                self._seen[text] |= _HELD_OUT

    def close(self) -> None:
        self.texts.close()

    def report(self) -> dict[str, int]:
        """Clusters, those of each side, and how many first turns and whole prompts the largest one has."""
        placed = self._cluster.values[self._cluster.values != _NOWHERE]
        return {**self._clusters.count(), "largest": int(np.bincount(placed).max(initial=0))}

    def consistency(self) -> dict[str, int]:
        """What `cycles.consistency` says of the votes that were kept."""
        is_decided = (self._vote_kept.values == 1) & (self._vote_rater.values != 0)
        return consistency(*(column.values[is_decided] for column in (*self._vote_texts, self._vote_rater)))

    def save(self, folder: Path) -> None:
        """Write everything to a new folder; shingles are linked, not copied."""
        folder.mkdir()
        self.texts.save(folder)
        save_arrays(folder / "settled.npz", {name: part.values for name, part in self._parts().items()})
        (folder / "clusters.json").write_text(json.dumps(self._clusters.names()), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Become what was saved."""
        self.texts.load(folder)
        with np.load(folder / "settled.npz") as held:
            for name, part in self._parts().items():
                part.restore(held[name])
        self._clusters.rename(json.loads((folder / "clusters.json").read_text(encoding="utf-8")))

    @property
    def nbytes(self) -> int:
        return self.texts.nbytes + sum(part.nbytes for part in self._parts().values())

    def _parts(self) -> dict[str, Column | Multimap]:
        columns = {"cluster": self._cluster, "seen": self._seen, "vote_kept": self._vote_kept}
        columns |= {"vote_rater": self._vote_rater, **self._clusters.columns}
        columns |= {f"vote_{n}": column for n, column in enumerate(self._vote_texts)}
        return {**self._near.parts(), **columns}

    def _judge(
        self, row: _Row, votes: dict[int, tuple[int, list[int]]], near: Candidates, sharing: Candidates, source: str
    ) -> Verdict:
        cluster, reason = self._place(row, near, source)
        is_other = self._is_other_item(cluster, source)
        if reason is None and (other := self._leaks_from(row, cluster, sharing, is_other)) is not None:
            cluster, reason = int(self._cluster[other]), "contamination"
        repeated = {i for i, (vote, others) in votes.items() if not reason and self._repeats(vote, others, is_other)}
        if repeated and len(repeated) == len(votes):
            reason = "near_duplicate"
        name = None if cluster == _NOWHERE else self._clusters.name(cluster)
        if reason is not None or name is None:
            return Verdict((), reason, name)
        for text in row.exact:
            if self._cluster[text] == _NOWHERE:
                self._cluster[text] = cluster
        # Not the replies: a model declines a hundred prompts in the same words. Those of a file held out count.
        self._seen[row.whole] |= _kind(self._clusters.side(cluster))
        for i, (vote, _) in votes.items():
            self._vote_kept[vote] = i not in repeated
        return Verdict([moved(record, name) for i, record in enumerate(row.records) if i not in repeated])

    def _place(self, row: _Row, near: Candidates, source: str) -> tuple[int, str | None]:
        """(the cluster of a row's prompt, why it can stand in none)."""
        hits = {int(self._cluster[text]) for text in row.exact} - {_NOWHERE}
        for text in row.exact[:2]:
            if self._cluster[text] == _NOWHERE:
                for other in near[text]:
                    cluster = int(self._cluster[other])
                    if cluster not in hits and cluster != _NOWHERE and self._are_near(text, other):
                        hits.add(cluster)
        if self._clusters.held_out in hits:
            return self._clusters.held_out, "contamination"
        named = row.records[0].cluster
        if named == default_name(row.default):
            own = min(hits) if hits else self._clusters.default(row.default)
        elif (own := int(self._cluster[row.whole])) == _NOWHERE:
            own = self._clusters.declared(named, source)
            hits = {hit for hit in hits if not self._clusters.is_declared_by(hit, source)}
        if any(self._clusters.side(hit) != self._clusters.side(own) for hit in hits):
            return min(hits), "cluster_bridge"
        return own, None

    def _is_other_item(self, cluster: int, source: str) -> Callable[[int], bool]:
        """Whether the row's source says of a prompt's text that it belongs to another cluster than the row's."""
        declared = self._clusters.is_declared_by
        if not declared(cluster, source):
            return lambda text: False
        return lambda text: self._cluster[text] not in (cluster, _NOWHERE) and declared(self._cluster[text], source)

    def _leaks_from(self, row: _Row, cluster: int, sharing: Candidates, is_other: Callable[[int], bool]) -> int | None:
        """A long text of the other kind of fold that a row holds, or is held in."""
        kind = _kind(self._clusters.side(cluster))
        others = _HELD_OUT | (_LEARNED + _MEASURED - kind)
        for text in row.texts:
            for other in (text, *sharing.get(text, ())):
                if self._seen[other] & others and not is_other(other):
                    is_held_here = kind == _MEASURED and not self._seen[other] & _HELD_OUT
                    part, whole = (text, other) if is_held_here else (other, text)
                    if containment(self.texts.shingles(part), self.texts.shingles(whole)) >= OVERLAP:
                        return int(other)
        return None

    def _repeats(self, vote: int, others: Sequence[int], is_other: Callable[[int], bool]) -> bool:
        prompts = self._vote_texts[0]
        return any(
            self._vote_kept[other] and not is_other(int(prompts[other])) and self._is_repeat(vote, other)
            for other in others
        )

    def _is_repeat(self, vote: int, other: int) -> bool:
        """Whether every text is near its counterpart, with the same numbers: another sum is another question."""
        pairs = [(int(column[vote]), int(column[other])) for column in self._vote_texts]
        return all(self.texts.have_same_numbers(*pair) for pair in pairs) and all(
            self._are_near(*pair) for pair in pairs
        )

    def _are_near(self, text: int, other: int) -> bool:
        return self.texts.similarity(text, other) >= self.jaccard

    def _take(
        self, batch: Sequence[Sequence[Record]], of_records: Sequence[Sequence[Print]], prints: Prints
    ) -> tuple[list[_Row], Candidates, Candidates]:
        """Number the texts of a batch; the candidates near its prompts, and those that share a long run."""
        texts = [(_exact(of_row), [each.replies for each in of_row]) for of_row in of_records]
        named = dict.fromkeys(chain.from_iterable((*exact, *chain.from_iterable(said)) for exact, said in texts))
        wanted = np.fromiter(named, np.int64, len(named))
        if not np.array_equal(wanted, np.arange(len(prints.hashes))):
            prints = prints.only(wanted)
        distinct = self.texts.add(prints)
        self._grow()
        places = dict(zip(named, distinct.tolist(), strict=True))
        rows = []
        for records, of_row, (exact, said) in zip(batch, of_records, texts, strict=True):
            known = [places[text] for text in exact]
            replies = [[places[text] for text in of_record] for of_record in said]
            both = sorted({known[1], *chain.from_iterable(replies)})
            rows.append(_Row(records, known, replies, of_row, of_row[0].default, both))
        subjects = np.unique(np.array([text for row in rows for text in row.exact[:2]], dtype=np.int64))
        owner = np.array([places.get(text, -1) for text in prints.prompt.tolist()], dtype=np.int64)
        near = self._near.prompts(subjects, owner, prints.prompt_keys, self._cluster.values == _NOWHERE)
        return rows, near, self._near.long_runs(distinct, prints.shingles)

    def _take_votes(self, rows: Sequence[_Row], prints: Prints) -> list[dict[int, tuple[int, list[int]]]]:
        """For each row {which of its records: (number of the vote, candidates it may repeat)}."""
        places = [(n, i) for n, row in enumerate(rows) for i, each in enumerate(row.prints) if each.vote >= 0]
        texts = [(rows[n].whole, rows[n].replies[i][0], rows[n].replies[i][-1]) for n, i in places]
        numbers = len(self._vote_kept) + np.arange(len(places))
        for column, values in zip(self._vote_texts, zip(*texts, strict=True), strict=bool(texts)):
            column.extend(np.array(values, dtype=np.uint32))
        self._vote_kept.extend(np.zeros(len(places), dtype=np.uint8))
        self._vote_rater.extend([rows[n].prints[i].rater for n, i in places])
        which = np.array([rows[n].prints[i].vote for n, i in places], dtype=np.int64)
        near = self._near.votes(numbers, prints.vote_keys[which])
        found: list[dict[int, tuple[int, list[int]]]] = [{} for _ in rows]
        for (n, i), number, others in zip(places, numbers.tolist(), near, strict=True):
            found[n][i] = number, others
        return found

    def _grow(self) -> None:
        """The columns that speak of texts hold as many as there are."""
        for column, fill in ((self._cluster, _NOWHERE), (self._seen, 0)):
            column.extend(np.full(len(self.texts) - len(column), fill))


def _exact(of_row: Sequence[Print]) -> list[int]:
    """The texts that decide a row's cluster."""
    group = next((each.group for each in of_row if each.group is not None), None)
    return [of_row[0].first, of_row[0].whole, *(() if group is None else (group,))]


def _kind(side: str) -> int:
    return _LEARNED if side in ("train", "judge") else _MEASURED
