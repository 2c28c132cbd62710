"""What needs somebody's eyes: a line for each thing, the worst first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from holdfast_agent.errors import HoldfastError
from holdfast_agent.model.units import format_size
from holdfast_manager.catalog.values import PointEntryRow, PointState, SessionResult
from holdfast_manager.reports.estate import EstateReport
from holdfast_manager.reports.estate_html import age
from holdfast_manager.reports.html import Html, joined
from holdfast_manager.reports.protection import VmLine, VmState
from holdfast_manager.reports.purpose import what_for
from holdfast_manager.reports.sentences import counted
from holdfast_manager.reports.times import moment

from .parts import badge, link, result_badge, vm_badge
from .visit import Visit, address

_RECENT_S = 86400.0
_MOST_SESSIONS = 10
_MOST_VMS = 20
_LATEST_POINTS = 500
_LITTLE_ROOM = 0.1


def alarms(visit: Visit, report: EstateReport) -> list[Html]:
    """All of them, for people."""
    return [*_vms(report), *_sessions(report), *_points(visit), *_agents(visit), *_servers(report), *_left(visit)]


def _vms(report: EstateReport) -> Iterator[Html]:
    bad = [line for line in report.vms if line.state in (VmState.UNPROTECTED, VmState.LATE)]
    for line in bad[:_MOST_VMS]:
        yield _vm(line, report)
    if (more := len(bad) - _MOST_VMS) > 0:
        yield joined(badge("more", "error"), " ", link("/vms", f"{counted(more, 'VM')} more"))


def _vm(line: VmLine, report: EstateReport) -> Html:
    name = link(address("/vm", server=line.server, id=line.vm_id), f"{line.vm} on {line.server}")
    if line.last_good is None:
        return joined(vm_badge(line.state), " ", name, ": no good restore point")
    return joined(vm_badge(line.state), " ", name, f": the last good one is {age(report.until - line.last_good)} old")


def _sessions(report: EstateReport) -> Iterator[Html]:
    bad = (SessionResult.FAILED, SessionResult.PARTIAL)
    recent = [each for each in report.sessions if each.result in bad and report.until - (each.ended or 0) < _RECENT_S]
    for entry in recent[:_MOST_SESSIONS]:
        what = link(f"/sessions/{entry.id}", f"Session {entry.id}: {what_for(entry)}")
        yield joined(result_badge(entry), " ", what, f", {moment(entry.ended)}")


def _points(visit: Visit) -> Iterator[Html]:
    """Of each VM the newest that is in doubt or did not boot, and how many more there are."""
    doubted: defaultdict[tuple[str, str], list[PointEntryRow]] = defaultdict(list)
    for row in visit.catalog.points.list(limit=_LATEST_POINTS):
        if row.state is PointState.SUSPECT or (row.boot is not None and not row.boot.proved):
            doubted[row.server, row.vm_id].append(row)
    for (server, vm_id), rows in doubted.items():
        newest = rows[0]
        suspect = newest.state is PointState.SUSPECT
        mark = badge("doubted", "warning") if suspect else badge("did not boot", "error")
        told = link(f"/points/{newest.sid}", f"Restore point of {newest.vm_name}, {moment(newest.created)}")
        boot = "" if newest.boot is None else newest.boot.reason
        why = (newest.doubt or "some of its blocks are damaged") if suspect else boot
        vm = link(address("/vm", server=server, id=vm_id), f"{len(rows) - 1} more of this VM")
        yield joined(mark, " ", told, f": {why}", *(("; ", vm) if len(rows) > 1 else ()))


def _agents(visit: Visit) -> Iterator[Html]:
    for name, answer in sorted((visit.console.agents.look() or {}).items()):
        if isinstance(answer, HoldfastError):
            yield joined(badge("agent", "error"), " ", link("/resources", name), f": {answer.text}")
            continue
        for space in answer.health.space if answer.health is not None else ():
            if space.size_bytes and space.free_bytes < _LITTLE_ROOM * space.size_bytes:
                room = f": {format_size(space.free_bytes)} free of {format_size(space.size_bytes)} in {space.path}"
                yield joined(badge("space", "warning"), " ", link("/storage", name), room)


def _servers(report: EstateReport) -> Iterator[Html]:
    for server, reason in sorted(report.silent.items()):
        yield joined(badge("server", "error"), f" {server} cannot be asked for its VMs: {reason}")


def _left(visit: Visit) -> Iterator[Html]:
    running = {entry.id for entry in visit.catalog.sessions.living()}
    if owed := sum(each.session not in running for each in visit.catalog.obligations.open_of()):
        yield joined(badge("left over", "warning"), f" {counted(owed, 'thing')} on servers wait to be removed")
    if untold := len(visit.catalog.notices.list(open_only=True)):
        yield joined(badge("notices", "warning"), f" {counted(untold, 'notice')} could not be delivered yet")
