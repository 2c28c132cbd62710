"""A session report as text."""

from __future__ import annotations

import textwrap

from holdfast_agent.model.units import format_duration
from holdfast_manager.catalog.values import SessionState

from .problems import Problem
from .session_report import SessionReport
from .session_tables import NUMBERS, STEP_HEADS, data_text, disk_facts, disk_table, header_facts, load_facts, step_rows
from .table import facts, indented, printable, room, table


def session_text(report: SessionReport) -> str:
    """The whole of `session show`: header, ten steps, disks, points, load, problems."""
    parts = [
        f"Session {report.id}: {printable(report.what)}: {outcome(report)}",
        indented(facts(header_facts(report))),
        "Steps\n" + indented(table(STEP_HEADS, step_rows(report), right=NUMBERS, fold=("what",))),
    ]
    if report.disks:
        parts.append("Disks\n" + indented(_disks(report)))
    if report.points:
        rows = [(point.sid, point.vm, f"{point.consistency}-consistent") for point in report.points]
        parts.append("Restore points\n" + indented(table(("point", "VM", "state"), rows)))
    if report.load:
        parts.append("Load\n" + indented(facts(load_facts(report))))
    for level, title in (("warning", "Warnings"), ("error", "Errors")):
        told = [problem for problem in report.problems if problem.level == level]
        if told:
            parts.append(f"{title}\n" + "\n".join(_problem(problem) for problem in told))
    return "\n\n".join(parts)


def outcome(report: SessionReport) -> str:
    """ "success", or what state a session is in that has not ended."""
    return report.result.value if report.state is SessionState.ENDED else report.state.value


def summary_text(report: SessionReport) -> str:
    """What somebody who has just watched the session still wants to know: a few lines."""
    took = format_duration(report.ended - report.started) if report.ended and report.started else "-"
    lines = [f"Session {report.id}: {printable(report.what)}: {outcome(report)} after {took}"]
    if report.disks and report.total.processed_bytes:
        lines.append(indented(facts([("Data", data_text(report)), *load_facts(report)])))
    for point in report.points:
        lines.append(f"  Restore point {point.sid} of {printable(point.vm)} ({point.consistency}-consistent)")
    lines += [_problem(problem) for problem in report.problems]
    lines.append(f"  Details: holdfast session show {report.id}")
    return "\n".join(lines)


def _disks(report: SessionReport) -> str:
    heads, rows = disk_table(report)
    text, reasons = table(heads, rows, right=NUMBERS, fold=("VM",)), disk_facts(report)
    return f"{text}\n\n{facts(reasons)}" if reasons else text


def _problem(problem: Problem) -> str:
    about = f"{problem.about}: " if problem.about else ""
    at = f" (at {problem.at}" + (f", {problem.times} times)" if problem.times > 1 else ")") if problem.at else ""
    mark = "!" if problem.level == "error" else "*"
    told = _filled(f"{about}{problem.message}{at}", f"  {mark} ")
    return f"{told}\n{_filled(problem.action, '    ')}" if problem.action else told


def _filled(text: str, begin: str) -> str:
    """Paths stay whole, to be copied."""
    return textwrap.fill(
        printable(text), room() + 2, initial_indent=begin, subsequent_indent="    ", break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
