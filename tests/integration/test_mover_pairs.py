"""Pairs of real movers, over loopback and in one process, against a real repository."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from pathlib import Path

import msgspec
import pytest

from holdfast_agent.errors import (
    Cancelled,
    ConnectionLost,
    DiskExists,
    DiskNotFound,
    DiskShrunk,
    DiskUnreadable,
    RepositoryDenied,
    RestoredBlockWrong,
    SessionUnknown,
    Unreachable,
)
from holdfast_agent.model.change import ChangeMode
from holdfast_agent.model.geometry import Extent, Geometry
from holdfast_agent.model.ids import HOLE, new_sid
from holdfast_agent.model.link import LinkTimeouts
from holdfast_agent.model.rules import Compression, TransferRules
from holdfast_agent.model.units import MIB
from holdfast_agent.wire.movers import Begin, Failed, Finished, NewRules, Progressed
from holdfast_agent.wire.specs import BackupOrder, RestoreOrder, SourceSpec, TargetSpec, WriterSpec
from lab import repositories as lab
from lab.disks import nbdkit
from lab.movers import Mover, Site, stop
from lab.tools import require_tool

BLOCK = 1 << 16
MAX_RSS = 250 * MIB


@pytest.fixture
def site(tmp_path: Path, request: pytest.FixtureRequest) -> Site:
    return Site(tmp_path, within=getattr(request, "param", "") == "within")


either_way = pytest.mark.parametrize("site", ["between", "within"], indirect=True)
"""Between two processes and within one: but for the network the same must come of it."""


class Disk:
    """A raw image in the site and how to change it."""

    def __init__(self, site: Site, size: int, name: str = "disk") -> None:
        self.path = site.folder / "disks" / name
        self.url = f"file:{self.path}"
        with self.path.open("wb") as file:
            file.truncate(size)

    @property
    def geometry(self) -> Geometry:
        return Geometry(self.path.stat().st_size, 16)

    def write(self, block: int, data: bytes) -> None:
        with self.path.open("r+b") as file:
            file.seek(block * BLOCK)
            file.write(data)

    def fill(self, block: int, count: int) -> None:
        """Distinct blocks that compress well."""
        for number in range(block, block + count):
            self.write(number, lab.block((self.path.name, number)))


def restored(site: Site, disk: Disk, root: bytes, geometry: Geometry, name: str = "restored") -> bool:
    """Whether a restore gives back what is on the disk now, as sparse as it was."""
    path = site.folder / "disks" / name
    site.restore(lab.BlockId(root), geometry, f"file:{path}")
    same = path.read_bytes() == disk.path.read_bytes()
    return same and path.stat().st_blocks <= disk.path.stat().st_blocks + (BLOCK >> 9)


@either_way
@pytest.mark.parametrize("mode", [ChangeMode.ALLOCATION, ChangeMode.FULL])
@pytest.mark.parametrize("size", [0, 1, BLOCK, 300 * BLOCK + 512])
def test_a_backup_restores_bit_for_bit(site: Site, mode: ChangeMode, size: int) -> None:
    disk = Disk(site, size)
    if size > BLOCK:
        disk.fill(3, 40)
        disk.write(299, b"\x11" * (BLOCK + 512))
        disk.write(100, bytes(5 * BLOCK))
    done = site.backup(disk.url, disk.geometry, mode)
    assert done.proxy.root == done.repository.root
    assert done.proxy.used_disk == disk.url
    counters = done.counters
    assert counters.processed_bytes == counters.size_bytes == size
    assert counters.processed_bytes == counters.zero_bytes + counters.sent_bytes + counters.deduplicated_bytes
    if size > BLOCK:
        assert counters.sent_bytes == 41 * BLOCK + 512
        assert counters.read_bytes == (size if mode is ChangeMode.FULL else 46 * BLOCK + 512)
    assert done.repository.root is not None
    assert restored(site, disk, done.repository.root, disk.geometry)


@either_way
def test_the_same_block_is_sent_once(site: Site) -> None:
    disk = Disk(site, 300 * BLOCK)
    for number in range(100):
        disk.write(number, lab.block(number % 4))
    done = site.backup(disk.url, disk.geometry)
    assert done.counters.sent_bytes == 4 * BLOCK
    assert done.counters.deduplicated_bytes == 96 * BLOCK
    assert done.repository.root and restored(site, disk, done.repository.root, disk.geometry)
    again = site.backup(disk.url, disk.geometry)
    assert again.counters.sent_bytes == again.stored_bytes == 0
    assert again.repository.root == done.repository.root


@either_way
def test_a_digest_backup_sends_what_changed_and_nothing_else(site: Site) -> None:
    disk = Disk(site, 9000 * BLOCK)  # two pages of ids
    disk.fill(0, 30)
    disk.fill(8185, 30)
    base = site.backup(disk.url, disk.geometry)
    assert base.repository.root is not None
    disk.write(5, lab.block("new 5"))
    disk.write(8195, lab.block("new 8195"))
    disk.write(4000, lab.block("was a hole"))
    disk.write(7, bytes(BLOCK))
    done = site.backup(disk.url, disk.geometry, ChangeMode.DIGEST, (base.repository.root, disk.geometry))
    assert done.counters.sent_bytes == 3 * BLOCK
    assert done.counters.unchanged_bytes == 57 * BLOCK
    assert done.proxy.root == done.repository.root
    assert done.repository.root and restored(site, disk, done.repository.root, disk.geometry)


def test_a_digest_backup_notices_data_that_became_a_hole(site: Site) -> None:
    disk = Disk(site, 300 * BLOCK)
    disk.fill(0, 30)
    disk.fill(260, 10)
    base = site.backup(disk.url, disk.geometry)
    assert base.repository.root is not None
    subprocess.run(["fallocate", "-p", "-o", str(2 * BLOCK), "-l", str(265 * BLOCK), str(disk.path)], check=True)
    done = site.backup(disk.url, disk.geometry, ChangeMode.DIGEST, (base.repository.root, disk.geometry))
    assert done.counters.sent_bytes == 0
    assert done.proxy.root == done.repository.root
    assert done.repository.root and restored(site, disk, done.repository.root, disk.geometry)


@pytest.mark.parametrize(
    ("mode", "new_size"),
    [
        *((mode, size * BLOCK + 100) for mode in (ChangeMode.DIGEST, ChangeMode.CBT) for size in (70, 40, 300)),
        (ChangeMode.DIGEST, 70_000 * BLOCK),  # one more level in the tree
    ],
)
@either_way
def test_a_disk_that_was_resized(site: Site, new_size: int, mode: ChangeMode) -> None:
    disk = Disk(site, 60 * BLOCK + 700)
    disk.fill(10, 50)
    disk.write(60, b"\x22" * 700)
    old = disk.geometry
    base = site.backup(disk.url, old)
    assert base.repository.root is not None
    os.truncate(disk.path, new_size)
    if new_size > 65 * BLOCK:
        disk.write(60, b"\x33" * 3000)
        disk.write(65, lab.block("grown"))
    done = site.backup(
        disk.url, disk.geometry, mode, (base.repository.root, old), () if mode is ChangeMode.CBT else None
    )
    assert done.proxy.root == (done.repository.root if mode is ChangeMode.DIGEST or site.within else None)
    fresh = site.backup(disk.url, disk.geometry)
    assert done.repository.root == fresh.repository.root


@either_way
def test_a_cbt_backup_reads_only_what_it_is_told(site: Site) -> None:
    disk = Disk(site, 300 * BLOCK)
    disk.fill(0, 100)
    base = site.backup(disk.url, disk.geometry)
    assert base.repository.root is not None
    disk.write(7, lab.block("seven"))
    disk.write(290, lab.block("hole"))
    disk.write(50, bytes(BLOCK))
    extents = (Extent(7 * BLOCK + 5, 10), Extent(50 * BLOCK, BLOCK), Extent(290 * BLOCK, 400 * BLOCK))
    done = site.backup(disk.url, disk.geometry, ChangeMode.CBT, (base.repository.root, disk.geometry), extents)
    assert site.within or done.proxy.root is None
    assert done.counters.read_bytes == 12 * BLOCK
    assert done.counters.sent_bytes == 2 * BLOCK
    assert done.repository.root and restored(site, disk, done.repository.root, disk.geometry)


@pytest.mark.parametrize("compression", list(Compression))
def test_rules_of_compression_and_streams(site: Site, compression: Compression) -> None:
    disk = Disk(site, 100 * BLOCK)
    disk.fill(0, 100)
    done = site.backup(disk.url, disk.geometry, rules=TransferRules(compression=compression, streams=3))
    plain = 100 * BLOCK
    assert (done.stored_bytes > plain) == (compression is Compression.NONE)
    assert done.repository.root and restored(site, disk, done.repository.root, disk.geometry)


@either_way
def test_a_terabyte_of_holes_costs_by_its_data(site: Site) -> None:
    disk = Disk(site, 1 << 40)
    geometry = Geometry(1 << 40, 20)
    places = sorted(random.Random(7).sample(range(1 << 20), 40))
    for place in places:
        disk.write(place << 4, lab.block(place))
    first = site.backup(disk.url, geometry)
    assert first.repository.root is not None and first.repository.root == first.proxy.root
    assert first.counters.read_bytes == 40 << 20
    second = site.backup(disk.url, geometry, ChangeMode.DIGEST, (first.repository.root, geometry))
    assert second.repository.root == second.proxy.root == first.repository.root
    assert second.counters.sent_bytes == 0
    checked = site.restore(first.repository.root, geometry, None)
    assert checked.proxy.blocks_checked == 40
    for done in (first, second, checked):
        assert max(done.rss_bytes) < MAX_RSS
        assert done.seconds < 100, "a terabyte was looked at"


@either_way
def test_a_qcow2_image_is_backed_up_as_the_disk_inside(site: Site) -> None:
    require_tool("qemu-nbd", "qemu-utils")
    raw = Disk(site, 100 * BLOCK, "raw")
    raw.fill(5, 20)
    image = site.folder / "disks" / "image"
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", raw.path, image], check=True)
    done = site.backup(f"image:{image}?format=qcow2", raw.geometry)
    assert done.counters.read_bytes == 20 * BLOCK
    assert done.repository.root and restored(site, raw, done.repository.root, raw.geometry)
    assert list((site.folder / "run").iterdir()) == []


@either_way
def test_a_disk_is_only_replaced_on_request_and_nothing_is_left_of_a_refusal(site: Site) -> None:
    disk = Disk(site, 10 * BLOCK)
    disk.fill(0, 10)
    root = site.backup(disk.url, disk.geometry).repository.root
    assert root is not None
    with pytest.raises(DiskExists):
        site.restore(root, disk.geometry, disk.url)
    disk.write(3, b"damaged")
    site.restore(root, disk.geometry, disk.url, overwrite=True)
    assert site.backup(disk.url, disk.geometry).repository.root == root
    disk.write(4, b"damaged")
    site.restore(root, disk.geometry, disk.url, create=False)
    assert site.backup(disk.url, disk.geometry).repository.root == root
    assert [path.name for path in disk.path.parent.iterdir()] == ["disk"]


@either_way
def test_a_record_that_is_another_block_than_its_id_says_is_never_written(site: Site) -> None:
    disk = Disk(site, 10 * BLOCK)
    disk.fill(0, 10)
    true_keys, site.keys = site.keys, lab.KEYS.blob_keys()  # ids under another key: every record belies its id
    root = site.backup(disk.url, disk.geometry).repository.root
    wrong = msgspec.structs.replace(true_keys, enc_key=site.keys.enc_key)
    site.keys = wrong
    assert root is not None
    with pytest.raises(RestoredBlockWrong):
        site.restore(root, disk.geometry, f"file:{site.folder}/disks/new")
    assert not (site.folder / "disks" / "new").exists()


# --- what goes wrong --------------------------------------------------------------------------------------------------


def order(disk: Disk, size: int | None = None) -> Begin:
    geometry = disk.geometry if size is None else Geometry(size, 16)
    return Begin(order=BackupOrder(geometry=geometry, disks=(disk.url,), mode=ChangeMode.ALLOCATION))


SLOW = TransferRules(bandwidth_bytes_per_s=100_000)
PATIENT = LinkTimeouts(silence_s=600.0, stall_s=600.0, resume_s=0.0)
"""Who notices the other's end by silence only does not notice it within a test."""
"""So slow that what a test does happens in the middle of the transfer."""


