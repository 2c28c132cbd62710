"""Disk URLs: the closed list of ways in which an agent opens a disk.

A hypervisor plugin turns a snapshot's disk into one or more of these; the agent knows nothing else about
hypervisors. Forms of this version:

``file:/path``
    A raw image file. Holes are found with SEEK_DATA and SEEK_HOLE.
``block:/dev/name``
    A block device.
``image:/path?format=qcow2``
    An image in a format that QEMU knows. The mover starts ``qemu-nbd`` for itself on a private socket, so the
    server lives and dies with the mover.
``nbd+unix:/path/of/socket?export=name``
    An NBD export on a Unix socket. ``bitmap=name``: a dirty bitmap of QEMU (``qemu:dirty-bitmap:name``) that tells
    what changed; a mover asks it when a backup goes by change tracking and its order names no extents.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import PurePosixPath
from urllib.parse import parse_qsl, quote, unquote, urlencode

import msgspec

from holdfast_agent.errors import DiskUrlInvalid

IMAGE_FORMATS = frozenset({"qcow2", "vmdk", "vdi", "vhdx", "vpc", "raw"})
_OPTIONS: dict[str, frozenset[str]] = {
    "file": frozenset(),
    "block": frozenset(),
    "image": frozenset({"format"}),
    "nbd+unix": frozenset({"export", "bitmap"}),
}


class DiskScheme(StrEnum):
    """The closed list of schemes."""

    FILE = "file"
    BLOCK = "block"
    IMAGE = "image"
    NBD_UNIX = "nbd+unix"


class DiskUrl(msgspec.Struct, frozen=True):
    """A parsed disk URL. ``options`` are checked against the scheme; ``path`` is absolute without ".."."""

    scheme: DiskScheme
    path: str
    options: tuple[tuple[str, str], ...] = ()

    def option(self, name: str, default: str = "") -> str:
        return dict(self.options).get(name, default)

    def __str__(self) -> str:
        query = f"?{urlencode(self.options, quote_via=quote)}" if self.options else ""
        return f"{self.scheme}:{quote(self.path)}{query}"


def parse_disk_url(text: str) -> DiskUrl:
    """Parse and check a disk URL. Raises :class:`DiskUrlInvalid`."""
    scheme, colon, rest = text.partition(":")
    if not colon or scheme not in _OPTIONS:
        raise DiskUrlInvalid(url=text, reason=f"the scheme must be one of {', '.join(sorted(_OPTIONS))}")
    raw_path, _, query = rest.partition("?")
    path = unquote(raw_path)
    pure = PurePosixPath(path)
    if not pure.is_absolute() or ".." in pure.parts or "\0" in path:
        raise DiskUrlInvalid(url=text, reason="the path must be absolute and free of '..'")
    try:
        options = tuple(sorted(parse_qsl(query, keep_blank_values=True, strict_parsing=True))) if query else ()
    except ValueError as error:
        raise DiskUrlInvalid(url=text, reason=str(error)) from error
    for name, value in options:
        if name not in _OPTIONS[scheme]:
            raise DiskUrlInvalid(url=text, reason=f"{scheme}: has no option {name!r}")
        if name == "format" and value not in IMAGE_FORMATS:
            raise DiskUrlInvalid(url=text, reason=f"the format must be one of {', '.join(sorted(IMAGE_FORMATS))}")
    if len(dict(options)) != len(options):
        raise DiskUrlInvalid(url=text, reason="an option is given twice")
    return DiskUrl(DiskScheme(scheme), str(pure), options)


def file_url(path: str) -> DiskUrl:
    """The URL of a raw image file at an absolute path."""
    return parse_disk_url(f"file:{quote(path)}")
