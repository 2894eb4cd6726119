"""The estimate from outside: rows counted or guessed, hardware named, an earlier run believed where it fits."""

import itertools
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from flows import costs, estimate

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Parameters and recipes, nothing built."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "infra/recipes", tmp_path / "infra/recipes")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path, rows, source="world", **lengths):
    path.mkdir(parents=True, exist_ok=True)
    ids = pa.list_(pa.int32())
    columns = {
        name: pa.array([list(range(row, row + length)) for row in range(rows)], ids) for name, length in lengths.items()
    }
    pq.write_table(pa.table({**columns, "source": pa.array([source] * rows, pa.string())}), path / "votes.parquet")


def prepare(root):
    """Tables of known sizes, made of the sources of params.yaml."""
    data = root / "data"
    write(data / "prepared/demonstrations", 100, prompt_ids=10, reply_ids=20)
    write(data / "prepared/safety/test", 5, prompt_ids=10)
    for fold in ("train", "judge", "dev", "test"):
        write(data / f"prepared/pairs/{fold}", 50, prompt_ids=10, a_ids=14, b_ids=26)
        write(data / f"prepared/prompts/{fold}", 40, prompt_ids=10)
    document = yaml.safe_load((root / "params.yaml").read_text())
    report = {"params": {"world": document["world"], "sources": [{"kind": "world"}]}}
    (data / "prepared/canary.json").write_text("{}")
    (data / "reports").mkdir()
    (data / "reports/ingest.json").write_text(json.dumps(report))


def test_counted_rows_make_the_tokens(project):
    prepare(project)
    found = estimate.document(estimate.plan(project, None, "h100"))
    assert found["rows"] == f"counted in {project}/data/prepared"
    assert found["stages"]["sft"]["tokens"] == 4 * 100 * 30
    # 40 prompts of each fold, 12 replies each, 20 tokens expected
    assert found["stages"]["collect"]["tokens"] == 4 * 40 * 12 * 30
    passes = {each["what"]: each["tokens"] for each in found["stages"]["reward@0"]["passes"]}
    assert passes["comparisons"] == 2 * (50 + 40 * 6) * 30
    assert found["stages"]["align"]["passes"][0]["tokens"] == 15 * 256 * 30
    total = sum(row["seconds"] for row in found["stages"].values())
    assert found["hours"] == pytest.approx(total / 3600)
    assert found["peak_memory_gb"] == max(row["memory_bytes"]["peak"] for row in found["stages"].values()) / 1e9


def test_a_reply_of_several_pairs_is_counted_once(project):
    """Fifty pairs as before, and the six of a ranking of four replies in a file of its own."""
    prepare(project)
    compared, ids = list(itertools.combinations(range(4), 2)), pa.list_(pa.int32())
    sides = {"a_ids": [a for a, _ in compared], "b_ids": [b for _, b in compared]}
    columns = {name: pa.array([[100 + n] * 20 for n in numbers], ids) for name, numbers in sides.items()}
    columns |= {"prompt_ids": pa.array([[7] * 10] * 6, ids), "source": pa.array(["world"] * 6)}
    pq.write_table(pa.table(columns), project / "data/prepared/pairs/train/ranked.parquet")
    found = estimate.document(estimate.plan(project, None, "h100"))
    passes = {each["what"]: each["tokens"] for each in found["stages"]["reward@0"]["passes"]}
    assert passes["comparisons"] == pytest.approx((2 * (50 + 40 * 6) + 4) * 30)


def test_without_data_the_rows_are_guessed_and_said_to_be(project, capsys):
    assert estimate.main(["--hardware", "cpu", "--json", "found.json"]) == 0
    said = capsys.readouterr().out
    assert "guessed from the sources (world): nothing is prepared yet" in said
    assert "Not in it: reading, checking and tokenising the data, start-up, verifiers, tools and the sandbox" in said
    assert "verifiers" not in estimate.left_out({"calibrated_on": ["align"]})  # that run was timed with them
    found = json.loads(Path("found.json").read_text())
    demonstrations = 16000 * 0.52
    assert found["stages"]["sft"]["tokens"] == pytest.approx(4 * demonstrations * 27, rel=0.01)
    (project / "data").mkdir()
    prepare(project)
    text = Path("params.yaml").read_text().replace("num_demonstrations: 16000", "num_demonstrations: 9000")
    Path("params.yaml").write_text(text)  # what is prepared was made of another world
    assert estimate.document(estimate.plan(project, None, "cpu"))["rows"].startswith("guessed")


def test_models_of_solutions_are_counted_where_they_are_trained(project):
    found = estimate.document(estimate.plan(project, "steps", "cpu"))["stages"]
    each = found["solutions@process"]
    assert (
        each["tokens"] == found["solutions@outcome"]["tokens"] == pytest.approx((8 * 0.65 + 0.15) * 4000 * 38, rel=0.01)
    )
    scores = next(row for row in found["align"]["passes"] if row["what"] == "scores")
    assert scores["sequences"] == 2 * 15 * 32 * 4  # by both, and by no preference model
    assert "solutions@process" not in estimate.document(estimate.plan(project, None, "cpu"))["stages"]


