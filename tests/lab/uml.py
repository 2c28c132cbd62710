"""A User-mode Linux for tests: a kernel as an ordinary process (Debian: user-mode-linux), whatever the host's can do.

Its root is this host's, so that the tests' own environment runs in it. It needs root, for it makes devices and mounts
inside.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from .tools import missing, require_tool

_TESTS = Path(__file__).parents[1]


def run_in_uml(
    folder: Path, disks: Sequence[Path], module: str, arguments: Sequence[str], timeout_s: float, memory: str = "256M"
) -> tuple[int, str]:
    """(exit status, output) of ``main`` of a module of :mod:`lab`, as :func:`lab.uml_guest.first_process` runs it.

    ``folder``: for what is needed besides. ``disks``: images, /dev/ubda and so on in it. The status is -1 if the guest
    did not get so far.
    """
    kernel = require_tool("linux.uml", "user-mode-linux")
    if os.geteuid() != 0:
        missing("a User-mode Linux that makes devices needs root")
    start, result = folder / "init", folder / "result"
    guest = shlex.join([sys.executable, "-m", f"lab.{module}", str(result), *arguments])
    exports = f"export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/run PYTHONPATH={shlex.quote(str(_TESTS))}"
    start.write_text(f"#!/bin/sh\n{exports}\nexec {guest} 2>&1\n")
    start.chmod(0o700)
    command = [
        kernel, f"mem={memory}", *(f"ubd{number}={disk}" for number, disk in enumerate(disks)), "rootfstype=hostfs",
        "rootflags=/", "rw", "quiet", "con=null", "con0=null,fd:1", f"init={start}",
    ]  # fmt: skip
    done = subprocess.run(
        command, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        timeout=timeout_s, text=True, errors="replace",
    )  # fmt: skip
    return int(result.read_text()) if result.exists() else -1, done.stdout
