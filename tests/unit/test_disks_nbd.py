"""Parts of the NBD client: how many requests are on their way."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Sequence

from holdfast_agent.disks.nbd.connection import Connection
from holdfast_agent.disks.nbd.negotiation import Export
from holdfast_agent.disks.nbd.protocol import SIMPLE_REPLY_MAGIC, ExportFlag
from holdfast_agent.disks.nbd.requests import ReadRequest

EXPORT = Export(1 << 20, ExportFlag.HAS_FLAGS, 1, 1 << 20, False, {}, "")


class Answering:
    """A stream whose other side reads all that it is sent, and answers as late as it can: when bytes are waited for."""

    def __init__(self) -> None:
        self.unanswered: deque[tuple[int, int, int]] = deque()
        self.most = 0
        self._said = bytearray()

    def send(self, parts: Sequence[bytes | memoryview]) -> None:
        self.unanswered.append(struct.unpack_from(">QQI", parts[0], 8))
        self.most = max(self.most, len(self.unanswered))

    def receive_into(self, view: memoryview) -> None:
        while len(self._said) < len(view):
            cookie, offset, length = self.unanswered.popleft()
            self._said += struct.pack(">IIQ", SIMPLE_REPLY_MAGIC, 0, cookie) + bytes([offset >> 12]) * length
        view[:] = self._said[: len(view)]
        del self._said[: len(view)]

    def receive_some(self, view: memoryview) -> int:
        self.receive_into(view)
        return len(view)

    def set_timeout(self, timeout_s: float) -> None: ...

    def shut_down(self) -> None: ...

    def close(self) -> None: ...


def test_a_large_read_has_several_requests_on_its_way_and_never_more_than_eight() -> None:
    """One at a time would wait for each; all at once would queue on the server and spend the time-out of the last."""
    stream, buffer = Answering(), bytearray(40 << 12)
    places = [memoryview(buffer)[at : at + 4096] for at in range(0, len(buffer), 4096)]
    Connection(stream, EXPORT, 60.0).run(ReadRequest(number << 12, view) for number, view in enumerate(places))
    assert stream.most == 8
    assert buffer == b"".join(bytes([number]) * 4096 for number in range(40))
