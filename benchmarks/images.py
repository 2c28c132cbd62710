"""Disk images to measure with: what a virtual machine's disk holds, the same bytes for the same seed and machine."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

MIB = 1 << 20
_STRETCH_MIB = (4, 8, 16, 32)  # written without a gap; fragmentation of a file system that has been in use
_PAGE = 16 * 1024
_PROGRAMS = ("/usr/lib", "/usr/bin", "/usr/sbin")
_SERVICES = ("sshd", "cron", "kernel", "nginx", "postgres", "systemd", "dbus-daemon", "app-worker")


def make_mixed_image(path: Path, size_mib: int, seed: int = 1) -> int:
    """Write a sparse image of ``size_mib`` of which about half is used; returns the bytes written.

    The used half: 40 % programs and libraries of this machine, 25 % log text, 15 % random (media, archives),
    20 % database pages. No two stretches are alike, so that deduplication alone does not decide.
    """
    rng = random.Random(seed)
    content = mixed(rng)
    written = 0
    with path.open("wb") as image:
        image.truncate(size_mib * MIB)
        position = MIB
        while written < size_mib * MIB // 2:
            length = min(rng.choice(_STRETCH_MIB) * MIB, size_mib * MIB - position)
            if length <= 0:
                break
            image.seek(position)
            image.write(content(length))
            written += length
            # As long a gap on the average as a stretch, in steps of a file system's block, not of ours.
            position += length + rng.randrange(0, 30 * MIB, 4096)
    return written


def mixed(rng: random.Random) -> Callable[[int], bytes]:
    """Content of so many bytes, each time of another kind, in the parts that :func:`make_mixed_image` has."""
    kinds = {_programs: 40, _text: 25, _noise: 15, _pages: 20}
    content = [kind(rng) for kind in kinds]
    return lambda length: rng.choices(content, weights=list(kinds.values()))[0](length)


def make_scattered_image(path: Path, size_gib: int, data_mib: int, seed: int = 1) -> None:
    """Write a sparse image of ``size_gib`` with ``data_mib`` of compressible data, 1 MiB each, scattered all over."""
    rng = random.Random(seed)
    pages = _pages(rng)
    with path.open("wb") as image:
        image.truncate(size_gib << 30)
        for block in sorted(rng.sample(range(size_gib * 1024), data_mib)):
            image.seek(block * MIB)
            image.write(pages(MIB))


def change(path: Path, part: float, seed: int = 2) -> int:
    """Overwrite about ``part`` (0 … 1) of the allocated data in scattered database pages; returns the bytes changed."""
    rng = random.Random(seed)
    pages = _pages(rng)
    blocks = [block for start, end in data_extents(path) for block in range(start // _PAGE, end // _PAGE)]
    # In runs of 16 pages, about as a database's checkpoint leaves them.
    chosen = rng.sample(blocks, max(1, round(len(blocks) * part / 16)))
    with path.open("r+b") as image:
        for block in chosen:
            image.seek(block * _PAGE)
            image.write(pages(min(16 * _PAGE, path.stat().st_size - block * _PAGE)))
    return len(chosen) * 16 * _PAGE


def copy_sparse(source: Path, target: Path) -> None:
    """Copy what is allocated; the rest is holes."""
    with source.open("rb") as reader, target.open("wb") as writer:
        for start, end in data_extents(source):
            for at in range(start, end, MIB):
                reader.seek(at)
                writer.seek(at)
                writer.write(reader.read(min(MIB, end - at)))
        writer.truncate(source.stat().st_size)


def data_extents(path: Path) -> Iterator[tuple[int, int]]:
    """The allocated extents as half-open ``(start, end)``, in order."""
    fd = os.open(path, os.O_RDONLY)
    try:
        end, size = 0, os.fstat(fd).st_size
        while end < size:
            try:
                start = os.lseek(fd, end, os.SEEK_DATA)
            except OSError:  # ENXIO: no data beyond
                return
            end = os.lseek(fd, start, os.SEEK_HOLE)
            yield start, end
    finally:
        os.close(fd)


def _programs(rng: random.Random) -> Callable[[int], bytes]:
    def contents() -> Iterator[bytes]:
        while True:
            files = [path for root in _PROGRAMS for path in sorted(Path(root).rglob("*")) if _readable(path)]
            rng.shuffle(files)
            for path in files:
                yield path.read_bytes()

    return _cut(contents())


def _readable(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and os.access(path, os.R_OK) and 0 < path.stat().st_size < 64 * MIB


def _text(rng: random.Random) -> Callable[[int], bytes]:
    def lines() -> Iterator[bytes]:
        now = 1_700_000_000
        while True:
            block = []
            for _ in range(4096):
                now += rng.randrange(3)
                service, number = rng.choice(_SERVICES), rng.getrandbits(60)
                block.append(
                    f"{now}.{number % 1_000_000:06d} host7 {service}[{number >> 20 & 32767}]: request GET "
                    f"/api/v1/items/{number >> 35 & 65535} status=200 bytes={number >> 40} from 10.0.{number & 255}.7\n"
                )
            yield "".join(block).encode()

    return _cut(lines())


def _noise(rng: random.Random) -> Callable[[int], bytes]:
    return rng.randbytes


def _pages(rng: random.Random) -> Callable[[int], bytes]:
    def pages() -> Iterator[bytes]:
        number = 0
        while True:
            number += 1
            page = bytearray(struct.pack("<QIIQ", number, rng.getrandbits(32), 0x45BF, rng.getrandbits(48)))
            while len(page) < _PAGE * 3 // 4:
                page += struct.pack("<IIQ", number & 0xFFFF, rng.randrange(1000), 1_700_000_000 + rng.randrange(10**7))
                page += b"user%06d@example.org\0" % rng.randrange(10**6) + rng.randbytes(24)
                page += b"status=active;region=eu-west;plan=basic;"[: rng.randrange(20, 40)]
            yield bytes(page[: _PAGE * 3 // 4]) + bytes(_PAGE // 4)

    return _cut(pages())


def _cut(pieces: Iterator[bytes]) -> Callable[[int], bytes]:
    """Pieces of any length as a function that gives exactly as many bytes as asked for."""
    rest = bytearray()

    def take(length: int) -> bytes:
        while len(rest) < length:
            rest.extend(next(pieces))
        taken = bytes(rest[:length])
        del rest[:length]
        return taken

    return take
