"""A command that is new is told where it lacks an entry, and what to write there: once, and before all the rest."""

from __future__ import annotations

import json
import runpy
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pytest

from holdfast_manager.rights.commands import COMMANDS, Rule
from holdfast_manager.rights.four_eyes import ALONE, NEEDED
from holdfast_manager.rights.roles import Right
from lab.command_tree import every_command

TESTS = Path(__file__).parents[1]
ERRORS = "unit/test_cli_every_error.py"
DOCUMENTS = "integration/test_cli_every_document.py"


def table(file: str, name: str) -> Mapping[str, Any]:
    """A table of another test's file."""
    found: Mapping[str, Any] = runpy.run_path(str(TESTS / file))[name]
    return found


def lacking(
    command: str,
    rules: Mapping[tuple[str, ...], Rule],
    eyes: Collection[tuple[str, ...]],
    errors: Collection[str],
    documents: Collection[str],
) -> list[str]:
    """What is to be written for ``command``, and where."""
    program, *names = command.split()
    path = tuple(names)
    rule = rules.get(path)
    wanted = []
    if program == "holdfast" and rule is None:
        wanted.append("rights/commands.py: which right it takes, and whether it changes anything")
    if program == "holdfast" and (rule is None or rule.changes) and path not in eyes:
        wanted.append("rights/four_eyes.py, if it changes anything: what of it takes a second person, or why nobody")
    if command not in errors:
        wanted.append(f"tests/{ERRORS}, WRONG: a wrong call, and what it is answered")
    if command not in documents:
        wanted.append(
            f"tests/{DOCUMENTS}: a call in one of the steps, then run it with HOLDFAST_SNAPSHOTS=write "
            "(or ELSEWHERE: why not)"
        )
    return wanted


def test_every_command_has_its_entries_everywhere() -> None:
    errors, elsewhere = table(ERRORS, "WRONG"), table(DOCUMENTS, "ELSEWHERE")
    documents = {*json.loads((TESTS / "golden" / "command-output.json").read_text()), *elsewhere}
    told = [
        f"`{command}` is new. Write\n- " + "\n- ".join(wanted)
        for command in every_command()
        if (wanted := lacking(command, COMMANDS, {*NEEDED, *ALONE}, errors, documents))
    ]
    assert not told, "\n".join(told)


@pytest.mark.parametrize(
    ("rules", "eyes", "places"),
    [
        ({}, (), ["rights/commands.py", "rights/four_eyes.py", ERRORS, DOCUMENTS]),
        ({("brand", "new"): Rule(Right.OPERATE, changes=True)}, (), ["rights/four_eyes.py", ERRORS, DOCUMENTS]),
        ({("brand", "new"): Rule(Right.VIEW)}, (), [ERRORS, DOCUMENTS]),
    ],
)
def test_a_new_command_is_told_every_place(
    rules: Mapping[tuple[str, ...], Rule], eyes: Collection[tuple[str, ...]], places: list[str]
) -> None:
    told = lacking("holdfast brand new", rules, eyes, (), ())
    assert [place in text for place, text in zip(places, told, strict=True)] == [True] * len(places)


def test_four_eyes_decides_of_every_command_that_changes_something_once() -> None:
    assert NEEDED.keys().isdisjoint(ALONE)
    assert {*NEEDED, *ALONE} == {path for path, rule in COMMANDS.items() if rule.changes}
