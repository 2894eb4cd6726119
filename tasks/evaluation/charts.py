"""Charts as geometry: where lines, dots and ticks stand, in SVG units. The page's template draws them.

No markup is made here, so nothing here can be an injection.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Point = tuple[float, float]


@dataclass(frozen=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True)
class Mark:
    """A thing on a chart. `kind` names its colour: a model, a scorer, or `plain`."""

    kind: str
    name: str
    path: str = ""  # of a line
    faint: bool = False  # a line in the background
    x: float = 0.0  # of a dot or a vertical line
    y: float = 0.0
    text: str = ""


@dataclass(frozen=True)
class Chart:
    title: str
    width: float
    height: float
    left: float
    top: float
    right: float
    bottom: float
    x_ticks: tuple[Tick, ...] = ()
    y_ticks: tuple[Tick, ...] = ()
    x_label: str = ""
    y_label: str = ""
    lines: tuple[Mark, ...] = ()
    dots: tuple[Mark, ...] = ()
    references: tuple[Mark, ...] = ()
    legend: tuple[Mark, ...] = ()


@dataclass(frozen=True)
class Frame:
    """A plot area and the ranges of data that it shows."""

    xs: tuple[float, float]
    ys: tuple[float, float]
    width: float = 360.0
    height: float = 200.0
    left: float = 46.0
    top: float = 12.0
    right: float = 12.0
    bottom: float = 38.0

    def x(self, value: float) -> float:
        low, high = self.xs
        return round(self.left + (value - low) / (high - low) * (self.width - self.left - self.right), 1)

    def y(self, value: float) -> float:
        low, high = self.ys
        return round(
            self.height - self.bottom - (value - low) / (high - low) * (self.height - self.top - self.bottom), 1
        )

    def chart(self, title: str, x_label: str, y_label: str, **marks: tuple[Mark, ...]) -> Chart:
        return Chart(
            title,
            self.width,
            self.height,
            self.left,
            self.top,
            self.width - self.right,
            self.height - self.bottom,
            tuple(Tick(self.x(v), text) for v, text in ticks(*self.xs)),
            tuple(Tick(self.y(v), text) for v, text in ticks(*self.ys, most=5)),
            x_label,
            y_label,
            **marks,
        )


_LARGE = {"width": 500.0, "height": 240.0}  # two in a row


def line_chart(
    title: str,
    series: Mapping[str, Sequence[Point]],
    x_label: str,
    y_label: str,
    kinds: Mapping[str, str] | None = None,
) -> Chart | None:
    """One line per named series of (x, y); None without two points to join. Points that are no number are left out."""
    kept = {name: [p for p in points if all(map(math.isfinite, p))] for name, points in series.items()}
    kept = {name: points for name, points in kept.items() if len(points) > 1}
    if not kept:
        return None
    every = [point for points in kept.values() for point in points]
    frame = Frame(_span([x for x, _ in every], pad=0.0), _span([y for _, y in every]))
    lines, dots = [], []
    for name, points in kept.items():
        kind = (kinds or {}).get(name, "plain")
        smooth = running_mean(points)
        if smooth != points:
            lines.append(Mark(kind, name, path=_path(frame, points), faint=True))
        lines.append(Mark(kind, name, path=_path(frame, smooth)))
        last_x, last_y = smooth[-1]
        dots.append(Mark(kind, name, x=frame.x(last_x), y=frame.y(last_y), text=short(last_y)))
    legend = tuple(line for line in lines if not line.faint) if len(kept) > 1 else ()
    return frame.chart(title, x_label, y_label, lines=tuple(lines), dots=tuple(dots), legend=legend)


def frontier(
    title: str, path: Sequence[Point], models: Mapping[str, Point], x_label: str, y_label: str
) -> Chart | None:
    """The path of training in (KL, score), a dot per step, and where the models ended on held-out prompts."""
    steps = [p for p in path if all(map(math.isfinite, p))]
    every = [*steps, *models.values()]
    if len(every) < 2:
        return None
    frame = Frame(_span([x for x, _ in every]), _span([y for _, y in every]), **_LARGE)
    dots = [Mark("step", f"step {i}", x=frame.x(x), y=frame.y(y)) for i, (x, y) in enumerate(steps, 1)]
    dots += [Mark(name, name, x=frame.x(x), y=frame.y(y)) for name, (x, y) in models.items()]
    lines: tuple[Mark, ...] = ()
    if len(steps) > 1:
        lines = (Mark("step", "training", path=_path(frame, steps)),)
    legend = (*lines, *(Mark(name, f"{name}, held out") for name in models))
    return frame.chart(title, x_label, y_label, lines=lines, dots=tuple(dots), legend=legend)


def reliability(title: str, curves: Mapping[str, Sequence[tuple[float, float, int]]]) -> Chart | None:
    """Accuracy against confidence per bin; on the diagonal a scorer is as right as it says."""
    points = {name: [(c, a) for c, a, _ in bins] for name, bins in curves.items() if bins}
    if not points:
        return None
    low = min(0.5, *(a for found in points.values() for _, a in found))
    frame = Frame((0.5, 1.0), (math.floor(low * 10) / 10, 1.0), **_LARGE)
    lines, dots = [], []
    for name, found in points.items():
        lines.append(Mark(name, name, path=_path(frame, found)))
        dots += [Mark(name, f"{name}: says {x:.2f}, is {y:.2f}", x=frame.x(x), y=frame.y(y)) for x, y in found]
    diagonal = Mark(
        "guide", "as right as it says", path=f"M{frame.x(0.5):g},{frame.y(0.5):g}L{frame.x(1):g},{frame.y(1):g}"
    )
    return frame.chart(
        title, "confidence", "accuracy", lines=(diagonal, *lines), dots=tuple(dots), legend=(*lines, diagonal)
    )


def histogram(title: str, values: Mapping[str, Sequence[float]], x_label: str, num_bins: int = 24) -> Chart | None:
    """Shares of each group's values per bin, as steps; the groups share their bins."""
    kept = {name: [v for v in found if math.isfinite(v)] for name, found in values.items()}
    kept = {name: found for name, found in kept.items() if found}
    if not kept:
        return None
    low, high = _span([v for found in kept.values() for v in found], pad=0.0)
    size = (high - low) / num_bins
    shares: dict[str, list[float]] = {}
    for name, found in kept.items():
        counts = [0] * num_bins
        for value in found:
            counts[min(num_bins - 1, int((value - low) / size))] += 1
        shares[name] = [count / len(found) for count in counts]
    frame = Frame((low, high), (0.0, max(max(s) for s in shares.values()) * 1.08), **_LARGE)
    lines = tuple(Mark(name, name, path=_steps(frame, found, low, size)) for name, found in shares.items())
    references = (Mark("plain", "0", x=frame.x(0)),) if low < 0 < high else ()
    return frame.chart(title, x_label, "share", lines=lines, legend=lines, references=references)


