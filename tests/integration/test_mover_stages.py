"""The busy shares of stages: whatever one thing is slow, its stage alone is busy, and so is told as the bottleneck."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.rules import Compression, TransferRules
from holdfast_agent.model.stats import StageTimes, TransferCounters, bottleneck, joined
from holdfast_agent.model.units import MIB
from holdfast_agent.wire.movers import Begin, Finished
from holdfast_agent.wire.specs import RestoreOrder, WriterSpec
from lab.disks import nbdkit
from lab.movers import Done, Site
from lab.tools import require_tool

SIZE = 64 * MIB
PLAIN = TransferRules(compression=Compression.NONE)
SLOW = ("--filter=rate", "rate=256M", "burstiness=0.05")
"""32 MiB/s: far below what anything else here reaches, and more data than all windows and buffers together hold."""


@pytest.fixture(params=["between", "within"])
def site(tmp_path: Path, request: pytest.FixtureRequest) -> Site:
    """Movers of two processes, and of one: with a network between them, and with none."""
    require_tool("nbdkit", "nbdkit")
    return Site(tmp_path, within=request.param == "within")


def _image(site: Site) -> Path:
    path = site.folder / "disks" / "disk"
    path.write_bytes(random.Random(1).randbytes(SIZE))
    return path


def _only(stages: StageTimes, elapsed_s: float, busy: str) -> None:
    """The stage is busy nearly all the time; those that wait for it are not, though their queues are full."""
    assert bottleneck(stages) == busy, stages
    assert getattr(stages, f"{busy}_s") > 0.6 * elapsed_s, stages
    assert stages.network_s < 0.3 * elapsed_s, stages
    assert stages.throttled_s == 0


def test_a_slow_disk_is_the_sources_time(site: Site) -> None:
    image = _image(site)
    with nbdkit(site.folder / "disks", "--readonly", "file", str(image), *SLOW) as socket:
        done: Done = site.backup(f"nbd+unix:{socket}", Geometry(SIZE), rules=PLAIN)
    _only(done.counters.stages, done.counters.elapsed_s, "source")


def test_a_slow_writer_is_the_targets_time_and_not_the_networks(site: Site) -> None:
    """Records wait at the reader because the writer's disk takes no more: no faster network would help them."""
    root = site.backup(f"file:{_image(site)}", Geometry(SIZE), rules=PLAIN).repository.root
    assert root is not None
    with (
        nbdkit(site.folder / "disks", "memory", str(SIZE), *SLOW) as socket,
        site.reading_pair(WriterSpec, PLAIN) as (writer, reader),
    ):
        order = RestoreOrder(geometry=Geometry(SIZE), root=root, disk=f"nbd+unix:{socket}")
        writer.send(Begin(order=order))
        counters: TransferCounters = writer.expect(Finished).counters
        if reader is not writer:
            counters = joined(counters, reader.expect(Finished).counters)
    _only(counters.stages, counters.elapsed_s, "target")
    assert any(bottleneck(each.stages) == "target" for each in writer.progress), "live, too"
