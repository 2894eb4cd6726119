"""From rewards to advantages, and the estimators of KL. All tensors are [B, T] over reply tokens, padded right."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tasks.rlhf.batch import Rollout, masked_mean

ROUNDING = 1e-5  # rewards that differ by less are equal


def gae(rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation: (advantages, returns). Schulman 2016, arXiv:1506.02438, eq. 16.

    The value after the last reply token is 0: an episode ends there.
    """
    advantages_BT = torch.zeros_like(rewards_BT)
    next_advantage_B = torch.zeros_like(rewards_BT[:, 0])
    next_value_B = torch.zeros_like(next_advantage_B)
    for t in reversed(range(rewards_BT.shape[1])):
        delta_B = rewards_BT[:, t] + gamma * next_value_B - values_BT[:, t]
        # Past its end a row carries nothing back into its last token; tokens of a tool are passed over.
        is_own_B = mask_BT[:, t] > 0
        next_advantage_B = torch.where(is_own_B, delta_B + gamma * lam * next_advantage_B, next_advantage_B)
        next_value_B = torch.where(is_own_B, values_BT[:, t], next_value_B)
        advantages_BT[:, t] = torch.where(is_own_B, next_advantage_B, 0)
    return advantages_BT, (advantages_BT + values_BT) * mask_BT


def whiten(values_BT: Tensor, mask_BT: Tensor, shift_mean: bool = True) -> Tensor:
    """Scale to variance 1 (biased, + 1e-8) over the masked entries and, unless told not to, to mean 0."""
    mean = masked_mean(values_BT, mask_BT)
    variance = masked_mean((values_BT - mean) ** 2, mask_BT)
    white_BT = (values_BT - mean) * torch.rsqrt(variance + 1e-8)
    return (white_BT if shift_mean else white_BT + mean) * mask_BT


def place_on_last(scores_B: Tensor, mask_BT: Tensor) -> Tensor:
    """[B] -> [B, T]: each row's score on the last token that the policy drew (its EOS, where it finished)."""
    last_B = mask_BT.shape[1] - 1 - mask_BT.flip(1).to(torch.int8).argmax(1)
    out_BT = torch.zeros(mask_BT.shape, dtype=scores_B.dtype, device=scores_B.device)
    return out_BT.scatter(1, last_B[:, None], scores_B[:, None])


def place_on_steps(steps: Sequence[Mapping[int, float]], width: int) -> tuple[Tensor, Tensor]:
    """(scores, mask), [B, width]: each step's score on its last token, where the mask is True; 0 elsewhere."""
    scores_BT = torch.zeros(len(steps), width)
    mask_BT = torch.zeros(len(steps), width, dtype=torch.bool)
    for row, scores in enumerate(steps):
        for place, score in scores.items():
            scores_BT[row, place], mask_BT[row, place] = score, True
    return scores_BT, mask_BT


def step_advantages(rollout: Rollout, scale: bool) -> Tensor:
    """GRPO on steps: [B, T]. A token's advantage is the sum of the normalised scores of its own and later steps.

    Scores are taken less their mean over all steps of the scored replies to the prompt and, with `scale`, over their
    standard deviation (biased, + 1e-4); 0 where they do not differ. Shao 2024, arXiv:2402.03300, section 4.1.3.
    Hand-worked: steps 1, 0 and 1, 1 of two replies: mean 0.75, deviation 0.4330: normalised 0.5774, -1.7321 and
    0.5774, 0.5774; advantages of the tokens of the first reply's steps -1.1547, -1.7321, of the other's 1.1547, 0.5774.
    """
    assert rollout.step_scores_BT is not None
    assert rollout.step_mask_BT is not None
    prompt_B, step_BT = rollout.prompt_B, rollout.step_mask_BT & rollout.scored_B[:, None]
    count_B = sum_by_prompt(step_BT.sum(1), prompt_B).clamp(min=1)
    mean_B = sum_by_prompt((rollout.step_scores_BT * step_BT).sum(1), prompt_B) / count_B
    normal_BT = (rollout.step_scores_BT - mean_B[:, None]) * step_BT
    deviation_B = (sum_by_prompt((normal_BT**2).sum(1), prompt_B) / count_B).sqrt()
    if scale:
        normal_BT = normal_BT / (deviation_B + 1e-4)[:, None]
    normal_BT = torch.where(deviation_B[:, None] > 1e-5, normal_BT, 0)
    return normal_BT.flip(1).cumsum(1).flip(1) * rollout.learn_mask_BT