def test_a_file_is_measured_in_characters(project):
    document = yaml.safe_load(Path("params.yaml").read_text())
    document["ingest"]["sources"] = [{"kind": "file", "path": "votes.jsonl", "demonstrations": "chosen"}]
    document["collect"]["labeller"] = "none"
    Path("params.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(FileNotFoundError, match=r"votes.jsonl"):
        estimate.document(estimate.plan(project, None, "cpu"))
    row = json.dumps({"prompt": "p" * 40, "chosen": "c" * 40, "rejected": "r" * 40})
    Path("data/inputs").mkdir(parents=True)
    Path("data/inputs/votes.jsonl").write_text(f"{row}\n" * 100)
    found = estimate.document(estimate.plan(project, None, "cpu"))
    assert found["stages"]["sft"]["tokens"] == 4 * 52 * 20  # 10 tokens of prompt, 10 of reply
    assert found["stages"]["collect"]["tokens"] == 0


def test_a_file_of_judged_replies_is_no_file_of_pairs(project):
    document = yaml.safe_load(Path("params.yaml").read_text())
    document["ingest"]["sources"] = [{"kind": "file", "path": "likes.jsonl", "demonstrations": "chosen"}]
    document["align"]["algorithm"] = "kto"
    Path("params.yaml").write_text(yaml.safe_dump(document))
    row = json.dumps({"prompt": "p" * 40, "completion": "c" * 40, "label": True})
    Path("data/inputs").mkdir(parents=True)
    Path("data/inputs/likes.jsonl").write_text(f"{row}\n" * 100)
    found = estimate.document(estimate.plan(project, None, "cpu"))
    assert found["stages"]["align"]["passes"][0]["tokens"] == 52 * 20  # 10 tokens of prompt, 10 of reply
    assert found["stages"]["judge"]["tokens"] == 0
    assert found["advice"][0].startswith("For replies judged one by one: start with kto;")


def test_a_recipe_asks_for_its_data(project, capsys):
    assert estimate.main(["--recipe", "hh_cpu"]) == 2
    assert "hh_cpu.yaml: it asks for data; give them with --data PATH" in capsys.readouterr().err
    row = json.dumps({"chosen": "c" * 600, "rejected": "r" * 600})
    Path("votes.jsonl").write_text(f"{row}\n" * 100)
    found = estimate.document(estimate.plan(project, "hh_cpu", "cpu", Path("votes.jsonl")))
    assert found["stages"]["sft"]["tokens"] > 0


def remember(root, speed, model, **metrics):
    """An earlier run of sft."""
    (root / "data/runs/sft").mkdir(parents=True)
    line = {"step": 1, "of": 1, "metrics": {"tokens_per_second": speed, **metrics}}
    (root / "data/runs/sft/telemetry.jsonl").write_text(json.dumps(line) + "\n")
    (root / "data/runs/sft/sidecar.json").write_text(json.dumps({"peak_memory_mb": 500.0}))
    (root / "data/reports/sft.json").write_text(json.dumps({"params": {"model": model}}))


def test_an_earlier_run_of_the_same_model_here_is_believed(project, monkeypatch, capsys):
    """12,000 tokens at 600 a second are 20 seconds."""
    prepare(project)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    model = yaml.safe_load(Path("params.yaml").read_text())["model"]
    table = estimate.document(estimate.plan(project, None, None))
    remember(project, 600.0, model)
    found = estimate.document(estimate.plan(project, None, None))
    assert found["calibrated_on"] == ["sft"]
    assert found["stages"]["sft"]["seconds"] == pytest.approx(20)
    factor = 20 / table["stages"]["sft"]["seconds"]
    assert found["stages"]["judge"]["seconds"] == pytest.approx(factor * table["stages"]["judge"]["seconds"])
    assert found["stages"]["sft"]["peak_of_measured"] == pytest.approx(
        found["stages"]["sft"]["memory_bytes"]["peak"] / (500 * 2**20)
    )
    assert estimate.main([]) == 0
    assert "by tokens/s of an earlier run (sft; the other stages by their median)" in capsys.readouterr().out
    # not for other hardware, nor from another model
    assert estimate.document(estimate.plan(project, None, "h100"))["calibrated_on"] == []
    shutil.rmtree(project / "data/runs")
    remember(project, 600.0, model | {"num_layers": 9})
    assert estimate.document(estimate.plan(project, None, None))["calibrated_on"] == []
    shutil.rmtree(project / "data/runs")
    remember(project, 600.0, model, peak_gpu_memory_mb=100.0)  # it ran on a GPU
    assert estimate.document(estimate.plan(project, None, None))["calibrated_on"] == []


def test_a_recipe_with_the_model_of_a_folder(project, tiny_model, capsys):
    assert estimate.main(["--recipe", "smoke", "--hardware", "cpu"]) == 0
    assert "139,840 parameters" in capsys.readouterr().out
    path = project / "infra/recipes/local.yaml"
    document = yaml.safe_load((project / "infra/recipes/smoke.yaml").read_text())
    document["model"] |= {"base": str(tiny_model), "lora": {"rank": 2, "alpha": 4}}
    path.write_text(yaml.safe_dump(document))
    found = estimate.document(estimate.plan(project, "local", "cpu"))
    assert found["parameters"] == 2 * 7 * 8 + 7 * 8 * 8 + 3 * 8
    assert found["trained_parameters"] == 2 * 7 * 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hardware", "abacus"], "--hardware abacus: not in the table; it has cpu, a100, h100, h200"),
        (["--recipe", "bogus"], "--recipe bogus: no such recipe; infra/recipes has hh_cpu, hub_lora, smoke, steps"),
    ],
)
def test_bad_input_is_one_line(project, capsys, arguments, message):
    assert estimate.main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {message}")
    assert said.count("\n") == 1


def test_this_machine_is_what_torch_sees(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "NVIDIA H100 80GB HBM3")
    assert costs.hardware(None)[0].name == "h100"
    assert costs.hardware(None)[1]
    assert not costs.hardware("cpu")[1]
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "Tesla T4")
    with pytest.raises(ValueError, match="Tesla T4 is not in the table; name one of cpu, a100"):
        costs.hardware(None)
