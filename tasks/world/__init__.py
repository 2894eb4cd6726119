"""The simulated world of the embedded default: prompts, replies, raters, and a *known* gold utility.

No real dataset has a true utility to check results against; this one does. Everything is drawn from a seed:
which town is the capital of which land, which replies are good, who rates how. Always label it as simulated.
"""

from tasks.world.datasets import generate
from tasks.world.gold import correct, declines, utility, well_formed
from tasks.world.items import Item, items
from tasks.world.raters import SOURCE, Rater, WorldParams, compare, expected_label, raters
from tasks.world.writers import QUALITIES, Quality, write_reply

__all__ = [
    "QUALITIES",
    "SOURCE",
    "Item",
    "Quality",
    "Rater",
    "WorldParams",
    "compare",
    "correct",
    "declines",
    "expected_label",
    "generate",
    "items",
    "raters",
    "utility",
    "well_formed",
    "write_reply",
]
