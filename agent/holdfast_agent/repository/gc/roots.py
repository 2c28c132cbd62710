"""What must stay: the committed points that were not given up, and whether the list of them can be believed."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from holdfast_agent.errors import CollectionRefused, FormatUnsupported, ObjectDamaged
from holdfast_agent.model.ids import Sid, parse_sid
from holdfast_agent.model.points import Point
from holdfast_agent.sealing.roots import read_point

from .. import layout
from ..layout import parse_pack_name
from ..repository import Repository


class Roots(msgspec.Struct, frozen=True):
    """One listing. ``points``: what must resolve; ``active``: sessions that had a record just before."""

    points: tuple[Point, ...]
    active: frozenset[Sid]

    @property
    def sids(self) -> tuple[Sid, ...]:
        return tuple(sorted(point.sid for point in self.points))


def list_roots(
    repository: Repository, packs: Iterable[str], earlier: Iterable[Sid], given_up: Iterable[Sid] = ()
) -> Roots:
    """List sessions, then outcomes, then tombstones. ``packs``: names listed before; ``earlier``: roots known before.

    In this order nothing can be missed: a session that has no record any more had its outcome before the record went.
    So every writer of a pack has a record or an outcome, and the outcome of every earlier root is there still:
    pruning does not remove it. Where that is not so a listing was cut, or a part of the storage is not mounted, and
    :class:`CollectionRefused` is raised. A point that cannot be read, or that a later version wrote, raises it too:
    what it refers to is not known. ``given_up``: points that count as retired already, for a dry run.
    """
    store = repository.store
    active = frozenset(_sids(store.names(layout.SESSIONS)))
    outcomes = frozenset(_sids(store.names(layout.POINTS)))
    # A pruned point stays a root until it is retired: `Repository.retire`, called before a generation begins.
    retired = repository.tombstones.retired() | set(given_up)
    for name in packs:
        if parse_pack_name(name).sid not in active | outcomes:
            raise CollectionRefused(reason=f"the pack {name} is there, but the outcome of its session is not")
    for sid in earlier:
        if sid not in outcomes:
            raise CollectionRefused(reason=f"the restore point {sid} was there and has vanished")
    points = (_point(repository, sid) for sid in sorted(outcomes - retired))
    return Roots(tuple(point for point in points if point is not None), active)


def _point(repository: Repository, sid: Sid) -> Point | None:
    try:
        entry = repository.committed(sid)
        return read_point(entry) if entry else None
    except (ObjectDamaged, FormatUnsupported) as error:
        reason = f"the restore point {sid} cannot be read, so what it needs is not known ({error.text})"
        raise CollectionRefused(reason=reason) from error


def _sids(names: Iterable[str]) -> Iterable[Sid]:
    return (parse_sid(name.rpartition("/")[2]) for name in names)
