"""The gate stage: which numbers it reads, and that nothing unmeasured passes."""

import copy
import json

import pytest

from tasks import gate
from tasks.adapters.stage import PARAMS, read_params

RULES = gate.Params(
    min_win_rate=0.5, max_kl=30.0, max_unfinished_rate=0.1, max_decline_drop=0.05, min_reward_accuracy=0.6
)


def estimate(value, low, high, n=400):
    return {"value": value, "n": n, "low": low, "high": high}


@pytest.fixture
def metrics():
    """A policy that passes every rule."""
    return {
        "reward": {"accuracy": estimate(0.75, 0.72, 0.78)},
        "win_rate": {"gold": estimate(0.65, 0.60, 0.70), "judge": estimate(0.7, 0.66, 0.74), "reward": None},
        "win_rate_champion": None,
        "change": {"declined_unsafe": estimate(0.02, -0.01, 0.05)},
        "change_champion": None,
        "models": {"policy": {"kl": estimate(8, 7, 9), "finished": estimate(0.97, 0.95, 0.99)}},
    }


def outcomes(result):
    return {rule["name"]: rule["outcome"] for rule in result["rules"]}


def test_a_better_policy_passes_against_sft_when_there_is_no_champion(metrics):
    result = gate.judge(RULES, metrics)
    assert result["verdict"] == "pass"
    assert result["needed"] == 0
    assert result["baseline"] == "sft"
    assert result["judged_by"] == "gold"
    assert set(outcomes(result)) == {"win_rate", "kl", "unfinished_rate", "decline_change", "reward_accuracy"}


def test_a_champion_is_the_baseline_where_there_is_one(metrics):
    metrics["win_rate_champion"] = {"gold": estimate(0.45, 0.41, 0.49), "judge": None, "reward": None}
    metrics["change_champion"] = {"declined_unsafe": estimate(0.0, -0.02, 0.02)}
    result = gate.judge(RULES, metrics)
    assert result["baseline"] == "champion"
    assert result["verdict"] == "fail"
    assert outcomes(result)["win_rate"] == "fail"


@pytest.mark.parametrize(
    ("path", "bad", "rule"),
    [
        (("win_rate", "gold"), estimate(0.45, 0.41, 0.49), "win_rate"),
        (("models", "policy", "kl"), estimate(40, 35, 45), "kl"),
        (("models", "policy", "finished"), estimate(0.8, 0.75, 0.85), "unfinished_rate"),
        (("change", "declined_unsafe"), estimate(-0.2, -0.3, -0.1), "decline_change"),
        (("reward", "accuracy"), estimate(0.5, 0.45, 0.55), "reward_accuracy"),
    ],
)
def test_each_rule_can_fail_the_policy_alone(metrics, path, bad, rule):
    *parents, last = path
    for change, outcome in ((bad, "fail"), (None, "fail")):
        changed = copy.deepcopy(metrics)
        place = changed
        for key in parents:
            place = place[key]
        place[last] = change
        result = gate.judge(RULES, changed)
        if rule == "win_rate" and change is None:  # the judge stands in for a gold that does not exist
            assert result["judged_by"] == "judge"
            continue
        assert outcomes(result)[rule] == outcome
        assert result["verdict"] == "fail"


def test_no_judgement_at_all_fails(metrics):
    metrics["win_rate"] = {"gold": None, "judge": None, "reward": estimate(0.9, 0.85, 0.95)}
    result = gate.judge(RULES, metrics)
    assert outcomes(result)["win_rate"] == "fail"  # and the training reward never stands in


def test_gold_of_a_few_prompts_does_not_speak_for_all(metrics):
    metrics["win_rate"]["gold"]["n"] = 40
    assert gate.judge(RULES, metrics)["judged_by"] == "judge"


def test_too_little_data_is_neither_pass_nor_fail_and_says_how_much_more(metrics):
    metrics["win_rate"] = {"gold": estimate(0.53, 0.47, 0.59, n=100), "judge": None}
    result = gate.judge(RULES, metrics)
    assert result["verdict"] == "not enough evidence"
    assert outcomes(result)["win_rate"] == "unclear"
    # (0.06 / 0.03)^2 * ((1.96 + 0.8416) / 1.96)^2 = 4 * 2.0431 times the prompts there are
    assert result["needed"] == 718


def test_a_rule_set_to_null_is_left_out(metrics):
    del metrics["change"]["declined_unsafe"]
    result = gate.judge(RULES.model_copy(update={"max_decline_drop": None}), metrics)
    assert "decline_change" not in outcomes(result)
    assert result["verdict"] == "pass"


def test_the_stage_reads_the_report_and_the_shipped_params(metrics, tmp_path):
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/evaluate.json").write_text(json.dumps({"metrics": metrics}))
    params = read_params(gate.Params, "gate", PARAMS)
    assert gate.run(params, tmp_path, None) == gate.judge(params, metrics)


def test_a_missing_report_says_what_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"reports/evaluate.json: missing.*dvc repro"):
        gate.run(RULES, tmp_path, None)


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan"), "half"])
def test_an_impossible_threshold_is_refused(value):
    with pytest.raises(ValueError, match="min_win_rate"):
        gate.Params(**{**RULES.model_dump(), "min_win_rate": value})
