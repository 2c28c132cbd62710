"""The helper that sets and clears ``chattr +i`` for an agent without rights: ``holdfast-agent-immutable``.

It does nothing else, and believes its agent nothing: until when a file stays it reads from the retention in the
repository at the moment of protecting, writes it into a ledger that the agent cannot reach, and judges by that ledger
and its own trusted clock when it is asked to let go. A file is known by its name, which nobody can change while the
attribute is set, and which is never given twice.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sqlite3
import stat
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from holdfast_agent.errors import (
    HoldfastError,
    ImmutableUnsupported,
    MalformedMessage,
    NotAuthorised,
    ObjectMissing,
    RepositoryDenied,
    RepositoryIoError,
    UsageError,
)
from holdfast_agent.model.ids import Sid, parse_sid
from holdfast_agent.model.strict import NOT_DECODED
from holdfast_agent.repository import layout
from holdfast_agent.repository.attributes import AttributesUnsupported, is_immutable, set_immutable
from holdfast_agent.repository.retention import Retentions
from holdfast_agent.wire.immutability import LIMIT_BYTES, MOST_PACKS, Answer, Ask, Protect, Release

from .workers import guarded

_CREDENTIALS = struct.Struct("3i")
_PEER_TIMEOUT_S = 10.0
_STEP = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_SCHEMA = "CREATE TABLE IF NOT EXISTS held (name TEXT PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID"
_decoder: msgspec.json.Decoder[Ask] = msgspec.json.Decoder(Ask)


class Ledger:
    """Object name → Unix time until which it stays; only ever raised. Durable when a call returns."""

    def __init__(self, file: Path) -> None:
        self._database = sqlite3.connect(file, isolation_level=None)
        self._database.execute("PRAGMA synchronous = EXTRA")
        self._database.execute(_SCHEMA)

    def close(self) -> None:
        self._database.close()

    def hold(self, names: Sequence[str], until: float) -> None:
        query = "INSERT INTO held VALUES (?, ?) ON CONFLICT DO UPDATE SET until = max(until, excluded.until)"
        with self._transaction():
            self._database.executemany(query, ((name, until) for name in names))

    def until(self, name: str) -> float | None:
        """None: it was never protected here."""
        row = self._database.execute("SELECT until FROM held WHERE name = ?", (name,)).fetchone()
        return float(row[0]) if row else None

    def forget(self, names: Sequence[str]) -> None:
        with self._transaction():
            self._database.executemany("DELETE FROM held WHERE name = ?", ((name,) for name in names))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            self._database.execute("ROLLBACK")
            raise


class Tree:
    """The files of one repository, opened step by step so that no symbolic link leads out of the allowed roots."""

    def __init__(self, roots: Sequence[Path], repository: str) -> None:
        """Raises :class:`RepositoryDenied` for a path that is not plainly below one of ``roots``."""
        path = Path(repository)
        root = next((root for root in roots if path.is_relative_to(root)), None)
        if root is None or not path.is_absolute() or ".." in path.parts or "\0" in repository:
            raise RepositoryDenied(path=repository[:1024], reason="it lies outside the helper's directories")
        self._path = repository
        self._root = root
        self._steps = path.relative_to(root).parts

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[int]:
        """A descriptor of the object ``name`` for reading. Raises :class:`ObjectMissing`, storage errors."""
        try:
            fd = self._descend(name)
            try:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise RepositoryDenied(path=self._path, reason=f"{name} is no plain file")
                yield fd
            finally:
                os.close(fd)
        except FileNotFoundError:
            raise ObjectMissing(name=name) from None
        except AttributesUnsupported as error:
            raise ImmutableUnsupported(path=self._path) from error
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise RepositoryDenied(path=self._path, reason=f"a symbolic link leads to {name}") from error
            raise RepositoryIoError(operation="marking", name=name, reason=error.strerror or str(error)) from error

    def read(self, name: str, limit_bytes: int) -> bytes:
        """As a store's, for :class:`Retentions`."""
        with self.open(name) as fd:
            return os.read(fd, min(limit_bytes, LIMIT_BYTES))

    def _descend(self, name: str) -> int:
        """A folder's descriptor is closed once that of the next one is open, or cannot be had."""
        here = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for step in (*self._steps, *name.split("/")):
            try:
                following = os.open(step, _STEP, dir_fd=here)
            finally:
                os.close(here)
            here = following
        return here


