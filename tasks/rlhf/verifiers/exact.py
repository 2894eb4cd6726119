"""exact: the reply ends with the answer, or is the answer, but for case, spaces and punctuation around words.

The last words count and not any words: a reply that lists every candidate must still end with one of them.
"""

from typing import Annotated, Literal

from pydantic import Field

from tasks.rlhf.verification import Resources, Verify, words
from tasks.rlhf.verification import Spec as Base

Text = Annotated[str, Field(min_length=1)]


class Spec(Base):
    answer: Text | Annotated[list[Text], Field(min_length=1)]  # a list: any of them is right
    match: Literal["ends", "whole"] = "ends"


def verifier(spec: Spec, resources: Resources) -> Verify:
    """1 for a right reply, else 0."""
    answers = [words(answer) for answer in ([spec.answer] if isinstance(spec.answer, str) else spec.answer)]
    if not all(answers):
        raise ValueError(f"answer = {spec.answer!r}: holds nothing but punctuation")

    def verify(reply: str) -> float:
        said = words(reply)
        return float(any((said[-len(a) :] if spec.match == "ends" else said) == a for a in answers))

    return verify
