"""Advice: the README shows its table, and every rule speaks where it should and is silent where it should not."""

import math
import re
from pathlib import Path

import pytest
from scipy.stats import binom

from tasks.rlhf import advice, algorithms
from tasks.rlhf.advice import Facts

README = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
GOOD = {"num_pairs": 8200, "test_share": 0.18, "accuracy": (0.7, 0.75), "ceiling": 0.82, "win_rate": (0.6, 0.7)}


def test_the_readme_shows_the_table():
    section = README.split("### Which algorithm?")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (.+) \| (.+) \| (.+) \|$", section, re.MULTILINE)
    assert tuple(rows[1:]) == advice.TABLE
    for _, use, _ in advice.TABLE:
        assert use == "SFT" or use.strip("`") in algorithms.known()


@pytest.mark.parametrize(
    ("changes", "start"),
    [
        ({}, "start with dpo (chosen: ppo)"),
        ({"checked_share": 0.6, "scored_share": 0.9}, "start with grpo"),
        ({"scored_share": 0.6}, "start with rloo"),
        ({"ceiling": 0.7}, "start with ipo"),
        ({"num_judged": 8300}, "For replies judged one by one: start with kto"),
        ({"num_judged": 8100}, "For pairs, one reply preferred: start with dpo"),
        ({"num_pairs": 0}, "For demonstrations only: start with SFT"),
    ],
)
def test_what_to_start_with(changes, start):
    said = advice.advise(Facts(**GOOD | changes), "ppo")
    assert start in said[0]
    assert len(said) == 1  # nothing speaks against it
    assert "chosen" not in advice.advise(Facts(**GOOD), "dpo")[0]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_pairs": 600}, "Not yet: 732 pairs; 848 are needed"),
        ({"tied_share": 0.6}, "60% of the labels are ties"),
        ({"ceiling": 0.53}, "a ceiling of 0.53, near chance"),
        ({"accuracy": (0.48, 0.6)}, r"accuracy \[0.48, 0.60\] cannot be told from chance"),
        ({"win_rate": (0.45, 0.52)}, "did not beat SFT"),
        ({"declined": 0.97}, "SFT declines at least 97% of the unsafe prompts"),
    ],
)
def test_what_speaks_against_it(changes, reason):
    said = advice.advise(Facts(**GOOD | changes), "dpo")
    assert len(said) == 2
    assert re.search(reason, said[1])


def test_judged_replies_alone_are_for_kto_and_for_no_judge():
    kind, against = advice.advise(Facts(num_pairs=0, num_judged=500, test_share=0.18), "kto")
    assert kind.startswith("For replies judged one by one: start with kto; needs no pairs")
    assert "learn from comparisons, and there are none" in against


@pytest.mark.parametrize("accuracy", [0.55, 0.6, 0.7])
def test_the_number_of_pairs_has_the_power_it_claims(accuracy):
    """Against the exact binomial test."""
    held_out = advice.needed_pairs(accuracy, 1.0)
    critical = binom.ppf(0.95, held_out, 0.5)
    assert binom.sf(critical, held_out, accuracy) == pytest.approx(0.8, abs=0.04)
    assert advice.needed_pairs(accuracy, 0.25) == pytest.approx(4 * held_out, abs=4)
    assert advice.needed_pairs(0.6, 0.18) == math.ceil(152.5 / 0.18)
