"""The loop over fixed pairs for every preference algorithm: the dataset loop with policy and reference log-probs."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.rlhf.algorithms import Algorithm
from tasks.rlhf.batch import Example, LossOutput, Pair, PairLogps, Tracker, preferred_nll
from tasks.rlhf.batching import distinct
from tasks.rlhf.dataset import both
from tasks.rlhf.logprobs import sum_by_row, token_logprobs
from tasks.rlhf.models import disable_dropout
from tasks.rlhf.train_on_dataset import train_on_dataset


def train_on_pairs(
    policy: Any,
    reference_sums: Callable[[Sequence[Example]], np.ndarray] | None,
    pairs: Sequence[Pair],
    algorithm: Algorithm,
    seed: int,
    tracker: Tracker,
) -> None:
    """Minimise the algorithm's loss over the pairs, in place.

    `reference_sums`: log p of replies under the reference, in nats, float64 [B]; it is asked once.

    ValueError where the algorithm needs a reference and none is given, and for pairs that nothing can be learned from.
    """
    _check(pairs, algorithm)
    policy.eval()
    reference = _reference_sums(pairs, reference_sums, algorithm)
    sft_weight = algorithm.options.sft_weight

    def loss(rows: list[Pair]) -> LossOutput:
        examples, places = distinct(both(rows))
        logprobs_N = token_logprobs(policy, examples)
        policy_logps = _pair_logps(sum_by_row(logprobs_N, examples)[places], rows)
        label_B = torch.tensor([row.label for row in rows], device=logprobs_N.device)
        frozen = None
        if reference:
            sums = [reference[id(row)] for row in rows]
            a_B, b_B = torch.tensor(sums, device=logprobs_N.device).T
            frozen = PairLogps(a_B, b_B, policy_logps.a_tokens_B, policy_logps.b_tokens_B)
        output = algorithm.module.loss(policy_logps, frozen, label_B, algorithm.config)
        loss_B = output.loss_B + sft_weight * preferred_nll(policy_logps, label_B)
        return LossOutput(loss_B, output.metrics | _metrics(policy_logps, frozen, label_B, output))

    disable_dropout(policy)
    policy.train()
    options = algorithm.options
    train_on_dataset(
        policy, pairs, loss, lambda row: row.weight, options, seed, tracker, is_counted=lambda row: not row.planted
    )
    policy.eval()


def _check(pairs: Sequence[Pair], algorithm: Algorithm) -> None:
    what = f"align.algorithm = {algorithm.name!r}"
    for pair in pairs:
        if not 0 <= pair.label <= 1:
            raise ValueError(f"{what}: pair {pair.id!r} has the label {pair.label}; it is a probability, from 0 to 1")
        if not (pair.a.prompt_ids and pair.a.reply_ids and pair.b.prompt_ids and pair.b.reply_ids):
            raise ValueError(f"{what}: pair {pair.id!r} has a prompt or reply without tokens: prepare the data again")
    if not any(pair.label != 0.5 and pair.weight > 0 and not pair.planted for pair in pairs):
        raise ValueError(
            f"{what}: none of the {len(pairs)} pairs has a preferred reply and a weight above 0: there is nothing to "
            "learn; check the sources of ingest"
        )


def _reference_sums(
    pairs: Sequence[Pair], measure: Callable[[Sequence[Example]], np.ndarray] | None, algorithm: Algorithm
) -> dict[int, tuple[float, float]]:
    """log p of both replies of each pair under the reference, by the pair's `id()`; empty where none is needed."""
    if not algorithm.module.NEEDS_REFERENCE:
        return {}
    if measure is None:
        raise ValueError(f"align.algorithm = {algorithm.name!r} needs the log-probs of a reference policy")
    sums = measure(both(pairs)).reshape(2, -1).T.tolist()
    return {id(pair): (a, b) for pair, (a, b) in zip(pairs, sums, strict=True)}


def _pair_logps(sums_2B: Tensor, rows: list[Pair]) -> PairLogps:
    a_B, b_B = sums_2B.chunk(2)
    a_tokens_B = torch.tensor([float(len(row.a.reply_ids)) for row in rows], device=sums_2B.device)
    b_tokens_B = torch.tensor([float(len(row.b.reply_ids)) for row in rows], device=sums_2B.device)
    return PairLogps(a_B, b_B, a_tokens_B, b_tokens_B)


@torch.no_grad()
def _metrics(policy: PairLogps, frozen: PairLogps | None, label_B: Tensor, output: LossOutput) -> dict[str, Tensor]:
    """Accuracy of the implicit reward, and log-ratios to the reference of both replies (of a tie: of a and of b).

    A loss says by its metric `implicit_margin` what its implicit reward is; else it is the log-ratio. Without a
    reference there is no ratio to take: the log-probs stand alone, as `chosen_logp` and `rejected_logp`.
    """
    a_B, b_B, kind = policy.a_B, policy.b_B, "logp"
    if frozen is not None:
        a_B, b_B, kind = a_B - frozen.a_B, b_B - frozen.b_B, "log_ratio"
    a_is_chosen_B = label_B >= 0.5
    chosen_B, rejected_B = torch.where(a_is_chosen_B, a_B, b_B), torch.where(a_is_chosen_B, b_B, a_B)
    margin_B = output.metrics.get("implicit_margin", chosen_B - rejected_B)
    correct_B = (margin_B > 0).float() + 0.5 * (margin_B == 0).float()
    return {
        "implicit_accuracy": torch.where(label_B == 0.5, 0.5, correct_B),
        f"chosen_{kind}": chosen_B,
        f"rejected_{kind}": rejected_B,
    }
