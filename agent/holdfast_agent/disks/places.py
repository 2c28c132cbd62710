"""Where a manager may make this host open disks: only below the directories, and on the servers, that the agent's
configuration names."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path, PurePath

from holdfast_agent.errors import (
    DiskDenied,
    DiskFolderMissing,
    DiskInUse,
    DiskNotFound,
    DiskServerDenied,
    DiskUnreadable,
)
from holdfast_agent.model.disk_url import DiskUrl
from holdfast_agent.model.server_rules import parse_server_rule
from holdfast_agent.wire.movers import MoverHost


def open_allowed(path: str, flags: int, url: str, host: MoverHost, mode: int = 0o600) -> int:
    """Open an existing file, device or directory and check where it really lies.

    The path is judged by the descriptor after the opening, so exchanging a symbolic link meanwhile gains nothing.
    Raises :class:`DiskNotFound`, :class:`DiskDenied`, :class:`DiskInUse`, :class:`DiskUnreadable`.
    """
    # Judged once before opening as well: opening alone can have effects (devices, FIFOs).
    check_allowed(os.path.realpath(path), url, host)
    try:
        fd = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK, mode)
    except OSError as error:
        raise explain(error, url, host) from error
    try:
        check_allowed(real_path(fd), url, host)
    except BaseException:
        os.close(fd)
        raise
    return fd


def open_folder_of(path: PurePath, url: str, host: MoverHost) -> int:
    """Open the directory in which the new disk ``path`` is to be made, as :func:`open_allowed` does.

    Raises :class:`DiskFolderMissing` where there is none.
    """
    try:
        return open_allowed(str(path.parent), os.O_RDONLY | os.O_DIRECTORY, url, host)
    except DiskNotFound as error:
        raise DiskFolderMissing(path=str(path.parent), host=host.agent) from error


def real_path(fd: int) -> str:
    """The path by which the kernel knows an open descriptor."""
    return str(Path(f"/proc/self/fd/{fd}").readlink())


def check_allowed(path: str, url: str, host: MoverHost) -> None:
    """Raise :class:`DiskDenied` unless ``path`` (resolved) lies below an allowed directory."""
    if not any(_below(path, allowed) for allowed in host.disk_paths):
        raise DiskDenied(host=host.agent, url=url, reason=f"{path} lies outside {_listed(host.disk_paths)}")


def check_server(url: DiskUrl, host: MoverHost) -> None:
    """Raise :class:`DiskServerDenied` unless the agent's configuration names the server of ``url``."""
    if not any(parse_server_rule(rule).covers(url) for rule in host.disk_servers):
        raise DiskServerDenied(host=host.agent, server=url.origin, url=str(url))


def check_kind(fd: int, url: str, host: MoverHost, *, device: bool) -> None:
    """Raise :class:`DiskDenied` unless ``fd`` is a block device, or a regular file, as the URL says."""
    mode = os.fstat(fd).st_mode
    if not (stat.S_ISBLK(mode) if device else stat.S_ISREG(mode)):
        raise DiskDenied(host=host.agent, url=url, reason=f"it is not a {'block device' if device else 'regular file'}")


def explain(error: OSError, url: str, host: MoverHost) -> DiskNotFound | DiskDenied | DiskInUse | DiskUnreadable:
    """What failing to open means."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENXIO, errno.ENODEV, errno.ENOMEDIUM):
        return DiskNotFound(url=url, host=host.agent)
    if error.errno in (errno.EACCES, errno.EPERM, errno.ELOOP, errno.EROFS, errno.EISDIR):
        return DiskDenied(host=host.agent, url=url, reason=os.strerror(error.errno))
    if error.errno in (errno.EBUSY, errno.ETXTBSY):
        return DiskInUse(url=url, reason=os.strerror(error.errno))
    return DiskUnreadable(url=url, offset_bytes=0, length_bytes=0, reason=error.strerror or str(error))


def _below(path: str, allowed: str) -> bool:
    with contextlib.suppress(OSError):
        return Path(path).is_relative_to(Path(allowed).resolve())
    return False


def _listed(paths: Sequence[str]) -> str:
    return ", ".join(paths) or "the directories that the agent may use (there are none)"
