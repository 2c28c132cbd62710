"""Charts as SVG within a page: columns by day, lines by day. Pure; colours come from the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import msgspec

from .html import Html, element, joined

_WIDTH, _HEIGHT = 860, 220
_LEFT, _RIGHT, _TOP, _FOOT = 76, 12, 12, 44
_PLOT_WIDTH, _PLOT_HEIGHT = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _FOOT
_GUIDES = 4
_MOST_LABELS = 10
_ROOM_FOR_A_DAY = 32


class Series(msgspec.Struct, frozen=True):
    """``values``: one for each day. ``colour``: as CSS has it."""

    name: str
    colour: str
    values: tuple[float, ...]


def columns(title: str, days: Sequence[str], series: Sequence[Series], say: Callable[[float], str]) -> Html:
    """For each day a column of counts, with the series one above the other."""
    totals = [sum(each.values[at] for each in series) for at in range(len(days))]
    top = max(1, math.ceil(max(totals, default=0.0) / _GUIDES)) * _GUIDES  # whole numbers at the guides
    width = _PLOT_WIDTH / max(1, len(days))
    parts: list[str] = []
    for at, day in enumerate(days):
        below = 0.0
        for each in series:
            value = each.values[at]
            if value:
                place = {"x": f"{_LEFT + at * width + width * 0.1:.1f}", "y": f"{_y(below + value, top):.1f}"}
                size = {"width": f"{width * 0.8:.1f}", "height": f"{value / top * _PLOT_HEIGHT:.1f}"}
                told = element("title", f"{day}: {each.name} {say(value)}")
                parts.append(element("rect", told, **place, **size, fill=each.colour))
            below += value
    return _chart(title, days, series, top, say, parts, width / 2)


def lines(title: str, days: Sequence[str], series: Sequence[Series], say: Callable[[float], str]) -> Html:
    """A line for each series."""
    top = max((value for each in series for value in each.values), default=0.0) or 1.0
    step = _PLOT_WIDTH / max(1, len(days) - 1)
    parts = []
    for each in series:
        points = " ".join(f"{_LEFT + at * step:.1f},{_y(value, top):.1f}" for at, value in enumerate(each.values))
        told = element("title", each.name)
        parts.append(element("polyline", told, points=points, fill="none", stroke=each.colour, stroke_width="2"))
    return _chart(title, days, series, top, say, parts, 0.0, step)


def _chart(
    title: str, days: Sequence[str], series: Sequence[Series], top: float, say: Callable[[float], str],
    parts: Sequence[str], shift: float, step: float | None = None,
) -> Html:  # fmt: skip
    guides = [_guide(top * number / _GUIDES, top, say) for number in range(_GUIDES + 1)]
    step = _PLOT_WIDTH / max(1, len(days)) if step is None else step
    every = max(1, -(-len(days) // _MOST_LABELS))
    names = [
        _text(x, _TOP + _PLOT_HEIGHT + 16, day, "middle" if x < _WIDTH - _ROOM_FOR_A_DAY else "end")
        for at, day in enumerate(days)
        if at % every == 0
        for x in (_LEFT + at * step + shift,)
    ]
    keys = []
    for number, each in enumerate(series):
        left = _LEFT + number * 130
        keys.append(element("rect", x=str(left), y=str(_HEIGHT - 14), width="10", height="10", fill=each.colour))
        keys.append(_text(left + 15, _HEIGHT - 5, each.name, "start"))
    told = element("title", title)
    return element(
        "svg", told, *guides, *parts, *names, *keys,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}", width=str(_WIDTH), height=str(_HEIGHT), role="img",
    )  # fmt: skip


def _guide(value: float, top: float, say: Callable[[float], str]) -> Html:
    y = _y(value, top)
    line = element("line", x1=str(_LEFT), x2=str(_WIDTH - _RIGHT), y1=f"{y:.1f}", y2=f"{y:.1f}", stroke="#d8dee4")
    return joined(line, _text(_LEFT - 6, y + 4, say(value), "end"))


def _y(value: float, top: float) -> float:
    return _TOP + _PLOT_HEIGHT * (1 - value / top)


def _text(x: float, y: float, text: str, anchor: str) -> Html:
    return element("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, font_size="11", fill="#57606a")
