"""citation: every passage that the reply cites as [id] is in the corpus and says what it is cited for.

The corpus (a table of `align.rewards.tables`) has rows {"id", "text"}. With an `answer`, the reply has to state it and
each cited passage to contain it; without, each [id] has to follow a quotation ("..." [id]) that its passage contains.
"""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from tasks.rlhf.verification import Resources, Row, Verify, contains, words
from tasks.rlhf.verification import Spec as Base

MAX_CITATIONS = 100  # in a reply; one with more is wrong
CLOSING = {'"': '"', "”": "“"}  # closing quotation mark: its opening one


class Spec(Base):
    table: str
    answer: Annotated[str, Field(min_length=1)] | None = None
    min_words: Annotated[int, Field(gt=0)] = 4  # of a quotation: shorter ones stand everywhere


def verifier(spec: Spec, resources: Resources) -> Verify:
    """The share of the citations that hold; 0 without any, or where the answer is not stated outside of them."""
    passages = resources.index(spec.table, corpus)
    answer = None if spec.answer is None else words(spec.answer)
    if answer == []:
        raise ValueError(f"answer = {spec.answer!r}: holds nothing but punctuation")

    def verify(reply: str) -> float:
        found = citations(reply)
        stated = answer is None or contains(words(" ".join(text for text, _ in found) + _after(reply)), answer)
        if not 0 < len(found) <= MAX_CITATIONS or not stated:
            return 0.0
        claims = [(answer or _quotation(text), cited) for text, cited in found]
        least = 1 if answer else spec.min_words
        return sum(len(c) >= least and contains(passages.get(cited, ()), c) for c, cited in claims) / len(claims)

    return verify


def corpus(rows: Sequence[Row]) -> dict[str, list[str]]:
    """The words of each passage by its id."""
    found: dict[str, list[str]] = {}
    for number, row in enumerate(rows, 1):
        name, text = row.get("id"), row.get("text")
        if not isinstance(name, str) or not isinstance(text, str):
            raise ValueError(f"row {number} of the table: must have an id and a text, both text; found {sorted(row)}")
        if name in found:
            raise ValueError(f"row {number} of the table: id {name!r} stands twice")
        found[name] = words(text)
    return found


def citations(reply: str) -> list[tuple[str, str]]:
    """(the text before it, the id) of each [id]; ids side by side share their text."""
    found: list[tuple[str, str]] = []
    before, *rest = reply.split("[")
    for piece in rest:
        cited, closed, after = piece.partition("]")
        if closed:
            found.append((before if before.strip() or not found else found[-1][0], cited.strip()))
            before = after
        else:
            before += "[" + piece
    return found


def _after(reply: str) -> str:
    """What follows the last citation."""
    return " " + reply.rpartition("]")[2]


def _quotation(text: str) -> list[str]:
    """The words of the quotation that a text ends with, if it does."""
    text = text.rstrip(" .,;:\n")
    if not text or text[-1] not in CLOSING:
        return []
    return words(text[:-1].rpartition(CLOSING[text[-1]])[2])
