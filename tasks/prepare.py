"""prepare: folds by prompt, every text tokenised once, and every vote with the weight that its rater deserves.

reads   data/raw, data/quarantine (votes that their raters contradict), data/inputs (what raters say of themselves)
writes  data/tokenizer, data/prepared/demonstrations, data/prepared/{prompts,safety,pairs,solutions,feedback}/FOLD,
        data/prepared/canary.json: which demonstrations the canary plants among the pairs, and which it holds out;
        data/raters.json: what can be said of the raters, and what their votes are worth; data/sealed: the sealed fold,
        apart
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow.compute as pc
from pydantic import Field

from tasks.adapters import stage
from tasks.adapters.telemetry import FileTracker
from tasks.files import write_json
from tasks.hashes import content_hash
from tasks.preferences import canary, panel, tokens
from tasks.preferences.encoding import TABLES, Conversion
from tasks.preferences.folds import FOLDS, SEALED, Shares, fold_of
from tasks.preferences.parts import Counts, Parts
from tasks.preferences.rater_options import RaterOptions, Weighting
from tasks.preferences.tables import batches
from tasks.records import DATASETS, forget_environment, read_table
from tasks.rlhf.options import ModelOptions
from tasks.shelf import Shelf, code_version
from tasks.world import WorldParams

Rows = Sequence[canary.Row]

CODE = ("chat", "preferences", "records")  # what makes prepared rows, and the libraries that do
LIBRARIES = ("pyarrow", "tokenizers", "transformers", "jinja2")


class Params(stage.Params):
    seed: stage.Seed = 0
    world: WorldParams | None = None  # of simulated raters, whose noise is known
    model: ModelOptions
    folds: Shares
    reply_room: Annotated[int, Field(gt=0)]  # tokens of model.max_length kept free after a prompt of `prompts`
    long_prompts: Literal["drop", "truncate"]  # truncate: forget the oldest turns
    rater_weights: Weighting = "off"
    raters: RaterOptions = RaterOptions()


def run(params: Params, data: Path, tracker: FileTracker) -> dict[str, Any]:
    shares = params.folds.model_dump()
    shelf = Shelf(data / "runs/prepare/kept", code_version(*CODE, libraries=LIBRARIES))
    (data / "prepared/canary.json").unlink(missing_ok=True)  # written last: where it is, all of it is
    with tracker.phase("tokenizer"):
        tokenizer, pad_added = _tokenizer(params.model, data / "raw/demonstrations", shares)
        shutil.rmtree(data / "tokenizer", ignore_errors=True)
        tokenizer.save_pretrained(data / "tokenizer")
        forget_environment(data / "tokenizer")
    with tracker.phase("raters"):
        judged = panel.judge(data, params.raters, params.rater_weights, params.world, params.seed, shelf)
        write_json(data / "raters.json", stage.plain(judged.report))
    limits = (params.model.max_length, params.reply_room, params.long_prompts)
    basis = json.dumps([shares, limits, content_hash(data / "tokenizer")])
    parts = Parts(data, shelf, basis, Conversion(tokens.Encoder(tokenizer), *limits), shares, tracker.phase)
    for name in TABLES:
        parts.keys(name)
    shelf.forget()  # what was kept of other data, before there is more
    made = {name: parts.write(name, judged) for name in TABLES}
    planted = _plant(data, parts, made, shares)
    for name in ("demonstrations", "prompts"):
        rows = _by_fold(name, made[name])
        if not all(rows.values()):
            raise ValueError(
                f"prepare: {name}: {rows} rows are left, {_left_out(made[name])} are left out; give more "
                "data, raise model.max_length or change the shares of prepare"
            )
    total = Counts()
    for counts in made.values():
        total.add(counts)
    return {
        "rows": {name: _by_fold(name, counts) for name, counts in made.items()},
        "left_out": {name: _left_out(counts) for name, counts in made.items()},
        "prompts_truncated": total.truncated,
        "tokens": total.tokens(),
        "labels": total.labels,
        **planted,
        "raters": {key: judged.report[key] for key in ("raters", "comparisons_shared", "weighting", "ceiling", "says")}
        | {"held_out": len(judged.held_out), "agreement": judged.report["agreement"]["all"]},
        "tokenizer": {"vocab_size": len(tokenizer), "pad_token_added": pad_added},
    }


def _by_fold(name: str, counts: Counts) -> dict[str, int]:
    return {fold: counts.rows[fold] for fold in (("train",) if name == "demonstrations" else FOLDS)}


def _left_out(counts: Counts) -> dict[str, int]:
    sealed = {SEALED: counts.rows[SEALED]} if counts.rows[SEALED] else {}
    return {**counts.left_out, **sealed}


def _plant(data: Path, parts: Parts, made: Mapping[str, Counts], shares: Mapping[str, float]) -> dict[str, int]:
    """The canary's rows among those to learn from, which become tokens as every other does; how many."""
    number, noted = _plant_pairs(data, parts, made["pairs"], shares)
    num_solutions, noted[canary.SOLUTIONS] = _plant_solutions(data, parts, made["solutions"], shares)
    write_json(data / "prepared/canary.json", noted)
    return {"planted": number, "planted_solutions": num_solutions}


