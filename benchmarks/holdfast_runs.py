"""A Holdfast of its own for a benchmark: agent, manager, and one VM whose only disk is read in place."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from lab.installation import Installation, installed
from lab.services import nursery, service


@dataclass(frozen=True)
class Run:
    """One backup: the whole ``holdfast job run``, and of it the step ``transfer``. Seconds and the session's report."""

    wall_s: float
    transfer_s: float
    report: dict[str, Any]

    @property
    def mode(self) -> str:
        return str(self.report["disks"][0]["mode"])


@contextlib.contextmanager
def one_disk(home: Path, disk: Path, plugins: Sequence[str] = ()) -> Iterator[Installation]:
    """An installation whose VM ``vm`` has the disk ``disk``, an image on the same file system (by a hard link).

    Agent and Backup Service run, as they do where Holdfast is installed.
    """
    with installed(home, snapshot="in-place", plugins=plugins) as house:
        (house.vms / "vm").mkdir()
        (house.vms / "vm" / "disk.raw").hardlink_to(disk)
        with service(house) as running:
            nursery(house, running)
            yield house


def backup(house: Installation, job: str) -> Run:
    """Run ``job`` once."""
    began = time.monotonic()
    report = house.run_job(job)
    wall_s = time.monotonic() - began
    transfer = next(step for step in report["steps"] if step["step"] == "transfer")
    return Run(wall_s, float(transfer["took_s"]), report)
