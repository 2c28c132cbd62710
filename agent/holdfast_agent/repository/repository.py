"""A repository opened: its facts, its points, its sessions. The write protocol's first and last steps stand here."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from holdfast_agent.errors import (
    FormatUnsupported,
    Locked,
    ObjectDamaged,
    ObjectMissing,
    PointNotFound,
    RepositoryError,
    RepositoryExists,
    RepositoryFull,
    RepositoryNotFound,
    SessionUnknown,
    UsageError,
)
from holdfast_agent.model.hosts import RepositoryHost
from holdfast_agent.model.ids import HOLE, BlockId, Sid, parse_sid
from holdfast_agent.model.points import Point, PointEntry
from holdfast_agent.sealing.keys import MOST_EPOCHS, repository_id_bytes
from holdfast_agent.sealing.roots import pack_set_digest, read_point, root_id
from holdfast_agent.wire.specs import PackRef

from . import claims, layout
from .configuration import Config, change_config, make_folders, read_config, store_config, store_slot
from .documents import DocumentType, encode_document
from .file_writing import System
from .index import LocalIndex, Location
from .key_slots import KeySlots
from .outcomes import Outcome, Outcomes
from .quarantine import put_records_aside
from .readers import BlockReader
from .retention import Retention, Retentions
from .store import FileStore, Lock, ObjectExists, ObjectStore, exists
from .tombstones import Tombstones

T = TypeVar("T")


class Recovery(msgspec.Struct, frozen=True):
    """What :meth:`Repository.recover` cleared."""

    fenced: tuple[Sid, ...]
    leftovers: int


class SessionLock:
    """The lock of a write session; the session counts as alive while any process has ``fd`` open."""

    def __init__(self, sid: Sid, lock: Lock) -> None:
        self.sid = sid
        self._lock = lock

    @property
    def fd(self) -> int:
        """To be inherited by the session's target movers (``pass_fds``)."""
        return self._lock.fd

    def close(self) -> None:
        """Close this process's copy. Idempotent; commit or abort first, or the session ends up FENCED."""
        self._lock.close()


def create_repository(path: Path, repository_id: str, key_slots: Mapping[str, bytes], system: System = os) -> None:
    """Make a repository in ``path``, which must be absent or an empty directory; its parent must exist.

    The configuration is written last: a directory in which this was cut off is no repository. Raises
    :class:`RepositoryExists`, :class:`RepositoryDenied`, :class:`RepositoryFolderMissing`, and storage errors.
    """
    repository_id_bytes(repository_id)
    make_folders(path)
    store = FileStore(path, system)
    for name, slot in key_slots.items():
        store_slot(store, name, slot)
    try:
        store_config(store, Config(repository_id, time.time()))
    except ObjectExists:
        raise RepositoryExists(path=str(path)) from None
    store.keep_reserve()


