"""Repositories: room, growth, and what deduplication and compression leave of what was backed up."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast_agent.errors import HoldfastError
from holdfast_agent.model.units import format_size
from holdfast_agent.wire.messages import Space
from holdfast_manager.catalog.overview import Overview, Totals
from holdfast_manager.catalog.values import RepositoryEntry
from holdfast_manager.reports.estate_html import growth_chart
from holdfast_manager.reports.html import Html, element, html_facts, html_table, joined
from holdfast_manager.reports.times import moment

from ..layout import page
from ..parts import badge, card, link, meter, nothing, scrolled
from ..visit import AgentAnswer, Visit, address
from .overview import estate_of

_LOOK_S = 3.0
_LATEST = 20


def storage(visit: Visit) -> str:
    """``/storage``"""
    entries = visit.catalog.repositories.list()
    totals = {each.repository: each for each in Overview(visit.catalog.database).totals()}
    agents = visit.console.agents.look(_LOOK_S) or {}
    heads = ("repository", "room", "free", "points", "backed up", "stored", "ratio", "encrypted", "agent")
    rows = [_row(entry, totals.get(entry.name), agents.get(entry.agent)) for entry in entries]
    numbers = ("free", "points", "backed up", "stored", "ratio")
    table = scrolled(html_table(heads, rows, numbers, "Repositories"), "Repositories")
    report = estate_of(visit)
    return page(
        visit,
        "Storage",
        table if rows else nothing("No repository yet; `holdfast repository add` makes one"),
        element("p", "Ratio: bytes of disks in all restore points, for each byte stored for them.", class_="quiet"),
        card(
            "Growth in seven days",
            growth_chart(report) if report.grown else nothing("No restore points"),
            class_="charts",
        ),
        place="/storage",
    )


def repository(visit: Visit) -> str:
    """``/storage/{name}``"""
    entry = visit.catalog.repositories.get(str(visit.request.path_params["name"]))
    totals = {each.repository: each for each in Overview(visit.catalog.database).totals()}
    answer = (visit.console.agents.look(_LOOK_S) or {}).get(entry.agent)
    points = visit.catalog.points.list(repository=entry.name, limit=_LATEST)
    rows = [
        (
            link(f"/points/{row.sid}", moment(row.created)),
            link(address("/vm", server=row.server, id=row.vm_id), row.vm_name),
            format_size(row.stored_bytes),
            row.job or "-",
        )
        for row in points
    ]
    latest = html_table(("made", "VM", "new in it", "job"), rows, ("new in it",), "The latest restore points")
    return page(
        visit,
        entry.name,
        card("About", html_facts(_facts(entry, totals.get(entry.name), answer))),
        card("The latest restore points", scrolled(latest, "The latest restore points") if rows else nothing("None")),
        place="/storage",
        trail=(("/storage", "Storage"),),
    )


def _row(entry: RepositoryEntry, total: Totals | None, answer: AgentAnswer | None) -> tuple[str, ...]:
    total = total or Totals(entry.name)
    space = _space(entry, answer)
    return (
        link(f"/storage/{entry.name}", entry.name),
        _room(space, entry.name),
        "-" if space is None else format_size(space.free_bytes),
        str(total.points),
        format_size(total.size_bytes),
        format_size(total.stored_bytes),
        _ratio(total),
        "yes" if entry.encrypted else badge("no", "warning"),
        _agent(entry.agent, answer),
    )


def _facts(entry: RepositoryEntry, total: Totals | None, answer: AgentAnswer | None) -> Sequence[tuple[str, str]]:
    total = total or Totals(entry.name)
    space = _space(entry, answer)
    told = "not known" if space is None else f"{format_size(space.free_bytes)} free of {format_size(space.size_bytes)}"
    return (
        ("Place", element("code", entry.path)),
        ("Agent", _agent(entry.agent, answer)),
        ("Room", joined(_room(space, entry.name), " ", told)),
        ("Restore points", str(total.points)),
        ("Backed up", f"{format_size(total.size_bytes)} of disks, {format_size(total.stored_bytes)} stored for them"),
        ("Ratio", _ratio(total)),
        ("Encrypted", "yes, before it leaves the proxy" if entry.encrypted else "no"),
        ("Slots", f"{entry.slots} tasks at once"),
        ("Id", element("code", entry.repository_id)),
    )


def _space(entry: RepositoryEntry, answer: AgentAnswer | None) -> Space | None:
    """The file system that holds the repository: the longest path above it."""
    if answer is None or isinstance(answer, HoldfastError) or answer.health is None:
        return None
    above = [
        space
        for space in answer.health.space
        if space.size_bytes and (entry.path == space.path or entry.path.startswith(f"{space.path.rstrip('/')}/"))
    ]
    return max(above, key=lambda space: len(space.path), default=None)


def _room(space: Space | None, name: str) -> str:
    if space is None:
        return "-"
    used = space.size_bytes - space.free_bytes
    return meter(round(100 * used / space.size_bytes), 100, f"{name}: {used / space.size_bytes:.0%} used")


def _agent(name: str, answer: AgentAnswer | None) -> Html:
    if isinstance(answer, HoldfastError):
        return joined(name, " ", badge("does not answer", "error"))
    return joined(name)


def _ratio(total: Totals) -> str:
    return f"{total.size_bytes / total.stored_bytes:.1f}" if total.stored_bytes else "-"
