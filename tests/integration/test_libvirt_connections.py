"""libvirt over its network, embedded in a process, and with a daemon that dies."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from holdfast_agent.disks.open import open_disk
from holdfast_agent.errors import (
    DiskDenied,
    DiskServerUntrusted,
    HypervisorUnreachable,
    SnapshotFailed,
    SnapshotNotRemoved,
)
from holdfast_agent.model.disk_url import parse_disk_url
from holdfast_plugins.api import SnapshotRequest, VmRef
from holdfast_plugins.hypervisors.libvirt import LibvirtDriver, LibvirtOptions, LibvirtSnapshotOptions, Method
from holdfast_plugins.testkit import MemoryJournal
from lab.disks import host_for
from lab.frozen_disks import read_whole
from lab.libvirt_backups import DrivenBackups
from lab.libvirt_host import LibvirtHost, LibvirtVm, libvirt_daemon, require_libvirt
from lab.ports import free_port

MIB = 1 << 20
EMBEDDED = """
import sys
from pathlib import Path
from random import Random
from holdfast_plugins.hypervisors.libvirt.binding import load_binding
from lab.libvirt_backups import DrivenBackups
from lab.libvirt_host import QEMU_CONF, LibvirtHost

load_binding("the process")  # libvirt's events begin before the first connection
folder = Path(sys.argv[1])
(folder / "root" / "etc").mkdir(parents=True)
(folder / "root" / "etc" / "qemu.conf").write_text(QEMU_CONF)
host = LibvirtHost(folder, f"qemu:///embed?root={folder}/root")
host.logs = folder / "root" / "log" / "qemu"
vm = host.vm("guest", {"vda": ("qcow2", 1 << 20), "vdb": ("qcow2", 1 << 20)})
try:
    vm.start()
    backups = DrivenBackups(vm)
    for number in range(4):
        vm.scribble(Random(number), 5)
        print(backups.run(), flush=True)
finally:
    host.clear()
