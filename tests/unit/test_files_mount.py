"""What a reader that lies can make of a mount: its own names and contents, and nothing else."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from holdfast_agent.errors import MalformedMessage
from holdfast_agent.files import mount
from holdfast_agent.files.asking import Refused
from holdfast_agent.files.frames import Complaint, Data, Ended, Found, Frame, Inlet, Outlet
from holdfast_agent.files.fuse import ROOT, Call, Opcode
from holdfast_agent.mover.control import Control
from holdfast_agent.wire.files import FileEntry, FileKind, MountFiles
from holdfast_agent.wire.movers import MoverHost

ROOT_ENTRY = FileEntry(b".", FileKind.FOLDER, mode=0o755)


class Asked:
    """A mount without the kernel, and the pipe by which its reader answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(mount, "_prepared", lambda target, host: (target, False))
        inlet, self._told = os.pipe()
        self.quiet, self._never = os.pipe()
        questions, self._questions = os.pipe()
        self.fds = [inlet, self._told, self.quiet, self._never, questions, self._questions]
        control = type("Quiet", (), {"fds": (self.quiet,), "take": lambda self: None})()
        self._reader = Outlet(self._told)
        nobody = cast(MoverHost, None)
        self.mount = mount.Mount(
            MountFiles(target="/m"), nobody, cast(Control, control), Outlet(self._questions), Inlet(inlet)
        )
        self.mount._nodes[ROOT] = mount._Known(b"/", ROOT_ENTRY)

    def answer(self, *frames: Frame) -> None:
        for frame in (*frames, Ended()):
            self._reader.send(frame)

    def call(self, opcode: Opcode, node: int, body: bytes) -> bytes:
        return self.mount._answer(Call(opcode, 1, node, body))

    def look_up(self, name: bytes) -> int:
        node: int = struct.unpack_from("<Q", self.call(Opcode.LOOKUP, ROOT, name + b"\0"))[0]
        return node


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Asked]:
    made = Asked(monkeypatch)
    yield made
    for fd in made.fds:
        os.close(fd)


def read(length: int = 4096) -> bytes:
    return struct.pack("<QQI", 0, 0, length)


def test_names_that_lead_elsewhere_are_not_there(asked: Asked) -> None:
    names = (b"good", b"..", b"a/b", b"", b"\0", b"x" * 256)
    asked.answer(Found(ROOT_ENTRY), *(Found(FileEntry(name, FileKind.FILE)) for name in names))
    told = asked.call(Opcode.READDIR, ROOT, read())
    assert b"good" in told and b"a/b" not in told and b"x" * 100 not in told
    with pytest.raises(Refused) as refused:
        asked.look_up(b"a/b")
    assert refused.value.number == errno.ENOENT


def test_setuid_bits_and_sizes_that_are_none_do_not_reach_the_kernel(asked: Asked) -> None:
    asked.answer(Found(FileEntry(b"f", FileKind.FILE, size=-5, mode=0o106755, mtime_ns=-(1 << 62), uid=1 << 40)))
    asked.look_up(b"f")
    attributes = asked.call(Opcode.GETATTR, asked.look_up(b"f"), b"")[16:]
    assert struct.unpack_from("<Q", attributes, 8) == (0,)
    assert struct.unpack_from("<I", attributes, 60) == (0o100755,)


@pytest.mark.parametrize("data", [Data(99, b"xx"), Data(8 << 20, b"x"), Found(FileEntry(b"f", FileKind.FILE))])
def test_content_that_was_not_asked_for_ends_it(asked: Asked, data: Frame) -> None:
    asked.answer(Found(FileEntry(b"f", FileKind.FILE, size=100)))
    node = asked.look_up(b"f")
    asked.answer(data)
    with pytest.raises(MalformedMessage):
        asked.call(Opcode.READ, node, read())


def test_what_cannot_be_read_is_an_error_and_what_is_forgotten_is_stale(asked: Asked) -> None:
    asked.answer(Found(FileEntry(b"f", FileKind.FILE, size=100)))
    node = asked.look_up(b"f")
    asked.answer(Data(0, b"part"), Complaint(b"/f", "damaged"))
    with pytest.raises(Refused) as refused:
        asked.call(Opcode.READ, node, read())
    assert refused.value.number == errno.EIO
    asked.answer(Data(10, b"here"))
    assert asked.call(Opcode.READ, node, read()) == bytes(10) + b"here" + bytes(86)
    asked.mount._forget(node, 1)
    with pytest.raises(Refused) as refused:
        asked.call(Opcode.READ, node, read())
    assert refused.value.number == errno.ESTALE


def test_attributes_are_told_as_getxattr_does_and_only_those_of_files(asked: Asked) -> None:
    asked.answer(Found(FileEntry(b"f", FileKind.FILE)))
    node = asked.look_up(b"f")
    attributes = ((b"user.note", b"value"), (b"system.nfs4_acl", b"x"), (b"user.a\0user.b", b"x"), (b"user.", b""))
    asked.answer(Found(FileEntry(b".", FileKind.FILE, attributes=attributes)))
    assert asked.call(Opcode.LISTXATTR, node, struct.pack("<II", 100, 0)) == b"user.note\0"
    assert asked.call(Opcode.LISTXATTR, node, struct.pack("<II", 0, 0)) == struct.pack("<II", 10, 0)
    assert asked.call(Opcode.GETXATTR, node, struct.pack("<II", 5, 0) + b"user.note\0") == b"value"
    assert asked.call(Opcode.GETXATTR, node, struct.pack("<II", 0, 0) + b"user.note\0") == struct.pack("<II", 5, 0)
    for room, name, number in ((4, b"user.note", errno.ERANGE), (100, b"system.nfs4_acl", errno.ENODATA)):
        with pytest.raises(Refused) as refused:
            asked.call(Opcode.GETXATTR, node, struct.pack("<II", room, 0) + name + b"\0")
        assert refused.value.number == number
    asked.mount._reader._attributes.clear()
    asked.answer(Data(0, b"x"))
    with pytest.raises(MalformedMessage):
        asked.call(Opcode.LISTXATTR, node, struct.pack("<II", 100, 0))