def reward_tokens(rollout: Rollout, kl_coef: float) -> Tensor:
    """[B, T]: -kl_coef * log(policy / reference) on each token and the score on the last; 0 on unscored replies.

    Where steps are scored, each step's score stands on its last token beside them.
    """
    cost_BT = kl_coef * rollout.kl_scale_B[:, None] * kl_k1(rollout.logprobs_BT, rollout.reference_BT)
    placed_BT = place_on_last(rollout.scores_B.nan_to_num(), rollout.reply_mask_BT)
    if rollout.step_scores_BT is not None:
        placed_BT = placed_BT + rollout.step_weight * rollout.step_scores_BT
    return (placed_BT - cost_BT) * rollout.learn_mask_BT


def sum_by_prompt(values_B: Tensor, prompt_B: Tensor) -> Tensor:
    """[B] -> [B]: for each reply the sum over all replies to its prompt."""
    sums_P = torch.zeros(int(prompt_B.max()) + 1, dtype=values_B.dtype, device=values_B.device)
    return sums_P.index_add(0, prompt_B, values_B)[prompt_B]


def less_siblings(rewards_B: Tensor, scored_B: Tensor, prompt_B: Tensor) -> Tensor:
    """Each reward less the mean of the other scored replies to its prompt (leave-one-out); 0 where there is none.

    Hand-worked: rewards 1, 2, 6 of one prompt: 1 - 4, 2 - 3.5, 6 - 1.5 = -3, -1.5, 4.5.
    """
    known_B = torch.where(scored_B, rewards_B, 0)
    others_B = sum_by_prompt(scored_B.to(rewards_B.dtype), prompt_B) - 1
    baseline_B = (sum_by_prompt(known_B, prompt_B) - known_B) / others_B.clamp(min=1)
    return torch.where(scored_B & (others_B > 0), known_B - baseline_B, 0)


def less_group(rewards_B: Tensor, scored_B: Tensor, prompt_B: Tensor, scale: bool) -> Tensor:
    """Each reward less the mean of the scored replies to its prompt and, with `scale`, over their standard deviation.

    The deviation is unbiased, + 1e-4: a group that is all but tied does not explode. 0 where rewards do not differ.
    Hand-worked: rewards 1, 2, 6 of one prompt: mean 3, deviation 7^0.5 = 2.6458: -0.7559, -0.3780, 1.1338.
    """
    count_B = sum_by_prompt(scored_B.to(rewards_B.dtype), prompt_B)
    known_B = torch.where(scored_B, rewards_B, 0)
    centred_B = torch.where(scored_B, known_B - sum_by_prompt(known_B, prompt_B) / count_B.clamp(min=1), 0)
    if scale:
        variance_B = sum_by_prompt(centred_B**2, prompt_B) / (count_B - 1).clamp(min=1)
        centred_B = centred_B / (variance_B.sqrt() + 1e-4)
    return torch.where(spread(rewards_B, scored_B, prompt_B), centred_B, 0)


def spread(values_B: Tensor, scored_B: Tensor, prompt_B: Tensor) -> Tensor:
    """True for scored replies whose prompt has scored replies of different value."""
    lowest_B, highest_B = (_extreme(values_B, scored_B, prompt_B, sign) for sign in (-1, 1))
    return scored_B & (highest_B - lowest_B > ROUNDING)


def first_best(values_B: Tensor, scored_B: Tensor, prompt_B: Tensor) -> Tensor:
    """True for one reply of each prompt: the first of those with the highest value.

    Of replies that a verifier scores alike, what rounding left in their KL must not choose one.
    """
    best_B = scored_B & (values_B >= _extreme(values_B, scored_B, prompt_B, 1) - ROUNDING)
    row_B = torch.arange(len(values_B), device=values_B.device)
    first_P = torch.full_like(row_B, len(values_B)).scatter_reduce(0, prompt_B[best_B], row_B[best_B], "amin")
    return best_B & (row_B == first_P[prompt_B])


def _extreme(values_B: Tensor, scored_B: Tensor, prompt_B: Tensor, sign: int) -> Tensor:
    """For each reply the highest (sign 1) or lowest (-1) value among the scored replies to its prompt."""
    most_P = torch.full((int(prompt_B.max()) + 1,), -torch.inf, dtype=values_B.dtype, device=values_B.device)
    return sign * most_P.scatter_reduce(0, prompt_B[scored_B], sign * values_B[scored_B], "amax")[prompt_B]


def kl_k1(logprobs: Tensor, reference: Tensor) -> Tensor:
    """log(pi / ref) per token: unbiased for KL(policy || reference) on the policy's samples, may be negative."""
    return logprobs - reference


def kl_k3(logprobs: Tensor, reference: Tensor) -> Tensor:
    """exp(-k1) - 1 + k1 per token: unbiased and never negative. Schulman, "Approximating KL divergence", 2020."""
    delta = reference - logprobs
    return torch.expm1(delta) - delta


def kl_k2(logprobs: Tensor, reference: Tensor) -> Tensor:
    """log(pi / ref)^2 / 2 per token: biased as a value, but its gradient is that of KL(policy || reference)."""
    return 0.5 * (logprobs - reference) ** 2
