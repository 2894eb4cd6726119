"""The canary: what a plant is made of, and a model that learned swapped labels stopped by it."""

import copy
from dataclasses import replace

import numpy as np
import pytest

from tasks.preferences import tokens
from tasks.rlhf import canary
from tasks.rlhf.batch import Example
from tests.tasks.rlhf.test_train_reward import comparison, fit

TEXTS = [
    ([{"role": "user", "content": f"What is {n} + 1?"}], f"{n} + 1 = {n + 1}. I am glad to help.") for n in range(60)
]


@pytest.fixture(scope="module")
def tokenizer():
    return tokens.train([reply for _, reply in TEXTS], 300)


@pytest.fixture(scope="module")
def planted(tokenizer):
    return canary.plants(TEXTS, tokenizer, max_length=96, seed=0)


def test_a_plant_is_the_source_s_own_text_against_as_much_noise(tokenizer, planted):
    assert len(planted) == 200
    assert len({tuple(plant.noise.reply_ids) for plant in planted}) == 200  # few texts, each time with new noise
    for number, plant in enumerate(planted):
        prompt, reply = TEXTS[number % 60]
        assert tokenizer.decode(plant.true.prompt_ids) == f"<user>{prompt[0]['content']}<assistant>"
        assert tokenizer.decode(plant.true.reply_ids) == f"{reply}<eos>"
        noise = tokenizer.decode(plant.noise.reply_ids).removesuffix("<eos>")
        assert set(noise) <= set(canary.SYMBOLS)
        assert len(noise) == len(reply)
        assert tokenizer.decode(plant.other.reply_ids) == f"{TEXTS[(number + 1) % 60][1]}<eos>"
        assert plant.true.prompt_ids == plant.noise.prompt_ids == plant.other.prompt_ids


def test_plants_are_those_of_the_store_s_own_tokens(tokenizer, planted):
    """Two ways to tokens, one result: else a true reply would look strange to the model."""
    encoder = tokens.Encoder(tokenizer)
    for plant, (prompt, reply) in zip(planted, TEXTS, strict=False):
        assert plant.true == Example(encoder.prompt(prompt), encoder.reply(reply))


def test_plants_fit_into_the_model(tokenizer):
    texts = [*TEXTS, ([{"role": "user", "content": "Why?"}], "Because. " * 50)]
    longest = max(len(plant.true.reply_ids) for plant in canary.plants(TEXTS, tokenizer, 96, 0))
    tight = canary.plants(texts, tokenizer, max_length=50, seed=0)
    assert all(example.length <= 50 for p in tight for example in (p.true, p.noise, p.other))
    assert all(p.noise.reply_ids[-1] == tokenizer.eos_token_id for p in tight)
    assert max(len(plant.true.reply_ids) for plant in tight) == longest  # never cut; what is too long is left out
    with pytest.raises(ValueError, match=r"none of 60 demonstrations fits into model.max_length = 8"):
        canary.plants(TEXTS, tokenizer, 8, 0)


@pytest.mark.parametrize(
    ("right", "message"),
    [
        (181, None),
        (
            180,
            r"judge: the canary fails: .* prefers 90%, and judge.canary_share = 0.9 must be exceeded; repl",
        ),
        (99, r"prefers 50%.*labels look swapped: check how a and b, chosen and rejected, are read"),
    ],
)
def test_the_share_must_be_exceeded(monkeypatch, planted, right, message):
    scores = iter([np.ones(200), np.array([0.0] * right + [1.0] * (200 - right)), np.array([2.0] * 50 + [0.0] * 150)])
    monkeypatch.setattr(canary, "score_examples", lambda model, examples: next(scores))
    if message is None:
        told = canary.check(None, planted, 0.9, "judge")
        assert told == {"num_plants": 200, "share": 0.905, "share_of_mismatched": 0.75}
    else:
        with pytest.raises(ValueError, match=message) as caught:
            canary.check(None, planted, 0.9, "judge")
        assert "\n" not in str(caught.value)


def test_swapped_labels_are_found_and_honest_ones_pass(small_reward_model):
    """Raters dislike tokens from 30 on, of which noise is an extreme."""
    rng = np.random.default_rng(0)

    def draw(low, high, count=4):
        return rng.integers(low, high, count).tolist()

    rows, planted = [], []
    for _ in range(80):
        prompt = draw(10, 30, 3)
        rows.append(comparison(Example(prompt, [*draw(10, 30), 1]), Example(prompt, [*draw(30, 64), 1]), 1.0))
        true, noise, other = (Example(prompt, [*ids, 1]) for ids in (draw(10, 30), draw(50, 60), draw(10, 30)))
        planted.append(canary.Plant(true, noise, other))
    honest, swapped = copy.deepcopy(small_reward_model), copy.deepcopy(small_reward_model)
    fit(honest, rows)
    assert canary.check(honest, planted, 0.9, "reward")["share"] > 0.95
    turned = [replace(row, label=0.0, labels=(0.0,)) for row in rows]
    fit(swapped, turned)
    with pytest.raises(ValueError, match=r"reward: the canary fails.*labels look swapped"):
        canary.check(swapped, planted, 0.9, "reward")
    assert canary.check(swapped, planted, 0.0, "reward")["share"] < 0.1  # 0: measured, not asked
