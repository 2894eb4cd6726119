"""Our attention beside that of transformers: the same values, and prompts that are read together by their replies."""

import copy

import numpy as np
import pytest
import torch

from tasks.rlhf import attention
from tasks.rlhf.batch import Example
from tasks.rlhf.logprobs import token_logprobs
from tasks.rlhf.rollout import sample
from tests.tasks.rlhf import tiny

PROMPT = list(range(5, 20))
TOGETHER = [Example(PROMPT, [40, 41, 42, 1]), Example(PROMPT, [50, 51]), Example([5, 6], [7, 1])]  # packed rows
ALONE = [Example([5, 6, 7], [8, 9, 1]), Example([11], [12, 13])]
# Prompts of several lengths, with one, two, three and four replies, in no order.
PROMPTS = [[5, 6, 7], [11], [5, 6, 7], [21, 22, 23, 24, 25], [31], [11], [31], [5, 6, 7], [31], [31]]


def both(kind="Llama", dtype=torch.float32, **changes):
    """A model by `sdpa`, and the same by ours."""
    ours = tiny.language_model(kind, max_position_embeddings=256, **changes).to(dtype)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.mul_(4.0)
    theirs = copy.deepcopy(ours)
    attention.use(ours)
    assert (theirs.config._attn_implementation, ours.config._attn_implementation) == ("sdpa", attention.NAME)
    return theirs, ours


@pytest.mark.parametrize("examples", [TOGETHER, ALONE], ids=["together", "alone"])
@pytest.mark.parametrize("kind", ["Llama", "Qwen2", "Qwen3", "Mistral"])
def test_values_and_gradients_are_those_of_sdpa(kind, examples):
    found = []
    for model in both(kind, num_key_value_heads=2):
        logprobs_N = token_logprobs(model, examples)
        logprobs_N.sum().backward()
        found.append([logprobs_N.detach(), *(p.grad for p in model.parameters())])
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)


def test_bfloat16_is_no_farther_from_float32_than_that_of_sdpa():
    exact = token_logprobs(both(dtype=torch.bfloat16, num_key_value_heads=2)[0].float(), TOGETHER)
    theirs, ours = (
        float((token_logprobs(model, TOGETHER) - exact).abs().mean().detach())
        for model in both(dtype=torch.bfloat16, num_key_value_heads=2)
    )
    assert 0 < ours < 1.1 * theirs
    assert ours != theirs  # computed otherwise


@pytest.mark.parametrize("new_tokens", [3, 12, 150])
@pytest.mark.parametrize("kind", ["Llama", "Qwen3", "Mistral", "GPTNeoX"])
def test_replies_are_those_of_sdpa_whoever_has_finished(kind, new_tokens):
    changes = {"num_key_value_heads": 2} if kind != "GPTNeoX" else {}
    drawn = []
    for model in both(kind, **changes):
        settings = {"max_new_tokens": new_tokens, "temperature": 2.0, "seed": 3, "eos_id": 1, "pad_id": 0}
        drawn.append(sample(model, PROMPTS, **settings))
        examples = [Example(prompt, reply.ids) for prompt, reply in zip(PROMPTS, drawn[-1], strict=True)]
        sampled = torch.tensor([lp for reply in drawn[-1] for lp in reply.logprobs])
        torch.testing.assert_close(token_logprobs(model, examples, 2.0).detach(), sampled, rtol=1e-3, atol=1e-3)
    theirs, ours = drawn
    assert [reply.ids for reply in ours] == [reply.ids for reply in theirs]
    if new_tokens == 150:
        assert sum(reply.finished for reply in ours) > 5


def test_prompts_that_nobody_replies_to_any_more_are_dropped():
    prompts, mask_PL = [0, 1, 0, 2, 3, 3], torch.ones(4, 5, dtype=torch.int64)

    class Layer:
        keys = torch.arange(4.0)[:, None, None, None].expand(4, 1, 5, 2).clone()
        values = keys

    class Cache:
        layers = (Layer,)

        def reset(self):
            self.emptied = True

    cache = Cache()
    held = attention.Prompts.of(cache, mask_PL, prompts)
    assert cache.emptied
    for rows, left in ([0, 1, 2, 3, 5], 4), ([1, 3, 4], 4), ([1, 2], 2):
        held.keep(torch.tensor(rows))
        assert len(held.keys[0]) == len(held.values[0]) == len(held.added_P1L) == left
    read_PG1L = held.keys[0].mean((2, 3))[:, :, None, None]  # which prompt, by its number
    assert held.by_row(read_PG1L.expand(-1, -1, held.replies, 1).flatten(0, 1), 1).flatten().tolist() == [2, 3]


def test_what_rows_ask_comes_back_to_them():
    generator = np.random.default_rng(0)
    held = attention.Prompts([], [], torch.zeros(3, 1, 4), torch.tensor([1, 0, 5, 4]), 2)
    asked = torch.from_numpy(generator.normal(size=(4, 2, 3, 5)))
    grouped = held.grouped(asked)
    assert grouped.shape == (3 * 2, 2 * 3, 5)
    assert torch.equal(held.by_row(grouped, 2), asked)
