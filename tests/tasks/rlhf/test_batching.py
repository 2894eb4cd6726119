"""Which rows stand in one batch, and that what stands there twice is computed once."""

import copy
from functools import partial
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tasks.rlhf import (
    algorithms,
    batching,
    feedback,
    logprobs,
    outcome,
    packing,
    train_on_feedback,
    train_on_pairs,
    train_reward,
)
from tasks.rlhf.batch import Example, Pair
from tasks.rlhf.batching import Groups, distinct, packed, packed_width, side_by_side
from tasks.rlhf.comparisons import Comparison
from tasks.rlhf.logprobs import measured_batches, reply_nll, reply_sums, token_logprobs
from tasks.rlhf.options import DatasetOptions, RewardOptions
from tasks.rlhf.train_on_dataset import train_on_dataset
from tests.tasks.rlhf.test_loops import Recorder, weights

RANDOM = np.random.default_rng(1)


def reply(number):
    return [30 + number % 10, 40 + number // 10, 1]


def ranking(prompt, count):
    """The examples of each comparison of a ranking, in no order."""
    replies = [Example([prompt, 5], reply(number)) for number in range(count)]
    found = list(combinations(replies, 2))
    return [found[i] for i in RANDOM.permutation(len(found))]


def row(*examples):
    return SimpleNamespace(examples=examples)


@pytest.mark.parametrize("per_prompt", [1, 2, 16])
@pytest.mark.parametrize("equal", [False, True])
def test_no_measured_batch_takes_more_than_it_may(per_prompt, equal):
    """Nor where all replies to a prompt are one, nor in a model that cannot pack them."""
    sizes = RANDOM.integers(1, 50, 640).tolist()
    sizes = [sizes[n - n % per_prompt] if equal else size for n, size in enumerate(sizes)]
    examples = [Example([n // per_prompt], [5] * size) for n, size in enumerate(sizes)]
    batches = measured_batches(examples, 800)
    assert sorted(np.concatenate(batches).tolist()) == list(range(640))
    for batch in batches:
        assert len(batch) * max(examples[i].length for i in batch) <= 800
    assert len(batches) < 2 * sum(example.length for example in examples) / 800
    if per_prompt == 1:  # else replies of unlike lengths stand together
        padded = sum(len(batch) * max(examples[i].length for i in batch) for batch in batches)
        assert padded < 1.15 * sum(example.length for example in examples)
    assert [batch.tolist() for batch in measured_batches(examples, 800)] == [batch.tolist() for batch in batches]


def test_pairs_whose_packed_rows_are_of_one_length_come_together():
    """Long prompts and long replies give pairs of one length, of which the first take fewer places behind a prompt."""
    rows = []
    for number in range(300):
        size, first, second = RANDOM.integers(1, 40, 3)
        rows.append((Example([number] * size, [5] * first), Example([number] * size, [6] * second)))
    lengths = [sum(example.length for example in pair) for pair in rows]
    batches = Groups([row(*pair) for pair in rows]).epoch(600, np.random.default_rng(0))
    assert sorted(np.concatenate(batches).tolist()) == list(range(300))
    assert all(sum(lengths[i] for i in batch) <= 600 for batch in batches)
    assert sum(lengths) / 600 <= len(batches) < 1.2 * sum(lengths) / 600  # full ones: padding is not counted
    widths = [len(a.prompt_ids) + len(a.reply_ids) + len(b.reply_ids) for a, b in rows]
    assert [packed_width(pair) for pair in rows] == widths
    padded = sum(len(batch) * max(widths[i] for i in batch) for batch in batches)
    assert padded < 1.05 * sum(widths)


def test_a_few_rows_on_one_prompt_stand_side_by_side():
    """Sixty rows in no order, on prompts that one, three and seven of them share."""
    shared = [prompt for prompt, count in enumerate([1, 3, 7] * 5) for _ in range(count)]
    prompts = [shared[i] for i in RANDOM.permutation(len(shared))]
    rows = [(Example([prompt], reply(number)),) for number, prompt in enumerate(prompts)]
    groups = side_by_side(rows)
    assert sorted(i for group in groups for i in group) == list(range(len(rows)))
    for prompt in set(prompts):
        sizes = sorted(len(group) for group in groups if prompts[group[0]] == prompt)
        assert sizes == {1: [1], 3: [3], 7: [3, 4]}[prompts.count(prompt)]
        assert all(len({prompts[i] for i in group}) == 1 for group in groups)


def test_a_ranking_is_not_torn():
    """But one of many replies, or a pair that many people judged, is: a step holds more than one prompt's worth."""
    rows = [*ranking(4, 9), *ranking(5, 4), *((Example([6], reply(n)), Example([6], reply(n + 1))) for n in (0, 2, 4))]
    order = RANDOM.permutation(len(rows)).tolist()
    groups = side_by_side([rows[i] for i in order])
    assert sorted(len(group) for group in groups) == [1, 2, 6, 36]  # two pairs are four replies
    for group in groups:
        assert len({tuple(rows[order[i]][0].prompt_ids) for i in group}) == 1
    many, compared = side_by_side(large := ranking(4, 40)), 0
    assert sorted(i for group in many for i in group) == list(range(780))
    for group in many:
        replies = distinct([example for i in group for example in large[i]])[0]
        assert len(replies) <= 16
        compared += len(replies)
    assert compared <= 10 * 16  # five blocks of eight, two by two; one by one it is 1,560
    votes = side_by_side([(Example([4], [5]), Example([4], [6]))] * 300)
    assert [len(group) for group in votes] == [120, 120, 60]


def test_a_step_counts_a_reply_once_that_is_compared_again():
    rows = [pair for prompt in range(10, 30) for pair in ranking(prompt, 4)]
    batches = Groups([row(*pair) for pair in rows]).epoch(
        5 * 4 * 5, np.random.default_rng(0)
    )  # five rankings of four replies of five tokens
    assert [len(batch) for batch in batches] == [30] * 4


def test_a_row_packs_at_most_four_replies_of_a_prompt():
    examples = [Example([4, 5], [6] * size) for size in (1, 2, 3, 4, 5)] + [Example([7], [8])]
    assert packed(examples) == [((4, 5), [0, 1]), ((4, 5), [2, 3, 4]), ((7,), [5])]
    assert packed_width(examples) == 2 + 3 + 4 + 5


def test_what_is_equal_stands_once():
    a, b, other = Example([4], [5, 6]), Example([4], [5]), Example([4, 5], [6])  # the tokens of `a`, cut elsewhere
    assert distinct([a, b, Example((4,), (5, 6)), other, b]) == ([a, b, other], [0, 1, 0, 2, 1])


PROMPTS = 12


def ranked():
    """Rankings of four replies."""
    for prompt in range(10, 10 + PROMPTS):
        replies = [Example([prompt, 5], reply(number + prompt)) for number in range(4)]
        yield from (Pair(a, b, float(n % 2), 0.1 + n) for n, (a, b) in enumerate(combinations(replies, 2)))


def judged(pairs):
    """Each reply of each pair by itself: three times, not always with the same verdict."""
    return [(example, bool(n % 2), 1.0 + n % 3) for n, pair in enumerate(pairs) for example in (pair.a, pair.b)]


def learn(kind, model):
    """An epoch of a loop over rankings, in place."""
    pairs, recorder = list(ranked()), Recorder()
    options = {"num_epochs": 1, "lr": 1e-3, "batch_tokens": 100}
    if kind == "reward":
        rows = [Comparison(**vars(row), labels=(row.label,), margins=(0.0,)) for row in pairs]
        train_reward.train(model, model.network, rows, RewardOptions(**options), 0, recorder)
    elif kind == "outcome":
        rows = [outcome.Verdict(*row) for row in judged(pairs)]
        outcome.train(model, model.network, rows, DatasetOptions(**options), 0, recorder)
    elif kind == "sft":
        rows = [example for example, _, _ in judged(pairs)]
        weight = lambda row: 1.0 + row.reply_ids[0] % 3  # noqa: E731
        train_on_dataset(model, rows, reply_nll(model), weight, DatasetOptions(**options), 0, recorder)
    else:
        frozen = copy.deepcopy(model)
        reference = partial(reply_sums, torch.no_grad()(lambda examples: token_logprobs(frozen, examples)))
        algorithm = algorithms.load(kind, {"beta": 0.1, "sft_weight": 0.1} | options)
        if kind == "dpo":
            train_on_pairs.train_on_pairs(model, reference, pairs, algorithm, 0, recorder)
        else:
            train_on_feedback.train_on_feedback(model, reference, feedback.from_pairs(pairs), algorithm, 0, recorder)
    # Steps of five rankings of four replies of five tokens; by itself each of twelve rows counts.
    assert len(recorder.rows) == (3 if kind in ("dpo", "reward") else 12)


@pytest.mark.parametrize("kind", ["dpo", "kto", "sft", "reward", "outcome"])
def test_what_stands_in_a_step_again_is_computed_once_and_teaches_as_before(
    kind, tiny_model, small_reward_model, monkeypatch
):
    start = small_reward_model if kind in ("reward", "outcome") else tiny_model
    rows_of, passes = packing.rows_of, []
    note = lambda examples, config: passes.append(examples) or rows_of(examples, config)  # noqa: E731
    monkeypatch.setattr(packing, "rows_of", note)

    def learned():
        model = copy.deepcopy(start)
        learn(kind, model)
        with_gradient = [examples for examples in passes if examples and len(examples[0].prompt_ids) == 2]
        passes.clear()
        return weights(getattr(model, "network", model)), sum(map(len, with_gradient))

    once, computed = learned()
    for module in (train_on_pairs, train_reward, train_on_feedback, logprobs, outcome):
        every = lambda examples: (found := list(examples), list(range(len(found))))  # noqa: E731
        monkeypatch.setattr(module, "distinct", every)
    plain, computed_before = learned()
    moved = (once - weights(getattr(start, "network", start))).norm()
    assert moved > 0
    assert (once - plain).norm() < 1e-3 * moved  # AdamW divides what rounding left of gradients of 0
    references = {"dpo": 1, "kto": 1}.get(kind, 0)
    if kind != "kto":  # which measures mismatched replies besides
        assert computed == (1 + references) * PROMPTS * 4
        assert computed_before == (1 + references) * PROMPTS * 12
    assert computed < 0.7 * computed_before


def test_a_step_of_votes_on_few_replies_is_no_larger_than_it_counts():
    """A thousand on each of ten pairs of eight tokens: an eighth of all tokens counts."""
    rows = [row(Example([n], [5, 6, 1]), Example([n], [7, 8, 1])) for n in range(10) for _ in range(1000)]
    batches = Groups(rows).epoch(500, np.random.default_rng(0))
    assert sorted(np.concatenate(batches).tolist()) == list(range(10000))
    assert len(batches) >= 10000 * 8 / 8 / 500
    assert max(map(len, batches)) <= 8 * 500 / 8


def test_runs_take_no_more_places_than_they_may_and_share_what_is_equal():
    rows = [row(*pair) for prompt in range(4, 8) for pair in sorted(ranking(prompt, 4), key=lambda p: p[0].reply_ids)]
    assert [run for part in batching.runs(rows, 20) for run in part] == rows
    assert [len(part) for part in batching.runs(rows, 5 * 8)] == [12, 12]  # eight replies of five tokens
    for part in batching.runs(rows, 15):
        assert len(distinct([example for each in part for example in each.examples])[0]) <= 3
    assert [len(part) for part in batching.runs(rows, 1)] == [1] * 24
    assert [len(part) for part in batching.by_prompt(rows)] == [6] * 4
