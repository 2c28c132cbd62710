"""Exports beside a restore and beside qemu-nbd: how soon one can be used, sequential reads, and random ones of 4 KiB.

The same disk for all: encrypted in a repository, and as a compressed qcow2. The client of random reads is libnbd.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from images import data_extents, make_mixed_image

from holdfast_agent.model.geometry import Geometry
from holdfast_agent.wire.specs import BlockTree, ExportDisk
from lab.disks import qemu_nbd
from lab.exports import exported, run
from lab.movers import Site
from lab.tools import missing, require_tool

MIB = 1 << 20
COLD_READS = 1500
WARM_READS = 15_000  # a second of qemu-nbd's, half a second of ours
WORKING_SET_BYTES = 128 * MIB
_CLIENT = """
import json, sys, time
uri, depth, offsets = sys.argv[1], int(sys.argv[2]), json.load(open(sys.argv[3]))
h = nbd.NBD()
h.connect_uri(uri)
def reads():
    began = time.monotonic()
    if depth == 1:
        for offset in offsets:
            h.pread(4096, offset)
    else:
        for offset in offsets:
            while h.aio_in_flight() >= depth:
                h.poll(-1)
            h.aio_pread(nbd.Buffer(4096), offset, lambda error: 1)
        while h.aio_in_flight():
            h.poll(-1)
    return len(offsets) / (time.monotonic() - began)
print(reads(), reads())
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size-mib", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--block-kib", type=int, default=1024, help="block size of the repository")
    arguments = parser.parse_args()
    for program, package in (("qemu-nbd", "qemu-utils"), ("nbdcopy", "libnbd-bin")):
        require_tool(program, package)
    if subprocess.run(["/usr/bin/python3", "-c", "import nbd"], check=False, capture_output=True).returncode:
        missing("libnbd is not there for the system's Python; Debian and Ubuntu: apt install python3-libnbd")
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-", dir="/var/tmp") as work:
        folder = Path(work)
        site = Site(folder)
        image = folder / "disks" / "disk.raw"
        make_mixed_image(image, arguments.size_mib)
        data = [(start, end - start) for start, end in data_extents(image)]
        geometry = Geometry(image.stat().st_size, (arguments.block_kib << 10).bit_length() - 1)
        root = site.backup(f"file:{image}", geometry).proxy.root
        assert root is not None
        disks = (ExportDisk(name="disk", tree=BlockTree(root, geometry)),)
        _usable(site, disks)
        _sequential(site, disks, root, geometry, sum(length for _, length in data), arguments.rounds)
        _random(site, disks, folder, image, data, arguments.rounds)
    return 0


def _usable(site: Site, disks: tuple[ExportDisk, ...]) -> None:
    """From the start of the process to the answer to a first read, for this disk and for one of 8 TiB."""
    print(f"{'usable after':<34}{'s':>8}")
    (site.folder / "disks" / "huge").touch()
    with (site.folder / "disks" / "huge").open("r+b") as file:
        file.truncate(8 << 40)
        file.seek(7 << 40)
        file.write(b"x" * 4096)
    huge = Geometry(8 << 40)
    root = site.backup(f"file:{site.folder / 'disks' / 'huge'}", huge).proxy.root
    assert root is not None
    for name, each in (("this disk", disks), ("8 TiB", (ExportDisk(name="d", tree=BlockTree(root, huge)),))):
        times = []
        for _ in range(3):
            began = time.monotonic()
            with exported(site, each) as export:
                run("/usr/bin/qemu-io", "-r", "-f", "raw", "-c", "read 0 4096", export.uri)
                times.append(time.monotonic() - began)
        print(f"{name:<34}{statistics.median(times):>8.2f}", flush=True)


