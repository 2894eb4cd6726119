"""Preferences that cannot all be true: a over b, b over c, c over a, of one rater or of all together.

They stay: noise makes them, and what a model learns from them is noise of the same size. They are counted.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[Any]  # numbers below 2^32


def consistency(prompts: Ids, better: Ids, worse: Ids, raters: Ids) -> dict[str, int]:
    """Counts over decided comparisons, given by the numbers of their prompt, two replies and rater.

    `disagreements`: pairs of replies that were decided both ways; `cyclic_prompts`: those over whose replies the
    majorities of votes run in a circle; `cyclic_pairs`: pairs of replies in such circles; `cyclic_raters`: circles of
    one rater over one prompt.
    """
    prompts, better, worse, raters = (values.astype(np.uint64) for values in (prompts, better, worse, raters))
    pooled, num_disagreements = _majorities(prompts, better, worse)
    of_raters, _ = _majorities((prompts << np.uint64(32)) | raters, better, worse)
    cyclic_prompts, cyclic_pairs = _circles(*pooled)
    return {
        "disagreements": num_disagreements,
        "cyclic_prompts": cyclic_prompts,
        "cyclic_pairs": cyclic_pairs,
        "cyclic_raters": _circles(*of_raters)[0],
    }


def _majorities(groups: Ids, better: Ids, worse: Ids) -> tuple[tuple[Ids, Ids, Ids], int]:
    """((group, winner, loser) for each pair of a group that more votes decide one way, number decided both ways)."""
    low, high = np.minimum(better, worse), np.maximum(better, worse)
    won_by_low = np.where(better == low, 1, -1)
    order = np.lexsort((high, low, groups))
    groups, low, high, won_by_low = groups[order], low[order], high[order], won_by_low[order]
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = (groups[1:] != groups[:-1]) | (low[1:] != low[:-1]) | (high[1:] != high[:-1])
    first = np.flatnonzero(is_first)
    if not len(first):
        return (groups, low, high), 0
    margin = np.add.reduceat(won_by_low, first)
    votes = np.diff(np.append(first, len(order)))
    groups, low, high = groups[first], low[first], high[first]
    decided = (groups, np.where(margin > 0, low, high), np.where(margin > 0, high, low))
    is_decided = (margin != 0) & (low != high)
    return tuple(part[is_decided] for part in decided), int((np.abs(margin) < votes).sum())


def _circles(groups: Ids, winners: Ids, losers: Ids) -> tuple[int, int]:
    """(groups with a circle, pairs in circles): the pairs within strongly connected components."""
    _, group, counts = np.unique(groups, return_inverse=True, return_counts=True)
    is_enough = counts[group] >= 3  # a circle has three pairs at least
    if not is_enough.any():
        return 0, 0
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    owner = group[is_enough].astype(np.uint64) << np.uint64(32)
    ends = np.concatenate([owner | winners[is_enough], owner | losers[is_enough]])
    nodes, at = np.unique(ends, return_inverse=True)
    sources, targets = at[: len(owner)], at[len(owner) :]
    graph = coo_array((np.ones(len(owner), dtype=np.int8), (sources, targets)), shape=(len(nodes), len(nodes)))
    _, component = connected_components(graph.tocsr(), connection="strong")
    is_circular = component[sources] == component[targets]
    return len(np.unique(owner[is_circular])), int(is_circular.sum())
