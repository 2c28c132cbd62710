"""What a snapshot is worth."""

from __future__ import annotations

import pytest

from holdfast_agent.errors import PlatformError
from holdfast_agent.model.disk_url import parse_disk_url
from holdfast_plugins.api import HypervisorDriver, SnapshotRequest

from ..journal import MemoryJournal
from ..lab import HypervisorLab
from .acts import LONGEST_ID, MARK, Suite, back_up, connected, content_of, disk_ids, fulfil_twice, take

ODD_TAGS = ("Büro – Nacht/7 #", "'; <b>&amp; %s {0} $HOME", "x" * 300)


class SnapshotSuite(Suite):
    """Every disk asked for, at one instant, whole and gone without a trace."""

    def test_a_snapshot_holds_every_disk_asked_for(
        self, lab: HypervisorLab, driver: HypervisorDriver, journal: MemoryJournal
    ) -> None:
        info = driver.vm_info(lab.vm)
        lab.write(info.disks[0].disk_id, 0, MARK)
        snapshot = take(lab, driver, journal)
        assert snapshot.vm == lab.vm
        assert {disk.disk_id: disk.size_bytes for disk in snapshot.disks} == {
            disk.disk_id: disk.size_bytes for disk in info.disks
        }
        content = content_of(lab, snapshot)
        assert content[info.disks[0].disk_id].startswith(MARK)
        assert {disk_id: len(data) for disk_id, data in content.items()} == {
            disk.disk_id: disk.size_bytes for disk in info.disks
        }
        driver.remove_snapshot(snapshot, committed=True, journal=journal)

    def test_the_last_byte_of_a_disk_is_there(
        self, lab: HypervisorLab, driver: HypervisorDriver, journal: MemoryJournal
    ) -> None:
        """A disk need not end where a block, a cluster or a page does."""
        for disk in driver.vm_info(lab.vm).disks:
            lab.write(disk.disk_id, disk.size_bytes - len(MARK), MARK)
        _, content = back_up(lab, driver, journal)
        assert all(data.endswith(MARK) for data in content.values())

    def test_a_snapshot_may_take_some_disks_only(
        self, lab: HypervisorLab, driver: HypervisorDriver, journal: MemoryJournal
    ) -> None:
        one = driver.vm_info(lab.vm).disks[-1].disk_id
        snapshot = take(lab, driver, journal, (one,))
        assert [disk.disk_id for disk in snapshot.disks] == [one]
        driver.remove_snapshot(snapshot, committed=True, journal=journal)

    def test_a_disk_that_is_not_there_is_told(
        self, lab: HypervisorLab, driver: HypervisorDriver, journal: MemoryJournal
    ) -> None:
        """It was taken away between the inventory and the snapshot."""
        before = lab.traces()
        wanted = (*disk_ids(driver, lab.vm), "holdfast-no-such-disk")
        with pytest.raises(PlatformError):
            driver.create_snapshot(SnapshotRequest(lab.vm, "suite", wanted, lab.snapshot_options()), journal)
        fulfil_twice(lab, list(journal.open.values()))
        assert lab.traces() == before

    def test_urls_are_disk_urls(self, lab: HypervisorLab, driver: HypervisorDriver, journal: MemoryJournal) -> None:
        snapshot = take(lab, driver, journal)
        for disk in snapshot.disks:
            assert disk.urls
            assert [str(parse_disk_url(url)) for url in disk.urls] == list(disk.urls)
        driver.remove_snapshot(snapshot, committed=True, journal=journal)

    def test_every_url_of_a_disk_reads_the_same(
        self, lab: HypervisorLab, driver: HypervisorDriver, journal: MemoryJournal
    ) -> None:
        """A mover takes the next when one does not work, in the middle of a disk too."""
        snapshot = take(lab, driver, journal)
        for disk in snapshot.disks:
            assert len(set(disk.urls)) == len(disk.urls)
            first, *others = (lab.read(url) for url in disk.urls)
            assert all(other == first for other in others)
        driver.remove_snapshot(snapshot, committed=True, journal=journal)

    def test_no_two_disks_share_a_url(
        self, lab: HypervisorLab, driver: HypervisorDriver, journal: MemoryJournal
    ) -> None:
        snapshot = take(lab, driver, journal)
        urls = [url for disk in snapshot.disks for url in disk.urls]
        assert len(set(urls)) == len(urls)
        driver.remove_snapshot(snapshot, committed=True, journal=journal)

    def test_a_snapshot_is_frozen_against_later_writes(
        self, lab: HypervisorLab, driver: HypervisorDriver, journal: MemoryJournal
    ) -> None:
        self._needs_freezing(lab)
        snapshot = take(lab, driver, journal)
        before = content_of(lab, snapshot)
        for disk_id in disk_ids(driver, lab.vm):
            lab.write(disk_id, 4096, MARK)
        assert content_of(lab, snapshot) == before
        driver.remove_snapshot(snapshot, committed=True, journal=journal)
        later = take(lab, driver, journal)
        for disk_id, data in content_of(lab, later).items():
            assert data == before[disk_id][:4096] + MARK + before[disk_id][4096 + len(MARK) :]
        driver.remove_snapshot(later, committed=True, journal=journal)

    @pytest.mark.parametrize("committed", [True, False])
    def test_what_the_guest_wrote_meanwhile_outlives_the_snapshot(
        self, lab: HypervisorLab, driver: HypervisorDriver, journal: MemoryJournal, committed: bool
    ) -> None:
        """Removing is never reverting."""
        self._needs_freezing(lab)
        snapshot = take(lab, driver, journal)
        for disk_id in disk_ids(driver, lab.vm):
            lab.write(disk_id, 8192, MARK)
        driver.remove_snapshot(snapshot, committed, journal)
        _, content = back_up(lab, driver, journal)
        assert all(data[8192:].startswith(MARK) for data in content.values())

    def test_a_crash_reverts_nothing_either(self, lab: HypervisorLab, driver: HypervisorDriver) -> None:
        self._needs_freezing(lab)
        abandoned = MemoryJournal()
        take(lab, driver, abandoned)
        for disk_id in disk_ids(driver, lab.vm):
            lab.write(disk_id, 8192, MARK)
        fulfil_twice(lab, list(abandoned.open.values()))
        with connected(lab) as another:
            _, content = back_up(lab, another, MemoryJournal())
        assert all(data[8192:].startswith(MARK) for data in content.values())

    def test_a_good_snapshot_passes_its_check(
        self, lab: HypervisorLab, driver: HypervisorDriver, journal: MemoryJournal
    ) -> None:
        snapshot = take(lab, driver, journal)
        content_of(lab, snapshot)
        driver.check_snapshot(snapshot)
        driver.check_snapshot(snapshot)
        driver.remove_snapshot(snapshot, committed=True, journal=journal)

    def test_a_note_is_one_line(self, lab: HypervisorLab, driver: HypervisorDriver, journal: MemoryJournal) -> None:
        snapshot = take(lab, driver, journal)
        driver.remove_snapshot(snapshot, committed=True, journal=journal)
        assert not snapshot.note or snapshot.note.isprintable()

    def test_a_job_may_have_any_name(
        self, lab: HypervisorLab, driver: HypervisorDriver, journal: MemoryJournal
    ) -> None:
        before = lab.traces()
        for tag in ODD_TAGS:
            driver.remove_snapshot(take(lab, driver, journal, tag=tag), committed=True, journal=journal)
            assert lab.traces() == before

    def test_a_base_that_nobody_knows_fails_no_snapshot(
        self, lab: HypervisorLab, driver: HypervisorDriver, journal: MemoryJournal
    ) -> None:
        """A change id is a hint; what it was worth the tracker tells later."""
        since = dict.fromkeys(disk_ids(driver, lab.vm), "holdfast-no-such-change-id")
        snapshot = take(lab, driver, journal, since=since)
        assert len(content_of(lab, snapshot)) == len(since)
        driver.remove_snapshot(snapshot, committed=True, journal=journal)

    def test_a_change_id_names_one_instant(
        self, lab: HypervisorLab, driver: HypervisorDriver, journal: MemoryJournal
    ) -> None:
        seen: list[str] = []
        for number in range(2):
            for disk_id in disk_ids(driver, lab.vm):
                lab.write(disk_id, 4096 * number, MARK)
            snapshot = take(lab, driver, journal)
            seen += [f"{disk.disk_id} {disk.change_id}" for disk in snapshot.disks if disk.change_id is not None]
            assert all(disk.change_id is None or 0 < len(disk.change_id) <= LONGEST_ID for disk in snapshot.disks)
            driver.remove_snapshot(snapshot, committed=True, journal=journal)
        assert len(set(seen)) == len(seen)

    def test_one_snapshot_s_id_is_not_another_s(
        self, lab: HypervisorLab, driver: HypervisorDriver, journal: MemoryJournal
    ) -> None:
        if not lab.freezes:
            pytest.skip("nothing is made that would need an id")
        ids = []
        for _ in range(3):
            snapshot = take(lab, driver, journal)
            ids.append(snapshot.snapshot_id)
            driver.remove_snapshot(snapshot, committed=True, journal=journal)
        assert len(set(ids)) == 3

    @pytest.mark.parametrize("committed", [True, False])
    def test_removal_leaves_nothing_and_may_come_twice(
        self, lab: HypervisorLab, driver: HypervisorDriver, journal: MemoryJournal, committed: bool
    ) -> None:
        before = lab.traces()
        snapshot = take(lab, driver, journal)
        driver.remove_snapshot(snapshot, committed, journal)
        assert lab.traces() == before
        assert not journal.open
        driver.remove_snapshot(snapshot, committed, journal)
        assert lab.traces() == before

    def test_removing_one_snapshot_leaves_another(
        self, lab: HypervisorLab, driver: HypervisorDriver, journal: MemoryJournal
    ) -> None:
        if not lab.takes_several_snapshots:
            pytest.skip("this hypervisor takes one snapshot of a VM at a time")
        first = take(lab, driver, journal)
        second = take(lab, driver, journal)
        content = content_of(lab, second)
        driver.remove_snapshot(first, committed=True, journal=journal)
        assert content_of(lab, second) == content
        driver.remove_snapshot(second, committed=True, journal=journal)
        assert not journal.open

    def test_a_snapshot_that_fails_leaves_nothing(self, lab: HypervisorLab, driver: HypervisorDriver) -> None:
        """Whatever goes wrong is told as a typed error, and what it left, if anything, stands in the journal."""
        if not lab.faults:
            pytest.skip("the lab knows of nothing that could go wrong")
        wanted = disk_ids(driver, lab.vm)
        for name in lab.faults:
            before, journal = lab.traces(), MemoryJournal()
            with lab.fault(name), pytest.raises(PlatformError):
                take(lab, driver, journal, wanted)
            fulfil_twice(lab, list(journal.open.values()))
            assert lab.traces() == before, f"{name} left something"
            driver.remove_snapshot(take(lab, driver, journal), committed=True, journal=journal)

    @staticmethod
    def _needs_freezing(lab: HypervisorLab) -> None:
        if not lab.freezes:
            pytest.skip("this lab's snapshots do not hold against writes")
