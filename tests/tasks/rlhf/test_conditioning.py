"""Conditioning: the same seed draws the same shares, and those in the prompt are those of the score."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tasks.rlhf import conditioning, rewards
from tasks.rlhf.batch import Example, Prompt
from tasks.rlhf.conditioning import Conditioner, at_evaluation, conditioned, draw, hundredths, note
from tasks.rlhf.experience import collect
from tasks.rlhf.reward_model import score_examples, score_heads, score_weighed
from tasks.rlhf.rewards_options import RewardsOptions, check_conditioning
from tasks.rlhf.train_on_rollouts import train_on_rollouts
from tests.tasks.rlhf.test_rewards import scorer
from tests.tasks.rlhf.test_train_on_rollouts import Recorder, learner, section, weights

NAMES = ["brief", "kind"]
TEXTS = {f"p{number}": [{"role": "user", "content": f"Question {number}?"}] for number in range(12)}
PROMPTS = [Prompt([5, 6, number + 10], "x", None, f"p{number}") for number in range(12)]


def encode(messages):
    """Shares as tokens of their own, so that a test can read them: 20 + tenths of brief and of kind."""
    (text,) = [message["content"] for message in messages]
    found = re.fullmatch(r"\[brief (\d+), kind (\d+)\]\nQuestion (\d+)\?", text)
    return [20 + int(found[1]) // 10, 20 + int(found[2]) // 10, int(found[3]) + 10]


def conditioner(**changes):
    values = {"vectors": [{"brief": 0.2, "kind": 0.8}, {"brief": 1.0, "kind": 0.0}], "dirichlet": None}
    values |= {"objectives": {"brief": 1.0, "kind": 3.0}, "encode": encode, "messages": TEXTS, "room": 20}
    return Conditioner(**values | changes)


@pytest.fixture
def two_heads(small_reward_model):
    small_reward_model.network.score = torch.nn.Linear(16, 2, bias=False)
    return replace(small_reward_model, objectives={"brief": 1.0, "kind": 3.0}, shift=0.3, length_slope=0.02)


def test_shares_are_hundredths_that_add_up():
    assert hundredths([1, 1, 1]) == [0.33, 0.34, 0.33]
    assert hundredths([0.0, 2.0]) == [0.0, 1.0]
    for shares in np.random.default_rng(0).dirichlet([0.3] * 5, size=200):
        rounded = hundredths(shares)
        assert sum(round(100 * share) for share in rounded) == 100
        assert min(rounded) >= 0
        assert np.abs(np.array(rounded) - shares).max() <= 0.0101


def test_the_same_seed_draws_the_same_shares():
    for distribution in (([{"kind": 0.8, "brief": 0.2}, {"kind": 0.0, "brief": 1.0}], None), ([], 1.0)):
        drawn = draw(*distribution, NAMES, 400, 7)
        assert drawn == draw(*distribution, NAMES, 400, 7)
        assert drawn != draw(*distribution, NAMES, 400, 8)
        briefs = [shares["brief"] for shares in drawn]
        assert np.mean(briefs) == pytest.approx(0.6 if distribution[0] else 0.5, abs=0.05)
        assert (len(set(briefs)) == 2) == bool(distribution[0])
    assert {shares["brief"] in (0, 1) for shares in draw([], 1e-3, NAMES, 50, 0)} == {True}  # single objectives


def test_the_last_turn_says_the_shares():
    prompt = [{"role": "system", "content": "Be good."}, {"role": "user", "content": "Why?"}]
    assert conditioned(prompt, {"kind": 0.71, "brief": 0.29}) == [
        {"role": "system", "content": "Be good."},
        {"role": "user", "content": "[brief 29, kind 71]\nWhy?"},
    ]


def test_the_shares_in_the_prompt_weigh_the_heads(two_heads, small_model):
    """From the tokens that were sampled from, by hand, to the score; reward models read the prompt without them."""
    _, run = learner(small_model, scorer({}, [two_heads]), "rloo", section())
    run = replace(run, condition=conditioner())
    options = learner(small_model, None, "rloo", section())[0].options
    rollout, _ = collect(run, PROMPTS, options.model_copy(update={"missing_eos_penalty": 0.0}), seed=3)
    again, _ = collect(run, PROMPTS, options, seed=3)
    assert [e.prompt_ids for e in rollout.examples] == [e.prompt_ids for e in again.examples]
    seen = set()
    for example, score in zip(rollout.examples, rollout.scores_B.tolist(), strict=True):
        brief, kind, number = (token - start for token, start in zip(example.prompt_ids, (20, 20, 10), strict=True))
        assert brief + kind == 10
        seen.add(brief)
        plain = Example([5, 6, number + 10], example.reply_ids)
        heads = score_heads(two_heads, [plain])[0]
        # Together 4, as in training: 4 * (brief, kind)
        expected = 0.4 * (brief * heads[0] + kind * heads[1]) - 0.02 * len(example.reply_ids) - 0.3
        assert score == pytest.approx(expected, abs=1e-4)
    assert seen == {2, 10}


def test_shares_like_those_of_training_give_its_score(two_heads):
    examples = [Example([5, 6], [7, 8, 1]), Example([9], [10, 1])]
    same = score_weighed(two_heads, examples, [two_heads.objectives] * 2)
    assert same == pytest.approx(score_examples(two_heads, examples), abs=1e-6)
    other = replace(two_heads, objectives={"brief": 2.0, "kind": 0.5})
    assert score_weighed(two_heads, examples, [other.objectives] * 2) == pytest.approx(
        score_examples(other, examples), abs=1e-6
    )


def test_a_policy_learns_with_it_and_the_same_seed_gives_the_same_weights(two_heads, small_model):
    policies = []
    for _ in range(2):
        algorithm, run = learner(small_model, scorer({}, [two_heads]), "ppo", section(max_first_score=None))
        run = replace(run, condition=conditioner(vectors=[], dirichlet=1.0))
        train_on_rollouts(run, PROMPTS, PROMPTS, algorithm.options, 0, Recorder())
        policies.append(weights(run.policy))
    assert torch.equal(*policies)
    assert not torch.equal(policies[0], weights(small_model))


def test_a_prompt_too_long_with_its_shares_is_named():
    with pytest.raises(ValueError, match=r"prompt p0 has 3 tokens with its shares, and room for 2; raise prepare"):
        conditioner(room=2)(PROMPTS, 0)


def test_the_policys_folder_says_what_it_is_conditioned_on(tmp_path):
    assert at_evaluation(tmp_path, {}) is None
    note(tmp_path, ["kind", "brief"])
    assert at_evaluation(tmp_path, {}) == {"brief": 0.5, "kind": 0.5}
    assert at_evaluation(tmp_path, {"kind": 3.0, "brief": 1.0}) == {"brief": 0.25, "kind": 0.75}
    with pytest.raises(
        ValueError, match=r"evaluate.preference names safe; the policy in .* is conditioned on brief, k"
    ):
        at_evaluation(tmp_path, {"safe": 1.0})
    note(tmp_path, [])
    assert not (tmp_path / conditioning.FILE).exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conditioning": {}}, "give either vectors or dirichlet"),
        ({"conditioning": {"vectors": [{"a": 1.0}], "dirichlet": 1.0}}, "give either vectors or dirichlet"),
        ({"conditioning": {"vectors": [{"a": 0.5, "b": 0.4}]}}, "hundredths that add up to 1"),
        ({"conditioning": {"vectors": [{"a": 0.125, "b": 0.875}]}}, "hundredths that add up to 1"),
        ({"conditioning": {"dirichlet": 1.0}, "heads": {"a": 1.0}}, "heads fixes them; leave one of them out"),
        ({"conditioning": {"dirichlet": 1.0}, "learned": 0.0, "verifier": 1.0}, "learned = 0 asks none"),
    ],
)
def test_contradictions_are_one_line(changes, message):
    with pytest.raises(ValidationError, match=message):
        RewardsOptions(**changes)


def test_what_nothing_scores_by_shares_is_refused():
    by_list = RewardsOptions(conditioning={"vectors": [{"a": 0.5, "b": 0.5}]})
    two = {"a": 1.0, "b": 2.0}
    check_conditioning(by_list, "ppo", "policy", two)
    check_conditioning(RewardsOptions(), "dpo", "preference", {})
    for family, objectives, message in (
        ("preference", two, "dpo learns from fixed pairs"),
        ("policy", {}, r"reward.objectives = \{\}; give two or more"),
        ("policy", {"a": 1.0}, "give two or more"),
        ("policy", {"a": 1.0, "b": -1.0}, "with weights above 0"),
        ("policy", {"a": 1.0, "c": 1.0}, r"vectors: \{'a': 0.5, 'b': 0.5\} must name the heads of .* a, c"),
    ):
        with pytest.raises(ValueError, match=message):
            check_conditioning(by_list, "dpo", family, objectives)


def test_scores_without_shares_are_as_before(two_heads):
    examples = [Example([5, 6, 7], [8, 7, 1])]
    plain = [Prompt([5, 6, 7])]
    assert rewards._scores(two_heads, examples, plain).tobytes() == score_examples(two_heads, examples).tobytes()
    assert json.dumps(RewardsOptions().changes()) == "{}"  # and so data/objective.json is, too
