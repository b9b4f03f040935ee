"""Charts as SVG text for the report: lines and the reliability diagram.

Colours come from the page's style, so they follow its dark mode. Every chart carries a text alternative for screen
readers. Needs nothing outside the standard library.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from tlkit.words import counted

WIDTH, HEIGHT = 480, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 22, 14, 38
MOST_DOTS = 40  # points of a line that are drawn one by one

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Axis:
    """An axis of a chart. range: its ends, default those of the data. percent: shows shares as per cent."""

    label: str
    range: tuple[float, float] | None = None
    percent: bool = False


def lines(
    series: Mapping[str, Points],
    *,
    title: str,
    x: Axis,
    y: Axis,
    marks: Sequence[tuple[float, str]] = (),
    dots: Points = (),
) -> str:
    """Draw lines by name.

    Args:
        series: name -> points, as (x, y).
        title: the content of the chart in words, for screen readers.
        marks: vertical lines, as (x, the word at their top).
        dots: single points to stress.

    Returns: an SVG element as text.
    """
    points = [point for one in series.values() for point in one] + list(dots)
    xs = [one for one, _ in points]
    plane = _Plane(x.range or (min(xs), max(xs)), y.range or _padded([one for _, one in points]))
    parts = [_axes(plane, x, y)]
    parts += [_mark(plane.x(at), word) for at, word in marks]
    parts += [_line(plane, *item) for item in enumerate(series.items())]
    parts += [f'<circle class="here" cx="{plane.x(x_):.1f}" cy="{plane.y(y_):.1f}" r="5"/>' for x_, y_ in dots]
    return _svg(parts, title)


def _mark(at: float, word: str) -> str:
    return (
        f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        f'<text class="small" x="{at + 3:.1f}" y="{TOP + 9}">{escape(word)}</text>'
    )


def _line(plane: _Plane, number: int, item: tuple[str, Points]) -> str:
    """A line, its points if there are few, and its entry in the legend."""
    name, points = item
    positions = [(f"{plane.x(x):.1f}", f"{plane.y(y):.1f}") for x, y in points]
    parts = [f'<polyline class="line c{number}" points="{" ".join(",".join(one) for one in positions)}"/>']
    if len(points) <= MOST_DOTS:
        parts += [f'<circle class="dot c{number}" cx="{x}" cy="{y}" r="2.5"/>' for x, y in positions]
    at = LEFT + 8 + 120 * number
    parts.append(f'<line class="line c{number}" x1="{at}" x2="{at + 18}" y1="{HEIGHT - 6}" y2="{HEIGHT - 6}"/>')
    parts.append(f'<text class="small" x="{at + 22}" y="{HEIGHT - 3}">{escape(name)}</text>')
    return "".join(parts)


def reliability(bins: Sequence[tuple[float, float, int]], *, title: str) -> str:
    """Draw a reliability diagram: accuracy over confidence, beside the diagonal of perfect calibration.

    bins: (confidence, accuracy, images), each with one image or more. A wider bar has more images.
    """
    plane = _Plane((0, 1), (0, 1))
    parts = [_axes(plane, Axis("confidence", percent=True), Axis("accuracy", percent=True))]
    most = max(count for _, _, count in bins)
    for confidence, accuracy, count in bins:
        wide = 5 + 19 * (count / most) ** 0.5
        top, bottom = plane.y(accuracy), plane.y(0)
        at = plane.x(confidence) - wide / 2
        words = f"confidence {confidence:.0%}: {accuracy:.0%} of {counted(count, 'image')} correct"
        parts.append(
            f'<rect class="bar" x="{at:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{max(bottom - top, 1):.1f}">'
            f"<title>{words}</title></rect>"
        )
    parts.append(
        f'<line class="mark" x1="{plane.x(0)}" y1="{plane.y(0)}" x2="{plane.x(1)}" y2="{plane.y(1)}"/>'
        f'<text class="small" x="{plane.x(0.03):.0f}" y="{plane.y(0.94):.0f}">dashed: perfect calibration</text>'
    )
    return _svg(parts, title)


class _Plane:
    def __init__(self, x: tuple[float, float], y: tuple[float, float]) -> None:
        self.x_range = x if x[1] > x[0] else (x[0] - 0.5, x[0] + 0.5)
        self.y_range = y if y[1] > y[0] else (y[0] - 0.5, y[0] + 0.5)

    def x(self, value: float) -> float:
        low, high = self.x_range
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return HEIGHT - BOTTOM - (min(max(value, low), high) - low) / (high - low) * (HEIGHT - TOP - BOTTOM)


def _axes(plane: _Plane, x: Axis, y: Axis) -> str:
    parts = []
    for value in _ticks(*plane.y_range):
        at = plane.y(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        word = _share(value) if y.percent else f"{value:g}"
        parts.append(f'<text class="small" text-anchor="end" x="{LEFT - 5}" y="{at + 4:.1f}">{word}</text>')
    for value in _ticks(*plane.x_range):
        word = _share(value) if x.percent else f"{value:g}"
        position = f'x="{plane.x(value):.1f}" y="{HEIGHT - BOTTOM + 12}"'
        parts.append(f'<text class="small" text-anchor="middle" {position}>{word}</text>')
    parts.append(
        f'<text class="small" text-anchor="end" x="{WIDTH - RIGHT}" y="{HEIGHT - BOTTOM + 24}">{escape(x.label)}</text>'
        f'<text class="small" transform="translate(11 {TOP + 96}) rotate(-90)" text-anchor="middle">'
        f"{escape(y.label)}</text>"
    )
    return "".join(parts)


def _share(value: float) -> str:
    """As per cent, with no more digits than it needs.

    >>> _share(0.2), _share(0.005)
    ('20%', '0.5%')
    """
    return f"{round(100 * value, 2):g}%"


def _ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers between two.

    >>> _ticks(0, 1)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    power = 10.0 ** math.floor(math.log10(high - low))
    step = next(one * power for one in (0.1, 0.2, 0.5, 1.0, 2.0) if (high - low) / (one * power) < 8)
    return [round(i * step, 9) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    pad = 0.06 * (high - low) or 0.05
    return max(low - pad, 0.0) if low >= 0 else low - pad, high + pad


def _svg(parts: Sequence[str], title: str) -> str:
    words = escape(title, quote=True)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{words}"><title>{words}</title>'
        f"{''.join(parts)}</svg>"
    )
