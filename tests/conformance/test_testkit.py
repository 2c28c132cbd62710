"""The suite finds a bad driver: each of these mistakes fails the test that is there for it, or the suite is broken."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

GUIDE = Path(__file__).parents[2] / "docs" / "plugin-guide.md"
MISTAKES = {
    "hard_links": (
        "shutil.copyfile(self.directory / disk_id, frozen / disk_id)",
        "(frozen / disk_id).hardlink_to(self.directory / disk_id)",
        "test_a_snapshot_is_frozen_against_later_writes",
    ),
    "act_before_promise": (
        '        self.promises[name] = journal.promise("onevm-snapshot", {"name": name})\n',
        '        frozen.mkdir()\n        self.promises[name] = journal.promise("onevm-snapshot", {"name": name})\n'
        "        frozen.rmdir()\n",
        "test_nothing_is_made_before_it_is_promised",
    ),
    "no_promise": (
        'self.promises[name] = journal.promise("onevm-snapshot", {"name": name})',
        "self.promises[name] = 0",
        "test_another_process_fulfils_what_a_crash_left",
    ),
    "removal_only_once": (
        "        except FileNotFoundError:\n            pass\n",
        "",
        "test_removal_leaves_nothing_and_may_come_twice",
    ),
    "never_removed": (
        "shutil.rmtree(self.directory / name)",
        "pass",
        "test_removal_leaves_nothing_and_may_come_twice",
    ),
    "never_struck": (
        "journal.strike(self.promises.pop(snapshot.snapshot_id))",
        "pass",
        "test_removal_leaves_nothing_and_may_come_twice",
    ),
    "removes_all": (
        "shutil.rmtree(self.directory / name)",
        "[shutil.rmtree(path) for path in self.directory.glob('.frozen-*')]",
        "test_removing_one_snapshot_leaves_another",
    ),
    "any_kind": (
        'if kind != "onevm-snapshot":',
        'if kind == "onevm-snapshot":\n            self.remove(data.get("name", ""))\n        return\n        if True:',
        "test_an_obligation_of_another_kind_is_refused",
    ),
    "rounded_size": (
        "copy.stat().st_size,",
        "copy.stat().st_size // 65536 * 65536 + 65536,",
        "test_a_snapshot_holds_every_disk_asked_for",
    ),
    "all_disks": (
        "for disk_id in request.disk_ids:\n            copy",
        'for disk_id in ("data.raw", "root.raw"):\n            copy',
        "test_a_snapshot_may_take_some_disks_only",
    ),
    "wrong_url": ("urls=(str(file_url(str(copy))),)", 'urls=(f"file://{copy}",)', "test_urls_are_disk_urls"),
    "untyped_error": (
        'self.remove(data.get("name", ""))',
        'self.remove(data["name"])',
        "test_a_damaged_obligation_deletes_nothing",
    ),
    "by_name": (
        "if vm.vm_id != self.vm.vm_id:",
        "if vm.name != self.vm.name:",
        "test_a_vm_is_found_by_its_id_not_by_its_name",
    ),
    "name_of_yesterday": (
        "return VmInfo(self.vm,",
        "return VmInfo(vm,",
        "test_a_vm_is_found_by_its_id_not_by_its_name",
    ),
    "sizes_of_yesterday": (
        "disk.stat().st_size) for disk in disks))",
        "80_000) for disk in disks))",
        "test_a_disk_that_grew_is_the_same_disk",
    ),
    "reverts": (
        "    def remove_snapshot(self, snapshot, committed, journal):\n",
        "    def remove_snapshot(self, snapshot, committed, journal):\n"
        "        for disk in snapshot.disks:\n"
        "            frozen = self.directory / snapshot.snapshot_id / disk.disk_id\n"
        "            if not committed and frozen.exists():\n"
        "                shutil.copyfile(frozen, self.directory / disk.disk_id)\n",
        "test_what_the_guest_wrote_meanwhile_outlives_the_snapshot",
    ),
    "leaves_half": (
        "            self.remove(name)\n            journal.strike(self.promises.pop(name))\n",
        "            journal.strike(self.promises.pop(name))\n",
        "test_a_disk_that_is_not_there_is_told",
    ),
    "one_url_for_all": (
        "copy = frozen / disk_id\n",
        "copy = frozen / request.disk_ids[0]\n",
        "test_no_two_disks_share_a_url",
    ),
    "closes_once": (
        "    def close(self):\n        pass\n",
        "    def close(self):\n        del self.promises\n",
        "test_it_can_be_closed_at_any_time",
    ),
    "answers_any_server": (
        "        if not self.directory.is_dir():\n",
        "        if False:\n",
        "test_a_server_that_is_not_there_is_told",
    ),
    "knows_everybody": (
        "if vm.vm_id != self.vm.vm_id:",
        "if False:",
        "test_a_vm_that_is_not_there_is_told",
    ),
}


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The names of the tests that failed, by mistake; the guide's example is the driver without any."""
    directory = tmp_path_factory.mktemp("drivers")
    files = dict(re.findall(r"^```python\n# (\S+)\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL))
    for mistake, (right, wrong, _) in MISTAKES.items():
        assert right in files["onevm.py"], f"{mistake}: the guide's example has changed"
        (directory / f"{mistake}.py").write_text(files["onevm.py"].replace(right, wrong))
        suite = files["test_onevm.py"].replace("import onevm", f"import {mistake} as onevm")
        suite = suite.replace("from onevm import", f"from {mistake} import")
        (directory / f"test_{mistake}.py").write_text(suite)
    command = [sys.executable, "-m", "pytest", "-q", "--tb=no", "-p", "no:cacheprovider", "."]
    environment = os.environ | {"PYTHONPATH": str(directory), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 1, done.stdout
    found: dict[str, set[str]] = {mistake: set() for mistake in MISTAKES}
    for mistake, test in re.findall(r"^FAILED test_(\w+)\.py::TestOnevm::(\w+)", done.stdout, re.MULTILINE):
        found[mistake].add(test)
    return found


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_suite_finds_the_mistake(failures: dict[str, set[str]], mistake: str) -> None:
    assert MISTAKES[mistake][2] in failures[mistake]
