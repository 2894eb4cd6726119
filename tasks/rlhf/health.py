"""Signs that a run on rollouts is set up wrongly. Each stops it with one line that names the likely cause."""

import math

import torch

from tasks.rlhf.options import RolloutOptions


def tolerance(dtype: torch.dtype) -> float:
    """Mean |ratio - 1| that rounding explains where the policy that sampled is the one that learns.

    A wrong temperature, dropout or a shifted index gives 0.1 and more.
    """
    return 0.05 if dtype == torch.bfloat16 else 0.01


def check_rollout(metrics: dict[str, float], step: int, options: RolloutOptions, dtype: torch.dtype) -> None:
    """What must hold of fresh replies; at step 1 the policy still is its reference. Raises ValueError."""
    for key in ("kl", "kl_k3", "score"):
        if not math.isfinite(metrics[key]):
            raise ValueError(
                f"align: step {step}: {key} is {metrics[key]}: the policy, the reference or a reward gives what is no "
                "number; lower lr, or train the one that does again"
            )
    if metrics["finished"] < options.min_finished:
        raise ValueError(
            f"align: step {step}: {metrics['finished']:.1%} of the replies end, fewer than min_finished = "
            f"{options.min_finished}: " + ("SFT never taught EOS" if step == 1 else "the policy unlearned to stop")
            + ", or align.max_new_tokens is too small"
        )  # fmt: skip
    if step > 1:
        return
    # k3 of a token is about (ratio - 1)^2 / 2, and never negative: errors of both signs do not cancel.
    kl, bound = metrics["kl_k3"] / metrics["reply_length"], tolerance(dtype) ** 2 / 2
    if not kl <= bound:
        raise ValueError(
            f"align: step 1: KL(policy || reference) is {kl:.3g} nats per token before any update, above {bound:.3g}: "
            "policy and reference differ (another folder than data/models/sft, adapters not fresh), or dropout is on"
        )
    score, most = metrics.get("learned_score", 0.0), options.max_first_score
    if most is not None and abs(score) > most:
        raise ValueError(
            f"align: step 1: replies of the reference score {score:.3g} on average, beyond max_first_score = {most}: "
            "the reward model was not normalised on replies of this SFT model (run `dvc repro reward`), or reads "
            "prompts in another form than it was trained on"
        )


def check_first_minibatch(metrics: dict[str, float], step: int, dtype: torch.dtype) -> None:
    """Before the first update of a rollout the policy is the one that sampled: ratio 1, KL(old || new) 0."""
    bound = tolerance(dtype)
    for key, limit in (("ratio_error", bound), ("kl_old_new", bound**2 / 2)):
        if not metrics[key] <= limit:
            raise ValueError(
                f"align: step {step}: {key} is {metrics[key]:.3g} at the first minibatch, above {limit:.3g}: sampler "
                "and trainer measure different log-probs (dropout on, another temperature, or stale weights)"
            )
