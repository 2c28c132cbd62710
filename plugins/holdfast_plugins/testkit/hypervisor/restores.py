"""What a restore makes, and what a failed one leaves."""

from __future__ import annotations

from contextlib import suppress

import msgspec
import pytest

from holdfast_agent.errors import AlreadyExists, HoldfastError
from holdfast_agent.model.disk_url import parse_disk_url
from holdfast_plugins.api import HypervisorDriver, RestoreTarget, VmInfo, VmRef

from ..journal import MemoryJournal, MortalJournal, SuddenDeath
from ..lab import HypervisorLab
from .acts import (
    MARK,
    RESTORED,
    Content,
    Suite,
    back_up,
    connected,
    fulfil_twice,
    needs_restore,
    only_typed_errors,
    write_all,
)

ODD_NAMES = ("", ".", "..", "../web", "a/b", "/etc", "a\0b", "a\nb", "x" * 300)


class RestoreSuite(Suite):
    """A restored VM is whole and under its name, or it is not there at all."""

    @pytest.fixture(autouse=True)
    def lab_that_restores(self, lab: HypervisorLab, request: pytest.FixtureRequest) -> None:
        if request.function.__qualname__.startswith(RestoreSuite.__name__):
            needs_restore(lab)

    def test_a_restored_vm_is_like_the_original(
        self, lab: HypervisorLab, driver: HypervisorDriver, journal: MemoryJournal
    ) -> None:
        lab.write(driver.vm_info(lab.vm).disks[1].disk_id, 512, MARK)
        info, content = back_up(lab, driver, journal)
        before, listed = lab.traces(), set(driver.list_vms())
        target = driver.prepare_restore(RESTORED, info, overwrite=False, journal=journal)
        write_all(lab, target, content)
        assert set(driver.list_vms()) == listed, "a VM must not be seen before it is whole"
        restored = driver.finish_restore(target, info, journal)
        assert restored.name == RESTORED
        assert set(driver.list_vms()) == listed | {restored}
        assert not journal.open
        _, again = back_up(lab, driver, journal, restored)
        assert sorted(again.values()) == sorted(content.values())
        assert lab.traces() != before
        assert back_up(lab, driver, journal)[1] == content, "the original must be untouched"

    def test_a_restored_vm_has_its_disks_in_their_order(
        self, lab: HypervisorLab, driver: HypervisorDriver, journal: MemoryJournal
    ) -> None:
        info, content = back_up(lab, driver, journal)
        restored = driver.vm_info(_restore(lab, driver, journal, info, content))
        assert [disk.size_bytes for disk in restored.disks] == [disk.size_bytes for disk in info.disks]
        assert not restored.running, "whether it is started is its owner's business"

    def test_places_of_disks_are_disk_urls_each_its_own(
        self, lab: HypervisorLab, driver: HypervisorDriver, journal: MemoryJournal
    ) -> None:
        info = driver.vm_info(lab.vm)
        target = driver.prepare_restore(RESTORED, info, overwrite=False, journal=journal)
        assert {disk.disk_id: disk.size_bytes for disk in target.disks} == {
            disk.disk_id: disk.size_bytes for disk in info.disks
        }
        assert [str(parse_disk_url(disk.url)) for disk in target.disks] == [disk.url for disk in target.disks]
        assert len({disk.url for disk in target.disks}) == len(target.disks)
        driver.abandon_restore(target, journal)

    def test_a_restore_does_not_replace_a_vm_unasked(
        self, lab: HypervisorLab, driver: HypervisorDriver, journal: MemoryJournal
    ) -> None:
        info = driver.vm_info(lab.vm)
        before = lab.traces()
        with pytest.raises(AlreadyExists):
            driver.prepare_restore(lab.vm.name, info, overwrite=False, journal=journal)
        assert lab.traces() == before
        assert not journal.open

    def test_of_two_restores_to_one_name_one_comes_first(
        self, lab: HypervisorLab, driver: HypervisorDriver, journal: MemoryJournal
    ) -> None:
        info, content = back_up(lab, driver, journal)
        late = driver.prepare_restore(RESTORED, info, overwrite=False, journal=journal)
        write_all(lab, late, content)
        with connected(lab) as other:
            try:
                _restore(lab, other, MemoryJournal(), info, content)
            except AlreadyExists:  # its name is taken from the first moment on
                driver.abandon_restore(late, journal)
                return
        after_first = lab.traces()
        with pytest.raises(AlreadyExists):
            driver.finish_restore(late, info, journal)
        driver.abandon_restore(late, journal)
        assert [vm.name for vm in driver.list_vms()].count(RESTORED) == 1
        assert lab.traces() != after_first, "what the late one had prepared is gone"
        assert not journal.open

    def test_a_restore_replaces_a_vm_when_asked(
        self, lab: HypervisorLab, driver: HypervisorDriver, journal: MemoryJournal
    ) -> None:
        info, content = back_up(lab, driver, journal)
        lab.write(info.disks[0].disk_id, 0, MARK)
        count = len(driver.list_vms())
        target = driver.prepare_restore(lab.vm.name, info, overwrite=True, journal=journal)
        write_all(lab, target, content)
        restored = driver.finish_restore(target, info, journal)
        assert len(driver.list_vms()) == count
        assert not journal.open
        assert sorted(back_up(lab, driver, journal, restored)[1].values()) == sorted(content.values())

    def test_a_restored_vm_can_be_replaced_again(
        self, lab: HypervisorLab, driver: HypervisorDriver, journal: MemoryJournal
    ) -> None:
        info, content = back_up(lab, driver, journal)
        _restore(lab, driver, journal, info, content)
        before = lab.traces(), len(driver.list_vms())
        restored = _restore(lab, driver, journal, info, content, overwrite=True)
        assert len(driver.list_vms()) == before[1]
        assert sorted(back_up(lab, driver, journal, restored)[1].values()) == sorted(content.values())

    @pytest.mark.parametrize("overwrite", [True, False])
    @pytest.mark.parametrize("written", [True, False])
    def test_an_abandoned_restore_leaves_nothing(
        self, lab: HypervisorLab, driver: HypervisorDriver, journal: MemoryJournal, overwrite: bool, written: bool
    ) -> None:
        info, content = back_up(lab, driver, journal)
        before = lab.traces()
        name = lab.vm.name if overwrite else RESTORED
        target = driver.prepare_restore(name, info, overwrite, journal)
        if written:
            write_all(lab, target, content)
        driver.abandon_restore(target, journal)
        assert lab.traces() == before
        assert not journal.open
        driver.abandon_restore(target, journal)
        assert back_up(lab, driver, journal)[1] == content

    def test_another_process_clears_a_crashed_restore(
        self, lab: HypervisorLab, driver: HypervisorDriver, journal: MemoryJournal
    ) -> None:
        info, content = back_up(lab, driver, journal)
        before = lab.traces()
        write_all(lab, driver.prepare_restore(RESTORED, info, overwrite=False, journal=journal), content)
        fulfil_twice(lab, list(journal.open.values()))
        assert lab.traces() == before

    @pytest.mark.parametrize("end", ["finish", "abandon"])
    def test_a_restore_may_die_at_any_moment(self, lab: HypervisorLab, driver: HypervisorDriver, end: str) -> None:
        """Then there is the whole VM or none."""
        info, content = back_up(lab, driver, MemoryJournal())
        before = lab.traces()
        for moment in range(100):
            journal = MortalJournal(moment)
            _die_in_restore(lab, journal, RESTORED, info, content, end)
            fulfil_twice(lab, list(journal.open.values()))
            there = [vm for vm in driver.list_vms() if vm.name == RESTORED]
            if there:
                assert sorted(back_up(lab, driver, MemoryJournal(), there[0])[1].values()) == sorted(content.values())
                return  # made for good; every moment before was tried
            assert lab.traces() == before, f"what was left after moment {moment} was not removed"
            if not journal.died:
                return
        raise AssertionError("it promises without end")

    def test_a_vm_that_is_being_replaced_is_never_lost(self, lab: HypervisorLab, driver: HypervisorDriver) -> None:
        """Whenever the session dies there is one VM of that name afterwards, the old or the new, whole."""
        info, old = back_up(lab, driver, MemoryJournal())
        first = info.disks[0].disk_id
        new = old | {first: MARK + old[first][len(MARK) :]}
        count = len(driver.list_vms())
        for moment in range(100):
            journal = MortalJournal(moment)
            _die_in_restore(lab, journal, lab.vm.name, info, new, "finish", overwrite=True)
            fulfil_twice(lab, list(journal.open.values()))
            vms = driver.list_vms()
            there = [vm for vm in vms if vm.name == lab.vm.name]
            assert (len(there), len(vms)) == (1, count), f"after moment {moment} there is {there}"
            found = sorted(back_up(lab, driver, MemoryJournal(), there[0])[1].values())
            assert found in (sorted(old.values()), sorted(new.values()))
            if not journal.died or found == sorted(new.values()):
                return
        raise AssertionError("it promises without end")

    def test_an_odd_name_harms_nothing(
        self, lab: HypervisorLab, driver: HypervisorDriver, journal: MemoryJournal
    ) -> None:
        info, before = driver.vm_info(lab.vm), lab.traces()
        for name in ODD_NAMES:
            with only_typed_errors(f"prepare_restore as {name[:20]!r}"):
                driver.abandon_restore(driver.prepare_restore(name, info, overwrite=False, journal=journal), journal)
            assert lab.traces() == before
            assert not journal.open

    @pytest.mark.parametrize("config", [b"", b'{"kind": "another hypervisor"}'])
    def test_a_description_of_another_making_is_no_crash(
        self, lab: HypervisorLab, driver: HypervisorDriver, journal: MemoryJournal, config: bytes
    ) -> None:
        """A point may be of another kind of hypervisor: its disks are restored all the same, or it is told why not."""
        info, content = back_up(lab, driver, journal)
        strange = msgspec.structs.replace(info, config=config)
        before = lab.traces()
        with only_typed_errors("the restore"):
            target = driver.prepare_restore(RESTORED, strange, overwrite=False, journal=journal)
            write_all(lab, target, content)
            try:
                restored = driver.finish_restore(target, strange, journal)
            except HoldfastError:
                driver.abandon_restore(target, journal)
                raise
            assert sorted(back_up(lab, driver, journal, restored)[1].values()) == sorted(content.values())
            return
        assert lab.traces() == before
        assert not journal.open


def _restore(
    lab: HypervisorLab,
    driver: HypervisorDriver,
    journal: MemoryJournal,
    info: VmInfo,
    content: Content,
    *,
    overwrite: bool = False,
) -> VmRef:
    target: RestoreTarget = driver.prepare_restore(RESTORED, info, overwrite=overwrite, journal=journal)
    write_all(lab, target, content)
    return driver.finish_restore(target, info, journal)


def _die_in_restore(
    lab: HypervisorLab,
    journal: MortalJournal,
    name: str,
    info: VmInfo,
    content: Content,
    end: str,
    *,
    overwrite: bool = False,
) -> None:
    with connected(lab) as mortal, suppress(SuddenDeath):
        target = mortal.prepare_restore(name, info, overwrite, journal)
        write_all(lab, target, content)
        if end == "abandon":
            mortal.abandon_restore(target, journal)
        else:
            mortal.finish_restore(target, info, journal)
