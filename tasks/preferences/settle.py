"""What can be said of a row only beside those before it: its prompt's cluster, whether it leaks, whether it repeats.

Order of arrival decides, so nothing that comes later changes a verdict: a prompt joins the cluster of the earliest
prompt near it. A row is refused that would join clusters on different sides of the split (`cluster_bridge`), that
holds much of what the other kind of fold holds (`contamination`), or that says again what the same rater said of
nearly the same texts (`near_duplicate`).
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tasks.preferences.dialogue import fold
from tasks.preferences.folds import FOLDS, SEALED, fold_of
from tasks.preferences.multimap import Multimap
from tasks.preferences.neighbours import Bands, Column, Texts
from tasks.preferences.shingles import Int, Shingles, containment
from tasks.records import Demonstration, Feedback, Message, Preference, Record, Safety, Solution

HELD_OUT = "held_out"  # the side of evaluation sets of one's own
SIDES = (*FOLDS, SEALED, HELD_OUT)
OVERLAP = 0.5  # of a measured text's word trigrams; Lambert 2024, arXiv:2411.15124, section 3.2, has half of its tokens
NUM_RUNS = 4  # 13-grams by which a text is found: one that holds half of it misses all four in 6 of 100 cases
_NOWHERE = 2**32 - 1
_LEARNED, _MEASURED = 1, 2  # what a text was seen in: folds to learn from, folds and files to measure by

Candidates = dict[int, list[int]]


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
    default: int  # the cluster of a prompt whose source names none, as a number

    @property
    def whole(self) -> int:
        return self.exact[1]

    @property
    def texts(self) -> set[int]:
        """What must not be both learned from and measured by."""
        return {self.whole, *(text for replies in self.replies for text in replies)}


class Settler:
    """Knows every row accepted so far, by a few hashes of each; sets of shingles lie in a folder."""

    def __init__(self, folder: Path, shares: Mapping[str, float], jaccard: float) -> None:
        self.shares, self.jaccard = shares, jaccard
        self.texts = Texts(folder)
        self._prompts = Bands(num_bands=12, num_rows=5)  # finds 99% at a similarity of 0.8
        self._votes = Bands(num_bands=8, num_rows=4)  # 98.5%
        self._runs = Multimap(per_key=2)
        self._cluster = Column(np.uint32, _NOWHERE)  # of a text that is (the beginning of) a prompt
        self._seen = Column(np.uint8)
        self._is_prompt = Column(np.uint8)
        self._num_indexed = 0  # texts whose runs can be found
        self._vote_texts = tuple(Column(np.uint32) for _ in range(3))  # prompt and replies
        self._vote_kept = Column(np.uint8)
        self.clusters = Clusters(shares)

    def settle(self, batch: Sequence[Sequence[Record]], source: str) -> list[Verdict]:
        """The verdict on every row of a batch, given as the records made of it, which all have one prompt."""
        rows, near, sharing = self._take(batch)
        votes = self._take_votes(rows)
        return [self._judge(row, cast, near, sharing, source) for row, cast in zip(rows, votes, strict=True)]

    def trust(self, prompts: Sequence[tuple[list[Message], str]], source: str) -> None:
        """Prompts with clusters, of a source that knows which belong together: near to each other or not, they stay."""
        pairs = [_prompt_texts(prompt) for prompt, _ in prompts]
        numbers, distinct, found = self.texts.add([text for pair in pairs for text in pair])
        self._grow()
        self._index_prompts(np.unique(numbers), distinct, found)
        self._num_indexed = len(self.texts)
        for (_, name), pair in zip(prompts, numbers.reshape(-1, 2).tolist(), strict=True):
            cluster = self.clusters.declared(name, source)
            for text in pair:
                if self._cluster[text] == _NOWHERE:
                    self._cluster[text] = cluster

    def hold_out(self, batch: Sequence[Sequence[Record]]) -> None:
        """Rows of an evaluation set: whatever is near them, or holds much of them, is refused from now on."""
        rows, _, _ = self._take(batch)
        for row in rows:
            for text in row.exact:
                self._cluster[text] = self.clusters.held_out
            for text in row.texts:
                self._seen[text] |= _MEASURED

    def close(self) -> None:
        self.texts.close()

    def report(self) -> dict[str, int]:
        """Clusters, those of each side, and the prompts (first turns and whole ones) of the largest one."""
        sizes = np.bincount(self._cluster[: len(self.texts)][self._cluster[: len(self.texts)] != _NOWHERE])
        return {**self.clusters.count(), "largest": int(sizes.max(initial=0))}

    def columns(self) -> dict[str, Column]:
        named = {"cluster": self._cluster, "seen": self._seen, "is_prompt": self._is_prompt, "kept": self._vote_kept}
        return named | {f"vote_{n}": column for n, column in enumerate(self._vote_texts)}

    def maps(self) -> dict[str, Multimap]:
        return {"prompts": self._prompts.map, "votes": self._votes.map, "runs": self._runs}

    @property
    def nbytes(self) -> int:
        own = sum(held.nbytes for held in self.maps().values()) + sum(c.nbytes for c in self.columns().values())
        return self.texts.nbytes + self.clusters.nbytes + own

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
        name = None if cluster == _NOWHERE else self.clusters.name(cluster)
        if reason is not None or name is None:
            return Verdict((), reason, name)
        for text in row.exact:
            if self._cluster[text] == _NOWHERE:
                self._cluster[text] = cluster
        for text in row.texts:
            self._seen[text] |= _kind(self.clusters.side(cluster))
        for i, (vote, _) in votes.items():
            self._vote_kept[vote] = i not in repeated
        return Verdict([_moved(record, name) for i, record in enumerate(row.records) if i not in repeated])

    def _place(self, row: _Row, near: Candidates, source: str) -> tuple[int, str | None]:
        """(the cluster of a row's prompt, why it can stand in none)."""
        hits = {int(self._cluster[text]) for text in row.exact} - {_NOWHERE}
        for text in row.exact[:2]:
            if self._cluster[text] == _NOWHERE:
                for other in near[text]:
                    cluster = int(self._cluster[other])
                    if cluster not in hits and cluster != _NOWHERE and self._are_near(text, other):
                        hits.add(cluster)
        if self.clusters.held_out in hits:
            return self.clusters.held_out, "contamination"
        named = row.records[0].cluster
        if named == _default_name(row.default):
            own = min(hits) if hits else self.clusters.default(row.default)
        elif (own := int(self._cluster[row.whole])) == _NOWHERE:
            own = self.clusters.declared(named, source)
            hits = {hit for hit in hits if not self.clusters.is_declared_by(hit, source)}
        if any(self.clusters.side(hit) != self.clusters.side(own) for hit in hits):
            return min(hits), "cluster_bridge"
        return own, None

    def _is_other_item(self, cluster: int, source: str) -> Callable[[int], bool]:
        """Whether the row's source says of a prompt's text that it belongs to another cluster than the row's."""
        declared = self.clusters.is_declared_by
        if not declared(cluster, source):
            return lambda text: False
        return lambda text: self._cluster[text] not in (cluster, _NOWHERE) and declared(self._cluster[text], source)

    def _leaks_from(self, row: _Row, cluster: int, sharing: Candidates, is_other: Callable[[int], bool]) -> int | None:
        """A long text of the other kind of fold that a row holds, or is held in."""
        kind = _kind(self.clusters.side(cluster))
        other_kind = _LEARNED + _MEASURED - kind
        for text in sorted(row.texts):
            for other in (text, *sharing.get(text, ())):
                if self._seen[other] & other_kind and not is_other(other):
                    part, whole = (other, text) if kind == _LEARNED else (text, other)
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

    def _take(self, batch: Sequence[Sequence[Record]]) -> tuple[list[_Row], Candidates, Candidates]:
        """Number the texts of a batch; the candidates near its prompts, and those that share a long run."""
        folded: list[str] = []
        shapes = []
        for records in batch:
            exact = _exact_texts(records)
            replies = [[fold(reply) for reply in _replies(record)] for record in records]
            shapes.append((exact, [len(of_record) for of_record in replies]))
            folded += exact
            folded += [reply for of_record in replies for reply in of_record]
        numbers, distinct, found = self.texts.add(folded)
        self._grow()
        take = iter(numbers.tolist())
        rows = [
            _Row(
                records,
                [next(take) for _ in exact],
                [[next(take) for _ in range(count)] for count in counts],
                _default_number(exact[0]),
            )
            for records, (exact, counts) in zip(batch, shapes, strict=True)
        ]
        subjects = np.unique(np.array([text for row in rows for text in row.exact[:2]], dtype=np.int64))
        near = self._index_prompts(subjects, distinct, found)
        return rows, near, self._index_runs(distinct, found)

    def _take_votes(self, rows: Sequence[_Row]) -> list[dict[int, tuple[int, list[int]]]]:
        """For each row {which of its records: (number of the vote, candidates it may repeat)}."""
        places = [(n, i) for n, row in enumerate(rows) for i, record in enumerate(row.records) if _is_vote(record)]
        texts = [(rows[n].whole, rows[n].replies[i][0], rows[n].replies[i][-1]) for n, i in places]
        sets = [np.concatenate([self.texts.shingles(text) for text in parts]) for parts in texts]
        starts = np.concatenate([[0], np.cumsum([len(values) for values in sets])]).astype(np.int64)
        salts = np.array([_voter(rows[n].records[i]) for n, i in places], dtype=np.uint64)
        keys = self._votes.keys(np.concatenate(sets) if sets else np.zeros(0, dtype=np.uint32), starts, salts)
        numbers = len(self._vote_kept) + np.arange(len(places))
        for column, values in zip(self._vote_texts, zip(*texts, strict=True), strict=bool(texts)):
            column.extend(np.array(values, dtype=np.uint32))
        self._vote_kept.extend(np.zeros(len(places), dtype=np.uint8))
        self._votes.insert(keys, numbers)
        found: list[dict[int, tuple[int, list[int]]]] = [{} for _ in rows]
        for (n, i), number, others in zip(places, numbers.tolist(), self._votes.candidates(keys), strict=True):
            found[n][i] = number, others
        return found

    def _index_prompts(self, subjects: Int, distinct: Int, found: Shingles) -> Candidates:
        """Make prompts findable; the candidates of those that stand in no cluster yet."""
        owner = distinct[found.view_text]
        views = np.flatnonzero(np.isin(owner, subjects))
        views = views[np.argsort(owner[views], kind="stable")]
        keys, owner = self._prompts.keys(*_gather(found, views)), owner[views]
        is_new = self._is_prompt[owner] == 0
        self._prompts.insert(keys[is_new], owner[is_new])
        self._is_prompt[subjects] = 1
        is_loose = self._cluster[owner] == _NOWHERE
        near: Candidates = {int(text): [] for text in subjects}
        for text, others in zip(owner[is_loose].tolist(), self._prompts.candidates(keys[is_loose]), strict=True):
            near[text] = sorted({*near[text], *others} - {text})
        return near

    def _index_runs(self, distinct: Int, found: Shingles) -> Candidates:
        """Make long runs of words findable; for each text those that share one."""
        first = np.searchsorted(found.run_text, found.run_text, side="left")
        numbers = distinct[found.run_text]
        is_new = (np.arange(len(first)) - first < NUM_RUNS) & (numbers >= self._num_indexed)
        self._runs.insert(found.runs[is_new], numbers[is_new].astype(np.uint32))
        self._num_indexed = len(self.texts)
        where, others = self._runs.find(found.runs)
        pairs = np.unique((numbers[where].astype(np.uint64) << np.uint64(32)) | others)
        sharing: Candidates = {}
        for text, other in zip((pairs >> np.uint64(32)).tolist(), (pairs & np.uint64(_NOWHERE)).tolist(), strict=True):
            if text != other:
                sharing.setdefault(text, []).append(other)
        return sharing

    def _grow(self) -> None:
        """The columns that speak of texts hold as many as there are."""
        for column, fill in ((self._cluster, _NOWHERE), (self._seen, 0), (self._is_prompt, 0)):
            column.extend(np.full(len(self.texts) - len(column), fill))


class Clusters:
    """Names and sides of clusters by number, in order of arrival."""

    def __init__(self, shares: Mapping[str, float]) -> None:
        self._shares = shares
        self._hash, self._side, self._source = Column(np.uint64), Column(np.uint8), Column(np.uint16)
        self.declared_names: dict[str, int] = {}
        self._names: dict[int, str] = {}  # of the declared ones: others have the hash
        self.sources: dict[str | None, int] = {None: 0}
        self.held_out = self._add(0, HELD_OUT, None)

    def default(self, number: int) -> int:
        """A new cluster that nobody named."""
        return self._add(number, fold_of(_default_name(number), self._shares), None)

    def declared(self, name: str, source: str) -> int:
        """The cluster of that name, which a source gave."""
        if name not in self.declared_names:
            self.declared_names[name] = self._add(0, fold_of(name, self._shares), source)
            self._names[self.declared_names[name]] = name
        return self.declared_names[name]

    def name(self, number: int) -> str:
        return self._names.get(number) or (HELD_OUT if number == self.held_out else _default_name(self._hash[number]))

    def side(self, number: int) -> str:
        return SIDES[self._side[number]]

    def columns(self) -> dict[str, Column]:
        return {"cluster_hash": self._hash, "cluster_side": self._side, "cluster_source": self._source}

    def restore(self, declared: Mapping[str, int], sources: Sequence[str | None]) -> None:
        """What is known of clusters beside the columns."""
        self.declared_names = dict(declared)
        self._names = {number: name for name, number in declared.items()}
        self.sources = {source: number for number, source in enumerate(sources)}

    def count(self) -> dict[str, int]:
        counts = np.bincount(self._side[1 : len(self._side)], minlength=len(SIDES)).tolist()
        return {"total": len(self._side) - 1, **dict(zip((*FOLDS, SEALED), counts, strict=False))}

    def is_declared_by(self, number: int, source: str) -> bool:
        return bool(self._source[number] and self._source[number] == self.sources.get(source))

    @property
    def nbytes(self) -> int:
        return self._hash.nbytes + self._side.nbytes + self._source.nbytes

    def _add(self, number: int, side: str, source: str | None) -> int:
        self._hash.extend([number])
        self._side.extend([SIDES.index(side)])
        self._source.extend([self.sources.setdefault(source, len(self.sources))])
        return len(self._hash) - 1


def _kind(side: str) -> int:
    return _LEARNED if side in ("train", "judge") else _MEASURED


def _prompt_texts(prompt: Sequence[Message]) -> tuple[str, str]:
    """(the first user turn, all turns), folded. A system turn says what many prompts share, not which one it is."""
    turns = [message for message in prompt if message["role"] != "system"]
    first = fold(turns[0]["content"])
    return first, first if len(turns) == 1 else " ".join([first, *(fold(turn["content"]) for turn in turns[1:])])


def _exact_texts(records: Sequence[Record]) -> list[str]:
    first, whole = _prompt_texts(records[0].prompt)
    group = next((record.group for record in records if isinstance(record, Preference) and record.group), None)
    return [first, whole] if group is None else [first, whole, f"\0{records[0].source}\0{group}"]


def _replies(record: Record) -> tuple[str, ...]:
    """What answers the prompt; of a comparison the better reply first, of an undecided one in alphabetical order."""
    if isinstance(record, Preference):
        pair = (record.reply_a, record.reply_b)
        if record.choice in ("a", "b"):
            return pair if record.choice == "a" else pair[::-1]
        return pair if pair[0] <= pair[1] else pair[::-1]
    if isinstance(record, Demonstration | Feedback | Solution):
        return (record.reply,)
    return (record.reply,) if isinstance(record, Safety) and record.reply else ()


def _is_vote(record: Record) -> bool:
    return isinstance(record, Preference | Demonstration)


def _voter(record: Record) -> int:
    """Who says what kind of thing; rows without a rater of their own have one voice."""
    if not isinstance(record, Preference):
        return 0
    outcome = "decided" if record.choice in ("a", "b") else record.choice
    rater = "" if record.rater.startswith("source:") else record.rater
    return int.from_bytes(hashlib.blake2b(f"{outcome}\0{rater}".encode(), digest_size=8).digest(), "little")


def _moved(record: Record, cluster: str) -> Record:
    return record if record.cluster == cluster else replace(record, cluster=cluster)


def _default_number(first: str) -> int:
    """`dialogue.cluster` of a prompt, as a number."""
    return int.from_bytes(hashlib.sha256(first.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def _default_name(number: int) -> str:
    return f"{number:016x}"


def _gather(found: Shingles, views: Int) -> tuple[npt.NDArray[np.uint32], Int]:
    """(values, starts) of some views of texts."""
    lengths = found.views[views + 1] - found.views[views]
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    within = np.arange(int(starts[-1])) - np.repeat(starts[:-1], lengths)
    return found.values[np.repeat(found.views[views], lengths) + within], starts
