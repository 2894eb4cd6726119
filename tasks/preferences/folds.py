"""Folds by hash of a row's cluster: prompt-disjoint, and a row never changes side when data is added."""

import hashlib
from collections.abc import Mapping

FOLDS = ("train", "judge", "dev", "test")


def fold_of(cluster: str, shares: Mapping[str, float]) -> str:
    """The fold of a cluster, where `shares` gives the shares of test, dev and judge; train has the rest.

    Test comes first on the line from 0 to 1, so that changing a later share moves no row into or out of it.
    """
    position = int.from_bytes(hashlib.sha256(cluster.encode()).digest()[:8], "big") / 2**64
    edge = 0.0
    for name in ("test", "dev", "judge"):
        edge += shares[name]
        if position < edge:
            return name
    return "train"
