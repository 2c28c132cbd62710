"""Compaction: the live records of sparse packs are copied, sealed as they are, by a session like any other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby

from holdfast_agent.errors import FormatUnsupported, ObjectDamaged, ObjectMissing, RepositoryFull
from holdfast_agent.model.ids import BlockId, new_sid
from holdfast_agent.sealing.keys import repository_id_bytes

from ..index import Location
from ..packs import read_contents
from ..readers import read_home
from ..repository import Repository
from ..writer import SessionWriter
from .census import Census
from .choosing import Choice

_MARGIN_BYTES = 256 << 20  # of free space that compaction leaves to others
_MARGIN_PART = 16  # at most this part of a small disk
_UNREADABLE = (ObjectDamaged, ObjectMissing, FormatUnsupported)


def compact(
    repository: Repository, census: Census, choice: Choice, step: Callable[[int], None]
) -> tuple[list[int], int]:
    """Copy what sparse packs alone hold; (numbers of the packs that are empty by now, bytes copied).

    The session leaves no point and so ends FENCED; its packs stay, whole and published, and the next marking finds the
    records there. A record that cannot be read stays where it is, and its pack too. Where space is short the emptiest
    packs come first; a disk that is full all the same only ends the copying. ``step`` is told of bytes copied.
    """
    total, free = repository.space()
    wanted = _affordable(choice.sparse, free - min(_MARGIN_BYTES, total // _MARGIN_PART))
    if not wanted:
        return [], 0
    sid = new_sid()
    lock = repository.begin_session(sid)
    try:
        try:
            with SessionWriter(repository, sid, 0) as writer:
                emptied, copied = _copy(repository, writer, census, choice, wanted, step)
                writer.publish()
        except RepositoryFull:
            emptied, copied = [], 0
        repository.abort(sid)
        return emptied, copied
    finally:
        lock.close()


def _affordable(sparse: dict[int, int], space_bytes: int) -> set[int]:
    wanted: set[int] = set()
    for pack, live_bytes in sorted(sparse.items(), key=lambda item: item[1]):
        space_bytes -= live_bytes
        if space_bytes < 0:
            break
        wanted.add(pack)
    return wanted


def _copy(
    repository: Repository, writer: SessionWriter, census: Census, choice: Choice, wanted: set[int],
    step: Callable[[int], None],
) -> tuple[list[int], int]:  # fmt: skip
    emptied: list[int] = []
    copied = 0
    for number, group in groupby(choice.moving, key=lambda row: int.from_bytes(row[:4], "big")):
        if number not in wanted:
            continue
        ids = {BlockId(row[4:]) for row in group}
        try:
            for record in _records(repository, census.names[number], ids):
                writer.append(record)
                copied += len(record)
                step(len(record))
        except _UNREADABLE:
            continue
        if not ids:
            emptied.append(number)
    return emptied, copied


def _records(repository: Repository, name: str, ids: set[BlockId]) -> Iterator[bytes]:
    """The records of a pack named by ``ids``, in the order of the pack; takes each out of ``ids`` once it is read."""
    contents = read_contents(repository.store, name, repository_id_bytes(repository.repository_id))
    for entry in contents.entries:
        if entry.id in ids:
            home = Location(name, entry.offset, entry.length, entry.kind)
            yield read_home(repository.store, entry.id, home)
            ids.remove(entry.id)
