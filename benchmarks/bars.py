"""Horizontal bars as SVG, readable on white and on dark pages, without a library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

# Greys in the middle, that stand out from white as from black.
_STYLE = """\
text { font: 13px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: #6e7781; }
.head { font-size: 17px; font-weight: 600; }
.panel { font-size: 14px; font-weight: 600; }
.ours { fill: #2f81f7; }
.other { fill: #8c959f; }
.line { stroke: #8c959f; stroke-opacity: .45; }
@media (prefers-color-scheme: dark) { text { fill: #adb5bd; } }
"""
_WIDTH, _MARGIN, _GAP = 960, 16, 32
_HEAD, _PANEL_HEAD, _ROW, _FOOT = 62, 28, 24, 30
_VALUE_WIDTH = 48
_LETTER = 6.3


@dataclass(frozen=True)
class Bar:
    """``value`` None: there is none."""

    name: str
    value: float | None
    ours: bool = False


@dataclass(frozen=True)
class Panel:
    """Bars of one unit on an axis of its own, which begins at 0."""

    title: str
    unit: str
    bars: Sequence[Bar]


def chart(title: str, text: str, panels: Sequence[Panel], columns: int) -> str:
    """A whole SVG document: the panels row by row, as many beside each other as ``columns`` says."""
    width = (_WIDTH - 2 * _MARGIN - (columns - 1) * _GAP) / columns
    parts, top = [], float(_HEAD)
    for first in range(0, len(panels), columns):
        row = panels[first : first + columns]
        for place, panel in enumerate(row):
            parts.append(_panel(panel, _MARGIN + place * (width + _GAP), top, width))
        top += max(_height(panel) for panel in row)
    head = _text(_MARGIN, 26, title, "head") + _text(_MARGIN, 46, text)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top:.0f}" width="{_WIDTH}" height="{top:.0f}" '
        f'role="img" aria-label="{escape(title)}">\n<title>{escape(title)}</title>\n<style>\n{_STYLE}</style>\n'
        f"{head}{''.join(parts)}</svg>\n"
    )


def _height(panel: Panel) -> int:
    return _PANEL_HEAD + _ROW * len(panel.bars) + _FOOT


def _panel(panel: Panel, left: float, top: float, width: float) -> str:
    names = max(len(bar.name) for bar in panel.bars) * _LETTER + 10
    room = width - names - _VALUE_WIDTH
    step, end = _axis(max((bar.value or 0.0 for bar in panel.bars), default=0.0))
    zero, bottom = left + names, top + _PANEL_HEAD + _ROW * len(panel.bars)
    parts = [_text(left, top + 16, f"{panel.title}, {panel.unit}", "panel")]
    for number in range(round(end / step) + 1):
        at = zero + room * number * step / end
        parts.append(f'<line class="line" x1="{at:.1f}" y1="{top + 24:.1f}" x2="{at:.1f}" y2="{bottom:.1f}"/>\n')
        parts.append(_text(at, bottom + 16, f"{number * step:,g}", anchor="middle"))
    for number, bar in enumerate(panel.bars):
        y = top + _PANEL_HEAD + _ROW * number
        length = room * (bar.value or 0.0) / end
        parts.append(_text(zero - 8, y + 15, bar.name, anchor="end"))
        kind = "ours" if bar.ours else "other"
        parts.append(
            f'<rect class="{kind}" x="{zero:.1f}" y="{y + 3}" width="{length:.1f}" height="{_ROW - 8}" rx="2"/>\n'
        )
        said = "–" if bar.value is None else _said(bar.value)
        parts.append(_text(zero + length + 6, y + 15, said))
    return "".join(parts)


def _axis(most: float) -> tuple[float, float]:
    """(distance of the lines, end of the axis), for at most five of them."""
    step = 10.0**-3
    while True:
        for factor in (1, 2, 5):
            if 4 * factor * step >= most:
                lines = 1
                while lines * factor * step < most:
                    lines += 1
                return factor * step, lines * factor * step
        step *= 10


def _said(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "") -> str:
    extra = (f' class="{kind}"' if kind else "") + (f' text-anchor="{anchor}"' if anchor else "")
    return f'<text x="{x:.1f}" y="{y:.1f}"{extra}>{escape(text)}</text>\n'
