"""The variables of UEFI firmware, in which a guest keeps where its boot loader lies: in the restore point, or told."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast_plugins.api import VmInfo
from holdfast_plugins.hypervisors.libvirt import LibvirtDriver
from holdfast_plugins.hypervisors.libvirt.inventory import firmware_of
from holdfast_plugins.testkit import MemoryJournal
from lab.libvirt_host import LibvirtHost, libvirt_daemon

VARIABLES = b"boot0001=EFI/debian/shimx64.efi"


@pytest.fixture(scope="module")
def host() -> Iterator[LibvirtHost]:
    with libvirt_daemon() as host:
        yield host


@pytest.fixture
def driver(host: LibvirtHost) -> Iterator[LibvirtDriver]:
    with host.driver() as driver:
        yield driver
        host.clear()


def domain_with(host: LibvirtHost, variables: Path) -> Any:
    """Shut off, with UEFI firmware that nobody starts and no disks."""
    return host.raw.defineXML(
        f"""<domain type='qemu'><name>uefi</name><memory unit='MiB'>64</memory>
        <os><type arch='x86_64' machine='q35'>hvm</type><loader readonly='yes' type='pflash'>/code.fd</loader>
        <nvram>{variables}</nvram></os><features><acpi/></features><devices>
        <emulator>{shutil.which("qemu-system-x86_64")}</emulator>
        <controller type='usb' model='none'/><memballoon model='none'/></devices></domain>"""
    )


def restored(host: LibvirtHost, driver: LibvirtDriver, info: VmInfo) -> tuple[str, tuple[str, ...]]:
    """The definition of its restored copy, and what the session would tell."""
    journal = MemoryJournal()
    target = driver.prepare_restore("uefi-new", info, False, journal)
    driver.finish_restore(target, info, journal)
    domain = host.raw.lookupByName("uefi-new")
    xml = domain.XMLDesc(0)
    domain.undefineFlags(4)
    return xml, target.notes


def test_they_are_in_the_point_and_come_back_with_the_vm(host: LibvirtHost, driver: LibvirtDriver) -> None:
    variables = host.shared / "vars.fd"
    variables.write_bytes(VARIABLES)
    domain_with(host, variables)
    (vm,) = driver.list_vms()
    info = driver.vm_info(vm)
    assert info.left_out == ()
    xml, notes = restored(host, driver, info)
    assert notes == () and str(variables) not in xml and ".nvram</nvram>" in xml


def test_where_they_cannot_be_read_backup_and_restore_say_so(host: LibvirtHost, driver: LibvirtDriver) -> None:
    variables = host.shared / "vars.fd"
    variables.unlink(missing_ok=True)
    variables.mkdir()
    domain_with(host, variables)
    (vm,) = driver.list_vms()
    info = driver.vm_info(vm)
    (told,) = info.left_out
    assert "UEFI firmware" in told and "Is a directory" in told
    _, (note,) = restored(host, driver, info)
    assert "begins with new variables" in note
    variables.rmdir()


def test_they_are_found_however_the_definition_names_them(tmp_path: Path) -> None:
    (tmp_path / "vars").write_bytes(VARIABLES)
    source = f"<domain><os><nvram type='file'><source file='{tmp_path}/vars'/></nvram></os></domain>"
    content, missed = firmware_of(source, local=True)
    assert content and not missed
    assert firmware_of(source, local=False) == firmware_of("<domain><os><nvram/></os></domain>", True) == ("", "")
    block = "<domain><os><nvram type='block'><source dev='/dev/vg/vars'/></nvram></os></domain>"
    assert "UEFI firmware" in firmware_of(block, local=True)[1]
