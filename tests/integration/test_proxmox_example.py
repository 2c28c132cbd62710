"""The example of a third party's plugin is built, installed in a fresh environment, found, and passes its own tests."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from lab.fresh_venv import FreshVenv

EXAMPLE = Path(__file__).parents[2] / "examples" / "holdfast-proxmox"


def test_the_example_is_built_installed_and_passes_its_tests(tmp_path: Path) -> None:
    fresh = FreshVenv(tmp_path / "venv")
    project = shutil.copytree(EXAMPLE, tmp_path / "project", ignore=shutil.ignore_patterns("__pycache__"))
    fresh.install(project)
    shutil.rmtree(project / "holdfast_proxmox")  # what is tested is what was installed
    checked = json.loads(fresh.holdfast("plugin", "check", "proxmox", "--output", "json"))
    assert checked["plugin"]["origin"] == "holdfast-proxmox 0.1"
    assert {option["name"] for option in checked["options"]["proxmox"]} >= {"host", "user", "token_name", "ca_file"}
    told = fresh.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", cwd=project)
    passed = re.search(r"(\d+) passed", told)
    assert passed, told
    assert int(passed[1]) >= 120, told
