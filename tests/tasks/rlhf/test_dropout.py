"""A policy that is still its reference must not differ from it by dropout."""

import copy
from functools import partial

import pytest
import torch

from tasks.rlhf import algorithms, models
from tasks.rlhf.logprobs import reply_sums, token_logprobs
from tasks.rlhf.options import LoraOptions
from tasks.rlhf.train_on_pairs import train_on_pairs
from tests.tasks.rlhf.test_loops import Recorder, pairs


@pytest.fixture(scope="module")
def dropping_model():
    """A model with dropout in modules (GPT-2's) and as plain numbers, as others have it."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=64, n_embd=16, n_layer=1, n_head=2, n_positions=32, resid_pdrop=0.4, embd_pdrop=0.4, attn_pdrop=0.4,
        pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    model.transformer.attention_dropout = 0.3
    return model


def first_step(policy, reference):
    section = {"beta": 0.1, "lr": 1e-3, "num_epochs": 1, "batch_tokens": 10**6}
    recorder = Recorder()

    @torch.no_grad()
    def logprobs(examples):
        return token_logprobs(reference, examples)

    train_on_pairs(policy, partial(reply_sums, logprobs), pairs(), algorithms.load("dpo", section), 0, recorder)
    return recorder.rows[0]


def test_the_first_log_ratios_are_zero(dropping_model):
    first = first_step(copy.deepcopy(dropping_model), dropping_model)
    assert first["chosen_log_ratio"] == pytest.approx(0, abs=1e-4)
    assert first["rejected_log_ratio"] == pytest.approx(0, abs=1e-4)


def test_adapters_keep_the_dropout_they_were_given(tiny_model):
    adapted = models.add_lora(copy.deepcopy(tiny_model), LoraOptions(rank=2, alpha=4, dropout=0.25))
    models.disable_dropout(adapted)
    rates = {module.p for module in adapted.modules() if isinstance(module, torch.nn.Dropout)}
    assert rates == {0.25}


def test_numbers_and_modules_are_switched_off(dropping_model):
    model = copy.deepcopy(dropping_model)
    models.disable_dropout(model)
    assert {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} == {0.0}
    assert model.transformer.attention_dropout == 0.0
