"""Which restore points a copy brings from one repository to another, and what the next of a VM can build on.

Both repositories are asked, and what they say is authenticated: with a catalogue that was lost nothing is copied twice.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from datetime import UTC, datetime

import msgspec

from holdfast_agent.errors import PointNotFound
from holdfast_agent.model.change import ChangeDecision, ChangeMode
from holdfast_agent.model.ids import Sid
from holdfast_agent.model.points import DiskPoint, Origin, Point
from holdfast_manager.catalog.catalog import Catalog
from holdfast_manager.catalog.values import PointState
from holdfast_manager.enrolment.points import Ask, Authentic, authentic_points
from holdfast_manager.retention.policy import PointFacts, RetentionPolicy, decide

from .change_choice import base_disk
from .homes import VmKey
from .point_tasks import PointTransfer
from .requests import CopyRequest


class Pair(msgspec.Struct, frozen=True):
    """A point of the target, and the point of the origin whose content it has; None: the origin has none."""

    copy: Point
    original: Point | None


class CopyPlan(msgspec.Struct, frozen=True):
    """``chains``: points to be copied, oldest first within each VM. ``present``: how many the target has already.

    ``pruned``: how many copies were pruned in the target, so that they are not made again. ``unkept``: how many the
    retention of their job would prune at once. ``suspect``: points of the origin that are left out because something
    was found wrong with them. ``refused``: sids of the origin's points that are not authentic, or too new. ``bases``:
    what the target has of each VM. ``unwell``: points of both that something was found wrong with.
    """

    chains: tuple[tuple[Point, ...], ...]
    bases: Mapping[VmKey, tuple[Pair, ...]]
    present: int = 0
    pruned: int = 0
    unkept: int = 0
    suspect: tuple[Point, ...] = ()
    refused: tuple[str, ...] = ()
    unwell: frozenset[Sid] = frozenset()


def plan_copy(
    catalog: Catalog,
    request: CopyRequest,
    origins: Mapping[str, Ask],
    targets: Mapping[str, Ask],
    keep: RetentionPolicy | None = None,
) -> CopyPlan:
    """What ``request`` asks for and the target does not have. Changes nothing.

    ``origins`` and ``targets``: by name the repositories that are read and written to; several where a group is named.

    ``keep``: the retention of the copy job that asks; what it would prune at once is not copied. Called by a copy
    session, and for a dry run. Raises ``PointNotFound`` for a point that was named and is not there,
    and what the channel raises.
    """
    origin, target, pruned = (
        _together(authentic_points(catalog, name, ask, hidden=hidden) for name, ask in asks.items())
        for asks, hidden in ((origins, False), (targets, False), (targets, True))
    )
    unwell = frozenset().union(*(_suspects(catalog, name) for name in (*origins, *targets)))
    wanted = list({point.identity: point for point in chosen(origin.points, request)}.values())
    present = {point.identity for point in target.points} | _out_of_reach(catalog, request, origins, targets)
    anew = bool(request.points) or request.pruned
    given_up = set() if anew else {point.identity for point in pruned.points}
    missing = [point for point in wanted if point.identity not in present]
    due = [point for point in missing if point.identity not in given_up]
    kept = due if keep is None else _kept(keep, request.job, due, target.points, unwell)
    named = bool(request.points) or request.suspect
    chains: dict[VmKey, list[Point]] = defaultdict(list)
    for point in kept:
        if point.sid not in unwell or named:
            chains[vm_of(point)].append(point)
    return CopyPlan(
        chains=tuple(tuple(chain) for _, chain in sorted(chains.items())),
        bases=pairs(origin.points, target.points),
        present=len(wanted) - len(missing),
        pruned=len(missing) - len(due),
        unkept=len(due) - len(kept),
        suspect=() if named else tuple(point for point in kept if point.sid in unwell),
        refused=() if request.points else origin.refused,
        unwell=unwell,
    )


def _together(parts: Iterable[Authentic]) -> Authentic:
    found = tuple(parts)
    points = tuple(point for part in found for point in part.points)
    return Authentic(points, tuple(sid for part in found for sid in part.refused))


def _out_of_reach(
    catalog: Catalog, request: CopyRequest, origins: Mapping[str, Ask], targets: Mapping[str, Ask]
) -> set[Origin]:
    """What members of the target have that do not answer now, as far as the catalogue knows."""
    away = [each for each in catalog.groups.behind(request.repository) if each.name not in {*origins, *targets}]
    return {
        row.origin or Origin(entry.repository_id, row.sid)
        for entry in away
        for row in catalog.points.list(repository=entry.name, limit=1 << 30)
    }


def chosen(points: Iterable[Point], request: CopyRequest) -> list[Point]:
    """The points that are asked for, oldest first. Raises ``PointNotFound`` for one that is named and is not there."""
    ordered = sorted(points, key=lambda point: (point.created, point.sid))
    if request.points:
        known = {point.sid for point in ordered}
        for sid in request.points:
            if sid not in known:
                raise PointNotFound(point=sid)
        return [point for point in ordered if point.sid in request.points]
    ordered = [point for point in ordered if request.covers(point)]
    if request.since is not None:
        ordered = [point for point in ordered if point.created >= request.since]
    if request.latest is not None:
        by_vm: dict[VmKey, list[Sid]] = defaultdict(list)
        for point in ordered:
            by_vm[vm_of(point)].append(point.sid)
        newest = {sid for sids in by_vm.values() for sid in sids[-request.latest :]}
        ordered = [point for point in ordered if point.sid in newest]
    return ordered


def _kept(
    policy: RetentionPolicy, job: str, due: Sequence[Point], target: Sequence[Point], unwell: Set[Sid]
) -> list[Point]:
    """Those of ``due`` that ``policy`` keeps beside what ``target`` has of ``job`` already."""
    by_vm: dict[VmKey, list[Point]] = defaultdict(list)
    for point in (*due, *(point for point in target if point.job == job)):
        by_vm[vm_of(point)].append(point)
    kept: set[Sid] = set()
    for points in by_vm.values():
        facts = [PointFacts(sid=each.sid, created=each.created, suspect=each.sid in unwell) for each in points]
        kept |= {decision.sid for decision in decide(policy, facts, time.time()) if decision.keep}
    return [point for point in due if point.sid in kept]


def vm_of(point: Point) -> VmKey:
    return point.server, point.vm_id


def pairs(origin: Sequence[Point], target: Sequence[Point]) -> dict[VmKey, tuple[Pair, ...]]:
    """What the target has of each VM, oldest first, with its equals in the origin."""
    originals = {point.identity: point for point in origin}
    found: dict[VmKey, list[Pair]] = defaultdict(list)
    for point in sorted(target, key=lambda point: (point.created, point.sid)):
        found[vm_of(point)].append(Pair(point, originals.get(point.identity)))
    return {vm: tuple(each) for vm, each in found.items()}


def best_base(bases: Sequence[Pair], point: Point, unwell: Set[Sid]) -> Pair | None:
    """What a copy of ``point`` builds on best: a point that both have, the last before it, else the first after it.

    ``unwell``: points that nothing is built on. Without any that both have, the target's nearest alone will do.
    """
    sound = [_in_one_origin(pair, point) for pair in bases if pair.copy.sid not in unwell]
    usable = [pair for pair in sound if pair.original is not None] or sound
    before = [pair for pair in usable if pair.copy.created <= point.created]
    return before[-1] if before else usable[0] if usable else None


def _in_one_origin(pair: Pair, point: Point) -> Pair:
    """``pair`` for a copy of ``point``: two trees can be compared where one reader has both."""
    if pair.original is None or pair.original.repository_id == point.repository_id:
        return pair
    return Pair(pair.copy, None)


def choose_transfer(point: Point, disk: DiskPoint, pair: Pair | None) -> PointTransfer:
    """How ``disk`` of ``point`` is copied on top of ``pair``, and why.

    What two points have in common is inherited only if both repositories have the earlier one, in the same blocks.
    """
    base = None if pair is None else base_disk(pair.copy, disk.disk_id)
    if pair is None or base is None or base.block_log2 != disk.block_log2:
        return PointTransfer(point, disk, ChangeDecision(ChangeMode.ALLOCATION, "first copy of this disk"))
    since = base_disk(pair.original, disk.disk_id)
    when = moment_of(pair.copy)
    if since is None or since.geometry != base.geometry:
        reason = f"no point that both repositories have; compared with the point of {when}"
        return PointTransfer(point, disk, ChangeDecision(ChangeMode.DIGEST, reason), base)
    decision = ChangeDecision(ChangeMode.CBT, f"the trees tell what changed since the point of {when}")
    return PointTransfer(point, disk, decision, base, since)


def name_of(point: Point) -> str:
    """A point as the session's log names it."""
    return f"{point.vm_name} of {moment_of(point)}"


def moment_of(point: Point) -> str:
    return datetime.fromtimestamp(point.created, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _suspects(catalog: Catalog, repository: str) -> frozenset[Sid]:
    """Points of a repository with which something was found wrong."""
    rows = catalog.points.list(repository=repository, limit=1 << 30)
    return frozenset(row.sid for row in rows if row.state is PointState.SUSPECT)
