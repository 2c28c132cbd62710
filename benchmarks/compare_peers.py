"""Full and unchanged backup, restore and verification of one image by Holdfast, restic and borg, in one run.

The order alternates from round to round. A verification reads, decodes and compares all data.

Writes bench-work/compare_peers.json and prints medians and ratios as Markdown, ready for docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from math import isnan, nan
from pathlib import Path

import images
from blake3 import blake3
from holdfast_runs import backup, one_disk
from peers import PEERS, Peer

from lab.installation import Installation

WORK = Path("bench-work")
MIB = 1 << 20
FASTER_THAN_PEERS, OF_HASHING = 3.0, 1.5
WHOLE, TRANSFER = "holdfast, whole command", "holdfast, step transfer"


@dataclass(frozen=True)
class Measured:
    """Seconds of the first and of the second, unchanged backup, of restore and verification; what is then stored."""

    full_s: float
    unchanged_s: float
    restore_s: float
    verify_s: float
    stored_mib: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size-mib", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--image", type=Path, help="a raw image of your own instead (it is only read)")
    given = parser.parse_args()
    WORK.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="peers-", dir=WORK) as name:
        work = Path(name).resolve()
        image = given.image.resolve() if given.image else work / "disk.raw"
        if not given.image:
            images.make_mixed_image(image, given.size_mib)
        size_mib = image.stat().st_size // MIB
        used = sum(end - start for start, end in images.data_extents(image))
        dense = work / "dense"
        _copy_allocated(image, dense)
        measured, hashing = _measure(work, image, dense, given.rounds)
    medians = {name: _median(runs) for name, runs in measured.items()}
    hash_s = statistics.median(hashing)
    document = {
        "image_mib": size_mib,
        "used_mib": used // MIB,
        "rounds": given.rounds,
        "cores": len(os.sched_getaffinity(0)),
        "versions": {peer.name: peer.version for peer in PEERS},
        "runs": {name: [asdict(run) for run in runs] for name, runs in measured.items()},
        "b3sum_one_thread_s": hashing,
    }
    (WORK / "compare_peers.json").write_text(json.dumps(document, indent=2) + "\n")
    print(_markdown(medians, hash_s, size_mib, used // MIB))
    return 0


def _measure(work: Path, image: Path, dense: Path, rounds: int) -> tuple[dict[str, list[Measured]], list[float]]:
    present = [peer for peer in PEERS if peer.version is not None]
    measured: dict[str, list[Measured]] = {name: [] for name in (WHOLE, TRANSFER, *(peer.name for peer in present))}
    hashing = []
    with one_disk(work / "home", image) as house:
        turns: list[Callable[[], dict[str, Measured]]] = [lambda: _holdfast(house)]
        turns += [partial(_peer, peer, work / "peer", image) for peer in present]
        for number in range(rounds):
            for measure in turns if number % 2 == 0 else reversed(turns):
                for name, result in measure().items():
                    measured[name].append(result)
                    print(f"  round {number + 1}: {name:<26} {result}", file=sys.stderr)
            hashing.append(_timed(lambda: _hash(dense)))
    return measured, hashing


def _holdfast(house: Installation) -> dict[str, Measured]:
    """Each time a repository of its own, so that the first run is a full."""
    name = f"main{time.time_ns()}"
    house.add_repository(name, encrypted=True)
    house.add_job(name, repository=name, include="vm")
    full, unchanged = backup(house, name), backup(house, name)
    assert unchanged.mode == "digest", unchanged.report
    stored = _size(house.store / name) / MIB
    to = house.out / "restored.raw"
    restore_s = _timed(lambda: house.restore_disk("vm", house.points("vm")[0]["sid"], to))
    to.unlink()
    verify_s = _timed(lambda: house.holdfast("repository", "verify", name, "--level", "2"))
    shutil.rmtree(house.store / name)
    return {
        WHOLE: Measured(full.wall_s, unchanged.wall_s, restore_s, verify_s, stored),
        TRANSFER: Measured(full.transfer_s, unchanged.transfer_s, nan, nan, stored),
    }


def _peer(peer: Peer, home: Path, image: Path) -> dict[str, Measured]:
    peer.make_repository(home)
    full_s = _timed(lambda: peer.run(home, image))
    unchanged_s = _timed(lambda: peer.run(home, image))
    stored = _size(home / "repo") / MIB
    target = home / "restored"
    target.mkdir()
    restore_s = _timed(lambda: peer.restore_to(home, target))
    shutil.rmtree(target)
    verify_s = _timed(lambda: peer.check(home))
    shutil.rmtree(home)
    return {peer.name: Measured(full_s, unchanged_s, restore_s, verify_s, stored)}


def _hash(dense: Path) -> None:
    """Read and hash with one thread, by b3sum or, where it is missing, by the same library from Python."""
    b3sum = shutil.which("b3sum")
    if b3sum:
        subprocess.run([b3sum, "--num-threads", "1", dense], check=True, stdout=subprocess.DEVNULL)
        return
    with dense.open("rb") as file:
        hasher = blake3()
        while piece := file.read(MIB):
            hasher.update(piece)


def _copy_allocated(image: Path, dense: Path) -> None:
    """The allocated data alone, for b3sum would hash the holes too."""
    with image.open("rb") as source, dense.open("wb") as target:
        for start, end in images.data_extents(image):
            source.seek(start)
            for position in range(start, end, MIB):
                target.write(source.read(min(MIB, end - position)))


def _timed(work: Callable[[], None]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def _size(directory: Path) -> int:
    return sum(
        path.stat().st_blocks * 512 for path in directory.rglob("*") if path.is_file() and path.name != "space-reserve"
    )


def _beside(each_s: float, own_s: float) -> str:
    return "" if isnan(each_s) else f"{each_s:.1f} s (× {each_s / own_s:.1f})"


def _median(runs: list[Measured]) -> Measured:
    columns = zip(*(asdict(run).values() for run in runs), strict=True)
    return Measured(*(statistics.median(column) for column in columns))


def _markdown(medians: dict[str, Measured], hash_s: float, size_mib: int, used_mib: int) -> str:
    own = medians[WHOLE]
    lines = [
        f"Image of {size_mib} MiB, {used_mib} MiB used; {len(os.sched_getaffinity(0))} cores; medians.",
        "",
        "| | full | unchanged | restore | verify all data | stored |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {_beside(each.full_s, own.full_s)} | {_beside(each.unchanged_s, own.unchanged_s)} "
        f"| {_beside(each.restore_s, own.restore_s)} | {_beside(each.verify_s, own.verify_s)} "
        f"| {each.stored_mib:,.0f} MiB |"
        for name, each in medians.items()
    ]
    lines += [f"| {peer.name} | not installed | | | | |" for peer in PEERS if peer.version is None]
    lines += [f"| b3sum, one thread, allocated data | | {_beside(hash_s, own.unchanged_s)} | | | |", ""]
    peers = [each.full_s for name, each in medians.items() if name not in (WHOLE, TRANSFER)]
    if peers:
        ratio = min(peers) / own.full_s
        lines.append(f"Full: {ratio:.1f} times as fast as the fastest peer (wanted: {FASTER_THAN_PEERS:.0f}).")
    whole, transfer = own.unchanged_s / hash_s, medians[TRANSFER].unchanged_s / hash_s
    lines.append(
        f"Unchanged: the transfer takes {transfer:.1f} times as long as reading and hashing alone (wanted: at most "
        f"{OF_HASHING}), the whole command {whole:.1f} times."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
