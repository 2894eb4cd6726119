"""The real stages on a tiny world, run once in this process: what every stage test looks at."""

import contextlib
import importlib
import os
from pathlib import Path

import pytest
import yaml

from tasks.adapters import stage
from tests.tasks.folders import bare, fresh

ROOT = Path(__file__).parents[2]
STAGES = "ingest validate prepare sft collect reward judge objective align evaluate gate card report".split()
TINY = {
    "world": {"num_demonstrations": 400, "num_preferences": 600},
    "model": {"hidden_size": 32, "num_layers": 1, "intermediate_size": 64, "vocab_size": 500},
    "sft": {"num_epochs": 2, "batch_tokens": 768},  # with fewer steps KTO's SFT term finds text still to be learned
    "collect": {"prompts_per_fold": 20, "replies_per_prompt": 2},
    "reward": {"num_epochs": 4, "batch_tokens": 1024},
    "judge": {"num_epochs": 2, "batch_tokens": 1024},
    "evaluate": {"num_samples": 1, "num_safety_samples": 1, "num_bootstrap": 100},
}
TINY_PPO = {"num_steps": 3, "prompts_per_step": 16, "min_finished": 0.0}


def run_stage(name):
    """Run one stage as its process would, without the process."""
    module = importlib.import_module(f"tasks.{name}")
    stage.execute(module.member_stage(0) if hasattr(module, "member_stage") else module.STAGE)


def workspace(root, changes=None):
    """A folder with params and the tracked inputs, and nothing built."""
    bare(root)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for section, values in {**TINY, **(changes or {})}.items():
        params[section] |= values
    params["align"]["ppo"] |= TINY_PPO
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    return root


@contextlib.contextmanager
def inside(folder):
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield folder
    finally:
        os.chdir(before)


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """A workspace in which every stage has run."""
    import torch

    torch.set_num_threads(1)
    with inside(workspace(tmp_path_factory.mktemp("built"))) as root:
        for name in STAGES:
            run_stage(name)
    return root


@pytest.fixture
def data(tmp_path):
    return fresh(tmp_path)
