"""The conformance suite of hypervisor drivers."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

import pytest

from holdfast_agent.errors import AlreadyExists, PlatformError, VmNotFound
from holdfast_agent.model.disk_url import parse_disk_url
from holdfast_plugins.api import (
    HypervisorDriver,
    RestoreTarget,
    Snapshot,
    SnapshotRequest,
    VmInfo,
    VmRef,
)

from .journal import MemoryJournal, Obligation
from .lab import HypervisorLab

MARK = b"written by the conformance suite"
NOBODY = VmRef("holdfast-no-such-vm", "holdfast-no-such-vm")
RESTORED = "holdfast-restored"
MAX_CONFIG_BYTES = 4 << 20


class SuddenDeath(BaseException):
    """Stands for the end of the process at that very point."""


class HypervisorConformance:
    """Subclass it in a test file and give a fixture ``lab`` that makes a :class:`HypervisorLab`.

    Each test says in its name what a driver promises. Tests that a lab's tolerances exclude are skipped.
    """

    @pytest.fixture
    def driver(self, lab: HypervisorLab) -> Iterator[HypervisorDriver]:
        driver = lab.driver()
        driver.connect()
        yield driver
        driver.close()

    @pytest.fixture
    def journal(self) -> MemoryJournal:
        return MemoryJournal()

    # Inventory

    def test_the_vm_is_listed_once_and_described(self, lab: HypervisorLab, driver: HypervisorDriver) -> None:
        assert list(driver.list_vms()).count(lab.vm) == 1
        info = driver.vm_info(lab.vm)
        assert info.ref == lab.vm
        assert len(info.disks) >= 2, "the lab's VM must have two disks"
        assert len({disk.disk_id for disk in info.disks}) == len(info.disks)
        assert all(disk.size_bytes > 0 for disk in info.disks)
        assert len(info.config) <= MAX_CONFIG_BYTES
        assert driver.vm_info(lab.vm) == info

    def test_inventory_leaves_no_trace(self, lab: HypervisorLab, driver: HypervisorDriver) -> None:
        before = lab.traces()
        driver.list_vms()
        driver.vm_info(lab.vm)
        assert lab.traces() == before

    def test_a_vm_that_is_not_there_is_told(self, driver: HypervisorDriver, journal: MemoryJournal) -> None:
        with pytest.raises(VmNotFound):
            driver.vm_info(NOBODY)
        with pytest.raises(VmNotFound):
            driver.create_snapshot(SnapshotRequest(NOBODY, "suite", ("disk",)), journal)
        assert not journal.open

    # Snapshots

    def test_a_snapshot_holds_every_disk_asked_for(
        self, lab: HypervisorLab, driver: HypervisorDriver, journal: MemoryJournal
    ) -> None:
        info = driver.vm_info(lab.vm)
        lab.write(info.disks[0].disk_id, 0, MARK)
        snapshot = self._snapshot(lab, driver, journal)
        assert snapshot.vm == lab.vm
        assert {disk.disk_id: disk.size_bytes for disk in snapshot.disks} == {
            disk.disk_id: disk.size_bytes for disk in info.disks
        }
        content = self._content(lab, snapshot)
        assert content[info.disks[0].disk_id].startswith(MARK)
        assert {disk_id: len(data) for disk_id, data in content.items()} == {
            disk.disk_id: disk.size_bytes for disk in info.disks
        }
        driver.remove_snapshot(snapshot, committed=True, journal=journal)

    def test_a_snapshot_may_take_some_disks_only(
        self, lab: HypervisorLab, driver: HypervisorDriver, journal: MemoryJournal
    ) -> None:
        one = driver.vm_info(lab.vm).disks[-1].disk_id
        snapshot = self._snapshot(lab, driver, journal, (one,))
        assert [disk.disk_id for disk in snapshot.disks] == [one]
        driver.remove_snapshot(snapshot, committed=True, journal=journal)

    def test_urls_are_disk_urls(self, lab: HypervisorLab, driver: HypervisorDriver, journal: MemoryJournal) -> None:
        snapshot = self._snapshot(lab, driver, journal)
        for disk in snapshot.disks:
            assert disk.urls
            assert [str(parse_disk_url(url)) for url in disk.urls] == list(disk.urls)
        driver.remove_snapshot(snapshot, committed=True, journal=journal)

    def test_a_snapshot_is_frozen_against_later_writes(
        self, lab: HypervisorLab, driver: HypervisorDriver, journal: MemoryJournal
    ) -> None:
        if not lab.freezes:
            pytest.skip("this lab's snapshots do not hold against writes")
        disk_ids = [disk.disk_id for disk in driver.vm_info(lab.vm).disks]
        snapshot = self._snapshot(lab, driver, journal)
        before = self._content(lab, snapshot)
        for disk_id in disk_ids:
            lab.write(disk_id, 4096, MARK)
        assert self._content(lab, snapshot) == before
        driver.remove_snapshot(snapshot, committed=True, journal=journal)
        later = self._snapshot(lab, driver, journal)
        for disk_id, data in self._content(lab, later).items():
            assert data == before[disk_id][:4096] + MARK + before[disk_id][4096 + len(MARK) :]
        driver.remove_snapshot(later, committed=True, journal=journal)

    @pytest.mark.parametrize("committed", [True, False])
    def test_removal_leaves_nothing_and_may_come_twice(
        self, lab: HypervisorLab, driver: HypervisorDriver, journal: MemoryJournal, committed: bool
    ) -> None:
        before = lab.traces()
        snapshot = self._snapshot(lab, driver, journal)
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
        first = self._snapshot(lab, driver, journal)
        second = self._snapshot(lab, driver, journal)
        content = self._content(lab, second)
        driver.remove_snapshot(first, committed=True, journal=journal)
        assert self._content(lab, second) == content
        driver.remove_snapshot(second, committed=True, journal=journal)
        assert not journal.open

    # Obligations

    def test_nothing_is_made_before_it_is_promised(self, lab: HypervisorLab, driver: HypervisorDriver) -> None:
        before = lab.traces()
        seen: list[Hashable] = []

        def die(_: Obligation) -> None:
            seen.append(lab.traces())
            raise SuddenDeath

        try:
            snapshot = self._snapshot(lab, driver, MemoryJournal(on_promise=die))
        except SuddenDeath:
            assert seen == [before]
        else:
            driver.remove_snapshot(snapshot, committed=False, journal=MemoryJournal())
        assert lab.traces() == before

    def test_another_process_fulfils_what_a_crash_left(
        self, lab: HypervisorLab, driver: HypervisorDriver, journal: MemoryJournal
    ) -> None:
        before = lab.traces()
        self._snapshot(lab, driver, journal)
        self._fulfil_all_twice(lab, journal)
        assert lab.traces() == before

    def test_a_promise_without_its_act_is_fulfilled_too(
        self, lab: HypervisorLab, driver: HypervisorDriver, journal: MemoryJournal
    ) -> None:
        snapshot = self._snapshot(lab, driver, journal)
        kept = MemoryJournal()
        kept.open = dict(journal.open)
        driver.remove_snapshot(snapshot, committed=False, journal=journal)
        before = lab.traces()
        self._fulfil_all_twice(lab, kept)
        assert lab.traces() == before

    def test_an_obligation_of_another_kind_is_refused(self, lab: HypervisorLab, driver: HypervisorDriver) -> None:
        before = lab.traces()
        with pytest.raises(PlatformError):
            driver.fulfil("holdfast-no-such-kind", {"root": "/", "name": "etc", "path": "/etc"})
        assert lab.traces() == before

    # Restore

    def test_a_restored_vm_is_like_the_original(
        self, lab: HypervisorLab, driver: HypervisorDriver, journal: MemoryJournal
    ) -> None:
        self._needs_restore(lab)
        lab.write(driver.vm_info(lab.vm).disks[1].disk_id, 512, MARK)
        info, content = self._backup(lab, driver, journal)
        before, listed = lab.traces(), set(driver.list_vms())
        target = driver.prepare_restore(RESTORED, info, overwrite=False, journal=journal)
        self._write_all(lab, target, content)
        assert set(driver.list_vms()) == listed, "a VM must not be seen before it is whole"
        restored = driver.finish_restore(target, info, journal)
        assert restored.name == RESTORED
        assert set(driver.list_vms()) == listed | {restored}
        assert not journal.open
        _, again = self._backup(lab, driver, journal, restored)
        assert sorted(again.values()) == sorted(content.values())
        assert lab.traces() != before
        assert self._backup(lab, driver, journal)[1] == content, "the original must be untouched"

    def test_a_restore_does_not_replace_a_vm_unasked(
        self, lab: HypervisorLab, driver: HypervisorDriver, journal: MemoryJournal
    ) -> None:
        self._needs_restore(lab)
        info = driver.vm_info(lab.vm)
        before = lab.traces()
        with pytest.raises(AlreadyExists):
            driver.prepare_restore(lab.vm.name, info, overwrite=False, journal=journal)
        assert lab.traces() == before
        assert not journal.open

    def test_a_restore_replaces_a_vm_when_asked(
        self, lab: HypervisorLab, driver: HypervisorDriver, journal: MemoryJournal
    ) -> None:
        self._needs_restore(lab)
        info, content = self._backup(lab, driver, journal)
        lab.write(info.disks[0].disk_id, 0, MARK)
        count = len(driver.list_vms())
        target = driver.prepare_restore(lab.vm.name, info, overwrite=True, journal=journal)
        self._write_all(lab, target, content)
        restored = driver.finish_restore(target, info, journal)
        assert len(driver.list_vms()) == count
        assert not journal.open
        assert sorted(self._backup(lab, driver, journal, restored)[1].values()) == sorted(content.values())

    @pytest.mark.parametrize("overwrite", [True, False])
    @pytest.mark.parametrize("written", [True, False])
    def test_an_abandoned_restore_leaves_nothing(
        self, lab: HypervisorLab, driver: HypervisorDriver, journal: MemoryJournal, overwrite: bool, written: bool
    ) -> None:
        self._needs_restore(lab)
        info, content = self._backup(lab, driver, journal)
        before = lab.traces()
        name = lab.vm.name if overwrite else RESTORED
        target = driver.prepare_restore(name, info, overwrite, journal)
        if written:
            self._write_all(lab, target, content)
        driver.abandon_restore(target, journal)
        assert lab.traces() == before
        assert not journal.open
        driver.abandon_restore(target, journal)
        assert self._backup(lab, driver, journal)[1] == content

    def test_another_process_clears_a_crashed_restore(
        self, lab: HypervisorLab, driver: HypervisorDriver, journal: MemoryJournal
    ) -> None:
        self._needs_restore(lab)
        info, content = self._backup(lab, driver, journal)
        before = lab.traces()
        self._write_all(lab, driver.prepare_restore(RESTORED, info, overwrite=False, journal=journal), content)
        self._fulfil_all_twice(lab, journal)
        assert lab.traces() == before

    # What the tests are made of

    @staticmethod
    def _needs_restore(lab: HypervisorLab) -> None:
        if not lab.restores:
            pytest.skip("nothing can be restored to this hypervisor")

    @staticmethod
    def _snapshot(
        lab: HypervisorLab,
        driver: HypervisorDriver,
        journal: MemoryJournal,
        disk_ids: tuple[str, ...] | None = None,
        vm: VmRef | None = None,
    ) -> Snapshot:
        vm = vm or lab.vm
        chosen = disk_ids or tuple(disk.disk_id for disk in driver.vm_info(vm).disks)
        return driver.create_snapshot(SnapshotRequest(vm, "suite", chosen, lab.snapshot_options()), journal)

    @staticmethod
    def _content(lab: HypervisorLab, snapshot: Snapshot) -> dict[str, bytes]:
        return {disk.disk_id: lab.read(disk.urls[0]) for disk in snapshot.disks}

    def _backup(
        self, lab: HypervisorLab, driver: HypervisorDriver, journal: MemoryJournal, vm: VmRef | None = None
    ) -> tuple[VmInfo, dict[str, bytes]]:
        """The VM's description and the content of its disks, through a snapshot that is gone again."""
        info = driver.vm_info(vm or lab.vm)
        snapshot = self._snapshot(lab, driver, journal, vm=vm)
        try:
            return info, self._content(lab, snapshot)
        finally:
            driver.remove_snapshot(snapshot, committed=True, journal=journal)

    @staticmethod
    def _write_all(lab: HypervisorLab, target: RestoreTarget, content: dict[str, bytes]) -> None:
        assert {disk.disk_id for disk in target.disks} == set(content)
        for disk in target.disks:
            lab.write_restored(disk, content[disk.disk_id])

    @staticmethod
    def _fulfil_all_twice(lab: HypervisorLab, journal: MemoryJournal) -> None:
        """As the next session does it: in another process, with a driver of its own, the latest first."""
        for _ in range(2):
            other = lab.driver()
            other.connect()
            for obligation in reversed(journal.open.values()):
                other.fulfil(obligation.kind, obligation.data)
            other.close()
