"""How many rows of what length a run learns from: counted in data/prepared, else guessed from the sources."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from tasks import world
from tasks.rlhf.passes import Lengths
from tasks.rlhf.workload import Rows

FOLDS = ("train", "judge", "dev", "test")
# Of the simulated world, by its tokenizer of 900: distinct prompts, safety prompts; tokens of prompt and replies.
WORLD_PROMPTS, WORLD_SAFETY = 1208, 240
WORLD_PROMPT, WORLD_REPLY, WORLD_PAIR_REPLY = 9.5, 17.5, 18.7
STEPS_PROMPT, STEPS_REPLY = 17.0, 21.0
CHARACTERS_PER_TOKEN = 4.0  # of English by a vocabulary of tens of thousands, a rule of thumb


def count(document: Mapping[str, Any], data: Path) -> tuple[Rows, str]:
    """The rows, and where the figures come from. ValueError where the sources do not tell."""
    if _is_prepared(document, data):
        return _with_collected(_prepared(data / "prepared"), document, _simulated(data)), f"counted in {data}/prepared"
    rows, simulated, said = _guessed(document, data)
    return _with_collected(rows, document, simulated), said


def _is_prepared(document: Mapping[str, Any], data: Path) -> bool:
    """Whether data/prepared is there, and made of the sources that the parameters name now."""
    report = data / "reports/ingest.json"
    if not report.is_file() or not (data / "prepared/canary.json").is_file():
        return False
    made = json.loads(report.read_text(encoding="utf-8"))["params"]
    named = document["ingest"]["sources"]
    same = len(named) == len(made["sources"]) and all(
        source.items() <= had.items() for source, had in zip(named, made["sources"], strict=True)
    )
    return same and made["world"] == document["world"]


def _prepared(folder: Path) -> Rows:
    demonstrations = _lengths(folder / "demonstrations", "prompt_ids", "reply_ids")
    prompts = {fold: _lengths(folder / f"prompts/{fold}", "prompt_ids") for fold in FOLDS}
    return Rows(
        demonstrations=demonstrations,
        pairs={fold: _lengths(folder / f"pairs/{fold}", "prompt_ids", "a_ids", "b_ids") for fold in FOLDS},
        prompts={fold: Lengths(each.rows, each.prompt, demonstrations.reply) for fold, each in prompts.items()},
        solutions={
            fold: _lengths(path, "prompt_ids", "reply_ids")
            for fold in ("train", "test")
            if (path := folder / f"solutions/{fold}").is_dir()
        },
        conduct=_lengths(folder / "safety/test", "prompt_ids"),
    )


def _lengths(path: Path, prompt: str, *replies: str) -> Lengths:
    import pyarrow.compute as pc

    from tasks.records import read_table

    table = read_table(path, [prompt, *replies])

    def mean(name: str) -> float:
        return float(pc.mean(pc.list_value_length(table[name])).as_py() or 0.0)

    means = [mean(name) for name in replies]
    return Lengths(table.num_rows, mean(prompt), sum(means) / len(means) if means else 0.0)


def _simulated(data: Path) -> dict[str, int]:
    """Prompts of the simulated world in each fold: those that `collect` can ask for."""
    import pyarrow.parquet as pq

    sources = {fold: pq.read_table(data / f"prepared/prompts/{fold}", columns=["source"]) for fold in FOLDS}
    return {fold: Counter(table["source"].to_pylist())[world.SOURCE] for fold, table in sources.items()}


def _with_collected(rows: Rows, document: Mapping[str, Any], simulated: Mapping[str, float]) -> Rows:
    """The pairs with those that `collect` adds: replies of the SFT policy, at most as many as asked for."""
    asked = asked_by_collect(document, simulated)
    pairs = {}
    for fold, given in rows.pairs.items():
        number = asked.get(fold, 0) * document["collect"]["replies_per_prompt"] / 2
        total, prompts = given.rows + number, rows.prompts[fold]
        share = number / total if total else 0.0
        prompt, reply = (
            (1 - share) * g + share * c for g, c in ((given.prompt, prompts.prompt), (given.reply, prompts.reply))
        )
        pairs[fold] = Lengths(total, prompt, reply)
    return replace(rows, pairs=pairs)


def asked_by_collect(document: Mapping[str, Any], simulated: Mapping[str, float]) -> dict[str, float]:
    """Prompts that `collect` asks the SFT policy, by fold."""
    section = document["collect"]
    if section["labeller"] == "none":
        return {}
    return {fold: min(section["prompts_per_fold"], number) for fold, number in simulated.items()}


def _guessed(document: Mapping[str, Any], data: Path) -> tuple[Rows, dict[str, float], str]:
    shares = {"train": 1 - sum(document["folds"].values()), **document["folds"]}
    demonstrations: list[Lengths] = []
    pairs: list[Lengths] = []
    solutions: list[Lengths] = []
    simulated, safety, said = 0.0, 0.0, []
    for source in document["ingest"]["sources"]:
        if source["kind"] == "world":
            sizes = document["world"]
            demonstrations.append(Lengths(sizes["num_demonstrations"], WORLD_PROMPT, WORLD_REPLY))
            pairs.append(Lengths(sizes["num_preferences"], WORLD_PROMPT, WORLD_PAIR_REPLY))
            simulated, safety = simulated + WORLD_PROMPTS, WORLD_SAFETY
            said.append("world")
        elif source["kind"] == "world_steps":
            demonstrations.append(Lengths(source["num_demonstrations"], STEPS_PROMPT, STEPS_REPLY))
            solutions.append(Lengths(source["num_solutions"], STEPS_PROMPT, STEPS_REPLY))
            simulated += source["num_prompts"]
            said.append("world_steps")
        elif source["kind"] == "file":
            pairs.append(_file(data / "inputs" / source["path"], document["model"]["max_length"]))
            demonstrations += pairs[-1:] if source.get("demonstrations") == "chosen" else []
            said.append(source["path"])
        else:
            raise ValueError(
                f"ingest.sources: how large {source['path']} is nobody knows before it is read: run `dvc repro "
                "prepare` first, or estimate with a local file"
            )
    taught, compared = _join(demonstrations), _join(pairs)
    prompts = Lengths(simulated or compared.rows, compared.prompt, taught.reply)
    guess = Rows(
        demonstrations=_part(taught, shares["train"]),
        pairs={fold: _part(compared, shares[fold]) for fold in FOLDS},
        prompts={fold: _part(prompts, shares[fold]) for fold in FOLDS},
        solutions={fold: _part(_join(solutions), shares[fold]) for fold in ("train", "test")},
        conduct=Lengths(safety * shares["test"], prompts.prompt, prompts.reply),
    )
    return (
        guess,
        {fold: simulated * shares[fold] for fold in FOLDS},
        f"guessed from the sources ({', '.join(said)}): nothing is prepared yet",
    )


def _file(path: Path, max_length: int) -> Lengths:
    """Each row as a pair whose text is one third prompt and a third each reply."""
    from tasks.preferences.containers import parts
    from tasks.preferences.screen import Row

    rows, characters = 0, 0
    for row in chain.from_iterable(part.open(Counter()) for part in parts(path)):
        if isinstance(row, Row):
            rows, characters = rows + 1, characters + _characters(row.value)
    if not rows:
        raise ValueError(f"{path}: no row that can be read")
    each = characters / rows / CHARACTERS_PER_TOKEN / 3
    return Lengths(rows, min(each, max_length / 2), min(each, max_length / 2))


def _characters(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(_characters, value.values()))
    return sum(map(_characters, value)) if isinstance(value, list) else 0


def _join(parts: list[Lengths]) -> Lengths:
    rows = sum(part.rows for part in parts)
    if not rows:
        return Lengths(0, 0, 0)
    prompt, reply = (sum(part.rows * getattr(part, side) for part in parts) / rows for side in ("prompt", "reply"))
    return Lengths(rows, prompt, reply)


def _part(whole: Lengths, share: float) -> Lengths:
    return Lengths(whole.rows * share, whole.prompt, whole.reply)
