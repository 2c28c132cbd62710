"""The first process of a User-mode Linux: an NFS server and its client on one loopback, and a command on the mount.

Run as ``nfs_guest.py RESULT COMMAND…`` by the kernel that :mod:`lab.nfs` starts; the root is the host's own, and all
that is written outside of the two mounts lies on tmpfs. ``RESULT`` gets the exit status of the command.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

MODULES = Path("/usr/lib/uml/modules") / os.uname().release
EXPORT, MOUNT = Path("/mnt/export"), Path("/mnt/nfs")
OLD_MOUNT = Path("/mnt/nfs-old")
"""NFS 4.0, whose client renames a file that is removed while it is open."""

_ON_TMPFS = ("/run", "/mnt", "/var/lib/nfs")
GRACE_S = "10"  # the least that the server takes; it ends at once where no client is to be waited for
_SIOCSIFFLAGS, _IFF_UP, _IFF_RUNNING = 0x8914, 0x1, 0x40
_INIT_MODULE = 313  # finit_module(2) on x86-64
_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: Path, kind: str) -> None:
    if _libc.mount(source.encode(), str(target).encode(), kind.encode(), 0, None):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))


def load_modules(*wanted: str) -> None:
    """With all that they need, which modules.dep names in the order of unloading."""
    needs = dict(line.split(":", 1) for line in (MODULES / "modules.dep").read_text().splitlines())
    loaded: set[str] = set()
    for module in wanted:
        path = next(path for path in needs if Path(path).name == f"{module}.ko")
        for part in (*reversed(needs[path].split()), path):
            if part not in loaded:
                loaded.add(part)
                with (MODULES / part).open("rb") as file:
                    _libc.syscall(_INIT_MODULE, file.fileno(), b"", 0)


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


def run(*command: str) -> None:
    subprocess.run(command, check=True)


def main(result: Path, command: list[str]) -> None:
    for kind, target in (("proc", "/proc"), ("sysfs", "/sys"), *(("tmpfs", place) for place in _ON_TMPFS)):
        mount(kind, Path(target), kind)
    EXPORT.mkdir()
    MOUNT.mkdir()
    OLD_MOUNT.mkdir()
    raise_loopback()
    load_modules("nfsd", "nfsv4")
    serve()
    done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL)
    result.write_text(str(done.returncode))


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), sys.argv[2:])
    finally:
        os.sync()
        Path("/proc/sysrq-trigger").write_text("o")  # the first process must not end
        while True:
            os.wait()
