"""All benchmarks one after the other, then the charts: what `make bench` runs.

Each part prints its tables, which stay in ``bench-work/NAME.md``, and runs in a process of its own: what one lacks or
gets wrong keeps no other from its turn. At the end stands what was not measured and what would have to be installed for
it. `--small` runs all of it in minutes, to see that it runs; its figures say nothing and its charts go to bench-work.
"""

from __future__ import annotations

import argparse
import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

HERE = Path(__file__).resolve().parent
WORK = Path("bench-work")
NOT_INSTALLED = 77
"""Exit code of a part that lacks a program, as automake has it."""


class Part(NamedTuple):
    """``small``: options that make it quick; ``full``: others than its defaults for a measurement that counts."""

    name: str
    small: str = ""
    full: str = ""


PARTS = (
    Part("mover_start", "--rounds 1"),
    Part("commands", "--rounds 1"),
    Part("scheduled", "--rounds 1 --sessions 2"),
    Part("mover_memory", "--size-gib 8 --data-mib 32"),
    Part("tracked", "--blocks-log2 12"),
    Part("compare_peers", "--size-mib 64 --rounds 1", "--size-mib SIZE --get-benji"),
    Part("gc", "--blocks 5000 --points 4 --folder bench-work", "--folder bench-work"),
    Part("compare_gc", "--size-mib 32 --points 4"),
    Part("data_path", "--size-mib 64 --rounds 1", "--size-mib SIZE"),
    Part("changed", "--size-mib 128", "--size-mib SIZE"),
    Part("points", "--points 100"),
    Part("index", "--blocks 20000 --lookups 2000 --folder bench-work", "--folder bench-work"),
    Part("compare_copy", "--size-mib 64"),
    Part("compare_libvirt", "--size-mib 64"),
    Part("vsphere", "--size-mib 16 --vms 20 --rounds 1"),
    Part("disks", "--size-mib 64 --rounds 1"),
    Part("latency", "--size-mib 32 --rounds 1 --streams 4"),
    Part("export", "--size-mib 64 --rounds 1"),
    Part("files", "--size-gib 1 --files 200 --rounds 1"),
    Part("boot", "--rounds 1"),
    Part("predicted_rate", "--size-mib 256", "--size-mib SIZE"),
    Part("running_guest", "--size-mib 128"),
    Part("freeze", "--rounds 1"),
    Part("fair_shares", "--disks 2 --size-mib 64"),
    Part("scheduler"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--size-mib", default="4096", help="of the images that are compared with others")
    parser.add_argument("--only", action="append", help="parts with these names, and no others (repeatable)")
    parser.add_argument("--part", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        return _in_this_process(given.part)
    WORK.mkdir(exist_ok=True)
    lacking, failed = [], []
    for part in PARTS:
        if given.only and part.name not in given.only:
            continue
        options = (part.small if given.small else part.full).replace("SIZE", given.size_mib).split()
        code = _run(part.name, options)
        if code == NOT_INSTALLED:
            lacking.append(part.name)
        elif code:
            failed.append(part.name)
    drawn = ["--to", str(WORK / "figures")] if given.small else []
    failed += ["draw"] if subprocess.run([sys.executable, HERE / "draw.py", *drawn], check=False).returncode else []
    for what, names in (("Not measured, see above for what is not installed", lacking), ("Failed", failed)):
        if names:
            print(f"{what}: {', '.join(names)}")
    return 1 if failed else 0


def _run(name: str, options: Sequence[str]) -> int:
    """One part in a process of its own; its exit code. What it prints is shown as it comes, and kept."""
    print(f"\n## {' '.join([name, *options])}\n", flush=True)
    command = [sys.executable, "-u", __file__, "--part", name, *options]
    tables = (WORK / f"{name}.md").open("w")
    with tables as kept, subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            kept.write(line)
    return process.returncode


def _in_this_process(part: Sequence[str]) -> int:
    name, *options = part
    sys.argv = [f"{name}.py", *options]
    try:
        runpy.run_path(str(HERE / f"{name}.py"), run_name="__main__")
    except pytest.skip.Exception as reason:  # what the tests' laboratory says where a program is missing
        print(f"{name}: {reason}")
        return NOT_INSTALLED
    return 0


if __name__ == "__main__":
    sys.exit(main())
