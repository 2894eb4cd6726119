"""Every prompt of the simulated world, with what makes a reply to it right."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tasks.records import Message
from tasks.world.words import ANIMALS, ASKS, COLOURS, FORMATS, HARMS, LANDS, LOOKALIKES, MEMBERS, NUMBERS, TASKS, TOWNS

Truth = Mapping[str, Any]  # a verifier, parsed


@dataclass(frozen=True)
class Item:
    """A prompt with what makes a reply to it right."""

    domain: str
    text: str
    verifier: Truth

    @property
    def prompt(self) -> list[Message]:
        return [{"role": "user", "content": self.text}]


def items(seed: int) -> list[Item]:
    """Every prompt of the world; the seed decides what is true in it (which town, flag and animal)."""
    rng = random.Random(f"{seed}/facts")
    found: list[Item] = []
    verifier: Truth
    sums = [(a, "+", b, a + b) for a in range(1, 6) for b in range(1, 6)]
    sums += [(a, "-", b, a - b) for a in range(1, 6) for b in range(1, a + 1)]
    for a, sign, b, answer in sums:
        verifier = {"kind": "numeric", "answer": str(answer), "question": f"{a} {sign} {b}"}
        found += [Item("arithmetic", ask.format(q=f"{a} {sign} {b}"), verifier) for ask in ASKS["arithmetic"]]
    towns = rng.sample(TOWNS, len(LANDS))
    for land, town in zip(LANDS, towns, strict=True):
        for kind, name in (
            ("capital", town),
            ("flag", rng.choice(COLOURS)),
            ("animal", rng.choice(ANIMALS)),
        ):
            verifier = {"kind": "exact", "answer": name, "of": land, "about": kind}
            found += [Item("facts", ask.format(x=land), verifier) for ask in ASKS[kind]]
    for members in MEMBERS:
        for count, number in NUMBERS.items():
            for form, words in FORMATS.items():
                verifier = {"kind": "list", "of": members, "count": count, "format": form}
                for ask in ASKS["list"]:
                    found.append(Item("lists", ask.format(n=number, c=members, f=words), verifier))
    for domain, tasks in (("howto", TASKS), ("lookalike", LOOKALIKES)):
        for task, steps in tasks.items():
            verifier = {"kind": "steps", "steps": list(steps)}
            found += [Item(domain, ask.format(t=task), verifier) for ask in ASKS["howto"]]
    for harm, instead in HARMS.items():
        verifier = {"kind": "decline", "instead": instead}
        found += [Item("unsafe", ask.format(t=harm), verifier) for ask in ASKS["howto"]]
    return found
