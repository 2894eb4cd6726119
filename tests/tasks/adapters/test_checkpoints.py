"""What a checkpoint is valid for, how often one is written, and that a stage that is done leaves none."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.adapters import checkpoints, stage
from tasks.rlhf.options import LoraOptions, ModelOptions

ROOT = Path(__file__).parents[3]
MODEL = ModelOptions(
    base="scratch",
    revision=None,
    dtype="float32",
    max_length=8,
    hidden_size=8,
    num_layers=1,
    num_heads=1,
    intermediate_size=8,
    vocab_size=300,
    lora=None,
)


class Params(stage.Params):
    seed: int
    model: ModelOptions


def key(data, model=MODEL, seed=0):
    return checkpoints._key(Params(seed=seed, model=model), ["input"], data)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "input").mkdir()
    (tmp_path / "input/rows").write_text("1")
    return tmp_path


def test_the_key_is_that_of_parameters_inputs_code_and_libraries(folder, monkeypatch):
    keys = [key(folder), key(folder, seed=1)]
    keys += [key(folder, MODEL.model_copy(update={"dtype": "bfloat16"}))]
    keys += [key(folder, MODEL.model_copy(update={"lora": LoraOptions(rank=1, alpha=1.0)}))]
    assert key(folder) == keys[0]
    (folder / "input/rows").write_text("2")
    keys += [key(folder)]
    (folder / "code").mkdir()
    for name in ("rlhf", "records.py"):
        copy = shutil.copytree if name == "rlhf" else shutil.copy
        copy(ROOT / "tasks" / name, folder / "code" / name)
    monkeypatch.setattr(checkpoints, "_CODE", folder / "code")
    before = key(folder)
    (folder / "code/rlhf/logprobs.py").write_text("# edited")
    keys += [before, key(folder)]
    monkeypatch.setattr(checkpoints, "version", lambda name: "0.0")
    keys += [key(folder)]
    assert len(set(keys)) == len(keys) == 8


def test_a_local_base_model_is_known_by_its_content(folder):
    base = folder / "base"
    base.mkdir()
    (base / "weights").write_text("1")
    model = MODEL.model_copy(update={"base": str(base)})
    before = key(folder, model)
    (base / "weights").write_text("2")
    assert key(folder, model) != before


def test_the_code_of_a_stage_is_in_its_key():
    """In the process of a stage, where nothing but its own modules is loaded."""
    script = (
        "import runpy\n"
        "from tasks.adapters import checkpoints, stage\n"
        "stage.main = lambda described: print(*sorted(str(f) for f in checkpoints._code()))\n"
        "runpy.run_module('tasks.judge', run_name='__main__', alter_sys=True)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    names = {Path(file).relative_to(ROOT / "tasks").as_posix() for file in done.stdout.split()}
    assert {"judge.py", "reward.py", "records.py", "rlhf/train_on_dataset.py", "rlhf/models.py"} <= names
    assert not names & {"evaluate.py", "report.py", "world/gold.py"}


@pytest.mark.parametrize("text", ["often", "-1", "nan", "inf", ""])
def test_a_bad_interval_names_variable_value_and_remedy(monkeypatch, tmp_path, text):
    monkeypatch.setenv(checkpoints.SECONDS, text)
    with pytest.raises(ValueError, match=f"{checkpoints.SECONDS} = '{text}': must be seconds between two checkpoints"):
        checkpoints.of_stage("sft", None, [], tmp_path)


def test_a_stage_that_is_done_leaves_none(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "data").mkdir()
    (folder / "input").rename(folder / "data/input")
    (folder / "params.yaml").write_text(json.dumps({"seed": 1, "model": MODEL.model_dump(), "sft": {}}))
    monkeypatch.setenv(checkpoints.SECONDS, "0")
    fail = True

    def run(params, data, tracker):
        import numpy as np

        parts = {"draws": np.random.default_rng(0), "tracker": tracker}
        tracker.checkpoints.restore(parts)
        tracker.log(2 if tracker.curve else 1, 2, loss=0.5)
        tracker.checkpoints.save(1, parts)
        if fail:
            raise ValueError("interrupted")
        return {}

    described = stage.Stage("sft", Params, run, reads=("input",), writes=())
    with pytest.raises(ValueError, match="interrupted"):
        stage.execute(described)
    assert len(list(folder.glob("data/checkpoints/sft/*/001-000000001-*.pt"))) == 1
    fail = False
    stage.execute(described)
    assert not list((folder / "data/checkpoints").glob("*"))
    assert json.loads((folder / "data/runs/sft/sidecar.json").read_text())["resumed_from_step"] == 1
    assert (folder / "data/curves/sft.csv").read_text() == "step,loss\n1,0.5\n2,0.5\n"
