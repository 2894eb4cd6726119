"""Losses on comparisons: hand-worked numbers, and oracles that count outcomes instead of using logarithms of sums."""

import math

import choix
import numpy as np
import pytest
import torch

from tasks.rlhf import bradley_terry
from tasks.rlhf.options import ComparisonOptions

LABELS = (1.0, 0.0, 0.5, 0.7)


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def strengths(a, b):
    return math.exp(a), math.exp(b)


# P(a), P(b), P(tie) from the strengths s = e^r, as the papers write them.
def davidson(a, b, nu):
    s, t = strengths(a, b)
    whole = s + t + nu * math.sqrt(s * t)
    return s / whole, t / whole, nu * math.sqrt(s * t) / whole


def rao_kupper(a, b, theta):
    s, t = strengths(a, b)
    return s / (s + theta * t), t / (t + theta * s), (theta**2 - 1) * s * t / ((s + theta * t) * (t + theta * s))


def oracle(a, b, label, options, required, parameter):
    """The loss of one pair, by the definitions."""
    keep = 1 - options.label_smoothing
    p = keep * label + (1 - keep) * (1 - label)
    sign = (label > 0.5) - (label < 0.5)
    shifted = a - sign * required
    if options.ties == "half":
        value = -p * math.log(sigmoid(shifted - b)) - (1 - p) * math.log(1 - sigmoid(shifted - b))
    else:
        model = {"davidson": davidson, "rao_kupper": rao_kupper}[options.ties]
        won, lost, tied = model(shifted, b, parameter)
        value = -math.log(tied) if label == 0.5 else -p * math.log(won) - (1 - p) * math.log(lost)
    return value + options.centering * (a + b) ** 2 + options.l2 * (a * a + b * b)


def slope(function, values, place, step=1e-5):
    """Five-point derivative by one of the arguments."""

    def f(times):
        return function(*(value + times * step * (number == place) for number, value in enumerate(values)))

    return (f(-2) - 8 * f(-1) + 8 * f(1) - f(2)) / (12 * step)


def test_bradley_terry_by_hand():
    a, b = tensor(1.0, 1.0, 0.0), tensor(0.0, 0.0, 1.0)
    out = bradley_terry.loss(a, b, torch.tensor([1.0, 0.5, 0.0]).double())
    # ln(1 + e^-1) = 0.31326168751822286; a tie adds half the margin
    expected = [0.31326168751822286, 0.8132616875182228, 0.31326168751822286]
    assert out.loss_B.tolist() == pytest.approx(expected, rel=1e-12)
    assert out.metrics["accuracy"].tolist() == [1.0, 0.5, 1.0]
    assert out.metrics["score_size"].tolist() == [0.5] * 3
    out.loss_B.sum().backward()
    # -sigmoid(-1), 0.5 - sigmoid(-1), and for the third pair the mirror image of the first
    assert a.grad.tolist() == pytest.approx([-0.2689414213699951, 0.2310585786300049, 0.2689414213699951], rel=1e-12)


@pytest.mark.parametrize(
    ("options", "extra"),
    [({"centering": 0.1}, 0.1), ({"l2": 0.1}, 0.1), ({"centering": 0.1, "l2": 0.3}, 0.4)],
)
def test_what_holds_scores_down_by_hand(options, extra):
    a, b, label = tensor(1.0), tensor(0.0), tensor(1.0).detach()
    plain = bradley_terry.loss(a, b, label).loss_B
    held = bradley_terry.loss(a, b, label, ComparisonOptions(**options)).loss_B
    assert (held - plain).item() == pytest.approx(extra, rel=1e-12)
    # Scores 2 and -2 are centred and yet large: only l2 sees it.
    a, b = tensor(2.0), tensor(-2.0)
    held = bradley_terry.loss(a, b, label, ComparisonOptions(**options)).loss_B
    assert (held - bradley_terry.loss(a, b, label).loss_B).item() == pytest.approx(options.get("l2", 0) * 8, abs=1e-12)


def test_smoothing_and_margin_by_hand():
    a, b, label = tensor(1.0, 1.0), tensor(0.0, 0.0), tensor(1.0, 0.5).detach()
    smoothed = bradley_terry.loss(a, b, label, ComparisonOptions(label_smoothing=0.1)).loss_B
    # 0.9 * 0.313262 + 0.1 * 1.313262; a tie stays what it is
    assert smoothed.tolist() == pytest.approx([0.4132616875182229, 0.8132616875182228], rel=1e-12)
    shifted = bradley_terry.loss(a, b, label, margin_B=torch.tensor([1.0, 1.0]).double()).loss_B
    assert shifted.tolist() == pytest.approx([math.log(2), 0.8132616875182228], rel=1e-12)