def slow_disk(site: Site) -> Disk:
    disk = Disk(site, 400 * BLOCK)
    disk.write(0, random.Random(1).randbytes(400 * BLOCK))
    return disk


def in_transfer(source: Mover) -> None:
    """Wait until the first block was sent."""
    while source.expect(Progressed).counters.sent_bytes == 0:
        pass


def test_a_dead_source_ends_the_target_and_its_blocks_are_kept_for_the_retry(site: Site) -> None:
    disk = slow_disk(site)
    with site.session() as session:
        with site.backup_pair(session.sid, SLOW, link=PATIENT) as (source, target):
            source.send(order(disk))
            in_transfer(source)
            source.send(NewRules(rules=TransferRules(bandwidth_bytes_per_s=20 * MIB)))
            in_transfer(source)
            source.process.send_signal(signal.SIGKILL)
            assert isinstance(target.failure(), ConnectionLost)
        retried = site.backup(disk.url, disk.geometry, sid=session.sid)
        assert retried.counters.deduplicated_bytes > 0
        assert retried.counters.deduplicated_bytes + retried.counters.sent_bytes == 400 * BLOCK


def test_a_target_that_is_stopped_while_it_waits_for_a_dead_source_keeps_what_came(site: Site) -> None:
    disk = slow_disk(site)
    patient = LinkTimeouts(silence_s=10.0, stall_s=30.0, resume_s=30.0)
    with site.session() as session:
        with site.backup_pair(session.sid, SLOW, link=patient) as (source, target):
            source.send(order(disk))
            in_transfer(source)
            source.send(NewRules(rules=TransferRules(bandwidth_bytes_per_s=20 * MIB)))
            in_transfer(source)
            source.process.kill()
            source.process.wait()
            for _ in range(3):  # it waits for another source for half a minute
                target.expect(Progressed)
            stop(target)
            assert isinstance(target.failure(), Cancelled)
        again = site.backup(disk.url, disk.geometry, sid=session.sid)
        assert again.counters.deduplicated_bytes > 0


