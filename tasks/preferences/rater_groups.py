"""What raters say of themselves (age, language, trade), kept apart from their votes: only sums over groups are told.

A group of fewer raters than `min_group` is told nothing of. Where all such raters together are fewer than that, the
smallest group shown is hidden with them, so that the difference to the whole tells nothing of them either.
"""

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.preferences import agreement
from tasks.preferences.agreement import Estimate, clustered
from tasks.preferences.votes import BOTH_BAD, FIRST, TIE, UNSURE, Votes

Attributes = Mapping[str, Mapping[str, str]]  # {attribute: {rater: value}}
Bools = NDArray[np.bool_]


def read(path: Path) -> Attributes:
    """From a CSV file or JSON Lines, a row per rater: `rater` and attributes as text.

    Raises ValueError with the line, FileNotFoundError where there is no file.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"prepare.raters.attributes: {path} is not a file; copy it there or set the key to null"
        )
    found: dict[str, dict[str, str]] = {}
    seen: set[str] = set()
    for number, row in _rows(path):
        rater = row.pop("rater", None)
        if not isinstance(rater, str) or not rater:
            raise ValueError(f"{path}:{number}: no `rater`; every row names one")
        if rater in seen:
            raise ValueError(f"{path}:{number}: rater {rater!r} stands twice; keep one row")
        seen.add(rater)
        for name, value in row.items():
            if not isinstance(value, str | None):
                raise ValueError(f"{path}:{number}: {name} = {value!r}: attributes are text; write it in quotes")
            if value:
                found.setdefault(name, {})[rater] = value
    return found


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = file.read(1)
        file.seek(0)
        if first != "{":
            yield from enumerate(csv.DictReader(file, strict=True), 2)
            return
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}:{number}: not JSON: {error}") from None
            if not isinstance(row, dict):
                raise ValueError(f"{path}:{number}: {row!r}: every line is an object")
            yield number, row


def compare(votes: Votes, attributes: Attributes, min_group: int) -> dict[str, Any]:
    """{attribute: {"groups": {value: figures}, "hidden_raters": how many}}; by topic (domain) within each group."""
    told = {}
    for name in sorted(attributes):
        value_of = [attributes[name].get(rater, "") for rater in votes.raters]
        active = np.bincount(votes.rater[votes.named], minlength=len(votes.raters)) > 0
        sizes: dict[str, int] = {}
        for value, votes_at_all in zip(value_of, active, strict=True):
            if value and votes_at_all:
                sizes[value] = sizes.get(value, 0) + 1
        shown = _shown(sizes, min_group)
        # Compared with all who are shown: with the hidden ones among them, a difference would tell of those.
        compared = votes.named & (votes.value != UNSURE) & np.isin(np.array(value_of), shown)[votes.rater]
        groups = {value: np.array([of == value for of in value_of])[votes.rater] & compared for value in shown}
        told[name] = {
            "groups": {value: _group(votes, own, compared & ~own, min_group) for value, own in groups.items()},
            "hidden_raters": sum(sizes.values()) - sum(sizes[value] for value in shown),
        }
    return told


def _shown(sizes: Mapping[str, int], min_group: int) -> list[str]:
    shown = sorted((value for value in sizes if sizes[value] >= min_group), key=lambda value: (-sizes[value], value))
    hidden = sum(sizes.values()) - sum(sizes[value] for value in shown)
    while shown and 0 < hidden < min_group:
        hidden += sizes[shown.pop()]
    return shown


def _group(votes: Votes, own: Bools, others: Bools, min_group: int) -> dict[str, Any]:
    topics = {}
    for code, domain in enumerate(votes.domains):
        of_it = votes.domain == code
        if min(_num_raters(votes, own & of_it), _num_raters(votes, others & of_it)) >= min_group:
            topics[domain] = _figures(votes, own & of_it, others & of_it)
    return {**_figures(votes, own, others), "by_topic": topics}


def _num_raters(votes: Votes, chosen: Bools) -> int:
    return len(np.unique(votes.rater[chosen]))


def _figures(votes: Votes, own: Bools, others: Bools) -> dict[str, Any]:
    """Agreement within the group; and how its preferences differ from those of the others."""
    number = int(own.sum())
    within = agreement.patterns(votes.item[own], votes.value[own])
    longer, theirs = _prefers_longer(votes, own), _prefers_longer(votes, others)
    return {
        "raters": _num_raters(votes, own),
        "votes": number,
        "tie_share": float((votes.value[own] == TIE).mean()) if number else None,
        "both_bad_share": float((votes.value[own] == BOTH_BAD).mean()) if number else None,
        "raw": agreement.raw(within),
        "alpha_nominal": agreement.alpha(within, "nominal"),
        "opposed_by_others": _opposed(votes, own, others),
        "prefers_longer": longer,
        "prefers_longer_difference": _difference(longer, theirs),
    }


def _prefers_longer(votes: Votes, chosen: Bools) -> Estimate | None:
    """Share of decided votes for the longer reply; the rater is what is drawn."""
    asked = chosen & (votes.value < TIE) & (votes.lead != 0)
    longer = (votes.value[asked] == FIRST) == (votes.lead[asked] > 0)
    return clustered(longer.astype(float), votes.rater[asked].astype(str))


def _difference(own: Estimate | None, others: Estimate | None) -> Estimate | None:
    if own is None or others is None:
        return None
    value = own.value - others.value
    if own.high is None or others.high is None:
        return Estimate(value, own.n)
    half = float(np.hypot(own.high - own.value, others.high - others.value))
    return Estimate(value, own.n, value - half, value + half)


def _opposed(votes: Votes, own: Bools, others: Bools) -> Estimate | None:
    """On comparisons that both sides decided: how often one of the group and one of the others choose otherwise."""
    size = 2 * (int(votes.item.max(initial=-1)) + 1)
    counts = [
        np.bincount(2 * votes.item[side] + votes.value[side], minlength=size).reshape(-1, 2)
        for side in (own & (votes.value < TIE), others & (votes.value < TIE))
    ]
    pairs = counts[0].sum(1) * counts[1].sum(1)
    both = pairs > 0
    against = (counts[0] * counts[1][:, ::-1]).sum(1)
    return clustered(against[both] / pairs[both], np.flatnonzero(both).astype(str))
