"""What the reader does: look through a tree of files, and tell what it was asked for. In the confined process."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator
from functools import partial

from holdfast_agent.errors import HoldfastError, UsageError
from holdfast_agent.wire.files import (
    MOST_ATTRIBUTE_BYTES,
    MOST_RESULT_BYTES,
    FetchFiles,
    FileEntry,
    FileKind,
    FilesWish,
    FindFiles,
    ListFiles,
    ListVolumes,
    SendFile,
    VolumeEntry,
)

from .attributes import Attribute, is_told
from .frames import Complete, Data, Ended, Found, Frame, Volumes, complaint
from .sources import Unreadable
from .systems.nodes import Facts
from .tree import Place, Tree

_MOST_PATH_BYTES = 4000

Send = Callable[[Frame], None]


def carry_out(wish: FilesWish, tree: Tree, send: Send) -> None:
    """Tell it all; the last frame too. Raises ``NotFound`` and errors of the disks."""
    match wish:
        case ListVolumes():
            send(Volumes(tuple(_entry_of_volume(tree, number) for number in range(len(tree.volumes)))))
            send(Ended())
        case ListFiles(path=path, after=after):
            place = tree.at(path)
            tell_doubts(tree, place, send, below=False)
            send(Ended(more=_list(place, tree, after, send)))
        case FindFiles(path=path, pattern=pattern):
            place = tree.at(path)
            tell_doubts(tree, place, send, below=True)
            send(Ended(more=_find(place, tree, pattern, send)))
        case FetchFiles(paths=paths):
            places = [tree.at(path) for path in paths]
            for place in places:
                tell_doubts(tree, place, send, below=True)
                _Fetch(tree, send, attributes=True).fetch(place)
            send(Ended())
        case SendFile(path=path):
            place = tree.at(path)
            if place.node.facts().kind is not FileKind.FILE:
                raise UsageError(reason=f"{path.decode('utf-8', 'backslashreplace')!r} is no file")
            _Fetch(tree, send, attributes=False).fetch(place)
            send(Ended())


def tell_doubts(tree: Tree, place: Place, send: Send, *, below: bool) -> None:
    """As :meth:`~.tree.Tree.doubts` has them."""
    for path, doubt in tree.doubts(place, below=below):
        send(complaint(path, doubt))


def _list(place: Place, tree: Tree, after: bytes, send: Send) -> bool:
    shelf = _Shelf(send, attributes=True)
    if place.node.facts().kind is not FileKind.FOLDER:
        return not shelf.put(place)
    inside = {child.names[-1]: child for child in _inside(place, tree, send)}
    return not all(shelf.put(inside[name]) for name in sorted(inside) if name > after)


def _find(place: Place, tree: Tree, pattern: bytes, send: Send) -> bool:
    shelf = _Shelf(send)
    found = _walk(place, tree, send)
    return not all(shelf.put(each) for each in found if each.names and fnmatch.fnmatchcase(each.names[-1], pattern))


class _Shelf:
    """An answer, as far as there is room."""

    def __init__(self, send: Send, *, attributes: bool = False) -> None:
        self._send = send
        self._attributes = attributes
        self._room = MOST_RESULT_BYTES

    def put(self, place: Place) -> bool:
        """False when there is no more room; what cannot be read takes none."""
        _guarded(place, partial(self._put, place), self._send)
        return self._room >= 0

    def _put(self, place: Place) -> None:
        attributes = attributes_of(place, self._send) if self._attributes else ()
        entry = entry_of(place, place.path, place.node.facts(), attributes)
        self._room -= entry.told_bytes
        if self._room >= 0:
            self._send(Found(entry))


def _walk(place: Place, tree: Tree, send: Send) -> Iterator[Place]:
    """A place and all below it, folders before what is in them, no folder twice."""
    seen: set[object] = set()
    left = [iter([place])]
    while left:
        following = next(left[-1], None)
        if following is None:
            left.pop()
            continue
        yield following
        if not _is_folder(following):
            continue
        if following.key in seen:
            send(complaint(following.path, "this folder was found in another place already"))
        elif len(following.path) > _MOST_PATH_BYTES:
            send(complaint(following.path, "its path is too long"))
        else:
            seen.add(following.key)
            left.append(iter(list(_inside(following, tree, send))))


def _is_folder(place: Place) -> bool:
    """What cannot be read is none; whoever looks at it tells that."""
    try:
        return place.node.facts().kind is FileKind.FOLDER
    except HoldfastError:
        raise
    except Exception:  # noqa: BLE001 - a library met something that it does not understand
        return False


def _inside(place: Place, tree: Tree, send: Send) -> Iterator[Place]:
    """What is in a folder, as far as it can be read."""
    try:
        yield from tree.children(place)
    except HoldfastError:
        raise
    except Exception as error:  # noqa: BLE001 - a library met something that it does not understand
        send(complaint(place.path, error))


def _guarded(place: Place, work: Callable[[], None], send: Send) -> bool:
    """Do it; what a library does not understand becomes a complaint. False then."""
    try:
        work()
    except (HoldfastError, OSError):
        raise
    except Exception as error:  # noqa: BLE001 - a library met something that it does not understand
        reason = error if isinstance(error, Unreadable) else f"it cannot be read: {error or type(error).__name__}"
        send(complaint(place.path, reason))
        return False
    return True


class _Fetch:
    """One path that was asked for, with all below it."""

    def __init__(self, tree: Tree, send: Send, *, attributes: bool) -> None:
        self._tree = tree
        self._send = send
        self._attributes = attributes
        self._names: dict[object, bytes] = {}  # of files with several: where the first one was told

    def fetch(self, top: Place) -> None:
        skip = max(0, len(top.names) - 1)
        for place in _walk(top, self._tree, self._send):
            names = place.names[skip:]
            if names:  # the root itself is the target
                _guarded(place, partial(self._one, place, b"/".join(names)), self._send)

    def _one(self, place: Place, path: bytes) -> None:
        facts = place.node.facts()
        same_as = self._names.get(place.key, b"") if facts.links > 1 and facts.kind is FileKind.FILE else b""
        # Before the file is told: a complaint behind it would be about its content.
        attributes = attributes_of(place, self._send) if self._attributes and not same_as else ()
        self._send(Found(entry_of(place, path, facts, attributes), same_as))
        if facts.kind is not FileKind.FILE or same_as:
            return
        for offset, data in place.node.data():
            self._send(Data(offset, data))
        self._send(Complete())
        if facts.links > 1:
            self._names[place.key] = path


def attributes_of(place: Place, send: Send) -> tuple[Attribute, ...]:
    """The extended attributes of a file, as far as they can be read; what cannot is told."""
    found: list[Attribute] = []
    room = MOST_ATTRIBUTE_BYTES
    try:
        for name, value in place.node.attributes():
            room -= len(name) + len(value)
            if room < 0:
                raise Unreadable("there are more than are read")
            if is_told(name):
                found.append((name, value))
    except HoldfastError:
        raise
    except Exception as error:  # noqa: BLE001 - a library met something that it does not understand
        send(complaint(place.path, f"its extended attributes: {error or type(error).__name__}"))
    return tuple(found)


def entry_of(place: Place, path: bytes, facts: Facts, attributes: tuple[Attribute, ...] = ()) -> FileEntry:
    """(The libraries' numbers are of types of their own, which do not travel.)"""
    return FileEntry(
        path=path,
        kind=facts.kind,
        size=int(facts.size) if facts.kind is FileKind.FILE else 0,
        mtime_ns=int(facts.mtime_ns),
        mode=int(facts.mode),
        uid=int(facts.uid),
        gid=int(facts.gid),
        target=place.node.target() if facts.kind is FileKind.LINK else b"",
        attributes=attributes,
    )


def _entry_of_volume(tree: Tree, number: int) -> VolumeEntry:
    volume = tree.volumes[number]
    system = volume.system
    return VolumeEntry(
        name=volume.name,
        kind=volume.kind,
        size_bytes=int(volume.size_bytes),
        label=_printable(system.label) if system else "",
        uuid=system.uuid if system else "",
        place=_printable(tree.mounted(number).decode("utf-8", "backslashreplace")),
        note=_printable(volume.doubt or volume.note),
    )


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in text)[:1000]
