"""Plain tables: aligned columns of text that also read well in a pipe, without lines or colours."""

from __future__ import annotations

import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Collection, Sequence
from itertools import zip_longest

GAP = "  "
WIDTH = 98
"""Columns of a line: with the usual indent it fits a terminal of 100."""
_INDENT = 2
_DEEPER = "    "
_NARROWEST = 58
_LEAST = 24  # columns that a folded cell gets even so


def table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str] = (), fold: Sequence[str] = ()
) -> str:
    """``rows`` under ``heads``; columns named in ``right`` are aligned to the right (numbers).

    Columns are as wide as their widest cell; nothing is cut, and no line ends in blanks. Where the lines would be wider
    than :func:`breadth`, cells of the columns ``fold``, which are words, go on below themselves, indented: the first of
    these columns first, the next only if that does not do. A terminal that is too narrow even so gets further columns
    on further lines of each row, as their heads are. Control characters in cells, which may come from a hypervisor,
    are shown as "?".
    """
    cells = [[printable(cell) for cell in row] for row in (heads, *rows)]
    folding = [heads.index(head) for head in fold]
    to_right = {number for number, head in enumerate(heads) if head in right}
    first, *more = [_Block(cells, columns, folding, to_right) for columns in _sharing(cells, folding)]
    lines = []
    for row in range(len(cells)):
        further = [f"{_DEEPER}{line}" for block in more for line in block.lines(row) if line]
        lines += [line for line in first.lines(row) if line or not further] + further
    return "\n".join(lines)


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """ "Name:  value" lines, values aligned; one of several lines, or wider than :func:`room`, goes on below."""
    names = [printable(name) for name, _ in pairs]
    size = max(map(width, names), default=0) + 1
    lines = []
    for name, (_, value) in zip(names, pairs, strict=True):
        left = room() - size - len(GAP)
        told = [part for line in value.split("\n") for part in (wrapped(line, left) if line else [line])]
        first, *more = told
        lines.append(f"{_pad(name + ':', size, False)}{GAP}{printable(first)}".rstrip())
        lines += [f"{'':{size}}{GAP}{printable(line)}".rstrip() for line in more]
    return "\n".join(lines)


def room() -> int:
    """Columns that a line of words may take: ``WIDTH``, or fewer where the output is a terminal that is narrower."""
    return min(WIDTH, breadth())


def breadth() -> int:
    """Columns that a line of a table may take: all of a terminal's; ``WIDTH`` elsewhere."""
    if not sys.stdout.isatty():
        return WIDTH
    return max(_NARROWEST, shutil.get_terminal_size((WIDTH + _INDENT, 24)).columns - _INDENT)


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


class _Block:
    """Those columns of a table that stand side by side."""

    def __init__(
        self, cells: Sequence[Sequence[str]], columns: Sequence[int], folding: Sequence[int], to_right: Collection[int]
    ) -> None:
        self._rows = [[[row[column]] for column in columns] for row in cells]
        self._to_right = [column in to_right for column in columns]
        for column in folding:
            if column in columns:
                self._fold(columns.index(column), breadth() - (len(_DEEPER) if columns[0] else 0))

    def lines(self, row: int) -> list[str]:
        """The lines of one row: more than one where a cell goes on below itself."""
        widths = self._widths()
        return [
            GAP.join(
                _pad(part, size, to_right)
                for part, size, to_right in zip(parts, widths, self._to_right, strict=True)
            ).rstrip()
            for parts in zip_longest(*self._rows[row], fillvalue="")
        ]  # fmt: skip

    def _fold(self, at: int, room: int) -> None:
        widths = self._widths()
        over = sum(widths) + len(GAP) * (len(widths) - 1) - room
        if over > 0:
            for row in self._rows:
                row[at] = wrapped(row[at][0], max(_LEAST, widths[at] - over)) or [""]

    def _widths(self) -> list[int]:
        return [max(width(part) for cell in column for part in cell) for column in zip(*self._rows, strict=True)]


def _sharing(cells: Sequence[Sequence[str]], folding: Collection[int]) -> list[list[int]]:
    """Which columns share a line, of which the later are indented. All, where no terminal's width is given."""
    columns = range(len(cells[0]))
    if not sys.stdout.isatty():
        return [list(columns)]
    found: list[list[int]] = []
    left = 0
    for column in columns:
        needed = max(_least(row[column]) if column in folding else width(row[column]) for row in cells)
        if not found or needed > left:
            left = breadth() - (len(_DEEPER) if found else 0)
            found.append([])
        found[-1].append(column)
        left -= needed + len(GAP)
    return found


def _least(text: str) -> int:
    """Columns that a cell takes that goes on below itself: words stay whole."""
    return min(width(text), max([_LEAST, *(width(word) + len(GAP) for word in text.split())]))


def wrapped(text: str, columns: int) -> list[str]:
    """Lines of so many columns, all but the first indented; words stay whole."""
    return textwrap.wrap(text, columns, subsequent_indent=GAP, break_long_words=False, break_on_hyphens=False)


def _pad(text: str, size: int, to_right: bool) -> str:
    blanks = " " * (size - width(text))
    return blanks + text if to_right else text + blanks