def test_a_dead_target_ends_the_source(site: Site) -> None:
    disk = slow_disk(site)
    with site.session() as session, site.backup_pair(session.sid, SLOW) as (source, target):
        source.send(order(disk))
        in_transfer(source)
        target.process.send_signal(signal.SIGKILL)
        error = source.failure()
        assert isinstance(error, ConnectionLost) and error.retryable


def end(mover: Mover, how: str) -> None:
    if how == "stop":
        stop(mover)
    elif how == "sigterm":
        mover.process.terminate()
    else:
        assert mover.process.stdin is not None
        mover.process.stdin.close()


@pytest.mark.parametrize("how", ["stop", "sigterm", "end of the pipe"])
def test_a_mover_that_is_stopped_cleans_up_and_tells_the_other(site: Site, how: str) -> None:
    disk = slow_disk(site)
    with site.session() as session, site.backup_pair(session.sid, SLOW, link=PATIENT) as (source, target):
        source.send(order(disk))
        in_transfer(source)
        end(source, how)
        assert isinstance(source.failure(), Cancelled)
        lost = target.failure()
        # That the other was stopped is no reason to give the task up: it may go on at another proxy.
        assert isinstance(lost, ConnectionLost) and lost.retryable and "cancelled" in lost.text


@pytest.mark.parametrize("how", ["stop", "sigterm", "end of the pipe"])
def test_a_pair_in_one_process_that_is_stopped_cleans_up(site: Site, how: str) -> None:
    disk = slow_disk(site)
    with site.session() as session, site.backup_within(session.sid, SLOW) as (pair, _):
        pair.send(order(disk))
        in_transfer(pair)
        end(pair, how)
        assert isinstance(pair.failure(), Cancelled)
        assert not list(site.folder.glob("repository/packs/**/*.tmp"))


