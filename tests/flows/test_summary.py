"""Where the time of a run went."""

import pytest

from flows.summary import seconds_of_work


def row(started, seconds, **phases):
    return {"started": started, "seconds_in_stage": seconds, "phases": phases}


@pytest.mark.parametrize(
    ("rows", "seconds"),
    [
        ([], 0.0),
        ([row(0.0, 9.0, train=5.0, sample=3.0), row(10.0, 5.0, train=4.0)], 12.0),  # one after the other
        ([row(0.0, 9.0, read=8.0), row(2.0, 5.0, check=4.0)], 8.0),  # 5 s side by side: all 4 may be shared
        ([row(0.0, 9.0, read=8.0), row(7.0, 5.0, check=4.0)], 10.0),  # 2 s side by side
        ([row(None, None), row(0.0, 9.0, read=8.0)], 8.0),  # a stage that did not run
    ],
)
def test_work_side_by_side_counts_once(rows, seconds) -> None:
    assert seconds_of_work(rows) == pytest.approx(seconds)
