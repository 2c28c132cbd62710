"""What one export looks like to its clients: a folder with its disks as VMDKs, and whatever they make beside them."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from holdfast_agent.durable import sync_folder

from ..image import Part, WritableImage
from .names import ROOT, Names, Node
from .protocol import Create, Kind, Refusal, Status
from .scratch import Scratch
from .vmdk import descriptor, stems_of

_FOLDER_BYTES = 4096


class Facts(NamedTuple):
    """What a client is told of one node. Times in nanoseconds."""

    node: Node
    size_bytes: int
    used_bytes: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int


class Wish(NamedTuple):
    """What a client wants changed; None: nothing. Times in nanoseconds."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size_bytes: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None


class _Disk:
    """A disk's flat file."""

    def __init__(self, image: WritableImage) -> None:
        self.image = image
        self.course = image.course()
        self.lock = threading.Lock()
        self.changed_ns = time.time_ns()

    def read(self, offset: int, length: int) -> list[Part]:
        with self.lock:
            self.image.read_ahead(self.course, offset, length)
        return self.image.at_hand(offset, length) or self.image.read(offset, length)

    def write(self, offset: int, data: memoryview, durable: bool) -> None:
        self.image.write(offset, data)
        with self.lock:
            self.changed_ns = max(time.time_ns(), self.changed_ns + 1)
        if durable:
            self.image.flush()


