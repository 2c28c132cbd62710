"""Walking restore points for a verification: every node and every record that one refers to has a good home."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from holdfast_agent.errors import RepositoryError
from holdfast_agent.model.ids import HOLE, ID_BYTES, BlockId, Sid
from holdfast_agent.sealing.keys import DataKeys, RepositoryKeys
from holdfast_agent.sealing.records import open_plain_record, open_record
from holdfast_agent.sealing.roots import open_point, read_point, root_id
from holdfast_agent.sealing.tree import Node, child_slots, decode_node, root_level

from . import layout
from .findings import Findings, Key
from .index import LocalIndex, Location
from .quarantine import Quarantine
from .readers import read_home
from .repository import Repository


class PointWalk:
    """``_tainted`` remembers what was found in each subtree, so that shared ones are walked once. One owner thread."""

    def __init__(
        self,
        repository: Repository,
        index: LocalIndex,
        findings: Findings,
        sizes: Mapping[str, int],
        quarantine: Quarantine,
        keys: RepositoryKeys | None,
        level: int,
        step: Callable[[], None],
        advance: Callable[[int], None],
        leaving: frozenset[str] = frozenset(),
    ) -> None:
        """``sizes``: bytes of the packs that are there. ``step`` is called before each object and may raise.
        ``leaving``: packs whose homes are looked at only where there is no other."""
        self._leaving = leaving
        self._repository = repository
        self._store = repository.store
        self._index = index
        self._findings = findings
        self._sizes = sizes
        self._quarantine = quarantine
        self._keys = keys
        self._level = level
        self._step = step
        self._advance = advance
        self._clean: set[BlockId] = set()
        self._tainted: dict[BlockId, frozenset[Key]] = {}

    def check(self, sid: Sid, asked_for: bool) -> None:
        """Check one point. ``asked_for``: by its id, so that its absence is a finding."""
        self._step()
        name = layout.point_object(sid)
        try:
            entry = self._repository.committed(sid)
            if entry is None:
                if asked_for:
                    self._point_lost(sid, name, "there is no such restore point")
                return
            point = open_point(entry, self._keys) if self._keys else read_point(entry)
        except RepositoryError as error:
            self._point_lost(sid, name, error.text)
            return
        touched: set[Key] = set()
        for disk in point.disks:
            touched |= self._walk(root_id(disk.root), root_level(disk.geometry), disk.block_log2)
        if point.config is not None:
            blob_keys = self._keys.blob_keys() if self._keys else None
            touched |= self._check_records([root_id(point.config)], blob_keys)
        self._findings.touch(touched, sid)

    def _point_lost(self, sid: Sid, name: str, detail: str) -> None:
        key = self._findings.report("point", name, detail)
        self._findings.touch([key], sid)
        self._findings.lose([key])

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
            data_keys = self._keys.opening_keys() if self._keys else None
            touched |= self._check_records([wanted for wanted in ids if wanted != HOLE], data_keys)
        if touched:
            self._tainted[node_id] = frozenset(touched)
        else:
            self._clean.add(node_id)
        return frozenset(touched)

    def _read_node(self, node_id: BlockId, level: int, block_log2: int) -> tuple[Node | None, set[Key]]:
        touched: set[Key] = set()
        node: Node | None = None
        homes = self._index.find([node_id]).get(node_id, [])
        for home in self._lasting(homes):
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
            for home in self._lasting(found.get(record_id, [])):
                key = self._problem_of(record_id, home, keys)
                if key is None:
                    usable += 1
                else:
                    blamed.add(key)
            if not usable:
                blamed.add(self._lose(record_id, blamed, "record"))
            touched |= blamed
        return touched

    def _lasting(self, homes: list[Location]) -> list[Location]:
        return [home for home in homes if home.pack not in self._leaving] or homes

    def _problem_of(self, record_id: BlockId, home: Location, keys: DataKeys | None) -> Key | None:
        known = self._findings.of_record(record_id, home.pack)
        if known is not None:
            return known
        if home.offset + home.length > self._sizes.get(home.pack, 0):
            return self._findings.of_pack(home.pack) or self._findings.report(
                "record", home.pack, "the pack ends before the record"
            )
        if self._quarantine.names(record_id, home.pack):  # only the key could tell that it is good after all
            return self._findings.bad_record(record_id, home.pack, "it is in quarantine")
        opens = self._level == 2 and keys is not None
        if not opens and home.pack not in self._quarantine.packs:
            return None
        self._step()
        try:
            record = read_home(self._store, record_id, home)
            if opens and keys is not None:
                open_record(record, keys, record_id)
        except RepositoryError as error:
            return self._blame(record_id, home, "record", error.text)
        if opens:
            self._advance(home.length)
        return None

    def _blame(self, record_id: BlockId, home: Location, kind: str, detail: str) -> Key:
        """The finding for one bad home: that of its pack if the pack is gone or cut, else one of its own."""
        pack = self._findings.of_pack(home.pack)
        if pack is not None and home.offset + home.length > self._sizes.get(home.pack, 0):
            return pack
        return self._findings.bad_record(record_id, home.pack, detail, kind)

    def _lose(self, record_id: BlockId, blamed: set[Key], kind: str) -> Key:
        """No home of a record can be read: whatever is to blame has cost data."""
        keys = blamed or {self._findings.nowhere(record_id, kind)}
        self._findings.lose(keys)
        return next(iter(keys))
