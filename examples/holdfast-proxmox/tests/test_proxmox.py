"""The plugin keeps the promises that backups rely on, against a simulated cluster; and what is Proxmox VE's own."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path

import holdfast_proxmox
import pytest
from holdfast_proxmox import ProxmoxDriver, ProxmoxOptions
from pve import TOKEN, Pve

from holdfast_agent.errors import (
    DiskUnsupported,
    HypervisorUnreachable,
    SnapshotFailed,
    SnapshotNotRemoved,
    UsageError,
)
from holdfast_agent.model.disk_url import parse_disk_url
from holdfast_plugins.api import HypervisorDriver, RestoreDisk, SnapshotRequest, VmRef
from holdfast_plugins.testkit import (
    HypervisorConformance,
    HypervisorLab,
    MemoryJournal,
    ObligationSuite,
    RestoreSuite,
    SnapshotSuite,
)

MIB = 1 << 20
DISKS = {"scsi0": 3 * MIB + 1024, "virtio1": MIB}


class PveLab(HypervisorLab):
    plugin = holdfast_proxmox
    secrets = (TOKEN,)
    resizes = True
    plugs_disks = True
    faults = ("the task fails", "the storage is full")
    vm = VmRef("100", "web")

    def __init__(self, pve: Pve, port: int, ca_file: Path, storage: str) -> None:
        self.pve = pve
        self.options = ProxmoxOptions(
            "127.0.0.1", "holdfast@pve", "backup", port, str(ca_file), node="pve1", storage=storage, timeout=10
        )
        self._storage = storage
        pve.add_vm(100, "web", storage, DISKS)
        pve.add_vm(101, "db", storage, {"scsi0": MIB})

    def driver(self) -> HypervisorDriver:
        return ProxmoxDriver(self.options, {"token": TOKEN})

    def unreachable(self) -> HypervisorDriver:
        options = ProxmoxOptions("127.0.0.1", "holdfast@pve", "backup", 1, self.options.ca_file, timeout=1)
        return ProxmoxDriver(options, {"token": TOKEN})

    def write(self, disk_id: str, offset: int, data: bytes) -> None:
        with self.pve.disk_path(100, disk_id).open("r+b") as disk:
            disk.seek(offset)
            disk.write(data)

    def read(self, url: str) -> bytes:
        return Path(parse_disk_url(url).path).read_bytes()

    def write_restored(self, disk: RestoreDisk, data: bytes) -> None:
        assert not disk.create
        with Path(parse_disk_url(disk.url).path).open("r+b") as file:
            file.write(data)

    def grow(self, disk_id: str, size_bytes: int) -> None:
        with self.pve.disk_path(100, disk_id).open("r+b") as disk:
            disk.truncate(size_bytes)

    def plug(self) -> str:
        volume = "vm-100-disk-9"
        with self.pve.path(self._storage, volume).open("xb") as disk:
            disk.truncate(MIB)
        self.pve.vms[100].config["scsi9"] = f"{self._storage}:{volume},size=1M"
        return "scsi9"

    def unplug(self, disk_id: str) -> None:
        self.pve.disk_path(100, disk_id).unlink()
        del self.pve.vms[100].config[disk_id]

    @contextmanager
    def fault(self, name: str) -> Iterator[None]:
        words = {"the task fails": "got timeout", "the storage is full": "Cannot create new thin volume"}
        self.pve.fail["POST snapshot"] = words[name]
        yield
        assert not self.pve.fail

    def traces(self) -> Hashable:
        return self.pve.traces()


@pytest.fixture
def lab(pve: Pve, port: int, certificate: tuple[Path, Path], request: pytest.FixtureRequest) -> PveLab:
    return PveLab(pve, port, certificate[0], getattr(request, "param", "local-zfs"))


class TestOnZfs(HypervisorConformance):
    """All promises."""


@pytest.mark.parametrize("lab", ["local-lvm"], indirect=True)
class TestOnThinLvm(SnapshotSuite, ObligationSuite, RestoreSuite):
    """Those in which the storages differ."""


def test_a_disk_on_a_storage_without_devices_is_refused(lab: PveLab) -> None:
    lab.pve.add_vm(102, "odd", "local", {"scsi0": MIB})
    with pytest.raises(DiskUnsupported, match=r"local \(dir\) are no devices"):
        lab.driver().vm_info(VmRef("102", "odd"))


def test_containers_and_cd_drives_are_left_out(lab: PveLab) -> None:
    driver = lab.driver()
    assert {vm.vm_id for vm in driver.list_vms()} == {"100", "101"}
    assert [disk.disk_id for disk in driver.vm_info(lab.vm).disks] == ["scsi0", "virtio1"]
    assert driver.near_proxies(driver.vm_info(lab.vm), "scsi0") == (("pve1",),)


def test_a_wrong_token_is_told_and_not_shown(lab: PveLab) -> None:
    driver = ProxmoxDriver(lab.options, {"token": "wrong-token-value"})
    with pytest.raises(HypervisorUnreachable, match="denied: ") as caught:
        driver.connect()
    assert "wrong-token-value" not in str(caught.value)
    with pytest.raises(UsageError, match="--secret token"):
        ProxmoxDriver(lab.options, {})


def test_a_certificate_that_nobody_vouches_for_is_refused(lab: PveLab) -> None:
    options = ProxmoxOptions("127.0.0.1", "holdfast@pve", "backup", lab.options.port)
    with pytest.raises(HypervisorUnreachable, match=r"(?i)certificate"):
        ProxmoxDriver(options, {"token": TOKEN}).connect()


def test_a_snapshot_that_cannot_be_removed_is_told_and_tried_again(lab: PveLab) -> None:
    driver, journal = lab.driver(), MemoryJournal()
    snapshot = driver.create_snapshot(SnapshotRequest(lab.vm, "test", ("scsi0",)), journal)
    lab.pve.fail["DELETE snapshot"] = "can't lock file '/var/lock/qemu-server/lock-100.conf' - got timeout"
    with pytest.raises(SnapshotNotRemoved, match="got timeout"):
        driver.remove_snapshot(snapshot, committed=True, journal=journal)
    assert journal.open
    driver.remove_snapshot(snapshot, committed=True, journal=journal)
    assert not journal.open


def test_a_snapshot_that_somebody_removed_fails_its_check(lab: PveLab) -> None:
    driver, journal = lab.driver(), MemoryJournal()
    snapshot = driver.create_snapshot(SnapshotRequest(lab.vm, "test", ("scsi0",)), journal)
    lab.pve.vms[100].snapshots.clear()
    with pytest.raises(SnapshotFailed, match="is gone"):
        driver.check_snapshot(snapshot)


def test_a_full_storage_fails_a_restore_and_leaves_nothing(lab: PveLab) -> None:
    driver, journal, before = lab.driver(), MemoryJournal(), lab.traces()
    info = driver.vm_info(lab.vm)
    lab.pve.fail["POST content"] = "full"
    with pytest.raises(HypervisorUnreachable, match="insufficient free space"):
        driver.prepare_restore("again", info, overwrite=False, journal=journal)
    assert lab.traces() == before
    assert not journal.open


def test_an_id_that_was_given_anew_is_not_deleted(lab: PveLab) -> None:
    """An old promise to delete a replaced VM, whose id another VM has by now."""
    driver, journal = lab.driver(), MemoryJournal()
    info = driver.vm_info(lab.vm)
    target = driver.prepare_restore("web", info, overwrite=True, journal=journal)
    driver.finish_restore(target, info, journal)
    assert 100 not in lab.pve.vms
    lab.pve.add_vm(100, "somebody-else", "local-zfs", {"scsi0": MIB})
    for promise in journal.kept:
        driver.fulfil(promise.kind, promise.data)
    assert lab.pve.vms[100].config["name"] == "somebody-else"


def test_a_restored_vm_is_configured_as_it_was(lab: PveLab) -> None:
    driver, journal = lab.driver(), MemoryJournal()
    info = driver.vm_info(lab.vm)
    restored = driver.finish_restore(driver.prepare_restore("twin", info, False, journal), info, journal)
    made, was = lab.pve.vms[int(restored.vm_id)].config, lab.pve.vms[100].config
    assert (made["memory"], made["cores"], made["name"]) == ("2048", "2", "twin")
    assert made["scsi0"].endswith(",discard=on")
    assert made["smbios1"] != was["smbios1"], "two VMs are two"


def test_a_vm_that_runs_is_not_replaced(lab: PveLab) -> None:
    driver = lab.driver()
    info = driver.vm_info(lab.vm)
    lab.pve.vms[100].status = "running"
    with pytest.raises(UsageError, match="stop it before"):
        driver.prepare_restore("web", info, overwrite=True, journal=MemoryJournal())
