"""Folders and empty disks on datastores, made and deleted by the server's own file manager."""

from __future__ import annotations

from typing import Any

from .binding import VsphereRefused
from .connection import Connection
from .properties import properties_of, properties_of_all
from .tasks import finished

_NOT_THERE = ("FileNotFound", "CannotAccessFile")


class DatastoreFiles:
    """Thread-safe. Names are paths in datastores: "[datastore] folder/file". Errors are :class:`VsphereRefused`."""

    def __init__(self, connection: Connection, task_timeout_s: float) -> None:
        self._connection = connection
        self._task_timeout_s = task_timeout_s

    def make_folder(self, center: Any, name: str) -> None:
        self._connection.act(lambda content: content.fileManager.MakeDirectory(name, center, False))

    def make_disk(self, center: Any, name: str, size_bytes: int) -> None:
        """An empty disk: its descriptor, and the file that its bytes are put into."""
        manager = self._connection.vim.VirtualDiskManager
        spec = manager.FileBackedVirtualDiskSpec(diskType="thin", adapterType="lsiLogic", capacityKb=size_bytes >> 10)
        self._run(lambda content: content.virtualDiskManager.CreateVirtualDisk_Task(name, center, spec))

    def delete(self, center: Any, name: str) -> None:
        """A file, or a folder with all that is in it. What is not there is deleted already."""
        if self.exists(center, name):
            self._run(lambda content: content.fileManager.DeleteDatastoreFile_Task(name, center))

    def exists(self, center: Any, folder: str) -> bool:
        """Raises :class:`VsphereRefused` ("NotFound") when its datastore is not there, so that it cannot be told."""
        store = folder[1:].partition("]")[0]
        browser = self._browser(center, store)
        spec = self._connection.vim.host.DatastoreBrowser.SearchSpec(matchPattern=["*.vmx"])
        try:
            self._run(lambda _: browser.SearchDatastore_Task(folder, spec))
        except VsphereRefused as error:
            if error.fault not in _NOT_THERE:
                raise
            return False
        return True

    def _browser(self, center: Any, store: str) -> Any:
        known = properties_of(self._connection, center, ("datastore",)).get("datastore") or ()
        for _, told in properties_of_all(self._connection, known, ("name", "browser")):
            if str(told["name"]) == store:
                return told["browser"]
        raise VsphereRefused("NotFound", f"there is no datastore {store} any more")

    def _run(self, deed: Any) -> Any:
        return finished(self._connection, self._connection.act(deed), self._task_timeout_s)
