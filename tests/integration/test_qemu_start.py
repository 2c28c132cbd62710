"""A VM of which only the disks are known is started by QEMU, with more of them than its bus has slots."""

from __future__ import annotations

import subprocess
from pathlib import Path

from holdfast_plugins.hypervisors.qemu.restores import write_program
from holdfast_plugins.hypervisors.qemu.start_command import Renewed, start_file
from lab.guest.monitors import Monitor
from lab.processes import program
from lab.tools import require_tool
from lab.waiting import listens, wait_until

COUNT, SIZE = 34, 1 << 20
NAME = "Büro 2, neu = alt"


def test_many_disks_and_an_odd_name(tmp_path: Path) -> None:
    require_tool("qemu-system-x86_64", "qemu-system-x86")
    images = {f"scsi{number // 16}:{number % 16}": f"disk {number}.raw" for number in range(COUNT)}
    for image in images.values():
        with (tmp_path / image).open("wb") as file:
            file.truncate(SIZE)
    write_program(tmp_path / "start", start_file(None, Renewed(NAME, images, fresh=True)))
    with program([tmp_path / "start"], cwd="/", stdin=subprocess.DEVNULL) as started:
        wait_until(lambda: started.poll() is not None or listens(tmp_path / "vm.qmp"), "QEMU to listen")
        assert started.poll() is None, "QEMU has not started it"
        monitor = Monitor(tmp_path / "vm.qmp")
        assert monitor.run("query-name") == {"name": NAME}
        told = {each["inserted"]["image"]["filename"] for each in monitor.run("query-block") if "inserted" in each}
        assert told == set(images.values())
        assert (tmp_path / "vm.qga").is_socket(), "its guest agent can be reached"
        monitor.close()
