"""The first page: is everything protected, what runs, and what needs somebody's eyes."""

from __future__ import annotations

import time

from holdfast_agent.model.units import format_duration, format_size
from holdfast_manager.catalog.values import SessionEntry, SessionState
from holdfast_manager.reports.estate import EstateReport
from holdfast_manager.reports.estate_html import age, growth_chart, sessions_chart
from holdfast_manager.reports.html import Html, element, html_table, joined
from holdfast_manager.reports.protection import VmState
from holdfast_manager.reports.purpose import what_for
from holdfast_manager.reports.sentences import counted
from holdfast_manager.reports.times import moment

from ..alarms import alarms
from ..layout import page
from ..live import live
from ..parts import badge, card, icon, link, listed, nothing, result_badge, scrolled
from ..visit import Visit, address

_WINDOW_S = 7 * 86400.0
_RECENT_S = 86400.0
_MOST_SESSIONS = 10
_LITTLE_ROOM = 0.1
_FIRST_LOOK_S = 3.0


def overview(visit: Visit) -> str:
    """``/``"""
    return page(visit, "Overview", live(visit, "/live", _content(visit)), place="/")


def overview_live(visit: Visit) -> str:
    """``/live``"""
    return _content(visit)


def estate_of(visit: Visit) -> EstateReport:
    """The report over the last week, as everybody sees it."""
    from holdfast_manager.reports.gathering import whole_estate

    console = visit.console
    inventory, silent = console.inventory.look(_FIRST_LOOK_S) or ({}, {})
    objective = console.settings.console.objective_s

    def make() -> EstateReport:
        visit.catalog.sessions.reap_dead()
        return whole_estate(visit.catalog, inventory, silent, _WINDOW_S, objective, time.time())

    return console.estates.get("estate", make)


def _content(visit: Visit) -> Html:
    report = estate_of(visit)
    told = alarms(visit, report)
    running = visit.catalog.sessions.living()
    return joined(
        _tiles(report, len(running), len(told)),
        card("Needs attention", listed(told, "alarms") if told else badge("Nothing", "good")),
        card("Running now", _sessions(running, "Sessions that run") if running else nothing("No session runs")),
        card("Latest sessions", _latest(report)),
        card(
            "The last seven days", sessions_chart(report), growth_chart(report) if report.grown else "", class_="charts"
        ),
    )


def _tiles(report: EstateReport, running: int, alarms: int) -> Html:
    states = [
        _tile(str(report.states[state.value]), state.value, address("/vms", state=state.value), mood)
        for state, mood in (
            (VmState.PROTECTED, "good"),
            (VmState.LATE, "warning" if report.states[VmState.LATE.value] else ""),
            (VmState.UNPROTECTED, "error" if report.states[VmState.UNPROTECTED.value] else ""),
        )
    ]
    stored = sum(by_day[-1] for by_day in report.grown.values())
    rest = (
        _tile(str(running), "running", "/sessions", "running" if running else ""),
        _tile(str(alarms), counted(alarms, "alarm").partition(" ")[2], "#alarms", "error" if alarms else ""),
        _tile(format_size(stored), "stored", "/storage", ""),
    )
    objective = element(
        "p", f"VMs with a good restore point in the last {age(report.rpo_s)} are protected.", class_="quiet"
    )
    return joined(element("ul", *states, *rest, class_="tiles", aria_label="In numbers"), objective)


def _tile(number: str, name: str, href: str, mood: str) -> Html:
    told = element("span", number, class_="figure")
    sign = icon(mood) if mood else ""
    inner = joined(told, element("span", sign, name, class_="name"))
    shown = link(href, inner) if not href.startswith("#") else element("div", inner)
    return element("li", shown, class_=f"tile {mood}".strip())


def _latest(report: EstateReport) -> Html:
    ended = [entry for entry in report.sessions if entry.state is SessionState.ENDED][:_MOST_SESSIONS]
    return _sessions(ended, "The latest sessions") if ended else nothing("None in the last seven days")


def _sessions(entries: tuple[SessionEntry, ...] | list[SessionEntry], caption: str) -> Html:
    rows = [session_row(entry) for entry in entries]
    return scrolled(html_table(SESSION_HEADS, rows, ("session", "took"), caption), caption)


SESSION_HEADS = ("session", "what", "result", "started", "took")


def session_row(entry: SessionEntry) -> tuple[str, ...]:
    """Below ``SESSION_HEADS``."""
    began = entry.started or entry.created
    took = (entry.ended or time.time()) - began
    return (
        link(f"/sessions/{entry.id}", str(entry.id)),
        what_for(entry),
        result_badge(entry),
        moment(began),
        format_duration(max(0.0, took)) if entry.started else "-",
    )
