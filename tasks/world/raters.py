"""Simulated raters: they differ in reliability, confidence, tie rate and length bias."""

import math
import random
from dataclasses import dataclass, replace
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks.records import Message, Preference, row_id
from tasks.world.gold import WORD, utility

SOURCE = "world"
CARELESS = 1e9  # a temperature at which no utility matters


class WorldParams(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    num_demonstrations: Annotated[int, Field(gt=0)]
    num_preferences: Annotated[int, Field(gt=0)]
    num_raters: Annotated[int, Field(gt=1)]
    length_bias: float  # utility per extra word that raters add to what they see
    noise: Annotated[float, Field(gt=0)] = 1.0  # factor on the raters' temperatures
    overlap: Annotated[float, Field(ge=0, le=1)] = 0.0  # chance that a second rater judges a comparison, too
    num_careless: Annotated[int, Field(ge=0)] = 0  # of the raters: they answer at random

    @model_validator(mode="after")
    def _somebody_cares(self) -> Self:
        if self.num_careless >= self.num_raters:
            raise ValueError(f"num_careless = {self.num_careless}: must be less than num_raters = {self.num_raters}")
        return self


@dataclass(frozen=True)
class Rater:
    """A simulated rater: Bradley-Terry choice over the utility as this rater feels it."""

    name: str
    temperature: float  # utils; higher is noisier
    tie_rate: float  # chance of a tie between replies of equal utility
    length_bias: float  # utils per word
    boldness: float  # how far stated confidence exceeds the true one

    def compare(
        self, utility_a: float, utility_b: float, words_a: int, words_b: int, rng: random.Random
    ) -> tuple[str, float]:
        """(choice, confidence) for two replies."""
        margin = self._margin(utility_a, utility_b, words_a, words_b)
        sure = abs(2 / (1 + math.exp(-margin)) - 1)
        confidence = round(min(1.0, max(0.05, sure + self.boldness + rng.gauss(0, 0.1))), 2)
        if rng.random() < 0.01:
            return "unsure", round(min(confidence, 0.3), 2)
        if rng.random() < self._tie_chance(margin):
            return ("both_bad" if max(utility_a, utility_b) < 0 else "tie"), confidence
        return ("a" if rng.random() < 1 / (1 + math.exp(-margin)) else "b"), confidence

    def expected_label(self, utility_a: float, utility_b: float, words_a: int, words_b: int) -> float:
        """Mean of the label that `compare` gives: 1 for a, 0 for b, 0.5 for a tie; `unsure` gives none."""
        margin = self._margin(utility_a, utility_b, words_a, words_b)
        tie = self._tie_chance(margin)
        return tie / 2 + (1 - tie) / (1 + math.exp(-margin))

    def _margin(self, utility_a: float, utility_b: float, words_a: int, words_b: int) -> float:
        return (utility_a - utility_b + self.length_bias * (words_a - words_b)) / self.temperature

    def _tie_chance(self, margin: float) -> float:
        return self.tie_rate * math.exp(-abs(margin))


def raters(params: WorldParams, seed: int) -> list[Rater]:
    rng = random.Random(f"{seed}/raters")
    panel = [
        Rater(
            name=f"rater-{number:02d}",
            temperature=round(params.noise * rng.uniform(0.3, 0.9), 3),
            tie_rate=round(rng.uniform(0.2, 0.5), 3),
            length_bias=round(params.length_bias + rng.gauss(0, 0.01), 4),
            boldness=round(rng.uniform(-0.15, 0.15), 3),
        )
        for number in range(params.num_raters)
    ]
    return [replace(rater, temperature=CARELESS) for rater in panel[: params.num_careless]] + panel[
        params.num_careless :
    ]


def expected_label(domain: str, verifier: str, replies: tuple[str, str], panel: list[Rater]) -> float:
    """Mean label of a comparison over the raters of the panel: P(a wins) + P(tie) / 2."""
    value_a, value_b = (utility(domain, verifier, reply) for reply in replies)
    words_a, words_b = (len(WORD.findall(reply)) for reply in replies)
    return sum(rater.expected_label(value_a, value_b, words_a, words_b) for rater in panel) / len(panel)


def compare(
    prompt: list[Message],
    domain: str,
    verifier: str,
    replies: tuple[str, str],
    panel: list[Rater],
    rng: random.Random,
) -> Preference:
    """One simulated rater of the panel compares two replies."""
    rater = rng.choice(panel)
    values = [utility(domain, verifier, reply) for reply in replies]
    lengths = [len(WORD.findall(reply)) for reply in replies]
    choice, confidence = rater.compare(values[0], values[1], lengths[0], lengths[1], rng)
    return Preference(
        id=row_id("preference", prompt[-1]["content"], *replies, rater.name, rng.getrandbits(32)),
        prompt=prompt,
        reply_a=replies[0],
        reply_b=replies[1],
        choice=choice,
        confidence=confidence,
        rater=rater.name,
        source=SOURCE,
        domain=domain,
        cluster=prompt[-1]["content"],
    )
