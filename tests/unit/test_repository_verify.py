"""Verification finds every damage in the table, says whom it touches, and never raises because of it."""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from holdfast_agent.errors import Cancelled, HoldfastError, PointNotAuthentic
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.ids import Sid, new_sid
from holdfast_agent.model.points import Point
from holdfast_agent.repository.verify import VerifyReport, verify
from holdfast_agent.repository.writer import SessionWriter
from holdfast_agent.sealing.keys import MasterKey, RepositoryKeys
from holdfast_agent.sealing.records import HEADER_BYTES
from lab import repositories as lab
from lab.contents import assert_same

GEOMETRY = Geometry(600 * lab.BLOCK, lab.LOG2)
FULL = {number: lab.block(number) for number in (0, 1, 300, 599)}
CHANGE = {1: lab.block("changed")}


class Stock:
    """A repository with two points: ``first`` holds ``FULL``, ``second`` changed one block on top of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        lab.create(folder / "repository")
        self.repository = lab.open_at(folder)
        self.first = lab.backup(self.repository, FULL, GEOMETRY)
        self.second = lab.backup(self.repository, CHANGE, GEOMETRY, self.first)

    def pack_of(self, plain: bytes) -> tuple[Path, int, int]:
        """(path, offset, length) of the record of a block."""
        (home,) = self.repository.index.find([lab.block_id(plain)])[lab.block_id(plain)]
        (path,) = (self.folder / "repository" / "packs").rglob(home.pack)
        return path, home.offset, home.length

    def meta_packs(self, point: Point) -> list[Path]:
        return sorted((self.folder / "repository" / "packs" / "m").rglob(f"{point.sid}-1-*"))

    def file(self, name: str) -> Path:
        return self.folder / "repository" / name


@pytest.fixture
def stock(tmp_path: Path) -> Iterator[Stock]:
    made = Stock(tmp_path)
    yield made
    made.repository.close()


def points_of(report: VerifyReport) -> set[Sid]:
    return {sid for finding in report.findings for sid in finding.points}


@pytest.mark.parametrize("level", [0, 1, 2])
def test_nothing_is_found_where_nothing_is_wrong(stock: Stock, level: int) -> None:
    seen: list[tuple[int, int]] = []
    report = verify(stock.repository, level, keys=lab.KEYS, on_progress=lambda done, of: seen.append((done, of)))
    assert report.ok
    assert report.objects_checked > 5
    assert (report.checked_bytes > 0) == bool(seen) == (level > 0)
    assert all(done <= of for done, of in seen)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def shared_record(stock: Stock) -> None:
    path, offset, length = stock.pack_of(FULL[0])
    lab.flip(path, offset + length - 5)


def header_of_shared_record(stock: Stock) -> None:
    path, offset, _ = stock.pack_of(FULL[0])
    lab.flip(path, offset + 30)


def record_of_first_alone(stock: Stock) -> None:
    path, offset, _ = stock.pack_of(FULL[1])
    lab.flip(path, offset + HEADER_BYTES)


def record_of_second_alone(stock: Stock) -> None:
    path, offset, _ = stock.pack_of(CHANGE[1])
    lab.flip(path, offset + HEADER_BYTES)


def data_pack_gone(stock: Stock) -> None:
    stock.pack_of(FULL[0])[0].unlink()


def data_pack_cut(stock: Stock) -> None:
    cut(stock.pack_of(FULL[0])[0])


def nodes_of_second_gone(stock: Stock) -> None:
    for path in stock.meta_packs(stock.second):
        path.unlink()


def nodes_of_first_flipped(stock: Stock) -> None:
    for path in stock.meta_packs(stock.first):
        for position in range(64 + HEADER_BYTES + 20, path.stat().st_size - 64, 100):
            lab.flip(path, position)


def footer(stock: Stock) -> None:
    path = stock.pack_of(FULL[0])[0]
    lab.flip(path, path.stat().st_size - 10)


def table_of_contents(stock: Stock) -> None:
    path = stock.pack_of(FULL[0])[0]
    lab.flip(path, path.stat().st_size - 64 - 20)


def pack_header(stock: Stock) -> None:
    lab.flip(stock.pack_of(FULL[0])[0], 10)


def segment(stock: Stock) -> None:
    lab.flip(sorted(stock.file("index").iterdir())[0], 100)


def point(stock: Stock) -> None:
    lab.flip(stock.file(f"points/{stock.second.sid}"), 60)


def point_cut(stock: Stock) -> None:
    cut(stock.file(f"points/{stock.second.sid}"))


def point_swapped(stock: Stock) -> None:
    stock.file(f"points/{stock.second.sid}").write_bytes(stock.file(f"points/{stock.first.sid}").read_bytes())


def key_slot(stock: Stock) -> None:
    lab.flip(stock.file("keys/first"), 20)


def collectors_log(stock: Stock) -> None:
    stock.file("gc/1.condemned").write_bytes(b"x")


BOTH, FIRST, SECOND, NONE = "both", "first", "second", "none"

# damage, the lowest level that must find it, kind of the finding, points that it touches, whether data is lost
TABLE = [
    (shared_record, 1, "record", BOTH, True),
    (header_of_shared_record, 1, "record", BOTH, True),
    (record_of_first_alone, 1, "record", FIRST, True),
    (record_of_second_alone, 1, "record", SECOND, True),
    (data_pack_gone, 0, "pack", BOTH, True),
    (data_pack_cut, 0, "pack", BOTH, True),
    (nodes_of_second_gone, 0, "pack", SECOND, True),
    (nodes_of_first_flipped, 0, "node", BOTH, True),
    (footer, 1, "pack", NONE, False),
    (table_of_contents, 1, "pack", NONE, False),
    (pack_header, 1, "pack", NONE, False),
    (segment, 0, "segment", NONE, False),
    (point, 0, "point", SECOND, True),
    (point_cut, 0, "point", SECOND, True),
    (point_swapped, 0, "point", SECOND, True),
    (key_slot, 0, "key slot", NONE, False),
    (collectors_log, 0, "log", NONE, False),
]


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize(
    ("damage", "lowest", "kind", "touched", "lost"), TABLE, ids=lambda v: getattr(v, "__name__", "")
)
def test_damage_is_found_and_attributed(
    stock: Stock, damage: Callable[[Stock], None], lowest: int, kind: str, touched: str, lost: bool, level: int
) -> None:
    damage(stock)
    report = verify(stock.repository, level, keys=lab.KEYS)
    if level < lowest:
        return
    assert report.findings, "the checker is broken"
    kinds = {finding.kind for finding in report.findings}
    assert kind in kinds or (level > 0 and kind == "node" and "record" in kinds)
    sids = {
        BOTH: {stock.first.sid, stock.second.sid},
        FIRST: {stock.first.sid},
        SECOND: {stock.second.sid},
        NONE: set(),
    }
    assert points_of(report) == sids[touched]
    assert any(finding.lost for finding in report.findings) == lost
    for made, contents in ((stock.first, FULL), (stock.second, {**FULL, **CHANGE})):
        if lost and made.sid in sids[touched]:
            with pytest.raises(HoldfastError):
                lab.restore(stock.repository, stock.repository.point(made.sid))
        else:
            assert_same(lab.restore(stock.repository, made), contents)


def test_a_record_with_another_good_home_is_not_lost(stock: Stock) -> None:
    sid = new_sid()
    lock = stock.repository.begin_session(sid)
    path, offset, _ = stock.pack_of(FULL[0])
    with SessionWriter(stock.repository, sid, 1) as writer:
        writer.append(*lab.seal(FULL[0]))
        writer.publish()
    lock.close()
    lab.flip(path, offset + HEADER_BYTES)
    for level in (1, 2):
        (finding,) = verify(stock.repository, level, keys=lab.KEYS).findings
        assert not finding.lost
        assert set(finding.points) == {stock.first.sid, stock.second.sid}
    assert lab.restore(stock.repository, stock.first) == FULL


def test_a_forged_point_is_found_with_keys_alone(stock: Stock) -> None:
    other = RepositoryKeys.derive(MasterKey.generate(), lab.REPOSITORY_ID)
    assert verify(stock.repository, 0).ok
    report = verify(stock.repository, 0, keys=other)
    assert {finding.kind for finding in report.findings} == {"point"}
    assert points_of(report) == {stock.first.sid, stock.second.sid}
    assert PointNotAuthentic.message.split("{point}")[1].strip() in report.findings[0].detail


def test_a_record_that_lies_about_its_content_is_found_at_level_2_alone(stock: Stock) -> None:
    """What a hostile repository host can do: a well-formed record with another record's payload."""
    path, offset, length = stock.pack_of(FULL[0])
    lie = bytearray(path.read_bytes())
    lie[offset + HEADER_BYTES] ^= 1
    _mend(lie, offset, length)
    path.write_bytes(lie)
    for level, found in ((0, False), (2, True)):
        report = verify(stock.repository, level, keys=lab.KEYS)
        assert any(finding.lost for finding in report.findings) == found


