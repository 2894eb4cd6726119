"""What every file in tasks/rlhf/preference/ keeps to, found by its name: a new algorithm is tested without being named.

Values come from the first optimiser step of the algorithm's own loop on a tiny model, in float32 (softmax and sums):
losses and metrics agree within 1e-5, gradients within 1e-4 of the largest entry.
"""

import copy
import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
import yaml
from torch.optim.optimizer import register_optimizer_step_pre_hook

from tasks.rlhf import algorithms, feedback
from tasks.rlhf.batch import Example, Pair, PairLogps
from tasks.rlhf.logprobs import reply_sums, token_logprobs
from tasks.rlhf.train_on_feedback import train_on_feedback
from tasks.rlhf.train_on_pairs import train_on_pairs
from tests.tasks.conftest import ROOT
from tests.tasks.rlhf.test_loops import Recorder

NAMES = sorted(path.stem for path in (ROOT / "tasks/rlhf/preference").glob("[a-z]*.py"))
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["align"]
OPTIONS = {"num_epochs": 1, "lr": 1e-3, "batch_tokens": 10**6, "sft_weight": 0.3, "max_grad_norm": 1e9}


def section(name):
    assert name in PARAMS, f"params.yaml: align has no section {name!r}"
    return PARAMS[name]


def load(name, **options):
    return algorithms.load(name, {**section(name), **OPTIONS, **options})


def pairs(count=12):
    """Prompts of two to five tokens, replies of one to nine and EOS; all kinds of labels, weights and lengths."""
    rng = np.random.default_rng(5)
    draw = lambda low, high: rng.integers(4, 60, rng.integers(low, high)).tolist()  # noqa: E731
    found = []
    for i in range(count):
        prompt = draw(2, 6)
        a, b = (Example(prompt, [*draw(1, 10), 1]) for _ in "ab")
        found.append(Pair(a, b, label=[1.0, 0.0, 0.8, 0.5][i % 4], weight=0.5 + i % 3, id=f"pair-{i}"))
    return found


@pytest.fixture(scope="module")
def reference(tiny_model):
    """A policy a little away from the tiny model, so that no log-ratio is 0."""
    model = copy.deepcopy(tiny_model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))

    @torch.no_grad()
    def logprobs(examples):
        return token_logprobs(model, examples)

    return logprobs


def train(policy, reference, rows, algorithm, seed, recorder):
    reference = None if reference is None else partial(reply_sums, reference)
    if algorithm.unpaired:
        if not rows or isinstance(rows[0], Pair):
            rows = feedback.from_pairs(rows)
        train_on_feedback(policy, reference, rows, algorithm, seed, recorder)
    else:
        train_on_pairs(policy, reference, rows, algorithm, seed, recorder)


def run(model, reference, algorithm, rows, seed=0):
    """(metrics of the first step, its gradient): one optimiser step, or more for smaller `batch_tokens`."""
    policy = copy.deepcopy(model)
    recorder, gradients = Recorder(), []

    def keep(optimizer, *_):
        found = [p.grad.flatten() for group in optimizer.param_groups for p in group["params"]]
        gradients.append(torch.cat(found).clone())

    hook = register_optimizer_step_pre_hook(keep)
    try:
        train(policy, reference, rows, algorithm, seed, recorder)
    finally:
        hook.remove()
    return recorder.rows[0], gradients[0]


def assert_same(got, expected):
    (metrics, gradient), (other_metrics, other_gradient) = got, expected
    assert metrics == pytest.approx(other_metrics, rel=1e-5, abs=1e-5)
    assert other_gradient.abs().max() > 0
    assert (gradient - other_gradient).abs().max() < 1e-4 * other_gradient.abs().max()


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


def test_micro_batches_change_nothing(name, tiny_model, reference):
    whole = run(tiny_model, reference, load(name), pairs())
    for tokens in (1, 40):
        assert_same(run(tiny_model, reference, load(name, micro_batch_tokens=tokens), pairs()), whole)


