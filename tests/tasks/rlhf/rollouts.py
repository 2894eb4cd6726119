"""Rollouts made by hand, in float64."""

import torch

from tasks.rlhf.batch import Example, Rollout


def make(logprobs, mask, *, reference=None, scores=None, values=None, prompts=None, kl_scale=None, most=None):
    """A rollout from nested lists or tensors; reference = policy and a prompt for each row if not given."""
    as_tensor = lambda x: torch.as_tensor(x, dtype=torch.float64)  # noqa: E731
    logprobs, mask = as_tensor(logprobs), torch.as_tensor(mask).bool()
    num_rows = len(mask)
    return Rollout(
        examples=[Example([5], [9] * int(row.sum())) for row in mask],
        prompt_B=torch.as_tensor(prompts if prompts is not None else range(num_rows)),
        reply_mask_BT=mask,
        logprobs_BT=logprobs,
        reference_BT=logprobs if reference is None else as_tensor(reference),
        scores_B=as_tensor(scores if scores is not None else [0.0] * num_rows),
        values_BT=None if values is None else as_tensor(values),
        kl_scale_B=as_tensor(kl_scale if kl_scale is not None else [1.0] * num_rows),
        max_new_tokens=most or mask.shape[1],
    )


def draw(num_prompts=6, replies=4, most=7, seed=0, unscored=()):
    """A random rollout: unequal lengths, policy other than reference, scores, values; `unscored` rows have none."""
    generator = torch.Generator().manual_seed(seed)
    rows = num_prompts * replies
    lengths = torch.randint(1, most + 1, (rows,), generator=generator)
    mask = torch.arange(most)[None] < lengths[:, None]
    drawn = lambda: torch.randn(rows, most, generator=generator, dtype=torch.float64)  # noqa: E731
    logprobs = (-2 + 0.5 * drawn()) * mask
    reference = logprobs + 0.2 * drawn() * mask
    scores = torch.randn(rows, generator=generator, dtype=torch.float64)
    scores[list(unscored)] = torch.nan
    prompts = torch.arange(num_prompts).repeat_interleave(replies)
    kl_scale = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)[prompts % 3]
    return make(
        logprobs, mask, reference=reference, scores=scores, values=drawn() * mask, prompts=prompts, kl_scale=kl_scale
    )
