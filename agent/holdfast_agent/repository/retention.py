"""What holds a point against pruning: a time until which nobody may prune it, and a hold until somebody lifts it.

The retention of a point is a numbered row of write-once objects, each of which says all that holds from then on. The
time is never lowered: a later object with an earlier time changes nothing.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from itertools import count

import msgspec

from holdfast_agent.errors import ObjectDamaged, ObjectMissing, PointHeld, PointRetained
from holdfast_agent.model.ids import Sid

from .documents import DocumentType, encode_document, read_value
from .layout import RETENTION
from .store import ObjectExists, ObjectStore

_NAME = re.compile(rf"{RETENTION}/([0-9a-f]{{32}})-([1-9]\d{{0,8}})")


class Retention(msgspec.Struct, frozen=True):
    """``until``: Unix time before which the point cannot be pruned by anybody. ``hold``: not before it is lifted."""

    until: float = 0.0
    hold: bool = False


class Retentions:
    """The retention of all points. Thread-safe; keeps nothing in memory. ``clock``: Unix time that can be trusted."""

    def __init__(self, store: ObjectStore, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock

    def of(self, sid: Sid) -> Retention:
        """What holds now. Raises :class:`ObjectDamaged`: what cannot be read must not set a point free."""
        return self._state(sid)[0]

    def of_many(self, sids: Iterable[Sid]) -> dict[Sid, Retention]:
        """Those of ``sids`` that have one, from one listing. One that cannot be read counts as a hold."""
        found = (_NAME.fullmatch(name) for name in self._store.names(RETENTION))
        named = {match[1] for match in found if match}
        return {sid: self._told(sid) for sid in sids if sid in named}

    def _told(self, sid: Sid) -> Retention:
        try:
            return self.of(sid)
        except ObjectDamaged:
            return Retention(hold=True)

    def set(self, sid: Sid, until: float = 0.0, hold: bool | None = None) -> Retention:
        """Extend the time to ``until`` (an earlier one leaves it) and set or lift the hold (None leaves it).

        Returns what holds now; idempotent. It is durable when this returns.
        """
        while True:
            present, number = self._state(sid)
            wanted = Retention(max(present.until, until), present.hold if hold is None else hold)
            if wanted == present:
                return present
            name = f"{RETENTION}/{sid}-{number}"
            body = msgspec.json.encode(wanted, order="sorted")
            try:
                self._store.create(name, [encode_document(name, DocumentType.RETENTION, body)])
            except ObjectExists:
                continue  # somebody else was faster: what they said counts too
            return wanted

    def keeps(self, sid: Sid) -> bool:
        """Whether the point may not be pruned now; also if that cannot be read."""
        try:
            self.require_free(sid)
        except (PointHeld, PointRetained, ObjectDamaged):
            return True
        return False

    def require_free(self, sid: Sid) -> None:
        """Raise :class:`PointRetained` or :class:`PointHeld` if the point may not be pruned now."""
        retention = self.of(sid)
        if retention.until > self._clock():
            raise PointRetained(point=sid, until=text_of(retention.until), now=text_of(self._clock()))
        if retention.hold:
            raise PointHeld(point=sid)

    def _state(self, sid: Sid) -> tuple[Retention, int]:
        """What holds, and the number of the next object."""
        until, hold = 0.0, False
        for number in count(1):
            try:
                entry = self._read(f"{RETENTION}/{sid}-{number}")
            except ObjectMissing:
                return Retention(until, hold), number
            until, hold = max(until, entry.until), entry.hold
        raise AssertionError("count() has no end")

    def _read(self, name: str) -> Retention:
        return read_value(self._store, name, DocumentType.RETENTION, Retention)


def text_of(moment: float) -> str:
    """A Unix time for people: UTC, to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(moment))
