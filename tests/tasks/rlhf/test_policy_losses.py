"""The losses and advantages of policy algorithms: hand-worked numbers and float64 oracles written another way."""

import math
import statistics
from dataclasses import replace

import pytest
import torch

from tasks.rlhf.policy import best_of_n, grpo, online_dpo, ppo, reinforce, rloo
from tests.tasks.rlhf.rollouts import draw, make


def tensor(rows):
    return torch.tensor(rows, dtype=torch.float64)


def reduced(out):
    return out.loss_B.sum() / out.weight_B.sum()


def run(module, logprobs, rollout, advantages_BT, kl_coef=0.0, **config):
    return module.loss(logprobs, torch.zeros_like(logprobs), rollout, advantages_BT, kl_coef, module.Config(**config))


def close(found, expected):
    """Relative error below 1e-6, also where the other side is 0."""
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-12)


def test_ppo_clips_by_hand():
    part = make([[0.0, 0.0, 0.0]], [[1, 1, 0]])
    out = run(ppo, tensor([[0.5, -0.5, 9.0]]), part, tensor([[1.0, 1.0, 1.0]]), clip=0.2)
    # ratios 1.6487 -> clipped to 1.2; 0.6065 is worse than its clip 0.8 and stays; the padded token counts nothing
    assert out.loss_B.item() == pytest.approx(-(1.2 + math.exp(-0.5)), rel=1e-12)
    assert out.weight_B.item() == 2
    assert out.metrics["clip_fraction"].item() == 2


def test_ppo_entropy_bonus_lowers_the_loss():
    part, zeros = make([[0.0, 0.0]], [[1, 1]]), tensor([[0.0, 0.0]])
    out = ppo.loss(zeros, tensor([[2.0, 3.0]]), part, zeros, 0.0, ppo.Config(entropy_coef=0.1))
    assert out.loss_B.item() == pytest.approx(-0.5)


def test_ppo_value_loss_takes_the_larger_error():
    part = make([[0.0, 0.0]], [[1, 1]], values=[[0.0, 0.0]])
    out = ppo.value_loss(tensor([[1.0, 0.1]]), part, tensor([[1.0, 1.0]]), ppo.Config(value_clip=0.2))
    # first: unclipped error 0, clipped value 0.2 has (0.8)^2; second: inside the clip, 0.9^2
    assert out.loss_B.item() == pytest.approx(0.5 * (0.64 + 0.81))
    assert out.weight_B.item() == 2


def test_ppo_rewards_are_score_at_the_end_less_kl():
    part = make(
        [[-1.0, -1.0], [-1.0, 0.0]],
        [[1, 1], [1, 0]],
        reference=[[-1.5, -0.5], [-2.0, 0.0]],
        scores=[3.0, 5.0],
        values=[[0.0] * 2] * 2,
    )
    lesson = ppo.advantages(part, 0.1, ppo.Config(gamma=1.0, lam=1.0))
    # row 1: token rewards -0.1 * 0.5 and 3 + 0.1 * 0.5; row 2: 5 - 0.1 * 1 and nothing after its end
    close(lesson.returns_BT, tensor([[3.0, 3.05], [4.9, 0.0]]))


def test_reinforce_by_hand():
    part = make([[0.0]] * 3, [[1]] * 3, scores=[1.0, 2.0, 6.0])
    close(reinforce.advantages(part, 0.0, reinforce.Config()).advantages_BT, tensor([[-2.0], [-1.0], [3.0]]))
    # rewards to go with KL: row 1 has returns 1 - 0.1 * (0.5 - 0.5) = 1 and 1 + 0.05; row 2 has 2; mean 4.05 / 3
    part = make([[-1.0, -1.0], [-1.0, 0.0]], [[1, 1], [1, 0]], reference=[[-1.5, -0.5], [-1.0, 0.0]], scores=[1.0, 2.0])
    expected = tensor([[1.0 - 1.35, 1.05 - 1.35], [2.0 - 1.35, 0.0]])
    close(reinforce.advantages(part, 0.1, reinforce.Config()).advantages_BT, expected)
    out = run(reinforce, tensor([[0.5]]), make([[0.0]], [[1]]), tensor([[2.0]]))
    assert out.loss_B.item() == pytest.approx(-2 * math.exp(0.5), rel=1e-12)


