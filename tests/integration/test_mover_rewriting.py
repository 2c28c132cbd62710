"""Quick rollback: disks that were there are rewritten where they differ from a restore point, and nowhere else.

Whatever has happened to a disk since: it is the point afterwards, bit for bit, and just the blocks that differed were
written. Killed in the middle, it is run again.
"""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast_agent.errors import DiskInUse, UsageError
from holdfast_agent.model.change import AuditRate, ChangeMode
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.ids import BlockId
from holdfast_agent.model.rules import TransferRules
from holdfast_agent.wire.movers import Begin, Progressed
from holdfast_agent.wire.specs import RestoreOrder, WriterSpec
from lab import repositories as lab
from lab.contents import assert_same
from lab.disks import qemu_nbd
from lab.movers import Done, Site
from lab.tools import require_tool

BLOCK = 1 << 16
BLOCKS = 300
SIZE = BLOCKS * BLOCK + 512
GEOMETRY = Geometry(SIZE, 16)
FORMS = ("file", "raw", "qcow2", "nbd")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    require_tool("qemu-nbd", "qemu-utils")
    return Site(tmp_path)


def old_disk() -> bytearray:
    """Data, repeated blocks and holes."""
    disk = bytearray(SIZE)
    for number in [*range(40), *range(100, 140), 299]:
        disk[number * BLOCK : (number + 1) * BLOCK] = lab.block(number % 90)
    disk[-512:] = b"\x11" * 512
    return disk


def history(disk: bytearray, seed: int) -> None:
    """What a guest may do: write, write zeros, copy, undo."""
    chance, before = random.Random(seed), bytes(disk)
    for _ in range(chance.randrange(1, 30)):
        start = chance.randrange(SIZE)
        length = min(chance.choice([1, 512, 4096, BLOCK, 3 * BLOCK + 5, 20 * BLOCK]), SIZE - start)
        other = chance.randrange(SIZE - length + 1)
        found = {
            "write": lambda length=length: chance.randbytes(length),
            "zero": lambda length=length: bytes(length),
            "copy": lambda length=length, other=other: bytes(disk[other : other + length]),
            "undo": lambda length=length, start=start: before[start : start + length],
        }[chance.choice(["write", "zero", "copy", "undo"])]()
        disk[start : start + length] = found


def differing(disk: bytes, point: bytes) -> list[int]:
    """Numbers of the blocks that differ."""
    return [
        block
        for block in range(GEOMETRY.blocks)
        if disk[block * BLOCK : (block + 1) * BLOCK] != point[block * BLOCK : (block + 1) * BLOCK]
    ]


def length_of(blocks: list[int]) -> int:
    return sum(GEOMETRY.extent(block).length for block in blocks)


def backed_up(site: Site, content: bytes) -> BlockId:
    path = site.folder / "disks" / "original"
    path.write_bytes(content)
    root = site.backup(f"file:{path}", GEOMETRY).repository.root
    assert root is not None
    return root


def put(path: Path, form: str, content: bytes) -> None:
    """A disk with this content; zeros are holes in it."""
    raw = path.with_suffix(".source")
    raw.write_bytes(content)
    target = "qcow2" if form == "qcow2" else "raw"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", target, raw, path], check=True)
    raw.unlink()


def content_of(path: Path) -> bytes:
    raw = path.with_suffix(".found")
    subprocess.run(["qemu-img", "convert", "-O", "raw", path, raw], check=True)
    return raw.read_bytes()[:SIZE]


@contextlib.contextmanager
def served(path: Path, form: str) -> Iterator[str]:
    """The URL by which a disk of that form is rewritten."""
    if form == "nbd":
        with qemu_nbd(path.parent, path, "--shared=4") as socket:
            yield f"nbd+unix:{socket}"
    else:
        yield f"file:{path}" if form == "file" else f"image:{path}?format={form}"


