"""Losses against hand-worked numbers and, value and gradient, against float64 oracles written another way."""

import math

import pytest
import torch

from tasks.rlhf.batch import PairLogps
from tasks.rlhf.preference import dpo


def pair_logps(a, b):
    ones = torch.ones(len(a), dtype=torch.float64)
    a, b = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (a, b))
    return PairLogps(a, b, ones, ones)


def labels(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_dpo_by_hand():
    policy, reference = pair_logps([-10.0], [-12.0]), pair_logps([-12.0], [-11.0])
    out = dpo.loss(policy, reference, labels(1.0), dpo.Config(beta=0.1))
    # log-ratios 2 and -1, margin 0.1 * 3 = 0.3, loss = ln(1 + e^-0.3) = 0.5543552444685272
    assert out.loss_B.item() == pytest.approx(0.5543552444685272, rel=1e-12)
    out.loss_B.sum().backward()
    # d/da = -beta * sigmoid(-margin) = -0.1 * 0.425557483188341
    assert policy.a_B.grad.item() == pytest.approx(-0.0425557483188341, rel=1e-12)
    assert policy.b_B.grad.item() == pytest.approx(0.0425557483188341, rel=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_dpo_oracle(smoothing):
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(4, 50, generator=generator, dtype=torch.float64) * 5
    label = torch.tensor([0.0, 0.5, 1.0, 0.7, 1.0] * 10, dtype=torch.float64)
    policy, reference = pair_logps(raw[0].tolist(), raw[1].tolist()), pair_logps(raw[2].tolist(), raw[3].tolist())
    out = dpo.loss(policy, reference, label, dpo.Config(beta=0.3, label_smoothing=smoothing))
    out.loss_B.sum().backward()
    for i in range(50):
        margin = 0.3 * ((raw[0, i] - raw[2, i]) - (raw[1, i] - raw[3, i])).item()
        target = label[i].item() * (1 - smoothing) + (1 - label[i].item()) * smoothing
        p = 1 / (1 + math.exp(-margin))
        assert out.loss_B[i].item() == pytest.approx(-(target * math.log(p) + (1 - target) * math.log1p(-p)), rel=1e-6)
        assert policy.a_B.grad[i].item() == pytest.approx(0.3 * (p - target), rel=1e-6, abs=1e-12)


def test_dpo_tie_pulls_the_margin_to_zero():
    policy, reference = pair_logps([-1.0], [-3.0]), pair_logps([-2.0], [-2.0])
    out = dpo.loss(policy, reference, labels(0.5), dpo.Config(beta=1.0))
    out.loss_B.sum().backward()
    assert policy.a_B.grad.item() > 0 > policy.b_B.grad.item()


def test_bad_options_name_the_key():
    from tasks.rlhf import algorithms

    with pytest.raises(ValueError, match=r"align\.dpo\.beta.*0"):
        algorithms.load("dpo", {"beta": 0, "lr": 1e-3, "num_epochs": 1, "batch_tokens": 10})
    with pytest.raises(ValueError, match=r"align\.dpo\.betta = 1: unknown key"):
        algorithms.load("dpo", {"beta": 1, "betta": 1, "lr": 1e-3, "num_epochs": 1, "batch_tokens": 10})
    with pytest.raises(ValueError, match=r"align\.algorithm = 'ppoo': no such file; known: .*dpo, .*ppo"):
        algorithms.load("ppoo", {})
