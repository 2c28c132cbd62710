"""A ``qemu-nbd`` of our own for one image.

It listens on a private socket that is removed as soon as our connections stand, and dies with this process whatever
happens to it (PR_SET_PDEATHSIG). An image may name other files (backing files, extents, data files); all of them must
lie where the agent may open disks, or a prepared image could make us read any file of the host.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from holdfast_agent.errors import DiskDenied, DiskInUse, DiskUnreadable, ToolMissing
from holdfast_agent.model.disk_url import DiskUrl
from holdfast_agent.wire.movers import MoverHost

from .nbd.dial import Dialler, private_dialler
from .places import check_allowed, check_kind, open_allowed, real_path

T = TypeVar("T")

_START_S = 20.0
_STOP_S = 5.0
_FINISH_S = 60.0
_PR_SET_PDEATHSIG = 1
_MAX_FILES = 256
_LOCKED = re.compile(r'Failed to get (shared )?".*" lock')  # as QEMU says it when another process has the image


class ImageServer:
    """Start it in the main thread: the kernel kills the server when the *thread* that started it ends."""

    def __init__(self, url: DiskUrl, host: MoverHost, *, writable: bool = False) -> None:
        """Raises :class:`DiskDenied`, :class:`DiskNotFound`, :class:`DiskUnreadable` or :class:`ToolMissing`."""
        self.url = str(url)
        self._host = host
        self._writable = writable
        self._format = url.option("format", "qcow2")
        fd = open_allowed(url.path, os.O_RDWR if writable else os.O_RDONLY, self.url, host)
        try:
            check_kind(fd, self.url, host, device=False)
            self._path = real_path(fd)
        finally:
            os.close(fd)
        chain = self._chain()
        self._check_files(chain)
        self.bitmap = url.option("bitmap") if _keeps(chain, url.option("bitmap")) else ""
        """The dirty bitmap that the URL names, if the image has it and it can be believed; else empty."""

    def open(self, connect: Callable[[Dialler], T]) -> T:
        """Start serving, and make all connections by ``connect``: there will be none after it. Called once.

        Raises :class:`DiskInUse` (a VM has the image open), :class:`DiskUnreadable`, and what ``connect`` raises.
        """
        folder = tempfile.mkdtemp(prefix="nbd-", dir=self._host.runtime_dir)  # mode 0700
        try:
            address = str(Path(folder, "s"))
            self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the server; stop closes it
            self._server = self._start(address)
            try:
                self._wait_ready(address)
                return connect(private_dialler(address, self.url, self._host, self.bitmap))
            except BaseException:
                self.stop()
                raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def stop(self) -> None:
        """Never raises. What was written may not be in the image yet."""
        self._end(_STOP_S)
        self._log.close()

    def finish(self) -> str:
        """Stop in order, so that the image is whole with its bitmaps; what went wrong with that, or nothing."""
        self._end(_FINISH_S)
        said = "" if self._server.returncode == 0 else self._said() or f"it ended with {self._server.returncode}"
        self._log.close()
        return said

    def _end(self, timeout_s: float) -> None:
        self._server.terminate()
        try:
            self._server.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()

    def _chain(self) -> list[dict[str, Any]]:
        """What ``qemu-img info`` says of the image and of what lies under it, the image first."""
        tool = _tool("qemu-img", self._host)
        arguments = [tool, "info", "--force-share", "--output=json", "--backing-chain", "-f", self._format, self._path]
        try:
            found = subprocess.run(arguments, capture_output=True, timeout=_START_S, check=True, env=_environment())
            chain: list[dict[str, Any]] = json.loads(found.stdout)
            return chain
        except subprocess.CalledProcessError as error:
            raise self._unreadable(error.stderr.decode(errors="replace")) from error
        except (subprocess.TimeoutExpired, ValueError) as error:
            raise self._unreadable(str(error)) from error

    def _check_files(self, chain: list[dict[str, Any]]) -> None:
        for name in _files(chain):
            if "://" in name or name.startswith("json:") or not name.startswith("/"):
                raise DiskDenied(host=self._host.agent, url=self.url, reason=f"it refers to {name!r}")
            check_allowed(os.path.realpath(name), self.url, self._host)

    def _start(self, address: str) -> subprocess.Popen[bytes]:
        libc = ctypes.CDLL(None)
        parent = os.getpid()

        def die_with_parent() -> None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)

        arguments = [_tool("qemu-nbd", self._host), "--persistent", f"--shared={self._host.workers + 2}"]
        arguments += ["--discard=unmap", "--cache=writeback"] if self._writable else ["--read-only"]
        arguments += [f"--bitmap={self.bitmap}"] if self.bitmap else []
        arguments += [f"--format={self._format}", f"--socket={address}", "--", self._path]
        return subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env=_environment(),
            start_new_session=True,
            preexec_fn=die_with_parent,
        )

    def _wait_ready(self, address: str) -> None:
        deadline = time.monotonic() + _START_S
        while not _answers(address):
            # Nothing tells when the server listens except its socket.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._server.wait(0.01)
                raise self._refused(self._said())
            if time.monotonic() > deadline:
                raise self._unreadable("qemu-nbd did not begin to serve")

    def _said(self) -> str:
        self._log.seek(0)
        return self._log.read(2000).decode(errors="replace").strip()

    def _refused(self, said: str) -> DiskInUse | DiskUnreadable:
        """What it means that the server did not start."""
        return DiskInUse(url=self.url, reason=said) if _LOCKED.search(said) else self._unreadable(said)

    def _unreadable(self, reason: str) -> DiskUnreadable:
        return DiskUnreadable(
            url=self.url, offset_bytes=0, length_bytes=0, reason=reason.strip()[:500] or "no reason given"
        )


def _answers(address: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(address) == 0


def _files(chain: list[dict[str, Any]]) -> Iterator[str]:
    """All file names in what ``qemu-img info`` says of a chain of images."""
    for image in chain[:_MAX_FILES]:
        yield image["filename"]
        details = image.get("format-specific", {}).get("data", {})
        if "data-file" in details:
            yield details["data-file"]
        for extent in details.get("extents", [])[:_MAX_FILES]:
            yield extent["filename"]


def _keeps(chain: list[dict[str, Any]], bitmap: str) -> bool:
    """Whether the image holds ``bitmap`` with all that was written since it began.

    "auto": QEMU goes on recording whenever it opens the image; "in-use": it did not close it well (qcow2's
    specification, bitmap directory entry). A bitmap in an overlay knows nothing of writes before the overlay was made.
    """
    kept = chain[0].get("format-specific", {}).get("data", {}).get("bitmaps", [])
    return len(chain) == 1 and any(each["name"] == bitmap and each["flags"] == ["auto"] for each in kept)


def _tool(name: str, host: MoverHost) -> str:
    path = shutil.which(name)
    if path is None:
        raise ToolMissing(tool=name, host=host.agent, package="qemu-utils")
    return path


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
