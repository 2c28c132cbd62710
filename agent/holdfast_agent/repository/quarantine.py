"""What is known to be bad: records and packs that match no look-up any more, so that the next backup sends them again.

A note is written once and removes nothing: what stands in quarantine is still read where nothing better is left.
``quarantine/<pack>`` speaks of a whole pack, ``quarantine/<pack>.<digest>`` of the records that it names, and
``quarantine/none.<digest>`` of records that are in no pack at all.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping

import msgspec
from blake3 import blake3

from holdfast_agent.errors import FormatUnsupported, ObjectDamaged, ObjectMissing
from holdfast_agent.model.ids import ID_BYTES, BlockId

from .documents import DocumentType, encode_document, read_value
from .layout import QUARANTINE, parse_pack_name
from .store import ObjectExists, ObjectStore

NO_PACK = "none"
_NOTE_RECORDS = 100_000  # some 7 MB a note


class Note(msgspec.Struct, frozen=True):
    """Body of a note. ``records``: ids as hex digits; empty: the whole pack. ``reason``: for people."""

    pack: str = ""
    records: tuple[str, ...] = ()
    reason: str = ""
    noted: float = 0.0


class Quarantine:
    """All notes of a repository as they were when it was read. Frozen: share it between threads as you like."""

    def __init__(self, packs: frozenset[str], records: Mapping[str, frozenset[BlockId]]) -> None:
        self.packs = packs
        self._records = records

    @classmethod
    def read(cls, store: ObjectStore) -> Quarantine:
        """Read all notes; one that is damaged counts for its whole pack. Raises storage errors."""
        packs: set[str] = set()
        records: dict[str, set[BlockId]] = {}
        for name in store.names(QUARANTINE):
            pack, dot, _ = name.rpartition("/")[2].partition(".")
            ids: list[BlockId] | None = None
            if dot:
                with contextlib.suppress(ObjectDamaged, FormatUnsupported, ValueError):
                    note = read_value(store, name, DocumentType.QUARANTINE, Note)
                    ids = [_id(text) for text in note.records]
            if ids:
                records.setdefault(pack, set()).update(ids)
            elif pack != NO_PACK:
                packs.add(pack)
        return cls(frozenset(packs), {pack: frozenset(ids) for pack, ids in records.items()})

    def __bool__(self) -> bool:
        return bool(self.packs or self._records)

    def holds(self, record_id: BlockId, pack: str) -> bool:
        """Whether this home of a record must not be trusted: itself or with its whole pack."""
        return pack in self.packs or self.names(record_id, pack)

    def names(self, record_id: BlockId, pack: str) -> bool:
        """Whether a note names exactly this record in this pack."""
        return record_id in self._records.get(pack, ())

    def record_ids(self) -> Iterator[BlockId]:
        """Ids of all records that a note names, in no order, perhaps more than once."""
        for ids in self._records.values():
            yield from ids


def put_records_aside(store: ObjectStore, pack: str | None, ids: Iterable[BlockId], reason: str) -> int:
    """Note records of ``pack`` (None: of no pack) as bad; how many notes are new. Idempotent. Raises storage errors."""
    wanted = sorted(set(ids))
    stem = NO_PACK if pack is None else str(parse_pack_name(pack))
    written = 0
    for start in range(0, len(wanted), _NOTE_RECORDS):
        batch = wanted[start : start + _NOTE_RECORDS]
        digest = blake3(b"".join(batch)).hexdigest()[:32]
        note = Note(pack or "", tuple(record_id.hex() for record_id in batch), reason, time.time())
        written += _write(store, f"{QUARANTINE}/{stem}.{digest}", note)
    return written


def put_pack_aside(store: ObjectStore, pack: str, reason: str) -> int:
    """Note a whole pack as bad; 1 if the note is new. Idempotent. Raises storage errors."""
    return _write(store, f"{QUARANTINE}/{parse_pack_name(pack)}", Note(pack=pack, reason=reason, noted=time.time()))


def _write(store: ObjectStore, name: str, note: Note) -> int:
    with contextlib.suppress(ObjectMissing):
        store.size(name)
        return 0  # known: a full disk must not make that an error
    body = msgspec.json.encode(note, order="sorted")
    try:
        store.create(name, [encode_document(name, DocumentType.QUARANTINE, body)])
    except ObjectExists:
        return 0
    return 1


def _id(text: str) -> BlockId:
    raw = bytes.fromhex(text)
    if len(raw) != ID_BYTES:
        raise ValueError("an id has 64 hex digits")
    return BlockId(raw)
