"""Scores of steps on their way into the advantages: by hand, against the definition, and through the scorer."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from tasks.rlhf import algorithms
from tasks.rlhf.advantages import place_on_steps, reward_tokens, step_advantages
from tasks.rlhf.batch import Example, Prompt, ScorePart, join
from tasks.rlhf.experience import collect
from tasks.rlhf.policy import best_of_n, grpo, ppo, reinforce
from tasks.rlhf.rewards import Scorer
from tasks.rlhf.rewards_options import RewardsOptions, check_against
from tasks.rlhf.solution_models import SolutionModel
from tasks.rlhf.verification import Resources
from tests.tasks.rlhf.rollouts import draw, make
from tests.tasks.rlhf.test_train_on_rollouts import learner, section

BREAK = 9


def stepped(steps, lengths, *, weight=1.0, scores=None, prompts=None, values=None):
    """A rollout with scored steps: of each reply {place of the last token: score}."""
    width = max(lengths)
    mask = [[t < length for t in range(width)] for length in lengths]
    zeros = [[0.0] * width] * len(lengths)
    rollout = make(zeros, mask, scores=scores, prompts=prompts, values=zeros if values is None else values)
    scores_BT, step_mask_BT = place_on_steps(steps, width)
    return dataclasses.replace(
        rollout, step_scores_BT=scores_BT.double(), step_mask_BT=step_mask_BT, step_weight=weight
    )


def test_a_step_is_paid_on_its_last_token():
    rollout = stepped([{1: 0.5, 3: 0.25}, {0: 0.75}], [4, 2], weight=2.0, scores=[10.0, 20.0])
    assert reward_tokens(rollout, 0.0).tolist() == [[0, 1.0, 0, 10.5], [1.5, 20.0, 0, 0]]
    plain = dataclasses.replace(rollout, step_scores_BT=None, step_mask_BT=None)
    assert reward_tokens(plain, 0.0).tolist() == [[0, 0, 0, 10.0], [0, 20.0, 0, 0]]


def test_ppo_by_hand():
    """gamma 1, lambda 0.5, values 0.2 each; rewards 0, 1, 0, 0.5 of one reply of four tokens.

    Deltas: 0 + 0.2 - 0.2 = 0; 1 + 0.2 - 0.2 = 1; 0 + 0.2 - 0.2 = 0; 0.5 - 0.2 = 0.3.
    Advantages from the end: 0.3; 0 + 0.5 * 0.3 = 0.15; 1 + 0.5 * 0.15 = 1.075; 0 + 0.5 * 1.075 = 0.5375.
    Returns: advantage + 0.2.
    """
    rollout = stepped([{1: 1.0, 3: 0.5}], [4], values=[[0.2] * 4])
    lesson = ppo.advantages(rollout, 0.0, ppo.Config(lam=0.5))
    assert lesson.returns_BT.tolist() == [pytest.approx([0.7375, 1.275, 0.35, 0.5])]
    raw = torch.tensor([0.5375, 1.075, 0.15, 0.3], dtype=torch.float64)
    white = (raw - raw.mean()) / (raw.var(correction=0) + 1e-8).sqrt()
    torch.testing.assert_close(lesson.advantages_BT, white[None])


def test_reinforce_by_hand():
    """Returns 1.5, 1.5, 0.5, 0.5 and, of the other reply, 0, 0: less their mean 4 / 6."""
    rollout = stepped([{1: 1.0, 3: 0.5}, {1: 0.0}], [4, 2])
    lesson = reinforce.advantages(rollout, 0.0, reinforce.Config())
    mean = 4 / 6
    by_hand = [[1.5 - mean, 1.5 - mean, 0.5 - mean, 0.5 - mean], [-mean, -mean, 0, 0]]
    torch.testing.assert_close(lesson.advantages_BT, torch.tensor(by_hand, dtype=torch.float64))


def test_grpo_by_hand():
    """Steps 1, 0 and 1, 1: mean 0.75, deviation sqrt(3) / 4 = 0.4330: normalised 0.5774, -1.7321, 0.5774, 0.5774."""
    rollout = stepped([{1: 1.0, 3: 0.0}, {0: 1.0, 2: 1.0}], [4, 3], prompts=[0, 0])
    one, bad = (0.25 / (math.sqrt(3) / 4 + 1e-4)), (-0.75 / (math.sqrt(3) / 4 + 1e-4))
    by_hand = torch.tensor([[one + bad] * 2 + [bad] * 2, [2 * one, one, one, 0]], dtype=torch.float64)
    torch.testing.assert_close(step_advantages(rollout, scale=True), by_hand)
    torch.testing.assert_close(grpo.advantages(rollout, 0.0, grpo.Config()).advantages_BT, by_hand)
    centred = torch.tensor([[-0.5, -0.5, -0.75, -0.75], [0.5, 0.25, 0.25, 0]], dtype=torch.float64)
    torch.testing.assert_close(grpo.advantages(rollout, 0.0, grpo.Config(scale=False)).advantages_BT, centred)


def test_grpo_adds_what_steps_and_replies_teach_by_their_weight():
    """Scores 1 and 3 of replies: less their mean 2, over the deviation 2^0.5; the same on each token."""
    rollout = stepped([{1: 1.0, 3: 0.0}, {0: 1.0, 2: 1.0}], [4, 3], prompts=[0, 0], weight=0.5, scores=[1.0, 3.0])
    whole = torch.tensor([[-1.0], [1.0]], dtype=torch.float64) / (math.sqrt(2) + 1e-4) * rollout.reply_mask_BT
    expected = whole + 0.5 * step_advantages(rollout, scale=True)
    torch.testing.assert_close(grpo.advantages(rollout, 0.0, grpo.Config()).advantages_BT, expected)


def test_groups_are_normalised_apart_and_against_the_definition():
    rng = np.random.default_rng(0)
    steps = [{p: float(rng.normal()) for p in places} for places in ([1, 3], [0], [2, 4], [1, 2, 4], [0, 1])]
    lengths, prompts = [4, 1, 5, 5, 2], [0, 1, 0, 1, 1]
    rollout = stepped(steps, lengths, prompts=prompts, scores=[0, 0, 0, 0, np.nan])
    found = step_advantages(rollout, scale=True)
    assert not found[4].any()  # nothing could score that reply: it is not among its group either
    for row in range(4):
        group = [s for r in range(4) if prompts[r] == prompts[row] for s in steps[r].values()]
        for t in range(5):
            later = sum((s - np.mean(group)) / (np.std(group) + 1e-4) for end, s in steps[row].items() if end >= t)
            assert found[row, t].item() == pytest.approx(later if t < lengths[row] else 0, abs=1e-6)
    flat = stepped([{0: 0.3, 1: 0.3}, {1: 0.3}], [2, 2], prompts=[0, 0])
    assert not step_advantages(flat, scale=True).any()


def test_a_group_that_ties_may_still_teach_by_its_steps():
    """Dynamic sampling leaves out prompts that teach nothing: neither by replies nor by steps."""
    rollout = stepped([{1: 1.0}, {1: 0.0}, {1: 0.5}, {1: 0.5}], [2] * 4, prompts=[0, 0, 1, 1])
    lesson = grpo.advantages(rollout, 0.0, grpo.Config(dynamic_sampling=True))
    assert lesson.kept_B.tolist() == [True, True, False, False]


def test_joined_rollouts_keep_their_steps():
    short = stepped([{0: 0.5}], [1])
    both = join(short, stepped([{1: 0.25, 2: 1.0}], [3]))
    assert both.step_scores_BT.tolist() == [[0.5, 0, 0], [0, 0.25, 1.0]]
    assert both.step_mask_BT.tolist() == [[True, False, False], [False, True, True]]
    assert both.rows(torch.tensor([1])).step_scores_BT.tolist() == [[0, 0.25, 1.0]]
    assert both.step_weight == 1.0


# --- Through the scorer and the loop

PROMPTS = [Prompt([5, 6, 7], "sums"), Prompt([11], "essays")]
EXAMPLES = [Example([5, 6, 7], [20, BREAK, 21, BREAK, 22, 1]), Example([11], [20, BREAK, 21, 1])]


def process_model(small_reward_model, kind="process", domains=("sums",)):
    return SolutionModel(kind, small_reward_model, frozenset(domains), frozenset({BREAK}), 1)


def probability(model, example, place):
    with torch.no_grad():
        ids = torch.tensor([[*example.prompt_ids, *example.reply_ids]])
        hidden = model.network.model(input_ids=ids).last_hidden_state[0, len(example.prompt_ids) + place]
        return float(torch.sigmoid(model.network.score(hidden)))


def test_what_the_models_say_of_replies(small_reward_model):
    expected = [probability(small_reward_model, EXAMPLES[0], place) for place in (1, 3, 5)]
    for how, value in (("min", min(expected)), ("product", math.prod(expected)), ("last", expected[-1])):
        options = RewardsOptions(learned=0, process=2.0, process_reply=how)
        score = Scorer(options, [], None, Resources(), [process_model(small_reward_model)])
        (part,) = score(EXAMPLES, PROMPTS).values()
        assert part.weight == 2.0
        assert part.values_B[0] == pytest.approx(value, abs=1e-5)
        assert np.isnan(part.values_B[1])  # of a domain that it has not learned
        assert part.steps[0] == pytest.approx(dict(zip((1, 3, 5), expected, strict=True)), abs=1e-5)
        assert part.steps[1] == {}
        (nothing,) = score(EXAMPLES[1:], PROMPTS[1:]).values()
        assert np.isnan(nothing.values_B).all()
        assert nothing.steps == [{}]
    outcome = process_model(small_reward_model, "outcome", ("sums", "essays"))
    score = Scorer(RewardsOptions(learned=0, outcome=0.5), [], None, Resources(), [outcome])
    part = score(EXAMPLES, PROMPTS)["outcome"]
    ends = [probability(small_reward_model, example, len(example.reply_ids) - 1) for example in EXAMPLES]
    assert part.values_B.tolist() == pytest.approx(ends, abs=1e-5)
    assert (part.weight, part.steps) == (0.5, None)


def test_what_is_not_a_number_stops_the_run(small_reward_model):
    with torch.no_grad():
        small_reward_model.network.score.weight.fill_(torch.nan)
    for kind in ("outcome", "process"):
        options = RewardsOptions(learned=0, **{kind: 1.0})
        score = Scorer(options, [], None, Resources(), [process_model(small_reward_model, kind)])
        with pytest.raises(ValueError, match=rf"the {kind} reward model gave a score that is not a number"):
            score(EXAMPLES, PROMPTS)


def test_prompts_that_only_the_solution_models_can_score(small_reward_model):
    score = Scorer(RewardsOptions(learned=0, process=1.0), [], None, Resources(), [process_model(small_reward_model)])
    assert score.scorable(PROMPTS, "train") == PROMPTS[:1]
    with pytest.raises(ValueError, match=r"dev: none of 1 prompts has a domain that process learned .sums.; add"):
        score.scorable(PROMPTS[1:], "dev")
    right = Prompt([12], "essays", json.dumps({"kind": "exact", "answer": "x"}))
    both = dataclasses.replace(score, options=RewardsOptions(learned=0, process=1.0, verifier=1.0))
    assert both.scorable([*PROMPTS, right], "train") == [PROMPTS[0], right]


def halves(examples, prompts):
    """Two steps of each reply: of its first token, and of the rest; beside them a score of the reply."""
    steps = [{0: 0.25, len(e.reply_ids) - 1: 0.75} if len(e.reply_ids) > 1 else {0: 0.5} for e in examples]
    values = np.array([min(row.values()) for row in steps])
    return {"process": ScorePart(values, weight=2.0, steps=steps), "other": ScorePart(np.ones(len(examples)))}


@pytest.mark.parametrize("name", ["grpo", "best_of_n"])
def test_a_step_is_paid_once(small_model, name):
    """Step by step, or as a part of the reply's score; what is logged is the same."""
    algorithm, run = learner(small_model, halves, name, section(missing_eos_penalty=0.0))
    rollout, metrics = collect(run, [Prompt([5, 6, 7]), Prompt([11])], algorithm.options, seed=0)
    parts = halves(rollout.examples, None)
    values = parts["process"].values_B
    assert metrics["score"] == pytest.approx(1 + 2 * values.mean())
    assert metrics["score_process"] == pytest.approx(values.mean())
    if name == "grpo":
        assert rollout.scores_B.tolist() == [1.0] * 8
        assert rollout.step_weight == 2.0
        for row, steps in enumerate(parts["process"].steps):
            assert {int(t): rollout.step_scores_BT[row, t].item() for t in rollout.step_mask_BT[row].nonzero()} == steps
        assert metrics["num_steps"] == pytest.approx(np.mean([len(row) for row in parts["process"].steps]))
    else:
        assert rollout.scores_B.tolist() == pytest.approx((1 + 2 * values).tolist())
        assert rollout.step_scores_BT is None


