"""Step-labelled arithmetic of the simulated world: sums worked out line by line, some lines wrong, all labels known.

For process and outcome reward models. Like everything of the world it is drawn from a seed, and simulated.
"""

import random
from dataclasses import dataclass

SEPARATOR = "\n"


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


def workings(
    seed: int, count: int, *, num_terms: int = 4, error_rate: float = 0.2, repair_rate: float = 0.3
) -> list[Working]:
    """`count` replies to sums of `num_terms` numbers from 1 to 9.

    A step goes wrong with `error_rate`. Once a result is off, the next step may set it right by a second error that
    cancels the first, with `repair_rate`: that is how a right answer comes out of bad steps.
    """
    if num_terms < 2:
        raise ValueError(f"workings: num_terms = {num_terms}: a sum has at least 2 terms")
    rng = random.Random(f"{seed}/steps")
    return [_working(rng, num_terms, error_rate, repair_rate) for _ in range(count)]


def _working(rng: random.Random, num_terms: int, error_rate: float, repair_rate: float) -> Working:
    terms = [rng.randint(1, 9) for _ in range(num_terms)]
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
    question = " + ".join(str(term) for term in terms)
    return Working(f"What is {question}? Show each step.", tuple(steps), tuple(labels), said == true)
