"""Files of a restore point as a folder of this host: the kernel asks, and the confined reader answers.

What the reader says is a stranger's word: names, kinds and ranges are judged here, and nothing of it is believed
beyond what the kernel itself checks of any file system.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import stat
from pathlib import Path, PurePosixPath

from holdfast_agent.disks.places import explain, open_allowed, real_path
from holdfast_agent.errors import FilesUnreadable, UsageError
from holdfast_agent.mover.control import Control
from holdfast_agent.wire.files import FileEntry, FileKind, MountFiles
from holdfast_agent.wire.movers import MoverHost

from . import fuse
from .asking import PIECE_BYTES, Reader, Refused
from .frames import Inlet, Outlet
from .fuse import ROOT, Attributes, Call, Mounted, Opcode

_MOST_LINK_BYTES = 4095
_MOST_DOUBTS = 20
_TYPES = {
    FileKind.FILE: stat.S_IFREG,
    FileKind.FOLDER: stat.S_IFDIR,
    FileKind.LINK: stat.S_IFLNK,
    FileKind.OTHER: stat.S_IFIFO,
}


class _Known:
    """A node that the kernel may name. ``looks``: how often it was told of it."""

    __slots__ = ("entry", "looks", "path")

    def __init__(self, path: bytes, entry: FileEntry) -> None:
        self.path = path
        self.entry = entry
        self.looks = 0


class Mount:
    """One thread. ``questions``, ``answers``: to and from the reader."""

    def __init__(self, wish: MountFiles, host: MoverHost, control: Control, questions: Outlet, answers: Inlet) -> None:
        """Nothing is mounted yet. Raises as :func:`~holdfast_agent.disks.places.open_allowed`, :class:`UsageError`."""
        self._host, self._control = host, control
        self._reader = Reader(control, questions, answers)
        self._nodes: dict[int, _Known] = {}
        self._numbers: dict[bytes, int] = {}
        self._last = ROOT
        self._mounted: Mounted | None = None
        self._to_others = wish.to_others
        self._folder, self._made = _prepared(wish.target, host)

    def begin(self) -> tuple[str, ...]:
        """Mount. Returns what is to be known of the files. Raises what the reader failed with, and as
        :class:`~.fuse.Mounted`."""
        doubts = self._reader.doubts()
        root = self._reader.folder(b"/").get(b".")
        if root is None:
            raise FilesUnreadable(reason="the reader tells nothing of its root")
        self._nodes[ROOT] = _Known(b"/", root)
        self._mounted = Mounted(self._folder, self._host.agent, to_others=self._to_others)
        return doubts[:_MOST_DOUBTS]

    def serve(self) -> None:
        """After :meth:`begin`, until it is unmounted. Raises ``Cancelled``, and what ends the reader."""
        assert self._mounted is not None  # noqa: S101 - it was begun
        poller = select.poll()
        for fd in (self._mounted.fd, *self._control.fds):
            poller.register(fd, select.POLLIN)
        while True:
            poller.poll()
            self._control.take()
            try:
                call = self._mounted.call()
                if call is not None:
                    self._take(self._mounted, call)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                raise

    def close(self) -> None:
        """Unmount, and remove a folder that was made for it. Called once, never raises."""
        if self._mounted is not None:
            self._mounted.close()
        if self._made:
            with contextlib.suppress(OSError):
                Path(self._folder).rmdir()

    def _take(self, mounted: Mounted, call: Call) -> None:
        if call.opcode == Opcode.FORGET:
            self._forget(call.node, int.from_bytes(call.body[:8], "little"))
        elif call.opcode == Opcode.BATCH_FORGET:
            for at in range(8, len(call.body) - 15, 16):
                node, looks = (int.from_bytes(call.body[at + each : at + each + 8], "little") for each in (0, 8))
                self._forget(node, looks)
        if call.opcode in fuse.UNANSWERED:
            return
        try:
            answer = self._answer(call)
        except Refused as refused:
            mounted.refuse(call, refused.number)
        else:
            mounted.reply(call, answer)

    def _answer(self, call: Call) -> bytes:
        match call.opcode:
            case Opcode.INIT:
                return fuse.init_reply(call.body, to_others=self._to_others)
            case Opcode.STATFS:
                return fuse.statfs_reply()
            case Opcode.OPEN | Opcode.OPENDIR:
                return fuse.open_reply()
            case Opcode.FLUSH | Opcode.RELEASE | Opcode.RELEASEDIR | Opcode.DESTROY:
                return b""
            case Opcode.LOOKUP:
                return self._look_up(self._known(call), call.body.rstrip(b"\0"))
            case Opcode.GETATTR:
                return fuse.attributes_reply(_attributes(call.node, self._known(call).entry))
            case Opcode.READLINK:
                return self._known(call).entry.target[:_MOST_LINK_BYTES]
            case Opcode.READDIR:
                return self._read_folder(self._known(call), *fuse.reading(call.body))
            case Opcode.READ:
                return self._read(self._known(call), *fuse.reading(call.body))
            case Opcode.GETXATTR:
                return self._attribute(self._known(call), *fuse.attribute_asked(call.body))
            case Opcode.LISTXATTR:
                return self._attribute_names(self._known(call), fuse.attribute_asked(call.body)[0])
        raise Refused(errno.ENOSYS)

    def _known(self, call: Call) -> _Known:
        known = self._nodes.get(call.node)
        if known is None:
            raise Refused(errno.ESTALE)
        return known

    def _look_up(self, folder: _Known, name: bytes) -> bytes:
        entry = self._reader.folder(folder.path).get(name)
        if entry is None or name == b".":
            raise Refused(errno.ENOENT)
        path = folder.path.rstrip(b"/") + b"/" + name
        number = self._numbers.get(path)
        if number is None:
            self._last += 1
            number = self._numbers[path] = self._last
            self._nodes[number] = _Known(path, entry)
        self._nodes[number].looks += 1
        return fuse.entry_reply(_attributes(number, entry))

    def _forget(self, number: int, looks: int) -> None:
        known = self._nodes.get(number)
        if known is None or number == ROOT:
            return
        known.looks -= looks
        if known.looks <= 0:
            del self._nodes[number], self._numbers[known.path]

    def _read_folder(self, folder: _Known, offset: int, length: int) -> bytes:
        entries = [(b".", stat.S_IFDIR), (b"..", stat.S_IFDIR)]
        entries += [
            (name, _TYPES[entry.kind]) for name, entry in self._reader.folder(folder.path).items() if name != b"."
        ]
        told = bytearray()
        for place in range(offset, len(entries)):
            name, kind = entries[place]
            packed = fuse.directory_entry(name, place + 1, kind)
            if len(told) + len(packed) > length:
                break
            told += packed
        return bytes(told)

    def _read(self, known: _Known, offset: int, length: int) -> bytes:
        end = min(offset + length, known.entry.size)
        found = bytearray()
        while offset < end:
            number, inside = divmod(offset, PIECE_BYTES)
            part = self._reader.piece(known.path, known.entry.size, number)[inside : inside + end - offset]
            found += part
            offset += len(part)
        return bytes(found)

    def _attribute(self, known: _Known, room: int, name: bytes) -> bytes:
        value = self._reader.attributes(known.path).get(name)
        if value is None:
            raise Refused(errno.ENODATA)
        return _fitting(value, room)

    def _attribute_names(self, known: _Known, room: int) -> bytes:
        return _fitting(b"".join(name + b"\0" for name in self._reader.attributes(known.path)), room)


def _prepared(target: str, host: MoverHost) -> tuple[str, bool]:
    """The folder as the kernel calls it, and whether it was made."""
    path = PurePosixPath(target)
    if not path.is_absolute() or ".." in path.parts or not path.name:
        raise UsageError(reason=f"{target!r} is no absolute path of a folder")
    made = False
    parent = open_allowed(str(path.parent), os.O_RDONLY | os.O_DIRECTORY, str(path), host)
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path.name, 0o700, dir_fd=parent)
            made = True
    except OSError as error:
        raise explain(error, str(path), host) from error
    finally:
        os.close(parent)
    fd = open_allowed(str(path), os.O_RDONLY | os.O_DIRECTORY, str(path), host)
    try:
        with os.scandir(fd) as inside:
            empty = next(inside, None) is None
        if not empty:
            raise UsageError(reason=f"{target} is not empty: name an empty folder, or one that is not there")
        return real_path(fd), made
    finally:
        os.close(fd)


def _fitting(told: bytes, room: int) -> bytes:
    """As getxattr(2) has it: without room the length is told. Raises :class:`Refused`."""
    if not room:
        return fuse.attribute_length_reply(len(told))
    if len(told) > room:
        raise Refused(errno.ERANGE)
    return told


def _attributes(number: int, entry: FileEntry) -> Attributes:
    size = len(entry.target) if entry.kind is FileKind.LINK else entry.size
    mode = entry.mode & 0o1777 | _TYPES[entry.kind]
    return Attributes(number, max(0, size) & (1 << 63) - 1, entry.mtime_ns, mode, entry.uid, entry.gid)
