"""A guest that runs and writes while its disks are backed up by the hypervisor `qemu`."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast_agent.disks.open import open_disk
from holdfast_plugins.api import Snapshot, SnapshotRequest, VmRef
from holdfast_plugins.hypervisors.qemu import QemuDriver, QemuOptions
from holdfast_plugins.testkit import MemoryJournal
from lab.disks import host_for
from lab.guest import Guest, saved
from lab.installation import installed
from lab.tools import require_tool

VM = VmRef("guest", "guest")
SNAPSHOTS = 4
# A number is written to the first disk, and when it is durable there, to the second.
WRITER = """
one=$(findfs LABEL=lab-1) two=$(findfs LABEL=lab-2)
umount /mnt/1 /mnt/2
(number=10000000; while :; do
    number=$((number + 1))
    for disk in $one $two; do echo $number | dd of=$disk bs=512 conv=notrunc,fsync; done
done) >/dev/null 2>&1 &
"""

GOES_ON = 'one=$(findfs LABEL=lab-1); until [ "$(head -c 8 $one)" -gt {number} ] 2>/dev/null; do usleep 10000; done'
"""Until a later number is on the first disk."""


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    with saved(buses=("virtio-blk", "virtio-blk", "virtio-scsi")).resume(tmp_path, "qcow2", "qcow2", "raw") as running:
        yield running


class Snapshots:
    """Of a guest, by the driver."""

    def __init__(self, guest: Guest, folder: Path) -> None:
        self.driver = QemuDriver(QemuOptions(vms=(f"guest=unix:{guest.qmp}",), scratch_dir=str(folder)), {})
        self.journal = MemoryJournal()
        self._folder = folder

    @contextlib.contextmanager
    def taken(self) -> Iterator[Snapshot]:
        disks = tuple(disk.disk_id for disk in self.driver.vm_info(VM).disks)
        snapshot = self.driver.create_snapshot(SnapshotRequest(VM, "test", disks), self.journal)
        yield snapshot
        self.driver.check_snapshot(snapshot)
        self.driver.remove_snapshot(snapshot, committed=True, journal=self.journal)

    def numbers(self, snapshot: Snapshot) -> list[int]:
        """What the writer had written to its disks, in their order."""
        found = []
        for frozen in snapshot.disks[1:]:
            disk = open_disk(frozen.urls[0], host_for(self._folder))
            buffer = bytearray(8)
            disk.read_into(0, memoryview(buffer))
            disk.close()
            found.append(int(buffer.strip(b"\0\n") or b"0"))
        return found


def test_several_disks_are_frozen_at_one_instant(guest: Guest, tmp_path: Path) -> None:
    snapshots = Snapshots(guest, tmp_path)
    nodes = {node["node-name"] for node in guest.monitor.run("query-named-block-nodes", flat=True)}
    guest.agent.shell(WRITER)
    last = 0
    for _ in range(SNAPSHOTS):
        with snapshots.taken() as snapshot:
            one, two = snapshots.numbers(snapshot)
            assert one - two in (0, 1) or two == 0, "the second disk is of another instant than the first"
            guest.agent.shell(GOES_ON.format(number=one))
            assert snapshots.numbers(snapshot) == [one, two], "both stay as they were"
        assert one > last or last == 0
        last = one
    assert last > 10000000, "the guest has written"
    assert guest.monitor.run("query-status")["status"] == "running"
    assert {node["node-name"] for node in guest.monitor.run("query-named-block-nodes", flat=True)} == nodes
    assert not guest.monitor.run("query-fdsets") and not guest.monitor.run("query-block-exports")
    assert not any(event["event"] in ("STOP", "BLOCK_IO_ERROR") for event in guest.monitor.events)


def test_a_guest_is_frozen_backed_up_and_its_disk_restored(guest: Guest, tmp_path: Path) -> None:
    """By sessions of a real manager, while the guest writes records: twice, the second time by its bitmaps."""
    with installed(tmp_path / "house") as house:
        vms, scratch = json.dumps([f"guest=unix:{guest.qmp}"]), house.home / "scratch"
        scratch.mkdir()
        options = ("--option", f"vms={vms}", "--option", f"scratch_dir={scratch}")
        house.holdfast("server", "add", "qemu", "--plugin", "qemu", *options)
        house.add_repository("main", encrypted=True)
        house.holdfast(
            "job", "create", "job", "--server", "qemu", "--include", "guest", "--repository", "main",
            "--guest-processor", "qemu-ga", "--guest-policy", "require",
        )  # fmt: skip
        guest.agent.shell("(n=0; while :; do n=$((n + 1)); echo $n; sync; done) >/mnt/1/records 2>&1 &")
        for mode in ("allocation", "cbt"):
            report = house.run_job("job")
            assert {disk["mode"] for disk in report["disks"]} == {mode}, report["disks"]
            after = int(guest.agent.shell("tail -n 1 /mnt/1/records"))
        point = house.points("guest")[0]
        shown = house.holdfast("point", "show", point["sid"])["point"]
        assert shown["consistency"] == "file-system"
        house.holdfast("restore", "vm", "--point", point["sid"], "--server", "lab", "--name", "again")
        disk = house.vms / "again" / "dev-disk1.raw"
        subprocess.run([require_tool("e2fsck", "e2fsprogs"), "-fn", disk], check=True, stdout=subprocess.DEVNULL)
        dump = [require_tool("debugfs", "e2fsprogs"), "-R", "cat /records", disk]
        told = subprocess.run(dump, check=True, capture_output=True, text=True).stdout.split()
        assert told and told == [str(number) for number in range(1, len(told) + 1)], "no record is missing or wrong"
        assert len(told) < after, "and none is of later"
        assert guest.agent.run("guest-fsfreeze-status") == "thawed"
