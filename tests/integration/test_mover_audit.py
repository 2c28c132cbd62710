"""The audit with real movers: what a tracker does not tell is found, and the point is right all the same."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast_agent.errors import ChangeTrackingLost
from holdfast_agent.model.change import AuditRate, ChangeMode
from holdfast_agent.model.geometry import Extent, Geometry
from holdfast_agent.model.ids import BlockId
from holdfast_plugins.testkit import MemoryJournal
from lab import repositories as lab
from lab.movers import Done, Site
from lab.storage_vms import StorageVm

BLOCK = 1 << 16
ALL = AuditRate(percent=100)
BLOCKS = 9000  # more than a page, so that the whole comparison that follows asks for several


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


class Disk:
    """A sparse image with data here and there, and its base point."""

    def __init__(self, site: Site, blocks: int = BLOCKS) -> None:
        self.site = site
        self.path = site.folder / "disks" / "disk"
        self.geometry = Geometry(blocks * BLOCK - 100, 16)
        with self.path.open("wb") as file:
            file.truncate(self.geometry.size_bytes)
        data = {*range(40), *range(8180, 8220), *range(blocks - 5, blocks - 1)}
        self.data = sorted(block for block in data if block < blocks - 1)
        for number in self.data:
            self.write(number)
        self.base = self._root(site.backup(f"file:{self.path}", self.geometry))

    def write(self, block: int, content: object = "first") -> None:
        with self.path.open("r+b") as file:
            file.seek(block * BLOCK)
            file.write(lab.block((block, content)))

    def tracked(self, blocks: list[int], audit: AuditRate | None, base: BlockId | None = None) -> Done:
        """A run whose tracker names ``blocks``."""
        extents = tuple(Extent(block * BLOCK, 1) for block in sorted(blocks))
        known = (base or self.base, self.geometry)
        return self.site.backup(f"file:{self.path}", self.geometry, ChangeMode.CBT, known, extents, audit=audit)

    def truth(self) -> BlockId:
        """The root that the disk has, read whole."""
        return self._root(self.site.backup(f"file:{self.path}", self.geometry, ChangeMode.FULL))

    @staticmethod
    def _root(done: Done) -> BlockId:
        assert done.repository.root is not None
        return done.repository.root


def test_an_honest_tracker_passes_and_is_read_no_further(site: Site) -> None:
    disk = Disk(site)
    disk.write(7, "second")
    disk.write(5000, "was a hole")
    done = disk.tracked([7, 5000], AuditRate())
    assert done.proxy.mode is None and done.proxy.reason == ""
    assert (done.counters.audited_blocks, done.counters.missed_blocks) == (64, 0)
    assert done.counters.read_bytes == done.counters.sent_bytes == 2 * BLOCK
    assert done.counters.unchanged_bytes == disk.geometry.size_bytes - 2 * BLOCK
    assert done.repository.root == disk.truth()


@pytest.mark.parametrize(
    ("missed", "what"),
    [(13, "changed data"), (8200, "changed data of another page"), (4711, "a hole that has data now"), (0, "zeros")],
)
def test_what_a_lying_tracker_conceals_is_found_and_mended_in_the_same_run(site: Site, missed: int, what: str) -> None:
    disk = Disk(site)
    disk.write(7, "second")
    if what == "zeros":
        with disk.path.open("r+b") as file:
            file.write(bytes(BLOCK))
    else:
        disk.write(missed, "second")
    done = disk.tracked([7], ALL)
    assert done.proxy.mode is ChangeMode.DIGEST
    assert "change tracking missed changes" in done.proxy.reason
    assert done.counters.missed_blocks == 1
    assert 1 <= done.counters.audited_blocks <= BLOCKS
    assert done.proxy.root == done.repository.root == disk.truth()
    skipped = done.counters.zero_bytes + done.counters.unchanged_bytes + done.counters.deduplicated_bytes
    assert skipped + done.counters.sent_bytes == done.counters.processed_bytes == disk.geometry.size_bytes
    # The point is right, so the next run builds on it by tracking again.
    disk.write(20, "third")
    after = disk.tracked([20], ALL, disk._root(done))
    assert after.proxy.mode is None
    assert (after.counters.audited_blocks, after.counters.missed_blocks) == (BLOCKS - 1, 0)
    assert after.repository.root == disk.truth()


def test_without_an_audit_a_lie_makes_a_wrong_point(site: Site) -> None:
    """What the audit is for: nothing else notices."""
    disk = Disk(site, 300)
    disk.write(13, "concealed")
    for audit in (None, AuditRate(0)):
        done = disk.tracked([], audit)
        assert done.counters.audited_blocks == 0
        assert done.repository.root == disk.base != disk.truth()


def test_a_tracker_that_misses_often_is_soon_found_out(site: Site) -> None:
    disk = Disk(site, 2000)
    for block in range(100, 400):
        disk.write(block, "concealed")
    done = disk.tracked([], AuditRate())  # 64 of 2000 blocks, 300 wrong: undetected once in 38,000 runs
    assert done.counters.missed_blocks > 0
    assert done.repository.root == disk.truth()


def test_data_in_what_a_tracker_calls_unused_is_found(site: Site) -> None:
    disk = Disk(site, 300)
    disk.write(250, "unused, it says")
    allocated = tuple(Extent(block * BLOCK, BLOCK) for block in disk.data)
    for audit, right in ((ALL, True), (None, False)):
        done = site.backup(f"file:{disk.path}", disk.geometry, extents=allocated, audit=audit)
        assert (done.repository.root == disk.truth()) is right
        assert ("called data unused" in done.proxy.reason) is right
        assert done.proxy.root == done.repository.root


def test_random_histories_end_right_whatever_the_tracker_conceals(site: Site) -> None:
    chance = random.Random(11)
    disk = Disk(site, 700)
    base = disk.base
    for number in range(6):
        written = chance.sample(range(699), chance.randrange(0, 60))
        for block in written:
            disk.write(block, number)
        told = [block for block in written if number % 2 or chance.random() < 0.8]
        done = disk.tracked(told, ALL, base)
        assert (done.counters.missed_blocks > 0) == (set(told) != set(written))
        base = disk._root(done)
        assert base == disk.truth()


# --- bitmaps of QEMU --------------------------------------------------------------------------------------------------


@pytest.fixture
def vm(site: Site) -> Iterator[StorageVm]:
    """A VM whose disk QEMU tracks."""
    with StorageVm(site.folder / "disks", 40 << 20) as vm:
        yield vm


def test_the_blocks_that_a_bitmap_names_make_the_disk_bit_for_bit(site: Site, vm: StorageVm) -> None:
    """The oracle of all change tracking: base + dirty = disk, over a random history, each disk read whole besides."""
    chance, journal, geometry = random.Random(5), MemoryJournal(), Geometry(vm.size_bytes, 16)
    vm.scribble(chance, 40)
    base: BlockId | None = None
    since: str | None = None
    for committed, writes in ((True, 0), (True, 60), (False, 30), (True, 3), (True, 0), (True, 200)):
        vm.scribble(chance, writes)
        with vm.frozen(journal, committed) as snapshot:
            vm.scribble(chance, 20)  # the guest goes on; the snapshot does not
            url = snapshot.disks[0].urls[0]
            whole = Disk._root(site.backup(url, geometry, ChangeMode.FULL))
            if base is not None:
                known = (base, geometry)
                done = site.backup(f"{url}&bitmap={since}", geometry, ChangeMode.CBT, known, audit=ALL)
                assert (done.proxy.mode, done.counters.missed_blocks) == (None, 0)
                assert done.repository.root == whole
                counters = done.counters
                skipped = counters.unchanged_bytes + counters.zero_bytes + counters.deduplicated_bytes
                assert skipped + counters.sent_bytes == counters.processed_bytes == vm.size_bytes
                assert writes > 100 or done.counters.read_bytes < vm.size_bytes // 2
        if committed:
            base, since = whole, snapshot.disks[0].change_id
    assert not journal.open


def test_what_was_discarded_is_not_read(site: Site, vm: StorageVm) -> None:
    journal, geometry = MemoryJournal(), Geometry(vm.size_bytes, 16)
    vm.write(f"write -P 1 0 {vm.size_bytes}")
    with vm.frozen(journal) as snapshot:
        base = Disk._root(site.backup(snapshot.disks[0].urls[0], geometry, ChangeMode.FULL))
    since = snapshot.disks[0].change_id
    start, length = 3 * BLOCK, 200 * BLOCK
    vm.write(f"discard {start} {length}", f"write -P 2 {50 * BLOCK} 512", f"discard {vm.size_bytes - BLOCK} {BLOCK}")
    with vm.frozen(journal) as snapshot:
        url = snapshot.disks[0].urls[0]
        done = site.backup(f"{url}&bitmap={since}", geometry, ChangeMode.CBT, (base, geometry), audit=ALL)
        whole = site.backup(url, geometry, ChangeMode.FULL)
    assert done.repository.root == whole.repository.root
    assert done.counters.read_bytes == BLOCK
    assert done.counters.zero_bytes == 200 * BLOCK
    assert (done.counters.audited_blocks, done.counters.missed_blocks) == (geometry.blocks - 201, 0)


def test_a_bitmap_that_is_gone_costs_a_comparison_and_never_the_backup(site: Site, vm: StorageVm) -> None:
    geometry = Geometry(vm.size_bytes, 16)
    with vm.frozen(MemoryJournal()) as snapshot:
        base = Disk._root(site.backup(snapshot.disks[0].urls[0], geometry, ChangeMode.FULL))
    vm.scribble(random.Random(2), 20)
    with vm.frozen(MemoryJournal()) as snapshot:
        url = snapshot.disks[0].urls[0]
        truth = Disk._root(site.backup(url, geometry, ChangeMode.FULL))
        known, lost = (base, geometry), f"{url}&bitmap=gone"
        for fall in (ChangeMode.DIGEST, ChangeMode.FULL):
            done = site.backup(lost, geometry, ChangeMode.CBT, known, audit=AuditRate(), on_loss=fall)
            assert done.proxy.mode is fall
            assert "change tracking is lost" in done.proxy.reason
            assert "has no bitmap 'gone'" in done.proxy.reason
            assert done.repository.root == done.proxy.root == truth
        with pytest.raises(ChangeTrackingLost):
            site.backup(lost, geometry, ChangeMode.CBT, known, on_loss=None)


def test_a_disk_that_tracks_nothing_is_compared(site: Site) -> None:
    disk = Disk(site, 300)
    disk.write(13, "second")
    known = (disk.base, disk.geometry)
    done = site.backup(f"file:{disk.path}", disk.geometry, ChangeMode.CBT, known)
    assert "tracks no changes" in done.proxy.reason
    assert done.repository.root == disk.truth()