def _mend(data: bytearray, offset: int, length: int) -> None:
    data[offset + 88 : offset + 92] = zlib.crc32(data[offset + HEADER_BYTES : offset + length]).to_bytes(4, "little")
    data[offset + 92 : offset + 96] = zlib.crc32(data[offset : offset + 92]).to_bytes(4, "little")


@pytest.mark.parametrize("whole", [True, False], ids=["records", "payloads"])
def test_records_that_changed_places_are_found_and_never_taken_for_each_other(stock: Stock, whole: bool) -> None:
    """Two records of one length in one pack: as they are, or each under the other's header with its CRCs put right."""
    path, one, length = stock.pack_of(FULL[0])
    _, other, same = stock.pack_of(FULL[300])
    assert length == same
    data = path.read_bytes()
    swapped = bytearray(data)
    skip = 0 if whole else HEADER_BYTES
    for here, there in ((one, other), (other, one)):
        swapped[here + skip : here + length] = data[there + skip : there + length]
        _mend(swapped, here, length)
    path.write_bytes(swapped)
    for level in (1, 2) if whole else (2,):
        report = verify(stock.repository, level, keys=lab.KEYS)
        assert points_of(report) == {stock.first.sid, stock.second.sid}
        assert all(finding.lost for finding in report.findings if finding.kind == "record")
    for made in (stock.first, stock.second):
        with pytest.raises(HoldfastError):
            lab.restore(stock.repository, made)


