"""What a command costs besides its work: with the Backup Service that has loaded it, and loading all by itself.

The work is next to nothing: a VM of one disk of 4 MiB that has not changed, an encrypted repository, one host. Whole
programs, from the shell's point of view, in turns.
"""

from __future__ import annotations

import argparse
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import results
from holdfast_runs import one_disk

from lab.installation import Installation

WORK = Path("bench-work")
COMMANDS = (("job", "run", "small"), ("session", "list"), ("point", "list", "--vm", "vm"))
ALONE = {"HOLDFAST_NURSERY": "off"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds: int = parser.parse_args().rounds
    WORK.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="commands-", dir=WORK) as name:
        disk = Path(name).resolve() / "disk.raw"
        disk.write_bytes(secrets.token_bytes(4 << 20))
        with one_disk(disk.parent / "home", disk) as house:
            house.add_repository("main", encrypted=True)
            house.add_job("small", repository="main", include="vm")
            house.run_job("small")
            found = {" ".join(command): _compare(house, command, rounds) for command in COMMANDS}
    print(f"medians of {rounds} rounds\n\n| command | loaded already | loads by itself | times |\n|---|---|---|---|")
    for command, (quick, alone) in found.items():
        print(f"| `holdfast {command}` | {quick:.3f} s | {alone:.3f} s | {alone / quick:.1f} |")
    results.write("commands", {"rounds": rounds, "took_s": found})
    return 0


def _compare(house: Installation, command: tuple[str, ...], rounds: int) -> tuple[float, float]:
    took: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds):
        for which in (0, 1) if turn % 2 else (1, 0):
            environment = {**house.environment, **(ALONE if which else {})}
            began = time.monotonic()
            subprocess.run(house.command(*command), env=environment, capture_output=True, check=True)
            took[which].append(time.monotonic() - began)
    return statistics.median(took[0]), statistics.median(took[1])


if __name__ == "__main__":
    sys.exit(main())
