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
from collections import OrderedDict
from pathlib import Path, PurePosixPath

from holdfast_agent.disks.places import explain, open_allowed, real_path
from holdfast_agent.errors import FilesUnreadable, MalformedMessage, UsageError, from_record
from holdfast_agent.mover.control import Control
from holdfast_agent.wire.files import FileEntry, FileKind
from holdfast_agent.wire.movers import MoverHost

from . import fuse
from .frames import Complaint, Data, Ended, Found, Frame, Inlet, Outlet, ShowFolder, ShowPart
from .fuse import ROOT, Attributes, Call, Mounted, Opcode

_PIECE_BYTES = 1 << 20
_PIECES = 32
_FOLDERS = 512
_MOST_ENTRIES = 1_000_000
_MOST_LINK_BYTES = 4095
_TYPES = {
    FileKind.FILE: stat.S_IFREG,
    FileKind.FOLDER: stat.S_IFDIR,
    FileKind.LINK: stat.S_IFLNK,
    FileKind.OTHER: stat.S_IFIFO,
}


class Refused(Exception):
    """The kernel gets this error number."""

    def __init__(self, number: int) -> None:
        self.number = number


class _Known:
    """A node that the kernel may name. ``looks``: how often it was told of it."""

    __slots__ = ("entry", "looks", "path")

    def __init__(self, path: bytes, entry: FileEntry) -> None:
        self.path = path
        self.entry = entry
        self.looks = 0


class Mount:
    """One thread. ``questions``, ``answers``: to and from the reader."""

    def __init__(self, target: str, host: MoverHost, control: Control, questions: Outlet, answers: Inlet) -> None:
        """Nothing is mounted yet. Raises as :func:`~holdfast_agent.disks.places.open_allowed`, :class:`UsageError`."""
        self._host, self._control = host, control
        self._questions, self._answers = questions, answers
        self._nodes: dict[int, _Known] = {}
        self._numbers: dict[bytes, int] = {}
        self._last = ROOT
        self._folders: OrderedDict[bytes, dict[bytes, FileEntry]] = OrderedDict()
        self._pieces: OrderedDict[tuple[bytes, int], bytes] = OrderedDict()
        self._mounted: Mounted | None = None
        self._folder, self._made = _prepared(target, host)

    def begin(self) -> None:
        """Mount. Raises what the reader failed with, and as :class:`~.fuse.Mounted`."""
        root = self._listed(b"/").get(b".")
        if root is None:
            raise FilesUnreadable(reason="the reader tells nothing of its root")
        self._nodes[ROOT] = _Known(b"/", root)
        self._mounted = Mounted(self._folder, self._host.agent)

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
                return fuse.init_reply(call.body)
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
        raise Refused(errno.ENOSYS)

    def _known(self, call: Call) -> _Known:
        known = self._nodes.get(call.node)
        if known is None:
            raise Refused(errno.ESTALE)
        return known

    def _look_up(self, folder: _Known, name: bytes) -> bytes:
        entry = self._listed(folder.path).get(name)
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
        entries += [(name, _TYPES[entry.kind]) for name, entry in self._listed(folder.path).items() if name != b"."]
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
            number, inside = divmod(offset, _PIECE_BYTES)
            part = self._piece(known, number)[inside : inside + end - offset]
            found += part
            offset += len(part)
        return bytes(found)

    def _piece(self, known: _Known, number: int) -> bytes:
        key = (known.path, number)
        piece = self._pieces.get(key)
        if piece is not None:
            self._pieces.move_to_end(key)
            return piece
        start = number * _PIECE_BYTES
        content = bytearray(min(_PIECE_BYTES, known.entry.size - start))
        for frame in self._ask(ShowPart(known.path, start, len(content))):
            if not isinstance(frame, Data) or not start <= frame.offset <= start + len(content) - len(frame.data):
                raise MalformedMessage(peer="the reader of file systems", reason="not what was asked for")
            content[frame.offset - start : frame.offset - start + len(frame.data)] = frame.data
        self._pieces[key] = bytes(content)
        if len(self._pieces) > _PIECES:
            self._pieces.popitem(last=False)
        return self._pieces[key]

    def _listed(self, path: bytes) -> dict[bytes, FileEntry]:
        entries = self._folders.get(path)
        if entries is not None:
            self._folders.move_to_end(path)
            return entries
        entries = {}
        for frame in self._ask(ShowFolder(path)):
            if not isinstance(frame, Found):
                raise MalformedMessage(peer="the reader of file systems", reason="not what was asked for")
            name = frame.entry.path
            if 0 < len(name) <= 255 and b"/" not in name and b"\0" not in name and name != b"..":
                entries[name] = frame.entry
        self._folders[path] = entries
        if len(self._folders) > _FOLDERS:
            self._folders.popitem(last=False)
        return entries

    def _ask(self, question: ShowFolder | ShowPart) -> list[Frame]:
        """All that the reader answers. Raises :class:`Refused`, ``Cancelled``, and what ends the reader."""
        with contextlib.suppress(BrokenPipeError):  # it has told why, or its end tells
            self._questions.send(question)
        poller = select.poll()
        for fd in (self._answers.fd, *self._control.fds):
            poller.register(fd, select.POLLIN)
        answer: list[Frame] = []
        complained = False
        while True:
            ready = [fd for fd, _ in poller.poll()]
            self._control.take()
            if self._answers.fd not in ready:
                continue
            frame = self._answers.take()
            if frame is None:
                raise FilesUnreadable(reason="its reader ended in the midst of it")
            if isinstance(frame, Ended):
                if frame.error is not None:
                    raise from_record(frame.error)
                if complained:
                    raise Refused(errno.EIO)
                return answer
            if isinstance(frame, Complaint):
                complained = True
            elif len(answer) > _MOST_ENTRIES:
                raise MalformedMessage(peer="the reader of file systems", reason="more than was asked for")
            else:
                answer.append(frame)


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


def _attributes(number: int, entry: FileEntry) -> Attributes:
    size = len(entry.target) if entry.kind is FileKind.LINK else entry.size
    mode = entry.mode & 0o1777 | _TYPES[entry.kind]
    return Attributes(number, max(0, size) & (1 << 63) - 1, entry.mtime_ns, mode, entry.uid, entry.gid)
