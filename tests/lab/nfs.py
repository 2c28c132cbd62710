"""A real NFS mount for tests, whatever this host's kernel knows: a User-mode Linux with server and client in it.

It is an ordinary process (Debian: user-mode-linux, nfs-kernel-server) whose root is this host's, so that the tests'
own environment runs in it. It needs root, for it makes devices and mounts inside.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from .tools import require_tool
from .uml import run_in_uml

_DISK_BYTES = 1 << 30
_MEMORY = "1G"


def run_on_nfs(folder: Path, command: list[str], timeout_s: float) -> tuple[int, str]:
    """(exit status, output) of ``command``, for which :data:`lab.nfs_guest.MOUNT` is NFS 4.2 over an ext4.

    ``folder``: for the disk of the server; it must be empty. The status is -1 if the guest did not get so far.
    """
    require_tool("rpc.nfsd", "nfs-kernel-server")
    mkfs = require_tool("mkfs.ext4", "e2fsprogs")
    disk = folder / "disk.img"
    with disk.open("wb") as file:
        file.truncate(_DISK_BYTES)
    subprocess.run([mkfs, "-q", "-F", disk], check=True)
    return run_in_uml(folder, [disk], "nfs_guest", command, timeout_s, _MEMORY)
