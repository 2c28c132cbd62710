"""Plain tables: aligned columns of text that also read well in a pipe, without lines or colours."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Sequence

GAP = "  "


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str] = ()) -> str:
    """``rows`` under ``heads``; columns named in ``right`` are aligned to the right (numbers).

    Columns are as wide as their widest cell; nothing is cut, and no line ends in blanks. Control characters in cells,
    which may come from a hypervisor, are shown as "?".
    """
    lines = [[printable(cell) for cell in row] for row in (heads, *rows)]
    widths = [max(map(width, column)) for column in zip(*lines, strict=True)]
    aligned = [head in right for head in heads]
    return "\n".join(
        GAP.join(
            _pad(cell, size, to_right) for cell, size, to_right in zip(line, widths, aligned, strict=True)
        ).rstrip()
        for line in lines
    )


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """ "Name:  value" lines with the values aligned; a value of several lines goes on below its first."""
    names = [printable(name) for name, _ in pairs]
    size = max(map(width, names), default=0) + 1
    lines = []
    for name, (_, value) in zip(names, pairs, strict=True):
        first, *more = value.split("\n")
        lines.append(f"{_pad(name + ':', size, False)}{GAP}{printable(first)}".rstrip())
        lines += [f"{'':{size}}{GAP}{printable(line)}".rstrip() for line in more]
    return "\n".join(lines)


def indented(text: str, by: str = GAP) -> str:
    """Every line of ``text`` moved to the right."""
    return "\n".join(f"{by}{line}" if line else line for line in text.split("\n"))


def printable(text: str) -> str:
    """``text`` without control characters: names come from other systems, and must not steer a terminal."""
    return text if text.isprintable() else "".join(char if char.isprintable() else "?" for char in text)


def width(text: str) -> int:
    """Columns that ``text`` takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def _pad(text: str, size: int, to_right: bool) -> str:
    blanks = " " * (size - width(text))
    return blanks + text if to_right else text + blanks
