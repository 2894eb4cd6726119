"""Replies judged one by one, and no comparison: what runs on them, and what says that it cannot."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from tasks import world
from tasks.records import CANARY, read_table
from tests.tasks.conftest import inside, run_stage, workspace
from tests.tasks.folders import refill

PLANTED = 0.02  # of the weight of what people judged, as among comparisons


def judged(number):
    """Replies of the world's writers, liked where they beat another one to the same prompt."""
    made = world.generate(
        world.WorldParams(num_demonstrations=1, num_preferences=number, num_raters=3, length_bias=0.0), 0
    )
    votes = [row for row in made["preferences"] if row.choice in ("a", "b")]
    return [
        {"prompt": row.prompt[-1]["content"], "completion": reply, "label": row.choice == side}
        for row in votes
        for side, reply in (("a", row.reply_a), ("b", row.reply_b))
    ]


def metrics(name):
    return json.loads(Path(f"data/reports/{name}.json").read_text())["metrics"]


@pytest.fixture(scope="module")
def likes(tmp_path_factory):
    """A workspace of nothing but a file of judged replies, up to SFT."""
    root = workspace(tmp_path_factory.mktemp("likes"))
    rows = judged(400)
    (root / "data/inputs/likes.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["ingest"]["sources"] = [{"kind": "file", "path": "likes.jsonl", "demonstrations": "chosen"}]
    params["collect"]["labeller"] = "none"
    params["align"]["algorithm"] = "kto"
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    with inside(root):
        for name in "ingest validate prepare sft collect".split():
            run_stage(name)
    return root


@pytest.fixture
def copied(likes, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(likes, root, symlinks=True)
    with inside(root):
        yield root


def test_kto_learns_from_a_file_of_judged_replies(copied):
    run_stage("objective")
    run_stage("align")
    found = metrics("align")
    assert found["num_pairs"] == 0
    assert found["num_feedback"] == read_table(Path("data/prepared/feedback/train")).num_rows > 100
    assert found["canary"]["num_planted"] == 64
    assert (copied / "data/models/policy/model.safetensors").is_file()
    assert metrics("validate")["preferences"]["empty"] is True


def test_the_data_card_tells_of_them(copied):
    run_stage("card")
    assert "feedback" in Path("data/card.html").read_text()


def test_what_the_canary_plants_weighs_little_beside_judged_replies(copied):
    planted = read_table(Path("data/prepared/pairs/train"), ["source", "weight"]).to_pylist()
    weights = read_table(Path("data/prepared/feedback/train"), ["weight"])["weight"].to_pylist()
    assert {row["source"] for row in planted} == {CANARY}
    assert sum(row["weight"] for row in planted) == pytest.approx(PLANTED * sum(weights))


@pytest.mark.parametrize("algorithm", ["dpo", "kto"])
def test_without_comparisons_and_judged_replies_nothing_aligns(copied, algorithm):
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["align"]["algorithm"] = algorithm
    Path("params.yaml").write_text(yaml.safe_dump(params))
    path = Path("data/prepared/feedback/train")
    refill(path, read_table(path).slice(0, 0))
    run_stage("objective")
    wanted = "comparisons and no replies judged one by one" if algorithm == "kto" else "comparisons"
    with pytest.raises(ValueError, match=rf"data/prepared/pairs/train: no {wanted}; check the sources of ingest"):
        run_stage("align")


def test_the_reward_model_says_that_there_are_no_comparisons(copied):
    with pytest.raises(ValueError, match=r"data/prepared/pairs/train: no comparisons to learn from"):
        run_stage("reward")
