"""Details that naive code gets wrong and that no other test holds; infra/DEFAULTS.md lists them all."""

import copy
import inspect
import math
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tasks import align
from tasks.adapters import stage
from tasks.rlhf import algorithms, base_model, dataset, models, reward_model, train_on_rollouts, update
from tasks.rlhf.batch import Example, ScorePart
from tasks.rlhf.experience import collect
from tasks.rlhf.logprobs import reply_states, reply_sums, token_logprobs, token_logprobs_and_entropy
from tasks.rlhf.options import OptimizerOptions
from tasks.rlhf.policy import grpo, ppo, reinforce, rloo
from tasks.rlhf.rollout import sample
from tasks.rlhf.train_on_dataset import new_optimizer
from tasks.rlhf.train_on_pairs import train_on_pairs
from tests.tasks.conftest import ROOT
from tests.tasks.rlhf.rollouts import make
from tests.tasks.rlhf.test_loops import Recorder, pairs
from tests.tasks.rlhf.test_train_on_rollouts import PROMPTS, learner, likes_sevens, section, train


def test_a_critic_starts_at_zero_and_learns_from_there(tiny_model, examples):
    critic = models.Critic(copy.deepcopy(tiny_model))
    values_N = critic(examples)
    assert values_N.shape == (9,)
    assert not values_N.any()
    values_N.sum().backward()
    assert critic.head.weight.grad.abs().max() > 0


def test_a_padding_token_that_is_the_end_is_refused(tiny_model):
    class Tokenizer:
        pad_token_id, eos_token_id, bos_token_id = 1, 1, None

    for pad in (1, None):
        Tokenizer.pad_token_id = pad
        with pytest.raises(ValueError, match="pad and eos must be two tokens, or the policy never learns to stop"):
            base_model._settle(copy.deepcopy(tiny_model), Tokenizer)