def test_rloo_by_hand():
    part = make([[0.0]] * 3, [[1]] * 3, scores=[1.0, 2.0, 6.0], prompts=[0, 0, 0])
    close(rloo.advantages(part, 0.0, rloo.Config()).advantages_BT, tensor([[-3.0], [-1.5], [4.5]]))
    # KL of whole replies in the reward: 1 - 0.1 * 2 = 0.8 and 2 - 0.1 * (-1) = 2.1
    part = make([[-1.0, -1.0], [-2.0, 0.0]], [[1, 1], [1, 0]], reference=[[-2.0, -2.0], [-1.0, 0.0]], scores=[1.0, 2.0],
                prompts=[0, 0])  # fmt: skip
    close(rloo.advantages(part, 0.1, rloo.Config()).advantages_BT, tensor([[-1.3, -1.3], [1.3, 0.0]]))
    out = run(rloo, tensor([[0.2, 0.3]]), make([[0.0, 0.0]], [[1, 1]]), tensor([[1.0, 1.0]]))
    assert reduced(out).item() == pytest.approx(-1.2, rel=1e-12)
    assert out.weight_B.item() == 1


def test_grpo_by_hand():
    part = make([[0.0]] * 3, [[1]] * 3, scores=[1.0, 2.0, 6.0], prompts=[0, 0, 0])
    found = grpo.advantages(part, 0.0, grpo.Config()).advantages_BT[:, 0]
    assert found.tolist() == pytest.approx([x / (7**0.5 + 1e-4) for x in (-2, -1, 3)], rel=1e-12)
    found = grpo.advantages(part, 0.0, grpo.Config(scale=False)).advantages_BT[:, 0]
    assert found.tolist() == pytest.approx([-2, -1, 3])
    part = make([[0.0]], [[1]], reference=[[-0.5]])
    out = run(grpo, tensor([[0.5]]), part, tensor([[1.0]]), kl_coef=0.1)
    # log(policy / reference) = 1: k3 = e^-1 - 1 + 1
    assert reduced(out).item() == pytest.approx(-1.2 + 0.1 * math.exp(-1), rel=1e-12)
    out = run(grpo, tensor([[0.5]]), part, tensor([[1.0]]), kl_coef=0.1, kl_loss="k3_weighted", clip_high=0.3)
    assert reduced(out).item() == pytest.approx(-1.3 + 0.1 * math.exp(-1) * math.exp(0.5), rel=1e-12)
    out = run(grpo, tensor([[0.5]]), part, tensor([[1.0]]), kl_coef=0.1, kl_loss="k2")
    assert reduced(out).item() == pytest.approx(-1.2 + 0.1 * 0.5, rel=1e-12)


@pytest.mark.parametrize("kind", ["k3", "k3_weighted", "k2"])
def test_a_tools_token_may_be_infinitely_unlikely(kind):
    part = make([[0.0, -100.0, 0.0]], [[1, 0, 1]], reference=[[0.0, -0.1, 0.0]])
    logprobs = torch.tensor([[0.0, -100.0, 0.0]], requires_grad=True)  # in float32 e^99.9 is infinite
    part = replace(part, reference_BT=part.reference_BT.float(), logprobs_BT=part.logprobs_BT.float())
    loss_B = run(grpo, logprobs, part, torch.ones(1, 3), kl_coef=0.1, kl_loss=kind).loss_B
    loss_B.sum().backward()
    assert torch.isfinite(loss_B).all()
    assert logprobs.grad.tolist() == [[-0.5, 0.0, -0.5]]


