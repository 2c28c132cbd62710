"""A disk that QEMU's storage daemon has open and a guest writes to; see :mod:`lab.storage_plugin`."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from random import Random

from holdfast_plugins.api import Journal, Snapshot, SnapshotRequest, VmRef
from lab.storage_plugin import GRAIN, NBD, NODE, QMP, Monitor, Options, StorageDriver
from lab.tools import require_tool

_GUEST = "guest"


class StorageVm:
    """Runs while it is entered. ``folder`` is what the plugin's option ``path`` names."""

    def __init__(self, folder: Path, size_bytes: int) -> None:
        self.folder = folder
        self.size_bytes = size_bytes
        folder.mkdir(exist_ok=True)
        self.image = folder / "disk.qcow2"
        tool = require_tool("qemu-img", "qemu-utils")
        subprocess.run([tool, "create", "-q", "-f", "qcow2", self.image, str(size_bytes)], check=True)

    def __enter__(self) -> StorageVm:
        program = require_tool("qemu-storage-daemon", "qemu-system-common")
        disk = f"driver=qcow2,node-name={NODE},discard=unmap,file.driver=file,file.filename={self.image}"
        command = [program, "--chardev", f"socket,id=qmp,path={self.folder / QMP},server=on,wait=off"]
        command += ["--monitor", "chardev=qmp", "--blockdev", disk]
        command += ["--nbd-server", f"addr.type=unix,addr.path={self.folder / NBD}"]
        command += ["--export", f"nbd,id={_GUEST},node-name={NODE},name={_GUEST},writable=on"]
        ready = self.folder / "ready"
        self._process = subprocess.Popen([*command, "--pidfile", ready])
        while not ready.exists():  # it is written when all of the command line is set up
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.01)
                raise AssertionError("qemu-storage-daemon ended")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()  # bitmaps are written to the image only by an orderly end
        self._process.wait()
        for left in ("ready", QMP, NBD):
            (self.folder / left).unlink(missing_ok=True)

    def write(self, *commands: str) -> None:
        """Let the guest write: qemu-io's commands."""
        words = [word for command in commands for word in ("-c", command)]
        url = f"nbd+unix:///{_GUEST}?socket={self.folder / NBD}"
        subprocess.run(["qemu-io", "-d", "unmap", "-f", "raw", *words, url], check=True, stdout=subprocess.DEVNULL)

    def scribble(self, chance: Random, times: int) -> list[tuple[int, int]]:
        """Write, discard and zero here and there; what was touched as (start, length), in no order."""
        touched, commands = [], []
        for _ in range(times):
            length = 512 * chance.choice([1, 7, 128, 300])
            start = 512 * chance.randrange((self.size_bytes - length) // 512)
            how = chance.choice([f"write -P {chance.randrange(1, 256)}"] * 4 + ["discard", "write -z"])
            touched.append((start, length))
            commands.append(f"{how} {start} {length}")
        if commands:
            self.write(*commands)
        return touched

    def content(self) -> bytes:
        """The whole disk as the guest sees it now."""
        copy = self.folder / "copy.raw"
        url = f"nbd+unix:///{_GUEST}?socket={self.folder / NBD}"
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "raw", url, copy], check=True)
        data = copy.read_bytes()
        copy.unlink()
        return data

    def fill(self, image: Path) -> None:
        """Let the guest write all of a raw image to its disk."""
        url = f"nbd+unix:///{_GUEST}?socket={self.folder / NBD}"
        subprocess.run(["qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", image, url], check=True)

    def resize(self, size_bytes: int) -> None:
        """Make the disk larger; the guest is away meanwhile, as the daemon wants it."""
        with Monitor(self.folder / QMP) as monitor:
            monitor.run("block-export-del", id=_GUEST, mode="hard")
            while monitor.run("query-block-exports"):
                pass
            monitor.run("block_resize", **{"node-name": NODE}, size=size_bytes)
            guest = {"type": "nbd", "id": _GUEST, "node-name": NODE, "name": _GUEST, "writable": True}
            monitor.run("block-export-add", **guest)
        self.size_bytes = size_bytes

    @contextlib.contextmanager
    def frozen(self, journal: Journal, committed: bool = True) -> Iterator[Snapshot]:
        """A snapshot by the plugin's own driver, without a session."""
        driver = StorageDriver(Options(str(self.folder)), {})
        snapshot = driver.create_snapshot(SnapshotRequest(VmRef("guest", "guest"), "test", (NODE,)), journal)
        try:
            yield snapshot
        finally:
            driver.remove_snapshot(snapshot, committed, journal)


__all__ = ["GRAIN", "StorageVm"]
