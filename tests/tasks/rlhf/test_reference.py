"""What the frozen policy makes of replies: measured once, and kept for the next run of a sweep."""

import copy
import shutil

import numpy as np
import pytest
import torch

from tasks.rlhf import models
from tasks.rlhf.batch import Example
from tasks.rlhf.logprobs import reply_sums, token_logprobs
from tasks.rlhf.models import add_lora
from tasks.rlhf.options import LoraOptions, ModelOptions
from tasks.rlhf.reference import Reference

SIZES = {"max_length": 64, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 64}
REPLIES = [Example([5, 6, 7], [8, 9, 1]), Example([5, 6, 7], [10, 1]), Example([11], [12, 13, 14, 1])]


@pytest.fixture
def policy(tiny_model):
    return copy.deepcopy(tiny_model)


@pytest.fixture
def sft(policy, tmp_path):
    policy.save_pretrained(tmp_path / "sft")
    return tmp_path / "sft"


@pytest.fixture
def asked(monkeypatch):
    """How many models were loaded to be asked."""
    loaded, load = [], models.load_policy

    def counted(*given):
        loaded.append(given)
        return load(*given)

    monkeypatch.setattr(models, "load_policy", counted)
    return loaded


def reference(policy, sft, dtype="float32", lora=None):
    options = ModelOptions(base="scratch", revision=None, dtype=dtype, vocab_size=300, lora=lora, **SIZES)
    return Reference(policy, sft, options, sft.parent / "kept")


def test_the_sums_of_the_run_before_are_taken(policy, sft, asked):
    first = reference(policy, sft).sums(REPLIES)
    expected = reply_sums(lambda rows: token_logprobs(policy, rows), REPLIES)
    with torch.no_grad():
        for parameter in policy.parameters():  # the policy learns; the reference stays
            parameter.mul_(1.1)
    again = reference(policy, sft).sums(REPLIES)
    assert len(asked) == 1
    assert np.array_equal(first, again)
    assert np.allclose(first, expected, rtol=1e-6)


@pytest.mark.parametrize("change", ["a reply", "a boundary", "the order", "the weights", "the number type", "the file"])
def test_they_are_measured_again_where_anything_differs(policy, sft, asked, change):
    before = reference(policy, sft).sums(REPLIES)
    replies, dtype = list(REPLIES), "float32"
    if change == "a reply":
        replies[0] = Example([5, 6, 7], [8, 8, 1])
    elif change == "a boundary":
        replies[0] = Example([5, 6], [7, 8, 9, 1])
    elif change == "the order":
        replies = replies[::-1]
    elif change == "the weights":
        with torch.no_grad():
            policy.get_input_embeddings().weight.mul_(1.5)
        policy.save_pretrained(sft)
    elif change == "the number type":
        dtype = "bfloat16"
    else:
        (kept,) = (sft.parent / "kept").glob("*/sums.npy")
        kept.write_bytes(kept.read_bytes()[:-8])
    after = reference(policy, sft, dtype).sums(replies)
    assert len(asked) == 2
    assert np.array_equal(before, after) == (change == "the file")
    if change == "the order":
        assert np.allclose(before, after[::-1])


def test_adapters_are_off_while_it_is_measured(policy, sft):
    plain = reference(policy, sft).sums(REPLIES)
    lora = LoraOptions(rank=2, alpha=4)
    adapted = add_lora(policy, lora)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.3)
    assert np.allclose(reference(adapted, sft, lora=lora).sums(REPLIES), plain, atol=1e-5)


def test_what_is_no_number_is_not_kept(policy, sft):
    with torch.no_grad():
        policy.get_input_embeddings().weight.fill_(float("nan"))
    policy.save_pretrained(sft)
    assert np.isnan(reference(policy, sft).sums(REPLIES)).all()
    assert not (sft.parent / "kept").exists()


def test_few_sets_are_kept(policy, sft, asked):
    frozen = reference(policy, sft)
    for number in range(20):
        frozen.sums([Example([5], [6, 7 + number])])
    assert len(list((sft.parent / "kept").iterdir())) == 16
    shutil.rmtree(sft.parent / "kept")
    assert np.isfinite(frozen.sums(REPLIES)).all()  # all of it may be deleted
