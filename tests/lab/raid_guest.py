"""The first process of a User-mode Linux that makes arrays of Linux RAID, for :mod:`lab.raids`."""

from __future__ import annotations

import json
import os
import shutil
import string
import subprocess
import time
from pathlib import Path

from .uml_guest import first_process, load_modules, mount, run

_DEVICE_S = 60.0


def main(arguments: list[str]) -> int:
    """One argument, JSON: for each array its name, options of mdadm, how many disks it takes, and an image with what is
    to be on it. The disks are taken in their order."""
    mount("tmpfs", Path("/run"), "tmpfs")
    load_modules("raid0", "raid1", "raid10", "raid456")
    os.environ["MDADM_NO_UDEV"] = "1"
    letters = iter(string.ascii_lowercase)
    for number, (name, options, disks, content) in enumerate(json.loads(arguments[0])):
        device = f"/dev/md{number}"
        members = [f"/dev/ubd{next(letters)}" for _ in range(disks)]
        shape = ("--raid-devices", str(disks), *options)
        run("mdadm", "--create", device, "--run", "--homehost=lab", f"--name={name}", *shape, *members)
        with Path(content).open("rb") as source, Path(device).open("r+b") as target:
            shutil.copyfileobj(source, target, 1 << 20)
            target.flush()
            os.fsync(target.fileno())
        _stop(device)
    return 0


def _stop(device: str) -> None:
    """Once nobody looks at it any more."""
    deadline = time.monotonic() + _DEVICE_S
    while subprocess.run(["mdadm", "--stop", device], check=False).returncode:
        assert time.monotonic() < deadline, f"{device} is in use"
        time.sleep(0.1)


if __name__ == "__main__":
    first_process(main)
