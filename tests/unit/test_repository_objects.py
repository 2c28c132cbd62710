"""Every object of the format: golden bytes, every flipped byte, cuts, swaps, and lengths that lie."""

from __future__ import annotations

import errno
import os
import random
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from holdfast_agent.errors import FormatUnsupported, ObjectDamaged, ObjectMissing, RepositoryError
from holdfast_agent.model.ids import Sid
from holdfast_agent.repository import layout
from holdfast_agent.repository.documents import DocumentType, decode_document, encode_document
from holdfast_agent.repository.file_writing import System
from holdfast_agent.repository.packs import (
    PACK_HEADER_BYTES,
    PackContents,
    check_pack,
    read_contents,
    scan_contents,
)
from holdfast_agent.repository.pending_packs import PendingPack
from holdfast_agent.repository.segments import decode_segment, encode_segment
from holdfast_agent.repository.store import FileStore, ObjectExists
from holdfast_agent.sealing.records import RecordKind, parse_header, plain_record
from holdfast_agent.sealing.tree import encode_node
from lab import repositories as lab
from lab.contents import assert_same
from lab.faults import FaultySystem

ID = bytes.fromhex(lab.REPOSITORY_ID)
NAME = layout.PackName(Sid("ab" * 16), 1, "d", 7)


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    lab.create(tmp_path / "repository")
    return FileStore(tmp_path / "repository")


def pending(name: layout.PackName = NAME, count: int = 3) -> PendingPack:
    pack = PendingPack(name, ID, 1_700_000_000, memoryview(bytearray(4096)))
    for number in range(count):
        node_id, data = encode_node(0, 16, bytes([number + 1]) * 32)
        record = plain_record(RecordKind.NODE, data, node_id)
        pack.add(parse_header(record[0]), record)
    pack.seal()
    return pack


@pytest.fixture
def contents(store: FileStore) -> PackContents:
    return pending().write(store, NAME)


def path_of(tmp_path: Path, name: layout.PackName = NAME) -> Path:
    return tmp_path / "repository" / layout.pack_object(str(name))


