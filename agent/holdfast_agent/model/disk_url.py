"""Disk URLs: the closed list of ways in which an agent opens a disk.

A hypervisor plugin turns a snapshot's disk into one or more of these; the agent knows nothing else about
hypervisors. Forms of this version:

``file:/path``
    A raw image file. Holes are found with SEEK_DATA and SEEK_HOLE.
``block:/dev/name?wait=30``
    A block device. ``wait``: seconds for which it may take to appear, at most 120; for one that was just attached.
``image:/path?format=qcow2&bitmap=name``
    An image in a format that QEMU knows. The mover starts ``qemu-nbd`` for itself on a private socket, so the
    server lives and dies with the mover. ``bitmap``: as for NBD, but one that is kept in the image itself.
``nbd+unix:/path/of/socket?export=name&bitmap=name``
    An NBD export on a Unix socket. ``bitmap``: a dirty bitmap of QEMU (``qemu:dirty-bitmap:name``) that tells what
    changed; a mover asks it when a backup goes by change tracking and its order names no extents. A connection that is
    lost is made anew, so an export's name must stand for one snapshot for good: never give it to another.
``nbds://host:10809?export=name&bitmap=name``, ``nbd://…``
    The same over TCP, with TLS and without.
``https://host/path?query``, ``http://…``
    A raw image on a web server that answers ranges. Path and query are sent as they stand here.
``vddk://vcenter/[datastore] folder/disk.vmdk?vm=vm-1&snapshot=snapshot-2&transports=nbdssl``
    A disk of a snapshot on vSphere, to be read; without a snapshot that of a VM which is off, to be rewritten in place.
    The mover starts ``nbdkit`` with VMware's development kit for itself. ``vm`` and ``snapshot``: managed object ids.
    ``transports``: those of the kit, the best first, with colons between them.
``synthetic:/bytes``
    So many bytes that are made up as they are read: the load of a benchmark.

Network forms reach only the servers that the agent's configuration names. Secrets have no place in a URL, which is
logged; they travel as :class:`holdfast_agent.model.disk_access.DiskAccess`.
"""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import PurePosixPath
from urllib.parse import parse_qsl, quote, unquote, urlencode

import msgspec

from holdfast_agent.errors import DiskUrlInvalid

IMAGE_FORMATS = frozenset({"qcow2", "vmdk", "vdi", "vhdx", "vpc", "raw"})
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[0-9A-Za-z._-]{1,253})(?::([0-9]{1,5}))?", re.ASCII)
_TARGET = re.compile(r"/[!$-~]*", re.ASCII)  # what may stand in a request line, "#" left out
_MAX_NAME_BYTES = 1024  # of exports and bitmaps, less than NBD's limit
_MOST_SYNTHETIC_BYTES = 1 << 44


class DiskScheme(StrEnum):
    """The closed list of schemes."""

    FILE = "file"
    BLOCK = "block"
    IMAGE = "image"
    NBD_UNIX = "nbd+unix"
    NBD = "nbd"
    NBDS = "nbds"
    HTTP = "http"
    HTTPS = "https"
    VDDK = "vddk"
    SYNTHETIC = "synthetic"

    @property
    def port(self) -> int:
        """The usual port; 0 for what is not reached over the network."""
        return _PORTS.get(self, 0)

    @property
    def encrypted(self) -> bool:
        return self in (DiskScheme.NBDS, DiskScheme.HTTPS, DiskScheme.VDDK)


_PORTS = {
    DiskScheme.NBD: 10809,
    DiskScheme.NBDS: 10809,
    DiskScheme.HTTP: 80,
    DiskScheme.HTTPS: 443,
    DiskScheme.VDDK: 443,
}
_WEB = (DiskScheme.HTTP, DiskScheme.HTTPS)
_NBD_OPTIONS = frozenset({"export", "bitmap"})
_OPTIONS: dict[DiskScheme, frozenset[str]] = {
    DiskScheme.FILE: frozenset(),
    DiskScheme.BLOCK: frozenset({"wait"}),
    DiskScheme.IMAGE: frozenset({"format", "bitmap"}),
    DiskScheme.NBD_UNIX: _NBD_OPTIONS,
    DiskScheme.NBD: _NBD_OPTIONS,
    DiskScheme.NBDS: _NBD_OPTIONS,
    DiskScheme.VDDK: frozenset({"vm", "snapshot", "transports"}),
    DiskScheme.SYNTHETIC: frozenset(),
}
_VALUES = {
    "format": (re.compile("|".join(sorted(IMAGE_FORMATS))), f"one of {', '.join(sorted(IMAGE_FORMATS))}"),
    "wait": (re.compile(r"(?:[0-9]|[1-9][0-9]|1[01][0-9]|120)", re.ASCII), "0 to 120"),
    "vm": (re.compile(r"[0-9A-Za-z-]{1,64}", re.ASCII), "a managed object id"),
    "snapshot": (re.compile(r"[0-9A-Za-z-]{1,64}", re.ASCII), "a managed object id"),
    "transports": (re.compile(r"(?:file|san|hotadd|nbdssl|nbd)(?::(?:file|san|hotadd|nbdssl|nbd)){0,4}"), "of VDDK"),
}


