"""The loops: the same seed gives the same weights, micro-batches and padding change nothing, and both learn."""

import contextlib
import copy
from dataclasses import replace
from functools import partial
from itertools import groupby

import numpy as np
import pytest
import torch

from tasks.rlhf import algorithms, checkpoint
from tasks.rlhf.batch import Example, LossOutput, Pair, group_batches, packed_length, token_batches
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


def test_token_batches_hold_every_row_once_within_the_budget():
    lengths = np.random.default_rng(1).integers(1, 50, 500).tolist()
    batches = token_batches(lengths, 200, np.random.default_rng(0))
    assert sorted(np.concatenate(batches).tolist()) == list(range(500))
    assert all(len(b) * max(lengths[i] for i in b) <= 200 for b in batches)
    padded = sum(len(b) * max(lengths[i] for i in b) for b in batches)
    assert padded < 1.15 * sum(lengths)


def test_pairs_whose_packed_rows_are_of_one_length_come_together():
    """Long prompts and long replies give pairs of one length, of which the first take fewer places behind a prompt."""
    random = np.random.default_rng(1)
    examples = []
    for _ in range(300):
        prompt, first, second = (list(range(size)) for size in random.integers(1, 40, 3))
        examples.append((Example(prompt, first), Example(prompt, second)))
    lengths = [sum(example.length for example in pair) for pair in examples]
    batches = group_batches([[i] for i in range(300)], examples, 600, np.random.default_rng(0))
    assert sorted(np.concatenate(batches).tolist()) == list(range(300))
    assert all(sum(lengths[i] for i in batch) <= 600 for batch in batches)
    assert sum(lengths) / 600 <= len(batches) < 1.2 * sum(lengths) / 600  # full ones: padding is not counted
    widths = [len(a.prompt_ids) + len(a.reply_ids) + len(b.reply_ids) for a, b in examples]
    assert [packed_length(pair) for pair in examples] == widths
    padded = sum(len(batch) * max(widths[i] for i in batch) for batch in batches)
    assert padded < 1.05 * sum(widths)


def test_rows_with_one_key_stand_side_by_side_in_one_step(tiny_model):
    """Sixty rows in no order, of keys that one, three and seven of them share: at most four of a key together."""
    shared = [key for key, count in enumerate([1, 3, 7] * 5) for _ in range(count)]
    keys = [shared[i] for i in np.random.default_rng(3).permutation(len(shared))]
    rows = [Example([4 + key], [30 + number % 10, 30 + number // 10, 1]) for number, key in enumerate(keys)]

    def seen(**options):
        steps = []
        train_on_dataset(
            tiny_model,
            rows,
            reply_nll(tiny_model),
            lambda row: 1.0,
            DatasetOptions(lr=1e-3, num_epochs=1, batch_tokens=48),
            0,
            Recorder(),
            before_step=lambda batch: steps.append([rows.index(row) for row in batch]),
            **options,
        )
        return steps

    steps = seen(together=lambda row: tuple(row.prompt_ids))
    assert sorted(i for step in steps for i in step) == list(range(len(rows)))  # each once
    runs = [(key, len(list(run))) for step in steps for key, run in groupby(step, lambda i: keys[i])]
    for key in set(keys):
        sizes = sorted(size for k, size in runs if k == key)
        assert sizes in {1: [[1]], 3: [[3]], 7: [[3, 4], [7]]}[keys.count(key)]  # seven: two groups, perhaps neighbours
    assert len(steps) > 4
    assert seen() == seen(together=lambda row: id(row)) != steps


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
