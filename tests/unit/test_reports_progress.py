"""Tables, rates and the points of `point list`."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from holdfast_agent.model.stats import TransferCounters
from holdfast_manager.catalog.values import TaskEntry
from holdfast_manager.reports.progress import RateMeter, gathered
from holdfast_manager.reports.table import facts, table

MIB = 1 << 20


def task(processed: int, **changes: Any) -> TaskEntry:
    entry = TaskEntry(
        id=1, session=1, vm_id="v", vm_name="web", disk_id="d", disk_name="root.img", state="transferring",
        counters=TransferCounters(size_bytes=100 * MIB, processed_bytes=processed),
    )  # fmt: skip
    return msgspec.structs.replace(entry, **changes)


def looks(*seen: tuple[float, int]) -> str:
    meter = RateMeter()
    for now, processed in seen:
        (progress,) = meter.look([task(processed)], now)
    return progress.text()


def test_a_rate_needs_two_looks() -> None:
    assert looks((0.0, 0)) == "web/root.img  transferring"
    assert looks((0.0, 0), (1.0, 0)) == "web/root.img  transferring"


def test_the_rate_and_the_time_left() -> None:
    assert looks((0.0, 0), (2.0, 20 * MIB)) == "web/root.img  20%  20.0 MiB of 100 MiB  10.0 MiB/s  8 s left"


def test_the_rate_is_that_of_the_last_ten_seconds() -> None:
    slow_then_quick = [(float(second), second * MIB) for second in range(20)]
    quick = [(20.0 + second, (20 + second * 4) * MIB) for second in range(11)]
    assert "4.00 MiB/s" in looks(*slow_then_quick, *quick)


def test_a_task_that_begins_anew_has_a_new_rate() -> None:
    assert looks((0.0, 0), (1.0, 50 * MIB), (2.0, 0), (3.0, 5 * MIB)).endswith("5.00 MiB/s  19 s left")


def test_what_waits_says_for_what() -> None:
    (progress,) = RateMeter().look([task(0, state="queued", reason="no slot on proxy local")], 0.0)
    assert progress.text() == "web/root.img  queued: no slot on proxy local"
    assert gathered([progress]) == [progress]
    moving, done = (RateMeter().look([task(0, state=state)], 0.0)[0] for state in ("transferring", "finished"))
    first, *others = gathered([progress, moving, progress, done])
    assert (first, [each.text() for each in others]) == (moving, ["2 disks  queued: no slot on proxy local"])
    assert progress.at_work
    (ended,) = RateMeter().look([task(0, state="finished")], 0.0)
    assert not ended.at_work


def test_a_table_is_aligned_by_what_a_terminal_shows() -> None:
    text = table(("name", "size"), [("日本", "1"), ("é", "20"), ("plain", "")], right=("size",))
    assert text == "name   size\n日本      1\né        20\nplain"


@pytest.mark.parametrize("bad", ["\x1b[31mred", "two\nlines", "back\bspace", "\u202eright to left"])
def test_control_characters_are_shown_not_obeyed(bad: str) -> None:
    assert bad not in table(("name",), [(bad,)])
    assert "?" in table(("name",), [(bad,)])
    assert "?" in facts([(bad, "value")])


def test_facts_align_their_values() -> None:
    assert facts([("Key", "a"), ("Options", "b\nc")]) == "Key:      a\nOptions:  b\n          c"