def test_best_of_n_takes_the_reply_whose_steps_rank_first():
    rollout = make([[-1.0]] * 3, [[1]] * 3, scores=[0.2, 0.7, 0.5], prompts=[0, 0, 0])
    assert best_of_n.advantages(rollout, 0.0, best_of_n.Config()).kept_B.tolist() == [False, True, False]


def test_who_can_use_scores_of_steps():
    able = {name: algorithms.step_scores(name) for name in algorithms.known() if algorithms.step_scores(name)}
    assert able == {"ppo": "each", "grpo": "each", "reinforce": "each", "best_of_n": "reply"}
    with pytest.raises(ValueError, match=r"align.rewards.process = 0.5: online_dpo cannot use scores of steps"):
        algorithms.check_step_scores("online_dpo", RewardsOptions(process=0.5))
    algorithms.check_step_scores("online_dpo", RewardsOptions(outcome=0.5))
    with pytest.raises(ValueError, match=r"process_reply = 'last': grpo takes the score of each step by itself"):
        algorithms.check_step_scores("grpo", RewardsOptions(process=0.5, process_reply="last"))
    algorithms.check_step_scores("best_of_n", RewardsOptions(process=0.5, process_reply="last"))
    with pytest.raises(ValueError, match=r"align.rewards.outcome = 2: no such model .* which is .'process'."):
        check_against(RewardsOptions(outcome=2.0), [0], {}, ["process"])
    with pytest.raises(ValueError, match=r"process_reply\n.*concerns the process reward model"):
        RewardsOptions(process_reply="last")


def test_padding_and_order_change_nothing():
    rollout = draw(seed=3)
    mask = rollout.reply_mask_BT & (torch.rand(rollout.reply_mask_BT.shape) < 0.5)
    steps = {"step_scores_BT": torch.rand_like(rollout.logprobs_BT) * mask, "step_mask_BT": mask, "step_weight": 1.0}
    rollout = dataclasses.replace(rollout, **steps)
    order = torch.randperm(len(rollout.examples))
    for module in (ppo, grpo, reinforce):
        lesson = module.advantages(rollout, 0.1, module.Config())
        again = module.advantages(rollout.rows(order), 0.1, module.Config())
        torch.testing.assert_close(again.advantages_BT, lesson.advantages_BT[order])
