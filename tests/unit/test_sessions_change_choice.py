"""The change mode of a disk and its reason, for every ground there is."""

from __future__ import annotations

import msgspec
import pytest

from holdfast_agent.errors import ChangeTrackingLost, PluginDefect
from holdfast_agent.model.change import AuditRate, ChangeDecision, ChangeMode
from holdfast_agent.model.geometry import Extent, Geometry
from holdfast_agent.model.ids import Sid
from holdfast_agent.model.points import DiskPoint, Point
from holdfast_agent.wire.specs import MoverResult
from holdfast_manager.catalog.values import OnCbtLoss
from holdfast_manager.sessions.change_choice import (
    Ground,
    backup_order,
    carried_out,
    choose_mode,
    comparable,
    left_out,
    trackable,
)
from holdfast_manager.sessions.tracking import Told, ask_allocated, ask_changes
from holdfast_plugins.api import DiskBitmap, Snapshot, SnapshotDisk, VmRef

SIZE = 10 << 20
BITMAP = Told("t", bitmap="since")
EXTENTS = Told("t", (Extent(0, 1 << 20),))


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
        (Ground(disk(), 20, point(), BITMAP), ChangeMode.CBT, "changes tracked since the point of 1970-01-01"),
        (Ground(disk(), 20, point(), BITMAP, audit=AuditRate(0)), ChangeMode.CBT, "UTC; the audit is switched off"),
        (Ground(disk(), 20, point(), BITMAP, "x is suspect"), ChangeMode.DIGEST, "00:00:00 UTC: x is suspect"),
        (Ground(disk(allocation=False), 20, None, EXTENTS), ChangeMode.ALLOCATION, "was told by change tracking"),
        (Ground(disk(), 20, point()), ChangeMode.DIGEST, "compared with the point of 1970-01-01 00:00:00 UTC"),
        (Ground(disk(2 * SIZE), 20, point()), ChangeMode.DIGEST, f"it had {SIZE} bytes then"),
        (Ground(disk(), 20, point(), Told(lost="bitmap gone")), ChangeMode.DIGEST, "lost (bitmap gone)"),
        (Ground(disk(), 20, point(), Told(lost="x"), policy=OnCbtLoss.FULL), ChangeMode.FULL, "lost (x)"),
    ],
)
def test_each_ground_has_its_mode_and_reason(ground: Ground, mode: ChangeMode, words: str) -> None:
    decision = choose_mode(ground)
    assert decision.mode is mode
    assert words in decision.reason


def test_lost_tracking_fails_only_where_the_job_says_so() -> None:
    with pytest.raises(ChangeTrackingLost, match="bitmap gone"):
        choose_mode(Ground(disk(), 20, point(), Told(lost="bitmap gone"), policy=OnCbtLoss.FAIL))


def test_a_change_id_is_asked_about_only_where_its_answer_can_be_used() -> None:
    assert trackable(point(), disk(), 20) == "1"
    assert trackable(None, disk(), 20) is None
    assert trackable(point(log2=22), disk(), 20) is None, "other blocks"
    assert trackable(point(), disk(2 * SIZE), 20) is None, "resized"
    assert comparable(point(), disk(2 * SIZE), 20) is not None, "a resized disk is still compared by digest"


def test_an_order_says_what_was_decided_and_is_audited_only_where_somebody_is_believed() -> None:
    first = SnapshotDisk("d", "disk", SIZE, ("nbd+unix:/s?export=e", "file:/x"), allocation=False)
    by_bitmap = Ground(first, 20, point(), BITMAP, policy=OnCbtLoss.FULL, audit=AuditRate(9))
    order = backup_order(by_bitmap, choose_mode(by_bitmap))
    assert order.mode is ChangeMode.CBT and order.extents is None
    assert order.disks == ("nbd+unix:/s?bitmap=since&export=e", "file:/x")
    assert (order.on_loss, order.audit) == (ChangeMode.FULL, AuditRate(9))
    assert order.base_root is not None and order.base_geometry == Geometry(SIZE, 20)
    by_extents = Ground(first, 20, None, EXTENTS, policy=OnCbtLoss.FAIL)
    order = backup_order(by_extents, choose_mode(by_extents))
    assert (order.mode, order.extents, order.audit) == (ChangeMode.ALLOCATION, EXTENTS.extents, AuditRate())
    assert (order.on_loss, order.base_root, order.disks) == (None, None, first.urls)
    for doubted in (Ground(first, 20, point(), EXTENTS, "doubt"), Ground(first, 20, point(), Told(lost="gone"))):
        order = backup_order(doubted, choose_mode(doubted))
        assert (order.mode, order.extents, order.audit) == (ChangeMode.DIGEST, None, None)
        assert order.disks == first.urls and order.base_root is not None


