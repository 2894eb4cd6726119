"""Files that are the old ones or the new ones whenever somebody reads them, or the machine stops; never torn."""

import json
import os
import threading
from pathlib import Path
from typing import Any

import yaml

# libyaml's, ten times as fast, where PyYAML was built with it
SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def write_json(path: Path, document: Any) -> None:
    """Indented, sorted JSON, written as `write_text` does. Raises ValueError for NaN and infinities: JSON has none."""
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_text(path, f"{text}\n")


def write_text(path: Path, text: str) -> None:
    """On disk when this returns; makes the folder where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync(path.parent)


def sync(folder: Path) -> None:
    """A rename is on the disk once its folder is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def parse_yaml(text: str) -> Any:
    """Plain values of YAML. Raises yaml.YAMLError."""
    return yaml.load(text, Loader=SafeLoader)
