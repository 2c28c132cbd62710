"""States of guests that have booted once: whoever needs a running guest goes on from a copy within a second."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lab.tools import require_tool

from .flavours import PLAIN, Flavour
from .image import CACHE, Image, build, fingerprint, locked, make_ext4
from .machine import Bus, Disk, Format, Guest, Hardware, start

_EXTRA_BYTES = 64 << 20


@dataclass(frozen=True)
class Saved:
    """A guest that was saved right after it had booted, with everything that it started at rest."""

    image: Image
    folder: Path
    buses: tuple[Bus, ...]
    hardware: Hardware

    @contextlib.contextmanager
    def resume(self, folder: Path, *formats: Format) -> Iterator[Guest]:
        """A guest with its own copies of the disks in ``folder``, running, its clock right.

        ``formats``: of the disks' copies, raw where none is given.
        """
        raw: Format = "raw"
        kinds = [*formats, *[raw] * (len(self.buses) - len(formats))]
        disks = []
        for number, (bus, kind) in enumerate(zip(self.buses, kinds, strict=True)):
            disk = Disk(folder / f"disk{number}.{kind}", kind, bus)
            copy_disk(self.folder / f"disk{number}.raw", disk)
            disks.append(disk)
        with start(self.image, folder, disks, self.hardware, state=self.folder / "state") as guest:
            guest.monitor.run("cont")
            guest.agent.execute("/bin/date", "-s", f"@{time.time():.0f}")
            yield guest


def saved(
    flavour: Flavour = PLAIN, buses: tuple[Bus, ...] = ("virtio-blk",), hardware: Hardware | None = None,
    cache: Path = CACHE,
) -> Saved:  # fmt: skip
    """A saved guest, booted when the cache does not have it.

    The first disk is its root; each of the others is an empty ext4 of 64 MiB, mounted at ``/mnt/1`` and so on.
    """
    image = build(flavour, cache)
    hardware = hardware or Hardware(memory_mib=flavour.memory_mib)
    version = subprocess.run(
        [require_tool("qemu-system-x86_64", "qemu-system-x86"), "--version"], capture_output=True, check=True
    ).stdout
    sources = [Path(__file__).with_name(name) for name in ("machine.py", "saved.py")]
    made_by, key = fingerprint(repr(version), *sources), fingerprint(repr((buses, hardware)))
    folder = image.folder / f"state-{made_by}-{key}"
    found = Saved(image, folder, buses, hardware)
    with locked(cache):
        if not folder.exists():
            for other in set(image.folder.glob("state-*")) - set(image.folder.glob(f"state-{made_by}-*")):
                shutil.rmtree(other)  # of another QEMU, or of code that has changed
            half = image.folder / f".{key}.{os.getpid()}"
            half.mkdir()
            try:
                _boot_and_save(found, half)
                half.rename(folder)
            finally:
                shutil.rmtree(half, ignore_errors=True)
    return found


def copy_disk(source: Path, target: Disk, of: Format = "raw") -> None:
    """Make ``target`` a copy of an image of the format ``of``, sparse."""
    if target.format == of == "raw":
        subprocess.run(["cp", "--reflink=auto", "--sparse=always", source, target.path], check=True)
    else:
        tool = require_tool("qemu-img", "qemu-utils")
        subprocess.run([tool, "convert", "-U", "-f", of, "-O", target.format, source, target.path], check=True)


def _boot_and_save(wanted: Saved, folder: Path) -> None:
    disks = []
    for number, bus in enumerate(wanted.buses):
        disk = Disk(folder / f"disk{number}.raw", "raw", bus)
        if number == 0:
            copy_disk(wanted.image.disk, disk)
        else:
            with disk.path.open("wb") as file:
                file.truncate(_EXTRA_BYTES)
            make_ext4(disk.path, f"lab-{number}")
        disks.append(disk)
    with start(wanted.image, folder, disks, wanted.hardware) as guest:
        guest.wait_up()
        for number in range(1, len(disks)):
            device = guest.agent.execute("/bin/findfs", f"LABEL=lab-{number}").strip()
            guest.agent.shell(f"mkdir -p /mnt/{number} && mount -o noatime {device} /mnt/{number}")
        guest.agent.execute("/bin/sync")
        guest.save(folder / "state")
    for log in ("serial.log", "told.log", "qemu.log"):
        (folder / log).unlink()