def test_tie_models_by_hand():
    one, won, tied = tensor(1.0), torch.tensor([False]), torch.tensor([True])
    zero, ln2 = tensor(0.0), tensor(math.log(2))
    assert bradley_terry.davidson(one, one, won, zero).item() == pytest.approx(0.6802696706417346, rel=1e-12)
    assert bradley_terry.davidson(one, one, tied, zero).item() == pytest.approx(1.1802696706417346, rel=1e-12)
    assert bradley_terry.rao_kupper(one, one, won, ln2).item() == pytest.approx(0.5514447139320511, rel=1e-12)
    assert bradley_terry.rao_kupper(one, one, tied, ln2).item() == pytest.approx(1.3148272293221925, rel=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("ties", ["half", "davidson", "rao_kupper"])
def test_value_and_gradient_against_the_definition(ties, smoothing):
    options = ComparisonOptions(ties=ties, label_smoothing=smoothing, centering=0.02, l2=0.03)
    generator = torch.Generator().manual_seed(1)
    raw = torch.randn(2, 40, generator=generator, dtype=torch.float64) * 2
    required = torch.rand(40, generator=generator, dtype=torch.float64)
    label = torch.tensor(LABELS * 10, dtype=torch.float64)
    log_tie = tensor(*[0.4] * 40)
    a, b = tensor(*raw[0].tolist()), tensor(*raw[1].tolist())
    out = bradley_terry.loss(a, b, label, options, required, log_tie)
    out.loss_B.sum().backward()
    by_tie = 0.0
    for i in range(40):
        values = raw[0, i].item(), raw[1, i].item(), 0.4

        def at(x, y, log, i=i):
            return oracle(x, y, label[i].item(), options, required[i].item(), math.exp(log))

        assert out.loss_B[i].item() == pytest.approx(at(*values), rel=1e-9)
        by_a, by_b, by_log = (slope(at, values, place) for place in range(3))
        assert a.grad[i].item() == pytest.approx(by_a, rel=1e-6, abs=1e-9)
        assert b.grad[i].item() == pytest.approx(by_b, rel=1e-6, abs=1e-9)
        by_tie += by_log
    if ties == "half":
        assert log_tie.grad is None
    else:
        assert log_tie.grad.sum().item() == pytest.approx(by_tie, rel=1e-6)


@pytest.mark.parametrize(("ties", "probabilities"), [("davidson", davidson), ("rao_kupper", rao_kupper)])
def test_outcomes_add_up_to_one_and_large_margins_stay_finite(ties, probabilities):
    model = getattr(bradley_terry, ties)
    d, tied, won = tensor(1.3), torch.tensor([True]), torch.tensor([False])
    log = tensor(math.log(1.7))
    losses = [model(d, tensor(1.0), won, log), model(d, tensor(0.0), won, log), model(d, tensor(0.5), tied, log)]
    assert [math.exp(-loss.item()) for loss in losses] == pytest.approx(probabilities(1.3, 0.0, 1.7), rel=1e-12)
    far = model(tensor(-900.0), tensor(1.0), won, log)
    far.backward()
    assert math.isfinite(far.item())


@pytest.mark.parametrize(
    ("ties", "probabilities", "truth"), [("davidson", davidson, 0.8), ("rao_kupper", rao_kupper, 1.8)]
)
def test_the_tie_parameter_is_found_again(ties, probabilities, truth):
    """Outcomes drawn at a known parameter: the likelihood is highest there."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(2, 6000, generator=generator, dtype=torch.float64)
    chances = torch.tensor([probabilities(a, b, truth) for a, b in scores.T.tolist()], dtype=torch.float64)
    outcome = torch.multinomial(chances, 1, generator=generator).squeeze(1)
    label = torch.tensor([1.0, 0.0, 0.5], dtype=torch.float64)[outcome]
    learned = bradley_terry.TieParameters(ties, None, [float((label == 0.5).double().mean())])
    optimizer = torch.optim.LBFGS(learned.parameters(), max_iter=40)

    def closure():
        optimizer.zero_grad()
        out = bradley_terry.loss(
            scores[0], scores[1], label, ComparisonOptions(ties=ties), log_tie_B=learned.log_K.double().expand(6000)
        )
        value = out.loss_B.mean()
        value.backward()
        return value

    optimizer.step(closure)
    assert learned.record(["choice"])["parameters"] == {"choice": pytest.approx(truth, rel=0.05)}


def test_a_fixed_tie_parameter_stays():
    fixed = bradley_terry.TieParameters("rao_kupper", 1.5, [0.3, 0.0])
    expected = {
        "model": "rao_kupper",
        "learned": False,
        "parameters": {"x": pytest.approx(1.5), "y": pytest.approx(1.5)},
    }
    assert fixed.record(["x", "y"]) == expected
    assert not any(p.requires_grad for p in fixed.parameters())


def test_a_learned_tie_parameter_starts_where_equal_replies_tie_as_often_as_all():
    # Half of all pairs tie at equal scores: nu / (2 + nu) = 1 - 2 / (1 + theta) = 1/2; a fifth of them: 1/5
    for ties, half, fifth in (("davidson", 2.0, 0.5), ("rao_kupper", 3.0, 1.5)):
        record = bradley_terry.TieParameters(ties, None, [0.5, 0.2]).record(["x", "y"])
        assert record == {"model": ties, "learned": True, "parameters": pytest.approx({"x": half, "y": fifth})}


@pytest.mark.parametrize("tied", [0.0, 0.2])
def test_scores_of_least_loss_are_the_strengths_that_choix_finds(tied):
    """A tie, half a win of each, is there one win of each beside two of every other winner."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=8)
    pairs = np.array([rng.choice(8, 2, replace=False) for _ in range(600)])
    won = rng.random(600) < 1 / (1 + np.exp(truth[pairs[:, 1]] - truth[pairs[:, 0]]))
    label = np.where(rng.random(600) < tied, 0.5, won)
    wins = [
        (a, b) if p >= half else (b, a) for (a, b), p in zip(pairs.tolist(), label, strict=True) for half in (0.5, 1)
    ]
    scores = torch.zeros(8, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [scores], max_iter=500, tolerance_grad=1e-13, tolerance_change=0.0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        value = bradley_terry.loss(*scores[torch.tensor(pairs)].unbind(1), torch.tensor(label)).loss_B.mean()
        value.backward()
        return value

    optimizer.step(closure)
    found = scores.detach().numpy() - scores.detach().numpy().mean()
    assert found == pytest.approx(choix.ilsr_pairwise(8, wins, max_iter=1000, tol=1e-12), abs=1e-6)
    assert found == pytest.approx(choix.opt_pairwise(8, wins, alpha=0.0, tol=1e-12), abs=1e-6)
