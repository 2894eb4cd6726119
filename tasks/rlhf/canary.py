"""The canary: obvious preferences that nobody trained on, to notice data that was swapped or mispaired on its way.

A plant is a true reply against noise of as many characters. Its text comes from the source and is tokenised here,
anew: nothing that reads, pairs and stores the training data touches it. A reward model that learned preferences the
right way round tells nearly all plants right; one that learned them the wrong way round, nearly none.

Noise is symbols, not the reply of another prompt: raters compare replies to one prompt, so nothing they say teaches
a model that a good reply to another question is bad, and an honest one tells such pairs by chance.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.records import Message
from tasks.rlhf.batch import Example
from tasks.rlhf.reward_model import RewardModel, score_examples

NUM_PLANTS = 200
SYMBOLS = "#@%&*~^_|<>;"


@dataclass(frozen=True)
class Plant:
    true: Example
    noise: Example
    other: Example  # the true reply of another plant's prompt


def plants(texts: Sequence[tuple[list[Message], str]], tokenizer: Any, max_length: int, seed: int) -> list[Plant]:
    """NUM_PLANTS plants from prompts and their true replies; few texts are used several times, with new noise.

    Raises ValueError where no text fits into `max_length` tokens.
    """
    rng = random.Random(f"{seed}/canary")
    rows = [(prompt_ids(tokenizer, prompt), reply, reply_ids(tokenizer, reply)) for prompt, reply in texts]
    rows = [row for row in rows if len(row[0]) + len(row[2]) <= max_length]
    if not rows:
        raise ValueError(
            f"canary: none of {len(texts)} demonstrations fits into model.max_length = {max_length}; raise it"
        )
    made = []
    for number in range(NUM_PLANTS):
        prompt, reply, true = rows[number % len(rows)]
        room = max_length - len(prompt)
        noise = reply_ids(tokenizer, "".join(rng.choice(SYMBOLS) for _ in reply))
        *_, other = rows[(number + 1) % len(rows)]
        made.append(Plant(Example(prompt, true), Example(prompt, fit(noise, room)), Example(prompt, fit(other, room))))
    return made


def prompt_ids(tokenizer: Any, prompt: list[Message]) -> list[int]:
    text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def reply_ids(tokenizer: Any, reply: str) -> list[int]:
    return [*tokenizer(reply, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


def fit(ids: list[int], room: int) -> list[int]:
    """At most `room` tokens, with the end kept."""
    return ids if len(ids) <= room else [*ids[: room - 1], ids[-1]]


def check(model: RewardModel, planted: Sequence[Plant], needed: float, name: str) -> dict[str, float | int]:
    """The shares of plants told right: against noise, and against another prompt's reply (for information only).

    Raises ValueError where the first is not above `needed` (0: not asked); `name` is the section of params.yaml.
    """
    true, noise, other = (
        score_examples(model, [getattr(plant, side) for plant in planted]) for side in ("true", "noise", "other")
    )
    share = float(np.mean(true > noise))
    if needed and share <= needed:
        cause = (
            "labels look swapped: check how a and b, chosen and rejected, are read from the source on"
            if share < 0.5
            else "replies and labels look mispaired (shifted rows?), or too little was learned from too few comparisons"
        )
        raise ValueError(
            f"{name}: the canary fails: of {len(planted)} true replies against noise the reward model prefers "
            f"{share:.0%}, and {name}.canary_share = {needed} must be exceeded; {cause}"
        )
    return {"num_plants": len(planted), "share": share, "share_of_mismatched": float(np.mean(true > other))}
