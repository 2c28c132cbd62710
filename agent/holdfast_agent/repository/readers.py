"""Reading records back: from whichever home is whole, in the order of the disk below."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice

from holdfast_agent.errors import FormatUnsupported, ObjectDamaged, ObjectMissing, RepositoryError, RepositoryIoError
from holdfast_agent.model.ids import BlockId
from holdfast_agent.sealing.records import check_payload, parse_header, split_record

from .index import LocalIndex, Location
from .layout import pack_object
from .quarantine import Quarantine
from .store import ObjectStore

_BATCH = 1024
Answer = tuple[BlockId, bytes | RepositoryError]
OnBad = Callable[[BlockId, Location, str], None]


class NotHere(ObjectDamaged):
    """Where the index says that a record stands, there is none or another: the index is stale, or a header damaged."""


class BlockReader:
    """Hands out sealed records exactly as they are stored, checked for damage. Thread-safe; holds nothing open."""

    def __init__(self, store: ObjectStore, index: LocalIndex, on_bad: OnBad = lambda *_: None) -> None:
        """``on_bad`` is told of every home that is damaged, in the reading thread, perhaps several times."""
        self._store = store
        self._index = index
        self._on_bad = on_bad
        index.update()
        self._quarantine = Quarantine.read(store)
        self._refreshing = threading.Lock()
        self._refreshed = False

    def locate(self, ids: Iterable[BlockId]) -> list[Location | None]:
        """The best known home of each id, in the order of ``ids``; None where none is known."""
        wanted = list(ids)
        homes = self._homes(wanted)
        return [homes[wanted_id][0] if homes.get(wanted_id) else None for wanted_id in wanted]

    def read_record(self, record_id: BlockId) -> bytes:
        """Header and payload of one record, CRCs checked, from the first home that is whole.

        Raises :class:`ObjectMissing` if no home is known, else the error of the last home tried. The first time that
        nothing is found the index is read anew: it may be stale, and is never trusted more than the store.
        """
        return self._read_any(record_id, self._homes([record_id]).get(record_id, []))

    def read_other(self, record_id: BlockId, refused: int) -> bytes:
        """As :meth:`read_record`, from the first home after ``refused`` that are whole by their CRCs and yet wrong.

        For level 2, where who holds the keys finds a record that is not what its id says. ``on_bad`` is told of each
        that was refused. Raises :class:`ObjectMissing` when no home is left.
        """
        for home in self._homes([record_id]).get(record_id, []):
            try:
                record = read_home(self._store, record_id, home)
            except RepositoryError as error:
                self._complain(record_id, home, error)
                continue
            if not refused:
                return record
            refused -= 1
            self._on_bad(record_id, home, "its content does not match its id")
        raise ObjectMissing(name=f"a whole record {record_id.hex()[:16]}")

    def read_other_each(self, ids: Iterable[BlockId], refused: int) -> Iterator[Answer]:
        """:meth:`read_other` for each id, with the error in the place of each record that cannot be read."""
        for record_id in ids:
            try:
                record: bytes | RepositoryError = self.read_other(record_id, refused)
            except RepositoryError as error:
                record = error
            yield record_id, record

    def read_many(self, ids: Iterable[BlockId]) -> Iterator[tuple[BlockId, bytes]]:
        """(id, record) of each distinct id, in the order of packs and offsets within windows of about a thousand.

        For restores: sequential reading, no more than one record in memory at a time. Raises as :meth:`read_record`.
        """
        for record_id, record in self.read_each(ids):
            if isinstance(record, RepositoryError):
                raise record
            yield record_id, record

    def read_each(self, ids: Iterable[BlockId]) -> Iterator[Answer]:
        """As :meth:`read_many`, with the error in the place of each record that cannot be read."""
        remaining = iter(ids)
        while window := list(dict.fromkeys(islice(remaining, _BATCH))):
            homes = self._homes(window)
            order = sorted(window, key=lambda wanted: _place(homes.get(wanted)))
            for record_id in order:
                try:
                    record: bytes | RepositoryError = self._read_any(record_id, homes.get(record_id, []))
                except RepositoryError as error:
                    record = error
                yield record_id, record

    def _homes(self, ids: list[BlockId]) -> dict[BlockId, list[Location]]:
        found = self._index.find(ids)
        for record_id, homes in found.items():
            homes.sort(key=partial(self._rank, record_id))
        return found

    def _rank(self, record_id: BlockId, home: Location) -> tuple[bool, str, int]:
        """Trusted homes first."""
        return self._quarantine.holds(record_id, home.pack), home.pack, home.offset

    def _read_any(self, record_id: BlockId, homes: list[Location]) -> bytes:
        try:
            return self._read_first(record_id, homes)
        except (ObjectMissing, NotHere):
            self._index.update()
            moved = self._homes([record_id]).get(record_id, [])
            if moved != homes:  # a collector has moved it since; its old rows went before its old pack
                with contextlib.suppress(ObjectMissing, NotHere):
                    return self._read_first(record_id, moved)
            if not self._refresh():
                raise
        return self._read_first(record_id, self._homes([record_id]).get(record_id, []))

    def _refresh(self) -> bool:
        with self._refreshing:
            if self._refreshed:
                return False
            self._refreshed = True
            self._index.rebuild()
            return True

    def _read_first(self, record_id: BlockId, homes: list[Location]) -> bytes:
        problem: RepositoryError = ObjectMissing(name=f"record {record_id.hex()[:16]}")
        for home in homes:
            try:
                return read_home(self._store, record_id, home)
            except (ObjectMissing, ObjectDamaged, FormatUnsupported, RepositoryIoError) as error:
                self._complain(record_id, home, error)
                problem = error
        raise problem

    def _complain(self, record_id: BlockId, home: Location, error: RepositoryError) -> None:
        """Tell of damage. Not of a place that a stale index may have made up, nor of storage that is not there."""
        stale = isinstance(error, NotHere) and not self._refreshed
        if isinstance(error, (ObjectDamaged, RepositoryIoError)) and not stale:
            self._on_bad(record_id, home, error.text)


def read_home(store: ObjectStore, record_id: BlockId, home: Location) -> bytes:
    """The record ``record_id`` from one home, CRCs checked. Raises :class:`NotHere`, :class:`ObjectDamaged`."""
    record = store.read_range(pack_object(home.pack), home.offset, home.length)
    try:
        header = parse_header(record, home.pack, home.offset)
    except ObjectDamaged as error:
        raise NotHere(**error.fields) from error
    if header.id != record_id or header.record_length != home.length:
        raise NotHere(name=home.pack, offset_bytes=home.offset, reason="another record stands where one was expected")
    if len(record) != home.length:
        raise ObjectDamaged(name=home.pack, offset_bytes=home.offset, reason="the record is cut off")
    check_payload(header, split_record(record)[1], home.pack, home.offset)
    return record


def _place(homes: list[Location] | None) -> tuple[str, int]:
    return (homes[0].pack, homes[0].offset) if homes else ("", 0)
