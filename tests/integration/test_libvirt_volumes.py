"""Disks that a VM's definition does not name by files: volumes of storage pools, and such as come over a network."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast_agent.errors import DiskUnsupported
from holdfast_plugins.api import SnapshotRequest, VmRef
from holdfast_plugins.hypervisors.libvirt import LibvirtDriver, LibvirtSnapshotOptions, Method
from holdfast_plugins.testkit import MemoryJournal
from lab.frozen_disks import read_whole
from lab.libvirt_host import LibvirtHost, libvirt_daemon
from lab.processes import program
from lab.waiting import listens, wait_until

MIB = 1 << 20
DISKS = {"vda": ("old", "qcow2", "0.10"), "vdb": ("new", "qcow2", "1.1"), "vdc": ("plain", "raw", "")}
"""By target the volume, its format, and the version of qcow2; the first is what pools make unless told otherwise."""


@pytest.fixture(scope="module")
def host() -> Iterator[LibvirtHost]:
    with libvirt_daemon() as host:
        yield host


@pytest.fixture
def domain(host: LibvirtHost) -> Iterator[Any]:
    """On two pools, shut off; each disk holds what ``content`` says."""
    folders = [host.shared / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
        target = f"<target><path>{folder}</path></target>"
        host.raw.storagePoolCreateXML(f"<pool type='dir'><name>{folder.name}</name>{target}</pool>", 0)
    disks = ""
    for number, (target, (name, image_format, version)) in enumerate(DISKS.items()):
        folder = folders[number % 2]
        (folder / "raw").write_bytes(content(target))
        options = ["-o", f"compat={version}"] if version else []
        command = ["qemu-img", "convert", "-f", "raw", "-O", image_format, *options, folder / "raw", folder / name]
        subprocess.run(command, check=True)
        (folder / "raw").unlink()
        disks += f"""<disk type='volume' device='disk'><driver name='qemu' type='{image_format}'/>
            <source pool='{folder.name}' volume='{name}'/><target dev='{target}' bus='virtio'/></disk>"""
        host.raw.storagePoolLookupByName(folder.name).refresh()
    yield host.raw.defineXML(
        f"""<domain type='qemu'><name>pools</name><memory unit='MiB'>64</memory>
        <os><type arch='x86_64' machine='q35'>hvm</type></os><devices>
        <emulator>{shutil.which("qemu-system-x86_64")}</emulator>{disks}
        <controller type='usb' model='none'/><memballoon model='none'/></devices></domain>"""
    )
    host.clear()
    for folder in folders:
        host.raw.storagePoolLookupByName(folder.name).destroy()
        shutil.rmtree(folder)


def content(target: str) -> bytes:
    return random.Random(target).randbytes(MIB)


@pytest.fixture
def driver(host: LibvirtHost) -> Iterator[LibvirtDriver]:
    with host.driver() as driver:
        yield driver


def backed_up(driver: LibvirtDriver, host: LibvirtHost, method: Method = Method.AUTO) -> tuple[set[str], str]:
    """The disks that are tracked from now on, and what is said of the snapshot. Each is read as it is."""
    (vm,) = driver.list_vms()
    info = driver.vm_info(vm)
    assert [(disk.disk_id, disk.size_bytes, Path(disk.datastore).name) for disk in info.disks] == [
        ("vda", MIB, "one"), ("vdb", MIB, "two"), ("vdc", MIB, "one")
    ]  # fmt: skip
    journal = MemoryJournal()
    request = SnapshotRequest(vm, "test", tuple(DISKS), LibvirtSnapshotOptions(method=method), series="one")
    snapshot = driver.create_snapshot(request, journal)
    for disk in snapshot.disks:
        assert read_whole(disk.urls[0], host.shared.parent)[:MIB] == content(disk.disk_id)
    driver.check_snapshot(snapshot)
    driver.remove_snapshot(snapshot, True, journal)
    assert not journal.open
    return {disk.disk_id for disk in snapshot.disks if disk.change_id}, snapshot.note


def test_running_ones_are_backed_up_and_an_image_that_keeps_no_bitmap_costs_only_its_own_tracking(
    host: LibvirtHost, driver: LibvirtDriver, domain: Any
) -> None:
    domain.createWithFlags(1)  # paused
    for _ in range(2):
        tracked, note = backed_up(driver, host)
        assert tracked == {"vdb"}
        assert "vda keeps no dirty bitmaps (qcow2 of version 2" in note
    assert len(domain.listAllCheckpoints()) == 1
    assert not list(host.scratch.iterdir())


def test_running_ones_are_frozen_by_overlays(host: LibvirtHost, driver: LibvirtDriver, domain: Any) -> None:
    domain.createWithFlags(1)
    tracked, note = backed_up(driver, host, Method.SNAPSHOT)
    assert (tracked, note) == (set(), "overlays")
    assert not list(host.scratch.iterdir())


def test_those_of_a_vm_that_is_off_are_read_where_they_lie(
    host: LibvirtHost, driver: LibvirtDriver, domain: Any
) -> None:
    backed_up(driver, host)
    host.raw.storagePoolLookupByName("two").destroy()
    with pytest.raises(DiskUnsupported, match="virsh pool-start two"):
        driver.vm_info(VmRef(domain.UUIDString(), "pools"))
    host.raw.storagePoolCreateXML(
        f"<pool type='dir'><name>two</name><target><path>{host.shared}/two</path></target></pool>", 0
    )


def test_one_of_a_network_is_read_while_its_vm_runs_and_told_while_it_does_not(
    host: LibvirtHost, driver: LibvirtDriver, tmp_path: Path
) -> None:
    (tmp_path / "raw").write_bytes(content("vda"))
    socket = host.folder / "nbd.sock"
    command = [
        "qemu-nbd",
        "--persistent",
        "--socket",
        socket,
        "--format",
        "raw",
        "--export-name",
        "d",
        tmp_path / "raw",
    ]
    with program(command):
        wait_until(lambda: listens(socket), "the daemon to listen")
        domain = host.raw.defineXML(
            f"""<domain type='qemu'><name>net</name><memory unit='MiB'>64</memory>
            <os><type arch='x86_64' machine='q35'>hvm</type></os><devices>
            <emulator>{shutil.which("qemu-system-x86_64")}</emulator>
            <disk type='network' device='disk'><driver name='qemu' type='raw'/><source protocol='nbd' name='d'>
            <host transport='unix' socket='{socket}'/></source><target dev='vda' bus='virtio'/></disk>
            <controller type='usb' model='none'/><memballoon model='none'/></devices></domain>"""
        )
        domain.createWithFlags(1)
        (vm,), journal = driver.list_vms(), MemoryJournal()
        assert [disk.size_bytes for disk in driver.vm_info(vm).disks] == [MIB]
        snapshot = driver.create_snapshot(SnapshotRequest(vm, "test", ("vda",)), journal)
        assert read_whole(snapshot.disks[0].urls[0], host.shared.parent) == content("vda")
        driver.remove_snapshot(snapshot, True, journal)
        assert not journal.open and not list(host.scratch.iterdir())
        domain.destroy()
        with pytest.raises(DiskUnsupported, match="while the VM is off"):
            driver.vm_info(vm)
    host.clear()
