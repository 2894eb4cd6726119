import pytest
import torch

from tasks.rlhf.advantages import gae, kl_k1, kl_k3, place_on_last, whiten


def test_gae_by_hand():
    rewards = torch.tensor([[1.0, 2.0, 9.0]])
    values = torch.tensor([[0.5, 1.0, 4.0]])
    mask = torch.tensor([[1.0, 1.0, 0.0]])
    advantages, returns = gae(rewards, values, mask, gamma=0.9, lam=0.8)
    # t=1: 2 - 1 = 1 (nothing after the end); t=0: 1 + 0.9 * 1 - 0.5 + 0.9 * 0.8 * 1 = 2.12
    assert advantages[0].tolist() == pytest.approx([2.12, 1.0, 0.0])
    assert returns[0].tolist() == pytest.approx([2.62, 2.0, 0.0])


def test_gae_with_lambda_one_is_the_discounted_return():
    generator = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(2, 3, 7, generator=generator, dtype=torch.float64)
    _, returns = gae(rewards, values, torch.ones(3, 7), gamma=0.95, lam=1.0)
    for row in range(3):
        for t in range(7):
            expected = sum(0.95 ** (k - t) * rewards[row, k].item() for k in range(t, 7))
            assert returns[row, t].item() == pytest.approx(expected, rel=1e-9)


def test_padding_changes_nothing():
    rewards, values = torch.randn(2, 1, 4)
    mask = torch.ones(1, 4)
    alone, _ = gae(rewards, values, mask, 1.0, 0.95)
    grown = [torch.nn.functional.pad(x, (0, 3), value=noise) for x, noise in ((rewards, 7.0), (values, 3.0))]
    padded, _ = gae(*grown, torch.nn.functional.pad(mask, (0, 3)), 1.0, 0.95)
    torch.testing.assert_close(padded[:, :4], alone)
    torch.testing.assert_close(whiten(padded, torch.nn.functional.pad(mask, (0, 3)))[:, :4], whiten(alone, mask))


def test_whiten():
    values, mask = torch.tensor([[1.0, 3.0, 100.0]]), torch.tensor([[1.0, 1.0, 0.0]])
    assert whiten(values, mask)[0].tolist() == pytest.approx([-1.0, 1.0, 0.0])
    assert whiten(values, mask, shift_mean=False)[0].tolist() == pytest.approx([1.0, 3.0, 0.0])


def test_score_stands_on_the_last_reply_token():
    mask = torch.tensor([[True, True, True], [True, False, False]])
    assert place_on_last(torch.tensor([2.0, 5.0]), mask).tolist() == [[0, 0, 2], [5, 0, 0]]


def test_kl_estimators_are_unbiased():
    generator = torch.Generator().manual_seed(0)
    p, q = torch.softmax(torch.randn(2, 6, generator=generator, dtype=torch.float64), -1)
    exact = (p * (p / q).log()).sum().item()
    draws = torch.multinomial(p, 400_000, replacement=True, generator=generator)
    k1, k3 = kl_k1(p.log()[draws], q.log()[draws]), kl_k3(p.log()[draws], q.log()[draws])
    assert k1.mean().item() == pytest.approx(exact, rel=0.02)
    assert k3.mean().item() == pytest.approx(exact, rel=0.02)
    assert k3.min() >= 0
    assert k3.var() < k1.var()
