"""Snapshots over vSphere: whatever goes wrong, at whichever step, ends in the right words and leaves nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from holdfast_agent.errors import DiskUnsupported, SnapshotFailed, SnapshotNotRemoved
from holdfast_plugins.api import ConsistencyLevel, Snapshot, SnapshotRequest, VmRef
from holdfast_plugins.hypervisors.tracking_names import new_tracking_name
from holdfast_plugins.hypervisors.vsphere import (
    Quiesce,
    VsphereDriver,
    VsphereSnapshotOptions,
    datastores,
    removal,
    space_guard,
)
from holdfast_plugins.testkit import MemoryJournal
from lab.vcenter import Fault, LabVm, VCenter, vcenter
from lab.vsphere_backups import connected, machine_of, reconfigured, run_task, service_of

MIB = 1 << 20
DISKS = ("scsi0:0", "scsi0:1")


@pytest.fixture(scope="module")
def center() -> Iterator[VCenter]:
    with vcenter() as made:
        yield made


@pytest.fixture
def vm(center: VCenter, request: pytest.FixtureRequest) -> LabVm:
    return center.create(request.node.name, [2 * MIB, MIB])


@pytest.fixture
def driver(center: VCenter, vm: LabVm, monkeypatch: pytest.MonkeyPatch) -> Iterator[VsphereDriver]:
    """One that is not patient, as nothing here takes its time; nothing is left when it is closed."""
    monkeypatch.setattr(removal, "_PAUSES_S", (0.01, 0.01, 0.01))
    with connected(center) as made:
        yield made
    center.assert_clean()


@pytest.fixture
def journal() -> MemoryJournal:
    return MemoryJournal()


def ref_of(driver: VsphereDriver, vm: LabVm) -> VmRef:
    return next(each for each in driver.list_vms() if each.name == vm.name)


def take(driver: VsphereDriver, vm: LabVm, journal: MemoryJournal, quiesce: Quiesce = Quiesce.NO) -> Snapshot:
    options = VsphereSnapshotOptions(quiesce)
    return driver.create_snapshot(SnapshotRequest(ref_of(driver, vm), "holdfast job 7", DISKS, options, "one"), journal)


def fulfil(driver: VsphereDriver, journal: MemoryJournal) -> None:
    for obligation in journal.open.values():
        driver.fulfil(obligation.kind, obligation.data)


# --- making one -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        Fault("CreateSnapshotEx_Task", "FileFault"),
        Fault("CreateSnapshotEx_Task", "SnapshotFault", after=True),
        Fault("CreateSnapshotEx_Task", "InvalidState", call=True),
        Fault("CreateSnapshotEx_Task", "NoPermission", call=True),
    ],
    ids=["fails", "fails late", "is refused", "is not permitted"],
)
def test_a_snapshot_that_fails_leaves_nothing(
    center: VCenter, driver: VsphereDriver, vm: LabVm, journal: MemoryJournal, fault: Fault
) -> None:
    with (
        center.faults(fault),
        pytest.raises(SnapshotFailed, match=fault.fault if fault.fault != "NoPermission" else "lacks"),
    ):
        take(driver, vm, journal)
    assert not journal.open
    center.assert_clean(sessions=1)
    driver.remove_snapshot(take(driver, vm, journal), True, journal)


def test_a_snapshot_that_takes_too_long_is_left_to_who_comes_next(
    center: VCenter, vm: LabVm, journal: MemoryJournal
) -> None:
    with connected(center, task_timeout=1) as driver:
        slow = Fault("CreateSnapshotEx_Task", delay_ms=1500)
        with center.faults(slow), pytest.raises(SnapshotFailed, match="has not gone on for 1 s"):
            take(driver, vm, journal)
        assert len(journal.open) == 1
        fulfil(driver, journal)
    center.assert_clean()


def test_a_session_that_ends_in_the_middle_of_a_call_is_no_failure(
    center: VCenter, driver: VsphereDriver, vm: LabVm, journal: MemoryJournal
) -> None:
    methods = ("CreateSnapshotEx_Task", "ReconfigVM_Task", "RemoveSnapshot_Task", "RetrievePropertiesEx")
    with center.faults(*(Fault(method, "NotAuthenticated", call=True) for method in methods)):
        driver.remove_snapshot(take(driver, vm, journal), True, journal)
    center.expire_sessions()  # those that the faults only pretended to have ended


def test_tracking_that_cannot_be_switched_on_costs_no_backup(
    center: VCenter, driver: VsphereDriver, vm: LabVm, journal: MemoryJournal
) -> None:
    with center.faults(Fault("ReconfigVM_Task", "InvalidState")):
        snapshot = take(driver, vm, journal)
    assert [disk.change_id for disk in snapshot.disks] == [None, None]
    driver.remove_snapshot(snapshot, True, journal)
    again = take(driver, vm, journal)
    assert all(disk.change_id for disk in again.disks)
    driver.remove_snapshot(again, True, journal)


@pytest.mark.parametrize("late", [False, True])
def test_a_guest_that_cannot_be_quiesced(
    center: VCenter, driver: VsphereDriver, vm: LabVm, journal: MemoryJournal, late: bool
) -> None:
    """``late``: VMware Tools fail when the snapshot is there already."""
    reconfigured(center, vm, {"SET.guest.toolsRunningStatus": "guestToolsRunning"})
    fault = Fault("CreateSnapshotEx_Task", "ApplicationQuiesceFault", quiesce=True, after=late)
    with center.faults(fault), pytest.raises(SnapshotFailed, match="ApplicationQuiesceFault"):
        take(driver, vm, journal, Quiesce.REQUIRE)
    assert not journal.open
    with center.faults(fault):
        snapshot = take(driver, vm, journal, Quiesce.TRY)
    assert snapshot.consistency is ConsistencyLevel.CRASH
    assert "could not quiesce the guest" in snapshot.note
    driver.remove_snapshot(snapshot, True, journal)
    quiet = take(driver, vm, journal, Quiesce.REQUIRE)
    assert (quiet.consistency, quiet.note) == (ConsistencyLevel.FILE_SYSTEM, "snapshot, quiesced by VMware Tools")
    driver.remove_snapshot(quiet, True, journal)


def test_without_tools_nothing_is_said_to_be_quiesced(driver: VsphereDriver, vm: LabVm, journal: MemoryJournal) -> None:
    with pytest.raises(SnapshotFailed, match="VMware Tools do not run"):
        take(driver, vm, journal, Quiesce.REQUIRE)
    snapshot = take(driver, vm, journal, Quiesce.TRY)
    assert (snapshot.consistency, snapshot.note) == (
        ConsistencyLevel.CRASH,
        "snapshot; VMware Tools do not run in the guest",
    )
    driver.remove_snapshot(snapshot, True, journal)


# --- caps -------------------------------------------------------------------------------------------------------------


def test_a_full_datastore_gets_no_snapshot(
    center: VCenter, vm: LabVm, journal: MemoryJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datastores, "_SHARE_OF_SMALL", 2.0)  # no datastore has twice its size free
    with connected(center, min_free_gib=1 << 30) as driver, pytest.raises(SnapshotFailed, match="GiB are to stay so"):
        take(driver, vm, journal)
    assert not journal.open
    center.assert_clean()


def test_a_snapshot_is_given_up_when_room_runs_out(
    center: VCenter, driver: VsphereDriver, vm: LabVm, journal: MemoryJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = take(driver, vm, journal)
    driver._snapshots._guard.look()
    driver.check_snapshot(snapshot)
    monkeypatch.setattr(space_guard, "short_of_room", lambda *_: "datastore LocalDS_0 has 0.1 GiB free")
    driver._snapshots._guard.look()
    assert not center.state()["machines"][vm.name]["snapshots"], "the VM comes first"
    with pytest.raises(SnapshotFailed, match="it was given up: datastore LocalDS_0 has"):
        driver.check_snapshot(snapshot)
    driver.remove_snapshot(snapshot, False, journal)
    assert not journal.open


def test_snapshots_of_others_are_counted_and_never_touched(center: VCenter, vm: LabVm, journal: MemoryJournal) -> None:
    foreign(center, vm, "before the update")
    with (
        connected(center, max_snapshots=1) as driver,
        pytest.raises(SnapshotFailed, match="it has 1 snapshots"),
    ):
        take(driver, vm, journal)
    with connected(center) as driver, pytest.raises(DiskUnsupported, match="somebody else"):
        take(driver, vm, journal)
    assert not journal.open
    assert center.state()["machines"][vm.name]["snapshots"] == 1
    remove_all(center, vm)
    center.assert_clean()


def test_a_snapshot_that_others_took_over_ours_stays(
    center: VCenter, driver: VsphereDriver, vm: LabVm, journal: MemoryJournal
) -> None:
    snapshot = take(driver, vm, journal)
    foreign(center, vm, "in between")
    driver.remove_snapshot(snapshot, True, journal)
    assert not journal.open
    assert center.state()["machines"][vm.name]["snapshots"] == 1
    remove_all(center, vm)


def test_our_own_that_are_too_old_are_removed_and_make_no_point(
    center: VCenter, vm: LabVm, journal: MemoryJournal
) -> None:
    foreign(center, vm, str(new_tracking_name("lost")))
    with connected(center, max_snapshot_hours=1e-9) as driver:
        snapshot = take(driver, vm, journal)
        assert center.state()["machines"][vm.name]["snapshots"] == 1
        with pytest.raises(SnapshotFailed, match="max_snapshot_hours"):
            driver.check_snapshot(snapshot)
        driver.remove_snapshot(snapshot, False, journal)
    center.assert_clean()


def test_a_snapshot_that_somebody_removed_makes_no_point(
    center: VCenter, driver: VsphereDriver, vm: LabVm, journal: MemoryJournal
) -> None:
    snapshot = take(driver, vm, journal)
    remove_all(center, vm)
    with pytest.raises(SnapshotFailed, match="somebody has removed it"):
        driver.check_snapshot(snapshot)
    driver.remove_snapshot(snapshot, False, journal)
    assert not journal.open


# --- removing one -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "faults",
    [
        [Fault("RemoveSnapshot_Task", "FileLocked", count=3)],
        [Fault("RemoveSnapshot_Task", "FileFault", after=True)],
        [Fault("RemoveSnapshot_Task", "InvalidState", call=True)],
        [Fault("RemoveSnapshot_Task", "ConsolidationNeeded")],
        [Fault("RemoveSnapshot_Task", "ConsolidationNeeded"), Fault("ConsolidateVMDisks_Task", "FileLocked", count=3)],
        [Fault("RemoveSnapshot_Task", delay_ms=300)],
    ],
    ids=["locked", "fails late", "busy", "deltas left", "deltas locked", "slow"],
)
def test_a_removal_goes_on_until_nothing_is_left(
    center: VCenter, driver: VsphereDriver, vm: LabVm, journal: MemoryJournal, faults: list[Fault]
) -> None:
    snapshot = take(driver, vm, journal)
    with center.faults(*faults):
        driver.remove_snapshot(snapshot, True, journal)
    assert not journal.open
    center.assert_clean(sessions=1)


@pytest.mark.parametrize(
    "faults",
    [
        [Fault("RemoveSnapshot_Task", "FileLocked", count=0)],
        [Fault("RemoveSnapshot_Task", "NoPermission", call=True)],
        [Fault("RemoveSnapshot_Task", "ConsolidationNeeded"), Fault("ConsolidateVMDisks_Task", "FileLocked", count=0)],
    ],
    ids=["locked", "not permitted", "deltas locked"],
)
def test_what_cannot_be_removed_now_stays_promised_and_goes_later(
    center: VCenter, driver: VsphereDriver, vm: LabVm, journal: MemoryJournal, faults: list[Fault]
) -> None:
    snapshot = take(driver, vm, journal)
    with center.faults(*faults), pytest.raises(SnapshotNotRemoved):
        driver.remove_snapshot(snapshot, True, journal)
    assert len(journal.open) == 1
    with connected(center) as other:
        fulfil(other, journal)
        fulfil(other, journal)
    center.assert_clean(sessions=1)
    driver.remove_snapshot(snapshot, True, journal)
    assert not journal.open


def test_deltas_that_somebody_left_are_merged_before_a_snapshot(
    center: VCenter, driver: VsphereDriver, vm: LabVm, journal: MemoryJournal
) -> None:
    foreign(center, vm, "of others")
    with center.faults(Fault("RemoveAllSnapshots_Task", "ConsolidationNeeded")):
        remove_all(center, vm)
    assert center.state()["machines"][vm.name]["consolidation_needed"]
    driver.remove_snapshot(take(driver, vm, journal), True, journal)


def test_a_snapshot_that_is_still_being_made_is_waited_for(
    center: VCenter, driver: VsphereDriver, vm: LabVm, journal: MemoryJournal
) -> None:
    """As a session leaves it that is killed right after it asked for one."""
    name = str(new_tracking_name("one"))
    journal.promise("vsphere-snapshot", {"vm": ref_of(driver, vm).vm_id, "vm_name": vm.name, "name": name})
    with center.faults(Fault("CreateSnapshotEx_Task", delay_ms=400)):
        with service_of(center) as service:
            machine_of(service, vm).CreateSnapshotEx_Task(name, "", False)
        fulfil(driver, journal)
    center.assert_clean(sessions=1)


def test_a_vm_that_is_gone_took_its_snapshot_with_it(
    center: VCenter, driver: VsphereDriver, vm: LabVm, journal: MemoryJournal
) -> None:
    snapshot = take(driver, vm, journal)
    with service_of(center) as service:
        run_task(machine_of(service, vm).PowerOffVM_Task())
        run_task(machine_of(service, vm).Destroy_Task())
    driver.remove_snapshot(snapshot, False, journal)
    assert not journal.open


# --- what others do on the server -------------------------------------------------------------------------------------


def foreign(center: VCenter, vm: LabVm, name: str) -> None:
    with service_of(center) as service:
        run_task(machine_of(service, vm).CreateSnapshotEx_Task(name, "", False))


def remove_all(center: VCenter, vm: LabVm) -> None:
    with service_of(center) as service:
        run_task(machine_of(service, vm).RemoveAllSnapshots_Task())
