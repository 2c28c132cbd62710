"""How fast disks are read over NBD and HTTPS, beside nbdcopy and curl: a file in the page cache, all thrown away.

Each row is the median of several rounds, ours and the peer's in turn.
"""

from __future__ import annotations

import argparse
import itertools
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import results

from holdfast_agent.disks.open import open_disk
from holdfast_agent.wire.movers import MoverHost
from lab.certificates import Certificates, make_certificates
from lab.disks import host_for, nbdkit, qemu_nbd
from lab.nginx import nginx
from lab.ports import free_port
from lab.tools import require_tool

MIB = 1 << 20
_PROGRAMS = {"qemu-nbd": "qemu-utils", "nbdkit": "nbdkit", "nbdcopy": "libnbd-bin", "nginx": "nginx", "curl": "curl"}
LIMIT_REQUESTS = 20_000  # of small reads in one round


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size-mib", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    for program, package in _PROGRAMS.items():
        require_tool(program, package)
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as work:
        folder = Path(work)
        image = folder / "disk"
        with image.open("wb") as file:
            for _ in range(arguments.size_mib // 64):
                file.write(secrets.token_bytes(64 * MIB))
        print(f"{'disk':<28}{'block':>8}{'threads':>9}{'ours':>9}{'peer':>9}  MiB/s")
        rows = []
        for name, block, threads, ours, peer in _cases(folder, image):
            found = [(ours(), peer()) for _ in range(arguments.rounds)]
            rates = [statistics.median(column) / MIB for column in zip(*found, strict=True)]
            print(f"{name:<28}{block >> 10:>4} KiB{threads:>9}{rates[0]:>9,.0f}{rates[1]:>9,.0f}", flush=True)
            rows.append({"disk": name, "block": block, "threads": threads, "ours": rates[0], "peer": rates[1]})
    results.write("disks", {"size_mib": arguments.size_mib, "unit": "MiB/s", "rows": rows})
    return 0


Rate = Callable[[], float]
Case = tuple[str, int, int, Rate, Rate]


def _cases(folder: Path, image: Path) -> Iterator[Case]:
    host = host_for(folder)
    yield from _local(image, host)
    with qemu_nbd(folder, image, "--read-only", "--shared=8") as socket:
        yield from _nbd("qemu-nbd", f"nbd+unix:{socket}", f"nbd+unix:///?socket={socket}", host)
    with nbdkit(folder, "--readonly", "file", str(image)) as socket:
        yield from _nbd("nbdkit", f"nbd+unix:{socket}", f"nbd+unix:///?socket={socket}", host)
    made = make_certificates(folder / "tls")
    with _nbdkit_tls(folder, image, made) as port:
        host = host_for(folder, f"nbds://localhost:{port}", ca=made.ca)
        url = f"nbds://localhost:{port}"
        yield from _nbd("nbdkit, TLS", url, f"{url}?tls-certificates={made.folder}", host, blocks=(MIB,))
    yield from _https(folder, image, made)


def _local(image: Path, host: MoverHost) -> Iterator[Case]:
    for threads in (1, 2):
        ours = _reads(f"file:{image}", host, MIB, threads)
        yield "file", MIB, threads, ours, _command(image.stat().st_size, ["dd", f"if={image}", "of=/dev/null", "bs=1M"])


def _nbd(
    name: str, url: str, peer_url: str, host: MoverHost, blocks: tuple[int, ...] = (4096, 65536, 262144, MIB)
) -> Iterator[Case]:
    for block, threads in itertools.product(blocks, (1, 2, 4)):
        command = ["nbdcopy", f"--connections={threads}", f"--request-size={max(block, 4096)}", peer_url, "null:"]
        size = _size(url, host)
        yield name, block, threads, _reads(url, host, block, threads), _command(size, command)


def _https(folder: Path, image: Path, made: Certificates) -> Iterator[Case]:
    root = folder / "root"
    root.mkdir()
    os.link(image, root / "disk")
    size = image.stat().st_size
    with nginx(folder / "nginx", root, made) as port:
        url = f"https://localhost:{port}"
        host = host_for(folder, url, ca=made.ca)
        for threads in (1, 2, 4):
            curl = ["curl", "--silent", "--parallel", "--cacert", str(made.ca)]
            yield (
                "nginx, HTTPS",
                MIB,
                threads,
                _reads(f"{url}/disk", host, MIB, threads),
                _curl(curl, url, size, threads),
            )


def _curl(command: list[str], url: str, size: int, threads: int) -> Rate:
    part = size // threads
    for at in range(0, size, part):
        command += ["--next", "--cacert", command[4]] if at else []
        command += ["-r", f"{at}-{at + part - 1}", "-o", "/dev/null", f"{url}/disk"]
    return _command(size, command)


@contextmanager
def _nbdkit_tls(folder: Path, image: Path, made: Certificates) -> Iterator[int]:
    port = free_port()
    tls = ("--tls=require", f"--tls-certificates={made.folder}")
    with nbdkit(folder, "--readonly", *tls, "file", str(image), port=port):
        yield port


def _size(url: str, host: MoverHost) -> int:
    with closing(open_disk(url, host)) as disk:
        return disk.size_bytes


def _reads(url: str, host: MoverHost, block: int, threads: int) -> Rate:
    """Bytes a second of reading the disk in blocks, each thread the next one."""

    def rate() -> float:
        with closing(open_disk(url, msgspec.structs.replace(host, workers=threads))) as disk:
            count = min(disk.size_bytes // block, LIMIT_REQUESTS)
            numbers = iter(range(count))

            def read(_thread: int) -> None:
                view = memoryview(bytearray(block))
                for number in numbers:  # next() of a range's iterator is atomic
                    disk.read_into(number * block, view)

            began = time.perf_counter()
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(read, range(threads)))
            return count * block / (time.perf_counter() - began)

    return rate


def _command(size: int, command: list[str]) -> Rate:
    def rate() -> float:
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        return size / (time.perf_counter() - began)

    return rate


if __name__ == "__main__":
    sys.exit(main())
