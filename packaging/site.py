"""What mkdocs is told by `mkdocs.yml` as a hook: files outside of docs/ belong to the site, and links to them hold.

In the repository a page links to what it means by its path there, so that it reads as well without a site.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "LICENSE": "LICENSE.txt",
    "examples/holdfast-proxmox/README.md": "example.md",
    **{f"configs/{file.name}": f"configs/{file.name}" for file in sorted((ROOT / "configs").glob("*.toml"))},
}
"""Paths in the repository → on the site."""
_LINK = re.compile(r"\]\((?![a-z]+:|#|/)([^)#\s]+)")
_CODE = re.compile(r"(^ *```.*?^ *```$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Called by mkdocs with what it found in docs/."""
    for source, place in OUTSIDE.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Called by mkdocs with each page. A link to what the site does not have stays, and strict mode refuses it."""
    there = {place: source for source, place in OUTSIDE.items()}
    source = there.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def on_the_site(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[1]))
        place = OUTSIDE.get(target, target.removeprefix("docs/"))
        return f"]({posixpath.relpath(place, posixpath.dirname(page.file.src_uri) or '.')}"

    parts = _CODE.split(markdown)
    parts[::2] = [_LINK.sub(on_the_site, part) for part in parts[::2]]
    return "".join(parts)
