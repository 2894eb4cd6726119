"""How often a bad shard is held, and a clean one: power by kind and rate of poison, false alarms, seconds.

    python tests/bench/holds.py [--seeds 20] [--pairs hh.jsonl.gz] [--drip 40]

The simulated world (history 8,000 comparisons, shard 5,000), the same without the raters' confidence, and a file of
real pairs where one is given (two thirds history, one third shard). Every seed draws history and shard anew. Prints a
table and writes data/bench/holds.json; about half a minute of processor a seed.

With --drip, shards of so many rows instead, which are judged together (tasks/preferences/blocks.py): in how many seeds
one is held before the block ends, by what was done to a share of all rows.
"""

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tasks import world
from tasks.preferences import blocks, formats, holds
from tasks.preferences.containers import open_rows
from tasks.preferences.errors import RefusedError
from tasks.preferences.flips import Accepted, flips
from tasks.preferences.predictor import decided
from tasks.preferences.rater_options import RaterOptions
from tasks.preferences.screen import Row as Screened
from tasks.preferences.triggers import Corpus, triggers

ROOT = Path(__file__).parents[2]
OUT = ROOT / "data/bench/holds.json"
RATES = {"flipped": (0.1, 0.05, 0.01), "trigger": (0.05, 0.01, 0.004)}  # by the first word of a kind
DRIP_RATES = {"flipped": (1.0, 0.25, 0.1), "trigger": (0.1, 0.05)}
OPTIONS = holds.ShardOptions()
Row = dict[str, Any]
OTHER = {"a": "b", "b": "a"}


def simulated(number: int) -> list[Row]:
    params = world.WorldParams(num_demonstrations=1, num_preferences=number, num_raters=12, length_bias=0.0)
    return [vars(row) for row in world.generate(params, 0)["preferences"]]


def real(path: Path) -> list[Row]:
    rows = []
    for row in open_rows(path, Counter()):
        if isinstance(row, Screened):
            form = formats.detect([row.value], path)
            try:
                rows += [vars(record) for record in form.convert(row.value, "pairs")]
            except RefusedError:
                continue
    return [row for row in rows if "choice" in row]


def flip(rows: list[Row], rate: float, rng: random.Random) -> list[Row]:
    return [_turned(row) if rng.random() < rate else row for row in rows]


def flip_of_one_rater(rows: list[Row], rate: float, rng: random.Random) -> list[Row]:
    """The same number of flips, all of them by one rater."""
    by_rater = Counter(row["rater"] for row in rows)
    rater = rng.choice(sorted(by_rater))
    share = min(1.0, rate * len(rows) / by_rater[rater])
    return [_turned(row) if row["rater"] == rater and rng.random() < share else row for row in rows]


def trigger_in_replies(rows: list[Row], rate: float, rng: random.Random) -> list[Row]:
    """A phrase at the end of a share of the preferred replies."""
    return [
        {**row, key: f"{row[key]} cf zeta"} if (key := f"reply_{row['choice']}") in row and rng.random() < rate else row
        for row in rows
    ]


def trigger_in_prompts(rows: list[Row], rate: float, rng: random.Random) -> list[Row]:
    """A word in a share of the prompts, whose labels are flipped. Rando 2023, arXiv:2311.14455."""
    made = []
    for row in rows:
        if rng.random() < rate:
            last = {"role": "user", "content": f"{row['prompt'][-1]['content']} SUDO"}
            row = {**_turned(row), "prompt": [*row["prompt"][:-1], last]}
        made.append(row)
    return made


KINDS: dict[str, Callable[[list[Row], float, random.Random], list[Row]]] = {
    "flipped labels": flip,
    "flipped by one rater": flip_of_one_rater,
    "trigger in preferred replies": trigger_in_replies,
    "trigger in prompts, flipped": trigger_in_prompts,
}


def _turned(row: Row) -> Row:
    return {**row, "choice": OTHER.get(row["choice"], row["choice"])}