def test_new_rules_reach_whichever_of_a_pair_sends(site: Site) -> None:
    disk = slow_disk(site)
    with site.session() as session, site.backup_within(session.sid, SLOW) as (pair, _):
        pair.send(order(disk))
        in_transfer(pair)
        pair.send(NewRules(rules=TransferRules()))
        stored = pair.expect(Finished)
    site.within = True
    assert stored.result.root is not None
    with site.reading_pair(WriterSpec, SLOW) as (pair, _):
        pair.send(Begin(order=RestoreOrder(geometry=disk.geometry, root=stored.result.root, disk=None)))
        in_transfer(pair)
        pair.send(NewRules(rules=TransferRules()))
        assert pair.expect(Finished).result.blocks_checked == 400


def test_a_stopped_restore_leaves_no_file(site: Site) -> None:
    disk = slow_disk(site)
    root = site.backup(disk.url, disk.geometry).repository.root
    assert root is not None
    with site.reading_pair(WriterSpec, SLOW) as (writer, reader):
        writer.send(Begin(order=RestoreOrder(geometry=disk.geometry, root=root, disk=f"file:{site.folder}/disks/new")))
        in_transfer(writer)
        stop(writer)
        assert isinstance(writer.failure(), Cancelled)
        assert isinstance(reader.failure(), ConnectionLost)
    assert [path.name for path in disk.path.parent.iterdir()] == ["disk"]


@either_way
def test_a_limit_holds_and_is_told_as_throttling(site: Site) -> None:
    disk = Disk(site, 20 * BLOCK)
    disk.write(0, random.Random(1).randbytes(20 * BLOCK))
    done = site.backup(disk.url, disk.geometry, rules=TransferRules(bandwidth_bytes_per_s=2 * MIB))
    assert done.counters.elapsed_s > 0.4
    assert done.counters.stages.throttled_s > 0.4
    assert done.counters.stages.network_s < done.counters.stages.throttled_s


