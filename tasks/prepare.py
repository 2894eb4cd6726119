"""prepare: folds by prompt, every text tokenised once, and every vote with the weight that its rater deserves.

reads   data/raw, data/inputs (what raters say of themselves)
writes  data/tokenizer, data/prepared/{demonstrations,prompts,safety,pairs,solutions,feedback},
        data/prepared/canary.json: which demonstrations the canary plants among the pairs, and which it holds out;
        data/raters.json: what can be said of the raters, and what their votes are worth; data/sealed: the sealed fold,
        apart
"""

import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import Field

from tasks.adapters import stage
from tasks.adapters.telemetry import FileTracker
from tasks.files import write_json
from tasks.preferences import canary, panel, tokens
from tasks.preferences.folds import FOLDS, SEALED, Shares, fold_of
from tasks.preferences.rater_options import RaterOptions, Weighting
from tasks.preferences.raters import Judgement
from tasks.preferences.tables import Lengths, Writer, batches
from tasks.records import DATASETS, LABELS, PAIRS, Message, Preference, forget_environment, pair_row
from tasks.rlhf.options import ModelOptions
from tasks.world import WorldParams

Row = dict[str, Any]


class Params(stage.Params):
    seed: int = 0
    world: WorldParams | None = None  # of simulated raters, whose noise is known
    model: ModelOptions
    folds: Shares
    reply_room: Annotated[int, Field(gt=0)]  # tokens of model.max_length kept free after a prompt of `prompts`
    long_prompts: Literal["drop", "truncate"]  # truncate: forget the oldest turns
    rater_weights: Weighting = "off"
    raters: RaterOptions = RaterOptions()


def run(params: Params, data: Path, tracker: FileTracker) -> dict[str, Any]:
    shares = params.folds.model_dump()
    with tracker.phase("tokenizer"):
        tokenizer, pad_added = _tokenizer(params.model, data / "raw/demonstrations", shares)
        shutil.rmtree(data / "tokenizer", ignore_errors=True)
        tokenizer.save_pretrained(data / "tokenizer")
        forget_environment(data / "tokenizer")
    with tracker.phase("raters"):
        judged = panel.judge(data, params.raters, params.rater_weights, params.world, params.seed)
        write_json(data / "raters.json", stage.plain(judged.report))
    work = Preparation(params, shares, tokens.Encoder(tokenizer), judged)
    planting = Preparation(params, shares, work.encoder, judged)  # counts apart: no figure is about what is planted
    rows = {name: work.table(data, name, tracker) for name in TABLES if name != "pairs"}
    rows["pairs"] = work.table(data, "pairs", tracker, planting)
    for name in ("demonstrations", "prompts"):
        if not all(rows[name].values()):
            raise ValueError(
                f"prepare: {name}: {rows[name]} rows are left, {dict(work.left_out[name])} are left out; give more "
                "data, raise model.max_length or change the shares of prepare"
            )
    return {
        "rows": rows,
        "left_out": work.left_out,
        "prompts_truncated": work.num_truncated,
        "tokens": {name: lengths.quantiles() for name, lengths in work.lengths.items()},
        "labels": work.labels,
        "planted": planting.labels.total(),
        "raters": {key: judged.report[key] for key in ("raters", "comparisons_shared", "weighting", "ceiling", "says")}
        | {"held_out": len(judged.held_out), "agreement": judged.report["agreement"]["all"]},
        "tokenizer": {"vocab_size": len(tokenizer), "pad_token_added": pad_added},
    }


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


class LeftOut(Exception):  # noqa: N818 - like StopIteration: not an error
    """A row that cannot be used; the argument is the reason it is counted under."""


