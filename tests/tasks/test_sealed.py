"""A look at the sealed fold: what it says, what stands on record, and when it is refused."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from tasks import evaluate, records, sealed
from tasks.adapters import stage
from tasks.adapters.workspace import Workspace
from tasks.files import write_json
from tasks.hashes import content_hash
from tests.tasks.folders import refill
from tests.tasks.test_evaluate import MODEL, PARAMS, made  # noqa: F401 - a fixture

ROOT = Path(__file__).parents[2]
AT_TEST = {"prompts": "prepared/prompts/test", "safety": "prepared/safety/test", "pairs": "prepared/pairs/test"}


@pytest.fixture
def space(made, tmp_path, monkeypatch):  # noqa: F811
    """Random models, and a sealed fold of the test fold's rows."""
    data = Path(shutil.copytree(made, tmp_path / "data"))
    for name, path in AT_TEST.items():
        shutil.copytree(data / path, data / "sealed" / name)
    (data / "reports").mkdir()
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    own = PARAMS.model_dump(mode="json", exclude={"seed", "model"})
    params |= {"model": MODEL.model_dump(mode="json"), "evaluate": own}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    monkeypatch.chdir(tmp_path)
    return Workspace(tmp_path, tmp_path)


def looked(by="ann", reason="release 3"):
    return sealed.main(["--by", by, "--reason", reason])


def errors(said):
    """What it says, without the bars that transformers draws."""
    return [line for line in said.err.replace("\r", "\n").splitlines() if line and "Loading weights" not in line]


def recorded(space):
    return json.loads((space.data / "sealed_looks.json").read_text())["looks"]


def test_every_look_is_on_record_and_the_second_one_is_warned_of(space, capsys):
    metrics = {"models/policy": content_hash(space.data / "models/policy")}
    assert looked() == 0
    said = capsys.readouterr()
    assert "; policy" in said.out
    assert "not registered; seen once\n" in said.out
    assert said.out.count("win_rate ") == 1
    assert "verdict on the sealed fold: " in said.out
    assert errors(said) == []
    (first,) = recorded(space)
    assert (first["by"], first["reason"], first["workspace"], first["version"]) == ("ann", "release 3", "main", None)
    assert first["policy"] == metrics["models/policy"]
    assert first["at"].endswith("+00:00")
    assert looked("bob", "again") == 0
    said = capsys.readouterr()
    (warned,) = errors(said)
    assert warned.startswith("warning: the sealed fold was seen once before, last by ann at 20")
    assert "(release 3)" in warned
    assert "seen 2 times\n" in said.out
    assert [each["by"] for each in recorded(space)] == ["ann", "bob"]
    report = json.loads((space.data / "reports/sealed.json").read_text())
    assert (report["looks"], report["look"]["by"], report["comparisons"]) == (2, "bob", 20)
    # A look at another workspace's fold is none at this one.
    others = [{**each, "workspace": "hh_cpu"} for each in recorded(space)]
    write_json(space.data / "sealed_looks.json", {"looks": others})
    assert sealed.seen(space) == []


def test_the_figures_are_those_of_evaluate_on_the_same_rows(space, capsys):
    """The fold decides what is read; how it is measured is evaluate's, seeds and all."""
    records.write_table(records.pair_table([]), space.data / "collected/test.parquet")
    stage.execute(evaluate.STAGE)
    assert looked() == 0
    report = json.loads((space.data / "reports/sealed.json").read_text())
    assert report["metrics"] == json.loads((space.data / "reports/evaluate.json").read_text())["metrics"]
    assert report["test"] == report["gate"]
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("win_rate"))
    assert line.count("[") == 2
    kept = {path.name for path in (space.data / "evaluation").iterdir()}
    assert kept == {"items.parquet", "pairs.parquet"}
    # Figures of the test fold stand beside it only where they are of the same policy.
    shutil.copy(space.data / "models/sft/model.safetensors", space.data / "models/policy/model.safetensors")
    assert looked() == 0
    assert json.loads((space.data / "reports/sealed.json").read_text())["test"] is None


def empty(space):
    for name in ("prompts", "safety"):
        path = space.data / f"sealed/{name}"
        refill(path, records.read_table(path).slice(0, 0))


def other_split(space):
    report = {"inputs": {"tokenizer": "x", "prepared/pairs/test": "0"}}
    (space.data / "reports/reward@1.json").write_text(json.dumps(report))


@pytest.mark.parametrize(
    ("change", "arguments", "said"),
    [
        (empty, ("ann", "r"), "data/sealed: the sealed fold is empty; set folds.sealed in params.yaml above 0"),
        (lambda space: shutil.rmtree(space.data / "sealed"), ("ann", "r"), "data/sealed: the sealed fold is empty"),
        (other_split, ("ann", "r"), "data/prepared/pairs/test: not what reward@1 learned from; `make run`"),
        (lambda space: None, ("  ", "r"), "BY: empty; a look at the sealed fold names the person and the reason"),
        (lambda space: None, ("ann", ""), "REASON: empty"),
        (lambda space: (space.data / "sealed_looks.json").write_text("{}"), ("ann", "r"), "restore it with git"),
        (lambda space: shutil.rmtree(space.data / "models/judge"), ("ann", "r"), "models/judge"),
    ],
)
def test_a_look_that_cannot_be_answered_is_refused_in_a_line_and_is_none(space, capsys, change, arguments, said):
    change(space)
    before = (space.data / "sealed_looks.json").exists()
    assert looked(*arguments) == stage.BAD_INPUT
    (error,) = errors(capsys.readouterr())
    assert error.startswith("error: ")
    assert said in error
    assert not (space.data / "reports/sealed.json").exists()
    assert (space.data / "sealed_looks.json").exists() == before
