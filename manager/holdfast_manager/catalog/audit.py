"""The audit log: who did what, from where, on what, and how it went."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from sqlalchemy import Connection, Select, func, select

from holdfast_agent.errors import HoldfastError

from ..rights.actor import Actor
from ..rights.chain import BROKEN, PURPOSE, Head, Verifier, seal
from ..rights.values import BEGAN, DONE, AuditEntry, AuditRecord
from .again import runs_again
from .database import Database
from .errors import AuditBroken
from .rights_tables import audit, audit_heads
from .rows import columns_of, from_row
from .sealing import Sealer

_COLUMNS = columns_of(audit, AuditEntry)
_PAGE = 2000
_MOST_CHARACTERS = 4096


@runs_again
class Audit:
    """The tables of the audit log. Thread-safe; every method but ``act`` is one transaction.

    Nothing here changes an entry, or removes one but by ``prune``, which the configuration's own term rules. Methods
    that write raise ``SealingKeyUnusable`` besides what ``Catalog`` raises: without its key nothing can be written
    down, and what must be written down is not done.
    """

    def __init__(self, database: Database, sealer: Sealer, clock: Callable[[], float]) -> None:
        self._database = database
        self._sealer = sealer
        self._clock = clock

    def append(self, record: AuditRecord) -> int:
        """Write an entry down; returns its number. Durable when this returns."""
        with self._database.writing() as connection:
            return self._add(connection, *self._end(connection), record)

    @contextmanager
    def act(self, actor: Actor, action: str, target: str = "", detail: str = "") -> Iterator[int]:
        """Write down that somebody begins something, and how it ended when the block ends; yields the first's number.

        What raises within is told by its code, and goes on. An entry that nobody ended tells of an act that a crash
        cut short.
        """
        record = AuditRecord(
            actor=actor.name, place=actor.place, action=action, target=target, detail=detail, outcome=BEGAN
        )
        number = self.append(record)
        outcome = "interrupted"
        try:
            yield number
            outcome = DONE
        except HoldfastError as error:
            outcome = error.code
            raise
        except Exception:
            outcome = "internal_error"
            raise
        finally:
            self.end(number, record, outcome)

    def end(self, number: int, record: AuditRecord, outcome: str) -> None:
        """How the act ended that ``record`` began as the entry ``number``. For who cannot use ``act``."""
        self.append(msgspec.structs.replace(record, outcome=outcome, concerns=number, detail=""))

    def list(
        self, limit: int = 100, before: int | None = None, actor: str | None = None, since: float | None = None
    ) -> tuple[AuditEntry, ...]:
        """The newest first: at most ``limit``, of those before the number ``before``, of one actor, since a time."""
        query = select(*_COLUMNS).order_by(audit.c.number.desc()).limit(limit)
        if before is not None:
            query = query.where(audit.c.number < before)
        if actor is not None:
            query = query.where(audit.c.actor == actor)
        if since is not None:
            query = query.where(audit.c.time >= since)
        with self._database.reading() as connection:
            return tuple(from_row(row, AuditEntry) for row in connection.execute(query))

    def verify(self, mark: str = "") -> Head:
        """Prove that no entry was changed, taken out, put in or cut off; returns where the log begins and ends.

        ``mark``: what ``Head.mark`` told once: the log must still hold it. Reads all of it, as one state. Raises
        ``AuditBroken`` with the first fault.
        """
        key = self._key()
        with self._database.reading() as connection:
            row = connection.execute(select(audit_heads)).first()
            head = None if row is None else _head(row)
            verifier = Verifier(key, head, b"" if row is None else row.seal, mark)
            after = 0
            while page := connection.execute(_after(after)).all():
                verifier.check((_entry(row), row.seal) for row in page)
                after = page[-1].number
        fault = verifier.finish()
        if fault:
            raise AuditBroken(reason=fault)
        return head or Head()

    def prune(self, older_than_s: float) -> int:
        """Forget what is older, from the beginning on; returns how many entries went. Written down as one more."""
        until = self._clock() - older_than_s
        with self._database.writing() as connection:
            kept = connection.scalar(select(func.min(audit.c.number)).where(audit.c.time >= until))
            old = audit.c.number < kept if kept is not None else audit.c.number > 0
            last = connection.execute(select(audit).where(old).order_by(audit.c.number.desc()).limit(1)).first()
            if last is None:
                return 0
            head, before = self._end(connection)
            gone = connection.execute(audit.delete().where(old)).rowcount
            head = msgspec.structs.replace(head, start=last.number, start_seal=last.seal)
            service = Actor.service()
            target = f"{gone} entries, to number {last.number}"
            record = AuditRecord(actor=service.name, place=service.place, action="audit prune", target=target)
            self._add(connection, head, before, record)
        return gone

    def _add(self, connection: Connection, head: Head, before: bytes, record: AuditRecord) -> int:
        """``before``: the seal that the new entry follows."""
        said = {name: _bounded(value) for name, value in msgspec.structs.asdict(record).items()}
        entry = AuditEntry(number=head.last + 1, time=self._clock(), **said)
        key = self._key()
        carried = seal(key, before, entry)
        connection.execute(audit.insert().values(**msgspec.structs.asdict(entry), seal=carried))
        head = msgspec.structs.replace(head, last=entry.number, last_seal=carried)
        connection.execute(audit_heads.delete())
        values = {**msgspec.structs.asdict(head), "seal": head.seal(key)}
        connection.execute(audit_heads.insert().values(place=1, **values))
        return entry.number

    def _end(self, connection: Connection) -> tuple[Head, bytes]:
        """The head, and the seal that the next entry follows: ``BROKEN`` where head and entries do not belong together.

        Else whoever cut the log could have the head mended by the next entry.
        """
        row = connection.execute(select(audit_heads)).first()
        newest = connection.execute(select(audit).order_by(audit.c.number.desc()).limit(1)).first()
        head = Head() if row is None else _head(row)
        if row is None or hmac.compare_digest(head.seal(self._key()), row.seal):
            end = (head.start, head.start_seal) if newest is None else (newest.number, newest.seal)
            if end == (head.last, head.last_seal):
                return head, head.last_seal
        last = 0 if newest is None else newest.number
        return msgspec.structs.replace(head, start=min(head.start, last), last=last), BROKEN

    def _key(self) -> bytes:
        return self._sealer.derive(PURPOSE)


def _after(number: int) -> Select[Any]:
    return select(audit).where(audit.c.number > number).order_by(audit.c.number).limit(_PAGE)


def _head(row: Any) -> Head:
    return Head(start=row.start, start_seal=row.start_seal, last=row.last, last_seal=row.last_seal)


def _entry(row: Any) -> AuditEntry:
    fields = msgspec.structs.fields(AuditEntry)
    return AuditEntry(**{field.name: getattr(row, field.name) for field in fields})


def _bounded(value: Any) -> Any:
    """Text that databases take (no NUL, no lone surrogates), and not too much of it."""
    if not isinstance(value, str):
        return value
    return value[:_MOST_CHARACTERS].encode("utf-8", "replace").decode().replace("\0", "?")
