"""Exports over NFS as Linux mounts them. ``tests/fault/test_nfs.py`` runs this where there is such a client.

The client keeps what was written and not committed, and sends it again to a server that tells another write verifier:
so nothing is lost by a server that is killed, unless it claims what it does not have.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import random
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast_agent.model.geometry import Geometry
from holdfast_agent.repository.file_systems import network_file_system
from holdfast_agent.wire.specs import ExportDisk
from lab import repositories as lab
from lab.exports import content_of, run, store, trees_of
from lab.movers import Site
from lab.nfs_exports import NfsExport, nfs_exported

GEOMETRY = Geometry(24 * lab.BLOCK, lab.LOG2)
BLOCKS = {number: lab.block(number) for number in range(0, 24, 3)}
WANT = content_of(BLOCKS, GEOMETRY)
ADDRESS, PORT = "127.7.7.7", 2050  # the guest has a server of its own at 2049
CELL = 4096
MOUNTED = Path("/run/mounted")
_WRITE_AND_WAIT = 2 | 4  # of sync_file_range(2)
libc = ctypes.CDLL(None)


class Place:
    """One export, mounted, whatever process serves it."""

    def __init__(self, site: Site, disks: tuple[ExportDisk, ...]) -> None:
        self.site, self.disks = site, disks
        self.serving: NfsExport | None = None
        self._open = contextlib.ExitStack()
        self.start()

    def start(self) -> None:
        exports = {"nfs_port": PORT, "nfs_scratch_bytes": 64 << 20}
        self.serving = self._open.enter_context(nfs_exported(self.site, self.disks, address=ADDRESS, exports=exports))

    def kill(self) -> None:
        """kill -9 of the server; the client waits for the next one."""
        assert self.serving is not None
        self.serving.export.mover.process.kill()
        self._open.close()

    def mount(self) -> None:
        MOUNTED.mkdir(exist_ok=True)
        options = "vers=3,proto=tcp,nolock,hard,timeo=20"
        assert self.serving is not None
        run("mount", "-t", "nfs", "-o", options, f"{ADDRESS}:{self.serving.path}", MOUNTED)

    def mount_again(self) -> None:
        """With nothing in the client's memory."""
        run("umount", MOUNTED)
        self.mount()

    def close(self) -> None:
        subprocess.run(["umount", "-f", MOUNTED], check=False)
        self._open.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    if network_file_system(tmp_path) != "NFS":
        pytest.skip("there is no client of NFS here")
    folder = Path("/run/site")
    folder.mkdir()
    site = Site(folder)
    place = Place(site, trees_of(store(site, BLOCKS, GEOMETRY)))
    try:
        place.mount()
        yield place
    finally:
        place.close()
        shutil.rmtree(folder)


def test_what_was_written_outlives_kills_of_the_server(place: Place) -> None:
    """While a client writes, without a flush until the end: it must know what the killed server had not stored."""
    flat = MOUNTED / "root-flat.vmdk"
    assert (flat.read_bytes() == WANT) is True
    assert (
        run("qemu-img", "compare", "-f", "vmdk", "-F", "raw", MOUNTED / "root.vmdk", flat).strip()
        == "Images are identical."
    )
    want, chance = bytearray(WANT), random.Random(7)
    half, fd = threading.Event(), os.open(flat, os.O_RDWR)
    place.kill()
    place.start()

    def write() -> None:
        for step in range(600):
            at = chance.randrange(len(want) // CELL) * CELL
            want[at : at + CELL] = data = step.to_bytes(8, "big") * (CELL // 8)
            os.pwrite(fd, data, at)
            if step % 40 == 0:  # on their way, and answered, but not committed
                libc.sync_file_range(fd, ctypes.c_int64(0), ctypes.c_int64(0), _WRITE_AND_WAIT)
            if step == 300:
                half.set()

    writer = threading.Thread(target=write)
    writer.start()
    assert half.wait(60)
    place.kill()
    place.start()
    writer.join(60)
    assert not writer.is_alive()
    os.close(fd)  # which flushes
    place.mount_again()
    assert (flat.read_bytes() == want) is True
    place.kill()
    place.start()
    place.mount_again()
    assert (flat.read_bytes() == want) is True


def test_files_of_the_hosts_own_are_kept_through_kills(place: Place) -> None:
    """What a host makes beside its disks: folders, locks, files that take another's place, sparse ones."""
    home = MOUNTED / "web"
    home.mkdir()
    (home / "web.vmx").write_text("first")
    (home / "web.vmx~").write_text("second")
    (home / "web.vmx~").rename(home / "web.vmx")
    lock = os.open(home / ".lck-1", os.O_CREAT | os.O_EXCL | os.O_RDWR)
    with pytest.raises(FileExistsError):
        os.open(home / ".lck-1", os.O_CREAT | os.O_EXCL | os.O_RDWR)
    os.truncate(home / ".lck-1", 3 << 30)
    os.pwrite(lock, b"end", (3 << 30) - 3)
    os.close(lock)
    many = MOUNTED / "many"
    many.mkdir()
    for number in range(300):
        (many / f"{number:03}-{'x' * 60}").touch()
    (many / f"000-{'x' * 60}").unlink()
    with pytest.raises(OSError, match="not empty") as raised:
        many.rmdir()
    assert raised.value.errno == errno.ENOTEMPTY
    place.kill()
    place.start()
    place.mount_again()
    assert (home / "web.vmx").read_text() == "second"
    assert sorted(path.name for path in home.iterdir()) == [".lck-1", "web.vmx"]
    assert ((home / ".lck-1").stat().st_size, (home / ".lck-1").stat().st_blocks < 1000) == (3 << 30, True)
    with (home / ".lck-1").open("rb") as file:
        file.seek(-3, os.SEEK_END)
        assert file.read() == b"end"
    assert len(list(many.iterdir())) == 299
    shutil.rmtree(many)
    assert sorted(path.name for path in MOUNTED.iterdir()) == ["root-flat.vmdk", "root.vmdk", "web"]


def test_a_host_cannot_take_the_disk_away_or_fill_the_agent(place: Place) -> None:
    flat = MOUNTED / "root-flat.vmdk"
    for act in (flat.unlink, lambda: flat.rename(MOUNTED / "other"), lambda: os.truncate(flat, 1)):
        with pytest.raises(PermissionError):
            act()
    with pytest.raises(OSError, match="space") as raised, (MOUNTED / "large").open("wb") as file:
        for _ in range(80):
            file.write(os.urandom(1 << 20))
    assert raised.value.errno == errno.ENOSPC
    (MOUNTED / "large").unlink()
    (MOUNTED / "small").write_text("there is room again")
    assert (flat.read_bytes() == WANT) is True
    with pytest.raises(OSError, match="not supported"):
        (MOUNTED / "link").symlink_to("/etc/passwd")
