"""What points, VMs and the whole repository take: counted from the trees and the index, without keys.

Every record is attributed to the oldest point that refers to it, so that the parts add up to the whole. What one
point, or one VM, has for itself is what pruning it would free. Points that are pruned already do not count.
Subtrees that points share are walked once for each new sharer at most; memory is bounded, SQLite spills to disk.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Sequence

from holdfast_agent.errors import Cancelled, ObjectMissing, PointNotFound
from holdfast_agent.model.ids import HOLE, ID_BYTES, BlockId, Sid
from holdfast_agent.model.points import Point
from holdfast_agent.sealing.records import RecordKind, open_plain_record
from holdfast_agent.sealing.roots import read_point, root_id
from holdfast_agent.sealing.tree import decode_node, root_level
from holdfast_agent.wire.messages import PointSizes, Sizes, StatisticsEnded, VmSizes

from .layout import PACKS
from .readers import BlockReader
from .repository import Repository

MOST_POINTS_TOLD = 20_000  # they fit one message
_CACHE_KIB = 64 << 10
_SHARED = -1
_SCHEMA = """
CREATE TABLE records (
    id BLOB PRIMARY KEY, kind INTEGER NOT NULL, plain INTEGER NOT NULL, stored INTEGER NOT NULL,
    blocks INTEGER NOT NULL, first INTEGER NOT NULL, point INTEGER NOT NULL, vm INTEGER NOT NULL
) WITHOUT ROWID
"""
# `first`: number of the oldest point with the record; `point`, `vm`: the only one that has it, or -1.
_INSERT = "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_SHARE = f"UPDATE records SET point = {_SHARED}, vm = CASE WHEN vm = ? THEN vm ELSE {_SHARED} END WHERE id = ?"  # noqa: S608 -- a constant
_ATTRIBUTED = f"""
SELECT first, sum(CASE WHEN kind = {RecordKind.DATA:d} THEN plain ELSE 0 END),
    sum(CASE WHEN kind = {RecordKind.DATA:d} THEN stored ELSE 0 END),
    sum(CASE WHEN kind = {RecordKind.DATA:d} THEN 0 ELSE stored END)
FROM records GROUP BY first
"""  # noqa: S608 -- a constant


def count_repository(
    repository: Repository, ticket: str, wanted: Sequence[Sid] = (), cancel: Callable[[], bool] = lambda: False
) -> StatisticsEnded:
    """Count all points; tell of ``wanted`` (empty: of the newest :data:`MOST_POINTS_TOLD`).

    ``cancel`` is asked at every node. Raises :class:`Cancelled`, :class:`PointNotFound` for a wanted point that is not
    there, and :class:`ObjectMissing` or :class:`ObjectDamaged` where a tree cannot be read: verification tells more.
    """
    points = sorted((read_point(entry) for entry in repository.points()), key=lambda point: (point.created, point.sid))
    for sid in set(wanted) - {point.sid for point in points}:
        raise PointNotFound(point=sid)
    with contextlib.closing(_Count(repository, cancel)) as count:
        for point in points:
            count.add(point)
        return count.ended(ticket, frozenset(wanted))


class _Count:
    """Points are added oldest first. One owner thread."""

    def __init__(self, repository: Repository, cancel: Callable[[], bool]) -> None:
        self._repository = repository
        self._reader: BlockReader = repository.reader()
        self._cancel = cancel
        self._points: list[tuple[Point, int]] = []
        self._vms: dict[tuple[str, str], int] = {}
        self._used: list[int] = []
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute(_SCHEMA)
        self._database.execute("BEGIN")  # nothing is ever committed: the file goes with the connection

    def close(self) -> None:
        self._database.close()

    def add(self, point: Point) -> None:
        vm = self._vms.setdefault((point.server, point.vm_id), len(self._vms))
        self._points.append((point, vm))
        walk = _Walk(self, len(self._points) - 1, vm)
        used = 0
        for disk in point.disks:
            blocks = walk.node(root_id(disk.root), root_level(disk.geometry), disk.block_log2)
            used += blocks << disk.block_log2
        if point.config is not None:
            walk.records([root_id(point.config)], RecordKind.BLOB, 0)
        self._used.append(used)

    def ended(self, ticket: str, wanted: frozenset[Sid]) -> StatisticsEnded:
        sizes = self._sizes()
        told = [number for number, (point, _) in enumerate(self._points) if not wanted or point.sid in wanted]
        left_off = max(0, len(told) - MOST_POINTS_TOLD)
        packs = sum(self._repository.store.size(name) for name in self._repository.store.names(PACKS))
        total = _sum(sizes)
        return StatisticsEnded(
            ticket=ticket,
            total=_with_freed(total, total.stored_bytes + total.metadata_bytes),
            packs_bytes=packs,
            vms=tuple(self._vm_sizes(sizes)),
            points=tuple(PointSizes(sid=self._points[n][0].sid, sizes=sizes[n]) for n in told[left_off:]),
            left_off=left_off,
        )

    def _sizes(self) -> list[Sizes]:
        attributed = {row[0]: row[1:] for row in self._database.execute(_ATTRIBUTED)}
        freed = dict(self._database.execute("SELECT point, sum(stored) FROM records GROUP BY point").fetchall())
        found = []
        for number, (point, _) in enumerate(self._points):
            unique, stored, metadata = attributed.get(number, (0, 0, 0))
            found.append(
                Sizes(
                    logical_bytes=sum(disk.size_bytes for disk in point.disks),
                    used_bytes=self._used[number],
                    unique_bytes=unique,
                    stored_bytes=stored,
                    metadata_bytes=metadata,
                    freed_bytes=freed.get(number, 0),
                )
            )
        return found

    def _vm_sizes(self, sizes: list[Sizes]) -> Iterable[VmSizes]:
        freed = dict(self._database.execute("SELECT vm, sum(stored) FROM records GROUP BY vm").fetchall())
        for (server, vm_id), vm in self._vms.items():
            own = [number for number, (_, its) in enumerate(self._points) if its == vm]
            yield VmSizes(
                server=server,
                vm_id=vm_id,
                vm_name=self._points[own[-1]][0].vm_name,
                points=len(own),
                sizes=_with_freed(_sum([sizes[number] for number in own]), freed.get(vm, 0)),
            )

    def seen(self, ids: Sequence[BlockId]) -> dict[BlockId, tuple[int, int, int]]:
        """(only point, only VM, blocks below) of those of ``ids`` that were counted before; a leaf's at most."""
        if self._cancel():
            raise Cancelled(reason="the count was stopped")
        marks = ",".join("?" * len(ids))
        query = f"SELECT id, point, vm, blocks FROM records WHERE id IN ({marks})"  # noqa: S608 -- marks only
        return {BlockId(row[0]): row[1:] for row in self._database.execute(query, ids)}

    def children(self, node_id: BlockId, level: int, block_log2: int) -> list[BlockId]:
        """Ids of a node's children that are no holes."""
        data = open_plain_record(self._reader.read_record(node_id), node_id)
        ids = decode_node(data, node_id, level, block_log2).ids
        children = (BlockId(ids[place : place + ID_BYTES]) for place in range(0, len(ids), ID_BYTES))
        return [child for child in children if child != HOLE]

    def insert(self, ids: Sequence[BlockId], kind: RecordKind, plain: int, blocks: int, point: int, vm: int) -> None:
        """Records that no point had before. Of several homes the smallest counts."""
        homes = self._repository.index.find(ids)
        for lost in set(ids) - homes.keys():
            raise ObjectMissing(name=f"record {lost.hex()[:16]}")
        rows = [
            (each, int(kind), plain, min(home.length for home in homes[each]), blocks, point, point, vm) for each in ids
        ]
        self._database.executemany(_INSERT, rows)

    def share(self, ids: Iterable[BlockId], vm: int) -> None:
        """Records that another point has too."""
        self._database.executemany(_SHARE, [(vm, each) for each in ids])


