"""What is in use now: the slots of everything, who holds them, and who waits for what. Reads only."""

from __future__ import annotations

from collections import Counter

import msgspec
from sqlalchemy import Connection, select

from ..catalog.database import Database
from ..catalog.tables import sessions, slot_requests, tasks
from .capacities import Capacities


class SlotUse(msgspec.Struct, frozen=True):
    """``resource``: "proxy a", "repository main", …; ``used`` of its ``slots`` are held."""

    resource: str
    slots: int
    used: int


class SlotRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A task in the ledger. ``holds``: the resources, none while it waits; then ``reason`` says for what, and ``ahead``
    how many wait before it. ``since``: when it asked, in Unix seconds."""

    session: int
    job: str
    vm: str
    disk: str
    since: float
    holds: tuple[str, ...] = ()
    reason: str = ""
    ahead: int = 0


class Occupation(msgspec.Struct, frozen=True):
    """At one moment; the requests in the order of the queue."""

    slots: tuple[SlotUse, ...]
    holding: tuple[SlotRequest, ...]
    waiting: tuple[SlotRequest, ...]


def slot_uses(connection: Connection) -> tuple[SlotUse, ...]:
    """Of everything that has slots, by name."""
    capacities = Capacities(connection)
    used: Counter[str] = Counter()
    for granted in connection.scalars(select(slot_requests.c.granted).where(slot_requests.c.granted.is_not(None))):
        used.update(granted or ())
    return tuple(SlotUse(name, slots, used[name]) for name, slots in sorted(capacities.slots.items()))


def occupation(database: Database) -> Occupation:
    """One read transaction; raises what ``Catalog`` does."""
    columns = (
        slot_requests.c.session,
        slot_requests.c.granted,
        slot_requests.c.requested,
        slot_requests.c.reason,
        slot_requests.c.ahead,
        sessions.c.job,
        tasks.c.vm_name,
        tasks.c.disk_name,
    )
    query = select(*columns).join(sessions, sessions.c.id == slot_requests.c.session)
    query = query.outerjoin(tasks, tasks.c.id == slot_requests.c.task).order_by(slot_requests.c.id)
    with database.reading() as connection:
        uses = slot_uses(connection)
        requests = [
            SlotRequest(
                session=row.session,
                job=row.job,
                vm=row.vm_name or "",
                disk=row.disk_name or "",
                since=row.requested,
                holds=tuple(row.granted or ()),
                reason="" if row.granted is not None else row.reason or "waiting for its turn",
                ahead=row.ahead,
            )
            for row in connection.execute(query)
        ]
    holding = tuple(each for each in requests if each.holds)
    return Occupation(uses, holding, tuple(each for each in requests if not each.holds))
