"""The inventory of a server, read once and from then on told by what changes in it.

The server keeps the state of a filter; each question costs one request and what has changed since the last, however
many VMs there are (WaitForUpdatesEx, vSphere API reference).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from holdfast_agent.errors import HypervisorUnreachable

from .binding import VsphereRefused
from .connection import Connection

_PAGE = 500
_MOST_PAGES = 10_000
_PATHS: Mapping[str, Sequence[str]] = {
    "VirtualMachine": (
        "name", "parent", "resourcePool", "datastore", "runtime.host", "runtime.powerState",
        "config.instanceUuid", "config.template", "config.files.vmPathName",
    ),
    "Folder": ("name", "parent"),
    "Datacenter": ("name", "parent"),
    "ComputeResource": ("name", "parent"),
    "HostSystem": ("name", "parent"),
    "ResourcePool": ("name", "parent", "owner"),
    "VirtualApp": ("name", "parent", "owner"),
    "Datastore": ("name", "parent", "summary.type"),
}  # fmt: skip
_FORGOTTEN = ("ManagedObjectNotFound", "InvalidCollectorVersion", "InvalidArgument")


class Entity(msgspec.Struct):
    """One object. ``values``: by path; references are object ids, lists of them tuples."""

    kind: str
    values: dict[str, Any]

    def text(self, path: str) -> str:
        value = self.values.get(path)
        return "" if value is None else str(value)


class InventoryWatch:
    """Thread-safe; one question at a time, whose answer is for all who were waiting when it was asked."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._collector: Any = None
        self._login = 0
        self._version = ""
        self._entities: dict[str, Entity] = {}
        self._told: Mapping[str, Entity] = {}
        self._asked = self._answered = 0
        self._answered_at = float("-inf")

    def entities(self, max_age_s: float = 0.0) -> Mapping[str, Entity]:
        """All objects by their ids, as they are now; the same mapping as long as nothing changes. For reading only.

        ``max_age_s``: an answer that is no older will do.
        Raises :class:`VsphereRefused` or ``HypervisorUnreachable``.
        """
        asked = self._asked
        with self._lock:
            fresh = self._answered > asked or time.monotonic() - self._answered_at < max_age_s
            if fresh and self._login == self._connection.logins:
                return self._told  # somebody has asked since we came, or lately
            self._asked += 1
            began = time.monotonic()
            if self._collector is None or self._login != self._connection.logins:
                self._begin()
            try:
                self._catch_up()
            except (VsphereRefused, HypervisorUnreachable) as error:
                if isinstance(error, VsphereRefused) and error.fault not in _FORGOTTEN:
                    raise
                # The session was begun anew while it was asked, or an answer was lost, and the changes in it.
                self._begin()
                self._catch_up()
            self._answered, self._answered_at = self._asked, began
            return self._told

    def forget(self) -> None:
        """Read everything anew at the next question."""
        with self._lock:
            self._login = -1

    def _begin(self) -> None:
        if self._collector is not None:
            with suppress(VsphereRefused, HypervisorUnreachable):
                self._connection.act(lambda _: self._collector.DestroyPropertyCollector())
            self._collector = None
        self._login, self._version, self._entities = self._connection.logins, "", {}
        self._collector = self._connection.act(self._new_collector)

    def _new_collector(self, content: Any) -> Any:
        vim = self._connection.vim
        query = vim.PropertyCollector
        kinds = {kind: getattr(vim, kind) for kind in _PATHS}
        view = content.viewManager.CreateContainerView(content.rootFolder, list(kinds.values()), True)
        to_all = query.TraversalSpec(name="all", path="view", skip=False, type=vim.view.ContainerView)
        spec = query.FilterSpec(
            objectSet=[query.ObjectSpec(obj=view, skip=True, selectSet=[to_all])],
            propSet=[query.PropertySpec(type=kinds[kind], all=False, pathSet=list(_PATHS[kind])) for kind in kinds],
        )
        collector = content.propertyCollector.CreatePropertyCollector()
        collector.CreateFilter(spec, False)
        return collector

    def _catch_up(self) -> None:
        options = self._connection.vim.PropertyCollector.WaitOptions(maxWaitSeconds=0, maxObjectUpdates=_PAGE)
        for _ in range(_MOST_PAGES):
            update = self._connection.act(lambda _: self._collector.WaitForUpdatesEx(self._version, options))
            if update is None:
                return
            for changed in update.filterSet:
                for each in changed.objectSet:
                    self._apply(each)
            self._version = update.version
            if not update.truncated:
                self._told = dict(self._entities)
                return
        raise VsphereRefused("InvalidArgument", "the server tells changes without end")

    def _apply(self, update: Any) -> None:
        identifier, kind = update.obj._GetMoId(), type(update.obj).__name__.rpartition(".")[2]
        if update.kind == "leave":
            self._entities.pop(identifier, None)
            return
        before = self._entities.get(identifier)
        values = dict(before.values) if before is not None else {}  # what was told is not changed under its readers
        for change in update.changeSet:
            if change.op in ("remove", "indirectRemove"):
                values.pop(change.name, None)
            else:
                values[change.name] = _plain(change.val)
        self._entities[identifier] = Entity(kind, values)


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_plain(each) for each in value)
    return value._GetMoId() if hasattr(value, "_GetMoId") else value
