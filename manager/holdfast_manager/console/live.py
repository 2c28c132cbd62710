"""Parts of pages that the script keeps up to date; without it they are as they were when the page was loaded."""

from __future__ import annotations

from holdfast_manager.reports.html import Html, element

from .parts import link
from .visit import Visit


def live(visit: Visit, source: str, content: Html) -> Html:
    """``source`` gives the content anew. The script adds a button that stops it, and takes the link away."""
    path = visit.request.url.path
    query = visit.request.url.query
    again = link(f"{path}?{query}" if query else path, "Load again", class_="again")
    note = element("p", again, element("span", "", role="status", class_="said"), class_="live-note")
    return element("div", note, element("div", content, class_="live", data_live=source))
