"""The loop over rollouts: it learns with every algorithm, the same seed gives the same weights, how rows are batched
changes nothing, and it stops when it should."""

import contextlib
import copy
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from tasks.rlhf import algorithms, checkpoint, health, models, update
from tasks.rlhf.batch import Prompt, ScorePart
from tasks.rlhf.experience import Learner, collect, total_score
from tasks.rlhf.logprobs import token_logprobs
from tasks.rlhf.state import KLController, PromptDraws, new_state
from tasks.rlhf.stops import Patience
from tasks.rlhf.train_on_rollouts import fresh_rollout, train_on_rollouts

POLICIES = sorted(file.stem for file in algorithms.find("ppo")[1].parent.glob("[a-z]*.py"))


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


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def likes_sevens(examples, prompts):
    return {"sevens": ScorePart(np.array([np.mean([token == 7 for token in e.reply_ids]) * 10 for e in examples]))}


def learner(model, score, name, section):
    algorithm = algorithms.load(name, section)
    reference = copy.deepcopy(model)

    @torch.no_grad()
    def reference_logprobs(examples):
        return token_logprobs(reference, examples)

    return algorithm, Learner(
        policy=copy.deepcopy(model),
        algorithm=algorithm.module,
        config=algorithm.config,
        critic=models.Critic(copy.deepcopy(model)) if algorithm.module.NEEDS_CRITIC else None,
        reference_logprobs=reference_logprobs,
        score=score,
        eos_id=1,
        pad_id=0,
        max_new_tokens=8,
    )


def section(**changes):
    base = {"num_steps": 2, "prompts_per_step": 8, "replies_per_prompt": 4, "lr": 1e-3, "kl_coef": 0.02}
    return {**base, "num_updates": 2, "num_minibatches": 2, "min_finished": 0.0, **changes}


PROMPTS = [Prompt(ids, domain) for ids, domain in (([5, 6, 7], "x"), ([11], "y"), ([21, 22, 23], "x"))] * 20


def train(model, name, score=likes_sevens, held_out=(), **changes):
    """(rows logged, trained policy, why it ended early)"""
    algorithm, run = learner(model, score, name, section(**changes))
    recorder = Recorder()
    stopped = train_on_rollouts(run, PROMPTS, held_out, algorithm.options, 0, recorder)
    return recorder.rows, run.policy, stopped


@pytest.mark.parametrize("name", POLICIES)
def test_raises_the_score_within_its_kl(name, small_model):
    rows, _, stopped = train(small_model, name, num_steps=25, lr=3e-3)
    first, last = rows[0], rows[-1]
    # At step 1 the policy is the reference, and sampler and trainer measure the same log-probs.
    assert abs(first["kl"]) < 1e-3
    assert first["ratio_error"] < 1e-3
    assert last["score"] > first["score"] + 1
    assert last["kl"] > first["kl"]
    assert stopped is None


@pytest.mark.parametrize("name", POLICIES)
def test_same_seed_same_weights(name, tiny_model):
    (_, first, _), (_, second, _) = (train(tiny_model, name) for _ in range(2))
    assert torch.equal(weights(first), weights(second))
    assert not torch.equal(weights(first), weights(tiny_model))


@pytest.mark.parametrize("name", POLICIES)
def test_micro_batches_change_nothing(name, tiny_model):
    whole, whole_policy, _ = train(tiny_model, name, num_steps=1)
    cut, cut_policy, _ = train(tiny_model, name, num_steps=1, micro_batch_tokens=30)
    for key in whole[0]:
        assert cut[0][key] == pytest.approx(whole[0][key], rel=1e-3, abs=1e-5), key
    torch.testing.assert_close(weights(cut_policy), weights(whole_policy), rtol=1e-3, atol=1e-4)


def test_kl_controller_by_hand():
    controller = KLController(0.1, target=6.0, horizon=1000)
    controller.update(kl=6.6, num_replies=100)  # error 0.1
    assert controller.value == pytest.approx(0.1 * 1.01)
    controller.update(kl=60.0, num_replies=100)  # error clipped to 0.2
    assert controller.value == pytest.approx(0.1 * 1.01 * 1.02)
    fixed = KLController(0.1, target=None, horizon=1000)
    fixed.update(60.0, 100)
    assert fixed.value == 0.1


