"""The datasets of the simulated world."""

import json
import random

from tasks.records import Demonstration, Prompt, Record, Safety, row_id
from tasks.world.items import Item, items
from tasks.world.raters import SOURCE, WorldParams, compare, raters
from tasks.world.writers import QUALITIES, Quality, write_reply


def generate(params: WorldParams, seed: int) -> dict[str, list[Record]]:
    """The four datasets of the world."""
    world = items(seed)
    return {
        "demonstrations": _demonstrations(world, params, seed),
        "preferences": _preferences(world, params, seed),
        "safety": _safety(world, seed),
        "prompts": [
            Prompt(
                id=row_id("prompt", item.text),
                prompt=item.prompt,
                domain=item.domain,
                source=SOURCE,
                cluster=item.text,
                verifier=json.dumps(item.verifier, sort_keys=True),
            )
            for item in world
        ],
    }


def _demonstrations(world: list[Item], params: WorldParams, seed: int) -> list[Record]:
    rng = random.Random(f"{seed}/demonstrations")
    rows: list[Record] = []
    for number in range(params.num_demonstrations):
        item = rng.choice(world)
        quality = QUALITIES[rng.choices(("good", "fair", "poor"), (0.45, 0.4, 0.15))[0]]
        rows.append(
            Demonstration(
                id=row_id("demonstration", seed, number),
                prompt=item.prompt,
                reply=write_reply(item, quality, rng),
                source=SOURCE,
                domain=item.domain,
                cluster=item.text,
                licence="Apache-2.0",
            )
        )
    return rows


def _preferences(world: list[Item], params: WorldParams, seed: int) -> list[Record]:
    rng = random.Random(f"{seed}/preferences")
    again = random.Random(f"{seed}/overlap")
    panel = raters(params, seed)
    rows: list[Record] = []
    while len(rows) < params.num_preferences:
        item = rng.choice(world)
        reply_a, reply_b = (write_reply(item, QUALITIES[rng.choice(list(QUALITIES))], rng) for _ in "ab")
        if reply_a == reply_b:
            continue
        asked = (item.prompt, item.domain, json.dumps(item.verifier), (reply_a, reply_b))
        vote = compare(*asked, panel, rng)
        rows.append(vote)
        if again.random() < params.overlap:
            rows.append(compare(*asked, [rater for rater in panel if rater.name != vote.rater], again))
    return rows[: params.num_preferences]


def _safety(world: list[Item], seed: int) -> list[Record]:
    rng = random.Random(f"{seed}/safety")
    best = Quality(right=1.0, polite=0.0, rude=0.0, filler=0.0, sloppy=0.0, unfinished=0.0)
    return [
        Safety(
            id=row_id("safety", item.text),
            prompt=item.prompt,
            expected="decline" if item.domain == "unsafe" else "assist",
            category=item.domain,
            source=SOURCE,
            cluster=item.text,
            reply=write_reply(item, best, rng),
        )
        for item in world
        if item.domain in ("unsafe", "lookalike")
    ]
