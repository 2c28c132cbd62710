"""Jobs: what is backed up and when; operators run them and switch them."""

from __future__ import annotations

import msgspec

from holdfast_agent.errors import UsageError
from holdfast_manager.catalog.values import JobSpec, SessionEntry, SessionState
from holdfast_manager.reports.html import Html, element, html_table, joined
from holdfast_manager.reports.schedule_text import next_starts, next_text
from holdfast_manager.reports.times import moment
from holdfast_manager.rights.roles import Right
from holdfast_manager.sessions.requests import of_job

from ..layout import page
from ..parts import badge, form_button, link, nothing, result_badge, scrolled
from ..visit import Visit, address


def jobs(visit: Visit) -> str:
    """``/jobs``"""
    visit.catalog.sessions.reap_dead()
    specs = visit.catalog.jobs.list()
    operates = visit.may(Right.OPERATE)
    heads = ("job", "source", "VMs", "repository", "next start", "last session", *(("actions",) if operates else ()))
    last = {spec.name: next(iter(visit.catalog.sessions.list(job=spec.name, limit=1)), None) for spec in specs}
    rows = [
        (*_row(spec, last[spec.name]), *((_actions(visit, spec, last[spec.name]),) if operates else ()))
        for spec in specs
    ]
    table = scrolled(html_table(heads, rows, caption="Jobs"), "Jobs")
    return page(
        visit, "Jobs", table if rows else nothing("No jobs yet; `holdfast job create` makes one"), place="/jobs"
    )


def run(visit: Visit) -> str:
    """POST ``/jobs/run``; returns where to go on."""
    name = _named(visit)
    visit.require(Right.OPERATE, "job run")
    with visit.act("job run", name):
        visit.catalog.sessions.reap_dead()
        entry = visit.console.starts.start(
            lambda: visit.catalog.sessions.begin_job(name, of_job(visit.catalog.jobs.get(name)))
        )
    return f"/sessions/{entry.id}"


def enable(visit: Visit) -> str:
    """POST ``/jobs/enable``"""
    return _switch(visit, True)


def disable(visit: Visit) -> str:
    """POST ``/jobs/disable``"""
    return _switch(visit, False)


def stop_session(visit: Visit) -> str:
    """POST ``/sessions/stop``"""
    number = _named(visit)
    if not (number.isascii() and number.isdigit() and len(number) < 16):
        raise UsageError(reason="a session has a number")
    visit.require(Right.OPERATE, "session stop")
    with visit.act("session stop", number):
        visit.catalog.sessions.request_stop(int(number))
    return f"/sessions/{number}"


def _switch(visit: Visit, enabled: bool) -> str:
    name, action = _named(visit), "job enable" if enabled else "job disable"
    visit.require(Right.OPERATE, action)
    with visit.act(action, name):
        visit.catalog.jobs.update(msgspec.structs.replace(visit.catalog.jobs.get(name), enabled=enabled))
    return "/jobs"


def _named(visit: Visit) -> str:
    name = visit.form.get("name", "")
    if not name:
        raise UsageError(reason="this form names nothing")
    return name


def _row(spec: JobSpec, last: SessionEntry | None) -> tuple[str, ...]:
    described = element("div", spec.description, class_="quiet") if spec.description else ""
    chosen = (", ".join(spec.include) or "all") + (f" but not {', '.join(spec.exclude)}" if spec.exclude else "")
    return (
        joined(link(address("/sessions", job=spec.name), spec.name), described),
        f"copy of {spec.source}" if spec.copy is not None else spec.source,
        chosen,
        link(f"/storage/{spec.repository}", spec.repository),
        next_text(spec, next_starts(spec)) if spec.enabled else badge("disabled", "quiet"),
        _last(last),
    )


def _last(session: SessionEntry | None) -> str:
    if session is None:
        return "never ran"
    at = moment(session.ended or session.started or session.created)
    number = link(f"/sessions/{session.id}", f"{session.id}")
    return joined(result_badge(session), " ", number, f", {at}")


def _actions(visit: Visit, spec: JobSpec, last: SessionEntry | None) -> Html:
    runs = last is not None and last.state is not SessionState.ENDED
    run_now = "" if runs else form_button(visit, "/jobs/run", "Run now", name=spec.name)
    switch = (
        form_button(visit, "/jobs/disable", "Disable", "plain", name=spec.name)
        if spec.enabled
        else form_button(visit, "/jobs/enable", "Enable", "plain", name=spec.name)
    )
    return element("div", run_now, switch, class_="actions")
