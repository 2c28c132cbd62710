"""The code in docs/plugin-guide.md is loaded by the host and passes the suite, just as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from holdfast_manager.cli.plugin_project import make_project
from holdfast_manager.host import PluginHost, PluginStatus
from holdfast_plugins.api import SnapshotRequest
from holdfast_plugins.testkit import MemoryJournal

GUIDE = Path(__file__).parents[2] / "docs" / "plugin-guide.md"


@pytest.fixture
def guide(tmp_path: Path) -> Path:
    """A directory with each file that the guide shows, under the name in its first line."""
    blocks = re.findall(r"^```\w+\n# (\S+)\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    for name, text in blocks:
        (tmp_path / name).write_text(text)
    assert {name for name, _ in blocks} == {"onevm.py", "pyproject.toml", "test_onevm.py"}
    return tmp_path


def test_the_example_is_found_by_its_entry_point_and_works(guide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tomllib.loads((guide / "pyproject.toml").read_text())["project"]
    points = project["entry-points"]["holdfast.plugins"]
    info = guide / "holdfast_onevm-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    (info / "entry_points.txt").write_text(
        "[holdfast.plugins]\n" + "".join(f"{name} = {module}\n" for name, module in points.items())
    )
    monkeypatch.syspath_prepend(str(guide))
    monkeypatch.delitem(sys.modules, "onevm", raising=False)
    host = PluginHost.load()
    report = next(entry for entry in host.report() if entry.name == "onevm")
    assert (report.status, report.origin) == (PluginStatus.LOADED, "holdfast-onevm 0.1")
    assert not host.capabilities("onevm").restore

    (guide / "vm").mkdir()
    (guide / "vm" / "root.raw").write_bytes(b"data")
    driver = host.hypervisor("onevm", {"path": str(guide / "vm")}, {}, "test")
    driver.connect()
    journal = MemoryJournal()
    vm = driver.list_vms()[0]
    snapshot = driver.create_snapshot(SnapshotRequest(vm, "tag", ("root.raw",)), journal)
    driver.remove_snapshot(snapshot, committed=True, journal=journal)
    driver.close()
    assert not journal.open
    monkeypatch.delitem(sys.modules, "onevm")


def test_the_example_passes_the_suite(guide: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_onevm.py"]
    environment = os.environ | {"PYTHONPATH": str(guide), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=guide, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed[1]) >= 38


def test_the_guide_shows_what_plugin_new_writes(guide: Path) -> None:
    made = guide / "made"
    make_project("onevm", "hypervisor", made)
    for shown in ("onevm.py", "pyproject.toml"):
        assert (guide / shown).read_text() == (made / shown).read_text()
    assert (guide / "test_onevm.py").read_text() == (made / "tests" / "test_onevm.py").read_text()
