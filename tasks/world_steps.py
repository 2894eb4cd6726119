"""Step-labelled arithmetic of the simulated world: sums worked out line by line, some lines wrong, all labels known.

For outcome and process reward models. Like everything of the world it is drawn from a seed, and simulated.
"""

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks.records import Demonstration, Message, Prompt, Record, Solution, row_id
from tasks.world import SOURCE

NAME, DOMAIN = "world-steps", "steps"
SEPARATOR = "\n"
_LINE = re.compile(r"(\d+) \+ (\d+) = (\d+)\.")

Count = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(ge=0, lt=1)]


class StepsParams(BaseModel):
    """How many rows of each dataset, and what they are like."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    num_demonstrations: Count
    num_prompts: Count
    num_solutions: Count  # with labels
    num_terms: Annotated[int, Field(ge=2, le=9)] = 4  # of a sum; a step less
    max_term: Annotated[int, Field(ge=2, le=9)] = 9
    error_rate: Rate = 0.2  # of steps
    repair_rate: Rate = 0.3  # of steps after a wrong result: a second error cancels the first

    @model_validator(mode="after")
    def _enough_sums(self) -> Self:
        if self.num_prompts > (sums := self.max_term**self.num_terms):
            raise ValueError(f"num_prompts = {self.num_prompts}: there are {sums} sums of so many terms")
        return self


@dataclass(frozen=True)
class Working:
    """A reply of steps, one per line; a step is right where its own sum is, whatever came before it."""

    prompt: str
    steps: tuple[str, ...]
    labels: tuple[bool, ...]
    correct: bool  # whether the last line ends in the right answer

    @property
    def reply(self) -> str:
        return SEPARATOR.join(self.steps)


def generate(params: StepsParams, seed: int) -> dict[str, list[Record]]:
    """Demonstrations with errors among them, prompts with their verifiers, and solutions with their labels."""

    def drawn(dataset: str, count: int) -> list[Working]:
        return workings(
            f"{seed}/{dataset}",
            count,
            num_terms=params.num_terms,
            max_term=params.max_term,
            error_rate=params.error_rate,
            repair_rate=params.repair_rate,
        )

    most, length = params.max_term, params.num_terms
    sums = random.Random(f"{seed}/sums").sample(range(most**length), params.num_prompts)
    return {
        "demonstrations": [
            Demonstration(
                id=row_id("steps demonstration", seed, number),
                reply=row.reply,
                licence="Apache-2.0",
                **_shared(row.prompt),
            )
            for number, row in enumerate(drawn("demonstrations", params.num_demonstrations))
        ],
        "prompts": [_prompt([number // most**i % most + 1 for i in range(length)]) for number in sums],
        "solutions": [
            Solution(
                id=row_id("solution", seed, number),
                steps=list(row.steps),
                labels=list(row.labels),
                correct=row.correct,
                **_shared(row.prompt),
            )
            for number, row in enumerate(drawn("solutions", params.num_solutions))
        ],
    }


def workings(
    seed: int | str,
    count: int,
    *,
    num_terms: int = 4,
    max_term: int = 9,
    error_rate: float = 0.2,
    repair_rate: float = 0.3,
) -> list[Working]:
    """`count` replies to sums of `num_terms` numbers from 1 to `max_term`.

    A step goes wrong with `error_rate`. Once a result is off, the next step may set it right by a second error that
    cancels the first, with `repair_rate`: that is how a right answer comes out of bad steps.
    """
    if num_terms < 2:
        raise ValueError(f"workings: num_terms = {num_terms}: a sum has at least 2 terms")
    rng = random.Random(f"{seed}/steps")
    return [
        _working([rng.randint(1, max_term) for _ in range(num_terms)], rng, error_rate, repair_rate)
        for _ in range(count)
    ]


def graded(prompt: str, reply: str) -> Working:
    """A reply as written by whomever, its steps held against the sum that the prompt asks for.

    A step is right where it adds the next term to the last result, as it was said, and adds up. A reply is correct
    where the last number in it is the answer; its steps may yet be wrong, too few or too many.
    """
    terms = [int(term) for term in re.findall(r"\d+", prompt)]
    steps = tuple(line for line in reply.split(SEPARATOR) if line.strip())
    labels: list[bool] = []
    said, rest = terms[0], terms[1:]
    for step, term in zip(steps, [*rest, *[None] * len(steps)], strict=False):
        found = _LINE.fullmatch(step.strip())
        left, right, result = map(int, found.groups()) if found else (None, None, None)
        labels.append((left, right, result) == (said, term, None if term is None else said + term))
        said = said if result is None else result
    numbers = re.findall(r"\d+", reply)
    return Working(prompt, steps, tuple(labels), bool(numbers) and int(numbers[-1]) == sum(terms))


def _working(terms: Sequence[int], rng: random.Random, error_rate: float, repair_rate: float) -> Working:
    steps: list[str] = []
    labels: list[bool] = []
    true = said = terms[0]
    for term in terms[1:]:
        true += term
        right = said + term
        result = right
        if right != true and rng.random() < repair_rate:
            result = true
        elif rng.random() < error_rate:
            result = right + rng.choice([off for off in (-3, -2, -1, 1, 2, 3) if right + off > 0])
        steps.append(f"{said} + {term} = {result}.")
        labels.append(result == right)
        said = result
    return Working(_question(terms), tuple(steps), tuple(labels), said == true)


def _question(terms: Sequence[int]) -> str:
    return f"What is {' + '.join(map(str, terms))}? Show each step."


def _prompt(terms: Sequence[int]) -> Prompt:
    shared = _shared(_question(terms))
    verifier = {"kind": "numeric", "answer": str(sum(terms)), "question": " + ".join(map(str, terms))}
    return Prompt(id=row_id("steps prompt", *terms), verifier=json.dumps(verifier, sort_keys=True), **shared)


def _shared(text: str) -> dict[str, Any]:
    return {
        "prompt": [Message(role="user", content=text)],
        "source": SOURCE,
        "domain": DOMAIN,
        "cluster": text,
    }
