"""``image:``: images in QEMU's formats, read through a ``qemu-nbd`` of our own.

The server listens on a private socket that is removed as soon as our connections stand, and dies with this process
whatever happens to it (PR_SET_PDEATHSIG). An image may name other files (backing files, extents, data files); all of
them must lie where the agent may open disks, or a prepared image could make us read any file of the host.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from holdfast_agent.errors import DiskDenied, DiskUnreadable, ToolMissing
from holdfast_agent.model.disk_url import DiskUrl
from holdfast_agent.wire.movers import MoverHost

from .disk import DiskExtent
from .nbd.dial import private_dialler
from .nbd.disk import NbdDisk
from .places import check_allowed, check_kind, open_allowed, real_path

_START_S = 20.0
_STOP_S = 5.0
_PR_SET_PDEATHSIG = 1
_MAX_FILES = 256


class ImageDisk:
    """Open it in the main thread: the kernel kills the server when the *thread* that started it ends."""

    def __init__(self, url: DiskUrl, host: MoverHost) -> None:
        self.url = str(url)
        self._host = host
        image_format = url.option("format", "qcow2")
        fd = open_allowed(url.path, os.O_RDONLY, self.url, host)
        try:
            check_kind(fd, self.url, host, device=False)
            path = real_path(fd)
        finally:
            os.close(fd)
        self._check_files(path, image_format)
        folder = tempfile.mkdtemp(prefix="nbd-", dir=host.runtime_dir)  # mode 0700
        try:
            address = str(Path(folder, "s"))
            self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the server; _stop closes it
            self._server = self._start(path, image_format, address)
            try:
                self._disk = self._connect(address)
            except BaseException:
                self._stop()
                raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self.size_bytes = self._disk.size_bytes

    def extents(self) -> Iterator[DiskExtent]:
        return self._disk.extents()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._disk.read_into(offset, buffer)

    def close(self) -> None:
        self._disk.close()
        self._stop()

    def _check_files(self, path: str, image_format: str) -> None:
        tool = _tool("qemu-img", self._host)
        arguments = [tool, "info", "--force-share", "--output=json", "--backing-chain", "-f", image_format, path]
        try:
            found = subprocess.run(arguments, capture_output=True, timeout=_START_S, check=True, env=_environment())
            chain = json.loads(found.stdout)
        except subprocess.CalledProcessError as error:
            raise self._unreadable(error.stderr.decode(errors="replace")) from error
        except (subprocess.TimeoutExpired, ValueError) as error:
            raise self._unreadable(str(error)) from error
        for name in _files(chain):
            if "://" in name or name.startswith("json:") or not name.startswith("/"):
                raise DiskDenied(host=self._host.agent, url=self.url, reason=f"it refers to {name!r}")
            check_allowed(os.path.realpath(name), self.url, self._host)

    def _start(self, path: str, image_format: str, address: str) -> subprocess.Popen[bytes]:
        libc = ctypes.CDLL(None)
        parent = os.getpid()

        def die_with_parent() -> None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)

        arguments = [_tool("qemu-nbd", self._host), "--read-only", "--persistent", f"--shared={self._host.workers + 2}"]
        arguments += [f"--format={image_format}", f"--socket={address}", "--", path]
        return subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env=_environment(),
            start_new_session=True,
            preexec_fn=die_with_parent,
        )

    def _connect(self, address: str) -> NbdDisk:
        deadline = time.monotonic() + _START_S
        while not _answers(address):
            # Nothing tells when the server listens except its socket.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._server.wait(0.01)
                raise self._unreadable(self._said())
            if time.monotonic() > deadline:
                raise self._unreadable("qemu-nbd did not begin to serve")
        dial = private_dialler(address, self.url, self._host)
        return NbdDisk(dial, self.url, self._host, resume=False)  # a server that died does not come back

    def _said(self) -> str:
        self._log.seek(0)
        return self._log.read(2000).decode(errors="replace")

    def _unreadable(self, reason: str) -> DiskUnreadable:
        return DiskUnreadable(
            url=self.url, offset_bytes=0, length_bytes=0, reason=reason.strip()[:500] or "no reason given"
        )

    def _stop(self) -> None:
        self._server.terminate()
        try:
            self._server.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self._log.close()


def _answers(address: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(address) == 0


def _files(chain: Any) -> Iterator[str]:
    """All file names in what ``qemu-img info`` says of a chain of images."""
    for image in chain[:_MAX_FILES]:
        yield image["filename"]
        details = image.get("format-specific", {}).get("data", {})
        if "data-file" in details:
            yield details["data-file"]
        for extent in details.get("extents", [])[:_MAX_FILES]:
            yield extent["filename"]


def _tool(name: str, host: MoverHost) -> str:
    path = shutil.which(name)
    if path is None:
        raise ToolMissing(tool=name, host=host.agent, package="qemu-utils")
    return path


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
