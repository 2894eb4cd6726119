"""The score of a reply: its parts, by hand; a policy that learns from a rule; what contradicts is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tasks.rlhf import rewards
from tasks.rlhf.batch import Example, Prompt
from tasks.rlhf.experience import collect, total_score
from tasks.rlhf.reward_model import score_examples
from tasks.rlhf.rewards import Scorer, aggregate, read_tables
from tasks.rlhf.rewards_options import RewardsOptions, decides
from tasks.rlhf.train_on_rollouts import train_on_rollouts
from tasks.rlhf.verification import Resources
from tests.tasks.rlhf.test_train_on_rollouts import Recorder, learner, section, weights

SEVEN = Prompt([5, 6, 7], "x", '{"kind": "exact", "answer": "7"}', "seven")
UNKNOWN = Prompt([11], "y", '{"kind": "steps", "steps": []}', "unknown")
PLAIN = Prompt([12], "y", None, "plain")


def decode(replies):
    """Token 1 is EOS; the others say their number."""
    return [" ".join(str(token) for token in ids if token != 1) for ids in replies]


def scorer(options, models=(), resources=None):
    return Scorer(RewardsOptions(**options), models, decode, resources or Resources())


def test_members_are_put_together_by_hand():
    members = [np.array([1.0, -2.0]), np.array([3.0, -2.0])]
    assert aggregate(members, RewardsOptions()).tolist() == [2, -2]
    assert aggregate(members, RewardsOptions(aggregate="min")).tolist() == [1, -2]
    assert aggregate(members, RewardsOptions(aggregate="mean_minus_std", std_weight=0.5)).tolist() == [1.5, -2]


def test_each_part_stands_by_itself(small_reward_model):
    examples = [
        Example([5, 6, 7], [8, 7, 1]),
        Example([5, 6, 7], [7, 8, 1]),
        Example([11], [7, 1]),
        Example([12], [7, 1]),
    ]
    prompts = [SEVEN, SEVEN, UNKNOWN, PLAIN]
    learned = score_examples(small_reward_model, examples)
    assert len(set(learned)) == 4
    parts = scorer({"learned": 2.0, "verifier": 3.0}, [small_reward_model])(examples, prompts)
    assert parts["reward_model"].values_B.tolist() == pytest.approx(learned.tolist())
    assert parts["reward_model"].learned
    np.testing.assert_array_equal(parts["verifier"].values_B, [1, 0, np.nan, np.nan])
    total, metrics = total_score(parts)
    assert total.tolist() == pytest.approx((2 * learned + [3, 0, 1.5, 1.5]).tolist())
    assert metrics["score_verifier"] == 0.5
    assert metrics["score_reward_model"] == pytest.approx(learned.mean())
    assert metrics["unscorable"] == 0
    # by default the reward models alone, to the bit
    (part,) = scorer({}, [small_reward_model])(examples, prompts).values()
    assert part.values_B.tobytes() == learned.tobytes()
    # and the verifiers alone
    total, metrics = total_score(scorer({"learned": 0, "verifier": 2.0})(examples, prompts))
    np.testing.assert_array_equal(total, [2, 0, np.nan, np.nan])
    assert metrics["unscorable"] == 2


def test_a_veto_puts_wrong_replies_below_all_that_are_not(small_reward_model):
    examples = [Example([5, 6, 7], [8, 7, 1]), Example([5, 6, 7], [7, 8, 1]), Example([11], [7, 1])]
    learned = score_examples(small_reward_model, examples)
    for shift in (learned.min() - 1, learned.max() + 1, learned.max() + 5):  # scores above 0, below 0, below the floor
        model = replace(small_reward_model, shift=small_reward_model.shift + shift)
        parts = scorer({"veto": True, "verifier": 1.0}, [model])(examples, [SEVEN, SEVEN, UNKNOWN])
        right, wrong, unscored = learned - shift
        expected = [max(right, -3), min(wrong, -3), unscored]
        assert parts["reward_model"].values_B.tolist() == pytest.approx(expected)
        # a veto asks the verifiers also where they have no weight of their own
        alone = scorer({"veto": True}, [model])(examples, [SEVEN, SEVEN, UNKNOWN])
        assert total_score(alone)[0].tolist() == pytest.approx(parts["reward_model"].values_B.tolist())


def test_a_vetoed_reply_is_never_ahead():
    scores = np.array([2.0, -1.2, -5.0, 4.0, -7.0])
    verdicts = np.array([0.0, 1.0, 0.5, np.nan, 0.0])
    assert rewards.vetoed(scores, verdicts).tolist() == [-3.0, -1.2, -3.0, 4.0, -7.0]


def test_heads_are_weighed_anew(tmp_path, small_reward_model):
    from transformers import LlamaForSequenceClassification

    torch.manual_seed(1)
    config = small_reward_model.network.config
    config = type(config)(**{**config.to_dict(), "num_labels": 2})
    network = LlamaForSequenceClassification(config).eval()
    network.save_pretrained(tmp_path)
    (tmp_path / "reward.json").write_text(json.dumps({"objectives": {"helpful": 1.0, "safe": 1.0}, "shift": 0.5}))
    examples = [Example([5, 6, 7], [8, 7, 1]), Example([11], [7, 1])]

    def score(**heads):
        (model,) = rewards.load_models([tmp_path], RewardsOptions(heads=heads), "float32")
        return score_examples(model, examples)

    both, safe = score(), score(helpful=0.0, safe=1.0)
    assert score(safe=3.0, helpful=1.0).tolist() == pytest.approx((both + 2 * (safe + 0.5)).tolist(), abs=1e-6)
    with pytest.raises(ValueError, match=r"align\.rewards\.heads names kind; .* has the heads helpful, safe"):
        score(kind=1.0)


# --- Before training


def test_prompts_that_something_can_score():
    prompts = [SEVEN, UNKNOWN, PLAIN, SEVEN]
    alone = scorer({"learned": 0, "verifier": 1.0})
    assert alone.scorable(prompts, "train") == [SEVEN, SEVEN]
    assert dict(alone.kinds) == {"exact": 2}
    with pytest.raises(ValueError, match=r"dev: none of 2 prompts has a verifier of a known kind .citation, exact"):
        alone.scorable([UNKNOWN, PLAIN], "dev")
    assert alone.scorable([], "dev") == []
    beside = scorer({"verifier": 1.0}, ["a reward model"])
    assert beside.scorable(prompts, "train") == prompts
    assert scorer({}).scorable(prompts, "train") == prompts


def test_a_malformed_verifier_names_its_prompt():
    bad = Prompt([5], "x", '{"kind": "numeric", "answer": "some"}', "p7")
    with pytest.raises(ValueError, match=r"train.parquet: prompt p7: verifier: answer = 'some': must hold exactly one"):
        scorer({"verifier": 1.0}, ["a reward model"]).scorable([SEVEN, bad], "train.parquet")
    assert scorer({}).scorable([bad], "train.parquet") == [bad]  # nobody asks it


def test_code_is_refused_before_the_first_rollout():
    def refuse(program):
        raise ValueError("sandbox: code is not run")

    code = Prompt([5], "x", '{"kind": "tests", "tests": [{"call": "f()", "returns": 1}]}', "p8")
    with pytest.raises(ValueError, match="sandbox: code is not run"):
        scorer({"verifier": 1.0}, resources=Resources(run_code=refuse)).scorable([code], "train")
    assert scorer({"verifier": 1.0}, resources=Resources(run_code=refuse)).scorable([SEVEN], "train") == [SEVEN]


def test_tables_are_read_and_part_of_the_objective(tmp_path):
    file = tmp_path / "atlas.jsonl"
    file.write_text('{"subject": "a"}\n{"subject": "b"}\n')
    assert read_tables({"atlas": "atlas.jsonl"}, tmp_path) == {"atlas": [{"subject": "a"}, {"subject": "b"}]}
    options = RewardsOptions(verifier=1.0, tables={"atlas": "atlas.jsonl"})
    before = decides(options, tmp_path)
    assert before["options"] == {"verifier": 1.0, "tables": {"atlas": "atlas.jsonl"}}
    assert before["verifiers"].keys() == {"citation", "exact", "fact", "numeric", "schema", "tests"}
    file.write_text("[1]\n")
    assert decides(options, tmp_path)["tables"] != before["tables"]
    assert decides(RewardsOptions(), tmp_path) == {}
    with pytest.raises(ValueError, match=r"atlas.jsonl:1: must be a JSON object, not list"):
        read_tables({"atlas": "atlas.jsonl"}, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no.jsonl: no such file; params.yaml names it as .*tables\.x"):
        read_tables({"x": "no.jsonl"}, tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"learned": 0.0, "verifier": 0.0},
            "verifier\n.*learned, outcome and process are 0, too: nothing scores a reply",
        ),
        ({"aggregate": "mean_minus_std", "std_weight": None}, "std_weight\n.*belongs to `aggregate: mean_minus_std`"),
        ({"std_weight": 1.0}, "std_weight\n.*belongs to `aggregate: mean_minus_std`"),
        ({"learned": 0, "verifier": 1, "veto": True}, "veto\n.*concerns the reward models"),
        ({"learned": 0, "verifier": 1, "heads": {"choice": 1.0}}, "heads\n.*concerns the reward models"),
        ({"verifier": 1, "tables": {"x": "../x.jsonl"}}, "tables\n.*must be the path of a .jsonl file inside"),
        ({"verifier": 1, "tables": {"x": "/x.jsonl"}}, "tables\n.*must be the path of a .jsonl file inside"),
        ({"judge": 1}, "judge\n.*Extra inputs"),
    ],
)
def test_options_that_contradict_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        RewardsOptions(**{"std_weight": None, **options})


# --- Training


EVEN = json.dumps({"kind": "exact", "answer": [str(number) for number in range(2, 32, 4)]})
PROMPTS = [Prompt([5, 6, 7], "x", EVEN, "a"), Prompt([11], "y", None, "b"), Prompt([21, 22], "x", EVEN, "c")] * 20
ALONE = {"learned": 0, "verifier": 1.0}


def test_a_policy_learns_from_a_rule(small_model):
    """To end with one of eight of the thirty-two tokens; a third of the prompts has no verifier."""
    algorithm, run = learner(
        small_model, scorer(ALONE), "grpo", section(num_steps=40, lr=1e-2, missing_eos_penalty=0.1)
    )
    recorder = Recorder()
    train_on_rollouts(run, PROMPTS, [], algorithm.options, 0, recorder)
    scores = [row["score"] for row in recorder.rows]
    assert np.mean(scores[:3]) < 0.5
    assert np.mean(scores[-3:]) > 0.9
    assert 0 < recorder.rows[0]["unscorable"] < 32


def test_what_cannot_be_scored_has_no_advantage_and_moves_nothing(small_model):
    algorithm, run = learner(small_model, scorer(ALONE), "grpo", section(prompts_per_step=3, missing_eos_penalty=0.0))
    rollout, metrics = collect(run, PROMPTS[:3], algorithm.options, seed=1)
    assert metrics["unscorable"] == 4
    assert rollout.scores_B.isnan().tolist() == [False] * 4 + [True] * 4 + [False] * 4
    lesson = run.algorithm.advantages(rollout, 0.0, run.config)
    moved = lesson.advantages_BT.abs().sum(1)
    assert moved[4:8].tolist() == [0] * 4
    assert moved.sum() > 0
    # the same replies without the others: the same advantages
    kept = torch.tensor([0, 1, 2, 3, 8, 9, 10, 11])
    alone = run.algorithm.advantages(rollout.rows(kept), 0.0, run.config)
    torch.testing.assert_close(alone.advantages_BT, lesson.advantages_BT[kept])
    # a rollout in which one of two prompts cannot be scored and the other ties teaches nothing
    never = json.dumps({"kind": "exact", "answer": "nothing says this"})
    algorithm, run = learner(
        small_model, scorer(ALONE), "grpo", section(num_steps=1, missing_eos_penalty=0.0, kl_coef=1e-9)
    )
    train_on_rollouts(run, [Prompt([5], "x", never), PLAIN] * 8, [], algorithm.options, 0, Recorder())
    assert torch.allclose(weights(run.policy), weights(small_model), atol=1e-6)
