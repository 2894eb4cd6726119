"""Where a stage keeps the state of its training, how often, and what that state is valid for.

Nothing here changes a result: a run that was interrupted and went on writes the same bytes as one that was not.
"""

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tasks.hashes import content_hash
from tasks.rlhf.checkpoint import Checkpoints

SECONDS = "PLUMBLINE_CHECKPOINT_SECONDS"  # no parameter: it changes no result, and a parameter enters hashes
DEFAULT_SECONDS = 30.0
_CODE = Path(__file__).resolve().parents[1]
_LIBRARIES = ("numpy", "peft", "torch", "transformers")


def of_stage(name: str, params: Any, reads: Sequence[str], data: Path) -> Checkpoints:
    """The checkpoints of one stage with these parameters. Raises ValueError for a bad environment variable."""
    return Checkpoints(data / "checkpoints" / name, lambda: _key(params, reads, data), _seconds())


def _seconds() -> float:
    text = os.environ.get(SECONDS, str(DEFAULT_SECONDS))
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"{SECONDS} = {text!r}: must be seconds between two checkpoints, 0 for one after every step")
    return seconds


def _key(params: Any, reads: Sequence[str], data: Path) -> str:
    """sha256 over all that decides what a stage computes: parameters (the number type is one), inputs, code."""
    base = Path(getattr(getattr(params, "model", None), "base", "scratch"))
    inputs = [*(data / path for path in reads), *([base] if base.is_dir() else [])]
    described = {
        "params": params.model_dump(mode="json"),
        "inputs": {str(path): content_hash(path) for path in inputs},
        "code": {str(path.relative_to(_CODE)): content_hash(path) for path in _code()},
        "libraries": {name: version(name) for name in _LIBRARIES},
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _code() -> set[Path]:
    """The learning core, part of which a loop may import late, and what else of this project is loaded."""
    loaded = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    files = {Path(file).resolve() for file in loaded if file} | set(_CODE.glob("rlhf/**/*.py"))
    return {file for file in files if file.is_relative_to(_CODE)}