def alterations(data: bytes) -> Iterator[bytes]:
    for position in range(len(data)):
        altered = bytearray(data)
        altered[position] ^= 1 << position % 8
        yield bytes(altered)
    for length in (0, 1, len(data) // 2, len(data) - 1):
        yield data[:length]
    yield data + b"\0"


# --- documents ----------------------------------------------------------------------------------------------------


def test_documents_round_trip_and_every_alteration_is_found() -> None:
    data = encode_document("points/a", DocumentType.POINT, b'{"x":1}', b"m" * 32)
    assert decode_document("points/a", data) == (DocumentType.POINT, b'{"x":1}', b"m" * 32)
    for altered in alterations(data):
        with pytest.raises(ObjectDamaged):
            decode_document("points/a", altered)


def test_a_document_under_another_name_is_found() -> None:
    data = encode_document("points/a", DocumentType.POINT, b"{}")
    with pytest.raises(ObjectDamaged):
        decode_document("points/b", data)


def test_golden_bytes_of_a_document() -> None:
    assert encode_document("points/a", DocumentType.FENCED, b"{}").hex() == (
        "484644430103000002000000000000007b7d9ece3c49af864e8ab680d93a343acef13154da6618b086245526e7de8b054f7a"
    )


# --- packs --------------------------------------------------------------------------------------------------------


def test_golden_bytes_of_a_pack(contents: PackContents, tmp_path: Path) -> None:
    data = path_of(tmp_path).read_bytes()
    assert data[:PACK_HEADER_BYTES].hex() == (
        "4846504b0164000000112233445566778899aabbccddeeffabababababababababababababababab0100000007000000"
        "00f15365000000000000000065350d41"
    )
    assert data[-64:].hex() == (
        "4846465401000000f00100000000000003000000a872785afdcd87b5a31fcc214929ad2564b7ac5168f2baadfa9c971e"
        "a423eee43dd0871b00000000954f0cf1"
    )


def test_contents_are_read_from_the_footer_and_found_by_scanning(store: FileStore, contents: PackContents) -> None:
    assert read_contents(store, str(NAME), ID) == contents
    assert scan_contents(store, str(NAME)).entries == contents.entries
    check = check_pack(store, str(NAME), ID)
    assert (check.problem, check.bad) == (None, ())


def test_every_alteration_of_a_pack_is_found_without_keys(
    store: FileStore, contents: PackContents, tmp_path: Path
) -> None:
    path = path_of(tmp_path)
    good = path.read_bytes()
    for altered in alterations(good):
        path.write_bytes(altered)
        check = check_pack(store, str(NAME), ID)
        assert check.problem or check.bad


def test_records_before_a_cut_are_still_found(store: FileStore, contents: PackContents, tmp_path: Path) -> None:
    path = path_of(tmp_path)
    good = path.read_bytes()
    path.write_bytes(good[: contents.entries[2].offset + 10])
    assert scan_contents(store, str(NAME)).entries == contents.entries[:2]
    torn = bytearray(good)
    torn[contents.entries[1].offset + 100] ^= 1
    path.write_bytes(torn[:-10])
    assert scan_contents(store, str(NAME)).entries == (contents.entries[0], contents.entries[2])


def test_swapped_packs_and_those_of_another_repository_are_found(
    store: FileStore, contents: PackContents, tmp_path: Path
) -> None:
    other = layout.PackName(NAME.sid, 1, "d", 8)
    path_of(tmp_path, other).write_bytes(path_of(tmp_path).read_bytes())
    with pytest.raises(ObjectDamaged, match="another pack"):
        read_contents(store, str(other), ID)
    with pytest.raises(ObjectDamaged, match="another repository"):
        read_contents(store, str(NAME), bytes(16))


def with_footer(data: bytes, edit: Callable[[bytearray], None]) -> bytes:
    """The pack with an edited footer and its CRC put right."""
    footer = bytearray(data[-64:])
    edit(footer)
    footer[60:] = zlib.crc32(footer[:60]).to_bytes(4, "little")
    return data[:-64] + bytes(footer)


def with_header(data: bytes, position: int, value: int) -> bytes:
    header = bytearray(data[:64])
    header[position] = value
    header[60:] = zlib.crc32(header[:60]).to_bytes(4, "little")
    return bytes(header) + data[64:]


def test_lengths_that_lie_do_not_allocate(store: FileStore, contents: PackContents, tmp_path: Path) -> None:
    path = path_of(tmp_path)
    good = path.read_bytes()

    def count(footer: bytearray) -> None:
        footer[16:20] = b"\xff\xff\xff\x0f"

    def offset(footer: bytearray) -> None:
        footer[8:16] = b"\xff" * 8

    tracemalloc.start()
    for edit in (count, offset):
        path.write_bytes(with_footer(good, edit))
        with pytest.raises(ObjectDamaged):
            read_contents(store, str(NAME), ID)
        assert check_pack(store, str(NAME), ID).problem
    assert_same(store.read_range(layout.pack_object(str(NAME)), 0, 1 << 62), path.read_bytes())
    assert store.read_range(layout.pack_object(str(NAME)), 1 << 40, 1 << 40) == b""
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_packs_of_a_later_version_are_told_apart_from_damage(
    store: FileStore, contents: PackContents, tmp_path: Path
) -> None:
    path = path_of(tmp_path)
    good = path.read_bytes()

    def version(footer: bytearray) -> None:
        footer[4] = 2

    for later in (with_header(good, 4, 2), with_header(good, 56, 1), with_footer(good, version)):
        path.write_bytes(later)
        with pytest.raises(FormatUnsupported):
            read_contents(store, str(NAME), ID)


@pytest.mark.parametrize(
    "name",
    ["", "x", "ab" * 16, f"{'ab' * 16}-1-x1", f"{'AB' * 16}-1-d1", f"{'ab' * 16}-01-d1", f"{'ab' * 16}-1-d01",
     f"../{'ab' * 16}-1-d1", f"{'ab' * 16}-1-d1\n", f"{'ab' * 16}-1-d9999999999"],
)  # fmt: skip
def test_only_names_of_packs_are_taken_for_such(name: str) -> None:
    with pytest.raises(ObjectDamaged):
        layout.pack_object(name)


# --- segments -----------------------------------------------------------------------------------------------------


def test_segments_round_trip_and_every_alteration_is_found(store: FileStore, contents: PackContents) -> None:
    name = layout.PackName(NAME.sid, 1, "m", 8)
    second = pending(name, 1).write(store, name)
    name = layout.segment_object(NAME.sid, 1, 1)
    data = encode_segment(name, ID, (contents, second))
    decoded = decode_segment(name, data, ID)
    assert [pack.name for pack in decoded.packs] == [contents.name, second.name]
    for before, after in zip((contents, second), decoded.packs, strict=True):
        assert sorted(before.entries, key=lambda e: e.id) == list(after.entries)
        assert (before.size_bytes, before.digest) == (after.size_bytes, after.digest)
    for altered in alterations(data):
        with pytest.raises((ObjectDamaged, FormatUnsupported)):
            decode_segment(name, altered, ID)
    with pytest.raises(ObjectDamaged):
        decode_segment(layout.segment_object(NAME.sid, 1, 2), data, ID)
    with pytest.raises(ObjectDamaged, match="another repository"):
        decode_segment(name, data, bytes(16))


# --- store --------------------------------------------------------------------------------------------------------


def test_a_name_is_given_once(store: FileStore) -> None:
    store.create("points/a", [b"one"])
    with pytest.raises(ObjectExists):
        store.create("points/a", [b"two"])
    assert store.read("points/a", 10) == b"one"
    assert list(store.names("tmp")) == []


def test_names_that_begin_with_a_dot_are_no_objects(store: FileStore, tmp_path: Path) -> None:
    (tmp_path / "repository" / "points" / ".nfs00000000000000a1").write_bytes(b"removed while it was open")
    store.create("points/a", [b"one"])
    assert list(store.names("points")) == ["points/a"]


def test_what_is_absent_or_too_large_is_told(store: FileStore) -> None:
    for call in (
        lambda: store.read("points/a", 1),
        lambda: store.size("points/a"),
        lambda: list(store.names("absent")),
    ):
        with pytest.raises(ObjectMissing):
            call()
    store.create("points/a", [b"12345"])
    with pytest.raises(RepositoryError, match="larger than 4"):
        store.read("points/a", 4)
    store.remove("points/a")
    store.remove("points/a")


def test_pieces_of_all_sizes_are_written_in_order(store: FileStore) -> None:
    pieces = [bytes([number % 251]) * (number * 37 % 5000) for number in range(2000)]
    store.create("points/a", [memoryview(piece) for piece in pieces])
    assert store.read("points/a", 1 << 30) == b"".join(pieces)


class Awkward:
    """A system on which O_DIRECT stops working: with EINVAL, or with a short write, at the second large write."""

    def __init__(self, how: str) -> None:
        self._how = how
        self.large = 0

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)

    def writev(self, fd: int, buffers: list[memoryview]) -> int:
        if len(buffers[0]) >= 2 << 20:
            self.large += 1
            if self.large == 2 and self._how == "refused":
                raise OSError(errno.EINVAL, "alignment")
            if self.large == 2 and self._how == "short":
                return os.writev(fd, [buffers[0][:4096]])
        return os.writev(fd, buffers)


