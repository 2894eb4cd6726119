"""Folders that tests begin with."""

import shutil
import subprocess
from pathlib import Path

import pyarrow as pa

from tasks.records import write_table

ROOT = Path(__file__).parents[2]


def fresh(folder: Path) -> Path:
    """An empty data folder."""
    (folder / "inputs").mkdir(parents=True)
    (folder / "shards").mkdir()
    (folder / "shards/index.json").write_text('{"shards": []}')
    return folder


def bare(root: Path) -> None:
    """What the repository has in data/ besides shards and models, as links; the rest empty."""
    for folder in ("inputs", "shards", "champion"):
        (root / "data" / folder).mkdir(parents=True)
    (root / "data/shards/index.json").write_text('{"shards": []}')
    tracked = subprocess.run(["git", "ls-files", "data"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in {Path(line).parts[1] for line in tracked.splitlines()} - {"inputs", "shards", "champion"}:
        (root / "data" / name).symlink_to(ROOT / "data" / name)


def refill(folder: Path, table: pa.Table) -> None:
    """A folder of a prepared table holds these rows, and no others, in one file."""
    shutil.rmtree(folder, ignore_errors=True)
    write_table(table, folder / "rows.parquet")
