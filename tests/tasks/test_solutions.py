"""Outcome and process reward models through the real stages, on a tiny world of sums in steps."""

import importlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import yaml

from tasks.adapters import stage
from tasks.hashes import content_hash
from tasks.records import CANARY, read_table
from tests.tasks.conftest import inside, run_stage, workspace
from tests.tasks.folders import refill
from tests.tasks.test_pipeline import change, copy_of, curve, report

STEPS = {"kind": "world_steps", "num_demonstrations": 300, "num_prompts": 100, "num_solutions": 300, "num_terms": 3}
CHANGES = {
    "world": {"num_demonstrations": 100, "num_preferences": 20},
    "ingest": {"sources": [{"kind": "world"}, STEPS]},
    "folds": {"judge": 0.1},
    "sft": {"num_epochs": 1, "batch_tokens": 1024},
    "collect": {"labeller": "none"},
    "solutions": {"train": ["outcome", "process"], "min_auc": 0.0, "num_epochs": 1, "batch_tokens": 1024},
}
REWARDS = {"learned": 0.0, "outcome": 1.0, "process": 1.0}
SECTION = {"num_steps": 1, "prompts_per_step": 8, "min_finished": 0.0, "held_out_every": None, "patience": None}


def train(kind):
    stage.execute(importlib.import_module("tasks.solutions").member_stage(kind))


@pytest.fixture(scope="module")
def solved(tmp_path_factory):
    """A workspace with both models."""
    import torch

    torch.set_num_threads(1)
    with inside(workspace(tmp_path_factory.mktemp("solved"), CHANGES)) as root:
        for name in ("ingest", "validate", "prepare", "sft", "collect"):
            run_stage(name)
        for kind in ("outcome", "process"):
            train(kind)
    return root


def aligned(solved, tmp_path, algorithm, rewards=REWARDS, **section):
    """A copy in which `algorithm` has learned."""
    root = copy_of(solved, tmp_path)
    document = yaml.safe_load((root / "params.yaml").read_text())
    change(root, "align", algorithm=algorithm, rewards=rewards)
    change(root, "align", **{algorithm: document["align"][algorithm] | SECTION | section})
    with inside(root):
        run_stage("objective")
        run_stage("align")
    return root


def test_what_is_reported_is_what_the_saved_models_tell_of_held_out_prompts(solved):
    from tasks.rlhf import models, process, reward_model

    train, test = (read_table(solved / f"data/prepared/solutions/{fold}") for fold in ("train", "test"))
    assert not set(train["cluster"].to_pylist()) & set(test["cluster"].to_pylist())
    tokenizer = models.load_tokenizer(solved / "data/tokenizer")
    rows = process.read_solutions(solved / "data/prepared/solutions/test", tokenizer)
    assert [len(row.ends) for row in rows] == [2] * test.num_rows
    model = reward_model.load_reward(solved / "data/models/reward/process")
    found = report(solved, "solutions@process")["metrics"]
    assert found["num_solutions"] == sum(source != CANARY for source in train["source"].to_pylist())
    probabilities = process.step_probabilities(model, rows)
    for name, value in process.measure(probabilities, rows).items():
        assert found["held_out"][name]["value"] == pytest.approx(value)
        assert found["held_out"][name]["low"] <= value <= found["held_out"][name]["high"]
    labels, correct = test["labels"].to_pylist(), np.array(test["correct"].to_pylist())
    judged = [(p > 0.5).tolist() for p in probabilities]
    assert found["held_out"]["step_accuracy"]["value"] == pytest.approx(np.mean(np.array(judged) == np.array(labels)))
    lucky = [not all(row) for row, is_right in zip(labels, correct, strict=True) if is_right]
    assert found["held_out"]["lucky_guess_rate"]["value"] == pytest.approx(np.mean(lucky))
    scores = reward_model.score_examples(
        reward_model.load_reward(solved / "data/models/reward/outcome"), [row.example for row in rows]
    )
    held_out = report(solved, "solutions@outcome")["metrics"]["held_out"]
    assert held_out["accuracy"]["value"] == pytest.approx(np.mean((scores > 0) == correct))


@pytest.mark.parametrize("kind", ["outcome", "process"])
def test_a_model_that_learned_nothing_is_refused(solved, tmp_path, kind):
    root = copy_of(solved, tmp_path)
    told = report(root, f"solutions@{kind}")["metrics"]["held_out"]["auc"]
    change(root, "solutions", min_auc=0.999)
    before = content_hash(root / f"data/models/reward/{kind}")
    with (
        inside(root),
        pytest.raises(ValueError, match=rf"{kind}: .* in {told:.0%} of cases, below .*min_auc = 0.999: lit"),
    ):
        train(kind)
    assert (
        not (root / f"data/models/reward/{kind}").exists()
        or content_hash(root / f"data/models/reward/{kind}") == before
    )


