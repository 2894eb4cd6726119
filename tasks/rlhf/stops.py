"""When a run on rollouts ends before its last step: the KL budget, and held-out scores that stopped improving.

The third stop, on KL(old || new), ends the updates of one rollout and not the run: it stands in the update itself.
"""

from dataclasses import dataclass


def over_budget(kl: float, max_kl: float | None, step: int) -> str | None:
    """Why the run ends before it learns from this rollout, if it does."""
    if max_kl is None or kl <= max_kl:
        return None
    return f"max_kl: KL(policy || reference) is {kl:.3g} nats per reply at step {step}, over the budget of {max_kl:g}"


@dataclass
class Patience:
    """Counts evaluations in which KL grew beyond that of the best held-out score without a better score."""

    best_score: float = float("-inf")
    best_kl: float = 0.0
    wasted: int = 0

    def update(self, score: float, kl: float, patience: int | None, step: int) -> str | None:
        """Why the run ends, if it does."""
        if score > self.best_score:
            self.best_score, self.best_kl, self.wasted = score, kl, 0
        elif kl > self.best_kl:
            self.wasted += 1
        if patience is None or self.wasted < patience:
            return None
        return (
            f"patience: {self.wasted} evaluations up to step {step} without a better held-out score than "
            f"{self.best_score:.3g} (at KL {self.best_kl:.3g}), while KL grew to {kl:.3g} nats per reply"
        )
