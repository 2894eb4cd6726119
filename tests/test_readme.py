"""README.md is held to its word in a copy of the project with the smoke recipe's parameters.

What ends by itself is run; what stays, or needs data or a network, is started as far as its options. A command that
is in neither list fails.
"""

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tasks.adapters import stage
from tasks.rlhf import verification

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FRESH = "make run FRESH=path/to/fresh.jsonl"
# command: what it says
RUNS = {
    "make run": "nothing changed",
    "make estimate RECIPE=smoke": "In all ",
    "make estimate HARDWARE=h100": "ppo on h100; ",
    FRESH: "",  # by the fixture: the one run that trains
    "dvc repro": "Data and pipelines are up to date",
    "dvc metrics diff --targets data/reports/evaluate.json": "",
    "dvc plots diff": "index.html",
    "git add dvc.lock data/shards": "",
    'git commit -m "Retrain"': "dvc.lock",
    "dvc remote add -d storage /path/to/storage": "",
    "dvc push": "files pushed",
    "dvc pull": "Everything is up to date",
    "dvc gc --all-branches --workspace --force": "",
}
RUNS_SLOWLY = {
    "make run RECIPE=smoke": "policy-smoke version 1",
    "dvc exp run -S align.algorithm=dpo": "Experiment results have been applied",
    "make reproduce VERSION=1": "the same",
    "make selftest": "ok",
}
STARTS = [
    "make test",
    "make run RECIPE=hh_cpu DATA=path/to/hh_harmless_test.jsonl.gz",
    "make run RECIPE=hub_lora DATA=path/to/votes.jsonl",
    "make serve CRON='0 3 * * *'",
    "make serve POOL=machines CRON='0 3 * * *'",
    "make ui",
    "make release",
    "make sealed BY=ann REASON='release of March'",
    "prefect server start",
    "prefect work-pool create machines --type process",
    "prefect worker start --pool machines --work-queue gpu",
    *RUNS_SLOWLY,
]


def test_the_table_of_algorithms_is_what_there_is() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| \[(\S+)\]\(https://\S+\S*\) \|$", README, re.MULTILINE))
    files = {path.stem: path for path in (ROOT / "tasks/rlhf").glob("p*/[a-z]*.py")}
    assert rows.keys() == files.keys()
    for name, paper in rows.items():
        assert paper in files[name].read_text(encoding="utf-8").split('"""')[1], f"{name}: README names another paper"


def test_the_table_of_verifiers_is_what_there_is() -> None:
    rows = re.findall(r'^\| `(\{"kind".*?\})` \| .* \|$', README, re.MULTILINE)
    tables = {
        "atlas": [{"subject": "Arvenna", "relation": "capital", "value": "Solm"}],
        "papers": [{"id": "p1", "text": "Solm is the capital."}],
    }
    for row in rows:
        assert verification.load(row, verification.Resources(tables, run_code=lambda program: None)), row
    assert sorted(json.loads(row)["kind"] for row in rows) == list(verification.files())


def blocks(language: str, word: str = "") -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    return [block for block in found if word in block]


def commands() -> list[str]:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if not line.startswith(("export ", ". "))]


def make(arguments: str) -> str:
    """`make` on the environment that the tests run in, instead of one that it installs."""
    venv = shlex.quote(sys.prefix)
    return f"make VENV={venv} -o {venv}/.ready {arguments}"


