"""One host for each repository: on storage that several hosts can mount, the first agent's name stands in it.

Locks, the local index and what is cached of folders hold for one host. So an agent writes into the configuration that
it serves the repository, and all others refuse it, until one of them is told that the host is gone.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

from holdfast_agent.errors import (
    Locked,
    ObjectMissing,
    RepositoryClaimed,
    RepositoryFull,
    RepositoryNotFound,
    RepositoryReadOnly,
)
from holdfast_agent.model.hosts import RepositoryHost

from . import layout
from .configuration import Config, change_config, read_config
from .file_writing import System
from .store import FileStore, ObjectStore


def insist(store: ObjectStore, path: Path, config: Config, host: RepositoryHost) -> Config:
    """Make sure that ``host`` serves the repository, at every opening; the configuration that holds from now on.

    On network storage the first one claims it. A claim that is there counts on any storage: a disk may be local here
    and exported to others. Raises :class:`RepositoryClaimed`. What is full or read-only is used unclaimed, so that
    points can be restored from it.
    """
    _refuse_others(path, config, host)
    if isinstance(config.host, RepositoryHost) or not store.network():
        return config

    def claimed(present: Config) -> Config:
        _refuse_others(path, present, host)
        return msgspec.structs.replace(present, host=host)

    with contextlib.suppress(RepositoryFull, RepositoryReadOnly):
        return change_config(store, claimed)
    return config


def serving_host(path: Path, system: System = os) -> RepositoryHost | None:
    """Whose claim stands in the repository at ``path``. Raises as ``Repository.open``."""
    try:
        host = read_config(FileStore(path, system)).host
    except ObjectMissing:
        raise RepositoryNotFound(path=str(path)) from None
    return host if isinstance(host, RepositoryHost) else None


def take_over(path: Path, host: RepositoryHost, system: System = os) -> None:
    """Let ``host`` serve the repository from now on. Only an administrator knows that the other host is gone for good.

    Raises :class:`Locked` if something visibly writes or reads there (NFS shows the locks of other hosts, unless
    mounted without), :class:`RepositoryNotFound`, and storage errors.
    """
    store = FileStore(path, system)
    serving_host(path, system)
    for name in store.names(layout.SESSIONS):
        with contextlib.suppress(ObjectMissing):
            lock = store.try_lock(name)
            if lock is None:
                raise Locked(what=f"the repository at {path}", holder=f"the session {name.rpartition('/')[2]}")
            lock.close()
    change_config(store, lambda present: msgspec.structs.replace(present, host=host))


def _refuse_others(path: Path, config: Config, host: RepositoryHost) -> None:
    if isinstance(config.host, RepositoryHost) and config.host.key != host.key:
        raise RepositoryClaimed(path=str(path), holder=config.host.name)
