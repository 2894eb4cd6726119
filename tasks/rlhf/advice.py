"""Which algorithm for which data, and when none is needed. README.md ("Which algorithm?") shows the same table."""

import math
from dataclasses import dataclass

# (what there is, what to start with, why)
TABLE = (
    ("pairs, one reply preferred", "`dpo`", "one pass over fixed data, no sampling, no reward model to exploit"),
    ("pairs with many wrong labels", "`ipo`", "its squared loss does not chase labels to infinity as the others do"),
    ("replies judged one by one", "`kto`", "needs no pairs; wanted and unwanted may be unequal in number"),
    ("scores of several replies", "`rloo`", "a reward model with `margin` keeps by how much; no critic to train"),
    (
        "prompts whose answers can be checked",
        "`grpo`",
        "a rule scores them (`align.rewards`), several to a prompt, each held against the others",
    ),
    ("pairs, and time to sample", "`ppo`", "on-policy: the policy learns from its own mistakes"),
    ("demonstrations only", "SFT", "nothing says which reply is worse"),
    ("one fault in a few known places", "SFT", "corrected replies say directly what a comparison says in one bit"),
)

NO_COMPARISONS = (
    "Not by `make run` as it is: reward model and judge learn from comparisons, and there are none. `python -m "
    "tasks.sft`, `tasks.objective` and `tasks.align` train without them, and nobody judges the result."
)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of the data and of an earlier run; None where nobody measured."""

    num_pairs: float  # to train on
    num_judged: float = 0  # of replies judged one by one, to train on
    test_share: float  # of all pairs
    scored_share: float = 0.0  # of them with scores
    checked_share: float = 0.0  # of the prompts with a verifier
    tied_share: float = 0.0  # of the labels
    min_accuracy: float = 0.6  # that the gate asks of the reward model
    accuracy: tuple[float, float] | None = None  # of the reward model on held-out pairs, its 95% interval
    ceiling: float | None = None  # accuracy of one who knows the truth, given the raters' noise
    win_rate: tuple[float, float] | None = None  # of the aligned policy against SFT, its 95% interval
    declined: float | None = None  # lower bound of the unsafe prompts that the SFT policy declines


def needed_pairs(accuracy: float, test_share: float) -> int:
    """Pairs of which the test share tells that accuracy from 0.5: one-sided test at 5% with a power of 80%.

    Normal approximation; Fleiss 1981, Statistical Methods for Rates and Proportions, sec. 2.3. Hand-worked, accuracy
    0.6: (1.645 * 0.5 + 0.842 * sqrt(0.24))^2 / 0.1^2 = 152.5 held-out pairs, with a share of 0.18 of them 848 in all.
    """
    held_out = (1.645 * 0.5 + 0.842 * math.sqrt(accuracy * (1 - accuracy))) ** 2 / (accuracy - 0.5) ** 2
    return math.ceil(held_out / test_share)


def advise(facts: Facts, algorithm: str) -> list[str]:
    """Sentences: what to start with, then what speaks against training at all."""
    if not facts.num_pairs and not facts.num_judged:
        return [_start("demonstrations only")]
    said = [_start(_kind(facts), algorithm)]
    if not facts.num_pairs:
        return [*said, NO_COMPARISONS]
    total, needed = facts.num_pairs / (1 - facts.test_share), needed_pairs(facts.min_accuracy, facts.test_share)
    if total < needed:
        said.append(
            f"Not yet: {total:.0f} pairs; {needed} are needed for the test share to tell the gate's reward accuracy of "
            f"{facts.min_accuracy:g} from chance (5% level, power 80%). Until then SFT on the preferred replies."
        )
    if facts.tied_share > 0.5:
        said.append(
            f"Not as it is: {facts.tied_share:.0%} of the labels are ties, which teach nothing; sharpen the rubric."
        )
    if facts.ceiling is not None and facts.ceiling < 0.55:
        said.append(f"Not as it is: the raters' own noise leaves a ceiling of {facts.ceiling:.2f}, near chance.")
    if facts.accuracy is not None and facts.accuracy[0] <= 0.5:
        low, high = facts.accuracy
        said.append(
            f"Not as it is: the reward model's accuracy [{low:.2f}, {high:.2f}] cannot be told from chance; any "
            "algorithm would optimise noise."
        )
    if facts.win_rate is not None and facts.win_rate[0] <= 0.5:
        low, high = facts.win_rate
        said.append(f"Not needed so far: the last aligned policy did not beat SFT, win rate [{low:.2f}, {high:.2f}].")
    if facts.declined is not None and facts.declined >= 0.95:
        said.append(f"Not needed for safety: SFT declines at least {facts.declined:.0%} of the unsafe prompts already.")
    return said


def _kind(facts: Facts) -> str:
    """By the data at hand, in this order; half of the rows is a rule of thumb."""
    if facts.checked_share > 0.5:
        return "prompts whose answers can be checked"
    if facts.num_judged > facts.num_pairs:
        return "replies judged one by one"
    if facts.scored_share > 0.5:
        return "scores of several replies"
    if facts.ceiling is not None and facts.ceiling < 0.75:  # a rule of thumb: a quarter of the labels wrong
        return "pairs with many wrong labels"
    return "pairs, one reply preferred"


def _start(kind: str, algorithm: str = "") -> str:
    (use, why) = next((use, why) for data, use, why in TABLE if data == kind)
    plain = use.strip("`")
    chosen = f" (chosen: {algorithm})" if algorithm and algorithm != plain else ""
    return f"For {kind}: start with {plain}{chosen}; {why}."
