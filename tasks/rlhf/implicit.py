"""A policy that learned from preferences as a reward model of its own: what its loss took for the reward of a reply.

Against a reference that is log(policy / reference) of the reply, but for the scale (Rafailov 2023, arXiv:2305.18290,
eq. 5, less what the replies to a prompt share); of its mean token where the loss says so (IPO, `log_ratio: mean`). Of
losses without a reference it is the policy's own log p per token: SimPO's reward, and ORPO's but for a monotone
function. A file beside the weights says which.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tasks.rlhf import ranks
from tasks.rlhf.batch import Example
from tasks.rlhf.logprobs import reply_sums, token_logprobs

FILE = "implicit_reward.json"  # beside a policy's weights


@dataclass(frozen=True, kw_only=True)
class ImplicitReward:
    reference: bool
    per_token: bool

    @torch.no_grad()
    def of(self, policy: Any, reference: Any, examples: Sequence[Example]) -> np.ndarray:
        """Of each reply, in nats, float64 [B]."""
        found = reply_sums(lambda batch: token_logprobs(policy, batch), examples)
        if self.reference:
            found = found - reply_sums(lambda batch: token_logprobs(reference, batch), examples)
        return found / [len(each.reply_ids) for each in examples] if self.per_token else found


def note(folder: Path, reward: ImplicitReward | None) -> None:
    """Say beside a policy what its implicit reward is; nothing where it has none."""
    if not ranks.current().is_first:
        return
    (folder / FILE).unlink(missing_ok=True)
    if reward is not None:
        (folder / FILE).write_text(json.dumps(asdict(reward)) + "\n", encoding="utf-8")


def noted(folder: Path) -> ImplicitReward | None:
    path = folder / FILE
    return ImplicitReward(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None
