"""What there is in a share and what it is called: durable before anybody is told, and the same after every crash.

A file's content lies under its number, never under its name. Numbers are not given twice, so a client's handle means
one file for ever, whatever it is called and whenever the server was started.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from holdfast_agent.durable import replaced_file
from holdfast_agent.errors import UsageError
from holdfast_agent.model.strict import NOT_DECODED

from .protocol import MOST_NAME_BYTES, Kind, Refusal, Status

ROOT = 1
MOST_NODES = 1024
_FIRST = 16  # what is below is for "." and ".." where places in a folder are told
_VERSION = 1


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """``disk``: the name of the disk that a file is, "" for one of the client's own. ``changed_ns``: when a folder was
    changed last. ``verifier``: of the exclusive creation, hexadecimal."""

    number: int
    parent: int
    name: str
    kind: Kind
    mode: int
    changed_ns: int
    uid: int = 0
    gid: int = 0
    disk: str = ""
    verifier: str = ""


class _Stored(msgspec.Struct, frozen=True, kw_only=True):
    version: int
    next_number: int
    nodes: tuple[Node, ...]


class Names:
    """Not thread-safe. What changes it raises :class:`Refusal` or OSError, and then nothing has changed."""

    def __init__(self, path: Path) -> None:
        """Begin with nothing, or go on with what is there. Raises :class:`UsageError`, OSError."""
        self._path = path
        try:
            found = msgspec.json.decode(path.read_bytes(), type=_Stored)
        except FileNotFoundError:
            root = Node(number=ROOT, parent=ROOT, name="", kind=Kind.FOLDER, mode=0o777, changed_ns=time.time_ns())
            found = _Stored(version=_VERSION, next_number=_FIRST, nodes=(root,))
        except NOT_DECODED as error:
            raise UsageError(reason=f"{path} cannot be read: {error}") from error
        if found.version != _VERSION:
            raise UsageError(reason=f"{path} is of the version {found.version}, which this agent does not know")
        self._next = found.next_number
        self._nodes = {node.number: node for node in found.nodes}

    def node(self, number: int) -> Node:
        node = self._nodes.get(number)
        if node is None:
            raise Refusal(Status.STALE)
        return node

    def folder(self, number: int) -> Node:
        node = self.node(number)
        if node.kind is not Kind.FOLDER:
            raise Refusal(Status.NOTDIR)
        return node

    def child(self, parent: int, name: str) -> Node | None:
        return next((node for node in self.children(parent) if node.name == name), None)

    def children(self, parent: int) -> Iterator[Node]:
        """Ascending by number."""
        return (node for node in self._nodes.values() if node.parent == parent and node.number != ROOT)

    def files(self) -> Iterator[Node]:
        return (node for node in self._nodes.values() if node.kind is Kind.FILE)

    @property
    def room(self) -> int:
        """How many more there may be."""
        return MOST_NODES - len(self._nodes)

    def next_number(self) -> int:
        """Of the node that :meth:`add` is told of next."""
        return self._next

    def add(self, node: Node) -> None:
        """``node`` has the number of :meth:`next_number`, and its name is free."""
        if not self.room:
            raise Refusal(Status.NOSPC)
        self._store({**self._nodes, node.number: node}, node.number + 1, node.parent)

    def replace(self, node: Node) -> None:
        self._store({**self._nodes, node.number: node}, self._next)

    def remove(self, node: Node) -> None:
        left = {number: each for number, each in self._nodes.items() if number != node.number}
        self._store(left, self._next, node.parent)

    def move(self, node: Node, parent: int, name: str, over: Node | None) -> None:
        """``over``: has that name now, and goes."""
        at = self.folder(parent)
        while at.number != ROOT:
            if at.number == node.number:
                raise Refusal(Status.INVAL)  # into itself
            at = self._nodes[at.parent]
        moved = msgspec.structs.replace(node, parent=parent, name=name)
        nodes = {**self._nodes, node.number: moved}
        if over is not None:
            del nodes[over.number]
        self._store(nodes, self._next, node.parent, parent)

    def _store(self, nodes: dict[int, Node], next_number: int, *changed: int) -> None:
        """Durable when it returns. ``changed``: folders in which something is new or gone."""
        for number in changed:
            folder = nodes[number]
            now = max(time.time_ns(), folder.changed_ns + 1)
            nodes[number] = msgspec.structs.replace(folder, changed_ns=now)
        stored = _Stored(version=_VERSION, next_number=next_number, nodes=tuple(nodes.values()))
        with replaced_file(self._path) as file:
            file.write(msgspec.json.encode(stored))
        self._nodes, self._next = nodes, next_number


def name_of(data: memoryview) -> str:
    """A name that something may have. Raises :class:`Refusal`."""
    try:
        name = str(data, "utf-8")
    except UnicodeDecodeError as error:
        raise Refusal(Status.INVAL) from error
    if not name or "/" in name or "\0" in name:
        raise Refusal(Status.INVAL)
    if len(data) > MOST_NAME_BYTES:
        raise Refusal(Status.NAMETOOLONG)
    return name


def new_name_of(data: memoryview) -> str:
    """Likewise for something that is made or goes. Raises :class:`Refusal`."""
    name = name_of(data)
    if name in (".", ".."):
        raise Refusal(Status.INVAL)
    return name
