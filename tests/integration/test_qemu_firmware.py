"""VMs with UEFI: the flash of their firmware is no disk, and what the guest keeps in it comes back with the VM."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from holdfast_agent.model.disk_url import parse_disk_url
from holdfast_plugins.api import RestoreDisk, VmInfo
from holdfast_plugins.hypervisors.qemu import QemuDriver
from holdfast_plugins.testkit import MemoryJournal
from lab.guest.monitors import Monitor
from lab.qemu_backups import VM, Backups
from lab.qemu_vms import MIB, QemuVm
from lab.waiting import wait_until

CODE, VARIABLES = bytes(2 * MIB), b"Boot0001=EFI/debian/shimx64.efi".ljust(528 << 10, b"\xff")
FLASH = {
    "drive": (
        "-drive", "if=pflash,unit=0,format=raw,readonly=on,file={0}/code.fd",
        "-drive", "if=pflash,unit=1,format=raw,file={0}/vars.fd",
    ),
    "blockdev": (
        "-blockdev", "driver=raw,node-name=code,read-only=on,file.driver=file,file.filename={0}/code.fd",
        "-blockdev", "driver=file,node-name=vars,filename={0}/vars.fd",
        "-machine", "pflash0=code,pflash1=vars",
    ),
}  # fmt: skip


def vm_with_flash(folder: Path, given: str) -> QemuVm:
    (folder / "code.fd").write_bytes(CODE)
    (folder / "vars.fd").write_bytes(VARIABLES)
    return QemuVm(folder, {"root": ("raw", MIB)}, more=tuple(word.format(folder) for word in FLASH[given]))


def driver_of(vm: QemuVm) -> QemuDriver:
    (vm.folder / "restored").mkdir(exist_ok=True)
    return Backups(vm, restore_dir=str(vm.folder / "restored")).driver


def restore(driver: QemuDriver, info: VmInfo) -> None:
    """As a session does, with disks of zeros."""
    journal = MemoryJournal()
    target = driver.prepare_restore("again", info, False, journal)
    for disk in target.disks:
        _write(disk)
    driver.finish_restore(target, info, journal)
    assert not journal.open


def _write(disk: RestoreDisk) -> None:
    Path(parse_disk_url(disk.url).path).write_bytes(bytes(disk.size_bytes))


@pytest.mark.parametrize("given", FLASH)
def test_the_variables_come_back_and_the_restored_vm_uses_its_own(tmp_path: Path, given: str) -> None:
    with vm_with_flash(tmp_path, given) as vm:
        driver = driver_of(vm)
        info = driver.vm_info(VM)
        assert [disk.disk_id for disk in info.disks] == ["root"] and info.left_out == ()
        Backups(vm).back_up()
    assert driver.vm_info(VM).disks == info.disks, "off, it is as it was seen"
    restore(driver, info)
    folder = tmp_path / "restored" / "again"
    with subprocess.Popen([folder / "start"], cwd="/", stdout=subprocess.DEVNULL) as started:
        try:
            wait_until((folder / "vm.qmp").exists, "the monitor of the restored VM")
            monitor = Monitor(folder / "lab.qmp")
            told = {each["qdev"]: each["inserted"]["image"]["filename"] for each in monitor.run("query-block")}
            assert told["/machine/system.flash1"] == "firmware-0.fd"
            assert told["/machine/system.flash0"] == f"{tmp_path}/code.fd", "the code is the host's"
            monitor.close()
        finally:
            started.kill()
    assert (folder / "firmware-0.fd").read_bytes() == VARIABLES


def test_variables_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    with vm_with_flash(tmp_path, "drive") as vm:
        (tmp_path / "vars.fd").unlink()
        (told,) = driver_of(vm).vm_info(VM).left_out
        assert "UEFI firmware" in told and "No such file" in told