"""


@pytest.fixture(scope="module")
def host() -> Iterator[LibvirtHost]:
    with libvirt_daemon() as made:
        yield made


@pytest.fixture
def vm(host: LibvirtHost) -> Iterator[LibvirtVm]:
    yield host.vm("guest", {"vda": ("qcow2", MIB), "vdb": ("qcow2", MIB)}).start()
    host.clear()


def test_a_host_that_is_reached_over_the_network(host: LibvirtHost, vm: LibvirtVm) -> None:
    """Its files are out of reach: disks come over TCP, restores go by the agent there, what is off is refused."""
    network = {"uri": host.remote_uri, "nbd_host": "127.0.0.1", "nbd_tls": False, "nbd_ports": str(free_port())}
    backups = DrivenBackups(vm, **network)
    backups.run()
    vm.scribble(Random(1), 5)
    assert not any(backups.run().values())
    info, journal = backups.driver.vm_info(VmRef(vm.uuid, vm.name)), MemoryJournal()
    target = backups.driver.prepare_restore("new", info, overwrite=False, journal=journal)
    for disk in target.disks:
        url = parse_disk_url(disk.url)
        assert url.scheme == "file" and disk.create
        Path(url.path).write_bytes(bytes(disk.size_bytes))
    restored = backups.driver.finish_restore(target, info, journal)
    assert restored in backups.driver.list_vms() and not journal.open
    vm.stop()
    assert all(reason for reason in backups.run().values()), "off, it is read by the agent there, and compared"
    backups.close()


def test_overlays_on_another_host_are_brought_down_and_removed_by_its_libvirt(host: LibvirtHost) -> None:
    """The agent there reads the disks. Those of a VM that was shut off meanwhile wait until it runs again."""
    vm = host.vm("guest", {"vda": ("raw", MIB), "vdb": ("qcow2", MIB)}).start()
    backups, journal = DrivenBackups(vm, uri=host.remote_uri), MemoryJournal()
    driver, by_overlays = backups.driver, LibvirtSnapshotOptions(method=Method.SNAPSHOT)
    request = SnapshotRequest(VmRef(vm.uuid, vm.name), "test", ("vda", "vdb"), by_overlays, series="one")
    for number, meanwhile_off in enumerate((False, True)):
        vm.scribble(Random(number), 5)
        frozen = {target: bytes(content) for target, content in vm.content.items()}
        snapshot = driver.create_snapshot(request, journal)
        vm.scribble(Random(number + 10), 5)
        for disk in snapshot.disks:
            assert read_whole(disk.urls[0], host.folder) == frozen[disk.disk_id]
        driver.check_snapshot(snapshot)
        if meanwhile_off:
            vm.stop()
            with pytest.raises(SnapshotNotRemoved, match="once the VM runs again"):
                driver.remove_snapshot(snapshot, True, journal)
            vm.start()
            vm.scribble(Random(20), 5)
        driver.remove_snapshot(snapshot, True, journal)
        assert not journal.open and not list(host.scratch.iterdir())
        assert ".overlay" not in vm.domain.XMLDesc() + vm.domain.XMLDesc(2)
        assert all(vm.read_image(target) == content for target, content in vm.content.items())
    backups.close()
    host.clear()


def test_disks_come_over_tls_where_the_host_has_certificates(host: LibvirtHost, vm: LibvirtVm) -> None:
    port = free_port()
    backups = DrivenBackups(vm, nbd_host="localhost", nbd_ports=str(port))
    vm.scribble(Random(1), 5)
    backups.run()
    vm.scribble(Random(2), 5)
    assert not any(backups.run().values()), "the bitmap came over TLS, too"
    journal = MemoryJournal()
    request = SnapshotRequest(VmRef(vm.uuid, vm.name), "test", ("vda",), series="one")
    snapshot = backups.driver.create_snapshot(request, journal)
    (url,) = snapshot.disks[0].urls
    assert url.startswith(f"nbds://localhost:{port}?")
    with pytest.raises(DiskServerUntrusted):
        open_disk(url, host_for(host.shared, f"nbds://localhost:{port}"))
    plain = url.replace("nbds:", "nbd:")
    with pytest.raises(DiskDenied, match="wants TLS"):
        open_disk(plain, host_for(host.shared, f"nbd://localhost:{port}"))
    backups.driver.remove_snapshot(snapshot, False, journal)
    backups.close()


def test_a_vm_on_another_host_that_is_started_while_it_is_read_makes_no_point(host: LibvirtHost, vm: LibvirtVm) -> None:
    """Even if it is off again when somebody looks."""
    vm.stop()
    backups, journal = DrivenBackups(vm, uri=host.remote_uri), MemoryJournal()
    driver, request = backups.driver, SnapshotRequest(VmRef(vm.uuid, vm.name), "test", ("vda", "vdb"), series="one")
    for calamity, reason in ((vm.start, "was started"), (host.restart_daemon, "connection was lost")):
        undisturbed = driver.create_snapshot(request, journal)
        driver.check_snapshot(undisturbed)
        driver.remove_snapshot(undisturbed, True, journal)
        snapshot = driver.create_snapshot(request, journal)
        calamity()
        if vm.domain.isActive():
            vm.stop()
        with pytest.raises(SnapshotFailed, match=reason):
            driver.check_snapshot(snapshot)
        driver.remove_snapshot(snapshot, False, journal)
    assert not journal.open
    backups.close()


def test_a_daemon_that_dies_in_mid_backup_costs_that_backup_and_leaves_nothing(
    host: LibvirtHost, vm: LibvirtVm
) -> None:
    backups = DrivenBackups(vm)
    backups.run()
    vm.scribble(Random(1), 5)
    driver, journal = backups.driver, MemoryJournal()
    request = SnapshotRequest(VmRef(vm.uuid, vm.name), "test", ("vda", "vdb"), series="one")
    snapshot = driver.create_snapshot(request, journal)
    host.restart_daemon()
    assert driver.list_vms() == [VmRef(vm.uuid, vm.name)], "the connection is made anew"
    driver.remove_snapshot(snapshot, False, journal)
    assert not journal.open and not list(host.scratch.iterdir())
    assert not vm.monitor("query-jobs") and not vm.monitor("query-block-exports")
    assert len(vm.checkpoints()) == 1
    vm.scribble(Random(2), 5)
    assert not any(backups.run().values()), "and tracking has held"
    backups.close()


def test_a_driver_embedded_in_the_process(tmp_path: Path) -> None:
    require_libvirt()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with tempfile.TemporaryDirectory(prefix="hfe") as folder:
        command = [sys.executable, "-c", EMBEDDED, folder]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    first, *others = done.stdout.splitlines()
    assert first == "{'vda': 'there is no base', 'vdb': 'there is no base'}"
    assert others == ["{'vda': '', 'vdb': ''}"] * 3


def test_a_server_that_does_not_answer_is_told() -> None:
    require_libvirt()
    driver = LibvirtDriver(LibvirtOptions(uri="qemu+unix:///system?socket=/nowhere"), {})
    with pytest.raises(HypervisorUnreachable, match="/nowhere"):
        driver.connect()
    driver.close()


def test_an_address_that_is_taken_is_passed_over_or_told(host: LibvirtHost, vm: LibvirtVm) -> None:
    port = free_port()
    other = host.vm("other", {"vda": ("qcow2", MIB), "vdb": ("qcow2", MIB)}).start()
    ports = {"nbd_host": "127.0.0.1", "nbd_tls": False, "nbd_ports": str(port)}
    first, second = DrivenBackups(vm, **ports), DrivenBackups(other, **ports)
    journal = MemoryJournal()
    request = SnapshotRequest(VmRef(vm.uuid, vm.name), "test", ("vda",), series="one")
    snapshot = first.driver.create_snapshot(request, journal)
    with pytest.raises(SnapshotFailed, match="in use"):
        second.run()
    first.driver.remove_snapshot(snapshot, False, journal)
    second.run()
    first.close()
    second.close()
