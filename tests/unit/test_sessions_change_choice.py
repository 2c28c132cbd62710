"""The change mode of a disk and its reason, for every ground there is."""

from __future__ import annotations

import pytest

from holdfast_agent.errors import ChangeTrackingLost
from holdfast_agent.model.change import ChangeMode
from holdfast_agent.model.ids import Sid
from holdfast_agent.model.points import DiskPoint, Point
from holdfast_manager.catalog.values import OnCbtLoss
from holdfast_manager.sessions.change_choice import Ground, choose_mode, comparable, trackable
from holdfast_plugins.api import SnapshotDisk

SIZE = 10 << 20


def disk(size: int = SIZE, allocation: bool = True) -> SnapshotDisk:
    return SnapshotDisk("d", "disk", size, ("file:/x",), change_id="2", allocation=allocation)


def point(size: int = SIZE, log2: int = 20, disk_id: str = "d") -> Point:
    old = DiskPoint(disk_id, "disk", size, log2, "00" * 32, ChangeMode.FULL, "", change_id="1")
    return Point(Sid("0" * 32), "0" * 32, 0.0, "job", "server", "vm", "vm", (old,), "")


@pytest.mark.parametrize(
    ("ground", "mode", "words"),
    [
        (Ground(disk(), 20, None), ChangeMode.ALLOCATION, "first backup of this disk"),
        (Ground(disk(allocation=False), 20, None), ChangeMode.FULL, "unused areas cannot be told"),
        (Ground(disk(), 20, point(disk_id="other")), ChangeMode.ALLOCATION, "first backup of this disk"),
        (Ground(disk(), 20, point(log2=22)), ChangeMode.ALLOCATION, "block size changed from 4096 KiB"),
        (Ground(disk(), 20, point(), tracked=True), ChangeMode.CBT, "changes tracked since the point of 1970-01-01"),
        (Ground(disk(), 20, point()), ChangeMode.DIGEST, "compared with the point of 1970-01-01 00:00:00 UTC"),
        (Ground(disk(2 * SIZE), 20, point()), ChangeMode.DIGEST, f"it had {SIZE} bytes then"),
        (Ground(disk(), 20, point(), lost="bitmap gone"), ChangeMode.DIGEST, "lost (bitmap gone)"),
        (Ground(disk(), 20, point(), lost="x", policy=OnCbtLoss.FULL), ChangeMode.FULL, "lost (x)"),
    ],
)
def test_each_ground_has_its_mode_and_reason(ground: Ground, mode: ChangeMode, words: str) -> None:
    decision = choose_mode(ground)
    assert decision.mode is mode
    assert words in decision.reason


def test_lost_tracking_fails_only_where_the_job_says_so() -> None:
    with pytest.raises(ChangeTrackingLost, match="bitmap gone"):
        choose_mode(Ground(disk(), 20, point(), lost="bitmap gone", policy=OnCbtLoss.FAIL))


def test_a_change_id_is_asked_about_only_where_its_answer_can_be_used() -> None:
    assert trackable(point(), disk(), 20) == "1"
    assert trackable(None, disk(), 20) is None
    assert trackable(point(log2=22), disk(), 20) is None, "other blocks"
    assert trackable(point(), disk(2 * SIZE), 20) is None, "resized"
    assert comparable(point(), disk(2 * SIZE), 20) is not None, "a resized disk is still compared by digest"
