"""A real NFS mount for tests, whatever this host's kernel knows: a User-mode Linux with server and client in it.

It is an ordinary process (Debian: user-mode-linux, nfs-kernel-server) whose root is this host's, so that the tests'
own environment runs in it. It needs root, for it makes devices and mounts inside.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

from .tools import missing, require_tool

_DISK_BYTES = 1 << 30
_MEMORY = "1G"


def run_on_nfs(folder: Path, command: list[str], timeout_s: float) -> tuple[int, str]:
    """(exit status, output) of ``command``, for which :data:`lab.nfs_guest.MOUNT` is NFS 4.2 over an ext4.

    ``folder``: for the disk of the server; it must be empty. The status is -1 if the guest did not get so far.
    """
    kernel = require_tool("linux.uml", "user-mode-linux")
    require_tool("rpc.nfsd", "nfs-kernel-server")
    mkfs = require_tool("mkfs.ext4", "e2fsprogs")
    if os.geteuid() != 0:
        missing("a User-mode Linux that mounts NFS needs root")
    disk, start, result = folder / "disk.img", folder / "init", folder / "result"
    with disk.open("wb") as file:
        file.truncate(_DISK_BYTES)
    subprocess.run([mkfs, "-q", "-F", disk], check=True)
    guest = [sys.executable, str(Path(__file__).with_name("nfs_guest.py")), str(result), *command]
    start.write_text(f"#!/bin/sh\nexport PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/run\nexec {shlex.join(guest)} 2>&1\n")
    start.chmod(0o700)
    arguments = [
        kernel, f"mem={_MEMORY}", f"ubd0={disk}", "rootfstype=hostfs", "rootflags=/", "rw", "quiet", "con=null",
        "con0=null,fd:1", f"init={start}",
    ]  # fmt: skip
    done = subprocess.run(
        arguments, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        timeout=timeout_s, text=True, errors="replace",
    )  # fmt: skip
    return int(result.read_text()) if result.exists() else -1, done.stdout