def test_right_solutions_and_noise_are_planted_and_counted_nowhere(solved):
    noted = json.loads((solved / "data/prepared/canary.json").read_text())["solutions"]
    source = {row["id"]: row for row in read_table(solved / "data/raw/solutions").to_pylist()}
    train, test = (read_table(solved / f"data/prepared/solutions/{fold}").to_pylist() for fold in ("train", "test"))
    planted, own = ([row for row in train if (row["source"] == CANARY) is kind] for kind in (True, False))
    assert train == [*own, *planted]
    assert CANARY not in {row["source"] for row in test}
    assert len(planted) == 128 == report(solved, "prepare")["metrics"]["planted_solutions"]
    assert report(solved, "prepare")["metrics"]["rows"]["solutions"]["train"] == len(own)
    assert sum(row["weight"] for row in planted) == pytest.approx(0.02 * len(own))
    assert {row["weight"] for row in own} == {1.0}
    for right, wrong in zip(planted[::2], planted[1::2], strict=True):
        row = source[right["id"].removeprefix(right["id"].partition("right-")[0] + "right-")]
        assert row["id"] in noted["planted"]
        assert (right["reply"], right["labels"], right["correct"]) == ("\n".join(row["steps"]), [True] * 2, True)
        assert all(row["labels"])
        assert row["correct"]
        assert (wrong["labels"], wrong["correct"], wrong["prompt"]) == ([False] * 2, False, right["prompt"])
        assert not any(letter.isalnum() for letter in wrong["reply"])
    clusters = {source[row_id]["cluster"] for row_id in noted["held_out"]}
    assert clusters
    assert not clusters & {row["cluster"] for row in planted}
    for kind in ("outcome", "process"):
        told = report(solved, f"solutions@{kind}")["metrics"]["canary"]
        assert told["num_planted"] == 64
        assert told["num_held_out"] == len(noted["held_out"])
        assert told["share"] > 0.9


@pytest.mark.parametrize("kind", ["outcome", "process"])
def test_labels_that_were_swapped_on_their_way_are_found(solved, tmp_path, kind):
    """Held-out solutions agree with them: they took the same way."""
    root = copy_of(solved, tmp_path)
    for fold in ("train", "test"):
        path = root / f"data/prepared/solutions/{fold}"
        rows = read_table(path)
        swapped = [
            row | {"labels": [not label for label in row["labels"]], "correct": not row["correct"]}
            for row in rows.to_pylist()
        ]
        refill(path, pa.Table.from_pylist(swapped, rows.schema))
    with (
        inside(root),
        pytest.raises(ValueError, match=r"solutions: the canary fails: of \d+ .* [0-9]%, .*labels look swapped"),
    ):
        train(kind)


@pytest.mark.parametrize("algorithm", ["ppo", "grpo", "best_of_n"])
def test_scores_of_steps_reach_the_policy(solved, tmp_path, algorithm):
    root = aligned(solved, tmp_path, algorithm)
    objective = json.loads((root / "data/objective.json").read_text())
    assert objective["rewards"].keys() == {"outcome", "process"}
    assert objective["options"] == REWARDS
    (row,) = curve(root, "align")
    assert 0 < row["score_process"] < 1
    assert row["score"] == pytest.approx(row["score_outcome"] + row["score_process"], abs=1e-5)
    assert row["unscorable"] == 0
    assert ("num_steps" in row) == (algorithm != "best_of_n")
    assert content_hash(root / "data/models/policy") != content_hash(solved / "data/models/sft")


def test_a_change_of_a_model_is_a_change_of_the_objective(solved, tmp_path):
    root = aligned(solved, tmp_path, "grpo")
    before = (root / "data/objective.json").read_bytes()
    change(root, "solutions", num_epochs=2)
    with inside(root):
        train("process")
        with pytest.raises(ValueError, match=r"models/reward/process: not the reward model of .*objective.json"):
            run_stage("align")
        run_stage("objective")
    assert (root / "data/objective.json").read_bytes() != before


@pytest.mark.parametrize(
    ("align", "solutions", "message"),
    [
        ({"algorithm": "rloo"}, {}, r"align.rewards.process = 1: rloo cannot use scores of steps; .* best_of_n, grpo"),
        ({"algorithm": "dpo"}, {}, r"align.rewards.process = 1: dpo cannot use scores of steps"),
        ({"tools": {"names": ["calculator"]}}, {}, r"align.rewards.process = 1: what a tool says is no step"),
        ({}, {"train": ["outcome"]}, r"align.rewards.process = 1: no such model is trained; add process to solutions"),
    ],
)
def test_what_cannot_use_scores_of_steps_is_refused_before_training(solved, tmp_path, align, solutions, message):
    root = copy_of(solved, tmp_path)
    change(root, "align", rewards=REWARDS, **align)
    change(root, "solutions", **solutions)
    with inside(root), pytest.raises(ValueError, match=message) as caught:
        run_stage("objective")
    assert "\n" not in str(caught.value)


def test_prompts_of_other_domains_are_left_to_others(solved, tmp_path):
    root = copy_of(solved, tmp_path)
    record = root / "data/models/reward/process/solutions.json"
    assert json.loads(record.read_text()) == {"kind": "process", "domains": ["steps"]}
    record.write_text('{"kind": "process", "domains": ["essays"]}')
    change(root, "align", algorithm="grpo", rewards={"learned": 0.0, "process": 1.0})
    with inside(root):
        run_stage("objective")
        with pytest.raises(ValueError, match=r"train: none of \d+ prompts has a domain that process learned"):
            run_stage("align")


def test_where_no_solution_is_right_nothing_can_be_planted(solved, tmp_path):
    root = copy_of(solved, tmp_path)
    path = root / "data/prepared/solutions/train"
    rows = read_table(path)
    refill(path, rows.filter(pc.not_equal(rows["source"], CANARY)))
    noted = json.loads((root / "data/prepared/canary.json").read_text())
    (root / "data/prepared/canary.json").write_text(json.dumps(noted | {"solutions": {"planted": [], "held_out": []}}))
    with inside(root), pytest.raises(ValueError, match=r"canary_share = 0.9: no solution of .*raw/solutions, of a"):
        train("process")
    change(root, "solutions", canary_share=0.0)
    with inside(root):
        train("process")
    assert report(root, "solutions@process")["metrics"]["canary"] is None


def test_nothing_to_learn_from_is_said_so(solved, tmp_path):
    root = copy_of(solved, tmp_path)
    path = root / "data/prepared/solutions/train"
    refill(path, read_table(path).slice(0, 0))
    with inside(root), pytest.raises(ValueError, match=r"solutions/train is empty: .*kind: world_steps"):
        train("process")
