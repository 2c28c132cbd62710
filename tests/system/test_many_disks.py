"""More disks than a bus has slots, on VMs with odd names: backed up, restored, and started from their points."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

import pytest

from holdfast_plugins.hypervisors.libvirt.definition import disks_of
from lab.guest.monitors import Monitor
from lab.installation import Installation, installed
from lab.instants import left_over, listed
from lab.libvirt_host import LibvirtHost, libvirt_daemon
from lab.processes import program
from lab.qemu_vms import QemuVm
from lab.waiting import listens, wait_until

MIB = 1 << 20
COUNT = 34
"""Disks. q35's own bus has room for 28."""
ODD = "Büro 2, neu = alt & 'ß'"
pytestmark = [pytest.mark.soak, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def host() -> Iterator[LibvirtHost]:
    with libvirt_daemon() as host:
        yield host


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, host: LibvirtHost) -> Iterator[Installation]:
    """Servers ``kvm`` and ``q``, of libvirt and of QEMU alone, to which either's points are restored."""
    with installed(tmp_path_factory.mktemp("h"), slots=4) as house:
        text = house.agent_config.read_text()
        house.agent_config.write_text(
            text.replace(f'paths = ["{house.home}"]', f'paths = ["{house.home}", "{host.shared}"]')
        )
        house.stop_agent()
        house.start_agent()
        for name in ("q", "q/sockets", "q/restored"):
            (house.home / name).mkdir()
        house.add_server("kvm", "libvirt", **host.options())
        places = {name: f"{house.home}/q/{name}" for name in ("sockets", "restored")}
        scratch = f"{house.home}/q/sockets/scratch"
        house.add_server("q", "qemu", sockets=places["sockets"], restore_dir=places["restored"], scratch_dir=scratch)
        house.add_repository("main", encrypted=True)
        yield house


def backed_up(house: Installation, server: str, vm: str) -> None:
    """Once in full, and once by what the bitmaps of all disks tell."""
    house.holdfast("job", "create", server, "--server", server, "--include", vm, "--repository", "main")
    for mode in ("allocation", "cbt"):
        report = house.run_job(server)
        assert {disk["mode"] for disk in report["disks"]} == {mode} and len(report["disks"]) == COUNT


def same(one: Path, other: Path) -> bool:
    return subprocess.run(["qemu-img", "compare", "-U", one, other], stdout=subprocess.DEVNULL).returncode == 0


def fill(image: Path, number: int) -> None:
    """Different for each disk, so that none can take another's place."""
    command = ["qemu-io", "-f", "qcow2", "-c", f"write -P {number + 1} {number * 4096} 64k", image]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def test_of_libvirt_on_two_pools_with_an_empty_drive(house: Installation, host: LibvirtHost) -> None:
    images = define(host)
    domain = host.raw.lookupByName(ODD)
    domain.createWithFlags(1)  # paused
    backed_up(house, "kvm", ODD)
    domain.destroy()
    house.holdfast("restore", "vm", "--vm", ODD, "--point", "latest", "--server", "kvm", "--name", f"{ODD} 2")
    restored = host.raw.lookupByName(f"{ODD} 2")
    restored.createWithFlags(1)
    found = {disk.target: disk.top.place for disk in disks_of(restored.XMLDesc())}
    assert "sdzz" in restored.XMLDesc(), "the drive is there, too"
    assert found.keys() == images.keys()
    assert all(same(images[target], Path(place)) for target, place in found.items())
    restored.destroy()
    started = house.holdfast("instant", "start", "--vm", ODD, "--point", "latest", "--server", "q", "--name", ODD)
    monitor = Monitor(house.home / "q/restored" / ODD / "vm.qmp")
    disks = [each for each in monitor.run("query-block") if each["device"] == "" and "inserted" in each]
    monitor.close()
    assert len(disks) == COUNT, "a plain VM has them all"
    stopped(house, started)


def define(host: LibvirtHost) -> dict[str, Path]:
    """The VM, with disks on two virtio-scsi controllers and in two folders; its images by their targets."""
    (host.shared / "second").mkdir()
    images, xml = {}, ""
    for number in range(COUNT):
        target = f"sd{'abcdefgh'[number // 26]}{'abcdefghijklmnopqrstuvwxyz'[number % 26]}"
        image = (host.images, host.shared / "second")[number % 2] / f"disk {number}.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, str(MIB)], check=True)
        fill(image, number)
        images[target] = image
        xml += f"""<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{image}'/>
            <target dev='{target}' bus='scsi'/>
            <address type='drive' controller='{number % 2}' unit='{number // 2}'/></disk>"""
    host.raw.defineXML(
        f"""<domain type='qemu'><name>{escape(ODD)}</name><memory unit='MiB'>64</memory>
        <os><type arch='x86_64' machine='q35'>hvm</type></os><devices>
        <emulator>{shutil.which("qemu-system-x86_64")}</emulator>{xml}
        <controller type='scsi' index='0' model='virtio-scsi'/><controller type='scsi' index='1' model='virtio-scsi'/>
        <disk type='file' device='cdrom'><target dev='sdzz' bus='sata'/><readonly/></disk>
        <controller type='usb' model='none'/><memballoon model='none'/></devices></domain>"""
    )
    return images


def test_of_qemu(house: Installation, host: LibvirtHost) -> None:
    disks = {f"disk{number}": ("qcow2", MIB) for number in range(COUNT)}
    with QemuVm(house.home / "q/sockets", disks, scsi=True) as vm:
        for number, disk in enumerate(disks):
            vm.write(disk, number * 4096, bytes([number + 1]) * 65536)
        backed_up(house, "q", "vm")
        contents = {disk: vm.content(disk) for disk in disks}
    house.holdfast("restore", "vm", "--vm", "vm", "--point", "latest", "--server", "q", "--name", f"{ODD} 3")
    folder = house.home / "q/restored" / f"{ODD} 3"
    assert {path.stem: path.read_bytes() for path in folder.glob("*.raw")} == contents
    with program([folder / "start"]) as process:
        wait_until(lambda: listens(folder / "vm.qmp"), "QEMU to listen")
        monitor = Monitor(folder / "vm.qmp")
        assert len([each for each in monitor.run("query-block") if "inserted" in each]) == COUNT
        monitor.run("quit")
        monitor.close()
        assert process.wait(60) == 0
    started = house.holdfast(
        "instant", "start", "--vm", "vm", "--point", "latest", "--server", "kvm", "--name", ODD[:4]
    )
    domain = host.raw.lookupByName(ODD[:4])
    assert domain.isActive() and domain.XMLDesc().count("protocol='nbd'") == COUNT
    stopped(house, started)


def stopped(house: Installation, started: dict[str, dict[str, object]]) -> None:
    report = house.holdfast("instant", "stop", str(started["instant"]["session"]))
    assert report["result"] == "success"
    assert (listed(house), left_over(house)) == ([], [])
