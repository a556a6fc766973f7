"""Small charts as SVG: a value with its interval on an axis, a curve on a logarithmic one, and scores over demonstrations.

Shapes are placed in per cent of the width and labels are HTML, so a chart fits any column and its text keeps
its size. Colours come from the classes in `configs/report.css`. Drawn by hand: matplotlib's SVG is three to
twenty times as long, knows no dark page, and is an extra, while every run has its report.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

MAX_POINTS = 400


def interval_bar(
    value: float, low: float | None, high: float | None, axis: tuple[float, float], marks: Sequence[float], label: str, kind: str = "main"
) -> Markup:
    """A bar from 0 to `value` with a whisker from `low` to `high`.

    **Arguments:** `axis`: both ends; what lies beyond is cut off and gets an arrow. `marks`: values with an
    upright line. `label`: for readers who hear the page. `kind`: CSS class, `main` or `control`.
    """

    def at(number: float) -> float:
        return round(100 * (min(max(number, axis[0]), axis[1]) - axis[0]) / (axis[1] - axis[0]), 2)

    zero, end = at(0), at(value)
    shapes = [f'<line class="mark" x1="{at(m)}%" x2="{at(m)}%" y1="0" y2="24"/>' for m in marks]
    shapes.append(f'<rect class="bar" x="{min(zero, end)}%" width="{round(abs(end - zero), 2)}%" y="7" height="10" rx="1"/>')
    if low is not None and high is not None:
        shapes.append(f'<line class="whisker" x1="{at(low)}%" x2="{at(high)}%" y1="12" y2="12"/>')
        ends = [number for number in (low, high) if axis[0] <= number <= axis[1]]
        shapes += [f'<line class="whisker" x1="{at(n)}%" x2="{at(n)}%" y1="8" y2="16"/>' for n in ends]
    if not axis[0] <= value <= axis[1]:
        points = "-1,7 -7,12 -1,17" if value < axis[0] else "1,7 7,12 1,17"
        shapes.append(f'<svg x="{end}%" overflow="visible"><polygon class="beyond" points="{points}"/></svg>')
    frame = f'<svg class="interval {escape(kind)}" role="img" aria-label="{escape(label)}" height="24">'
    return Markup(f"{frame}{''.join(shapes)}</svg>")


def score_axis(values: Sequence[float]) -> tuple[float, float]:
    """An axis that shows 0 to 100 whole, and what lies outside as far as -50 and 150."""
    low, high = min(values, default=0.0), max(values, default=100.0)
    return max(-50.0, min(-4.0, 10 * math.floor(low / 10))), min(150.0, max(104.0, 10 * math.ceil(high / 10)))


@dataclass(frozen=True)
class Axis:
    """A vertical axis from its first tick to its last, logarithmic or linear."""

    ticks: Sequence[float]
    is_linear: bool = False

    @classmethod
    def of(cls, low: float, high: float, is_linear: bool) -> Axis:
        return cls(_linear_ticks(low, high) if is_linear else _ticks(low, high), is_linear)

    def height(self, value: float) -> float:
        """Place below the upper edge in per cent; what lies beyond the ticks stays at the edge."""
        low, high = self.ticks[0], self.ticks[-1]
        if self.is_linear:
            share = (value - low) / (high - low)
        else:
            share = math.log(max(value, 1e-12) / low) / math.log(high / low)
        return round(100 * (1 - min(max(share, 0.0), 1.0)), 2)


def curve(steps: Sequence[float], values: Sequence[float], last_step: float, label: str, is_linear: bool = False) -> Markup:
    """A smoothed curve over the single values, with the ticks of its axis, which is logarithmic unless it `is_linear`."""
    smooth = smoothed(values, max(1, len(values) // 50))
    axis = Axis.of(min(smooth), max(smooth), is_linear)
    drawn = [
        f'<polyline class="{kind}" points="{_path(steps, v, axis, last_step)}"/>' for kind, v in (("single", values), ("smooth", smooth))
    ]
    return _plot("".join(drawn), axis, label)


def curves(lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], last_step: float, label: str, is_linear: bool = False) -> Markup:
    """Smoothed curves of several runs over one another: `lines` has steps and values by the colour of their line."""
    smooth = {colour: (steps, smoothed(values, max(1, len(values) // 50))) for colour, (steps, values) in lines.items()}
    axis = Axis.of(min(min(values) for _, values in smooth.values()), max(max(values) for _, values in smooth.values()), is_linear)
    drawn = [
        f'<polyline class="smooth" style="stroke:{colour}" points="{_path(steps, values, axis, last_step)}"/>'
        for colour, (steps, values) in smooth.items()
    ]
    return _plot("".join(drawn), axis, label)


def _path(steps: Sequence[float], values: Sequence[float], axis: Axis, last_step: float) -> str:
    stride = max(1, math.ceil(len(values) / MAX_POINTS))
    chosen = sorted({*range(0, len(values), stride), len(values) - 1})
    return " ".join(f"{round(100 * steps[i] / last_step, 2)},{axis.height(values[i])}" for i in chosen)


def _plot(lines: str, axis: Axis, label: str) -> Markup:
    shown = axis.ticks[:: max(1, math.ceil(len(axis.ticks) / 4))]
    grid = "".join(f'<line class="grid" x1="0" x2="100" y1="{axis.height(t)}" y2="{axis.height(t)}"/>' for t in shown)
    labels = "".join(f'<span style="top:{axis.height(t)}%">{t:g}</span>' for t in shown)
    frame = f'viewBox="0 0 100 100" preserveAspectRatio="none" role="img" aria-label="{escape(label)}"'
    return Markup(f'<div class="plot"><svg {frame}>{grid}{lines}</svg><div class="ticks" aria-hidden="true">{labels}</div></div>')


def smoothed(values: Sequence[float], reach: int) -> list[float]:
    """Each value replaced by the mean of those up to `reach` places away.

    Near the start, where losses fall steeply, both sides shrink alike; near the end only the right one does.
    """
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    result = []
    for i in range(len(values)):
        first, last = max(0, i - reach), min(len(values) - 1, i + min(reach, i))
        result.append((sums[last + 1] - sums[first]) / (last + 1 - first))
    return result


def _ticks(low: float, high: float) -> list[float]:
    """The numbers 1, 2, 5, 10, 20 ... from the last below `low` to the first above `high`."""
    low = max(low, 1e-6)
    high = max(high, low * 1.01)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    all_ticks = [float(f"{m}e{e}") for e in range(first, last + 1) for m in (1, 2, 5)]
    start = max(i for i, t in enumerate(all_ticks) if t <= low)
    end = min(i for i, t in enumerate(all_ticks) if t >= high)
    return all_ticks[start : end + 1]


def _linear_ticks(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten, from the last below `low` to the first above `high`, six at most."""
    span = max(high - low, 1e-3 * max(abs(low), abs(high)), 1e-6)
    power = 10.0 ** math.floor(math.log10(span))
    step = next(m * power for m in (0.2, 0.5, 1, 2, 5, 10) if span / (m * power) <= 4)
    first = math.floor(low / step)
    return [float(f"{i * step:.6g}") for i in range(first, max(first + 1, math.ceil(high / step)) + 1)]


