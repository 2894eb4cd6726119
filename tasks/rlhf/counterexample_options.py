"""What a reward model learns from beside people's comparisons: the sections `reward.counterexamples`, `reward.swaps`.

Imports no torch: parameters are checked in a moment.
"""

from typing import Annotated

from pydantic import Field

from tasks.rlhf.options import NotNegative, Options


class CounterexampleOptions(Options):
    """Pairs whose worse side is known to be worse without asking anybody."""

    mismatched: Annotated[float, Field(ge=0, le=1)] = 0.0  # per comparison: against a good reply to another prompt
    corrupted: Annotated[float, Field(ge=0, le=1)] = 0.0  # per comparison: against the same reply, ruined
    mined: NotNegative = 1.0  # factor on the weight of mined pairs (tasks/mine.py); 0: they are left out


class SwapOptions(Options):
    """Pairs of texts that differ in what must not matter (data/swaps.jsonl), and so should score the same."""

    weight: NotNegative = 0.0  # of (r_a - r_b)^2, raw scores of each head; 0: they are measured, not learned from
    share: Annotated[float, Field(gt=0, le=1)] = 0.1  # such pairs per comparison, as far as there are any
