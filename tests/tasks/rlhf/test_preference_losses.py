"""Losses of the preference algorithms against hand-worked numbers and float64 oracles.

An oracle is the formula of the paper in plain probabilities, on Python's complex numbers: the imaginary part of
f(x + ih) / h at h = 1e-30 is the exact derivative, with no autograd and no cancellation in it.
"""

import cmath
import math

import pytest
import torch

from tasks.rlhf.batch import PairLogps
from tasks.rlhf.preference import dpo, ipo, kto, orpo, rdpo, simpo

LABELS = [0.0, 0.5, 1.0, 0.7, 1.0, 0.2]


def doubles(*values, grad=False):
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


def pair(a, b, a_tokens=1.0, b_tokens=1.0):
    """One pair of replies."""
    return PairLogps(doubles(a, grad=True), doubles(b, grad=True), doubles(a_tokens), doubles(b_tokens))


def derivative(function, x):
    return function(complex(x, 1e-30)).imag / 1e-30


def sigmoid(x):
    return 1 / (1 + cmath.exp(-x))


def surprise(x):
    """-ln sigmoid(x)"""
    return -cmath.log(sigmoid(x))


def dpo_oracle(a, b, p, config, tokens):
    target = p * (1 - config.label_smoothing) + (1 - p) * config.label_smoothing
    chance = sigmoid(config.beta * (a - b))
    return -target * cmath.log(chance) - (1 - target) * cmath.log(1 - chance)


def ipo_oracle(a, b, p, config, tokens):
    gap = a / tokens[0] - b / tokens[1] if config.log_ratio == "mean" else a - b
    aim = 1 / (2 * config.tau)
    # The expectation over the label, less the part of it that is left when the policy is optimal.
    return p * (gap - aim) ** 2 + (1 - p) * (gap + aim) ** 2 - 4 * p * (1 - p) * aim**2


def simpo_oracle(a, b, p, config, tokens):
    lead = config.beta / tokens[0] * a - config.beta / tokens[1] * b
    return p * surprise(lead - config.gamma) + (1 - p) * surprise(-lead - config.gamma)


def orpo_oracle(a, b, p, config, tokens):
    a, b = cmath.exp(a / tokens[0]), cmath.exp(b / tokens[1])
    odds_a, odds_b = a / (1 - a), b / (1 - b)
    imitate = 0 if p == 0.5 else -cmath.log(a if p > 0.5 else b)
    share = odds_a / (odds_a + odds_b)  # = sigmoid of the log of their ratio
    return imitate - config.lam * (p * cmath.log(share) + (1 - p) * cmath.log(1 - share))


def rdpo_oracle(a, b, p, config, tokens):
    def unbiased(margin):
        e = config.flip_rate
        return ((1 - e) * surprise(margin) - e * surprise(-margin)) / (1 - 2 * e)

    margin = config.beta * (a - b)
    return p * unbiased(margin) + (1 - p) * unbiased(-margin)


CASES = [
    (dpo, dpo_oracle, dpo.Config(beta=0.3, label_smoothing=0.1)),
    (ipo, ipo_oracle, ipo.Config(tau=0.2, log_ratio="sum")),
    (ipo, ipo_oracle, ipo.Config(tau=0.6, log_ratio="mean")),
    (simpo, simpo_oracle, simpo.Config(beta=2.5, gamma=0.8)),
    (orpo, orpo_oracle, orpo.Config(lam=0.25)),
    (rdpo, rdpo_oracle, rdpo.Config(beta=0.3, flip_rate=0.15)),
]


