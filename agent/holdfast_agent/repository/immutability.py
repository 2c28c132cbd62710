"""The agent's side of files that not even the agent can remove: it asks the helper, which has the right and judges.

What is protected: the packs with everything that a point refers to, its retention, and last the point's own file; so
a point whose file is marked is protected whole.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import msgspec

from holdfast_agent.errors import (
    ImmutableUnavailable,
    ImmutableUnsupported,
    MalformedMessage,
    PointNotFound,
    RepositoryError,
    from_record,
)
from holdfast_agent.model.ids import BlockId, Sid
from holdfast_agent.model.strict import NOT_DECODED
from holdfast_agent.sealing.roots import read_point
from holdfast_agent.wire.immutability import LIMIT_BYTES, MOST_PACKS, Answer, Ask, Protect, Release

from . import layout
from .attributes import is_immutable
from .gc.marking import mark
from .repository import Repository

_TIMEOUT_S = 600.0  # twenty thousand files, each of them synced
_BATCH = 1024


class Immutability:
    """Asks the helper at ``socket_file`` for one repository at ``path`` (real). Empty socket: does nothing."""

    def __init__(self, socket_file: str, path: Path) -> None:
        self._socket_file = socket_file
        self._path = path

    def protect(self, repository: Repository, sid: Sid) -> None:
        """Protect a point until the time that its retention says; nothing to do if that is over. Idempotent.

        Reads the whole tree of the point. Raises :class:`ImmutableUnavailable`, :class:`ImmutableUnsupported`, what the
        helper answers, and what reading the tree raises.
        """
        if not self._socket_file or repository.retentions.of(sid).until <= repository.clock():
            return
        packs = sorted(_packs_of(repository, sid))
        for start in range(0, max(1, len(packs)), MOST_PACKS):
            batch = tuple(packs[start : start + MOST_PACKS])
            self._ask(Protect(str(self._path), sid, batch, last=start + MOST_PACKS >= len(packs)))

    def complete(self, repository: Repository) -> None:
        """Protect the points for which that was cut off. Called by the collector before anything else.

        Raises :class:`ImmutableUnavailable`.
        """
        if self._socket_file:
            for sid in repository.point_sids():
                if self._is_marked(sid):
                    continue
                try:
                    self.protect(repository, sid)
                except ImmutableUnavailable:
                    raise
                except RepositoryError:
                    continue  # fenced, damaged or not to be marked here: no reason to leave the others unprotected

    def release(self, packs: Sequence[str], dry_run: bool = False) -> list[str]:
        """Those of ``packs`` that may be removed now; the others stay marked, in a dry run all of them.

        Raises :class:`ImmutableUnavailable`.
        """
        if not self._socket_file:
            return list(packs)
        kept: set[str] = set()
        for start in range(0, len(packs), MOST_PACKS):
            with contextlib.suppress(ImmutableUnsupported):  # then nothing can be marked either
                batch = tuple(packs[start : start + MOST_PACKS])
                kept.update(self._ask(Release(str(self._path), batch, dry_run)).kept)
        return [pack for pack in packs if pack not in kept]

    def _is_marked(self, sid: Sid) -> bool:
        try:
            fd = os.open(self._path / layout.point_object(sid), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            return is_immutable(fd)
        except OSError:
            return False
        finally:
            os.close(fd)

    def _ask(self, request: Ask) -> Answer:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
                peer.settimeout(_TIMEOUT_S)
                peer.connect(self._socket_file)
                peer.sendall(msgspec.json.encode(request) + b"\n")
                with peer.makefile("rb") as said:
                    answer = decode_answer(said.readline(LIMIT_BYTES))
        except OSError as error:
            raise ImmutableUnavailable(socket=self._socket_file, reason=error.strerror or str(error)) from error
        if answer.error is not None:
            raise from_record(answer.error)
        return answer


def decode_answer(line: bytes) -> Answer:
    """Raises :class:`MalformedMessage`."""
    try:
        return msgspec.json.decode(line, type=Answer)
    except NOT_DECODED as error:
        raise MalformedMessage(peer="the helper for immutable files", reason=str(error)) from error


def _packs_of(repository: Repository, sid: Sid) -> set[str]:
    """The packs in which everything stands that a point refers to."""
    entry = repository.committed(sid)
    if entry is None:
        raise PointNotFound(point=sid)
    reader = repository.reader()
    packs: set[str] = set()
    with mark(reader, [read_point(entry)], repository.index.folder, lambda nodes: None) as ids:
        for batch in _batches(ids):
            packs.update(home.pack for home in reader.locate(batch) if home is not None)  # what is lost, is
    return packs


def _batches(ids: Iterable[bytes]) -> Iterator[list[BlockId]]:
    remaining = iter(ids)
    while batch := [BlockId(each) for each in islice(remaining, _BATCH)]:
        yield batch
