"""card: what the data is: counts, sources, labels, raters, quarantine, holds, drift, on one page for people.

reads   data/raw, data/raters.json, data/shards/index.json, data/releases.json, reports of ingest, validate and prepare
writes  data/card.html, data/card/{lengths,counts}.csv (plots)

Runs beside training: no stage waits for it. Its figures are data/reports/card.json, for `dvc metrics diff`.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from tasks.adapters import html, stage
from tasks.adapters.telemetry import FileTracker
from tasks.evaluation import charts
from tasks.preferences import card
from tasks.preferences.hold import MIN_ROWS
from tasks.records import DATASETS

TEMPLATE = Path(__file__).with_name("card.html.j2")
REPORTS = ("ingest", "validate", "prepare")


class Params(stage.Params):
    num_sampled: Annotated[int, Field(gt=0, description="rows of a dataset whose words are looked at")]


def run(params: Params, data: Path, tracker: FileTracker) -> dict[str, Any]:
    reports = {name: _read(data / f"reports/{name}.json") for name in REPORTS}
    shards = _read(data / "shards/index.json").get("shards", [])
    with tracker.phase("describe"):
        found = card.describe(data / "raw", params.num_sampled, [entry["sha256"] for entry in shards])
    content = {
        **found,
        "ingest": reports["ingest"]["metrics"],
        "contract": {name: reports["validate"]["metrics"].get(name, {}) for name in DATASETS},
        "taxonomy": reports["validate"]["metrics"].get("taxonomy", []),
        "holds": reports["validate"]["metrics"].get("holds", {}),
        "looked_for": _looked_for(reports["ingest"]["metrics"]),
        "bounds": _bounds(reports["validate"]),
        "prepared": reports["prepare"]["metrics"],
        "raters": _read(data / "raters.json"),
        "released": _released(shards, _read(data / "releases.json").get("releases", [])),
        "hashes": {name: reports["validate"]["inputs"].get(f"raw/{name}", "") for name in DATASETS},
    }
    with tracker.phase("draw"):
        text = html.render(TEMPLATE, card=content, charts=_charts(content))
        (data / "card.html").write_text(text, encoding="utf-8", newline="\n")
        _write_plots(data / "card", content)
    return _figures(content)


def _bounds(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a dataset can be held for: (asked, value, wanted); the value is None where there are too few rows."""
    found, options = report["metrics"].get("holds", {}), report["params"]["holds"]
    pairs, safety = found.get("preferences", {}), found.get("safety", {})
    decided = pairs.get("decided", 0) >= MIN_ROWS
    side, length = pairs.get("side_a", 0.5), pairs.get("length_auc", 0.5)
    least, most = options["decline_share"]
    rows = (
        (
            "Rows refused, repeated votes aside",
            found.get("quarantine_rate"),
            f"at most {options['max_quarantine_rate']}",
        ),
        (
            "Decided comparisons that prefer one side",
            max(side, 1 - side) if decided else None,
            f"at most {options['max_side_share']}",
        ),
        (
            "Preferred reply told by length alone (AUC)",
            max(length, 1 - length) if decided else None,
            f"at most {options['max_length_auc']}",
        ),
        (
            "Safety prompts to be declined",
            safety["decline_share"] if safety.get("rows", 0) >= MIN_ROWS else None,
            f"{least} to {most}",
        ),
    )
    return [dict(zip(("asked", "value", "wanted"), row, strict=True)) for row in rows]


def _looked_for(found: Mapping[str, Any]) -> list[tuple[str, int]]:
    """What every row was searched for, and how often it was found: none is said, too."""
    return [(what, sum(found.get(part, {}).get(name, 0) for name in names)) for what, part, *names in _LOOKED_FOR]


_LOOKED_FOR = (  # where the report of ingest counts it, and under which names
    ("Votes that repeat one, as it stood or swapped", "quarantined", "exact_duplicate", "duplicate_swapped"),
    ("Votes that nearly repeat one of the same rater", "quarantined", "near_duplicate"),
    ("Votes that another one of the same rater contradicts", "quarantined", "self_contradiction"),
    ("Pairs of replies that were decided both ways; they stay", "consistency", "disagreements"),
    ("Prompts over whose replies votes run in a circle; they stay", "consistency", "cyclic_prompts"),
    ("Rows whose prompt resembles some on both sides of the split", "quarantined", "cluster_bridge"),
    ("Rows near to, or holding, what models are judged by", "quarantined", "contamination"),
    ("Rows refused for personal data or secrets", "quarantined", "secret", "pii_dense"),
    ("Rows in which personal data was replaced", "warnings", "pii_redacted"),
)


def _released(shards: Sequence[Mapping[str, Any]], releases: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """What people let pass: (what, holds, by, reason, at)."""
    told = [
        {
            "what": f"shard {entry['sha256'][:12]}",
            "holds": "; ".join(entry["released"]["holds"]),
            **_who(entry["released"]),
        }
        for entry in shards
        if "released" in entry
    ]
    return told + [
        {"what": f"{each['dataset']} {each['sha256'][:12]}", "holds": each["hold"], **_who(each)} for each in releases
    ]


def _who(release: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(release[key]) for key in ("by", "reason", "at")}


def _charts(content: Mapping[str, Any]) -> list[charts.Chart]:
    sides = content["lengths_of_sides"]
    series = {name: [(row["characters"], row[name]) for row in sides] for name in ("preferred", "refused")}
    found = [charts.line_chart("Replies by length", series, "characters", "share", {n: n for n in series})]
    auc = [(number, row["length_auc"]) for number, row in enumerate(content["drift"], 1)]
    far = {key: [(n, row[key]) for n, row in enumerate(content["drift"], 1)] for key in ("choice", "domain", "length")}
    found.append(
        charts.line_chart("Drift of shards", far, "shard", "bits", {"choice": "preferred", "domain": "refused"})
    )
    found.append(charts.line_chart("Length AUC of shards, moved", {"length AUC": auc}, "shard", ""))
    return [chart for chart in found if chart]


def _write_plots(folder: Path, content: Mapping[str, Any]) -> None:
    """Tables for `dvc plots diff`."""
    folder.mkdir(parents=True, exist_ok=True)
    counts = [
        {"what": f"{name}: {value}", "rows": count}
        for name, found in content["datasets"].items()
        for value, count in (found.get("domain") or found.get("category") or {}).items()
    ]
    quarantined = content["ingest"]["quarantined"]
    counts += [{"what": f"quarantined: {reason}", "rows": n} for reason, n in quarantined.items() if reason != "total"]
    tables = {
        "lengths": (("characters", "preferred", "refused"), content["lengths_of_sides"]),
        "counts": (("what", "rows"), counts),
    }
    for name, (columns, rows) in tables.items():
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def _figures(content: Mapping[str, Any]) -> dict[str, Any]:
    """The card as numbers: what is counted, and nothing that names a row."""
    kept = ("datasets", "taxonomy", "style", "ngrams", "drift", "ingest", "holds", "prepared", "released")
    return {name: content[name] for name in kept} | {"raters": _agreement(content["raters"])}


def _agreement(raters: Mapping[str, Any]) -> dict[str, Any]:
    return {key: raters[key] for key in ("raters", "agreement", "ceiling", "held_out", "flags") if key in raters}


def _read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return document


STAGE = stage.Stage(
    "card",
    Params,
    run,
    reads=(
        *(f"raw/{name}" for name in DATASETS),
        *(f"reports/{name}.json" for name in REPORTS),
        "shards/index.json",
        "releases.json",
        "raters.json",
    ),
    writes=("card.html",),
)

if __name__ == "__main__":
    stage.main(STAGE)