def test_grpo_advantages_of_equal_scores_are_exactly_0():
    """The mean of three times 0.1 is not 0.1, and one reply in two batches differs in the last digits."""
    part = make([[0.0]] * 6, [[1]] * 6, scores=[0.1] * 3 + [0.7, 0.7 + 1e-7, 0.7], prompts=[0, 0, 0, 1, 1, 1])
    assert not grpo.advantages(part, 0.0, grpo.Config()).advantages_BT.any()


@pytest.mark.parametrize(("aggregation", "expected"), [("grpo", -1.5), ("dapo", -5 / 4), ("dr_grpo", -5 / 20)])
def test_grpo_aggregates_by_hand(aggregation, expected):
    """Advantage 1 on the three tokens of one reply, 2 on the one of the other; at most 10 tokens."""
    part = make([[0.0] * 3] * 2, [[1, 1, 1], [1, 0, 0]], most=10)
    out = run(grpo, torch.zeros(2, 3).double(), part, tensor([[1.0] * 3, [2.0] * 3]), aggregation=aggregation)
    assert reduced(out).item() == pytest.approx(expected)


def test_best_of_n_by_hand():
    part = make(
        [[-1.0, -1.0]] * 4,
        [[1, 1], [1, 0], [1, 1], [1, 1]],
        reference=[[-1.0, -1.0], [-1.0, 0.0], [-9.0, -9.0], [-1.0, -1.0]],
        scores=[1.0, 2.0, 2.5, 2.0],
        prompts=[0, 0, 0, 1],
    )
    lesson = best_of_n.advantages(part, 0.1, best_of_n.Config())
    # the third scores best, but at log(policy / reference) 16; of the second prompt there is one reply alone
    assert lesson.kept_B.tolist() == [False, True, False, False]
    assert lesson.advantages_BT.tolist() == [[0, 0], [1, 0], [0, 0], [0, 0]]
    assert best_of_n.advantages(part, 0.0, best_of_n.Config()).kept_B.tolist() == [False, False, True, False]
    # of equal scores the first wins, whatever rounding has left in the log-probs
    part = make([[0.0], [1e-7], [0.0]], [[1]] * 3, reference=[[0.0]] * 3, scores=[1.0, 1.0, 0.0], prompts=[0] * 3)
    for sign in (1, -1):
        noisy = replace(part, logprobs_BT=sign * part.logprobs_BT)
        assert best_of_n.advantages(noisy, 0.1, best_of_n.Config()).kept_B.tolist() == [True, False, False]
    out = run(best_of_n, tensor([[-2.0, -1.0]]), make([[0.0, 0.0]], [[1, 1]]), tensor([[1.0, 1.0]]))
    assert (out.loss_B.item(), out.weight_B.item()) == (3, 2)


def test_online_dpo_by_hand():
    part = make(
        [[0.0]] * 5, [[1]] * 5, reference=[[0.0]] * 5, scores=[1.0, 3.0, 0.5, 3.0, 7.0], prompts=[0, 0, 0, 0, 1]
    )
    lesson = online_dpo.advantages(part, 0.1, online_dpo.Config())
    assert lesson.kept_B.tolist() == [False, True, True, False, False]  # of equals the first
    assert lesson.advantages_BT[:, 0].tolist() == [0, 1, -1, 0, 0]
    pair = make([[0.0], [0.0]], [[1], [1]], reference=[[-3.0], [-1.0]], prompts=[4, 4])
    out = run(online_dpo, tensor([[-1.0], [-2.0]]), pair, tensor([[1.0], [-1.0]]), kl_coef=0.1)
    # log-ratios 2 and -1: margin 0.3, -ln sigmoid(0.3) = 0.5543552444685272
    assert reduced(out).item() == pytest.approx(0.5543552444685272, rel=1e-12)
    assert out.metrics["implicit_margin"].tolist() == pytest.approx([0.3, 0.0])


# --- Oracles: loops over Python numbers, gradients worked out on paper.

UNSCORED = (2, 9, 20, 21, 22)  # of the last group one reply is scored


