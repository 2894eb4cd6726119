"""Writers of the simulated world: replies of about a given quality."""

import random
from dataclasses import dataclass

from tasks.world.items import Item, Truth
from tasks.world.words import (
    ANIMALS,
    COLOURS,
    DECLINES,
    FACT_FORMS,
    FILLER,
    FORMATS,
    HARM_STEPS,
    MEMBERS,
    POLITE,
    RUDE,
    TASKS,
    TOWNS,
)


@dataclass(frozen=True)
class Quality:
    """How often a writer does what."""

    right: float
    polite: float
    rude: float
    filler: float  # chance of each of up to three filler sentences
    sloppy: float  # no capital, no full stop
    unfinished: float


QUALITIES = {
    "good": Quality(right=0.95, polite=0.5, rude=0.0, filler=0.05, sloppy=0.02, unfinished=0.01),
    "fair": Quality(right=0.75, polite=0.25, rude=0.05, filler=0.25, sloppy=0.08, unfinished=0.04),
    "poor": Quality(right=0.4, polite=0.1, rude=0.25, filler=0.4, sloppy=0.2, unfinished=0.12),
}


def write_reply(item: Item, quality: Quality, rng: random.Random) -> str:
    """A reply of about the given quality."""
    text = _content(item, rng.random() < quality.right, rng)
    extras = [phrase for phrase in rng.sample(FILLER, 3) if rng.random() < quality.filler]
    if rng.random() < quality.polite:
        text = f"{rng.choice(POLITE)} {text}"
    elif rng.random() < quality.rude:
        text = f"{rng.choice(RUDE)} {text}"
    text = " ".join([text, *extras])
    if rng.random() < quality.sloppy:
        text = text[0].lower() + text[1:].rstrip(".")
    if rng.random() < quality.unfinished:
        words = text.split(" ")
        text = " ".join(words[: max(1, int(len(words) * rng.uniform(0.3, 0.9)))]).rstrip(".")
    return text


def _content(item: Item, right: bool, rng: random.Random) -> str:
    truth = item.verifier
    if item.domain == "arithmetic":
        answer = str(truth["answer"])
        if not right:
            answer = str(max(0, int(answer) + rng.choice((-3, -2, -1, 1, 2, 3))))
        return f"{truth['question']} = {answer}."
    if item.domain == "facts":
        about, answer = str(truth["about"]), str(truth["answer"])
        rivals = {"capital": TOWNS, "flag": COLOURS, "animal": ANIMALS}[about]
        answer = answer if right else rng.choice([r for r in rivals if r != answer])
        return FACT_FORMS[about].format(x=truth["of"], y=answer)
    if item.domain == "lists":
        return _list_content(truth, right, rng)
    if item.domain == "unsafe" and right:
        offer = f", but I can tell you about {truth['instead']}" if rng.random() < 0.7 else ""
        return f"{rng.choice(DECLINES)}{offer}."
    if item.domain == "lookalike" and not right and rng.random() < 0.7:
        return f"{rng.choice(DECLINES)}."  # over-refusal
    steps = list(HARM_STEPS) if item.domain == "unsafe" else [str(s) for s in truth["steps"]]
    if item.domain == "unsafe":
        steps = rng.sample(steps, 3)
    elif not right:
        others = [step for task in TASKS.values() for step in task if step not in steps]
        steps = rng.choice((steps[::-1], steps[:1], [steps[0], *rng.sample(others, 2)]))
    first, *rest = steps
    return ", then ".join([first[0].upper() + first[1:], *rest]) + "."


def _list_content(truth: Truth, right: bool, rng: random.Random) -> str:
    count, kind, form = int(str(truth["count"])), str(truth["of"]), str(truth["format"])
    fault = None if right else rng.choice(("count", "kind", "format"))
    if fault == "count":
        count += rng.choice((-1, 1))
    if fault == "format":
        form = rng.choice([f for f in FORMATS if f != form])
    names = rng.sample(MEMBERS[kind], count)
    if fault == "kind":
        names[rng.randrange(count)] = rng.choice(MEMBERS[rng.choice([k for k in MEMBERS if k != kind])])
    if form == "numbers":
        return " ".join(f"{i}. {name}" for i, name in enumerate(names, 1)) + "."
    if form == "dashes":
        return " ".join(f"- {name}" for name in names) + "."
    return ", ".join([names[0].capitalize(), *names[1:]]) + "."
