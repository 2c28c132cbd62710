"""Verification: what is damaged or missing, which restore points it touches, and whether data is lost.

Level 0: points, nodes, index, packs present with their sizes. Level 1: every pack read, BLAKE3 and CRCs. Level 2,
with keys: every record that a point refers to is opened and its id computed anew. Damage is reported, never raised.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import msgspec

from holdfast_agent.errors import Cancelled, RepositoryError
from holdfast_agent.model.ids import HOLE, ID_BYTES, BlockId, Sid
from holdfast_agent.model.points import PointEntry
from holdfast_agent.sealing.keys import DataKeys, RepositoryKeys, repository_id_bytes
from holdfast_agent.sealing.records import open_plain_record, open_record
from holdfast_agent.sealing.roots import open_point, read_point, root_id
from holdfast_agent.sealing.tree import Node, child_slots, decode_node, root_level
from holdfast_agent.wire.messages import Finding

from . import layout
from .collector_log import packs_to_avoid
from .documents import DocumentType, read_document
from .index import LocalIndex, Location
from .packs import check_pack
from .readers import read_home
from .repository import Repository
from .segments import MOST_SEGMENT_BYTES, decode_segment

Progress = Callable[[int, int], None]


class VerifyReport(msgspec.Struct, frozen=True):
    """What was found. No findings: everything that the level looks at is as it must be."""

    findings: tuple[Finding, ...]
    objects_checked: int
    checked_bytes: int

    @property
    def ok(self) -> bool:
        return not self.findings


def verify(
    repository: Repository,
    level: int,
    points: Sequence[PointEntry] | None = None,
    keys: RepositoryKeys | None = None,
    on_progress: Progress = lambda checked, total: None,
    cancel: Callable[[], bool] = lambda: False,
) -> VerifyReport:
    """Verify ``points`` (None: all) at ``level`` 0 to 2; with ``points`` given, damage elsewhere is reported too.

    ``keys`` are needed for level 2; with them the MACs of points are checked at every level. ``on_progress`` gets
    (checked, total) bytes of packs, ``cancel`` is asked before every object; both run in the calling thread. Raises
    :class:`Cancelled` only, and storage errors of the whole repository (not mounted).
    """
    if not 0 <= level <= 2 or (level == 2 and keys is None):
        raise ValueError("levels are 0, 1 and, with keys, 2")
    with _scratch(repository.index.folder) as folder:
        # A private index, read from the store at this moment: the shared one is a cache and may hide what is lost.
        index = LocalIndex(folder, repository.repository_id, repository.store)
        try:
            run = _Verification(repository, index, level, keys, on_progress, cancel)
            return run.run(points)
        finally:
            index.close()


@contextlib.contextmanager
def _scratch(cache: Path) -> Iterator[Path]:
    """A folder for the private index (some 60 bytes a record: too much for a tmpfs); clears those of dead processes."""
    for left in cache.glob("verify-*-*"):
        if not Path(f"/proc/{left.name.split('-')[1]}").exists():
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"verify-{os.getpid()}-", dir=cache) as folder:
        yield Path(folder)


class _Found:
    """A finding that still gathers the points that it touches."""

    def __init__(self, kind: str, name: str, detail: str) -> None:
        self.kind = kind
        self.name = name
        self.detail = detail
        self.points: set[Sid] = set()
        self.lost = False

    def finding(self) -> Finding:
        return Finding(
            object=self.name, kind=self.kind, detail=self.detail, points=tuple(sorted(self.points)), lost=self.lost
        )


Key = tuple[str, str]


class _Verification:
    """One run. ``_tainted`` remembers what was found in each subtree, so that shared ones are walked once."""

    def __init__(
        self,
        repository: Repository,
        index: LocalIndex,
        level: int,
        keys: RepositoryKeys | None,
        on_progress: Progress,
        cancel: Callable[[], bool],
    ) -> None:
        self._repository = repository
        self._store = repository.store
        self._index = index
        self._level = level
        self._keys = keys
        self._on_progress = on_progress
        self._cancel = cancel
        self._found: dict[Key, _Found] = {}
        self._sizes: dict[str, int] = {}
        self._bad_records: dict[tuple[BlockId, str], Key] = {}
        self._bad_packs: dict[str, Key] = {}
        self._clean: set[BlockId] = set()
        self._tainted: dict[BlockId, frozenset[Key]] = {}
        self._objects = 0
        self._checked = 0
        self._total = 0

    def run(self, points: Sequence[PointEntry] | None) -> VerifyReport:
        self._check_slots()
        self._check_segments()
        self._guarded("log", layout.GC, lambda: packs_to_avoid(self._store))
        self._index.update()
        self._check_packs()
        for sid in [entry.sid for entry in points] if points is not None else self._repository.point_sids():
            self._check_point(sid)
        findings = sorted(self._found.values(), key=lambda found: (not found.lost, found.kind, found.name))
        return VerifyReport(tuple(found.finding() for found in findings), self._objects, self._checked)

    # --- objects --------------------------------------------------------------------------------------------------

    def _check_slots(self) -> None:
        for name in sorted(self._store.names(layout.KEYS)):
            self._guarded("key slot", name, partial(read_document, self._store, name, DocumentType.KEY_SLOT))

    def _check_segments(self) -> None:
        for name in sorted(self._store.names(layout.INDEX)):
            self._guarded("segment", name, partial(self._read_segment, name))

    def _read_segment(self, name: str) -> None:
        repository_id = repository_id_bytes(self._repository.repository_id)
        decode_segment(name, self._store.read(name, MOST_SEGMENT_BYTES), repository_id)

    def _check_packs(self) -> None:
        """Presence and sizes; from level 1 on the whole contents."""
        expected = {name: (size, digest) for name, size, digest in self._index.packs()}
        present = {name.rpartition("/")[2]: name for name in self._store.names(layout.PACKS)}
        for name, path in sorted(present.items()):
            try:
                self._sizes[name] = self._store.size(path)
            except RepositoryError as error:
                self._bad_packs[name] = self._report("pack", name, error.text)
        swept = _packs_to_avoid(self._repository)
        for name, (size, _) in sorted(expected.items()):
            if name not in present:
                if name not in swept:
                    self._bad_packs[name] = self._report("pack", name, "it is missing")
            elif self._sizes.get(name, size) != size:
                detail = f"it has {self._sizes[name]} bytes and must have {size}"
                self._bad_packs[name] = self._report("pack", name, detail)
        self._total = sum(self._sizes.values()) * self._level
        if self._level >= 1:
            for name in sorted(self._sizes):
                self._read_pack(name, expected.get(name, (0, b""))[1])

    def _read_pack(self, name: str, digest: bytes) -> None:
        self._step()
        try:
            check = check_pack(self._store, name, repository_id_bytes(self._repository.repository_id))
        except RepositoryError as error:
            self._bad_packs[name] = self._report("pack", name, error.text)
            return
        contents = check.contents
        if check.problem:
            self._bad_packs.setdefault(name, self._report("pack", name, check.problem))
        elif digest and contents.digest != digest:
            self._bad_packs.setdefault(name, self._report("pack", name, "its BLAKE3 is not the one in the index"))
        for record_id, reason in check.bad:
            self._bad_records[record_id, name] = self._report("record", f"{name}/{record_id.hex()[:16]}", reason)
        self._advance(self._sizes[name])

    # --- points ---------------------------------------------------------------------------------------------------

    def _check_point(self, sid: Sid) -> None:
        self._step()
        name = layout.point_object(sid)
        try:
            entry = self._repository.committed(sid)
            if entry is None:
                return
            point = open_point(entry, self._keys) if self._keys else read_point(entry)
        except RepositoryError as error:
            found = self._found[self._report("point", name, error.text)]
            found.points.add(sid)
            found.lost = True
            return
        touched: set[Key] = set()
        for disk in point.disks:
            touched |= self._walk(root_id(disk.root), root_level(disk.geometry), disk.block_log2)
        if point.config is not None:
            blob_keys = self._keys.blob_keys() if self._keys else None
            touched |= self._check_records([root_id(point.config)], blob_keys)
        for key in touched:
            self._found[key].points.add(sid)

    def _walk(self, node_id: BlockId, level: int, block_log2: int) -> frozenset[Key]:
        """What is wrong in a subtree; remembered by its root, which stands for all its content."""
        if node_id == HOLE or node_id in self._clean:
            return frozenset()
        if node_id in self._tainted:
            return self._tainted[node_id]
        self._step()
        node, touched = self._read_node(node_id, level, block_log2)
        if node is not None and level > 0:
            for _, child in child_slots(node):
                touched |= self._walk(child, level - 1, block_log2)
        elif node is not None:
            ids = [BlockId(node.ids[place : place + ID_BYTES]) for place in range(0, len(node.ids), ID_BYTES)]
            touched |= self._check_records([wanted for wanted in ids if wanted != HOLE], self._data_keys())
        if touched:
            self._tainted[node_id] = frozenset(touched)
        else:
            self._clean.add(node_id)
        return frozenset(touched)

    def _read_node(self, node_id: BlockId, level: int, block_log2: int) -> tuple[Node | None, set[Key]]:
        touched: set[Key] = set()
        node: Node | None = None
        homes = self._index.find([node_id]).get(node_id, [])
        for home in homes:
            try:
                data = open_plain_record(read_home(self._store, node_id, home), node_id)
                node = decode_node(data, node_id, level, block_log2)
            except RepositoryError as error:
                touched.add(self._blame(node_id, home, "node", error.text))
        if node is None:
            touched.add(self._lose(node_id, touched, "node"))
        return node, touched

    def _check_records(self, ids: list[BlockId], keys: DataKeys | None) -> set[Key]:
        touched: set[Key] = set()
        found = self._index.find(ids)
        for record_id in dict.fromkeys(ids):
            blamed: set[Key] = set()
            usable = 0
            for home in found.get(record_id, []):
                key = self._problem_of(record_id, home, keys)
                if key is None:
                    usable += 1
                else:
                    blamed.add(key)
            if not usable:
                blamed.add(self._lose(record_id, blamed, "record"))
            touched |= blamed
        return touched

    def _problem_of(self, record_id: BlockId, home: Location, keys: DataKeys | None) -> Key | None:
        known = self._bad_records.get((record_id, home.pack))
        if known is not None:
            return known
        if home.offset + home.length > self._sizes.get(home.pack, 0):
            return self._bad_packs.get(home.pack) or self._report(
                "record", home.pack, "the pack ends before the record"
            )
        if self._level < 2 or keys is None:
            return None
        self._step()
        try:
            open_record(read_home(self._store, record_id, home), keys, record_id)
        except RepositoryError as error:
            return self._blame(record_id, home, "record", error.text)
        self._advance(home.length)
        return None

    def _blame(self, record_id: BlockId, home: Location, kind: str, detail: str) -> Key:
        """The finding for one bad home: that of its pack if the pack is gone or cut, else one of its own."""
        if home.offset + home.length > self._sizes.get(home.pack, 0) and home.pack in self._bad_packs:
            return self._bad_packs[home.pack]
        key = self._bad_records.get((record_id, home.pack))
        if key is None:
            key = self._report(kind, f"{home.pack}/{record_id.hex()[:16]}", detail)
            self._bad_records[record_id, home.pack] = key
        return key

    def _lose(self, record_id: BlockId, blamed: set[Key], kind: str) -> Key:
        """No home of a record can be read: whatever is to blame has cost data."""
        for key in blamed:
            self._found[key].lost = True
        if blamed:
            return next(iter(blamed))
        key = self._report(kind, record_id.hex()[:16], "it is in no pack")
        self._found[key].lost = True
        return key

    # --- bookkeeping ----------------------------------------------------------------------------------------------

    def _data_keys(self) -> DataKeys | None:
        return self._keys.data_keys() if self._keys else None

    def _guarded(self, kind: str, name: str, check: Callable[[], object]) -> None:
        self._step()
        try:
            check()
        except RepositoryError as error:
            self._report(kind, name, error.text)

    def _report(self, kind: str, name: str, detail: str) -> Key:
        self._found.setdefault((kind, name), _Found(kind, name, detail))
        return kind, name

    def _step(self) -> None:
        if self._cancel():
            raise Cancelled(reason="the verification was stopped")
        self._objects += 1

    def _advance(self, checked_bytes: int) -> None:
        self._checked += checked_bytes
        self._on_progress(self._checked, max(self._total, self._checked))


def _packs_to_avoid(repository: Repository) -> frozenset[str]:
    """Packs that a collector has swept or may sweep; none if its log is damaged, which is a finding of its own."""
    try:
        return packs_to_avoid(repository.store)
    except RepositoryError:
        return frozenset()
