"""The first process of a User-mode Linux: an NFS server and its client on one loopback, and a command on the mount.

Run by the kernel that :mod:`lab.nfs` starts. All that is written outside of the two mounts lies on tmpfs.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import subprocess
from pathlib import Path

from .uml_guest import first_process, load_modules, mount, run

EXPORT, MOUNT = Path("/mnt/export"), Path("/mnt/nfs")
OLD_MOUNT = Path("/mnt/nfs-old")
"""NFS 4.0, whose client renames a file that is removed while it is open."""

_ON_TMPFS = ("/run", "/mnt", "/var/lib/nfs")
GRACE_S = "10"  # the least that the server takes; it ends at once where no client is to be waited for
_SIOCSIFFLAGS, _IFF_UP, _IFF_RUNNING = 0x8914, 0x1, 0x40


def raise_loopback() -> None:
    with socket.socket() as any_socket:
        request = struct.pack("16sH22x", b"lo", _IFF_UP | _IFF_RUNNING)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, request)


def serve() -> None:
    """NFS 4 alone; the state of the server lies on tmpfs."""
    mount("nfsd", Path("/proc/fs/nfsd"), "nfsd")
    for name in ("etab", "rmtab"):
        (Path("/var/lib/nfs") / name).touch()
    mount("/dev/ubda", EXPORT, "ext4")
    for name in ("nfsv4leasetime", "nfsv4gracetime"):
        (Path("/proc/fs/nfsd") / name).write_text(GRACE_S)
    options = "rw,no_root_squash,fsid=0,no_subtree_check,sync"
    run("exportfs", "-i", "-o", options, f"127.0.0.1:{EXPORT}")
    run("rpc.nfsd", "--no-nfs-version", "3", "4")
    run("rpc.mountd", "--no-nfs-version", "3")
    for version, place in (("4.2", MOUNT), ("4.0", OLD_MOUNT)):
        run("mount", "-t", "nfs4", "-o", f"vers={version},hard", "127.0.0.1:/", str(place))


def main(command: list[str]) -> int:
    for place in _ON_TMPFS:
        mount("tmpfs", Path(place), "tmpfs")
    EXPORT.mkdir()
    MOUNT.mkdir()
    OLD_MOUNT.mkdir()
    raise_loopback()
    load_modules("nfsd", "nfsv4")
    serve()
    return subprocess.run(command, check=False, stdin=subprocess.DEVNULL).returncode


if __name__ == "__main__":
    first_process(main)
