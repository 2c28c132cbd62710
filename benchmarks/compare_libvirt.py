"""Incrementals of a running VM of libvirt: Holdfast and virtnbdbackup, one after the other.

Run as root: ``.venv/bin/python benchmarks/compare_libvirt.py [--size-mib 1024] [--part 0.01]``. Each tool has a
VM of its own with the same content, because virtnbdbackup takes none that has checkpoints of others. Between two rounds
both guests write the same in the same scattered places. What is timed is the whole command, as a user runs it, in turns
of the one and the other first. virtnbdbackup compresses with lz4, which is all that it has.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import images

from lab.installation import Installation, installed
from lab.libvirt_host import LibvirtHost, LibvirtVm, libvirt_daemon
from lab.tools import require_tool

MIB = 1 << 20
GRAIN = 64 << 10
ROUNDS = 5
NAME = "nightly"
Content = Callable[[Random], Callable[[int], bytes]]
QEMU_IMG = shutil.which("qemu-img") or "qemu-img"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size-mib", type=int, default=1024)
    parser.add_argument("--part", type=float, default=0.01)
    parser.add_argument("--block-size", default="64 KiB", help="of Holdfast's job; 64 KiB is the grain of the bitmaps")
    parser.add_argument("--compression", default="lz4", help="of Holdfast's job")
    parser.add_argument("--level", default="", help="of virtnbdbackup's lz4, 1 to 16, where not its own choice")
    parser.add_argument(
        "--content", choices=["half-random", "mixed"], default="half-random",
        help="what guests write: what no compression tells apart, or programs, text and pages of databases",
    )  # fmt: skip
    given = parser.parse_args()
    require_tool("virtnbdbackup", "virtnbdbackup")
    with libvirt_daemon() as host, installed(host.shared) as house:
        ours, theirs = (make_vm(host, name, given.size_mib) for name in ("holdfast", "virtnbdbackup"))
        prepare(house, host, given.block_size, given.compression)
        content = images.mixed if given.content == "mixed" else half_random
        measure(given.part, content, {ours: Holdfast(house), theirs: Virtnbdbackup(host, given.level)})
    return 0


class Holdfast:
    def __init__(self, house: Installation) -> None:
        self._house = house
        self.folder = house.store / NAME

    def run(self) -> None:
        report = self._house.holdfast("job", "run", NAME)
        assert report["result"] == "success", report


class Virtnbdbackup:
    def __init__(self, host: LibvirtHost, level: str) -> None:
        self._host, self._level = host, level
        self.folder = host.shared / "virtnbdbackup"

    def run(self) -> None:
        level = "inc" if self.folder.exists() else "full"
        command = ["virtnbdbackup", "-U", self._host.uri, "-d", "virtnbdbackup", "-l", level, "-o", self.folder]
        command += ["--noprogress", "--compress", *filter(None, [self._level])]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]


def measure(part: float, content: Content, tools: dict[LibvirtVm, Holdfast | Virtnbdbackup]) -> None:
    taken = {vm.name: [took(tool)] for vm, tool in tools.items()}
    for number in range(ROUNDS):
        for vm in tools:
            change(vm, part, content, Random(number))
        for vm in list(tools)[:: -1 if number % 2 else 1]:
            taken[vm.name].append(took(tools[vm]))
    print(f"| incremental of {part:.1%} | median of {ROUNDS} | slowest | bytes stored, median | first full |")
    print("|---|---|---|---|---|")
    for name, (full, *increments) in taken.items():
        times, stored = zip(*increments, strict=True)
        kept = f"{statistics.median(stored) / MIB:.2f} MiB"
        print(f"| {name} | {statistics.median(times):.2f} s | {max(times):.2f} s | {kept} | {full[0]:.1f} s |")


def took(tool: Holdfast | Virtnbdbackup) -> tuple[float, int]:
    """Seconds of one backup, and the bytes that it added."""
    before, began = stored_in(tool.folder), time.monotonic()
    tool.run()
    return time.monotonic() - began, stored_in(tool.folder) - before


def change(vm: LibvirtVm, part: float, content: Content, chance: Random) -> None:
    """Let the guest overwrite ``part`` of its disk in scattered grains, each with other data."""
    grains, draw = len(vm.content["vda"]) // GRAIN, content(chance)
    for grain in chance.sample(range(grains), max(1, round(grains * part))):
        vm.write("vda", grain * GRAIN, draw(GRAIN))


def half_random(chance: Random) -> Callable[[int], bytes]:
    """What every compression makes half of, and no better one makes less of."""
    return lambda length: chance.randbytes(length // 2) * 2


def make_vm(host: LibvirtHost, name: str, size_mib: int) -> LibvirtVm:
    raw = host.folder / "content.raw"
    images.make_mixed_image(raw, size_mib)
    vm = host.vm(name, {"vda": ("qcow2", size_mib * MIB)})
    subprocess.run([QEMU_IMG, "convert", "-f", "raw", "-O", "qcow2", raw, vm.image("vda")], check=True)
    raw.unlink()
    return vm.start()


def prepare(house: Installation, host: LibvirtHost, block_size: str, compression: str) -> None:
    options = [word for key, value in host.options().items() for word in ("--option", f"{key}={value}")]
    house.holdfast("server", "add", "kvm", "--plugin", "libvirt", *options)
    house.add_repository(NAME, encrypted=True)
    job = ("--server", "kvm", "--include", "holdfast", "--repository", NAME)
    house.holdfast("job", "create", NAME, *job, "--block-size", block_size, "--compression", compression)


def stored_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.exists() else 0


if __name__ == "__main__":
    sys.exit(main())