def test_prompts_come_without_replacement():
    draws = PromptDraws(10, seed=0)
    assert sorted(np.concatenate([draws.take(4), draws.take(6)]).tolist()) == list(range(10))
    with pytest.raises(ValueError, match="no prompts to roll out"):
        PromptDraws(0, seed=0)


def learned(values):
    return lambda examples, prompts: {"reward_model": ScorePart(np.resize(values, len(examples)), learned=True)}


def test_a_learned_score_that_is_not_a_number_stops_the_run(tiny_model):
    with pytest.raises(ValueError, match="a score that is not a number"):
        train(tiny_model, "ppo", learned([0.5, np.nan]))


def test_parts_are_summed_by_weight_and_unscorable_replies_counted():
    parts = {
        "learned": ScorePart(np.array([1.0, 2.0, 3.0, 4.0]), weight=0.5, learned=True),
        "exact": ScorePart(np.array([1.0, np.nan, 0.0, np.nan]), weight=2.0),
    }
    total, metrics = total_score(parts)
    assert total.tolist() == [2.5, 2.0, 1.5, 3.0]  # the mean verdict, 0.5, where there is none
    expected = {"score": 2.25, "score_learned": 2.5, "score_exact": 0.5, "learned_score": 1.25, "unscorable": 0.0}
    assert metrics == expected
    # the least of normalised members is below 0 on average: their mean is what is to be near it
    least = ScorePart(np.array([-2.0, -1.0]), learned=True, members_B=np.array([-0.5, 0.5]))
    assert total_score({"learned": least})[1] == {"score": -1.5, "learned_score": 0.0, "unscorable": 0.0}
    total, metrics = total_score({"exact": parts["exact"]})
    assert np.isnan(total).tolist() == [False, True, False, True]
    assert metrics == {"score": 1.0, "unscorable": 2.0}
    with pytest.raises(ValueError, match="none of 3 replies could be scored by exact"):
        total_score({"exact": ScorePart(np.full(3, np.nan))})


@pytest.mark.parametrize("name", POLICIES)
def test_a_run_goes_on_where_some_replies_cannot_be_scored(name, tiny_model):
    """Those to prompts of domain y, and one of each four to the others."""

    def score(examples, prompts):
        values = likes_sevens(examples, prompts)["sevens"].values_B
        values[[i for i, prompt in enumerate(prompts) if prompt.domain == "y" or i % 4 == 0]] = np.nan
        return {"exact": ScorePart(values + np.arange(len(values)) % 3)}

    rows, policy, _ = train(tiny_model, name, score)
    assert all(8 < row["unscorable"] < 32 for row in rows)
    assert all(row["loss"] != 0 for row in rows)
    assert torch.isfinite(weights(policy)).all()


