"""What the losses and the loops pass to each other.

Shape suffixes: B rows, T reply tokens (padded right), N reply tokens of all rows end to end, D hidden, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from tasks.rlhf.checkpoint import Checkpoints


class Tracker(Protocol):
    """Where a loop says how it is going, and keeps what it needs to go on after a kill; steps count from 1."""

    @property
    def checkpoints(self) -> Checkpoints: ...

    def log(self, step: int, total: int, **metrics: float) -> None: ...

    def measure(self, step: int, total: int, **metrics: float) -> None: ...

    def phase(self, name: str) -> AbstractContextManager[None]: ...


@dataclass(frozen=True)
class Example:
    """A tokenised prompt and reply; the reply ends with EOS where it was finished."""

    prompt_ids: Sequence[int]
    reply_ids: Sequence[int]

    @property
    def examples(self) -> "tuple[Example, ...]":
        return (self,)

    @property
    def length(self) -> int:
        return len(self.prompt_ids) + len(self.reply_ids)


@dataclass(frozen=True)
class Pair:
    """Two replies to one prompt; label is P(a is preferred), 0.5 for a tie."""

    a: Example
    b: Example
    label: float
    weight: float
    id: str = ""
    planted: bool = False  # by the canary: learned from, and counted in no figure

    @property
    def examples(self) -> tuple[Example, ...]:
        return self.a, self.b


@dataclass(frozen=True)
class PairLogps:
    """Log-probabilities of the two replies of each pair, in nats, summed over the reply's tokens."""

    a_B: Tensor
    b_B: Tensor
    a_tokens_B: Tensor  # numbers of reply tokens
    b_tokens_B: Tensor


@dataclass(frozen=True)
class LossOutput:
    """A loss per row, unreduced and unweighted, and what is worth logging, per row too."""

    loss_B: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Condition:
    """That a prompt says how its replies are to be scored."""

    weights: Mapping[str, float]  # of the reward models' heads
    plain_ids: Sequence[int]  # the prompt without saying so, as reward models know it


@dataclass(frozen=True)
class Prompt:
    """What a reply is sampled for, and what a scorer may know about it."""

    ids: Sequence[int]
    domain: str = ""
    verifier: str | None = None  # JSON: how an answer is checked, where it can be
    id: str = ""
    condition: Condition | None = None


@dataclass(frozen=True)
class ScorePart:
    """What one source of reward gives to each reply."""

    values_B: np.ndarray  # NaN: this source cannot score the reply
    weight: float = 1.0
    learned: bool = False  # by a model, which scores every reply: NaN is then an error
    members_B: np.ndarray | None = None  # the plain mean over an ensemble, each normalised, where `values_B` is another
    steps: Sequence[Mapping[int, float]] | None = None  # of each reply: its steps' scores, by their last token's place


@dataclass(frozen=True)
class Rollout:
    """Replies sampled from the policy, with what the updates need; all T-tensors are padded with 0."""

    examples: list[Example]
    prompt_B: Tensor  # int64, the number of the reply's prompt in this rollout
    reply_mask_BT: Tensor  # True on reply tokens that the policy drew, EOS included; not on those of a tool
    logprobs_BT: Tensor  # of the policy that sampled, at the sampling temperature
    reference_BT: Tensor  # of the frozen reference
    scores_B: Tensor  # less penalties; NaN: nothing could score the reply
    values_BT: Tensor | None  # of the critic, where the algorithm has one
    kl_scale_B: Tensor  # of the coefficient of KL for the prompt's domain, 1 but for exceptions
    max_new_tokens: int  # the longest that a reply could have become
    step_scores_BT: Tensor | None = None  # where steps are scored: each step's score on its last token
    step_mask_BT: Tensor | None = None  # True there
    step_weight: float = 0.0  # of the scores of steps beside those of replies

    @property
    def scored_B(self) -> Tensor:
        return ~self.scores_B.isnan()

    @property
    def learn_mask_BT(self) -> Tensor:
        """True on the tokens to learn from: those of replies that were scored."""
        return self.reply_mask_BT & self.scored_B[:, None]

    def rows(self, index_B: Tensor) -> "Rollout":
        chosen: dict[str, Any] = {
            name: value[index_B] for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, examples=[self.examples[i] for i in index_B.tolist()], **chosen)


@dataclass(frozen=True)
class Lesson:
    """What an algorithm makes of a rollout."""

    advantages_BT: Tensor  # 0 on replies that nothing could score
    kept_B: Tensor  # True for replies to learn from; the others take no part in the updates
    returns_BT: Tensor | None = None  # what the critic should have said, where there is one

    def rows(self, index_B: Tensor) -> "Lesson":
        return replace(self, **{k: v[index_B] for k, v in vars(self).items() if v is not None})


@dataclass(frozen=True)
class PolicyLoss:
    """A loss per row and the row's weight: the loss of a minibatch is sum(loss_B) / sum(weight_B).

    What is logged is reduced in the same way. So rows, padding and micro-batches can be arranged at will.
    """

    loss_B: Tensor
    weight_B: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)


def join(first: Rollout, second: Rollout) -> Rollout:
    """The rows of both; the prompts of the second are numbered after those of the first."""
    width = max(first.reply_mask_BT.shape[1], second.reply_mask_BT.shape[1])

    def joined(a: Tensor, b: Tensor) -> Tensor:
        if a.dim() == 2:
            a, b = (torch.nn.functional.pad(x, (0, width - x.shape[1])) for x in (a, b))
        return torch.cat([a, b])

    second = replace(second, prompt_B=second.prompt_B + int(first.prompt_B.max()) + 1)
    tensors: dict[str, Any] = {
        name: joined(value, getattr(second, name)) for name, value in vars(first).items() if isinstance(value, Tensor)
    }
    return replace(first, examples=first.examples + second.examples, **tensors)


def preferred_less_other(margin_B: Tensor, label_B: Tensor) -> Tensor:
    """A margin of a over b as that of the preferred reply over the other, without gradient; of a tie, of a over b."""
    return torch.where(label_B >= 0.5, margin_B, -margin_B).detach()


def preferred_nll(policy: PairLogps, label_B: Tensor) -> Tensor:
    """-log p per token of the preferred reply, [B]; 0 for a tie, whose replies may both be bad."""
    a_B, b_B = policy.a_B / policy.a_tokens_B, policy.b_B / policy.b_tokens_B
    return -torch.where(label_B > 0.5, a_B, b_B) * (label_B != 0.5)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` where `mask` is True; 0 where nothing is."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def pad_right(rows: Sequence[Sequence[int]], pad: int) -> Tensor:
    """int64 [B, longest]."""
    out = np.full((len(rows), max(len(row) for row in rows)), pad, dtype=np.int64)
    for number, row in enumerate(rows):
        out[number, : len(row)] = row
    return torch.from_numpy(out)