def rewrite(site: Site, root: BlockId, url: str, **how: object) -> Done:
    return site.restore(root, GEOMETRY, url, create=False, differing=True, **how)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(3))
def test_whatever_happened_just_what_differs_is_written(site: Site, form: str, seed: int) -> None:
    point = old_disk()
    root = backed_up(site, bytes(point))
    disk = bytearray(point)
    history(disk, seed)
    path = site.folder / "disks" / "disk"
    put(path, form, bytes(disk))
    with served(path, form) as url:
        counters = rewrite(site, root, url).counters
        assert counters.sent_bytes + counters.zero_bytes == length_of(differing(disk, point))
        assert counters.processed_bytes == SIZE
        assert counters.read_bytes <= SIZE
        again = rewrite(site, root, url).counters
        assert again.sent_bytes == again.zero_bytes == again.transferred_bytes == 0
    assert_same(content_of(path), bytes(point))


# --- by a dirty bitmap --------------------------------------------------------------------------------------------


class Tracked:
    """A qcow2 image that is as the point, with a bitmap that began with it."""

    def __init__(self, site: Site, point: bytes) -> None:
        self.path = site.folder / "disks" / "disk"
        put(self.path, "qcow2", point)
        self.begin("since")

    def url(self, bitmap: str = "since") -> str:
        return f"image:{self.path}?bitmap={bitmap}&format=qcow2"

    def begin(self, bitmap: str) -> None:
        subprocess.run(["qemu-img", "bitmap", "--add", "-g", "64K", self.path, bitmap], check=True)

    def write(self, disk: bytearray, start: int, length: int, pattern: int) -> None:
        command = f"write -P {pattern} {start} {length}"
        subprocess.run(["qemu-io", "-f", "qcow2", "-c", command, self.path], check=True, capture_output=True)
        disk[start : start + length] = bytes([pattern]) * length

    def flags(self, bitmap: str = "since") -> list[str]:
        found = subprocess.run(["qemu-img", "info", "--output=json", self.path], check=True, capture_output=True)
        bitmaps = json.loads(found.stdout)["format-specific"]["data"]["bitmaps"]
        return next(list(each["flags"]) for each in bitmaps if each["name"] == bitmap)

    def dirty(self, bitmap: str) -> list[int]:
        """Blocks that a bitmap tells to have been written."""
        with qemu_nbd(self.path.parent, self.path, "--read-only", f"--bitmap={bitmap}", form="qcow2") as socket:
            asked = ["qemu-img", "map", "--output=json", "--image-opts"]
            node = f"driver=nbd,server.type=unix,server.path={socket},x-dirty-bitmap=qemu:dirty-bitmap:{bitmap}"
            runs = json.loads(subprocess.run([*asked, node], check=True, capture_output=True).stdout)
        return [
            block
            for run in runs
            if not run["data"]
            for block in range(run["start"] // BLOCK, -(-(run["start"] + run["length"]) // BLOCK))
        ]


def test_with_a_bitmap_only_what_it_tells_is_read_and_it_stays_true(site: Site) -> None:
    point = old_disk()
    root = backed_up(site, bytes(point))
    image, disk = Tracked(site, bytes(point)), bytearray(point)
    for start, length, pattern in [(7 * BLOCK + 100, 512, 5), (120 * BLOCK, 3 * BLOCK, 0), (298 * BLOCK, 10, 9)]:
        image.write(disk, start, length, pattern)
    image.write(disk, 5 * BLOCK, 512, disk[5 * BLOCK])  # written, yet perhaps the same
    told = image.dirty("since")
    image.begin("rollback")
    done = rewrite(site, root, image.url(), audit=AuditRate(16))
    assert done.proxy.mode is None
    assert done.counters.audited_blocks == 16
    assert done.counters.read_bytes <= length_of(told)
    assert done.counters.sent_bytes + done.counters.zero_bytes == length_of(differing(disk, point))
    assert image.dirty("rollback") == differing(disk, point), "nothing else was written"
    assert_same(content_of(image.path), bytes(point))
    assert image.flags() == ["auto"] and image.dirty("since") == told, "the next backup can build on it"


def test_a_bitmap_that_lies_is_found_out(site: Site) -> None:
    """The writes before it began are not in it; the audit looks at all that it calls unchanged."""
    point = old_disk()
    root = backed_up(site, bytes(point))
    image, disk = Tracked(site, bytes(point)), bytearray(point)
    image.write(disk, 10 * BLOCK, BLOCK, 77)
    image.begin("late")
    image.write(disk, 50 * BLOCK, BLOCK, 78)
    done = rewrite(site, root, image.url("late"), audit=AuditRate(percent=100.0))
    assert done.proxy.mode is ChangeMode.DIGEST and "missed changes" in done.proxy.reason
    assert done.counters.missed_blocks == 1
    assert_same(content_of(image.path), bytes(point))


@pytest.mark.parametrize("how", ["missing", "broken", "in an overlay"])
def test_without_a_bitmap_that_can_be_believed_all_is_compared(site: Site, how: str) -> None:
    point = old_disk()
    root = backed_up(site, bytes(point))
    image, disk = Tracked(site, bytes(point)), bytearray(point)
    image.write(disk, 10 * BLOCK, BLOCK, 77)
    bitmap = "since"
    if how == "missing":
        bitmap = "another"
    elif how == "broken":
        with qemu_nbd(image.path.parent, image.path, form="qcow2"):
            pass  # killed while it had the image open
        assert image.flags() == ["in-use", "auto"]
    else:
        below = image.path.rename(image.path.with_name("below"))
        subprocess.run(["qemu-img", "create", "-qf", "qcow2", "-b", below, "-F", "qcow2", image.path], check=True)
        image.begin("since")
    done = rewrite(site, root, image.url(bitmap), audit=AuditRate(16))
    assert done.proxy.mode is ChangeMode.DIGEST
    assert done.proxy.reason.startswith("change tracking is lost")
    assert_same(content_of(image.path), bytes(point))


# --- killed, refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["file", "qcow2"])
def test_killed_in_the_middle_it_is_run_again(site: Site, form: str) -> None:
    point = old_disk()
    root = backed_up(site, bytes(point))
    disk = bytearray(random.Random(5).randbytes(SIZE))
    path = site.folder / "disks" / "disk"
    put(path, form, bytes(disk))
    with served(path, form) as url:
        with site.reading_pair(WriterSpec, TransferRules(bandwidth_bytes_per_s=8 << 10)) as (writer, _reader):
            order = RestoreOrder(geometry=GEOMETRY, root=root, disk=url, create=False, differing=True)
            writer.send(Begin(order=order))
            while (frame := writer.next()) and not (isinstance(frame, Progressed) and frame.counters.sent_bytes):
                pass
            writer.process.send_signal(signal.SIGKILL)
            writer.process.wait()
        again = rewrite(site, root, url).counters
        assert again.sent_bytes + again.zero_bytes <= length_of(differing(disk, point))
    assert_same(content_of(path), bytes(point))


def test_an_image_that_somebody_writes_to_is_left_alone(site: Site) -> None:
    point = old_disk()
    root = backed_up(site, bytes(point))
    path = site.folder / "disks" / "disk"
    put(path, "qcow2", bytes(SIZE))
    with qemu_nbd(path.parent, path, form="qcow2"), pytest.raises(DiskInUse):
        rewrite(site, root, f"image:{path}?format=qcow2")
    assert content_of(path) == bytes(SIZE)


def test_a_new_disk_has_nothing_to_compare(site: Site) -> None:
    root = backed_up(site, bytes(old_disk()))
    with pytest.raises(UsageError, match="was there before"):
        site.restore(root, GEOMETRY, f"file:{site.folder}/disks/new", differing=True)
