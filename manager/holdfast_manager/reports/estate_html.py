"""The report over everything, as one page that needs nothing but itself."""

from __future__ import annotations

from holdfast_agent.model.units import format_duration, format_rate, format_size
from holdfast_manager.catalog.values import SessionState

from .charts import Series, columns, lines
from .estate import EstateReport
from .html import Html, element, html_table, joined, page, section
from .protection import VmLine, VmState
from .purpose import what_for
from .sentences import counted
from .session_html import MOODS
from .times import moment

_COLOURS = {
    "success": "#2da44e", "warning": "#d4a72c", "partial": "#fb8f44", "failed": "#cf222e", "cancelled": "#8c959f",
}  # fmt: skip
_PALETTE = ("#2f81f7", "#8250df", "#1b7c83", "#bf3989", "#bc4c00", "#57606a")
STATE_MOODS = {VmState.UNPROTECTED: "error", VmState.LATE: "warning", VmState.PROTECTED: "good", VmState.GONE: "quiet"}
_MOST_SESSIONS = 200


def estate_html(report: EstateReport) -> str:
    """VMs first: whether they are protected is what the page is for."""
    about = f"{moment(report.since)} to {moment(report.until)}; objective: a point every {age(report.rpo_s)}"
    return page(
        f"Holdfast: {moment(report.until)}",
        element("p", about, class_="quiet"),
        _summary(report),
        section("Virtual machines", *_silent(report), _vms(report)),
        section("Sessions", sessions_chart(report), _sessions(report)),
        section("Growth", _growth(report)),
        section("Bottlenecks", _jobs(report)),
    )


def _summary(report: EstateReport) -> Html:
    told = [
        element("b", f"{report.states[state.value]} {state.value}", class_=STATE_MOODS[state])
        for state in VmState
        if report.states[state.value] or state is not VmState.GONE
    ]
    stored = sum(by_day[-1] for by_day in report.grown.values())
    facts = f"{counted(len(report.sessions), 'session')}; {format_size(stored)} stored for the points that are there"
    return element("p", joined(*(part for each in told for part in (each, " · "))), facts)


def _silent(report: EstateReport) -> list[Html]:
    return [
        element("p", f"Server {server} could not be asked for its VMs: {reason}", class_="warning")
        for server, reason in sorted(report.silent.items())
    ]


def _vms(report: EstateReport) -> Html:
    if not report.vms:
        return element("p", "None is known", class_="quiet")
    rows = [_vm(line, report) for line in report.vms]
    heads = ("server", "VM", "state", "last good point", "age", "objective met", "points", "suspect")
    return html_table(heads, rows, numbers=("points", "suspect", "age"))


def _vm(line: VmLine, report: EstateReport) -> tuple[str, ...]:
    state = element("span", line.state.value, class_=STATE_MOODS[line.state])
    old = "-" if line.last_good is None else age(report.until - line.last_good)
    met = "-" if line.state is VmState.GONE else "yes" if line.state is VmState.PROTECTED else "no"
    return (line.server, line.vm, state, moment(line.last_good), old, met, str(line.points), str(line.suspect or "-"))


def sessions_chart(report: EstateReport) -> Html:
    """Sessions that were begun each day, by result."""
    series = [Series(name, _COLOURS[name], tuple(map(float, by_day))) for name, by_day in report.results.items()]
    return columns("Sessions by day and result", report.days, series, lambda value: f"{value:g}")


def _sessions(report: EstateReport) -> Html:
    rows = []
    for entry in report.sessions[:_MOST_SESSIONS]:
        ended = entry.state is SessionState.ENDED
        result = element(
            "span", (entry.result if ended else entry.state).value, class_=MOODS.get(entry.result, "quiet")
        )
        took = format_duration(entry.ended - entry.started) if entry.ended and entry.started else "-"
        error = entry.error.message if entry.error is not None else ""
        rows.append((str(entry.id), what_for(entry), result, moment(entry.started or entry.created), took, error))
    more = len(report.sessions) - len(rows)
    shown = html_table(("session", "what", "result", "started", "took", "error"), rows, numbers=("session", "took"))
    return joined(shown, element("p", f"{more} older ones are left out", class_="quiet") if more > 0 else "")


def _growth(report: EstateReport) -> Html:
    if not report.grown:
        return element("p", "No restore points", class_="quiet")
    rows = [
        (name, format_size(by_day[-1]), format_size(max(0, by_day[-1] - by_day[0])))
        for name, by_day in report.grown.items()
    ]
    return joined(growth_chart(report), html_table(("repository", "stored", "grown"), rows, ("stored", "grown")))


def growth_chart(report: EstateReport) -> Html:
    """Bytes stored by repository, day by day."""
    series = [
        Series(name, _PALETTE[number % len(_PALETTE)], tuple(map(float, by_day)))
        for number, (name, by_day) in enumerate(report.grown.items())
    ]
    return lines("Bytes stored for restore points", report.days, series, format_size)


def _jobs(report: EstateReport) -> Html:
    if not report.jobs:
        return element("p", "Nothing was backed up", class_="quiet")
    rows = [
        (
            load.job,
            str(load.tasks),
            format_size(load.total.processed_bytes),
            format_size(load.total.read_bytes),
            format_size(load.total.transferred_bytes),
            format_size(load.total.stored_bytes),
            format_rate(load.total.read_bytes / load.total.elapsed_s) if load.total.elapsed_s else "-",
            format_duration(load.waited_s / load.tasks),
            load.bottleneck or "-",
            load.load,
        )
        for load in report.jobs
    ]
    heads = ("job", "disks", "processed", "read", "transferred", "stored", "rate of a disk", "waited for slots",
             "bottleneck", "busy")  # fmt: skip
    return html_table(heads, rows, numbers=heads[1:8])


def age(seconds: float) -> str:
    """ "12 min", "5.2 h", "3.0 d"."""
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 86400:.1f} d" if seconds >= 2 * 86400 else f"{seconds / 3600:.1f} h"
