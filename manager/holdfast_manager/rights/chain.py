"""How entries of the audit log hold on to each other. Pure: no database, no clock.

Each entry carries a seal: a keyed hash (HMAC-SHA256) over the seal of the one before it and all that it says. So no
entry can be changed, taken out, put in or moved by anybody without the key, which lies beside the database and not in
it. The log's head (the first and the last entry's place) is sealed the same way: without it the newest entries could
be cut off unseen.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

import msgspec

from .values import AuditEntry

START = bytes(32)
"""What stands in the place of a seal before the first entry of all."""
BROKEN = b"broken" + bytes(26)
"""In that place where the log was found damaged when an entry was to follow: the damage stays to be seen."""
PURPOSE = "audit log"
"""For which the key is derived (``Sealer.derive``)."""


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """Where the log begins and ends. ``start``: the number of the last entry that was pruned (0: none was), with its
    seal; ``last``: of the newest entry, with its seal."""

    start: int = 0
    start_seal: bytes = START
    last: int = 0
    last_seal: bytes = START

    def seal(self, key: bytes) -> bytes:
        """The seal of the head itself."""
        return hmac.digest(key, b"head\0" + msgspec.json.encode(self), hashlib.sha256)

    @property
    def mark(self) -> str:
        """Number and seal of the newest entry, to be noted elsewhere: it proves later that the log still holds it."""
        return f"{self.last}:{self.last_seal.hex()}"


def seal(key: bytes, before: bytes, entry: AuditEntry) -> bytes:
    """The seal of ``entry``; ``before`` is that of the one before it."""
    return hmac.digest(key, b"entry\0" + before + msgspec.json.encode(entry, order="sorted"), hashlib.sha256)


class Verifier:
    """Follows a log from its beginning. ``check`` takes the entries in their order, in as many parts as one likes."""

    def __init__(self, key: bytes, head: Head | None, head_seal: bytes, mark: str = "") -> None:
        """``mark``: as ``Head.mark`` told it once; empty: none was noted."""
        self._key = key
        self._head = head or Head()
        self._last, self._seal = self._head.start, self._head.start_seal
        self._mark, _, self._mark_seal = mark.partition(":")
        self._met = not mark
        self.fault = ""
        """What is wrong, for people, once it is known: the first fault ends the proof."""
        if head is not None and not hmac.compare_digest(head.seal(key), head_seal):
            self.fault = "the head of the log was altered, or was sealed under another key"

    def check(self, entries: Iterable[tuple[AuditEntry, bytes]]) -> None:
        """Each with the seal that it carries."""
        for entry, carried in entries:
            if self.fault:
                return
            self._check(entry, carried)

    def finish(self) -> str:
        """Called once after the last entry; returns the fault, empty for a log that is whole."""
        if not self.fault and self._last < self._head.last:
            self.fault = f"entries after {self._last} are missing: the log goes to {self._head.last}"
        if not self.fault and (self._last, self._seal) != (self._head.last, self._head.last_seal):
            self.fault = f"entries after {self._head.last} are none of the log's: its head was put back or taken away"
        if not self.fault and not self._met:
            self.fault = f"entry {self._mark} is not what it was when its mark was noted, or it is gone"
        return self.fault

    def _check(self, entry: AuditEntry, carried: bytes) -> None:
        if entry.number != self._last + 1:
            gone = (
                f"{self._last + 1} to {entry.number - 1}" if entry.number > self._last + 1 else f"before {entry.number}"
            )
            self.fault = f"the log does not follow at entry {entry.number}: entries {gone} are missing or out of place"
            return
        if not hmac.compare_digest(seal(self._key, self._seal, entry), carried):
            self.fault = f"entry {entry.number} was altered, or one before it was taken out"
            return
        self._last, self._seal = entry.number, carried
        if str(entry.number) == self._mark and carried.hex() == self._mark_seal:
            self._met = True
