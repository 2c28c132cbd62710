"""A ``qemu-nbd`` of our own for one image.

An image may name other files (backing files, extents, data files); all of them must lie where the agent may open disks,
or a prepared image could make us read any file of the host.
"""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
from collections.abc import Iterator
from typing import Any

from holdfast_agent.errors import DiskDenied, DiskError, DiskImageBroken, DiskInUse
from holdfast_agent.model.disk_url import DiskUrl
from holdfast_agent.wire.movers import MoverHost

from .places import check_allowed, check_kind, open_allowed, real_path
from .private_server import PrivateServer, environment, tool

_LOOK_S = 20.0
_MAX_FILES = 256
_SAID_CHARACTERS = 500
_STORAGE = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
"""With these it is not the image that fails, and another attempt may find it."""
_PACKAGE = "qemu-utils"
_LOCKED = re.compile(r'Failed to get (shared )?".*" lock')  # as QEMU says it when another process has the image


class ImageServer(PrivateServer):
    """Opening raises :class:`DiskInUse` when a VM has the image open."""

    def __init__(self, url: DiskUrl, host: MoverHost, *, writable: bool = False) -> None:
        """Raises :class:`DiskDenied`, :class:`DiskNotFound`, :class:`DiskImageBroken`, :class:`DiskUnreadable` or
        :class:`ToolMissing`."""
        super().__init__(str(url), host)
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

    def command(self, address: str) -> list[str]:
        arguments = [tool("qemu-nbd", self.host, _PACKAGE), "--persistent", f"--shared={self.host.workers + 2}"]
        arguments += ["--discard=unmap", "--cache=writeback"] if self._writable else ["--read-only"]
        arguments += [f"--bitmap={self.bitmap}"] if self.bitmap else []
        return [*arguments, f"--format={self._format}", f"--socket={address}", "--", self._path]

    def explain(self, said: str) -> DiskError:
        return DiskInUse(url=self.url, reason=said) if _LOCKED.search(said) else self.unreadable(said)

    def _chain(self) -> list[dict[str, Any]]:
        """What ``qemu-img info`` says of the image and of what lies under it, the image first."""
        arguments = [tool("qemu-img", self.host, _PACKAGE), "info", "--force-share", "--output=json", "--backing-chain"]
        arguments += ["-f", self._format, self._path]
        try:
            found = subprocess.run(arguments, capture_output=True, timeout=_LOOK_S, check=True, env=environment())
            chain: list[dict[str, Any]] = json.loads(found.stdout)
            return chain
        except subprocess.CalledProcessError as error:
            said = error.stderr.decode(errors="replace").strip()[-_SAID_CHARACTERS:]
            if any(os.strerror(number) in said for number in _STORAGE):
                raise self.unreadable(said) from error
            raise DiskImageBroken(url=self.url, format=self._format, reason=said) from error
        except (subprocess.TimeoutExpired, ValueError) as error:
            raise self.unreadable(str(error)) from error

    def _check_files(self, chain: list[dict[str, Any]]) -> None:
        for name in _files(chain):
            if "://" in name or name.startswith("json:") or not name.startswith("/"):
                raise DiskDenied(host=self.host.agent, url=self.url, reason=f"it refers to {name!r}")
            check_allowed(os.path.realpath(name), self.url, self.host)


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
