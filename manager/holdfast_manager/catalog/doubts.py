"""Which restore points are in doubt once an audit has found that change tracking missed changes. Pure.

A miss says that some run since the disk was last read whole took a block for unchanged that was not. The points of
those runs may hold blocks that are too old; which ones, nobody can tell. The last point that was read whole is right
whatever a tracker says, and so is the one whose session found it out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import takewhile

from holdfast_agent.model.change import AuditOutcome, ChangeMode
from holdfast_agent.model.ids import Sid
from holdfast_agent.model.points import Point


def taken_on_trust(point: Point, disk_id: str) -> bool:
    """Whether a tracker's word is all that is known of parts of that disk in ``point``."""
    return any(disk.disk_id == disk_id and (disk.mode is ChangeMode.CBT or bool(disk.tracker)) for disk in point.disks)


def doubtful(older: Iterable[Point], disk_id: str) -> Iterator[Point]:
    """Of the VM's points before the audit, newest first, those that are in doubt: back to the last one read whole."""
    return takewhile(lambda point: taken_on_trust(point, disk_id), older)


def doubted_by_audits(points: Iterable[Point]) -> set[Sid]:
    """The points of a repository that the audits of later ones cast doubt on, from what the points themselves tell.

    So a catalogue that was lost learns of them again.
    """
    vms: dict[tuple[str, str], list[Point]] = {}
    for point in points:
        vms.setdefault((point.server, point.vm_id), []).append(point)
    found: set[Sid] = set()
    for history in vms.values():
        history.sort(key=lambda point: point.created, reverse=True)
        for place, point in enumerate(history):
            for disk in point.disks:
                if disk.audit == AuditOutcome.FAILED and disk.mode is ChangeMode.DIGEST:
                    found |= {each.sid for each in doubtful(history[place + 1 :], disk.disk_id)}
    return found