def _plant_pairs(
    data: Path, parts: Parts, pairs: Counts, shares: Mapping[str, float]
) -> tuple[int, dict[str, dict[str, list[str]]]]:
    rows = (row for batch in batches(data / "raw/demonstrations") for row in batch)
    sides = canary.choose(rows, lambda cluster: fold_of(cluster, shares))
    noted, number = {}, 0
    for fold in ("train", "judge"):
        # Few demonstrations, or long ones, may leave the judge without; where there are none at all, `run` says so.
        wanted = {"planted": canary.num_planted(pairs.rows[fold]), "held_out": canary.NUM_HELD_OUT}
        chosen = {
            side: _chosen(parts.conversion, sides.get(fold, {}).get(side, []), n)
            or _chosen(parts.conversion, sides.get("train", {}).get(side, []), n)
            for side, n in wanted.items()
        }
        noted[fold] = _ids(chosen)
        made = canary.comparisons(chosen["planted"], pairs.weights.get(fold) or _judged_weight(data, fold))
        number += parts.plant("pairs", fold, [asdict(each) for each in made])
    return number, noted


def _plant_solutions(
    data: Path, parts: Parts, solutions: Counts, shares: Mapping[str, float]
) -> tuple[int, dict[str, list[str]]]:
    rows = (row for batch in batches(data / "raw/solutions") for row in batch if canary.all_right(row))
    sides = canary.choose(rows, lambda cluster: fold_of(cluster, shares)).get("train", {})
    wanted = {"planted": canary.num_planted(solutions.rows["train"]), "held_out": canary.NUM_HELD_OUT}
    chosen = {side: _chosen(parts.conversion, sides.get(side, []), n) for side, n in wanted.items()}
    made, weight = canary.judged_solutions(chosen["planted"], solutions.rows["train"])
    return parts.plant("solutions", "train", [asdict(each) | {"weight": weight} for each in made]), _ids(chosen)


def _chosen(conversion: Conversion, rows: Rows, number: int) -> list[canary.Row]:
    """So many rows that fit into the model, against noise as well: the first ones; few are used again."""
    texts = (canary.obvious([row])[0] for row in rows)
    fitting = (
        row for row, each in zip(rows, texts, strict=True) if conversion.has_room(each.prompt, each.true, each.ruined)
    )
    return canary.repeat(list(islice(fitting, number)), number)


def _ids(chosen: Mapping[str, Rows]) -> dict[str, list[str]]:
    return {side: [row["id"] for row in rows] for side, rows in chosen.items()}


def _judged_weight(data: Path, fold: str) -> float:
    """Of the replies judged one by one: what the canary is planted beside where there are no comparisons."""
    return float(pc.sum(read_table(data / f"prepared/feedback/{fold}", ["weight"])["weight"]).as_py() or 0.0)


def _tokenizer(model: ModelOptions, demonstrations: Path, shares: Mapping[str, float]) -> tuple[Any, bool]:
    if model.base != "scratch":
        return tokens.load(model.base, model.revision)
    texts = (
        text
        for batch in batches(demonstrations)
        for row in batch
        if fold_of(row["cluster"], shares) == "train"
        for text in (*(message["content"] for message in row["prompt"]), row["reply"])
    )
    return tokens.train(texts, model.vocab_size), False


STAGE = stage.Stage(
    "prepare",
    Params,
    run,
    reads=("inputs", "quarantine", *(f"raw/{name}" for name in DATASETS)),
    writes=("tokenizer", *(f"prepared/{name}" for name in TABLES), "prepared/canary.json", "raters.json", "sealed"),
)

if __name__ == "__main__":
    stage.main(STAGE)
