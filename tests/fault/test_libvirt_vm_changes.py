"""A VM that is shut off, started or killed while a snapshot of it lives: nothing that its guest wrote is lost or left.

The guest of a raw disk writes to an overlay meanwhile, which must be brought down wherever the VM stands by then; that
of a qcow2 disk has a backup job, which ends with its QEMU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

import pytest

from holdfast_agent.errors import SnapshotFailed
from holdfast_plugins.api import SnapshotRequest, VmRef
from holdfast_plugins.testkit import MemoryJournal
from lab.frozen_disks import read_whole
from lab.libvirt_backups import DrivenBackups
from lab.libvirt_host import LibvirtHost, LibvirtVm, libvirt_daemon

MIB = 1 << 20
TARGETS = ("vda", "vdb")


@pytest.fixture(scope="module")
def host() -> Iterator[LibvirtHost]:
    with libvirt_daemon() as made:
        yield made


def shut_off(vm: LibvirtVm) -> None:
    vm.stop()


def shut_off_and_started(vm: LibvirtVm) -> None:
    vm.stop()
    vm.start()
    vm.scribble(Random(2), 5)


def killed(vm: LibvirtVm) -> None:
    vm.kill()


def killed_and_started(vm: LibvirtVm) -> None:
    vm.kill()
    vm.start()
    vm.scribble(Random(3), 5)


def put_to_sleep(vm: LibvirtVm) -> None:
    """Memory goes to a file, and with it what the guest is about to write. Beside a backup job libvirt refuses that."""
    vm.domain.managedSave(0)


_ENDS = (shut_off, shut_off_and_started, killed, killed_and_started)


@pytest.mark.parametrize(
    ("image_format", "happens"),
    [*(("qcow2", end) for end in _ENDS), *(("raw", end) for end in _ENDS), ("raw", put_to_sleep)],
)
def test_a_vm_that_does_not_stay_as_it_was(
    host: LibvirtHost, image_format: str, happens: Callable[[LibvirtVm], None]
) -> None:
    host.clear()
    vm = host.vm("guest", dict.fromkeys(TARGETS, (image_format, MIB))).start()
    vm.scribble(Random(1), 10)
    frozen = {target: bytes(content) for target, content in vm.content.items()}
    backups, journal = DrivenBackups(vm), MemoryJournal()
    driver = backups.driver
    snapshot = driver.create_snapshot(SnapshotRequest(VmRef(vm.uuid, vm.name), "test", TARGETS, series="one"), journal)
    vm.scribble(Random(4), 5)
    for target in TARGETS:
        vm.read_image(target)  # flushes, so that a kill costs nothing that the guest could rely on
    happens(vm)
    still_whole = image_format == "raw"
    if still_whole:
        driver.check_snapshot(snapshot)
        for disk in snapshot.disks:
            assert read_whole(disk.urls[0], host.folder) == frozen[disk.disk_id]
    else:
        with pytest.raises(SnapshotFailed, match="ended before all was read"):
            driver.check_snapshot(snapshot)
    driver.remove_snapshot(snapshot, still_whole, journal)
    assert not journal.open and not list(host.scratch.iterdir())
    assert ".overlay" not in vm.domain.XMLDesc() + vm.domain.XMLDesc(2)
    for target, content in vm.content.items():
        assert vm.read_image(target) == content, "nothing of what the guest wrote is lost"
    if not vm.domain.isActive():
        vm.start()
    vm.scribble(Random(5), 5)
    backups.run()
    vm.scribble(Random(6), 5)
    assert any(backups.run().values()) == still_whole, "qcow2 is tracked again"
    assert not vm.monitor("query-jobs") and not vm.monitor("query-block-exports")
    backups.close()