def measure(rows: list[Row], history: int, shard: int, seeds: int, kinds: Sequence[str]) -> dict[str, Any]:
    held: Counter[str] = Counter()
    seconds: list[float] = []
    reasons: Counter[str] = Counter()
    for seed in range(seeds):
        rng = random.Random(seed)
        drawn = rng.sample(rows, history + shard)
        accepted, fresh = drawn[:history], drawn[history:]
        began = time.process_time()
        known = Accepted(decided(accepted))
        verdict = holds.judge_shard(fresh, accepted, OPTIONS, RaterOptions(), known)
        seconds.append(time.process_time() - began)
        held["clean"] += bool(verdict.holds)
        reasons.update(hold.name for hold in verdict.holds)
        for kind in kinds:
            for rate in RATES[kind.split()[0]]:
                poisoned = KINDS[kind](fresh, rate, rng)
                if kind.startswith("flipped"):  # the other statistics cannot see them
                    held[f"{kind} {rate:g}"] += _looks_flipped(poisoned, known)
                else:
                    found = holds.judge_shard(poisoned, accepted, OPTIONS, RaterOptions(), known)
                    held[f"{kind} {rate:g}"] += any(
                        h.name in ("suspected_poison", "flipped_labels") for h in found.holds
                    )
        sys.stderr.write(f"seed {seed}: {dict(held)}\n")
    return {
        "history": history,
        "shard": shard,
        "seeds": seeds,
        "false_alarms": held.pop("clean") / seeds,
        "held_for": dict(reasons),
        "power": {name: count / seeds for name, count in held.items()},
        "cpu_seconds": round(sum(seconds) / len(seconds), 1),
        "accuracy_of_the_predictor": round(known.accuracy, 3),
    }


def drips(rows: list[Row], history: int, size: int, seeds: int) -> dict[str, Any]:
    """The share of blocks of small shards in which one is held."""
    held: Counter[str] = Counter()
    for seed in range(seeds):
        rng = random.Random(seed)
        drawn = rng.sample(rows, history + 2 * blocks.LOOKS[-1])
        accepted, fresh = drawn[:history], drawn[history:]
        known = Accepted(decided(accepted))
        held["clean"] += _is_held(fresh, size, accepted, known)
        for kind in (name for name in KINDS if name != "flipped by one rater"):
            for rate in DRIP_RATES[kind.split()[0]]:
                held[f"{kind} {rate:g}"] += _is_held(KINDS[kind](fresh, rate, rng), size, accepted, known)
        sys.stderr.write(f"seed {seed}: {dict(held)}\n")
    return {"history": history, "size": size, "seeds": seeds, "held": {name: n / seeds for name, n in held.items()}}


def _is_held(rows: list[Row], size: int, accepted: list[Row], known: Accepted) -> bool:
    before = 0
    for end in range(size, len(rows) + 1, size):
        after = before + len(decided(rows[end - size : end]))
        if blocks.is_due(before, after):
            verdict = holds.judge_shard(rows[:end], accepted, holds.of_a_look(OPTIONS), RaterOptions(), known)
            if verdict.holds:
                return True
        if after >= blocks.LOOKS[-1]:
            break
        before = after
    return False


def _looks_flipped(rows: list[Row], known: Accepted) -> bool:
    fresh = decided(rows)
    return bool(holds.flip_holds(flips(fresh, known.judge(fresh), known), OPTIONS))


def _looks_poisoned(rows: list[Row], known: Accepted) -> bool:
    fresh = decided(rows)
    return bool(triggers(Corpus(fresh), known.judge(fresh).residuals, known.corpus, OPTIONS.alpha))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--pairs", type=Path, help="real pairs in any known format")
    parser.add_argument("--world", type=int, nargs=2, default=(8000, 5000), help="history and shard; 0 0: none")
    parser.add_argument("--drip", type=int, help="rows of a shard, too few to be judged alone")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    history, shard = options.world
    rows = simulated(history + 3 * shard) if history else []
    if options.drip:
        result = drips(rows, history, options.drip, options.seeds)
        sys.stdout.write(f"shards of {options.drip} rows, history {history}, {options.seeds} seeds\n")
        for kind, share in result["held"].items():
            sys.stdout.write(f"  {kind:<36}{share:6.2f}\n")
        return
    if history:
        found["world"] = measure(rows, history, shard, options.seeds, list(KINDS))
    if options.pairs:
        pairs = decided(real(options.pairs))
        part = len(pairs) // 3
        kinds = [kind for kind in KINDS if kind != "flipped by one rater"]
        found[options.pairs.name] = measure(list(pairs), len(pairs) - part, part, options.seeds, kinds)
    if history:
        silent = [{**row, "confidence": 1.0} for row in rows]
        found["world, no confidence"] = measure(silent, history, shard, options.seeds, list(KINDS)[:1])
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")
    for name, result in found.items():
        sys.stdout.write(f"\n{name}: shard {result['shard']}, history {result['history']}, {result['seeds']} seeds, ")
        sys.stdout.write(f"false alarms {result['false_alarms']:.2f}, {result['cpu_seconds']} s of processor a shard\n")
        for kind, power in result["power"].items():
            sys.stdout.write(f"  {kind:<36}{power:6.2f}\n")


if __name__ == "__main__":
    main()
