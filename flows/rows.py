"""How many rows of what length a run learns from: counted in data/prepared, else guessed from the sources."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

from tasks import world
from tasks.records import CANARY, read_table
from tasks.rlhf.passes import Lengths, join
from tasks.rlhf.workload import Rows

FOLDS = ("train", "judge", "dev", "test")
# Of the simulated world, by its tokenizer of 900: distinct prompts, safety prompts; tokens of prompt and replies.
WORLD_PROMPTS, WORLD_SAFETY = 1208, 240
WORLD_PROMPT, WORLD_REPLY, WORLD_PAIR_REPLY = 9.5, 17.5, 18.7
STEPS_PROMPT, STEPS_REPLY = 17.0, 21.0
JUDGED = frozenset({"feedback", "canonical_feedback"})  # formats of replies judged one by one
SAMPLE = 256  # rows by which that is told
CHARACTERS_PER_TOKEN = 4.0  # of English by a vocabulary of tens of thousands, a rule of thumb


def count(document: Mapping[str, Any], data: Path) -> tuple[Rows, str]:
    """The rows, and where the figures come from. ValueError where the sources do not tell."""
    if is_prepared(document, data):
        return _with_collected(_prepared(data / "prepared"), document, _simulated(data)), f"counted in {data}/prepared"
    rows, simulated, said = _guessed(document, data)
    return _with_collected(rows, document, simulated), said


def is_prepared(document: Mapping[str, Any], data: Path) -> bool:
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
        planted=sum(_sources(folder / f"pairs/{fold}")[CANARY] for fold in ("train", "judge")),
        feedback=_of_folds(folder / "feedback", FOLDS),
        solutions=_of_folds(folder / "solutions", ("train", "test")),
        conduct=_lengths(folder / "safety/test", "prompt_ids"),
    )


def _of_folds(folder: Path, folds: Sequence[str]) -> dict[str, Lengths]:
    found = {fold: folder / fold for fold in folds}
    return {fold: _lengths(path, "prompt_ids", "reply_ids") for fold, path in found.items() if path.is_dir()}


def _lengths(path: Path, prompt: str, *replies: str) -> Lengths:
    import pyarrow.compute as pc

    table = read_table(path, [prompt, *replies])

    def mean(name: str) -> float:
        return float(pc.mean(pc.list_value_length(table[name])).as_py() or 0.0)

    means = [mean(name) for name in replies]
    different = _different(table, prompt, replies) / table.num_rows if len(replies) > 1 and table.num_rows else 2.0
    return Lengths(table.num_rows, mean(prompt), sum(means) / len(means) if means else 0.0, different)


def _different(table: Any, prompt: str, replies: Sequence[str]) -> int:
    """How many replies there are, each counted once with its prompt."""
    prompts = _hashes(table[prompt])
    return len({pair for name in replies for pair in zip(prompts, _hashes(table[name]), strict=True)})


def _hashes(column: Any) -> list[int]:
    """Of lists of numbers; equal ones are alike in this process."""
    lists = column.combine_chunks()
    numbers, ends = lists.values.to_numpy(), lists.offsets.to_numpy()
    return [hash(numbers[start:end].tobytes()) for start, end in pairwise(ends)]


def _simulated(data: Path) -> dict[str, int]:
    """Prompts of the simulated world in each fold: those that `collect` can ask for."""
    return {fold: _sources(data / f"prepared/prompts/{fold}")[world.SOURCE] for fold in FOLDS}


def _sources(path: Path) -> Counter[str]:
    """Rows of a table by where they come from."""
    return Counter(read_table(path, ["source"])["source"].to_pylist())


def _with_collected(rows: Rows, document: Mapping[str, Any], simulated: Mapping[str, float]) -> Rows:
    """The pairs with those that `collect` adds: replies of the SFT policy, at most as many as asked for."""
    asked = asked_by_collect(document, simulated)
    pairs = {}
    for fold, given in rows.pairs.items():
        number = asked.get(fold, 0) * document["collect"]["replies_per_prompt"] / 2
        total, prompts = given.rows + number, rows.prompts[fold]
        share = number / total if total else 0.0
        prompt, reply, replies = (
            (1 - share) * g + share * c
            for g, c in ((given.prompt, prompts.prompt), (given.reply, prompts.reply), (given.replies, 2.0))
        )
        pairs[fold] = Lengths(total, prompt, reply, replies)
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
    judged: list[Lengths] = []
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
            of_file, is_judged = _file(source, data, document["model"]["max_length"])
            (judged if is_judged else pairs).append(of_file)
            demonstrations += [of_file] if source.get("demonstrations") == "chosen" else []
            said.append(source["path"])
        else:
            raise ValueError(
                f"ingest.sources: how large {source['path']} is nobody knows before it is read: run `dvc repro "
                "prepare` first, or estimate with a local file"
            )
    taught, compared, asked = join(demonstrations), join(pairs), join([*pairs, *judged])
    prompts = Lengths(simulated or asked.rows, asked.prompt, taught.reply)
    guess = Rows(
        demonstrations=_part(taught, shares["train"]),
        pairs={fold: _part(compared, shares[fold]) for fold in FOLDS},
        feedback={fold: _part(join(judged), shares[fold]) for fold in FOLDS},
        prompts={fold: _part(prompts, shares[fold]) for fold in FOLDS},
        solutions={fold: _part(join(solutions), shares[fold]) for fold in ("train", "test")},
        conduct=Lengths(safety * shares["test"], prompts.prompt, prompts.reply),
    )
    return (
        guess,
        {fold: simulated * shares[fold] for fold in FOLDS},
        f"guessed from the sources ({', '.join(said)}): nothing is prepared yet",
    )


def _file(source: Mapping[str, Any], data: Path, max_length: int) -> tuple[Lengths, bool]:
    """Each row as a pair whose text is one third prompt and a third each reply; or, where the rows are replies judged
    one by one (True), as one that is half prompt and half reply.
    """
    from tasks.preferences.containers import parts
    from tasks.preferences.formats import matching
    from tasks.preferences.screen import Row

    path, form = data / "inputs" / source["path"], source.get("format", "auto")
    rows, characters, judged = 0, 0, 0
    for row in chain.from_iterable(part.open(Counter()) for part in parts(path)):
        if isinstance(row, Row):
            rows, characters = rows + 1, characters + _characters(row.value)
            if rows <= SAMPLE:
                judged += not JUDGED.isdisjoint(matching(row.value) if form == "auto" else (form,))
    if not rows:
        raise ValueError(f"{path}: no row that can be read")
    is_judged = 2 * judged > min(rows, SAMPLE)
    each = characters / rows / CHARACTERS_PER_TOKEN / (2 if is_judged else 3)
    return Lengths(rows, min(each, max_length / 2), min(each, max_length / 2)), is_judged


def _characters(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(_characters, value.values()))
    return sum(map(_characters, value)) if isinstance(value, list) else 0


def _part(whole: Lengths, share: float) -> Lengths:
    return replace(whole, rows=whole.rows * share)