def test_penalties_are_taken_off_and_logged_apart(tiny_model):
    algorithm, run = learner(
        tiny_model, learned([1.0]), "ppo", section(missing_eos_penalty=3.0, length_penalty=0.1, kl_by_domain={"y": 2.0})
    )
    rollout, metrics = collect(run, PROMPTS[:3], algorithm.options, seed=0)
    ends = [example.reply_ids[-1] == 1 for example in rollout.examples]
    sizes = [len(example.reply_ids) for example in rollout.examples]
    expected = [1.0 - 3.0 * (not end) - 0.1 * size for end, size in zip(ends, sizes, strict=True)]
    assert rollout.scores_B.tolist() == pytest.approx(expected)
    assert 0 < sum(ends) < 12
    assert metrics["missing_eos_penalty"] == pytest.approx(3.0 * (1 - np.mean(ends)))
    assert metrics["length_penalty"] == pytest.approx(0.1 * np.mean(sizes))
    assert metrics["score"] == 1.0
    assert rollout.kl_scale_B.tolist() == [1.0] * 4 + [2.0] * 4 + [1.0] * 4
    assert rollout.prompt_B.tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_prompts_without_spread_are_left_out_or_drawn_again(tiny_model):
    """Replies to prompts of domain x all score the same; a third of the prompts is of domain y."""

    def score(examples, prompts):
        tie = np.array([prompt.domain == "x" for prompt in prompts])
        return {"exact": ScorePart(np.where(tie, 1.0, np.arange(len(examples)) % 4))}

    options = {"num_steps": 1, "prompts_per_step": 6, "missing_eos_penalty": 0.0}

    def kept(**changes):
        rows, _, _ = train(tiny_model, "grpo", score, **options, **changes)
        return rows[0]["kept"]

    assert kept() == 1.0
    assert kept(dynamic_sampling=True) == pytest.approx(2 / 6, abs=1 / 6)
    # with enough redraws all six are found, of all that were drawn
    algorithm, run = learner(tiny_model, score, "grpo", section(**options, dynamic_sampling=True, max_redraws=20))
    state = new_state(run, len(PROMPTS), algorithm.options, seed=0)
    rollout, lesson, _ = fresh_rollout(run, PROMPTS, algorithm.options, 0, state)
    taught = rollout.prompt_B[lesson.kept_B].unique()
    assert len(taught) == 6
    assert len(rollout.prompt_B.unique()) > 12
    asked = {tuple(rollout.examples[i].prompt_ids) for i in lesson.kept_B.nonzero().flatten().tolist()}
    assert asked == {(11,)}


def test_a_rollout_that_teaches_nothing_changes_nothing(tiny_model):
    rows, policy, _ = train(tiny_model, "grpo", learned([0.5]), dynamic_sampling=True, missing_eos_penalty=0.0)
    assert [row["kept"] for row in rows] == [0.0, 0.0]
    assert torch.equal(weights(policy), weights(tiny_model))


def test_critic_warmup_leaves_the_policy_alone(tiny_model):
    rows, policy, _ = train(tiny_model, "ppo", critic_warmup=1, num_steps=2)
    assert rows[0]["loss"] == 0
    assert rows[0]["value_loss"] > 0
    assert rows[1]["loss"] != 0
    assert rows[0]["lr"] == rows[1]["lr"] == 1e-3  # the policy's schedule starts with its own first step
    assert not torch.equal(weights(policy), weights(tiny_model))


def test_updates_end_where_the_policy_has_moved_too_far(tiny_model):
    """Three passes of four minibatches: the one that sees a move beyond the bound is the last."""
    options = {"num_steps": 1, "num_updates": 3, "num_minibatches": 4, "lr": 3e-3}
    free, _, _ = train(tiny_model, "grpo", **options, max_kl_old_new=1e3)
    bound, _, _ = train(tiny_model, "grpo", **options, max_kl_old_new=1e-6)
    once, _, _ = train(tiny_model, "grpo", **options | {"num_updates": 1}, max_kl_old_new=1e3)
    assert 0 < bound[0]["kl_old_new"] < once[0]["kl_old_new"] < free[0]["kl_old_new"]
    assert bound[0]["ratio_error"] == free[0]["ratio_error"]


@pytest.mark.parametrize("number", [3, 6, 7])
def test_a_pass_has_as_many_minibatches_as_are_asked_for(number, tiny_model, monkeypatch):
    taken = []
    own = update._learn
    monkeypatch.setattr(
        update, "_learn", lambda *args, **kwargs: taken.append(len(args[1].examples)) or own(*args, **kwargs)
    )
    train(tiny_model, "grpo", num_steps=1, num_updates=1, num_minibatches=number, max_kl_old_new=1e3)
    assert len(taken) == number
    assert sum(taken) == 8 * 4
    assert max(taken) - min(taken) <= 4  # replies of one prompt


def test_the_kl_budget_ends_the_run_and_keeps_the_policy(small_model):
    options = {"num_steps": 30, "lr": 1e-2, "max_kl": 0.5}
    rows, policy, stopped = train(small_model, "reinforce", **options)
    assert len(rows) < 30
    assert all(row["kl"] <= 0.5 for row in rows[:-1])
    assert rows[-1]["kl"] > 0.5
    assert "loss" not in rows[-1]  # nothing was learned from the rollout over budget
    expected = rf"max_kl: KL\(policy \|\| reference\) is .* at step {len(rows)}, over the budget of 0.5"
    assert re.match(expected, stopped)
    assert not torch.equal(weights(policy), weights(small_model))


