"""Several disks at once on one machine: whether their movers share its cores fairly, and what memory they take in all.

A VM of disks of the same size and kind of content is backed up in full, encrypted, first with one slot, then with a
slot for each disk; and again unchanged. A fair share is an equal one: all disks run from the first second to the last.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import images
import results

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from lab.installation import Installation, installed
from lab.processes import MOVER, children, memory_kib

WORK = Path("bench-work")
MIB = 1 << 20


@dataclass
class Memory:
    """Of all movers at one moment, the most that was seen; and of a single one. In MiB."""

    together_mib: float = 0.0
    single_mib: float = 0.0
    movers: int = 0
    _over: threading.Event = field(default_factory=threading.Event)

    def watch(self, agent: int) -> None:
        while not self._over.wait(0.05):
            sizes = [memory_kib(pid, "VmRSS") / 1024 for pid in children(agent, MOVER)]
            self.together_mib = max(self.together_mib, sum(sizes))
            self.single_mib = max(self.single_mib, *sizes, 0.0)
            self.movers = max(self.movers, len(sizes))

    def stop(self) -> None:
        self._over.set()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--disks", type=int, default=4)
    parser.add_argument("--size-mib", type=int, default=1024)
    given = parser.parse_args()
    WORK.mkdir(exist_ok=True)
    found = []
    with tempfile.TemporaryDirectory(prefix="shares-", dir=WORK) as name:
        disks = Path(name).resolve() / "disks"
        disks.mkdir()
        for number in range(given.disks):
            images.make_mixed_image(disks / f"{number}.raw", given.size_mib, seed=number)
        print("| slots | run | whole step | each disk | slowest ÷ fastest | memory of all movers | of one |")
        print("|---|---|---|---|---|---|---|")
        for slots in (1, given.disks):
            home = disks.parent / f"home-{slots}"
            with installed(home, slots=slots, snapshot="in-place") as house:
                (house.vms / "vm").mkdir()
                for disk in disks.iterdir():
                    (house.vms / "vm" / disk.name).hardlink_to(disk)
                house.add_repository("main", encrypted=True)
                house.add_job("main", repository="main", include="vm")
                for what in ("full", "unchanged"):
                    found.append(_run(house, slots, what))
            shutil.rmtree(home)
    results.write("fair_shares", {"disks": given.disks, "size_mib": given.size_mib, "runs": found})
    return 0


def _run(house: Installation, slots: int, what: str) -> dict[str, Any]:
    with _watched(house) as memory:
        report = house.run_job("main")
    each = [float(disk["counters"]["elapsed_s"]) for disk in report["disks"]]
    step = next(step for step in report["steps"] if step["step"] == "transfer")
    spread = max(each) / min(each)
    print(
        f"| {slots} | {what} | {step['took_s']:.1f} s | {min(each):.1f} – {max(each):.1f} s | {spread:.2f} "
        f"| {memory.together_mib:.0f} MiB, {memory.movers} movers | {memory.single_mib:.0f} MiB |",
        flush=True,
    )
    return {
        "slots": slots,
        "run": what,
        "step_s": float(step["took_s"]),
        "each_s": each,
        "median_s": statistics.median(each),
        "together_mib": memory.together_mib,
        "single_mib": memory.single_mib,
        "movers": memory.movers,
    }


@contextmanager
def _watched(house: Installation) -> Iterator[Memory]:
    assert house.agent is not None
    memory = Memory()
    thread = threading.Thread(target=memory.watch, args=(house.agent.pid,))
    thread.start()
    try:
        yield memory
    finally:
        memory.stop()
        thread.join()


if __name__ == "__main__":
    sys.exit(main())
