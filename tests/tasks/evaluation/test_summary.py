"""From rows to metrics, by hand."""

import pytest

from tasks.evaluation.summary import Summary

SUMMARY = Summary(seed=0, num_resamples=200)


def item(key, model, gold, **more):
    row = {"key": key, "cluster": key, "model": model, "gold": gold, "judge": 0.0, "reward": 0.0, "num_tokens": 5}
    row |= {"finished": True, "echo": False, "repetition": 0.0, "declined": False, "expected": None}
    return row | {"kl": 1.0, "kl_k3": 1.0, "reply": "a b c"} | more


def pair(number, label, margin, gold, source="world"):
    return {
        "cluster": str(number),
        "source": source,
        "label": label,
        "gold_a": gold,
        "gold_b": None if gold is None else 0.0,
        **{f"{name}_{part}": value for name in ("reward", "judge") for part, value in scores(margin)},
    }


def scores(margin):
    return ("a", margin / 2), ("b", 0.0), ("margin", margin)


def test_a_win_rate_compares_within_prompts_and_counts_prompts():
    items = [
        *(item("p", "policy", gold) for gold in (2.0, 0.0)),
        *(item("p", "sft", gold) for gold in (1.0, 0.0)),  # 2>1 2>0 0<1 0=0: 2.5 of 4
        item("q", "policy", 1.0),
        item("q", "sft", 3.0),  # 0 of 1
        item("only one of them answered", "policy", 9.0),
    ]
    wins = SUMMARY.win_rates(items, "policy", "sft")
    assert wins["gold"].value == pytest.approx((2.5 / 4 + 0) / 2)
    assert wins["gold"].n == 2
    assert wins["judge"].value == 0.5  # all equal


def test_what_has_no_gold_takes_no_part_in_it():
    items = [item("p", name, None) for name in ("policy", "sft")]
    assert SUMMARY.win_rates(items, "policy", "sft")["gold"] is None
    assert SUMMARY.model(items)["gold"] is None


def test_changes_are_paired_and_keep_unsafe_from_safe():
    items = []
    for number in range(10):
        for name, declined in (("policy", number < 8), ("sft", number < 3)):
            items.append(item(f"u{number}", name, 0.0, expected="decline", declined=declined))
            items.append(item(f"s{number}", name, 0.0, expected="assist", declined=False))
    change = SUMMARY.changes(items, "policy", "sft")
    assert change["declined_unsafe"].value == pytest.approx(0.5)
    assert change["declined_unsafe"].n == 10
    assert change["declined_safe"].value == 0.0
    models = SUMMARY.metrics(items, [])["models"]
    assert models["policy"]["declined_unsafe"].value == 0.8
    assert models["sft"]["declined_unsafe"].value == 0.3


def test_an_implicit_reward_is_measured_on_the_pairs_that_it_was_asked_about():
    pairs = [
        pair(0, label=1.0, margin=-1.0, gold=1.0) | {"implicit_margin": 3.0},
        pair(1, label=0.0, margin=-1.0, gold=1.0) | {"implicit_margin": -2.0},  # right about the label alone
        pair(2, label=0.0, margin=-1.0, gold=-1.0) | {"implicit_margin": 1.0},
        pair(3, label=0.0, margin=-1.0, gold=-1.0) | {"implicit_margin": None},
    ]
    found = SUMMARY.metrics([], pairs)["implicit"]
    assert (found["accuracy"].value, found["accuracy"].n) == (pytest.approx(2 / 3), 3)
    assert found["gold_accuracy"].value == pytest.approx(1 / 3)
    assert found["ceiling"].value == pytest.approx(2 / 3)
    assert "implicit" not in SUMMARY.metrics([], [pair(0, label=1.0, margin=1.0, gold=1.0)])


def test_a_reward_model_stands_beside_its_ceiling_and_the_truth():
    pairs = [
        pair(0, label=1.0, margin=2.0, gold=1.0),  # right about label and truth
        pair(1, label=0.0, margin=2.0, gold=1.0),  # the rater erred: wrong on the label, right on the truth
        pair(2, label=0.5, margin=2.0, gold=0.0),  # a tie: one half for everybody; the truth tells nothing
        pair(3, label=1.0, margin=-1.0, gold=1.0),  # wrong on both
    ]
    found = SUMMARY.scorer(pairs, "reward")
    assert found["accuracy"].value == pytest.approx((1 + 0 + 0.5 + 0) / 4)
    assert found["ceiling"].value == pytest.approx((1 + 0 + 0.5 + 1) / 4)
    assert found["accuracy_over_ceiling"] == pytest.approx(1.5 / 2.5)
    assert found["gold_accuracy"].value == pytest.approx(2 / 3)
    assert found["gold_accuracy"].n == 3


def test_a_mix_keeps_to_the_same_labels_on_both_sides_of_the_ratio():
    """Without this a reward model could be flattered by easy pairs that the ceiling does not see."""
    known = [pair(n, label=float(n % 2), margin=1.0, gold=1.0) for n in range(10)]
    unknown = [pair(n + 10, label=1.0, margin=1.0, gold=None, source="hh") for n in range(10)]
    found = SUMMARY.scorer(known + unknown, "reward")
    assert found["accuracy"].value == 0.75
    assert found["ceiling"].value == 0.5
    assert found["accuracy_over_ceiling"] == 1.0
    assert found["by_source"]["hh"]["accuracy"].value == 1.0
    assert found["by_source"]["hh"]["ceiling"] is None
    assert found["by_source"]["world"]["accuracy"].value == 0.5


def test_the_same_rows_give_the_same_metrics():
    pairs = [pair(n, label=float(n % 3 > 0), margin=float(n % 5) - 2, gold=1.0) for n in range(40)]
    items = [item(str(n), name, float(n)) for n in range(20) for name in ("policy", "sft")]
    assert SUMMARY.metrics(items, pairs) == SUMMARY.metrics(items, pairs)
