"""The holds at work on the simulated world, a few seeds of tests/bench/holds.py."""

import pytest

from tests.bench import holds


@pytest.mark.slow
def test_a_poisoned_shard_of_5000_is_held_and_a_clean_one_is_not() -> None:
    kinds = ["flipped labels", "trigger in preferred replies", "trigger in prompts, flipped"]
    found = holds.measure(holds.simulated(16_000), 7000, 5000, 3, kinds)
    assert found["false_alarms"] == 0
    for name, rate in (("flipped labels", 0.1), ("flipped labels", 0.05), *((kind, 0.01) for kind in kinds[1:])):
        assert found["power"][f"{name} {rate:g}"] == 1, name