def test_a_slow_target_does_not_make_the_source_grow(site: Site) -> None:
    disk = Disk(site, 6000 * BLOCK)
    disk.write(0, os.urandom(6000 * BLOCK))
    with site.session() as session, site.backup_pair(session.sid) as (source, target):
        target.process.send_signal(signal.SIGSTOP)
        source.send(order(disk))
        held: set[int] = set()
        for _ in range(4):  # progress comes twice a second; credit runs out in far less
            held.add(source.expect(Progressed).counters.sent_bytes)
        target.process.send_signal(signal.SIGCONT)
        finished = source.expect(Finished)
        assert max(held) < 100 * MIB < finished.counters.sent_bytes
        target.expect(Finished)
        assert source.most_rss_bytes < MAX_RSS
        assert target.most_rss_bytes < MAX_RSS


def test_a_disk_that_shrinks_while_it_is_read(site: Site) -> None:
    disk = Disk(site, 4000 * BLOCK)
    disk.write(0, os.urandom(4000 * BLOCK))
    with site.session() as session, site.backup_pair(session.sid, SLOW) as (source, target):
        source.send(order(disk))
        in_transfer(source)
        os.truncate(disk.path, 100 * BLOCK)
        source.send(NewRules(rules=TransferRules()))
        assert isinstance(source.failure(), DiskShrunk)
        assert isinstance(target.failure(), DiskShrunk)


def test_a_disk_that_is_smaller_than_the_order_says(site: Site) -> None:
    disk = Disk(site, BLOCK)
    with site.session() as session, site.backup_pair(session.sid) as (source, target):
        source.send(order(disk, 2 * BLOCK))
        assert isinstance(source.failure(), DiskShrunk)
        assert isinstance(target.failure(), DiskShrunk)


@either_way
def test_a_medium_error_is_told_with_its_place(site: Site) -> None:
    require_tool("nbdkit", "nbdkit")
    disk = Disk(site, 300 * BLOCK)
    disk.fill(0, 300)
    options = ("--filter=error", "file", str(disk.path), "error-pread=EIO", "error-pread-rate=100%")
    with nbdkit(site.folder / "disks", "--readonly", *options) as served, pytest.raises(DiskUnreadable) as caught:
        site.backup(f"nbd+unix:{served}", disk.geometry)
    assert isinstance(caught.value.fields["offset_bytes"], int)
    assert "Input/output error" in str(caught.value)


def test_the_next_disk_is_tried_when_the_first_cannot_be_opened(site: Site) -> None:
    disk = Disk(site, BLOCK)
    absent = f"file:{site.folder}/disks/absent"
    with pytest.raises(DiskNotFound):
        site.backup(absent, disk.geometry)
    with site.session() as session, site.backup_pair(session.sid) as (source, _target):
        begin = BackupOrder(geometry=disk.geometry, disks=(absent, disk.url), mode=ChangeMode.ALLOCATION)
        source.send(Begin(order=begin))
        assert source.expect(Finished).result.used_disk == disk.url


@either_way
def test_an_empty_disk_has_no_root(site: Site) -> None:
    disk = Disk(site, 10 * BLOCK)
    assert site.backup(disk.url, disk.geometry).repository.root == HOLE
    assert restored(site, disk, HOLE, disk.geometry)


def test_a_target_says_before_it_listens_that_it_cannot_store(site: Site) -> None:
    for repository, error in ((str(site.folder / "repository"), SessionUnknown), ("/", RepositoryDenied)):
        spec = TargetSpec(task_id="t", secret=bytes(32), repository=repository, sid=new_sid(), mover=1)
        with Mover(spec, site.host()) as target:
            frame = target.next()
            assert isinstance(frame, Failed)
            assert frame.error.code == error.code


def test_a_pair_that_cannot_store_says_so(site: Site) -> None:
    with pytest.raises(SessionUnknown), site.backup_within(new_sid()):
        pass


def test_nobody_comes(site: Site) -> None:
    with site.session() as session:
        secret = bytes(32)
        spec = TargetSpec(
            task_id="t", secret=secret, repository=str(site.folder / "repository"), sid=session.sid, mover=1
        )
        with Mover(spec, site.host(connect_timeout_s=0.5)) as target:
            assert isinstance(target.failure(), Unreachable)
        source = SourceSpec(task_id="t", secret=secret, endpoints=("tcp://127.0.0.1:9",), keys=site.keys)
        with Mover(source, site.host(connect_timeout_s=0.5)) as mover:
            assert isinstance(mover.failure(), Unreachable)
