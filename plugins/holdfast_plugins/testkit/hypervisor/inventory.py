"""What a driver tells of its VMs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from holdfast_agent.errors import VmNotFound
from holdfast_plugins.api import HypervisorDriver, SnapshotRequest, VmInfo, VmRef

from ..journal import MemoryJournal
from ..lab import HypervisorLab
from .acts import LONGEST_ID, MAX_CONFIG_BYTES, NOBODY, Suite, connected, disk_ids, take

_GREW_BY = 1 << 20
_ODD_IDS = ("", ".", "..", "../web", "/", "/etc", "a\0b", "x" * 5000, "\n", "*", "'; true")


class InventorySuite(Suite):
    """VMs and disks keep their identity, whatever happens to them."""

    def test_the_vm_is_listed_once_and_described(self, lab: HypervisorLab, driver: HypervisorDriver) -> None:
        assert list(driver.list_vms()).count(lab.vm) == 1
        info = driver.vm_info(lab.vm)
        assert info.ref == lab.vm
        assert len(info.disks) >= 2, "the lab's VM must have two disks"
        assert len({disk.disk_id for disk in info.disks}) == len(info.disks)
        assert all(disk.size_bytes > 0 for disk in info.disks)
        assert len(info.config) <= MAX_CONFIG_BYTES
        assert driver.vm_info(lab.vm) == info

    def test_no_two_vms_have_one_id(self, driver: HypervisorDriver) -> None:
        ids = [vm.vm_id for vm in driver.list_vms()]
        assert len(set(ids)) == len(ids)

    def test_ids_and_names_can_be_stored_and_shown(self, lab: HypervisorLab, driver: HypervisorDriver) -> None:
        info = driver.vm_info(lab.vm)
        texts = [text for vm in driver.list_vms() for text in (vm.vm_id, vm.name)]
        texts += [text for disk in info.disks for text in (disk.disk_id, disk.name)]
        for text in texts:
            assert 0 < len(text) <= LONGEST_ID
            assert text.isprintable(), f"{text!r} would spoil a terminal"
        for text in (info.host, *(disk.datastore for disk in info.disks)):
            assert len(text) <= LONGEST_ID
            assert text.isprintable()

    def test_the_description_comes_through_storage(self, lab: HypervisorLab, driver: HypervisorDriver) -> None:
        info = driver.vm_info(lab.vm)
        assert msgspec.json.decode(msgspec.json.encode(info), type=VmInfo) == info

    def test_another_driver_tells_the_same(self, lab: HypervisorLab, driver: HypervisorDriver) -> None:
        with connected(lab) as other:
            assert sorted(map(repr, other.list_vms())) == sorted(map(repr, driver.list_vms()))
            assert other.vm_info(lab.vm) == driver.vm_info(lab.vm)

    def test_a_vm_is_found_by_its_id_not_by_its_name(self, lab: HypervisorLab, driver: HypervisorDriver) -> None:
        """A VM was renamed since the job listed it."""
        info = driver.vm_info(VmRef(lab.vm.vm_id, "holdfast-a-former-name"))
        assert info.ref == lab.vm, "the id decides, and the name that is told is today's"
        with pytest.raises(VmNotFound):
            driver.vm_info(VmRef(NOBODY.vm_id, lab.vm.name))

    def test_a_vm_that_is_not_there_is_told(self, driver: HypervisorDriver, journal: MemoryJournal) -> None:
        with pytest.raises(VmNotFound):
            driver.vm_info(NOBODY)
        with pytest.raises(VmNotFound):
            driver.create_snapshot(SnapshotRequest(NOBODY, "suite", ("disk",)), journal)
        assert not journal.open

    def test_an_odd_id_is_no_vm(self, driver: HypervisorDriver) -> None:
        for vm_id in _ODD_IDS:
            with pytest.raises(VmNotFound):
                driver.vm_info(VmRef(vm_id, "odd"))

    def test_inventory_leaves_no_trace(self, lab: HypervisorLab, driver: HypervisorDriver) -> None:
        before = lab.traces()
        driver.list_vms()
        driver.vm_info(lab.vm)
        assert lab.traces() == before

    def test_several_threads_may_ask(self, lab: HypervisorLab, driver: HypervisorDriver) -> None:
        """Not for one VM, but the list is everybody's."""
        expected = sorted(map(repr, driver.list_vms()))
        with ThreadPoolExecutor(8) as threads:
            for listed in threads.map(lambda _: sorted(map(repr, driver.list_vms())), range(24)):
                assert listed == expected

    def test_disks_are_the_same_while_there_is_a_snapshot(
        self, lab: HypervisorLab, driver: HypervisorDriver, journal: MemoryJournal
    ) -> None:
        """Some hypervisors write to another file meanwhile."""
        before = driver.vm_info(lab.vm).disks
        snapshot = take(lab, driver, journal)
        during = driver.vm_info(lab.vm).disks
        driver.remove_snapshot(snapshot, committed=True, journal=journal)
        assert during == before
        assert driver.vm_info(lab.vm).disks == before

    def test_disks_keep_their_ids_when_others_come_and_go(self, lab: HypervisorLab, driver: HypervisorDriver) -> None:
        if not lab.plugs_disks:
            pytest.skip("the lab plugs no disks")
        before = driver.vm_info(lab.vm).disks
        plugged = lab.plug()
        during = driver.vm_info(lab.vm).disks
        assert {disk.disk_id for disk in during} == {plugged, *(disk.disk_id for disk in before)}
        assert [disk for disk in during if disk.disk_id != plugged] == list(before)
        lab.unplug(plugged)
        assert driver.vm_info(lab.vm).disks == before

    def test_a_disk_that_grew_is_the_same_disk(
        self, lab: HypervisorLab, driver: HypervisorDriver, journal: MemoryJournal
    ) -> None:
        if not lab.resizes:
            pytest.skip("the lab resizes no disks")
        before = {disk.disk_id: disk.size_bytes for disk in driver.vm_info(lab.vm).disks}
        grown, *_ = before
        lab.grow(grown, before[grown] + _GREW_BY)
        sizes = {disk.disk_id: disk.size_bytes for disk in driver.vm_info(lab.vm).disks}
        assert sizes == before | {grown: before[grown] + _GREW_BY}
        snapshot = take(lab, driver, journal)
        assert {disk.disk_id: disk.size_bytes for disk in snapshot.disks} == sizes
        assert {disk.disk_id: len(lab.read(disk.urls[0])) for disk in snapshot.disks} == sizes
        driver.remove_snapshot(snapshot, committed=True, journal=journal)
        assert disk_ids(driver, lab.vm) == tuple(before)
