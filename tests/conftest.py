"""A toy pipeline: the stages' names and files with nothing to compute, in a repository of its own."""

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

TOY = Path(__file__).parent / "toy"
HOME = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def quiet_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder without any user's git, DVC or Prefect settings."""
    home = tmp_path_factory.mktemp("home")
    (home / ".gitconfig").write_text("[user]\n name = t\n email = t@localhost\n[init]\n defaultBranch = main\n")
    return home


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model of a few hundred random weights, as a plain transformers folder with chat template."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny")
    words = ["<pad>", "<eos>", "<unk>", "Hello", "a", "b", "c"]
    words_of = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    words_of.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words_of, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def no_store_of_another_test() -> Iterator[None]:
    """`mlflow.set_tracking_uri`, called within a test, leaves the store in the environment of all that follow."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    yield
    os.environ.pop("MLFLOW_TRACKING_URI", None)


@pytest.fixture
def toy(tmp_path: Path, quiet_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a committed toy project; the current folder of the test."""
    root = tmp_path / "toy"
    shutil.copytree(TOY, root)
    monkeypatch.setenv("HOME", str(quiet_home))
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "PREFECT_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(HOME))
    (root / "tasks").symlink_to(HOME / "tasks")  # what a flow forks DVC from
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    monkeypatch.chdir(root)
    sh("git init -q && dvc init -q && git add -A && git commit -q -m toy")
    return root


@pytest.fixture
def toy_with_model(toy: Path, tiny_model: Path) -> Path:
    """The toy, whose stages `sft` and `align` write a model that loads."""
    shutil.copytree(tiny_model, toy / "tiny", dirs_exist_ok=True)
    sh("git add -A && git commit -q -m model")
    return toy


@pytest.fixture
def short(toy: Path) -> Path:
    """The toy with its first three stages only."""
    document = yaml.safe_load(Path("dvc.yaml").read_text())
    document["stages"] = {name: document["stages"][name] for name in ("ingest", "prepare", "sft")}
    Path("dvc.yaml").write_text(yaml.safe_dump(document))
    sh("git commit -q -am short")
    return toy


@pytest.fixture
def edit() -> Callable[..., None]:
    """edit(section, key=value, ...): change params.yaml of the current folder."""

    def change(section: str, **values: Any) -> None:
        params = yaml.safe_load(Path("params.yaml").read_text())
        params[section] = {**(params.get(section) or {}), **values}
        Path("params.yaml").write_text(yaml.safe_dump(params))

    return change


@pytest.fixture
def executed() -> Callable[[], list[str]]:
    """executed(): the toy stages that ran since the last call."""

    def read() -> list[str]:
        path = Path("executed.log")
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [line.split()[0] for line in lines]

    return read


def sh(command: str) -> str:
    return subprocess.run(command, shell=True, check=True, capture_output=True, text=True).stdout


def pytest_configure(config: pytest.Config) -> None:
    """What we can do nothing about: warnings of other people's code, and a logger that keeps its first stream."""
    importlib.import_module("dvc")  # not within a test: it would keep the stream that captures that test's output
    for line in (
        "ignore:_NoneStep.value will soon:DeprecationWarning",  # dvc's pygtrie
        "ignore:.*Any type hint is inferred as AnyType:UserWarning",  # mlflow about mlflow
    ):
        config.addinivalue_line("filterwarnings", line)
