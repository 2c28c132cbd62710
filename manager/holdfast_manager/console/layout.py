"""The frame of every page: head, way around, and what somebody who cannot see it needs."""

from __future__ import annotations

import holdfast_agent
from holdfast_manager.reports.html import Html, element, joined

from .parts import form_button
from .visit import Visit

PLACES = (
    ("/", "Overview"),
    ("/vms", "VMs"),
    ("/sessions", "Sessions"),
    ("/jobs", "Jobs"),
    ("/storage", "Storage"),
    ("/resources", "Resources"),
)
_ICON = Html('<link rel="icon" type="image/svg+xml" href="/static/holdfast.svg">')


def page(visit: Visit, title: str, *content: str, place: str = "", trail: tuple[tuple[str, str], ...] = ()) -> str:
    """A whole document. ``place``: which of ``PLACES`` it belongs to; ``trail``: the pages that it lies below."""
    places = [element("li", _link(href, name, {"aria_current": _current(href, place, trail)})) for href, name in PLACES]
    who = element("span", visit.actor.name, class_="who")
    out = form_button(visit, "/logout", "Log out", class_="plain")
    header = element(
        "header",
        element("a", _mark(), element("span", "Holdfast"), href="/", class_="brand"),
        element("nav", element("ul", *places), aria_label="Main"),
        element("div", who, out, class_="user"),
    )
    crumbs = [element("li", _link(href, name, {})) for href, name in trail]
    way = element("nav", element("ol", *crumbs), aria_label="Above this page", class_="trail") if crumbs else ""
    main = element("main", way, element("h1", title), *content, id="content", tabindex="-1")
    return document(title, header, main)


def document(title: str, *content: str) -> str:
    """Of which only the head is given."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{title} – Holdfast"),
        _ICON,
        element("link", rel="stylesheet", href="/static/console.css"),
        element("script", src="/static/console.js", defer="defer"),
    )
    skip = element("a", "Skip to the content", href="#content", class_="skip")
    foot = element("footer", element("p", f"Holdfast {holdfast_agent.__version__}"))
    return f"<!DOCTYPE html>\n{element('html', head, element('body', skip, *content, foot), lang='en')}\n"


def _current(href: str, place: str, trail: tuple[tuple[str, str], ...]) -> str:
    return ("true" if trail else "page") if href == place else ""


def _link(href: str, name: str, attributes: dict[str, str]) -> Html:
    return element("a", name, href=href, **{key: value for key, value in attributes.items() if value})


def _mark() -> Html:
    """The sign of the console: blocks held in a frame."""
    squares = [
        element("rect", x=x, y=y, width="6", height="6", rx="1") for x in ("4.5", "13.5") for y in ("4.5", "13.5")
    ]
    frame = element("path", d="M8 1.5H3A1.5 1.5 0 0 0 1.5 3v5M16 22.5h5a1.5 1.5 0 0 0 1.5-1.5v-5", class_="frame")
    return element("svg", joined(frame, *squares), viewBox="0 0 24 24", aria_hidden="true", class_="mark")
