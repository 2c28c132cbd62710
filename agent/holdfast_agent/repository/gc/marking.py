"""Marking: the ids of everything that the roots refer to, each tree node read once however many points share it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from holdfast_agent.errors import CollectionRefused, ObjectDamaged, ObjectMissing
from holdfast_agent.model.ids import HOLE, ID_BYTES, BlockId
from holdfast_agent.model.points import Point
from holdfast_agent.sealing.records import open_plain_record
from holdfast_agent.sealing.roots import root_id
from holdfast_agent.sealing.tree import decode_node, root_level

from ..readers import BlockReader
from .runs import SortedRuns

Place = tuple[int, int]


def mark(reader: BlockReader, points: Iterable[Point], folder: Path, step: Callable[[int], None]) -> SortedRuns:
    """Ids of all nodes, blocks and configurations of ``points``; the caller closes the result.

    Level by level from the roots down, so that memory is bounded. ``step`` is called with the number of nodes read,
    now and then, and may raise. Raises :class:`CollectionRefused` if a node cannot be read: what is below it is not
    known.
    """
    live = SortedRuns(ID_BYTES, folder)
    levels: dict[Place, SortedRuns] = {}
    try:
        for point in points:
            for disk in point.disks:
                root = root_id(disk.root)
                if root != HOLE:
                    place = (root_level(disk.geometry), disk.block_log2)
                    levels.setdefault(place, SortedRuns(ID_BYTES, folder)).add([root])
            if point.config is not None:
                live.add([root_id(point.config)])
        while levels:
            place = max(levels)
            with levels.pop(place) as nodes:
                _descend(reader, place, nodes, live, levels, folder, step)
    except BaseException:
        live.close()
        raise
    finally:
        for left in levels.values():
            left.close()
    return live


def _descend(
    reader: BlockReader, place: Place, nodes: SortedRuns, live: SortedRuns, levels: dict[Place, SortedRuns],
    folder: Path, step: Callable[[int], None],
) -> None:  # fmt: skip
    level, block_log2 = place
    live.add(nodes)
    below = levels.setdefault((level - 1, block_log2), SortedRuns(ID_BYTES, folder)) if level else live
    for ids in _read_nodes(reader, place, nodes):
        below.add(wanted for start in range(0, len(ids), ID_BYTES) if (wanted := ids[start : start + ID_BYTES]) != HOLE)
        step(1)


def _read_nodes(reader: BlockReader, place: Place, nodes: SortedRuns) -> Iterator[bytes]:
    """The children's ids of each node."""
    try:
        for node_id, record in reader.read_many(BlockId(node) for node in nodes):
            yield decode_node(open_plain_record(record, node_id), node_id, *place).ids
    except (ObjectDamaged, ObjectMissing) as error:
        reason = f"a part of a restore point cannot be read, so what it needs is not known ({error.text})"
        raise CollectionRefused(reason=reason) from error