def rows_of(rollout):
    """Per row: prompt, length, score (None: unscored), KL scale, log-probs, those of the reference."""
    for i, mask in enumerate(rollout.reply_mask_BT.tolist()):
        size, score = sum(mask), rollout.scores_B[i].item()
        yield (
            rollout.prompt_B[i].item(),
            size,
            None if math.isnan(score) else score,
            rollout.kl_scale_B[i].item(),
            rollout.logprobs_BT[i, :size].tolist(),
            rollout.reference_BT[i, :size].tolist(),
        )


def padded(rows, width):
    return tensor([list(row) + [0.0] * (width - len(row)) for row in rows])


def rewards_of(rollout, kl_coef):
    """Reward of each whole reply, None where it was not scored."""
    return [
        None if score is None else score - kl_coef * scale * sum(a - b for a, b in zip(old, ref, strict=True))
        for _, _, score, scale, old, ref in rows_of(rollout)
    ]


def siblings(rollout, values, i):
    """Values of the other scored replies to the prompt of row i."""
    same = rollout.prompt_B == rollout.prompt_B[i]
    return [values[j] for j in same.nonzero().flatten().tolist() if j != i and values[j] is not None]


def spread_rows(rollout, per_row):
    """One advantage per row, on each of its tokens."""
    sizes = rollout.reply_mask_BT.sum(1).tolist()
    return padded([[a] * n for a, n in zip(per_row, sizes, strict=True)], rollout.reply_mask_BT.shape[1])


def test_reinforce_advantages_oracle():
    rollout = draw(unscored=UNSCORED)
    returns = []
    for _, size, score, scale, old, ref in rows_of(rollout):
        costs = [0.3 * scale * (a - b) for a, b in zip(old, ref, strict=True)]
        returns.append(None if score is None else [score - sum(costs[t:]) for t in range(size)])
    tokens = [g for row in returns if row for g in row]
    mean, deviation = statistics.fmean(tokens), statistics.pvariance(tokens) + 1e-8
    lengths = rollout.reply_mask_BT.sum(1).tolist()
    for whiten, scale in ((False, 1.0), (True, deviation**-0.5)):
        expected = [
            [(g - mean) * scale for g in row] if row else [0] * n for row, n in zip(returns, lengths, strict=True)
        ]
        lesson = reinforce.advantages(rollout, 0.3, reinforce.Config(whiten=whiten))
        close(lesson.advantages_BT, padded(expected, 7))
        assert lesson.kept_B.tolist() == [row is not None for row in returns]


def test_rloo_advantages_oracle():
    rollout = draw(unscored=UNSCORED)
    rewards = rewards_of(rollout, 0.3)
    expected = []
    for i, reward in enumerate(rewards):
        others = siblings(rollout, rewards, i)
        expected.append(reward - statistics.fmean(others) if reward is not None and others else 0.0)
    assert expected[23] == 0  # nothing to compare it with
    close(rloo.advantages(rollout, 0.3, rloo.Config()).advantages_BT, spread_rows(rollout, expected))


@pytest.mark.parametrize("scale", [True, False])
def test_grpo_advantages_oracle(scale):
    rollout = draw(unscored=UNSCORED)
    scores = [score for _, _, score, *_ in rows_of(rollout)]
    expected = []
    for i, score in enumerate(scores):
        group = [*siblings(rollout, scores, i), score]
        if score is None or len(group) == 1:
            expected.append(0.0)
            continue
        centred = score - statistics.fmean(group)
        expected.append(centred / (statistics.stdev(group) + 1e-4) if scale else centred)
    lesson = grpo.advantages(rollout, 0.3, grpo.Config(scale=scale))
    close(lesson.advantages_BT, spread_rows(rollout, expected))


