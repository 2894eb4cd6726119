"""The shape of the house: who may import whom, one name per stage, and dependencies of the graph that are true."""

import ast
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
INNER = ("tasks/rlhf", "tasks/preferences", "tasks/evaluation")
OUTSIDE_TOOLS = {"prefect", "mlflow", "dvc", "great_expectations"}
# Shared by every stage and without influence on what a stage computes: tests/tasks/test_pipeline.py and, for
# checkpoints, tests/tasks/test_resume.py hold them to it.
EXEMPT = (
    "tasks/adapters",
    "tasks/rlhf/checkpoint",
    "tasks/rlhf/ranks",  # reached from checkpoint; what trains or measures with several processes names it
    "tasks/__init__",
    "tasks/rlhf/__init__",
    "tasks/preferences/__init__",
    "tasks/evaluation/__init__",
)


def sources(*folders):
    return sorted(p for folder in folders for p in (ROOT / folder).rglob("*.py"))


def imports(path):
    """Every module that a file names in an import, at the top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def graph():
    return yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


@pytest.mark.parametrize("path", sources(*INNER), ids=str)
def test_inner_packages_import_no_outside_tool_and_not_each_other(path):
    home = "tasks." + path.relative_to(ROOT).parts[1]
    others = {package.replace("/", ".") for package in INNER} - {home} | {"tasks.adapters", "flows"}
    for module in imports(path):
        assert module.split(".")[0] not in OUTSIDE_TOOLS, f"{path} imports {module}"
        assert not any(module == other or module.startswith(other + ".") for other in others), (
            f"{path} imports {module}"
        )


@pytest.mark.parametrize("path", sources("tasks/rlhf/preference", "tasks/rlhf/policy"), ids=str)
def test_algorithms_import_torch_alone(path):
    allowed = {"torch", "dataclasses", "typing", "annotated_types", "tasks"}
    assert {module.split(".")[0] for module in imports(path)} <= allowed


@pytest.mark.parametrize("path", sources("tasks"), ids=str)
def test_tasks_do_not_import_flows(path):
    assert not any(module.split(".")[0] == "flows" for module in imports(path))


def test_dvc_understands_the_graph():
    from dvc.schema import COMPILED_MULTI_STAGE_SCHEMA

    COMPILED_MULTI_STAGE_SCHEMA(yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8")))


def test_stage_file_section_and_report_share_a_name():
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for name, stage in graph().items():
        assert (ROOT / f"tasks/{name}.py").is_file()
        assert stage["cmd"].startswith(f"python -m tasks.{name}")
        assert any(Path(str(report)).name.startswith(name) for report in stage["metrics"])
        assert name in params or name == "objective"
    from tasks.adapters.stage import SECTIONS

    assert tuple(params) == SECTIONS


def code_of(stage):
    """Files of this project that a stage's module reaches through imports, but for the exempt ones."""
    todo, seen = [ROOT / f"tasks/{stage}.py"], set()
    while todo:
        path = todo.pop()
        if path in seen:
            continue
        seen.add(path)
        for module in imports(path):
            place = ROOT / module.replace(".", "/")
            if module.startswith("tasks"):
                todo += [file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()]
    names = {path.relative_to(ROOT).as_posix() for path in seen}
    return {name for name in names if not name.startswith(EXEMPT)}


@pytest.mark.parametrize("stage", graph())
def test_a_stage_depends_on_the_code_that_it_runs(stage):
    declared = [dep for dep in graph()[stage]["deps"] if dep.startswith("tasks/")]
    missing = {
        file for file in code_of(stage) if not any(file == dep or file.startswith(dep + "/") for dep in declared)
    }
    assert not missing, f"dvc.yaml: {stage} runs {sorted(missing)} without depending on it"
    for dep in declared:
        assert (ROOT / dep).exists()


@pytest.mark.parametrize("stage", graph())
def test_reads_and_writes_of_a_stage_are_those_of_the_graph(stage):
    import importlib

    module = importlib.import_module(f"tasks.{stage}")
    declared = module.member_stage(0) if hasattr(module, "member_stage") else module.STAGE
    entry = graph()[stage]
    paths = [next(iter(p)) if isinstance(p, dict) else p for p in entry.get("deps", []) + entry.get("outs", [])]
    paths = [p.replace("${item.member}", "0") for p in paths]
    for path in (*declared.reads, *declared.writes):
        full = f"data/{path}"
        covered = any(full == p or full.startswith(p + "/") or p.startswith(full + "/") for p in paths)
        assert covered, f"dvc.yaml: {stage} touches {full} without naming it"


def test_no_stage_reads_the_sealed_fold():
    touching = {name for name, entry in graph().items() if re.search(r"data/sealed\b", str(entry.get("deps", [])))}
    assert not touching, f"dvc.yaml: {touching} depends on data/sealed"
    writers = {name for name, entry in graph().items() if "data/sealed" in entry.get("outs", [])}
    assert writers == {"prepare"}
    assert not any("tasks/sealed.py" in code_of(name) for name in graph()), "a look at it is no stage's work"
    for path in sources("tasks", "flows"):
        if path not in (ROOT / "tasks/prepare.py", ROOT / "tasks/sealed.py"):
            texts = [node.value for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if _is_text(node)]
            assert not any(re.search(r"\bsealed/|/sealed\b", text) for text in texts), f"{path} names data/sealed"


def _is_text(node):
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def test_every_parameter_is_explained():
    lines = (ROOT / "params.yaml").read_text(encoding="utf-8").splitlines()
    document = yaml.safe_load("\n".join(lines))
    assert document
    for number, line in enumerate(lines):
        key = re.match(r"\s*([a-z_]+):", line)
        if key and not line.lstrip().startswith("#"):
            explained = "#" in line or lines[number - 1].lstrip().startswith("#")
            is_section = line.rstrip().endswith(":")
            assert explained or is_section, f"params.yaml:{number + 1}: {key[1]} has no comment"


def test_no_machine_paths_and_no_package_registry():
    pattern = re.compile(
        r"/(?:work|root|home)/[a-z]|pypi\.org|files\.pythonhosted|download\.pytorch\.org", re.IGNORECASE
    )
    for path in [*sources("flows", "tasks", "tests"), ROOT / "README.md", ROOT / "Makefile", ROOT / "params.yaml"]:
        if path != Path(__file__) and path.is_file():
            assert not pattern.search(path.read_text(encoding="utf-8")), path


def keys_of(document, prefix=""):
    if not isinstance(document, dict):
        return {prefix}
    return {key for name, value in document.items() for key in keys_of(value, f"{prefix}.{name}")}


@pytest.mark.parametrize("path", sorted((ROOT / "infra/recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_a_recipe_is_a_complete_params_file(path):
    import importlib

    from tasks.adapters import stage

    own, recipe = (stage.read_yaml(file) for file in (ROOT / "params.yaml", path))
    for document in (own, recipe):
        document["model"]["lora"] = None
    assert keys_of(recipe) == keys_of(own)
    for name in graph():
        stage.read_params(importlib.import_module(f"tasks.{name}").Params, name, path)
