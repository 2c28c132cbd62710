"""What `holdfast plugin new` writes works at once: built, installed, found, and its tests pass."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from holdfast_agent.errors import AlreadyExists, UsageError
from holdfast_manager.cli.plugin_project import KINDS, make_project
from lab.fresh_venv import FreshVenv


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> FreshVenv:
    return FreshVenv(tmp_path_factory.mktemp("fresh") / "venv")


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_plugin_is_built_installed_and_passes_its_tests(tmp_path: Path, fresh: FreshVenv, kind: str) -> None:
    name = f"my-{kind}"
    made = json.loads(
        fresh.holdfast(
            "plugin", "new", name, "--kind", kind, "--directory", str(tmp_path / "project"), "--output", "json"
        )
    )
    assert f"{name.replace('-', '_')}.py" in made["files"]
    fresh.install(tmp_path / "project")
    checked = json.loads(fresh.holdfast("plugin", "check", name, "--output", "json"))
    assert (checked["plugin"]["status"], checked["plugin"]["origin"]) == ("loaded", f"holdfast-{name} 0.1")
    assert checked["plugin"]["warnings"] == []
    assert f"{KINDS[kind]} {name}" in fresh.holdfast("plugin", "check", name)
    told = fresh.run("-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=tmp_path / "project")
    passed = re.search(r"(\d+) passed", told)
    assert passed, told
    assert int(passed[1]) >= {"hypervisor": 38, "guest-processor": 9, "change-tracker": 5, "notifier": 6}[kind], told


@pytest.mark.parametrize("name", ["", "Upper", "a b", "../x", "-x", "x--y", "json", "import", "holdfast-x", "x" * 51])
def test_a_name_that_is_none_is_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        make_project(name, "hypervisor", tmp_path / "project")
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    with pytest.raises(AlreadyExists):
        make_project("mine", "hypervisor", tmp_path)
    assert not list(tmp_path.iterdir())
