"""Where things stand on a chart."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.evaluation import charts


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_round_few_and_inside(low, width):
    found = charts.ticks(low, low + width)
    assert 1 <= len(found) <= 8
    for value, text in found:
        assert low - 1e-6 * width <= value <= low + width * (1 + 1e-6)
        assert text


def test_ticks_by_hand():
    assert [text for _, text in charts.ticks(0.5, 1.0)] == ["0.5", "0.6", "0.7", "0.8", "0.9", "1"]


def test_a_line_goes_from_corner_to_corner():
    chart = charts.line_chart("Loss", {"sft": [(0, 1.0), (10, 0.0)]}, "step", "")
    first, last = chart.lines[0].path[1:].split("L")
    assert float(first.split(",")[0]) == chart.left
    assert float(last.split(",")[0]) == chart.right
    assert float(first.split(",")[1]) < float(last.split(",")[1])  # y grows downwards


def test_gaps_and_infinities_are_left_out():
    chart = charts.line_chart("Loss", {"sft": [(0, 1.0), (1, math.nan), (2, math.inf), (3, 2.0)]}, "step", "")
    assert chart.lines[0].path.count("L") == 1
    assert charts.line_chart("Loss", {"sft": [(0, math.nan), (1, 1.0)]}, "step", "") is None


def test_a_flat_line_and_equal_values_have_a_range():
    assert charts.line_chart("lr", {"sft": [(0, 3e-4), (1, 3e-4)]}, "step", "").y_ticks
    assert charts.histogram("h", {"sft": [5.0, 5.0]}, "tokens").lines


def test_a_histogram_holds_everything():
    chart = charts.histogram("h", {"sft": [0.0] * 3 + [1.0]}, "tokens", num_bins=2)
    heights = [float(point.split(",")[1]) for point in chart.lines[0].path[1:].split("L")]
    base = chart.bottom
    assert (base - heights[1]) / (base - heights[3]) == pytest.approx(3, rel=0.02)


def test_nothing_to_draw_is_none():
    assert charts.line_chart("x", {}, "", "") is None
    assert charts.histogram("x", {"sft": []}, "") is None
    assert charts.reliability("x", {}) is None
    assert charts.frontier("x", [], {"sft": (0.0, 0.0)}, "", "") is None


def test_a_running_mean_keeps_ends_level_and_short_curves():
    few = [(float(i), float(i % 2)) for i in range(30)]
    assert charts.running_mean(few) == few
    many = [(float(i), float(i % 2)) for i in range(200)]
    smooth = charts.running_mean(many)
    assert [x for x, _ in smooth] == [x for x, _ in many]
    assert (smooth[0], smooth[-1]) == (many[0], many[-1])
    assert all(abs(y - 0.5) < 0.06 for _, y in smooth[5:-5])
    flat = [(float(i), 2.0) for i in range(100)]
    assert charts.running_mean(flat) == flat
