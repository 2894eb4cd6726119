"""What every algorithm on rollouts must hold to; a new file in tasks/rlhf/policy is found by itself."""

import importlib
from pathlib import Path

import pytest
import torch

from tasks.adapters import stage
from tasks.rlhf import algorithms
from tasks.rlhf.batch import join
from tests.tasks.rlhf.rollouts import draw, make

NAMES = sorted(file.stem for file in algorithms.find("ppo")[1].parent.glob("[a-z]*.py"))
KL_COEF = 0.1
UNSCORED = [1, 4, 5, 6, 7]  # one reply of the first prompt, all of the second

pytestmark = pytest.mark.parametrize(
    "module", [importlib.import_module(f"tasks.rlhf.policy.{n}") for n in NAMES], ids=NAMES
)


def teach(module, rollout, config=None):
    return module.advantages(rollout, KL_COEF, config or module.Config())


def moved(rollout, by=0.3):
    generator = torch.Generator().manual_seed(1)
    return rollout.logprobs_BT + by * torch.randn(rollout.logprobs_BT.shape, generator=generator, dtype=torch.float64)


def loss_of(module, logprobs, rollout, advantages_BT, kl_coef=KL_COEF, config=None):
    """The loss of all rows, reduced as the loop reduces it, and its gradient by the log-probs."""
    logprobs = logprobs.detach().clone().requires_grad_()
    out = module.loss(logprobs, torch.ones_like(logprobs), rollout, advantages_BT, kl_coef, config or module.Config())
    loss = out.loss_B.sum() / out.weight_B.sum()
    (gradient,) = torch.autograd.grad(loss, logprobs)
    for metric_B in out.metrics.values():
        assert metric_B.shape == out.loss_B.shape
    return loss, gradient


def kept_loss(module, rollout, logprobs):
    """Advantages over all rows, the loss over those kept: what one full minibatch computes."""
    lesson = teach(module, rollout)
    kept_B = lesson.kept_B.nonzero().squeeze(1)
    loss, gradient = loss_of(module, logprobs[kept_B], rollout.rows(kept_B), lesson.advantages_BT[kept_B])
    return loss, torch.zeros_like(logprobs).index_copy(0, kept_B, gradient)


def test_declares_what_it_needs(module):
    assert isinstance(module.NEEDS_CRITIC, bool)
    assert isinstance(module.NEEDS_KL, bool)
    assert module.MIN_REPLIES >= 1
    assert hasattr(module, "value_loss") == module.NEEDS_CRITIC
    assert "arXiv" in module.__doc__ or "doi" in module.__doc__
    lesson = teach(module, draw())
    assert (lesson.returns_BT is not None) == module.NEEDS_CRITIC
    assert lesson.kept_B.dtype == torch.bool


def test_every_parameter_file_has_a_section_for_it(module):
    root = Path(__file__).parents[3]
    for path in (root / "params.yaml", *sorted((root / "infra/recipes").glob("*.yaml"))):
        name = module.__name__.rpartition(".")[2]
        options = algorithms.load(name, stage.read_yaml(path)["align"][name]).options
        assert options.max_kl is not None, path


def test_padding_changes_nothing(module):
    rollout = draw(unscored=UNSCORED)
    wider = join(rollout, draw(num_prompts=1, most=20, seed=9)).rows(torch.arange(len(rollout.examples)))
    assert wider.reply_mask_BT.shape[1] > rollout.reply_mask_BT.shape[1]
    for name in ("logprobs_BT", "reference_BT", "values_BT"):  # what stands in the padding must not matter
        getattr(wider, name)[~wider.reply_mask_BT] = 7.0
    narrow, wide = teach(module, rollout), teach(module, wider)
    torch.testing.assert_close(wide.advantages_BT[:, :7], narrow.advantages_BT)
    assert wide.kept_B.tolist() == narrow.kept_B.tolist()
    grown = torch.nn.functional.pad(moved(rollout), (0, wider.reply_mask_BT.shape[1] - 7), value=-5.0)
    for a, b in zip(kept_loss(module, wider, grown), kept_loss(module, rollout, moved(rollout)), strict=True):
        torch.testing.assert_close(a[:, :7] if a.dim() else a, b)
        assert not a.dim() or not a[:, 7:].any()


def test_the_order_of_rows_changes_nothing(module):
    rollout = draw(unscored=UNSCORED)
    order = torch.randperm(len(rollout.examples), generator=torch.Generator().manual_seed(0))
    lesson, shuffled = teach(module, rollout), teach(module, rollout.rows(order))
    torch.testing.assert_close(shuffled.advantages_BT, lesson.advantages_BT[order])
    assert shuffled.kept_B.tolist() == lesson.kept_B[order].tolist()
    loss, gradient = kept_loss(module, rollout, moved(rollout))
    again, turned = kept_loss(module, rollout.rows(order), moved(rollout)[order])
    torch.testing.assert_close(again, loss)
    torch.testing.assert_close(turned, gradient[order])