@pytest.mark.parametrize(("module", "oracle", "config"), CASES, ids=lambda c: getattr(c, "__name__", None))
def test_pair_losses_equal_their_oracles(module, oracle, config):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, 9, (2, 60), generator=generator).double()
    policy, frozen = (-tokens * (0.1 + 2 * torch.rand(2, 60, generator=generator, dtype=torch.float64)) for _ in "pf")
    label = doubles(*LABELS * 10)
    logps = PairLogps(policy[0].clone().requires_grad_(), policy[1].clone().requires_grad_(), *tokens)
    reference = PairLogps(*frozen, *tokens) if module.NEEDS_REFERENCE else None
    out = module.loss(logps, reference, label, config)
    assert out.loss_B.shape == (60,)
    out.loss_B.sum().backward()
    if not module.NEEDS_REFERENCE:
        frozen = torch.zeros_like(policy)
    a, b = (policy - frozen).tolist()
    for i in range(60):
        p, lengths = label[i].item(), tokens[:, i].tolist()
        expected = oracle(a[i], b[i], p, config, lengths)
        assert out.loss_B[i].item() == pytest.approx(expected.real, rel=1e-9, abs=1e-12)
        slope_a = derivative(lambda x, i=i, p=p, n=lengths: oracle(x, b[i], p, config, n), a[i])
        slope_b = derivative(lambda x, i=i, p=p, n=lengths: oracle(a[i], x, p, config, n), b[i])
        assert logps.a_B.grad[i].item() == pytest.approx(slope_a, rel=1e-9, abs=1e-12)
        assert logps.b_B.grad[i].item() == pytest.approx(slope_b, rel=1e-9, abs=1e-12)


def value(module, config, policy, reference=None, label=1.0):
    return module.loss(policy, reference, doubles(label), config).loss_B.item()


def test_ipo_by_hand():
    policy, reference = pair(-10.0, -12.0, 4.0, 1.0), pair(-12.0, -11.0, 4.0, 1.0)  # log-ratios 2 and -1
    # the margin 3 aims at 1 / (2 * 0.25) = 2; per token it is 0.5 + 1 = 1.5
    assert value(ipo, ipo.Config(tau=0.25, log_ratio="sum"), policy, reference) == pytest.approx(1.0, rel=1e-12)
    assert value(ipo, ipo.Config(tau=0.25, log_ratio="mean"), policy, reference) == pytest.approx(0.25, rel=1e-12)
    # a tie aims at 0, the other label at -2
    assert value(ipo, ipo.Config(tau=0.25, log_ratio="sum"), policy, reference, 0.5) == pytest.approx(9.0, rel=1e-12)
    assert value(ipo, ipo.Config(tau=0.25, log_ratio="sum"), policy, reference, 0.0) == pytest.approx(25.0, rel=1e-12)


def test_simpo_by_hand():
    policy = pair(-4.0, -3.0, 4.0, 2.0)
    # rewards 2 * -1 = -2 and 2 * -1.5 = -3, margin 1; ln(1 + e^-0.5) and, for the other label, ln(1 + e^1.5)
    config = simpo.Config(beta=2.0, gamma=0.5)
    assert value(simpo, config, policy) == pytest.approx(0.47407698418010663, rel=1e-12)
    assert value(simpo, config, policy, label=0.0) == pytest.approx(1.7014132779827524, rel=1e-12)


def test_orpo_by_hand():
    policy = pair(3 * math.log(1 / 2), 2 * math.log(1 / 4), 3.0, 2.0)
    # odds 1 and 1/3, their ratio 3, sigmoid(ln 3) = 3/4; the reply b is imitated where b is preferred
    config = orpo.Config(lam=0.1)
    assert value(orpo, config, policy) == pytest.approx(math.log(2) - 0.1 * math.log(3 / 4), rel=1e-12)
    assert value(orpo, config, policy, label=0.0) == pytest.approx(math.log(4) - 0.1 * math.log(1 / 4), rel=1e-12)
    assert value(orpo, config, policy, label=0.5) == pytest.approx(-0.05 * math.log(3 / 16), rel=1e-12)


def test_orpo_of_certain_and_impossible_replies_is_finite():
    """P = 1 has infinite odds, and rounding reaches it; so does a sum of ten thousand nats the other end."""
    policy = PairLogps(
        torch.tensor([0.0, -1e-9, -1e4], requires_grad=True),
        torch.tensor([-1e4, 0.0, 0.0], requires_grad=True),
        torch.ones(3),
        torch.ones(3),
    )
    out = orpo.loss(policy, None, torch.tensor([1.0, 0.0, 1.0]), orpo.Config(lam=1.0))
    out.loss_B.sum().backward()
    assert torch.isfinite(out.loss_B).all()
    assert torch.isfinite(policy.a_B.grad).all()
    assert torch.isfinite(policy.b_B.grad).all()


def test_rdpo_by_hand():
    policy, reference = pair(-10.0, -12.0), pair(-12.0, -11.0)  # margin 0.1 * 3
    # (0.8 * 0.5543552444685272 - 0.2 * 0.8543552444685272) / 0.6
    config = rdpo.Config(beta=0.1, flip_rate=0.2)
    assert value(rdpo, config, policy, reference) == pytest.approx(0.4543552444685272, rel=1e-12)


