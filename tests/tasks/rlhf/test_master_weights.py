"""AdamW on float32 copies of bfloat16 weights."""

import copy

import numpy as np
import pytest
import torch

from tasks.rlhf.batch import Example
from tasks.rlhf.master_weights import GradientSums, MasterAdamW
from tasks.rlhf.options import OptimizerOptions
from tasks.rlhf.train_on_dataset import new_optimizer
from tests.tasks.rlhf import tiny

LR = 1e-3
NUM_STEPS = 40


def weights(dtype: torch.dtype) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(shape, generator=generator).bfloat16() for shape in ((8, 4), (4,))]
    return [torch.nn.Parameter(x.to(dtype)) for x in drawn]


def learn(parameters, optimizer, steps) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for p in parameters:
            p.grad = torch.randn(p.shape, generator=generator).bfloat16().to(p.dtype)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def optimizer_of(parameters):
    return new_optimizer(parameters, OptimizerOptions(lr=LR, weight_decay=0.1))


def test_what_bfloat16_would_lose_is_added_up() -> None:
    fine, coarse, plain = weights(torch.float32), weights(torch.bfloat16), weights(torch.bfloat16)
    assert isinstance(optimizer_of(coarse), MasterAdamW)
    assert not isinstance(optimizer_of(fine), MasterAdamW)
    optimizer = optimizer_of(coarse)
    learn(fine, optimizer_of(fine), range(NUM_STEPS))
    learn(coarse, optimizer, range(NUM_STEPS))
    learn(plain, torch.optim.AdamW(plain, lr=LR, betas=(0.9, 0.98), weight_decay=0.1), range(NUM_STEPS))
    for exact, kept, lossy in zip(fine, coarse, plain, strict=True):
        assert torch.equal(optimizer.state[kept]["master"], exact)  # the same arithmetic, on the same gradients
        assert torch.equal(kept, exact.bfloat16())
        assert (lossy.float() - exact).abs().max() > 5 * LR  # steps of 1e-3 were rounded away


def test_hand_worked_first_step() -> None:
    """Adam's first step is lr in the gradient's direction: 1 - 0.001 = 0.999, which bfloat16 rounds to 1."""
    p = torch.nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
    optimizer = MasterAdamW([p], lr=1e-3, weight_decay=0.0)
    p.grad = torch.full((1,), 3.0, dtype=torch.bfloat16)
    optimizer.step()
    assert optimizer.state[p]["master"].item() == pytest.approx(0.999, abs=1e-6)
    assert p.item() == 1.0


def test_it_goes_on_from_its_state_as_if_it_had_never_stopped() -> None:
    through, first = weights(torch.bfloat16), weights(torch.bfloat16)
    learn(through, optimizer_of(through), range(NUM_STEPS))
    before = optimizer_of(first)
    learn(first, before, range(NUM_STEPS // 2))
    second = [torch.nn.Parameter(p.detach().clone()) for p in first]
    after = optimizer_of(second)
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    learn(second, after, range(NUM_STEPS // 2, NUM_STEPS))
    assert all(torch.equal(a, b) for a, b in zip(through, second, strict=True))
    assert {state["exp_avg"].dtype for state in after.state.values()} == {torch.float32}


def test_weights_in_float32_stay_as_they_are() -> None:
    """Adapters over a bfloat16 model are float32: mixed, each is stepped in its own way."""
    mixed, fine = [weights(torch.float32)[0], weights(torch.bfloat16)[1]], weights(torch.float32)
    optimizer = optimizer_of(mixed)
    learn(mixed, optimizer, range(NUM_STEPS))
    learn(fine, optimizer_of(fine), range(NUM_STEPS))
    assert torch.equal(mixed[0], fine[0])
    assert "master" not in optimizer.state[mixed[0]]


@pytest.mark.parametrize("micro_tokens", [10**6, 16])
def test_gradients_of_many_passes_are_rounded_once(micro_tokens):
    """All rows in one pass, or one by one: sums in bfloat16 would be twice as wrong and more."""
    from tasks.rlhf.logprobs import reply_nll
    from tasks.rlhf.ranks import Ranks
    from tasks.rlhf.train_on_dataset import _accumulate

    draws = np.random.default_rng(0)
    rows = [
        Example(draws.integers(5, 64, 4).tolist(), draws.integers(5, 64, int(draws.integers(3, 12))).tolist())
        for _ in range(200)
    ]
    coarse = tiny.language_model().to(torch.bfloat16)

    def gradient(model, tokens):
        model.zero_grad()
        sums = GradientSums(model.parameters())
        _accumulate(rows, reply_nll(model), lambda row: len(row.reply_ids), lambda row: True, tokens, Ranks(), sums)
        assert {p.grad.dtype for p in model.parameters()} == {model.dtype}
        return torch.cat([p.grad.double().flatten() for p in model.parameters()])

    true = gradient(copy.deepcopy(coarse).float(), 10**6)
    error = float((gradient(coarse, micro_tokens) - true).norm() / true.norm())
    assert error < 0.01