def test_patience_ends_the_run_when_kl_grows_for_nothing(small_model):
    """On the training prompts sevens count, on the held-out one they cost."""

    def score(examples, prompts):
        sevens = likes_sevens(examples, prompts)["sevens"].values_B
        return {"sevens": ScorePart(np.where([prompt.domain == "z" for prompt in prompts], -sevens, sevens))}

    held_out = [Prompt([12, 13], "z")] * 60
    options = {"num_steps": 30, "lr": 1e-2, "held_out_every": 2, "patience": 2}
    rows, _, stopped = train(small_model, "reinforce", score, held_out, **options)
    assert len(rows) < 30
    assert stopped.startswith("patience: 2 evaluations")
    scores = [row["held_out_score"] for row in rows if "held_out_score" in row]
    assert len(scores) == len(rows) // 2
    assert scores[-1] < max(scores)
    assert rows[-1]["held_out_kl"] > 0


def test_patience_by_hand():
    patience = Patience()
    assert patience.update(score=1.0, kl=2.0, patience=2, step=5) is None
    assert patience.update(0.5, 1.5, 2, 10) is None  # worse at less KL: not over-optimised
    assert patience.update(0.9, 3.0, 2, 15) is None
    assert patience.update(1.1, 4.0, 2, 20) is None  # better: starts again
    assert patience.update(1.0, 5.0, 2, 25) is None
    assert patience.update(1.0, 6.0, 2, 30) == (
        "patience: 2 evaluations up to step 30 without a better held-out score than 1.1 (at KL 4), while KL grew to "
        "6 nats per reply"
    )
    assert patience.update(1.0, 6.0, None, 35) is None


def test_held_out_prompts_are_asked_for_and_must_exist(tiny_model):
    with pytest.raises(ValueError, match=r"held_out_every = 1: data/prepared/prompts/dev has no prompts; raise"):
        train(tiny_model, "ppo", held_out_every=1)


def test_prompts_too_long_for_the_model_are_named(tiny_model):
    with pytest.raises(ValueError, match=r"max_new_tokens = 8: .* would have 68 tokens, the model has room for 64"):
        train(tiny_model, "ppo", held_out=[Prompt([5] * 60)])


def test_a_kl_factor_for_no_domain_is_named(tiny_model):
    with pytest.raises(ValueError, match=r"kl_by_domain\.z: no prompt has this domain; there are x, y"):
        train(tiny_model, "ppo", kl_by_domain={"z": 2.0})


# --- Health: each sign is provoked, and the line names a cause.


def test_dropout_is_found_at_the_first_minibatch(tiny_model):
    model = copy.deepcopy(tiny_model)
    algorithm, run = learner(model, likes_sevens, "grpo", section())
    layer = run.policy.model.layers[0].mlp
    layer.register_forward_hook(
        lambda module, given, out: torch.nn.functional.dropout(out, 0.5) if torch.is_grad_enabled() else None
    )
    with pytest.raises(ValueError, match=r"step 1: ratio_error is .* at the first minibatch, above 0.01: sampler and"):
        train_on_rollouts(run, PROMPTS, [], algorithm.options, 0, Recorder())


@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_a_reference_that_gives_no_number_stops_the_run(name, tiny_model):
    algorithm, run = learner(tiny_model, likes_sevens, name, section(max_kl=5.0))
    broken = replace(run, reference_logprobs=lambda examples: run.reference_logprobs(examples) * float("nan"))
    with pytest.raises(ValueError, match="step 1: kl is nan"):
        train_on_rollouts(broken, PROMPTS, [], algorithm.options, 0, Recorder())


def test_a_critic_that_gives_no_number_is_named_while_it_warms_up(tiny_model):
    algorithm, run = learner(tiny_model, likes_sevens, "ppo", section(num_steps=3, critic_warmup=2))
    with torch.no_grad():
        next(run.critic.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match=r"step 1: value_loss is nan; .*\(critic_lr\)"):
        train_on_rollouts(run, PROMPTS, [], algorithm.options, 0, Recorder())


