"""Charts as SVG text for the report: lines, bars and the reliability diagram. Colours come from the page's style, so they turn dark with it.

Standard library only. Every chart has a title that says in words what it shows, for who does not see it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 480, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 22, 14, 38

Points = Sequence[tuple[float, float]]


def lines(
    series: Mapping[str, Points],
    *,
    title: str,
    x_label: str,
    y_label: str,
    y_range: tuple[float, float] | None = None,
    percent: bool = False,
    x_percent: bool = False,
    marks: Sequence[tuple[float, str]] = (),
    dots: Points = (),
) -> str:
    """Lines by name. marks: vertical lines with a word at their top. dots: single points. percent, x_percent: values of y, of x, are shares."""
    everything = [point for points in series.values() for point in points] + list(dots)
    xs = [x for x, _ in everything]
    low, high = y_range or _padded([y for _, y in everything])
    plane = _Plane((min(xs), max(xs)), (low, high))
    parts = [_axes(plane, x_label, y_label, x_percent, percent)]
    for x, word in marks:
        at = plane.x(x)
        parts.append(f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text class="small" x="{at + 3:.1f}" y="{TOP + 9}">{escape(word)}</text>')
    for number, (name, points) in enumerate(series.items()):
        path = " ".join(f"{plane.x(x):.1f},{plane.y(y):.1f}" for x, y in points)
        parts.append(f'<polyline class="line c{number}" points="{path}"/>')
        if len(points) <= 40:
            parts += [
                f'<circle class="dot c{number}" cx="{plane.x(x):.1f}" cy="{plane.y(y):.1f}" r="2.5"/>'
                for x, y in points
            ]
        at = LEFT + 8 + 120 * number
        parts.append(f'<line class="line c{number}" x1="{at}" x2="{at + 18}" y1="{HEIGHT - 6}" y2="{HEIGHT - 6}"/>')
        parts.append(f'<text class="small" x="{at + 22}" y="{HEIGHT - 3}">{escape(name)}</text>')
    parts += [f'<circle class="here" cx="{plane.x(x):.1f}" cy="{plane.y(y):.1f}" r="5"/>' for x, y in dots]
    return _svg(parts, title)


def reliability(bins: Sequence[tuple[float, float, int]], *, title: str) -> str:
    """Bars of accuracy over confidence beside the diagonal. bins: (confidence, accuracy, images), each with one image or more.

    The width of a bar tells its share of the images.
    """
    plane = _Plane((0, 1), (0, 1))
    parts = [_axes(plane, "what it says (probability)", "how often it is right", True, True)]
    most = max(count for _, _, count in bins)
    for confidence, accuracy, count in bins:
        wide = 5 + 19 * (count / most) ** 0.5
        top, bottom = plane.y(accuracy), plane.y(0)
        at = plane.x(confidence) - wide / 2
        words = f"says {confidence:.0%}, right {accuracy:.0%} of {count}"
        parts.append(
            f'<rect class="bar" x="{at:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{max(bottom - top, 1):.1f}">'
            f"<title>{words}</title></rect>"
        )
    parts.append(
        f'<line class="mark" x1="{plane.x(0)}" y1="{plane.y(0)}" x2="{plane.x(1)}" y2="{plane.y(1)}"/>'
        f'<text class="small" x="{plane.x(0.03):.0f}" y="{plane.y(0.94):.0f}">dashed: what it says is so</text>'
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


def _axes(plane: _Plane, x_label: str, y_label: str, x_percent: bool, percent: bool) -> str:
    parts = []
    for value in _ticks(*plane.y_range):
        at = plane.y(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        word = _share(value) if percent else f"{value:g}"
        parts.append(f'<text class="small" text-anchor="end" x="{LEFT - 5}" y="{at + 4:.1f}">{word}</text>')
    for value in _ticks(*plane.x_range):
        word = _share(value) if x_percent else f"{value:g}"
        parts.append(
            f'<text class="small" text-anchor="middle" x="{plane.x(value):.1f}" y="{HEIGHT - BOTTOM + 12}">{word}</text>'
        )
    parts.append(
        f'<text class="small" text-anchor="end" x="{WIDTH - RIGHT}" y="{HEIGHT - BOTTOM + 24}">{escape(x_label)}</text>'
        f'<text class="small" transform="translate(11 {TOP + 96}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>'
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
