"""Plain tables: aligned columns of text that also read well in a pipe, without lines or colours."""

from __future__ import annotations

import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Collection, Sequence

GAP = "  "
WIDTH = 98
"""Columns of a table: with the usual indent it fits a terminal of 100."""
_INDENT = 2
_NARROWEST = 58
_LEAST = 24  # columns that a folded cell gets even so


def table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str] = (), fold: Sequence[str] = ()
) -> str:
    """``rows`` under ``heads``; columns named in ``right`` are aligned to the right (numbers).

    Columns are as wide as their widest cell; nothing is cut, and no line ends in blanks. Where the lines would be wider
    than :func:`room`, cells of the columns ``fold``, which are words, go on below themselves, indented: the first of
    these columns first, the next only if that does not do. Control characters in cells, which may come from a
    hypervisor, are shown as "?".
    """
    lines = [[printable(cell) for cell in row] for row in (heads, *rows)]
    for head in fold:
        lines = _folded(lines, heads.index(head))
    widths = _widths(lines)
    aligned = [head in right for head in heads]
    return "\n".join(
        GAP.join(
            _pad(cell, size, to_right) for cell, size, to_right in zip(line, widths, aligned, strict=True)
        ).rstrip()
        for line in lines
    )


def facts(pairs: Sequence[tuple[str, str]], *, fold: bool = False) -> str:
    """ "Name:  value" lines with the values aligned; a value of several lines goes on below its first.

    ``fold``: one that is wider than :func:`room`, too.
    """
    names = [printable(name) for name, _ in pairs]
    size = max(map(width, names), default=0) + 1
    lines = []
    for name, (_, value) in zip(names, pairs, strict=True):
        left = room() - size - len(GAP)
        told = [part for line in value.split("\n") for part in (wrapped(line, left) if fold and line else [line])]
        first, *more = told
        lines.append(f"{_pad(name + ':', size, False)}{GAP}{printable(first)}".rstrip())
        lines += [f"{'':{size}}{GAP}{printable(line)}".rstrip() for line in more]
    return "\n".join(lines)


def room() -> int:
    """Columns that a line may take: ``WIDTH``, or fewer where the output is a terminal that is narrower."""
    if not sys.stdout.isatty():
        return WIDTH
    return max(_NARROWEST, min(WIDTH, shutil.get_terminal_size((WIDTH + _INDENT, 24)).columns - _INDENT))


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


def _widths(lines: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(width, column)) for column in zip(*lines, strict=True)]


def _folded(lines: list[list[str]], column: int) -> list[list[str]]:
    widths = _widths(lines)
    over = sum(widths) + len(GAP) * (len(widths) - 1) - room()
    if over <= 0:
        return lines
    left = max(_LEAST, widths[column] - over)
    found = []
    for line in lines:
        parts = wrapped(line[column], left) or [""]
        found.append([*line[:column], parts[0], *line[column + 1 :]])
        found += [[*[""] * column, part, *[""] * (len(line) - column - 1)] for part in parts[1:]]
    return found


def wrapped(text: str, columns: int) -> list[str]:
    """Lines of so many columns, all but the first indented; words stay whole."""
    return textwrap.wrap(text, columns, subsequent_indent=GAP, break_long_words=False, break_on_hyphens=False)


def _pad(text: str, size: int, to_right: bool) -> str:
    blanks = " " * (size - width(text))
    return blanks + text if to_right else text + blanks
