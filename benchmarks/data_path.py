"""Two movers beside the bare loops that they cannot beat, on one image, in turn: full, unchanged, restore.

The movers as one process, as on a host that has both roles, and as two with loopback between them.

The bare loops are Python too, in one process with two threads and nothing else: read, zero test, BLAKE3, lz4,
AES-256-GCM, append to one file (a full); read and BLAKE3 (an unchanged run). No network, no second process, no
verification, no checksums, no index: what a mover pair does besides is the price of the rest.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import images
import results

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import lz4.block
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from holdfast_agent.model.change import ChangeMode
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.ids import HOLE
from holdfast_agent.service.mover_birth import mover_environment
from lab.movers import Site

WORK = Path("bench-work")
MIB = 1 << 20
THREADS = 2
_ZERO = bytes(MIB)


class Took(NamedTuple):
    """Wall time and processor time of all processes."""

    wall_s: float
    cpu_s: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size-mib", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--image", type=Path, help="a raw image of your own instead (it is only read)")
    parser.add_argument("--bare", choices=("full", "unchanged"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.bare:
        _bare(given.image, given.bare)
        return 0
    WORK.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="path-", dir=WORK) as name:
        work = Path(name).resolve()
        image = given.image.resolve() if given.image else work / "disk.raw"
        if not given.image:
            images.make_mixed_image(image, given.size_mib)
        runs = [_round(work / "round", image) for _ in range(given.rounds)]
    used = sum(end - start for start, end in images.data_extents(image)) // MIB if given.image else given.size_mib // 2
    print(f"{used} MiB used, {given.rounds} rounds, medians of the ratios of each round\n")
    print("| | took | processor time | × bare loop |\n|---|---|---|---|")
    found = {}
    for what in runs[0]:
        wall, cpu = (statistics.median(run[what][place] for run in runs) for place in (0, 1))
        bare = f"bare {what.partition(',')[0]}"
        ratio = statistics.median(run[what].wall_s / run[bare].wall_s for run in runs) if bare in runs[0] else None
        print(f"| {what} | {wall:.2f} s | {cpu:.2f} s | {f'{ratio:.2f}' if ratio else ''} |")
        found[what] = {"took_s": wall, "cpu_s": cpu, "ratio": ratio}
    results.write("data_path", {"used_mib": used, "rounds": given.rounds, "parts": found})
    return 0


def _round(folder: Path, image: Path) -> dict[str, Took]:
    took = {f"bare {what}": _timed(partial(_run_bare, image, what)) for what in ("full", "unchanged")}
    for within in (True, False):
        folder.mkdir()
        for what, how_long in _transfers(Site(folder, within), image).items():
            took[f"{what}, {'one process' if within else 'two'}"] = how_long
        shutil.rmtree(folder)
    return took


def _transfers(site: Site, image: Path) -> dict[str, Took]:
    (site.folder / "disks" / "disk.raw").hardlink_to(image)
    disk, geometry = f"file:{site.folder}/disks/disk.raw", Geometry(image.stat().st_size)
    took: dict[str, Took] = {}
    with site.session() as lock:
        base = None

        def full() -> float:
            nonlocal base
            done = site.backup(disk, geometry, sid=lock.sid)
            base = (done.repository.root or HOLE, geometry)
            return done.seconds

        took["full"] = _timed(full)
        took["unchanged"] = _timed(lambda: site.backup(disk, geometry, ChangeMode.DIGEST, base, sid=lock.sid).seconds)
    assert base is not None
    took["restore"] = _timed(lambda: site.restore(*base, f"file:{site.folder}/disks/restored.raw").seconds)
    return took


def _run_bare(image: Path, what: str) -> float:
    command = [sys.executable, __file__, "--bare", what, "--image", str(image)]
    return float(subprocess.run(command, check=True, env=mover_environment(os.environ), stdout=subprocess.PIPE).stdout)


def _timed(work: Callable[[], float]) -> Took:
    """``work`` says how long it transferred; its processor time counts from the start of its processes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    wall_s = work()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Took(wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def _bare(image: Path, what: str) -> None:
    began = time.monotonic()
    blocks = iter(sorted({n for start, end in images.data_extents(image) for n in range(start // MIB, -(-end // MIB))}))
    fd = os.open(image, os.O_RDONLY)
    with tempfile.TemporaryFile(dir=WORK) as out:
        work = threading.Lock(), blocks, fd, out.fileno() if what == "full" else None
        threads = [threading.Thread(target=_bare_thread, args=work) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if what == "full":
            os.fsync(out.fileno())
    print(time.monotonic() - began)


def _bare_thread(lock: threading.Lock, blocks: Iterator[int], fd: int, out: int | None) -> None:
    buffer, key = bytearray(MIB), os.urandom(32)
    cipher = AESGCM(key)
    while True:
        with lock:
            number = next(blocks, None)
        if number is None:
            return
        os.preadv(fd, [buffer], number * MIB)
        if buffer == _ZERO:
            continue
        identity = blake3(buffer, key=key).digest()
        if out is not None:
            packed = lz4.block.compress(buffer, store_size=False)
            os.write(out, cipher.encrypt(identity[:12], packed, identity))


if __name__ == "__main__":
    sys.exit(main())
