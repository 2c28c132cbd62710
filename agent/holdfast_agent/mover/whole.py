"""Blocks and nodes from whichever home gives them whole: each is proved, and what is not is refused.

Used by whoever reads a restore point by the ids of its trees: a copy's source, and an export.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Protocol

from holdfast_agent.errors import FormatUnsupported, ObjectDamaged, OriginDamaged, WrongKey
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.ids import BlockId
from holdfast_agent.sealing.keys import DataKeys
from holdfast_agent.sealing.records import Pieces, open_pieces, open_plain_pieces, parse_header, part_of_pieces
from holdfast_agent.sealing.tree import decode_node

from .fetcher import NoWholeRecord


class Records(Protocol):
    """Where sealed records come from. Thread-safe."""

    def fetch(self, ids: Sequence[BlockId], refused: int = 0) -> list[Future[Pieces]]:
        """Ask for records; each future gives one as it is stored, unproved, or raises why it cannot be had.

        ``refused``: so many records came for these ids that were not what they say (the conversation's ``Check``). A
        future always ends, by :class:`NoWholeRecord` or a :class:`HoldfastError` if it must.
        """


def whole_block(
    records: Records,
    keys: DataKeys,
    block_id: BlockId,
    geometry: Geometry,
    place: tuple[int, str],
    first: Future[Pieces] | None = None,
) -> bytes:
    """The plain block ``block_id``. ``place``: its number and its disk, for errors. ``first``: if asked for already.

    Raises :class:`OriginDamaged` (no home of it is whole), :class:`WrongKey` (it needs a key that we were not given),
    and what the records raise.
    """
    plain = _from_any_home(records, keys, block_id, place, open_pieces, first)
    if len(plain) != geometry.block_bytes:
        raise OriginDamaged(what=f"block {place[0]}", disk=place[1], reason="it is not of its disk's block size")
    return plain


def part_of_block(
    records: Records, keys: DataKeys, block_id: BlockId, start: int, end: int, place: tuple[int, str]
) -> bytes:
    """Plain bytes ``[start, end)`` of a sealed block, by the word of who sealed it: see
    :func:`~holdfast_agent.sealing.records.part_of_pieces`. Raises as :func:`whole_block`."""
    return _from_any_home(records, keys, block_id, place, partial(part_of_pieces, start=start, end=end))


def _from_any_home(
    records: Records,
    keys: DataKeys,
    block_id: BlockId,
    place: tuple[int, str],
    opened: Callable[[Pieces, DataKeys, BlockId], bytes],
    first: Future[Pieces] | None = None,
) -> bytes:
    refused = 0
    record = first or records.fetch([block_id])[0]
    while True:
        try:
            sealed = record.result()
            return opened(sealed, keys, block_id)
        except NoWholeRecord as error:
            raise OriginDamaged(what=f"block {place[0]}", disk=place[1], reason=str(error)) from error
        except (ObjectDamaged, WrongKey) as error:
            if isinstance(error, WrongKey) and keys.key_of(parse_header(sealed[0]).epoch) is None:
                raise  # a key that we were not given says nothing about the record
            refused += 1
            record = records.fetch([block_id], refused)[0]


def whole_nodes(records: Records, nodes: Sequence[tuple[BlockId, int]], geometry: Geometry, disk: str) -> list[bytes]:
    """The children's ids of each (id, level), trailing holes cut off. Blocks. Raises :class:`OriginDamaged`, and what
    the records raise."""
    asked = records.fetch([node_id for node_id, _ in nodes])
    return [
        _whole_node(records, node_id, level, geometry, disk, record)
        for (node_id, level), record in zip(nodes, asked, strict=True)
    ]


def _whole_node(
    records: Records, node_id: BlockId, level: int, geometry: Geometry, disk: str, record: Future[Pieces]
) -> bytes:
    refused = 0
    while True:
        try:
            data = open_plain_pieces(record.result(), node_id)
            return decode_node(data, node_id, level, geometry.block_log2).ids
        except NoWholeRecord as error:
            raise OriginDamaged(what="a node of the block tree", disk=disk, reason=str(error)) from error
        except (ObjectDamaged, FormatUnsupported):
            refused += 1
            record = records.fetch([node_id], refused)[0]
