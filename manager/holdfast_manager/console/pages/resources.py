"""What is in use: slots of proxies and repositories, who holds them, and why others wait."""

from __future__ import annotations

import time

from holdfast_agent.errors import HoldfastError
from holdfast_agent.model.units import format_duration, format_size
from holdfast_manager.catalog.values import AgentEntry
from holdfast_manager.reports.html import Html, element, html_table, joined
from holdfast_manager.scheduler.occupation import Occupation, SlotRequest, SlotUse, occupation

from ..layout import page
from ..live import live
from ..parts import badge, card, link, meter, nothing, scrolled
from ..visit import AgentAnswer, Visit

_LOOK_S = 3.0


def resources(visit: Visit) -> str:
    """``/resources``"""
    return page(visit, "Resources", live(visit, "/resources/live", _content(visit)), place="/resources")


def resources_live(visit: Visit) -> str:
    """``/resources/live``"""
    return _content(visit)


def _content(visit: Visit) -> Html:
    found = occupation(visit.catalog.database)
    answers = visit.console.agents.look(_LOOK_S) or {}
    entries = visit.catalog.agents.list()
    heads = ("agent", "state", "does", "version", "movers", "slots", "free")
    rows = [_agent(entry, answers.get(entry.name)) for entry in entries]
    agents = scrolled(html_table(heads, rows, ("movers",), "Agents"), "Agents")
    return joined(
        card("Slots", _slots(found) if found.slots else nothing("No agent yet")),
        card("Waiting", _waiting(found) if found.waiting else nothing("No task waits")),
        card("At work", _holding(found) if found.holding else nothing("No task holds a slot")),
        card("Agents", agents if rows else nothing("No agent yet; `holdfast agent add` adds one")),
    )


def _slots(found: Occupation) -> Html:
    rows = [(use.resource, f"{use.used} of {use.slots}", _meter(use)) for use in found.slots]
    return scrolled(html_table(("resource", "slots", "in use"), rows, ("slots",), "Slots in use"), "Slots in use")


def _meter(use: SlotUse) -> Html:
    return meter(use.used, use.slots, f"{use.resource}: {use.used} of {use.slots} slots")


def _waiting(found: Occupation) -> Html:
    rows = [(*_who(each), _since(each), str(each.ahead), each.reason) for each in found.waiting]
    heads = ("session", "job", "disk", "for", "ahead", "why")
    return scrolled(html_table(heads, rows, ("for", "ahead"), "Tasks that wait for slots"), "Tasks that wait")


def _holding(found: Occupation) -> Html:
    rows = [(*_who(each), _since(each), ", ".join(each.holds)) for each in found.holding]
    heads = ("session", "job", "disk", "for", "holds")
    return scrolled(html_table(heads, rows, ("for",), "Tasks that hold slots"), "Tasks at work")


def _who(each: SlotRequest) -> tuple[Html, str, str]:
    disk = f"{each.vm}/{each.disk}" if each.disk else each.vm or "-"
    return link(f"/sessions/{each.session}", str(each.session)), each.job or "-", disk


def _since(each: SlotRequest) -> str:
    return format_duration(max(0.0, time.time() - each.since))


def _agent(entry: AgentEntry, answer: AgentAnswer | None) -> tuple[str, ...]:
    roles = ", ".join(role.value for role in entry.roles)
    slots = f"proxy {entry.proxy_slots}, repository {entry.repository_slots}"
    if answer is None:
        return (entry.name, badge("not asked yet", "quiet"), roles, "-", "-", slots, "-")
    if isinstance(answer, HoldfastError):
        told = joined(badge("does not answer", "error"), element("div", answer.text, class_="quiet"))
        return (entry.name, told, roles, "-", "-", slots, "-")
    state = badge("answers", "good") if entry.enabled else badge("disabled", "quiet")
    health = answer.health
    free = (
        "-" if health is None else ", ".join(f"{format_size(each.free_bytes)} in {each.path}" for each in health.space)
    )
    return (entry.name, state, roles, answer.hello.software, "-" if health is None else str(health.movers), slots, free)