def test_the_order_of_the_batch_changes_nothing(name, tiny_model, reference):
    rows = pairs()
    shuffled = [rows[i] for i in np.random.default_rng(2).permutation(len(rows))]
    assert_same(run(tiny_model, reference, load(name), shuffled, seed=7), run(tiny_model, reference, load(name), rows))


def test_padding_changes_nothing(name, tiny_model, reference):
    """A row of weight 0 pads all others to its length; which token stands in the padding does not matter either."""
    algorithm, rows = load(name), pairs()
    plain = run(tiny_model, reference, algorithm, rows)
    long = Example([9], [7] * 40)
    if algorithm.unpaired:
        longer = [*feedback.from_pairs(rows), feedback.Feedback("long", long, long, desirable=1.0, weight=0.0)]
    else:
        longer = [*rows, Pair(long, long, label=1.0, weight=0.0)]
    assert_same(run(tiny_model, reference, algorithm, longer), plain)
    other_pad = copy.deepcopy(tiny_model)
    other_pad.config.pad_token_id = 33
    assert_same(run(other_pad, reference, algorithm, longer), plain)


def test_a_weight_counts_rows(name, tiny_model, reference):
    """A pair of weight 2 is worth two pairs; the copy has the same id, so that its partner is the same too."""
    single = [dataclasses.replace(pair, weight=2.0 if i < 5 else 1.0) for i, pair in enumerate(pairs())]
    double = [dataclasses.replace(pair, weight=1.0) for pair in pairs()[:5] + pairs()]
    assert_same(run(tiny_model, reference, load(name), single), run(tiny_model, reference, load(name), double))


def test_the_metrics_say_what_was_learned(name, tiny_model, reference):
    algorithm = load(name, num_epochs=15, lr=3e-3)
    policy, recorder = copy.deepcopy(tiny_model), Recorder()
    train(policy, reference, pairs(), algorithm, 0, recorder)
    first, last = recorder.rows[0], recorder.rows[-1]
    kind = "log_ratio" if algorithm.module.NEEDS_REFERENCE else "logp"
    assert last["loss"] < first["loss"]
    assert last["implicit_margin"] > first["implicit_margin"]
    assert last["implicit_margin"] > 0
    assert 0.75 < last["implicit_accuracy"] <= 1
    moved = {side: last[f"{side}_{kind}"] - first[f"{side}_{kind}"] for side in ("chosen", "rejected")}
    assert moved["chosen"] > moved["rejected"]


def logps_at_reference(grad=True):
    """Equal log-probs of policy and reference; replies of different lengths and likelihoods."""
    a, b = (torch.tensor(values, dtype=torch.float64) for values in ([-6.0, -2.0, -9.0], [-3.0, -8.0, -9.0]))
    lengths = torch.tensor([4.0, 2.0, 3.0], dtype=torch.float64), torch.tensor([2.0, 5.0, 3.0], dtype=torch.float64)
    return PairLogps(a.clone().requires_grad_(), b.clone().requires_grad_(), *lengths), PairLogps(a, b, *lengths)


@pytest.mark.parametrize("label", [1.0, 0.8, 0.2, 0.0])
def test_at_the_reference_the_chosen_rises_and_the_rejected_falls(name, label):
    algorithm = load(name)
    policy, frozen = logps_at_reference()
    label_B = torch.full((3,), label, dtype=torch.float64)
    if algorithm.unpaired:
        z0 = torch.zeros((), dtype=torch.float64)
        for logp_B, wanted_B in ((policy.a_B, label_B), (policy.b_B, 1 - label_B)):
            algorithm.module.loss(logp_B, logp_B.detach(), wanted_B, z0, algorithm.config).loss_B.sum().backward()
    else:
        given = frozen if algorithm.module.NEEDS_REFERENCE else None
        algorithm.module.loss(policy, given, label_B, algorithm.config).loss_B.sum().backward()
    chosen, rejected = (policy.a_B.grad, policy.b_B.grad)[:: 1 if label > 0.5 else -1]
    assert (chosen < 0).all()
    assert (rejected > 0).all()


