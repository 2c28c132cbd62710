"""A proxy that sends a file as it should not, and a reader that tells nonsense: nothing false looks like a file."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Callable, Sequence

import msgspec
import pytest

from holdfast_agent.channel.data_listener import DataListener
from holdfast_agent.errors import FilesUnreadable, HoldfastError, MalformedMessage, NotFound
from holdfast_agent.files.frames import Complaint, Complete, Data, Ended, Found, Frame, Volumes
from holdfast_agent.files.sending import Outgoing
from holdfast_agent.model.link import LinkTimeouts
from holdfast_agent.wire.files import FileBegins, FileData, FileEnds, FileEntry, FileKind, FilePart
from holdfast_manager.sessions.file_stream import Events, received

FILE = FileEntry(b"/etc/shadow", FileKind.FILE, size=10)
Part = tuple[FilePart | bytes, bytes]


class Sender:
    """A proxy's end of the real channel, which sends ``parts``. With ``cut`` it is then cut off, once something has
    been taken, and ``cut`` is called."""

    def __init__(self, parts: Sequence[Part], cut: Callable[[], None] | None = None) -> None:
        self.secret = os.urandom(32)
        self.taken = threading.Event()
        self._parts, self._cut = parts, cut
        timeouts = LinkTimeouts(resume_s=0)
        self._listener = DataListener("127.0.0.1", "127.0.0.1", (0, 0), self.secret, timeouts=timeouts)
        self.endpoints = (self._listener.endpoint,)
        self._thread = threading.Thread(target=self._send, daemon=True)

    def __enter__(self) -> Sender:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.taken.set()
        self._thread.join(30)
        assert not self._thread.is_alive()

    def _send(self) -> None:
        connection = None
        while connection is None:
            connection = self._listener.poll(0.2)
        with contextlib.suppress(HoldfastError):
            for part, payload in self._parts:
                connection.send(part if isinstance(part, bytes) else msgspec.msgpack.encode(part), (payload,))
            while self._cut is not None and not self.taken.is_set():
                connection.wait(0.05)
            while self._cut is None and not connection.part(0.2):
                pass
        connection.abort()
        if self._cut is not None:
            self._cut()


def content(parts: Sequence[Part], cut: Callable[[Events], None] | None = None) -> bytes:
    events: Events = queue.SimpleQueue()
    got: list[FileEntry | bytes] = []
    with Sender(parts, None if cut is None else lambda: cut(events)) as sender:
        for part in received(sender.endpoints, sender.secret, events):
            got.append(part)
            sender.taken.set()
    assert got[0] == FILE
    return b"".join(part for part in got if isinstance(part, bytes))


def test_what_is_left_out_is_zeros() -> None:
    assert content([(FileBegins(FILE), b""), (FileData(2), b"abc"), (FileEnds(), b"")]) == b"\0\0abc\0\0\0\0\0"


@pytest.mark.parametrize(
    "parts",
    [
        [(FileData(0), b"before anything")],
        [(FileEnds(), b"")],
        [(FileBegins(FILE), b""), (FileBegins(FILE), b"")],
        [(FileBegins(FILE), b""), (FileData(8), b"beyond")],
        [(FileBegins(FILE), b""), (FileData(1 << 62), b"")],
        [(FileBegins(FILE), b""), (FileData(4), b"abc"), (FileData(2), b"back")],
        [(b"\xc1 no message", b"")],
        [(msgspec.msgpack.encode({"type": "Run", "what": "rm"}), b"")],
    ],
    ids=["data first", "nothing", "twice", "beyond the end", "far beyond", "backwards", "noise", "another message"],
)
def test_nonsense_of_a_proxy_ends_it(parts: list[Part]) -> None:
    with pytest.raises(MalformedMessage):
        content(parts)


def test_a_file_that_is_cut_off_never_looks_whole_and_the_reason_is_told() -> None:
    def tell(events: Events) -> None:
        events.put(NotFound(kind="file", name="x").to_record())

    with pytest.raises(NotFound):
        content([(FileBegins(FILE), b""), (FileData(0), b"half")], tell)


class Taken:
    """In the place of a connection: what would have been sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send(self, body: bytes, payload: Sequence[bytes] = ()) -> int:
        self.sent.append(body + b"".join(payload))
        return 0


@pytest.mark.parametrize(
    ("frames", "error"),
    [
        ([Data(0, b"x")], MalformedMessage),
        ([Complete()], MalformedMessage),
        ([Volumes(())], MalformedMessage),
        ([Ended()], MalformedMessage),
        ([Found(FILE), Found(FILE)], MalformedMessage),
        ([Found(FILE), Data(8, b"beyond")], MalformedMessage),
        ([Found(FILE), Data(4, b"abc"), Data(2, b"back")], MalformedMessage),
        ([Found(FILE), Complaint(b"/etc/shadow", "a hole in its map")], FilesUnreadable),
        ([Ended(error=NotFound(kind="file", name="x").to_record())], NotFound),
    ],
)
def test_nonsense_of_a_reader_is_not_passed_on(frames: list[Frame], error: type[HoldfastError]) -> None:
    taken = Taken()
    outgoing = Outgoing(taken)  # type: ignore[arg-type] # as much of a connection as it uses
    with pytest.raises(error):
        for frame in frames:
            outgoing.take(frame)
    assert not outgoing.ended
    assert msgspec.msgpack.encode(FileEnds()) not in taken.sent