class Repository:
    """One opened repository. Thread-safe. Close it to close its local index."""

    def __init__(
        self, store: ObjectStore, config: Config, index: LocalIndex, clock: Callable[[], float] = time.time
    ) -> None:
        self.store = store
        self.index = index
        self.clock = clock
        self.tombstones = Tombstones(store, clock)
        self.retentions = Retentions(store, clock)
        self.outcomes = Outcomes(store)
        self.key_slots = KeySlots(store)
        self._config = config

    @classmethod
    def open(
        cls,
        path: Path,
        cache_dir: Path,
        system: System = os,
        clock: Callable[[], float] = time.time,
        host: RepositoryHost | None = None,
    ) -> Repository:
        """Open the repository at ``path``; its local index lives below ``cache_dir``.

        ``clock``: Unix time by which retention and windows for undoing are judged. ``host``: the agent for which this
        is done; None only for tools that look at a repository whose agent they know.

        Raises :class:`RepositoryNotFound` (also for an unmounted or empty directory), :class:`RepositoryClaimed` if
        another agent serves it, :class:`FormatUnsupported`, :class:`ObjectDamaged`.
        """
        store = FileStore(path, system)
        try:
            config = read_config(store)
        except ObjectMissing:
            raise RepositoryNotFound(path=str(path)) from None
        if host is not None:
            config = claims.insist(store, path, config, host)
        index = LocalIndex(cache_dir / config.repository_id, config.repository_id, store)
        return cls(store, config, index, clock)

    def close(self) -> None:
        self.index.close()

    @property
    def repository_id(self) -> str:
        return self._config.repository_id

    def space(self) -> tuple[int, int]:
        """(total, free) bytes of the storage."""
        return self.store.space()

    def reader(self) -> BlockReader:
        """A reader of records; one per restore or task, since it reads the index anew at most once.

        Homes that it finds damaged are noted in quarantine, so that the next backup stores the record again.
        """
        return BlockReader(self.store, self.index, self._put_aside)

    def _put_aside(self, record_id: BlockId, home: Location, reason: str) -> None:
        with contextlib.suppress(RepositoryError):  # a repository that cannot be written is read all the same
            put_records_aside(self.store, home.pack, [record_id], reason)

    @property
    def epoch(self) -> int:
        """Key epoch under which new records are to be sealed; as of the opening."""
        return self._config.epoch

    def raise_epoch(self, epoch: int) -> None:
        """Have new records sealed under ``epoch`` from now on. Idempotent. Never lowers it: :class:`UsageError`."""
        if read_config(self.store).epoch == epoch:
            return

        def raised(config: Config) -> Config:
            if not config.epoch <= epoch <= MOST_EPOCHS:
                raise UsageError(
                    reason=f"the key epoch is {config.epoch}; it is raised up to {MOST_EPOCHS}, not lowered"
                )
            return msgspec.structs.replace(config, epoch=epoch)

        self._config = change_config(self.store, raised)

    # --- points ---------------------------------------------------------------------------------------------------

    def points(self) -> list[PointEntry]:
        """Committed points without a tombstone, ascending by sid. Damaged ones are left out; verify names them."""
        entries: list[PointEntry] = []
        for sid in self.point_sids():
            with contextlib.suppress(ObjectDamaged, FormatUnsupported, PointNotFound):
                entries.append(self.point(sid))
        return entries

    def point_sids(self) -> list[Sid]:
        """Sids of all outcomes (FENCED ones too) without a tombstone, ascending; nothing is opened."""
        return sorted(self.outcomes.sids() - self.tombstones.hidden())

    def hidden_sids(self) -> list[Sid]:
        """Sids of outcomes that a tombstone hides, retired ones too, ascending; open them with :meth:`committed`."""
        return sorted(self.outcomes.sids() & self.tombstones.hidden())

    def roots(self) -> list[Sid]:
        """Sids of all outcomes that the collector must treat as alive, ascending: all but the retired ones.

        FENCED outcomes are among them, and points that a tombstone hides and that may still be given back: open them
        with :meth:`committed`. Nothing leaves this list but by :meth:`retire`.
        """
        return sorted(self.outcomes.sids() - self.tombstones.retired())

    def point(self, sid: Sid) -> PointEntry:
        """One committed point. Its MAC is not checked here: that takes the key.

        Raises :class:`PointNotFound` (also if fenced or tombstoned), :class:`ObjectDamaged`.
        """
        sid = parse_sid(sid)
        entry = None if self.tombstones.hides(sid) else self.committed(sid)
        if entry is None:
            raise PointNotFound(point=sid)
        return entry

    def committed(self, sid: Sid) -> PointEntry | None:
        """What was committed under ``sid``, tombstoned or not; None if nothing was. Raises :class:`ObjectDamaged`."""
        outcome = self.outcomes.of(sid)
        return None if outcome is None or outcome[0] is Outcome.FENCED else outcome[1]

    def tombstone(self, sid: Sid, window_s: float = 0.0, reason: str = "") -> bool:
        """Hide a committed point. It may be given back for ``window_s`` seconds, and until a collector retires it.

        Whether it was hidden now: False if it was before. Raises :class:`PointRetained` or :class:`PointHeld`,
        :class:`PointNotFound` if nothing was committed under ``sid``, :class:`ObjectDamaged` if that cannot be told:
        what cannot be read is not thrown away.
        """
        sid = parse_sid(sid)
        if self.committed(sid) is None:
            raise PointNotFound(point=sid)
        self.retentions.require_free(sid)
        return self._on_a_full_disk(lambda: self.tombstones.place(sid, window_s, reason))

    def undo_tombstone(self, sid: Sid) -> bool:
        """Give a pruned point back. False if it was not pruned.

        Raises :class:`UndoWindowOver` if the collector has retired it, :class:`PointNotFound`, :class:`ObjectDamaged`.
        """
        sid = parse_sid(sid)
        if self.committed(sid) is None:
            raise PointNotFound(point=sid)
        return self.tombstones.undo(sid)

    def retain(self, sid: Sid, until: float = 0.0, hold: bool | None = None) -> Retention:
        """Protect a point from pruning, or lift its hold; see :meth:`Retentions.set`.

        Raises :class:`PointNotFound` for one that a tombstone hides: undo that first.
        """
        self.point(sid)
        retention = self._on_a_full_disk(lambda: self.retentions.set(parse_sid(sid), until, hold))
        self.point(sid)  # a tombstone that came between would win: then say so
        return retention

    def retire(self) -> list[Sid]:
        """Give up the pruned points whose window is over: from now on they are no roots. Returns those of now.

        Called by the collector before it lists the roots of a new generation. Points that are retained or held stay.
        """
        return self.tombstones.retire(self.retentions.keeps)

    def due(self) -> list[Sid]:
        """What :meth:`retire` would give up; for a dry run."""
        return self.tombstones.due(self.retentions.keeps)

    def _on_a_full_disk(self, action: Callable[[], T]) -> T:
        """``action`` with a part of the reserve where there is no space: pruning is how space is made."""
        while True:
            try:
                return action()
            except RepositoryFull:
                if not self.store.spend_reserve():
                    raise

    # --- sessions -------------------------------------------------------------------------------------------------

    def begin_session(self, sid: Sid) -> SessionLock:
        """Step 1 of writing: the session's record, durable and locked. Choose the base point only after this.

        Raises :class:`Locked` if the session is open already, :class:`SessionFenced` or :class:`AlreadyExists` if it
        has an outcome, :class:`FormatUnsupported` if this version may not write here.
        """
        sid = parse_sid(sid)
        if self._config.write_features:
            raise FormatUnsupported(name="the repository", feature=", ".join(self._config.write_features))
        self.outcomes.refuse(sid)
        name = layout.session_object(sid)
        body = msgspec.json.encode(
            {"sid": sid, "host": socket.gethostname(), "pid": os.getpid(), "started": time.time()}
        )
        try:
            lock = self.store.create_locked(name, [encode_document(name, DocumentType.SESSION, body)])
        except ObjectExists:
            raise Locked(what=f"the backup session {sid}", holder="another writer") from None
        try:
            self.outcomes.refuse(sid)
        except BaseException:
            self.store.remove(name)
            lock.close()
            raise
        return SessionLock(sid, lock)

    def commit(self, entry: PointEntry, packs: Sequence[PackRef], retain_until: float = 0.0) -> None:
        """Steps 7 to 9 of writing: every pack is there with its size, then the point, then the session is closed.

        ``retain_until``: nobody may prune the point before that Unix time; in force before the point can be seen.
        Idempotent for the same bytes. Raises :class:`SessionFenced`, :class:`SessionUnknown` (never begun, or aborted
        long ago), :class:`ObjectMissing` or :class:`ObjectDamaged` if something that the point needs is not stored,
        :class:`AlreadyExists` if another point was committed under this sid.
        """
        name = layout.point_object(parse_sid(entry.sid))
        if self.outcomes.settled(entry):
            return
        if not exists(self.store, layout.session_object(entry.sid)):
            if self.outcomes.settled(entry):
                return  # a commit beside this one was faster; a record vanishes only once an outcome exists
            raise SessionUnknown(sid=entry.sid)
        self._check_stored(read_point(entry), packs)
        self.retentions.set(entry.sid, retain_until)
        try:
            self.store.create(name, [encode_document(name, DocumentType.POINT, entry.body, entry.mac)])
        except ObjectExists:
            if not self.outcomes.settled(entry):
                raise ObjectDamaged(name=name, offset_bytes=0, reason="it appeared and vanished") from None
        self.store.remove(layout.session_object(entry.sid))

    def abort(self, sid: Sid) -> Outcome:
        """Give a session up: FENCED first, then its record is removed. Idempotent.

        Returns what holds from now on: ``Outcome.COMMITTED`` if the point was committed before; it stays.
        """
        sid = parse_sid(sid)
        outcome = self.outcomes.fence(sid)
        self.store.remove(layout.session_object(sid))
        return outcome

    def abort_dead(self, sid: Sid) -> Outcome | None:
        """As :meth:`abort`, for a session whose writers are gone. None: it has ended before, or was never begun.

        Raises :class:`Locked` while one lives that may still commit it.
        """
        try:
            lock = self.store.try_lock(layout.session_object(parse_sid(sid)))
        except ObjectMissing:
            return None
        if lock is None:
            raise Locked(what=f"the backup session {sid}", holder="a writer that lives")
        with contextlib.closing(lock):
            return self.abort(sid)

    def decided(self, sid: Sid) -> bool:
        """Whether a session has an outcome."""
        return exists(self.store, layout.point_object(parse_sid(sid)))

    @property
    def bars_collection(self) -> tuple[str, ...]:
        """Features that forbid this version to collect garbage here; a collector writes, too."""
        return self._config.gc_features + self._config.write_features

    def recover(self) -> Recovery:
        """Clear what dead writers left: their uploads and session records, and give them the outcome FENCED.

        Never touches a living session or upload. Called when the repository is opened by an agent; idempotent. Sets
        space aside for the collector, if that is missing and there is plenty.
        """
        fenced: list[Sid] = []
        for name in list(self.store.names(layout.SESSIONS)):
            sid = parse_sid(name.rpartition("/")[2])
            with contextlib.suppress(Locked):
                if self.abort_dead(sid) is Outcome.FENCED:
                    fenced.append(sid)
        leftovers = self.store.remove_leftovers()
        self.store.keep_reserve()
        return Recovery(tuple(fenced), leftovers)

    def _check_stored(self, point: Point, packs: Sequence[PackRef]) -> None:
        if point.repository_id != self.repository_id:
            raise UsageError(reason=f"the point {point.sid} belongs to the repository {point.repository_id}")
        if pack_set_digest(pack.name for pack in packs) != point.packs:
            raise UsageError(reason=f"the packs given are not the pack set of the point {point.sid}")
        for pack in packs:
            if self.store.size(layout.pack_object(pack.name)) != pack.size_bytes:
                raise ObjectDamaged(
                    name=pack.name, offset_bytes=pack.size_bytes, reason="its size is not what was written"
                )
        self.index.update()
        roots = {root_id(disk.root) for disk in point.disks} - {HOLE}
        if point.config is not None:
            roots.add(root_id(point.config))
        found = self.index.find(roots)
        for missing in roots - found.keys():
            raise ObjectMissing(name=f"record {missing.hex()[:16]} of the point {point.sid}")

    def read_blob(self, blob_id: BlockId) -> bytes:
        """The record of a VM configuration, sealed as it is stored. Raises as :meth:`BlockReader.read_record`."""
        return self.reader().read_record(blob_id)
