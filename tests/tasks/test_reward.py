"""The reward and judge stages: parameters that contradict each other, and what the stages say of their models."""

import importlib
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tasks.adapters import stage
from tasks.hashes import content_hash
from tasks.records import CANARY, MINED, pair_table, read_table
from tests.tasks.conftest import ROOT, inside, run_stage
from tests.tasks.folders import refill


def read(tmp_path, section="reward", **values):
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params[section] |= values
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(params))
    return stage.read_params(importlib.import_module(f"tasks.{section}").Params, section, path)


@pytest.mark.parametrize("section", ["reward", "judge"])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ties": "thirds"}, r"{}.ties = 'thirds': Input should be 'half', 'davidson' or 'rao_kupper'"),
        ({"tie_parameter": 0.5}, r"{}.tie_parameter = 0.5: .*`ties: half` has no tie parameter: set it to null"),
        ({"ties": "rao_kupper", "tie_parameter": 1.0}, r"{}.tie_parameter = 1.0: .*must be above 1"),
        ({"label_smoothing": 0.5}, r"{}.label_smoothing = 0.5: Input should be less than 0.5"),
        ({"margin": {"source": "length", "size": 1}}, r"{}.margin.source = 'length': Input should be"),
        ({"margin": {"source": "scores"}}, r"{}.margin.size: Field required"),
        ({"bound": 0}, r"{}.bound = 0: Input should be greater than 0"),
        ({"objectives": {"safety": 0}}, r"{}.objectives = .*weight of 'safety' is 0: leave the objective out"),
        (
            {"objectives": {"safety": 1.0}, "margin": {"source": "confidence", "size": 1.0}},
            r"{}.margin = .*confidence is about the rater's choice, and objectives has no 'choice'",
        ),
        (
            {"objectives": {"safety": 1.0}, "length_bias": "balanced"},
            r"{}.length_bias = 'balanced': .*with objectives use residual or off",
        ),
        ({"length_bias": "on"}, r"{}.length_bias = 'on': Input should be 'off', 'residual' or 'balanced'"),
        ({"pooling": "max"}, r"{}.pooling = 'max': Input should be 'last' or 'mean'"),
    ],
)
def test_bad_options_are_one_clear_line(tmp_path, section, values, message):
    with pytest.raises(ValueError, match=message.format(section)) as caught:
        read(tmp_path, section, **values)
    assert "\n" not in str(caught.value)


def test_good_options_pass(tmp_path):
    read(tmp_path, ties="davidson", tie_parameter=0.5, margin={"source": "confidence", "size": 0.5}, bound=5.0)
    assert read(tmp_path).length_bias == "off"  # bare in the file, where YAML 1.1 reads it as false
    read(tmp_path, ties="rao_kupper", tie_parameter=1.01, label_smoothing=0.1, pooling="mean", l2=0.01)


def test_the_factor_weighs_mined_pairs_alone(tmp_path):
    from tasks import reward
    from tests.tasks.rlhf.test_train_reward import comparison

    rows = [comparison(None, None, 1.0, weight=0.6), replace(comparison(None, None, 1.0, weight=0.6), kind="mined")]
    for factor, weights in ((0.5, [0.3]), (0.0, [])):
        params = read(tmp_path, counterexamples={"mined": factor})
        assert [row.weight for row in reward._mined(params, rows)] == weights


@pytest.fixture
def taught(built, tmp_path):
    """A copy of what is built, whose reward model learns from counterexamples and swaps; its report's metrics."""
    root = tmp_path / "taught"
    shutil.copytree(built, root, symlinks=True)
    path = root / "data/prepared/pairs/train"
    rows = read_table(path).to_pylist()
    mined = [row | {"id": f"m{i}", "source": f"{MINED}feed{i % 2}"} for i, row in enumerate(rows[:10])]
    refill(path, pair_table(rows + mined))
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["reward"] |= {
        "counterexamples": {"mismatched": 0.2, "corrupted": 0.2, "mined": 1.0},
        "swaps": {"weight": 1.0, "share": 0.1},
    }
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    with inside(root):
        run_stage("reward")
        run_stage("judge")
    return root


def metrics_of(root, name="reward@0"):
    return json.loads((root / f"data/reports/{name}.json").read_text())["metrics"]