@pytest.mark.parametrize("how", ["fine", "refused", "short"])
@pytest.mark.parametrize("last", [0, 1, 4095, 4096, 70_001])
def test_large_objects_are_written_whole_past_the_page_cache_or_not(
    tmp_path: Path, store: FileStore, how: str, last: int
) -> None:
    source = random.Random(5)
    pieces = [source.randbytes(length) for length in (64, 96, 500_001, 3 << 20, 2 << 20, 1, 777_777, last)]
    system = Awkward(how)
    FileStore(tmp_path / "repository", cast(System, system)).create("points/large", pieces)
    assert store.read("points/large", 1 << 30) == b"".join(pieces)
    assert system.large >= 2


def test_leftovers_that_two_remove_at_the_same_time_are_gone(tmp_path: Path, store: FileStore) -> None:
    """Both have found one that nobody holds; the other was quicker."""
    tmp = tmp_path / "repository" / "tmp"
    for name in ("left", "behind"):
        (tmp / name).write_bytes(b"half")
    quicker = FaultySystem(1, lambda _kind: (tmp / "left").unlink() or (tmp / "behind").unlink(), frozenset({"unlink"}))
    assert FileStore(tmp_path / "repository", quicker).remove_leftovers() == 0
    assert (quicker.faults, list(tmp.iterdir())) == (1, [])
    assert store.remove_leftovers() == 0


def test_a_lock_shows_whether_its_holder_lives(store: FileStore) -> None:
    lock = store.create_locked("sessions/a", [b"x"])
    assert store.try_lock("sessions/a") is None
    lock.close()
    taken = store.try_lock("sessions/a")
    assert taken is not None
    assert store.try_lock("sessions/a") is None
    taken.close()


def test_what_is_removed_on_nfs_while_it_is_read_is_missing_and_what_was_replaced_is_read(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There a handle is stale once the file is gone; only opening it anew tells whether another has its name."""
    store.create("index/one", [b"whole"])
    store.create("index/two", [b"gone"])
    honest = os.pread
    stale: list[int] = []

    def pread(fd: int, length: int, offset: int) -> bytes:
        name = Path(f"/proc/self/fd/{fd}").readlink().name
        if not stale or name == "two":
            stale.append(fd)
            if name == "two":
                store.remove("index/two")
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return honest(fd, length, offset)

    monkeypatch.setattr(os, "pread", pread)
    assert store.read("index/one", 100) == b"whole"
    with pytest.raises(ObjectMissing):
        store.read("index/two", 100)
    assert len(stale) == 2
