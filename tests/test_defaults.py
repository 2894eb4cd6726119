"""infra/DEFAULTS.md names only functions and tests that exist, and the values that hold."""

import ast
import importlib
import re
from functools import reduce
from pathlib import Path

import pytest
import yaml

from tasks import align
from tasks.adapters import stage
from tasks.rlhf import algorithms

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "infra/DEFAULTS.md").read_text(encoding="utf-8")
ROWS = [line for line in TEXT.splitlines() if re.match(r"\| \d+ \|", line)]
NAMED = re.findall(r"`([\w/]+\.py)::([\w.]+)`", TEXT)
VALUES = re.findall(r"`([a-z_0-9]+(?:\.[a-z_0-9]+)+): ([^`]+)`", "\n".join(ROWS))


def find(path):
    home = "" if path.startswith(("tasks/", "tests/")) else "tests/tasks/rlhf/" if "test_" in path else "tasks/rlhf/"
    return ROOT / home / path


def names(path):
    """Functions and classes of a file, methods as Class.method."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
            found |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return found


@pytest.mark.parametrize(("path", "name"), sorted(set(NAMED)))
def test_what_is_named_exists(path, name):
    assert find(path).is_file(), f"infra/DEFAULTS.md: {path} does not exist"
    assert name in names(find(path)), f"infra/DEFAULTS.md: {path} has no {name}"


def test_every_row_names_code_and_a_test():
    assert [int(row.split("|")[1]) for row in ROWS] == list(range(1, len(ROWS) + 1))
    for row in ROWS:
        *_, where, test, _ = row.replace(r"\|", "").split("|")
        assert re.search(r"`[\w/]+\.py::\w+", where), row[:80]
        assert "test_" not in where, row[:80]
        assert re.fullmatch(r"( `[\w/]*test_\w+\.py::test_\w+`,?)+ ", test), row[:80]


def value_of(key):
    """What a run with params.yaml would use."""
    section, *rest = key.split(".")
    params = stage.read_params(importlib.import_module(f"tasks.{section}").Params, section, ROOT / "params.yaml")
    if section == align.STAGE.name and rest[0] in algorithms.known():
        algorithm = algorithms.load(rest[0], params.model_extra[rest[0]])
        return getattr(algorithm.config if hasattr(algorithm.config, rest[1]) else algorithm.options, rest[1])
    return reduce(getattr, rest, params)


@pytest.mark.parametrize(("key", "value"), VALUES)
def test_values_are_those_of_a_run(key, value):
    assert value_of(key) == yaml.safe_load(value), f"infra/DEFAULTS.md: {key}"
