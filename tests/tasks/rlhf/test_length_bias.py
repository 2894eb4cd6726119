"""Length bias: the arithmetic by hand, and on data where raters like length that both ways out of it help."""

import copy

import numpy as np
import pytest

from tasks.rlhf import length_bias, reward_model, reward_quality
from tasks.rlhf.batch import Example
from tests.tasks.rlhf.test_train_reward import comparison, fit


def pair(tokens_a, tokens_b, label, weight=1.0):
    return comparison(Example([5], [6] * tokens_a), Example([5], [6] * tokens_b), label, weight=weight)


def test_slope_and_correlation_by_hand():
    scores, gaps = np.array([2.0, -1.0]), np.array([4.0, 2.0])
    assert length_bias.slope(scores, gaps) == pytest.approx(0.3)
    assert (scores - 0.3 * gaps) @ gaps == pytest.approx(0)
    assert length_bias.correlation(scores, gaps) == pytest.approx(6 / (5 * 20) ** 0.5)
    assert length_bias.slope(scores, np.zeros(2)) == 0
    assert length_bias.correlation(scores, np.zeros(2)) is None


def test_balancing_by_hand():
    rows = [
        pair(6, 2, 1.0), pair(2, 7, 0.0), pair(9, 4, 0.8, weight=2.0), pair(2, 6, 1.0),  # 4 to 7 tokens apart
        pair(3, 2, 1.0), pair(3, 2, 0.0, weight=3.0),  # 1 apart
        pair(30, 2, 1.0),  # alone in its octave
        pair(4, 4, 1.0), pair(9, 2, 0.5),
    ]  # fmt: skip
    # octave 4-7: 4 for the longer, 1 for the shorter; octave 1: 1 and 3
    expected = [0.625, 0.625, 0.625, 2.5, 2.0, 2 / 3, 0.0, 1.0, 1.0]
    assert length_bias.balancing(rows).tolist() == pytest.approx(expected)
    weighed = length_bias.balanced(rows)
    assert [row.weight for row in weighed] == pytest.approx([0.625, 0.625, 1.25, 2.5, 2, 2, 1, 1])
    with pytest.raises(ValueError, match="length_bias = balanced: no size of the length gap has both kinds"):
        length_bias.balancing([pair(6, 2, 1.0), pair(4, 4, 1.0)])


def test_sides_are_arbitrary():
    rng = np.random.default_rng(0)
    rows = [pair(*rng.integers(1, 20, 2), rng.choice([0.0, 0.5, 1.0]), rng.uniform()) for _ in range(60)]
    turned = [comparison(row.b, row.a, 1 - row.label, weight=row.weight) for row in rows]
    assert length_bias.balancing(turned) == pytest.approx(length_bias.balancing(rows))


WAYS = ("off", "residual", "balanced")


def confounded(count, rng):
    """Pairs whose truth is the 7, while raters also like every further token; (rows, truth)."""
    rows, truth = [], []
    while len(rows) < count:
        good = rng.integers(0, 2, 2)
        sizes = rng.integers(1, 9, 2)
        prompt = rng.integers(10, 60, 2).tolist()
        a, b = (
            Example(prompt, [*([7] if g else [8]), *rng.integers(10, 60, n).tolist(), 1])
            for g, n in zip(good, sizes, strict=True)
        )
        liked = 2.0 * (good[0] - good[1]) + 0.7 * (sizes[0] - sizes[1])
        rows.append(comparison(a, b, float(rng.uniform() < 1 / (1 + np.exp(-liked)))))
        truth.append(0.5 + 0.5 * (good[0] - good[1]))
    return rows, np.array(truth)


def test_both_ways_help_where_length_is_confounded_with_preference(small_reward_model):
    """Means over three draws of the pairs: one alone depends on how the processor rounds."""
    found = {way: np.mean([quality(way, small_reward_model, seed) for seed in (1, 2, 3)], 0) for way in WAYS}
    correlation, on_shorter, on_all = found["off"]
    assert correlation > 0.6
    assert on_shorter < 0.6
    for way in ("residual", "balanced"):
        assert found[way][0] < 0.7 * correlation, found
        assert found[way][1] > on_shorter + 0.2, found
        assert found[way][2] > on_all + 0.07, found


def quality(way, model, seed):
    """Of a model fitted that way: |correlation of score and length|, accuracy where the better is shorter, on all."""
    rng = np.random.default_rng(seed)
    rows, _ = confounded(300, rng)
    held_out, truth = confounded(400, rng)
    fitted = copy.deepcopy(model)
    fit(fitted, length_bias.balanced(rows) if way == "balanced" else rows, num_epochs=6)
    if way == "residual":
        length_bias.take_off(fitted, rows)
        gaps = length_bias.score_gaps(fitted, rows)
        assert length_bias.correlation(gaps, length_bias.length_gaps(rows)) == pytest.approx(0, abs=1e-4)
    gaps, lengths = length_bias.score_gaps(fitted, held_out), length_bias.length_gaps(held_out)
    shorter = lengths * (truth - 0.5) < 0
    return (
        abs(length_bias.correlation(gaps, lengths)),
        reward_quality.accuracy(gaps[shorter], truth[shorter]),
        reward_quality.accuracy(gaps, truth),
    )


def test_quality_by_hand(monkeypatch):
    rows = [pair(6, 2, 1.0), pair(2, 6, 1.0), pair(3, 3, 0.5), pair(5, 2, 0.0), pair(2, 2, 0.0)]
    scores = {"a": [1.0, 0.0, 1.0, 2.0, 1.0], "b": [0.0, 1.0, 0.0, 0.0, 1.0]}

    def fake(model, examples):
        assert examples == [row.a for row in rows] + [row.b for row in rows]
        return np.array(scores["a"] + scores["b"])

    monkeypatch.setattr(reward_model, "score_examples", fake)
    quality = reward_quality.measure(reward_model.RewardModel(None), rows)
    assert quality.right[quality.decided].tolist() == [1.0, 0.0, 0.0, 0.5]
    assert quality.leads.tolist() == [4, -4, 0, -3, 0]
    # score gaps 1, -1, 1, 2, 0 with length gaps 4, -4, 0, 3, 0: 14 / sqrt(7 * 41)
    assert quality.length_correlation == pytest.approx(14 / (7 * 41) ** 0.5)
    assert quality.heads == {}
