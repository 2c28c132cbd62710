"""A folder with all that files can be, images of real file systems that hold it, and looks into them by real movers."""

from __future__ import annotations

import contextlib
import os
import random
import stat
import struct
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from holdfast_agent.model.geometry import Geometry
from holdfast_agent.wire.files import FilesFound, FilesWish
from holdfast_agent.wire.movers import ExportHost, Finished
from holdfast_agent.wire.specs import ExportDisk, FilesSpec

from . import repositories as lab
from .devices import MIB
from .exports import exported, trees_of
from .movers import Mover, Site
from .tools import require_tool

STRANGE_NAME = b"not utf-8 \xff\xe9 \n and a new line"
MOMENT_NS = 1_600_000_000_123_456_700  # what NTFS can tell, too
MANY = 700


def furnish(folder: Path) -> None:
    """Files of all sizes, holes, links of both kinds, owners, modes, strange names, a folder with very many entries."""
    rng = random.Random(8)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "etc").mkdir()
    (folder / "etc" / "hostname").write_text("web\n")
    for size in (0, 1, 4095, 4096, 70_000, 3 * MIB + 5):
        (folder / f"size-{size}").write_bytes(rng.randbytes(size))
    with (folder / "sparse").open("wb") as file:
        file.write(b"begin")
        file.seek(5 * MIB)
        file.write(b"middle")
        file.truncate(9 * MIB)
    (folder / "deep" / "er" / "still").mkdir(parents=True)
    (folder / "deep" / "er" / "still" / "here").write_bytes(b"found")
    (folder / "many").mkdir()
    for number in range(MANY):
        (folder / "many" / f"a file with quite a long name, number {number}").write_bytes(b"%d" % number)


def furnish_as_unix(folder: Path) -> None:
    """What only file systems of Unix can have besides."""
    Path(os.fsdecode(os.fsencode(folder) + b"/" + STRANGE_NAME)).write_bytes(b"strange")
    (folder / "link").symlink_to("etc/hostname")
    (folder / "long-link").symlink_to("/" + "far/" * 100 + "away")
    (folder / "folder-link").symlink_to("deep/er")
    (folder / "twin").hardlink_to(folder / "size-4096")
    (folder / "secret").write_bytes(b"secret")
    (folder / "secret").chmod(0o4750)
    os.mkfifo(folder / "pipe")
    os.chown(folder / "etc" / "hostname", 1234, 70000)
    (folder / "deep").chmod(0o2701)
    _furnish_attributes(folder)


CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)  # cap_net_bind_service, effective
SHARED = "u::rw-,u:2345:r--,u:2346:---,g::r--,m::rw-,o::---"
INHERITED = "u::rwx,g::r-x,g:70000:rwx,m::rwx,o::---"


def _furnish_attributes(folder: Path) -> None:
    """Extended attributes of all kinds, and access lists as their own tool sets them."""
    for name in ("size-1", "etc", "size-70000"):
        os.setxattr(folder / name, "user.note", f"of {name}".encode())
    os.setxattr(folder / "size-1", "user.empty", b"")
    os.setxattr(folder / "size-1", "user.binary", bytes(range(200)) * 3)  # which is too much for an inode
    os.setxattr(folder / "size-1", "trusted.marker", b"x")
    os.setxattr(folder / "link", "trusted.of-link", b"on the link itself", follow_symlinks=False)
    os.setxattr(folder / "etc" / "hostname", "security.selinux", b"system_u:object_r:etc_t:s0\0")
    os.setxattr(folder / "size-4095", "security.capability", CAPABILITY)
    tool = require_tool("setfacl", "acl")
    run_tool(tool, "-m", SHARED, folder / "etc" / "hostname")
    run_tool(tool, "-d", "-m", INHERITED, folder / "deep" / "er")


def date(folder: Path) -> None:
    """One time for everything, which is not now."""
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, ns=(MOMENT_NS, MOMENT_NS), follow_symlinks=False)


