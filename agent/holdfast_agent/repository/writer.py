"""Writing records of one session: steps 2 to 6 of the write protocol, for one target mover.

Records gather in memory and are written by background threads, one for each pack, while more come: while one pack
is synced and linked the next one fills. At most one pack of data and a half are in memory.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple

from holdfast_agent.errors import FormatUnsupported, HoldfastError, ObjectMissing, RepositoryIoError, SessionUnknown
from holdfast_agent.model.ids import HOLE, BlockId, Sid, parse_sid
from holdfast_agent.sealing.buffers import PAGE_BYTES, forget_pages, new_pages
from holdfast_agent.sealing.keys import repository_id_bytes
from holdfast_agent.sealing.records import (
    Pieces,
    RecordHeader,
    RecordKind,
    check_pieces,
    open_plain_pieces,
    parse_header,
    plain_record,
    split_record,
)
from holdfast_agent.wire.specs import PackRef

from .collector_log import packs_to_avoid
from .file_writing import Buffer
from .index import Location
from .layout import DATA_CLASS, META_CLASS, PACKS, PackName, segment_object, session_object
from .packs import DATA_PACK_BYTES, META_PACK_BYTES, PackContents
from .pending_packs import PendingPack, room_bytes
from .quarantine import Quarantine
from .repository import Repository
from .segments import encode_segment
from .store import ObjectExists

_PACKS_A_SEGMENT = 16  # about 1 GiB: what a killed mover has stored beyond its last segment is sent again


class _Open(NamedTuple):
    """A pack and what becomes of it in the thread that writes it."""

    pack: PendingPack
    written: Future[PackContents]


class SessionWriter:
    """Stores sealed records, tells which are missing, and publishes. One owner thread; close it on every path."""

    def __init__(
        self,
        repository: Repository,
        sid: Sid,
        mover: int,
        *,
        data_pack_bytes: int = DATA_PACK_BYTES,
        meta_pack_bytes: int = META_PACK_BYTES,
    ) -> None:
        """Begin after ``Repository.begin_session(sid)``.

        ``mover`` numbers the writers of one session, retries counted anew. Raises :class:`SessionUnknown` if the
        session is not open, and storage errors: a collector's log that cannot be read whole stops a writer.
        """
        self._store = repository.store
        self._index = repository.index
        self._repository_id = repository_id_bytes(repository.repository_id)
        self._sid = parse_sid(sid)
        self._mover = mover
        self._limits = {DATA_CLASS: data_pack_bytes, META_CLASS: meta_pack_bytes}
        try:
            self._store.size(session_object(sid))
        except ObjectMissing:
            raise SessionUnknown(sid=sid) from None
        self._quarantine = Quarantine.read(self._store)
        self._shunned = self._find_shunned()
        self._own: set[BlockId] = set()
        # Records that a note names and that were stored again since are no reason to look every inherited id up.
        self._shuns = bool(self._shunned) or any(self.missing(list(self._quarantine.record_ids())))
        self._open: dict[str, _Open] = {}
        self._rooms: dict[str, memoryview] = {}  # of packs that are durable, for the next ones
        self._unpublished: list[PackContents] = []
        self._published: list[PackRef] = []
        self._seq = itertools.count(1)
        self._segment_number = itertools.count(1)
        self._writers = ThreadPoolExecutor(len(self._limits) + 1, "pack-writer")  # one pack is closing
        self._closing: _Open | None = None
        self._failure: HoldfastError | None = None

    def __enter__(self) -> SessionWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def shuns(self) -> bool:
        """Whether records that the index knows must not be referred to, so that inherited ids need a look-up each."""
        return self._shuns

    def missing(self, ids: Sequence[BlockId]) -> list[bool]:
        """For each id whether it must be stored anew; False for holes and for what this writer holds already.

        Homes in packs that a collector condemned, in quarantine or lost do not count.
        """
        unknown = [wanted for wanted in ids if wanted not in self._own and wanted != HOLE]
        found = self._index.find(unknown)
        stored = {wanted for wanted, homes in found.items() if any(self._trusts(wanted, home) for home in homes)}
        return [wanted not in stored and wanted not in self._own and wanted != HOLE for wanted in ids]

    def append(self, *pieces: Buffer) -> bool:
        """Store one sealed record: whole, or as header and payload. Checks its CRCs; False if this writer has it.

        The pieces are copied. Raises :class:`ObjectDamaged`, :class:`FormatUnsupported`, and the error of a pack that
        could not be written twice, after which every call raises it.
        """
        record = split_record(pieces[0]) if len(pieces) == 1 else (pieces[0], pieces[1])
        return self.append_checked(check_pieces(record), record)

    def append_checked(self, header: RecordHeader, record: Pieces) -> bool:
        """:meth:`append` for whoever has checked the record."""
        if header.kind == RecordKind.NODE:
            open_plain_pieces(record, header.id)
        elif header.kind not in (RecordKind.DATA, RecordKind.BLOB):
            raise FormatUnsupported(name=f"record {header.id.hex()[:16]}", feature=f"the record kind {header.kind}")
        if header.id in self._own:
            return False
        pack_class = DATA_CLASS if header.kind == RecordKind.DATA else META_CLASS
        self._pack_for(pack_class, header.record_length).add(header, record)
        self._own.add(header.id)
        return True

    def append_node(self, node_id: BlockId, data: bytes) -> bool:
        """Store a tree node unless it is stored already; whether it was stored. Used by ``TreeBuilder``."""
        if not self.missing([node_id])[0]:
            return False
        return self.append(*plain_record(RecordKind.NODE, data, node_id))

    def publish(self) -> list[PackRef]:
        """Make everything appended durable and known; all packs of this writer so far. May be called again.

        The packs are synced and linked, then a segment is, and only then rows appear in the local index.
        """
        for pack_class in list(self._open):
            self._roll(pack_class)
        self._wait_for_closing()
        self._publish_segment()
        return list(self._published)

    def close(self) -> None:
        """Drop what was not published; waits for a full pack that is being written. Idempotent."""
        for filling in self._open.values():
            filling.pack.abandon()
        self._open.clear()
        self._closing = None
        self._writers.shutdown()

    abort = close

    def _trusts(self, record_id: BlockId, home: Location) -> bool:
        return home.pack not in self._shunned and not self._quarantine.names(record_id, home.pack)

    def _find_shunned(self) -> frozenset[str]:
        avoided = packs_to_avoid(self._store) | self._quarantine.packs
        self._index.update()
        present = (name.rpartition("/")[2] for name in self._store.names(PACKS))
        return frozenset(self._index.known_packs(avoided) | self._index.absent_packs(present))

    def _pack_for(self, pack_class: str, record_bytes: int) -> PendingPack:
        """The open pack if it takes a record of this length, else a new one."""
        if pack_class in self._open and not self._open[pack_class].pack.takes(record_bytes):
            self._roll(pack_class)
        if pack_class not in self._open:
            room = self._room(pack_class, max(room_bytes(record_bytes), self._limits[pack_class]))
            pack = PendingPack(self._next_name(pack_class), self._repository_id, int(time.time()), room)
            self._open[pack_class] = _Open(pack, self._writers.submit(self._write_pack, pack))
        pack = self._open[pack_class].pack
        if self._closing is not None and pack.filled_bytes > _kept_bytes(pack.room):
            self._wait_for_closing()
        return pack

    def _room(self, pack_class: str, length_bytes: int) -> memoryview:
        kept = self._rooms.pop(pack_class, memoryview(b""))
        return kept[:length_bytes] if len(kept) >= length_bytes else new_pages(length_bytes)

    def _roll(self, pack_class: str) -> None:
        """Let the open pack be closed, once the one before it is durable."""
        self._wait_for_closing()
        self._closing = self._open.pop(pack_class)
        self._closing.pack.seal()

    def _wait_for_closing(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._closing is None:
            return
        closing, self._closing = self._closing, None
        try:
            contents = closing.written.result()
        except HoldfastError as error:
            self._failure = error
            raise
        room = self._rooms[closing.pack.name.pack_class] = closing.pack.room
        forget_pages(room, _kept_bytes(room))
        self._unpublished.append(contents)
        if len(self._unpublished) >= _PACKS_A_SEGMENT:
            self._publish_segment()

    def _write_pack(self, pack: PendingPack) -> PackContents:
        """Runs in a thread of its own. After an error of the storage once more, to a new file under a new name."""
        failed = False
        name = pack.name
        while True:
            try:
                return pack.write(self._store, name)
            except ObjectExists:
                pass  # a writer with this number was here before; names never recur
            except RepositoryIoError:
                if failed:
                    raise
                failed = True
            name = self._next_name(name.pack_class)

    def _next_name(self, pack_class: str) -> PackName:
        return PackName(self._sid, self._mover, pack_class, next(self._seq))

    def _publish_segment(self) -> None:
        packs = tuple(self._unpublished)
        if not packs:
            return
        name = self._create_segment(packs)
        self._index.add(name, packs)
        self._published += [PackRef(pack.name, pack.size_bytes) for pack in packs]
        self._unpublished.clear()
        for pack in packs:
            self._own.difference_update(entry.id for entry in pack.entries)

    def _create_segment(self, packs: tuple[PackContents, ...]) -> str:
        failed = False
        while True:
            name = segment_object(self._sid, self._mover, next(self._segment_number))
            try:
                self._store.create(name, [encode_segment(name, self._repository_id, packs)])
            except ObjectExists:
                continue
            except RepositoryIoError:
                if failed:
                    raise
                failed = True
            else:
                return name


def _kept_bytes(room: memoryview) -> int:
    """How far one pack fills before the one before it is durable; what its memory keeps then for the next one."""
    return len(room) // 2 // PAGE_BYTES * PAGE_BYTES


def store_blob(repository: Repository, sid: Sid, mover: int, record: bytes) -> list[PackRef]:
    """Store one sealed blob in a session and publish it; the packs it took, none if the blob was stored before.

    ``mover``: a number of its own within the session. Raises as :class:`SessionWriter`.
    """
    header = parse_header(record)
    if header.kind != RecordKind.BLOB:
        raise FormatUnsupported(name="a blob", feature=f"the record kind {header.kind}")
    with SessionWriter(repository, sid, mover) as writer:
        if writer.missing([header.id])[0]:
            writer.append(record)
        return writer.publish()
