"""What the confined reader tells, on the pipe to the process that started it: lengths and msgpack structs.

Everything in them is a stranger's word. Paths of entries to be written are relative to the target, from its first name
on; a folder comes before what is in it.
"""

from __future__ import annotations

import os
import struct
from typing import Annotated

import msgspec

from holdfast_agent.errors import ErrorRecord, MalformedMessage
from holdfast_agent.model.strict import NOT_DECODED
from holdfast_agent.wire.files import FileEntry, VolumeEntry

_LENGTH = struct.Struct("<I")
_MOST_FRAME_BYTES = 4 << 20
_MOST_DATA_BYTES = 1 << 20
_MOST_TEXT = 1000


class Told(msgspec.Struct, frozen=True, tag=True):
    """Base of all frames."""


class Confined(Told, frozen=True, tag=True):
    """The first frame: how it gave up its rights. For the log."""

    how: Annotated[str, msgspec.Meta(max_length=_MOST_TEXT)]


class Volumes(Told, frozen=True, tag=True):
    volumes: Annotated[tuple[VolumeEntry, ...], msgspec.Meta(max_length=4096)]


class Found(Told, frozen=True, tag=True):
    """A file, folder or link. ``same_as``: the path, told before, of which it is another name."""

    entry: FileEntry
    same_as: bytes = b""


class Data(Told, frozen=True, tag=True):
    """Content of the file that was found last, ascending; what is left out is zeros."""

    offset: Annotated[int, msgspec.Meta(ge=0)]
    data: Annotated[bytes, msgspec.Meta(max_length=_MOST_DATA_BYTES)]


class Complete(Told, frozen=True, tag=True):
    """The content of the file that was found last has been told."""


class Complaint(Told, frozen=True, tag=True):
    """``path`` cannot be read, or not further. If it is the file that was found last, that is not whole."""

    path: bytes
    reason: Annotated[str, msgspec.Meta(max_length=_MOST_TEXT)]


class Ended(Told, frozen=True, tag=True):
    """The last frame. ``more``: not everything was told."""

    more: bool = False
    error: ErrorRecord | None = None


class ShowFolder(Told, frozen=True, tag=True):
    """A question: what is in the folder ``path``? Answered by :class:`Found` with names, or a complaint, and Ended."""

    path: bytes


class ShowPart(Told, frozen=True, tag=True):
    """A question: the content of the file ``path`` in a range. Answered by :class:`Data`, or a complaint, and Ended."""

    path: bytes
    offset: int
    length: int


class ShowAttributes(Told, frozen=True, tag=True):
    """A question: the extended attributes of ``path``? Answered by :class:`Found`, or a complaint, and Ended."""

    path: bytes


class ShowDoubts(Told, frozen=True, tag=True):
    """A question: where may a kernel show something else, below ``path``? Answered by complaints and Ended."""

    path: bytes


Question = ShowFolder | ShowPart | ShowAttributes | ShowDoubts
Frame = Confined | Volumes | Found | Data | Complete | Complaint | Ended
_decoder: msgspec.msgpack.Decoder[Frame] = msgspec.msgpack.Decoder(Frame)
_questions: msgspec.msgpack.Decoder[Question] = msgspec.msgpack.Decoder(Question)
_encoder = msgspec.msgpack.Encoder()


def complaint(path: bytes, reason: object) -> Complaint:
    """With as much of the reason as goes."""
    text = str(reason) or type(reason).__name__
    return Complaint(path, text.encode("utf-8", "backslashreplace").decode()[:_MOST_TEXT])


class Outlet:
    """The end that tells, or asks."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def send(self, frame: Frame | Question) -> None:
        """Blocks while nobody takes it. Raises OSError when nobody ever will."""
        body = _encoder.encode(frame)
        left = memoryview(_LENGTH.pack(len(body)) + body)
        while left:
            left = left[os.write(self._fd, left) :]


class Inlet:
    """The other end. ``fd``: to wait on."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def take(self) -> Frame | None:
        """The next frame, waiting for the rest of it; None at the end. Raises :class:`MalformedMessage`."""
        body = self._body()
        try:
            return None if body is None else _decoder.decode(body)
        except NOT_DECODED as error:
            raise MalformedMessage(peer="the reader of file systems", reason=str(error)) from error

    def question(self) -> Question | None:
        """In the reader: what it is asked next; None when nobody asks any more."""
        body = self._body()
        return None if body is None else _questions.decode(body)

    def _body(self) -> bytes | None:
        head = self._exactly(_LENGTH.size)
        if not head:
            return None
        (length,) = _LENGTH.unpack(head)
        if length > _MOST_FRAME_BYTES:
            raise MalformedMessage(peer="the reader of file systems", reason=f"a frame of {length} bytes")
        return self._exactly(length)

    def _exactly(self, length: int) -> bytes:
        """Nothing at the end of the pipe."""
        data = bytearray()
        while len(data) < length:
            chunk = os.read(self.fd, length - len(data))
            if not chunk:
                if data or length != _LENGTH.size:
                    raise MalformedMessage(peer="the reader of file systems", reason="it ended in the midst of a frame")
                return b""
            data += chunk
        return bytes(data)
