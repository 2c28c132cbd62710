"""A session report as one HTML page."""

from __future__ import annotations

from holdfast_manager.catalog.values import SessionResult

from .html import Html, element, html_facts, html_table, joined, page, section
from .problems import Problem
from .session_report import SessionReport
from .session_tables import (
    NUMBERS,
    STEP_HEADS,
    data_text,
    disk_facts,
    disk_table,
    header_facts,
    load_facts,
    step_rows,
)
from .session_text import outcome

MOODS = {
    SessionResult.SUCCESS: "good",
    SessionResult.WARNING: "warning",
    SessionResult.PARTIAL: "error",
    SessionResult.FAILED: "error",
}


def session_html(report: SessionReport) -> str:
    """All of `session show`; what needs somebody's eyes comes first."""
    parts = [
        element("p", f"{report.what}: ", element("b", outcome(report), class_=MOODS.get(report.result, "quiet"))),
        html_facts(header_facts(report)),
    ]
    for level, title in (("error", "Errors"), ("warning", "Warnings")):
        told = [_problem(problem) for problem in report.problems if problem.level == level]
        if told:
            parts.append(section(title, element("ul", *told)))
    if report.disks:
        heads, rows = disk_table(report)
        totals = [("Data", data_text(report)), *load_facts(report)]
        parts.append(section("Disks", html_table(heads, rows, NUMBERS), html_facts([*totals, *disk_facts(report)])))
    if report.points:
        points = [(point.sid, point.vm, f"{point.consistency}-consistent") for point in report.points]
        parts.append(section("Restore points", html_table(("point", "VM", "state"), points)))
    parts.append(section("Steps", html_table(STEP_HEADS, step_rows(report), NUMBERS)))
    return page(f"Session {report.id}", *parts)


def _problem(problem: Problem) -> Html:
    about = f"{problem.about}: " if problem.about else ""
    action = element("div", problem.action, class_="quiet") if problem.action else ""
    return element("li", joined(f"{about}{problem.message}", action), class_=problem.level)
