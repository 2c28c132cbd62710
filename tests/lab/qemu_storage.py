"""QEMU's storage daemon: images with dirty bitmaps, exported over NBD, driven by QMP."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab.tools import require_tool

NODE, EXPORT = "disk", "disk"


class StorageDaemon:
    """One qcow2 image as the node :data:`NODE`; commands by :meth:`run`. ``socket``: where NBD is served."""

    def __init__(self, folder: Path, qmp: socket.socket) -> None:
        self.socket = folder / "nbd.sock"
        self._qmp = qmp.makefile("rw")
        json.loads(self._qmp.readline())  # the greeting
        self.run("qmp_capabilities")

    def run(self, command: str, **arguments: object) -> Any:
        """Execute a QMP command; its result."""
        self._qmp.write(json.dumps({"execute": command, "arguments": arguments}))
        self._qmp.flush()
        while "event" in (answer := json.loads(self._qmp.readline())):
            pass
        assert "return" in answer, answer
        return answer["return"]

    def export(self, *bitmaps: str, writable: bool = False) -> None:
        """Begin to serve the image as :data:`EXPORT`; bitmaps stop counting first, as QEMU wants it."""
        for name in bitmaps:
            self.run("block-dirty-bitmap-disable", node=NODE, name=name)
        options = {"type": "nbd", "id": EXPORT, "node-name": NODE, "name": EXPORT, "writable": writable}
        self.run("block-export-add", **options, bitmaps=list(bitmaps))

    def unexport(self) -> None:
        self.run("block-export-del", id=EXPORT, mode="hard")

    def close(self) -> None:
        self._qmp.close()


@contextlib.contextmanager
def storage_daemon(folder: Path, image: Path) -> Iterator[StorageDaemon]:
    """A daemon that has the qcow2 ``image`` open and listens for NBD; nothing is exported yet."""
    program = require_tool("qemu-storage-daemon", "qemu-system-common")
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            command = [program, "--chardev", f"socket,id=qmp,fd={theirs.fileno()}", "--monitor", "chardev=qmp"]
            command += [
                "--blockdev",
                f"driver=qcow2,node-name={NODE},discard=unmap,file.driver=file,file.filename={image}",
            ]
            command += ["--nbd-server", f"addr.type=unix,addr.path={folder}/nbd.sock"]
            server = subprocess.Popen(command, pass_fds=[theirs.fileno()], stderr=subprocess.STDOUT)
        with server:
            daemon = StorageDaemon(folder, ours)
            try:
                yield daemon
            finally:
                daemon.close()
                server.kill()