class Share:
    """Thread-safe. Whatever changes it is durable when it returns, but for writes that need not be.

    Methods raise :class:`Refusal`, OSError, and what reading a restore point raises.
    """

    def __init__(self, folder: Path, path: str, images: Sequence[WritableImage], scratch_bytes: int) -> None:
        """``folder``: where all of this is kept, made if it is not there. ``path``: under which it is mounted.

        Raises :class:`UsageError`, :class:`DiskUnsupported`, OSError.
        """
        self.path = path
        self.identity = int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "big")
        contents = folder / "files"
        contents.mkdir(mode=0o700, parents=True, exist_ok=True)
        sync_folder(folder)
        sync_folder(folder.parent)
        self._lock = threading.RLock()
        self._names = Names(folder / "names")
        self._scratch = Scratch(contents, scratch_bytes)
        self._disks = {image.name: _Disk(image) for image in images}
        self._scratch.remove_others({node.number for node in self._names.files() if not node.disk})
        self.files = tuple(self._seed(images))

    def _seed(self, images: Sequence[WritableImage]) -> list[str]:
        """The disks' files, where they are not there yet; the names of their descriptors."""
        stems = stems_of([image.name for image in images])
        for stem, image in zip(stems, images, strict=True):
            flat = f"{stem}-flat.vmdk"
            if self._names.child(ROOT, flat) is None:
                self._add(ROOT, flat, Kind.FILE, 0o600, disk=image.name)
            if not self._seeded(f"{stem}.vmdk"):
                number = self.create(ROOT, f"{stem}.vmdk", 0o600, Create.UNCHECKED).node.number
                self._scratch.write(number, 0, memoryview(descriptor(image.name, image.size_bytes, flat)), durable=True)
        return [f"{stem}.vmdk" for stem in stems]

    def _seeded(self, name: str) -> bool:
        """A crash may have left the file and nothing in it."""
        node = self._names.child(ROOT, name)
        return node is not None and self._scratch.stat(node.number).st_size > 0

    # --- looking ------------------------------------------------------------------------------------------------------

    def facts(self, number: int) -> Facts:
        with self._lock:
            node = self._names.node(number)
        if node.disk:
            disk = self._disk(node)
            size, changed = disk.image.size_bytes, disk.changed_ns
            return Facts(node, size, size, changed, changed, changed)
        if node.kind is Kind.FOLDER:
            changed = node.changed_ns
            return Facts(node, _FOLDER_BYTES, _FOLDER_BYTES, changed, changed, changed)
        found = self._scratch.stat(number)
        times = (found.st_atime_ns, found.st_mtime_ns, max(found.st_ctime_ns, node.changed_ns))
        return Facts(node, found.st_size, found.st_blocks * 512, *times)

    def lookup(self, parent: int, name: str) -> int:
        with self._lock:
            folder = self._names.folder(parent)
            if name in (".", ".."):
                return folder.number if name == "." else folder.parent
            node = self._names.child(parent, name)
        if node is None:
            raise Refusal(Status.NOENT)
        return node.number

    def children(self, parent: int) -> list[Node]:
        """Ascending by number."""
        with self._lock:
            self._names.folder(parent)
            return list(self._names.children(parent))

    def room(self) -> tuple[int, int, int]:
        """(bytes in all, bytes that are free, how many more files there may be)."""
        disks = sum(disk.image.size_bytes for disk in self._disks.values())
        with self._lock:
            return disks + self._scratch.most_bytes, self._scratch.free_bytes, self._names.room

    # --- contents -----------------------------------------------------------------------------------------------------

    def read(self, number: int, offset: int, length: int) -> list[Part]:
        """Fewer bytes at the end of the file."""
        node = self._file(number)
        if not node.disk:
            return [memoryview(self._scratch.read(number, offset, length))]
        disk = self._disk(node)
        length = max(0, min(length, disk.image.size_bytes - offset))
        return disk.read(offset, length) if length else []

    def write(self, number: int, offset: int, data: memoryview, *, durable: bool) -> None:
        node = self._file(number)
        if not node.disk:
            self._scratch.write(number, offset, data, durable=durable)
            return
        disk = self._disk(node)
        if offset + len(data) > disk.image.size_bytes:
            raise Refusal(Status.FBIG)
        if len(data):
            disk.write(offset, data, durable)

    def sync(self, number: int) -> None:
        """All that was written to a file so far is durable."""
        node = self._file(number)
        if node.disk:
            self._disk(node).image.flush()
        else:
            self._scratch.sync(number)

    # --- changing -----------------------------------------------------------------------------------------------------

    def create(self, parent: int, name: str, mode: int, how: Create, verifier: str = "") -> Facts:
        """A file, which may be there already as far as ``how`` says."""
        with self._lock:
            self._names.folder(parent)
            found = self._names.child(parent, name)
            if found is None:
                number = self._names.next_number()
                self._scratch.make(number)
                return self.facts(self._add(parent, name, Kind.FILE, mode, verifier=verifier))
            same = how is Create.EXCLUSIVE and found.verifier == verifier
            if found.kind is not Kind.FILE or not (same or how is Create.UNCHECKED):
                raise Refusal(Status.EXIST)
            return self.facts(found.number)

    def make_folder(self, parent: int, name: str, mode: int) -> Facts:
        with self._lock:
            self._names.folder(parent)
            if self._names.child(parent, name) is not None:
                raise Refusal(Status.EXIST)
            return self.facts(self._add(parent, name, Kind.FOLDER, mode))

    def remove(self, parent: int, name: str, kind: Kind) -> None:
        with self._lock:
            node = self._names.node(self.lookup(parent, name))
            self._check_removable(node, kind)
            self._names.remove(node)
            self._forget(node)

    def rename(self, parent: int, name: str, to_parent: int, to_name: str) -> None:
        with self._lock:
            node = self._names.node(self.lookup(parent, name))
            self._names.folder(to_parent)
            over = self._names.child(to_parent, to_name)
            if over is not None and over.number == node.number:
                return
            if node.disk:
                raise Refusal(Status.ACCES)
            if over is not None:
                self._check_removable(over, node.kind)
            self._names.move(node, to_parent, to_name, over)
            if over is not None:
                self._forget(over)

    def change(self, number: int, wish: Wish) -> None:
        with self._lock:
            node = self._names.node(number)
            if wish.size_bytes is not None:
                self._resize(node, wish.size_bytes)
            wanted = {
                key: value
                for key, value in (("mode", wish.mode), ("uid", wish.uid), ("gid", wish.gid))
                if value is not None and value != getattr(node, key)
            }
            if wanted:
                changed = max(time.time_ns(), node.changed_ns + 1)
                self._names.replace(msgspec.structs.replace(node, changed_ns=changed, **wanted))
            times = (wish.atime_ns, wish.mtime_ns)
            if times != (None, None) and node.kind is Kind.FILE and not node.disk:
                self._scratch.set_times(number, *times)

    def _resize(self, node: Node, size_bytes: int) -> None:
        if node.kind is not Kind.FILE:
            raise Refusal(Status.ISDIR)
        if not node.disk:
            self._scratch.resize(node.number, size_bytes)
        elif size_bytes != self._disk(node).image.size_bytes:
            raise Refusal(Status.ACCES)  # the disk of a restore point has the size that it has

    def _add(self, parent: int, name: str, kind: Kind, mode: int, *, disk: str = "", verifier: str = "") -> int:
        number = self._names.next_number()
        now = time.time_ns()
        node = Node(
            number=number, parent=parent, name=name, kind=kind, mode=mode & 0o7777, changed_ns=now, disk=disk,
            verifier=verifier,
        )  # fmt: skip
        self._names.add(node)
        return number

    def _check_removable(self, node: Node, kind: Kind) -> None:
        if node.disk:
            raise Refusal(Status.ACCES)
        if node.kind is not kind:
            raise Refusal(Status.ISDIR if node.kind is Kind.FOLDER else Status.NOTDIR)
        if node.kind is Kind.FOLDER and next(self._names.children(node.number), None) is not None:
            raise Refusal(Status.NOTEMPTY)

    def _forget(self, node: Node) -> None:
        if node.kind is Kind.FILE:
            self._scratch.remove(node.number)

    def _file(self, number: int) -> Node:
        with self._lock:
            node = self._names.node(number)
        if node.kind is not Kind.FILE:
            raise Refusal(Status.ISDIR)
        return node

    def _disk(self, node: Node) -> _Disk:
        disk = self._disks.get(node.disk)
        if disk is None:  # an export may be resumed with fewer of them
            raise Refusal(Status.STALE)
        return disk
