"""What params.yaml asks of the prepared data, looked at before anything trains.

`reward` and `align` refuse the same when they start, which may be an hour of SFT later. It follows from data and
parameters together: parameters.py knows no data, and a stage that read all parameters would run again for each.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from flows import parameters
from tasks import solutions, world
from tasks.adapters import stage
from tasks.records import CANARY, read_table
from tasks.reward import FOLDS
from tasks.rlhf import algorithms
from tasks.rlhf.options import CHOICE

Document = Mapping[str, Any]  # params.yaml


def check(root: Path) -> None:
    """ValueError with a line per problem. Wants parameters that parameters.py has checked."""
    if parameters.is_ours(root):
        document, data = stage.read_yaml(root / stage.PARAMS), root / "data"
        asked = (_of_comparisons, _of_solutions, _of_prompts)
        if problems := [problem for find in asked for problem in find(document, data)]:
            raise ValueError("\n".join(problems))


def _of_comparisons(document: Document, data: Path) -> Iterator[str]:
    without = []
    for section, fold in FOLDS.items():
        name = f"data/prepared/pairs/{fold}"
        rows = read_table(data.parent / name, ["source", "scores"])
        given = rows.filter(pc.not_equal(rows["source"], CANARY))["scores"]
        if len(given):
            yield from _of_scores(document[section], section, set(given.unique().to_pylist()), name)
        elif not _collects(document, data, fold):
            without.append((section, name))
    if without:
        sections, names = (" and ".join(found) for found in zip(*without, strict=True))
        yield (
            f"{names}: no comparisons, and {sections} learn from nothing else; give a source that has some (KTO does "
            "without, by hand: `python -m tasks.sft`, `tasks.objective`, `tasks.align`, on replies judged one by one)"
        )


def _of_solutions(document: Document, data: Path) -> Iterator[str]:
    options = solutions.Params.model_construct(**document["solutions"])
    if options.train:
        try:
            solutions.check(data, options.canary_share)
        except ValueError as error:
            yield str(error)


def _of_scores(section: Document, name: str, found: set[str | None], where: str) -> Iterator[str]:
    """What `found`, the scores of comparisons by objective, does not have."""
    scores = {objective for text in found if text for objective in json.loads(text)}
    for objective in sorted((section.get("objectives") or {}).keys() - scores - {CHOICE}):
        there = ", ".join(sorted(scores)) or "none"
        yield (
            f"params.yaml: {name}.objectives.{objective}: no comparison of {where} carries scores for it (there are: "
            f"{there}); leave the objective out"
        )
    if (section.get("margin") or {}).get("source") == "scores" and not scores:
        yield f"params.yaml: {name}.margin.source = scores: no comparison of {where} carries any; set margin to null"


def _collects(document: Document, data: Path, fold: str) -> bool:
    """Whether `collect` will add comparisons to a fold."""
    if document["collect"]["labeller"] == "none":
        return False
    prompts = read_table(data / f"prepared/prompts/{fold}", ["source", "verifier"]).to_pylist()
    return any(row["source"] == world.SOURCE and row["verifier"] for row in prompts)


def _of_prompts(document: Document, data: Path) -> Iterator[str]:
    """Of algorithms that sample replies: `check_prompts` of tasks/rlhf/train_on_rollouts.py without a model."""
    section, name = document["align"], document["align"]["algorithm"]
    if algorithms.find(name)[0] != "policy":
        return
    path = data / "prepared/prompts"
    domains = set(read_table(path / "train", ["domain"])["domain"].to_pylist())
    for domain in sorted((section.get(name) or {}).get("kl_by_domain") or {}):
        if domain not in domains:
            there = ", ".join(sorted(domains))
            yield f"params.yaml: align.{name}.kl_by_domain.{domain}: no prompt has this domain; there are {there}"
    # Without a preference reward model some prompts are left out, perhaps the longest: `align` knows which.
    room = _room(document["model"]) if (section.get("rewards") or {}).get("learned", 1.0) > 0 else None
    longest = max(_longest(path / fold) for fold in ("train", "dev")) + section["max_new_tokens"]
    if room is not None and longest > room:
        yield (
            f"params.yaml: align.max_new_tokens = {section['max_new_tokens']}: the longest prompt and its reply would "
            f"have {longest} tokens, the model has room for {room}; lower it or raise prepare.reply_room"
        )


def _longest(path: Path) -> int:
    """Tokens of the longest prompt of a table; 0 without rows."""
    return int(pc.max(pc.list_value_length(read_table(path, ["prompt_ids"])["prompt_ids"])).as_py() or 0)


def _room(model: Document) -> int | None:
    """Tokens that the model takes, where it is at hand."""
    if model["base"] == "scratch":
        return int(model["max_length"])
    config = Path(model["base"]) / "config.json"
    room = json.loads(config.read_text(encoding="utf-8")).get("max_position_embeddings") if config.is_file() else None
    return None if room is None else int(room)
