"""Pages that must do no harm, whatever names stand in them."""

from __future__ import annotations

from html.parser import HTMLParser

_TAGS = {
    "html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "b", "span", "table", "caption", "thead",
    "tbody", "tr", "th", "td", "ul", "li", "div", "svg", "rect", "line", "polyline", "text",
}  # fmt: skip
_ATTRIBUTES = {
    "class", "lang", "charset", "x", "y", "x1", "x2", "y1", "y2", "width", "height", "fill", "stroke", "stroke-width",
    "points", "scope", "viewbox", "role", "text-anchor", "font-size",
}  # fmt: skip
_VOID = {"meta"}


def assert_harmless(page: str, shown: str = "") -> None:
    """Nothing runs and nothing comes from elsewhere; every element is closed; ``shown`` is to be read in the text."""
    found: list[str] = []
    open_tags: list[str] = []
    texts: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            found.extend(name for name, _ in attributes)
            assert tag in _TAGS, tag
            if tag not in _VOID:
                open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

        def handle_data(self, data: str) -> None:
            texts.append(data)

    Reader().feed(page)
    assert not open_tags
    assert set(found) <= _ATTRIBUTES, set(found) - _ATTRIBUTES
    assert "url(" not in page
    assert "@import" not in page
    assert shown in "".join(texts)
