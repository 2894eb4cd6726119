"""Folders that tests begin with."""

from pathlib import Path


def fresh(folder: Path) -> Path:
    """An empty data folder."""
    (folder / "inputs").mkdir(parents=True)
    (folder / "shards").mkdir()
    (folder / "shards/index.json").write_text('{"shards": []}')
    return folder
