"""New disk images that are written over NBD: how a restored disk becomes qcow2.

An agent writes raw files and NBD exports. For a disk in another format the driver makes the image and has ``qemu-nbd``
serve it on a Unix socket, on the host where driver and agent both are.
"""

from __future__ import annotations

import socket
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from holdfast_agent.errors import ToolMissing, UsageError
from holdfast_agent.model.disk_url import DiskScheme, DiskUrl

_START_S, _STOP_S = 20.0, 60.0
_POLL_S, _GREETS_S = 0.01, 5.0
_MOST_CLIENTS = 32


class ImageServers:
    """Serves any number of images until they are stopped, or until this process ends, however it ends.

    The kernel ends a server with the *thread* that started it, so one thread starts them all and stays. Thread-safe.
    """

    def __init__(self) -> None:
        self._servers: dict[Path, _Server] = {}
        self._lock = threading.Lock()
        self._starter: ThreadPoolExecutor | None = None

    def create(self, image: Path, size_bytes: int, address: Path, export: str) -> str:
        """Make the qcow2 ``image``, which must not exist, and serve it at the socket ``address``. Returns its disk URL.

        Raises ``UsageError`` or ``ToolMissing``; then it may exist all the same.
        """
        if image.exists():
            raise UsageError(reason=f"{image} exists already")
        _run(["qemu-img", "create", "-q", "-f", "qcow2", str(image), str(size_bytes)])
        with self._lock:
            if self._starter is None:
                self._starter = ThreadPoolExecutor(1, "image-servers")
            started = self._starter.submit(_Server, image, address, export)
        server = started.result()
        with self._lock:
            self._servers[image] = server
        server.wait_ready()
        return str(DiskUrl(DiskScheme.NBD_UNIX, str(address), (("export", export),)))

    def stop(self, image: Path) -> None:
        """Stop serving ``image``; what was written is in it then. Idempotent. Raises ``UsageError`` if it is not."""
        with self._lock:
            server = self._servers.pop(image, None)
        if server is not None:
            server.stop()

    def close(self) -> None:
        """Stop all; must not raise. What was written last may be lost."""
        with self._lock:
            servers, self._servers = self._servers, {}
            starter, self._starter = self._starter, None
        for server in servers.values():
            server.kill()
        if starter is not None:
            starter.shutdown()


class _Server:
    """One ``qemu-nbd``. Made in a thread that lives as long as it shall."""

    def __init__(self, image: Path, address: Path, export: str) -> None:
        self._image, self._address = image, address
        command = ["setpriv", "--pdeathsig", "KILL", "--", "qemu-nbd", "--persistent", f"--shared={_MOST_CLIENTS}"]
        command += ["--format=qcow2", "--discard=unmap", "--cache=writeback", f"--socket={address}"]
        command += [f"--export-name={export}", str(image)]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the server; kill closes it
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self._log
            )
        except OSError as error:
            self._log.close()
            raise ToolMissing(tool="setpriv", host="the manager", package="util-linux") from error

    def wait_ready(self) -> None:
        """Raises ``UsageError`` when it does not serve."""
        deadline = time.monotonic() + _START_S
        while not _greets(self._address):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise UsageError(reason=f"qemu-nbd does not serve {self._image}: {self._said()}")
            time.sleep(_POLL_S)

    def stop(self) -> None:
        """An orderly end. Raises ``UsageError`` when there is none."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
            if self._process.returncode:
                raise UsageError(reason=f"qemu-nbd has not closed {self._image} well: {self._said()}")
        except subprocess.TimeoutExpired as error:
            raise UsageError(reason=f"qemu-nbd does not close {self._image}") from error
        finally:
            self.kill()

    def kill(self) -> None:
        """At once, if it has not ended. Idempotent."""
        self._process.kill()
        self._process.wait()
        self._log.close()
        self._address.unlink(missing_ok=True)

    def _said(self) -> str:
        self._log.seek(0)
        return self._log.read(2000).decode(errors="replace").strip() or "no reason given"


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, capture_output=True, timeout=_START_S, check=True)
    except FileNotFoundError as error:
        raise ToolMissing(tool=command[0], host="the manager", package="qemu-utils") from error
    except subprocess.CalledProcessError as error:
        raise UsageError(reason=error.stderr.decode(errors="replace").strip()[:500]) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(reason=f"{command[0]}: {error}") from error


def _greets(address: Path) -> bool:
    """Whether the server speaks. One that merely listens loses a SIGTERM (QEMU 7.2), and would not end when stopped."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_GREETS_S)
        try:
            probe.connect(str(address))
            return bool(probe.recv(1))
        except OSError:
            return False
