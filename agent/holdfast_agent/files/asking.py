"""Asking the confined reader about files that are mounted. Its answers are judged, and the last ones kept."""

from __future__ import annotations

import contextlib
import errno
import select
from collections import OrderedDict
from typing import TypeVar

from holdfast_agent.errors import FilesUnreadable, MalformedMessage, from_record
from holdfast_agent.mover.control import Control
from holdfast_agent.wire.files import FileEntry

from .attributes import is_told
from .frames import (
    Complaint,
    Data,
    Ended,
    Found,
    Frame,
    Inlet,
    Outlet,
    Question,
    ShowAttributes,
    ShowDoubts,
    ShowFolder,
    ShowPart,
)

PIECE_BYTES = 1 << 20
_PIECES = 32
_FOLDERS = 512
_ATTRIBUTES = 16  # of so many files: whoever looks at one asks for them several times
_MOST_ENTRIES = 1_000_000

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class Refused(Exception):
    """The kernel gets this error number."""

    def __init__(self, number: int) -> None:
        self.number = number


class Reader:
    """One thread. ``questions``, ``answers``: to and from the confined process.

    All methods raise :class:`Refused` for what cannot be read, ``Cancelled``, :class:`MalformedMessage`, and what ended
    the reader.
    """

    def __init__(self, control: Control, questions: Outlet, answers: Inlet) -> None:
        self._control = control
        self._questions = questions
        self._answers = answers
        self._folders: OrderedDict[bytes, dict[bytes, FileEntry]] = OrderedDict()
        self._pieces: OrderedDict[tuple[bytes, int], bytes] = OrderedDict()
        self._attributes: OrderedDict[bytes, dict[bytes, bytes]] = OrderedDict()

    def doubts(self) -> tuple[str, ...]:
        """Where a mount by a kernel may show something else, for people."""
        return self._answers_to(ShowDoubts(b"/"))[1]

    def folder(self, path: bytes) -> dict[bytes, FileEntry]:
        """What is in it, by name; of the root itself also ``.``."""
        entries = self._folders.get(path)
        if entries is None:
            entries = {}
            for frame in self._ask(ShowFolder(path)):
                if not isinstance(frame, Found):
                    raise MalformedMessage(peer="the reader of file systems", reason="not what was asked for")
                name = frame.entry.path
                if 0 < len(name) <= 255 and b"/" not in name and b"\0" not in name and name != b"..":
                    entries[name] = frame.entry
        _keep(self._folders, path, entries, _FOLDERS)
        return entries

    def piece(self, path: bytes, size: int, number: int) -> bytes:
        """The ``number``-th :data:`PIECE_BYTES` of a file with ``size`` bytes."""
        piece = self._pieces.get((path, number))
        if piece is None:
            start = number * PIECE_BYTES
            content = bytearray(min(PIECE_BYTES, size - start))
            for frame in self._ask(ShowPart(path, start, len(content))):
                if not isinstance(frame, Data) or not start <= frame.offset <= start + len(content) - len(frame.data):
                    raise MalformedMessage(peer="the reader of file systems", reason="not what was asked for")
                content[frame.offset - start : frame.offset - start + len(frame.data)] = frame.data
            piece = bytes(content)
        _keep(self._pieces, (path, number), piece, _PIECES)
        return piece

    def attributes(self, path: bytes) -> dict[bytes, bytes]:
        """Extended attributes by their names."""
        found = self._attributes.get(path)
        if found is None:
            frames = self._ask(ShowAttributes(path))
            if len(frames) != 1 or not isinstance(frames[0], Found):
                raise MalformedMessage(peer="the reader of file systems", reason="not what was asked for")
            found = {name: value for name, value in frames[0].entry.attributes if is_told(name)}
        _keep(self._attributes, path, found, _ATTRIBUTES)
        return found

    def _ask(self, question: Question) -> list[Frame]:
        """The whole answer, if nothing was complained of."""
        answer, complaints = self._answers_to(question)
        if complaints:
            raise Refused(errno.EIO)
        return answer

    def _answers_to(self, question: Question) -> tuple[list[Frame], tuple[str, ...]]:
        with contextlib.suppress(BrokenPipeError):  # it has told why, or its end tells
            self._questions.send(question)
        poller = select.poll()
        for fd in (self._answers.fd, *self._control.fds):
            poller.register(fd, select.POLLIN)
        answer: list[Frame] = []
        complaints: list[str] = []
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
                return answer, tuple(complaints)
            if len(answer) + len(complaints) > _MOST_ENTRIES:
                raise MalformedMessage(peer="the reader of file systems", reason="more than was asked for")
            if isinstance(frame, Complaint):
                complaints.append(f"{frame.path[:1000].decode('utf-8', 'backslashreplace')}: {frame.reason}")
            else:
                answer.append(frame)


def _keep(kept: OrderedDict[_Key, _Value], key: _Key, value: _Value, most: int) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > most:
        kept.popitem(last=False)
