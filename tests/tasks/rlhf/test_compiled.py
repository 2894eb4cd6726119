"""Compiled layers give what plain ones give, but for rounding; samplers do not notice."""

import copy
import shutil

import pytest
import torch

from tasks.rlhf import attention, compiled, models, packing
from tasks.rlhf.batch import Example
from tasks.rlhf.logprobs import token_logprobs
from tasks.rlhf.rollout import sample
from tests.tasks.rlhf.test_recompute import OPTIONS

COMPILED = OPTIONS.model_copy(update={"gradient_checkpointing": False, "compile": True})
PROMPT = list(range(5, 20))
SHARED = [Example(PROMPT, [40, 41, 42, 1]), Example(PROMPT, [50, 51]), Example([5, 6], [7, 1])]  # with a mask
ALONE = [Example([5, 6, 7], [8, 9, 1]), Example([11], [12, 13]), Example([4, 4, 4, 4], [12, 13])]


def gradients(model, examples):
    model.zero_grad()
    logprobs_N = token_logprobs(model, examples)
    logprobs_N.sum().backward()
    return [logprobs_N.detach(), *(p.grad.clone() for p in model.parameters())]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="nothing to compile with")
@pytest.mark.filterwarnings("ignore")  # torch warns of what it does itself
@pytest.mark.parametrize("ours", [False, True], ids=["eager", "in_float32"])
def test_values_and_gradients_are_the_same(tiny_model, ours):
    plain = copy.deepcopy(tiny_model)
    if ours:
        attention.use(plain)
    model = models.to_train(copy.deepcopy(plain), COMPILED)
    assert packing.rows_of(SHARED, model.config).seen_R1LL is not None
    for examples in (SHARED, ALONE, SHARED[:2]):
        for found, expected in zip(gradients(model, examples), gradients(plain, examples), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(token_logprobs(model, ALONE), token_logprobs(plain, ALONE), rtol=1e-4, atol=1e-5)
    again = copy.deepcopy(model)  # computes with its own weights
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.mul_(1.5)
    assert not torch.allclose(token_logprobs(again, ALONE), token_logprobs(model, ALONE), atol=1e-2)


def test_only_passes_of_training_are_compiled(tiny_model, monkeypatch):
    """A sampler calls layers with a cache that grows, one token at a time."""
    seen = []
    monkeypatch.setattr(
        compiled, "compiled", lambda function: lambda *args, **kw: seen.append(1) or function(*args, **kw)
    )
    monkeypatch.setattr(compiled.shutil, "which", lambda name: name)
    model = models.to_train(copy.deepcopy(tiny_model), COMPILED)
    settings = {"max_new_tokens": 5, "temperature": 1.0, "seed": 3, "eos_id": 1, "pad_id": 0}
    drawn = sample(model, [[5, 6], [7]], **settings)
    assert not seen
    assert [reply.ids for reply in drawn] == [reply.ids for reply in sample(tiny_model, [[5, 6], [7]], **settings)]
    token_logprobs(model, ALONE)
    assert len(seen) == len(model.model.layers)
    assert all(compiled.is_compiled(layer) for layer in model.model.layers)  # the last one too, as it was


def test_what_cannot_be_compiled_is_refused_by_its_key(tiny_model, monkeypatch):
    with pytest.raises(ValueError, match=r"model\.compile = true: .* layers of Linear"):
        compiled.compile_layers(torch.nn.Linear(2, 2))
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match=r"model\.compile = true: no C\+\+ compiler"):
        models.to_train(copy.deepcopy(tiny_model), COMPILED)


@pytest.mark.parametrize("change", [{"gradient_checkpointing": True}, {"lora": {"rank": 2, "alpha": 4}}])
def test_compiled_layers_are_whole_and_kept(change):
    with pytest.raises(ValueError, match=r"compile = true: .*without"):
        type(OPTIONS).model_validate(COMPILED.model_dump() | change)
