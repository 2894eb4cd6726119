"""Conditioning on preferences: shares of the objectives stand in the prompt, and the score weighs the heads by them.

One policy so serves many trade-offs, and whoever asks says which. As text, so that any tokenizer can say it: Wang 2024,
arXiv:2402.18571 (directional preference alignment).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tasks.records import Message
from tasks.rlhf import ranks
from tasks.rlhf.batch import Condition, Prompt

FILE = "conditioning.json"  # beside a policy's weights
Shares = dict[str, float]  # objective: hundredths, together 1


def draw(vectors: Sequence[Shares], dirichlet: float | None, objectives: Sequence[str], number: int, seed: int) -> Any:
    """`number` vectors of shares: of the list, each as likely, or of a symmetric Dirichlet distribution."""
    rng = np.random.default_rng(seed)
    names = sorted(objectives)
    if dirichlet is None:
        table = np.array([[vector[name] for name in names] for vector in vectors])
        drawn = table[rng.integers(len(vectors), size=number)]
    else:
        drawn = rng.dirichlet([dirichlet] * len(names), size=number)
    return [dict(zip(names, hundredths(row), strict=True)) for row in drawn]


def hundredths(shares: Sequence[float]) -> list[float]:
    """Rounded so that they still add up to 1: what the prompt says is what the score uses.

    Hand-worked: thirds have the rounded sums 0.33, 0.67 and 1, and become 0.33, 0.34 and 0.33.
    """
    sums = np.round(100 * np.cumsum(shares) / np.sum(shares)).astype(int)
    return [int(part) / 100 for part in np.diff(sums, prepend=0)]


def conditioned(prompt: Sequence[Message], shares: Shares) -> list[Message]:
    """The prompt whose last turn opens with the shares: `[brevity 30, courtesy 70]` and a line break."""
    said = ", ".join(f"{name} {round(100 * share)}" for name, share in sorted(shares.items()))
    *before, last = prompt
    return [*before, Message(role=last["role"], content=f"[{said}]\n{last['content']}")]


@dataclass(frozen=True)
class Conditioner:
    """Gives prompts of a rollout their shares: a `condition` of tasks/rlhf/experience.py."""

    vectors: Sequence[Shares]
    dirichlet: float | None
    objectives: Mapping[str, float]  # of the reward models, with the weights of training
    encode: Callable[[Sequence[Message]], list[int]]
    messages: Mapping[str, Sequence[Message]]  # of every prompt, by its id
    room: int  # tokens that a prompt may have

    def __call__(self, prompts: Sequence[Prompt], seed: int) -> list[Prompt]:
        """Each prompt with shares of its own; the same seed gives the same ones."""
        drawn = draw(self.vectors, self.dirichlet, list(self.objectives), len(prompts), seed)
        return [self._given(prompt, shares) for prompt, shares in zip(prompts, drawn, strict=True)]

    def _given(self, prompt: Prompt, shares: Shares) -> Prompt:
        ids = self.encode(conditioned(self.messages[prompt.id], shares))
        if len(ids) > self.room:
            raise ValueError(
                f"align.rewards.conditioning: prompt {prompt.id} has {len(ids)} tokens with its shares, and room for "
                f"{self.room}; raise prepare.reply_room by what is missing, or model.max_length"
            )
        return replace(prompt, ids=ids, condition=Condition(self._weights(shares), prompt.ids))

    def _weights(self, shares: Shares) -> Shares:
        """In all as much as in training: shares like those of training give the score of training."""
        total = sum(self.objectives.values())
        return {name: total * shares[name] for name in self.objectives}


def note(folder: Path, objectives: Sequence[str]) -> None:
    """Say beside a policy what it is conditioned on; nothing where that is nothing."""
    if not ranks.current().is_first:
        return
    (folder / FILE).unlink(missing_ok=True)
    if objectives:
        (folder / FILE).write_text(json.dumps({"objectives": sorted(objectives)}) + "\n", encoding="utf-8")


def at_evaluation(folder: Path, preference: Shares) -> Shares | None:
    """The shares that the policy of a folder is asked with: `preference`, of evaluate, or equal ones where it is empty.

    None where the policy is not conditioned. ValueError where `preference` names other objectives than the policy's.
    """
    if not (folder / FILE).is_file():
        return None
    objectives = json.loads((folder / FILE).read_text(encoding="utf-8"))["objectives"]
    if preference and preference.keys() != set(objectives):
        raise ValueError(
            f"params.yaml: evaluate.preference names {', '.join(sorted(preference))}; the policy in {folder} is "
            f"conditioned on {', '.join(objectives)}"
        )
    shares = [preference.get(name, 1.0) for name in objectives]
    return dict(zip(objectives, hundredths(shares), strict=True))
