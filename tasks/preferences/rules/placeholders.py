"""Typed placeholders in place of what must not be kept: the same value gets the same one inside a row."""

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass

_PLACEHOLDER = re.compile(r"<([a-z_]{2,20})-(\d{1,6})>")
_PASSES = 5  # taking one value out may lay another one bare


@dataclass(frozen=True)
class Entity:
    start: int
    end: int
    kind: str
    value: str  # the same for the same thing, however it is written


Find = Callable[[str], Iterable[Entity]]


class Placeholders:
    """Names for the values of one row. What is redacted already keeps its name and is not named twice."""

    def __init__(self, text: str) -> None:
        self.names: dict[tuple[str, str], str] = {}
        self._last: dict[str, int] = {}
        for kind, number in _PLACEHOLDER.findall(text):
            self._last[kind] = max(self._last.get(kind, 0), int(number))

    def name(self, kind: str, value: str) -> str:
        if (kind, value) not in self.names:
            self._last[kind] = self._last.get(kind, 0) + 1
            self.names[kind, value] = f"<{kind}-{self._last[kind]}>"
        return self.names[kind, value]

    def apply(self, text: str, find: Find) -> str:
        """The text with every entity replaced."""
        for _ in range(_PASSES):
            entities = apart(find(text))
            if not entities:
                break
            parts, end = [], 0
            for entity in entities:
                parts += [text[end : entity.start], self.name(entity.kind, entity.value)]
                end = entity.end
            text = "".join([*parts, text[end:]])
        return text


def apart(entities: Iterable[Entity]) -> list[Entity]:
    """Those that do not overlap, in order of place; of two that do, the one found first stays."""
    kept: list[Entity] = []
    for entity in entities:
        place = bisect_left(kept, entity.start, key=_start)
        ends_before = place == 0 or kept[place - 1].end <= entity.start
        if ends_before and (place == len(kept) or entity.end <= kept[place].start):
            kept.insert(place, entity)
    return kept


def _start(entity: Entity) -> int:
    return entity.start
