"""Holds: what keeps data from training until a person has looked.

A hold says one line: what was measured, the value, the bound, what to do. A fresh shard is compared with the accepted
comparisons before it is one of them; a dataset is held against fixed bounds (`validate.holds`); see infra/decisions.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field
from scipy.special import ndtri

from tasks.preferences import blocks, phrasing, shift
from tasks.preferences.flips import Accepted, Flips, flips
from tasks.preferences.hold import MIN_ROWS, Hold
from tasks.preferences.predictor import decided
from tasks.preferences.rater_options import RaterOptions
from tasks.preferences.tables import source_of
from tasks.preferences.triggers import Corpus, Trigger, triggers

Row = Mapping[str, Any]
MIN_ACCEPTED = 500  # decided comparisons without which there is nothing to compare with
MIN_SHARD = 50  # decided comparisons of a shard, or replies, below which nothing could be seen in it
# Of each dataset whose shards are judged: accepted rows without which there is nothing to compare with.
LEAST = {"preferences": MIN_ACCEPTED, "demonstrations": MIN_ROWS, "feedback": MIN_ROWS}


class ShardOptions(BaseModel):
    """The section `fresh` of params.yaml: what a fresh shard is held for, compared with what was accepted."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    alpha: Annotated[
        float, Field(gt=0, lt=0.5, description="chance of a false alarm, of flips and of triggers each")
    ] = 0.01
    min_flip_rate: Annotated[
        float, Field(ge=0, lt=0.5, description="fewer flipped labels are let pass, however sure")
    ] = 0.01
    max_label_shift: Annotated[float, Field(gt=0, le=1, description="move of the share of a choice")] = 0.1
    max_length_shift: Annotated[float, Field(gt=0, description="move of the length gap, in standard deviations")] = 0.3
    max_style_fall: Annotated[float, Field(gt=0, le=1, description="fall of a measure of style in a domain")] = 0.4
    max_opening_share: Annotated[
        float, Field(gt=0, le=1, description="of replies without a comparison that open with the same words")
    ] = 0.5
    max_rater_share: Annotated[float, Field(gt=0, le=1, description="of the rows by one rater; 1: never held")] = 1.0
    max_compared: Annotated[int, Field(ge=MIN_ACCEPTED, description="accepted comparisons that are compared with")] = (
        20000
    )


@dataclass(frozen=True)
class Verdict:
    """What comparing a shard showed."""

    holds: list[Hold]
    warnings: list[str]
    compared: int  # accepted comparisons it was held against; 0: too few, or the shard is too small
    measured: dict[str, Any]


def judge_shard(
    shard: Sequence[Row],
    accepted: Sequence[Row],
    options: ShardOptions,
    raters: RaterOptions,
    known: Accepted | None = None,
) -> Verdict:
    """Compare fresh comparisons with accepted ones, both as canonical rows; `known`: the latter, fitted before.

    `raters`: what of one rater is too much. They are warned about here, and weigh less in `prepare`.
    """
    warnings = _warnings(shard, raters)
    fresh, old = decided(shard), decided(accepted)
    dominant = _dominant(shard, options.max_rater_share) if len(shard) >= MIN_SHARD else []
    if len(fresh) < MIN_SHARD or len(old) < MIN_ACCEPTED:
        return Verdict(dominant, warnings, 0, {})
    known = known or Accepted(old)
    scores = known.judge(fresh)
    rates = flips(fresh, scores, known)
    suspects = triggers(Corpus(fresh), scores.residuals, known.corpus, options.alpha)
    holds = [
        *dominant,
        *flip_holds(rates, options),
        *_trigger_holds(suspects, options),
        *_shift_holds(shard, accepted, options),
    ]
    measured = {
        "flip_rate": rates[0].rate,
        "flip_rate_error": rates[0].error,
        "accuracy_of_the_predictor": known.accuracy,
        "length_auc": shift.length_auc(fresh),
    }
    return Verdict(holds, warnings, len(old), measured)


def flip_holds(rates: Sequence[Flips], options: ShardOptions) -> list[Hold]:
    """Half of alpha for the shard as a whole, half for its raters and domains together, where there are several."""
    found: list[Hold] = []
    for each in sorted(rates, key=lambda each: (each.group != "all", -each.z)):
        tests = 1 if len(rates) == 1 else 2 if each.group == "all" else 2 * (len(rates) - 1)
        bound = max(options.min_flip_rate, float(-ndtri(options.alpha / tests)) * each.error)
        # Where the whole shard looks flipped, only those who do so more than others are worth a word.
        if each.rate > bound and (not found or each.rate > 2 * found[0].value):
            who = "" if each.group == "all" else f" of {each.group}"
            text = f"the labels{who} look flipped more often than accepted ones: {each.rows} rows, z = {each.z:.1f}"
            found.append(Hold("flipped_labels", each.rate, bound, text))
    return found[:3]


def _trigger_holds(suspects: Sequence[Trigger], options: ShardOptions) -> list[Hold]:
    return [
        Hold(
            "suspected_poison",
            each.chance,
            options.alpha,
            f"the n-gram {each.ngram!r} stands in the {each.where} of {each.prompts} prompts, {each.accepted} accepted",
        )
        for each in suspects[:3]
    ]


