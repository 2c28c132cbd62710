"""Folders in which others may write: no code is taken from them, and no link that lies in wait there is followed."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from pathlib import Path

import pytest

import holdfast_agent
import holdfast_manager
import holdfast_plugins
from holdfast_agent.starting import module_command
from holdfast_manager.cli import report
from holdfast_plugins.hypervisors.images.confined import MARKER, has_marker, make_snapshot_root

PROGRAMS = (
    "holdfast_agent.export",
    "holdfast_agent.mover",
    "holdfast_agent.mover.nursery",
    "holdfast_agent.service.collector_process",
    "holdfast_manager.api.command",
    "holdfast_manager.console",
    "holdfast_manager.notifying",
    "holdfast_manager.nursery.template",
    "holdfast_manager.sessions",
)


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file of ours, which others cannot write."""
    file = tmp_path / "victim"
    file.write_text("precious")
    return file


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A folder of somebody else's."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    return folder


def test_no_program_imports_from_the_folder_that_it_is_started_in(theirs: Path) -> None:
    for module in ("holdfast_agent", "holdfast_manager", "msgspec", "logging"):
        (theirs / f"{module}.py").write_text("import os; os.write(2, b'taken over'); os._exit(0)")
    command = module_command("holdfast_manager.sessions")
    ended = subprocess.run(command, cwd=theirs, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
    assert b"taken over" not in ended.stderr


def test_every_program_is_started_by_that_command() -> None:
    roots = [Path(package.__file__ or "").parent for package in (holdfast_agent, holdfast_manager, holdfast_plugins)]
    sources = {path: path.read_text() for root in roots for path in root.rglob("*.py")}
    started = {name for text in sources.values() for name in re.findall(r'module_command\(\s*"([^"]+)"', text)}
    assert set(PROGRAMS) <= started
    by_name = re.compile(r'sys\.executable,[^\]\)]*"-m"')
    assert [path.name for path, text in sources.items() if by_name.search(text)] == ["starting.py"]


def test_a_report_is_written_through_no_link(theirs: Path, victim: Path) -> None:
    page = theirs / "report.html"
    (theirs / f".{page.name}.{os.getpid()}").symlink_to(victim)
    page.symlink_to(victim)
    umask = os.umask(0o022)
    try:
        report._write(page, "<p>ü</p>")
    finally:
        os.umask(umask)
    assert victim.read_text() == "precious"
    assert page.read_text("utf-8") == "<p>ü</p>"
    assert stat.S_IMODE(page.lstat().st_mode) == 0o644, "a web server cannot read it"


def test_the_marker_of_snapshots_makes_no_file_elsewhere(theirs: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "nologin"
    (theirs / MARKER).symlink_to(elsewhere)
    make_snapshot_root(theirs, tmp_path)
    assert not elsewhere.exists()
    assert not has_marker(theirs)
    (theirs / MARKER).unlink()
    make_snapshot_root(theirs, tmp_path)
    make_snapshot_root(theirs, tmp_path)
    assert has_marker(theirs)
