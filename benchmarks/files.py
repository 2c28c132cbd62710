"""Files out of a large disk: from a command to its answer, of a 100 GiB ext4 in an encrypted repository.

Times are of the whole command, as people wait for it: it starts, serves the disk, confines a reader, and answers.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import results

from lab.installation import Installation, installed
from lab.tools import require_tool

VM = "large.img"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size-gib", type=int, default=100)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-", dir="/var/tmp") as work, installed(Path(work)) as house:
        _furnish(Path(work) / "content", arguments.files)
        _make(house.vms / VM, Path(work) / "content", arguments.size_gib)
        house.add_repository("main", encrypted=True)
        house.add_job("nightly", repository="main", include="*")
        house.run_job("nightly")
        found = _measure(house, arguments.rounds)
    results.write("files", {"size_gib": arguments.size_gib, "files": arguments.files, "seconds": found})
    return 0


def _furnish(folder: Path, files: int) -> None:
    for number in range(files):
        place = folder / f"{number % 100}" / f"file {number}"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"%d" % number * 300)


def _make(image: Path, content: Path, size_gib: int) -> None:
    with image.open("wb") as file:
        file.truncate(size_gib << 30)
    maker = require_tool("mke2fs", "e2fsprogs")
    subprocess.run([maker, "-q", "-F", "-t", "ext4", "-d", content, image], check=True)


def _measure(house: Installation, rounds: int) -> dict[str, float]:
    target = house.out / "files"
    works: dict[str, Sequence[str | Path]] = {
        "list the root": ("point", "ls", "latest"),
        "list a folder": ("point", "ls", "latest:/7"),
        "find among all": ("point", "find", "latest", "file 1999?"),
        "restore one file": ("restore", "files", "latest:/7/file 7", target, "--overwrite"),
        "restore a folder": ("restore", "files", "latest:/7", target, "--overwrite"),
    }
    found = {}
    print(f"{'':<20}{'s':>8}")
    for name, command in works.items():
        times = []
        for _ in range(rounds):
            began = time.monotonic()
            house.holdfast(*command, "--vm", VM)
            times.append(time.monotonic() - began)
        found[name] = statistics.median(times)
        print(f"{name:<20}{found[name]:>8.2f}", flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main())
