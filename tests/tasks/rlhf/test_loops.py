"""The loops: the same seed gives the same weights, micro-batches and padding change nothing, and both learn."""

import contextlib
import copy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from tasks.rlhf import algorithms, checkpoint
from tasks.rlhf.batch import Example, LossOutput, Pair
from tasks.rlhf.logprobs import reply_nll, reply_sums, token_logprobs
from tasks.rlhf.options import DatasetOptions
from tasks.rlhf.train_on_dataset import train_on_dataset, warmup_cosine
from tasks.rlhf.train_on_pairs import train_on_pairs


class Recorder:
    checkpoints = checkpoint.NONE

    def __init__(self):
        self.rows = []

    def log(self, step, total, **metrics):
        self.rows.append(metrics)

    def measure(self, step, total, **metrics):
        assert all(np.isfinite(value) for value in metrics.values())
        assert metrics.get("tokens_per_second", 1.0) > 0

    def phase(self, name):
        return contextlib.nullcontext()


def data(count=40):
    rng = np.random.default_rng(0)
    draw = lambda low, high: rng.integers(4, 60, rng.integers(low, high)).tolist()  # noqa: E731
    return [Example(draw(2, 6), [*draw(1, 9), 1]) for _ in range(count)]


def pairs(count=24):
    rows = data(count * 2)
    return [
        Pair(a, Example(a.prompt_ids, b.reply_ids), label=[1.0, 0.0, 0.5][i % 3], weight=0.5 + i % 2)
        for i, (a, b) in enumerate(zip(rows[:count], rows[count:], strict=True))
    ]


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def train_sft(model, **options):
    settings = {"num_epochs": 3, "lr": 1e-3, "batch_tokens": 48, **options}
    recorder = Recorder()
    train_on_dataset(
        model, data(), reply_nll(model), lambda r: len(r.reply_ids), DatasetOptions(**settings), 0, recorder
    )
    return recorder.rows


def test_same_seed_same_weights_and_it_learns(tiny_model):
    first, second = copy.deepcopy(tiny_model), copy.deepcopy(tiny_model)
    rows = train_sft(first)
    train_sft(second)
    assert torch.equal(weights(first), weights(second))
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]


def test_micro_batches_change_nothing(tiny_model):
    whole, cut = copy.deepcopy(tiny_model), copy.deepcopy(tiny_model)
    a = train_sft(whole, num_epochs=1)
    b = train_sft(cut, num_epochs=1, micro_batch_tokens=8)
    assert [row["loss"] for row in a] == pytest.approx([row["loss"] for row in b], rel=1e-5)
    torch.testing.assert_close(weights(whole), weights(cut), rtol=1e-3, atol=1e-4)


def test_a_loss_that_is_not_a_number_stops_the_run(tiny_model):
    model = copy.deepcopy(tiny_model)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="step 1: loss is nan; lower the learning rate"):
        train_sft(model)


def test_dpo_learns_the_preferences_and_not_the_ties(tiny_model):
    policy, reference = copy.deepcopy(tiny_model), copy.deepcopy(tiny_model)
    section = {"beta": 0.1, "lr": 1e-3, "num_epochs": 12, "batch_tokens": 256}
    recorder = Recorder()

    @torch.no_grad()
    def reference_logprobs(examples):
        return token_logprobs(reference, examples)

    train_on_pairs(
        policy, partial(reply_sums, reference_logprobs), pairs(), algorithms.load("dpo", section), 0, recorder
    )
    assert recorder.rows[0]["loss"] == pytest.approx(np.log(2), abs=1e-3)  # policy = reference at first
    assert recorder.rows[-1]["implicit_accuracy"] > 0.75
    assert recorder.rows[-1]["loss"] < 0.6
    assert recorder.rows[-1]["chosen_log_ratio"] > recorder.rows[-1]["rejected_log_ratio"]


def test_warmup_then_cosine():
    factor = warmup_cosine(100, 0.1)
    assert [factor(0), factor(9), factor(10)] == pytest.approx([0.1, 1.0, 1.0])
    assert factor(55) == pytest.approx(0.5)
    assert factor(99) < 0.001


def test_rows_that_are_not_counted_are_learned_from_and_not_logged():
    """Four rows that weigh 1 to 4, two of them counted: the metric is about those, the loss about all."""
    from tasks.rlhf.master_weights import GradientSums
    from tasks.rlhf.ranks import Ranks
    from tasks.rlhf.train_on_dataset import _accumulate

    value = torch.nn.Parameter(torch.ones(()))
    rows = [Example([1], [n]) for n in (1, 2, 3, 4)]

    def loss(batch):
        values_B = torch.tensor([float(row.reply_ids[0]) for row in batch])
        return LossOutput(value * values_B, {"metric": values_B})

    def totals(is_counted):
        sums = GradientSums([value])
        return _accumulate(rows, loss, lambda row: float(row.reply_ids[0]), is_counted, 4, Ranks(), sums)

    assert totals(lambda row: row.reply_ids[0] < 3) == {"weight": 10, "counted": 3, "loss": 30, "metric": 1 + 4}
    assert value.grad == 30
    # where nothing is counted, there is nothing else to speak of
    assert totals(lambda row: False) == {"weight": 10, "counted": 10, "loss": 30, "metric": 30}


@pytest.mark.parametrize("name", ["dpo", "simpo"])
def test_rows_of_weight_0_teach_nothing_and_stop_nothing(tiny_model, name):
    # Of a step of ties the first gradient is rounding alone, which Adam makes as large as any.
    rows = [replace(row, label=float(row.label > 0)) for row in pairs()]
    silent = [replace(row, weight=0.0, id="silent") for row in rows[:6]]

    def trained(given):
        policy, recorder = copy.deepcopy(tiny_model), Recorder()
        options = {"beta": 0.1, "lr": 1e-3, "num_epochs": 1, "batch_tokens": 20} | (
            {"gamma": 1.0} if name == "simpo" else {}
        )
        algorithm = algorithms.load(name, options)
        frozen = partial(reply_sums, lambda e: token_logprobs(tiny_model, e))
        train_on_pairs(policy, frozen, given, algorithm, 0, recorder)
        return weights(policy), recorder.rows

    without, figures = trained(rows)
    beside, same = trained([*silent, *rows])
    torch.testing.assert_close(without, beside, rtol=1e-3, atol=1e-4)  # the reference measured other batches
    assert [row["loss"] for row in figures] == pytest.approx([row["loss"] for row in same], rel=1e-3)


def test_where_no_row_weighs_anything_there_is_nothing_to_learn(tiny_model):
    rows, options = data(), DatasetOptions(lr=1e-3, num_epochs=1, batch_tokens=64)
    with pytest.raises(ValueError, match="every row to learn from has a weight of 0"):
        train_on_dataset(tiny_model, rows, reply_nll(tiny_model), lambda row: 0.0, options, 0, Recorder())
