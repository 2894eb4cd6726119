"""Which rows stand in one batch, and that what stands there twice is computed once."""

import copy
from functools import partial
from itertools import combinations

import numpy as np
import pytest
import torch

from tasks.rlhf import algorithms, batching, logprobs, train_on_pairs, train_reward
from tasks.rlhf.batch import Example, Pair
from tasks.rlhf.batching import Groups, distinct, packed, packed_width, side_by_side
from tasks.rlhf.comparisons import Comparison
from tasks.rlhf.logprobs import measured_batches, reply_sums, token_logprobs
from tasks.rlhf.options import RewardOptions
from tests.tasks.rlhf.test_loops import Recorder, weights

RANDOM = np.random.default_rng(1)


def reply(number):
    return [30 + number % 10, 40 + number // 10, 1]


def ranking(prompt, count):
    """The examples of each comparison of a ranking, in no order."""
    replies = [Example([prompt, 5], reply(number)) for number in range(count)]
    found = list(combinations(replies, 2))
    return [found[i] for i in RANDOM.permutation(len(found))]


def test_each_row_stands_in_one_batch_and_no_batch_takes_more_than_it_may():
    examples = [Example([number // 2], [5] * size) for number, size in enumerate(RANDOM.integers(1, 50, 600))]
    batches = measured_batches(examples, 200)
    assert sorted(np.concatenate(batches).tolist()) == list(range(600))
    places = 0
    for batch in batches:
        taken = [examples[i] for i in batch]
        places += len(packed(taken)) * packed_width(taken)
        assert len(packed(taken)) * packed_width(taken) <= 200
    assert places < 1.15 * sum(example.length for example in examples)
    assert [batch.tolist() for batch in measured_batches(examples, 200)] == [batch.tolist() for batch in batches]


def test_pairs_whose_packed_rows_are_of_one_length_come_together():
    """Long prompts and long replies give pairs of one length, of which the first take fewer places behind a prompt."""
    rows = []
    for number in range(300):
        size, first, second = RANDOM.integers(1, 40, 3)
        rows.append((Example([number] * size, [5] * first), Example([number] * size, [6] * second)))
    lengths = [sum(example.length for example in pair) for pair in rows]
    batches = Groups(rows).epoch(600, np.random.default_rng(0))
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
    many = side_by_side(ranking(4, 40))
    assert sorted(i for group in many for i in group) == list(range(780))
    assert max(map(len, many)) <= batching.COMPARED
    votes = side_by_side([(Example([4], [5]), Example([4], [6]))] * 300)
    assert [len(group) for group in votes] == [120, 120, 60]


def test_a_step_counts_a_reply_once_that_is_compared_again():
    rows = [pair for prompt in range(10, 30) for pair in ranking(prompt, 4)]
    batches = Groups(rows).epoch(5 * 4 * 5, np.random.default_rng(0))  # five rankings of four replies of five tokens
    assert [len(batch) for batch in batches] == [30] * 4


def test_a_row_packs_at_most_four_replies_of_a_prompt():
    examples = [Example([4, 5], [6] * size) for size in (1, 2, 3, 4, 5)] + [Example([7], [8])]
    assert packed(examples) == [((4, 5), [0, 1]), ((4, 5), [2, 3, 4]), ((7,), [5])]
    assert packed_width(examples) == 2 + 3 + 4 + 5


def test_what_is_equal_stands_once():
    a, b, other = Example([4], [5, 6]), Example([4], [5]), Example([4, 5], [6])  # the tokens of `a`, cut elsewhere
    assert distinct([a, b, Example((4,), (5, 6)), other, b]) == ([a, b, other], [0, 1, 0, 2, 1])


def taught(model, module, seen, monkeypatch):
    """Weights after an epoch over rankings, under DPO or as a reward model."""
    rows = [pair for prompt in range(10, 22) for pair in ranking_of(prompt)]
    if module is train_reward:
        forward = type(model).heads
        monkeypatch.setattr(type(model), "heads", lambda self, rows: seen.append(len(rows)) or forward(self, rows))
        compared = [Comparison(**vars(row), labels=(row.label,), margins=(0.0,)) for row in rows]
        options = RewardOptions(num_epochs=1, lr=1e-3, batch_tokens=100)
        train_reward.train(model, model.network, compared, options, 0, Recorder())
        return weights(model.network)
    frozen, original = copy.deepcopy(model), token_logprobs
    monkeypatch.setattr(module, "token_logprobs", lambda *args: seen.append(len(args[1])) or original(*args))

    @torch.no_grad()
    def reference(examples):
        seen.append(len(examples))
        return token_logprobs(frozen, examples)

    algorithm = algorithms.load("dpo", {"beta": 0.1, "lr": 1e-3, "num_epochs": 1, "batch_tokens": 100})
    module.train_on_pairs(model, partial(reply_sums, reference), rows, algorithm, 0, Recorder())
    return weights(model)


def ranking_of(prompt):
    replies = [Example([prompt, 5], reply(number + prompt)) for number in range(4)]
    return [Pair(a, b, 1.0, 1 / 6) for a, b in combinations(replies, 2)]


@pytest.mark.parametrize("module", [train_on_pairs, train_reward], ids=["dpo", "reward"])
def test_replies_of_a_ranking_are_computed_once_and_teach_as_before(
    module, tiny_model, small_reward_model, monkeypatch
):
    model = small_reward_model if module is train_reward else tiny_model
    one, other, few, all_of_them = copy.deepcopy(model), copy.deepcopy(model), [], []
    with monkeypatch.context() as patch:
        learned = taught(one, module, few, patch)
    with monkeypatch.context() as patch:
        for where in (module, logprobs):
            patch.setattr(where, "distinct", lambda examples: (list(examples), list(range(len(list(examples))))))
        plain = taught(other, module, all_of_them, patch)
    passes = 1 if module is train_reward else 2  # the reference's
    assert sum(few) == passes * 12 * 4
    assert sum(all_of_them) == passes * 12 * 12
    assert not torch.equal(learned, weights(model.network if module is train_reward else model))
    torch.testing.assert_close(learned, plain, rtol=1e-3, atol=1e-5)