class Preparation:
    """Turns canonical rows into tokenised ones, and counts what it leaves out and why."""

    def __init__(self, params: Params, shares: Mapping[str, float], encoder: tokens.Encoder, judged: Judgement) -> None:
        self.params, self.shares, self.encoder, self.judged = params, shares, encoder, judged
        self.left_out: dict[str, Counter[str]] = {}
        self.lengths: dict[str, Lengths] = {}  # of what is kept, in tokens
        self.labels: Counter[str] = Counter()
        self.weights: dict[str, float] = dict.fromkeys(FOLDS, 0.0)  # of pairs
        self.num_truncated = 0

    def table(
        self, data: Path, name: str, tracker: FileTracker, planting: "Preparation | None" = None
    ) -> dict[str, int]:
        """Write one prepared table, at its end what is planted by `planting`; the rows of each of its files."""
        raw, columns, convert = TABLES[name]
        # Nothing but training may see a demonstration.
        files = {"train": "rows"} if name == "demonstrations" else {fold: fold for fold in FOLDS}
        wanted = {*files, *(() if name == "demonstrations" else (SEALED,))}
        left_out = self.left_out[name] = Counter()
        writer = Writer(data / "prepared" / name, columns, list(files.values()))
        sealed = Writer(data / "sealed" / name, columns, ["rows"])
        for batch in batches(data / "raw" / raw):
            with tracker.phase("split"):
                folds = [fold_of(row["cluster"], self.shares) for row in batch]
            with tracker.phase("tokenise"):
                used = [row for row, fold in zip(batch, folds, strict=True) if fold in wanted]
                replies = (row[key] for row in used for key in _REPLIES if row.get(key))
                self.encoder.remember(replies, (row["prompt"] for row in used))
                kept = [
                    self._convert(convert, row) if fold in wanted else "other_fold"
                    for row, fold in zip(batch, folds, strict=True)
                ]
            with tracker.phase("split"):
                for row, fold in zip(kept, folds, strict=True):
                    if isinstance(row, str):
                        left_out[row] += 1
                    elif fold == SEALED:
                        left_out[SEALED] += 1
                        sealed.add("rows", row)
                    else:
                        writer.add(files[fold], row)
                        self.weights[fold] += row["weight"] if name == "pairs" else 0.0
        sealed.close()
        counts = dict(writer.counts)
        if planting is not None:
            planting.plant(data, writer, self.weights)
        writer.close()
        return counts

    def _convert(self, convert: "Callable[[Preparation, Row], Row]", row: Row) -> Row | str:
        """The row as tokens, or why it is left out."""
        try:
            return convert(self, row)
        except LeftOut as reason:
            return str(reason)

    def plant(self, data: Path, writer: Writer, weights: Mapping[str, float]) -> None:
        """The canary's comparisons among those to learn from; they become tokens as every other row does.

        `weights`: of the rows of each fold.
        """
        rows = (row for batch in batches(data / "raw/demonstrations") for row in batch)
        sides = canary.choose(rows, lambda cluster: fold_of(cluster, self.shares))
        noted = {}
        for fold in ("train", "judge"):
            # Few demonstrations may leave the judge without; where there are none at all, `run` says so.
            of_fold = sides.get(fold) or sides.get("train") or {"planted": [], "held_out": []}
            planted = canary.repeat(of_fold["planted"], canary.num_planted(writer.counts[fold]))
            noted[fold] = {
                "planted": [row["id"] for row in planted],
                "held_out": [row["id"] for row in canary.repeat(of_fold["held_out"], canary.NUM_HELD_OUT)],
            }
            for made in canary.comparisons(planted, weights[fold]):
                with suppress(LeftOut):
                    writer.add(fold, self.pair(asdict(made)))
        write_json(data / "prepared/canary.json", noted)

    def demonstration(self, row: Row) -> Row:
        reply_ids = self.encoder.reply(row["reply"])
        prompt, prompt_ids = self._fit(row["prompt"], len(reply_ids))
        self._measure(demonstration_prompt=prompt_ids, demonstration_reply=reply_ids)
        return row | {"prompt": prompt, "prompt_ids": prompt_ids, "reply_ids": reply_ids}

    def prompt(self, row: Row) -> Row:
        prompt, prompt_ids = self._fit(row["prompt"], self.params.reply_room)
        self._measure(prompt=prompt_ids)
        return row | {"prompt": prompt, "prompt_ids": prompt_ids}

    def pair(self, row: Row) -> Row:
        if row["choice"] not in LABELS:
            raise LeftOut(row["choice"])
        if row["rater"] in self.judged.held_out:
            raise LeftOut(self.judged.held_out[row["rater"]])
        a_ids, b_ids = self.encoder.reply(row["reply_a"]), self.encoder.reply(row["reply_b"])
        if a_ids == b_ids:
            raise LeftOut("identical_after_tokenization")
        limit = self.params.model.max_length
        if max(len(a_ids), len(b_ids)) > limit and a_ids[:limit] == b_ids[:limit]:
            raise LeftOut("identical_after_truncation")  # too long as well, and worthless if it were cut
        prompt, prompt_ids = self._fit(row["prompt"], max(len(a_ids), len(b_ids)))
        self._measure(pair_prompt=prompt_ids, pair_reply=a_ids)
        self._measure(pair_reply=b_ids)
        self.labels[row["choice"]] += 1
        made = pair_row(Preference(**row | {"prompt": prompt}), prompt_ids, a_ids, b_ids)
        return made | {"weight": made["weight"] * self.judged.factors.get(row["rater"], 1.0)}

    def feedback(self, row: Row) -> Row:
        reply_ids = self.encoder.reply(row["reply"])
        prompt, prompt_ids = self._fit(row["prompt"], len(reply_ids))
        self._measure(feedback=reply_ids)
        return row | {"prompt": prompt, "prompt_ids": prompt_ids, "reply_ids": reply_ids}

    def solution(self, row: Row) -> Row:
        reply = "\n".join(row["steps"])
        reply_ids = self.encoder.reply(reply)
        prompt, prompt_ids = self._fit(row["prompt"], len(reply_ids))
        self._measure(solution=reply_ids)
        return row | {"prompt": prompt, "prompt_ids": prompt_ids, "reply": reply, "reply_ids": reply_ids}

    def _fit(self, prompt: list[Message], room: int) -> tuple[list[Message], list[int]]:
        """The prompt and its ids, where `room` more tokens still fit into the model.

        Only a prompt is ever cut, only between turns, and only where params ask for it.
        """
        ids = self.encoder.prompt(prompt)
        shorter = prompt
        while len(ids) + room > self.params.model.max_length:
            shorter = without_oldest_turn(shorter) if self.params.long_prompts == "truncate" else []
            if not shorter:
                raise LeftOut("too_long")
            ids = self.encoder.prompt(shorter)
        self.num_truncated += shorter is not prompt
        return shorter, ids

    def _measure(self, **ids: list[int]) -> None:
        for name, values in ids.items():
            self.lengths.setdefault(name, Lengths()).add(len(values))


