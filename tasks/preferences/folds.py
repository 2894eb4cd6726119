"""Folds by hash of a row's cluster: prompt-disjoint, and a row never changes side when data is added."""

import hashlib
from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

FOLDS = ("train", "judge", "dev", "test")
SEALED = "sealed"  # of no stage: see data/README.md

_Share = Annotated[float, Field(gt=0, lt=1)]


class Shares(BaseModel):
    """Shares of the prompts; train has the rest."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    judge: _Share
    dev: _Share
    test: _Share
    sealed: Annotated[float, Field(ge=0, lt=1)]

    @model_validator(mode="after")
    def _leaves_some(self) -> "Shares":
        total = self.judge + self.dev + self.test + self.sealed
        if total >= 1:
            raise ValueError(f"the shares add up to {total:g}: nothing is left to train on; lower one of them")
        return self


def fold_of(cluster: str, shares: Mapping[str, float]) -> str:
    """The fold of a cluster, where `shares` gives the shares of test, dev, judge and sealed; train has the rest.

    Test comes first on the line from 0 to 1, so that changing a later share moves no row into or out of it, and
    sealed comes last: it takes from train alone.
    """
    position = int.from_bytes(hashlib.sha256(cluster.encode()).digest()[:8], "big") / 2**64
    edge = 0.0
    for name in ("test", "dev", "judge"):
        edge += shares[name]
        if position < edge:
            return name
    return SEALED if position >= 1 - shares.get(SEALED, 0.0) else "train"
