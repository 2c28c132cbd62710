"""A real guest under libvirt: frozen through its agent for a snapshot, and never held up by a backup."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast_agent.errors import GuestAgentSilent, SnapshotFailed, VmNotFound
from holdfast_manager.sessions.quiescing import DriverAccess
from holdfast_plugins.api import ConsistencyLevel, SnapshotRequest, VmRef
from holdfast_plugins.guest.options import GuestOptions
from holdfast_plugins.guest.qemu_agent import QemuAgentProcessor
from holdfast_plugins.testkit import MemoryJournal
from lab import guest as lab
from lab.devices import small_file_system
from lab.frozen_disks import read_whole
from lab.libvirt_guest import LibvirtGuest
from lab.libvirt_host import libvirt_daemon

MIB = 1 << 20
pytestmark = pytest.mark.timeout(300)  # the first test of a fresh checkout builds the guest


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with small_file_system(tmp_path_factory.mktemp("small"), size_bytes=8 * MIB) as made:
        yield made


@pytest.fixture(scope="module")
def guest(small: Path) -> Iterator[LibvirtGuest]:
    """``small`` is mounted before: libvirtd sees what was there when it began."""
    with libvirt_daemon() as host:
        made = LibvirtGuest(host, "tiny", lab.build(lab.PLAIN))
        made.wait_up()
        yield made
        host.clear()


def test_a_frozen_guest_is_snapshotted_with_a_clean_file_system(guest: LibvirtGuest, tmp_path: Path) -> None:
    driver, journal, processor = guest.driver(), MemoryJournal(), QemuAgentProcessor(GuestOptions(), {})
    writer = "touch /go; (n=0; while [ -e /go ]; do n=$((n+1)); echo $n >>/records; done) >/dev/null 2>&1 & sleep 0.5"
    guest.agent.shell(writer)
    frozen = processor.freeze(driver.vm_info(guest.vm), DriverAccess(driver, guest.vm), 30)
    try:
        assert guest.agent.run("guest-fsfreeze-status") == "frozen"
        snapshot = driver.create_snapshot(SnapshotRequest(guest.vm, "test", ("vda",)), journal)
    finally:
        frozen.thaw()
    assert (frozen.consistency, frozen.shortfall) == (ConsistencyLevel.FILE_SYSTEM, "")
    processor.close()
    content = read_whole(snapshot.disks[0].urls[0], guest.disk.parents[1])
    driver.remove_snapshot(snapshot, True, journal)
    driver.close()
    (tmp_path / "disk.raw").write_bytes(content[MIB:])  # its only partition
    subprocess.run(["e2fsck", "-f", "-n", tmp_path / "disk.raw"], check=True, stdout=subprocess.DEVNULL)
    command = ["debugfs", "-R", "cat /records", tmp_path / "disk.raw"]
    records = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert records == [str(number + 1) for number in range(len(records))] and records
    guest.agent.shell("rm /go")


def test_what_the_agent_refuses_and_a_vm_without_agent_are_told_apart(guest: LibvirtGuest) -> None:
    driver = guest.driver()
    answer = json.loads(driver.guest_agent(guest.vm).exchange(b'{"execute": "guest-no-such-command"}', 5))
    assert "has not been found" in answer["error"]["desc"]
    off = guest.host.vm("off", {"vda": ("qcow2", MIB)})
    with pytest.raises(GuestAgentSilent, match="not running"):
        driver.guest_agent(VmRef(off.uuid, "off")).exchange(b'{"execute": "guest-ping"}', 1)
    with pytest.raises(VmNotFound):
        driver.guest_agent(VmRef("11111111-2222-4333-8444-555555555555", "nobody")).exchange(b"{}", 1)
    driver.close()


def test_a_guest_whose_backup_runs_out_of_scratch_space_goes_on_and_loses_nothing(
    guest: LibvirtGuest, small: Path
) -> None:
    guest.agent.shell("yes before | dd of=/text bs=64k count=200 iflag=fullblock conv=fsync 2>/dev/null")
    driver, journal = guest.driver(scratch_dir=str(small)), MemoryJournal()
    snapshot = driver.create_snapshot(SnapshotRequest(guest.vm, "test", ("vda",)), journal)
    guest.agent.shell("yes after | dd of=/text bs=64k count=200 iflag=fullblock conv=notrunc,fsync 2>/dev/null")
    with pytest.raises(SnapshotFailed, match="was ended before all was read"):
        driver.check_snapshot(snapshot)
    driver.remove_snapshot(snapshot, False, journal)
    driver.close()
    compared = "yes after | dd bs=64k count=200 iflag=fullblock 2>/dev/null | cmp - /text && echo same"
    assert guest.agent.shell(compared) == "same\n"
