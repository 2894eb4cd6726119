"""What advice rests on: shares of filled columns, labels and measures of the last run."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows import costs, estimate, facts
from tasks.records import CANARY
from tasks.rlhf.hardware import cpu
from tests.flows.test_estimate import ROOT, prepare, write


@pytest.fixture
def plan(tmp_path):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    prepare(tmp_path)
    return costs.Plan(tmp_path / "params.yaml", tmp_path / "data", cpu(1, 8e9), True)


def report(plan, name, **metrics):
    (plan.data / f"reports/{name}.json").write_text(json.dumps({"metrics": metrics}))


def test_facts_are_those_of_tables_and_reports(plan):
    found = facts.gather(plan)
    assert found.num_pairs == 3 * (50 + 40 * 6)  # train, judge and dev, given and collected
    assert (found.test_share, found.min_accuracy) == (0.18, 0.6)
    assert found.accuracy is found.ceiling is found.win_rate is found.declined is None
    assert found.scored_share == found.checked_share == 0  # no such columns
    report(plan, "prepare", labels={"a": 5, "b": 3, "tie": 1, "both_bad": 1})
    interval = {"value": 0.65, "low": 0.6, "high": 0.7}
    report(
        plan,
        "evaluate",
        reward={"accuracy": interval, "ceiling": {"value": 0.8}},
        win_rate={"judge": interval},
        models={"sft": {"declined_unsafe": {"low": 0.5}}},
    )
    found = facts.gather(plan)
    assert found.tied_share == pytest.approx(0.2)
    assert (found.accuracy, found.ceiling, found.declined) == ((0.6, 0.7), 0.8, 0.5)
    assert found.win_rate == (0.6, 0.7)


def test_judged_replies_are_counted_and_what_the_canary_planted_is_not(plan):
    for fold in ("train", "judge", "dev", "test"):
        shutil.rmtree(plan.data / f"prepared/pairs/{fold}")
        planted = 8 if fold in ("train", "judge") else 0
        write(plan.data / f"prepared/pairs/{fold}", planted, CANARY, prompt_ids=10, a_ids=14, b_ids=26)
        write(plan.data / f"prepared/feedback/{fold}", 50, prompt_ids=10, reply_ids=20)
    plan.document["collect"]["labeller"] = "none"
    plan.document["align"]["algorithm"] = "kto"
    found = facts.gather(plan)
    assert (found.num_pairs, found.num_judged) == (0, 150)
    said = estimate.document(plan)
    assert said["advice"][0].startswith("For replies judged one by one: start with kto;")
    assert said["stages"]["align"]["passes"][0]["tokens"] == (50 + 2 * 8) * 30


def test_tables_of_other_sources_say_nothing(plan):
    path = plan.data / "prepared/prompts/train/votes.parquet"
    pq.write_table(pq.read_table(path).append_column("verifier", pa.array(["{}"] * 40)), path)
    assert facts.gather(plan).checked_share == 1
    plan.document["world"]["num_preferences"] += 1
    assert facts.gather(plan).checked_share == 0


def test_the_estimate_ends_with_advice(plan):
    said = estimate.document(plan)["advice"]
    assert said[0].startswith("For pairs, one reply preferred: start with dpo (chosen: ppo)")
    assert estimate.table(estimate.document(plan)).endswith(said[-1])
