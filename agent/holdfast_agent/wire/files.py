"""Files of restore points: what can be asked of the file systems on an export's disks, and what is told. Since 1.2.

Paths are bytes, as file systems have them: absolute, with ``/`` between names, and not always UTF-8.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

MOST_RESULT_BYTES = 2 << 20
"""Of the paths that one answer tells; what does not fit is not told, and the answer says so."""

MOST_ATTRIBUTE_BYTES = 1 << 20
"""Of the extended attributes of one file, names and values together."""

Path = Annotated[bytes, msgspec.Meta(min_length=1, max_length=4096)]
AttributeName = Annotated[bytes, msgspec.Meta(min_length=1, max_length=255)]
AttributeValue = Annotated[bytes, msgspec.Meta(max_length=65536)]


class FileKind(StrEnum):
    """``other``: devices, pipes and sockets, which are told of and not restored."""

    FILE = "file"
    FOLDER = "folder"
    LINK = "link"
    OTHER = "other"


class FileEntry(msgspec.Struct, frozen=True, array_like=True):
    """``mode``: permission bits. ``size``: bytes of a file's content. ``target``: of a symbolic link, as it stands.

    ``attributes``: extended ones and access lists by their names in Linux (``user.…``, ``security.…``, ``trusted.…``,
    ``system.posix_acl_…``), where they were asked for. Since 1.3.
    """

    path: bytes
    kind: FileKind
    size: int = 0
    mtime_ns: int = 0
    mode: int = 0
    uid: int = 0
    gid: int = 0
    target: bytes = b""
    attributes: tuple[tuple[AttributeName, AttributeValue], ...] = ()

    @property
    def told_bytes(self) -> int:
        """What it takes of an answer."""
        return len(self.path) + len(self.target) + sum(len(name) + len(value) for name, value in self.attributes) + 64


class VolumeEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A partition, a disk without a table, or a logical volume. ``kind``: "ext4", "XFS", …, "" for what is unknown.

    ``place``: the path under which its files are found, "" if nowhere. ``note``: why not, or what to know of it.
    """

    name: str
    kind: str
    size_bytes: int
    label: str = ""
    uuid: str = ""
    place: str = ""
    note: str = ""


class ListVolumes(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """What is on the disks."""


class ListFiles(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """One folder, its entries by name with their attributes, those after the name ``after``; or one file."""

    path: Path
    after: bytes = b""


class FindFiles(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Everything below ``path`` whose name fits ``pattern`` (``*``, ``?``, ``[…]``), as it is found."""

    path: Path
    pattern: Path


class FetchFiles(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Copy files and whole folders into the folder ``target`` of the proxy's host, which is made if it is missing.

    ``overwrite``: what has their names there is replaced, once all has been fetched. Owners and extended attributes are
    set where the agent may do that. ``setuid``: such bits are kept too, and capabilities of programs.
    """

    paths: Annotated[tuple[Path, ...], msgspec.Meta(min_length=1, max_length=1000)]
    target: str
    overwrite: bool = False
    setuid: bool = False


class SendFile(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Send the content of one file to whoever connects and knows the task's secret. Since 1.3.

    On the data channel, on which the process listens: :class:`FileBegins` · :class:`FileData`* · :class:`FileEnds`.
    """

    path: Path


class MountFiles(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Show all files below the folder ``target`` of the proxy's host, read-only, until they are unmounted there or the
    task is stopped. Since 1.3. The folder is made if it is missing, and must be empty.

    ``to_others``: not to the agent's user alone, but to every user of that host what the owners, modes and access lists
    of the files let him see.
    """

    target: str
    to_others: bool = False


FilesWish = ListVolumes | ListFiles | FindFiles | FetchFiles | SendFile | MountFiles


class FileBegins(msgspec.Struct, frozen=True, tag=True):
    """What follows is the content of this file."""

    entry: FileEntry


class FileData(msgspec.Struct, frozen=True, tag=True):
    """The payload is content from ``offset`` on, ascending; what is left out is zeros."""

    offset: Annotated[int, msgspec.Meta(ge=0)]


class FileEnds(msgspec.Struct, frozen=True, tag=True):
    """All of it has been sent."""


FilePart = FileBegins | FileData | FileEnds


class FilesFound(msgspec.Struct, frozen=True, kw_only=True):
    """The answer. ``more``: there is more than is told. ``files``, ``folders``, ``links`` and ``file_bytes``: of a
    fetch, what was written. ``complaints``: what could not be read, or not be restored as it was; ``complained``: of
    how many things, of which only the first are told."""

    volumes: tuple[VolumeEntry, ...] = ()
    entries: tuple[FileEntry, ...] = ()
    more: bool = False
    files: int = 0
    folders: int = 0
    links: int = 0
    file_bytes: int = 0
    complaints: tuple[str, ...] = ()
    complained: int = 0