def test_best_of_n_and_online_dpo_oracle():
    rollout = draw(unscored=UNSCORED)
    for module, values in ((best_of_n, rewards_of(rollout, 0.3)), (online_dpo, rewards_of(rollout, 0.0))):
        sign = [0.0] * len(values)
        for prompt in range(6):
            known = [(v, i) for i, v in enumerate(values) if v is not None and rollout.prompt_B[i] == prompt]
            if len(known) > 1:
                sign[max(known)[1]] = 1.0
                sign[min(known)[1]] = -1.0 if module is online_dpo else 0.0
        lesson = module.advantages(rollout, 0.3, module.Config())
        close(lesson.advantages_BT, spread_rows(rollout, sign))
        assert lesson.kept_B.tolist() == [value != 0 for value in sign]


def test_ppo_advantages_oracle():
    rollout = draw(unscored=UNSCORED)
    config = ppo.Config(gamma=0.9, lam=0.8)
    advantages, returns = [], []
    for i, (_, size, score, scale, old, ref) in enumerate(rows_of(rollout)):
        if score is None:
            advantages.append([0.0] * size)
            returns.append([0.0] * size)
            continue
        values = [*rollout.values_BT[i, :size].tolist(), 0.0]
        rewards = [-0.3 * scale * (a - b) for a, b in zip(old, ref, strict=True)]
        rewards[-1] += score
        deltas = [rewards[t] + 0.9 * values[t + 1] - values[t] for t in range(size)]
        advantages.append([sum((0.9 * 0.8) ** (k - t) * deltas[k] for k in range(t, size)) for t in range(size)])
        returns.append([a + v for a, v in zip(advantages[-1], values, strict=False)])
    scored = [score is not None for _, _, score, *_ in rows_of(rollout)]
    tokens = [a for row, known in zip(advantages, scored, strict=True) for a in row if known]
    mean, deviation = statistics.fmean(tokens), (statistics.pvariance(tokens) + 1e-8) ** 0.5
    white = [
        [(a - mean) / deviation if known else 0.0 for a in row] for row, known in zip(advantages, scored, strict=True)
    ]
    lesson = ppo.advantages(rollout, 0.3, config)
    close(lesson.advantages_BT, padded(white, 7))
    close(lesson.returns_BT, padded(returns, 7))


def surrogate(log_ratio, advantage, low, high):
    """(loss, its derivative by the log-ratio) of one clipped ratio."""
    ratio = math.exp(log_ratio)
    bound = min(max(ratio, 1 - low), 1 + high)
    if ratio * advantage <= bound * advantage:
        return -ratio * advantage, -ratio * advantage
    return -bound * advantage, 0.0


def kl_loss(kind, new, ref, log_ratio):
    """(value, derivative by the new log-prob) of GRPO's KL term for one token."""
    x = ref - new
    k3, slope = math.exp(x) - 1 - x, 1 - math.exp(x)
    if kind == "k2":
        return 0.5 * x * x, -x
    if kind == "k3":
        return k3, slope
    return math.exp(log_ratio) * k3, math.exp(log_ratio) * (k3 + slope)


GRPO = [
    {},
    {"aggregation": "dapo", "clip_high": 0.28},
    {"aggregation": "dr_grpo", "kl_loss": "k2"},
    {"ratio": "sequence"},
    {"ratio": "sequence", "aggregation": "dapo"},
    {"kl_loss": "k3_weighted"},
]


def grpo_oracle(rollout, new, advantages, kl_coef, config):
    """(loss, gradient), row by row and token by token."""
    counted = [i for i, (_, _, score, *_) in enumerate(rows_of(rollout)) if score is not None]
    rows = list(rows_of(rollout))
    all_tokens = sum(rows[i][1] for i in counted)
    total, gradient = 0.0, [[0.0] * new.shape[1] for _ in rows]
    for i in counted:
        _, size, _, scale, old, ref = rows[i]
        share = {
            "grpo": 1 / (size * len(counted)),
            "dapo": 1 / all_tokens,
            "dr_grpo": 1 / (rollout.max_new_tokens * len(counted)),
        }[config.aggregation]
        logs = [new[i, t].item() - old[t] for t in range(size)]
        for t in range(size):
            log_ratio = logs[t] if config.ratio == "token" else sum(logs) / size
            value, slope = surrogate(log_ratio, advantages[i, t].item(), config.clip, config.clip_high or config.clip)
            kl, kl_slope = kl_loss(config.kl_loss, new[i, t].item(), ref[t], logs[t])
            total += share * (value + kl_coef * scale * kl)
            gradient[i][t] += share * kl_coef * scale * kl_slope
            for u in [t] if config.ratio == "token" else range(size):
                gradient[i][u] += share * slope / (1 if config.ratio == "token" else size)
    return total, tensor(gradient)


