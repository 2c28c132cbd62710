"""VMs: whether each is protected, and the points of one on a calendar."""

from __future__ import annotations

import calendar
from collections import defaultdict
from collections.abc import Sequence
from datetime import date, datetime, timedelta

from holdfast_agent.errors import UsageError
from holdfast_agent.model.units import format_size
from holdfast_manager.catalog.values import PointEntryRow, PointState
from holdfast_manager.reports.estate import EstateReport
from holdfast_manager.reports.estate_html import age
from holdfast_manager.reports.html import Html, element, html_facts, html_table, joined
from holdfast_manager.reports.protection import VmLine, VmState
from holdfast_manager.reports.sentences import counted
from holdfast_manager.reports.times import moment

from ..layout import page
from ..parts import card, icon, link, nothing, point_badges, scrolled, vm_badge
from ..visit import Visit, address
from .overview import estate_of

_MOST_IN_A_DAY = 4
_MOST_SHOWN = 50
_WEEK = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def vms(visit: Visit) -> str:
    """``/vms``, all or those in one state."""
    report = estate_of(visit)
    state = visit.text("state")
    if state and state not in list(VmState):
        raise UsageError(reason=f"there is no state {state[:40]!r} of VMs")
    lines = [line for line in report.vms if state in ("", line.state.value)]
    heads = ("VM", "server", "state", "last good point", "age", "points", "doubted")
    rows = [_row(line, report) for line in lines]
    table = scrolled(html_table(heads, rows, ("age", "points", "doubted"), "Virtual machines"), "Virtual machines")
    silent = [
        element("p", icon("warning"), f"Server {server} could not be asked for its VMs: {reason}", class_="warning")
        for server, reason in sorted(report.silent.items())
    ]
    return page(visit, "VMs", _filters(report, state), *silent, table if rows else nothing("None"), place="/vms")


def vm(visit: Visit) -> str:
    """``/vm``: one VM, in one month."""
    server, vm_id = visit.text("server"), visit.text("id")
    points = visit.catalog.points.of_vm(server, vm_id)
    line = next((each for each in estate_of(visit).vms if (each.server, each.vm_id) == (server, vm_id)), None)
    month = _month(visit.text("month"), points)
    day = _day(visit.text("day"))
    name = line.vm if line is not None else points[0].vm_name if points else vm_id
    if day is not None:
        chosen, title = [row for row in points if _date(row) == day], f"Restore points of {day:%d %B %Y}"
    else:
        chosen = [row for row in points if (_date(row).year, _date(row).month) == (month.year, month.month)]
        title = f"Restore points of {month:%B %Y}"
    left = len(chosen) - _MOST_SHOWN
    more = nothing(f"{counted(left, 'older one')} left out: choose a day in the calendar") if left > 0 else ""
    return page(
        visit,
        name,
        card("About", html_facts(_facts(line, server, vm_id, points))),
        card("Calendar", _calendar(month, points, server, vm_id), _legend(), class_="calendar"),
        card(title, points_table(chosen[:_MOST_SHOWN], title) if chosen else nothing("None"), more),
        place="/vms",
        trail=(("/vms", "VMs"),),
    )


def points_table(rows: Sequence[PointEntryRow], caption: str) -> Html:
    """Restore points of one VM, the newest first."""
    heads = ("made", "standing", "consistency", "size", "new in it", "job", "repository", "files")
    cells = [
        (
            link(f"/points/{row.sid}", moment(row.created)),
            point_badges(row),
            row.consistency,
            format_size(row.size_bytes),
            format_size(row.stored_bytes),
            row.job or "-",
            row.repository,
            link(f"/points/{row.sid}/files", "Browse", aria_label=f"Browse the files of {moment(row.created)}"),
        )
        for row in rows
    ]
    return scrolled(html_table(heads, cells, ("size", "new in it"), caption), caption)


def _row(line: VmLine, report: EstateReport) -> tuple[str, ...]:
    old = "-" if line.last_good is None else age(report.until - line.last_good)
    return (
        link(address("/vm", server=line.server, id=line.vm_id), line.vm),
        line.server,
        vm_badge(line.state),
        moment(line.last_good),
        old,
        str(line.points),
        str(line.suspect or "-"),
    )


def _filters(report: EstateReport, state: str) -> Html:
    named = [
        ("", f"all {len(report.vms)}"),
        *((each.value, f"{report.states[each.value]} {each.value}") for each in VmState),
    ]
    links = [
        element("li", link(address("/vms", state=value), name, **({"aria_current": "true"} if value == state else {})))
        for value, name in named
    ]
    return element("nav", element("ul", *links), aria_label="States of VMs", class_="filters")