def gpt2():
    """Positions are absolute, and 10 % of dropout comes along."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32}
    return GPT2LMHeadModel(GPT2Config(**sizes, pad_token_id=0, eos_token_id=1, bos_token_id=None))


def test_a_reward_model_learns_and_scores_without_dropout(tmp_path):
    """With it two equal replies would score apart."""
    gpt2().save_pretrained(tmp_path / "sft")
    model = reward_model.new_reward_model(tmp_path / "sft", "float32", 0)
    model.network.train()  # as the stage does
    same = Example([5, 6], [7, 8, 1])
    a, b = model.forward([same, same]).tolist()
    assert a == pytest.approx(b, abs=1e-6)


def test_positions_of_a_padded_prompt_begin_at_its_own_first_token():
    model, prompts = gpt2().eval(), [[5, 6, 7], [11], [21, 22, 23, 24, 25, 26]]
    with torch.no_grad():
        model.transformer.wpe.weight.mul_(100)
    replies = sample(model, prompts, max_new_tokens=8, temperature=1.0, seed=0, eos_id=1, pad_id=0)
    measured_N = token_logprobs(model, [Example(p, r.ids) for p, r in zip(prompts, replies, strict=True)])
    sampled_N = torch.tensor([logprob for reply in replies for logprob in reply.logprobs])
    torch.testing.assert_close(measured_N.detach(), sampled_N, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_of_a_bfloat16_model_are_float32(tiny_model, examples, temperature):
    """Its logits are rounded, once; the softmax over them and the sums are not."""
    model = copy.deepcopy(tiny_model).bfloat16()
    found_N = token_logprobs(model, examples, temperature)
    assert found_N.dtype == torch.float32
    hidden_ND, targets_N = reply_states(model, examples)
    logits_NV = model.get_output_embeddings()(hidden_ND).double() / temperature
    exact_N = torch.log_softmax(logits_NV, -1)[range(len(targets_N)), targets_N]
    torch.testing.assert_close(found_N.double(), exact_N, rtol=0, atol=1e-5)


def test_sampler_and_trainer_measure_at_one_temperature(tiny_model):
    """Else the ratio is not 1 at the first minibatch, nor KL 0 at the first step, and the run stops."""
    algorithm, run = learner(tiny_model, likes_sevens, "grpo", section(temperature=0.7, num_steps=1, num_updates=1))
    frozen = copy.deepcopy(tiny_model)
    run = replace(run, reference_logprobs=lambda examples: token_logprobs(frozen, examples, 0.7).detach())
    recorder = Recorder()
    train_on_rollouts.train_on_rollouts(run, PROMPTS, [], algorithm.options, 0, recorder)
    assert recorder.rows[0]["ratio_error"] < 1e-3
    assert recorder.rows[0]["kl"] == pytest.approx(0, abs=1e-3)


def test_the_reference_is_measured_at_the_temperature_of_sampling(monkeypatch, tmp_path):
    built = []
    monkeypatch.setattr(dataset, "read_prompts", lambda path: [])
    monkeypatch.setattr(train_on_rollouts, "train_on_rollouts", lambda learner, *rest: built.append(learner))
    algorithm = algorithms.load("reinforce", section(temperature=0.7))
    params = stage.read_params(align.Params, "align", ROOT / "params.yaml")
    tokenizer = SimpleNamespace(batch_decode=str, eos_token_id=1, pad_token_id=0)
    reference = SimpleNamespace(logprobs=lambda examples, temperature: temperature)
    tracker = SimpleNamespace(curve={1: {}})
    given = {"params": params, "algorithm": algorithm, "reference": reference, "tokenizer": tokenizer, "folders": []}
    given |= {"data": tmp_path, "tracker": tracker}
    align._on_rollouts(**{name: given.get(name) for name in inspect.signature(align._on_rollouts).parameters})
    assert built[0].reference_logprobs([]) == 0.7


def test_figures_are_means_over_the_tokens_learned_from(tiny_model):
    """Neither padding nor a reply that nothing could score takes part."""

    def score(examples, prompts):
        return {"exact": ScorePart(np.where(np.arange(len(examples)) % 3 == 0, np.nan, 1.0))}

    algorithm, run = learner(tiny_model, score, "reinforce", section(missing_eos_penalty=0.0))
    rollout, _ = collect(run, PROMPTS[:3], algorithm.options, seed=0)
    lesson = algorithm.module.advantages(rollout, 0.0, algorithm.config)
    found = update._policy_loss(run, rollout, lesson, algorithm.options, 0.0)
    scored = [example for i, example in enumerate(rollout.examples) if i % 3]
    assert found.num_tokens == sum(len(example.reply_ids) for example in scored)
    entropy_N = token_logprobs_and_entropy(tiny_model, scored)[1]
    assert found.per_token["entropy"].item() == pytest.approx(entropy_N.sum().item(), rel=1e-4)


def test_dpo_takes_the_sum_over_a_reply(tiny_model):
    """And no token of the prompt: its loss at the first step, from sums of log-probs."""
    rows, frozen = [pair for pair in pairs(9) if pair.label == 1.0], copy.deepcopy(tiny_model)
    with torch.no_grad():
        for parameter in frozen.parameters():
            parameter.mul_(1.02)

    def logprobs_of(model):
        return lambda examples: token_logprobs(model, examples).detach()

    a, b = (
        reply_sums(logprobs_of(tiny_model), side) - reply_sums(logprobs_of(frozen), side)
        for side in ([row.a for row in rows], [row.b for row in rows])
    )
    expected = np.average(np.log1p(np.exp(-0.5 * (a - b))), weights=[row.weight for row in rows])
    options = {"beta": 0.5, "lr": 1e-3, "num_epochs": 1, "batch_tokens": 10**6}
    recorder = Recorder()
    sums = partial(reply_sums, logprobs_of(frozen))
    train_on_pairs(copy.deepcopy(tiny_model), sums, rows, algorithms.load("dpo", options), 0, recorder)
    assert abs(expected - math.log(2)) > 0.01
    assert recorder.rows[0]["loss"] == pytest.approx(expected, rel=1e-4)


def test_rewards_are_whitened_with_their_mean_kept():
    """Two replies of one token that score 1 and 3: mean 2, deviation 1, so whitened they still are 1 and 3; times 10
    they are 20 - 1 and 20 + 1."""
    part = make([[0.0]] * 2, [[1]] * 2, scores=[1.0, 3.0], values=[[0.0]] * 2)
    config = ppo.Config(whiten_rewards=True)
    assert ppo.advantages(part, 0.0, config).returns_BT.flatten().tolist() == pytest.approx([1.0, 3.0])
    tens = replace(part, scores_B=10 * part.scores_B)
    assert ppo.advantages(tens, 0.0, config).returns_BT.flatten().tolist() == pytest.approx([19.0, 21.0])


@pytest.mark.parametrize("module", [ppo, grpo, reinforce, rloo])
def test_a_ratio_beyond_all_bounds_stays_finite(module):
    """Log-ratio 1000, advantage -1: the clip bounds nothing from above there, e^1000 is infinite; here it is e^20."""
    logprobs = torch.tensor([[1000.0]], dtype=torch.float64, requires_grad=True)
    part = make([[0.0]], [[1]])
    out = module.loss(logprobs, torch.zeros(1, 1), part, torch.tensor([[-1.0]]), 0.0, module.Config())
    loss = out.loss_B.sum() / out.weight_B.sum()
    loss.backward()
    assert loss.item() == pytest.approx(math.exp(20))
    assert logprobs.grad.isfinite().all()


def test_kl_is_nats_per_reply(tiny_model):
    """The reference gives each token a quarter of a nat less: KL is that times the length of a reply."""
    algorithm, run = learner(tiny_model, likes_sevens, "grpo", section())
    run = replace(run, reference_logprobs=lambda examples: token_logprobs(tiny_model, examples).detach() - 0.25)
    _, metrics = collect(run, PROMPTS[:6], algorithm.options, seed=0)
    assert metrics["reply_length"] > 1.5
    assert metrics["kl"] == pytest.approx(0.25 * metrics["reply_length"], rel=1e-3)
    assert metrics["kl_k3"] == pytest.approx((math.expm1(-0.25) + 0.25) * metrics["reply_length"], rel=1e-2)


def test_the_coefficient_of_kl_adapts_to_kl_per_reply_and_counts_replies(tiny_model):
    fixed, _, _ = train(tiny_model, "reinforce", num_steps=2, lr=1e-2)
    target = fixed[1]["kl"] / 1.1  # at step 2 a tenth above it; at step 1 it is 0, which is clipped
    rows, _, _ = train(tiny_model, "reinforce", num_steps=3, lr=1e-2, kl_target=target, kl_horizon=400)
    replies = 8 * 4
    assert rows[1]["kl"] == pytest.approx(fixed[1]["kl"], rel=1e-4)
    assert rows[1]["kl_coef"] == pytest.approx(0.02 * (1 - 0.2 * replies / 400))
    assert rows[2]["kl_coef"] == pytest.approx(rows[1]["kl_coef"] * (1 + 0.1 * replies / 400), rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_eps_stands_beside_the_corrected_deviation(dtype):
    """Adam's first step by hand: lr g / (|g| + eps); with eps = |g| half of lr, whatever beta2 is."""
    p = torch.nn.Parameter(torch.zeros(2, 2, dtype=dtype))
    optimizer = new_optimizer([p], OptimizerOptions(lr=1.0, eps=2.0**-10))
    p.grad = torch.full((2, 2), 2.0**-10, dtype=dtype)
    optimizer.step()
    assert p.flatten().tolist() == pytest.approx([-0.5] * 4, rel=1e-3)
    defaults = new_optimizer([p], OptimizerOptions(lr=1.0)).defaults
    assert (defaults["eps"], defaults["betas"]) == (1e-8, (0.9, 0.98))
