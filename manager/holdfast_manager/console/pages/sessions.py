"""Sessions: the list, and one with its ten steps and the progress of its tasks."""

from __future__ import annotations

import time

from holdfast_agent.errors import UsageError
from holdfast_agent.model.units import format_duration
from holdfast_manager.catalog.values import SessionKind, SessionState
from holdfast_manager.reports.gathering import whole_report
from holdfast_manager.reports.html import Html, element, html_facts, html_table, joined
from holdfast_manager.reports.problems import Problem
from holdfast_manager.reports.progress import RateMeter, TaskProgress
from holdfast_manager.reports.session_report import SessionReport
from holdfast_manager.reports.session_tables import (
    NUMBERS,
    STEP_HEADS,
    data_text,
    disk_facts,
    disk_table,
    header_facts,
    load_facts,
    step_rows,
)
from holdfast_manager.reports.steps import StepLine
from holdfast_manager.rights.roles import Right

from ..layout import page
from ..live import live
from ..parts import card, form_button, icon, link, nothing, progress, scrolled, state_badge
from ..visit import Visit, address
from .overview import SESSION_HEADS, session_row

_PAGE = 50


def sessions(visit: Visit) -> str:
    """``/sessions``, of a kind or a job, the newest first."""
    kind, job, before = visit.text("kind"), visit.text("job"), visit.number("before")
    if kind and kind not in list(SessionKind):
        raise UsageError(reason=f"there is no kind of session {kind[:40]!r}")
    visit.catalog.sessions.reap_dead()
    entries = visit.catalog.sessions.list(job or None, SessionKind(kind) if kind else None, before, _PAGE)
    title = f"Sessions of job {job}" if job else "Sessions"
    rows = [session_row(entry) for entry in entries]
    table = html_table((*SESSION_HEADS,), rows, ("session", "took"), "Sessions, the newest first")
    older = link(address("/sessions", kind=kind, job=job, before=entries[-1].id), "Older ones", rel="next")
    return page(
        visit,
        title,
        _filters(visit, kind, job),
        scrolled(table, "Sessions") if rows else nothing("No sessions"),
        element("p", older) if len(entries) == _PAGE else "",
        place="/sessions",
    )


def session(visit: Visit) -> str:
    """``/sessions/{number}``"""
    report = _report(visit)
    name = f"Session {report.id}"
    may_stop = visit.may(Right.OPERATE) and report.state is not SessionState.ENDED and not report.stop_requested
    stop = form_button(visit, "/sessions/stop", "Stop session", name=str(report.id)) if may_stop else ""
    content = _content(visit, report)
    over = report.state is SessionState.ENDED
    body = content if over else live(visit, f"/sessions/{report.id}/live", content)
    return page(
        visit, name, element("p", report.what, class_="lead"), stop, body,
        place="/sessions", trail=(("/sessions", "Sessions"),),
    )  # fmt: skip


def session_live(visit: Visit) -> tuple[str, bool]:
    """``/sessions/{number}/live``: the content, and whether it is the last."""
    report = _report(visit)
    return _content(visit, report), report.state is SessionState.ENDED


def _report(visit: Visit) -> SessionReport:
    number = int(visit.request.path_params["number"])

    def make() -> SessionReport:
        visit.catalog.sessions.reap_dead()
        return whole_report(visit.catalog, number)

    return visit.console.reports.get(number, make)


def _filters(visit: Visit, kind: str, job: str) -> Html:
    kinds = [("", "all"), *((each.value, each.value) for each in SessionKind)]
    current = {"aria_current": "true"}
    links = [
        element("li", link(address("/sessions", kind=value, job=job), name, **(current if value == kind else {})))
        for value, name in kinds
    ]
    return element("nav", element("ul", *links), aria_label="Kinds of sessions", class_="filters")


def _content(visit: Visit, report: SessionReport) -> Html:
    return joined(
        element("p", state_badge(report.state, report.result), class_="outcome"),
        *_problems(report, "error", "Errors"),
        *_problems(report, "warning", "Warnings"),
        card("Steps", _steps(report)),
        *([_tasks(visit, report)] if report.state is not SessionState.ENDED else []),
        *_disks(report),
        *_points(report),
        card("What happened", _details(report)),
        card("About", html_facts(header_facts(report))),
    )


def _problems(report: SessionReport, level: str, title: str) -> list[Html]:
    told = [_problem(problem) for problem in report.problems if problem.level == level]
    return [card(title, element("ul", *told), class_=level)] if told else []


def _problem(problem: Problem) -> Html:
    about = f"{problem.about}: " if problem.about else ""
    action = element("div", problem.action, class_="quiet") if problem.action else ""
    return element("li", icon(problem.level), f"{about}{problem.message}", action)


def _steps(report: SessionReport) -> Html:
    over = report.state is SessionState.ENDED
    reached = [line.number for line in report.steps if line.began is not None]
    last = max(reached, default=0)
    items = [_step(line, over, last) for line in report.steps]
    return element("ol", *items, class_="steps")


def _step(line: StepLine, over: bool, last: int) -> Html:
    if line.began is None:
        state, mood = ("not reached" if over else "to come" if line.number > last else "passed over"), "quiet"
    elif not over and line.number == last:
        state, mood = "under way", "running"
    else:
        state, mood = format_duration(line.took_s), "good"
    current = {"aria_current": "step"} if mood == "running" else {}
    inner = (
        element("span", str(line.number), class_="ordinal", aria_hidden="true"),
        element("span", line.step.value, class_="step"),
        element("span", icon(mood), state, class_=f"took {mood}"),
    )
    return element("li", *inner, class_=mood, **current)


def _tasks(visit: Visit, report: SessionReport) -> Html:
    meter = visit.console.meters.get(report.id, RateMeter)

    def look() -> list[TaskProgress]:
        return meter.look(visit.catalog.tasks.list(report.id), time.monotonic())

    lines = visit.console.progress.get(report.id, look)
    if not lines:
        return card("Disks at work", nothing("None yet"))
    busy = [line for line in lines if line.at_work]
    rows = [_task(line) for line in busy]
    done = f"{len(lines) - len(busy)} of {len(lines)} disks done"
    limits = [element("p", element("b", name), f": {told}", class_="quiet") for name, told in load_facts(report)]
    table = html_table(("disk", "state", "progress", "figures"), rows, caption="Disks at work")
    return card("Progress", element("p", done), scrolled(table, "Disks at work") if rows else "", *limits)


def _task(line: TaskProgress) -> tuple[str, ...]:
    bar = progress(line.share, f"{line.label}: {line.share:.0%}") if line.size_bytes else "-"
    told = line.figures()
    return (line.label, line.state, bar, told if told != line.state else line.reason or "-")


def _disks(report: SessionReport) -> list[Html]:
    if not report.disks:
        return []
    heads, rows = disk_table(report)
    facts = [("Data", data_text(report)), *load_facts(report), *disk_facts(report)]
    table = scrolled(html_table(heads, rows, NUMBERS, "Disks of the session"), "Disks")
    return [card("Disks", table, html_facts(facts))]


def _points(report: SessionReport) -> list[Html]:
    if not report.points:
        return []
    rows = [
        (link(f"/points/{point.sid}", point.sid[:12]), point.vm, f"{point.consistency}-consistent")
        for point in report.points
    ]
    heads = ("point", "VM", "state")
    return [card("Restore points", scrolled(html_table(heads, rows, caption="Restore points made"), "Restore points"))]


def _details(report: SessionReport) -> Html:
    return scrolled(html_table(STEP_HEADS, step_rows(report), NUMBERS, "The ten steps in detail"), "The ten steps")