class Project:
    """A copy of the project, and a shell in it."""

    def __init__(self, root: Path, home: Path, elsewhere: Path) -> None:
        self.root, self.elsewhere = root, elsewhere
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PREFECT_", "PYTHONDONT"))}
        self.environment = kept | {
            "HOME": str(home),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "OMP_WAIT_POLICY": "PASSIVE",  # threads that wait must not spin where tests share the cores
        }

    def sh(self, command: str) -> "subprocess.CompletedProcess[str]":
        command = command.replace("path/to/fresh.jsonl", str(self.elsewhere / "fresh.jsonl"))
        command = command.replace("/path/to/storage", str(self.elsewhere / "storage"))
        if command.startswith("make "):
            command = make(command.removeprefix("make "))
        return subprocess.run(
            command, shell=True, cwd=self.root, env=self.environment, capture_output=True, text=True, timeout=500
        )

    def python(self, code: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command, cwd=self.root, env=self.environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory, quiet_home: Path) -> Project:
    """What git tracks or would track, as it is here, committed anew; nothing has run in it."""
    root, elsewhere = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("elsewhere")
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in names:
        if name not in ("", "dvc.lock") and (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    shutil.copy(root / "infra/recipes/smoke.yaml", root / "params.yaml")
    (elsewhere / "fresh.jsonl").write_text(
        '{"prompt": "What is 2 + 3?", "chosen": "2 + 3 = 5.", "rejected": "It is late."}\n'
        '{"prompt": "Name a fruit.", "chosen": "Apple.", "rejected": "Hammer."}\n'
    )
    project = Project(root, quiet_home, elsewhere)
    done = project.sh("git init -q && git add -A && git commit -q -m start")
    assert done.returncode == 0, done.stderr
    return project


@pytest.fixture(scope="module")
def project(copy: Project) -> Project:
    """A project in which the main job has run once, with a fresh shard."""
    done = copy.sh(FRESH)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "2 rows for preferences" in done.stdout
    assert "policy version 1, challenger" in done.stdout
    assert "differs from the last commit: " in done.stdout
    return copy


def test_every_command_is_checked() -> None:
    assert sorted(set(commands())) == sorted({*RUNS, *STARTS})


@pytest.mark.parametrize("command", [command for command in dict.fromkeys(commands()) if command in RUNS])
def test_a_command_that_ends_by_itself(project: Project, command: str) -> None:
    if command == FRESH:
        return
    done = project.sh(command)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert RUNS[command] in done.stdout
    assert "Traceback" not in done.stderr


def test_a_run_leaves_nothing_in_git_that_it_does_not_name(project: Project) -> None:
    """After the README's `git add` and `git commit`."""
    named = {"dvc.lock", ".dvc/config", "dvc_plots/"}  # the remote; the page of `dvc plots diff`
    left = {line[3:] for line in project.sh("git status --porcelain").stdout.splitlines()}
    assert left <= named, left


def test_release_looks_once(project: Project) -> None:
    done = project.sh("make release ONCE=1")
    assert done.returncode == 0, done.stderr
    assert "no version has the alias champion" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("command", RUNS_SLOWLY)
def test_a_command_that_takes_its_time(project: Project, command: str) -> None:
    done = project.sh(command)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert RUNS_SLOWLY[command] in done.stdout


@pytest.mark.parametrize("command", STARTS)
def test_a_command_that_stays_knows_its_options(copy: Project, command: str) -> None:
    words = shlex.split(command)
    if words[0] != "make":
        first = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
        asked, options = words[:first], words[first:]
    else:
        shown = copy.sh(f"{command} --dry-run")
        assert shown.returncode == 0, shown.stderr
        words = shlex.split(shown.stdout.replace("\\\n", " "))
        module = words[words.index("-m") + 1]
        assert importlib.util.find_spec(module), f"{command} runs {module}, which does not exist"
        asked, options = [sys.executable, "-m", module], words[words.index("-m") + 2 :]
    options = [option for option in options if option.startswith("-")]
    if options:
        told = help_of(tuple(asked))
        assert all(option in told for option in options), f"{command}: not among the options:\n{told}"
    elif words[0] == "prefect":
        assert help_of(tuple(asked))


@cache
def help_of(command: tuple[str, ...]) -> str:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run([*command, "--help"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_targets_and_variables_of_make_exist(copy: Project) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for words in re.findall(r"`make ([a-z][^`]*)`", README):
        target, *variables = shlex.split(words)
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target}"
        for variable in variables:
            if "=" not in variable:  # a word of a value with spaces
                continue
            assert f"$({variable.partition('=')[0]})" in makefile, f"make {words}"
    assert copy.sh("make bench --dry-run").returncode == 0


def test_the_model_answers_by_folder_and_by_alias(project: Project) -> None:
    (code,) = blocks("python", "mlflow")
    done = project.python(code)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "policy@challenger' resolved" in done.stderr


def test_a_new_algorithm_is_one_file_and_the_sections_shown_are_params(copy: Project) -> None:
    (code,), (section,), (sources,) = blocks("python", "Hinge"), blocks("yaml", "hinge"), blocks("yaml", "sources")
    file, params = copy.root / "tasks/rlhf/preference/hinge.py", copy.root / "params.yaml"
    before = params.read_bytes()
    check = (
        "import sys, torch, yaml\n"
        "from pathlib import Path\n"
        "params = yaml.safe_load(Path('params.yaml').read_text())\n"
        "for text in sys.argv[1:]:\n"
        "    for key, values in yaml.safe_load(text).items():\n"
        "        params[key] |= values\n"
        "Path('params.yaml').write_text(yaml.safe_dump(params))\n"
        "from flows import parameters\n"
        "parameters.check(Path())\n"
        "from tasks.rlhf import algorithms\n"
        "from tasks.rlhf.batch import PairLogps\n"
        "hinge = algorithms.load('hinge', params['align']['hinge'])\n"
        "tokens = torch.ones(3)\n"
        "logps = PairLogps(torch.tensor([-1.0, -1.0, -1.0]), torch.tensor([-1.4, -1.4, -5.0]), tokens, tokens)\n"
        "output = hinge.module.loss(logps, None, torch.tensor([1.0, 0.0, 0.5]), hinge.config)\n"
        "torch.testing.assert_close(output.loss_B, torch.tensor([0.6, 1.4, 0.0]))\n"  # by hand, margin 1
    )
    try:
        file.write_text(code, encoding="utf-8")
        done = copy.python(check, section, sources)
    finally:
        file.unlink(missing_ok=True)
        params.write_bytes(before)
    assert done.returncode == 0, done.stderr[-2000:]


def test_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", ROOT / "infra/README.md", *(ROOT / "infra/decisions").glob("*.md")):
        for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page}: {link}"


def test_exit_codes_are_those_of_the_code() -> None:
    rows = dict(re.findall(r"^\| (\d+) \| (.*) \|$", README, re.MULTILINE))
    assert rows[str(stage.BAD_INPUT)].startswith("bad input")
    assert rows[str(stage.BAD_CONTRACT)].startswith("the data broke its contract")
    assert "holds the workspace" in rows[str(stage.BUSY)]
