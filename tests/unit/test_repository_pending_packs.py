"""Packs are written while they fill, and anew under a second name after an error; what is given up leaves nothing."""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from holdfast_agent.errors import RepositoryIoError
from holdfast_agent.model.ids import Sid, new_sid
from holdfast_agent.repository import layout
from holdfast_agent.repository.file_writing import Buffer
from holdfast_agent.repository.packs import PackContents, check_pack
from holdfast_agent.repository.pending_packs import PendingPack, room_bytes
from holdfast_agent.repository.store import FileStore
from holdfast_agent.repository.writer import SessionWriter
from holdfast_agent.sealing.buffers import forget_pages, new_pages
from holdfast_agent.sealing.records import Pieces, check_pieces
from lab import repositories as lab
from lab.faults import FaultySystem

ID = bytes.fromhex(lab.REPOSITORY_ID)
FIRST, SECOND = (layout.PackName(Sid("ab" * 16), 1, "d", seq) for seq in (7, 8))
PATIENCE_S = 60.0


class Watched(FaultySystem):
    """Tells when a write to a file has ended; ``fails``: the n-th one fails (from 1)."""

    def __init__(self, fails: int = 0) -> None:
        super().__init__(fails, self._fail, frozenset({"writev"}))
        self.wrote = threading.Event()

    def _fail(self, _kind: str) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def writev(self, fd: int, buffers: Sequence[Buffer], /) -> int:
        try:
            return super().writev(fd, buffers)
        finally:
            self.wrote.set()


def noise(size_bytes: int) -> list[Pieces]:
    """Records of blocks that no compression makes smaller."""
    source = random.Random(size_bytes)
    return [lab.seal(source.randbytes(lab.BLOCK)) for _ in range(size_bytes // lab.BLOCK)]


RECORDS = noise(10 << 20)


def files_in(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("failing", [0, 1, 2], ids=["no error", "an error at once", "an error later"])
def test_a_pack_is_written_while_it_fills_and_anew_under_a_second_name(tmp_path: Path, failing: int) -> None:
    lab.create(tmp_path / "repository")
    system = Watched(failing)
    store = FileStore(tmp_path / "repository", system)
    pack = PendingPack(FIRST, ID, 1_700_000_000, new_pages(16 << 20))

    def write() -> PackContents:
        try:
            return pack.write(store, FIRST)
        except RepositoryIoError:
            return pack.write(store, SECOND)

    with ThreadPoolExecutor(1) as thread:
        writing = thread.submit(write)
        for number, record in enumerate(RECORDS):
            pack.add(check_pieces(record), record)
            if number == len(RECORDS) // 2:
                assert system.wrote.wait(PATIENCE_S), "nothing is written before the pack is full"
        pack.seal()
        contents = writing.result(PATIENCE_S)
    assert system.faults == bool(failing)
    name = str(SECOND if failing else FIRST)
    check = check_pack(store, name, ID)
    assert (check.problem, check.bad, check.contents) == (None, (), contents)
    assert [entry.id for entry in contents.entries] == [check_pieces(record).id for record in RECORDS]
    assert files_in(tmp_path / "repository/packs") == [name]
    assert not files_in(tmp_path / "repository/tmp")


def test_records_are_copied(tmp_path: Path) -> None:
    lab.create(tmp_path / "repository")
    store = FileStore(tmp_path / "repository")
    pack = PendingPack(FIRST, ID, 0, new_pages(1 << 20))
    header, payload = RECORDS[0]
    used_again = bytearray(payload)
    pack.add(check_pieces((header, used_again)), (header, used_again))
    used_again[:] = bytes(len(used_again))
    pack.seal()
    entry = pack.write(store, FIRST).entries[0]
    assert store.read_range(layout.pack_object(str(FIRST)), entry.offset, entry.length) == header + bytes(payload)


def test_a_pack_takes_what_has_room_beside_its_table(tmp_path: Path) -> None:
    lab.create(tmp_path / "repository")
    header = check_pieces(RECORDS[0])
    room = new_pages(room_bytes(header.record_length))
    pack = PendingPack(FIRST, ID, 0, room)
    assert pack.takes(header.record_length) and not pack.takes(header.record_length + 1)
    pack.add(header, RECORDS[0])
    assert not pack.takes(0)
    pack.seal()
    assert pack.write(FileStore(tmp_path / "repository"), FIRST).size_bytes == len(room)


def test_a_writer_that_gives_up_leaves_no_file(tmp_path: Path) -> None:
    lab.create(tmp_path / "repository")
    system = Watched()
    repository = lab.open_at(tmp_path, system)
    lock = repository.begin_session(sid := new_sid())
    with SessionWriter(repository, sid, 1) as writer:
        system.wrote.clear()
        for record in RECORDS:
            writer.append(*record)
        assert system.wrote.wait(PATIENCE_S), "nothing is written before the pack is full"
        assert len(files_in(tmp_path / "repository/tmp")) == 1
    assert not files_in(tmp_path / "repository/tmp") and not files_in(tmp_path / "repository/packs")
    lock.close()
    repository.close()


def test_packs_that_follow_each_other_in_the_same_memory_are_whole(tmp_path: Path) -> None:
    lab.create(tmp_path / "repository")
    repository = lab.open_at(tmp_path)
    lock = repository.begin_session(sid := new_sid())
    with SessionWriter(repository, sid, 1, data_pack_bytes=1 << 20) as writer:
        for record in RECORDS:
            writer.append(*record)
        packs = writer.publish()
    checks = [check_pack(repository.store, pack.name, ID) for pack in packs]
    assert len(checks) > 10 and all((check.problem, check.bad) == (None, ()) for check in checks)
    stored = [entry.id for check in checks for entry in check.contents.entries]
    assert stored == [check_pieces(record).id for record in RECORDS]
    lock.close()
    repository.close()


def test_pages_that_are_forgotten_take_no_memory_and_are_zeros() -> None:
    pages = new_pages(8 << 20)
    pages[:] = b"x" * len(pages)
    forget_pages(pages[: 6 << 20], 4 << 20)
    assert bytes(pages[: 4 << 20]) == b"x" * (4 << 20)
    assert not any(pages[4 << 20 :])
