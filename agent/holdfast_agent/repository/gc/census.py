"""The census: every pack that the store holds and every record in it, sorted by id; taken from the store itself."""

from __future__ import annotations

import array
import contextlib
import struct
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path

from holdfast_agent.errors import FormatUnsupported, ObjectDamaged, ObjectMissing
from holdfast_agent.model.ids import ID_BYTES, BlockId
from holdfast_agent.sealing.codecs import Codec
from holdfast_agent.sealing.keys import Cipher, repository_id_bytes
from holdfast_agent.sealing.records import RecordKind

from .. import layout
from ..packs import read_contents
from ..quarantine import Quarantine
from ..repository import Repository
from ..segments import MOST_SEGMENT_BYTES, open_segment
from .runs import SortedRuns

_ENTRY = struct.Struct("<32s8x4s4xBBB5x")  # of a table of contents: id, length, kind, codec, cipher
_WIDTH = ID_BYTES + 8  # id, number of the pack, length
_KINDS, _CODECS, _CIPHERS = (frozenset(int(each) for each in known) for known in (RecordKind, Codec, Cipher))
_READ, _UNSOUND, _KEPT = 1, 2, 4

Home = tuple[int, int]
"""(number of the pack, length of the record with its header in bytes)"""


class Census:
    """Packs by number, with what they hold. One owner thread; close it.

    A pack is *sound* if it has the size that its table says; only homes in sound packs count. A pack is *kept* if it
    holds anything that this version does not know, or if what it holds cannot be told.
    """

    def __init__(self, folder: Path) -> None:
        self.names: list[str] = []
        self.sizes = array.array("Q")
        self.record_bytes = array.array("Q")
        self._flags = bytearray()
        self._entries = SortedRuns(_WIDTH, folder)
        self._quarantine = Quarantine(frozenset(), {})

    def __enter__(self) -> Census:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def close(self) -> None:
        self._entries.close()

    @classmethod
    def take(cls, repository: Repository, folder: Path, step: Callable[[int], None]) -> Census:
        """Read all segments, and the tables of packs that none names. ``step``: as in :func:`~.marking.mark`, for each.

        Raises storage errors; a folder that cannot be listed never looks empty.
        """
        census = cls(folder)
        try:
            census._list(repository)
            census._read_segments(repository, step)
            census._read_unnamed(repository, step)
            census._quarantine = Quarantine.read(repository.store)
        except BaseException:
            census.close()
            raise
        return census

    def kept(self, pack: int) -> bool:
        return bool(self._flags[pack] & _KEPT)

    def homes(self, live: Iterable[bytes]) -> Iterator[tuple[bytes, list[Home], list[Home]]]:
        """For each id of ``live`` (ascending): its homes in sound packs, and those that are doubtful.

        Doubtful are homes in packs that are not sound or in quarantine: they stand for nothing, and yet may be all that
        is left of a record.
        """
        wanted = iter(live)
        current = next(wanted, None)
        for identity, group in groupby(self._entries, key=lambda entry: entry[:ID_BYTES]):
            while current is not None and current < identity:
                yield current, [], []
                current = next(wanted, None)
            if current == identity:
                yield identity, *self._split(identity, map(_home, group))
                current = next(wanted, None)
        while current is not None:
            yield current, [], []
            current = next(wanted, None)

    def _split(self, identity: bytes, homes: Iterable[Home]) -> tuple[list[Home], list[Home]]:
        sound: list[Home] = []
        doubtful: list[Home] = []
        for home in homes:
            (sound if self._counts(identity, home[0]) else doubtful).append(home)
        return sound, doubtful

    def _counts(self, identity: bytes, pack: int) -> bool:
        if self._flags[pack] & _UNSOUND:
            return False
        return not (self._quarantine and self._quarantine.holds(BlockId(identity), self.names[pack]))

    def _list(self, repository: Repository) -> None:
        store = repository.store
        for path in store.names(layout.PACKS):
            with contextlib.suppress(ObjectMissing):  # another collector removed it
                self.sizes.append(store.size(path))
                self.names.append(path.rpartition("/")[2])
        self.record_bytes = array.array("Q", bytes(8 * len(self.names)))
        self._flags = bytearray(len(self.names))

    def _read_segments(self, repository: Repository, step: Callable[[int], None]) -> None:
        numbers = {name: number for number, name in enumerate(self.names)}
        repository_id = repository_id_bytes(repository.repository_id)
        for segment in repository.store.names(layout.INDEX):
            step(1)
            try:
                tables = open_segment(segment, repository.store.read(segment, MOST_SEGMENT_BYTES), repository_id)
            except (ObjectDamaged, ObjectMissing, FormatUnsupported):
                continue  # its packs are read by their own tables
            packs = [numbers.get(name, -1) for name, _, _ in tables.packs]
            new = [pack >= 0 and not self._flags[pack] & _READ for pack in packs]
            for pack, fresh, (_, size, _) in zip(packs, new, tables.packs, strict=True):
                if fresh:
                    self._found(pack, size)
            rows = zip(_ENTRY.iter_unpack(tables.entries), tables.places, strict=True)
            self._add((packs[place], entry) for entry, place in rows if new[place])

    def _read_unnamed(self, repository: Repository, step: Callable[[int], None]) -> None:
        repository_id = repository_id_bytes(repository.repository_id)
        for pack, name in enumerate(self.names):
            if self._flags[pack] & _READ:
                continue
            step(1)
            try:
                contents = read_contents(repository.store, name, repository_id)
            except ObjectMissing:
                self._flags[pack] |= _UNSOUND
            except (ObjectDamaged, FormatUnsupported):
                self._flags[pack] |= _UNSOUND | _KEPT
            else:
                self._found(pack, contents.size_bytes)
                self._add((pack, entry) for entry in _ENTRY.iter_unpack(b"".join(e.pack() for e in contents.entries)))

    def _found(self, pack: int, size: int) -> None:
        self._flags[pack] |= _READ
        if size != self.sizes[pack]:
            self._flags[pack] |= _UNSOUND

    def _add(self, rows: Iterable[tuple[int, tuple[bytes, bytes, int, int, int]]]) -> None:
        def packed() -> Iterator[bytes]:
            for pack, (identity, length, kind, codec, cipher) in rows:
                if kind not in _KINDS or codec not in _CODECS or cipher not in _CIPHERS:
                    self._flags[pack] |= _KEPT
                self.record_bytes[pack] += int.from_bytes(length, "little")
                yield identity + pack.to_bytes(4, "big") + length

        self._entries.add(packed())


def _home(entry: bytes) -> Home:
    return int.from_bytes(entry[ID_BYTES : ID_BYTES + 4], "big"), int.from_bytes(entry[-4:], "little")
