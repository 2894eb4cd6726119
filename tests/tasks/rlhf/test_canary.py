"""The canary: its own way to tokens, its bar, and a model that learned swapped labels stopped by it."""

import copy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from tasks.preferences import tokens
from tasks.preferences.canary import Obvious
from tasks.rlhf import canary, reward_model
from tasks.rlhf.batch import Example
from tasks.rlhf.canary import Canaries
from tests.tasks.rlhf.test_train_reward import comparison, fit

TEXTS = [
    Obvious([{"role": "user", "content": f"What is {n} + 1?"}], f"{n} + 1 = {n + 1}. I am glad to help.", "#@%" * 5)
    for n in range(60)
]


@pytest.fixture(scope="module")
def tokenizer():
    return tokens.train([text.true for text in TEXTS], 300)


def test_canaries_are_the_source_s_own_texts_in_the_store_s_tokens(tokenizer):
    """Two ways to tokens, one result: else a true reply would look strange to the model."""
    canaries = canary.tokenised(TEXTS[:40], TEXTS[40:], tokenizer, max_length=96)
    assert canaries.num_planted == 40
    encoder = tokens.Encoder(tokenizer)
    for text, true, ruined in zip(TEXTS, canaries.true, canaries.ruined, strict=True):
        assert true == Example(encoder.prompt(text.prompt), encoder.reply(text.true))
        assert ruined == Example(encoder.prompt(text.prompt), encoder.reply(text.ruined))
        assert tokenizer.decode(ruined.reply_ids) == f"{'#@%' * 5}<eos>"


def test_what_does_not_fit_is_left_out(tokenizer):
    long = replace(TEXTS[0], true="Because. " * 50)
    canaries = canary.tokenised([long, *TEXTS[:3]], [long, TEXTS[3]], tokenizer, max_length=50)
    assert (len(canaries.true), canaries.num_planted) == (4, 3)
    with pytest.raises(ValueError, match=r"none of 60 texts fits into model.max_length = 8; raise it"):
        canary.tokenised(TEXTS[:30], TEXTS[30:], tokenizer, 8)


@pytest.mark.parametrize(
    ("right", "message"),
    [
        (181, None),
        (180, r"judge: the canary fails: .* prefers 90%, and judge.canary_share = 0.9 must be exceeded; repl"),
        (99, r"prefers 50%.*labels look swapped: check how a and b, chosen and rejected, are read"),
    ],
)
def test_the_share_must_be_exceeded(right, message):
    true, ruined = [Example([5], [6])] * 200, [Example([5], [7])] * 200
    canaries = Canaries(true, ruined, num_planted=50)

    def lead(first, second):
        assert (first, second) == (true, ruined)
        return np.array([0.5] * right + [0.0] * (200 - right))  # nothing between them is not right

    if message is None:
        told = canary.check(canaries, lead, 0.9, "judge")
        expected = {"share": 0.905, "num_planted": 50, "share_planted": 1.0, "num_held_out": 150}
        assert told == {**expected, "share_held_out": pytest.approx(131 / 150)}
    else:
        with pytest.raises(ValueError, match=message) as caught:
            canary.check(canaries, lead, 0.9, "judge")
        assert "\n" not in str(caught.value)


def test_too_few_of_them_say_nothing():
    canaries = Canaries([Example([5], [6])] * 60, [Example([5], [7])] * 60, num_planted=49)
    with pytest.raises(ValueError, match=r"align.dpo: the canary has 49 planted .* wants 50; raise model.max_length"):
        canary.check(canaries, lambda true, ruined: np.ones(60), 0.9, "align.dpo")
    assert canary.check(canaries, lambda true, ruined: np.ones(60), 0.0, "align.dpo")["share"] == 1


def test_swapped_labels_are_found_and_honest_ones_pass(small_reward_model):
    """Raters say nothing about tokens from 50 on; what is planted does, and weighs 2%."""
    rng = np.random.default_rng(0)

    def draw(low, high, count=4):
        return rng.integers(low, high, count).tolist()

    rows, true, ruined = [], [], []
    for number in range(240):
        prompt = draw(10, 30, 3)
        good, bad, noise = (Example(prompt, [*draw(*tokens), 1]) for tokens in ((10, 30), (30, 50), (50, 64)))
        if number < 160:
            rows.append(comparison(good, bad, 1.0))
        else:
            true.append(good)
            ruined.append(noise)
    planted = [
        replace(comparison(*((g, n) if i % 2 else (n, g)), float(i % 2)), weight=0.08, planted=True)
        for i, (g, n) in enumerate(zip(true[:50], ruined[:50], strict=True))
    ]
    canaries = Canaries(true, ruined, num_planted=50)
    honest, swapped = copy.deepcopy(small_reward_model), copy.deepcopy(small_reward_model)
    fit(honest, [*rows, *planted])
    assert canary.check(canaries, partial(reward_model.lead, honest), 0.9, "reward")["share"] > 0.97
    fit(swapped, [replace(row, label=1 - row.label, labels=(1 - row.label,)) for row in [*rows, *planted]])
    with pytest.raises(ValueError, match=r"reward: the canary fails.*labels look swapped"):
        canary.check(canaries, partial(reward_model.lead, swapped), 0.9, "reward")
    assert (
        canary.check(canaries, partial(reward_model.lead, swapped), 0.0, "reward")["share"] < 0.5
    )  # 0: measured, not asked


def test_implicit_rewards_by_hand():
    """log p of true and ruined replies, of the policy and of SFT."""
    own, frozen = [np.array([-4.0, -6.0])] * 2, [np.array([-5.0, -5.0]), np.array([-3.0, -6.0])]
    assert canary.lead_of_ratios(own, frozen).tolist() == [1.0 - -1.0, -1.0 - 0.0]
    # one token each: -1 against -3 now; the lead before was 3, 9 and -1
    own, frozen = [np.full(3, -1.0), np.full(3, -3.0)], [np.full(3, -1.0), np.array([-4.0, -10.0, 0.0])]
    found = canary.lead_per_token(own, frozen, [[1] * 3, [1] * 3])
    assert found.tolist() == pytest.approx([2 - 1, 2 - 3, 2])
    halved = canary.lead_per_token(own, frozen, [[2] * 3, [1] * 3])
    assert halved[2] == pytest.approx(-0.5 + 3)
