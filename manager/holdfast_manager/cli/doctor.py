"""`holdfast doctor`, and the list of what is to be done that `holdfast init` ends with."""

from __future__ import annotations

from collections.abc import Sequence

import click

from holdfast_manager.doctor import Finding, Level, examine
from holdfast_manager.reports.sentences import counted
from holdfast_manager.reports.table import printable, room, wrapped

from .app import App, pass_app
from .commands import Command
from .output import styled

_MARKS = {
    Level.GOOD: ("ok", "green"),
    Level.MISSING: ("--", "cyan"),
    Level.WARNING: ("!", "yellow"),
    Level.PROBLEM: ("!!", "red"),
}
EXIT_PROBLEMS, EXIT_WARNINGS = 1, 4
_LEAST = 40  # columns that words get, however narrow the terminal


@click.command(cls=Command, examples=("holdfast doctor", "holdfast doctor --strict --output json"))
@click.option("--strict", is_flag=True, help="Exit with 4 when there are warnings only.")
@pass_app
def doctor(app: App, strict: bool) -> int:
    """Examine the whole set-up: keys, database, plugins, agents, clocks, space, servers, rights, jobs.

    Changes nothing. Says what is wrong and what to do about it. Exits with 1 when there is a problem, or when something
    that every backup needs is not set up yet.
    """
    findings = list(examine(app.settings, app.host))
    levels = {finding.level for finding in findings}
    app.out.result({"findings": findings}, lambda: told(findings))
    if levels & {Level.PROBLEM, Level.MISSING}:
        return EXIT_PROBLEMS
    return EXIT_WARNINGS if strict and Level.WARNING in levels else 0


def told(findings: Sequence[Finding]) -> str:
    """A line for each finding, and below it what to do."""
    width = max((len(finding.subject) for finding in findings), default=0)
    lines = []
    for finding in findings:
        mark, colour = _MARKS[finding.level]
        said, *further = wrapped(printable(finding.text), max(_LEAST, room() - width - 4)) or [""]
        lines.append(f"{styled(f'{mark:2}', fg=colour)}  {finding.subject:{width}}  {said}")
        if finding.advice:
            first, *more = wrapped(printable(finding.advice), max(_LEAST, room() - width - 6))
            further += [f"→ {first}", *more]
        lines += [f"{'':4}{'':{width}}  {text}" for text in further]
    count = sum(finding.level is not Level.GOOD for finding in findings)
    return "\n".join([*lines, "", f"{counted(count, 'thing')} to do" if count else "All is well"])
