"""What a command tells people: words of guests and of other hosts are shown, and steer no terminal."""

from __future__ import annotations

import pytest

from holdfast_agent.errors import ErrorRecord
from holdfast_manager.cli.output import TextOutput, styled

EVIL = "web\x1b]0;owned\x07\x1b[2J\x9b1A\rgood\u202etxt.exe"
SHOWN = "web?]0;owned??[2J?1A?good?txt.exe"


def test_words_of_others_steer_no_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    out = TextOutput(quiet=False)
    assert out.error(ErrorRecord("broke", EVIL, {}, False, EVIL, 3)) == 3
    out.warning(EVIL)
    out.note(EVIL)
    out.result({}, EVIL)
    told = capsys.readouterr()
    assert told.err == f"Error: {SHOWN}\n  {SHOWN}\nWarning: {SHOWN}\n{SHOWN}\n"
    assert told.out == f"{SHOWN}\n"


def test_lines_tabs_letters_and_own_colours_stay(capsys: pytest.CaptureFixture[str]) -> None:
    text = "a\tb\nÜbung 北京 🙂 " + styled("good", fg="green", bold=True)
    TextOutput(quiet=False).result({}, text)
    assert capsys.readouterr().out in (f"{text}\n", f"{text}\n".replace("\x1b[32m\x1b[1mgood\x1b[0m", "good"))