class _Walk:
    """The walk over one point's trees: ``point`` and ``vm`` are its numbers."""

    def __init__(self, count: _Count, point: int, vm: int) -> None:
        self._count = count
        self._point = point
        self._vm = vm

    def node(self, node_id: BlockId, level: int, block_log2: int) -> int:
        """Count a subtree; the number of its blocks that are no holes, each as often as it occurs."""
        if node_id == HOLE:
            return 0
        seen = self._count.seen([node_id]).get(node_id)
        if seen is not None and self._nothing_new(*seen):
            return seen[2]
        children = self._count.children(node_id, level, block_log2)
        if level == 0:
            blocks = len(children)
            self.records(children, RecordKind.DATA, 1 << block_log2)
        else:
            blocks = sum(self.node(child, level - 1, block_log2) for child in children)
        self.records([node_id], RecordKind.NODE, 0, blocks)
        return blocks

    def _nothing_new(self, point: int, vm: int, _blocks: int) -> bool:
        """Whether a record says already what this point could add; a node says it of all below it, too."""
        return point == self._point or (point == _SHARED and vm in (self._vm, _SHARED))

    def records(self, ids: Sequence[BlockId], kind: RecordKind, plain: int, blocks: int = 0) -> None:
        wanted = list(dict.fromkeys(ids))
        seen = self._count.seen(wanted)
        self._count.share([each for each, facts in seen.items() if not self._nothing_new(*facts)], self._vm)
        new = [each for each in wanted if each not in seen]
        if new:
            self._count.insert(new, kind, plain, blocks, self._point, self._vm)


def _sum(parts: Iterable[Sizes]) -> Sizes:
    fields = dict.fromkeys(Sizes.__struct_fields__, 0)
    for part in parts:
        for name in fields:
            fields[name] += getattr(part, name)
    return Sizes(**fields)


def _with_freed(sizes: Sizes, freed_bytes: int) -> Sizes:
    return Sizes(
        logical_bytes=sizes.logical_bytes,
        used_bytes=sizes.used_bytes,
        unique_bytes=sizes.unique_bytes,
        stored_bytes=sizes.stored_bytes,
        metadata_bytes=sizes.metadata_bytes,
        freed_bytes=freed_bytes,
    )
