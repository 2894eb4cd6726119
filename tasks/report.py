"""report: one self-contained page for people: verdict, win rates, training, rewards, replies side by side, lineage.

reads   data/reports/*.json  data/curves/*.csv  data/evaluation  data/raters.json
        data/sealed_looks.json
writes  data/report.html (deterministic: no date, no seconds, no run id)
"""

import csv
import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from tasks import records
from tasks.adapters import html, stage
from tasks.adapters.telemetry import FileTracker
from tasks.evaluation import looks, page

TEMPLATE = Path(__file__).with_name("report.html.j2")
REPORTS = ("ingest", "validate", "prepare", "sft", "collect", "judge", "objective", "align", "evaluate", "gate")
CURVES = ("sft", "judge", "align")
RATERS = "raters.json"
ITEMS, PAIRS = "evaluation/items.parquet", "evaluation/pairs.parquet"


class Params(stage.Params):
    num_samples: Annotated[int, Field(ge=0)]


def run(params: Params, data: Path, tracker: FileTracker) -> dict[str, Any]:
    members = sorted(path.name for path in (data / "models/reward").glob("*") if path.name.isdigit())
    rewards = [f"reward@{member}" for member in members]
    reports = {name: _read_json(data / f"reports/{name}.json") for name in [*REPORTS, *rewards]}
    curves = {name: read_curve(data / f"curves/{name}.csv") for name in [*rewards, *CURVES]}
    items, pairs = (_read_rows(data / path) for path in (ITEMS, PAIRS))
    raters = _read_json(data / RATERS)
    built = page.build(reports, curves, items, pairs, params.num_samples, raters)
    text = render(built | {"looks": looks.said(looks.read(data / looks.FILE))})
    (data / "report.html").write_text(text, encoding="utf-8", newline="\n")
    return {"num_bytes": len(text.encode())}


def render(content: dict[str, Any]) -> str:
    return html.render(TEMPLATE, page=content)


def read_curve(path: Path) -> page.Curve:
    """Columns of data/curves/<stage>.csv as (step, value); an empty cell is left out."""
    with _existing(path).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = [name for name in (rows[0] if rows else {}) if name != "step"]
    return {c: [(float(row["step"]), float(row[c])) for row in rows if row[c]] for c in columns}


def _read_json(path: Path) -> Any:
    return json.loads(_existing(path).read_text(encoding="utf-8"))


def _read_rows(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = records.read_table(_existing(path)).to_pylist()
    return rows


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: missing; run the stage that writes it (`dvc repro {path.stem}`)")
    return path


STAGE = stage.Stage(
    "report",
    Params,
    run,
    reads=(
        ITEMS,
        PAIRS,
        RATERS,
        looks.FILE,
        *(f"reports/{name}.json" for name in REPORTS),
        *(f"curves/{name}.csv" for name in CURVES),
    ),
    writes=("report.html",),
)

if __name__ == "__main__":
    stage.main(STAGE)
