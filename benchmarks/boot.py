"""From a command to the answer of a guest's agent: out of an encrypted repository, and from a local raw file.

The same guest, QEMU, machine and memory, without KVM. Of the repository the time of the guest alone is told too, which
a boot proof measures from the start of its QEMU.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import results

from holdfast_agent.boot import machine
from holdfast_agent.boot.lines import JsonLines
from holdfast_agent.wire.specs import BootSpec
from lab import guest as lab
from lab.installation import Installation, installed

MEMORY_MIB = 192
VM = "guest.img"
_SYNC = {"execute": "guest-sync", "arguments": {"id": 4711}}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    image = lab.build(lab.PLAIN)
    found: dict[str, list[float]] = {"raw file": [], "repository: command": [], "repository: guest": []}
    with tempfile.TemporaryDirectory(prefix="hb-", dir="/var/tmp") as work, installed(Path(work) / "house") as house:
        lab.copy_disk(image.disk, lab.Disk(house.vms / VM))
        house.add_repository("main", encrypted=True)
        house.add_job("nightly", repository="main", include="*")
        house.run_job("nightly")
        for number in range(arguments.rounds):
            found["raw file"].append(_from_raw(image.disk, Path(work) / f"raw{number}"))
            command, guest = _from_repository(house)
            found["repository: command"].append(command)
            found["repository: guest"].append(guest)
    medians = {name: statistics.median(times) for name, times in found.items()}
    for name, seconds in medians.items():
        print(f"{name:<24}{seconds:>8.2f} s{seconds / medians['raw file']:>8.2f} x")
    results.write("boot", {"seconds": medians})
    return 0


def _from_repository(house: Installation) -> tuple[float, float]:
    """Seconds of the whole command, and of the guest in it."""
    began = time.monotonic()
    options = ("--vm", VM, "--point", "latest", "--memory", f"{MEMORY_MIB}MiB", "--emulate")
    house.holdfast("verify", "boot", *options)
    return time.monotonic() - began, float(house.points(VM)[0]["boot"]["seconds"])


def _from_raw(disk: Path, folder: Path) -> float:
    """Seconds from the start of QEMU to the answer of the guest's agent."""
    folder.mkdir()
    shutil.copy(disk, folder / "disk.raw")
    spec = BootSpec(task_id="t", secret=b"", export="e", disks=("d",), memory_mib=MEMORY_MIB, emulate=True)
    command = [word for word in machine._command(spec, {"d": Path("/nowhere")}, folder, "bench") if word != "-S"]
    place = command.index("-blockdev") + 1
    node = json.loads(command[place])
    command[place] = json.dumps({**node, "file": {"driver": "file", "filename": str(folder / "disk.raw")}})
    began = time.monotonic()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as qemu:
        try:
            agent = _connected(folder / "qga")
            while not any(message.get("return") == 4711 for message in agent.take()):
                agent.send(_SYNC)
                time.sleep(0.1)
            return time.monotonic() - began
        finally:
            qemu.kill()


def _connected(path: Path) -> JsonLines:
    while True:
        with contextlib.suppress(OSError):
            return JsonLines(path)
        time.sleep(0.02)


if __name__ == "__main__":
    sys.exit(main())
