"""The lab's own guest is what the tests of running guests take it for."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from lab import guest as lab
from lab.processes import alive

pytestmark = pytest.mark.timeout(240)  # the first test of a fresh checkout builds the guest

TEXT = bytes(range(256)) * 20_000


def test_several_disks_of_both_kinds_are_mounted_and_a_killed_guest_leaves_nothing(tmp_path: Path) -> None:
    saved = lab.saved(lab.PLAIN, ("virtio-blk", "virtio-blk", "virtio-scsi"))
    with saved.resume(tmp_path, "raw", "qcow2") as guest:
        devices = guest.agent.shell("cat /proc/mounts | grep ^/dev/").split("\n")
        assert [line.split()[:2] for line in devices if line] == [
            ["/dev/vda1", "/"], ["/dev/vdb", "/mnt/1"], ["/dev/sda", "/mnt/2"],
        ]  # fmt: skip
        guest.agent.write("/mnt/2/text", TEXT)
        assert hash(guest.agent.read("/mnt/2/text")) == hash(TEXT)
        with pytest.raises(AssertionError, match="3: said"):
            guest.agent.shell("echo said; exit 3")
        assert abs(int(guest.agent.shell("date +%s")) - time.time()) < 3600
    assert not alive(guest.process.pid)


def test_a_guest_boots_from_its_own_disk_and_switches_off_in_order(tmp_path: Path) -> None:
    image = lab.build(lab.PLAIN)
    disk = lab.Disk(tmp_path / "disk.qcow2", "qcow2", "virtio-scsi")
    lab.copy_disk(image.disk, disk)
    with lab.start(image, tmp_path, [disk], boot="disk") as guest:
        guest.wait_up()
        assert "BOOT_IMAGE=/boot/kernel" in guest.agent.shell("cat /proc/cmdline")
        guest.power_off()
        assert "Requesting system poweroff" in guest.serial
        assert guest.process.returncode == 0