def score_curves(
    curves: Mapping[str, Sequence[tuple[float, float, float | None, float | None]]],
    title: str,
    marks: Mapping[str, float],
    best: tuple[str, float] | None = None,
    size: tuple[int, int] = (960, 460),
) -> str:
    """A file of its own: lines with intervals over numbers of demonstrations, on a logarithmic axis.

    **Arguments:** `curves`: by label, points `(demonstrations, value, low, high)`; `marks`: horizontal lines by label;
    `best`: label and demonstrations of the point to ring, whose label is bold; `size`: width and height in pixels.
    """
    left, top, right, bottom = 110, 40, 260, 50
    inner = size[0] - left - right, size[1] - top - bottom
    points = [p for line in curves.values() for p in line]
    numbers = [v for p in points for v in p[1:] if v is not None and math.isfinite(v)] + list(marks.values())
    low, high = min(numbers, default=0.0), max(numbers, default=1.0)
    low, high = low - 0.05 * (high - low or 1), high + 0.05 * (high - low or 1)
    counts = sorted({p[0] for p in points})
    span = math.log(counts[-1] / counts[0]) if len(counts) > 1 else 1.0

    def at(count: float, value: float, shift: float = 0.0) -> tuple[float, float]:
        share = math.log(count / counts[0]) / span if len(counts) > 1 else 0.5
        return round(left + inner[0] * share + shift, 1), round(top + inner[1] * (high - value) / (high - low), 1)

    shapes = [f'<text x="{left}" y="20" font-size="15">{escape(title)}</text>']
    for label, value in marks.items():
        y = at(counts[0], value)[1]
        shapes.append(f'<line x1="{left}" x2="{left + inner[0]}" y1="{y}" y2="{y}" stroke="#999" stroke-dasharray="4 4"/>')
        shapes.append(f'<text x="{left - 14}" y="{y + 4}" text-anchor="end" fill="#666">{escape(label)} {value:g}</text>')
    for count in counts:
        shapes.append(f'<text x="{at(count, low)[0]}" y="{size[1] - 28}" text-anchor="middle">{count:g}</text>')
    shapes.append(f'<text x="{left + inner[0] / 2}" y="{size[1] - 8}" text-anchor="middle" fill="#666">demonstrations</text>')
    for i, (label, line) in enumerate(curves.items()):
        colour, shift = (
            f"hsl({round(360 * i / len(curves))} 65% 40%)",
            3.0 * (i - len(curves) / 2),
        )  # so that whiskers do not hide each other
        places = [at(p[0], p[1], shift) for p in sorted(line)]
        path = " ".join(f"{x},{y}" for x, y in places)
        shapes.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        shapes += [f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in places]
        for (x, _), point in zip(places, sorted(line), strict=True):
            known = [end for end in point[2:] if end is not None and math.isfinite(end)]
            if len(known) == 2:
                ends = [at(point[0], end)[1] for end in known]
                shapes.append(f'<line x1="{x}" x2="{x}" y1="{ends[0]}" y2="{ends[1]}" stroke="{colour}"/>')
        ringed = best[1] if best is not None and label == best[0] else None  # demonstrations
        shapes += [
            f'<circle cx="{x}" cy="{y}" r="7" fill="none" stroke="#000" stroke-width="1.5"/>'
            for (x, y), point in zip(places, sorted(line), strict=True)
            if point[0] == ringed
        ]
        weight, word = ("", escape(label)) if ringed is None else (' font-weight="bold"', f"{escape(label)} (best)")
        shapes.append(f'<text x="{size[0] - right + 20}" y="{top + 14 + 18 * i}" fill="{colour}"{weight}>{word}</text>')
    frame = f'xmlns="http://www.w3.org/2000/svg" width="{size[0]}" height="{size[1]}" font-family="sans-serif" font-size="12"'
    return f'<svg {frame}><rect width="100%" height="100%" fill="#fff"/>{"".join(shapes)}</svg>\n'