def _shift_holds(shard: Sequence[Row], accepted: Sequence[Row], options: ShardOptions) -> list[Hold]:
    fresh, old = decided(shard), decided(accepted)
    label, choice = shift.label_shift(shard, accepted)
    length = shift.length_shift(fresh, old)
    fall, where = shift.style_fall(shift.preferred(fresh), shift.preferred(old))
    gone = shift.absent(shard, accepted)
    holds = [
        (
            abs(label),
            options.max_label_shift,
            "shift_hold",
            f"the share of the choice `{choice}` moved by {label:+.3f}",
        ),
        (abs(length), options.max_length_shift, "shift_hold", f"the length gap moved by {length:+.3f} deviations"),
        (fall, options.max_style_fall, "style_diversity", f"{where} fell"),
        (float(gone is not None), 0.0, "class_absent", f"no row has the choice `{gone}`, accepted ones have"),
    ]
    return [Hold(name, value, bound, text) for value, bound, name, text in holds if value > bound]


def _dominant(shard: Sequence[Row], most: float) -> list[Hold]:
    rater, share = shift.dominance(shard)
    return [Hold("rater_dominance", share, most, f"{rater} gave {share:.0%} of the rows")] if share > most else []


def _warnings(shard: Sequence[Row], options: RaterOptions) -> list[str]:
    rater, share = shift.dominance(shard)
    busy, votes = shift.busiest_day(shard)
    found = []
    if share > options.max_share and len(shard) >= MIN_SHARD:
        found.append(f"rater_dominance: {rater} gave {share:.0%} of the rows (above {options.max_share:.0%})")
    if votes > options.max_votes_per_day:
        found.append(f"rater_dominance: {busy} gave {votes} votes in one day (above {options.max_votes_per_day})")
    return found


def sample(folder: Path, number: int, left_out: Collection[str] = ()) -> list[dict[str, Any]]:
    """About so many rows of the parquet files of a folder, spread evenly over them; [] where there is no file.

    Whole groups of rows are left unread where there are more than needed, so that time does not grow with the data.
    left_out: shards of which no row is taken.
    """
    paths = sorted(folder.glob("*.parquet"))
    paths = [path for path in paths if source_of(path).partition("-refused")[0] not in left_out]
    files = [pq.ParquetFile(path) for path in paths]
    total = sum(file.metadata.num_rows for file in files)
    rows: list[dict[str, Any]] = []
    for file in files:
        with file:
            groups = file.num_row_groups
            share = min(1.0, number / max(1, total))
            wanted = max(1, round(groups * min(1.0, 4 * share)))
            for place in np.unique(np.linspace(0, max(0, groups - 1), wanted).astype(int)) if groups else ():
                table = file.read_row_group(int(place))
                keep = round(len(table) * min(1.0, share * groups / wanted))
                rows += table.take(np.linspace(0, len(table) - 1, keep).astype(int)).to_pylist() if keep else []
    return rows


def judge(
    dataset: str, rows: Path, data: Path, options: ShardOptions, raters: RaterOptions
) -> tuple[list[str], list[str], dict[str, Any]]:
    """Holds, warnings and measures of a fresh shard whose rows are parquet in a folder.

    One that is too small is judged together with those before it that were, too (blocks.py). Prompts, safety rows and
    solutions are not judged.
    """
    if dataset not in LEAST:
        return [], [], {}
    shard, known = sample(rows, options.max_compared), data / "raw" / dataset
    number = _size(dataset, shard)
    is_small = number < MIN_SHARD
    block = blocks.waiting(data, dataset) if is_small else []
    accepted = sample(known, options.max_compared, {f"shard-{entry['sha256'][:12]}" for entry in block})
    verdict = judge_rows(dataset, shard, accepted, options, raters)
    warnings, measured = list(verdict.warnings), dict(verdict.measured)
    if is_small:
        before = blocks.size(block)
        if blocks.is_due(before, before + number):
            together = {row["id"]: row for row in (*shard, *blocks.rows(data, block))}
            verdict = judge_rows(dataset, list(together.values()), accepted, of_a_look(options), raters)
        measured = {**verdict.measured, "block": [entry["sha256"] for entry in block], blocks.NOTE: number}
    lines = [hold.line for hold in verdict.holds]
    if lines and block:
        lines[-1] += blocks.said(data, block)
    if not verdict.compared:
        what = "decided comparisons" if dataset == "preferences" else "replies"
        warnings.append(
            f"not compared with accepted data: that needs {MIN_SHARD} {what} here and {LEAST[dataset]} in {known}"
            + ("; judged together with the next small shards" if is_small else "")
        )
    return lines, warnings, measured | {"compared": verdict.compared}


def judge_rows(
    dataset: str, shard: Sequence[Row], accepted: Sequence[Row], options: ShardOptions, raters: RaterOptions
) -> Verdict:
    if dataset == "preferences":
        return judge_shard(shard, accepted, options, raters)
    if len(shard) < MIN_SHARD:
        return Verdict([], [], 0, {})
    found = phrasing.check(shard, accepted, options.alpha, options.max_style_fall, options.max_opening_share)
    return Verdict(found, [], len(accepted) if len(accepted) >= LEAST[dataset] else 0, {})


def of_a_look(options: ShardOptions) -> ShardOptions:
    """The looks at a block share alpha."""
    return options.model_copy(update={"alpha": options.alpha / len(blocks.LOOKS)})


def _size(dataset: str, rows: Sequence[Row]) -> int:
    return len(decided(rows)) if dataset == "preferences" else len(rows)