def test_counterexamples_are_learned_from_and_counted_by_kind(built, taught):
    before, after = metrics_of(built), metrics_of(taught)
    assert after["num_pairs"] == before["num_pairs"]  # they count as no comparison
    world = [row for row in read_table(built / "data/prepared/pairs/train").to_pylist()]
    number = math.ceil(0.2 * sum(row["source"] == "world" for row in world))
    for kind in ("mismatched", "corrupted"):
        assert before["counterexamples"][kind]["num_learned"] == 0
        assert 0.9 * number <= after["counterexamples"][kind]["num_learned"] <= number
        assert {"value", "n", "low", "high"} <= after["counterexamples"][kind]["dev"]["accuracy"].keys()
    mined = after["counterexamples"]["mined"]
    assert mined["num_learned"] == 10
    assert mined["policies"] == {"feed0": 5, "feed1": 5}
    assert (before["swaps"]["num_learned"], after["swaps"]["num_learned"] > 10) == (0, True)
    assert after["swaps"]["dev"]["gap"]["value"] < before["swaps"]["dev"]["gap"]["value"]


def test_the_judge_learns_from_none_of_them(built, taught):
    assert content_hash(taught / "data/models/judge") == content_hash(built / "data/models/judge")


def test_nothing_to_swap_is_said(taught):
    (taught / "data/swaps.jsonl").unlink()
    line = {"kind": "name", "words": ["Xanthippe", "Xerxes"], "where": ["reply"]}
    (taught / "data/swaps.jsonl").write_text(json.dumps(line))
    with inside(taught), pytest.raises(ValueError, match=r"reward.swaps.weight: \d+ comparisons have no word of data"):
        run_stage("reward")


@pytest.fixture
def swapped(built, tmp_path):
    """A copy of what is built, in whose prepared comparisons a and b have changed places on their way."""
    shutil.copytree(built, tmp_path / "swapped", symlinks=True)
    path = tmp_path / "swapped/data/prepared/pairs/train"
    rows = [row | {"label": 1 - row["label"]} for row in read_table(path).to_pylist()]
    refill(path, pair_table(rows))
    return tmp_path / "swapped"


def test_the_canary_passes_honest_models(built):
    for name in ("reward@0", "judge"):
        metrics = json.loads((built / f"data/reports/{name}.json").read_text())["metrics"]
        told = metrics["canary"]
        assert told["share"] > 0.97
        assert told["num_planted"] >= 50
        assert told["num_held_out"] >= 50
        fold = {"reward@0": "train", "judge": "judge"}[name]
        rows = [
            row
            for table in (f"prepared/pairs/{fold}", f"collected/{fold}.parquet")
            for row in read_table(built / f"data/{table}").to_pylist()
        ]
        planted = [row for row in rows if row["source"] == CANARY]
        assert metrics["num_pairs"] == len(rows) - len(planted)  # they count in no figure
        assert metrics["num_learned"] == metrics["num_pairs"]
        assert len(planted) == told["num_planted"]
        others = sum(row["weight"] for row in rows if row["source"] == "world")
        assert sum(row["weight"] for row in planted) == pytest.approx(0.02 * others)


def test_labels_swapped_in_the_store_stop_the_stage(swapped):
    with inside(swapped), pytest.raises(ValueError, match=r"reward: the canary fails.*labels look swapped"):
        run_stage("reward")


@pytest.mark.parametrize(("algorithm", "options"), [("dpo", {}), ("kto", {}), ("simpo", {"num_epochs": 4, "lr": 3e-3})])
def test_they_stop_an_algorithm_on_pairs_too(built, swapped, algorithm, options):
    for root in (swapped, built):
        params = yaml.safe_load((root / "params.yaml").read_text())
        params["align"] |= {"algorithm": algorithm, algorithm: (params["align"].get(algorithm) or {}) | options}
        path = swapped / "params.yaml"
        path.write_text(yaml.safe_dump(params))
        if root is built:
            refill(swapped / "data/prepared/pairs/train", read_table(built / "data/prepared/pairs/train"))
        with inside(swapped):
            run_stage("objective")
            if root is swapped:
                with pytest.raises(ValueError, match=rf"align.{algorithm}: the canary fails.*labels look swapped"):
                    run_stage("align")
            else:
                run_stage("align")
                told = json.loads(Path("data/reports/align.json").read_text())["metrics"]["canary"]
                assert told["share"] > 0.9


def test_a_saved_model_renders_prompts_as_on_the_day_of_training(tmp_path):
    from tasks import chat, reward
    from tasks.preferences import tokens
    from tasks.rlhf import models
    from tests.tasks.rlhf import tiny

    tokenizer = tokens.train(["What day is it, my friend?"] * 3, 300)
    tokenizer.chat_template = "{{ strftime_now('%d %b %Y') + ': ' + messages[0]['content'] }}"
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "models/sft").mkdir(parents=True)
    reward.save(tiny.reward_model(), tmp_path, tmp_path / "models/reward/0")
    asked = [{"role": "user", "content": "What day?"}]
    theirs = models.load_tokenizer(tmp_path / "models/reward/0").apply_chat_template(asked, tokenize=False)
    assert theirs == chat.render(tokenizer, asked) == "01 Jan 2026: What day?"
