"""Tables for people: aligned, nothing cut, and where a column of words is too wide it goes on below itself."""

from __future__ import annotations

import os
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from holdfast_manager.reports.table import WIDTH, facts, room, table

HEADS = ("session", "result", "error", "took")
LONG = "the agent local cannot be reached: " + "connection refused at 127.0.0.1:8430, " * 4


def test_a_column_of_words_goes_on_below_itself() -> None:
    text = table(HEADS, [("12", "failed", LONG, "3 s"), ("7", "success", "", "1 h")], right=("took",), fold=("error",))
    lines = text.split("\n")
    assert max(map(len, lines)) <= WIDTH
    assert " ".join(" ".join(lines[1:-1]).replace("3 s", "").split()) == f"12 failed {LONG}".strip()
    at = lines[0].index("error")
    assert {line[at - 1] for line in lines[1:-1]} == {" "}
    assert all(line[:at].isspace() for line in lines[2:-1])
    assert lines[1].endswith("3 s")


def test_what_fits_and_what_cannot_be_broken_stays_as_it_is() -> None:
    row = ("12", "failed", "short", "3 s")
    assert table(HEADS, [row], fold=("error",)) == table(HEADS, [row])
    path = "/srv/" + "a" * 2 * WIDTH
    assert path in table(HEADS, [("12", "failed", f"no such file: {path}", "3 s")], fold=("error",))


@contextmanager
def terminal(columns: int) -> Iterator[None]:
    """Have output go to a terminal of so many columns."""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    with os.fdopen(theirs, "w") as file, pytest.MonkeyPatch.context() as patch:
        patch.delenv("COLUMNS", raising=False)
        for name in ("stdout", "__stdout__"):
            patch.setattr(sys, name, file)
        yield
    os.close(ours)


@pytest.mark.parametrize(("columns", "expected"), [(80, 78), (200, WIDTH), (20, 58)])
def test_words_fit_a_terminal_that_is_narrow(columns: int, expected: int) -> None:
    with terminal(columns):
        told, widest = facts([("why", "word " * 100)]), room()
    assert widest == expected
    assert expected - 6 <= max(map(len, told.split("\n"))) <= expected


ROWS = [(str(number), "failed", f"{LONG}{'/path' * 8}", f"{number} s") for number in range(8, 12)]


@pytest.mark.parametrize("columns", [60, 72, 100, 280])
def test_a_table_fits_every_terminal_and_loses_nothing(columns: int) -> None:
    with terminal(columns):
        lines = table((*HEADS, "result at last"), [(*row, "done") for row in ROWS], ("took",), ("error",)).split("\n")
    assert max(map(len, lines)) <= columns - 2
    assert not [line for line in lines if not line.strip()]
    words = sorted(word for row in ROWS for cell in (*row, "done") for word in cell.split())
    heads = [*HEADS, "result", "at", "last"]
    assert sorted(word for line in lines for word in line.split()) == sorted([*words, *heads])
    if columns == 280:
        assert len(lines) == 1 + len(ROWS)


def test_columns_that_have_no_room_beside_the_others_are_further_lines_of_their_row() -> None:
    numbers = [f"{'number' * 2}{each}" for each in range(6)]
    with terminal(60):
        lines = table(numbers, [[str(each)] * 6 for each in range(2)], right=numbers).split("\n")
        heads = table(numbers, [], right=numbers).split("\n")
    assert len(heads) == 2
    assert lines[:2] == ["  ".join(numbers[:4]), "    " + "  ".join(numbers[4:])]
    assert [line.split() for line in lines[2:]] == [["0"] * 4, ["0"] * 2, ["1"] * 4, ["1"] * 2]
    assert len(lines[3]) == len(lines[1])


def test_a_pipe_gets_one_line_for_each_row_of_numbers() -> None:
    assert room() == WIDTH
    numbers = [f"{'number' * 2}{each}" for each in range(12)]
    assert len(table(numbers, [["1"] * 12], right=numbers).split("\n")) == 2
