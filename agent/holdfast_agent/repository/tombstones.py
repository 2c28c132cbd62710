"""Pruned points: hidden by a tombstone, given back by undoing it, given up for ever when its window is over.

Each pruning of a point is a round with a number. Its tombstone hides the point. How the round ends is one write-once
object, so that undoing and giving up can never both happen, whatever the clocks say: UNDONE, or RETIRED.
Only a retired point is no root of the collector any more.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import msgspec

from holdfast_agent.errors import ObjectMissing, RepositoryError, UndoWindowOver
from holdfast_agent.model.ids import Sid

from .documents import MOST_DOCUMENT_BYTES, DocumentType, decode_document, encode_document, read_value
from .layout import TOMBSTONES
from .store import ObjectExists, ObjectStore

_NAME = re.compile(rf"{TOMBSTONES}/([0-9a-f]{{32}})-([1-9]\d{{0,8}})(\.end|\.undone)?")
Round = tuple[Sid, int]


class Tombstone(msgspec.Struct, frozen=True, kw_only=True):
    """Body of a tombstone. ``not_before``: Unix time at which the window for undoing ends. ``reason``: for people."""

    sid: Sid
    number: int
    pruned: float
    not_before: float
    reason: str = ""


class Tombstones:
    """All rounds of pruning in one repository. Thread-safe; keeps nothing in memory. ``clock``: Unix time."""

    def __init__(self, store: ObjectStore, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock

    def hidden(self) -> set[Sid]:
        """Sids that a tombstone hides, from one listing; nothing is opened. Every listing of points asks for this."""
        names = set(self._store.names(TOMBSTONES))
        stones = {name for name in names if "." not in name and f"{name}.undone" not in names}
        return {Sid(match[1]) for match in map(_NAME.fullmatch, stones) if match}

    def hides(self, sid: Sid) -> bool:
        """Whether a tombstone hides the point ``sid``."""
        return self._exists(tombstone_object(sid, self._current(sid)))

    def of(self, sid: Sid) -> Tombstone | None:
        """The tombstone that hides ``sid``; None for a point that is not hidden. Raises :class:`ObjectDamaged`."""
        try:
            return self._read(sid, self._current(sid))
        except ObjectMissing:
            return None

    def place(self, sid: Sid, window_s: float, reason: str) -> bool:
        """Hide a point; it may be undone for ``window_s`` seconds at least. False if it was hidden already."""
        number = self._current(sid)
        if self._ended_as(sid, number, DocumentType.UNDONE):
            self._mark_undone(sid, number)  # whoever undid it was cut off before the mark
            number += 1
        now = self._clock()
        stone = Tombstone(sid=sid, number=number, pruned=now, not_before=now + window_s, reason=reason)
        return self._create(tombstone_object(sid, number), DocumentType.TOMBSTONE, stone)

    def undo(self, sid: Sid) -> bool:
        """Give a hidden point back. False if no tombstone hides it.

        Raises :class:`UndoWindowOver` if it was retired. A window that is over does not matter as long as nobody has
        acted on it.
        """
        number = self._current(sid)
        if not self._exists(tombstone_object(sid, number)):
            return False
        if not self._create(f"{tombstone_object(sid, number)}.end", DocumentType.UNDONE, _End(sid, number)):
            found = self._end(sid, number)
            if found is not DocumentType.UNDONE:
                raise UndoWindowOver(point=sid)
        self._mark_undone(sid, number)
        return True

    def retire(self, kept: Callable[[Sid], bool]) -> list[Sid]:
        """End the rounds whose window is over, so that they cannot be undone any more. Called by the collector.

        ``kept``: whether something else protects a point, which is then left. Returns what was retired now. A tombstone
        that cannot be read retires nothing.
        """
        return [
            sid
            for sid, number in self._due(kept)
            if self._create(f"{tombstone_object(sid, number)}.end", DocumentType.RETIRED, _End(sid, number))
        ]

    def due(self, kept: Callable[[Sid], bool]) -> list[Sid]:
        """What :meth:`retire` would retire; for a dry run."""
        return [sid for sid, _ in self._due(kept)]

    def retired(self) -> set[Sid]:
        """Sids that can never be given back: all that the collector may take. What cannot be read is not among them."""
        names = self._listing()
        ended = [each for each in self._standing(names) if (*each, ".end") in names]
        return {sid for sid, number in ended if self._ended_as(sid, number, DocumentType.RETIRED)}

    def _due(self, kept: Callable[[Sid], bool]) -> list[Round]:
        names = self._listing()
        standing = [each for each in sorted(self._standing(names)) if (*each, ".end") not in names]
        return [(sid, number) for sid, number in standing if self._is_over(sid, number) and not kept(sid)]

    def _standing(self, names: set[tuple[Sid, int, str]]) -> set[Round]:
        """Rounds that hide their point."""
        rounds = {(sid, number) for sid, number, kind in names if not kind}
        return rounds - {(sid, number) for sid, number, kind in names if kind == ".undone"}

    def _listing(self) -> set[tuple[Sid, int, str]]:
        found = (_NAME.fullmatch(name) for name in self._store.names(TOMBSTONES))
        return {(Sid(match[1]), int(match[2]), match[3] or "") for match in found if match}

    def _current(self, sid: Sid) -> int:
        """The number of the round that hides the point, or of the next one if none does."""
        number = 1
        while self._exists(f"{tombstone_object(sid, number)}.undone"):
            number += 1
        return number

    def _is_over(self, sid: Sid, number: int) -> bool:
        try:
            return self._read(sid, number).not_before <= self._clock()
        except RepositoryError:
            return False

    def _ended_as(self, sid: Sid, number: int, end: DocumentType) -> bool:
        try:
            return self._end(sid, number) is end
        except RepositoryError:
            return False

    def _read(self, sid: Sid, number: int) -> Tombstone:
        return read_value(self._store, tombstone_object(sid, number), DocumentType.TOMBSTONE, Tombstone)

    def _end(self, sid: Sid, number: int) -> DocumentType:
        name = f"{tombstone_object(sid, number)}.end"
        return decode_document(name, self._store.read(name, MOST_DOCUMENT_BYTES))[0]

    def _mark_undone(self, sid: Sid, number: int) -> None:
        self._create(f"{tombstone_object(sid, number)}.undone", DocumentType.UNDONE, _End(sid, number))

    def _create(self, name: str, document_type: DocumentType, body: Tombstone | _End) -> bool:
        data = encode_document(name, document_type, msgspec.json.encode(body, order="sorted"))
        try:
            self._store.create(name, [data])
        except ObjectExists:
            return False
        return True

    def _exists(self, name: str) -> bool:
        try:
            self._store.size(name)
        except ObjectMissing:
            return False
        return True


class _End(msgspec.Struct, frozen=True):
    """Body of the object that ends a round; its document type says how."""

    sid: Sid
    number: int


def tombstone_object(sid: Sid, number: int = 1) -> str:
    """Object name of a point's tombstone; each round of pruning has its own number."""
    return f"{TOMBSTONES}/{sid}-{number}"