def moved(rollout, seed=3, by=0.3):
    """Log-probs of a policy that has moved on since the rollout."""
    generator = torch.Generator().manual_seed(seed)
    step = by * torch.randn(rollout.logprobs_BT.shape, generator=generator, dtype=torch.float64)
    return (rollout.logprobs_BT + step).requires_grad_()


@pytest.mark.parametrize("options", GRPO, ids=str)
def test_grpo_loss_oracle(options):
    config, rollout = grpo.Config(**options), draw(unscored=UNSCORED)
    new, advantages = moved(rollout), grpo.advantages(rollout, 0.3, config).advantages_BT
    loss = reduced(grpo.loss(new, new.detach(), rollout, advantages, 0.3, config))
    loss.backward()
    expected, gradient = grpo_oracle(rollout, new.detach(), advantages, 0.3, config)
    close(loss, tensor(expected))
    close(new.grad, gradient)


def token_oracle(rollout, new, advantages, low, high):
    """Mean over tokens of the clipped surrogate."""
    rows = list(rows_of(rollout))
    total, gradient, tokens = 0.0, [[0.0] * new.shape[1] for _ in rows], 0
    for i, (_, size, score, _, old, _) in enumerate(rows):
        for t in range(size if score is not None else 0):
            value, slope = surrogate(new[i, t].item() - old[t], advantages[i, t].item(), low, high)
            total, tokens = total + value, tokens + 1
            gradient[i][t] = slope
    return total / tokens, tensor(gradient) / tokens


@pytest.mark.parametrize(("module", "clip"), [(ppo, 0.2), (reinforce, math.inf)])
def test_token_ratio_loss_oracle(module, clip):
    rollout = draw(unscored=UNSCORED)
    new, advantages = moved(rollout), module.advantages(rollout, 0.3, module.Config()).advantages_BT
    loss = reduced(run(module, new, rollout, advantages))
    loss.backward()
    expected, gradient = token_oracle(rollout, new.detach(), advantages, clip, clip)
    close(loss, tensor(expected))
    close(new.grad, gradient)


def test_rloo_loss_oracle():
    rollout = draw(unscored=UNSCORED)
    new, advantages = moved(rollout, by=0.1), rloo.advantages(rollout, 0.3, rloo.Config()).advantages_BT
    loss = reduced(run(rloo, new, rollout, advantages, clip=0.1))
    loss.backward()
    total, count, gradient = 0.0, 0, torch.zeros_like(new)
    for i, (_, size, score, _, old, _) in enumerate(rows_of(rollout)):
        if score is not None:
            log_ratio = sum(new[i, t].item() - old[t] for t in range(size))
            value, slope = surrogate(log_ratio, advantages[i, 0].item(), 0.1, 0.1)
            total, count = total + value, count + 1
            gradient[i, :size] = slope
    close(loss, tensor(total / count))
    close(new.grad, gradient / count)


