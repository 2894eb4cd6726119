"""What a Settler knows, kept in a folder from run to run: arrays as they are, and the sets of shingles as a link.

The file of shingles only ever grows: whoever goes on from a state that is kept reads the part that belongs to it.
"""

import json
import os
import shutil
from pathlib import Path

import numpy as np

from tasks.preferences.multimap import Multimap
from tasks.preferences.neighbours import SHINGLES, Column
from tasks.preferences.settle import Settler


def save(settler: Settler, folder: Path) -> None:
    folder.mkdir()
    for name, column in _columns(settler).items():
        np.save(folder / f"{name}.npy", column[: len(column)])
    for name, held in _maps(settler).items():
        np.save(folder / f"{name}.npy", held.state())
    clusters, texts = settler.clusters, settler.texts
    known = {
        "declared": clusters.declared_names,
        "sources": list(clusters.sources),  # their numbers are their places
        "size": texts.size,
    }
    (folder / "settled.json").write_text(json.dumps(known), encoding="utf-8")
    _share(texts.path, folder / SHINGLES)


def restore(settler: Settler, folder: Path) -> None:
    """Give a new settler what another knew."""
    for name, column in _columns(settler).items():
        column.replace(np.load(folder / f"{name}.npy"))
    for name, held in _maps(settler).items():
        held.replace(np.load(folder / f"{name}.npy"))
    known = json.loads((folder / "settled.json").read_text(encoding="utf-8"))
    settler.clusters.restore(known["declared"], known["sources"])
    settler.texts.close()
    settler.texts.path.unlink()
    _share(folder / SHINGLES, settler.texts.path)
    settler.texts.reopen(known["size"])


def _columns(settler: Settler) -> dict[str, Column]:
    return settler.columns() | settler.texts.columns() | settler.clusters.columns()


def _maps(settler: Settler) -> dict[str, Multimap]:
    return settler.maps() | settler.texts.maps()


def _share(path: Path, target: Path) -> None:
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)
