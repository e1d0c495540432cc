"""Draws curves as SVG. Knows nothing of what they are of.

The colours are those of Okabe and Ito, which people tell apart who do not see all colours; each
curve has its own mark besides. The picture follows the reader's choice of light or dark.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

_WIDTH: Final = 760
_HEIGHT: Final = 460
_SIZE: Final = f'viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}"'
_LEFT, _RIGHT, _TOP, _BOTTOM = 78, 22, 92, 84

_LIGHT: Final = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#8c6d00", "#555555")
_DARK: Final = ("#56b4e9", "#ff9d5c", "#2fd0a0", "#e79ad0", "#f0e442", "#bbbbbb")
_STYLE: Final = """\
text { font-family: system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
.back { fill: #ffffff; }
.ink { fill: #1f2328; }
.faint { fill: #59636e; }
.grid { stroke: #d8dee4; stroke-width: 1; }
.axis { stroke: #59636e; stroke-width: 1.2; fill: none; }
.curve { fill: none; stroke-width: 2.2; stroke-linejoin: round; }
"""
_STYLE_DARK: Final = """\
.back { fill: #0d1117; }
.ink { fill: #e6edf3; }
.faint { fill: #9198a1; }
.grid { stroke: #30363d; }
.axis { stroke: #9198a1; }
"""


@dataclass(frozen=True, slots=True)
class Curve:
    """One curve.

    Attributes:
        name: for the legend.
        points: of x and y, ascending in x.
        colour: the number of its colour and mark, from 0; two that belong together have one.
        dashed: whether it is something to compare with.
    """

    name: str
    points: Sequence[tuple[float, float]]
    colour: int
    dashed: bool = False

    @property
    def dashes(self) -> str:
        """Its pattern of dashes; empty for none."""
        return "7 4" if self.dashed else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A picture of curves over a logarithmic x axis.

    Attributes:
        title: what is shown.
        caption: on which machine, and when.
        x_label: of the horizontal axis, with its unit.
        y_label: of the vertical axis, with its unit.
        curves: at least one, each with at least one point.
        form: writes a number at an axis.
        logarithmic: whether the vertical axis is; else it starts at 0.
        limit: a height to be marked, with its name.
    """

    title: str
    caption: str
    x_label: str
    y_label: str
    curves: Sequence[Curve]
    form: Callable[[float], str]
    logarithmic: bool = True
    limit: tuple[float, str] | None = None

    def draw(self) -> str:
        """Return the SVG document."""
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {_SIZE}>',
                f"<title>{escape(self.title)}</title>",
                f"<style>\n{self._style()}</style>",
                f'<rect class="back" width="{_WIDTH}" height="{_HEIGHT}"/>',
                _text(_LEFT, 26, self.title, "ink", size=17, weight="600"),
                *self._legend(),
                *self._axes(),
                *self._limit(),
                *(line for curve in self.curves for line in self._curve(curve)),
                _text(_WIDTH / 2, _HEIGHT - 42, self.x_label, "ink", anchor="middle"),
                _text(_LEFT, _HEIGHT - 14, self.caption, "faint", size=11),
                "</svg>",
                "",
            ]
        )

    # --- scales -------------------------------------------------------------------------------

    def _x_range(self) -> tuple[float, float]:
        values = [x for curve in self.curves for x, _ in curve.points]
        low, high = min(values), max(values)
        return (low, high) if low < high else (low / 2, high * 2)

    def _y_range(self) -> tuple[float, float]:
        values = [y for curve in self.curves for _, y in curve.points]
        if self.limit is not None:
            values.append(self.limit[0])
        if not self.logarithmic:
            return 0.0, max(values) * 1.08
        # Whole decades waste half of the picture; halves of one do not.
        low, high = math.log10(min(values)), math.log10(max(values))
        return 10 ** (math.floor(low * 2 - 0.05) / 2), 10 ** (math.ceil(high * 2 + 0.05) / 2)

    def _x(self, value: float) -> float:
        low, high = map(math.log10, self._x_range())
        return _LEFT + (math.log10(value) - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    def _y(self, value: float) -> float:
        low, high = self._y_range()
        if self.logarithmic:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return _HEIGHT - _BOTTOM - (value - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    def _y_ticks(self) -> list[float]:
        low, high = self._y_range()
        if not self.logarithmic:
            step = 10 ** math.floor(math.log10(high / 3))
            step *= next(factor for factor in (1, 2, 5, 10) if high / (step * factor) <= 6)
            return [step * number for number in range(int(high / step) + 1)]
        factors = (1, 2, 5) if high / low < 1e3 else (1, 3) if high / low < 1e4 else (1,)
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [factor * 10.0**decade for decade in decades for factor in factors]
        return [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]

    # --- parts --------------------------------------------------------------------------------

    def _style(self) -> str:
        def colours(of: Sequence[str]) -> str:
            return "".join(
                f".stroke{index} {{ stroke: {colour}; }}\n.fill{index} {{ fill: {colour}; }}\n"
                for index, colour in enumerate(of)
            )

        dark = f"@media (prefers-color-scheme: dark) {{\n{_STYLE_DARK}{colours(_DARK)}}}\n"
        return f"{_STYLE}{colours(_LIGHT)}{dark}"

    def _axes(self) -> list[str]:
        right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
        lines = []
        for tick in self._y_ticks():
            y = self._y(tick)
            lines.append(_line("grid", (_LEFT, y), (right, y)))
            lines.append(_text(_LEFT - 9, y + 4, self.form(tick), "faint", anchor="end", size=12))
        for value in sorted({x for curve in self.curves for x, _ in curve.points}):
            x = self._x(value)
            lines.append(_line("grid", (x, _TOP), (x, bottom)))
            lines.append(_text(x, bottom + 20, self.form(value), "faint", anchor="middle", size=12))
        lines.append(f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>')
        lines.append(f'<g transform="translate(20 {(_TOP + bottom) / 2:.0f}) rotate(-90)">')
        lines.append(_text(0, 0, self.y_label, "ink", anchor="middle"))
        lines.append("</g>")
        return lines

    def _limit(self) -> list[str]:
        if self.limit is None:
            return []
        value, name = self.limit
        y = self._y(value)
        return [
            _line("axis", (_LEFT, y), (_WIDTH - _RIGHT, y), dashes="2 5"),
            _text(_WIDTH - _RIGHT - 4, y - 6, name, "faint", anchor="end", size=12),
        ]

    def _curve(self, curve: Curve) -> list[str]:
        at = [(self._x(x), self._y(y)) for x, y in curve.points]
        kind = f'class="curve stroke{curve.colour}"{_dasharray(curve.dashes)}'
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
        return [
            f'<polyline {kind} points="{path}"/>',
            *(_mark(curve.colour, x, y) for x, y in at),
        ]

    def _legend(self) -> list[str]:
        lines = []
        x, y = float(_LEFT), 48.0
        for curve in self.curves:
            # About as wide as the text is.
            width = 46 + 6.9 * len(curve.name)
            if x + width > _WIDTH - _RIGHT and x > _LEFT:
                x, y = float(_LEFT), y + 18
            lines += [
                _line(
                    f"curve stroke{curve.colour}",
                    (x, y - 4),
                    (x + 28, y - 4),
                    dashes=curve.dashes,
                ),
                _mark(curve.colour, x + 14, y - 4),
                _text(x + 34, y, curve.name, "ink", size=12),
            ]
            x += width
        return lines


def _dasharray(dashes: str) -> str:
    return f' stroke-dasharray="{dashes}"' if dashes else ""


def _line(
    kind: str, start: tuple[float, float], end: tuple[float, float], *, dashes: str = ""
) -> str:
    (x1, y1), (x2, y2) = start, end
    at = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line class="{kind}"{_dasharray(dashes)} {at}/>'


def _mark(colour: int, x: float, y: float) -> str:
    """Return the mark of a curve at a point: another shape for each."""
    size = 4.5
    corners = (
        None,
        ((-1, -1), (1, -1), (1, 1), (-1, 1)),
        ((0, -1.3), (1.2, 1), (-1.2, 1)),
        ((0, -1.4), (1.4, 0), (0, 1.4), (-1.4, 0)),
        ((0, 1.3), (1.2, -1), (-1.2, -1)),
        ((-1.3, -0.6), (1.3, -0.6), (1.3, 0.6), (-1.3, 0.6)),
    )[colour]
    if corners is None:
        return f'<circle class="fill{colour}" cx="{x:.1f}" cy="{y:.1f}" r="{size}"/>'
    points = " ".join(f"{x + dx * size:.1f},{y + dy * size:.1f}" for dx, dy in corners)
    return f'<polygon class="fill{colour}" points="{points}"/>'


def _text(
    x: float,
    y: float,
    text: str,
    kind: str,
    *,
    size: int = 13,
    anchor: str = "start",
    weight: str = "400",
) -> str:
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" '
        f'text-anchor="{anchor}">{escape(text)}</text>'
    )
