"""What became of sessions: committed as a point, or fenced; written once, for ever, under one name."""

from __future__ import annotations

import enum
import time

import msgspec

from holdfast_agent.errors import AlreadyExists, ObjectDamaged, ObjectMissing, SessionFenced
from holdfast_agent.model.ids import Sid
from holdfast_agent.model.points import PointEntry

from . import layout
from .documents import MOST_DOCUMENT_BYTES, DocumentType, decode_document, encode_document
from .store import ObjectExists, ObjectStore


class Outcome(enum.Enum):
    """What became of a session: written once, for ever."""

    COMMITTED = "committed"
    FENCED = "fenced"


class Outcomes:
    """The outcomes of one repository. Thread-safe; several processes may decide at once, and the first one does."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def sids(self) -> set[Sid]:
        """Of all outcomes; nothing is opened."""
        return {Sid(name.rpartition("/")[2]) for name in self._store.names(layout.POINTS)}

    def of(self, sid: Sid) -> tuple[Outcome, PointEntry] | None:
        """The outcome of a session and its point (empty if fenced); None: undecided. Raises :class:`ObjectDamaged`."""
        name = layout.point_object(sid)
        try:
            data = self._store.read(name, MOST_DOCUMENT_BYTES)
        except ObjectMissing:
            return None
        document_type, body, mac = decode_document(name, data)
        if document_type is DocumentType.FENCED:
            return Outcome.FENCED, PointEntry(sid, b"", b"")
        if document_type is not DocumentType.POINT:
            raise ObjectDamaged(name=name, offset_bytes=5, reason=f"it is a {document_type.name}, not an outcome")
        return Outcome.COMMITTED, PointEntry(sid, body, mac)

    def fence(self, sid: Sid) -> Outcome:
        """Decide that there is no point, if nothing is decided; what holds from now on."""
        name = layout.point_object(sid)
        body = msgspec.json.encode({"sid": sid, "fenced": time.time()})
        try:
            self._store.create(name, [encode_document(name, DocumentType.FENCED, body)])
        except ObjectExists:
            outcome = self.of(sid)
            return outcome[0] if outcome else Outcome.FENCED
        return Outcome.FENCED

    def settled(self, entry: PointEntry) -> bool:
        """Whether exactly this point is committed; closes the session's record then. Raises if something else is."""
        outcome = self.of(entry.sid)
        if outcome is None:
            return False
        if outcome[0] is Outcome.FENCED:
            raise SessionFenced(sid=entry.sid)
        if outcome[1] != entry:
            raise AlreadyExists(kind="restore point", name=entry.sid)
        self._store.remove(layout.session_object(entry.sid))
        return True

    def refuse(self, sid: Sid) -> None:
        """Raise :class:`SessionFenced` or :class:`AlreadyExists` if the session is decided."""
        outcome = self.of(sid)
        if outcome is not None:
            if outcome[0] is Outcome.FENCED:
                raise SessionFenced(sid=sid)
            raise AlreadyExists(kind="restore point", name=sid)
