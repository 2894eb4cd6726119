"""KL estimators against an exact KL, and the numerics of k3."""

import math

import numpy as np
import pytest

from tasks.evaluation import divergence as d

POLICY, REFERENCE = np.array([0.7, 0.2, 0.1]), np.array([0.4, 0.4, 0.2])
EXACT = float((POLICY * np.log(POLICY / REFERENCE)).sum())


def test_k1_and_k3_are_unbiased_and_k3_varies_less():
    logp, logq = np.log(POLICY), np.log(REFERENCE)
    assert float(POLICY @ d.k1(logp, logq)) == pytest.approx(EXACT)
    assert float(POLICY @ d.k3(logp, logq)) == pytest.approx(EXACT)
    spread = [POLICY @ (k(logp, logq) - EXACT) ** 2 for k in (d.k1, d.k3)]
    assert spread[1] < spread[0]


def test_by_hand():
    policy, reference = [math.log(0.5)], [math.log(0.25)]
    assert d.k1(policy, reference).tolist() == pytest.approx([math.log(2)])
    assert d.k2(policy, reference).tolist() == pytest.approx([0.5 * math.log(2) ** 2])
    assert d.k3(policy, reference).tolist() == pytest.approx([0.5 - 1 + math.log(2)])


def test_k3_is_never_negative_and_exact_near_zero():
    assert (d.k3(np.linspace(-3, 0, 50), np.linspace(0, -3, 50)) >= 0).all()
    tiny = 1e-7
    assert d.k3([tiny], [0.0])[0] == pytest.approx(tiny**2 / 2, rel=1e-2)  # exp(x) - 1 - x would round this away
