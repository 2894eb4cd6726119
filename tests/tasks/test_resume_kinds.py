"""Kinds of runs of the align stage: interrupted twice and run again to the end, each leaves what one run leaves.

The interruption is an exception in the loop, after the optimiser's step and before its checkpoint; what a SIGKILL does
to the process is in test_resume.py.
"""

import json
import re
import shutil

import pytest
import yaml

from tasks.adapters.checkpoints import SECONDS
from tasks.adapters.telemetry import FileTracker
from tasks.hashes import content_hash
from tasks.rlhf import models, tool_use
from tests.tasks.conftest import inside, run_stage
from tests.tasks.test_pipeline import copy_of

ROLLOUTS = {"num_steps": 4, "prompts_per_step": 8, "num_minibatches": 2, "held_out_every": 2, "held_out_prompts": 8}
ROLLOUTS |= {"lr": 1e-3, "patience": 9, "min_finished": 0.0, "max_first_score": None, "kl_coef": 0.05}
GROUPS = ROLLOUTS | {"replies_per_prompt": 4}
PAIRS = {"num_epochs": 1, "lr": 1e-3, "batch_tokens": 4096, "beta": 0.1, "canary_share": 0}
VETO = {"learned": 1.0, "verifier": 1.0, "veto": True}
CASES = {  # name: changes of sections
    "kto": {"align": {"algorithm": "kto", "kto": PAIRS}},
    "online_dpo": {"align": {"algorithm": "online_dpo", "online_dpo": GROUPS}},
    "best_of_n": {"align": {"algorithm": "best_of_n", "best_of_n": GROUPS}},
    "grpo with a tool": {"align": {"algorithm": "grpo", "grpo": GROUPS, "tools": {"names": ["calculator"]}}},
    "verifier with veto": {
        "align": {"algorithm": "grpo", "grpo": GROUPS | {"dynamic_sampling": True, "max_redraws": 1}, "rewards": VETO}
    },
    "lora": {"model": {"lora": {"rank": 2, "alpha": 4, "dropout": 0.1}}, "align": {"ppo": ROLLOUTS}},
    "gradient checkpointing": {"model": {"gradient_checkpointing": True}, "align": {"ppo": ROLLOUTS}},
}


class Interrupted(Exception):  # noqa: N818
    pass


@pytest.fixture
def aligned(monkeypatch):
    """Runs the stage, up to the logging of a step or to its end; what it must not change by interruptions."""
    log = FileTracker.log

    def run(data, at=None):
        def interrupted(self, step, total, **metrics):
            if step == at:
                raise Interrupted
            log(self, step, total, **metrics)

        monkeypatch.setattr(FileTracker, "log", interrupted)
        shutil.rmtree(data / "models/policy", ignore_errors=True)  # as DVC does
        run_stage("align")
        texts = {name: (data / name).read_text() for name in ("reports/align.json", "curves/align.csv")}
        traces = data / "runs/align/traces.jsonl"
        return texts | {
            "model": content_hash(data / "models/policy"),
            "traces": traces.read_text() if traces.is_file() else "",
        }

    return run


def now_and_then(text, names):
    """A model that was never shown a call makes none: here a stretch of its words is one."""
    return ("calculator", text[-1]) if len(text.strip()) >= 12 and len(text) % 3 == 0 else None


@pytest.mark.parametrize("name", CASES)
def test_interruptions_change_nothing(name, built, tmp_path, aligned, monkeypatch):
    root = copy_of(built, tmp_path)
    params = yaml.safe_load((root / "params.yaml").read_text())
    for section, values in CASES[name].items():
        params[section] |= values
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    monkeypatch.setenv(SECONDS, "0")
    monkeypatch.setattr(tool_use, "_parse", now_and_then)
    with inside(root):
        run_stage("objective")
        whole = aligned(root / "data")
        last = int(whole["curves/align.csv"].splitlines()[-1].partition(",")[0])
        assert last >= 3
        for at in (last // 2, last):
            with pytest.raises(Interrupted):
                aligned(root / "data", at)
        again = aligned(root / "data")
    assert again == whole
    sidecar = json.loads((root / "data/runs/align/sidecar.json").read_text())
    assert sidecar["resumed_from_step"] == last - 1
    assert ("calculator" in whole["traces"]) == (name == "grpo with a tool")


@pytest.mark.parametrize("is_compiled", [True, False])
def test_a_compiled_run_that_goes_on_says_that_it_is_not_exact(
    is_compiled, built, tmp_path, aligned, monkeypatch, capsys
):
    """Only what is said of it: nothing is compiled here."""
    root = copy_of(built, tmp_path)
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["model"]["compile"] = is_compiled
    params["align"]["ppo"] |= ROLLOUTS | {"num_steps": 2, "held_out_every": None, "patience": None}
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    monkeypatch.setenv(SECONDS, "0")
    monkeypatch.setattr(models, "compile_layers", lambda model: None)
    with inside(root):
        run_stage("objective")
        aligned(root / "data")
        assert "warning" not in capsys.readouterr().err
        with pytest.raises(Interrupted):
            aligned(root / "data", 2)
        aligned(root / "data")
    line = "warning: align: went on after step 1 with model.compile = true: .* but for rounding; set it to false"
    assert bool(re.search(line, capsys.readouterr().err)) == is_compiled
    sidecar = json.loads((root / "data/runs/align/sidecar.json").read_text())
    assert sidecar["resumed_but_for_rounding"] is is_compiled
