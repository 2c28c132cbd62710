"""A VM backed up on vSphere is restored to libvirt and to QEMU, and its guest comes up there."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from holdfast_plugins.api import VmRef
from lab import guest as lab
from lab.libvirt_guest import LibvirtGuest
from lab.libvirt_host import LibvirtHost, libvirt_daemon
from lab.vcenter import VCenter, vcenter
from lab.vsphere_house import VsphereHouse, vsphere_house
from lab.waiting import listens, wait_until

pytestmark = [pytest.mark.soak, pytest.mark.timeout(300)]

PIECE = 16 << 20


@pytest.fixture(scope="module")
def host() -> Iterator[LibvirtHost]:
    with libvirt_daemon() as host:
        yield host


@pytest.fixture(scope="module")
def center() -> Iterator[VCenter]:
    with vcenter() as made:
        yield made


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, center: VCenter, host: LibvirtHost) -> Iterator[VsphereHouse]:
    """Its only point is of the lab's guest, as a VM with two disks; the one it boots from is the first."""
    content = lab.build(lab.PLAIN).disk.read_bytes()
    vm = center.create("guest", [len(content), 1 << 20])
    for at in range(0, len(content), PIECE):
        center.write(vm, 0, [(at, content[at : at + PIECE])])
    center.write(vm, 1, [(0, b"from vSphere\n")])
    with vsphere_house(tmp_path_factory.mktemp("h"), center, paths=(str(host.shared),)) as house:
        for name in ("sockets", "restored"):
            (house.home / name).mkdir()
        house.add_server("kvm", "libvirt", **host.options())
        house.add_server("q", "qemu", sockets=f"{house.home}/sockets", restore_dir=f"{house.home}/restored")
        house.add_vsphere_job("nightly", "guest")
        house.run_job("nightly")
        yield house


def restored(house: VsphereHouse, server: str) -> None:
    house.holdfast("restore", "vm", "--vm", "guest", "--point", "latest", "--server", server, "--name", "elsewhere")


def check_up(agent: lab.Agent) -> None:
    """It has booted from the restored disk, can write to it, and has the other one."""
    agent.ping(120)
    assert agent.shell("head -c 13 /dev/vdb; echo written >/new; sync; cat /new") == "from vSphere\nwritten\n"
    assert agent.shell("grep ' / ' /proc/mounts").startswith("/dev/vda1 ")


def test_libvirt(house: VsphereHouse, host: LibvirtHost) -> None:
    restored(house, "kvm")
    domain = host.raw.lookupByName("elsewhere")
    xml = domain.XMLDesc()
    assert xml.count("bus='virtio'") >= 2
    host.raw.defineXML(xml.replace("type='kvm'", "type='qemu'", 1))  # what every machine of the tests can do
    domain.create()
    guest = LibvirtGuest.found(host, VmRef(domain.UUIDString(), "elsewhere"))
    guest.wait_up()
    check_up(guest.agent)


def test_qemu(house: VsphereHouse) -> None:
    restored(house, "q")
    folder = house.home / "restored" / "elsewhere"
    with running(folder):
        wait_until(lambda: listens(folder / "vm.qga"), "QEMU to listen for the guest's agent")
        check_up(lab.Agent(folder / "vm.qga"))


@contextmanager
def running(folder: Path) -> Iterator[None]:
    """By the start file, as it is."""
    with subprocess.Popen([folder / "start"], stdin=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()
