"""The process reward model: where steps end, and what is measured of them."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from tasks.preferences import tokens
from tasks.rlhf import process
from tasks.rlhf.batch import Example
from tasks.rlhf.options import DatasetOptions
from tasks.rlhf.process import Solution
from tests.tasks.rlhf.test_loops import Recorder

BREAK, EOS = 9, 1
OPTIONS = DatasetOptions(num_epochs=8, lr=1e-2, batch_tokens=256)


def solution(steps, labels, prompt=(5,), correct=None):
    """Steps of tokens, joined by line breaks and ended by EOS."""
    *reply, _ = (token for step in steps for token in (*step, BREAK))
    reply.append(EOS)
    return Solution(Example(list(prompt), reply), process.step_ends(reply, {BREAK}, EOS), labels, correct)


@pytest.mark.parametrize(
    ("reply", "ends"),
    [
        ([20, 21, BREAK, 22, EOS], [2, 4]),
        ([20, 21, BREAK, 22, BREAK, EOS], [2, 5]),  # a break before the end opens no step
        ([20, BREAK, BREAK, 22, EOS], [2, 4]),  # a blank line belongs to the step before it
        ([BREAK, 20, BREAK, 21], [2, 3]),  # nor does one at the start; a reply cut off has its last step
        ([20, 21], [1]),
        ([EOS], [0]),
        ([BREAK, EOS], [1]),
    ],
)
def test_where_steps_end(reply, ends):
    assert process.step_ends(reply, {BREAK}, EOS) == ends


def test_separators_are_all_tokens_that_hold_a_line_break():
    tokenizer = tokens.train(["1 + 2 = 3.\n3 + 4 = 7.\n\nThe end.\n"] * 50, 320)
    found = process.separator_ids(tokenizer)
    assert found
    for token in range(len(tokenizer)):
        assert ("\n" in tokenizer.decode([token])) == (token in found)
    reply = "1 + 2 = 3.\n3 + 4 = 7.\n\nThe end."
    ids = tokens.Encoder(tokenizer).reply(reply)
    ends = process.step_ends(ids, found, tokenizer.eos_token_id)
    cuts = [0, *(end + 1 for end in ends)]
    steps = [tokenizer.decode(ids[i:j]) for i, j in pairwise(cuts)]
    assert steps == ["1 + 2 = 3.\n", "3 + 4 = 7.\n\n", "The end.<eos>"]


def test_steps_and_labels_are_as_many():
    with pytest.raises(ValueError, match=r"process: a reply has 2 steps \(lines\) and 1 labels"):
        solution([[20], [21]], [True])


def test_a_step_is_scored_at_its_last_token(small_reward_model):
    rows = [solution([[20, 21], [22], [23, 24]], [True, False, None]), solution([[30]], [True], prompt=(5, 6, 7))]
    with torch.no_grad():
        scores = process.forward(small_reward_model, rows).tolist()
        network, expected = small_reward_model.network, []
        for row in rows:
            ids = torch.tensor([[*row.example.prompt_ids, *row.example.reply_ids]])
            hidden = network.model(input_ids=ids).last_hidden_state[0]
            expected += [float(network.score(hidden[len(row.example.prompt_ids) + end])) for end in row.ends]
    assert [row.ends for row in rows] == [[2, 4, 7], [1]]
    assert scores == pytest.approx(expected, abs=1e-5)
    found = process.step_probabilities(small_reward_model, rows)
    assert np.concatenate(found).tolist() == pytest.approx([1 / (1 + math.exp(-s)) for s in scores], abs=1e-5)


def labelled(count, seed):
    """A step is wrong where it holds an 8; one step in six nobody looked at."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        labels = (rng.uniform(size=3) < 0.7).tolist()
        steps = [[*rng.integers(10, 60, 2).tolist(), 7 if good else 8] for good in labels]
        shown = [label if rng.uniform() < 5 / 6 else None for label in labels]
        rows.append(solution(steps, shown, correct=all(labels)))
    return rows


def test_it_learns_which_steps_are_bad(small_reward_model):
    network = small_reward_model.network.train()
    recorder = Recorder()
    process.train(small_reward_model, network, labelled(120, 0), OPTIONS, 0, recorder)
    network.eval()
    held_out = labelled(80, 1)
    measured = process.measure(process.step_probabilities(small_reward_model, held_out), held_out)
    assert measured["step_accuracy"] > 0.9
    assert measured["first_error_accuracy"] > 0.8
    assert measured["clean_accuracy"] > 0.8
    assert recorder.rows[-1]["loss"] < 0.5 * recorder.rows[0]["loss"]


def test_an_unlabelled_step_teaches_nothing(small_reward_model):
    """Loss and gradient of a row are those of its labelled steps alone."""
    rows = [solution([[20], [21], [22]], [True, None, False]), solution([[30], [31]], [None, True])]
    values = torch.tensor([0.5, 9.0, -1.0, 9.0, 2.0], dtype=torch.float64)
    known = torch.tensor([True, False, True, False, True])
    assert process._row_means(values, known, rows).tolist() == [-0.25, 2.0]
    assert [row.num_labelled for row in rows] == [2, 1]
    with pytest.raises(ValueError, match=r"process: the labels of 1 replies are all alike"):
        process.train(small_reward_model, None, rows[1:], OPTIONS, 0, Recorder())


def test_measures_by_hand():
    rows = [
        solution([[20], [21], [22]], [True, True, True], correct=True),
        solution([[20], [21], [22]], [True, False, True], correct=True),  # a lucky guess, found
        solution([[20], [21], [22]], [False, True, False], correct=True),  # another, missed
        solution([[20], [21], [22]], [True, False, None], correct=False),  # called bad a step too early
        solution([[20], [21]], [None, False], correct=True),  # who knows whether the first step is the first bad one
    ]
    probabilities = [
        np.array(p) for p in ([0.9, 0.8, 0.7], [0.9, 0.2, 0.4], [0.9, 0.9, 0.8], [0.3, 0.2, 0.9], [0.6, 0.7])
    ]
    measured = process.measure(probabilities, rows)
    assert measured == {
        # 3 of 3, 2 of 3, 1 of 3, 1 of 2, 0 of 1
        "step_accuracy": pytest.approx(7 / 12),
        "first_error_accuracy": pytest.approx(1 / 3),  # second yes, third and fourth no, fifth unknown
        "clean_accuracy": 1.0,
        "lucky_guess_rate": pytest.approx(2 / 3),
        "lucky_guess_found": 0.5,
    }
    assert set(process.measure([], []).values()) == {None}


def test_ranking_by_hand():
    steps = np.array([0.9, 0.5, 0.8])
    assert [process.reply_score(steps, how) for how in ("min", "product", "last")] == pytest.approx([0.5, 0.36, 0.8])
    with pytest.raises(ValueError, match=r"process: 'mean' is no way to rank replies; known: min, product, last"):
        process.reply_score(steps, "mean")


def test_the_auc_of_steps_by_hand():
    rows = [
        Solution(Example([1], [2, 3, 4]), [0, 1, 2], labels) for labels in ([True, False, None], [True, True, False])
    ]
    # right: 0.9, 0.4, 0.5; wrong: 0.4, 0.1. Of six pairs five the right way round, one a tie.
    probabilities = [np.array([0.9, 0.4, 0.0]), np.array([0.4, 0.5, 0.1])]
    assert process.auc(probabilities, rows) == pytest.approx(5.5 / 6)
    assert process.auc(probabilities[:1], [replace(rows[0], labels=[True, None, None])]) is None
