"""One image backed up, unchanged, changed by 5 %, restored and verified: Holdfast and other programs, in one run.

All times are until what was written is durable: what a program leaves to the kernel is synced, in its time, and told.
Before a restore the repository leaves the page cache. The order alternates from round to round. A verification reads,
decodes and compares all data. Programs that are not installed are named with how to get them.

Writes bench-work/compare_peers.json and prints medians and ratios as Markdown, ready for docs/performance.md.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from math import isnan, nan
from pathlib import Path

import images
import results
from blake3 import blake3
from holdfast_runs import one_disk
from peer import Peer
from peer_benji import Benji
from peer_qemu_img import QemuImg
from peer_virtnbdbackup import Virtnbdbackup
from peers import FILE_PEERS
from turns import MIB, TRACKED, TRANSFER, WHOLE, Disk, Measured, holdfast_turn, peer_turn, timed, tracked_turn

from lab.installation import Installation
from lab.storage_vms import StorageVm

WORK = Path("bench-work")
FASTER_THAN_PEERS, OF_HASHING, CHANGED = 3.0, 1.5, 0.05
BENJI = Benji()
PEERS: tuple[Peer, ...] = (
    *FILE_PEERS,
    BENJI,
    QemuImg("qemu-img convert, zstd"),
    QemuImg("qemu-img convert, zstd, written in any order", "-m", "16", "-W"),
    Virtnbdbackup("virtnbdbackup, not compressed"),
    Virtnbdbackup("virtnbdbackup, lz4", "--compress"),
)
_COLUMNS = {
    "full": "full_s",
    "unchanged": "unchanged_s",
    "5 % changed": "changed_s",
    "restore": "restore_s",
    "verify all data": "verify_s",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size-mib", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--image", type=Path, help="a raw image of your own instead (it is copied)")
    parser.add_argument("--only", action="append", help="peers whose names contain this, and no others (repeatable)")
    parser.add_argument("--get-benji", action="store_true", help="install benji into bench-work, from PyPI")
    given = parser.parse_args()
    WORK.mkdir(exist_ok=True)
    if given.get_benji:
        BENJI.get()
    peers = [peer for peer in PEERS if any(word in peer.name for word in given.only or [""])]
    with tempfile.TemporaryDirectory(prefix="peers-", dir=WORK) as name:
        work = Path(name).resolve()
        image = work / "disk.raw"
        if given.image:
            images.copy_sparse(given.image, image)
        else:
            images.make_mixed_image(image, given.size_mib)
        disk = Disk(image, CHANGED)
        size_mib = image.stat().st_size // MIB
        used_mib = sum(end - start for start, end in images.data_extents(image)) // MIB
        measured, hashing = _measure(work, disk, peers, given.rounds)
    medians = {name: _median(runs) for name, runs in measured.items()}
    hash_s = statistics.median(hashing)
    results.write(
        "compare_peers",
        {
            "image_mib": size_mib,
            "used_mib": used_mib,
            "changed": CHANGED,
            "rounds": given.rounds,
            "versions": {peer.name: peer.version for peer in peers},
            "medians": {name: asdict(each) for name, each in medians.items()},
            "runs": {name: [asdict(run) for run in runs] for name, runs in measured.items()},
            "b3sum_one_thread_s": hashing,
        },
    )
    print(_markdown(medians, hash_s, size_mib, used_mib, peers))
    return 0


def _measure(
    work: Path, disk: Disk, peers: Sequence[Peer], rounds: int
) -> tuple[dict[str, list[Measured]], list[float]]:
    dense = work / "dense"
    _copy_allocated(disk.image, dense)
    measured: dict[str, list[Measured]] = {}
    hashing = []
    with contextlib.ExitStack() as running:
        house = running.enter_context(one_disk(work / "home", disk.image, plugins=("lab.storage_plugin",)))
        turns: list[Callable[[], dict[str, Measured]]] = [lambda: holdfast_turn(house, disk)]
        if vm := _tracked_vm(house, disk, running):
            turns.append(lambda: tracked_turn(house, vm, disk))
        turns += [partial(peer_turn, peer, work / "peer", disk) for peer in peers if peer.version is not None]
        for number in range(rounds):
            for measure in turns if number % 2 == 0 else reversed(turns):
                os.sync()  # what one turn has left to the kernel is not the next one's burden
                for name, result in measure().items():
                    measured.setdefault(name, []).append(result)
                    print(f"  round {number + 1}: {name:<34} {result}", file=sys.stderr, flush=True)
            hashing.append(timed(lambda: _hash(dense)))
    return measured, hashing


def _tracked_vm(house: Installation, disk: Disk, running: contextlib.ExitStack) -> StorageVm | None:
    if any(shutil.which(program) is None for program in ("qemu-storage-daemon", "qemu-img", "qemu-io")):
        return None
    vm = running.enter_context(StorageVm(house.home / "storage", disk.image.stat().st_size))
    vm.fill(disk.image)
    house.holdfast("server", "add", "storage", "--plugin", "storage", "--option", f"path={vm.folder}")
    return vm


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


def _beside(each_s: float, own_s: float) -> str:
    if isnan(each_s):
        return "–"
    return f"{each_s:.1f} s" if isnan(own_s) else f"{each_s:.1f} s (× {each_s / own_s:.1f})"


def _median(runs: list[Measured]) -> Measured:
    columns = zip(*(asdict(run).values() for run in runs), strict=True)
    return Measured(*(statistics.median(column) for column in columns))


def _markdown(medians: dict[str, Measured], hash_s: float, size_mib: int, used_mib: int, peers: Sequence[Peer]) -> str:
    own = medians[WHOLE]
    # Those that are told what changed stand beside what is told, too.
    told = replace(own, changed_s=medians[TRACKED].changed_s) if TRACKED in medians else own
    lines = [
        f"Image of {size_mib} MiB, {used_mib} MiB used; {len(os.sched_getaffinity(0))} cores; medians.",
        "",
        f"| | {' | '.join(_COLUMNS)} | stored |",
        "|---|" + "---|" * (len(_COLUMNS) + 1),
    ]
    for name, each in medians.items():
        beside = told if any(word in name for word in ("benji", "virtnbd")) else own
        cells = [_beside(getattr(each, field), getattr(beside, field)) for field in _COLUMNS.values()]
        lines.append(f"| {name} | {' | '.join(cells)} | {each.stored_mib:,.0f} MiB |")
    hashing = asdict(replace(own, full_s=nan, changed_s=nan, restore_s=nan, verify_s=nan))
    cells = [_beside(hash_s, hashing[field]) if field == "unchanged_s" else "" for field in _COLUMNS.values()]
    lines.append(f"| b3sum, one thread, allocated data | {' | '.join(cells)} | |")
    lines.append("")
    for name, each in medians.items():
        if each.full_sync_s + each.restore_sync_s >= 0.1:
            lines.append(
                f"{name}: in the full {each.full_sync_s:.1f} s and in the restore {each.restore_sync_s:.1f} s are the "
                "sync that it leaves to others."
            )
    absent = [peer for peer in peers if peer.version is None]
    lines += ["", *(f"Not installed: {peer.name} ({peer.how_to_get})." for peer in absent)]
    others = [each.full_s for name, each in medians.items() if not name.startswith("holdfast")]
    if others:
        ratio = min(others) / own.full_s
        lines.append(f"Full: {ratio:.1f} times as fast as the fastest peer (wanted: {FASTER_THAN_PEERS:.0f}).")
    whole, transfer = own.unchanged_s / hash_s, medians[TRANSFER].unchanged_s / hash_s
    lines.append(
        f"Unchanged: the transfer takes {transfer:.1f} times as long as reading and hashing alone (wanted: at most "
        f"{OF_HASHING}), the whole command {whole:.1f} times."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
