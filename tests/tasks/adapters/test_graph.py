"""What of DVC's graph has to run, on the toy pipeline."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.adapters import graph

Edit = Callable[..., None]


def changed(root: Path, **options: object) -> list[str]:
    return [step.name for step in graph.plan(root, **options) if step.changed]  # type: ignore[arg-type]


def repro() -> None:
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], check=True, capture_output=True)


def test_the_plan_is_the_dvc_graph_in_order(toy: Path) -> None:
    steps = graph.plan(toy)
    order = [each.name for each in steps]
    assert set(order) == {
        "ingest", "prepare", "sft", "reward@0", "judge", "align", "evaluate", "gate", "report",
    }  # fmt: skip
    for each in steps:
        assert all(order.index(up) < order.index(each.name) for up in each.upstream)
    step = {each.name: each for each in steps}
    assert step["align"].upstream == ("reward@0", "sft")
    assert step["align"].training
    assert step["align"].deadline == 60
    assert not step["ingest"].training


def test_only_what_changed_and_what_follows_is_planned(toy: Path, edit: Edit) -> None:
    assert len(changed(toy)) == 9
    repro()
    assert changed(toy) == []
    edit("align", steps=4)
    assert changed(toy) == ["align", "evaluate", "gate", "report"]


def test_from_stage_and_force(toy: Path) -> None:
    repro()
    steps = {each.name: each for each in graph.plan(toy, from_stage="align")}
    assert [name for name, each in steps.items() if each.forced] == ["align"]
    assert [name for name, each in steps.items() if each.changed] == ["align", "evaluate", "gate", "report"]
    forced = [each.name for each in graph.plan(toy, from_stage="align", force=True) if each.forced]
    assert forced == ["align", "evaluate", "gate", "report"]
    assert all(each.forced for each in graph.plan(toy, force=True))
    with pytest.raises(ValueError, match=r"--from-stage bogus: no such stage; dvc\.yaml has align"):
        graph.plan(toy, from_stage="bogus")


def test_the_input_hash_names_what_a_stage_computes_from(toy: Path, edit: Edit) -> None:
    repro()
    first = graph.input_hash(toy, "reward@0")
    assert first == graph.input_hash(toy, "reward@0")
    edit("reward", steps=9)
    assert graph.input_hash(toy, "reward@0") != first


def test_accepted_shards_come_under_dvcs_care_and_back_from_its_cache(toy: Path) -> None:
    rows = toy / "data/shards/rows"
    rows.mkdir()
    (rows / "one.jsonl").write_text("{}\n")
    graph.version_shards(toy)
    assert (toy / "data/shards/rows.dvc").is_file()
    (rows / "two.jsonl").write_text("{}\n")
    graph.version_shards(toy)
    for path in rows.iterdir():
        path.unlink()
    rows.rmdir()
    graph.plan(toy)
    assert sorted(path.name for path in rows.iterdir()) == ["one.jsonl", "two.jsonl"]


def test_an_output_comes_back_from_the_cache_where_the_cache_has_it(toy: Path) -> None:
    graph.restore(toy, "data/raw/preferences")  # nothing ran yet
    repro()
    folder = toy / "data/raw/preferences"
    shutil.rmtree(folder)
    graph.restore(toy, "data/raw/preferences")
    assert (folder / "part.json").is_file()
    shutil.rmtree(folder)
    shutil.rmtree(toy / ".dvc/cache")
    graph.restore(toy, "data/raw/preferences")
    graph.restore(toy, "data/nothing")
    assert not (folder / "part.json").exists()
