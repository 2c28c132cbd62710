"""The only agent is killed and stays away: whatever was under way ends by itself, says why, and leaves nothing behind.

Nobody waits for it longer than for a lease, which is as short here as the configuration admits.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.tools import require_tool
from lab.vcenter import Fault, VCenter, vcenter
from lab.vsphere_house import VsphereHouse, vsphere_house

SIZE = 4 << 20
DISKS = 3
SLOW = ("--bandwidth", "32 KiB", "--compression", "none")
HELD = {
    "removing": Fault("RemoveSnapshot_Task", vm="removing", delay_ms=3000),
    "freezing": Fault("CreateSnapshotEx_Task", vm="freezing", delay_ms=3000),
}
"""What a job of this name does on the vCenter when the agent is killed."""
POLL_S = 0.02


@pytest.fixture
def center() -> Iterator[VCenter]:
    with vcenter() as made:
        yield made


@pytest.fixture
def house(center: VCenter, tmp_path: Path) -> Iterator[VsphereHouse]:
    """With VMs: ``web`` with several disks on the vCenter; ``img`` and ``late`` are files."""
    with vsphere_house(tmp_path / "house", center, slots=4 * DISKS) as made:
        made.holdfast("repository", "edit", "main", "--slots", str(4 * DISKS))
        for name in ("img", "late"):
            (made.vms / name).mkdir()
            (made.vms / name / "0.raw").write_bytes(os.urandom(SIZE))
        web = center.create("web", [SIZE] * DISKS)
        for disk in range(DISKS):
            center.write(web, disk, [(0, os.urandom(SIZE))])
        yield made


class Sessions:
    """What runs in a house, by what it does."""

    def __init__(self, house: VsphereHouse) -> None:
        self._house = house
        self._numbers: dict[str, int] = {}

    def begin(self, what: str, *command: str) -> None:
        self._numbers[what] = int(self._house.holdfast(*command, "--detach")["session"])

    def report(self, what: str) -> dict[str, Any]:
        shown: dict[str, Any] = self._house.holdfast("session", "show", str(self._numbers[what]))
        return shown

    def wait_begun(self, what: str) -> None:
        while (report := self.report(what))["state"] != "ended":
            if any(disk["reason"] for disk in report["disks"]):
                return
            time.sleep(POLL_S)
        raise AssertionError(report)

    def ended(self, what: str) -> tuple[str, str]:
        """Its result and the code of its error. The test's own time-out ends the wait for one that never ends."""
        while (report := self.report(what))["state"] != "ended":
            time.sleep(POLL_S)
        return report["result"], report["error"]["code"] if report["error"] else ""


def held(center: VCenter, method: str) -> None:
    """Wait until somebody is held in a call of the vCenter's."""
    while not any(each["Hits"] for each in center._ask("GET", "/faults") if each["Method"] == method):
        time.sleep(POLL_S)


def frozen(house: VsphereHouse) -> list[Path]:
    """Snapshots of files."""
    return list((house.vms / ".holdfast").glob("snapshot-*"))


def test_backups_end_at_whatever_step_they_are(center: VCenter, house: VsphereHouse) -> None:
    sessions = Sessions(house)
    for name in ("removing", "freezing"):
        center.create(name, [SIZE])
        house.add_vsphere_job(name, name, "--retries", "0")
    house.add_vsphere_job("web", "web", "--retries", "0", *SLOW)
    for name in ("img", "late"):
        house.add_job(name, "--retries", "0", *SLOW, repository="main", include=name)
    for name in ("web", "img"):
        sessions.begin(name, "job", "run", name)
        sessions.wait_begun(name)
    with center.faults(*HELD.values()):
        for name, act in HELD.items():
            sessions.begin(name, "job", "run", name)
            held(center, act.method)
        assert frozen(house)
        house.kill_agent()
        sessions.begin("late", "job", "run", "late")
        sessions.begin("gc", "repository", "gc", "main")
        assert sessions.ended("removing") == ("success", ""), "its point was there, and the vCenter is, too"
        for name in ("web", "img", "freezing"):
            assert sessions.ended(name) == ("failed", "repository_away"), name
        for name in ("late", "gc"):
            assert sessions.ended(name) == ("failed", "unreachable"), name
    center.assert_clean()
    assert not frozen(house)
    assert not house.holdfast("server", "show", "vc")["obligations"]

    house.start_agent()
    house.holdfast("repository", "show", "main")
    store = house.store / "main"
    assert not [*(store / "sessions").iterdir(), *(store / "tmp").iterdir()], "the agent ends what it had begun"
    house.holdfast("job", "edit", "img", "--reset", "bandwidth")
    assert len(house.run_job("img")["points"]) == 1


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_restores_proofs_and_exports_end_too(center: VCenter, house: VsphereHouse) -> None:
    """Each after its own retries; an export when it is stopped, which needs no agent."""
    require_tool("qemu-system-x86_64", "qemu-system-x86")
    sessions = Sessions(house)
    house.add_vsphere_job("web", "web", "--compression", "none")
    house.add_job("img", "--compression", "none", repository="main", include="img")
    for name in ("web", "img"):
        house.run_job(name)
    latest = ("--point", "latest")
    export = house.holdfast("export", "start", "--vm", "img", *latest)["export"]["session"]
    house.holdfast("repository", "edit", "main", "--read-limit", SLOW[1])
    commands = {
        "restore vm": ("restore", "vm", "--vm", "web", *latest, "--server", "vc", "--name", "web-new"),
        "restore disk": ("restore", "disk", "--vm", "img", *latest, "--to", str(house.out / "img.raw")),
        "verify": ("repository", "verify", "main", "--level", "2"),
        "boot": ("verify", "boot", "--vm", "img", *latest, "--memory", "64MiB", "--console", "login:", "--emulate"),
    }
    for name, command in commands.items():
        sessions.begin(name, *command)
    for name in commands:
        sessions.wait_begun(name)
    house.kill_agent()
    for name in commands:
        result, error = sessions.ended(name)
        assert (result, error in ("agent_away", "repository_away", "unreachable")) == ("failed", True), (name, error)
    assert house.holdfast("export", "list")["exports"][0]["session"] == export
    assert house.holdfast("export", "stop", str(export))["ended"]
    assert "web-new" not in center.state()["machines"]
    assert not house.holdfast("server", "show", "vc")["obligations"]
    center.assert_clean()
    house.start_agent()
