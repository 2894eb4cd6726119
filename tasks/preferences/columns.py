"""Columns of numbers that grow, many rows at a time."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


class Column:
    """An array that grows."""

    def __init__(self, dtype: Any, fill: int = 0) -> None:
        self._values, self._fill, self._count = np.full(1024, fill, dtype=dtype), fill, 0

    def __getitem__(self, index: Any) -> Any:
        return self._values[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        self._values[index] = value

    def __len__(self) -> int:
        return self._count

    def extend(self, values: Any) -> None:
        count = self._count + len(values)
        if count > len(self._values):
            grown = np.full(max(count, 3 * len(self._values) // 2), self._fill, dtype=self._values.dtype)
            grown[: self._count] = self._values[: self._count]
            self._values = grown
        self._values[self._count : count] = values
        self._count = count

    def restore(self, values: Any) -> None:
        """Become what another was."""
        self._values, self._count = values, len(values)

    @property
    def values(self) -> Any:
        return self._values[: self._count]

    @property
    def nbytes(self) -> int:
        return int(self._values.nbytes)


def save_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """An .npz file, not packed: what is packed takes longer to read than to make."""
    np.savez(path, **arrays)