def _facts(line: VmLine | None, server: str, vm_id: str, points: Sequence[PointEntryRow]) -> list[tuple[str, str]]:
    state = [("State", vm_badge(line.state)), ("Last good point", moment(line.last_good))] if line is not None else []
    return [
        ("Server", server),
        ("Id", vm_id),
        *state,
        ("Restore points", counted(len(points), "point")),
        ("Stored for them", format_size(sum(row.stored_bytes for row in points))),
    ]


def _month(text: str, points: Sequence[PointEntryRow]) -> date:
    """The first day of the month that was asked for; else of the newest point's, or of this one."""
    if not text:
        return (_date(points[0]) if points else date.today()).replace(day=1)
    return _parsed(f"{text}-01", "a month is written as 2026-11")


def _day(text: str) -> date | None:
    return _parsed(text, "a day is written as 2026-11-26") if text else None


def _parsed(text: str, advice: str) -> date:
    try:
        return datetime.strptime(text, "%Y-%m-%d").date()
    except ValueError:
        raise UsageError(reason=advice) from None


def _date(row: PointEntryRow) -> date:
    return datetime.fromtimestamp(row.created).date()


def _calendar(month: date, points: Sequence[PointEntryRow], server: str, vm_id: str) -> Html:
    by_day: defaultdict[date, list[PointEntryRow]] = defaultdict(list)
    for row in reversed(points):
        by_day[_date(row)].append(row)
    weeks = calendar.Calendar().monthdatescalendar(month.year, month.month)
    body = [
        element("tr", *(_cell(day, day.month == month.month, by_day[day], server, vm_id) for day in week))
        for week in weeks
    ]
    heads = element("tr", *(element("th", name, scope="col") for name in _WEEK))
    before, after = (month - timedelta(days=1)).replace(day=1), (month + timedelta(days=32)).replace(day=1)
    turn = element(
        "nav",
        link(address("/vm", server=server, id=vm_id, month=f"{before:%Y-%m}"), f"← {before:%B %Y}", rel="prev"),
        element("b", f"{month:%B %Y}"),
        link(address("/vm", server=server, id=vm_id, month=f"{after:%Y-%m}"), f"{after:%B %Y} →", rel="next"),
        aria_label="Months", class_="months",
    )  # fmt: skip
    caption = element("caption", f"Restore points in {month:%B %Y}", class_="unseen")
    table = element("table", caption, element("thead", heads), element("tbody", *body))
    return joined(turn, element("div", table, class_="scroll", tabindex="0", role="region", aria_label="Calendar"))


def _cell(day: date, inside: bool, rows: Sequence[PointEntryRow], server: str, vm_id: str) -> Html:
    if not inside:
        return element("td", class_="outside")
    number = element("time", str(day.day), datetime=day.isoformat())
    chips = [_chip(row) for row in rows[:_MOST_IN_A_DAY]]
    if len(rows) > _MOST_IN_A_DAY:
        whole = address("/vm", server=server, id=vm_id, month=f"{day:%Y-%m}", day=day.isoformat())
        chips.append(element("li", link(whole, f"all {len(rows)} of the day")))
    today = {"aria_current": "date"} if day == date.today() else {}
    return element("td", number, element("ul", *chips) if chips else "", **today)


def _chip(row: PointEntryRow) -> Html:
    suspect = row.state is PointState.SUSPECT
    signs = [icon("warning" if suspect else "good")]
    words = ["doubted" if suspect else "good"]
    if row.boot is not None:
        signs.append(icon("boot" if row.boot.proved else "error"))
        words.append("boots" if row.boot.proved else "did not boot")
    if row.held or row.retained_until:
        signs.append(icon("lock"))
        words.append("immutable")
    bad = suspect or (row.boot is not None and not row.boot.proved)
    time = datetime.fromtimestamp(row.created).strftime("%H:%M")
    told = element("span", f" {', '.join(words)}", class_="unseen")
    return element("li", link(f"/points/{row.sid}", time, *signs, told, class_="chip warning" if bad else "chip good"))


def _legend() -> Html:
    signs = (
        ("good", "good"),
        ("warning", "doubted: it may not be what the VM had"),
        ("boot", "has been booted to prove it"),
        ("error", "did not boot"),
        ("lock", "immutable: held, or kept until a date"),
    )
    return element(
        "ul", *(element("li", icon(name), text) for name, text in signs), class_="legend", aria_label="Signs"
    )