class Helper:
    """Answers one request after the other. ``clock``: a trusted one, whose file the agent cannot write."""

    def __init__(self, roots: Sequence[Path], uid: int, ledger: Ledger, clock: Callable[[], float]) -> None:
        """``uid``: of the agent; nobody else is answered, root neither."""
        self._roots = roots
        self._uid = uid
        self._ledger = ledger
        self._clock = clock

    def serve(self, listening: socket.socket) -> None:
        """Answer until the process ends; a peer that stalls or breaks off harms nobody but itself."""
        while True:
            peer, _ = listening.accept()
            with contextlib.suppress(OSError), peer:
                peer.settimeout(_PEER_TIMEOUT_S)
                outcome = guarded("the immutable helper", lambda: self._answer(peer))  # noqa: B023 - called at once
                answer = Answer(error=outcome.to_record()) if isinstance(outcome, HoldfastError) else outcome
                peer.sendall(msgspec.json.encode(answer) + b"\n")

    def _answer(self, peer: socket.socket) -> Answer:
        line = _receive(peer)  # before anything is said, or a refusal would be lost in what still comes
        _, uid, _ = _CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        if uid != self._uid:
            raise NotAuthorised(peer=f"uid {uid}", reason="only the agent is answered here")
        return self.handle(line)

    def handle(self, line: bytes) -> Answer:
        """Do what ``line`` asks. Raises :class:`MalformedMessage` and what doing it raises."""
        try:
            request = _decoder.decode(line)
        except NOT_DECODED as error:
            raise MalformedMessage(peer="the agent", reason=str(error)) from error
        if len(request.packs) > MOST_PACKS:
            raise UsageError(reason=f"at most {MOST_PACKS} packs are named at once")
        tree = Tree(self._roots, request.repository)
        packs = [layout.pack_object(name) for name in request.packs]
        if isinstance(request, Protect):
            return self._protect(tree, parse_sid(request.sid), packs, request.last)
        return self._release(tree, request, packs)

    def _protect(self, tree: Tree, sid: Sid, packs: list[str], last: bool) -> Answer:
        """First the ledger, then the attribute: what is marked is known, whatever comes between."""
        until = Retentions(tree).of(sid).until  # type: ignore[arg-type]  # all that it wants of a store
        if until <= self._clock():
            raise UsageError(reason=f"nothing says that the point {sid} must be kept")
        retention = list(_retention_objects(tree, sid))
        names = [*packs, *retention, *([layout.point_object(sid)] if last else [])]
        self._ledger.hold(names, until)
        for name in names:
            with tree.open(name) as fd:
                if set_immutable(fd, True):
                    os.fsync(fd)
        return Answer(until=until)

    def _release(self, tree: Tree, request: Release, packs: list[str]) -> Answer:
        now = self._clock()
        free: list[str] = []
        kept: list[str] = []
        for pack, name in zip(request.packs, packs, strict=True):
            until = self._ledger.until(name)
            with contextlib.suppress(ObjectMissing), tree.open(name) as fd:
                if not is_immutable(fd):
                    continue
                if until is None or until > now:  # None: somebody else marked it
                    kept.append(pack)
                elif not request.dry_run:
                    set_immutable(fd, False)
                    free.append(name)
        self._ledger.forget(free)
        return Answer(kept=tuple(kept))


def _retention_objects(tree: Tree, sid: Sid) -> Iterator[str]:
    number = 1
    with contextlib.suppress(ObjectMissing):
        while True:
            name = f"{layout.RETENTION}/{sid}-{number}"
            with tree.open(name):
                yield name
            number += 1


def _receive(peer: socket.socket) -> bytes:
    data = bytearray()
    while not data.endswith(b"\n"):
        try:
            more = peer.recv(1 << 16)
        except OSError as error:
            raise MalformedMessage(peer="the agent", reason=error.strerror or str(error)) from error
        if not more or len(data) + len(more) > LIMIT_BYTES:
            raise MalformedMessage(peer="the agent", reason="a request that does not end, or is too long")
        data += more
    return bytes(data)
