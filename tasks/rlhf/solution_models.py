"""Outcome and process reward models as sources of reward: their folders, and what they say of replies.

Beside weights and reward.json a folder holds solutions.json: the kind of the model, and the domains of the prompts that
it learned from. Of prompts of other domains it says nothing.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.rlhf import process, ranks, reward_model
from tasks.rlhf.batch import Example, Prompt, ScorePart
from tasks.rlhf.reward_model import RewardModel

RECORD = "solutions.json"


@dataclass(frozen=True)
class SolutionModel:
    """A trained outcome or process reward model."""

    kind: str  # outcome | process
    model: RewardModel
    domains: frozenset[str]
    separators: frozenset[int]  # tokens that hold a line break
    eos_id: int

    def part(
        self, examples: Sequence[Example], prompts: Sequence[Prompt], weight: float, process_reply: str
    ) -> ScorePart:
        """Of each reply P(the final answer is right), or what `process_reply` makes of the scores of its steps.

        NaN on prompts of other domains. ValueError where the model gives what is not a number.
        """
        known = [number for number, prompt in enumerate(prompts) if prompt.domain in self.domains]
        values_B = np.full(len(examples), np.nan)
        if self.kind == "outcome":
            scores = reward_model.score_examples(self.model, [examples[i] for i in known])
            values_B[known] = 1 / (1 + np.exp(-scores))
            steps = None
        else:
            steps = self._steps(examples, known)
            for i in known:
                values_B[i] = process.reply_score(np.array(list(steps[i].values())), process_reply)
        if np.isnan(values_B[known]).any():
            raise ValueError(
                f"align: the {self.kind} reward model gave a score that is not a number; train it again (solutions.lr)"
            )
        return ScorePart(values_B, weight=weight, steps=steps)

    def _steps(self, examples: Sequence[Example], known: Sequence[int]) -> list[dict[int, float]]:
        """P(right) of each step, by the position of its last token; nothing of replies that are not `known`."""
        rows = process.unlabelled([examples[i] for i in known], self.separators, self.eos_id)
        found: list[dict[int, float]] = [{} for _ in examples]
        for i, row, values in zip(known, rows, process.step_probabilities(self.model, rows), strict=True):
            found[i] = dict(zip(row.ends, values.tolist(), strict=True))
        return found


def save(kind: str, model: RewardModel, domains: Sequence[str], tokenizer: Any, folder: Path) -> None:
    reward_model.save_reward(model, tokenizer, folder)
    if ranks.current().is_first:
        record = {"kind": kind, "domains": sorted(set(domains))}
        (folder / RECORD).write_text(json.dumps(record, sort_keys=True) + "\n", encoding="utf-8")


def load(folder: Path, dtype: str) -> SolutionModel:
    from tasks.rlhf import models

    tokenizer = models.load_tokenizer(folder)
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    return SolutionModel(
        kind=record["kind"],
        model=reward_model.load_reward(folder, dtype),
        domains=frozenset(record["domains"]),
        separators=process.separator_ids(tokenizer),
        eos_id=tokenizer.eos_token_id,
    )
