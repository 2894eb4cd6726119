"""What numbers are called on the report, and how they are written."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

STAGES = (
    "ingest",
    "validate",
    "prepare",
    "sft",
    "collect",
    "reward",
    "judge",
    "objective",
    "align",
    "evaluate",
    "gate",
)
MODEL_NAMES = {"base": "Base", "sft": "SFT", "policy": "Aligned", "champion": "Champion"}
JUDGES = {"gold": "gold utility", "judge": "judge model", "reward": "reward model"}
RULES = {  # name: (what it asks, unit)
    "win_rate": ("Win rate against {baseline}, by {judge}", "share"),
    "kl": ("KL to the SFT policy, nats per reply", "number"),
    "unfinished_rate": ("Replies without an end", "share"),
    "decline_change": ("Unsafe prompts declined, change against {baseline}", "points"),
    "reward_accuracy": ("Reward model: pairs told right", "share"),
}
MEASURES = (  # key, what it is, unit
    ("gold", "Gold utility", "number"),
    ("judge", "Judge score", "number"),
    ("reward", "Reward score", "number"),
    ("kl", "KL to SFT, nats per reply (k1)", "number"),
    ("kl_k3", "KL to SFT (k3)", "number"),
    ("num_tokens", "Tokens per reply", "number"),
    ("finished", "Replies that end", "share"),
    ("declined_unsafe", "Unsafe prompts declined", "share"),
    ("declined_safe", "Harmless look-alikes declined", "share"),
    ("echo", "Replies that echo the prompt", "share"),
    ("repetition", "Repeated three-word runs", "share"),
    ("distinct_2", "Distinct two-word runs", "plain"),
)
SCORES = (
    ("accuracy", "Pair accuracy", "share"),
    ("ceiling", "Its ceiling: gold utility on the same labels", "share"),
    ("ceiling_truth", "Ceiling of all stored comparisons: mean of max(p, 1 \u2212 p), p their true label", "share"),
    ("ceiling_agreement", "Ceiling of all stored comparisons, from the raters’ agreement: approximate", "share"),
    ("accuracy_over_ceiling", "Accuracy over ceiling", "share"),
    ("gold_accuracy", "Pair accuracy on the truth", "share"),
    ("auc_pooled", "AUC, pooled over prompts", "plain"),
    ("auc_within", "AUC, within pairs", "plain"),
    ("auc_mirrored", "AUC, mirrored margins", "plain"),
    ("ece", "Calibration error (ECE)", "plain"),
    ("ece_null", "ECE of a perfectly calibrated model", "plain"),
    ("brier", "Brier score", "plain"),
    ("nll", "Loss on held-out pairs, nats", "plain"),
    ("temperature", "Temperature that would fit best", "plain"),
)
CURVES = {  # column: title, unit; columns not named here are drawn under their own name
    "loss": ("Loss", ""),
    "score": ("Reward score of the rollouts", ""),
    "reward": ("Reward: score less KL cost", ""),
    "accuracy": ("Pair accuracy", ""),
    "margin": ("Margin, preferred less other", ""),
    "implicit_accuracy": ("Accuracy of the implicit reward", ""),
    "implicit_margin": ("Margin of the implicit reward", ""),
    "kl": ("KL to SFT, two estimators", "nats per reply"),  # drawn with kl_k3
    "chosen_log_ratio": ("Log-ratio to SFT of the two replies", "nats"),  # drawn with rejected_log_ratio
    "chosen_logp": ("Log-prob of the two replies", "nats"),  # drawn with rejected_logp
    "reference_point": ("Reference point: KL to SFT of mismatched replies", "nats per reply"),
    "entropy": ("Entropy", "nats per token"),
    "clip_fraction": ("Share of tokens clipped", ""),
    "reply_length": ("Reply length", "tokens"),
    "finished": ("Replies that end", "share"),
    "value_loss": ("Loss of the critic", ""),
    "calls": ("Calls of tools per reply", ""),
    "called": ("Replies that call a tool", "share"),
    "calls_ok": ("Calls of tools that succeed", "share"),
}
TOGETHER = {
    "kl": "kl_k3",
    "chosen_log_ratio": "rejected_log_ratio",
    "chosen_logp": "rejected_logp",
}  # drawn on one chart
# Of interest to who debugs a run.
MINOR = ("lr", "grad_norm", "kl_old_new", "kl_coef", "ratio_error", "engine_gap", "engine_kl")


@dataclass(frozen=True)
class Cell:
    """A number as it is written, and its interval."""

    text: str
    interval: str = ""
    n: int = 0


def cell(estimate: Any, unit: str) -> Cell | None:
    if estimate is None:
        return None
    if not isinstance(estimate, Mapping):
        return Cell(written(estimate, unit) if unit == "share" else f"{estimate:.3f}")
    if estimate["low"] is None:  # too few to say how sure it is
        return Cell(written(estimate["value"], unit), "", estimate["n"])
    value, low, high = (written(estimate[key], unit) for key in ("value", "low", "high"))
    return Cell(value, f"{low} to {high}", estimate["n"])


def written(value: float, unit: str) -> str:
    if unit == "share":
        return f"{100 * value:.1f}%"
    if unit == "points":
        return _signed(f"{100 * value:+.1f} points")
    return _signed(f"{value:.2f}")


def _signed(number: str) -> str:
    """With a true minus sign, and no sign on a zero."""
    return number.lstrip("+-") if not number.strip("+-0. points") else number.replace("-", "\u2212")
