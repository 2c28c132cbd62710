"""HTML that refers to nothing outside itself: for mail, and for pages that are kept or sent around."""

from __future__ import annotations

import html
from collections.abc import Collection, Sequence

from .table import printable

_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; color: #1f2328; background: #fff }
body { max-width: 70em; margin: 2em auto; padding: 0 1em }
h1 { font-size: 1.4em } h2 { font-size: 1.1em; margin: 1.8em 0 .4em }
table { border-collapse: collapse; font-size: 13px }
th, td { text-align: left; vertical-align: top; padding: .2em .8em .2em 0; border-bottom: 1px solid #d8dee4 }
th { color: #57606a; font-weight: 600 } td.number, th.number { text-align: right }
.good { color: #116329 } .warning { color: #7d4e00 } .error { color: #a40e26 } .quiet { color: #57606a }
svg { max-width: 100%; height: auto }
"""


_VOID = frozenset({"br", "img", "input", "link", "meta"})
"""Elements that hold nothing and have no end."""


class Html(str):
    """Text that is HTML already; all other text is escaped where it is put into some."""

    __slots__ = ()


def element(name: str, /, *content: str, **attributes: str) -> Html:
    """``<name attributes>content</name>``. A trailing "_" of an attribute's name is left out (``class_``)."""
    told = "".join(f' {key.rstrip("_").replace("_", "-")}="{html.escape(each)}"' for key, each in attributes.items())
    if name in _VOID:
        return Html(f"<{name}{told}>")
    return Html(f"<{name}{told}>{joined(*content)}</{name}>")


def joined(*content: str) -> Html:
    """Parts one after another."""
    return Html("".join(part if isinstance(part, Html) else html.escape(_clean(part)) for part in content))


def page(title: str, *content: str) -> str:
    """A whole document."""
    head = element("head", Html('<meta charset="utf-8">'), element("title", title), Html(f"<style>{_STYLE}</style>"))
    body = element("body", element("h1", title), *content)
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def section(title: str, *content: str) -> Html:
    """Content below a heading."""
    return joined(element("h2", title), *content)


def html_table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], numbers: Collection[str] = (), caption: str = ""
) -> Html:
    """``rows`` under ``heads``; columns named in ``numbers`` are aligned to the right. ``caption``: what it shows."""
    kinds: list[dict[str, str]] = [{"class_": "number"} if head in numbers else {} for head in heads]
    first = [element("th", head, scope="col", **kind) for head, kind in zip(heads, kinds, strict=True)]
    lines = [
        element("tr", *(element("td", cell, **kind) for cell, kind in zip(row, kinds, strict=True))) for row in rows
    ]
    told = element("caption", caption) if caption else ""
    return element("table", told, element("thead", element("tr", *first)), element("tbody", *lines))


def html_facts(facts: Sequence[tuple[str, str]]) -> Html:
    """Names and values, one a line."""
    lines = [element("tr", element("th", name, scope="row"), element("td", value)) for name, value in facts]
    return element("table", element("tbody", *lines), class_="facts")


def _clean(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))
