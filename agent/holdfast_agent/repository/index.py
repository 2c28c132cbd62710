"""The local index: in which pack and where each record stands. A cache of the published segments and never more.

Rows exist only for records of published packs. The index never leads the store: whatever about it is stale, cut,
damaged or foreign is thrown away and read again from segments, from tables of contents, or from record headers.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from holdfast_agent.errors import FormatUnsupported, ObjectDamaged, ObjectMissing, RepositoryIoError
from holdfast_agent.model.ids import BlockId
from holdfast_agent.sealing.keys import repository_id_bytes

from . import database
from .layout import INDEX, PACKS
from .packs import PackContents, read_contents, scan_contents
from .segments import MOST_SEGMENT_BYTES, decode_segment
from .store import ObjectStore

T = TypeVar("T")
_ATTEMPTS = 50  # collectors that work without a pause may replace what is being read again and again
_BATCH = 500  # ids per query; SQLite takes 999 variables at least


class Location(msgspec.Struct, frozen=True, array_like=True):
    """One home of a record: pack, offset of its header, and length of header and payload in bytes."""

    pack: str
    offset: int
    length: int
    kind: int


Unreadable = Callable[[str, RepositoryIoError], object]
"""(name of a pack, what the storage said)."""


class LocalIndex:
    """Look-ups in one repository from one host. Thread-safe; several processes may share the same folder."""

    def __init__(self, folder: Path, repository_id: str, store: ObjectStore) -> None:
        self.folder = folder
        self._repository_id = repository_id
        self._store = store
        self._lock = threading.RLock()
        self._path, self._database = database.open_current(folder, repository_id)

    def close(self) -> None:
        with self._lock:
            self._database.close()

    def update(self) -> None:
        """Read segments that were published since; start anew if one that was read is no longer there.

        A segment that is damaged is replaced by the tables of contents of its writer's packs.
        """
        self._healing(self._update)

    def complete(self, unreadable: Unreadable | None = None) -> None:
        """As :meth:`update`, and packs that no segment names are read by their own tables: segments may be lost.

        ``unreadable`` is told of packs that the storage cannot read, which stay unknown; without it the first one
        raises :class:`RepositoryIoError`.
        """
        self._healing(lambda: self._complete(unreadable))

    def rebuild(self) -> int:
        """Throw everything away and read it again, packs that no segment names included. Returns the records found."""

        def rebuild() -> int:
            self._renew()
            self._complete()
            return int(self._database.execute("SELECT count(*) FROM records").fetchone()[0])

        return self._healing(rebuild)

    def add(self, segment: str | None, packs: Sequence[PackContents]) -> None:
        """Insert rows for packs that are published; ``segment`` names the published segment that says so."""
        self._healing(lambda: self._add(segment, packs))

    def forget(self, pack: str, ids: Iterable[BlockId] | None) -> None:
        """Remove a pack and its rows; before the collector removes the pack itself. Idempotent.

        ``ids`` of its records make that quick; None looks at every row.
        """
        listed = None if ids is None else list(ids)
        self._healing(lambda: self._forget(pack, listed))

    def replace_segments(self, old: Sequence[str], new: Sequence[str], remove: Callable[[], None]) -> None:
        """Let segments ``new`` stand for ``old``, whose rows are here already; ``remove`` takes the old from the store.

        In one transaction, so that nobody who shares this file sees a segment vanish that it believes to be there.
        """

        def replace() -> None:
            with self._transaction():
                known = {name for (name,) in self._database.execute("SELECT name FROM segments")}
                remove()
                if known.issuperset(old):
                    self._database.executemany("INSERT OR IGNORE INTO segments VALUES (?)", ((name,) for name in new))
                self._database.executemany("DELETE FROM segments WHERE name = ?", ((name,) for name in old))

        self._healing(replace)

    def find(self, ids: Iterable[BlockId]) -> dict[BlockId, list[Location]]:
        """All known homes of each id; ids without any are left out."""
        wanted = list(dict.fromkeys(ids))
        return self._healing(lambda: self._find(wanted))

    def packs(self) -> list[tuple[str, int, bytes]]:
        """(name, size in bytes, BLAKE3 of all before the footer) of all packs that have rows."""
        return self._healing(lambda: self._database.execute("SELECT name, size, digest FROM packs").fetchall())

    def known_packs(self, names: Iterable[str]) -> set[str]:
        """Those of ``names`` that have rows."""
        return self._healing(lambda: set(self._compare(names, "packs.name IN (SELECT name FROM temp.listed)")))

    def absent_packs(self, listed: Iterable[str]) -> set[str]:
        """Packs that have rows and are not among ``listed``, the names of all that the store holds."""
        return self._healing(lambda: set(self._compare(listed, "packs.name NOT IN (SELECT name FROM temp.listed)")))

    def _compare(self, names: Iterable[str], condition: str) -> Iterator[str]:
        """Compared in SQLite, not in a Python set: a large repository has millions of packs."""
        self._database.execute("CREATE TEMP TABLE IF NOT EXISTS listed (name TEXT PRIMARY KEY) WITHOUT ROWID")
        self._database.execute("BEGIN")
        try:
            self._database.executemany("INSERT OR IGNORE INTO temp.listed VALUES (?)", ((name,) for name in names))
            query = f"SELECT name FROM packs WHERE {condition}"  # noqa: S608 -- one of two constants
            yield from (name for (name,) in self._database.execute(query).fetchall())
        finally:
            self._database.execute("ROLLBACK")

    def _healing(self, action: Callable[[], T]) -> T:
        """Run ``action``; if the database turns out to be odd, begin a new one and run it once more."""
        with self._lock:
            try:
                with database.guarded(self.folder):
                    return action()
            except database.IndexOdd:
                self._renew()
            try:
                with database.guarded(self.folder):
                    self._update()
                    return action()
            except database.IndexOdd as error:
                raise RepositoryIoError(operation="renewing", name="the local index", reason=str(error)) from error

    def _renew(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._database.close()
        self._path, self._database = database.replace(self.folder, self._repository_id, self._path)

    def _update(self, unreadable: Unreadable | None = None) -> None:
        for _ in range(_ATTEMPTS):
            loaded = self._loaded()  # before the listing, which then shows all of them, and what came since
            published = set(self._store.names(INDEX))
            if loaded - published:
                with self._transaction():  # a collector that is replacing segments has ended when this begins
                    loaded = self._loaded()
                    published = set(self._store.names(INDEX))
                if loaded - published:
                    self._renew()
                    loaded = set()
            try:
                for name in sorted(published - loaded):
                    self._load(name, unreadable)
            except ObjectMissing:
                continue  # a collector has put another in its place, which the next listing shows
            return
        raise RepositoryIoError(operation="reading", name=INDEX, reason="segments vanish while they are read")

    def _complete(self, unreadable: Unreadable | None = None) -> None:
        self._update(unreadable)
        self._add_unnamed_packs(lambda name: True, unreadable)

    def _loaded(self) -> set[str]:
        return {name for (name,) in self._database.execute("SELECT name FROM segments")}

    def _load(self, name: str, unreadable: Unreadable | None) -> None:
        repository_id = repository_id_bytes(self._repository_id)
        try:
            segment = decode_segment(name, self._store.read(name, MOST_SEGMENT_BYTES), repository_id)
        except (ObjectDamaged, FormatUnsupported):
            writer = name.removeprefix(f"{INDEX}/").rpartition("-")[0]  # <sid>-<mover>, or base-<generation>
            self._add_unnamed_packs(
                lambda pack: writer.startswith("base-") or pack.startswith(f"{writer}-"), unreadable
            )
            self._add(name, ())
        else:
            self._add(name, segment.packs)

    def _add_unnamed_packs(self, wanted: Callable[[str], bool], unreadable: Unreadable | None) -> None:
        """Rows for published packs that no readable segment names, from their own tables or headers."""
        known = {name for (name,) in self._database.execute("SELECT name FROM packs")}
        repository_id = repository_id_bytes(self._repository_id)
        for path in self._store.names(PACKS):
            name = path.rpartition("/")[2]
            if name in known or not wanted(name):
                continue
            try:
                self._add(None, [self._contents(name, repository_id)])
            except ObjectMissing:
                continue  # a collector has removed it since the listing
            except RepositoryIoError as error:
                if unreadable is None:
                    raise
                unreadable(name, error)

    def _contents(self, pack: str, repository_id: bytes) -> PackContents:
        try:
            return read_contents(self._store, pack, repository_id)
        except (ObjectDamaged, FormatUnsupported):
            return scan_contents(self._store, pack)

    def _add(self, segment: str | None, packs: Sequence[PackContents]) -> None:
        with self._transaction():
            for pack in packs:
                self._insert(pack)
            if segment is not None:
                self._database.execute("INSERT OR IGNORE INTO segments VALUES (?)", (segment,))

    def _forget(self, pack: str, ids: list[BlockId] | None) -> None:
        with self._transaction():
            row = self._database.execute("SELECT number FROM packs WHERE name = ?", (pack,)).fetchone()
            if row is None:
                return
            if ids is None:
                self._database.execute("DELETE FROM records WHERE pack = ?", row)
            else:
                rows = ((each, row[0]) for each in ids)
                self._database.executemany("DELETE FROM records WHERE id = ? AND pack = ?", rows)
            self._database.execute("DELETE FROM packs WHERE number = ?", row)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._database.execute("ROLLBACK")
            raise

    def _insert(self, pack: PackContents) -> None:
        row = (pack.name, pack.size_bytes, pack.digest)
        self._database.execute("INSERT OR IGNORE INTO packs (name, size, digest) VALUES (?, ?, ?)", row)
        number = self._database.execute("SELECT number FROM packs WHERE name = ?", (pack.name,)).fetchone()[0]
        rows = sorted((entry.id, number, entry.offset, entry.length, entry.kind) for entry in pack.entries)
        self._database.executemany("INSERT OR IGNORE INTO records VALUES (?, ?, ?, ?, ?)", rows)

    def _find(self, wanted: list[BlockId]) -> dict[BlockId, list[Location]]:
        found: dict[BlockId, list[Location]] = {}
        for start in range(0, len(wanted), _BATCH):
            batch = wanted[start : start + _BATCH]
            marks = ",".join("?" * len(batch))
            # One statement: records and packs as of one moment, for a collector may remove both.
            query = f"""SELECT id, packs.name, offset, length, kind FROM records
                LEFT JOIN packs ON packs.number = records.pack WHERE id IN ({marks})"""  # noqa: S608 -- marks only
            for identity, pack, offset, length, kind in self._database.execute(query, batch).fetchall():
                if pack is None:
                    raise database.IndexOdd("a row names a pack that the index does not know")
                found.setdefault(BlockId(identity), []).append(Location(pack, offset, length, kind))
        return found
