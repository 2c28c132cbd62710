"""What a source leaves out of a disk because no file system on it needs it, and what people are told of that."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from holdfast_agent.disks.disk import ReadableDisk
from holdfast_agent.filesystems.survey import Finding, survey
from holdfast_agent.model.change import ChangeMode
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.units import format_size
from holdfast_agent.wire.specs import BackupOrder

from .conversation import Run
from .stages import StageClock

_MOST_TOLD = 8  # volumes of one disk in a sentence that stands in its restore point for good


class Unused(NamedTuple):
    """``runs``: whole blocks, ascending. ``told``: one sentence for people."""

    runs: tuple[Run, ...] = ()
    told: str = ""


def asks_for_unused(order: BackupOrder) -> bool:
    """Whether the disk itself is asked what it holds, and its file systems besides."""
    return order.skip_unused and order.extents is None and order.mode in (ChangeMode.ALLOCATION, ChangeMode.DIGEST)


def find_unused(disk: ReadableDisk, geometry: Geometry, clock: StageClock) -> Unused:
    """What no file system on ``disk`` needs. Run in a worker: it reads a little of the disk. Raises nothing."""
    try:
        with clock:
            found = survey(disk, geometry.block_bytes)
        return Unused(tuple(geometry.runs_of(found.unused)), _told(found.findings))
    except Exception as error:  # noqa: BLE001 - a guest wrote what is looked at here; it must never cost its own backup
        return Unused(told=f"nothing was left out: the look at its file systems failed ({error})")


def _told(findings: Iterable[Finding]) -> str:
    """ "1.2 GiB of ext4 at 1.00 MiB is unused; XFS at 9.0 GiB is kept whole: …"."""
    words = [
        f"{finding.kind} at {format_size(finding.extent.start)} is kept whole: {finding.doubt}"
        if finding.doubt
        else f"{format_size(finding.unused_bytes)} of {finding.kind} at {format_size(finding.extent.start)} is unused"
        for finding in findings
    ]
    more = [f"{len(words) - _MOST_TOLD} more volumes"] if len(words) > _MOST_TOLD else []
    return "; ".join(words[:_MOST_TOLD] + more)
