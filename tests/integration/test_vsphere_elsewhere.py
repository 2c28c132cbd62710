"""A real guest that was a VM of vSphere becomes one of libvirt, and one of QEMU, and it is told what it needs there."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast_agent.disks.open import open_target
from holdfast_plugins.api import HypervisorDriver, RestoreTarget, VmInfo, VmRef
from holdfast_plugins.hypervisors.qemu import QemuDriver, QemuOptions
from holdfast_plugins.testkit import MemoryJournal
from lab import guest as lab
from lab.contents import assert_same
from lab.disks import host_for
from lab.libvirt_host import libvirt_daemon
from lab.vcenter import VCenter, vcenter
from lab.vsphere_backups import connected

pytestmark = pytest.mark.timeout(240)  # the first test of a fresh checkout builds the guest

PIECE = 16 << 20


@pytest.fixture(scope="module")
def content() -> bytes:
    return lab.build(lab.PLAIN).disk.read_bytes()


@pytest.fixture(scope="module")
def center() -> Iterator[VCenter]:
    with vcenter() as made:
        yield made


@pytest.fixture(scope="module")
def info(center: VCenter, content: bytes) -> VmInfo:
    """What a restore point keeps of the guest on vSphere."""
    vm = center.create("guest", [len(content)])
    for at in range(0, len(content), PIECE):
        center.write(vm, 0, [(at, content[at : at + PIECE])])
    assert_same(center.content(vm, 0), content)
    with connected(center) as driver:
        return driver.vm_info(next(each for each in driver.list_vms() if each.name == "guest"))


def restored(driver: HypervisorDriver, info: VmInfo, content: bytes, folder: Path) -> tuple[RestoreTarget, VmRef]:
    """As a session does it; what it is to say is in the target."""
    journal = MemoryJournal()
    target = driver.prepare_restore("guest", info, False, journal)
    (disk,) = target.disks
    writer = open_target(disk.url, host_for(folder), len(content), create=disk.create, overwrite=False)
    for at in range(0, len(content), PIECE):
        writer.write(at, content[at : at + PIECE])
    writer.finish()
    made = driver.finish_restore(target, info, journal)
    assert not journal.open
    return target, made


def test_it_is_defined_on_libvirt(info: VmInfo, content: bytes, tmp_path: Path) -> None:
    with libvirt_daemon() as host, host.driver() as driver:
        target, made = restored(driver, info, content, host.folder)
        assert "virtio_blk" in target.notes[0] and "OVMF" in target.notes[0]
        assert "bus='virtio'" in host.raw.lookupByName(made.name).XMLDesc(0)
        (image,) = host.images.glob("*.qcow2")
        subprocess.run(["qemu-img", "convert", "-O", "raw", image, tmp_path / "found"], check=True)
        assert_same((tmp_path / "found").read_bytes(), content)


def test_it_gets_a_file_to_start_it_with_on_qemu(info: VmInfo, content: bytes, tmp_path: Path) -> None:
    driver = QemuDriver(QemuOptions(sockets=str(tmp_path), scratch_dir=str(tmp_path), restore_dir=str(tmp_path)), {})
    target, made = restored(driver, info, content, tmp_path)
    assert "virtio_blk" in target.notes[0] and "OVMF" in target.notes[0]
    folder = tmp_path / made.name
    (image,) = (path for path in folder.iterdir() if path.name != "start")
    assert_same(image.read_bytes(), content)
    assert "virtio-blk-pci" in (folder / "start").read_text()


def test_a_guest_of_this_kind_needs_no_words(center: VCenter, info: VmInfo) -> None:
    journal = MemoryJournal()
    with connected(center) as driver:
        for config, notes in ((info.config, 0), (b"<domain/>", 1)):
            foreign = VmInfo(info.ref, info.disks, config=config)
            target = driver.prepare_restore("other", foreign, False, journal)
            assert len(target.notes) == notes
            driver.abandon_restore(target, journal)
