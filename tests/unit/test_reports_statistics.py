"""What a repository holds, as people read it."""

from __future__ import annotations

import msgspec

from holdfast_agent.model.ids import new_sid
from holdfast_agent.wire.messages import PointSizes, Sizes, StatisticsEnded, VmSizes
from holdfast_manager.catalog.values import PointEntryRow
from holdfast_manager.reports.points_text import state_of
from holdfast_manager.reports.statistics_text import compression_ratio, dedup_ratio, statistics_text

MIB = 1 << 20
SIZES = Sizes(
    logical_bytes=80 * MIB, used_bytes=40 * MIB, unique_bytes=20 * MIB, stored_bytes=8 * MIB, metadata_bytes=MIB,
    freed_bytes=3 * MIB,
)  # fmt: skip
SID = new_sid()
ROW = PointEntryRow(
    sid=SID, repository="main", server="lab", job="web", vm_id="1", vm_name="web", created=0.0, size_bytes=1
)


def found(**change: object) -> StatisticsEnded:
    vm = VmSizes(server="lab", vm_id="1", vm_name="web", points=2, sizes=SIZES)
    values = {"ticket": "t", "total": SIZES, "packs_bytes": 10 * MIB, "vms": (vm,), **change}
    return msgspec.structs.replace(StatisticsEnded(ticket="t"), **values)


def test_ratios_are_left_out_where_nothing_is_stored() -> None:
    assert (dedup_ratio(SIZES), compression_ratio(SIZES)) == (2.0, 2.5)
    assert (dedup_ratio(Sizes()), compression_ratio(Sizes())) == (None, None)


def test_the_whole_repository_and_its_vms() -> None:
    text = statistics_text("main", found(), {}, with_points=False)
    assert "Logical:   80.0 MiB in 2 restore points" in text
    assert "dedup 2.00" in text
    assert "compression 2.50" in text
    assert "Packs:     10.0 MiB, of which no restore point needs 1.00 MiB" in text
    assert "Restore points" not in text
    (row,) = [line for line in text.splitlines() if line.split()[:1] == ["web"]]
    assert " ".join(row.split()) == "web lab 2 80.0 MiB 40.0 MiB 20.0 MiB 8.00 MiB 1.00 MiB 2.00 2.50 3.00 MiB"


def test_points_that_the_catalogue_does_not_know_are_told_too() -> None:
    unknown = new_sid()
    points = tuple(PointSizes(sid=sid, sizes=SIZES) for sid in (SID, unknown))
    text = statistics_text("main", found(points=points, left_off=7), {SID: ROW}, with_points=True)
    named = [line.split()[:2] for line in text.splitlines()]
    assert [SID[:12], "web"] in named
    assert [unknown[:12], "-"] in named
    assert text.endswith("7 older points are not shown")


def test_an_empty_repository() -> None:
    text = statistics_text("main", StatisticsEnded(ticket="t"), {}, with_points=True)
    assert "0 B in 0 restore points" in text
    assert "VMs" not in text


def test_the_state_of_a_point_in_words() -> None:
    assert state_of(ROW) == "ok"
    told = PointEntryRow(
        sid=SID, repository="main", server="lab", job="web", vm_id="1", vm_name="web", created=0.0, size_bytes=1,
        verified=5.0, held=True, retained_until=86400.0, undo_until=86400.0,
    )  # fmt: skip
    assert state_of(told).startswith("ok, verified, protected, kept until 1970-01-")
    assert ", pruned, undo until 1970-01-" in state_of(told)
