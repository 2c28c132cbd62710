"""Memory of an idle agent and of movers that back up and restore a sparse 1 TiB image with scattered data."""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from pathlib import Path

import images
import results
from holdfast_runs import backup, one_disk

from lab.installation import Installation
from lab.processes import MOVER, children, memory_kib

AGENT_LIMIT_MIB, MOVER_LIMIT_MIB = 60, 250
WORK = Path("bench-work")


class PeakWatch:
    """Peak resident memory of every mover of the agent ``pid`` while the context is open, by process."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.peaks_kib: dict[int, int] = {}

    def __enter__(self) -> PeakWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def highest_mib(self) -> float:
        return max(self.peaks_kib.values(), default=0) / 1024

    def _look(self) -> None:
        while not self._over.wait(0.02):
            for pid in children(self._pid, MOVER):
                peak = memory_kib(pid, "VmHWM")
                if peak:
                    self.peaks_kib[pid] = peak


def main() -> int:
    """Returns 1 when a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size-gib", type=int, default=1024)
    parser.add_argument("--data-mib", type=int, default=1024)
    given = parser.parse_args()
    WORK.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="memory-", dir=WORK) as name:
        work = Path(name).resolve()
        disk = work / "disk.raw"
        images.make_scattered_image(disk, given.size_gib, given.data_mib)
        with one_disk(work / "home", disk) as house:
            house.add_repository("main", encrypted=True)
            house.add_job("main", repository="main", include="vm")
            return 0 if _measure(house, f"{given.size_gib} GiB with {given.data_mib} MiB of data") else 1


def _measure(house: Installation, disk: str) -> bool:
    """Print the figures; returns whether all are within their limits."""
    assert house.agent is not None
    idle_mib = memory_kib(house.agent.pid, "VmRSS") / 1024
    print(f"{'idle agent':<60} {idle_mib:6.0f} MiB (limit {AGENT_LIMIT_MIB})")
    peaks = []
    found: dict[str, object] = {"idle_agent_mib": idle_mib, "disk": disk}
    works = {
        f"full of {disk}": lambda: backup(house, "main"),
        f"unchanged run of {disk}": lambda: backup(house, "main"),
        f"restore of {disk}": lambda: house.restore_disk("vm", "latest", house.out / "restored.raw"),
    }
    for what, work in works.items():
        began = time.monotonic()
        with PeakWatch(house.agent.pid) as watch:
            work()
        peaks.append(watch.highest_mib)
        took_s = time.monotonic() - began
        found[what.partition(" of ")[0]] = {"mover_mib": watch.highest_mib, "took_s": took_s}
        print(f"{what:<60} {watch.highest_mib:6.0f} MiB a mover at most (limit {MOVER_LIMIT_MIB}), {took_s:.1f} s")
    results.write("mover_memory", found)
    return idle_mib <= AGENT_LIMIT_MIB and 0 < max(peaks) <= MOVER_LIMIT_MIB


if __name__ == "__main__":
    sys.exit(main())
