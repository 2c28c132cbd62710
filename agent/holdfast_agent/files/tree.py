"""The files of a restore point as one tree: as the guest mounts its volumes, or each volume a folder."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

from holdfast_agent.errors import FilesUnreadable, HoldfastError, NotFound, UsageError
from holdfast_agent.wire.files import FileKind

from .attributes import Attribute
from .systems.nodes import Facts, Node
from .volumes import Volume

_MOST_LINKS = 40
_MOST_TOLD = 10
_MOST_FSTAB_BYTES = 1 << 20
_ROOTS = ((), (b"@",), (b"root",), (b"@rootfs",))
"""Where in a btrfs distributions keep what they call ``/``."""

Names = tuple[bytes, ...]


class Place(NamedTuple):
    """A node, and the path under which it is found. ``volume``: on which its file is, so that keys are not mixed up."""

    names: Names
    node: Node
    volume: int

    @property
    def path(self) -> bytes:
        return b"/" + b"/".join(self.names)

    @property
    def key(self) -> tuple[int, Hashable]:
        return self.volume, self.node.key


class Tree:
    """``mounted``: under which paths each volume is found, by its place in ``volumes``."""

    def __init__(self, volumes: Sequence[Volume], only: str = "") -> None:
        """``only``: the name of the volume whose files are wanted, its root as ``/``. Raises ``NotFound``."""
        self.volumes = self._asked = volumes
        self._mounts: dict[Names, tuple[Node, int]] = {}
        self._absent: dict[Names, str] = {}
        if only:
            chosen = [number for number, volume in enumerate(volumes) if volume.name == only]
            if not chosen:
                names = ", ".join(volume.name for volume in volumes)
                raise NotFound(kind="volume in this restore point", name=only, advice=f"It has {names}")
            self._asked = [volumes[chosen[0]]]
            self._mount((), chosen[0], ())
            return
        with_files = [number for number, volume in enumerate(volumes) if volume.system is not None]
        tables = [(number, *table) for number in with_files for table in [_mount_table(volumes[number])] if table]
        if len(tables) == 1:
            self._mount_as_the_guest(*tables[0])
        elif len(with_files) == 1:
            self._mount((), with_files[0], ())
        if () not in self._mounts and with_files:
            self._mounts[()] = (_Folder(), -1)
            for number in with_files:
                self._mount((volumes[number].name.encode(),), number, ())

    def mounted(self, number: int) -> bytes:
        """The shortest path of a volume, b"" if it has none."""
        places = [names for names, (_, volume) in self._mounts.items() if volume == number]
        return min((b"/" + b"/".join(names) for names in places), key=len, default=b"")

    def doubts(self, place: Place, *, below: bool) -> Iterator[tuple[bytes, str]]:
        """(path, reason): of the volume that a place is on, and of those mounted ``below`` it, where a mount might show
        something else than is read here; and where the guest mounts what is not here at all."""
        told = {place.volume}
        for names, (_, number) in self._mounts.items():
            if below and names[: len(place.names)] == place.names:
                told.add(number)
        for number in sorted(told - {-1}):
            if self.volumes[number].doubt:
                yield self.mounted(number), self.volumes[number].doubt
        for names, reason in self._absent.items():
            if place.names[: len(names)] == names or (below and names[: len(place.names)] == place.names):
                yield b"/" + b"/".join(names), reason

    def at(self, path: bytes) -> Place:
        """What is there; links on the way are followed, one at the end is not. Raises ``NotFound``, and
        :class:`FilesUnreadable` where no volume has files for us."""
        if () not in self._mounts:
            why = "; ".join(_why(volume) for volume in self._asked[:_MOST_TOLD])
            raise FilesUnreadable(reason=why or "there is no volume on its disks")
        place = self._root()
        left = _split(path)
        links = 0
        while left:
            name, left = left[0], left[1:]
            if name == b"..":
                place = self._named(place.names[:-1])
                continue
            found = self._child(place, name)
            if found is None:
                raise NotFound(kind="file in this restore point", name=_shown(path), advice=_LISTS)
            if left and found.node.facts().kind is FileKind.LINK:
                links += 1
                if links > _MOST_LINKS:
                    raise UsageError(reason=f"{_shown(path)} goes through links that lead round in a circle")
                target = found.node.target()
                place = self._root() if target.startswith(b"/") else place
                left = _split(target) + left
                continue
            place = found
        return place

    def children(self, place: Place) -> Iterator[Place]:
        """What is in a folder, in no order, and what is mounted there. Raises anything."""
        for name, node in place.node.children():
            if _sound(name):
                yield self._over(place, name, node)
        if place.volume < 0:
            for names, (node, volume) in self._mounts.items():
                if len(names) == 1 and not place.names:
                    yield Place(names, node, volume)

    def _child(self, place: Place, name: bytes) -> Place | None:
        mount = self._mounts.get((*place.names, name))
        if mount is not None:
            return Place((*place.names, name), *mount)
        if place.node.facts().kind is not FileKind.FOLDER:
            return None
        for each, node in place.node.children():
            if each == name:
                return self._over(place, name, node)
        return None

    def _over(self, place: Place, name: bytes, node: Node) -> Place:
        names = (*place.names, name)
        return Place(names, *self._mounts.get(names, (node, place.volume)))

    def _root(self) -> Place:
        return Place((), *self._mounts[()])

    def _named(self, names: Names) -> Place:
        """A place that was passed already."""
        place = self._root()
        for name in names:
            place = self._child(place, name) or place
        return place

    def _mount(self, where: Names, number: int, subfolder: Names) -> None:
        system = self.volumes[number].system
        node = _below(system.root, subfolder) if system is not None else None
        if node is not None:
            self._mounts[where] = (node, number)

    def _mount_as_the_guest(self, number: int, root: Names, table: list[tuple[str, Names, str]]) -> None:
        self._mount((), number, root)
        for what, where, options in table:
            volume = self._named_by(what)
            if volume is None and where and what.startswith(_DEVICES) and "noauto" not in options.split(","):
                self._absent[where] = f"the guest mounts {what[:200]} here, which is not among what can be read"
            elif volume is not None and where:
                wanted = re.search(r"(?:^|,)subvol=/?([^,]+)", options)
                self._mount(where, volume, tuple(_split(wanted[1].encode())) if wanted else ())

    def _named_by(self, what: str) -> int | None:
        """The volume that a line of fstab is about."""
        what = _BY.sub(lambda match: f"{match[1].upper()}=", what)
        kind, _, value = what.partition("=")
        value = value.strip('"')
        for number, volume in enumerate(self.volumes):
            if volume.system is None:
                continue
            device = re.sub(r"^/dev/(?:[shv]d|xvd)?", "", what)
            if "/" in device and not device.startswith(("mapper/", "md/")):
                device = "mapper/" + "-".join(part.replace("-", "--") for part in device.split("/"))
            if (
                (kind == "UUID" and value.replace("-", "").lower() == volume.system.uuid.replace("-", "").lower())
                or (kind == "LABEL" and value == volume.system.label)
                or (what.startswith("/dev/") and device == volume.device)
                or (volume.identity and what == f"/dev/disk/by-id/{volume.identity}")
            ):
                return number
        return None


class _Folder:
    """The one that holds all volumes where nothing says how they belong together."""

    key: Hashable = 0

    def facts(self) -> Facts:
        return Facts(FileKind.FOLDER)

    def children(self) -> Iterator[tuple[bytes, Node]]:
        return iter(())

    def target(self) -> bytes:
        raise AssertionError("a folder is no link")

    def data(self, start: int = 0) -> Iterator[tuple[int, bytes]]:
        raise AssertionError("a folder has no content")

    def attributes(self) -> Iterator[Attribute]:
        return iter(())


_BY = re.compile(r"^/dev/disk/by-(uuid|label)/")
_DEVICES = ("/dev/", "UUID=", "LABEL=", "PARTUUID=", "PARTLABEL=")
_LISTS = "`holdfast point ls` lists what is there"


def _why(volume: Volume) -> str:
    return f"{volume.name} ({volume.kind or 'unknown'}): {volume.note or 'it has no files'}"


def _mount_table(volume: Volume) -> tuple[Names, list[tuple[str, Names, str]]] | None:
    """Where the guest's root is in a volume, and the lines of its fstab; None if it is not there."""
    assert volume.system is not None  # noqa: S101 - asked of those with files only
    for names in _ROOTS:
        try:
            fstab = _below(volume.system.root, (*names, b"etc", b"fstab"))
            if fstab is None or fstab.facts().size > _MOST_FSTAB_BYTES:
                continue
            text = bytearray(fstab.facts().size)
            for offset, data in fstab.data():
                text[offset : offset + len(data)] = data
        except HoldfastError:
            raise
        except Exception:  # noqa: BLE001, S112 - a file system that cannot be read here is no root
            continue
        return names, list(_lines(text.decode("utf-8", "replace")))
    return None


def _lines(text: str) -> Iterator[tuple[str, Names, str]]:
    for line in text.splitlines():
        fields = line.split()
        if len(fields) >= 3 and not fields[0].startswith("#") and fields[1].startswith("/"):
            where = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[1])
            yield fields[0], tuple(_split(where.encode())), fields[3] if len(fields) > 3 else ""


def _below(node: Node, names: Names) -> Node | None:
    for name in names:
        if node.facts().kind is not FileKind.FOLDER:
            return None
        found = next((child for each, child in node.children() if each == name), None)
        if found is None:
            return None
        node = found
    return node


def _split(path: bytes) -> list[bytes]:
    return [name for name in path.split(b"/") if name not in (b"", b".")]


def _sound(name: bytes) -> bool:
    """No name that a file system may not have, and that would lead elsewhere."""
    return 0 < len(name) <= 255 and name not in (b".", b"..") and b"/" not in name and b"\0" not in name


def _shown(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")
