"""The loop over replies judged one by one, for preference algorithms that declare `UNPAIRED`: KTO and kin.

A reference point that the rows of a step share is measured before any of them is learned from, on all of them: how a
step is cut into micro-batches, and in which order its rows come, changes nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.rlhf import ranks
from tasks.rlhf.algorithms import Algorithm
from tasks.rlhf.batch import Example, LossOutput, Tracker
from tasks.rlhf.batching import distinct
from tasks.rlhf.feedback import Feedback
from tasks.rlhf.logprobs import measured_tokens, reply_sums, sum_by_row, token_logprobs
from tasks.rlhf.models import disable_dropout
from tasks.rlhf.train_on_dataset import train_on_dataset


@dataclass(frozen=True)
class Step:
    """What the loss of a row has to know of all rows of its optimiser step; weights are of those that are counted."""

    reference_point: Tensor
    weight: float  # of all rows
    wanted: float  # of it, that of wanted replies
    unwanted: float


def train_on_feedback(
    policy: Any,
    reference_sums: Callable[[Sequence[Example]], np.ndarray] | None,
    rows: Sequence[Feedback],
    algorithm: Algorithm,
    seed: int,
    tracker: Tracker,
) -> None:
    """Minimise the algorithm's loss over the rows, in place.

    `reference_sums`: log p of replies under the reference, in nats, float64 [B]; it is asked once.

    ValueError where no reference is given, and for rows that nothing can be learned from.
    """
    _check(rows, algorithm)
    ranks.refuse_shards(f"align.algorithm = {algorithm.name!r}")
    if reference_sums is None:
        raise ValueError(f"align.algorithm = {algorithm.name!r} needs the log-probs of a reference policy")
    policy.eval()
    sums = reference_sums([row.example for row in rows] + [row.mismatched for row in rows])
    reference, mismatched = (_by_row(rows, half) for half in np.split(sums, 2))
    options = algorithm.options
    step = Step(torch.zeros(()), 0.0, 0.0, 0.0)

    def measure(batch: list[Feedback]) -> None:
        nonlocal step
        policy.eval()  # without the dropout of adapters
        sums = reply_sums(
            lambda examples: token_logprobs(policy, examples),
            [row.mismatched for row in batch],
            min(options.micro_batch_tokens, measured_tokens()),
        )
        policy.train()
        log_ratios = torch.from_numpy(sums - [mismatched[id(row)] for row in batch])
        weight_B = torch.tensor([row.weight for row in batch], dtype=torch.float64)
        z0 = algorithm.module.reference_point(log_ratios, weight_B).float()
        counted = [row for row in batch if not row.planted] or batch
        weight, wanted = (sum(r.weight for r in rows) for rows in (counted, [r for r in counted if r.desirable > 0.5]))
        step = Step(z0, weight, wanted, weight - wanted)

    def loss(batch: list[Feedback]) -> LossOutput:
        examples, places = distinct(row.example for row in batch)  # several may have judged one reply
        policy_B = sum_by_row(token_logprobs(policy, examples), examples)[places]
        reference_B = torch.tensor([reference[id(row)] for row in batch], device=policy_B.device)
        desirable_B = torch.tensor([row.desirable for row in batch], device=policy_B.device)
        z0 = step.reference_point.to(policy_B.device)
        output = algorithm.module.loss(policy_B, reference_B, desirable_B, z0, algorithm.config)
        tokens_B = torch.tensor([float(len(row.example.reply_ids)) for row in batch], device=policy_B.device)
        loss_B = output.loss_B - options.sft_weight * policy_B / tokens_B * (desirable_B > 0.5)
        return LossOutput(loss_B, _metrics(policy_B - reference_B, desirable_B > 0.5, output, step))

    disable_dropout(policy)
    train_on_dataset(
        policy,
        rows,
        loss,
        lambda row: row.weight,
        options,
        seed,
        tracker,
        before_step=measure,
        is_counted=lambda row: not row.planted,
    )
    policy.eval()


def _check(rows: Sequence[Feedback], algorithm: Algorithm) -> None:
    what = f"align.algorithm = {algorithm.name!r}"
    for row in rows:
        if not 0 <= row.desirable <= 1:
            raise ValueError(f"{what}: row {row.id!r}: desirable is {row.desirable}; it is a probability, from 0 to 1")
        if not (row.example.prompt_ids and row.example.reply_ids):
            raise ValueError(f"{what}: row {row.id!r} has a prompt or reply without tokens: prepare the data again")
    for verdict, found in (
        ("wanted", any(row.desirable > 0.5 and row.weight > 0 and not row.planted for row in rows)),
        ("unwanted", any(row.desirable < 0.5 and row.weight > 0 and not row.planted for row in rows)),
    ):
        if not found:
            raise ValueError(
                f"{what}: none of the {len(rows)} replies is {verdict} with a weight above 0, and it learns from both "
                "kinds; check the sources of ingest"
            )


def _by_row(rows: Sequence[Feedback], values: np.ndarray) -> dict[int, float]:
    return {id(row): value for row, value in zip(rows, values.tolist(), strict=True)}


@torch.no_grad()
def _metrics(log_ratio_B: Tensor, wanted_B: Tensor, output: LossOutput, step: Step) -> dict[str, Tensor]:
    """Accuracy: share of rows on their side of the reference point. The rest are means over the wanted (chosen) and
    the unwanted (rejected) rows of the step, each row scaled so that the loop's mean over all rows gives them.
    """
    chosen_B = wanted_B * (step.weight / step.wanted if step.wanted else 0.0)
    rejected_B = ~wanted_B * (step.weight / step.unwanted if step.unwanted else 0.0)
    beyond_B = (log_ratio_B - step.reference_point.to(log_ratio_B.device)) * torch.where(wanted_B, 1.0, -1.0)
    return {
        "implicit_accuracy": (beyond_B > 0).float() + 0.5 * (beyond_B == 0).float(),
        "implicit_margin": output.metrics["implicit_reward"] * (chosen_B - rejected_B),
        "chosen_log_ratio": log_ratio_B * chosen_B,
        "rejected_log_ratio": log_ratio_B * rejected_B,
        "reference_point": torch.full_like(log_ratio_B, float(step.reference_point)),
    }
