"""A QEMU with disks and without a guest in it: what a guest would write, the test writes through the same devices."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Hashable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from holdfast_plugins.hypervisors.qemu import Fleecing
from holdfast_plugins.hypervisors.tracking_names import parse_tracking_name
from lab.guest.monitors import Monitor
from lab.tools import require_tool

MIB = 1 << 20
GRAIN = 64 << 10
_START_S = 60.0


class QemuVm:
    """Runs while it is entered. ``disks`` by id: format and size. ``monitor``, ``fleecing``: what the plugin is told.

    ``objects``: more of QEMU's objects, as its command line takes them; ``more``: of its arguments. ``scsi``: the disks
    are on one controller.

    Monitor and scratch directory lie in ``folder``. The images are ``ID.FORMAT``; the node is named after the disk.
    """

    def __init__(
        self,
        folder: Path,
        disks: dict[str, tuple[str, int]],
        *,
        io_thread: bool = False,
        tcp: int = 0,
        fleecing: Fleecing = Fleecing.AUTO,
        objects: tuple[str, ...] = (),
        scsi: bool = False,
        more: tuple[str, ...] = (),
    ) -> None:
        self.folder, self.disks = folder, disks
        self.scratch = folder / "scratch"
        self.scratch.mkdir(parents=True, exist_ok=True)
        self.monitor = f"tcp:127.0.0.1:{tcp}" if tcp else f"unix:{folder / 'vm.qmp'}"
        self._io_thread = io_thread
        self.fleecing = fleecing
        self._objects, self._scsi, self._more = objects, scsi, more
        self.process: subprocess.Popen[bytes] | None = None
        for disk, (kind, size_bytes) in disks.items():
            if not self.image(disk).exists():
                self.make_image(disk, kind, size_bytes)

    def image(self, disk: str) -> Path:
        return self.folder / f"{disk}.{self.disks[disk][0]}"

    def make_image(self, disk: str, kind: str, size_bytes: int) -> None:
        """A new, empty image in the place of the old one."""
        tool = require_tool("qemu-img", "qemu-utils")
        subprocess.run([tool, "create", "-q", "-f", kind, self.image(disk), str(size_bytes)], check=True)

    def __enter__(self) -> QemuVm:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Power on."""
        program = require_tool("qemu-system-x86_64", "qemu-system-x86")
        command = [require_tool("setpriv", "util-linux"), "--pdeathsig", "KILL"]
        command += [
            program,
            "-nodefaults",
            "-no-user-config",
            "-machine",
            "q35",
            "-accel",
            "tcg,thread=multi",
            "-m",
            "16",
        ]
        command += ["-display", "none", "-vga", "none", "-S", "-name", "vm"]
        for each in self._objects:
            command += ["-object", each]
        thread = ""
        if self._io_thread:
            command += ["-object", "iothread,id=io"]
            thread = ",iothread=io"
        command += self._more
        lab = self.folder / "lab.qmp"
        at_once = ",nodelay=on" if self.monitor.startswith("tcp:") else ""
        command += ["-qmp", f"{self.monitor},server=on,wait=off{at_once}", "-qmp", f"unix:{lab},server=on,wait=off"]
        command += ["-device", "virtio-scsi-pci,id=scsi"] if self._scsi else []
        model = "scsi-hd" if self._scsi else "virtio-blk-pci"
        for disk, (kind, _) in self.disks.items():
            file = f"file.driver=file,file.filename={self.image(disk)},file.discard=unmap"
            command += ["-blockdev", f"driver={kind},node-name={disk},discard=unmap,{file}"]
            command += ["-device", f"{model},drive={disk},id={disk}{thread}"]
        lab.unlink(missing_ok=True)
        # qemu-io tells of failed requests on QEMU's standard output, at once only if that is a terminal.
        self._told, terminal = os.openpty()
        os.set_blocking(self._told, False)
        with (self.folder / "qemu.log").open("wb") as log:
            self.process = subprocess.Popen(command, stdout=terminal, stderr=log)
        os.close(terminal)
        deadline = time.monotonic() + _START_S
        while True:
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                self._ended(self.process)
                raise AssertionError("QEMU did not start")
            with contextlib.suppress(OSError, ValueError):
                self.lab = Monitor(lab)
                return
            time.sleep(0.005)

    def stop(self) -> None:
        """An orderly end, at which persistent bitmaps are written to their images."""
        if self.process is not None:
            self.lab.close()
            self.process.terminate()
            self._ended(self.process)

    def kill(self) -> None:
        """SIGKILL: nothing is written any more."""
        assert self.process is not None
        self.lab.close()
        self.process.kill()
        self._ended(self.process)

    def _ended(self, process: subprocess.Popen[bytes]) -> None:
        process.wait(_START_S)
        os.close(self._told)
        self.process = None

    # --- what a guest does -----------------------------------------------------------------------------------------

    def io(self, disk: str, *commands: str) -> None:
        """Commands of qemu-io through the guest's device; an error of one fails the test."""
        for command in commands:
            backend = "" if self._scsi else "/virtio-backend"
            line = f'qemu-io -d /machine/peripheral/{disk}{backend} "{command}"'
            told = self.lab.run("human-monitor-command", **{"command-line": line})
            with contextlib.suppress(BlockingIOError):
                told += os.read(self._told, 1 << 16).decode()
            assert "rror" not in told and "failed" not in told and "nvalid" not in told, f"{command}: {told}"

    def write(self, disk: str, offset: int, data: bytes) -> None:
        source = self.folder / "written"
        source.write_bytes(data)
        self.io(disk, f"write -s {source} {offset} {len(data)}")

    def scribble(self, chance: Random, times: int, disk: str | None = None) -> list[tuple[str, int, int]]:
        """Write, discard and zero here and there; what was touched as (disk, start, length), in no order."""
        touched = []
        for _ in range(times):
            where = disk or chance.choice(sorted(self.disks))
            length = 512 * chance.choice([1, 7, 128, 300])
            start = 512 * chance.randrange((self.size_bytes(where) - length) // 512)
            how = chance.choice([f"write -P {chance.randrange(1, 256)}"] * 4 + ["discard", "write -z"])
            self.io(where, f"{how} {start} {length}")
            touched.append((where, start, length))
        return touched

    def content(self, disk: str) -> bytes:
        """The whole disk as the guest sees it now."""
        if self.process is not None:
            self.io(disk, "flush")
        copy, kind = self.folder / "copy", self.disks[disk][0]
        if kind == "raw":
            return self.image(disk).read_bytes()
        subprocess.run(["qemu-img", "convert", "-U", "-f", kind, "-O", "raw", self.image(disk), copy], check=True)
        data = copy.read_bytes()
        copy.unlink()
        return data

    def size_bytes(self, disk: str) -> int:
        (told,) = (each for each in self.lab.run("query-block") if disk in each["qdev"].split("/"))
        return int(told["inserted"]["image"]["virtual-size"])

    def resize(self, disk: str, size_bytes: int) -> None:
        self.lab.run("block_resize", **{"node-name": disk}, size=size_bytes)

    # --- what there is in it ---------------------------------------------------------------------------------------

    def bitmaps(self, disk: str) -> dict[str, dict[str, Any]]:
        nodes = {node["node-name"]: node for node in self.lab.run("query-named-block-nodes", flat=True)}
        return {each["name"]: each for each in nodes[disk].get("dirty-bitmaps", ()) if each.get("name")}

    def traces(self) -> tuple[Hashable, ...]:
        """All that a snapshot makes, but the bitmaps by which the next one knows what changed."""
        nodes = self.lab.run("query-named-block-nodes", flat=True)
        bitmaps = [
            (node["node-name"], each.get("name", "")) for node in nodes for each in node.get("dirty-bitmaps", ())
        ]
        return (
            frozenset(node["node-name"] for node in nodes if not node["node-name"].startswith("#")),
            frozenset((each["qdev"], each["inserted"]["node-name"]) for each in self.lab.run("query-block")),
            frozenset(each["id"] for each in self.lab.run("query-block-exports")),
            # QEMU clears away sets of descriptors that nothing uses only while its guest runs.
            len(self.lab.run("query-fdsets")) if self.lab.run("query-status")["running"] else 0,
            len(self.lab.run("query-jobs")),
            frozenset(name for name in bitmaps if parse_tracking_name(name[1]) is None),
            frozenset(path.name for path in self.scratch.iterdir() if path.suffix != ".vm"),
        )


@contextlib.contextmanager
def qemu_vm(folder: Path, **disks: tuple[str, int]) -> Iterator[QemuVm]:
    """A VM with these disks, running."""
    with QemuVm(folder, disks) as vm:
        yield vm
