"""Tables for people: aligned, nothing cut, and where a column of words is too wide it goes on below itself."""

from __future__ import annotations

import os
import sys
import termios

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


@pytest.mark.parametrize(("columns", "expected"), [(80, 78), (200, WIDTH), (20, 58)])
def test_lines_fit_a_terminal_that_is_narrow(monkeypatch: pytest.MonkeyPatch, columns: int, expected: int) -> None:
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    with os.fdopen(theirs, "w") as terminal, monkeypatch.context() as patch:
        patch.delenv("COLUMNS", raising=False)
        for name in ("stdout", "__stdout__"):
            patch.setattr(sys, name, terminal)
        told = facts([("why", "word " * 100)], fold=True)
        assert room() == expected
    os.close(ours)
    assert expected - 6 <= max(map(len, told.split("\n"))) <= expected
    assert room() == WIDTH, "of a file or a pipe"