def running_mean(points: Sequence[Point]) -> list[Point]:
    """Mean over a centred window of a twentieth of the points; the points themselves where they are few."""
    half = len(points) // 40
    means = []
    for i, (x, _) in enumerate(points):
        reach = min(half, i, len(points) - 1 - i)  # narrower at the ends, so that the last value is the last value
        window = points[i - reach : i + reach + 1]
        means.append((x, math.fsum(y for _, y in window) / len(window)))
    return means if half else list(points)


def ticks(low: float, high: float, most: int = 6) -> list[tuple[float, str]]:
    """Round values in low..high, at most `most` + 1, with their labels."""
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    values = [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]
    return [(value, short(value)) for value in values]


def short(value: float) -> str:
    """A number in few characters."""
    if value == 0:
        return "0"
    text = f"{value:.1e}" if abs(value) < 1e-3 or abs(value) >= 1e6 else f"{value:,.4g}"
    return text.replace("-", "\u2212")


def _span(values: Sequence[float], pad: float = 0.06) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = (high - low) * pad
    if high == low:
        room = abs(high) * 0.1 or 1.0
    return low - room, high + room


def _path(frame: Frame, points: Sequence[Point]) -> str:
    return "M" + "L".join(f"{frame.x(x):g},{frame.y(y):g}" for x, y in points)


def _steps(frame: Frame, shares: Sequence[float], low: float, size: float) -> str:
    path = [f"{frame.x(low):g},{frame.y(0):g}"]
    for number, share in enumerate(shares):
        left, right = low + number * size, low + (number + 1) * size
        path += [f"{frame.x(left):g},{frame.y(share):g}", f"{frame.x(right):g},{frame.y(share):g}"]
    path.append(f"{frame.x(low + len(shares) * size):g},{frame.y(0):g}")
    return "M" + "L".join(path)
