"""Who works with a database that is to come to a newer schema: processes of the older version, which know no other."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from sqlalchemy import JSON, Connection, column, inspect, select, table

from .processes import ProcessIdentity

# As every schema has had them: those of this version do not stand in the database yet.
_sessions = table("sessions", column("id"), column("state"), column("process", JSON()))
_services = table("services", column("process", JSON()))


def at_work(connection: Connection, others_are_dead: bool) -> list[str]:
    """Sessions that have not ended, and the service, as people read them; without those that are dead for sure.

    Of a process on another host nothing is known: it counts unless ``others_are_dead``. Which service led on another
    host is no sign of life: that is written down, and stays.
    """
    return [*_sessions_at_work(connection, others_are_dead), *_services_at_work(connection)]


def _sessions_at_work(connection: Connection, others_are_dead: bool) -> Iterator[str]:
    open_ones = select(_sessions.c.id, _sessions.c.process).where(_sessions.c.state != "ended")
    for number, told in connection.execute(open_ones.order_by(_sessions.c.id)):
        process = msgspec.convert(told, ProcessIdentity)
        if not process.is_dead() and (process.is_here() or not others_are_dead):
            yield f"session {number} ({process})"


def _services_at_work(connection: Connection) -> Iterator[str]:
    if inspect(connection).has_table(_services.name):
        for (told,) in connection.execute(select(_services.c.process)):
            process = msgspec.convert(told, ProcessIdentity)
            if process.is_here() and not process.is_dead():
                yield f"the service ({process})"
