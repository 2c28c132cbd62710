"""Datastores that are a share of one export: mounted on the host that runs its VM, and unmounted when that is gone."""

from __future__ import annotations

import logging
import re
import time
from typing import Any
from urllib.parse import urlsplit

import msgspec

from holdfast_agent.errors import UsageError

from .binding import VsphereRefused
from .connection import Connection
from .inventory import Inventory
from .properties import properties_of

log = logging.getLogger(__name__)

_NAME = re.compile(r"holdfast-[0-9A-Za-z_-]{1,64}", re.ASCII)
_PAUSES_S = (0.5, 2.0, 8.0)
"""Before a datastore is unmounted that was in use a moment ago."""
_BUSY = ("ResourceInUse", "PlatformConfigFault", "HostConfigFault")
_GONE = ("NotFound", "ManagedObjectNotFound")


class ShareRef(msgspec.Struct, frozen=True):
    """Where a share is, and what the datastore is called that it becomes."""

    address: str
    path: str
    datastore: str


def is_share(datastore: str) -> bool:
    """Whether a datastore has a name that only shares of exports have."""
    return _NAME.fullmatch(datastore) is not None


def parse_share(uri: str) -> tuple[ShareRef, str]:
    """A share, and the file in it that ``uri`` names. Raises :class:`UsageError`."""
    parts = urlsplit(uri)
    folder, _, file = parts.path.rpartition("/")
    name = f"holdfast-{folder.rpartition('/')[2]}"
    if parts.scheme != "nfs" or not parts.hostname or not file or not is_share(name):
        raise UsageError(reason=f"{uri!r} is no disk of a share")
    return ShareRef(parts.hostname, folder, name), file


class Shares:
    """Thread-safe. Raises :class:`VsphereRefused`, ``HypervisorUnreachable``."""

    def __init__(self, connection: Connection, inventory: Inventory) -> None:
        self._connection = connection
        self._inventory = inventory

    def mount(self, host: Any, share: ShareRef) -> None:
        """On a host, which may have it already."""
        spec = self._connection.vim.host.NasVolume.Specification(
            remoteHost=share.address, remotePath=share.path, localPath=share.datastore, accessMode="readWrite",
            type="NFS",
        )  # fmt: skip
        system = self._system(host)
        try:
            self._connection.act(lambda _: system.CreateNasDatastore(spec))
        except VsphereRefused as error:
            if error.fault not in ("DuplicateName", "AlreadyExists") or not self.is_mounted(share.datastore):
                raise

    def is_mounted(self, name: str) -> bool:
        return self._find(name) is not None

    def unmount(self, name: str) -> None:
        """From every host that has it. That none has is success. What is registered from it must be gone before."""
        found = self._find(name)
        if found is None:
            return
        for mount in properties_of(self._connection, found, ("host",)).get("host") or ():
            self._unmount(self._system(mount.key), found, name)

    def _unmount(self, system: Any, datastore: Any, name: str) -> None:
        for pause_s in (*_PAUSES_S, None):
            try:
                self._connection.act(lambda _: system.RemoveDatastore(datastore))
                return
            except VsphereRefused as error:
                if error.fault in _GONE:
                    return
                if pause_s is None or error.fault not in _BUSY:
                    raise
                log.info("%s could not be unmounted yet: %s", name, error)
                time.sleep(pause_s)

    def _find(self, name: str) -> Any:
        for moid, entity in self._inventory.entities().items():
            if entity.kind == "Datastore" and entity.text("name") == name:
                return self._connection.object("Datastore", moid)
        return None

    def _system(self, host: Any) -> Any:
        told = properties_of(self._connection, host, ("configManager.datastoreSystem",))
        return told["configManager.datastoreSystem"]
