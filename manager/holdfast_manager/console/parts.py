"""Small pieces that pages are made of. What a colour tells, a sign and a word tell too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from holdfast_agent.errors import HoldfastError
from holdfast_manager.catalog.values import PointEntryRow, PointState, SessionEntry, SessionResult, SessionState
from holdfast_manager.reports.html import Html, element, joined
from holdfast_manager.reports.protection import VmState
from holdfast_manager.reports.session_html import MOODS

if TYPE_CHECKING:
    from .visit import Visit

_PATHS = {
    "good": "M3 8.5l3.2 3.2L13 4.8",
    "warning": "M8 2.5L14.5 13.5h-13zM8 6.5v3.2M8 11.6v.2",
    "error": "M4 4l8 8M12 4l-8 8",
    "running": "M8 3v5l3.2 2M8 1.6a6.4 6.4 0 1 1-6.4 6.4",
    "quiet": "M3.5 8h9",
    "lock": "M4.5 7.5h7v6h-7zM6 7.5V5a2 2 0 0 1 4 0v2.5",
    "boot": "M5.5 4.2a5 5 0 1 0 5 0M8 1.8v5.4",
    "search": "M7 2.5a4.5 4.5 0 1 0 0 9 4.5 4.5 0 0 0 0-9M10.4 10.4l3.4 3.4",
    "folder": "M1.8 12.5v-9h4.4l1.5 1.8h6.5v7.2z",
    "file": "M4 1.8h5.2L12 4.6v9.6H4zM9 1.8v3h3",
    "link": "M6.5 9.5l3-3M5 7.5L3.3 9.2a2.4 2.4 0 0 0 3.4 3.4L8.5 11M7.6 5l1.7-1.7a2.4 2.4 0 0 1 3.4 3.4L11 8.5",
}
VM_MOODS = {VmState.UNPROTECTED: "error", VmState.LATE: "warning", VmState.PROTECTED: "good", VmState.GONE: "quiet"}


def icon(name: str) -> Html:
    """A sign beside its word."""
    return element("svg", element("path", d=_PATHS[name]), viewBox="0 0 16 16", aria_hidden="true", class_="icon")


def badge(text: str, mood: str) -> Html:
    """A state. ``mood``: good, warning, error, running, quiet."""
    return element("span", icon(mood), text, class_=f"badge {mood}")


def result_badge(entry: SessionEntry) -> Html:
    """How a session ended, or that it runs."""
    return state_badge(entry.state, entry.result)


def state_badge(state: SessionState, result: SessionResult) -> Html:
    if state is not SessionState.ENDED:
        return badge(state.value, "running")
    return badge(result.value, MOODS.get(result, "quiet"))


def vm_badge(state: VmState) -> Html:
    return badge(state.value, VM_MOODS[state])


def point_badges(row: PointEntryRow) -> Html:
    """All that is known of a point's standing."""
    told = [badge("doubted", "warning") if row.state is PointState.SUSPECT else badge("good", "good")]
    if row.verified is not None:
        told.append(_sign("search", "verified", "good"))
    if row.boot is not None:
        told.append(
            _sign("boot", "boots" if row.boot.proved else "did not boot", "good" if row.boot.proved else "error")
        )
    if row.held or row.retained_until:
        told.append(_sign("lock", "immutable", "quiet"))
    if row.origin is not None:
        told.append(element("span", "copy", class_="badge quiet"))
    return joined(*told)


def _sign(name: str, text: str, mood: str) -> Html:
    return element("span", icon(name), text, class_=f"badge {mood}")


def progress(share: float, label: str) -> Html:
    """0 … 1."""
    return element("progress", f"{share:.0%}", value=f"{share:.3f}", max="1", aria_label=label)


def meter(used: float, total: float, label: str) -> Html:
    """So much of so much, as a bar. Drawn: browsers let nobody draw their own meters well."""
    share = min(1.0, used / total) if total > 0 else 0.0
    bars = [
        element("rect", class_=part, width=f"{width:.1f}", height="8")
        for part, width in (("of", 100), ("so", 100 * share))
    ]
    full = "meter full" if share >= 1 else "meter"
    return element(
        "svg", *bars, viewBox="0 0 100 8", preserveAspectRatio="none", role="img", aria_label=label, class_=full
    )


def link(href: str, *text: str, **attributes: str) -> Html:
    return element("a", *text, href=href, **attributes)


def form_button(visit: Visit, action: str, label: str, class_: str = "", **fields: str) -> Html:
    """A form of one button, for what changes something."""
    hidden = [
        element("input", type="hidden", name=name, value=value)
        for name, value in {"csrf": visit.login.csrf, **fields}.items()
    ]
    told = {"aria_label": f"{label} {fields['name']}"} if "name" in fields else {}
    button = element("button", label, type="submit", class_=class_ or "action", **told)
    return element("form", *hidden, button, method="post", action=action)


def card(title: str, *content: str, class_: str = "") -> Html:
    """A part of a page with a heading."""
    return element("section", element("h2", title), *content, class_=f"card {class_}".strip())


def scrolled(table: Html, label: str) -> Html:
    """A table that is wider than a small screen can be scrolled, by keys too."""
    return element("div", table, class_="scroll", tabindex="0", role="region", aria_label=label)


def listed(items: Sequence[str], class_: str = "") -> Html:
    return element("ul", *(element("li", item) for item in items), **({"class_": class_} if class_ else {}))


def nothing(text: str) -> Html:
    return element("p", text, class_="quiet")


def trouble(error: HoldfastError) -> Html:
    """Why a part of a page is not there."""
    advice = joined(element("br"), error.advice) if error.advice else ""
    return element("p", icon("warning"), error.text, advice, class_="warning")


def command(text: str) -> Html:
    """A command line, to be taken along."""
    return element("pre", element("code", text), tabindex="0")
