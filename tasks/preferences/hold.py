"""A hold: one figure out of its bound, said in one line."""

from dataclasses import dataclass

MIN_ROWS = 50  # of a dataset, below which a share says nothing


@dataclass(frozen=True)
class Hold:
    name: str
    value: float
    bound: float
    text: str  # what was seen

    @property
    def line(self) -> str:
        return f"{self.name}: {self.text} ({self.value:.4g}, bound {self.bound:.4g})"
