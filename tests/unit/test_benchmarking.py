"""What a benchmark makes of its counters."""

from __future__ import annotations

import msgspec
import pytest

from holdfast_agent.disks.synthetic import SyntheticDisk
from holdfast_agent.errors import DiskUrlInvalid
from holdfast_agent.model.disk_url import parse_disk_url
from holdfast_agent.model.stats import StageTimes, TransferCounters
from holdfast_manager.benchmarking.prediction import StageRate, predict

GIB = 1 << 30
READ = TransferCounters(
    processed_bytes=GIB, read_bytes=GIB, elapsed_s=1.0, stages=StageTimes(source_s=0.5, proxy_s=0.9)
)
SEND = msgspec.structs.replace(
    READ, sent_bytes=GIB, transferred_bytes=GIB, elapsed_s=2.0, stages=StageTimes(0.5, 1.4, 1.8, 0.1)
)
STORE = msgspec.structs.replace(
    SEND, transferred_bytes=GIB // 2, stored_bytes=GIB // 2, elapsed_s=4.0, stages=StageTimes(0.5, 3.4, 0.2, 1.0)
)


def test_rates_and_bottlenecks_follow_from_the_passes() -> None:
    found = predict(READ, SEND, STORE, 25)
    assert found.full_bytes_per_s == GIB / 4
    assert found.unchanged_bytes_per_s == GIB
    assert found.incremental_bytes_per_s == pytest.approx(GIB / (0.75 + 0.25 * 4))
    assert (found.bottleneck_full, found.bottleneck_incremental, found.ratio) == ("proxy", "proxy", 2.0)
    assert found.load_full == "Source 12% > Proxy 85% > Network 5% > Target 25%"
    rates = {each.what: each.bytes_per_s for each in found.stages}
    assert {what: rate / GIB for what, rate in rates.items() if rate is not None} == pytest.approx(
        {"read": 2.0, "ids": 1 / 0.9, "seal": 2.0, "compress": 0.5, "send": 0.5, "store": 0.5}
    )
    assert not found.stages[4].at_least, "the network was what held the sending back"


def test_a_disk_that_is_slow_at_first_limits_although_it_is_in_a_cache_later() -> None:
    cold = msgspec.structs.replace(READ, elapsed_s=9.0, stages=StageTimes(source_s=8.0, proxy_s=0.9))
    found = predict(cold, SEND, STORE, 0)
    assert (found.full_bytes_per_s, found.bottleneck_full) == (GIB / 8, "source")
    assert found.incremental_bytes_per_s == found.unchanged_bytes_per_s == GIB / 9


def test_what_is_too_fast_to_be_measured_is_said_so() -> None:
    found = predict(READ, msgspec.structs.replace(SEND, stages=StageTimes(0.5, 0.9, 0.1, 0.0)), STORE, 5)
    assert found.stages[2] == StageRate(stage="proxy", what="seal", bytes_per_s=None)
    assert found.stages[4].at_least


def test_a_made_up_disk_is_the_same_at_every_reading_and_unlike_any_other() -> None:
    disk, other = (SyntheticDisk(parse_disk_url(f"synthetic:/{3 << 20}")) for _ in range(2))
    whole, again, others = bytearray(3 << 20), bytearray(3 << 20), bytearray(3 << 20)
    disk.read_into(0, memoryview(whole))
    other.read_into(0, memoryview(others))
    for start in range(0, len(again), 99 << 10):
        disk.read_into(start, memoryview(again)[start : start + (99 << 10)])
    assert whole == again
    pieces = {
        bytes(image[start : start + (1 << 16)]) for image in (whole, others) for start in range(0, 3 << 20, 1 << 16)
    }
    assert len(pieces) == 2 * 48, "something of it occurs twice"
    assert [(extent.start, extent.length, extent.data) for extent in disk.extents()] == [(0, 3 << 20, True)]


@pytest.mark.parametrize("size", ["", "0", "-5", "1e9", "²", "99999999999999999"])
def test_a_made_up_disk_has_a_sensible_size(size: str) -> None:
    with pytest.raises(DiskUrlInvalid, match="synthetic:/BYTES"):
        parse_disk_url(f"synthetic:/{size}")
