"""The canary: obvious preferences (tasks/preferences/canary.py) that a trained model has to tell right.

Their text comes from the source and is tokenised here, anew: nothing that reads, pairs and stores the training data
touches it. Among that data some of them were planted. A model that learned preferences the right way round tells
nearly all of them right; one that learned them the wrong way round, nearly none.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tasks import chat
from tasks.records import Message
from tasks.rlhf.batch import Example

LEFT = 1 / 3  # of a lead
MIN_PLANTED = 50  # without which a share of them says too little


class Text(Protocol):
    @property
    def prompt(self) -> list[Message]: ...
    @property
    def true(self) -> str: ...
    @property
    def ruined(self) -> str: ...


@dataclass(frozen=True)
class Canaries:
    """Rows side by side; the first `num_planted` of them are also in the training data."""

    true: list[Example]
    ruined: list[Example]
    num_planted: int


def tokenised(planted: Sequence[Text], held_out: Sequence[Text], tokenizer: Any, max_length: int) -> Canaries:
    """Those that fit into `max_length` tokens. ValueError where none does."""
    fitting = [[row for text in texts if (row := _row(text, tokenizer, max_length))] for texts in (planted, held_out)]
    rows = [*fitting[0], *fitting[1]]
    if not rows:
        raise ValueError(
            f"canary: none of {len(planted) + len(held_out)} texts fits into model.max_length = {max_length}; raise it"
        )
    return Canaries([true for true, _ in rows], [ruined for _, ruined in rows], len(fitting[0]))


def check(
    canaries: Canaries, lead: Callable[[Sequence[Example], Sequence[Example]], np.ndarray], needed: float, name: str
) -> dict[str, float | int | None]:
    """The shares told right, of the planted ones and of those held out: where `lead`, of true over ruined, is above 0.

    Raises ValueError where of all of them not more than `needed` are (0: not asked); `name` is the key of params.yaml
    that `canary_share` belongs to.
    """
    if needed and canaries.num_planted < MIN_PLANTED:
        raise ValueError(
            f"{name}: the canary has {canaries.num_planted} planted comparisons that fit into model.max_length, "
            f"and wants {MIN_PLANTED}; raise model.max_length and run `dvc repro prepare`"
        )
    right = lead(canaries.true, canaries.ruined) > 0
    share = float(np.mean(right))
    if needed and share <= needed:
        cause = (
            "labels look swapped: check how a and b, chosen and rejected, are read from the source on"
            if share < 0.5
            else "replies and labels look mispaired (shifted rows?), or too little was learned from too few comparisons"
        )
        raise ValueError(
            f"{name}: the canary fails: of {len(right)} true replies against noise the model prefers {share:.0%}, and "
            f"{name}.canary_share = {needed} must be exceeded; {cause}"
        )
    planted, held_out = right[: canaries.num_planted], right[canaries.num_planted :]
    return {
        "share": share,
        "num_planted": len(planted),
        "share_planted": float(np.mean(planted)) if len(planted) else None,
        "num_held_out": len(held_out),
        "share_held_out": float(np.mean(held_out)) if len(held_out) else None,
    }


def lead_of_ratios(own: Sequence[np.ndarray], frozen: Sequence[np.ndarray]) -> np.ndarray:
    """Of implicit rewards log(policy / reference). `own`, `frozen`: log p of the true and of the ruined replies.

    Over an SFT policy of a few steps an SFT term (`sft_weight`) makes text likelier than noise whatever the labels say:
    swapped ones then look mispaired.
    """
    return np.asarray((own[0] - frozen[0]) - (own[1] - frozen[1]))


def lead_per_token(
    own: Sequence[np.ndarray], frozen: Sequence[np.ndarray], tokens: Sequence[Sequence[int]]
) -> np.ndarray:
    """For losses without a reference, which learn nothing from a pair that the SFT policy tells apart well enough.

    The policy's log p per token has to lead, by more than the share LEFT of what SFT led by: learning the right way
    round moves that lead of a dozen nats by a few, either way, and the wrong way round takes nearly all of it. Where
    SFT hardly leads (0.6 nats: a model of a few steps) swapped labels go unnoticed by ORPO, whose likelihood adds more.
    Hand-worked, a token each: log p -1 and -3, of SFT -1 and -4: a lead of 2 where 1 is needed: 1.
    """
    now, before = (true / tokens[0] - ruined / tokens[1] for true, ruined in (own, frozen))
    return np.asarray(now - LEFT * np.maximum(before, 0.0))


def prompt_ids(tokenizer: Any, prompt: list[Message]) -> list[int]:
    text = chat.render(tokenizer, prompt)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def reply_ids(tokenizer: Any, reply: str) -> list[int]:
    return [*tokenizer(reply, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


def _row(text: Text, tokenizer: Any, max_length: int) -> tuple[Example, Example] | None:
    prompt = prompt_ids(tokenizer, text.prompt)
    true, ruined = (Example(prompt, reply_ids(tokenizer, reply)) for reply in (text.true, text.ruined))
    return (true, ruined) if max(true.length, ruined.length) <= max_length else None