def test_rdpo_undoes_the_flips_on_average():
    policy, reference = pair(-10.0, -17.0), pair(-12.0, -11.0)
    config, plain = rdpo.Config(beta=0.2, flip_rate=0.3), dpo.Config(beta=0.2)
    for true in (1.0, 0.0):
        seen = [value(rdpo, config, policy, reference, label) for label in (true, 1 - true)]
        expected = value(dpo, plain, policy, reference, true)
        assert 0.7 * seen[0] + 0.3 * seen[1] == pytest.approx(expected, rel=1e-12)
    assert value(rdpo, config, policy, reference, 0.5) == pytest.approx(value(dpo, plain, policy, reference, 0.5))


def test_implicit_margin_is_that_of_the_preferred_reply():
    policy, reference = pair(-4.0, -3.0, 4.0, 2.0), pair(-5.0, -5.0)
    for module, config, expected in (
        (dpo, dpo.Config(beta=0.5), 0.5 * (1 - 2)),
        (rdpo, rdpo.Config(beta=0.5, flip_rate=0.1), 0.5 * (1 - 2)),
        (ipo, ipo.Config(tau=0.5, log_ratio="mean"), 1 / 4 - 2 / 2),
        (simpo, simpo.Config(beta=2.0, gamma=1.0), 2 * (-1 + 1.5)),
        (orpo, orpo.Config(lam=1.0), math.log(math.exp(-1) / (1 - math.exp(-1)) * (math.exp(1.5) - 1))),
    ):
        for label, sign in ((1.0, 1), (0.5, 1), (0.0, -1)):
            margin_B = module.loss(policy, reference, doubles(label), config).metrics["implicit_margin"]
            assert margin_B.item() == pytest.approx(sign * expected), module.__name__
            assert not margin_B.requires_grad


def test_kto_by_hand():
    # reward 0.5 * 3, reference point 0.5 * 1: sigmoid(1) = 0.7310585786300049
    config = kto.Config(beta=0.5, desirable_weight=2.0, undesirable_weight=3.0)
    policy_B, reference_B = doubles(-4.0, -4.0, -4.0), doubles(-7.0, -7.0, -7.0)
    out = kto.loss(policy_B, reference_B, doubles(1.0, 0.0, 0.75), doubles(1.0)[0], config)
    wanted, unwanted = 2 * 0.2689414213699951, 3 * 0.7310585786300049
    assert out.loss_B.tolist() == pytest.approx([wanted, unwanted, 0.75 * wanted + 0.25 * unwanted], rel=1e-12)
    assert out.metrics["implicit_reward"].tolist() == [1.5] * 3


def test_kto_oracle():
    generator = torch.Generator().manual_seed(1)
    raw = 4 * torch.randn(2, 60, generator=generator, dtype=torch.float64)
    wanted_B, z0 = doubles(*LABELS * 10), 0.9
    config = kto.Config(beta=0.4, desirable_weight=1.3, undesirable_weight=0.8)
    policy_B = raw[0].clone().requires_grad_()
    out = kto.loss(policy_B, raw[1], wanted_B, doubles(z0)[0], config)
    out.loss_B.sum().backward()
    for i in range(60):
        d = wanted_B[i].item()

        def oracle(r, d=d):
            value = 1.3 * d * sigmoid(0.4 * (r - z0)) + 0.8 * (1 - d) * sigmoid(0.4 * (z0 - r))
            return 1.3 * d + 0.8 * (1 - d) - value  # lambda_y - v(x, y)

        ratio = (raw[0, i] - raw[1, i]).item()
        assert out.loss_B[i].item() == pytest.approx(oracle(ratio).real, rel=1e-9)
        assert policy_B.grad[i].item() == pytest.approx(derivative(oracle, ratio), rel=1e-9, abs=1e-12)


def test_kto_reference_point_by_hand():
    ratios = doubles(3.0, -1.0, grad=True)
    point = kto.reference_point(ratios, doubles(1.0, 1.0))
    assert point.item() == 1.0
    assert not point.requires_grad
    assert kto.reference_point(ratios, doubles(3.0, 1.0)).item() == 2.0
    assert kto.reference_point(ratios, doubles(1.0, 4.0)).item() == 0.0  # mean -0.2: a KL is never negative