def test_what_a_mover_turned_to_takes_nobodys_word() -> None:
    decision = ChangeDecision(ChangeMode.CBT, "as tracked", "t")
    assert carried_out(decision, MoverResult()) == decision
    turned = carried_out(decision, MoverResult(mode=ChangeMode.DIGEST, reason="it lied"))
    assert turned == ChangeDecision(ChangeMode.DIGEST, "it lied", "")


def test_what_was_found_of_unused_blocks_stands_in_the_reason() -> None:
    decision = ChangeDecision(ChangeMode.DIGEST, "compared", "")
    assert carried_out(decision, MoverResult(unused="XFS is kept whole")).reason == "compared; XFS is kept whole"


def test_nothing_is_tracked_from_a_base_that_has_zeros_where_the_disk_may_have_data() -> None:
    whole = point()
    holes = msgspec.structs.replace(whole.disks[0], unused_bytes=3 << 20)
    lacking = msgspec.structs.replace(whole, disks=(holes,))
    assert [left_out(base, "d") for base in (None, whole)] == ["", ""]
    assert left_out(lacking, "other") == ""
    ground = Ground(disk(), 20, lacking, BITMAP, left_out(lacking, "d"), policy=OnCbtLoss.FAIL, skip_unused=True)
    decision = choose_mode(ground)
    assert decision.mode is ChangeMode.DIGEST and "3.00 MiB that no file system needed" in decision.reason
    order = backup_order(ground, decision)
    assert order.skip_unused and order.extents is None and order.audit is None
    assert not backup_order(Ground(disk(), 20, None), choose_mode(Ground(disk(), 20, None))).skip_unused


class Tracker:
    """Answers with what it was made with, or raises it."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def changed(self, snapshot: Snapshot, disk_id: str, since: str) -> object:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def allocated(self, snapshot: Snapshot, disk_id: str) -> object:
        return self.changed(snapshot, disk_id, "")


def test_the_first_tracker_that_can_tell_is_taken_and_names_whole_blocks() -> None:
    snapshot, geometry = Snapshot("s", VmRef("v", "v"), (disk(),)), Geometry(SIZE - 7, 20)
    lost, broken = ChangeTrackingLost(reason="no id"), PluginDefect(plugin="b", method="m", reason="r")
    scattered = [Extent(start, 1) for start in range(0, SIZE, 4096)]
    silent = [("a", Tracker(lost)), ("b", Tracker(broken))]

    def changes(*more: tuple[str, Tracker], since: str | None = "1") -> Told:
        return ask_changes([*silent, *more], snapshot, disk(), geometry, since)

    assert changes(since=None) == Told()
    told = changes()
    assert told.lost.startswith("b failed") and not told.tracker
    assert changes(("c", Tracker(DiskBitmap("x"))), ("d", Tracker(scattered))) == Told("c", bitmap="x")
    assert changes(("d", Tracker(scattered))) == Told("d", (Extent(0, SIZE - 7),))
    assert changes(("e", Tracker([]))) == Told("e", ())
    assert ask_allocated(silent, snapshot, disk(), geometry) == Told()
    for answer, told in ((None, Told()), ([Extent(5, 1)], Told("c", (Extent(0, 1 << 20),)))):
        assert ask_allocated([*silent, ("c", Tracker(answer))], snapshot, disk(), geometry) == told
