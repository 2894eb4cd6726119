"""Gradient checkpointing: every layer is computed twice and its activations once, and no loop learns anything else."""

import copy
from functools import partial

import pytest
import torch

from tasks.rlhf import algorithms, models
from tasks.rlhf.logprobs import reply_nll, reply_sums, token_logprobs, unwrapped
from tasks.rlhf.options import DatasetOptions, LoraOptions, ModelOptions
from tasks.rlhf.recompute import recompute_layers
from tasks.rlhf.train_on_dataset import train_on_dataset
from tasks.rlhf.train_on_pairs import train_on_pairs
from tasks.rlhf.train_on_rollouts import train_on_rollouts
from tests.tasks.rlhf.test_loops import Recorder, data, pairs
from tests.tasks.rlhf.test_train_on_rollouts import PROMPTS, learner, likes_sevens, section, weights

OPTIONS = ModelOptions(
    base="scratch", revision=None, dtype="float32", max_length=64, hidden_size=32, num_layers=2, num_heads=4,
    intermediate_size=64, vocab_size=300, lora=None, gradient_checkpointing=True,
)  # fmt: skip


def counted(model):
    """How often each layer's MLP has been computed."""
    calls = [0] * len(unwrapped(model).model.layers)

    def count(number):
        def hook(module, inputs):
            calls[number] += 1

        return hook

    for number, layer in enumerate(unwrapped(model).model.layers):
        layer.mlp.register_forward_pre_hook(count(number))
    return calls


def gradients(model, examples, scale=1.0):
    (token_logprobs(model, examples).sum() * scale).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("lora", [None, LoraOptions(rank=2, alpha=4)])
def test_gradients_are_the_same(tiny_model, examples, training, lora):
    """In eval mode, too, in which policies learn from rollouts; under adapters, whose base wants no gradient."""
    plain = models.to_train(copy.deepcopy(tiny_model), OPTIONS.model_copy(update={"gradient_checkpointing": False}))
    torch.manual_seed(0)
    plain = models.add_lora(plain, lora).train(training)
    torch.manual_seed(0)
    again = models.to_train(copy.deepcopy(tiny_model), OPTIONS.model_copy(update={"lora": lora})).train(training)
    calls = counted(again)
    expected, found = gradients(plain, examples), gradients(again, examples)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert calls == [2, 2]


def test_without_gradients_nothing_is_computed_twice(tiny_model, examples):
    model = copy.deepcopy(tiny_model)
    recompute_layers(model)
    calls = counted(model)
    with torch.no_grad():
        token_logprobs(model, examples)
    assert calls == [1, 1]


def test_a_copy_computes_with_its_own_weights(tiny_model, examples):
    model = copy.deepcopy(tiny_model)
    recompute_layers(model)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.model.layers.parameters():
            parameter.mul_(1.5)
    plain = copy.deepcopy(tiny_model)
    with torch.no_grad():
        for parameter in plain.model.layers.parameters():
            parameter.mul_(1.5)
        assert torch.equal(token_logprobs(other, examples), token_logprobs(plain, examples))


def sft(model):
    train_on_dataset(
        model,
        data(),
        reply_nll(model),
        lambda row: 1.0,
        DatasetOptions(num_epochs=1, lr=1e-3, batch_tokens=64),
        0,
        Recorder(),
    )
    return model


def dpo(model):
    reference = copy.deepcopy(model)

    @torch.no_grad()
    def logprobs(examples):
        return token_logprobs(reference, examples)

    section = {"beta": 0.1, "lr": 1e-3, "num_epochs": 1, "batch_tokens": 256}
    train_on_pairs(model, partial(reply_sums, logprobs), pairs(), algorithms.load("dpo", section), 0, Recorder())
    return model


def ppo(model):
    """Policy and critic."""
    algorithm, run = learner(model, likes_sevens, "ppo", section(num_steps=1))
    train_on_rollouts(run, PROMPTS, [], algorithm.options, 0, Recorder())
    return torch.nn.ModuleList([run.policy, run.critic])


@pytest.mark.parametrize("loop", [sft, dpo, ppo])
def test_the_loops_learn_the_same(loop, tiny_model):
    plain, again = copy.deepcopy(tiny_model), models.to_train(copy.deepcopy(tiny_model), OPTIONS)
    assert torch.equal(weights(loop(plain)), weights(loop(again)))


def test_a_model_without_layers_is_refused():
    with pytest.raises(ValueError, match=r"model\.gradient_checkpointing = true: .* layers of Linear"):
        recompute_layers(torch.nn.Linear(1, 1))