def test_swapping_the_replies_and_the_label_changes_nothing(name):
    """No position is favoured, and a tie prefers neither reply; of replies judged alone, neither verdict is."""
    algorithm = load(name)
    policy, frozen = logps_at_reference()
    if algorithm.unpaired:
        wanted_B, z0 = torch.tensor([1.0, 0.0, 0.5]).double(), torch.tensor(0.3).double()
        same_B = torch.full_like(wanted_B, -2.0)
        yes, no, unknown = algorithm.module.loss(same_B, same_B - 1, wanted_B, z0, algorithm.config).loss_B.tolist()
        assert unknown == pytest.approx((yes + no) / 2)
        return
    moved = PairLogps(frozen.a_B - 1, frozen.b_B + 0.5, frozen.a_tokens_B, frozen.b_tokens_B)
    swapped, swapped_frozen = (PairLogps(p.b_B, p.a_B, p.b_tokens_B, p.a_tokens_B) for p in (policy, moved))
    for label in (1.0, 0.7, 0.5, 0.0):
        label_B = torch.full((3,), label, dtype=torch.float64)
        one = algorithm.module.loss(policy, moved, label_B, algorithm.config).loss_B
        other = algorithm.module.loss(swapped, swapped_frozen, 1 - label_B, algorithm.config).loss_B
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_what_the_algorithm_lacks_is_named(name, tiny_model, reference):
    algorithm = load(name)
    own = [field.name for field in dataclasses.fields(algorithm.module.Config)]
    required = [f.name for f in dataclasses.fields(algorithm.module.Config) if f.default is dataclasses.MISSING]
    assert required, "an algorithm has at least one value that its user has to choose"
    for key in required:
        rest = {k: v for k, v in section(name).items() if k != key}
        with pytest.raises(ValueError, match=rf"params\.yaml: align\.{name}\.{key}: missing"):
            algorithms.load(name, rest)
    with pytest.raises(ValueError, match=rf"params\.yaml: align\.{name}\.kl_coef = 1: unknown key"):
        algorithms.load(name, section(name) | {"kl_coef": 1})
    for key in own:
        with pytest.raises(ValueError, match=rf"params\.yaml: align\.{name}\.{key}"):
            algorithms.load(name, section(name) | {key: "nonsense"})


def test_data_that_teach_nothing_stop_the_run(name, tiny_model, reference):
    algorithm = load(name)
    ties = [dataclasses.replace(pair, label=0.5) for pair in pairs()]
    with pytest.raises(ValueError, match=r"none of the 12 pairs has a preferred reply"):
        run(tiny_model, reference, algorithm, ties)
    with pytest.raises(ValueError, match=r"none of the 0 pairs has a preferred reply"):
        run(tiny_model, reference, algorithm, [])
    with pytest.raises(ValueError, match=r"weight above 0"):
        run(tiny_model, reference, algorithm, [dataclasses.replace(pair, weight=0.0) for pair in pairs()])
    with pytest.raises(ValueError, match=r"a probability, from 0 to 1"):
        run(tiny_model, reference, algorithm, [dataclasses.replace(pair, label=2.0) for pair in pairs()])
    empty = [dataclasses.replace(pair, b=Example(pair.b.prompt_ids, [])) for pair in pairs()]
    with pytest.raises(ValueError, match=r"without tokens"):
        run(tiny_model, reference, algorithm, empty)


def test_a_reference_is_asked_for_where_it_is_needed_and_only_there(name, tiny_model):
    algorithm = load(name)
    if algorithm.module.NEEDS_REFERENCE:
        with pytest.raises(ValueError, match=rf"align\.algorithm = '{name}' needs the log-probs of a reference"):
            run(tiny_model, None, algorithm, pairs())
    else:
        run(tiny_model, None, algorithm, pairs())
