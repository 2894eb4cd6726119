"""The align stage where replies come from a server, and where its models share one base."""

import json
import re
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from tasks.hashes import content_hash
from tests.tasks.adapters.vllm_server import Vllm, serving
from tests.tasks.conftest import inside, run_stage

LORA = {"rank": 4, "alpha": 8}


@pytest.fixture
def copied(built, tmp_path):
    """A copy of the built workspace to run stages in again, and a function that changes its parameters."""
    root = tmp_path / "copy"
    shutil.copytree(built, root, symlinks=True)
    with inside(root):
        yield root


def change(**sections):
    path = Path("params.yaml")
    params = yaml.safe_load(path.read_text())
    for section, values in sections.items():
        params[section] |= values
    path.write_text(yaml.safe_dump(params))


def aligned():
    """What the stage reports of its run."""
    run_stage("objective")
    run_stage("align")
    return json.loads(Path("data/reports/align.json").read_text())["metrics"]


@contextmanager
def served():
    with serving(Vllm(Path("data/models/sft"), max_model_len=96)) as url:
        yield {"engine": "server", "url": url}


def test_a_server_samples(copied):
    before = json.loads(Path("data/objective.json").read_text())
    with served() as generation:
        change(align={"generation": generation})
        with pytest.raises(ValueError, match=r"other rewards or tools than .*align.generation"):
            run_stage("align")
        metrics = aligned()
    after = json.loads(Path("data/objective.json").read_text())
    assert after == before | {"generation": {"engine": "server"}}
    for step in ("first", "last"):
        assert 0 < metrics[step]["engine_gap"] < 1e-3
    assert abs(metrics["first"]["kl"]) < 1e-3
    assert metrics["num_rollouts"] == 3
    assert not list(Path("data/runs/align/weights").iterdir())  # what was laid there for the server is gone


def test_critic_and_reward_model_over_the_policys_base(copied):
    change(model={"lora": LORA})
    run_stage("reward")
    alone = aligned()
    change(align={"one_base": True})
    shared = aligned()
    # The first rollout is the same; from then on the critics differ.
    assert shared["first"]["score"] == pytest.approx(alone["first"]["score"], abs=1e-4)
    assert shared["first"]["reply_length"] == alone["first"]["reply_length"]
    assert shared["last"]["score"] != alone["last"]["score"]
    assert [re.sub(r".*\.", "", file.name) for file in Path("data/models/policy").glob("model*")] == ["safetensors"]
    shutil.rmtree("data/models/reward/0/adapters")
    run_stage("objective")
    with pytest.raises(ValueError, match=r"one_base = true: data/models/reward/0 keeps no adapters"):
        run_stage("align")
    change(model={"lora": None})
    with pytest.raises(ValueError, match=r"align.one_base = True: .*what shares a base is adapters, and model.lora is"):
        run_stage("align")


def test_a_sweep_asks_the_reference_once(copied, monkeypatch):
    from tasks.rlhf import reference

    measured = []

    def counted(logprobs, examples, *given):
        measured.append(len(examples))
        return sums(logprobs, examples, *given)

    sums = reference.reply_sums
    monkeypatch.setattr(reference, "reply_sums", counted)
    change(align={"algorithm": "dpo"})
    policies = []
    for beta in (0.1, 0.3, 0.1):
        section = yaml.safe_load(Path("params.yaml").read_text())["align"]["dpo"]
        change(align={"dpo": section | {"beta": beta}})
        aligned()
        policies.append(content_hash(Path("data/models/policy")))
    assert len(measured) == 3  # the pairs, and both sides of the canary, of the first run alone
    assert policies[0] != policies[1]
    shutil.rmtree("data/runs/align/reference")
    aligned()
    assert len(measured) == 6
    assert content_hash(Path("data/models/policy")) == policies[0] == policies[2]