def test_parts_of_a_minibatch_add_up(module):
    """Sums over micro-batches of whole prompts, over the sum of their weights, are those of the minibatch."""
    rollout = draw(unscored=UNSCORED)
    lesson, new, config = teach(module, rollout), moved(rollout), module.Config()

    def out(index):
        rows = index[lesson.kept_B[index]]
        return module.loss(new[rows], new[rows], rollout.rows(rows), lesson.advantages_BT[rows], KL_COEF, config)

    whole = out(torch.arange(24))
    parts = [out(index) for index in torch.arange(24).split([4, 8, 12])]
    for key in ("loss_B", "weight_B"):
        total = sum(getattr(part, key).sum() for part in parts)
        torch.testing.assert_close(total, getattr(whole, key).sum())


def one_pair(advantage=1.0):
    """Two replies to one prompt, the first better; policy = old = reference."""
    rollout = make([[-1.0, -2.0], [-3.0, 0.0]], [[1, 1], [1, 0]], prompts=[0, 0])
    return rollout, advantage * torch.tensor([[1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)


def test_a_positive_advantage_raises_and_a_negative_lowers_the_log_probability(module):
    rollout, advantages_BT = one_pair()
    _, gradient = loss_of(module, rollout.logprobs_BT, rollout, advantages_BT)
    assert (gradient[0] < 0).all()  # the loss falls where these log-probs rise
    assert gradient[1, 0] > 0
    assert gradient[1, 1] == 0  # padding
    assert gradient[0, 0] == gradient[0, 1]  # at policy = old no token of a reply is weighted down


def test_at_the_old_policy_the_ratio_is_1_and_nothing_is_clipped(module):
    rollout, advantages_BT = one_pair()
    clips = "clip" in module.Config.__dataclass_fields__
    tight = module.Config(**({"clip": 1e-12} if clips else {}))
    _, gradient = loss_of(module, rollout.logprobs_BT, rollout, advantages_BT, config=tight)
    torch.testing.assert_close(gradient, loss_of(module, rollout.logprobs_BT, rollout, advantages_BT)[1])
    entropy = torch.ones_like(advantages_BT)
    out = module.loss(rollout.logprobs_BT, entropy, rollout, advantages_BT, KL_COEF, module.Config())
    if clips:
        assert not out.metrics["clip_fraction"].any()
        torch.testing.assert_close(out.loss_B, -advantages_BT[:, 0] * out.weight_B)  # -ratio * advantage


def test_replies_that_score_the_same_give_no_nan(module):
    """The mean of three times 0.1 is not 0.1, and scores of one reply in two batches differ in the last digits."""
    scores = [0.1] * 3 + [0.7, 0.7 + 1e-7, 0.7]
    rollout = make([[-1.0, -2.0]] * 6, [[1, 1]] * 6, scores=scores, prompts=[0, 0, 0, 1, 1, 1], values=[[0.0] * 2] * 6)
    lesson = teach(module, rollout)
    if module.MIN_REPLIES > 1:  # compares replies to one prompt
        torch.testing.assert_close(lesson.advantages_BT, torch.zeros_like(lesson.advantages_BT), atol=1e-6, rtol=0)
    assert lesson.advantages_BT.isfinite().all()
    if lesson.kept_B.any():
        loss, gradient = kept_loss(module, rollout, rollout.logprobs_BT)
        assert loss.isfinite()
        assert gradient.isfinite().all()


def test_unscorable_replies_teach_nothing(module):
    rollout = draw(unscored=UNSCORED)
    lesson = teach(module, rollout)
    assert not lesson.advantages_BT[UNSCORED].any()
    assert not lesson.kept_B[UNSCORED].any()
    _, gradient = loss_of(module, moved(rollout), rollout, lesson.advantages_BT)  # even if they were not left out
    assert gradient.isfinite().all()
    assert not gradient[UNSCORED].any()
    assert gradient.any()


def test_unscorable_replies_leave_the_others_alone(module):
    """The other rows get the advantages that they would get had the unscorable replies never been drawn."""
    rollout = draw(unscored=UNSCORED)
    scored = rollout.scored_B.nonzero().squeeze(1)
    alone, among = teach(module, rollout.rows(scored)), teach(module, rollout)
    torch.testing.assert_close(among.advantages_BT[scored], alone.advantages_BT)
    assert among.kept_B[scored].tolist() == alone.kept_B.tolist()
