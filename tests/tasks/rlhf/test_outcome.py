"""The outcome reward model: its loss against the definition, and learning from verdicts alone."""

import math

import numpy as np
import pytest
import torch

from tasks.rlhf import outcome
from tasks.rlhf.batch import Example
from tasks.rlhf.options import DatasetOptions
from tasks.rlhf.outcome import Verdict
from tests.tasks.rlhf.test_loops import Recorder

OPTIONS = DatasetOptions(num_epochs=6, lr=1e-2, batch_tokens=128)


def verdicts(count, seed=0):
    """Right are the replies with a 7."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        right = bool(number % 3)
        reply = [*rng.integers(10, 60, 3).tolist(), 7 if right else 8, *rng.integers(10, 60, 2).tolist(), 1]
        rows.append(Verdict(Example(rng.integers(10, 60, 3).tolist(), reply), right))
    return rows


def test_loss_by_hand_and_against_the_definition():
    score = torch.tensor([1.0, 1.0, -2.5, 0.3], dtype=torch.float64, requires_grad=True)
    right = torch.tensor([True, False, True, False])
    out = outcome.loss(score, right)
    assert out.loss_B[:2].tolist() == pytest.approx([0.31326168751822286, 1.3132616875182228], rel=1e-12)
    assert out.metrics["accuracy"].tolist() == [1.0, 0.0, 0.0, 0.0]
    out.loss_B.sum().backward()
    for i in range(4):
        p = 1 / (1 + math.exp(-score[i].item()))
        assert out.loss_B[i].item() == pytest.approx(-math.log(p if right[i] else 1 - p), rel=1e-9)
        assert score.grad[i].item() == pytest.approx(p - float(right[i]), rel=1e-9)


def test_it_learns_from_verdicts(small_reward_model):
    recorder, held_out = Recorder(), verdicts(90, seed=1)
    before = outcome.measure(small_reward_model, held_out)
    network = small_reward_model.network.train()
    outcome.train(small_reward_model, network, verdicts(90), OPTIONS, 0, recorder)
    network.eval()
    after = outcome.measure(small_reward_model, held_out)
    assert after["accuracy"] > 0.9 > before["accuracy"]
    assert after["auc"] > 0.95
    assert recorder.rows[-1]["accuracy"] == 1


def test_the_auc_counts_pairs(small_reward_model, monkeypatch):
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 5, 40).astype(float)  # with ties
    rows = verdicts(40)
    monkeypatch.setattr(outcome, "score_examples", lambda model, examples: scores)
    right = [s for s, row in zip(scores, rows, strict=True) if row.correct]
    wrong = [s for s, row in zip(scores, rows, strict=True) if not row.correct]
    by_hand = np.mean([(r > w) + 0.5 * (r == w) for r in right for w in wrong])
    assert outcome.measure(small_reward_model, rows)["auc"] == pytest.approx(by_hand)
    monkeypatch.setattr(outcome, "score_examples", lambda model, examples: scores[:1])
    assert outcome.measure(small_reward_model, rows[:1])["auc"] is None


def test_verdicts_that_are_all_alike_are_refused(small_reward_model):
    rows = [row for row in verdicts(9) if row.correct]
    with pytest.raises(ValueError, match=r"outcome: all 6 verdicts are alike"):
        outcome.train(small_reward_model, small_reward_model.network, rows, OPTIONS, 0, Recorder())