def _sequential(
    site: Site, disks: tuple[ExportDisk, ...], root: bytes, geometry: Geometry, data_bytes: int, rounds: int
) -> None:
    print(f"\n{'sequential, MiB/s of data':<34}{'to a file':>10}{'to nothing':>12}")
    target = site.folder / "disks" / "copy"

    def restore(to: str | None) -> float:
        target.unlink(missing_ok=True)
        return data_bytes / site.restore(root, geometry, to).seconds  # type: ignore[arg-type]  # a root is its bytes

    def copy(to: str) -> float:
        target.unlink(missing_ok=True)
        with exported(site, disks, cache_bytes=256 * MIB) as export:
            began = time.monotonic()
            run("nbdcopy", export.uri, to)
            return data_bytes / (time.monotonic() - began)

    found: dict[str, list[tuple[float, float]]] = {"restore": [], "nbdcopy from the export": []}
    for _ in range(rounds):
        found["restore"].append((restore(f"file:{target}"), restore(None)))
        found["nbdcopy from the export"].append((copy(str(target)), copy("null:")))
    for name, rates in found.items():
        columns = [statistics.median(column) / MIB for column in zip(*rates, strict=True)]
        print(f"{name:<34}{columns[0]:>10,.0f}{columns[1]:>12,.0f}", flush=True)


def _random(
    site: Site,
    disks: tuple[ExportDisk, ...],
    folder: Path,
    image: Path,
    data: list[tuple[int, int]],
    rounds: int,
) -> None:
    """``cold``: all over the disk, by a server that was just started; ``warm``: within a working set, again."""
    for name, options in (("zlib", ()), ("zstd", ("-o", "compression_type=zstd"))):
        command = ["qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", *options, str(image)]
        subprocess.run([*command, str(folder / f"{name}.qcow2")], check=True)

    @contextlib.contextmanager
    def ours() -> Iterator[str]:
        with exported(site, disks, cache_bytes=256 * MIB) as export:
            yield export.uri

    def theirs(name: str) -> Callable[[], contextlib.AbstractContextManager[str]]:
        @contextlib.contextmanager
        def served() -> Iterator[str]:
            with qemu_nbd(folder, folder / f"{name}.qcow2", "--read-only", "--shared=8", form="qcow2") as socket:
                yield f"nbd+unix:///?socket={socket}"

        return served

    servers = {"export": ours, "qemu-nbd, qcow2 zlib": theirs("zlib"), "qemu-nbd, qcow2 zstd": theirs("zstd")}
    heads = [f"{kind}, {depth}" for depth in (1, 16) for kind in ("cold", "warm")]
    print(f"\n{'4 KiB random, reads/s; at a time':<34}" + "".join(f"{head:>12}" for head in heads))
    found: dict[str, list[list[float]]] = {name: [] for name in servers}
    for turn in range(rounds):
        chance = random.Random(turn)
        wide = _offsets(data, chance, COLD_READS)
        narrow = _offsets(_within(data, WORKING_SET_BYTES), chance, WARM_READS)
        for name, server in servers.items():
            row = []
            for depth in (1, 16):
                with server() as uri:
                    row.append(_reads(folder, uri, depth, wide)[0])
                with server() as uri:
                    _reads(folder, uri, depth, narrow)
                    row.append(_reads(folder, uri, depth, narrow)[1])
            found[name].append(row)
    for name, rows in found.items():
        medians = [statistics.median(column) for column in zip(*rows, strict=True)]
        print(f"{name:<34}" + "".join(f"{median:>12,.0f}" for median in medians), flush=True)


def _reads(folder: Path, uri: str, depth: int, offsets: list[int]) -> tuple[float, float]:
    (folder / "offsets").write_text(json.dumps(offsets))
    (folder / "client.py").write_text("import nbd" + _CLIENT)
    first, second = run("/usr/bin/python3", folder / "client.py", uri, str(depth), folder / "offsets").split()
    return float(first), float(second)


def _within(data: list[tuple[int, int]], most_bytes: int) -> list[tuple[int, int]]:
    """The first so many bytes of data."""
    kept = []
    for offset, length in data:
        kept.append((offset, min(length, most_bytes)))
        most_bytes -= kept[-1][1]
        if not most_bytes:
            break
    return kept


def _offsets(data: list[tuple[int, int]], chance: random.Random, count: int) -> list[int]:
    places = chance.choices(data, weights=[length for _, length in data], k=count)
    return [offset + chance.randrange(max(1, length // 4096)) * 4096 for offset, length in places]


if __name__ == "__main__":
    sys.exit(main())