def described(folder: Path, *, unix: bool = True) -> dict[bytes, tuple[object, ...]]:
    """All that is to be the same after a restore, by path below ``folder``. ``unix`` False: names and content alone."""
    found: dict[bytes, tuple[object, ...]] = {}
    first_names: dict[int, bytes] = {}
    for path in sorted(folder.rglob("*")):
        facts = path.lstat()
        name = os.fsencode(path.relative_to(folder))
        if stat.S_ISREG(facts.st_mode):
            content: object = path.read_bytes()
        elif stat.S_ISLNK(facts.st_mode):
            content = path.readlink()
        elif stat.S_ISDIR(facts.st_mode):
            content = "folder"
        else:
            continue
        if not unix:
            found[name] = (content,)
            continue
        twin = first_names.setdefault(facts.st_ino, name) if stat.S_ISREG(facts.st_mode) else name
        mode = 0 if stat.S_ISLNK(facts.st_mode) else stat.S_IMODE(facts.st_mode)
        attributes = attributes_of(path)
        found[name] = (content, twin, mode, attributes, facts.st_uid, facts.st_gid, facts.st_mtime_ns)
    return found


def attributes_of(path: Path) -> dict[str, bytes]:
    """Its extended attributes, access lists among them."""
    names = os.listxattr(path, follow_symlinks=False)
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}


def run_tool(*command: str | Path) -> None:
    subprocess.run(command, check=True, capture_output=True)


def blank(image: Path, size: int) -> Path:
    with image.open("wb") as file:
        file.truncate(size)
    return image


def make_ext4(image: Path, content: Path, *options: str, kind: str = "ext4", size: int = 64 * MIB) -> Path:
    maker = require_tool("mke2fs", "e2fsprogs")
    run_tool(maker, "-q", "-F", "-t", kind, *options, "-d", content, blank(image, size))
    return image


def make_btrfs(image: Path, content: Path, size: int = 128 * MIB) -> Path:
    maker = require_tool("mkfs.btrfs", "btrfs-progs")
    run_tool(maker, "-q", "--rootdir", content, blank(image, size))
    return image


def make_fat(image: Path, content: Path, bits: int, size: int) -> Path:
    maker, copier = require_tool("mkfs.vfat", "dosfstools"), require_tool("mcopy", "mtools")
    run_tool(maker, "-F", str(bits), "-n", "LABEL", "-i", "1234abcd", blank(image, size))
    run_tool(copier, "-s", "-m", "-i", image, *sorted(content.iterdir()), "::")
    return image


def stored(site: Site, images: Mapping[str, Path]) -> tuple[ExportDisk, ...]:
    """A restore point with one disk of each image, as an exporter is told of them."""
    disks = []
    repository = lab.open_at(site.folder)
    try:
        for name, image in images.items():
            geometry = Geometry(image.stat().st_size, lab.LOG2)
            point = lab.backup(repository, dict(_blocks(image)), geometry)
            disks.append(ExportDisk(name=name, tree=trees_of(point)[0].tree))
    finally:
        repository.close()
    return tuple(disks)


@contextlib.contextmanager
def served(site: Site, images: Mapping[str, Path]) -> Iterator[tuple[str, ...]]:
    """An export named "one" of disks with the content of ``images``; their names."""
    disks = stored(site, images)
    with exported(site, disks):
        yield tuple(disk.name for disk in disks)


def look(site: Site, disks: Sequence[str], wish: FilesWish, volume: str = "") -> FilesFound:
    """Ask a real process; raises the error that it ends with."""
    with looking(site, disks, wish, volume) as mover:
        found = mover.expect(Finished).result.files
        assert found is not None
        return found


def looking(site: Site, disks: Sequence[str], wish: FilesWish, volume: str = "") -> Mover:
    """The process itself, to be entered."""
    host = site.host(exports=ExportHost(directory=str(site.folder / "exports")))
    return Mover(FilesSpec(task_id="t", secret=b"", export="one", disks=tuple(disks), wish=wish, volume=volume), host)


def _blocks(image: Path) -> Iterator[tuple[int, bytes]]:
    with image.open("rb") as file:
        number = 0
        while block := file.read(lab.BLOCK):
            if block.strip(b"\0"):
                yield number, block.ljust(lab.BLOCK, b"\0")
            number += 1