def test_chosen_points_only(stock: Stock) -> None:
    record_of_first_alone(stock)
    assert points_of(verify(stock.repository, 2, [stock.second.sid], keys=lab.KEYS)) == set()
    assert verify(stock.repository, 0, []).ok


def test_verification_can_be_stopped_and_bad_levels_are_refused(stock: Stock) -> None:
    with pytest.raises(Cancelled):
        verify(stock.repository, 1, cancel=lambda: True)
    for level, keys in ((3, lab.KEYS), (-1, lab.KEYS), (2, None)):
        with pytest.raises(ValueError, match="levels"):
            verify(stock.repository, level, keys=keys)


def test_an_index_that_hides_a_loss_does_not_deceive(stock: Stock, tmp_path: Path) -> None:
    lab.restore(stock.repository, stock.first)
    for path in stock.file("index").iterdir():
        path.unlink()
    data_pack_gone(stock)
    assert any(finding.lost for finding in verify(stock.repository, 0).findings)


def test_nothing_is_left_in_the_cache_not_even_by_a_run_that_was_killed(stock: Stock) -> None:
    cache = stock.folder / "cache" / lab.REPOSITORY_ID
    before = sorted(cache.iterdir())
    gone = os.fork()
    if gone == 0:
        os._exit(0)
    os.waitpid(gone, 0)
    (cache / f"verify-{gone}-left").mkdir()
    (cache / f"verify-{os.getpid()}-other").mkdir()  # of a run that lives
    assert verify(stock.repository, 0).ok
    assert sorted(cache.iterdir()) == sorted([*before, cache / f"verify-{os.getpid()}-other"])


@pytest.mark.parametrize("part", ["table", "whole"])
@pytest.mark.parametrize(("level", "tables"), [(0, True), (1, False)])
def test_a_pack_that_no_segment_names_and_the_storage_cannot_read_is_a_finding_and_not_the_end(
    stock: Stock, monkeypatch: pytest.MonkeyPatch, part: str, level: int, tables: bool
) -> None:
    path, _, _ = stock.pack_of(CHANGE[1])
    for segment in stock.file("index").iterdir():
        segment.unlink()
    end = path.stat().st_size
    footer = int.from_bytes(path.read_bytes()[end - 64 :][8:16], "little")
    real = os.pread

    def pread(fd: int, size: int, place: int) -> bytes:
        lost = part == "whole" or place + size > footer
        if lost and Path(f"/proc/self/fd/{fd}").readlink() == path:
            raise OSError(errno.EIO, "medium error")
        return real(fd, size, place)

    monkeypatch.setattr(os, "pread", pread)
    shared = stock.pack_of(FULL[0])[0]
    lab.flip(shared, shared.stat().st_size - 10)
    report = verify(stock.repository, level, tables=tables)
    packs = {finding.object: finding for finding in report.findings if finding.kind == "pack"}
    assert packs.keys() == {path.name, shared.name}, "what else is wrong is found, too"
    assert "medium error" in packs[path.name].detail
    lost = {sid for finding in report.findings if finding.lost for sid in finding.points}
    assert lost == {stock.second.sid}, "nothing tells what the pack holds"
