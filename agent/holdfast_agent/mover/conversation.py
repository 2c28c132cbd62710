"""What two movers say to each other, as data. The mover on the proxy leads; the one on the repository serves.

Backup:  BeginBackup → Opened · (WantIds → Ids)* · Offer → Wanted · Record* · Holes* · Done → Stored
Restore: OpenTree → Opened · (WantIds → Ids)* · (Fetch → Record*)* · Done → Stored
Check:   (Check → (Record | Unreadable)*)* · Done → Stored

Ids and records travel as the payload of their message. Either side may say GaveUp and end.
"""

from __future__ import annotations

import msgspec

from holdfast_agent.errors import ErrorRecord, MalformedMessage
from holdfast_agent.model.change import ChangeMode
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.ids import ID_BYTES, BlockId
from holdfast_agent.model.strict import NOT_DECODED

PAGE_BLOCKS = 8192
"""Blocks to a page of ids: 256 KiB at most, well below one record."""

LEAF_BLOCKS = 256
"""The small page: what one node of the tree holds."""

MAX_OFFER = 4096
MAX_FETCH = 64
MAX_LOST_RUNS = 100_000
Run = tuple[int, int]
"""(first block, number of blocks)."""


class Message(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Base of all messages between movers."""


class BeginBackup(Message, frozen=True, tag=True, array_like=True):
    """The first message of a backup. ``base_root``: the tree that unmentioned blocks are taken from."""

    geometry: Geometry
    mode: ChangeMode
    base_root: BlockId | None
    base_geometry: Geometry | None


class OpenTree(Message, frozen=True, tag=True, array_like=True):
    """The first message of a restore."""

    root: BlockId
    geometry: Geometry


class Opened(Message, frozen=True, tag=True, array_like=True):
    """Ready. ``lost``: blocks of the base whose records may not be referred to any more; they must be read anew."""

    lost: tuple[Run, ...] = ()


class WantIds(Message, frozen=True, tag=True, array_like=True):
    """Ask for one page of ids of the base or the opened tree.

    ``first`` is a multiple of ``blocks``, which is PAGE_BLOCKS, or LEAF_BLOCKS where only a few ids are looked at.
    """

    first: int
    blocks: int = PAGE_BLOCKS


class Ids(Message, frozen=True, tag=True, array_like=True):
    """One page: ``data`` names the runs that are no holes, ascending; their ids follow each other in the payload."""

    first: int
    data: tuple[Run, ...]


class Offer(Message, frozen=True, tag=True, array_like=True):
    """These blocks have the ids of the payload, in order. Answered by :class:`Wanted` with the same number."""

    number: int
    blocks: tuple[Run, ...]


class Wanted(Message, frozen=True, tag=True, array_like=True):
    """For each id of an offer a byte: 1 if its record must be sent, 0 if it is stored or expected already."""

    number: int
    wanted: bytes


class Record(Message, frozen=True, tag=True, array_like=True):
    """A sealed record: its header, which names its id, and its payload. In a backup it may overtake other messages."""

    head: bytes


class Holes(Message, frozen=True, tag=True, array_like=True):
    """Blocks that were data in the base and are zeros now."""

    blocks: Run


class Fetch(Message, frozen=True, tag=True, array_like=True):
    """Send the records of the ids of the payload (at most MAX_FETCH), in any order, each once."""


class Check(Message, frozen=True, tag=True, array_like=True):
    """As :class:`Fetch`, for nodes and blocks; each id that cannot be read is answered by :class:`Unreadable`.

    ``refused``: so many records that came for these ids were whole by their CRCs and yet not what the ids say; the
    server puts those aside and sends the next home's.
    """

    refused: int = 0


class Unreadable(Message, frozen=True, tag=True, array_like=True):
    """The record of the id in the payload cannot be had (any more), and why."""

    reason: str


class Done(Message, frozen=True, tag=True, array_like=True):
    """All has been said. For a backup: blocks offered, blocks told by Holes, blocks left as they are; records sent."""

    offered: int = 0
    holes: int = 0
    left: int = 0
    records: int = 0


class Stored(Message, frozen=True, tag=True, array_like=True):
    """The last message of the serving side: all is durable (a backup), or all was served (a restore)."""

    root: BlockId


class GaveUp(Message, frozen=True, tag=True, array_like=True):
    """The sender failed and ends; the receiver fails with the same error."""

    error: ErrorRecord


AnyMessage = (
    BeginBackup
    | OpenTree
    | Opened
    | WantIds
    | Ids
    | Offer
    | Wanted
    | Record
    | Holes
    | Fetch
    | Check
    | Unreadable
    | Done
    | Stored
    | GaveUp
)
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyMessage] = msgspec.msgpack.Decoder(AnyMessage)


def encode(message: Message) -> bytes:
    return _encoder.encode(message)


def decode(body: bytes | memoryview) -> AnyMessage:
    """Raises :class:`MalformedMessage`."""
    try:
        return _decoder.decode(body)
    except NOT_DECODED as error:
        raise MalformedMessage(peer="the other mover", reason=str(error)) from error


def split_ids(payload: bytes | memoryview, expected: int, most: int) -> list[BlockId]:
    """The ids of a payload. Raises :class:`MalformedMessage` unless there are ``expected``, at most ``most``."""
    if expected > most or len(payload) != expected * ID_BYTES:
        raise MalformedMessage(peer="the other mover", reason="the number of ids is not what the message says")
    flat = bytes(payload)
    return [BlockId(flat[place : place + ID_BYTES]) for place in range(0, len(flat), ID_BYTES)]


def count_blocks(runs: tuple[Run, ...], geometry: Geometry) -> int:
    """Blocks in ``runs``. Raises :class:`MalformedMessage` unless they ascend, do not overlap and lie on the disk."""
    total = following = 0
    for first, count in runs:
        if first < following or count < 1 or first + count > geometry.blocks:
            raise MalformedMessage(peer="the other mover", reason="a run of blocks outside of the disk or out of order")
        following = first + count
        total += count
    return total


def runs_of(blocks: list[int]) -> tuple[Run, ...]:
    """Ascending block numbers as runs."""
    runs: list[Run] = []
    for block in blocks:
        if runs and sum(runs[-1]) == block:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((block, 1))
    return tuple(runs)
