"""Giving the space of pruned backups back: Holdfast, restic and borg, on the same ten states of one image.

Each backs the image up ten times, a tenth of it changed in between, and forgets the five oldest; what is timed is the
command that frees the space: `holdfast repository gc`, `restic prune`, `borg compact`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import images
import results
from holdfast_runs import backup, one_disk
from peers import FILE_PEERS

from holdfast_agent.repository.repository import Repository

WORK = Path("bench-work")
MIB = 1 << 20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size-mib", type=int, default=1024)
    parser.add_argument("--points", type=int, default=10)
    parser.add_argument("--part", type=float, default=0.1)
    given = parser.parse_args()
    WORK.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gc-", dir=WORK) as name:
        work = Path(name).resolve()
        states = []
        for number in range(given.points):
            state = work / f"state-{number}.raw"
            if states:
                shutil.copyfile(states[-1], state)
                images.change(state, given.part, seed=number)
            else:
                images.make_mixed_image(state, given.size_mib)
            states.append(state)
        print("| | took | before | after |\n|---|---|---|---|")
        found = {"holdfast": _holdfast(work, states)}
        for peer in FILE_PEERS:
            if peer.version is not None:
                home = work / "peer"
                peer.make_repository(home)
                for state in states:
                    shutil.copyfile(state, work / "disk.raw")
                    peer.run(home, work / "disk.raw")
                peer.forget(home, given.points // 2)
                free = partial(peer.free, home)
                found[peer.name] = _measured(peer.name, home / "repo", free)
                shutil.rmtree(home)
        absent = [peer for peer in FILE_PEERS if peer.version is None]
        print("", *(f"Not installed: {peer.name} ({peer.how_to_get})." for peer in absent), sep="\n")
    results.write("compare_gc", {"size_mib": given.size_mib, "points": given.points, "tools": found})
    return 0


def _holdfast(work: Path, states: list[Path]) -> dict[str, float]:
    disk = work / "holdfast.raw"
    shutil.copyfile(states[0], disk)
    with one_disk(work / "home", disk) as house:
        house.add_repository("main", encrypted=True)
        house.add_job("main", repository="main", include="vm")
        for state in states:
            with state.open("rb") as source, disk.open("r+b") as target:
                shutil.copyfileobj(source, target, 4 * MIB)
            backup(house, "main")
        repository = Repository.open(house.store / "main", work / "cache")
        for entry in house.points("vm")[len(states) // 2 :]:
            repository.tombstone(entry["sid"])
        repository.close()
        return _measured("holdfast", house.store / "main", lambda: house.holdfast("repository", "gc", "main"))


def _measured(name: str, repository: Path, work: Callable[[], object]) -> dict[str, float]:
    """Print a line of the table, and give what it says."""
    before = _size(repository)
    began = time.monotonic()
    work()
    took = time.monotonic() - began
    after = _size(repository)
    print(f"| {name} | {took:.1f} s | {before:,.0f} MiB | {after:,.0f} MiB |", flush=True)
    return {"took_s": took, "before_mib": before, "after_mib": after}


def _size(directory: Path) -> float:
    found = (path for path in directory.rglob("*") if path.is_file() and path.name != "space-reserve")
    return sum(path.stat().st_blocks * 512 for path in found) / MIB


if __name__ == "__main__":
    sys.exit(main())