def without_oldest_turn(prompt: list[Message]) -> list[Message]:
    """A prompt less its oldest question and answer; nothing where only the last question is left."""
    system = [message for message in prompt[:1] if message["role"] == "system"]
    rest = prompt[len(system) + 2 :]
    return system + rest if rest else []


_SHARED = [(name, pa.string()) for name in ("id", "cluster", "source")]
_PROMPT = [PAIRS.field("prompt"), PAIRS.field("prompt_ids")]
_TEXT = pa.string()
_REPLIES = ("reply", "reply_a", "reply_b")
# name: (dataset it is made of, columns, how a row is converted)
TABLES: dict[str, tuple[str, pa.Schema, Callable[[Preparation, Row], Row]]] = {
    "demonstrations": (
        "demonstrations",
        pa.schema([*_SHARED, ("domain", _TEXT), ("reply", _TEXT), *_PROMPT, ("reply_ids", pa.list_(pa.int32()))]),
        Preparation.demonstration,
    ),
    "prompts": (
        "prompts",
        pa.schema([*_SHARED, ("domain", _TEXT), ("verifier", _TEXT), *_PROMPT]),
        Preparation.prompt,
    ),
    "safety": (
        "safety",
        pa.schema([*_SHARED, ("category", _TEXT), ("expected", _TEXT), *_PROMPT]),
        Preparation.prompt,
    ),
    "pairs": ("preferences", PAIRS, Preparation.pair),
    "solutions": (
        "solutions",
        pa.schema(
            [
                *_SHARED,
                ("domain", _TEXT),
                ("reply", _TEXT),
                *_PROMPT,
                ("reply_ids", pa.list_(pa.int32())),
                ("labels", pa.list_(pa.bool_())),
                ("correct", pa.bool_()),
            ]
        ),
        Preparation.solution,
    ),
    "feedback": (
        "feedback",
        pa.schema(
            [
                *_SHARED,
                *((name, _TEXT) for name in ("domain", "rater", "signal", "reply")),
                *_PROMPT,
                ("reply_ids", pa.list_(pa.int32())),
                ("desirable", pa.bool_()),
                ("weight", pa.float64()),
            ]
        ),
        Preparation.feedback,
    ),
}

STAGE = stage.Stage(
    "prepare",
    Params,
    run,
    reads=("inputs", *(f"raw/{name}" for name in DATASETS)),
    writes=("tokenizer", *(f"prepared/{name}" for name in TABLES), "prepared/canary.json", "raters.json", "sealed"),
)

if __name__ == "__main__":
    stage.main(STAGE)