def test_best_of_n_loss_oracle():
    rollout = draw(unscored=UNSCORED)
    lesson = best_of_n.advantages(rollout, 0.3, best_of_n.Config())
    winners = lesson.kept_B.nonzero().flatten()
    part, new = rollout.rows(winners), moved(rollout)
    loss = reduced(run(best_of_n, new[winners], part, lesson.rows(winners).advantages_BT))
    loss.backward()
    sizes = {i: rollout.reply_mask_BT[i].sum().item() for i in winners.tolist()}
    logs = [new[i, t].item() for i, size in sizes.items() for t in range(size)]
    close(loss, tensor(-statistics.fmean(logs)))
    expected = [[-1 / len(logs)] * sizes.get(i, 0) for i in range(len(rollout.examples))]
    close(new.grad, padded(expected, 7))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_online_dpo_loss_oracle(smoothing):
    rollout, config = draw(unscored=UNSCORED), online_dpo.Config(label_smoothing=smoothing)
    lesson, new = online_dpo.advantages(rollout, 0.3, config), moved(rollout)
    kept = lesson.kept_B.nonzero().flatten()
    part, advantages = rollout.rows(kept), lesson.rows(kept).advantages_BT
    loss = reduced(online_dpo.loss(new[kept], new[kept], part, advantages, 0.3, config))
    loss.backward()
    total, pairs, gradient = 0.0, 0, torch.zeros_like(new)
    scores = [score for _, _, score, *_ in rows_of(rollout)]
    rows = list(rows_of(rollout))
    for prompt in range(6):
        known = sorted((s, i) for i, s in enumerate(scores) if s is not None and rows[i][0] == prompt)
        if len(known) < 2:
            continue
        ratios = {i: sum(new[i, t].item() - rows[i][5][t] for t in range(rows[i][1])) for _, i in known}
        worst, best = known[0][1], known[-1][1]
        beta = 0.3 * rows[best][3]
        p = 1 / (1 + math.exp(-beta * (ratios[best] - ratios[worst])))
        total -= (1 - smoothing) * math.log(p) + smoothing * math.log1p(-p)
        pairs += 1
        for i, sign in ((best, 1), (worst, -1)):
            gradient[i, : rows[i][1]] = sign * beta * (p - (1 - smoothing))
    assert pairs == 5
    close(loss, tensor(total / pairs))
    close(new.grad, gradient / pairs)


def test_ppo_value_loss_oracle():
    rollout = draw(unscored=UNSCORED)
    returns = ppo.advantages(rollout, 0.3, ppo.Config()).returns_BT
    values = moved(rollout, seed=5, by=1.0)
    loss = reduced(ppo.value_loss(values, rollout, returns, ppo.Config(value_clip=0.2)))
    loss.backward()
    total, tokens, gradient = 0.0, 0, torch.zeros_like(values)
    for i, (_, size, score, *_) in enumerate(rows_of(rollout)):
        for t in range(size if score is not None else 0):
            value, old, target = values[i, t].item(), rollout.values_BT[i, t].item(), returns[i, t].item()
            near = min(max(value, old - 0.2), old + 0.2)
            total, tokens = total + 0.5 * max((value - target) ** 2, (near - target) ** 2), tokens + 1
            if (value - target) ** 2 >= (near - target) ** 2:
                gradient[i, t] = value - target
    close(loss, tensor(total / tokens))
    close(values.grad, gradient / tokens)


def test_kl_losses_pull_toward_the_divergence_they_say():
    """Over all of a vocabulary, in expectation: k2 and weighted k3 give the gradient of KL(policy || reference),
    plain k3 that of KL(reference || policy)."""
    generator = torch.Generator().manual_seed(0)
    logits, other = torch.randn(2, 6, generator=generator, dtype=torch.float64)
    logits.requires_grad_()
    ref = torch.log_softmax(other, -1)

    def gradient(value):
        (found,) = torch.autograd.grad(value, logits)
        return found

    new = torch.log_softmax(logits, -1)
    reverse = gradient((new.exp() * (new - ref)).sum())
    new = torch.log_softmax(logits, -1)
    forward = gradient((ref.exp() * (ref - new)).sum())
    for kind, expected in (("k2", reverse), ("k3_weighted", reverse), ("k3", forward)):
        new = torch.log_softmax(logits, -1)
        old = new.detach()
        rollout = make(old[:, None], torch.ones(6, 1), reference=ref[:, None])
        out = run(grpo, new[:, None], rollout, torch.zeros(6, 1).double(), kl_coef=1.0, kl_loss=kind)
        close(gradient((old.exp() * out.loss_B).sum()), expected)
