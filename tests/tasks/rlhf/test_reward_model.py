"""The reward model: where its score is read, its bound and scale, and its way to disk and back."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tasks.rlhf import reward_model
from tasks.rlhf.batch import Example
from tasks.rlhf.options import ScoreOptions
from tasks.rlhf.reward_model import RewardModel, score_examples, score_heads


@pytest.fixture
def sft(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path / "sft")
    return tmp_path / "sft"


@pytest.fixture
def tokenizer():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<eos>": 1, "a": 2}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="a")), pad_token="<pad>", eos_token="<eos>"
    )


def new(sft, **options):
    return reward_model.new_reward_model(sft, "float32", 3, ScoreOptions(**options))


def read(model, example, positions):
    """The head at each of the given positions of one unpadded row."""
    with torch.no_grad():
        ids = torch.tensor([[*example.prompt_ids, *example.reply_ids]])
        hidden = model.network.base_model(input_ids=ids).last_hidden_state[0]
        return [float(model.network.score(hidden[position])) for position in positions]


def test_the_score_is_read_at_the_last_token_or_is_the_mean_over_the_reply(sft, examples):
    last, mean = score_examples(new(sft), examples), score_examples(new(sft, pooling="mean"), examples)
    for i, example in enumerate(examples):
        per_token = read(new(sft), example, range(len(example.prompt_ids), example.length))
        assert last[i] == pytest.approx(per_token[-1], rel=1e-4, abs=1e-5)
        assert mean[i] == pytest.approx(np.mean(per_token), rel=1e-4, abs=1e-5)


def test_a_bounded_score_by_hand(sft, examples):
    free, bounded = score_examples(new(sft), examples), score_examples(new(sft, bound=0.5), examples)
    assert np.abs(free).max() > 0.5
    assert bounded == pytest.approx([0.5 * math.tanh(score / 0.5) for score in free], rel=1e-5)


def test_heads_and_length_make_up_the_score(sft, examples):
    model = new(sft, objectives={"safety": 2.0, "helpfulness": -0.5}, bound=3.0)
    assert list(model.objectives) == ["helpfulness", "safety"]
    model.length_slope, model.shift = 0.25, 0.125
    heads = score_heads(model, examples)
    assert heads.shape == (3, 2)
    sizes = [len(example.reply_ids) for example in examples]
    by_hand = [-0.5 * h + 2.0 * s - 0.25 * n - 0.125 for (h, s), n in zip(heads, sizes, strict=True)]
    assert score_examples(model, examples) == pytest.approx(by_hand, rel=1e-5)


SETTINGS = [{}, {"bound": 0.5}, {"pooling": "mean", "bound": 2.0}, {"objectives": {"safety": 0.5, "choice": 1.0}}]


@pytest.mark.parametrize("options", SETTINGS)
def test_normalised_scores_have_mean_0_and_spread_1_here_and_after_loading(sft, examples, tokenizer, tmp_path, options):
    model = new(sft, **options)
    model.ties = {"model": "davidson", "learned": True, "parameters": {"choice": 0.4}}
    model.length_slope = 0.25
    raw = score_examples(model, examples)
    reward_model.normalise(model, examples)
    scores = score_examples(model, examples)
    assert (scores.mean(), scores.std()) == (pytest.approx(0, abs=1e-5), pytest.approx(1, abs=1e-5))
    # Raw margins are `scale` times the normalised ones.
    assert model.scale * (scores - scores[0]) == pytest.approx(raw - raw[0], abs=1e-5)
    reward_model.save_reward(model, tokenizer, tmp_path / "out")
    loaded = reward_model.load_reward(tmp_path / "out")
    assert score_examples(loaded, examples) == pytest.approx(scores, abs=1e-6)
    assert replace(loaded, network=None) == replace(model, network=None)


def test_a_model_that_tells_nothing_apart_is_refused(sft, examples):
    model = new(sft)
    with torch.no_grad():
        model.network.score.weight.zero_()
    with pytest.raises(ValueError, match="standard deviation 0; the reward model tells nothing apart"):
        reward_model.normalise(model, examples)


def test_padding_and_company_change_no_score(sft, examples):
    for options in ({}, {"pooling": "mean"}):
        model = new(sft, **options)
        alone = [float(score_examples(model, [example])[0]) for example in examples]
        longer = [*examples, Example([5], [7] * 30)]
        assert score_examples(model, longer)[:3] == pytest.approx(alone, rel=1e-4, abs=1e-5)


def test_what_is_said_again_is_scored_once_and_stays_in_its_place(sft, monkeypatch):
    model, scored = new(sft), []
    forward = RewardModel.forward
    monkeypatch.setattr(RewardModel, "forward", lambda self, rows: scored.extend(rows) or forward(self, rows))
    replies = [[number, 7, *range(3, 3 + number % 6)] for number in range(3, 13)]
    asked = [Example(prompt, reply) for reply in replies for prompt in ([5, 6], [9])]
    values = score_examples(model, [*asked, *reversed(asked), asked[3]])
    assert len(scored) == len(asked)
    alone = [float(forward(model, [example]).detach()) for example in asked]
    assert values == pytest.approx([*alone, *reversed(alone), alone[3]], rel=1e-4, abs=1e-5)
    assert len(set(values)) == len(asked)


def test_the_head_starts_with_variance_1_over_d_plus_1(sft):
    weights = torch.cat([reward_model.new_reward_model(sft, "float32", s).network.score.weight for s in range(9)])
    assert float(weights.detach().std()) == pytest.approx(1 / 33**0.5, rel=0.15)  # 288 draws: 4% is one standard error
    assert isinstance(new(sft), RewardModel)
