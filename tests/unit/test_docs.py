"""The documentation holds together: every link leads somewhere, every command in it exists."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import click
import pytest

from holdfast_agent.cli.main import cli as agent_root
from holdfast_manager.cli.app import App
from holdfast_manager.cli.root import root

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path.relative_to(ROOT)
    for path in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*/README.md"))
)
FENCED = re.compile(r"^ *```\w*\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"(?:^ *|[$(\"])((?:holdfast|holdfast-agent) [^\n|]+)", re.MULTILINE)
INLINE = re.compile(r"`((?:holdfast|holdfast-agent) [^`\n|]+)")
LONG_ONES = ROOT / "docs" / "invariants.md"
OF_THE_WIRE = {"wire-protocol.md", "wire-protocol-data.md", "repository-format.md"}
"""Pages in which such words are labels that go into keys."""


def headings(page: Path) -> set[str]:
    """Anchors of a page, as GitHub and mkdocs make them."""
    words = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", word.lower()).strip().replace(" ", "-") for word in words}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:", target):
            continue
        place, _, anchor = target.partition("#")
        linked = (ROOT / page).parent / place if place else ROOT / page
        assert linked.exists(), f"{page} links to {target}, which is not there"
        if anchor and linked.suffix == ".md":
            assert anchor in headings(linked), f"{page} links to {target}; there is no such heading"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_tests_that_are_named_exist(page: Path) -> None:
    for file, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / page).read_text()):
        assert f"\ndef {name}(" in (ROOT / file).read_text(), f"{page} names {name} of {file}, which is not there"


def test_every_long_test_is_told_of_with_how_long_it_takes() -> None:
    """By the table of what `make soak` does: whoever begins it knows when it ends, and what can be made shorter."""
    (table,) = re.findall(r"^### The long ones\n(.*?)(?=^#|\Z)", LONG_ONES.read_text(), re.MULTILINE | re.DOTALL)
    told = re.findall(r"^\| `(tests/[\w/]+\.py)` \|[^|]*\d+ (?:s|min|h)\b", table, re.MULTILINE)
    marked = [path for path in (ROOT / "tests").rglob("test_*.py") if re.search(r"\bmark\.soak\b", path.read_text())]
    assert sorted(told) == sorted(str(path.relative_to(ROOT)) for path in marked)


def commands(page: Path) -> Iterator[list[str]]:
    text = (ROOT / page).read_text().replace("\\\n", " ")
    fenced = [found for block in FENCED.findall(text) for found in COMMAND.findall(block)]
    for found in fenced + INLINE.findall(FENCED.sub("", text)):
        try:
            yield shlex.split(found.partition(" #")[0])
        except ValueError:
            continue  # a word of prose with an apostrophe


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in OF_THE_WIRE], ids=str)
def test_commands_and_their_options_exist(page: Path) -> None:
    for words in commands(page):
        command: click.Command = root if words[0] == "holdfast" else agent_root
        context = click.Context(command, info_name=words[0], obj=App())
        rest = words[1:]
        while isinstance(command, click.Group) and rest and not rest[0].startswith(("-", "…")):
            if not re.fullmatch(r"[a-z][a-z-]+", rest[0]):
                break  # `holdfast point list | show`, or prose
            found = command.get_command(context, rest[0])
            assert found is not None, f"{page}: {' '.join(words)}: no command {rest[0]}"
            command, rest = found, rest[1:]
            context = click.Context(command, info_name=command.name, parent=context)
        if isinstance(command, click.Group):
            continue
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for word in rest:
            option = word.partition("=")[0].rstrip(".,;:)'\"")
            if re.fullmatch(r"--[a-z][a-z-]+", option) and option != "--help":
                assert option in known, f"{page}: {' '.join(words)}: no option {option}"


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    named = set(re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    assert {str(path.relative_to("docs")) for path in PAGES if path.parts[0] == "docs"} <= named


class _Links(HTMLParser):
    """What a page has, and what it leads to or loads."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.leads_to: set[str] = set()
        self.loads: set[str] = set()
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        told = {key: value or "" for key, value in attributes}
        self.anchors |= {told[key] for key in ("id", "name") if key in told}
        if tag == "a" and "href" in told:
            self.leads_to.add(told["href"])
        elif tag in ("link", "script", "img"):
            self.loads |= {told[key] for key in ("href", "src") if key in told}


def test_the_site_is_whole_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = {page: _Links(page) for page in tmp_path.rglob("*.html") if page.name != "404.html"}
    assert tmp_path / "index.html" in pages
    for page, links in pages.items():
        here = page.relative_to(tmp_path)
        assert not [target for target in links.loads if re.match(r"(https?:)?//", target)], (
            f"{here} loads from elsewhere"
        )
        for target in links.loads | links.leads_to:
            if re.match(r"[a-z]+:", target):
                continue
            place, _, anchor = unquote(target).partition("#")
            linked = (page.parent / place).resolve() if place else page
            linked = linked / "index.html" if linked.is_dir() else linked
            assert linked.exists(), f"{here} leads to {target}, which is not there"
            if anchor and linked in pages:
                assert anchor in pages[linked].anchors, f"{here} leads to {target}; there is no such heading"


def test_the_distribution_names_what_is_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (ROOT / project["readme"]).exists()
    assert all((ROOT / name).exists() for name in project["license-files"])


def test_a_blocks_way_is_where_the_architecture_says() -> None:
    """Each row of its table names a file and what of it the block passes through."""
    rows = re.findall(r"^\| `(\S+\.py)` \| `(\w+)` \|", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE)
    assert len(rows) >= 8
    for file, name in rows:
        code = (ROOT / "agent/holdfast_agent" / file).read_text()
        assert re.search(rf"^(class|def) {name}\b", code, re.MULTILINE), f"{file} has no {name}"


def test_every_package_stands_in_the_architecture() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    (layout,) = re.findall(r"^## 3\..*?^```\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    named = re.findall(r"(?<![\w/])(\w+)/(?= |$)", layout.split("\n\n")[0], re.MULTILINE)
    there = [
        path.parent.name
        for side in ("agent/holdfast_agent", "manager/holdfast_manager", "plugins/holdfast_plugins")
        for path in (ROOT / side).glob("*/__init__.py")
    ]
    assert sorted(named) == sorted(there)
