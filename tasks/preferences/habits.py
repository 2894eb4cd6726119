"""How raters work, whatever they say: the position they pick, their speed, and how much of the data is theirs.

All arrays have one entry per rater. A rater without a name of their own (`source:<name>`) has no habits.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, betaincinv

from tasks.preferences.agreement import LEVEL
from tasks.preferences.rater_options import RaterOptions
from tasks.preferences.votes import FIRST, SECOND, Votes

POSITION, SPEED, DOMINANCE, BUSY = "position_bias", "speeder", "rater_dominance", "votes_per_day"
HELD_OUT = (POSITION, SPEED)  # until a person has looked at them; the other two lower a weight

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Habits:
    decided: Counts
    picked_first: Counts  # of the decided
    first_low: Floats  # 95% interval of their share
    first_high: Floats
    first_p: Floats  # that a rater without a leaning picks so unevenly (binomial, two-sided)
    long_timed: Counts  # long comparisons with a time
    median_seconds: Floats  # of those; NaN without
    largest_share: Floats  # of a shard
    most_per_day: Counts
    cap: Floats  # factor on the weight of every vote that keeps the rater's part of the data within bounds
    flags: tuple[tuple[str, ...], ...]

    def held_out(self, names: tuple[str, ...], reviewed: tuple[str, ...]) -> dict[str, str]:
        """{rater: why} of those whose votes are not used."""
        return {
            name: next(flag for flag in flags if flag in HELD_OUT)
            for name, flags in zip(names, self.flags, strict=True)
            if name not in reviewed and set(flags) & set(HELD_OUT)
        }


def watch(votes: Votes, options: RaterOptions) -> Habits:
    number = len(votes.raters)
    decided = votes.named & ((votes.value == FIRST) | (votes.value == SECOND))
    num_decided = np.bincount(votes.rater[decided], minlength=number)
    first = np.bincount(votes.rater[decided & votes.picked_first], minlength=number)
    low, high = jeffreys(first, num_decided)
    timed, median = _speed(votes, options)
    share, by_shard = _shares(votes, options)
    per_day, by_day = _days(votes, options)
    with np.errstate(invalid="ignore", divide="ignore"):
        leaning = np.maximum(first, num_decided - first) / num_decided
    enough = num_decided >= options.min_votes
    found = {
        POSITION: enough & (leaning > options.max_first_share),
        SPEED: (timed >= options.min_votes) & (median < options.min_seconds),
        DOMINANCE: share > options.max_share,
        BUSY: per_day > options.max_votes_per_day,
    }
    return Habits(
        decided=num_decided,
        picked_first=first,
        first_low=low,
        first_high=high,
        first_p=np.minimum(1.0, 2 * bdtr(np.minimum(first, num_decided - first), num_decided, 0.5)),
        long_timed=timed,
        median_seconds=median,
        largest_share=share,
        most_per_day=per_day,
        cap=by_shard * by_day,
        flags=tuple(tuple(flag for flag, raised in found.items() if raised[r]) for r in range(number)),
    )


def jeffreys(hits: NDArray[np.int64], n: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """95% interval of a share, by Jeffreys' prior (Brown, Cai and DasGupta 2001, Stat. Sci. 16)."""
    low = np.where(hits == 0, 0.0, betaincinv(hits + 0.5, n - hits + 0.5, (1 - LEVEL) / 2))
    high = np.where(hits == n, 1.0, betaincinv(hits + 0.5, n - hits + 0.5, (1 + LEVEL) / 2))
    return low, high


def _speed(votes: Votes, options: RaterOptions) -> tuple[Counts, Floats]:
    """Long comparisons with a time, and the median of those times."""
    asked = votes.named & (votes.chars >= options.long_chars) & ~np.isnan(votes.seconds)
    rater, seconds = votes.rater[asked], votes.seconds[asked].astype(float)
    order = np.lexsort((seconds, rater))
    rater, seconds = rater[order], seconds[order]
    count = np.bincount(rater, minlength=len(votes.raters))
    start = np.cumsum(count) - count
    median = np.full(len(count), np.nan)
    some = count > 0
    lower, upper = start[some] + (count[some] - 1) // 2, start[some] + count[some] // 2
    median[some] = (seconds[lower] + seconds[upper]) / 2
    return count, median


def _shares(votes: Votes, options: RaterOptions) -> tuple[Floats, Floats]:
    """(largest share of a shard, mean factor over the rater's votes that keeps the share within bounds).

    A shard in which so few raters voted that one must be above has the bound 1 / raters; with one rater there is
    nothing to balance.
    """
    number = len(votes.raters)
    named = votes.named
    largest, kept, total = np.zeros(number), np.zeros(number), np.zeros(number)
    for file in range(len(votes.files)):
        of_file = votes.file == file
        shard = np.bincount(votes.rater[of_file & named], minlength=number)
        size = int(of_file.sum())
        counted = np.where(shard >= options.min_votes, shard, 0)
        largest = np.maximum(largest, counted / max(1, size))
        kept += shard * _within(counted, size - int(counted.sum()), options.max_share)
        total += shard
    return largest, np.where(total > 0, kept / np.maximum(total, 1), 1.0)


def _within(shard: Counts, others: int, most: float) -> Floats:
    """Factors such that no rater has more than `most` of what the shard then weighs; `others`: votes left alone."""
    present = np.count_nonzero(shard) + (others > 0)
    if present < 2:
        return np.ones(len(shard))
    most = max(most, 1 / present)
    ordered = np.sort(shard)[::-1]
    level = float(ordered[0])
    for capped in range(present):  # the larger ones, until the next is within the bound as well
        level = most * (ordered[capped:].sum() + others) / (1 - capped * most)
        if capped == len(ordered) or ordered[capped] <= level:
            break
    factors: Floats = np.minimum(1.0, level / np.maximum(shard, 1))
    return factors


def _days(votes: Votes, options: RaterOptions) -> tuple[Counts, Floats]:
    """(most votes on one day, share of the votes that lie within the bound of their days)."""
    number = len(votes.raters)
    dated = votes.named & (votes.day != (votes.days.index("") if "" in votes.days else -1))
    codes = votes.rater[dated].astype(np.int64) * len(votes.days) + votes.day[dated]
    cells, counts = np.unique(codes, return_counts=True)
    of = cells // max(1, len(votes.days))
    most = np.zeros(number, dtype=np.int64)
    np.maximum.at(most, of, counts)
    total = np.bincount(votes.rater, minlength=number)
    beyond = np.bincount(of, np.maximum(0, counts - options.max_votes_per_day), minlength=number)
    return most, 1 - beyond / np.maximum(total, 1)