class DiskUrl(msgspec.Struct, frozen=True):
    """A parsed disk URL.

    ``path``: absolute without "..", plain text; for http and https path and query as they are sent; empty for nbd and
    nbds. ``options`` are checked against the scheme. ``host`` (IPv6 without brackets) and ``port``: network only.
    """

    scheme: DiskScheme
    path: str
    options: tuple[tuple[str, str], ...] = ()
    host: str = ""
    port: int = 0

    def option(self, name: str, default: str = "") -> str:
        return dict(self.options).get(name, default)

    @property
    def origin(self) -> str:
        """``scheme://host[:port]``, without a port that is the usual one; empty if not on the network."""
        if not self.host:
            return ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + (f":{self.port}" if self.port != self.scheme.port else "")

    def __str__(self) -> str:
        if self.scheme in _WEB:
            return self.origin + self.path
        query = f"?{urlencode(self.options, quote_via=quote)}" if self.options else ""
        return (self.origin or f"{self.scheme}:") + quote(self.path) + query


def parse_disk_url(text: str) -> DiskUrl:
    """Parse and check a disk URL. Raises :class:`DiskUrlInvalid`."""
    if any("\ud800" <= character <= "\udfff" for character in text):  # bytes of a command line that are no text
        raise DiskUrlInvalid(url=ascii(text[:200]), reason="it is not UTF-8")
    name, colon, rest = text.partition(":")
    if not colon or name not in list(DiskScheme):
        raise DiskUrlInvalid(url=text, reason=f"the scheme must be one of {', '.join(sorted(DiskScheme))}")
    scheme = DiskScheme(name)
    if not scheme.port:
        raw_path, _, query = rest.partition("?")
        if scheme is DiskScheme.SYNTHETIC:
            _check_size(text, raw_path)
        return DiskUrl(scheme, _local_path(text, raw_path), _options(text, scheme, query))
    if not rest.startswith("//"):
        raise DiskUrlInvalid(url=text, reason=f"a server must follow: {scheme}://host")
    authority, mark, target = _split(rest[2:])
    host, port = _server(text, authority, scheme)
    if scheme in _WEB:
        if not _TARGET.fullmatch(mark + target):
            raise DiskUrlInvalid(url=text, reason="a path must follow the server, encoded, without fragment")
        return DiskUrl(scheme, mark + target, host=host, port=port)
    if scheme is DiskScheme.VDDK:
        raw_path, _, query = (mark + target).partition("?")
        return DiskUrl(scheme, _local_path(text, raw_path), _options(text, scheme, query), host, port)
    if mark == "/" and target.partition("?")[0]:
        raise DiskUrlInvalid(url=text, reason="name the export as an option: ?export=name")
    query = target if mark == "?" else target.partition("?")[2]
    return DiskUrl(scheme, "", _options(text, scheme, query), host, port)


def with_bitmap(text: str, name: str) -> str:
    """A disk URL that also names the dirty bitmap ``name``, where its scheme can; else as it was."""
    url = parse_disk_url(text)
    if "bitmap" not in _OPTIONS.get(url.scheme, ()):
        return text
    options = dict(url.options) | {"bitmap": name}
    return str(msgspec.structs.replace(url, options=tuple(sorted(options.items()))))


def image_url(path: str, image_format: str) -> DiskUrl:
    """The URL of an image at an absolute path, in one of QEMU's formats; "raw" is a plain file."""
    return file_url(path) if image_format == "raw" else parse_disk_url(f"image:{quote(path)}?format={image_format}")


def file_url(path: str) -> DiskUrl:
    """The URL of a raw image file at an absolute path."""
    return parse_disk_url(f"file:{quote(path)}")


def _split(rest: str) -> tuple[str, str, str]:
    """(server, "/" or "?" or nothing, what follows)."""
    end = next((at for at, letter in enumerate(rest) if letter in "/?"), len(rest))
    return rest[:end], rest[end : end + 1], rest[end + 1 :]


def _server(text: str, authority: str, scheme: DiskScheme) -> tuple[str, int]:
    if "@" in authority:
        # The text is not repeated: it may hold a password.
        raise DiskUrlInvalid(url=f"{scheme}://…", reason="no user or password may stand in it")
    match = _AUTHORITY.fullmatch(authority)
    port = int(match[2]) if match and match[2] else scheme.port
    if match is None or not 1 <= port <= 65535:
        raise DiskUrlInvalid(url=text, reason="the server must be a name or an address, and its port 1 to 65535")
    return match[1].strip("[]").lower(), port


def _local_path(text: str, raw: str) -> str:
    path = unquote(raw)
    pure = PurePosixPath(path)
    if not pure.is_absolute() or ".." in pure.parts or "\0" in path:
        raise DiskUrlInvalid(url=text, reason="the path must be absolute and free of '..'")
    return str(pure)


def _check_size(text: str, raw: str) -> None:
    size = raw.removeprefix("/")
    if not (size.isascii() and size.isdigit() and 0 < int(size) <= _MOST_SYNTHETIC_BYTES):
        raise DiskUrlInvalid(url=text, reason="write synthetic:/BYTES with a number of bytes up to 16 TiB")


def _options(text: str, scheme: DiskScheme, query: str) -> tuple[tuple[str, str], ...]:
    try:
        options = tuple(sorted(parse_qsl(query, keep_blank_values=True, strict_parsing=True))) if query else ()
    except ValueError as error:
        raise DiskUrlInvalid(url=text, reason=str(error)) from error
    for name, value in options:
        if name not in _OPTIONS[scheme]:
            raise DiskUrlInvalid(url=text, reason=f"{scheme}: has no option {name!r}")
        if name in _VALUES and not _VALUES[name][0].fullmatch(value):
            raise DiskUrlInvalid(url=text, reason=f"{name} must be {_VALUES[name][1]}")
        if len(value.encode()) > _MAX_NAME_BYTES or "\0" in value:
            raise DiskUrlInvalid(url=text, reason=f"{name} must have at most {_MAX_NAME_BYTES} bytes")
    if len(dict(options)) != len(options):
        raise DiskUrlInvalid(url=text, reason="an option is given twice")
    return options
