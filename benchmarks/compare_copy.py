"""Copying backups to a repository with another key: `holdfast repository copy` and `restic copy`, on the same states.

Three states of one image, a part of it changed in between, are backed up; all are copied, then a fourth one. What is
timed is the whole command. For Holdfast the memory of its three movers is watched, too.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import images
import results
from holdfast_runs import backup, one_disk
from peers import FILE_PEERS

from lab.installation import Installation
from lab.processes import MOVER, children, memory_kib

WORK = Path("bench-work")
STATES = 4
MIB = 1 << 20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size-mib", type=int, default=2048)
    parser.add_argument("--part", type=float, default=0.02)
    given = parser.parse_args()
    WORK.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="copy-", dir=WORK) as name:
        work = Path(name).resolve()
        print("| | three states | one more | most memory of a mover |\n|---|---|---|---|")
        found = {"holdfast": _holdfast(work, given.size_mib, given.part)}
        restic = next(peer for peer in FILE_PEERS if peer.program == "restic")
        if restic.version is not None:
            first, second, disk = work / "first", work / "second", work / "peer.raw"
            states = _states(disk, given.size_mib, given.part)
            restic.make_repository(first)
            restic.make_repository(second)
            for _ in range(STATES - 1):
                next(states)
                restic.run(first, disk)
            whole = _timed(lambda: restic.copy(first, second))
            next(states)
            restic.run(first, disk)
            more = _timed(lambda: restic.copy(first, second))
            print(f"| restic | {whole:.1f} s | {more:.1f} s | |", flush=True)
            found["restic"] = {"three_states_s": whole, "one_more_s": more}
        else:
            print(f"\nNot installed: restic ({restic.how_to_get}).")
    results.write("compare_copy", {"size_mib": given.size_mib, "tools": found})
    return 0


def _holdfast(work: Path, size_mib: int, part: float) -> dict[str, float]:
    disk = work / "holdfast.raw"
    states = _states(disk, size_mib, part)
    next(states)
    with one_disk(work / "home", disk) as house:
        for repository in ("main", "far"):
            house.add_repository(repository, encrypted=True)
        house.add_job("main", repository="main", include="vm")
        backup(house, "main")
        for _ in range(STATES - 2):
            next(states)
            backup(house, "main")
        with _memory(house) as most:
            whole = _timed(lambda: house.holdfast("repository", "copy", "main", "far"))
            next(states)
            backup(house, "main")
            more = _timed(lambda: house.holdfast("repository", "copy", "main", "far"))
        memory_mib = max(most.values()) // 1024
        print(f"| holdfast | {whole:.1f} s | {more:.1f} s | {memory_mib} MiB |", flush=True)
        return {"three_states_s": whole, "one_more_s": more, "memory_mib": memory_mib}


def _states(disk: Path, size_mib: int, part: float) -> Iterator[None]:
    """Bring ``disk`` to the next state, in place."""
    images.make_mixed_image(disk, size_mib)
    yield
    for number in range(STATES):
        images.change(disk, part, seed=number)
        yield


@contextmanager
def _memory(house: Installation) -> Iterator[dict[int, int]]:
    """The most that each mover has had in memory, in KiB by process, while this is entered."""
    most: dict[int, int] = {0: 0}
    over = threading.Event()

    def watch() -> None:
        while house.agent is not None and not over.wait(0.05):
            for pid in children(house.agent.pid, MOVER):
                most[pid] = max(most.get(pid, 0), memory_kib(pid, "VmHWM"))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        over.set()
        thread.join()


def _timed(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main())