def test_replies_without_a_token_stop_the_run(tiny_model):
    algorithm, run = learner(tiny_model, likes_sevens, "grpo", section())

    def sampler(*args, **kwargs):
        first, *others = run.sample(*args, **kwargs)
        return [replace(first, ids=[], logprobs=[]), *others]

    with pytest.raises(ValueError, match=r"align: 1 of 32 replies are empty, .*align\.generation"):
        train_on_rollouts(replace(run, sample=sampler), PROMPTS, [], algorithm.options, 0, Recorder())


def test_another_reference_is_found_at_step_1(tiny_model):
    algorithm, run = learner(tiny_model, likes_sevens, "rloo", section())
    with torch.no_grad():
        run.policy.model.embed_tokens.weight.mul_(1.2)
    with pytest.raises(ValueError, match=r"step 1: KL\(policy \|\| reference\) is .* policy and reference differ"):
        train_on_rollouts(run, PROMPTS, [], algorithm.options, 0, Recorder())


def test_a_reward_model_off_its_scale_is_found_at_step_1(tiny_model):
    with pytest.raises(
        ValueError, match=r"step 1: replies of the reference score 3 on average, beyond max_first_score"
    ):
        train(tiny_model, "reinforce", learned([2.5, 3.5]))
    train(tiny_model, "reinforce", learned([2.5, 3.5]), max_first_score=None)
    train(tiny_model, "reinforce", lambda e, p: {"exact": ScorePart(np.full(len(e), 3.0))})  # no scale to be off


def test_a_policy_that_does_not_stop_is_found(tiny_model):
    with pytest.raises(
        ValueError, match=r"step 1: .*% of the replies end, .* min_finished = 0.99: SFT never taught EOS"
    ):
        train(tiny_model, "grpo", min_finished=0.99)


def test_rounding_in_bfloat16_is_no_sign(tiny_model):
    metrics = {"ratio_error": 0.03, "kl_old_new": 6e-4}
    health.check_first_minibatch(metrics, 1, torch.bfloat16)
    with pytest.raises(ValueError, match=r"step 7: ratio_error is 0\.03"):
        health.check_first_minibatch(metrics, 7, torch.float32)
    train(copy.deepcopy(tiny_model).bfloat16(), "ppo")


# --- Options: what contradicts or would be ignored is refused before anything runs.


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "ppo",
            {"kl_coef": 0},
            r"align\.ppo\.kl_coef = 0: a learned reward without a KL term is exploited; .*`kl: off`",
        ),
        ("grpo", {"kl": False}, r"align\.grpo\.kl = off: set kl_coef to 0"),
        ("online_dpo", {"kl": "off", "kl_coef": 0}, r"align\.online_dpo\.kl = off: online_dpo learns only through"),
        ("rloo", {"replies_per_prompt": 1}, r"align\.rloo\.replies_per_prompt = 1: rloo compares replies"),
        ("grpo", {"critic_lr": 1e-3}, r"align\.grpo\.critic_lr = 0\.001: unknown key"),
        ("reinforce", {"clip": 0.2}, r"align\.reinforce\.clip = 0\.2: unknown key"),
        ("ppo", {"patience": 2}, r"align\.ppo\.patience = 2: counts evaluations; give held_out_every too"),
        ("ppo", {"critic_warmup": 2}, r"align\.ppo\.critic_warmup = 2: must leave some of num_steps = 2"),
        ("ppo", {"num_minibatches": 9}, r"align\.ppo\.num_minibatches = 9: .* prompts_per_step = 8"),
        ("grpo", {"aggregation": "mean"}, r"align\.grpo\.aggregation = 'mean': Input should be 'grpo', 'dr_grpo' or"),
    ],
)
def test_options_that_contradict_name_the_key(name, changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        algorithms.load(name, section(**changes))
    assert "\n" not in str(caught.value)


def test_kl_off_is_read_as_yaml_reads_it():
    for value in (False, "off"):
        assert algorithms.load("grpo", section(kl=value, kl_coef=0)).options.kl is False
