"""Which points an audit's finding casts doubt on, and that the points of a repository alone tell it again."""

from __future__ import annotations

import random

import msgspec
import pytest

from holdfast_agent.model.change import AuditOutcome, ChangeMode
from holdfast_agent.model.ids import Sid
from holdfast_agent.model.points import DiskPoint, Point
from holdfast_manager.catalog.doubts import doubted_by_audits, doubtful, taken_on_trust

pytestmark = pytest.mark.both_databases

FULL, CBT, DIGEST, ALLOCATION = ChangeMode.FULL, ChangeMode.CBT, ChangeMode.DIGEST, ChangeMode.ALLOCATION
FAILED = AuditOutcome.FAILED.value


def disk(mode: ChangeMode, audit: str = "none", disk_id: str = "d", tracker: str = "") -> DiskPoint:
    known = tracker or msgspec.UNSET
    return DiskPoint(disk_id, disk_id, 1 << 20, 20, "00" * 32, mode, "", audit=audit, tracker=known)


def point(number: int, *disks: DiskPoint, vm: str = "vm") -> Point:
    return Point(Sid(f"{number:032x}"), "0" * 32, float(number), "job", "server", vm, vm, disks, "")


def numbers(sids: set[Sid]) -> list[int]:
    return sorted(int(sid, 16) for sid in sids)


def test_a_trackers_word_is_trusted_in_cbt_and_where_it_told_what_is_in_use() -> None:
    assert taken_on_trust(point(1, disk(CBT)), "d")
    assert taken_on_trust(point(1, disk(ALLOCATION, tracker="t")), "d")
    for mode in (FULL, DIGEST, ALLOCATION):
        assert not taken_on_trust(point(1, disk(mode)), "d")
    assert not taken_on_trust(point(1, disk(CBT, disk_id="other")), "d")


def test_doubt_goes_back_to_the_last_point_that_was_read_whole() -> None:
    history = [point(5, disk(CBT)), point(4, disk(CBT)), point(3, disk(DIGEST)), point(2, disk(CBT))]
    assert [int(each.sid, 16) for each in doubtful(history, "d")] == [5, 4]
    assert list(doubtful(history[2:], "d")) == []


def test_the_points_of_a_repository_tell_which_of_them_are_in_doubt() -> None:
    points = [
        point(1, disk(FULL), disk(FULL, disk_id="e")),
        point(2, disk(CBT, "passed"), disk(CBT, disk_id="e")),
        point(3, disk(DIGEST, FAILED), disk(CBT, disk_id="e")),  # d's tracking had missed a change
        point(4, disk(CBT), disk(CBT, disk_id="e")),
        point(5, disk(CBT), disk(CBT, disk_id="e")),
        point(6, disk(CBT), vm="other"),
        point(7, disk(DIGEST), disk(CBT, disk_id="e")),  # compared for another reason: no doubt
        point(8, disk(ALLOCATION, FAILED), vm="third"),
    ]
    random.Random(3).shuffle(points)
    assert numbers(doubted_by_audits(points)) == [2]
    later = [*points, point(9, disk(CBT), disk(DIGEST, FAILED, disk_id="e"))]
    assert numbers(doubted_by_audits(later)) == [2, 3, 4, 5, 7]
    assert doubted_by_audits([]) == set()
